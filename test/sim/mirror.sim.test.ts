/**
 * The two ends of a stream in a world of faults: first a phase in which anything may fail (safety), then one without
 * faults that must come to an end (liveness). Both are bounded in ticks.
 *
 *     MIRROR_SIM_SEED=17 npx vitest run test/sim/mirror.sim.test.ts     one seed, to look at
 *     MIRROR_SIM_SEEDS=100000 …                                         more of them
 */
import { expect, test } from 'vitest';
import { runMirrorSeed } from './mirror-seed.js';

test('whatever fails, the target is a prefix of the source, and catches up when nothing fails', () => {
  const met: Record<string, number> = {};
  const only = process.env.MIRROR_SIM_SEED;
  const seeds = only === undefined ? Number(process.env.MIRROR_SIM_SEEDS ?? 300) : 1;
  for (let index = 0; index < seeds; index += 1) {
    const each = runMirrorSeed(only === undefined ? index + 1 : Number(only));
    for (const [what, count] of Object.entries(each)) met[what] = (met[what] ?? 0) + count;
  }
  if (only !== undefined) return;
  // the world must have met what it is there for
  for (const what of [
    ...['row 2', 'row 3', 'row 6', 'row 7', 'row 9', 'row 10', 'cut', 'source crash', 'target crash', 'wipe', 'mint'],
    ...['tail returned', 'duplicate', 'drop duplicate', 'drop old epoch', 'drop old attempt', 'target nak'],
    ...['source rewound', 'source consistent', 'target consistent', 'source rejected', 'source granted', 'wait'],
    ...['locker held', 'locker timedOut', 'locker evicted', 'halted', 'rewound', 'target dropped'],
    ...['dropped, come again and granted', 'dropped, and back after a crash'],
  ]) {
    expect(met[what] ?? 0, what).toBeGreaterThan(0);
  }
});
