/**
 * The write path of a volume, on one screen: admit, lock locally, append to the journal, promise.
 *
 *     write -> locked here? -> room in the ring? -> copied once, published -> answered when the promise is met
 *
 * Sealing, persisting and sending start by themselves from what was published (journal/, sender.ts).
 */
import { RECORD_BLOCKS_MAX, RECORD_PAYLOAD_MAX, TYPE_TRIM, TYPE_WRITE, TYPE_ZERO } from '../../assembly/layout.js';
import { assert } from '../assert.js';
import { ForelockError, LockAbortedError } from '../errors.js';
import { NO_SPACE, RING_FULL } from '../journal/journal.js';
import type { BlockMap } from '../journal/map.js';
import { recordSize } from '../journal/record.js';
import { copyBytes } from '../kernel/memory.js';
import { LOCK_WAIT_MS_MAX } from '../limits.js';
import type { Completion, DeviceExtent, ReadCompletion } from './device.js';
import type { Group } from './group.js';
import type { LockRequest, RangeLocks } from './locks.js';
import { sessionClosed } from './own-scopes.js';
import { readBytes } from './read-bytes.js';
import { decided, openScope } from './scope.js';

/** ZERO and TRIM carry no payload; their block count is a u32. */
const BARE_BLOCKS_MAX = 2 ** 31;

/** What a host operation that waits for a lock is woken with. */
type LockWait = (request: LockRequest) => void;

export interface VolumeOptions {
  number: number;
  name: string;
  size: number;
  blockSize: number;
  platter: 'journal' | 'flat';
  map: BlockMap;
  locks: RangeLocks;
}

export class Volume {
  readonly group: Group;
  readonly number: number;
  readonly name: string;
  readonly size: number;
  readonly blockSize: number;
  readonly blockShift: number;
  readonly platter: 'journal' | 'flat';
  readonly map: BlockMap;
  readonly locks: RangeLocks;
  readonly counters = {
    reads: 0,
    writes: 0,
    flushes: 0,
    trims: 0,
    zeroes: 0,
    bytesRead: 0,
    bytesWritten: 0,
    lockWaits: 0,
    lockTimeouts: 0,
  };
  /** Blocks of one record with payload; a larger host write becomes several records under one local grant. */
  readonly payloadBlocksMax: number;

  constructor(group: Group, options: VolumeOptions) {
    this.group = group;
    this.number = options.number;
    this.name = options.name;
    this.size = options.size;
    this.blockSize = options.blockSize;
    this.blockShift = Math.log2(options.blockSize);
    this.platter = options.platter;
    this.map = options.map;
    this.locks = options.locks;
    assert(Number.isInteger(this.blockShift), 'block size is a power of two');
    this.payloadBlocksMax = Math.min(RECORD_BLOCKS_MAX, RECORD_PAYLOAD_MAX >> this.blockShift);
  }

  // ---- host operations; `session` is the host connection's number

  write(
    session: number,
    offset: number,
    size: number,
    payload: readonly Uint8Array[],
    fua: boolean,
    completion: Completion,
  ): void {
    const refused = this.group.refuseWrite();
    if (refused !== null) {
      const kept = joined(payload, size); // it may have to wait, and the payload was lent for this call
      return this.#refuse(refused, completion, () => this.write(session, offset, size, kept, fua, completion));
    }
    if (size === 0) return this.group.settleSoon(completion, null);
    this.counters.writes += 1;
    this.counters.bytesWritten += size;
    const aligned = offset % this.blockSize === 0 && size % this.blockSize === 0;
    if (!aligned) return this.#writePartial(session, offset, size, joined(payload, size), fua, completion);
    this.#admit(session, TYPE_WRITE, offset / this.blockSize, size / this.blockSize, payload, fua, completion);
  }

  trim(session: number, offset: number, size: number, fua: boolean, completion: Completion): void {
    const refused = this.group.refuseWrite();
    if (refused !== null)
      return this.#refuse(refused, completion, () => this.trim(session, offset, size, fua, completion));
    this.counters.trims += 1;
    // a trim is advice: blocks that are covered only in part stay as they are
    const lba = Math.ceil(offset / this.blockSize);
    const end = Math.floor((offset + size) / this.blockSize);
    if (end <= lba) return this.group.settleSoon(completion, null);
    this.#admit(session, TYPE_TRIM, lba, end - lba, null, fua, completion);
  }

  zero(session: number, offset: number, size: number, fua: boolean, completion: Completion): void {
    const refused = this.group.refuseWrite();
    if (refused !== null)
      return this.#refuse(refused, completion, () => this.zero(session, offset, size, fua, completion));
    if (size === 0) return this.group.settleSoon(completion, null);
    this.counters.zeroes += 1;
    const lba = Math.ceil(offset / this.blockSize);
    const end = Math.floor((offset + size) / this.blockSize);
    if (lba * this.blockSize === offset && end * this.blockSize === offset + size) {
      return this.#admit(session, TYPE_ZERO, lba, end - lba, null, fua, completion);
    }
    // edges are written as data, the whole blocks between them as ZERO
    const inner = end > lba ? (end - lba) * this.blockSize : 0;
    const head = inner > 0 ? lba * this.blockSize - offset : size;
    const tail = inner > 0 ? offset + size - end * this.blockSize : 0;
    const all = new JoinedCompletion(completion);
    if (head > 0) this.#writePartial(session, offset, head, [new Uint8Array(head)], fua, all.part());
    if (inner > 0) this.#admit(session, TYPE_ZERO, lba, end - lba, null, fua, all.part());
    if (tail > 0) this.#writePartial(session, end * this.blockSize, tail, [new Uint8Array(tail)], fua, all.part());
    all.close();
  }

  /** Covers every write answered before this call: they precede the FLUSH record, on all connections. */
  flush(completion: Completion): void {
    const refused = this.group.refuseWrite();
    if (refused !== null) return this.#refuse(refused, completion, () => this.flush(completion));
    this.counters.flushes += 1;
    this.group.whenRoom(() => {
      const ended = this.group.ended ?? this.group.frozenOut;
      if (ended !== null) {
        this.group.settleSoon(completion, ended);
        return true;
      }
      if (this.group.frozen) return false;
      const sequence = this.group.appendFlush();
      if (sequence === RING_FULL) return false;
      if (sequence === NO_SPACE) this.group.settleSoon(completion, noSpace(this.group));
      else this.group.promise(sequence, this.group.level(true), completion);
      return true;
    });
  }

  read(session: number, offset: number, size: number, completion: ReadCompletion): void {
    const refused = this.group.refuseRead();
    if (refused !== null) {
      if (!this.group.hold(() => this.read(session, offset, size, completion)))
        this.group.defer(() => completion.settleRead(refused, []));
      return;
    }
    this.counters.reads += 1;
    this.counters.bytesRead += size;
    const lba = Math.floor(offset / this.blockSize);
    const end = Math.ceil((offset + size) / this.blockSize);
    if (this.locks.isReadable(lba, end - lba, session)) return this.#readNow(offset, size, completion);
    this.#wait(
      'plainRead',
      session,
      lba,
      end - lba,
      (request) => {
        // the group may have frozen meanwhile
        if (request.state === 'granted' && this.group.frozen) this.read(session, offset, size, completion);
        else if (request.state === 'granted') this.#readNow(offset, size, completion);
        else this.group.defer(() => completion.settleRead(this.#lockError(request, lba), []));
      },
      () => this.group.defer(() => completion.settleRead(tooManyWaiters(), [])),
    );
  }

  extents(offset: number, size: number, count: number): DeviceExtent[] {
    if (this.group.refuseRead() !== null) return [{ size, hole: false }]; // says nothing of the content
    const extents: DeviceExtent[] = [];
    const end = offset + size;
    let at = offset;
    while (at < end && extents.length < count) {
      const lba = Math.floor(at / this.blockSize);
      const limit = Math.ceil(end / this.blockSize) - lba;
      const mapped = this.map.lookup(lba);
      const hole = this.map.zero || (!mapped && this.platter === 'journal');
      const run = this.map.run(lba, limit);
      const to = Math.min(end, (lba + Math.max(1, run)) * this.blockSize);
      const last = extents[extents.length - 1];
      if (last !== undefined && last.hole === hole) last.size += to - at;
      else extents.push({ size: to - at, hole });
      at = to;
    }
    return extents;
  }

  // ---- scopes (scope.ts): records of one explicit lock

  /**
   * @param clock of the scope's stamp; 0 for its LOCK
   * @returns sequence, or RING_FULL / NO_SPACE
   */
  appendScoped(
    type: number,
    flags: number,
    session: number,
    scope: number,
    lba: number,
    blockCount: number,
    payload: Uint8Array | null,
    clock = 0,
  ): number {
    const { journal } = this.group;
    const at = journal.reserve(
      type,
      flags,
      this.number,
      lba,
      blockCount,
      payload === null ? 0 : this.blockShift,
      session,
      scope,
      journal.peer.appended,
      clock,
    );
    if (at < 0) return at;
    if (payload !== null) copyBytes(journal.memory.bytes, at, payload);
    return journal.publish();
  }

  // ---- inside

  #refuse(refused: ForelockError, completion: Completion, again: () => void): void {
    if (!this.group.hold(again)) this.group.settleSoon(completion, refused);
  }

  #readNow(offset: number, size: number, completion: ReadCompletion): void {
    readBytes(this.group, this.map, this, offset, size, completion);
  }

  /** Locks locally (most are granted at once), then appends. */
  #admit(
    session: number,
    type: number,
    lba: number,
    blockCount: number,
    payload: readonly Uint8Array[] | null,
    fua: boolean,
    completion: Completion,
  ): void {
    let done = 0;
    if (!this.group.roomIsWaitedFor && this.locks.isFree(lba, blockCount, session)) {
      done = this.#append(session, type, lba, blockCount, 0, payload, fua, completion);
    }
    if (done < 0) return;
    let kept: Uint8Array | null = null;
    if (payload !== null) {
      kept = this.group.payloadSpares.take(blockCount * this.blockSize); // it was lent for this call
      copyPieces(payload, 0, kept.length, kept, 0);
    }
    this.#appendWhenRoom(session, type, lba, blockCount, done, kept, fua, completion);
  }

  /**
   * The write has to wait: for room (in order with others), and perhaps for a lock.
   * @param kept its payload, in memory of `payloadSpares`
   */
  #appendWhenRoom(
    session: number,
    type: number,
    lba: number,
    blockCount: number,
    from: number,
    kept: Uint8Array | null,
    fua: boolean,
    completion: Completion,
  ): void {
    const payload = kept === null ? null : [kept];
    let done = from;
    const append = (): boolean => {
      done = this.#append(session, type, lba, blockCount, done, payload, fua, completion);
      if (done >= 0) return false;
      if (kept !== null) this.group.payloadSpares.giveBack(kept);
      return true;
    };
    this.group.whenRoom(() => {
      if (this.locks.isFree(lba, blockCount, session)) return append();
      const granted: LockWait = (request) => {
        if (request.state !== 'granted') this.group.settleSoon(completion, this.#lockError(request, lba));
        else if (!append()) this.#appendWhenRoom(session, type, lba, blockCount, done, kept, fua, completion);
      };
      this.#wait('plainWrite', session, lba, blockCount, granted, () =>
        this.group.settleSoon(completion, tooManyWaiters()),
      );
      return true;
    });
  }

  /**
   * Appends the write's records from block `done` on.
   * @returns -1 when all are in (or the write was refused), else how many blocks are in: wait for room, then go on
   */
  #append(
    session: number,
    type: number,
    lba: number,
    blockCount: number,
    done: number,
    payload: readonly Uint8Array[] | null,
    fua: boolean,
    completion: Completion,
  ): number {
    const { group } = this;
    const { journal } = group;
    const ended = group.ended ?? group.frozenOut;
    if (ended !== null) {
      group.settleSoon(completion, ended);
      return -1;
    }
    // where both sites write: the peer's stream has to come first
    if (!group.scopes.admits(session, this, lba, blockCount, payload === null ? 'bare' : 'replay')) return done;
    const max = payload === null ? BARE_BLOCKS_MAX : this.payloadBlocksMax;
    const shift = payload === null ? 0 : this.blockShift;
    let sequence = 0;
    let at = done;
    while (at < blockCount) {
      const count = Math.min(max, blockCount - at);
      const size = recordSize(type, count, shift);
      const scope = group.lockStep ? group.scopes.openLockStep(this, session, lba + at, count, size) : 0;
      if (scope < 0) return scope === RING_FULL ? at : this.#refuseSpace(completion);
      const clock = scope > 0 ? journal.stamp : 0; // of its LOCK
      const to = journal.reserve(
        type,
        0,
        this.number,
        lba + at,
        count,
        shift,
        session,
        scope,
        journal.peer.appended,
        clock,
      );
      if (to < 0) {
        if (scope > 0) group.scopes.closeLockStep(this, session, scope);
        return to === RING_FULL ? at : this.#refuseSpace(completion);
      }
      if (payload !== null) copyPieces(payload, at * this.blockSize, count * this.blockSize, journal.memory.bytes, to);
      sequence = journal.publish();
      if (scope > 0) sequence = group.scopes.closeLockStep(this, session, scope);
      at += count;
    }
    if (fua) {
      const flush = group.appendFlush();
      if (flush === NO_SPACE) return this.#refuseSpace(completion);
      if (flush === RING_FULL) {
        this.flush(completion); // the write is in; its promise is a flush
        return -1;
      }
      sequence = flush;
    }
    group.promise(sequence, group.level(fua), completion);
    return -1;
  }

  #refuseSpace(completion: Completion): number {
    this.group.settleSoon(completion, noSpace(this.group));
    return -1;
  }

  /** A write that covers blocks in part: read, modify and write under a lock on them. */
  #writePartial(
    session: number,
    offset: number,
    size: number,
    payload: readonly Uint8Array[],
    fua: boolean,
    completion: Completion,
  ): void {
    const lba = Math.floor(offset / this.blockSize);
    const blockCount = Math.ceil((offset + size) / this.blockSize) - lba;
    if (this.group.order !== null) {
      this.#rewrite(lba, blockCount, payload, offset - lba * this.blockSize, size).then(
        () => (fua ? this.flush(completion) : completion.settle(null)),
        (error: ForelockError) => completion.settle(error),
      );
      return;
    }
    const locked: LockWait = (request) => {
      if (request.state !== 'held') return this.group.settleSoon(completion, this.#lockError(request, lba));
      request.context = null;
      const merged = new Uint8Array(blockCount * this.blockSize);
      const release: Completion = {
        settle: (error) => completion.settle(error),
      };
      this.#readNow(lba * this.blockSize, merged.length, {
        settleRead: (error, pieces) => {
          if (error !== null) {
            this.#unlock(request);
            return completion.settle(error);
          }
          copyPieces(pieces, 0, merged.length, merged, 0);
          copyPieces(payload, 0, size, merged, offset - lba * this.blockSize);
          let done = 0;
          this.group.whenRoom(() => {
            done = this.#append(session, TYPE_WRITE, lba, blockCount, done, [merged], fua, release);
            if (done >= 0) return false;
            this.#unlock(request);
            return true;
          });
        },
      });
    };
    // the lock's own session number: two partial writes of one connection must exclude each other as well
    this.#wait('write', this.group.nextSession(), lba, blockCount, locked, () =>
      this.group.settleSoon(completion, tooManyWaiters()),
    );
  }

  /**
   * The same where both sites write: what is written back must hide nothing that the other site wrote into these blocks
   * meanwhile. So it is a scope that is lost if there was such, and then tried again; and it takes a round trip.
   */
  async #rewrite(
    lba: number,
    blockCount: number,
    payload: readonly Uint8Array[],
    skip: number,
    size: number,
  ): Promise<void> {
    const { group, blockSize } = this;
    const extent = { offset: lba * blockSize, size: blockCount * blockSize };
    const deadline = group.nowMs() + LOCK_WAIT_MS_MAX;
    for (;;) {
      const waitMsMax = deadline - group.nowMs();
      const scope = await openScope(this, extent, { onConflict: 'abort', waitMsMax });
      try {
        const merged = Buffer.from(await scope.read(extent.offset, extent.size));
        copyPieces(payload, 0, size, merged, skip);
        await scope.write(extent.offset, merged);
        await scope.unlock();
        return await decided(group, [scope]);
      } catch (error) {
        if (!(error instanceof LockAbortedError) || group.nowMs() >= deadline) {
          scope.unlock().catch(() => {}); // said as soon as it can be: not while the group is frozen
          throw error;
        }
      }
    }
  }

  #unlock(request: LockRequest): void {
    this.locks.release(request);
    this.group.locksMoved();
  }

  #wait(
    mode: 'write' | 'plainWrite' | 'plainRead',
    session: number,
    lba: number,
    blockCount: number,
    then: LockWait,
    refused: () => void,
  ): void {
    const request = this.locks.request('host', mode, lba, blockCount, session, this.group.nowMs() + LOCK_WAIT_MS_MAX);
    if (request === null) return refused();
    if (request.state === 'waiting') {
      this.counters.lockWaits += 1;
      request.context = then;
    } else then(request);
  }

  #lockError(request: LockRequest, lba: number): ForelockError {
    const refused = this.group.refuseRead();
    if (refused !== null) return refused;
    if (request.state === 'released') return sessionClosed();
    this.counters.lockTimeouts += 1;
    return new ForelockError(
      'ETIMEDOUT',
      `volume ${this.name}: blocks from ${lba} stayed locked by another holder for ${LOCK_WAIT_MS_MAX / 1000} s (${request.state}); \`forelock status\` shows who holds what`,
    );
  }
}

/** Settles a request once all its parts are; the first error wins. */
class JoinedCompletion {
  #waiting = 1;
  #error: ForelockError | null = null;
  readonly #whole: Completion;
  readonly #part: Completion = { settle: (error) => this.#settle(error) };

  constructor(whole: Completion) {
    this.#whole = whole;
  }

  part(): Completion {
    this.#waiting += 1;
    return this.#part;
  }

  close(): void {
    this.#settle(null);
  }

  #settle(error: ForelockError | null): void {
    this.#error ??= error;
    this.#waiting -= 1;
    if (this.#waiting === 0) this.#whole.settle(this.#error);
  }
}

/** Copies `size` bytes of scattered pieces, from byte `from` of their sum, to `to[at]`. */
export function copyPieces(
  pieces: readonly Uint8Array[],
  from: number,
  size: number,
  to: Uint8Array,
  at: number,
): void {
  let skip = from;
  let left = size;
  let target = at;
  for (const piece of pieces) {
    if (skip >= piece.length) {
      skip -= piece.length;
      continue;
    }
    const count = Math.min(piece.length - skip, left);
    copyBytes(to, target, skip === 0 && count === piece.length ? piece : piece.subarray(skip, skip + count));
    target += count;
    left -= count;
    skip = 0;
    if (left === 0) return;
  }
  assert(left === 0, 'the pieces add up to the size');
}

/** The pieces as one, in memory of its own. */
function joined(pieces: readonly Uint8Array[], size: number): Uint8Array[] {
  const bytes = new Uint8Array(size);
  copyPieces(pieces, 0, size, bytes, 0);
  return [bytes];
}

function noSpace({ journal, writeback }: Group): ForelockError {
  const { obstacle } = writeback;
  const full = journal.diskFull
    ? journal.shortageText
    : obstacle === null
      ? 'the disk or the journal (--journal) is full'
      : `the journal is full of what cannot go into ${obstacle}`;
  return new ForelockError('ENOSPC', `no room for this write: ${full}; nothing written before is lost`);
}

function tooManyWaiters(): ForelockError {
  return new ForelockError('ETIMEDOUT', 'too many requests already wait for locks on this volume');
}
