/**
 * XXH3-64, seed 0, to be read beside its source: xxHash fast digest algorithm (Cyan4973/xxHash, doc/xxhash_spec.md),
 * "XXH3 Algorithm Overview" and the three descriptions after it. Names, cases and steps are the specification's; terms
 * that a seed of 0 makes vanish are left out.
 */
import {
  avalancheXxh64,
  PRIME_MX1,
  PRIME_MX2,
  PRIME32_1,
  PRIME32_2,
  PRIME32_3,
  PRIME64_1,
  PRIME64_2,
  PRIME64_3,
  PRIME64_4,
  PRIME64_5,
  rotateLeft,
  u64,
} from './words.js';

/** `defaultSecret`, "Seed and Secret". */
const DEFAULT_SECRET = Buffer.from(
  'b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f' +
    'cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c' +
    '3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8' +
    'a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364' +
    'eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e' +
    '2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e',
  'hex',
);
const SECRET = new DataView(DEFAULT_SECRET.buffer, DEFAULT_SECRET.byteOffset, 192);

/** The secret's 64-bit word at a byte offset, which need not be a multiple of 8. */
function secretWord(offset: number): bigint {
  return SECRET.getBigUint64(offset, true);
}

/** The digest of bytes [at, at + size) of `view`. */
export function xxh3(view: DataView, at: number, size: number): bigint {
  if (size === 0) return xxh3Empty();
  if (size <= 3) return xxh3From1To3(view, at, size);
  if (size <= 8) return xxh3From4To8(view, at, size);
  if (size <= 16) return xxh3From9To16(view, at, size);
  if (size <= 128) return xxh3From17To128(view, at, size);
  if (size <= 240) return xxh3From129To240(view, at, size);
  return xxh3Large(view, at, size);
}

/** "Final Mixing Step (avalanche)" */
function avalanche(x: bigint): bigint {
  x = x ^ (x >> 37n);
  x = u64(x * PRIME_MX1);
  return x ^ (x >> 32n);
}

/** lowerHalf xor higherHalf of `(u128)x * (u128)y` */
function foldedProduct(x: bigint, y: bigint): bigint {
  const product = x * y;
  return u64(product) ^ (product >> 64n);
}

/** "Empty input" */
function xxh3Empty(): bigint {
  return avalancheXxh64(secretWord(56) ^ secretWord(64));
}

/** "1-3 bytes of input" */
function xxh3From1To3(view: DataView, at: number, size: number): bigint {
  const combined =
    view.getUint8(at + size - 1) |
    (size << 8) |
    (view.getUint8(at) << 16) |
    (view.getUint8(at + Math.floor(size / 2)) << 24);
  const value = SECRET.getUint32(0, true) ^ SECRET.getUint32(4, true) ^ combined;
  return avalancheXxh64(BigInt(value >>> 0));
}

/** "4-8 bytes of input" */
function xxh3From4To8(view: DataView, at: number, size: number): bigint {
  const inputFirst = BigInt(view.getUint32(at, true));
  const inputLast = BigInt(view.getUint32(at + size - 4, true));
  const combined = inputLast | (inputFirst << 32n);
  let value = secretWord(8) ^ secretWord(16) ^ combined;
  value = value ^ rotateLeft(value, 49n) ^ rotateLeft(value, 24n);
  value = u64(value * PRIME_MX2);
  value = value ^ ((value >> 35n) + BigInt(size));
  value = u64(value * PRIME_MX2);
  return value ^ (value >> 28n);
}

/** "9-16 bytes of input" */
function xxh3From9To16(view: DataView, at: number, size: number): bigint {
  const inputFirst = view.getBigUint64(at, true);
  const inputLast = view.getBigUint64(at + size - 8, true);
  const low = secretWord(24) ^ secretWord(32) ^ inputFirst;
  const high = secretWord(40) ^ secretWord(48) ^ inputLast;
  return avalanche(u64(BigInt(size) + byteSwap(low) + high + foldedProduct(low, high)));
}

/** `bswap64(x)` */
function byteSwap(x: bigint): bigint {
  const scratch = new DataView(new ArrayBuffer(8));
  scratch.setBigUint64(0, x, true);
  return scratch.getBigUint64(0, false);
}

/** "Mixing operation" of medium inputs: 16 bytes of data with 16 of the secret. */
function mixStep(view: DataView, at: number, secretOffset: number): bigint {
  return foldedProduct(
    view.getBigUint64(at, true) ^ secretWord(secretOffset),
    view.getBigUint64(at + 8, true) ^ secretWord(secretOffset + 8),
  );
}

/** "17-128 bytes of input": chunks from both ends, paired, the innermost pair first */
function xxh3From17To128(view: DataView, at: number, size: number): bigint {
  let acc = u64(BigInt(size) * PRIME64_1);
  const numRounds = Math.floor((size - 1) / 32) + 1;
  for (let i = numRounds - 1; i >= 0; i--) {
    acc = u64(acc + mixStep(view, at + i * 16, i * 32));
    acc = u64(acc + mixStep(view, at + size - i * 16 - 16, i * 32 + 16));
  }
  return avalanche(acc);
}

/** "129-240 bytes of input": eight chunks, an avalanche, the other whole chunks, the last 16 bytes */
function xxh3From129To240(view: DataView, at: number, size: number): bigint {
  let acc = u64(BigInt(size) * PRIME64_1);
  const numChunks = Math.floor(size / 16);
  for (let i = 0; i < 8; i++) acc = u64(acc + mixStep(view, at + i * 16, i * 16));
  acc = avalanche(acc);
  for (let i = 8; i < numChunks; i++) acc = u64(acc + mixStep(view, at + i * 16, (i - 8) * 16 + 3));
  acc = u64(acc + mixStep(view, at + size - 16, 119));
  return avalanche(acc);
}

const SECRET_SIZE = 192;
const STRIPE_SIZE = 64;
const STRIPES_PER_BLOCK = (SECRET_SIZE - STRIPE_SIZE) / 8; // 16
const BLOCK_SIZE = STRIPE_SIZE * STRIPES_PER_BLOCK; // 1024

/**
 * "XXH3 Algorithm Description (for large inputs)"
 *
 * This is where the time goes, and BigInt arithmetic allocates. Here a 64-bit word is two numbers, its halves: `acc` has
 * the low half of accumulator i at 2 * i and the high half at 2 * i + 1. An element of a Uint32Array wraps modulo 2^32.
 */
function xxh3Large(view: DataView, at: number, size: number): bigint {
  const end = at + size;

  // Step 1. Initialize internal accumulators
  const initial = [PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1];
  const acc = Uint32Array.from(initial.flatMap((word) => [Number(word & 0xffffffffn), Number(word >> 32n)]));

  // Step 2. Process blocks, until at most one whole block is left
  for (; end - at > BLOCK_SIZE; at += BLOCK_SIZE) {
    for (let n = 0; n < STRIPES_PER_BLOCK; n++) accumulate(acc, view, at + n * STRIPE_SIZE, n * 8);
    scramble(acc);
  }

  // Step 3. Process the last block and the last 64 bytes, which may overlap
  const fullStripes = Math.floor((end - at - 1) / STRIPE_SIZE);
  for (let n = 0; n < fullStripes; n++) accumulate(acc, view, at + n * STRIPE_SIZE, n * 8);
  accumulate(acc, view, end - STRIPE_SIZE, SECRET_SIZE - 71);

  // Step 4. Finalization
  return finalMerge(acc, u64(BigInt(size) * PRIME64_1), 11);
}

/** Step 2-1, one stripe: eight lanes against 64 bytes of the secret */
function accumulate(acc: Uint32Array, view: DataView, stripe: number, secretOffset: number): void {
  for (let i = 0; i < 8; i++) {
    const low = view.getUint32(stripe + i * 8, true);
    const high = view.getUint32(stripe + i * 8 + 4, true);
    const valueLow = (low ^ SECRET.getUint32(secretOffset + i * 8, true)) >>> 0;
    const valueHigh = (high ^ SECRET.getUint32(secretOffset + i * 8 + 4, true)) >>> 0;
    add(acc, i ^ 1, low, high);
    add(acc, i, Math.imul(valueLow, valueHigh) >>> 0, productHigh(valueLow, valueHigh));
  }
}

/** Step 2-2, with the last 64 bytes of the secret */
function scramble(acc: Uint32Array): void {
  const prime = Number(PRIME32_1);
  for (let i = 0; i < 8; i++) {
    const secretOffset = SECRET_SIZE - STRIPE_SIZE + i * 8;
    const high = (acc[2 * i + 1]! ^ SECRET.getUint32(secretOffset + 4, true)) >>> 0;
    // acc xor (acc >> 47): of the high half, all but the lowest 15 bits end up in the low half
    const low = (acc[2 * i]! ^ (acc[2 * i + 1]! >>> 15) ^ SECRET.getUint32(secretOffset, true)) >>> 0;
    acc[2 * i] = Math.imul(low, prime);
    acc[2 * i + 1] = Math.imul(high, prime) + productHigh(low, prime);
  }
}

/** `acc[i] = acc[i] + word` */
function add(acc: Uint32Array, i: number, low: number, high: number): void {
  const lowSum = acc[2 * i]! + low;
  acc[2 * i] = lowSum;
  acc[2 * i + 1] = acc[2 * i + 1]! + high + (lowSum > 0xffffffff ? 1 : 0);
}

/** The high half of x * y, two 32-bit numbers; y by its 16-bit halves, so that every step is exact in a double. */
function productHigh(x: number, y: number): number {
  const lower = x * (y & 0xffff);
  const upper = x * (y >>> 16);
  return Math.floor((upper + Math.floor(lower / 0x10000)) / 0x10000);
}

/** `finalMerge(initValue, secretOffset)` */
function finalMerge(acc: Uint32Array, initValue: bigint, secretOffset: number): bigint {
  const word = (i: number) => BigInt(acc[2 * i]!) | (BigInt(acc[2 * i + 1]!) << 32n);
  let result = initValue;
  for (let i = 0; i < 4; i++) {
    result += foldedProduct(
      word(i * 2) ^ secretWord(secretOffset + i * 16),
      word(i * 2 + 1) ^ secretWord(secretOffset + i * 16 + 8),
    );
  }
  return avalanche(u64(result));
}
