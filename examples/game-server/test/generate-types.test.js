import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';

import { declarations, readDocument } from '../generate-types.js';

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
