/** Worker processes, as many as there are cores: worlds are dealt out, whoever is free takes the next. */
import { type ChildProcess, type ForkOptions, fork } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import type { Outcome } from './group-seed.js';
import type { Job } from './worker.js';

export class Runners {
  readonly #free: ChildProcess[] = [];
  readonly #all: ChildProcess[];
  readonly #waiting: ((worker: ChildProcess) => void)[] = [];

  constructor() {
    const path = fileURLToPath(new URL('./worker.js', import.meta.url));
    // a world makes much that dies soon: the young generation has room for it
    const options: ForkOptions = { serialization: 'advanced', execArgv: ['--max-semi-space-size=64'] };
    this.#all = Array.from({ length: availableParallelism() }, () => fork(path, options));
    this.#free.push(...this.#all);
  }

  get count(): number {
    return this.#all.length;
  }

  /** @throws Error when the process dies of it: an assertion outside of any task, or out of memory */
  async run(job: Job): Promise<Outcome> {
    const worker = this.#free.pop() ?? (await new Promise<ChildProcess>((resolve) => this.#waiting.push(resolve)));
    const outcome = await new Promise<Outcome>((resolve, reject) => {
      const died = (code: number | null): void =>
        reject(new Error(`the process that ran seed ${job.seed} ended with ${code}`));
      worker.once('exit', died);
      worker.once('message', (message) => {
        worker.off('exit', died);
        resolve(message as Outcome);
      });
      worker.send(job);
    });
    const next = this.#waiting.shift();
    if (next === undefined) this.#free.push(worker);
    else next(worker);
    return outcome;
  }

  close(): void {
    // one that died is gone already: why is what is to be told
    for (const worker of this.#all) if (worker.connected) worker.disconnect();
  }
}
