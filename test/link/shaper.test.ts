import { expect, test } from 'vitest';
import { CREDIT_BYTES, LINK_BUFFER_MAX } from '../../src/limits.js';
import { CLOSE_NORMAL, type Link } from '../../src/link/link.js';
import { ShapedLink } from '../../src/link/shaper.js';
import { FakeClock } from './helpers.js';

/** The line under the shaper: writes down what comes out and when. */
class Wire implements Link {
  onMessage: Link['onMessage'] = null;
  onDrain: Link['onDrain'] = null;
  onClose: Link['onClose'] = null;
  bufferedBytes = 0;
  roundTripMs = 1;
  unprovenMs = 0;
  bytesSent = 0;
  bytesReceived = 0;
  paused = false;
  closed: { code: number; reason: string; at: number } | null = null;
  readonly sent: { at: number; number: number; size: number }[] = [];
  readonly held: (() => void)[] = [];

  constructor(private readonly clock: FakeClock) {}

  send(header: Uint8Array, stretch: Uint8Array | null, released: (() => void) | null): void {
    this.sent.push({ at: this.clock.time, number: header[0]!, size: header.length + (stretch?.length ?? 0) });
    if (released !== null) this.held.push(released);
  }
  pauseReceiving(): void {
    this.paused = true;
  }
  resumeReceiving(): void {
    this.paused = false;
  }
  close(code: number, reason: string): void {
    this.closed = { code, reason, at: this.clock.time };
    queueMicrotask(() => this.onClose?.(reason, code));
  }
}

function make(roundTripMs: number, bytesPerSecond: number) {
  const clock = new FakeClock();
  const wire = new Wire(clock);
  return { clock, wire, link: new ShapedLink(wire, { roundTripMs, bytesPerSecond }, clock) };
}

const message = (number: number, size: number) => Uint8Array.of(number, ...new Array(size - 1).fill(0));
const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

test('a message arrives half a round trip later, in both directions, and in order', () => {
  const { clock, wire, link } = make(50, 0);
  const got: { at: number; number: number }[] = [];
  link.onMessage = (header) => got.push({ at: clock.time, number: header[0]! });
  for (let number = 1; number <= 3; number += 1) {
    link.send(message(number, 100), null, null);
    wire.onMessage!(message(number, 100), null);
    clock.advance(1);
  }
  expect(wire.sent).toEqual([]);
  clock.advance(100);
  expect(wire.sent.map(({ at, number }) => ({ at, number }))).toEqual([
    { at: 25, number: 1 },
    { at: 26, number: 2 },
    { at: 27, number: 3 },
  ]);
  expect(got).toEqual(wire.sent.map(({ at, number }) => ({ at, number })));
  expect(link.roundTripMs).toBe(51);
  expect(clock.pending).toBe(0);
});

test('the rate is that of a line which carries one message after the other', () => {
  const { clock, wire, link } = make(20, 1000); // a byte a millisecond
  link.send(message(1, 100), null, null);
  link.send(message(2, 50), new Uint8Array(150), null);
  clock.advance(1000);
  link.send(message(3, 10), null, null); // the line has been idle: no credit is saved up
  clock.advance(1000);
  expect(wire.sent).toEqual([
    { at: 110, number: 1, size: 100 },
    { at: 310, number: 2, size: 200 },
    { at: 1020, number: 3, size: 10 },
  ]);
});

test('what waits for the line is buffered, what is in flight is not, and a drain is told', () => {
  const { clock, link } = make(1000, LINK_BUFFER_MAX); // one buffer a second
  let drains = 0;
  link.onDrain = () => {
    drains += 1;
  };
  for (let part = 0; part < 8; part += 1) link.send(message(part, 2), new Uint8Array(LINK_BUFFER_MAX / 8 - 2), null);
  expect(link.bufferedBytes).toBe(LINK_BUFFER_MAX);
  clock.advance(500);
  expect(link.bufferedBytes).toBe(LINK_BUFFER_MAX / 2);
  expect(drains).toBe(0);
  clock.advance(125);
  expect(drains).toBe(1);
  clock.advance(10_000);
  expect(link.bufferedBytes).toBe(0);
  expect(drains).toBe(1);
});

test('bytes are released only when the line below has released them', () => {
  const { clock, wire, link } = make(10, 0);
  let released = 0;
  link.send(message(1, 2), new Uint8Array(10), () => {
    released += 1;
  });
  clock.advance(1000);
  expect(wire.held.length).toBe(1);
  expect(released).toBe(0);
  wire.held[0]!();
  expect(released).toBe(1);
});

test('a paused receiver gets nothing, holds no more than its bound, and then gets everything in order', async () => {
  const { clock, wire, link } = make(10, 0);
  const got: number[] = [];
  link.onMessage = (header) => got.push(header[0]!);
  wire.onMessage!(message(1, 10), null);
  link.pauseReceiving();
  expect(wire.paused).toBe(true);
  wire.onMessage!(message(2, 10), null);
  clock.advance(1000);
  expect(got).toEqual([]);
  link.resumeReceiving();
  expect(got).toEqual([]); // never inside the call
  await turn();
  expect(got).toEqual([1, 2]);
  expect(wire.paused).toBe(false);
});

test('a line that holds more than the credit pauses the peer', () => {
  const { clock, wire, link } = make(60_000, 0);
  link.onMessage = () => {};
  const stretch = new Uint8Array(64 * 1024 * 1024);
  for (let held = 0; held <= CREDIT_BYTES; held += stretch.length) wire.onMessage!(message(1, 2), stretch);
  expect(wire.paused).toBe(true);
  clock.advance(60_000);
  expect(wire.paused).toBe(false);
});

test('a close goes behind what says why', async () => {
  const { clock, wire, link } = make(10, 0);
  let closed = '';
  link.onClose = (reason) => {
    closed = reason;
  };
  link.send(message(1, 10), null, null);
  link.close(CLOSE_NORMAL, 'done');
  expect(closed).toBe('');
  await turn();
  expect(closed).toBe('done');
  expect(wire.sent.length).toBe(1);
  expect(wire.closed).toEqual({ code: CLOSE_NORMAL, reason: 'done', at: 0 });
  clock.advance(100);
  let released = false;
  link.send(message(2, 10), null, () => {
    released = true;
  });
  await turn();
  expect(released).toBe(true);
  expect(wire.sent.length).toBe(1);
});

/**
 * The owner was told at once that the link was closed, and counted from then on how long the other site may still serve. The
 * link inside stayed open until all that waited for the line had passed, for more than a minute, and answered the other
 * site's pings meanwhile: that served on, and the owner's hosts were served alone.
 */
test('the link inside does not outlive its owner’s, whatever still waits for the line', async () => {
  const { clock, wire, link } = make(10, 100_000);
  const released: number[] = [];
  link.send(message(1, 10), null, null);
  for (let number = 0; number < 4; number += 1)
    link.send(Uint8Array.of(2, 0x80), new Uint8Array(256 * 1024), () => released.push(number));
  link.send(message(3, 10), null, null);
  link.close(CLOSE_NORMAL, 'done');
  expect(wire.closed).toEqual({ code: CLOSE_NORMAL, reason: 'done', at: 0 });
  expect([wire.sent.map(({ number }) => number), released]).toEqual([[1], []]);
  await turn();
  expect(released).toEqual([0, 1, 2, 3]);
  clock.advance(100_000);
  expect(wire.sent.length).toBe(1);
});

test('a cut delivers what had arrived, releases what had not left, and is told once', async () => {
  const { wire, link } = make(1000, 0);
  const events: string[] = [];
  link.onMessage = (header) => events.push(`message ${header[0]}`);
  link.onClose = (reason) => events.push(`closed: ${reason}`);
  link.send(message(1, 10), null, () => events.push('released'));
  wire.onMessage!(message(2, 10), null);
  wire.onClose!('cable', 1006);
  await turn();
  expect(events).toEqual(['message 2', 'closed: cable', 'released']);
});

test.each(['close', 'cut'] as const)(
  'what is left on the line after a %s wakes nobody up, whoever still lets go of the link',
  async (how) => {
    // A receiver that had waited for room resumed a link that was gone: a timer of no time set the next one, for ever.
    const { clock, wire, link } = make(50, 0);
    wire.onMessage!(message(1, 10), null);
    link.pauseReceiving();
    if (how === 'close') link.close(CLOSE_NORMAL, 'over');
    else wire.onClose!('cable', 1006);
    await turn();
    link.resumeReceiving();
    await turn();
    expect(clock.pending).toBe(0);
  },
);
