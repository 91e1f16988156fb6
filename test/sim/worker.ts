/** A process that runs worlds: a seed comes in, its outcome goes out. */
import { register } from 'node:module';
import type { DualWorldOptions } from './dual-draw.js';
import type { GroupWorldOptions } from './group-draw.js';

register('./small-limits-hook.js', import.meta.url);
const { runSeed } = await import('./group-seed.js');
const { runDualSeed } = await import('./dual-seed.js');

export type Changes = Partial<GroupWorldOptions & Omit<DualWorldOptions, 'volumes'>>;

export interface Job {
  seed: number;
  /** Both sites write. */
  dual: boolean;
  changes: Changes;
}

process.on('message', async ({ seed, dual, changes }: Job) => {
  process.send!(await (dual ? runDualSeed : runSeed)(seed, changes));
});
