/** The reference twin: plain TypeScript, to be read; slow, and right about what the other one should do. */
import * as layout from '../../../assembly/layout.js';
import {
  checkDigest,
  checkFields,
  checkRegions,
  checkRun,
  checkStretch,
  checkTable,
  type KernelMemory,
} from '../bounds.js';
import type { Kernel } from '../kernel.js';
import { countGoodBlocks, isHeaderValid, seal, shapeOf, walk } from './record.js';
import { xxh3 } from './xxh3.js';
import { xxh64 } from './xxh64.js';

export class ReferenceKernel implements Kernel {
  readonly name = 'reference';
  readonly #memory: KernelMemory;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;

  constructor(memory: KernelMemory) {
    this.#memory = memory;
    this.#bytes = memory.bytes;
    this.#view = memory.view;
  }

  xxh3(at: number, size: number, out: number): void {
    checkDigest(this.#memory, at, size, out);
    this.#view.setBigUint64(out, xxh3(this.#view, at, size), true);
  }

  xxh64(at: number, size: number, out: number): void {
    checkDigest(this.#memory, at, size, out);
    this.#view.setBigUint64(out, xxh64(this.#view, at, size), true);
  }

  encode(
    at: number,
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
  ): number {
    checkFields(
      type,
      flags,
      volume,
      lba,
      blockCount,
      blockShift,
      sequence,
      seen,
      clock,
      scope,
      generation,
      session,
      site,
    );
    const shape = shapeOf(type, blockCount, blockShift);
    if (shape === null) {
      throw new RangeError(`no record of type ${type} has ${blockCount} blocks of shift ${blockShift}`);
    }
    checkStretch(this.#memory, at, shape.size);

    const payloadEnd = shape.payloadOffset + shape.blocks * shape.blockSize;
    this.#bytes.fill(0, at, at + shape.payloadOffset);
    this.#bytes.fill(0, at + payloadEnd, at + shape.size);

    const view = this.#view;
    view.setUint32(at + layout.AT_SIZE, shape.size, true);
    view.setUint8(at + layout.AT_TYPE, type);
    view.setUint8(at + layout.AT_FLAGS, flags);
    view.setUint16(at + layout.AT_VOLUME, volume, true);
    view.setBigUint64(at + layout.AT_SEQUENCE, BigInt(sequence), true);
    view.setBigUint64(at + layout.AT_SEEN, BigInt(seen), true);
    view.setBigUint64(at + layout.AT_CLOCK, BigInt(clock), true);
    view.setBigUint64(at + layout.AT_LBA, BigInt(lba), true);
    view.setBigUint64(at + layout.AT_SCOPE, BigInt(scope), true);
    view.setUint32(at + layout.AT_GENERATION, generation, true);
    view.setUint32(at + layout.AT_SESSION, session, true);
    view.setUint32(at + layout.AT_BLOCK_COUNT, blockCount, true);
    view.setUint8(at + layout.AT_SITE, site);
    view.setUint8(at + layout.AT_BLOCK_SHIFT, blockShift);
    view.setUint16(at + layout.AT_FORMAT, layout.RECORD_FORMAT, true);
    return shape.size;
  }

  seal(at: number, size: number): number {
    checkStretch(this.#memory, at, size);
    const count = seal(this.#view, at, size);
    if (count === null) throw new RangeError(`[${at}, +${size}) is not made of whole records`);
    return count;
  }

  verify(at: number, size: number): number {
    checkStretch(this.#memory, at, size);
    return walk(this.#view, at, size, Number.POSITIVE_INFINITY).goodBytes;
  }

  scan(at: number, size: number, table: number, tableCount: number): number {
    checkTable(this.#memory, at, size, table, tableCount);
    const { offsets } = walk(this.#view, at, size, tableCount);
    offsets.forEach((offset, i) => {
      this.#view.setUint32(table + 4 * i, offset, true);
    });
    return offsets.length;
  }

  checkHeader(at: number, available: number): number {
    checkStretch(this.#memory, at, available);
    return isHeaderValid(this.#view, at, available) ? 1 : 0;
  }

  checkBlocks(headerAt: number, payloadAt: number, index: number, count: number): number {
    checkRun(this.#memory, headerAt, payloadAt, index, count);
    return countGoodBlocks(this.#view, headerAt, payloadAt, index, count);
  }

  lockSet(table: number, first: number, count: number): void {
    checkRegions(this.#memory, table, first, count);
    this.#fillRegions(table, first, count, 1);
  }

  lockClear(table: number, first: number, count: number): void {
    checkRegions(this.#memory, table, first, count);
    this.#fillRegions(table, first, count, 0);
  }

  lockQuery(table: number, first: number, count: number): number {
    checkRegions(this.#memory, table, first, count);
    for (let region = first; region < first + count; region++) {
      if (this.#isHeld(table, region)) return 1;
    }
    return 0;
  }

  /** Region r is bit r mod 8 of byte r / 8. Bit by bit at the ends, whole bytes between. */
  #fillRegions(table: number, first: number, count: number, bit: 0 | 1): void {
    const end = first + count;
    let region = first;
    for (; region < end && region % 8 !== 0; region++) this.#put(table, region, bit);
    const wholeBytes = Math.floor((end - region) / 8);
    const byte = table + region / 8;
    if (wholeBytes > 0) this.#bytes.fill(bit === 1 ? 0xff : 0, byte, byte + wholeBytes);
    for (region += wholeBytes * 8; region < end; region++) this.#put(table, region, bit);
  }

  #isHeld(table: number, region: number): boolean {
    return (this.#bytes[table + Math.floor(region / 8)]! & (1 << (region % 8))) !== 0;
  }

  #put(table: number, region: number, bit: 0 | 1): void {
    const byte = table + Math.floor(region / 8);
    const mask = 1 << (region % 8);
    this.#bytes[byte] = bit === 1 ? this.#bytes[byte]! | mask : this.#bytes[byte]! & ~mask;
  }
}
