/**
 * Forelock and its peers, measured in one run, in turn.
 *
 *     npm run bench -- [--quick] [--only kernels,pool,volume,mirror,roundtrip] [--jobs rw1,rw32,…] [--peers nbdkit,…]
 *                      [--seconds 3] [--runs 3] [--size MIB] [--round-trips 0,100] [--json FILE] [--profile DIRECTORY]
 *
 * How to read what it prints: bench/NOTES.md.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { PEER_NAMES } from './contenders.js';
import { JOBS } from './load.js';
import { describeMachine, findPrograms, ROOT } from './machine.js';
import { formatRow, ratiosOf } from './report.js';

const SUBJECTS = ['kernels', 'pool', 'volume', 'mirror', 'roundtrip'];

function fail(message) {
  process.stderr.write(`bench: ${message}\n`);
  process.exit(2);
}

function parse() {
  try {
    const string = { type: 'string' };
    const { values } = parseArgs({
      options: {
        quick: { type: 'boolean' },
        ...{ only: string, jobs: string, peers: string, seconds: string, runs: string, size: string },
        ...{ 'round-trips': string, json: string, profile: string },
      },
    });
    return values;
  } catch (error) {
    return fail(error.message);
  }
}

function list(text, known, what) {
  const names = text.split(',');
  for (const name of names) if (!known.includes(name)) fail(`no ${what} ${name}: there are ${known.join(', ')}`);
  return names;
}

function number(text, what) {
  const value = Number(text);
  return Number.isFinite(value) && value >= 0 ? value : fail(`${what}: ${text} is not a number`);
}

const options = parse();
const quick = options.quick ?? false;
const subjects = options.only === undefined ? SUBJECTS : list(options.only, SUBJECTS, 'subject');
const programs = findPrograms();
const peers = list(options.peers ?? 'nbdkit', PEER_NAMES, 'peer').filter((peer) => peer in programs.found);
const settings = {
  quick,
  subjects,
  peers,
  jobs: options.jobs === undefined ? null : list(options.jobs, Object.keys(JOBS), 'job'),
  seconds: number(options.seconds ?? (quick ? 1 : 3), '--seconds'),
  runs: Math.max(1, number(options.runs ?? (quick ? 1 : 3), '--runs')),
  size: number(options.size ?? (quick ? 512 : 1024), '--size') * 2 ** 20,
  roundTrips: (options['round-trips'] ?? '0,100').split(',').map((text) => number(text, '--round-trips')),
};
const scratch = mkdtempSync(join(tmpdir(), 'forelock-bench-'));
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }));
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => process.exit(1));

const context = {
  ...settings,
  scratch,
  profile: options.profile === undefined ? null : resolve(options.profile),
  programs: programs.found,
  say: (text) => process.stderr.isTTY && process.stderr.write(`\r\x1b[K${text}`),
};

const machine = describeMachine();
console.log(`${machine.cpu}, ${machine.cores} cores, ${machine.memoryGiB} GiB, ${machine.kernel}`);
console.log(`forelock ${machine.forelock} (${machine.commit}), node ${machine.node}`);
console.log(
  `found: ${
    Object.entries(programs.found)
      .map((each) => each.join(' '))
      .join(', ') || 'nothing'
  }`,
);
for (const [name, use] of Object.entries(programs.missing)) console.log(`not installed: ${name} (${use})`);
console.log(`rounds: ${settings.runs} of ${settings.seconds} s, volumes of ${settings.size / 2 ** 20} MiB\n`);

const rows = [];
const statuses = [];
const skipped = {};
for (const subject of subjects) {
  const { run, needs } = await import(`./subjects/${subject}.js`);
  const lacking = needs.filter((program) => !(program in programs.found));
  if (lacking.length > 0) {
    skipped[subject] = `${lacking.join(', ')} not installed`;
    console.log(`${subject}: not measured, ${skipped[subject]}\n`);
    continue;
  }
  for (const row of await run(context)) {
    if (row.status !== undefined) {
      statuses.push(row);
      continue;
    }
    rows.push({ ...row, ratios: ratiosOf(row) });
    context.say('');
    console.log(`${formatRow(row)}\n`);
  }
}

const missed = rows.flatMap(({ subject, name, ratios }) =>
  ratios
    .filter(({ atLeast, median }) => atLeast !== undefined && median < atLeast)
    .map(({ of, to, atLeast, median }) => `${subject}: ${name}: ${of} / ${to} ${median.toFixed(2)} < ${atLeast}`),
);
console.log(
  missed.length === 0 ? 'every goal that was measured is reached' : `goals missed:\n  ${missed.join('\n  ')}`,
);

const file = resolve(
  options.json ?? join(ROOT, 'bench/results', `${machine.date.slice(0, 19).replaceAll(/[:T]/g, '-')}.json`),
);
mkdirSync(dirname(file), { recursive: true });
writeFileSync(file, `${JSON.stringify({ machine, programs, settings, skipped, rows, statuses }, null, 1)}\n`);
console.log(`written to ${file}`);
process.exit(0); // a measured pool may leave idle workers
