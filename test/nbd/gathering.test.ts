import { describe, expect, test } from 'vitest';
import { Gathering } from '../../src/frontend/nbd/gathering.js';
import { ANSWERS_KEPT_MAX, FOLLOWING_IDLE_MS_MAX, GATHERING_DEPTH_MIN } from '../../src/frontend/nbd/limits.js';

const SOON = FOLLOWING_IDLE_MS_MAX / 2;
const LATE = FOLLOWING_IDLE_MS_MAX * 2;

/** A client that has `depth` requests in flight whenever it can, of which `perTurn` arrive in each turn. */
function start(depth: number, perTurn: number, idleMs = SOON) {
  let sleptMs = 1000;
  const client = { depth, perTurn, idleMs, longest: 0 };
  const gathering = new Gathering(() => sleptMs);
  /** Until answers are sent. @returns how many */
  const send = (): number => {
    sleptMs += client.idleMs;
    let answers = 0;
    let turns = 0;
    do {
      const come = Math.min(client.perTurn, client.depth - answers);
      if (come > 0) gathering.received();
      answers += come;
      turns += 1;
    } while (gathering.isToWait(answers, 0));
    gathering.sent();
    client.longest = Math.max(client.longest, turns);
    return answers;
  };
  const sends = (count: number): number[] => Array.from({ length: count }, send);
  return { gathering, client, send, sends };
}

/** What was sent at once, as often as not. */
const usual = (sent: number[]): number => [...sent].sort((a, b) => a - b)[sent.length >> 1]!;

describe('gathering answers', () => {
  test('a client with many requests in flight is found out, and gets its answers together', () => {
    const { sends } = start(32, 5);
    expect(usual(sends(100))).toBe(5);
    sends(2000);
    expect(usual(sends(2000))).toBe(10);
  });

  test('at most so many that it has others to go on with', () => {
    const { client, sends } = start(200, 1);
    sends(4000);
    expect(usual(sends(2000))).toBe(1); // one at a time says nothing of what it has: no trial
    client.perTurn = 6;
    sends(4000);
    expect(usual(sends(2000))).toBe(6 * Math.ceil(ANSWERS_KEPT_MAX / 6));
  });

  test('one with fewer gets them at once, but for a trial now and then', () => {
    const { sends } = start(GATHERING_DEPTH_MIN - 1, 5);
    const sent = sends(10_000);
    expect(sent.filter((count) => count > 5).length).toBeLessThan(15);
    expect(sent.filter((count) => count > 5).length).toBeGreaterThan(5);
  });

  test('one that waits for every answer is never kept waiting', () => {
    const { client, sends } = start(1, 1);
    sends(10_000);
    expect(client.longest).toBe(1);
  });

  test('nor one that is slept for, however much it has in flight', () => {
    const { client, sends } = start(64, 8, LATE);
    sends(10_000);
    expect(client.longest).toBe(1);
  });

  test('one that came to have fewer is found out soon', () => {
    const { client, sends } = start(64, 6);
    sends(3000);
    expect(client.longest).toBeGreaterThan(1);
    Object.assign(client, { depth: 6, longest: 0 });
    sends(1000);
    expect(client.longest).toBe(2);
    Object.assign(client, { depth: 1, perTurn: 1 });
    sends(2000);
    client.longest = 0;
    sends(5000);
    expect(client.longest).toBe(1);
  });

  // It was believed to be deep for ever: so few at once were not worth a trial, and nothing else made it less.
  test.each([1, 2, 4])('nor is one kept waiting that was deep, and has now %i at once', (depth) => {
    const { client, sends } = start(64, 6);
    sends(3000);
    expect(client.longest).toBeGreaterThan(1);
    Object.assign(client, { depth, perTurn: depth });
    sends(500);
    client.longest = 0;
    sends(5000);
    expect(client.longest).toBe(1);
  });

  test('a trial that shows less, because the client had no processor, does not count at once', () => {
    const { client, sends } = start(40, 6);
    sends(3000);
    expect(usual(sends(100))).toBe(12);
    client.depth = 6; // for one trial at most
    sends(10);
    client.depth = 40;
    expect(usual(sends(100))).toBe(12);
  });

  test('a turn that brought few came early', () => {
    const { gathering, sends } = start(64, 6);
    sends(3000);
    expect(gathering.isToWait(2, 0)).toBe(true);
    expect(gathering.isEarly).toBe(true);
    expect(gathering.isToWait(7, 0)).toBe(true);
    expect(gathering.isEarly).toBe(false);
    expect(gathering.isToWait(9, 0)).toBe(false);
  });

  test('what the device still has counts as in flight', () => {
    const { gathering, sends } = start(1, 1);
    sends(20);
    expect(gathering.isToWait(1, GATHERING_DEPTH_MIN - 2)).toBe(false);
    expect(gathering.isToWait(1, GATHERING_DEPTH_MIN - 1)).toBe(true);
  });
});
