/**
 * Transmission phase of one connection: requests in, device calls, replies out.
 *
 *     receiving --limit reached--> blocked --room again--> receiving
 *     any       --DISC, end, revoked--> draining --nothing in flight--> finished
 *     any       --connection lost-----> lost     --nothing in flight--> finished
 *
 * The path of a write: `receive` parses the header where the socket has put it, the device gets the payload as a view
 * of the same memory and a pooled Request, whose `settle` puts 16 bytes into a slab that is sent once per turn of the
 * event loop. The memory is reused by the next read: of a payload that is not whole, what is there is copied.
 *
 * A payload is always read to its end, also that of a refused write, whatever its size: it is thrown away as it
 * arrives, and the connection stays usable. Only a wrong request magic ends the connection.
 *
 * Invariant: a Request is pooled, or in flight (the device holds it), or collecting its payload; never two of these.
 * The device is closed once, after its last request settled.
 */
import { assert } from '../../assert.js';
import { ForelockError } from '../../errors.js';
import { NBD_EXTENTS_MAX, NBD_STRING_MAX } from '../../limits.js';
import type { BlockDevice, Completion, DeviceExtent, ReadCompletion } from '../../volume/device.js';
import type { Abandoned } from './abandoned.js';
import type { BusyPoll } from './busy-poll.js';
import type { NbdCounters } from './counters.js';
import type { Gathering } from './gathering.js';
import {
  CONNECTION_PENDING_MAX,
  GATHERED_KEPT_MAX,
  READ_SLAB_SIZE,
  REPLIES_KEPT_SIZE_MAX,
  REPLY_BACKLOG_MAX,
  REPLY_SLAB_SIZE,
  SERVER_PENDING_MAX,
} from './limits.js';
import {
  ALLOCATION_CONTEXT_ID,
  CHUNK,
  CHUNK_DONE,
  CHUNK_HEADER_SIZE,
  CHUNK_MAGIC,
  COMMAND,
  COMMAND_FLAG,
  type Errno,
  EXTENT_STATUS,
  errnoOf,
  int32At,
  putInt32,
  putUint64,
  REQUEST_MAGIC,
  REQUEST_SIZE,
  SIMPLE_REPLY_MAGIC,
  SIMPLE_REPLY_SIZE,
  uint64At,
  utf8Within,
} from './protocol.js';
import type { ReadMemory, ReadSlab } from './read-memory.js';
import { type NegotiatedExport, type Refusal, refusal, SHUTTING_DOWN } from './refusal.js';

/** The connection as the transmission phase needs it. */
export interface ReplyPort {
  /**
   * Sends the pieces in order; they are not written again before `sent`, if there is one, is called. The list is the
   * caller's after the call.
   * @returns false when the reader is slow: `Transmission.drained` is called when it has caught up
   */
  send(pieces: readonly Uint8Array[], sent: (() => void) | null): boolean;
  /** Calls `Transmission.flush` at the end of this turn of the event loop. */
  scheduleFlush(): void;
  /** Calls it at the end of the next one. @param isEarly and that may come a moment later */
  scheduleFlushLater(isEarly: boolean): void;
  /** No more `receive` until `resume`. */
  pause(): void;
  resume(): void;
  /** All replies are sent: hang up politely. */
  finish(): void;
  /** The client broke the protocol: hang up now. */
  abort(reason: string): void;
}

const NO_BYTES = new Uint8Array(0);

class Request implements Completion, ReadCompletion {
  private readonly owner: Transmission;
  readonly payload: Uint8Array[] = [];
  command = 0;
  flags = 0;
  offset = 0;
  size = 0;
  cookieHigh = 0;
  cookieLow = 0;
  /** Why its payload is thrown away. */
  refused: Refusal | null = null;
  inFlight = false;
  /** Where what it reads is put. */
  slab: ReadSlab | null = null;
  /** What it read is the device's until this is called. */
  giveBack: (() => void) | null = null;

  constructor(owner: Transmission) {
    this.owner = owner;
  }
  settle(error: ForelockError | null): void {
    this.owner.settled(this, error, null);
  }
  settleRead(error: ForelockError | null, data: readonly Uint8Array[]): void {
    this.owner.settled(this, error, data);
  }
  settleLent(data: Uint8Array, release: () => void): void {
    this.giveBack = release;
    this.owner.settled(this, null, [data]);
  }
  buffer(size: number): Uint8Array {
    return this.owner.readBuffer(this, size);
  }
}

export class Transmission {
  private readonly session: NegotiatedExport;
  private readonly device: BlockDevice;
  private readonly port: ReplyPort;
  private readonly counters: NbdCounters;
  private readonly requestsMax: number;
  private readonly memory: ReadMemory;
  private readonly busyPoll: BusyPoll;
  private readonly gathering: Gathering;
  private readonly abandoned: Abandoned;

  // ---- requests
  private readonly pool: Request[] = [];
  private inFlight = 0;
  private bytesPending = 0;
  /** A header that arrived in parts. */
  private readonly header = new Uint8Array(REQUEST_SIZE);
  private headerFilled = 0;
  /** The write that collects its payload; `missing` bytes are still to come. */
  private collecting: Request | null = null;
  private missing = 0;
  /** It was collecting when that was last looked at. */
  private seenCollecting = false;
  /** Holds what there is of a payload that comes in several portions. */
  private gathered: Uint8Array = NO_BYTES;
  /** A request came. */
  private begun = false;
  private readonly goOn = (): void => this.unblock();
  /** Received while blocked; copies. */
  private unparsed: Uint8Array[] = [];
  private blocked = false;

  // ---- replies
  private readonly out: Uint8Array[] = [];
  private outSize = 0;
  private outReplies = 0;
  /** The slab that reads are put into now, and those of which bytes are in `out`, once for each read. */
  private readSlab: ReadSlab | null = null;
  private outSlabs: ReadSlab[] = [];
  /** Called when what is in `out` is sent, or never will be. */
  private outLent: (() => void)[] = [];
  private slab: Uint8Array = Buffer.allocUnsafeSlow(REPLY_SLAB_SIZE);
  /** slab[0, sealed) is sent or in `out`; [sealed, filled) is the piece being made. */
  private slabSealed = 0;
  private slabFilled = 0;
  private flushScheduled = false;
  private readerSlow = false;

  // ---- end
  /** No request is read any more. */
  private ended = false;
  /** New requests are answered ESHUTDOWN. */
  private revoked = false;
  private lost = false;
  private whenSettled: (() => void) | null = null;
  private finished = false;

  constructor(
    session: NegotiatedExport,
    port: ReplyPort,
    counters: NbdCounters,
    requestsMax: number,
    memory: ReadMemory,
    busyPoll: BusyPoll,
    gathering: Gathering,
    abandoned: Abandoned,
  ) {
    this.session = session;
    this.device = session.device;
    this.port = port;
    this.counters = counters;
    this.requestsMax = requestsMax;
    this.memory = memory;
    this.busyPoll = busyPoll;
    this.gathering = gathering;
    this.abandoned = abandoned;
  }

  /** Bytes from the client, in any portions; lent for the call. */
  receive(chunk: Uint8Array): void {
    if (this.ended) return;
    this.gathering.received();
    if (this.blocked) {
      this.unparsed.push(new Uint8Array(chunk));
      return;
    }
    const consumed = this.parse(chunk);
    if (consumed < chunk.length && !this.ended) {
      this.unparsed.push(new Uint8Array(chunk.subarray(consumed)));
      this.blocked = true;
      this.port.pause();
    }
  }

  /** Sends what was answered until now, or waits for more; and goes on reading if that made room. */
  flush(): void {
    this.flushScheduled = false;
    if (this.lost) return;
    if (this.isToWait()) {
      this.flushScheduled = true;
      this.port.scheduleFlushLater(this.gathering.isEarly);
      return;
    }
    this.seal();
    if (this.out.length > 0) {
      const release = this.outSlabs.length + this.outLent.length === 0 ? null : this.takeRelease();
      if (!this.port.send(this.out, release)) this.readerSlow = true;
      this.out.length = 0;
      this.outSize = 0;
      this.outReplies = 0;
      this.busyPoll.answered();
      this.gathering.sent();
    }
    this.unblock();
    this.finishIfIdle();
  }

  private isToWait(): boolean {
    if (this.outReplies === 0 || this.blocked || this.ended || this.revoked) return false;
    return this.outSize < REPLIES_KEPT_SIZE_MAX && this.gathering.isToWait(this.outReplies, this.inFlight);
  }

  /** What gives back the memory of the reads in `out`. */
  private takeRelease(): () => void {
    const { outSlabs, outLent } = this;
    this.outSlabs = [];
    this.outLent = [];
    return () => {
      for (const slab of outSlabs) this.releaseSlab(slab);
      for (const giveBack of outLent) giveBack();
    };
  }

  /** To be called once in NBD_PAYLOAD_MS_MAX. Whose payload has been coming since the last call is hung up on. */
  lookForStall(): void {
    if (this.collecting === null) return;
    if (this.seenCollecting) this.port.abort('a payload that does not come');
    this.seenCollecting = true;
  }

  /** The slow reader has caught up. */
  drained(): void {
    this.readerSlow = false;
    this.unblock();
  }

  /** The client sent its last byte, or DISC: what is in flight is still answered, then the connection ends. */
  end(): void {
    this.ended = true;
    this.unparsed = [];
    this.dropCollecting();
    this.finishIfIdle();
  }

  /** The export is withdrawn: what is in flight is still answered, new requests get ESHUTDOWN, then the connection ends. */
  revoke(): void {
    this.revoked = true;
    this.finishIfIdle();
  }

  /**
   * The connection is gone: nobody hears the replies of what is in flight.
   * @param settled  called when nothing is any more
   */
  disconnected(settled: () => void): void {
    if (this.lost) return;
    this.whenSettled = settled;
    this.lost = true;
    this.ended = true;
    this.unparsed = [];
    this.out.length = 0;
    for (const slab of this.outSlabs.splice(0)) this.releaseSlab(slab);
    for (const giveBack of this.outLent.splice(0)) giveBack();
    this.dropCollecting();
    this.abandoned.waitNoMore(this.goOn);
    this.abandoned.add(this.bytesPending);
    if (this.inFlight === 0) this.settledAll();
  }

  // ---- parsing

  /** @returns how much of the chunk is done with; the rest waits for room */
  private parse(chunk: Uint8Array): number {
    const chunkSize = chunk.length;
    let at = 0;
    while (at < chunkSize) {
      if (this.collecting !== null) {
        at += this.collect(chunk, at);
        continue;
      }
      if (this.headerFilled === 0) {
        if (!this.hasRoom()) return at;
        if (chunkSize - at >= REQUEST_SIZE) {
          if (!this.begin(chunk, at)) return chunkSize;
          at += REQUEST_SIZE;
          continue;
        }
      }
      const part = Math.min(REQUEST_SIZE - this.headerFilled, chunkSize - at);
      this.header.set(chunk.subarray(at, at + part), this.headerFilled);
      this.headerFilled += part;
      at += part;
      if (this.headerFilled === REQUEST_SIZE) {
        this.headerFilled = 0;
        if (!this.begin(this.header, 0)) return chunkSize;
      }
    }
    return at;
  }

  /** May one more request start? Its size is not known yet: the byte limits are passed by at most one payload. */
  private hasRoom(): boolean {
    if (this.readerSlow || this.outSize > REPLY_BACKLOG_MAX) return false;
    if (this.inFlight === 0) {
      if (this.begun || !this.abandoned.isFull) return true;
      this.abandoned.wait(this.goOn);
      return false;
    }
    return (
      this.inFlight < this.requestsMax &&
      this.bytesPending < CONNECTION_PENDING_MAX &&
      this.counters.bytesPending < SERVER_PENDING_MAX
    );
  }

  private unblock(): void {
    if (!this.blocked || this.ended) return;
    while (this.unparsed.length > 0) {
      const chunk = this.unparsed[0]!;
      const consumed = this.parse(chunk);
      if (this.ended) return;
      if (consumed < chunk.length) {
        this.unparsed[0] = chunk.subarray(consumed);
        return;
      }
      this.unparsed.shift();
    }
    this.blocked = false;
    this.port.resume();
  }

  /** One request header. @returns false when nothing after it is to be read */
  private begin(bytes: Uint8Array, at: number): boolean {
    if (int32At(bytes, at) !== REQUEST_MAGIC) {
      this.ended = true;
      this.unparsed = [];
      this.port.abort('a request without its magic');
      return false;
    }
    const command = (bytes[at + 6]! << 8) | bytes[at + 7]!;
    if (command === COMMAND.DISC) {
      this.end();
      return false;
    }
    this.begun = true;
    const request = this.pool.pop() ?? new Request(this);
    request.command = command;
    request.flags = (bytes[at + 4]! << 8) | bytes[at + 5]!;
    request.cookieHigh = int32At(bytes, at + 8);
    request.cookieLow = int32At(bytes, at + 12);
    request.offset = uint64At(bytes, at + 16);
    request.size = int32At(bytes, at + 24) >>> 0;
    const refused = this.revoked
      ? SHUTTING_DOWN
      : refusal(this.session, command, request.flags, request.offset, request.size);
    if (command === COMMAND.WRITE) {
      request.refused = refused;
      if (request.size > 0) {
        this.collecting = request;
        this.missing = request.size;
        this.seenCollecting = false;
      } else {
        this.startWrite(request);
      }
    } else if (refused !== null) {
      this.refuse(request, refused);
    } else {
      this.start(request);
    }
    return true;
  }

  /** Takes payload from the chunk. @returns bytes taken */
  private collect(chunk: Uint8Array, at: number): number {
    const request = this.collecting!;
    const { size } = request;
    const had = size - this.missing;
    const part = Math.min(this.missing, chunk.length - at);
    this.missing -= part;
    // what has come, not what the header announces: who sends no more than that takes no room from other connections
    if (request.refused === null) this.addPending(part);
    if (this.missing > 0) {
      if (request.refused === null) this.gather(chunk.subarray(at, at + part), had, size);
      return part;
    }
    this.collecting = null;
    if (request.refused === null) {
      if (had > 0) request.payload.push(this.gathered.subarray(0, had));
      request.payload.push(chunk.subarray(at, at + part));
    }
    this.startWrite(request);
    if (this.gathered.length > GATHERED_KEPT_MAX) this.gathered = NO_BYTES;
    return part;
  }

  private gather(piece: Uint8Array, had: number, size: number): void {
    if (this.gathered.length < size) this.gathered = Buffer.allocUnsafeSlow(size);
    this.gathered.set(piece, had);
  }

  private dropCollecting(): void {
    const request = this.collecting;
    if (request === null) return;
    this.collecting = null;
    this.gathered = NO_BYTES;
    if (request.refused === null) this.addPending(this.missing - request.size);
    this.release(request);
  }

  // ---- requests

  private startWrite(request: Request): void {
    if (request.refused !== null) {
      this.refuse(request, request.refused);
      return;
    }
    this.counters.writes += 1;
    if (request.size === 0) {
      this.succeed(request);
      return;
    }
    this.launch(request);
    this.device.write(request.offset, request.size, request.payload, (request.flags & COMMAND_FLAG.FUA) !== 0, request);
    request.payload.length = 0;
  }

  /** A request without payload that `refusal` let pass. */
  private start(request: Request): void {
    const { command, offset, size } = request;
    const fua = (request.flags & COMMAND_FLAG.FUA) !== 0;
    this.count(command);
    if (command === COMMAND.BLOCK_STATUS) {
      this.blockStatus(request);
      return;
    }
    // a hint to read ahead is taken, and nothing is done for it
    if (command === COMMAND.CACHE || (size === 0 && command !== COMMAND.FLUSH)) {
      this.succeed(request);
      return;
    }
    this.launch(request);
    if (command === COMMAND.READ) {
      this.addPending(size);
      this.device.read(offset, size, request);
    } else if (command === COMMAND.FLUSH) {
      this.device.flush(request);
    } else if (command === COMMAND.TRIM) {
      this.device.trim(offset, size, fua, request);
    } else {
      assert(command === COMMAND.WRITE_ZEROES, 'refusal let an unknown command pass');
      this.device.zero(offset, size, fua, request);
    }
  }

  private count(command: number): void {
    const counters = this.counters;
    if (command === COMMAND.READ) counters.reads += 1;
    else if (command === COMMAND.FLUSH) counters.flushes += 1;
    else if (command === COMMAND.TRIM) counters.trims += 1;
    else if (command === COMMAND.WRITE_ZEROES) counters.zeroes += 1;
    else if (command === COMMAND.CACHE) counters.caches += 1;
    else counters.blockStatuses += 1;
  }

  private blockStatus(request: Request): void {
    const count = (request.flags & COMMAND_FLAG.REQ_ONE) !== 0 ? 1 : NBD_EXTENTS_MAX;
    let extents: DeviceExtent[];
    try {
      extents = this.device.extents(request.offset, request.size, count);
    } catch (error) {
      if (!(error instanceof ForelockError)) throw error;
      this.fail(request, errnoOf(error.code), error.message);
      return;
    }
    assert(extents.length > 0 && extents.length <= count, 'extents: none, or more than asked for');
    const descriptors = Buffer.allocUnsafe(4 + 8 * extents.length);
    putInt32(descriptors, 0, ALLOCATION_CONTEXT_ID);
    let end = 4;
    let covered = 0;
    let statusBefore = -1;
    for (const extent of extents) {
      assert(extent.size > 0, 'an empty extent');
      covered += extent.size;
      const status = extent.hole ? EXTENT_STATUS.HOLE | EXTENT_STATUS.ZERO : 0;
      if (status === statusBefore) {
        putInt32(descriptors, end - 8, int32At(descriptors, end - 8) + extent.size);
      } else {
        putInt32(descriptors, end, extent.size);
        putInt32(descriptors, end + 4, status);
        statusBefore = status;
        end += 8;
      }
    }
    assert(covered <= request.size, 'extents cover more than was asked for');
    this.putChunkHeader(request, CHUNK.BLOCK_STATUS, end);
    this.putPiece(descriptors.subarray(0, end));
    this.release(request);
  }

  private launch(request: Request): void {
    request.inFlight = true;
    this.inFlight += 1;
    this.busyPoll.begin();
  }

  /** The device is done with a request; `data` is null for anything but a read. */
  settled(request: Request, error: ForelockError | null, data: readonly Uint8Array[] | null): void {
    assert(request.inFlight, 'a request settled twice');
    request.inFlight = false;
    this.inFlight -= 1;
    this.busyPoll.settle();
    const { command, size } = request;
    if (command <= COMMAND.WRITE) this.addPending(-size);
    if (this.lost) {
      if (command <= COMMAND.WRITE) this.abandoned.add(-size);
      this.release(request);
      if (this.inFlight === 0) this.settledAll();
      return;
    }
    if (error !== null) {
      this.fail(request, errnoOf(error.code), error.message);
    } else if (command === COMMAND.READ) {
      this.counters.bytesRead += size;
      this.succeedRead(request, data!);
    } else {
      if (command === COMMAND.WRITE) this.counters.bytesWritten += size;
      this.succeed(request);
    }
  }

  private addPending(size: number): void {
    this.bytesPending += size;
    this.counters.bytesPending += size;
  }

  private release(request: Request): void {
    request.payload.length = 0;
    request.refused = null;
    if (request.slab !== null) this.releaseSlab(request.slab);
    request.slab = null;
    request.giveBack?.();
    request.giveBack = null;
    this.pool.push(request);
  }

  // ---- memory for reads

  readBuffer(request: Request, size: number): Uint8Array {
    if (size > READ_SLAB_SIZE / 2) return Buffer.allocUnsafeSlow(size);
    let slab = this.readSlab;
    if (slab === null || slab.filled + size > READ_SLAB_SIZE) {
      this.leaveSlab();
      slab = this.memory.take();
      this.readSlab = slab;
    }
    const at = slab.filled;
    slab.filled += size;
    slab.users += 1;
    request.slab = slab;
    return slab.bytes.subarray(at, at + size);
  }

  /** No more reads are put into the present slab. */
  private leaveSlab(): void {
    const slab = this.readSlab;
    this.readSlab = null;
    if (slab !== null && slab.users === 0) this.memory.give(slab);
  }

  private releaseSlab(slab: ReadSlab): void {
    slab.users -= 1;
    if (slab.users > 0) return;
    if (slab === this.readSlab) slab.filled = 0;
    else this.memory.give(slab);
  }

  // ---- replies

  /** A success without data. A READ must be structured where that was negotiated; the rest is shorter as it is. */
  private succeed(request: Request): void {
    if (request.command === COMMAND.READ && this.session.structuredReplies) {
      this.putChunkHeader(request, CHUNK.NONE, 0);
    } else {
      this.putSimpleReply(request, 0);
    }
    this.release(request);
  }

  private succeedRead(request: Request, data: readonly Uint8Array[]): void {
    if (this.session.structuredReplies) {
      this.putChunkHeader(request, CHUNK.OFFSET_DATA, 8 + request.size);
      const at = this.reserve(8);
      putUint64(this.slab, at, request.offset);
    } else {
      this.putSimpleReply(request, 0);
    }
    let size = 0;
    for (const piece of data) {
      size += piece.length;
      this.putPiece(piece);
    }
    assert(size === request.size, 'a read returned another size than was asked for');
    if (request.slab !== null) this.outSlabs.push(request.slab);
    request.slab = null; // until it is sent
    if (request.giveBack !== null) this.outLent.push(request.giveBack);
    request.giveBack = null;
    this.release(request);
  }

  private refuse(request: Request, why: Refusal): void {
    this.fail(request, why.errno, why.text);
  }

  private fail(request: Request, errno: Errno, text: string): void {
    this.counters.errors += 1;
    if (this.session.structuredReplies) {
      const message = utf8Within(text, NBD_STRING_MAX);
      this.putChunkHeader(request, CHUNK.ERROR, 6 + message.length);
      const at = this.reserve(6);
      putInt32(this.slab, at, errno);
      this.slab[at + 4] = message.length >>> 8;
      this.slab[at + 5] = message.length;
      this.putPiece(message);
    } else {
      this.putSimpleReply(request, errno);
    }
    this.release(request);
  }

  private putSimpleReply(request: Request, errno: number): void {
    this.outReplies += 1;
    const at = this.reserve(SIMPLE_REPLY_SIZE);
    const slab = this.slab;
    putInt32(slab, at, SIMPLE_REPLY_MAGIC);
    putInt32(slab, at + 4, errno);
    putInt32(slab, at + 8, request.cookieHigh);
    putInt32(slab, at + 12, request.cookieLow);
  }

  /** Every reply is one chunk, so every chunk is the last. */
  private putChunkHeader(request: Request, type: number, size: number): void {
    this.outReplies += 1;
    const at = this.reserve(CHUNK_HEADER_SIZE);
    const slab = this.slab;
    putInt32(slab, at, CHUNK_MAGIC);
    putInt32(slab, at + 4, (CHUNK_DONE << 16) | type);
    putInt32(slab, at + 8, request.cookieHigh);
    putInt32(slab, at + 12, request.cookieLow);
    putInt32(slab, at + 16, size);
  }

  /** Room for a reply's bytes in the slab. @returns where */
  private reserve(size: number): number {
    if (this.slabFilled + size > REPLY_SLAB_SIZE) {
      this.seal();
      this.slab = Buffer.allocUnsafeSlow(REPLY_SLAB_SIZE);
      this.slabSealed = 0;
      this.slabFilled = 0;
    }
    const at = this.slabFilled;
    this.slabFilled += size;
    this.outSize += size;
    this.schedule();
    return at;
  }

  private putPiece(piece: Uint8Array): void {
    if (piece.length === 0) return;
    this.seal();
    this.out.push(piece);
    this.outSize += piece.length;
  }

  private seal(): void {
    if (this.slabFilled > this.slabSealed) {
      this.out.push(this.slab.subarray(this.slabSealed, this.slabFilled));
      this.slabSealed = this.slabFilled;
    }
  }

  private schedule(): void {
    if (this.flushScheduled) return;
    this.flushScheduled = true;
    this.port.scheduleFlush();
  }

  // ---- end

  /** Everything that was asked is answered and sent, and no more will be read. */
  private finishIfIdle(): void {
    if (this.finished || this.inFlight > 0 || this.flushScheduled) return;
    if (!this.ended && !this.revoked) return;
    this.finish();
    this.port.finish();
  }

  /** Of a connection that is gone. */
  private settledAll(): void {
    this.finish();
    this.whenSettled?.();
  }

  private finish(): void {
    if (this.finished) return;
    this.finished = true;
    this.ended = true;
    this.dropCollecting();
    this.leaveSlab();
    this.slab = NO_BYTES;
    this.device.close();
  }
}
