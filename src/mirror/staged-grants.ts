/**
 * The staged writes of a transaction, as they are granted at the target before its COMMIT: how many they are, and where those
 * of them write whose scope the standby knows nothing of, since it was open when the base copy began. Under these no lock of
 * the mirror stands: the COMMIT itself waits until their blocks are free. Pure.
 */
import { TRANSACTION_BYTES_MAX, TRANSACTION_WRITES_MAX } from '../limits.js';

interface StagedRecord {
  readonly volume: number;
  readonly lba: number;
  readonly blockCount: number;
  readonly size: number;
}

type Blocks = Pick<StagedRecord, 'volume' | 'lba' | 'blockCount'>;

export class StagedGrants {
  #count = 0;
  #bytes = 0;
  #bare: Blocks[] = [];

  get count(): number {
    return this.#count;
  }
  /** Blocks that no scope of the mirror covers. */
  get bare(): readonly Blocks[] {
    return this.#bare;
  }

  /** Whether a transaction may be so large, one more record of `size` bytes counted. @returns why not, or null */
  tooLarge(size: number): string | null {
    if (this.#count < TRANSACTION_WRITES_MAX && this.#bytes + size <= TRANSACTION_BYTES_MAX) return null;
    return `a transaction of ${this.#count + 1} writes, ${this.#bytes + size} bytes`;
  }

  /** One more was granted. The record may be written over afterwards. */
  add({ volume, lba, blockCount, size }: StagedRecord, isBare: boolean): void {
    this.#count += 1;
    this.#bytes += size;
    if (isBare) this.#bare.push({ volume, lba, blockCount });
  }

  /** What comes next is no part of them. */
  end(): void {
    this.#count = 0;
    this.#bytes = 0;
    if (this.#bare.length > 0) this.#bare = [];
  }
}
