/** What a figure is worth nothing without: the machine, the versions, the commit. And which foreign programs are here. */
import { spawnSync } from 'node:child_process';
import { accessSync, constants, readFileSync } from 'node:fs';
import { cpus, loadavg, release, totalmem, type } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Foreign programs, how each says its version, and what for. */
const PROGRAMS = {
  fio: { version: ['--version'], use: 'the load over NBD' },
  gcc: { version: ['-dumpfullversion'], use: 'compiles the delay proxy' },
  nbdkit: { version: ['--version'], use: 'peer' },
  'nbd-server': { version: ['--version'], use: 'peer' },
  'qemu-nbd': { version: ['--version'], use: 'peer, and the other end of qemu’s mirrors' },
  'qemu-storage-daemon': { version: ['--version'], use: 'peer: mirrors' },
  xxhsum: { version: ['--version'], use: 'native XXH3' },
  nbdcopy: { version: ['--version'], use: 'compares the images of two sites' },
};

export const ROOT = fileURLToPath(new URL('..', import.meta.url));

/** What a program says, wherever it says it: some tell their version on stderr, some with an exit code of 1. */
function outputOf(program, args) {
  const { stdout, stderr } = spawnSync(program, args, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
    cwd: ROOT,
  });
  return `${stdout ?? ''}${stderr ?? ''}`.trim();
}

function isInstalled(program) {
  return (process.env.PATH ?? '').split(delimiter).some((directory) => {
    try {
      accessSync(join(directory, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** @returns { found: { name: version }, missing: { name: what it would be for } } */
export function findPrograms() {
  const found = {};
  const missing = {};
  for (const [name, { version, use }] of Object.entries(PROGRAMS)) {
    if (isInstalled(name)) found[name] = /\d+(\.\d+)+/.exec(outputOf(name, version))?.[0] ?? 'unknown version';
    else missing[name] = use;
  }
  return { found, missing };
}

/** What a directory's file system is, as `df` tells. */
function fileSystemOf(directory) {
  return outputOf('df', ['--output=fstype', directory]).split('\n').at(-1)?.trim() || 'unknown';
}

export function describeMachine(scratch) {
  const [cpu] = cpus();
  const commit = outputOf('git', ['describe', '--always', '--dirty']);
  return {
    cpu: cpu.model,
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    kernel: `${type()} ${release()}`,
    fileSystem: fileSystemOf(scratch),
    loadAverage: loadavg().map((value) => Math.round(value * 10) / 10),
    node: process.version,
    forelock: JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')).version,
    commit: commit === '' || commit.startsWith('fatal') ? 'no repository' : commit,
    date: new Date().toISOString(),
  };
}
