import { describe, expect, test } from 'vitest';
import { TYPE_WRITE } from '../../assembly/layout.js';
import { ChecksumTable } from '../../src/journal/checksums.js';
import { recordSize } from '../../src/journal/record.js';
import { seededRandom } from '../sim/memory-store.js';

const SEGMENT_SIZE = 1024 * 1024;

interface Noted {
  position: number;
  sums: (readonly [number, number])[];
}

/** A journal of records that follow each other, and what is told of them. */
function makeJournal(seed: number) {
  const table = new ChecksumTable(SEGMENT_SIZE);
  const random = seededRandom(seed);
  let head = 0;
  const draw = () => Math.floor(random() * 2 ** 32);
  return {
    table,
    append(blockShift: number, count: number): Noted {
      const size = recordSize(TYPE_WRITE, count, blockShift);
      if ((head % SEGMENT_SIZE) + size > SEGMENT_SIZE) head = Math.ceil(head / SEGMENT_SIZE) * SEGMENT_SIZE + 80;
      const position = head;
      head += size;
      const view = new DataView(new ArrayBuffer(24 + 8 * count));
      const sums: [number, number][] = [];
      for (let i = 0; i < count; i += 1) {
        sums.push([draw(), draw()]);
        view.setUint32(24 + 8 * i, sums[i]![0], true);
        view.setUint32(28 + 8 * i, sums[i]![1], true);
      }
      table.note(position, blockShift, count, view, 24);
      return { position, sums };
    },
  };
}

function expectKnown(known: ReturnType<ChecksumTable['freeze']>, { position, sums }: Noted): void {
  for (const [index, [lo, hi]] of sums.entries()) {
    expect(known.find(position, index)).toBe(true);
    expect([known.lo, known.hi]).toEqual([lo, hi]);
  }
}

const unknown = (known: ReturnType<ChecksumTable['freeze']>, { position, sums }: Noted): boolean =>
  sums.every((_, index) => !known.find(position, index));

describe('checksums of the journal since the last checkpoint', () => {
  test.each([[[12]], [[9, 12, 16]]])('no record takes the place of another, with blocks of 2^%j bytes', (shifts) => {
    const { table, append } = makeJournal(1);
    const random = seededRandom(2);
    const noted = [append(shifts[0]!, 1)]; // the smallest blocks come first
    for (let i = 0; i < 2000; i += 1) {
      const shift = shifts[Math.floor(random() * shifts.length)]!;
      noted.push(append(shift, 1 + Math.floor((random() * (random() < 0.1 ? 2 ** 19 : 2 ** 14)) / 2 ** shift)));
    }
    const known = table.freeze();
    for (const each of noted) expectKnown(known, each);
  });

  test('a checkpoint has what was known when it began; what comes later belongs to the next one', () => {
    const { table, append } = makeJournal(3);
    const before = append(12, 4);
    const first = table.freeze();
    const after = append(12, 4);
    expectKnown(first, before);
    expect(unknown(first, after)).toBe(true);
    table.drop();
    const second = table.freeze();
    expect(unknown(second, before)).toBe(true);
    expectKnown(second, after);
  });

  test('one that fails leaves what it had to the next, in the same segment and in others', () => {
    const { table, append } = makeJournal(4);
    const before = Array.from({ length: 400 }, () => append(12, 1));
    table.freeze();
    const after = Array.from({ length: 400 }, () => append(12, 1));
    table.thaw();
    const known = table.freeze();
    for (const each of [...before, ...after]) expectKnown(known, each);
  });

  test('smaller blocks make cells smaller: what was known in larger ones is not any more', () => {
    const { table, append } = makeJournal(5);
    const large = append(12, 8);
    table.freeze();
    const small = append(9, 8);
    const again = append(12, 8);
    table.thaw();
    const known = table.freeze();
    expect(unknown(known, large)).toBe(true);
    expectKnown(known, small);
    expectKnown(known, again);
  });

  test('memory: a byte for each 512 of the journal since the last checkpoint began, and none before the first write', () => {
    const { table, append } = makeJournal(6);
    expect(table.bytes).toBe(0);
    for (let i = 0; i < 1000; i += 1) append(12, 1);
    expect(table.bytes).toBe((4 * SEGMENT_SIZE) / 512);
    table.freeze();
    append(12, 1);
    expect(table.bytes).toBe((5 * SEGMENT_SIZE) / 512);
    table.drop();
    expect(table.bytes).toBe(SEGMENT_SIZE / 512);
  });
});
