/** Child processes of a measurement: each is stopped by its pid whatever happens, and its CPU time can be asked. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { createInterface } from 'node:readline';

const TICKS_PER_SECOND = Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }));
const STOP_MS_MAX = 20_000;

const running = new Set();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/** Starts a program; its stderr is kept for the message if it fails. */
export function start(program, args, stdio = ['ignore', 'ignore', 'pipe']) {
  const child = spawn(program, args, { stdio });
  running.add(child);
  child.complaints = '';
  child.stderr?.on('data', (chunk) => {
    child.complaints = (child.complaints + chunk).slice(-4000);
  });
  child.ended = new Promise((resolve) => {
    child.on('error', (error) => {
      child.complaints += error.message;
      running.delete(child);
      resolve(-1);
    });
    child.on('close', (code) => {
      running.delete(child);
      resolve(code ?? -1);
    });
  });
  return child;
}

/** Runs a program to its end. @returns its stdout */
export async function run(program, args) {
  const child = start(program, args, ['ignore', 'pipe', 'pipe']);
  const chunks = [];
  child.stdout.on('data', (chunk) => chunks.push(chunk));
  const code = await child.ended;
  const output = Buffer.concat(chunks).toString();
  if (code !== 0)
    throw new Error(`${program} ${args.join(' ')}: exit ${code}\n${child.complaints}${output.slice(0, 500)}`);
  return output;
}

export async function stop(child) {
  if (!running.has(child)) return;
  child.kill('SIGTERM');
  const patience = setTimeout(() => child.kill('SIGKILL'), STOP_MS_MAX);
  await child.ended;
  clearTimeout(patience);
}

/** A child that answers each line with one line of JSON. */
export function converse(child) {
  const waiting = [];
  const lines = createInterface({ input: child.stdout });
  lines.on('line', (line) => waiting.shift()?.resolve(JSON.parse(line)));
  lines.on('close', () => {
    for (const { reject } of waiting.splice(0)) reject(new Error(`process ${child.pid} ended\n${child.complaints}`));
  });
  const next = () => new Promise((resolve, reject) => waiting.push({ resolve, reject }));
  return {
    next,
    ask: () => {
      const answer = next();
      child.stdin.write('\n');
      return answer;
    },
  };
}

/** CPU seconds that a process and those it has waited for have used: Linux only, elsewhere NaN. */
export function cpuSeconds(pid) {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields.slice(11, 15).reduce((sum, ticks) => sum + Number(ticks), 0) / TICKS_PER_SECOND;
  } catch {
    return Number.NaN;
  }
}

export async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
