/**
 * The checkpoints of all maps of a group, on disk: an append-only file of page images, each checkpoint closed by a
 * COMMIT frame.
 *
 *     map-<number>.log:   FILE  { PAGE* COMMIT }*
 *
 * A frame is a header of 32 bytes and what its kind adds. Integers are little-endian; frames stand at multiples of 16.
 *
 *     offset size field
 *     0      8    check        XXH64 (seed 0) of the frame from offset 8 to its end
 *     8      4    magic        "FLMP"
 *     12     1    kind         1 FILE, 2 PAGE, 3 COMMIT
 *     13     1    first        PAGE: first entry, 0..127
 *     14     1    count        PAGE: entries, 0..128-first; 0: the page became empty
 *     15     1    0
 *     16     2    volume       PAGE: number of the volume
 *     18     2    format       MAP_LOG_FORMAT
 *     20     4    0
 *     24     8    number       FILE: number of the file; PAGE: page number; COMMIT: journal position of the image
 *
 *     PAGE       16 * count    per block: pointer lo, hi (map.ts), checksum lo, hi; a checksum of 0 is unknown
 *     COMMIT     8 start       where the checkpoint's first frame begins
 *                8 pages       its PAGE frames
 *                8 check       XXH64 (seed 0) of all its PAGE frames
 *                8 0
 *
 * A frame is valid if and only if magic, kind, format and check are right, the fields are in their ranges, and the
 * zeroes are zero. A file is valid up to `end` (from the superblock) if and only if it begins with FILE bearing its
 * number, every frame below `end` is valid, every checkpoint's COMMIT names its start, its pages and their check, a
 * checkpoint ends exactly at `end`, and every PAGE names a page that its volume has. Below `end` anything else is damage:
 * STATE_CORRUPT. Beyond `end` stands what a checkpoint wrote that was never named; it is cut off.
 *
 * A checkpoint appends the changed pages. When the file is more than twice what the pages need, plus 1 MiB, the
 * checkpoint writes all pages into a new file instead; the old one stays until `removeOthers`, which the caller calls
 * once the superblock names the new one.
 */
import type { XXHashAPI } from 'xxhash-wasm';
import { assert } from '../assert.js';
import { ForelockError } from '../errors.js';
import { MIB } from '../limits.js';
import type { ChecksumTable } from './checksums.js';
import { type BlockMap, type CheckpointPages, LEAF_PAGES, MAPPED, PAGE_BLOCKS, pointerStatus } from './map.js';
import type { Store, StoreFile } from './store.js';

export const MAP_LOG_FORMAT = 1;

const MAGIC = 0x504d4c46; // "FLMP"
const KIND_FILE = 1;
const KIND_PAGE = 2;
const KIND_COMMIT = 3;
const FRAME_HEADER = 32;
const COMMIT_SIZE = 64;
const ENTRY_SIZE = 16;
const PAGE_SIZE_MAX = FRAME_HEADER + PAGE_BLOCKS * ENTRY_SIZE;

/** A slice is what is encoded in one go on the main thread, a quarter of a millisecond, and then written: so many bytes … */
const WRITE_SIZE = 64 * 1024;
/** … or so many pages, for pages with few entries are short but cost as much to collect. */
const SLICE_PAGES = 64;
/** Recovery's read size. */
const READ_SIZE = 1 * MIB;
/** A checkpoint reads as much at once of the one before. */
const WINDOW_SIZE = 64 * 1024;
/** A file may hold this much more than twice its live pages before it is written anew. */
const SLACK_SIZE = 1 * MIB;

export const mapFileName = (number: number): string => `map-${number}.log`;

/** Where a checkpoint stands, for the superblock. */
export interface CheckpointPlace {
  mapFile: number;
  mapEnd: number;
}

/** Where each page's newest frame is: 8 bytes a page, in leaves made as needed. offset * 256 + count; 0: none. */
class FrameIndex {
  readonly #leaves = new Map<number, Float64Array>();
  /** Bytes of all frames in the index. */
  liveSize = 0;

  get(volume: number, page: number): number {
    const leaf = this.#leaves.get(volume * 2 ** 32 + (page >>> 10));
    return leaf === undefined ? 0 : leaf[page & 1023];
  }

  set(volume: number, page: number, offset: number, count: number): void {
    const key = volume * 2 ** 32 + (page >>> 10);
    let leaf = this.#leaves.get(key);
    if (leaf === undefined) {
      if (count === 0) return;
      leaf = new Float64Array(LEAF_PAGES);
      this.#leaves.set(key, leaf);
    }
    const old = leaf[page & 1023];
    if (old !== 0) this.liveSize -= frameSize(old % 256);
    leaf[page & 1023] = count === 0 ? 0 : offset * 256 + count;
    if (count !== 0) this.liveSize += frameSize(count);
  }
}

const frameSize = (count: number): number => FRAME_HEADER + count * ENTRY_SIZE;

/** A page frame, decoded into four words a block; reused. */
export interface PageFrame {
  volume: number;
  page: number;
  first: number;
  count: number;
  readonly entries: Uint32Array;
}

export const makePageFrame = (): PageFrame => ({
  volume: 0,
  page: 0,
  first: 0,
  count: 0,
  entries: new Uint32Array(PAGE_BLOCKS * 4),
});

/** Encodes a PAGE frame at `at`; returns its size. */
export function encodePage(view: DataView, at: number, frame: PageFrame, hash: XXHashAPI): number {
  const size = frameSize(frame.count);
  view.setUint8(at + 13, frame.first);
  view.setUint8(at + 14, frame.count);
  for (let i = 0; i < frame.count * 4; i++) {
    view.setUint32(at + FRAME_HEADER + i * 4, frame.entries[frame.first * 4 + i], true);
  }
  sealFrame(view, at, size, KIND_PAGE, frame.volume, frame.page, hash);
  return size;
}

/**
 * Decodes the PAGE frame at the start of `bytes` into `frame`: all of `entries` is written, what the frame does not
 * hold as zeroes.
 * @returns null, or what is wrong with it
 */
export function decodePage(bytes: Uint8Array, frame: PageFrame, hash: XXHashAPI): string | null {
  if (bytes.length < FRAME_HEADER) return 'it ends early';
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (view.getUint8(12) !== KIND_PAGE) return 'it is not a page';
  const first = view.getUint8(13);
  const count = view.getUint8(14);
  if (first + count > PAGE_BLOCKS) return `entries ${first}+${count} are beyond a page`;
  const size = frameSize(count);
  if (bytes.length < size) return 'it ends early';
  const wrong = checkFrame(view, size, hash);
  if (wrong !== null) return wrong;
  const page = Number(view.getBigUint64(24, true));
  if (page >= 2 ** 32) return `page ${page} cannot exist`;
  frame.volume = view.getUint16(16, true);
  frame.page = page;
  frame.first = first;
  frame.count = count;
  frame.entries.fill(0);
  for (let i = 0; i < count * 4; i++) frame.entries[first * 4 + i] = view.getUint32(FRAME_HEADER + i * 4, true);
  return null;
}

/** Fills in the header fields common to all frames, and the check. */
function sealFrame(
  view: DataView,
  at: number,
  size: number,
  kind: number,
  volume: number,
  number: number,
  hash: XXHashAPI,
): void {
  view.setUint32(at + 8, MAGIC, true);
  view.setUint8(at + 12, kind);
  if (kind !== KIND_PAGE) view.setUint16(at + 13, 0, true);
  view.setUint8(at + 15, 0);
  view.setUint16(at + 16, volume, true);
  view.setUint16(at + 18, MAP_LOG_FORMAT, true);
  view.setUint32(at + 20, 0, true);
  view.setBigUint64(at + 24, BigInt(number), true);
  view.setBigUint64(at, hash.h64Raw(new Uint8Array(view.buffer, view.byteOffset + at + 8, size - 8)), true);
}

/** Null, or what is wrong with a frame of `size` bytes at the view's start. */
function checkFrame(view: DataView, size: number, hash: XXHashAPI): string | null {
  if (view.getUint32(8, true) !== MAGIC) return 'its magic is wrong';
  if (view.getBigUint64(0, true) !== hash.h64Raw(new Uint8Array(view.buffer, view.byteOffset + 8, size - 8))) {
    return 'its check does not match';
  }
  if (view.getUint16(18, true) !== MAP_LOG_FORMAT) return `its format ${view.getUint16(18, true)} is unknown`;
  if (view.getUint8(15) !== 0 || view.getUint32(20, true) !== 0) return 'its zeroes are not zero';
  return null;
}

interface PageUpdate {
  volume: number;
  page: number;
  offset: number;
  count: number;
}

/** A checkpoint under way. */
interface Writing {
  position: number;
  pages: { volume: number; pages: CheckpointPages }[];
  at: number;
  file: StoreFile;
  number: number;
  /** All pages go into a new file. */
  renewed: boolean;
  start: number;
  pageCount: number;
  updates: PageUpdate[];
  digest: ReturnType<XXHashAPI['create64']>;
  done: (error: Error | null, place: CheckpointPlace | null) => void;
}

export class MapLog {
  readonly #store: Store;
  readonly #hash: XXHashAPI;
  readonly #checksums: ChecksumTable;
  #file: StoreFile | null = null;
  #number = 0;
  #end = 0;
  #index = new FrameIndex();
  #writing: Writing | null = null;
  readonly #buffer = new Uint8Array(WRITE_SIZE);
  readonly #view = new DataView(this.#buffer.buffer);
  #used = 0;
  readonly #frame = makePageFrame();
  readonly #previous = makePageFrame();
  readonly #window = new FrameWindow();
  readonly counters = {
    bytesWritten: 0,
    checkpoints: 0,
    pagesWritten: 0,
    /** Files written anew. */
    compactions: 0,
    /** Previous versions read for checksums that are not in memory. */
    pagesRead: 0,
    /** Of these, found damaged: their checksums became unknown, the pointers were in memory. */
    damagedPages: 0,
  };

  /** @param checksums of what was written since the last checkpoint */
  constructor(store: Store, hash: XXHashAPI, checksums: ChecksumTable) {
    this.#store = store;
    this.#hash = hash;
    this.#checksums = checksums;
  }

  /** A checkpoint is under way: its writes are on their way to the disk. */
  get isWriting(): boolean {
    return this.#writing !== null;
  }

  /** Bytes in the file up to its last checkpoint, and bytes of it that are the newest version of a page. */
  get fileSize(): number {
    return this.#end;
  }
  get liveSize(): number {
    return this.#index.liveSize;
  }
  get bytesWritten(): number {
    return this.counters.bytesWritten;
  }

  /**
   * Reads the maps as of the checkpoint that the superblock names, and cuts off what stands behind it. At open only;
   * costs about a second per 2 GiB of file.
   *
   * @param maps  empty maps of all volumes, by number
   * @throws ForelockError STATE_CORRUPT: anything below `mapEnd` is not as it was written
   */
  load(place: CheckpointPlace, maps: ReadonlyMap<number, BlockMap>): void {
    assert(this.#file === null, 'loading is for opening');
    const name = mapFileName(place.mapFile);
    if (!this.#store.list().includes(name)) throw corrupt(name, 0, 'it is missing');
    const file = this.#store.open(name, false);
    try {
      const index = this.#scan(file, name, place, maps);
      if (file.size() > place.mapEnd) file.truncate(place.mapEnd);
      this.#index = index;
    } catch (error) {
      file.close();
      throw error;
    }
    this.#file = file;
    this.#number = place.mapFile;
    this.#end = place.mapEnd;
  }

  /**
   * Writes what changed in the maps since the last checkpoint, as they are at this moment, and syncs it. Writes to the
   * maps go on meanwhile. After an error the changed pages belong to the next checkpoint.
   *
   * @param position  of the journal: the maps are its image there
   * @param done      the place to be named by the superblock; after that has been synced, call `removeOthers`
   */
  checkpoint(
    position: number,
    maps: ReadonlyMap<number, BlockMap>,
    done: (error: Error | null, place: CheckpointPlace | null) => void,
  ): void {
    assert(this.#writing === null, 'one checkpoint at a time');
    this.#window.forget();
    const renewed = this.#file === null || this.#end > 2 * this.#index.liveSize + SLACK_SIZE;
    const number = renewed ? this.#number + 1 : this.#number;
    let file = renewed ? null : this.#file;
    try {
      file ??= this.#store.open(mapFileName(number), true);
      if (renewed) file.truncate(0);
    } catch (error) {
      file?.close(); // of those that are tried, too, one descriptor is enough
      queueMicrotask(() => done(error as Error, null));
      return;
    }
    const known = this.#checksums.freeze();
    const pages = [...maps].map(([volume, map]) => ({ volume, pages: map.beginCheckpoint(known, renewed) }));
    const start = renewed ? FRAME_HEADER : this.#end;
    this.#used = 0;
    if (renewed) {
      sealFrame(this.#view, 0, FRAME_HEADER, KIND_FILE, 0, number, this.#hash);
      this.#used = FRAME_HEADER;
    }
    this.#writing = {
      position,
      pages,
      at: renewed ? 0 : this.#end,
      file,
      number,
      renewed,
      start,
      pageCount: 0,
      updates: [],
      digest: this.#hash.create64(),
      done,
    };
    this.#writeSlice(this.#writing, 0);
  }

  /** Removes every map file but the one that the superblock names. Removals need not be durable. */
  removeOthers(mapFile: number): void {
    assert(mapFile === this.#number, 'the superblock names the newest map file');
    try {
      for (const name of this.#store.list()) {
        if (/^map-\d+\.log$/.test(name) && name !== mapFileName(mapFile)) this.#store.remove(name);
      }
    } catch {
      // Nobody reads them: they take room until the next checkpoint, which tries again.
    }
  }

  /**
   * What the last checkpoint says of blocks: four words a block (pointer lo, hi, checksum lo, hi), zeroes where it says
   * nothing. A checksum of 0 is unknown.
   *
   * @param into  4 * blockCount words
   * @throws ForelockError STATE_CORRUPT
   */
  readChecksums(volume: number, lba: number, blockCount: number, into: Uint32Array): void {
    assert(into.length >= blockCount * 4, 'there is room for the entries');
    this.#window.forget();
    into.fill(0, 0, blockCount * 4);
    for (let at = lba; at < lba + blockCount; ) {
      const page = Math.floor(at / PAGE_BLOCKS);
      const stop = Math.min(lba + blockCount, (page + 1) * PAGE_BLOCKS);
      const place = this.#index.get(volume, page);
      if (place !== 0) {
        const wrong = this.#readPage(this.#file!, place, volume, page);
        if (wrong !== null) {
          throw corruptPage(mapFileName(this.#number), Math.floor(place / 256), volume, page, wrong);
        }
        const from = (at % PAGE_BLOCKS) * 4;
        into.set(this.#previous.entries.subarray(from, from + (stop - at) * 4), (at - lba) * 4);
      }
      at = stop;
    }
  }

  close(): void {
    assert(this.#writing === null, 'no checkpoint is under way');
    this.#file?.close();
    this.#file = null;
  }

  /** Encodes pages until the buffer is full, writes it, and goes on when that is answered. */
  #writeSlice(writing: Writing, from: number): void {
    let volume = from;
    const sliceEnd = writing.pageCount + SLICE_PAGES;
    while (volume < writing.pages.length) {
      if (this.#used + PAGE_SIZE_MAX + COMMIT_SIZE > WRITE_SIZE || writing.pageCount === sliceEnd) {
        this.#flush(writing, (error) => {
          if (error !== null) this.#fail(writing, error);
          else this.#writeSlice(writing, volume);
        });
        return;
      }
      if (writing.pages[volume].pages.next()) this.#addPage(writing, writing.pages[volume]);
      else volume++;
    }
    this.#addCommit(writing);
    this.#flush(writing, (error) => {
      if (error !== null) this.#fail(writing, error);
      else this.#sync(writing);
    });
  }

  #addPage(writing: Writing, { volume, pages }: { volume: number; pages: CheckpointPages }): void {
    const page = pages.pageNumber;
    if (pages.missing > 0) this.#addMissing(volume, pages);
    this.#frame.volume = volume;
    this.#frame.page = page;
    this.#frame.first = pages.first;
    this.#frame.count = pages.count;
    this.#frame.entries.set(pages.entries);
    const size = encodePage(this.#view, this.#used, this.#frame, this.#hash);
    writing.digest.update(this.#buffer.subarray(this.#used, this.#used + size));
    writing.updates.push({ volume, page, offset: writing.at + this.#used, count: pages.count });
    writing.pageCount++;
    this.#used += size;
  }

  /** Takes checksums that memory does not have from the page's previous version, where the pointer is the same. */
  #addMissing(volume: number, pages: CheckpointPages): void {
    const place = this.#index.get(volume, pages.pageNumber);
    if (place === 0) return;
    this.counters.pagesRead++;
    if (this.#readPage(this.#file!, place, volume, pages.pageNumber) !== null) {
      this.counters.damagedPages++;
      return;
    }
    const { entries } = pages;
    const before = this.#previous.entries;
    for (let i = pages.first * 4; i < (pages.first + pages.count) * 4; i += 4) {
      if (pointerStatus(entries[i], entries[i + 1]) !== MAPPED || (entries[i + 2] | entries[i + 3]) !== 0) continue;
      if (before[i] !== entries[i] || before[i + 1] !== entries[i + 1]) continue;
      entries[i + 2] = before[i + 2];
      entries[i + 3] = before[i + 3];
    }
  }

  #addCommit(writing: Writing): void {
    const at = this.#used;
    this.#view.setBigUint64(at + 32, BigInt(writing.start), true);
    this.#view.setBigUint64(at + 40, BigInt(writing.pageCount), true);
    this.#view.setBigUint64(at + 48, writing.digest.digest(), true);
    this.#view.setBigUint64(at + 56, 0n, true);
    sealFrame(this.#view, at, COMMIT_SIZE, KIND_COMMIT, 0, writing.position, this.#hash);
    this.#used += COMMIT_SIZE;
  }

  #flush(writing: Writing, done: (error: Error | null) => void): void {
    const bytes = this.#buffer.subarray(0, this.#used);
    this.counters.bytesWritten += bytes.length;
    writing.file.write(bytes, writing.at, (error) => {
      writing.at += bytes.length;
      this.#used = 0;
      done(error);
    });
  }

  #sync(writing: Writing): void {
    writing.file.sync((error) => {
      if (error !== null) this.#fail(writing, error);
      else if (!writing.renewed) this.#finish(writing);
      else {
        this.#store.syncDirectory((error) => {
          if (error !== null) this.#fail(writing, error);
          else this.#finish(writing);
        });
      }
    });
  }

  #finish(writing: Writing): void {
    this.#writing = null;
    if (writing.renewed) {
      this.#file?.close();
      this.#file = writing.file;
      this.#number = writing.number;
      this.#index = new FrameIndex();
      this.counters.compactions++;
    }
    this.#end = writing.at;
    for (const { volume, page, offset, count } of writing.updates) this.#index.set(volume, page, offset, count);
    for (const { pages } of writing.pages) pages.commit();
    this.#checksums.drop();
    this.counters.checkpoints++;
    this.counters.pagesWritten += writing.pageCount;
    writing.done(null, { mapFile: this.#number, mapEnd: this.#end });
  }

  #fail(writing: Writing, error: Error): void {
    this.#writing = null;
    for (const { pages } of writing.pages) pages.abort();
    this.#checksums.thaw();
    if (writing.renewed) {
      try {
        writing.file.close();
        this.#store.remove(mapFileName(writing.number));
      } catch {
        // The disk is in trouble already, and `error` says so; the next attempt starts over in the same file.
      }
    }
    writing.done(error, null);
  }

  /** Reads the frame that the index names into `#previous`; null, or what is wrong with it. */
  #readPage(file: StoreFile, place: number, volume: number, page: number): string | null {
    const bytes = this.#window.read(file, Math.floor(place / 256), frameSize(place % 256), this.#end);
    if (bytes === null) return 'it ends early';
    const wrong = decodePage(bytes, this.#previous, this.#hash);
    if (wrong !== null) return wrong;
    return this.#previous.volume === volume && this.#previous.page === page ? null : 'it is of another page';
  }

  /** Goes through all frames below `end`, then puts the newest version of each page into its map. */
  #scan(
    file: StoreFile,
    name: string,
    { mapFile, mapEnd }: CheckpointPlace,
    maps: ReadonlyMap<number, BlockMap>,
  ): FrameIndex {
    const index = new FrameIndex();
    if (file.size() < mapEnd) throw corrupt(name, file.size(), `it ends here, its last checkpoint at ${mapEnd}`);
    const reader = new FrameReader(file, mapEnd);
    const frame = makePageFrame();
    let digest = this.#hash.create64();
    let start = FRAME_HEADER;
    let pageCount = 0;
    let committed = 0;

    const head = reader.take(FRAME_HEADER);
    const wrong = head === null ? 'it ends early' : this.#checkHead(head, mapFile);
    if (wrong !== null) throw corrupt(name, 0, wrong);
    while (reader.at < mapEnd) {
      const at = reader.at;
      const header = reader.peek(FRAME_HEADER);
      if (header === null) throw corrupt(name, at, 'a frame ends early');
      if (header[12] === KIND_COMMIT) {
        const bytes = reader.take(COMMIT_SIZE);
        const wrong = bytes === null ? 'it ends early' : this.#checkCommit(bytes, start, pageCount, digest.digest());
        if (wrong !== null) throw corrupt(name, at, `the COMMIT of a checkpoint: ${wrong}`);
        digest = this.#hash.create64();
        start = reader.at;
        committed = reader.at;
        pageCount = 0;
        continue;
      }
      const bytes = reader.take(Math.min(frameSize(header[14]), PAGE_SIZE_MAX));
      const wrong = bytes === null ? 'it ends early' : decodePage(bytes, frame, this.#hash);
      if (wrong !== null) {
        const view = new DataView(header.buffer, header.byteOffset, FRAME_HEADER);
        const page = Number(view.getBigUint64(24, true));
        throw corruptPage(name, at, view.getUint16(16, true), page, wrong);
      }
      const map = maps.get(frame.volume);
      if (map === undefined) throw corruptPage(name, at, frame.volume, frame.page, 'the group has no such volume');
      const problem = checkEntries(frame, map.blockCount);
      if (problem !== null) throw corruptPage(name, at, frame.volume, frame.page, problem);
      digest.update(bytes!);
      pageCount++;
      index.set(frame.volume, frame.page, at, frame.count);
      map.restorePage(frame.page, frame.entries);
    }
    if (committed !== mapEnd) throw corrupt(name, mapEnd, 'no checkpoint ends here');
    return index;
  }

  #checkHead(bytes: Uint8Array, mapFile: number): string | null {
    const view = new DataView(bytes.buffer, bytes.byteOffset, FRAME_HEADER);
    const wrong = checkFrame(view, FRAME_HEADER, this.#hash);
    if (wrong !== null) return `the file's header: ${wrong}`;
    if (view.getUint8(12) !== KIND_FILE) return "the file's header is missing";
    const number = Number(view.getBigUint64(24, true));
    return number === mapFile ? null : `it says to be map file ${number}`;
  }

  #checkCommit(bytes: Uint8Array, start: number, pageCount: number, digest: bigint): string | null {
    const view = new DataView(bytes.buffer, bytes.byteOffset, COMMIT_SIZE);
    const wrong = checkFrame(view, COMMIT_SIZE, this.#hash);
    if (wrong !== null) return wrong;
    if (view.getBigUint64(32, true) !== BigInt(start))
      return `it begins at ${view.getBigUint64(32, true)}, not ${start}`;
    if (view.getBigUint64(40, true) !== BigInt(pageCount)) {
      return `it has ${view.getBigUint64(40, true)} pages, ${pageCount} are here`;
    }
    if (view.getBigUint64(48, true) !== digest) return 'the check over its pages does not match';
    return null;
  }
}

/** Null, or why a decoded page cannot be of a volume of this size. */
function checkEntries({ page, entries, first, count }: PageFrame, blockCount: number): string | null {
  if (page * PAGE_BLOCKS >= blockCount) return 'the volume has no such page';
  if (count > 0 && page * PAGE_BLOCKS + first + count > blockCount) return "entries are beyond the volume's end";
  for (let i = first; i < first + count; i++) {
    const hi = entries[i * 4 + 1];
    if (hi !== 0xffffffff && hi >= 2 ** 27) return `entry ${i} points beyond any journal`;
  }
  return null;
}

/**
 * Frames of the last checkpoint, read back. A checkpoint asks for them in the order of their pages, in which they stand
 * if all of these had changed before, too: then many are read at once.
 */
class FrameWindow {
  readonly #bytes = new Uint8Array(WINDOW_SIZE);
  #file: StoreFile | null = null;
  #from = 0;
  #to = 0;

  /** What is asked for next is read from the file. */
  forget(): void {
    this.#file = null;
    this.#to = 0;
  }

  /**
   * @param end  of what checkpoints wrote in whole: what is behind may change
   * @returns the frame, valid until the next call; null: the file ends before
   */
  read(file: StoreFile, at: number, size: number, end: number): Uint8Array | null {
    const isNear = file === this.#file && at >= this.#from && at <= this.#to + COMMIT_SIZE;
    if (!isNear || at + size > this.#to) {
      const wanted = isNear ? Math.max(size, Math.min(WINDOW_SIZE, end - at)) : size;
      this.#file = file;
      this.#from = at;
      this.#to = at + file.read(this.#bytes.subarray(0, wanted), at);
      if (at + size > this.#to) return null;
    }
    return this.#bytes.subarray(at - this.#from, at - this.#from + size);
  }
}

/** Sequential reading of frames in large pieces. */
class FrameReader {
  at = 0;
  readonly #file: StoreFile;
  readonly #end: number;
  readonly #buffer: Uint8Array;
  #bufferAt = 0;
  #bufferSize = 0;

  constructor(file: StoreFile, end: number) {
    this.#file = file;
    this.#end = end;
    this.#buffer = new Uint8Array(Math.min(READ_SIZE, end));
  }

  /** The next `size` bytes without passing them; null beyond the end. Valid until the next call. */
  peek(size: number): Uint8Array | null {
    if (this.at + size > this.#end) return null;
    if (this.at + size > this.#bufferAt + this.#bufferSize) {
      this.#bufferAt = this.at;
      this.#bufferSize = this.#file.read(
        this.#buffer.subarray(0, Math.min(this.#buffer.length, this.#end - this.at)),
        this.#bufferAt,
      );
      if (size > this.#bufferSize) return null;
    }
    const from = this.at - this.#bufferAt;
    return this.#buffer.subarray(from, from + size);
  }

  take(size: number): Uint8Array | null {
    const bytes = this.peek(size);
    if (bytes !== null) this.at += size;
    return bytes;
  }
}

function corrupt(name: string, offset: number, problem: string): ForelockError {
  return new ForelockError('STATE_CORRUPT', `${name} at byte ${offset}: ${problem}. ${ADVICE}`);
}

function corruptPage(name: string, offset: number, volume: number, page: number, problem: string): ForelockError {
  return new ForelockError(
    'STATE_CORRUPT',
    `${name} at byte ${offset}, volume ${volume}, page ${page}: ${problem}. ${ADVICE}`,
  );
}

const ADVICE =
  'Restore the state directory from a backup, or, if the peer is whole, move it away and let this site be filled from the peer';
