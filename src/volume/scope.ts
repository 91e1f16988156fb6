/**
 * Explicit write scopes: one lock over an extent, several writes, one unlock.
 *
 * The lock is speculative: it is granted by this site's range lock alone, its LOCK record goes out at once, and the
 * writes follow without waiting. `confirmed` tells when the peer really had it.
 */
import { TYPE_LOCK, TYPE_UNLOCK, TYPE_WRITE } from '../../assembly/layout.js';
import { ForelockError } from '../errors.js';
import { NO_SPACE, RING_FULL } from '../journal/journal.js';
import { LOCK_WAIT_MS_MAX, SCOPES_MAX } from '../limits.js';
import { ackLevel } from './gate.js';
import type { LockRequest } from './locks.js';
import { readBytes, type Volume } from './volume.js';

export interface ExtentBytes {
  /** Bytes, multiples of the volume's block size. */
  offset: number;
  size: number;
}

export interface ScopeOptions {
  /** Longest wait for this site's lock, milliseconds, 0..LOCK_WAIT_MS_MAX (the default). */
  waitMsMax?: number;
}

/**
 * Locks an extent for writing and opens a scope over it.
 *
 * @throws ForelockError EINVAL extent not aligned or outside the volume; ETIMEDOUT another holder kept it; EPERM, ENOSPC
 */
export async function openScope(volume: Volume, extent: ExtentBytes, options: ScopeOptions = {}): Promise<Scope> {
  checkExtent(volume, extent.offset, extent.size);
  if (volume.group.refuseWrite() !== null)
    await new Promise<void>((resolve) => volume.group.hold(resolve) || resolve());
  const refused = volume.group.refuseWrite();
  if (refused !== null) throw refused;
  if (volume.group.ownScopes.size >= SCOPES_MAX)
    throw new ForelockError('ETIMEDOUT', `${SCOPES_MAX} scopes are open already: unlock some`);
  const lba = extent.offset / volume.blockSize;
  const blockCount = extent.size / volume.blockSize;
  const lock = await acquire(volume, 'write', lba, blockCount, options.waitMsMax ?? LOCK_WAIT_MS_MAX);
  const sequence = await append(volume, () => {
    const late = volume.group.refuseWrite();
    if (late !== null) return late;
    const appended = volume.appendScoped(TYPE_LOCK, 0, lock.session, 0, lba, blockCount, null);
    // in the same turn: a stop or a checkpoint must not miss a LOCK that is in the stream
    if (appended > 0) volume.group.scopeOpened(appended, volume.number);
    return appended;
  }).catch((error) => {
    volume.locks.release(lock);
    volume.group.locksMoved();
    throw error;
  });
  return new Scope(volume, lock, sequence);
}

/**
 * Holds this site's range lock without a record in the stream: what `forelock lock` and backup jobs use. At a standby
 * the mirror's writes to the extent wait for it, within the lease of LOCK_WAIT_MS_MAX.
 */
export async function holdLock(
  volume: Volume,
  mode: 'read' | 'write',
  extent: ExtentBytes,
  waitMsMax: number,
): Promise<LockRequest> {
  checkExtent(volume, extent.offset, extent.size);
  return acquire(volume, mode, extent.offset / volume.blockSize, extent.size / volume.blockSize, waitMsMax);
}

export class Scope {
  readonly volume: Volume;
  /** Sequence of the LOCK record: the scope's number in the stream. */
  readonly sequence: number;
  /** Resolves when the peer granted the lock (and rejects when the gateway stops before). */
  readonly confirmed: Promise<void>;
  readonly #lock: LockRequest;
  #open = true;

  constructor(volume: Volume, lock: LockRequest, sequence: number) {
    this.volume = volume;
    this.#lock = lock;
    this.sequence = sequence;
    this.confirmed = volume.group.mirror.whenGranted(sequence);
    this.confirmed.catch(() => {}); // whoever does not ask is not told
  }

  /** Writes whole blocks within the scope's extent; resolves as any write of the group does. */
  async write(offset: number, bytes: Uint8Array): Promise<void> {
    this.#check(offset, bytes.length);
    const { volume } = this;
    const { group, blockSize } = volume;
    const pieceMax = volume.payloadBlocksMax * blockSize;
    let promised: Promise<void> | null = null;
    for (let at = 0; at < bytes.length; at += pieceMax) {
      const piece = bytes.subarray(at, Math.min(at + pieceMax, bytes.length));
      const last = at + piece.length === bytes.length;
      await append(volume, () => {
        // a stop ends all scopes: what came behind its UNLOCK would belong to none
        const late = group.refuseWrite() ?? this.#ended();
        if (late !== null) return late;
        const sequence = volume.appendScoped(
          TYPE_WRITE,
          0,
          this.#lock.session,
          this.sequence,
          (offset + at) / blockSize,
          piece.length / blockSize,
          piece,
        );
        // in the same turn: promises are made in the order of the stream
        if (sequence > 0 && last && group.writeAck !== 'local') promised = promise(volume, sequence);
        return sequence;
      });
    }
    await promised;
  }

  /** Reads within the volume; the scope's own writes are seen at once. */
  read(offset: number, size: number): Promise<Uint8Array> {
    const { volume } = this;
    return new Promise((resolve, reject) => {
      readBytes(volume.group, volume.map, volume, offset, size, {
        settleRead: (error, data) =>
          error ? reject(error) : resolve(data.length === 1 ? data[0]! : Buffer.concat(data)),
      });
    });
  }

  /**
   * Ends the scope: others may lock the extent. Calling it again does nothing.
   *
   * @throws ForelockError ENOSPC the scope is still open: try again
   */
  async unlock(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    const { volume } = this;
    const { group } = volume;
    await append(volume, () => {
      if (this.#ended() !== null || group.ended !== null) return 0;
      const sequence = volume.appendScoped(TYPE_UNLOCK, 0, this.#lock.session, this.sequence, 0, 0, null);
      if (sequence > 0) group.scopeClosed(this.sequence, sequence);
      return sequence;
    }).catch((error) => {
      this.#open = true;
      throw error;
    });
    volume.locks.release(this.#lock);
    group.locksMoved();
  }

  /** The group has ended the scope, because it stops. */
  #ended(): ForelockError | null {
    if (this.volume.group.ownScopes.has(this.sequence)) return null;
    return new ForelockError('ESHUTDOWN', 'the gateway is stopping: the scope was ended');
  }

  #check(offset: number, size: number): void {
    if (!this.#open) throw new ForelockError('EINVAL', 'the scope is unlocked already');
    checkExtent(this.volume, offset, size);
    const { blockSize } = this.volume;
    const lba = offset / blockSize;
    if (lba < this.#lock.lba || lba + size / blockSize > this.#lock.end) {
      throw new ForelockError(
        'EINVAL',
        `write of ${size} bytes at ${offset} lies outside the scope (blocks ${this.#lock.lba}..${this.#lock.end})`,
      );
    }
    const refused = this.volume.group.refuseWrite();
    if (refused !== null) throw refused;
  }
}

function checkExtent(volume: Volume, offset: number, size: number): void {
  const good =
    Number.isSafeInteger(offset) &&
    Number.isSafeInteger(size) &&
    offset >= 0 &&
    size > 0 &&
    offset % volume.blockSize === 0 &&
    size % volume.blockSize === 0 &&
    offset + size <= volume.size;
  if (!good) {
    throw new ForelockError(
      'EINVAL',
      `extent at ${offset}, ${size} bytes: must be whole blocks of ${volume.blockSize} bytes within volume ${volume.name} (${volume.size} bytes)`,
    );
  }
}

function acquire(
  volume: Volume,
  mode: 'read' | 'write',
  lba: number,
  blockCount: number,
  waitMsMax: number,
): Promise<LockRequest> {
  const { group } = volume;
  const wait = Math.min(Math.max(0, waitMsMax), LOCK_WAIT_MS_MAX);
  const request = volume.locks.request('scope', mode, lba, blockCount, group.nextSession(), group.nowMs() + wait);
  if (request === null) throw new ForelockError('ETIMEDOUT', 'too many requests already wait for locks on this volume');
  if (request.state === 'held') return Promise.resolve(request);
  return new Promise((resolve, reject) => {
    request.context = (ended: LockRequest) => {
      if (ended.state === 'held') {
        ended.context = null;
        resolve(ended);
      } else
        reject(
          new ForelockError(
            'ETIMEDOUT',
            `volume ${volume.name}: blocks ${lba}+${blockCount} stayed locked by another holder for ${wait} ms`,
          ),
        );
    };
  });
}

/** A write's answer, when the group promises it. */
function promise(volume: Volume, sequence: number): Promise<void> {
  return new Promise((resolve, reject) => {
    volume.group.promise(sequence, ackLevel(volume.group.writeAck, false), {
      settle: (error) => (error ? reject(error) : resolve()),
    });
  });
}

/** Appends as soon as there is room. @param attempt a sequence (0: nothing to append any more), RING_FULL, NO_SPACE or a refusal */
function append(volume: Volume, attempt: () => number | ForelockError): Promise<number> {
  return new Promise((resolve, reject) => {
    volume.group.whenRoom(() => {
      const result = attempt();
      if (result === RING_FULL) return false;
      if (result instanceof ForelockError) reject(result);
      else if (result === NO_SPACE) reject(new ForelockError('ENOSPC', 'the disk or the journal is full'));
      else resolve(result);
      return true;
    });
  });
}
