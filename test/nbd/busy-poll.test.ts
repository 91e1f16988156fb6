import { describe, expect, test } from 'vitest';
import { BusyPoll } from '../../src/frontend/nbd/busy-poll.js';
import { BUSY_POLL_ANSWER_MS_MAX, BUSY_POLL_MS_MAX } from '../../src/frontend/nbd/limits.js';

const SOON = BUSY_POLL_MS_MAX / 2;
const LATE = BUSY_POLL_MS_MAX * 2;
const QUICK_FLUSH = BUSY_POLL_ANSWER_MS_MAX / 2;
const SLOW_FLUSH = BUSY_POLL_ANSWER_MS_MAX * 2;

function start(processors = 2) {
  let nowMs = 1000;
  const tasks: (() => void)[] = [];
  const poll = new BusyPoll(
    processors,
    () => nowMs,
    (task) => tasks.push(task),
  );
  /** One turn of the event loop. @returns whether the next one comes without sleep */
  const turn = (): boolean => {
    for (const task of tasks.splice(0)) task();
    return tasks.length > 0;
  };
  const burst = (gapMs: number, takesMs = 0, count = 1): boolean => {
    nowMs += gapMs;
    turn();
    for (let i = 0; i < count; i += 1) poll.begin();
    nowMs += takesMs;
    for (let i = 0; i < count; i += 1) poll.settle();
    poll.answered();
    return tasks.length > 0;
  };
  return {
    poll,
    turn,
    burst,
    passes: (ms: number) => {
      nowMs += ms;
    },
    settled: (...burstOf: [number, number?, number?]) => {
      for (let i = 0; i < 50; i += 1) burst(...burstOf);
      return burst(...burstOf);
    },
  };
}

describe('busy polling', () => {
  test('a client that asks again at once is looked for, others are not', () => {
    expect(start().settled(SOON)).toBe(true);
    expect(start().settled(LATE)).toBe(false);
  });

  test('not at first: one that asks a few times and is gone costs nothing', () => {
    const { burst } = start();
    expect(burst(SOON)).toBe(false);
    expect(burst(SOON)).toBe(false);
    expect(burst(SOON)).toBe(false);
  });

  test('not where several requests come at once, nor where the device takes long', () => {
    expect(start().settled(SOON, 0, 2)).toBe(false);
    expect(start().settled(SOON, SLOW_FLUSH)).toBe(false);
  });

  test('a write and its flush in turn: if the disk is quick, and not if every flush takes long', () => {
    const looks = (flushMs: number): number => {
      const { burst } = start();
      let looked = 0;
      for (let i = 0; i < 100; i += 1) looked += Number(burst(SOON)) + Number(burst(SOON, flushMs));
      return looked;
    };
    expect(looks(QUICK_FLUSH)).toBeGreaterThan(190);
    expect(looks(SLOW_FLUSH)).toBe(0);
  });

  test('it ends: at the latest after the time that is set', () => {
    const { settled, turn, passes } = start();
    expect(settled(SOON)).toBe(true);
    expect(turn()).toBe(true);
    passes(BUSY_POLL_MS_MAX * 0.9);
    expect(turn()).toBe(true);
    passes(BUSY_POLL_MS_MAX * 0.2);
    expect(turn()).toBe(false);
  });

  test('it ends with the request, and begins again with its answer', () => {
    const { settled, turn, poll } = start();
    expect(settled(SOON)).toBe(true);
    poll.begin();
    expect(turn()).toBe(false);
    poll.settle();
    expect(turn()).toBe(false);
    poll.answered();
    expect(turn()).toBe(true);
  });

  test('a client that becomes slow is let go after a few requests, and found again', () => {
    const { settled, burst } = start();
    settled(SOON);
    let looked = 0;
    for (let i = 0; i < 20; i += 1) looked += Number(burst(LATE));
    expect(looked).toBeGreaterThan(0);
    expect(looked).toBeLessThan(10);
    expect(settled(SOON)).toBe(true);
  });

  test('never on a single processor: the client needs it', () => {
    expect(start(1).settled(SOON)).toBe(false);
  });
});
