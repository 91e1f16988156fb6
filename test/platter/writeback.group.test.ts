/** Flat images: who is written when; at a stop they are whole and closed, or it says that they are not. */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  SEGMENT_SIZE_MIN: 128 * 1024,
}));

import { GroupWorld, QUIET } from '../sim/group-world.js';
import { seededRandom } from '../sim/memory-store.js';

const hash = await xxhash();

/** A source whose newest write is in the ring only. */
async function written() {
  const volumes = [{ blocks: 64, blockSize: 4096, platter: 'flat' as const }];
  const world = new GroupWorld({ ...QUIET, volumes }, seededRandom(1), hash);
  const { source } = world;
  world.open(source);
  await world.until(() => source.group?.serving === true, 1000, 'it does not serve');
  await world.settle(world.write(0, 8));
  const group = source.group!;
  const told: string[] = [];
  group.tell = (text) => told.push(text);
  const close = vi.spyOn(group.state.images.get(1)!, 'close');
  const stop = async (): Promise<string[]> => {
    await world.settle(world.stop(source));
    expect(close).toHaveBeenCalledTimes(1);
    return told.filter((text) => text.startsWith('the image')); // of the disk it tells as well
  };
  return { world, source, group, stop };
}

const LINE = /^the image of volume v0 is not whole \(.*\): the journal has the rest/;

test('a clean stop leaves the image whole, closes it, and has nothing to say', async () => {
  const { source, group, stop } = await written();
  expect(await stop()).toEqual([]);
  expect(group.volumes.get(1)!.map.mappedCount).toBe(0);
  expect(
    source.images
      .load('image-0')!
      .subarray(0, 4096)
      .some((byte) => byte !== 0),
  ).toBe(true);
});

test('a stop that cannot write the image says so', async () => {
  // It was the same as any other clean stop, and the image was read by other programs as if it were whole.
  const { source, stop } = await written();
  source.images.fail('write', 'EIO', 1);
  expect(await stop()).toEqual([expect.stringMatching(LINE)]);
});

test('with a journal that failed, the image is closed, too', async () => {
  // It stayed open and locked: the next start in the same process was refused, STATE_LOCKED.
  const { world, source, group, stop } = await written();
  source.store.fail('sync', 'EIO', 1);
  source.store.fail('write', 'EIO', 1, /^segment/);
  const flushed = world.settle(world.flush());
  await expect(flushed).rejects.toMatchObject({ code: 'EIO' });
  expect(group.journal.failed).not.toBeNull();
  source.suspect = true;
  expect(await stop()).toContainEqual(expect.stringMatching(LINE));
});

test('a disk that is full, or becomes so in the stop, does not keep the image', async () => {
  // The last round waited for the journal to be durable, and the stop for the round.
  for (const before of [false, true]) {
    const { world, source, group, stop } = await written();
    source.store.fail('write', 'ENOSPC', Number.POSITIVE_INFINITY, /^segment/);
    if (before) await world.until(() => group.journal.diskFull, 3000, 'the disk is not full');
    expect(await stop()).toEqual([expect.stringMatching(LINE)]);
  }
});

/** A source with two flat volumes, each larger than its journal. */
async function twoVolumes() {
  const flat = { blocks: 512, blockSize: 4096, platter: 'flat' as const };
  const world = new GroupWorld({ ...QUIET, journalSegments: 12, volumes: [flat, flat] }, seededRandom(1), hash);
  world.open(world.source);
  await world.until(() => world.source.group?.serving === true, 1000, 'it does not serve');
  const group = world.source.group!;
  const told: string[] = [];
  group.tell = (text) => told.push(text);
  const begin = (volume: number, block: number, blocks: number): Promise<void> => {
    const bytes = world.history.payload(blocks * 4096);
    return new Promise<void>((resolve, reject) => {
      const settle = (error: Error | null): void => (error === null ? resolve() : reject(error));
      group.volumes.get(volume)!.write(1, block * 4096, bytes.length, [bytes], false, { settle });
    });
  };
  const write = (volume: number, block: number, blocks: number): Promise<void> =>
    world.settle(begin(volume, block, blocks));
  return { world, source: world.source, group, told, begin, write };
}

test('a volume is served beside one that has nothing for its image, whichever is the first', async () => {
  // A full journal pressed the first volume, with nothing to write, in every round: hosts of the second got ENOSPC.
  for (const busy of [1, 2]) {
    const { world, write } = await twoVolumes();
    for (let block = 0; block < 512; block += 8) {
      await write(busy, block, 8);
      await world.pass(20);
    }
  }
});

test('volumes take turns', async () => {
  const { world, group, write } = await twoVolumes();
  const rounds: number[] = [];
  for (const [number, image] of group.state.images)
    vi.spyOn(image, 'sync').mockImplementation(function (this: void, done) {
      rounds.push(number);
      world.after(1, () => done(null));
    });
  for (let block = 0; block < 512; block += 4) {
    await write(1, block, 4);
    await write(2, block, 4);
    await world.pass(20);
  }
  expect(rounds.length).toBeGreaterThan(4);
  rounds.forEach((number, at) => {
    if (at > 0) expect(number).toBe(3 - rounds[at - 1]!);
  });
});

test('an image that cannot be synced is told, left alone for longer each time, and holds up no other', async () => {
  // It was written whole 4 to 18 times a second, the other images got nothing, and nobody was told before the stop.
  const { world, source, group, told, write } = await twoVolumes();
  const one = vi.spyOn(group.state.images.get(1)!, 'sync');
  source.images.fail('sync', 'EIO', Number.POSITIVE_INFINITY, 'image-0');
  const fill = async (): Promise<void> => {
    for (let block = 0; block < 512; block += 4) {
      await write(1, block, 4);
      await world.pass(20);
    }
  };
  await expect(fill()).rejects.toMatchObject({
    code: 'ENOSPC',
    message: expect.stringContaining('what cannot go into the image of volume v0 (EIO: sync image-0)'),
  });
  await world.pass(20_000);
  expect(one.mock.calls.length).toBeLessThan(12);
  expect(told[0]).toBe(
    'the image of volume v0 cannot be written (EIO: sync image-0): the journal keeps what it lacks, and it is tried again',
  );
  expect(told.filter((text) => text.startsWith('the image'))).toHaveLength(1);
  expect(
    told.some((text) => text.startsWith('the journal is full of what cannot go into the image of volume v0')),
  ).toBe(true);
  expect([group.writeback.illness(1), group.writeback.illness(2)]).toEqual(['EIO: sync image-0', null]);

  source.images.heal();
  await world.pass(6000);
  expect(told).toContain('the image of volume v0 is written again: it goes on');
  expect([group.writeback.illness(1), group.volumes.get(1)!.map.entryCount]).toEqual([null, 0]);
  await fill();
});

test('beside an image that fails the others are written', async () => {
  const { world, source, group, write } = await twoVolumes();
  source.images.fail('write', 'EIO', Number.POSITIVE_INFINITY, 'image-0');
  await write(1, 0, 8);
  for (let block = 0; block < 512; block += 4) {
    await write(2, block, 4);
    await world.pass(20);
  }
  expect(group.writeback.illness(1)).not.toBe(null);
});

test('hosts that fill the journal at once wait for the image, and are not refused', async () => {
  // The cleaner found nothing to clean in segments that were full of what the image lacked. With 4 GiB, a journal of 64 MiB
  // and writes one after the other it was one in a hundred that got ENOSPC.
  const { world, group, begin } = await twoVolumes();
  const all = Array.from({ length: 256 }, (_, at) => begin(1 + (at % 2), 4 * (at >> 1), 4));
  await world.settle(Promise.all(all).then(() => {}));
  expect(group.journal.counters.spaceRefused).toBe(0);
  expect(group.writeback.counters.rounds).toBeGreaterThan(0);
});

test('who waits for room does not wait for the next tick, nor for an image while nothing can be freed', async () => {
  const { world, group, begin, write } = await twoVolumes();
  const { journal, writeback } = group;
  const tick = vi.spyOn(group, 'tick').mockImplementation(() => {});
  journal.makeRoom();
  await world.pass(30);
  expect([writeback.counters.rounds, writeback.makesRoom]).toEqual([0, false]);
  await write(1, 0, 4);
  expect(writeback.makesRoom).toBe(true);
  const all = Array.from({ length: 128 }, (_, at) => begin(1, 4 * at, 4));
  await world.pass(45);
  expect(writeback.counters.rounds).toBeGreaterThan(0);
  tick.mockRestore();
  await world.settle(Promise.all(all).then(() => {}));

  vi.spyOn(group.checkpointer, 'hasFailed', 'get').mockReturnValue(true);
  const fill = async (): Promise<void> => {
    for (let block = 0; block < 512; block += 4) await write(1, block, 4);
  };
  await expect(fill()).rejects.toMatchObject({ code: 'ENOSPC' });
});
