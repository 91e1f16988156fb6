/**
 * Worlds of one simulator, one after the other until one fails: `worlds.js "group worlds" [1,2,3]`. Standard output gets a
 * line of JSON before each world, so that a process which dies of it has said which one it was, and one at the end.
 */
import { register } from 'node:module';
import { seededRandom } from '../sim/memory-store.js';
import { SIMULATORS, type Simulator } from './mutant.js';

export type Line = { seed: number } | { failure: string | null; operations: number };

interface World {
  failure: string | null;
  operations: number;
}

async function runner(simulator: Simulator): Promise<(seed: number) => World | Promise<World>> {
  if (simulator === 'group worlds' || simulator === 'dual worlds') {
    register('../sim/small-limits-hook.js', import.meta.url);
    const { runSeed } = await import('../sim/group-seed.js');
    const { runDualSeed } = await import('../sim/dual-seed.js');
    const run = simulator === 'group worlds' ? runSeed : runDualSeed;
    return async (seed) => {
      const { failure, operations } = await run(seed);
      return { failure: failure?.message ?? null, operations };
    };
  }
  const { runMirrorSeed } = await import('../sim/mirror-seed.js');
  const { drawWorld } = await import('../sim/dual-model.js');
  return (seed) => {
    let failure: string | null = null;
    try {
      if (simulator === 'mirror world') runMirrorSeed(seed);
      else drawWorld(seededRandom(seed)).run();
    } catch (error) {
      failure = (error as Error).message;
    }
    return { failure, operations: 0 };
  };
}

const say = (line: Line): void => {
  process.stdout.write(`${JSON.stringify(line)}\n`);
};

const [name, seeds] = process.argv.slice(2);
const simulator = SIMULATORS.find((each) => each === name);
if (simulator !== undefined) {
  const run = await runner(simulator);
  let failure: string | null = null;
  let operations = 0;
  for (const seed of JSON.parse(seeds!) as number[]) {
    say({ seed });
    const world = await run(seed);
    failure = world.failure;
    operations += world.operations;
    if (failure !== null) break;
  }
  say({ failure, operations });
}
