#!/usr/bin/env node
/**
 * The game server: players come by WebSocket (or plain HTTP), NPCs answer through Persona Chat
 * Engine.
 *
 * Settings come from the environment: PERSONA_URL, PERSONA_API_KEY, HOST, PORT, DATA.
 */

import { createServer } from 'node:http';

import { WebSocketServer } from 'ws';

import { Game, GameError, checkPlayerId } from './game.js';
import { PersonaClient, PersonaError } from './persona-client.js';
import { Store, StoreError } from './store.js';
import { Turns, isRefusal } from './turns.js';

const MAX_MESSAGE = 16 * 1024;
const MAX_QUEUE = 8;
const LAST_WORDS_MS = 1_000;

const settings = {
  personaUrl: process.env.PERSONA_URL ?? 'http://localhost:8000',
  apiKey: process.env.PERSONA_API_KEY,
  host: process.env.HOST ?? '127.0.0.1',
  port: Number(process.env.PORT ?? 3000),
  data: process.env.DATA ?? 'data',
};

/** What keeps the game server from starting; the message says what to do. */
class StartError extends Error {}

/** One player's connection: what the player does is done in order, one thing at a time. */
class Connection {
  #work;
  #numWaiting = 0;
  #isStopping = false;

  constructor(socket, playerId, game, turns) {
    this.socket = socket;
    this.playerId = playerId;
    this.game = game;
    this.turns = turns;
    this.#work = this.#sendStatus().catch(console.error);
    socket.on('message', (bytes) => this.#enqueue(bytes));
    socket.on('error', (error) => console.error(`player ${playerId}: ${error.message}`));
  }

  /** Takes nothing more; settles when what was taken is done. */
  stop() {
    this.#isStopping = true;
    return this.#work;
  }

  #enqueue(bytes) {
    if (this.#isStopping) return;
    if (this.#numWaiting >= MAX_QUEUE) {
      this.#send({ type: 'error', code: 'too_fast', message: `${MAX_QUEUE} messages are waiting` });
      return;
    }
    this.#numWaiting += 1;
    this.#work = this.#work
      .then(() => this.#answer(bytes))
      .finally(() => {
        this.#numWaiting -= 1;
      });
  }

  async #answer(bytes) {
    let message = {};
    try {
      message = readMessage(bytes);
      await this.#act(message);
    } catch (error) {
      this.#send({ type: 'error', ...told(error), say_id: message.say_id });
    }
  }

  async #act(message) {
    const { type } = message;
    if (type === 'say') {
      const said = { ...message, player_id: this.playerId };
      for await (const part of this.turns.say(said)) this.#send(part);
    } else if (type === 'go') {
      await this.game.go(this.playerId, message.location);
    } else if (type === 'take') {
      await this.game.take(this.playerId, message.item);
    } else if (type !== 'status') {
      throw new GameError('bad_message', 'type must be say, go, take or status');
    }
    if (type !== 'say') await this.#sendStatus();
  }

  async #sendStatus() {
    this.#send({ type: 'status', ...(await this.game.status(this.playerId)) });
  }

  /** To a player who has left, nothing: the turn goes on all the same. */
  #send(message) {
    if (this.socket.readyState === this.socket.OPEN) this.socket.send(JSON.stringify(message));
  }
}

function readMessage(text) {
  let message;
  try {
    message = JSON.parse(String(text));
  } catch (error) {
    throw new GameError('bad_message', `not JSON: ${error.message}`);
  }
  if (typeof message !== 'object' || message === null || Array.isArray(message)) {
    throw new GameError('bad_message', 'send a JSON object');
  }
  return message;
}

/** What may be told of an error to a player. */
function told(error) {
  if (error instanceof GameError) return { code: error.code, message: error.message };
  if (error instanceof PersonaError) {
    console.error(error.message);
    const message = isRefusal(error)
      ? 'The NPC cannot answer that, however often it is said.'
      : 'The NPC cannot answer now. Say it again in a while.';
    return { code: error.code, message };
  }
  console.error(error);
  return { code: 'internal', message: 'The game server failed.' };
}

const STATUSES = { internal: 500, unknown_npc: 404, not_found: 404 };

/** The engine's own status where that concerns who speaks, not this server (a wrong API key). */
function statusOf(error, code) {
  if (!(error instanceof PersonaError)) return STATUSES[code] ?? 400;
  return isRefusal(error) || error.status === 429 ? error.status : 503;
}

/** `POST /say` for games without a socket, `GET /players/ID`, `GET /healthz`. */
async function answerHttp(request, response, game, turns) {
  try {
    const url = new URL(request.url, 'http://localhost');
    const [, route, id = ''] = url.pathname.split('/');
    let content;
    if (request.method === 'GET' && route === 'healthz') content = { status: 'ok' };
    else if (request.method === 'GET' && route === 'players') content = await game.status(id);
    else if (request.method === 'POST' && route === 'say')
      content = await sayOnce(request, game, turns);
    else throw new GameError('not_found', `no route ${request.method} ${url.pathname}`);
    reply(response, 200, content);
  } catch (error) {
    const what = told(error);
    reply(response, statusOf(error, what.code), what);
  }
}

async function sayOnce(request, game, turns) {
  const said = readMessage(await body(request));
  await game.status(said.player_id);
  let answer = {};
  for await (const part of turns.say(said, { isStreamed: false })) answer = { ...answer, ...part };
  const { type: _, ...content } = answer;
  return content;
}

async function body(request) {
  const parts = [];
  let size = 0;
  for await (const part of request) {
    size += part.length;
    if (size > MAX_MESSAGE) throw new GameError('bad_message', `over ${MAX_MESSAGE} bytes`);
    parts.push(part);
  }
  return Buffer.concat(parts);
}

function reply(response, status, content) {
  response.writeHead(status, { 'Content-Type': 'application/json' });
  response.end(JSON.stringify(content));
}

async function learnNpcs(game, persona) {
  try {
    await game.learnNpcs(await persona.npcs());
  } catch (error) {
    if (!(error instanceof PersonaError)) throw error;
    if (await game.hasNpcs()) {
      console.error(`going on with the NPCs of last time: ${error.message}`);
      return;
    }
    if (error.code !== 'connection_failed') throw error;
    const remedy = 'start the engine (scripts/serve) or set PERSONA_URL';
    throw new StartError(`${error.message}; ${remedy}`, { cause: error });
  }
}

/** Settles when players can come. The server's errors are those of `sockets`, too. */
async function listen(server, sockets) {
  const { port, host } = settings;
  await new Promise((resolve, reject) => {
    const fail = (error) => {
      const isTaken = error.code === 'EADDRINUSE';
      reject(isTaken ? new StartError(`port ${port} is in use; set PORT`) : error);
    };
    sockets.once('error', fail);
    server.listen(port, host, () => {
      sockets.off('error', fail);
      resolve();
    });
  });
}

async function main() {
  const store = await Store.open(settings.data);
  const game = new Game(store);
  const persona = new PersonaClient({ baseUrl: settings.personaUrl, apiKey: settings.apiKey });
  await learnNpcs(game, persona);
  const turns = new Turns(game, persona);

  const server = createServer((request, response) => answerHttp(request, response, game, turns));
  const sockets = new WebSocketServer({ server, path: '/play', maxPayload: MAX_MESSAGE });
  const connections = new Set();
  sockets.on('connection', (socket, request) => {
    const playerId = new URL(request.url, 'http://localhost').searchParams.get('player_id') ?? '';
    try {
      checkPlayerId(playerId);
    } catch (error) {
      socket.close(1008, error.message);
      return;
    }
    const connection = new Connection(socket, playerId, game, turns);
    connections.add(connection);
    socket.on('close', () => connection.stop().then(() => connections.delete(connection)));
  });

  await listen(server, sockets);
  const { address, port } = server.address();
  console.log(`the game server listens on http://${address}:${port}`);

  async function stop() {
    const isClosed = new Promise((resolve) => server.close(resolve)); // with the turns over HTTP
    await Promise.all([...connections].map((connection) => connection.stop()));
    for (const socket of sockets.clients) {
      socket.close(1001, 'the game server stops');
      setTimeout(() => socket.terminate(), LAST_WORDS_MS);
    }
    await isClosed;
    await store.close();
    process.exit(0);
  }
  process.once('SIGTERM', stop);
  process.once('SIGINT', stop);
}

main().catch((error) => {
  const expected = [PersonaError, StartError, StoreError];
  const isExpected = expected.some((kind) => error instanceof kind);
  console.error(isExpected ? `game server: ${error.message}` : error);
  process.exit(1);
});
