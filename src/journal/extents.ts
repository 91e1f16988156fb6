/**
 * Which of many extents overlap a given one: an index over records of a stream, by place.
 *
 *     level 0    cells of 2^7 blocks      writes
 *     level 1    cells of 2^14            the largest records of small blocks, ...
 *     ...
 *     level 4    cells of 2^35            ... a trim or a lock of a whole volume
 *
 * An entry stands in the lowest level whose cells are not smaller than it, so in one cell or two neighbours. A question
 * looks into each level that holds anything. Within a cell the entries are in order of sequence: they come in that
 * order and usually leave in it, so both ends of a cell are cheap, and a question can start behind a sequence.
 *
 * Cost: `add` and the removal of a cell's oldest are O(1). A question costs a look-up per cell it touches, log n for
 * where to begin, and what it meets within the cells.
 */
import { assert } from '../assert.js';

export interface Placed {
  readonly volume: number;
  readonly lba: number;
  /** lba + blockCount. */
  readonly end: number;
  /** In the order of the stream; an index holds entries of one stream. */
  readonly sequence: number;
}

/** Cells of the last level are as large as the largest volume: 16 TiB of 512-byte blocks. */
const SHIFTS = [7, 14, 21, 28, 35];
/** Cells that became empty are kept for reuse up to this many. */
const SPARE_CELLS = 1024;
/** Dead places at a cell's head are given back when there are this many, and as many as live ones. */
const HEAD_MAX = 32;

class Cell<E> {
  volume = 0;
  number = 0;
  /** Entries are entries[head ..], ascending by sequence. */
  readonly entries: (E | null)[] = [];
  head = 0;
}

class Level<E> {
  readonly size: number;
  readonly cells = new Map<number, Cell<E>>();
  constructor(shift: number) {
    this.size = 2 ** shift;
  }
}

export class ExtentIndex<E extends Placed> {
  readonly #levels = SHIFTS.map((shift) => new Level<E>(shift));
  readonly #spare: Cell<E>[] = [];
  #count = 0;

  get count(): number {
    return this.#count;
  }

  /** Sequences ascend from one `add` to the next. */
  add(entry: E): void {
    assert(entry.end > entry.lba, 'an entry has blocks');
    const level = this.#levelOf(entry);
    const first = Math.floor(entry.lba / level.size);
    const last = Math.floor((entry.end - 1) / level.size);
    for (let number = first; number <= last; number++) {
      const key = cellKey(entry.volume, number);
      let cell = level.cells.get(key);
      if (cell === undefined) {
        cell = this.#spare.pop() ?? new Cell<E>();
        cell.volume = entry.volume;
        cell.number = number;
        level.cells.set(key, cell);
      }
      const { entries } = cell;
      assert(
        entries.length === cell.head || entries[entries.length - 1]!.sequence < entry.sequence,
        'entries come in the order of their stream',
      );
      entries.push(entry);
    }
    this.#count++;
  }

  remove(entry: E): void {
    const level = this.#levelOf(entry);
    const first = Math.floor(entry.lba / level.size);
    const last = Math.floor((entry.end - 1) / level.size);
    for (let number = first; number <= last; number++) {
      const key = cellKey(entry.volume, number);
      const cell = level.cells.get(key);
      assert(cell !== undefined, 'a removed entry was there');
      const { entries } = cell;
      const at = firstAfter(cell, entry.sequence - 1);
      assert(entries[at] === entry, 'a removed entry was there');
      if (at === cell.head) entries[cell.head++] = null;
      else entries.splice(at, 1);
      if (cell.head === entries.length) {
        level.cells.delete(key);
        entries.length = 0;
        cell.head = 0;
        if (this.#spare.length < SPARE_CELLS) this.#spare.push(cell);
      } else if (cell.head >= HEAD_MAX && cell.head * 2 >= entries.length) {
        entries.splice(0, cell.head);
        cell.head = 0;
      }
    }
    this.#count--;
  }

  /** The overlapping entry with the lowest sequence above `after`, or null. */
  first(volume: number, lba: number, end: number, after: number): E | null {
    let found: E | null = null;
    this.#forEachCell(volume, lba, end, (cell) => {
      const { entries } = cell;
      for (let i = firstAfter(cell, after); i < entries.length; i++) {
        const entry = entries[i]!;
        if (found !== null && entry.sequence >= found.sequence) return;
        if (entry.lba < end && entry.end > lba) {
          found = entry;
          return;
        }
      }
    });
    return found;
  }

  /**
   * Calls back for each overlapping entry with a sequence above `after`, once; within a cell the newest first.
   *
   * @param visit  returns true if what is older in its cell need not be looked at; must not change the index
   */
  forEach(volume: number, lba: number, end: number, after: number, visit: (entry: E) => boolean): void {
    this.#forEachCell(volume, lba, end, (cell, size) => {
      const { entries } = cell;
      const firstAsked = Math.floor(lba / size);
      for (let i = entries.length - 1; i >= cell.head; i--) {
        const entry = entries[i]!;
        if (entry.sequence <= after) break;
        if (entry.lba >= end || entry.end <= lba) continue;
        // an entry that spans two cells is met in both: it counts in the first of them that was asked
        if (cell.number === Math.max(firstAsked, Math.floor(entry.lba / size)) && visit(entry)) break;
      }
    });
  }

  #forEachCell(volume: number, lba: number, end: number, visit: (cell: Cell<E>, size: number) => void): void {
    for (const level of this.#levels) {
      const { cells, size } = level;
      if (cells.size === 0) continue;
      const first = Math.floor(lba / size);
      const last = Math.floor((end - 1) / size);
      if (last - first >= cells.size) {
        for (const cell of cells.values()) {
          if (cell.volume === volume && cell.number >= first && cell.number <= last) visit(cell, size);
        }
        continue;
      }
      for (let number = first; number <= last; number++) {
        const cell = cells.get(cellKey(volume, number));
        if (cell !== undefined) visit(cell, size);
      }
    }
  }

  #levelOf(entry: E): Level<E> {
    const blockCount = entry.end - entry.lba;
    const level = this.#levels.find(({ size }) => blockCount <= size);
    assert(level !== undefined, 'an extent is not larger than the largest volume');
    return level;
  }
}

/** Volumes are u16 and cells at most 2^28: exact in a double. */
function cellKey(volume: number, number: number): number {
  return volume * 2 ** 29 + number;
}

/** Index of the cell's first entry with a sequence above `after`. */
function firstAfter<E extends Placed>(cell: Cell<E>, after: number): number {
  let low = cell.head;
  let high = cell.entries.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (cell.entries[middle]!.sequence <= after) low = middle + 1;
    else high = middle;
  }
  return low;
}
