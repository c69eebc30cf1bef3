import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { test } from 'node:test';

import { answerTurn, makeAnswer, makeFolder, startGame, startStub } from './stub.js';

/** What `play.js` prints when these lines are typed, and how it ends. */
async function played(url, ...typed) {
  const file = new URL('../play.js', import.meta.url).pathname;
  const child = spawn(process.execPath, [file, 'p1', url.replace('http', 'ws')]);
  let output = '';
  child.stdout.on('data', (bytes) => (output += bytes));
  child.stderr.on('data', (bytes) => (output += bytes));
  child.stdin.end(typed.map((line) => `${line}\n`).join(''));
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

test('a game server that is not there is told as such', async () => {
  const { output, code } = await played('http://127.0.0.1:1', 'hello');
  assert.equal(code, 1);
  assert.match(output, /ws:\/\/127\.0\.0\.1:1 cannot be reached .*; start it with npm start/);
});
