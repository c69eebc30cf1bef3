import assert from 'node:assert/strict';
import { test } from 'node:test';

import { EFFECTS, moved } from '../effects.js';
import { Store } from '../store.js';
import { NPCS, makeFolder } from './stub.js';

const TURN = { player_id: 'p1', npc_id: 'sora' };

/** A player beside Sora; `raise` lets a flag have its effect and gives what came of it. */
async function world(t, { items = [], quest = 'not_started' } = {}) {
  const store = await Store.open(await makeFolder(t));
  t.after(() => store.close());
  const { npc_id: _id, ...config } = NPCS[0];
  await store.collection('npc_config').insertOne({ _id, ...config });
  await store.collection('player_status').insertOne({
    _id: 'p1',
    items,
    reputation: 'unknown',
    npcs: { sora: config.initial_state },
  });
  await store.collection('game_state').insertOne({ _id: 'p1', quests: { sora: quest } });
  return async (flag, value) => {
    await store.withTransaction((tx) => EFFECTS[flag](tx, TURN, value));
    const player = await store.collection('player_status').findOne({ _id: 'p1' });
    const game = await store.collection('game_state').findOne({ _id: 'p1' });
    return { player, game };
  };
}

test('values move by their delta, stay within their range and keep three decimals', () => {
  const before = { trust: 0.95, relationship: -0.9, npc_mood: 'nervous' };
  assert.deepEqual(moved(before, { trust: 0.1, relationship: -0.2 }), {
    trust: 1,
    relationship: -1,
    npc_mood: 'nervous',
  });
  assert.equal(moved({ trust: 0.1 }, { trust: 0.2 }).trust, 0.3);
  assert.equal(moved({}, { courage: 0.2 }).courage, 0.2);
});

test('an item, a hint and a story are had once', async (t) => {
  const raise = await world(t);
  await raise('give_item', 'brass_spyglass');
  await raise('give_item', 'brass_spyglass');
  await raise('give_hint', 'wick_at_lamp_oil_stall');
  const { player } = await raise('npc_main_story', 'sea_tongue.sora.lamp_out');
  assert.deepEqual(player.items, ['brass_spyglass']);
  assert.deepEqual(player.hints, ['wick_at_lamp_oil_stall']);
  assert.deepEqual(player.stories, ['sea_tongue.sora.lamp_out']);
});

test('a quest goes forward, never back, and takes what was asked for at its end', async (t) => {
  const raise = await world(t, { items: ['lamp_wick', 'oar'] });
  const begun = await raise('quest_stage_change', 'in_progress');
  assert.equal(begun.game.quests.sora, 'in_progress');
  assert.deepEqual(begun.player.items, ['lamp_wick', 'oar']);
  const ended = await raise('quest_stage_change', 'completed');
  assert.equal(ended.game.quests.sora, 'completed');
  assert.deepEqual(ended.player.items, ['oar']);
  assert.equal((await raise('quest_stage_change', 'in_progress')).game.quests.sora, 'completed');
  assert.equal((await raise('quest_stage_change', 'nonsense')).game.quests.sora, 'completed');
});

test('peace brings back the mood that the NPC began with', async (t) => {
  const raise = await world(t);
  const hostile = await raise('change_npc_state', 'hostile');
  assert.equal(hostile.player.npcs.sora.npc_mood, 'hostile');
  assert.equal((await raise('change_npc_state', 'peace')).player.npcs.sora.npc_mood, 'nervous');
});

test('a flag without a value that is text gives no item and no mood, and is told', async (t) => {
  const raise = await world(t, { items: ['oar'] });
  const told = t.mock.method(console, 'error', () => {});
  for (const value of [undefined, null, 7, true]) {
    await raise('give_item', value);
    const { player } = await raise('change_npc_state', value);
    assert.deepEqual(player.items, ['oar']);
    assert.equal(player.npcs.sora.npc_mood, 'nervous');
  }
  assert.equal(told.mock.callCount(), 8);
  assert.match(told.mock.calls[0].arguments[0], /^give_item of sora for p1 is ignored: undefined/);
});

test('who is vouched for has a good name', async (t) => {
  const { player } = await (await world(t))('change_player_state', 'keepers_log');
  assert.deepEqual(player.marks, ['keepers_log']);
  assert.equal(player.reputation, 'good');
});

test('what an NPC does and the ways that open are kept', async (t) => {
  const raise = await world(t);
  await raise('npc_action', 'turn_beam');
  const { game } = await raise('unlock_hidden_path', 'cliff_stair');
  assert.deepEqual(game.actions, { sora: 'turn_beam' });
  assert.deepEqual(game.paths, ['cliff_stair']);
});
