/**
 * The waiting of all connections for more answers (gathering.ts): one more turn of the event loop, and
 * before it, if that would come too early for somebody, a nap of the whole thread. The event loop knows no wait that is
 * shorter than a millisecond.
 *
 *     idle --wait--> waiting --the rest of this turn, nap, the next turn--> idle
 */
import { NAP_MS_MAX, NAP_PAUSE_MS } from './limits.js';

/** Of the average length, one nap's share. */
const WEIGHT = 1 / 16;

export interface ModerationClock {
  nowMs(): number;
  /** Runs the task after the next look at the sockets. */
  defer(task: () => void): void;
  /** Stops the thread for about 0.05 ms, or whatever the system makes of it. */
  nap(): void;
}

export class Moderation {
  readonly #clock: ModerationClock;
  /** Whether the devices have no request: one that takes helpers long may be answered any time. */
  readonly #isQuiet: () => boolean;
  #waiting: (() => void)[] = [];
  #isEarly = false;
  #averageMs = 0;
  #notBeforeMs = 0;
  readonly #rest = (): void => this.#restOfTurn();
  readonly #end = (): void => this.#nextTurn();

  constructor(clock: ModerationClock, isQuiet: () => boolean) {
    this.#clock = clock;
    this.#isQuiet = isQuiet;
  }

  /**
   * @param look    called at the end of the next turn, once
   * @param isEarly a nap makes that turn better
   */
  wait(look: () => void, isEarly: boolean): void {
    this.#isEarly ||= isEarly;
    if (this.#waiting.push(look) === 1) this.#clock.defer(this.#rest);
  }

  #restOfTurn(): void {
    if (this.#isEarly && this.#isQuiet()) this.#nap();
    this.#isEarly = false;
    this.#clock.defer(this.#end);
  }

  #nextTurn(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const look of waiting) look();
  }

  /** Where the shortest sleep is a long one, there is hardly any. */
  #nap(): void {
    const begunMs = this.#clock.nowMs();
    if (begunMs < this.#notBeforeMs) return;
    this.#clock.nap();
    const endMs = this.#clock.nowMs();
    const tookMs = endMs - begunMs;
    this.#averageMs = this.#averageMs === 0 ? tookMs : this.#averageMs + (tookMs - this.#averageMs) * WEIGHT;
    if (this.#averageMs <= NAP_MS_MAX) return;
    this.#averageMs = 0;
    this.#notBeforeMs = endMs + NAP_PAUSE_MS;
  }
}
