/** The journal by itself: order of disk calls, segments that turn, a ring that wraps, a disk that fills. */
import { describe, expect, test } from 'vitest';
import {
  AT_SIZE,
  AT_TYPE,
  TYPE_BASE,
  TYPE_BASE_ZERO,
  TYPE_COMMIT,
  TYPE_FLUSH,
  TYPE_LOCAL,
  TYPE_LOCK,
  TYPE_MARK,
  TYPE_PAD,
  TYPE_RELOCATED,
  TYPE_TRIM,
  TYPE_UNLOCK,
  TYPE_WRITE,
  TYPE_ZERO,
} from '../../assembly/layout.js';
import { NO_SPACE, RING_FULL } from '../../src/journal/journal.js';
import { RecordHeader, recordSize } from '../../src/journal/record.js';
import type { StoreFile } from '../../src/journal/store.js';
import { createKernel } from '../../src/kernel/create.js';
import { CLOCK_MAX } from '../../src/limits.js';
import { Scheduler } from '../sim/group-rig.js';
import { MemoryStore, seededRandom } from '../sim/memory-store.js';
import { BLOCK_SIZE, BLOCKS, makeJournal, SEGMENT_SIZE } from './journal-rig.js';

describe('what is told to be durable', () => {
  test('a flush is durable only after the sync that was asked for when its bytes were written', () => {
    const rig = makeJournal();
    const calls: string[] = [];
    const open = rig.store.open.bind(rig.store);
    rig.store.open = (name, create): StoreFile => {
      const file = open(name, create);
      const { write, sync } = file;
      file.write = (bytes, position, done) => {
        const end = position + bytes.length;
        calls.push(`write ${end}`);
        write.call(file, bytes, position, (error) => {
          calls.push(`written ${end}`);
          done(error);
        });
      };
      file.sync = (done) => {
        calls.push('sync');
        sync.call(file, (error) => {
          calls.push('synced');
          done(error);
        });
      };
      return file;
    };
    const syncDirectory = rig.store.syncDirectory.bind(rig.store);
    rig.store.syncDirectory = (done) => {
      calls.push('sync directory');
      syncDirectory((error) => {
        calls.push('synced directory');
        done(error);
      });
    };
    let flushed = 0;
    let end = 0;
    const { journal } = rig;
    journal.listen({
      sealed() {},
      durable() {
        if (flushed > 0 && journal.own.durable >= flushed) calls.push('durable');
      },
      room() {},
      failed() {},
    });
    rig.write(0, 4, 7);
    flushed = rig.flush();
    end = journal.head;
    rig.settle();
    const durable = calls.indexOf('durable');
    const written = calls.findIndex((call) => call.startsWith('written') && Number(call.slice(8)) >= end);
    expect(written).toBeGreaterThanOrEqual(0);
    const sync = calls.indexOf('sync', written);
    expect(sync, 'the sync is asked for after the write was answered').toBeGreaterThan(written);
    expect(calls.indexOf('synced', sync)).toBeLessThan(durable);
    expect(calls.indexOf('synced directory'), 'the segment was new: its name has to stay').toBeLessThan(durable);
    expect(calls.indexOf('synced directory')).toBeGreaterThanOrEqual(0);
  });

  test('a sync that fails makes nothing durable, then or later', () => {
    const rig = makeJournal();
    rig.store.fail('sync', 'EIO');
    let failed: Error | null = null;
    rig.journal.listen({
      sealed() {},
      durable() {},
      room() {},
      failed(error) {
        failed = error;
      },
    });
    rig.write(0, 1, 1);
    rig.flush();
    rig.settle();
    expect(failed).not.toBeNull();
    rig.journal.sync();
    rig.settle();
    expect(rig.journal.own.durable).toBe(0);
  });

  test('a sync with nothing but the body of a PAD to cover ends', () => {
    // The disk had no room for one more name when the segment turned. `written` stood behind a PAD, and everything before
    // it was synced: no file was left to sync, so nothing ever answered, and no later flush was answered either.
    const scheduler = new Scheduler();
    const random = seededRandom(1);
    const defer = (task: () => void, delayMs: number): void => scheduler.schedule(task, delayMs);
    const store = new MemoryStore({ random, defer, latencyMs: () => 5 });
    const rig = makeJournal({ store, scheduler });
    const { journal } = rig;
    const until = (done: () => boolean): void => {
      while (!done()) expect(scheduler.step()).toBe(true);
    };
    // an append is under way; behind it a record that a flush waits for, and the turn of the segment
    for (let lba = 0; journal.head < SEGMENT_SIZE - 240_000; lba += 30) rig.write(lba, 30, 1);
    until(() => journal.sealed === journal.head);
    const first = rig.flush();
    journal.sealNow();
    const last = rig.write(0, 60, 2);
    expect(journal.head).toBeGreaterThan(SEGMENT_SIZE);
    until(() => journal.sealed >= SEGMENT_SIZE);
    expect(journal.written).toBe(0);
    until(() => journal.own.durable === first);
    expect(journal.written).toBeLessThan(SEGMENT_SIZE);
    const open = store.open.bind(store);
    store.open = () => {
      throw Object.assign(new Error('no room for a name'), { code: 'ENOSPC' });
    };
    journal.sync();
    rig.settle();
    expect(journal.diskFull).toBe(true);
    journal.tick(scheduler.now);
    rig.settle();
    store.open = open;
    journal.tick(scheduler.now + 1000);
    rig.settle();
    expect(journal.own.durable).toBe(last);
  });
});

test('what was written is read back, from the ring and from segments, while segments turn and the ring wraps', () => {
  const rig = makeJournal();
  const random = seededRandom(5);
  const model = new Array<number>(BLOCKS).fill(0);
  for (let i = 0; i < 500; i += 1) {
    const count = 1 + Math.floor(random() * 60);
    const lba = Math.floor(random() * (BLOCKS - count));
    const fill = 1 + (i % 255);
    rig.write(lba, count, fill);
    model.fill(fill, lba, lba + count);
    if (i % 7 === 0) rig.journal.sync();
    if (i % 3 === 0) rig.settle();
  }
  rig.journal.sync();
  rig.settle();
  expect(rig.journal.head).toBeGreaterThan(3 * 2 * SEGMENT_SIZE);
  for (let lba = 0; lba < BLOCKS; lba += 64) expect(rig.read(lba, 64)).toEqual(model.slice(lba, lba + 64));
  expect(rig.reader.counters.blocksFromSegments).toBeGreaterThan(0);
  expect(rig.reader.counters.blocksFromRing).toBeGreaterThan(0);
});

test('a full disk keeps what was written in the ring, and goes on when there is room', () => {
  const rig = makeJournal();
  const { journal } = rig;
  rig.store.capacity = 200_000;
  for (let i = 0; i < 100; i += 1) rig.write(i, 1, 3);
  const sequence = rig.flush();
  rig.settle();
  expect(journal.diskFull).toBe(true);
  expect(journal.own.durable).toBeLessThan(sequence);
  expect(journal.reserve(2, 0, 1, 0, 1, 12, 1, 0, 0)).toBe(NO_SPACE);
  expect(rig.read(0, 100)).toEqual(new Array(100).fill(3));
  rig.store.capacity = Number.POSITIVE_INFINITY;
  rig.scheduler.now += 1000;
  journal.tick(rig.scheduler.now);
  rig.settle();
  expect(journal.diskFull).toBe(false);
  expect(journal.own.durable).toBe(sequence);
});

test('a full disk is tried again now and then, and when a segment was freed, however often room is asked for', () => {
  // Whoever waited for room asked for it in every turn, and each time the same append failed: 65 GB in 40 s.
  const rig = makeJournal();
  const { journal, scheduler } = rig;
  let tries = 0;
  const open = rig.store.open.bind(rig.store);
  rig.store.open = (name, create) => {
    const file = open(name, create);
    const write = file.write.bind(file);
    file.write = (bytes, position, done) => {
      tries += 1;
      write(bytes, position, done);
    };
    return file;
  };
  rig.write(0, 60, 1);
  journal.sync();
  rig.settle();
  rig.write(0, 60, 2);
  rig.store.capacity = rig.store.used;
  rig.write(0, 60, 3);
  journal.sync();
  rig.settle();
  expect(journal.diskFull).toBe(true);
  tries = 0;
  const began = scheduler.now;
  for (let turn = 0; turn < 1000; turn += 1) {
    scheduler.now = began + turn;
    if (turn % 50 === 0) journal.tick(scheduler.now);
    journal.sync();
    rig.settle();
  }
  expect(tries).toBeLessThanOrEqual(5);
  tries = 0;
  rig.store.capacity = Number.POSITIVE_INFINITY;
  const [first] = journal.segments.all();
  journal.freeSegment(first!);
  rig.settle();
  expect([tries > 0, journal.diskFull]).toEqual([true, false]);
});

test('what the disk has room for counts from the start, before anything is promised to the peer', () => {
  // It was looked at with the first tick. Until then a site on a small disk promised what --journal allowed, and was sent it.
  const before = makeJournal();
  before.write(0, 60, 1);
  before.journal.sync();
  before.settle();
  before.store.capacity = before.store.used + 3 * SEGMENT_SIZE;
  const { journal } = makeJournal({ store: before.store, scheduler: before.scheduler, limit: 64 * SEGMENT_SIZE });
  expect(journal.room.size).toBeLessThanOrEqual(before.store.capacity);
  expect(journal.room.forPeer).toBeLessThan(3 * SEGMENT_SIZE);
});

test('a clock beyond what stamps have is told, and one of this site that is set so does not get there', () => {
  // It was taken over: this site's stamps went on above it, up to where a record could not hold them. It stood in the
  // journal, so that was so at every start.
  const { journal, write, scheduler } = makeJournal();
  const wrong = (clock: number): string | null =>
    journal.misplaced(Object.assign(new RecordHeader(), { sequence: 5, clock }));
  expect(wrong(CLOCK_MAX)).toBeNull();
  expect(wrong(CLOCK_MAX + 1)).toMatch(/record 5 has a clock of /);
  scheduler.now = (2 * CLOCK_MAX) / 1000;
  write(0, 1, 1);
  expect([journal.own.appended, wrong(journal.stamp)]).toEqual([1, null]);
});

test('a record that names blocks which the journal’s volumes do not have is told from others', () => {
  const { journal } = makeJournal();
  const ofBlocks = { volume: 1, lba: 0, blockCount: 1, blockShift: 12, sequence: 5 };
  const wrong = (more: Partial<RecordHeader>): string | null =>
    journal.misplaced(Object.assign(new RecordHeader(), ofBlocks, more));
  for (const type of [TYPE_WRITE, TYPE_BASE]) {
    expect(wrong({ type })).toBeNull();
    expect(wrong({ type, lba: BLOCKS - 4, blockCount: 4 })).toBeNull();
    expect(wrong({ type, lba: BLOCKS - 4, blockCount: 5 })).toMatch(/record 5 is about blocks .* do not exist/);
    expect(wrong({ type, blockShift: 9 })).toBe('record 5 has blocks of 512 bytes, volume 1 of 4096');
    expect(wrong({ type, blockCount: 0 })).toMatch(/is about no blocks/);
  }
  for (const type of [TYPE_LOCK, TYPE_TRIM, TYPE_ZERO, TYPE_BASE_ZERO]) {
    expect(wrong({ type, blockShift: 0 })).toBeNull();
    expect(wrong({ type, blockShift: 0, lba: BLOCKS })).toMatch(/do not exist/);
  }
  for (const type of [TYPE_LOCK, TYPE_UNLOCK, TYPE_WRITE])
    expect(wrong({ type, volume: 2 })).toMatch(/volume 2, which/);
  expect(wrong({ type: TYPE_WRITE, volume: 0 })).toMatch(/names no volume/);
  // a COMMIT's count is of writes, a FLUSH is about all volumes
  expect(wrong({ type: TYPE_COMMIT, volume: 0, blockShift: 0, blockCount: 60_000 })).toBeNull();
  expect(wrong({ type: TYPE_FLUSH, volume: 0, blockShift: 0, blockCount: 0 })).toBeNull();
});

test('what was promised earlier may be taken beyond the limit, but for the segment that the cleaner needs', () => {
  const limit = 8 * SEGMENT_SIZE;
  const rig = makeJournal({ limit });
  const { journal } = rig;
  // as the peer's records and the cleaner's copies come: whatever hosts may do
  const append = (): void => {
    for (let at = -1; at < 0; ) {
      at = journal.reserve(TYPE_RELOCATED, 0, 1, 0, 60, 12, 0, 0, 0);
      if (at >= 0) journal.publish();
      journal.sync();
      rig.settle();
    }
  };
  while (journal.room.forPeer > 0) append();
  expect(journal.room.lendsPeer).toBe(true);
  while (journal.room.lendsPeer) append();
  expect(journal.segments.used).toBeLessThanOrEqual(limit);
  expect(journal.segments.used).toBeGreaterThanOrEqual(limit - SEGMENT_SIZE);
});

test('hosts leave two segments below the limit to what makes room for them', () => {
  // The cleaner's copies, the peer's commands and the ends of scopes have to be written when hosts may not. Without this
  // they came on top of a journal that was at its limit: it outgrew what had been set aside for it on the disk.
  const limit = 8 * SEGMENT_SIZE;
  const rig = makeJournal({ limit });
  const { journal } = rig;
  expect(() => {
    for (;;) rig.write(0, 200, 1);
  }).toThrow(`no room: ${NO_SPACE}`);
  journal.sync();
  rig.settle();
  expect(journal.segments.used).toBeGreaterThan(limit - 3 * SEGMENT_SIZE);
  expect(journal.segments.used).toBeLessThanOrEqual(limit - 2 * SEGMENT_SIZE);
  expect(journal.reserve(TYPE_FLUSH, 0, 0, 0, 0, 0, 0, 0, 0)).toBeGreaterThan(0);
});

test('a flush with little to write appends and syncs in one call, unless something before it is not synced yet', () => {
  const rig = makeJournal();
  const { journal, store } = rig;
  rig.write(0, 1, 1);
  rig.flush();
  rig.settle(); // the segment is new: its directory entry had to be synced as well
  const { writes, syncs } = store.counters;
  rig.write(1, 1, 2);
  let sequence = rig.flush();
  rig.settle();
  expect(journal.own.durable).toBe(sequence);
  expect(store.counters.writes).toBe(writes + 1);
  expect(store.counters.syncs).toBe(syncs + 1);
  store.crash();
  expect(makeJournal({ store, scheduler: rig.scheduler, seed: 2 }).journal.own.appended).toBe(sequence);

  const again = makeJournal({ seed: 3 });
  again.write(0, 1, 1);
  again.flush();
  again.settle();
  again.write(1, 200, 2); // gathered no longer: appended, and not synced
  again.settle();
  expect(again.journal.written).toBeGreaterThan(again.journal.durable);
  sequence = again.flush();
  again.settle();
  again.store.crash();
  expect(makeJournal({ store: again.store, scheduler: again.scheduler, seed: 4 }).journal.own.appended).toBe(sequence);
});

test('a MARK says of no more than is durable when it is written', () => {
  // It bears witness against rot: of what was only appended it would make a torn tail into damage, and nothing would open.
  const marks: { says: number; durable: number; written: number }[] = [];
  const rig = makeJournal({
    kernel: (memory) => {
      const kernel = createKernel('wasm', memory);
      const encode = kernel.encode.bind(kernel);
      kernel.encode = (...fields) => {
        const { journal } = rig;
        const { durable, written } = journal;
        if (fields[1] === TYPE_MARK) marks.push({ says: fields[4], durable, written });
        return encode(...fields);
      };
      return kernel;
    },
  });
  for (let i = 0; i < 200; i += 1) {
    rig.write(i, 40, 1);
    rig.journal.sync();
    for (let step = 0; step < 3; step += 1) rig.scheduler.step();
  }
  rig.settle();
  expect(marks.filter(({ durable, written }) => durable < written).length).toBeGreaterThan(0);
  expect(marks.filter(({ says, durable }) => says > durable)).toEqual([]);
});

test('hosts wait while the peer has promised no room for more of this stream, and are told when it may have', () => {
  // Where both sites write: each would else have more for the other than that can take before it is rid of its own.
  const rig = makeJournal();
  const { journal } = rig;
  let told = 0;
  journal.listen({ sealed() {}, durable() {}, room: () => (told += 1), failed() {} });
  const size = recordSize(TYPE_WRITE, 1, 12);
  journal.peerTakes = () => size - 1;
  expect(journal.reserve(TYPE_WRITE, 0, 1, 0, 1, 12, 1, 0, 0)).toBe(RING_FULL);
  journal.offerRoom();
  rig.settle();
  expect(told).toBe(1);
  journal.peerTakes = () => size;
  expect(journal.reserve(TYPE_WRITE, 0, 1, 0, 1, 12, 1, 0, 0)).toBeGreaterThan(0);
});

test('a record that is half written can be read, however full ring and disk are', () => {
  // An append ended in the middle of a record, and the rest did not fit the disk. New records then took the ring's
  // memory up to what was written: the record's beginning was only in the file, its end only in the ring. A healthy
  // block was answered EIO, and the sender asked for it again and again.
  const rig = makeJournal({ segmentSize: 2 * SEGMENT_SIZE });
  const { journal } = rig;
  const extents: number[] = [];
  for (let lba = 0; journal.roomFor(25 * BLOCK_SIZE + 1024) === 0 && lba + 25 <= BLOCKS; lba += 25) {
    rig.write(lba, 25, 1 + (lba % 255));
    extents.push(lba);
  }
  rig.store.capacity = SEGMENT_SIZE + 100_000;
  journal.sync();
  rig.settle();
  expect(journal.diskFull).toBe(true);
  expect(journal.written).toBeGreaterThan(0);
  while (journal.reserve(TYPE_FLUSH, 0, 0, 0, 0, 0, 0, 0, 0) >= 0) journal.publish();
  for (const lba of extents) expect(rig.read(lba, 25)).toEqual(new Array(25).fill(1 + (lba % 255)));
});

describe('a stretch of the peer', () => {
  /** Sealed records of another journal, as a link would bring them. */
  function stretchOf(count: number, blocks: number): Uint8Array {
    const rig = makeJournal();
    for (let i = 0; i < count; i += 1) rig.write(i, blocks, i + 1);
    rig.journal.sealNow();
    const { memory } = rig.journal;
    const pieces: Uint8Array[] = [];
    for (let position = 0; position < rig.journal.head; ) {
      const at = rig.journal.address(position);
      const size = memory.view.getUint32(at + AT_SIZE, true);
      const type = memory.view.getUint8(at + AT_TYPE);
      if (type < TYPE_LOCAL) pieces.push(memory.bytes.slice(at, at + size));
      position += size;
      if (type === TYPE_PAD && position >= rig.journal.head) break;
    }
    return Buffer.concat(pieces);
  }

  test('is kept as far as it is good', () => {
    const stretch = stretchOf(10, 2);
    const size = stretch.length / 10;
    stretch[4 * size + 300]! ^= 1;
    const rig = makeJournal();
    const seen: number[] = [];
    const kept = rig.journal.accept(stretch, (at) => {
      seen.push(rig.journal.memory.view.getUint32(at + 16, true));
      return true;
    });
    expect(kept).toBe(4 * size);
    expect(seen).toEqual([1, 2, 3, 4]);
  });

  test('of this site’s own lost tail may cross a segment', () => {
    // The author of a stream crashed; its peer returned the tail. Where the tail crossed a segment's end, the records
    // behind the turn were counted twice and the assertion ended the process: at every start, for the tail came again.
    const stretch = stretchOf(120, 16); // 7.9 MB
    const rig = makeJournal();
    const { journal } = rig;
    let sequence = 0;
    for (let at = 0; at < stretch.length; ) {
      let end = at;
      while (end < stretch.length && end - at < 300_000)
        end += new DataView(stretch.buffer, stretch.byteOffset + end).getUint32(AT_SIZE, true);
      const part = stretch.subarray(at, end);
      const kept = journal.accept(part, () => {
        sequence += 1;
        journal.own.appended = sequence;
        return true;
      });
      if (kept < 0) {
        journal.sync();
        rig.settle();
        continue;
      }
      expect(kept).toBe(part.length);
      at = end;
    }
    expect(journal.own.sealed).toBe(120);
    journal.sync();
    rig.settle();
    expect(journal.own.durable).toBe(120);
    expect(BLOCK_SIZE * 16 * 120).toBeGreaterThan(SEGMENT_SIZE);
  });

  test('waits while a batch of this site is with the pool, and then there is room', () => {
    // A source took its lost tail back while blocks that its cleaner had copied were being sealed by the pool: an
    // assertion ended the process, and did so at every start until the cleaner had nothing to do.
    const stretch = stretchOf(4, 2);
    const rig = makeJournal();
    const { journal, scheduler } = rig;
    for (let lba = 0; lba < 160; lba += 16) rig.write(lba, 16, 1);
    let kept = -1;
    const take = (): number => journal.accept(stretch, () => true);
    journal.listen({
      sealed() {},
      durable() {},
      room() {
        kept = take();
      },
      failed() {},
    });
    scheduler.step(); // the batch goes to the pool
    expect(take()).toBe(RING_FULL);
    rig.settle();
    expect(journal.counters.sealedInPool).toBe(1);
    expect(kept).toBe(stretch.length);
  });
});
