/**
 * What a player says to an NPC: the request is built from the game's data, and what comes of it is
 * written back exactly once.
 *
 * A turn is applied in one transaction the moment its `state` is there, under its `turn_id`. What a
 * player said is known by its `say_id`, as long as the conversation's history goes back to it. Said
 * again (the player's connection broke, this process was killed) it is asked for with the same body
 * and so the same `Idempotency-Key`, for which the engine gives the same turn. Where nothing was
 * applied and the game has changed meanwhile, both are others and the engine decides anew. Whatever
 * it gives, one utterance changes the game once.
 */

import { createHash, randomUUID } from 'node:crypto';

import { EFFECTS, moved } from './effects.js';
import { GameError } from './game.js';
import { PersonaError } from './persona-client.js';

const MAX_TEXT = 2_000;
const TURNS_SENT = 12;
const TURNS_KEPT = 50;
const SILENCE = '…';

/** Statuses by which the engine refuses what was said: said again it is refused again. */
const REFUSALS = new Set([400, 404, 409, 413, 422]);

/** @param {PersonaError} error */
export function isRefusal(error) {
  return REFUSALS.has(error.status);
}

export class Turns {
  #last = new Map();

  /**
   * @param {import('./game.js').Game} game
   * @param {import('./persona-client.js').PersonaClient} persona
   */
  constructor(game, persona) {
    this.game = game;
    this.store = game.store;
    this.persona = persona;
  }

  /**
   * What the player gets to see of one utterance: `state`, `token`s, `done`. Read it to its end:
   * the turn is over only then.
   * @param {{ player_id: string, npc_id: unknown, text: unknown, say_id?: unknown }} said
   * @param {{ isStreamed?: boolean }} [options]
   */
  async *say(said, { isStreamed = true } = {}) {
    const turn = checked(said);
    const release = await this.#claim(turn.session_id);
    try {
      yield* this.#say(turn, isStreamed);
    } finally {
      release();
    }
  }

  async *#say(turn, isStreamed) {
    const [player, game] = await this.game.playerAndGame(turn.player_id);
    const history = await this.store
      .collection('dialogue_history')
      .findOne({ _id: turn.session_id });
    const turns = history?.turns ?? [];
    let applied = await this.#applied(turns, turn.say_id);
    if (applied?.done) {
      yield stateMessage(applied);
      yield applied.done;
      return;
    }
    if (!applied) await this.game.npcNear(turn.npc_id, player);
    const request = applied?.request ?? buildRequest({ turn, player, game, turns });
    let spoken = '';
    let isTold = false;
    try {
      for await (const event of this.#ask(turn, request, isStreamed)) {
        if (event.type === 'token') {
          spoken += event.text;
          yield { type: 'token', ...ids(applied), text: event.text };
          continue;
        }
        applied = await this.#apply(turn, request, decisionOf(event));
        if (!isTold) yield stateMessage(applied);
        isTold = true;
        if (event.type === 'done') yield await this.#finish(applied, event.answer);
      }
    } catch (error) {
      if (!(error instanceof PersonaError) || !applied) throw error;
      if (!isTold && !isRefusal(error)) throw error; // said again later, its line may come yet
      console.error(`turn ${applied._id}: the line broke off: ${error.message}`);
      if (!isTold) yield stateMessage(applied);
      yield await this.#finish(applied, { text: spoken || SILENCE });
    }
  }

  async *#ask(turn, request, isStreamed) {
    const options = { idempotencyKey: idempotencyKey(turn, request, isStreamed) };
    if (isStreamed) yield* this.persona.askStream(request, options);
    else yield { type: 'done', answer: await this.persona.ask(request, options) };
  }

  async #applied(turns, sayId) {
    const known = turns.find((turn) => turn.say_id === sayId);
    if (!known) return null;
    return this.store.collection('applied_turns').findOne({ _id: known.turn_id });
  }

  /** Delta and flags into the game's data, unless this turn or this utterance is in it already. */
  #apply(turn, request, decision) {
    const { player_id, npc_id, session_id, say_id, text } = turn;
    return this.store.withTransaction(async (tx) => {
      const appliedTurns = tx.collection('applied_turns');
      const history = await tx.collection('dialogue_history').findOne({ _id: session_id });
      const known = history?.turns.find((one) => one.say_id === say_id);
      const before = await appliedTurns.findOne({ _id: known?.turn_id ?? decision.turn_id });
      if (before) return before;

      const players = tx.collection('player_status');
      const player = await players.findOne({ _id: player_id });
      const npcState = moved(player.npcs[npc_id], decision.delta);
      await players.updateOne({ _id: player_id }, { $set: { [`npcs.${npc_id}`]: npcState } });
      const events = [];
      for (const flag of Object.keys(decision.flags).filter((name) => decision.flags[name])) {
        const { value, text: told } = decision.flags_detail[flag] ?? {};
        await EFFECTS[flag]?.(tx, turn, value);
        events.push({ flag, value, text: told });
      }
      const applied = {
        _id: decision.turn_id,
        ...{ player_id, npc_id, session_id, say_id },
        delta: decision.delta,
        npc_state: (await players.findOne({ _id: player_id })).npcs[npc_id],
        events,
        request, // until the line is there: the same body must be sent again for it
      };
      await appliedTurns.insertOne(applied);
      const entry = { turn_id: decision.turn_id, say_id, player: text, npc: null };
      for (const dropped of history?.turns.slice(0, 1 - TURNS_KEPT) ?? []) {
        await appliedTurns.deleteOne({ _id: dropped.turn_id });
      }
      await tx
        .collection('dialogue_history')
        .updateOne(
          { _id: session_id },
          { $push: { turns: { $each: [entry], $slice: -TURNS_KEPT } } },
          { upsert: true },
        );
      return applied;
    });
  }

  /** Keep the line; returns what the player is told of the end of the turn. */
  #finish(applied, { text, meta = {} }) {
    const { valid, reason, history, npc_action, npc_emotion } = meta;
    const told = { valid, reason, history, npc_action, npc_emotion };
    const done = { type: 'done', ...ids(applied), text, ...told };
    return this.store.withTransaction(async (tx) => {
      const histories = tx.collection('dialogue_history');
      const { turns } = await histories.findOne({ _id: applied.session_id });
      const entry = turns.find((turn) => turn.turn_id === applied._id);
      if (entry) entry.npc = text;
      await histories.updateOne({ _id: applied.session_id }, { $set: { turns } });
      await tx
        .collection('applied_turns')
        .updateOne({ _id: applied._id }, { $set: { done }, $unset: { request: '' } });
      return done;
    });
  }

  /** One turn of a conversation at a time: the next needs what came of this one. */
  async #claim(sessionId) {
    const before = this.#last.get(sessionId);
    let release = () => {};
    const mine = new Promise((resolve) => {
      release = resolve;
    });
    this.#last.set(sessionId, mine);
    await before;
    return () => {
      if (this.#last.get(sessionId) === mine) this.#last.delete(sessionId);
      release();
    };
  }
}

/**
 * The body of `POST /ask`. Nothing in it depends on the clock: as long as the game's data are the
 * same, it is.
 * @returns {import('./types.d.ts').AskRequest}
 */
export function buildRequest({ turn, player, game, turns }) {
  const told = turns.filter((one) => one.npc !== null).slice(-TURNS_SENT);
  return {
    npc_id: turn.npc_id,
    player_id: turn.player_id,
    session_id: turn.session_id,
    text: turn.text,
    context: {
      player_state: { items: player.items, reputation: player.reputation },
      game_state: { quest_stage: game.quests[turn.npc_id], location: player.location },
      npc_state: player.npcs[turn.npc_id],
    },
    dialogue_history: told.map((one) => ({ player: one.player, npc: one.npc })),
  };
}

/** What a `state`, or an answer without one before it, decided. */
function decisionOf(event) {
  if (event.type === 'state') return event;
  const { delta, flags, meta } = event.answer;
  return { turn_id: meta.turn_id, delta, flags, flags_detail: meta.flags_detail };
}

/** It has the body in it: the engine refuses another body under the same key. */
function idempotencyKey({ session_id, say_id }, request, isStreamed) {
  return createHash('sha256')
    .update(JSON.stringify([session_id, say_id, request, isStreamed]))
    .digest('hex');
}

function ids(applied) {
  return { npc_id: applied.npc_id, turn_id: applied._id, say_id: applied.say_id };
}

function stateMessage(applied) {
  const { delta, npc_state, events } = applied;
  return { type: 'state', ...ids(applied), delta, npc_state, events };
}

function checked({ player_id, npc_id, text, say_id = randomUUID() }) {
  if (typeof npc_id !== 'string') throw new GameError('bad_message', 'npc_id must be text');
  if (typeof text !== 'string' || !text.trim() || text.length > MAX_TEXT) {
    throw new GameError('bad_message', `text must be 1 to ${MAX_TEXT} characters`);
  }
  if (!text.isWellFormed()) {
    throw new GameError('bad_message', 'text has half a character in it (a lone surrogate)');
  }
  if (typeof say_id !== 'string' || !say_id || say_id.length > 64) {
    throw new GameError('bad_message', 'say_id must be text of 1 to 64 characters');
  }
  return { player_id, npc_id, text, say_id, session_id: `${player_id}:${npc_id}` };
}
