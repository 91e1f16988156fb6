/** Runs the dual world of one seed, and says what came of it. */
import xxhash from 'xxhash-wasm';
import { type DualWorldOptions, drawDual } from './dual-draw.js';
import { DualWorld } from './dual-world.js';
import type { Outcome } from './group-seed.js';
import { seededRandom } from './memory-store.js';

const hash = await xxhash();

/** @param changes options that are not as drawn; the rest of the world is drawn as if they were */
export async function runDualSeed(seed: number, changes: Partial<DualWorldOptions> = {}): Promise<Outcome> {
  const random = seededRandom(seed);
  const began = process.cpuUsage();
  const drawn = { ...drawDual(seed, random), ...changes };
  const world = new DualWorld(drawn, random, hash);
  let failure: Outcome['failure'] = null;
  try {
    await world.run();
  } catch (error) {
    const { message, stack } = error as Error;
    failure = { message, stack: stack ?? '', atMs: world.scheduler.now };
  }
  const { user, system } = process.cpuUsage(began);
  return {
    seed,
    drawn,
    failure,
    trace: world.trace,
    counts: world.counts,
    operations: world.answered,
    records: world.truth.records,
    checks: world.checks.count,
    steps: world.scheduler.steps,
    cpuMs: (user + system) / 1000,
  };
}
