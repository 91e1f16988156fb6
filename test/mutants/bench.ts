/** A copy of the tree in which one place at a time is broken, built and run. */
import { type ChildProcess, spawn } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PACKAGE_ROOT } from '../../src/paths.js';
import { applyMutant, type Mutant, type Simulator } from './mutant.js';
import type { Line } from './worlds.js';

/** A world takes a second or two. One that is silent for so long has lost its way, and that is noticed, too. */
const SILENCE_MS_MAX = 120_000;

/** What noticed a mutant, or that nothing did. */
export interface Finding {
  caught: boolean;
  /** Which test, or what the world said. */
  by: string;
  seconds: number;
}

export interface WorldsFinding extends Finding {
  simulator: Simulator;
  seed: number;
  /** Host operations answered until then; 0 where a simulator has none. */
  operations: number;
}

interface Ran {
  code: number | null;
  output: string;
  seconds: number;
}

export class Bench {
  readonly #root = mkdtempSync(join(tmpdir(), 'forelock-mutants-'));
  #running: ChildProcess | null = null;

  constructor() {
    for (const each of [
      'src',
      'assembly',
      'test',
      'dist/assembly',
      'package.json',
      'tsconfig.json',
      'vitest.config.ts',
    ]) {
      cpSync(join(PACKAGE_ROOT, each), join(this.#root, each), { recursive: true });
    }
    symlinkSync(join(PACKAGE_ROOT, 'node_modules'), join(this.#root, 'node_modules'));
  }

  /** Runs `work` in a tree that has this mutant (null: as it is), and was built. */
  async with(mutant: Mutant | null, work: () => Promise<void>): Promise<void> {
    const path = mutant === null ? null : join(this.#root, 'src', mutant.file);
    const text = path === null ? '' : readFileSync(path, 'utf8');
    if (path !== null) writeFileSync(path, applyMutant(text, mutant!));
    try {
      const { code, output } = await this.#run('node_modules/typescript/bin/tsc', ['-p', 'test/mutants']);
      if (code !== 0) throw new Error(`${mutant?.name ?? 'the tree'} does not pass the type check:\n${output}`);
      await work();
    } finally {
      if (path !== null) writeFileSync(path, text);
    }
  }

  async tests(files: readonly string[]): Promise<Finding> {
    const there = files.filter((file) => existsSync(join(this.#root, file)));
    if (there.length === 0) return { caught: false, by: '', seconds: 0 };
    const { code, output, seconds } = await this.#run('node_modules/vitest/vitest.mjs', ['run', '--bail=1', ...there]);
    const failed = /^ *FAIL +(.+)$/m.exec(output)?.[1] ?? `exit code ${code}`;
    return { caught: code !== 0, by: code === 0 ? '' : failed, seconds };
  }

  async worlds(simulator: Simulator, count: number): Promise<WorldsFinding> {
    const { code, output, seconds } = await this.#run('dist/sim/test/mutants/worlds.js', [simulator, String(count)]);
    const found = { caught: true, by: `the process ended with ${code}`, seconds, simulator, seed: 0, operations: 0 };
    for (const text of output.split('\n')) {
      if (!text.startsWith('{')) continue;
      const line = JSON.parse(text) as Line;
      if ('seed' in line) found.seed = line.seed;
      else {
        found.caught = line.failure !== null;
        found.by = line.failure ?? '';
        found.operations = line.operations;
      }
    }
    return found;
  }

  close(): void {
    this.#kill();
    rmSync(this.#root, { recursive: true, force: true });
  }

  #run(script: string, args: readonly string[]): Promise<Ran> {
    const began = performance.now();
    return new Promise((resolve) => {
      // a process group of its own: a test runner's workers end with it
      const child = spawn(process.execPath, [script, ...args], {
        cwd: this.#root,
        detached: true,
        stdio: ['ignore', 'pipe', 'pipe'],
        env: { ...process.env, NO_COLOR: '1', FORCE_COLOR: undefined },
      });
      this.#running = child;
      let output = '';
      const end = (): void => this.#kill();
      let timer = setTimeout(end, SILENCE_MS_MAX);
      const hear = (chunk: Buffer): void => {
        output += chunk;
        clearTimeout(timer);
        timer = setTimeout(end, SILENCE_MS_MAX);
      };
      child.stdout.on('data', hear);
      child.stderr.on('data', hear);
      child.on('close', (code) => {
        clearTimeout(timer);
        this.#running = null;
        resolve({ code, output, seconds: (performance.now() - began) / 1000 });
      });
    });
  }

  #kill(): void {
    if (this.#running !== null) process.kill(-this.#running.pid!, 'SIGKILL');
  }
}
