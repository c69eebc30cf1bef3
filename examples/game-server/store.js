/**
 * The game's data: documents in collections, with the part of MongoDB's interface that the game
 * uses, in one append-only log.
 *
 * A transaction is one line of the log, written and flushed before it counts, so a process that is
 * killed at any moment leaves all of a transaction or nothing. All documents are held in memory;
 * one process owns a folder.
 */

import { mkdir, open, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

const MIN_LINES_TO_COMPACT = 1_000;

export class StoreError extends Error {}

/** As MongoDB's: the code that drivers tell it by. */
export class DuplicateKeyError extends StoreError {
  code = 11000;
}

export class Store {
  /** @type {Map<string, Map<string, object>>} */
  #tables = new Map();
  #folder;
  #log;
  #size = 0;
  #queue = Promise.resolve();

  /**
   * The store in `folder`, made if it is not there.
   * @param {string} folder
   * @returns {Promise<Store>}
   */
  static async open(folder) {
    await mkdir(folder, { recursive: true });
    await claim(join(folder, 'store.pid'));
    const store = new Store(folder);
    await store.#load();
    return store;
  }

  /** @param {string} folder */
  constructor(folder) {
    this.#folder = folder;
  }

  /**
   * Each write to it is a transaction of its own.
   * @param {string} name
   */
  collection(name) {
    const read = new Transaction(this.#tables).collection(name);
    const write =
      (method) =>
      (...args) =>
        this.withTransaction((tx) => tx.collection(name)[method](...args));
    return {
      findOne: (filter) => read.findOne(filter),
      find: (filter) => read.find(filter),
      insertOne: write('insertOne'),
      updateOne: write('updateOne'),
      deleteOne: write('deleteOne'),
    };
  }

  /**
   * Runs `work(tx)` alone; what it wrote by `tx.collection(name)` is kept whole, or not at all
   * where it throws.
   * @template T
   * @param {(tx: Transaction) => Promise<T>} work
   * @returns {Promise<T>}
   */
  withTransaction(work) {
    const result = this.#queue.then(() => this.#commit(work));
    this.#queue = result.then(
      () => {},
      () => {},
    );
    return result;
  }

  /** Waits for what is being written. */
  async close() {
    await this.#queue;
    await this.#log.close();
    await rm(join(this.#folder, 'store.pid'), { force: true });
  }

  async #commit(work) {
    const tx = new Transaction(this.#tables);
    const result = await work(tx);
    if (tx.changes.length) {
      await this.#append(`${JSON.stringify(tx.changes)}\n`);
      this.#take(tx.changes);
    }
    return result;
  }

  async #append(line) {
    try {
      await this.#log.appendFile(line);
      await this.#log.datasync();
      this.#size += Buffer.byteLength(line);
    } catch (error) {
      await this.#log.truncate(this.#size).catch(() => {}); // no half line for the next to follow
      throw new StoreError(`${this.#file} cannot be written: ${error.message}`, { cause: error });
    }
  }

  #take(changes) {
    for (const change of changes) {
      const [name] = change;
      if (!this.#tables.has(name)) this.#tables.set(name, new Map());
      applyChange(this.#tables.get(name), change);
    }
  }

  get #file() {
    return join(this.#folder, 'store.jsonl');
  }

  async #load() {
    const bytes = await readFile(this.#file).catch((error) => {
      if (error.code === 'ENOENT') return Buffer.alloc(0);
      throw error;
    });
    this.#size = bytes.lastIndexOf('\n') + 1; // what comes after was being written at the end
    const lines = bytes.toString('utf8', 0, this.#size).split('\n').slice(0, -1);
    for (const [index, line] of lines.entries()) this.#take(this.#parse(line, index + 1));
    const num = [...this.#tables.values()].reduce((sum, table) => sum + table.size, 0);
    if (lines.length > Math.max(MIN_LINES_TO_COMPACT, 4 * num)) await this.#compact();
    this.#log = await open(this.#file, 'a');
    await this.#log.truncate(this.#size);
  }

  #parse(line, number) {
    try {
      return JSON.parse(line);
    } catch (error) {
      const remedy = 'restore the file from a backup, or delete the line to do without it';
      throw new StoreError(`${this.#file}:${number}: not JSON (${error.message}); ${remedy}`);
    }
  }

  /** One line for each document, in a new file that then takes the place of the old. */
  async #compact() {
    const lines = [];
    for (const [name, table] of this.#tables) {
      for (const document of table.values()) lines.push(`${JSON.stringify([[name, document]])}\n`);
    }
    const text = lines.join('');
    const fresh = await open(`${this.#file}.new`, 'w');
    await fresh.writeFile(text);
    await fresh.sync();
    await fresh.close();
    await rename(`${this.#file}.new`, this.#file);
    const folder = await open(this.#folder);
    await folder.sync();
    await folder.close();
    this.#size = Buffer.byteLength(text);
  }
}

/**
 * What a transaction did to a document: the collection, and the document as it is now, or only its
 * `_id` with `true` where it is deleted.
 * @typedef {[string, { _id: string }, true?]} Change
 */

/** What is written stays aside until it is committed; what is read includes it. */
class Transaction {
  /** @type {Change[]} */
  changes = [];
  #tables;

  constructor(tables) {
    this.#tables = tables;
  }

  /** @param {string} name */
  collection(name) {
    return {
      findOne: async (filter) => structuredClone(this.#first(name, filter) ?? null),
      find: (filter = {}) => ({
        toArray: async () => structuredClone(this.#all(name).filter((doc) => matches(doc, filter))),
      }),
      insertOne: async (document) => this.#insert(name, document),
      updateOne: async (filter, update, options = {}) =>
        this.#update(name, filter, update, options),
      deleteOne: async (filter) => this.#delete(name, filter),
    };
  }

  #insert(name, document) {
    if (typeof document._id !== 'string') {
      throw new StoreError(`${name}: a document needs an _id that is text, not ${document._id}`);
    }
    if (this.#first(name, { _id: document._id })) {
      throw new DuplicateKeyError(`${name}: there is a document ${document._id} already`);
    }
    this.#change([name, structuredClone(document)]);
    return { insertedId: document._id };
  }

  #update(name, filter, update, { upsert = false }) {
    const found = this.#first(name, filter);
    if (!found && !upsert) return { matchedCount: 0, upsertedCount: 0 };
    const document = structuredClone(found ?? { ...filter });
    applyUpdate(document, update);
    this.#change([name, document]);
    return { matchedCount: found ? 1 : 0, upsertedCount: found ? 0 : 1 };
  }

  #delete(name, filter) {
    const found = this.#first(name, filter);
    if (found) this.#change([name, { _id: found._id }, true]);
    return { deletedCount: found ? 1 : 0 };
  }

  #change(change) {
    const [name, { _id }] = change;
    this.changes = this.changes.filter(([table, doc]) => table !== name || doc._id !== _id);
    this.changes.push(change);
  }

  #first(name, filter) {
    if (!('_id' in filter)) return this.#all(name).find((doc) => matches(doc, filter));
    const written = this.changes.find(([table, doc]) => table === name && doc._id === filter._id);
    const [, changed, isDeleted] = written ?? [];
    const document = isDeleted ? undefined : (changed ?? this.#tables.get(name)?.get(filter._id));
    return document && matches(document, filter) ? document : undefined;
  }

  #all(name) {
    const table = new Map(this.#tables.get(name));
    for (const change of this.changes) if (change[0] === name) applyChange(table, change);
    return [...table.values()];
  }
}

function applyChange(table, [, document, isDeleted]) {
  if (isDeleted) table.delete(document._id);
  else table.set(document._id, document);
}

function matches(document, filter) {
  return Object.entries(filter).every(([key, value]) => document[key] === value);
}

const OPERATORS = {
  $set: (holder, key, value) => {
    holder[key] = value;
  },
  $unset: (holder, key) => {
    delete holder[key];
  },
  $addToSet: (holder, key, value) => {
    holder[key] ??= [];
    if (!holder[key].includes(value)) holder[key].push(value);
  },
  $pull: (holder, key, value) => {
    holder[key] = (holder[key] ?? []).filter((item) => item !== value);
  },
  $push: (holder, key, { $each, $slice }) => {
    holder[key] = [...(holder[key] ?? []), ...$each].slice($slice);
  },
};

function applyUpdate(document, update) {
  for (const [operator, values] of Object.entries(update)) {
    const apply = OPERATORS[operator];
    if (!apply) {
      const known = Object.keys(OPERATORS).join(', ');
      throw new StoreError(`there is no update operator ${operator}; there are ${known}`);
    }
    for (const [path, value] of Object.entries(values)) {
      const keys = path.split('.');
      const last = keys.pop();
      const holder = keys.reduce((inner, key) => (inner[key] ??= {}), document);
      apply(holder, last, structuredClone(value));
    }
  }
}

/** Writes our pid down, unless a process that lives has the folder. */
async function claim(file) {
  const owner = Number(await readFile(file, 'utf8').catch(() => ''));
  if (owner && owner !== process.pid && isAlive(owner)) {
    const remedy = `stop it first; if process ${owner} is something else, delete the file`;
    throw new StoreError(`${file}: process ${owner} uses this store; ${remedy}`);
  }
  await writeFile(file, String(process.pid));
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}
