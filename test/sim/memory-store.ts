/**
 * A disk in memory that crashes as disks do: for a simulator and for the tests of everything above Store.
 *
 * A write is in the page cache at once (reads see it) and durable after a sync. At `crash` every write that no sync
 * covered is drawn apart: written, lost, torn (some of its sectors) or garbage (some sectors hold rubbish). Files made,
 * renamed and removed that no `syncDirectory` covered are drawn too. After a sync that failed the kernel may have dropped
 * the pages: what it was to cover is never made durable by a later sync.
 *
 * Deterministic: chance comes from `random` only, and callbacks run when `defer` runs them.
 */
import type { Store, StoreFile } from '../../src/journal/store.js';

export interface MemoryStoreOptions {
  /** [0, 1): a seeded generator. */
  random: () => number;
  /** Runs a task later, never inside the call. */
  defer: (task: () => void, delayMs: number) => void;
  /** Delay of each answer, in ms of the simulator's time; default 0. */
  latencyMs?: (operation: 'write' | 'sync' | 'save' | 'syncDirectory') => number;
  /** Bytes that fit on the disk: a write beyond is answered ENOSPC. Default: no limit. */
  capacity?: number;
  /** An operation failed as `fail` had asked. */
  failed?: (operation: Operation) => void;
}

export type Operation = 'write' | 'sync' | 'read' | 'open' | 'remove' | 'rename' | 'truncate';

export type Fault = 'ENOSPC' | 'EIO' | 'EMFILE';

const SECTOR = 512;
/** Room that a file's content gets at first: a segment of a simulated journal. */
const ROOM_MIN = 128 * 1024;

interface Pending {
  at: number;
  /** Null: the file was cut (or extended with zeroes) to `at`. Else a view of the file's content until that changes. */
  bytes: Uint8Array | null;
  answered: boolean;
  /** A sync that should have covered it failed. */
  doomed: boolean;
}

/**
 * What a file holds, as reads see it and as it would be after a power cut.
 *
 * Most files only grow, and are synced in the order in which they were written: what is durable is a beginning of what
 * is cached, and one copy of the bytes does for both, and for the writes in between. It is copied when that ends.
 */
class MemoryFile {
  /** As reads see it; zeroes behind its end. */
  cached: Uint8Array = new Uint8Array(0);
  cachedSize = 0;
  durableSize = 0;
  pending: Pending[] = [];
  /** As after a power cut, before the drawing. Null: what is cached, up to `durableSize`. */
  #durable: Uint8Array | null = null;

  write(at: number, bytes: Uint8Array | null): Pending {
    const end = bytes === null ? at : at + bytes.length;
    if (at < this.durableSize) this.#part();
    this.#keepPending(at, bytes === null ? this.cachedSize : end);
    const before = this.cached;
    this.cached = put(before, this.cachedSize, at, bytes);
    if (this.cached !== before) {
      for (const write of this.pending)
        if (isView(write, before)) write.bytes = this.#view(write.at, write.bytes.length);
    }
    this.cachedSize = bytes === null ? at : Math.max(this.cachedSize, end);
    const write = { at, bytes: bytes && this.#view(at, bytes.length), answered: false, doomed: false };
    this.pending.push(write);
    return write;
  }

  /** A write, which is in `cached`, becomes durable. */
  settle(write: Pending): void {
    const { at, bytes } = write;
    const goesOn = at === this.durableSize && (bytes === null || isView(write, this.cached));
    if (this.#durable === null && goesOn) this.durableSize += bytes?.length ?? 0;
    else {
      this.#part();
      this.#makeDurable(at, bytes);
    }
  }

  /** Nothing is left but what is durable and what `draw` makes durable now. */
  lose(draw: (write: Pending, makeDurable: (at: number, bytes: Uint8Array | null) => void) => void): void {
    if (this.#durable === null) {
      this.#keepPending(this.durableSize, this.cachedSize);
      this.cached.fill(0, this.durableSize, this.cachedSize);
      this.#durable = this.cached;
    }
    for (const write of this.pending) draw(write, (at, bytes) => this.#makeDurable(at, bytes));
    this.pending = [];
    this.cached = this.#durable;
    this.#durable = null;
    this.cachedSize = this.durableSize;
  }

  flip(at: number, bits: number): void {
    this.#keepPending(at, at + 1);
    this.cached[at] ^= bits;
    if (this.#durable !== null && at < this.durableSize) this.#durable[at] ^= bits;
  }

  /** From here on what is durable has bytes of its own. */
  #part(): void {
    this.#durable ??= this.cached.slice(0, this.durableSize);
  }

  #makeDurable(at: number, bytes: Uint8Array | null): void {
    this.#durable = put(this.#durable!, this.durableSize, at, bytes);
    this.durableSize = bytes === null ? at : Math.max(this.durableSize, at + bytes.length);
  }

  /** These bytes are about to change: writes that show them keep what they wrote. */
  #keepPending(from: number, to: number): void {
    if (from >= this.cachedSize) return;
    for (const write of this.pending) {
      if (!isView(write, this.cached)) continue;
      if (write.at < to && from < write.at + write.bytes.length) write.bytes = write.bytes.slice();
    }
  }

  #view(at: number, size: number): Uint8Array {
    return this.cached.subarray(at, at + size);
  }
}

function isView(write: Pending, content: Uint8Array): write is Pending & { bytes: Uint8Array } {
  return write.bytes !== null && write.bytes.buffer === content.buffer;
}

/** @returns the content with a write in it, or, null, cut or extended to `at` */
function put(content: Uint8Array, size: number, at: number, bytes: Uint8Array | null): Uint8Array {
  const end = bytes === null ? at : at + bytes.length;
  let grown = content;
  if (end > content.length) {
    grown = new Uint8Array(Math.max(end, ROOM_MIN, Math.min(content.length * 2, content.length + (4 << 20))));
    grown.set(content.subarray(0, size));
  }
  if (bytes === null) grown.fill(0, at, size);
  else grown.set(bytes, at);
  return grown;
}

interface DirectoryChange {
  name: string;
  /** It had this name before; null: it is new, or removed. */
  from: string | null;
  /** Null: removed. */
  file: MemoryFile | null;
}

export class MemoryStore implements Store {
  readonly #options: MemoryStoreOptions;
  /** Names as `list` shows them, and as they would be after a power cut. */
  #cached = new Map<string, MemoryFile>();
  #durable = new Map<string, MemoryFile>();
  #directory: DirectoryChange[] = [];
  readonly #open = new Map<number, { name: string; file: MemoryFile }>();
  #nextFd = 1000;
  /** Counts crashes: handles and callbacks of an earlier life are dead. */
  #life = 0;
  #faults: { operation: Operation; code: Fault; name: string | RegExp | null; times: number }[] = [];
  /** Adjustable while it runs. */
  capacity: number;
  readonly counters = { bytesWritten: 0, writes: 0, syncs: 0, lost: 0, torn: 0, garbled: 0, survived: 0 };

  constructor(options: MemoryStoreOptions) {
    this.#options = options;
    this.capacity = options.capacity ?? Number.POSITIVE_INFINITY;
  }

  // ---- Store

  list(): string[] {
    return [...this.#cached.keys()].sort();
  }

  load(name: string): Uint8Array | null {
    const file = this.#cached.get(name);
    if (file === undefined) return null;
    this.#throwFault('read', name);
    return file.cached.slice(0, file.cachedSize);
  }

  save(name: string, bytes: Uint8Array, done: (error: Error | null) => void): void {
    const file = this.#file(name);
    const fault = this.#fault('write', name) ?? this.#overCapacity(file, bytes.length);
    if (fault !== null) {
      this.#answer('save', done, fault);
      return;
    }
    this.counters.bytesWritten += bytes.length;
    const write = file.write(0, bytes);
    const cut = file.write(bytes.length, null);
    const answered = this.#fault('sync', name);
    this.#answer('save', done, answered, () => {
      write.answered = true;
      cut.answered = true;
      this.#settle(file, [write, cut], answered !== null);
      this.#settleDirectory(name);
    });
  }

  open(name: string, create: boolean): StoreFile {
    if (!create && !this.#cached.has(name)) throw errorOf('ENOENT', name);
    this.#throwFault('open', name);
    const file = this.#file(name);
    const fd = this.#nextFd++;
    const life = this.#life;
    const opened = { name, file };
    this.#open.set(fd, opened);
    const live = () => {
      if (life !== this.#life) throw new Error(`${name}: a handle from before the crash`);
      if (!this.#open.has(fd)) throw new Error(`${name}: closed`);
    };
    return {
      fd,
      size: () => {
        live();
        return file.cachedSize;
      },
      write: (bytes, position, done) => {
        live();
        const fault = this.#fault('write', opened.name) ?? this.#overCapacity(file, position + bytes.length);
        if (fault !== null) {
          // A part may have reached the disk before the error.
          const part = Math.floor(this.#options.random() * (bytes.length + 1));
          if (part > 0 && fault.code === 'EIO') file.write(position, bytes.subarray(0, part)).answered = true;
          this.#answer('write', done, fault);
          return;
        }
        this.counters.bytesWritten += bytes.length;
        this.counters.writes++;
        const write = file.write(position, bytes);
        this.#answer('write', done, null, () => {
          write.answered = true;
        });
      },
      writeSynced: (bytes, position, done) => {
        live();
        const fault = this.#fault('write', opened.name) ?? this.#overCapacity(file, position + bytes.length);
        if (fault !== null) return this.#answer('write', done, fault);
        this.counters.bytesWritten += bytes.length;
        this.counters.writes++;
        this.counters.syncs++;
        const write = file.write(position, bytes);
        const unsynced = this.#fault('sync', opened.name);
        this.#answer('sync', done, unsynced, () => {
          write.answered = true;
          this.#settle(file, [write], unsynced !== null);
        });
      },
      sync: (done) => {
        live();
        this.counters.syncs++;
        const covered = file.pending.filter((write) => write.answered && !write.doomed);
        const fault = this.#fault('sync', opened.name);
        this.#answer('sync', done, fault, () => this.#settle(file, covered, fault !== null));
      },
      read: (into, position) => {
        live();
        this.#throwFault('read', opened.name);
        return readFrom(file, into, position);
      },
      rename: (to) => {
        live();
        this.#throwFault('rename', opened.name);
        if (this.#cached.has(to)) throw errorOf('EEXIST', to);
        this.#cached.delete(opened.name);
        this.#cached.set(to, file);
        this.#directory.push({ name: to, from: opened.name, file });
        opened.name = to;
      },
      truncate: (size) => {
        live();
        this.#throwFault('truncate', opened.name);
        file.write(size, null).answered = true;
      },
      close: () => {
        live();
        this.#open.delete(fd);
      },
    };
  }

  remove(name: string): void {
    this.#throwFault('remove', name);
    if (!this.#cached.delete(name)) throw errorOf('ENOENT', name);
    this.#directory.push({ name, from: null, file: null });
  }

  free(): number {
    return Math.max(0, this.capacity - this.used);
  }

  syncDirectory(done: (error: Error | null) => void): void {
    const covered = this.#directory.slice();
    this.#answer('syncDirectory', done, null, () => this.#settleChanges(covered));
  }

  // ---- for a simulator

  /** Bytes of all files. */
  get used(): number {
    let used = 0;
    for (const file of this.#cached.values()) used += file.cachedSize;
    return used;
  }

  sizeOf(name: string): number {
    return this.#cached.get(name)?.cachedSize ?? 0;
  }

  /** Bytes read through a descriptor: what a pool worker does with it. */
  readFd(fd: number, into: Uint8Array, position: number): number {
    const open = this.#open.get(fd);
    if (open === undefined) throw errorOf('EBADF', `fd ${fd}`);
    this.#throwFault('read', open.name);
    return readFrom(open.file, into, position);
  }

  /** The next `times` operations of a kind, on files whose name matches, fail. @returns makes them fail no longer */
  fail(operation: Operation, code: Fault, times = 1, name: string | RegExp | null = null): () => void {
    const fault = { operation, code, name, times };
    this.#faults.push(fault);
    return () => {
      this.#faults = this.#faults.filter((each) => each !== fault);
    };
  }

  /** What was to fail, and has not, does not. */
  heal(): void {
    this.#faults = [];
  }

  /** Rot: flips bits of one byte, in cache and on disk. */
  rot(name: string, at: number, bits = 0xff): void {
    const file = this.#cached.get(name);
    if (file === undefined || at >= file.cachedSize) throw errorOf('ENOENT', `${name} at ${at}`);
    file.flip(at, bits);
  }

  /** A file that was there before, durably. */
  put(name: string, bytes: Uint8Array): void {
    const file = new MemoryFile();
    file.settle(file.write(0, bytes));
    file.pending = [];
    this.#cached.set(name, file);
    this.#durable.set(name, file);
  }

  /** Another disk that holds, durably, what reads see of this one now. */
  copy(): MemoryStore {
    const copy = new MemoryStore(this.#options);
    for (const [name, file] of this.#cached) copy.put(name, file.cached.slice(0, file.cachedSize));
    return copy;
  }

  /** The power goes: nothing that was asked is answered any more; the store may be opened again at once. */
  crash(): void {
    this.#life++;
    this.#open.clear();
    this.#faults = [];
    for (const change of this.#directory) if (this.#options.random() < 0.5) this.#applyChange(change);
    this.#directory = [];
    this.#cached = new Map(this.#durable);
    for (const file of new Set(this.#durable.values())) this.#draw(file);
  }

  /** The process dies, the machine stays up: handles and answers are gone, written bytes are not. */
  kill(): void {
    this.#life++;
    this.#open.clear();
    // what had reached the page cache is there, whoever asked for it: the next sync covers it
    for (const file of this.#cached.values()) for (const write of file.pending) write.answered = true;
  }

  #draw(file: MemoryFile): void {
    file.lose((write, makeDurable) => {
      const draw = this.#options.random();
      if (draw < 0.3) {
        this.counters.survived++;
        makeDurable(write.at, write.bytes);
      } else if (draw < 0.6 || write.bytes === null) this.counters.lost++;
      else this.#drawSectors(write.at, write.bytes, draw >= 0.85, makeDurable);
    });
  }

  /** Torn: a prefix (half the time) or a random choice of sectors is written. Garbage: some sectors hold rubbish. */
  #drawSectors(
    at: number,
    bytes: Uint8Array,
    garbage: boolean,
    makeDurable: (at: number, bytes: Uint8Array) => void,
  ): void {
    if (garbage) this.counters.garbled++;
    else this.counters.torn++;
    const prefix = !garbage && this.#options.random() < 0.5;
    const cut = at + Math.floor(this.#options.random() * bytes.length);
    for (let from = at; from < at + bytes.length; ) {
      let to = Math.min(at + bytes.length, (Math.floor(from / SECTOR) + 1) * SECTOR);
      if (prefix) {
        if (from >= cut) break;
        to = Math.min(to, cut);
      } else if (this.#options.random() < 0.5) {
        from = to;
        continue;
      }
      const sector = bytes.slice(from - at, to - at);
      if (garbage && this.#options.random() < 0.5) {
        for (let i = 0; i < sector.length; i++) sector[i] = Math.floor(this.#options.random() * 256);
      }
      makeDurable(from, sector);
      from = to;
    }
  }

  #file(name: string): MemoryFile {
    let file = this.#cached.get(name);
    if (file === undefined) {
      file = new MemoryFile();
      this.#cached.set(name, file);
      this.#directory.push({ name, from: null, file });
    }
    return file;
  }

  /** Writes become durable, in order, or doomed. */
  #settle(file: MemoryFile, covered: readonly Pending[], failed: boolean): void {
    if (failed) {
      for (const write of covered) write.doomed = true;
      return;
    }
    const settled = new Set(covered);
    let left: Pending[] = [];
    for (const write of file.pending) {
      if (settled.has(write)) {
        file.settle(write);
        left = left.flatMap((older) => outside(older, write));
      } else left.push(write);
    }
    file.pending = left;
  }

  #settleDirectory(name: string): void {
    this.#settleChanges(this.#directory.filter((change) => change.name === name));
  }

  #settleChanges(covered: readonly DirectoryChange[]): void {
    for (const change of covered) {
      if (!this.#directory.includes(change)) continue;
      this.#applyChange(change);
    }
    this.#directory = this.#directory.filter((change) => !covered.includes(change));
  }

  #applyChange(change: DirectoryChange): void {
    if (change.from !== null && this.#durable.get(change.from) === change.file) this.#durable.delete(change.from);
    if (change.file === null) this.#durable.delete(change.name);
    else this.#durable.set(change.name, change.file);
  }

  #answer(
    operation: 'write' | 'sync' | 'save' | 'syncDirectory',
    done: (error: Error | null) => void,
    error: Error | null,
    effect?: () => void,
  ): void {
    const life = this.#life;
    this.#options.defer(() => {
      if (life !== this.#life) return;
      effect?.();
      done(error);
    }, this.#options.latencyMs?.(operation) ?? 0);
  }

  #overCapacity(file: MemoryFile, end: number): NodeJS.ErrnoException | null {
    if (this.capacity === Number.POSITIVE_INFINITY) return null;
    return this.used + Math.max(0, end - file.cachedSize) > this.capacity ? errorOf('ENOSPC', 'write') : null;
  }

  #fault(operation: Operation, name: string): NodeJS.ErrnoException | null {
    const fault = this.#faults.find(
      (fault) =>
        fault.operation === operation &&
        (fault.name === null || (typeof fault.name === 'string' ? fault.name === name : fault.name.test(name))),
    );
    if (fault === undefined) return null;
    if (--fault.times <= 0) this.#faults.splice(this.#faults.indexOf(fault), 1);
    this.#options.failed?.(operation);
    return errorOf(fault.code, `${operation} ${name}`);
  }

  #throwFault(operation: Operation, name: string): void {
    const fault = this.#fault(operation, name);
    if (fault !== null) throw fault;
  }
}

/** What is left to be drawn of an older write when a newer one, in the same file, became durable. */
function outside(older: Pending, newer: Pending): Pending[] {
  if (older.bytes === null) return newer.bytes === null || newer.at + newer.bytes.length > older.at ? [] : [older];
  const olderEnd = older.at + older.bytes.length;
  const newerEnd = newer.bytes === null ? Number.POSITIVE_INFINITY : newer.at + newer.bytes.length;
  if (newer.at >= olderEnd || newerEnd <= older.at) return [older];
  const parts: Pending[] = [];
  if (newer.at > older.at) parts.push({ ...older, bytes: older.bytes.subarray(0, newer.at - older.at) });
  if (newerEnd < olderEnd) parts.push({ ...older, at: newerEnd, bytes: older.bytes.subarray(newerEnd - older.at) });
  return parts;
}

function readFrom(file: MemoryFile, into: Uint8Array, position: number): number {
  const size = Math.max(0, Math.min(into.length, file.cachedSize - position));
  into.set(file.cached.subarray(position, position + size));
  return size;
}

function errorOf(code: string, what: string): NodeJS.ErrnoException {
  return Object.assign(new Error(`${code}: ${what}`), { code });
}

/** A small seeded generator for tests: mulberry32, in [0, 1). */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** A queue of tasks for `defer`: `run` empties it in order of time. */
export class TaskQueue {
  now = 0;
  #order = 0;
  readonly #tasks: { at: number; order: number; task: () => void }[] = [];
  readonly defer = (task: () => void, delayMs = 0): void => {
    this.#tasks.push({ at: this.now + delayMs, order: this.#order++, task });
  };

  /** Runs the earliest task; false if there is none. */
  step(): boolean {
    let best = -1;
    for (let i = 0; i < this.#tasks.length; i++) {
      const a = this.#tasks[i];
      const b = best < 0 ? null : this.#tasks[best];
      if (b === null || a.at < b.at || (a.at === b.at && a.order < b.order)) best = i;
    }
    if (best < 0) return false;
    const [{ at, task }] = this.#tasks.splice(best, 1);
    this.now = at;
    task();
    return true;
  }

  run(): void {
    while (this.step());
  }
}
