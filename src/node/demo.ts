/**
 * The demonstration, `forelock demo`: two gateways 50 ms apart, a host that writes, and what speculation makes of it.
 *
 *     west   source: `forelock serve` in a process of its own for the NBD phases; for the scopes the same state
 *            directory is opened in this process, through the library
 *     east   standby: one `forelock serve` process from the beginning to the end
 *
 *     for speculation on, then off:  writes over NBD -> drain -> scopes through the library -> drain -> verify
 *
 * Everything lives in a temporary directory, which is removed at the end, as are the processes, whatever the end is.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ForelockError } from '../errors.js';
import { LibraryVolume } from '../frontend/library/volume.js';
import { NbdClient } from '../frontend/nbd/client.js';
import { GIB, MIB } from '../limits.js';
import { built, VERSION } from '../paths.js';
import { formatSize } from '../units.js';
import type { VerifyReport } from '../volume/verify.js';
import { ControlClient, type GatewayStatus, type GroupStatus } from './control.js';
import { DEPTH, Meter, SCOPE_WRITES, scopesInLibrary, writeOverNbd } from './demo-load.js';
import {
  type DemoView,
  formatCount,
  formatMs,
  formatRate,
  openScreen,
  type PhaseView,
  type Screen,
  type SiteView,
  styleOf,
  TICK_MS,
} from './demo-screen.js';
import { Gateway } from './gateway.js';

const ROUND_TRIP_MS = 50;
const VOLUME = 'disk';
const VOLUME_SIZE = 64 * MIB;
const JOURNAL_SIZE = 512 * MIB;
/** Both journals full, and some. */
const DISK_NEEDED = 1.5 * GIB;
const START_MS_MAX = 15_000;
const STOP_MS_MAX = 10_000;
const DRAIN_MS_MAX = 60_000;
/** Samples that make the live rate: a second. */
const RATE_SAMPLES = 10;
/** Both modes write the same places in the same order. */
const SEED = 0x0f0e10c4;

export interface DemoOptions {
  /** Leave both gateways running, and say where they are. */
  keep: boolean;
  /** Print one JSON object at the end, and nothing else. */
  json?: boolean;
  /** Length of all phases relative to the usual half a minute. @default 1 */
  scale?: number;
  /** Where to draw. @default process.stdout */
  stdout?: NodeJS.WriteStream;
}

/** What one phase came to. */
export interface PhaseResult {
  perSecond: number;
  p50Ms: number;
  p99Ms: number;
  /** How far the standby was behind when the load stopped. */
  lagRecords: number;
  /** From then until it had applied everything. */
  drainMs: number;
}

interface ModeResult {
  writes: PhaseResult;
  scopes: PhaseResult;
  verify: VerifyReport;
}

/** Runs it. @returns the exit code: 0 when both sides were equal each time, 1 when not, 128 + signal when stopped */
export async function runDemo(options: DemoOptions): Promise<number> {
  const demo = new Demo(options);
  try {
    return await demo.run();
  } catch (error) {
    return demo.fail(error);
  } finally {
    await demo.close();
  }
}

/** The demonstration was told to stop. */
class Stopped extends Error {
  readonly exitCode: number;
  constructor(signal: 'SIGINT' | 'SIGTERM' | 'SIGHUP') {
    super(signal);
    this.exitCode = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 }[signal];
  }
}

class Demo {
  readonly #options: DemoOptions;
  readonly #out: NodeJS.WriteStream;
  readonly #screen: Screen;
  readonly #directory: string;
  readonly #processes = new Set<SiteProcess>();
  #gateway: Gateway | null = null;
  #client: NbdClient | null = null;
  #kept = false;
  readonly #stopped: Promise<never>;
  #stop!: (error: Error) => void;
  #failure: Error | null = null;
  readonly #signals = new Map<NodeJS.Signals, () => void>();
  readonly #onExit = (): void => this.#abandon();
  readonly #west: SiteView = { name: 'west', role: 'primary', process: '' };
  readonly #east: SiteView = { name: 'east', role: 'standby', process: '' };
  readonly #view: DemoView;

  constructor(options: DemoOptions) {
    this.#options = options;
    this.#directory = makeDirectory();
    this.#out = options.stdout ?? process.stdout;
    this.#stopped = new Promise((_, reject) => {
      this.#stop = (error) => {
        this.#failure ??= error;
        reject(error);
      };
    });
    this.#stopped.catch(() => {});
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      let asked = 0;
      const handler = (): void => {
        asked += 1;
        this.#stop(new Stopped(signal));
        if (asked > 1) this.#abandon(); // asked twice: no more waiting for clean stops
      };
      this.#signals.set(signal, handler);
      process.on(signal, handler);
    }
    process.on('exit', this.#onExit);
    const scale = options.scale ?? 1;
    const phase = (mode: PhaseView['mode'], what: string, unit: string, seconds: number, why: string): PhaseView => ({
      mode,
      what,
      unit,
      why,
      seconds: seconds * scale,
      state: 'to come',
      perSecond: 0,
      p50: 0,
      p99: 0,
    });
    const writes = '4 KiB writes over NBD';
    const scopes = `lock, ${SCOPE_WRITES} writes, unlock`;
    this.#view = {
      title: `forelock ${VERSION}: two gateways, two processes, a long line between them`,
      roundTripMs: ROUND_TRIP_MS,
      sites: [this.#west, this.#east],
      stream: { appended: 0, sent: 0, applied: 0 },
      phases: [
        phase('speculative', writes, 'writes', 7, 'lock and data leave together; nobody waits for east'),
        phase('speculative', scopes, 'scopes', 4, 'one scope after the other; no lock is waited for'),
        phase('lock-step', writes, 'writes', 5, 'ask for the lock, wait, send the data, wait'),
        phase('lock-step', scopes, 'scopes', 4, 'two round trips a scope, and nothing overlaps'),
      ],
      notes: [],
      doing: '',
      progress: 0,
    };
    this.#screen = options.json ? { draw() {}, say() {}, close() {} } : openScreen(this.#out, process.env);
  }

  async run(): Promise<number> {
    const [specWrites, specScopes, lockWrites, lockScopes] = this.#view.phases as [
      PhaseView,
      PhaseView,
      PhaseView,
      PhaseView,
    ];
    this.#doing('starting two gateways');
    const east = await this.#serve('east', this.#east, [
      ['--role', 'standby'],
      ['--listen', '127.0.0.1:0'],
    ]);
    const url = (await this.#group(east)).link.url;
    if (url === null) throw new ForelockError('AWAY', 'east does not say where it listens');
    const peer = url.replace(/^(ws:\/\/)?/, 'ws://');
    const speculative = await this.#mode(peer, 'on', specWrites, specScopes);
    const lockStep = await this.#mode(peer, 'off', lockWrites, lockScopes);
    const equal = speculative.verify.equal && lockStep.verify.equal;
    const kept = this.#options.keep ? await this.#keep(peer, east) : HINT;
    this.#view.progress = 1;
    this.#doing(equal ? 'done' : 'THE TWO SIDES DIFFER');
    if (this.#options.json) this.#json(speculative, lockStep, equal);
    else this.#table(speculative, lockStep);
    this.#screen.say(kept);
    return equal ? 0 : 1;
  }

  /** Says what went wrong and what to do. @returns the exit code */
  fail(error: unknown): number {
    const cause = this.#failure ?? error;
    if (cause instanceof Stopped) {
      this.#screen.say(`stopped (${cause.message}); the gateways are being stopped, their directory removed`);
      return cause.exitCode;
    }
    const text = cause instanceof ForelockError ? `${cause.code}: ${cause.message}` : String((cause as Error).stack);
    process.stderr.write(`\nforelock demo: ${text}\n`);
    for (const site of this.#processes) process.stderr.write(site.lastWords());
    return 1;
  }

  /** Stops everything that was started and removes the directory, unless it is to be kept. */
  async close(): Promise<void> {
    this.#failure ??= new Stopped('SIGTERM');
    this.#stop(this.#failure); // whoever still waits stops waiting
    this.#client?.destroy();
    await this.#gateway?.close().catch(() => {});
    if (!this.#kept) {
      await Promise.all([...this.#processes].map((site) => site.stop().catch(() => {})));
      rmSync(this.#directory, { recursive: true, force: true });
    }
    this.#screen.close();
    for (const [signal, handler] of this.#signals) process.off(signal, handler);
    process.off('exit', this.#onExit);
  }

  // ---- the two modes

  async #mode(peer: string, speculation: 'on' | 'off', writes: PhaseView, scopes: PhaseView): Promise<ModeResult> {
    const west = await this.#serve('west', this.#west, westFlags(peer, speculation));
    await this.#streaming(() => this.#group(west));
    const uri = await this.#uri(west);
    const client = await this.#unlessStopped(NbdClient.connect(uri));
    this.#client = client;
    const written = await this.#phase(
      writes,
      (meter, stop) => writeOverNbd(client, meter, stop, SEED),
      () => this.#group(west),
    );
    await client.close();
    this.#client = null;
    this.#doing('stopping west, opening its state directory in this process');
    await west.stop();
    this.#processes.delete(west);

    const gateway = await this.#embed(peer, speculation);
    await this.#streaming(async () => gateway.status().groups[0]!);
    const volume = new LibraryVolume(gateway.volume(VOLUME));
    const scoped = await this.#phase(
      scopes,
      (meter, stop) => scopesInLibrary(volume, meter, stop, SEED),
      async () => gateway.status().groups[0]!,
    );
    this.#doing('verify: both sites read every block back and hash it');
    const verify = await this.#unlessStopped(gateway.verify(VOLUME));
    this.#view.notes.push(`${writes.mode}: ${verdict(verify)}`);
    this.#doing('stopping west');
    await gateway.close();
    this.#gateway = null;
    return { writes: written, scopes: scoped, verify };
  }

  /** Runs a load for the phase's time, then waits until the standby has applied all of it. */
  async #phase(
    phase: PhaseView,
    load: (meter: Meter, stop: AbortSignal) => Promise<void>,
    sample: () => Promise<GroupStatus>,
  ): Promise<PhaseResult> {
    const meter = new Meter();
    const stop = new AbortController();
    const samples: { at: number; count: number }[] = [];
    let loading = true;
    const begun = performance.now();
    phase.state = 'running';
    this.#view.doing = phase.why;
    const loaded = load(meter, stop.signal).then(() => {
      loading = false;
    });
    loaded.catch((error: Error) => this.#stop(asHostError(error)));
    try {
      for (let now = begun; now - begun < phase.seconds * 1000; now = performance.now()) {
        samples.push({ at: now, count: meter.count });
        if (samples.length > RATE_SAMPLES + 1) samples.shift();
        const first = samples[0]!;
        phase.perSecond = now === first.at ? 0 : ((meter.count - first.count) * 1000) / (now - first.at);
        if (samples.length > RATE_SAMPLES || phase.p50 === 0) Object.assign(phase, meter.takeWindow() ?? {});
        this.#view.progress = (now - begun) / (phase.seconds * 1000);
        await this.#look(sample);
        await this.#unlessStopped(sleep(TICK_MS));
      }
    } finally {
      stop.abort();
    }
    const stoppedAt = performance.now();
    Object.assign(phase, {
      state: 'draining',
      perSecond: (meter.count * 1000) / (stoppedAt - begun),
      p50: meter.percentile(50),
      p99: meter.percentile(99),
    });
    this.#view.doing = 'the load has stopped; east applies what is on its way';
    const lagRecords = (await this.#look(sample)).lag?.records ?? 0;
    for (;;) {
      const group = await this.#look(sample);
      const { appended, applied } = group.cursors.own;
      if (!loading && applied >= appended) break;
      if (performance.now() - stoppedAt > DRAIN_MS_MAX) {
        throw new ForelockError(
          'ETIMEDOUT',
          `east is still ${appended - applied} records behind after ${DRAIN_MS_MAX / 1000} s (link: ${group.link.state} ${group.link.reason}); run it again on a quieter machine`,
        );
      }
      await this.#unlessStopped(sleep(TICK_MS / 10));
    }
    const drainMs = performance.now() - stoppedAt;
    phase.state = 'done';
    this.#screen.draw(this.#view);
    return {
      perSecond: phase.perSecond,
      p50Ms: phase.p50,
      p99Ms: phase.p99,
      lagRecords,
      drainMs,
    };
  }

  // ---- sites

  async #serve(name: string, shown: SiteView, flags: readonly (readonly [string, string])[]): Promise<SiteProcess> {
    const site = new SiteProcess(name, join(this.#directory, name), flags, (reason) =>
      this.#stop(new ForelockError('AWAY', `gateway ${name} ended by itself (${reason})`)),
    );
    this.#processes.add(site);
    await this.#unlessStopped(site.started());
    shown.process = `pid ${site.pid}`;
    return site;
  }

  /** The library's way: the gateway of west in this process, over the same state directory. */
  async #embed(peer: string, speculation: 'on' | 'off'): Promise<Gateway> {
    this.#west.process = `library, ${process.pid}`;
    this.#gateway = await Gateway.open({
      state: join(this.#directory, 'west'),
      site: 'west',
      nbd: [],
      groups: [
        {
          group: 'main',
          role: 'primary',
          volumes: [{ name: VOLUME, size: VOLUME_SIZE }],
          peer,
          // a scope of lock-step is over when its writes are applied; of the other, when they are written
          ack: speculation === 'on' ? 'local' : 'applied',
          speculation,
          whenPeerAway: 'degrade',
          kernel: 'wasm',
          journal: JOURNAL_SIZE,
          linkRttMs: ROUND_TRIP_MS,
        },
      ],
    });
    await this.#unlessStopped(this.#gateway.ready());
    return this.#gateway;
  }

  async #group(site: SiteProcess): Promise<GroupStatus> {
    return (await this.#unlessStopped(site.status())).groups[0]!;
  }

  async #uri(site: SiteProcess): Promise<string> {
    const status = await this.#unlessStopped(site.status());
    const uri = status.nbdUris.find((each) => each.split('/').at(-1)!.split('@')[0] === VOLUME);
    if (uri === undefined) throw new ForelockError('AWAY', `gateway ${site.name} serves no volume ${VOLUME}`);
    return uri;
  }

  async #streaming(sample: () => Promise<GroupStatus>): Promise<void> {
    const until = performance.now() + START_MS_MAX;
    for (;;) {
      const group = await this.#look(sample);
      if (group.link.state === 'streaming') return;
      if (performance.now() > until) {
        throw new ForelockError('AWAY', `the two gateways do not meet: ${group.link.state} ${group.link.reason}`);
      }
      await this.#unlessStopped(sleep(20));
    }
  }

  // ---- the picture

  async #look(sample: () => Promise<GroupStatus>): Promise<GroupStatus> {
    const group = await sample();
    const { own } = group.cursors;
    this.#view.stream = { appended: own.appended, sent: own.sent, applied: own.applied };
    this.#screen.draw(this.#view);
    return group;
  }

  #doing(what: string): void {
    this.#view.doing = what;
    this.#screen.draw(this.#view);
  }

  #table(speculative: ModeResult, lockStep: ModeResult): void {
    const { bold, dim, good, bad } = styleOf(this.#out, process.env);
    const line = (title: string, a: string, b: string, note = ''): string =>
      `  ${title.padEnd(32)}${a.padStart(14)}${b.padStart(14)}${note === '' ? '' : `   ${note}`}`;
    const rows = (a: PhaseResult, b: PhaseResult, unit: string): string[] => [
      line(
        `  ${unit} a second`,
        formatRate(a.perSecond),
        formatRate(b.perSecond),
        bold(factor(a.perSecond, b.perSecond)),
      ),
      line('  latency, p50', formatMs(a.p50Ms), formatMs(b.p50Ms)),
      line('  latency, p99', formatMs(a.p99Ms), formatMs(b.p99Ms)),
      line('  records behind at the end', formatCount(a.lagRecords), formatCount(b.lagRecords)),
      line('  caught up after', formatMs(a.drainMs), formatMs(b.drainMs)),
    ];
    const lines = [
      '',
      bold(line(`${ROUND_TRIP_MS} ms round trip`, 'speculative', 'lock-step')),
      dim(`  4 KiB random writes over NBD, ${DEPTH} in flight`),
      ...rows(speculative.writes, lockStep.writes, 'writes'),
      dim(`  lock, ${SCOPE_WRITES} writes of 4 KiB, unlock: one scope at a time, through the library`),
      ...rows(speculative.scopes, lockStep.scopes, 'scopes'),
      '',
    ];
    for (const [mode, { verify }] of [
      ['speculative', speculative],
      ['lock-step', lockStep],
    ] as const) {
      lines.push(`  ${mode.padEnd(13)}${verify.equal ? good(verdict(verify)) : bad(verdict(verify))}`);
    }
    this.#screen.say(lines.join('\n'));
  }

  #json(speculative: ModeResult, lockStep: ModeResult, equal: boolean): void {
    const result = { version: VERSION, roundTripMs: ROUND_TRIP_MS, equal, speculative, lockStep };
    this.#out.write(`${JSON.stringify(result)}\n`);
  }

  /** West once more, as a process: both go on without this one. @returns where they are and how to stop them */
  async #keep(peer: string, east: SiteProcess): Promise<string> {
    this.#doing('starting west again, to stay');
    const west = await this.#serve('west', this.#west, westFlags(peer, 'on'));
    await this.#streaming(() => this.#group(west));
    const [uri, standby] = [await this.#uri(west), await this.#uri(east)];
    this.#kept = true;
    for (const site of [west, east]) site.release();
    return [
      '',
      '  Both gateways go on running:',
      `    west   ${uri}`,
      `    east   ${standby}  (the standby's content, read-only, as of when you connect)`,
      `  state    ${this.#directory}`,
      `  look     npx forelock status --state ${join(this.#directory, 'west')}`,
      `  stop     kill ${west.pid} ${east.pid} && rm -r ${this.#directory}`,
    ].join('\n');
  }

  // ---- ends

  /** What was asked for, unless the demonstration is over before. */
  #unlessStopped<T>(work: Promise<T>): Promise<T> {
    return Promise.race([work, this.#stopped]);
  }

  /** The last resort, when this process goes without waiting. */
  #abandon(): void {
    if (this.#kept) return;
    for (const site of this.#processes) site.kill();
    this.#screen.close();
    rmSync(this.#directory, { recursive: true, force: true, maxRetries: 3 });
  }
}

const HINT = '\n  To look around: npm start -- --keep leaves both gateways running.';

function westFlags(peer: string, speculation: 'on' | 'off'): [string, string][] {
  return [
    ['--role', 'primary'],
    ['--volume', `${VOLUME}:${VOLUME_SIZE}`],
    ['--peer', peer],
    ['--link-rtt', String(ROUND_TRIP_MS)],
    ['--speculation', speculation],
  ];
}

function verdict({ equal, blocks, checksum, differences, unreadable }: VerifyReport): string {
  if (equal) return `both sides equal: ${formatCount(blocks)} blocks, checksum ${checksum}`;
  return `the sides differ: ${differences.length} extents differ, ${unreadable.length} cannot be read; please report this`;
}

function factor(a: number, b: number): string {
  return b > 0 ? `${formatRate(a / b)} times` : '';
}

function asHostError(error: Error): Error {
  return error instanceof ForelockError ? error : new ForelockError('EIO', `the host's load failed: ${error.message}`);
}

/** @throws ForelockError CONFIG when the disk is too small for it */
function makeDirectory(): string {
  const { bavail, bsize } = statfsSync(tmpdir());
  const free = bavail * bsize;
  if (free < DISK_NEEDED) {
    throw new ForelockError(
      'CONFIG',
      `${tmpdir()} has ${formatSize(free)} free and the demonstration may need ${formatSize(DISK_NEEDED)}: set TMPDIR to a directory with more`,
    );
  }
  return mkdtempSync(join(tmpdir(), 'forelock-demo-'));
}

/** One `forelock serve`, in a process of its own. */
class SiteProcess {
  readonly name: string;
  readonly #log: string;
  readonly #child: ChildProcess;
  readonly #control: ControlClient;
  readonly #ended: Promise<void>;
  #isStopping = false;
  #hasEnded = false;

  /** @param onGone it ended without being told to */
  constructor(
    name: string,
    state: string,
    flags: readonly (readonly [string, string])[],
    onGone: (reason: string) => void,
  ) {
    this.name = name;
    this.#log = `${state}.log`;
    this.#control = new ControlClient({ state });
    const log = openSync(this.#log, 'a');
    const common = ['--state', state, '--nbd', '127.0.0.1:0', '--journal', String(JOURNAL_SIZE)];
    // a session of its own: Ctrl-C is for the demonstration, which then stops its gateways in order
    this.#child = spawn(process.execPath, [built('src/node/cli.js'), 'serve', ...common, ...flags.flat()], {
      stdio: ['ignore', log, log],
      detached: true,
    });
    closeSync(log);
    this.#ended = new Promise((resolve) => {
      const end = (reason: string): void => {
        if (this.#hasEnded) return;
        this.#hasEnded = true;
        if (!this.#isStopping) onGone(reason);
        resolve();
      };
      this.#child.once('error', (error) => end(error.message));
      this.#child.once('exit', (code, signal) => end(signal ?? `exit code ${code}`));
    });
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  status(): Promise<GatewayStatus> {
    return this.#control.status();
  }

  async started(): Promise<void> {
    const until = performance.now() + START_MS_MAX;
    while (!this.#hasEnded) {
      try {
        await this.status();
        return;
      } catch (error) {
        if (performance.now() > until) throw error;
      }
      await sleep(20);
    }
  }

  /** A clean stop, and a hard one if that takes too long. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    if (this.#hasEnded) return;
    this.#child.kill('SIGTERM');
    const timer = setTimeout(() => this.kill(), STOP_MS_MAX);
    await this.#ended;
    clearTimeout(timer);
  }

  kill(): void {
    this.#isStopping = true;
    if (!this.#hasEnded) this.#child.kill('SIGKILL');
  }

  /** It goes on without us. */
  release(): void {
    this.#isStopping = true;
    this.#child.unref();
  }

  /** The end of its log, for an error report. */
  lastWords(): string {
    try {
      const lines = readFileSync(this.#log, 'utf8').trimEnd().split('\n').slice(-8);
      return lines[0] === '' ? '' : `--- ${this.name} said last:\n${lines.join('\n')}\n`;
    } catch {
      return '';
    }
  }
}
