/** A process that runs worlds: a seed comes in, its outcome goes out. */
import { register } from 'node:module';
import type { GroupWorldOptions } from './group-draw.js';

register('./small-limits-hook.js', import.meta.url);
const { runSeed } = await import('./group-seed.js');

export interface Job {
  seed: number;
  changes: Partial<GroupWorldOptions>;
}

process.on('message', async ({ seed, changes }: Job) => {
  process.send!(await runSeed(seed, changes));
});
