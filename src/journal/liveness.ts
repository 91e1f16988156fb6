import { assert, fail } from '../assert.js';
import { SEGMENT_SIZE_MAX, SEGMENT_SIZE_MIN } from '../limits.js';

/** Segments whose counts stand together: 4 KiB of counters for a stretch of 4 to 64 GiB of journal. */
const STRETCH_SEGMENTS = 1024;
/** Stretches found without a Map lookup; a power of two. */
const CACHE_SIZE = 16;

interface Stretch {
  readonly number: number;
  readonly counts: Uint32Array;
  /** Live blocks in all segments of the stretch: at 0 the stretch is forgotten. */
  total: number;
}

/**
 * Live blocks per segment: how many blocks of the current images point into it, a large one as so many of the smallest of the
 * group's volumes. Pinned views do not count here.
 *
 * Memory follows the segments that hold live data, not the distance between the oldest and the newest: a segment that
 * is never rewritten costs its stretch of 1024 counters and nothing for the journal written since.
 */
export class Liveness {
  readonly segmentSize: number;
  readonly #stretches = new Map<number, Stretch>();
  readonly #cache: (Stretch | null)[] = new Array<Stretch | null>(CACHE_SIZE).fill(null);
  #total = 0;

  /** @param segmentSize a power of two, SEGMENT_SIZE_MIN..SEGMENT_SIZE_MAX */
  constructor(segmentSize: number) {
    assert(
      Number.isInteger(Math.log2(segmentSize)) && segmentSize >= SEGMENT_SIZE_MIN && segmentSize <= SEGMENT_SIZE_MAX,
      `segment size ${segmentSize} is a power of two within its limits`,
    );
    this.segmentSize = segmentSize;
  }

  /** Live blocks in all segments. */
  get total(): number {
    return this.#total;
  }

  /** `blockCount` more blocks point to records at `position`, or elsewhere in its segment. */
  add(position: number, blockCount: number): void {
    const segment = Math.floor(position / this.segmentSize);
    const number = Math.floor(segment / STRETCH_SEGMENTS);
    let stretch = this.#cache[number & (CACHE_SIZE - 1)];
    if (stretch === null || stretch.number !== number) stretch = this.#find(number);
    stretch.counts[segment % STRETCH_SEGMENTS] += blockCount;
    stretch.total += blockCount;
    this.#total += blockCount;
  }

  /** The reverse of `add`. */
  sub(position: number, blockCount: number): void {
    const segment = Math.floor(position / this.segmentSize);
    const number = Math.floor(segment / STRETCH_SEGMENTS);
    let stretch = this.#cache[number & (CACHE_SIZE - 1)];
    if (stretch === null || stretch.number !== number) stretch = this.#find(number);
    const at = segment % STRETCH_SEGMENTS;
    if (stretch.counts[at] < blockCount) fail(`segment ${segment} has not ${blockCount} live blocks to lose`);
    stretch.counts[at] -= blockCount;
    stretch.total -= blockCount;
    this.#total -= blockCount;
    if (stretch.total === 0) {
      this.#stretches.delete(number);
      this.#cache[number & (CACHE_SIZE - 1)] = null;
    }
  }

  liveBlocks(segment: number): number {
    const stretch = this.#stretches.get(Math.floor(segment / STRETCH_SEGMENTS));
    return stretch === undefined ? 0 : stretch.counts[segment % STRETCH_SEGMENTS];
  }

  /** Numbers of the segments that have live blocks, ascending. */
  segments(): number[] {
    const found: number[] = [];
    for (const number of [...this.#stretches.keys()].sort((a, b) => a - b)) {
      const { counts } = this.#stretches.get(number)!;
      for (let i = 0; i < STRETCH_SEGMENTS; i++) if (counts[i] !== 0) found.push(number * STRETCH_SEGMENTS + i);
    }
    return found;
  }

  #find(number: number): Stretch {
    let stretch = this.#stretches.get(number);
    if (stretch === undefined) {
      stretch = { number, counts: new Uint32Array(STRETCH_SEGMENTS), total: 0 };
      this.#stretches.set(number, stretch);
    }
    this.#cache[number & (CACHE_SIZE - 1)] = stretch;
    return stretch;
  }
}
