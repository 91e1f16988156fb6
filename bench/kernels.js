/**
 * How fast the kernels are, beside what else could do their work, and where handing work to the pool begins to pay.
 *
 *     node bench/kernels.js [--quick]
 *
 * Cases are interleaved and the median of the rounds is given, so that a noisy machine disturbs all of them alike:
 * trust ratios within one run. Sizes are of the hashed bytes; for records, of their payload.
 */
import { existsSync, readFileSync } from 'node:fs';
import { performance } from 'node:perf_hooks';
import { fileURLToPath } from 'node:url';
import { xxh3 as nativeXxh3, xxh64 as nativeXxh64 } from '@node-rs/xxhash';
import asc from 'assemblyscript/asc';
import createXxhashWasm from 'xxhash-wasm';
import { TYPE_WRITE } from '../dist/assembly/layout.js';
import { createKernel } from '../dist/src/kernel/create.js';
import { GroupMemory } from '../dist/src/kernel/memory.js';
import { PiscinaPool } from '../dist/src/kernel/pool.js';

const KIB = 1024;
const MIB = 1024 * KIB;
const WALK = 256 * MIB;
/** Wasm starts in quick code, and V8 replaces it in the background when a function has proved busy: on a loaded machine late. */
const WARM_UP_MS = 100;

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
    optimizeLevel: 3,
    noAssert: true,
    runtime: 'stub',
    enable: ['simd', 'threads'],
    importMemory: true,
    sharedMemory: true,
    initialMemory: 2,
    maximumMemory: 65536,
  });
  if (error) throw new Error(stderr.toString());
  return new WebAssembly.Module(binary);
}

function median(values) {
  return values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
}

/**
 * Times every case in every round, in turn.
 * @param cases  { name, size, run, bytes, repeat }: `run` passes over `bytes` bytes, `repeat` times a measurement
 * @returns      rows { name, size, gbps }
 */
function measure(cases, rounds) {
  for (const { run } of cases) {
    const start = performance.now();
    do run();
    while (performance.now() - start < WARM_UP_MS);
  }
  const times = cases.map(() => []);
  for (let round = 0; round < rounds; round++) {
    cases.forEach(({ run, repeat }, i) => {
      run(); // what the case before it left in the caches is not this one's to pay for
      const start = performance.now();
      for (let n = 0; n < repeat; n++) run();
      times[i].push((performance.now() - start) / repeat);
    });
  }
  return cases.map(({ name, size, bytes }, i) => ({ name, size, gbps: bytes / median(times[i]) / 1e6 }));
}

/** Fills [at, at + size) with sealed WRITE records of one block; where they end, and how much payload they have. */
function fillWithRecords(kernel, at, size, blockShift) {
  let end = at;
  let payload = 0;
  while (end + 88 + 2 ** blockShift <= at + size) {
    end += kernel.encode(end, TYPE_WRITE, 0, 0, payload >> blockShift, 1, blockShift, 1, 0, 1, 1, 1, 1, 1);
    payload += 2 ** blockShift;
  }
  kernel.seal(at, end - at);
  return { end, payload };
}

function throughput({ memory, at, out, kernel, reference, h64Raw, limit, rounds }) {
  const { bytes } = memory;
  const hot = [];
  for (const size of [4 * KIB, 64 * KIB, MIB]) {
    const repeat = Math.ceil((2 * MIB) / size);
    const add = (name, run, times = repeat) => hot.push({ name, size, bytes: size, run, repeat: times });
    const view = bytes.subarray(at, at + size);
    const copy = Buffer.from(bytes.slice(at, at + size));
    add('xxh3', () => kernel.xxh3(at, size, out));
    add('xxh64', () => kernel.xxh64(at, size, out));
    add('reference xxh3', () => reference.xxh3(at, size, out), Math.ceil(repeat / 16));
    add('reference xxh64', () => reference.xxh64(at, size, out), Math.ceil(repeat / 16));
    add('xxhash-wasm xxh64', () => h64Raw(copy));
    add('xxhash-wasm xxh64, shared memory', () => h64Raw(view));
    add('@node-rs/xxhash xxh64', () => nativeXxh64(copy));
    add('@node-rs/xxhash xxh3', () => nativeXxh3.xxh64(copy));
    add('limit: SIMD sum', () => limit.sum(at, size));
    add('limit: memory.copy', () => limit.copy(at + 2 * MIB, at, size));
  }
  const { end, payload } = fillWithRecords(kernel, at, 256 * KIB, 12);
  const records = { size: 4 * KIB, bytes: payload, repeat: 8 };
  hot.push({ ...records, name: 'seal records', run: () => kernel.seal(at, end - at) });
  hot.push({ ...records, name: 'verify records', run: () => kernel.verify(at, end - at) });
  hot.push({ ...records, name: 'reference seal records', run: () => reference.seal(at, end - at), repeat: 1 });
  hot.push({
    ...records,
    name: 'xxhash-wasm over the same blocks',
    run: () => {
      for (let block = at + 80; block < end; block += 80 + 4096) h64Raw(bytes.subarray(block, block + 4096));
    },
  });
  // The same blocks as if they had never been in shared memory, cut beforehand: the other end of what it may cost.
  const cut = [];
  for (let block = at + 80; block < end; block += 80 + 4096) cut.push(Buffer.from(bytes.slice(block, block + 4096)));
  hot.push({
    ...records,
    name: 'xxhash-wasm over private copies',
    run: () => {
      for (const block of cut) h64Raw(block);
    },
  });
  const rows = measure(hot, rounds);

  const cold = [];
  for (const size of [4 * KIB, 64 * KIB, MIB]) {
    const add = (name, pass) => {
      const run = () => {
        for (let p = at; p < at + WALK; p += size) pass(p);
      };
      cold.push({ name, size, bytes: WALK, run, repeat: 1 });
    };
    add('xxh3, cold', (p) => kernel.xxh3(p, size, out));
    add('xxh64, cold', (p) => kernel.xxh64(p, size, out));
    add('xxhash-wasm xxh64, cold', (p) => h64Raw(bytes.subarray(p, p + size)));
    add('limit: SIMD sum, cold', (p) => limit.sum(p, size));
  }
  return [...rows, ...measure(cold, Math.max(3, Math.floor(rounds / 4)))];
}

/** Nanoseconds of a lock set and cleared, and of a query, at random places of a 1 TiB table (1 bit per 4 KiB). */
function locks({ memory, table, kernel, rounds }) {
  const regions = 2 ** 28;
  const calls = 100_000;
  const places = Uint32Array.from({ length: calls }, (_, i) => (Math.imul(i, 2654435761) >>> 4) % (regions - 8));
  const cases = [];
  for (const held of [10_000, 1_000_000]) {
    const prepare = () => {
      memory.bytes.fill(0, table, table + regions / 8);
      for (let i = 0; i < held; i++) kernel.lockSet(table, (Math.imul(i, 2246822519) >>> 4) % regions, 1);
    };
    const change = () => {
      for (const place of places) {
        kernel.lockSet(table, place, 8);
        kernel.lockClear(table, place, 8);
      }
    };
    const query = () => {
      for (const place of places) kernel.lockQuery(table, place, 8);
    };
    cases.push({ name: 'lock set + clear', held, prepare, run: change });
    cases.push({ name: 'lock query', held, prepare, run: query });
  }
  return cases.map(({ name, held, prepare, run }) => {
    prepare();
    const times = [];
    for (let round = 0; round < rounds; round++) {
      const start = performance.now();
      run();
      times.push(((performance.now() - start) * 1e6) / calls);
    }
    return { name, held, ns: median(times) };
  });
}

/** Microseconds the main thread has run: on Linux what the scheduler says, else what the event loop was active for. */
function mainThreadUs() {
  const schedstat = `/proc/self/task/${process.pid}/schedstat`;
  if (existsSync(schedstat)) return Number(readFileSync(schedstat, 'utf8').split(' ')[0]) / 1000;
  return performance.eventLoopUtilization().active * 1000;
}

/** Main-thread time of checking a batch inline, and of handing it to the pool, four batches under way. */
async function breakEven({ memory, at, kernel, rounds, quick }) {
  const pool = new PiscinaPool({ memory, kernel: 'wasm', workers: 1 });
  const rows = [];
  const batches = quick ? 100 : 400;
  for (let size = 16 * KIB; size <= 2 * MIB; size *= 2) {
    const { end } = fillWithRecords(kernel, at, size, 12);
    const inline = [];
    const handed = [];
    for (let round = 0; round <= Math.ceil(rounds / 5); round++) {
      const start = performance.now();
      for (let i = 0; i < 20; i++) kernel.verify(at, end - at);
      inline.push(((performance.now() - start) * 1000) / 20);

      const before = mainThreadUs();
      await new Promise((resolve, reject) => {
        let asked = 0;
        let answered = 0;
        const next = (error) => {
          if (error) return reject(error);
          if (++answered === batches) return resolve();
          if (asked < batches) ask();
        };
        const ask = () => {
          asked++;
          pool.verify(at, end - at, next);
        };
        for (let i = 0; i < 4; i++) ask();
      });
      handed.push((mainThreadUs() - before) / batches);
    }
    rows.push({ name: 'batch', size, inlineUs: median(inline), poolUs: median(handed) });
  }
  await pool.close();
  return rows;
}

/** @returns rows { name, size, gbps }, { name, held, ns } for locks, { name, size, inlineUs, poolUs } for the pool */
export async function run({ quick = false } = {}) {
  const memory = new GroupMemory(WALK + 64 * MIB);
  const table = memory.take(2 ** 28 / 8).at;
  const out = memory.take(64).at;
  const { at } = memory.take(WALK);
  for (let i = at; i < at + WALK; i += 4) memory.words[i >> 2] = Math.imul(i, 2654435761) ^ (i >>> 7);
  const kernel = createKernel('wasm', memory);
  const reference = createKernel('reference', memory);
  const { h64Raw } = await createXxhashWasm();
  const limit = new WebAssembly.Instance(await limitModule(), {
    env: { memory: memory.memory, abort: () => {} },
  }).exports;
  const rounds = quick ? 7 : 25;
  const rows = throughput({ memory, at, out, kernel, reference, h64Raw, limit, rounds });
  rows.push(...locks({ memory, table, kernel, rounds }));
  rows.push(...(await breakEven({ memory, at, kernel, rounds, quick })));
  return rows;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const rows = await run({ quick: process.argv.includes('--quick') });
  const sizeName = (size) => (size >= MIB ? `${size / MIB}M` : `${size / KIB}K`);
  for (const { name, size, gbps, held, ns, inlineUs, poolUs } of rows) {
    if (gbps !== undefined)
      console.log(`${name.padEnd(36)} ${sizeName(size).padStart(5)} ${gbps.toFixed(2).padStart(8)} GB/s`);
    else if (ns !== undefined)
      console.log(`${name.padEnd(28)} ${`${held} held`.padStart(13)} ${ns.toFixed(0).padStart(8)} ns`);
    else {
      const figures = `inline ${inlineUs.toFixed(1).padStart(7)} us   handed to the pool ${poolUs.toFixed(1).padStart(6)} us`;
      console.log(`${name.padEnd(36)} ${sizeName(size).padStart(5)} ${figures}`);
    }
  }
}
