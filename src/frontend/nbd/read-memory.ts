/**
 * Memory for what reads return, until the socket has taken it: slabs that are filled from the front, and used again
 * when all that stood in them is sent. A new buffer for each read would keep the collector busy.
 */
import { READ_SLAB_SIZE, READ_SLABS_KEPT_MAX } from './limits.js';

export class ReadSlab {
  readonly bytes: Uint8Array = Buffer.allocUnsafeSlow(READ_SLAB_SIZE);
  filled = 0;
  /** Reads whose bytes are in it, or will be. */
  users = 0;
}

/** The slabs of a server that are free; each connection fills one of its own. */
export class ReadMemory {
  readonly #free: ReadSlab[] = [];

  take(): ReadSlab {
    return this.#free.pop() ?? new ReadSlab();
  }

  give(slab: ReadSlab): void {
    slab.filled = 0;
    if (this.#free.length < READ_SLABS_KEPT_MAX) this.#free.push(slab);
  }
}
