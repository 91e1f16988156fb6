/** Rows and goals as text, for a terminal and for a README. */
import { ratios, spread } from '../statistics.js';

export const figure = (value) => {
  if (value === null || value === undefined || Number.isNaN(value)) return '–';
  const size = Math.abs(value);
  if (size >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString('en');
  if (size >= 0.895 && size < 1.1) return value.toFixed(3); // where goals end, a hundredth counts
  return size >= 10 ? value.toFixed(1) : size >= 0.1 || size === 0 ? value.toFixed(2) : value.toPrecision(2);
};
const range = ({ min, max }) => (min === max ? '' : ` (${figure(min)}–${figure(max)})`);
const micros = (us) => (us >= 10_000 ? `${figure(us / 1000)} ms` : `${figure(us)} µs`);

/** The middle of what rounds say, where they say it. */
function middle(rounds, pick) {
  const values = rounds.map(pick).filter((value) => value !== undefined && !Number.isNaN(value));
  return values.length === 0 ? null : spread(values).median;
}

/** Of an object of numbers in each round, the middle of each. */
function middles(rounds, pick) {
  const names = Object.keys(pick(rounds[0]) ?? {});
  return names.map((name) => [name, middle(rounds, (round) => pick(round)[name])]);
}

export function details({ rounds, note }) {
  const cells = [];
  const add = (pick, say) => {
    const value = middle(rounds, pick);
    if (value !== null) cells.push(say(value));
  };
  add(
    (round) => round.p50,
    (us) => `p50 ${micros(us)}`,
  );
  add(
    (round) => round.p99,
    (us) => `p99 ${micros(us)}`,
  );
  add(
    (round) => round.p999,
    (us) => `p99.9 ${micros(us)}`,
  );
  add(
    (round) => round.appliedPerSecond,
    (rate) => `applied ${figure(rate)}/s`,
  );
  add(
    (round) => round.behindMiB,
    (size) => `behind ${figure(size)} MiB`,
  );
  if (rounds[0].behindMiB !== undefined && rounds[0].drainSeconds !== undefined) {
    const isBounded = rounds.some(({ isDrained }) => !isDrained);
    cells.push(
      `drained after ${isBounded ? 'more than ' : ''}${figure(middle(rounds, (round) => round.drainSeconds))} s`,
    );
  }
  const lists = { 'CPU µs/op': (round) => round.cpuUs, 'CPU s/GB': (round) => round.cpuSecondsPerGb };
  lists['disk bytes/byte'] = (round) => round.diskBytesPerByte;
  lists['memory MiB'] = (round) => round.memoryMiB;
  for (const [name, pick] of Object.entries(lists)) {
    const all = middles(rounds, pick);
    if (all.length > 0) cells.push(`${name}: ${all.map(([who, value]) => `${who} ${figure(value)}`).join(', ')}`);
  }
  add(
    (round) => round.wireBytesPerByte,
    (count) => `wire bytes/byte ${figure(count)}`,
  );
  if (note !== undefined) cells.push(note);
  return cells;
}

/** How many times as much the result that a row is read by (else its first) is as each other. @returns null for itself */
export function ratiosOf({ results, reference = results[0].who }) {
  const valuesOf = ({ rounds }) => rounds.map(({ value }) => value);
  const own = results.find(({ who }) => who === reference) ?? results[0];
  return results.map((each) => {
    if (each === own || results.length === 1) return null;
    const { median } = ratios(valuesOf(own), valuesOf(each));
    return Number.isFinite(median) && median > 0 ? median : null;
  });
}

/** One row. */
export function formatRow(row) {
  const { subject, name, unit, better = 'more', results, reference = results[0].who } = row;
  const width = Math.max(...results.map(({ who }) => who.length));
  const words = [unit, better === 'less' ? 'less is better' : '', results.length > 1 ? `×: ${reference} over it` : ''];
  const lines = [`${subject}: ${name}: ${words.filter(Boolean).join('; ')}`];
  const times = ratiosOf(row);
  for (const [i, result] of results.entries()) {
    const values = spread(result.rounds.map(({ value }) => value));
    const ratio = times[i] === null ? '' : `  ${figure(times[i])}×`;
    lines.push(`  ${result.who.padEnd(width)}  ${figure(values.median).padStart(9)}${range(values)}${ratio}`);
    const cells = details(result);
    if (cells.length > 0) lines.push(`  ${' '.repeat(width)}      ${cells.join('; ')}`);
  }
  return lines.join('\n');
}

export const boundOf = ({ atLeast, atMost, isRatio }) =>
  [
    atLeast === undefined ? [] : `≥ ${atLeast.toLocaleString('en')}`,
    atMost === undefined ? [] : `≤ ${atMost.toLocaleString('en')}`,
  ]
    .flat()
    .join(' and ') + (isRatio ? '×' : '');

/** Reached, or missed by how much. */
export function verdictOf({ figure: found }) {
  if (found === null) return 'not measured';
  const share = Math.floor(1000 * found.of) / 10; // what is missed by little is missed
  return found.isReached ? 'reached' : `missed: ${figure(share)} % of it`;
}

/** What was found, with its spread. */
export const foundOf = ({ figure: found, isRatio }) =>
  found === null ? '–' : `${figure(found.median)}${isRatio ? '×' : ''}${range(found)}`;

/** The table of goals. */
export function formatGoals(judged) {
  const cells = judged.map((goal) => [goal.what, boundOf(goal), foundOf(goal), verdictOf(goal)]);
  const widths = [0, 1, 2].map((column) => Math.max(...cells.map((row) => row[column].length)));
  return cells
    .map((row) =>
      row
        .map((cell, i) => cell.padEnd(widths[i] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

export function goalsAsMarkdown(judged) {
  const lines = judged.map((goal) => `| ${[goal.what, boundOf(goal), foundOf(goal), verdictOf(goal)].join(' | ')} |`);
  return ['| what | goal | found | |', '|---|---|---|---|', ...lines, ''].join('\n');
}
