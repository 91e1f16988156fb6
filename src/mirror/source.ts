/**
 * Source end of a stream: what to send next, what the peer has, what may leave the rollback log.
 *
 * The rollback log is the part of this stream that the peer has not confirmed: (trimmed, appended]. It holds *new*
 * data, kept to be sent again; it is not an undo log.
 *
 * Sans-IO: no socket, clock, timer or disk in here. `step` takes what happened, `drain` gives what to do, `want` says
 * what the driver should send now.
 *
 *     away      --connected, no base-->   streaming
 *     away      --connected, base-->      base       live blocks first, sequence 0, from the target's base progress
 *     base      --base sent, last-->      streaming  from start + 1, the start of the base copy
 *     streaming --NAK(sequence)-->        streaming  sent goes back to before it, attempt + 1
 *     any       --NAK(0)-->               base       back to the position in the NAK, attempt + 1
 *     streaming --NAK(sequence), rejected--> rewound  the same as NAK(sequence), and nothing goes until the target says
 *                                                    that the lock can be had (retransmit)
 *     streaming --CONFIRM rejects-->      halted     nothing goes until it is granted (halt)
 *     halted, rewound --no rejected-->    streaming
 *     any       --disconnected-->         away
 *     any       --peer broke protocol-->  broken     until the next connected
 *
 * Invariant:
 *
 *     appended >= sealed >= sent >= received >= granted >= applied >= trimmed
 *     sealed >= durable      received >= peerDurable >= trimmed
 *
 * While the base copy runs, the peer's cursors stand at its start: they say nothing about promises until
 * `consistent`. `halted` and `rewound` are told by `stopped`, within phase streaming. The same machine returns a lost tail to its author: there, `appended` is the end of the copy.
 */
import { assert, fail } from '../assert.js';
import { FRAME_SIZE_MAX, HEARTBEAT_MS } from '../limits.js';
import { type BasePosition, positionBefore } from './base.js';
import { type Confirm, NAK_REJECTED, type Nak, type RejectPolicy } from './wire.js';

export type SourcePhase = 'away' | 'base' | 'streaming' | 'broken';

export type SourceEvent =
  /** Own cursors moved; any of them may be as before. */
  | { kind: 'moved'; appended: number; sealed: number; durable: number }
  /**
   * A new epoch begins. `received` is where the peer wants to go on; with `base`, the start of the base copy.
   * `creditBytes` as in READY: cumulative bytes that may be sent in this epoch. `consistent` is false while the target
   * has a base copy that it is not done with.
   */
  | {
      kind: 'connected';
      epoch: number;
      received: number;
      durable: number;
      applied: number;
      creditBytes: number;
      base: BasePosition | null;
      consistent: boolean;
    }
  | { kind: 'disconnected' }
  | { kind: 'confirm'; confirm: Confirm }
  | { kind: 'nak'; nak: Nak }
  /** The driver sent the records that `want` asked for, through this one; `bytes` is the size of the stretch. */
  | { kind: 'sent'; through: number; bytes: number }
  /**
   * The driver sent base records up to `next` (exclusive). With `last`, nothing is left, and the frame said BASE_END,
   * with `appended` as it was then: every base block was read before that, so what is appended by then makes the
   * fuzzy copy a consistent image.
   *
   * `readAt` is `appended` when the last of these blocks was read, and has to be durable here before they go: else a
   * crash could take back records whose blocks the target has already, use their sequences for others, and leave
   * the target with an image of a history that never was.
   */
  | { kind: 'baseSent'; next: BasePosition; bytes: number; last: boolean; readAt: number }
  /** Lock-step only: an explicit scope was opened (`end` null) or closed, before its record is reported sealed. */
  | { kind: 'scope'; lock: number; end: number | null }
  | { kind: 'tick' };

export type SourceEffect =
  /** received, granted, applied, peerDurable or trimmed moved: look at them. */
  | { kind: 'progressed' }
  /** The target could not lock for this record; said once. It keeps it waiting, or (retransmit) dropped it. */
  | { kind: 'rejected'; sequence: number }
  /** What was rejected has its lock; under retransmit: can have it, and is sent again. */
  | { kind: 'granted'; sequence: number }
  /** A new attempt: the next `want` starts again at `from` (0: in the base copy, at `base`). */
  | { kind: 'rewound'; attempt: number; from: number; base: BasePosition | null; reason: number }
  /** The target's image is the source's at one point, durably: from now on its cursors count for promises. */
  | { kind: 'consistent' }
  | { kind: 'heartbeat' }
  /** The peer broke the protocol or lost what it had promised: close the link. */
  | { kind: 'broken'; reason: string };

/** What to send next. In phase `base`: base records from (volume, lba), `from` and `through` are 0. */
export interface Want {
  phase: 'base' | 'streaming';
  epoch: number;
  attempt: number;
  from: number;
  through: number;
  volume: number;
  lba: number;
  /** Take whole records up to this many bytes, but at least one record, whatever its size. */
  bytesMax: number;
}

export interface SourceOptions {
  /** on: never wait for a lock. off: lock-step, the baseline for tests and benchmarks. */
  speculation: 'on' | 'off';
  onReject: RejectPolicy;
  appended: number;
  sealed: number;
  durable: number;
  /** Last sequence that the journal need not keep for the peer. */
  trimmed: number;
}

interface Scope {
  lock: number;
  end: number | null;
}

export class SourceStream {
  readonly #speculation: 'on' | 'off';
  readonly #onReject: RejectPolicy;
  #phase: SourcePhase = 'away';
  #appended: number;
  #sealed: number;
  #durable: number;
  #sent: number;
  #received: number;
  #granted: number;
  #applied: number;
  #peerDurable: number;
  #trimmed: number;

  #epoch = 0;
  #attempt = 0;
  #sentBytes = 0;
  #creditBytes = 0;
  #creditMost = 0;
  #rejected = 0;
  /** Retransmit: `sent` was taken back to before this record until its lock can be had; or 0. */
  #heldBack = 0;
  #base: BasePosition = { volume: 0, lba: 0 };
  #baseDurable: BasePosition | null = null;
  /** The target's base was asked for in this epoch: a NAK(0) makes sense. */
  #baseInEpoch = false;
  #baseStart = 0;
  #consistent = true;
  #heartbeatAt = -Infinity;

  /** Lock-step: explicit scopes by lock, from the first that may still matter. */
  #scopes: Scope[] = [];
  #scopeIndex = 0;

  #effects: SourceEffect[] = [];
  #spare: SourceEffect[] = [];
  readonly #want: Want = {
    phase: 'streaming',
    epoch: 0,
    attempt: 0,
    from: 0,
    through: 0,
    volume: 0,
    lba: 0,
    bytesMax: 0,
  };

  constructor(options: SourceOptions) {
    this.#speculation = options.speculation;
    this.#onReject = options.onReject;
    this.#appended = options.appended;
    this.#sealed = options.sealed;
    this.#durable = options.durable;
    this.#trimmed = options.trimmed;
    this.#sent = options.trimmed;
    this.#received = options.trimmed;
    this.#granted = options.trimmed;
    this.#applied = options.trimmed;
    this.#peerDurable = options.trimmed;
    this.#check();
  }

  get phase(): SourcePhase {
    return this.#phase;
  }
  get epoch(): number {
    return this.#epoch;
  }
  get attempt(): number {
    return this.#attempt;
  }
  get appended(): number {
    return this.#appended;
  }
  get sealed(): number {
    return this.#sealed;
  }
  get durable(): number {
    return this.#durable;
  }
  get sent(): number {
    return this.#sent;
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
  get peerDurable(): number {
    return this.#peerDurable;
  }
  get trimmed(): number {
    return this.#trimmed;
  }
  /** Sequence that waits for its lock at the target, or 0. */
  get rejected(): number {
    return this.#rejected;
  }
  /** Why nothing is sent although it could be; null when it is sent. */
  get stopped(): 'halted' | 'rewound' | null {
    if (this.#phase !== 'streaming') return null;
    if (this.#heldBack !== 0) return 'rewound';
    return this.#onReject === 'halt' && this.#rejected !== 0 ? 'halted' : null;
  }
  /** Bytes that may still be sent before the peer gives more credit. */
  get credit(): number {
    return Math.max(0, this.#creditBytes - this.#sentBytes);
  }
  /** Grows whenever the peer takes, syncs, locks or applies something of this stream, or makes room for it. */
  get peerProgress(): number {
    return this.#received + this.#granted + this.#applied + this.#creditBytes + this.peerKept;
  }
  /** Grows whenever more of this stream, or of the base copy, is durable there. */
  get peerKept(): number {
    const base = this.#baseDurable;
    return this.#peerDurable + (base === null ? 0 : base.lba + 2 ** 33 * base.volume);
  }
  /** Something that was sent is not received or not durable there, or more could be sent if there were credit. */
  get peerOwes(): boolean {
    if (this.#phase === 'base' || !this.#consistent) return true;
    if (this.#received < this.#sent || this.#peerDurable < this.#sent) return true;
    return this.#sent < this.#sealed && this.credit === 0;
  }
  /** The most that it was in this epoch. */
  get creditMost(): number {
    return this.#creditMost;
  }
  /** False from the beginning of a base copy until the target's image is whole and durable: its cursors promise nothing. */
  get consistent(): boolean {
    return this.#consistent;
  }
  /** Base progress that is durable at the target, for status; null when there was none in this epoch. */
  get baseDurable(): BasePosition | null {
    return this.#baseDurable;
  }

  /** What to do since the last call. The list is the caller's until the next call. */
  drain(): readonly SourceEffect[] {
    const effects = this.#effects;
    this.#spare.length = 0;
    this.#effects = this.#spare;
    this.#spare = effects;
    return effects;
  }

  /** The machine's one way in. Events are not kept: the driver may use them again. */
  step(event: SourceEvent, now: number): void {
    switch (event.kind) {
      case 'moved':
        this.#moved(event.appended, event.sealed, event.durable);
        break;
      case 'connected':
        this.#connected(event, now);
        break;
      case 'disconnected':
        this.#phase = 'away';
        break;
      case 'confirm':
        if (this.#live(event.confirm.epoch)) this.#confirm(event.confirm);
        break;
      case 'nak':
        if (this.#live(event.nak.epoch)) this.#nak(event.nak);
        break;
      case 'sent':
        this.#sentThrough(event.through, event.bytes);
        break;
      case 'baseSent':
        this.#baseSent(event.next, event.bytes, event.last, event.readAt);
        break;
      case 'scope':
        this.#scope(event.lock, event.end);
        break;
      case 'tick':
        if ((this.#phase === 'base' || this.#phase === 'streaming') && now - this.#heartbeatAt >= HEARTBEAT_MS) {
          this.#heartbeatAt = now;
          this.#effects.push({ kind: 'heartbeat' });
        }
        break;
    }
    this.#check();
  }

  /**
   * What the driver should send now, or null: not connected, nothing sealed, no credit, stopped, or (lock-step) a wait.
   * It takes whole records, possibly fewer than asked for but at least one, sends them and steps `sent` (`baseSent`)
   * before it asks again. The object is used again by the next call.
   */
  want(): Want | null {
    if (this.#phase !== 'base' && this.#phase !== 'streaming') return null;
    if (this.#sentBytes >= this.#creditBytes || this.stopped !== null) return null;
    const want = this.#want;
    want.phase = this.#phase;
    want.epoch = this.#epoch;
    want.attempt = this.#attempt;
    want.bytesMax = Math.min(FRAME_SIZE_MAX, this.#creditBytes - this.#sentBytes);
    want.from = 0;
    want.through = 0;
    want.volume = this.#base.volume;
    want.lba = this.#base.lba;
    if (this.#phase === 'base') return want;
    const through = this.#speculation === 'on' ? this.#sealed : this.#lockStepThrough();
    if (through <= this.#sent) return null;
    want.from = this.#sent + 1;
    want.through = through;
    return want;
  }

  // ---- transitions

  #moved(appended: number, sealed: number, durable: number): void {
    assert(appended >= this.#appended && sealed >= this.#sealed && durable >= this.#durable, 'own cursors only grow');
    this.#appended = appended;
    this.#sealed = sealed;
    this.#durable = durable;
  }

  #connected(event: Extract<SourceEvent, { kind: 'connected' }>, now: number): void {
    assert(event.epoch > this.#epoch, `epoch ${event.epoch} after ${this.#epoch}`);
    const { received, durable, applied, base } = event;
    this.#epoch = event.epoch;
    this.#attempt = 0;
    this.#sentBytes = 0;
    this.#creditBytes = event.creditBytes;
    this.#creditMost = event.creditBytes;
    this.#rejected = 0;
    this.#heldBack = 0;
    this.#baseInEpoch = base !== null;
    this.#baseDurable = base && { volume: base.volume, lba: base.lba };
    this.#heartbeatAt = now;
    this.#phase = base === null ? 'streaming' : 'base';
    if (received < this.#trimmed) {
      this.#break(`the journal begins at ${this.#trimmed + 1}, the peer ends at ${received}`);
      return;
    }
    if (received > this.#sealed) {
      this.#break(`the peer has ${received}, this stream ends at ${this.#sealed}`);
      return;
    }
    if (durable > received || applied > received) {
      this.#break(`the peer has received ${received}, but claims ${durable} durable and ${applied} applied`);
      return;
    }
    if (durable < this.#trimmed) {
      this.#break(`the peer had ${this.#trimmed} on disk, now only ${durable}: it lost durable records`);
      return;
    }
    this.#sent = received;
    this.#received = received;
    this.#applied = Math.max(applied, this.#trimmed);
    this.#granted = this.#applied;
    this.#peerDurable = durable;
    this.#base = base === null ? this.#base : { volume: base.volume, lba: base.lba };
    this.#baseStart = received;
    this.#consistent = base === null && event.consistent;
    this.#scopeIndex = 0;
    this.#progressed();
  }

  #confirm(confirm: Confirm): void {
    const { received, durable, creditBytes, rejected } = confirm;
    // a restarted target applies again what was trimmed here: below trimmed its cursors say nothing new
    const granted = Math.max(confirm.granted, this.#trimmed);
    const applied = Math.max(confirm.applied, this.#trimmed);
    if (confirm.attempt > this.#attempt) {
      this.#break(`CONFIRM of attempt ${confirm.attempt}, not begun yet`);
      return;
    }
    if (received > this.#sent) {
      this.#break(`CONFIRM of ${received}, sent only ${this.#sent}`);
      return;
    }
    if (confirm.granted > received || confirm.applied > confirm.granted || durable > received) {
      this.#break(
        `CONFIRM received ${received}, granted ${confirm.granted}, applied ${confirm.applied}, durable ${durable}: out of order`,
      );
      return;
    }
    if (
      received < this.#received ||
      granted < this.#granted ||
      applied < this.#applied ||
      durable < this.#peerDurable ||
      creditBytes < this.#creditBytes
    ) {
      this.#break('CONFIRM takes back what an earlier one said');
      return;
    }
    if (rejected !== 0 && (rejected <= confirm.granted || (rejected > received && rejected !== this.#heldBack))) {
      this.#break(`CONFIRM rejects ${rejected}, which is granted or was not received`);
      return;
    }
    if (confirm.consistent && this.#phase === 'base') {
      this.#break('CONFIRM of a whole base copy before its end');
      return;
    }
    const moved =
      received > this.#received || granted > this.#granted || applied > this.#applied || durable > this.#peerDurable;
    this.#received = received;
    this.#granted = granted;
    this.#applied = applied;
    this.#peerDurable = durable;
    this.#creditBytes = creditBytes;
    this.#creditMost = Math.max(this.#creditMost, this.credit);
    if (confirm.base !== null && this.#baseInEpoch) this.#baseDurable = confirm.base;
    if (this.#rejected !== 0 && rejected !== this.#rejected) {
      this.#effects.push({ kind: 'granted', sequence: this.#rejected });
    }
    if (rejected !== 0 && rejected !== this.#rejected) this.#effects.push({ kind: 'rejected', sequence: rejected });
    this.#rejected = rejected;
    if (rejected === 0) this.#heldBack = 0;
    if (moved) this.#progressed();
    if (confirm.consistent && !this.#consistent) {
      this.#consistent = true;
      this.#effects.push({ kind: 'consistent' });
    }
  }

  #nak(nak: Nak): void {
    if (nak.attempt < this.#attempt) return; // said again, or of a stretch that is being sent again already
    if (nak.attempt > this.#attempt) {
      this.#break(`NAK of attempt ${nak.attempt}, not begun yet`);
      return;
    }
    const isRejected = nak.reason === NAK_REJECTED;
    if (isRejected && (this.#onReject !== 'retransmit' || nak.sequence === 0)) {
      this.#break(`NAK drops ${nak.sequence} for its lock, under ${this.#onReject}`);
      return;
    }
    if (nak.sequence === 0) {
      const base = nak.base;
      if (!this.#baseInEpoch || base === null) {
        this.#break('NAK of the base copy, of which there is none');
        return;
      }
      if (this.#received > this.#baseStart) {
        this.#break('NAK of the base copy behind a CONFIRM of the stream');
        return;
      }
      if (positionBefore(this.#base, base)) {
        this.#break(`NAK of the base copy at ${base.volume}:${base.lba}, not sent yet`);
        return;
      }
      this.#phase = 'base';
      this.#base = { volume: base.volume, lba: base.lba };
      this.#sent = this.#baseStart;
    } else {
      if (nak.sequence <= this.#received || nak.sequence > this.#sent) {
        this.#break(`NAK of ${nak.sequence}: sent through ${this.#sent}, received through ${this.#received}`);
        return;
      }
      this.#sent = nak.sequence - 1;
    }
    this.#attempt += 1;
    this.#scopeIndex = 0;
    const base = nak.sequence === 0 ? this.#base : null;
    this.#effects.push({ kind: 'rewound', attempt: this.#attempt, from: nak.sequence, base, reason: nak.reason });
    if (!isRejected) return;
    this.#rejected = nak.sequence;
    this.#heldBack = nak.sequence;
    this.#effects.push({ kind: 'rejected', sequence: nak.sequence });
  }

  #sentThrough(through: number, bytes: number): void {
    if (this.#phase !== 'streaming') fail(`sent while ${this.#phase}`);
    if (!(through > this.#sent && through <= this.#sealed)) fail(`sent ${through} of (${this.#sent}, ${this.#sealed}]`);
    this.#sent = through;
    this.#sentBytes += bytes;
  }

  #baseSent(next: BasePosition, bytes: number, last: boolean, readAt: number): void {
    if (this.#phase !== 'base') fail(`base sent while ${this.#phase}`);
    assert(!positionBefore(next, this.#base), 'the base copy only goes on');
    if (!(readAt <= this.#durable)) fail(`base records read at ${readAt} sent with only ${this.#durable} durable`);
    this.#base = { volume: next.volume, lba: next.lba };
    this.#sentBytes += bytes;
    if (!last) return;
    this.#phase = 'streaming';
  }

  #scope(lock: number, end: number | null): void {
    if (this.#speculation === 'on') return;
    const last = this.#scopes.length === 0 ? 0 : this.#scopes[this.#scopes.length - 1].lock;
    if (lock > last) {
      assert(end === null || end > lock, `scope ${lock}..${end}`);
      this.#scopes.push({ lock, end });
      return;
    }
    const scope = this.#scopes.find((each) => each.lock === lock);
    assert(scope !== undefined && scope.end === null && end !== null && end > lock, `scope ${lock}..${end}`);
    scope.end = end;
  }

  /** After the peer's cursors moved. */
  #progressed(): void {
    const trimmed = Math.min(this.#applied, this.#peerDurable);
    if (trimmed > this.#trimmed) {
      this.#trimmed = trimmed;
      if (this.#scopes.length > 0) this.#forgetScopes();
    }
    this.#effects.push({ kind: 'progressed' });
  }

  #live(epoch: number): boolean {
    if (this.#phase !== 'base' && this.#phase !== 'streaming') return false;
    if (epoch > this.#epoch) this.#break(`message of epoch ${epoch} in epoch ${this.#epoch}`);
    return epoch === this.#epoch;
  }

  #break(reason: string): void {
    this.#phase = 'broken';
    this.#effects.push({ kind: 'broken', reason });
  }

  // ---- lock-step

  /**
   * Last sequence that may be sent now without speculating.
   *
   * A LOCK is the last thing sent until it is granted. Inside scopes, everything through the end of the last of them
   * may follow. Outside, a record (a write that implies its lock, a FLUSH) is a scope of its own. The next scope begins
   * when everything before it is applied.
   */
  #lockStepThrough(): number {
    const scopes = this.#scopes;
    while (this.#scopeIndex < scopes.length && !this.#matters(scopes[this.#scopeIndex])) this.#scopeIndex += 1;
    let cover = this.#sent; // last sequence of the scopes that are open at `sent`
    let index = this.#scopeIndex;
    for (; index < scopes.length && scopes[index].lock <= this.#sent; index += 1) {
      if (scopes[index].lock > this.#granted) return this.#sent;
      cover = Math.max(cover, scopes[index].end ?? Infinity);
    }
    const nextLock = index < scopes.length ? scopes[index].lock : Infinity;
    if (cover > this.#sent) return Math.min(cover, nextLock, this.#sealed);
    if (this.#applied < this.#sent) return this.#sent;
    return Math.min(this.#sent + 1, this.#sealed);
  }

  #matters(scope: Scope): boolean {
    return scope.end === null || scope.end > this.#sent || scope.lock > this.#granted;
  }

  #forgetScopes(): void {
    let count = 0;
    while (count < this.#scopes.length) {
      const end = this.#scopes[count].end;
      if (end === null || end > this.#trimmed) break;
      count += 1;
    }
    this.#scopes.splice(0, count);
    this.#scopeIndex = Math.max(0, this.#scopeIndex - count);
  }

  #check(): void {
    if (this.#phase === 'broken') return;
    if (
      !(
        this.#appended >= this.#sealed &&
        this.#sealed >= this.#sent &&
        this.#sent >= this.#received &&
        this.#received >= this.#granted &&
        this.#granted >= this.#applied &&
        this.#applied >= this.#trimmed &&
        this.#sealed >= this.#durable &&
        this.#received >= this.#peerDurable &&
        this.#peerDurable >= this.#trimmed
      )
    )
      fail(
        `source cursors: appended ${this.#appended}, sealed ${this.#sealed}, durable ${this.#durable}, sent ${this.#sent}, ` +
          `received ${this.#received}, granted ${this.#granted}, applied ${this.#applied}, ` +
          `peer durable ${this.#peerDurable}, trimmed ${this.#trimmed}`,
      );
  }
}
