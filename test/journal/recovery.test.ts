/** Recovery by itself: what a crash leaves is cut to a prefix, what rot leaves is refused, and nothing else is shown. */
import { describe, expect, test } from 'vitest';
import { AT_TYPE, TYPE_MARK, TYPE_WRITE } from '../../assembly/layout.js';
import { ForelockError } from '../../src/errors.js';
import { segmentName } from '../../src/journal/segments.js';
import { seededRandom } from '../sim/memory-store.js';
import { type JournalRig, makeJournal, type RigOptions, SEGMENT_SIZE } from './journal-rig.js';

/** Writes and syncs in turns, so that MARKs stand between the records. @returns the fills by block */
function fill(rig: JournalRig, writes: number, blocks: number): number[] {
  const model = new Array<number>(256).fill(0);
  for (let i = 0; i < writes; i += 1) {
    const lba = (i * 7) % (256 - blocks);
    rig.write(lba, blocks, 1 + (i % 250));
    model.fill(1 + (i % 250), lba, lba + blocks);
    if (i % 4 === 3) {
      rig.flush();
      rig.settle();
    }
  }
  return model;
}

function reopen(rig: JournalRig, power: boolean): JournalRig {
  if (power) rig.store.crash();
  else rig.store.kill();
  return makeJournal({ store: rig.store, scheduler: rig.scheduler });
}

describe('a crash', () => {
  test('leaves a prefix of the records, never less than what was durable, whatever the disk did with the rest', () => {
    for (let seed = 1; seed <= 40; seed += 1) {
      const random = seededRandom(seed);
      const rig = makeJournal({ seed });
      const images: number[][] = [new Array<number>(64).fill(0)];
      const writes = 20 + Math.floor(random() * 100);
      for (let i = 0; i < writes; i += 1) {
        const image = images[images.length - 1]!.slice();
        const count = 1 + Math.floor(random() * 8);
        const lba = Math.floor(random() * (64 - count));
        rig.write(lba, count, 1 + (i % 255));
        images.push(image.fill(1 + (i % 255), lba, lba + count));
        if (random() < 0.3) rig.journal.sync();
        for (let steps = random() * 12; steps > 0; steps -= 1) rig.scheduler.step();
      }
      const durable = rig.journal.own.durable;
      const again = reopen(rig, true);
      const { appended } = again.journal.own;
      expect(appended, `seed ${seed}`).toBeGreaterThanOrEqual(durable);
      expect(again.read(0, 64), `seed ${seed}`).toEqual(images[appended]);
      // and it goes on from there
      again.write(0, 64, 9);
      const last = again.flush();
      again.settle();
      const third = reopen(again, true);
      expect(third.journal.own.appended).toBe(last);
      expect(third.read(0, 64)).toEqual(new Array(64).fill(9));
    }
  });

  test('of the process alone loses nothing that was written', () => {
    const rig = makeJournal();
    const model = fill(rig, 60, 8);
    rig.journal.sync();
    rig.settle();
    const again = reopen(rig, false);
    expect(again.journal.own.appended).toBe(rig.journal.own.appended);
    expect(again.read(0, 256)).toEqual(model);
  });
});

test('what was cut off does not come back behind new records', () => {
  // Of three records that no sync had covered the first was torn: all three were cut off. The next record took the place
  // of the first, and its size. Were the file not cut, a second crash would find the other two behind it, whole and with
  // the sequences that follow.
  const rig = makeJournal();
  fill(rig, 12, 4);
  const position = rig.journal.head;
  const before = rig.journal.own.appended;
  for (let lba = 0; lba < 3; lba += 1) rig.write(lba, 1, 77);
  rig.journal.sync();
  rig.settle();
  rig.store.rot(segmentName(0), position + 100);
  const again = reopen(rig, false);
  expect(again.journal.own.appended).toBe(before);
  expect(again.journal.head).toBe(position);
  again.write(9, 1, 88);
  again.journal.sync();
  again.settle();
  const third = reopen(again, false);
  expect(third.journal.own.appended).toBe(before + 1);
  expect(third.read(0, 3)).not.toContain(77);
});

describe('damage', () => {
  test('of a segment below a durable mark is refused, or touches nothing that is shown', () => {
    const random = seededRandom(3);
    let refused = 0;
    for (let trial = 0; trial < 60; trial += 1) {
      const rig = makeJournal();
      const model = fill(rig, 24, 6);
      // the last record bears a MARK of all that stands before it
      const marked = rig.journal.durable;
      rig.write(0, 1, model[0]!);
      rig.flush();
      rig.settle();
      rig.store.rot(segmentName(0), Math.floor(random() * marked), 1 << Math.floor(random() * 8));
      try {
        const again = reopen(rig, true);
        expect(again.read(0, 256)).toEqual(model);
      } catch (error) {
        expect(error).toBeInstanceOf(ForelockError);
        expect((error as ForelockError).code).toBe('STATE_CORRUPT');
        refused += 1;
      }
    }
    expect(refused).toBeGreaterThan(50);
  });

  test('found while reading is EIO, never wrong data', () => {
    const random = seededRandom(4);
    const rig = makeJournal();
    const model = fill(rig, 700, 8); // 23 MB: the ring has long gone round
    rig.journal.sync();
    rig.settle();
    let failed = 0;
    for (let trial = 0; trial < 200; trial += 1) {
      const newest = rig.journal.segments.all().at(-1)!;
      const name = segmentName(Math.floor(random() * newest.number));
      const at = Math.floor(random() * SEGMENT_SIZE * 0.9);
      const bits = 1 << Math.floor(random() * 8);
      rig.store.rot(name, at, bits);
      for (let lba = 0; lba < 256; lba += 1) {
        const found = rig.read(lba, 1);
        if (found instanceof Error) {
          failed += 1;
          expect((found as ForelockError).code).toBe('EIO');
        } else expect(found).toEqual([model[lba]]);
      }
      rig.store.rot(name, at, bits);
      if (trial > 20 && failed > 0) break;
    }
    rig.store.rot(segmentName(0), 100, 0);
  });

  test('of a whole segment in the middle is refused', () => {
    const rig = makeJournal();
    fill(rig, 700, 8);
    rig.flush();
    rig.settle();
    rig.store.remove(segmentName(2));
    rig.store.kill();
    expect(() => makeJournal({ store: rig.store, scheduler: rig.scheduler })).toThrow(/STATE_CORRUPT|missing|damaged/);
  });

  const opening = (rig: JournalRig, options: RigOptions): (() => JournalRig) => {
    rig.store.kill();
    return () => makeJournal({ ...options, store: rig.store, scheduler: rig.scheduler });
  };

  test('of the segment in which the last checkpoint was made is refused, whether blocks stand in it or not', () => {
    // The file was gone, or shorter than the checkpoint's position: nothing was left to replay, nothing was missed, and
    // the journal went on in a file that began in its middle. The stream's records in it were lost without a word.
    for (const left of [null, 0, 100, SEGMENT_SIZE / 4]) {
      const rig = makeJournal();
      fill(rig, 400, 4);
      rig.flush();
      rig.settle();
      const position = rig.journal.head;
      const name = segmentName(Math.floor(position / SEGMENT_SIZE));
      expect(position % SEGMENT_SIZE).toBeGreaterThan(SEGMENT_SIZE / 4);
      if (left === null) rig.store.remove(name);
      else rig.store.open(name, false).truncate(left);
      const from = { position, durable: position, own: rig.journal.own.appended };
      expect(opening(rig, { from }), `left: ${left}`).toThrow(/is missing or ends before|SEGMENT record is damaged/);
    }
  });

  test('below what a checkpoint knew to be durable is refused, though nothing behind it bears a mark', () => {
    const rig = makeJournal();
    fill(rig, 3, 4);
    rig.flush();
    rig.settle();
    const durable = rig.journal.head;
    rig.store.rot(segmentName(0), durable - 70);
    expect(opening(rig, { from: { durable } })).toThrow(/damaged in the middle/);
    expect(opening(rig, {})().journal.head).toBeLessThan(durable);
  });

  test('of an old segment that lost its end is refused while blocks stand in it', () => {
    const rig = makeJournal();
    fill(rig, 700, 8);
    rig.flush();
    rig.settle();
    const position = rig.journal.head;
    const from = { position, durable: position, own: rig.journal.own.appended };
    const reopenWith = (blocks: number): (() => JournalRig) =>
      opening(rig, { from, fillMap: (map) => map.swing(0, blocks, SEGMENT_SIZE + 592) });
    expect(reopenWith(1)().read(0, 1)).not.toBeNull();
    const file = rig.store.open(segmentName(1), false);
    file.truncate(file.size() - 80);
    expect(reopenWith(1)).toThrow(/its end is missing/);
  });

  test('of an old segment that is not there any more is refused while blocks stand in it', () => {
    // The site opened, and served: whoever read these blocks, days later perhaps, was the first to hear that they are gone.
    const rig = makeJournal();
    fill(rig, 700, 8);
    rig.flush();
    rig.settle();
    const position = rig.journal.head;
    const from = { position, durable: position, own: rig.journal.own.appended };
    const fillMap: RigOptions['fillMap'] = (map) => map.swing(0, 1, SEGMENT_SIZE + 592);
    rig.store.remove(segmentName(1));
    expect(opening(rig, { from, fillMap })).toThrow(/it is missing or cut off/);
    expect(opening(rig, { from })().journal.head).toBe(position);
  });

  test('that left a record out is refused, though all that is there checks', () => {
    // A disk that put a later write in the place of an earlier one: every record is whole, and one that hosts were
    // answered for is not among them. The journal went on as if it had never been written.
    const rig = makeJournal();
    const ends: number[] = [];
    for (let lba = 0; lba < 6; lba += 1) {
      rig.write(lba, 1, 1 + lba);
      ends.push(rig.journal.head);
    }
    rig.journal.sync();
    rig.settle();
    const bytes = rig.store.load(segmentName(0))!.slice();
    const left = Uint8Array.of(...bytes.subarray(0, ends[2]), ...bytes.subarray(ends[3], ends[5]));
    rig.store.open(segmentName(0), false).truncate(left.length);
    for (const [at, byte] of left.entries()) {
      if (byte !== bytes[at]) rig.store.rot(segmentName(0), at, byte ^ bytes[at]!);
    }
    expect(opening(rig, {})).toThrow(/jumps to sequence 5/);
  });

  test('is not seen in a directory of another journal: nothing of it is cut off', () => {
    const rig = makeJournal();
    fill(rig, 8, 4);
    const size = rig.store.load(segmentName(0))!.length;
    expect(opening(rig, { journalId: 7 })).toThrow(/not of this journal/);
    expect(rig.store.load(segmentName(0))!.length).toBe(size);
  });
});

describe('a MARK inside a payload', () => {
  test.each([
    ['of another journal', { journalId: 7 }],
    ['of a clone of this one that went further', {}],
  ])('%s does not make rot of a torn tail', (_, options) => {
    // A state directory was kept inside a volume, as backups are. The power went while a piece of it was written: its
    // MARK, of positions that this journal had never reached, stood behind the torn record, and a good journal was refused.
    const other = makeJournal(options);
    fill(other, 700, 8);
    const stored = other.store.load(segmentName(5))!;
    const view = new DataView(stored.buffer);
    let mark = stored.length - 80;
    while (view.getUint8(mark + AT_TYPE) !== TYPE_MARK || view.getUint32(mark + 8, true) !== 80) mark -= 16;

    const rig = makeJournal();
    const model = fill(rig, 8, 4);
    const durable = rig.journal.head;
    const at = rig.journal.reserve(TYPE_WRITE, 0, 1, 0, 1, 12, 1, 0, 0);
    rig.journal.memory.bytes.set(stored.subarray(mark, mark + 80), at + 160);
    rig.journal.publish();
    rig.journal.sync();
    rig.settle();
    rig.store.rot(segmentName(0), rig.journal.head - 4096 - 20); // its header: torn
    const again = reopen(rig, false);
    expect(again.journal.head).toBeGreaterThanOrEqual(durable);
    expect(again.read(0, 256)).toEqual(model);
  });
});
