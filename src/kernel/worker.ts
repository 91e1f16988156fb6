/**
 * A worker of the pool: kernel calls and blocking reads over the group's shared memory. Each export is one kind of task.
 *
 * An idle worker blocks its event loop (Piscina's synchronous hand-off), so nothing in here may be asynchronous. File
 * descriptors belong to the process, so a number is all a worker needs to read another thread's file.
 */
import { readSync } from 'node:fs';
import { workerData } from 'piscina';
import {
  AT_BLOCK_COUNT,
  AT_BLOCK_SHIFT,
  AT_LBA,
  AT_TYPE,
  AT_VOLUME,
  HEADER_SIZE,
  RECORD_BLOCKS_MAX,
  TYPE_BASE,
  TYPE_RELOCATED,
  TYPE_WRITE,
} from '../../assembly/layout.js';
import { checkStretch, viewsOf } from './bounds.js';
import { createKernel } from './create.js';
import { READ_RUN_OVERHEAD } from './offload.js';
import { READ_FAILED, READ_MISMATCH, RUN_FIELDS, type WorkerData } from './tasks.js';

const data = workerData as WorkerData;
const memory = viewsOf(data.memory);
const kernel = createKernel(data.kernel, memory, data.module);
const HEADER_MAX = HEADER_SIZE + 8 * RECORD_BLOCKS_MAX;

export function seal([at, size]: readonly [number, number]): number {
  return kernel.seal(at, size);
}

export function verify([at, size]: readonly [number, number]): number {
  return kernel.verify(at, size);
}

export function load([fd, offset, size, at]: readonly [number, number, number, number]): number {
  checkStretch(memory, at, size);
  return readFully(fd, offset, size, at);
}

/** `runs` has RUN_FIELDS numbers for each run, in the order of tasks.ts; the answer one for each. */
export function read(runs: Float64Array): number[] {
  const payloadAt: number[] = [];
  for (let i = 0; i < runs.length; i += RUN_FIELDS) payloadAt.push(readRun(runs.subarray(i, i + RUN_FIELDS)));
  return payloadAt;
}

function readRun(run: Float64Array): number {
  const [fd, offset, index, count, blockShift, volume, lba, at] = run as unknown as number[];
  const payloadSize = count! * 2 ** blockShift!;
  checkStretch(memory, at!, READ_RUN_OVERHEAD + payloadSize);
  try {
    // A run from the first block on is most often the whole record: then header and blocks come in one read.
    if (index === 0) {
      const headSize = HEADER_SIZE + 8 * count!;
      const available = readFully(fd!, offset!, headSize + payloadSize, at!);
      if (available < headSize) return READ_MISMATCH;
      if (memory.view.getUint32(at! + AT_BLOCK_COUNT, true) === count) {
        if (available < headSize + payloadSize) return READ_MISMATCH;
        return isWanted(at!, headSize) ? checked(at! + headSize) : READ_MISMATCH;
      }
    }
    const available = readFully(fd!, offset!, HEADER_MAX, at!);
    if (!isWanted(at!, available)) return READ_MISMATCH;
    const blockCount = memory.view.getUint32(at! + AT_BLOCK_COUNT, true);
    const payloadOffset = offset! + HEADER_SIZE + 8 * blockCount + index! * 2 ** blockShift!;
    const payloadAt = at! + READ_RUN_OVERHEAD;
    if (readFully(fd!, payloadOffset, payloadSize, payloadAt) < payloadSize) return READ_MISMATCH;
    return checked(payloadAt);
  } catch (error) {
    if (error instanceof Error && 'syscall' in error) return READ_FAILED;
    throw error;
  }

  /** The header is valid, and is about what the pointer says: not another record that happens to be whole. */
  function isWanted(headerAt: number, available: number): boolean {
    if (kernel.checkHeader(headerAt, available) === 0) return false;
    const { view } = memory;
    const type = view.getUint8(headerAt + AT_TYPE);
    return (
      (type === TYPE_WRITE || type === TYPE_BASE || type === TYPE_RELOCATED) &&
      view.getUint16(headerAt + AT_VOLUME, true) === volume &&
      view.getUint32(headerAt + AT_LBA, true) + view.getUint32(headerAt + AT_LBA + 4, true) * 2 ** 32 + index! ===
        lba &&
      view.getUint8(headerAt + AT_BLOCK_SHIFT) === blockShift &&
      index! + count! <= view.getUint32(headerAt + AT_BLOCK_COUNT, true)
    );
  }

  function checked(payloadAt: number): number {
    return kernel.checkBlocks(at!, payloadAt, index!, count!) === count ? payloadAt : READ_MISMATCH;
  }
}

/** Reads until `size` bytes are there or the file ends; how many. */
function readFully(fd: number, offset: number, size: number, at: number): number {
  let bytesRead = 0;
  while (bytesRead < size) {
    const n = readSync(fd, memory.bytes, at + bytesRead, size - bytesRead, offset + bytesRead);
    if (n === 0) break;
    bytesRead += n;
  }
  return bytesRead;
}
