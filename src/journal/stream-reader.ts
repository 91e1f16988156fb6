/**
 * Walks one site's stream in the journal, in order, and hands out stretches of it as they stand: from the ring while
 * they are still there, from segment files otherwise. Local records and the other site's stream are stepped over.
 */
import { AT_SIZE, AT_TYPE, HEADER_SIZE, RECORD_SIZE_MAX, TYPE_LOCAL } from '../../assembly/layout.js';
import { assert } from '../assert.js';
import type { Region } from '../kernel/memory.js';
import type { Offload } from '../kernel/offload.js';
import type { Journal } from './journal.js';
import { RecordHeader } from './record.js';

/** A run of whole records of one stream, in shared memory. */
export interface Stretch {
  at: number;
  size: number;
  position: number;
  /** Sequence of the first record and how many there are. */
  first: number;
  count: number;
  /** Gives the memory back; the bytes must not be touched afterwards. */
  release: () => void;
}

/** Where a stream's records are looked up and read from. */
export class StreamReader {
  readonly #journal: Journal;
  readonly #offload: Offload;
  readonly #site: number;
  /** Memory for stretches read back from segments; a fixed set, handed out and given back. */
  readonly #free: Region[];
  #loaded: { region: Region; position: number; size: number; users: number } | null = null;
  #loading = false;
  #position = 0;
  #sequence = 0;
  #onReady: () => void;
  readonly #header = new RecordHeader();
  readonly #small = new Uint8Array(HEADER_SIZE);
  readonly #smallView = new DataView(this.#small.buffer);
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

  /**
   * Goes to a sequence.
   * @returns false if the journal does not hold it (any more)
   */
  seek(sequence: number): boolean {
    const position = this.find(sequence);
    if (position < 0) return false;
    this.#position = position;
    this.#sequence = sequence;
    return true;
  }

  /** Position of the record with this sequence (or of the stream's end, for the sequence after the last); -1 if it is gone. */
  find(sequence: number): number {
    const journal = this.#journal;
    const own = this.#site === journal.own.site;
    const end = own ? journal.own : journal.peer;
    if (sequence > end.appended) return sequence === end.appended + 1 ? journal.head : -1;
    let start = -1;
    for (const segment of journal.segments.all()) {
      if ((own ? segment.ownBefore : segment.peerBefore) >= sequence) break;
      start = segment.number * journal.segmentSize;
    }
    const ringStart = Math.floor((journal.head - 1) / journal.segmentSize) * journal.segmentSize;
    if (start < 0) {
      // nothing on disk yet: the ring's segment may hold it
      if (journal.segments.count > 0 || !journal.inRing(ringStart)) return -1;
      start = 0;
    }
    for (let position = start; position < journal.head; ) {
      const header = this.headerAt(position);
      if (header === null) return -1;
      if (header.type < TYPE_LOCAL && header.site === this.#site && header.sequence === sequence) return position;
      position += header.size;
    }
    return -1;
  }

  /** The header of the record at a position, from ring or file; null if it cannot be read. The object is reused. */
  headerAt(position: number): RecordHeader | null {
    const journal = this.#journal;
    if (journal.inRing(position)) return this.#header.read(journal.memory.view, journal.address(position));
    const segment = journal.segments.get(journal.segments.numberOf(position));
    if (segment === undefined) return null;
    if (segment.file.read(this.#small, position % journal.segmentSize) < HEADER_SIZE) return null;
    const header = this.#header.read(this.#smallView, 0);
    return header.size >= 80 ? header : null;
  }

  /**
   * The next stretch of the stream, through sequence `through`, of about `bytesMax` bytes but at least one record.
   * @returns null when there is none now: the end is reached, or it is being read (onReady follows)
   * @throws Error when a segment that should hold it cannot be read
   */
  next(through: number, bytesMax: number): Stretch | null {
    const journal = this.#journal;
    while (this.#sequence <= through && this.#position < journal.sealed) {
      if (journal.inRing(this.#position)) {
        const stretch = this.#take(
          journal.address(this.#position),
          Math.min(journal.sealed, this.#segmentEnd()) - this.#position,
          through,
          bytesMax,
        );
        if (stretch === null) continue;
        const pin = journal.pin(stretch.position);
        stretch.release = () => journal.unpin(pin);
        this.counters.fromRing += 1;
        return stretch;
      }
      const loaded = this.#loaded;
      if (loaded !== null && this.#position >= loaded.position && this.#position < loaded.position + loaded.size) {
        const offset = this.#position - loaded.position;
        if (this.#wholeRecordAt(loaded.region.at + offset, loaded.size - offset)) {
          const stretch = this.#take(loaded.region.at + offset, loaded.size - offset, through, bytesMax);
          if (stretch === null) continue;
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

  #wholeRecordAt(at: number, available: number): boolean {
    if (available < HEADER_SIZE) return false;
    const view = this.#journal.memory.view;
    if (view.getUint8(at + AT_TYPE) >= TYPE_LOCAL) return true; // stepped over, needs no body
    return view.getUint32(at + AT_SIZE, true) <= available;
  }

  /** Steps over foreign records at the cursor, then takes a run of the stream's own. Null: only foreign ones were there. */
  #take(at: number, available: number, through: number, bytesMax: number): Stretch | null {
    const view = this.#journal.memory.view;
    const header = this.#header;
    let size = 0;
    let count = 0;
    let skipped = 0;
    while (skipped + size < available) {
      const here = at + skipped + size;
      if (!this.#wholeRecordAt(here, available - skipped - size)) break;
      header.read(view, here);
      assert(header.size >= 80, 'a sealed stretch is made of records');
      const mine = header.type < TYPE_LOCAL && header.site === this.#site && header.sequence > 0;
      if (!mine || header.sequence < this.#sequence) {
        if (count > 0) break;
        skipped += header.size;
        continue;
      }
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
    return { at: at + skipped, size, position, first, count, release: () => {} };
  }

  #load(): void {
    if (this.#loading) return;
    const journal = this.#journal;
    const old = this.#loaded;
    if (old !== null) {
      this.#loaded = null;
      if (old.users === 0) this.#free.push(old.region);
    }
    const region = this.#free.pop();
    if (region === undefined) return; // all of them are on their way; a release calls onReady
    const segment = journal.segments.get(journal.segments.numberOf(this.#position));
    if (segment === undefined) {
      this.#free.push(region);
      throw new Error(`segment of position ${this.#position} (sequence ${this.#sequence}) is gone`);
    }
    const position = this.#position;
    const size = Math.min(region.size, this.#segmentEnd() - position);
    this.#loading = true;
    journal.segments.retain(segment);
    this.#offload.load(segment.file.fd, position % journal.segmentSize, size, region.at, (error, bytesRead) => {
      this.#loading = false;
      journal.segments.release(segment);
      if (error === null && bytesRead > 0) this.#loaded = { region, position, size: bytesRead, users: 0 };
      else {
        this.counters.damaged += 1;
        this.#free.push(region);
      }
      this.#onReady();
    });
  }
}
