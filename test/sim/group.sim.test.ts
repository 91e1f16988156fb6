/**
 * A group at two sites in a world of faults, then in one without.
 *
 *     SIM_SEED=17 npx vitest run test/sim/group.sim.test.ts                    one seed, with its trace
 *     SIM_FROM=1 SIM_SEEDS=2000 npx vitest run test/sim/group.sim.test.ts      more of them
 */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  ...(await import('./small-limits.js')).SMALL_LIMITS,
}));

import { draw } from './group-draw.js';
import { GroupWorld } from './group-world.js';
import { seededRandom } from './memory-store.js';

const hash = await xxhash();

const single = process.env.SIM_SEED;
const from = Number(single ?? process.env.SIM_FROM ?? 1);
const seeds = single !== undefined ? 1 : Number(process.env.SIM_SEEDS ?? 200);

test('whatever fails: nothing flushed is lost, the target is a prefix of the source, and both end equal', async () => {
  const counts: Record<string, number> = {};
  const sum = { operations: 0, records: 0, checks: 0, steps: 0, slow: [] as string[], failed: [] as string[] };
  const keepGoing = process.env.SIM_KEEP_GOING !== undefined;
  for (let seed = from; seed < from + seeds; seed += 1) {
    const random = seededRandom(seed);
    const drawn = draw(seed, random);
    const world = new GroupWorld(drawn, random, hash);
    const began = performance.now();
    try {
      await world.run();
    } catch (error) {
      const { message, stack } = error as Error;
      const trace = single === undefined ? '' : `\n${world.trace.join('\n')}`;
      const report = `seed ${seed} at ${world.scheduler.now} ms, drawn ${JSON.stringify(drawn)}:\n${message}${trace}`;
      if (!keepGoing) throw new Error(report, { cause: error });
      sum.failed.push(
        `${seed}: ${message.slice(0, 230)} ${stack?.split('\n').find((line) => /src\//.test(line)) ?? ''}`,
      );
    }
    if (performance.now() - began > 5000) sum.slow.push(`${seed}: ${Math.round(performance.now() - began)} ms`);
    for (const [what, count] of Object.entries(world.counts)) counts[what] = (counts[what] ?? 0) + count;
    sum.operations += world.hosts.operations;
    sum.records += world.records;
    sum.checks += world.checks.count;
    sum.steps += world.scheduler.steps;
  }
  if (single !== undefined || process.env.SIM_REPORT !== undefined) {
    const sorted = Object.fromEntries(Object.entries(counts).sort(([a], [b]) => (a < b ? -1 : 1)));
    process.stderr.write(`${JSON.stringify(sorted)}\n${JSON.stringify(sum, null, 1)}\n`);
  }
  expect(sum.failed).toEqual([]);
  if (seeds < 200) return;
  // the world must have met what it is there for
  for (const what of [
    ...['alpha power cut', 'alpha killed', 'beta power cut', 'beta killed', 'alpha stopped', 'beta stopped', 'cut'],
    ...['alpha disk full', 'beta disk full', 'alpha journal failed', 'bit flip', 'slow line', 'held at the target'],
    ...['row 2', 'row 3', 'row 6', 'row 7', 'row 9', 'row 10', 'tail returned', 'source lost a tail', 'minted'],
    ...['target crash in the first copy', 'rewinds', 'rejections', 'evicted', 'lowered answer', 'room waits', 'stalls'],
    ...['alpha segments freed', 'beta segments freed', 'alpha blocks moved', 'alpha checkpoints', 'beta checkpoints'],
    ...['read back from segments', 'sealed in the pool', 'rounds of writeback', 'fua write', 'scope', 'trim', 'zero'],
  ]) {
    expect(counts[what] ?? 0, what).toBeGreaterThan(0);
  }
}, 3_600_000);
