/**
 * A long, narrow, cuttable TCP line for tests: delayproxy.c, compiled once per process, run as a child.
 *
 *     const proxy = await DelayProxy.start({ target: { host: '127.0.0.1', port }, oneWayMs: 25 });
 *     … ws://127.0.0.1:${proxy.port} …
 *     await proxy.cut(); await proxy.open(); await proxy.stop();
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createConnection, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export interface DelayProxyOptions {
  target: { host: string; port: number };
  /** Delay in each direction; the round trip is twice this. */
  oneWayMs?: number;
  /** Capacity in each direction, 10^6 bytes per second; 0 is no limit. */
  megabytesPerSecond?: number;
}

export interface DelayProxyStats {
  /** Connections now, and ever. */
  live: number;
  total: number;
  /** Bytes delivered towards the target, and back. */
  forward: number;
  back: number;
}

let binary: string | null = null;

/** Path of the compiled proxy, or a sentence that says why there is none. */
export function compileDelayProxy(): { path: string } | { missing: string } {
  if (binary !== null) return { path: binary };
  const folder = mkdtempSync(join(tmpdir(), 'forelock-delayproxy-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, 'delayproxy');
  try {
    execFileSync('gcc', ['-O2', '-w', '-o', path, fileURLToPath(new URL('delayproxy.c', import.meta.url))], {
      stdio: 'pipe',
    });
  } catch (error) {
    return { missing: `delayproxy.c was not compiled: ${(error as Error).message}` };
  }
  binary = path;
  return { path };
}

async function freePorts(count: number): Promise<number[]> {
  const servers = [];
  for (let i = 0; i < count; i += 1) {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    servers.push(server);
  }
  const ports = servers.map((server) => (server.address() as { port: number }).port);
  for (const server of servers) {
    server.close();
    await once(server, 'close');
  }
  return ports;
}

export class DelayProxy {
  readonly port: number;
  readonly #controlPort: number;
  readonly #child: ChildProcess;

  private constructor(port: number, controlPort: number, child: ChildProcess) {
    this.port = port;
    this.#controlPort = controlPort;
    this.#child = child;
  }

  /** @throws Error if there is no compiler: ask `compileDelayProxy` first to skip with a reason */
  static async start(options: DelayProxyOptions): Promise<DelayProxy> {
    const compiled = compileDelayProxy();
    if ('missing' in compiled) throw new Error(compiled.missing);
    const { target, oneWayMs = 0, megabytesPerSecond = 0 } = options;
    for (let attempt = 1; ; attempt += 1) {
      const [port, controlPort] = (await freePorts(2)) as [number, number];
      const args = ['-l', `${port}`, '-c', `${controlPort}`, '-t', `${target.host}:${target.port}`];
      args.push('-d', `${oneWayMs}`, '-b', `${megabytesPerSecond}`);
      const child = spawn(compiled.path, args, { stdio: ['ignore', 'ignore', 'inherit'] });
      const proxy = new DelayProxy(port, controlPort, child);
      while (child.exitCode === null && child.signalCode === null) {
        try {
          await proxy.command('stats');
          return proxy;
        } catch {
          await new Promise((resolve) => setTimeout(resolve, 10));
        }
      }
      if (attempt === 5) throw new Error('delayproxy does not start'); // else: another process took a port meanwhile
    }
  }

  get pid(): number {
    return this.#child.pid!;
  }

  /** Resets every connection and refuses new ones. */
  cut(): Promise<void> {
    return this.#expectOk('cut');
  }

  /** Ends a `cut`. */
  open(): Promise<void> {
    return this.#expectOk('open');
  }

  /** A pulled cable: connections stay, nothing moves. */
  pause(): Promise<void> {
    return this.#expectOk('pause');
  }

  resume(): Promise<void> {
    return this.#expectOk('resume');
  }

  delay(oneWayMs: number): Promise<void> {
    return this.#expectOk(`delay ${oneWayMs}`);
  }

  rate(megabytesPerSecond: number): Promise<void> {
    return this.#expectOk(`bw ${megabytesPerSecond}`);
  }

  async stats(): Promise<DelayProxyStats> {
    const answer = await this.command('stats');
    const field = (name: string) => Number(new RegExp(`\\b${name}=(\\d+)`).exec(answer)?.[1] ?? Number.NaN);
    return { live: field('live'), total: field('total'), forward: field('fwd'), back: field('back') };
  }

  /** Sends one control line and gives its one-line answer. */
  async command(line: string): Promise<string> {
    const socket = createConnection(this.#controlPort, '127.0.0.1');
    try {
      await once(socket, 'connect');
      socket.write(`${line}\n`);
      for await (const answer of socket) return `${answer}`.trim();
      throw new Error(`delayproxy ended at ${JSON.stringify(line)}`);
    } finally {
      socket.destroy();
    }
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    this.#child.kill('SIGKILL');
    await once(this.#child, 'exit');
  }

  async #expectOk(line: string): Promise<void> {
    const answer = await this.command(line);
    if (answer !== 'ok') throw new Error(`delayproxy answered ${JSON.stringify(answer)} to ${JSON.stringify(line)}`);
  }
}
