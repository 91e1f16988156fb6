/**
 * Records, sealed and checked: the rule at the top of assembly/layout.ts, said once more in the plainest way.
 *
 * A record's bytes may be hostile. They are first read into a Header, every field that decides where to read next is
 * judged, and only then are checksums and payload looked at.
 */
import * as layout from '../../../assembly/layout.js';
import { xxh3 } from './xxh3.js';

const TYPES_WITH_PAYLOAD = new Set([layout.TYPE_WRITE, layout.TYPE_BASE, layout.TYPE_RELOCATED, layout.TYPE_SEGMENT]);

const TYPES_WITHOUT_PAYLOAD = new Set([
  layout.TYPE_LOCK,
  layout.TYPE_ZERO,
  layout.TYPE_TRIM,
  layout.TYPE_UNLOCK,
  layout.TYPE_FLUSH,
  layout.TYPE_ABORT,
  layout.TYPE_COMMIT,
  layout.TYPE_BASE_ZERO,
  layout.TYPE_PAD,
  layout.TYPE_MARK,
  layout.TYPE_TRUNCATED,
]);

const KNOWN_FLAGS = [layout.FLAG_ABORT_ON_CONFLICT, layout.FLAG_READ_LOCK, layout.FLAG_POINT, layout.FLAG_STAGED];

/** Where the parts of a record are, from its first byte. */
interface Shape {
  /** Blocks with payload: 0 in a record without. */
  readonly blocks: number;
  readonly blockSize: number;
  /** Byte offset of the first block: the end of header and checksums. */
  readonly payloadOffset: number;
  /** The whole record, padding included. */
  readonly size: number;
}

/** The shape of a record of this type, or null if there is no such record. For PAD: the smallest. */
export function shapeOf(type: number, blockCount: number, blockShift: number): Shape | null {
  if (TYPES_WITHOUT_PAYLOAD.has(type)) {
    if (blockShift !== 0) return null;
    return { blocks: 0, blockSize: 0, payloadOffset: layout.HEADER_SIZE, size: align(layout.HEADER_SIZE) };
  }
  if (!TYPES_WITH_PAYLOAD.has(type)) return null;
  if (blockShift < 9 || blockShift > 16) return null;
  if (type === layout.TYPE_SEGMENT && blockShift !== 9) return null;
  if (blockCount < 1 || blockCount > layout.RECORD_BLOCKS_MAX) return null;
  const blockSize = 2 ** blockShift;
  if (blockCount * blockSize > layout.RECORD_PAYLOAD_MAX) return null;
  const payloadOffset = layout.AT_CHECKSUMS + 8 * blockCount;
  return { blocks: blockCount, blockSize, payloadOffset, size: align(payloadOffset + blockCount * blockSize) };
}

function align(size: number): number {
  return Math.ceil(size / layout.RECORD_ALIGN) * layout.RECORD_ALIGN;
}

/** The shape of the record whose header stands at `at`, or null if its fields do not agree. Needs HEADER_SIZE bytes. */
function readShape(view: DataView, at: number): Shape | null {
  const type = view.getUint8(at + layout.AT_TYPE);
  const size = view.getUint32(at + layout.AT_SIZE, true);
  const blockCount = view.getUint32(at + layout.AT_BLOCK_COUNT, true);
  const blockShift = view.getUint8(at + layout.AT_BLOCK_SHIFT);

  let unknownFlags = view.getUint8(at + layout.AT_FLAGS);
  for (const flag of KNOWN_FLAGS) unknownFlags &= ~flag;
  if (unknownFlags !== 0) return null;
  if (view.getUint16(at + layout.AT_FORMAT, true) !== layout.RECORD_FORMAT) return null;

  const shape = shapeOf(type, blockCount, blockShift);
  if (shape === null) return null;
  if (type === layout.TYPE_PAD) {
    return size >= shape.size && size % layout.RECORD_ALIGN === 0 ? { ...shape, size } : null;
  }
  return size === shape.size ? shape : null;
}

/** The shape of a whole record at `at` of which `available` bytes are there, or null. */
function readWholeShape(view: DataView, at: number, available: number): Shape | null {
  if (available < layout.RECORD_SIZE_MIN) return null;
  const shape = readShape(view, at);
  return shape !== null && shape.size <= available ? shape : null;
}

/** Seals the records of [at, at + size); how many, or null at the first that is not a whole one. */
export function seal(view: DataView, at: number, size: number): number | null {
  const end = at + size;
  let count = 0;
  while (at < end) {
    const shape = readWholeShape(view, at, end - at);
    if (shape === null) return null;
    for (let i = 0; i < shape.blocks; i++) {
      const digest = xxh3(view, at + shape.payloadOffset + i * shape.blockSize, shape.blockSize);
      view.setBigUint64(at + layout.AT_CHECKSUMS + 8 * i, digest, true);
    }
    view.setBigUint64(at + layout.AT_CHECK, headerDigest(view, at, shape), true);
    at += shape.size;
    count++;
  }
  return count;
}

/** What `check` must be: the digest of everything between it and the payload, XOR the record key. */
function headerDigest(view: DataView, at: number, shape: Shape): bigint {
  const start = layout.AT_CHECK + 8;
  return xxh3(view, at + start, shape.payloadOffset - start) ^ view.getBigUint64(layout.RECORD_KEY_AT, true);
}

export function isHeaderValid(view: DataView, at: number, available: number): boolean {
  if (available < layout.HEADER_SIZE) return false;
  const shape = readShape(view, at);
  if (shape === null || shape.payloadOffset > available) return false;
  return view.getBigUint64(at + layout.AT_CHECK, true) === headerDigest(view, at, shape);
}

/** How many of blocks index .. index + count match their checksums, before the first that does not. */
export function countGoodBlocks(
  view: DataView,
  headerAt: number,
  payloadAt: number,
  index: number,
  count: number,
): number {
  const blockSize = 2 ** view.getUint8(headerAt + layout.AT_BLOCK_SHIFT);
  for (let i = 0; i < count; i++) {
    const checksum = view.getBigUint64(headerAt + layout.AT_CHECKSUMS + 8 * (index + i), true);
    if (xxh3(view, payloadAt + i * blockSize, blockSize) !== checksum) return i;
  }
  return count;
}

/** Size of the valid record at `at`, or null. */
function validSize(view: DataView, at: number, available: number): number | null {
  const shape = readWholeShape(view, at, available);
  if (shape === null || !isHeaderValid(view, at, available)) return null;
  const good = countGoodBlocks(view, at, at + shape.payloadOffset, 0, shape.blocks);
  return good === shape.blocks ? shape.size : null;
}

/** Offsets from `at` of the valid records from the stretch's start, and where the first bad one is. */
export function walk(
  view: DataView,
  at: number,
  size: number,
  recordsMax: number,
): { offsets: number[]; goodBytes: number } {
  const offsets: number[] = [];
  let goodBytes = 0;
  while (offsets.length < recordsMax) {
    const recordSize = validSize(view, at + goodBytes, size - goodBytes);
    if (recordSize === null) break;
    offsets.push(goodBytes);
    goodBytes += recordSize;
  }
  return { offsets, goodBytes };
}
