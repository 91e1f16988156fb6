/**
 * Which record holds each block of a volume: a paged, copy-on-write table of journal pointers.
 *
 * A pointer is two u32:
 *
 *     hi   floor(position / 2^26)
 *     lo   ((position mod 2^26) / 16) << 10 | index        position: of the record; index: of the block in it
 *
 *     hi = lo = 0      unmapped: never written or trimmed (a flat platter: look in the image)
 *     hi = 0xFFFFFFFF  reads as zeroes, explicitly (a flat platter: the image is not zeroed yet)
 *
 * Position 0 holds a segment's first record and never data, so no pointer to data looks unmapped.
 *
 *     leaves[]  --->  leaf: 1024 page slots  --->  page: 128 pointers, in a slot of a slab
 *
 * Leaves and pages are shared between the current map and its snapshots, and counted: a leaf by the tables that name
 * it, a page by the leaves that name it. Only what is named once is written in place, so a snapshot costs the copy of
 * the top table (one word per 131,072 blocks) and afterwards the leaves and pages that change.
 *
 * Memory: 8 bytes per block in a page, 4.5% more for slabs and counts; a page of explicit zeroes costs 4 bytes.
 */
import { RECORD_ALIGN, RECORD_BLOCKS_MAX } from '../../assembly/layout.js';
import { assert } from '../assert.js';
import type { KnownChecksums } from './checksums.js';
import type { Liveness } from './liveness.js';

export const PAGE_BLOCKS = 128;
export const LEAF_PAGES = 1024;

/** What `run` says of a stretch of blocks. */
export const UNMAPPED = 0;
export const MAPPED = 1;
export const ZERO = 2;
export type BlockStatus = typeof UNMAPPED | typeof MAPPED | typeof ZERO;

const SPAN = 2 ** 26;
const ZERO_HI = 0xffffffff;
const POSITION_MAX = 2 ** 53 - 1;

const PAGE_WORDS = PAGE_BLOCKS * 2;
/** 256 KiB slabs: small enough to keep a small volume's map small. */
const SLAB_PAGES = 256;

const pointerHi = (position: number): number => Math.floor(position / SPAN);
const pointerLo = (position: number, index: number): number =>
  ((((position % SPAN) / RECORD_ALIGN) << 10) | index) >>> 0;

/** Position of the record that a pointer names. */
export const pointerPosition = (lo: number, hi: number): number => hi * SPAN + (lo >>> 10) * RECORD_ALIGN;
/** Index of the block in that record. */
export const pointerIndex = (lo: number): number => lo & (RECORD_BLOCKS_MAX - 1);

/** BlockStatus of a pointer. */
export function pointerStatus(lo: number, hi: number): BlockStatus {
  if (hi === ZERO_HI) return ZERO;
  return (lo | hi) === 0 ? UNMAPPED : MAPPED;
}

/** Pages given up by each allocation, of leaves that nothing names any more: keeps up with any writer. */
const BURY_STEP = 64;
/** Leaves given up at once when a view is released, a millisecond or two; the rest follow with allocations. */
const BURY_LEAVES = 32;

/** Page slots of one map and its snapshots. Slot 0 is no page. */
class PageSlots {
  readonly slabs: Uint32Array[] = [];
  /** Per slab: leaves that name the slot. */
  readonly references: Uint32Array[] = [];
  /** Per slab: entries that are not unmapped. */
  readonly used: Uint8Array[] = [];
  #free = 0;
  #top = 1;
  #zeroPage = 0;
  /** Tables of leaves that nothing names, and of one of them, how many pages are given up already. */
  readonly #graves: Uint32Array[] = [];
  #grave: Uint32Array | null = null;
  #buried = 0;

  /** An all-unmapped page, named once. */
  allocate(): number {
    if (this.#grave !== null || this.#graves.length > 0) this.#bury(BURY_STEP);
    let slot = this.#free;
    if (slot === 0) {
      slot = this.#top++;
      if (slot >>> 8 === this.slabs.length) {
        this.slabs.push(new Uint32Array(SLAB_PAGES * PAGE_WORDS));
        this.references.push(new Uint32Array(SLAB_PAGES));
        this.used.push(new Uint8Array(SLAB_PAGES));
      }
    } else {
      const slab = this.slabs[slot >>> 8];
      const at = (slot & 255) << 8;
      this.#free = slab[at];
      slab.fill(0, at, at + PAGE_WORDS);
    }
    this.references[slot >>> 8][slot & 255] = 1;
    this.used[slot >>> 8][slot & 255] = 0;
    return slot;
  }

  /** A copy of a page, named once; the caller gives up its name for the original. */
  copy(slot: number): number {
    const copy = this.allocate();
    const at = (slot & 255) << 8;
    this.slabs[copy >>> 8].set(this.slabs[slot >>> 8].subarray(at, at + PAGE_WORDS), (copy & 255) << 8);
    this.used[copy >>> 8][copy & 255] = this.used[slot >>> 8][slot & 255];
    this.release(slot);
    return copy;
  }

  retain(slot: number): void {
    this.references[slot >>> 8][slot & 255]++;
  }

  release(slot: number): void {
    const references = this.references[slot >>> 8];
    assert(references[slot & 255] > 0, 'a page is released as often as it was named');
    if (--references[slot & 255] === 0) {
      this.slabs[slot >>> 8][(slot & 255) << 8] = this.#free;
      this.#free = slot;
    }
  }

  /** Takes leaves that nothing names any more: their pages are given up a few at a time. */
  bury(leaves: readonly Uint32Array[]): void {
    for (const pages of leaves) this.#graves.push(pages);
    this.#bury(BURY_LEAVES * LEAF_PAGES);
  }

  #bury(pageCount: number): void {
    for (let i = 0; i < pageCount; i++) {
      if (this.#grave === null) {
        this.#grave = this.#graves.pop() ?? null;
        this.#buried = 0;
        if (this.#grave === null) return;
      }
      const slot = this.#grave[this.#buried++];
      if (this.#buried === LEAF_PAGES) this.#grave = null;
      if (slot !== 0) this.release(slot);
    }
  }

  isZeroPage(slot: number): boolean {
    return slot === this.#zeroPage;
  }

  isShared(slot: number): boolean {
    return this.references[slot >>> 8][slot & 255] > 1;
  }

  /** The one page of explicit zeroes, named once more; never written because these slots name it too. */
  zeroPage(): number {
    if (this.#zeroPage === 0) {
      this.#zeroPage = this.allocate();
      const slab = this.slabs[this.#zeroPage >>> 8];
      const at = (this.#zeroPage & 255) << 8;
      for (let i = 0; i < PAGE_WORDS; i += 2) slab[at + i + 1] = ZERO_HI;
      this.used[this.#zeroPage >>> 8][this.#zeroPage & 255] = PAGE_BLOCKS;
    }
    this.retain(this.#zeroPage);
    return this.#zeroPage;
  }

  get bytes(): number {
    return this.slabs.length * SLAB_PAGES * (PAGE_WORDS * 4 + 4 + 1);
  }
}

class Leaf {
  readonly pages: Uint32Array;
  /** Tables that name the leaf. */
  references = 1;
  constructor(pages: Uint32Array) {
    this.pages = pages;
  }
}

/** Reading a map: common to the current map and to its snapshots. Addresses are checked by assertion. */
export abstract class MapLookup {
  readonly blockCount: number;
  /** Set by `lookup`: position of the record; of meaning only after it returned true. */
  position = 0;
  /** Set by `lookup`: index of the block in the record. */
  index = 0;
  /** Set by `lookup`: the block reads as zeroes, explicitly (`lookup` returned false). */
  zero = false;
  /** Set by `run`. */
  status: BlockStatus = UNMAPPED;
  protected readonly leaves: (Leaf | null)[];
  protected readonly slots: PageSlots;

  protected constructor(blockCount: number, leaves: (Leaf | null)[], slots: PageSlots) {
    this.blockCount = blockCount;
    this.leaves = leaves;
    this.slots = slots;
  }

  /** True when the block has data: `position` and `index` say where. Otherwise `zero` says which kind of nothing. */
  lookup(lba: number): boolean {
    assert(lba >= 0 && lba < this.blockCount, 'the block is in the volume');
    this.zero = false;
    const page = Math.floor(lba / PAGE_BLOCKS);
    const leaf = this.leaves[page >>> 10];
    if (leaf === null) return false;
    const slot = leaf.pages[page & 1023];
    if (slot === 0) return false;
    const slab = this.slots.slabs[slot >>> 8];
    const at = ((slot & 255) << 8) + ((lba & 127) << 1);
    const lo = slab[at];
    const hi = slab[at + 1];
    if (hi === ZERO_HI) {
      this.zero = true;
      return false;
    }
    if ((lo | hi) === 0) return false;
    this.position = hi * SPAN + (lo >>> 10) * RECORD_ALIGN;
    this.index = lo & 1023;
    return true;
  }

  /**
   * The longest run of blocks from `lba` that have one status, which is left in `status`.
   *
   * @param limit  most blocks to look at, 1 or more; the run also ends at the volume's end
   * @returns      blocks in the run, 1..limit; costs about a nanosecond per mapped block
   */
  run(lba: number, limit: number): number {
    assert(lba >= 0 && lba < this.blockCount && limit >= 1, 'the run starts in the volume');
    const end = Math.min(this.blockCount, lba + limit);
    this.status = this.lookup(lba) ? MAPPED : this.zero ? ZERO : UNMAPPED;
    let at = lba + 1;
    while (at < end) {
      const page = Math.floor(at / PAGE_BLOCKS);
      const leaf = this.leaves[page >>> 10];
      if (leaf === null) {
        if (this.status !== UNMAPPED) break;
        at = ((page >>> 10) + 1) * LEAF_PAGES * PAGE_BLOCKS;
        continue;
      }
      const slot = leaf.pages[page & 1023];
      if (slot === 0) {
        if (this.status !== UNMAPPED) break;
        at = (page + 1) * PAGE_BLOCKS;
        continue;
      }
      const slab = this.slots.slabs[slot >>> 8];
      const base = (slot & 255) << 8;
      const stop = Math.min(end, (page + 1) * PAGE_BLOCKS);
      while (at < stop) {
        const word = base + ((at & 127) << 1);
        if (pointerStatus(slab[word], slab[word + 1]) !== this.status) return at - lba;
        at++;
      }
    }
    return Math.min(at, end) - lba;
  }

  /** The first block at or after `lba` that has data, or -1. Blocks of explicit zeroes are passed over. */
  nextMapped(lba: number): number {
    return this.next(MAPPED, lba, this.blockCount);
  }

  /**
   * The first block of [lba, end) with that status, or -1. What has no page, or for data one of explicit zeroes, costs some
   * tens of nanoseconds a page: a TiB that was trimmed is 0.1 s, to be gone through in parts.
   */
  next(status: typeof MAPPED | typeof ZERO, lba: number, end: number): number {
    let at = lba;
    while (at < end) {
      const page = Math.floor(at / PAGE_BLOCKS);
      const leaf = this.leaves[page >>> 10];
      if (leaf === null) {
        at = ((page >>> 10) + 1) * LEAF_PAGES * PAGE_BLOCKS;
        continue;
      }
      const slot = leaf.pages[page & 1023];
      const stop = (page + 1) * PAGE_BLOCKS;
      if (slot !== 0 && !(status === MAPPED && this.slots.isZeroPage(slot))) {
        const slab = this.slots.slabs[slot >>> 8];
        const base = (slot & 255) << 8;
        for (const last = Math.min(stop, end); at < last; at++) {
          const word = base + ((at & 127) << 1);
          if (pointerStatus(slab[word], slab[word + 1]) === status) return at;
        }
      }
      at = stop;
    }
    return -1;
  }

  /** Calls back for each run of mapped blocks at or after `from`, in map order, block by block. */
  forEachMapped(from: number, callback: (lba: number, position: number, index: number) => void): void {
    for (let lba = this.nextMapped(from); lba >= 0; lba = this.nextMapped(lba + 1)) {
      this.lookup(lba);
      callback(lba, this.position, this.index);
    }
  }
}

/** A map as it was: for a pinned view, history, a checkpoint. Release it, or its pages stay. */
export class MapView extends MapLookup {
  #released = false;

  /** Only BlockMap makes views. */
  constructor(blockCount: number, leaves: (Leaf | null)[], slots: PageSlots) {
    super(blockCount, leaves, slots);
  }

  release(): void {
    assert(!this.#released, 'a view is released once');
    this.#released = true;
    const unnamed: Uint32Array[] = [];
    for (let i = 0; i < this.leaves.length; i++) {
      const leaf = this.leaves[i];
      if (leaf === null) continue;
      this.leaves[i] = null;
      if (--leaf.references === 0) unnamed.push(leaf.pages);
    }
    this.slots.bury(unnamed);
  }

  /** Slot of a page (0: none); for CheckpointPages. */
  slotOf(page: number): number {
    const leaf = this.leaves[page >>> 10];
    return leaf === null ? 0 : leaf.pages[page & 1023];
  }

  /** Copies a page's pointers into words 0, 1 of each group of four; the caller knows the page exists. */
  readPage(slot: number, into: Uint32Array): void {
    const slab = this.slots.slabs[slot >>> 8];
    const base = (slot & 255) << 8;
    for (let i = 0; i < PAGE_BLOCKS; i++) {
      into[i * 4] = slab[base + i * 2];
      into[i * 4 + 1] = slab[base + i * 2 + 1];
    }
  }

  hasLeaf(leaf: number): boolean {
    return this.leaves[leaf] !== null;
  }
}

/** Which pages changed: one bit a page, one small array per leaf that has any. */
class PageSet {
  readonly words: (Uint32Array | null)[];
  count = 0;
  constructor(leafCount: number) {
    this.words = new Array<Uint32Array | null>(leafCount).fill(null);
  }

  add(page: number): void {
    let words = this.words[page >>> 10];
    if (words === null) {
      words = new Uint32Array(LEAF_PAGES / 32);
      this.words[page >>> 10] = words;
    }
    const bit = 1 << (page & 31);
    const at = (page & 1023) >>> 5;
    if ((words[at] & bit) !== 0) return;
    words[at] |= bit;
    this.count++;
  }

  has(page: number): boolean {
    const words = this.words[page >>> 10];
    return words !== null && (words[(page & 1023) >>> 5] & (1 << (page & 31))) !== 0;
  }

  remove(page: number): void {
    if (!this.has(page)) return;
    this.words[page >>> 10]![(page & 1023) >>> 5] &= ~(1 << (page & 31));
    this.count--;
  }

  merge(other: PageSet): void {
    for (let leaf = 0; leaf < other.words.length; leaf++) {
      if (other.words[leaf] === null) continue;
      for (let i = 0; i < LEAF_PAGES; i++) if (other.has(leaf * LEAF_PAGES + i)) this.add(leaf * LEAF_PAGES + i);
    }
  }
}

/** The current image of a volume. `position` and other fields of MapLookup are set by lookups only. */
export class BlockMap extends MapLookup {
  readonly #liveness: Liveness;
  /** What a block counts there. */
  readonly #weight: number;
  /** Position bits below a segment, for telling apart the segments of old pointers: see `#forget`. */
  readonly #loShift: number;
  #mappedCount = 0;
  #entryCount = 0;
  #dirty: PageSet;
  #checkpoint: CheckpointPages | null = null;

  /** @param weight a block of this volume, in blocks of the smallest of the group's volumes */
  constructor(blockCount: number, liveness: Liveness, weight = 1) {
    assert(Number.isSafeInteger(blockCount) && blockCount >= 1, 'a volume has blocks');
    const leafCount = Math.ceil(blockCount / (LEAF_PAGES * PAGE_BLOCKS));
    super(blockCount, new Array<Leaf | null>(leafCount).fill(null), new PageSlots());
    this.#liveness = liveness;
    this.#weight = weight;
    this.#loShift = Math.log2(liveness.segmentSize) - 10;
    this.#dirty = new PageSet(leafCount);
  }

  /** Blocks that have data; explicit zeroes are not counted. */
  get mappedCount(): number {
    return this.#mappedCount;
  }

  /** Blocks that are not unmapped: those with data, and explicit zeroes. */
  get entryCount(): number {
    return this.#entryCount;
  }

  /** Pages changed since the last checkpoint began. */
  get dirtyPages(): number {
    return this.#dirty.count;
  }

  /** Bytes held: pages with everything that leads to them, snapshots included. */
  get bytes(): number {
    let leaves = 0;
    for (const leaf of this.leaves) if (leaf !== null) leaves++;
    return this.slots.bytes + leaves * (LEAF_PAGES * 4 + LEAF_PAGES / 8) + this.leaves.length * 16;
  }

  /**
   * Points blocks at a record: block i gets index firstIndex + i.
   *
   * @param position    of the record: a multiple of 16, above 0
   * @param firstIndex  firstIndex + blockCount <= RECORD_BLOCKS_MAX
   */
  swing(lba: number, blockCount: number, position: number, firstIndex = 0): void {
    this.#checkExtent(lba, blockCount);
    assert(
      position > 0 && position <= POSITION_MAX && position % RECORD_ALIGN === 0,
      'a pointer names a record that can exist',
    );
    assert(firstIndex >= 0 && firstIndex + blockCount <= RECORD_BLOCKS_MAX, 'the blocks are in one record');
    const hi = pointerHi(position);
    let lo = pointerLo(position, firstIndex);
    const end = lba + blockCount;
    for (let at = lba; at < end; ) {
      const entry = at & 127;
      const n = Math.min(PAGE_BLOCKS - entry, end - at);
      const slot = this.#writable(Math.floor(at / PAGE_BLOCKS));
      this.slots.used[slot >>> 8][slot & 255] += n - this.#forget(slot, entry, n);
      const slab = this.slots.slabs[slot >>> 8];
      let word = ((slot & 255) << 8) + (entry << 1);
      for (let i = 0; i < n; i++, word += 2) {
        slab[word] = lo++;
        slab[word + 1] = hi;
      }
      at += n;
    }
    this.#mappedCount += blockCount;
    this.#entryCount += blockCount;
    this.#liveness.add(position, blockCount * this.#weight);
  }

  /** Blocks become unmapped. A page left empty is given back. */
  clear(lba: number, blockCount: number): void {
    this.#checkExtent(lba, blockCount);
    const end = lba + blockCount;
    for (let at = lba; at < end; ) {
      const page = Math.floor(at / PAGE_BLOCKS);
      const leaf = this.leaves[page >>> 10];
      if (leaf === null) {
        at = ((page >>> 10) + 1) * LEAF_PAGES * PAGE_BLOCKS;
        continue;
      }
      const entry = at & 127;
      const n = Math.min(PAGE_BLOCKS - entry, end - at);
      at += n;
      const slot = leaf.pages[page & 1023];
      if (slot === 0) continue;
      const forgotten = this.#forget(slot, entry, n);
      if (forgotten === 0) continue;
      if (forgotten === this.slots.used[slot >>> 8][slot & 255]) {
        this.#replacePage(page, 0);
        continue;
      }
      const written = this.#writable(page);
      this.slots.used[written >>> 8][written & 255] -= forgotten;
      const word = ((written & 255) << 8) + (entry << 1);
      this.slots.slabs[written >>> 8].fill(0, word, word + n * 2);
    }
  }

  /** Blocks read as zeroes, explicitly. */
  setZero(lba: number, blockCount: number): void {
    this.#checkExtent(lba, blockCount);
    const end = lba + blockCount;
    for (let at = lba; at < end; ) {
      const page = Math.floor(at / PAGE_BLOCKS);
      const entry = at & 127;
      const n = Math.min(PAGE_BLOCKS - entry, end - at);
      at += n;
      if (n === PAGE_BLOCKS) {
        const slot = this.#slotOf(page);
        if (slot !== 0) this.#forget(slot, 0, n);
        this.#replacePage(page, this.slots.zeroPage());
        continue;
      }
      const slot = this.#writable(page);
      this.slots.used[slot >>> 8][slot & 255] += n - this.#forget(slot, entry, n);
      const slab = this.slots.slabs[slot >>> 8];
      let word = ((slot & 255) << 8) + (entry << 1);
      for (let i = 0; i < n; i++, word += 2) {
        slab[word] = 0;
        slab[word + 1] = ZERO_HI;
      }
    }
    this.#entryCount += blockCount;
  }

  /** The cleaner's step: swings one block if it still points there. */
  compareAndSwing(lba: number, fromPosition: number, fromIndex: number, toPosition: number, toIndex: number): boolean {
    if (!this.#holds(lba, fromPosition, fromIndex)) return false;
    this.swing(lba, 1, toPosition, toIndex);
    return true;
  }

  /** Flat platter, after write-back: unmaps the block if its data stands before `upTo`, that is, is in the image now. */
  drop(lba: number, upTo: number): boolean {
    if (!this.lookup(lba) || this.position >= upTo) return false;
    this.clear(lba, 1);
    return true;
  }

  /** Flat platter, after the image was zeroed: unmaps the blocks that are still explicit zeroes. */
  dropZero(lba: number, blockCount: number): void {
    this.#checkExtent(lba, blockCount);
    const end = lba + blockCount;
    for (let at = lba; at < end; ) {
      const n = this.run(at, end - at);
      if (this.status === ZERO) this.clear(at, n);
      at += n;
    }
  }

  /** The map as it is now, to be read while this one changes. */
  snapshot(): MapView {
    for (const leaf of this.leaves) if (leaf !== null) leaf.references++;
    return new MapView(this.blockCount, this.leaves.slice(), this.slots);
  }

  /**
   * Freezes the pages to be written; the map can change meanwhile. One checkpoint at a time.
   *
   * @param known  checksums for the pages
   * @param all    every page that has content, not only the changed ones: for a new file
   */
  beginCheckpoint(known: KnownChecksums, all = false): CheckpointPages {
    assert(this.#checkpoint === null, 'one checkpoint at a time');
    const dirty = this.#dirty;
    this.#dirty = new PageSet(this.leaves.length);
    this.#checkpoint = new CheckpointPages(this.snapshot(), dirty, known, all, (committed) => {
      this.#checkpoint = null;
      if (!committed) this.#dirty.merge(dirty);
    });
    return this.#checkpoint;
  }

  /**
   * Loading: replaces a page by what a checkpoint says of it. The page does not count as changed.
   *
   * @param entries  four words a block (pointer lo, hi, checksum lo, hi), PAGE_BLOCKS of them; checksums are ignored
   */
  restorePage(page: number, entries: Uint32Array): void {
    assert(page * PAGE_BLOCKS < this.blockCount, 'the page is in the volume');
    const wasDirty = this.#dirty.has(page);
    const old = this.#slotOf(page);
    if (old !== 0) this.#forget(old, 0, PAGE_BLOCKS);
    let used = 0;
    for (let i = 0; i < PAGE_BLOCKS; i++) if ((entries[i * 4] | entries[i * 4 + 1]) !== 0) used++;
    this.#entryCount += used;
    if (used === 0) {
      if (old !== 0) this.#replacePage(page, 0);
    } else {
      const slot = this.#writable(page);
      this.slots.used[slot >>> 8][slot & 255] = used;
      const slab = this.slots.slabs[slot >>> 8];
      const base = (slot & 255) << 8;
      for (let i = 0; i < PAGE_BLOCKS; i++) {
        const lo = entries[i * 4];
        const hi = entries[i * 4 + 1];
        slab[base + i * 2] = lo;
        slab[base + i * 2 + 1] = hi;
        if (pointerStatus(lo, hi) !== MAPPED) continue;
        this.#mappedCount++;
        this.#liveness.add(pointerPosition(lo, hi), this.#weight);
      }
    }
    if (!wasDirty) this.#dirty.remove(page);
  }

  #checkExtent(lba: number, blockCount: number): void {
    assert(lba >= 0 && blockCount >= 0 && lba + blockCount <= this.blockCount, 'the extent is in the volume');
  }

  #holds(lba: number, position: number, index: number): boolean {
    return this.lookup(lba) && this.position === position && this.index === index;
  }

  #slotOf(page: number): number {
    const leaf = this.leaves[page >>> 10];
    return leaf === null ? 0 : leaf.pages[page & 1023];
  }

  /** The leaf over a page, made if it is missing, and not shared with a snapshot. */
  #writableLeaf(page: number): Leaf {
    let leaf = this.leaves[page >>> 10];
    if (leaf === null) {
      leaf = new Leaf(new Uint32Array(LEAF_PAGES));
      this.leaves[page >>> 10] = leaf;
    } else if (leaf.references > 1) {
      leaf.references--;
      leaf = new Leaf(leaf.pages.slice());
      for (let i = 0; i < LEAF_PAGES; i++) if (leaf.pages[i] !== 0) this.slots.retain(leaf.pages[i]);
      this.leaves[page >>> 10] = leaf;
    }
    return leaf;
  }

  /** Slot of a page that may be written in place: made if it is missing, copied if it is shared. Marks it changed. */
  #writable(page: number): number {
    const leaf = this.#writableLeaf(page);
    let slot = leaf.pages[page & 1023];
    if (slot === 0) {
      slot = this.slots.allocate();
      leaf.pages[page & 1023] = slot;
    } else if (this.slots.isShared(slot)) {
      slot = this.slots.copy(slot);
      leaf.pages[page & 1023] = slot;
    }
    this.#dirty.add(page);
    return slot;
  }

  /** Puts another slot (0: none) in a page's place; what was there has been forgotten by the caller. */
  #replacePage(page: number, slot: number): void {
    const leaf = this.#writableLeaf(page);
    const old = leaf.pages[page & 1023];
    leaf.pages[page & 1023] = slot;
    if (old !== 0) this.slots.release(old);
    this.#dirty.add(page);
  }

  /** Takes entries that are about to go out of the counts: live blocks and mapped ones. Returns how many were in use. */
  #forget(slot: number, entry: number, n: number): number {
    const slab = this.slots.slabs[slot >>> 8];
    let word = ((slot & 255) << 8) + (entry << 1);
    const shift = this.#loShift;
    let used = 0;
    let mapped = 0;
    // Blocks written together were in one segment: count them together.
    let runHi = 0;
    let runSegment = 0;
    let runLo = 0;
    let runCount = 0;
    for (let i = 0; i < n; i++, word += 2) {
      const lo = slab[word];
      const hi = slab[word + 1];
      if ((lo | hi) === 0) continue;
      used++;
      if (hi === ZERO_HI) continue;
      mapped++;
      const segment = (lo >>> 16) >>> shift; // in two steps: a shift by 32 would be a shift by 0
      if (runCount > 0 && hi === runHi && segment === runSegment) {
        runCount++;
        continue;
      }
      if (runCount > 0) this.#liveness.sub(pointerPosition(runLo, runHi), runCount * this.#weight);
      runHi = hi;
      runSegment = segment;
      runLo = lo;
      runCount = 1;
    }
    if (runCount > 0) this.#liveness.sub(pointerPosition(runLo, runHi), runCount * this.#weight);
    this.#mappedCount -= mapped;
    this.#entryCount -= used;
    return used;
  }
}

/**
 * The pages of one checkpoint, frozen. `next` goes through them in order:
 *
 *     while (pages.next()) write(pages.pageNumber, pages.entries, pages.first, pages.count);
 *
 * End with `commit` when they are on disk, or `abort`: then they belong to the next checkpoint again.
 */
export class CheckpointPages {
  /** The image that is being written. */
  readonly view: MapView;
  pageNumber = -1;
  /** Entries in use: [first, first + count); count is 0 for a page that became empty. */
  first = 0;
  count = 0;
  /** Mapped entries whose checksum is not known in memory: theirs is in the page's previous version, or unknown. */
  missing = 0;
  /** Four words a block: pointer lo, hi, checksum lo, hi (0 when missing). */
  readonly entries = new Uint32Array(PAGE_BLOCKS * 4);
  readonly #dirty: PageSet;
  readonly #known: KnownChecksums;
  readonly #all: boolean;
  #end: ((committed: boolean) => void) | null;

  /** Only BlockMap makes these. */
  constructor(view: MapView, dirty: PageSet, known: KnownChecksums, all: boolean, end: (committed: boolean) => void) {
    this.view = view;
    this.#dirty = dirty;
    this.#known = known;
    this.#all = all;
    this.#end = end;
  }

  /** Goes to the next page; false after the last. */
  next(): boolean {
    const pageCount = Math.ceil(this.view.blockCount / PAGE_BLOCKS);
    for (let page = this.pageNumber + 1; page < pageCount; page++) {
      const leaf = page >>> 10;
      const words = this.#dirty.words[leaf];
      if (words === null && !(this.#all && this.view.hasLeaf(leaf))) {
        page = (leaf + 1) * LEAF_PAGES - 1;
        continue;
      }
      const slot = this.view.slotOf(page);
      if (this.#all ? slot === 0 : !this.#dirty.has(page)) continue;
      this.pageNumber = page;
      this.#read(slot);
      return true;
    }
    this.pageNumber = pageCount;
    return false;
  }

  commit(): void {
    this.#finish(true);
  }

  abort(): void {
    this.#finish(false);
  }

  #finish(committed: boolean): void {
    assert(this.#end !== null, 'a checkpoint ends once');
    const end = this.#end;
    this.#end = null;
    this.view.release();
    end(committed);
  }

  #read(slot: number): void {
    this.missing = 0;
    this.first = 0;
    this.count = 0;
    if (slot === 0) {
      this.entries.fill(0);
      return;
    }
    const { entries } = this;
    this.view.readPage(slot, entries);
    let first = -1;
    let last = -1;
    for (let i = 0; i < PAGE_BLOCKS * 4; i += 4) {
      const lo = entries[i];
      const hi = entries[i + 1];
      const isMapped = pointerStatus(lo, hi) === MAPPED;
      const isKnown = isMapped && this.#known.find(pointerPosition(lo, hi), pointerIndex(lo));
      entries[i + 2] = isKnown ? this.#known.lo : 0;
      entries[i + 3] = isKnown ? this.#known.hi : 0;
      if (isMapped && !isKnown) this.missing++;
      if ((lo | hi) === 0) continue;
      if (first < 0) first = i / 4;
      last = i / 4;
    }
    if (first < 0) return;
    this.first = first;
    this.count = last - first + 1;
  }
}
