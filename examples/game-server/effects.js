/**
 * What the game does with a turn's delta and flags. The engine says what happened between player
 * and NPC; the game keeps its own rules and has the last word.
 */

import { QUESTS } from './world.js';

/**
 * How the NPC feels after a turn: each value moved by its delta, within [-1, 1].
 * @param {Record<string, any>} npcState
 * @param {Record<string, number>} delta
 */
export function moved(npcState, delta) {
  const after = { ...npcState };
  for (const [name, change] of Object.entries(delta)) {
    const value = Math.max(-1, Math.min(1, (npcState[name] ?? 0) + change));
    after[name] = Math.round(value * 1000) / 1000;
  }
  return after;
}

/**
 * One function for each flag: `(tx, turn, value)`, where `turn` says whose turn it is and `value`
 * is what the world's documents say that the flag means here.
 */
export const EFFECTS = {
  give_item: (tx, turn, value) => {
    if (!isText(value)) return ignored('give_item', turn, value);
    return updatePlayer(tx, turn, { $addToSet: { items: value } });
  },

  give_hint: (tx, turn, value) => updatePlayer(tx, turn, { $addToSet: { hints: value } }),

  npc_main_story: (tx, turn, value) => updatePlayer(tx, turn, { $addToSet: { stories: value } }),

  quest_stage_change: async (tx, turn, value) => {
    const { npc_id: npcId } = turn;
    const npc = await tx.collection('npc_config').findOne({ _id: npcId });
    const game = await tx.collection('game_state').findOne({ _id: turn.player_id });
    const isForward = npc.stages.indexOf(value) > npc.stages.indexOf(game.quests[npcId]);
    if (!isForward) return; // a quest never goes back
    await updateGame(tx, turn, { $set: { [`quests.${npcId}`]: value } });
    if (value === npc.stages.at(-1) && QUESTS[npcId]) {
      await updatePlayer(tx, turn, { $pull: { items: QUESTS[npcId].wants } }); // it was handed over
    }
  },

  change_npc_state: async (tx, turn, value) => {
    if (!isText(value)) return ignored('change_npc_state', turn, value);
    const npc = await tx.collection('npc_config').findOne({ _id: turn.npc_id });
    const mood = value === 'peace' ? npc.initial_state.npc_mood : value;
    await updatePlayer(tx, turn, { $set: { [`npcs.${turn.npc_id}.npc_mood`]: mood } });
  },

  change_player_state: (tx, turn, value) =>
    updatePlayer(tx, turn, { $addToSet: { marks: value }, $set: { reputation: 'good' } }),

  npc_action: (tx, turn, value) =>
    updateGame(tx, turn, { $set: { [`actions.${turn.npc_id}`]: value } }),

  unlock_hidden_path: (tx, turn, value) => updateGame(tx, turn, { $addToSet: { paths: value } }),
};

/** Items and moods go to the engine with every later turn, and it takes nothing but text there. */
const isText = (value) => typeof value === 'string';

/** A world's document may give a flag no value, or a number. */
function ignored(flag, { npc_id, player_id }, value) {
  console.error(`${flag} of ${npc_id} for ${player_id} is ignored: ${value} is not text`);
}

function updatePlayer(tx, turn, update) {
  return tx.collection('player_status').updateOne({ _id: turn.player_id }, update);
}

function updateGame(tx, turn, update) {
  return tx.collection('game_state').updateOne({ _id: turn.player_id }, update);
}
