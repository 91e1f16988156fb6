/**
 * Where both sites write: what is told to the order of scopes (mirror/conflict.ts) and to the versions of blocks
 * (journal/versions.ts), and where in the journal a replay has to begin so that both come to the same again.
 *
 * Replay needs more than what the maps lack: own records that are not closed, scopes that are not unlocked. `places`
 * knows, every PLACE_BYTES of journal, how far both streams were; a checkpoint takes the last place before all of it.
 *
 * Transactions. Conflicts is told of every record, for it goes by the LOCKs. Versions is told of staged writes at their
 * COMMIT, with the stamp of their scope, as if they had been written then. That is the same order: their locks keep
 * this site's others off these blocks in between, and a scope of the peer that is later waits for the UNLOCK, at either
 * site; one that is earlier goes beneath, be it placed before the COMMIT or after. No transaction is taken back once it
 * has its COMMIT: it appends nothing but LOCKs before all of these are confirmed, so that the other site has decided and
 * every decision is known here (volume/transaction.ts). Versions of the peer are told with the
 * sequence of the COMMIT: that is when they were placed.
 */
import {
  FLAG_READ_LOCK,
  TYPE_ABORT,
  TYPE_LOCK,
  TYPE_TRIM,
  TYPE_UNLOCK,
  TYPE_WRITE,
  TYPE_ZERO,
} from '../../assembly/layout.js';
import { assert } from '../assert.js';
import type { JournalVolume, RecordOrder } from '../journal/journal.js';
import type { Liveness } from '../journal/liveness.js';
import type { RecordHeader } from '../journal/record.js';
import { isStaged, type StagedRun, type StagedWrite } from '../journal/staged.js';
import type { OrderState } from '../journal/superblock.js';
import { Versions } from '../journal/versions.js';
import { PENDING_SCOPES_MAX } from '../limits.js';
import { Conflicts, type Verdict } from '../mirror/conflict.js';
import type { OpenScope } from '../mirror/target.js';
import { Backlog } from './backlog.js';

const PLACE_BYTES = 65536;

/** A record boundary in the journal, and how far both streams were there. */
interface Place {
  position: number;
  own: number;
  peer: number;
}

export interface DualOrderOptions {
  volumes: ReadonlyMap<number, JournalVolume>;
  ownStaged: StagedRun;
  peerStaged: StagedRun;
  liveness: Liveness;
  /** Where telling begins. */
  from: Place;
  state: OrderState;
}

export class DualOrder implements RecordOrder {
  readonly conflicts: Conflicts;
  readonly versions: Versions;
  /** Of the own stream. */
  readonly backlog: Backlog;
  /** The peer's scopes that are applied, alive and not unlocked. */
  readonly peerScopes = new Map<number, OpenScope>();
  readonly #ownStaged: StagedRun;
  readonly #peerStaged: StagedRun;
  readonly #places: Place[];
  /** Blocks of a first copy stand in the journal behind the last place. */
  #behindBase = false;
  /** When the checkpoint was made, own records stood in the journal and the peer's were applied through these: told again. */
  readonly #retold: { readonly own: number; readonly peer: number };
  /** Received in recovery and not applied yet. */
  readonly #unapplied: { header: RecordHeader; position: number }[] = [];

  constructor(options: DualOrderOptions) {
    const { volumes, liveness, from, state } = options;
    this.conflicts = new Conflicts({ ownBefore: from.own, peerBefore: from.peer, state: state.conflicts });
    this.backlog = new Backlog(from.own);
    this.versions = new Versions({ volumes, liveness, settled: state.settled });
    this.#ownStaged = options.ownStaged;
    this.#peerStaged = options.peerStaged;
    this.#places = [from];
    this.#retold = { own: state.conflicts.appended, peer: state.settled.applied };
  }

  /** A group that one site wrote, or a new one: all that is there is settled. */
  static settled(own: number, peer: number): OrderState {
    return {
      settled: { through: own, applied: peer, peerFrom: peer + 1 },
      conflicts: {
        appended: own,
        closedThrough: own,
        received: peer,
        applied: peer,
        dead: [],
        cascades: [],
        bareMayDieThrough: 0,
      },
    };
  }

  /** A first copy begins the peer's stream here: nothing before it will ever come. */
  beginPeer(through: number): void {
    this.conflicts.beginPeer(through);
  }

  // ---- records, as they come to stand in the journal

  own(header: RecordHeader, position: number): readonly StagedWrite[] {
    this.#place(position, header.sequence - 1, this.conflicts.received);
    this.conflicts.own(header);
    this.backlog.add(header.size);
    const { type } = header;
    const committed = this.#ownStaged.next(header, position);
    for (const write of committed) this.#ownWrite(write.header, write.position);
    if (isWrite(type) && !isStaged(header)) this.#ownWrite(header, position);
    else if (type === TYPE_ABORT) this.versions.abort(header.scope);
    this.#close();
    return committed;
  }

  #ownWrite(header: RecordHeader, position: number): void {
    this.versions.own(header, position, this.conflicts.mayDie(header));
  }

  /** @throws ForelockError PEER_PROTOCOL */
  received(header: RecordHeader, position: number): void {
    this.#place(position, this.conflicts.appended, header.sequence - 1);
    this.conflicts.receive(header);
    this.#close();
  }

  // ---- the peer's records, as they are applied

  verdict(header: RecordHeader): Verdict {
    return this.conflicts.verdict(header);
  }

  /** The verdict was not `wait`, and the record has its lock. @returns what shows with it that had been staged */
  applied(header: RecordHeader, position: number, again = false): readonly StagedWrite[] {
    const verdict = this.conflicts.apply(header, again);
    assert(verdict !== 'wait', 'a record that waits is not applied');
    const { type, sequence, flags, volume, lba, blockCount } = header;
    let committed: readonly StagedWrite[] = [];
    if (verdict === 'apply') {
      committed = this.#peerStaged.next(header, position);
      for (const write of committed) {
        write.header.sequence = sequence;
        this.versions.peer(write.header, write.position);
      }
      if (isStaged(header)) return committed;
      if (isWrite(type)) this.versions.peer(header, position);
      else if (type === TYPE_LOCK) {
        if ((flags & FLAG_READ_LOCK) === 0) this.versions.peerLock(header);
        this.peerScopes.set(sequence, { sequence, flags, volume, lba, blockCount });
      } else if (type === TYPE_UNLOCK || type === TYPE_ABORT) {
        this.versions.peerUnlock(header.scope);
        this.peerScopes.delete(header.scope);
      }
    }
    this.#close();
    return committed;
  }

  /** The peer has our stream to `through`, and had its own to `horizon` then. */
  confirmed(through: number, horizon: number): void {
    this.conflicts.confirmed(through, horizon);
    this.#close();
  }

  /**
   * Own writes that are closed are forgotten. In a replay only once all is told again: an ABORT may still take some of
   * them out, and a write may have to be held for a scope of the peer.
   */
  #close(): void {
    const { applied, appended, closedThrough } = this.conflicts;
    if (applied >= this.#retold.peer && appended >= this.#retold.own) this.versions.close(closedThrough);
  }

  /** An own scope is dead, and its ABORT does not stand in the journal yet: no checkpoint may be taken now. */
  get isUndecided(): boolean {
    return this.conflicts.doomed.size > 0;
  }

  /** So many scopes of the peer wait to be applied that no more should be taken. */
  get isFull(): boolean {
    return this.conflicts.backlog >= PENDING_SCOPES_MAX;
  }

  /**
   * A generation is minted here. What goes before is settled, and telling begins behind it: the peer's scopes that have
   * ended now would stay open if their LOCKs were told again.
   */
  minted(position: number): void {
    const { conflicts } = this;
    conflicts.minted();
    this.#close();
    this.versions.minted();
    this.peerScopes.clear();
    this.#peerStaged.truncate(0);
    this.#places.splice(0, this.#places.length, { position, own: conflicts.appended, peer: conflicts.received });
  }

  isListed(volume: number, lba: number): boolean {
    return this.versions.isListed(volume, lba);
  }

  get listsEnded(): number {
    return this.versions.listsEnded;
  }

  // ---- recovery

  replayReceived(header: RecordHeader, position: number): void {
    this.received(header, position);
    this.#unapplied.push({ header: header.copy(), position });
  }

  replayApplied(through: number): void {
    let count = 0;
    for (const { header, position } of this.#unapplied) {
      if (header.sequence > through) break;
      this.applied(header, position, true);
      count += 1;
    }
    this.#unapplied.splice(0, count);
  }

  /** Where the commit log begins after recovery, or null if all of it is applied. */
  get firstUnapplied(): number | null {
    return this.#unapplied[0]?.position ?? null;
  }

  /**
   * A block of a first copy. Told again, it would cover what came on top of it and is settled: no replay may begin before
   * it once that is so. Until then one may begin anywhere in the copy, or what was copied before could not be freed.
   */
  baseApplied(position: number): void {
    this.#behindBase = false;
    this.#place(position, this.conflicts.appended, this.conflicts.received);
    this.#behindBase = true;
  }

  // ---- checkpoints

  /**
   * The last place before everything that has to be told again, and what is known there.
   * @param limit a position that it must not be behind
   */
  checkpoint(limit: number): { place: Place; state: OrderState } {
    const { conflicts, versions } = this;
    const place = this.#placeBefore(limit);
    const peer = Math.min(conflicts.oldestPeer, versions.peerFrom);
    const { dead, cascades, ...rest } = conflicts.state(place.peer);
    return {
      place,
      state: {
        settled: { through: versions.settledThrough, applied: conflicts.applied, peerFrom: peer },
        conflicts: { ...rest, dead: [...dead], cascades: cascades.map(([session, below]) => [session, below]) },
      },
    };
  }

  /** Where a replay would begin now. */
  replayFrom(limit: number): number {
    return this.#placeBefore(limit).position;
  }

  #placeBefore(limit: number): Place {
    const own = Math.min(this.conflicts.oldestOwn, this.versions.settledThrough + 1);
    const peer = Math.min(this.conflicts.oldestPeer, this.versions.peerFrom);
    const places = this.#places;
    let count = 0;
    for (let next = places[1]; next !== undefined; next = places[count + 1]) {
      if (next.own >= own || next.peer >= peer || next.position > limit) break;
      count += 1;
    }
    places.splice(0, count); // what has to be told again only moves on
    return places[0]!;
  }

  #place(position: number, own: number, peer: number): void {
    if (this.#behindBase || position - this.#places[this.#places.length - 1]!.position >= PLACE_BYTES) {
      this.#behindBase = false;
      this.#places.push({ position, own, peer });
    }
  }
}

function isWrite(type: number): boolean {
  return type === TYPE_WRITE || type === TYPE_ZERO || type === TYPE_TRIM;
}
