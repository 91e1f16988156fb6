/**
 * The Wasm twin of the kernels: what the module exports. src/kernel/wasm.ts checks arguments before it calls in here.
 *
 * Every thread has its own instance over one shared memory, so nothing here may have state: no mutable global, no
 * allocation, no static array. Every address comes from the owner of the memory (design: threads and memory).
 */
import { xxh3 as digestXxh3 } from './xxh3';
import { xxh64 as digestXxh64 } from './xxh64';

export { checkBlocks, checkHeader, encode, scan, seal, sizeOf, verify } from './record';
export { lockClear, lockQuery, lockSet } from './locks';

export function xxh3(at: usize, size: u32, out: usize): void {
  store<u64>(out, digestXxh3(at, size));
}

export function xxh64(at: usize, size: u32, out: usize): void {
  store<u64>(out, digestXxh64(at, size));
}
