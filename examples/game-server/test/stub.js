/** A stand-in for Persona's server, and the game server and its players as real processes. */

import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { WebSocket } from 'ws';

const FOLDER = new URL('..', import.meta.url).pathname;

export const NPCS = [
  {
    npc_id: 'sora',
    name: { ko: '윤소라', en: 'Sora Yun' },
    lang: 'ko',
    stages: ['not_started', 'in_progress', 'completed'],
    locations: ['lighthouse', 'harbor_market', 'ferry_landing'],
    initial_state: { trust: 0, relationship: 0.05, npc_mood: 'nervous' },
  },
  {
    npc_id: 'okbun',
    name: { ko: '서옥분', en: 'Okbun Seo' },
    lang: 'ko',
    stages: ['not_started', 'in_progress', 'completed'],
    locations: ['salt_fields'],
    initial_state: { trust: 0, relationship: 0, npc_mood: 'gruff' },
  },
];

/**
 * An HTTP server that answers POSTs with `answer(request, response, number)` and `/npcs` with NPCS.
 * What was asked is in `requests`: `{ headers, text, body }`.
 */
export async function startStub(answer) {
  const requests = [];
  const server = createServer(async (request, response) => {
    if (request.url === '/npcs') return reply(response, 200, NPCS);
    const parts = [];
    for await (const part of request) parts.push(part);
    const text = Buffer.concat(parts).toString();
    requests.push({ headers: request.headers, text, body: text ? JSON.parse(text) : null });
    return answer(request, response, requests.length);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    requests,
    close: () => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}

export function reply(response, status, content, headers = {}) {
  response.writeHead(status, { 'Content-Type': 'application/json', ...headers });
  response.end(JSON.stringify(content));
}

export function problem(response, status, code, headers = {}) {
  const type = { 'Content-Type': 'application/problem+json' };
  const content = { type: 'about:blank', title: code, status, code, detail: `it is ${code}` };
  response.writeHead(status, { ...type, ...headers });
  response.end(JSON.stringify(content));
}

/** An answer of the engine, with what a test wants to be different. */
export function makeAnswer({ turnId = 't1', text = '네.', flags = {}, values = {}, ...rest } = {}) {
  const detail = (name) => [name, { score: 0.9, threshold: 0.5, value: values[name], text: name }];
  return {
    text,
    delta: rest.delta ?? { trust: 0.1, relationship: -0.02 },
    flags: { give_item: false, quest_stage_change: false, ...flags },
    meta: {
      turn_id: turnId,
      valid: true,
      reason: null,
      history: 'fresh',
      flags_detail: Object.fromEntries(Object.keys(flags).map(detail)),
      ...rest.meta,
    },
  };
}

/** The same as events: `state`, a `token` for each word, `done`. */
export function eventsOf(answer) {
  const { turn_id, flags_detail } = answer.meta;
  const state = { turn_id, delta: answer.delta, flags: answer.flags, flags_detail };
  const words = answer.text.match(/\S+\s*/g) ?? [];
  return [sse('state', state), ...words.map((text) => sse('token', { text })), sse('done', answer)];
}

export function sse(name, content) {
  return `event: ${name}\ndata: ${JSON.stringify(content)}\n\n`;
}

export function stream(response, events) {
  response.writeHead(200, { 'Content-Type': 'text/event-stream' });
  response.end(events.join(''));
}

/** Answer as the request wants it. */
export function answerTurn(request, response, answer) {
  if (request.headers.accept === 'text/event-stream') stream(response, eventsOf(answer));
  else reply(response, 200, answer);
}

export async function makeFolder(t) {
  const folder = await mkdtemp(join(tmpdir(), 'game-server-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** The game server as a process of its own. */
export async function startGame({ personaUrl, data, env = {} }) {
  const child = spawn(process.execPath, ['server.js'], {
    cwd: FOLDER,
    env: { ...process.env, PERSONA_URL: personaUrl, DATA: data, PORT: '0', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let errors = '';
  child.stderr.on('data', (bytes) => {
    errors += bytes;
  });
  const exited = new Promise((resolve) => child.once('exit', (code) => resolve(code)));
  const url = await new Promise((resolve, reject) => {
    child.stdout.on('data', (bytes) => {
      const found = /http:\/\/\S+/.exec(String(bytes));
      if (found) resolve(found[0]);
    });
    exited.then((code) => reject(new Error(`the game server ended with ${code}: ${errors}`)));
  });
  return {
    url,
    errors: () => errors,
    async stop(signal = 'SIGTERM') {
      child.kill(signal);
      return exited;
    },
  };
}

/** A player's WebSocket: `send`, and `until` a message of one of these types comes. */
export async function joinGame(url, playerId) {
  const address = `${url.replace('http', 'ws')}/play?player_id=${playerId}`;
  const socket = new WebSocket(address);
  const messages = [];
  let wake = () => {};
  let end = null;
  socket.on('message', (bytes) => {
    messages.push(JSON.parse(bytes));
    wake();
  });
  socket.on('close', (code, reason) => {
    end = new Error(`the socket closed: ${code} ${reason}`);
    wake();
  });
  socket.on('error', (error) => {
    end = error;
    wake();
  });
  const player = {
    socket,
    send: (message) => socket.send(JSON.stringify(message)),
    async next() {
      while (!messages.length) {
        if (end) throw end;
        await new Promise((resolve) => {
          wake = resolve;
        });
      }
      return messages.shift();
    },
    /** All messages up to the first of one of `types`. */
    async until(...types) {
      const got = [];
      do got.push(await player.next());
      while (!types.includes(got.at(-1).type));
      return got;
    },
    async ask(message, ...types) {
      player.send(message);
      return (await player.until(...types, 'error')).at(-1);
    },
    /** One turn: its `state`, the texts of its tokens, its `done`; an error is thrown. */
    async say(npcId, text, sayId) {
      player.send({ type: 'say', npc_id: npcId, text, say_id: sayId });
      const got = await player.until('done', 'error');
      const last = got.at(-1);
      if (last.type === 'error') throw Object.assign(new Error(last.message), last);
      const tokens = got.filter((one) => one.type === 'token').map((one) => one.text);
      return { state: got.find((one) => one.type === 'state'), tokens, done: last, all: got };
    },
    leave: () => socket.close(),
  };
  player.status = (await player.until('status'))[0];
  return player;
}
