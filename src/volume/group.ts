/**
 * One site's end of a group: the volumes that share one journal and one order, and what their hosts were promised.
 *
 * Everything that happens to a group happens on one thread, in here or below. Time, disk, pool and link come in from
 * outside (platform), so that a simulator can replace them.
 */
import { FLAG_POINT, TYPE_FLUSH } from '../../assembly/layout.js';
import { assert } from '../assert.js';
import { ForelockError } from '../errors.js';
import { Checkpointer } from '../journal/checkpointer.js';
import { Cleaner } from '../journal/cleaner.js';
import type { Journal } from '../journal/journal.js';
import { NO_SPACE } from '../journal/journal.js';
import { BlockReader, type ImageSource } from '../journal/reader.js';
import { FREEZE_HOLD_MS, FULL_DISK_RETRY_MS, VIEW_STALL_MS } from '../limits.js';
import type { RejectPolicy } from '../mirror/wire.js';
import { Writeback } from '../platter/writeback.js';
import { formatSize } from '../units.js';
import type { Completion } from './device.js';
import { DualEnd } from './dual-end.js';
import type { DualOrder } from './dual-order.js';
import { AckGate, type AckLevel, type AckName, ackLevel } from './gate.js';
import { mintGeneration, type OpenedState } from './group-state.js';
import { JournalHealth } from './journal-health.js';
import type { LockRequest } from './locks.js';
import type { MirrorEnd } from './mirror-end.js';
import { OwnScopes } from './own-scopes.js';
import { PayloadSpares } from './payload-spares.js';
import { Receiver } from './receiver.js';
import { Sender } from './sender.js';
import { isAgreed, isPreferred, splitName, type WhenSplit } from './split.js';
import { Views } from './views.js';
import { Volume } from './volume.js';

/** What a site does for a group: serve hosts alone, follow, or serve hosts while the other site does so, too. */
export type Role = 'primary' | 'standby' | 'dual';
export type WhenPeerAway = 'degrade' | 'block' | 'fail';

export interface GroupPolicy {
  ack: AckName;
  speculation: 'on' | 'off';
  whenPeerAway: WhenPeerAway;
  whenSplit: WhenSplit;
  /** Of a source: what it does when the target cannot lock. */
  onReject: RejectPolicy;
  /** A peer is configured (--peer or --listen). */
  paired: boolean;
}

/** What a group needs of the world. */
export interface Platform {
  /** Milliseconds, for waits; may be monotonic. */
  nowMs(): number;
  /** Runs a task in the next turn, after all that has arrived by now was looked at. */
  defer(task: () => void): void;
  /** Runs a task as soon as what runs now has returned: before anything else that has arrived is looked at. */
  soon(task: () => void): void;
  /** Runs a task once, about so much later. */
  after(delayMs: number, task: () => void): void;
  /** A line for the operator's log. */
  tell?(text: string): void;
}

export class Group {
  readonly name: string;
  readonly role: Role;
  readonly state: OpenedState;
  readonly journal: Journal;
  /** The order of both sites' scopes, where both write; else null. */
  readonly order: DualOrder | null;
  readonly reader: BlockReader;
  readonly cleaner: Cleaner;
  readonly checkpointer: Checkpointer;
  readonly writeback: Writeback;
  readonly health: JournalHealth;
  /** This end of the site's own stream, where it serves hosts; null at a standby. */
  readonly sender: Sender | null;
  /** This end of the peer's stream, where there is one to follow; null at a primary. */
  readonly receiver: Receiver | null;
  /** Both of them, as one. */
  readonly mirror: MirrorEnd;
  readonly volumes = new Map<number, Volume>();
  /** When flushes are answered. */
  readonly ack: AckName;
  readonly lockStep: boolean;
  /** When writes are answered: in lock-step when they are applied, whatever `ack` says. */
  readonly writeAck: AckName;
  readonly policy: GroupPolicy;
  /** Those that this site has open in its stream. */
  readonly scopes: OwnScopes;
  readonly views = new Views(this);
  /** How many transactions are open. */
  transactions = 0;
  readonly payloadSpares = new PayloadSpares();
  readonly counters = {
    roomWaits: 0,
    views: 0,
    degraded: 0,
    peerAwayFailures: 0,
    suspectNoteFailures: 0,
    freezes: 0,
    scopesAborted: 0,
  };

  readonly #platform: Platform;
  readonly #gate = new AckGate();
  readonly #roomQueue: (() => boolean)[] = [];
  /** What makes room, or lets others go on: tried in front of the queue. */
  #beforeHosts: (() => boolean)[] = [];
  #roomPumping = false;
  #waking = false;
  #advanceQueued = false;
  readonly #advanceSoon = (): void => {
    this.#advanceQueued = false;
    this.#advance();
  };
  readonly #durableWaiters: (() => void)[] = [];
  readonly #peerWaiters: (() => void)[] = [];
  #sessions: number;
  #lastFlush = 0;
  #serving = false;
  /** End of the own stream when this life began to serve: what is before it was written by earlier ones. */
  #foundThrough = 0;
  /** Dual: since when there is no peer to write with, ms; null while there is, or this site goes on alone. */
  #frozenAt: number | null = null;
  #mayServe: () => boolean = () => true;
  /** Own records up to here are decided by this site alone; Infinity while it serves alone. */
  #aloneThrough = 0;
  #readyAlone = false;
  /** Requests that wait for the group to serve (again). */
  readonly #asked: (() => void)[] = [];
  #stopping = false;
  /** Hosts are gone, and the link goes for a stop. */
  #leaving = false;
  #closed = false;
  #degrading = false;
  /** It could not be written down: not to be tried again before this time. */
  #degradeAt = 0;
  /** A stop is past what the disk had to do: nothing is begun any more. */
  #over = false;
  #suspectNote: 'none' | 'saving' | 'saved' = 'none';
  /** Where what is kept for the peer began when that was last asked, and since when. */
  #kept = { from: 0, at: 0 };

  constructor(state: OpenedState, policy: GroupPolicy, platform: Platform) {
    this.state = state;
    this.#sessions = firstSession(state.superblock.incarnation);
    this.name = state.superblock.group;
    this.role = state.role;
    this.journal = state.journal;
    this.order = state.order;
    this.ack = policy.ack;
    this.lockStep = policy.speculation === 'off';
    this.writeAck = this.lockStep ? 'applied' : policy.ack;
    this.policy = policy;
    this.#platform = platform;
    const defer = platform.defer.bind(platform);
    this.reader = new BlockReader(state.journal, state.offload, state.regions.readSlices, defer);
    this.scopes = new OwnScopes(this, state.ownScopes);
    for (const volume of state.volumes) this.volumes.set(volume.number, new Volume(this, volume));
    this.sender = this.role === 'standby' ? null : new Sender(this, confirmedAtPeer(state));
    this.receiver = this.role === 'primary' ? null : new Receiver(this);
    this.mirror =
      this.sender !== null && this.receiver !== null
        ? new DualEnd(this.sender, this.receiver)
        : (this.sender ?? this.receiver)!;
    this.cleaner = new Cleaner(
      state.journal,
      state.offload,
      state.liveness,
      state.regions.cleaner,
      {
        retainFrom: () => this.mirror.retainFrom,
        checkpointPosition: () => this.checkpointer.position,
        replayFrom: () => this.mirror.replayFrom,
        checkpointNumber: () => this.checkpointer.number,
        wantCheckpoint: () => this.checkpointer.request(),
        checkpointFailed: () => this.checkpointer.hasFailed,
        // who is frozen, or stops, writes nothing: there is nothing to make room for before the peer comes
        peerIsComing: () => this.frozen || this.#leaving || (this.sender?.linked ?? false),
        peerIsTaking: () => {
          const { retainFrom } = this.mirror;
          if (retainFrom !== this.#kept.from) this.#kept = { from: retainFrom, at: this.nowMs() };
          return this.nowMs() - this.#kept.at < VIEW_STALL_MS;
        },
        giveUpRetention: () => this.mirror.giveUpRetention(),
        writesBack: () => this.writeback.makesRoom,
        dropViews: () => this.views.dropAll(),
      },
      defer,
    );
    this.checkpointer = new Checkpointer(
      state,
      () => this.mirror.checkpointCursors(),
      () => this.cleaner.poke(),
      defer,
    );
    this.writeback = new Writeback(this, state);
    this.journal.makeRoom = () => this.writeback.makeRoom();
    this.health = new JournalHealth(this);
    const { sender } = this;
    if (this.order !== null && sender !== null) this.journal.peerTakes = () => sender.hostRoom;
    this.journal.listen({
      sealed: () => this.mirror.ownMoved(),
      durable: () => {
        this.mirror.ownMoved();
        this.#queueAdvance();
        for (const resolve of this.#durableWaiters.splice(0)) resolve();
        this.cleaner.poke();
        this.checkpointer.poke();
      },
      room: () => {
        this.cleaner.ringHasRoom(); // what it copies makes room on the disk
        this.#pumpRoom();
      },
      failed: (error) => {
        this.tell(error.message);
        this.#noteSuspect();
        this.#gate.failAll(error as ForelockError);
        this.#pumpRoom();
        this.cleaner.stop();
        for (const resolve of this.#durableWaiters.splice(0)) resolve();
      },
    });
  }

  // ---- for front ends and volumes

  nowMs(): number {
    return this.#platform.nowMs();
  }

  defer(task: () => void): void {
    this.#platform.defer(task);
  }

  after(delayMs: number, task: () => void): void {
    this.#platform.after(delayMs, task);
  }

  tell(text: string): void {
    this.#platform.tell?.(`group ${this.name}: ${text}`);
  }

  /** A number of its own for every host connection and explicit scope holder. */
  nextSession(): number {
    this.#sessions = (this.#sessions % 0x7fffffff) + 1;
    return this.#sessions;
  }

  settleSoon(completion: Completion, error: ForelockError | null): void {
    this.#platform.defer(() => completion.settle(error));
  }

  /** Why a host may not read content now, or null. */
  refuseRead(): ForelockError | null {
    if (this.#stopping) return new ForelockError('ESHUTDOWN', 'the gateway is stopping');
    if (this.role === 'standby') {
      return new ForelockError(
        'EPERM',
        `site ${this.state.superblock.site.name} is the standby of group ${this.name}: content is refused`,
      );
    }
    if (this.frozen) return this.#frozenError();
    if (!this.#serving)
      return new ForelockError('EPERM', `group ${this.name} does not serve yet: ${this.mirror.describe()}`);
    return null;
  }

  /** A stop has begun: what hosts ask is refused. */
  get stopping(): boolean {
    return this.#stopping;
  }

  /** Nothing can be appended any more: why, for those who still wait for room. */
  get ended(): ForelockError | null {
    return this.journal.failed ?? (this.#closed ? new ForelockError('ESHUTDOWN', 'the gateway is stopping') : null);
  }

  refuseWrite(): ForelockError | null {
    const fails = this.policy.whenPeerAway === 'fail' && this.role !== 'dual';
    return this.refuseRead() ?? this.journal.failed ?? (fails ? this.#peerAway() : null);
  }

  /** The level at which an operation is answered: see design of promises in gate.ts. */
  level(flush: boolean): AckLevel {
    // where both write, a flush also promises that the other site has decided on what it covers
    if (flush && this.role === 'dual') return ackLevel('received', true);
    return ackLevel(this.writeAck, flush);
  }

  /** The promise of a record: its completion is settled when the cursors say so. */
  promise(sequence: number, level: AckLevel, completion: Completion): void {
    this.#gate.push(sequence, level, completion);
    this.#queueAdvance();
  }

  /** Appends a FLUSH, or takes the one that is already last. @returns its sequence, RING_FULL or NO_SPACE */
  appendFlush(flags = 0): number {
    const { journal } = this;
    assert(this.#frozenAt === null, 'a frozen group appends nothing');
    if (journal.diskFull) return NO_SPACE;
    if (flags === 0 && this.#lastFlush === journal.own.appended && this.#lastFlush > 0) {
      journal.sync();
      return this.#lastFlush;
    }
    const at = journal.reserve(TYPE_FLUSH, flags, 0, 0, 0, 0, 0, 0, journal.peer.appended);
    if (at < 0) return at;
    const sequence = journal.publish();
    this.#lastFlush = sequence;
    if ((flags & FLAG_POINT) !== 0) this.views.pinPoint(journal.own.site, sequence);
    journal.sync();
    return sequence;
  }

  /** Runs `attempt` now, and again whenever there is room, until it says true. In order of asking. */
  whenRoom(attempt: () => boolean): void {
    if (this.#roomQueue.length === 0 && attempt()) return;
    this.counters.roomWaits += 1;
    this.#roomQueue.push(attempt);
  }

  /**
   * The same for what must not wait behind hosts, because they may wait for it: records of the peer, and the ends of
   * scopes. None of these waits for another.
   */
  beforeHosts(attempt: () => boolean): void {
    if (!attempt()) this.retryBeforeHosts(attempt);
  }

  /** The same for what has just found no room: it is not tried now. */
  retryBeforeHosts(attempt: () => boolean): void {
    this.#beforeHosts.push(attempt);
  }

  /** Whether an answer to a host waits for what the peer says. */
  get peerIsAwaited(): boolean {
    return this.#gate.pendingPeer > 0;
  }

  get roomIsWaitedFor(): boolean {
    return this.#roomQueue.length > 0;
  }

  // ---- dual: hosts are held while the link is down

  /** To be asked before anything is read or appended: that the lease has run out may not have been noticed before. */
  get frozen(): boolean {
    if (this.#frozenAt === null && !this.#mayServe()) this.freeze('the other site has not answered for long');
    return this.#frozenAt !== null;
  }

  /** Dual: the group is frozen as soon as this does not hold any more. */
  serveWhile(mayServe: () => boolean): void {
    this.#mayServe = mayServe;
  }

  get frozenAt(): number | null {
    return this.#frozenAt;
  }

  /** For those who wait inside when the group freezes: why they wait no longer, or null. */
  get frozenOut(): ForelockError | null {
    const long = this.#frozenAt !== null && this.nowMs() - this.#frozenAt >= FREEZE_HOLD_MS;
    return long && !this.#readyAlone ? this.#frozenError() : null;
  }

  #frozenError(): ForelockError {
    const { whenSplit } = this.policy;
    const until =
      whenSplit === 'freeze' || isPreferred(this.state.superblock, whenSplit)
        ? `${this.staysFrozen === null ? '' : `${this.staysFrozen}; `}nobody serves until it is back`
        : `until it is back site ${whenSplit.prefer} alone may serve`;
    return new ForelockError(
      'PEER_AWAY',
      `group ${this.name} is frozen: both sites write, and the other is not there (${this.mirror.describe()}); ${until}`,
    );
  }

  /** Dual: why this site does not go on alone, though it is to by its configuration; or null. */
  get staysFrozen(): string | null {
    const { whenSplit } = this.policy;
    const { superblock } = this.state;
    if (whenSplit === 'freeze' || !isPreferred(superblock, whenSplit)) return null;
    const site = superblock.site.name;
    if (!isAgreed(superblock, whenSplit))
      return `the other site has not agreed to --when-split ${splitName(whenSplit)} yet, so site ${site} does not go on alone: let the two meet with it, or start with --when-split only:${site} if the other is gone for good`;
    if (!whenSplit.only && this.receiver!.lacksAlone)
      return `site ${site} has not caught up with what the other answered alone, and does not go on alone before it has: if the other is gone for good, start with --when-split only:${site}`;
    return this.cannotMint === null ? null : `site ${site} cannot go on alone: ${this.cannotMint.message}`;
  }

  /** Why `mint` comes to nothing, until somebody does something about it; or null. */
  get cannotMint(): ForelockError | null {
    const { failed, diskFull, shortageText } = this.journal;
    const damage = failed ?? this.receiver?.damage ?? null;
    if (damage !== null || !diskFull) return damage;
    return new ForelockError('ENOSPC', shortageText);
  }

  /** Nothing is read, written or appended until `thaw`: the other site may be serving alone by then. */
  freeze(why: string): void {
    if (this.#frozenAt !== null) return;
    this.#frozenAt = this.nowMs();
    // a link came, and went before this site had said START: what it had answered alone is decided
    if (this.alone) this.endAlone();
    this.#aloneThrough = 0;
    if (!this.#serving) return;
    this.counters.freezes += 1;
    this.tell(`frozen: both sites write, and ${why}; hosts wait`);
  }

  /** Both streams run: hosts go on. */
  thaw(): void {
    if (this.#frozenAt === null) return;
    this.#frozenAt = null;
    this.#readyAlone = false;
    this.tell(this.alone ? 'the link is down: this site serves alone' : 'both sites serve');
    if (this.#serving) this.#askAgain();
    this.scopes.pumpAdmissions();
    this.#pumpRoom();
  }

  /** Dual: this site serves, the other does not. */
  get alone(): boolean {
    return this.#aloneThrough === Number.POSITIVE_INFINITY;
  }

  /**
   * Everything that is here is the truth from now on, under a generation of its own. It counts once the next checkpoint
   * is on the disk: that names it, and begins behind it.
   *
   * @param why scopes that are open end
   * @returns false: not yet; something is to be applied, ended or synced first
   */
  mint(why: string): boolean {
    const { journal, order, checkpointer } = this;
    if (this.cannotMint !== null) return false;
    this.receiver!.applyReceived();
    this.scopes.abortDoomed();
    if (!this.scopes.endNow(why)) return false;
    if (order!.conflicts.doomed.size > 0 || journal.peerApplied < journal.peer.appended) return false;
    if (journal.durable < journal.head) {
      journal.sync();
      return false;
    }
    if (checkpointer.running) return false; // it would name the generation and begin before it
    order!.minted(journal.head);
    this.receiver!.target.closeScopes();
    mintGeneration(this.state.superblock, journal);
    this.locksMoved(); // who gets a lock that the other site had waits for the thaw; but nobody else is to get it first
    return true;
  }

  /** Hosts are served, and nobody is waited for. */
  serveAlone(): void {
    this.#aloneThrough = Number.POSITIVE_INFINITY;
    this.sender!.grantAll();
    this.thaw();
    this.#queueAdvance();
  }

  /** Alone: what was written by now can meet nothing of the other site any more, whoever comes back. */
  closeAlone(): void {
    this.order!.confirmed(this.journal.own.appended, this.journal.peer.appended);
    this.#pumpRoom();
  }

  /** The other site is back: it decides on what is written from now on. */
  endAlone(): void {
    this.closeAlone();
    this.#aloneThrough = this.journal.own.appended;
  }

  /** It went again before it could serve. */
  resumeAlone(): void {
    if (this.#aloneThrough > 0 && this.#frozenAt === null) this.#aloneThrough = Number.POSITIVE_INFINITY;
  }

  image(volume: number): ImageSource | null {
    return this.writeback.image(volume);
  }

  /** The peer's stream has come further, or was applied further. */
  admissionsMoved(): void {
    this.scopes.pumpAdmissions();
    this.#pumpRoom();
  }

  /** More of the peer's stream is here, and judged: own scopes that it beats are dead. */
  peerStreamMoved(): void {
    this.scopes.abortDoomed();
    this.sender?.peerStreamMoved();
    this.admissionsMoved();
  }

  // ---- locks

  /** Locks were released: wake who was granted, here and in the mirror's stream. */
  locksMoved(): void {
    this.wakeLockWaiters();
    this.mirror.locksMoved();
    this.scopes.pumpAdmissions();
  }

  /** Who is woken may release locks, and ends up here again: those who get them are woken behind it, in order. */
  wakeLockWaiters(): void {
    if (this.#waking) return;
    this.#waking = true;
    try {
      for (let again = true; again; ) {
        again = false;
        for (const volume of this.volumes.values()) {
          for (const request of volume.locks.drain()) {
            again = true;
            const then = request.context as ((request: LockRequest) => void) | null;
            if (then !== null) then(request);
          }
        }
      }
    } finally {
      this.#waking = false;
    }
  }

  /** Calls back when the journal has become more durable, or the disk has failed. */
  whenDurable(then: () => void): void {
    this.#durableWaiters.push(then);
  }

  /** Calls back when the peer's cursors have moved, or its link went. */
  whenPeerMoved(then: () => void): void {
    this.#peerWaiters.push(then);
  }

  // ---- life

  get serving(): boolean {
    return this.#serving;
  }

  /** Hosts may come: what they ask is answered, be it that the group goes on alone for the first of them. */
  get ready(): boolean {
    return this.#serving || this.#readyAlone;
  }

  /**
   * Dual: of the own stream, what hosts may have been told to be confirmed. What an earlier life told is not written
   * down: it may have been all that is left of it.
   */
  get mayBeConfirmed(): number {
    return this.#serving
      ? Math.max(this.#foundThrough, this.order!.conflicts.confirmedThrough)
      : this.journal.own.appended;
  }

  /** Hosts may come: called once the lost tail is back, or the group serves alone. */
  startServing(): void {
    this.#foundThrough = this.journal.own.appended;
    this.scopes.abortDoomed();
    this.scopes.endDead();
    this.#serving = true;
    this.#askAgain();
  }

  /**
   * The peer was waited for long enough: the next request is what makes the group go on alone (serving.ts).
   * False: it could not; who waits is refused.
   */
  setReadyAlone(ready: boolean): void {
    const had = this.#readyAlone;
    this.#readyAlone = ready;
    if (had && !ready) this.#askAgain();
  }

  /** Somebody waits for the group to go on alone. */
  get isAsked(): boolean {
    return this.#asked.length > 0 || this.roomIsWaitedFor;
  }

  /** What to do with a request that is refused. @returns true: it is asked again when the group serves, alone or with its peer */
  hold(again: () => void): boolean {
    const frozen = this.#frozenAt !== null;
    const shortly = frozen && this.nowMs() - this.#frozenAt! < FREEZE_HOLD_MS;
    const alone = this.#readyAlone && (frozen || !this.#serving);
    if (this.#stopping || !(shortly || alone)) return false;
    this.#asked.push(again);
    return true;
  }

  #askAgain(): void {
    for (const again of this.#asked.splice(0)) again();
  }

  /** Timed work; the platform calls it every few tens of milliseconds. */
  tick(): void {
    if (this.#over) return;
    const now = this.#platform.nowMs();
    this.journal.tick(now);
    this.health.look(now);
    this.#noteSuspect();
    for (const volume of this.volumes.values()) {
      if (volume.locks.nextDeadline() <= now) {
        volume.locks.expire(now);
        this.locksMoved();
      }
    }
    this.mirror.tick(now);
    const { frozenOut } = this;
    if (frozenOut !== null) {
      this.#askAgain();
      this.#gate.failPeer(frozenOut);
    }
    this.scopes.endOld(now);
    this.scopes.pumpAdmissions();
    this.checkpointer.tick(now);
    this.cleaner.tick(now);
    this.writeback.poke();
    this.#queueAdvance();
    this.#pumpRoom();
  }

  /**
   * After a failed sync: writes down from where on the next process must not believe what the page cache shows. Until
   * that is on the disk it is tried again: only a restart of the machine makes it unnecessary.
   */
  #noteSuspect(): void {
    const { journal, state } = this;
    if (journal.appender.suspectFrom === null || this.#suspectNote !== 'none') return;
    this.#suspectNote = 'saving';
    state.superblock.suspectFrom = journal.appender.suspectFrom;
    state.save((error) => {
      this.#suspectNote = error === null ? 'saved' : 'none';
      if (error !== null) this.counters.suspectNoteFailures += 1;
    });
  }

  /** The peer's cursors moved. */
  peerMoved(): void {
    for (const resolve of this.#peerWaiters.splice(0)) resolve();
    this.#queueAdvance();
    this.cleaner.poke();
  }

  /** The gateway is about to stop: nothing is given up because the peer is not linked from now on. */
  leavePeer(): void {
    this.#leaving = true;
    this.mirror.detach();
  }

  /**
   * A clean stop: refuses new requests, makes everything durable, checkpoints, marks the state clean.
   * What hosts still wait for is settled first (or failed, if the disk cannot take it).
   *
   * @returns what of this site's stream could not be made durable here, and where it is; null: all of it is
   */
  async close(): Promise<ForelockError | null> {
    if (this.#stopping) return null;
    this.#stopping = true;
    this.#leaving = true;
    this.#askAgain();
    this.views.dropAll();
    this.#endLockWaits();
    this.mirror.close();
    this.scopes.pumpAdmissions();
    const { journal } = this;
    journal.appender.retry(); // somebody may have made room since
    await this.#until(() => !journal.appender.isRetrying);
    const isWritable = journal.failed === null && !journal.diskFull;
    if (isWritable) {
      // who has not got its lost tail back may not write a record in its place
      if (this.#serving && !this.frozen) this.scopes.endDead();
      await this.#untilDurable(journal.head); // and what waits for room goes in meanwhile
    }
    this.#endRoomWaits(); // or whoever goes on asking for room keeps the stop open
    if (isWritable) await this.#untilDurable(journal.head);
    const undurable = this.#findUndurable();
    this.cleaner.stop();
    await this.writeback.drain();
    // nor may it forget that a tail is missing
    if (isWritable)
      await this.checkpointer.finish(this.#serving || this.role === 'standby' || this.state.recovery.clean);
    const stopped = new ForelockError('ESHUTDOWN', 'the gateway is stopping');
    this.#gate.failAll(stopped);
    this.scopes.refuseAborting(stopped);
    // first the threads: they may be reading files of the journal
    await this.state.offload.close();
    // or it would still write when the next process has the directory; asked last, for what failed is tried again all the time
    const { state } = this;
    await this.#until(() => !(journal.appender.isAtWork || state.mapLog.isWriting || state.isSaving));
    this.#over = true;
    try {
      journal.close();
    } finally {
      await this.state.close(); // or directory and images stay locked
    }
    return undurable;
  }

  /** What the process takes with it when it ends. */
  #findUndurable(): ForelockError | null {
    const { own, head, durable, failed } = this.journal;
    const records = own.appended - own.durable;
    if (records === 0) return null;
    const { peerDurable } = this.mirror;
    const atPeer = Math.min(own.appended, peerDurable) - own.durable;
    const lost = 'writes among them that were answered may be lost, but none that a flush covered which was answered';
    const where =
      atPeer >= records
        ? 'the peer has all of them on its disk, and returns them at the next start: nothing is lost'
        : atPeer > 0
          ? `the peer has the first ${atPeer} of them on its disk, and returns those at the next start; of the others ${lost}`
          : lost;
    return new ForelockError(
      failed === null ? 'ENOSPC' : 'EIO',
      `group ${this.name}: the stop could not make ${records} records durable (sequence ${own.durable + 1} to ${own.appended}, ${formatSize(head - durable)} of journal): ${where}`,
    );
  }

  /** Nothing is appended any more: what still waits for room is refused. */
  #endRoomWaits(): void {
    this.#closed = true;
    this.#pumpRoom();
    this.scopes.pumpAdmissions();
    this.#endLockWaits(); // some of them went on to wait for a lock
  }

  /** Who waits for a lock is told now: those who hold it may be gone. */
  #endLockWaits(): void {
    for (const volume of this.volumes.values()) {
      for (const request of volume.locks.list()) {
        if (request.state !== 'waiting') continue;
        volume.locks.release(request);
        (request.context as ((request: LockRequest) => void) | null)?.(request);
      }
    }
    this.wakeLockWaiters();
  }

  /** Or the disk does not take it. */
  #untilDurable(position: number): Promise<void> {
    const { journal } = this;
    return this.#until(() => {
      if (journal.durable >= position || journal.failed !== null || journal.diskFull) return true;
      journal.sync();
      return false;
    });
  }

  async #until(done: () => boolean): Promise<void> {
    while (!done()) await new Promise<void>((resolve) => this.#platform.defer(resolve));
  }

  // ---- inside

  #peerAway(): ForelockError | null {
    if (!this.policy.paired || this.ack === 'local' || this.mirror.connected) return null;
    this.counters.peerAwayFailures += 1;
    return new ForelockError('PEER_AWAY', `group ${this.name}: the peer is away and --when-peer-away is fail`);
  }

  #pumpRoom(): void {
    if (this.#roomPumping) return;
    this.#roomPumping = true;
    this.journal.wanted = 0; // those who still wait say so now
    const waiting = this.#beforeHosts.splice(0).filter((attempt) => !attempt());
    this.#beforeHosts.unshift(...waiting);
    while (this.#roomQueue.length > 0 && this.#roomQueue[0]!()) this.#roomQueue.shift();
    this.#roomPumping = false;
  }

  #queueAdvance(): void {
    if (this.#advanceQueued) return;
    this.#advanceQueued = true;
    this.#platform.soon(this.#advanceSoon);
  }

  /** Settles what is promised by now. */
  #advance(): void {
    const { own } = this.journal;
    if (this.journal.diskFull) {
      this.#gate.failFlushes(
        new ForelockError(
          'ENOSPC',
          `${this.journal.shortageText}: what was written waits in memory, and is not durable yet`,
        ),
      );
    }
    const peer = this.mirror;
    if (this.role === 'dual') {
      const alone = this.#aloneThrough;
      const known = (cursor: number): number => Math.max(cursor, alone);
      this.#gate.advance(own.durable, known(peer.peerReceived), known(peer.peerDurable), known(peer.peerApplied));
      return;
    }
    if (!this.policy.paired || this.writeAck === 'local') {
      this.#gate.advance(own.durable, Infinity, Infinity, Infinity);
      return;
    }
    if (!peer.connected && this.#gate.pendingPeer > 0) {
      if (this.policy.whenPeerAway === 'fail') {
        this.#gate.failPeer(
          new ForelockError(
            'PEER_AWAY',
            `group ${this.name}: the peer went away; whether it has the write is not known`,
          ),
        );
      } else if (this.policy.whenPeerAway === 'degrade') {
        if (this.#degrading || this.state.superblock.degradedSince === null) return this.#degrade();
        this.#gate.advance(own.durable, Infinity, Infinity, Infinity);
        peer.loweredThrough(own.appended);
        return;
      }
    }
    this.#gate.advance(own.durable, peer.peerReceived, peer.peerDurable, peer.peerApplied);
  }

  /** Records durably that answers are lowered from here on, before the first of them. */
  #degrade(): void {
    if (this.#degrading || this.nowMs() < this.#degradeAt) return;
    this.#degrading = true;
    const since = this.mirror.peerDurable + 1;
    this.state.superblock.degradedSince = since;
    this.state.save((error) => {
      this.#degrading = false;
      if (error !== null) {
        this.state.superblock.degradedSince = null;
        this.#degradeAt = this.nowMs() + FULL_DISK_RETRY_MS; // at the first tick from then on
        return;
      }
      this.counters.degraded += 1;
      this.tell(`degraded: the peer is away, and answers are given by this site alone from sequence ${since} on`);
      this.#queueAdvance();
    });
  }
}

/**
 * Sessions are counted from somewhere else in every life: where both sites write, what became of a session's scopes must
 * not be taken for the fate of what another one does after a restart. Lives next to each other are 819 million apart.
 */
function firstSession(incarnation: number): number {
  return Number((BigInt(incarnation) * 1327217885n) % 0x7fffffffn);
}

/** Last sequence that the peer is known to have durably and applied; -1 when there never was a peer. */
function confirmedAtPeer(state: OpenedState): number {
  const peers = Object.values(state.superblock.peers);
  return peers.length === 0 ? -1 : Math.max(...peers.map((peer) => peer.durable));
}
