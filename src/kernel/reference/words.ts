/** 64-bit words as xxhash_spec.md writes them, "Operation notations": everything modulo 2^64, little-endian reads. */

/** The constants of "XXH64 Algorithm Description" and "XXH3 Algorithm Overview". */
export const PRIME32_1 = 0x9e3779b1n;
export const PRIME32_2 = 0x85ebca77n;
export const PRIME32_3 = 0xc2b2ae3dn;
export const PRIME64_1 = 0x9e3779b185ebca87n;
export const PRIME64_2 = 0xc2b2ae3d27d4eb4fn;
export const PRIME64_3 = 0x165667b19e3779f9n;
export const PRIME64_4 = 0x85ebca77c2b2ae63n;
export const PRIME64_5 = 0x27d4eb2f165667c5n;
export const PRIME_MX1 = 0x165667919e3779f9n;
export const PRIME_MX2 = 0x9fb21c651e98df25n;

/** Reduces modulo 2^64. */
export function u64(x: bigint): bigint {
  return BigInt.asUintN(64, x);
}

/** `X <<< s` */
export function rotateLeft(x: bigint, s: bigint): bigint {
  return u64(x << s) | (x >> (64n - s));
}

/** `avalanche_XXH64(x)`, which is also step 6 of XXH64. */
export function avalancheXxh64(x: bigint): bigint {
  x = x ^ (x >> 33n);
  x = u64(x * PRIME64_2);
  x = x ^ (x >> 29n);
  x = u64(x * PRIME64_3);
  return x ^ (x >> 32n);
}
