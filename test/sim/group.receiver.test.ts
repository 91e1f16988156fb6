/** Stories of the target's end: what it says of its disk, and what it does about damage to it. */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  SEGMENT_SIZE_MIN: 128 * 1024,
}));

import { GroupWorld, type GroupWorldOptions, QUIET } from './group-world.js';
import { seededRandom } from './memory-store.js';

const hash = await xxhash();

async function bothUp(options: Partial<GroupWorldOptions> = {}): Promise<GroupWorld> {
  const world = new GroupWorld({ ...QUIET, ...options }, seededRandom(1), hash);
  world.open(world.source);
  world.open(world.target);
  await world.until(() => world.settled(), 3000, 'the sites do not find together');
  return world;
}

test('a FLUSH is durable at the peer at once, not with the next second’s sync', async () => {
  // Nothing was lost, but a host waited: the target asked for its sync while the FLUSH was not yet before the journal's
  // head. When all before it was on the disk already, nothing was synced, and with `ack: received` the host's flush was
  // answered up to a second late.
  const world = await bothUp({ ack: 'received' });
  for (let round = 0; round < 5; round += 1) {
    await world.settle(world.write(8 * round, 8));
    await world.until(() => world.settled(), 3000, 'the write does not become durable');
    const asked = world.scheduler.now;
    await world.settle(world.flush());
    expect(world.source.group!.mirror.peerDurable).toBe(world.records);
    expect(world.scheduler.now - asked).toBeLessThan(40);
  }
});
