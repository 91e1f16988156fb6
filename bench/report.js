/**
 * Rows to text. A row is { subject, name, unit, results, goals }:
 *
 *     results   [{ who, rounds: [{ value, p50?, p99?, cpuUs?, appliedPerSecond?, … }] }]
 *     goals     [{ of, to, atLeast }]: a ratio of two results' values
 *
 * Ratios are taken round by round (neighbours in time), then the median: steadier than a ratio of medians.
 */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
}

function spread(values) {
  return { median: median(values), min: Math.min(...values), max: Math.max(...values) };
}

/** Of ours to every peer, and those that a goal asks for. */
export function ratiosOf({ results, goals }) {
  const valuesOf = (who) => results.find((result) => result.who === who)?.rounds.map(({ value }) => value);
  const asked = [...goals];
  const names = results.map(({ who }) => who);
  for (const of of names.filter((who) => who.startsWith('forelock'))) {
    for (const to of names.filter((who) => !who.startsWith('forelock'))) {
      if (!goals.some((goal) => goal.of === of && goal.to === to)) asked.push({ of, to });
    }
  }
  return asked.flatMap(({ of, to, atLeast }) => {
    const above = valuesOf(of);
    const below = valuesOf(to);
    if (above === undefined || below === undefined) return [];
    return [{ of, to, atLeast, ...spread(above.map((value, i) => value / below[i])) }];
  });
}

const figure = (value) =>
  value >= 100 ? Math.round(value).toLocaleString('en') : value >= 10 ? value.toFixed(1) : value.toFixed(2);

function line({ who, rounds }, unit) {
  const values = spread(rounds.map(({ value }) => value));
  const cells = [`  ${who.padEnd(34)} ${figure(values.median).padStart(9)} ${unit}`];
  if (rounds.length > 1) cells.push(`(${figure(values.min)}–${figure(values.max)})`);
  const middle = (pick) => median(rounds.map(pick));
  if (rounds[0].p50 !== undefined) {
    cells.push(`p50 ${figure(middle(({ p50 }) => p50))} µs`, `p99 ${figure(middle(({ p99 }) => p99))} µs`);
  }
  if (rounds[0].appliedPerSecond !== undefined) {
    cells.push(`applied ${figure(middle(({ appliedPerSecond }) => appliedPerSecond))}/s`);
    cells.push(`drained ${middle(({ drainSeconds }) => drainSeconds).toFixed(1)} s later`);
  }
  if (rounds[0].cpuUs !== undefined) {
    const each = Object.keys(rounds[0].cpuUs).map((name) => `${name} ${figure(middle(({ cpuUs }) => cpuUs[name]))}`);
    cells.push(`CPU µs/op: ${each.join(', ')}`);
  }
  return cells.join('  ');
}

export function formatRow(row) {
  const lines = [`${row.subject}: ${row.name}`, ...row.results.map((result) => line(result, row.unit))];
  for (const { of, to, atLeast, median: middle, min, max } of ratiosOf(row)) {
    const range = min === max ? '' : ` (${min.toFixed(2)}–${max.toFixed(2)})`;
    const goal = atLeast === undefined ? '' : `, goal ≥ ${atLeast}: ${middle >= atLeast ? 'reached' : 'MISSED'}`;
    lines.push(`  → ${of} / ${to}: ${middle.toFixed(2)}×${range}${goal}`);
  }
  return lines.join('\n');
}
