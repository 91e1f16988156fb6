/**
 * Files of one state directory, as the journal sees them: the layer below which a simulator puts its disk.
 * Names are plain (no directories). Callbacks never run inside the call that asked.
 */
export interface Store {
  /** Names of all files. */
  list(): string[];
  /** A whole small file, or null if there is none. Synchronous: for opening only. */
  load(name: string): Uint8Array | null;
  /** Writes a whole small file, synced, and its directory entry too, replacing what was there. Not atomic. */
  save(name: string, bytes: Uint8Array, done: (error: Error | null) => void): void;
  open(name: string, create: boolean): StoreFile;
  remove(name: string): void;
  /** Bytes that may still be written, as far as the disk says; Infinity where it does not. */
  free(): number;
  /** Makes creations and removals durable. */
  syncDirectory(done: (error: Error | null) => void): void;
}

export interface StoreFile {
  /** For Offload.read and Offload.load. */
  readonly fd: number;
  size(): number;
  /** Writes all of `bytes` at `position`, or reports an error (code ENOSPC when the disk is full). */
  write(bytes: Uint8Array, position: number, done: (error: Error | null) => void): void;
  /** The same, and these bytes are durable when it is answered: sooner than by a write and a sync of their own. */
  writeSynced(bytes: Uint8Array, position: number, done: (error: Error | null) => void): void;
  /** Durable afterwards: everything whose write was answered before this call. */
  sync(done: (error: Error | null) => void): void;
  /** Synchronous read, for recovery: bytes read, short at the end of the file. */
  read(into: Uint8Array, position: number): number;
  /** Gives it another name of the store, which nobody has. */
  rename(name: string): void;
  truncate(size: number): void;
  close(): void;
}
