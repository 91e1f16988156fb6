/**
 * Memory for payloads of writes that wait for room or for a lock, used again and again. A buffer of its own for each
 * would be allocated outside of V8's heap, which has the collector mark the whole of it every few hundred requests: a
 * host that writes faster than the disk waits that often.
 */
import { PAYLOAD_SPARES_SIZE_MAX } from '../limits.js';

export class PayloadSpares {
  /** By their exact size: hosts use few sizes. */
  readonly #bySize = new Map<number, Uint8Array[]>();
  #size = 0;

  /** @returns memory of this size, with anything in it */
  take(size: number): Uint8Array {
    const bytes = this.#bySize.get(size)?.pop();
    if (bytes === undefined) return new Uint8Array(size);
    this.#size -= size;
    return bytes;
  }

  /** Nobody reads or writes it any more. */
  giveBack(bytes: Uint8Array): void {
    const size = bytes.length;
    if (size > PAYLOAD_SPARES_SIZE_MAX) return;
    if (this.#size + size > PAYLOAD_SPARES_SIZE_MAX) {
      this.#bySize.clear(); // sizes that nobody uses any more would keep the others out
      this.#size = 0;
    }
    this.#size += size;
    const spares = this.#bySize.get(size);
    if (spares === undefined) this.#bySize.set(size, [bytes]);
    else spares.push(bytes);
  }
}
