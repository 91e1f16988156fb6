/**
 * A group at two sites in a world of faults, then in one without.
 *
 *     SIM_SEED=17 npx vitest run test/sim/group.sim.test.ts                    one seed, with its trace
 *     SIM_FROM=1 SIM_SEEDS=2000 npx vitest run test/sim/group.sim.test.ts      more of them
 *
 * Limits are those of production, divided by 16 and more: so that rings wrap, segments turn and credit runs out within
 * a few hundred writes.
 */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  SEGMENT_SIZE_MIN: 128 * 1024,
  FRAME_SIZE_MAX: 16 * 1024,
  LINK_BUFFER_MAX: 64 * 1024,
  APPEND_SIZE_MAX: 48 * 1024,
  SYNC_BYTES_MAX: 256 * 1024,
  CREDIT_BYTES: 192 * 1024,
  LOCK_WAIT_MS_MAX: 3000,
  LOST_TAIL_WAIT_MS: 700,
}));

import { GroupWorld, type GroupWorldOptions } from './group-world.js';
import { seededRandom } from './memory-store.js';

const hash = await xxhash();

function draw(seed: number, random: () => number): GroupWorldOptions {
  const pick = <T>(...values: T[]): T => values[Math.floor(random() * values.length)]!;
  const mean = (chance: number, least: number, most: number) =>
    random() < chance ? least + random() * (most - least) : Number.POSITIVE_INFINITY;
  const blockSize = pick(4096, 4096, 512, 1024);
  const flat = random() < 0.15;
  const speculation = random() < 0.88 ? 'on' : 'off';
  const volumes = Array.from({ length: pick(1, 1, 2) }, () => ({
    blocks: blockSize === 4096 ? pick(40, 90) : pick(200, 400),
    blockSize,
    platter: flat ? ('flat' as const) : ('journal' as const),
  }));
  return {
    seed,
    kernel: random() < 0.04 ? 'reference' : 'wasm',
    ack: pick('local', 'received', 'applied'),
    speculation,
    whenPeerAway: pick('degrade', 'degrade', 'block', 'fail'),
    volumes,
    segmentSize: 128 * 1024,
    journalSegments: pick(9, 12, 20, 40),
    ringSegments: pick(1, 2, 4),
    poolSealBytes: pick(2048, 16384, 65536, 1_000_000),
    hosts: pick(1, 2, 4, 8),
    operations: (speculation === 'on' ? 150 : 60) + Math.floor(random() * 250),
    writeSizeMax: pick(4096, 16384, 32768),
    flush: pick(0.02, 0.1, 0.2),
    fua: pick(0, 0.05, 0.2),
    trim: pick(0, 0.05),
    zero: pick(0, 0.05),
    read: pick(0.05, 0.2),
    scope: pick(0, 0.03, 0.1),
    partial: pick(0, 0.3),
    thinkMs: pick(1, 8, 40),
    sourceCrashMs: mean(0.5, 100, 3000),
    targetCrashMs: mean(0.5, 100, 3000),
    bothCrashMs: mean(0.3, 200, 3000),
    restartMs: mean(0.3, 200, 3000),
    cutMs: mean(0.5, 50, 2000),
    pauseMs: mean(0.3, 100, 1000),
    diskFullMs: mean(0.2, 200, 3000),
    badDiskMs: mean(0.15, 300, 3000),
    holdMs: mean(0.4, 20, 500),
    kill: pick(0, 0.5, 1),
    downMs: pick(100, 1000, 15_000),
    bitFlip: random() < 0.3 ? random() * 0.1 : 0,
    joinMs: random() < 0.5 ? 0 : random() * 1500,
    delayMax: pick(0.5, 5, 40),
    rate: pick(2000, 20_000, 100_000),
    syncMs: pick(0.5, 5, 20),
  };
}

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
    sum.operations += world.operations;
    sum.records += world.records;
    sum.checks += world.checks;
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
