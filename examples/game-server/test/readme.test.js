import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';

import { answerTurn, makeAnswer, startStub } from './stub.js';

const folder = new URL('..', import.meta.url);

test("the README's code runs as it stands there", async (t) => {
  const stub = await startStub((request, response) =>
    answerTurn(request, response, makeAnswer({ text: '어서 와요.' })),
  );
  t.after(stub.close);
  const readme = await readFile(new URL('README.md', folder), 'utf8');
  const [, code] = /```js\n(.*?)```/s.exec(readme);
  const child = spawn(process.execPath, ['--input-type=module', '-'], {
    cwd: folder,
    env: { ...process.env, PERSONA_URL: stub.url, PERSONA_API_KEY: 'a-key-of-the-game' },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.on('data', (bytes) => (output += bytes));
  child.stdin.end(code);
  assert.equal(await new Promise((resolve) => child.once('close', resolve)), 0);
  assert.match(output, /^t1 \{ trust: 0\.1, relationship: -0\.02 \}/);
  assert.match(output, /어서 와요\.\n\(fresh\)\n$/);
  assert.equal(stub.requests[0].headers.authorization, 'Bearer a-key-of-the-game');
});
