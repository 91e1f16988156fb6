/** The library's view of a volume: the same requests as over NBD, as promises, plus explicit lock scopes. */

import { ForelockError } from '../../errors.js';
import { HostSession } from '../../volume/catalog.js';
import type { Completion, DeviceExtent } from '../../volume/device.js';
import { checkBytes, type ExtentBytes, type Scope, type ScopeOptions } from '../../volume/scope.js';
import type { Volume } from '../../volume/volume.js';

/**
 * A host session on a volume of a gateway in this process.
 *
 *     const volume = new LibraryVolume(gateway.volume('disk'));
 *     await volume.write(0, bytes);
 *     const scope = await volume.lock({ offset: 0, size: 1 << 20 });
 *     await scope.write(4096, block);
 *     await scope.unlock();
 *     await volume.flush();
 */
export class LibraryVolume {
  readonly #volume: Volume;
  readonly #session: HostSession;

  constructor(volume: Volume) {
    this.#volume = volume;
    this.#session = new HostSession(volume);
  }

  get name(): string {
    return this.#volume.name;
  }
  /** Bytes. */
  get size(): number {
    return this.#volume.size;
  }
  /** Bytes; lock extents are whole blocks, requests may have any alignment. */
  get blockSize(): number {
    return this.#volume.blockSize;
  }

  /**
   * @param offset bytes, offset + size <= volume size
   * @returns the latest content, own unconfirmed writes included
   * @throws ForelockError EINVAL, EPERM (standby), EIO (never wrong data), ETIMEDOUT (a read lock was not released)
   */
  async read(offset: number, size: number): Promise<Uint8Array> {
    this.#check(offset, size, 'read');
    if (size === 0) return new Uint8Array(0);
    const pieces = await new Promise<readonly Uint8Array[]>((resolve, reject) => {
      this.#session.read(offset, size, {
        settleRead: (error, data) => (error ? reject(error) : resolve(data)),
      });
    });
    return pieces.length === 1 ? pieces[0]! : Buffer.concat(pieces);
  }

  /**
   * Resolves as the group's `ack` promises; with `fua` as a flush of this write would. The bytes may be changed after that.
   * @throws ForelockError EINVAL, EPERM, ENOSPC, EIO, ETIMEDOUT, PEER_AWAY
   */
  async write(offset: number, bytes: Uint8Array, options: { fua?: boolean } = {}): Promise<void> {
    checkBytes(bytes);
    this.#check(offset, bytes.length, 'write');
    await this.#settled((completion) =>
      this.#session.write(offset, bytes.length, [bytes], options.fua ?? false, completion),
    );
  }

  /** Resolves when every write that resolved before is as safe as the group's `ack` says. */
  async flush(): Promise<void> {
    await this.#settled((completion) => this.#session.flush(completion));
  }

  /** Gives the blocks back: they read as zeroes. Blocks covered only in part stay as they are. */
  async trim(offset: number, size: number): Promise<void> {
    this.#check(offset, size, 'trim');
    await this.#settled((completion) => this.#session.trim(offset, size, false, completion));
  }

  /** Writes zeroes without sending them. */
  async zero(offset: number, size: number): Promise<void> {
    this.#check(offset, size, 'zero');
    await this.#settled((completion) => this.#session.zero(offset, size, false, completion));
  }

  /** Allocation of [offset, offset + size). */
  extents(offset: number, size: number): DeviceExtent[] {
    this.#check(offset, size, 'extents');
    return this.#session.extents(offset, size, Number.POSITIVE_INFINITY);
  }

  /**
   * Locks an extent: mode `write` (others may read it and not write it, here and, speculatively, at the peer) resolves
   * at once when nobody here holds it; the peer is not waited for (see `Scope.confirmed`). Mode `read` (others neither
   * read nor write it, at both sites) takes a round trip; what is read under it is of one moment if `unlock` resolves.
   *
   * What is locked is written with the scope's own `write`, and read with its `read` if the mode is `read`: plain requests
   * wait for its end, this session's, too.
   *
   * @param extent whole blocks, not overlapping another open scope of this session
   * @throws LockTimeoutError, ForelockError EINVAL, EPERM, ENOSPC, ESHUTDOWN
   */
  lock(extent: ExtentBytes, options: ScopeOptions = {}): Promise<Scope> {
    return this.#session.lock(extent, options);
  }

  /** Ends the session: scopes that it left open are unlocked, and what waits for a lock is refused (ESHUTDOWN). */
  close(): void {
    this.#session.close();
  }

  #check(offset: number, size: number, what: string): void {
    const good =
      Number.isSafeInteger(offset) &&
      Number.isSafeInteger(size) &&
      offset >= 0 &&
      size >= 0 &&
      offset + size <= this.size;
    if (!good)
      throw new ForelockError(
        'EINVAL',
        `${what} of ${size} bytes at ${offset}: volume ${this.name} has ${this.size} bytes`,
      );
  }

  #settled(start: (completion: Completion) => void): Promise<void> {
    return new Promise((resolve, reject) => start({ settle: (error) => (error ? reject(error) : resolve()) }));
  }
}
