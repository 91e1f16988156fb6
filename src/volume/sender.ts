/**
 * Source's end of the mirror: moves the stream from the journal to the link as the source machine says.
 *
 *     journal sealed -> want? -> a stretch from ring or segment -> link        confirm -> cursors -> promises, trimming
 *
 * A target without history first gets the live blocks, as BASE records in map order (a fuzzy copy: what changes
 * meanwhile comes again in the stream).
 */
import { HEADER_SIZE, RECORD_BLOCKS_MAX, RECORD_SIZE_MIN, TYPE_BASE, TYPE_BASE_ZERO } from '../../assembly/layout.js';
import { ForelockError } from '../errors.js';
import type { CheckpointCursors } from '../journal/checkpointer.js';
import { recordSize } from '../journal/record.js';
import { StreamReader } from '../journal/stream-reader.js';
import type { Region } from '../kernel/memory.js';
import {
  FRAME_SIZE_MAX,
  JOURNAL_SEGMENTS_MIN,
  KIB,
  LINK_BUFFER_MAX,
  PEER_ROOM_SHARE,
  SEGMENT_SIZE_MIN,
} from '../limits.js';
import { CLOSE_PROTOCOL, CLOSE_REFUSED, CLOSE_TIMEOUT, type Link } from '../link/link.js';
import type { BasePosition } from '../mirror/base.js';
import { SourceStream } from '../mirror/source.js';
import {
  KIND_CONFIRM,
  KIND_NAK,
  type Message,
  NAK_CHECK,
  NAK_REJECTED,
  type Ready,
  WireEncoder,
} from '../mirror/wire.js';
import type { Group } from './group.js';
import { Lending } from './lending.js';
import type { MirrorEnd } from './mirror-end.js';
import { Rejection } from './rejection.js';
import type { Volume } from './volume.js';

/** Most blocks in one BASE_ZERO record: bounds what a NAK makes us send again, not bytes. */
const BASE_ZERO_BLOCKS_MAX = 2 ** 24;

/**
 * While no host waits for the peer, less than this leaves once in so many milliseconds: each time wakes both sites and
 * whatever lies between them, for some tens of microseconds each, however little it is.
 */
const SENT_SIZE_GATHERED = 512 * KIB;
const GATHER_MS = 4;
/** Where both sites write, hosts of the other one may wait for a lock that what is gathered here gives back. */
const GATHER_DUAL_MS = 1;

/** What the peer said and is not proved yet; beyond it the newest are merged, which count later, not wrongly. */
const UNPROVED_MAX = 1024;

interface SentFrame {
  through: number;
  /** Journal position behind its last record. */
  end: number;
}

/** Cursors of the peer that count once this site has the peer's stream to `horizon`. */
interface Proof {
  horizon: number;
  received: number;
  granted: number;
  applied: number;
  durable: number;
}

interface BasePiece {
  lba: number;
  blockCount: number;
  data: boolean;
  at: number;
}

export class Sender implements MirrorEnd {
  readonly #group: Group;
  readonly #source: SourceStream;
  readonly #reader: StreamReader;
  readonly #encoder = new WireEncoder();
  readonly #baseBuffers: Region[];
  readonly #lending: Lending;
  #link: Link | null = null;
  /** Frames sent and not trimmed, oldest first: where the rollback log begins in the journal. */
  readonly #frames: SentFrame[] = [];
  #frameHead = 0;
  /** Where the last frame ended in the journal, and when it left. */
  #sentTo = 0;
  #sentAtMs = 0;
  #gathering = false;
  /** More may be here than the peer has promised to take: it has a first copy, or this site was alone. */
  #isAhead = false;
  /** Then hosts may append up to here, in bytes of the stream. */
  #pacedTo = 0;
  #retainFrom: number;
  /** The first record that the target lacks, as last looked up, and its stamp. */
  #lacked: { sequence: number; stamp: number | null } = { sequence: 0, stamp: null };
  #basePreparing = false;
  #baseFailed: string | null = null;
  /** A first copy was told to be under way. */
  #copying = false;
  #loweredThrough = 0;
  /** What the peer said and may be counted on, and what it said since. Where one site writes, all of it counts at once. */
  #proved: Proof = { horizon: 0, received: 0, granted: 0, applied: 0, durable: 0 };
  readonly #unproved: Proof[] = [];
  #grantedThrough = 0;
  readonly rejection: Rejection;
  #stopped: SourceStream['stopped'] = null;
  readonly #grantWaiters: { lock: number; resolve: () => void; reject: (error: Error) => void }[] = [];
  readonly counters = {
    framesSent: 0,
    bytesSent: 0,
    recordsSent: 0,
    rewinds: 0,
    rejections: 0,
    halts: 0,
    haltedMs: 0,
    rejectedRewinds: 0,
    rewoundMs: 0,
    /** Links that ended because the stream could not be read back. */
    givenUp: 0,
    baseBlocksSent: 0,
    protocolErrors: 0,
  };

  /** @param confirmed the last sequence known to be durable and applied at the peer; -1 when there is no peer yet */
  constructor(group: Group, confirmed: number) {
    this.#group = group;
    this.rejection = new Rejection(group, () => this.describe());
    const { own } = group.journal;
    // which of the records before a restart were answered alone is not known: any of them may have been
    if (group.state.superblock.degradedSince !== null) this.#loweredThrough = own.appended;
    this.#source = new SourceStream({
      speculation: group.policy.speculation,
      onReject: group.policy.onReject,
      appended: own.appended,
      sealed: own.sealed,
      durable: own.durable,
      // the peer may hold more than a crash has left here: that is the lost tail, and it comes back
      trimmed: Math.min(Math.max(0, confirmed), own.appended),
    });
    this.#baseBuffers = [...group.state.regions.base];
    this.#lending = new Lending(group.journal, () => group.nowMs());
    this.#reader = new StreamReader(group.journal, group.state.offload, own.site, group.state.regions.readBack, () =>
      this.pump(),
    );
    const position = confirmed < 0 ? -1 : this.#reader.find(this.#source.trimmed + 1);
    // what is gone was freed because the peer had it, though that is noted lazily: all that is left is still needed
    const oldest = (group.journal.segments.all()[0]?.number ?? 0) * group.journal.segmentSize;
    this.#retainFrom = confirmed < 0 ? Number.POSITIVE_INFINITY : position < 0 ? oldest : position;
  }

  get source(): SourceStream {
    return this.#source;
  }
  get connected(): boolean {
    return this.#link !== null && this.#source.consistent;
  }
  get linked(): boolean {
    return this.#link !== null;
  }
  get peerReceived(): number {
    return this.#source.consistent ? this.#proved.received : 0;
  }
  get peerDurable(): number {
    return this.#source.consistent ? this.#proved.durable : 0;
  }
  get peerApplied(): number {
    return this.#source.consistent ? this.#proved.applied : 0;
  }
  get replayFrom(): number {
    const { head, ownStaged } = this.#group.journal;
    return Math.min(head, ownStaged.from);
  }
  get retainFrom(): number {
    const { own } = this.#group.journal;
    // the peer has all of it, and what others write here is not for it: else a site that writes nothing would fill up
    if (this.#retainFrom !== Number.POSITIVE_INFINITY && this.#source.trimmed === own.appended) {
      this.#reader.seek(own.appended + 1);
      this.#retainFrom = this.#reader.position;
    }
    return this.#retainFrom;
  }

  /**
   * Bytes that hosts may append now, where both sites write: the peer has promised to take them, and with them the ends
   * of all scopes, so it can always take all that is here. While there is more than that, hosts may append half of what
   * is sent: it becomes less, and they do not have to wait for that.
   */
  get hostRoom(): number {
    if (this.#link === null || !this.#source.consistent) return Number.POSITIVE_INFINITY;
    const { scopes, order } = this.#group;
    const ends = RECORD_SIZE_MIN * (1 + scopes.open.size + order!.conflicts.mayDieCount);
    const left = this.#creditLeft - ends;
    return this.#isAhead ? Math.max(left, this.#pacedTo - order!.backlog.total) : left;
  }

  /**
   * What `hostRoom` may become: the most that the peer has promised on this link. No less than the smallest journal
   * promises once it has room: the peer's may have been full until now.
   */
  get hostRoomMost(): number {
    if (this.#link === null || !this.#source.consistent) return Number.POSITIVE_INFINITY;
    return Math.max(this.#source.creditMost, (JOURNAL_SEGMENTS_MIN * SEGMENT_SIZE_MIN) / PEER_ROOM_SHARE);
  }

  /** A frame of so many bytes was sent. */
  #pace(sent: number): void {
    const { order } = this.#group;
    if (order === null || !this.#isAhead || !this.#source.consistent) return;
    this.#isAhead = this.#creditLeft < 0;
    this.#pacedTo = Math.max(this.#pacedTo, order.backlog.total) + Math.floor(sent / 2);
  }

  /** The peer has not promised to take all that is here for it. */
  get isOverdrawn(): boolean {
    return this.#link !== null && this.#source.consistent && this.#creditLeft < 0;
  }

  get #creditLeft(): number {
    const { order } = this.#group;
    return this.#source.credit - (order === null ? 0 : order.backlog.behind(this.#source.sent));
  }

  readonly imageConsistent = true;
  get readerCounters(): { fromRing: number; fromSegments: number; damaged: number } {
    return this.#reader.counters;
  }

  /**
   * How far the target's image is behind: bytes of journal behind the last applied record, and how long ago the first
   * that it lacks was written, ms; null: not known, for it is not kept any more, or too far from where one looks. For
   * status: walks the frames in flight, and the records of one of them.
   */
  get backlog(): { bytes: number | null; ageMs: number | null } {
    const { applied, appended } = this.#source;
    if (applied === appended) return { bytes: 0, ageMs: 0 };
    if (this.#retainFrom === Number.POSITIVE_INFINITY) return { bytes: null, ageMs: null };
    const { journal } = this.#group;
    let from = this.#retainFrom;
    for (let index = this.#frameHead; index < this.#frames.length; index += 1) {
      const frame = this.#frames[index]!;
      if (frame.through > applied) break;
      from = frame.end;
    }
    const bytes = Math.max(0, journal.head - from);
    // what was too far from there may be near it by now: the peer has synced what goes before
    if (this.#lacked.sequence !== applied + 1 || this.#lacked.stamp === null)
      this.#lacked = { sequence: applied + 1, stamp: this.#reader.stampOf(applied + 1, from) };
    const { stamp } = this.#lacked;
    return { bytes, ageMs: stamp === null ? null : journal.ageOf(stamp) };
  }

  /** Up to where the target has the first copy on its disk; null: all of it. To be asked while that is not whole. */
  get copied(): BasePosition | null {
    return this.#source.baseDurable;
  }

  /** What the peer lacks was given up, or it never had anything: it needs a first copy, and none is under way. */
  get needsFullCopy(): boolean {
    return this.#link === null && this.#retainFrom === Number.POSITIVE_INFINITY;
  }

  describe(): string {
    if (this.#baseFailed !== null) return `first copy stopped: ${this.#baseFailed}`;
    if (this.#link !== null && this.#source.rejected > 0) {
      return `${this.#source.stopped ?? 'streaming'}: sequence ${this.#source.rejected} waits for its lock at the target`;
    }
    return this.#link === null
      ? 'no link to the peer'
      : this.#source.phase === 'base'
        ? 'sending the first copy'
        : 'streaming';
  }

  /** What was ever granted by the peer, as far as anybody here was told. */
  get grantedThrough(): number {
    return this.#grantedThrough;
  }

  /** First sequence that the journal still holds for the peer. */
  get journalFrom(): number {
    return this.#source.trimmed + 1;
  }

  // ---- link

  /**
   * The peer said READY: the stream begins in a new epoch.
   * @returns false: what it said cannot be. Nothing of it counts, and the link is closed
   */
  attach(link: Link, ready: Ready, base: BasePosition | null): boolean {
    this.ownMoved(); // a returned tail may be here and not yet durable
    this.#link = link;
    this.#frames.length = 0;
    this.#frameHead = 0;
    this.#baseFailed = null;
    this.#source.step(
      {
        kind: 'connected',
        epoch: ready.epoch,
        received: ready.received,
        durable: ready.durable,
        applied: ready.applied,
        creditBytes: ready.creditBytes,
        consistent: ready.consistent,
        base,
      },
      this.#group.nowMs(),
    );
    if (this.#source.phase === 'broken') {
      this.#act();
      return false;
    }
    // not where it had stopped: behind that may be nothing of this stream, in segments that are free to go from here on
    const { trimmed, received } = this.#source;
    if (this.#reader.seek((base === null ? trimmed : received) + 1)) this.#retainFrom = this.#reader.position;
    this.#isAhead ||= !this.#source.consistent;
    this.#tellCopy();
    this.#keepProved();
    this.#said(ready.horizon);
    link.onDrain = () => this.pump();
    this.#act();
    this.pump();
    return true;
  }

  detach(): void {
    if (this.#link === null) return;
    this.#link.onDrain = null;
    this.#link = null;
    this.#group.order?.conflicts.linkLost();
    this.#unproved.length = 0;
    this.#source.step({ kind: 'disconnected' }, this.#group.nowMs());
    this.#act();
    this.#lookAtRejection();
    this.#group.peerMoved();
  }

  /** @returns whether the message was this end's */
  onMessage(message: Message): boolean {
    if (message.kind === KIND_CONFIRM) {
      this.#source.step({ kind: 'confirm', confirm: message.confirm }, this.#group.nowMs());
      if (this.#source.phase !== 'broken') this.#said(message.confirm.horizon);
    } else if (message.kind === KIND_NAK) this.#source.step({ kind: 'nak', nak: message.nak }, this.#group.nowMs());
    else return false;
    this.#act();
    this.#lookAtRejection();
    this.pump();
    this.#group.journal.offerRoom();
    if (this.#group.order !== null) this.#group.admissionsMoved(); // some wait for what is confirmed
    return true;
  }

  /** Somebody waits until the peer has granted a lock. */
  get isAskedForGrants(): boolean {
    return this.#grantWaiters.length > 0;
  }

  /** So many times has the peer said what counts only once more of its stream is here. */
  get unproved(): number {
    return this.#unproved.length;
  }

  // ---- what the peer said

  /** Of an earlier link that counts on which had been proved, as far as the peer still has it. What it says now has to be proved first. */
  #keepProved(): void {
    const { received, granted, applied, peerDurable } = this.#source;
    const proved = this.#proved;
    this.#proved = {
      horizon: 0,
      received: Math.min(proved.received, received),
      granted: Math.min(proved.granted, granted),
      applied: Math.min(proved.applied, applied),
      durable: Math.min(proved.durable, peerDurable),
    };
  }

  #said(horizon: number): void {
    const { received, granted, applied, peerDurable } = this.#source;
    this.#group.order?.confirmed(received, horizon);
    // while nothing of the peer's is taken they are many
    if (this.#unproved.at(-1)?.horizon === horizon || this.#unproved.length >= UNPROVED_MAX) this.#unproved.pop();
    this.#unproved.push({ horizon, received, granted, applied, durable: peerDurable });
    this.peerStreamMoved();
  }

  /** The scope lost: nobody is told of its lock but by what this returns, once that may be said. */
  withdrawGrant(lock: number): (error: ForelockError) => void {
    const index = this.#grantWaiters.findIndex((waiter) => waiter.lock === lock);
    return index < 0 ? () => {} : this.#grantWaiters.splice(index, 1)[0]!.reject;
  }

  /** More of the peer's stream is here: what the peer said behind it counts now. */
  peerStreamMoved(): void {
    const { appended } = this.#group.journal.peer;
    let proof: Proof | undefined;
    while (this.#unproved.length > 0 && this.#unproved[0]!.horizon <= appended) proof = this.#unproved.shift();
    if (proof === undefined) return;
    this.#proved = proof;
    this.#grantedThrough = Math.max(this.#grantedThrough, proof.granted);
    while (this.#grantWaiters.length > 0 && this.#grantWaiters[0]!.lock <= proof.granted)
      this.#grantWaiters.shift()!.resolve();
    // what is durable and waits there for a lock is not granted: the next life would say that it is
    this.#group.state.rememberPeerDurable(Math.min(this.peerDurable, this.peerApplied));
    this.#group.peerMoved();
  }

  // ---- MirrorEnd

  ownMoved(): void {
    const { own } = this.#group.journal;
    this.#source.step({ kind: 'moved', appended: own.appended, sealed: own.sealed, durable: own.durable }, 0);
    this.pump();
  }

  locksMoved(): void {}

  tick(nowMs: number): void {
    this.#source.step({ kind: 'tick' }, nowMs);
    this.#act();
    this.#lookAtRejection();
    if (this.#group.roomIsWaitedFor && this.#lending.isStalled(nowMs))
      this.#link?.close(CLOSE_TIMEOUT, 'hosts wait for the ring, and the peer takes nothing of what was sent');
    this.pump();
  }

  scopeOpened(lock: number): void {
    this.#source.step({ kind: 'scope', lock, end: null }, 0);
  }

  scopeClosed(lock: number, end: number): void {
    this.#source.step({ kind: 'scope', lock, end }, 0);
  }

  whenGranted(lock: number): Promise<void> {
    if (!this.#group.policy.paired || this.#group.alone || this.#proved.granted >= lock) return Promise.resolve();
    return new Promise((resolve, reject) => this.#grantWaiters.push({ lock, resolve, reject }));
  }

  /** This site goes on alone: nothing is left that could take a scope back. */
  grantAll(): void {
    this.#isAhead = true;
    for (const waiter of this.#grantWaiters.splice(0)) waiter.resolve();
  }

  whenPeerApplied(): Promise<void> {
    return Promise.resolve();
  }

  /** Why the stream cannot be read back, after it was tried. */
  get damage(): ForelockError | null {
    return this.#reader.damage;
  }

  /**
   * The peer will ask for the stream from this sequence on: it stays from now on.
   *
   * @param only nothing in front of it will be asked for: a first copy begins there
   * @returns false: it is gone, or for `damage`
   */
  keepFrom(sequence: number, only = false): boolean {
    const position = this.#reader.find(sequence);
    if (position >= 0) this.#retainFrom = only ? position : Math.min(this.#retainFrom, position);
    return position >= 0;
  }

  giveUpRetention(): void {
    if (this.#retainFrom !== Number.POSITIVE_INFINITY)
      this.#group.tell('the journal is full: what the peer still needs was given up, it needs a full copy');
    this.#retainFrom = Number.POSITIVE_INFINITY;
    this.#link?.close(
      CLOSE_PROTOCOL,
      'the journal is full: what this peer still needs was given up, it has to be copied anew',
    );
  }

  get retentionGivenUp(): boolean {
    return this.#retainFrom === Number.POSITIVE_INFINITY && this.#source.appended > this.#source.trimmed;
  }

  loweredThrough(sequence: number): void {
    this.#loweredThrough = Math.max(this.#loweredThrough, sequence);
  }

  checkpointCursors(): CheckpointCursors {
    const { journal } = this.#group;
    return {
      position: this.replayFrom,
      peerReceived: journal.peer.appended,
      peerApplied: journal.peerApplied,
      base: null,
      order: null,
      // whoever wrote that stream before ends them, if it is ever followed again
      openScopes: this.#group.state.openScopes,
      ownScopes: [...this.#group.scopes.open].map(([sequence, volume]) => ({
        sequence,
        flags: 0,
        volume,
        lba: 0,
        blockCount: 0,
      })),
    };
  }

  close(): void {
    this.detach();
    const error = new ForelockError(
      'ESHUTDOWN',
      'the gateway is stopping; whether the peer granted the lock is not known',
    );
    for (const waiter of this.#grantWaiters.splice(0)) waiter.reject(error);
  }

  // ---- sending

  /** Sends what may be sent now. Called whenever something that it waits for has moved. */
  pump(): void {
    for (;;) {
      const link = this.#link;
      if (link === null || link.bufferedBytes >= LINK_BUFFER_MAX) return;
      const want = this.#source.want();
      if (want === null) return;
      if (want.phase === 'base') {
        this.#prepareBase(want.volume, want.lba);
        return;
      }
      if (this.#gathers()) return;
      if (this.#reader.nextSequence !== want.from && !this.#reader.seek(want.from)) {
        if (this.#reader.damage === null)
          link.close(CLOSE_PROTOCOL, `the journal no longer holds sequence ${want.from}`);
        else this.#giveUp(this.#reader.damage);
        return;
      }
      const stretch = this.#reader.next(want.through, want.bytesMax);
      if (stretch === null) {
        if (this.#reader.damage !== null) this.#giveUp(this.#reader.damage);
        return;
      }
      const { journal } = this.#group;
      const through = stretch.first + stretch.count - 1;
      const header = this.#encoder.data({
        epoch: want.epoch,
        attempt: want.attempt,
        first: stretch.first,
        count: stretch.count,
        size: stretch.size,
        durable: journal.own.durable,
        appended: journal.own.appended,
        clock: journal.stamp,
        returned: false,
        baseEnd: false,
      });
      this.#sentTo = stretch.position + stretch.size;
      this.#sentAtMs = this.#group.nowMs();
      this.#frames.push({ through, end: this.#sentTo });
      this.counters.framesSent += 1;
      this.counters.bytesSent += stretch.size;
      this.counters.recordsSent += stretch.count;
      this.#source.step({ kind: 'sent', through, bytes: stretch.size }, 0);
      this.#pace(stretch.size);
      this.#lending.give(stretch, (bytes, released) => link.send(header, bytes, released));
    }
  }

  /** What comes next cannot be read here, so it will not help to begin again: both ends say why the stream stands. */
  #giveUp(damage: ForelockError): void {
    const link = this.#link;
    if (link === null) return;
    this.counters.givenUp += 1;
    link.close(CLOSE_REFUSED, `${damage.code}: ${damage.message}`);
    this.detach();
  }

  /** Whether what is there now is better sent a little later, together with what comes. */
  #gathers(): boolean {
    const group = this.#group;
    if (group.peerIsAwaited || group.roomIsWaitedFor || group.lockStep || this.#grantWaiters.length > 0) return false;
    if (group.journal.sealed - this.#sentTo >= SENT_SIZE_GATHERED) return false;
    const left = this.#sentAtMs + (group.order === null ? GATHER_MS : GATHER_DUAL_MS) - group.nowMs();
    if (left <= 0) return false;
    if (!this.#gathering) {
      this.#gathering = true;
      group.after(left, () => {
        this.#gathering = false;
        this.pump();
      });
    }
    return true;
  }

  /** Acts on what the machine decided. */
  #act(): void {
    let progressed = false;
    let damage: ForelockError | null = null;
    for (const effect of this.#source.drain()) {
      switch (effect.kind) {
        case 'progressed':
          progressed = true;
          break;
        case 'rewound':
          this.counters.rewinds += 1;
          if (effect.reason === NAK_REJECTED) this.counters.rejectedRewinds += 1;
          if (effect.from > 0) {
            while (
              this.#frames.length > this.#frameHead &&
              this.#frames[this.#frames.length - 1]!.through >= effect.from
            )
              this.#frames.pop();
            // if it is damaged here already, NAKs would follow for ever
            if (effect.reason === NAK_CHECK && !this.#reader.check(effect.from)) damage = this.#reader.damage;
          }
          break;
        case 'rejected':
          this.counters.rejections += 1;
          break;
        case 'heartbeat':
          this.#link?.send(
            this.#encoder.heartbeat({
              appended: this.#source.appended,
              flushed: this.#source.durable,
              degraded: this.#group.state.superblock.degradedSince !== null,
              clock: this.#group.journal.stamp,
            }),
            null,
            null,
          );
          break;
        case 'broken':
          this.counters.protocolErrors += 1;
          this.#link?.close(CLOSE_PROTOCOL, effect.reason);
          break;
        case 'granted':
          progressed = true;
          break;
        case 'consistent':
          progressed = true;
          this.#tellCopy();
          break;
      }
    }
    if (damage !== null) this.#giveUp(damage);
    if (!progressed) return;
    const { trimmed } = this.#source;
    while (this.#frameHead < this.#frames.length && this.#frames[this.#frameHead]!.through <= trimmed) {
      if (this.#retainFrom !== Number.POSITIVE_INFINITY) this.#retainFrom = this.#frames[this.#frameHead]!.end;
      this.#frameHead += 1;
    }
    if (this.#frameHead > 1024) {
      this.#frames.splice(0, this.#frameHead);
      this.#frameHead = 0;
    }
    this.#group.order?.backlog.keepBehind(trimmed);
    this.#endDegraded();
    this.#group.peerMoved();
  }

  /** Counts how long nothing was sent for a rejection. */
  #lookAtRejection(): void {
    const { stopped, phase, rejected } = this.#source;
    const before = this.#stopped;
    if (stopped === 'halted' && before === null) this.counters.halts += 1;
    this.#stopped = stopped;
    const ms = this.rejection.look(phase === 'away' ? 0 : rejected);
    if (before === 'halted') this.counters.haltedMs += ms;
    else if (before === 'rewound') this.counters.rewoundMs += ms;
  }

  /** "Degraded since" ends when the peer has, durably, everything that was answered without it. */
  #endDegraded(): void {
    const { superblock } = this.#group.state;
    if (superblock.degradedSince === null || this.#link === null || !this.#source.consistent) return;
    const lowered = Math.max(this.#loweredThrough, superblock.degradedSince);
    if (this.#source.peerDurable < Math.min(lowered, this.#source.appended)) return;
    superblock.degradedSince = null;
    this.#loweredThrough = 0;
    this.#group.tell('the peer has all that was answered without it: promises are kept by both sites again');
    this.#group.state.save(() => {});
  }

  // ---- the first copy

  /** Once when it begins, however often the link goes meanwhile, and once when it is whole. */
  #tellCopy(): void {
    const isUnderWay = !this.#source.consistent;
    if (isUnderWay === this.#copying) return;
    this.#copying = isUnderWay;
    this.#group.tell(isUnderWay ? 'a first copy to the peer is under way' : 'the first copy at the peer is whole');
  }

  /** Builds one frame of BASE records from (volume, lba) on, and sends it. */
  #prepareBase(volumeNumber: number, lba: number): void {
    if (this.#basePreparing) return;
    const region = this.#baseBuffers.pop();
    if (region === undefined) return;
    let number = volumeNumber;
    let from = lba;
    const numbers = [...this.#group.volumes.keys()].sort((a, b) => a - b);
    let volume = this.#group.volumes.get(number) ?? null;
    if (volume === null || from * volume.blockSize >= volume.size) {
      const next = numbers.find((each) => each > number);
      volume = next === undefined ? null : this.#group.volumes.get(next)!;
      if (next !== undefined) {
        number = next;
        from = 0;
      }
    }
    if (volume === null) {
      this.#baseBuffers.push(region);
      const readAt = this.#group.journal.own.durable;
      this.#sendBase({ volume: number, lba: from }, null, 0, 0, true, readAt);
      return;
    }
    const pieces = this.#planBase(volume, from, region);
    const last = pieces[pieces.length - 1]!;
    const next = { volume: number, lba: last.lba + last.blockCount };
    const { journal } = this.#group;
    const { epoch, attempt } = this.#source;
    const isStale = (): boolean => {
      const { phase, epoch: newest, attempt: last } = this.#source;
      return phase !== 'base' || newest !== epoch || last !== attempt || this.#link === null;
    };
    const wanted = volume;
    this.#basePreparing = true;
    let waiting = 1;
    let failed: ForelockError | null = null;
    const done = (error: ForelockError | null): void => {
      failed ??= error;
      waiting -= 1;
      if (waiting > 0) return;
      this.#basePreparing = false;
      if (failed !== null || isStale()) {
        this.#baseFailed = failed?.message ?? null;
        this.#baseBuffers.push(region);
        return; // the next tick tries again
      }
      this.#baseFailed = null;
      const size = this.#encodeBase(wanted, pieces, region);
      journal.kernel.seal(region.at, size);
      const readAt = journal.own.appended;
      this.#basePreparing = true;
      this.#whenOwnDurable(readAt, () => {
        this.#basePreparing = false;
        if (isStale() || journal.failed !== null) {
          this.#baseFailed = journal.failed?.message ?? null;
          this.#baseBuffers.push(region);
          return;
        }
        this.#sendBase(next, region, size, pieces.length, false, readAt);
        this.pump();
      });
    };
    for (const piece of pieces) {
      if (!piece.data) continue;
      waiting += 1;
      const payload = piece.at + HEADER_SIZE + 8 * piece.blockCount;
      const into = journal.memory.bytes.subarray(payload, payload + piece.blockCount * volume.blockSize);
      const image = this.#group.image(volume.number);
      this.#group.reader.read(
        volume.map,
        volume.number,
        volume.blockShift,
        piece.lba,
        piece.blockCount,
        into,
        image,
        done,
      );
    }
    this.#group.defer(() => done(null));
  }

  /** Runs of data and of holes from `lba` on, until a frame is full or the volume ends. */
  #planBase(volume: Volume, lba: number, region: Region): BasePiece[] {
    const pieces: BasePiece[] = [];
    const end = volume.size / volume.blockSize;
    let at = region.at;
    let from = lba;
    while (from < end && at - region.at < FRAME_SIZE_MAX && pieces.length < 256) {
      const mapped = volume.map.lookup(from);
      const data = (mapped && !volume.map.zero) || (!mapped && volume.platter === 'flat');
      const room = Math.max(1, Math.floor((FRAME_SIZE_MAX - (at - region.at)) / (volume.blockSize + 8)));
      const limit = Math.min(end - from, data ? Math.min(RECORD_BLOCKS_MAX, room) : BASE_ZERO_BLOCKS_MAX);
      const blockCount = Math.max(1, volume.map.run(from, limit));
      pieces.push({ lba: from, blockCount, data, at });
      at += recordSize(data ? TYPE_BASE : TYPE_BASE_ZERO, blockCount, data ? volume.blockShift : 0);
      from += blockCount;
    }
    return pieces;
  }

  /** Writes the headers; data that turns out to be all zero (an image's) travels as a hole. @returns bytes */
  #encodeBase(volume: Volume, pieces: readonly BasePiece[], region: Region): number {
    const { journal } = this.#group;
    let to = region.at;
    for (const piece of pieces) {
      const payload = piece.at + HEADER_SIZE + 8 * piece.blockCount;
      const size = piece.blockCount * volume.blockSize;
      const data = piece.data && !isZero(journal.memory.bytes, payload, size);
      const target = to + HEADER_SIZE + 8 * piece.blockCount;
      if (data && target !== payload) journal.memory.bytes.copyWithin(target, payload, payload + size);
      to += journal.kernel.encode(
        to,
        data ? TYPE_BASE : TYPE_BASE_ZERO,
        0,
        volume.number,
        piece.lba,
        piece.blockCount,
        data ? volume.blockShift : 0,
        0,
        journal.peer.appended,
        journal.stamp,
        0,
        journal.generation,
        0,
        journal.own.site,
      );
      if (data) this.counters.baseBlocksSent += piece.blockCount;
    }
    return to - region.at;
  }

  /** The target must never have blocks of records that a crash here could still take back. */
  #whenOwnDurable(sequence: number, then: () => void): void {
    const { journal } = this.#group;
    if (journal.own.durable >= sequence || journal.failed !== null) return then();
    journal.sync();
    this.#group.whenDurable(() => this.#whenOwnDurable(sequence, then));
  }

  #sendBase(
    next: BasePosition,
    region: Region | null,
    size: number,
    count: number,
    last: boolean,
    readAt: number,
  ): void {
    const { journal } = this.#group;
    const link = this.#link!;
    const header = this.#encoder.data({
      epoch: this.#source.epoch,
      attempt: this.#source.attempt,
      first: 0,
      count,
      size,
      durable: journal.own.durable,
      // the copy is whole once the target has this: it holds nothing of what a crash here may still take back
      appended: last ? readAt : journal.own.appended,
      clock: journal.stamp,
      returned: false,
      baseEnd: last,
    });
    this.#source.step({ kind: 'baseSent', next, bytes: size, last, readAt }, 0);
    this.counters.bytesSent += size;
    if (region === null) link.send(header, null, null);
    else {
      link.send(header, journal.memory.bytes.subarray(region.at, region.at + size), () => {
        this.#baseBuffers.push(region);
        this.pump();
      });
    }
    this.#act();
    if (last) this.#group.defer(() => this.pump());
  }
}

function isZero(bytes: Uint8Array, at: number, size: number): boolean {
  for (let i = at; i < at + size; i += 1) if (bytes[i] !== 0) return false;
  return true;
}
