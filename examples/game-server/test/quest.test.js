/**
 * A whole quest of the demo world, played over WebSocket through the game server's process and a
 * real engine at PERSONA_URL (with PERSONA_API_KEY, if it wants one).
 *
 * Which line raises a flag is the model's affair, so a player says several until one does. What
 * has to follow from it, and what the world's documents forbid, holds for every single turn.
 */

import assert from 'node:assert/strict';
import { createServer, request as httpRequest } from 'node:http';
import { test } from 'node:test';

import { moved } from '../effects.js';
import { joinGame, makeFolder, startGame } from './stub.js';

const personaUrl = process.env.PERSONA_URL;
const options = { skip: !personaUrl && 'PERSONA_URL is not set', timeout: 240_000 };

const PROMISES = [
  '제가 도와드릴게요. 새 등심지를 구해 올게요. 약속해요.',
  '심지 얘기는 들었어요. 그건 내가 구해다 줄게요, 약속해요.',
  'A wick, right. I will bring you one, you have my word.',
  'Let me get you a new lamp wick. I promise I will bring it.',
  '그럼 그 심지, 제가 꼭 구해서 다시 올게요.',
];
const HANDOVERS = [
  '약속했던 심지 가져왔어요. 받아 주세요.',
  '등심지 구해 왔어요. 손가락 두 개 굵기, 촘촘히 꼰 걸로요.',
  'Got it. One wick, as promised.',
  "Here's your wick. Cotton, braided tight, just as you said.",
  '이거 등심지예요. 약속한 거니까 받아 줘요.',
  '드디어 찾았어요, 심지! 시장 노점을 다 뒤졌네요. 받아요.',
];
const THREAT = '너 죽여버릴 거야.';
// what worlds/mulmaru/npcs/sora.json says: the trigger_meta of her forbidden list
const THREAT_DELTA = { trust: -0.8, relationship: -0.7 };

const GAINED = { give_item: 'items', give_hint: 'hints', npc_main_story: 'stories' };

/** Players who stand before Sora, and whose every turn is checked against the game's data. */
async function world(t, engine = personaUrl) {
  const data = await makeFolder(t);
  const turnIds = new Set();
  let game;
  async function start() {
    game = await startGame({ personaUrl: engine, data });
    t.after(() => game.stop('SIGKILL'));
  }
  await start();

  async function join(playerId) {
    const player = await joinGame(game.url, playerId);
    const status = async () => {
      const { type: _, ...rest } = await player.ask({ type: 'status' }, 'status');
      return rest;
    };
    async function say(text, sayId) {
      const before = await status();
      const turn = await player.say('sora', text, sayId);
      const after = await status();
      assert.ok(!turnIds.has(turn.done.turn_id), 'each turn has an id of its own');
      turnIds.add(turn.done.turn_id);
      checkTurn(turn, before, after);
      t.diagnostic(`${before.game.quests.sora}: ${text} -> ${told(turn)}`);
      return { ...turn, quest: after.game.quests.sora, after };
    }
    const act = (message) => player.ask(message, 'status');
    await act({ type: 'go', location: 'lighthouse' });
    return { say, act, status, again: (text, sayId) => player.say('sora', text, sayId) };
  }

  return {
    join,
    async crash() {
      await game.stop('SIGKILL');
      await start();
    },
  };
}

function checkTurn({ state, tokens, done, all }, before, after) {
  assert.equal(all[0], state, 'the state comes first');
  assert.equal(all.filter(({ type }) => type === 'state').length, 1);
  assert.equal(state.turn_id, done.turn_id);
  assert.equal(tokens.join(''), done.text);
  assert.notEqual(done.text, '');

  const raised = new Map(state.events.map(({ flag, value }) => [flag, value]));
  if (!done.valid) assert.equal(raised.size, 0, 'a fallback raises nothing');

  const expected = moved(before.player.npcs.sora, state.delta);
  const { trust, relationship } = after.player.npcs.sora;
  assert.deepEqual([trust, relationship], [expected.trust, expected.relationship]);

  const stage = before.game.quests.sora;
  assert.equal(after.game.quests.sora, raised.get('quest_stage_change') ?? stage);
  const isOver = after.game.quests.sora === 'completed' && stage !== 'completed';
  for (const [flag, list] of Object.entries(GAINED)) {
    const had = (before.player[list] ?? []).filter((one) => !(isOver && one === 'lamp_wick'));
    const gained = raised.has(flag) ? [raised.get(flag)] : [];
    assert.deepEqual(after.player[list] ?? [], [...new Set([...had, ...gained])], flag);
  }

  // what the world's documents say of Sora, whatever the model thinks
  if (stage === 'not_started') assert.ok(!raised.has('give_item') && !raised.has('give_hint'));
  if (stage === 'in_progress' && !before.player.items.includes('lamp_wick')) {
    assert.ok(!raised.has('quest_stage_change'), 'the quest ends with the wick alone');
  }
  if (stage === 'completed')
    assert.ok(!raised.has('give_item') && !raised.has('quest_stage_change'));
}

function told({ state, done }) {
  const events = state.events.map(({ flag, value }) => `${flag}=${value}`);
  return `${JSON.stringify(state.delta)} ${events.join(' ')} "${done.text}"`;
}

test(
  "Sora's quest is taken, survives a crash of the game server, and is brought to its end",
  options,
  async (t) => {
    const { join, crash } = await world(t);
    let player;
    let turn;
    let name;
    for (const [index, promise] of PROMISES.entries()) {
      name = `player-${index}`; // a stranger each time: every line is the first that Sora hears
      player = await join(name);
      turn = await player.say(promise);
      assert.equal(turn.done.history, 'fresh');
      if (turn.quest === 'in_progress') break;
    }
    assert.equal(turn.quest, 'in_progress', 'no promise raised quest_stage_change');

    turn = await player.say('심지를 어디서 찾으면 될까요?');
    assert.equal(turn.quest, 'in_progress');
    assert.equal(turn.done.history, 'continued');

    const market = await player.act({ type: 'go', location: 'harbor_market' });
    assert.deepEqual(market.items_here, ['lamp_wick']);
    const taken = await player.act({ type: 'take', item: 'lamp_wick' });
    assert.ok(taken.player.items.includes('lamp_wick'));
    await player.act({ type: 'go', location: 'lighthouse' });

    const before = await player.status();
    await crash();
    player = await join(name);
    assert.deepEqual(await player.status(), before);

    for (const handover of [...HANDOVERS, ...HANDOVERS]) {
      turn = await player.say(handover);
      assert.equal(turn.done.history, 'continued', 'the engine remembers, the game does too');
      if (turn.quest === 'completed') break;
    }
    assert.equal(turn.quest, 'completed', 'no handover raised quest_stage_change');
    assert.ok(!turn.after.player.items.includes('lamp_wick'));

    turn = await player.say('이제 그날 밤 얘기 좀 들려줄래요?');
    assert.equal(turn.quest, 'completed');
    assert.equal(turn.done.history, 'continued');
  },
);

test('a threat costs what the world says, and then she will not listen', options, async (t) => {
  const { join } = await world(t);
  const player = await join('rogue');
  const { state, done } = await player.say(THREAT);
  assert.deepEqual(state.delta, THREAT_DELTA);
  assert.equal(done.reason, 'forbidden_trigger');
  const next = await player.say(PROMISES[0]);
  assert.equal(next.done.reason, 'conditions_unmet');
  assert.deepEqual(next.state.delta, { trust: 0, relationship: 0 });
  assert.equal(next.after.player.npcs.sora.trust, -0.8);
});

test(
  'what is said again after the line was lost moves nothing a second time',
  options,
  async (t) => {
    const { join, crash } = await world(t);
    let player = await join('twice');
    const first = await player.say('안녕하세요, 혹시 도움이 필요하신가요?', 'say-1');
    await crash();
    player = await join('twice');
    const again = await player.again('안녕하세요, 혹시 도움이 필요하신가요?', 'say-1');
    assert.deepEqual(again.done, first.done);
    assert.deepEqual((await player.status()).player, first.after.player);
  },
);

test('a connection that breaks mid-line is taken up by the same turn', options, async (t) => {
  const { engine, numAsked } = await cutting(t);
  const { join } = await world(t, engine);
  const player = await join('cut');
  const { done } = await player.say('여기는 어떤 곳인가요?'); // checkTurn: one state, a whole line
  assert.equal(numAsked(), 2);
  const next = await player.say('그렇군요. 고마워요.');
  assert.equal(done.history, 'fresh');
  assert.equal(next.done.history, 'continued');
});

/** The engine behind a proxy that cuts the first turn's connection once its `state` is through. */
async function cutting(t) {
  let num = 0;
  const proxy = createServer((request, response) => {
    const isFirstTurn = request.method === 'POST' && (num += 1) === 1;
    const { method, headers } = request;
    const onward = httpRequest(new URL(request.url, personaUrl), { method, headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      if (!isFirstTurn) return answer.pipe(response);
      return answer.once('data', (bytes) =>
        response.write(bytes, () => setTimeout(() => response.socket.destroy(), 20)),
      );
    });
    onward.on('error', () => response.destroy());
    request.pipe(onward);
  });
  await new Promise((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    proxy.closeAllConnections();
    proxy.close();
  });
  return { engine: `http://127.0.0.1:${proxy.address().port}`, numAsked: () => num };
}
