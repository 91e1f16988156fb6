/**
 * XXH3-64, seed 0, default secret.
 *
 * Source: xxHash fast digest algorithm, doc/xxhash_spec.md of Cyan4973/xxHash, "XXH3 Algorithm". The plain-TypeScript
 * twin (src/kernel/reference/xxh3.ts) follows that text step by step; this file says only where it departs from it:
 *
 * - Large inputs: the eight 64-bit accumulators are four v128 locals. Two vectors make one step: their low and high
 *   32-bit halves are gathered by two shuffles, and two extended multiplications give all four products.
 * - `acc[i xor 1] += stripe[i]` is a sum, so within a block the stripes are summed unswapped in four more locals and
 *   swapped once at the block's end: a shuffle less for each vector.
 * - The last block and the last stripe are runs of the same loop as the full blocks.
 */
import { PRIME32_1, PRIME32_2, PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME64_5 } from './primes';

const PRIME_MX1: u64 = 0x165667919e3779f9;
const PRIME_MX2: u64 = 0x9fb21c651e98df25;

/** The default secret, 192 bytes: a constant of the module, written again (the same) by every instantiation. */
const SECRET: usize = memory.data<u8>([
  0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
  0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
  0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
  0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
  0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
  0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
  0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
  0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
  0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
  0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
  0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
  0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
], 64);

/** The digest of [at, at + size). */
export function xxh3(at: usize, size: u32): u64 {
  if (size > 240) return large(at, size);
  if (size > 128) return upTo240(at, size);
  if (size > 16) return upTo128(at, size);
  if (size > 8) return upTo16(at, size);
  if (size >= 4) return upTo8(at, size);
  if (size > 0) return upTo3(at, size);
  return avalancheXxh64(load<u64>(SECRET, 56) ^ load<u64>(SECRET, 64));
}

function upTo3(at: usize, size: u32): u64 {
  const first = <u32>load<u8>(at);
  const middle = <u32>load<u8>(at + (size >> 1));
  const last = <u32>load<u8>(at + size - 1);
  const combined = last | (size << 8) | (first << 16) | (middle << 24);
  return avalancheXxh64((<u64>(load<u32>(SECRET) ^ load<u32>(SECRET, 4))) ^ (<u64>combined));
}

function upTo8(at: usize, size: u32): u64 {
  const combined = <u64>load<u32>(at + size - 4) | ((<u64>load<u32>(at)) << 32);
  let value = load<u64>(SECRET, 8) ^ load<u64>(SECRET, 16) ^ combined;
  value ^= rotl<u64>(value, 49) ^ rotl<u64>(value, 24);
  value *= PRIME_MX2;
  value ^= (value >> 35) + <u64>size;
  value *= PRIME_MX2;
  return value ^ (value >> 28);
}

function upTo16(at: usize, size: u32): u64 {
  const low = load<u64>(SECRET, 24) ^ load<u64>(SECRET, 32) ^ load<u64>(at);
  const high = load<u64>(SECRET, 40) ^ load<u64>(SECRET, 48) ^ load<u64>(at + size - 8);
  return avalanche(<u64>size + bswap<u64>(low) + high + mulFold(low, high));
}

function upTo128(at: usize, size: u32): u64 {
  let acc = <u64>size * PRIME64_1;
  const end = at + size;
  if (size > 32) {
    if (size > 64) {
      if (size > 96) acc += mix(at + 48, SECRET + 96) + mix(end - 64, SECRET + 112);
      acc += mix(at + 32, SECRET + 64) + mix(end - 48, SECRET + 80);
    }
    acc += mix(at + 16, SECRET + 32) + mix(end - 32, SECRET + 48);
  }
  acc += mix(at, SECRET) + mix(end - 16, SECRET + 16);
  return avalanche(acc);
}

function upTo240(at: usize, size: u32): u64 {
  let acc = <u64>size * PRIME64_1;
  const chunks = size >> 4;
  for (let i: u32 = 0; i < 8; i++) acc += mix(at + i * 16, SECRET + i * 16);
  acc = avalanche(acc);
  for (let i: u32 = 8; i < chunks; i++) acc += mix(at + i * 16, SECRET + (i - 8) * 16 + 3);
  return avalanche(acc + mix(at + size - 16, SECRET + 119));
}

function large(at: usize, size: u32): u64 {
  let a0 = i64x2(PRIME32_3, PRIME64_1);
  let a1 = i64x2(PRIME64_2, PRIME64_3);
  let a2 = i64x2(PRIME64_4, PRIME32_2);
  let a3 = i64x2(PRIME64_5, PRIME32_1);

  // Runs of stripes: each full block (16 stripes, then the scramble), the last block's, the last stripe alone.
  const blocks = (size - 1) >> 10;
  const lastRun = blocks + 1;
  let stripe = at;
  for (let run: u32 = 0; run <= lastRun; run++) {
    let stripes: u32 = 16;
    let secret: usize = SECRET;
    if (run == blocks) {
      stripes = ((size - 1) & 1023) >> 6;
    } else if (run == lastRun) {
      stripes = 1;
      secret = SECRET + 121;
      stripe = at + size - 64;
    }

    let s0 = i64x2.splat(0);
    let s1 = s0;
    let s2 = s0;
    let s3 = s0;
    for (; stripes != 0; stripes--) {
      const d0 = v128.load(stripe);
      const d1 = v128.load(stripe, 16);
      const d2 = v128.load(stripe, 32);
      const d3 = v128.load(stripe, 48);
      s0 = i64x2.add(s0, d0);
      s1 = i64x2.add(s1, d1);
      s2 = i64x2.add(s2, d2);
      s3 = i64x2.add(s3, d3);
      const k0 = v128.xor(d0, v128.load(secret));
      const k1 = v128.xor(d1, v128.load(secret, 16));
      const k2 = v128.xor(d2, v128.load(secret, 32));
      const k3 = v128.xor(d3, v128.load(secret, 48));
      const low01 = v128.shuffle<u32>(k0, k1, 0, 2, 4, 6);
      const high01 = v128.shuffle<u32>(k0, k1, 1, 3, 5, 7);
      const low23 = v128.shuffle<u32>(k2, k3, 0, 2, 4, 6);
      const high23 = v128.shuffle<u32>(k2, k3, 1, 3, 5, 7);
      a0 = i64x2.add(a0, i64x2.extmul_low_i32x4_u(low01, high01));
      a1 = i64x2.add(a1, i64x2.extmul_high_i32x4_u(low01, high01));
      a2 = i64x2.add(a2, i64x2.extmul_low_i32x4_u(low23, high23));
      a3 = i64x2.add(a3, i64x2.extmul_high_i32x4_u(low23, high23));
      stripe += 64;
      secret += 8;
    }
    a0 = i64x2.add(a0, v128.shuffle<u64>(s0, s0, 1, 0));
    a1 = i64x2.add(a1, v128.shuffle<u64>(s1, s1, 1, 0));
    a2 = i64x2.add(a2, v128.shuffle<u64>(s2, s2, 1, 0));
    a3 = i64x2.add(a3, v128.shuffle<u64>(s3, s3, 1, 0));

    if (run < blocks) {
      a0 = scramble(a0, v128.load(SECRET, 128));
      a1 = scramble(a1, v128.load(SECRET, 144));
      a2 = scramble(a2, v128.load(SECRET, 160));
      a3 = scramble(a3, v128.load(SECRET, 176));
    }
  }

  let result = <u64>size * PRIME64_1;
  result += merge(a0, SECRET + 11) + merge(a1, SECRET + 27);
  result += merge(a2, SECRET + 43) + merge(a3, SECRET + 59);
  return avalanche(result);
}

// @ts-ignore: decorator
@inline
function scramble(acc: v128, secret: v128): v128 {
  const value = v128.xor(v128.xor(acc, i64x2.shr_u(acc, 47)), secret);
  return i64x2.mul(value, i64x2.splat(PRIME32_1));
}

// @ts-ignore: decorator
@inline
function merge(acc: v128, secret: usize): u64 {
  const value = v128.xor(acc, v128.load(secret));
  return mulFold(i64x2.extract_lane(value, 0), i64x2.extract_lane(value, 1));
}

// @ts-ignore: decorator
@inline
function mix(at: usize, secret: usize): u64 {
  return mulFold(load<u64>(at) ^ load<u64>(secret), load<u64>(at, 8) ^ load<u64>(secret, 8));
}

/** The 128-bit product of two 64-bit numbers, its halves xored: Wasm has no such multiplication, so by 32-bit halves. */
// @ts-ignore: decorator
@inline
function mulFold(x: u64, y: u64): u64 {
  const xLow = x & 0xffffffff;
  const xHigh = x >> 32;
  const yLow = y & 0xffffffff;
  const yHigh = y >> 32;
  const cross = xHigh * yLow;
  const middle = xLow * yHigh + ((xLow * yLow) >> 32) + (cross & 0xffffffff);
  const upper = xHigh * yHigh + (cross >> 32) + (middle >> 32);
  return upper ^ (x * y);
}

// @ts-ignore: decorator
@inline
function avalanche(x: u64): u64 {
  x ^= x >> 37;
  x *= PRIME_MX1;
  return x ^ (x >> 32);
}

function avalancheXxh64(x: u64): u64 {
  x ^= x >> 33;
  x *= PRIME64_2;
  x ^= x >> 29;
  x *= PRIME64_3;
  return x ^ (x >> 32);
}
