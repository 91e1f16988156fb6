import { describe, expect, test } from 'vitest';
import { copyBytes, GroupMemory } from '../../src/kernel/memory.js';

describe('copyBytes', () => {
  const KIB = 1024;

  test.each([0, 1, 512, 4 * KIB - 1, 4 * KIB, 4 * KIB + 1, 128 * KIB])('%i bytes, and none beside them', (size) => {
    const { bytes } = new GroupMemory(1 << 20);
    bytes.fill(0xee);
    const from = Uint8Array.from({ length: size + 20 }, (_, i) => i % 251).subarray(10, 10 + size); // not all of its buffer
    const at = 4096 + 7;
    copyBytes(bytes, at, from);
    expect(Buffer.from(bytes.slice(at, at + size)).equals(from)).toBe(true);
    expect([...bytes.slice(at - 8, at), ...bytes.slice(at + size, at + size + 8)]).toEqual(new Array(16).fill(0xee));
  });

  // `fill` with too few bytes repeats them, and beyond the end it stops: never silently
  test('what does not fit is an error', () => {
    const { bytes } = new GroupMemory(1 << 20);
    for (const size of [512, 4 * KIB, 64 * KIB]) {
      expect(() => copyBytes(bytes, bytes.length - size + 1, new Uint8Array(size))).toThrow(RangeError);
    }
  });
});
