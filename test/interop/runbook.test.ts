/**
 * The sessions of docs/RUNBOOK.md, typed as they stand there, in their order: two real gateways, on loopback and with a smaller
 * volume. A line of output in the runbook is waited for, and `…` in it is anything.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { DIST, freePort, sleep, until } from './gateway-process.js';
import { requireTools, runTool } from './tools.js';

const canRun = requireTools(['qemu-io', 'nbdcopy']);

const RUNBOOK = readFileSync(fileURLToPath(new URL('../../docs/RUNBOOK.md', import.meta.url)), 'utf8');
const CLI = join(DIST, 'src/node/cli.js');

type Machine = 'a' | 'b' | 'host';

interface Step {
  at: Machine;
  command: string;
  /** Lines that are to come, in this order. */
  expected: string[];
}

interface Section {
  title: string;
  steps: Step[];
}

const fences = (text: string, language: string): string[] =>
  [...text.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, 'gms'))].map((match) => match[1]!);

function stepsOf(fence: string): Step[] {
  const steps: Step[] = [];
  for (const line of fence.trimEnd().split('\n')) {
    const typed = /^(?:(a|b)#|(host)\$) (.*)$/.exec(line);
    if (typed !== null) steps.push({ at: (typed[1] ?? typed[2]) as Machine, command: typed[3]!, expected: [] });
    else steps.at(-1)!.expected.push(line);
  }
  return steps;
}

const sections: Section[] = RUNBOOK.split(/^## /m)
  .slice(1)
  .map((text) => ({
    title: text.slice(0, text.indexOf('\n')),
    steps: fences(text, 'sh').flatMap(stepsOf),
  }))
  .filter(({ steps }) => steps.length > 0);

let root: string;
const ports: Record<string, number> = {};
const gateways = new Map<Machine, ChildProcess>();

/** What is said of a machine's files and of both names, as it is here. */
const here = (machine: Machine, text: string): string =>
  text
    .replaceAll('/srv/forelock', join(root, machine, 'state'))
    .replaceAll('/etc/', `${join(root, machine)}/`)
    .replaceAll('a.example:10809', `127.0.0.1:${ports.a}`)
    .replaceAll('b.example:10809', `127.0.0.1:${ports.b}`)
    .replaceAll('0.0.0.0:10809', `127.0.0.1:${ports[machine]}`)
    .replaceAll(/(?:b\.example|0\.0\.0\.0):10900/g, `127.0.0.1:${ports.link}`)
    .replaceAll('disk:100G', 'disk:1G');

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'forelock-runbook-'));
  for (const name of ['a', 'b', 'link']) ports[name] = await freePort();
  const forelock = join(root, 'forelock');
  writeFileSync(forelock, `#!/bin/sh\nexec '${process.execPath}' '${CLI}' "$@"\n`, { mode: 0o755 });
  for (const machine of ['a', 'b'] as const) {
    mkdirSync(join(root, machine));
    const [config] = fences(RUNBOOK, `yaml ${machine}`);
    writeFileSync(join(root, machine, 'forelock.yaml'), here(machine, config!));
    writeFileSync(join(root, machine, 'forelock.key'), '0123456789abcdef'.repeat(4));
    chmodSync(join(root, machine, 'forelock.key'), 0o600);
  }
});
afterAll(async () => {
  for (const machine of gateways.keys()) await end(machine, 'SIGKILL');
  rmSync(root, { recursive: true });
});

async function begin(machine: Machine): Promise<void> {
  const gateway = spawn(process.execPath, [CLI, 'serve', '--config', join(root, machine, 'forelock.yaml')], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  gateways.set(machine, gateway);
  let said = '';
  for (const stream of [gateway.stdout!, gateway.stderr!]) stream.on('data', (data) => (said += data));
  await until(`${machine} can be asked`, () => {
    if (gateway.exitCode !== null) throw new Error(`${machine} does not start: ${said}`);
    return said.includes('control '); // a standby is ready only once it has met its primary
  });
}

async function end(machine: Machine, signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
  const gateway = gateways.get(machine)!;
  gateways.delete(machine);
  const ended = once(gateway, 'exit');
  gateway.kill(signal);
  expect(await ended).toEqual(signal === 'SIGTERM' ? [0, null] : [null, signal]);
}

const plain = (line: string): string => line.trim().replaceAll(/ +/g, ' ');
const escaped = (text: string): string => text.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&');

/** Runs it once. @returns why it did not do what was expected, or null */
async function type({ at, command, expected }: Step): Promise<string | null> {
  const env = { ...process.env, PATH: `${root}:${process.env.PATH}` };
  const { status, stdout, stderr } = await runTool('sh', ['-c', here(at, command)], { cwd: root, env });
  if (status !== 0) return `exit code ${status}: ${stderr}`;
  const said = stdout.split('\n').map(plain);
  let from = 0;
  for (const line of expected) {
    const parts = plain(line).split('…').map(escaped);
    const pattern = new RegExp(`^${parts.join('.*')}$`);
    const found = said.findIndex((each, i) => i >= from && pattern.test(each));
    if (found < 0) return `"${line}" is not in:\n${stdout}`;
    from = found + 1;
  }
  return null;
}

async function follow(step: Step): Promise<void> {
  const { at, command } = step;
  if (command === '(is lost)') return end(at, 'SIGKILL');
  const service = /^systemctl (start|stop|restart) forelock$/.exec(command)?.[1];
  if (service !== undefined) {
    if (service !== 'start') await end(at, 'SIGTERM');
    if (service !== 'stop') await begin(at);
    return;
  }
  let failed: string | null = null;
  const what = `${at}# ${command}`;
  await until(what, async () => {
    failed = await type(step);
    if (failed !== null) await sleep(200);
    return failed === null;
  }).catch((error: Error) => {
    throw new Error(`${error.message}: ${failed}`);
  });
}

test.skipIf(!canRun)('every session of the runbook goes as it stands there', async () => {
  for (const { title, steps } of sections) {
    for (const step of steps) {
      await follow(step).catch((error: Error) => {
        throw new Error(`${title}: ${error.message}`);
      });
    }
  }
  expect(sections.length).toBeGreaterThan(6);
});
