/** Checkpoints: what the superblock names is on the disk, and what a restart needs is in it. */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  SEGMENT_SIZE_MIN: 128 * 1024,
}));

import { FULL_DISK_RETRY_MS } from '../../src/limits.js';
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

test.each(['write', 'open'] as const)(
  'no room for the map (%s): tried again after a pause, and hosts are told',
  async (how) => {
    // The cleaner needed a checkpoint to free anything, the checkpoint failed at once, and told the cleaner: thousands of
    // times a second, while hosts waited for what would never come. Where the very file could not be opened, no other
    // turn of the event loop came at all: every group of the gateway stood still.
    const world = await bothUp(1);
    const { group, store } = world.source;
    const { checkpointer } = group!;
    const open = store.open.bind(store);
    let isFull = true;
    let opened = 0;
    store.open = (name, create) => {
      if (create && name.startsWith('map')) opened += 1;
      const refused = isFull && how === 'open' && opened < 200 && create && name.startsWith('map');
      if (refused) throw Object.assign(new Error(`EMFILE: ${name}`), { code: 'EMFILE' });
      return open(name, create);
    };
    if (how === 'write') store.fail('write', 'ENOSPC', Number.POSITIVE_INFINITY, /^map/);
    const codes = new Map<string, number>();
    const met = (code: string): void => void codes.set(code, (codes.get(code) ?? 0) + 1);
    const from = world.scheduler.now;
    for (let i = 0; i < 900; i += 1) {
      world.write((i * 8) % 64, 8).then(
        () => met('written'),
        (error) => met(error.code),
      );
      await world.pass(1);
    }
    await world.pass(600);
    const { failures } = checkpointer.counters;
    expect(failures).toBeGreaterThan(1);
    expect(failures).toBeLessThanOrEqual(1 + (world.scheduler.now - from) / FULL_DISK_RETRY_MS);
    expect([...codes.keys()].sort()).toEqual(['ENOSPC', 'written']);
    expect(codes.get('written')! + codes.get('ENOSPC')!).toBe(900);
    store.heal();
    isFull = false;
    await world.pass(600);
    await world.settle(world.write(0, 8));
  },
);

test('no room for the map: nothing is given up for it that would make no room', async () => {
  // An absent peer's order, and views: without a checkpoint no segment goes for them.
  const world = await bothUp(1);
  const { group, store } = world.source;
  world.target.held = true;
  world.crash(world.target, true);
  await world.until(() => !group!.sender!.linked, 20_000, 'the link stays');
  let dropped = 0;
  group!.views.register({ drop: () => (dropped += 1) });
  const pinned = group!.cleaner.pinLive();
  store.fail('write', 'ENOSPC', Number.POSITIVE_INFINITY, /^map/);
  let refused = 0;
  for (let i = 0; i < 900; i += 1) {
    world.write((i * 8) % 64, 8).catch(() => (refused += 1));
    await world.pass(1);
  }
  expect(refused).toBeGreaterThan(0);
  expect(group!.roomIsWaitedFor).toBe(false);
  await world.pass(600);
  const { viewsDropped, retentionGivenUp } = group!.cleaner.counters;
  expect([dropped, viewsDropped, retentionGivenUp]).toEqual([0, 0, 0]);
  group!.cleaner.unpinLive(pinned);
});

test('a checkpoint that no superblock has room for does not keep other things from being saved', async () => {
  // It stayed in every later save: nothing of this site could be written down any more, no lowered answer, no generation.
  const world = await bothUp(1);
  const { group } = world.source;
  const { state, mirror, checkpointer } = group!;
  const saved = () => world.settle(new Promise<Error | null>((resolve) => state.save(resolve)));
  const { checkpoint } = state.superblock;
  const cursors = mirror.checkpointCursors.bind(mirror);
  const dead = Array.from({ length: 300_000 }, (_, i) => i);
  const order = {
    own: 0,
    state: {
      settled: { through: 0, applied: 0, peerFrom: 0 },
      conflicts: { appended: 0, closedThrough: 0, received: 0, applied: 0, dead, cascades: [], bareMayDieThrough: 0 },
    },
    withBase: <T>(snapshot: () => T) => snapshot(),
  };
  mirror.checkpointCursors = () => ({ ...cursors(), order });
  checkpointer.request();
  await world.until(() => checkpointer.counters.failures === 1, 1000, 'it is saved');
  expect(state.superblock.checkpoint).toBe(checkpoint);
  expect(await saved()).toBeNull();
  mirror.checkpointCursors = cursors;
  await world.until(() => checkpointer.counters.checkpoints > 0 && !checkpointer.hasFailed, 1000, 'not tried again');
  expect(await saved()).toBeNull();
  expect(state.superblock.checkpoint).not.toBe(checkpoint);
});
