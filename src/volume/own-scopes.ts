/**
 * The scopes that this site has open in its stream: when one may begin, who waits for that, and how each ends.
 *
 * At most SCOPES_MAX are open. Each LOCK gets its UNLOCK or ABORT: from its holder, or in the holder's place, when the
 * session is gone, the scope is too old, the group stops, or it was of an earlier life. Where both sites write, none
 * begins on top of what is undecided, and who lost is told once that is durable.
 */
import { TYPE_ABORT, TYPE_LOCK, TYPE_UNLOCK } from '../../assembly/layout.js';
import { assert } from '../assert.js';
import { ForelockError, LockAbortedError, LockTimeoutError } from '../errors.js';
import { RING_FULL } from '../journal/journal.js';
import { SCOPE_AGE_MS_MAX, SCOPES_MAX } from '../limits.js';
import type { Newcomer, ScopeKind } from '../mirror/conflict.js';
import type { Group } from './group.js';
import type { LockRequest } from './locks.js';
import type { Scope } from './scope.js';
import type { Volume } from './volume.js';

/** A scope that a host has asked for and has not got yet. */
export interface Opening {
  readonly session: number;
  readonly volume: Volume;
  /** Its wait for this site's lock, or the lock. */
  lock: LockRequest | null;
  /** Its session is gone. */
  ended: ForelockError | null;
}

export class OwnScopes {
  /** LOCK sequences of the open ones, with their volumes. */
  readonly open: Map<number, number>;
  /** The same for those that somebody holds, oldest first. */
  readonly held = new Map<number, Scope>();

  readonly #group: Group;
  /** Who waits for the peer's scopes, or for a time: true when it is over. */
  readonly #admissions: ((now: number) => boolean)[] = [];
  /** LOCK sequences of scopes that are ended as soon as there is room for it. */
  readonly #ending = new Set<number>();
  readonly #openings = new Set<Opening>();
  /** Scopes that have their place among SCOPES_MAX, and no LOCK in the stream yet. */
  #placesTaken = 0;
  /** Dead scopes whose ABORT is not durable yet, and how to tell who waits for their grant. */
  readonly #aborting = new Map<number, (error: ForelockError) => void>();
  #abortsWait = false;

  /** @param found what recovery has found open */
  constructor(group: Group, found: readonly { sequence: number; volume: number }[]) {
    this.#group = group;
    this.open = new Map(found.map(({ sequence, volume }) => [sequence, volume]));
  }

  // ---- how they begin and end in the stream

  /** A record of this site's stream that a returned tail has shown. */
  seen(header: { type: number; sequence: number; scope: number; volume: number }): void {
    if (header.type === TYPE_LOCK) this.open.set(header.sequence, header.volume);
    else if (header.type === TYPE_UNLOCK || header.type === TYPE_ABORT) this.open.delete(header.scope);
  }

  /**
   * Its LOCK is in the stream.
   * @param volume its number
   * @param scope  who holds it; null in lock-step
   */
  opened(lock: number, volume: number, scope: Scope | null = null): void {
    this.open.set(lock, volume);
    assert(this.open.size <= SCOPES_MAX, 'who opens a scope has a place for it');
    if (scope !== null) this.held.set(lock, scope);
    this.#group.mirror.scopeOpened(lock);
  }

  /** Its UNLOCK or ABORT is in the stream, under the sequence `end`. */
  closed(lock: number, end: number): void {
    this.open.delete(lock);
    this.held.delete(lock);
    this.#group.mirror.scopeClosed(lock, end);
  }

  // ---- lock-step baseline: a write is sent as an explicit scope

  /**
   * @param size bytes of the record that goes into the scope
   * @returns    sequence of its LOCK, RING_FULL or NO_SPACE
   */
  openLockStep(volume: Volume, session: number, lba: number, blockCount: number, size: number): number {
    if (this.open.size >= SCOPES_MAX) return RING_FULL; // some of an earlier life are not ended yet
    // LOCK, the record and UNLOCK go in together or not at all
    const room = this.#group.journal.roomFor(size + 1024);
    if (room < 0) return room;
    const lock = volume.appendScoped(TYPE_LOCK, 0, session, 0, lba, blockCount, null);
    if (lock > 0) this.opened(lock, volume.number);
    return lock;
  }

  /** @returns sequence of its UNLOCK */
  closeLockStep(volume: Volume, session: number, scope: number): number {
    const sequence = volume.appendScoped(TYPE_UNLOCK, 0, session, scope, 0, 0, null);
    assert(sequence > 0, 'an UNLOCK finds room behind its scope');
    this.closed(scope, sequence);
    return sequence;
  }

  // ---- ended in their holder's place

  /** A host's session is gone: what it left open ends. */
  endSession(session: number): void {
    const reason = sessionClosed();
    for (const scope of [...this.held.values()]) if (scope.session === session) this.end(scope.sequence, reason);
    for (const opening of [...this.#openings]) {
      if (opening.session !== session) continue;
      opening.ended = reason;
      const { lock, volume } = opening;
      if (lock === null || lock.state !== 'waiting') continue;
      volume.locks.release(lock);
      (lock.context as (lock: LockRequest) => void)(lock);
    }
    this.pumpAdmissions();
  }

  /** Sessions of an earlier life are gone: their scopes end here, or the peer would hold their locks for ever. */
  endDead(): void {
    for (const lock of [...this.open.keys()]) {
      this.end(lock, new ForelockError('ESHUTDOWN', 'the gateway is stopping: the scope was ended'));
    }
  }

  /** Those that have been open for too long: in the order in which they were opened. */
  endOld(now: number): void {
    if (this.#group.frozen) return; // no other site's records wait
    for (const scope of this.held.values()) {
      if (now - scope.openedAt < SCOPE_AGE_MS_MAX) return;
      this.end(
        scope.sequence,
        new LockTimeoutError(
          `the scope was open for ${SCOPE_AGE_MS_MAX / 1000} s and was ended: others wait for its blocks`,
        ),
      );
    }
  }

  /** Ends a scope as soon as there is room for its UNLOCK. */
  end(lock: number, reason: ForelockError): void {
    const group = this.#group;
    if (this.#ending.has(lock)) return;
    this.#ending.add(lock);
    group.beforeHosts(() => {
      // its holder may have ended it while this waited
      const over = group.ended !== null || !this.open.has(lock);
      if (!over && (group.frozen || this.#appendEnd(lock, reason) < 0)) return false;
      this.#ending.delete(lock);
      return true;
    });
  }

  /** Dual, frozen: before the first record of another generation all that is open ends. @returns false: no room for that yet */
  endNow(why: string): boolean {
    const reason = new ForelockError('ESHUTDOWN', `${why}: the scope was ended`);
    for (const lock of [...this.open.keys()]) if (this.#appendEnd(lock, reason) < 0) return false;
    return true;
  }

  /** @returns sequence, RING_FULL or NO_SPACE */
  #appendEnd(lock: number, reason: ForelockError): number {
    const volume = this.#group.volumes.get(this.open.get(lock)!)!;
    const scope = this.held.get(lock);
    const end = volume.appendScoped(TYPE_UNLOCK, 0, scope?.session ?? 0, lock, 0, 0, null);
    if (end < 0) return end;
    this.closed(lock, end);
    scope?.end(reason);
    return end;
  }

  // ---- dual: lost to one of the other site

  /** Says ABORT for each that has lost, if any, before anything else is appended. */
  abortDoomed(): void {
    const { order } = this.#group;
    if (order !== null && order.conflicts.doomed.size > 0) this.#abort();
  }

  /** Who asked for it is told once its ABORT is durable; until then nothing of it can be read again. */
  #abort(): void {
    const group = this.#group;
    const { journal } = group;
    const { doomed } = group.order!.conflicts;
    const error = new LockAbortedError(
      'the scope overlapped one of the other site that goes first: nothing of it stays; try again',
    );
    for (const lock of doomed) {
      if (!this.#aborting.has(lock)) this.#aborting.set(lock, group.sender!.withdrawGrant(lock));
      this.held.get(lock)?.end(error);
    }
    for (const lock of doomed) {
      const scope = this.held.get(lock);
      if (journal.reserve(TYPE_ABORT, 0, 0, 0, 0, 0, scope?.session ?? 0, lock, journal.peer.appended) < 0) break;
      const end = journal.publish();
      group.counters.scopesAborted += 1;
      this.closed(lock, end);
      journal.sync();
      const refuse = this.#aborting.get(lock)!;
      this.#whenOwnDurable(end, () => {
        this.#aborting.delete(lock);
        refuse(error);
      });
    }
    group.locksMoved();
    if (doomed.size === 0 || this.#abortsWait) return;
    this.#abortsWait = true;
    group.retryBeforeHosts(() => {
      this.#abortsWait = false;
      if (group.ended === null) this.#abort();
      return true;
    });
  }

  #whenOwnDurable(sequence: number, then: () => void): void {
    const { journal } = this.#group;
    if (journal.own.durable >= sequence) return then();
    if (journal.failed === null) this.#group.whenDurable(() => this.#whenOwnDurable(sequence, then));
  }

  /** The group has stopped: who waits for an ABORT to be durable is told this. */
  refuseAborting(error: ForelockError): void {
    for (const refuse of this.#aborting.values()) refuse(error);
  }

  // ---- when one may begin

  /** May a scope of this site be opened here now, as far as the peer's are concerned? */
  admits(session: number, volume: Volume, lba: number, blockCount: number, kind: Newcomer): boolean {
    const { order } = this.#group;
    if (order === null) return true;
    if (this.#group.frozen) return false;
    if (order.conflicts.doomed.size > 0 || volume.locks.mirrorHolds(lba, blockCount)) return false;
    for (const lock of this.#ending) {
      // its lock here is gone, or of an earlier life; in the stream it is open
      const scope = this.held.get(lock);
      if (scope === undefined || scope.overlaps(volume, lba, blockCount)) return false;
    }
    if (kind === 'abort' && order.versions.isFull) return false;
    return !order.conflicts.mustWait(session, volume.number, lba, blockCount, kind);
  }

  /** In lock-step the last place is for writes: each of them opens a scope and ends it in one turn. */
  get #hasPlace(): boolean {
    return this.open.size + this.#placesTaken < SCOPES_MAX - (this.#group.lockStep ? 1 : 0);
  }

  /** Its LOCK is in the stream, or will not be. */
  leavePlace(): void {
    this.#placesTaken -= 1;
  }

  /**
   * A scope is asked for.
   * @param open how; `opening` is told when its session ends meanwhile
   */
  async opening<T>(volume: Volume, session: number, open: (opening: Opening) => Promise<T>): Promise<T> {
    const opening: Opening = { session, volume, lock: null, ended: null };
    this.#openings.add(opening);
    try {
      return await open(opening);
    } finally {
      this.#openings.delete(opening);
    }
  }

  /**
   * Resolves once the scope may be opened. It has its place from then on, until `leavePlace`: many that wait are admitted
   * in one turn, and append their LOCKs later.
   *
   * @throws LockTimeoutError, ForelockError ESHUTDOWN
   */
  whenAdmitted(opening: Opening, lba: number, blockCount: number, kind: ScopeKind, deadline: number): Promise<void> {
    const group = this.#group;
    const { session, volume } = opening;
    const takesPlace = (): boolean => {
      if (!this.#hasPlace || !this.admits(session, volume, lba, blockCount, kind)) return false;
      this.#placesTaken += 1;
      return true;
    };
    if (opening.ended !== null) return Promise.reject(opening.ended);
    if (takesPlace()) return Promise.resolve();
    if (group.stopping) return Promise.reject(group.refuseRead()); // it had the lock from a request that the stop ended
    return new Promise((resolve, reject) => {
      this.#admissions.push((now) => {
        if (group.stopping) reject(group.refuseRead());
        else if (opening.ended !== null) reject(opening.ended);
        else if (now >= deadline) {
          reject(
            new LockTimeoutError(
              this.#hasPlace
                ? `volume ${volume.name}: blocks ${lba}+${blockCount} stayed locked by the other site until the wait's end`
                : `${SCOPES_MAX} scopes are open already: unlock some`,
            ),
          );
        } else if (takesPlace()) resolve();
        else return false;
        return true;
      });
    });
  }

  /** Resolves once what was written under a read lock that the peer has granted stays, or at the deadline. */
  whenReadable(scope: Scope, deadline: number): Promise<void> {
    return new Promise((resolve) => {
      const look = (now: number): boolean => {
        const over = this.#group.stopping || now >= deadline || scope.ended !== null;
        if (!over && !scope.isReadable) return false;
        resolve();
        return true;
      };
      if (!look(this.#group.nowMs())) this.#admissions.push(look);
    });
  }

  /**
   * A write of a scope that may die is remembered block by block (journal/versions.ts).
   * @returns null: there is room for that; else what resolves once there is, or the scope is over
   */
  whenListable(scope: Scope): Promise<void> | null {
    const { order } = this.#group;
    const isListable = (): boolean =>
      order === null || !order.versions.isFull || !order.conflicts.scopeMayDie(scope.sequence);
    if (isListable()) return null;
    return new Promise((resolve) => {
      this.#admissions.push(() => {
        if (!isListable() && scope.ended === null && !this.#group.stopping) return false;
        resolve();
        return true;
      });
    });
  }

  /** Calls back at the first tick from this time on. @returns to be called by who does not wait any more */
  at(time: number, then: () => void): () => void {
    let over = false;
    this.#admissions.push((now) => {
      if (over) return true;
      if (now < time && !this.#group.stopping) return false;
      then();
      return true;
    });
    return () => {
      over = true;
    };
  }

  /** Scopes, locks or the time have moved: who waits for them looks again. */
  pumpAdmissions(): void {
    if (this.#admissions.length === 0) return;
    const now = this.#group.nowMs();
    const waiting = this.#admissions.splice(0).filter((attempt) => !attempt(now));
    this.#admissions.unshift(...waiting);
  }
}

/** What somebody is told whose session was closed while he waited. */
export function sessionClosed(): ForelockError {
  return new ForelockError('ESHUTDOWN', 'the session was closed');
}
