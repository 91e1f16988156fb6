/**
 * XXH64, seed 0, to be read beside its source: xxHash fast digest algorithm (Cyan4973/xxHash, doc/xxhash_spec.md),
 * section "XXH64 Algorithm Description". Steps are numbered as there.
 */
import { avalancheXxh64, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME64_5, rotateLeft, u64 } from './words.js';

/** The digest of bytes [at, at + size) of `view`. */
export function xxh64(view: DataView, at: number, size: number): bigint {
  const end = at + size;
  let acc: bigint;

  if (size < 32) {
    // Step 1, special case: input is less than 32 bytes
    acc = PRIME64_5;
  } else {
    // Step 1. Initialize internal accumulators
    let acc1 = u64(PRIME64_1 + PRIME64_2);
    let acc2 = PRIME64_2;
    let acc3 = 0n;
    let acc4 = u64(-PRIME64_1);

    // Step 2. Process stripes of 32 bytes, four lanes each
    for (; end - at >= 32; at += 32) {
      acc1 = round(acc1, view.getBigUint64(at, true));
      acc2 = round(acc2, view.getBigUint64(at + 8, true));
      acc3 = round(acc3, view.getBigUint64(at + 16, true));
      acc4 = round(acc4, view.getBigUint64(at + 24, true));
    }

    // Step 3. Accumulator convergence
    acc = u64(rotateLeft(acc1, 1n) + rotateLeft(acc2, 7n) + rotateLeft(acc3, 12n) + rotateLeft(acc4, 18n));
    acc = mergeAccumulator(acc, acc1);
    acc = mergeAccumulator(acc, acc2);
    acc = mergeAccumulator(acc, acc3);
    acc = mergeAccumulator(acc, acc4);
  }

  // Step 4. Add input length
  acc = u64(acc + BigInt(size));

  // Step 5. Consume remaining input
  for (; end - at >= 8; at += 8) {
    acc = acc ^ round(0n, view.getBigUint64(at, true));
    acc = u64(rotateLeft(acc, 27n) * PRIME64_1);
    acc = u64(acc + PRIME64_4);
  }
  if (end - at >= 4) {
    acc = acc ^ u64(BigInt(view.getUint32(at, true)) * PRIME64_1);
    acc = u64(rotateLeft(acc, 23n) * PRIME64_2);
    acc = u64(acc + PRIME64_3);
    at += 4;
  }
  for (; end - at >= 1; at += 1) {
    acc = acc ^ u64(BigInt(view.getUint8(at)) * PRIME64_5);
    acc = u64(rotateLeft(acc, 11n) * PRIME64_1);
  }

  // Step 6. Final mix (avalanche)
  return avalancheXxh64(acc);
}

function round(accN: bigint, laneN: bigint): bigint {
  accN = u64(accN + u64(laneN * PRIME64_2));
  accN = rotateLeft(accN, 31n);
  return u64(accN * PRIME64_1);
}

function mergeAccumulator(acc: bigint, accN: bigint): bigint {
  acc = acc ^ round(0n, accN);
  acc = u64(acc * PRIME64_1);
  return u64(acc + PRIME64_4);
}
