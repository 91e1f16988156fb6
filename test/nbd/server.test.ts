/** Server and client together over real sockets: what a host relies on, and how connections end. */
import { spawn } from 'node:child_process';
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { ForelockError } from '../../src/errors.js';
import { formatNbdUri, type NbdAddress, parseNbdUri } from '../../src/frontend/nbd/address.js';
import { NbdClient, type NbdConnectOptions } from '../../src/frontend/nbd/client.js';
import type { NbdTimers } from '../../src/frontend/nbd/connection.js';
import { NbdServer, type NbdServerOptions } from '../../src/frontend/nbd/server.js';
import { FaultyDevice, MemoryCatalog, MemoryDevice } from './memory-device.js';
import { request } from './wire.js';

const LOCAL = { host: '127.0.0.1', port: 0 };
const cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function serve(catalog: MemoryCatalog, options: Partial<NbdServerOptions> = {}, where: NbdAddress = LOCAL) {
  const server = new NbdServer({ catalog, ...options });
  cleanups.push(() => server.close());
  return { server, address: await server.listen(where) };
}

async function connectClient(address: NbdAddress, options: NbdConnectOptions = {}): Promise<NbdClient> {
  const client = await NbdClient.connect(address, options);
  cleanups.push(async () => client.destroy());
  return client;
}

async function temporaryDirectory(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'forelock-nbd-'));
  cleanups.push(() => rm(directory, { recursive: true }));
  return directory;
}

/** Timers that run when a test says so. */
class ManualTimers implements NbdTimers {
  private readonly timers = new Map<object, { ms: number; run: () => void }>();
  after(ms: number, run: () => void): () => void {
    const key = {};
    this.timers.set(key, { ms, run });
    return () => this.timers.delete(key);
  }
  fire(ms: number): void {
    for (const [key, timer] of [...this.timers]) {
      if (timer.ms !== ms) continue;
      this.timers.delete(key);
      timer.run();
    }
  }
  get count(): number {
    return this.timers.size;
  }
}

const socketOf = (client: NbdClient) => (client as unknown as { socket: Socket }).socket;

const until = async (condition: () => boolean): Promise<void> => {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
};

describe.each([{ structuredReplies: true }, { structuredReplies: false }])('a client, %o', (options) => {
  test('reads what it wrote, at any alignment', async () => {
    const device = new MemoryDevice();
    const catalog = new MemoryCatalog(device);
    const { address } = await serve(catalog);
    const client = await connectClient(address, { exportName: 'disk', ...options });
    expect(client).toMatchObject({ size: 1 << 20, name: 'disk', description: 'a volume in memory', readOnly: false });
    expect(client.structuredReplies).toBe(options.structuredReplies);
    const bytes = Buffer.from(Array.from({ length: 70_001 }, (_, at) => at * 7));
    await client.write(4095, bytes);
    expect((await client.read(4095, bytes.length)).equals(bytes)).toBe(true);
    await client.trim(4096, 4096);
    await client.zero(8193, 10);
    expect((await client.read(4095, 4097)).equals(Buffer.concat([bytes.subarray(0, 1), Buffer.alloc(4096)]))).toBe(
      true,
    );
    expect((await client.read(8193, 10)).equals(Buffer.alloc(10))).toBe(true);
    await client.cache(0, 4096);
    await client.flush();
    await client.close();
    expect(device.closeCount).toBe(catalog.openCount);
  });

  test('keeps a thousand requests in flight over one connection', async () => {
    const device = new MemoryDevice({ size: 4 << 20 });
    const { server, address } = await serve(new MemoryCatalog(device), { requestsMax: 8 });
    const client = await connectClient(address, options);
    const writes: Promise<void>[] = [];
    for (let at = 0; at < 1024; at += 1) writes.push(client.write(at * 4096, Buffer.alloc(4096, at)));
    await Promise.all(writes);
    const reads = await Promise.all(Array.from({ length: 1024 }, (_, at) => client.read(at * 4096, 4096)));
    reads.forEach((bytes, at) => {
      expect(bytes.equals(Buffer.alloc(4096, at))).toBe(true);
    });
    await client.close();
    expect(server.counters).toMatchObject({ reads: 1024, writes: 1024, bytesRead: 4 << 20, bytesWritten: 4 << 20 });
    expect(server.counters).toMatchObject({ bytesPending: 0, errors: 0 });
  });
});

test('connections read into one buffer: what each wrote at the same time is its own', async () => {
  const device = new MemoryDevice({ size: 16 << 20 });
  const { address } = await serve(new MemoryCatalog(device));
  const clients = await Promise.all(Array.from({ length: 4 }, () => connectClient(address, { exportName: 'disk' })));
  const size = 300_000;
  const writes = clients.flatMap((client, number) =>
    Array.from({ length: 12 }, (_, at) =>
      client.write((at * 4 + number) * size, Buffer.alloc(size, at * 4 + number + 1)),
    ),
  );
  await Promise.all(writes);
  for (let part = 0; part < 48; part += 1) {
    const bytes = device.bytes.subarray(part * size, (part + 1) * size);
    expect(bytes.equals(Buffer.alloc(size, part + 1))).toBe(true);
  }
  await Promise.all(clients.map((client) => client.close()));
});

test('FUA and flush reach the device, and cover what was replied to on every connection', async () => {
  const device = new MemoryDevice();
  const durable = device.keepDurable();
  const log = device.keepLog();
  const { address } = await serve(new MemoryCatalog(device));
  const [one, two] = [await connectClient(address), await connectClient(address)];
  expect(one.multiConnection).toBe(true);
  await one.write(0, Buffer.alloc(512, 1));
  await two.write(512, Buffer.alloc(512, 2), { fua: true });
  expect([durable[0], durable[512]]).toEqual([0, 2]);
  await two.flush();
  expect(durable[0]).toBe(1);
  await one.trim(0, 512, { fua: true });
  await one.zero(512, 512, { fua: true, noHole: true, fast: true });
  expect([durable[0], durable[512]]).toEqual([0, 0]);
  expect(log).toEqual(['write 0+512', 'write 512+512 fua', 'flush', 'trim 0+512 fua', 'zero 512+512 fua']);
});

test('block status tells holes from data', async () => {
  const { address } = await serve(new MemoryCatalog(new MemoryDevice({ size: 65536 })));
  const client = await connectClient(address, { exportName: 'disk' });
  expect(client.allocationContext).toBe(true);
  await client.write(8192, Buffer.alloc(4096, 1));
  const data = { hole: false, zero: false };
  const hole = { hole: true, zero: true };
  expect(await client.blockStatus(0, 65536)).toEqual([
    { size: 8192, ...hole },
    { size: 4096, ...data },
    { size: 53248, ...hole },
  ]);
  expect(await client.blockStatus(0, 65536, true)).toEqual([{ size: 8192, ...hole }]);
  expect(await client.blockStatus(8193, 100)).toEqual([{ size: 100, ...data }]);
});

test('a standby shows its size, refuses its content with the reason, and keeps the connection', async () => {
  const standby = new MemoryDevice({ contentRefused: true, description: 'standby of site a' });
  const { address } = await serve(new MemoryCatalog(standby));
  const client = await connectClient(address, { exportName: 'disk' });
  expect(client).toMatchObject({ size: 1 << 20, readOnly: true, description: 'standby of site a' });
  const refused = { code: 'EPERM', message: 'content is refused here: standby of site a' };
  for (let round = 0; round < 2; round += 1) {
    await expect(client.read(0, 512)).rejects.toMatchObject(refused);
    await expect(client.write(0, Buffer.alloc(512))).rejects.toMatchObject(refused);
    await expect(client.trim(0, 512)).rejects.toMatchObject(refused);
    await expect(client.zero(0, 512)).rejects.toMatchObject(refused);
    await expect(client.cache(0, 512)).rejects.toMatchObject(refused);
    await expect(client.blockStatus(0, 512)).rejects.toMatchObject(refused);
  }
  await client.flush();
});

test('a refused view says why', async () => {
  const catalog = new MemoryCatalog(new MemoryDevice());
  catalog.refused.set(
    'disk@applied',
    new ForelockError('EPERM', 'the standby is resyncing: no view until it is consistent'),
  );
  const { address } = await serve(catalog);
  await expect(NbdClient.connect(address, { exportName: 'disk@applied' })).rejects.toMatchObject({
    code: 'EPERM',
    message: expect.stringContaining('no view until it is consistent'),
  });
  await expect(NbdClient.connect(address, { exportName: 'nothing' })).rejects.toMatchObject({
    code: 'ENOENT',
    message: expect.stringContaining('no export is named "nothing"'),
  });
});

test("the device's errors reach the host by name, with their text", async () => {
  const device = new FaultyDevice(new MemoryDevice());
  const { server, address } = await serve(new MemoryCatalog(device));
  const client = await connectClient(address, { exportName: 'disk' });
  const rows = [
    ['EIO', 'EIO'],
    ['ENOSPC', 'ENOSPC'],
    ['EPERM', 'EPERM'],
    ['EINVAL', 'EINVAL'],
    ['ESHUTDOWN', 'ESHUTDOWN'],
    ['ENOTSUP', 'ENOTSUP'],
    ['ETIMEDOUT', 'EIO'],
    ['PEER_AWAY', 'EIO'],
  ] as const;
  for (const [code, answer] of rows) {
    device.error = new ForelockError(code, `because of ${code}`);
    const expected = { code: answer, message: `because of ${code}` };
    await expect(client.write(0, Buffer.alloc(512))).rejects.toMatchObject(expected);
    await expect(client.read(0, 512)).rejects.toMatchObject(expected);
    await expect(client.flush()).rejects.toMatchObject(expected);
    await expect(client.trim(0, 512)).rejects.toMatchObject(expected);
    await expect(client.zero(0, 512)).rejects.toMatchObject(expected);
    await expect(client.blockStatus(0, 512)).rejects.toMatchObject(expected);
  }
  expect(server.counters.errors).toBe(6 * rows.length);
});

// without structured replies no metadata context is asked for: the device is opened once
describe('the end of a connection', () => {
  test('DISC: requests in flight are answered first', async () => {
    const device = new FaultyDevice(new MemoryDevice());
    device.holding = true;
    const { address } = await serve(new MemoryCatalog(device));
    const client = await connectClient(address, { structuredReplies: false });
    const written = client.write(0, Buffer.alloc(512, 7));
    const closed = client.close();
    await until(() => device.heldCount === 1);
    expect(device.closeCount).toBe(0);
    device.release();
    await written;
    await closed;
    expect(device.closeCount).toBe(1);
  });

  test('loss: what is in flight settles later, and only then the device is closed, once', async () => {
    const device = new FaultyDevice(new MemoryDevice());
    device.holding = true;
    const { server, address } = await serve(new MemoryCatalog(device));
    const client = await connectClient(address, { structuredReplies: false });
    const lost = client.write(0, Buffer.alloc(512, 7));
    lost.catch(() => undefined);
    await until(() => device.heldCount === 1);
    socketOf(client).resetAndDestroy();
    await expect(lost).rejects.toMatchObject({ code: 'ECONNRESET' });
    await until(() => server.counters.connectionsOpen === 0);
    expect(device.closeCount).toBe(0);
    expect(server.counters.bytesPending).toBe(512);
    device.release();
    await until(() => device.closeCount > 0);
    expect(device.closeCount).toBe(1);
    expect(server.counters.bytesPending).toBe(0);
  });

  test('revocation: new requests get ESHUTDOWN, what is in flight is answered, then the server hangs up', async () => {
    const device = new FaultyDevice(new MemoryDevice());
    device.holding = true;
    const catalog = new MemoryCatalog(device);
    const { server, address } = await serve(catalog);
    const client = await connectClient(address, { structuredReplies: false });
    const before = client.write(0, Buffer.alloc(512, 7));
    await until(() => device.heldCount === 1);
    catalog.revoke('demoted');
    const refused = { code: 'ESHUTDOWN' };
    await expect(client.write(0, Buffer.alloc(512, 8))).rejects.toMatchObject(refused);
    await expect(client.flush()).rejects.toMatchObject(refused);
    device.release();
    await before;
    await until(() => server.counters.connectionsOpen === 0);
    await expect(client.read(0, 512)).rejects.toMatchObject({ code: 'ECONNRESET' });
    expect(device.closeCount).toBe(1);
    // the next connection gets what the catalog has now
    await (await connectClient(address)).close();
  });

  test('revocation: a request that never settles does not hold the connection for ever', async () => {
    const timers = new ManualTimers();
    const device = new FaultyDevice(new MemoryDevice());
    device.holding = true;
    const catalog = new MemoryCatalog(device);
    const { server, address } = await serve(catalog, { timers });
    const client = await connectClient(address, { structuredReplies: false });
    const written = client.write(0, Buffer.alloc(512, 7));
    await until(() => device.heldCount === 1);
    catalog.revoke('demoted');
    catalog.revoke('promoted');
    timers.fire(10_000);
    await expect(written).rejects.toMatchObject({ code: 'ECONNRESET' });
    await until(() => server.counters.connectionsOpen === 0);
    expect(timers.count).toBe(0);
    device.release();
    await until(() => device.closeCount === 1);
  });

  test('close: waits for what is in flight, accepts nobody new', async () => {
    const device = new FaultyDevice(new MemoryDevice());
    device.holding = true;
    const { server, address } = await serve(new MemoryCatalog(device));
    const client = await connectClient(address, { structuredReplies: false });
    const written = client.write(0, Buffer.alloc(512, 7));
    await until(() => device.heldCount === 1);
    const closed = server.close();
    await expect(NbdClient.connect(address)).rejects.toMatchObject({ code: 'ECONNRESET' });
    device.release();
    await written;
    await closed;
    expect(device.closeCount).toBe(1);
    expect(server.addresses()).toEqual([]);
    await expect(server.listen(LOCAL)).rejects.toMatchObject({ code: 'ESHUTDOWN' });
  });

  test('close: a request that never settles does not hold it for ever', async () => {
    const timers = new ManualTimers();
    const device = new FaultyDevice(new MemoryDevice());
    device.holding = true;
    const { server, address } = await serve(new MemoryCatalog(device), { timers });
    const client = await connectClient(address, { structuredReplies: false });
    client.write(0, Buffer.alloc(512, 7)).catch(() => undefined);
    await until(() => device.heldCount === 1);
    const closed = server.close();
    timers.fire(10_000);
    await closed;
    expect(device.closeCount).toBe(0);
    device.release();
    await until(() => device.closeCount === 1);
  });
});

describe('limits', () => {
  const greeted = async (address: NbdAddress): Promise<Socket> => {
    const socket = connect((address as { port: number }).port, '127.0.0.1');
    cleanups.push(async () => socket.destroy());
    socket.on('error', () => undefined);
    await new Promise((resolve) => socket.once('data', resolve));
    return socket;
  };
  const closedBy = (socket: Socket) => new Promise((resolve) => socket.once('close', resolve));

  test('a handshake that takes too long is cut off, one that is over is not', async () => {
    const timers = new ManualTimers();
    const { server, address } = await serve(new MemoryCatalog(new MemoryDevice()), { timers, handshakeMsMax: 77 });
    const slow = await greeted(address);
    const quick = await connectClient(address);
    const cut = closedBy(slow);
    timers.fire(77);
    await cut;
    await quick.flush();
    await until(() => server.counters.connectionsOpen === 1);
    expect(server.counters.handshakesUnfinished).toBe(1);
  });

  test('who stalls in the middle of a payload is cut off, who sends a next one is not', async () => {
    // Sixteen that sent 32 MiB but for a byte had all that the server holds, for ever.
    const timers = new ManualTimers();
    const { server, address } = await serve(new MemoryCatalog(new MemoryDevice()), { timers });
    const [stalled, busy] = [await connectClient(address), await connectClient(address)];
    const part = (size: number) => request(1, { payload: Buffer.alloc(4096, 1) }).subarray(0, size);
    socketOf(stalled).write(part(28 + 1000));
    socketOf(busy).write(part(28 + 1000));
    await until(() => server.counters.bytesPending === 2000);
    timers.fire(60_000);
    socketOf(busy).write(Buffer.concat([part(28 + 4096).subarray(28 + 1000), part(28 + 500)]));
    await until(() => server.counters.writes === 1 && server.counters.bytesPending === 1500);
    timers.fire(60_000);
    await until(() => server.counters.connectionsOpen === 1);
    expect(server.counters.bytesPending).toBe(500);
    timers.fire(60_000);
    await until(() => server.counters.connectionsOpen === 0);
    expect([server.counters.bytesPending, timers.count]).toEqual([0, 0]);
  });

  test('connections beyond the cap are turned away, and a freed place is taken again', async () => {
    const { server, address } = await serve(new MemoryCatalog(new MemoryDevice()), { connectionsMax: 2 });
    const [one] = [await connectClient(address), await connectClient(address)];
    await expect(NbdClient.connect(address)).rejects.toMatchObject({ code: 'ECONNRESET' });
    expect(server.counters).toMatchObject({ connectionsOpen: 2, connectionsRefused: 1 });
    await one!.close();
    await until(() => server.counters.connectionsOpen === 1);
    await (await connectClient(address)).flush();
  });

  test('a connection that is gone has its place until its last request has settled', async () => {
    const device = new FaultyDevice(new MemoryDevice());
    device.holding = true;
    const { server, address } = await serve(new MemoryCatalog(device), { connectionsMax: 1 });
    const client = await connectClient(address);
    client.write(0, Buffer.alloc(512, 7)).catch(() => undefined);
    await until(() => device.heldCount === 1);
    socketOf(client).resetAndDestroy();
    await until(() => server.counters.connectionsOpen === 0);
    await expect(NbdClient.connect(address)).rejects.toMatchObject({ code: 'ECONNRESET' });
    expect(server.counters.connectionsRefused).toBe(1);
    device.holding = false;
    device.release();
    await until(() => device.closeCount === 1);
    await (await connectClient(address)).flush();
  });

  test('a client that does not read its replies stops being served, and costs bounded memory', async () => {
    const device = new MemoryDevice();
    const { server, address } = await serve(new MemoryCatalog(device));
    const client = await connectClient(address);
    const socket = socketOf(client);
    socket.pause();
    const reads = Array.from({ length: 200 }, () => client.read(0, 1 << 20));
    const settled = Promise.all(reads);
    let before = -1;
    while (server.counters.reads !== before || before < 2) {
      before = server.counters.reads;
      for (let turn = 0; turn < 200; turn += 1) await new Promise((resolve) => setImmediate(resolve));
    }
    expect(before).toBeLessThan(100); // 64 MiB in flight, 8 MiB of backlog, what the kernel's buffers take
    socket.resume();
    await settled;
    expect(server.counters.reads).toBe(200);
    await client.close();
  });
});

describe('addresses', () => {
  test('a unix socket: a stale one is replaced, a live one or a file is not', async () => {
    const directory = await temporaryDirectory();
    const path = join(directory, 'nbd.sock');
    const catalog = new MemoryCatalog(new MemoryDevice());
    const { server, address } = await serve(catalog, {}, { path });
    await (await NbdClient.connect(formatNbdUri(address, 'disk'))).close();
    await expect(serve(catalog, {}, { path })).rejects.toMatchObject({ code: 'CONFIG' });
    await server.close();
    await expect(stat(path)).rejects.toMatchObject({ code: 'ENOENT' });

    // a server that was killed leaves its socket behind
    const script = `require('net').createServer().listen(process.argv[1], () => process.kill(process.pid, 'SIGKILL'))`;
    const child = spawn(process.execPath, ['-e', script, path]);
    await new Promise((resolve) => child.once('exit', resolve));
    expect((await stat(path)).isSocket()).toBe(true);
    await serve(catalog, {}, { path });
    await (await NbdClient.connect({ path })).close();

    const file = join(directory, 'file');
    await writeFile(file, 'precious');
    await expect(serve(catalog, {}, { path: file })).rejects.toMatchObject({ code: 'CONFIG' });
    expect((await stat(file)).size).toBe(8);
  });

  test('a TCP port that is taken is a configuration error', async () => {
    const squatter = createServer();
    await new Promise<void>((resolve) => squatter.listen(0, '127.0.0.1', resolve));
    cleanups.push(() => new Promise((resolve) => squatter.close(resolve)));
    const { port } = squatter.address() as { port: number };
    await expect(serve(new MemoryCatalog(), {}, { host: '127.0.0.1', port })).rejects.toMatchObject({ code: 'CONFIG' });
  });

  test('URIs name TCP and unix servers both ways', () => {
    const rows: [NbdAddress, string, string][] = [
      [{ host: 'a.example', port: 10809 }, 'vm1', 'nbd://a.example:10809/vm1'],
      [{ host: '::1', port: 9 }, 'vm@applied', 'nbd://[::1]:9/vm@applied'],
      [{ path: '/run/a b.sock' }, 'vm1', 'nbd+unix:///vm1?socket=/run/a%20b.sock'],
    ];
    for (const [address, name, uri] of rows) {
      expect(formatNbdUri(address, name)).toBe(uri);
      expect(parseNbdUri(uri)).toEqual({ address, exportName: name });
    }
    expect(parseNbdUri('nbd://host/x')).toEqual({ address: { host: 'host', port: 10809 }, exportName: 'x' });
    for (const wrong of ['', 'http://host/x', 'nbd+unix:///x', '127.0.0.1:10809']) {
      expect(() => parseNbdUri(wrong)).toThrow(ForelockError);
    }
  });
});
