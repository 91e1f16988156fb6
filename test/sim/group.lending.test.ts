/** Stories of a line, or a peer, that takes less than hosts write: they do not wait for it. */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  ...(await import('./small-limits.js')).SMALL_LIMITS,
  CREDIT_BYTES: 8 * 1024 * 1024,
}));

import { GroupWorld, type GroupWorldOptions, QUIET } from './group-world.js';
import { seededRandom } from './memory-store.js';

const hash = await xxhash();

const OPTIONS: GroupWorldOptions = {
  ...QUIET,
  volumes: [{ blocks: 256, blockSize: 4096, platter: 'journal' }],
  journalSegments: 80,
};

async function bothUp(): Promise<GroupWorld> {
  const world = new GroupWorld(OPTIONS, seededRandom(1), hash);
  world.open(world.source);
  world.open(world.target);
  await world.until(() => world.settled(), 3000, 'the sites do not find together');
  return world;
}

/** Writes 16 KiB every millisecond, and waits for none. @returns how many are not answered yet after that */
async function manyWrites(world: GroupWorld, count: number): Promise<() => number> {
  let open = 0;
  for (let turn = 0; turn < count; turn += 1) {
    open += 1;
    world.write((turn * 32) % 1024, 32).then(() => {
      open -= 1;
    }, world.fail);
    await world.pass(1);
  }
  return () => open;
}

/**
 * What is sent stood in the ring until it had left, and the next of it was always taken before hosts came round to it: on
 * a line slower than they wrote, hosts went at its speed, with nine tenths of the journal free.
 */
test('hosts do not go at the speed of the line', async () => {
  const world = await bothUp();
  world.line.rate = 500;
  const { journal, sender } = world.source.group!;
  const open = await manyWrites(world, 300);
  await world.pass(500);
  expect(open()).toBe(0);
  expect(journal.own.appended).toBe(300);
  expect(sender!.source.sent).toBeLessThan(100);
  world.line.rate = QUIET.rate;
  await world.until(() => world.settled(), 20_000, 'the writes do not arrive');
  await world.compareAll();
});

/** A standby's disk was full, it took nothing more from its socket, and its pings said that all was well. */
test('hosts do not wait for a peer that stays and takes nothing', async () => {
  const world = await bothUp();
  world.target.store.capacity = 100_000;
  const open = await manyWrites(world, 300);
  await world.pass(5000);
  expect(open()).toBe(0);
  world.target.store.capacity = Number.POSITIVE_INFINITY;
  await world.until(() => world.settled(), 20_000, 'the writes do not arrive');
  await world.compareAll();
});
