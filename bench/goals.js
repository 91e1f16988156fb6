/**
 * The table of goals, and what a run says of each.
 *
 *     row         subject/key of the row that measures it
 *     of, to      two results of the row: the goal is about their ratio, round by round; `of` alone: about its value; none:
 *                 about every result of the row, and the worst counts
 *     pick        what of a round counts (default: its value)
 *     atLeast, atMost
 */
import { ratios, spread } from './statistics.js';

const FAR = '100 ms';
const cpuOfBoth = ({ cpuSecondsPerGb: { source, target } }) => source + target;
const p50 = (round) => round.p50;

export const GOALS = [
  {
    what: 'XXH3 at 4 KiB against xxhash-wasm',
    ...{ row: 'kernels/hash-4k', of: 'XXH3', to: 'xxhash-wasm XXH64', atLeast: 3.4 },
  },
  {
    what: 'XXH3 at 4 KiB against native xxhsum',
    ...{ row: 'kernels/hash-4k', of: 'XXH3', to: 'native xxhsum XXH3', atLeast: 0.55 },
  },
  {
    what: 'whole seal at 4 KiB against xxhash-wasm',
    ...{ row: 'kernels/records-4k', of: 'seal', to: 'xxhash-wasm over the same blocks', atLeast: 2.8 },
  },
  {
    what: 'lock + unlock, 10,000 held, time against sorted-btree',
    ...{ row: 'locks/lock-10000', of: 'region table', to: 'sorted-btree', atMost: 0.05 },
  },
  {
    what: 'lock + unlock, 1,000,000 held, time against sorted-btree',
    ...{ row: 'locks/lock-1000000', of: 'region table', to: 'sorted-btree', atMost: 0.05 },
  },

  {
    what: 'unmirrored, 4 KiB random write, depth 32, against nbdkit',
    ...{ row: 'volume/rw32', of: 'forelock', to: 'nbdkit file', atLeast: 1 },
  },
  {
    what: 'unmirrored, 4 KiB random write, depth 1, p50 against nbdkit',
    ...{ row: 'volume/rw1', of: 'forelock', to: 'nbdkit file', pick: p50, atMost: 1.3 },
  },
  {
    what: 'unmirrored, flush after every write, depth 32, against nbdkit',
    ...{ row: 'volume/rw32f1', of: 'forelock', to: 'nbdkit file', atLeast: 1.5 },
  },
  {
    what: 'unmirrored, flush after every write, depth 1, against nbdkit',
    ...{ row: 'volume/rw1f1', of: 'forelock', to: 'nbdkit file', atLeast: 0.9 },
  },
  {
    what: 'unmirrored, 4 KiB random read, depth 32, against nbdkit',
    ...{ row: 'volume/rr32', of: 'forelock', to: 'nbdkit file', atLeast: 0.8 },
  },
  {
    what: 'unmirrored, 128 KiB sequential write, against nbdkit',
    ...{ row: 'volume/sw128', of: 'forelock', to: 'nbdkit file', atLeast: 0.8 },
  },
  {
    what: 'unmirrored, 128 KiB sequential read, against nbdkit',
    ...{ row: 'volume/sr128', of: 'forelock', to: 'nbdkit file', atLeast: 0.8 },
  },

  {
    what: 'mirrored, 100 ms, 4 KiB random write, depth 32, against unmirrored nbdkit',
    ...{ row: 'mirror/rw32', of: `forelock, ${FAR}`, to: 'nbdkit file', atLeast: 0.9 },
  },
  {
    what: 'mirrored, 100 ms, 4 KiB random write, depth 32, against qemu background',
    ...{ row: 'mirror/rw32', of: `forelock, ${FAR}`, to: `qemu background, ${FAR}`, atLeast: 4 },
  },
  {
    what: 'mirrored, 100 ms, 4 KiB random write, depth 32, against qemu write-blocking',
    ...{ row: 'mirror/rw32', of: `forelock, ${FAR}`, to: `qemu write-blocking, ${FAR}`, atLeast: 800 },
  },
  {
    what: 'mirrored, 100 ms, 128 KiB sequential write, against qemu background',
    ...{ row: 'mirror/sw128', of: `forelock, ${FAR}`, to: `qemu background, ${FAR}`, atLeast: 1 },
  },
  {
    what: 'mirrored, 100 ms against 0 ms, 4 KiB random write, depth 32',
    ...{ row: 'mirror/rw32', of: `forelock, ${FAR}`, to: 'forelock, 0 ms', atLeast: 0.95 },
  },
  {
    what: 'mirrored, 100 ms against 0 ms, 128 KiB sequential write',
    ...{ row: 'mirror/sw128', of: `forelock, ${FAR}`, to: 'forelock, 0 ms', atLeast: 0.95 },
  },
  {
    what: 'mirrored, 100 ms against 0 ms, 4 KiB: what the target applies, steady state',
    ...{ row: 'mirror/steady', of: `forelock, ${FAR}`, to: 'forelock, 0 ms', atLeast: 0.95 },
  },
  {
    what: 'a 12.5 MB/s link at 100 ms: share that carries journal while there is backlog',
    ...{ row: 'link/share', of: 'forelock', atLeast: 0.97 },
  },
  {
    what: 'ack applied: p50 of a 4 KiB write, less the round trip of the line, ms',
    ...{ row: 'acks/above', atMost: 0.5 },
  },
  {
    what: 'scopes (lock, 4 writes, unlock) a second at 100 ms',
    ...{ row: 'scopes/rate', of: `forelock, ${FAR}`, atLeast: 10_000 },
  },
  {
    what: 'lock-step at 100 ms: time of a scope over two round trips',
    ...{ row: 'scopes/lock-step', of: `lock-step, ${FAR}`, atLeast: 0.95, atMost: 1.05 },
  },

  {
    what: 'CPU seconds per GB, source and target, 128 KiB',
    ...{ row: 'mirror/sw128', of: `forelock, ${FAR}`, pick: cpuOfBoth, atMost: 1.5 },
  },
  {
    what: 'CPU seconds per GB, source and target, 4 KiB',
    ...{ row: 'mirror/rw32', of: `forelock, ${FAR}`, pick: cpuOfBoth, atMost: 3.5 },
  },
  {
    what: 'bytes written to state files for each of the host’s, 4 KiB',
    ...{ row: 'volume/bytes', of: 'forelock', atMost: 1.03 },
  },
  {
    what: 'recovery after kill -9 with 4 GiB of journal: seconds to the first served read',
    ...{ row: 'recovery/killed-4096', of: 'forelock', atMost: 2 },
  },
  {
    what: 'memory with a 1 TiB thin volume before the first I/O, MiB',
    ...{ row: 'memory/thin', of: 'forelock', atMost: 120 },
  },
  { what: 'memory, idle after load, MiB', row: 'memory/idle', of: 'forelock', atMost: 260 },
  { what: 'memory added per mapped GiB, MiB', row: 'memory/mapped', of: 'forelock', atMost: 3 },

  {
    what: '64 connections beside a slow reader: their rate against without it',
    ...{ row: 'crowd/rate', of: 'forelock, beside a slow reader', to: 'forelock, alone', atLeast: 0.95 },
  },
  {
    what: 'p99.9 over p50 at 70 % of the full rate, journal and pool busy',
    ...{ row: 'tail/over', atMost: 20 },
  },
  {
    what: 'memory over ten minutes at full load: last tenth against second',
    ...{ row: 'endurance/growth', atMost: 1.05 },
  },
];

const value = (round) => round.value;

/** @returns { median, min, max } of what a goal is about, or null where the row or a peer is not there */
function figureOf({ of, to, pick = value, atMost }, row) {
  const picked = (who) => row.results.find((result) => result.who === who)?.rounds.map(pick);
  if (of === undefined) {
    const all = row.results.map(({ rounds }) => spread(rounds.map(pick)));
    all.sort((a, b) => (atMost === undefined ? a.median - b.median : b.median - a.median));
    return all[0] ?? null;
  }
  const [above, below] = [picked(of), to === undefined ? null : picked(to)];
  if (above === undefined || below === undefined) return null;
  return below === null ? spread(above) : ratios(above, below);
}

/** What no share is beyond: less than nothing may be found where little is allowed (memory that was given back). */
const SHARE_MAX = 1000;

/** How much of a goal a value is: 1 and more is reached. Between two bounds, the nearer one counts. */
export function shareOf(value, { atLeast, atMost }) {
  const shares = [];
  if (atLeast !== undefined) shares.push(value / atLeast);
  if (atMost !== undefined) shares.push(value <= 0 ? SHARE_MAX : atMost / value);
  return Math.min(SHARE_MAX, ...shares);
}

/**
 * @param rows of a run
 * @returns for every goal { what, row, atLeast, atMost, isRatio, figure }, figure null where it was not measured, else
 *          { median, min, max, of: share of the goal, isReached }
 */
export function judge(rows) {
  return GOALS.map((goal) => {
    const { what, atLeast, atMost, to } = goal;
    const row = rows.find(({ subject, key }) => `${subject}/${key}` === goal.row);
    const found = row === undefined ? null : figureOf(goal, row);
    const of = found === null ? null : shareOf(found.median, goal);
    const figure = found === null ? null : { ...found, of, isReached: of >= 1 };
    return { what, row: goal.row, atLeast, atMost, isRatio: to !== undefined, figure };
  });
}
