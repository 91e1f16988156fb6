/** `npm run mutants`: breaks the production code, one place at a time, and counts who notices. `--help` says how. */
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import { Bench, type Finding, type WorldsFinding } from './bench.js';
import { type Mutant, type Simulator, simulatorsOf, testsOf } from './mutant.js';
import { MUTANTS } from './table.js';

const HELP = `Breaks the production code on purpose, one place at a time, in a copy of the tree. Each of these mutants is
given to the ordinary tests about its file, and to the fastest simulator that runs its code, by seeds until a world
fails; to a slower one if nobody noticed so far.

  npm run mutants                          all of them; most of an hour on two cores
  npm run mutants -- --list                their names, and what each breaks
  npm run mutants -- --only NAME           one, with what noticed it; may be repeated; NAME* is all that begin so
  npm run mutants -- --seeds 100           more worlds for those that nobody notices (20 of the group, 5 times as many
                                           of the mirror's, 50 times as many of the dual model)
  npm run mutants -- --jobs 1              so many at once (else one for each core)

A row tells whether a test noticed, and which seed did, after how many answered host operations and seconds. A mutant
that survives needs a test or a better simulator; or a reason why it is harmless, in test/mutants/table.ts, and then it
has to survive. The exit code is 1 when one survived without a reason, was noticed in spite of one, or could not be
made; 2 when the command is not understood.
`;

/** Worlds of each simulator for one of --seeds: they take about as long. */
const WORLDS: Record<Simulator, number> = { 'dual model': 50, 'mirror world': 5, 'group worlds': 1 };

const WIDTH = Math.max(...MUTANTS.map(({ name }) => name.length));

class UsageError extends Error {}

interface Command {
  mutants: Mutant[];
  seeds: number;
  jobs: number;
  list: boolean;
}

/** @returns null: help was asked for */
function parse(argv: string[]): Command | null {
  const { values } = parseArgs({
    args: argv,
    options: {
      only: { type: 'string', multiple: true },
      seeds: { type: 'string', default: '20' },
      jobs: { type: 'string', default: String(availableParallelism()) },
      list: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h' },
    },
  });
  if (values.help) return null;
  const count = (name: 'seeds' | 'jobs'): number => {
    if (!/^[1-9]\d{0,6}$/.test(values[name])) throw new UsageError(`--${name} ${values[name]}: needs a whole number`);
    return Number(values[name]);
  };
  const chosen = values.only?.flatMap((wanted) => {
    const begin = wanted.endsWith('*') ? wanted.slice(0, -1) : null;
    const found = MUTANTS.filter(({ name }) => (begin === null ? name === wanted : name.startsWith(begin)));
    if (found.length === 0) throw new UsageError(`--only ${wanted}: there is none of this name`);
    return found;
  });
  return { mutants: chosen ?? [...MUTANTS], seeds: count('seeds'), jobs: count('jobs'), list: values.list };
}

const print = (text: string): void => {
  process.stdout.write(`${text}\n`);
};

interface Verdict {
  tests: Finding;
  /** Of the last simulator that was asked: the one that noticed, if any did. */
  worlds: WorldsFinding;
}

async function examine(bench: Bench, mutant: Mutant, seeds: number): Promise<Verdict> {
  const tests = await bench.tests(testsOf(mutant.file));
  const [first, ...slower] = simulatorsOf(mutant.file);
  let worlds = await bench.worlds(first!, seeds * WORLDS[first!]);
  for (const simulator of slower) {
    if (worlds.caught || tests.caught) break;
    worlds = await bench.worlds(simulator, seeds * WORLDS[simulator]);
  }
  return { tests, worlds };
}

/** What is noticed in a tree where nothing is broken says nothing about mutants. */
async function checkTree(bench: Bench, mutants: readonly Mutant[]): Promise<void> {
  const files = new Set(mutants.flatMap(({ file }) => testsOf(file)));
  await bench.with(null, async () => {
    const findings: Finding[] = [await bench.tests([...files])];
    for (const simulator of new Set(mutants.flatMap(({ file }) => simulatorsOf(file)))) {
      findings.push(await bench.worlds(simulator, WORLDS[simulator]));
    }
    for (const { caught, by } of findings) if (caught) throw new Error(`the tree fails as it is: ${by}`);
  });
}

function writeRow({ name, harmless }: Mutant, { tests, worlds }: Verdict): string {
  const seconds = (finding: Finding): string => `${finding.seconds.toFixed(1)} s`;
  const operations = worlds.operations === 0 ? '' : `, ${worlds.operations} operations`;
  const columns = [
    name.padEnd(WIDTH),
    (tests.caught ? `test ${seconds(tests)}` : '-').padEnd(13),
    worlds.caught ? `${worlds.simulator}, seed ${worlds.seed}${operations}, ${seconds(worlds)}` : '-',
    tests.caught || worlds.caught ? '' : harmless === undefined ? '  SURVIVED' : '  harmless',
  ];
  return columns.join(' ').trimEnd();
}

async function main(argv: string[]): Promise<number> {
  const command = parse(argv);
  if (command === null) {
    print(HELP);
    return 0;
  }
  const { mutants, seeds, jobs, list } = command;
  if (list) {
    for (const { name, file, breaks } of mutants) print(`${name.padEnd(WIDTH)} ${file.padEnd(26)} ${breaks}`);
    return 0;
  }
  const benches = Array.from({ length: Math.min(jobs, mutants.length) }, () => new Bench());
  const close = (): void => {
    for (const bench of benches) bench.close();
  };
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      close();
      process.exit(130);
    });
  }
  const verdicts = new Map<Mutant, Verdict>();
  const wrong: string[] = [];
  try {
    await checkTree(benches[0]!, mutants);
    const left = [...mutants];
    print(`${'mutant'.padEnd(WIDTH)} ${'tests'.padEnd(13)} simulator, the seed that noticed`);
    await Promise.all(
      benches.map(async (bench) => {
        for (let mutant = left.shift(); mutant !== undefined; mutant = left.shift()) {
          const each = mutant;
          try {
            await bench.with(each, async () => {
              const verdict = await examine(bench, each, seeds);
              verdicts.set(each, verdict);
              print(writeRow(each, verdict));
              if (mutants.length > 3) return;
              for (const { caught, by } of [verdict.tests, verdict.worlds]) if (caught) print(`    ${by}`);
            });
          } catch (error) {
            wrong.push((error as Error).message);
          }
        }
      }),
    );
  } finally {
    close();
  }
  const share = (of: (verdict: Verdict) => boolean): string => {
    const count = [...verdicts.values()].filter(of).length;
    return `${count} (${((100 * count) / verdicts.size).toFixed(0)} %)`;
  };
  const isCaught = ({ tests, worlds }: Verdict): boolean => tests.caught || worlds.caught;
  print(
    `\n${verdicts.size} mutants: tests noticed ${share(({ tests }) => tests.caught)}, ` +
      `simulators ${share(({ worlds }) => worlds.caught)}, together ${share(isCaught)}`,
  );
  for (const [{ name, breaks, harmless }, verdict] of verdicts) {
    if (harmless !== undefined && !isCaught(verdict)) print(`harmless: ${name}: ${harmless}`);
    else if (harmless !== undefined) wrong.push(`${name} was noticed, and is said to be harmless: ${harmless}`);
    else if (!isCaught(verdict)) wrong.push(`${name} survived: ${breaks}`);
  }
  for (const each of wrong) print(each);
  return wrong.length > 0 ? 1 : 0;
}

main(process.argv.slice(2)).then(
  (code) => {
    process.exitCode = code;
  },
  (error: Error & { code?: string }) => {
    const usage = error instanceof UsageError || error.code?.startsWith('ERR_PARSE_ARGS') === true;
    process.stderr.write(usage ? `${error.message}\nnpm run mutants -- --help says more\n` : `${error.stack}\n`);
    process.exitCode = usage ? 2 : 1;
  },
);
