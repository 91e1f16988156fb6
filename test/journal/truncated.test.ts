/** TRUNCATED: what a target received, and dropped for a rejection, is not applied, not found and not given back. */
import { expect, test } from 'vitest';
import { AT_TYPE, TYPE_LOCAL, TYPE_RELOCATED } from '../../assembly/layout.js';
import { RecordHeader } from '../../src/journal/record.js';
import { StreamReader } from '../../src/journal/stream-reader.js';
import { MIB } from '../../src/limits.js';
import { seededRandom } from '../sim/memory-store.js';
import { BLOCK_SIZE, type JournalRig, makeJournal, type RigOptions } from './journal-rig.js';

const BLOCKS = 64;

interface Author {
  /** Record n stands at n - 1. */
  records: Uint8Array[];
  /** The image after each of them; before the first one, at 0. */
  images: number[][];
}

/** A source's stream. Two that begin with the same seed are the same through record `same`. */
function author(count: number, same = count, other = 0): Author {
  const random = seededRandom(7);
  const rig = makeJournal();
  const { journal } = rig;
  const images: number[][] = [new Array<number>(BLOCKS).fill(0)];
  const records: Uint8Array[] = [];
  const header = new RecordHeader();
  for (let i = 1; i <= count; i += 1) {
    const fill = 1 + ((i + (i > same ? other : 0)) % 250);
    const blocks = 1 + Math.floor(random() * 8);
    const lba = Math.floor(random() * (BLOCKS - blocks));
    let position = journal.head;
    rig.write(lba, blocks, fill);
    journal.sealNow();
    for (; position < journal.head; position += header.size) {
      const at = journal.address(position);
      header.read(journal.memory.view, at);
      if (header.type < TYPE_LOCAL) records.push(journal.memory.bytes.slice(at, at + header.size));
    }
    images.push([...images.at(-1)!].fill(fill, lba, lba + blocks));
  }
  expect(records).toHaveLength(count);
  return { records, images };
}

/** What a receiver does with a frame. @returns positions by sequence */
function receive(rig: JournalRig, { records }: Author, from: number, through: number): Map<number, number> {
  const { journal } = rig;
  const positions = new Map<number, number>();
  journal.peer.site = 1;
  const stretch = Buffer.concat(records.slice(from - 1, through));
  const header = new RecordHeader();
  const bytes = journal.accept(stretch, (at, position) => {
    header.read(journal.memory.view, at);
    journal.peer.appended = header.sequence;
    positions.set(header.sequence, position);
    return true;
  });
  expect(bytes).toBe(stretch.length);
  return positions;
}

function apply(rig: JournalRig, author: Author, positions: Map<number, number>, through: number): void {
  const header = new RecordHeader();
  for (let sequence = rig.journal.peerApplied + 1; sequence <= through; sequence += 1) {
    const bytes = author.records[sequence - 1]!;
    header.read(new DataView(bytes.buffer, bytes.byteOffset), 0);
    rig.journal.apply(header.type, 1, header.lba, header.blockCount, positions.get(sequence)!);
    rig.journal.peerApplied = sequence;
  }
}

const target = (options: RigOptions = {}): JournalRig => makeJournal({ ownSite: 2, ...options });

function reopen(rig: JournalRig, power: boolean): JournalRig {
  if (power) rig.store.crash();
  else rig.store.kill();
  return target({ store: rig.store, scheduler: rig.scheduler });
}

test('what stands behind it is not applied by recovery', () => {
  // Recovery applies all that was received. Records 6 to 10 were dropped for a lock; with the process killed before they
  // came again, the image would have shown writes that the cursor says are not here.
  const source = author(10);
  const rig = target();
  const positions = receive(rig, source, 1, 10);
  apply(rig, source, positions, 5);
  rig.journal.truncatePeer(5);
  rig.settle();
  expect(rig.journal.peer).toMatchObject({ appended: 5, sealed: 5, durable: 5 });
  const again = reopen(rig, true);
  expect(again.journal.peer.appended).toBe(5);
  expect(again.journal.peerApplied).toBe(5);
  expect(again.read(0, BLOCKS)).toEqual(source.images[5]);
});

test('whatever a crash leaves: one moment of the stream, never less than was durable, the dropped ones at most in one piece', () => {
  const source = author(60);
  for (let seed = 1; seed <= 60; seed += 1) {
    const random = seededRandom(seed);
    const rig = target({ seed });
    let longest = 0;
    for (let round = 0; round < 6; round += 1) {
      const { peer } = rig.journal;
      const from = peer.appended + 1;
      const through = Math.min(60, from + Math.floor(random() * 12));
      const positions = receive(rig, source, from, through);
      longest = Math.max(longest, through);
      const keep = from - 1 + Math.floor(random() * (through - from + 2));
      apply(rig, source, positions, keep);
      if (random() < 0.5) rig.journal.sync();
      for (let steps = random() * 6; steps > 0; steps -= 1) rig.scheduler.step(); // part of it is under way
      if (keep < through) rig.journal.truncatePeer(keep);
      if (random() < 0.3) rig.journal.sync();
      for (let steps = random() * 20; steps > 0; steps -= 1) {
        rig.scheduler.step();
        expect(peer.durable).toBeLessThanOrEqual(peer.appended); // a sync of what was dropped meanwhile is none of it
      }
    }
    const durable = rig.journal.peer.durable;
    const again = reopen(rig, random() < 0.7);
    const { appended } = again.journal.peer;
    expect(appended, `seed ${seed}`).toBeGreaterThanOrEqual(durable);
    expect(appended).toBeLessThanOrEqual(longest);
    expect(again.journal.peerApplied).toBe(appended);
    expect(again.read(0, BLOCKS), `seed ${seed}`).toEqual(source.images[appended]);
  }
});

test('a source that lost the dropped ones writes others in their place: these count', () => {
  // The sequences were used again, for other content. The dropped stretch must neither be applied nor given back.
  const lost = author(30);
  const source = author(30, 12, 100);
  const rig = target();
  apply(rig, lost, receive(rig, lost, 1, 20), 12);
  rig.journal.truncatePeer(12);
  rig.settle();
  apply(rig, source, receive(rig, source, 13, 16), 14);
  rig.journal.truncatePeer(14);
  apply(rig, source, receive(rig, source, 15, 30), 30);
  rig.journal.sync();
  rig.settle();
  expect(rig.read(0, BLOCKS)).toEqual(source.images[30]);
  const expectAll = (each: JournalRig): void => {
    for (const from of [1, 10, 13, 15, 18, 30]) expectBack(each, from, source);
  };
  // the first twelve are the same in both
  expectAll(rig);
  const again = reopen(rig, true);
  expect(again.journal.peerApplied).toBe(30);
  expect(again.read(0, BLOCKS)).toEqual(source.images[30]);
  expectAll(again);
});

test('across segments: the stream is found and read back, and segments know what they hold of it', () => {
  const source = author(1400);
  const rig = target();
  let dropped = 0;
  const places: number[] = [];
  for (let from = 1; from <= 1400; ) {
    const through = Math.min(1400, from + 30);
    const keep = from % 3 === 0 ? through : Math.floor((from + through) / 2);
    const positions = receive(rig, source, from, through);
    apply(rig, source, positions, keep);
    for (const [sequence, position] of positions) if (sequence <= keep) places[sequence] = position;
    if (keep < through) {
      dropped += through - keep;
      rig.journal.truncatePeer(keep);
    }
    rig.settle();
    from = keep + 1;
  }
  rig.journal.sync();
  rig.settle();
  expect(dropped).toBeGreaterThan(300);
  expect(rig.journal.head).toBeGreaterThan(16 * MIB);
  const expectAll = (each: JournalRig): void => {
    const segments = each.journal.segments.all().slice(1);
    for (const { number, peerBefore } of segments) {
      const first = places.findIndex((place) => place !== undefined && place >= number * each.journal.segmentSize);
      expect(peerBefore, `segment ${number}`).toBe(first - 1);
    }
    for (const from of [1, 400, ...segments.map(({ peerBefore }) => peerBefore + 1)]) expectBack(each, from, source);
  };
  expectAll(rig);
  const again = reopen(rig, true);
  expect(again.read(0, BLOCKS)).toEqual(source.images[1400]);
  expectAll(again);
});

test('recovery applies what no TRUNCATED can reach any more, and the rest when it is behind', () => {
  const source = author(1400);
  const rig = target();
  for (let from = 1; from <= 1400; from += 100) {
    receive(rig, source, from, from + 99);
    rig.settle();
  }
  rig.journal.truncatePeer(1300);
  rig.settle();
  const again = reopen(rig, true);
  expect(again.journal.peer.appended).toBe(1300);
  expect(again.read(0, BLOCKS)).toEqual(source.images[1300]);
});

test('what the cleaner had moved is found where it was moved to', () => {
  // Only what is applied is moved. Applied late, the record would have pointed to where it stood, which may be gone.
  const source = author(10);
  const rig = target();
  const { journal, map } = rig;
  apply(rig, source, receive(rig, source, 1, 10), 10);
  const lba = source.images[10]!.findIndex((fill) => fill > 0);
  expect(map.lookup(lba)).toBe(true);
  const at = journal.reserve(TYPE_RELOCATED, 0, 1, lba, 1, 12, 0, map.position, map.index);
  journal.memory.bytes.fill(source.images[10]![lba]!, at, at + BLOCK_SIZE);
  const moved = journal.pendingPosition;
  journal.publish();
  journal.sync();
  rig.settle();
  const again = reopen(rig, true);
  expect(again.map.lookup(lba)).toBe(true);
  expect(again.map.position).toBe(moved);
});

/** The peer's stream from a sequence on is given back as it was received. */
function expectBack(rig: JournalRig, from: number, { records }: Author): void {
  const { journal } = rig;
  const found: Uint8Array[] = [];
  let again = true;
  const reader = new StreamReader(journal, rig.offload, 1, rig.readBack, () => {
    again = true;
  });
  expect(reader.seek(from)).toBe(true);
  while (again) {
    again = false;
    for (;;) {
      const stretch = reader.next(journal.peer.appended, 100_000);
      if (stretch === null) break;
      let at = stretch.at;
      for (let i = 0; i < stretch.count; i += 1) {
        const size = new RecordHeader().read(journal.memory.view, at).size;
        expect(journal.memory.view.getUint8(at + AT_TYPE)).toBeLessThan(TYPE_LOCAL);
        found.push(journal.memory.bytes.slice(at, at + size));
        at += size;
      }
      stretch.release();
    }
    rig.settle();
  }
  expect(reader.damage).toBeNull();
  expect(Buffer.concat(found).equals(Buffer.concat(records.slice(from - 1)))).toBe(true);
}
