import { createConnection } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { WebSocket, WebSocketServer } from 'ws';
import {
  CONTROL_SIZE_MAX,
  HEARTBEAT_MS,
  LINK_HANDSHAKE_BUSY_MS_MAX,
  LINK_HANDSHAKE_MS_MAX,
  LINKS_PENDING_MAX,
  RECONNECT_MS_MAX,
  RECONNECT_MS_MIN,
} from '../../src/limits.js';
import { isLoopback } from '../../src/link/endpoint.js';
import { MESSAGE_HELLO } from '../../src/link/handshake.js';
import { CLOSE_GOING_AWAY, CLOSE_PROTOCOL, CLOSE_REFUSED, CLOSE_REPLACED, CLOSE_TIMEOUT } from '../../src/link/link.js';
import { askByHand, FakeClock, header, LISTEN, TcpRelay, TestEnd, until } from './helpers.js';

const KEY = Buffer.from('0123456789abcdef0123456789abcdef');
const OTHER_KEY = Buffer.from('fedcba9876543210fedcba9876543210');

const toClose: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const item of toClose.splice(0).reverse()) await item.close();
});

type Options = Parameters<typeof TestEnd.open>[0];
async function open(options: Options): Promise<TestEnd> {
  const end = await TestEnd.open(options);
  toClose.push(end.endpoint);
  return end;
}

async function pair(a: Partial<Options> = {}, b: Partial<Options> = {}): Promise<{ a: TestEnd; b: TestEnd }> {
  const listener = await open({ site: 'b', where: LISTEN, ...b });
  const connector = await open({ site: 'a', where: { connect: listener.url }, ...a });
  return { a: connector, b: listener };
}

/** A client that is not one of ours. */
async function stranger(
  url: string,
  options: object = {},
): Promise<{ ws: WebSocket; closed: Promise<{ code: number; reason: string }> }> {
  const ws = new WebSocket(url, options);
  const closed = new Promise<{ code: number; reason: string }>((resolve) => {
    ws.on('close', (code, reason) => resolve({ code, reason: reason.toString() }));
  });
  ws.on('error', () => {});
  await new Promise<void>((resolve) => {
    ws.once('open', resolve);
    ws.once('close', () => resolve());
  });
  return { ws, closed };
}

async function rawStranger(port: number, said: Buffer): ReturnType<typeof askByHand> {
  const asked = await askByHand(port, said);
  toClose.push({ close: async () => void asked.socket.destroy() });
  return asked;
}

test.each([
  ['with a key', KEY],
  ['without', null],
])('two ends find each other, %s, and carry messages both ways', async (_, key) => {
  const { a, b } = await pair({ key }, { key });
  await until(() => a.links.length === 1 && b.links.length === 1);
  expect(a.last.peer).toMatchObject({ site: 'b', authenticated: key !== null, hello: { from: 'b' } });
  expect(b.last.peer).toMatchObject({ site: 'a', authenticated: key !== null, hello: { from: 'a' } });
  a.last.link.send(header('to b'), null, null);
  b.last.link.send(header('to a', true), Buffer.from('stretch'), null);
  await until(() => a.last.messages.length === 1 && b.last.messages.length === 1);
  expect(Buffer.from(b.last.messages[0]!.header).equals(header('to b'))).toBe(true);
  expect(b.last.messages[0]!.stretch).toBeNull();
  expect(Buffer.from(a.last.messages[0]!.stretch!).toString()).toBe('stretch');
  expect(a.endpoint.status()).toMatchObject({ state: 'up', reason: '', peerSite: 'b', connects: 1, bytesSent: 6 });
  expect(b.endpoint.status()).toMatchObject({
    state: 'up',
    peerSite: 'a',
    connects: 1,
    bytesSent: 13,
    bytesReceived: 6,
  });
});

const ENDED = 'waiting for the peer to connect; a connection that had proved nothing has ended: ';

test('wrong keys are refused, with the reason at both ends', async () => {
  const { a, b } = await pair({ key: KEY }, { key: OTHER_KEY });
  await until(() => a.endpoint.status().state === 'refused' && b.endpoint.status().refusals > 0);
  expect(a.endpoint.status().reason).toBe('the shared keys of the two ends differ');
  expect(b.endpoint.status()).toMatchObject({
    state: 'away',
    reason: `${ENDED}the shared keys of the two ends differ`,
  });
  expect(a.links.length + b.links.length).toBe(0);
  expect(b.endpoint.status().refusals).toBe(1);
});

test('a key at one end only is refused, with the reason at both ends', async () => {
  const { a, b } = await pair({ key: KEY }, { key: null });
  await until(() => a.endpoint.status().state === 'refused' && b.endpoint.status().refusals > 0);
  const why = 'the connecting end has a shared key and the listening end has none: give both --key';
  expect(a.endpoint.status().reason).toBe(why);
  expect(b.endpoint.status()).toMatchObject({ state: 'away', reason: `${ENDED}${why}` });
});

/**
 * A HELLO without a key, or with another one, and the listener showed that the peer was refused; any connection that ended, and it
 * did not show any more why it was.
 */
test('what a stranger does says nothing of the peer', async () => {
  const b = await open({
    site: 'b',
    where: LISTEN,
    key: KEY,
    onLink: (link) => link.close(CLOSE_REFUSED, 'sizes differ'),
  });
  const { ws, closed } = await stranger(b.url);
  ws.close();
  await closed;
  await until(() => b.endpoint.status().failures === 1);
  expect(b.endpoint.status()).toMatchObject({ state: 'away', reason: `${ENDED}it was closed at the other end` });
  await open({ site: 'a', where: { connect: b.url }, key: KEY });
  await until(() => b.endpoint.status().state === 'refused');
  expect(b.endpoint.status().reason).toBe('sizes differ');
  await open({ site: 'c', where: { connect: b.url }, key: OTHER_KEY });
  await until(() => b.endpoint.status().refusals === 1);
  const and = 'a connection that had proved nothing has ended: the shared keys of the two ends differ';
  expect(b.endpoint.status()).toMatchObject({ state: 'refused', reason: `sizes differ; ${and}`, peerSite: 'a' });
});

test('an owner that refuses the peer tells both why, and the connecting end does not storm', async () => {
  const clock = new FakeClock();
  const why = 'sizes differ: volume "disk" has 64 MiB here and 128 MiB there';
  const { a, b } = await pair({ clock, random: () => 0 }, { onLink: (link) => link.close(CLOSE_REFUSED, why) });
  await until(() => a.endpoint.status().state === 'refused' && b.endpoint.status().state === 'refused');
  expect(a.endpoint.status().reason).toBe(why);
  expect(b.endpoint.status().reason).toBe(why);
  expect(a.last.closed).toEqual({ reason: why, code: CLOSE_REFUSED });
  clock.advance(RECONNECT_MS_MAX / 2 - 1);
  expect(a.endpoint.status().connects).toBe(1);
  clock.advance(1);
  await until(() => a.endpoint.status().connects === 2);
});

test('without a key a listener stays on loopback, and says what to do', async () => {
  await expect(TestEnd.open({ site: 'b', where: { listen: { host: '0.0.0.0', port: 0 } } })).rejects.toMatchObject({
    code: 'CONFIG',
    message: expect.stringContaining('--key FILE'),
  });
  expect(['localhost', '127.0.0.1', '127.3.4.5', '::1', '[::1]'].every(isLoopback)).toBe(true);
  expect(['0.0.0.0', '::', '127.example.org', '10.0.0.1', '127.0.0.1.example.org'].some(isLoopback)).toBe(false);
  const withKey = await open({ site: 'b', where: { listen: { host: '0.0.0.0', port: 0 } }, key: KEY });
  expect(withKey.endpoint.address!.port).toBeGreaterThan(0);
});

test('without a key it connects to loopback only, and says what to do', async () => {
  const elsewhere = TestEnd.open({ site: 'a', where: { connect: 'ws://192.0.2.1:1' } });
  await expect(elsewhere).rejects.toMatchObject({ code: 'CONFIG', message: expect.stringContaining('--key FILE') });
  for (const host of ['localhost', '127.9.9.9', '[::1]'])
    await open({ site: 'a', where: { connect: `ws://${host}:1` } });
  await open({ site: 'a', where: { connect: 'ws://192.0.2.1:1' }, key: KEY });
});

test('an address in use and a URL that is none are configuration errors', async () => {
  const b = await open({ site: 'b', where: LISTEN });
  const { port } = b.endpoint.address!;
  await expect(TestEnd.open({ site: 'c', where: { listen: { host: '127.0.0.1', port } } })).rejects.toMatchObject({
    code: 'CONFIG',
  });
  for (const connect of ['nonsense', 'http://127.0.0.1:1', 'ws://']) {
    await expect(TestEnd.open({ site: 'c', where: { connect } })).rejects.toMatchObject({ code: 'CONFIG' });
  }
});

test.each([
  [
    'an oversized HELLO',
    () => Buffer.concat([Buffer.of(MESSAGE_HELLO), Buffer.alloc(CONTROL_SIZE_MAX, 32)]),
    CLOSE_PROTOCOL,
  ],
  ['garbage', () => Buffer.from('garbage'), CLOSE_PROTOCOL],
  ['a message of the mirror before the handshake', () => Buffer.from(header('early')), CLOSE_PROTOCOL],
  ['text', () => 'hello', CLOSE_PROTOCOL],
  ['more than any message may hold', () => Buffer.alloc(3 * 1024 * 1024), 1009],
])('%s is answered with a close and its reason', async (_, make, code) => {
  const b = await open({ site: 'b', where: LISTEN });
  const { ws, closed } = await stranger(b.url);
  ws.send(make());
  expect((await closed).code).toBe(code);
  await until(() => b.endpoint.status().reason !== 'waiting for the peer to connect');
  expect(b.links.length).toBe(0);
});

// A stranger could write lines of its own into the operator's log and status, with escape sequences, and show `refused`.
test('what a connection that has proved nothing says when it closes is not told', async () => {
  const b = await open({ site: 'b', where: LISTEN, key: KEY });
  const { ws, closed } = await stranger(b.url);
  ws.close(CLOSE_REFUSED, 'bad\nforelock: group main: linked with site good\x1b[41m');
  await closed;
  await until(() => b.endpoint.status().failures === 1);
  expect(b.endpoint.status()).toMatchObject({
    state: 'away',
    reason: `${ENDED}it was closed at the other end`,
    refusals: 0,
  });
});

test('what a listener says when it refuses is told, as text', async () => {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0 });
  toClose.push({ close: async () => server.close() });
  server.on('connection', (ws) => ws.close(CLOSE_REFUSED, 'no\nforelock: yes\x1b[41m\u2028\u202e, sizes differ'));
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address() as { port: number };
  const a = await open({ site: 'a', where: { connect: `ws://127.0.0.1:${port}` }, key: KEY });
  await until(() => a.endpoint.status().state === 'refused');
  expect(a.endpoint.status().reason).toBe('no?forelock: yes?[41m??, sizes differ');
});

test('bytes that are no WebSocket, and pages in a browser, are turned away', async () => {
  const b = await open({ site: 'b', where: LISTEN });
  const { port } = b.endpoint.address!;
  const raw = createConnection(port, '127.0.0.1');
  raw.on('error', () => {});
  raw.resume();
  raw.write('\x00\x01\x02 nonsense\r\n\r\n');
  await new Promise((resolve) => raw.on('close', resolve));
  const response = await fetch(`http://127.0.0.1:${port}/`);
  expect(response.status).toBe(426);
  const { closed } = await stranger(b.url, { origin: 'http://localhost' });
  await closed;
  expect(b.endpoint.status().refusals).toBe(1);
  const after = await open({ site: 'a', where: { connect: b.url } });
  await until(() => after.links.length === 1);
});

test('a handshake that stands still is given up, sooner where many do', async () => {
  const clock = new FakeClock();
  const b = await open({ site: 'b', where: LISTEN, clock });
  const strangers = [];
  for (let count = 0; count < LINKS_PENDING_MAX; count += 1) strangers.push(await stranger(b.url));
  const late = LINKS_PENDING_MAX / 2 + 1;
  clock.advance(LINK_HANDSHAKE_BUSY_MS_MAX);
  for (const { closed } of strangers.slice(late)) expect((await closed).code).toBe(CLOSE_TIMEOUT);
  expect(b.endpoint.status().timeouts).toBe(LINKS_PENDING_MAX - late);
  clock.advance(LINK_HANDSHAKE_MS_MAX - LINK_HANDSHAKE_BUSY_MS_MAX);
  for (const { closed } of strangers) expect((await closed).code).toBe(CLOSE_TIMEOUT);
  expect(b.endpoint.status().timeouts).toBe(LINKS_PENDING_MAX);
});

test('who fails gives its place back at once, closing handshake or not', async () => {
  // It was no longer counted, and kept its socket for 2 s: a stranger held as many as it could open in that time.
  const { b } = await pair();
  await until(() => b.links.length === 1);
  const { port } = b.endpoint.address!;
  const text = Buffer.of(0x81, 0x81, 0, 0, 0, 0, 0x41);
  for (let count = 0; count <= 2 * LINKS_PENDING_MAX; count += 1) {
    const { status, ended } = await rawStranger(port, text);
    expect(status).toBe('101');
    await ended;
  }
  expect(b.endpoint.status()).toMatchObject({ state: 'up', refusals: 2 * LINKS_PENDING_MAX + 1 });
});

test('who proves nothing and stays makes way for who comes, and the peer is let in', async () => {
  // Strangers without the key held every place: the peer was turned away for as long as they came back.
  const b = await open({ site: 'b', where: LISTEN, key: KEY });
  const { port } = b.endpoint.address!;
  const none = Buffer.alloc(0);
  const strangers = [];
  for (let count = 0; count < 3 * LINKS_PENDING_MAX; count += 1) strangers.push(await rawStranger(port, none));
  expect(new Set(strangers.map(({ status }) => status))).toEqual(new Set(['101']));
  for (const { ended } of strangers.slice(0, 2 * LINKS_PENDING_MAX)) await ended;
  expect(b.endpoint.status()).toMatchObject({ state: 'away', failures: 2 * LINKS_PENDING_MAX });
  await open({ site: 'a', where: { connect: b.url }, key: KEY });
  await until(() => b.links.length === 1);
  // one of the strangers made way, and the link takes none of their places
  expect(b.endpoint.status()).toMatchObject({ state: 'up', failures: 2 * LINKS_PENDING_MAX + 1 });
  await rawStranger(port, none);
  expect(b.endpoint.status()).toMatchObject({ state: 'up', failures: 2 * LINKS_PENDING_MAX + 1 });
});

test('so does who connects and asks for nothing', async () => {
  const b = await open({ site: 'b', where: LISTEN, key: KEY });
  const { port } = b.endpoint.address!;
  const ends: Promise<void>[] = [];
  for (let count = 0; count < 3 * LINKS_PENDING_MAX; count += 1) {
    const socket = createConnection({ port, host: '127.0.0.1' });
    toClose.push({ close: async () => void socket.destroy() });
    socket.on('error', () => {});
    ends.push(new Promise((resolve) => socket.once('close', () => resolve())));
    await new Promise<void>((resolve) => socket.once('connect', () => resolve()));
  }
  await Promise.all(ends.slice(0, 2 * LINKS_PENDING_MAX));
  await open({ site: 'a', where: { connect: b.url }, key: KEY });
  await until(() => b.links.length === 1);
});

test('a newer link from the same site replaces the old one; one from another site is refused', async () => {
  const { a, b } = await pair();
  await until(() => b.links.length === 1);
  const order: string[] = [];
  const old = b.last;
  old.link.onClose = (reason, code) => order.push(`closed ${code}: ${reason} with ${b.links.length} links`);
  const again = await open({ site: 'a', where: { connect: b.url }, random: () => 0.99 });
  await until(() => b.links.length >= 2);
  expect(order[0]).toBe(`closed ${CLOSE_REPLACED}: replaced by a newer link from the same site with 1 links`);
  await until(() => a.links[0]!.closed !== null);
  expect(a.links[0]!.closed!.code).toBe(CLOSE_REPLACED);
  await a.endpoint.close();
  await until(() => again.endpoint.status().state === 'up' && b.endpoint.status().state === 'up');
  const other = await open({ site: 'c', where: { connect: b.url } });
  await until(() => other.endpoint.status().reason.startsWith('linked with'));
  expect(other.endpoint.status().reason).toBe('linked with site "a" already');
  expect(other.links.length).toBe(0);
  expect(b.endpoint.status().state).toBe('up');
});

test('after a cut the ends connect again, with a new hello and counters that go on', async () => {
  const b = await open({ site: 'b', where: LISTEN });
  const relay = new TcpRelay(b.endpoint.address!);
  toClose.push(relay);
  let number = 0;
  const a = await open({
    site: 'a',
    where: { connect: await relay.listen() },
    hello: () => {
      number += 1;
      return { number };
    },
  });
  for (let round = 1; round <= 3; round += 1) {
    await until(() => a.links.length === round && b.links.length === round);
    expect(b.last.peer.hello).toEqual({ number: round });
    a.last.link.send(header('x'), null, null);
    await until(() => b.last.messages.length === 1);
    relay.cut();
    await until(() => a.last.closed !== null && b.last.closed !== null);
  }
  expect(a.endpoint.status()).toMatchObject({ bytesSent: 9 });
  expect(b.endpoint.status().bytesReceived).toBe(9);
});

test('waits between attempts double, with jitter, up to their limit', async () => {
  const clock = new FakeClock();
  const gone = await TestEnd.open({ site: 'b', where: LISTEN });
  const url = gone.url;
  await gone.endpoint.close();
  const a = await open({ site: 'a', where: { connect: url }, clock, random: () => 0.5 });
  let wait = RECONNECT_MS_MIN;
  for (let attempt = 1; attempt <= 9; attempt += 1) {
    await until(() => a.endpoint.status().failures === attempt && clock.pending === 1);
    clock.advance(wait * 0.75 - 0.01);
    expect(clock.pending).toBe(1);
    clock.advance(0.01);
    wait = Math.min(wait * 2, RECONNECT_MS_MAX);
  }
  expect(a.endpoint.status().reason).toContain(`cannot connect to ${url}`);
});

test('a peer that falls silent with its connection up is dead; a pause, or a stall of our own, is not', async () => {
  const b = await open({ site: 'b', where: LISTEN });
  const relay = new TcpRelay(b.endpoint.address!);
  toClose.push(relay);
  const clock = new FakeClock();
  const a = await open({ site: 'a', where: { connect: await relay.listen() }, clock });
  await until(() => a.links.length === 1 && b.links.length === 1);
  const { link } = a.last;
  await until(() => link.bytesReceived === 0 && a.endpoint.status().state === 'up');
  relay.silence();
  link.pauseReceiving();
  for (let beat = 0; beat < 20; beat += 1) clock.advance(HEARTBEAT_MS);
  expect(a.last.closed).toBeNull();
  link.resumeReceiving();
  clock.time += 3_600_000; // the loop stood still for an hour
  clock.advance(HEARTBEAT_MS);
  expect(a.last.closed).toBeNull();
  for (let beat = 0; beat < 8; beat += 1) clock.advance(HEARTBEAT_MS);
  expect(a.last.closed).toEqual({ reason: 'the peer was silent for 8 s', code: CLOSE_TIMEOUT });
  expect(a.endpoint.status()).toMatchObject({ state: 'away', reason: 'the peer was silent for 8 s' });
});

test('pings keep a quiet link alive and measure the round trip', async () => {
  const { a, b } = await pair();
  await until(() => a.endpoint.status().roundTripMs > 0 && b.endpoint.status().roundTripMs > 0);
  expect(a.last.messages).toEqual([]);
});

test('that the peer held the link is known as of the newest ping that it answered, not as of the answer', async () => {
  const b = await open({ site: 'b', where: LISTEN });
  const relay = new TcpRelay(b.endpoint.address!);
  toClose.push(relay);
  const clock = new FakeClock();
  const a = await open({ site: 'a', where: { connect: await relay.listen() }, clock });
  await until(() => a.links.length === 1);
  const { link } = a.last;
  await until(() => link.unprovenMs === 0); // the ping that opens the link
  clock.advance(HEARTBEAT_MS); // one more is sent
  clock.time += 500; // and its answer comes so much later
  await until(() => link.unprovenMs === 500);
  relay.silence();
  clock.time += 3_600_000; // nobody looked, or could
  expect(link.unprovenMs).toBe(3_600_500);
  for (let beat = 0; beat < 5; beat += 1) clock.advance(HEARTBEAT_MS);
  expect(link.unprovenMs).toBe(3_600_500 + 5 * HEARTBEAT_MS);
});

test('stopping says so to the peer, behind what was sent', async () => {
  const { a, b } = await pair();
  await until(() => a.links.length === 1 && b.links.length === 1);
  a.last.link.send(header('last words'), null, null);
  await a.endpoint.close();
  await until(() => b.last.closed !== null);
  expect(b.last.messages.length).toBe(1);
  expect(b.last.closed).toEqual({ reason: 'the gateway is stopping', code: CLOSE_GOING_AWAY });
  expect(a.last.closed!.code).toBe(CLOSE_GOING_AWAY);
});

test('a shape given at one end lengthens the round trip', async () => {
  const { a, b } = await pair({ shape: { roundTripMs: 20, bytesPerSecond: 0 } });
  await until(() => a.links.length === 1 && b.links.length === 1);
  for (let number = 0; number < 50; number += 1)
    a.last.link.send(header(String(number), true), Buffer.alloc(100, number), null);
  await until(() => b.last.messages.length === 50);
  expect(b.last.messages.map(({ stretch }) => stretch![0])).toEqual([...Array(50).keys()]);
  expect(a.endpoint.status().roundTripMs).toBeGreaterThanOrEqual(20);
});
