/**
 * Both sites at once, in worlds drawn from seeds.
 *
 *     DUAL_SEED=17 npx vitest run test/sim/dual-model.test.ts                      one world, with its trace
 *     DUAL_FROM=1 DUAL_WORLDS=20000 npx vitest run test/sim/dual-model.test.ts     more of them
 */
import { expect, test } from 'vitest';
import { drawWorld } from './dual-model.js';
import { seededRandom } from './memory-store.js';

const one = process.env.DUAL_SEED;
const from = Number(one ?? process.env.DUAL_FROM ?? 1);
const worlds = one === undefined ? Number(process.env.DUAL_WORLDS ?? 600) : 1;

test(`${worlds} worlds from seed ${from} keep the rule`, () => {
  const met = new Map<string, number>();
  for (let seed = from; seed < from + worlds; seed++) {
    const world = drawWorld(seededRandom(seed));
    try {
      world.run();
    } catch (error) {
      throw new Error(`DUAL_SEED=${seed}: ${(error as Error).message}\n${world.trace.join('; ')}`, { cause: error });
    }
    for (const [what, count] of Object.entries(world.met)) met.set(what, (met.get(what) ?? 0) + count);
  }
  // a model in which nothing happens would pass too
  if (worlds >= 600) for (const [what, count] of met) expect(count, what).toBeGreaterThan(20);
}, 300_000);
