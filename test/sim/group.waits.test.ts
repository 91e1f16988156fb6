/** Hosts that write faster than the disk takes it: what waits for room keeps its own bytes, in memory that is used again. */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  SEGMENT_SIZE_MIN: 128 * 1024,
}));

import { GroupWorld, QUIET } from './group-world.js';
import { seededRandom } from './memory-store.js';

const hash = await xxhash();

const BLOCK = 4096;

test('a burst of several rings is written as it was given', async () => {
  const world = new GroupWorld({ ...QUIET }, seededRandom(1), hash);
  world.open(world.source);
  world.open(world.target);
  await world.until(() => world.settled(), 3000, 'the sites do not find together');
  const group = world.source.group!;
  const [volume] = [...group.volumes.values()];
  const last = new Map<number, Uint8Array>();
  const write = (block: number, count: number): Promise<void> => {
    const bytes = world.history.payload(count * BLOCK);
    for (let i = 0; i < count; i += 1) last.set(block + i, bytes.slice(i * BLOCK, (i + 1) * BLOCK));
    return new Promise((resolve, reject) => {
      const settle = (error: Error | null): void => (error === null ? resolve() : reject(error));
      volume!.write(1, block * BLOCK, bytes.length, [bytes], false, { settle });
    });
  };
  const pending: Promise<void>[] = [];
  for (let number = 0; number < 2000; number += 1) {
    pending.push(write(4 * (number % 16), 1 + (number % 3)));
    // some are answered and others tried in vain while more come
    if (number % 200 === 199) await world.settle(pending[number - 100]!);
  }
  for (const each of pending) await world.settle(each);
  expect(group.counters.roomWaits).toBeGreaterThan(100);
  await world.until(() => world.settled(), 10_000, 'the writes do not arrive');
  await world.compareAll();
  for (const [block, bytes] of last) {
    const read = new Promise<readonly Uint8Array[]>((resolve, reject) => {
      volume!.read(1, block * BLOCK, BLOCK, {
        settleRead: (error, pieces) => (error === null ? resolve(pieces) : reject(error)),
      });
    });
    const pieces = await world.settle(read);
    expect(Buffer.concat(pieces).equals(bytes), `block ${block}`).toBe(true);
  }
});

test('a write of several rings that covers its first and last blocks in part comes to its end', async () => {
  // Each time there was room again it began from its first block: it filled the journal without end, nobody behind it was
  // answered, and a stop waited for it.
  const volumes = [{ blocks: 4096, blockSize: BLOCK, platter: 'journal' as const }];
  const world = new GroupWorld({ ...QUIET, segmentSize: 4 << 20, ringSegments: 1, volumes }, seededRandom(1), hash);
  world.open(world.source);
  world.open(world.target);
  await world.until(() => world.settled(), 3000, 'the sites do not find together');
  const { journal } = world.source;
  const units = (12 << 20) / 512;
  const before = journal.head;
  const large = world.write(1, units);
  const behind = world.write(8 * 4000, 8);
  await world.settle(Promise.all([large, behind]), 10_000);
  expect(journal.head - before).toBeLessThan(24 << 20);
  await world.until(() => world.settled(), 20_000, 'the writes do not arrive');
  await world.compareAll();
});
