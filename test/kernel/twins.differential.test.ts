import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import * as layout from '../../assembly/layout.js';
import type { Kernel } from '../../src/kernel/kernel.js';
import { anyFields, type Bench, bench, encode, noise } from './harness.js';

const SIZE = 1 << 18;
const wasm = bench('wasm', SIZE);
const reference = bench('reference', SIZE);
const { at, out } = wasm;
const TABLE = at + SIZE - 4096;

for (const { memory } of [wasm, reference]) memory.useRecordKey('89abcdef01234567');

function room(b: Bench): Uint8Array {
  return b.memory.bytes.subarray(at, at + SIZE);
}

/** Runs the same on both twins: equal results, equal refusals, equal bytes. Gives the result, 'refused' for a RangeError. */
function both(run: (kernel: Kernel) => unknown): unknown {
  const results = [wasm, reference].map((b) => {
    try {
      return run(b.kernel);
    } catch (error) {
      if (error instanceof RangeError) return 'refused';
      throw error;
    }
  });
  expect(results[0]).toBe(results[1]);
  if (Buffer.compare(room(wasm), room(reference)) !== 0) expect.fail('the twins left different bytes');
  return results[0];
}

function reset(seed: number): void {
  noise(room(wasm).subarray(0, 65536), seed);
  room(reference).set(room(wasm));
}

function poke(address: number, value: number): void {
  for (const b of [wasm, reference]) b.memory.bytes[address] = value;
}

const stream = fc.record({ records: fc.array(anyFields, { minLength: 1, maxLength: 4 }), seed: fc.nat() });

function build({ records, seed }: { records: Parameters<typeof encode>[2][]; seed: number }): number {
  reset(seed);
  let end = at;
  for (const fields of records) end += both((kernel) => encode(kernel, end, fields)) as number;
  both((kernel) => kernel.seal(at, end - at));
  return end;
}

function readAll(size: number): void {
  both((kernel) => kernel.verify(at, size));
  both((kernel) => kernel.scan(at, size, TABLE, 1000));
  both((kernel) => kernel.checkHeader(at, size));
}

describe('twins against each other', () => {
  test('records nobody chose: sealed alike, and both say valid', () => {
    fc.assert(
      fc.property(stream, (s) => {
        const end = build(s);
        expect(both((kernel) => kernel.verify(at, end - at))).toBe(end - at);
        expect(both((kernel) => kernel.scan(at, end - at, TABLE, 1000))).toBe(s.records.length);
      }),
      { numRuns: 150 },
    );
  });

  test('corrupted bytes and cut stretches', () => {
    const damage = fc.array(fc.tuple(fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }), fc.nat(255)), {
      minLength: 1,
      maxLength: 3,
    });
    fc.assert(
      fc.property(stream, damage, fc.nat(200), (s, bytes, cut) => {
        const size = build(s) - at;
        for (const [where, value] of bytes) poke(at + Math.floor(where * size), value);
        readAll(size);
        readAll(Math.max(0, size - cut));
      }),
      { numRuns: 150 },
    );
  });

  // The check is made right again, so that only the layout rules stand between the bytes and a read out of bounds.
  test('hostile headers', () => {
    const value = fc.oneof(
      fc.integer({ min: 0, max: 2 ** 32 - 1 }),
      fc.constantFrom(0, 1, 79, 80, 81, 96, 1023, 1024, 1025, 0x7fffffff, 0x80000000, 0xfffffff0, 0xffffffff),
    );
    const header = fc.record({
      type: fc.oneof(fc.nat(255), fc.constantFrom(2, 16, 128, 129, 131)),
      flags: fc.constantFrom(0, 1, 7, 8, 128),
      blockShift: fc.oneof(fc.nat(255), fc.constantFrom(0, 8, 9, 12, 16, 17, 31, 32)),
      blockCount: value,
      size: value,
      available: fc.oneof(fc.nat(200), fc.constantFrom(SIZE - 8192)),
      agree: fc.boolean(),
    });
    fc.assert(
      fc.property(header, fc.nat(), (h, seed) => {
        reset(seed);
        for (const b of [wasm, reference]) {
          const { view } = b.memory;
          view.setUint32(at + layout.AT_SIZE, h.size, true);
          view.setUint8(at + layout.AT_TYPE, h.type);
          view.setUint8(at + layout.AT_FLAGS, h.flags);
          view.setUint8(at + layout.AT_BLOCK_SHIFT, h.blockShift);
          view.setUint32(at + layout.AT_BLOCK_COUNT, h.blockCount, true);
          view.setUint16(at + layout.AT_FORMAT, layout.RECORD_FORMAT, true);
          if (h.agree) {
            const payload = h.blockCount * 2 ** h.blockShift;
            view.setUint32(at + layout.AT_SIZE, Math.ceil((72 + 8 * h.blockCount + payload) / 16) * 16, true);
          }
          const checksums = h.blockCount <= 1024 ? h.blockCount : 0;
          b.kernel.xxh3(at + 8, 64 + 8 * checksums, out);
          b.memory.bytes.copyWithin(at, out, out + 8);
        }
        readAll(h.available);
        both((kernel) => kernel.seal(at, h.available));
      }),
      { numRuns: 1000 },
    );
  });

  test('bad arguments are refused alike', () => {
    const end = wasm.memory.bytes.length;
    const number = fc.oneof(
      fc.constantFrom(-1, 0, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 31, 2 ** 32, 2 ** 53, end, end - 1),
      fc.constantFrom(1024, 65535, at, at + 8, TABLE),
      fc.nat(end),
    );
    const args = fc.array(number, { minLength: 14, maxLength: 14 });
    const refused = { count: 0 };
    fc.assert(
      fc.property(args, (a) => {
        reset(1);
        const [p, q, r, s] = a as [number, number, number, number];
        for (const run of [
          (k: Kernel) => k.xxh3(p, Math.min(q, 65536), r),
          (k: Kernel) => k.xxh64(p, Math.min(q, 65536), r),
          (k: Kernel) => k.seal(p, q),
          (k: Kernel) => k.verify(p, q),
          (k: Kernel) => k.scan(p, q, r, s),
          (k: Kernel) => k.checkHeader(p, q),
          (k: Kernel) => k.checkBlocks(p, q, r, s),
          (k: Kernel) => k.lockSet(p, q, r),
          (k: Kernel) => k.lockClear(p, q, r),
          (k: Kernel) => k.lockQuery(p, q, Math.min(r, 100_000)),
          (k: Kernel) => k.encode(...(a as Parameters<Kernel['encode']>)),
        ]) {
          if (both(run) === 'refused') refused.count++;
        }
      }),
      { numRuns: 150 },
    );
    expect(refused.count).toBeGreaterThan(500);
  });

  test.each([
    ['flags', 16],
    ['volume', 65536],
    ['lba', 2 ** 53],
    ['lba', -1],
    ['lba', 1.5],
    ['blockCount', 2 ** 32],
    ['blockShift', 12.5],
    ['sequence', Number.NaN],
    ['seen', -1],
    ['clock', Number.POSITIVE_INFINITY],
    ['scope', 2 ** 60],
    ['generation', 2 ** 32],
    ['session', -1],
    ['site', 256],
    ['type', 258],
    ['type', 0],
  ])('encode refuses %s = %d', (field, value) => {
    reset(2);
    expect(both((kernel) => encode(kernel, at, { [field]: value }))).toBe('refused');
  });
});
