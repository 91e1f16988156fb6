/**
 * XXH3-64, seed 0, default secret.
 *
 * Source: xxHash fast digest algorithm, doc/xxhash_spec.md of Cyan4973/xxHash, "XXH3 Algorithm". The plain-TypeScript
 * twin (src/kernel/reference/xxh3.ts) follows that text step by step; this file says only where it departs from it:
 *
 * - Large inputs: of the eight 64-bit accumulators, lanes 0 to 5 are three v128 locals, lanes 6 and 7 plain integers.
 *   Wasm's extended multiplication costs V8 two more shuffles, so the vector units are what is short: two lanes on the
 *   integer units are done meanwhile.
 * - Two vectors make one step: their low and high 32-bit halves are gathered by two shuffles, and two extended
 *   multiplications give all four products. The third vector of a stripe waits for the next stripe's.
 * - `acc[i xor 1] += stripe[i]` is a sum, so within a block the vectors of the stripes are summed unswapped in locals of
 *   their own and swapped once at the block's end: a shuffle less for each vector.
 * - Four stripes a turn, with a way out after each. The last block needs the ways out, and so do the registers: V8 puts a
 *   sum where it is next needed, and without them that is behind all four stripes' loads, with everything spilled.
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

/** The outermost 16 bytes of both ends, then the next ones inwards, until they meet. */
function upTo128(at: usize, size: u32): u64 {
  let acc = <u64>size * PRIME64_1;
  let front = at;
  let back = at + size;
  let secret: usize = SECRET;
  do {
    back -= 16;
    acc += mix(front, secret) + mix(back, secret + 16);
    front += 16;
    secret += 32;
  } while (front < back);
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

/** The digest of more than 240 bytes: what blocks are. */
export function large(at: usize, size: u32): u64 {
  let a0 = i64x2(PRIME32_3, PRIME64_1); // lanes 0 and 1
  let a1 = i64x2(PRIME64_2, PRIME64_3);
  let a2 = i64x2(PRIME64_4, PRIME32_2);
  let a6 = PRIME64_5;
  let a7 = PRIME32_1;
  let s0: v128, s1: v128, s2: v128; // sums of the block's stripes
  let d0: v128, d1: v128, d2: v128, d6: u64, d7: u64; // a stripe
  let k0: v128, k1: v128, k2: v128; // its vectors xored with the secret
  let next2: v128; // the same of the next stripe: k2's partner

  let stripe = at;
  const lastBlock = at + ((size - 1) & ~1023);
  for (let block = at; ; block += 1024) {
    const isLast = block == lastBlock;
    const end = isLast ? block + ((size - 1) & 960) : block + 1024;
    let secret: usize = SECRET;
    stripe = block;
    s0 = i64x2.splat(0);
    s1 = s0;
    s2 = s0;
    while (stripe != end) {
      d0 = v128.load(stripe);
      k0 = v128.xor(d0, v128.load(secret));
      s0 = i64x2.add(s0, d0);
      d1 = v128.load(stripe, 16);
      k1 = v128.xor(d1, v128.load(secret, 16));
      s1 = i64x2.add(s1, d1);
      a0 = i64x2.add(a0, lowProducts(k0, k1));
      a1 = i64x2.add(a1, highProducts(k0, k1));
      d2 = v128.load(stripe, 32);
      k2 = v128.xor(d2, v128.load(secret, 32));
      s2 = i64x2.add(s2, d2);
      d6 = load<u64>(stripe, 48);
      a6 += product(d6 ^ load<u64>(secret, 48));
      a7 += d6;
      d7 = load<u64>(stripe, 56);
      a7 += product(d7 ^ load<u64>(secret, 56));
      a6 += d7;
      if (stripe + 64 == end) {
        a2 = i64x2.add(a2, products(k2));
        break;
      }

      d0 = v128.load(stripe, 64);
      k0 = v128.xor(d0, v128.load(secret, 8));
      s0 = i64x2.add(s0, d0);
      d1 = v128.load(stripe, 80);
      k1 = v128.xor(d1, v128.load(secret, 24));
      s1 = i64x2.add(s1, d1);
      a0 = i64x2.add(a0, lowProducts(k0, k1));
      a1 = i64x2.add(a1, highProducts(k0, k1));
      d2 = v128.load(stripe, 96);
      next2 = v128.xor(d2, v128.load(secret, 40));
      s2 = i64x2.add(s2, d2);
      a2 = i64x2.add(a2, lowProducts(k2, next2));
      a2 = i64x2.add(a2, highProducts(k2, next2));
      d6 = load<u64>(stripe, 112);
      a6 += product(d6 ^ load<u64>(secret, 56));
      a7 += d6;
      d7 = load<u64>(stripe, 120);
      a7 += product(d7 ^ load<u64>(secret, 64));
      a6 += d7;
      if (stripe + 128 == end) break;

      d0 = v128.load(stripe, 128);
      k0 = v128.xor(d0, v128.load(secret, 16));
      s0 = i64x2.add(s0, d0);
      d1 = v128.load(stripe, 144);
      k1 = v128.xor(d1, v128.load(secret, 32));
      s1 = i64x2.add(s1, d1);
      a0 = i64x2.add(a0, lowProducts(k0, k1));
      a1 = i64x2.add(a1, highProducts(k0, k1));
      d2 = v128.load(stripe, 160);
      k2 = v128.xor(d2, v128.load(secret, 48));
      s2 = i64x2.add(s2, d2);
      d6 = load<u64>(stripe, 176);
      a6 += product(d6 ^ load<u64>(secret, 64));
      a7 += d6;
      d7 = load<u64>(stripe, 184);
      a7 += product(d7 ^ load<u64>(secret, 72));
      a6 += d7;
      if (stripe + 192 == end) {
        a2 = i64x2.add(a2, products(k2));
        break;
      }

      d0 = v128.load(stripe, 192);
      k0 = v128.xor(d0, v128.load(secret, 24));
      s0 = i64x2.add(s0, d0);
      d1 = v128.load(stripe, 208);
      k1 = v128.xor(d1, v128.load(secret, 40));
      s1 = i64x2.add(s1, d1);
      a0 = i64x2.add(a0, lowProducts(k0, k1));
      a1 = i64x2.add(a1, highProducts(k0, k1));
      d2 = v128.load(stripe, 224);
      next2 = v128.xor(d2, v128.load(secret, 56));
      s2 = i64x2.add(s2, d2);
      a2 = i64x2.add(a2, lowProducts(k2, next2));
      a2 = i64x2.add(a2, highProducts(k2, next2));
      d6 = load<u64>(stripe, 240);
      a6 += product(d6 ^ load<u64>(secret, 72));
      a7 += d6;
      d7 = load<u64>(stripe, 248);
      a7 += product(d7 ^ load<u64>(secret, 80));
      a6 += d7;

      stripe += 256;
      secret += 32;
    }
    a0 = i64x2.add(a0, v128.shuffle<u64>(s0, s0, 1, 0));
    a1 = i64x2.add(a1, v128.shuffle<u64>(s1, s1, 1, 0));
    a2 = i64x2.add(a2, v128.shuffle<u64>(s2, s2, 1, 0));
    if (isLast) break;

    a0 = scramble(a0, v128.load(SECRET, 128));
    a1 = scramble(a1, v128.load(SECRET, 144));
    a2 = scramble(a2, v128.load(SECRET, 160));
    a6 = (a6 ^ (a6 >> 47) ^ load<u64>(SECRET, 176)) * PRIME32_1;
    a7 = (a7 ^ (a7 >> 47) ^ load<u64>(SECRET, 184)) * PRIME32_1;
  }

  stripe = at + size - 64;
  s0 = i64x2.splat(0);
  s1 = s0;
  s2 = s0;
  d0 = v128.load(stripe);
  k0 = v128.xor(d0, v128.load(SECRET, 121));
  s0 = i64x2.add(s0, d0);
  d1 = v128.load(stripe, 16);
  k1 = v128.xor(d1, v128.load(SECRET, 137));
  s1 = i64x2.add(s1, d1);
  a0 = i64x2.add(a0, lowProducts(k0, k1));
  a1 = i64x2.add(a1, highProducts(k0, k1));
  d2 = v128.load(stripe, 32);
  k2 = v128.xor(d2, v128.load(SECRET, 153));
  s2 = i64x2.add(s2, d2);
  a2 = i64x2.add(a2, products(k2));
  d6 = load<u64>(stripe, 48);
  a6 += product(d6 ^ load<u64>(SECRET, 169));
  a7 += d6;
  d7 = load<u64>(stripe, 56);
  a7 += product(d7 ^ load<u64>(SECRET, 177));
  a6 += d7;
  a0 = i64x2.add(a0, v128.shuffle<u64>(s0, s0, 1, 0));
  a1 = i64x2.add(a1, v128.shuffle<u64>(s1, s1, 1, 0));
  a2 = i64x2.add(a2, v128.shuffle<u64>(s2, s2, 1, 0));

  let result = <u64>size * PRIME64_1;
  result += merge(a0, SECRET + 11) + merge(a1, SECRET + 27) + merge(a2, SECRET + 43);
  result += mulFold(a6 ^ load<u64>(SECRET, 59), a7 ^ load<u64>(SECRET, 67));
  return avalanche(result);
}

/** The low half of each of x's lanes times its high half. `y` is there so that highProducts needs no shuffles of its own. */
// @ts-ignore: decorator
@inline
function lowProducts(x: v128, y: v128): v128 {
  return i64x2.extmul_low_i32x4_u(v128.shuffle<u32>(x, y, 0, 2, 4, 6), v128.shuffle<u32>(x, y, 1, 3, 5, 7));
}

/** The same of y's lanes, from the shuffles of lowProducts(x, y). */
// @ts-ignore: decorator
@inline
function highProducts(x: v128, y: v128): v128 {
  return i64x2.extmul_high_i32x4_u(v128.shuffle<u32>(x, y, 0, 2, 4, 6), v128.shuffle<u32>(x, y, 1, 3, 5, 7));
}

/** The same of x's lanes, for a vector without a partner. */
// @ts-ignore: decorator
@inline
function products(x: v128): v128 {
  return i64x2.extmul_low_i32x4_u(v128.shuffle<u32>(x, x, 0, 2, 0, 2), v128.shuffle<u32>(x, x, 1, 3, 1, 3));
}

// @ts-ignore: decorator
@inline
function product(x: u64): u64 {
  return (x & 0xffffffff) * (x >> 32);
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
  const cross = xHigh * yLow + ((xLow * yLow) >> 32);
  const middle = xLow * yHigh + (cross & 0xffffffff);
  return (xHigh * yHigh + (cross >> 32) + (middle >> 32)) ^ (x * y);
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
