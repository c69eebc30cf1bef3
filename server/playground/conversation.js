/** A conversation as the page keeps it: the state of the game, and the turns so far. */

/**
 * @typedef {{trust: number, relationship: number, npc_mood: string, quest_stage: string,
 *   location: string, items: string[], actions: string[], reputation: string}} GameState
 * @typedef {{trust: number, relationship: number}} Feelings
 * @typedef {"running" | "done" | "stopped" | "failed"} Status
 * @typedef {{said: string, body: any, idempotencyKey: string, status: Status, line: string,
 *   before: Feelings, after: Feelings, decided: any, answer: any, problem: any,
 *   history: {player: string, npc: string}[]}} Turn
 */

export const FEELINGS = /** @type {const} */ (["trust", "relationship"]);

/** @param {number} value */
export const clamp = (value) => Math.max(-1, Math.min(1, Math.round(value * 1000) / 1000));

/** @returns {string} also where the page is not served over HTTPS, which randomUUID asks for */
export function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {any} npc an entry of `GET /npcs` @returns {GameState} */
export function initialState(npc) {
  const { trust = 0, relationship = 0, npc_mood = "neutral" } = npc.initial_state ?? {};
  return {
    trust,
    relationship,
    npc_mood,
    quest_stage: npc.stages?.[0] ?? "",
    location: npc.locations?.[0] ?? "",
    items: [],
    actions: [],
    reputation: npc.reputations?.[0] ?? "unknown",
  };
}

export class Conversation {
  /** @param {any} npc */
  constructor(npc) {
    this.npc = npc;
    this.sessionId = `playground-${randomId()}`;
    this.state = initialState(npc);
    /** @type {Turn[]} */
    this.turns = [];
    /** @type {Set<string>} */
    this.applied = new Set();
    /** Whether the server may remember other turns, or more of a line, than stand here. */
    this.mayDiffer = false;
  }

  /** @returns {Feelings} */
  get feelings() {
    return { trust: this.state.trust, relationship: this.state.relationship };
  }

  /** What the NPC felt before the first word. @returns {Feelings} */
  get start() {
    return this.counted[0]?.before ?? this.feelings;
  }

  /** The turns that the server counts: those whose state was sent. */
  get counted() {
    return this.turns.filter((turn) => turn.decided);
  }

  /** @param {string} said @returns {Turn} */
  begin(said) {
    /** @type {Turn} */
    const turn = {
      said,
      ...this.#request(said),
      status: "running",
      line: "",
      before: this.feelings,
      after: this.feelings,
      decided: null,
      answer: null,
      problem: null,
    };
    this.turns.push(turn);
    return turn;
  }

  /**
   * What was decided; applied once, by `turn_id`.
   * @param {Turn} turn
   * @param {any} decided the event `state`
   */
  decide(turn, decided) {
    turn.decided = decided;
    if (this.applied.has(decided.turn_id)) return;
    this.applied.add(decided.turn_id);
    for (const name of FEELINGS) {
      this.state[name] = clamp(this.state[name] + (decided.delta[name] ?? 0));
    }
    turn.after = this.feelings;
  }

  /**
   * How a turn ended. One with an `Idempotency-Key` goes on at the server without us, so after any
   * that is not whole here the history goes along: it is the authority.
   * @param {Turn} turn
   * @param {"done" | "stopped" | "failed"} status
   * @param {any} [problem]
   */
  end(turn, status, problem = null) {
    Object.assign(turn, { status, problem });
    if (status !== "done") this.mayDiffer = true;
  }

  /**
   * The turn is to be asked once more, and is the last one then. If it failed and nothing was said
   * since, it is the same request, for which the server gives the same answer, should it have one.
   * Otherwise it is another, whose history takes back what the server made of the first.
   * @param {Turn} turn one that was not decided
   */
  again(turn) {
    const isSame = turn.status === "failed" && turn === this.turns.at(-1);
    if (!isSame) Object.assign(turn, this.#request(turn.said));
    this.turns = [...this.turns.filter((other) => other !== turn), turn];
    Object.assign(turn, {
      status: "running",
      problem: null,
      line: "",
      before: this.feelings,
      after: this.feelings,
    });
  }

  /** What is sent, as things stand now. @param {string} said */
  #request(said) {
    const history = this.counted.map(({ said: player, line: npc }) => ({ player, npc }));
    return { body: this.#body(said, history), idempotencyKey: randomId(), history };
  }

  /** @param {string} said @param {Turn["history"]} history */
  #body(said, history) {
    const { quest_stage, location, items, actions, reputation, npc_mood } = this.state;
    return {
      text: said,
      npc_id: this.npc.npc_id,
      player_id: "playground",
      session_id: this.sessionId,
      context: {
        game_state: present({ quest_stage, location }),
        player_state: { items: [...items], actions: [...actions], ...present({ reputation }) },
        npc_state: { ...this.feelings, ...present({ npc_mood }) },
      },
      ...((this.mayDiffer || !history.length) && { dialogue_history: history }),
      stream: true,
      explain: true,
    };
  }
}

/** @param {Record<string, string>} fields */
function present(fields) {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value));
}
