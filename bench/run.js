/**
 * Forelock and its peers, measured in one run, in turn.
 *
 * Without --all: what the table of goals needs (goals.js). `--help` lists the rest; how to read the results: bench/NOTES.md.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { JOBS } from './fio.js';
import { judge } from './goals.js';
import { describeMachine, findPrograms, ROOT } from './machine.js';
import { PEER_NAMES } from './peers.js';
import { compareRuns } from './report/baseline.js';
import { formatPage } from './report/page.js';
import { standalone } from './report/plot.js';
import { goalsPicture, latencyPicture, throughputPicture } from './report/plots.js';
import { figure, formatGoals, formatRow, goalsAsMarkdown } from './report/text.js';

/** Subjects and their parts, each a file in subjects/; those of GOALS make the run without --all. */
const SUBJECTS = {
  kernels: ['kernels', 'locks'],
  pool: ['pool'],
  pipeline: ['pipeline'],
  volume: ['volume', 'crowd', 'tail'],
  mirror: ['mirror', 'link', 'slow', 'acks', 'prefix', 'endurance'],
  scopes: ['scopes', 'dual'],
  cost: ['memory', 'recovery', 'growth'],
};
const GOALS = ['kernels', 'locks', 'volume', 'mirror', 'link', 'acks', 'scopes', 'memory', 'recovery'];
const PARTS = Object.values(SUBJECTS).flat();

const USAGE = 2;

const HELP = `Measures Forelock and its peers in one run, in turn, and writes JSON, one HTML page and plots to bench/results/DATE/.

  npm run bench                         what the table of goals needs, in less than ten minutes
  npm run bench -- --all                every subject and every peer: more than an hour
  npm run bench -- --quick              does it still run? Short figures, one round
  npm run bench -- --only NAME,...      some subjects, or parts of them:
${Object.entries(SUBJECTS)
  .map(([subject, parts]) => `                                        ${subject.padEnd(10)}${parts.join(', ')}`)
  .join('\n')}
  npm run bench -- --jobs NAME,...      these loads of volume and mirror: ${Object.keys(JOBS).slice(0, 6).join(', ')}, ...
  npm run bench -- --baseline FILE      beside an earlier run.json: ratios, and what changed
  npm run bench -- --seconds S --runs N --size MIB    of a measurement (1.5), rounds (3), of the volumes (1024)
  npm run bench -- --profile DIRECTORY  every gateway under V8's profiler; then: node bench/profile.js DIRECTORY/NAME

It needs fio and gcc; peers that are not installed are named and left out. How to read what it prints: bench/NOTES.md.
`;

function fail(message) {
  process.stderr.write(`bench: ${message}\n`);
  process.exit(USAGE);
}

function parse() {
  try {
    const [string, boolean] = [{ type: 'string' }, { type: 'boolean' }];
    const { values } = parseArgs({
      options: {
        ...{ all: boolean, quick: boolean, only: string, seconds: string, runs: string, baseline: string },
        ...{ jobs: string, size: string, profile: string, help: boolean },
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
  return value > 0 && Number.isFinite(value) ? value : fail(`${what}: ${text} is not a number`);
}

function readBaseline(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    return fail(`--baseline: ${error.message}`);
  }
}

const options = parse();
if (options.help) {
  process.stdout.write(HELP);
  process.exit(0);
}
const { all = false, quick = false } = options;
const names = [...new Set([...Object.keys(SUBJECTS), ...PARTS])];
const only = options.only === undefined ? null : list(options.only, names, 'subject');
const chosen = only?.flatMap((name) => SUBJECTS[name] ?? [name]) ?? (all ? PARTS : GOALS);
const baseline = options.baseline === undefined ? null : readBaseline(options.baseline);
const settings = {
  all,
  quick,
  parts: PARTS.filter((part) => chosen.includes(part)),
  jobs: options.jobs === undefined ? null : list(options.jobs, Object.keys(JOBS), 'job'),
  seconds: number(options.seconds ?? (quick ? 0.5 : 1.5), '--seconds'),
  runs: Math.round(number(options.runs ?? (quick ? 1 : 3), '--runs')),
  rounds: quick ? 3 : 7, // of functions in this process
  drainSeconds: all ? 30 : 8, // how long a mirror may take to catch up before the line is made short
  size: number(options.size ?? (quick ? 128 : 1024), '--size') * 2 ** 20,
};
const scratch = mkdtempSync(join(tmpdir(), 'forelock-bench-'));
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }));
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => process.exit(1));

const programs = findPrograms();
const peers = PEER_NAMES.filter((peer) => peer in programs.found);
const context = {
  ...settings,
  scratch,
  programs: programs.found,
  peers: all ? peers : peers.filter((peer) => peer === 'nbdkit'),
  hasQemuMirror: 'qemu-storage-daemon' in programs.found && 'qemu-nbd' in programs.found,
  profile: options.profile === undefined ? null : resolve(options.profile),
  say: (text) => process.stderr.isTTY && process.stderr.write(`\r\x1b[K${text}`),
};

const begun = performance.now();
const machine = describeMachine(scratch);
console.log(
  `${machine.cpu}, ${machine.cores} cores, ${machine.memoryGiB} GiB, ${machine.kernel}, ${machine.fileSystem}`,
);
console.log(
  `forelock ${machine.forelock} (${machine.commit}), node ${machine.node}, load average ${machine.loadAverage[0]}`,
);
const found = Object.entries(programs.found).map((each) => each.join(' '));
console.log(`found: ${found.join(', ') || 'nothing'}`);
for (const [name, use] of Object.entries(programs.missing)) console.log(`not installed: ${name} (${use})`);
console.log(`rounds: ${settings.runs} of ${settings.seconds} s, volumes of ${settings.size / 2 ** 20} MiB\n`);

const rows = [];
const skipped = {};
const minutesSoFar = () => (performance.now() - begun) / 60_000;
const directory = join(ROOT, 'bench/results', machine.date.slice(0, 19).replaceAll(/[:T]/g, '-'));
mkdirSync(directory, { recursive: true });

/** Writes what there is so far: a run that is stopped has not been for nothing. */
function writeReport() {
  const goals = judge(rows);
  const changes = baseline === null ? [] : compareRuns(rows, baseline.rows);
  const report = { machine, programs, settings, minutes: minutesSoFar(), skipped, goals, rows, changes };
  writeFileSync(join(directory, 'run.json'), `${JSON.stringify(report, null, 1)}\n`);
  writeFileSync(join(directory, 'goals.md'), goalsAsMarkdown(goals));
  writeFileSync(join(directory, 'report.html'), formatPage(report, baseline));
  const pictures = { goals: goalsPicture(goals), throughput: throughputPicture(rows), latency: latencyPicture(rows) };
  for (const [name, picture] of Object.entries(pictures)) {
    if (picture !== null) writeFileSync(join(directory, `${name}.svg`), standalone(picture));
  }
  return report;
}

for (const part of settings.parts) {
  const subject = await import(`./subjects/${part}.js`);
  const lacking = subject.needs.filter((program) => !(program in programs.found));
  const partBegun = minutesSoFar();
  try {
    if (lacking.length > 0) throw new Error(`${lacking.join(', ')} not installed`);
    for await (const row of subject.run(context)) {
      rows.push(row);
      context.say('');
      console.log(`${formatRow(row)}\n`);
    }
    context.say('');
    console.log(`(${part}: ${figure(60 * (minutesSoFar() - partBegun))} s)\n`);
  } catch (error) {
    skipped[part] = error.message;
    context.say('');
    console.log(`${part}: not measured to its end: ${lacking.length > 0 ? error.message : error.stack}\n`);
  }
  writeReport();
}

const { goals, changes, minutes } = writeReport();
console.log(`goals\n${formatGoals(goals)}\n`);
if (baseline !== null) {
  const changed = changes.filter(({ isChanged }) => isChanged);
  const ofAll = `${changed.length} of ${changes.length} results changed`;
  console.log(`beside ${options.baseline} (${baseline.machine.commit}): ${ofAll}`);
  for (const { row, who, before, now, ratio, isBetter } of changed) {
    const both = `${figure(before.median)} → ${figure(now.median)}`;
    console.log(`  ${isBetter ? 'better' : 'WORSE '} ${figure(ratio)}×  ${row}: ${who}: ${both}`);
  }
  console.log('');
}
console.log(`${minutes.toFixed(1)} minutes; written to ${directory}`);
process.exit(Object.keys(skipped).length > 0 ? 1 : 0); // a measured pool may leave idle workers
