/**
 * The NBD wire format, fixed newstyle (doc/proto.md of NetworkBlockDevice/nbd). All numbers are big-endian.
 *
 *     greeting   S  "NBDMAGIC" "IHAVEOPT" u16 handshake flags
 *                C  u32 client flags
 *     option     C  "IHAVEOPT" u32 option, u32 size, data
 *     reply      S  u64 0x3e889045565a9, u32 option, u32 type, u32 size, data          (type bit 31: an error, data: text)
 *     EXPORT_NAME is answered by u64 export size, u16 transmission flags, 124 zeroes unless NO_ZEROES
 *
 *     request    C  u32 0x25609513, u16 flags, u16 command, u64 cookie, u64 offset, u32 size, then a WRITE's payload
 *     simple     S  u32 0x67446698, u32 errno, u64 cookie, then a READ's data if errno is 0
 *     structured S  u32 0x668e33ef, u16 flags, u16 type, u64 cookie, u32 size, data
 *       OFFSET_DATA   u64 offset, bytes
 *       BLOCK_STATUS  u32 context id, then u32 size, u32 status for each extent
 *       ERROR         u32 errno, u16 text size, text
 *
 * A request is valid if and only if its magic is right, `refusal` (refusal.ts) finds nothing, and its payload is complete.
 */
import type { ErrorCode } from '../../errors.js';

export const GREETING_SIZE = 18;
export const CLIENT_FLAGS_SIZE = 4;
export const OPTION_HEADER_SIZE = 16;
export const OPTION_REPLY_HEADER_SIZE = 20;
export const REQUEST_SIZE = 28;
export const SIMPLE_REPLY_SIZE = 16;
export const CHUNK_HEADER_SIZE = 20;
export const EXPORT_NAME_ZEROES = 124;

/** "NBDMAGIC" */
export const INIT_MAGIC = 0x4e42444d41474943n;
/** "IHAVEOPT" */
export const OPTION_MAGIC = 0x49484156454f5054n;
export const OPTION_REPLY_MAGIC = 0x0003e889045565a9n;
// as signed 32-bit numbers: they stay small integers
export const REQUEST_MAGIC = 0x25609513 | 0;
export const SIMPLE_REPLY_MAGIC = 0x67446698 | 0;
export const CHUNK_MAGIC = 0x668e33ef | 0;

/** Handshake flags; the client's flags have the same bits. */
export const HANDSHAKE = { FIXED_NEWSTYLE: 1, NO_ZEROES: 2 } as const;

export const OPTION = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
} as const;

export const REPLY = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META_CONTEXT: 4,
  ERR_UNSUP: 0x80000001,
  ERR_POLICY: 0x80000002,
  ERR_INVALID: 0x80000003,
  ERR_UNKNOWN: 0x80000006,
  ERR_SHUTDOWN: 0x80000007,
  ERR_TOO_BIG: 0x80000009,
} as const;

export const INFO = { EXPORT: 0, NAME: 1, DESCRIPTION: 2, BLOCK_SIZE: 3 } as const;

/** Transmission flags. */
export const EXPORT_FLAG = {
  HAS_FLAGS: 1,
  READ_ONLY: 2,
  SEND_FLUSH: 4,
  SEND_FUA: 8,
  SEND_TRIM: 32,
  SEND_WRITE_ZEROES: 64,
  SEND_DF: 128,
  CAN_MULTI_CONN: 256,
  SEND_CACHE: 1024,
  SEND_FAST_ZERO: 2048,
} as const;

export const COMMAND = {
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
} as const;

export const COMMAND_FLAG = { FUA: 1, NO_HOLE: 2, DF: 4, REQ_ONE: 8, FAST_ZERO: 16 } as const;

export const CHUNK = { NONE: 0, OFFSET_DATA: 1, OFFSET_HOLE: 2, BLOCK_STATUS: 5, ERROR: 0x8001 } as const;
/** Types with this bit report an error. */
export const CHUNK_ERROR_BIT = 0x8000;
export const CHUNK_DONE = 1;

/** The one metadata context this server has, and its id. */
export const ALLOCATION_CONTEXT = 'base:allocation';
export const ALLOCATION_CONTEXT_ID = 1;
export const EXTENT_STATUS = { HOLE: 1, ZERO: 2 } as const;

export const ERRNO = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;

export type Errno = (typeof ERRNO)[keyof typeof ERRNO];

/** `22` is `EINVAL`; numbers outside the table keep their digits. */
export function errnoName(errno: number): string {
  for (const [name, value] of Object.entries(ERRNO)) if (value === errno) return name;
  return `errno ${errno}`;
}

/** What a host is told for an error of ours: the same name where NBD has it, EIO for the rest. */
export function errnoOf(code: ErrorCode): Errno {
  switch (code) {
    case 'EPERM':
    case 'EINVAL':
    case 'ENOSPC':
    case 'ENOTSUP':
    case 'ESHUTDOWN':
      return ERRNO[code];
    default:
      return ERRNO.EIO;
  }
}

export function encodeGreeting(): Buffer {
  const bytes = Buffer.allocUnsafe(GREETING_SIZE);
  bytes.writeBigUInt64BE(INIT_MAGIC, 0);
  bytes.writeBigUInt64BE(OPTION_MAGIC, 8);
  bytes.writeUInt16BE(HANDSHAKE.FIXED_NEWSTYLE | HANDSHAKE.NO_ZEROES, 16);
  return bytes;
}

export function encodeOption(option: number, data: Uint8Array): Buffer {
  const bytes = Buffer.allocUnsafe(OPTION_HEADER_SIZE + data.length);
  bytes.writeBigUInt64BE(OPTION_MAGIC, 0);
  bytes.writeUInt32BE(option, 8);
  bytes.writeUInt32BE(data.length, 12);
  bytes.set(data, OPTION_HEADER_SIZE);
  return bytes;
}

export function encodeOptionReply(option: number, type: number, data: Uint8Array): Buffer {
  const bytes = Buffer.allocUnsafe(OPTION_REPLY_HEADER_SIZE + data.length);
  bytes.writeBigUInt64BE(OPTION_REPLY_MAGIC, 0);
  bytes.writeUInt32BE(option, 8);
  bytes.writeUInt32BE(type, 12);
  bytes.writeUInt32BE(data.length, 16);
  bytes.set(data, OPTION_REPLY_HEADER_SIZE);
  return bytes;
}

/** A number and a text with its size in front: how export names travel. */
export function encodeString(text: string): Buffer {
  const bytes = Buffer.from(text, 'utf8');
  return Buffer.concat([u32(bytes.length), bytes]);
}

export function encodeInfoExport(size: number, flags: number): Buffer {
  const bytes = Buffer.allocUnsafe(12);
  bytes.writeUInt16BE(INFO.EXPORT, 0);
  bytes.writeBigUInt64BE(BigInt(size), 2);
  bytes.writeUInt16BE(flags, 10);
  return bytes;
}

export function encodeInfoText(item: number, text: Uint8Array): Buffer {
  return Buffer.concat([u16(item), text]);
}

export function encodeInfoBlockSize(minimum: number, preferred: number, maximum: number): Buffer {
  return Buffer.concat([u16(INFO.BLOCK_SIZE), u32(minimum), u32(preferred), u32(maximum)]);
}

/** The answer to EXPORT_NAME, which has no header. */
export function encodeExportNameReply(size: number, flags: number, zeroes: boolean): Buffer {
  const bytes = Buffer.alloc(10 + (zeroes ? EXPORT_NAME_ZEROES : 0));
  bytes.writeBigUInt64BE(BigInt(size), 0);
  bytes.writeUInt16BE(flags, 8);
  return bytes;
}

export function u16(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(2);
  bytes.writeUInt16BE(value, 0);
  return bytes;
}

export function u32(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(4);
  bytes.writeUInt32BE(value, 0);
  return bytes;
}

/** As much of a text as fits `sizeMax` bytes of UTF-8, cut between characters. */
export function utf8Within(text: string, sizeMax: number): Buffer {
  const bytes = Buffer.from(text, 'utf8');
  if (bytes.length <= sizeMax) return bytes;
  let end = sizeMax;
  while (end > 0 && (bytes[end]! & 0xc0) === 0x80) end -= 1;
  return bytes.subarray(0, end);
}

/** Signed, so that V8 keeps it a small integer; the bits are what counts. */
export function int32At(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!;
}

export function putInt32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
}

/** A 64-bit number as a double: exact to 2^53, and beyond it still beyond every volume. */
export function uint64At(bytes: Uint8Array, at: number): number {
  return (int32At(bytes, at) >>> 0) * 0x1_0000_0000 + (int32At(bytes, at + 4) >>> 0);
}

export function putUint64(bytes: Uint8Array, at: number, value: number): void {
  putInt32(bytes, at, Math.floor(value / 0x1_0000_0000));
  putInt32(bytes, at + 4, value >>> 0);
}
