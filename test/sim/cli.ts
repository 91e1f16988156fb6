/** `npm run sim`: worlds outside of the test runner, many of them at once. `--help` says how. */
import { parseArgs } from 'node:util';
import { drawDual } from './dual-draw.js';
import { draw } from './group-draw.js';
import { writeFailure, writeSummary } from './group-report.js';
import type { Outcome } from './group-seed.js';
import { seededRandom } from './memory-store.js';
import { Runners } from './runners.js';
import { shrink } from './shrink.js';
import type { Changes } from './worker.js';

const HELP = `Runs two sites of a group in worlds of faults: production code on disks that forget, over a line that
breaks, with hosts that remember what they were answered. Every choice is drawn from a seed, so a seed is a
world, and a world that fails can be run again.

  npm run sim -- --seeds 2000               worlds 1 to 2000, on all cores
  npm run sim -- --seeds 500 --from 2001    500 more
  npm run sim -- --seeds 500 --fresh        500 that nobody has seen: the clock says where they begin
  npm run sim -- --dual --seeds 2000        only worlds in which both sites write
  npm run sim -- --one-way --seeds 2000     only worlds in which one does; both go with all that follows, too
  npm run sim -- --seed 17                  one world: what was drawn, what it met
  npm run sim -- --seed 17 --trace          the same, with the events that led to its end
  npm run sim -- --seed 17 --shrink         a smaller world that fails, if this one does
  npm run sim -- --seed 17 --set hosts=1    a world with something other than what was drawn; may be repeated

Every eighth seed is a world in which both sites write, unless it is said which.

A world that fails prints what was drawn, the failure, and the command that runs it again. At the end stands how
many operations were answered, and in which share of the worlds each fault happened: a fault with a small share
proves little. The exit code is 1 when a world failed, 2 when the command is not understood.

Which faults exist: test/sim/group-faults.ts. What is checked: group-checks.ts. How a seed is drawn: group-draw.ts.
Of worlds in which both sites write: dual-faults.ts, dual-checks.ts and dual-truth.ts, dual-draw.ts.
`;

class UsageError extends Error {}

/** Of the worlds in which both sites write: they take ten times as long for an operation. */
const DUAL_EVERY = 8;

interface Command {
  isDual: (seed: number) => boolean;
  seeds: number[];
  single: boolean;
  trace: boolean;
  shrink: boolean;
  changes: Changes;
}

/** @returns null: help was asked for */
function parse(argv: string[]): Command | null {
  const { values } = parseArgs({
    args: argv,
    options: {
      dual: { type: 'boolean' },
      'one-way': { type: 'boolean' },
      seeds: { type: 'string' },
      from: { type: 'string' },
      fresh: { type: 'boolean' },
      seed: { type: 'string' },
      trace: { type: 'boolean' },
      shrink: { type: 'boolean' },
      set: { type: 'string', multiple: true },
      help: { type: 'boolean', short: 'h' },
    },
  });
  if (values.help) return null;
  const count = (name: 'seeds' | 'from' | 'seed', otherwise: number): number => {
    const text = values[name] ?? String(otherwise);
    if (!/^\d{1,9}$/.test(text)) throw new UsageError(`--${name} ${text}: needs a whole number`);
    return Number(text);
  };
  const { dual = false, 'one-way': oneWay = false, fresh = false, trace = false, shrink = false, set = [] } = values;
  if (dual && oneWay) throw new UsageError('--dual and --one-way exclude each other');
  const isDual = (seed: number): boolean => dual || (!oneWay && seed % DUAL_EVERY === 0);
  const single = values.seed !== undefined;
  if (single === (values.seeds !== undefined)) throw new UsageError('needs either --seeds N or --seed N');
  if (!single && (trace || shrink)) throw new UsageError('--trace and --shrink are for one world: --seed N');
  if (single && (fresh || values.from !== undefined)) throw new UsageError('--from and --fresh go with --seeds');
  if (fresh && values.from !== undefined) throw new UsageError('--from and --fresh exclude each other');
  const first = fresh ? Math.floor(Date.now() / 1000) % 1_000_000_000 : count('from', 1);
  const from = single ? count('seed', 1) : first;
  const seeds = Array.from({ length: single ? 1 : count('seeds', 1) }, (_, index) => from + index);
  if (!single && set.length > 0 && !dual && !oneWay) throw new UsageError('--set needs --dual, --one-way or --seed N');
  const changes = Object.assign({}, ...set.map((text) => parseChange(text, isDual(seeds[0] ?? 1))));
  return { isDual, seeds, single, trace, shrink, changes };
}

function parseChange(text: string, dual: boolean): Changes {
  const [, name, value] = /^(\w+)=(.+)$/.exec(text) ?? [];
  const known = (dual ? drawDual : draw)(1, seededRandom(1)) as Changes;
  if (name === undefined || value === undefined || !(name in known)) {
    throw new UsageError(`--set ${text}: needs NAME=VALUE, with a name of ${Object.keys(known).join(', ')}`);
  }
  const sample = known[name as keyof Changes];
  if (typeof sample === 'number' && Number.isNaN(Number(value))) throw new UsageError(`--set ${text}: needs a number`);
  return {
    [name]: typeof sample === 'number' ? Number(value) : typeof sample === 'string' ? value : JSON.parse(value),
  };
}

const print = (text: string): void => {
  process.stdout.write(`${text}\n`);
};

async function main(argv: string[]): Promise<number> {
  const command = parse(argv);
  if (command === null) {
    print(HELP);
    return 0;
  }
  const { isDual, seeds, single, changes } = command;
  const runners = new Runners();
  const began = performance.now();
  const outcomes: Outcome[] = [];
  try {
    await Promise.all(
      seeds.map(async (seed) => {
        const outcome = await runners.run({ seed, dual: isDual(seed), changes });
        outcomes.push(outcome);
        if (outcome.failure !== null) print(writeFailure(outcome, changes, command.trace));
        else if (single)
          print(`drawn ${JSON.stringify(outcome.drawn)}${command.trace ? `\n${outcome.trace.join('\n')}` : ''}`);
        // what is not told any more is not kept: there may be a hundred thousand of them
        outcome.trace = [];
        if (!single && outcomes.length % 100 === 0) {
          process.stderr.write(
            `${outcomes.length} of ${seeds.length} worlds, ${Math.round((performance.now() - began) / 1000)} s\n`,
          );
        }
      }),
    );
    const [first] = outcomes;
    if (command.shrink && first?.failure != null) {
      const seed = first.seed;
      const run = (more: Changes) => runners.run({ seed, dual: isDual(seed), changes: { ...changes, ...more } });
      const { outcome, changes: more, tried } = await shrink(run, first, print);
      print(
        `the smallest of ${tried} worlds that were tried:\n${writeFailure(outcome, { ...changes, ...more }, command.trace)}`,
      );
    }
  } finally {
    runners.close();
  }
  print(writeSummary(outcomes, performance.now() - began, runners.count));
  return outcomes.some((outcome) => outcome.failure !== null) ? 1 : 0;
}

main(process.argv.slice(2)).then(
  (code) => {
    process.exitCode = code;
  },
  (error: Error & { code?: string }) => {
    const usage = error instanceof UsageError || error.code?.startsWith('ERR_PARSE_ARGS') === true;
    process.stderr.write(usage ? `${error.message}\nnpm run sim -- --help says more\n` : `${error.stack}\n`);
    process.exitCode = usage ? 2 : 1;
  },
);
