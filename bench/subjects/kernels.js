/**
 * Checksums, and the passes over whole records: the WebAssembly kernel beside its twin, other libraries, the native
 * program, and what the memory itself gives. Hot is what fits a cache; cold, a walk over 256 MiB. GB/s of what is hashed;
 * for records, of their payload.
 */
import { spawnSync } from 'node:child_process';
import { xxh3 as nodeRsXxh3, xxh64 as nodeRsXxh64 } from '@node-rs/xxhash';
import asc from 'assemblyscript/asc';
import { createXXHash3, createXXHash64 } from 'hash-wasm';
import createXxhashWasm from 'xxhash-wasm';
import { HEADER_SIZE, TYPE_WRITE } from '../../dist/assembly/layout.js';
import { createKernel } from '../../dist/src/kernel/create.js';
import { GroupMemory } from '../../dist/src/kernel/memory.js';
import { timeInTurn } from '../timing.js';

export const needs = [];

const KIB = 1024;
const MIB = 1024 * KIB;
const WALK = 256 * MIB;
/** A batch of records: fits a second-level cache. */
const BATCH = 256 * KIB;
const BLOCK = 4 * KIB;

/** The memory's own speed, in a module of the benchmark's: what no pass over the bytes can beat. */
const LIMIT_SOURCE = `
export function copy(to: usize, from: usize, size: usize): void {
  memory.copy(to, from, size);
}
export function sum(at: usize, size: usize): u64 {
  let a = i64x2.splat(0), b = a, c = a, d = a;
  for (const end = at + size; at < end; at += 64) {
    a = i64x2.add(a, v128.load(at));
    b = i64x2.add(b, v128.load(at, 16));
    c = i64x2.add(c, v128.load(at, 32));
    d = i64x2.add(d, v128.load(at, 48));
  }
  const all = i64x2.add(i64x2.add(a, b), i64x2.add(c, d));
  return i64x2.extract_lane(all, 0) + i64x2.extract_lane(all, 1);
}
`;

async function limitModule() {
  const { binary, error, stderr } = await asc.compileString(LIMIT_SOURCE, {
    ...{ optimizeLevel: 3, noAssert: true, runtime: 'stub', enable: ['simd', 'threads'] },
    ...{ importMemory: true, sharedMemory: true, initialMemory: 2, maximumMemory: 65536 },
  });
  if (error) throw new Error(stderr.toString());
  return new WebAssembly.Module(binary);
}

const sizeName = (size) => (size >= MIB ? `${size / MIB} MiB` : `${size / KIB} KiB`);

/** xxhsum's own benchmark of one second, which it prints to stderr. */
function nativeXxh3(size) {
  const { stderr } = spawnSync('xxhsum', ['-b5', `-B${size}`, '-i1'], { encoding: 'utf8' });
  const [, timesPerSecond] = [...stderr.matchAll(/-> +(\d+) it\/s/g)].at(-1);
  return (Number(timesPerSecond) * size) / 1e9;
}

/**
 * Fills memory from `at` with sealed WRITE records of `size` bytes in blocks of 4 KiB, a batch of them.
 * @returns { at, size, payload: bytes of it in all, blocks: where each stands }
 */
export function fillWithRecords(kernel, at, size, batch = BATCH) {
  const blockCount = size / BLOCK;
  const blocks = [];
  let end = at;
  for (let count = Math.max(1, Math.floor(batch / size)); count > 0; count -= 1) {
    for (let i = 0; i < blockCount; i += 1) blocks.push(end + HEADER_SIZE + 8 * blockCount + i * BLOCK);
    end += kernel.encode(end, TYPE_WRITE, 0, 0, blocks.length, blockCount, 12, 1, 0, 1, 1, 1, 1, 1);
  }
  kernel.seal(at, end - at);
  return { at, size: end - at, payload: blocks.length * BLOCK, blocks };
}

export async function* run({ rounds, all, programs }) {
  const memory = new GroupMemory(WALK + 64 * MIB);
  const out = memory.take(64).at;
  const table = memory.take(64 * KIB).at;
  const { at } = memory.take(WALK);
  for (let i = at; i < at + WALK; i += 4) memory.words[i >> 2] = Math.imul(i, 2654435761) ^ (i >>> 7);
  const kernel = createKernel('wasm', memory);
  const reference = createKernel('reference', memory);
  const { h64Raw } = await createXxhashWasm();
  const [hashWasm3, hashWasm64] = [await createXXHash3(), await createXXHash64()];
  const limitImports = { env: { memory: memory.memory, abort: () => {} } };
  const limit = new WebAssembly.Instance(await limitModule(), limitImports).exports;
  const { bytes } = memory;
  const row = (key, name, cases, size, place) => {
    const values = timeInTurn(cases, rounds, (ms, { bytes: each }) => each / ms / 1e6);
    const results = cases.map(({ who }, i) => ({
      who,
      line: who,
      x: size,
      rounds: values[i].map((value) => ({ value })),
    }));
    return { subject: 'kernels', key, name, unit: 'GB/s', results, ...place };
  };

  for (const size of all ? [4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB] : [4 * KIB]) {
    const view = bytes.subarray(at, at + size);
    const copy = Buffer.from(bytes.slice(at, at + size));
    const cases = [
      { who: 'XXH3', run: () => kernel.xxh3(at, size, out) },
      { who: 'XXH64', run: () => kernel.xxh64(at, size, out) },
      { who: 'xxhash-wasm XXH64', run: () => h64Raw(view) },
      { who: 'xxhash-wasm XXH64, private memory', run: () => h64Raw(copy) },
      { who: 'hash-wasm XXH3', run: () => hashWasm3.init().update(view).digest('binary') },
      { who: 'hash-wasm XXH64', run: () => hashWasm64.init().update(view).digest('binary') },
      { who: '@node-rs/xxhash XXH3', run: () => nodeRsXxh3.xxh64(copy) },
      { who: '@node-rs/xxhash XXH64', run: () => nodeRsXxh64(copy) },
      ...('xxhsum' in programs ? [{ who: 'native xxhsum XXH3', sample: () => nativeXxh3(size) }] : []),
      { who: 'twin in TypeScript XXH3', run: () => reference.xxh3(at, size, out) },
      { who: 'twin in TypeScript XXH64', run: () => reference.xxh64(at, size, out) },
      { who: 'limit: SIMD sum', run: () => limit.sum(at, size) },
      { who: 'limit: memory.copy', run: () => limit.copy(at + 2 * MIB, at, size) },
    ].map((each) => ({ ...each, bytes: size }));
    yield row(`hash-${size / KIB}k`, `hash ${sizeName(size)}, hot`, cases, size, {
      family: 'hashing, hot',
      axis: 'size',
    });
  }

  for (const size of all ? [4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB] : [4 * KIB]) {
    const records = fillWithRecords(kernel, at, size);
    const cut = records.blocks.map((block) => Buffer.from(bytes.slice(block, block + BLOCK)));
    const passes = (each) => ({
      seal: () => each.seal(records.at, records.size),
      verify: () => each.verify(records.at, records.size),
      scan: () => each.scan(records.at, records.size, table, BATCH / BLOCK),
    });
    const cases = [
      ...Object.entries(passes(kernel)).map(([who, run]) => ({ who, run })),
      {
        who: 'xxhash-wasm over the same blocks',
        run: () => {
          for (const block of records.blocks) h64Raw(bytes.subarray(block, block + BLOCK));
        },
      },
      {
        who: 'xxhash-wasm over private copies', // cut beforehand: the other end of what shared memory may cost it
        run: () => {
          for (const each of cut) h64Raw(each);
        },
      },
      ...Object.entries(passes(reference)).map(([who, run]) => ({ who: `twin in TypeScript, ${who}`, run })),
    ].map((each) => ({ ...each, bytes: records.payload }));
    const place = { family: 'records in blocks of 4 KiB, hot', axis: 'size' };
    yield row(`records-${size / KIB}k`, `records of ${sizeName(size)}, hot`, cases, size, place);
  }

  if (!all) return;
  for (const size of [4 * KIB, 64 * KIB, MIB]) {
    const walk = (who, pass) => ({
      who,
      bytes: WALK,
      run: () => {
        for (let p = at; p < at + WALK; p += size) pass(p);
      },
    });
    const cases = [
      walk('XXH3', (p) => kernel.xxh3(p, size, out)),
      walk('XXH64', (p) => kernel.xxh64(p, size, out)),
      walk('xxhash-wasm XXH64', (p) => h64Raw(bytes.subarray(p, p + size))),
      walk('hash-wasm XXH3', (p) =>
        hashWasm3
          .init()
          .update(bytes.subarray(p, p + size))
          .digest('binary'),
      ),
      walk('@node-rs/xxhash XXH64', (p) => nodeRsXxh64(Buffer.from(bytes.buffer, p, size))),
      walk('limit: SIMD sum', (p) => limit.sum(p, size)),
    ];
    const place = { family: 'hashing, cold', axis: 'size' };
    yield row(`cold-${size / KIB}k`, `hash ${sizeName(size)}, cold`, cases, size, place);
  }
  for (const size of [4 * KIB, 64 * KIB, MIB]) {
    const records = fillWithRecords(kernel, at, size, WALK - MIB);
    const cases = [
      { who: 'seal', run: () => kernel.seal(records.at, records.size) },
      { who: 'verify', run: () => kernel.verify(records.at, records.size) },
      {
        who: 'xxhash-wasm over the same blocks',
        run: () => {
          for (const block of records.blocks) h64Raw(bytes.subarray(block, block + BLOCK));
        },
      },
    ].map((each) => ({ ...each, bytes: records.payload }));
    const place = { family: 'records in blocks of 4 KiB, cold', axis: 'size' };
    yield row(`cold-records-${size / KIB}k`, `records of ${sizeName(size)}, cold`, cases, size, place);
  }
}
