#!/usr/bin/env node
/**
 * A client for the terminal: `npm run play`, or `node play.js NAME [ws://localhost:3000]`.
 */

import { createInterface } from 'node:readline';

import { WebSocket } from 'ws';

const HELP = `  /to NPC       whom you talk to          /me      where you are, what you have
  /go PLACE     walk there                /take ITEM
  /quit         anything else is said to the NPC`;

const [playerId = 'traveller', server = 'ws://localhost:3000'] = process.argv.slice(2);
const address = new URL('/play', server);
address.searchParams.set('player_id', playerId);

const socket = new WebSocket(address);
let lines;
let npcId = 'sora';
let numAwaited = 1; // the status that greets us
let isLeaving = false;

/** What each message looks like; those that end something return true. */
const SHOW = {
  status({ player, game, npcs, items_here: itemsHere }) {
    console.log(`  at ${player.location}, carrying ${player.items.join(', ') || 'nothing'}`);
    for (const { npc_id: id, name } of npcs.filter((npc) => npc.is_here)) {
      const { trust, npc_mood: mood } = player.npcs[id];
      console.log(
        `  ${id} (${name.ko ?? name}) is here: ${game.quests[id]}, trust ${trust}, ${mood}`,
      );
    }
    if (itemsHere.length) console.log(`  lying here: ${itemsHere.join(', ')}`);
    return true;
  },
  state({ npc_id: speaker, delta, events }) {
    const changes = Object.entries(delta).map(([name, by]) => `${name} ${by < 0 ? '' : '+'}${by}`);
    console.log(`  [${changes.join(', ')}]`);
    for (const { flag, value, text } of events) console.log(`  * ${text ?? `${flag} ${value}`}`);
    process.stdout.write(`${speaker}: `);
  },
  token({ text }) {
    process.stdout.write(text);
  },
  done({ npc_action: action }) {
    console.log(action ? `\n  (${action})` : '');
    return true;
  },
  error({ code, message }) {
    console.log(`  ! ${code}: ${message}`);
    return true;
  },
};

function act(line) {
  const [command, argument] = line.trim().split(/\s+/);
  if (command === '/quit') leave();
  else if (command === '/me') send({ type: 'status' });
  else if (command === '/go') send({ type: 'go', location: argument });
  else if (command === '/take') send({ type: 'take', item: argument });
  else if (command === '/to' && argument) npcId = argument;
  else if (!command || command.startsWith('/')) console.log(HELP);
  else send({ type: 'say', npc_id: npcId, text: line });
  if (numAwaited === 0 && !isLeaving) lines.prompt();
}

function send(message) {
  numAwaited += 1;
  socket.send(JSON.stringify(message));
}

/** Hang up once everything is answered. */
function leave() {
  isLeaving = true;
  if (numAwaited === 0) socket.close();
}

socket.on('open', () => {
  console.log(HELP);
  lines = createInterface({ input: process.stdin, output: process.stdout });
  lines.on('line', act);
  lines.on('close', leave);
});
socket.on('message', (bytes) => {
  const message = JSON.parse(bytes);
  if (!SHOW[message.type]?.(message)) return;
  numAwaited -= 1;
  if (isLeaving) leave();
  else if (numAwaited === 0) lines.prompt();
});
socket.on('close', (code, reason) => {
  if (code !== 1005) console.log(`the server hung up: ${reason || code}`);
  lines?.close();
});
socket.on('error', (error) => {
  console.error(`${server} cannot be reached (${error.message}); start it with npm start`);
  process.exitCode = 1;
});
