/** Stories of a target that is behind: how far, as both ends say. */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  SEGMENT_SIZE_MIN: 128 * 1024,
}));

import { StreamReader } from '../../src/journal/stream-reader.js';
import { holdLock } from '../../src/volume/scope.js';
import { GroupWorld, type GroupWorldOptions, QUIET } from './group-world.js';
import { seededRandom } from './memory-store.js';

const hash = await xxhash();

async function sourceUp(options: Partial<GroupWorldOptions> = {}): Promise<GroupWorld> {
  const world = new GroupWorld({ ...QUIET, skewMs: 0, ...options }, seededRandom(1), hash);
  world.open(world.source);
  await world.until(() => world.source.group?.serving === true, 20_000, 'it does not serve');
  return world;
}

async function bothUp(options: Partial<GroupWorldOptions> = {}): Promise<GroupWorld> {
  const world = await sourceUp(options);
  world.open(world.target);
  await world.until(() => world.settled(), 3000, 'the sites do not find together');
  return world;
}

const backlog = (world: GroupWorld) => world.source.group!.sender!.backlog;

/** The oldest write that the peer lacks was made at `since`. */
function expectAge(world: GroupWorld, since: number): void {
  const { ageMs } = backlog(world);
  expect(ageMs).toBeGreaterThan(world.scheduler.now - since - 20);
  expect(ageMs).toBeLessThan(world.scheduler.now - since + 20);
}

test('without a link the lag is as old as the oldest write that the peer lacks, also after a restart', async () => {
  // It was always 0: only frames in flight had an age.
  const world = await bothUp();
  await world.settle(world.write(0, 8));
  await world.until(() => world.settled(), 3000, 'it does not arrive');
  await world.pass(5000);
  expect(backlog(world)).toEqual({ bytes: 0, ageMs: 0 });
  world.crash(world.target, false);
  await world.until(() => world.source.pair!.link === null, 20_000, 'the source does not notice');
  const since = world.scheduler.now;
  await world.settle(world.write(8, 8));
  await world.pass(4000);
  await world.settle(world.write(16, 8));
  expectAge(world, since);
  await world.settle(world.flush());
  await world.settle(world.stop(world.source));
  await world.until(() => world.source.state === 'off', 1000, 'it does not stop');
  world.open(world.source);
  await world.until(() => world.source.group?.serving === true, 20_000, 'it does not serve');
  await world.pass(3000);
  expectAge(world, since);
  expect(backlog(world).bytes).toBeGreaterThan(0);
  world.open(world.target);
  await world.until(() => world.settled(), 20_000, 'the sites do not come to rest');
  expect(backlog(world)).toEqual({ bytes: 0, ageMs: 0 });
});

test('while the target waits for a lock the age grows, whatever is sent behind', async () => {
  const world = await bothUp();
  const [there] = [...world.target.group!.volumes.values()];
  const lock = await world.settle(holdLock(there!, 'write', { offset: 0, size: 4096 }, 1000));
  await world.settle(world.write(64, 8));
  await world.pass(100);
  const since = world.scheduler.now;
  await world.settle(world.write(0, 8));
  for (let turn = 0; turn < 20; turn += 1) {
    await world.settle(world.write(64, 8));
    await world.pass(100);
  }
  const { source } = world.source.group!.sender!;
  expect(source.received).toBe(source.appended);
  expectAge(world, since);
  there!.locks.release(lock);
  world.target.group!.locksMoved();
  await world.until(() => world.settled(), 3000, 'it does not go on');
  await world.pass(1000);
  world.crash(world.target, false);
  const next = world.scheduler.now;
  await world.settle(world.write(0, 8));
  await world.pass(1000);
  expectAge(world, next);
});

test('an age that was not known is looked up again', async () => {
  // It was not before the peer had applied more, and that may be what it is stuck with.
  const world = await bothUp();
  world.crash(world.target, false);
  await world.until(() => world.source.pair!.link === null, 20_000, 'the source does not notice');
  const since = world.scheduler.now;
  await world.settle(world.write(8, 8));
  await world.pass(1000);
  const stampOf = vi.spyOn(StreamReader.prototype, 'stampOf').mockReturnValueOnce(null);
  expect(backlog(world).ageMs).toBeNull();
  expectAge(world, since);
  stampOf.mockRestore();
});

test('what was given up has no bytes that are kept, and needs a full copy', async () => {
  // 0 bytes were said to be missing.
  const world = await bothUp();
  const sender = world.source.group!.sender!;
  expect(sender.needsFullCopy).toBe(false);
  world.crash(world.target, false);
  await world.until(() => world.source.pair!.link === null, 20_000, 'the source does not notice');
  await world.settle(world.write(8, 8));
  await world.settle(world.flush());
  expect(backlog(world).bytes).toBeGreaterThan(0);
  expect(sender.needsFullCopy).toBe(false);
  const tell = vi.spyOn(world.source.group!, 'tell');
  sender.giveUpRetention();
  sender.giveUpRetention();
  expect(tell.mock.calls).toEqual([[expect.stringContaining('what the peer still needs was given up')]]);
  expect(backlog(world)).toEqual({ bytes: null, ageMs: null });
  expect(sender.needsFullCopy).toBe(true);
});

test('a peer that never came needs a full copy', async () => {
  const world = await sourceUp();
  expect(world.source.group!.sender!.needsFullCopy).toBe(true);
});

test('a standby says as of when its image is, and without a link it does not call that none', async () => {
  const world = await bothUp();
  const receiver = world.target.group!.receiver!;
  await world.pass(2000);
  expect(receiver.recordsBehind).toBe(0);
  world.line.downUntil = Number.POSITIVE_INFINITY;
  world.line.cut();
  await world.until(() => !receiver.linked, 20_000, 'the target does not notice');
  const { appliedAllAt } = receiver;
  await world.pass(5000);
  expect(receiver.appliedAllAt).toBe(appliedAllAt);
  world.crash(world.target, false);
  world.open(world.target);
  await world.until(() => world.target.state === 'up', 1000, 'it does not open');
  await world.pass(500);
  expect(world.target.group!.receiver!.appliedAllAt).toBeNull();
  world.line.downUntil = 0;
  await world.until(() => world.settled(), 20_000, 'the sites do not come to rest');
  await world.pass(100);
  expect(world.target.group!.receiver!.appliedAllAt).not.toBeNull();
});
