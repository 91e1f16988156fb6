/** The command as its users meet it: a child process, its streams and its exit code. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, closeSync, existsSync, mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import xxhash from 'xxhash-wasm';
import { ForelockError } from '../../src/errors.js';
import { NbdClient } from '../../src/frontend/nbd/client.js';
import { DiskStore } from '../../src/journal/disk-store.js';
import { formatProgress } from '../../src/node/cli.js';
import { ADMIN_SOCKET, ControlServer } from '../../src/node/control.js';
import { built, VERSION } from '../../src/paths.js';
import { loadSuperblock } from '../../src/volume/group-state.js';
import { FakeGateway } from './fake-gateway.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'forelock-cli-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const children: ChildProcess[] = [];
let server: ControlServer | null = null;
afterEach(async () => {
  for (const child of children.splice(0)) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
  await server?.close();
  server = null;
});

interface Run {
  child: ChildProcess;
  out: string;
  err: string;
  ended: Promise<number>;
}

function start(...args: string[]): Run {
  const child = spawn(process.execPath, [built('src/node/cli.js'), ...args], {
    cwd: folder,
    env: { ...process.env, NO_COLOR: '1', FORCE_COLOR: undefined },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  children.push(child);
  const run: Run = { child, out: '', err: '', ended: once(child, 'close').then(([code]) => code as number) };
  child.stdout!.on('data', (data) => {
    run.out += data;
  });
  child.stderr!.on('data', (data) => {
    run.err += data;
  });
  return run;
}

async function forelock(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  const run = start(...args);
  return { code: await run.ended, out: run.out, err: run.err };
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5));
}

async function fakeGateway(): Promise<FakeGateway> {
  const gateway = new FakeGateway();
  server = await ControlServer.open({ control: gateway, socket: join(folder, ADMIN_SOCKET), admin: null });
  return gateway;
}

test('the command is built', () => {
  expect(existsSync(built('src/node/cli.js')), 'npm run build').toBe(true);
});

test('--version and --help', async () => {
  expect(await forelock('--version')).toEqual({ code: 0, out: `${VERSION}\n`, err: '' });
  const help = await forelock('--help');
  expect(help.code).toBe(0);
  for (const command of ['serve', 'status', 'verify', 'lock', 'log', 'demo'])
    expect(help.out).toMatch(new RegExp(`^  ${command} `, 'm'));
  for (const command of ['serve', 'status', 'verify', 'lock', 'log']) {
    const { code, out } = await forelock(command, '--help');
    expect(code).toBe(0);
    expect(out).toMatch(/Example|A pair on one machine/);
  }
});

test.each<[string, string[], number, string]>([
  ['nothing', [], 2, 'Usage: forelock'],
  ['an unknown command', ['sevre'], 2, "unknown command 'sevre'"],
  ['an unknown option', ['serve', '--colour', 'red'], 2, "forelock: unknown option '--colour'"],
  ['serve without a state', ['serve'], 2, '--state DIR'],
  [
    'serve with a bad value',
    ['serve', '--state', 's', '--ring', '1'],
    2,
    'forelock: --ring: 1 is not between 4 MiB and 1 GiB',
  ],
  [
    'serve with both ends',
    ['serve', '--state', 's', '--peer', 'ws://x:1', '--listen', '127.0.0.1:1'],
    2,
    'of a pair one end',
  ],
  ['serve with a missing file', ['serve', '--config', 'none.yaml'], 78, 'none.yaml cannot be read'],
  [
    'serve with a missing key',
    ['serve', '--state', 's', '--volume', 'd:1M', '--listen', '127.0.0.1:0', '--key', 'nokey'],
    78,
    'does not exist; make one with',
  ],
  ['status of nobody', ['status'], 2, 'which gateway?'],
  ['status of two', ['status', '--state', 'a', '--admin', 'http://127.0.0.1:1'], 2, 'not both'],
  ['status of a gateway that is away', ['status', '--state', 'a'], 3, 'start it with: forelock serve'],
  ['status of an address that is away', ['status', '--admin', 'http://127.0.0.1:1'], 3, 'is it running, with --admin?'],
  ['verify of a bad name', ['verify', '../x', '--state', 'a'], 2, 'is not a name'],
  ['lock without an extent', ['lock', 'disk', '--state', 'a'], 2, "required option '--at <offset>'"],
  [
    'lock with a bad mode',
    ['lock', 'd', '--at', '0', '--size', '1', '--mode', 'x'],
    2,
    'Allowed choices are read, write',
  ],
  [
    'lock for no time',
    ['lock', 'disk', '--state', '.', '--at', '0', '--size', '1M', '--hold', '0'],
    2,
    'forelock: --hold "0" is not a number of seconds above 0 and up to 86400',
  ],
  [
    'lock of nothing',
    ['lock', 'disk', '--state', '.', '--at', '0', '--size', '0'],
    2,
    'forelock: --size 0: a lock has a byte at least',
  ],
  [
    'lock with a bad time',
    ['lock', 'd', '--state', 'a', '--at', '0', '--size', '1', '--hold', 'x'],
    2,
    '--hold "x" is not a number',
  ],
  [
    'lock with a wait that the gateway would cut',
    ['lock', 'd', '--state', 'a', '--at', '0', '--size', '1', '--wait', '31'],
    2,
    '--wait "31" is not a number of seconds up to 30',
  ],
  ['log of nothing', ['log', '.'], 2, 'holds no journal'],
  ['log from nowhere', ['log', '.', '--from', 'x'], 2, 'is not a sequence'],
])('%s: the exit code and the reason', async (_, args, code, message) => {
  const result = await forelock(...args);
  expect(result.err).toContain(message);
  expect(result.code).toBe(code);
  expect(result.out).toBe('');
});

test('a bad configuration names line and key', async () => {
  writeFileSync(join(folder, 'bad.yaml'), 'state: s\nrign: 64M\n');
  const { code, err } = await forelock('serve', '--config', 'bad.yaml');
  expect(code).toBe(78);
  expect(err).toBe('forelock: bad.yaml:2:1: rign: unknown key; did you mean "ring"?\n');
});

test('status, as text, as JSON, watched', async () => {
  const gateway = await fakeGateway();
  const text = await forelock('status', '--state', '.');
  expect(text.code).toBe(0);
  expect(text.out).toContain('site a');
  expect(text.out).toMatch(/lag +5 MiB, 120 records, oldest 51 ms/);
  expect(text.out).not.toContain('\x1b');
  expect(JSON.parse((await forelock('status', '--json')).out)).toEqual(gateway.status()); // the current directory
  const watched = start('status', '--json', '--watch');
  await until(() => watched.out.split('\n').length > 2);
  watched.child.kill('SIGINT');
  expect(await watched.ended).toBe(0);
});

// It waited for ever, a watch before its last picture, and ^C did nothing.
test('status of a gateway that stands still says so after a while, and a watch ends when asked to', async () => {
  const state = join(folder, 'still');
  mkdirSync(state);
  let asked = 0;
  const still = createServer((socket) => {
    asked += 1;
    socket.on('error', () => {});
  }).listen(join(state, ADMIN_SOCKET));
  const unwatched = forelock('status', '--state', state);
  const watched = start('status', '--state', state, '--watch', '--json');
  const interrupted = start('status', '--state', state, '--watch');
  await until(() => asked === 3);
  interrupted.child.kill('SIGINT');
  expect(await interrupted.ended).toBe(0);
  expect(interrupted.out).toBe('');
  expect(await unwatched).toMatchObject({ code: 3, err: expect.stringContaining('does its process hang?') });
  await until(() => watched.out.includes('\n'));
  expect(JSON.parse(watched.out)).toEqual({ schema: 1, away: expect.stringContaining('does its process hang?') });
  watched.child.kill('SIGINT');
  expect(await watched.ended).toBe(0);
  still.close();
});

// It was to be started, while it ran.
test.runIf(process.getuid?.() === 0)("a state directory that is another user's is told as such", () => {
  const command = [built('src/node/cli.js'), 'status', '--state', mkdtempSync(join(folder, 'shut-'))];
  const { status, stderr } = spawnSync(process.execPath, command, { uid: 65534, gid: 65534, encoding: 'utf8' });
  expect(stderr).toMatch(/\(EACCES\); this user may not reach it: ask as the one whom it runs as\n$/);
  expect(status).toBe(3);
});

// They waited for ever, the lock also behind the time that it was to be held.
test.each<[string, string, string[], string]>([
  ['verify', '', ['verify', 'disk'], ''],
  ['a verify begun', 'HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n\r\n', ['verify', 'disk', '--json'], ''],
  ['lock', '', ['lock', 'disk', '--at', '0', '--size', '4K'], ''],
  [
    'a lock held',
    'HTTP/1.1 200 OK\r\n\r\n{"id":"1"}\n',
    ['lock', 'disk', '--at', '0', '--size', '4K', '--hold', '0.01'],
    'held write lock on disk, offset 0 size 4K\n',
  ],
])('a gateway that stands still: %s says so', async (_, answer, args, out) => {
  const state = mkdtempSync(join(folder, 'stops-'));
  const still = createServer((socket) => {
    socket.on('error', () => {});
    socket.once('data', (asked) => void (String(asked).startsWith('POST') && socket.write(answer)));
  }).listen(join(state, ADMIN_SOCKET));
  await once(still, 'listening');
  const ended = await forelock(...args, '--state', state);
  expect(ended).toEqual({ code: 3, out, err: expect.stringContaining('does its process hang?') });
  still.close();
});

test('verify tells equal, different and unknown apart', async () => {
  const gateway = await fakeGateway();
  const equal = await forelock('verify', 'disk', '--state', '.');
  expect(equal).toMatchObject({
    code: 0,
    out: expect.stringContaining('equal    disk: 262144 blocks at sequence 1000 of a and b'),
  });
  expect((await forelock('verify', 'disk', '--state', '.', '--maps')).out).toContain('only the checksums stored');
  const report = await gateway.verify('disk', { maps: false });
  gateway.verify = async () => ({ ...report, equal: false, differences: [{ offset: 8192, size: 4096 }] });
  const differs = await forelock('verify', 'disk', '--state', '.');
  expect(differs.code).toBe(1);
  expect(differs.out).toContain('differs  offset 8192 size 4096 (4 KiB)');
  const unread = { site: 'b', offset: 8192, size: 4096, reason: 'the disk refuses' };
  gateway.verify = async () => ({ ...report, equal: false, unreadable: [unread] });
  const unknown = await forelock('verify', 'disk', '--state', '.');
  expect([unknown.code, unknown.out]).toEqual([3, expect.stringMatching(/^UNREAD {3}disk: /)]);
  for (const [code, exitCode] of [
    ['AWAY', 3],
    ['ETIMEDOUT', 3],
    ['ENOSPC', 3],
    ['EIO', 3],
    ['PEER_PROTOCOL', 3],
    ['EINVAL', 2],
  ] as const) {
    gateway.verify = () => Promise.reject(new ForelockError(code, 'it cannot be told'));
    expect(await forelock('verify', 'disk', '--state', '.'), code).toMatchObject({
      code: exitCode,
      err: 'forelock: it cannot be told\n',
    });
  }
});

// In a terminal of 40 columns each look at how far it is began a line of its own.
test('how far a verify is stands in one line of the terminal', () => {
  const waiting = { doing: 'waiting', done: 1030, total: 1031 } as const;
  expect(formatProgress('disk', waiting, 0)).toBe('disk: the other site has applied sequence 1030 of 1031');
  expect(formatProgress('disk', waiting, 40)).toBe('…site has applied sequence 1030 of 1031');
  const comparing = { doing: 'comparing', done: 2 ** 31, total: 2 ** 32 } as const;
  expect(formatProgress('disk', comparing, 200)).toBe('disk: compared 2147483648 of 4294967296 blocks (50 %)');
  for (const columns of [0, 1, 2, 20, 80]) {
    for (const progress of [waiting, comparing])
      expect(formatProgress('d'.repeat(64), progress, columns).length).toBeLessThanOrEqual(
        Math.max(1, (columns || 80) - 1),
      );
  }
});

test('lock holds for its time, or until interrupted, and tells when it was lost', async () => {
  const gateway = await fakeGateway();
  const timed = await forelock(
    'lock',
    'disk',
    '--state',
    '.',
    '--at',
    '1M',
    '--size',
    '4K',
    '--mode',
    'read',
    '--hold',
    '0.01',
  );
  expect(timed).toMatchObject({ code: 0, out: expect.stringContaining('released: held for 0.01 s') });
  expect(gateway.locks[0]).toMatchObject({ offset: 2 ** 20, size: 4096, mode: 'read', released: true });
  const interrupted = start('lock', 'disk', '--state', '.', '--at', '0', '--size', '4K');
  await until(() => interrupted.out.includes('held write lock'));
  interrupted.child.kill('SIGINT');
  expect(await interrupted.ended).toBe(0);
  await until(() => gateway.locks[1]!.released);
  const lost = start('lock', 'disk', '--state', '.', '--at', '0', '--size', '4K');
  await until(() => lost.out.includes('held write lock'));
  gateway.lose('the lease ended');
  expect(await lost.ended).toBe(1);
  expect(lost.out).toContain('LOST: the lease ended');
});

// A trace of the stack, and for `log` the exit code that says damaged.
test('what cannot be written is told in a line, and the answer is unknown', async () => {
  const full = openSync('/dev/full', 'w');
  const child = spawn(process.execPath, [built('src/node/cli.js'), 'serve', '--help'], {
    stdio: ['ignore', full, 'pipe'],
  });
  children.push(child);
  let err = '';
  child.stderr!.on('data', (data) => {
    err += data;
  });
  expect((await once(child, 'close'))[0]).toBe(3);
  expect(err).toMatch(/^forelock: what there is to say cannot be written: ENOSPC.*\n$/);
  closeSync(full);
});

test('log tells whole from damaged', async () => {
  const state = join(folder, 'logged');
  mkdirSync(join(state, 'main'), { recursive: true });
  writeFileSync(join(state, 'main', 'superblock.a'), 'rubbish');
  writeFileSync(join(state, 'main', 'superblock.b'), 'rubbish');
  const { code, out } = await forelock('log', state, '--json');
  expect(code).toBe(1);
  const events = out
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(events.map(({ kind }) => kind)).toEqual(['journal', 'problem', 'end']);
});

test('serve says what it offers, answers status, and stops cleanly; its journal is whole', async () => {
  const state = join(folder, 'served');
  const run = start(
    'serve',
    '--state',
    state,
    '--volume',
    'disk:64M',
    '--role',
    'primary',
    '--nbd',
    '127.0.0.1:0',
    '--admin',
    '127.0.0.1:0',
  );
  await until(() => run.out.includes('ready\n') || run.child.exitCode !== null);
  expect(run.err).toBe('');
  expect(run.out).toMatch(/^nbd:\/\/127\.0\.0\.1:\d+\/disk$/m);
  const admin = /^control (http:\S+)$/m.exec(run.out)![1]!;
  const status = JSON.parse((await forelock('status', '--admin', admin, '--json')).out);
  expect(status).toMatchObject({
    schema: 1,
    site: 'served',
    groups: [{ name: 'main', role: 'primary', volumes: [{ name: 'disk' }] }],
  });
  expect((await forelock('status', '--state', state)).code).toBe(0);
  const second = await forelock('serve', '--state', state, '--volume', 'disk', '--nbd', '127.0.0.1:0');
  expect(second.code).toBe(78);
  run.child.kill('SIGTERM');
  expect(await run.ended).toBe(0);
  expect(run.out).toMatch(/stopped\n$/);
  expect((await forelock('status', '--state', state)).code).toBe(3);
  expect((await forelock('log', state)).code).toBe(0);
  const wrong = await forelock('serve', '--state', state, '--volume', 'disk:128M', '--nbd', '127.0.0.1:0');
  expect(wrong.code).toBe(78);
});

// It was killed by the signal, with what it had opened so far.
test('a signal during the start stops it in order', async () => {
  const key = join(folder, 'open key');
  writeFileSync(key, 'a'.repeat(64));
  chmodSync(key, 0o644); // whatever the umask is: the warning says that the start has begun
  const state = join(folder, 'begun');
  const others = ['--role', 'primary', '--nbd', '127.0.0.1:0', '--listen', '127.0.0.1:0', '--key', key];
  const run = start('serve', '--state', state, '--volume', 'disk:64M', ...others);
  await until(() => run.err.includes('can be read by everyone') || run.child.exitCode !== null);
  run.child.kill('SIGTERM');
  expect(await run.ended).toBe(0);
  expect(run.out).toMatch(/stopped\n$/);
});

// Hosts got EIO, and nothing was said; the stop said `stopped`, exit code 0, without what had been answered.
test('serve says that its disk is gone, shows it, and does not call its end a clean stop', async () => {
  const state = join(folder, 'gone');
  const address = ['--nbd', '127.0.0.1:0', '--admin', '127.0.0.1:0'];
  const run = start('serve', '--state', state, '--volume', 'disk:64M', '--role', 'primary', ...address);
  await until(() => run.out.includes('ready\n') || run.child.exitCode !== null);
  const client = await NbdClient.connect(/^nbd:\S+$/m.exec(run.out)![0]);
  await client.write(0, Buffer.alloc(4096, 1));
  await client.flush();
  rmSync(state, { recursive: true });
  const fill = async (): Promise<void> => {
    for (let at = 0; at < 64 * 2 ** 20; at += 2 ** 20) await client.write(at, Buffer.alloc(2 ** 20, 2));
    await client.flush();
  };
  await expect(fill()).rejects.toMatchObject({ code: 'EIO' });
  client.destroy();
  await until(() => run.err.includes('\n')); // a stream of its own
  expect(run.err).toMatch(/^forelock: group main: the journal can no longer be written \(ENOENT.*\n$/);
  const admin = /^control (http:\S+)$/m.exec(run.out)![1]!;
  const status = JSON.parse((await forelock('status', '--admin', admin, '--json')).out);
  const { journal } = status.groups[0];
  expect(journal).toMatchObject({ failed: expect.stringContaining('can no longer be written'), diskFull: false });
  expect((await forelock('status', '--admin', admin)).out).toMatch(
    /^ {2}failed +the journal can no longer be written/m,
  );
  run.child.kill('SIGTERM');
  expect(await run.ended).toBe(1);
  expect(run.err).toMatch(/^forelock: group main: the stop could not make \d+ records durable /m);
  expect(run.out).not.toContain('stopped');
});

// The process was gone, its socket was not, and the next start had to recover.
test('a terminal that closes stops it cleanly, however often it says so', async () => {
  const state = join(folder, 'hung-up');
  const run = start('serve', '--state', state, '--volume', 'disk:64M', '--nbd', 'none');
  await until(() => run.out.includes('ready\n') || run.child.exitCode !== null);
  run.child.kill('SIGHUP');
  await until(() => run.err.includes('stopping') || run.child.exitCode !== null);
  run.child.kill('SIGHUP');
  expect(await run.ended).toBe(0);
  expect(run.out).toMatch(/stopped\n$/);
  expect(existsSync(join(state, ADMIN_SOCKET))).toBe(false);
});

// It ended at its first word to a pipe that nobody read, with exit code 0 and an unclean state.
test('serve goes on when nobody reads what it says, and stops cleanly', async () => {
  const state = join(folder, 'unheard');
  const run = start('serve', '--state', state, '--volume', 'disk:64M', '--role', 'primary', '--nbd', '127.0.0.1:0');
  run.child.stdout!.destroy();
  run.child.stderr!.destroy();
  await until(() => existsSync(join(state, ADMIN_SOCKET)) || run.child.exitCode !== null);
  expect((await forelock('status', '--state', state)).code).toBe(0);
  run.child.kill('SIGTERM');
  expect(await run.ended).toBe(0);
  const store = new DiskStore(join(state, 'main'));
  expect(loadSuperblock(store, await xxhash()).superblock).toMatchObject({ clean: true });
  store.close();
});
