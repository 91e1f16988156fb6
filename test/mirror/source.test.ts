import { expect, test } from 'vitest';
import { HEARTBEAT_MS } from '../../src/limits.js';
import { SourceStream } from '../../src/mirror/source.js';
import { type Confirm, NAK_REJECTED, type Nak, type RejectPolicy } from '../../src/mirror/wire.js';
import { lines, makeConfirm } from './rig.js';

function source(end: number, speculation: 'on' | 'off' = 'on', onReject: RejectPolicy = 'target-retry'): SourceStream {
  return new SourceStream({ speculation, onReject, appended: end, sealed: end, durable: end, trimmed: 0 });
}

function connect(stream: SourceStream, received = 0, creditBytes = 1000, epoch = 1): void {
  const at = { received, durable: received, applied: received, creditBytes };
  stream.step({ kind: 'connected', epoch, ...at, base: null, consistent: true }, 0);
  stream.drain();
}

function confirm(stream: SourceStream, changes: Partial<Confirm>): string[] {
  stream.step({ kind: 'confirm', confirm: makeConfirm(changes) }, 0);
  return lines(stream.drain());
}

function nak(stream: SourceStream, changes: Partial<Nak>): string[] {
  const message = { epoch: 1, attempt: 0, sequence: 1, base: null, reason: 1, returned: false, ...changes };
  stream.step({ kind: 'nak', nak: message }, 0);
  return lines(stream.drain());
}

const sent = (stream: SourceStream, through: number, bytes = 10) => stream.step({ kind: 'sent', through, bytes }, 0);
const span = (stream: SourceStream) => {
  const want = stream.want();
  return want && `${want.from}..${want.through} attempt ${want.attempt} max ${want.bytesMax}`;
};

test('away, nothing is wanted; connected, everything sealed, without waiting for an answer', () => {
  const stream = source(5);
  expect(stream.want()).toBeNull();
  connect(stream);
  expect(span(stream)).toBe('1..5 attempt 0 max 1000');
  sent(stream, 3);
  expect(span(stream)).toBe('4..5 attempt 0 max 990');
  sent(stream, 5);
  expect(stream.want()).toBeNull();
  stream.step({ kind: 'moved', appended: 9, sealed: 7, durable: 5 }, 0);
  expect(span(stream)).toBe('6..7 attempt 0 max 980');
});

test('a confirm moves the cursors; the rollback log is trimmed once both applied and durable at the peer', () => {
  const stream = source(5);
  connect(stream);
  sent(stream, 5);
  expect(confirm(stream, { received: 5, granted: 4, applied: 3, durable: 1 })).toEqual(['progressed']);
  expect([stream.received, stream.granted, stream.applied, stream.peerDurable, stream.trimmed]).toEqual([
    5, 4, 3, 1, 1,
  ]);
  expect(confirm(stream, { received: 5, granted: 5, applied: 3, durable: 5 })).toEqual(['progressed']);
  expect(stream.trimmed).toBe(3);
  expect(confirm(stream, { received: 5, granted: 5, applied: 3, durable: 5 })).toEqual([]);
});

test('credit: nothing more goes out when it is used up, one record may overshoot, more credit frees it', () => {
  const stream = source(5);
  connect(stream, 0, 100);
  sent(stream, 1, 130);
  expect(stream.credit).toBe(0);
  expect(stream.want()).toBeNull();
  confirm(stream, { received: 1, creditBytes: 160 });
  expect(span(stream)).toBe('2..5 attempt 0 max 30');
});

test('a NAK rewinds to before the record, as a new attempt; said again it changes nothing', () => {
  const stream = source(9);
  connect(stream);
  sent(stream, 9);
  confirm(stream, { received: 3 });
  expect(nak(stream, { sequence: 5 })).toEqual(['rewound attempt=1 from=5 base=null reason=1']);
  expect(span(stream)).toBe('5..9 attempt 1 max 990');
  expect(nak(stream, { sequence: 4 })).toEqual([]);
  sent(stream, 9);
  expect(confirm(stream, { received: 9, attempt: 0 })).toEqual(['progressed']);
});

test('rejected and granted are said once each', () => {
  const stream = source(5);
  connect(stream);
  sent(stream, 5);
  expect(confirm(stream, { received: 5, granted: 1, applied: 1, rejected: 2 })).toEqual([
    'rejected sequence=2',
    'progressed',
  ]);
  expect(confirm(stream, { received: 5, granted: 1, applied: 1, rejected: 2 })).toEqual([]);
  expect(stream.rejected).toBe(2);
  expect(confirm(stream, { received: 5, granted: 2, applied: 2 })).toEqual(['granted sequence=2', 'progressed']);
});

test.each<[string, Partial<Confirm>, RegExp]>([
  ['more than was sent', { received: 6 }, /CONFIRM of 6, sent only 5/],
  ['cursors out of order', { received: 4, granted: 3, applied: 4 }, /out of order/],
  ['durable what was not received', { received: 4, durable: 5 }, /out of order/],
  ['less than before', { received: 2 }, /takes back/],
  ['less credit than before', { received: 3, creditBytes: 999 }, /takes back/],
  ['an attempt that did not begin', { received: 4, attempt: 1 }, /attempt 1, not begun/],
  ['rejects what is granted', { received: 4, granted: 4, rejected: 4 }, /rejects 4/],
  ['a later epoch', { epoch: 2 }, /epoch 2 in epoch 1/],
])('a peer that confirms %s breaks the protocol, and nothing it says counts', (_what, changes, reason) => {
  const stream = source(5);
  connect(stream);
  sent(stream, 5);
  confirm(stream, { received: 3 });
  const effects = confirm(stream, changes);
  expect(effects).toHaveLength(1);
  expect(effects[0]).toMatch(/^broken/);
  expect(effects[0]).toMatch(reason);
  expect([stream.phase, stream.received, stream.want()]).toEqual(['broken', 3, null]);
  expect(confirm(stream, { received: 5 })).toEqual([]);
});

test.each([0, 3, 6])('a NAK of %d, which is not on its way, breaks the protocol', (sequence) => {
  const stream = source(9);
  connect(stream);
  sent(stream, 5);
  confirm(stream, { received: 3 });
  expect(nak(stream, { sequence })[0]).toMatch(/^broken reason="NAK of/);
});

test('after a reconnect the peer may have gone back, but never behind what was trimmed', () => {
  const stream = source(9);
  connect(stream);
  sent(stream, 9);
  confirm(stream, { received: 9, granted: 6, applied: 6, durable: 4 });
  stream.step({ kind: 'disconnected' }, 0);
  expect(stream.want()).toBeNull();
  const at = { durable: 4, applied: 2, creditBytes: 1000, base: null, consistent: true };
  stream.step({ kind: 'connected', epoch: 2, received: 5, ...at }, 0);
  stream.drain();
  expect([stream.sent, stream.received, stream.applied, stream.trimmed]).toEqual([5, 5, 4, 4]);
  expect(span(stream)).toBe('6..9 attempt 0 max 1000');
  expect(confirm(stream, { epoch: 1, received: 9 })).toEqual([]);
  stream.drain();
  stream.step({ kind: 'connected', epoch: 3, received: 3, ...at, durable: 3 }, 0);
  expect(lines(stream.drain())).toEqual(['broken reason="the journal begins at 5, the peer ends at 3"']);
  stream.step({ kind: 'connected', epoch: 4, received: 5, ...at, durable: 3 }, 0);
  expect(lines(stream.drain())[0]).toMatch(/it lost durable records/);
  stream.step({ kind: 'connected', epoch: 5, received: 10, ...at }, 0);
  expect(lines(stream.drain())[0]).toMatch(/the peer has 10, this stream ends at 9/);
});

test('base copy: base records, then the stream from its start; its cursors promise nothing until it is consistent', () => {
  const stream = source(7);
  const base = { volume: 0, lba: 3 };
  const at = { received: 7, durable: 7, applied: 7, creditBytes: 1000, base, consistent: false };
  stream.step({ kind: 'connected', epoch: 1, ...at }, 0);
  stream.drain();
  expect(stream.want()).toMatchObject({ phase: 'base', from: 0, through: 0, volume: 0, lba: 3 });
  stream.step({ kind: 'baseSent', next: { volume: 0, lba: 9 }, bytes: 100, last: false, readAt: 7 }, 0);
  stream.step({ kind: 'moved', appended: 8, sealed: 8, durable: 7 }, 0);
  expect(stream.want()).toMatchObject({ phase: 'base', lba: 9, bytesMax: 900 });
  stream.step({ kind: 'baseSent', next: { volume: 1, lba: 0 }, bytes: 100, last: true, readAt: 7 }, 0);
  expect(stream.want()).toMatchObject({ phase: 'streaming', from: 8, through: 8 });
  expect(nak(stream, { sequence: 0, base: { volume: 0, lba: 5 } })[0]).toMatch(/^rewound attempt=1 from=0/);
  expect(stream.want()).toMatchObject({ phase: 'base', attempt: 1, lba: 5 });
  stream.step({ kind: 'baseSent', next: { volume: 1, lba: 0 }, bytes: 100, last: true, readAt: 7 }, 0);
  sent(stream, 8);
  const whole = { received: 8, granted: 8, applied: 8, durable: 8 };
  expect(confirm(stream, { ...whole, attempt: 1, consistent: false })).toEqual(['progressed']);
  expect(stream.consistent).toBe(false);
  expect(confirm(stream, { ...whole, attempt: 1, consistent: true })).toEqual(['consistent']);
  expect(stream.consistent).toBe(true);
});

test('without a copy in this epoch, too, the cursors promise nothing while the target has one to catch up with', () => {
  const stream = source(5);
  const at = { received: 3, durable: 3, applied: 3, creditBytes: 1000 };
  stream.step({ kind: 'connected', epoch: 1, ...at, base: null, consistent: false }, 0);
  stream.drain();
  expect(stream.consistent).toBe(false);
  sent(stream, 5);
  confirm(stream, { received: 5, granted: 5, applied: 5, durable: 5, consistent: false });
  expect(stream.consistent).toBe(false);
  const caughtUp = { received: 5, granted: 5, applied: 5, durable: 5, consistent: true };
  expect(confirm(stream, caughtUp)).toContain('consistent');
  expect(stream.consistent).toBe(true);
});

test('base records that were read before their content was durable must not go', () => {
  // found by the simulator: the source crashed behind such a copy and used the sequences again
  const stream = source(7);
  const base = { volume: 0, lba: 0 };
  const at = { received: 7, durable: 7, applied: 7, creditBytes: 1000, base, consistent: false };
  stream.step({ kind: 'connected', epoch: 1, ...at }, 0);
  stream.step({ kind: 'moved', appended: 9, sealed: 9, durable: 8 }, 0);
  const next = { volume: 0, lba: 4 };
  expect(() => stream.step({ kind: 'baseSent', next, bytes: 10, last: false, readAt: 9 }, 0)).toThrow(/only 8 durable/);
});

test('lock-step: the lock, wait for its grant, the rest, wait for it to be applied, the next scope', () => {
  const stream = source(8, 'off');
  stream.step({ kind: 'scope', lock: 1, end: null }, 0);
  stream.step({ kind: 'scope', lock: 1, end: 4 }, 0);
  stream.step({ kind: 'scope', lock: 6, end: null }, 0);
  connect(stream);
  expect(span(stream)).toMatch(/^1..1 /);
  sent(stream, 1);
  expect(span(stream)).toBeNull();
  confirm(stream, { received: 1, granted: 1, applied: 1 });
  expect(span(stream)).toMatch(/^2..4 /);
  sent(stream, 4);
  confirm(stream, { received: 4, granted: 4, applied: 3 });
  expect(span(stream)).toBeNull();
  confirm(stream, { received: 4, granted: 4, applied: 4 });
  expect(span(stream)).toMatch(/^5..5 /); // a scope of its own
  sent(stream, 5);
  expect(span(stream)).toBeNull();
  confirm(stream, { received: 5, granted: 5, applied: 5 });
  expect(span(stream)).toMatch(/^6..6 /);
  sent(stream, 6);
  expect(span(stream)).toBeNull();
  confirm(stream, { received: 6, granted: 6, applied: 6 });
  expect(span(stream)).toMatch(/^7..8 /); // the scope is still open
});

test('a heartbeat is due once per interval while connected', () => {
  const stream = source(1);
  stream.step({ kind: 'tick' }, 5 * HEARTBEAT_MS);
  expect(stream.drain()).toEqual([]);
  connect(stream);
  stream.step({ kind: 'tick' }, HEARTBEAT_MS);
  stream.step({ kind: 'tick' }, HEARTBEAT_MS + 1);
  expect(lines(stream.drain())).toEqual(['heartbeat']);
});

test('halt: nothing is sent from the rejection to the grant; what was sent stays sent, and heartbeats go on', () => {
  const stream = source(9, 'on', 'halt');
  connect(stream);
  sent(stream, 5);
  expect(confirm(stream, { received: 5, granted: 1, applied: 1, durable: 5, rejected: 2 })).toEqual([
    'rejected sequence=2',
    'progressed',
  ]);
  expect([stream.stopped, stream.want()]).toEqual(['halted', null]);
  stream.step({ kind: 'moved', appended: 12, sealed: 12, durable: 9 }, 0);
  expect(stream.want()).toBeNull();
  stream.step({ kind: 'tick' }, HEARTBEAT_MS);
  expect(lines(stream.drain())).toEqual(['heartbeat']);
  expect(confirm(stream, { received: 5, granted: 3, applied: 3, durable: 5, rejected: 4 })).toEqual([
    'granted sequence=2',
    'rejected sequence=4',
    'progressed',
  ]);
  expect(stream.stopped).toBe('halted');
  confirm(stream, { received: 5, granted: 5, applied: 5, durable: 5 });
  expect([stream.stopped, span(stream)]).toEqual([null, '6..12 attempt 0 max 990']);
});

test('halt: a cut ends it; the target says again what waits there', () => {
  const stream = source(9, 'on', 'halt');
  connect(stream);
  sent(stream, 5);
  confirm(stream, { received: 5, granted: 1, applied: 1, rejected: 2 });
  stream.step({ kind: 'disconnected' }, 0);
  expect([stream.stopped, stream.want()]).toEqual([null, null]);
  const at = { received: 5, durable: 5, applied: 1, creditBytes: 1000, base: null, consistent: true };
  stream.step({ kind: 'connected', epoch: 2, ...at }, 0);
  expect(span(stream)).toMatch(/^6..9 /);
  stream.drain();
  expect(confirm(stream, { epoch: 2, received: 5, granted: 1, applied: 1, durable: 5, rejected: 2 })[0]).toBe(
    'rejected sequence=2',
  );
  expect(stream.stopped).toBe('halted');
});

test('retransmit: back to before the record as a new attempt, held there until the lock can be had', () => {
  const stream = source(9, 'on', 'retransmit');
  connect(stream);
  sent(stream, 9, 90);
  confirm(stream, { received: 3, granted: 3, applied: 3 });
  expect(nak(stream, { sequence: 4, reason: NAK_REJECTED })).toEqual([
    'rewound attempt=1 from=4 base=null reason=2',
    'rejected sequence=4',
  ]);
  expect([stream.sent, stream.stopped, stream.want()]).toEqual([3, 'rewound', null]);
  const still = { attempt: 1, received: 3, granted: 3, applied: 3 };
  expect(confirm(stream, { ...still, rejected: 4 })).toEqual([]);
  expect(nak(stream, { sequence: 4, reason: NAK_REJECTED })).toEqual([]); // said again
  stream.step({ kind: 'moved', appended: 12, sealed: 12, durable: 9 }, 0);
  expect(stream.want()).toBeNull();
  expect(confirm(stream, { ...still, rejected: 0 })).toEqual(['granted sequence=4']);
  expect([stream.stopped, span(stream)]).toEqual([null, '4..12 attempt 1 max 910']);
  // the second time it may be damaged on the way, or rejected behind the first
  sent(stream, 12);
  expect(nak(stream, { attempt: 1, sequence: 4 })).toEqual(['rewound attempt=2 from=4 base=null reason=1']);
  expect(span(stream)).toMatch(/^4..12 attempt 2 /);
  sent(stream, 12);
  confirm(stream, { attempt: 2, received: 6, granted: 6, applied: 6 });
  expect(nak(stream, { attempt: 2, sequence: 7, reason: NAK_REJECTED })[1]).toBe('rejected sequence=7');
  expect([stream.attempt, stream.stopped]).toEqual([3, 'rewound']);
});

test('retransmit: a cut while held back ends the wait; the new epoch begins where the target is', () => {
  const stream = source(9, 'on', 'retransmit');
  connect(stream);
  sent(stream, 9);
  nak(stream, { sequence: 4, reason: NAK_REJECTED });
  stream.step({ kind: 'disconnected' }, 0);
  const at = { received: 3, durable: 3, applied: 3, creditBytes: 1000, base: null, consistent: true };
  stream.step({ kind: 'connected', epoch: 2, ...at }, 0);
  stream.drain();
  expect([stream.stopped, span(stream)]).toEqual([null, '4..9 attempt 0 max 1000']);
  expect(nak(stream, { epoch: 1, attempt: 1, sequence: 5, reason: NAK_REJECTED })).toEqual([]);
});

test('retransmit, lock-step: the lock alone goes again, and its data behind the grant', () => {
  const stream = source(4, 'off', 'retransmit');
  stream.step({ kind: 'scope', lock: 1, end: 4 }, 0);
  connect(stream);
  sent(stream, 1);
  nak(stream, { sequence: 1, reason: NAK_REJECTED });
  expect(stream.want()).toBeNull();
  confirm(stream, { attempt: 1 });
  expect(span(stream)).toMatch(/^1..1 attempt 1 /);
  sent(stream, 1);
  confirm(stream, { attempt: 1, received: 1, granted: 1, applied: 1 });
  expect(span(stream)).toMatch(/^2..4 /);
});

test.each<[RejectPolicy, number]>([
  ['target-retry', 4],
  ['halt', 4],
  ['retransmit', 0],
])('under %s a NAK that drops %d for its lock breaks the protocol', (policy, sequence) => {
  const stream = source(9, 'on', policy);
  connect(stream);
  sent(stream, 9);
  const base = sequence === 0 ? { volume: 0, lba: 0 } : null;
  expect(nak(stream, { sequence, base, reason: NAK_REJECTED })[0]).toMatch(/^broken reason="NAK drops/);
});

test('retransmit: a CONFIRM that rejects what was not received breaks the protocol, unless it was dropped', () => {
  const stream = source(9, 'on', 'retransmit');
  connect(stream);
  sent(stream, 9);
  expect(confirm(stream, { received: 3, granted: 3, applied: 3, rejected: 4 })[0]).toMatch(/^broken/);
});
