import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { KnownChecksums } from '../../src/journal/checksums.js';
import { Liveness } from '../../src/journal/liveness.js';
import {
  BlockMap,
  type CheckpointPages,
  MAPPED,
  type MapLookup,
  type MapView,
  PAGE_BLOCKS,
  pointerIndex,
  pointerPosition,
  pointerStatus,
  UNMAPPED,
  ZERO,
} from '../../src/journal/map.js';

const SEGMENT_SIZE = 4 * 1024 * 1024;
/** Crosses a leaf boundary (131,072 blocks) and ends inside a page. */
const BLOCK_COUNT = 131072 + 300;

interface Entry {
  position: number;
  index: number;
}

/** The map's twin: a plain Map from block to entry; `zero` is an entry too. */
type Model = Map<number, Entry | 'zero'>;

function expectSame(map: MapLookup, model: Model, blocks: Iterable<number>): void {
  for (const lba of blocks) {
    const entry = model.get(lba);
    const mapped = map.lookup(lba);
    const shown = mapped ? { position: map.position, index: map.index } : map.zero ? 'zero' : undefined;
    expect(shown, `block ${lba}`).toEqual(entry);
  }
}

const statusOf = (entry: Entry | 'zero' | undefined) =>
  entry === undefined ? UNMAPPED : entry === 'zero' ? ZERO : MAPPED;

function expectSameRuns(map: MapLookup, model: Model, from: number, to: number): void {
  for (let lba = from; lba < to; ) {
    const status = statusOf(model.get(lba));
    let end = lba + 1;
    while (end < to && statusOf(model.get(end)) === status) end++;
    expect(map.run(lba, to - lba)).toBe(end - lba);
    expect(map.status).toBe(status);
    lba = end;
  }
}

function expectSameLiveness(liveness: Liveness, model: Model): void {
  const counts = new Map<number, number>();
  for (const entry of model.values()) {
    if (entry === 'zero') continue;
    const segment = Math.floor(entry.position / SEGMENT_SIZE);
    counts.set(segment, (counts.get(segment) ?? 0) + 1);
  }
  expect(liveness.segments()).toEqual([...counts.keys()].sort((a, b) => a - b));
  for (const [segment, count] of counts) expect(liveness.liveBlocks(segment)).toBe(count);
}

/** Blocks near the start, around a leaf boundary and at the end: where pages are shared and runs cross. */
const lbas = fc.oneof(fc.integer({ min: 0, max: 400 }), fc.integer({ min: 131072 - 300, max: 131072 + 299 }));
const counts = fc.oneof(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 1, max: 300 }));
const positions = fc
  .oneof(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 2 ** 24 }), fc.maxSafeInteger().map(Math.abs))
  .map((n) => Math.max(16, Math.min(n * 16, 2 ** 53 - 16) - (Math.min(n * 16, 2 ** 53 - 16) % 16)));

const operations = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({ op: fc.constant('swing' as const), lba: lbas, count: counts, position: positions }),
  },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('clear' as const), lba: lbas, count: counts }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('zero' as const), lba: lbas, count: counts }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('dropZero' as const), lba: lbas, count: counts }) },
  {
    weight: 2,
    arbitrary: fc.record({ op: fc.constant('cas' as const), lba: lbas, stale: fc.boolean(), position: positions }),
  },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('drop' as const), lba: lbas, position: positions }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('checksum' as const), lba: lbas, count: counts }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('snapshot' as const) }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('release' as const), which: fc.nat() }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('begin' as const), all: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('end' as const), commit: fc.boolean() }) },
);

/** What a checkpoint's reader would have on disk: page by page, with the rule for missing checksums. */
class Disk {
  pages = new Map<number, Uint32Array>();

  take(pages: CheckpointPages, all: boolean): Map<number, Uint32Array> {
    const next = all ? new Map<number, Uint32Array>() : new Map(this.pages);
    let last = -1;
    while (pages.next()) {
      expect(pages.pageNumber).toBeGreaterThan(last);
      last = pages.pageNumber;
      const page = new Uint32Array(PAGE_BLOCKS * 4);
      const from = pages.first * 4;
      page.set(pages.entries.subarray(from, from + pages.count * 4), from);
      let missing = 0;
      const before = this.pages.get(pages.pageNumber);
      for (let i = 0; i < page.length; i += 4) {
        if (pointerStatus(page[i], page[i + 1]) !== MAPPED || (page[i + 2] | page[i + 3]) !== 0) continue;
        missing++;
        if (before === undefined || before[i] !== page[i] || before[i + 1] !== page[i + 1]) continue;
        page[i + 2] = before[i + 2];
        page[i + 3] = before[i + 3];
      }
      expect(pages.missing).toBe(missing);
      if (pages.count > 0) next.set(pages.pageNumber, page);
      else next.delete(pages.pageNumber);
    }
    expect(pages.next()).toBe(false);
    return next;
  }
}

/** Checksums by pointer. */
class Known implements KnownChecksums {
  lo = 0;
  hi = 0;
  readonly sums = new Map<string, readonly [number, number]>();

  set(position: number, index: number, sum: readonly [number, number]): void {
    this.sums.set(`${position}/${index}`, sum);
  }

  find(position: number, index: number): boolean {
    const sum = this.sums.get(`${position}/${index}`);
    if (sum !== undefined) [this.lo, this.hi] = sum;
    return sum !== undefined;
  }
}

const checksumOf = (position: number, index: number) => [((position / 16) | 1) >>> 0, index + 7] as const;

type Step = typeof operations extends fc.Arbitrary<infer T> ? T : never;

function run(map: BlockMap, liveness: Liveness, steps: readonly Step[]): void {
  const model: Model = new Map();
  const views: { view: MapView; model: Model }[] = [];
  const disk = new Disk();
  let begun: { pages: CheckpointPages; all: boolean; model: Model } | null = null;
  let known = new Known();
  const touched = new Set<number>([0, BLOCK_COUNT - 1]);
  const touch = (lba: number, count: number) => {
    for (let i = -1; i <= count; i++) if (lba + i >= 0 && lba + i < BLOCK_COUNT) touched.add(lba + i);
  };
  const finish = (commit: boolean) => {
    if (begun === null) return;
    const pages = disk.take(begun.pages, begun.all);
    for (const [lba, entry] of begun.model) {
      const page = pages.get(Math.floor(lba / PAGE_BLOCKS));
      expect(page, `page of block ${lba}`).toBeDefined();
      const at = (lba % PAGE_BLOCKS) * 4;
      const [lo, hi, sumLo, sumHi] = page!.subarray(at, at + 4);
      if (entry === 'zero') {
        expect(pointerStatus(lo, hi)).toBe(ZERO);
        continue;
      }
      expect({ position: pointerPosition(lo, hi), index: pointerIndex(lo) }).toEqual(entry);
      if ((sumLo | sumHi) !== 0) expect([sumLo, sumHi]).toEqual([...checksumOf(entry.position, entry.index)]);
    }
    let used = 0;
    for (const page of pages.values()) {
      for (let i = 0; i < page.length; i += 4) if ((page[i] | page[i + 1]) !== 0) used++;
    }
    expect(used).toBe(begun.model.size);
    if (commit) {
      begun.pages.commit();
      disk.pages = pages;
    } else begun.pages.abort();
    begun = null;
  };

  for (const step of steps) {
    if (step.op === 'swing') {
      const count = Math.min(step.count, BLOCK_COUNT - step.lba);
      map.swing(step.lba, count, step.position);
      for (let i = 0; i < count; i++) model.set(step.lba + i, { position: step.position, index: i });
      touch(step.lba, count);
    } else if (step.op === 'clear') {
      const count = Math.min(step.count, BLOCK_COUNT - step.lba);
      map.clear(step.lba, count);
      for (let i = 0; i < count; i++) model.delete(step.lba + i);
      touch(step.lba, count);
    } else if (step.op === 'zero') {
      const count = Math.min(step.count, BLOCK_COUNT - step.lba);
      map.setZero(step.lba, count);
      for (let i = 0; i < count; i++) model.set(step.lba + i, 'zero');
      touch(step.lba, count);
    } else if (step.op === 'dropZero') {
      const count = Math.min(step.count, BLOCK_COUNT - step.lba);
      map.dropZero(step.lba, count);
      for (let i = 0; i < count; i++) if (model.get(step.lba + i) === 'zero') model.delete(step.lba + i);
    } else if (step.op === 'cas') {
      const entry = model.get(step.lba);
      const from = entry === undefined || entry === 'zero' ? { position: 16, index: 1 } : { ...entry };
      if (step.stale) from.index = (from.index + 1) & 1023;
      const swung = map.compareAndSwing(step.lba, from.position, from.index, step.position, 5);
      expect(swung).toBe(entry !== undefined && entry !== 'zero' && !step.stale);
      if (swung) model.set(step.lba, { position: step.position, index: 5 });
    } else if (step.op === 'drop') {
      const entry = model.get(step.lba);
      const drops = entry !== undefined && entry !== 'zero' && entry.position < step.position;
      expect(map.drop(step.lba, step.position)).toBe(drops);
      if (drops) model.delete(step.lba);
    } else if (step.op === 'checksum') {
      for (let i = 0; i < step.count; i++) {
        const entry = model.get(step.lba + i);
        if (entry === undefined || entry === 'zero') continue;
        known.set(entry.position, entry.index, checksumOf(entry.position, entry.index));
      }
    } else if (step.op === 'snapshot') {
      if (views.length < 4) views.push({ view: map.snapshot(), model: new Map(model) });
    } else if (step.op === 'release') {
      if (views.length > 0) views.splice(step.which % views.length, 1)[0]!.view.release();
    } else if (step.op === 'begin') {
      if (begun !== null) continue;
      begun = { pages: map.beginCheckpoint(known, step.all), all: step.all, model: new Map(model) };
      known = new Known();
    } else finish(step.commit);
  }
  finish(true);
  expectSame(map, model, touched);
  for (const { view, model } of views) expectSame(view, model, touched);
  for (const { view, model } of views) expectSameRuns(view, model, 131072 - 400, BLOCK_COUNT);
  expectSameRuns(map, model, 0, 500);
  expectSameRuns(map, model, 131072 - 400, BLOCK_COUNT);
  expectSameLiveness(liveness, model);
  const mapped = [...model].filter(([, entry]) => entry !== 'zero').map(([lba]) => lba);
  expect(map.mappedCount).toBe(mapped.length);
  expect(map.entryCount).toBe(model.size);
  const walked: number[] = [];
  map.forEachMapped(0, (lba) => walked.push(lba));
  expect(walked).toEqual(mapped.sort((a, b) => a - b));

  for (const { view } of views) view.release();
  map.clear(0, BLOCK_COUNT);
  expect([map.mappedCount, map.entryCount]).toEqual([0, 0]);
  expect(liveness.total).toBe(0);
  expect(liveness.segments()).toEqual([]);
}

describe('block map', () => {
  test('behaves as a plain Map of entries, with snapshots and checkpoints in between', () => {
    fc.assert(
      fc.property(fc.array(operations, { maxLength: 60 }), (steps) => {
        const liveness = new Liveness(SEGMENT_SIZE);
        run(new BlockMap(BLOCK_COUNT, liveness), liveness, steps);
      }),
      { numRuns: 150 },
    );
  });

  test('counts live blocks with the largest segments too', () => {
    const liveness = new Liveness(64 * 1024 * 1024);
    const map = new BlockMap(1000, liveness);
    map.swing(0, 10, 16);
    map.swing(10, 10, 64 * 1024 * 1024 - 16);
    map.swing(20, 10, 64 * 1024 * 1024);
    expect(liveness.segments()).toEqual([0, 1]);
    expect(liveness.liveBlocks(0)).toBe(20);
    map.swing(5, 20, 2 ** 40);
    expect([liveness.liveBlocks(0), liveness.liveBlocks(1), liveness.liveBlocks(2 ** 14)]).toEqual([5, 5, 20]);
  });

  test('a dense volume of 1 GiB costs at most 10 bytes a block', () => {
    const blockCount = 2 ** 30 / 4096;
    const map = new BlockMap(blockCount, new Liveness(SEGMENT_SIZE));
    for (let lba = 0; lba < blockCount; lba += 256) map.swing(lba, 256, 16 + lba * 4112);
    expect(map.bytes / blockCount).toBeLessThanOrEqual(10);
  });

  test('a snapshot costs the pages that change after it, and gives them back', () => {
    const map = new BlockMap(2 ** 18, new Liveness(SEGMENT_SIZE));
    for (let lba = 0; lba < 2 ** 18; lba += 1024) map.swing(lba, 1024, 16 + lba * 16);
    const before = map.bytes;
    for (let round = 0; round < 50; round++) {
      const view = map.snapshot();
      for (let i = 0; i < 100; i++) map.swing((i * 2017) % 2 ** 18, 1, 2 ** 40 + i * 16);
      view.release();
    }
    expect(map.bytes - before).toBeLessThanOrEqual(260 * 1024 + 2048);
  });

  test('a large view is given back over time, all of it, and its pages are used again', () => {
    const leafCount = 80;
    const map = new BlockMap(leafCount * 131072, new Liveness(SEGMENT_SIZE));
    const touchAll = (position: number) => {
      for (let page = 0; page < leafCount * 1024; page++) map.swing(page * PAGE_BLOCKS, 1, position);
    };
    touchAll(16);
    const first = map.bytes;
    let most = 0;
    for (let round = 2; round < 7; round++) {
      const view = map.snapshot();
      touchAll(round * 16);
      expect(view.lookup(131072) && view.position).toBe((round - 1) * 16);
      view.release();
      most = Math.max(most, map.bytes);
    }
    expect(most).toBeLessThan(first * 2.1);
  });

  test('1 TiB: one block at each end, a snapshot and a run over the hole between them', () => {
    const blockCount = 2 ** 28;
    const map = new BlockMap(blockCount, new Liveness(SEGMENT_SIZE));
    map.swing(0, 1, 32);
    map.swing(blockCount - 1, 1, 2 ** 52);
    const view = map.snapshot();
    map.clear(0, blockCount);
    expect(map.run(0, blockCount)).toBe(blockCount);
    expect(view.run(1, blockCount)).toBe(blockCount - 2);
    expect(view.nextMapped(1)).toBe(blockCount - 1);
    expect(view.lookup(blockCount - 1) && view.position).toBe(2 ** 52);
    view.release();
    map.setZero(0, blockCount);
    expect(map.run(0, blockCount)).toBe(blockCount);
    expect(map.status).toBe(ZERO);
    expect(map.bytes).toBeLessThan(16 * 2 ** 20);
    expect(map.next(ZERO, 5, blockCount)).toBe(5);
    map.swing(1000, 1, 32);
    map.clear(1024, 2 ** 20);
    expect([map.next(MAPPED, 0, blockCount), map.next(MAPPED, 1001, blockCount)]).toEqual([1000, -1]);
    expect([map.next(MAPPED, 0, 1000), map.next(MAPPED, 0, 1001)]).toEqual([-1, 1000]);
    expect([map.next(ZERO, 1000, 1001), map.next(ZERO, 1000, 1002)]).toEqual([-1, 1001]);
    expect([map.next(ZERO, 1024, 1024 + 2 ** 20), map.next(ZERO, 1024, blockCount)]).toEqual([-1, 1024 + 2 ** 20]);
  });

  test('a checkpoint that failed leaves its pages to the next one; a block has the checksum of its pointer', () => {
    const map = new BlockMap(1000, new Liveness(SEGMENT_SIZE));
    const known = new Known();
    map.swing(0, 4, 1600);
    for (let i = 0; i < 4; i++) known.set(1600, i, [10 + i, 1]);
    const failed = map.beginCheckpoint(known);
    map.swing(1, 1, 3200);
    known.set(3200, 0, [77, 1]);
    map.swing(2, 1, 4800);
    failed.abort();
    const pages = map.beginCheckpoint(known);
    expect(pages.next()).toBe(true);
    expect([0, 1, 2, 3].map((i) => pages.entries[i * 4 + 2])).toEqual([10, 77, 0, 13]);
    expect([pages.first, pages.count, pages.missing]).toEqual([0, 4, 1]);
    expect(pages.next()).toBe(false);
    pages.commit();
    expect(map.dirtyPages).toBe(0);
  });

  test('drop: what stands before the position is in the image, what stands at it is not', () => {
    const map = new BlockMap(100, new Liveness(SEGMENT_SIZE));
    map.swing(5, 1, 160);
    expect(map.drop(5, 160)).toBe(false);
    expect(map.drop(5, 176)).toBe(true);
    expect(map.lookup(5)).toBe(false);
  });

  test('bad arguments are assertions', () => {
    const map = new BlockMap(100, new Liveness(SEGMENT_SIZE));
    expect(() => map.swing(99, 2, 16)).toThrow('assertion');
    expect(() => map.swing(0, 1, 0)).toThrow('assertion');
    expect(() => map.swing(0, 1, 17)).toThrow('assertion');
    expect(() => map.swing(0, 2, 16, 1023)).toThrow('assertion');
    expect(() => map.lookup(100)).toThrow('assertion');
    expect(() => map.lookup(-1)).toThrow('assertion');
    expect(() => new Liveness(5_000_000)).toThrow('assertion');
  });
});
