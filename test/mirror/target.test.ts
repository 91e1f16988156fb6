import { expect, test } from 'vitest';
import {
  FLAG_READ_LOCK,
  FLAG_STAGED,
  TYPE_BASE,
  TYPE_COMMIT,
  TYPE_FLUSH,
  TYPE_LOCK,
  TYPE_MARK,
  TYPE_UNLOCK,
  TYPE_WRITE,
} from '../../assembly/layout.js';
import { MESSAGE_SIZE_MAX } from '../../src/limits.js';
import { APPLY, type TargetOptions, TargetStream, WAIT } from '../../src/mirror/target.js';
import type { RejectPolicy } from '../../src/mirror/wire.js';
import { lines, makeLocks } from './rig.js';

const LEASE = 100;
/** A write that a transaction staged in a scope whose LOCK was before the first copy. */
const STAGED = {
  type: TYPE_WRITE,
  flags: FLAG_STAGED,
  volume: 0,
  lba: 8,
  blockCount: 2,
  scope: 3,
  sequence: 6,
  size: 80,
};
/** Where that copy began. */
const AT_FIVE = { received: 5, applied: 5, durable: 5, start: 5 };

function rig(changes: Partial<TargetOptions> = {}) {
  const locks = makeLocks(64, { leaseMs: LEASE });
  const target = new TargetStream({
    ...{ locks: new Map([[0, locks]]), received: 0, applied: 0, durable: 0, base: null, start: 0, creditBytes: 1000 },
    ...changes,
  });
  const frame = (first: number, count: number, more: object = {}) => {
    const event = { epoch: 1, attempt: 0, first, count, bytes: count * 80, baseEnd: null, ...more };
    target.step({ kind: 'frame', ...event });
    return lines(target.drain());
  };
  const receive = (through: number, onReject: RejectPolicy = 'target-retry') => {
    target.step({ kind: 'connected', epoch: 1, base: null, onReject });
    frame(target.received + 1, through - target.received);
    target.step({ kind: 'verified', epoch: 1, attempt: 0, through });
    target.drain();
  };
  const admit = (sequence: number, type: number, lba: number, blockCount: number, scope = sequence, flags = 0) =>
    target.admit({ type, flags, volume: 0, lba, blockCount, scope, sequence, size: 80 }, 0);
  return { locks, target, frame, receive, admit };
}

test('frames come in order: what fits is accepted, what was had is dropped, a gap breaks', () => {
  const { target, frame } = rig();
  expect(frame(1, 2)).toEqual(['drop reason="away" bytes=160']);
  target.step({ kind: 'connected', epoch: 2, base: null, onReject: 'target-retry' });
  const now = { epoch: 2 };
  expect(frame(1, 2)).toEqual(['drop reason="old epoch" bytes=160']);
  expect(frame(1, 2, now)).toEqual(['accept epoch=2 attempt=0 first=1 count=2 bytes=160']);
  expect(frame(1, 2, now)).toEqual(['drop reason="duplicate" bytes=160']);
  expect(frame(0, 0, now)).toEqual([]);
  expect(frame(3, 1, now)).toEqual(['accept epoch=2 attempt=0 first=3 count=1 bytes=80']);
  expect(frame(5, 1, now)).toEqual(['broken reason="records 5..5 after 3: a gap"']);
  expect(frame(4, 1, now)).toEqual(['drop reason="away" bytes=80']);
});

test('what the link says twice gives no credit', () => {
  // The source had paid for it once. In a full journal at the target, which promised nothing any more, each record that
  // was taken then gave credit for another one, for ever (seed 1014).
  const { target, frame, receive } = rig();
  receive(2);
  target.step({ kind: 'room', bytes: 0 });
  const before = target.creditBytes;
  for (let i = 0; i < 3; i += 1) expect(frame(1, 2)[0]).toMatch(/duplicate/);
  target.step({ kind: 'consumed', bytes: 160 });
  expect(target.creditBytes).toBe(before);
  expect(() => target.step({ kind: 'consumed', bytes: 1 })).toThrow(/consumed 161 of 160/);
});

test.each<[string, number, number, object, RegExp]>([
  ['a later epoch', 1, 1, { epoch: 2 }, /frame of epoch 2 in epoch 1/],
  ['an attempt nobody asked for', 1, 1, { attempt: 1 }, /attempt 1, not asked for/],
  ['an overlap', 2, 3, {}, /an overlap/],
  ['bytes of no records', 4, 0, { bytes: 5 }, /5 bytes of no records/],
  ['base records without a base copy', 0, 1, {}, /no base copy was agreed on/],
  ['the end of no base copy', 0, 0, { baseEnd: 3 }, /no base copy was agreed on/],
  ['more than its credit', 4, 1, { bytes: 1001 + MESSAGE_SIZE_MAX }, /bytes sent, \d+ allowed/],
])('%s breaks the protocol', (_what, first, count, more, reason) => {
  const { receive, frame } = rig();
  receive(3);
  const effects = frame(first, count, more);
  expect(effects).toHaveLength(1);
  expect(effects[0]).toMatch(reason);
});

test('a bad record: one NAK, the rest of the attempt is dropped, the next begins with that record', () => {
  const { target, frame } = rig();
  target.step({ kind: 'connected', epoch: 1, base: null, onReject: 'target-retry' });
  frame(1, 4);
  target.step({ kind: 'verified', epoch: 1, attempt: 0, through: 2 });
  target.step({ kind: 'bad', epoch: 1, attempt: 0, sequence: 3 });
  target.step({ kind: 'bad', epoch: 1, attempt: 0, sequence: 3 });
  target.step({ kind: 'verified', epoch: 1, attempt: 0, through: 4 });
  expect(lines(target.drain())).toEqual(['nak epoch=1 attempt=0 sequence=3 base=null reason=1']);
  expect([target.received, target.accepted, target.current(1, 0)]).toEqual([2, 2, false]);
  expect(frame(5, 1)).toEqual(['drop reason="old attempt" bytes=80']);
  expect(frame(3, 2, { attempt: 1 })).toEqual(['accept epoch=1 attempt=1 first=3 count=2 bytes=160']);
});

test('an attempt that does not begin where it was asked to breaks the protocol', () => {
  const { target, frame } = rig();
  target.step({ kind: 'connected', epoch: 1, base: null, onReject: 'target-retry' });
  frame(1, 4);
  target.step({ kind: 'bad', epoch: 1, attempt: 0, sequence: 1 });
  target.drain();
  expect(frame(2, 1, { attempt: 1 })).toEqual(['broken reason="attempt 1 begins at 2, not at 1"']);
});

test('a confirm is due when something moved, and credit is what was consumed plus the window', () => {
  const { target, receive } = rig();
  expect(target.confirmDue()).toBe(false);
  receive(2);
  expect(target.confirmDue()).toBe(true);
  expect(target.takeConfirm()).toMatchObject({
    epoch: 1,
    received: 2,
    granted: 0,
    creditBytes: 1000,
    consistent: true,
  });
  expect(target.confirmDue()).toBe(false);
  target.step({ kind: 'consumed', bytes: 160 });
  target.step({ kind: 'durable', through: 1 });
  expect(target.takeConfirm()).toMatchObject({ durable: 1, creditBytes: 1160 });
  expect(() => target.step({ kind: 'consumed', bytes: 1 })).toThrow(/consumed 161 of 160/);
  expect(() => target.step({ kind: 'durable', through: 3 })).toThrow(/target cursors/);
});

test('a scope holds its range from LOCK to UNLOCK, and its writes must lie within', () => {
  const { target, locks, receive, admit } = rig();
  receive(4);
  expect(admit(1, TYPE_LOCK, 8, 4)).toBe(APPLY);
  expect(locks.isFree(8, 1, 7)).toBe(false);
  expect(admit(2, TYPE_WRITE, 9, 2, 1)).toBe(APPLY);
  expect(admit(3, TYPE_FLUSH, 0, 0)).toBe(APPLY);
  expect(target.openScopes()).toEqual([{ sequence: 1, flags: 0, volume: 0, lba: 8, blockCount: 4 }]);
  expect(admit(4, TYPE_UNLOCK, 8, 4, 1)).toBe(APPLY);
  expect(locks.isFree(8, 4, 7)).toBe(true);
  target.step({ kind: 'applied', through: 4 });
  expect([target.granted, target.applied]).toEqual([4, 4]);
});

test('a read lock of the source stops readers of the target, too', () => {
  const { locks, receive, admit } = rig();
  receive(1);
  expect(admit(1, TYPE_LOCK, 8, 4, 1, FLAG_READ_LOCK)).toBe(APPLY);
  expect(locks.isReadable(8, 1, 7)).toBe(false);
});

test('a held range: REJECTED is told, nobody gets in before the mirror, the holder is put on a lease', () => {
  const { target, locks, receive, admit } = rig();
  receive(2);
  const holder = locks.request('host', 'read', 10, 4, 5, Infinity)!;
  expect(admit(1, TYPE_WRITE, 12, 4)).toBe(WAIT);
  expect(admit(1, TYPE_WRITE, 12, 4)).toBe(WAIT);
  expect(lines(target.drain())).toEqual(['rejected sequence=1 volume=0 lba=12 blockCount=4']);
  expect(target.takeConfirm()).toMatchObject({ granted: 0, rejected: 1 });
  const later = locks.request('host', 'write', 15, 1, 6, Infinity)!;
  expect(later.state).toBe('waiting');
  locks.expire(LEASE - 1);
  expect(holder.state).toBe('held');
  locks.expire(LEASE);
  expect([holder.state, later.state]).toEqual(['evicted', 'waiting']);
  expect(admit(1, TYPE_WRITE, 12, 4)).toBe(APPLY);
  expect(later.state).toBe('waiting'); // not before the record is applied
  target.step({ kind: 'applied', through: 1 });
  expect(later.state).toBe('held');
  expect(lines(target.drain())).toEqual(['granted sequence=1']);
  expect(target.takeConfirm()).toMatchObject({ granted: 1, applied: 1, rejected: 0 });
});

test.each<[string, number, number, number, number, RegExp]>([
  ['a write outside its scope', TYPE_WRITE, 11, 2, 1, /outside its scope 1/],
  ['a write in no scope', TYPE_WRITE, 8, 1, 99, /scope 99, which is not open/],
  ['an unlock of nothing', TYPE_UNLOCK, 8, 1, 99, /UNLOCK 2 of scope 99/],
  ['a lock on a lock', TYPE_LOCK, 9, 1, 2, /overlaps a scope that is open/],
  ['a lock beyond the volume', TYPE_LOCK, 63, 2, 2, /do not exist/],
  ['a write beyond the volume', TYPE_WRITE, 64, 1, 2, /do not exist/],
  ['a local record', TYPE_MARK, 0, 0, 2, /type 130/],
])('%s breaks the protocol, and is not mended by a new link', (_what, type, lba, blockCount, scope, reason) => {
  const { target, receive, admit } = rig();
  receive(2);
  expect(admit(1, TYPE_LOCK, 8, 4)).toBe(APPLY);
  expect(admit(2, type, lba, blockCount, scope)).toBe(WAIT);
  expect(lines(target.drain())).toEqual(['refused through=1', expect.stringMatching(reason)]);
  target.step({ kind: 'takenBack' });
  expect([target.accepted, target.received]).toEqual([1, 1]);
  target.step({ kind: 'connected', epoch: 2, base: null, onReject: 'target-retry' });
  expect(lines(target.drain())[0]).toMatch(reason);
  expect(target.granted).toBe(1);
});

test('open scopes outlive a cut, and are rebuilt after a restart', () => {
  const first = rig();
  first.receive(1);
  first.admit(1, TYPE_LOCK, 8, 4);
  first.target.step({ kind: 'applied', through: 1 });
  first.target.step({ kind: 'disconnected' });
  expect(first.locks.isFree(8, 1, 7)).toBe(false);

  const second = rig({ received: 3, applied: 1, durable: 3 });
  for (const { flags, volume, lba, blockCount, sequence } of first.target.openScopes()) {
    second.target.replayed(TYPE_LOCK, flags, volume, lba, blockCount, sequence, sequence);
  }
  expect(second.locks.isFree(8, 1, 7)).toBe(false);
  expect(second.admit(2, TYPE_WRITE, 8, 1, 1)).toBe(APPLY);
  expect(second.admit(3, TYPE_UNLOCK, 8, 4, 1)).toBe(APPLY);
  expect(second.locks.isFree(8, 4, 7)).toBe(true);
});

test.each([
  ['applied', 'caught up with', 'durable', 'base durable'],
  ['applied', 'caught up with', 'base durable', 'durable'],
  ['durable', 'base durable', 'applied', 'caught up with'],
] as const)('base copy: consistent only with the last of %s, %s, %s, %s', (...order) => {
  const { target, frame } = rig();
  const at = { epoch: 1, attempt: 0 };
  target.step({
    kind: 'connected',
    epoch: 1,
    base: { start: 5, next: { volume: 0, lba: 0 } },
    onReject: 'target-retry',
  });
  expect(frame(0, 2)).toEqual(['accept epoch=1 attempt=0 first=0 count=2 bytes=160']);
  expect(frame(0, 1, { baseEnd: 6 })).toEqual(['accept epoch=1 attempt=0 first=0 count=1 bytes=80']);
  expect(frame(6, 1)).toEqual(['accept epoch=1 attempt=0 first=6 count=1 bytes=80']);
  target.step({ kind: 'baseVerified', ...at, count: 3, next: { volume: 0, lba: 9 } });
  expect(target.base).toEqual({ start: 5, next: { volume: 0, lba: 9 }, end: 6 });
  target.step({ kind: 'verified', ...at, through: 6 });
  target.drain();
  const steps = {
    applied: () => {
      const base = { type: TYPE_BASE, flags: 0, volume: 0, lba: 0, blockCount: 3, scope: 0, sequence: 0 };
      expect(target.admit({ ...base, size: 80 }, 0)).toBe(APPLY);
      target.step({ kind: 'baseApplied', count: 3 });
    },
    'caught up with': () => {
      const write = { type: TYPE_WRITE, flags: 0, volume: 0, lba: 0, blockCount: 1, scope: 6, sequence: 6 };
      expect(target.admit({ ...write, size: 80 }, 0)).toBe(APPLY);
      target.step({ kind: 'applied', through: 6 });
    },
    durable: () => target.step({ kind: 'durable', through: 6 }),
    'base durable': () => target.step({ kind: 'baseDurable', next: { volume: 0, lba: 9 } }),
  };
  for (const each of order) {
    expect(lines(target.drain())).toEqual([]);
    expect(target.takeConfirm()).toMatchObject({ consistent: false });
    steps[each]();
  }
  expect(lines(target.drain())).toEqual(['consistent']);
  expect(target.takeConfirm()).toMatchObject({ consistent: true, base: { volume: 0, lba: 9 } });
});

test('a bad base record behind which the base copy ended: back to the last good position', () => {
  const { target, frame } = rig();
  const at = { epoch: 1, attempt: 0 };
  target.step({
    kind: 'connected',
    epoch: 1,
    base: { start: 5, next: { volume: 0, lba: 0 } },
    onReject: 'target-retry',
  });
  frame(0, 3, { baseEnd: 5 });
  target.step({ kind: 'baseVerified', ...at, count: 1, next: { volume: 0, lba: 4 } });
  target.step({ kind: 'bad', ...at, sequence: 0 });
  expect(lines(target.drain())).toEqual(['nak epoch=1 attempt=0 sequence=0 base={"volume":0,"lba":4} reason=1']);
  expect(frame(6, 1, { attempt: 1 })[0]).toMatch(/before the end of the base copy/);
});

test('a scope that was open when the base copy began has no LOCK here', () => {
  const { target, receive, admit } = rig({ received: 5, applied: 5, durable: 5, start: 5 });
  receive(7);
  expect(admit(6, TYPE_WRITE, 8, 1, 3)).toBe(APPLY);
  expect(admit(7, TYPE_UNLOCK, 8, 4, 3)).toBe(APPLY);
  expect(target.granted).toBe(7);
});

/**
 * It needed its blocks free when it was staged, and was applied at the COMMIT, when somebody might have them: a backup
 * at the standby's site saw them change under its lock (seed 41049).
 */
test('what such a scope staged needs its blocks at the COMMIT, also after a restart', () => {
  for (const isRestarted of [false, true]) {
    const before = isRestarted ? { bytes: 80, writes: [{ header: STAGED }] } : { bytes: 0, writes: [] };
    const at = isRestarted ? 6 : 5;
    const { locks, target, receive, admit } = rig({ received: at, applied: at, durable: at, start: 5, staged: before });
    receive(7);
    const holder = locks.request('host', 'read', 9, 1, 5, Infinity)!;
    if (!isRestarted) expect(target.admit(STAGED, 0)).toBe(APPLY);
    expect(admit(7, TYPE_COMMIT, 0, 1)).toBe(WAIT);
    expect(target.rejected).toBe(7);
    locks.release(holder);
    expect(admit(7, TYPE_COMMIT, 0, 1)).toBe(APPLY);
    expect(target.granted).toBe(7);
  }
});

test('a COMMIT that waits for blocks of two volumes, one after the other, keeps nobody from the first in the end', () => {
  const volumes = [makeLocks(64, { leaseMs: LEASE }), makeLocks(64, { leaseMs: LEASE })] as const;
  const holders = volumes.map((locks) => locks.request('host', 'read', 0, 4, 5, Infinity)!);
  const { target, receive, admit } = rig({ locks: new Map(volumes.entries()), ...AT_FIVE });
  receive(8);
  for (const volume of [0, 1]) target.admit({ ...STAGED, volume, lba: 2, blockCount: 1, sequence: 6 + volume }, 0);
  expect(admit(8, TYPE_COMMIT, 0, 2)).toBe(WAIT);
  volumes[0].release(holders[0]!);
  expect(admit(8, TYPE_COMMIT, 0, 2)).toBe(WAIT);
  expect(volumes[0].request('host', 'write', 2, 1, 6, Infinity)?.state).toBe('held');
  volumes[0].release(volumes[0].list().find(({ state }) => state === 'held')!);
  volumes[1].release(holders[1]!);
  expect(admit(8, TYPE_COMMIT, 0, 2)).toBe(APPLY);
  target.step({ kind: 'applied', through: 8 });
  expect(volumes[1].request('host', 'write', 2, 1, 6, Infinity)?.state).toBe('held');
  expect(lines(target.drain()).filter((line) => line.startsWith('rejected'))).toHaveLength(1);
});

/** Records 1 to 4 have come, 2 waits for a lock that somebody holds, and was dropped. */
function dropped() {
  const all = rig();
  const { target, locks, receive, admit } = all;
  receive(4, 'retransmit');
  target.step({ kind: 'durable', through: 4 });
  const holder = locks.request('host', 'read', 10, 4, 5, Infinity)!;
  admit(1, TYPE_WRITE, 0, 1);
  target.step({ kind: 'applied', through: 1 });
  target.drain();
  expect(admit(2, TYPE_LOCK, 12, 4)).toBe(WAIT);
  const effects = lines(target.drain());
  const later = locks.request('host', 'write', 15, 1, 6, Infinity)!;
  const again = (first: number, count: number, attempt = 1) => {
    const accepted = all.frame(first, count, { attempt });
    target.step({ kind: 'verified', epoch: 1, attempt, through: first + count - 1 });
    return accepted;
  };
  const letGo = () => {
    locks.release(holder);
    target.step({ kind: 'locksMoved' });
  };
  return { ...all, holder, later, effects, again, letGo };
}

test('retransmit: what waits is dropped with all behind it, and comes again when its lock can be had', () => {
  const { target, locks, admit, frame, effects, holder, later, again, letGo } = dropped();
  expect(effects).toEqual([
    'rejected sequence=2 volume=0 lba=12 blockCount=4',
    'dropped through=1 count=3',
    'nak epoch=1 attempt=0 sequence=2 base=null reason=2',
  ]);
  expect([target.received, target.accepted, target.durable, target.rewound]).toEqual([1, 1, 1, true]);
  expect(target.takeConfirm()).toMatchObject({ attempt: 1, received: 1, granted: 1, durable: 1, rejected: 2 });
  expect(frame(5, 1)).toEqual(['drop reason="old attempt" bytes=80']);
  expect(later.state).toBe('waiting');
  expect(holder.leaseEnd).toBe(LEASE);
  target.step({ kind: 'locksMoved' });
  expect(target.confirmDue()).toBe(true); // the bytes that were consumed, no more
  expect(target.takeConfirm().rejected).toBe(2);
  letGo();
  expect(later.state).toBe('waiting'); // the mirror's record is on its way
  expect(target.takeConfirm()).toMatchObject({ attempt: 1, received: 1, rejected: 0 });
  expect(frame(2, 3)).toEqual(['drop reason="old attempt" bytes=240']);
  expect(again(2, 3)).toEqual(['accept epoch=1 attempt=1 first=2 count=3 bytes=240']);
  expect(target.rewound).toBe(false);
  expect(again(2, 3)).toEqual(['drop reason="duplicate" bytes=240']);
  expect(admit(2, TYPE_LOCK, 12, 4)).toBe(APPLY);
  expect(later.state).toBe('waiting');
  target.step({ kind: 'applied', through: 2 });
  expect(locks.mirrorHolds(12, 4)).toBe(true);
  expect(lines(target.drain())).toEqual(['granted sequence=2']);
  expect(target.takeConfirm()).toMatchObject({ received: 2, granted: 2, applied: 2, rejected: 0 });
});

test('retransmit: what may be dropped is not confirmed as received, nor as durable', () => {
  const { target, receive, admit } = rig();
  receive(4, 'retransmit');
  target.step({ kind: 'durable', through: 3 });
  expect(target.takeConfirm()).toMatchObject({ received: 0, granted: 0, durable: 0 });
  admit(1, TYPE_WRITE, 0, 1);
  expect(target.takeConfirm()).toMatchObject({ received: 1, granted: 1, durable: 1 });
});

test('retransmit: what was told when the epoch began is kept, and waits here', () => {
  // A flush had been answered because the target had it durably; dropped, it would have been nowhere but at the source.
  const { target, locks, frame, admit } = rig({ received: 3, applied: 1, durable: 3 });
  target.step({ kind: 'connected', epoch: 1, base: null, onReject: 'retransmit' });
  frame(4, 2);
  target.step({ kind: 'verified', epoch: 1, attempt: 0, through: 5 });
  const holder = locks.request('host', 'read', 10, 4, 5, Infinity)!;
  target.drain();
  expect(admit(2, TYPE_WRITE, 12, 1)).toBe(WAIT);
  expect(lines(target.drain())).toEqual(['rejected sequence=2 volume=0 lba=12 blockCount=1']);
  expect(target.takeConfirm()).toMatchObject({ attempt: 0, received: 3, durable: 3, granted: 1, rejected: 2 });
  locks.release(holder);
  expect(admit(2, TYPE_WRITE, 12, 1)).toBe(APPLY);
  expect(target.received).toBe(5);
});

test('retransmit: what cannot be dropped any more, the driver says, is promised and waits here', () => {
  const { target, locks, receive, admit } = rig();
  receive(4, 'retransmit');
  locks.request('host', 'read', 10, 4, 5, Infinity);
  target.step({ kind: 'keep' });
  expect(admit(1, TYPE_WRITE, 12, 1)).toBe(WAIT);
  expect(lines(target.drain())).toEqual(['rejected sequence=1 volume=0 lba=12 blockCount=1']);
  expect(target.takeConfirm()).toMatchObject({ attempt: 0, received: 4, rejected: 1 });
});

test('retransmit: a base record that waits is not dropped', () => {
  const { target, locks, frame } = rig();
  target.step({
    kind: 'connected',
    epoch: 1,
    base: { start: 5, next: { volume: 0, lba: 0 } },
    onReject: 'retransmit',
  });
  frame(0, 1);
  target.step({ kind: 'baseVerified', epoch: 1, attempt: 0, count: 1, next: { volume: 0, lba: 9 } });
  locks.request('host', 'read', 0, 4, 5, Infinity);
  target.drain();
  const block = { type: TYPE_BASE, flags: 0, volume: 0, lba: 0, blockCount: 9, scope: 0, sequence: 0, size: 80 };
  expect(target.admit(block, 0)).toBe(WAIT);
  expect(lines(target.drain())).toEqual(['rejected sequence=0 volume=0 lba=0 blockCount=9']);
  expect([target.attempt, target.rewound]).toEqual([0, false]);
});

test('retransmit: a cut before it came again lets the others in; it waits its turn anew in the next epoch', () => {
  const { target, holder, later, letGo, frame, admit } = dropped();
  letGo();
  target.step({ kind: 'disconnected' });
  expect([later.state, target.rejected, target.rewound]).toEqual(['held', 0, false]);
  expect(holder.state).toBe('released');
  target.step({ kind: 'connected', epoch: 2, base: null, onReject: 'retransmit' });
  target.drain();
  expect(target.takeConfirm()).toMatchObject({ epoch: 2, attempt: 0, received: 1, rejected: 0 });
  frame(2, 1, { epoch: 2 });
  target.step({ kind: 'verified', epoch: 2, attempt: 0, through: 2 });
  expect(admit(2, TYPE_LOCK, 12, 4)).toBe(WAIT);
  expect(lines(target.drain())).toEqual([
    'rejected sequence=2 volume=0 lba=12 blockCount=4',
    'dropped through=1 count=1',
    'nak epoch=2 attempt=0 sequence=2 base=null reason=2',
  ]);
});

test('retransmit: a cut behind which it is here again: it has its lock, and the others wait for it', () => {
  const { target, later, again, letGo, admit } = dropped();
  letGo();
  again(2, 1);
  target.step({ kind: 'disconnected' });
  expect(later.state).toBe('waiting');
  expect(admit(2, TYPE_LOCK, 12, 4)).toBe(APPLY);
  target.step({ kind: 'applied', through: 2 });
  expect(target.openScopes()).toHaveLength(1);
});

test('retransmit: a new link that comes before the old one is told gone begins without the wait', () => {
  const { target, later, letGo } = dropped();
  target.step({ kind: 'connected', epoch: 2, base: null, onReject: 'halt' });
  letGo();
  expect(later.state).toBe('held');
  expect(target.takeConfirm()).toMatchObject({ epoch: 2, received: 1, rejected: 0 });
});

test('retransmit: the second attempt may be damaged, too; the range stays wanted', () => {
  const { target, frame, letGo, later, admit } = dropped();
  letGo();
  frame(2, 1, { attempt: 1 });
  target.step({ kind: 'bad', epoch: 1, attempt: 1, sequence: 2 });
  expect(lines(target.drain())).toEqual(['nak epoch=1 attempt=1 sequence=2 base=null reason=1']);
  expect(later.state).toBe('waiting');
  frame(2, 1, { attempt: 2 });
  target.step({ kind: 'verified', epoch: 1, attempt: 2, through: 2 });
  expect(admit(2, TYPE_LOCK, 12, 4)).toBe(APPLY);
});

test('a record that is looked at without a link waits here, whatever the policy; so does one after a restart', () => {
  const { target, locks, receive, admit } = rig();
  receive(2, 'retransmit');
  target.step({ kind: 'disconnected' });
  locks.request('host', 'read', 10, 4, 5, Infinity);
  expect(admit(1, TYPE_WRITE, 12, 1)).toBe(WAIT);
  expect(lines(target.drain())).toEqual(['rejected sequence=1 volume=0 lba=12 blockCount=1']);
  expect(target.received).toBe(2);
});
