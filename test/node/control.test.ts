import { once } from 'node:events';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { ForelockError, whyNotHeard } from '../../src/errors.js';
import { DiskStore } from '../../src/journal/disk-store.js';
import { ADMIN_SOCKET, ControlClient, ControlServer, type VerifyProgress } from '../../src/node/control.js';
import { FakeGateway } from './fake-gateway.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'forelock-control-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

let server: ControlServer | null = null;
afterEach(async () => {
  await server?.close();
  server = null;
});

async function open(): Promise<{ gateway: FakeGateway; url: string }> {
  const gateway = new FakeGateway();
  server = await ControlServer.open({
    control: gateway,
    socket: join(folder, ADMIN_SOCKET),
    admin: { host: '127.0.0.1', port: 0 },
    onError: (error) => gateway.errors.push(error),
  });
  return { gateway, url: server.url! };
}

interface Answer {
  status: number;
  text: string;
}

function ask(
  url: string,
  method: string,
  path: string,
  body = '',
  headers: Record<string, string> = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const outgoing = request(`${url}${path}`, { method, headers, agent: false }, (response) => {
      let text = '';
      response.on('data', (chunk) => {
        text += chunk;
      });
      response.on('end', () => resolve({ status: response.statusCode!, text }));
    });
    outgoing.on('error', reject);
    outgoing.end(body);
  });
}

const NDJSON = 'HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n';
const JSON_TYPE = { 'content-type': 'application/json' };

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 2));
}

test('status and livez, over the socket and over TCP', async () => {
  const { gateway, url } = await open();
  expect(await new ControlClient({ state: folder }).status()).toEqual(gateway.status());
  expect(await new ControlClient({ admin: url }).status()).toEqual(gateway.status());
  expect(await ask(url, 'GET', '/livez')).toEqual({ status: 200, text: 'ok\n' });
  expect(statSync(join(folder, ADMIN_SOCKET)).mode & 0o777).toBe(0o600);
});

test('verify brings its report, and the errors of the gateway keep their codes', async () => {
  const { gateway, url } = await open();
  const client = new ControlClient({ admin: url });
  expect(await client.verify('disk', { maps: true })).toMatchObject({ volume: 'disk', compared: 'stored checksums' });
  gateway.failWith = new ForelockError('AWAY', 'the peer is away since 12:00');
  await expect(client.verify('disk', { maps: false })).rejects.toMatchObject({
    code: 'AWAY',
    message: 'the peer is away since 12:00',
  });
  gateway.failWith = new Error('a bug');
  await expect(client.verify('disk', { maps: false })).rejects.toMatchObject({
    code: 'EIO',
    message: 'unexpected: a bug',
  });
  expect(gateway.errors.map((error) => error.message)).toEqual(['a bug']);
});

test('verify tells how far it is to who asks for that, and then how it ended', async () => {
  const { gateway, url } = await open();
  const client = new ControlClient({ admin: url });
  const report = await gateway.verify('disk', { maps: false });
  const told: VerifyProgress[] = [];
  const onProgress = (progress: VerifyProgress): void => void told.push(progress);
  let failWith: Error | null = null;
  gateway.verify = async (_, options) => {
    for (const done of [1, 2]) options.onProgress?.({ doing: 'comparing', done, total: 9 });
    if (failWith !== null) throw failWith;
    return report;
  };
  expect(await client.verify('disk', { maps: false, onProgress })).toEqual(report);
  expect(told[0]).toEqual({ doing: 'comparing', done: 1, total: 9 });
  expect(await client.verify('disk', { maps: false })).toEqual(report);
  failWith = new ForelockError('PEER_TIMEOUT', 'it does not get on');
  await expect(client.verify('disk', { maps: false, onProgress })).rejects.toMatchObject({
    code: 'PEER_TIMEOUT',
    message: 'it does not get on',
  });
});

const LOCK = { volume: 'disk', offset: 0, size: 4096, mode: 'write' as const, holdSeconds: null, waitSeconds: null };

test('a lock is held while its request is open', async () => {
  const { gateway, url } = await open();
  const lock = await new ControlClient({ admin: url }).lock(LOCK);
  expect(gateway.locks).toEqual([{ ...LOCK, released: false }]);
  lock.release();
  await until(() => gateway.locks[0]!.released);
});

test('a lock ends after its time, by DELETE, when it is lost, and when the gateway stops', async () => {
  const { gateway, url } = await open();
  const client = new ControlClient({ admin: url });
  const timed = await client.lock({ ...LOCK, holdSeconds: 0.01 });
  expect(await timed.ended).toEqual({ released: 'held for 0.01 s', lost: false });
  const deleted = await client.lock(LOCK);
  expect((await ask(url, 'DELETE', `/v1/lock/${deleted.id}`)).status).toBe(204);
  expect(await deleted.ended).toEqual({ released: 'released', lost: false });
  expect((await ask(url, 'DELETE', `/v1/lock/${deleted.id}`)).status).toBe(404);
  const lost = await client.lock(LOCK);
  gateway.lose('the lease ended');
  expect(await lost.ended).toEqual({ released: 'the lease ended', lost: true });
  const last = await client.lock(LOCK);
  await server!.close();
  expect(await last.ended).toEqual({ released: 'the gateway is stopping', lost: true });
  expect(gateway.locks.every(({ released }) => released)).toBe(true);
});

test('a lock that is had only after the asker has left is released at once', async () => {
  const { gateway, url } = await open();
  gateway.holdBack = true;
  const outgoing = request(`${url}/v1/lock`, { method: 'POST', headers: JSON_TYPE, agent: false });
  outgoing.on('error', () => {});
  outgoing.end(JSON.stringify(LOCK));
  await until(() => gateway.locks.length === 1);
  outgoing.destroy();
  await new Promise((resolve) => setTimeout(resolve, 20));
  gateway.grant();
  await until(() => gateway.locks[0]!.released);
});

test.each<[string, string, string, string, Record<string, string>, number, string]>([
  ['an unknown path', 'GET', '/v2/status', '', {}, 404, 'there is no GET /v2/status'],
  ['a wrong method', 'POST', '/v1/status', '', {}, 405, 'there is no POST'],
  ['a body of another type', 'POST', '/v1/verify', '{}', { 'content-type': 'text/plain' }, 415, 'application/json'],
  ['a body that is not JSON', 'POST', '/v1/verify', '{', JSON_TYPE, 400, 'not JSON'],
  ['a missing field', 'POST', '/v1/verify', '{}', JSON_TYPE, 400, 'volume:'],
  ['an unknown field', 'POST', '/v1/verify', '{"volume":"a","deep":1}', JSON_TYPE, 400, 'deep'],
  ['a bad lock', 'POST', '/v1/lock', JSON.stringify({ ...LOCK, size: -1 }), JSON_TYPE, 400, 'size:'],
  [
    'a wait that would be cut',
    'POST',
    '/v1/lock',
    '{"volume":"a","offset":0,"size":1,"mode":"read","waitSeconds":31}',
    JSON_TYPE,
    400,
    'waitSeconds:',
  ],
  ['a large body', 'POST', '/v1/verify', `"${'x'.repeat(1 << 20)}"`, JSON_TYPE, 413, 'larger than 65536'],
  ['a web page', 'GET', '/v1/status', '', { origin: 'http://localhost' }, 403, 'not for web pages'],
  ['a rebound name', 'GET', '/v1/status', '', { host: 'evil.example:80' }, 403, 'not for web pages'],
])('%s is refused with a reason', async (_, method, path, body, headers, status, message) => {
  const { url } = await open();
  const answer = await ask(url, method, path, body, headers);
  expect(answer.status).toBe(status);
  const { error } = JSON.parse(answer.text);
  expect(error.message).toContain(message);
  expect(typeof error.code).toBe('string');
});

test('whatever body comes, it is answered', async () => {
  const { gateway, url } = await open();
  const body = fc.oneof(
    fc.json(),
    fc.string(),
    fc
      .record({ volume: fc.anything(), offset: fc.anything() })
      .map((v) => JSON.stringify(v, (_, x) => (typeof x === 'bigint' ? 0 : x))),
  );
  await fc.assert(
    fc.asyncProperty(body, fc.constantFrom('/v1/verify', '/v1/lock'), async (text, path) => {
      const { status } = await ask(url, 'POST', path, text, JSON_TYPE);
      expect([200, 400]).toContain(status);
    }),
    { numRuns: 60 },
  );
  expect(gateway.errors).toEqual([]);
});

// A stack trace in the log, as of a bug, for each command that was interrupted.
test('a request that is cut in the middle of its body is not a bug of ours', async () => {
  const { gateway, url } = await open();
  const { port } = new URL(url);
  const head = 'POST /v1/verify HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n';
  const socket = connect(Number(port), '127.0.0.1');
  socket.write(`${head}content-length: 99\r\nexpect: 100-continue\r\n\r\n{`);
  await once(socket, 'data'); // it is being read
  socket.destroy();
  await server!.close();
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(gateway.errors).toEqual([]);
});

test('no gateway is told as such, with a next step', async () => {
  await expect(new ControlClient({ state: join(folder, 'none') }).status()).rejects.toMatchObject({
    code: 'AWAY',
    message: expect.stringContaining('start it with: forelock serve'),
  });
  const other = createServer((socket) => socket.end('HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}')).listen(
    0,
    '127.0.0.1',
  );
  await new Promise((resolve) => other.once('listening', resolve));
  const { port } = other.address() as { port: number };
  await expect(new ControlClient({ admin: `http://127.0.0.1:${port}` }).status()).rejects.toMatchObject({
    code: 'ENOTSUP',
  });
  other.close();
  expect(() => new ControlClient({ admin: 'localhost:80' })).toThrow('not a URL such as');
});

// It stops for as long as the disk takes, without its socket: the operator was told to start a second one.
test('no gateway answers, and a process has its state: that it is to be started is not said', async () => {
  const state = join(folder, 'stopping');
  const store = new DiskStore(join(state, 'main'));
  writeFileSync(join(state, 'a file'), '');
  const { message } = await new ControlClient({ state }).status().catch((error) => error);
  expect(message).toContain(`process ${process.pid} has it, and is starting, stopping, or stands still`);
  expect(message).not.toContain('start it with');
  store.close();
  await expect(new ControlClient({ state }).status()).rejects.toThrow('start it with');
});

test('what takes long is waited for while the gateway answers anything', async () => {
  const { gateway } = await open();
  const report = await gateway.verify('disk', { maps: false });
  let looks = 0;
  const relay = createServer((socket) => {
    const to = connect(join(folder, ADMIN_SOCKET));
    for (const end of [socket, to]) end.on('error', () => {});
    socket.once('data', (asked) => {
      if (String(asked).startsWith('GET /livez')) looks += 1;
    });
    socket.pipe(to).pipe(socket);
  }).listen(0, '127.0.0.1');
  await once(relay, 'listening');
  const { port } = relay.address() as { port: number };
  gateway.verify = async () => {
    await until(() => looks === 3);
    return report;
  };
  const client = new ControlClient({ admin: `http://127.0.0.1:${port}` });
  await expect(client.verify('disk', { maps: false })).resolves.toEqual(report);
  const held = await client.lock(LOCK);
  looks = 0;
  held.release();
  await expect(held.ended).resolves.toMatchObject({ lost: true });
  expect(looks).toBe(0);
  relay.close();
});

// A stack trace, and of verify the exit code that says that the sites differ.
test.each<[string, string]>([
  ['is cut', `${NDJSON}\r\n{"progress":{"doing":"comparing","done":1,"total":9}}\n{"repo`],
  ['is cut before its type', 'HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"sch'],
  ['is a page', 'HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>'],
  ['is lines of something else', `${NDJSON}content-length: 6\r\n\r\nhello\n`],
])('an answer that %s is no answer', async (_, answer) => {
  const other = createServer((socket) => {
    socket.on('error', () => {});
    socket.once('data', () => socket.write(answer, () => setTimeout(() => socket.destroy(), 20)));
  }).listen(0, '127.0.0.1');
  await once(other, 'listening');
  const { port } = other.address() as { port: number };
  const client = new ControlClient({ admin: `http://127.0.0.1:${port}` });
  await expect(client.status()).rejects.toMatchObject({ code: 'AWAY' });
  await expect(client.verify('disk', { maps: false })).rejects.toMatchObject({ code: 'AWAY' });
  await expect(client.verify('disk', { maps: false, onProgress: () => {} })).rejects.toMatchObject({ code: 'AWAY' });
  await expect(client.lock(LOCK)).rejects.toMatchObject({ code: 'AWAY' });
  other.close();
});

test('a socket left by a crash is replaced, one that is answered is not, and a file is left alone', async () => {
  const { gateway } = await open();
  const socket = join(folder, ADMIN_SOCKET);
  await expect(ControlServer.open({ control: gateway, socket, admin: null })).rejects.toMatchObject({
    code: 'STATE_LOCKED',
  });
  const stale = join(folder, 'stale.sock');
  const dead = createServer().listen(stale);
  await new Promise((resolve) => dead.once('listening', resolve));
  // a closed server removes its socket, a killed one does not: keep a second name for it
  const { linkSync, renameSync } = await import('node:fs');
  linkSync(stale, `${stale}.kept`);
  await new Promise((resolve) => dead.close(resolve));
  renameSync(`${stale}.kept`, stale);
  const replacing = await ControlServer.open({ control: gateway, socket: stale, admin: null });
  await replacing.close();
  const file = join(folder, 'file.sock');
  writeFileSync(file, 'precious');
  await expect(ControlServer.open({ control: gateway, socket: file, admin: null })).rejects.toMatchObject({
    code: 'CONFIG',
  });
});

test.each(['ENOTFOUND', 'EAI_AGAIN'])('an address to listen on that is a name: %s comes with a next step', (code) => {
  const error = Object.assign(new Error(`getaddrinfo ${code} nosuch.invalid`), { code });
  expect(whyNotHeard(error, '--nbd')).toMatch(/^getaddrinfo \w+ nosuch\.invalid: .*--nbd/);
});

test('it listens on loopback only, and where it can', async () => {
  const control = new FakeGateway();
  const refused = (host: string, port: number) => ControlServer.open({ control, socket: null, admin: { host, port } });
  await expect(refused('0.0.0.0', 0)).rejects.toMatchObject({ code: 'CONFIG' });
  const { url } = await open();
  await expect(refused('127.0.0.1', Number(new URL(url).port))).rejects.toMatchObject({ code: 'CONFIG' });
  const long = join(folder, 'x'.repeat(120));
  await expect(ControlServer.open({ control, socket: long, admin: null })).rejects.toMatchObject({ code: 'CONFIG' });
});
