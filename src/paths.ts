/** Where the built files of this package are, for code that loads a worker or the Wasm module by URL. */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

function findRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, 'package.json'))) {
    const parent = dirname(folder);
    if (parent === folder) throw new Error('package.json of forelock not found');
    folder = parent;
  }
  return folder;
}

export const PACKAGE_ROOT = findRoot();
export const VERSION: string = JSON.parse(readFileSync(join(PACKAGE_ROOT, 'package.json'), 'utf8')).version;

/** Absolute path of a built file, given its path below dist/ ("src/kernel/worker.js"). Works from src/ and from dist/. */
export function built(path: string): string {
  return join(PACKAGE_ROOT, 'dist', path);
}
