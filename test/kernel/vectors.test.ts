import { describe, expect, test } from 'vitest';
import { bench, sanityBuffer, TWINS } from './harness.js';

/** XSUM_XXH3_testdata of cli/xsum_sanity_check.c (Cyan4973/xxHash), those of seed 0: size, XXH3-64. */
const XXH3_VECTORS: [number, bigint][] = [
  [0, 0x2d06800538d394c2n],
  [1, 0xc44bdff4074eecdbn],
  [6, 0x27b56a84cd2d7325n],
  [12, 0xa713daf0dfbb77e7n],
  [24, 0xa3fe70bf9d3510ebn],
  [48, 0x397da259ecba1f11n],
  [80, 0xbcdefbbb2c47c90an],
  [195, 0xcd94217ee362ec3an],
  [403, 0xcdeb804d65c6dea4n], // one block, last stripe overlaps
  [512, 0x617e49599013cb6bn], // one block, ends at a stripe
  [2048, 0xdd59e2c3a5f038e0n], // two blocks, ends at a block
  [2240, 0x6e73a90539cf2948n], // three blocks, ends at a stripe
  [2367, 0xcb37aeb9e5d361edn], // three blocks, last stripe overlaps
];

/** XSUM_XXH64_testdata of the same file, those of seed 0. */
const XXH64_VECTORS: [number, bigint][] = [
  [0, 0xef46db3751d8e999n],
  [1, 0xe934a84adb052768n],
  [4, 0x9136a0dca57457een],
  [14, 0x8282dcc4994e35c8n],
  [222, 0xb641ae8cb691c174n],
];

describe.each(TWINS)("the standard's vectors, %s", (name) => {
  const { memory, kernel, at, out } = bench(name, 65536);
  memory.bytes.set(sanityBuffer(2400), at);

  test.each(XXH3_VECTORS)('XXH3-64 of %d bytes', (size, digest) => {
    kernel.xxh3(at, size, out);
    expect(memory.view.getBigUint64(out, true)).toBe(digest);
  });

  test.each(XXH64_VECTORS)('XXH64 of %d bytes', (size, digest) => {
    kernel.xxh64(at, size, out);
    expect(memory.view.getBigUint64(out, true)).toBe(digest);
  });
});
