/** Lock managers, machines and events for tests of the mirror, without a world around them. */
import { createKernel } from '../../src/kernel/create.js';
import type { KernelName } from '../../src/kernel/kernel.js';
import { GroupMemory } from '../../src/kernel/memory.js';
import type { Confirm } from '../../src/mirror/wire.js';
import { lockTableSize, RangeLocks, type RangeLocksOptions } from '../../src/volume/locks.js';

const memory = new GroupMemory(1 << 20);

/** A lock manager over a table of its own. */
export function makeLocks(
  blockCount: number,
  changes: Partial<RangeLocksOptions> = {},
  twin: KernelName = 'reference',
): RangeLocks {
  const regionShift = changes.regionShift ?? 0;
  const table = memory.take(lockTableSize(blockCount, regionShift)).at;
  return new RangeLocks({ kernel: createKernel(twin, memory), table, regionShift, blockCount, ...changes });
}

/** A confirm of the first epoch in which only what is given is not zero. */
export function makeConfirm(changes: Partial<Confirm>): Confirm {
  return {
    epoch: 1,
    attempt: 0,
    received: 0,
    granted: 0,
    applied: 0,
    durable: 0,
    creditBytes: 1000,
    rejected: 0,
    base: null,
    consistent: true,
    horizon: 0,
    returned: false,
    ...changes,
  };
}

/** Effects as a transcript: one line each, without what is always the same. */
export function lines(effects: readonly { kind: string }[]): string[] {
  return effects.map(({ kind, ...rest }) =>
    [kind, ...Object.entries(rest).map(([key, value]) => `${key}=${JSON.stringify(value)}`)].join(' '),
  );
}
