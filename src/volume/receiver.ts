/**
 * Target's end of the mirror: takes frames into the journal, applies records in order as their locks are had, confirms.
 *
 *     frame -> wanted? -> journal: copied once, checked in place -> lock -> map swung -> confirm
 *
 * The commit log is the journal between `#applyAt` and its end.
 */
import {
  FLAG_POINT,
  FLAG_READ_LOCK,
  TYPE_BASE,
  TYPE_BASE_ZERO,
  TYPE_FLUSH,
  TYPE_LOCAL,
  TYPE_LOCK,
} from '../../assembly/layout.js';
import { ForelockError } from '../errors.js';
import type { CheckpointCursors } from '../journal/checkpointer.js';
import type { Journal } from '../journal/journal.js';
import { RecordHeader } from '../journal/record.js';
import { segmentName } from '../journal/segments.js';
import type { Superblock } from '../journal/superblock.js';
import { DROP_BYTES_MAX, FRAME_SIZE_MAX, KIB } from '../limits.js';
import { CLOSE_PROTOCOL, CLOSE_REFUSED, type Link } from '../link/link.js';
import { type BasePosition, copyGoesOn, positionBefore } from '../mirror/base.js';
import { APPLY, type TargetBase, TargetStream } from '../mirror/target.js';
import { type Data, KIND_DATA, KIND_HEARTBEAT, type Message, type Start, WireEncoder } from '../mirror/wire.js';
import type { Group } from './group.js';
import { scopesEndedThrough } from './group-state.js';
import type { MirrorEnd } from './mirror-end.js';
import { Rejection } from './rejection.js';

interface PendingFrame {
  data: Data;
  stretch: Uint8Array;
}

export class Receiver implements MirrorEnd {
  readonly #group: Group;
  readonly #target: TargetStream;
  /** Site number of the stream's author. */
  #stream: number;
  readonly #encoder = new WireEncoder();
  #link: Link | null = null;
  readonly #frames: PendingFrame[] = [];
  #waitingForRoom = false;
  /** What the source had when the link came up was promised to be taken before. */
  #owed = 0;
  /** Position of the first record of the commit log. */
  #applyAt: number;
  /** Why nothing more is applied, until this site is restored: the commit log is damaged. */
  #damage: ForelockError | null = null;
  #confirmQueued = false;
  #notingBaseEnd = false;
  /** The copy that is over, while the superblock on the disk says that it is not: to be saved again. */
  #unsavedEndOf: Superblock['inconsistent'] = null;
  /** The last sequence before one that can never be applied and still stands in the journal; null: there is none. */
  #takeBackTo: number | null = null;
  /** A first copy was told to be under way. */
  #copying = false;
  /** Where received records end, of those that the source may still lose in a crash: kept, to give them back. */
  readonly #tailMarks: { through: number; position: number }[] = [];
  #tailFrom = 0;
  /** Behind the last record that takes back some of the stream. */
  #closedAt = 0;
  readonly rejection: Rejection;
  /** Blocks of each volume: a first copy brings all of them. */
  readonly #blockCounts: ReadonlyMap<number, number>;
  readonly #baseMarks: { position: number; next: BasePosition }[] = [];
  /** What the source said last of itself. */
  announced = { appended: 0, durable: 0, degraded: false, at: 0 };
  /** When the image last showed everything that the source had, as far as it had told, ms; null: not since the start. */
  appliedAllAt: number | null = null;
  /** End of this site's own stream when it took the newest of the peer's records, or last granted it a read lock. */
  #horizon: number;
  readonly #appliedWaiters: { sequence: number; resolve: () => void }[] = [];
  readonly #header = new RecordHeader();
  readonly #received = new RecordHeader();
  readonly counters = {
    framesReceived: 0,
    bytesReceived: 0,
    recordsReceived: 0,
    recordsApplied: 0,
    baseRecordsApplied: 0,
    corruptRecords: 0,
    damaged: 0,
    framesDropped: 0,
    rejections: 0,
    rewinds: 0,
    recordsDropped: 0,
    protocolErrors: 0,
    confirmsSent: 0,
    stalls: 0,
  };

  constructor(group: Group) {
    this.#group = group;
    this.rejection = new Rejection(group, () => this.describe());
    const { journal, state } = group;
    this.#stream = journal.peer.site;
    this.#blockCounts = new Map([...journal.volumes].map(([number, { map }]) => [number, map.blockCount]));
    const { inconsistent, streamStart } = state.superblock;
    // what was open before that is not known here, or is over
    const start = Math.max(streamStart, scopesEndedThrough(state.superblock, this.#stream));
    this.#target = new TargetStream({
      locks: new Map([...group.volumes].map(([number, volume]) => [number, volume.locks])),
      received: journal.peer.appended,
      applied: journal.peerApplied,
      durable: journal.peer.durable,
      base:
        inconsistent === null
          ? null
          : { start: inconsistent.startSequence, next: inconsistent.base, end: inconsistent.untilSequence },
      start,
      staged: journal.peerStaged,
      judge: group.order,
      isWhole: (next) => copyGoesOn(next, this.#blockCounts) === null,
    });
    for (const scope of state.openScopes) {
      if (scope.sequence <= start) continue;
      this.#target.replayed(
        TYPE_LOCK,
        scope.flags,
        scope.volume,
        scope.lba,
        scope.blockCount,
        scope.sequence,
        scope.sequence,
      );
    }
    this.#applyAt = group.order?.firstUnapplied ?? journal.head;
    this.#horizon = horizonAt(state.superblock.generations.at(-1)!, journal);
    if (journal.peer.appended > 0) this.#tailMarks.push({ through: journal.peer.appended, position: journal.head });
  }

  get target(): TargetStream {
    return this.#target;
  }
  get connected(): boolean {
    return this.#link !== null;
  }
  get linked(): boolean {
    return this.#link !== null;
  }
  readonly peerReceived = 0;
  readonly peerDurable = 0;
  readonly peerApplied = 0;
  get replayFrom(): number {
    return this.#group.order?.replayFrom(this.#unappliedFrom) ?? this.#unappliedFrom;
  }
  get #unappliedFrom(): number {
    const { journal, order } = this.#group;
    const staged = Math.min(journal.peerStaged.from, order === null ? Infinity : journal.ownStaged.from);
    return Math.min(this.#applyAt, journal.head, staged);
  }
  get retainFrom(): number {
    const marks = this.#tailMarks;
    let count = 0;
    while (count < marks.length && marks[count]!.through <= this.announced.durable) count += 1;
    if (count > 0) {
      this.#tailFrom = marks[count - 1]!.position;
      marks.splice(0, count);
    }
    return marks.length === 0 ? Number.POSITIVE_INFINITY : this.#tailFrom;
  }
  get imageConsistent(): boolean {
    return this.#target.consistent;
  }
  /**
   * The first copy under way, if the state tells of it: a START that came to nothing has begun another there, of which
   * nothing has come. How far the one before had got says nothing about that.
   */
  get copy(): TargetBase | null {
    const { base } = this.#target;
    return base?.start === this.#group.state.superblock.inconsistent?.startSequence ? base : null;
  }
  /** Up to where the first copy has come here. To be asked while it is not whole. */
  get copied(): BasePosition {
    return this.copy?.next ?? this.#group.state.superblock.inconsistent?.base ?? { volume: 0, lba: 0 };
  }
  /** Records of the source, as far as it has told of them, that the image does not show. */
  get recordsBehind(): number {
    return Math.max(0, Math.max(this.announced.appended, this.#owed) - this.#target.applied);
  }
  /** `imageConsistent`, once that stands on the disk. */
  get toldConsistent(): boolean {
    return this.#target.consistent && !this.#notingBaseEnd && this.#unsavedEndOf === null;
  }
  get horizon(): number {
    return this.#horizon;
  }
  /** The peer went on alone, and what it answered then is not known to be all here, or is not applied. */
  get lacksAlone(): boolean {
    const { state, journal } = this.#group;
    const { peerAlone } = state.superblock;
    return peerAlone === null || journal.peerApplied < peerAlone;
  }
  get damage(): ForelockError | null {
    return this.#damage;
  }
  /** What has come finds no room here. */
  get isFull(): boolean {
    return this.#waitingForRoom;
  }

  describe(): string {
    if (this.#damage !== null) return this.#damage.message;
    if (this.#link === null) return 'no link to the source';
    if (!this.#target.consistent) return 'receiving the first copy';
    const { rejected, rewound } = this.#target;
    if (rejected === 0) return 'receiving';
    return `waiting for a lock that sequence ${rejected} needs${rewound ? ', which was dropped and comes again' : ''}`;
  }

  // ---- link

  /** Whose stream it takes, from now on. */
  follow(stream: number): void {
    this.#stream = stream;
    const { journal } = this.#group;
    if (journal.peer.site !== stream) journal.barReuse();
    journal.peer.site = stream;
  }

  /**
   * The source said START, and what it needs is durable here.
   * @param owed the end of its stream as its HELLO said
   * @returns false: the stream cannot go on so, and the link is closed
   */
  attach(link: Link, start: Start, owed: number): boolean {
    this.#link = link;
    this.#owed = owed;
    this.follow(start.stream);
    this.#frames.length = 0;
    this.#group.views.dropPoint(start.stream); // what was applied without a link may have pinned one
    this.#tellRoom();
    this.#target.step({
      kind: 'connected',
      epoch: start.epoch,
      base: start.base === null ? null : { start: start.from, next: start.base },
      onReject: start.onReject,
    });
    if (this.#target.phase === 'broken') {
      this.#act();
      return false;
    }
    // alone it needed nobody's lock, and may have gone on so since an earlier link: all that it answered is awaited
    this.#group.order?.conflicts.awaitPeer(start.confirmed, this.lacksAlone ? start.confirmed : start.granted);
    if (start.base !== null && this.#target.phase === 'base') {
      const { base } = start;
      while (this.#baseMarks.length > 0 && positionBefore(base, this.#baseMarks.at(-1)!.next)) this.#baseMarks.pop();
      this.#group.order?.beginPeer(start.from);
      this.#group.journal.barReuse();
      this.#group.journal.peer.appended = start.from;
      this.#group.journal.peerApplied = start.from;
      this.#group.journal.peerStaged.truncate(0);
    }
    this.#act();
    this.#tellCopy();
    return true;
  }

  detach(): void {
    if (this.#link === null) return;
    this.#link = null;
    this.#frames.length = 0;
    this.#group.views.dropPoint(this.#stream);
    this.#target.step({ kind: 'disconnected' });
    this.#act();
  }

  /** @returns whether the message was this end's */
  onMessage(message: Message, stretch: Uint8Array | null): boolean {
    if (message.kind === KIND_HEARTBEAT) {
      const { appended, flushed, degraded } = message.heartbeat;
      this.announced = { appended, durable: flushed, degraded, at: this.#group.nowMs() };
      return true;
    }
    if (message.kind !== KIND_DATA || message.data.returned) return false;
    const { data } = message;
    this.announced = { ...this.announced, appended: data.appended, durable: data.durable, at: this.#group.nowMs() };
    this.counters.framesReceived += 1;
    this.counters.bytesReceived += data.size;
    this.#target.step({
      kind: 'frame',
      epoch: data.epoch,
      attempt: data.attempt,
      first: data.first,
      count: data.count,
      bytes: data.size,
      baseEnd: data.baseEnd ? data.appended : null,
    });
    let accepted = false;
    for (const effect of this.#target.drain()) {
      if (effect.kind === 'accept') accepted = true;
      else if (effect.kind === 'drop') this.counters.framesDropped += 1;
      else this.#actOn(effect);
    }
    if (accepted && stretch !== null) {
      const frame = { data, stretch };
      this.#frames.push(frame);
      if (!this.#waitingForRoom && !this.#take()) this.#stall();
      if (this.#frames.at(-1) === frame) frame.stretch = stretch.slice(); // it was lent to us for this call
    }
    this.#noteBaseEnd();
    this.#queueConfirm();
    return true;
  }

  // ---- into the journal

  /**
   * What may be promised to be taken. What the source had when the link came up is taken in any case: an earlier promise
   * covers it, but for what comes with records that are small (MARKs). And a site whose own stream is further ahead than
   * the peer has promised to take (it was alone, or the peer had a first copy) lets the peer append nothing new before that
   * is mended: the peer may be unable to free what it keeps for this one before it has all of it.
   */
  #tellRoom(): void {
    const { journal, sender } = this.#group;
    const { received } = this.#target;
    let bytes = journal.room.forPeer;
    if (received < this.#owed && journal.room.lendsPeer) bytes = Math.max(bytes, FRAME_SIZE_MAX);
    if (sender?.isOverdrawn === true && this.announced.appended <= received) bytes = 0;
    this.#target.step({ kind: 'room', bytes });
  }

  /** @returns false when the ring has no room for the next frame, or too much waits to be applied */
  #take(): boolean {
    const { journal } = this.#group;
    while (this.#frames.length > 0 && !this.#notingBaseEnd) {
      if (this.#group.order?.isFull) return false;
      const { data, stretch } = this.#frames[0]!;
      if (!this.#target.current(data.epoch, data.attempt)) {
        this.#frames.shift();
        this.#target.step({ kind: 'consumed', bytes: data.size });
        continue;
      }
      let wrong: string | null = null;
      let kept = 0;
      let sequence = journal.peer.appended;
      let flushed = false;
      let next: BasePosition | null = null;
      const bytes = journal.accept(stretch, (at, position) => {
        const header = this.#received.read(journal.memory.view, at);
        wrong = kept === data.count ? `more than the ${kept} records announced` : null;
        wrong ??= this.#misplaced(header, data.first, sequence);
        if (data.first !== 0) wrong ??= this.#misordered(header, position);
        else wrong ??= this.#miscopied(header, next ?? this.#target.base!.next);
        if (wrong !== null) return false;
        kept += 1;
        if (data.first === 0) next = { volume: header.volume, lba: header.lba + header.blockCount };
        else {
          sequence = header.sequence;
          journal.peer.appended = sequence;
          if (header.type === TYPE_FLUSH) flushed = true;
        }
        if (header.clock > journal.stamp) journal.stamp = header.clock;
        return true;
      });
      if (bytes < 0) return false;
      if (flushed) journal.sync(); // now that the FLUSH itself is before the head
      this.#frames.shift();
      this.counters.recordsReceived += kept;
      const { epoch, attempt } = data;
      this.#horizon = journal.own.appended;
      if (data.first === 0) {
        if (next !== null) {
          this.#target.step({ kind: 'baseVerified', epoch, attempt, count: kept, next });
          this.#baseMarks.push({ position: journal.head, next });
        }
      } else if (kept > 0) {
        this.#target.step({ kind: 'verified', epoch, attempt, through: sequence });
        this.#tailMarks.push({ through: sequence, position: journal.head });
      }
      this.#tellRoom();
      this.#target.step({ kind: 'consumed', bytes: data.size });
      if (wrong !== null) {
        this.counters.protocolErrors += 1;
        this.#frames.length = 0; // of the copy, what comes next would be taken with a gap before it
        this.#link?.close(CLOSE_PROTOCOL, wrong);
      } else if (kept < data.count) {
        this.counters.corruptRecords += 1;
        this.#target.step({ kind: 'bad', epoch, attempt, sequence: data.first === 0 ? 0 : sequence + 1 });
      }
      this.#act();
      this.#group.peerStreamMoved();
      this.applyReceived();
      this.#noteBaseEnd(); // frames of the stream may already wait behind the last one of the copy
    }
    return true;
  }

  /** What is wrong with a record that checks but does not belong here, or null. */
  #misplaced(header: RecordHeader, first: number, last: number): string | null {
    if (header.site !== this.#stream) return `a record of site ${header.site} in the stream of site ${this.#stream}`;
    if (first === 0) {
      const base = header.type === TYPE_BASE || header.type === TYPE_BASE_ZERO;
      if (!base || header.sequence !== 0) return `record of type ${header.type} in the base copy`;
      return this.#group.journal.misplaced(header);
    }
    if (header.type >= TYPE_BASE) return `record of type ${header.type} in the stream`;
    if (header.sequence !== last + 1) return `record ${header.sequence} follows ${last}`;
    return this.#group.journal.misplaced(header);
  }

  /** A copy that leaves out a block shows what stood there before, and nothing would ever tell. */
  #miscopied({ volume, lba }: RecordHeader, after: BasePosition): string | null {
    const due = copyGoesOn(after, this.#blockCounts);
    if (due?.volume === volume && due.lba === lba) return null;
    return `blocks from ${lba} of volume ${volume} in the base copy, which goes on behind ${after.lba} of volume ${after.volume}`;
  }

  /**
   * Where both sites write their order is told of a record that is about to be kept.
   * @returns what is wrong with it, or null; then the order knows nothing of it, and it must not be kept
   */
  #misordered(header: RecordHeader, position: number): string | null {
    try {
      this.#group.order?.received(header, position);
      return null;
    } catch (error) {
      if (error instanceof ForelockError && error.code === 'PEER_PROTOCOL') return error.message;
      throw error;
    }
  }

  /**
   * The ring is full: no more from the link until the disk has taken some of it. Where both sites write the link goes on,
   * and what it brings is held, which is no more than was promised to be taken: behind it come the confirmations that
   * free this site's journal, and as long as the peer cannot send, its ring keeps what is under way.
   */
  #stall(): void {
    this.#waitingForRoom = true;
    this.counters.stalls += 1;
    const link = this.#group.order === null ? this.#link : null;
    link?.pauseReceiving();
    this.#group.beforeHosts(() => {
      if (!this.#take()) return false;
      this.#waitingForRoom = false;
      link?.resumeReceiving();
      return true;
    });
  }

  /**
   * A record of the peer's stream comes with the lost tail of this site's own: a record of that had seen it.
   * @returns whether it follows
   */
  takeReturned(header: RecordHeader, position: number): boolean {
    const { journal, order } = this.#group;
    if (order === null || header.site !== this.#stream || header.sequence !== journal.peer.appended + 1) return false;
    if (this.#misordered(header, position) !== null) return false;
    journal.peer.appended = header.sequence;
    this.#horizon = journal.own.appended;
    this.#target.step({ kind: 'returned', through: header.sequence });
    this.#tailMarks.push({ through: header.sequence, position: position + header.size });
    return true;
  }

  // ---- apply

  /** Applies what has its lock, in order. */
  applyReceived(): void {
    const { journal, order } = this.#group;
    const now = this.#group.nowMs();
    let applied = 0;
    let baseApplied = 0;
    if (this.#target.onReject === 'retransmit' && !this.#mayDrop) this.#target.step({ kind: 'keep' });
    while (this.#applyAt < journal.sealed && this.#damage === null) {
      const at = journal.locate(this.#applyAt);
      const header = at < 0 ? null : this.#header.read(journal.memory.view, at);
      if (header === null || !this.#follows(header)) {
        this.#damaged(header);
        break;
      }
      const { type } = header;
      if (type < TYPE_LOCAL && header.site === this.#stream) {
        const { sequence, flags, volume, lba, blockCount } = header;
        if (this.#target.admit(header, now) !== APPLY) break;
        // had by the peer once it has what was written here before: from now on nothing is, on this extent
        if (type === TYPE_LOCK && (flags & FLAG_READ_LOCK) !== 0) this.#horizon = journal.own.appended;
        if (sequence === 0) {
          journal.apply(type, volume, lba, blockCount, this.#applyAt);
          order?.baseApplied(this.#applyAt);
        } else if (order === null) journal.follow(header, this.#applyAt);
        else journal.noteCommitted(order.applied(header, this.#applyAt));
        if (header.blockShift > 0) journal.noteChecksums(at, header, this.#applyAt);
        if (sequence === 0) baseApplied += 1;
        else {
          applied = sequence;
          journal.peerApplied = sequence;
          this.counters.recordsApplied += 1;
          if (type === TYPE_FLUSH && (flags & FLAG_POINT) !== 0) this.#group.views.pinPoint(this.#stream, sequence);
        }
      }
      this.#applyAt += header.size;
    }
    this.#act(); // what was dropped is no more, before anybody asks about it
    if (applied > 0) {
      this.#target.step({ kind: 'applied', through: applied });
      while (this.#appliedWaiters.length > 0 && this.#appliedWaiters[0]!.sequence <= applied)
        this.#appliedWaiters.shift()!.resolve();
    }
    if (baseApplied > 0) {
      this.counters.baseRecordsApplied += baseApplied;
      this.#target.step({ kind: 'baseApplied', count: baseApplied });
    }
    if (applied > 0 || baseApplied > 0) {
      this.#group.wakeLockWaiters();
      this.#group.admissionsMoved();
    }
    this.#act();
    this.#queueConfirm();
  }

  /** Whether the commit log may still be taken back: it is little enough, and there is room to say so. */
  get #mayDrop(): boolean {
    const { journal } = this.#group;
    // a turn of segment may come before the TRUNCATED
    return journal.head + KIB - this.#applyAt <= DROP_BYTES_MAX && journal.canTruncate;
  }

  /** What was received behind `through` is not applied; from there on it comes again. */
  #drop(through: number): void {
    const { journal } = this.#group;
    journal.truncatePeer(through);
    this.#applyAt = journal.head;
    this.#closedAt = journal.head;
  }

  /**
   * A record that can never be applied goes out of the journal, or no start would get past it. That cannot be while the ring
   * is full, nor with more behind it than recovery leaves unapplied. Where both sites write, a start applies nothing that
   * was not.
   */
  #takeBack(): void {
    const { journal, order } = this.#group;
    const through = this.#takeBackTo;
    if (through === null || order !== null || !this.#mayDrop) return;
    this.#takeBackTo = null;
    this.counters.recordsDropped += journal.peer.appended - through;
    this.#drop(through);
    this.#target.step({ kind: 'takenBack' });
  }

  /**
   * Calls back once what was dropped cannot come back in a crash. Before that a source that has crashed itself must not
   * go on from the shorter stream: it would use sequences again that still stand here. With the error of a disk that has
   * failed: it never is.
   */
  whenClosed(then: (failed: Error | null) => void): void {
    const { journal } = this.#group;
    if (journal.durable >= this.#closedAt) return then(null);
    if (journal.failed !== null) return then(journal.failed);
    journal.sync();
    this.#group.whenDurable(() => this.whenClosed(then));
  }

  /** Whether the commit log goes on with this record. */
  #follows(header: RecordHeader): boolean {
    if (header.type >= TYPE_LOCAL || header.site !== this.#stream || header.sequence === 0) return true;
    return header.sequence === this.#group.journal.peerApplied + 1;
  }

  /** What cannot be applied as it was received would be wrong data, or leave a gap: this site follows no further. */
  #damaged(found: RecordHeader | null): void {
    const { journal } = this.#group;
    const what =
      found === null ? 'the record does not check, or cannot be read' : `sequence ${found.sequence} is there`;
    const place = `${segmentName(journal.segments.numberOf(this.#applyAt))} at offset ${this.#applyAt % journal.segmentSize}`;
    this.counters.damaged += 1;
    this.#damage = new ForelockError(
      'STATE_CORRUPT',
      `the journal of site ${this.#group.state.superblock.site.name} is damaged at position ${this.#applyAt} (${place}): ` +
        `${what}, where sequence ${journal.peerApplied + 1} was received. Nothing from there on is applied. ` +
        'Stop this site, empty its state directory and start it again as an empty standby',
    );
    this.#link?.close(CLOSE_REFUSED, this.#damage.message);
  }

  // ---- MirrorEnd

  ownMoved(): void {
    const { journal } = this.#group;
    if (journal.peer.durable > this.#target.durable)
      this.#target.step({ kind: 'durable', through: journal.peer.durable });
    let mark: BasePosition | null = null;
    while (this.#baseMarks.length > 0 && this.#baseMarks[0]!.position <= journal.durable)
      mark = this.#baseMarks.shift()!.next;
    if (mark !== null) this.#target.step({ kind: 'baseDurable', next: mark });
    this.#tellRoom();
    this.#act();
    this.#queueConfirm();
  }

  locksMoved(): void {
    this.#target.step({ kind: 'locksMoved' });
    this.applyReceived();
  }

  tick(nowMs: number): void {
    if (this.#link !== null && this.#target.consistent && this.recordsBehind === 0) this.appliedAllAt = nowMs;
    if (this.#applyAt < this.#group.journal.sealed) this.applyReceived();
    this.rejection.look(this.#target.rejected);
    this.#takeBack();
    const { inconsistent } = this.#group.state.superblock;
    if (this.#unsavedEndOf !== null && !this.#notingBaseEnd) {
      if (inconsistent === this.#unsavedEndOf) this.#noteConsistent();
      else this.#unsavedEndOf = null; // another copy has begun
    }
    this.#tellRoom();
    this.#queueConfirm();
  }

  scopeOpened(): void {}
  scopeClosed(): void {}
  whenGranted(): Promise<void> {
    return Promise.resolve();
  }
  whenPeerApplied(): Promise<void> {
    const { appended } = this.#group.journal.peer;
    if (this.#target.applied >= appended) return Promise.resolve();
    return new Promise((resolve) => this.#appliedWaiters.push({ sequence: appended, resolve }));
  }
  /** A full journal is worse than a lost tail that cannot be given back. */
  giveUpRetention(): void {
    this.#tailMarks.length = 0;
    this.#tailFrom = this.#group.journal.head;
  }
  loweredThrough(): void {}

  checkpointCursors(): CheckpointCursors {
    const { journal, order } = this.#group;
    const base = this.copy;
    const again = order?.checkpoint(this.#unappliedFrom) ?? null;
    const place = again?.place;
    return {
      base: base === null ? null : { next: { ...base.next }, end: base.end },
      position: place?.position ?? this.#unappliedFrom,
      peerReceived: place?.peer ?? journal.peer.appended,
      peerApplied: Math.min(journal.peerApplied, place?.peer ?? Infinity),
      order:
        order === null || again === null
          ? null
          : { own: again.place.own, state: again.state, withBase: (snapshot) => order.versions.withBase(snapshot) },
      // told again, where both sites write
      openScopes: order === null ? this.#target.openScopes() : [],
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
  }

  // ---- answers

  #act(): void {
    for (const effect of this.#target.drain()) this.#actOn(effect);
  }

  #actOn(effect: ReturnType<TargetStream['drain']>[number]): void {
    switch (effect.kind) {
      case 'nak':
        this.#link?.send(
          this.#encoder.nak({
            epoch: effect.epoch,
            attempt: effect.attempt,
            sequence: effect.sequence,
            base: effect.base,
            reason: effect.reason,
            returned: false,
          }),
          null,
          null,
        );
        break;
      case 'rejected':
        this.counters.rejections += 1;
        break;
      case 'dropped':
        this.counters.rewinds += 1;
        this.counters.recordsDropped += effect.count;
        this.#drop(effect.through);
        break;
      case 'consistent':
        this.#noteConsistent();
        break;
      case 'refused':
        this.#takeBackTo = effect.through;
        this.#takeBack();
        break;
      case 'broken':
        this.counters.protocolErrors += 1;
        this.#link?.close(CLOSE_PROTOCOL, effect.reason);
        break;
      case 'accept':
      case 'drop':
      case 'granted':
        break;
    }
  }

  /**
   * The base copy is whole: that is written down, once its records are durable, before any record of the stream behind
   * it is taken. Else a crash could leave stream records of a copy that does not know its end.
   */
  #noteBaseEnd(): void {
    const { journal, state } = this.#group;
    const { inconsistent } = state.superblock;
    const base = this.copy;
    if (this.#notingBaseEnd || inconsistent === null || base === null || base.end === null) return;
    if (base.end === inconsistent.untilSequence) return; // saved: here, or since then with the handshake of this link
    this.#notingBaseEnd = true;
    const { head } = journal;
    const next = { ...base.next };
    const { end } = base;
    const note = (): void => {
      if (journal.failed !== null) return; // it never becomes durable here: nothing behind it is taken any more
      if (journal.durable < head) {
        journal.sync();
        this.#group.whenDurable(note);
        return;
      }
      inconsistent.base = next;
      inconsistent.untilSequence = end;
      this.#saveBaseEnd((saved) => {
        if (!saved) inconsistent.untilSequence = null;
      });
    };
    note();
  }

  /** The copy is over. Nobody says that a second time: what could not be saved is tried again with the ticks. */
  #noteConsistent(): void {
    const { superblock } = this.#group.state;
    const { inconsistent } = superblock;
    superblock.inconsistent = null;
    this.#saveBaseEnd((saved) => {
      const isOver = saved || superblock.inconsistent !== null; // or another copy has begun
      this.#unsavedEndOf = isOver ? null : inconsistent;
      if (!isOver) superblock.inconsistent = inconsistent;
    });
  }

  /** The stream behind the base copy is taken once the state on disk knows where the copy ends. */
  #saveBaseEnd(then: (saved: boolean) => void): void {
    const link = this.#link;
    this.#notingBaseEnd = true;
    this.#group.state.save((error) => {
      this.#notingBaseEnd = false;
      then(error === null);
      if (error !== null) {
        link?.close(CLOSE_PROTOCOL, `the standby cannot write its state: ${error.message}`);
        return;
      }
      if (!this.#waitingForRoom && !this.#take()) this.#stall();
      this.#tellCopy();
      this.#target.confirmAgain();
      this.#queueConfirm();
    });
  }

  /** Once when it begins, however often the link goes meanwhile, and once when it is whole on the disk. */
  #tellCopy(): void {
    const isUnderWay = !this.toldConsistent;
    if (isUnderWay === this.#copying) return;
    this.#copying = isUnderWay;
    this.#group.tell(isUnderWay ? 'a first copy from the peer is under way' : 'the first copy is whole');
  }

  /** At most one confirm per turn. */
  #queueConfirm(): void {
    if (this.#confirmQueued || this.#link === null || !this.#target.confirmDue()) return;
    this.#confirmQueued = true;
    this.#group.defer(() => {
      this.#confirmQueued = false;
      if (this.#link === null || !this.#target.confirmDue()) return;
      this.counters.confirmsSent += 1;
      const confirm = this.#target.takeConfirm();
      confirm.consistent = this.toldConsistent;
      if (this.#group.sender !== null) confirm.horizon = this.#horizon;
      this.#link.send(this.#encoder.confirm(confirm), null, null);
    });
  }
}

/**
 * The same for a site that was just opened. Whoever went alone, and has got nothing since, took the newest before that: the
 * other site need not wait for what was written alone to know that its own is decided.
 */
function horizonAt({ minter, ends }: Superblock['generations'][number], { own, peer }: Journal): number {
  const alone = minter === own.site && ends[peer.site] === peer.appended;
  return alone ? (ends[own.site] ?? 0) : own.appended;
}
