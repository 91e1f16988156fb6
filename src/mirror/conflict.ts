/**
 * Both sites of a group write at once: which scopes die, which wait, and what may be forgotten. One per site.
 *
 * Sans-IO: no clock, timer or disk. Records are told in journal order, as they are appended and as they are received;
 * the same records told again after a crash lead to the same state.
 *
 * The rule. A scope's header says all that is needed, and is the same at both sites:
 *
 *     stamp      (generation, clock, site), taken when the scope was granted at home. Each site's clock passes every
 *                stamp that it receives, so a stamp is above those of all that the scope could have read
 *     sequence   its place in its site's stream
 *     seen       how much of the other stream was there when the scope was stamped
 *
 *     X and Y, of different sites, conflict  if and only if
 *         their extents overlap, X.sequence > Y.seen and Y.sequence > X.seen          (neither had seen the other)
 *     then the one with the later stamp loses:
 *         a `replay` loser shows on top of the winner, as if it had been made after it
 *         an `abort` loser is dead, and with it the later scopes of its session with `seen` below its killer
 *                    (they may have read it); of several killers the one with the lowest sequence counts
 *
 * Why both ends decide alike. Nothing in the rule depends on when something arrives. A site judges a scope of the peer
 * when it receives it, against its own records after the scope's `seen`: all of those that the peer had not seen, and
 * among them is every one that can conflict, because what this site appends from then on has seen the scope. What it had
 * appended has not (`own` asserts that a record stands behind all that it has seen), so that half is not asked. The peer
 * judges the same pairs the other way round, when our records arrive there. How frames were cut, repeated or delayed,
 * what was confirmed, and what was applied by then does not enter. Pairs are judged alone: that a scope is dead itself
 * does not save those whom it beats, so the order in which pairs are met does not matter either.
 *
 * A read lock writes nothing and has no part in this: it neither beats a scope that writes nor is beaten by one. Where it
 * comes from it makes no record of the peer wait; where it arrives it waits for every write scope that is open there,
 * whatever their stamps. Once the peer has applied it, and all that the peer had appended by then is applied here,
 * nothing can come to its extent until its UNLOCK: then it is had. Of two read locks that conflict, as above, the later
 * is dead, and asks again when the earlier is gone. (If it waited, so would what its site wrote behind it, and the
 * earlier needs that.) A read lock that is received and not applied keeps own ones out, so no others meet.
 *
 * An `abort` scope that wrote there and had ended may still die, of something elsewhere that is on its way, and its ABORT
 * would take out what the reader saw. Whoever can kill it stands in the reader's stream before the reader has all that
 * was written there, and has judged it by then: so a read lock is not had before the ABORT of each is here (`isReadable`).
 *
 * What may die is remembered block by block (journal/versions.ts), and a TRIM or ZERO may be of a whole volume. So none
 * dies: it waits until the `abort` scopes of its session are confirmed, which takes a round trip. By then all that could
 * kill them is received, and stands in the journal before it: told again, it cannot die either. (An earlier version let
 * it begin at once. What a journal has of that is told again as it was meant then: it dies with its session.)
 *
 * Three consequences for a site that crashed:
 *   - Its new scopes must not have seen less than the other end has closed, or the other end could have forgotten
 *     whom they conflict with; nor stand on the extent of a read lock that it had granted. So nothing is admitted until
 *     the peer's stream is back to what the peer says was confirmed, and applied to what it says was granted
 *     (`awaitPeer`).
 *   - Of the lost tail that the peer returns, each record stands in the journal behind all that it has seen: what it
 *     had seen and was lost too comes first.
 *   - An own scope that is beaten and has no ABORT record (it was not synced) is `doomed`: the driver appends one.
 *
 * An own record is closed when the peer has confirmed it, and all that the peer had appended by then is applied here:
 * from then on every scope that arrives has seen it, and goes on top of it. Closed records are forgotten. So none is
 * closed while an own scope at or before it is doomed: its ABORT, which takes out what it wrote, may have to wait for room.
 *
 * Invariants: closedThrough <= confirmedThrough <= appended; applied <= received. Stamps and `seen` of a stream ascend.
 */
import {
  FLAG_ABORT_ON_CONFLICT,
  FLAG_READ_LOCK,
  TYPE_ABORT,
  TYPE_LOCK,
  TYPE_TRIM,
  TYPE_UNLOCK,
  TYPE_WRITE,
  TYPE_ZERO,
} from '../../assembly/layout.js';
import { assert, fail } from '../assert.js';
import { ForelockError } from '../errors.js';
import { ExtentIndex } from '../journal/extents.js';
import { isLater, type Stamp } from '../journal/versions.js';

/**
 * Own scopes that are not closed: 26 times what 100 ms of round trip hold at 100,000 writes a second. What is beyond
 * waits at admission: the peer does not confirm, or one of its scopes waits for one of ours.
 */
const OPEN_SCOPES_MAX = 1 << 18;
/** Confirmations whose peer records are not applied yet; beyond it they are merged, which closes later, not wrongly. */
const CONFIRMS_MAX = 1024;
/** Entries kept for reuse. */
const SPARE_MAX = 1 << 14;

/** What is read of a record's header; a RecordHeader is one. */
export interface ScopeRecord {
  readonly type: number;
  readonly flags: number;
  readonly volume: number;
  readonly lba: number;
  readonly blockCount: number;
  readonly scope: number;
  readonly sequence: number;
  readonly seen: number;
  readonly clock: number;
  readonly generation: number;
  readonly session: number;
  readonly site: number;
}

/** What a scope does when it conflicts: goes on top, or dies; a read lock is for reading alone. */
export type ScopeKind = 'replay' | 'abort' | 'read';

/** What asks to begin: `bare` is a TRIM or ZERO, which goes on top and does not die with its session either. */
export type Newcomer = ScopeKind | 'bare';

/** What its fate is found by. */
export type HeadRecord = Pick<ScopeRecord, 'type' | 'scope' | 'sequence'>;

/** apply: it shows where nothing later does. skip: its scope is dead. wait: for an own scope's UNLOCK; ask again. */
export type Verdict = 'apply' | 'skip' | 'wait';

/**
 * What a checkpoint keeps, so that telling can begin behind the journal's beginning. Scopes received before it are not
 * judged again, because whom they met may not be told again: what was decided of them is kept here, and of own scopes in
 * their ABORT records.
 */
export interface ConflictState {
  readonly appended: number;
  readonly closedThrough: number;
  readonly received: number;
  readonly applied: number;
  readonly dead: readonly number[];
  /** Sessions of the peer: scopes that have seen less than this are dead. */
  readonly cascades: readonly (readonly [session: number, below: number])[];
  /** Own TRIMs and ZEROs through here had not waited, and die with their session. Null: written by a version where none did. */
  readonly bareMayDieThrough: number | null;
}

export interface ConflictsOptions {
  /** Sequences before the first record that will be told. */
  ownBefore: number;
  peerBefore: number;
  /** Of the checkpoint that telling begins at; null at the beginning of the history. */
  state: ConflictState | null;
}

class Scope implements Stamp {
  volume = 0;
  lba = 0;
  end = 0;
  sequence = 0;
  seen = 0;
  generation = 0;
  clock = 0;
  site = 0;
  session = 0;
  /** onConflict is `abort`. */
  abort = false;
  /** A read lock: no part of the order. */
  read = false;
  dead = false;
  /** Own: it dies if something that is not received yet beats it or an earlier scope of its session. */
  mayDie = false;
  /** Own: closed, and kept only because it is not unlocked. */
  closed = false;
  /** Own: not unlocked. */
  open = false;
  /** Own: the session's next scope. */
  next: Scope | null = null;
}

interface OwnSession {
  last: Scope;
  /** Sequence of its last `abort` scope. */
  abortThrough: number;
}

export class Conflicts {
  #appended: number;
  #received: number;
  #applied: number;
  #closedThrough = 0;
  #confirmedThrough = 0;
  /** The peer's sequences that must be received, and applied, before a new own scope is admitted. */
  #awaited = 0;
  #awaitedApplied = 0;

  /** Own scopes that are not closed, ascending; by place, dead ones too: those that write, read locks; the living `abort` ones. */
  readonly #own = new Queue<Scope>();
  readonly #ownIndex = new ExtentIndex<Scope>();
  readonly #ownReads = new ExtentIndex<Scope>();
  readonly #ownAborts = new ExtentIndex<Scope>();
  readonly #ownSessions = new Map<number, OwnSession>();
  /** Own explicit scopes that are not unlocked, by sequence. */
  readonly #ownOpen = new Map<number, Scope>();
  /** The same by place, without read locks. */
  readonly #ownOpenIndex = new ExtentIndex<Scope>();
  readonly #doomed = new Set<number>();
  #mayDieCount = 0;

  /** Scopes of the peer that are received and not applied; by place without the dead: those that write, read locks. */
  readonly #pending = new Queue<Scope>();
  readonly #pendingIndex = new ExtentIndex<Scope>();
  readonly #pendingReads = new ExtentIndex<Scope>();
  /** Explicit scopes of the peer from the receipt of their LOCK until their end is applied. */
  readonly #peerScopes = new Map<number, Scope>();
  /** Those of them that are applied and alive: they hold their extent here. */
  readonly #peerOpenIndex = new ExtentIndex<Scope>();
  readonly #cascades = new Map<number, number>();
  /** Dead scopes of the peer that write, whose ABORT is not received: there, what they wrote may still show. */
  readonly #unaborted = new Map<number, { volume: number; lba: number; end: number }>();
  /** Dead scopes of the peer that have ended, and with which record; a checkpoint forgets them. */
  #deadEnded: { sequence: number; end: number }[] = [];
  /** So many of them have ended since the last checkpoint was begun. */
  #deadSince = 0;
  #lastPeerStamp: Stamp = { generation: 0, clock: 0, site: 0 };

  readonly #confirms = new Queue<{ through: number; behind: number }>();
  /** Confirmations that count already, because all before them is received. */
  #counted = 0;

  /** Told again, up to here: decided by what the checkpoint kept. */
  readonly #retoldThrough: number;
  readonly #retoldOwnThrough: number;
  readonly #appliedBefore: number;
  readonly #retoldDead: ReadonlySet<number>;
  readonly #bareMayDieThrough: number;
  /** The last that does. */
  #bareMayDie = 0;

  readonly counters = {
    /** Scopes of the peer that conflicted with own ones: what loses of them shows on top, or is dead. */
    met: 0,
    /** Dead by a conflict of their own: scopes of the peer, own ones; and own ones that died with their session. */
    abortedPeer: 0,
    aborted: 0,
    cascaded: 0,
  };
  readonly #spare: Scope[] = [];
  readonly #beaten: Scope[] = [];

  constructor(options: ConflictsOptions) {
    const { state } = options;
    this.#appended = options.ownBefore;
    this.#received = options.peerBefore;
    this.#applied = options.peerBefore;
    this.#retoldThrough = state?.received ?? 0;
    this.#retoldOwnThrough = state?.appended ?? 0;
    this.#appliedBefore = state?.applied ?? 0;
    this.#retoldDead = new Set(state?.dead);
    this.#bareMayDieThrough = state === null ? 0 : (state.bareMayDieThrough ?? Number.POSITIVE_INFINITY);
    if (state === null) return;
    this.#closedThrough = state.closedThrough;
    this.#confirmedThrough = state.closedThrough;
    for (const [session, below] of state.cascades) this.#cascades.set(session, below);
    for (const sequence of state.dead) this.#deadEnded.push({ sequence, end: state.received });
  }

  get appended(): number {
    return this.#appended;
  }
  get received(): number {
    return this.#received;
  }
  get applied(): number {
    return this.#applied;
  }
  /** The own sequence up to which nothing concurrent can arrive any more. */
  get closedThrough(): number {
    return this.#closedThrough;
  }
  /**
   * The own sequence up to which the peer has decided, and all its decisions are known here: what is alive, stays so.
   * The peer is told at each reconnect, and admits nobody before it has this again. Who has crashed does not know what
   * it was, and tells of all that is left: somebody may have been told.
   */
  get confirmedThrough(): number {
    return this.#confirmedThrough;
  }
  /** Own scopes that are dead and have no ABORT record, in the order in which they died: append one for each, at once. */
  get doomed(): ReadonlySet<number> {
    return this.#doomed;
  }
  /** Dead scopes of the peer that have ended since `state` was asked for: the next one tells of them, if it must. */
  get deadSince(): number {
    return this.#deadSince;
  }
  /** Own scopes that are not closed. */
  get openCount(): number {
    return this.#own.count;
  }
  /** And of these, how many may still need an ABORT. */
  get mayDieCount(): number {
    return this.#mayDieCount;
  }
  /** Scopes of the peer that are not applied; the driver gives no credit beyond what it is ready to keep. */
  get backlog(): number {
    return this.#pending.count;
  }
  /** Telling must begin no later than these two records if a checkpoint is taken now. */
  get oldestOwn(): number {
    const open = this.#ownOpen.keys().next();
    return Math.min(this.#closedThrough + 1, open.done ? Infinity : open.value);
  }
  get oldestPeer(): number {
    const open = this.#peerScopes.keys().next();
    return Math.min(this.#applied + 1, open.done ? Infinity : open.value);
  }

  // ---- own stream

  /** Must a new own scope, or a write that implies its scope, wait for the peer? Own locks are not looked at. */
  mustWait(session: number, volume: number, lba: number, blockCount: number, kind: Newcomer): boolean {
    if (this.isBehind) return true;
    if (this.#own.count >= OPEN_SCOPES_MAX) return true;
    const end = lba + blockCount;
    if (this.#peerOpenIndex.first(volume, lba, end, 0) !== null) return true;
    if (kind === 'read') return this.#pendingReads.first(volume, lba, end, 0) !== null;
    if (kind === 'replay') return false;
    if (kind === 'bare') return (this.#ownSessions.get(session)?.abortThrough ?? 0) > this.#confirmedThrough;
    // What an `abort` scope reads must be what stands before it in the order: nothing may still come in between, ...
    if (this.#pendingIndex.first(volume, lba, end, 0) !== null) return true;
    // ... and nothing go away. What its own session wrote takes it along.
    let undecided = false;
    this.#ownIndex.forEach(volume, lba, end, this.#confirmedThrough, (own) => {
      undecided ||= own.mayDie && !own.dead && own.session !== session;
      return undecided;
    });
    return undecided;
  }

  /** A record of the own stream stands in the journal. */
  own(record: ScopeRecord): void {
    if (record.sequence !== this.#appended + 1) fail(`own records follow: ${record.sequence} after ${this.#appended}`);
    assert(record.seen <= this.#received, 'a record stands in the journal behind all that it has seen');
    this.#appended = record.sequence;
    if (beginsScope(record)) this.#begin(record);
    else if (record.type === TYPE_UNLOCK) this.#end(record.scope);
    else if (record.type === TYPE_ABORT) {
      const scope = this.#findOwn(record.scope);
      if (scope !== null && !scope.dead) {
        // told again: its killer was judged before the checkpoint
        assert(this.#received <= this.#retoldThrough, 'who has an ABORT is beaten');
        scope.dead = true;
        if (scope.abort && !scope.closed) this.#ownAborts.remove(scope);
      }
      this.#doomed.delete(record.scope);
      this.#end(record.scope);
      this.#advance();
    }
  }

  /** May this own write, just told, be taken back? False if its scope is not known any more. */
  mayDie(write: HeadRecord): boolean {
    if (isBare(write)) return find(this.#own, write.scope)?.mayDie ?? false;
    return this.scopeMayDie(write.scope);
  }

  /** The same of a scope's data. */
  scopeMayDie(scope: number): boolean {
    if (this.#appended <= this.#retoldOwnThrough) return true; // its ABORT may be told next
    const found = scope > this.#closedThrough ? this.#findOwn(scope) : null;
    return found?.mayDie ?? false;
  }

  /** Will nothing that shows in these blocks, at either site, be taken out? Asked by who keeps writers out at both. */
  isReadable(volume: number, lba: number, blockCount: number): boolean {
    if (this.#doomed.size > 0) return false;
    for (const dead of this.#unaborted.values())
      if (dead.volume === volume && dead.lba < lba + blockCount && lba < dead.end) return false;
    return true;
  }

  isDead(scope: number): boolean {
    return this.#findOwn(scope)?.dead ?? false;
  }

  #begin(record: ScopeRecord): void {
    const { sequence, session } = record;
    const isLock = record.type === TYPE_LOCK;
    const closed = sequence <= this.#closedThrough;
    if (closed && !isLock) return;

    const scope = this.#take(record);
    scope.closed = closed;
    this.#ownOpenIndex.forEach(scope.volume, scope.lba, scope.end, 0, (other) => {
      assert(other.dead, 'own scopes that are open do not overlap');
      return false;
    });
    if (isLock) {
      scope.open = true;
      this.#ownOpen.set(sequence, scope);
      if (!scope.read) this.#ownOpenIndex.add(scope);
    }
    if (closed) return;

    this.#own.push(scope);
    if (scope.read) {
      this.#ownReads.add(scope);
      this.#mayDieCount += 1;
      return; // nothing that its session does depends on it
    }
    this.#ownIndex.add(scope);
    if (scope.abort) this.#ownAborts.add(scope);
    const last = this.#ownSessions.get(session);
    const bare = isBare(record);
    // who has waited finds all of it confirmed
    const settled = bare ? this.#confirmedThrough : this.#closedThrough;
    const mayDepend = !bare || sequence <= this.#bareMayDieThrough;
    const depends = mayDepend && last !== undefined && last.abortThrough > settled;
    if (bare && depends) this.#bareMayDie = sequence;
    scope.mayDie = scope.abort || depends;
    if (scope.mayDie) this.#mayDieCount += 1;
    if (last === undefined) {
      this.#ownSessions.set(session, { last: scope, abortThrough: scope.abort ? sequence : 0 });
    } else {
      last.last.next = scope;
      last.last = scope;
      if (scope.abort) last.abortThrough = sequence;
    }
  }

  #end(sequence: number): void {
    const scope = this.#ownOpen.get(sequence);
    if (scope === undefined) return;
    this.#ownOpen.delete(sequence);
    if (!scope.read) this.#ownOpenIndex.remove(scope);
    scope.open = false;
    if (scope.closed) this.#give(scope);
  }

  #findOwn(sequence: number): Scope | null {
    const open = this.#ownOpen.get(sequence);
    if (open !== undefined) return open;
    return find(this.#own, sequence);
  }

  // ---- the peer's stream

  /**
   * A record of the peer's stream stands in the journal. A scope's fate, and what it does to own scopes, is decided
   * now; look at `doomed` afterwards.
   *
   * @throws PEER_PROTOCOL what no peer that keeps the rule could have sent
   */
  receive(record: ScopeRecord): void {
    const { sequence } = record;
    if (sequence !== this.#received + 1) fail(`the peer's records follow: ${sequence} after ${this.#received}`);
    if (beginsScope(record)) this.#judge(record);
    else if (isWrite(record)) this.#checkScoped(record);
    else if (record.type === TYPE_ABORT) {
      if (sequence > this.#retoldThrough) this.#checkAbort(record);
      this.#unaborted.delete(record.scope);
    }
    this.#received = sequence;
    this.#advance();
  }

  #judge(record: ScopeRecord): void {
    const { sequence, seen } = record;
    const retold = sequence <= this.#retoldThrough;
    if (seen > this.#appended) throw broken(record, `has seen ${seen} records of ${this.#appended}`);
    if (record.blockCount === 0) throw broken(record, 'covers no block');
    const scope = this.#take(record);
    if (retold) {
      scope.dead = this.#retoldDead.has(sequence);
    } else {
      // be it closed here or not: a TRIM may stand on what it had confirmed
      if (seen < this.#confirmedThrough) {
        throw broken(record, `has seen ${seen}, and ${this.#confirmedThrough} was confirmed before`);
      }
      if (!isLater(scope, this.#lastPeerStamp)) throw broken(record, 'is stamped before the one in front of it');
      scope.dead = this.#isBeaten(scope);
      if (scope.dead) this.counters.abortedPeer += 1;
      if (this.#meets(scope)) this.counters.met += 1;
      // also when it is dead: pairs are judged alone
      if (scope.read) this.#beatReads(scope);
      else this.#beat(scope);
    }
    this.#lastPeerStamp = { generation: scope.generation, clock: scope.clock, site: scope.site };
    if (scope.dead && !scope.read)
      this.#unaborted.set(sequence, { volume: scope.volume, lba: scope.lba, end: scope.end });
    this.#pending.push(scope);
    if (!scope.dead) this.#pendingBy(scope).add(scope);
    if (record.type === TYPE_LOCK) {
      scope.open = true;
      this.#peerScopes.set(sequence, scope);
    }
  }

  #meets(scope: Scope): boolean {
    const own = scope.read ? this.#ownReads : this.#ownIndex;
    return own.first(scope.volume, scope.lba, scope.end, scope.seen) !== null;
  }

  #isBeaten(scope: Scope): boolean {
    const { session, seen } = scope;
    if (scope.read) {
      const other = this.#ownReads.first(scope.volume, scope.lba, scope.end, seen);
      return other !== null && isLater(scope, other);
    }
    if (seen < (this.#cascades.get(session) ?? 0)) return true;
    if (!scope.abort) return false;
    // stamps ascend with sequences: if the first that overlaps is not earlier, none is
    const killer = this.#ownIndex.first(scope.volume, scope.lba, scope.end, seen);
    if (killer === null || !isLater(scope, killer)) return false;
    this.#cascades.delete(session); // to the end of the order in which they are forgotten
    this.#cascades.set(session, killer.sequence);
    return true;
  }

  /** Own `abort` scopes that lose against it die, and take along what their sessions did before they knew. */
  #beat(scope: Scope): void {
    if (this.#ownAborts.count === 0) return;
    const beaten = this.#beaten;
    this.#ownAborts.forEach(scope.volume, scope.lba, scope.end, scope.seen, (own) => {
      if (isLater(own, scope)) beaten.push(own);
      return false;
    });
    beaten.sort((a, b) => a.sequence - b.sequence);
    for (const own of beaten) if (!own.dead) this.#kill(own);
    beaten.length = 0;
  }

  #beatReads(scope: Scope): void {
    this.#ownReads.forEach(scope.volume, scope.lba, scope.end, scope.seen, (own) => {
      if (isLater(own, scope) && !own.dead) {
        own.dead = true;
        this.#doomed.add(own.sequence);
        this.counters.aborted += 1;
      }
      return false;
    });
  }

  #pendingBy(scope: Scope): ExtentIndex<Scope> {
    return scope.read ? this.#pendingReads : this.#pendingIndex;
  }

  #kill(own: Scope): void {
    for (let scope: Scope | null = own; scope !== null; scope = scope.next) {
      if (scope.dead) continue;
      assert(scope.mayDie, 'a TRIM or ZERO stands behind all that could kill what it depends on');
      scope.dead = true;
      if (scope.abort) this.#ownAborts.remove(scope);
      this.#doomed.add(scope.sequence);
      if (scope === own) this.counters.aborted += 1;
      else this.counters.cascaded += 1;
    }
  }

  #checkScoped(record: ScopeRecord): void {
    const scope = this.#peerScopes.get(record.scope);
    if (scope === undefined) {
      // told again, without its LOCK: it had ended before the checkpoint
      if (record.sequence <= this.#retoldThrough) return;
      throw broken(record, `is of scope ${record.scope}, which is not open`);
    }
    if (scope.read) throw broken(record, 'writes within a read lock');
    if (record.volume !== scope.volume || record.lba < scope.lba || record.lba + record.blockCount > scope.end) {
      throw broken(record, 'is outside its scope');
    }
    if (record.generation !== scope.generation || record.clock !== scope.clock) {
      throw broken(record, 'does not have the stamp of its scope');
    }
  }

  #checkAbort(record: ScopeRecord): void {
    const scope = this.#peerScopes.get(record.scope) ?? find(this.#pending, record.scope);
    if (scope !== null && !scope.dead) throw broken(record, `aborts scope ${record.scope}, which is not beaten here`);
  }

  /** What would become of the next record of the peer's stream, were it applied now. Changes nothing. */
  verdict(record: HeadRecord): Verdict {
    if (beginsScope(record)) {
      const scope = this.#pending.peek()!;
      assert(scope.sequence === record.sequence, 'scopes are applied as they were received');
      if (scope.dead) return 'skip';
      return record.sequence > this.#appliedBefore && this.#waits(scope) ? 'wait' : 'apply';
    }
    const scope = this.#peerScopes.get(record.scope);
    const dead = scope === undefined ? this.#retoldDead.has(record.scope) : scope.dead;
    return dead ? 'skip' : 'apply';
  }

  /**
   * The next record of the peer's stream is about to be applied. After `wait` nothing has changed.
   *
   * @param again  told again after a crash: it had been applied when an own scope that is told before it was opened
   */
  apply(record: ScopeRecord, again = false): Verdict {
    const { sequence } = record;
    assert(sequence === this.#applied + 1 && sequence <= this.#received, 'records are applied as they were received');
    if (!again && this.verdict(record) === 'wait') return 'wait';
    let dead = false;
    if (beginsScope(record)) {
      const scope = this.#pending.shift();
      dead = scope.dead;
      if (!dead) this.#pendingBy(scope).remove(scope);
      if (record.type === TYPE_LOCK) {
        if (!dead) this.#peerOpenIndex.add(scope);
      } else {
        this.#endPeer(scope, sequence);
      }
    } else if (isWrite(record)) {
      const scope = this.#peerScopes.get(record.scope);
      dead = scope === undefined ? this.#retoldDead.has(record.scope) : scope.dead;
    } else if (record.type === TYPE_UNLOCK || record.type === TYPE_ABORT) {
      const scope = this.#peerScopes.get(record.scope);
      if (scope !== undefined) {
        dead = scope.dead;
        this.#peerScopes.delete(record.scope);
        if (!dead) this.#peerOpenIndex.remove(scope);
        this.#endPeer(scope, sequence);
      }
    }
    this.#applied = sequence;
    this.#advance();
    return dead ? 'skip' : 'apply';
  }

  /**
   * It loses against an own scope that is not unlocked: it goes on top of it, so it waits for its end. A read lock waits
   * for any, and for the ABORTs that are due.
   */
  #waits(scope: Scope): boolean {
    if (scope.read && this.#doomed.size > 0) return true;
    if (this.#ownOpenIndex.count === 0) return false;
    let waits = false;
    this.#ownOpenIndex.forEach(scope.volume, scope.lba, scope.end, 0, (own) => {
      waits ||= !own.dead && (scope.read || isLater(scope, own));
      return waits;
    });
    return waits;
  }

  #endPeer(scope: Scope, end: number): void {
    if (scope.dead) {
      this.#deadEnded.push({ sequence: scope.sequence, end });
      this.#deadSince += 1;
    }
    this.#give(scope);
  }

  // ---- what the peer has

  /**
   * The peer has received our stream through `through`, and had appended its own through `behind` when it said so. It
   * counts once that much of its stream is received (a line that keeps order sees to that), and closes once it is applied.
   */
  confirmed(through: number, behind: number): void {
    if (through > this.#appended) {
      throw new ForelockError('PEER_PROTOCOL', `the peer confirms ${through} records of ${this.#appended}`);
    }
    const last = this.#confirms.count > 0 ? this.#confirms.at(this.#confirms.count - 1) : null;
    if (last !== null && (last.behind === behind || this.#confirms.count >= CONFIRMS_MAX)) {
      last.through = through;
      last.behind = behind;
      this.#counted = Math.min(this.#counted, this.#confirms.count - 1);
    } else {
      this.#confirms.push({ through, behind });
    }
    this.#advance();
  }

  /** A first copy is taken from here on: nothing of the peer's stream before it will ever come. */
  beginPeer(received: number): void {
    assert(this.#pending.count === 0 && this.#peerScopes.size === 0, 'a first copy begins where nothing was received');
    this.#received = received;
    this.#applied = received;
    this.#unaborted.clear();
  }

  /**
   * The link is gone. A confirmation that does not count yet never will: the peer may lose both what it confirmed and
   * what it had appended, and use these sequences for records that have not seen ours.
   */
  linkLost(): void {
    this.#confirms.truncate(this.#counted);
  }

  /**
   * At each reconnect: the peer acts on so much of its stream being known here (its `confirmedThrough`), and on so much
   * of it having its locks here. Nobody is admitted before that is so.
   */
  awaitPeer(through: number, granted: number): void {
    this.#awaited = through;
    this.#awaitedApplied = granted;
  }

  /** What the peer acts on is not here yet. */
  get isBehind(): boolean {
    return this.#received < this.#awaited || this.#applied < this.#awaitedApplied;
  }

  /**
   * A generation was minted here: of the peer's stream nothing counts that is not received, its scopes have ended with
   * their sessions, and it serves nobody before it has caught up. The driver has applied what was received.
   */
  minted(): void {
    assert(this.#applied === this.#received, 'what was received is applied before a generation is minted');
    for (const scope of this.#peerScopes.values()) {
      if (!scope.dead) this.#peerOpenIndex.remove(scope);
      this.#endPeer(scope, this.#received);
    }
    this.#peerScopes.clear();
    this.#unaborted.clear();
    this.linkLost();
    this.awaitPeer(0, 0);
    this.confirmed(this.#appended, this.#received);
  }

  #advance(): void {
    const confirms = this.#confirms;
    while (this.#counted < confirms.count && confirms.at(this.#counted).behind <= this.#received) {
      this.#confirmedThrough = Math.max(this.#confirmedThrough, confirms.at(this.#counted++).through);
    }
    while (confirms.count > 0 && confirms.peek()!.behind <= this.#applied && this.#close(confirms.peek()!.through)) {
      confirms.shift();
      this.#counted--;
    }
  }

  /** @returns false: one of them is doomed, and it goes no further before its ABORT is there */
  #close(through: number): boolean {
    let closed = through;
    for (let scope = this.#own.peek(); scope !== null && scope.sequence <= through; scope = this.#own.peek()) {
      if (this.#doomed.has(scope.sequence)) {
        closed = scope.sequence - 1;
        break;
      }
      this.#own.shift();
      if (scope.read || scope.mayDie) this.#mayDieCount -= 1;
      if (scope.read) this.#ownReads.remove(scope);
      else {
        this.#ownIndex.remove(scope);
        if (scope.abort && !scope.dead) this.#ownAborts.remove(scope);
        if (this.#ownSessions.get(scope.session)!.last === scope) this.#ownSessions.delete(scope.session);
        scope.next = null;
      }
      scope.closed = true;
      if (!scope.open) this.#give(scope);
    }
    this.#closedThrough = Math.max(this.#closedThrough, closed);
    // whoever comes now has seen all of it
    for (const [session, below] of this.#cascades) {
      if (below > this.#closedThrough) break;
      this.#cascades.delete(session);
    }
    return closed === through;
  }

  /**
   * For a checkpoint. Telling then begins no later than at `oldestOwn`, `oldestPeer`, and what Versions asks for.
   *
   * @param peerBefore  the peer's sequence before the first record that will be told
   */
  state(peerBefore: number): ConflictState {
    assert(this.#doomed.size === 0, 'who is dead has its ABORT before a checkpoint');
    this.#deadEnded = this.#deadEnded.filter(({ end }) => end > peerBefore);
    this.#deadSince = 0;
    const dead = new Set(this.#deadEnded.map(({ sequence }) => sequence));
    for (const scope of this.#peerScopes.values()) if (scope.dead) dead.add(scope.sequence);
    for (let i = 0; i < this.#pending.count; i++) {
      const scope = this.#pending.at(i);
      if (scope.dead && !scope.open) dead.add(scope.sequence);
    }
    return {
      appended: this.#appended,
      closedThrough: this.#closedThrough,
      received: this.#received,
      applied: this.#applied,
      dead: [...dead],
      cascades: [...this.#cascades],
      bareMayDieThrough: this.#bareMayDie,
    };
  }

  #take(record: ScopeRecord): Scope {
    const scope = this.#spare.pop() ?? new Scope();
    scope.volume = record.volume;
    scope.lba = record.lba;
    scope.end = record.lba + record.blockCount;
    scope.sequence = record.sequence;
    scope.seen = record.seen;
    scope.generation = record.generation;
    scope.clock = record.clock;
    scope.site = record.site;
    scope.session = record.session;
    scope.abort = (record.flags & FLAG_ABORT_ON_CONFLICT) !== 0;
    scope.read = (record.flags & FLAG_READ_LOCK) !== 0;
    scope.dead = false;
    scope.mayDie = false;
    scope.closed = false;
    scope.open = false;
    scope.next = null;
    return scope;
  }

  #give(scope: Scope): void {
    if (this.#spare.length < SPARE_MAX) this.#spare.push(scope);
  }
}

/** First in, first out, with a look at any place. */
class Queue<T> {
  #items: (T | null)[] = [];
  #head = 0;

  get count(): number {
    return this.#items.length - this.#head;
  }
  at(index: number): T {
    return this.#items[this.#head + index]!;
  }
  peek(): T | null {
    return this.count > 0 ? this.#items[this.#head] : null;
  }
  push(item: T): void {
    this.#items.push(item);
  }
  shift(): T {
    const item = this.#items[this.#head]!;
    this.#items[this.#head++] = null;
    if (this.#head >= 1024 && this.#head * 2 >= this.#items.length) {
      this.#items.splice(0, this.#head);
      this.#head = 0;
    }
    return item;
  }
  truncate(count: number): void {
    this.#items.length = this.#head + count;
  }
}

/** The scope with this sequence in a queue that is in the order of its stream. */
function find(queue: Queue<Scope>, sequence: number): Scope | null {
  let low = 0;
  let high = queue.count;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (queue.at(middle).sequence < sequence) low = middle + 1;
    else high = middle;
  }
  const found = low < queue.count ? queue.at(low) : null;
  return found !== null && found.sequence === sequence ? found : null;
}

function isWrite(record: HeadRecord): boolean {
  return record.type === TYPE_WRITE || record.type === TYPE_ZERO || record.type === TYPE_TRIM;
}

/** A TRIM or ZERO that implies its lock: of any size, at no cost. */
function isBare({ type, scope, sequence }: HeadRecord): boolean {
  return (type === TYPE_ZERO || type === TYPE_TRIM) && scope === sequence;
}

/** A LOCK, or a write that implies its lock. */
function beginsScope(record: HeadRecord): boolean {
  return record.type === TYPE_LOCK || (isWrite(record) && record.scope === record.sequence);
}

function broken(record: ScopeRecord, what: string): ForelockError {
  return new ForelockError('PEER_PROTOCOL', `record ${record.sequence} of the peer ${what}`);
}
