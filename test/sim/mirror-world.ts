/**
 * A world of two sites for the mirror machines: a model of the logs, the lock managers, the real codec, the real
 * decision table, and a network that delays, cuts, flips bits and says things twice.
 *
 * Time is a count of ticks. Everything drawn comes from the seed. Invariants are checked while it runs, by means of
 * their own: the image of a prefix is computed from the history, locks are compared pair by pair.
 */
import {
  TYPE_BASE,
  TYPE_BASE_ZERO,
  TYPE_FLUSH,
  TYPE_LOCK,
  TYPE_UNLOCK,
  TYPE_WRITE,
  TYPE_ZERO,
} from '../../assembly/layout.js';
import { assert } from '../../src/assert.js';
import type { Kernel } from '../../src/kernel/kernel.js';
import { decide, type Generation, type SiteState } from '../../src/mirror/decide.js';
import { SourceStream } from '../../src/mirror/source.js';
import { APPLY, type TargetBase, TargetStream } from '../../src/mirror/target.js';
import { decode, KIND_CONFIRM, KIND_DATA, KIND_NAK, type RejectPolicy, WireEncoder } from '../../src/mirror/wire.js';
import { AckGate, RECEIVED_FLUSH } from '../../src/volume/gate.js';
import { type LockRequest, MIRROR_SESSION, RangeLocks } from '../../src/volume/locks.js';

const BLOCKS = 48;
const RECORD_SIZE = 80;
/** Records that the target's journal writes for itself: the base copy's end, and where a drop ends the stream. */
const NOTE_BASE_END = -1;
const NOTE_TRUNCATED = -2;

export interface WorldOptions {
  speculation: 'on' | 'off';
  onReject: RejectPolicy;
  /** The image has blocks from before the stream: a target begins with a base copy. */
  adopted: boolean;
  cut: number;
  sourceCrash: number;
  targetCrash: number;
  wipe: number;
  bitFlip: number;
  duplicate: number;
  stale: number;
  mint: number;
  lockers: number;
  creditBytes: number;
  delayMax: number;
  leaseMs: number;
}

export const CALM = { cut: 0, sourceCrash: 0, targetCrash: 0, wipe: 0, bitFlip: 0, duplicate: 0, stale: 0, mint: 0 };

interface Rec {
  /** Unlike the sequence, never used again, also when a crash takes the record back. */
  id: number;
  type: number;
  flags: number;
  lba: number;
  blockCount: number;
  scope: number;
  sequence: number;
  value: number;
  size: number;
  /** A scope was open when it was appended. */
  inside: boolean;
}

interface Packet {
  at: number;
  bytes: Uint8Array;
  records: readonly Rec[];
  /** Index of the record that was damaged on the way, or -1. */
  bad: number;
}

/** One direction of the link: FIFO, delayed. */
class Channel {
  packets: Packet[] = [];
  #last = 0;

  send(packet: Packet): void {
    packet.at = Math.max(packet.at, this.#last);
    this.#last = packet.at;
    this.packets.push(packet);
  }
  take(now: number): Packet | null {
    return this.packets.length > 0 && this.packets[0].at <= now ? this.packets.shift()! : null;
  }
}

interface Pending {
  epoch: number;
  attempt: number;
  first: number;
  records: readonly Rec[];
  bad: number;
  bytes: number;
}

/** Base records that were read and wait until what they were read from is durable. */
interface BaseBatch {
  lba: number;
  attempt: number;
  records: Rec[];
  next: number;
  readAt: number;
}

interface OpenScope {
  sequence: number;
  session: number;
  lba: number;
  blockCount: number;
  lock: LockRequest | null;
}

export class World {
  readonly random: () => number;
  options: WorldOptions;
  readonly kernel: Kernel;
  readonly tables: { source: number; target: number; clear(): void };
  now = 0;
  ids = 0;
  /** What happened, counted: a simulation that meets nothing proves nothing. */
  readonly met: Record<string, number> = {};

  // the source site
  log: Rec[] = [];
  /** The last record appended under each sequence. */
  history: Rec[] = [];
  initial: number[];
  sourceDurable = 0;
  sourceTrimmed = 0;
  generations: Generation[];
  stream: SourceStream;
  sourceLocks: RangeLocks;
  gate = new AckGate();
  scopes: OpenScope[] = [];
  session = 1;
  serving = true;
  served = true;
  promised = 0;
  /** Between a wipe and the next meeting, the source promises on what the wiped site had confirmed. */
  wiped = false;
  sourceEpoch = 0;

  // the target site
  journal: Rec[] = [];
  /** The same as it stands on the disk: with what was dropped, and the notes that say so. */
  disk: Rec[] = [];
  diskDurable = 0;
  applied = 0; // index into journal
  image: number[] = new Array(BLOCKS).fill(0);
  targetGenerations: Generation[] = [];
  targetBase: TargetBase | null = null;
  targetEpoch = 0;
  target: TargetStream;
  targetLocks: RangeLocks;
  held: { lock: LockRequest; until: number }[] = [];
  lockerSession = 1;
  waitingSince = -1;
  /** What the mirror waits for, and who held any of it when it began to: nobody else may. */
  wanted: { sequence: number; lba: number; blockCount: number; holders: ReadonlySet<LockRequest> } | null = null;
  /** A record that was dropped and is to find its lock; -1: none. */
  dropped = -1;

  // link: the running stream's two ends, in either direction
  connected = false;
  reconnectAt = 0;
  forward = new Channel();
  backward = new Channel();
  last: Packet | null = null;
  stale: Packet | null = null;
  encoder = new WireEncoder();
  pending: Pending[] = [];
  unconsumed = 0;
  duplicated = 0;
  baseBatch: BaseBatch | null = null;
  returning: { sender: SourceStream; receiver: TargetStream } | null = null;

  constructor(random: () => number, options: WorldOptions, kernel: Kernel, tables: World['tables']) {
    this.random = random;
    this.options = options;
    this.kernel = kernel;
    this.tables = tables;
    tables.clear();
    this.initial = Array.from({ length: BLOCKS }, () => (options.adopted && this.chance(0.6) ? this.#id() : 0));
    this.generations = [{ ordinal: 1, id: 'g1', parent: null, minter: 1, ends: {} }];
    this.stream = this.#newSource();
    this.sourceLocks = this.#newLocks(this.tables.source);
    this.targetLocks = this.#newLocks(this.tables.target);
    this.target = this.#newTarget();
  }

  chance(probability: number): boolean {
    return this.random() < probability;
  }
  below(count: number): number {
    return Math.floor(this.random() * count);
  }
  count(what: string): void {
    this.met[what] = (this.met[what] ?? 0) + 1;
  }

  /** One tick: hosts, disks, network, machines, faults. */
  tick(): void {
    this.now += 1;
    const { options } = this;
    if (this.chance(options.cut)) this.cut();
    if (this.chance(options.sourceCrash)) this.crashSource();
    // most of what can go wrong with a drop goes wrong soon after it
    if (this.chance(options.targetCrash * (this.dropped < 0 ? 1 : 10))) this.crashTarget();
    if (this.chance(options.wipe)) this.wipeTarget();
    if (!this.connected && this.now >= this.reconnectAt) this.connect();
    if (this.serving) this.hosts();
    this.sourceDisk();
    this.send();
    this.deliver();
    if (this.sender.stopped !== null) this.count(this.sender.stopped);
    this.verify();
    this.targetDisk();
    this.lockers();
    this.apply();
    this.confirm();
    this.check();
  }

  /** Ends what is open, so that a liveness phase can come to an end. */
  quiesce(): void {
    while (this.scopes.length > 0) this.closeScope(0);
  }

  settled(): boolean {
    const { stream } = this;
    return (
      this.connected &&
      this.returning === null &&
      this.serving &&
      stream.consistent &&
      stream.applied === stream.appended &&
      stream.peerDurable === stream.appended &&
      this.target.consistent
    );
  }

  imageAt(sequence: number): number[] {
    const image = [...this.initial];
    for (let index = 0; index < sequence; index += 1) write(image, this.history[index]);
    return image;
  }

  // ---- the source's hosts and disk

  hosts(): void {
    for (let count = this.below(4); count > 0; count -= 1) {
      const lba = this.below(BLOCKS);
      const blockCount = 1 + this.below(Math.min(4, BLOCKS - lba));
      const kind = this.random();
      if (kind < 0.15 && this.scopes.length < 3) {
        const session = this.session++;
        const lock = this.sourceLocks.request('scope', 'write', lba, blockCount, session, this.now + 10)!;
        if (lock.state !== 'held') {
          this.sourceLocks.release(lock);
          continue;
        }
        const sequence = this.log.length + 1;
        this.append(TYPE_LOCK, lba, blockCount, sequence);
        this.scopes.push({ sequence, session, lba, blockCount, lock });
        this.stream.step({ kind: 'scope', lock: sequence, end: null }, this.now);
      } else if (kind < 0.3 && this.scopes.length > 0) {
        this.closeScope(this.below(this.scopes.length));
      } else if (kind < 0.6 && this.scopes.length > 0) {
        const scope = this.scopes[this.below(this.scopes.length)];
        const at = scope.lba + this.below(scope.blockCount);
        this.append(TYPE_WRITE, at, 1 + this.below(scope.lba + scope.blockCount - at), scope.sequence);
      } else if (kind < 0.65) {
        const sequence = this.append(TYPE_FLUSH, 0, 0, this.log.length + 1);
        this.gate.push(sequence, RECEIVED_FLUSH, {
          settle: () => {
            if (!this.wiped) this.promised = Math.max(this.promised, sequence);
          },
        });
      } else if (this.sourceLocks.isFree(lba, blockCount, 0x7fff)) {
        this.append(this.chance(0.1) ? TYPE_ZERO : TYPE_WRITE, lba, blockCount, this.log.length + 1);
      }
    }
  }

  closeScope(index: number): void {
    const [scope] = this.scopes.splice(index, 1);
    if (scope.lock !== null) this.sourceLocks.release(scope.lock);
    const end = this.append(TYPE_UNLOCK, scope.lba, scope.blockCount, scope.sequence);
    this.stream.step({ kind: 'scope', lock: scope.sequence, end }, this.now);
  }

  append(type: number, lba: number, blockCount: number, scope: number): number {
    const sequence = this.log.length + 1;
    const size = RECORD_SIZE + 16 * this.below(64);
    const value = type === TYPE_WRITE ? this.#id() : 0;
    const inside = this.scopes.length > 0 || type === TYPE_UNLOCK;
    const record = { id: this.#id(), type, flags: 0, lba, blockCount, scope, sequence, value, size, inside };
    this.log.push(record);
    this.history[sequence - 1] = record;
    return sequence;
  }

  sourceDisk(): void {
    const sealed = this.chance(0.8) ? this.log.length : this.stream.sealed;
    if (this.chance(0.3)) this.sourceDurable = this.stream.sealed;
    if (this.returning === null) {
      this.stream.step({ kind: 'moved', appended: this.log.length, sealed, durable: this.sourceDurable }, this.now);
    }
    if (this.chance(0.1)) this.sourceTrimmed = this.stream.trimmed;
  }

  // ---- the network

  get sender(): SourceStream {
    return this.returning?.sender ?? this.stream;
  }
  get receiver(): TargetStream {
    return this.returning?.receiver ?? this.target;
  }

  send(): void {
    if (!this.connected) return;
    const { sender } = this;
    const log = this.returning === null ? this.log : this.streamRecords();
    for (let count = 1 + this.below(4); count > 0; count -= 1) {
      const want = sender.want();
      if (want === null) return;
      const records: Rec[] = [];
      let bytes = 0;
      const fits = (size: number) => records.length === 0 || (bytes + size <= want.bytesMax && records.length < 12);
      let first = 0;
      let baseEnd = false;
      let next = want.lba;
      const appended = sender.appended;
      let readAt = 0;
      if (want.phase === 'base') {
        // read now, sent once what was read is durable
        if (this.baseBatch === null || this.baseBatch.lba !== want.lba || this.baseBatch.attempt !== want.attempt) {
          this.baseBatch = this.readBase(want.lba, want.attempt, want.bytesMax);
        }
        if (this.baseBatch.readAt > sender.durable) return;
        ({ next, readAt } = this.baseBatch);
        records.push(...this.baseBatch.records);
        bytes = records.length * RECORD_SIZE;
        baseEnd = next === BLOCKS;
        this.baseBatch = null;
      } else {
        first = want.from;
        for (let at = want.from; at <= want.through && fits(log[at - 1].size); at += 1) {
          records.push(log[at - 1]);
          bytes += log[at - 1].size;
        }
        if (this.options.speculation === 'off' && this.returning === null) this.checkLockStep(records);
      }
      const packet: Packet = {
        at: this.now + this.below(this.options.delayMax),
        bytes: this.encoder.data({
          epoch: want.epoch,
          attempt: want.attempt,
          first,
          count: records.length,
          size: bytes,
          durable: sender.durable,
          appended,
          clock: this.now,
          returned: this.returning !== null,
          baseEnd,
        }),
        records,
        bad: records.length > 0 && this.chance(this.options.bitFlip) ? this.below(records.length) : -1,
      };
      if (want.phase === 'base') {
        sender.step({ kind: 'baseSent', next: { volume: 0, lba: next }, bytes, last: baseEnd, readAt }, this.now);
      } else {
        sender.step({ kind: 'sent', through: first + records.length - 1, bytes }, this.now);
      }
      this.forward.send(packet);
      this.last = packet;
      if (want.phase === 'streaming' && packet.bad < 0 && this.chance(this.options.duplicate)) {
        this.count('duplicate');
        this.forward.send({ ...packet });
        this.duplicated += bytes;
      }
    }
  }

  readBase(lba: number, attempt: number, bytesMax: number): BaseBatch {
    const image = this.imageAt(this.log.length);
    const records: Rec[] = [];
    let next = lba;
    for (
      ;
      next < BLOCKS && (next === lba || (next - lba + 1) * RECORD_SIZE <= bytesMax) && next - lba < 12;
      next += 1
    ) {
      const value = image[next];
      const type = value === 0 ? TYPE_BASE_ZERO : TYPE_BASE;
      const place = { lba: next, blockCount: 1, scope: 0, sequence: 0 };
      records.push({ id: this.#id(), type, flags: 0, ...place, value, size: RECORD_SIZE, inside: false });
    }
    return { lba, attempt, records, next, readAt: this.log.length };
  }

  /** Without speculation nothing goes before its lock, and no scope before the one before it is applied. */
  checkLockStep(records: readonly Rec[]): void {
    const { stream } = this;
    for (const record of records) {
      if (record.type !== TYPE_LOCK && record.scope !== record.sequence) {
        assert(
          stream.granted >= record.scope,
          `lock-step: ${record.sequence} sent before LOCK ${record.scope} is granted`,
        );
      }
      const before = record.sequence - 1;
      if (!record.inside)
        assert(stream.applied >= before, `lock-step: ${record.sequence} sent before ${before} is applied`);
    }
  }

  deliver(): void {
    if (this.connected && this.stale !== null && this.chance(0.05)) {
      this.forward.packets.unshift({ ...this.stale, at: this.now });
      this.stale = null;
      this.count('stale');
    }
    for (let packet = this.forward.take(this.now); packet !== null; packet = this.forward.take(this.now)) {
      const message = decode(packet.bytes);
      assert(message.kind === KIND_DATA, 'only DATA goes forward');
      const { epoch, attempt, first, count, size, appended, baseEnd } = message.data;
      const { receiver } = this;
      const end = baseEnd ? appended : null;
      receiver.step({ kind: 'frame', epoch, attempt, first, count, bytes: size, baseEnd: end });
      for (const effect of receiver.drain()) {
        if (effect.kind === 'accept') {
          this.pending.push({ epoch, attempt, first, records: packet.records, bad: packet.bad, bytes: size });
        } else if (effect.kind === 'drop') {
          this.count(`drop ${effect.reason}`);
        } else {
          this.onTarget(effect);
        }
      }
    }
    for (let packet = this.backward.take(this.now); packet !== null; packet = this.backward.take(this.now)) {
      const message = decode(packet.bytes);
      if (message.kind === KIND_CONFIRM) this.sender.step({ kind: 'confirm', confirm: message.confirm }, this.now);
      else if (message.kind === KIND_NAK) this.sender.step({ kind: 'nak', nak: message.nak }, this.now);
      for (const effect of this.sender.drain()) {
        assert(effect.kind !== 'broken', `source: ${effect.kind === 'broken' ? effect.reason : ''}`);
        this.count(`source ${effect.kind}`);
      }
    }
    if (this.returning !== null) return;
    const { stream } = this;
    if (stream.consistent) this.gate.advance(stream.durable, stream.received, stream.peerDurable, stream.applied);
  }

  // ---- the receiving end

  verify(): void {
    const { receiver } = this;
    while (this.pending.length > 0 && this.chance(0.7)) {
      const { epoch, attempt, first, records, bad, bytes } = this.pending.shift()!;
      this.unconsumed += bytes;
      if (!receiver.current(epoch, attempt)) continue;
      const good = bad < 0 ? records : records.slice(0, bad);
      for (const record of good) this.receive(record);
      if (good.length > 0 && first === 0) {
        const next = { volume: 0, lba: good[good.length - 1].lba + 1 };
        receiver.step({ kind: 'baseVerified', epoch, attempt, count: good.length, next });
      } else if (good.length > 0) {
        receiver.step({ kind: 'verified', epoch, attempt, through: first + good.length - 1 });
      }
      if (bad >= 0) receiver.step({ kind: 'bad', epoch, attempt, sequence: first === 0 ? 0 : first + bad });
      for (const effect of receiver.drain()) this.onTarget(effect);
    }
    if (this.connected && this.chance(0.8)) {
      receiver.step({ kind: 'consumed', bytes: this.unconsumed });
      this.unconsumed = 0;
    }
    const room = this.pending.reduce((sum, each) => sum + each.bytes, this.unconsumed);
    // a record may overshoot; what the network said twice may pass for an earlier attempt's, whose credit is given back
    const allowed = this.options.creditBytes + this.duplicated + RECORD_SIZE * 16;
    assert(room <= allowed, `${room} bytes came in, credit ${allowed}`);
  }

  /** A verified record goes into the receiving site's journal. */
  receive(record: Rec): void {
    if (this.returning === null) {
      if (record.sequence > 0) this.noteBase();
      this.journal.push(record);
      this.disk.push(record);
      return;
    }
    assert(record.sequence === this.log.length + 1, `returned ${record.sequence} after ${this.log.length}`);
    assert(record === this.history[record.sequence - 1], 'what is returned is what was written');
    this.log.push(record);
  }

  /** The journal's own note that the base copy is whole: behind all of it, before the first record of the stream. */
  noteBase(): void {
    const end = this.target.base?.end ?? null;
    if (end === null || this.journal.some((record) => record.type === NOTE_BASE_END)) return;
    const note = this.note(NOTE_BASE_END, end);
    this.journal.push(note);
    this.disk.push(note);
  }

  note(type: number, value: number): Rec {
    const place = { lba: 0, blockCount: 0, scope: 0, sequence: type };
    return { id: 0, type, flags: 0, ...place, value, size: 0, inside: false };
  }

  onTarget(effect: ReturnType<TargetStream['drain']>[number]): void {
    assert(effect.kind !== 'broken', `target: ${effect.kind === 'broken' ? effect.reason : ''}`);
    this.count(`target ${effect.kind}`);
    if (effect.kind === 'rejected') {
      const { sequence, lba, blockCount } = effect;
      this.wanted = { sequence, lba, blockCount, holders: new Set(this.targetLocks.list().filter(isHeld)) };
    }
    if (effect.kind === 'dropped') {
      const { through, count } = effect;
      this.disk.push(this.note(NOTE_TRUNCATED, through));
      const before = this.journal.length;
      this.journal = withoutDropped(this.disk);
      assert(before - this.journal.length === count, `${count} were dropped`);
      assert(this.applied === this.journal.length, 'what is applied is never dropped');
      this.dropped = through + 1;
    }
    if (effect.kind !== 'nak') return;
    const { epoch, attempt, sequence, base, reason } = effect;
    this.answer(this.encoder.nak({ epoch, attempt, sequence, base, reason, returned: this.returning !== null }));
  }

  targetDisk(): void {
    if (this.returning !== null) {
      if (!this.chance(0.3)) return;
      const { receiver } = this.returning;
      this.sourceDurable = receiver.received;
      receiver.step({ kind: 'durable', through: receiver.received });
      return;
    }
    this.noteBase();
    if (this.chance(0.2)) this.syncTarget();
    for (const effect of this.target.drain()) this.onTarget(effect);
  }

  syncTarget(): void {
    this.diskDurable = this.disk.length;
    const { base } = this.target;
    if (base !== null) this.target.step({ kind: 'baseDurable', next: { ...base.next } });
    this.target.step({ kind: 'durable', through: this.target.received });
  }

  apply(): void {
    const { target } = this;
    if (this.chance(0.02)) target.step({ kind: 'keep' });
    for (let count = this.below(12); count > 0 && this.applied < this.journal.length; count -= 1) {
      const { id, type, flags, lba, blockCount, scope, sequence } = this.journal[this.applied];
      if (type === NOTE_BASE_END) {
        this.applied += 1;
        continue;
      }
      if (target.admit({ type, flags, volume: 0, lba, blockCount, scope, sequence, size: 0 }, this.now) !== APPLY) {
        assert(
          this.waitingSince < 0 || this.now - this.waitingSince <= this.options.leaseMs + 2,
          'the mirror is starved',
        );
        assert(sequence !== this.dropped, `${sequence} was to have its lock when it came again`);
        if (this.waitingSince < 0) this.waitingSince = this.now;
        this.count('wait');
        break;
      }
      this.waitingSince = -1;
      if (sequence === this.dropped) {
        this.count('dropped, come again and granted');
        this.dropped = -1;
      }
      if (sequence === this.wanted?.sequence) this.wanted = null;
      if (type !== TYPE_UNLOCK && type !== TYPE_FLUSH) {
        for (const lock of this.targetLocks.list()) {
          const foreign = lock.state === 'held' && lock.session !== MIRROR_SESSION;
          assert(
            !foreign || lock.end <= lba || lock.lba >= lba + blockCount,
            `${sequence} applied under a foreign lock`,
          );
        }
      }
      write(this.image, this.journal[this.applied]);
      this.applied += 1;
      if (sequence === 0) {
        target.step({ kind: 'baseApplied', count: 1 });
      } else {
        assert(sequence <= target.granted, `${sequence} applied, granted ${target.granted}`);
        assert(id === this.history[sequence - 1].id, `${sequence} is not the source's`);
        assert(sequence === target.applied + 1, `${sequence} applied after ${target.applied}`);
        target.step({ kind: 'applied', through: sequence });
      }
    }
    for (const effect of target.drain()) this.onTarget(effect);
  }

  confirm(): void {
    const { receiver } = this;
    if (!this.connected) return;
    if (receiver.confirmDue()) this.answer(this.encoder.confirm(receiver.takeConfirm()));
    const { returning } = this;
    if (returning === null || returning.sender.peerDurable < returning.sender.appended) return;
    this.count('tail returned');
    this.drop();
    this.connect();
  }

  answer(bytes: Uint8Array): void {
    this.backward.send({ at: this.now + this.below(this.options.delayMax), bytes, records: [], bad: -1 });
  }

  // ---- hosts of the target site: they lock, and some never let go

  lockers(): void {
    const locks = this.targetLocks;
    locks.expire(this.now);
    this.checkWanted();
    for (const lock of locks.drain()) {
      this.count(`locker ${lock.state}`);
      if (lock.state === 'held') this.held.push({ lock, until: this.now + this.below(60) });
      else this.held = this.held.filter((each) => each.lock !== lock);
    }
    for (const each of [...this.held]) {
      if (each.until > this.now) continue;
      locks.release(each.lock);
      this.held.splice(this.held.indexOf(each), 1);
    }
    this.target.step({ kind: 'locksMoved' });
    if (!this.chance(this.options.lockers)) return;
    const lba = this.below(BLOCKS);
    const blockCount = 1 + this.below(Math.min(6, BLOCKS - lba));
    const session = this.lockerSession++;
    const mode = this.chance(0.5) ? 'read' : 'write';
    const lock = locks.request('host', mode, lba, blockCount, session, this.now + 20 + this.below(100));
    if (lock?.state === 'held')
      this.held.push({ lock, until: this.now + (this.chance(0.1) ? Infinity : this.below(60)) });
  }

  /** Nobody gets in before the mirror, and nobody keeps it waiting for longer than a lease. */
  checkWanted(): void {
    const { wanted, target } = this;
    if (wanted === null) return;
    const end = wanted.lba + wanted.blockCount;
    for (const lock of this.targetLocks.list()) {
      const foreign = isHeld(lock) && lock.session !== MIRROR_SESSION;
      assert(
        !foreign || lock.end <= wanted.lba || lock.lba >= end || wanted.holders.has(lock),
        `a locker got in before ${wanted.sequence}`,
      );
    }
    const isDue = target.rewound && target.rejected > 0 && this.now - this.waitingSince > this.options.leaseMs + 2;
    assert(!isDue, 'the mirror is starved of what it dropped');
  }

  // ---- faults

  drop(): void {
    if (this.connected && this.last !== null && this.chance(this.options.stale * 100)) this.stale = this.last;
    this.last = null;
    this.connected = false;
    this.forward = new Channel();
    this.backward = new Channel();
    this.stream.step({ kind: 'disconnected' }, this.now);
    if (this.target.rewound) this.forgetWait(); // the record is nowhere here
    this.target.step({ kind: 'disconnected' });
    this.dropped = -1;
    this.baseBatch = null;
    this.pending = [];
    this.unconsumed = 0;
    this.duplicated = 0;
    this.returning = null;
    this.reconnectAt = this.now + this.below(30);
  }

  forgetWait(): void {
    this.wanted = null;
    this.waitingSince = -1;
  }

  cut(): void {
    if (!this.connected) return;
    this.count('cut');
    this.drop();
    if (!this.serving || !this.chance(this.options.mint)) return;
    const ordinal = this.generations.length + 1;
    const parent = this.generations[ordinal - 2].id;
    this.generations.push({ ordinal, id: `g${ordinal}`, parent, minter: 1, ends: { 1: this.log.length } });
    this.count('mint');
  }

  crashSource(): void {
    this.count('source crash');
    this.drop();
    const kept = this.sourceDurable + this.below(this.log.length - this.sourceDurable + 1);
    this.log.length = kept;
    this.sourceDurable = kept;
    this.gate = new AckGate();
    this.scopes = [];
    this.serving = false;
    this.served = false;
    this.sourceLocks = this.#newLocks(this.tables.source);
    this.stream = this.#newSource();
  }

  crashTarget(): void {
    this.count('target crash');
    this.drop();
    this.disk.length = this.diskDurable + this.below(this.disk.length - this.diskDurable + 1);
    this.diskDurable = this.disk.length;
    const ended = this.journal.length;
    this.journal = withoutDropped(this.disk);
    if (this.journal.length > ended) this.count('dropped, and back after a crash');
    const kept = this.journal.length;
    const bases = this.journal.filter((record) => record.sequence <= 0);
    const applied = Math.min(this.applied, kept);
    // base copy and its note are applied before anything else happens; of the stream, less may be known to be applied
    this.applied = Math.max(bases.length, applied - this.below(applied + 1));
    this.image = new Array(BLOCKS).fill(0);
    for (const record of this.journal.slice(0, this.applied)) write(this.image, record);
    if (this.targetBase !== null) {
      const note = bases.find((record) => record.type === NOTE_BASE_END);
      const data = bases.filter((record) => record.sequence === 0);
      const lba = data.length === 0 ? 0 : data[data.length - 1].lba + 1;
      this.targetBase = { start: this.targetBase.start, next: { volume: 0, lba }, end: note?.value ?? null };
    }
    this.restartTarget();
    for (const record of this.journal.slice(0, this.applied)) {
      if (record.sequence > 0) {
        const { type, flags, lba, blockCount, scope, sequence } = record;
        this.target.replayed(type, flags, 0, lba, blockCount, scope, sequence);
      }
    }
  }

  wipeTarget(): void {
    this.count('wipe');
    this.drop();
    this.journal = [];
    this.disk = [];
    this.diskDurable = 0;
    this.applied = 0;
    this.image = new Array(BLOCKS).fill(0);
    this.targetGenerations = [];
    this.targetBase = null;
    this.targetEpoch = 0;
    this.wiped = true;
    this.promised = 0; // what only the wiped site had is gone, and so is the promise
    this.restartTarget();
  }

  restartTarget(): void {
    this.targetLocks = this.#newLocks(this.tables.target);
    this.held = [];
    this.forgetWait();
    this.dropped = -1;
    this.target = this.#newTarget();
  }

  // ---- meeting again

  streamRecords(): Rec[] {
    const records: Rec[] = [];
    for (const record of this.journal) if (record.sequence > 0) records[record.sequence - 1] = record;
    return records;
  }

  connect(): void {
    // what is said in a HELLO is synced first
    this.syncTarget();
    if (this.serving) {
      const sealed = this.log.length;
      this.sourceDurable = sealed;
      this.stream.step({ kind: 'moved', appended: sealed, sealed, durable: this.sourceDurable }, this.now);
    }
    const [mine, theirs] = [this.sourceState(), this.targetState()];
    const decision = decide(mine, theirs);
    assert(JSON.stringify(decision) === JSON.stringify(decide(theirs, mine)), 'both ends decide the same');
    this.count(`row ${decision.row}`);
    assert(decision.action !== 'refuse', `refused: ${decision.reason}`);
    this.wiped = false;
    const { epoch } = decision;
    this.sourceEpoch = epoch;
    this.targetEpoch = epoch;
    this.connected = true;
    if (decision.action === 'returnTail') {
      const { from, through } = decision;
      const sender = new SourceStream({
        speculation: 'on',
        onReject: 'target-retry',
        appended: through,
        sealed: through,
        durable: through,
        trimmed: from,
      });
      const receiver = new TargetStream({
        locks: new Map(),
        received: from,
        applied: from,
        durable: from,
        base: null,
        start: 0,
        creditBytes: this.options.creditBytes,
      });
      this.returning = { sender, receiver };
      receiver.step({ kind: 'connected', epoch, base: null, onReject: 'target-retry' });
      this.connectSource(sender, receiver, epoch, null);
      return;
    }
    if (!this.serving) this.serve();
    if (decision.adopter !== 0) this.targetGenerations = [...this.generations];
    if (decision.action === 'base') {
      if (decision.row !== 3) {
        this.journal = [];
        this.disk = [];
        this.diskDurable = 0;
        this.applied = 0;
      }
      const base = { start: decision.from, next: decision.base! };
      this.targetBase = { ...base, end: null };
      this.target.step({ kind: 'connected', epoch, base, onReject: this.options.onReject });
      this.connectSource(this.stream, this.target, epoch, decision.base);
    } else {
      this.target.step({ kind: 'connected', epoch, base: null, onReject: this.options.onReject });
      this.connectSource(this.stream, this.target, epoch, null);
    }
  }

  connectSource(
    source: SourceStream,
    target: TargetStream,
    epoch: number,
    base: { volume: number; lba: number } | null,
  ): void {
    const { received, durable, applied, creditBytes, consistent } = target;
    source.step({ kind: 'connected', epoch, received, durable, applied, creditBytes, base, consistent }, this.now);
    for (const effect of source.drain()) assert(effect.kind !== 'broken', `source: ${JSON.stringify(effect)}`);
    for (const effect of target.drain()) this.onTarget(effect);
  }

  /** The source has its tail back, or nobody has it: it ends the scopes of sessions that are gone, and serves. */
  serve(): void {
    this.serving = true;
    this.served = true;
    this.history.length = this.log.length;
    assert(
      this.promised <= this.log.length,
      `a flush of ${this.promised} was promised, the source ends at ${this.log.length}`,
    );
    this.sourceDurable = this.log.length;
    this.stream = this.#newSource();
    const open = new Map<number, Rec>();
    for (const record of this.log) {
      if (record.type === TYPE_LOCK) {
        open.set(record.sequence, record);
        this.stream.step({ kind: 'scope', lock: record.sequence, end: null }, this.now);
      } else if (record.type === TYPE_UNLOCK) {
        open.delete(record.scope);
        this.stream.step({ kind: 'scope', lock: record.scope, end: record.sequence }, this.now);
      }
    }
    for (const { sequence, lba, blockCount } of open.values()) {
      this.scopes.push({ sequence, session: 0, lba, blockCount, lock: null });
    }
    this.quiesce();
    const end = this.log.length;
    this.stream.step({ kind: 'moved', appended: end, sealed: end, durable: this.sourceDurable }, this.now);
  }

  sourceState(): SiteState {
    return {
      ...COMMON,
      groupId: 'id',
      site: { name: 'a', number: 1 },
      role: 'primary',
      generations: this.generations,
      streams: { 1: this.serving ? this.stream.sealed : this.log.length },
      journalFrom: { 1: this.stream.trimmed + 1 },
      imported: this.options.adopted,
      base: null,
      epoch: this.sourceEpoch,
      served: this.served,
    };
  }

  targetState(): SiteState {
    const base = this.target.base;
    return {
      ...COMMON,
      groupId: this.targetGenerations.length > 0 ? 'id' : null,
      site: { name: 'b', number: 2 },
      role: 'standby',
      generations: this.targetGenerations,
      streams: { 1: this.target.received },
      journalFrom: { 1: (this.targetBase?.start ?? 0) + 1 },
      imported: this.targetBase !== null,
      base: base && { source: 1, generation: this.targetGenerations[0].id, ...base },
      epoch: this.targetEpoch,
      served: false,
    };
  }

  // ---- what must be true at every moment

  check(): void {
    this.sourceLocks.check();
    this.targetLocks.check();
    const { target, stream } = this;
    assert(target.received >= this.promised, `flush ${this.promised} was promised, the target has ${target.received}`);
    assert(
      !this.connected || this.returning !== null || stream.trimmed <= target.durable,
      'trimmed more than the peer has on disk',
    );
    if (target.consistent && this.targetGenerations.length > 0 && this.chance(0.05)) this.checkImage();
  }

  checkImage(): void {
    const expected = this.imageAt(this.target.applied);
    for (let lba = 0; lba < BLOCKS; lba += 1) {
      assert(this.image[lba] === expected[lba], `block ${lba} at ${this.target.applied} is not the source's`);
    }
  }

  #id(): number {
    this.ids += 1;
    return this.ids;
  }

  #newSource(): SourceStream {
    const end = this.log.length;
    return new SourceStream({
      speculation: this.options.speculation,
      onReject: this.options.onReject,
      appended: end,
      sealed: end,
      durable: end,
      trimmed: Math.min(this.sourceTrimmed, end),
    });
  }

  #newLocks(table: number): RangeLocks {
    this.kernel.lockClear(table, 0, BLOCKS);
    const { leaseMs } = this.options;
    return new RangeLocks({ kernel: this.kernel, table, regionShift: 2, blockCount: BLOCKS, leaseMs });
  }

  #newTarget(): TargetStream {
    const stream = this.journal.filter((record) => record.sequence > 0);
    const done = this.journal.slice(0, this.applied).filter((record) => record.sequence > 0);
    const start = this.targetBase?.start ?? 0;
    const received = start + stream.length;
    return new TargetStream({
      locks: new Map([[0, this.targetLocks]]),
      received,
      applied: start + done.length,
      durable: received,
      base: this.targetBase === null ? null : { ...this.targetBase },
      start,
      creditBytes: this.options.creditBytes,
    });
  }
}

const COMMON = {
  format: 1,
  group: 'g',
  whenSplit: 'freeze',
  met: {},
  sites: [],
  peers: [],
  volumes: [{ number: 0, name: 'v', size: BLOCKS * 4096, blockSize: 4096 }],
  clean: false,
};

function write(image: number[], record: Rec): void {
  const { type, lba, blockCount, value } = record;
  if (type === TYPE_LOCK || type === TYPE_UNLOCK || type === TYPE_FLUSH || type === NOTE_BASE_END) return;
  for (let index = lba; index < lba + blockCount; index += 1) image[index] = value;
}

const isHeld = (lock: LockRequest): boolean => lock.state === 'held';

/** What a journal holds of the stream: each note takes back what stands behind its sequence. */
function withoutDropped(disk: readonly Rec[]): Rec[] {
  const kept: Rec[] = [];
  for (const record of disk) {
    if (record.type === NOTE_TRUNCATED) {
      while (kept.length > 0 && kept[kept.length - 1].sequence > record.value) kept.pop();
    } else {
      kept.push(record);
    }
  }
  return kept;
}
