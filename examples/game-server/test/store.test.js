import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { appendFile, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';

import { DuplicateKeyError, Store, StoreError } from '../store.js';
import { makeFolder } from './stub.js';

async function opened(t, folder) {
  const store = await Store.open(folder);
  let isOpen = true;
  const close = async () => {
    if (isOpen) await store.close();
    isOpen = false;
  };
  t.after(close);
  return { store, close };
}

test('what was written is there after a restart', async (t) => {
  const folder = await makeFolder(t);
  const first = await opened(t, folder);
  await first.store.collection('players').insertOne({ _id: 'p1', items: ['oar'] });
  await first.store
    .collection('players')
    .updateOne({ _id: 'p1' }, { $addToSet: { items: '등심지' } });
  await first.close();
  const { store } = await opened(t, folder);
  assert.deepEqual(await store.collection('players').findOne({ _id: 'p1' }), {
    _id: 'p1',
    items: ['oar', '등심지'],
  });
});

test('updates are those of MongoDB', async (t) => {
  const { store } = await opened(t, await makeFolder(t));
  const players = store.collection('players');
  const update = (change, options) => players.updateOne({ _id: 'p1' }, change, options);
  assert.equal((await update({ $set: { x: 1 } })).matchedCount, 0);
  assert.equal(
    (await update({ $set: { 'npcs.sora.trust': 0.5 } }, { upsert: true })).upsertedCount,
    1,
  );
  await update({ $addToSet: { items: 'oar' } });
  await update({ $addToSet: { items: 'oar' } });
  await update({ $addToSet: { items: 'wick' }, $set: { gone: true } });
  await update({ $pull: { items: 'oar' }, $unset: { gone: '' } });
  await update({ $push: { turns: { $each: [1, 2, 3], $slice: -2 } } });
  assert.deepEqual(await players.findOne({ _id: 'p1' }), {
    _id: 'p1',
    npcs: { sora: { trust: 0.5 } },
    items: ['wick'],
    turns: [2, 3],
  });
  await assert.rejects(update({ $inc: { x: 1 } }), /no update operator \$inc; there are \$set/);
  await assert.rejects(players.insertOne({ _id: 'p1' }), DuplicateKeyError);
  assert.deepEqual(await players.find({ gone: true }).toArray(), []);
});

test('what was deleted is gone, within its transaction and after a restart', async (t) => {
  const folder = await makeFolder(t);
  const first = await opened(t, folder);
  const turns = first.store.collection('turns');
  await turns.insertOne({ _id: '1', n: 1 });
  await turns.insertOne({ _id: '2', n: 2 });
  await first.store.withTransaction(async (tx) => {
    const { deletedCount } = await tx.collection('turns').deleteOne({ n: 1 });
    assert.equal(deletedCount, 1);
    assert.equal(await tx.collection('turns').findOne({ _id: '1' }), null);
    assert.deepEqual(await tx.collection('turns').find().toArray(), [{ _id: '2', n: 2 }]);
  });
  assert.equal((await turns.deleteOne({ _id: '1' })).deletedCount, 0);
  await turns.deleteOne({ _id: '2' });
  await turns.insertOne({ _id: '2', n: 3 });
  await first.close();
  const { store } = await opened(t, folder);
  assert.deepEqual(await store.collection('turns').find().toArray(), [{ _id: '2', n: 3 }]);
});

test('a delete that throws later has deleted nothing', async (t) => {
  const { store } = await opened(t, await makeFolder(t));
  await store.collection('turns').insertOne({ _id: '1' });
  const failing = store.withTransaction(async (tx) => {
    await tx.collection('turns').deleteOne({ _id: '1' });
    throw new Error('no');
  });
  await assert.rejects(failing, /no/);
  assert.deepEqual(await store.collection('turns').findOne({ _id: '1' }), { _id: '1' });
});

test('a document that was read is a copy', async (t) => {
  const { store } = await opened(t, await makeFolder(t));
  await store.collection('players').insertOne({ _id: 'p1', items: [] });
  (await store.collection('players').findOne({ _id: 'p1' })).items.push('stolen');
  assert.deepEqual((await store.collection('players').findOne({ _id: 'p1' })).items, []);
});

test('a transaction is one line with the last state of each document', async (t) => {
  const folder = await makeFolder(t);
  const { store } = await opened(t, folder);
  await store.withTransaction(async (tx) => {
    await tx.collection('a').insertOne({ _id: '1', n: 1 });
    await tx.collection('b').insertOne({ _id: '1' });
    await tx.collection('a').updateOne({ _id: '1' }, { $set: { n: 2 } });
  });
  const log = await readFile(join(folder, 'store.jsonl'), 'utf8');
  assert.equal(log, '[["b",{"_id":"1"}],["a",{"_id":"1","n":2}]]\n');
});

test('a transaction that throws leaves nothing, and the next goes on', async (t) => {
  const { store } = await opened(t, await makeFolder(t));
  const failing = store.withTransaction(async (tx) => {
    await tx.collection('a').insertOne({ _id: '1' });
    throw new Error('no');
  });
  await assert.rejects(failing, /no/);
  assert.equal(await store.collection('a').findOne({ _id: '1' }), null);
  await store.collection('a').insertOne({ _id: '1' });
});

test('transactions at once run one after the other and see what they wrote', async (t) => {
  const { store } = await opened(t, await makeFolder(t));
  await store.collection('counts').insertOne({ _id: 'n', value: 0 });
  const increment = () =>
    store.withTransaction(async (tx) => {
      const counts = tx.collection('counts');
      const { value } = await counts.findOne({ _id: 'n' });
      await counts.updateOne({ _id: 'n' }, { $set: { value: value + 1 } });
      assert.equal((await counts.findOne({ _id: 'n' })).value, value + 1);
    });
  await Promise.all(Array.from({ length: 20 }, increment));
  assert.equal((await store.collection('counts').findOne({ _id: 'n' })).value, 20);
});

test('a line that was cut off is forgotten and written over', async (t) => {
  const folder = await makeFolder(t);
  const first = await opened(t, folder);
  await first.store.collection('a').insertOne({ _id: '1' });
  await first.close();
  await appendFile(join(folder, 'store.jsonl'), '[["a",{"_id":"2"');
  const second = await opened(t, folder);
  assert.equal(await second.store.collection('a').findOne({ _id: '2' }), null);
  await second.store.collection('a').insertOne({ _id: '3' });
  await second.close();
  const { store } = await opened(t, folder);
  const ids = (await store.collection('a').find().toArray()).map(({ _id }) => _id);
  assert.deepEqual(ids, ['1', '3']);
});

test('a spoiled line in the middle is an error that names it', async (t) => {
  const folder = await makeFolder(t);
  await writeFile(
    join(folder, 'store.jsonl'),
    '[["a",{"_id":"1"}]]\nspoiled\n[["a",{"_id":"2"}]]\n',
  );
  await assert.rejects(Store.open(folder), (error) => {
    assert.ok(error instanceof StoreError);
    assert.match(error.message, /store\.jsonl:2: not JSON/);
    return true;
  });
});

test('a long log is made short, and holds the same', async (t) => {
  const folder = await makeFolder(t);
  const line = (count) => `${JSON.stringify([['counts', { _id: 'n', count }]])}\n`;
  const lines = Array.from({ length: 3000 }, (_, count) => line(count));
  await writeFile(join(folder, 'store.jsonl'), lines.join(''));
  const first = await opened(t, folder);
  assert.equal(await readFile(join(folder, 'store.jsonl'), 'utf8'), line(2999));
  await first.store.collection('counts').updateOne({ _id: 'n' }, { $set: { count: 5 } });
  await first.close();
  assert.equal(await readFile(join(folder, 'store.jsonl'), 'utf8'), line(2999) + line(5));
});

test('a long log that is made short holds nothing of what was deleted', async (t) => {
  const folder = await makeFolder(t);
  const first = await opened(t, folder);
  const turns = first.store.collection('turns');
  await turns.insertOne({ _id: 'kept' });
  for (let num = 0; num < 501; num += 1) {
    await turns.insertOne({ _id: `${num}` });
    await turns.deleteOne({ _id: `${num}` });
  }
  await first.close();
  await opened(t, folder);
  assert.equal(await readFile(join(folder, 'store.jsonl'), 'utf8'), '[["turns",{"_id":"kept"}]]\n');
});

test('a second process is refused', async (t) => {
  const folder = await makeFolder(t);
  await writeFile(join(folder, 'store.pid'), String(process.ppid));
  await assert.rejects(Store.open(folder), /uses this store; stop it first/);
});

test('a process killed at any moment has kept all it promised, and no half of anything', async (t) => {
  const folder = await makeFolder(t);
  let promised = 0;
  for (const ms of [5, 30, 80, 150, 11]) {
    promised = await killedAfter(folder, ms, promised);
    const store = await Store.open(folder);
    const [a, b] = await store.collection('counts').find().toArray();
    const turns = await store.collection('turns').find().toArray();
    await store.close();
    assert.equal(a.count, b.count);
    assert.equal(turns.length, a.count);
    assert.ok(a.count === promised || a.count === promised + 1, `${a.count} after ${promised}`);
    promised = a.count;
  }
});

/** Kills a writer `ms` after its first promise; returns the last it made. */
async function killedAfter(folder, ms, before) {
  const writer = new URL('store-writer.js', import.meta.url).pathname;
  const child = spawn(process.execPath, [writer, folder], { stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  child.stdout.on('data', (bytes) => {
    if (!output) setTimeout(() => child.kill('SIGKILL'), ms);
    output += bytes;
  });
  await new Promise((resolve) => child.once('close', resolve));
  assert.equal(child.signalCode, 'SIGKILL');
  return Number(output.trim().split('\n').at(-1)) || before;
}
