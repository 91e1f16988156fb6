/**
 * The receiving half of a link's socket: reads into one buffer for as long as the link lives, and takes the messages
 * that carry the load out of it where they stand. ws gets all the rest, and is the one who judges it.
 *
 * Node gives every read a new buffer of 64 KiB otherwise, and ws copies each message that spans two of them: at 4 KiB
 * writes a third of a gateway's CPU went into collecting that garbage (bench/NOTES.md).
 *
 *     HTTP --startFrames--> frames --a frame of another kind--> the rest
 *
 *     frames    a whole binary message of at most MESSAGE_SIZE_MAX: onMessage, as a view of the buffer
 *               ping, pong: copied to ws
 *     HTTP, the rest (close, fragments, text, what is malformed): copied to ws byte for byte
 *
 * Frames are followed as far as it takes to find the next one (RFC 6455, 5.2):
 *
 *     byte 0     0x82 a whole binary message, 0x89 ping, 0x8a pong
 *     byte 1     MASK 0x80, size: 0..125, or 126 / 127: it is in the next 2 / 8 bytes, big-endian
 *     4 bytes    mask, if MASK: from a client always, from a server never
 *
 * Order is kept: while ws has bytes that it has not seen (it is paused), it gets the messages, too.
 */
import type { Socket } from 'node:net';
import { assert } from '../assert.js';
import { MESSAGE_SIZE_MAX } from '../limits.js';

const FRAME_HEADER_MAX = 14;
const WHOLE_BINARY = 0x82;
const PING = 0x89;
const PONG = 0x8a;
const MASK = 0x80;

/** Room kept for one read: several frames of a busy line come in one system call. */
const READ_SIZE_MIN = 262144;

export class Intake {
  /** Gets whole binary messages; the bytes are lent for the call. While it is null, ws gets them. */
  onMessage: ((message: Uint8Array) => void) | null = null;
  /** For `net`: where a read goes to, and what is called then. */
  readonly onread = {
    buffer: (): Uint8Array => this.#room(),
    callback: (size: number): boolean => this.#receive(size),
  };

  readonly #buffer = new Uint8Array(FRAME_HEADER_MAX + MESSAGE_SIZE_MAX + READ_SIZE_MIN);
  readonly #view = new DataView(this.#buffer.buffer);
  /** What was read and is not done with: [begin, end). */
  #begin = 0;
  #end = 0;
  /** So much of it, from its begin, has ws got already. */
  #given = 0;
  /** Bytes that are still to go to ws before a frame begins that is looked at. */
  #forward = Number.POSITIVE_INFINITY;
  #masked = false;
  #socket: Socket | null = null;

  /** The socket that reads by `onread`. */
  attach(socket: Socket): void {
    this.#socket = socket;
  }

  /**
   * HTTP is over: from here on there are frames.
   *
   * @param head    what was read behind HTTP's end, and is given to ws by others
   * @param masked  whether the peer has to mask (it is the client)
   */
  startFrames(head: Uint8Array, masked: boolean): void {
    assert(this.#begin === this.#end && head.length <= READ_SIZE_MIN, 'the head is the end of one read');
    this.#masked = masked;
    this.#forward = 0;
    this.#buffer.set(head);
    this.#begin = 0;
    this.#end = head.length;
    this.#given = head.length;
    this.#take();
  }

  #room(): Uint8Array {
    if (this.#begin === this.#end) {
      this.#begin = 0;
      this.#end = 0;
    } else if (this.#buffer.length - this.#end < READ_SIZE_MIN) {
      this.#buffer.copyWithin(0, this.#begin, this.#end);
      this.#end -= this.#begin;
      this.#begin = 0;
    }
    // behind the end of HTTP there may be frames in the same read: these are its head
    const end = this.#forward === Number.POSITIVE_INFINITY ? this.#end + READ_SIZE_MIN : this.#buffer.length;
    return this.#buffer.subarray(this.#end, end);
  }

  /** @returns false when ws wants no more for now */
  #receive(size: number): boolean {
    this.#end += size;
    return this.#take();
  }

  /** Goes through what is there, up to a frame that is not whole. */
  #take(): boolean {
    let flowing = true;
    while (this.#begin < this.#end) {
      const available = this.#end - this.#begin;
      if (this.#forward > 0) {
        const part = Math.min(this.#forward, available);
        const given = Math.min(this.#given, part);
        const piece = this.#buffer.subarray(this.#begin + given, this.#begin + part);
        this.#begin += part;
        this.#forward -= part;
        this.#given -= given;
        // in the last piece of HTTP `startFrames` is called
        if (piece.length > 0 && !this.#socket!.push(Buffer.from(piece))) flowing = false;
        continue;
      }
      const headerSize = this.#headerSize(available);
      if (headerSize === 0) break;
      const size = this.#payloadSize();
      if (this.#isTaken(size)) {
        if (available < headerSize + size) break;
        const from = this.#begin + headerSize;
        this.#begin = from + size;
        if (this.#masked) this.#unmask(from, size);
        this.onMessage!(this.#buffer.subarray(from, from + size));
      } else {
        this.#forward = this.#isUsual(size) ? headerSize + size : Number.POSITIVE_INFINITY;
      }
    }
    return flowing;
  }

  /** Of the frame at the begin; 0 while it is not whole. */
  #headerSize(available: number): number {
    if (available < 2) return 0;
    const second = this.#buffer[this.#begin + 1]!;
    const code = second & ~MASK;
    const size = 2 + (code === 126 ? 2 : code === 127 ? 8 : 0) + ((second & MASK) !== 0 ? 4 : 0);
    return available < size ? 0 : size;
  }

  #payloadSize(): number {
    const at = this.#begin + 2;
    const code = this.#buffer[at - 1]! & ~MASK;
    if (code < 126) return code;
    if (code === 126) return this.#view.getUint16(at);
    return this.#view.getUint32(at) * 2 ** 32 + this.#view.getUint32(at + 4);
  }

  /** A frame of which ws has no complaint, and after which it expects a new message. */
  #isUsual(size: number): boolean {
    const first = this.#buffer[this.#begin]!;
    const second = this.#buffer[this.#begin + 1]!;
    if (((second & MASK) !== 0) !== this.#masked) return false;
    if (first === WHOLE_BINARY) return size <= MESSAGE_SIZE_MAX;
    return (first === PING || first === PONG) && (second & ~MASK) < 126;
  }

  #isTaken(size: number): boolean {
    return (
      this.onMessage !== null &&
      this.#buffer[this.#begin] === WHOLE_BINARY &&
      this.#isUsual(size) &&
      this.#given === 0 &&
      this.#socket!.readableLength === 0
    );
  }

  /** The mask stands before the payload. Between gateways of one machine, or over TLS, it is zero. */
  #unmask(at: number, size: number): void {
    const view = this.#view;
    const mask = view.getInt32(at - 4);
    if (mask === 0) return;
    const end = at + size;
    let here = at;
    for (; here + 4 <= end; here += 4) view.setInt32(here, view.getInt32(here) ^ mask);
    for (let shift = 24; here < end; here += 1, shift -= 8) this.#buffer[here]! ^= mask >>> shift;
  }
}
