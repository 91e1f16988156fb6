import { expect, test } from 'vitest';
import { LOCK_WAIT_MS_MAX, PEER_STALL_MS, SHUN_MS_MAX, SHUN_MS_MIN } from '../../src/limits.js';
import { type PeerSight, PeerWatch } from '../../src/volume/peer-watch.js';

const TICK_MS = 50;

function rig() {
  const watch = new PeerWatch();
  let now = 1000;
  const sight = (change: Partial<PeerSight>): PeerSight => ({
    task: 'owing',
    progress: 1,
    durable: 1,
    waitsForLock: false,
    ...change,
  });
  /** Ticks until it is told to close, at most for so long. @returns how long that took, ms; or null */
  const look = (change: Partial<PeerSight>, forMs: number): number | null => {
    for (const began = now; now - began < forMs; ) {
      now += TICK_MS;
      if (watch.look(now, sight(change)) !== null) return now - began;
    }
    return null;
  };
  return { watch, look, sleep: (ms: number) => (now += ms), now: () => now };
}

const LONG = 10 * PEER_STALL_MS;

test('what does not move for so long is told; what moves, or is owed to nobody, is not', () => {
  const { look } = rig();
  expect(look({ task: 'fine' }, LONG)).toBeNull();
  for (let progress = 1; progress < 10; progress += 1) expect(look({ progress }, PEER_STALL_MS - TICK_MS)).toBeNull();
  expect(look({ progress: 10 }, LONG)).toBe(PEER_STALL_MS + TICK_MS);
  expect(look({ task: 'tail' }, LONG)).toBe(PEER_STALL_MS + TICK_MS);
  expect(look({ task: 'shaking hands' }, LONG)).toBe(PEER_STALL_MS + TICK_MS);
});

test('a record that waits for its lock has the time of its lease in addition', () => {
  const { look } = rig();
  expect(look({ waitsForLock: true }, LONG)).toBe(PEER_STALL_MS + LOCK_WAIT_MS_MAX + TICK_MS);
});

test('of a while in which nobody looked the peer is not to blame', () => {
  const { look, sleep } = rig();
  expect(look({}, PEER_STALL_MS / 2)).toBeNull();
  sleep(LONG);
  expect(look({}, PEER_STALL_MS / 2 - 1100)).toBeNull();
});

test('each time links are refused for twice as long, until something is durable at the peer', () => {
  const { watch, look, now } = rig();
  look({}, TICK_MS);
  expect(watch.shun(now())).toBe(SHUN_MS_MIN);
  expect([watch.isShunned(now() + SHUN_MS_MIN - 1), watch.isShunned(now() + SHUN_MS_MIN)]).toEqual([true, false]);
  expect(watch.shun(now())).toBe(2 * SHUN_MS_MIN);
  // another link: what it has is told anew, and is nothing new
  watch.rest();
  look({ task: 'shaking hands', durable: Number.NaN }, TICK_MS);
  look({ durable: 5 }, TICK_MS);
  look({ durable: 5, progress: 9 }, TICK_MS);
  expect(watch.shun(now())).toBe(4 * SHUN_MS_MIN);
  for (let i = 0; i < 10; i += 1) watch.shun(now());
  expect(watch.shun(now())).toBe(SHUN_MS_MAX);
  look({ durable: 6 }, TICK_MS);
  expect(watch.shun(now())).toBe(SHUN_MS_MIN);
});
