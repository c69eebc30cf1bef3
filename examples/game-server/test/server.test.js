import assert from 'node:assert/strict';
import { test } from 'node:test';

import { WebSocket } from 'ws';

import {
  answerTurn,
  joinGame,
  makeAnswer,
  makeFolder,
  problem,
  startGame,
  startStub,
} from './stub.js';

async function started(
  t,
  answer = (request, response) => answerTurn(request, response, makeAnswer()),
) {
  const stub = await startStub(answer);
  t.after(stub.close);
  const data = await makeFolder(t);
  const game = await startGame({ personaUrl: stub.url, data });
  t.after(() => game.stop('SIGKILL'));
  return { stub, game, data };
}

test('a new player stands at the ferry with empty hands', async (t) => {
  const { game } = await started(t);
  const { status } = await joinGame(game.url, 'p1');
  assert.equal(status.player.location, 'ferry_landing');
  assert.deepEqual(status.player.items, []);
  assert.deepEqual(status.game.quests, { sora: 'not_started', okbun: 'not_started' });
  assert.deepEqual(status.npcs, [
    { npc_id: 'sora', name: { ko: '윤소라', en: 'Sora Yun' }, is_here: true },
    { npc_id: 'okbun', name: { ko: '서옥분', en: 'Okbun Seo' }, is_here: false },
  ]);
});

test('a quest item can be taken where it lies, once the quest is on', async (t) => {
  const { game } = await started(t, (request, response) =>
    answerTurn(
      request,
      response,
      makeAnswer({
        flags: { quest_stage_change: true },
        values: { quest_stage_change: 'in_progress' },
      }),
    ),
  );
  const player = await joinGame(game.url, 'p1');
  const there = await player.ask({ type: 'go', location: 'harbor_market' }, 'status');
  assert.deepEqual(there.items_here, []);
  const early = await player.ask({ type: 'take', item: 'lamp_wick' }, 'status');
  assert.equal(early.code, 'no_such_item');
  await player.say('sora', '구해 올게요.');
  const taken = await player.ask({ type: 'take', item: 'lamp_wick' }, 'status');
  assert.deepEqual(taken.player.items, ['lamp_wick']);
  assert.deepEqual(taken.items_here, []);
});

test('what cannot be done is told and changes nothing', async (t) => {
  const { game, stub } = await started(t);
  const player = await joinGame(game.url, 'p1');
  const cases = [
    [{ type: 'fly' }, 'bad_message'],
    [{ type: 'go', location: 'moon' }, 'no_such_place'],
    [{ type: 'go', location: { $ne: 1 } }, 'no_such_place'],
    [{ type: 'say', npc_id: 'nobody', text: 'hi' }, 'unknown_npc'],
    [{ type: 'say', npc_id: { $ne: 1 }, text: 'hi' }, 'bad_message'],
    [{ type: 'say', npc_id: 'sora' }, 'bad_message'],
    [{ type: 'say', npc_id: 'sora', text: ' ' }, 'bad_message'],
    [{ type: 'say', npc_id: 'sora', text: 'x'.repeat(2001) }, 'bad_message'],
    [{ type: 'say', npc_id: 'sora', text: 'half an emoji: \ud83d' }, 'bad_message'],
    [{ type: 'say', npc_id: 'sora', text: 'hi', say_id: 7 }, 'bad_message'],
    [[1, 2], 'bad_message'],
    [null, 'bad_message'],
  ];
  for (const [message, code] of cases) {
    const error = await player.ask(message, 'status', 'done');
    assert.equal(error.code, code, JSON.stringify(message));
  }
  player.socket.send('{"type":');
  assert.equal((await player.until('error'))[0].code, 'bad_message');
  await player.ask({ type: 'go', location: 'lighthouse' }, 'status');
  assert.equal(stub.requests.length, 0);
});

test('an NPC who is elsewhere does not hear', async (t) => {
  const { game, stub } = await started(t);
  const player = await joinGame(game.url, 'p1');
  await assert.rejects(player.say('okbun', '계세요?'), {
    code: 'not_here',
    message: 'okbun is not at ferry_landing; go to salt_fields',
  });
  await player.ask({ type: 'go', location: 'salt_fields' }, 'status');
  await player.say('okbun', '계세요?');
  assert.equal(stub.requests.length, 1);
});

test('bad HTTP requests are told as such', async (t) => {
  const { game } = await started(t);
  const post = (body) => fetch(`${game.url}/say`, { method: 'POST', body });
  assert.equal((await fetch(`${game.url}/healthz`)).status, 200);
  assert.equal((await fetch(`${game.url}/nowhere`)).status, 404);
  assert.equal((await fetch(`${game.url}/players/p1`)).status, 200);
  assert.equal((await fetch(`${game.url}/players/a%20b`)).status, 400);
  assert.equal((await post('{')).status, 400);
  assert.equal((await post('x'.repeat(20_000))).status, 400);
  const nobody = await post(JSON.stringify({ npc_id: 'sora', text: 'hi' }));
  assert.equal(nobody.status, 400);
  assert.equal((await nobody.json()).code, 'bad_player_id');
});

test('over HTTP it is told whether it helps to say it again', async (t) => {
  let refusal;
  const { game } = await started(t, (_, response) =>
    problem(response, ...refusal, { 'Retry-After': '0' }),
  );
  const body = JSON.stringify({ player_id: 'p1', npc_id: 'sora', text: '\u200b' });
  const cases = [
    [400, 'malformed_json', 400, /however often/],
    [422, 'invalid_field', 422, /however often/],
    [404, 'unknown_npc', 404, /however often/],
    [429, 'rate_limited', 429, /in a while/],
    [503, 'not_ready', 503, /in a while/],
    [500, 'internal', 503, /in a while/],
    [401, 'unauthorized', 503, /in a while/], // the key is this server's, not the player's
  ];
  for (const [status, code, expected, message] of cases) {
    refusal = [status, code];
    const response = await fetch(`${game.url}/say`, { method: 'POST', body });
    const told = await response.json();
    assert.equal(response.status, expected, code);
    assert.equal(told.code, code);
    assert.match(told.message, message);
  }
});

test('a socket without a usable player_id is closed with the reason', async (t) => {
  const { game } = await started(t);
  await assert.rejects(joinGame(game.url, ''), /1008 a player_id has/);
});

test('a player who sends faster than NPCs speak is told so', async (t) => {
  const { game } = await started(t, () => {});
  const player = await joinGame(game.url, 'p1');
  for (let num = 0; num < 9; num += 1) {
    player.send({ type: 'say', npc_id: 'sora', text: `${num}` });
  }
  assert.equal((await player.until('error'))[0].code, 'too_fast');
});

test('SIGTERM lets the turns that run come to their end', async (t) => {
  const finish = [];
  const { game, stub, data } = await started(t, (request, response) => {
    const answer = makeAnswer({ turnId: `t${stub.requests.length}` });
    finish.push(() => answerTurn(request, response, answer));
  });
  const player = await joinGame(game.url, 'p1');
  player.send({ type: 'say', npc_id: 'sora', text: '네?', say_id: 's1' });
  const body = JSON.stringify({ player_id: 'p2', npc_id: 'sora', text: '네?' });
  const overHttp = fetch(`${game.url}/say`, { method: 'POST', body });
  while (finish.length < 2) await new Promise((resolve) => setTimeout(resolve, 10));
  const ended = game.stop();
  setTimeout(() => finish.forEach((answer) => answer()), 100);
  assert.equal((await player.until('done')).at(-1).text, '네.');
  assert.equal((await (await overHttp).json()).text, '네.');
  assert.equal(await ended, 0);

  const again = await startGame({ personaUrl: stub.url, data });
  t.after(() => again.stop('SIGKILL'));
  const { done } = await (await joinGame(again.url, 'p1')).say('sora', '네?', 's1');
  assert.equal(done.text, '네.');
  assert.equal(stub.requests.length, 2);
});

test('a second game server on the same data is refused', async (t) => {
  const { stub, data } = await started(t);
  await assert.rejects(startGame({ personaUrl: stub.url, data }), /uses this store; stop it first/);
});

test('without the engine it starts with the NPCs of last time, and not without any', async (t) => {
  const { game, stub, data } = await started(t);
  await game.stop();
  await stub.close();
  const again = await startGame({ personaUrl: stub.url, data });
  t.after(() => again.stop('SIGKILL'));
  assert.match(again.errors(), /going on with the NPCs of last time/);
  await assert.rejects(
    startGame({ personaUrl: stub.url, data: await makeFolder(t) }),
    /game server: connection_failed: .* cannot be reached .*; start the engine \(scripts\/serve\) or set PERSONA_URL\n$/,
  );
});

test('a port that is taken is told in a line', async (t) => {
  const { game, stub } = await started(t);
  const { port } = new URL(game.url);
  await assert.rejects(
    startGame({ personaUrl: stub.url, data: await makeFolder(t), env: { PORT: port } }),
    { message: `the game server ended with 1: game server: port ${port} is in use; set PORT\n` },
  );
});

test('an NPC that is not there is told with those that are', async (t) => {
  const { game } = await started(t);
  const player = await joinGame(game.url, 'p1');
  await assert.rejects(player.say('soraa', '네?'), {
    code: 'unknown_npc',
    message: 'no NPC soraa; there are sora, okbun',
  });
});

test('another path is not a game socket', async (t) => {
  const { game } = await started(t);
  const socket = new WebSocket(`${game.url.replace('http', 'ws')}/elsewhere`);
  const error = await new Promise((resolve) => socket.once('error', resolve));
  assert.match(error.message, /400/);
});
