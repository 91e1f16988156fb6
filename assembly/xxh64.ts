/**
 * XXH64, seed 0.
 *
 * Source: xxHash fast digest algorithm, doc/xxhash_spec.md of Cyan4973/xxHash, "XXH64 Algorithm Description".
 */
import { PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME64_5 } from './primes';

/** The digest of [at, at + size). */
export function xxh64(at: usize, size: u32): u64 {
  let acc = PRIME64_5;
  let rest = size;
  if (rest >= 32) {
    let acc1 = PRIME64_1 + PRIME64_2;
    let acc2 = PRIME64_2;
    let acc3: u64 = 0;
    let acc4: u64 = 0 - PRIME64_1;
    do {
      acc1 = round(acc1, load<u64>(at));
      acc2 = round(acc2, load<u64>(at, 8));
      acc3 = round(acc3, load<u64>(at, 16));
      acc4 = round(acc4, load<u64>(at, 24));
      at += 32;
      rest -= 32;
    } while (rest >= 32);
    acc = rotl<u64>(acc1, 1) + rotl<u64>(acc2, 7) + rotl<u64>(acc3, 12) + rotl<u64>(acc4, 18);
    acc = converge(acc, acc1);
    acc = converge(acc, acc2);
    acc = converge(acc, acc3);
    acc = converge(acc, acc4);
  }
  acc += <u64>size;
  for (; rest >= 8; rest -= 8) {
    acc = rotl<u64>(acc ^ round(0, load<u64>(at)), 27) * PRIME64_1 + PRIME64_4;
    at += 8;
  }
  if (rest >= 4) {
    acc = rotl<u64>(acc ^ (<u64>load<u32>(at) * PRIME64_1), 23) * PRIME64_2 + PRIME64_3;
    at += 4;
    rest -= 4;
  }
  for (; rest != 0; rest--) {
    acc = rotl<u64>(acc ^ (<u64>load<u8>(at) * PRIME64_5), 11) * PRIME64_1;
    at += 1;
  }
  acc ^= acc >> 33;
  acc *= PRIME64_2;
  acc ^= acc >> 29;
  acc *= PRIME64_3;
  return acc ^ (acc >> 32);
}

// @ts-ignore: decorator
@inline
function round(acc: u64, lane: u64): u64 {
  return rotl<u64>(acc + lane * PRIME64_2, 31) * PRIME64_1;
}

// @ts-ignore: decorator
@inline
function converge(acc: u64, accN: u64): u64 {
  return (acc ^ round(0, accN)) * PRIME64_1 + PRIME64_4;
}
