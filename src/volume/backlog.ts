/** Records that are kept: a site that is alone, or ahead of a slow line, does not count on for ever. */
const RECORDS_MAX = 1 << 20;

/** How many bytes the records of this site's stream have, from those on that the peer may not have to the last. */
export class Backlog {
  /** Bytes through each record from the first that is kept on. */
  #ends: number[] = [];
  /** How many of them are kept no more: dropped a thousand at a time. */
  #gone = 0;
  /** Sequence of the last record before `#ends[0]`, and bytes through it. */
  #before: number;
  #bytesBefore = 0;

  /** @param before sequence of the last record that will not be told */
  constructor(before: number) {
    this.#before = before;
  }

  /** The next record. */
  add(size: number): void {
    this.#ends.push(this.total + size);
    if (this.#ends.length - this.#gone > RECORDS_MAX) this.keepBehind(this.#before + this.#gone + 1);
  }

  /** @returns bytes of the records behind this one; Infinity when some of them were not told, or are kept no more */
  behind(sequence: number): number {
    const index = sequence - this.#before - 1;
    if (index < this.#gone - 1) return Number.POSITIVE_INFINITY;
    return this.total - (index < 0 ? this.#bytesBefore : this.#ends[index]!);
  }

  /** Nobody will ask about what is behind a record before this one. */
  keepBehind(sequence: number): void {
    this.#gone = Math.max(this.#gone, sequence - this.#before);
    if (this.#gone < 1024 || this.#gone * 2 < this.#ends.length) return;
    this.#bytesBefore = this.#ends[this.#gone - 1]!;
    this.#before += this.#gone;
    this.#ends.splice(0, this.#gone);
    this.#gone = 0;
  }

  /** Bytes of all of them, and of what was told before. */
  get total(): number {
    return this.#ends.length === 0 ? this.#bytesBefore : this.#ends[this.#ends.length - 1]!;
  }
}
