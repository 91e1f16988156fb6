/**
 * Offload to a worker thread: batches of kernel work over the group's shared memory, through Piscina.
 *
 * A hand-off costs the main thread about as much as hashing 200 KiB of warm data, 90 KiB of cold (bench/subjects/pool.js), and
 * never lowers latency: callers keep small batches for themselves. An idle pool does not keep the process alive.
 *
 * Reads are the exception that the pool decides on itself: while what is asked for has been in the page cache lately
 * (warmth.ts), it reads small batches on the caller's thread, which costs about 2 µs for a block, and a hand-off 15; of
 * large ones it reads one half there while a worker reads the other.
 */
import { Piscina } from 'piscina';
import { built } from '../paths.js';
import type { KernelMemory } from './bounds.js';
import { createKernel } from './create.js';
import type { KernelName } from './kernel.js';
import type { Offload, ReadRun } from './offload.js';
import { RunReader } from './read-run.js';
import { packRuns, type WorkerData } from './tasks.js';
import { Warmth } from './warmth.js';
import { wasmModule } from './wasm.js';

export interface PoolOptions {
  readonly memory: KernelMemory;
  readonly kernel: KernelName;
  /** @default one that knows nothing yet */
  readonly warmth?: Warmth;
}

/** Of a batch of more than this one half is handed over even if it is in the page cache: the two are read side by side. */
const READ_HERE_SIZE_MAX = 128 * 1024;

/** Answers one pending call with an error. */
type Fail = (error: Error) => void;

export class PiscinaPool implements Offload {
  readonly #piscina: Piscina;
  readonly #pending = new Set<Fail>();
  readonly #reader: RunReader;
  readonly #warmth: Warmth;
  /** The worker has loaded its module, or failed to. */
  readonly #started: Promise<unknown>;
  #closed: Promise<void> | undefined;

  constructor({ memory, kernel, warmth = new Warmth(() => process.resourceUsage().fsRead) }: PoolOptions) {
    this.#warmth = warmth;
    this.#reader = new RunReader(memory, createKernel(kernel, memory));
    const workerData: WorkerData = {
      memory: memory.memory,
      kernel,
      ...(kernel === 'reference' ? {} : { module: wasmModule() }),
    };
    this.#piscina = new Piscina({
      filename: built('src/kernel/worker.js'),
      minThreads: 1,
      maxThreads: 1, // a thread of its own for each group: there are many groups, and few processors
      workerData,
      recordTiming: false,
    });
    // A worker that cannot start fails the tasks given to it; without a listener the event would end the process too.
    this.#piscina.on('error', () => {});
    this.#started = Promise.allSettled([this.#piscina.run(null, { name: 'begin' })]);
  }

  seal(at: number, size: number, done: (error: Error | null) => void): void {
    this.#run<number>(
      'seal',
      [at, size],
      (error) => done(error),
      () => done(null),
    );
  }

  read(runs: readonly ReadRun[], done: (error: Error | null, payloadAt: readonly number[]) => void): void {
    const payloadAt = new Array<number>(runs.length);
    let failed: Error | null = null;
    let waiting = 1; // for this thread
    const partDone = (error: Error | null): void => {
      failed ??= error;
      waiting -= 1;
      if (waiting === 0) done(failed, failed === null ? payloadAt : []); // nobody uses the runs' memory any more
    };
    const handOver = (from: number, to: number): void => {
      if (from === to) return;
      waiting += 1;
      this.#run<number[]>('read', packRuns(runs.slice(from, to)), partDone, (answer) => {
        this.#warmth.told(to - from, answer.pop()!);
        for (let i = from; i < to; i += 1) payloadAt[i] = answer[i - from]!;
        partDone(null);
      });
    };
    const from = this.#beginsHere(runs);
    handOver(0, from);
    let at = from;
    for (; at < runs.length && this.#warmth.isWarm; at += 1) {
      const begun = performance.now();
      payloadAt[at] = this.#reader.read(runs[at]!);
      this.#warmth.readHere((performance.now() - begun) * 1000);
    }
    handOver(at, runs.length);
    queueMicrotask(() => partDone(null));
  }

  /** Which runs of a batch are read here, if they are likely to be in the page cache: those from the one returned on. */
  #beginsHere(runs: readonly ReadRun[]): number {
    if (this.#closed !== undefined || !this.#warmth.isWarm) return runs.length;
    let bytes = 0;
    for (const { count, blockShift } of runs) bytes += count << blockShift;
    if (bytes <= READ_HERE_SIZE_MAX) return 0;
    return Math.ceil(runs.length / 2);
  }

  load(
    fd: number,
    offset: number,
    size: number,
    at: number,
    done: (error: Error | null, bytesRead: number) => void,
  ): void {
    this.#run<number>(
      'load',
      [fd, offset, size, at],
      (error) => done(error, 0),
      (bytesRead) => done(null, bytesRead),
    );
  }

  /** Ends the worker. Pending calls are answered once it cannot touch the memory or a file any more. */
  close(): Promise<void> {
    // V8 ends the whole process when a thread is ended while it instantiates a module (Node 20)
    const ended = () => this.#started.then(() => this.#piscina.destroy());
    this.#closed ??= ended().then(() => {
      for (const fail of [...this.#pending]) this.#settle(fail, () => fail(new Error('the worker pool was closed')));
    });
    return this.#closed;
  }

  #run<T>(name: string, task: readonly number[] | Float64Array, failed: Fail, succeed: (result: T) => void): void {
    const fail: Fail = (error) => failed(error); // of this call alone: two may have the same
    this.#pending.add(fail);
    if (this.#closed !== undefined) {
      // Too late, but still not inside the call.
      this.#closed.then(() => this.#settle(fail, () => fail(new Error('the worker pool is closed'))));
      return;
    }
    this.#piscina.run(task, { name }).then(
      (result: T) => this.#settle(fail, () => succeed(result)),
      (error: Error) => {
        if (this.#closed === undefined) this.#settle(fail, () => fail(error));
      },
    );
  }

  #settle(fail: Fail, answer: () => void): void {
    if (this.#pending.delete(fail)) answer();
  }
}
