import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { MEMORY_BASE } from '../../assembly/layout.js';
import { GroupMemory } from '../../src/kernel/memory.js';
import { createWasmKernel } from '../../src/kernel/wasm.js';
import { built } from '../../src/paths.js';
import { encode } from './harness.js';

/**
 * Every thread instantiates the module over one memory. State in it (a heap pointer, a static array, a mutable global)
 * would be per instance, and one thread would write over another's records: this reads the binary to see there is none.
 */

interface Section {
  id: number;
  at: number;
  end: number;
}

class Reader {
  constructor(
    readonly bytes: Uint8Array,
    public at = 0,
  ) {}
  byte(): number {
    return this.bytes[this.at++]!;
  }
  /** LEB128, unsigned or signed. */
  leb(isSigned = false): number {
    let result = 0;
    let shift = 0;
    for (;;) {
      const byte = this.byte();
      result += (byte & 0x7f) * 2 ** shift;
      shift += 7;
      if (byte < 0x80) return isSigned && (byte & 0x40) !== 0 ? result - 2 ** shift : result;
    }
  }
  name(): string {
    const size = this.leb();
    this.at += size;
    return Buffer.from(this.bytes.subarray(this.at - size, this.at)).toString();
  }
}

function sections(bytes: Uint8Array): Section[] {
  const reader = new Reader(bytes, 8);
  const found: Section[] = [];
  while (reader.at < bytes.length) {
    const id = reader.byte();
    const size = reader.leb();
    found.push({ id, at: reader.at, end: reader.at + size });
    reader.at += size;
  }
  return found;
}

/** `global`s defined in the module, by whether they may change. WebAssembly core, 5.5.9. */
function globals(bytes: Uint8Array): { isMutable: boolean }[] {
  const section = sections(bytes).find(({ id }) => id === 6);
  if (section === undefined) return [];
  const reader = new Reader(bytes, section.at);
  return Array.from({ length: reader.leb() }, () => {
    reader.byte(); // value type
    const isMutable = reader.byte() === 1;
    const opcode = reader.byte();
    if (opcode === 0x41 || opcode === 0x42) reader.leb(true);
    else throw new Error(`initializer with opcode ${opcode}`);
    if (reader.byte() !== 0x0b) throw new Error('initializer has more than one instruction');
    return { isMutable };
  });
}

/** Active data segments: where, and how many bytes. WebAssembly core, 5.5.14. */
function dataSegments(bytes: Uint8Array): { at: number; size: number }[] {
  const section = sections(bytes).find(({ id }) => id === 11);
  if (section === undefined) return [];
  const reader = new Reader(bytes, section.at);
  return Array.from({ length: reader.leb() }, () => {
    const kind = reader.leb();
    if (kind !== 0) throw new Error(`data segment of kind ${kind}`);
    if (reader.byte() !== 0x41) throw new Error('data segment without a constant address');
    const at = reader.leb(true);
    reader.byte();
    const size = reader.leb();
    reader.at += size;
    return { at, size };
  });
}

describe('the built module', () => {
  const bytes = readFileSync(built('assembly/forelock.wasm'));
  const module = new WebAssembly.Module(bytes);

  test('has no mutable global', () => {
    expect(globals(bytes).filter(({ isMutable }) => isMutable)).toEqual([]);
    expect(WebAssembly.Module.exports(module).filter(({ kind }) => kind === 'global')).toEqual([]);
  });

  test('has no data but constants below what the owner lays out', () => {
    const segments = dataSegments(bytes);
    for (const { at, size } of segments) {
      expect(at).toBeGreaterThanOrEqual(1024);
      expect(at + size).toBeLessThanOrEqual(MEMORY_BASE);
    }
    expect(segments.reduce((sum, { size }) => sum + size, 0)).toBe(192); // the secret of XXH3, nothing else
  });

  test('imports its memory and nothing else, and brings no allocator', () => {
    expect(WebAssembly.Module.imports(module)).toEqual([{ module: 'env', name: 'memory', kind: 'memory' }]);
    const names = WebAssembly.Module.exports(module).map(({ name }) => name);
    expect(names.filter((name) => name.startsWith('__'))).toEqual([]);
    expect(sections(bytes).some(({ id }) => id === 8)).toBe(false); // no start function
  });

  test('the inspection can fail: a module with a mutable global and high data is found out', () => {
    // (module (global (mut i32) (i32.const 5)) (memory 2) (data (i32.const 65536) "x"))
    const bad = Uint8Array.from([
      ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00],
      ...[0x05, 0x03, 0x01, 0x00, 0x02],
      ...[0x06, 0x06, 0x01, 0x7f, 0x01, 0x41, 0x05, 0x0b],
      ...[0x0b, 0x09, 0x01, 0x00, 0x41, 0x80, 0x80, 0x04, 0x0b, 0x01, 0x78],
    ]);
    expect(new WebAssembly.Module(bad)).toBeInstanceOf(WebAssembly.Module);
    expect(globals(bad)).toEqual([{ isMutable: true }]);
    expect(dataSegments(bad)).toEqual([{ at: 65536, size: 1 }]);
  });

  test('a second instance over a memory in use changes nothing in it', () => {
    const memory = new GroupMemory(1 << 17);
    const { at } = memory.take(65536);
    const first = createWasmKernel(memory);
    const size = encode(first, at);
    first.seal(at, size);
    const before = memory.bytes.slice();
    const second = createWasmKernel(memory);
    expect(Buffer.compare(memory.bytes, before)).toBe(0);
    expect(second.verify(at, size)).toBe(size);
  });
});
