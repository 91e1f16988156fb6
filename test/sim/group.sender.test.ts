/** Stories of the source's end: when it sends. */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  SEGMENT_SIZE_MIN: 128 * 1024,
}));

import { Sender } from '../../src/volume/sender.js';
import { GroupWorld, type GroupWorldOptions, QUIET } from './group-world.js';
import { seededRandom } from './memory-store.js';

const hash = await xxhash();

/** Sixty writes, one after the other's answer. @returns frames that took them, and in how many milliseconds */
async function sixtyWrites(options: Partial<GroupWorldOptions>): Promise<{ frames: number; ms: number }> {
  const world = new GroupWorld({ ...QUIET, ...options }, seededRandom(1), hash);
  world.open(world.source);
  world.open(world.target);
  await world.until(() => world.settled(), 3000, 'the sites do not find together');
  const sender = world.source.group!.mirror;
  if (!(sender instanceof Sender)) throw new Error('the source has a sender');
  const before = sender.counters.framesSent;
  const from = world.scheduler.now;
  for (let number = 0; number < 60; number += 1) await world.settle(world.write(number, 1));
  const ms = world.scheduler.now - from;
  await world.until(() => world.settled(), 3000, 'the writes do not arrive');
  await world.compareAll();
  return { frames: sender.counters.framesSent - before, ms };
}

test('small frames leave one in a millisecond while no host waits for the peer, and none is forgotten', async () => {
  const { frames, ms } = await sixtyWrites({ ack: 'local' });
  expect(frames).toBeLessThanOrEqual(Math.ceil(ms) + 2);
  expect(frames).toBeLessThan(30);
});

test('a host that waits for the peer does not wait for others, too', async () => {
  const { frames } = await sixtyWrites({ ack: 'received' });
  expect(frames).toBe(60);
});
