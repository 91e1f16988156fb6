/** Child processes of a measurement: each is stopped by its pid whatever happens; their CPU time and memory can be asked. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { createInterface } from 'node:readline';

const TICKS_PER_SECOND = Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }));
const START_MS_MAX = 30_000;
const STOP_MS_MAX = 20_000;
const IDLE_MS_MAX = 60_000;
const IDLE_LOOK_MS = 200;
const IDLE_SHARE = 0.05; // of a core, for each process: timers take about one percent, more under a profiler

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

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

/** Starts a program that goes into the background by itself and leaves its pid in a file. */
export async function startDaemon(program, args, pidFile) {
  await run(program, args);
  const pid = Number(await until(() => existsSync(pidFile) && readFileSync(pidFile, 'utf8').trim(), START_MS_MAX));
  const isThere = () => existsSync(`/proc/${pid}`);
  const daemon = {
    pid,
    complaints: '',
    spawnargs: [program],
    get exitCode() {
      return isThere() ? null : -1;
    },
    kill: (signal) => isThere() && process.kill(pid, signal),
    get ended() {
      return until(() => !isThere(), STOP_MS_MAX).then(() => running.delete(daemon));
    },
  };
  running.add(daemon);
  return daemon;
}

/** As a crash would. */
export async function kill(child) {
  child.kill('SIGKILL');
  await child.ended;
}

/**
 * A child that says one line of JSON when it is ready and then answers requests, each a line of JSON with an `id`, which
 * its answer carries, too.
 * @returns ready: what it said first; ask(request): its answer
 */
export function converse(child) {
  const waiting = new Map();
  let count = 0;
  const expect = (id) => new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
  const ready = expect(count);
  const lines = createInterface({ input: child.stdout });
  lines.on('line', (line) => {
    const { id = 0, error, ...answer } = JSON.parse(line);
    const asked = waiting.get(id);
    waiting.delete(id);
    if (error === undefined) asked.resolve(answer);
    else asked.reject(new Error(`process ${child.pid}: ${error}`));
  });
  lines.on('close', () => {
    for (const { reject } of waiting.values()) reject(new Error(`process ${child.pid} ended\n${child.complaints}`));
    waiting.clear();
  });
  return {
    ready,
    ask: (request) => {
      count += 1;
      const answer = expect(count);
      child.stdin.write(`${JSON.stringify({ ...request, id: count })}\n`);
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

/** MiB of memory that a process has resident: Linux only, elsewhere NaN. */
export function residentMiB(pid) {
  try {
    return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))[1]) / 1024;
  } catch {
    return Number.NaN;
  }
}

/** Waits until processes, [{ pid }], are as good as idle, so that nobody's leftovers burden the next measurement. */
export async function untilIdle(processes) {
  const used = () => processes.reduce((sum, { pid }) => sum + (cpuSeconds(pid) || 0), 0);
  for (let before = used(), waited = 0; waited < IDLE_MS_MAX; waited += IDLE_LOOK_MS) {
    await sleep(IDLE_LOOK_MS);
    const now = used();
    if ((now - before) * 1000 <= IDLE_SHARE * IDLE_LOOK_MS * processes.length) return;
    before = now;
  }
}

/** Asks again until the answer is truthy. @returns that answer, or null after `msMax` */
export async function until(question, msMax, everyMs = 20) {
  for (const end = performance.now() + msMax; ; ) {
    const answer = await question();
    if (answer) return answer;
    if (performance.now() > end) return null;
    await sleep(everyMs);
  }
}

/** @param where { port } on loopback, or { path } of a unix socket */
export async function untilConnectable(where, child) {
  const isOpen = () =>
    new Promise((resolve) => {
      const socket = connect('path' in where ? where : { ...where, host: '127.0.0.1' });
      socket.on('error', () => resolve(false));
      socket.on('connect', () => {
        socket.destroy();
        resolve(true);
      });
    });
  const isUp = await until(async () => child.exitCode !== null || (await isOpen()), START_MS_MAX);
  if (isUp && child.exitCode === null) return;
  throw new Error(
    `${child.spawnargs[0]} does not listen on ${where.path ?? `port ${where.port}`}\n${child.complaints}`,
  );
}

export async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}
