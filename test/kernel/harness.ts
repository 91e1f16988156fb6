/** What the kernel tests share: a memory to work in, twins over it, and records to put there. */
import fc from 'fast-check';
import * as layout from '../../assembly/layout.js';
import { createKernel } from '../../src/kernel/create.js';
import type { Kernel, KernelName } from '../../src/kernel/kernel.js';
import { GroupMemory } from '../../src/kernel/memory.js';

export const TWINS: KernelName[] = ['wasm', 'reference'];
export const KERNELS: KernelName[] = ['wasm', 'reference', 'compare'];

export const PAYLOAD_TYPES = [layout.TYPE_WRITE, layout.TYPE_BASE, layout.TYPE_RELOCATED, layout.TYPE_SEGMENT];
export const BARE_TYPES = [
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
];

export interface Bench {
  memory: GroupMemory;
  kernel: Kernel;
  /** Room for records. */
  at: number;
  size: number;
  /** Room for a digest. */
  out: number;
}

export function bench(name: KernelName, size = 4 << 20): Bench {
  const memory = new GroupMemory(size + 4096);
  const out = memory.take(64).at;
  const { at } = memory.take(size);
  return { memory, kernel: createKernel(name, memory), at, size, out };
}

/** The pseudorandom bytes of the standard's own sanity check (cli/xsum_sanity_check.c: PRIME32, multiplied by PRIME64). */
export function sanityBuffer(size: number): Uint8Array {
  const bytes = new Uint8Array(size);
  let byteGen = 2654435761n;
  for (let i = 0; i < size; i++) {
    bytes[i] = Number(byteGen >> 56n);
    byteGen = BigInt.asUintN(64, byteGen * 11400714785074694797n);
  }
  return bytes;
}

/** Deterministic noise: a test says what failed by its seed. */
export function noise(bytes: Uint8Array, seed: number): void {
  let state = seed | 1;
  for (let i = 0; i < bytes.length; i++) {
    state = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9;
    bytes[i] = state >>> 24;
  }
}

export interface Fields {
  type: number;
  flags: number;
  volume: number;
  lba: number;
  blockCount: number;
  blockShift: number;
  sequence: number;
  seen: number;
  clock: number;
  scope: number;
  generation: number;
  session: number;
  site: number;
}

export function encode(kernel: Kernel, at: number, fields: Partial<Fields> = {}): number {
  const f = { ...WRITE, ...fields };
  return kernel.encode(
    at,
    f.type,
    f.flags,
    f.volume,
    f.lba,
    f.blockCount,
    f.blockShift,
    f.sequence,
    f.seen,
    f.clock,
    f.scope,
    f.generation,
    f.session,
    f.site,
  );
}

/** One block of 4 KiB, written. */
export const WRITE: Fields = {
  type: layout.TYPE_WRITE,
  flags: 0,
  volume: 3,
  lba: 2 ** 40 + 5,
  blockCount: 1,
  blockShift: 12,
  sequence: 77,
  seen: 2 ** 33 + 1,
  clock: 1_790_000_000_000_001,
  scope: 77,
  generation: 4,
  session: 9,
  site: 1,
};

const u32 = fc.integer({ min: 0, max: 2 ** 32 - 1 });
const counter = fc.maxSafeNat();

const shape = fc.oneof(
  fc
    .record({
      type: fc.constantFrom(...PAYLOAD_TYPES),
      blockShift: fc.integer({ min: 9, max: 13 }),
      blockCount: fc.integer({ min: 1, max: 5 }),
    })
    .map((s) => (s.type === layout.TYPE_SEGMENT ? { ...s, blockShift: 9 } : s)),
  fc.record({ type: fc.constantFrom(...BARE_TYPES), blockShift: fc.constant(0), blockCount: u32 }),
);

/** Any record that may be. */
export const anyFields: fc.Arbitrary<Fields> = fc
  .tuple(
    shape,
    fc.record({
      flags: fc.integer({ min: 0, max: 7 }),
      volume: fc.integer({ min: 0, max: 65535 }),
      lba: counter,
      sequence: counter,
      seen: counter,
      clock: counter,
      scope: counter,
      generation: u32,
      session: u32,
      site: fc.integer({ min: 0, max: 255 }),
    }),
  )
  .map(([a, b]) => ({ ...a, ...b }));
