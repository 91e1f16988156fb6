/**
 * Target end of a stream: what to accept, when to lock, what to answer.
 *
 * The commit log is the part of the received stream that is not applied: (applied, received].
 *
 * Sans-IO: no socket, clock, timer or disk in here. `step` takes what happened, `drain` gives what to do, `admit`
 * decides about the head of the commit log.
 *
 *     away      --connected, no base-->         streaming
 *     away      --connected, base-->            base       base records (sequence 0) first
 *     base      --BASE_END accepted-->          streaming  from start + 1
 *     any       --bad(sequence)-->              resyncing  NAK; everything of this attempt is dropped
 *     resyncing --attempt + 1, from sequence--> base or streaming
 *     streaming --rejected, retransmit-->       dropped    NAK; what was received from the record on is no more
 *     dropped   --its lock can be had-->        resyncing  told by the CONFIRM; the range stays wanted until it was had
 *     any       --disconnected-->               away       open scopes stay: they are in the stream
 *     any       --peer broke protocol-->        broken     until the next connected
 *
 * Invariant: accepted >= received >= granted >= applied, received >= durable.
 * `accepted` is what came in whole and in order, `received` what was verified and given to the journal.
 *
 * How a record gets its lock (`admit`, one record after the other; the driver applies a record before it asks about
 * the next):
 *
 *     LOCK                       takes the range for the scope, which holds it to its UNLOCK
 *     WRITE, ZERO, TRIM, BASE    scope == sequence: needs the range free for this moment
 *     WRITE, ZERO, TRIM          inside an open scope: needs nothing, but must lie within the scope
 *     UNLOCK                     gives the range back
 *     FLUSH, ABORT               need nothing
 *     WRITE, staged              needs nothing, but must lie within its scope; it shows at its COMMIT (journal/staged.ts)
 *     COMMIT                     needs nothing where its scopes are open; it must count what was staged
 *
 * A scope that was open when the base copy began has its LOCK before the start of what this site gets: its writes need
 * the range free for the moment, its UNLOCK nothing. What it staged needs it at the COMMIT, which shows it.
 *
 * What must wait is REJECTED: the confirm names it, and the lock manager gives nobody else any of its blocks first. Under
 * retransmit the record and all behind it are dropped and come again. What may be dropped must not have been promised:
 * `kept` is the last sequence that stays whatever happens (what the site had when the epoch began, and told in HELLO and
 * READY), and only what is kept or granted is confirmed as received and durable. A record that is kept, a base record
 * and one that is looked at without a link wait as under target-retry.
 *
 * A record that can never be applied (its scope is not open, its lock is the stream's own already) is refused, with all
 * behind it: there is no link any more until a start, and they are taken back from the journal.
 */
import {
  FLAG_READ_LOCK,
  FLAG_STAGED,
  TYPE_ABORT,
  TYPE_BASE,
  TYPE_BASE_ZERO,
  TYPE_COMMIT,
  TYPE_FLUSH,
  TYPE_LOCK,
  TYPE_TRIM,
  TYPE_UNLOCK,
  TYPE_WRITE,
  TYPE_ZERO,
} from '../../assembly/layout.js';
import { assert, fail } from '../assert.js';
import { CREDIT_BYTES, MESSAGE_SIZE_MAX, SCOPES_MAX } from '../limits.js';
import type { LockRequest, RangeLocks } from '../volume/locks.js';
import { type BasePosition, positionBefore } from './base.js';
import { StagedGrants } from './staged-grants.js';
import { type Confirm, NAK_CHECK, NAK_REJECTED, type RejectPolicy } from './wire.js';

export type TargetPhase = 'away' | 'base' | 'streaming' | 'broken';
export type DropReason = 'old epoch' | 'old attempt' | 'duplicate' | 'away';

/** An unfinished or not yet caught-up base copy, as the target keeps it on disk. */
export interface TargetBase {
  /** Sequence after which the stream continues behind the base copy. */
  start: number;
  /** Next base record expected; what lies before it was verified and is in the journal. */
  next: BasePosition;
  /**
   * The image is consistent once this is applied; null until the base copy is whole and verified. The driver notes it
   * in the journal before it journals the first record of the stream behind the copy: after a crash, an unfinished
   * copy with records behind it could neither be resumed nor begun anew.
   */
  end: number | null;
}

export type TargetEvent =
  /** A new epoch. `base` when a base copy begins or goes on in it; null also when a whole one is being caught up with. */
  | { kind: 'connected'; epoch: number; base: { start: number; next: BasePosition } | null; onReject: RejectPolicy }
  | { kind: 'disconnected' }
  /** A DATA frame with its stretch. `first` is 0 for base records; `baseEnd`: BASE_END, with the source's appended then. */
  | {
      kind: 'frame';
      epoch: number;
      attempt: number;
      first: number;
      count: number;
      bytes: number;
      baseEnd: number | null;
    }
  /** Accepted records are good, through this one, and are in the journal (in memory). In the order of acceptance. */
  | { kind: 'verified'; epoch: number; attempt: number; through: number }
  /** `count` accepted base records are good and in the journal; the next one lies at or behind `next`. */
  | { kind: 'baseVerified'; epoch: number; attempt: number; count: number; next: BasePosition }
  /** The record after the last verified one failed its check. `sequence` 0: a base record. */
  | { kind: 'bad'; epoch: number; attempt: number; sequence: number }
  /** On this disk, through this record. */
  | { kind: 'durable'; through: number }
  /** Base records before `next` are on this disk. */
  | { kind: 'baseDurable'; next: BasePosition }
  /** `count` more verified base records are applied. */
  | { kind: 'baseApplied'; count: number }
  /** Accepted bytes are in the journal, or were thrown away after a NAK. */
  | { kind: 'consumed'; bytes: number }
  /** So much more than was consumed can be taken for certain: no more is promised. Told before `consumed`. */
  | { kind: 'room'; bytes: number }
  | { kind: 'applied'; through: number }
  /** What was refused, and all behind it, is no more in the journal. */
  | { kind: 'takenBack' }
  /** Away: records that came with the lost tail of this site's own stream, and are in the journal. */
  | { kind: 'returned'; through: number }
  /** Retransmit: what was received so far cannot be dropped any more. */
  | { kind: 'keep' }
  /** Locks were released, at this time. */
  | { kind: 'locksMoved' };

export type TargetEffect =
  | { kind: 'accept'; epoch: number; attempt: number; first: number; count: number; bytes: number }
  /** Throw the stretch away (counted). Its credit, if it has cost any, is given back already. */
  | { kind: 'drop'; reason: DropReason; bytes: number }
  /** Answer NAK; throw away everything accepted of this attempt and not yet verified. */
  | { kind: 'nak'; epoch: number; attempt: number; sequence: number; base: BasePosition | null; reason: number }
  /** The head of the commit log has to wait for its lock; said once per record. */
  | { kind: 'rejected'; sequence: number; volume: number; lba: number; blockCount: number }
  /** Behind this sequence nothing was received: `count` records, given to the journal, are no more of the stream. */
  | { kind: 'dropped'; through: number; count: number }
  /** It has its lock. */
  | { kind: 'granted'; sequence: number }
  /** The base copy is applied, caught up with and durable: the image is the source's at one point. */
  | { kind: 'consistent' }
  /**
   * The head of the commit log, behind this sequence, can never be applied: take it and all behind it out of the journal,
   * if that can be (step `takenBack`), or the next start would apply it.
   */
  | { kind: 'refused'; through: number }
  /** The peer broke the protocol: close the link. */
  | { kind: 'broken'; reason: string };

export const APPLY = 1;
export const WAIT = 0;
export type Admission = typeof APPLY | typeof WAIT;

/** An open scope, for checkpoints: given back through `replayed` as its LOCK. */
export interface OpenScope {
  sequence: number;
  flags: number;
  volume: number;
  lba: number;
  blockCount: number;
}

/** What is read of the head record; a RecordHeader is one. */
export interface HeadRecord {
  readonly type: number;
  readonly flags: number;
  readonly volume: number;
  readonly lba: number;
  readonly blockCount: number;
  readonly scope: number;
  readonly sequence: number;
  readonly size: number;
}

/** Where both sites write: what the order of their scopes says of the head record (mirror/conflict.ts). */
export interface Judge {
  /** apply: with its lock, past scopes of this site's own stream. skip: its scope is dead. wait: for an own UNLOCK. */
  verdict(record: HeadRecord): 'apply' | 'skip' | 'wait';
}

export interface TargetOptions {
  /** Lock managers by volume number. */
  locks: ReadonlyMap<number, RangeLocks>;
  received: number;
  applied: number;
  durable: number;
  base: TargetBase | null;
  /** Start of the base copy with which this site took up the stream, kept for good; 0 if it has the stream from 1. */
  start: number;
  /** What was staged and applied: of a transaction that goes on. */
  staged?: { readonly writes: readonly { readonly header: HeadRecord }[] };
  judge?: Judge | null;
  creditBytes?: number;
  /** Whether a base copy that ends in front of `next` has everything. Left out: it has. */
  isWhole?: (next: BasePosition) => boolean;
}

interface Scope extends OpenScope {
  lock: LockRequest;
}

/** A record that was dropped, and will find its lock when it comes again. */
interface Dropped {
  sequence: number;
  lba: number;
  blockCount: number;
}

export class TargetStream {
  readonly #locks: ReadonlyMap<number, RangeLocks>;
  readonly #judge: Judge | null;
  readonly #creditMax: number;
  readonly #isWhole: (next: BasePosition) => boolean;
  #phase: TargetPhase = 'away';
  #accepted: number;
  #received: number;
  #granted: number;
  #applied: number;
  #durable: number;

  #epoch = 0;
  #attempt = 0;
  /** After a NAK: the sequence with which the attempt must begin; 0 for the base copy; -1 when none is awaited. */
  #awaited = -1;
  #arrivedBytes = 0;
  #consumedBytes = 0;
  #room = Number.POSITIVE_INFINITY;
  #creditBytes = 0;
  #base: TargetBase | null;
  #start: number;
  /** A base copy was begun or resumed in this epoch. */
  #baseInEpoch = false;
  #baseDurable: BasePosition = { volume: 0, lba: 0 };
  /** What BASE_END said; becomes base.end when everything before it is verified. */
  #baseEnd: number | null = null;
  /** Base records of this process: accepted >= verified >= applied. */
  #baseAccepted = 0;
  #baseVerifiedCount = 0;
  #baseApplied = 0;
  /** Why the commit log cannot be applied: a record in it makes no sense, and a new link does not mend that. */
  #poison: string | null = null;

  /** Of staged writes since the last record that is none. */
  readonly #staged = new StagedGrants();
  readonly #scopes = new Map<number, Scope>();
  #onReject: RejectPolicy = 'target-retry';
  #kept: number;
  #dropped: Dropped | null = null;
  #rejected = 0;
  /** The head that waits, by its own lock manager; null when nothing waits. */
  #waitingAt: RangeLocks | null = null;
  /** The head was granted after a wait, and is about to be applied. */
  #had = false;
  #dirty = false;

  #effects: TargetEffect[] = [];
  #spare: TargetEffect[] = [];
  readonly #confirm: Confirm = {
    epoch: 0,
    attempt: 0,
    received: 0,
    granted: 0,
    applied: 0,
    durable: 0,
    creditBytes: 0,
    rejected: 0,
    base: null,
    consistent: false,
    horizon: 0,
    returned: false,
  };

  constructor(options: TargetOptions) {
    this.#locks = options.locks;
    this.#judge = options.judge ?? null;
    this.#creditMax = options.creditBytes ?? CREDIT_BYTES;
    this.#isWhole = options.isWhole ?? (() => true);
    this.#received = options.received;
    this.#accepted = options.received;
    this.#kept = options.received;
    this.#granted = options.applied;
    this.#applied = options.applied;
    this.#durable = options.durable;
    this.#base = options.base;
    this.#start = options.start;
    for (const { header } of options.staged?.writes ?? []) this.#staged.add(header, header.scope <= options.start);
    this.#baseDurable = options.base?.next ?? this.#baseDurable;
    this.#caughtUp();
    this.#check();
  }

  get phase(): TargetPhase {
    return this.#phase;
  }
  get epoch(): number {
    return this.#epoch;
  }
  get attempt(): number {
    return this.#attempt;
  }
  get accepted(): number {
    return this.#accepted;
  }
  get received(): number {
    return this.#received;
  }
  get granted(): number {
    return this.#granted;
  }
  get applied(): number {
    return this.#applied;
  }
  get durable(): number {
    return this.#durable;
  }
  /** Sequence that waits for its lock, or 0. */
  get rejected(): number {
    return this.#rejected;
  }
  /** What was rejected was dropped, and is to come again. */
  get rewound(): boolean {
    return this.#dropped !== null;
  }
  /** The source's policy. */
  get onReject(): RejectPolicy {
    return this.#onReject;
  }
  /** Cumulative bytes that the source may have sent in this epoch. */
  get creditBytes(): number {
    return this.#creditBytes;
  }
  /** Null when there is no base copy, or it is caught up with. */
  get base(): TargetBase | null {
    return this.#base;
  }
  /** May the image be shown as one point of the source's history? */
  get consistent(): boolean {
    return this.#base === null;
  }

  /** Are frames of this epoch and attempt still wanted? If not, the driver throws their unverified records away. */
  current(epoch: number, attempt: number): boolean {
    return epoch === this.#epoch && attempt === this.#attempt && this.#live;
  }

  /** What to do since the last call. The list is the caller's until the next call. */
  drain(): readonly TargetEffect[] {
    const effects = this.#effects;
    this.#spare.length = 0;
    this.#effects = this.#spare;
    this.#spare = effects;
    return effects;
  }

  /** The machine's one way in. Events are not kept: the driver may use them again. */
  step(event: TargetEvent): void {
    switch (event.kind) {
      case 'connected':
        this.#connected(event.epoch, event.base, event.onReject);
        break;
      case 'disconnected':
        this.#phase = 'away';
        this.#forgetUnverified();
        // the record is nowhere here: nobody need wait for it until it comes again
        if (this.#dropped !== null) this.#endWait();
        break;
      case 'frame':
        this.#frame(event);
        break;
      case 'verified':
        if (this.current(event.epoch, event.attempt)) this.#verified(event.through);
        break;
      case 'baseVerified':
        if (this.current(event.epoch, event.attempt)) this.#baseVerified(event.count, event.next);
        break;
      case 'bad':
        if (this.current(event.epoch, event.attempt)) this.#bad(event.sequence);
        break;
      case 'durable':
        if (!(event.through >= this.#durable)) fail(`durable ${event.through} after ${this.#durable}`);
        if (event.through > this.#durable) this.#dirty = true;
        this.#durable = event.through;
        this.#caughtUp();
        break;
      case 'baseDurable':
        this.#baseDurable = { volume: event.next.volume, lba: event.next.lba };
        this.#dirty = true;
        this.#caughtUp();
        break;
      case 'baseApplied':
        this.#baseApplied += event.count;
        if (this.#had) this.#endWait();
        this.#caughtUp();
        break;
      case 'consumed':
        this.#consumed(event.bytes);
        break;
      case 'room':
        this.#room = event.bytes;
        this.#giveCredit();
        break;
      case 'returned':
        assert(this.#phase === 'away', `records returned while ${this.#phase}`);
        this.#received = event.through;
        this.#accepted = event.through;
        break;
      case 'applied':
        this.#appliedThrough(event.through);
        break;
      case 'takenBack':
        this.#received = this.#granted;
        this.#accepted = this.#granted;
        this.#kept = this.#granted;
        this.#durable = Math.min(this.#durable, this.#granted);
        break;
      case 'keep':
        if (this.#kept < this.#received) this.#dirty = true;
        this.#kept = this.#received;
        break;
      case 'locksMoved':
        this.#lookAtDropped();
        break;
    }
    this.#check();
  }

  /** Has something moved since the last `takeConfirm`? Asked once per turn: that is the coalescing. */
  confirmDue(): boolean {
    return this.#dirty && this.#live;
  }

  /** What was last told is to be told again. */
  confirmAgain(): void {
    this.#dirty = true;
  }

  /** The confirm to send now. The object is used again by the next call. */
  takeConfirm(): Confirm {
    const confirm = this.#confirm;
    confirm.epoch = this.#epoch;
    confirm.attempt = this.#attempt;
    confirm.received = this.#promised;
    confirm.granted = this.#granted;
    confirm.applied = this.#applied;
    confirm.durable = Math.min(this.#durable, this.#promised);
    confirm.creditBytes = this.creditBytes;
    confirm.rejected = this.#rejected;
    confirm.base = this.#baseInEpoch ? this.#baseDurable : null;
    confirm.consistent = this.#base === null;
    this.#dirty = false;
    return confirm;
  }

  /** Last sequence that will not be dropped any more. */
  get #promised(): number {
    return this.#onReject === 'retransmit' ? Math.max(this.#kept, this.#granted) : this.#received;
  }

  // ---- the apply loop

  /**
   * May the head record of the commit log be applied now? With APPLY it is granted: the driver applies it at once, in
   * the same turn, and steps `applied` (for a whole run of records, before it looks at anything else). With WAIT it
   * asks again when locks were released or expired. Sequence 0 is a base record's.
   */
  admit(record: HeadRecord, now: number): Admission {
    const { type, flags, volume, lba, blockCount, sequence } = record;
    if (this.#poison !== null) return WAIT;
    if (sequence !== 0) {
      if (sequence > this.#received || (sequence !== this.#granted && sequence !== this.#granted + 1))
        fail(`admit ${sequence}: granted ${this.#granted}, received ${this.#received}`);
      if (sequence === this.#granted) return APPLY;
    }
    if (this.#had) this.#endWait(); // what was granted last is applied by now
    if (this.#judge !== null && sequence !== 0) {
      const verdict = this.#judge.verdict(record);
      if (verdict === 'skip') {
        this.#staged.end();
        return this.#grant(sequence);
      }
      const locks = this.#locks.get(volume);
      if (verdict === 'wait' && locks !== undefined) return this.#wait(locks, volume, lba, blockCount, sequence, now);
    }
    if (type === TYPE_WRITE && (flags & FLAG_STAGED) !== 0) return this.#admitStaged(record, now);
    const admission = this.#admitUnstaged(record, now);
    if (admission === APPLY) this.#staged.end();
    return admission;
  }

  #admitUnstaged({ type, flags, volume, lba, blockCount, scope, sequence }: HeadRecord, now: number): Admission {
    switch (type) {
      case TYPE_LOCK:
        return this.#admitLock(flags, volume, lba, blockCount, sequence, now);
      case TYPE_WRITE:
      case TYPE_ZERO:
      case TYPE_TRIM:
        if (scope !== sequence) return this.#admitWithin(volume, lba, blockCount, scope, sequence, now);
        return this.#admitMoment(volume, lba, blockCount, sequence, now);
      case TYPE_BASE:
      case TYPE_BASE_ZERO:
        return this.#admitMoment(volume, lba, blockCount, 0, now);
      case TYPE_UNLOCK:
        return this.#admitUnlock(volume, scope, sequence);
      case TYPE_ABORT:
        this.#release(scope);
        return this.#grant(sequence);
      case TYPE_COMMIT:
        return this.#admitCommit(blockCount, sequence, now);
      case TYPE_FLUSH:
        return this.#grant(sequence);
      default:
        return this.#refuse(`record ${sequence} has type ${type}, which is none of a stream's`);
    }
  }

  /**
   * Recovery: the driver replays (in order) the records at or below `applied` that it read back, or the open scopes of
   * a checkpoint as their LOCK records. Rebuilds the mirror's open scopes, before any host may lock.
   */
  replayed(
    type: number,
    flags: number,
    volume: number,
    lba: number,
    blockCount: number,
    scope: number,
    sequence: number,
  ): void {
    assert(this.#phase === 'away' && sequence <= this.#applied, `replay of ${sequence} while ${this.#phase}`);
    if (type === TYPE_LOCK) {
      const locks = this.#locks.get(volume);
      const lock = locks?.mirrorTake((flags & FLAG_READ_LOCK) !== 0 ? 'read' : 'write', lba, blockCount) ?? null;
      assert(lock !== null, `replay of LOCK ${sequence}: its range is taken`);
      this.#scopes.set(sequence, { sequence, flags, volume, lba, blockCount, lock });
    } else if (type === TYPE_UNLOCK) {
      this.#release(scope);
    }
  }

  /** Scopes that are locked and not yet unlocked, for checkpoints and status. */
  openScopes(): OpenScope[] {
    return Array.from(this.#scopes.values(), ({ sequence, flags, volume, lba, blockCount }) => ({
      sequence,
      flags,
      volume,
      lba,
      blockCount,
    }));
  }

  /** The stream ends for good (this site is promoted, or the pair is taken apart): gives all its locks back. */
  closeScopes(): void {
    for (const sequence of [...this.#scopes.keys()]) this.#release(sequence);
    this.#staged.end();
    this.#endWait();
  }

  #admitLock(flags: number, volume: number, lba: number, blockCount: number, sequence: number, now: number): Admission {
    const locks = this.#locks.get(volume);
    if (locks === undefined || !locks.contains(lba, blockCount)) {
      return this.#refuse(`LOCK ${sequence} is about volume ${volume} blocks ${lba}+${blockCount}, which do not exist`);
    }
    if (this.#scopes.size >= SCOPES_MAX) return this.#refuse(`LOCK ${sequence}: more than ${SCOPES_MAX} open scopes`);
    if (locks.mirrorHolds(lba, blockCount)) return this.#refuse(`LOCK ${sequence} overlaps a scope that is open`);
    const mode = (flags & FLAG_READ_LOCK) !== 0 ? 'read' : 'write';
    const lock = locks.mirrorTake(mode, lba, blockCount, this.#judge !== null);
    if (lock === null) return this.#wait(locks, volume, lba, blockCount, sequence, now);
    this.#scopes.set(sequence, { sequence, flags, volume, lba, blockCount, lock });
    return this.#grant(sequence);
  }

  #admitMoment(volume: number, lba: number, blockCount: number, sequence: number, now: number): Admission {
    const locks = this.#locks.get(volume);
    if (locks === undefined || !locks.contains(lba, blockCount)) {
      return this.#refuse(`record ${sequence} writes volume ${volume} blocks ${lba}+${blockCount}, which do not exist`);
    }
    if (!locks.mirrorFree(lba, blockCount, this.#judge !== null)) {
      return this.#wait(locks, volume, lba, blockCount, sequence, now);
    }
    return this.#grant(sequence);
  }

  #admitWithin(
    volume: number,
    lba: number,
    blockCount: number,
    scope: number,
    sequence: number,
    now: number,
  ): Admission {
    const open = this.#scopes.get(scope);
    if (open === undefined && scope <= this.#start) return this.#admitMoment(volume, lba, blockCount, sequence, now);
    if (open === undefined) return this.#refuse(`record ${sequence} belongs to scope ${scope}, which is not open`);
    if (volume !== open.volume || lba < open.lba || lba + blockCount > open.lba + open.blockCount) {
      return this.#refuse(`record ${sequence} writes ${lba}+${blockCount}, outside its scope ${scope}`);
    }
    return this.#grant(sequence);
  }

  #admitStaged(record: HeadRecord, now: number): Admission {
    const { volume, lba, blockCount, scope, sequence, size } = record;
    if (scope === sequence) return this.#refuse(`record ${sequence} is staged outside of a scope`);
    const tooLarge = this.#staged.tooLarge(size);
    if (tooLarge !== null) return this.#refuse(`record ${sequence} makes ${tooLarge}`);
    const isBare = scope <= this.#start && !this.#scopes.has(scope);
    if (isBare && this.#locks.get(volume)?.contains(lba, blockCount) !== true)
      return this.#refuse(`record ${sequence} writes volume ${volume} blocks ${lba}+${blockCount}, which do not exist`);
    const admission = isBare ? this.#grant(sequence) : this.#admitWithin(volume, lba, blockCount, scope, sequence, now);
    if (admission === APPLY) this.#staged.add(record, isBare);
    return admission;
  }

  #admitCommit(count: number, sequence: number, now: number): Admission {
    if (count !== this.#staged.count)
      return this.#refuse(`COMMIT ${sequence} of ${count} writes, ${this.#staged.count} are there`);
    for (const { volume, lba, blockCount } of this.#staged.bare) {
      const locks = this.#locks.get(volume)!;
      if (!locks.mirrorFree(lba, blockCount)) return this.#wait(locks, volume, lba, blockCount, sequence, now);
    }
    return this.#grant(sequence);
  }

  #admitUnlock(volume: number, scope: number, sequence: number): Admission {
    const open = this.#scopes.get(scope);
    // where both sites write, one that went on alone has ended the other's scopes
    if (open === undefined && (scope <= this.#start || this.#judge !== null)) return this.#grant(sequence);
    if (open === undefined || open.volume !== volume) {
      return this.#refuse(`UNLOCK ${sequence} of scope ${scope}, which is not open`);
    }
    this.#release(scope);
    return this.#grant(sequence);
  }

  #release(scope: number): void {
    const open = this.#scopes.get(scope);
    if (open === undefined) return;
    this.#scopes.delete(scope);
    this.#locks.get(open.volume)!.release(open.lock);
  }

  #grant(sequence: number): Admission {
    if (sequence !== 0) this.#granted = sequence;
    this.#dirty = true;
    if (this.#waitingAt !== null && !this.#had) {
      // the blocks are let go to others only once the record is applied
      this.#had = true;
      this.#rejected = 0;
      this.#effects.push({ kind: 'granted', sequence });
    }
    return APPLY;
  }

  #wait(locks: RangeLocks, volume: number, lba: number, blockCount: number, sequence: number, now: number): Admission {
    locks.mirrorWants(lba, blockCount, now);
    if (this.#waitingAt !== null && this.#waitingAt !== locks) {
      // a COMMIT whose blocks of one volume are free by now, and those of another are not
      this.#waitingAt.mirrorHad();
      this.#waitingAt = locks;
    }
    if (this.#waitingAt === null) {
      this.#waitingAt = locks;
      this.#rejected = sequence;
      this.#dirty = true;
      this.#effects.push({ kind: 'rejected', sequence, volume, lba, blockCount });
      if (this.#onReject === 'retransmit' && sequence > this.#kept && this.#live) this.#drop(sequence, lba, blockCount);
    }
    return WAIT;
  }

  /** Drops the commit log from this record on, which is its head. */
  #drop(sequence: number, lba: number, blockCount: number): void {
    const through = sequence - 1;
    this.#effects.push({ kind: 'dropped', through, count: this.#received - through });
    this.#dropped = { sequence, lba, blockCount };
    this.#received = through;
    this.#durable = Math.min(this.#durable, through);
    this.#again(sequence, NAK_REJECTED, null);
  }

  /** The range is wanted, so whoever is gone from it has no successor: the record will find its lock. */
  #lookAtDropped(): void {
    const dropped = this.#dropped;
    if (dropped === null || this.#rejected === 0 || !this.#waitingAt!.mirrorFree(dropped.lba, dropped.blockCount))
      return;
    this.#rejected = 0;
    this.#dirty = true;
  }

  #endWait(): void {
    this.#waitingAt?.mirrorHad();
    this.#waitingAt = null;
    this.#dropped = null;
    this.#had = false;
    this.#rejected = 0;
  }

  #refuse(reason: string): Admission {
    this.#poison = reason;
    this.#effects.push({ kind: 'refused', through: this.#granted });
    this.#break(reason);
    return WAIT;
  }

  // ---- transitions

  #connected(epoch: number, base: { start: number; next: BasePosition } | null, onReject: RejectPolicy): void {
    if (epoch <= this.#epoch) {
      this.#break(`epoch ${epoch} after ${this.#epoch}`);
      return;
    }
    this.#epoch = epoch;
    this.#attempt = 0;
    this.#awaited = -1;
    this.#arrivedBytes = 0;
    this.#consumedBytes = 0;
    this.#creditBytes = 0;
    this.#giveCredit();
    this.#baseInEpoch = base !== null;
    this.#onReject = onReject;
    if (this.#dropped !== null) this.#endWait();
    this.#dirty = true;
    this.#phase = base === null ? 'streaming' : 'base';
    this.#forgetUnverified();
    if (this.#poison !== null) {
      this.#break(this.#poison);
      return;
    }
    if (base === null && this.#base !== null && this.#base.end === null) {
      this.#break('the base copy is not whole, and the source wants to go on without it');
      return;
    }
    if (base !== null) {
      if (base.start < this.#received) {
        this.#break(`a base copy from ${base.start}, behind ${this.#received}`);
        return;
      }
      this.#base = { start: base.start, next: { volume: base.next.volume, lba: base.next.lba }, end: null };
      // taken up again where it was verified, which may be further than it is durable
      if (positionBefore(base.next, this.#baseDurable)) this.#baseDurable = this.#base.next;
      this.#received = base.start;
      this.#granted = base.start;
      this.#applied = base.start;
      this.#durable = base.start;
      this.#accepted = base.start;
      this.#start = base.start;
      this.#staged.end();
    }
    this.#kept = this.#received;
  }

  /** What was accepted and not verified is thrown away by the driver and comes again. */
  #forgetUnverified(): void {
    this.#accepted = this.#received;
    this.#baseAccepted = this.#baseVerifiedCount;
    if (this.#base?.end === null) this.#baseEnd = null;
  }

  #frame(event: Extract<TargetEvent, { kind: 'frame' }>): void {
    const { epoch, attempt, first, count, bytes, baseEnd } = event;
    if (!this.#live) {
      this.#ignore('away', bytes);
      return;
    }
    if (epoch < this.#epoch) {
      this.#ignore('old epoch', bytes);
      return;
    }
    if (epoch > this.#epoch) {
      this.#break(`frame of epoch ${epoch} in epoch ${this.#epoch}`);
      return;
    }
    this.#arrivedBytes += bytes;
    // one record may overshoot what is left of the credit
    if (this.#arrivedBytes > this.creditBytes + MESSAGE_SIZE_MAX) {
      this.#break(`${this.#arrivedBytes} bytes sent, ${this.creditBytes} allowed`);
      return;
    }
    if (attempt > this.#attempt) {
      this.#break(`frame of attempt ${attempt}, not asked for`);
      return;
    }
    if (attempt < this.#attempt) {
      this.#ignoreConsumed('old attempt', bytes);
      return;
    }
    if (count === 0 && bytes !== 0) {
      this.#break(`${bytes} bytes of no records`);
      return;
    }
    if (baseEnd !== null || (first === 0 && count > 0)) {
      this.#baseFrame(event);
      return;
    }
    if (count === 0) return; // the source's cursors only
    if (this.#phase === 'base') {
      this.#break(`record ${first} before the end of the base copy`);
      return;
    }
    const last = first + count - 1;
    if (this.#awaited !== -1) {
      if (first !== this.#awaited) {
        this.#break(`attempt ${attempt} begins at ${first}, not at ${this.#awaited}`);
        return;
      }
      this.#awaited = -1;
    }
    if (last <= this.#accepted) {
      // the link said it twice, the source has paid for it once: given back, it would be credit without end
      this.#arrivedBytes -= bytes;
      this.#ignore('duplicate', bytes);
      return;
    }
    if (first !== this.#accepted + 1) {
      this.#break(
        `records ${first}..${last} after ${this.#accepted}: ${first > this.#accepted ? 'a gap' : 'an overlap'}`,
      );
      return;
    }
    this.#accepted = last;
    this.#effects.push({ kind: 'accept', epoch, attempt, first, count, bytes });
  }

  #baseFrame(event: Extract<TargetEvent, { kind: 'frame' }>): void {
    const { epoch, attempt, first, count, bytes, baseEnd } = event;
    if (this.#phase !== 'base' || first !== 0) {
      this.#break('base records, but no base copy was agreed on');
      return;
    }
    this.#awaited = -1;
    const base = this.#base!;
    if (baseEnd !== null && baseEnd < base.start) {
      this.#break(`the base copy began at ${base.start} and ends at ${baseEnd}`);
      return;
    }
    if (count > 0) {
      this.#baseAccepted += count;
      this.#effects.push({ kind: 'accept', epoch, attempt, first, count, bytes });
    }
    if (baseEnd === null) return;
    this.#baseEnd = baseEnd;
    this.#phase = 'streaming';
    this.#baseWhole();
  }

  #baseWhole(): void {
    const end = this.#baseEnd;
    if (end === null || this.#baseVerifiedCount !== this.#baseAccepted) return;
    const base = this.#base!;
    this.#baseEnd = null;
    if (!this.#isWhole(base.next)) {
      this.#break(`the base copy ends at ${base.next.volume}:${base.next.lba}, and is not whole`);
      return;
    }
    base.end = end;
    this.#caughtUp();
  }

  #verified(through: number): void {
    if (through > this.#accepted || through < this.#received) {
      assert(false, `verified ${through} of (${this.#received}, ${this.#accepted}]`);
    }
    if (through > this.#received) this.#dirty = true;
    this.#received = through;
    // it is the head of the commit log again, and waits there if it must
    if (this.#dropped !== null && through >= this.#dropped.sequence) this.#dropped = null;
  }

  #baseVerified(count: number, next: BasePosition): void {
    const base = this.#base;
    assert(base !== null && this.#baseInEpoch, 'base records verified, but there is no base copy');
    assert(this.#baseVerifiedCount + count <= this.#baseAccepted, 'no more base records verified than accepted');
    if (positionBefore(next, base.next)) {
      this.#break(`the base copy went back to ${next.volume}:${next.lba}`);
      return;
    }
    base.next = { volume: next.volume, lba: next.lba };
    this.#baseVerifiedCount += count;
    this.#dirty = true;
    this.#baseWhole();
  }

  #bad(sequence: number): void {
    assert(
      sequence === 0
        ? this.#baseVerifiedCount < this.#baseAccepted
        : sequence === this.#received + 1 && sequence <= this.#accepted,
      `bad ${sequence} of (${this.#received}, ${this.#accepted}]`,
    );
    let position: BasePosition | null = null;
    if (sequence === 0) {
      const base = this.#base!;
      this.#phase = 'base';
      position = { volume: base.next.volume, lba: base.next.lba };
    }
    this.#again(sequence, NAK_CHECK, position);
  }

  /** A new attempt, from this record on. */
  #again(sequence: number, reason: number, base: BasePosition | null): void {
    const { epoch } = this;
    const attempt = this.#attempt;
    this.#attempt = attempt + 1;
    this.#awaited = sequence;
    this.#forgetUnverified();
    this.#effects.push({ kind: 'nak', epoch, attempt, sequence, base, reason });
  }

  #consumed(bytes: number): void {
    if (!this.#live) return;
    this.#consumedBytes += bytes;
    if (!(this.#consumedBytes <= this.#arrivedBytes))
      fail(`consumed ${this.#consumedBytes} of ${this.#arrivedBytes} bytes`);
    if (bytes > 0) this.#dirty = true;
    this.#giveCredit();
  }

  /** What was given once is not taken back. */
  #giveCredit(): void {
    const credit = this.#consumedBytes + Math.min(this.#creditMax, this.#room);
    if (credit <= this.#creditBytes) return;
    this.#creditBytes = credit;
    this.#dirty = true;
  }

  #appliedThrough(through: number): void {
    if (!(through >= this.#applied && through <= this.#granted)) fail(`applied ${through}, granted ${this.#granted}`);
    if (through > this.#applied) this.#dirty = true;
    this.#applied = through;
    if (this.#had && through === this.#granted) this.#endWait();
    this.#caughtUp();
  }

  #caughtUp(): void {
    const base = this.#base;
    if (base === null || base.end === null || this.#applied < base.end || this.#durable < base.end) return;
    if (this.#baseApplied < this.#baseVerifiedCount || positionBefore(this.#baseDurable, base.next)) return;
    this.#base = null;
    this.#dirty = true;
    this.#effects.push({ kind: 'consistent' });
  }

  #ignore(reason: DropReason, bytes: number): void {
    this.#effects.push({ kind: 'drop', reason, bytes });
  }

  #ignoreConsumed(reason: DropReason, bytes: number): void {
    this.#consumed(bytes);
    this.#ignore(reason, bytes);
  }

  get #live(): boolean {
    return this.#phase === 'base' || this.#phase === 'streaming';
  }

  #break(reason: string): void {
    this.#phase = 'broken';
    this.#effects.push({ kind: 'broken', reason });
  }

  #check(): void {
    if (
      !(
        this.#accepted >= this.#received &&
        this.#received >= this.#granted &&
        this.#granted >= this.#applied &&
        this.#received >= this.#durable
      )
    )
      fail(
        `target cursors: accepted ${this.#accepted}, received ${this.#received}, granted ${this.#granted}, ` +
          `applied ${this.#applied}, durable ${this.#durable}`,
      );
  }
}
