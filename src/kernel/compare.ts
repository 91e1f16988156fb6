/**
 * Compare mode: every operation by both twins, on the same bytes. What they return, refuse and write must be equal;
 * the first difference stops the process that trusts them.
 *
 * The reference goes first, what it wrote is put aside and the bytes are put back; then the tested twin's work stays.
 */
import { HEADER_SIZE, RECORD_ALIGN } from '../../assembly/layout.js';
import { AssertionError } from '../assert.js';
import { checkStretch, type KernelMemory } from './bounds.js';
import type { Kernel } from './kernel.js';

/** What a call came to: a value, or the RangeError it was refused with. */
type Outcome<T> = { readonly value: T } | { readonly refused: RangeError };

export class CompareKernel implements Kernel {
  readonly name = 'compare';
  readonly #memory: KernelMemory;
  readonly #tested: Kernel;
  readonly #reference: Kernel;

  constructor(memory: KernelMemory, tested: Kernel, reference: Kernel) {
    this.#memory = memory;
    this.#tested = tested;
    this.#reference = reference;
  }

  xxh3(at: number, size: number, out: number): void {
    this.#both('xxh3', [at, size, out], out, 8, (kernel) => kernel.xxh3(at, size, out));
  }

  xxh64(at: number, size: number, out: number): void {
    this.#both('xxh64', [at, size, out], out, 8, (kernel) => kernel.xxh64(at, size, out));
  }

  encode(...args: Parameters<Kernel['encode']>): number {
    const [at, , , , , blockCount, blockShift] = args;
    const payloadEnd = HEADER_SIZE + (blockShift === 0 ? 0 : blockCount * (8 + 2 ** blockShift));
    return this.#both('encode', args, at, Math.ceil(payloadEnd / RECORD_ALIGN) * RECORD_ALIGN, (kernel) =>
      kernel.encode(...args),
    );
  }

  seal(at: number, size: number): number {
    return this.#both('seal', [at, size], at, size, (kernel) => kernel.seal(at, size));
  }

  verify(at: number, size: number): number {
    return this.#both('verify', [at, size], at, 0, (kernel) => kernel.verify(at, size));
  }

  scan(at: number, size: number, table: number, tableCount: number): number {
    return this.#both('scan', [at, size, table, tableCount], table, 4 * tableCount, (kernel) =>
      kernel.scan(at, size, table, tableCount),
    );
  }

  checkHeader(at: number, available: number): number {
    return this.#both('checkHeader', [at, available], at, 0, (kernel) => kernel.checkHeader(at, available));
  }

  checkBlocks(headerAt: number, payloadAt: number, index: number, count: number): number {
    return this.#both('checkBlocks', [headerAt, payloadAt, index, count], headerAt, 0, (kernel) =>
      kernel.checkBlocks(headerAt, payloadAt, index, count),
    );
  }

  lockSet(table: number, first: number, count: number): void {
    this.#bothOnTable('lockSet', table, first, count, (kernel) => kernel.lockSet(table, first, count));
  }

  lockClear(table: number, first: number, count: number): void {
    this.#bothOnTable('lockClear', table, first, count, (kernel) => kernel.lockClear(table, first, count));
  }

  lockQuery(table: number, first: number, count: number): number {
    return this.#both('lockQuery', [table, first, count], table, 0, (kernel) => kernel.lockQuery(table, first, count));
  }

  /** A table is made of 8-byte words: those of the regions, whole, are what may change. */
  #bothOnTable(name: string, table: number, first: number, count: number, run: (kernel: Kernel) => void): void {
    const from = Math.floor(first / 64) * 8;
    const to = Math.ceil((first + count) / 64) * 8;
    this.#both(name, [table, first, count], table + from, to - from, run);
  }

  /** Runs both; `at` and `size` bound what the operation may write. */
  #both<T>(name: string, args: readonly number[], at: number, size: number, run: (kernel: Kernel) => T): T {
    const call = `${name}(${args.join(', ')})`;
    const bytes = this.#writable(at, size);
    const before = bytes.slice();
    const expected = outcome(() => run(this.#reference));
    const expectedBytes = bytes.slice();
    bytes.set(before);
    const actual = outcome(() => run(this.#tested));

    if ('refused' in expected || 'refused' in actual) {
      if (!('refused' in expected && 'refused' in actual)) {
        throw new AssertionError(
          `kernel twins differ in ${call}: reference ${describe(expected)}, ${this.#tested.name} ${describe(actual)}`,
        );
      }
    } else if (expected.value !== actual.value) {
      throw new AssertionError(
        `kernel twins differ in ${call}: reference ${describe(expected)}, ${this.#tested.name} ${describe(actual)}`,
      );
    }
    if (Buffer.compare(bytes, expectedBytes) !== 0) {
      const i = expectedBytes.findIndex((byte, index) => byte !== bytes[index]);
      throw new AssertionError(
        `kernel twins differ in ${call} at address ${at + i}: reference wrote ${expectedBytes[i]}, ` +
          `${this.#tested.name} ${bytes[i]}`,
      );
    }
    if ('refused' in actual) throw actual.refused;
    return actual.value;
  }

  /** The bytes an operation may write; none if the arguments are such that both twins must refuse. */
  #writable(at: number, size: number): Uint8Array {
    try {
      checkStretch(this.#memory, at, size);
    } catch {
      return new Uint8Array(0);
    }
    return this.#memory.bytes.subarray(at, at + size);
  }
}

function outcome<T>(run: () => T): Outcome<T> {
  try {
    return { value: run() };
  } catch (error) {
    if (error instanceof RangeError) return { refused: error };
    throw error;
  }
}

function describe(result: Outcome<unknown>): string {
  return 'refused' in result ? `refused it (${result.refused.message})` : `returned ${result.value}`;
}
