/**
 * Checksums of what was written since the last checkpoint, for the next one, which has them beside the pointers.
 *
 * They are kept by where their records stand and not by block. A pointer names one block of one record for good, so there
 * is nothing to forget when the block is written again, and records that follow each other in the journal do so here:
 *
 *     segment  --->  cells of 8 bytes, one for each 2^shift bytes of it
 *                    block i of the record at offset o: cell (o >> shift) + i
 *
 * 2^shift is the size of the smallest block. A record is longer than its blocks, so no cell belongs to two of them.
 *
 * Memory: a segment's cells are 1/512 of it with blocks of 4 KiB, 1/64 with blocks of 512 bytes, until the checkpoint is
 * done: of the journal since the last one began, and of the one before that while it is written.
 */
import { assert } from '../assert.js';

interface Generation {
  /** 0: nothing is known. */
  shift: number;
  readonly segments: Map<number, Uint32Array>;
}

const makeGeneration = (): Generation => ({ shift: 0, segments: new Map() });

/** What a checkpoint may ask. */
export interface KnownChecksums {
  /** Set by `find`: the words of the checksum. */
  readonly lo: number;
  readonly hi: number;
  /** @returns whether the checksum of block `index` of the record at `position` is known: a checksum of 0 is not */
  find(position: number, index: number): boolean;
}

class Frozen implements KnownChecksums {
  lo = 0;
  hi = 0;
  readonly generation: Generation;
  readonly #segmentSize: number;

  constructor(generation: Generation, segmentSize: number) {
    this.generation = generation;
    this.#segmentSize = segmentSize;
  }

  find(position: number, index: number): boolean {
    const { shift, segments } = this.generation;
    const number = Math.floor(position / this.#segmentSize);
    const cells = segments.get(number);
    if (cells === undefined) return false;
    const at = 2 * (((position - number * this.#segmentSize) >>> shift) + index);
    this.lo = cells[at];
    this.hi = cells[at + 1];
    return (this.lo | this.hi) !== 0;
  }
}

export class ChecksumTable {
  readonly #segmentSize: number;
  #current = makeGeneration();
  #frozen: Frozen | null = null;
  #lastNumber = -1;
  #lastCells: Uint32Array = new Uint32Array(0);

  /** @param segmentSize a power of two */
  constructor(segmentSize: number) {
    this.#segmentSize = segmentSize;
  }

  get bytes(): number {
    let bytes = 0;
    for (const generation of [this.#current, this.#frozen?.generation])
      for (const cells of generation?.segments.values() ?? []) bytes += cells.byteLength;
    return bytes;
  }

  /** Keeps the checksums of the record at `position`, `blockCount` XXH3-64 from byte `at` of `view` on. */
  note(position: number, blockShift: number, blockCount: number, view: DataView, at: number): void {
    assert(blockShift >= 9, 'a record with blocks');
    if (this.#current.shift === 0 || blockShift < this.#current.shift) this.#begin(blockShift);
    const number = Math.floor(position / this.#segmentSize);
    const cells = number === this.#lastNumber ? this.#lastCells : this.#cellsOf(number);
    let cell = 2 * ((position - number * this.#segmentSize) >>> this.#current.shift);
    assert(cell + 2 * blockCount <= cells.length, 'a record is in one segment');
    const end = at + 8 * blockCount;
    for (let sum = at; sum < end; sum += 8, cell += 2) {
      cells[cell] = view.getUint32(sum, true);
      cells[cell + 1] = view.getUint32(sum + 4, true);
    }
  }

  /** What is known now belongs to a checkpoint, which ends with `drop` or `thaw`. One at a time. */
  freeze(): KnownChecksums {
    assert(this.#frozen === null, 'one checkpoint at a time');
    this.#frozen = new Frozen(this.#current, this.#segmentSize);
    this.#begin(this.#current.shift);
    return this.#frozen;
  }

  /** The checkpoint is on disk. */
  drop(): void {
    this.#frozen = null;
  }

  /** The checkpoint failed: what it would have had belongs to the next one, too. */
  thaw(): void {
    const { shift, segments } = this.#frozen!.generation;
    this.#frozen = null;
    if (this.#current.shift !== shift) return; // smaller blocks have come: they are read from the records if need be
    for (const [number, before] of segments) {
      const cells = this.#current.segments.get(number);
      if (cells === undefined) this.#current.segments.set(number, before);
      else
        for (let at = 0; at < cells.length; at += 2) {
          if ((cells[at] | cells[at + 1]) !== 0) continue;
          cells[at] = before[at];
          cells[at + 1] = before[at + 1];
        }
    }
  }

  #begin(shift: number): void {
    this.#current = { ...makeGeneration(), shift };
    this.#lastNumber = -1;
  }

  #cellsOf(number: number): Uint32Array {
    const { shift, segments } = this.#current;
    let cells = segments.get(number);
    if (cells === undefined) {
      cells = new Uint32Array(2 * (this.#segmentSize >>> shift));
      segments.set(number, cells);
    }
    this.#lastNumber = number;
    this.#lastCells = cells;
    return cells;
  }
}
