import { execFileSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { RECORD_ALIGN, TYPE_FLUSH, TYPE_RELOCATED } from '../../assembly/layout.js';
import { createKernel } from '../../src/kernel/create.js';
import type { Kernel } from '../../src/kernel/kernel.js';
import { GroupMemory } from '../../src/kernel/memory.js';
import { READ_RUN_OVERHEAD, type ReadRun } from '../../src/kernel/offload.js';
import { PiscinaPool } from '../../src/kernel/pool.js';
import { Warmth } from '../../src/kernel/warmth.js';
import { built } from '../../src/paths.js';
import { encode, KERNELS, noise, WRITE } from './harness.js';

const folder = mkdtempSync(join(tmpdir(), 'forelock-pool-'));
afterAll(() => rmSync(folder, { recursive: true }));

describe.each(KERNELS)('pool, %s', (name) => {
  const memory = new GroupMemory(8 << 20);
  const ring = memory.take(1 << 20).at;
  const arena = memory.take(1 << 20).at;
  const kernel: Kernel = createKernel('wasm', memory);
  const path = join(folder, `${name}.segment`);
  let pool: PiscinaPool;
  let fd: number;
  let offsets: number[] = [];
  let end = ring;

  /** Records in a file: one of 1 block, one of 8, one that was relocated, a flush, one cut by the file's end. */
  beforeAll(() => {
    pool = new PiscinaPool({ memory, kernel: name });
    noise(memory.bytes.subarray(ring, ring + (1 << 17)), 21);
    offsets = [];
    for (const fields of [
      { lba: 100 },
      { lba: 200, blockCount: 8 },
      { lba: 300, blockCount: 2, type: TYPE_RELOCATED },
      { lba: 400, blockCount: 0, blockShift: 0, type: TYPE_FLUSH },
      { lba: 500, blockCount: 2 },
    ]) {
      offsets.push(end - ring);
      end += encode(kernel, end, fields);
    }
    kernel.seal(ring, end - ring);
    writeFileSync(path, memory.bytes.subarray(ring, end - 1000));
    fd = openSync(path, 'r');
  });
  afterAll(async () => {
    await pool.close();
    closeSync(fd);
  });

  function run(record: number, index: number, count: number, change: Partial<ReadRun> = {}): ReadRun {
    const lba = [100, 200, 300, 400, 500][record]! + index;
    return {
      fd,
      offset: offsets[record]!,
      index,
      count,
      blockShift: 12,
      volume: WRITE.volume,
      lba,
      at: arena,
      ...change,
    };
  }

  function read(runs: ReadRun[]): Promise<readonly number[]> {
    return new Promise((resolve, reject) => {
      pool.read(runs, (error, payloadAt) => (error === null ? resolve(payloadAt) : reject(error)));
    });
  }

  test('seals in place', async () => {
    const copy = memory.bytes.slice(ring, end);
    for (const offset of offsets) memory.bytes.fill(0, ring + offset, ring + offset + 8);
    let isInside = true;
    await new Promise<void>((resolve, reject) => {
      pool.seal(ring, end - ring, (error) => {
        expect(isInside).toBe(false);
        return error === null ? resolve() : reject(error);
      });
      isInside = false;
    });
    expect(Buffer.compare(memory.bytes.subarray(ring, end), copy)).toBe(0);
  });

  test('a refusal in a worker arrives as an error', async () => {
    const error = await new Promise<Error | null>((resolve) => pool.seal(ring, 7, resolve));
    expect(error?.message).toContain('not made of whole records');
  });

  test('reads runs from the first block, from within, whole and in part', async () => {
    const step = READ_RUN_OVERHEAD + 8 * 4096;
    const runs = [run(0, 0, 1), run(1, 0, 8), run(1, 0, 3), run(1, 5, 3), run(1, 2, 1), run(2, 0, 2), run(2, 1, 1)];
    runs.forEach((r, i) => {
      r.at = arena + i * step;
    });
    const payloadAt = await read(runs);
    const blocks = [1, 8, 8, 8, 8, 2, 2];
    runs.forEach(({ index, count, offset, at }, i) => {
      const address = payloadAt[i]!;
      expect(address).toBeGreaterThanOrEqual(at);
      expect(address + count * 4096).toBeLessThanOrEqual(at + READ_RUN_OVERHEAD + count * 4096);
      const from = ring + offset + 72 + 8 * blocks[i]! + index * 4096;
      expect(
        Buffer.compare(
          memory.bytes.subarray(address, address + count * 4096),
          memory.bytes.subarray(from, from + count * 4096),
        ),
      ).toBe(0);
    });
  });

  test('answers the same when the file turns out to be in the page cache', async () => {
    const runs = [run(0, 0, 1), run(1, 2, 1, { at: arena + 65536 }), run(0, 0, 1, { lba: 101, at: arena + 2 * 65536 })];
    const first = await read(runs);
    expect(first[2]).toBe(-1);
    for (let i = 0; i < 100; i += 1) expect(await read(runs)).toEqual(first); // soon on this thread
  });

  test('a large batch is answered in its order, also when two threads share it', async () => {
    const step = READ_RUN_OVERHEAD + 8 * 4096;
    const runs = Array.from({ length: 9 }, (_, i) => run(1, 0, 8, { at: arena + i * step }));
    runs[1]!.lba += 1;
    runs[6]!.lba += 1;
    const here: number[] = [];
    class Warm extends Warmth {
      override isWarm = true;
      override readHere(us: number): void {
        here.push(us);
      }
    }
    const warm = new PiscinaPool({ memory, kernel: name, warmth: new Warm(() => 0) });
    const payloadAt = await new Promise<readonly number[]>((resolve, reject) => {
      warm.read(runs, (error, answer) => (error === null ? resolve(answer) : reject(error)));
    });
    await warm.close();
    expect(here).toHaveLength(4);
    for (const [i, { at }] of runs.entries()) {
      const isWrong = i === 1 || i === 6;
      expect(payloadAt[i]).toBeGreaterThanOrEqual(isWrong ? -1 : at);
      expect(payloadAt[i]).toBeLessThan(isWrong ? 0 : at + READ_RUN_OVERHEAD);
    }
  });

  test('a large batch is answered when the page cache turns out to be cold in the middle of it', async () => {
    // What came before and what came after went to the pool with one and the same answer, which counted once.
    class Cooling extends Warmth {
      override readHere(): void {
        this.isWarm = false;
      }
    }
    const warmth = new Cooling(() => 0);
    const cooling = new PiscinaPool({ memory, kernel: name, warmth });
    const step = READ_RUN_OVERHEAD + 8 * 4096;
    const runs = Array.from({ length: 9 }, (_, i) => run(1, 0, 8, { at: arena + i * step }));
    for (let round = 0; round < 3; round += 1) {
      warmth.isWarm = true;
      const payloadAt = await new Promise<readonly number[]>((resolve, reject) => {
        cooling.read(runs, (error, answer) => (error === null ? resolve(answer) : reject(error)));
      });
      expect(payloadAt).toHaveLength(9);
      for (const [i, { at }] of runs.entries()) expect(payloadAt[i]).toBeGreaterThanOrEqual(at);
    }
    await cooling.close();
  });

  // A pointer that leads to the wrong place must never give data: stale or misdirected, it looks whole.
  test('a record that is not what the pointer says is a mismatch', async () => {
    expect(
      await read([
        run(0, 0, 1, { lba: 101 }),
        run(0, 0, 1, { volume: 4 }),
        run(0, 0, 1, { offset: offsets[1]! }),
        run(0, 0, 1, { offset: RECORD_ALIGN }),
        run(0, 0, 2),
        run(1, 7, 2),
        run(1, 0, 8, { blockShift: 9 }),
        run(3, 0, 1),
        run(4, 0, 2), // cut by the end of the file
        run(4, 1, 1),
        run(0, 0, 1, { offset: 1 << 30 }),
        run(1, 3, 1, { offset: 1 << 30 }),
      ]),
    ).toEqual(new Array(12).fill(-1));
    expect((await read([run(4, 0, 1)]))[0]).toBeGreaterThan(0); // its first block is whole
  });

  test('a corrupted block is a mismatch, its neighbours are not', async () => {
    const bytes = memory.bytes.slice(ring, end);
    bytes[offsets[1]! + 72 + 64 + 3 * 4096 + 17]! ^= 4;
    const damaged = `${path}.damaged`;
    writeFileSync(damaged, bytes);
    const bad = openSync(damaged, 'r');
    const at = (i: number) => arena + i * 65536;
    const result = await read([
      run(1, 0, 8, { fd: bad }),
      run(1, 3, 1, { fd: bad }),
      run(1, 2, 1, { fd: bad, at: at(1) }),
      run(1, 4, 4, { fd: bad, at: at(2) }),
    ]);
    closeSync(bad);
    expect(result.map((address) => address > 0)).toEqual([false, false, true, true]);
    expect(result.slice(0, 2)).toEqual([-1, -1]);
  });

  test('a read that fails is told apart', async () => {
    const write = openSync(`${path}.writable`, 'w');
    expect(await read([run(0, 0, 1, { fd: write }), run(1, 3, 1, { fd: write })])).toEqual([-2, -2]);
    closeSync(write);
  });

  test('a run without room is our bug, not a bad disk', async () => {
    await expect(read([run(0, 0, 1, { at: memory.bytes.length - 4096 })])).rejects.toThrow('outside the memory');
  });

  test('loads bytes of a file, short at its end', async () => {
    const load = (offset: number, size: number) =>
      new Promise<number>((resolve, reject) => {
        pool.load(fd, offset, size, arena, (error, bytesRead) => (error === null ? resolve(bytesRead) : reject(error)));
      });
    const size = end - ring - 1000;
    expect(await load(0, size + 4096)).toBe(size);
    expect(Buffer.compare(memory.bytes.subarray(arena, arena + size), memory.bytes.subarray(ring, ring + size))).toBe(
      0,
    );
    expect(await load(size - 10, 100)).toBe(10);
    expect(await load(size + 10, 100)).toBe(0);
  });
});

test('close answers what is pending, and what comes after, with an error', async () => {
  const memory = new GroupMemory(1 << 20);
  const { at } = memory.take(65536);
  const pool = new PiscinaPool({ memory, kernel: 'wasm' });
  const answers: string[] = [];
  const done = (error: Error | null) => answers.push(error === null ? 'done' : 'error');
  for (let i = 0; i < 5; i++) pool.seal(at, 0, done);
  await pool.close();
  expect(answers).toEqual(new Array(5).fill('error'));
  pool.seal(at, 0, done);
  expect(answers.length).toBe(5);
  await new Promise((resolve) => setImmediate(resolve));
  expect(answers.length).toBe(6);
  expect(answers[5]).toBe('error');
  await pool.close();
});

test('an idle pool does not keep the process alive, a busy one does', () => {
  const url = (path: string) => JSON.stringify(`file://${built(path)}`);
  const script = `
    import { PiscinaPool } from ${url('src/kernel/pool.js')};
    import { GroupMemory } from ${url('src/kernel/memory.js')};
    const memory = new GroupMemory(1 << 20);
    const { at } = memory.take(4096);
    const pool = new PiscinaPool({ memory, kernel: 'wasm' });
    pool.seal(at, 0, (error) => console.log('answered', error));
  `;
  const output = execFileSync(process.execPath, ['--input-type=module', '-e', script], { timeout: 20_000 });
  expect(output.toString()).toBe('answered null\n');
});

test('a pool that is closed while its worker begins does not take the process with it', () => {
  // V8 ended it (IsGraphAsync of a module that is not instantiated) when a thread was ended in the middle of that.
  const url = (path: string) => JSON.stringify(`file://${built(path)}`);
  const script = `
    import { PiscinaPool } from ${url('src/kernel/pool.js')};
    import { GroupMemory } from ${url('src/kernel/memory.js')};
    const memory = new GroupMemory(1 << 20);
    for (let ms = 0; ms < 60; ms += 1) {
      const pool = new PiscinaPool({ memory, kernel: 'wasm' });
      await new Promise((resolve) => setTimeout(resolve, ms));
      await pool.close();
    }
    console.log('closed');
  `;
  const output = execFileSync(process.execPath, ['--input-type=module', '-e', script], { timeout: 60_000 });
  expect(output.toString()).toBe('closed\n');
});
