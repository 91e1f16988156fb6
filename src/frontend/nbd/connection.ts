/**
 * One client's socket: the only place of the front end where sockets, timers and protocol machines meet.
 *
 *     negotiating --export chosen--> transmitting --finished--> lingering --client hangs up, timer--> closed
 *     any --socket closed--> closed
 */
import type { Socket } from 'node:net';
import { readingInto } from '../../sockets.js';
import type { DeviceCatalog } from '../../volume/device.js';
import type { Abandoned } from './abandoned.js';
import type { BusyPoll } from './busy-poll.js';
import type { NbdCounters } from './counters.js';
import { Gathering } from './gathering.js';
import { DRAIN_MS_MAX, LINGER_MS_MAX, REPLY_BACKLOG_MAX } from './limits.js';
import type { Moderation } from './moderation.js';
import { Negotiation } from './negotiation.js';
import { encodeGreeting } from './protocol.js';
import type { ReadMemory } from './read-memory.js';
import { type ReplyPort, Transmission } from './transmission.js';

/** Timers, as a test replaces them. */
export interface NbdTimers {
  /** @returns cancels it */
  after(ms: number, run: () => void): () => void;
}

export interface NbdConnectionContext {
  readonly catalog: DeviceCatalog;
  readonly counters: NbdCounters;
  readonly timers: NbdTimers;
  readonly requestsMax: number;
  readonly handshakeMsMax: number;
  /** Where all connections read to: what is in it is done with, or copied, before the next read. */
  readonly readBuffer: Uint8Array;
  readonly readMemory: ReadMemory;
  readonly busyPoll: BusyPoll;
  readonly moderation: Moderation;
  readonly abandoned: Abandoned;
  /** Called once, when the socket is closed. */
  onClosed(connection: NbdConnection): void;
  /** Called once, then or later: the device is done with its last request. */
  onSettled(connection: NbdConnection): void;
}

const { nodeTiming } = performance;

export class NbdConnection implements ReplyPort {
  private readonly socket: Socket;
  private readonly context: NbdConnectionContext;
  private negotiation: Negotiation | null;
  private transmission: Transmission | null = null;
  private revoked = false;
  private cancelTimer: () => void;
  private readonly flushTransmission = (): void => this.transmission!.flush();

  /** @param accepted a connection, paused since it was accepted */
  constructor(accepted: Socket, context: NbdConnectionContext) {
    const onread = {
      buffer: context.readBuffer,
      callback: (size: number, buffer: Uint8Array): boolean => {
        this.receive(buffer.subarray(0, size));
        return true; // `pause` says otherwise
      },
    };
    const socket = readingInto(accepted, onread, true);
    this.socket = socket;
    this.context = context;
    this.negotiation = new Negotiation(context.catalog);
    this.cancelTimer = context.timers.after(context.handshakeMsMax, () => socket.destroy());
    socket.on('data', (chunk: Buffer) => this.receive(chunk)); // of a socket that does not read by `onread`
    socket.resume();
    socket.on('drain', () => this.transmission?.drained());
    socket.on('end', () => {
      if (this.transmission !== null) this.transmission.end();
      else this.finish();
    });
    socket.on('error', () => undefined); // 'close' follows and does the work
    socket.on('close', () => this.closed());
    socket.write(encodeGreeting());
  }

  /** Answers what is in flight, refuses what is new, hangs up. */
  drain(): void {
    if (this.transmission !== null) this.transmission.revoke();
    else this.finish();
  }

  /** The device of this connection is withdrawn; one that has none yet will see the new state of things. */
  revoke(): void {
    const { transmission, context } = this;
    if (transmission === null || this.revoked) return;
    this.revoked = true;
    this.cancelTimer = context.timers.after(DRAIN_MS_MAX, () => this.socket.destroy());
    transmission.revoke(); // and if it is idle, `finish` has its own timer
  }

  /** To be called once in NBD_PAYLOAD_MS_MAX. */
  lookForStall(): void {
    this.transmission?.lookForStall();
  }

  /** Hangs up now. */
  destroy(): void {
    this.socket.destroy();
  }

  private receive(chunk: Uint8Array): void {
    if (this.transmission !== null) {
      this.transmission.receive(chunk);
      return;
    }
    if (this.negotiation === null) return; // lingering
    const outcome = this.negotiation.receive(chunk);
    const replies = this.negotiation.takeReplies();
    if (replies.length > 0) this.socket.write(Buffer.concat(replies));
    if (outcome.state === 'more') return;
    this.negotiation = null;
    if (outcome.state === 'closed') {
      this.finish();
      return;
    }
    this.cancelTimer();
    this.transmission = new Transmission(
      outcome.session,
      this,
      this.context.counters,
      this.context.requestsMax,
      this.context.readMemory,
      this.context.busyPoll,
      new Gathering(() => nodeTiming.idleTime),
      this.context.abandoned,
    );
    if (outcome.rest.length > 0) this.transmission.receive(outcome.rest);
  }

  private closed(): void {
    this.cancelTimer();
    this.context.onClosed(this);
    if (this.transmission !== null) {
      this.transmission.disconnected(() => this.context.onSettled(this));
      return;
    }
    this.context.counters.handshakesUnfinished += 1;
    this.context.onSettled(this);
  }

  // ---- ReplyPort

  send(pieces: readonly Uint8Array[], sent: (() => void) | null): boolean {
    const socket = this.socket;
    const last = pieces.length - 1;
    const done = sent ?? undefined; // called, too, when the connection is lost
    let flowing: boolean;
    if (last === 0) {
      flowing = socket.write(pieces[0]!, done);
    } else {
      socket.cork();
      for (let i = 0; i < last; i += 1) socket.write(pieces[i]!);
      socket.write(pieces[last]!, done);
      socket.uncork();
      flowing = !socket.writableNeedDrain;
    }
    return flowing || socket.writableLength <= REPLY_BACKLOG_MAX;
  }

  scheduleFlush(): void {
    process.nextTick(this.flushTransmission);
  }

  scheduleFlushLater(isEarly: boolean): void {
    this.context.moderation.wait(this.flushTransmission, isEarly);
  }

  pause(): void {
    this.socket.pause();
  }

  resume(): void {
    this.socket.resume();
  }

  /** Whatever still arrives is read and dropped: unread bytes would make the kernel reset the connection over our replies. */
  finish(): void {
    const { socket, context } = this;
    this.negotiation = null;
    this.cancelTimer();
    this.cancelTimer = context.timers.after(DRAIN_MS_MAX, () => socket.destroy());
    socket.resume();
    socket.end(() => {
      this.cancelTimer();
      if (!socket.destroyed) this.cancelTimer = context.timers.after(LINGER_MS_MAX, () => socket.destroy());
    });
  }

  abort(): void {
    this.socket.destroy();
  }
}
