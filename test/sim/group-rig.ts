/**
 * What the group simulator puts in the place of the world: time, disks' images, worker threads and the link.
 *
 * Everything is deterministic: chance comes from one seeded generator, and things happen in the order of a heap of
 * tasks. Production code runs above these four and knows nothing of them.
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
import type { StoreFile } from '../../src/journal/store.js';
import type { Kernel } from '../../src/kernel/kernel.js';
import type { GroupMemory } from '../../src/kernel/memory.js';
import { type Offload, READ_RUN_OVERHEAD, type ReadRun } from '../../src/kernel/offload.js';
import type { Link } from '../../src/link/link.js';
import type { FlatImage } from '../../src/platter/flat.js';
import type { MemoryStore } from './memory-store.js';

/** Tasks in order of time, then of asking. Milliseconds. */
export class Scheduler {
  now = 0;
  steps = 0;
  #order = 0;
  readonly #heap: { at: number; order: number; task: () => void }[] = [];

  schedule(task: () => void, delayMs: number): void {
    const heap = this.#heap;
    const entry = { at: this.now + delayMs, order: this.#order++, task };
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

  verify(at: number, size: number, done: (error: Error | null, goodBytes: number) => void): void {
    this.#run(
      () => this.#kernel.verify(at, size),
      (good) => done(null, good),
      (error) => done(error, 0),
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
      const result = this.#closed ? null : { value: work() };
      scheduler.schedule(() => {
        if (this.#life.over) return;
        if (result === null || this.#closed) failed(new Error('the worker pool is closed'));
        else then(result.value);
      }, random() * this.#slowest);
    }, random() * this.#slowest);
  }

  #read(fd: number, offset: number, size: number, at: number): number {
    return this.#store().readFd(fd, this.#memory.bytes.subarray(at, at + size), offset);
  }

  /** As the pool's worker does it: header first, then the blocks, each against its checksum. */
  #readRun(run: ReadRun): number {
    const { view } = this.#memory;
    const available = this.#read(run.fd, run.offset, READ_RUN_OVERHEAD, run.at);
    if (available < HEADER_SIZE || this.#kernel.checkHeader(run.at, available) === 0) return -1;
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

/** A flat image as a file of a disk that crashes. */
export function memoryImage(store: MemoryStore, path: string, size: number): FlatImage {
  const created = !store.list().includes(path);
  const file: StoreFile = store.open(path, true);
  if (created) file.truncate(size);
  const image = {
    path,
    size,
    created,
    counters: {},
    read(offset: number, count: number, into: Uint8Array, done: (error: Error | null) => void): void {
      const bytes = new Uint8Array(count);
      file.read(bytes, offset);
      // through the disk's queue, so that it is answered later
      store.syncDirectory((error) => {
        into.set(bytes);
        done(error);
      });
    },
    write(offset: number, pieces: readonly Uint8Array[], done: (error: Error | null) => void): void {
      file.write(Buffer.concat(pieces), offset, done);
    },
    zero(offset: number, count: number, done: (error: Error | null) => void): void {
      file.write(new Uint8Array(count), offset, done);
    },
    sync(done: (error: Error | null) => void): void {
      file.sync((error) => (error ? done(error) : store.syncDirectory(done)));
    },
    close(): void {
      file.close();
    },
  };
  return image as unknown as FlatImage;
}

interface Message {
  header: Uint8Array;
  stretch: Uint8Array | null;
  released: (() => void) | null;
  size: number;
}

export interface LinkWorld extends Chance {
  /** Longest delay of a message, ms. */
  delayMax: number;
  /** Probability that a stretch arrives with a flipped bit. */
  bitFlip: number;
  /** Bytes per ms. */
  rate: number;
  met(what: string): void;
}

/** One end of a link in memory. What is in flight is lost when it is cut. */
export class SimLink implements Link {
  onMessage: ((header: Uint8Array, stretch: Uint8Array | null) => void) | null = null;
  onDrain: (() => void) | null = null;
  onClose: ((reason: string, code: number) => void) | null = null;
  bufferedBytes = 0;
  roundTripMs = 1;
  bytesSent = 0;
  bytesReceived = 0;
  /** Why it was closed at this end, for the world to judge. */
  closedWith: { code: number; reason: string } | null = null;
  readonly #world: LinkWorld;
  /** Of the machine at this end. */
  readonly #life: Life;
  peer!: SimLink;
  readonly #out: Message[] = [];
  readonly #in: (Message | { code: number; reason: string })[] = [];
  #leaving = false;
  #paused = false;
  #closing = false;
  #ended = false;
  #arrival = 0;
  #wasHigh = false;
  #delivering = false;

  static pair(world: LinkWorld, a: Life, b: Life): [SimLink, SimLink] {
    const one = new SimLink(world, a);
    const two = new SimLink(world, b);
    one.peer = two;
    two.peer = one;
    return [one, two];
  }

  private constructor(world: LinkWorld, life: Life) {
    this.#world = world;
    this.#life = life;
  }

  get ended(): boolean {
    return this.#ended;
  }

  describe(): string {
    return JSON.stringify({
      out: this.#out.length,
      in: this.#in.length,
      paused: this.#paused,
      leaving: this.#leaving,
      closing: this.#closing,
      ended: this.#ended,
      received: this.bytesReceived,
      sent: this.bytesSent,
      owned: this.onMessage !== null,
    });
  }

  send(header: Uint8Array, stretch: Uint8Array | null, released: (() => void) | null): void {
    if (this.#life.over) return;
    if (this.#closing || this.#ended) {
      if (released !== null) this.#later(released, 0.01);
      return;
    }
    const size = header.length + (stretch?.length ?? 0);
    this.#out.push({ header: header.slice(), stretch, released, size });
    this.bufferedBytes += size;
    if (this.bufferedBytes > 32 * 1024) this.#wasHigh = true;
    this.#leave();
  }

  pauseReceiving(): void {
    this.#paused = true;
  }

  resumeReceiving(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#deliver();
    this.peer.#leave();
  }

  close(code: number, reason: string): void {
    if (this.#closing || this.#ended) return;
    this.#closing = true;
    this.closedWith = { code, reason };
    const { random } = this.#world;
    // behind what was sent: here simply after it, if it gets through at all
    this.#world.scheduler.schedule(() => {
      if (!this.#ended && !this.peer.#ended) this.peer.#arrive({ code, reason });
      this.#end(reason, code);
    }, this.#untilLeft());
    void random;
  }

  /** The line is gone: both ends learn it at their own time, nothing in flight arrives. */
  cut(): void {
    for (const end of [this, this.peer]) {
      if (end.#ended) continue;
      end.#in.length = 0;
      end.#world.scheduler.schedule(() => end.#end('cut', 1006), end.#world.random() * 40);
      end.#stop();
    }
  }

  #untilLeft(): number {
    return 0.05 + (this.bufferedBytes / this.#world.rate) * 1.1;
  }

  #later(task: () => void, delay: number): void {
    this.#world.scheduler.schedule(() => {
      if (!this.#life.over) task();
    }, delay);
  }

  /** Nothing leaves or arrives any more; memory that was on its way is given back. */
  #stop(): void {
    this.#closing = true;
    for (const message of this.#out.splice(0))
      if (message.released !== null) this.#later(message.released, this.#world.random() * 5);
    this.bufferedBytes = 0;
  }

  #end(reason: string, code: number): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#stop();
    this.#in.length = 0;
    if (!this.#life.over) this.onClose?.(reason, code);
  }

  /** A message leaves when the line has taken it: until then its memory may not change, and afterwards it may. */
  #leave(): void {
    if (this.#leaving || this.#ended || this.#out.length === 0 || this.peer.#paused) return;
    this.#leaving = true;
    const message = this.#out[0]!;
    const { random, rate, scheduler } = this.#world;
    scheduler.schedule(() => {
      this.#leaving = false;
      if (this.#out[0] !== message) return;
      this.#out.shift();
      this.bufferedBytes -= message.size;
      this.bytesSent += message.size;
      const stretch = message.stretch === null || this.#life.over ? null : message.stretch.slice();
      if (message.released !== null) this.#later(message.released, random() * 0.2);
      if (!this.#life.over) this.#transmit({ header: message.header, stretch, released: null, size: message.size });
      if (this.#wasHigh && this.bufferedBytes < 16 * 1024) {
        this.#wasHigh = false;
        this.#later(() => this.onDrain?.(), 0.01);
      }
      this.#leave();
    }, message.size / rate);
  }

  #transmit(message: Message): void {
    const { random, delayMax, bitFlip, scheduler, met } = this.#world;
    if (message.stretch !== null && random() < bitFlip) {
      met('bit flip');
      const at = Math.floor(random() * message.stretch.length);
      message.stretch[at]! ^= 1 << Math.floor(random() * 8);
    }
    this.#arrival = Math.max(this.#arrival, scheduler.now + 0.02 + random() * delayMax);
    scheduler.schedule(() => this.peer.#arrive(message), this.#arrival - scheduler.now);
  }

  #arrive(item: Message | { code: number; reason: string }): void {
    if (this.#ended || this.#life.over || this.peer.#isCut) return;
    this.#in.push(item);
    this.#deliver();
  }

  get #isCut(): boolean {
    return this.#closing && this.closedWith === null;
  }

  #deliver(): void {
    if (this.#delivering) return;
    this.#delivering = true;
    while (this.#in.length > 0 && !this.#paused && !this.#ended && !this.#life.over) {
      const item = this.#in[0]!;
      if ('code' in item) {
        this.#in.shift();
        this.#end(item.reason, item.code);
        break;
      }
      if (this.onMessage === null && !this.#closing) break; // the owner is not there yet
      this.#in.shift();
      this.bytesReceived += item.size;
      if (!this.#closing) this.onMessage!(item.header, item.stretch);
    }
    this.#delivering = false;
  }

  /** The owner has set its handlers. */
  begin(): void {
    this.#deliver();
  }
}
