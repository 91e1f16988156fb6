/** A run beside an earlier one: ratios, and what changed beyond the spread of both. */
import { spread } from '../statistics.js';

const SAME = 0.05; // below it a change is not worth a word, however quiet the machine was

/**
 * @param rows, earlier rows of two runs
 * @returns [{ row, who, before, now, ratio, isChanged, isBetter }] for every result that both have
 */
export function compareRuns(rows, earlier) {
  const found = new Map(earlier.flatMap((row) => row.results.map((result) => [keyOf(row, result), result])));
  return rows.flatMap((row) =>
    row.results.flatMap((result) => {
      const before = found.get(keyOf(row, result));
      if (before === undefined) return [];
      const [then, now] = [before, result].map(({ rounds }) => spread(rounds.map(({ value }) => value)));
      const ratio = now.median / then.median;
      const isApart = now.min > then.max || now.max < then.min;
      const isChanged = isApart && ratio > 0 && Math.abs(ratio - 1) > SAME;
      const isBetter = ratio > 1 === (row.better !== 'less');
      return [{ row: `${row.subject}: ${row.name}`, who: result.who, before: then, now, ratio, isChanged, isBetter }];
    }),
  );
}

const keyOf = ({ subject, key }, { who }) => `${subject}/${key}/${who}`;
