/** Verify while the journal needs the room of what it has pinned. */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  ...(await import('./small-limits.js')).SMALL_LIMITS,
  VERIFY_CHUNK_SIZE: 64 * 1024,
}));

import { FLAG_POINT } from '../../assembly/layout.js';
import { CONTROL_SIZE_MAX, VERIFY_STALL_MS } from '../../src/limits.js';
import type { Pair } from '../../src/volume/pair.js';
import { holdLock } from '../../src/volume/scope.js';
import { digestOf, verifyVolume } from '../../src/volume/verify.js';
import { DUAL_QUIET } from './dual-draw.js';
import { DualWorld } from './dual-world.js';
import type { Site } from './group-site.js';
import { GroupWorld, QUIET } from './group-world.js';
import { seededRandom } from './memory-store.js';

const hash = await xxhash();
const LOST =
  /^the journal of site (alpha|beta) needed the room that verify's pinned view kept.*larger --journal there$/;

/** A volume that fills most of the journal, written from end to end. */
async function filled(platter: 'journal' | 'flat' = 'journal'): Promise<GroupWorld> {
  const volumes = [{ blocks: 256, blockSize: 4096, platter }];
  const world = new GroupWorld({ ...QUIET, volumes, journalSegments: 14 }, seededRandom(1), hash);
  world.open(world.source);
  world.open(world.target);
  await world.until(() => world.settled(), 3000, 'the sites do not find together');
  await overwrite(world);
  await world.until(() => world.settled(), 5000, 'the writes do not arrive');
  return world;
}

async function overwrite(world: GroupWorld): Promise<void> {
  for (let unit = 0; unit < 2048; unit += 64) await world.settle(world.write(unit, 64));
}

const volumeOf = (site: Site) => [...site.group!.volumes.values()][0]!;

/** Verify as the gateway does it, with `meanwhile` while the first question is under way. */
function verify(world: GroupWorld, meanwhile: () => Promise<void>): ReturnType<typeof verifyVolume> {
  const point = { site: world.source.journal.own.site, sequence: 0 };
  let asked = 0;
  const ask = async (method: string, params: Record<string, number>): Promise<unknown> => {
    if (method === 'release') return null;
    point.sequence = params.sequence!;
    asked += 1;
    if (asked === 1) await meanwhile();
    return digestOf(volumeOf(world.target), point, params.lba!, params.blockCount!, false, hash);
  };
  return verifyVolume({ ask, peerSite: 'beta' } as unknown as Pair, volumeOf(world.source), false, hash);
}

test('what a verify has pinned is dropped when the journal needs its room: no host waits for its end', async () => {
  // Its views were no views for the cleaner: it dropped those of others, and hosts waited for as long as the verify took.
  const world = await filled();
  const { group } = world.source;
  const point = group!.appendFlush(FLAG_POINT);
  const views = () =>
    [world.source, world.target].map((site) => site.group!.views.atPoint(world.source.journal.own.site, point, 1));
  await world.until(() => views()[1] !== null, 3000, 'the point does not arrive');
  for (let round = 0; round < 3; round += 1) await overwrite(world);
  expect(views()).toEqual([null, null]);
});

test('a peer that takes nothing does not keep the views', async () => {
  const world = await filled();
  const { group } = world.source;
  const { site } = group!.journal.own;
  const point = group!.appendFlush(FLAG_POINT);
  await world.until(() => world.settled(), 3000, 'the point does not arrive');
  await world.settle(holdLock(volumeOf(world.target), 'write', { offset: 0, size: 4096 }, 1000));
  for (let unit = 0; !group!.roomIsWaitedFor; unit = (unit + 64) % 2048) {
    world.write(unit, 64).catch(() => {});
    await world.pass(2);
  }
  const { trimmed } = group!.sender!.source;
  await world.pass(500);
  expect(group!.roomIsWaitedFor).toBe(true);
  expect(group!.views.atPoint(site, point, 1)).not.toBeNull();
  await world.until(() => group!.views.atPoint(site, point, 1) === null, 4000, 'it is kept');
  expect(group!.sender!.source.trimmed, 'the peer has taken more by now').toBe(trimmed);
});

test('where both sites write, no host waits for its end either', async () => {
  const volumes = [{ blocks: 256, blockSize: 4096 }];
  const world = new DualWorld({ ...DUAL_QUIET, volumes, journalSegments: 18 }, seededRandom(1), hash);
  for (const site of world.sites) site.open();
  await world.until(() => world.settled(), 20_000, 'the sites do not find together');
  const [{ group }, other] = world.sites;
  const [volume] = group!.volumes.values();
  const overwriteOnce = async (): Promise<void> => {
    for (let block = 0; block < 256; block += 8) {
      let answered = false;
      volume!.write(1, block * 4096, 8 * 4096, [world.truth.history.payload(8 * 4096)], false, {
        settle: (error) => {
          if (error !== null) world.fail(error);
          answered = true;
        },
      });
      await world.until(() => answered, 10_000, 'a host waits');
    }
  };
  await overwriteOnce();
  const { site } = group!.journal.own;
  const point = group!.appendFlush(FLAG_POINT);
  await world.until(() => other!.group!.views.atPoint(site, point, 1) !== null, 3000, 'the point does not arrive');
  for (let round = 0; round < 4; round += 1) await overwriteOnce();
  expect(group!.views.atPoint(site, point, 1)).toBeNull();
});

test('a verify whose view was dropped ends, and says why', async () => {
  const world = await filled();
  const verified = verify(world, async () => {
    for (let round = 0; round < 3; round += 1) await overwrite(world);
  });
  await expect(world.settle(verified)).rejects.toMatchObject({
    code: 'ESHUTDOWN',
    message: expect.stringMatching(LOST),
  });
});

test('what is read while the view is dropped is not compared: the image under it may have changed', async () => {
  // The other site's digest was of the pinned moment, and the sites were said to differ.
  for (const platter of ['journal', 'flat'] as const) {
    const world = await filled(platter);
    const verified = verify(world, async () => {
      await null; // the read of the own image begins
      world.source.group!.views.dropPoint(world.source.journal.own.site);
    });
    await expect(world.settle(verified), platter).rejects.toThrow(LOST);
  }
});

test('checksums of what is a long hole at the other site are taken in pieces', async () => {
  // It asks for all of it at once. Nobody else had a turn meanwhile, and all of them stood in memory.
  const world = await filled();
  const { group, journal } = world.source;
  const point = { site: journal.own.site, sequence: group!.appendFlush(FLAG_POINT) };
  const volume = volumeOf(world.source);
  const digest = digestOf(volume, point, 0, 256, true, hash);
  group!.views.dropPoint(point.site);
  await expect(world.settle(digest)).rejects.toThrow(LOST);
});

test('a verify that another one supersedes does not take its view', async () => {
  const world = await filled();
  const verified = verify(world, async () => {
    await world.settle(world.write(0, 64));
    world.source.group!.appendFlush(FLAG_POINT);
  });
  await expect(world.settle(verified)).rejects.toThrow('another verify began: site alpha pins one view at a time');
});

test.each([
  ['it waits for what was written', 0, ['waiting']],
  ['the own journal is full of that', 2048, []],
])('a peer that gets no further does not keep it for ever: %s', async (_, units, says) => {
  // The standby's disk was full: it took nothing more, the link stayed, and `forelock verify` never ended.
  const world = await filled();
  const { store, group } = world.target;
  store.capacity = store.used;
  while (!group!.journal.diskFull) await world.settle(world.write(0, 64));
  for (let unit = 0; unit < units; unit += 64) world.write(unit, 64).catch(() => {});
  const told = new Set<string>();
  const pair = { ask: () => Promise.resolve(null), peerSite: 'beta' } as unknown as Pair;
  let ended: unknown = null;
  verifyVolume(pair, volumeOf(world.source), false, hash, ({ doing }) => told.add(doing)).catch((error) => {
    ended = error;
  });
  await world.until(() => ended !== null, 2 * VERIFY_STALL_MS, 'it does not end');
  expect(ended).toMatchObject({ code: 'PEER_TIMEOUT', message: expect.stringMatching(/applied nothing for 45 s/) });
  expect([...told]).toEqual(says);
  store.capacity = Number.POSITIVE_INFINITY;
  await world.until(() => world.settled(), 20_000, 'the writes do not arrive');
  expect(await world.settle(verify(world, () => Promise.resolve()))).toMatchObject({ equal: true });
});

test('a verify that waits for room while its site stops appends nothing any more, and ends', async () => {
  // Its FLUSH was appended behind the last checkpoint, of a stop that counted as clean.
  const world = await filled();
  const { journal, group } = world.source;
  const appended = journal.own.appended;
  group!.whenRoom(() => group!.ended !== null);
  const verified = verify(world, () => Promise.resolve());
  const stopped = world.stop(world.source);
  await expect(world.settle(verified)).rejects.toMatchObject({ code: 'ESHUTDOWN' });
  await world.settle(stopped);
  expect(journal.own.appended).toBe(appended);
});

test('what a verify has pinned goes with it when the peer goes before it has its point', async () => {
  const world = await filled();
  const { group } = world.source;
  await world.settle(holdLock(volumeOf(world.target), 'write', { offset: 0, size: 4096 }, 1000));
  await world.settle(world.write(0, 8));
  const verified = verify(world, () => Promise.resolve());
  const { site, appended } = group!.journal.own;
  expect(group!.views.atPoint(site, appended, 1)).not.toBeNull();
  world.lineDownUntil = Number.POSITIVE_INFINITY;
  world.crash(world.target, true);
  await expect(world.settle(verified, 30_000)).rejects.toMatchObject({ code: 'AWAY' });
  expect(group!.views.atPoint(site, appended, 1)).toBeNull();
});

test('checksums that an image does not have are not asked for: that is no difference', async () => {
  const world = await filled('flat');
  const pair = { ask: () => Promise.reject(new Error('asked')), peerSite: 'beta' } as unknown as Pair;
  await expect(verifyVolume(pair, volumeOf(world.source), true, hash)).rejects.toMatchObject({ code: 'ENOTSUP' });
});

test('left alone, it finds the sites equal', async () => {
  for (const platter of ['journal', 'flat'] as const) {
    const world = await filled(platter);
    expect(await world.settle(verify(world, () => Promise.resolve()))).toMatchObject({ equal: true });
  }
});

test('of places that cannot be read no more are told than of those that differ', async () => {
  // A volume on a dead disk has as many as it has chunks.
  const blocks = 16 * 150;
  const world = new GroupWorld(
    { ...QUIET, volumes: [{ blocks, blockSize: 4096, platter: 'journal' }] },
    seededRandom(1),
    hash,
  );
  world.open(world.source);
  world.open(world.target);
  await world.until(() => world.settled(), 3000, 'the sites do not find together');
  for (let unit = 0; unit < 8 * blocks; unit += 128) await world.settle(world.write(unit, 8));
  await world.until(() => world.settled(), 5000, 'the writes do not arrive');
  const reason = `EIO: ${'the disk refuses '.repeat(1000)}`;
  const ask = async (method: string): Promise<unknown> => (method === 'release' ? null : { digest: '', error: reason });
  const pair = { ask, peerSite: 'beta' } as unknown as Pair;
  const report = await world.settle(verifyVolume(pair, volumeOf(world.source), false, hash));
  expect(report).toMatchObject({ equal: false, differences: [] });
  expect(report.unreadable).toHaveLength(100);
  expect(JSON.stringify(report).length).toBeLessThan(CONTROL_SIZE_MAX);
});
