/** Rounds of write-back into flat images: how much they take, in which order, and what they ask the image for. */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  SEGMENT_SIZE_MIN: 128 * 1024,
  IMAGE_ROUND_SIZE_MAX: 128 * 1024,
}));

import { ForelockError } from '../../src/errors.js';
import { MapView } from '../../src/journal/map.js';
import { UNIT } from '../sim/group-history.js';
import { GroupWorld, QUIET } from '../sim/group-world.js';
import { seededRandom } from '../sim/memory-store.js';

const hash = await xxhash();

/** A source with one flat volume of 2 MiB, and what its image is asked for. */
async function asked(blockSize = 4096, blocks = 512) {
  const volumes = [{ blocks, blockSize, platter: 'flat' as const }];
  const world = new GroupWorld({ ...QUIET, journalSegments: 20, volumes }, seededRandom(1), hash);
  const { source } = world;
  const log: string[] = [];
  const open = async () => {
    world.open(source);
    await world.until(() => source.group?.serving === true, 1000, 'it does not serve');
    await world.pass(1000); // the world has looked at what it serves
    const group = source.group!;
    const image = group.state.images.get(1)!;
    const { write, zero, sync } = image;
    image.write = (offset, pieces, done) => {
      log.push(`write ${pieces[0]!.length / 1024} KiB at ${offset / 1024}`);
      write(offset, pieces, done);
    };
    image.zero = (offset, size, isRead, done) => {
      log.push(`zero ${size / 1024} KiB at ${offset / 1024}${isRead ? '' : ', unread'}`);
      zero(offset, size, isRead, done);
    };
    image.sync = (done) => {
      log.push('sync');
      sync(done);
    };
    return group;
  };
  const units = blockSize / UNIT;
  const write = async (block: number, count: number): Promise<void> => {
    for (let at = block; at < block + count; at += 8)
      await world.settle(world.write(at * units, Math.min(8, block + count - at) * units));
  };
  const trim = (block: number, count: number): Promise<void> =>
    world.settle(
      new Promise<void>((resolve, reject) => {
        const settle = (error: Error | null): void => (error === null ? resolve() : reject(error));
        source.group!.volumes.get(1)!.trim(1, block * blockSize, count * blockSize, false, { settle });
      }),
    );
  /** Rounds as if a host waited, until there are no more. */
  const rounds = async (): Promise<string[]> => {
    log.length = 0;
    source.group!.journal.makeRoom();
    await world.pass(200);
    return log.splice(0);
  };
  return { world, source, open, log, write, trim, rounds };
}

test('a round has an end: what it wrote is let go of, and the next one goes on', async () => {
  // A round was as long as there was something to write, and its room in the journal came at its end.
  const { world, source, open, write, rounds, log } = await asked();
  const group = await open();
  await write(0, 80);
  expect(await rounds()).toEqual(['write 128 KiB at 0', 'sync']);
  expect(group.volumes.get(1)!.map.mappedCount).toBe(48);
  await write(0, 8);
  expect(await rounds()).toEqual(['write 128 KiB at 128', 'sync']); // what is written again and again has its turn, too
  expect(await rounds()).toEqual(['write 64 KiB at 256', 'sync']);
  await write(40, 40);
  log.length = 0;
  await world.settle(world.stop(source));
  expect(log).toEqual(['write 32 KiB at 0', 'write 96 KiB at 160', 'sync', 'write 64 KiB at 256', 'sync']);
});

test('who waits for room does not wait for zeroes', async () => {
  // All of a trimmed volume was written as zeroes before anything was let go of: with 4 GiB a write took 15 s.
  const { open, write, trim, rounds, log } = await asked();
  const group = await open();
  for (let block = 0; block < 480; block += 16) await trim(block, 8);
  await write(500, 8);
  expect(await rounds()).toEqual(['write 32 KiB at 2000', 'sync']);
  const image = group.state.images.get(1)!;
  const { zero } = image;
  image.zero = (offset, size, isRead, done) => {
    if (log.push('zero') === 1) {
      group.volumes.get(1)!.write(1, 8 * 4096, 4096, [new Uint8Array(4096).fill(1)], false, { settle() {} });
      group.journal.makeRoom();
    }
    zero.call(image, offset, size, isRead, done);
  };
  expect((await rounds()).filter((what) => what !== 'zero')).toEqual([
    'zero 32 KiB at 0',
    'sync',
    'write 4 KiB at 32',
    'sync',
  ]);
  expect(group.volumes.get(1)!.map.mappedCount).toBe(0);
});

test('zeroes are not read back from an image whose sync has failed, in this life or the one before', async () => {
  // The page cache has them, and the disk may not: they would be let go of, and be something else after a power cut.
  const { world, source, open, trim, rounds } = await asked();
  await open();
  await trim(0, 8);
  expect(await rounds()).toEqual(['zero 32 KiB at 0', 'sync']);
  await trim(0, 8);
  source.images.fail('sync', 'EIO', 1);
  expect(await rounds()).toEqual(['zero 32 KiB at 0', 'sync']);
  await world.settle(world.flush());
  world.crash(source, false);
  await open();
  expect(await rounds()).toEqual(['zero 32 KiB at 0, unread', 'sync']);
  await trim(0, 8);
  expect(await rounds()).toEqual(['zero 32 KiB at 0', 'sync']);

  await trim(0, 8);
  source.images.fail('sync', 'EIO', 1);
  await rounds();
  await world.pass(1000);
  expect(await rounds()).toEqual(['zero 32 KiB at 0, unread', 'sync']);
  await trim(0, 8);
  expect(await rounds()).toEqual(['zero 32 KiB at 0', 'sync']);
});

test('what a large volume does not have in the journal costs a round nothing', async () => {
  // It was walked a mebibyte at a time, in one turn: 0.6 s with 16 TiB, for each round.
  const { open, write, rounds } = await asked(512, 65_536);
  await open();
  await write(65_530, 1);
  const looks = [vi.spyOn(MapView.prototype, 'run'), vi.spyOn(MapView.prototype, 'next')];
  expect(await rounds()).toEqual(['write 0.5 KiB at 32765', 'sync']);
  expect(looks.map(({ mock }) => mock.calls.length)).toEqual([1, 2]);
  for (const spy of looks) spy.mockRestore();
});

test('a block that cannot be read from the journal is passed over, told, and in the image once it can be', async () => {
  // The first read that failed ended the round, and each round after it: nothing of the volume was let go of any more, and
  // with the journal full of that hosts of all volumes got ENOSPC. What was at fault was called the image.
  const { world, source, open, write, rounds, log } = await asked();
  const group = await open();
  const told: string[] = [];
  group.tell = (text) => told.push(text);
  const { reader, journal, writeback } = group;
  const read = reader.read.bind(reader);
  let bad: number | null = 5;
  vi.spyOn(reader, 'read').mockImplementation((map, volume, blockShift, lba, blockCount, into, image, done) => {
    const isBad = bad !== null && lba <= bad && bad < lba + blockCount;
    read(map, volume, blockShift, lba, blockCount, into, image, (error) =>
      done(isBad ? new ForelockError('EIO', `volume 1, block ${bad} does not match`) : error),
    );
  });
  await write(0, 40);
  expect(await rounds()).toEqual([
    ...['write 16 KiB at 0', 'write 4 KiB at 16', 'write 8 KiB at 24', 'write 32 KiB at 32', 'write 64 KiB at 64'],
    ...['sync'],
  ]);
  expect(await rounds()).toEqual(['write 32 KiB at 128', 'sync']);
  const { map } = group.volumes.get(1)!;
  expect([map.mappedCount, writeback.makesRoom]).toEqual([1, false]);
  expect([writeback.damage(1), writeback.illness(1)]).toEqual(['volume 1, block 5 does not match', null]);
  const line =
    'blocks of volume v0 cannot be read from the journal (volume 1, block 5 does not match): its image lacks them';
  expect(told).toEqual([expect.stringContaining(line)]);
  expect(await rounds()).toEqual([]); // not tried again for itself alone for a while

  for (let i = 0; i < 1500; i += 1) await write(8 + ((i * 8) % 496), 8);
  expect([journal.counters.spaceRefused, told.length]).toEqual([0, 1]);

  await world.pass(5000);
  bad = null;
  for (let i = 0; i < 60 && map.mappedCount > 0; i += 1) await rounds();
  expect([map.mappedCount, writeback.damage(1)]).toEqual([0, null]);
  expect(told.at(-1)).toBe('what could not be read of volume v0 is in its image now, or was written anew');

  bad = 5;
  await write(0, 8);
  log.length = 0;
  await world.settle(world.stop(source));
  expect(told.at(-1)).toContain('the image of volume v0 is not whole (volume 1, block 5 does not match)');
  expect(log).toEqual(['write 16 KiB at 0', 'write 4 KiB at 16', 'write 8 KiB at 24', 'sync']);
});

test('a block that could not be read and was written anew is in the image soon, also where nothing else is written', async () => {
  // Status went on saying that the image lacks it until as much had gathered as begins a round: for ever, on a quiet volume.
  const { world, open, write, rounds, trim } = await asked();
  const group = await open();
  const { reader, writeback } = group;
  const read = reader.read.bind(reader);
  let isBad = true;
  vi.spyOn(reader, 'read').mockImplementation((map, volume, blockShift, lba, blockCount, into, image, done) =>
    read(map, volume, blockShift, lba, blockCount, into, image, (error) =>
      done(isBad ? new ForelockError('EIO', 'it does not match') : error),
    ),
  );
  for (const renew of [write, trim]) {
    isBad = true;
    await write(0, 2);
    await rounds();
    expect(writeback.damage(1)).toBe('it does not match');
    isBad = false;
    await renew(0, 2);
    await world.pass(6000);
    expect([writeback.damage(1), group.volumes.get(1)!.map.mappedCount]).toEqual([null, 0]);
  }
});
