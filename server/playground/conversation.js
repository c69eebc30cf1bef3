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
    const counted = this.counted;
    /** @type {Turn} */
    const turn = {
      said,
      body: this.#body(said, counted.length === 0),
      idempotencyKey: randomId(),
      status: "running",
      line: "",
      before: this.feelings,
      after: this.feelings,
      decided: null,
      answer: null,
      problem: null,
      history: counted.map(({ said: player, line: npc }) => ({ player, npc })),
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

  /** @param {string} said @param {boolean} isFirst */
  #body(said, isFirst) {
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
      ...(isFirst && { dialogue_history: [] }),
      stream: true,
      explain: true,
    };
  }
}

/** @param {Record<string, string>} fields */
function present(fields) {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value));
}
