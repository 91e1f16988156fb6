import { Socket } from 'node:net';
import { afterEach, expect, test, vi } from 'vitest';
import { WebSocket } from 'ws';
import { LINK_BUFFER_MAX } from '../../src/limits.js';
import { CLOSE_NORMAL, CLOSE_PROTOCOL, CLOSE_TIMEOUT } from '../../src/link/link.js';
import { header, LISTEN, type LinkRecord, TestEnd, until } from './helpers.js';

const toClose: TestEnd[] = [];
afterEach(async () => {
  for (const end of toClose.splice(0)) await end.endpoint.close();
});

async function links(zeroMask?: boolean): Promise<{ a: LinkRecord; b: LinkRecord }> {
  const b = await TestEnd.open({ site: 'b', where: LISTEN });
  const a = await TestEnd.open({ site: 'a', where: { connect: b.url }, zeroMask });
  toClose.push(a, b);
  await until(() => a.links.length === 1 && b.links.length === 1);
  return { a: a.last, b: b.last };
}

test.each([
  ['zero mask', true],
  ['random mask', false],
])(
  'stretches of shared memory arrive intact and in order, and are reused only when released (%s)',
  async (_, zeroMask) => {
    const { a, b } = await links(zeroMask);
    for (const [from, to] of [
      [a, b],
      [b, a],
    ] as const) {
      const count = 2000;
      const slots = 8;
      const slotSize = 70_000;
      const shared = new Uint8Array(new SharedArrayBuffer(slots * slotSize));
      const free = [...Array(slots).keys()];
      let bad = 0;
      let received = 0;
      to.link.onMessage = (head, stretch) => {
        const number = received;
        received += 1;
        if (Buffer.from(head.subarray(2)).toString() !== String(number)) bad += 1;
        const wanted = number % 3 === 2 ? null : 1 + ((number * 7919) % slotSize);
        if ((stretch?.length ?? null) !== wanted) bad += 1;
        if (stretch?.some((byte) => byte !== (number & 255))) bad += 1;
      };
      for (let number = 0; number < count; number += 1) {
        if (number % 3 === 2) {
          from.link.send(header(String(number)), null, null);
          continue;
        }
        while (free.length === 0) await new Promise((resolve) => setImmediate(resolve));
        const slot = free.pop()!;
        const stretch = shared.subarray(slot * slotSize, slot * slotSize + 1 + ((number * 7919) % slotSize));
        stretch.fill(number & 255);
        from.link.send(header(String(number), true), stretch, () => {
          stretch.fill(0xee); // whoever still reads it now reads garbage
          free.push(slot);
        });
      }
      await until(() => received === count);
      expect(bad).toBe(0);
      await until(() => free.length === slots);
      expect(from.link.bufferedBytes).toBe(0);
    }
  },
);

test('the messages of one turn leave in one write', async () => {
  const { a, b } = await links();
  await new Promise((resolve) => setImmediate(resolve));
  const writes = vi.spyOn(Socket.prototype, '_write');
  const batches = vi.spyOn(Socket.prototype, '_writev' as '_write');
  let left = 0;
  for (let number = 0; number < 100; number += 1) {
    a.link.send(header(`small ${number}`, true), Buffer.of(number), () => {
      left += 1;
    });
  }
  expect(left).toBe(0);
  await until(() => left === 100 && b.messages.length === 100);
  const sizes = batches.mock.calls.map(([chunks]) => (chunks as unknown as unknown[]).length);
  vi.restoreAllMocks();
  expect(sizes).toContain(400); // two WebSocket messages each, of a frame header and a payload
  expect(writes.mock.calls.length).toBeLessThan(10); // heartbeats and the like
  expect(b.messages.map((message) => message.stretch![0])).toEqual([...Array(100).keys()]);
});

test('a paused receiver gets nothing more, the sender fills up, and a drain is told when it goes on', async () => {
  const { a, b } = await links();
  b.link.pauseReceiving();
  let drains = 0;
  let released = 0;
  let sent = 0;
  a.link.onDrain = () => {
    drains += 1;
  };
  const stretch = new Uint8Array(1 << 20);
  const before = b.messages.length;
  // more than every buffer of the kernel between the two
  while (a.link.bufferedBytes < LINK_BUFFER_MAX) {
    a.link.send(header('x', true), stretch, () => {
      released += 1;
    });
    sent += 1;
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  expect(drains).toBe(0);
  expect(released).toBeLessThan(sent);
  expect(b.messages.length - before).toBeLessThan(sent);
  b.link.resumeReceiving();
  await until(() => b.messages.length - before === sent && released === sent);
  expect(drains).toBe(1);
  expect(a.link.bufferedBytes).toBe(0);
});

/** Sends until neither end takes more. @returns how many messages, and how many of them were released */
async function fill({ link }: LinkRecord): Promise<{ sent: number; released: number }> {
  const count = { sent: 0, released: 0 };
  while (link.bufferedBytes < LINK_BUFFER_MAX) {
    link.send(header('x', true), new Uint8Array(1 << 20), () => {
      count.released += 1;
    });
    count.sent += 1;
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  return count;
}

/** It waited for a peer that took nothing to say goodbye, up to half a minute, and hosts for the ring that was lent. */
test('what a peer does not take is released when the link is closed for that', async () => {
  const { a, b } = await links();
  b.link.pauseReceiving();
  const count = await fill(a);
  expect(count.released).toBeLessThan(count.sent);
  a.link.close(CLOSE_TIMEOUT, 'nothing is taken');
  await until(() => count.released === count.sent);
  expect(toClose[1]!.links.length).toBe(1); // and not because another one took its place
});

test('what was sent into a link that dies is released all the same, once', async () => {
  const { a, b } = await links();
  b.link.pauseReceiving();
  const count = await fill(a);
  const both = [...toClose];
  toClose.length = 0;
  await Promise.all(both.map((end) => end.endpoint.close('over')));
  await until(() => count.released === count.sent);
  a.link.send(header('late'), null, () => {
    count.released += 1;
  });
  await until(() => count.released === count.sent + 1);
});

test('close is told once to each owner, never inside the call, and nothing is delivered after it', async () => {
  const { a, b } = await links();
  const events: string[] = [];
  a.link.onClose = (reason, code) => events.push(`a ${code} ${reason}`);
  b.link.onClose = (reason, code) => events.push(`b ${code} ${reason}`);
  a.link.onMessage = () => events.push('a message');
  b.link.send(header('crossing'), null, null);
  a.link.close(CLOSE_NORMAL, 'enough');
  a.link.close(CLOSE_NORMAL, 'twice');
  expect(events).toEqual([]);
  await until(() => events.length >= 2);
  expect(events).toEqual(['a 1000 enough', 'b 1000 enough']);
});

test('a header that does not match its stretch is our bug, and asserted', async () => {
  const { a } = await links();
  expect(() => a.link.send(header('x'), new Uint8Array(3), null)).toThrow('assertion failed');
  expect(() => a.link.send(header('x', true), null, null)).toThrow('assertion failed');
  expect(() => a.link.send(new Uint8Array(1), null, null)).toThrow('assertion failed');
  expect(() => a.link.send(header('x', true), new Uint8Array(0), null)).toThrow('assertion failed');
});

test.each([
  ['text', 'text', 'a text message'],
  ['one byte', Buffer.of(1), 'a binary message of 1 bytes'],
  ['a header as large as a stretch', Buffer.alloc(300 * 1024), 'a binary message of 307200 bytes'],
])('a peer that proved itself and then sends %s is cut off with the reason', async (_, message, reason) => {
  const b = await TestEnd.open({ site: 'b', where: LISTEN });
  toClose.push(b);
  const ws = await impostor(b.url);
  await until(() => b.links.length === 1);
  const closed = new Promise<{ code: number; reason: string }>((resolve) => {
    ws.on('close', (code, text) => resolve({ code, reason: text.toString() }));
  });
  ws.send(message);
  const { code, reason: told } = await closed;
  expect(code).toBe(CLOSE_PROTOCOL);
  expect(told).toContain(reason);
  expect(b.last.closed!.code).toBe(CLOSE_PROTOCOL);
});

/** A peer that knows the handshake and nothing else. */
async function impostor(url: string): Promise<WebSocket> {
  const { Handshake } = await import('../../src/link/handshake.js');
  const { h64Raw } = await (await import('xxhash-wasm')).default();
  const nonce = new Uint8Array(32).fill(7);
  const handshake = new Handshake({
    role: 'connector',
    site: 'x',
    version: '1',
    key: null,
    nonce,
    hello: null,
    xxh64: h64Raw,
  });
  const ws = new WebSocket(url);
  ws.on('error', () => {});
  ws.on('open', () => ws.send(handshake.start()));
  let over = false;
  ws.on('message', (data) => {
    if (over) return;
    const step = handshake.step(data as Buffer);
    if (step.send !== null) ws.send(step.send);
    over = step.done !== null;
  });
  return ws;
}
