/** Both sites of a quiet world, up and together: where a story begins. */
import xxhash from 'xxhash-wasm';
import { DUAL_QUIET, type DualWorldOptions } from './dual-draw.js';
import { DualWorld } from './dual-world.js';
import { seededRandom } from './memory-store.js';

const hash = await xxhash();

export async function startBoth(options: Partial<DualWorldOptions> = {}, seed = 1): Promise<DualWorld> {
  const world = new DualWorld({ ...DUAL_QUIET, ...options }, seededRandom(seed), hash);
  for (const site of world.sites) site.open();
  await world.until(() => world.settled(), 20_000, 'the sites do not find together');
  return world;
}
