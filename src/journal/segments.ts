/**
 * The segment files of one journal. A position is a byte on one endless line; segment k holds positions
 * [k * segmentSize, (k + 1) * segmentSize) in the file `segment-<k, ten digits>.log`, at offset position mod segmentSize.
 * A file may be shorter than that: the body of the PAD at its end is never written.
 */
import { assert } from '../assert.js';
import type { Store, StoreFile } from './store.js';

export interface Segment {
  readonly number: number;
  readonly file: StoreFile;
  /** Bytes in the file, as far as this process knows. */
  size: number;
  /** Last sequence of each stream before this segment: where to look for a sequence. */
  ownBefore: number;
  peerBefore: number;
  /** Reads under way; the file is closed only when none is left. */
  readers: number;
  removed: boolean;
}

const NAME = /^segment-(\d{10})\.log$/;

export function segmentName(number: number): string {
  return `segment-${String(number).padStart(10, '0')}.log`;
}

export class Segments {
  readonly segmentSize: number;
  readonly #store: Store;
  readonly #byNumber = new Map<number, Segment>();
  /** All of them, ascending; null when one has come or gone since. */
  #ordered: readonly Segment[] | null = null;
  /** Bytes in all files. */
  used = 0;

  constructor(store: Store, segmentSize: number) {
    this.#store = store;
    this.segmentSize = segmentSize;
  }

  /** Numbers of the segment files in a store, ascending. */
  static numbersIn(store: Store): number[] {
    const numbers: number[] = [];
    for (const name of store.list()) {
      const match = NAME.exec(name);
      if (match) numbers.push(Number(match[1]));
    }
    return numbers.sort((a, b) => a - b);
  }

  numberOf(position: number): number {
    return Math.floor(position / this.segmentSize);
  }

  get count(): number {
    return this.#byNumber.size;
  }

  get(number: number): Segment | undefined {
    return this.#byNumber.get(number);
  }

  /** Ascending, as they are now: callers remove while they walk. */
  all(): readonly Segment[] {
    this.#ordered ??= [...this.#byNumber.values()].sort((a, b) => a.number - b.number);
    return this.#ordered;
  }

  open(number: number, create: boolean): Segment {
    assert(!this.#byNumber.has(number), `segment ${number} is open already`);
    const file = this.#store.open(segmentName(number), create);
    const segment: Segment = {
      number,
      file,
      size: file.size(),
      ownBefore: 0,
      peerBefore: 0,
      readers: 0,
      removed: false,
    };
    this.#byNumber.set(number, segment);
    this.#ordered = null;
    this.used += segment.size;
    return segment;
  }

  grow(segment: Segment, size: number): void {
    if (size > segment.size) {
      this.used += size - segment.size;
      segment.size = size;
    }
  }

  /** Cuts a file at `size`: what lies beyond is a torn tail. */
  truncate(segment: Segment, size: number): void {
    if (size < segment.size) {
      segment.file.truncate(size);
      this.used -= segment.size - size;
      segment.size = size;
    }
  }

  /** Removes the file; it is closed when its last reader is done. */
  remove(segment: Segment): void {
    this.#byNumber.delete(segment.number);
    this.#ordered = null;
    this.used -= segment.size;
    this.#store.remove(segmentName(segment.number));
    segment.removed = true;
    if (segment.readers === 0) segment.file.close();
  }

  retain(segment: Segment): void {
    segment.readers += 1;
  }

  release(segment: Segment): void {
    segment.readers -= 1;
    assert(segment.readers >= 0, 'segment released more often than retained');
    if (segment.readers === 0 && segment.removed) segment.file.close();
  }

  close(): void {
    for (const segment of this.#byNumber.values()) segment.file.close();
    this.#byNumber.clear();
    this.#ordered = null;
  }
}
