/**
 * Transactions: writes to any blocks of a group's volumes that show all at once, at both sites, or never.
 *
 *     lock*, read*, write*  ->  staged WRITE* COMMIT UNLOCK*       all in one turn
 *                           ->  UNLOCK*                            rolled back
 *
 * Each lock is a write scope as in scope.ts: its LOCK goes out at once, and others may read what stands there. What is
 * written stays in memory until the commit, so a transaction that does not come to it has written nothing. Then it goes
 * to the journal as one run that nothing of its stream comes between (journal/staged.ts), for which there must be room
 * at once. A crash may still cut a run in two, and a target may have the first half of it for a while; neither shows
 * any of it before the COMMIT.
 *
 * Where both sites write, its scopes abort on conflict, and it waits until all of them are confirmed before it writes.
 * Whether one of them lost is then known here and decided at the other site, so what is committed is never taken back,
 * and what is aborted was never written. They do not replay: each scope has a stamp of its own, so of two transactions
 * with two locks in common each could come to lie on top of the other in one place, and neither would show as a whole.
 */
import { TYPE_COMMIT, TYPE_WRITE } from '../../assembly/layout.js';
import { assert } from '../assert.js';
import { ForelockError } from '../errors.js';
import { recordSize } from '../journal/record.js';
import {
  KIB,
  PEER_ROOM_SHARE,
  TRANSACTION_BYTES_MAX,
  TRANSACTION_LOCKS_MAX,
  TRANSACTION_WRITES_MAX,
  TRANSACTIONS_MAX,
} from '../limits.js';
import type { Group } from './group.js';
import { readBytes } from './read-bytes.js';
import {
  append,
  checkBytes,
  checkExtent,
  checkRead,
  decided,
  type ExtentBytes,
  openScope,
  promise,
  type Scope,
  type ScopeOptions,
} from './scope.js';
import type { Volume } from './volume.js';

/** Largest payload of a staged record: what a turn of segment leaves unused stays small beside the smallest ring. */
const PIECE_BYTES = 64 * KIB;

/** `waitMsMax` is of each lock. */
export type TransactionOptions = Pick<ScopeOptions, 'waitMsMax'>;

interface Write {
  readonly scope: Scope;
  readonly lba: number;
  readonly bytes: Uint8Array;
}

/**
 * Runs `work` and commits what it wrote; if it throws, nothing of it was ever written.
 *
 * Others read the old data until the commit, and from then on all of the new. So does the peer, and so does whoever
 * recovers either site after any crash: all of it or nothing. Resolves with what `work` returned once the commit is as
 * safe as a write that is answered under the group's `ack`; a flush after that covers it. If it rejects, nothing of the
 * transaction is there or will be, except with PEER_AWAY, EIO or ESHUTDOWN: then it is not known, and it is all or
 * nothing all the same.
 *
 * Where both sites write, it takes a round trip to commit, and loses as a whole to a write of the other site that comes
 * before it: try again then. It is a session of its own: what the caller did in other scopes is not taken along.
 *
 * @throws LockAbortedError something that the other site wrote goes first
 * @throws LockTimeoutError its oldest lock was held for longer than SCOPE_AGE_MS_MAX
 * @throws ForelockError ENOSPC, EPERM, EIO, ESHUTDOWN, PEER_AWAY, and whatever `work` throws
 */
export async function runTransaction<T>(
  group: Group,
  work: (transaction: Transaction) => Promise<T>,
  options: TransactionOptions = {},
): Promise<T> {
  if (group.transactions >= TRANSACTIONS_MAX)
    throw new ForelockError('ENOSPC', `${TRANSACTIONS_MAX} transactions are open already in group ${group.name}`);
  const transaction = new Transaction(group, options);
  group.transactions += 1;
  try {
    const result = await work(transaction);
    await transaction.commit();
    return result;
  } finally {
    group.transactions -= 1;
    transaction.unlock(); // said as soon as it can be: not while the group is frozen
  }
}

export class Transaction {
  readonly #group: Group;
  readonly #options: TransactionOptions;
  readonly #session: number;
  readonly #scopes: Scope[] = [];
  /** Locks asked for. */
  #locks = 0;
  readonly #writes: Write[] = [];
  /** Of the records that it will need. */
  #bytes = 0;
  #state: 'open' | 'committing' | 'over' = 'open';
  /** Why it cannot be committed any more. */
  #ended: ForelockError | null = null;
  #onEnd: ((reason: ForelockError) => void) | null = null;

  constructor(group: Group, options: TransactionOptions) {
    this.#group = group;
    this.#options = options;
    this.#session = group.nextSession();
  }

  /**
   * Locks an extent for the rest of the transaction: others may read it and not write it. Two transactions that lock
   * the same extents in different orders may wait for each other, until one of them is refused.
   *
   * @param volume name, of this group
   * @param extent whole blocks, not overlapping what this transaction has locked
   * @throws LockTimeoutError, ForelockError EINVAL, EPERM, ENOSPC
   */
  async lock(volume: string, extent: ExtentBytes): Promise<void> {
    this.#check();
    if (this.#locks >= TRANSACTION_LOCKS_MAX)
      throw new ForelockError('ENOSPC', `the transaction has ${TRANSACTION_LOCKS_MAX} locks already`);
    this.#locks += 1;
    const options: ScopeOptions = { ...this.#options, onConflict: 'abort' };
    const scope = await openScope(this.#volume(volume), extent, options, this.#session);
    this.#scopes.push(scope);
    scope.onEnd = (reason) => this.#end(reason);
    if (this.#state === 'over') scope.unlock().catch(() => {}); // nobody waited for it
  }

  /**
   * Writes whole blocks that are locked, within one lock. Nothing shows before the commit, but to `read`. The bytes may
   * be changed after the call.
   *
   * @throws ForelockError EINVAL not aligned, or not locked; ENOSPC the transaction becomes too large
   */
  write(volume: string, offset: number, bytes: Uint8Array): void {
    this.#check();
    const to = this.#volume(volume);
    checkBytes(bytes);
    checkExtent(to, offset, bytes.length);
    const { blockSize, blockShift } = to;
    const from = offset / blockSize;
    const scope = this.#scopes.find((each) => each.covers(to, from, bytes.length / blockSize));
    if (scope === undefined) {
      throw new ForelockError(
        'EINVAL',
        `write of ${bytes.length} bytes at ${offset} of volume ${volume} is not within a lock of the transaction`,
      );
    }
    const pieces: Write[] = [];
    let size = this.#bytes;
    const pieceMax = Math.min(to.payloadBlocksMax * blockSize, Math.max(PIECE_BYTES, blockSize));
    for (let at = 0; at < bytes.length; at += pieceMax) {
      const piece = new Uint8Array(bytes.subarray(at, at + pieceMax)); // a copy
      pieces.push({ scope, lba: from + at / blockSize, bytes: piece });
      size += recordSize(TYPE_WRITE, piece.length / blockSize, blockShift);
    }
    const refused = refuseSize(this.#group, size, this.#writes.length + pieces.length);
    if (refused !== null) throw refused;
    this.#writes.push(...pieces);
    this.#bytes = size;
  }

  /**
   * Reads what the volume holds, with this transaction's own writes. What it has locked stays as it was read.
   * @throws ForelockError EINVAL, EPERM, EIO (never wrong data)
   */
  async read(volume: string, offset: number, size: number): Promise<Uint8Array> {
    this.#check();
    const from = this.#volume(volume);
    const refused = this.#group.refuseRead();
    if (refused !== null) throw refused;
    checkRead(from, offset, size);
    const pieces = await new Promise<readonly Uint8Array[]>((resolve, reject) => {
      readBytes(this.#group, from.map, from, offset, size, {
        settleRead: (error, data) => (error ? reject(error) : resolve(data)),
      });
    });
    const found = Buffer.concat(pieces);
    for (const { scope, lba, bytes } of this.#writes) {
      if (scope.volume !== from) continue;
      const at = lba * from.blockSize;
      const begin = Math.max(at, offset);
      const end = Math.min(at + bytes.length, offset + size);
      if (begin < end) found.set(bytes.subarray(begin - at, end - at), begin - offset);
    }
    return found;
  }

  /** Once, by runTransaction. */
  async commit(): Promise<void> {
    this.#check();
    this.#state = 'committing';
    if (this.#writes.length === 0) return;
    const group = this.#group;
    const { journal } = group;
    if (group.role === 'dual') await this.#decided();
    let promised: Promise<void> | null = null;
    await append(this.#scopes[0]!.volume, () => {
      const late = this.#ended ?? group.refuseWrite();
      if (late !== null) return late;
      // the peer may have come with a smaller journal: nobody is to wait behind what never has room
      const refused = refuseSize(group, this.#bytes, this.#writes.length);
      if (refused !== null) return refused;
      const room = journal.roomForAll(this.#recordSizes());
      if (room < 0) return room;
      for (const { scope, lba, bytes } of this.#writes) {
        const staged = scope.appendStaged(lba, bytes);
        assert(staged > 0, 'a transaction asks for its room before');
      }
      const count = this.#writes.length;
      const first = this.#scopes[0]!.sequence;
      const at = journal.reserve(TYPE_COMMIT, 0, 0, 0, count, 0, this.#session, first, journal.peer.appended);
      assert(at >= 0, 'a COMMIT finds room behind its writes');
      const sequence = journal.publish();
      // in the same turn: promises are made in the order of the stream
      if (group.writeAck !== 'local') promised = promise(this.#scopes[0]!.volume, sequence);
      return sequence;
    });
    await promised;
  }

  /** Gives back what it has locked. What cannot be said now (ENOSPC) is said for it when its locks are too old. */
  unlock(): void {
    this.#state = 'over';
    for (const scope of this.#scopes) scope.unlock().catch(() => {});
  }

  /** The other site has decided on all its locks, and none of them lost. */
  async #decided(): Promise<void> {
    if (this.#ended !== null) throw this.#ended;
    const ended = new Promise<never>((_, reject) => {
      this.#onEnd = reject;
    });
    await Promise.race([decided(this.#group, this.#scopes), ended]);
  }

  /** Of the run, in its order. */
  #recordSizes(): number[] {
    const sizes = this.#writes.map(({ scope: { volume }, bytes }) =>
      recordSize(TYPE_WRITE, bytes.length / volume.blockSize, volume.blockShift),
    );
    sizes.push(recordSize(TYPE_COMMIT, 0, 0));
    return sizes;
  }

  #end(reason: ForelockError): void {
    this.#ended ??= reason;
    this.#onEnd?.(reason);
  }

  #check(): void {
    if (this.#ended !== null) throw this.#ended;
    if (this.#state !== 'open') throw new ForelockError('EINVAL', 'the transaction is over');
  }

  /** @throws ForelockError EINVAL */
  #volume(name: string): Volume {
    for (const volume of this.#group.volumes.values()) if (volume.name === name) return volume;
    throw new ForelockError('EINVAL', `group ${this.#group.name} has no volume ${JSON.stringify(name)}`);
  }
}

/**
 * Why a transaction of so many bytes of journal records in so many writes cannot be had, or null. An eighth of the ring:
 * the run, and what #admit adds to it, must find room in it at once. Where both sites write, it must at the peer as well.
 */
function refuseSize(group: Group, size: number, writes: number): ForelockError | null {
  const { journal, order } = group;
  const both = order === null ? Number.POSITIVE_INFINITY : journal.room.limit / PEER_ROOM_SHARE / 2;
  const here = Math.min(TRANSACTION_BYTES_MAX, journal.ringSize / 8, both);
  const there = order === null ? Number.POSITIVE_INFINITY : group.sender!.hostRoomMost / 2;
  if (size <= Math.min(here, there) && writes <= TRANSACTION_WRITES_MAX) return null;
  const why =
    there < here
      ? ": the other site's journal takes no more at once; write less in one, or give that a larger --journal"
      : '';
  return new ForelockError(
    'ENOSPC',
    `a transaction of group ${group.name} has at most ${Math.floor(Math.min(here, there))} bytes in ${TRANSACTION_WRITES_MAX} writes${why}`,
  );
}
