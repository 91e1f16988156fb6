/**
 * Gateways as processes: started, asked over their control API, killed.
 *
 *     const target = await GatewayProcess.start({ state, site: 'b', role: 'standby', listen: port });
 *     const source = await GatewayProcess.start({ state, site: 'a', volumes: [{ name: 'vm', size }], peer: url });
 *     await source.untilApplied();
 *     await source.kill(); await target.stop();
 *
 * They run from what `npm run build` made.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, rmSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { EXIT_CONFIG } from '../../src/node/cli.js';
import { ControlClient, type GroupStatus, type VerifyReport } from '../../src/node/control.js';
import { DelayProxy } from './delay-proxy.js';
import { runTool, type ToolResult } from './tools.js';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
/** The build under test; FORELOCK_DIST names another one. */
export const DIST = process.env.FORELOCK_DIST ?? join(ROOT, 'dist');
/** Full length instead of a few seconds: FORELOCK_LONG=1. */
export const LONG = process.env.FORELOCK_LONG === '1';

const CLI = join(DIST, 'src/node/cli.js');
const START_MS_MAX = 30_000;
const STOP_MS_MAX = 60_000;
const WAIT_MS_MAX = LONG ? 300_000 : 40_000;

/** What `forelock serve` is told, under its flags' names. */
export interface ProcessOptions {
  state: string;
  site: string;
  /** As --volume: NAME:SIZE[,platter=flat,path=FILE]. */
  volumes?: string[];
  role?: 'primary' | 'standby' | 'dual';
  /** Port on loopback. */
  listen?: number;
  /** ws:// URL. */
  peer?: string;
  /** Path. */
  key?: string;
  ack?: 'local' | 'received' | 'applied';
  speculation?: 'on' | 'off';
  /** freeze, or prefer:SITE. */
  'when-split'?: string;
  'when-peer-away'?: 'degrade' | 'block' | 'fail';
  'on-reject'?: 'target-retry' | 'halt' | 'retransmit';
  kernel?: 'wasm' | 'reference' | 'compare';
  /** Bytes. */
  journal?: number;
  ring?: number;
}

function argumentsOf({ volumes = [], listen, ...flags }: ProcessOptions): string[] {
  const args = ['serve', '--nbd', '127.0.0.1:0'];
  for (const volume of volumes) args.push('--volume', volume);
  if (listen !== undefined) args.push('--listen', `127.0.0.1:${listen}`);
  for (const [flag, value] of Object.entries(flags)) if (value !== undefined) args.push(`--${flag}`, `${value}`);
  return args;
}

export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Polls until `what` is given, for as long as a loaded machine may need. */
export async function until<T>(what: string, look: () => Promise<T | null | false> | T | null | false): Promise<T> {
  const end = Date.now() + WAIT_MS_MAX;
  for (;;) {
    const found = await look();
    if (found !== null && found !== false) return found;
    if (Date.now() > end) throw new Error(`waited ${WAIT_MS_MAX / 1000} s in vain: ${what}`);
    await sleep(20);
  }
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  return port;
}

/** Any other `forelock` command. */
export function forelock(...args: string[]): Promise<ToolResult> {
  return runTool(process.execPath, [CLI, ...args], { timeout: 300_000 });
}

/** Everything that a test starts and must not leave behind. */
export class Room {
  readonly directory: string;
  readonly #closers: (() => unknown)[] = [];

  private constructor(directory: string) {
    this.directory = directory;
  }

  static async open(): Promise<Room> {
    return new Room(await mkdtemp(join(tmpdir(), 'forelock-proof-')));
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  /** To be closed at the end, last first. */
  keep<T extends { stop(): unknown }>(one: T): T {
    this.#closers.push(() => one.stop());
    return one;
  }

  onClose(close: () => unknown): void {
    this.#closers.push(close);
  }

  async start(options: Omit<ProcessOptions, 'state'> & { state?: string }): Promise<GatewayProcess> {
    const gateway = await GatewayProcess.start({ state: this.path(options.site), ...options });
    this.#closers.push(() => gateway.kill());
    return gateway;
  }

  /** Starts one that ended again on the same state, by default with the same options. */
  again(ended: GatewayProcess, changed: Partial<ProcessOptions> = {}): Promise<GatewayProcess> {
    return this.start({ ...ended.options, ...changed });
  }

  /** Target `b` and source `a` with volume `vm`, a delay proxy between them. */
  async pair(options: PairOptions): Promise<PairOfGateways> {
    const port = await freePort();
    const { size, roundTripMs = 0, source: atSource, target: atTarget, ...both } = options;
    const target = await this.start({ site: 'b', role: 'standby', listen: port, ...both, ...atTarget });
    const proxy = this.keep(await DelayProxy.start({ target: { host: '127.0.0.1', port }, oneWayMs: roundTripMs / 2 }));
    const source = await this.start({
      site: 'a',
      volumes: [`vm:${size}`],
      peer: `ws://127.0.0.1:${proxy.port}`,
      ...both,
      ...atSource,
    });
    await source.untilStreaming();
    await target.untilConsistent();
    return { source, target, proxy, port };
  }

  /** Sites `a` (which listens) and `b`, both empty, both to write volume `vm`, a delay proxy between them. */
  async dual(
    options: Pick<PairOptions, 'ring' | 'journal' | 'size' | 'roundTripMs'> & Pick<ProcessOptions, 'when-split'>,
  ): Promise<DualSites> {
    const port = await freePort();
    const { size, roundTripMs = 0, ...both } = options;
    const a = await this.start({ site: 'a', role: 'dual', volumes: [`vm:${size}`], listen: port, ...both });
    const proxy = this.keep(await DelayProxy.start({ target: { host: '127.0.0.1', port }, oneWayMs: roundTripMs / 2 }));
    const b = await this.start({ site: 'b', role: 'dual', peer: `ws://127.0.0.1:${proxy.port}`, ...both });
    await Promise.all([a.untilStreaming(), b.untilStreaming()]);
    return { a, b, proxy };
  }

  async close(): Promise<void> {
    for (const close of this.#closers.splice(0).reverse()) await close();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

export interface PairOptions extends Pick<ProcessOptions, 'ring' | 'journal' | 'kernel' | 'key'> {
  /** Bytes of volume `vm`. */
  size: number;
  roundTripMs?: number;
  source?: Partial<ProcessOptions>;
  target?: Partial<ProcessOptions>;
}

export interface PairOfGateways {
  source: GatewayProcess;
  target: GatewayProcess;
  proxy: DelayProxy;
  /** Where the target listens. */
  port: number;
}

export interface DualSites {
  a: GatewayProcess;
  b: GatewayProcess;
  proxy: DelayProxy;
}

/** Nothing is on its way between two sites any more: each has applied what the other has appended. */
export async function untilEqual(a: GatewayProcess, b: GatewayProcess): Promise<void> {
  const end = ({ cursors }: GroupStatus) => `${cursors.own.appended} ${cursors.peer.applied}`;
  const mirrored = ({ cursors }: GroupStatus) => `${cursors.peer.applied} ${cursors.own.appended}`;
  let shown = '';
  const look = async () => {
    const [atA, atB] = [await a.status(), await b.status()];
    shown = `${a.options.site} ${JSON.stringify(atA.cursors)} ${JSON.stringify(atA.link)}, ${b.options.site} ${JSON.stringify(atB.cursors)} ${JSON.stringify(atB.link)}`;
    // an ABORT may still follow from what was just applied: twice the same is still
    if (end(atA) !== mirrored(atB)) return false;
    return end(await a.status()) === end(atA) && mirrored(await b.status()) === mirrored(atB);
  };
  await until('both sites having applied everything', look).catch((error: Error) => {
    throw new Error(`${error.message}: ${shown}`);
  });
}

/** A gateway that did not start: what it said, and its exit code. */
export class StartError extends Error {
  readonly status: number | null;
  constructor(status: number | null, said: string) {
    super(`the gateway ended with ${status}: ${said}`);
    this.status = status;
  }
}

export class GatewayProcess {
  readonly options: ProcessOptions;
  readonly child: ChildProcess;
  readonly control: ControlClient;
  #said = '';
  #ending: 'kill' | 'stop' | null = null;

  private constructor(options: ProcessOptions) {
    this.options = options;
    mkdirSync(options.state, { recursive: true });
    this.child = spawn(process.execPath, [CLI, ...argumentsOf(options)], { stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [this.child.stdout!, this.child.stderr!]) {
      stream.on('data', (chunk) => {
        this.#said = (this.#said + chunk).slice(-10_000);
      });
    }
    this.child.on('exit', (code, signal) => {
      if (this.#ending === null && code !== EXIT_CONFIG) {
        process.stderr.write(`gateway ${options.site} ended by itself (${code ?? signal}): ${this.#said}\n`);
      }
    });
    this.control = new ControlClient({ state: options.state });
  }

  /**
   * Resolves when its control API answers; a primary may still wait for its peer.
   * @throws StartError when it ends instead
   */
  static async start(options: ProcessOptions): Promise<GatewayProcess> {
    if (!existsSync(CLI)) throw new Error(`nothing is built in ${DIST}: npm run build`);
    const gateway = new GatewayProcess(options);
    const end = Date.now() + START_MS_MAX;
    for (;;) {
      if (!gateway.running) throw new StartError(gateway.child.exitCode, gateway.#said);
      // only its own word counts: on a used state directory somebody else answers
      if (/^control /m.test(gateway.#said)) return gateway;
      if (Date.now() > end) {
        await gateway.kill();
        throw new Error(`gateway ${options.site} does not answer: ${gateway.#said}`);
      }
      await sleep(20);
    }
  }

  get running(): boolean {
    return this.child.exitCode === null && this.child.signalCode === null;
  }
  get pid(): number {
    return this.child.pid!;
  }
  /** What it printed. */
  get said(): string {
    return this.#said;
  }

  async uri(exportName: string): Promise<string> {
    const [volume] = exportName.split('@');
    const found = await until(`an NBD address for ${exportName}`, async () => {
      const { nbdUris } = await this.control.status();
      return nbdUris.find((uri) => /\/([^/@]+)(@applied)?$/.exec(uri)?.[1] === volume) ?? null;
    });
    return `${found.slice(0, found.lastIndexOf('/') + 1)}${exportName}`;
  }

  /** Of its one group. */
  async status(): Promise<GroupStatus> {
    const { groups } = await this.control.status();
    return groups[0]!;
  }

  verify(volume = 'vm', maps = false): Promise<VerifyReport> {
    return this.control.verify(volume, { maps });
  }

  async untilStreaming(): Promise<void> {
    let shown = '';
    const look = async () => {
      const { state, reason } = (await this.status()).link;
      shown = `${state} ${reason}`;
      return state === 'streaming';
    };
    await until(`site ${this.options.site} streaming`, look).catch((error: Error) => {
      throw new Error(`${error.message}: it says ${shown}`);
    });
  }

  async untilConsistent(): Promise<void> {
    await until(`site ${this.options.site} consistent`, async () => (await this.status()).consistency === 'consistent');
  }

  /** Of a source: the target has applied all that is appended by then. @returns the sequence */
  untilApplied(): Promise<number> {
    return until('the target having applied everything', async () => {
      const { appended, applied } = (await this.status()).cursors.own;
      return applied >= appended ? applied : null;
    });
  }

  /** kill -9. */
  async kill(): Promise<void> {
    this.#ending ??= 'kill';
    if (!this.running) return;
    this.child.kill('SIGKILL');
    await once(this.child, 'exit');
  }

  /** A clean stop. @returns the exit code */
  async stop(): Promise<number | null> {
    this.#ending ??= 'stop';
    if (!this.running) return this.child.exitCode;
    const timer = setTimeout(() => this.child.kill('SIGKILL'), STOP_MS_MAX);
    this.child.kill('SIGTERM');
    await once(this.child, 'exit');
    clearTimeout(timer);
    return this.child.exitCode;
  }
}
