/** Copies of the tree: in some, one place at a time is broken, built and run; in another nothing ever is. */
import { type ChildProcess, spawn } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PACKAGE_ROOT } from '../../src/paths.js';
import { applyMutant, type Mutant, type Simulator } from './mutant.js';
import type { Line } from './worlds.js';

/** A world takes a second or two. One that is silent for so long has lost its way, and that is noticed, too. */
const SILENCE_MS_MAX = 120_000;
const LOOK_MS = 10_000;

/** What noticed a mutant, or that nothing did. */
export interface Finding {
  caught: boolean;
  /** Which test, or what the world said. */
  by: string;
  seconds: number;
}

export interface TestsFinding extends Finding {
  /** Where the test stands. */
  file: string;
}

export interface WorldsFinding extends Finding {
  simulator: Simulator;
  /** That noticed; the last one that was run, if none did. */
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
      'dist/src', // what a worker loads: as it is, whatever is broken
      'package.json',
      'tsconfig.json',
      'vitest.config.ts',
    ]) {
      cpSync(join(PACKAGE_ROOT, each), join(this.#root, each), { recursive: true });
    }
    symlinkSync(join(PACKAGE_ROOT, 'node_modules'), join(this.#root, 'node_modules'));
  }

  /** Runs `work` in a tree that has this mutant, and was built. */
  async with(mutant: Mutant, work: () => Promise<void>): Promise<void> {
    const path = join(this.#root, 'src', mutant.file);
    const text = readFileSync(path, 'utf8');
    writeFileSync(path, applyMutant(text, mutant));
    try {
      await this.build(mutant.name);
      await work();
    } finally {
      writeFileSync(path, text);
    }
  }

  /** @throws Error when it does not pass the type check */
  async build(name = 'the tree'): Promise<void> {
    const { code, output } = await this.#run('node_modules/typescript/bin/tsc', ['-p', 'test/mutants']);
    if (code !== 0) throw new Error(`${name} does not pass the type check:\n${output}`);
  }

  async tests(files: readonly string[]): Promise<TestsFinding> {
    const there = files.filter((file) => existsSync(join(this.#root, file)));
    if (there.length === 0) return { caught: false, by: '', seconds: 0, file: '' };
    const { code, output, seconds } = await this.#run('node_modules/vitest/vitest.mjs', ['run', '--bail=1', ...there]);
    if (code === 0) return { caught: false, by: '', seconds, file: '' };
    const failed = /^ *FAIL +((\S+).*)$/m.exec(output);
    return { caught: true, by: failed?.[1] ?? `exit code ${code}`, seconds, file: failed?.[2] ?? there[0]! };
  }

  async worlds(simulator: Simulator, seeds: readonly number[]): Promise<WorldsFinding> {
    const args = [simulator, JSON.stringify(seeds)];
    const { code, output, seconds } = await this.#run('dist/sim/test/mutants/worlds.js', args);
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

  async #run(script: string, args: readonly string[]): Promise<Ran> {
    for (;;) {
      const ran = await this.#runOnce(script, args);
      if (ran !== null) return ran;
    }
  }

  /** @returns null: the machine slept, or all this was stopped for a while; what ran into a limit of time says nothing */
  #runOnce(script: string, args: readonly string[]): Promise<Ran | null> {
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
      let silentMs = 0;
      let lookedAt = began;
      let slept = false;
      const timer = setInterval(() => {
        slept ||= performance.now() - lookedAt > 3 * LOOK_MS;
        lookedAt = performance.now();
        silentMs += LOOK_MS;
        if (silentMs >= SILENCE_MS_MAX) this.#kill();
      }, LOOK_MS);
      const hear = (chunk: Buffer): void => {
        output += chunk;
        silentMs = 0;
      };
      child.stdout.on('data', hear);
      child.stderr.on('data', hear);
      child.on('close', (code) => {
        clearInterval(timer);
        this.#running = null;
        slept ||= performance.now() - lookedAt > 3 * LOOK_MS;
        resolve(slept ? null : { code, output, seconds: (performance.now() - began) / 1000 });
      });
    });
  }

  #kill(): void {
    if (this.#running !== null) process.kill(-this.#running.pid!, 'SIGKILL');
  }
}

/**
 * A copy in which nothing is broken: a test or a world that fails in it as well has noticed nothing. Each is asked when it
 * first counts for something, and only once.
 */
export class Control {
  readonly #bench = new Bench();
  readonly #fails = new Map<string, Promise<boolean>>();
  #last: Promise<unknown>;

  constructor() {
    this.#last = this.#bench.build();
  }

  failsTest(file: string): Promise<boolean> {
    return this.#ask(file, () => this.#bench.tests([file]));
  }

  failsWorld(simulator: Simulator, seed: number): Promise<boolean> {
    return this.#ask(`${simulator}, seed ${seed}`, () => this.#bench.worlds(simulator, [seed]));
  }

  /** What failed with nothing broken. */
  async failed(): Promise<string[]> {
    const names: string[] = [];
    for (const [name, fails] of this.#fails) if (await fails) names.push(name);
    return names;
  }

  close(): void {
    this.#bench.close();
  }

  #ask(name: string, run: () => Promise<Finding>): Promise<boolean> {
    const known = this.#fails.get(name);
    if (known !== undefined) return known;
    const fails = this.#last.then(run).then(({ caught }) => caught);
    this.#fails.set(name, fails);
    this.#last = fails;
    return fails;
  }
}
