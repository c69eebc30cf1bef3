import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

import { PersonaClient, PersonaError, parseEvents } from '../persona-client.js';
import {
  answerTurn,
  eventsOf,
  makeAnswer,
  problem,
  reply,
  sse,
  startStub,
  stream,
} from './stub.js';

const TURN = { npc_id: 'sora', player_id: 'p1', text: '안녕하세요' };

async function stubbed(t, answer, options = {}) {
  const stub = await startStub(answer);
  t.after(stub.close);
  const client = new PersonaClient({ baseUrl: stub.url, backoffMs: 1, ...options });
  return { stub, client };
}

async function all(events) {
  const got = [];
  for await (const event of events) got.push(event);
  return got;
}

async function parsed(...chunks) {
  const encoder = new TextEncoder();
  async function* bytes() {
    for (const chunk of chunks) yield typeof chunk === 'string' ? encoder.encode(chunk) : chunk;
  }
  return all(parseEvents(bytes()));
}

test('events end with LF, CRLF or CR alike', async () => {
  const expected = [
    { event: 'a', data: '1' },
    { event: 'b', data: '2' },
  ];
  for (const end of ['\n', '\r\n', '\r']) {
    const text = `event: a\ndata: 1\n\nevent: b\ndata: 2\n\n`.replaceAll('\n', end);
    assert.deepEqual(await parsed(text), expected);
  }
});

test('a stream cut into single bytes gives the same events', async () => {
  const text =
    '\uFEFF: keep-alive\r\n\r\nevent: token\r\ndata: {"text":"소금 🧂"}\r\n\r\ndata: x\n\n';
  const bytes = [...new TextEncoder().encode(text)].map((byte) => Uint8Array.of(byte));
  const expected = [
    { event: 'token', data: '{"text":"소금 🧂"}' },
    { event: 'message', data: 'x' },
  ];
  assert.deepEqual(await parsed(text), expected);
  assert.deepEqual(await parsed(...bytes), expected);
});

test('a CRLF split over two chunks is one line end', async () => {
  assert.deepEqual(await parsed('data: 1\r', '\ndata: 2\r', '\n\r', '\n'), [
    { event: 'message', data: '1\n2' },
  ]);
});

test('comments, ids and unknown fields are passed over, data lines are joined', async () => {
  const text = ': hello\nid: 7\nretry: 3\nwhat: ever\ndata:one\ndata: two\ndata\n\n: bye\n\n';
  assert.deepEqual(await parsed(text), [{ event: 'message', data: 'one\ntwo\n' }]);
});

test('an event that was not ended is dropped', async () => {
  assert.deepEqual(await parsed('data: 1\n\nevent: done\ndata: {"te'), [
    { event: 'message', data: '1' },
  ]);
});

test('an event name does not stick to the next event', async () => {
  assert.deepEqual(await parsed('event: a\n\ndata: 1\n\n'), [{ event: 'message', data: '1' }]);
});

test('a turn is sent with its headers', async (t) => {
  const { stub, client } = await stubbed(
    t,
    (request, response) => answerTurn(request, response, makeAnswer()),
    { apiKey: 'secret-key-of-the-game', deadlineMs: 1500 },
  );
  const answer = await client.ask(TURN, { requestId: 'r1', idempotencyKey: 'k1' });
  assert.equal(answer.text, '네.');
  const [{ headers, body }] = stub.requests;
  assert.equal(headers.authorization, 'Bearer secret-key-of-the-game');
  assert.equal(headers['x-request-id'], 'r1');
  assert.equal(headers['idempotency-key'], 'k1');
  assert.equal(headers['x-deadline-ms'], '1500');
  assert.equal(headers['x-session-id'], 'p1:sora');
  assert.deepEqual(body, { ...TURN, session_id: 'p1:sora', stream: false });
});

test('a session that no header can hold is sent in the body alone', async (t) => {
  const { stub, client } = await stubbed(t, (request, response) =>
    answerTurn(request, response, makeAnswer()),
  );
  await client.ask({ ...TURN, player_id: '나그네' });
  assert.equal(stub.requests[0].headers['x-session-id'], undefined);
  assert.equal(stub.requests[0].body.session_id, '나그네:sora');
});

test('two turns have two keys', async (t) => {
  const { stub, client } = await stubbed(t, (request, response) =>
    answerTurn(request, response, makeAnswer()),
  );
  await client.ask(TURN);
  await client.ask(TURN);
  const [one, other] = stub.requests.map(({ headers }) => headers['idempotency-key']);
  assert.ok(one.length > 20);
  assert.notEqual(one, other);
});

test('a stream gives state, tokens and done, with heartbeats between', async (t) => {
  const answer = makeAnswer({ text: '하나 둘' });
  const { client } = await stubbed(t, (_, response) =>
    stream(response, [': keep-alive\n\n', eventsOf(answer).join(': keep-alive\n\n')]),
  );
  const events = await all(client.askStream(TURN));
  assert.deepEqual(
    events.map(({ type }) => type),
    ['state', 'token', 'token', 'done'],
  );
  assert.equal(events[0].turn_id, 't1');
  assert.equal(events[1].text + events[2].text, answer.text);
  assert.deepEqual(events[3].answer, answer);
});

test('events that a newer server adds are passed over', async (t) => {
  const { client } = await stubbed(t, (_, response) =>
    stream(response, [sse('mood', { is: 'new' }), ...eventsOf(makeAnswer())]),
  );
  assert.equal((await all(client.askStream(TURN))).length, 3);
});

test('an overload is waited out as long as Retry-After says, under the same key', async (t) => {
  const { stub, client } = await stubbed(t, (request, response, number) =>
    number === 1
      ? problem(response, 429, 'overloaded', { 'Retry-After': '1' })
      : answerTurn(request, response, makeAnswer()),
  );
  const start = Date.now();
  await client.ask(TURN);
  assert.ok(Date.now() - start >= 990);
  const [first, second] = stub.requests;
  assert.equal(first.headers['idempotency-key'], second.headers['idempotency-key']);
  assert.equal(first.headers['x-request-id'], second.headers['x-request-id']);
  assert.deepEqual(first.body, second.body);
});

test('Retry-After may be a date', async (t) => {
  const { client } = await stubbed(
    t,
    (_, response) =>
      problem(response, 503, 'not_ready', {
        'Retry-After': new Date(Date.now() + 60_000).toUTCString(),
      }),
    { timeoutMs: 1000 },
  );
  const start = Date.now();
  await assert.rejects(client.ask(TURN), (error) => {
    assert.equal(error.code, 'not_ready');
    assert.ok(error.retryAfterMs > 50_000);
    return true;
  });
  assert.ok(Date.now() - start < 900, 'it does not wait for what comes after its time');
});

test('retries end, and the last error is told', async (t) => {
  const { stub, client } = await stubbed(
    t,
    (_, response) => problem(response, 503, 'not_ready', { 'Retry-After': '0' }),
    { maxRetries: 2 },
  );
  await assert.rejects(client.ask(TURN), { name: 'PersonaError', code: 'not_ready', status: 503 });
  assert.equal(stub.requests.length, 3);
});

test('what the game did wrong is told at once, with the field', async (t) => {
  const { stub, client } = await stubbed(t, (_, response) =>
    reply(
      response,
      422,
      { status: 422, code: 'invalid_field', detail: 'too long', field: '$.text' },
      { 'X-Request-ID': 'r9' },
    ),
  );
  await assert.rejects(client.ask(TURN), {
    code: 'invalid_field',
    field: '$.text',
    requestId: 'r9',
    message: 'invalid_field: $.text: too long',
  });
  await assert.rejects(all(client.askStream(TURN)), { code: 'invalid_field' });
  assert.equal(stub.requests.length, 2);
});

test('a detail that names its field is left as it is', async (t) => {
  const detail = '$.context.npc_state.trust is 50; it must be from -1 to 1';
  const field = '$.context.npc_state.trust';
  const { client } = await stubbed(t, (_, response) =>
    reply(response, 422, { status: 422, code: 'invalid_field', detail, field }),
  );
  await assert.rejects(client.ask(TURN), { field, message: `invalid_field: ${detail}` });
});

test("a proxy's page of HTML is an error with a status", async (t) => {
  const { stub, client } = await stubbed(
    t,
    (_, response) => response.writeHead(502).end('<h1>Bad gateway</h1>'),
    { maxRetries: 1 },
  );
  await assert.rejects(client.ask(TURN), { code: 'http_error', status: 502 });
  assert.equal(stub.requests.length, 2);
});

test('an answer that is not JSON is told as such', async (t) => {
  const { client } = await stubbed(t, (_, response) => response.end('hello'));
  await assert.rejects(client.ask(TURN), { code: 'bad_answer' });
});

test('a connection that breaks is tried again under the same key', async (t) => {
  const { stub, client } = await stubbed(t, (request, response, number) =>
    number < 3 ? request.socket.destroy() : answerTurn(request, response, makeAnswer()),
  );
  assert.equal((await client.ask(TURN)).meta.turn_id, 't1');
  assert.equal(new Set(stub.requests.map(({ headers }) => headers['idempotency-key'])).size, 1);
});

test('a server that is not there is told as such', async () => {
  const client = new PersonaClient({ baseUrl: 'http://127.0.0.1:1', backoffMs: 1, maxRetries: 1 });
  await assert.rejects(client.ask(TURN), (error) => {
    assert.ok(error instanceof PersonaError);
    assert.equal(error.code, 'connection_failed');
    assert.match(error.message, /127\.0\.0\.1:1/);
    return true;
  });
});

test('a stream that breaks off is taken up where it broke, and nothing comes twice', async (t) => {
  const answer = makeAnswer({ text: '하나 둘 셋' });
  const events = eventsOf(answer);
  const { stub, client } = await stubbed(t, (_, response, number) => {
    if (number === 3) return stream(response, events);
    response.writeHead(200, { 'Content-Type': 'text/event-stream' });
    const isCutInsideEvent = number === 1;
    const head = events.slice(0, 2).join('') + (isCutInsideEvent ? events[2].slice(0, 9) : '');
    return response.write(head, () => setTimeout(() => response.socket.destroy(), 20));
  });
  const got = await all(client.askStream(TURN));
  assert.deepEqual(
    got.map((event) => event.text ?? event.type),
    ['state', '하나 ', '둘 ', '셋', 'done'],
  );
  assert.equal(new Set(stub.requests.map(({ headers }) => headers['idempotency-key'])).size, 1);
});

test('a stream that ends without done is taken up again', async (t) => {
  const { client } = await stubbed(t, (_, response, number) =>
    stream(response, number === 1 ? eventsOf(makeAnswer()).slice(0, 1) : eventsOf(makeAnswer())),
  );
  const types = (await all(client.askStream(TURN))).map(({ type }) => type);
  assert.deepEqual(types, ['state', 'token', 'done']);
});

test('another turn in place of the one that broke off is an error', async (t) => {
  const { client } = await stubbed(t, (_, response, number) =>
    stream(response, eventsOf(makeAnswer({ turnId: `t${number}` })).slice(0, 3 - 1)),
  );
  await assert.rejects(all(client.askStream(TURN)), { code: 'turn_lost' });
});

test('an error inside a stream is told by its code', async (t) => {
  const { client } = await stubbed(t, (_, response) =>
    stream(response, [sse('error', { status: 500, code: 'internal', detail: 'it failed' })]),
  );
  await assert.rejects(all(client.askStream(TURN)), { code: 'internal', status: 500 });
});

test('a server that says nothing is left after timeoutMs', async (t) => {
  const { client } = await stubbed(t, () => {}, { timeoutMs: 100 });
  await assert.rejects(client.ask(TURN), { code: 'timeout' });
});

test('a stream that falls silent is left after timeoutMs', async (t) => {
  const { client } = await stubbed(
    t,
    (_, response) => {
      response.writeHead(200, { 'Content-Type': 'text/event-stream' });
      response.write(eventsOf(makeAnswer())[0]);
    },
    { timeoutMs: 150 },
  );
  await assert.rejects(all(client.askStream(TURN)), { code: 'timeout' });
});

test("timeoutMs holds beside a caller's signal, whatever is collected", async (t) => {
  setFlagsFromString('--expose-gc');
  const collecting = setInterval(runInNewContext('gc'), 20);
  t.after(() => clearInterval(collecting));
  const { client } = await stubbed(t, () => {}, { timeoutMs: 300 });
  const { signal } = new AbortController();
  const isHanging = new Promise((resolve) => setTimeout(resolve, 5000, 'it hangs').unref());
  const answer = client.ask(TURN, { signal });
  await assert.rejects(Promise.race([answer, isHanging]), { code: 'timeout' });
});

test('an abort is not an error of ours and ends the wait between retries too', async (t) => {
  const { client } = await stubbed(t, (_, response) =>
    problem(response, 503, 'not_ready', { 'Retry-After': '30' }),
  );
  const signal = AbortSignal.timeout(100);
  await assert.rejects(client.ask(TURN, { signal }), (error) => error === signal.reason);
});

test('who leaves the loop hangs up', async (t) => {
  let hungUp;
  const isGone = new Promise((resolve) => {
    hungUp = resolve;
  });
  const { client } = await stubbed(t, (_, response) => {
    response.on('close', hungUp);
    response.writeHead(200, { 'Content-Type': 'text/event-stream' });
    response.write(eventsOf(makeAnswer())[0]);
  });
  for await (const event of client.askStream(TURN)) {
    assert.equal(event.type, 'state');
    break;
  }
  await isGone;
});

test('streamed turns one after the other take up the connections of those before', async (t) => {
  const sockets = new Set();
  const { client } = await stubbed(t, (request, response) => {
    sockets.add(request.socket);
    response.writeHead(200, { 'Content-Type': 'text/event-stream' });
    response.write(eventsOf(makeAnswer()).join(''));
    setTimeout(() => response.end(), 20);
  });
  for (let num = 0; num < 6; num += 1) {
    assert.equal((await all(client.askStream(TURN))).at(-1).type, 'done');
  }
  // two at most: a turn may begin a moment before the connection of the last one is free
  assert.ok(sockets.size <= 2, `${sockets.size} connections`);
});

test('done ends the turn, whatever comes after it', async (t) => {
  const failure = sse('error', { status: 500, code: 'internal', detail: 'it failed' });
  const endings = [
    (response) => response.end(eventsOf(makeAnswer({ turnId: 't2' })).join('')),
    (response) => response.end(failure),
    (response) => response.end('data: {\n\n'),
    (response) => response.socket.destroy(),
    () => {}, // it stays open until timeoutMs
  ];
  const { stub, client } = await stubbed(
    t,
    (_, response, number) => {
      response.writeHead(200, { 'Content-Type': 'text/event-stream' });
      response.write(eventsOf(makeAnswer()).join(''), () =>
        setTimeout(endings[number - 1], 20, response),
      );
    },
    { timeoutMs: 2000 },
  );
  for (const _ of endings) {
    const types = (await all(client.askStream(TURN))).map(({ type }) => type);
    assert.deepEqual(types, ['state', 'token', 'done']);
  }
  assert.equal(stub.requests.length, endings.length);
});

test('the NPCs of the world are listed', async (t) => {
  const { client } = await stubbed(t, () => {});
  assert.equal((await client.npcs())[0].npc_id, 'sora');
});
