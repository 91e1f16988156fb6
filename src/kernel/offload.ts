/**
 * What may run off the main thread, behind an interface so that a simulator can stand in for the worker pool.
 * Work is described by addresses in the group's shared memory; the callback runs on the main thread, never inside
 * the call that asked for it.
 */

/** One run of consecutive blocks of one record, to be read back from a segment file and checked. */
export interface ReadRun {
  /** Open file of the segment. */
  fd: number;
  /** Byte offset in that file of the record's header. */
  offset: number;
  /** First block of the run within the record, and how many. */
  index: number;
  count: number;
  blockShift: number;
  /** What the record must be about; anything else is a misdirected read. */
  volume: number;
  /** Volume address of block `index` of the record. */
  lba: number;
  /** Where there is room for READ_RUN_OVERHEAD + count << blockShift bytes. */
  at: number;
}

/** Bytes a run needs beside its payload: a header with the most checksums a record can have. */
export const READ_RUN_OVERHEAD = 72 + 8 * 1024 + 56;

export interface Offload {
  /** Seals the stretch (Kernel.seal). */
  seal(at: number, size: number, done: (error: Error | null) => void): void;
  /**
   * Reads and checks every run. `payloadAt[i]` is the address of run i's first block, or -1 if what the disk gave
   * does not match its checksums or its pointer (never wrong data), or -2 if the read itself failed.
   */
  read(runs: readonly ReadRun[], done: (error: Error | null, payloadAt: readonly number[]) => void): void;
  /** Reads [offset, offset + size) of an open file to address `at`; short at the end of the file. */
  load(
    fd: number,
    offset: number,
    size: number,
    at: number,
    done: (error: Error | null, bytesRead: number) => void,
  ): void;
  /** Ends the worker; pending work is answered with an error. */
  close(): Promise<void>;
}
