/**
 * Offload to worker threads: batches of kernel work over the group's shared memory, through Piscina.
 *
 * A hand-off costs the main thread about as much as hashing 200 KiB of warm data, 90 KiB of cold (bench/kernels.js), and
 * never lowers latency: callers keep small batches for themselves. An idle pool does not keep the process alive.
 */
import { Piscina } from 'piscina';
import { built } from '../paths.js';
import type { KernelMemory } from './bounds.js';
import type { KernelName } from './kernel.js';
import type { Offload, ReadRun } from './offload.js';
import { RUN_FIELDS, type WorkerData } from './tasks.js';
import { wasmModule } from './wasm.js';

export interface PoolOptions {
  readonly memory: KernelMemory;
  readonly kernel: KernelName;
  /** Threads, 1..WORKERS_MAX, from the start until the end. @default 1 */
  readonly workers?: number;
}

/** More threads than a machine that does other things would give to one group. */
const WORKERS_MAX = 16;

/** Answers one pending call with an error. */
type Fail = (error: Error) => void;

export class PiscinaPool implements Offload {
  readonly #piscina: Piscina;
  readonly #pending = new Set<Fail>();
  #closed: Promise<void> | undefined;

  /** @throws RangeError unless there are 1..WORKERS_MAX workers */
  constructor({ memory, kernel, workers = 1 }: PoolOptions) {
    if (!(Number.isInteger(workers) && workers >= 1 && workers <= WORKERS_MAX))
      throw new RangeError(`${workers} workers`);
    const workerData: WorkerData = {
      memory: memory.memory,
      kernel,
      ...(kernel === 'reference' ? {} : { module: wasmModule() }),
    };
    this.#piscina = new Piscina({
      filename: built('src/kernel/worker.js'),
      minThreads: workers,
      maxThreads: workers,
      workerData,
      recordTiming: false,
    });
    // A worker that cannot start fails the tasks given to it; without a listener the event would end the process too.
    this.#piscina.on('error', () => {});
  }

  seal(at: number, size: number, done: (error: Error | null) => void): void {
    this.#run<number>(
      'seal',
      [at, size],
      (error) => done(error),
      () => done(null),
    );
  }

  verify(at: number, size: number, done: (error: Error | null, goodBytes: number) => void): void {
    this.#run<number>(
      'verify',
      [at, size],
      (error) => done(error, 0),
      (goodBytes) => done(null, goodBytes),
    );
  }

  read(runs: readonly ReadRun[], done: (error: Error | null, payloadAt: readonly number[]) => void): void {
    const flat = new Float64Array(runs.length * RUN_FIELDS);
    runs.forEach((run, i) => {
      const { fd, offset, index, count, blockShift, volume, lba, at } = run;
      flat.set([fd, offset, index, count, blockShift, volume, lba, at], i * RUN_FIELDS);
    });
    this.#run<number[]>(
      'read',
      flat,
      (error) => done(error, []),
      (payloadAt) => done(null, payloadAt),
    );
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

  /** Ends the workers. Pending calls are answered once no worker can touch the memory or a file any more. */
  close(): Promise<void> {
    this.#closed ??= this.#piscina.destroy().then(() => {
      for (const fail of [...this.#pending]) this.#settle(fail, () => fail(new Error('the worker pool was closed')));
    });
    return this.#closed;
  }

  #run<T>(name: string, task: readonly number[] | Float64Array, fail: Fail, succeed: (result: T) => void): void {
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
