import { expect, test } from 'vitest';
import { ForelockError } from '../../src/errors.js';
import {
  AckGate,
  APPLIED_FLUSH,
  APPLIED_WRITE,
  ackLevel,
  LOCAL_FLUSH,
  LOCAL_WRITE,
  RECEIVED_FLUSH,
  RECEIVED_WRITE,
} from '../../src/volume/gate.js';

const LEVELS = [LOCAL_WRITE, LOCAL_FLUSH, RECEIVED_WRITE, RECEIVED_FLUSH, APPLIED_WRITE, APPLIED_FLUSH] as const;
const NAMES = ['local write', 'local flush', 'received write', 'received flush', 'applied write', 'applied flush'];

function rig() {
  const gate = new AckGate();
  const settled: string[] = [];
  const push = (sequence: number, level: (typeof LEVELS)[number]) =>
    gate.push(sequence, level, {
      settle: (error) => void settled.push(`${NAMES[level]} ${sequence}${error === null ? '' : ` ${error.code}`}`),
    });
  return { gate, settled, push };
}

test.each([
  [[0, 0, 0, 0], ['local write']],
  [
    [5, 0, 0, 0],
    ['local write', 'local flush'],
  ],
  [
    [0, 5, 0, 0],
    ['local write', 'received write'],
  ],
  [
    [0, 5, 5, 0],
    ['local write', 'received write'],
  ],
  [
    [5, 5, 5, 0],
    ['local write', 'local flush', 'received write', 'received flush'],
  ],
  [
    [0, 5, 5, 5],
    ['local write', 'received write', 'applied write'],
  ],
  [
    [5, 5, 0, 5],
    ['local write', 'local flush', 'received write', 'applied write'],
  ],
  [[5, 5, 5, 5], NAMES],
  [[5, Infinity, Infinity, Infinity], NAMES],
])('with durable, received, peer durable, applied at %j: %j', ([durable, received, peerDurable, applied], expected) => {
  const { gate, settled, push } = rig();
  for (const level of LEVELS) push(5, level);
  expect(settled).toEqual([]);
  gate.advance(durable, received, peerDurable, applied);
  expect(settled).toEqual(expected.map((name) => `${name} 5`));
  expect(gate.pending).toBe(6 - expected.length);
});

test('levels of the acks', () => {
  expect(
    (['local', 'received', 'applied'] as const).flatMap((ack) => [ackLevel(ack, false), ackLevel(ack, true)]),
  ).toEqual([...LEVELS]);
});

test('FIFO within a level through any number; a write does not wait behind a flush', () => {
  const { gate, settled, push } = rig();
  for (let sequence = 1; sequence <= 1000; sequence += 1)
    push(sequence, sequence % 10 === 0 ? RECEIVED_FLUSH : RECEIVED_WRITE);
  for (let received = 0; received <= 1000; received += 37) gate.advance(0, received, 0, 0);
  gate.advance(0, 1000, 0, 0);
  expect(settled).toHaveLength(900);
  expect(gate.pendingPeer).toBe(100);
  gate.advance(1000, 1000, 1000, 0);
  const flushes = settled.slice(900).map((each) => Number(each.split(' ')[2]));
  expect(flushes).toEqual(Array.from({ length: 100 }, (_, index) => (index + 1) * 10));
});

test('failing: of the peer only, or of all; a completion that pushes again is not settled twice', () => {
  const { gate, settled, push } = rig();
  const error = new ForelockError('PEER_AWAY', 'away');
  for (const level of LEVELS) push(5, level);
  gate.failPeer(error);
  expect(settled).toEqual(NAMES.slice(2).map((name) => `${name} 5 PEER_AWAY`));
  gate.failAll(error);
  expect(settled).toHaveLength(6);
  let count = 0;
  const again = {
    settle: () => {
      count += 1;
      gate.push(6, LOCAL_WRITE, again);
    },
  };
  gate.push(6, LOCAL_WRITE, again);
  gate.advance(0, 0, 0, 0);
  expect([count, gate.pending]).toEqual([1, 1]);
});

test('a full disk fails flushes alone: a write may be safe at the peer', () => {
  const { gate, settled, push } = rig();
  for (const level of LEVELS) push(5, level);
  gate.failFlushes(new ForelockError('ENOSPC', 'full'));
  expect(settled).toEqual(['local flush 5 ENOSPC', 'received flush 5 ENOSPC', 'applied flush 5 ENOSPC']);
  gate.advance(0, 5, 0, 5);
  expect(settled.slice(3)).toEqual(['local write 5', 'received write 5', 'applied write 5']);
});

test('a queue that grows while its head stands in its middle keeps its order', () => {
  const { gate, settled, push } = rig();
  for (let sequence = 1; sequence <= 60; sequence += 1) push(sequence, RECEIVED_WRITE);
  gate.advance(0, 40, 0, 0);
  for (let sequence = 61; sequence <= 200; sequence += 1) push(sequence, RECEIVED_WRITE);
  for (let received = 41; received <= 200; received += 1) {
    gate.advance(0, received, 0, 0);
    expect(settled.at(-1)).toBe(`received write ${received}`);
  }
  expect(settled).toHaveLength(200);
});
