#!/usr/bin/env node
/**
 * The `forelock` command. Parsing, printing and exit codes only; what it does is elsewhere.
 *
 *     0   yes, or done
 *     1   the answer is no: the sides differ, the journal is damaged, the lock was not had; of serve: its disk failed or is
 *         full, and the stop could not make everything durable
 *     2   the command line is wrong
 *     3   could not tell: gateway or peer away
 *     78  the configuration, or the state that it names, is wrong
 */
import { existsSync, realpathSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command, CommanderError, Option } from 'commander';
import xxhash from 'xxhash-wasm';
import { type ErrorCode, ForelockError } from '../errors.js';
import { HOLD_SECONDS_MAX, LOCK_WAIT_MS_MAX, STATUS_MS_MAX, VERIFY_STALL_MS } from '../limits.js';
import { readKey } from '../link/key.js';
import { REJECT_POLICIES } from '../mirror/wire.js';
import { VERSION } from '../paths.js';
import { formatSize, parseName, parseSize } from '../units.js';
import { type Flags, resolveOptions } from './config.js';
import {
  ADMIN_SOCKET,
  ControlClient,
  ControlServer,
  type GatewayStatus,
  STATUS_SCHEMA,
  type VerifyProgress,
  type VerifyReport,
} from './control.js';
import { fitScreen } from './fit-screen.js';
import { formatStatus, paintFor } from './format-status.js';
import { FromFilter, findJournals, formatLogEvent, JournalWalk } from './log.js';

export const EXIT_YES = 0;
export const EXIT_NO = 1;
export const EXIT_USAGE = 2;
export const EXIT_AWAY = 3;
export const EXIT_CONFIG = 78;

const EXIT_CODES: Partial<Record<ErrorCode, number>> = {
  USAGE: EXIT_USAGE,
  EINVAL: EXIT_USAGE,
  AWAY: EXIT_AWAY,
  PEER_AWAY: EXIT_AWAY,
  PEER_TIMEOUT: EXIT_AWAY,
  ESHUTDOWN: EXIT_AWAY,
  EPERM: EXIT_AWAY,
  ENOTSUP: EXIT_AWAY,
  CONFIG: EXIT_CONFIG,
  STATE_LOCKED: EXIT_CONFIG,
  STATE_NEWER: EXIT_CONFIG,
  STATE_MISMATCH: EXIT_CONFIG,
};

const WATCH_MS = 1000;
const LOCK_WAIT_SECONDS_MAX = LOCK_WAIT_MS_MAX / 1000;

/** Runs one command line; the exit code. Output goes to the process's streams. */
export async function main(args: readonly string[]): Promise<number> {
  let exitCode = EXIT_YES;
  const program = makeProgram((code) => {
    exitCode = code;
  });
  try {
    await program.parseAsync([...args], { from: 'user' });
    return exitCode;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT_YES : EXIT_USAGE;
    if (error instanceof ForelockError) {
      for (const line of error.message.split('\n')) process.stderr.write(`forelock: ${line}\n`);
      return EXIT_CODES[error.code] ?? EXIT_NO;
    }
    throw error;
  }
}

function makeProgram(exit: (code: number) => void): Command {
  const program = new Command('forelock')
    .description('A speculative block-volume mirror: writes go to the second site before the lock does.')
    .version(VERSION)
    .exitOverride()
    .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, 'forelock: ')) })
    .showSuggestionAfterError()
    .addHelpText(
      'after',
      `
Exit codes: 0 yes; 1 the answer is no (differs, damaged, not all made durable at a stop); 2 usage;
3 could not tell (gateway or peer away); 78 configuration.

First steps:
  forelock demo                                        see it work: two gateways, 50 ms apart, in half a minute
  forelock serve --help                                how to set up a pair
  forelock status --state DIR                          what a running gateway does`,
    );
  addServe(program);
  addStatus(program);
  addVerify(program, exit);
  addLock(program, exit);
  addLog(program, exit);
  program
    .command('demo')
    .description(
      'Show a mirrored pair at work: two gateways with a long line between them, speculative against lock-step.',
    )
    .option('--keep', 'leave both gateways running and print their addresses')
    .option('--json', 'print only the result, as JSON')
    .action(async (options: { keep?: boolean; json?: boolean }) => {
      const { runDemo } = await import('./demo.js');
      exit(await runDemo({ keep: options.keep ?? false, json: options.json ?? false }));
    });
  return program;
}

// ---- serve

function addServe(program: Command): void {
  const collect = (value: string, before: string[] | undefined): string[] => [...(before ?? []), value];
  const choice = (flags: string, text: string, ...choices: string[]): Option =>
    new Option(flags, `${text} (choices: ${choices.join(', ')})`);
  program
    .command('serve')
    .description('Run a gateway: serve volumes to hosts over NBD and mirror them to a peer, or hold the mirror.')
    .option('--state <dir>', 'state directory; created if missing')
    .option(
      '--volume <spec>',
      'NAME[:SIZE][,block-size=N][,platter=flat,path=FILE]; repeat for more. SIZE may be left out if it exists; block-size is fixed when it is made (512 to 64K, default 4096)',
      collect,
    )
    .option('--nbd <host:port>', 'where hosts connect (default: 127.0.0.1:10809, unless --nbd-unix is given), or none')
    .option('--nbd-unix <path>', 'a unix socket for hosts on this machine')
    .option('--listen <host:port>', 'wait for the peer here; of a pair one end has --listen, the other --peer')
    .option('--peer <url>', 'ws://HOST:PORT of the peer that listens')
    .addOption(
      choice(
        '--role <role>',
        'serve hosts, hold the mirror, or both sites serve at once; default: as before, for a new state primary if it has a --volume',
        'primary',
        'standby',
        'dual',
      ),
    )
    .option('--key <file>', 'shared key; required at both ends unless the link stays on loopback')
    .option('--admin <host:port>', `control API over TCP, loopback only, beside the socket DIR/${ADMIN_SOCKET}`)
    .addOption(
      choice(
        '--ack <when>',
        'when a flush is answered: durable here / at the peer / applied there; default local',
        'local',
        'received',
        'applied',
      ),
    )
    .addOption(
      choice('--speculation <switch>', "off: wait for the peer's lock before the data; default on", 'on', 'off'),
    )
    .addOption(
      choice('--kernel <name>', 'which twin of the kernels runs; default wasm', 'wasm', 'reference', 'compare'),
    )
    .addOption(
      choice(
        '--when-peer-away <policy>',
        'what a promise that needs the peer does without it; default degrade',
        'degrade',
        'block',
        'fail',
      ),
    )
    .option(
      '--when-split <policy>',
      'dual, link down: freeze (default), or prefer:SITE goes on alone, once both have met with it; only:SITE: the other site is gone for good',
    )
    .addOption(
      choice(
        '--on-reject <policy>',
        "the primary's: where the standby's blocks are locked, go on sending, stop, or send again; default target-retry",
        ...REJECT_POLICIES,
      ),
    )
    .option('--site <name>', "this site's name (default: the state directory's); the peer's must differ")
    .option('--group <name>', 'the group that all --volume form (default: main)')
    .option(
      '--journal <size>',
      "journal on disk, per group (default: twice the volumes' size, and 16 to 256 MiB; of small ones their size, and 64 MiB)",
    )
    .option('--ring <size>', 'shared-memory ring, per group; a multiple of 4M (default: 64M)')
    .option('--link-rtt <ms>', 'make the link longer by this round trip: for demonstrations and tests, at one end')
    .option('--link-rate <bytes/s>', 'let no more than this through the link, in each direction')
    .option('--config <file>', 'YAML with the same settings; needed for several groups. Flags win over it')
    .addHelpText(
      'after',
      `
Names: a letter or digit, then up to 63 letters, digits, '.', '_' or '-'.
Sizes: a whole number with K, M, G, T or KiB .. TiB (powers of 1024) or KB .. TB (powers of 1000).

A pair on one machine:
  forelock serve --state b --role standby --listen 127.0.0.1:10900 --nbd 127.0.0.1:10810
  forelock serve --state a --volume disk:1G --peer ws://127.0.0.1:10900
  nbdcopy image.raw nbd://127.0.0.1:10809/disk            write through the primary
  forelock verify disk --state a                          compare both sides
  nbdcopy nbd://127.0.0.1:10810/disk@applied copy.raw     read what the standby has applied

Between machines, with a key in a file at both ends (openssl rand -hex 32 > key && chmod 600 key):
  forelock serve --state /srv/b --role standby --listen 0.0.0.0:10900 --key key
  forelock serve --state /srv/a --volume disk:1T --peer ws://b.example:10900 --key key

An existing image, mirrored in place:
  forelock serve --state a --volume disk:20G,platter=flat,path=disk.img --peer ws://127.0.0.1:10900

SIGTERM, SIGINT and SIGHUP stop it: what was written is made durable first. A second one (but SIGHUP) stops it at once.

From a file, with two groups:
  state: /srv/a
  groups:
    - { name: db,  volumes: [data:100G, wal:10G], peer: "ws://b:10900", key: key, ack: received }
    - { name: web, volumes: [www:50G],            peer: "ws://b:10901", key: key }`,
    )
    .action(async (given: Record<string, string | string[] | undefined>) => {
      const { config, volume, ...others } = given;
      const flags: Flags = {};
      for (const [name, value] of Object.entries(others)) {
        const key = name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
        (flags as Record<string, unknown>)[key] = value;
      }
      if (volume !== undefined) flags.volumes = volume as string[];
      await serve(flags, (config as string | undefined) ?? null);
    });
}

/** Runs a gateway until a signal. */
async function serve(flags: Flags, configPath: string | null): Promise<void> {
  // a gateway goes on, and stops cleanly, when nobody hears any more what it says: a pipe that ended, a full disk
  for (const stream of [process.stdout, process.stderr]) stream.removeAllListeners('error').on('error', () => {});
  const options = resolveOptions(flags, configPath);
  const stopping = stopSignal(); // a start may take a recovery, and stops in order behind it
  const warn = (text: string): void => void process.stderr.write(`forelock: warning: ${text}\n`);
  for (const { key } of options.groups) {
    const warning = key === null ? null : readKey(key).warning;
    if (warning !== null) warn(warning);
  }
  const { Gateway } = await import('./gateway.js'); // everything else starts faster without it
  const tell = (text: string): void => void process.stderr.write(`forelock: ${text}\n`);
  const gateway = await Gateway.fromConfig(options, tell);
  const control = await ControlServer.open({
    control: gateway,
    socket: join(options.state, ADMIN_SOCKET),
    admin: options.admin,
    onError: (error) => warn(`control API: ${error.stack}`),
  }).catch(async (error) => {
    await gateway.abandon();
    throw error;
  });
  try {
    for (const warning of gateway.warnings) warn(warning);
    say(`forelock ${VERSION}: site ${options.site}, state ${options.state}`);
    for (const { name, role, link } of gateway.status().groups) {
      say(`group ${name}: ${role}${link.url === null ? '' : `, link ${link.url}`}`);
    }
    say(`control ${control.url ?? join(options.state, ADMIN_SOCKET)}`);
    const isReady = await Promise.race([gateway.ready().then(() => true), stopping.then(() => false)]);
    if (isReady) {
      for (const uri of gateway.nbdUris()) say(uri);
      const copied = gateway.groups.filter(({ mirror }) => !mirror.imageConsistent).map(({ name }) => name);
      say(
        copied.length === 0 ? 'ready' : `ready, but for the first copy of ${copied.join(', ')}, which is not whole yet`,
      );
    }
    await stopping;
  } finally {
    await control.close();
    await gateway.close();
  }
  const [undurable, ...others] = await gateway.close();
  if (undurable !== undefined)
    throw new ForelockError(undurable.code, [undurable, ...others].map(({ message }) => message).join('\n'));
  say('stopped');
}

/**
 * Resolves at the first SIGTERM, SIGINT or SIGHUP; a second one ends the process at once. But not a second SIGHUP: of a
 * terminal that closes, the shell and the system may each send one.
 */
function stopSignal(): Promise<void> {
  return new Promise((done) => {
    let asked = false;
    for (const [signal, number] of [
      ['SIGTERM', 15],
      ['SIGINT', 2],
      ['SIGHUP', 1],
    ] as const) {
      process.on(signal, () => {
        if (asked && signal !== 'SIGHUP') process.exit(128 + number);
        if (asked) return;
        asked = true;
        process.stderr.write('forelock: stopping, everything is being made durable; once more to stop at once\n');
        done();
      });
    }
  });
}

// ---- commands for a running gateway

interface Where {
  admin?: string;
  state?: string;
}

function addWhere(command: Command): Command {
  return command
    .option('--state <dir>', 'the state directory of the gateway (default: this directory, if a gateway runs on it)')
    .option('--admin <url>', 'its control API: http://HOST:PORT');
}

function clientOf({ admin, state }: Where): ControlClient {
  if (admin !== undefined && state !== undefined) throw new ForelockError('USAGE', 'give --state or --admin, not both');
  if (admin !== undefined) return new ControlClient({ admin });
  if (state !== undefined) return new ControlClient({ state: resolve(state) });
  if (existsSync(ADMIN_SOCKET)) return new ControlClient({ state: process.cwd() });
  throw new ForelockError('USAGE', 'which gateway? give --state DIR (its state directory) or --admin http://HOST:PORT');
}

function addStatus(program: Command): void {
  addWhere(program.command('status'))
    .description('Show what a gateway does: roles, link, cursors, lag, journal.')
    .option('--json', 'print it as JSON; with --watch a line a second')
    .option('--watch', 'redraw every second until interrupted; on a terminal, as much as fits it')
    .option('--counters', 'with all counters that are not 0; JSON always has them')
    .addHelpText(
      'after',
      `
Examples:
  forelock status --state /srv/a
  forelock status --admin http://127.0.0.1:8080 --watch
  forelock status --state /srv/a --json | jq '.groups[].lag'`,
    )
    .action(async (options: Where & { json?: boolean; watch?: boolean; counters?: boolean }) => {
      const client = clientOf(options);
      const paint = paintFor(process.stdout);
      const { counters = false } = options;
      const render = (status: GatewayStatus): string =>
        options.json === true
          ? `${JSON.stringify(status, null, options.watch === true ? 0 : 2)}\n`
          : formatStatus(status, paint, { counters });
      if (options.watch !== true) {
        process.stdout.write(render(await client.status()));
        return;
      }
      const { stdout } = process;
      const inPlace = stdout.isTTY && options.json !== true;
      let shown = { columns: 0, rows: 0 };
      const stop = new AbortController();
      process.once('SIGINT', () => stop.abort());
      while (!stop.signal.aborted) {
        // one column less: a terminal may go on to the next line behind the last one
        const [columns, rows] = [(stdout.columns || 80) - 1, stdout.rows || 24];
        let pages: string[];
        try {
          const status = await client.status(stop.signal);
          const fits = [{ counters }, { brief: true }];
          pages = inPlace ? fits.map((page) => formatStatus(status, paint, { ...page, columns })) : [render(status)];
        } catch (error) {
          // a watch outlives the gateway: it may come back
          if (!(error instanceof ForelockError) || error.code !== 'AWAY') throw error;
          if (stop.signal.aborted) return;
          const away = { schema: STATUS_SCHEMA, away: error.message };
          pages = [options.json === true ? `${JSON.stringify(away)}\n` : `${paint.bad('away')}: ${error.message}\n`];
        }
        if (!inPlace) stdout.write(pages[0]!);
        else {
          // home, or a clean page; each line with its old rest erased, and what was below them
          const isAnother = columns !== shown.columns || rows !== shown.rows;
          const lines = fitScreen(pages, columns, rows).join('\x1b[K\n');
          stdout.write(`${isAnother ? '\x1b[2J' : ''}\x1b[H${lines}\x1b[K\x1b[J`);
          shown = { columns, rows };
        }
        await new Promise((done) => setTimeout(done, WATCH_MS));
      }
    });
}

function addVerify(program: Command, exit: (code: number) => void): void {
  addWhere(program.command('verify'))
    .description('Compare a volume at both sites, as of one sequence, while it is being written.')
    .argument('<volume>')
    .option('--maps', 'compare only the checksums stored when the data was written: quick, reads no data')
    .option('--json', 'print the report as JSON')
    .addHelpText(
      'after',
      `
Re-reads and hashes the data at both sites. Exit code 0: equal; 1: they differ, and where; 3: could not tell, as the
peer is away or has applied nothing for ${VERIFY_STALL_MS / 1000} s, or the gateway has answered nothing for ${STATUS_MS_MAX / 1000} s. On a terminal it
says how far it is.

Examples:
  forelock verify disk --state /srv/a
  forelock verify disk --state /srv/a --maps`,
    )
    .action(async (name: string, options: Where & { maps?: boolean; json?: boolean }) => {
      const volume = parseName(name, 'volume');
      const { isTTY } = process.stderr;
      const onProgress = (progress: VerifyProgress): void =>
        void process.stderr.write(`\r${formatProgress(volume, progress, process.stderr.columns)}\x1b[K`);
      const report = await clientOf(options)
        .verify(volume, { maps: options.maps ?? false, onProgress: isTTY ? onProgress : undefined })
        .catch((error) => {
          // 1 would be an answer: that they differ
          if (error instanceof ForelockError && error.code in EXIT_CODES) throw error;
          throw new ForelockError('AWAY', error.message, { cause: error });
        })
        .finally(() => {
          if (isTTY) process.stderr.write('\r\x1b[K');
        });
      process.stdout.write(
        options.json === true ? `${JSON.stringify({ schema: 1, ...report }, null, 2)}\n` : formatVerify(report),
      );
      exit(report.equal ? EXIT_YES : couldTell(report) ? EXIT_NO : EXIT_AWAY);
    });
}

/** Its end, if all of it does not fit: a line that goes on in the next one cannot be written over. @param columns 0: not known */
export function formatProgress(volume: string, { doing, done, total }: VerifyProgress, columns = 0): string {
  const text =
    doing === 'waiting'
      ? `${volume}: the other site has applied sequence ${done} of ${total}`
      : `${volume}: compared ${done} of ${total} blocks (${Math.floor((100 * done) / total)} %)`;
  const most = (columns || 80) - 1;
  return text.length <= most ? text : `…${text.slice(text.length - most + 1)}`;
}

/** Whether something differs, for all that could be read. */
const couldTell = ({ equal, differences }: VerifyReport): boolean => equal || differences.length > 0;

function formatVerify(report: VerifyReport): string {
  const { volume, equal, sequence, compared, blocks, checksum, sites, differences, unreadable } = report;
  const what = `${volume}: ${blocks} blocks at sequence ${sequence} of ${sites.join(' and ')}`;
  const how = compared === 'data' ? 'data re-read at both sites' : 'only the checksums stored when it was written';
  const found = equal
    ? `equal    ${what}, checksum ${checksum}`
    : couldTell(report)
      ? `DIFFERS  ${what}`
      : `UNREAD   ${what}`;
  const lines = [found, `compared ${how}`];
  for (const { offset, size } of differences)
    lines.push(`differs  offset ${offset} size ${size} (${formatSize(size)})`);
  for (const { site, offset, size, reason } of unreadable) {
    lines.push(`unread   site ${site} offset ${offset} size ${size}: ${reason}`);
  }
  return `${lines.join('\n')}\n`;
}

function addLock(program: Command, exit: (code: number) => void): void {
  addWhere(program.command('lock'))
    .description('Hold a lock on a part of a volume at this site, as a backup job would.')
    .argument('<volume>')
    .requiredOption('--at <offset>', 'first byte, a multiple of the block size; takes K, M, G')
    .requiredOption('--size <bytes>', 'how much')
    .addOption(
      new Option('--mode <mode>', 'write: others may read; read: others may do neither')
        .choices(['read', 'write'])
        .default('write'),
    )
    .option('--hold <seconds>', 'how long (default: until interrupted)')
    .option('--wait <seconds>', `longest wait for the lock, at most ${LOCK_WAIT_SECONDS_MAX} (default)`)
    .addHelpText(
      'after',
      `
At a standby the mirror's writes to the extent wait meanwhile, within the lease; the source goes on.
Exit code 0: held and released; 1: not had in time, or taken away; 3: could not tell, as the gateway does not answer.

Example:
  forelock lock disk --state /srv/b --at 0 --size 1M --mode read --hold 5`,
    )
    .action(
      async (
        name: string,
        options: Where & { at: string; size: string; mode: 'read' | 'write'; hold?: string; wait?: string },
      ) => {
        const size = parseSize(options.size, '--size');
        if (size === 0) throw new ForelockError('USAGE', `--size ${options.size}: a lock has a byte at least`);
        if (options.hold !== undefined && Number(options.hold) === 0)
          throw new ForelockError(
            'USAGE',
            `--hold ${JSON.stringify(options.hold)} is not a number of seconds above 0 and up to ${HOLD_SECONDS_MAX}`,
          );
        const lock = await clientOf(options).lock({
          volume: parseName(name, 'volume'),
          offset: parseSize(options.at, '--at'),
          size,
          mode: options.mode,
          holdSeconds: options.hold === undefined ? null : parseSeconds(options.hold, '--hold', HOLD_SECONDS_MAX),
          waitSeconds: options.wait === undefined ? null : parseSeconds(options.wait, '--wait', LOCK_WAIT_SECONDS_MAX),
        });
        let interrupted = false;
        process.once('SIGINT', () => {
          interrupted = true;
          lock.release();
        });
        say(`held ${options.mode} lock on ${name}, offset ${options.at} size ${options.size}`);
        const { released, lost } = await lock.ended;
        say(interrupted ? 'released' : `${lost ? 'LOST' : 'released'}: ${released}`);
        exit(lost && !interrupted ? EXIT_NO : EXIT_YES);
      },
    );
}

function parseSeconds(text: string, what: string, most: number): number {
  const seconds = /^\d+(\.\d+)?$/.test(text) ? Number(text) : Number.NaN;
  if (!(seconds <= most))
    throw new ForelockError('USAGE', `${what} ${JSON.stringify(text)} is not a number of seconds up to ${most}`);
  return seconds;
}

// ---- log

function addLog(program: Command, exit: (code: number) => void): void {
  program
    .command('log')
    .description('Print a journal, record by record, and say what is wrong with it.')
    .argument('<dir>', 'state directory, or the folder of one group in it')
    .option('--from <seq>', 'leave out what comes before this sequence')
    .option('--json', 'one JSON object a line')
    .addHelpText(
      'after',
      `
Opens read-only, also while the gateway runs. A torn tail is what a crash leaves (or a write under way) and is no
damage. Exit code 0: whole; 1: damaged.

Columns: position, stream, sequence, type, then
  extent (volume lba+blocks), size, scope, stamp (generation.clock.site), seen, session

Examples:
  forelock log /srv/a | less
  forelock log /srv/a --from 120000 --json | jq 'select(.kind == "problem")'`,
    )
    .action(async (directory: string, options: { from?: string; json?: boolean }) => {
      const from = options.from === undefined ? 0 : Number(/^\d{1,15}$/.test(options.from) ? options.from : Number.NaN);
      if (Number.isNaN(from))
        throw new ForelockError('USAGE', `--from ${JSON.stringify(options.from)} is not a sequence`);
      const hash = await xxhash();
      let isWhole = true;
      for (const journal of findJournals(resolve(directory), (text) => process.stderr.write(`${text}\n`))) {
        const filter = new FromFilter(from);
        let volumes: Record<string, string> = {};
        let text = '';
        for (const event of new JournalWalk(journal, hash).events()) {
          if (event.kind === 'journal') volumes = event.volumes;
          if (event.kind === 'end' && event.damaged > 0) isWhole = false;
          if (!filter.shows(event)) continue;
          text += `${options.json === true ? JSON.stringify(event) : formatLogEvent(event, volumes)}\n`;
          if (text.length < 65536) continue;
          await write(text);
          text = '';
        }
        await write(text);
      }
      exit(isWhole ? EXIT_YES : EXIT_NO);
    });
}

/** Writes to stdout and waits until it has room again. */
async function write(text: string): Promise<void> {
  if (!process.stdout.write(text)) await new Promise<void>((done) => process.stdout.once('drain', done));
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

/** True when node was started with this file, also through the link that npm makes. */
function isEntry(): boolean {
  const started = process.argv[1];
  return started !== undefined && existsSync(started) && realpathSync(started) === fileURLToPath(import.meta.url);
}

if (isEntry()) {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(EXIT_YES); // `forelock log … | head`
    process.stderr.write(`forelock: what there is to say cannot be written: ${error.message}\n`);
    process.exit(EXIT_AWAY); // whatever the answer was, nobody has it
  });
  process.exitCode = await main(process.argv.slice(2));
}
