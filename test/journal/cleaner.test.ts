/** The cleaner by itself: it makes room, it changes no content, and it frees nothing that is still needed. */
import { describe, expect, test, vi } from 'vitest';
import { TYPE_MARK, TYPE_WRITE } from '../../assembly/layout.js';
import { Cleaner, type CleanerOwner } from '../../src/journal/cleaner.js';
import { NO_SPACE, type RecordOrder, RING_FULL } from '../../src/journal/journal.js';
import { BlockMap } from '../../src/journal/map.js';
import type { RecordHeader } from '../../src/journal/record.js';
import { segmentName } from '../../src/journal/segments.js';
import { seededRandom } from '../sim/memory-store.js';
import { BLOCKS, type JournalRig, makeJournal, SEGMENT_SIZE } from './journal-rig.js';

interface Bench {
  rig: JournalRig;
  cleaner: Cleaner;
  model: number[];
  /** Turns of the event loop that the cleaner has asked for. */
  deferred(): number;
  /** One write of random extent; now and then a sync. */
  churn(writes: number): void;
}

function bench(owner: Partial<CleanerOwner> = {}, segments = 12, ringSegments = 2): Bench {
  const rig = makeJournal({ limit: segments * SEGMENT_SIZE, ringSegments });
  const { journal, liveness } = rig;
  const whole: CleanerOwner = {
    retainFrom: () => Number.POSITIVE_INFINITY,
    checkpointPosition: () => journal.durable,
    replayFrom: () => journal.head,
    checkpointNumber: () => ({ done: 1, next: 1 }),
    wantCheckpoint() {},
    checkpointFailed: () => false,
    peerIsComing: () => false,
    peerIsTaking: () => false,
    giveUpRetention() {},
    writesBack: () => false,
    dropViews() {},
    ...owner,
  };
  let deferred = 0;
  const defer = (task: () => void): void => {
    deferred += 1;
    rig.scheduler.schedule(task, 0.05);
  };
  const cleaner = new Cleaner(journal, rig.offload, liveness, rig.cleanerBuffer, whole, defer);
  journal.listen({
    sealed() {},
    durable: () => cleaner.poke(),
    room() {
      cleaner.ringHasRoom();
      cleaner.poke();
    },
    failed: () => cleaner.stop(),
  });
  const model = new Array<number>(BLOCKS).fill(0);
  const random = seededRandom(11);
  let next = 0;
  return {
    rig,
    cleaner,
    model,
    deferred: () => deferred,
    churn(writes) {
      for (let i = 0; i < writes; i += 1) {
        const count = 1 + Math.floor(random() * 40);
        const lba = Math.floor(random() * (BLOCKS - count));
        next += 1;
        rig.write(lba, count, 1 + (next % 255));
        model.fill(1 + (next % 255), lba, lba + count);
        if (i % 5 === 0) journal.sync();
        for (let steps = 0; steps < 6; steps += 1) rig.scheduler.step();
      }
      journal.sync();
      rig.settle();
      cleaner.poke();
      rig.settle();
    },
  };
}

function contentOf(rig: JournalRig): number[] {
  const content: number[] = [];
  for (let lba = 0; lba < BLOCKS; lba += 64) content.push(...(rig.read(lba, 64) as number[]));
  return content;
}

test('a journal that is written many times over stays below its limit, and shows what was written', () => {
  const { rig, cleaner, model, churn } = bench();
  for (let round = 0; round < 8; round += 1) {
    churn(200);
    expect(rig.journal.segments.used).toBeLessThanOrEqual(12 * SEGMENT_SIZE);
  }
  expect(rig.journal.head).toBeGreaterThan(20 * SEGMENT_SIZE);
  expect(cleaner.counters.segmentsFreed).toBeGreaterThan(5);
  const { blocksMoved, bytesMoved } = cleaner.counters;
  expect(blocksMoved).toBeGreaterThan(0);
  // each block with its checksum, and at most a header of its own
  expect(bytesMoved).toBeGreaterThan(blocksMoved * (4096 + 8));
  expect(bytesMoved).toBeLessThanOrEqual(blocksMoved * (4096 + 80));
  expect(cleaner.counters.damaged).toBe(0);
  expect(contentOf(rig)).toEqual(model);
});

test('live blocks are copied in steps, and hosts are answered in between', () => {
  const { rig, cleaner, churn } = bench();
  const { scheduler } = rig;
  const step = scheduler.step.bind(scheduler);
  let most = 0;
  scheduler.step = () => {
    const before = cleaner.counters.blocksMoved;
    const isMore = step();
    most = Math.max(most, cleaner.counters.blocksMoved - before);
    return isMore;
  };
  for (let round = 0; round < 4; round += 1) churn(200);
  expect(cleaner.counters.blocksMoved).toBeGreaterThan(500);
  expect(most).toBeGreaterThan(1);
  expect(most).toBeLessThan(32 + 40); // 128 KiB, and the rest of a record
});

test('a ring that is full is waited for, not asked for in every turn, and no longer than the journal works', () => {
  // While an append hung it took a whole processor, and after one that failed it went on for ever: also behind a stop.
  const { rig, churn, deferred } = bench();
  const { journal, scheduler } = rig;
  const held: ((error: Error | null) => void)[] = [];
  let isHeld = false;
  const open = rig.store.open.bind(rig.store);
  rig.store.open = (name, create) => {
    const file = open(name, create);
    const write = file.write.bind(file);
    file.write = (bytes, position, done) => {
      if (isHeld) held.push(done);
      else write(bytes, position, done);
    };
    file.writeSynced = file.write;
    return file;
  };
  const isEmptying = (): boolean => journal.segments.all().some(({ readers }) => readers > 0);
  for (let round = 0; round < 4; round += 1) churn(200);
  for (let lba = 0; !isEmptying(); lba = (lba + 20) % (BLOCKS - 20)) {
    rig.write(lba, 20, 1);
    journal.sync();
    for (let steps = 0; steps < 6 && !isEmptying(); steps += 1) scheduler.step();
  }
  isHeld = true;
  while (journal.reserve(TYPE_MARK, 0, 0, 0, 0, 0, 0, 0, 0) >= 0) journal.publish();
  for (let i = 0; i < 200; i += 1) scheduler.step();
  expect(isEmptying()).toBe(true);
  const before = deferred();
  for (let i = 0; i < 1000; i += 1) scheduler.step();
  expect(deferred() - before).toBeLessThan(5);
  for (const done of held) done(Object.assign(new Error('the disk is gone'), { code: 'EIO' }));
  rig.settle();
  expect(journal.failed?.code).toBe('EIO');
  expect(isEmptying()).toBe(false);
});

describe('of what is moved', () => {
  /** A segment that is full but for its last records, with one block in two overwritten: they are dead, the others live. */
  function halfDead() {
    const { rig, cleaner } = bench({}, 10);
    const { journal, map, liveness } = rig;
    for (let lba = 0; journal.head < SEGMENT_SIZE; lba += 1) rig.write(lba, 1, 1 + (lba % 200));
    const last = 2 * Math.floor(liveness.liveBlocks(0) / 2) - 2;
    const places = Array.from({ length: last }, (_, lba) => (map.lookup(lba) ? map.position : -1));
    for (let lba = 0; lba < last; lba += 2) rig.write(lba, 1, 250);
    journal.sync();
    rig.settle();
    const random = seededRandom(5);
    const clean = (most = 100) => {
      for (let times = 0; times < most && liveness.liveBlocks(0) > 0; times += 1) {
        for (let i = 0; i < 16; i += 1) rig.write(1024 + Math.floor(random() * 3000), 32, 251);
        journal.sync();
        rig.settle();
        cleaner.poke();
        rig.settle();
      }
    };
    /** A byte within the block, or the header, of block `lba`. */
    const rot = (lba: number, offset: number) => rig.store.rot(segmentName(0), places[lba]! + offset);
    return { rig, cleaner, clean, rot, last };
  }
  const inBlock = 80 + 2000;

  test('what nobody reads any more may be rotten', () => {
    const { rig, cleaner, clean, rot, last } = halfDead();
    rot(4, inBlock);
    clean();
    expect(rig.liveness.liveBlocks(0)).toBe(0);
    expect(cleaner.counters.damaged).toBe(0);
    for (let lba = 1; lba < last; lba += 2) expect(rig.read(lba, 1)).toEqual([1 + (lba % 200)]);
  });

  test.each([
    ['block', inBlock],
    ['header', 20],
  ])('a rotten %s is not given a checksum of its own', (_, offset) => {
    const { rig, cleaner, clean, rot } = halfDead();
    rot(301, offset);
    clean();
    expect(cleaner.counters.damaged).toBe(1);
    expect(rig.read(301, 1)).toBeInstanceOf(Error);
    expect(rig.map.lookup(301) && rig.map.position < SEGMENT_SIZE).toBe(true);
    expect(rig.read(299, 1)).toEqual([1 + (299 % 200)]);
    expect(rig.map.lookup(299) && rig.map.position > SEGMENT_SIZE).toBe(true); // moved, before the rot was met
    expect(rig.read(303, 1)).toEqual([1 + (303 % 200)]);
  });

  test('what the disk does not give now is asked for again later, and not at once', () => {
    const { rig, cleaner, clean } = halfDead();
    const load = rig.offload.load.bind(rig.offload);
    let refused = 0;
    rig.offload.load = (...[, , , , done]) => {
      refused += 1;
      rig.scheduler.schedule(() => done(new Error('EIO: i/o error, read'), 0), 0.1);
    };
    while (refused === 0) clean(1);
    const pokeOn = (): void => {
      for (let times = 0; times < 10; times += 1) {
        cleaner.poke();
        rig.settle(); // it came to no end: as fast as it could it asked again
      }
    };
    pokeOn();
    const once = refused; // each that could be emptied
    pokeOn();
    expect(refused).toBe(once);
    cleaner.tick(1000);
    rig.settle();
    expect(refused).toBeGreaterThan(once);
    expect(cleaner.counters.readErrors).toBe(refused);
    expect(rig.liveness.liveBlocks(0)).toBeGreaterThan(0);
    rig.offload.load = load;
    cleaner.tick(10_000);
    clean();
    expect(rig.liveness.liveBlocks(0)).toBe(0);
    expect(cleaner.counters.damaged).toBe(0);
  });
});

describe('a segment that cannot be read', () => {
  /** @param first of all that are asked for; else each */
  function unreadable(first: boolean) {
    const made = bench();
    const { offload, scheduler } = made.rig;
    const load = offload.load.bind(offload);
    let refused: number | null = null;
    offload.load = (file, offset, size, at, done) => {
      if (first) refused ??= file;
      if (file !== (refused ?? file)) return load(file, offset, size, at, done);
      scheduler.schedule(() => done(new Error('EIO: i/o error, read'), 0), 0.1);
    };
    return made;
  }

  test('does not keep others from being emptied', () => {
    // It was the emptiest, and was chosen again and again: nothing was freed any more, and hosts waited for ever.
    const { rig, cleaner, churn } = unreadable(true);
    for (let round = 0; round < 8; round += 1) churn(200);
    expect(cleaner.counters.readErrors).toBe(1);
    expect(cleaner.counters.segmentsFreed).toBeGreaterThan(5);
    expect(rig.journal.segments.used).toBeLessThanOrEqual(12 * SEGMENT_SIZE);
  });

  test('is waited for, but not for ever', () => {
    const { rig, cleaner } = unreadable(false);
    const { journal } = rig;
    for (let once = 0; journal.roomFor(SEGMENT_SIZE / 2) === 0; once += 1) {
      rig.write(once % 256, 1, 1);
      for (let i = 0; i < 8; i += 1) rig.write(512, 64, 2);
      journal.sync();
      rig.settle();
    }
    const tickTo = (end: number): void => {
      for (let now = 0; now <= end; now += 50) {
        cleaner.tick(now);
        rig.settle();
      }
    };
    tickTo(1000);
    expect(journal.roomFor(SEGMENT_SIZE / 2)).toBe(RING_FULL);
    tickTo(10_000);
    expect(journal.roomFor(SEGMENT_SIZE / 2)).toBe(NO_SPACE);
    expect(cleaner.counters.damaged).toBeGreaterThan(0);
    expect(cleaner.counters.readErrors).toBe(5 * cleaner.counters.damaged);
  });
});

test('a checkpoint is asked for where it frees something, and only there', () => {
  // At a target whose commit log waited for a lock one checkpoint followed the other, as fast as the disk could.
  for (const replayFrom of [0, Number.POSITIVE_INFINITY]) {
    let asked = 0;
    const wantCheckpoint = () => {
      asked += 1;
    };
    const { rig, cleaner } = bench({ checkpointPosition: () => 0, replayFrom: () => replayFrom, wantCheckpoint }, 16);
    while (rig.journal.segments.used <= cleaner.softLimit) {
      rig.write(0, 64, 1);
      rig.journal.sync();
      rig.settle();
    }
    expect(asked > 0).toBe(replayFrom > 0);
  }
});

test('views stay while the peer takes what the journal is full of, and go when it stands still', () => {
  // A site that wrote as fast as the line would take it dropped them each time that it had to wait for a moment, though
  // they kept nothing that mattered; and two sites whose views kept them from taking anything must not wait for each other.
  let taking = true;
  let dropped = 0;
  const owner = {
    retainFrom: () => 0,
    peerIsComing: () => true,
    peerIsTaking: () => taking,
    dropViews: () => {
      dropped += 1;
    },
  };
  const { rig, cleaner } = bench(owner);
  const { journal } = rig;
  cleaner.pinLive();
  while (journal.segments.used <= journal.room.forHosts - SEGMENT_SIZE) {
    rig.write(0, 64, 1);
    journal.sync();
    rig.settle();
  }
  cleaner.poke();
  expect([dropped, cleaner.counters.viewsDropped]).toEqual([0, 0]);
  taking = false;
  cleaner.poke();
  expect([dropped, cleaner.counters.viewsDropped]).toEqual([1, 1]);
});

describe('nothing is freed', () => {
  test('that the peer still needs', () => {
    const { rig, churn } = bench({ retainFrom: () => 3 * SEGMENT_SIZE + 100, peerIsComing: () => true }, 22);
    churn(1000);
    const kept = rig.journal.segments.all().map(({ number }) => number);
    expect(kept).toContain(3);
    expect(kept).not.toContain(0);
    for (let number = 3; number <= kept.at(-1)!; number += 1) expect(kept).toContain(number);
  });

  test('behind the last checkpoint, and nothing is emptied that no checkpoint could free', () => {
    // A target whose commit log waited for a lock could not checkpoint. Its cleaner copied live blocks out of segments
    // that could not be freed, over and over, until the disk was full.
    const stuck = 2 * SEGMENT_SIZE;
    const { rig, cleaner, churn } = bench({ checkpointPosition: () => stuck, replayFrom: () => stuck }, 14);
    churn(640);
    expect(rig.journal.segments.used).toBeGreaterThan(cleaner.softLimit);
    const before = cleaner.counters.blocksMoved;
    for (let i = 0; i < 50; i += 1) {
      cleaner.poke();
      rig.settle();
    }
    expect(cleaner.counters.blocksMoved).toBe(before);
    expect(rig.journal.segments.get(2)).toBeDefined();
  });

  test('before what took its place is durable', () => {
    // Blocks were overwritten, their segment had none left and was removed. Then the power took the new records, and the
    // old ones were gone, too.
    const { rig, cleaner, churn } = bench({ checkpointPosition: () => Number.POSITIVE_INFINITY }, 24);
    churn(200);
    const { journal, liveness } = rig;
    journal.sync();
    rig.settle();
    const full = journal.segments.all().filter(({ number }) => number < journal.segments.numberOf(journal.head));
    const oldest = full.map(({ number }) => number).find((number) => liveness.liveBlocks(number) > 0)!;
    const { durable } = journal;
    for (let lba = 0; lba < BLOCKS; lba += 1) {
      const isThere = rig.map.lookup(lba) && Math.floor(rig.map.position / SEGMENT_SIZE) === oldest;
      if (isThere) rig.write(lba, 1, 3);
    }
    expect(liveness.liveBlocks(oldest)).toBe(0);
    expect(journal.durable).toBe(durable);
    for (let times = 0; times < 3; times += 1) cleaner.poke();
    expect(journal.segments.get(oldest)).toBeDefined();
    journal.sync();
    rig.settle();
    cleaner.poke();
    expect(journal.segments.get(oldest)).toBeUndefined();
  });

  test('that a pinned view may read', () => {
    const { rig, cleaner, model, churn } = bench({}, 16);
    churn(150);
    const view = rig.map.snapshot();
    const live = cleaner.pinLive();
    const then = model.slice();
    churn(900);
    for (let lba = 0; lba < BLOCKS; lba += 64) rig.write(lba, 64, 9); // nothing else lives where the view looks
    for (let times = 0; times < 3; times += 1) churn(1);
    const into = new Uint8Array(64 * 4096);
    for (let lba = 0; lba < BLOCKS; lba += 64) {
      let failed: Error | null | undefined;
      rig.reader.read(view, 1, 12, lba, 64, into, null, (error) => {
        failed = error;
      });
      rig.settle();
      expect(failed).toBeNull();
      for (let block = 0; block < 64; block += 1) expect(into[block * 4096]).toBe(then[lba + block]);
    }
    view.release();
    cleaner.unpinLive(live);
  });

  test('of a flat volume before a checkpoint knows that the block went into the image', () => {
    // A flat volume's block was written to its image and dropped from the map; its segment was freed. Then the power
    // went: the last checkpoint still pointed into that segment, and no record told otherwise. The block was EIO.
    let done = 0;
    const { rig, cleaner, churn } = bench({ checkpointNumber: () => ({ done, next: done + 1 }) }, 40);
    churn(300);
    rig.journal.volumes.set(2, { number: 2, map: rig.map, blockShift: 12, flat: true });
    rig.map.clear(0, BLOCKS);
    for (let i = 0; i < 20; i += 1) {
      rig.journal.sync();
      cleaner.poke();
      rig.settle();
    }
    const before = rig.journal.segments.count;
    expect(before).toBeGreaterThan(3);
    done += 2;
    rig.journal.sync();
    cleaner.poke();
    rig.settle();
    cleaner.poke();
    expect(rig.journal.segments.count).toBeLessThan(before);
  });
});

test('a block that is overwritten while it is moved stays overwritten, also after a crash', () => {
  for (let seed = 1; seed <= 5; seed += 1) {
    const { rig, cleaner, model, churn } = bench({ checkpointPosition: () => 0 }, 20);
    churn(500);
    for (let tries = 0; cleaner.counters.blocksMoved === 0 && tries < 100; tries += 1) churn(5 + seed);
    expect(cleaner.counters.blocksMoved).toBeGreaterThan(0);
    rig.store.kill();
    const again = makeJournal({ store: rig.store, scheduler: rig.scheduler, limit: 64 * SEGMENT_SIZE });
    expect(contentOf(again)).toEqual(model);
  }
});

test('a host that wants more room at once than there is kept gets it', () => {
  // Half a segment below where cleaning starts, a transaction of 8 MiB waited for room that nobody made, and all other
  // hosts behind it, until its locks had run out after a minute.
  const { rig, cleaner } = bench();
  const { journal } = rig;
  for (let once = 0; journal.segments.used < cleaner.softLimit - SEGMENT_SIZE / 2; once += 1) {
    rig.write(once % 256, 1, 1);
    for (let i = 0; i < 8; i += 1) rig.write(512, 64, 2);
    journal.sync();
    rig.settle();
  }
  const transaction = 3 * SEGMENT_SIZE;
  expect(journal.roomFor(transaction)).toBe(RING_FULL);
  for (let turns = 0; turns < 10; turns += 1) {
    cleaner.poke();
    rig.settle();
  }
  const { used, forHosts } = journal.room;
  expect(used + transaction).toBeLessThanOrEqual(forHosts);
});

test('what may not be moved is looked at again when it may and hosts wait', () => {
  // Both sites wrote, and the only segments that could be emptied had blocks that were not decided. Once they were, nobody
  // looked: that needed another segment to be written, and hosts waited for room to write it.
  const { rig, cleaner } = bench();
  const { journal } = rig;
  const order = {
    listsEnded: 0,
    isListed: () => order.listsEnded === 0,
    own({ type, volume, lba, blockCount }: RecordHeader, position: number) {
      journal.apply(type, volume, lba, blockCount, position);
      return [];
    },
  };
  journal.order = order as Partial<RecordOrder> as RecordOrder;
  for (let once = 0; journal.roomFor(SEGMENT_SIZE / 2) === 0; once += 1) {
    rig.write(once % 256, 1, 1);
    for (let i = 0; i < 8; i += 1) rig.write(512, 64, 2);
    journal.sync();
    rig.settle();
  }
  const before = cleaner.counters.segmentsFreed;
  order.listsEnded += 1;
  cleaner.poke();
  rig.settle();
  journal.sync();
  rig.settle();
  expect(cleaner.counters.segmentsFreed).toBeGreaterThan(before);
  expect(journal.roomFor(SEGMENT_SIZE / 2)).toBe(0);
});

/** One write to volume 2, which the rig has not. */
function writeOther({ journal, settle }: JournalRig, lba: number, blockShift: number): void {
  while (journal.reserve(TYPE_WRITE, 0, 2, lba, 1, blockShift, 1, 0, 0) < 0) {
    journal.sync();
    settle();
  }
  journal.publish();
}

test('a journal full of what lives is not copied, beside a volume of smaller blocks', () => {
  // Blocks were counted as if all were of the smallest: a full segment looked half empty. It was copied without end, and
  // hosts waited for the room for ever.
  const { rig, cleaner } = bench({}, 6);
  const { journal, scheduler, liveness } = rig;
  journal.volumes.set(2, { number: 2, map: new BlockMap(256, liveness, 16), blockShift: 16, flat: false });
  for (let lba = 0; lba < 256; lba += 1) writeOther(rig, lba, 16);
  journal.sync();
  rig.settle();
  cleaner.poke();
  let left = 10_000;
  while (left > 0 && scheduler.step()) left -= 1;
  expect(left).toBeGreaterThan(0);
  expect(journal.roomFor(SEGMENT_SIZE)).toBe(NO_SPACE);
  expect(cleaner.counters.blocksMoved).toBe(0);
});

test('a journal full of what lives is copied once, and not again and again, where each block has a record of its own', () => {
  // With the headers between them they never fill a segment.
  const { rig, cleaner } = bench({}, 6);
  const { journal, scheduler, liveness } = rig;
  const small = new BlockMap(28_600, liveness);
  journal.volumes.set(2, { number: 2, map: small, blockShift: 9, flat: false });
  for (let lba = 0; lba < small.blockCount; lba += 1) writeOther(rig, lba, 9);
  journal.sync();
  let left = 100_000;
  while (left > 0 && scheduler.step()) left -= 1;
  expect(left).toBeGreaterThan(0);
  expect(journal.roomFor(SEGMENT_SIZE)).toBe(NO_SPACE);
  const { blocksMoved } = cleaner.counters;
  expect(blocksMoved).toBeGreaterThan(0);
  expect(blocksMoved).toBeLessThanOrEqual(small.blockCount);
  for (let lba = 0; lba < small.blockCount; lba += 2) small.clear(lba, 1);
  for (let turns = 0; turns < 4; turns += 1) {
    cleaner.poke();
    rig.settle();
  }
  expect(journal.roomFor(SEGMENT_SIZE)).toBe(0);
});

test('of what was copied once, room is made again where the large blocks are gone and many small ones live', () => {
  // All blocks counted alike: with most of them the segment passed for full, and hosts got ENOSPC beside a journal half empty.
  const { rig, cleaner } = bench({}, 6);
  const { journal, liveness, scheduler } = rig;
  const large = new BlockMap(256, liveness, 16);
  journal.volumes.set(2, { number: 2, map: large, blockShift: 16, flat: false });
  for (let i = 0; i < 96; i += 1) {
    rig.write(24 * i, 24, 1);
    writeOther(rig, i, 16);
  }
  journal.sync();
  rig.settle();
  for (let steps = 0; steps < 10_000; steps += 1) {
    if (steps % 100 === 0) cleaner.poke();
    scheduler.step();
  }
  expect(journal.roomFor(SEGMENT_SIZE)).toBe(NO_SPACE);
  large.clear(0, 256);
  for (let turns = 0; turns < 8; turns += 1) {
    cleaner.poke();
    rig.settle();
  }
  expect(journal.roomFor(SEGMENT_SIZE)).toBe(0);
});

test('a read that a stop has ended asks nothing more of the journal', () => {
  // Its end freed a segment, and had a full disk tried again: the append was under way when the files were closed.
  const { rig, cleaner, churn } = bench();
  const { journal } = rig;
  const ends: ((error: Error | null, bytes: number) => void)[] = [];
  rig.offload.load = (_fd, _offset, _size, _at, done) => {
    ends.push(done);
  };
  while (ends.length === 0) churn(20);
  cleaner.stop();
  const asked = [vi.spyOn(journal, 'sync'), vi.spyOn(journal, 'freeSegment')];
  ends[0]!(new Error('the worker pool was closed'), 0);
  for (const spy of asked) expect(spy).not.toHaveBeenCalled();
});
