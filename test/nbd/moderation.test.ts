import { describe, expect, test } from 'vitest';
import { NAP_MS_MAX } from '../../src/frontend/nbd/limits.js';
import { Moderation } from '../../src/frontend/nbd/moderation.js';

function start(napMs = 0.05) {
  const world = { nowMs: 1000, naps: 0, napMs, isQuiet: true, looked: 0 };
  const tasks: (() => void)[] = [];
  const moderation = new Moderation(
    {
      nowMs: () => world.nowMs,
      defer: (task) => tasks.push(task),
      nap: () => {
        world.naps += 1;
        world.nowMs += world.napMs;
      },
    },
    () => world.isQuiet,
  );
  const look = (): void => {
    world.looked += 1;
  };
  /** The rest of a turn. */
  const turn = (): void => {
    for (const task of tasks.splice(0)) task();
  };
  return { world, moderation, look, turn, tasks };
}

describe('moderation', () => {
  test('who waits is called at the end of the next turn, once', () => {
    const { world, moderation, look, turn, tasks } = start();
    moderation.wait(look, true);
    turn();
    expect(world.looked).toBe(0);
    turn();
    expect(world.looked).toBe(1);
    turn();
    expect([world.looked, world.naps, tasks.length]).toEqual([1, 1, 0]);
  });

  test('all who wait share a turn and a nap', () => {
    const { world, moderation, look, turn } = start();
    for (let i = 0; i < 3; i += 1) moderation.wait(look, true);
    turn();
    moderation.wait(look, true);
    turn();
    expect([world.looked, world.naps]).toEqual([4, 1]);
  });

  test('who waits again while it is called waits a turn', () => {
    const { world, moderation, look, turn } = start();
    moderation.wait(() => moderation.wait(look, true), true);
    turn();
    turn();
    expect(world.looked).toBe(0);
    turn();
    turn();
    expect([world.looked, world.naps]).toEqual([1, 2]);
  });

  test('no nap for whom the next turn is not early, but for another', () => {
    const { world, moderation, look, turn } = start();
    moderation.wait(look, false);
    turn();
    turn();
    expect([world.looked, world.naps]).toEqual([1, 0]);
    for (const isEarly of [false, true, false]) moderation.wait(look, isEarly);
    turn();
    turn();
    expect([world.looked, world.naps]).toEqual([4, 1]);
    moderation.wait(look, false);
    turn();
    turn();
    expect([world.looked, world.naps]).toEqual([5, 1]);
  });

  test('no nap while a device has a request', () => {
    const { world, moderation, look, turn } = start();
    world.isQuiet = false;
    moderation.wait(look, true);
    turn();
    turn();
    expect([world.looked, world.naps]).toEqual([1, 0]);
  });

  test('where a nap is long, it costs no more than a fiftieth of the time', () => {
    const { world, moderation, look, turn } = start(15);
    const begun = world.nowMs;
    for (let i = 0; i < 100_000; i += 1) {
      moderation.wait(look, true);
      turn();
      turn();
      world.nowMs += 0.1;
    }
    expect(world.naps).toBeGreaterThan(1);
    expect(world.naps * world.napMs).toBeLessThan((world.nowMs - begun) / 50);
  });

  test('one that is long now and then does not end them', () => {
    const { world, moderation, look, turn } = start();
    for (let i = 0; i < 1000; i += 1) {
      world.napMs = i % 100 === 99 ? 8 * NAP_MS_MAX : 0.05;
      moderation.wait(look, true);
      turn();
      turn();
    }
    expect(world.naps).toBe(1000);
  });
});
