/**
 * One recorded trace of operations, clock and stamps included, replayed under each kernel: the journals are equal to
 * the byte. And under the Wasm kernel the write path reaches no TypeScript kernel at all.
 */
import { describe, expect, test, vi } from 'vitest';
import { createKernel } from '../../src/kernel/create.js';
import type { Kernel, KernelName } from '../../src/kernel/kernel.js';
import { ReferenceKernel } from '../../src/kernel/reference/kernel.js';
import { type JournalRig, makeJournal } from '../journal/journal-rig.js';
import { type MemoryStore, seededRandom } from './memory-store.js';

type Step =
  | { kind: 'write'; lba: number; count: number; fill: number }
  | { kind: 'flush' }
  | { kind: 'run'; steps: number };

function record(seed: number): Step[] {
  const random = seededRandom(seed);
  return Array.from({ length: 260 }, (_, index): Step => {
    const draw = random();
    if (draw < 0.1) return { kind: 'flush' };
    if (draw < 0.4) return { kind: 'run', steps: Math.floor(random() * 20) };
    const count = 1 + Math.floor(random() ** 2 * 120);
    return { kind: 'write', lba: Math.floor(random() * (4096 - count)), count, fill: 1 + (index % 255) };
  });
}

function replay(steps: readonly Step[], kernel: KernelName): JournalRig {
  const rig = makeJournal({ seed: 5, kernel: (memory) => createKernel(kernel, memory) });
  for (const step of steps) {
    if (step.kind === 'write') rig.write(step.lba, step.count, step.fill);
    else if (step.kind === 'flush') rig.flush();
    else for (let i = 0; i < step.steps; i += 1) rig.scheduler.step();
  }
  rig.journal.sync();
  rig.settle();
  return rig;
}

function files(store: MemoryStore): Map<string, Uint8Array> {
  return new Map(store.list().map((name) => [name, store.load(name)!]));
}

describe('a recorded trace', () => {
  test.each([1, 2])('gives the same journal under wasm, reference and compare (seed %i)', (seed) => {
    const steps = record(seed);
    const wasm = files(replay(steps, 'wasm').store);
    expect(wasm.size).toBeGreaterThan(2);
    for (const kernel of ['reference', 'compare'] as const) {
      const other = files(replay(steps, kernel).store);
      expect([...other.keys()]).toEqual([...wasm.keys()]);
      for (const [name, bytes] of wasm) {
        expect(Buffer.compare(bytes, other.get(name)!), `${name} under ${kernel}`).toBe(0);
      }
    }
  });

  test('gives another journal for another trace', () => {
    const [one, two] = [1, 2].map((seed) => files(replay(record(seed), 'wasm').store));
    expect(Buffer.compare(one!.get('segment-0000000000.log')!, two!.get('segment-0000000000.log')!)).not.toBe(0);
  });
});

test('under the Wasm kernel a write, its recovery and its reading reach no TypeScript kernel', () => {
  const names = Object.getOwnPropertyNames(ReferenceKernel.prototype).filter((name) => name !== 'constructor');
  const reached: string[] = [];
  const spies = names.map((name) =>
    vi.spyOn(ReferenceKernel.prototype, name as Exclude<keyof Kernel, 'name'>).mockImplementation((() => {
      reached.push(name);
      throw new Error(`the reference kernel's ${name} was reached`);
    }) as never),
  );
  try {
    const rig = replay(record(3), 'wasm');
    rig.read(0, 64);
    rig.store.kill();
    makeJournal({ store: rig.store, scheduler: rig.scheduler }).read(0, 64);
    expect(reached).toEqual([]);
    expect(names).toContain('seal');
    // and the trap works
    expect(() => replay(record(3), 'reference')).toThrow(/was reached/);
  } finally {
    for (const spy of spies) spy.mockRestore();
  }
});
