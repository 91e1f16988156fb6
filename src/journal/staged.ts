/**
 * Writes of a transaction that its COMMIT has not followed yet: nothing shows them.
 *
 *     staged* COMMIT        all of them show, in the turn of the COMMIT
 *     staged+ anything else none of them ever does: the COMMIT was lost in a crash
 *
 * One for each stream, told of every record of it in the stream's order: of the own one as it is appended, of the
 * peer's as it is applied, and of both in recovery. Only pointers are kept. Replay begins no later than `from`, so what
 * is pointed at stays in the journal, and a recovery that found no COMMIT may still be followed by one: the peer
 * returns it with the lost tail.
 */
import { FLAG_STAGED, TYPE_COMMIT, TYPE_WRITE } from '../../assembly/layout.js';
import type { RecordHeader } from './record.js';

export interface StagedWrite {
  readonly header: RecordHeader;
  readonly position: number;
}

const NONE: readonly StagedWrite[] = [];

export function isStaged(header: { readonly type: number; readonly flags: number }): boolean {
  return header.type === TYPE_WRITE && (header.flags & FLAG_STAGED) !== 0;
}

export class StagedRun {
  #writes: StagedWrite[] = [];

  get count(): number {
    return this.#writes.length;
  }
  /** In the stream's order. */
  get writes(): readonly StagedWrite[] {
    return this.#writes;
  }
  /** Position of the first; Infinity when there is none. */
  get from(): number {
    return this.#writes[0]?.position ?? Number.POSITIVE_INFINITY;
  }

  /** The stream's next record. @returns what it makes show */
  next(header: RecordHeader, position: number): readonly StagedWrite[] {
    if (isStaged(header)) {
      this.#writes.push({ header: header.copy(), position });
      return NONE;
    }
    const writes = this.#writes;
    if (writes.length > 0) this.#writes = [];
    return header.type === TYPE_COMMIT ? writes : NONE;
  }

  /** The stream ends with `through` again. */
  truncate(through: number): void {
    this.#writes = this.#writes.filter(({ header }) => header.sequence <= through);
  }
}
