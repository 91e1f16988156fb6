/**
 * Records, sealed and checked in place. The format and the rule "a record is valid if and only if" stand in layout.ts.
 *
 * Bytes that are checked may be hostile: every function here takes how many bytes there are and reads none beyond.
 * Lengths are compared with what remains, never by adding addresses, so nothing wraps at 4 GiB.
 */
import {
  AT_BLOCK_COUNT,
  AT_BLOCK_SHIFT,
  AT_CHECK,
  AT_CHECKSUMS,
  AT_CLOCK,
  AT_FLAGS,
  AT_FORMAT,
  AT_GENERATION,
  AT_LBA,
  AT_SCOPE,
  AT_SEEN,
  AT_SEQUENCE,
  AT_SESSION,
  AT_SITE,
  AT_SIZE,
  AT_TYPE,
  AT_VOLUME,
  FLAG_ABORT_ON_CONFLICT,
  FLAG_POINT,
  FLAG_READ_LOCK,
  FLAG_STAGED,
  HEADER_SIZE,
  RECORD_ALIGN,
  RECORD_BLOCKS_MAX,
  RECORD_FORMAT,
  RECORD_KEY_AT,
  RECORD_PAYLOAD_MAX,
  RECORD_SIZE_MIN,
  TYPE_BASE,
  TYPE_BASE_ZERO,
  TYPE_COMMIT,
  TYPE_LOCK,
  TYPE_PAD,
  TYPE_RELOCATED,
  TYPE_SEGMENT,
  TYPE_TRUNCATED,
  TYPE_WRITE,
} from './layout';
import { large, xxh3 } from './xxh3';

const FLAGS_KNOWN: u32 = FLAG_ABORT_ON_CONFLICT | FLAG_READ_LOCK | FLAG_POINT | FLAG_STAGED;
/** What the checks return for a record that may not be. Every record has at least a header, so 0 is free. */
const INVALID: u32 = 0;

// @ts-ignore: decorator
@inline
function hasPayload(type: u32): bool {
  return type == TYPE_WRITE || type == TYPE_BASE || type == TYPE_RELOCATED || type == TYPE_SEGMENT;
}

// @ts-ignore: decorator
@inline
function isKnown(type: u32): bool {
  return (
    (type >= <u32>TYPE_LOCK && type <= <u32>TYPE_COMMIT) ||
    type == TYPE_BASE ||
    type == TYPE_BASE_ZERO ||
    (type >= <u32>TYPE_SEGMENT && type <= <u32>TYPE_TRUNCATED)
  );
}

/** Size of a record of this shape, INVALID if there is none. A PAD record's is the least it may have. */
export function sizeOf(type: u32, blockCount: u32, blockShift: u32): u32 {
  if (!hasPayload(type)) return isKnown(type) && blockShift == 0 ? RECORD_SIZE_MIN : INVALID;
  if (blockShift < 9 || blockShift > 16 || (type == TYPE_SEGMENT && blockShift != 9)) return INVALID;
  if (blockCount - 1 >= <u32>RECORD_BLOCKS_MAX) return INVALID;
  const payloadSize = blockCount << blockShift;
  if (payloadSize > <u32>RECORD_PAYLOAD_MAX) return INVALID;
  return (HEADER_SIZE + 8 * blockCount + payloadSize + RECORD_ALIGN - 1) & ~(RECORD_ALIGN - 1);
}

/** Size of the header standing at `at` together with its checksums. */
// @ts-ignore: decorator
@inline
function headSize(type: u32, blockCount: u32): u32 {
  return hasPayload(type) ? HEADER_SIZE + 8 * blockCount : HEADER_SIZE;
}

/** What the header at `at` gives as the record's size, if its fields agree with each other; else INVALID. Reads 72 bytes. */
// @ts-ignore: decorator
@inline
function layoutSize(at: usize): u32 {
  const type = <u32>load<u8>(at, AT_TYPE);
  const size = load<u32>(at, AT_SIZE);
  if (load<u16>(at, AT_FORMAT) != RECORD_FORMAT) return INVALID;
  if ((<u32>load<u8>(at, AT_FLAGS) & ~FLAGS_KNOWN) != 0) return INVALID;
  const least = sizeOf(type, load<u32>(at, AT_BLOCK_COUNT), load<u8>(at, AT_BLOCK_SHIFT));
  if (least == INVALID) return INVALID;
  if (type == TYPE_PAD) return size >= least && size % RECORD_ALIGN == 0 ? size : INVALID;
  return size == least ? size : INVALID;
}

/** What the check of a header of `head` bytes, checksums included, must be. */
// @ts-ignore: decorator
@inline
function checkOf(at: usize, head: u32): u64 {
  return xxh3(at + 8, head - 8) ^ load<u64>(RECORD_KEY_AT);
}

/** Writes a header (Kernel.encode); the caller has checked that the record's shape is one. */
export function encode(
  at: usize,
  type: u32,
  flags: u32,
  volume: u32,
  lba: f64,
  blockCount: u32,
  blockShift: u32,
  sequence: f64,
  seen: f64,
  clock: f64,
  scope: f64,
  generation: u32,
  session: u32,
  site: u32,
): u32 {
  const size = sizeOf(type, blockCount, blockShift);
  store<u64>(at, 0, AT_CHECK);
  store<u32>(at, size, AT_SIZE);
  store<u8>(at, type, AT_TYPE);
  store<u8>(at, flags, AT_FLAGS);
  store<u16>(at, volume, AT_VOLUME);
  store<u64>(at, <u64>sequence, AT_SEQUENCE);
  store<u64>(at, <u64>seen, AT_SEEN);
  store<u64>(at, <u64>clock, AT_CLOCK);
  store<u64>(at, <u64>lba, AT_LBA);
  store<u64>(at, <u64>scope, AT_SCOPE);
  store<u32>(at, generation, AT_GENERATION);
  store<u32>(at, session, AT_SESSION);
  store<u32>(at, blockCount, AT_BLOCK_COUNT);
  store<u8>(at, site, AT_SITE);
  store<u8>(at, blockShift, AT_BLOCK_SHIFT);
  store<u16>(at, RECORD_FORMAT, AT_FORMAT);

  // Checksums, then padding. Without payload both are what follows the header.
  const head = headSize(type, blockCount);
  for (let p: u32 = AT_CHECKSUMS; p < head; p += 8) store<u64>(at + p, 0);
  const payloadEnd = blockShift != 0 ? head + (blockCount << blockShift) : head;
  if (payloadEnd < size) store<u64>(at + payloadEnd, 0); // sizes are multiples of 8 until aligned, so padding is 0 or 8
  return size;
}

/** Seals every record of the stretch; how many, or -1 at the first that is not whole. */
export function seal(at: usize, size: u32): i32 {
  let count: i32 = 0;
  let rest = size;
  while (rest != 0) {
    if (rest < <u32>RECORD_SIZE_MIN) return -1;
    const recordSize = layoutSize(at);
    if (recordSize == INVALID || recordSize > rest) return -1;
    const blockCount = load<u32>(at, AT_BLOCK_COUNT);
    const blockShift = <u32>load<u8>(at, AT_BLOCK_SHIFT);
    const head = headSize(load<u8>(at, AT_TYPE), blockCount);
    let block = at + head;
    for (let p: u32 = AT_CHECKSUMS; p < head; p += 8) {
      store<u64>(at + p, large(block, 1 << blockShift));
      block += 1 << blockShift;
    }
    store<u64>(at, checkOf(at, head), AT_CHECK);
    at += recordSize;
    rest -= recordSize;
    count++;
  }
  return count;
}

export function checkHeader(at: usize, available: u32): u32 {
  if (available < <u32>HEADER_SIZE) return 0;
  if (layoutSize(at) == INVALID) return 0;
  const head = headSize(load<u8>(at, AT_TYPE), load<u32>(at, AT_BLOCK_COUNT));
  if (head > available) return 0;
  return load<u64>(at, AT_CHECK) == checkOf(at, head) ? 1 : 0;
}

export function checkBlocks(headerAt: usize, payloadAt: usize, index: u32, count: u32): u32 {
  const blockSize = <u32>1 << load<u8>(headerAt, AT_BLOCK_SHIFT);
  let checksum = headerAt + AT_CHECKSUMS + 8 * index;
  let block = payloadAt;
  for (let good: u32 = 0; good < count; good++) {
    if (load<u64>(checksum) != large(block, blockSize)) return good;
    checksum += 8;
    block += blockSize;
  }
  return count;
}

/** Size of the valid record at `at`, INVALID if there is none within `rest` bytes. */
function checkRecord(at: usize, rest: u32): u32 {
  if (rest < <u32>RECORD_SIZE_MIN) return INVALID;
  const size = layoutSize(at);
  if (size == INVALID || size > rest) return INVALID;
  if (!checkHeader(at, size)) return INVALID;
  if (!hasPayload(load<u8>(at, AT_TYPE))) return size;
  const blockCount = load<u32>(at, AT_BLOCK_COUNT);
  return checkBlocks(at, at + HEADER_SIZE + 8 * blockCount, 0, blockCount) == blockCount ? size : INVALID;
}

export function verify(at: usize, size: u32): u32 {
  let rest = size;
  while (rest != 0) {
    const recordSize = checkRecord(at, rest);
    if (recordSize == INVALID) break;
    at += recordSize;
    rest -= recordSize;
  }
  return size - rest;
}

export function scan(at: usize, size: u32, table: usize, tableCount: u32): u32 {
  let count: u32 = 0;
  let rest = size;
  while (count < tableCount) {
    const recordSize = checkRecord(at, rest);
    if (recordSize == INVALID) break;
    store<u32>(table + 4 * count, size - rest);
    count++;
    at += recordSize;
    rest -= recordSize;
  }
  return count;
}
