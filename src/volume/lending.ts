/**
 * How a stretch of the ring goes to the link: lent where it stands, or copied.
 *
 * Hosts cannot append over what is lent before it has left: on a line slower than they write they would wait for it, and
 * go at its speed, though all that they need is room in the journal. So the ring is lent while what was lent before has
 * left soon, and only its newer half. What is copied is given back to the ring at once.
 */
import type { Journal } from '../journal/journal.js';
import type { Stretch } from '../journal/stream-reader.js';
import { FRAME_SIZE_MAX, LINK_BUFFER_MAX } from '../limits.js';

/** "Soon", milliseconds: hosts write less than half a ring in that time. */
const SOON_MS = 100;
/** Lent at once, bytes, on a line of which nothing is known yet. */
const LENT_FIRST = LINK_BUFFER_MAX / 8;
/**
 * So many bytes have to leave soon until the ring is lent again: a peer that takes nothing leaves room for some in what
 * both systems buffer.
 */
const LENT_AGAIN = 4 * LINK_BUFFER_MAX;
/** What is lent has not moved for so long, milliseconds: no host waits for it any longer. */
const STALL_MS = 2000;
/** Copies of frames kept for the next ones: no more than a link holds. */
const SPARES_MAX = LINK_BUFFER_MAX / FRAME_SIZE_MAX;

export class Lending {
  readonly #journal: Journal;
  readonly #nowMs: () => number;
  /** Bytes that may be lent at once; doubles with what has left soon. */
  #budget = LENT_FIRST;
  #lent = 0;
  /** When what is lent was lent, eldest first. */
  readonly #lentAt: number[] = [];
  /** Bytes that have left soon since some did not. */
  #leftSoon = 0;
  readonly #spares: Uint8Array[] = [];
  readonly counters = { framesCopied: 0 };

  constructor(journal: Journal, nowMs: () => number) {
    this.#journal = journal;
    this.#nowMs = nowMs;
  }

  /**
   * @param send gets the bytes, and what to call once when they have left or never will: in the order of the stretches
   */
  give(stretch: Stretch, send: (bytes: Uint8Array, released: () => void) => void): void {
    const { size, release } = stretch;
    const journal = this.#journal;
    const bytes = journal.memory.bytes.subarray(stretch.at, stretch.at + size);
    if (!stretch.isRing) return send(bytes, release); // read back to be sent: nobody else wants its place
    const at = this.#nowMs();
    if (this.#lent + size <= this.#budget && journal.head - stretch.position <= journal.ringSize / 2) {
      this.#lent += size;
      this.#lentAt.push(at);
      return send(bytes, () => {
        release();
        this.#lent -= size;
        this.#lentAt.shift();
        this.#hasLeft(size, at);
      });
    }
    this.counters.framesCopied += 1;
    const kept = size <= FRAME_SIZE_MAX ? (this.#spares.pop() ?? new Uint8Array(FRAME_SIZE_MAX)) : null;
    const copy = kept?.subarray(0, size) ?? new Uint8Array(size);
    copy.set(bytes);
    release();
    send(copy, () => {
      if (kept !== null && this.#spares.length < SPARES_MAX) this.#spares.push(kept);
      this.#hasLeft(size, at);
    });
  }

  /** Whether the ring waits for a peer that takes nothing. */
  isStalled(nowMs: number): boolean {
    return this.#lentAt.length > 0 && nowMs - this.#lentAt[0]! >= STALL_MS && this.#journal.isHeldByPin;
  }

  #hasLeft(size: number, since: number): void {
    if (this.#nowMs() - since > SOON_MS) {
      this.#budget = 0;
      this.#leftSoon = 0;
      return;
    }
    this.#leftSoon += size;
    if (this.#budget > 0) this.#budget = Math.min(LINK_BUFFER_MAX, this.#budget + size);
    else if (this.#leftSoon >= LENT_AGAIN) this.#budget = LENT_FIRST;
  }
}
