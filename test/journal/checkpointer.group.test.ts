/** Checkpoints: what the superblock names is on the disk, and what a restart needs is in it. */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  SEGMENT_SIZE_MIN: 128 * 1024,
}));

import { openScope } from '../../src/volume/scope.js';
import { GroupWorld, QUIET } from '../sim/group-world.js';
import { seededRandom } from '../sim/memory-store.js';

const hash = await xxhash();

async function bothUp(syncMs: number): Promise<GroupWorld> {
  const world = new GroupWorld({ ...QUIET, syncMs }, seededRandom(1), hash);
  world.open(world.source);
  world.open(world.target);
  await world.until(() => world.settled(), 3000, 'the sites do not find together');
  return world;
}

test('the superblock names no record that is not durable', async () => {
  const world = await bothUp(60);
  const { group } = world.source;
  for (let unit = 0; unit < 80; unit += 8) await world.settle(world.write(unit, 8));
  const { superblock } = group!.state;
  const before = superblock.checkpoint.position;
  group!.checkpointer.request();
  let named = false;
  for (let ms = 0; ms < 600 && !named; ms += 1) {
    await world.pass(1);
    named = superblock.checkpoint.position > before;
    if (named) expect(group!.journal.durable).toBeGreaterThanOrEqual(superblock.checkpoint.durable);
  }
  expect(named).toBe(true);
});

test('a scope that is open at a checkpoint can end after a restart of the target', async () => {
  const world = await bothUp(1);
  const volume = [...world.source.group!.volumes.values()][0]!;
  const scope = await world.settle(openScope(volume, { offset: 0, size: 8192 }));
  const openScopes = () => world.target.group?.receiver?.target.openScopes().length;
  await world.until(() => openScopes() === 1, 3000, 'the LOCK does not arrive');
  const { checkpointer } = world.target.group!;
  const { done } = checkpointer.number;
  checkpointer.request();
  await world.until(() => checkpointer.number.done > done, 3000, 'no checkpoint');
  world.crash(world.target, true);
  world.open(world.target);
  await world.until(() => openScopes() !== undefined, 3000, 'it does not open');
  expect(openScopes()).toBe(1);
  await world.settle(scope.unlock());
  await world.until(() => world.settled(), 3000, 'the UNLOCK is not applied');
  expect(openScopes()).toBe(0);
});

test('a checkpoint does not make a stop of a crash, and keeps the clock', async () => {
  const world = await bothUp(1);
  const { source } = world;
  for (let unit = 0; unit < 80; unit += 8) await world.settle(world.write(unit, 8));
  const { checkpointer, state, journal } = source.group!;
  const { done } = checkpointer.number;
  checkpointer.request();
  await world.until(() => checkpointer.number.done > done, 3000, 'no checkpoint');
  expect(state.superblock.clean).toBe(false);
  const { stamp } = journal;
  expect(stamp).toBeGreaterThan(0);
  await world.settle(world.stop(source));
  expect(state.superblock.clean).toBe(true);
  await world.until(() => source.state === 'off', 1000, 'it does not stop');
  world.open(source);
  await world.until(() => source.state === 'up', 1000, 'it does not open');
  expect(source.journal.stamp).toBeGreaterThanOrEqual(stamp);
});

test('a checkpoint waits for a batch that is with the pool: its pages hold the checksums', async () => {
  const world = new GroupWorld({ ...QUIET, poolSealBytes: 2048 }, seededRandom(1), hash);
  world.open(world.source);
  await world.until(() => world.source.group?.serving === true, 1000, 'it does not serve');
  const { checkpointer, journal } = world.source.group!;
  let withPool = 0;
  for (let unit = 0; unit < 400; unit += 8) {
    const written = world.write(unit, 8);
    for (let times = 0; times < 10; times += 1) {
      const { running } = checkpointer;
      checkpointer.request();
      if (!running && checkpointer.running) expect(journal.sealed).toBe(journal.head);
      if (journal.sealed < journal.head) withPool += 1;
      await world.pass(0.1);
    }
    await world.settle(written);
  }
  expect(withPool).toBeGreaterThan(0);
});

test('a stop does not wait for room on the disk', async () => {
  // The last checkpoint, or one under way, waited for the journal to be durable: a gateway whose disk became full while it
  // stopped did not end.
  for (const running of [false, true]) {
    const world = await bothUp(1);
    const { source } = world;
    const { group } = source;
    for (let unit = 0; unit < 80; unit += 8) await world.settle(world.write(unit, 8));
    if (running) group!.checkpointer.request();
    source.store.fail('write', 'ENOSPC', Number.POSITIVE_INFINITY, /^segment/);
    const { checkpointer, state, journal } = group!;
    await world.settle(world.stop(source));
    expect([journal.diskFull, checkpointer.counters.failures]).toEqual([true, running ? 2 : 1]);
    expect(state.superblock.clean).toBe(false);
  }
});
