/**
 * Chaos: real gateways in worlds drawn from a seed, in every role and policy, with faults that overlap (world.ts says what
 * must hold). A short one here; `npm run chaos -- --minutes N [--seed S]` goes on for N minutes. A world that fails is had
 * again by its seed.
 */
import { afterEach, beforeEach, describe, test } from 'vitest';
import { Room } from '../gateway-process.js';
import { canMount, requireTools } from '../tools.js';
import { drawWorld } from './plan.js';
import { World } from './world.js';

const minutes = Number(process.env.FORELOCK_CHAOS_MINUTES ?? 0);
/** The same worlds in every run of the suite; `npm run chaos` draws others. */
const SUITE_SEED = 301;
const firstSeed = Number(process.env.FORELOCK_SEED ?? (minutes > 0 ? Math.floor(Math.random() * 2 ** 31) : SUITE_SEED));
const ROUNDS = minutes > 0 ? 5 : 2;
/** One of each shape. */
const WORLDS_LEAST = 2;
const WORLD_MS_MAX = 240_000;

let room: Room;
beforeEach(async () => {
  room = await Room.open();
});
afterEach(() => room.close());

const isLong = minutes > 0;
describe.skipIf(!requireTools(['gcc', 'mount', 'fallocate']))('chaos', () => {
  const end = Date.now() + minutes * 60_000;
  const timeout = isLong ? minutes * 60_000 + WORLD_MS_MAX : WORLD_MS_MAX;
  test(`seeds from ${firstSeed}`, { timeout }, async () => {
    const mounts = await canMount();
    for (let seed = firstSeed, worlds = 0; worlds < WORLDS_LEAST || Date.now() < end; seed += 1, worlds += 1) {
      const plan = drawWorld(seed, ROUNDS, mounts);
      const { rounds, ...world } = plan;
      const lines = [`chaos: world ${JSON.stringify(world)}`];
      const say = (text: string) => {
        lines.push(text);
        if (isLong) process.stderr.write(`${text}\n`);
      };
      if (isLong) process.stderr.write(`${lines[0]}\n`);
      try {
        const opened = await World.open(plan, room, say);
        for (const [index, faults] of rounds.entries()) await opened.round(index + 1, faults);
        process.stderr.write(`chaos: seed ${seed}: ${opened.tally}\n`);
      } catch (error) {
        throw new Error(`${lines.join('\n')}\n${(error as Error).message}`, { cause: error });
      }
      await room.close();
      room = await Room.open();
    }
  });
});
