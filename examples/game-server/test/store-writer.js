/** Writes transactions as fast as it can until it is killed; prints each that was promised. */

import { Store } from '../store.js';

const store = await Store.open(process.argv[2]);
const last = (await store.collection('counts').findOne({ _id: 'a' }))?.count ?? 0;
for (let count = last + 1; ; count += 1) {
  await store.withTransaction(async (tx) => {
    const counts = tx.collection('counts');
    const padding = 'x'.repeat(count % 5000);
    await counts.updateOne({ _id: 'a' }, { $set: { count, padding } }, { upsert: true });
    await counts.updateOne({ _id: 'b' }, { $set: { count } }, { upsert: true });
    await tx.collection('turns').insertOne({ _id: `turn-${count}` });
  });
  process.stdout.write(`${count}\n`);
}
