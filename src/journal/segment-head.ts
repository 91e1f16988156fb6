/**
 * What stands in the SEGMENT record at the beginning of each segment: whose journal it is, and how far both streams had
 * come before. JSON, filled up with zeroes: whoever looks at a file with a pager can read it.
 */
import { TYPE_SEGMENT } from '../../assembly/layout.js';
import { recordSize } from './record.js';

export interface SegmentHead {
  group: string;
  segment: number;
  segmentSize: number;
  own: { site: number; before: number };
  peer: { site: number; before: number };
}

/** Bytes of the payload: one block. */
export const SEGMENT_HEAD_SHIFT = 9;
export const SEGMENT_HEAD_SIZE = 2 ** SEGMENT_HEAD_SHIFT;
export const SEGMENT_RECORD_SIZE = recordSize(TYPE_SEGMENT, 1, SEGMENT_HEAD_SHIFT);

/** @param into SEGMENT_HEAD_SIZE bytes */
export function encodeSegmentHead(head: SegmentHead, into: Uint8Array): void {
  into.fill(0);
  into.set(new TextEncoder().encode(JSON.stringify(head)));
}

/** The payload of a SEGMENT record, or null if it is none. */
export function parseSegmentHead(payload: Uint8Array): SegmentHead | null {
  const end = payload.indexOf(0);
  try {
    const head = JSON.parse(new TextDecoder().decode(payload.slice(0, end < 0 ? payload.length : end)));
    const good =
      typeof head.group === 'string' &&
      [head.segment, head.segmentSize, head.own.site, head.own.before, head.peer.site, head.peer.before].every(
        Number.isSafeInteger,
      );
    return good ? head : null;
  } catch {
    return null;
  }
}
