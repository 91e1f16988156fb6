/** Both sites write: each test opens with how data was lost. */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  ...(await import('./small-limits.js')).SMALL_LIMITS,
}));

import { DUAL_QUIET } from './dual-draw.js';
import type { DualSite } from './dual-site.js';
import { DualWorld } from './dual-world.js';
import { UNIT } from './group-history.js';
import { seededRandom } from './memory-store.js';

const hash = await xxhash();

function write(world: DualWorld, site: DualSite, block: number, blockCount: number): void {
  const [volume] = site.group!.volumes.values();
  const bytes = world.truth.history.payload(blockCount * volume!.blockSize);
  volume!.write(1, block * volume!.blockSize, bytes.length, [bytes], false, {
    settle: (error) => {
      if (error !== null) world.fail(error);
    },
  });
}

/**
 * A site got a first copy and wrote on top of it. Its last checkpoint's replay began in front of the copy, which was
 * small, and put the copy's blocks back over what the checkpoint's map already held: the site's own writes were gone at
 * this site, after a clean stop.
 */
test('what a site wrote on top of its first copy is there after a clean stop', async () => {
  const world = new DualWorld({ ...DUAL_QUIET, soloMs: 1 }, seededRandom(1), hash);
  const [first, second] = world.sites;
  first.open();
  await world.until(() => first.group?.serving === true, 1000, 'the primary does not serve');
  write(world, first, 0, 4);
  await world.until(() => first.journal.own.durable === 1, 5000, 'the write is not synced');
  void first.stop();
  await world.until(() => first.state === 'off', 5000, 'the primary does not stop');
  first.role = 'dual';
  first.open();
  second.open();
  await world.until(() => world.settled(), 20_000, 'the sites do not find together');
  expect(world.counts['adopted with a first copy']).toBe(1);
  write(world, second, 1, 1);
  await world.until(() => world.settled(), 5000, 'the write does not arrive');
  void second.stop();
  await world.until(() => second.state === 'off', 5000, 'the site does not stop');
  second.open();
  await world.until(() => world.settled(), 20_000, 'the sites do not find together again');
  await world.checks.compareAll();
  expect(second.shown!.image(1)[DUAL_QUIET.volumes[0]!.blockSize / UNIT]).not.toBe(0);
});

/**
 * A host wrote parts of one block twice: the second write waits until the other site has decided on the first. The link
 * went down, so it never did, and the gateway was stopped. It was gone without a word of the second write: whether that
 * was lost the host could not know.
 */
test('a write that waits for what the other site decides is answered when the gateway stops', async () => {
  const world = new DualWorld(DUAL_QUIET, seededRandom(1), hash);
  const [first, second] = world.sites;
  first.open();
  second.open();
  await world.until(() => world.settled(), 20_000, 'the sites do not find together');
  const [volume] = first.group!.volumes.values();
  const answers: (string | null)[] = [];
  const writePart = (unit: number): void =>
    volume!.write(1, unit * UNIT, UNIT, [world.truth.history.payload(UNIT)], false, {
      settle: (error) => answers.push(error?.code ?? null),
    });
  const { appended } = first.journal.own;
  world.line.cut();
  writePart(0);
  await world.until(() => first.journal.own.appended === appended + 3, 5000, 'LOCK, WRITE and UNLOCK are not there');
  writePart(1);
  await world.until(() => first.group!.frozen, 5000, 'the link does not go down');
  expect([first.journal.own.appended, answers]).toEqual([appended + 3, []]);
  void first.stop();
  await world.until(() => first.state === 'off', 5000, 'the site does not stop');
  expect(answers).toEqual(['ESHUTDOWN', 'ESHUTDOWN']);
});

/**
 * The scope of such a write lost to the other site, and the disk failed before the ABORT that says so was on it. Who
 * waited for the scope was taken off the list of those whom a stop answers, and was not answered at all.
 */
test('a write whose scope was aborted on a disk that failed is answered when the gateway stops', async () => {
  const world = new DualWorld(DUAL_QUIET, seededRandom(1), hash);
  const [first, second] = world.sites;
  first.open();
  second.open();
  await world.until(() => world.settled(), 20_000, 'the sites do not find together');
  const { journal, counters } = first.group!;
  const [volume] = first.group!.volumes.values();
  const answers: (string | null)[] = [];
  first.skew += 1000; // the later stamp loses
  write(world, second, 0, 1);
  volume!.write(1, 0, UNIT, [world.truth.history.payload(UNIT)], false, {
    settle: (error) => answers.push(error?.code ?? null),
  });
  await world.until(() => counters.scopesAborted === 1, 5000, 'the scope is not aborted');
  first.store.fail('sync', 'EIO', 1, /^segment/);
  await world.until(() => journal.failed !== null, 5000, 'the disk does not fail');
  expect(answers).toEqual([]);
  void first.stop();
  await world.until(() => first.state === 'off', 5000, 'the site does not stop');
  expect(answers).toEqual(['ESHUTDOWN']);
});

/**
 * No data was lost, but the simulator took it for that: a write that its site had not synced, and the other had not
 * received, was gone in a crash, and what both sites showed was compared with an image that still had it.
 */
test('a tail that was lost at both sites is not missed, nor does it beat what is written behind it', async () => {
  const world = new DualWorld(DUAL_QUIET, seededRandom(1), hash);
  const [first, second] = world.sites;
  first.open();
  second.open();
  await world.until(() => world.settled(), 20_000, 'the sites do not find together');
  world.line.cut();
  const { appended } = first.journal.own;
  write(world, first, 0, 2);
  expect(world.truth.streams[0].length).toBe(appended + 1);
  first.crash(true);
  first.open();
  await world.until(() => world.settled(), 20_000, 'the sites do not find together again');
  expect(first.journal.own.appended).toBe(appended);
  const [volume] = second.group!.volumes.values();
  let answered = false;
  volume!.write(1, volume!.blockSize, UNIT, [world.truth.history.payload(UNIT)], false, {
    settle: (error) => {
      answered = error === null;
    },
  });
  await world.until(() => answered && world.settled(), 5000, 'the write of part of a block does not arrive');
  await world.checks.compareAll();
});
