/** ExtentIndex against a list that is searched from end to end. */
import { expect, test } from 'vitest';
import { ExtentIndex, type Placed } from '../../src/journal/extents.js';
import { seededRandom } from '../sim/memory-store.js';

const VOLUME_BLOCKS = 2 ** 35;

test('every question is answered as by looking at all entries', () => {
  for (let seed = 1; seed <= 30; seed++) {
    const random = seededRandom(seed);
    const pick = <T>(...values: T[]): T => values[Math.floor(random() * values.length)]!;
    const index = new ExtentIndex<Placed>();
    let entries: Placed[] = [];
    const extent = () => {
      const space = pick(300, 300, 100_000, VOLUME_BLOCKS);
      const blockCount = Math.min(space, 1 + Math.floor(random() * pick(2, 2, 130, 20_000, VOLUME_BLOCKS)));
      const lba = Math.floor(random() * (space - blockCount));
      return { volume: pick(0, 0, 1, 65_535), lba, end: lba + blockCount };
    };
    for (let sequence = 1; sequence <= 400; sequence++) {
      const entry = { ...extent(), sequence };
      index.add(entry);
      entries.push(entry);
      if (random() < 0.7) {
        const gone = random() < 0.8 ? entries[0] : pick(...entries);
        index.remove(gone);
        entries = entries.filter((each) => each !== gone);
      }
      const { volume, lba, end } = extent();
      const after = Math.floor(random() * sequence);
      const due = entries.filter(
        (each) => each.volume === volume && each.lba < end && each.end > lba && each.sequence > after,
      );
      const found: Placed[] = [];
      index.forEach(volume, lba, end, after, (each) => {
        found.push(each);
        return false;
      });
      expect(found.sort((a, b) => a.sequence - b.sequence)).toEqual(due);
      expect(index.first(volume, lba, end, after)).toBe(due[0] ?? null);
      expect(index.count).toBe(entries.length);
    }
  }
});

test('a question leaves out what is older when it is told to', () => {
  const index = new ExtentIndex<Placed>();
  for (let sequence = 1; sequence <= 10; sequence++) index.add({ volume: 0, lba: 0, end: 1, sequence });
  const met: number[] = [];
  index.forEach(0, 0, 1, 0, ({ sequence }) => {
    met.push(sequence);
    return met.length === 2;
  });
  expect(met).toEqual([10, 9]);
});

test('entries come in order, and only what is there can be removed', () => {
  const index = new ExtentIndex<Placed>();
  index.add({ volume: 0, lba: 0, end: 1, sequence: 5 });
  expect(() => index.add({ volume: 0, lba: 0, end: 1, sequence: 5 })).toThrow(/in the order/);
  expect(() => index.remove({ volume: 0, lba: 0, end: 1, sequence: 5 })).toThrow(/was there/);
  expect(() => index.add({ volume: 0, lba: 1, end: 1, sequence: 6 })).toThrow(/has blocks/);
});
