/**
 * Walks one site's stream in the journal, in order, and hands out stretches of it as they stand: from the ring while
 * they are still there, from segment files otherwise. Local records and the other site's stream are stepped over.
 *
 * Of what comes from a file no field is used before its header was checked, and its place in the stream. The blocks are
 * not hashed again: the peer does, and when it says NAK, `check` tells whose fault it is. What is not what was written
 * there ends the reading: `damage` says what and where, and whoever reads tells both ends.
 */
import { RECORD_SIZE_MAX, RECORD_SIZE_MIN, TYPE_LOCAL, TYPE_TRUNCATED } from '../../assembly/layout.js';
import { assert } from '../assert.js';
import { ForelockError } from '../errors.js';
import type { Region } from '../kernel/memory.js';
import type { Offload } from '../kernel/offload.js';
import type { Journal } from './journal.js';
import { RecordHeader } from './record.js';
import { segmentName } from './segments.js';

/** A run of whole records of one stream, in shared memory. */
export interface Stretch {
  at: number;
  size: number;
  position: number;
  /** Sequence of the first record and how many there are. */
  first: number;
  count: number;
  /** It stands in the ring: hosts cannot append over it before it is given back. */
  isRing: boolean;
  /** Gives the memory back; the bytes must not be touched afterwards. */
  release: () => void;
}

const REMEDY =
  '. The other site cannot be told what stood there: start it as an empty standby, or restore this one from a backup';

/** A status looks at no more headers than this: of what is not in the ring each is a read. A frame has fewer. */
const LOOKED_AT_MAX = 4096;

/** Where a stream's records are looked up and read from. */
export class StreamReader {
  readonly #journal: Journal;
  readonly #offload: Offload;
  readonly #site: number;
  /** Memory for stretches read back from segments; a fixed set, handed out and given back. */
  readonly #free: Region[];
  #loaded: { region: Region; position: number; size: number; users: number } | null = null;
  #loading = false;
  #loadFailed: ForelockError | null = null;
  #damage: ForelockError | null = null;
  #position = 0;
  #sequence = 0;
  /** Where the peer's stream was taken back to an earlier end, behind the place that was sought last. */
  #truncated: { position: number; through: number }[] = [];
  #onReady: () => void;
  readonly #header = new RecordHeader();
  readonly counters = { fromRing: 0, fromSegments: 0, damaged: 0 };

  /**
   * @param site    whose stream
   * @param buffers memory for reading back, each at least twice RECORD_SIZE_MAX
   * @param onReady called when `next` may have something again after it answered null while loading
   */
  constructor(journal: Journal, offload: Offload, site: number, buffers: Region[], onReady: () => void) {
    this.#journal = journal;
    this.#offload = offload;
    this.#site = site;
    this.#free = [...buffers];
    this.#onReady = onReady;
    for (const buffer of buffers) assert(buffer.size >= 2 * RECORD_SIZE_MAX, 'a read-back buffer holds any record');
  }

  /** The next record to be handed out has this sequence. */
  get nextSequence(): number {
    return this.#sequence;
  }

  /** It stands here or further on; what is before has been handed out. */
  get position(): number {
    return this.#position;
  }

  /** Why the last `find`, `seek`, `next` or `check` came to nothing: STATE_CORRUPT, EIO; null if it did not fail. */
  get damage(): ForelockError | null {
    return this.#damage;
  }

  /**
   * Goes to a sequence.
   * @returns false if the journal does not hold it (any more), or it cannot be found for `damage`
   */
  seek(sequence: number): boolean {
    const position = this.find(sequence);
    if (position < 0) return false;
    this.#position = position;
    this.#sequence = sequence;
    return true;
  }

  /** Position of the record with this sequence (or of the stream's end, for the sequence after the last); -1 if it is gone, or for `damage`. */
  find(sequence: number): number {
    this.#damage = null;
    const journal = this.#journal;
    const own = this.#site === journal.own.site;
    const end = own ? journal.own : journal.peer;
    if (sequence > end.appended) return sequence === end.appended + 1 ? journal.head : -1;
    let start = -1;
    for (const segment of journal.segments.all()) {
      if ((own ? segment.ownBefore : segment.peerBefore) >= sequence) break;
      start = segment.number * journal.segmentSize;
    }
    if (start < 0) {
      // nothing is in files (yet, or any more): what the ring has begins a segment
      if (journal.segments.count > 0) return -1;
      start = journal.written;
    }
    let found = -1;
    this.#truncated = [];
    for (let position = start; position < journal.head; ) {
      const header = this.#headerAt(position);
      if (header === null) return -1;
      if (header.type < TYPE_LOCAL && header.site === this.#site && header.sequence === sequence) {
        if (own) return position;
        found = position; // one that was taken back comes again behind its TRUNCATED
      } else if (header.type === TYPE_TRUNCATED && !own) {
        this.#truncated.push({ position, through: header.scope });
      }
      position += header.size;
    }
    return found;
  }

  /**
   * The stamp of a record that stands at `from` or soon behind it; null when it is not found there. Nothing is sought: what
   * is handed out next stays the same.
   */
  stampOf(sequence: number, from: number): number | null {
    const journal = this.#journal;
    const header = new RecordHeader();
    let position = from;
    for (let looked = 0; looked < LOOKED_AT_MAX && position < journal.head; looked += 1) {
      const at = journal.locate(position);
      if (at < 0) return null;
      header.read(journal.memory.view, at);
      if (header.type < TYPE_LOCAL && header.site === this.#site && header.sequence >= sequence)
        return header.sequence === sequence ? header.clock : null;
      position += header.size;
    }
    return null;
  }

  /** Whether a TRUNCATED behind this record took it back. */
  #isTruncated(sequence: number, position: number): boolean {
    return this.#truncated.some((each) => each.position > position && each.through < sequence);
  }

  /** The header of the record at a position, from ring or file; null if it is gone, or damaged. The object is reused. */
  #headerAt(position: number): RecordHeader | null {
    const journal = this.#journal;
    const at = journal.locate(position);
    if (at >= 0) return this.#header.read(journal.memory.view, at);
    if (journal.segments.get(journal.segments.numberOf(position)) !== undefined) this.#damaged(position);
    return null;
  }

  /**
   * Whether the journal's own copy of a record is whole, blocks included: to be asked when the peer found it damaged.
   * @returns false when it is not, and `damage` says so
   */
  check(sequence: number): boolean {
    const journal = this.#journal;
    const position = this.find(sequence);
    const header = position < 0 ? null : this.#headerAt(position);
    if (header === null) return this.#damage === null; // gone: the next seek tells
    let at = journal.address(position);
    if (!journal.inRing(position)) {
      const region = this.#free.at(-1);
      if (region === undefined) return true; // all of them are on their way: the next NAK asks again
      at = region.at;
      const file = journal.segments.get(journal.segments.numberOf(position))!.file;
      const into = journal.memory.bytes.subarray(at, at + header.size);
      try {
        into.fill(0, file.read(into, position % journal.segmentSize));
      } catch (error) {
        this.#damage = this.#unreadable(position, error as Error);
        return false;
      }
    }
    if (journal.kernel.verify(at, header.size) < header.size) this.#damaged(position);
    return this.#damage === null;
  }

  /**
   * The next stretch of the stream, through sequence `through`, of about `bytesMax` bytes but at least one record.
   * @returns null when there is none now: the end is reached, it is being read (onReady follows), or `damage` says why
   */
  next(through: number, bytesMax: number): Stretch | null {
    const journal = this.#journal;
    this.#damage = this.#loadFailed;
    this.#loadFailed = null;
    while (this.#damage === null && this.#sequence <= through && this.#position < journal.sealed) {
      if (journal.inRing(this.#position)) {
        const at = journal.address(this.#position);
        const available = Math.min(journal.sealed, this.#segmentEnd()) - this.#position;
        const stretch = this.#take(at, available, through, bytesMax, true);
        if (stretch === null) continue;
        const pin = journal.pin(stretch.position);
        stretch.release = () => journal.unpin(pin);
        this.counters.fromRing += 1;
        return stretch;
      }
      const loaded = this.#loaded;
      if (loaded !== null && this.#position >= loaded.position && this.#position < loaded.position + loaded.size) {
        const from = this.#position;
        const offset = from - loaded.position;
        const stretch = this.#take(loaded.region.at + offset, loaded.size - offset, through, bytesMax, false);
        if (stretch !== null) {
          loaded.users += 1;
          let released = false;
          stretch.release = () => {
            if (released) return;
            released = true;
            loaded.users -= 1;
            if (loaded.users === 0 && this.#loaded !== loaded) {
              this.#free.push(loaded.region);
              this.#onReady();
            }
          };
          this.counters.fromSegments += 1;
          return stretch;
        }
        if (this.#position > from) continue;
        if (offset === 0) {
          // any record fits what was loaded from its beginning
          this.#unload();
          this.#damaged(from);
          return null;
        }
      }
      this.#load();
      return null;
    }
    return null;
  }

  #segmentEnd(): number {
    const size = this.#journal.segmentSize;
    return this.#position - (this.#position % size) + size;
  }

  /**
   * Steps over foreign records at the cursor, then takes a run of the stream's own. Null: only foreign ones were there, or
   * (not from the ring) one that is not whole or not what belongs there.
   */
  #take(at: number, available: number, through: number, bytesMax: number, ring: boolean): Stretch | null {
    const journal = this.#journal;
    const { view } = journal.memory;
    const header = this.#header;
    let size = 0;
    let count = 0;
    let skipped = 0;
    while (skipped + size < available) {
      const here = at + skipped + size;
      const rest = available - skipped - size;
      if (!ring && journal.kernel.checkHeader(here, rest) === 0) break;
      header.read(view, here);
      assert(header.size >= RECORD_SIZE_MIN, 'a sealed stretch is made of records');
      if (!ring && !journal.belongsAt(header, this.#position + skipped + size)) break;
      const mine = header.type < TYPE_LOCAL && header.site === this.#site && header.sequence > 0;
      const isBefore = header.sequence < this.#sequence;
      if (!mine || isBefore || this.#isTruncated(header.sequence, this.#position + skipped + size)) {
        if (count > 0) break;
        skipped += header.size;
        continue;
      }
      if (!ring && (header.size > rest || header.sequence !== this.#sequence + count)) break;
      assert(header.sequence === this.#sequence + count, 'the stream has no gap');
      if (header.sequence > through || (count > 0 && size + header.size > bytesMax)) break;
      size += header.size;
      count += 1;
    }
    const position = this.#position + skipped;
    this.#position += skipped + size;
    if (count === 0) return null;
    const first = this.#sequence;
    this.#sequence += count;
    return { at: at + skipped, size, position, first, count, isRing: ring, release: () => {} };
  }

  #load(): void {
    if (this.#loading) return;
    const journal = this.#journal;
    this.#unload();
    const position = this.#position;
    const segment = journal.segments.get(journal.segments.numberOf(position));
    if (segment === undefined) {
      this.#damage = this.#unreadable(position, new Error('the segment is gone'));
      return;
    }
    const region = this.#free.pop();
    if (region === undefined) return; // all of them are on their way; a release calls onReady
    // behind what is written stand records of an earlier segment
    const size = Math.min(region.size, this.#segmentEnd() - position, journal.written - position);
    this.#loading = true;
    journal.segments.retain(segment);
    this.#offload.load(segment.file.fd, position % journal.segmentSize, size, region.at, (error, bytesRead) => {
      this.#loading = false;
      journal.segments.release(segment);
      if (error === null && bytesRead > 0) this.#loaded = { region, position, size: bytesRead, users: 0 };
      else {
        this.#loadFailed = this.#unreadable(position, error ?? new Error('the file ends before it'));
        this.#free.push(region);
      }
      this.#onReady();
    });
  }

  #unload(): void {
    const old = this.#loaded;
    if (old === null) return;
    this.#loaded = null;
    if (old.users === 0) this.#free.push(old.region);
  }

  #damaged(position: number): void {
    this.counters.damaged += 1;
    this.#damage = new ForelockError(
      'STATE_CORRUPT',
      `${this.#place(position)} is not what was written there${REMEDY}`,
    );
  }

  #unreadable(position: number, error: Error): ForelockError {
    this.counters.damaged += 1;
    return new ForelockError('EIO', `${this.#place(position)} cannot be read (${error.message})${REMEDY}`);
  }

  #place(position: number): string {
    const { segments, segmentSize } = this.#journal;
    const name = segmentName(segments.numberOf(position));
    return `${name} at offset ${position % segmentSize} (position ${position})`;
  }
}
