/** Reads one run of blocks of one record from a segment file, blocking, and checks it. Any thread with a kernel may. */
import { readSync } from 'node:fs';
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
import { checkStretch, type KernelMemory } from './bounds.js';
import type { Kernel } from './kernel.js';
import { READ_RUN_OVERHEAD, type ReadRun } from './offload.js';

/** Instead of an address: the disk gave something else than what the pointer and the checksums promise. */
export const READ_MISMATCH = -1;
/** Instead of an address: the read itself failed. */
export const READ_FAILED = -2;

const HEADER_MAX = HEADER_SIZE + 8 * RECORD_BLOCKS_MAX;

export class RunReader {
  readonly #memory: KernelMemory;
  readonly #kernel: Kernel;

  constructor(memory: KernelMemory, kernel: Kernel) {
    this.#memory = memory;
    this.#kernel = kernel;
  }

  /** @returns address of the run's first block, READ_MISMATCH or READ_FAILED */
  read(run: ReadRun): number {
    const { fd, offset, index, count, blockShift, at } = run;
    const { view } = this.#memory;
    const payloadSize = count << blockShift;
    checkStretch(this.#memory, at, READ_RUN_OVERHEAD + payloadSize);
    try {
      // A run from the first block on is most often the whole record: then header and blocks come in one read.
      if (index === 0) {
        const headSize = HEADER_SIZE + 8 * count;
        const available = this.readFully(fd, offset, headSize + payloadSize, at);
        if (available < headSize) return READ_MISMATCH;
        if (view.getUint32(at + AT_BLOCK_COUNT, true) === count) {
          if (available < headSize + payloadSize) return READ_MISMATCH;
          return this.#isWanted(run, headSize) ? this.#checked(run, at + headSize) : READ_MISMATCH;
        }
      }
      const available = this.readFully(fd, offset, HEADER_MAX, at);
      if (!this.#isWanted(run, available)) return READ_MISMATCH;
      const blockCount = view.getUint32(at + AT_BLOCK_COUNT, true);
      const payloadOffset = offset + HEADER_SIZE + 8 * blockCount + (index << blockShift);
      const payloadAt = at + READ_RUN_OVERHEAD;
      if (this.readFully(fd, payloadOffset, payloadSize, payloadAt) < payloadSize) return READ_MISMATCH;
      return this.#checked(run, payloadAt);
    } catch (error) {
      if (error instanceof Error && 'syscall' in error) return READ_FAILED;
      throw error;
    }
  }

  /** Reads until `size` bytes are there or the file ends; how many. */
  readFully(fd: number, offset: number, size: number, at: number): number {
    let bytesRead = 0;
    while (bytesRead < size) {
      const n = readSync(fd, this.#memory.bytes, at + bytesRead, size - bytesRead, offset + bytesRead);
      if (n === 0) break;
      bytesRead += n;
    }
    return bytesRead;
  }

  /** The header is valid, and is about what the pointer says: not another record that happens to be whole. */
  #isWanted({ at, index, count, blockShift, volume, lba }: ReadRun, available: number): boolean {
    if (this.#kernel.checkHeader(at, available) === 0) return false;
    const { view } = this.#memory;
    const type = view.getUint8(at + AT_TYPE);
    return (
      (type === TYPE_WRITE || type === TYPE_BASE || type === TYPE_RELOCATED) &&
      view.getUint16(at + AT_VOLUME, true) === volume &&
      view.getUint32(at + AT_LBA, true) + view.getUint32(at + AT_LBA + 4, true) * 0x1_0000_0000 + index === lba &&
      view.getUint8(at + AT_BLOCK_SHIFT) === blockShift &&
      index + count <= view.getUint32(at + AT_BLOCK_COUNT, true)
    );
  }

  #checked({ at, index, count }: ReadRun, payloadAt: number): number {
    return this.#kernel.checkBlocks(at, payloadAt, index, count) === count ? payloadAt : READ_MISMATCH;
  }
}
