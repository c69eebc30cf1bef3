import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { test } from 'node:test';

import { answerTurn, makeAnswer, makeFolder, startGame, startStub } from './stub.js';

/** What `play.js` prints when these lines are typed, each at a prompt, and how it ends. */
function played(url, ...typed) {
  return run(['p1', url.replace('http', 'ws')], {}, typed);
}

async function run(args, env = {}, typed = []) {
  const file = new URL('../play.js', import.meta.url).pathname;
  const child = spawn(process.execPath, [file, ...args], { env: { ...process.env, ...env } });
  let output = '';
  child.stdout.on('data', (bytes) => {
    output += bytes;
    if (!output.endsWith('> ')) return;
    if (typed.length) child.stdin.write(`${typed.shift()}\n`);
    else child.stdin.end();
  });
  child.stderr.on('data', (bytes) => (output += bytes));
  const code = await new Promise((resolve) => child.once('close', resolve));
  return { output, code };
}

test('a session in the terminal shows where one is, what is said and what comes of it', async (t) => {
  const stub = await startStub((request, response) =>
    answerTurn(
      request,
      response,
      makeAnswer({
        text: '여기 있어요.',
        flags: { give_item: true },
        values: { give_item: 'oar' },
      }),
    ),
  );
  t.after(stub.close);
  const game = await startGame({ personaUrl: stub.url, data: await makeFolder(t) });
  t.after(() => game.stop('SIGKILL'));
  const { output, code } = await played(game.url, '/to sora', '노 좀 빌려줘요', '/me', '/go moon');
  assert.equal(code, 0);
  assert.match(output, /sora \(윤소라\) is here: not_started, trust 0, nervous/);
  assert.match(
    output,
    /\[trust \+0\.1, relationship -0\.02\]\n {2}\* give_item\nsora: 여기 있어요\.\n/,
  );
  assert.match(output, /at ferry_landing, carrying oar/);
  assert.match(output, /! no_such_place: no place moon; there are lighthouse/);
});

test('who is spoken to is in the prompt, and must be there', async (t) => {
  const stub = await startStub((request, response) =>
    answerTurn(request, response, makeAnswer({ text: '네.' })),
  );
  t.after(stub.close);
  const game = await startGame({ personaUrl: stub.url, data: await makeFolder(t) });
  t.after(() => game.stop('SIGKILL'));
  const typed = ['/to soraa', '/to okbun', '/go salt_fields', '계세요?', '/to okbun'];
  const { output } = await played(game.url, ...typed);
  assert.match(output, /sora> .*! no NPC soraa; there are sora, okbun\n/);
  assert.match(output, /! okbun is not here; here: sora\n/);
  assert.match(output, /okbun: 네\.\n/);
  assert.match(output, /okbun> $/);
  assert.equal(stub.requests[0].body.npc_id, 'okbun');
  const { output: again } = await run(['p2'], { PORT: new URL(game.url).port });
  assert.match(again, /at ferry_landing/, 'PORT says where');
});

test('what is piped in is done in order, one thing at a time', async (t) => {
  const stub = await startStub((request, response, number) =>
    answerTurn(request, response, makeAnswer({ turnId: `t${number}`, text: '네.' })),
  );
  t.after(stub.close);
  const game = await startGame({ personaUrl: stub.url, data: await makeFolder(t) });
  t.after(() => game.stop('SIGKILL'));
  const { output } = await played(game.url, '/go salt_fields\n하나\n둘\n/go lighthouse\n셋');
  const told = [...output.matchAll(/(\w+): 네\./g)].map(([, speaker]) => speaker);
  assert.deepEqual(told, ['okbun', 'okbun', 'sora']);
});

test('how it is used is told, and what is wrong with an address', async () => {
  const help = await run(['--help']);
  assert.equal(help.code, 0);
  assert.match(help.output, /^usage: npm run play \[-- NAME \[ADDRESS\]\]/);
  assert.equal((await run(['--name', 'p1'])).code, 2);
  const { output, code } = await run(['p1', 'localhost:3123']);
  assert.equal(code, 2);
  assert.match(output, /^localhost:3123 is no address .*; write ws:\/\/HOST:PORT\n$/);
});

test('a game server that is not there is told as such', async () => {
  const { output, code } = await played('http://127.0.0.1:1', 'hello');
  assert.equal(code, 1);
  assert.match(output, /ws:\/\/127\.0\.0\.1:1 cannot be reached .*; start it with npm start/);
});
