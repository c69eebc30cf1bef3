import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Game } from '../game.js';
import { PersonaError } from '../persona-client.js';
import { Store } from '../store.js';
import { Turns } from '../turns.js';
import {
  NPCS,
  answerTurn,
  eventsOf,
  joinGame,
  makeAnswer,
  makeFolder,
  problem,
  sse,
  startGame,
  startStub,
  stream,
} from './stub.js';

/** A game server on a stub of the engine, and a player who stands beside Sora. */
async function started(t, answer) {
  const stub = await startStub(answer);
  t.after(stub.close);
  const data = await makeFolder(t);
  const start = async () => {
    const game = await startGame({ personaUrl: stub.url, data });
    t.after(() => game.stop('SIGKILL'));
    return game;
  };
  const game = await start();
  return { stub, game, start, player: await joinGame(game.url, 'p1') };
}

/** Turns in this process, on an engine of the test's own; `say` gives what the player is told. */
async function startedHere(t, persona) {
  const store = await Store.open(await makeFolder(t));
  t.after(() => store.close());
  const game = new Game(store);
  await game.learnNpcs(NPCS);
  await game.status('p1');
  const turns = new Turns(game, persona);
  const say = async (sayId, options) => {
    const said = { player_id: 'p1', npc_id: 'sora', text: '네?', say_id: sayId };
    const parts = [];
    for await (const part of turns.say(said, options)) parts.push(part);
    return parts;
  };
  return { store, say };
}

/** As `startedHere`, with a turn `say-1` that is applied and has no line yet. */
async function startedBetweenStateAndDone(t, askAgain) {
  const persona = {
    async *askStream() {
      const { turn_id, flags_detail } = makeAnswer().meta;
      yield { type: 'state', turn_id, delta: makeAnswer().delta, flags: {}, flags_detail };
      throw new Error('killed here');
    },
  };
  const started = await startedHere(t, persona);
  await assert.rejects(started.say('say-1'), /killed here/);
  persona.askStream = askAgain;
  return started;
}

async function stateOf(player) {
  const { player: status, game } = await player.ask({ type: 'status' }, 'status');
  return { ...status.npcs.sora, items: status.items, quest: game.quests.sora };
}

const FRESH = {
  trust: 0,
  relationship: 0.05,
  npc_mood: 'nervous',
  items: [],
  quest: 'not_started',
};
const ONCE = { ...FRESH, trust: 0.1, relationship: 0.03 };

test('a request is built from what the game knows', async (t) => {
  const { stub, player } = await started(t, (request, response, number) =>
    answerTurn(request, response, makeAnswer({ turnId: `t${number}`, text: `${number}번째.` })),
  );
  await player.say('sora', '안녕하세요.');
  await player.say('sora', '심지 있어요?');
  const [first, second] = stub.requests.map(({ body }) => body);
  assert.deepEqual(first, {
    npc_id: 'sora',
    player_id: 'p1',
    session_id: 'p1:sora',
    text: '안녕하세요.',
    context: {
      player_state: { items: [], reputation: 'unknown' },
      game_state: { quest_stage: 'not_started', location: 'ferry_landing' },
      npc_state: { trust: 0, relationship: 0.05, npc_mood: 'nervous' },
    },
    dialogue_history: [],
    stream: true,
  });
  assert.deepEqual(second.dialogue_history, [{ player: '안녕하세요.', npc: '1번째.' }]);
  assert.equal(second.context.npc_state.trust, 0.1);
});

test('state and done of one turn move the game once', async (t) => {
  const answer = makeAnswer({
    text: '여기요, 망원경.',
    flags: { give_item: true },
    values: { give_item: 'brass_spyglass' },
  });
  const { player } = await started(t, (_, response) => stream(response, eventsOf(answer)));
  const { state, tokens, done } = await player.say('sora', '빌려줄래요?');
  assert.deepEqual(state.delta, answer.delta);
  assert.deepEqual(state.events, [
    { flag: 'give_item', value: 'brass_spyglass', text: 'give_item' },
  ]);
  assert.equal(tokens.join(''), answer.text);
  assert.equal(done.text, answer.text);
  assert.deepEqual(await stateOf(player), { ...ONCE, items: ['brass_spyglass'] });
});

test('a state that comes twice moves the game once', async (t) => {
  const [state, ...rest] = eventsOf(makeAnswer());
  const { player } = await started(t, (_, response) => stream(response, [state, state, ...rest]));
  await player.say('sora', '네?');
  assert.deepEqual(await stateOf(player), ONCE);
});

test('a turn that had to be sent three times moves the game once', async (t) => {
  const answer = makeAnswer();
  const { stub, player } = await started(t, (request, response, number) => {
    if (number === 1) return problem(response, 503, 'not_ready', { 'Retry-After': '0' });
    if (number === 3) return stream(response, eventsOf(answer));
    response.writeHead(200, { 'Content-Type': 'text/event-stream' });
    return response.write(eventsOf(answer)[0], () =>
      setTimeout(() => request.socket.destroy(), 20),
    );
  });
  const { all } = await player.say('sora', '네?');
  assert.equal(stub.requests.length, 3);
  assert.deepEqual(
    all.map(({ type }) => type),
    ['state', 'token', 'done'],
  );
  assert.deepEqual(await stateOf(player), ONCE);
});

test('a turn that is not valid moves the values by its delta and nothing else', async (t) => {
  const answer = makeAnswer({
    delta: { trust: -0.8, relationship: -0.7 },
    meta: { valid: false, reason: 'forbidden_trigger', npc_action: 'steps back', flags_detail: {} },
  });
  const { player } = await started(t, (request, response) => answerTurn(request, response, answer));
  const { state, done } = await player.say('sora', '험한 말');
  assert.deepEqual(state.events, []);
  assert.equal(done.valid, false);
  assert.equal(done.reason, 'forbidden_trigger');
  assert.equal(done.npc_action, 'steps back');
  assert.deepEqual(await stateOf(player), { ...FRESH, trust: -0.8, relationship: -0.65 });
});

test('what is said again under its say_id is answered again and moves nothing', async (t) => {
  const { stub, player } = await started(t, (request, response, number) =>
    answerTurn(request, response, makeAnswer({ turnId: `t${number}` })),
  );
  const first = await player.say('sora', '네?', 'say-1');
  const again = await player.say('sora', '네?', 'say-1');
  assert.deepEqual(again.done, first.done);
  assert.deepEqual(again.state, first.state);
  assert.equal(stub.requests.length, 1);
  assert.deepEqual(await stateOf(player), ONCE);
});

test('a game server killed between state and done applies the turn once', async (t) => {
  const answer = makeAnswer({ text: '하나 둘' });
  const { stub, game, start, player } = await started(t, (_, response, number) => {
    if (number === 2) return stream(response, eventsOf(answer));
    response.writeHead(200, { 'Content-Type': 'text/event-stream' });
    return response.write(eventsOf(answer)[0]);
  });
  player.send({ type: 'say', npc_id: 'sora', text: '네?', say_id: 'say-1' });
  await player.until('state');
  await game.stop('SIGKILL');

  const reborn = await joinGame((await start()).url, 'p1');
  assert.deepEqual(await stateOf(reborn), ONCE);
  const { state, done } = await reborn.say('sora', '네?', 'say-1');
  assert.equal(state.turn_id, 't1');
  assert.equal(done.text, '하나 둘');
  assert.deepEqual(await stateOf(reborn), ONCE);
  const [first, second] = stub.requests;
  assert.equal(first.headers['idempotency-key'], second.headers['idempotency-key']);
  assert.equal(first.text, second.text, 'another body under the same key would be refused');
});

test('a game server killed before the state asks for the same turn', async (t) => {
  const { stub, game, start, player } = await started(t, (request, response, number) =>
    number === 2 ? answerTurn(request, response, makeAnswer()) : undefined,
  );
  player.send({ type: 'say', npc_id: 'sora', text: '네?', say_id: 'say-1' });
  while (!stub.requests.length) await new Promise((resolve) => setTimeout(resolve, 10));
  await game.stop('SIGKILL');

  const reborn = await joinGame((await start()).url, 'p1');
  assert.deepEqual(await stateOf(reborn), FRESH);
  await reborn.say('sora', '네?', 'say-1');
  assert.deepEqual(await stateOf(reborn), ONCE);
  const [first, second] = stub.requests;
  assert.equal(first.headers['idempotency-key'], second.headers['idempotency-key']);
  assert.equal(first.text, second.text, 'another body under the same key would be refused');
});

test('what is said again after the game has changed is decided anew, and applied once', async (t) => {
  const bodies = new Map();
  const { stub, game, start, player } = await started(t, (request, response, number) => {
    const { headers, text } = stub.requests[number - 1];
    const key = headers['idempotency-key'];
    if (number === 1) return bodies.set(key, text); // it is decided, and nobody hears of it
    if ((bodies.get(key) ?? text) !== text) return problem(response, 409, 'idempotency_conflict');
    return answerTurn(request, response, makeAnswer());
  });
  player.send({ type: 'say', npc_id: 'sora', text: '네?', say_id: 'say-1' });
  while (!stub.requests.length) await new Promise((resolve) => setTimeout(resolve, 10));
  await game.stop('SIGKILL');

  const reborn = await joinGame((await start()).url, 'p1');
  await reborn.ask({ type: 'go', location: 'lighthouse' }, 'status');
  const { done } = await reborn.say('sora', '네?', 'say-1');
  assert.deepEqual((await reborn.say('sora', '네?', 'say-1')).done, done);
  assert.deepEqual(await stateOf(reborn), ONCE);
  assert.equal(stub.requests.length, 2);
});

test('an engine that decided anew after a crash does not move the game again', async (t) => {
  const { game, start, player } = await started(t, (_, response, number) => {
    const events = eventsOf(makeAnswer({ turnId: `t${number}` }));
    if (number === 2) return stream(response, events);
    response.writeHead(200, { 'Content-Type': 'text/event-stream' });
    return response.write(events[0]);
  });
  player.send({ type: 'say', npc_id: 'sora', text: '네?', say_id: 'say-1' });
  await player.until('state');
  await game.stop('SIGKILL');
  const reborn = await joinGame((await start()).url, 'p1');
  const { state, done } = await reborn.say('sora', '네?', 'say-1');
  assert.equal(state.turn_id, 't1');
  assert.equal(done.text, '네.');
  assert.deepEqual(await stateOf(reborn), ONCE);
});

test('of each conversation the turns are kept that its history goes back to', async (t) => {
  let number = 0;
  const ask = async () => makeAnswer({ turnId: `t${(number += 1)}` });
  const { store, say } = await startedHere(t, { ask });
  for (let num = 1; num <= 52; num += 1) {
    await say(`say-${num}`, { isStreamed: false });
  }
  const applied = await store.collection('applied_turns').find().toArray();
  const history = await store.collection('dialogue_history').findOne({ _id: 'p1:sora' });
  assert.equal(applied.length, 50);
  assert.deepEqual(
    applied.map(({ _id }) => _id),
    history.turns.map(({ turn_id }) => turn_id),
  );
  await say('say-3', { isStreamed: false }); // the oldest that is known
  assert.equal(number, 52);
});

test('a line that breaks off for good ends with what was said', async (t) => {
  const answer = makeAnswer({ text: '하나 둘' });
  const { player, stub } = await started(t, (request, response, number) => {
    if (number === 1) {
      response.writeHead(200, { 'Content-Type': 'text/event-stream' });
      const head = eventsOf(answer).slice(0, 2).join('');
      return response.write(head, () => setTimeout(() => request.socket.destroy(), 20));
    }
    if (number === 2) return problem(response, 401, 'unauthorized');
    return answerTurn(request, response, makeAnswer({ turnId: 't2' }));
  });
  const { done } = await player.say('sora', '네?');
  assert.equal(done.text, '하나 ');
  assert.deepEqual(await stateOf(player), ONCE);
  await player.say('sora', '그래서요?');
  assert.deepEqual(stub.requests[2].body.dialogue_history, [{ player: '네?', npc: '하나 ' }]);
});

test('a line that cannot come now comes when it is said again later', async (t) => {
  const failures = [
    new PersonaError('connection_failed', 'nobody there'),
    new PersonaError('timeout', 'too late'),
    new PersonaError('not_ready', 'it starts', { status: 503 }),
    new PersonaError('unauthorized', 'the key is wrong', { status: 401 }),
  ];
  const answer = makeAnswer({ text: '여기 있어요.' });
  const { store, say } = await startedBetweenStateAndDone(t, async function* () {
    if (failures.length) throw failures.shift();
    yield { type: 'done', answer };
  });
  for (const failure of [...failures]) {
    await assert.rejects(say('say-1'), (error) => error === failure);
  }
  const [state, done] = await say('say-1');
  assert.deepEqual([state.type, state.turn_id, state.delta], ['state', 't1', answer.delta]);
  assert.equal(done.text, '여기 있어요.');
  const { npcs } = await store.collection('player_status').findOne({ _id: 'p1' });
  assert.equal(npcs.sora.trust, ONCE.trust);
});

test('a line that the engine refuses for good is a silence, told after its state', async (t) => {
  const { say } = await startedBetweenStateAndDone(t, async function* () {
    throw new PersonaError('unknown_npc', 'she has left the world', { status: 404 });
  });
  const told = await say('say-1');
  assert.deepEqual(
    told.map(({ type, turn_id }) => [type, turn_id]),
    [
      ['state', 't1'],
      ['done', 't1'],
    ],
  );
  assert.equal(told[1].text, '…');
  assert.deepEqual(await say('say-1'), told);
});

test('an engine that refuses leaves the game as it was', async (t) => {
  const { player } = await started(t, (_, response) => problem(response, 404, 'unknown_npc'));
  await assert.rejects(player.say('sora', '네?', 's1'), { code: 'unknown_npc', say_id: 's1' });
  assert.deepEqual(await stateOf(player), FRESH);
});

test('a player who hangs up has spoken all the same', async (t) => {
  let finish;
  const answer = makeAnswer();
  const { player, game } = await started(t, (_, response) => {
    response.writeHead(200, { 'Content-Type': 'text/event-stream' });
    response.write(eventsOf(answer)[0]);
    finish = () => response.end(eventsOf(answer).slice(1).join(''));
  });
  player.send({ type: 'say', npc_id: 'sora', text: '네?', say_id: 'say-1' });
  await player.until('state');
  player.leave();
  const back = await joinGame(game.url, 'p1');
  setTimeout(finish, 50);
  const { done } = await back.say('sora', '네?', 'say-1');
  assert.equal(done.text, '네.');
  assert.deepEqual(await stateOf(back), ONCE);
});

test('turns of one conversation run one after the other', async (t) => {
  let running = 0;
  let most = 0;
  const { game } = await started(t, async (request, response, number) => {
    running += 1;
    most = Math.max(most, running);
    await new Promise((resolve) => setTimeout(resolve, 50));
    running -= 1;
    answerTurn(request, response, makeAnswer({ turnId: `t${number}` }));
  });
  const body = JSON.stringify({ player_id: 'p1', npc_id: 'sora', text: '네?' });
  const say = () => fetch(`${game.url}/say`, { method: 'POST', body });
  const answers = await Promise.all([say(), say(), say()]);
  const contents = await Promise.all(answers.map((answer) => answer.json()));
  assert.equal(most, 1);
  const trusts = contents.map(({ npc_state }) => npc_state.trust);
  assert.deepEqual(trusts.sort(), [0.1, 0.2, 0.3]);
});

test('said over HTTP, the answer comes whole', async (t) => {
  const { stub, game, player } = await started(t, (request, response) =>
    answerTurn(request, response, makeAnswer()),
  );
  const body = JSON.stringify({ player_id: 'p1', npc_id: 'sora', text: '네?' });
  const answer = await (await fetch(`${game.url}/say`, { method: 'POST', body })).json();
  assert.equal(answer.text, '네.');
  assert.deepEqual(answer.npc_state, { trust: 0.1, relationship: 0.03, npc_mood: 'nervous' });
  assert.equal(stub.requests[0].body.stream, false);
  assert.deepEqual(await stateOf(player), ONCE);
});

test('an event that is not known to the game is shown and does nothing', async (t) => {
  const answer = makeAnswer({ flags: { dance: true }, values: { dance: 'jig' } });
  const { player } = await started(t, (_, response) => stream(response, eventsOf(answer)));
  const { state } = await player.say('sora', '춤춰요');
  assert.deepEqual(state.events, [{ flag: 'dance', value: 'jig', text: 'dance' }]);
  assert.deepEqual(await stateOf(player), ONCE);
});

test('a stream cut inside a letter arrives whole at the player', async (t) => {
  const bytes = Buffer.from(eventsOf(makeAnswer({ text: '바다혀' })).join(''));
  const { player } = await started(t, (_, response) => {
    response.writeHead(200, { 'Content-Type': 'text/event-stream' });
    const at = bytes.indexOf(Buffer.from('바')) + 1;
    response.write(bytes.subarray(0, at));
    setTimeout(() => response.end(bytes.subarray(at)), 30);
  });
  const { tokens, done } = await player.say('sora', '네?');
  assert.deepEqual(tokens, ['바다혀']);
  assert.equal(done.text, '바다혀');
});

test('an error inside the stream before the state leaves the game as it was', async (t) => {
  const { player } = await started(t, (_, response) =>
    stream(response, [sse('error', { status: 500, code: 'internal', detail: 'no' })]),
  );
  await assert.rejects(player.say('sora', '네?'), { code: 'internal' });
  assert.deepEqual(await stateOf(player), FRESH);
});
