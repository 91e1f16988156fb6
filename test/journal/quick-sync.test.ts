import { describe, expect, test } from 'vitest';
import { QuickSync } from '../../src/journal/quick-sync.js';
import { SYNC_HERE_MS_MAX, SYNC_HERE_SIZE_MAX } from '../../src/limits.js';

const SIZE = 4336;

/** Hosts that make `requests` requests for every synced write, and a disk that takes `ms`. @returns the answers */
function cycles(quick: QuickSync, count: number, { requests = 2, ms = 0.3, size = SIZE, from = 0 } = {}): boolean[] {
  return Array.from({ length: count }, (_, i) => {
    const isHere = quick.mayBeHere(size, from + (i + 1) * requests);
    quick.took(size, ms);
    return isHere;
  });
}

const last = (answers: boolean[]): boolean => answers.at(-1)!;

describe('a synced write is made on the caller’s thread', () => {
  test('when a host asks one by one, for some time, and the disk is quick', () => {
    const answers = cycles(new QuickSync(), 100);
    expect(answers.slice(0, 7)).toEqual(new Array(7).fill(false));
    expect(answers.slice(8)).toEqual(new Array(92).fill(true));
  });

  test('not before it is known how long the disk takes', () => {
    const quick = new QuickSync();
    for (let i = 1; i < 100; i += 1) expect(quick.mayBeHere(SIZE, i)).toBe(false);
  });

  test('not for more than a request has', () => {
    expect(last(cycles(new QuickSync(), 100, { size: SYNC_HERE_SIZE_MAX }))).toBe(true);
    expect(last(cycles(new QuickSync(), 100, { size: SYNC_HERE_SIZE_MAX + 1 }))).toBe(false);
  });

  test('not while others are served, nor soon after', () => {
    const quick = new QuickSync();
    expect(last(cycles(quick, 100))).toBe(true);
    expect(quick.mayBeHere(SIZE, 203)).toBe(false);
    expect(cycles(quick, 9, { from: 203 })).toEqual([...new Array(7).fill(false), true, true]);
    expect(last(cycles(quick, 100, { requests: 3, from: 300 }))).toBe(false);
  });

  test('not where the disk is slow; one that hung is left to the helpers until it has been quick for a while', () => {
    expect(last(cycles(new QuickSync(), 100, { ms: 1.1 * SYNC_HERE_MS_MAX }))).toBe(false);
    const quick = new QuickSync();
    expect(last(cycles(quick, 100, { ms: 0.9 * SYNC_HERE_MS_MAX }))).toBe(true);
    quick.took(SIZE, 1000);
    const answers = cycles(quick, 200, { from: 200 });
    expect(answers.indexOf(true)).toBeGreaterThan(20);
    expect(last(answers)).toBe(true);
  });

  test('how long a large one took says nothing', () => {
    const quick = new QuickSync();
    cycles(quick, 100);
    for (let i = 0; i < 100; i += 1) quick.took(SYNC_HERE_SIZE_MAX + 1, 50);
    expect(quick.mayBeHere(SIZE, 202)).toBe(true);
  });
});
