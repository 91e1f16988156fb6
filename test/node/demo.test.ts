/** `forelock demo`, shortened: it ends by itself, says that both sides are equal, and leaves nothing behind, however it ends. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { formatMs, formatRate, levelOf } from '../../src/node/demo-screen.js';
import { built } from '../../src/paths.js';

let directory = '';
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'demo-test-'));
});
afterEach(() => {
  rmSync(directory, { recursive: true, force: true });
});

/** A process of its own, as `npm start` is; its temporary directories are made in `directory`. */
function startDemo(options: object): { child: ChildProcess; ended: Promise<{ code: number | null; stdout: string }> } {
  const script = `
    const { runDemo } = await import(${JSON.stringify(new URL(`file://${built('src/node/demo.js')}`).href)});
    process.exitCode = await runDemo(${JSON.stringify(options)});`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    env: { ...process.env, TMPDIR: directory },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let stdout = '';
  child.stdout!.on('data', (chunk) => {
    stdout += chunk;
  });
  const ended = new Promise<{ code: number | null; stdout: string }>((resolve) => {
    child.on('close', (code) => resolve({ code, stdout }));
  });
  return { child, ended };
}

async function until(what: string, done: () => boolean): Promise<void> {
  const limit = performance.now() + 20_000;
  while (!done()) {
    if (performance.now() > limit) throw new Error(`waited for ${what} in vain`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

test('a short demo ends with both sides equal, a table, and nothing left behind', async () => {
  const { code, stdout } = await startDemo({ keep: false, scale: 0.1 }).ended;
  expect(code, stdout).toBe(0);
  expect(stdout).toMatch(/50 ms round trip +speculative +lock-step/);
  expect(stdout.match(/both sides equal: 16,384 blocks, checksum [0-9a-f]{16}/g)?.length).toBeGreaterThanOrEqual(2);
  expect(stdout).not.toContain('\x1b'); // not a terminal: plain lines
  expect(readdirSync(directory)).toEqual([]);
}, 60_000);

test('--json gives one object and nothing else', async () => {
  const { code, stdout } = await startDemo({ keep: false, json: true, scale: 0.05 }).ended;
  expect(code, stdout).toBe(0);
  const result = JSON.parse(stdout);
  expect(result.equal).toBe(true);
  expect(result.speculative.scopes.perSecond).toBeGreaterThan(10 * result.lockStep.scopes.perSecond);
  expect(result.speculative.verify.blocks).toBe(16_384);
}, 60_000);

test.each([
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const)(
  '%s in the middle: gateways and directory are gone',
  async (signal, code) => {
    const { child, ended } = startDemo({ keep: false });
    const states = () => readdirSync(directory).flatMap((name) => readdirSync(join(directory, name)));
    await until('both state directories', () => states().includes('west') && states().includes('east'));
    child.kill(signal);
    expect((await ended).code).toBe(code);
    expect(readdirSync(directory)).toEqual([]);
  },
  60_000,
);

test('figures are shown with the digits that mean something', () => {
  expect([0.0839, 2.414, 25.6, 3210.4].map(formatMs)).toEqual(['0.084 ms', '2.41 ms', '25.6 ms', '3,210 ms']);
  expect([9.87, 99.96, 31_204.4].map(formatRate)).toEqual(['9.9', '100.0', '31,204']);
  expect([0, 1, 9, 10, 99, 1000, 1e9].map(levelOf)).toEqual([0, 1, 2, 3, 4, 7, 8]);
});
