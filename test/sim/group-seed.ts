/** Runs the world of one seed, and says what came of it. */
import xxhash from 'xxhash-wasm';
import type { DualWorldOptions } from './dual-draw.js';
import { draw, type GroupWorldOptions } from './group-draw.js';
import { GroupWorld } from './group-world.js';
import { seededRandom } from './memory-store.js';

/** Plain data: it goes from one process to another. */
export interface Outcome {
  seed: number;
  drawn: GroupWorldOptions | DualWorldOptions;
  /** Null: everything held. */
  failure: { message: string; stack: string; atMs: number } | null;
  trace: string[];
  counts: Record<string, number>;
  /** Host operations that were answered. */
  operations: number;
  records: number;
  checks: number;
  steps: number;
  /** What it took of the processor: the wall clock tells as much of what else was running. */
  cpuMs: number;
}

const hash = await xxhash();

/** @param changes options that are not as drawn; the rest of the world is drawn as if they were */
export async function runSeed(seed: number, changes: Partial<GroupWorldOptions> = {}): Promise<Outcome> {
  const began = process.cpuUsage();
  const random = seededRandom(seed);
  const drawn = { ...draw(seed, random), ...changes };
  const world = new GroupWorld(drawn, random, hash);
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
    operations: world.hosts.answered,
    records: world.history.length,
    checks: world.checks.count,
    steps: world.scheduler.steps,
    cpuMs: (user + system) / 1000,
  };
}
