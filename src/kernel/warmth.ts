/**
 * Whether the next small read is likely to find its bytes in the page cache: then it takes less time than to hand it over.
 * Node cannot ask the kernel before it reads, so this goes by how the last reads went. Pure; what happened is told.
 *
 *     cold --so many fast reads in a row, by the pool--> warm --a read here waited for the disk--> cold, for longer
 *
 * A wrong guess blocks this thread for one read of the disk, once in as many reads as the streak asks for. A read that
 * took long need not be the disk's doing: on a busy machine the thread waits for a processor. So then the process's
 * count of blocks read from disks decides. Where nothing was ever counted (some file systems do not), a slow read by the
 * pool is believed, and of those here two in short succession.
 */

/** µs. From the page cache a block takes 2 to 5 with its checks, from a fast disk 80 and more. */
const FAST_US_MAX = 30;
/** µs of one read on this thread. */
const SLOW_US_MIN = 200;
/** A slow read so few reads behind the last one is not chance. */
const CLOSE = 16;
/**
 * Fast reads in a row after which it counts as warm: at first, and at most. A cache that fills is full of wrong guesses, so the
 * most is soon asked for: at 4096 those take the pool less than 0.1 s, beside which one read of a slow disk is little.
 */
const STREAK_MIN = 64;
const STREAK_MAX = 4096;

export class Warmth {
  isWarm = false;
  #streak = 0;
  #needed = STREAK_MIN;
  /** Reads here since the last slow one; and since that was half forgiven. */
  #sinceSlow = CLOSE;
  #good = 0;
  #fromDisk: number;
  readonly #blocksFromDisk: () => number;

  /** @param blocksFromDisk how many this process has read so far */
  constructor(blocksFromDisk: () => number) {
    this.#blocksFromDisk = blocksFromDisk;
    this.#fromDisk = blocksFromDisk();
  }

  /** The pool has read so many runs, in so many µs. */
  told(count: number, us: number): void {
    if (this.isWarm) return;
    if (us <= count * FAST_US_MAX) this.#streak += count;
    else if (this.#waitedForDisk(true)) this.#streak = 0;
    if (this.#streak < this.#needed) return;
    this.isWarm = true;
    this.#sinceSlow = CLOSE;
    this.#good = 0;
    this.#fromDisk = this.#blocksFromDisk();
  }

  /** One run was read on this thread. */
  readHere(us: number): void {
    if (us < SLOW_US_MIN) {
      this.#sinceSlow += 1;
      this.#good += 1;
      if (this.#good < this.#needed) return;
      this.#good = 0;
      this.#needed = Math.max(STREAK_MIN, this.#needed / 2);
      return;
    }
    const waited = this.#waitedForDisk(this.#sinceSlow < CLOSE);
    this.#sinceSlow = 0;
    if (!waited) return;
    this.isWarm = false;
    this.#streak = 0;
    this.#needed = Math.min(STREAK_MAX, this.#needed * 2);
  }

  /** Whether a disk was read since this was asked last. @param otherwise where that is not counted */
  #waitedForDisk(otherwise: boolean): boolean {
    const before = this.#fromDisk;
    this.#fromDisk = this.#blocksFromDisk();
    return this.#fromDisk === 0 ? otherwise : this.#fromDisk > before;
  }
}
