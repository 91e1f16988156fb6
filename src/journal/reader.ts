/**
 * Reads blocks of a volume (or of a pinned view) from where the map says they are: copied out of the ring on this
 * thread, or read from segments in batches by the pool, which checks every block against its checksum. What was read in
 * one piece and is large is lent where the pool has put it; the rest is copied to where the reader wants it.
 */
import { AT_BLOCK_COUNT, AT_CHECKSUMS, RECORD_BLOCKS_MAX } from '../../assembly/layout.js';
import { ForelockError } from '../errors.js';
import { copyBytes, type Region } from '../kernel/memory.js';
import { type Offload, READ_RUN_OVERHEAD, type ReadRun } from '../kernel/offload.js';
import type { Journal } from './journal.js';
import type { MapLookup } from './map.js';
import type { Segment } from './segments.js';

/** What a flat platter adds: blocks that the map does not know stand in the image. */
export interface ImageSource {
  read(offset: number, size: number, into: Uint8Array, done: (error: Error | null) => void): void;
}

/** `bytes` is what was read; with `release` they are lent until it is called, else they are the receiver's own. */
type LentDone = (error: ForelockError | null, bytes: Uint8Array | null, release: (() => void) | null) => void;

interface Job {
  runs: ReadRun[];
  segments: Segment[];
  /** Where each run's payload goes; null: it is the whole of its operation, and may be lent. */
  into: (Uint8Array | null)[];
  owner: ReadOperation[];
  used: number;
}

/** One read of consecutive blocks, answered once. */
class ReadOperation {
  waiting = 1;
  error: ForelockError | null = null;
  #bytes: Uint8Array | null = null;
  #release: (() => void) | null = null;
  readonly #done: LentDone;
  readonly #buffer: (() => Uint8Array) | null;

  /** @param buffer memory of the receiver, for what is not lent after all */
  constructor(done: LentDone, buffer: (() => Uint8Array) | null = null) {
    this.#done = done;
    this.#buffer = buffer;
  }

  lend(bytes: Uint8Array, release: () => void): void {
    this.#bytes = bytes;
    this.#release = release;
  }

  copy(bytes: Uint8Array): void {
    this.#bytes = this.#buffer!();
    copyBytes(this.#bytes, 0, bytes);
  }

  partDone(error: ForelockError | null): void {
    this.error ??= error;
    this.waiting -= 1;
    if (this.waiting === 0) this.#done(this.error, this.#bytes, this.#release);
  }
}

export class BlockReader {
  readonly #journal: Journal;
  readonly #offload: Offload;
  readonly #defer: (task: () => void) => void;
  /** One slice of the arena per batch under way. */
  readonly #slices: Region[];
  #job: Job | null = null;
  #jobQueued = false;
  readonly #waitingRuns: (() => void)[] = [];
  #lentSlices = 0;
  /** Of the slices, so many may be lent at a time: who is slow to send them does not keep others from reading. */
  readonly #lentMax: number;
  readonly counters = { blocksFromRing: 0, blocksFromSegments: 0, batches: 0, checksumErrors: 0, readErrors: 0 };

  constructor(journal: Journal, offload: Offload, slices: Region[], defer: (task: () => void) => void) {
    this.#journal = journal;
    this.#offload = offload;
    this.#slices = [...slices];
    this.#lentMax = slices.length >> 1;
    this.#defer = defer;
  }

  /**
   * Reads blocks [lba, lba + blockCount) as `map` shows them into `into` (blockCount << blockShift bytes).
   * @param image for a flat platter, where unmapped blocks are read from
   * @param done  never called inside this call; EIO if any block could not be read back as it was written
   */
  read(
    map: MapLookup,
    volume: number,
    blockShift: number,
    lba: number,
    blockCount: number,
    into: Uint8Array,
    image: ImageSource | null,
    done: (error: ForelockError | null) => void,
  ): void {
    const operation = new ReadOperation(done);
    const journal = this.#journal;
    const blockSize = 1 << blockShift;
    let at = 0;
    while (at < blockCount) {
      const target = at << blockShift;
      if (!map.lookup(lba + at)) {
        const count = Math.min(blockCount - at, map.run(lba + at, blockCount - at));
        const piece = into.subarray(target, target + (count << blockShift));
        if (image === null || map.zero) piece.fill(0);
        else {
          operation.waiting += 1;
          image.read((lba + at) * blockSize, piece.length, piece, (error) => {
            if (error) this.counters.readErrors += 1;
            operation.partDone(error ? new ForelockError('EIO', `image of volume ${volume}: ${error.message}`) : null);
          });
        }
        at += count;
        continue;
      }
      if (map.zero) {
        into.fill(0, target, target + blockSize);
        at += 1;
        continue;
      }
      const position = map.position;
      const index = map.index;
      let count = 1;
      while (at + count < blockCount && index + count < RECORD_BLOCKS_MAX && map.lookup(lba + at + count)) {
        if (map.zero || map.position !== position || map.index !== index + count) break;
        count += 1;
      }
      const size = count << blockShift;
      if (journal.inRing(position)) {
        const record = journal.address(position);
        const total = journal.memory.view.getUint32(record + AT_BLOCK_COUNT, true);
        const payload = record + AT_CHECKSUMS + 8 * total + (index << blockShift);
        copyBytes(into, target, journal.memory.bytes.subarray(payload, payload + size));
        this.counters.blocksFromRing += count;
      } else {
        this.#add(
          operation,
          volume,
          blockShift,
          lba + at,
          position,
          index,
          count,
          into.subarray(target, target + size),
        );
      }
      at += count;
    }
    this.#defer(() => operation.partDone(null));
  }

  /**
   * Reads blocks that stand in one record on disk, and lends them where they were put. `done` as for `read`.
   * @param buffer memory to copy them to, asked for when so much is lent already that it has to be
   * @returns false: they do not stand so, `read` them
   */
  lend(
    map: MapLookup,
    volume: number,
    blockShift: number,
    lba: number,
    blockCount: number,
    buffer: () => Uint8Array,
    done: LentDone,
  ): boolean {
    if (!map.lookup(lba) || map.zero) return false;
    const { position, index } = map;
    if (index + blockCount > RECORD_BLOCKS_MAX || this.#journal.inRing(position)) return false;
    for (let at = 1; at < blockCount; at += 1)
      if (!map.lookup(lba + at) || map.zero || map.position !== position || map.index !== index + at) return false;
    const operation = new ReadOperation(done, buffer);
    this.#add(operation, volume, blockShift, lba, position, index, blockCount, null);
    this.#defer(() => operation.partDone(null));
    return true;
  }

  #add(
    operation: ReadOperation,
    volume: number,
    blockShift: number,
    lba: number,
    position: number,
    index: number,
    count: number,
    into: Uint8Array | null,
  ): void {
    const journal = this.#journal;
    const segment = journal.segments.get(journal.segments.numberOf(position));
    operation.waiting += 1;
    if (segment === undefined) {
      this.counters.checksumErrors += 1;
      this.#defer(() =>
        operation.partDone(
          new ForelockError('EIO', `volume ${volume}: block ${lba} points into a segment that is gone`),
        ),
      );
      return;
    }
    this.counters.blocksFromSegments += count;
    journal.segments.retain(segment);
    const offset = position % journal.segmentSize;
    this.#place(
      operation,
      segment,
      { fd: segment.file.fd, offset, index, count, blockShift, volume, lba, at: 0 },
      into,
    );
  }

  #place(operation: ReadOperation, segment: Segment, run: ReadRun, into: Uint8Array | null): void {
    const need = READ_RUN_OVERHEAD + (run.count << run.blockShift);
    let job = this.#job;
    if (job !== null && job.used + need > this.#slices[0]!.size) {
      this.#dispatch();
      job = null;
    }
    if (job === null) {
      if (this.#slices.length === 0) {
        this.#waitingRuns.push(() => this.#place(operation, segment, run, into));
        return;
      }
      job = { runs: [], segments: [], into: [], owner: [], used: 0 };
      this.#job = job;
    }
    run.at = this.#slices[0]!.at + job.used;
    job.used = Math.ceil((job.used + need) / 64) * 64;
    job.runs.push(run);
    job.segments.push(segment);
    job.into.push(into);
    job.owner.push(operation);
    if (!this.#jobQueued) {
      this.#jobQueued = true;
      this.#defer(() => {
        this.#jobQueued = false;
        if (this.#job !== null) this.#dispatch();
      });
    }
  }

  #dispatch(): void {
    const job = this.#job!;
    this.#job = null;
    const slice = this.#slices.shift()!;
    this.counters.batches += 1;
    this.#offload.read(job.runs, (error, payloadAt) => {
      const bytes = this.#journal.memory.bytes;
      let users = 1;
      let lent = false;
      const release = (): void => {
        users -= 1;
        if (users > 0) return;
        if (lent) this.#lentSlices -= 1;
        this.#give(slice);
      };
      for (let i = 0; i < job.runs.length; i += 1) {
        const run = job.runs[i]!;
        const at = error ? -2 : payloadAt[i]!;
        if (at >= 0) {
          const payload = bytes.subarray(at, at + (run.count << run.blockShift));
          const into = job.into[i]!;
          if (into !== null) copyBytes(into, 0, payload);
          else if (!lent && this.#lentSlices === this.#lentMax) job.owner[i]!.copy(payload);
          else {
            if (!lent) this.#lentSlices += 1;
            lent = true;
            users += 1;
            job.owner[i]!.lend(payload, release);
          }
        } else if (at === -1) this.counters.checksumErrors += 1;
        else this.counters.readErrors += 1;
        this.#journal.segments.release(job.segments[i]!);
        job.owner[i]!.partDone(at >= 0 ? null : unreadable(run, job.segments[i]!.number, at, error));
      }
      release();
    });
  }

  #give(slice: Region): void {
    this.#slices.push(slice);
    while (this.#waitingRuns.length > 0 && this.#slices.length > 0) this.#waitingRuns.shift()!();
  }
}

/** @param at what the offload answered instead of an address */
function unreadable(run: ReadRun, segment: number, at: number, error: Error | null): ForelockError {
  const where = `volume ${run.volume}, block ${run.lba}: segment ${segment} at ${run.offset}`;
  return new ForelockError(
    'EIO',
    at === -1
      ? `${where} does not match its checksum`
      : `${where} could not be read${error ? ` (${error.message})` : ''}`,
  );
}
