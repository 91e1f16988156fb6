/** The transmission phase on its own: every row of the error table, odd deliveries, ends. No socket in here. */
import { describe, expect, test } from 'vitest';
import { Abandoned } from '../../src/frontend/nbd/abandoned.js';
import { BusyPoll } from '../../src/frontend/nbd/busy-poll.js';
import { NbdCounters } from '../../src/frontend/nbd/counters.js';
import { Gathering } from '../../src/frontend/nbd/gathering.js';
import { ReadMemory } from '../../src/frontend/nbd/read-memory.js';
import { type ReplyPort, Transmission } from '../../src/frontend/nbd/transmission.js';
import { NBD_PAYLOAD_MAX, NBD_REQUESTS_MAX } from '../../src/limits.js';
import type { BlockDevice, ReadCompletion } from '../../src/volume/device.js';
import { FaultyDevice, MemoryDevice } from './memory-device.js';
import { hex, join, type ParsedReply, parseReplies, request } from './wire.js';

const ignore = (): void => undefined;

const READ = 0;
const WRITE = 1;
const DISC = 2;
const FLUSH = 3;
const TRIM = 4;
const CACHE = 5;
const ZEROES = 6;
const STATUS = 7;
const FUA = 1;
const NO_HOLE = 2;
const DF = 4;
const REQ_ONE = 8;
const FAST_ZERO = 16;
const PAYLOAD_LEN = 32;

const EPERM = 1;
const EINVAL = 22;
const ENOSPC = 28;
const EOVERFLOW = 75;

/** Keeps what was sent; flushes at the end of the turn as the real one does. */
class TestPort implements ReplyPort {
  readonly sent: Buffer[] = [];
  transmission!: Transmission;
  paused = false;
  ended: string | null = null;
  readerSlow = false;
  /** What the sender may write again once it is told so. */
  lent: Uint8Array[] | null = null;
  readonly done: (() => void)[] = [];
  send(pieces: readonly Uint8Array[], sent: (() => void) | null): boolean {
    this.lent?.push(...pieces);
    for (const piece of pieces) this.sent.push(Buffer.from(piece));
    if (this.lent === null) sent?.();
    else if (sent !== null) this.done.push(sent);
    return !this.readerSlow;
  }
  scheduleFlush(): void {
    process.nextTick(() => this.transmission.flush());
  }
  scheduleFlushLater(): void {
    this.later.push(() => this.transmission.flush());
  }
  /** Called by the test. */
  readonly later: (() => void)[] = [];
  pause(): void {
    this.paused = true;
  }
  resume(): void {
    this.paused = false;
  }
  finish(): void {
    this.ended ??= 'finished';
  }
  abort(reason: string): void {
    this.ended ??= `aborted: ${reason}`;
  }
  get bytes(): Buffer {
    return Buffer.concat(this.sent);
  }
}

interface Setup {
  device?: BlockDevice;
  structuredReplies?: boolean;
  allocationContext?: boolean;
  requestsMax?: number;
  counters?: NbdCounters;
  abandoned?: Abandoned;
}

function start(setup: Setup = {}) {
  const device = setup.device ?? new MemoryDevice();
  const port = new TestPort();
  const counters = setup.counters ?? new NbdCounters();
  const structuredReplies = setup.structuredReplies ?? true;
  const session = { device, structuredReplies, allocationContext: setup.allocationContext ?? structuredReplies };
  const transmission = new Transmission(
    session,
    port,
    counters,
    setup.requestsMax ?? NBD_REQUESTS_MAX,
    new ReadMemory(),
    new BusyPoll(1, () => 0, setImmediate),
    new Gathering(() => 0),
    setup.abandoned ?? new Abandoned(),
  );
  port.transmission = transmission;
  return { device, port, counters, transmission };
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

/** One request; its reply. */
async function ask(bytes: Buffer, setup: Setup = {}): Promise<ParsedReply> {
  const { port, transmission } = start(setup);
  transmission.receive(bytes);
  await turn();
  expect(port.ended).toBeNull();
  const replies = parseReplies(port.bytes);
  expect(replies.length).toBe(1);
  expect(replies[0]!.cookie).toBe(0x1122334455667788n);
  // the connection is still good
  transmission.receive(request(FLUSH, { cookie: 99n }));
  await turn();
  expect(parseReplies(port.bytes).at(-1)).toMatchObject({ cookie: 99n, errno: 0 });
  return replies[0]!;
}

const SIZE = 1 << 20;
const block = Buffer.alloc(4096, 0xab);
const writable = () => new MemoryDevice();
const readOnly = () => new MemoryDevice({ readOnly: true });
const standby = () => new MemoryDevice({ contentRefused: true });
const huge = () =>
  Object.assign(new MemoryDevice(), {
    size: 2 ** 40,
    read: () => expect.unreachable(),
    write: () => expect.unreachable(),
  });

describe('the error table', () => {
  const past = { offset: SIZE - 100, size: 101 };
  const far = { offset: 0xffff_ffff_ffff_ffffn, size: 1 };
  const wrap = { offset: 0xffff_ffff_ffff_f000n, size: 0xffff_f000 };
  const rows: [string, number, () => BlockDevice, Buffer][] = [
    ['read past the end', EINVAL, writable, request(READ, past)],
    ['read past the end of a view', EINVAL, readOnly, request(READ, past)],
    ['trim past the end', EINVAL, writable, request(TRIM, past)],
    ['cache past the end', EINVAL, writable, request(CACHE, past)],
    ['block status past the end', EINVAL, writable, request(STATUS, past)],
    ['write past the end', ENOSPC, writable, request(WRITE, { offset: SIZE - 100, payload: block })],
    ['zeroes past the end', ENOSPC, writable, request(ZEROES, past)],
    ['read at 2^64 - 1', EINVAL, writable, request(READ, far)],
    ['trim at 2^64 - 1', EINVAL, writable, request(TRIM, far)],
    ['zeroes at 2^64 - 1', ENOSPC, writable, request(ZEROES, far)],
    ['write at 2^64 - 1', ENOSPC, writable, request(WRITE, { offset: far.offset, payload: block })],
    ['read whose end wraps round', EINVAL, writable, request(READ, wrap)],
    ['zeroes whose end wraps round', ENOSPC, writable, request(ZEROES, wrap)],
    ['read at 2^53 + 1', EINVAL, writable, request(READ, { offset: 2n ** 53n + 1n, size: 1 })],
    ['read at 2^32 of a small export', EINVAL, writable, request(READ, { offset: 2n ** 32n, size: 1 })],
    ['write on read-only', EPERM, readOnly, request(WRITE, { payload: block })],
    ['zeroes on read-only', EPERM, readOnly, request(ZEROES, { size: 512 })],
    ['trim on read-only', EPERM, readOnly, request(TRIM, { size: 512 })],
    ['write past the end on read-only', EPERM, readOnly, request(WRITE, { offset: SIZE, payload: block })],
    ['read of a standby', EPERM, standby, request(READ, { size: 512 })],
    ['write to a standby', EPERM, standby, request(WRITE, { payload: block })],
    ['zeroes to a standby', EPERM, standby, request(ZEROES, { size: 512 })],
    ['trim of a standby', EPERM, standby, request(TRIM, { size: 512 })],
    ['cache of a standby', EPERM, standby, request(CACHE, { size: 512 })],
    ['block status of a standby', EPERM, standby, request(STATUS, { size: 512 })],
    ['unknown command', EINVAL, writable, request(8, { size: 512 })],
    ['unknown command 65535', EINVAL, writable, request(65535)],
    ['unknown flag', EINVAL, writable, request(READ, { size: 512, flags: 0x8000 })],
    ['unknown flag on a write', EINVAL, writable, request(WRITE, { payload: block, flags: PAYLOAD_LEN })],
    ['DF on a write', EINVAL, writable, request(WRITE, { payload: block, flags: DF })],
    ['NO_HOLE on a trim', EINVAL, writable, request(TRIM, { size: 512, flags: NO_HOLE })],
    ['FAST_ZERO on a write', EINVAL, writable, request(WRITE, { payload: block, flags: FAST_ZERO })],
    ['REQ_ONE on a read', EINVAL, writable, request(READ, { size: 512, flags: REQ_ONE })],
    ['flush with an offset', EINVAL, writable, request(FLUSH, { offset: 512 })],
    ['flush with a size', EINVAL, writable, request(FLUSH, { size: 512 })],
    ['block status of nothing', EINVAL, writable, request(STATUS)],
    ['write larger than the limit', EINVAL, huge, request(WRITE, { payload: Buffer.alloc(NBD_PAYLOAD_MAX + 1) })],
    ['read larger than the limit', EOVERFLOW, huge, request(READ, { size: NBD_PAYLOAD_MAX + 1 })],
    ['read of 4 GiB - 1', EOVERFLOW, huge, request(READ, { size: 0xffff_ffff })],
  ];
  test.each(rows)('%s', async (_name, errno, device, bytes) => {
    const reply = await ask(bytes, { device: device() });
    expect(reply.errno).toBe(errno);
    expect(reply.type).toBe(0x8001);
    expect(reply.text).not.toBe('');
    const plain = await ask(bytes, { device: device(), structuredReplies: false, allocationContext: true });
    expect(plain).toMatchObject({ errno, type: -1 });
  });

  test('block status without a context, DF without structured replies', async () => {
    expect((await ask(request(STATUS, { size: 512 }), { allocationContext: false })).errno).toBe(EINVAL);
    expect((await ask(request(READ, { size: 512, flags: DF }), { structuredReplies: false })).errno).toBe(EINVAL);
  });

  test('an unfragmented read larger than the limit', async () => {
    const bytes = request(READ, { size: NBD_PAYLOAD_MAX + 1, flags: DF });
    expect((await ask(bytes, { device: huge() })).errno).toBe(EOVERFLOW);
  });

  test('a request without its magic ends the connection', async () => {
    const { port, transmission } = start();
    transmission.receive(request(READ, { size: 512, magic: 0x25609514 }));
    transmission.receive(request(FLUSH));
    await turn();
    expect(port.ended).toBe('aborted: a request without its magic');
    expect(port.bytes.length).toBe(0);
  });
});

describe('what is accepted', () => {
  const rows: [string, string | null, Buffer][] = [
    ['FUA on a read', 'read 0+512', request(READ, { size: 512, flags: FUA })],
    ['FUA on a write', 'write 0+4096 fua', request(WRITE, { payload: block, flags: FUA })],
    ['FUA on a flush', 'flush', request(FLUSH, { flags: FUA })],
    ['FUA on a trim', 'trim 0+512 fua', request(TRIM, { size: 512, flags: FUA })],
    ['all flags on zeroes', 'zero 0+512 fua', request(ZEROES, { size: 512, flags: FUA | NO_HOLE | FAST_ZERO })],
    ['FUA on a block status', null, request(STATUS, { size: 512, flags: FUA | REQ_ONE })],
    ['cache', null, request(CACHE, { size: SIZE })],
    ['the last byte', `read ${SIZE - 1}+1`, request(READ, { offset: SIZE - 1, size: 1 })],
    ['zeroes over the whole export', `zero 0+${SIZE}`, request(ZEROES, { size: SIZE })],
    ['a read of nothing', null, request(READ)],
    ['a read of nothing at the end', null, request(READ, { offset: SIZE })],
    ['a write of nothing', null, request(WRITE)],
    ['a trim of nothing', null, request(TRIM)],
    ['zeroes over nothing', null, request(ZEROES)],
    ['a cache of nothing', null, request(CACHE)],
  ];
  test.each(rows)('%s', async (_name, logged, bytes) => {
    for (const structuredReplies of [true, false]) {
      const device = new MemoryDevice();
      const { port, transmission } = start({ device, structuredReplies, allocationContext: true });
      const log = device.keepLog();
      transmission.receive(bytes);
      await turn();
      const sizes = new Map([[0x1122334455667788n, bytes.readUInt16BE(6) === READ ? bytes.readUInt32BE(24) : 0]]);
      const replies = parseReplies(port.bytes, structuredReplies ? new Map() : sizes);
      if (structuredReplies || bytes.readUInt16BE(6) !== STATUS) expect(replies).toMatchObject([{ errno: 0 }]);
      expect(log).toEqual(logged === null ? [] : [logged]);
    }
  });

  test('DF on a read, with structured replies', async () => {
    expect(await ask(request(READ, { size: 65536, flags: DF }))).toMatchObject({ errno: 0, type: 1 });
  });

  test('the bytes of each kind of reply', async () => {
    const render = async (bytes: Buffer, structuredReplies: boolean) => {
      const { port, transmission } = start({ structuredReplies });
      transmission.receive(bytes);
      await turn();
      return hex(port.bytes);
    };
    const read = request(READ, { offset: 4096, size: 4, cookie: 5n });
    expect(await render(read, false)).toBe('6744669800000000' + '0000000000000005' + '00000000');
    expect(await render(read, true)).toBe(
      '668e33ef00010001' + '0000000000000005' + '0000000c' + '0000000000001000' + '00000000',
    );
    expect(await render(request(FLUSH, { cookie: 6n }), true)).toBe('6744669800000000' + '0000000000000006');
    expect(await render(request(STATUS, { size: 8192, cookie: 7n }), true)).toBe(
      '668e33ef00010005' + '0000000000000007' + '0000000c' + '00000001' + '00002000' + '00000003',
    );
    expect(await render(request(9, { cookie: 8n }), false)).toBe('6744669800000016' + '0000000000000008');
    expect(await render(request(9, { cookie: 8n }), true)).toBe(
      `668e33ef000180010000000000000008000000150000${'0016'}${'000f'}${hex(Buffer.from('unknown command'))}`,
    );
    expect(await render(request(READ, { cookie: 9n }), true)).toBe(
      '668e33ef00010000' + '0000000000000009' + '00000000',
    );
  });
});

describe('delivery', () => {
  const dialogue = join(
    request(WRITE, { offset: 100, payload: Buffer.from('hello, world'), cookie: 1n }),
    request(READ, { offset: 98, size: 16, cookie: 2n }),
    request(WRITE, { offset: SIZE, payload: Buffer.from('refused'), cookie: 3n }),
    request(77, { cookie: 4n }),
    request(ZEROES, { offset: 102, size: 3, cookie: 5n, flags: FUA }),
    request(WRITE, { payload: Buffer.alloc(0), cookie: 6n }),
    request(READ, { offset: 98, size: 16, cookie: 7n }),
    request(STATUS, { offset: 0, size: 65536, cookie: 8n }),
  );

  test.each([true, false])('split anywhere, replies are the same (structured: %s)', async (structuredReplies) => {
    const run = async (chunks: Buffer[]) => {
      const { port, transmission, counters } = start({ structuredReplies });
      for (const chunk of chunks) transmission.receive(chunk);
      await turn();
      expect(counters.bytesPending).toBe(0);
      const sizes = structuredReplies ? new Map() : new Map([2n, 7n].map((cookie) => [cookie, 16]));
      return parseReplies(port.bytes, sizes).sort((a, b) => Number(a.cookie - b.cookie));
    };
    const expected = await run([dialogue]);
    expect(expected.length).toBe(8);
    expect(expected[1]!.data.toString('latin1')).toBe('\0\0hello, world\0\0');
    for (let at = 1; at < dialogue.length; at += 1) {
      expect(await run([dialogue.subarray(0, at), dialogue.subarray(at)])).toEqual(expected);
    }
    expect(await run(Array.from(dialogue, (_, at) => dialogue.subarray(at, at + 1)))).toEqual(expected);
  });

  test('a payload of several chunks reaches the device in order, the end of it as a view; the chunks were lent', () => {
    const pieces: Uint8Array[][] = [];
    let last: ArrayBufferLike | null = null;
    const device = Object.assign(new MemoryDevice(), {
      write: (_offset: number, _size: number, payload: readonly Uint8Array[]) => {
        pieces.push(payload.map((piece) => Buffer.from(piece)));
        last = payload.at(-1)!.buffer;
      },
    });
    const { transmission } = start({ device: device as unknown as BlockDevice });
    const bytes = request(WRITE, { payload: Buffer.from('abcdefgh') });
    for (const [from, to] of [
      [0, 31],
      [31, 33],
      [33, 36],
    ]) {
      const chunk = new Uint8Array(bytes.subarray(from, to));
      transmission.receive(chunk);
      if (to === 36) expect(last).toBe(chunk.buffer);
      chunk.fill(0xee);
    }
    expect(pieces.map((payload) => payload.map((piece) => piece.toString()))).toEqual([['abcde', 'fgh']]);
  });

  test('a payload that dribbles in byte by byte is gathered', async () => {
    const device = new MemoryDevice();
    const { port, transmission } = start({ device });
    const payload = Buffer.from(Array.from({ length: 5000 }, (_, at) => at * 11));
    const bytes = request(WRITE, { offset: 77, payload });
    let mostPieces = 0;
    const write = device.write.bind(device);
    device.write = (offset, size, pieces, fua, completion) => {
      mostPieces = pieces.length;
      write(offset, size, pieces, fua, completion);
    };
    for (let at = 0; at < bytes.length; at += 1) transmission.receive(bytes.subarray(at, at + 1));
    await turn();
    expect(parseReplies(port.bytes)).toMatchObject([{ errno: 0 }]);
    expect(mostPieces).toBe(2);
    expect(device.bytes.subarray(77, 5077).equals(payload)).toBe(true);
    transmission.receive(request(WRITE, { offset: 9000, payload: Buffer.from('after') }));
    expect(device.bytes.toString('latin1', 9000, 9005)).toBe('after');
  });
});

describe('limits', () => {
  test('requests beyond the limit wait unread, and go on when there is room', async () => {
    const device = new FaultyDevice(new MemoryDevice());
    device.holding = true;
    const { port, transmission } = start({ device, requestsMax: 3 });
    transmission.receive(join(...[1n, 2n, 3n, 4n, 5n].map((cookie) => request(READ, { size: 512, cookie }))));
    expect([device.heldCount, port.paused]).toEqual([3, true]);
    transmission.receive(request(READ, { size: 512, cookie: 6n })); // was on its way
    device.release(1);
    await turn();
    expect([device.heldCount, port.paused]).toEqual([3, true]);
    device.release();
    await turn();
    device.release();
    await turn();
    expect(port.paused).toBe(false);
    expect(parseReplies(port.bytes).map((reply) => reply.cookie)).toEqual([1n, 2n, 3n, 4n, 5n, 6n]);
  });

  test('bytes in flight are limited; one request always passes', () => {
    const held = new FaultyDevice(new MemoryDevice({ size: NBD_PAYLOAD_MAX }));
    held.holding = true;
    const { counters, transmission } = start({ device: held });
    const reads = Array.from({ length: 10 }, () => request(READ, { size: NBD_PAYLOAD_MAX }));
    transmission.receive(join(...reads));
    expect(held.heldCount).toBe(2);
    expect(counters.bytesPending).toBe(2 * NBD_PAYLOAD_MAX);
    const second = new Transmission(
      { device: held, structuredReplies: true, allocationContext: true },
      new TestPort(),
      Object.assign(new NbdCounters(), { bytesPending: 2 ** 40 }),
      NBD_REQUESTS_MAX,
      new ReadMemory(),
      new BusyPoll(1, () => 0, setImmediate),
      new Gathering(() => 0),
      new Abandoned(),
    );
    second.receive(join(...reads));
    expect(held.heldCount).toBe(3);
  });

  // Seventeen of them announced more than a server holds, and all others were kept to one request at a time, for ever.
  test('who sends a header and stalls leaves the other connections their room', async () => {
    const counters = new NbdCounters();
    const connect = () => {
      const device = new FaultyDevice(new MemoryDevice({ size: NBD_PAYLOAD_MAX }));
      device.holding = true;
      return { ...start({ device, counters }), device };
    };
    const largest = request(WRITE, { payload: Buffer.alloc(NBD_PAYLOAD_MAX, 1) });
    const stalled = Array.from({ length: 17 }, connect);
    for (const { transmission } of stalled) transmission.receive(largest.subarray(0, 28));
    expect(counters.bytesPending).toBe(0);
    for (const { transmission } of stalled.slice(1)) transmission.receive(largest.subarray(28, 1028));
    const refused = connect();
    refused.transmission.receive(request(WRITE, { offset: BigInt(NBD_PAYLOAD_MAX), payload: block }).subarray(0, 1028));
    expect(counters.bytesPending).toBe(16 * 1000);
    const other = connect();
    other.transmission.receive(join(...Array.from({ length: 8 }, () => request(WRITE, { payload: block }))));
    expect([other.device.heldCount, other.port.paused]).toEqual([8, false]);
    expect(counters.bytesPending).toBe(16 * 1000 + 8 * 4096);

    const [first, second, third] = stalled;
    third!.transmission.receive(largest.subarray(1028));
    third!.transmission.disconnected(ignore); // it counts until the device is done with it
    first!.transmission.end();
    second!.transmission.end();
    refused.transmission.disconnected(ignore);
    expect(counters.bytesPending).toBe(14 * 1000 + NBD_PAYLOAD_MAX + 8 * 4096);
    third!.device.release();
    other.device.release();
    await turn();
    expect(counters.bytesPending).toBe(14 * 1000);
    for (const { transmission } of stalled) transmission.disconnected(ignore);
    expect(counters.bytesPending).toBe(0);
  });

  // A client that connected, wrote and hung up, again and again, had the server hold as much as it liked.
  test('what connections that are gone have in flight keeps a new one waiting, and none that had a request', async () => {
    const counters = new NbdCounters();
    const abandoned = new Abandoned();
    const connect = () => {
      const device = new FaultyDevice(new MemoryDevice({ size: NBD_PAYLOAD_MAX }));
      device.holding = true;
      return { ...start({ device, counters, abandoned }), device };
    };
    const small = request(WRITE, { payload: block });
    const known = connect();
    known.transmission.receive(small);
    known.device.release();
    await turn();
    const payload = Buffer.alloc(NBD_PAYLOAD_MAX, 1);
    const gone = Array.from({ length: 16 }, connect);
    let settled = 0;
    for (const { transmission } of gone) {
      transmission.receive(request(WRITE, { payload }));
      transmission.disconnected(() => {
        settled += 1;
      });
    }
    const fresh = connect();
    fresh.transmission.receive(small);
    expect([fresh.device.heldCount, fresh.port.paused]).toEqual([0, true]);
    known.transmission.receive(small);
    expect([known.device.heldCount, known.port.paused, settled]).toEqual([1, false, 0]);
    gone[3]!.device.release();
    await turn();
    expect([fresh.device.heldCount, fresh.port.paused, settled]).toEqual([1, false, 1]);
    for (const { device } of [...gone, known, fresh]) device.release();
    await turn();
    expect([counters.bytesPending, settled]).toEqual([0, 16]);
    expect(abandoned.isFull).toBe(false);
  });

  // What the socket has not taken yet must not be overwritten by a later read: the host would get other blocks' bytes.
  test('the memory of a read is used again only when it is sent', async () => {
    const device = new MemoryDevice({ size: 4 * 1024 * 1024 });
    const { port, transmission } = start({ device });
    device.bytes.forEach((_, at) => {
      device.bytes[at] = (at >>> 12) + 1;
    });
    port.lent = [];
    const ask = async (block: number) => {
      transmission.receive(request(READ, { offset: BigInt(block * 4096), size: 4096 }));
      await turn();
      await turn();
    };
    for (let block = 0; block < 200; block += 1) await ask(block);
    const data = port.lent.filter((piece) => piece.length === 4096);
    expect(data).toHaveLength(200);
    for (const [block, piece] of data.entries())
      expect(piece.every((byte) => byte === ((block + 1) & 0xff))).toBe(true);
    for (const done of port.done.splice(0)) done();
    const before = new Set(data.map((piece) => piece.buffer));
    port.lent.length = 0;
    for (let block = 0; block < 100; block += 1) await ask(block);
    const again = port.lent.filter((piece) => piece.length === 4096);
    expect(again.every((piece) => before.has(piece.buffer))).toBe(true);
  });

  // What is never given back keeps later reads from being lent; what is given back too soon holds other blocks' bytes.
  test('what a device lends is given back once: when it is sent, or the connection is lost', async () => {
    const given: number[] = [];
    class Lender extends MemoryDevice {
      override read(offset: number, size: number, completion: ReadCompletion): void {
        const data = this.bytes.subarray(offset, offset + size);
        setImmediate(() => completion.settleLent!(data, () => given.push(offset)));
      }
    }
    const ask = async (transmission: Transmission, offset: number): Promise<void> => {
      transmission.receive(request(READ, { offset: BigInt(offset), size: 65536 }));
      await turn();
      await turn();
    };
    const { port, transmission } = start({ device: new Lender() });
    port.lent = [];
    await ask(transmission, 0);
    await ask(transmission, 65536);
    expect(port.lent.filter(({ length }) => length === 65536)).toHaveLength(2);
    expect(given).toEqual([]);
    port.done.shift()!();
    expect(given).toEqual([0]);
    // read, and the connection is gone before the device answers
    transmission.receive(request(READ, { offset: 131072n, size: 65536 }));
    transmission.disconnected(ignore);
    await turn();
    await turn();
    expect(given).toEqual([0, 131072]);
    for (const done of port.done.splice(0)) done();
    expect(given).toEqual([0, 131072, 65536]);
    // answered, and the connection is gone before that is sent
    const late = start({ device: new Lender() });
    late.port.scheduleFlush = () => {};
    await ask(late.transmission, 196608);
    late.transmission.disconnected(ignore);
    expect(given).toEqual([0, 131072, 65536, 196608]);
  });

  test('a slow reader is not served further until it has caught up', async () => {
    const { port, counters, transmission } = start();
    port.readerSlow = true;
    transmission.receive(request(READ, { size: 512 }));
    await turn();
    transmission.receive(request(READ, { size: 512 }));
    await turn();
    expect([counters.reads, port.paused]).toEqual([1, true]);
    port.readerSlow = false;
    transmission.drained();
    await turn();
    expect([counters.reads, port.paused]).toEqual([2, false]);
  });

  test('the largest block status: 65536 extents, and no more', async () => {
    const device = new MemoryDevice({ size: 1 << 26, blockSize: 512 });
    device.extents = (_offset, size, count) =>
      Array.from({ length: Math.min(count, size / 512) }, (_, at) => ({ size: 512, hole: at % 2 === 0 }));
    const { port, transmission } = start({ device });
    transmission.receive(request(STATUS, { size: 1 << 26 }));
    await turn();
    expect(parseReplies(port.bytes)[0]!.data.length).toBe(4 + 8 * 65536);
  });

  test('neighbours of one status are one extent, up to 4 GiB - 1', async () => {
    const device = Object.assign(new MemoryDevice(), {
      size: 2 ** 40,
      extents: () => [
        { size: 2 ** 31, hole: true },
        { size: 2 ** 31 - 1, hole: true },
      ],
    });
    const reply = await ask(request(STATUS, { size: 2 ** 32 - 1 }), { device });
    expect(hex(reply.data)).toBe(`00000001${'ffffffff'}00000003`);
  });
});

describe('ends', () => {
  test('DISC: what follows is not read, what is in flight is answered', async () => {
    const device = new FaultyDevice(new MemoryDevice());
    device.holding = true;
    const { port, counters, transmission } = start({ device });
    transmission.receive(join(request(READ, { size: 512 }), request(DISC), request(READ, { size: 512 })));
    await turn();
    expect([port.ended, counters.reads, device.closeCount]).toEqual([null, 1, 0]);
    device.release();
    await turn();
    expect([port.ended, port.bytes.length, device.closeCount]).toEqual(['finished', 28 + 512, 1]);
    transmission.disconnected(ignore);
    expect(device.closeCount).toBe(1);
  });

  test('a connection lost amid a payload releases it', async () => {
    const device = new MemoryDevice();
    const { counters, transmission } = start({ device });
    transmission.receive(request(WRITE, { payload: block }).subarray(0, 1000));
    expect(counters.bytesPending).toBe(1000 - 28);
    transmission.disconnected(ignore);
    expect([counters.bytesPending, device.closeCount, device.bytes[0]]).toEqual([0, 1, 0]);
  });

  test('a client that stops sending amid a payload: the write is not done', async () => {
    const device = new MemoryDevice();
    const { port, transmission } = start({ device });
    transmission.receive(request(WRITE, { payload: block }).subarray(0, 1000));
    transmission.end();
    await turn();
    expect([port.ended, device.closeCount, device.bytes[0]]).toEqual(['finished', 1, 0]);
  });

  test('revoked while idle: it finishes at once', () => {
    const device = new MemoryDevice();
    const { port, transmission } = start({ device });
    transmission.revoke();
    expect([port.ended, device.closeCount]).toEqual(['finished', 1]);
  });

  test('revoked while blocked: what waits unread is answered ESHUTDOWN', async () => {
    const device = new FaultyDevice(new MemoryDevice());
    device.holding = true;
    const { port, transmission } = start({ device, requestsMax: 1 });
    const write = request(WRITE, { payload: block, cookie: 2n });
    transmission.receive(join(request(READ, { size: 512, cookie: 1n }), write));
    transmission.revoke();
    device.release();
    await turn();
    expect(port.ended).toBe('finished');
    expect(parseReplies(port.bytes)).toMatchObject([
      { cookie: 1n, errno: 0 },
      { cookie: 2n, errno: 108 },
    ]);
  });
});

describe('a client with many requests in flight', () => {
  /** One whose next request comes alone: its answer is kept. */
  async function kept() {
    const setup = start();
    const { port, transmission } = setup;
    for (let i = 0; i < 10; i += 1) {
      transmission.receive(join(...Array.from({ length: 32 }, () => request(FLUSH))));
      await turn();
    }
    expect(parseReplies(port.bytes).length).toBe(320);
    transmission.receive(request(FLUSH));
    await turn();
    expect(parseReplies(port.bytes).length).toBe(320);
    expect(port.later.length).toBe(1);
    return setup;
  }

  test('gets its answers when enough are there', async () => {
    const { port, transmission } = await kept();
    transmission.receive(join(...Array.from({ length: 7 }, () => request(FLUSH))));
    await turn();
    expect(parseReplies(port.bytes).length).toBe(320);
    port.later.shift()!();
    expect(parseReplies(port.bytes).length).toBe(328);
    expect(port.later.length).toBe(0);
  });

  test('or when a turn brought no more', async () => {
    const { port } = await kept();
    port.later.shift()!();
    expect(parseReplies(port.bytes).length).toBe(321);
    expect(port.later.length).toBe(0);
  });

  test('and before it is hung up on', async () => {
    const { port, transmission } = await kept();
    transmission.end();
    expect(port.ended).toBeNull();
    port.later.shift()!();
    expect(parseReplies(port.bytes).length).toBe(321);
    expect(port.ended).toBe('finished');
  });

  test('and none when it is gone', async () => {
    const { port, transmission } = await kept();
    transmission.disconnected(ignore);
    port.later.shift()!();
    expect(parseReplies(port.bytes).length).toBe(320);
  });
});
