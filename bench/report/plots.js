/** Which plots a run gives: goals, rates over round trips, latency distributions, and whatever rows say of themselves. */
import { shareOf } from '../goals.js';
import { median, spread } from '../statistics.js';
import { beside, goalPlot, linePlot } from './plot.js';
import { boundOf, foundOf } from './text.js';

const KIB = 1024;
const short = (value) => {
  if (value >= 1e6) return `${figure1(value / 1e6)}M`;
  return value >= 1000 ? `${figure1(value / 1000)}k` : figure1(value);
};
const figure1 = (value) => `${Number(value.toPrecision(3))}`;
const duration = (us) =>
  us >= 1e6 ? `${figure1(us / 1e6)} s` : us >= 1000 ? `${figure1(us / 1000)} ms` : `${figure1(us)} µs`;
const size = (bytes) => {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const index = Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10 + 1e-9));
  return `${figure1(bytes / KIB ** index)} ${units[index]}`;
};

/** By what a row says its `axis` is. */
const AXES = {
  'round trip': { label: 'round trip, ms', scale: 'linear', format: figure1 },
  size: { label: 'size', scale: 'binary', format: size },
  count: { label: 'count', scale: 'log', format: short },
  seconds: { label: 'seconds', scale: 'linear', format: figure1 },
};

/** The same name has the same colour in every plot; others take what is left, in order. */
const PENS = {
  forelock: 0,
  'nbdkit file': 1,
  'qemu-nbd': 2,
  'nbd-server': 6,
  'qemu background': 3,
  'qemu write-blocking': 5,
  'qemu quorum': 4,
  'lock-step': 9,
};
const PEN_COUNT = 10;

function withPens(lines) {
  const used = new Set(lines.map(({ name }) => PENS[name]).filter((pen) => pen !== undefined));
  const free = Array.from({ length: PEN_COUNT }, (_, pen) => pen).filter((pen) => !used.has(pen));
  let next = 0;
  return lines.map((line, i) => {
    const color = PENS[line.name] ?? free[next++ % free.length];
    return { ...line, color, isFirst: line.name === 'forelock' || (i === 0 && !used.has(0)) };
  });
}

/** Values so far apart that a linear axis would hide the small ones. */
const isWide = (values) => Math.max(...values) > 20 * Math.min(...values) && Math.min(...values) > 0;

/** Results as lines: those of the same `line` are one, by their x. */
function linesOf(results) {
  const lines = new Map();
  for (const { who, line = who, x, rounds } of results) {
    if (!lines.has(line)) lines.set(line, { name: line, points: [] });
    const { median: y, min, max } = spread(rounds.map(({ value }) => value));
    lines.get(line).points.push({ x, y, min, max });
  }
  return [...lines.values()].map(({ name, points }) => ({ name, points: points.sort((a, b) => a.x - b.x) }));
}

function familyPlot(name, rows) {
  const [{ unit, axis, better }] = rows;
  const results = rows.flatMap((row) => row.results);
  const lines = withPens(linesOf(results));
  const values = lines.flatMap(({ points }) => points.map(({ y }) => y));
  const y = { scale: isWide(values) ? 'log' : 'linear', format: short };
  const subtitle = [unit, better === 'less' ? 'less is better' : '', y.scale === 'log' ? 'logarithmic' : ''];
  const xs = [...new Set(results.map(({ x }) => x).filter((x) => x !== undefined))].sort((a, b) => a - b);
  const ticks = xs.length <= 6 ? { ticks: xs } : {};
  return linePlot({
    title: name,
    subtitle: subtitle.filter(Boolean).join(', '),
    x: { ...AXES[axis], ...ticks },
    y,
    lines,
  });
}

/** Rows with a `family` are points of one plot. @returns [{ subject, plot }] */
export function familyPlots(rows) {
  const families = new Map();
  for (const row of rows) {
    if (row.family === undefined) continue;
    if (!families.has(row.family)) families.set(row.family, []);
    families.get(row.family).push(row);
  }
  const placesOf = (members) => new Set(members.flatMap(({ results }) => results.map(({ x }) => x)));
  const isDrawn = (members) => [...placesOf(members)].filter((x) => x !== undefined).length > 1;
  return [...families]
    .filter(([, members]) => isDrawn(members))
    .map(([name, members]) => ({ subject: members[0].subject, plot: familyPlot(name, members) }));
}

/** Rows with `points` in their results: a course over time. */
export function coursePlots(rows) {
  return rows
    .filter(({ results }) => results.some(({ points }) => points !== undefined))
    .map(({ subject, name, unit, axis, results }) => {
      const lines = results.map(({ who, points }) => ({ name: who, points: points.map(([x, y]) => ({ x, y })) }));
      return {
        subject,
        plot: linePlot({
          title: name,
          subtitle: unit,
          x: AXES[axis],
          y: { scale: 'linear', format: short },
          lines: withPens(lines),
        }),
      };
    });
}

/** Latency by percentile, of one row. */
function latencyPlot({ name, results }, title, more) {
  const withLatency = results.filter(({ rounds }) => Object.keys(rounds[0].latency ?? {}).length > 0);
  const lines = withLatency.map(({ who, rounds }) => ({
    name: who,
    points: Object.keys(rounds[0].latency)
      .map(Number)
      .filter((rank) => rank >= 50)
      .sort((a, b) => a - b)
      .map((rank) => ({ x: rank, y: median(rounds.map(({ latency }) => latency[rank])) })),
  }));
  const pens = withPens(lines.map((line) => ({ ...line, name: line.name.replace(/, 100 ms$/, '') })));
  return linePlot({
    title,
    subtitle: `${name}; logarithmic`,
    x: { label: 'percentile', scale: 'nines', format: (rank) => `${rank} %` },
    y: { scale: 'log', format: duration },
    lines: lines.map((line, i) => ({ ...line, color: pens[i].color, isFirst: pens[i].isFirst })),
    ...more,
  });
}

/** Of rows over several round trips, the longest. */
export function latencyPlots(rows) {
  return rows
    .filter(({ results }) => results.some(({ rounds }) => rounds[0]?.latency !== undefined))
    .map((row) => {
      const far = Math.max(...row.results.map(({ x }) => x ?? 0));
      const results = row.results.filter(({ x }) => x === undefined || x === far);
      return { subject: row.subject, plot: latencyPlot({ ...row, results }, 'Latency by percentile', {}) };
    });
}

const find = (rows, subject, key) => rows.find((row) => row.subject === subject && row.key === key);

/** For the README: rates over round trips, 4 KiB and 128 KiB. null without rows. */
export function throughputPicture(rows) {
  const panels = [
    ['rw32', '4 KiB random writes a second', 'depth 32, over NBD; logarithmic'],
    ['sw128', '128 KiB sequential writes, MB/s', 'depth 16, over NBD; logarithmic'],
  ].flatMap(([key, title, subtitle]) => {
    const row = find(rows, 'mirror', key);
    if (row === undefined) return [];
    const renamed = linesOf(row.results.filter(({ who }) => !who.includes('MB/s'))).map(({ name, points }) => ({
      name,
      points,
    }));
    const lines = withPens(renamed).map((line) =>
      line.name === 'nbdkit file' ? { ...line, name: 'nbdkit, unmirrored' } : line,
    );
    const xs = [...new Set(row.results.map(({ x }) => x).filter((x) => x !== undefined))];
    const x = { ...AXES['round trip'], ticks: xs };
    return [linePlot({ title, subtitle, x, y: { scale: 'log', format: short }, lines, width: 500, height: 340 })];
  });
  return panels.length === 0 ? null : beside(panels);
}

/** For the README: what a write waits for, a line of 100 ms. */
export function latencyPicture(rows) {
  const row = find(rows, 'mirror', 'rw32');
  if (row === undefined) return null;
  const results = row.results.filter(({ who, x }) => x === undefined || (x === 100 && !who.includes('MB/s')));
  const shown = results.map((result) => ({
    ...result,
    who: result.who.replace(/, 100 ms$/, '').replace('nbdkit file', 'nbdkit, unmirrored'),
  }));
  return latencyPlot({ ...row, results: shown }, 'What a write waits for, 100 ms apart', { width: 760, height: 380 });
}

/** All goals as one picture. */
export function goalsPicture(judged) {
  const measured = judged.filter((goal) => goal.figure !== null);
  const reached = measured.filter((goal) => goal.figure.isReached);
  const rows = judged.map((goal) => {
    const { what: label, figure: found } = goal;
    const bound = boundOf(goal);
    if (found === null) return { label, bound, value: 'not measured', of: null };
    const [low, high] = [found.min, found.max].map((value) => shareOf(value, goal)).sort((a, b) => a - b);
    return { label, bound, value: foundOf(goal), isReached: found.isReached, of: found.of, low, high };
  });
  return goalPlot({
    title: `${reached.length} of ${measured.length} goals that were measured are reached`,
    subtitle:
      'each as a share of its goal, on a logarithmic scale: filled is reached; a line is the spread of the rounds',
    rows,
  });
}
