import { expect, test } from 'vitest';
import { FLAG_STAGED, TYPE_COMMIT, TYPE_WRITE } from '../../assembly/layout.js';
import { RecordHeader } from '../../src/journal/record.js';
import { StagedRun } from '../../src/journal/staged.js';

const header = (sequence: number, type = TYPE_WRITE, flags = FLAG_STAGED): RecordHeader =>
  Object.assign(new RecordHeader(), { type, flags, sequence, size: 100 });

test('writes that were dropped with the end of their stream do not show at a later COMMIT', () => {
  // The peer lost them, and what it writes in their place may be another transaction.
  const run = new StagedRun();
  for (const sequence of [5, 6, 7]) run.next(header(sequence), sequence * 1000);
  run.truncate(5);
  expect([run.count, run.from]).toEqual([1, 5000]);
  run.next(header(6), 9000);
  const shown = run.next(header(7, TYPE_COMMIT, 0), 9100);
  expect(shown.map(({ header, position }) => [header.sequence, position])).toEqual([
    [5, 5000],
    [6, 9000],
  ]);
});
