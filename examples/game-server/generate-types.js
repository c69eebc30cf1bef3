#!/usr/bin/env node
/**
 * TypeScript declarations out of the server's OpenAPI 3.1 document, into `types.d.ts` beside this.
 *
 *     node generate-types.js [OPENAPI]
 *
 * OPENAPI is a file or an address; without it, the document of the server at PERSONA_URL is read
 * (http://localhost:8000 if that is not set).
 */

import { readFile, rename, writeFile } from 'node:fs/promises';
import { fileURLToPath, pathToFileURL } from 'node:url';

const HEAD = `// Generated from the server's /openapi.json by generate-types.js (npm run types). Do not edit.\n`;
const REF = '#/components/schemas/';
const IDENTIFIER = /^[A-Za-z_$][\w$]*$/;

/**
 * Every schema of the document's components, in the order of their names.
 * @param {any} openapi
 * @returns {string}
 */
export function declarations(openapi) {
  const schemas = openapi?.components?.schemas;
  if (!schemas) throw new Error('the document has no components.schemas; is it an OpenAPI file?');
  const names = Object.keys(schemas).sort();
  return HEAD + names.map((name) => declaration(name, schemas[name])).join('');
}

function declaration(name, schema) {
  const head = `\n${comment(schema, '')}export `;
  if (hasFields(schema)) return `${head}interface ${identifier(name)} ${fields(schema, '')}\n`;
  return `${head}type ${identifier(name)} = ${type(schema, '')};\n`;
}

function type(schema, indent) {
  if (schema === true || schema === undefined) return 'unknown';
  if (schema === false) return 'never';
  if (schema.$ref) return identifier(schema.$ref.slice(REF.length));
  if ('const' in schema) return JSON.stringify(schema.const);
  if (schema.enum) return union(schema.enum.map((value) => JSON.stringify(value)));
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return union(choices.map((choice) => type(choice, indent)));
  if (schema.allOf) return schema.allOf.map((part) => grouped(type(part, indent))).join(' & ');
  if (Array.isArray(schema.type)) {
    return union(schema.type.map((one) => type({ ...schema, type: one }, indent)));
  }
  if (schema.type === 'array') return array(schema, indent);
  if (schema.type === 'object' || hasFields(schema)) return object(schema, indent);
  return (
    { string: 'string', integer: 'number', number: 'number', boolean: 'boolean', null: 'null' }[
      schema.type
    ] ?? 'unknown'
  );
}

function union(types) {
  return [...new Set(types)].join(' | ');
}

function grouped(text) {
  return text.includes(' | ') ? `(${text})` : text;
}

function array(schema, indent) {
  if (schema.prefixItems) {
    return `[${schema.prefixItems.map((item) => type(item, indent)).join(', ')}]`;
  }
  return `Array<${type(schema.items, indent)}>`;
}

function object(schema, indent) {
  if (hasFields(schema)) return fields(schema, indent);
  if (schema.additionalProperties === false) return 'Record<string, never>';
  return `Record<string, ${type(schema.additionalProperties, indent)}>`;
}

function hasFields(schema) {
  return Object.keys(schema.properties ?? {}).length > 0;
}

function fields(schema, indent) {
  const inner = `${indent}  `;
  const required = new Set(schema.required ?? []);
  const lines = Object.entries(schema.properties).map(([name, field]) => {
    const key = IDENTIFIER.test(name) ? name : JSON.stringify(name);
    const mark = required.has(name) ? '' : '?';
    return `${comment(field, inner)}${inner}${key}${mark}: ${type(field, inner)};\n`;
  });
  return `{\n${lines.join('')}${indent}}`;
}

function comment(schema, indent) {
  if (!schema.description) return '';
  const lines = schema.description.replaceAll('*/', '*\\/').trim().split('\n');
  if (lines.length === 1) return `${indent}/** ${lines[0]} */\n`;
  const body = lines.map((line) => `${indent} * ${line.trim()}`.trimEnd()).join('\n');
  return `${indent}/**\n${body}\n${indent} */\n`;
}

function identifier(name) {
  return name.replace(/[^\w$]/g, '_');
}

/**
 * An OpenAPI document from a file or an address.
 * @param {string} source
 */
export async function readDocument(source) {
  if (!/^https?:/.test(source)) return JSON.parse(await readFile(source, 'utf8'));
  const response = await fetch(source).catch(() => {
    throw new Error(`${source} cannot be reached; start the engine, or name another address`);
  });
  if (!response.ok)
    throw new Error(`${source} answered ${response.status}; is the server running?`);
  return response.json();
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const server = process.env.PERSONA_URL ?? 'http://localhost:8000';
  const [source = `${server.replace(/\/$/, '')}/openapi.json`] = process.argv.slice(2);
  try {
    const target = fileURLToPath(new URL('types.d.ts', import.meta.url));
    await writeFile(`${target}.new`, declarations(await readDocument(source)));
    await rename(`${target}.new`, target);
  } catch (error) {
    console.error(`generate-types: ${error.message}`);
    process.exit(1);
  }
}
