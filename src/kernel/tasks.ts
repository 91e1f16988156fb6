/** What the pool and its workers say to each other. */
import type { KernelName } from './kernel.js';
import type { ReadRun } from './offload.js';

export interface WorkerData {
  readonly memory: WebAssembly.Memory;
  readonly kernel: KernelName;
  /** Compiled once by the pool's owner; the reference twin goes without. */
  readonly module?: WebAssembly.Module;
}

/** Numbers that describe a ReadRun in a flat array: fd, offset, index, count, blockShift, volume, lba, at. */
export const RUN_FIELDS = 8;

export function packRuns(runs: readonly ReadRun[]): Float64Array {
  const flat = new Float64Array(runs.length * RUN_FIELDS);
  runs.forEach(({ fd, offset, index, count, blockShift, volume, lba, at }, i) => {
    flat.set([fd, offset, index, count, blockShift, volume, lba, at], i * RUN_FIELDS);
  });
  return flat;
}

export function unpackRun(flat: Float64Array, from: number): ReadRun {
  return {
    fd: flat[from]!,
    offset: flat[from + 1]!,
    index: flat[from + 2]!,
    count: flat[from + 3]!,
    blockShift: flat[from + 4]!,
    volume: flat[from + 5]!,
    lba: flat[from + 6]!,
    at: flat[from + 7]!,
  };
}
