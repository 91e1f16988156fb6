/** A disk that fails a sync, and then a restart of the process alone: the page cache shows what the disk never got. */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  SEGMENT_SIZE_MIN: 128 * 1024,
}));

import { GroupWorld, QUIET } from '../sim/group-world.js';
import { seededRandom } from '../sim/memory-store.js';

const hash = await xxhash();

async function sourceUp(world: GroupWorld): Promise<void> {
  world.open(world.source);
  await world.until(() => world.source.group?.serving === true, 20_000, 'it does not serve');
}

/** Writes that the failed sync was to make durable; the process has noted where it failed when this is done. */
async function failSync(world: GroupWorld, noteFailures = 0): Promise<void> {
  const { store, group } = world.source;
  for (let unit = 64; unit < 128; unit += 8) await world.settle(world.write(unit, 8));
  store.fail('sync', 'EIO', 1, /segment/);
  if (noteFailures > 0) store.fail('sync', 'EIO', noteFailures, /superblock/);
  await expect(world.settle(world.flush())).rejects.toMatchObject({ code: 'EIO' });
  await world.until(() => group!.counters.suspectNoteFailures === noteFailures, 1000, 'the note does not fail');
  await world.pass(100);
}

test('what a failed sync was for does not count after a restart of the process', async () => {
  // The sync failed, the gateway was restarted, and recovery read the records from the page cache. The sync that it made of
  // them succeeded, for their pages were clean by then. Flushes of records behind them were answered. Then the power went:
  // the records had never been on the disk, and all that was promised behind them was lost with them.
  for (let seed = 1; seed <= 30; seed += 1) {
    const world = new GroupWorld({ ...QUIET, syncMs: 4 }, seededRandom(seed), hash);
    await sourceUp(world);
    for (let unit = 0; unit < 64; unit += 8) await world.settle(world.write(unit, 8));
    await world.settle(world.flush());
    const durable = world.source.journal.own.durable;
    await failSync(world, seed % 3);
    world.crash(world.source, false);
    await sourceUp(world);
    expect(world.source.journal.own.appended).toBe(durable);
    expect(world.source.group!.state.superblock.suspectFrom).toBeNull();
    await world.settle(world.write(0, 8));
    await world.settle(world.flush());
    world.crash(world.source, true);
    await sourceUp(world); // the world compares with what was promised
    expect(world.source.journal.own.appended).toBeGreaterThan(durable);
  }
});

test('and comes back from the peer, which has it', async () => {
  const world = new GroupWorld({ ...QUIET, syncMs: 4 }, seededRandom(1), hash);
  await sourceUp(world);
  world.open(world.target);
  await world.until(() => world.settled(), 3000, 'the sites do not find together');
  await world.settle(world.write(0, 8));
  await world.settle(world.flush());
  await failSync(world);
  const { appended, durable } = world.source.journal.own;
  expect(durable).toBeLessThan(appended);
  await world.until(() => world.target.journal.peer.appended === appended, 1000, 'it does not arrive');
  world.crash(world.source, false);
  await sourceUp(world);
  expect(world.source.journal.own.appended).toBe(appended);
  expect(world.source.pair!.counters.tailRecordsRecovered).toBe(appended - durable);
  await world.settle(world.write(8, 8));
  await world.until(() => world.settled(), 20_000, 'the sites do not come to rest');
  await world.compareAll();
});

test('a stop in order waits until it is noted', async () => {
  const world = new GroupWorld({ ...QUIET, syncMs: 30 }, seededRandom(2), hash);
  await sourceUp(world);
  await world.settle(world.write(0, 8));
  await world.settle(world.flush());
  const durable = world.source.journal.own.durable;
  await world.settle(world.write(8, 8));
  world.source.store.fail('sync', 'EIO', 1, /segment/);
  await expect(world.settle(world.flush())).rejects.toMatchObject({ code: 'EIO' });
  await world.settle(world.stop(world.source));
  await world.until(() => world.source.state === 'off', 1000, 'it does not stop');
  await sourceUp(world);
  expect(world.source.journal.own.appended).toBe(durable);
});
