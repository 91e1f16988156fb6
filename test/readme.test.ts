/** README.md keeps what it says: its library example compiles, and the files and commands that it names are there. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';
import { built, PACKAGE_ROOT } from '../src/paths.js';

const readme = readFileSync(join(PACKAGE_ROOT, 'README.md'), 'utf8');
const architecture = readFileSync(join(PACKAGE_ROOT, 'ARCHITECTURE.md'), 'utf8');

test('the library example compiles against the package as it is installed', () => {
  const example = /```ts\n([\s\S]*?)```/.exec(readme)?.[1];
  expect(example).toBeDefined();
  const folder = mkdtempSync(join(dirname(built('src')), 'readme-')); // inside the package: it may import itself by name
  try {
    writeFileSync(join(folder, 'example.mts'), example!);
    const flags = '--noEmit --strict --target ES2023 --module NodeNext --types node --skipLibCheck --ignoreConfig';
    const tsc = join(PACKAGE_ROOT, 'node_modules/typescript/bin/tsc');
    execFileSync(process.execPath, [tsc, ...flags.split(' '), join(folder, 'example.mts')], { stdio: 'pipe' });
  } catch (error) {
    throw new Error(String((error as { stdout?: Buffer }).stdout ?? error));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test('every file that ARCHITECTURE.md names is there', () => {
  const named = [...architecture.matchAll(/`((?:[\w.-]+\/)+[\w.-]*)`/g)].map((match) => match[1]!);
  expect(named.length).toBeGreaterThan(30);
  const missing = named.filter((name) => !['', 'src', 'test'].some((at) => existsSync(join(PACKAGE_ROOT, at, name))));
  expect(missing).toEqual([]);
});

test('every command and flag that README.md shows is known', async () => {
  const commands = new Map<string, string>();
  for (const [line, command] of readme.matchAll(/^ {4}forelock (\w+)[^\n]*/gm)) {
    if (!commands.has(command!)) {
      const help = execFileSync(process.execPath, [built('src/node/cli.js'), command!, '--help'], { encoding: 'utf8' });
      commands.set(command!, help);
    }
    for (const [flag] of line.matchAll(/(?<= )--[a-z-]+/g)) expect(commands.get(command!), line).toContain(flag);
  }
  expect([...commands.keys()].sort()).toEqual(['serve', 'status', 'verify']);
});
