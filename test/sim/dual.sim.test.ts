/**
 * Both sites write in a world of faults, then in one without: forty worlds, with a fourth of their operations.
 * `npm run sim -- --dual` runs them in full, and more of them.
 */
import { expect, test, vi } from 'vitest';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  ...(await import('./small-limits.js')).SMALL_LIMITS,
}));

import { drawDual } from './dual-draw.js';
import { runDualSeed } from './dual-seed.js';
import { writeFailure } from './group-report.js';
import { seededRandom } from './memory-store.js';

const SEEDS = 40;

test('whoever is cut off or killed: both images become one serial order, and nothing promised is lost', async () => {
  const counts: Record<string, number> = {};
  for (let seed = 1; seed <= SEEDS; seed += 1) {
    const changes = { operations: Math.ceil(drawDual(seed, seededRandom(seed)).operations / 4) };
    const outcome = await runDualSeed(seed, changes);
    if (outcome.failure !== null) throw new Error(writeFailure(outcome, changes, false));
    for (const [what, count] of Object.entries(outcome.counts)) counts[what] = (counts[what] ?? 0) + count;
  }
  for (const what of [
    'replay lost to replay',
    'abort scope killed',
    'cascade',
    'masked',
    'tail returned',
    'frozen',
    'thawed',
    'failed read',
  ])
    expect(counts[what], what).toBeGreaterThan(0);
}, 240_000);
