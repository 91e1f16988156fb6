/**
 * Explicit scopes: one lock over an extent, several writes, one unlock.
 *
 * A write lock is speculative: it is granted by this site's range lock alone, its LOCK record goes out at once, and the
 * writes follow without waiting. `confirmed` tells when the peer really had it. A read lock waits for that.
 */
import { types } from 'node:util';
import {
  FLAG_ABORT_ON_CONFLICT,
  FLAG_READ_LOCK,
  FLAG_STAGED,
  TYPE_LOCK,
  TYPE_UNLOCK,
  TYPE_WRITE,
} from '../../assembly/layout.js';
import { ForelockError, LockAbortedError, LockTimeoutError } from '../errors.js';
import { NO_SPACE, RING_FULL } from '../journal/journal.js';
import { LOCK_WAIT_MS_MAX } from '../limits.js';
import type { ScopeKind } from '../mirror/conflict.js';
import type { Group } from './group.js';
import type { LockRequest } from './locks.js';
import { type Opening, sessionClosed } from './own-scopes.js';
import { readBytes } from './read-bytes.js';
import type { Volume } from './volume.js';

/** While the other site's decision is awaited, whether the group is frozen for long is looked at this often. */
const FROZEN_LOOK_MS = 1000;

export interface ExtentBytes {
  /** Bytes, multiples of the volume's block size. */
  offset: number;
  size: number;
}

export interface ScopeOptions {
  /**
   * `write` (the default): others may read the extent and not write it. `read`: others may do neither, at both sites,
   * and the scope writes nothing (it reads with its own `read`); it is not speculative, so opening it takes a round trip and until all that is on its
   * way to the extent has come. What it read is of one moment if its `unlock` resolves.
   */
  mode?: 'write' | 'read';
  /**
   * What becomes of a write scope that meets one of the other site, where both sites write. `replay` (the default): its
   * writes go on top. `abort`: it is lost whole, with everything its session wrote on top of it, and `confirmed`
   * rejects. What another session read of it without a lock is not taken back.
   */
  onConflict?: 'replay' | 'abort';
  /** Longest wait for the lock, milliseconds, 0..LOCK_WAIT_MS_MAX (the default). */
  waitMsMax?: number;
}

/**
 * Locks an extent and opens a scope over it.
 *
 * @param session of the host: what it does in one scope may depend on what it did in another
 * @throws LockTimeoutError another holder kept it, at this site or (mode read) at the other; or SCOPES_MAX are open
 * @throws ForelockError EINVAL extent not aligned, outside the volume or overlapping an open scope of this session; EPERM, ENOSPC;
 *                       ESHUTDOWN the session or the gateway was closed meanwhile
 */
export function openScope(
  volume: Volume,
  extent: ExtentBytes,
  options: ScopeOptions = {},
  session = volume.group.nextSession(),
): Promise<Scope> {
  return volume.group.scopes.opening(volume, session, (opening) => open(opening, extent, options));
}

async function open(opening: Opening, extent: ExtentBytes, options: ScopeOptions): Promise<Scope> {
  const { volume, session } = opening;
  const { group } = volume;
  checkOptions(options);
  checkExtent(volume, extent.offset, extent.size);
  if (group.refuseWrite() !== null) await new Promise<void>((resolve) => group.hold(resolve) || resolve());
  const refused = group.refuseWrite();
  if (refused !== null) throw refused;
  const lba = extent.offset / volume.blockSize;
  const blockCount = extent.size / volume.blockSize;
  for (const open of group.scopes.held.values()) {
    if (open.session === session && open.overlaps(volume, lba, blockCount)) {
      throw new ForelockError('EINVAL', `blocks ${lba}+${blockCount} overlap an open scope of this session`);
    }
  }
  const deadline = group.nowMs() + Math.min(Math.max(0, options.waitMsMax ?? LOCK_WAIT_MS_MAX), LOCK_WAIT_MS_MAX);
  const ask = (kind: ScopeKind): Promise<Scope> => begin(opening, kind, lba, blockCount, deadline);
  if (options.mode !== 'read') return ask(options.onConflict ?? 'replay');
  for (;;) {
    const scope = await ask('read');
    try {
      await untilReadable(scope, deadline);
      return scope;
    } catch (error) {
      // an earlier read lock of the other site: this one is asked for again, and waits for that
      if (!(error instanceof LockAbortedError)) throw error;
    }
  }
}

async function begin(
  opening: Opening,
  kind: ScopeKind,
  lba: number,
  blockCount: number,
  deadline: number,
): Promise<Scope> {
  const { volume, session } = opening;
  const { group } = volume;
  const mode = kind === 'read' ? 'read' : 'write';
  if (opening.ended !== null) throw opening.ended;
  const lock = await acquire(volume, mode, lba, blockCount, deadline, opening);
  // from here on the mirror passes it: which of the two goes first is judged by their records (mirror/conflict.ts)
  lock.streamed = true;
  const flags = { read: FLAG_READ_LOCK, abort: FLAG_ABORT_ON_CONFLICT, replay: 0 }[kind];
  try {
    for (;;) {
      await group.scopes.whenAdmitted(opening, lba, blockCount, kind, deadline);
      try {
        const opened = await append<Scope | number>(volume, () => {
          const late = group.refuseWrite() ?? opening.ended;
          if (late !== null) return late;
          // the lease may have ended while this waited: by now somebody else may have the blocks
          if (lock.state !== 'held') {
            return new LockTimeoutError(
              `volume ${volume.name}: blocks ${lba}+${blockCount} were given to the other site while the scope waited to be opened`,
            );
          }
          // no more, now that there is room: it waits for that elsewhere, or all hosts would wait behind it
          if (!group.scopes.admits(session, volume, lba, blockCount, kind)) return 0;
          const sequence = volume.appendScoped(TYPE_LOCK, flags, session, 0, lba, blockCount, null);
          if (sequence < 0) return sequence;
          // in the same turn: a stop or a checkpoint must not miss a LOCK that is in the stream
          const opened = new Scope(volume, mode, lock, sequence, session);
          group.scopes.opened(sequence, volume.number, opened);
          return opened;
        });
        if (opened instanceof Scope) return opened;
      } finally {
        group.scopes.leavePlace();
      }
    }
  } catch (error) {
    volume.locks.release(lock);
    group.locksMoved();
    throw error;
  }
}

/**
 * A read lock is had once the peer has granted it, all that the peer had sent by then is in the image here, and nothing
 * of it will be taken out again, here or there.
 */
async function untilReadable(scope: Scope, deadline: number): Promise<void> {
  const { group } = scope.volume;
  let late = false;
  let waitNoMore = (): void => {};
  const ended = new Promise<void>((resolve) => {
    waitNoMore = group.scopes.at(deadline, () => {
      late = true;
      resolve();
    });
  });
  const granted = scope.confirmed
    .then(() => group.mirror.whenPeerApplied())
    .then(() => group.scopes.whenReadable(scope, deadline));
  try {
    await Promise.race([granted, ended]);
  } catch (error) {
    if (scope.ended === null) await scope.unlock();
    throw error;
  } finally {
    waitNoMore(); // its deadline may be far away, and is looked at whenever the peer moves
  }
  if (scope.ended !== null) throw scope.ended;
  if (!late) return;
  await scope.unlock();
  throw new LockTimeoutError(
    `volume ${scope.volume.name}: the read lock was not confirmed by the other site in time; what it needs is locked there, or the link is slow or down`,
  );
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
  const deadline = volume.group.nowMs() + Math.min(Math.max(0, waitMsMax), LOCK_WAIT_MS_MAX);
  return acquire(volume, mode, extent.offset / volume.blockSize, extent.size / volume.blockSize, deadline);
}

export class Scope {
  readonly volume: Volume;
  readonly mode: 'write' | 'read';
  /** Sequence of the LOCK record: the scope's number in the stream. */
  readonly sequence: number;
  /** Of the host that opened it. */
  readonly session: number;
  readonly openedAt: number;
  /**
   * Resolves when the peer granted the lock; where both sites write, nothing can take the scope back then. Rejects with
   * LockAbortedError when an `abort` scope lost, and with ESHUTDOWN when the gateway stops before.
   */
  readonly confirmed: Promise<void>;
  readonly #lock: LockRequest;
  /** Of the LOCK's stamp: all the scope's writes have it. */
  readonly #clock: number;
  #open = true;
  /** Writes that are not in the journal yet, or not to their last record; and who waits for that. */
  #writing = 0;
  readonly #whenWritten: (() => void)[] = [];
  /** Why the scope was ended by somebody else. */
  #ended: ForelockError | null = null;
  /** Of the transaction that it belongs to: told when somebody else ends it. */
  onEnd: ((reason: ForelockError) => void) | null = null;

  constructor(volume: Volume, mode: 'write' | 'read', lock: LockRequest, sequence: number, session: number) {
    this.volume = volume;
    this.mode = mode;
    this.#lock = lock;
    this.sequence = sequence;
    this.session = session;
    this.openedAt = volume.group.nowMs();
    this.#clock = volume.group.journal.stamp;
    this.confirmed = volume.group.mirror.whenGranted(sequence);
    this.confirmed.catch(() => {}); // whoever does not ask is not told
    lock.context = () =>
      volume.group.scopes.end(
        sequence,
        new LockTimeoutError('the scope was ended: the other site needed its blocks, and its lease was over'),
      );
  }

  /** Why it is no more, if somebody else ended it. */
  get ended(): ForelockError | null {
    return this.#ended;
  }

  overlaps(volume: Volume, lba: number, blockCount: number): boolean {
    return volume === this.volume && lba < this.#lock.end && lba + blockCount > this.#lock.lba;
  }

  /** The group ended it: it stops, the scope was too old, its session went away, or it was aborted. */
  end(reason: ForelockError): void {
    if (this.#ended !== null) return;
    this.#ended = reason;
    this.volume.locks.release(this.#lock);
    this.volume.group.locksMoved();
    this.onEnd?.(reason);
  }

  /** Of a read lock that the peer has granted: will nothing of what shows under it be taken out, here or there? */
  get isReadable(): boolean {
    const { lba, end } = this.#lock;
    const { order } = this.volume.group;
    return order === null || order.conflicts.isReadable(this.volume.number, lba, end - lba);
  }

  /** Is it not unlocked, and are all these blocks its own? */
  covers(volume: Volume, lba: number, blockCount: number): boolean {
    const { lba: from, end } = this.#lock;
    return volume === this.volume && this.#open && lba >= from && lba + blockCount <= end;
  }

  /** Appends a write that shows at the COMMIT of its transaction (transaction.ts). @returns its sequence */
  appendStaged(lba: number, bytes: Uint8Array): number {
    const { volume } = this;
    const blockCount = bytes.length / volume.blockSize;
    return volume.appendScoped(
      TYPE_WRITE,
      FLAG_STAGED,
      this.session,
      this.sequence,
      lba,
      blockCount,
      bytes,
      this.#clock,
    );
  }

  /** Writes whole blocks within the scope's extent; resolves as any write of the group does. */
  async write(offset: number, bytes: Uint8Array): Promise<void> {
    checkBytes(bytes);
    this.#check(offset, bytes.length);
    this.#writing += 1;
    const promised = await this.#append(offset, bytes).finally(() => {
      this.#writing -= 1;
      if (this.#writing === 0) for (const resolve of this.#whenWritten.splice(0)) resolve();
    });
    await promised();
  }

  /** @returns once all its records are in: what resolves as the group promises */
  async #append(offset: number, bytes: Uint8Array): Promise<() => Promise<void>> {
    const { volume } = this;
    const { group, blockSize } = volume;
    const pieceMax = volume.payloadBlocksMax * blockSize;
    let promised = Promise.resolve();
    for (let at = 0; at < bytes.length; at += pieceMax) {
      const piece = bytes.subarray(at, Math.min(at + pieceMax, bytes.length));
      const last = at + piece.length === bytes.length;
      const listable = group.scopes.whenListable(this);
      if (listable !== null) await listable;
      await append(volume, () => {
        // a stop ends all scopes: what came behind its UNLOCK would belong to none
        const late = this.#ended ?? group.refuseWrite();
        if (late !== null) return late;
        if (!group.scopes.open.has(this.sequence)) return unlocked();
        const sequence = volume.appendScoped(
          TYPE_WRITE,
          0,
          this.session,
          this.sequence,
          (offset + at) / blockSize,
          piece.length / blockSize,
          piece,
          this.#clock,
        );
        // in the same turn: promises are made in the order of the stream
        if (sequence > 0 && last && group.writeAck !== 'local') promised = promise(volume, sequence);
        return sequence;
      });
    }
    return () => promised;
  }

  /**
   * Reads within the volume; the scope's own writes are seen at once.
   *
   * @param offset bytes, any alignment; offset + size <= volume size
   * @param size   bytes, at least 1
   * @throws ForelockError EINVAL, EIO, EPERM, PEER_AWAY; or why the scope was ended: what it shows by then is not of its lock
   */
  read(offset: number, size: number): Promise<Uint8Array> {
    const { volume } = this;
    const { group } = volume;
    return new Promise((resolve, reject) => {
      checkRead(volume, offset, size);
      const refused = group.refuseRead();
      if (refused !== null) {
        const again = (): void => void this.read(offset, size).then(resolve, reject);
        if (!group.hold(again)) reject(refused);
        return;
      }
      readBytes(volume.group, volume.map, volume, offset, size, {
        settleRead: (error, data) => {
          const late = this.#ended ?? error; // not before: it may end while the disk is read
          if (late !== null) reject(late);
          else resolve(data.length === 1 ? data[0]! : Buffer.concat(data));
        },
      });
    });
  }

  /**
   * Ends the scope once all its writes are in, and others may lock the extent. Calling it again does nothing.
   *
   * @throws ForelockError ENOSPC the scope is still open: try again; of a read lock, why it had ended before: what was
   *                       read may be of more than one moment
   */
  async unlock(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    // behind all records of its writes, of which some may wait for room
    if (this.#writing > 0) await new Promise<void>((resolve) => this.#whenWritten.push(resolve));
    const { volume } = this;
    const { group } = volume;
    const attempt = (): number | ForelockError => {
      if (this.#ended !== null || group.ended !== null) return 0;
      // held as a request is: the preferred site goes on alone for it
      if (group.frozen) return group.frozenOut === null ? (group.refuseRead() ?? RING_FULL) : RING_FULL;
      const sequence = volume.appendScoped(TYPE_UNLOCK, 0, this.session, this.sequence, 0, 0, null);
      if (sequence > 0) group.scopes.closed(this.sequence, sequence);
      return sequence;
    };
    // not behind other hosts, who may wait for it
    await append<number>(volume, attempt, true).catch((error) => {
      this.#open = true;
      throw error;
    });
    volume.locks.release(this.#lock);
    group.locksMoved();
    if (this.mode === 'read' && this.#ended !== null) throw this.#ended;
  }

  #check(offset: number, size: number): void {
    if (this.#ended !== null) throw this.#ended;
    if (!this.#open) throw unlocked();
    if (this.mode === 'read')
      throw new ForelockError('EINVAL', 'a read lock keeps others out and writes nothing itself');
    checkExtent(this.volume, offset, size);
    const { blockSize } = this.volume;
    const lba = offset / blockSize;
    if (lba < this.#lock.lba || lba + size / blockSize > this.#lock.end) {
      throw new ForelockError(
        'EINVAL',
        `write of ${size} bytes at ${offset} lies outside the scope (blocks ${this.#lock.lba}..${this.#lock.end})`,
      );
    }
  }
}

function unlocked(): ForelockError {
  return new ForelockError('EINVAL', 'the scope is unlocked already');
}

/** What a program without types may give as a payload: a text, or elements of several bytes, would be written as something else. */
export function checkBytes(bytes: Uint8Array): void {
  if (types.isUint8Array(bytes)) return;
  const given = Object.prototype.toString.call(bytes).slice('[object '.length, -1);
  throw new ForelockError('EINVAL', `what is written must be a Uint8Array, or a Buffer, and not ${given}`);
}

/** A word that is none would be another mode, and a wait that is no number would have no end. */
function checkOptions({ mode = 'write', onConflict = 'replay', waitMsMax = 0 }: ScopeOptions): void {
  if (mode !== 'write' && mode !== 'read')
    throw new ForelockError('EINVAL', `mode ${JSON.stringify(mode)} is not write or read`);
  if (onConflict !== 'replay' && onConflict !== 'abort')
    throw new ForelockError('EINVAL', `onConflict ${JSON.stringify(onConflict)} is not replay or abort`);
  if (typeof waitMsMax !== 'number' || Number.isNaN(waitMsMax))
    throw new ForelockError('EINVAL', `waitMsMax ${JSON.stringify(waitMsMax)} is not a number of milliseconds`);
}

export function checkExtent(volume: Volume, offset: number, size: number): void {
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

/** Of a read under a lock: any alignment, within the volume. */
export function checkRead(volume: Volume, offset: number, size: number): void {
  const good = Number.isSafeInteger(offset) && Number.isSafeInteger(size) && offset >= 0 && size > 0;
  if (!good || offset + size > volume.size) {
    throw new ForelockError(
      'EINVAL',
      `read of ${size} bytes at ${offset}: volume ${volume.name} has ${volume.size} bytes`,
    );
  }
}

/**
 * Takes a lock under a session number of its own: plain requests of the host that asks do not pass it (see locks.ts).
 * @param deadline ms of the group's clock
 */
function acquire(
  volume: Volume,
  mode: 'read' | 'write',
  lba: number,
  blockCount: number,
  deadline: number,
  opening: Opening | null = null,
): Promise<LockRequest> {
  const { group } = volume;
  const request = volume.locks.request('scope', mode, lba, blockCount, group.nextSession(), deadline);
  if (request === null) throw new LockTimeoutError('too many requests already wait for locks on this volume');
  if (opening !== null) opening.lock = request;
  if (request.state === 'held') return Promise.resolve(request);
  return new Promise((resolve, reject) => {
    request.context = (ended: LockRequest) => {
      if (ended.state === 'held') {
        ended.context = null;
        resolve(ended);
      } else if (ended.state === 'released') reject(group.refuseRead() ?? sessionClosed());
      else
        reject(
          new LockTimeoutError(
            `volume ${volume.name}: blocks ${lba}+${blockCount} stayed locked by another holder until the wait's end`,
          ),
        );
    };
  });
}

/** A write's answer, when the group promises it. */
export function promise(volume: Volume, sequence: number): Promise<void> {
  return new Promise((resolve, reject) => {
    volume.group.promise(sequence, volume.group.level(false), {
      settle: (error) => (error ? reject(error) : resolve()),
    });
  });
}

/**
 * Resolves once the other site has decided on these scopes, and none of them lost. In a frozen group that is waited for
 * as a request is: the preferred site goes on alone for it, and elsewhere it ends after FREEZE_HOLD_MS.
 *
 * @throws LockAbortedError, ForelockError PEER_AWAY
 */
export async function decided(group: Group, scopes: readonly Scope[]): Promise<void> {
  let over = false;
  let lookNoMore = (): void => {};
  const frozenOut = new Promise<never>((_, reject) => {
    const look = (): void => {
      if (over) return;
      if (group.frozenOut !== null) reject(group.frozenOut);
      else if (!group.hold(look)) lookNoMore = group.scopes.at(group.nowMs() + FROZEN_LOOK_MS, look);
    };
    look();
  });
  try {
    await Promise.race([Promise.all(scopes.map((scope) => scope.confirmed)), frozenOut]);
  } finally {
    over = true;
    lookNoMore();
  }
}

/**
 * Appends as soon as there is room.
 * @param attempt     what was appended (0: nothing any more), RING_FULL, NO_SPACE or a refusal
 * @param beforeHosts it ends what others may wait for
 */
export function append<T extends number | Scope>(
  volume: Volume,
  attempt: () => T | number | ForelockError,
  beforeHosts = false,
): Promise<T> {
  const { group } = volume;
  return new Promise((resolve, reject) => {
    const tried = (): boolean => {
      const result = attempt();
      if (result === RING_FULL) return false;
      if (result instanceof ForelockError) {
        const again = (): void => void append(volume, attempt, beforeHosts).then(resolve, reject);
        if (!group.hold(again)) reject(result);
      } else if (result === NO_SPACE) reject(new ForelockError('ENOSPC', group.journal.noSpaceText));
      else resolve(result as T);
      return true;
    };
    if (beforeHosts) group.beforeHosts(tried);
    else group.whenRoom(tried);
  });
}
