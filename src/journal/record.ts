/** Reads a record's header fields (assembly/layout.ts) from any memory. Plain reads for cold paths and tools; hot paths read the one field they need. */
import {
  AT_BLOCK_COUNT,
  AT_BLOCK_SHIFT,
  AT_CLOCK,
  AT_FLAGS,
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
  HEADER_SIZE,
  RECORD_ALIGN,
  TYPE_BASE,
  TYPE_RELOCATED,
  TYPE_SEGMENT,
  TYPE_WRITE,
} from '../../assembly/layout.js';

/** A u64 field as a number; fields are below 2^53 by construction, a larger one in a hostile header loses precision and fails its range check. */
export function u64(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * 4294967296;
}

export function hasPayload(type: number): boolean {
  return type === TYPE_WRITE || type === TYPE_BASE || type === TYPE_RELOCATED || type === TYPE_SEGMENT;
}

/** Whole size in bytes of a record of this shape (PAD excepted: its size is free). */
export function recordSize(type: number, blockCount: number, blockShift: number): number {
  const bare = hasPayload(type) ? HEADER_SIZE + 8 * blockCount + blockCount * (1 << blockShift) : HEADER_SIZE;
  return Math.ceil(bare / RECORD_ALIGN) * RECORD_ALIGN;
}

/** One record's header, reused: `read` fills it. */
export class RecordHeader {
  size = 0;
  type = 0;
  flags = 0;
  volume = 0;
  sequence = 0;
  seen = 0;
  clock = 0;
  lba = 0;
  scope = 0;
  generation = 0;
  session = 0;
  blockCount = 0;
  site = 0;
  blockShift = 0;

  read(view: DataView, at: number): this {
    this.size = view.getUint32(at + AT_SIZE, true);
    this.type = view.getUint8(at + AT_TYPE);
    this.flags = view.getUint8(at + AT_FLAGS);
    this.volume = view.getUint16(at + AT_VOLUME, true);
    this.sequence = u64(view, at + AT_SEQUENCE);
    this.seen = u64(view, at + AT_SEEN);
    this.clock = u64(view, at + AT_CLOCK);
    this.lba = u64(view, at + AT_LBA);
    this.scope = u64(view, at + AT_SCOPE);
    this.generation = view.getUint32(at + AT_GENERATION, true);
    this.session = view.getUint32(at + AT_SESSION, true);
    this.blockCount = view.getUint32(at + AT_BLOCK_COUNT, true);
    this.site = view.getUint8(at + AT_SITE);
    this.blockShift = view.getUint8(at + AT_BLOCK_SHIFT);
    return this;
  }

  copy(): RecordHeader {
    return Object.assign(new RecordHeader(), this);
  }

  /** Byte offset of the payload within the record. */
  get payloadAt(): number {
    return HEADER_SIZE + 8 * this.blockCount;
  }
}
