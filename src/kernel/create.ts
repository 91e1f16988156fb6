/** Chooses the twin. */
import type { KernelMemory } from './bounds.js';
import { CompareKernel } from './compare.js';
import type { Kernel, KernelName } from './kernel.js';
import { ReferenceKernel } from './reference/kernel.js';
import { createWasmKernel } from './wasm.js';

/** The kernel of that name over a group's memory (a GroupMemory, or a worker's views of one). */
export function createKernel(name: KernelName, memory: KernelMemory, module?: WebAssembly.Module): Kernel {
  switch (name) {
    case 'wasm':
      return createWasmKernel(memory, module);
    case 'reference':
      return new ReferenceKernel(memory);
    case 'compare':
      return new CompareKernel(memory, createWasmKernel(memory, module), new ReferenceKernel(memory));
  }
}
