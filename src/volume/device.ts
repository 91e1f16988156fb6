/**
 * What a front end (NBD, the library, later iSCSI) sees of a volume: a byte-addressed block device.
 * Any alignment is accepted. Callbacks never run inside the call that asked. Offsets and sizes are bytes.
 *
 * Completions are objects, not closures, so that a front end can reuse its request objects and a write costs
 * no allocation on the way.
 */
import type { ForelockError } from '../errors.js';

export interface Completion {
  settle(error: ForelockError | null): void;
}

export interface ReadCompletion {
  /** Memory of the receiver for `size` bytes of data; without this it is new memory. Blocks of which a part is asked need more. */
  buffer?(size: number): Uint8Array;
  /** `data`: pieces that add up to the size asked for, now owned by the receiver; empty on error. */
  settleRead(error: ForelockError | null, data: readonly Uint8Array[]): void;
  /**
   * Instead of `settleRead` with memory of the receiver: `data` stands in the device's own memory, and is lent until the
   * receiver calls `release`, once, and soon. A receiver without this gets everything copied.
   */
  settleLent?(data: Uint8Array, release: () => void): void;
}

/** A run of bytes with one allocation status. */
export interface DeviceExtent {
  size: number;
  /** true: reads as zeroes and takes no room. */
  hole: boolean;
}

export interface BlockDevice {
  readonly name: string;
  /** Bytes; a multiple of blockSize. */
  readonly size: number;
  readonly blockSize: number;
  /** For people: what this export is ("standby of site a", "view of …"). */
  readonly description: string;
  /** Writes are refused with EPERM. */
  readonly readOnly: boolean;
  /** Content is refused with EPERM, too (a standby): size and identity only. */
  readonly contentRefused: boolean;
  /** Several connections see one device: a flush on one covers replies on all. False for pinned views. */
  readonly multiConnection: boolean;

  /** Bounds are checked by the front end first; the device asserts them. */
  read(offset: number, size: number, completion: ReadCompletion): void;
  /** `payload` pieces add up to `size`; they are lent for the call: a device that lets the write wait copies them. */
  write(offset: number, size: number, payload: readonly Uint8Array[], fua: boolean, completion: Completion): void;
  /** Covers every write settled before this call, on any connection. */
  flush(completion: Completion): void;
  trim(offset: number, size: number, fua: boolean, completion: Completion): void;
  zero(offset: number, size: number, fua: boolean, completion: Completion): void;
  /** Allocation from `offset`, at most `count` extents, covering at most `size` bytes, at least one extent. */
  extents(offset: number, size: number, count: number): DeviceExtent[];
  /** Called once when the front end's connection is gone: drops what is pinned for it. */
  close(): void;
}

/** Where a front end gets its devices. */
export interface DeviceCatalog {
  /** The volumes. */
  names(): string[];
  /** Names of views that can be pinned now; listed beside the volumes. */
  views(): string[];
  /**
   * Opens an export by name for one connection; NAME@applied pins a view.
   * @throws ForelockError EINVAL unknown name; EPERM or ENOTSUP with the reason when it is refused
   */
  open(name: string): BlockDevice;
  /** The front end calls this at start to learn of role changes and shutdown: connections of these devices must close. */
  onRevoked(listener: (reason: string) => void): void;
}
