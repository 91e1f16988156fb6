import { describe, expect, test } from 'vitest';
import { AssertionError } from '../../src/assert.js';
import { CompareKernel } from '../../src/kernel/compare.js';
import type { Kernel } from '../../src/kernel/kernel.js';
import { GroupMemory } from '../../src/kernel/memory.js';
import { ReferenceKernel } from '../../src/kernel/reference/kernel.js';
import { encode } from './harness.js';

/** A compare kernel whose tested twin is the reference with a fault planted in one operation. */
function planted(fault: (memory: GroupMemory) => Partial<Kernel>): { kernel: Kernel; at: number; memory: GroupMemory } {
  const memory = new GroupMemory(1 << 17);
  const { at } = memory.take(65536);
  const reference = new ReferenceKernel(memory);
  const faults = fault(memory);
  const tested = new Proxy(reference as Kernel, {
    get(target, key: keyof Kernel) {
      if (key === 'name') return 'planted';
      return faults[key] ?? (target[key] as (...args: number[]) => number).bind(target);
    },
  });
  return { kernel: new CompareKernel(memory, tested, reference), at, memory };
}

describe('compare mode finds a planted difference', () => {
  test('none planted: none found', () => {
    const { kernel, at } = planted(() => ({}));
    const size = encode(kernel, at);
    expect(kernel.seal(at, size)).toBe(1);
    expect(kernel.verify(at, size)).toBe(size);
  });

  test('in a byte that is written', () => {
    const { kernel, at } = planted((memory) => ({
      seal(at, size) {
        const count = new ReferenceKernel(memory).seal(at, size);
        memory.bytes[at + 73]! ^= 0x40;
        return count;
      },
    }));
    const size = encode(kernel, at);
    expect(() => kernel.seal(at, size)).toThrow(AssertionError);
    expect(() => kernel.seal(at, size)).toThrow(new RegExp(`seal\\(${at}, ${size}\\) at address ${at + 73}:`));
  });

  test('in what encode leaves behind the payload', () => {
    const { kernel, at } = planted((memory) => ({
      encode(...args) {
        const size = new ReferenceKernel(memory).encode(...args);
        memory.bytes[args[0] + size - 1] = 1;
        return size;
      },
    }));
    expect(() => encode(kernel, at, { blockCount: 2, blockShift: 9 })).toThrow(`at address ${at + 1119}`);
  });

  test('in a result', () => {
    const { kernel, at } = planted(() => ({ verify: () => 16, lockQuery: () => 1 }));
    expect(() => kernel.verify(at, 80)).toThrow('verify');
    expect(() => kernel.lockQuery(at, 3, 1)).toThrow(
      `lockQuery(${at}, 3, 1): reference returned 0, planted returned 1`,
    );
  });

  test('in what is refused', () => {
    const { kernel, at } = planted(() => ({
      seal: () => 0,
      checkHeader: () => {
        throw new RangeError('no');
      },
    }));
    expect(() => kernel.seal(at, 7)).toThrow(/reference refused it .*, planted returned 0/);
    expect(() => kernel.checkHeader(at, 80)).toThrow('planted refused it (no)');
  });

  test('and passes an equal refusal on', () => {
    const { kernel } = planted(() => ({}));
    expect(() => kernel.seal(0, 80)).toThrow(RangeError);
  });
});
