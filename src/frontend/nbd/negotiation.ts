/**
 * Server end of the fixed newstyle negotiation, from the client's flags to the chosen export.
 *
 * Sans-IO: `receive` takes bytes, returns what is left to do; replies are drained with `takeReplies`.
 *
 *     flags --option--> options --GO, EXPORT_NAME--> ready (device open, owned by the caller)
 *     any   --ABORT, a limit, a broken header-----> closed
 *
 * A client cannot make it hold more than one option (NBD_OPTION_SIZE_MAX) or send more than NBD_OPTIONS_MAX of them.
 * STARTTLS is not offered: there is no state of before that could leak past it.
 */
import { assert } from '../../assert.js';
import { ForelockError } from '../../errors.js';
import { NBD_OPTION_SIZE_MAX, NBD_OPTIONS_MAX, NBD_PAYLOAD_MAX, NBD_STRING_MAX } from '../../limits.js';
import type { BlockDevice, DeviceCatalog } from '../../volume/device.js';
import {
  ALLOCATION_CONTEXT,
  ALLOCATION_CONTEXT_ID,
  CLIENT_FLAGS_SIZE,
  EXPORT_FLAG,
  encodeExportNameReply,
  encodeInfoBlockSize,
  encodeInfoExport,
  encodeInfoText,
  encodeOptionReply,
  encodeString,
  HANDSHAKE,
  INFO,
  OPTION,
  OPTION_HEADER_SIZE,
  OPTION_MAGIC,
  REPLY,
  u32,
  utf8Within,
} from './protocol.js';
import type { NegotiatedExport } from './refusal.js';

export type NegotiationOutcome =
  | { readonly state: 'more' }
  /** `rest`: bytes of the transmission phase that came along. */
  | { readonly state: 'ready'; readonly session: NegotiatedExport; readonly rest: Uint8Array }
  /** Send the replies, then hang up. */
  | { readonly state: 'closed'; readonly reason: string };

const MORE: NegotiationOutcome = { state: 'more' };
const NOTHING = Buffer.alloc(0);
const UTF8 = new TextDecoder('utf-8', { fatal: true });

/** An option that cannot be answered as asked: becomes its error reply. */
class OptionError extends Error {
  readonly type: number;
  constructor(type: number, message: string) {
    super(message);
    this.type = type;
  }
}

export class Negotiation {
  private readonly catalog: DeviceCatalog;
  private replies: Buffer[] = [];
  /** Unparsed bytes, at most one option and one socket chunk. */
  private held: Buffer = NOTHING;
  private clientFlags: number | null = null;
  private optionCount = 0;
  private structuredReplies = false;
  /** The export for which `base:allocation` was selected, or null. */
  private contextExport: string | null = null;
  private done = false;

  constructor(catalog: DeviceCatalog) {
    this.catalog = catalog;
  }

  takeReplies(): Buffer[] {
    const replies = this.replies;
    this.replies = [];
    return replies;
  }

  receive(chunk: Uint8Array): NegotiationOutcome {
    assert(!this.done, 'negotiation received bytes after its end');
    const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    this.held = this.held.length === 0 ? bytes : Buffer.concat([this.held, bytes]);
    let outcome = MORE;
    while (outcome.state === 'more') {
      if (this.clientFlags === null) {
        if (this.held.length < CLIENT_FLAGS_SIZE) break;
        outcome = this.acceptFlags(this.take(CLIENT_FLAGS_SIZE).readUInt32BE(0));
      } else {
        if (this.held.length < OPTION_HEADER_SIZE) break;
        if (this.held.readBigUInt64BE(0) !== OPTION_MAGIC) {
          outcome = closed('an option without its magic');
          break;
        }
        const option = this.held.readUInt32BE(8);
        const size = this.held.readUInt32BE(12);
        const stop = this.checkOption(option, size);
        if (stop !== null) {
          outcome = stop;
          break;
        }
        if (this.held.length < OPTION_HEADER_SIZE + size) break;
        this.take(OPTION_HEADER_SIZE);
        this.optionCount += 1;
        outcome = this.answer(option, this.take(size));
      }
    }
    this.done = outcome.state !== 'more';
    // not a view: a dribbling client would keep whole chunks alive
    this.held = this.done ? NOTHING : Buffer.from(this.held);
    return outcome;
  }

  private take(size: number): Buffer {
    const taken = this.held.subarray(0, size);
    this.held = this.held.subarray(size);
    return taken;
  }

  private acceptFlags(flags: number): NegotiationOutcome {
    if ((flags & ~(HANDSHAKE.FIXED_NEWSTYLE | HANDSHAKE.NO_ZEROES)) !== 0) {
      return closed(`unknown client flags 0x${flags.toString(16)}`);
    }
    this.clientFlags = flags;
    return MORE;
  }

  /** The limits, looked at before the data is waited for. */
  private checkOption(option: number, size: number): NegotiationOutcome | null {
    if ((this.clientFlags! & HANDSHAKE.FIXED_NEWSTYLE) === 0 && option !== OPTION.EXPORT_NAME) {
      return closed('an option from a client that does not speak fixed newstyle');
    }
    if (option === OPTION.EXPORT_NAME) return size > NBD_STRING_MAX ? closed('the export name is too long') : null;
    if (size > NBD_OPTION_SIZE_MAX) {
      this.reply(option, REPLY.ERR_TOO_BIG, utf8(`more than ${NBD_OPTION_SIZE_MAX} bytes in one option`));
      return closed('an option that is too long');
    }
    if (this.optionCount >= NBD_OPTIONS_MAX && option !== OPTION.ABORT) {
      this.reply(option, REPLY.ERR_POLICY, utf8(`more than ${NBD_OPTIONS_MAX} options`));
      return closed('too many options');
    }
    return null;
  }

  private answer(option: number, data: Buffer): NegotiationOutcome {
    if (option === OPTION.EXPORT_NAME) return this.exportName(data);
    if (option === OPTION.ABORT) {
      this.reply(option, REPLY.ACK, NOTHING);
      return closed('the client gave up');
    }
    try {
      switch (option) {
        case OPTION.LIST:
          this.list(data);
          break;
        case OPTION.INFO:
        case OPTION.GO:
          return this.info(option, data);
        case OPTION.STRUCTURED_REPLY:
          if (data.length !== 0) throw new OptionError(REPLY.ERR_INVALID, 'STRUCTURED_REPLY has no data');
          this.structuredReplies = true;
          break;
        case OPTION.LIST_META_CONTEXT:
        case OPTION.SET_META_CONTEXT:
          this.metaContext(option, data);
          break;
        case OPTION.STARTTLS:
          throw new OptionError(REPLY.ERR_UNSUP, 'this server does not offer TLS');
        default:
          throw new OptionError(REPLY.ERR_UNSUP, `option ${option} is not supported`);
      }
      this.reply(option, REPLY.ACK, NOTHING);
    } catch (error) {
      if (!(error instanceof OptionError)) throw error;
      this.reply(option, error.type, utf8(error.message));
    }
    return MORE;
  }

  /** EXPORT_NAME has no error reply: hanging up is the answer. */
  private exportName(data: Buffer): NegotiationOutcome {
    try {
      const name = decodeText(data);
      const device = this.open(name);
      const flags = transmissionFlags(device, this.structuredReplies);
      const zeroes = (this.clientFlags! & HANDSHAKE.NO_ZEROES) === 0;
      this.replies.push(encodeExportNameReply(device.size, flags, zeroes));
      return this.ready(name, device);
    } catch (error) {
      if (!(error instanceof OptionError)) throw error;
      return closed(error.message);
    }
  }

  private list(data: Buffer): void {
    if (data.length !== 0) throw new OptionError(REPLY.ERR_INVALID, 'LIST has no data');
    for (const name of [...this.catalog.names(), ...this.catalog.views()])
      this.reply(OPTION.LIST, REPLY.SERVER, encodeString(name));
  }

  private info(option: number, data: Buffer): NegotiationOutcome {
    const reader = new OptionReader(data);
    const name = reader.text();
    const items = new Set<number>();
    for (let count = reader.u16(); count > 0; count -= 1) items.add(reader.u16());
    reader.end();

    const device = this.open(name);
    const flags = transmissionFlags(device, this.structuredReplies);
    this.reply(option, REPLY.INFO, encodeInfoExport(device.size, flags));
    if (items.has(INFO.NAME)) this.reply(option, REPLY.INFO, encodeInfoText(INFO.NAME, utf8(device.name)));
    if (items.has(INFO.DESCRIPTION)) {
      this.reply(option, REPLY.INFO, encodeInfoText(INFO.DESCRIPTION, utf8(device.description)));
    }
    if (items.has(INFO.BLOCK_SIZE)) {
      this.reply(option, REPLY.INFO, encodeInfoBlockSize(1, device.blockSize, NBD_PAYLOAD_MAX));
    }
    this.reply(option, REPLY.ACK, NOTHING);
    if (option === OPTION.GO) return this.ready(name, device);
    device.close();
    return MORE;
  }

  private metaContext(option: number, data: Buffer): void {
    if (!this.structuredReplies) throw new OptionError(REPLY.ERR_INVALID, 'structured replies come first');
    if (option === OPTION.SET_META_CONTEXT) this.contextExport = null;
    const reader = new OptionReader(data);
    const name = reader.text();
    const queries: string[] = [];
    // each query takes four bytes or more: the option's size bounds the count
    for (let count = reader.u32(); count > 0; count -= 1) queries.push(reader.text());
    reader.end();
    this.open(name).close();

    const listing = option === OPTION.LIST_META_CONTEXT;
    const selected = listing
      ? queries.length === 0 || queries.some((query) => query === 'base:' || query === ALLOCATION_CONTEXT)
      : queries.includes(ALLOCATION_CONTEXT);
    if (!selected) return;
    if (!listing) this.contextExport = name;
    const id = u32(listing ? 0 : ALLOCATION_CONTEXT_ID);
    this.reply(option, REPLY.META_CONTEXT, Buffer.concat([id, utf8(ALLOCATION_CONTEXT)]));
  }

  /** The empty name is the only export, where there is only one. */
  private open(name: string): BlockDevice {
    try {
      if (name === '') {
        const names = this.catalog.names();
        if (names.length === 1) return this.catalog.open(names[0]!);
      }
      return this.catalog.open(name);
    } catch (error) {
      if (!(error instanceof ForelockError)) throw error;
      throw new OptionError(replyTypeOf(error), error.message);
    }
  }

  private ready(name: string, device: BlockDevice): NegotiationOutcome {
    const session = {
      device,
      structuredReplies: this.structuredReplies,
      allocationContext: this.contextExport === name,
    };
    return { state: 'ready', session, rest: this.held };
  }

  private reply(option: number, type: number, data: Uint8Array): void {
    this.replies.push(encodeOptionReply(option, type, data));
  }
}

/** What the export can do, as told at GO; fixed for the life of the connection. */
export function transmissionFlags(device: BlockDevice, structuredReplies: boolean): number {
  return (
    EXPORT_FLAG.HAS_FLAGS |
    EXPORT_FLAG.SEND_FLUSH |
    EXPORT_FLAG.SEND_FUA |
    EXPORT_FLAG.SEND_TRIM |
    EXPORT_FLAG.SEND_WRITE_ZEROES |
    EXPORT_FLAG.SEND_FAST_ZERO |
    EXPORT_FLAG.SEND_CACHE |
    (structuredReplies ? EXPORT_FLAG.SEND_DF : 0) |
    (device.multiConnection ? EXPORT_FLAG.CAN_MULTI_CONN : 0) |
    (device.readOnly ? EXPORT_FLAG.READ_ONLY : 0)
  );
}

function replyTypeOf(error: ForelockError): number {
  switch (error.code) {
    case 'EINVAL':
      return REPLY.ERR_UNKNOWN;
    case 'ENOTSUP':
      return REPLY.ERR_UNSUP;
    case 'ESHUTDOWN':
      return REPLY.ERR_SHUTDOWN;
    default:
      return REPLY.ERR_POLICY;
  }
}

/** The fields of one option's data; everything wrong with them is ERR_INVALID. */
class OptionReader {
  private readonly data: Buffer;
  private at = 0;
  constructor(data: Buffer) {
    this.data = data;
  }
  u16(): number {
    return this.bytes(2).readUInt16BE(0);
  }
  u32(): number {
    return this.bytes(4).readUInt32BE(0);
  }
  text(): string {
    const size = this.u32();
    if (size > NBD_STRING_MAX)
      throw new OptionError(REPLY.ERR_INVALID, `a string of more than ${NBD_STRING_MAX} bytes`);
    return decodeText(this.bytes(size));
  }
  end(): void {
    if (this.at !== this.data.length) throw new OptionError(REPLY.ERR_INVALID, 'bytes after the last field');
  }
  private bytes(size: number): Buffer {
    if (size > this.data.length - this.at)
      throw new OptionError(REPLY.ERR_INVALID, 'a field beyond the end of the data');
    this.at += size;
    return this.data.subarray(this.at - size, this.at);
  }
}

function decodeText(bytes: Uint8Array): string {
  let text: string;
  try {
    text = UTF8.decode(bytes);
  } catch {
    throw new OptionError(REPLY.ERR_INVALID, 'a string that is not UTF-8');
  }
  if (text.includes('\0')) throw new OptionError(REPLY.ERR_INVALID, 'a string with a NUL');
  return text;
}

function closed(reason: string): NegotiationOutcome {
  return { state: 'closed', reason };
}

function utf8(text: string): Buffer {
  return utf8Within(text, NBD_STRING_MAX);
}
