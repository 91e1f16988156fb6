/**
 * What the group simulator puts in the place of the world: time, disks' images and worker threads. The link: sim-link.ts.
 *
 * Everything is deterministic: chance comes from one seeded generator, and things happen in the order of a heap of
 * tasks. Production code runs above these and knows nothing of them.
 */
import {
  AT_BLOCK_COUNT,
  AT_BLOCK_SHIFT,
  AT_LBA,
  AT_TYPE,
  AT_VOLUME,
  HEADER_SIZE,
  TYPE_BASE,
  TYPE_RELOCATED,
  TYPE_WRITE,
} from '../../assembly/layout.js';
import { ForelockError } from '../../src/errors.js';
import type { StoreFile } from '../../src/journal/store.js';
import type { Kernel } from '../../src/kernel/kernel.js';
import type { GroupMemory } from '../../src/kernel/memory.js';
import { type Offload, READ_RUN_OVERHEAD, type ReadRun } from '../../src/kernel/offload.js';
import { READ_FAILED } from '../../src/kernel/read-run.js';
import type { FlatImage } from '../../src/platter/flat.js';
import type { MemoryStore } from './memory-store.js';

/** Tasks in order of time, then of asking. Milliseconds. */
export class Scheduler {
  now = 0;
  steps = 0;
  #order = 0;
  readonly #heap: { at: number; order: number; task: () => void }[] = [];

  schedule(task: () => void, delayMs: number): void {
    this.scheduleAt(task, this.now + delayMs);
  }

  /** For what must keep its order: two delays that add up to the same moment may differ in the last bit. */
  scheduleAt(task: () => void, at: number): void {
    const heap = this.#heap;
    const entry = { at, order: this.#order++, task };
    let index = heap.push(entry) - 1;
    while (index > 0) {
      const parent = (index - 1) >> 1;
      if (!before(entry, heap[parent]!)) break;
      heap[index] = heap[parent]!;
      index = parent;
    }
    heap[index] = entry;
  }

  /** Runs the earliest task; false when there is none. */
  step(): boolean {
    const heap = this.#heap;
    const first = heap[0];
    if (first === undefined) return false;
    const last = heap.pop()!;
    if (heap.length > 0) {
      let index = 0;
      for (;;) {
        let child = 2 * index + 1;
        if (child >= heap.length) break;
        if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child += 1;
        if (!before(heap[child]!, last)) break;
        heap[index] = heap[child]!;
        index = child;
      }
      heap[index] = last;
    }
    this.now = first.at;
    this.steps += 1;
    first.task();
    return true;
  }
}

function before(a: { at: number; order: number }, b: { at: number; order: number }): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order);
}

/** A life of a machine: what it deferred does not happen once it is over. */
export interface Life {
  readonly over: boolean;
}

export interface Chance {
  random(): number;
  scheduler: Scheduler;
}

/** Worker threads: the work is done a little later than asked, and answered a little later than done. */
export class SimOffload implements Offload {
  readonly #chance: Chance;
  readonly #life: Life;
  readonly #store: () => MemoryStore;
  readonly #memory: GroupMemory;
  readonly #kernel: Kernel;
  readonly #slowest: number;
  #closed = false;

  constructor(
    chance: Chance,
    life: Life,
    store: () => MemoryStore,
    memory: GroupMemory,
    kernel: Kernel,
    slowest: number,
  ) {
    this.#chance = chance;
    this.#life = life;
    this.#store = store;
    this.#memory = memory;
    this.#kernel = kernel;
    this.#slowest = slowest;
  }

  seal(at: number, size: number, done: (error: Error | null) => void): void {
    this.#run(
      () => this.#kernel.seal(at, size),
      () => done(null),
      done,
    );
  }

  read(runs: readonly ReadRun[], done: (error: Error | null, payloadAt: readonly number[]) => void): void {
    this.#run(
      () => runs.map((run) => this.#readRun(run)),
      (payloadAt) => done(null, payloadAt),
      (error) => done(error, []),
    );
  }

  load(
    fd: number,
    offset: number,
    size: number,
    at: number,
    done: (error: Error | null, bytesRead: number) => void,
  ): void {
    this.#run(
      () => this.#read(fd, offset, size, at),
      (bytes) => done(null, bytes),
      (error) => done(error, 0),
    );
  }

  /** Work that is not done yet is never done, and is answered with an error. */
  close(): Promise<void> {
    this.#closed = true;
    return Promise.resolve();
  }

  #run<T>(work: () => T, then: (result: T) => void, failed: (error: Error) => void): void {
    const { random, scheduler } = this.#chance;
    scheduler.schedule(() => {
      if (this.#life.over) return;
      const answer = this.#closed ? null : this.#try(work, then, failed);
      scheduler.schedule(() => {
        if (this.#life.over) return;
        if (answer === null || this.#closed) failed(new Error('the worker pool is closed'));
        else answer();
      }, random() * this.#slowest);
    }, random() * this.#slowest);
  }

  /** What the disk refuses is an answer, too. */
  #try<T>(work: () => T, then: (result: T) => void, failed: (error: Error) => void): () => void {
    try {
      const result = work();
      return () => then(result);
    } catch (error) {
      if (!isDisks(error)) throw error;
      return () => failed(error);
    }
  }

  #read(fd: number, offset: number, size: number, at: number): number {
    return this.#store().readFd(fd, this.#memory.bytes.subarray(at, at + size), offset);
  }

  #readRun(run: ReadRun): number {
    try {
      return this.#checkedRun(run);
    } catch (error) {
      if (!isDisks(error)) throw error;
      return READ_FAILED;
    }
  }

  /** As the pool's worker does it: header first, then the blocks, each against its checksum. */
  #checkedRun(run: ReadRun): number {
    const { view } = this.#memory;
    if (this.#read(run.fd, run.offset, HEADER_SIZE, run.at) < HEADER_SIZE) return -1;
    // no more than its checksums: to copy into shared memory is slow
    const checksums = Math.min(8 * view.getUint32(run.at + AT_BLOCK_COUNT, true), READ_RUN_OVERHEAD - HEADER_SIZE);
    const available = HEADER_SIZE + this.#read(run.fd, run.offset + HEADER_SIZE, checksums, run.at + HEADER_SIZE);
    if (this.#kernel.checkHeader(run.at, available) === 0) return -1;
    const type = view.getUint8(run.at + AT_TYPE);
    const blockCount = view.getUint32(run.at + AT_BLOCK_COUNT, true);
    const lba = view.getUint32(run.at + AT_LBA, true) + view.getUint32(run.at + AT_LBA + 4, true) * 2 ** 32;
    const wanted =
      (type === TYPE_WRITE || type === TYPE_BASE || type === TYPE_RELOCATED) &&
      view.getUint16(run.at + AT_VOLUME, true) === run.volume &&
      lba + run.index === run.lba &&
      view.getUint8(run.at + AT_BLOCK_SHIFT) === run.blockShift &&
      run.index + run.count <= blockCount;
    if (!wanted) return -1;
    const size = run.count << run.blockShift;
    const from = run.offset + HEADER_SIZE + 8 * blockCount + (run.index << run.blockShift);
    const payloadAt = run.at + READ_RUN_OVERHEAD;
    if (this.#read(run.fd, from, size, payloadAt) < size) return -1;
    return this.#kernel.checkBlocks(run.at, payloadAt, run.index, run.count) === run.count ? payloadAt : -1;
  }
}

function isDisks(error: unknown): error is NodeJS.ErrnoException {
  return (error as NodeJS.ErrnoException).code === 'EIO';
}

const FATES = { survived: 'written', lost: 'lost', torn: 'torn', garbled: 'garbage' } as const;

/** The power goes at a disk; what becomes of what no sync covered is counted. */
export function cutPower(store: MemoryStore, met: (what: string, count: number) => void): void {
  const before = { ...store.counters };
  store.crash();
  for (const [fate, what] of Object.entries(FATES) as [keyof typeof FATES, string][])
    met(`unsynced write ${what}`, store.counters[fate] - before[fate]);
}

/** A flat image as a file of a disk that crashes. */
export function memoryImage(store: MemoryStore, path: string, size: number, isNew: boolean): FlatImage {
  const created = !store.list().includes(path);
  if (created && !isNew) throw new ForelockError('STATE_MISMATCH', `${path} is missing`);
  if (created) store.put(path, new Uint8Array(size));
  const file: StoreFile = store.open(path, false);
  const image = {
    path,
    size,
    created,
    counters: {},
    read(offset: number, count: number, into: Uint8Array, done: (error: Error | null) => void): void {
      const bytes = new Uint8Array(count);
      let failure: Error | null = null;
      try {
        file.read(bytes, offset);
      } catch (error) {
        if (!isDisks(error)) throw error;
        failure = error;
      }
      // through the disk's queue, so that it is answered later
      store.syncDirectory((error) => {
        if (failure === null) into.set(bytes);
        done(failure ?? error);
      });
    },
    write(offset: number, pieces: readonly Uint8Array[], done: (error: Error | null) => void): void {
      file.write(Buffer.concat(pieces), offset, done);
    },
    zero(offset: number, count: number, isRead: boolean, done: (error: Error | null) => void): void {
      const zeroes = new Uint8Array(count);
      if (!isRead) return file.write(zeroes, offset, done);
      const found = new Uint8Array(count);
      image.read(offset, count, found, (error) => {
        if (error === null && Buffer.compare(found, zeroes) === 0) done(null);
        else file.write(zeroes, offset, done);
      });
    },
    sync(done: (error: Error | null) => void): void {
      file.sync((error) => (error ? done(error) : store.syncDirectory(done)));
    },
    inspect(done: (error: Error | null) => void): void {
      done(null);
    },
    close(): void {
      file.close();
    },
  };
  return image as unknown as FlatImage;
}
