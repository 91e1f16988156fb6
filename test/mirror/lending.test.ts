/** When the ring is lent to the link, when it is copied, and when a peer that takes nothing is given up. */
import { expect, test } from 'vitest';
import type { Stretch } from '../../src/journal/stream-reader.js';
import { StreamReader } from '../../src/journal/stream-reader.js';
import { FRAME_SIZE_MAX, LINK_BUFFER_MAX, MIB } from '../../src/limits.js';
import { Lending } from '../../src/volume/lending.js';
import { BLOCK_SIZE, makeJournal } from '../journal/journal-rig.js';

interface Frame {
  bytes: Uint8Array;
  /** What the bytes were when they were given. */
  were: Uint8Array;
  released: () => void;
}

function makeLending() {
  const rig = makeJournal();
  const time = { now: 0 };
  const lending = new Lending(rig.journal, () => time.now);
  const reader = new StreamReader(rig.journal, rig.offload, rig.journal.own.site, rig.readBack, () => {});
  let written = 0;
  /** Writes a block. */
  const write = (): void => {
    written += 1;
    rig.write(written % 4096, 1, written % 251);
    rig.journal.sealNow();
  };
  const nextStretch = (): Stretch => {
    const stretch = reader.next(rig.journal.own.sealed, FRAME_SIZE_MAX);
    expect(stretch?.isRing).toBe(true);
    return stretch!;
  };
  /** Gives the next frame: about 256 KiB. */
  const give = (): Frame => {
    for (let count = 0; count < FRAME_SIZE_MAX / BLOCK_SIZE; count += 1) write();
    let frame: Frame | null = null;
    lending.give(nextStretch(), (bytes, released) => {
      frame = { bytes, were: bytes.slice(), released };
    });
    return frame!;
  };
  reader.seek(1);
  return { ...rig, time, lending, write, give, nextStretch };
}

const isLent = ({ bytes }: Frame): boolean => bytes.buffer instanceof SharedArrayBuffer;

test('little is lent at first, and more as it leaves soon', () => {
  const { give } = makeLending();
  const first = Array.from({ length: 8 }, give);
  expect(first.map(isLent)).toEqual([...new Array(4).fill(true), ...new Array(4).fill(false)]);
  for (const { released } of first) released();
  const then = Array.from({ length: 16 }, give);
  expect(then.filter(isLent).length).toBeGreaterThan(8);
  for (const frame of [...first.slice(4), ...then]) frame.released();
});

test('what leaves late is lent no more, until much has left soon', () => {
  const { give, time, journal, settle } = makeLending();
  const late = give();
  expect(isLent(late)).toBe(true);
  time.now += 101;
  late.released();
  let copied = 0;
  for (let frame = give(); !isLent(frame); frame = give()) {
    copied += frame.bytes.length;
    expect(copied).toBeLessThan(5 * LINK_BUFFER_MAX);
    frame.released();
    settle();
  }
  expect(copied).toBeGreaterThanOrEqual(4 * LINK_BUFFER_MAX - MIB);
  expect(journal.failed).toBeNull();
});

test('copies stay what they were, whatever becomes of the ring and of other copies', () => {
  const { give, time, write } = makeLending();
  const late = give();
  time.now += 101;
  late.released();
  const copies = Array.from({ length: 6 }, give);
  expect(copies.some(isLent)).toBe(false);
  for (let count = 0; count < 6000; count += 1) write(); // the ring goes round
  for (const { bytes, were } of copies) expect(Buffer.compare(bytes, were)).toBe(0);
  copies[0]!.released();
  for (const { bytes, were } of copies.slice(1)) expect(Buffer.compare(bytes, were)).toBe(0);
});

test('a peer that takes nothing is stalled once the ring waits for it, and not before', () => {
  const { give, time, lending, journal, write } = makeLending();
  const { released } = give();
  time.now += 10_000;
  expect(lending.isStalled(time.now)).toBe(false); // there is room
  expect(() => {
    for (;;) write();
  }).toThrow('no room');
  expect([journal.isHeldByPin, lending.isStalled(time.now)]).toEqual([true, true]);
  released();
  expect(lending.isStalled(time.now)).toBe(false);
  write();
  expect(journal.isHeldByPin).toBe(false);
});
