import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { copyFile, readFile, readdir, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { test } from 'node:test';

import { declarations, readDocument } from '../generate-types.js';
import { makeFolder } from './stub.js';

function declared(name, schema) {
  const text = declarations({ components: { schemas: { [name]: schema } } });
  return text.slice(text.indexOf('\n\n') + 2).trim();
}

test('a struct is an interface; what may be left out is optional', () => {
  const schema = {
    description: 'A turn.',
    type: 'object',
    properties: {
      id: { type: 'string', maxLength: 9 },
      score: { anyOf: [{ type: 'number' }, { type: 'null' }], default: null },
      'odd-name': { type: 'boolean' },
      lang: { enum: ['en', 'ko'], description: 'Two\n  lines.' },
    },
    required: ['id', 'lang'],
  };
  assert.equal(
    declared('Turn', schema),
    `/** A turn. */
export interface Turn {
  id: string;
  score?: number | null;
  "odd-name"?: boolean;
  /**
   * Two
   * lines.
   */
  lang: "en" | "ko";
}`,
  );
});

test('every form of schema has its type', () => {
  const cases = [
    [{}, 'unknown'],
    [true, 'unknown'],
    [{ $ref: '#/components/schemas/Other' }, 'Other'],
    [{ const: 'main' }, '"main"'],
    [{ type: 'integer' }, 'number'],
    [{ type: ['string', 'null'] }, 'string | null'],
    [
      { type: 'array', items: { anyOf: [{ type: 'string' }, { type: 'null' }] } },
      'Array<string | null>',
    ],
    [
      { type: 'array', prefixItems: [{ type: 'number' }, { type: 'string' }], items: false },
      '[number, string]',
    ],
    [{ type: 'object', additionalProperties: { type: 'number' } }, 'Record<string, number>'],
    [{ type: 'object' }, 'Record<string, unknown>'],
    [{ type: 'object', additionalProperties: false }, 'Record<string, never>'],
    [{ oneOf: [{ type: 'integer' }, { type: 'number' }] }, 'number'],
    [{ allOf: [{ $ref: '#/components/schemas/A' }, { enum: [1, 2] }] }, 'A & (1 | 2)'],
    [{ type: 'object', properties: { a: { type: 'null' } } }, 'interface'],
  ];
  for (const [schema, expected] of cases) {
    const text = declared('X', schema);
    if (expected === 'interface') assert.match(text, /^export interface X \{\n {2}a\?: null;\n\}$/);
    else assert.equal(text, `export type X = ${expected};`);
  }
});

test('a description cannot end its comment', () => {
  assert.match(declared('X', { description: 'a */ b', type: 'null' }), /^\/\*\* a \*\\\/ b \*\/\n/);
});

test('a document that is not OpenAPI is refused', () => {
  assert.throws(() => declarations({ title: 'x' }), /has no components\.schemas/);
});

test('a server that is not there is told with its address', async () => {
  await assert.rejects(readDocument('http://127.0.0.1:1/openapi.json'), {
    message:
      'http://127.0.0.1:1/openapi.json cannot be reached; start the engine, or name another address',
  });
});

test('npm run types writes the file whole, or leaves it as it was', async (t) => {
  const folder = await makeFolder(t);
  const sources = ['generate-types.js', 'package.json'];
  for (const name of sources) {
    await copyFile(new URL(`../${name}`, import.meta.url), join(folder, name));
  }
  const types = join(folder, 'types.d.ts');
  await writeFile(types, '// of last time\n');
  const run = (url) => {
    const env = { ...process.env, PERSONA_URL: url };
    const child = spawn('npm', ['run', 'types'], { cwd: folder, env, stdio: 'ignore' });
    return new Promise((resolve) => child.once('exit', resolve));
  };
  assert.notEqual(await run('http://127.0.0.1:1'), 0);
  assert.equal(await readFile(types, 'utf8'), '// of last time\n');

  const openapi = { components: { schemas: { Turn: { type: 'string' } } } };
  const server = createServer((_, response) => response.end(JSON.stringify(openapi)));
  t.after(() => server.close());
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  assert.equal(await run(`http://127.0.0.1:${server.address().port}`), 0);
  assert.equal(await readFile(types, 'utf8'), declarations(openapi));
  assert.deepEqual((await readdir(folder)).sort(), [...sources, 'types.d.ts']);
});

const source = process.env.PERSONA_OPENAPI;

test(
  'types.d.ts is what the server describes',
  { skip: !source && 'PERSONA_OPENAPI is not set' },
  async () => {
    const committed = await readFile(new URL('../types.d.ts', import.meta.url), 'utf8');
    const have = committed.split('\n');
    const want = declarations(await readDocument(source)).split('\n');
    const at = want.findIndex((line, index) => line !== have[index]);
    const where = `types.d.ts:${at + 1} has ${have[at]}, the server describes ${want[at]}`;
    assert.ok(at < 0 && have.length === want.length, `${where}; run npm run types`);
  },
);
