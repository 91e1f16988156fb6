/** What the pool and its workers say to each other. */
import type { KernelName } from './kernel.js';

export interface WorkerData {
  readonly memory: WebAssembly.Memory;
  readonly kernel: KernelName;
  /** Compiled once by the pool's owner; the reference twin goes without. */
  readonly module?: WebAssembly.Module;
}

/** Numbers that describe a ReadRun in a flat array: fd, offset, index, count, blockShift, volume, lba, at. */
export const RUN_FIELDS = 8;

/** Instead of an address: the disk gave something else than what the pointer and the checksums promise. */
export const READ_MISMATCH = -1;
/** Instead of an address: the read itself failed. */
export const READ_FAILED = -2;
