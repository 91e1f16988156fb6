/** The Wasm twin: checks arguments, then calls into the module built from assembly/. */
import { readFileSync } from 'node:fs';
import { built } from '../paths.js';
import {
  checkDigest,
  checkFields,
  checkRegions,
  checkRun,
  checkStretch,
  checkTable,
  type KernelMemory,
} from './bounds.js';
import type { Kernel } from './kernel.js';

/** Exports of assembly/index.ts. Results are i32: those that may pass 2^31 are made unsigned here. */
interface Exports {
  xxh3(at: number, size: number, out: number): void;
  xxh64(at: number, size: number, out: number): void;
  sizeOf(type: number, blockCount: number, blockShift: number): number;
  encode(
    at: number,
    type: number,
    flags: number,
    volume: number,
    lba: number,
    blockCount: number,
    blockShift: number,
    sequence: number,
    seen: number,
    clock: number,
    scope: number,
    generation: number,
    session: number,
    site: number,
  ): number;
  seal(at: number, size: number): number;
  verify(at: number, size: number): number;
  scan(at: number, size: number, table: number, tableCount: number): number;
  checkHeader(at: number, available: number): number;
  checkBlocks(headerAt: number, payloadAt: number, index: number, count: number): number;
  /** Lock functions take the last region, inclusive: an empty range is not for them. */
  lockSet(table: number, first: number, last: number): void;
  lockClear(table: number, first: number, last: number): void;
  lockQuery(table: number, first: number, last: number): number;
}

let compiled: WebAssembly.Module | undefined;

/** The module, compiled once in a process; it may be given to worker threads, which then compile nothing. */
export function wasmModule(): WebAssembly.Module {
  compiled ??= new WebAssembly.Module(readFileSync(built('assembly/forelock.wasm')));
  return compiled;
}

export function createWasmKernel(memory: KernelMemory, module: WebAssembly.Module = wasmModule()): Kernel {
  const instance = new WebAssembly.Instance(module, { env: { memory: memory.memory } });
  return new WasmKernel(memory, instance.exports as unknown as Exports);
}

class WasmKernel implements Kernel {
  readonly name = 'wasm';
  readonly #memory: KernelMemory;
  readonly #exports: Exports;

  constructor(memory: KernelMemory, exports: Exports) {
    this.#memory = memory;
    this.#exports = exports;
  }

  xxh3(at: number, size: number, out: number): void {
    checkDigest(this.#memory, at, size, out);
    this.#exports.xxh3(at, size, out);
  }

  xxh64(at: number, size: number, out: number): void {
    checkDigest(this.#memory, at, size, out);
    this.#exports.xxh64(at, size, out);
  }

  encode(
    at: number,
    type: number,
    flags: number,
    volume: number,
    lba: number,
    blockCount: number,
    blockShift: number,
    sequence: number,
    seen: number,
    clock: number,
    scope: number,
    generation: number,
    session: number,
    site: number,
  ): number {
    checkFields(
      type,
      flags,
      volume,
      lba,
      blockCount,
      blockShift,
      sequence,
      seen,
      clock,
      scope,
      generation,
      session,
      site,
    );
    const size = this.#exports.sizeOf(type, blockCount, blockShift);
    if (size === 0) throw new RangeError(`no record of type ${type} has ${blockCount} blocks of shift ${blockShift}`);
    checkStretch(this.#memory, at, size);
    return this.#exports.encode(
      at,
      type,
      flags,
      volume,
      lba,
      blockCount,
      blockShift,
      sequence,
      seen,
      clock,
      scope,
      generation,
      session,
      site,
    );
  }

  seal(at: number, size: number): number {
    checkStretch(this.#memory, at, size);
    const count = this.#exports.seal(at, size);
    if (count < 0) throw new RangeError(`[${at}, +${size}) is not made of whole records`);
    return count;
  }

  verify(at: number, size: number): number {
    checkStretch(this.#memory, at, size);
    return this.#exports.verify(at, size) >>> 0;
  }

  scan(at: number, size: number, table: number, tableCount: number): number {
    checkTable(this.#memory, at, size, table, tableCount);
    return this.#exports.scan(at, size, table, tableCount);
  }

  checkHeader(at: number, available: number): number {
    checkStretch(this.#memory, at, available);
    return this.#exports.checkHeader(at, available);
  }

  checkBlocks(headerAt: number, payloadAt: number, index: number, count: number): number {
    checkRun(this.#memory, headerAt, payloadAt, index, count);
    return this.#exports.checkBlocks(headerAt, payloadAt, index, count);
  }

  lockSet(table: number, first: number, count: number): void {
    checkRegions(this.#memory, table, first, count);
    if (count > 0) this.#exports.lockSet(table, first, first + count - 1);
  }

  lockClear(table: number, first: number, count: number): void {
    checkRegions(this.#memory, table, first, count);
    if (count > 0) this.#exports.lockClear(table, first, first + count - 1);
  }

  lockQuery(table: number, first: number, count: number): number {
    checkRegions(this.#memory, table, first, count);
    return count > 0 ? this.#exports.lockQuery(table, first, first + count - 1) : 0;
  }
}
