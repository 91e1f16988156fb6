/**
 * What every twin refuses, alike: arguments that would leave the memory or do not fit a record's fields.
 * These are our bugs, never a peer's, so they throw RangeError before anything is touched.
 */
import {
  AT_BLOCK_COUNT,
  AT_BLOCK_SHIFT,
  AT_CHECKSUMS,
  FLAG_ABORT_ON_CONFLICT,
  FLAG_POINT,
  FLAG_READ_LOCK,
  FLAG_STAGED,
  HEADER_SIZE,
  MEMORY_BASE,
  RECORD_BLOCKS_MAX,
} from '../../assembly/layout.js';

/** The views of a group's memory that a kernel works on. GroupMemory is one; a worker makes its own (`viewsOf`). */
export interface KernelMemory {
  readonly memory: WebAssembly.Memory;
  readonly bytes: Uint8Array;
  readonly view: DataView;
}

export function viewsOf(memory: WebAssembly.Memory): KernelMemory {
  return { memory, bytes: new Uint8Array(memory.buffer), view: new DataView(memory.buffer) };
}

/** [at, at + size) lies in the memory and above the module's constants. */
export function checkStretch(memory: KernelMemory, at: number, size: number): void {
  if (!(isU32(at) && isU32(size) && at >= MEMORY_BASE && at + size <= memory.bytes.length)) {
    throw new RangeError(`[${at}, +${size}) is outside the memory`);
  }
}

/** `out` is room for a digest, outside [at, at + size). */
export function checkDigest(memory: KernelMemory, at: number, size: number, out: number): void {
  checkStretch(memory, at, size);
  checkApart(memory, at, size, out, 8);
}

/** `table` is room for tableCount offsets, outside [at, at + size). */
export function checkTable(memory: KernelMemory, at: number, size: number, table: number, tableCount: number): void {
  checkStretch(memory, at, size);
  checkApart(memory, at, size, table, 4 * tableCount);
}

function checkApart(memory: KernelMemory, at: number, size: number, out: number, outSize: number): void {
  checkStretch(memory, out, outSize);
  if (out < at + size && at < out + outSize) throw new RangeError(`[${out}, +${outSize}) overlaps the input`);
}

/** Fields of a header fit their width. Whether type, blockCount and blockShift make a record is each twin's to say. */
export function checkFields(
  type: number,
  flags: number,
  volume: number,
  lba: number,
  blockCount: number,
  blockShift: number,
  sequence: number,
  seen: number,
  clock: number,
  scope: number,
  generation: number,
  session: number,
  site: number,
): void {
  if (!(isU8(type) && isU8(blockShift) && isU32(blockCount))) {
    throw new RangeError(`no record of type ${type} has ${blockCount} blocks of shift ${blockShift}`);
  }
  if (!isU8(flags) || (flags & ~(FLAG_ABORT_ON_CONFLICT | FLAG_READ_LOCK | FLAG_POINT | FLAG_STAGED)) !== 0) {
    throw new RangeError(`unknown flags ${flags}`);
  }
  if (!(isU32(volume) && volume <= 0xffff && isU32(generation) && isU32(session) && isU8(site))) {
    throw new RangeError(`volume ${volume}, generation ${generation}, session ${session} or site ${site} does not fit`);
  }
  if (!(isCounter(lba) && isCounter(sequence) && isCounter(seen) && isCounter(clock) && isCounter(scope))) {
    throw new RangeError(
      `lba ${lba}, sequence ${sequence}, seen ${seen}, clock ${clock} or scope ${scope} is no integer below 2^53`,
    );
  }
}

/** Blocks index .. index + count are blocks of the record at headerAt, and payloadAt has their bytes. */
export function checkRun(
  memory: KernelMemory,
  headerAt: number,
  payloadAt: number,
  index: number,
  count: number,
): void {
  checkStretch(memory, headerAt, HEADER_SIZE);
  const blockCount = memory.view.getUint32(headerAt + AT_BLOCK_COUNT, true);
  const blockShift = memory.bytes[headerAt + AT_BLOCK_SHIFT]!;
  if (!(isU32(index) && isU32(count) && index + count <= blockCount && blockCount <= RECORD_BLOCKS_MAX)) {
    throw new RangeError(`blocks [${index}, +${count}) are not in a record of ${blockCount}`);
  }
  if (blockShift < 9 || blockShift > 16) throw new RangeError(`no record has blocks of shift ${blockShift}`);
  checkStretch(memory, headerAt, AT_CHECKSUMS + 8 * blockCount);
  checkStretch(memory, payloadAt, count << blockShift); // not 2 ** blockShift: this path is hot
}

/** Regions [first, first + count) have their bits in the memory; a table is made of whole 8-byte words. */
export function checkRegions(memory: KernelMemory, table: number, first: number, count: number): void {
  if (!(isU32(first) && isU32(count) && first + count <= 2 ** 32)) {
    throw new RangeError(`regions [${first}, +${count}) are not below 2^32`);
  }
  checkStretch(memory, table, (((first + count + 63) / 64) >>> 0) * 8); // rounded down without a call: this path is hot
}

function isU8(value: number): boolean {
  return (value & 0xff) === value;
}

function isU32(value: number): boolean {
  return value >>> 0 === value;
}

function isCounter(value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0;
}
