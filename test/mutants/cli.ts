/** `npm run mutants`: breaks the production code, one place at a time, and counts who notices. `--help` says how. */
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import { Bench, Control, type Finding, type TestsFinding, type WorldsFinding } from './bench.js';
import { type Mutant, SIMULATORS, type Simulator, simulatorsOf, testsOf } from './mutant.js';
import { MUTANTS } from './table.js';
import { isCaught, type Verdict, Verdicts } from './verdicts.js';

const HELP = `Breaks the production code on purpose, one place at a time, in a copy of the tree. Each of these mutants is
given to the ordinary tests about its file, and to the fastest simulator that runs its code, by seeds until a world
fails; to a slower one if nobody noticed so far. What also fails with nothing broken does not count.

  npm run mutants                          all of them; most of an hour on two cores
  npm run mutants -- --results FILE        keeps each verdict in FILE as it comes. A second run with the same FILE goes on
                                           where the first was stopped: a mutant that was noticed is not run again until
                                           its file has changed, and is then given first to who noticed it the last time
  npm run mutants -- --list                their names, and what each breaks
  npm run mutants -- --only NAME           one, with what noticed it; may be repeated; NAME* is all that begin so
  npm run mutants -- --seeds 100           more worlds for those that nobody notices (20 of the group and of both sites, 5
                                           times as many of the mirror's, 50 times as many of the dual model)
  npm run mutants -- --jobs 1              so many at once (else one for each core)

A row tells whether a test noticed, and which seed did, after how many answered host operations and seconds. A mutant
that survives needs a test or a better simulator; or a reason why it is harmless, in test/mutants/table.ts, and then it
has to survive. The exit code is 1 when one survived without a reason, was noticed in spite of one, or could not be
made, or something failed with nothing broken; 2 when the command is not understood.
`;

/** Worlds of each simulator for one of --seeds: they take about as long. */
const WORLDS: Record<Simulator, number> = { 'dual model': 50, 'mirror world': 5, 'group worlds': 1, 'dual worlds': 1 };

const WIDTH = Math.max(...MUTANTS.map(({ name }) => name.length));

class UsageError extends Error {}

interface Command {
  mutants: Mutant[];
  seeds: number;
  jobs: number;
  list: boolean;
  results: string | null;
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
      results: { type: 'string' },
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
  return {
    mutants: chosen ?? [...MUTANTS],
    seeds: count('seeds'),
    jobs: count('jobs'),
    list: values.list,
    results: values.results ?? null,
  };
}

const print = (text: string): void => {
  process.stdout.write(`${text}\n`);
};

class Examiner {
  readonly #control: Control;
  readonly #seeds: number;

  constructor(control: Control, seeds: number) {
    this.#control = control;
    this.#seeds = seeds;
  }

  /** @param last who noticed it then is asked first */
  async examine(bench: Bench, mutant: Mutant, last: Verdict | null): Promise<Verdict> {
    const tests = await this.#tests(bench, testsOf(mutant), last?.tests.file ?? '');
    const [first, ...slower] = simulatorsOf(mutant.file).sort((a, b) => rank(a, last) - rank(b, last));
    let worlds = await this.#worlds(bench, first!, last);
    for (const simulator of slower) {
      if (worlds.caught || tests.caught) break;
      worlds = await this.#worlds(bench, simulator, last);
    }
    return { tests, worlds };
  }

  async #tests(bench: Bench, files: string[], first: string): Promise<TestsFinding> {
    let seconds = 0;
    const isFirst = (file: string): boolean => file === first;
    for (let left of [files.filter(isFirst), files.filter((file) => !isFirst(file))]) {
      for (;;) {
        const found = await bench.tests(left);
        seconds += found.seconds;
        if (!found.caught) break;
        if (!(await this.#control.failsTest(found.file))) return { ...found, seconds };
        left = left.filter((file) => file !== found.file);
      }
    }
    return { caught: false, by: '', seconds, file: '' };
  }

  async #worlds(bench: Bench, simulator: Simulator, last: Verdict | null): Promise<WorldsFinding> {
    let left = Array.from({ length: this.#seeds * WORLDS[simulator] }, (_, index) => index + 1);
    if (last?.worlds.caught && last.worlds.simulator === simulator) {
      const { seed } = last.worlds;
      left = [seed, ...left.filter((each) => each !== seed)];
    }
    let seconds = 0;
    let operations = 0;
    for (;;) {
      const found = await bench.worlds(simulator, left);
      seconds += found.seconds;
      operations += found.operations;
      if (!found.caught || !(await this.#control.failsWorld(simulator, found.seed))) {
        return { ...found, seconds, operations };
      }
      left = left.slice(left.indexOf(found.seed) + 1);
    }
  }
}

/** The simulator that noticed it the last time is the first, the others stay as they are. */
const rank = (simulator: Simulator, last: Verdict | null): number =>
  last?.worlds.caught && last.worlds.simulator === simulator ? -1 : SIMULATORS.indexOf(simulator);

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
  const { mutants, seeds, jobs, list, results } = command;
  if (list) {
    for (const { name, file, breaks } of mutants) print(`${name.padEnd(WIDTH)} ${file.padEnd(26)} ${breaks}`);
    return 0;
  }
  const known = new Verdicts(results, mutants);
  const verdicts = new Map<Mutant, Verdict>();
  const wrong: string[] = [];
  const left: Mutant[] = [];
  for (const mutant of mutants) {
    const verdict = known.of(mutant);
    if (verdict === null) left.push(mutant);
    else verdicts.set(mutant, verdict);
  }
  left.sort((a, b) => Number(known.last(a) !== null) - Number(known.last(b) !== null)); // the new ones first
  print(`${'mutant'.padEnd(WIDTH)} ${'tests'.padEnd(13)} simulator, the seed that noticed`);
  for (const [mutant, verdict] of verdicts) print(writeRow(mutant, verdict));
  const began = performance.now();
  const count = left.length;
  if (count > 0) {
    const control = new Control();
    const benches = Array.from({ length: Math.min(jobs, count) }, () => new Bench());
    const close = (): void => {
      for (const each of [control, ...benches]) each.close();
    };
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      process.once(signal, () => {
        close();
        process.exit(130);
      });
    }
    const examiner = new Examiner(control, seeds);
    const work = async (bench: Bench): Promise<void> => {
      for (let mutant = left.shift(); mutant !== undefined; mutant = left.shift()) {
        const each = mutant;
        try {
          await bench.with(each, async () => {
            const verdict = await examiner.examine(bench, each, known.last(each));
            known.add(each, verdict);
            verdicts.set(each, verdict);
            print(writeRow(each, verdict));
            if (mutants.length > 3) return;
            for (const { caught, by } of [verdict.tests, verdict.worlds]) if (caught) print(`    ${by}`);
          });
        } catch (error) {
          wrong.push((error as Error).message);
        }
      }
    };
    try {
      await Promise.all(benches.map(work));
      for (const name of await control.failed()) wrong.push(`${name} fails with nothing broken`);
    } finally {
      close();
    }
  }
  const share = (of: (verdict: Verdict) => boolean): string => {
    const those = [...verdicts.values()].filter(of).length;
    return `${those} (${((100 * those) / verdicts.size).toFixed(0)} %)`;
  };
  print(
    `\n${verdicts.size} mutants: tests noticed ${share(({ tests }) => tests.caught)}, ` +
      `simulators ${share(({ worlds }) => worlds.caught)}, together ${share(isCaught)}; ` +
      `${count} of them were run now, in ${Math.round((performance.now() - began) / 1000)} s`,
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
