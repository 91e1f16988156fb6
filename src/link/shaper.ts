/**
 * A link that behaves like a longer and narrower one: a layer with the same interface, for demonstrations and tests.
 *
 * One end shapes both directions, so a round trip gains `roundTripMs` when exactly one end has the layer. Each
 * direction is a line of its own: a message of s bytes occupies it for s / rate, behind the messages before it, and
 * arrives half a round trip after it has passed. Order is kept; nothing is lost.
 *
 *     out: send -> waits for the line -> in flight -> inner.send -> released
 *     in:  inner.onMessage -> waits for the line -> in flight -> onMessage
 *
 * What waits for the line counts as buffered, what is in flight does not (on a real line it has left this machine),
 * up to CREDIT_BYTES. A cut of the inner link is not delayed: what had arrived is delivered at once and the close after
 * it, so the owner never has two live links. Nor is a close by the owner: the inner link answers pings for as long as it
 * lives, and by those the other site may take it that this one still counts on the link. So it ends with the owner's, behind
 * a REFUSE and whatever else is in front of the first stretch under way; the rest is dropped, as by a cut.
 */
import { assert } from '../assert.js';
import { CREDIT_BYTES } from '../limits.js';
import type { Clock } from './clock.js';
import { fitReason, type Link } from './link.js';
import { LINK_BUFFER_LOW } from './ws-link.js';

export interface LinkShape {
  /** Added to every round trip; half of it each way. */
  roundTripMs: number;
  /** Bytes per second in each direction; 0 is no limit. */
  bytesPerSecond: number;
}

/** Sums of fractions of milliseconds are not exact: what is due within a nanosecond is due. */
const NANOSECOND = 1e-6;

interface Item {
  header: Uint8Array;
  stretch: Uint8Array | null;
  released: (() => void) | null;
  size: number;
  /** When the last byte is on the line, and when it is at the other end. */
  passedAt: number;
  arrivesAt: number;
}

/** One direction: a queue whose items become due in order. */
class Line {
  readonly items: Item[] = [];
  /** Items before this index are gone; the array is compacted now and then. */
  #first = 0;
  /** Items before this index have passed the line and are in flight. */
  #passed = 0;
  waitingBytes = 0;
  flyingBytes = 0;
  /** Nothing is to be taken now, so there is nothing to wake up for. */
  held = false;
  #freeAt = 0;
  #cancel: (() => void) | null = null;

  constructor(
    private readonly clock: Clock,
    private readonly shape: LinkShape,
    private readonly onDue: () => void,
  ) {}

  get isEmpty(): boolean {
    return this.#first === this.items.length;
  }

  push(header: Uint8Array, stretch: Uint8Array | null, released: (() => void) | null): void {
    const size = header.length + (stretch === null ? 0 : stretch.length);
    const now = this.clock.now();
    const { bytesPerSecond, roundTripMs } = this.shape;
    this.#freeAt = Math.max(now, this.#freeAt) + (bytesPerSecond === 0 ? 0 : (size * 1000) / bytesPerSecond);
    const passedAt = this.#freeAt;
    this.items.push({ header, stretch, released, size, passedAt, arrivesAt: passedAt + roundTripMs / 2 });
    this.waitingBytes += size;
    this.advance();
    this.wake();
  }

  /** Moves what has passed the line into flight. */
  advance(): void {
    const now = this.clock.now() + NANOSECOND;
    while (this.#passed < this.items.length && this.items[this.#passed]!.passedAt <= now) {
      this.waitingBytes -= this.items[this.#passed]!.size;
      this.flyingBytes += this.items[this.#passed]!.size;
      this.#passed += 1;
    }
  }

  /** The next item that has arrived, or null; `all` takes what is under way, too. */
  take(all: boolean): Item | null {
    this.advance();
    const item = this.items[this.#first];
    if (item === undefined || (!all && item.arrivesAt > this.clock.now() + NANOSECOND)) return null;
    if (this.#first < this.#passed) {
      this.flyingBytes -= item.size;
    } else {
      this.waitingBytes -= item.size;
      this.#passed += 1;
    }
    this.#first += 1;
    if (this.#first === this.items.length || this.#first > 1024) {
      this.items.splice(0, this.#first);
      this.#passed -= this.#first;
      this.#first = 0;
    }
    return item;
  }

  /** Sees to it that `onDue` is called when the first item passes or arrives. */
  wake(): void {
    if (this.#cancel !== null || this.held || this.isEmpty) return;
    const now = this.clock.now();
    const waiting = this.items[this.#passed];
    const at = Math.min(this.items[this.#first]!.arrivesAt, waiting === undefined ? Infinity : waiting.passedAt);
    this.#cancel = this.clock.after(Math.max(0, at - now), () => {
      this.#cancel = null;
      this.onDue();
      this.wake();
    });
  }

  stop(): void {
    this.#cancel?.();
    this.#cancel = null;
  }
}

export class ShapedLink implements Link {
  onMessage: Link['onMessage'] = null;
  onDrain: Link['onDrain'] = null;
  onClose: Link['onClose'] = null;
  bytesSent = 0;
  bytesReceived = 0;

  readonly #inner: Link;
  readonly #shape: LinkShape;
  readonly #out: Line;
  readonly #in: Line;
  #closed = false;
  #paused = false;
  #innerPaused = false;
  #wasFull = false;

  constructor(inner: Link, shape: LinkShape, clock: Clock) {
    assert(shape.roundTripMs >= 0 && shape.bytesPerSecond >= 0, 'a shape is not negative');
    this.#inner = inner;
    this.#shape = shape;
    this.#out = new Line(clock, shape, () => this.#leave());
    this.#in = new Line(clock, shape, () => this.#arrive());
    inner.onMessage = (header, stretch) => {
      if (this.#closed) return;
      this.#in.push(header.slice(), stretch === null ? null : stretch.slice(), null); // they are lent for this call
      this.#throttle();
    };
    inner.onDrain = () => this.#drain();
    inner.onClose = (reason, code) => this.#cut(reason, code);
  }

  get bufferedBytes(): number {
    const { waitingBytes, flyingBytes } = this.#out;
    return waitingBytes + Math.max(0, flyingBytes - CREDIT_BYTES) + this.#inner.bufferedBytes;
  }

  get roundTripMs(): number {
    return this.#inner.roundTripMs + this.#shape.roundTripMs;
  }

  get unprovenMs(): number {
    return this.#inner.unprovenMs;
  }

  send(header: Uint8Array, stretch: Uint8Array | null, released: (() => void) | null): void {
    if (this.#closed) {
      if (released !== null) process.nextTick(released);
      return;
    }
    this.bytesSent += header.length + (stretch === null ? 0 : stretch.length);
    this.#out.push(header, stretch, released);
    if (this.bufferedBytes >= LINK_BUFFER_LOW) this.#wasFull = true;
  }

  pauseReceiving(): void {
    this.#paused = true;
    this.#in.held = true;
    this.#in.stop();
    this.#throttle();
  }

  resumeReceiving(): void {
    if (!this.#paused || this.#closed) return; // what is still here is never taken
    this.#paused = false;
    this.#in.held = false;
    queueMicrotask(() => this.#arrive());
  }

  close(code: number, reason: string): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#in.held = true;
    this.#in.stop();
    const fitted = fitReason(reason);
    this.#out.stop();
    let item = this.#out.take(true);
    for (; item !== null && item.stretch === null; item = this.#out.take(true))
      this.#inner.send(item.header, null, item.released);
    if (item !== null) releaseSoon(item);
    this.#drop();
    this.#inner.close(code, fitted);
    queueMicrotask(() => this.onClose?.(fitted, code));
  }

  #leave(): void {
    for (let item = this.#out.take(false); item !== null; item = this.#out.take(false)) {
      this.#inner.send(item.header, item.stretch, item.released);
    }
    this.#drain();
  }

  /** What has not left never will. */
  #drop(): void {
    this.#out.stop();
    for (let item = this.#out.take(true); item !== null; item = this.#out.take(true)) releaseSoon(item);
  }

  #drain(): void {
    this.#out.advance();
    if (!this.#wasFull || this.bufferedBytes >= LINK_BUFFER_LOW) return;
    this.#wasFull = false;
    if (!this.#closed) this.onDrain?.();
  }

  #arrive(): void {
    this.#deliver(false);
    this.#in.wake();
    this.#throttle();
  }

  #deliver(all: boolean): void {
    while (!this.#closed && !this.#paused) {
      const item = this.#in.take(all);
      if (item === null) return;
      this.bytesReceived += item.size;
      this.onMessage?.(item.header, item.stretch);
    }
  }

  /** Keeps what is held for a line within CREDIT_BYTES. */
  #throttle(): void {
    this.#in.advance();
    const wanted = this.#paused || this.#in.waitingBytes + this.#in.flyingBytes > CREDIT_BYTES;
    if (wanted === this.#innerPaused || this.#closed) return;
    this.#innerPaused = wanted;
    if (wanted) this.#inner.pauseReceiving();
    else this.#inner.resumeReceiving();
  }

  #cut(reason: string, code: number): void {
    this.#drop();
    if (this.#closed) return;
    this.#deliver(true);
    this.#in.held = true;
    this.#in.stop();
    if (this.#closed) return; // by the owner, in a message's handler
    this.#closed = true;
    this.onClose?.(reason, code);
  }
}

function releaseSoon({ released }: Item): void {
  if (released !== null) process.nextTick(released);
}
