/**
 * The client's side of the wire, written from the specification and not from src/frontend/nbd/protocol.ts: numbers are
 * literal here on purpose, so that a wrong constant there is found.
 */

export const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const number = (size: number, value: number | bigint): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt.asUintN(64, BigInt(value)));
  return bytes.subarray(8 - size);
};
export const be16 = (value: number): Buffer => number(2, value);
export const be32 = (value: number): Buffer => number(4, value);
export const be64 = (value: number | bigint): Buffer => number(8, value);
export const sized = (text: string): Buffer => Buffer.concat([be32(Buffer.byteLength(text)), Buffer.from(text)]);
export const join = (...parts: Uint8Array[]): Buffer => Buffer.concat(parts);

// ---- negotiation

export const clientFlags = (flags: number): Buffer => be32(flags);
export const option = (type: number, data: Uint8Array = Buffer.alloc(0), size = data.length): Buffer =>
  join(Buffer.from('IHAVEOPT'), be32(type), be32(size), data);
export const exportName = (name: string): Buffer => option(1, Buffer.from(name));
export const abort = (): Buffer => option(2);
export const list = (): Buffer => option(3);
export const startTls = (): Buffer => option(5);
export const info = (name: string, ...items: number[]): Buffer => option(6, infoData(name, items));
export const go = (name: string, ...items: number[]): Buffer => option(7, infoData(name, items));
export const structuredReply = (): Buffer => option(8);
export const listMeta = (name: string, ...queries: string[]): Buffer => option(9, metaData(name, queries));
export const setMeta = (name: string, ...queries: string[]): Buffer => option(10, metaData(name, queries));

const infoData = (name: string, items: number[]) => join(sized(name), be16(items.length), ...items.map(be16));
const metaData = (name: string, queries: string[]) => join(sized(name), be32(queries.length), ...queries.map(sized));

const OPTIONS: Record<number, string> = {
  1: 'EXPORT_NAME',
  2: 'ABORT',
  3: 'LIST',
  5: 'STARTTLS',
  6: 'INFO',
  7: 'GO',
  8: 'STRUCTURED_REPLY',
  9: 'LIST_META_CONTEXT',
  10: 'SET_META_CONTEXT',
};
const REPLIES: Record<number, string> = {
  1: 'ACK',
  2: 'SERVER',
  3: 'INFO',
  4: 'META_CONTEXT',
  2147483649: 'ERR_UNSUP',
  2147483650: 'ERR_POLICY',
  2147483651: 'ERR_INVALID',
  2147483654: 'ERR_UNKNOWN',
  2147483655: 'ERR_SHUTDOWN',
  2147483657: 'ERR_TOO_BIG',
};

const printable = (bytes: Uint8Array): string =>
  Buffer.from(bytes)
    .toString('latin1')
    .replace(/[^ -~]/g, '.');
const shortHex = (bytes: Uint8Array): string =>
  bytes.length <= 96 ? hex(bytes) : `${hex(bytes.subarray(0, 32))}... ${bytes.length} bytes`;

/** One option of the client, for a reviewer. */
export function describeOption(bytes: Buffer): string {
  if (bytes.length === 4) return `flags ${bytes.readUInt32BE(0)}`;
  if (bytes.length < 16 || bytes.toString('latin1', 0, 8) !== 'IHAVEOPT') return `bytes ${shortHex(bytes)}`;
  const type = bytes.readUInt32BE(8);
  return `${OPTIONS[type] ?? `option ${type}`} ${bytes.readUInt32BE(12)}: ${shortHex(bytes.subarray(16))}`.trimEnd();
}

/** The server's option replies, one line each; what is no option reply is the answer to EXPORT_NAME. */
export function describeReplies(bytes: Buffer): string[] {
  const lines: string[] = [];
  let at = 0;
  while (at < bytes.length) {
    if (bytes.length - at < 20 || hex(bytes.subarray(at, at + 8)) !== '0003e889045565a9') {
      lines.push(`export ${shortHex(bytes.subarray(at))}`);
      break;
    }
    const type = bytes.readUInt32BE(at + 12);
    const size = bytes.readUInt32BE(at + 16);
    const data = bytes.subarray(at + 20, at + 20 + size);
    const option = OPTIONS[bytes.readUInt32BE(at + 8)] ?? `option ${bytes.readUInt32BE(at + 8)}`;
    let detail = '';
    if (type >= 2 ** 31) detail = ` ${size}: ${JSON.stringify(data.toString('utf8', 0, 96))}`;
    else if (size > 0) detail = ` ${size}: ${shortHex(data)} |${printable(data.subarray(0, 48))}|`;
    lines.push(`${option} ${REPLIES[type] ?? type}${detail}`);
    at += 20 + size;
  }
  return lines;
}

// ---- transmission

export interface RequestFields {
  flags?: number;
  offset?: number | bigint;
  size?: number;
  cookie?: bigint;
  magic?: number;
  payload?: Uint8Array;
}

export const request = (command: number, fields: RequestFields = {}): Buffer =>
  join(
    be32(fields.magic ?? 0x25609513),
    be16(fields.flags ?? 0),
    be16(command),
    be64(fields.cookie ?? 0x1122334455667788n),
    be64(fields.offset ?? 0),
    be32(fields.size ?? fields.payload?.length ?? 0),
    fields.payload ?? Buffer.alloc(0),
  );

export interface ParsedReply {
  cookie: bigint;
  /** 0: success. */
  errno: number;
  text: string;
  /** Of a read, by a simple reply or a content chunk. */
  data: Buffer;
  /** The chunk's type, or -1 for a simple reply. */
  type: number;
}

/**
 * @param readSizes  sizes of the reads that simple replies answer, by cookie
 * @throws Error     what is no sequence of complete, valid replies
 */
export function parseReplies(bytes: Buffer, readSizes: Map<bigint, number> = new Map()): ParsedReply[] {
  const replies: ParsedReply[] = [];
  let at = 0;
  const take = (size: number): Buffer => {
    if (at + size > bytes.length) throw new Error(`a reply is cut off at ${bytes.length}`);
    at += size;
    return bytes.subarray(at - size, at);
  };
  while (at < bytes.length) {
    const magic = take(4).readUInt32BE(0);
    if (magic === 0x67446698) {
      const errno = take(4).readUInt32BE(0);
      const cookie = take(8).readBigUInt64BE(0);
      const data = take(errno === 0 ? (readSizes.get(cookie) ?? 0) : 0);
      replies.push({ cookie, errno, text: '', data, type: -1 });
      continue;
    }
    if (magic !== 0x668e33ef) throw new Error(`no reply magic at ${at - 4}: 0x${magic.toString(16)}`);
    if (take(2).readUInt16BE(0) !== 1) throw new Error('a chunk that is not the last');
    const type = take(2).readUInt16BE(0);
    const cookie = take(8).readBigUInt64BE(0);
    const payload = take(take(4).readUInt32BE(0));
    const isError = type >= 0x8000;
    if (isError && payload.readUInt16BE(4) !== payload.length - 6) throw new Error('an error text of the wrong size');
    replies.push({
      cookie,
      errno: isError ? payload.readUInt32BE(0) : 0,
      text: isError ? payload.toString('utf8', 6) : '',
      data: isError ? Buffer.alloc(0) : payload.subarray(type === 1 ? 8 : 0),
      type,
    });
  }
  return replies;
}
