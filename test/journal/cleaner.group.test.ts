/** The cleaner in a group whose peer is away: what hosts are told when the journal is full of what is kept for it. */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  SEGMENT_SIZE_MIN: 128 * 1024,
}));

import { GroupWorld, QUIET } from '../sim/group-world.js';
import { seededRandom } from '../sim/memory-store.js';

const hash = await xxhash();

/** Writes far more than a journal holds, to few blocks, so many at once. */
async function writeWithoutPeer(capacity: number, burst: number) {
  const world = new GroupWorld({ ...QUIET, syncMs: 1 }, seededRandom(1), hash);
  world.open(world.source);
  world.open(world.target);
  await world.until(() => world.settled(), 3000, 'the sites do not find together');
  const { group, store } = world.source;
  store.capacity = capacity;
  world.target.held = true;
  world.crash(world.target, true);
  await world.until(() => !group!.sender!.linked, 20_000, 'the link stays');
  let written = 0;
  const refusals: string[] = [];
  for (let i = 0; i < 900; i += 1) {
    world.write((i * 8) % 64, 8).then(
      () => (written += 1),
      (error) => refusals.push(error.code),
    );
    if (i % burst === 0) await world.pass(1);
  }
  await world.pass(1000);
  expect(written + refusals.length).toBe(900);
  return { world, group: group!, refusals: [...new Set(refusals)] };
}

test('a disk smaller than --journal that keeps the stream for an absent peer: hosts are told', async () => {
  // Its segments were dead, so hosts waited for them to be freed; but they were kept for the peer, and its order is not
  // given up for a disk that may have room again. No request was answered until the peer came back.
  const { world, group, refusals } = await writeWithoutPeer(1_600_000, 1);
  expect(refusals).toEqual(['ENOSPC']);
  expect(group.journal.room.size).toBeLessThan(group.journal.room.limit);
  expect(group.cleaner.counters.retentionGivenUp).toBe(0);
  world.target.held = false;
  world.open(world.target);
  await world.until(() => world.settled(), 20_000, 'the peer does not catch up');
  await world.settle(world.write(0, 8));
});

test('at the limit of --journal the order of an absent peer is given up, and no host is refused before', async () => {
  // more is in the ring, and counts, than the cleaner has seen in the files
  const { group, refusals } = await writeWithoutPeer(Number.POSITIVE_INFINITY, 100);
  expect(refusals).toEqual([]);
  expect(group.cleaner.counters.retentionGivenUp).toBe(1);
});
