/**
 * When the answers of one connection are sent. A client with many requests in flight sends the next ones while it waits
 * for answers to the first. If each were answered at once, every turn of the event loop would take one or two requests
 * from the socket and put as many answers into it, and that costs more than all else that is done for them, here and at
 * the client. So the answers are kept for some turns, as a network card moderates its interrupts. Pure; the clock is the
 * caller's.
 *
 *     nothing kept --an answer--> kept --enough, or a turn brought no more--> nothing kept
 *
 * Enough is less than what the client has in flight, so that it never runs out of answers to go on with. Kept is nothing of
 * one that has few in flight, nor of one that is waited for: the event loop sleeps until it asks again. What it has in
 * flight is seen when answers are kept until no more requests come: now and then this is tried.
 */
import { ANSWERS_KEPT_MAX, FOLLOWING_IDLE_MS_MAX, GATHERING_DEPTH_MIN } from './limits.js';

/** Answers are kept while the score is at least this: requests that nobody slept for add 1, others take 1. */
const SCORE_NEEDED = 8;
const SCORE_MAX = 16;
/** Between two trials of what a client has in flight, answers are sent so often; a trial costs it some 0.1 ms. */
const TRIAL_SENDS = 1024;
/** A client of which no more than this were seen at once is taken to have no more: it is not worth a trial. */
const TRIAL_DEPTH_MIN = 4;
/** A trial ends with so many. */
const TRIAL_DEPTH_MAX = 64;
/** A trial may show less than there is, when the client has no processor: then less is believed only by and by. */
const DEPTH_DECAY = 1 / 8;
/** A turn that brought more than this did not come too early. */
const FEW = 3;
/** More was waited for in vain: the next trial comes sooner by so many sends. */
const VAIN_SENDS = TRIAL_SENDS / 8;

export class Gathering {
  /** Where there is more to wait for: the last turn brought so few that the next one is better a moment later. */
  isEarly = false;
  readonly #idleMs: () => number;
  /** Requests that the client is believed to have in flight. */
  #depth = 0;
  /** The most that were seen since the last trial. */
  #most = 0;
  /** How often answers were sent since. */
  #sends = 0;
  #isTrial = false;
  /** Answers that were there when it was last asked. */
  #before = 0;
  #score = 0;
  /** `idleMs` when the last answers were sent, if nothing has come since. */
  #idleThen = Number.NaN;

  /** @param idleMs how long the event loop has slept so far */
  constructor(idleMs: () => number) {
    this.#idleMs = idleMs;
  }

  /** Bytes have come from the client. */
  received(): void {
    if (Number.isNaN(this.#idleThen)) return;
    const isSoon = this.#idleMs() - this.#idleThen <= FOLLOWING_IDLE_MS_MAX;
    this.#score = isSoon ? Math.min(SCORE_MAX, this.#score + 1) : Math.max(0, this.#score - 1);
    this.#idleThen = Number.NaN;
  }

  /**
   * Whether to wait for more, at the end of a turn; it is asked again a turn later.
   *
   * @param answers  that are there to be sent, at least one
   * @param inFlight requests that the device has
   */
  isToWait(answers: number, inFlight: number): boolean {
    this.#most = Math.max(this.#most, answers + inFlight);
    this.#depth = Math.max(this.#depth, this.#most);
    if (this.#score < SCORE_NEEDED || answers >= this.#enough) return false;
    const hasMore = answers > this.#before;
    this.isEarly = answers - this.#before <= FEW;
    this.#before = answers;
    if (!hasMore) this.#sends += VAIN_SENDS;
    return hasMore;
  }

  get #enough(): number {
    if (this.#isTrial) return TRIAL_DEPTH_MAX;
    return this.#depth < GATHERING_DEPTH_MIN ? 0 : ANSWERS_KEPT_MAX;
  }

  /** All answers were sent. */
  sent(): void {
    this.#before = 0;
    this.#idleThen = this.#idleMs();
    this.#sends += 1;
    if (!this.#isTrial && this.#sends < TRIAL_SENDS) return;
    this.#isTrial = !this.#isTrial && this.#most > TRIAL_DEPTH_MIN;
    if (this.#isTrial) return; // with the next answers
    this.#depth = Math.max(this.#most, this.#depth * (1 - DEPTH_DECAY));
    this.#most = 0;
    this.#sends = 0;
  }
}
