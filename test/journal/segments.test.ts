/** Files of freed segments that are written over: what they held is never taken for the journal's own. */
import { expect, test } from 'vitest';
import { AT_TYPE, TYPE_BASE, TYPE_BASE_ZERO, TYPE_SEGMENT, TYPE_WRITE, TYPE_ZERO } from '../../assembly/layout.js';
import { recordSize } from '../../src/journal/record.js';
import { segmentName } from '../../src/journal/segments.js';
import { StreamReader } from '../../src/journal/stream-reader.js';
import { SPARE_SEGMENTS_MAX } from '../../src/limits.js';
import { type JournalRig, makeJournal, type RigOptions, SEGMENT_SIZE } from './journal-rig.js';

const RECORD_SIZE = recordSize(TYPE_WRITE, 16, 12);
const SEGMENT_RECORD_SIZE = recordSize(TYPE_SEGMENT, 1, 9);

const spares = ({ store }: JournalRig): string[] => store.list().filter((name) => name.startsWith('spare-'));

/** Writes of one size, so that new records stand where old ones stood, until `until`. */
function writeUntil(rig: JournalRig, until: () => boolean): void {
  for (let i = 0; !until(); i += 1) rig.write((i * 16) % 4096, 16, 1 + (i % 250));
}

/** The head is in this segment, of which so many writes are there; everything is on the disk. */
function writeTo(rig: JournalRig, segment: number, writes = 3): void {
  const { journal } = rig;
  writeUntil(rig, () => Math.floor(journal.head / SEGMENT_SIZE) === segment);
  for (let i = 1; i < writes; i += 1) rig.write(i * 16, 16, i);
  journal.sync();
  rig.settle();
}

/** Gives up the oldest segment, and makes that durable. */
function freeOldest(rig: JournalRig, settle = true): void {
  const { journal } = rig;
  journal.freeSegment(journal.segments.all()[0]!);
  if (!settle) return;
  rig.flush();
  rig.settle();
}

/** A journal that begins with segment 1: that in which a process starts is not written over. */
function begun(options: RigOptions = {}): JournalRig {
  const rig = makeJournal(options);
  writeTo(rig, 1);
  freeOldest(rig);
  expect(spares(rig)).toEqual([]);
  return rig;
}

/** Segment 4 is being written over what was segment 1. */
function reusing(options: RigOptions = {}): JournalRig {
  const rig = begun(options);
  writeTo(rig, 3);
  freeOldest(rig);
  expect(spares(rig)).toEqual(['spare-0000000001.log']);
  writeTo(rig, 4, 20);
  expect(spares(rig)).toEqual([]);
  expect(rig.store.sizeOf(segmentName(4))).toBe(SEGMENT_SIZE);
  return rig;
}

/** A whole record of an earlier segment stands just where the next one will. */
function leaveRecord(rig: JournalRig): void {
  const { segments, head } = rig.journal;
  const left = new Uint8Array(RECORD_SIZE);
  segments.get(3)!.file.read(left, SEGMENT_RECORD_SIZE);
  expect(left[AT_TYPE]).toBe(TYPE_WRITE);
  segments.get(4)!.file.write(left, head % SEGMENT_SIZE, () => {});
  rig.settle();
}

/** One record as another site sends it. */
function foreign(type: number): Uint8Array {
  const { journal } = makeJournal({ ownSite: 7 });
  journal.reserve(type, 0, 1, 0, 1, 12, 1, 0, 0);
  journal.publish();
  journal.sealNow();
  const at = journal.address(SEGMENT_RECORD_SIZE);
  return journal.memory.bytes.slice(at, at + recordSize(type, 1, 12));
}

/** What a first copy says of a block that shows zeroes. */
function hole(): Uint8Array {
  const { journal } = makeJournal();
  const at = journal.address(SEGMENT_SIZE);
  const size = journal.kernel.encode(at, TYPE_BASE_ZERO, 0, 1, 0, 256, 0, 0, 0, 1, 0, 1, 0, 1);
  journal.kernel.seal(at, size);
  return journal.memory.bytes.slice(at, at + size);
}

/** Replay begins at segment 3, whose blocks are the only ones that show. */
function reopen(rig: JournalRig, from: RigOptions['from'] = {}, options: RigOptions = {}): JournalRig {
  const { store, scheduler, journal } = rig;
  const own = journal.segments.get(3)!.ownBefore;
  return makeJournal({ store, scheduler, from: { position: 3 * SEGMENT_SIZE, durable: 0, own, ...from }, ...options });
}

test('a whole record of the earlier segment right behind the end is not read', () => {
  const rig = reusing();
  const { own, head } = rig.journal;
  leaveRecord(rig);
  rig.store.kill();
  const again = reopen(rig);
  expect(again.journal.own.appended).toBe(own.appended);
  expect(again.journal.head).toBe(head);
  expect(again.store.sizeOf(segmentName(4))).toBe(head % SEGMENT_SIZE);
});

test.each([
  ['nobody copies', Number.POSITIVE_INFINITY, false],
  ['a first copy goes on', 0, true],
])(
  'what a host once wrote into a block, behind the end, is a record of a first copy only if there is one: %s',
  (_, baseFrom, isTaken) => {
    // Base records have no sequence, so nothing told them from a payload of an earlier segment: a host of one volume could
    // write over another one of its group.
    const rig = reusing();
    const { head } = rig.journal;
    const left = hole();
    rig.journal.segments.get(4)!.file.write(left, head % SEGMENT_SIZE, () => {});
    rig.settle();
    rig.store.kill();
    const again = reopen(rig, { baseFrom });
    expect(again.journal.head).toBe(isTaken ? head + left.length : head);
  },
);

/** A record as another Forelock, in a guest, has it in its journal: later in the stream of a site with the same number. */
function later(): Uint8Array {
  const other = makeJournal({ journalId: 7 });
  for (let i = 0; i < 3000; i += 1) other.write(0, 1, 1);
  other.journal.sealNow();
  const size = recordSize(TYPE_WRITE, 1, 12);
  return other.journal.memory.bytes.slice(other.journal.address(other.journal.head - size)).subarray(0, size);
}

test('what a host stored of another Forelock’s journal, behind the end, is left over, though it is later', () => {
  // A sequence that was too high was rot wherever it stood: a good journal was refused after a power cut.
  const rig = reusing();
  const { own, head } = rig.journal;
  rig.journal.segments.get(4)!.file.write(later(), head % SEGMENT_SIZE, () => {});
  rig.settle();
  rig.store.kill();
  const again = reopen(rig);
  expect([again.journal.head, again.journal.own.appended]).toEqual([head, own.appended]);
  expect(again.store.sizeOf(segmentName(4))).toBe(head % SEGMENT_SIZE);
});

/** The next record of the stream, of another volume, as a host can make it up that guesses everything but the key. */
function forged({ journal }: JournalRig, recordKey: string): Uint8Array {
  const forger = makeJournal({ recordKey }).journal;
  const at = forger.address(SEGMENT_SIZE);
  const { own, stamp } = journal;
  const size = forger.kernel.encode(
    at,
    TYPE_ZERO,
    0,
    1,
    0,
    256,
    0,
    own.appended + 1,
    0,
    stamp + 1,
    own.appended + 1,
    1,
    0,
    1,
  );
  forger.kernel.seal(at, size);
  return forger.memory.bytes.slice(at, at + size);
}

test.each([
  ['does not know', '0123456789abcdee', false],
  ['knew', '0123456789abcdef', true],
])(
  'a record that a host made up, behind the end, is one of the stream only if the host %s the record key',
  (_, key, isTaken) => {
    const recordKey = '0123456789abcdef';
    const rig = reusing({ recordKey });
    const { head } = rig.journal;
    const left = forged(rig, key);
    rig.journal.segments.get(4)!.file.write(left, head % SEGMENT_SIZE, () => {});
    rig.settle();
    rig.store.kill();
    const again = reopen(rig, {}, { recordKey });
    expect(again.journal.head).toBe(isTaken ? head + left.length : head);
  },
);

test('but not where something was durable behind it', () => {
  const rig = reusing();
  const { head } = rig.journal;
  rig.write(0, 16, 1);
  for (let i = 0; i < 2; i += 1) {
    rig.flush();
    rig.settle();
  }
  rig.journal.segments.get(4)!.file.write(later(), head % SEGMENT_SIZE, () => {});
  rig.settle();
  rig.store.kill();
  expect(() => reopen(rig)).toThrow(/damaged in the middle/);
  expect(() => reopen(rig, { durable: head + 1 })).toThrow(/jumps to sequence/);
});

test('nor when replay begins at the very end', () => {
  const rig = reusing();
  const { own, head } = rig.journal;
  rig.store.kill();
  const again = reopen(rig, { position: head, durable: head, own: own.appended });
  expect([again.journal.head, again.journal.own.appended]).toEqual([head, own.appended]);
});

test('a file that has its new name, and nothing else of the new segment, is the end', () => {
  const rig = reusing();
  const { head } = rig.journal;
  freeOldest(rig);
  writeTo(rig, 5);
  // as a power cut may leave it
  const bytes = new Uint8Array(SEGMENT_SIZE);
  rig.journal.segments.get(3)!.file.read(bytes, 0);
  rig.store.kill();
  rig.store.put(segmentName(4), bytes);
  rig.store.remove(segmentName(5));
  const again = reopen(rig);
  expect(again.journal.head).toBe(4 * SEGMENT_SIZE);
  expect(again.journal.head).toBeLessThan(head);
});

test('a segment of another journal is refused, and not taken for one to be written over', () => {
  const rig = reusing();
  rig.store.kill();
  const { store, scheduler } = rig;
  const own = rig.journal.segments.get(3)!.ownBefore;
  expect(() => makeJournal({ store, scheduler, journalId: 0xbeef, from: { position: 3 * SEGMENT_SIZE, own } })).toThrow(
    /not of this journal/,
  );
});

test('whatever a power cut does, what was durable is there, and nothing else is', () => {
  for (let seed = 1; seed <= 12; seed += 1) {
    const rig = reusing({ seed });
    freeOldest(rig);
    const first = rig.journal.segments.get(3)!.ownBefore;
    const shown = new Map<number, number>();
    for (let i = 0; i < 70; i += 1) {
      shown.set(rig.write(i * 16, 16, 1 + i), i);
      if (i % 30 === 7 + seed) rig.journal.sync();
      for (let steps = 0; steps < seed % 5; steps += 1) rig.scheduler.step();
    }
    const { durable, appended } = rig.journal.own;
    rig.store.crash();
    const again = reopen(rig);
    const end = again.journal.own.appended;
    expect(end).toBeGreaterThanOrEqual(durable);
    expect(end).toBeLessThanOrEqual(appended);
    for (const [sequence, i] of shown) {
      if (sequence <= end && sequence > first) expect(again.read(i * 16, 16)).toEqual(new Array(16).fill(1 + i));
    }
    expect(spares(again)).toEqual([]);
  }
});

test('a file is written over only when a power cut cannot bring back its old name', () => {
  const rig = begun();
  writeTo(rig, 3, 60);
  freeOldest(rig, false);
  const { journal } = rig;
  // the next segment is begun before any sync
  while (Math.floor(journal.written / SEGMENT_SIZE) === 3) {
    rig.write(0, 16, 1);
    rig.write(0, 16, 1);
    rig.scheduler.step();
  }
  expect(spares(rig)).toEqual(['spare-0000000001.log']);
  expect(rig.store.sizeOf(segmentName(4))).toBeLessThan(SEGMENT_SIZE);
});

test('who still reads a freed segment finds what was there', () => {
  const rig = begun();
  writeTo(rig, 3);
  const { segments } = rig.journal;
  const oldest = segments.all()[0]!;
  segments.retain(oldest);
  freeOldest(rig);
  expect(spares(rig)).toEqual([]);
  const head = new Uint8Array(80);
  expect(oldest.file.read(head, 0)).toBe(80);
  segments.release(oldest);
  expect(() => oldest.file.size()).toThrow(/closed/);
});

test('what has no sequence of its own, or comes again with the same one, is never written over', () => {
  const stretch = foreign(TYPE_BASE);
  for (const what of ['nothing', 'a first copy', 'a dropped tail', 'another stream', 'a restart']) {
    let rig = begun();
    writeTo(rig, 3);
    if (what === 'a first copy') expect(rig.journal.accept(stretch, () => true)).toBe(stretch.length);
    if (what === 'a dropped tail') rig.journal.truncatePeer(0);
    if (what === 'another stream') rig.journal.barReuse();
    if (what === 'a restart') {
      rig.store.kill();
      const from = { position: SEGMENT_SIZE, own: rig.journal.segments.get(1)!.ownBefore };
      rig = makeJournal({ store: rig.store, scheduler: rig.scheduler, from });
    }
    writeTo(rig, 4);
    freeOldest(rig);
    expect(spares(rig), what).toHaveLength(what === 'nothing' ? 1 : 0);
  }
});

test('a stream is not read behind what is written of it', () => {
  const rig = reusing();
  const { journal, offload, readBack } = rig;
  // what is written ends with records that the reader steps over
  const stretch = foreign(TYPE_WRITE);
  for (let i = 0; i < 40; i += 1) expect(journal.accept(stretch, () => true)).toBe(stretch.length);
  journal.sync();
  rig.settle();
  leaveRecord(rig);
  const { file, ownBefore } = journal.segments.get(4)!;
  file.write = () => {}; // a disk that does not answer
  while (journal.reserve(TYPE_WRITE, 0, 1, 0, 16, 12, 1, 0, 0) >= 0) journal.publish();
  expect(journal.inRing(journal.written - 20 * stretch.length)).toBe(false);
  journal.sealNow();
  const reader = new StreamReader(journal, offload, 1, readBack, () => {});
  expect(reader.seek(ownBefore + 1)).toBe(true);
  const sequences: number[] = [];
  const { appended } = journal.own;
  for (let turn = 0; turn < 1000 && reader.nextSequence <= appended; turn += 1) {
    const stretch = reader.next(appended, 1 << 20);
    if (stretch === null) {
      rig.scheduler.step();
      continue;
    }
    for (let i = 0; i < stretch.count; i += 1) sequences.push(stretch.first + i);
    stretch.release();
  }
  expect(reader.damage).toBeNull();
  expect(reader.counters.fromSegments).toBeGreaterThan(0);
  expect(sequences).toEqual(Array.from({ length: appended - ownBefore }, (_, i) => ownBefore + 1 + i));
});

test('what is behind a PAD stays in the file that is written over, and is not read', () => {
  const rig = reusing();
  const { own, segments } = rig.journal;
  writeTo(rig, 5);
  expect(rig.store.sizeOf(segmentName(4))).toBe(SEGMENT_SIZE);
  expect(segments.get(4)!.size).toBe(SEGMENT_SIZE);
  rig.store.kill();
  expect(reopen(rig).journal.own.appended).toBe(own.appended);
});

test('what is kept stays below the limit of the journal, and goes when the disk is full', () => {
  const limit = 6 * SEGMENT_SIZE;
  const rig = begun({ limit });
  const { segments } = rig.journal;
  for (let round = 0; round < 12; round += 1) {
    writeTo(rig, round + 3);
    freeOldest(rig);
    expect(segments.used + segments.spareSize).toBeLessThanOrEqual(limit);
    expect(rig.store.used).toBe(segments.used + segments.spareSize);
  }
  while (segments.count > 1) freeOldest(rig);
  expect(spares(rig).length).toBeGreaterThan(1);
  rig.store.capacity = rig.store.used + 2 * RECORD_SIZE; // and the ends of the two that are begun
  writeTo(rig, 15, 40);
  expect(rig.journal.counters.diskFull).toBe(0); // the files that it has are enough
  rig.store.capacity = 0;
  rig.write(0, 16, 1);
  rig.journal.sync();
  while (rig.journal.counters.diskFull === 0) rig.scheduler.step();
  expect(spares(rig)).toEqual([]);
});

test('nothing is kept of a journal that holds more than its limit', () => {
  // the cleaner's copies and the peer's records may go beyond it, and then it is on its way back
  const rig = begun();
  writeTo(rig, 5);
  rig.journal.room.limit = 3 * SEGMENT_SIZE;
  freeOldest(rig, false);
  expect(spares(rig)).toEqual([]);
});

test('so many are kept, and no more', () => {
  const rig = begun();
  writeTo(rig, SPARE_SEGMENTS_MAX + 3);
  for (let i = 0; i <= SPARE_SEGMENTS_MAX; i += 1) freeOldest(rig);
  expect(spares(rig)).toHaveLength(SPARE_SEGMENTS_MAX);
});

test('a clean stop leaves nothing of it', () => {
  const rig = reusing();
  freeOldest(rig);
  const { head } = rig.journal;
  rig.journal.close();
  expect(spares(rig)).toEqual([]);
  expect(rig.store.sizeOf(segmentName(4))).toBe(head % SEGMENT_SIZE);
});

test('a file that cannot be made as long as a segment is not taken for one that is full', () => {
  // It had its new name by then, and was no spare any more: the next attempt found it, as long as what had been in it.
  const rig = begun();
  const { journal } = rig;
  writeTo(rig, 3);
  const { file, fileSize } = journal.segments.all()[0]!;
  expect(fileSize).toBeLessThan(SEGMENT_SIZE);
  let refused = 0;
  file.truncate = () => {
    refused += 1;
    throw Object.assign(new Error('ENOSPC'), { code: 'ENOSPC' });
  };
  freeOldest(rig);
  writeTo(rig, 4);
  expect([refused, journal.diskFull]).toEqual([1, true]);
  journal.appender.retry();
  rig.flush();
  rig.settle();
  expect(journal.segments.get(4)!.size).toBe(journal.written % SEGMENT_SIZE);
  expect(journal.written).toBe(journal.head);
});

test('what the disk refuses to give up stays kept, and goes the next time', () => {
  // It ended the process, with all its groups: nobody caught what the disk said.
  const rig = begun();
  const { store, journal } = rig;
  const { segments } = journal;
  writeTo(rig, 4);
  freeOldest(rig, false);
  freeOldest(rig); // the first is settled, and becomes the next segment
  writeTo(rig, 5, 20);
  const kept = segments.spareSize;
  expect(spares(rig)).toHaveLength(1);
  store.fail('remove', 'EIO', 1, /spare/);
  store.fail('truncate', 'EIO', 1);
  segments.trim(0);
  expect([segments.spareSize, spares(rig).length]).toEqual([kept, 1]);
  segments.trim(0);
  expect([segments.spareSize, spares(rig)]).toEqual([0, []]);
  expect(store.sizeOf(segmentName(5))).toBe(segments.get(5)!.size);
});

test('a disk that refuses to give up what is left over does not keep a journal from being closed', () => {
  const rig = reusing();
  const { store, scheduler, journal } = rig;
  const { own, head } = journal;
  freeOldest(rig);
  const from = { position: 3 * SEGMENT_SIZE, durable: head, own: journal.segments.get(3)!.ownBefore };
  store.fail('remove', 'EIO', 1, /spare/);
  store.fail('truncate', 'EIO', 1);
  journal.close();
  expect([spares(rig).length, store.sizeOf(segmentName(4))]).toEqual([1, SEGMENT_SIZE]);
  const again = makeJournal({ store, scheduler, from });
  expect(again.journal.own.appended).toBe(own.appended);
  expect(spares(again)).toEqual([]);
});

test('a segment whose file cannot be kept is given up', () => {
  const rig = begun();
  writeTo(rig, 3);
  rig.store.fail('rename', 'EIO', 1);
  freeOldest(rig);
  expect([spares(rig), rig.journal.segments.get(1), rig.journal.failed]).toEqual([[], undefined, null]);
  expect(rig.store.list()).not.toContain(segmentName(1));
});

test('a disk that refuses to give up a segment has failed, and the segment is still there', () => {
  // It ended the process; and what was in the file did not count as used any more.
  const rig = begun();
  const { journal } = rig;
  writeTo(rig, 3);
  const { used } = journal.segments;
  rig.store.fail('rename', 'EIO', 1);
  rig.store.fail('remove', 'EIO', 1);
  freeOldest(rig, false);
  expect(journal.failed).toMatchObject({
    code: 'EIO',
    message: expect.stringContaining('remove segment-0000000001.log'),
  });
  expect([journal.segments.used, journal.segments.get(1)?.removed]).toEqual([used, false]);
});

test('what is kept already, and what is left in the file that is written over, goes when it could be taken for what follows', () => {
  // Only what was freed later was not written over: records of a stream that goes on from before them stood behind its end.
  const rig = reusing();
  const { journal, store } = rig;
  freeOldest(rig);
  expect([spares(rig).length, store.sizeOf(segmentName(4))]).toEqual([1, SEGMENT_SIZE]);
  journal.barReuse();
  expect(spares(rig)).toEqual([]);
  rig.write(0, 16, 1);
  rig.flush();
  rig.settle();
  expect(store.sizeOf(segmentName(4))).toBe(journal.head % SEGMENT_SIZE);
});
