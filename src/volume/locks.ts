/**
 * Range locks of one volume: who holds which blocks, who waits, and that the mirror is never starved.
 *
 * Sans-IO: no clock and no callbacks. Requests and times go in; outcomes that do not come at once (granted, timed out,
 * evicted) are drained as a list, in the order in which they must be acted on.
 *
 *     request --free--> held --release--> gone
 *        '---taken--> waiting --granted--> held
 *                        '-----deadline--> timed out
 *     held --the mirror wants it, LOCK_WAIT_MS_MAX later--> evicted
 *
 * Modes. `write` and `read` are explicit locks and are held: all of them exclude each other on overlap. A write lock
 * lets others read and stops them writing; a read lock stops both. `plainWrite` and `plainRead` are single operations:
 * they are granted for the moment and held by nobody, so the driver acts on a grant before it asks for anything else.
 * A session's plain operations pass its own locks.
 *
 * Fairness: FIFO. A waiter blocks every later request that conflicts with it; only a plain operation that lies wholly
 * within its session's own lock passes a waiter (the waiter waits for that very lock). The mirror stands before all
 * waiters: from `mirrorWants` on nothing that overlaps is granted until the mirror had it, and those who hold it are on
 * a lease.
 *
 * Invariants: holders are pairwise disjoint, sorted by lba. The region bitmap has a bit wherever a holder, a waiter or
 * the mirror's want has a block; a region may be coarser than a block, so on a hit the lists decide.
 */
import { assert } from '../assert.js';
import type { Kernel } from '../kernel/kernel.js';
import { LOCK_WAIT_MS_MAX, LOCK_WAITERS_MAX } from '../limits.js';

export type LockMode = 'write' | 'read' | 'plainWrite' | 'plainRead';
/** Who asks: a host's session, an explicit scope (library, admin API), or the mirror stream. For reports. */
export type LockOwner = 'host' | 'scope' | 'mirror';
export type LockState = 'waiting' | 'held' | 'granted' | 'released' | 'timedOut' | 'evicted';

/** Session number of the mirror; sessions of hosts are positive. */
export const MIRROR_SESSION = -1;

/** Bytes of region table that a volume needs. */
export function lockTableSize(blockCount: number, regionShift: number): number {
  const regions = Math.ceil(blockCount / 2 ** regionShift);
  return Math.ceil(regions / 64) * 8;
}

/** One request, from asking to its end. The driver may hang its own data on `context`. */
export class LockRequest {
  readonly owner: LockOwner;
  readonly mode: LockMode;
  readonly lba: number;
  readonly blockCount: number;
  readonly session: number;
  /** ms, as `now`; Infinity for no bound. */
  readonly deadline: number;
  state: LockState = 'waiting';
  /** When the holder is evicted because the mirror waits; Infinity while it does not. */
  leaseEnd = Infinity;
  context: unknown = null;

  constructor(owner: LockOwner, mode: LockMode, lba: number, blockCount: number, session: number, deadline: number) {
    this.owner = owner;
    this.mode = mode;
    this.lba = lba;
    this.blockCount = blockCount;
    this.session = session;
    this.deadline = deadline;
  }

  get end(): number {
    return this.lba + this.blockCount;
  }
}

export interface RangeLocksOptions {
  kernel: Kernel;
  /** Address of the region table: lockTableSize bytes, zeroed. */
  table: number;
  /** A region is 2^regionShift blocks. */
  regionShift: number;
  blockCount: number;
  waitersMax?: number;
  leaseMs?: number;
}

export class RangeLocks {
  readonly #kernel: Kernel;
  readonly #table: number;
  readonly #regionSize: number;
  readonly #blockCount: number;
  readonly #waitersMax: number;
  readonly #leaseMs: number;
  /** Sorted by lba, disjoint. */
  readonly #holders: LockRequest[] = [];
  /** In order of arrival. */
  readonly #waiters: LockRequest[] = [];
  #wantLba = 0;
  #wantEnd = 0;
  #wantSince = 0;
  #results: LockRequest[] = [];
  #spare: LockRequest[] = [];

  constructor(options: RangeLocksOptions) {
    assert(options.regionShift >= 0 && options.regionShift <= 30, `regionShift ${options.regionShift}`);
    this.#kernel = options.kernel;
    this.#table = options.table;
    this.#regionSize = 2 ** options.regionShift;
    this.#blockCount = options.blockCount;
    this.#waitersMax = options.waitersMax ?? LOCK_WAITERS_MAX;
    this.#leaseMs = options.leaseMs ?? LOCK_WAIT_MS_MAX;
  }

  get held(): number {
    return this.#holders.length;
  }
  get waiting(): number {
    return this.#waiters.length;
  }
  /** Since when (ms) the mirror waits here, or null. */
  get mirrorWaitingSince(): number | null {
    return this.#wantEnd > 0 ? this.#wantSince : null;
  }
  /** For status: holders by lba, then waiters by age. */
  list(): readonly LockRequest[] {
    return [...this.#holders, ...this.#waiters];
  }

  /**
   * May `session` write these blocks at this moment? The hot path: one look at the bitmap, no allocation.
   * If not, ask with `request('host', 'plainWrite', …)` and wait.
   */
  isFree(lba: number, blockCount: number, session: number): boolean {
    if (this.#untouched(lba, blockCount)) return true;
    return !this.#blocked('plainWrite', lba, lba + blockCount, session, this.#waiters.length);
  }

  /** The same for reading: only read locks of others stop it. */
  isReadable(lba: number, blockCount: number, session: number): boolean {
    if (this.#untouched(lba, blockCount)) return true;
    return !this.#blocked('plainRead', lba, lba + blockCount, session, this.#waiters.length);
  }

  /**
   * Asks for a lock (`write`, `read`: held until `release`) or for a plain operation's moment.
   *
   * @param deadline ms; the wait ends there at the next `expire`
   * @returns the request, `held` or `granted` if it could be had at once, else `waiting` (its end will be drained);
   *          null when too many wait already: refuse
   */
  request(
    owner: 'host' | 'scope',
    mode: LockMode,
    lba: number,
    blockCount: number,
    session: number,
    deadline: number,
  ): LockRequest | null {
    assert(session > 0, `session ${session}`);
    const request = new LockRequest(owner, mode, lba, blockCount, session, deadline);
    if (this.#untouched(lba, blockCount) || !this.#blocked(mode, lba, request.end, session, this.#waiters.length)) {
      this.#grant(request);
      return request;
    }
    if (this.#waiters.length >= this.#waitersMax) return null;
    this.#waiters.push(request);
    this.#mark(lba, request.end);
    return request;
  }

  /** Gives a held lock back, or takes a waiting request out of the queue. A request that has ended is left alone. */
  release(request: LockRequest): void {
    if (request.state === 'held') {
      this.#drop(request);
    } else if (request.state === 'waiting') {
      this.#waiters.splice(this.#waiters.indexOf(request), 1);
      this.#clear(request.lba, request.end);
    } else {
      return;
    }
    request.state = 'released';
    this.#pump();
  }

  /** A connection is gone: all it holds and waits for goes with it. Nothing is reported about its requests. */
  releaseSession(session: number): void {
    assert(session > 0, `session ${session}`);
    let touched = false;
    for (const list of [this.#holders, this.#waiters]) {
      for (let index = list.length - 1; index >= 0; index -= 1) {
        const request = list[index];
        if (request.session !== session) continue;
        list.splice(index, 1);
        request.state = 'released';
        this.#clear(request.lba, request.end);
        touched = true;
      }
    }
    if (touched) this.#pump();
  }

  /** Ends the waits whose deadline has come and evicts holders whose lease is over; all are reported by `drain`. */
  expire(now: number): void {
    let touched = false;
    for (let index = this.#waiters.length - 1; index >= 0; index -= 1) {
      const request = this.#waiters[index];
      if (request.deadline > now) continue;
      this.#waiters.splice(index, 1);
      this.#end(request, 'timedOut');
      touched = true;
    }
    for (let index = this.#holders.length - 1; index >= 0; index -= 1) {
      const request = this.#holders[index];
      if (request.leaseEnd > now) continue;
      this.#holders.splice(index, 1);
      this.#end(request, 'evicted');
      touched = true;
    }
    if (touched) this.#pump();
  }

  /** The earliest time at which `expire` has something to do; Infinity if there is none. */
  nextDeadline(): number {
    let next = Infinity;
    for (const request of this.#waiters) if (request.deadline < next) next = request.deadline;
    for (const request of this.#holders) if (request.leaseEnd < next) next = request.leaseEnd;
    return next;
  }

  /** Requests whose state changed since the last call, in order. The list is the caller's until the next call. */
  drain(): readonly LockRequest[] {
    const results = this.#results;
    this.#spare.length = 0;
    this.#results = this.#spare;
    this.#spare = results;
    return results;
  }

  /**
   * The mirror's head record needs these blocks and cannot have them: from now on nobody new gets any of them before
   * the mirror, and present holders are on a lease. Asking again for the same extent changes nothing.
   */
  mirrorWants(lba: number, blockCount: number, now: number): void {
    const end = lba + blockCount;
    if (this.#wantLba !== lba || this.#wantEnd !== end) {
      const other = this.#wantEnd > 0;
      this.#endWant();
      this.#wantLba = lba;
      this.#wantEnd = end;
      this.#wantSince = now;
      this.#mark(lba, end);
      if (other) this.#pump();
    }
    for (let index = this.#firstHolder(lba); index < this.#holders.length; index += 1) {
      const holder = this.#holders[index];
      if (holder.lba >= end) break;
      if (holder.session !== MIRROR_SESSION && holder.leaseEnd === Infinity) holder.leaseEnd = now + this.#leaseMs;
    }
  }

  /** The mirror's want is off: it had its blocks, or its stream was closed. Leases go with it. */
  mirrorHad(): void {
    if (this.#wantEnd === 0) return;
    this.#endWant();
    this.#pump();
  }

  /** Do these blocks exist? (For extents that the peer names.) */
  contains(lba: number, blockCount: number): boolean {
    return blockCount > 0 && lba >= 0 && lba + blockCount <= this.#blockCount;
  }

  /** Does nobody but the mirror hold any of these blocks? Waiters do not count: the mirror stands before them. */
  mirrorFree(lba: number, blockCount: number): boolean {
    if (this.#untouched(lba, blockCount)) return true;
    return this.#conflictingHolder(lba, lba + blockCount, MIRROR_SESSION) === null;
  }

  /** Does the mirror itself hold any of these blocks? */
  mirrorHolds(lba: number, blockCount: number): boolean {
    for (let index = this.#firstHolder(lba); index < this.#holders.length; index += 1) {
      const holder = this.#holders[index];
      if (holder.lba >= lba + blockCount) return false;
      if (holder.session === MIRROR_SESSION) return true;
    }
    return false;
  }

  /** Takes a lock for a scope of the mirror, if nobody holds any of it; null otherwise. */
  mirrorTake(mode: 'write' | 'read', lba: number, blockCount: number): LockRequest | null {
    if (!this.#untouched(lba, blockCount) && this.#anyHolder(lba, lba + blockCount)) return null;
    const request = new LockRequest('mirror', mode, lba, blockCount, MIRROR_SESSION, Infinity);
    this.#grant(request);
    return request;
  }

  /** Asserts the invariants; for tests and simulators. O(n²). */
  check(): void {
    for (let index = 0; index < this.#holders.length; index += 1) {
      const holder = this.#holders[index];
      assert(holder.state === 'held', `holder is ${holder.state}`);
      if (index > 0) assert(this.#holders[index - 1].end <= holder.lba, `holders overlap at ${holder.lba}`);
      assert(!this.#untouched(holder.lba, holder.blockCount), 'a holder has its bits');
    }
    for (let index = 0; index < this.#waiters.length; index += 1) {
      const { state, mode, lba, end, session } = this.#waiters[index];
      assert(state === 'waiting', `waiter is ${state}`);
      assert(this.#blocked(mode, lba, end, session, index), `nothing keeps the waiter for ${lba}..${end} waiting`);
    }
  }

  // ---- below: exact lists, bitmap

  /** True if the bitmap alone says that nobody holds, waits for or wants any of it. */
  #untouched(lba: number, blockCount: number): boolean {
    assert(blockCount > 0 && lba >= 0 && lba + blockCount <= this.#blockCount, `extent ${lba}+${blockCount}`);
    const first = Math.floor(lba / this.#regionSize);
    const last = Math.floor((lba + blockCount - 1) / this.#regionSize);
    return this.#kernel.lockQuery(this.#table, first, last - first + 1) === 0;
  }

  /** Is a new request (or the waiter at `position`) kept waiting, by a holder, the mirror's want or an earlier waiter? */
  #blocked(mode: LockMode, lba: number, end: number, session: number, position: number): boolean {
    const plain = mode === 'plainWrite' || mode === 'plainRead';
    let own = 0; // blocks of the extent that the session itself holds
    for (let index = this.#firstHolder(lba); index < this.#holders.length; index += 1) {
      const holder = this.#holders[index];
      if (holder.lba >= end) break;
      if (plain && holder.session === session) own += Math.min(end, holder.end) - Math.max(lba, holder.lba);
      else if (mode !== 'plainRead' || holder.mode === 'read') return true;
    }
    if (own === end - lba) return false;
    if (mode !== 'plainRead' && this.#wantEnd > lba && this.#wantLba < end) return true;
    for (let index = 0; index < position; index += 1) {
      const waiter = this.#waiters[index];
      if (waiter.lba >= end || waiter.end <= lba) continue;
      if (mode !== 'plainRead' ? waiter.mode !== 'plainRead' || !plain : waiter.mode === 'read') return true;
    }
    return false;
  }

  #conflictingHolder(lba: number, end: number, session: number): LockRequest | null {
    for (let index = this.#firstHolder(lba); index < this.#holders.length; index += 1) {
      const holder = this.#holders[index];
      if (holder.lba >= end) return null;
      if (holder.session !== session) return holder;
    }
    return null;
  }

  #anyHolder(lba: number, end: number): boolean {
    const index = this.#firstHolder(lba);
    return index < this.#holders.length && this.#holders[index].lba < end;
  }

  /** Index of the first holder that ends behind `lba`. */
  #firstHolder(lba: number): number {
    let low = 0;
    let high = this.#holders.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#holders[middle].end <= lba) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Explicit locks become holders; a plain operation has its moment now. */
  #grant(request: LockRequest): void {
    if (request.mode === 'plainWrite' || request.mode === 'plainRead') {
      request.state = 'granted';
      return;
    }
    request.state = 'held';
    this.#holders.splice(this.#firstHolder(request.lba), 0, request);
    this.#mark(request.lba, request.end);
  }

  #drop(request: LockRequest): void {
    const index = this.#firstHolder(request.lba);
    assert(this.#holders[index] === request, 'a held lock is in the list');
    this.#holders.splice(index, 1);
    this.#clear(request.lba, request.end);
  }

  #end(request: LockRequest, state: 'timedOut' | 'evicted'): void {
    request.state = state;
    this.#clear(request.lba, request.end);
    this.#results.push(request);
  }

  #endWant(): void {
    if (this.#wantEnd === 0) return;
    const lba = this.#wantLba;
    const end = this.#wantEnd;
    this.#wantLba = 0;
    this.#wantEnd = 0;
    for (let index = this.#firstHolder(lba); index < this.#holders.length; index += 1) {
      const holder = this.#holders[index];
      if (holder.lba >= end) break;
      holder.leaseEnd = Infinity;
    }
    this.#clear(lba, end);
  }

  /** Grants, in order of arrival, every waiter that nothing blocks any more. */
  #pump(): void {
    for (let index = 0; index < this.#waiters.length; ) {
      const waiter = this.#waiters[index];
      if (this.#blocked(waiter.mode, waiter.lba, waiter.end, waiter.session, index)) {
        index += 1;
        continue;
      }
      this.#waiters.splice(index, 1);
      this.#grant(waiter);
      if (waiter.state === 'granted') this.#clear(waiter.lba, waiter.end);
      this.#results.push(waiter);
    }
  }

  #mark(lba: number, end: number): void {
    const first = Math.floor(lba / this.#regionSize);
    this.#kernel.lockSet(this.#table, first, Math.floor((end - 1) / this.#regionSize) - first + 1);
  }

  /** Clears an extent's regions, then sets again what others have there. */
  #clear(lba: number, end: number): void {
    const size = this.#regionSize;
    const first = Math.floor(lba / size);
    const last = Math.floor((end - 1) / size);
    this.#kernel.lockClear(this.#table, first, last - first + 1);
    const from = first * size;
    const to = (last + 1) * size;
    for (let index = this.#firstHolder(from); index < this.#holders.length; index += 1) {
      const holder = this.#holders[index];
      if (holder.lba >= to) break;
      this.#mark(Math.max(from, holder.lba), Math.min(to, holder.end));
    }
    for (const waiter of this.#waiters) {
      if (waiter.lba < to && waiter.end > from) this.#mark(Math.max(from, waiter.lba), Math.min(to, waiter.end));
    }
    if (this.#wantEnd > from && this.#wantLba < to) {
      this.#mark(Math.max(from, this.#wantLba), Math.min(to, this.#wantEnd));
    }
  }
}
