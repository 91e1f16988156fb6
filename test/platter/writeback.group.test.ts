/** Flat images at a stop: they are whole and closed, or it says that they are not. */
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
  expect(await stop()).toEqual([expect.stringMatching(LINE)]);
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
