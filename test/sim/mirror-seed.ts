/** The two ends of a stream in the world of one seed: what is drawn, its two phases, and what it met. */
import { createKernel } from '../../src/kernel/create.js';
import { GroupMemory } from '../../src/kernel/memory.js';
import { REJECT_POLICIES } from '../../src/mirror/wire.js';
import { lockTableSize } from '../../src/volume/locks.js';
import { seededRandom } from './memory-store.js';
import { CALM, World, type WorldOptions } from './mirror-world.js';

const SAFETY_TICKS = 700;
const LIVENESS_TICKS = 20_000;

const memory = new GroupMemory(4096);
const kernel = createKernel('reference', memory);
const source = memory.take(lockTableSize(48, 0)).at;
const target = memory.take(lockTableSize(48, 0)).at;
const tables = { source, target, clear: () => memory.bytes.fill(0, source, source + 4096 - 64) };

function draw(random: () => number): WorldOptions {
  const rate = (most: number) => (random() < 0.4 ? 0 : random() * most);
  return {
    speculation: random() < 0.8 ? 'on' : 'off',
    adopted: random() < 0.5,
    cut: rate(0.03),
    sourceCrash: rate(0.01),
    targetCrash: rate(0.01),
    wipe: rate(0.004),
    bitFlip: rate(0.1),
    duplicate: rate(0.2),
    stale: rate(0.01),
    mint: random(),
    lockers: rate(0.5),
    creditBytes: 500 + Math.floor(random() * 20_000),
    delayMax: 1 + Math.floor(random() * 12),
    leaseMs: 20 + Math.floor(random() * 60),
    onReject: REJECT_POLICIES[Math.floor(random() * 3)],
  };
}

/** @returns what the seed met */
export function runMirrorSeed(seed: number): Record<string, number> {
  const random = seededRandom(seed);
  const options = draw(random);
  let world: World | null = null;
  try {
    world = new World(random, options, kernel, tables);
    for (let tick = 0; tick < SAFETY_TICKS; tick += 1) world.tick();
    world.options = { ...options, ...CALM };
    if (world.serving) world.quiesce();
    let ticks = 0;
    for (world.tick(); !world.settled(); world.tick()) {
      if (world.serving) world.hosts = () => {};
      if (world.serving && world.scopes.length > 0) world.quiesce();
      ticks += 1;
      if (ticks > LIVENESS_TICKS) throw new Error(`not settled after ${ticks} ticks without faults`);
    }
    world.checkImage();
    if (world.target.applied !== world.log.length) throw new Error('settled, but not everything is applied');
    return world.met;
  } catch (error) {
    const at = world === null ? '' : ` at tick ${world.now}, having met ${JSON.stringify(world.met)}`;
    throw new Error(`seed ${seed}${at}, options ${JSON.stringify(options)}: ${(error as Error).message}`, {
      cause: error,
    });
  }
}
