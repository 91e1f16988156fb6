/** A link in memory: a line that delays, slows, flips bits and is cut, with an end at each site. */
import { CLOSE_TIMEOUT, type Link } from '../../src/link/link.js';
import { decode, KIND_DATA } from '../../src/mirror/wire.js';
import type { Chance, Life } from './group-rig.js';

/** Frames of a link that may come twice: as many as are within any credit. */
const REPEATED_MAX = 3;

/** Messages that an end has read when it is paused. */
const READ_MAX = 3;

interface Message {
  header: Uint8Array;
  stretch: Uint8Array | null;
  released: (() => void) | null;
  size: number;
}

/** What a link is told of its line, which may change while it is up. */
export interface LinkWorld extends Chance {
  readonly line: {
    /** Longest delay of a message, ms. */
    delayMax: number;
    /** Probability that a stretch arrives with a flipped bit. */
    bitFlip: number;
    /** Probability that a frame of records is sent twice, of the first ones that a link carries. */
    repeat: number;
    /** Bytes per ms. */
    rate: number;
  };
  met(what: string): void;
}

/** One end of a link in memory. What is in flight is lost when it is cut. */
export class SimLink implements Link {
  onMessage: ((header: Uint8Array, stretch: Uint8Array | null) => void) | null = null;
  onDrain: (() => void) | null = null;
  onClose: ((reason: string, code: number) => void) | null = null;
  bufferedBytes = 0;
  roundTripMs = 1;
  bytesSent = 0;
  bytesReceived = 0;
  /** Why it was closed at this end, for the world to judge. */
  closedWith: { code: number; reason: string } | null = null;
  readonly #world: LinkWorld;
  /** Of the machine at this end. */
  readonly #life: Life;
  peer!: SimLink;
  readonly #out: Message[] = [];
  readonly #in: (Message | { code: number; reason: string })[] = [];
  #leaving = false;
  #paused = false;
  /** So many more come although it is paused: they were read already. */
  #read = 0;
  #closing = false;
  #ended = false;
  #arrival = 0;
  #wasHigh = false;
  /** Frames of the stream that it has sent. */
  #frames = 0;
  #delivering = false;
  /** What it sends does not arrive before then, ms; since when. */
  #stalledUntil = 0;
  #stalledAt = 0;
  /** When the line went, in either direction, ms. */
  #cutAt = Number.POSITIVE_INFINITY;
  /** After a cut that this end did not see: what was in flight arrives so much later; or, null, never. */
  #lateMs: number | null = null;

  static pair(world: LinkWorld, a: Life, b: Life): [SimLink, SimLink] {
    const one = new SimLink(world, a);
    const two = new SimLink(world, b);
    one.peer = two;
    two.peer = one;
    return [one, two];
  }

  private constructor(world: LinkWorld, life: Life) {
    this.#world = world;
    this.#life = life;
  }

  get ended(): boolean {
    return this.#ended;
  }

  describe(): string {
    return JSON.stringify({
      out: this.#out.length,
      in: this.#in.length,
      paused: this.#paused,
      leaving: this.#leaving,
      closing: this.#closing,
      ended: this.#ended,
      received: this.bytesReceived,
      sent: this.bytesSent,
      owned: this.onMessage !== null,
    });
  }

  send(header: Uint8Array, stretch: Uint8Array | null, released: (() => void) | null): void {
    if (this.#life.over) return;
    if (this.#closing || this.#ended) {
      if (released !== null) this.#later(released, 0.01);
      return;
    }
    const size = header.length + (stretch?.length ?? 0);
    this.#out.push({ header: header.slice(), stretch, released, size });
    this.bufferedBytes += size;
    if (this.bufferedBytes > 32 * 1024) this.#wasHigh = true;
    this.#leave();
  }

  pauseReceiving(): void {
    if (!this.#paused) this.#read = Math.floor(this.#world.random() * (READ_MAX + 1));
    this.#paused = true;
  }

  resumeReceiving(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#deliver();
    this.peer.#leave();
  }

  close(code: number, reason: string): void {
    if (this.#closing || this.#ended) return;
    this.#closing = true;
    this.closedWith = { code, reason };
    if (code === CLOSE_TIMEOUT) {
      this.#world.scheduler.schedule(() => this.cut(), 0.05);
      return;
    }
    // behind what was sent: here simply after it, if it gets through at all
    this.#world.scheduler.schedule(() => {
      if (!this.#ended && !this.peer.#ended) this.peer.#arrive({ code, reason });
      this.#end(reason, code);
    }, this.#untilLeft());
  }

  /** The line is gone: both ends learn it at their own time, nothing in flight arrives. */
  cut(): void {
    for (const end of [this, this.peer]) {
      if (end.#ended) continue;
      end.#in.length = 0;
      end.#world.scheduler.schedule(() => end.#end('cut', 1006), end.#world.random() * 40);
      end.#stop();
    }
  }

  /**
   * The line is gone, and only the other end learns it. This one sends into the void, until it hears of it or is
   * replaced by a newer link.
   * @param lateMs what was in flight to this end arrives so much later; null: never
   */
  cutUnseen(unseenMs: number, lateMs: number | null): void {
    const { random, scheduler } = this.#world;
    this.#lateMs = lateMs;
    if (lateMs === null) this.#in.length = 0;
    scheduler.schedule(() => this.peer.#end('cut', 1006), random() * 40);
    this.peer.#stop();
    scheduler.schedule(() => this.#end('silent for too long', 1006), unseenMs);
  }

  /** A newer link took its place. */
  replaced(): void {
    this.#end('replaced by a newer link', 4003);
  }

  /** What this end sends stands still for a while; then it arrives, in order. */
  stall(ms: number): void {
    const { now } = this.#world.scheduler;
    if (this.#stalledUntil <= now) this.#stalledAt = now;
    this.#stalledUntil = now + ms;
  }

  /** As if pings were sent and answered all the time, in no time, while the line lets them through. */
  get unprovenMs(): number {
    const { now } = this.#world.scheduler;
    const stopped = [this, this.peer].map((end) =>
      Math.min(end.#cutAt, end.#stalledUntil > now ? end.#stalledAt : now),
    );
    return now - Math.min(...stopped);
  }

  #untilLeft(): number {
    return 0.05 + (this.bufferedBytes / this.#world.line.rate) * 1.1;
  }

  #later(task: () => void, delay: number): void {
    this.#world.scheduler.schedule(() => {
      if (!this.#life.over) task();
    }, delay);
  }

  /** Nothing leaves or arrives any more; memory that was on its way is given back. */
  #stop(): void {
    this.#closing = true;
    this.#cutAt = Math.min(this.#cutAt, this.#world.scheduler.now);
    for (const message of this.#out.splice(0))
      if (message.released !== null) this.#later(message.released, this.#world.random() * 5);
    this.bufferedBytes = 0;
  }

  #end(reason: string, code: number): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#stop();
    this.#in.length = 0;
    if (!this.#life.over) this.onClose?.(reason, code);
  }

  /** A message leaves when the line has taken it: until then its memory may not change, and afterwards it may. */
  #leave(): void {
    if (this.#leaving || this.#ended || this.#out.length === 0 || this.peer.#paused) return;
    this.#leaving = true;
    const message = this.#out[0]!;
    const { random, scheduler, line } = this.#world;
    scheduler.schedule(() => {
      this.#leaving = false;
      if (this.#out[0] !== message) return;
      this.#out.shift();
      this.bufferedBytes -= message.size;
      this.bytesSent += message.size;
      const stretch = message.stretch === null || this.#life.over ? null : message.stretch.slice();
      if (message.released !== null) this.#later(message.released, random() * 0.2);
      if (!this.#life.over) this.#transmit({ header: message.header, stretch, released: null, size: message.size });
      if (this.#wasHigh && this.bufferedBytes < 16 * 1024) {
        this.#wasHigh = false;
        this.#later(() => this.onDrain?.(), 0.01);
      }
      this.#leave();
    }, message.size / line.rate);
  }

  #transmit(message: Message): void {
    const { random, scheduler, met } = this.#world;
    const { delayMax, bitFlip } = this.#world.line;
    if (message.stretch !== null && random() < bitFlip) {
      met('bit flip');
      const at = Math.floor(random() * message.stretch.length);
      message.stretch[at]! ^= 1 << Math.floor(random() * 8);
    }
    this.#arrival = Math.max(this.#arrival, scheduler.now + 0.02 + random() * delayMax, this.#stalledUntil);
    scheduler.scheduleAt(() => this.peer.#arrive(message), this.#arrival);
    if (this.#isRepeated(message)) {
      met('repeated frame');
      const again = { ...message, header: message.header.slice(), stretch: message.stretch!.slice() };
      scheduler.scheduleAt(() => this.peer.#arrive(again), this.#arrival);
    }
  }

  /** The line keeps order and loses nothing, but what was under way when it broke may be sent again on the next one. */
  #isRepeated({ header, stretch }: Message): boolean {
    const { random, line } = this.#world;
    if (line.repeat === 0 || stretch === null) return false;
    const message = decode(header);
    if (message.kind !== KIND_DATA || message.data.returned || message.data.first === 0) return false;
    this.#frames += 1;
    return this.#frames <= REPEATED_MAX && random() < line.repeat;
  }

  #arrive(item: Message | { code: number; reason: string }): void {
    if (this.#ended || this.#life.over) return;
    if (this.peer.#isCut) {
      if (this.#lateMs === null) return;
      this.#world.met('late frame');
      this.#world.scheduler.schedule(() => this.#take(item), this.#lateMs);
    } else this.#take(item);
  }

  #take(item: Message | { code: number; reason: string }): void {
    if (this.#ended || this.#life.over) return;
    this.#in.push(item);
    this.#deliver();
  }

  get #isCut(): boolean {
    return this.#closing && this.closedWith === null;
  }

  #deliver(): void {
    if (this.#delivering) return;
    this.#delivering = true;
    while (this.#in.length > 0 && (!this.#paused || this.#read > 0) && !this.#ended && !this.#life.over) {
      const item = this.#in[0]!;
      if (this.#paused) this.#read -= 1;
      if ('code' in item) {
        this.#in.shift();
        this.#end(item.reason, item.code);
        break;
      }
      if (this.onMessage === null && !this.#closing) break; // the owner is not there yet
      this.#in.shift();
      this.bytesReceived += item.size;
      if (!this.#closing) this.onMessage!(item.header, item.stretch);
      item.header.fill(0xee); // they were lent for the call
      item.stretch?.fill(0xee);
    }
    this.#delivering = false;
  }

  /** The owner has set its handlers. */
  begin(): void {
    this.#deliver();
  }
}
