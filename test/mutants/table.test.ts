/** The table of mutants does not rot: every text is still there once, and what it becomes passes the type check. */
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { PACKAGE_ROOT } from '../../src/paths.js';
import { applyMutant, testsOf } from './mutant.js';
import { MUTANTS } from './table.js';

const sourceOf = (file: string): string => readFileSync(join(PACKAGE_ROOT, 'src', file), 'utf8');

test('every mutant has a name of its own, and tests that are about its file', () => {
  const names = MUTANTS.map(({ name }) => name);
  expect(names.filter((name, index) => names.indexOf(name) !== index)).toEqual([]);
  const without = MUTANTS.filter(({ file }) => !testsOf(file).some((path) => existsSync(join(PACKAGE_ROOT, path))));
  expect(without.map(({ file }) => file)).toEqual([]);
});

test('every text is found, once', () => {
  const lost: string[] = [];
  for (const mutant of MUTANTS) {
    try {
      applyMutant(sourceOf(mutant.file), mutant);
    } catch (error) {
      lost.push((error as Error).message);
    }
  }
  expect(lost).toEqual([]);
});

test('every mutant passes the type check', () => {
  const root = mkdtempSync(join(tmpdir(), 'forelock-mutants-'));
  try {
    for (const each of ['src', 'assembly', 'package.json', 'tsconfig.json']) {
      cpSync(join(PACKAGE_ROOT, each), join(root, each), { recursive: true });
    }
    symlinkSync(join(PACKAGE_ROOT, 'node_modules'), join(root, 'node_modules'));
    // each beside the file it breaks: all are checked at once
    for (const [index, mutant] of MUTANTS.entries()) {
      const path = join(root, 'src', mutant.file.replace(/\.ts$/, `-mutant-${index}.ts`));
      writeFileSync(path, applyMutant(sourceOf(mutant.file), mutant));
    }
    const unused = '--noUnusedLocals false --noUnusedParameters false'.split(' ');
    const args = ['node_modules/typescript/bin/tsc', '--noEmit', '-p', '.', ...unused];
    execFileSync(process.execPath, args, { cwd: root, stdio: 'pipe' });
  } catch (error) {
    const output = String((error as { stdout?: Buffer }).stdout ?? error);
    throw new Error(output.replace(/-mutant-(\d+)\.ts/g, (_, index) => `.ts as "${MUTANTS[Number(index)]!.name}"`));
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
});
