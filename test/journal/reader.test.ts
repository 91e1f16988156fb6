/** What a read returns without a copy: whose memory it is, how long, and what it may keep others from. */
import { expect, test } from 'vitest';
import { BLOCK_SIZE, type JournalRig, makeJournal } from './journal-rig.js';

const COUNT = 32;
const SIZE = COUNT * BLOCK_SIZE;

interface Lent {
  bytes: Uint8Array;
  /** Null: copied. */
  release: (() => void) | null;
  error: Error | null;
}

/** Records of 32 blocks, no. n filled with n + 1, of which the ring has none any more. */
function written(records: number): JournalRig {
  const rig = makeJournal();
  for (let i = 0; i < records; i += 1) rig.write(i * COUNT, COUNT, i + 1);
  for (let i = 0; i < 120; i += 1) rig.write(3000, COUNT, 99); // 15 MiB, through a ring of 8
  rig.flush();
  rig.settle();
  return rig;
}

/** @returns null: it was not ready to lend */
function lend(
  rig: JournalRig,
  lba: number,
  count: number,
  then: (release: (() => void) | null) => void = () => {},
): Lent[] | null {
  const answers: Lent[] = [];
  const accepted = rig.reader.lend(
    rig.map,
    1,
    12,
    lba,
    count,
    () => new Uint8Array(count * BLOCK_SIZE),
    (error, bytes, release) => {
      answers.push({ error, bytes: bytes!, release });
      then(release);
    },
  );
  expect(answers).toEqual([]); // never inside the call
  return accepted ? answers : null;
}

const isFilled = (bytes: Uint8Array, fill: number): boolean =>
  bytes.length === SIZE && bytes.every((byte) => byte === fill);

test('what stands in one record on disk is lent until it is released', () => {
  const rig = written(1);
  const answers = lend(rig, 0, COUNT)!;
  rig.settle();
  const [{ bytes, release, error }] = answers as [Lent];
  expect(error).toBeNull();
  expect(release).not.toBeNull();
  expect(bytes.buffer).toBe(rig.journal.memory.bytes.buffer);
  // other reads come and go meanwhile, in the slice that is left
  for (let i = 0; i < 20; i += 1) expect(rig.read(3000, COUNT)).toEqual(Array(COUNT).fill(99));
  expect(isFilled(bytes, 1)).toBe(true);
  release!();
});

test('what stands in several records, in the ring, or nowhere is not lent', () => {
  const rig = written(2);
  expect(lend(rig, COUNT / 2, COUNT)).toBeNull();
  expect(lend(rig, 2000, COUNT)).toBeNull();
  rig.write(0, COUNT, 7);
  expect(lend(rig, 0, COUNT)).toBeNull();
});

test('a receiver that keeps what it was lent keeps nobody from reading: others get copies', () => {
  const rig = written(8);
  const kept = lend(rig, 0, COUNT)!;
  rig.settle();
  const copies = [1, 2, 3].map((record) => {
    const answers = lend(rig, record * COUNT, COUNT)!;
    rig.settle();
    return answers[0]!;
  });
  for (const [i, { bytes, release }] of copies.entries()) {
    expect(release).toBeNull();
    expect(isFilled(bytes, i + 2)).toBe(true);
  }
  expect(isFilled(kept[0]!.bytes, 1)).toBe(true);
  kept[0]!.release!();
  const again = lend(rig, 4 * COUNT, COUNT)!;
  rig.settle();
  expect(again[0]!.release).not.toBeNull();
});

test('several that come in one batch are lent together, and given back with the last', () => {
  const rig = written(4);
  const batch = [0, 1, 2, 3].map((record) => lend(rig, record * COUNT, COUNT)!);
  rig.settle();
  const lent = batch.map(([answer]) => answer!);
  for (const [i, { bytes }] of lent.entries()) expect(isFilled(bytes, i + 1)).toBe(true);
  for (const { release } of lent.slice(1)) release!();
  const next = lend(rig, 0, COUNT)!;
  rig.settle();
  expect(next[0]!.release).toBeNull();
  expect(isFilled(lent[0]!.bytes, 1)).toBe(true);
  lent[0]!.release!();
  const last = lend(rig, 0, COUNT)!;
  rig.settle();
  expect(last[0]!.release).not.toBeNull();
});

test('what a receiver gives back at once can be lent again', () => {
  // One whose connection is gone gives back what it is lent inside the call. The slice counted as lent for the rest of the
  // process's life; after two of them nothing was lent any more.
  const rig = written(4);
  for (let i = 0; i < 8; i += 1) {
    const batch = [0, 1].map((record) => lend(rig, record * COUNT, COUNT, (release) => release?.())!);
    rig.settle();
    for (const [answer] of batch) expect(answer!.release).not.toBeNull();
  }
});

test('a block that has rotted is an error, lent or not', () => {
  const rig = written(1);
  rig.store.rot(rig.store.list().find((name) => name.startsWith('segment'))!, 20_000);
  const answers = lend(rig, 0, COUNT)!;
  rig.settle();
  expect(answers[0]!.error).toMatchObject({ code: 'EIO' });
  expect(answers[0]!.release).toBeNull();
});
