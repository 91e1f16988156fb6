import { xxh3 as nativeXxh3 } from '@node-rs/xxhash';
import { describe, expect, test } from 'vitest';
import createXxhashWasm from 'xxhash-wasm';
import { bench, noise, TWINS } from './harness.js';

describe.each(TWINS)('%s agrees with other implementations', (name) => {
  const { memory, kernel, at, out } = bench(name);
  noise(memory.bytes.subarray(at, at + 65536), 5);
  // Lengths and alignments nobody chose, every class of length, and large ones around a block's end.
  const cases: [number, number][] = [];
  for (let size = 0; size <= 1100; size++) cases.push([size, size % 17]);
  for (let size = 1101; size <= 5000; size += 13) cases.push([size, size % 64]);
  cases.push([65536, 0], [65535, 1], [1 << 20, 0], [(1 << 20) + 1, 3], [(1 << 20) - 1, 5]);

  test('XXH3-64 with @node-rs/xxhash', () => {
    for (const [size, shift] of cases) {
      kernel.xxh3(at + shift, size, out);
      const expected = nativeXxh3.xxh64(memory.bytes.slice(at + shift, at + shift + size));
      expect(memory.view.getBigUint64(out, true), `${size} bytes`).toBe(expected);
    }
  });

  test('XXH64 with xxhash-wasm', async () => {
    const { h64Raw } = await createXxhashWasm();
    for (const [size, shift] of cases) {
      kernel.xxh64(at + shift, size, out);
      const expected = h64Raw(memory.bytes.slice(at + shift, at + shift + size));
      expect(memory.view.getBigUint64(out, true), `${size} bytes`).toBe(expected);
    }
  });
});
