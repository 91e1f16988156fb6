/** The client against servers that are odd, wrong or hostile: scripted bytes, one answer for each thing it sends. */
import { createServer, type Socket } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { NbdClient } from '../../src/frontend/nbd/client.js';
import { be16, be32, be64, join } from './wire.js';

const cleanups: (() => void)[] = [];
afterEach(() => {
  for (const cleanup of cleanups.splice(0)) cleanup();
});

const greeting = join(Buffer.from('NBDMAGICIHAVEOPT'), be16(3));
const reply = (option: number, type: number, data: Uint8Array = Buffer.alloc(0)) =>
  join(Buffer.from('0003e889045565a9', 'hex'), be32(option), be32(type), be32(data.length), data);
const exportInfo = join(be16(0), be64(8192), be16(1));
const chunk = (type: number, cookie: number, data: Uint8Array, flags = 1, size = data.length) =>
  join(be32(0x668e33ef), be16(flags), be16(type), be64(cookie), be32(size), data);
const simple = (cookie: number, errno = 0) => join(be32(0x67446698), be32(errno), be64(cookie));

/** A server that greets, then answers the n-th thing it hears with the n-th answer. */
async function scripted(...answers: Buffer[]): Promise<{ host: string; port: number }> {
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on('error', () => undefined);
    socket.write(greeting);
    let heard = Buffer.alloc(0);
    let flagsSeen = false;
    socket.on('data', (bytes: Buffer) => {
      heard = Buffer.concat([heard, bytes]);
      if (!flagsSeen && heard.length >= 4) {
        flagsSeen = true;
        heard = heard.subarray(4);
      }
      while (heard.length > 0) {
        const isOption = heard.toString('latin1', 0, 8) === 'IHAVEOPT';
        const size = isOption ? 16 + (heard.length >= 16 ? heard.readUInt32BE(12) : 0) : 28;
        if (heard.length < size) return;
        heard = heard.subarray(size);
        const answer = answers.shift();
        if (answer === undefined) socket.destroy();
        else socket.write(answer);
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  cleanups.push(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { host: '127.0.0.1', port: (server.address() as { port: number }).port };
}

const UNSUP = 0x80000001;
const plain = [reply(8, UNSUP), join(reply(7, 3, exportInfo), reply(7, 1))];
const structured = [reply(8, 1), reply(10, UNSUP), join(reply(7, 3, exportInfo), reply(7, 1))];

test('a server without structured replies is done with simple ones', async () => {
  const data = Buffer.from('0123456789abcdef');
  const client = await NbdClient.connect(await scripted(...plain, join(simple(0), data), simple(0, 28), simple(0, 77)));
  expect(client).toMatchObject({ size: 8192, structuredReplies: false, allocationContext: false });
  expect((await client.read(0, 16)).equals(data)).toBe(true);
  await expect(client.flush()).rejects.toMatchObject({ code: 'ENOSPC' });
  await expect(client.flush()).rejects.toMatchObject({ code: 'errno 77' });
});

test('a read in several chunks, out of order, with a hole', async () => {
  const pieces = join(
    chunk(1, 0, join(be64(4104), Buffer.from('end.')), 0),
    chunk(2, 0, join(be64(4100), be32(4)), 0),
    chunk(1, 0, join(be64(4096), Buffer.from('head')), 0),
    chunk(0, 0, Buffer.alloc(0)),
  );
  const client = await NbdClient.connect(await scripted(...structured, pieces));
  expect((await client.read(4096, 12)).toString('latin1')).toBe('head\0\0\0\0end.');
});

test('an error beside data is an error', async () => {
  const pieces = join(
    chunk(1, 0, join(be64(0), Buffer.from('data')), 0),
    chunk(0x8002, 0, join(be32(5), be16(3), Buffer.from('bad'), be64(2))),
  );
  const client = await NbdClient.connect(await scripted(...structured, pieces));
  await expect(client.read(0, 4)).rejects.toMatchObject({ code: 'EIO', message: 'bad' });
});

const WRONG: [string, Buffer][] = [
  ['no magic', Buffer.alloc(40)],
  ['a cookie nobody used', chunk(0, 7, Buffer.alloc(0))],
  ['a simple reply to a read', simple(0)],
  ['data before the request', chunk(1, 0, join(be64(0), Buffer.alloc(4)))],
  ['data beyond the request', chunk(1, 0, join(be64(4096), Buffer.alloc(513)))],
  ['a chunk larger than any', chunk(1, 0, Buffer.alloc(8), 1, 0xffffffff)],
  ['an unknown chunk', chunk(9, 0, Buffer.alloc(0))],
  ['an empty content chunk', chunk(1, 0, be64(4096))],
  ['an error chunk cut short', chunk(0x8001, 0, be32(5))],
  ['less data than asked for', chunk(1, 0, join(be64(4096), Buffer.alloc(511)))],
];
test.each(WRONG)('a server that sends %s: EPROTO, not data', async (_name, bytes) => {
  const client = await NbdClient.connect(await scripted(...structured, bytes));
  await expect(client.read(4096, 512)).rejects.toMatchObject({ code: 'EPROTO' });
  client.destroy();
});

test('a server that hangs up: everything in flight and everything after fails', async () => {
  const client = await NbdClient.connect(await scripted(...structured));
  const lost = { code: 'ECONNRESET' };
  await Promise.all([
    expect(client.read(0, 512)).rejects.toMatchObject(lost),
    expect(client.write(0, Buffer.alloc(512))).rejects.toMatchObject(lost),
  ]);
  await expect(client.flush()).rejects.toMatchObject(lost);
  await client.close();
});

test('no NBD server', async () => {
  const server = createServer((socket) => socket.end('220 mail.example ESMTP ready and waiting\r\n'));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  cleanups.push(() => server.close());
  const { port } = server.address() as { port: number };
  await expect(NbdClient.connect({ host: '127.0.0.1', port })).rejects.toMatchObject({ code: 'EPROTO' });
});
