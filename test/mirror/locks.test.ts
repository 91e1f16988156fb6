import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { LockMode, LockRequest } from '../../src/volume/locks.js';
import { makeLocks } from './rig.js';

const states = (requests: readonly LockRequest[]) => requests.map(({ session, state }) => `${session} ${state}`);

test('who excludes whom, on overlap', () => {
  const modes: LockMode[] = ['write', 'read', 'plainWrite', 'plainRead'];
  const rows = (['write', 'read'] as const).map((held) =>
    modes.map((mode) => {
      const locks = makeLocks(64);
      locks.request('host', held, 8, 8, 1, Infinity);
      return locks.request('host', mode, 15, 2, 2, Infinity)!.state;
    }),
  );
  expect(rows).toEqual([
    ['waiting', 'waiting', 'waiting', 'granted'],
    ['waiting', 'waiting', 'waiting', 'waiting'],
  ]);
});

test('plain operations pass the locks of their own session, and nobody else’s', () => {
  const locks = makeLocks(64);
  locks.request('scope', 'read', 8, 8, 1, Infinity);
  const waiter = locks.request('host', 'write', 0, 16, 2, Infinity)!;
  expect(waiter.state).toBe('waiting');
  expect([locks.isFree(8, 8, 1), locks.isReadable(8, 8, 1)]).toEqual([true, true]);
  expect([locks.isFree(8, 1, 3), locks.isReadable(8, 1, 3), locks.isReadable(0, 8, 3)]).toEqual([false, false, true]);
  expect(locks.isFree(7, 2, 1)).toBe(false); // reaches out of its own lock, to where somebody waits
  expect(locks.isFree(16, 48, 3)).toBe(true);
});

test('first come, first served: a waiter holds up those who overlap it, and only those', () => {
  const locks = makeLocks(64);
  const first = locks.request('host', 'write', 0, 8, 1, Infinity)!;
  const second = locks.request('host', 'write', 4, 8, 2, Infinity)!;
  const third = locks.request('host', 'write', 10, 4, 3, Infinity)!;
  const fourth = locks.request('host', 'write', 20, 4, 4, Infinity)!;
  expect(states([first, second, third, fourth])).toEqual(['1 held', '2 waiting', '3 waiting', '4 held']);
  locks.release(first);
  expect(states(locks.drain())).toEqual(['2 held']);
  locks.release(second);
  expect(states(locks.drain())).toEqual(['3 held']);
  locks.check();
});

test('a waiter that gives up does not take along the bits of the others', () => {
  const locks = makeLocks(64);
  locks.request('host', 'write', 0, 6, 1, Infinity);
  locks.request('host', 'write', 20, 6, 2, Infinity);
  const leaving = locks.request('host', 'write', 4, 8, 3, Infinity)!;
  const staying = locks.request('host', 'write', 10, 12, 4, Infinity)!;
  locks.release(leaving);
  expect(staying.state).toBe('waiting');
  // where only the one that stays has bits: nobody overtakes it
  expect(locks.isFree(10, 1, 5)).toBe(false);
  expect(locks.request('host', 'write', 10, 1, 5, Infinity)!.state).toBe('waiting');
});

test('waits are bounded, in time and number', () => {
  const locks = makeLocks(64, { waitersMax: 2 });
  locks.request('host', 'write', 0, 8, 1, Infinity);
  locks.request('host', 'write', 0, 8, 2, 50);
  locks.request('host', 'plainWrite', 4, 1, 3, 40);
  expect(locks.request('host', 'write', 0, 8, 4, Infinity)).toBeNull();
  expect(locks.nextDeadline()).toBe(40);
  locks.expire(39);
  expect(locks.drain()).toEqual([]);
  locks.expire(50);
  expect(states(locks.drain())).toEqual(['3 timedOut', '2 timedOut']);
  expect([locks.waiting, locks.nextDeadline()]).toEqual([0, Infinity]);
});

test('a connection that goes takes along what it holds and waits for', () => {
  const locks = makeLocks(64);
  locks.request('host', 'write', 0, 8, 1, Infinity);
  locks.request('host', 'write', 8, 8, 2, Infinity);
  locks.request('host', 'write', 8, 1, 1, Infinity);
  locks.request('host', 'write', 0, 16, 3, Infinity);
  locks.releaseSession(1);
  expect([locks.held, locks.waiting]).toEqual([1, 1]);
  expect(states(locks.drain())).toEqual(['1 released']); // who waited is told
  locks.releaseSession(2);
  expect(states(locks.drain())).toEqual(['3 held']);
});

test('the mirror goes before all waiters; a want that ends takes its leases along', () => {
  const locks = makeLocks(64, { leaseMs: 30 });
  const holder = locks.request('host', 'write', 0, 8, 1, Infinity)!;
  const waiter = locks.request('host', 'write', 0, 8, 2, Infinity)!;
  locks.mirrorWants(4, 8, 100);
  expect([locks.mirrorWaitingSince, holder.leaseEnd]).toEqual([100, 130]);
  locks.mirrorWants(4, 8, 110);
  expect([locks.mirrorWaitingSince, holder.leaseEnd]).toEqual([100, 130]);
  expect(locks.isFree(9, 1, 3)).toBe(false);
  expect(locks.isReadable(9, 1, 3)).toBe(true);
  expect(locks.mirrorTake('write', 4, 8)).toBeNull();
  locks.release(holder);
  expect(waiter.state).toBe('waiting');
  const lock = locks.mirrorTake('write', 4, 8)!;
  locks.mirrorHad();
  expect([waiter.state, locks.mirrorWaitingSince]).toEqual(['waiting', null]);
  locks.release(lock);
  expect(states(locks.drain())).toEqual(['2 held']);
  locks.mirrorWants(0, 1, 200);
  locks.mirrorHad();
  locks.expire(1000);
  expect(waiter.state).toBe('held');
});

test('a winner of the peer is granted beneath an open scope of this site’s stream, and beneath nothing else', () => {
  const locks = makeLocks(64);
  const own = locks.request('scope', 'write', 8, 8, 1, Infinity)!;
  expect([locks.mirrorFree(8, 1, true), locks.mirrorTake('write', 12, 8, true)]).toEqual([false, null]);
  own.streamed = true;
  expect([locks.mirrorFree(8, 1), locks.mirrorTake('write', 12, 8)]).toEqual([false, null]);
  const winner = locks.mirrorTake('write', 12, 8, true)!;
  locks.check();
  // the scope above goes on writing; others wait for both
  expect([locks.isFree(8, 8, 1), locks.isFree(12, 4, 2), locks.isFree(16, 4, 2)]).toEqual([true, false, false]);
  const waiter = locks.request('host', 'write', 12, 2, 3, Infinity)!;
  locks.release(own);
  expect([waiter.state, locks.isFree(8, 4, 2)]).toEqual(['waiting', true]);
  locks.release(winner);
  expect(states(locks.drain())).toEqual(['3 held']);
  locks.check();
});

test.each([0, 3, 10])('bitmap and lists agree with a plain model, with regions of 2^%d blocks', (regionShift) => {
  const BLOCKS = 100;
  const step = fc.record({
    what: fc.constantFrom('write', 'read', 'plainWrite', 'release', 'session', 'expire', 'want', 'had'),
    lba: fc.nat(BLOCKS - 1),
    count: fc.integer({ min: 1, max: 20 }),
    session: fc.integer({ min: 1, max: 5 }),
    pick: fc.nat(),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const locks = makeLocks(BLOCKS, { regionShift, leaseMs: 5 });
      const requests: LockRequest[] = [];
      let now = 0;
      for (const { what, lba, count, session, pick } of steps) {
        now += 1;
        const blockCount = Math.min(count, BLOCKS - lba);
        const end = lba + blockCount;
        if (what === 'release' && requests.length > 0) locks.release(requests[pick % requests.length]);
        else if (what === 'session') locks.releaseSession(session);
        else if (what === 'expire') locks.expire(now);
        else if (what === 'want') locks.mirrorWants(lba, blockCount, now);
        else if (what === 'had') locks.mirrorHad();
        else if (what !== 'release') {
          requests.push(locks.request('host', what as LockMode, lba, blockCount, session, now + 10)!);
        }
        locks.check();
        for (const each of locks.drain()) expect(each.state).not.toBe('waiting');
        const held = requests.filter(({ state }) => state === 'held');
        expect(held).toHaveLength(locks.held);
        const overlaps = (each: LockRequest) => each.lba < end && each.end > lba;
        expect(locks.mirrorFree(lba, blockCount)).toBe(!held.some(overlaps));
        const others = held.filter((each) => overlaps(each) && each.session !== session);
        if (others.length > 0) expect(locks.isFree(lba, blockCount, session)).toBe(false);
        expect(locks.isReadable(lba, blockCount, 99)).toBe(
          !requests.some((each) => overlaps(each) && each.mode === 'read' && /held|waiting/.test(each.state)),
        );
      }
      locks.mirrorHad();
      for (const each of requests) locks.release(each);
      for (const each of requests) locks.release(each);
      expect([locks.held, locks.waiting, locks.isFree(0, BLOCKS, 1)]).toEqual([0, 0, true]);
    }),
    { numRuns: 150 },
  );
});
