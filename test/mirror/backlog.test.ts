/** How much of a stream is behind a record: exact as far as it was told and is kept, and never too little. */
import { expect, test } from 'vitest';
import { Backlog } from '../../src/volume/backlog.js';
import { seededRandom } from '../sim/memory-store.js';

test('agrees with a plain list, and says of what it does not keep that it is too much', () => {
  const random = seededRandom(5);
  const before = 40;
  const backlog = new Backlog(before);
  const ends = [0];
  let kept = before;
  for (let step = 0; step < 10_000; step += 1) {
    const size = 80 + 16 * Math.floor(random() * 300);
    ends.push(ends.at(-1)! + size);
    backlog.add(size);
    const last = before + ends.length - 1;
    if (random() < 0.1) {
      kept = Math.max(kept, last - Math.floor(random() * 3000));
      backlog.keepBehind(kept);
    }
    const sequence = before - 5 + Math.floor(random() * (ends.length + 5));
    const behind = ends.at(-1)! - (ends[sequence - before] ?? 0);
    if (sequence >= kept) expect(backlog.behind(sequence)).toBe(behind);
    else expect([behind, Number.POSITIVE_INFINITY]).toContain(backlog.behind(sequence));
  }
  expect(backlog.total).toBe(ends.at(-1));
  expect(backlog.behind(before - 1)).toBe(Number.POSITIVE_INFINITY);
  expect(backlog.behind(before + ends.length - 1)).toBe(0);
});

test('keeps a million records at most', () => {
  const backlog = new Backlog(0);
  for (let sequence = 1; sequence <= 2_300_000; sequence += 1) backlog.add(80);
  expect(backlog.behind(1_000_000)).toBe(Number.POSITIVE_INFINITY);
  expect(backlog.behind(1_300_000)).toBe(80_000_000);
  expect(backlog.total).toBe(184_000_000);
});
