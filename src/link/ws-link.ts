/** A Link over one WebSocket whose ends have already proved themselves to each other. */
import type { Socket } from 'node:net';
import type { WebSocket } from 'ws';
import { assert, fail } from '../assert.js';
import {
  CONTROL_SIZE_MAX,
  HEARTBEAT_MS,
  LINK_BUFFER_MAX,
  MESSAGE_SIZE_MAX,
  PEER_SILENT_MS_MAX,
  PINGS_MAX,
} from '../limits.js';
import type { Clock } from './clock.js';
import type { Intake } from './intake.js';
import { CLOSE_PROTOCOL, CLOSE_TIMEOUT, fitReason, heardReason, type Link, STRETCH_FOLLOWS } from './link.js';

/** `onDrain` comes when a buffer that was fuller than this is no longer so. */
export const LINK_BUFFER_LOW = LINK_BUFFER_MAX / 2;

/** ws does not mask with a mask of zeroes: the payload then leaves shared memory without a copy. */
export function maskWithZeroes(mask: Buffer): void {
  mask.fill(0);
}

/** What to tell people when a close frame has a code and no words. */
export function unsaidReason(code: number): string {
  if (code === 1002 || code === 1007 || code === 1008) return 'the peer met a malformed WebSocket frame';
  if (code === 1009) return 'the peer met a message over its limit';
  return 'the connection was lost';
}

export class WsLink implements Link {
  onMessage: Link['onMessage'] = null;
  onDrain: Link['onDrain'] = null;
  onClose: Link['onClose'] = null;

  bufferedBytes = 0;
  bytesSent = 0;
  bytesReceived = 0;
  roundTripMs = 0;

  readonly #ws: WebSocket;
  readonly #socket: Socket;
  readonly #clock: Clock;
  readonly #gone: (reason: string, code: number) => void;
  #closed = false;
  #paused = false;
  #corked = false;
  /** A header whose stretch has not come yet. */
  #header: Uint8Array | null = null;
  #errorText = '';

  #cancelBeat: () => void = () => {};
  #beatAt: number;
  #bytesRead: number;
  /** Time we were listening since the last byte came. */
  #silentMs = 0;
  #pingLeaving = false;
  #pongLeaving = false;
  /** When each ping was sent that is not answered yet, by its number, oldest first. */
  readonly #pings = new Map<number, number>();
  #pingNumber = 0;
  #provenAt = Number.NEGATIVE_INFINITY;

  /**
   * @param intake what the socket reads by, if it does; messages come from there, or from ws
   * @param gone   told at once, before the owner's `onClose`, when the link is no longer usable
   */
  constructor(
    ws: WebSocket,
    socket: Socket,
    intake: Intake,
    clock: Clock,
    gone: (reason: string, code: number) => void,
  ) {
    this.#ws = ws;
    this.#socket = socket;
    this.#clock = clock;
    this.#gone = gone;
    this.#beatAt = clock.now();
    this.#bytesRead = socket.bytesRead;
    intake.onMessage = (message) => this.#receive(message, true);
    ws.on('message', (data, isBinary) => {
      const { buffer, byteOffset, length } = data as Buffer;
      this.#receive(new Uint8Array(buffer, byteOffset, length), isBinary); // no Buffer: its slice is no copy
    });
    ws.on('ping', (data) => this.#answerPing(data));
    ws.on('pong', (data) => this.#measure(data));
    ws.on('error', (error) => {
      this.#errorText = error.message;
    });
    ws.on('close', (code, reason) => {
      this.#finish(heardReason(reason) || this.#errorText || unsaidReason(code), code);
    });
    this.#cancelBeat = clock.after(HEARTBEAT_MS, () => this.#beat());
    this.#ping();
  }

  get unprovenMs(): number {
    return this.#clock.now() - this.#provenAt;
  }

  send(header: Uint8Array, stretch: Uint8Array | null, released: (() => void) | null): void {
    const headerSize = header.length;
    if (!(headerSize >= 2 && headerSize <= CONTROL_SIZE_MAX)) fail(`a header of ${headerSize} bytes`);
    assert(((header[1]! & STRETCH_FOLLOWS) !== 0) === (stretch !== null), 'the header says whether a stretch follows');
    const stretchSize = stretch === null ? 0 : stretch.length;
    if (stretch !== null && !(stretchSize > 0 && stretchSize <= MESSAGE_SIZE_MAX))
      fail(`a stretch of ${stretchSize} bytes`);
    if (this.#closed) {
      if (released !== null) process.nextTick(released);
      return;
    }
    this.#cork();
    const size = headerSize + stretchSize;
    this.bufferedBytes += size;
    this.bytesSent += size;
    const left = () => this.#left(size, released);
    if (stretch === null) {
      this.#ws.send(header, left);
    } else {
      this.#ws.send(header);
      this.#ws.send(stretch, left);
    }
  }

  pauseReceiving(): void {
    if (this.#paused || this.#closed) return;
    this.#paused = true;
    this.#ws.pause();
  }

  resumeReceiving(): void {
    if (!this.#paused || this.#closed) return;
    this.#paused = false;
    this.#silentMs = 0;
    this.#ws.resume();
  }

  close(code: number, reason: string): void {
    if (this.#closed) return;
    const fitted = this.#shut(code, reason);
    queueMicrotask(() => this.onClose?.(fitted, code));
  }

  /** As `close`, but `onClose` comes inside: for the endpoint, which must be done with one link before the next. */
  end(code: number, reason: string): void {
    if (this.#closed) return;
    const fitted = this.#shut(code, reason);
    this.onClose?.(fitted, code);
  }

  #shut(code: number, reason: string): string {
    const fitted = fitReason(reason);
    this.#closed = true;
    this.#cancelBeat();
    if (this.#paused) this.#ws.resume(); // or the peer's half of the closing handshake is never read
    if (code === CLOSE_TIMEOUT) this.#ws.terminate();
    else this.#ws.close(code, fitted);
    this.#gone(fitted, code);
    return fitted;
  }

  #finish(reason: string, code: number): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#cancelBeat();
    this.#gone(reason, code);
    this.onClose?.(reason, code);
  }

  /** Everything sent in one turn of the event loop leaves in one writev. */
  #cork(): void {
    if (this.#corked) return;
    this.#corked = true;
    this.#socket.cork();
    setImmediate(() => {
      this.#corked = false;
      this.#socket.uncork();
    });
  }

  #left(size: number, released: (() => void) | null): void {
    const before = this.bufferedBytes;
    this.bufferedBytes = before - size;
    if (released !== null) released();
    if (before >= LINK_BUFFER_LOW && this.bufferedBytes < LINK_BUFFER_LOW && !this.#closed) this.onDrain?.();
  }

  #receive(data: Uint8Array, isBinary: boolean): void {
    if (this.#closed || this.#ws.readyState !== this.#ws.OPEN) return;
    this.bytesReceived += data.length;
    const header = this.#header;
    if (header !== null && isBinary && data.length > 0) {
      this.#header = null;
      this.onMessage?.(header, data);
    } else if (header !== null || !isBinary || data.length < 2 || data.length > CONTROL_SIZE_MAX) {
      const what = isBinary ? `binary message of ${data.length} bytes` : 'text message';
      this.close(CLOSE_PROTOCOL, `a ${what} where a ${header === null ? 'header' : 'stretch'} was due`);
    } else if ((data[1]! & STRETCH_FOLLOWS) !== 0) {
      this.#header = data.slice(); // it was lent to us for this call
    } else {
      this.onMessage?.(data, null);
    }
  }

  /**
   * Once a second: a sign of life for the peer, and a look whether it gave one. Any byte read is a sign of life, so
   * half of a large message on a slow line is one. Time in which we did not listen does not count as the peer's silence:
   * neither a pause (a paused end still sends its own pings) nor a stall of our own event loop.
   */
  #beat(): void {
    const now = this.#clock.now();
    const heard = this.#socket.bytesRead !== this.#bytesRead;
    this.#bytesRead = this.#socket.bytesRead;
    if (heard || this.#paused) this.#silentMs = 0;
    else this.#silentMs += Math.min(now - this.#beatAt, 2 * HEARTBEAT_MS);
    this.#beatAt = now;
    if (this.#silentMs >= PEER_SILENT_MS_MAX) {
      this.end(CLOSE_TIMEOUT, `the peer was silent for ${PEER_SILENT_MS_MAX / 1000} s`);
      return;
    }
    this.#ping();
    this.#cancelBeat = this.#clock.after(HEARTBEAT_MS, () => this.#beat());
  }

  #ping(): void {
    if (this.#pingLeaving || this.#ws.readyState !== this.#ws.OPEN) return; // one at a time, however slow the line
    this.#pingLeaving = true;
    this.#pingNumber += 1;
    this.#pings.set(this.#pingNumber, this.#clock.now());
    // answers may be left out when the peer's line is full
    for (const oldest of this.#pings.keys()) {
      if (this.#pings.size <= PINGS_MAX) break;
      this.#pings.delete(oldest);
    }
    this.#ws.ping(String(this.#pingNumber), undefined, () => {
      this.#pingLeaving = false;
    });
  }

  #answerPing(data: Buffer): void {
    if (this.#pongLeaving || this.#ws.readyState !== this.#ws.OPEN) return;
    this.#pongLeaving = true;
    this.#ws.pong(data, undefined, () => {
      this.#pongLeaving = false;
    });
  }

  #measure(data: Buffer): void {
    const answered = Number(data.toString('latin1'));
    const sentAt = this.#pings.get(answered);
    if (sentAt === undefined) return;
    for (const number of this.#pings.keys()) if (number <= answered) this.#pings.delete(number);
    this.#provenAt = sentAt;
    this.roundTripMs = Math.max(0, this.#clock.now() - sentAt);
  }
}

assert(PEER_SILENT_MS_MAX >= 3 * HEARTBEAT_MS, 'a lost heartbeat or two do not make a peer dead');
