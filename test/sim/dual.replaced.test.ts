/** Both sites write, and one's disk is replaced: what the other does about the tail that it may have lost. */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  ...(await import('./small-limits.js')).SMALL_LIMITS,
}));

import { openScope } from '../../src/volume/scope.js';
import { DUAL_QUIET } from './dual-draw.js';
import { DualWorld } from './dual-world.js';
import { seededRandom } from './memory-store.js';

const hash = await xxhash();

test('who lost its tail ends its scopes under a new generation, also for a site that was emptied', async () => {
  // The UNLOCK took the place of what was lost, under the same generation. When the other site's old disk came back, which
  // had the lost record, nothing told them apart: the sites differed, and served.
  const world = new DualWorld(DUAL_QUIET, seededRandom(1), hash);
  const told = vi.spyOn(world, 'fail').mockImplementation(() => {}); // of a disk that comes back it knows nothing
  const [first, second] = world.sites;
  for (const site of world.sites) site.open();
  await world.until(() => world.settled(), 20_000, 'the sites do not find together');
  const [volume] = first.group!.volumes.values();
  const { blockSize } = volume!;
  let settled = 0;
  const completion = {
    settle: () => {
      settled += 1;
    },
  };
  void openScope(volume!, { offset: 0, size: 4 * blockSize });
  volume!.flush(completion);
  await world.until(() => settled === 1, 5000, 'the flush is not answered');
  first.slowSyncMs = 100_000;
  const bytes = world.truth.history.payload(blockSize);
  volume!.write(1, 10 * blockSize, blockSize, [bytes], false, completion);
  const arrived = (): boolean => second.journal.peer.durable === first.journal.own.appended && settled === 2;
  await world.until(
    () => {
      second.journal.sync();
      return arrived();
    },
    5000,
    'the write does not arrive',
  );
  const lost = first.journal.own.appended;
  first.crash(true);
  second.crash(false);
  first.slowSyncMs = 0;
  const old = second.store;
  second.newDisk();
  for (const site of world.sites) site.open();
  const isEnded = (): boolean => first.group?.state !== undefined && first.journal.own.appended >= lost;
  await world.until(isEnded, 20_000, 'the scope does not end');
  second.crash(true); // it has adopted nothing yet
  const [, minted] = first.group!.state.superblock.generations;
  expect(minted?.ends[first.journal.own.site]).toBeLessThan(lost);
  second.store = old;
  second.group = null;
  second.open();
  await world.until(
    () => first.pair!.refusal !== null || second.pair?.refusal != null,
    20_000,
    'they do not refuse each other',
  );
  expect(world.sites.map(({ group }) => group!.frozen)).toEqual([true, true]);
  told.mockRestore();
});
