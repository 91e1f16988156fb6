/** What a benchmark run says of its goals, and of an earlier run: nothing may look reached, or unchanged, that is not. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { GOALS, judge } from '../../bench/goals.js';
import { compareRuns } from '../../bench/report/baseline.js';
import { verdictOf } from '../../bench/report/text.js';

type Round = Record<string, unknown>;
const result = (who: string, ...rounds: (number | Round)[]) => ({
  who,
  rounds: rounds.map((round) => (typeof round === 'number' ? { value: round } : round)),
});
const row = (subject: string, key: string, results: object[], more = {}) => ({
  subject,
  key,
  name: key,
  results,
  ...more,
});
const found = (what: RegExp, rows: object[]) =>
  judge(rows).find((goal: { what: string }) => what.test(goal.what))!.figure;

describe('goals', () => {
  test('a ratio is taken round by round, and the middle of these counts', () => {
    const rows = [row('volume', 'rw32', [result('forelock', 10, 90, 200), result('nbdkit file', 10, 100, 100)])];
    expect(found(/^unmirrored, 4 KiB random write, depth 32/, rows)).toMatchObject({ median: 1, min: 0.9, max: 2 });
    expect(found(/^unmirrored, 4 KiB random write, depth 32/, rows).isReached).toBe(true);
  });

  test('a goal of latency is about latency, not about the rate', () => {
    const rows = [
      row('volume', 'rw1', [result('forelock', { value: 9, p50: 40 }), result('nbdkit file', { value: 1, p50: 20 })]),
    ];
    expect(found(/p50 against nbdkit/, rows)).toMatchObject({ median: 2, isReached: false, of: 0.65 });
  });

  test('where a row has several results for one goal, the worst counts', () => {
    const rows = [row('acks', 'above', [result('10 ms', 0.2), result('100 ms', 0.9)])];
    expect(found(/^ack applied/, rows)).toMatchObject({ median: 0.9, isReached: false });
  });

  test('what is missed by next to nothing does not look reached', () => {
    const figure = found(/^ack applied/, [row('acks', 'above', [result('10 ms', 0.5001)])]);
    expect(verdictOf({ figure })).toBe('missed: 99.9 % of it');
  });

  test('a goal between two bounds is missed on either side', () => {
    const at = (value: number) =>
      found(/^lock-step/, [row('scopes', 'lock-step', [result('lock-step, 100 ms', value)])]);
    expect([0.9, 1, 1.1].map((value) => at(value).isReached)).toEqual([false, true, false]);
  });

  test('what was not measured, or has no peer beside it, is not reached', () => {
    expect(judge([]).every((goal: { figure: unknown }) => goal.figure === null)).toBe(true);
    expect(
      found(/^unmirrored, 4 KiB random write, depth 32/, [row('volume', 'rw32', [result('forelock', 1)])]),
    ).toBeNull();
  });

  test('every goal names a subject that exists', () => {
    const subjects = readdirSync(join(import.meta.dirname, '../../bench/subjects'));
    for (const goal of GOALS) expect(subjects).toContain(`${goal.row.split('/')[0]}.js`);
  });
});

describe('an earlier run', () => {
  const compare = (before: object, now: object) => compareRuns([now], [before])[0];
  const rate = (...rounds: number[]) => row('volume', 'rw32', [result('forelock', ...rounds)]);
  const time = (...rounds: number[]) => row('volume', 'rw32', [result('forelock', ...rounds)], { better: 'less' });

  test('what stays within the spread of either run has not changed', () => {
    expect(compare(rate(80, 100, 130), rate(120, 140, 150))).toMatchObject({ ratio: 1.4, isChanged: false });
  });

  test('what leaves the spread of both has, for better or worse by what the row counts', () => {
    expect(compare(rate(90, 100, 110), rate(115, 120, 130))).toMatchObject({ isChanged: true, isBetter: true });
    expect(compare(time(90, 100, 110), time(115, 120, 130))).toMatchObject({ isChanged: true, isBetter: false });
  });

  test('a change too small to matter is none, however quiet the machine was', () => {
    expect(compare(rate(100), rate(102)).isChanged).toBe(false);
  });
});
