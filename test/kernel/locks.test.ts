import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { bench, KERNELS } from './harness.js';

const REGIONS = 1000;

describe.each(KERNELS)('region table, %s', (name) => {
  const { memory, kernel, at } = bench(name, 65536);

  test('does what a Set of held regions does', () => {
    const range = fc.tuple(fc.nat(REGIONS), fc.oneof(fc.nat(3), fc.nat(200), fc.nat(REGIONS)));
    const step = fc.record({ what: fc.constantFrom('set', 'clear', 'query'), range });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        memory.bytes.fill(0, at, at + 256);
        const held = new Set<number>();
        for (const {
          what,
          range: [first, wanted],
        } of steps) {
          const count = Math.min(wanted, REGIONS - first);
          const regions = Array.from({ length: count }, (_, i) => first + i);
          if (what === 'set') {
            kernel.lockSet(at, first, count);
            for (const region of regions) held.add(region);
          } else if (what === 'clear') {
            kernel.lockClear(at, first, count);
            for (const region of regions) held.delete(region);
          } else {
            expect(kernel.lockQuery(at, first, count)).toBe(regions.some((region) => held.has(region)) ? 1 : 0);
          }
        }
        for (let region = 0; region < REGIONS; region++) {
          if (kernel.lockQuery(at, region, 1) !== (held.has(region) ? 1 : 0)) expect.fail(`region ${region}`);
        }
      }),
      { numRuns: 60 },
    );
  });

  test('bytes beside the table are left alone', () => {
    memory.bytes.fill(0xaa, at, at + 64);
    memory.bytes.fill(0, at + 16, at + 32);
    kernel.lockSet(at + 16, 0, 128);
    expect(memory.bytes.slice(at, at + 16)).toEqual(new Uint8Array(16).fill(0xaa));
    expect(memory.bytes.slice(at + 16, at + 32)).toEqual(new Uint8Array(16).fill(0xff));
    expect(memory.bytes.slice(at + 32, at + 48)).toEqual(new Uint8Array(16).fill(0xaa));
    kernel.lockClear(at + 16, 0, 128);
    expect(memory.bytes.slice(at + 16, at + 32)).toEqual(new Uint8Array(16));
    expect(memory.bytes.slice(at + 32, at + 48)).toEqual(new Uint8Array(16).fill(0xaa));
  });

  test('a table that does not fit the memory is refused', () => {
    const room = (memory.bytes.length - at) * 8;
    expect(() => kernel.lockSet(at, room, 1)).toThrow(RangeError);
    expect(() => kernel.lockQuery(at, 2 ** 32 - 1, 2)).toThrow(RangeError);
    expect(kernel.lockQuery(at, 0, 0)).toBe(0);
  });
});
