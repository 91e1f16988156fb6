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
 * A session's plain operations pass its own locks. (A host's have none: each of its locks has a session number of its own.
 * A plain write in an open scope would need at the peer what the scope holds there until its UNLOCK, which is behind it.)
 *
 * Fairness: FIFO. A waiter blocks every later request that conflicts with it; only a plain operation that lies wholly
 * within its session's own lock passes a waiter (the waiter waits for that very lock). The mirror stands before all
 * waiters: from `mirrorWants` on nothing that overlaps is granted until the mirror had it, and those who hold it are on
 * a lease.
 *
 * Two holders of a block there may be in one case only, where both sites write: a scope of the peer that won is granted
 * *beneath* an open scope of this site's stream that lost to it (see mirror/conflict.ts, which judges the two; here the
 * mirror merely passes such holders when told to).
 *
 * Invariants: this site's holders are pairwise disjoint and sorted by lba, and so are the mirror's. The region bitmap
 * has a bit wherever a holder, a waiter or the mirror's want has a block; a region may be coarser than a block, so on a
 * hit the lists decide.
 */
import { assert, fail } from '../assert.js';
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
  /** The holder is a write scope of this site's own stream, whose order against the peer's scopes is judged elsewhere. */
  streamed = false;
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

/** Who holds, sorted by lba, disjoint. */
class Holders {
  readonly list: LockRequest[] = [];

  /** Index of the first holder that ends behind `lba`. */
  first(lba: number): number {
    let low = 0;
    let high = this.list.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.list[middle].end <= lba) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  overlaps(lba: number, end: number): boolean {
    const index = this.first(lba);
    return index < this.list.length && this.list[index].lba < end;
  }

  add(request: LockRequest): void {
    this.list.splice(this.first(request.lba), 0, request);
  }

  remove(request: LockRequest): void {
    const index = this.first(request.lba);
    assert(this.list[index] === request, 'a held lock is in the list');
    this.list.splice(index, 1);
  }

  check(): void {
    for (let index = 0; index < this.list.length; index += 1) {
      const holder = this.list[index];
      assert(holder.state === 'held', `holder is ${holder.state}`);
      if (index > 0) assert(this.list[index - 1].end <= holder.lba, `holders overlap at ${holder.lba}`);
    }
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
  /** Of this site: hosts, explicit scopes, `forelock lock`. */
  readonly #local = new Holders();
  readonly #mirror = new Holders();
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
    return this.#local.list.length + this.#mirror.list.length;
  }
  get waiting(): number {
    return this.#waiters.length;
  }
  /** Since when (ms) the mirror waits here, or null. */
  get mirrorWaitingSince(): number | null {
    return this.#wantEnd > 0 ? this.#wantSince : null;
  }
  /** For status: holders by lba (the mirror's behind the others), then waiters by age. */
  list(): readonly LockRequest[] {
    return [...this.#local.list, ...this.#mirror.list, ...this.#waiters];
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

  /** A connection is gone: all it holds and waits for goes with it. `drain` tells those who wait. */
  releaseSession(session: number): void {
    assert(session > 0, `session ${session}`);
    let touched = false;
    for (const list of [this.#local.list, this.#waiters]) {
      for (let index = list.length - 1; index >= 0; index -= 1) {
        const request = list[index];
        if (request.session !== session) continue;
        list.splice(index, 1);
        if (request.state === 'waiting') this.#results.push(request);
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
    const holders = this.#local.list;
    for (let index = holders.length - 1; index >= 0; index -= 1) {
      const request = holders[index];
      if (request.leaseEnd > now) continue;
      holders.splice(index, 1);
      this.#end(request, 'evicted');
      touched = true;
    }
    if (touched) this.#pump();
  }

  /** The earliest time at which `expire` has something to do; Infinity if there is none. */
  nextDeadline(): number {
    let next = Infinity;
    for (const request of this.#waiters) if (request.deadline < next) next = request.deadline;
    for (const request of this.#local.list) if (request.leaseEnd < next) next = request.leaseEnd;
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
    const holders = this.#local.list;
    for (let index = this.#local.first(lba); index < holders.length && holders[index].lba < end; index += 1) {
      if (holders[index].leaseEnd === Infinity) holders[index].leaseEnd = now + this.#leaseMs;
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

  /**
   * Does nobody at this site hold any of these blocks? Waiters do not count: the mirror stands before them.
   *
   * @param beneath pass write scopes of this site's own stream: the peer's was judged to go beneath them
   */
  mirrorFree(lba: number, blockCount: number, beneath = false): boolean {
    if (this.#untouched(lba, blockCount)) return true;
    const end = lba + blockCount;
    const holders = this.#local.list;
    for (let index = this.#local.first(lba); index < holders.length && holders[index].lba < end; index += 1) {
      if (!beneath || !holders[index].streamed) return false;
    }
    return true;
  }

  /** Does the mirror itself hold any of these blocks? */
  mirrorHolds(lba: number, blockCount: number): boolean {
    return this.#mirror.overlaps(lba, lba + blockCount);
  }

  /** Takes a lock for a scope of the mirror, if nobody holds any of it (but for `beneath`, see mirrorFree); null otherwise. */
  mirrorTake(mode: 'write' | 'read', lba: number, blockCount: number, beneath = false): LockRequest | null {
    if (this.mirrorHolds(lba, blockCount) || !this.mirrorFree(lba, blockCount, beneath)) return null;
    const request = new LockRequest('mirror', mode, lba, blockCount, MIRROR_SESSION, Infinity);
    this.#grant(request);
    return request;
  }

  /** Asserts the invariants; for tests and simulators. O(n²). */
  check(): void {
    for (const holders of [this.#local, this.#mirror]) {
      holders.check();
      for (const { lba, blockCount } of holders.list) {
        assert(!this.#untouched(lba, blockCount), 'a holder has its bits');
      }
    }
    for (const { lba, end, streamed } of this.#local.list) {
      assert(streamed || !this.#mirror.overlaps(lba, end), `two hold blocks of ${lba}..${end}`);
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
    if (!(blockCount > 0 && lba >= 0 && lba + blockCount <= this.#blockCount)) fail(`extent ${lba}+${blockCount}`);
    const first = Math.floor(lba / this.#regionSize);
    const last = Math.floor((lba + blockCount - 1) / this.#regionSize);
    return this.#kernel.lockQuery(this.#table, first, last - first + 1) === 0;
  }

  /** Is a new request (or the waiter at `position`) kept waiting, by a holder, the mirror's want or an earlier waiter? */
  #blocked(mode: LockMode, lba: number, end: number, session: number, position: number): boolean {
    const plain = mode === 'plainWrite' || mode === 'plainRead';
    let own = 0; // blocks of the extent that the session itself holds
    const holders = this.#local.list;
    for (let index = this.#local.first(lba); index < holders.length && holders[index].lba < end; index += 1) {
      const holder = holders[index];
      if (plain && holder.session === session) own += Math.min(end, holder.end) - Math.max(lba, holder.lba);
      else if (mode !== 'plainRead' || holder.mode === 'read') return true;
    }
    if (own === end - lba) return false;
    const mirrors = this.#mirror.list;
    for (let index = this.#mirror.first(lba); index < mirrors.length && mirrors[index].lba < end; index += 1) {
      if (mode !== 'plainRead' || mirrors[index].mode === 'read') return true;
    }
    if (mode !== 'plainRead' && this.#wantEnd > lba && this.#wantLba < end) return true;
    for (let index = 0; index < position; index += 1) {
      const waiter = this.#waiters[index];
      if (waiter.lba >= end || waiter.end <= lba) continue;
      if (mode !== 'plainRead' ? waiter.mode !== 'plainRead' || !plain : waiter.mode === 'read') return true;
    }
    return false;
  }

  /** Explicit locks become holders; a plain operation has its moment now. */
  #grant(request: LockRequest): void {
    if (request.mode === 'plainWrite' || request.mode === 'plainRead') {
      request.state = 'granted';
      return;
    }
    request.state = 'held';
    this.#holdersOf(request).add(request);
    this.#mark(request.lba, request.end);
  }

  #drop(request: LockRequest): void {
    this.#holdersOf(request).remove(request);
    this.#clear(request.lba, request.end);
  }

  #holdersOf(request: LockRequest): Holders {
    return request.session === MIRROR_SESSION ? this.#mirror : this.#local;
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
    const holders = this.#local.list;
    for (let index = this.#local.first(lba); index < holders.length && holders[index].lba < end; index += 1) {
      holders[index].leaseEnd = Infinity;
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
    for (const holders of [this.#local, this.#mirror]) {
      for (let index = holders.first(from); index < holders.list.length; index += 1) {
        const holder = holders.list[index];
        if (holder.lba >= to) break;
        this.#mark(Math.max(from, holder.lba), Math.min(to, holder.end));
      }
    }
    for (const waiter of this.#waiters) {
      if (waiter.lba < to && waiter.end > from) this.#mark(Math.max(from, waiter.lba), Math.min(to, waiter.end));
    }
    if (this.#wantEnd > from && this.#wantLba < to) {
      this.#mark(Math.max(from, this.#wantLba), Math.min(to, this.#wantEnd));
    }
  }
}
