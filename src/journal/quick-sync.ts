/**
 * Whether a small synced write may be made on the caller's thread. By a helper it takes two changes of thread more, each
 * of which wakes a processor, and in a virtual machine that may take as long as the disk does. But nobody is served by the
 * caller's thread meanwhile. So it may be made here
 *   - if it is what a host asks for that is alone: a write, its flush, and no other request since the one before, for
 *     several of them in a row (of two hosts the other one would wait for the disk, too),
 *   - and if the disk is quick, by how long the last ones took, wherever they were made. One that hangs is waited for here
 *     once: what that took keeps the next ones with the helpers until enough quick ones have followed.
 *
 * Pure; requests and times are told.
 */
import { SYNC_HERE_MS_MAX, SYNC_HERE_SIZE_MAX } from '../limits.js';

/** A write and its flush. */
const REQUESTS_ALONE = 2;
/** So many in a row, before it counts. */
const STREAK_MIN = 8;
/** Of the average, one write's share. */
const WEIGHT = 1 / 8;

export class QuickSync {
  #requests = 0;
  #streak = 0;
  #averageMs = Number.POSITIVE_INFINITY;

  /**
   * Asked once for each synced write.
   * @param size     of it, bytes
   * @param requests that hosts and peers have made so far
   */
  mayBeHere(size: number, requests: number): boolean {
    this.#streak = requests - this.#requests <= REQUESTS_ALONE ? this.#streak + 1 : 0;
    this.#requests = requests;
    return size <= SYNC_HERE_SIZE_MAX && this.#streak >= STREAK_MIN && this.#averageMs <= SYNC_HERE_MS_MAX;
  }

  /** So many bytes were written and synced in so many ms. */
  took(size: number, ms: number): void {
    if (size > SYNC_HERE_SIZE_MAX) return;
    if (this.#averageMs === Number.POSITIVE_INFINITY) this.#averageMs = ms;
    else this.#averageMs += (ms - this.#averageMs) * WEIGHT;
  }
}
