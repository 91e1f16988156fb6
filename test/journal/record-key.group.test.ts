/** Both sites of a group seal their records with its key, and no other is taken for theirs. */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  SEGMENT_SIZE_MIN: 128 * 1024,
}));

import { SEGMENT_RECORD_SIZE } from '../../src/journal/segment-head.js';
import { segmentName } from '../../src/journal/segments.js';
import { NO_RECORD_KEY } from '../../src/journal/superblock.js';
import { GroupMemory } from '../../src/kernel/memory.js';
import { ReferenceKernel } from '../../src/kernel/reference/kernel.js';
import { GroupWorld, QUIET } from '../sim/group-world.js';
import { seededRandom } from '../sim/memory-store.js';

const hash = await xxhash();

test('what stands in the files of both sites checks with the key of the group, and with no other', async () => {
  const world = new GroupWorld(QUIET, seededRandom(3), hash);
  for (const site of [world.source, world.target]) world.open(site);
  await world.until(() => world.settled(), 3000, 'the sites do not find together');
  await world.settle(world.write(0, 8));
  await world.until(() => world.settled(), 3000, 'it does not arrive');
  const { recordKey } = world.source.group!.state.superblock;
  expect(recordKey).not.toBe(NO_RECORD_KEY);
  for (const { group, store } of [world.source, world.target]) {
    expect(group!.state.superblock.recordKey).toBe(recordKey);
    const memory = new GroupMemory(1 << 16);
    const { at } = memory.take(SEGMENT_RECORD_SIZE);
    memory.bytes.set(store.load(segmentName(0))!.subarray(0, SEGMENT_RECORD_SIZE), at);
    const kernel = new ReferenceKernel(memory);
    const good = [NO_RECORD_KEY, recordKey].map((key) => {
      memory.useRecordKey(key);
      return kernel.verify(at, SEGMENT_RECORD_SIZE);
    });
    expect(good).toEqual([0, SEGMENT_RECORD_SIZE]);
  }
});
