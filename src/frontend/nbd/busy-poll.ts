/**
 * Whether to look for the next request for a moment instead of sleeping until it wakes us. A client with one request in
 * flight waits for us, then we for it, and each time a processor goes to sleep and has to be woken: in a virtual machine
 * that is most of what such a request takes. Pure; clock and event loop are the caller's.
 *
 *     asleep --all is answered, and the next request tends to follow at once--> looking --request, or too long--> asleep
 *
 * It goes by the requests before, whether somebody looked for them or not: they came alone, soon after the answer to the
 * one before, and were themselves answered soon: a write, or a flush of a quick disk. Of several at once most find us awake
 * anyway. While the device works nobody looks: helpers may do it, who need the processor.
 */
import { BUSY_POLL_ANSWER_MS_MAX, BUSY_POLL_MS_MAX } from './limits.js';

/** Looks while the score is at least this; a request as described adds 1, any other takes 2. */
const SCORE_NEEDED = 8;
const SCORE_MAX = 16;
const BAD_COST = 2;

export class BusyPoll {
  readonly #nowMs: () => number;
  readonly #defer: (task: () => void) => void;
  readonly #hasCompany: boolean;
  readonly #look = (): void => this.#lookAgain();
  /** Requests that the device has, of all connections. */
  #inFlight = 0;
  /** How many have begun since all were answered. */
  #begun = 0;
  #begunAt = 0;
  #answeredAt = Number.NEGATIVE_INFINITY;
  /** What has begun followed the last answers at once. */
  #isSoon = false;
  #score = 0;
  #looking = false;

  /**
   * @param processors for this process: with a single one, the client would wait for us to stop looking
   * @param defer runs a task in the next turn of the event loop; while there is one, the loop does not sleep
   */
  constructor(processors: number, nowMs: () => number, defer: (task: () => void) => void) {
    this.#hasCompany = processors > 1;
    this.#nowMs = nowMs;
    this.#defer = defer;
  }

  /** The device is given a request. */
  begin(): void {
    if (this.#begun === 0) {
      this.#begunAt = this.#nowMs();
      this.#isSoon = this.#begunAt - this.#answeredAt <= BUSY_POLL_MS_MAX;
    }
    this.#inFlight += 1;
    this.#begun += 1;
  }

  /** The device is done with one. */
  settle(): void {
    this.#inFlight -= 1;
  }

  /** The devices have no request. */
  get isQuiet(): boolean {
    return this.#inFlight === 0;
  }

  /** Replies have been sent. */
  answered(): void {
    if (this.#inFlight > 0 || this.#begun === 0) return;
    this.#answeredAt = this.#nowMs();
    const isGood = this.#begun === 1 && this.#isSoon && this.#answeredAt - this.#begunAt <= BUSY_POLL_ANSWER_MS_MAX;
    this.#begun = 0;
    this.#score = isGood ? Math.min(SCORE_MAX, this.#score + 1) : Math.max(0, this.#score - BAD_COST);
    if (!this.#hasCompany || this.#looking || this.#score < SCORE_NEEDED) return;
    this.#looking = true;
    this.#defer(this.#look);
  }

  #lookAgain(): void {
    if (this.#inFlight > 0 || this.#nowMs() - this.#answeredAt > BUSY_POLL_MS_MAX) this.#looking = false;
    else this.#defer(this.#look);
  }
}
