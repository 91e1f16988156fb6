/**
 * A worker of the pool: kernel calls and blocking reads over the group's shared memory. Each export is one kind of task.
 *
 * An idle worker blocks its event loop (Piscina's synchronous hand-off), so nothing in here may be asynchronous. File
 * descriptors belong to the process, so a number is all a worker needs to read another thread's file.
 */
import { workerData } from 'piscina';
import { checkStretch, viewsOf } from './bounds.js';
import { createKernel } from './create.js';
import { RunReader } from './read-run.js';
import { RUN_FIELDS, unpackRun, type WorkerData } from './tasks.js';

const data = workerData as WorkerData;
const memory = viewsOf(data.memory);
const kernel = createKernel(data.kernel, memory, data.module);
const reader = new RunReader(memory, kernel);

/** Whoever answers has loaded this module. */
export function begin(): number {
  return 0;
}

export function seal([at, size]: readonly [number, number]): number {
  return kernel.seal(at, size);
}

export function load([fd, offset, size, at]: readonly [number, number, number, number]): number {
  checkStretch(memory, at, size);
  return reader.readFully(fd, offset, size, at);
}

/** `runs` as `packRuns` made them; the answer has one number for each, and then how many µs all of them took. */
export function read(runs: Float64Array): number[] {
  const begun = performance.now();
  const answer: number[] = [];
  for (let i = 0; i < runs.length; i += RUN_FIELDS) answer.push(reader.read(unpackRun(runs, i)));
  answer.push((performance.now() - begun) * 1000);
  return answer;
}
