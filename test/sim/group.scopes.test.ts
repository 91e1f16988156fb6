/** How many scopes a site may have open in its stream: as many as the other one takes. */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

const SCOPES = 16;

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  SEGMENT_SIZE_MIN: 128 * 1024,
  SCOPES_MAX: 16,
}));

import { RING_FULL } from '../../src/journal/journal.js';
import { openScope } from '../../src/volume/scope.js';
import { UNIT } from './group-history.js';
import { GroupWorld, QUIET } from './group-world.js';
import { seededRandom } from './memory-store.js';

const hash = await xxhash();

test('lock-step: writes have a place beside all scopes that hosts may open', async () => {
  // Each write is a scope of its own there. With all scopes open that there may be, its LOCK was one too many: the
  // target refused it, on every link.
  const world = new GroupWorld({ ...QUIET, speculation: 'off' }, seededRandom(1), hash);
  world.open(world.source);
  world.open(world.target);
  await world.until(() => world.settled(), 3000, 'the sites do not find together');
  const { group } = world.source;
  const [volume] = group!.volumes.values();
  const { blockSize } = volume!;
  const open = (block: number) =>
    openScope(volume!, { offset: block * blockSize, size: blockSize }, { waitMsMax: 100 });
  const scopes = [];
  for (let block = 0; block < SCOPES - 1; block += 1) scopes.push(await world.settle(open(block)));
  const last = open(SCOPES).then(() => 'opened');
  await expect(world.settle(last)).rejects.toMatchObject({ code: 'ETIMEDOUT' });
  const units = blockSize / UNIT;
  await world.settle(Promise.all([SCOPES, SCOPES + 1].map((block) => world.write(block * units, units))), 500);
  group!.scopes.open.set(1e9, 0); // as one of an earlier life that has not ended yet
  expect(group!.scopes.openLockStep(volume!, 1, 0, 1, 4096)).toBe(RING_FULL);
  group!.scopes.open.delete(1e9);
  for (const scope of scopes) await world.settle(scope.unlock());
  await world.until(() => world.settled(), 20_000, 'the sites do not come to rest');
  await world.compareAll();
});
