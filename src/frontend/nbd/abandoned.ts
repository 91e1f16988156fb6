/**
 * Requests of connections that are gone: the device has them, with their bytes, until it settles them, and who connected
 * anew each time could have any number of them.
 */
import { SERVER_PENDING_MAX } from './limits.js';

export class Abandoned {
  private bytes = 0;
  private readonly waiting = new Set<() => void>();

  /** They hold all that a server may: a connection without any request yet waits for them. */
  get isFull(): boolean {
    return this.bytes >= SERVER_PENDING_MAX;
  }

  /** @param size  below 0: of a request that settled */
  add(size: number): void {
    this.bytes += size;
    if (this.isFull) return;
    const waiting = [...this.waiting];
    this.waiting.clear();
    for (const goOn of waiting) goOn();
  }

  /** Calls `goOn` once there is room. */
  wait(goOn: () => void): void {
    this.waiting.add(goOn);
  }

  waitNoMore(goOn: () => void): void {
    this.waiting.delete(goOn);
  }
}
