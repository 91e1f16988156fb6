/**
 * The segment files of one journal. A position is a byte on one endless line; segment k holds positions
 * [k * segmentSize, (k + 1) * segmentSize) in the file `segment-<k, ten digits>.log`, at offset position mod segmentSize.
 * A file may be shorter than that: the body of the PAD at its end is never written. It then ends with that PAD; or in
 * that body stands what an earlier segment left there.
 *
 * The file of a freed segment is written over by a later one, which costs the system less than a new file:
 *
 *     segment-<k>.log --free--> spare-<k>.log --its name is durable, `open`--> segment-<n>.log
 *
 * Were it written over before that, a power cut could bring back the name of a segment that holds records of another.
 * Behind the last record of such a segment stand whole records of the earlier one, until it is full. Local records name
 * their position, so these are not taken for the new segment's own. A record of a stream has a sequence, and what was
 * freed has lower ones than all that is appended after it: `barReuse` is told when that is not so.
 */
import { assert } from '../assert.js';
import { SPARE_SEGMENTS_MAX } from '../limits.js';
import type { Store, StoreFile } from './store.js';

export interface Segment {
  readonly number: number;
  readonly file: StoreFile;
  /** Bytes of its records in the file, as far as this process knows. */
  size: number;
  /** Bytes of the file: more, while an earlier segment's is written over. */
  fileSize: number;
  /** Last sequence of each stream before this segment: where to look for a sequence. */
  ownBefore: number;
  peerBefore: number;
  /** Reads under way; the file is closed only when none is left. */
  readers: number;
  removed: boolean;
}

/** The file of a freed segment, to be written over. */
interface Spare {
  readonly name: string;
  readonly file: StoreFile;
  readonly size: number;
  /** A power cut does not bring back its old name. */
  isSettled: boolean;
}

const SPARE_NAME = /^spare-\d{10}\.log$/;
const NAME = /^segment-(\d{10})\.log$/;

export function segmentName(number: number): string {
  return `segment-${String(number).padStart(10, '0')}.log`;
}

const spareName = (number: number): string => `spare-${String(number).padStart(10, '0')}.log`;

export class Segments {
  readonly segmentSize: number;
  readonly #store: Store;
  readonly #byNumber = new Map<number, Segment>();
  /** All of them, ascending; null when one has come or gone since. */
  #ordered: readonly Segment[] | null = null;
  /** Eldest first. */
  readonly #spares: Spare[] = [];
  /** Segments below this are not written over. */
  #reusableFrom = 0;
  /** What an earlier segment left in the newest one's file goes as soon as nothing is being written. */
  #isCutWanted = false;
  /** The one that `open` made last. */
  #newest: Segment | null = null;
  /** Bytes of records in all files. */
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

  /** @param create the next one is begun, and the one before is whole */
  open(number: number, create: boolean): Segment {
    assert(!this.#byNumber.has(number), `segment ${number} is open already`);
    // what an earlier segment left behind its PAD stays, as the PAD's body: to cut it off takes milliseconds
    if (create && this.#newest !== null) this.grow(this.#newest, this.#newest.fileSize);
    const spare = create ? this.#spares.findIndex(({ isSettled }) => isSettled) : -1;
    const reused = this.#spares[spare];
    if (reused !== undefined) {
      // or it would not end with its PAD, if it is not cut later; before the rename, for a disk may refuse that
      if (reused.size < this.segmentSize) reused.file.truncate(this.segmentSize);
      reused.file.rename(segmentName(number));
      this.#spares.splice(spare, 1);
    }
    const file = reused?.file ?? this.#store.open(segmentName(number), create);
    const fileSize = file.size();
    const segment: Segment = {
      number,
      file,
      size: reused === undefined ? fileSize : 0,
      fileSize,
      ownBefore: 0,
      peerBefore: 0,
      readers: 0,
      removed: false,
    };
    this.#byNumber.set(number, segment);
    this.#ordered = null;
    this.used += segment.size;
    if (create) this.#newest = segment;
    return segment;
  }

  grow(segment: Segment, size: number): void {
    if (size > segment.size) {
      this.used += size - segment.size;
      segment.size = size;
      segment.fileSize = Math.max(segment.fileSize, size);
    }
  }

  /** Cuts a file at `size`: what lies beyond is a torn tail. */
  truncate(segment: Segment, size: number): void {
    if (size >= segment.fileSize) return;
    segment.file.truncate(size);
    segment.fileSize = size;
    this.used -= Math.max(0, segment.size - size);
    segment.size = Math.min(segment.size, size);
  }

  /**
   * Gives up a segment that nothing refers to. Its file is kept to be written over, if it may be, and all files are no
   * more than `limit` bytes with it: then its new name has to become durable (`settling`).
   * @returns whether it was kept
   * @throws what the disk says: it is still there
   */
  free(segment: Segment, limit: number): boolean {
    const { number, readers, file, fileSize } = segment;
    const isRoom = this.#spares.length < SPARE_SEGMENTS_MAX && this.used + this.spareSize <= limit;
    // who still reads it must find what was there
    if (readers > 0 || number < this.#reusableFrom || !isRoom) {
      this.remove(segment);
      return false;
    }
    const name = spareName(number);
    try {
      file.rename(name);
    } catch {
      this.remove(segment); // it cannot be kept, but may be given up
      return false;
    }
    this.#forget(segment);
    this.#spares.push({ name, file, size: fileSize, isSettled: false });
    return true;
  }

  /** To be called before the directory is synced. @returns to be called when it was */
  settling(): () => void {
    const spares = [...this.#spares];
    return () => {
      for (const spare of spares) spare.isSettled = true;
    };
  }

  /**
   * Segments up to this one hold records that could be taken for what will be appended: of a first copy, which have no
   * sequence, or of a stream that goes on from before them. So does what is kept already.
   */
  barReuse(number: number): void {
    this.#reusableFrom = Math.max(this.#reusableFrom, number + 1);
    this.#dropSpares();
    this.#isCutWanted = true; // later: a write may be under way
  }

  /** Bytes in files beyond what `used` counts. */
  get spareSize(): number {
    let size = this.#newest === null ? 0 : this.#newest.fileSize - this.#newest.size;
    for (const spare of this.#spares) size += spare.size;
    return size;
  }

  /**
   * Gives up what is kept to be written over until all files are `limit` bytes or less. No write is under way. What the
   * disk refuses to give up stays kept, for the next time: nothing but room depends on it.
   */
  trim(limit: number): void {
    for (let i = this.#spares.length - 1; i >= 0 && this.used + this.spareSize > limit; i -= 1)
      this.#dropSpare(this.#spares[i]!);
    if (this.#isCutWanted || this.used + this.spareSize > limit) this.#cutNewest();
  }

  /** Of an earlier life. */
  removeSpares(): void {
    for (const name of this.#store.list()) if (SPARE_NAME.test(name)) this.#store.remove(name);
  }

  #dropSpare(spare: Spare): void {
    try {
      this.#store.remove(spare.name);
    } catch {
      return; // the next start removes it
    }
    spare.file.close();
    this.#spares.splice(this.#spares.indexOf(spare), 1);
  }

  /** All of them; what the disk refuses to remove is not written over either. */
  #dropSpares(): void {
    for (const spare of [...this.#spares]) this.#dropSpare(spare);
    for (const { file } of this.#spares.splice(0)) file.close();
  }

  /** Of the segment being written: cuts off what an earlier one left in its file. */
  #cutNewest(): void {
    try {
      if (this.#newest !== null) this.truncate(this.#newest, this.#newest.size);
      this.#isCutWanted = false;
    } catch {
      // recovery knows it from records of this segment
    }
  }

  /**
   * Removes the file; it is closed when its last reader is done.
   * @throws what the disk says: it is still there
   */
  remove(segment: Segment): void {
    this.#store.remove(segmentName(segment.number));
    this.#forget(segment);
    segment.removed = true;
    if (segment.readers === 0) segment.file.close();
  }

  #forget(segment: Segment): void {
    this.#byNumber.delete(segment.number);
    this.#ordered = null;
    this.used -= segment.size;
    if (this.#newest === segment) this.#newest = null;
  }

  retain(segment: Segment): void {
    segment.readers += 1;
  }

  release(segment: Segment): void {
    segment.readers -= 1;
    assert(segment.readers >= 0, 'segment released more often than retained');
    if (segment.readers === 0 && segment.removed) segment.file.close();
  }

  /** @param clean all that was appended is in the files, and nothing is being written */
  close(clean: boolean): void {
    if (clean) this.#cutNewest();
    this.#dropSpares();
    for (const segment of this.#byNumber.values()) segment.file.close();
    this.#byNumber.clear();
    this.#ordered = null;
  }
}
