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
  const without = MUTANTS.filter((mutant) => !testsOf(mutant).some((path) => existsSync(join(PACKAGE_ROOT, path))));
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

/** Mutants of all files in as few rounds as can be: those of one round break places that do not touch each other. */
function rounds(): Map<string, string>[] {
  const made: Map<string, string>[] = [];
  for (const file of new Set(MUTANTS.map((mutant) => mutant.file))) {
    const source = sourceOf(file);
    const placed = MUTANTS.filter((mutant) => mutant.file === file)
      .map((mutant) => ({ ...mutant, at: source.indexOf(mutant.find) }))
      .filter(({ at }) => at >= 0) // the others are told above
      .sort((a, b) => a.at - b.at);
    for (let round = 0; placed.length > 0; round += 1) {
      let text = '';
      let end = 0;
      for (const { find, replace, at } of [...placed]) {
        if (at < end) continue;
        text += source.slice(end, at) + replace;
        end = at + find.length;
        placed.splice(
          placed.findIndex((each) => each.at === at && each.replace === replace),
          1,
        );
      }
      made[round] ??= new Map();
      made[round]!.set(file, text + source.slice(end));
    }
  }
  return made;
}

test('every mutant passes the type check', () => {
  const root = mkdtempSync(join(tmpdir(), 'forelock-mutants-'));
  try {
    for (const each of ['src', 'assembly', 'package.json', 'tsconfig.json']) {
      cpSync(join(PACKAGE_ROOT, each), join(root, each), { recursive: true });
    }
    symlinkSync(join(PACKAGE_ROOT, 'node_modules'), join(root, 'node_modules'));
    const unused = '--noUnusedLocals false --noUnusedParameters false'.split(' ');
    const args = ['node_modules/typescript/bin/tsc', '--noEmit', '-p', '.', ...unused];
    for (const files of rounds()) {
      for (const file of new Set(MUTANTS.map((mutant) => mutant.file))) {
        writeFileSync(join(root, 'src', file), files.get(file) ?? sourceOf(file));
      }
      execFileSync(process.execPath, args, { cwd: root, stdio: 'pipe' });
    }
  } catch (error) {
    throw new Error(String((error as { stdout?: Buffer }).stdout ?? error));
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
});
