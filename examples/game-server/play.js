#!/usr/bin/env node
/** A client for the terminal: see USAGE. */

import { createInterface } from 'node:readline';

import { WebSocket } from 'ws';

const USAGE = `usage: npm run play [-- NAME [ADDRESS]]

  NAME      who you are (default: traveller); a new name starts a new game
  ADDRESS   of the game server (default: ws://localhost:3000, or the PORT of the environment)`;

const HELP = `  What you type is said to whoever the prompt names.
  /to NPC       whom you talk to          /me      where you are, what you have
  /go PLACE     walk there                /take ITEM
  /quit`;

const args = process.argv.slice(2);
if (args.includes('--help') || args.includes('-h')) end(USAGE, 0);
if (args.length > 2 || args.some((arg) => arg.startsWith('-'))) end(USAGE, 2);
const [playerId = 'traveller', server = `ws://localhost:${process.env.PORT || 3000}`] = args;
if (!URL.canParse('/play', server) || !/^wss?:/.test(server)) {
  end(`${server} is no address of a game server; write ws://HOST:PORT`, 2);
}
const address = new URL('/play', server);
address.searchParams.set('player_id', playerId);

const socket = new WebSocket(address);
const typed = [];
let lines;
/** The NPCs of the game, as in the last status. */
let npcs = [];
let npcId = '';
let numAwaited = 1; // the status that greets us
let isLeaving = false;

/** What each message looks like; those that end something return true. */
const SHOW = {
  status({ player, game, npcs: known, items_here: itemsHere }) {
    npcs = known;
    console.log(`  at ${player.location}, carrying ${player.items.join(', ') || 'nothing'}`);
    for (const { npc_id: id, name } of present()) {
      const { trust, npc_mood: mood } = player.npcs[id];
      console.log(
        `  ${id} (${name.ko ?? name}) is here: ${game.quests[id]}, trust ${trust}, ${mood}`,
      );
    }
    if (itemsHere.length) console.log(`  lying here: ${itemsHere.join(', ')}`);
    if (!present().some((npc) => npc.npc_id === npcId)) npcId = present()[0]?.npc_id ?? '';
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

function present() {
  return npcs.filter((npc) => npc.is_here);
}

function act(line) {
  const [command, argument] = line.trim().split(/\s+/);
  if (command === '/quit') isLeaving = true;
  else if (command === '/me') send({ type: 'status' });
  else if (command === '/go') send({ type: 'go', location: argument });
  else if (command === '/take') send({ type: 'take', item: argument });
  else if (command === '/to' && argument) turnTo(argument);
  else if (!command || command.startsWith('/')) console.log(HELP);
  else if (npcId) send({ type: 'say', npc_id: npcId, text: line });
  else console.log('  ! nobody is here; go somewhere else');
}

function turnTo(id) {
  const ids = (some) => some.map((npc) => npc.npc_id).join(', ') || 'nobody';
  if (present().some((npc) => npc.npc_id === id)) npcId = id;
  else if (npcs.some((npc) => npc.npc_id === id)) {
    console.log(`  ! ${id} is not here; here: ${ids(present())}`);
  } else console.log(`  ! no NPC ${id}; there are ${ids(npcs)}`);
}

function send(message) {
  numAwaited += 1;
  socket.send(JSON.stringify(message));
}

/** What was typed, one thing at a time; then ask for more, or hang up. */
function goOn() {
  while (numAwaited === 0 && typed.length && !isLeaving) act(typed.shift());
  if (numAwaited > 0) return;
  if (isLeaving) {
    socket.close();
    return;
  }
  lines.setPrompt(`${npcId}> `);
  lines.prompt();
}

function end(text, code) {
  (code ? console.error : console.log)(text);
  process.exit(code);
}

socket.on('open', () => {
  console.log(HELP);
  lines = createInterface({ input: process.stdin, output: process.stdout });
  lines.on('line', (line) => {
    typed.push(line);
    goOn();
  });
  lines.on('close', () => {
    typed.push('/quit');
    goOn();
  });
});
socket.on('message', (bytes) => {
  const message = JSON.parse(bytes);
  if (!SHOW[message.type]?.(message)) return;
  numAwaited -= 1;
  goOn();
});
socket.on('close', (code, reason) => {
  if (code !== 1005) console.log(`the server hung up: ${reason || code}`);
  lines?.close();
});
socket.on('error', (error) => {
  console.error(`${server} cannot be reached (${error.message}); start it with npm start`);
  process.exitCode = 1;
});
