/**
 * A small NBD client: fixed newstyle, GO, structured replies and `base:allocation` where offered, any number of
 * requests in flight. For `forelock demo`, load generation and tests; it trusts its server's sizes only after checking.
 *
 *     const client = await NbdClient.connect('nbd://127.0.0.1:10809/vm1');
 *     await client.write(4096, bytes);
 *     await client.flush();
 *     await client.close();
 */
import type { Socket } from 'node:net';
import { assert } from '../../assert.js';
import { NBD_OPTION_SIZE_MAX, NBD_PAYLOAD_MAX } from '../../limits.js';
import { connectTo, formatAddress, type NbdAddress, parseNbdUri } from './address.js';
import {
  ALLOCATION_CONTEXT,
  CHUNK,
  CHUNK_DONE,
  CHUNK_ERROR_BIT,
  CHUNK_HEADER_SIZE,
  CHUNK_MAGIC,
  COMMAND,
  COMMAND_FLAG,
  EXPORT_FLAG,
  EXTENT_STATUS,
  encodeOption,
  encodeString,
  errnoName,
  GREETING_SIZE,
  HANDSHAKE,
  INFO,
  INIT_MAGIC,
  int32At,
  OPTION,
  OPTION_MAGIC,
  OPTION_REPLY_HEADER_SIZE,
  OPTION_REPLY_MAGIC,
  putInt32,
  putUint64,
  REPLY,
  REQUEST_MAGIC,
  REQUEST_SIZE,
  SIMPLE_REPLY_MAGIC,
  SIMPLE_REPLY_SIZE,
  u16,
  u32,
  uint64At,
} from './protocol.js';

/** `code` is the NBD errno's name (`EPERM`), ECONNRESET for a lost connection, EPROTO for a server that broke the protocol. */
export class NbdError extends Error {
  readonly code: string;
  constructor(code: string, message: string) {
    super(message);
    this.name = 'NbdError';
    this.code = code;
  }
}

export interface NbdConnectOptions {
  /** Default: what the URI says, else the server's default export. */
  readonly exportName?: string;
  /** Default true: ask for them, do without where refused. */
  readonly structuredReplies?: boolean;
}

export interface NbdExtent {
  size: number;
  hole: boolean;
  zero: boolean;
}

export interface NbdWriteFlags {
  readonly fua?: boolean;
}

/** null: done. `data` is of a read; `extents` of a block status. */
type Settle = (error: NbdError | null, data: Buffer | null, extents: NbdExtent[]) => void;

const NOTHING = Buffer.alloc(0);
/** Largest reply chunk beside data: an error text, or extents. */
const CHUNK_SIZE_MAX = NBD_PAYLOAD_MAX + 8;

class Pending {
  settle: Settle | null = null;
  command = 0;
  offset = 0;
  size = 0;
  /** Where a read's data goes. */
  data: Buffer | null = null;
  covered = 0;
  extents: NbdExtent[] = [];
  error: NbdError | null = null;
}

/** Hands out exact numbers of bytes from a stream of chunks. */
class ByteQueue {
  private readonly chunks: Buffer[] = [];
  size = 0;
  push(chunk: Buffer): void {
    this.chunks.push(chunk);
    this.size += chunk.length;
  }
  take(size: number): Buffer {
    assert(size <= this.size, 'taken more than there is');
    const first = this.chunks[0];
    if (size === 0 || first === undefined) return NOTHING;
    if (first.length > size) {
      this.size -= size;
      this.chunks[0] = first.subarray(size);
      return first.subarray(0, size);
    }
    if (first.length === size) {
      this.size -= size;
      this.chunks.shift();
      return first;
    }
    const taken = Buffer.allocUnsafe(size);
    let filled = 0;
    while (filled < size) filled += this.takeInto(taken, filled, size - filled);
    return taken;
  }
  /** Copies at most `size` bytes. @returns how many */
  takeInto(target: Buffer, at: number, size: number): number {
    const first = this.chunks[0];
    if (first === undefined) return 0;
    const part = Math.min(size, first.length);
    first.copy(target, at, 0, part);
    if (part === first.length) this.chunks.shift();
    else this.chunks[0] = first.subarray(part);
    this.size -= part;
    return part;
  }
}

export class NbdClient {
  /** Bytes. */
  size = 0;
  /** Transmission flags, see EXPORT_FLAG. */
  flags = 0;
  name = '';
  description = '';
  blockSize = { minimum: 1, preferred: 4096, maximum: NBD_PAYLOAD_MAX };
  structuredReplies = false;
  /** blockStatus can be asked. */
  allocationContext = false;

  private readonly socket: Socket;
  private readonly queue = new ByteQueue();
  /** Negotiation waits for so many bytes. */
  private wanted: { size: number; resolve(bytes: Buffer): void; reject(error: NbdError): void } | null = null;
  private transmitting = false;
  private failure: NbdError | null = null;
  private closed = false;
  private readonly whenClosed: Promise<void>;

  private readonly pending: Pending[] = [];
  private readonly free: number[] = [];
  private outstanding = 0;
  private uncorkScheduled = false;
  /** The read chunk being received. */
  private filling: Pending | null = null;
  private fillingSlot = 0;
  private fillAt = 0;
  private fillMissing = 0;
  private fillDone = false;

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.setNoDelay(true);
    socket.on('data', (chunk: Buffer) => this.receive(chunk));
    socket.on('error', (error) => this.fail(new NbdError('ECONNRESET', `the NBD connection failed: ${error.message}`)));
    this.whenClosed = new Promise((resolve) => {
      socket.on('close', () => {
        this.fail(new NbdError('ECONNRESET', 'the NBD server closed the connection'));
        this.closed = true;
        resolve();
      });
    });
  }

  /**
   * @param target  an `nbd://` URI or an address
   * @throws NbdError with the server's reason when the export is refused
   */
  static async connect(target: string | NbdAddress, options: NbdConnectOptions = {}): Promise<NbdClient> {
    const { address, exportName } =
      typeof target === 'string' ? parseNbdUri(target) : { address: target, exportName: '' };
    const client = new NbdClient(connectTo(address));
    try {
      await client.negotiate(options.exportName ?? exportName, options.structuredReplies ?? true);
    } catch (error) {
      client.socket.destroy();
      if (error instanceof NbdError) error.message = `${formatAddress(address)}: ${error.message}`;
      throw error;
    }
    return client;
  }

  get readOnly(): boolean {
    return (this.flags & EXPORT_FLAG.READ_ONLY) !== 0;
  }
  get multiConnection(): boolean {
    return (this.flags & EXPORT_FLAG.CAN_MULTI_CONN) !== 0;
  }

  read(offset: number, size: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      this.submit(COMMAND.READ, 0, offset, size, null, (error, data) => (error ? reject(error) : resolve(data!)));
    });
  }

  write(offset: number, bytes: Uint8Array, flags: NbdWriteFlags = {}): Promise<void> {
    return this.ask(COMMAND.WRITE, flags.fua ? COMMAND_FLAG.FUA : 0, offset, bytes.length, bytes);
  }

  /**
   * The lean way to write, for queue depths: no promise, no allocation. `bytes` must stay as they are until `settle`;
   * one function may serve all writes.
   */
  submitWrite(offset: number, bytes: Uint8Array, fua: boolean, settle: (error: NbdError | null) => void): void {
    this.submit(COMMAND.WRITE, fua ? COMMAND_FLAG.FUA : 0, offset, bytes.length, bytes, settle);
  }

  flush(): Promise<void> {
    return this.ask(COMMAND.FLUSH, 0, 0, 0, null);
  }

  trim(offset: number, size: number, flags: NbdWriteFlags = {}): Promise<void> {
    return this.ask(COMMAND.TRIM, flags.fua ? COMMAND_FLAG.FUA : 0, offset, size, null);
  }

  zero(
    offset: number,
    size: number,
    flags: NbdWriteFlags & { readonly noHole?: boolean; readonly fast?: boolean } = {},
  ): Promise<void> {
    const bits =
      (flags.fua ? COMMAND_FLAG.FUA : 0) |
      (flags.noHole ? COMMAND_FLAG.NO_HOLE : 0) |
      (flags.fast ? COMMAND_FLAG.FAST_ZERO : 0);
    return this.ask(COMMAND.WRITE_ZEROES, bits, offset, size, null);
  }

  cache(offset: number, size: number): Promise<void> {
    return this.ask(COMMAND.CACHE, 0, offset, size, null);
  }

  /** Allocation from `offset` on; the server may describe less than was asked for. */
  blockStatus(offset: number, size: number, one = false): Promise<NbdExtent[]> {
    return new Promise((resolve, reject) => {
      const flags = one ? COMMAND_FLAG.REQ_ONE : 0;
      this.submit(COMMAND.BLOCK_STATUS, flags, offset, size, null, (error, _data, extents) =>
        error ? reject(error) : resolve(extents),
      );
    });
  }

  /** Says goodbye and waits until the connection is closed; requests in flight are answered first. */
  async close(): Promise<void> {
    if (!this.closed && this.failure === null) {
      this.send(COMMAND.DISC, 0, 0, 0, 0, null);
      this.socket.end();
    }
    await this.whenClosed;
  }

  /** Drops the connection as a crash would. */
  destroy(): void {
    this.socket.destroy();
  }

  // ---- negotiation

  private async negotiate(exportName: string, structuredReplies: boolean): Promise<void> {
    const greeting = await this.want(GREETING_SIZE);
    if (greeting.readBigUInt64BE(0) !== INIT_MAGIC || greeting.readBigUInt64BE(8) !== OPTION_MAGIC) {
      throw new NbdError('EPROTO', 'not a newstyle NBD server');
    }
    const offered = greeting.readUInt16BE(16);
    if ((offered & HANDSHAKE.FIXED_NEWSTYLE) === 0) throw new NbdError('EPROTO', 'the server lacks fixed newstyle');
    this.socket.write(u32(offered & (HANDSHAKE.FIXED_NEWSTYLE | HANDSHAKE.NO_ZEROES)));

    if (structuredReplies) {
      this.structuredReplies = await this.option(OPTION.STRUCTURED_REPLY, NOTHING).then(
        () => true,
        (error) => this.ignoreRefusal(error),
      );
    }
    if (this.structuredReplies) {
      const query = Buffer.concat([encodeString(exportName), u32(1), encodeString(ALLOCATION_CONTEXT)]);
      this.allocationContext = await this.option(OPTION.SET_META_CONTEXT, query).then(
        (replies) => replies.some((reply) => reply.type === REPLY.META_CONTEXT),
        (error) => this.ignoreRefusal(error),
      );
    }
    const items = [INFO.NAME, INFO.DESCRIPTION, INFO.BLOCK_SIZE];
    const go = Buffer.concat([encodeString(exportName), u16(items.length), ...items.map(u16)]);
    for (const reply of await this.option(OPTION.GO, go)) this.acceptInfo(reply.data);
    this.transmitting = true;
    this.parse();
  }

  /** A refused extra is done without; a lost connection is not. */
  private ignoreRefusal(error: unknown): false {
    if (this.failure !== null) throw error;
    return false;
  }

  private acceptInfo(data: Buffer): void {
    const item = data.length >= 2 ? data.readUInt16BE(0) : -1;
    if (item === INFO.EXPORT && data.length === 12) {
      this.size = Number(data.readBigUInt64BE(2));
      this.flags = data.readUInt16BE(10);
    } else if (item === INFO.NAME) {
      this.name = data.toString('utf8', 2);
    } else if (item === INFO.DESCRIPTION) {
      this.description = data.toString('utf8', 2);
    } else if (item === INFO.BLOCK_SIZE && data.length === 14) {
      this.blockSize = {
        minimum: data.readUInt32BE(2),
        preferred: data.readUInt32BE(6),
        maximum: data.readUInt32BE(10),
      };
    }
  }

  /** Sends one option. @returns the replies before the ACK. @throws NbdError the option is refused */
  private async option(option: number, data: Buffer): Promise<{ type: number; data: Buffer }[]> {
    this.socket.write(encodeOption(option, data));
    const replies: { type: number; data: Buffer }[] = [];
    for (;;) {
      const header = await this.want(OPTION_REPLY_HEADER_SIZE);
      const size = header.readUInt32BE(16);
      if (
        header.readBigUInt64BE(0) !== OPTION_REPLY_MAGIC ||
        header.readUInt32BE(8) !== option ||
        size > NBD_OPTION_SIZE_MAX
      ) {
        throw new NbdError('EPROTO', 'an option reply that does not fit its option');
      }
      const type = header.readUInt32BE(12);
      const payload = await this.want(size);
      if (type === REPLY.ACK) return replies;
      if (type > 0x80000000) throw refusedOption(type, payload.toString('utf8'));
      replies.push({ type, data: payload });
    }
  }

  private want(size: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      if (this.failure !== null) {
        reject(this.failure);
        return;
      }
      this.wanted = { size, resolve, reject };
      this.serveWanted();
    });
  }

  private serveWanted(): void {
    const wanted = this.wanted;
    if (wanted === null || this.queue.size < wanted.size) return;
    this.wanted = null;
    wanted.resolve(this.queue.take(wanted.size));
  }

  // ---- requests

  private ask(command: number, flags: number, offset: number, size: number, bytes: Uint8Array | null): Promise<void> {
    return new Promise((resolve, reject) => {
      this.submit(command, flags, offset, size, bytes, (error) => (error ? reject(error) : resolve()));
    });
  }

  private submit(
    command: number,
    flags: number,
    offset: number,
    size: number,
    bytes: Uint8Array | null,
    settle: Settle,
  ): void {
    if (this.failure !== null) {
      const failure = this.failure;
      process.nextTick(() => settle(failure, null, []));
      return;
    }
    const slot = this.free.pop() ?? this.pending.push(new Pending()) - 1;
    const pending = this.pending[slot]!;
    pending.settle = settle;
    pending.command = command;
    pending.offset = offset;
    pending.size = size;
    this.outstanding += 1;
    this.send(command, flags, slot, offset, size, bytes);
  }

  /** The cookie is the slot. Requests of one turn go out together. */
  private send(
    command: number,
    flags: number,
    slot: number,
    offset: number,
    size: number,
    bytes: Uint8Array | null,
  ): void {
    const header = Buffer.allocUnsafe(REQUEST_SIZE);
    putInt32(header, 0, REQUEST_MAGIC);
    putInt32(header, 4, (flags << 16) | command);
    putInt32(header, 8, 0);
    putInt32(header, 12, slot);
    putUint64(header, 16, offset);
    putInt32(header, 24, size);
    if (!this.uncorkScheduled) {
      this.uncorkScheduled = true;
      this.socket.cork();
      process.nextTick(() => {
        this.uncorkScheduled = false;
        this.socket.uncork();
      });
    }
    this.socket.write(header);
    if (bytes !== null && bytes.length > 0) this.socket.write(bytes);
  }

  // ---- replies

  private receive(chunk: Buffer): void {
    this.queue.push(chunk);
    if (this.transmitting) this.parse();
    else this.serveWanted();
  }

  private parse(): void {
    try {
      while (this.failure === null && this.parseOne());
    } catch (error) {
      if (!(error instanceof NbdError)) throw error;
      this.fail(error);
      this.socket.destroy();
    }
  }

  /** The reply whose header was looked at and whose rest has not arrived. */
  private head: Buffer | null = null;

  /** @returns false when more bytes are needed */
  private parseOne(): boolean {
    if (this.filling !== null) {
      const part = this.queue.takeInto(this.filling.data!, this.fillAt, this.fillMissing);
      this.fillAt += part;
      this.fillMissing -= part;
      if (this.fillMissing > 0) return part > 0;
      this.filling = null;
      if (this.fillDone) this.complete(this.fillingSlot);
      return true;
    }
    if (this.head === null) {
      if (this.queue.size < SIMPLE_REPLY_SIZE) return false;
      const head = this.queue.take(SIMPLE_REPLY_SIZE);
      const magic = int32At(head, 0);
      if (magic === SIMPLE_REPLY_MAGIC) {
        this.simpleReply(head);
        return true;
      }
      if (magic !== CHUNK_MAGIC || !this.structuredReplies) throw new NbdError('EPROTO', 'a reply without its magic');
      this.head = head;
    }
    // a structured chunk is looked at in two steps: sizes first
    if (this.queue.size < CHUNK_HEADER_SIZE - SIMPLE_REPLY_SIZE) return false;
    return this.chunk(this.head);
  }

  private simpleReply(head: Buffer): void {
    const slot = this.slotOf(head);
    const pending = this.pending[slot]!;
    const errno = head.readUInt32BE(4);
    if (errno !== 0) pending.error = new NbdError(errnoName(errno), `the NBD server answered ${errnoName(errno)}`);
    else if (pending.command === COMMAND.READ) {
      if (this.structuredReplies) throw new NbdError('EPROTO', 'a simple reply to a read');
      this.fill(slot, 0, pending.size, true);
      return;
    }
    this.complete(slot);
  }

  private chunkSize = -1;

  private chunk(head: Buffer): boolean {
    if (this.chunkSize < 0) {
      this.chunkSize = this.queue.take(4).readUInt32BE(0);
      if (this.chunkSize > CHUNK_SIZE_MAX) throw new NbdError('EPROTO', 'a reply chunk larger than any request');
    }
    const flags = head.readUInt16BE(4);
    const type = head.readUInt16BE(6);
    const size = this.chunkSize;
    const needed = type === CHUNK.OFFSET_DATA ? 8 : size;
    if (this.queue.size < needed) return false;
    this.head = null;
    this.chunkSize = -1;

    const slot = this.slotOf(head);
    const pending = this.pending[slot]!;
    const done = (flags & CHUNK_DONE) !== 0;
    const bytes = this.queue.take(needed);
    if (type === CHUNK.OFFSET_DATA || type === CHUNK.OFFSET_HOLE) {
      const hole = type === CHUNK.OFFSET_HOLE;
      if (size < 9 || (hole && size !== 12)) throw new NbdError('EPROTO', 'a content chunk of the wrong size');
      const at = uint64At(bytes, 0) - pending.offset;
      const covers = hole ? bytes.readUInt32BE(8) : size - 8;
      if (pending.command !== COMMAND.READ || at < 0 || at + covers > pending.size) {
        throw new NbdError('EPROTO', 'a content chunk outside its request');
      }
      if (!hole) {
        this.fill(slot, at, covers, done);
        return true;
      }
      this.dataOf(pending).fill(0, at, at + covers);
      pending.covered += covers;
    } else if (type === CHUNK.BLOCK_STATUS) {
      if (size < 12 || size % 8 !== 4) throw new NbdError('EPROTO', 'a block status of the wrong size');
      for (let at = 4; at < size; at += 8) {
        const status = bytes.readUInt32BE(at + 4);
        pending.extents.push({
          size: bytes.readUInt32BE(at),
          hole: (status & EXTENT_STATUS.HOLE) !== 0,
          zero: (status & EXTENT_STATUS.ZERO) !== 0,
        });
      }
    } else if ((type & CHUNK_ERROR_BIT) !== 0) {
      if (size < 6) throw new NbdError('EPROTO', 'an error chunk of the wrong size');
      const name = errnoName(bytes.readUInt32BE(0));
      const text = bytes.toString('utf8', 6, Math.min(size, 6 + bytes.readUInt16BE(4)));
      pending.error ??= new NbdError(name, text === '' ? `the NBD server answered ${name}` : text);
    } else if (type !== CHUNK.NONE) {
      throw new NbdError('EPROTO', `an unknown reply chunk ${type}`);
    }
    if (done) this.complete(slot);
    return true;
  }

  private fill(slot: number, at: number, size: number, done: boolean): void {
    const pending = this.pending[slot]!;
    this.dataOf(pending);
    pending.covered += size;
    this.filling = pending;
    this.fillingSlot = slot;
    this.fillAt = at;
    this.fillMissing = size;
    this.fillDone = done;
  }

  private dataOf(pending: Pending): Buffer {
    pending.data ??= Buffer.allocUnsafe(pending.size);
    return pending.data;
  }

  private slotOf(head: Buffer): number {
    const slot = head.readUInt32BE(12);
    if (head.readUInt32BE(8) !== 0 || this.pending[slot]?.settle == null) {
      throw new NbdError('EPROTO', 'a reply to nothing that was asked');
    }
    return slot;
  }

  private complete(slot: number): void {
    const pending = this.pending[slot]!;
    const { settle, extents, command } = pending;
    let { error, data } = pending;
    if (error === null && command === COMMAND.READ) {
      data = this.dataOf(pending);
      if (pending.covered !== pending.size) error = new NbdError('EPROTO', 'a read that left a part out');
    }
    pending.settle = null;
    pending.data = null;
    pending.error = null;
    pending.covered = 0;
    if (extents.length > 0) pending.extents = [];
    this.outstanding -= 1;
    this.free.push(slot);
    settle!(error, error === null ? data : null, extents);
  }

  private fail(error: NbdError): void {
    if (this.failure !== null) return;
    this.failure = error;
    this.wanted?.reject(error);
    this.wanted = null;
    for (const pending of this.pending) {
      const settle = pending.settle;
      pending.settle = null;
      settle?.(error, null, []);
    }
  }
}

/** An option's refusal, by the errno it is nearest to. */
function refusedOption(type: number, text: string): NbdError {
  const codes: Record<number, string> = {
    [REPLY.ERR_UNSUP]: 'ENOTSUP',
    [REPLY.ERR_POLICY]: 'EPERM',
    [REPLY.ERR_UNKNOWN]: 'ENOENT',
    [REPLY.ERR_SHUTDOWN]: 'ESHUTDOWN',
  };
  return new NbdError(codes[type] ?? 'EINVAL', text === '' ? `option refused (0x${type.toString(16)})` : text);
}
