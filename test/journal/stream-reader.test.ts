/** Reading a stream back from segments: what is not what was written is told, never sent as something else, never thrown. */
import { describe, expect, test } from 'vitest';
import { AT_SIZE, RECORD_SIZE_MAX } from '../../assembly/layout.js';
import { segmentName } from '../../src/journal/segments.js';
import { StreamReader } from '../../src/journal/stream-reader.js';
import { seededRandom } from '../sim/memory-store.js';
import { type JournalRig, makeJournal, SEGMENT_SIZE } from './journal-rig.js';

interface Reading {
  reader: StreamReader;
  /** Sequences handed out, and whether each of their records checks with its blocks, as the peer finds. */
  seen: { sequence: number; good: boolean }[];
}

/** Records enough that the ring has gone round: the oldest segments are in files only. */
function longJournal(): JournalRig {
  const rig = makeJournal();
  for (let i = 0; i < 500; i += 1) {
    rig.write((i * 7) % 200, 1 + (i % 12), 1 + (i % 250));
    if (i % 10 === 9) {
      rig.flush();
      rig.settle();
    }
  }
  rig.flush();
  rig.settle();
  expect(rig.journal.inRing(SEGMENT_SIZE)).toBe(false);
  return rig;
}

function readAll(rig: JournalRig, from = 1): Reading {
  const { journal } = rig;
  const { memory } = journal;
  const regions = rig.readBack;
  const seen: Reading['seen'] = [];
  let again = true;
  const reader = new StreamReader(journal, rig.offload, 1, regions, () => {
    again = true;
  });
  if (!reader.seek(from)) return { reader, seen };
  while (again) {
    again = false;
    for (;;) {
      const stretch = reader.next(journal.own.sealed, 100_000);
      if (stretch === null) break;
      let at = stretch.at;
      for (let i = 0; i < stretch.count; i += 1) {
        const size = memory.view.getUint32(at + AT_SIZE, true);
        seen.push({ sequence: stretch.first + i, good: journal.kernel.verify(at, size) === size });
        at += size;
      }
      expect(at).toBe(stretch.at + stretch.size);
      stretch.release();
    }
    rig.settle();
  }
  expect(seen.map(({ sequence }) => sequence)).toEqual(seen.map((_, index) => from + index));
  return { reader, seen };
}

describe('a stream that is read back from segments', () => {
  test('comes whole', () => {
    const rig = longJournal();
    const { reader, seen } = readAll(rig);
    expect(seen.length).toBe(rig.journal.own.appended);
    expect(seen.every(({ good }) => good)).toBe(true);
    expect(reader.damage).toBeNull();
    expect(reader.counters.fromSegments).toBeGreaterThan(10);
  });

  test('ends before a header that rotted, with what and where; rot in a block is for the peer to find', () => {
    // Sizes, sites and sequences of headers were believed: a flipped bit in a size sent the middle of a record as the next
    // one, or tripped an assertion, which stopped the process, and again at every start.
    const rig = longJournal();
    const random = seededRandom(7);
    const outcomes = { header: 0, block: 0, unused: 0 };
    for (let trial = 0; trial < 400; trial += 1) {
      const at = Math.floor(random() * (trial % 2 === 0 ? SEGMENT_SIZE * 0.95 : 20_000));
      const bits = 1 << Math.floor(random() * 8);
      rig.store.rot(segmentName(0), at, bits);
      const { reader, seen } = readAll(rig, 1);
      const bad = seen.filter(({ good }) => !good);
      if (reader.damage !== null) {
        outcomes.header += 1;
        expect(reader.damage.code).toBe('STATE_CORRUPT');
        const place = Number(/position (\d+)/.exec(reader.damage.message)![1]);
        expect(at - place).toBeGreaterThanOrEqual(0);
        expect(at - place).toBeLessThan(72 + 8 * 12);
        expect(reader.counters.damaged).toBeGreaterThan(0);
      } else {
        expect(seen.length).toBe(rig.journal.own.appended);
        if (bad.length === 0) outcomes.unused += 1;
      }
      if (bad.length > 0) {
        outcomes.block += 1;
        expect(bad.length).toBe(1);
        expect(reader.check(bad[0]!.sequence)).toBe(false);
        expect(reader.damage?.code).toBe('STATE_CORRUPT');
      }
      rig.store.rot(segmentName(0), at, bits);
    }
    expect(Math.min(outcomes.header, outcomes.block, outcomes.unused + 1)).toBeGreaterThan(0);
    expect(readAll(rig).reader.check(1)).toBe(true);
  });

  test('ends before a record that checks, but belongs elsewhere', () => {
    // A write or a read that the disk misdirects: the record is whole, the stream has another one in its place.
    const rig = longJournal();
    const { journal } = rig;
    const file = rig.store.open(segmentName(0), false);
    const places: number[] = [];
    for (let position = 0; position < SEGMENT_SIZE / 2; ) {
      const at = journal.locate(position);
      places.push(position);
      position += journal.memory.view.getUint32(at + AT_SIZE, true);
    }
    const record = (position: number): Uint8Array => {
      const bytes = new Uint8Array(places[places.indexOf(position) + 1]! - position);
      file.read(bytes, position);
      return bytes;
    };
    const sizes = places.slice(0, -1).map((position) => record(position).length);
    for (const kind of [80, 4176]) {
      const [one, two] = sizes.flatMap((size, index) => (size === kind ? [places[index]!] : [])).slice(2);
      const before = record(two!);
      file.write(record(one!), two!, () => {});
      const { reader, seen } = readAll(rig);
      // an older record of the stream is stepped over, and then one is missing
      const next = places[places.indexOf(two!) + 1];
      expect(reader.damage?.message).toMatch(new RegExp(`position (${two}|${next})\\)`));
      expect(seen.every(({ good }) => good)).toBe(true);
      file.write(before, two!, () => {});
    }
    expect(readAll(rig).reader.damage).toBeNull();
  });

  test('ends where the file does', () => {
    const rig = longJournal();
    rig.store.open(segmentName(0), false).truncate(SEGMENT_SIZE / 2);
    const { reader, seen } = readAll(rig);
    expect(seen.length).toBeGreaterThan(20);
    expect(reader.damage?.code).toMatch(/STATE_CORRUPT|EIO/);
    expect(reader.counters.damaged).toBe(1);
  });
});

test('a record of the greatest size is read back', () => {
  const rig = makeJournal();
  for (let i = 0; i < 30; i += 1) {
    rig.write(0, 256, 1 + i);
    rig.journal.sync();
    rig.settle();
  }
  const { seen, reader } = readAll(rig);
  expect(reader.damage).toBeNull();
  expect(seen.length).toBe(30);
  expect(RECORD_SIZE_MAX).toBeGreaterThan(256 * 4096);
});

test('a stretch that is on its way keeps its place in the ring', () => {
  // The socket sends from the ring itself. New records took the place of a stretch that had not left yet, and the peer got
  // them in its stead: it found a bad check at best.
  const rig = makeJournal();
  const { journal } = rig;
  for (let i = 0; i < 5; i += 1) rig.write(i, 4, 1 + i);
  rig.flush();
  rig.settle();
  const reader = new StreamReader(journal, rig.offload, 1, rig.readBack, () => {});
  expect(reader.seek(1)).toBe(true);
  const stretch = reader.next(journal.own.sealed, 1_000_000)!;
  expect(reader.counters.fromRing).toBe(1);
  const before = journal.memory.bytes.slice(stretch.at, stretch.at + stretch.size);
  const writeRound = (): void => {
    for (let written = 0; written < 2 * journal.ringSize; written += 64 * 4096) rig.write(0, 64, 9);
  };
  expect(writeRound).toThrow('no room');
  expect(journal.memory.bytes.slice(stretch.at, stretch.at + stretch.size)).toEqual(before);
  stretch.release();
  writeRound();
});

test('a journal that ends with a segment, and has freed them all, holds nothing of before', () => {
  // Its own word was that it held everything from the first record on: the peer asked for that at every link, in vain.
  const rig = makeJournal();
  const { journal } = rig;
  const reader = new StreamReader(journal, rig.offload, 1, rig.readBack, () => {});
  expect(journal.heldFrom(true)).toBe(1);
  rig.write(0, 1, 1);
  expect(journal.heldFrom(true)).toBe(1);
  expect(reader.find(1)).toBeGreaterThan(0);
  const rest = (): number => journal.segmentSize - (journal.head % journal.segmentSize);
  while (rest() > 3 * 65536) rig.write(0, 12, 1);
  while ((rest() / 16) % 5 !== 0) rig.write(0, 1, 1); // 261 times 16 bytes; a FLUSH has 5
  while (rest() !== journal.segmentSize) rig.flush();
  rig.settle();
  expect(journal.written).toBe(journal.segmentSize);
  for (const segment of journal.segments.all()) journal.freeSegment(segment);

  const { appended } = journal.own;
  expect(journal.heldFrom(true)).toBe(appended + 1);
  expect(reader.find(appended)).toBe(-1);
  // what is appended then is in the ring before it is in a file, and here
  rig.write(0, 1, 1);
  expect(journal.segments.count).toBe(0);
  expect(journal.heldFrom(true)).toBe(appended + 1);
  expect(reader.find(appended + 1)).toBeGreaterThan(0);
  expect(reader.find(appended)).toBe(-1);
  rig.flush();
  rig.settle();
  expect(journal.segments.count).toBe(1);
  expect(journal.heldFrom(true)).toBe(appended + 1);
  expect(reader.find(appended + 1)).toBeGreaterThan(0);
});
