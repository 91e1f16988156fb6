/** The intake beside ws alone: whatever bytes come, in whatever portions, the same messages and the same end. */
import { Readable } from 'node:stream';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import * as wsModule from 'ws';
import { MESSAGE_SIZE_MAX } from '../../src/limits.js';
import { Intake } from '../../src/link/intake.js';

/** What @types/ws does not know of ws. */
interface WsReceiver extends NodeJS.EventEmitter {
  write(bytes: Uint8Array): boolean;
}
const { Receiver } = wsModule as unknown as { Receiver: new (options: object) => WsReceiver };

interface Frame {
  first: number;
  payload: Uint8Array;
  masked: boolean;
  mask: number;
  /** How the size is written: in as few bytes as it fits, or in more. */
  sizeBytes: 0 | 2 | 8;
}

function encode({ first, payload, masked, mask, sizeBytes }: Frame): Buffer {
  const size = payload.length;
  const extra = size < 126 ? sizeBytes : size < 65536 ? Math.max(2, sizeBytes) : 8;
  const bytes = Buffer.alloc(2 + extra + (masked ? 4 : 0) + size);
  bytes[0] = first;
  bytes[1] = (masked ? 0x80 : 0) | (extra === 0 ? size : extra === 2 ? 126 : 127);
  if (extra === 2) bytes.writeUInt16BE(size, 2);
  if (extra === 8) bytes.writeBigUInt64BE(BigInt(size), 2);
  const at = bytes.length - size;
  if (masked) bytes.writeUInt32BE(mask, at - 4);
  for (let i = 0; i < size; i += 1) bytes[at + i] = payload[i]! ^ (masked ? (mask >>> (24 - 8 * (i & 3))) & 255 : 0);
  return bytes;
}

/** What ws's receiver says, in order, until it has ended. */
class Witness {
  readonly seen: string[] = [];
  ended = false;
  readonly receiver: WsReceiver;

  constructor(isServer: boolean) {
    this.receiver = new Receiver({ isServer, maxPayload: MESSAGE_SIZE_MAX, maxFragments: 4, skipUTF8Validation: true });
    this.receiver.on('message', (data: Buffer, isBinary: boolean) => this.say(isBinary ? 'binary' : 'text', data));
    this.receiver.on('ping', (data: Buffer) => this.say('ping', data));
    this.receiver.on('pong', (data: Buffer) => this.say('pong', data));
    this.receiver.on('conclude', (code: number) => this.end(`close ${code}`));
    this.receiver.on('error', (error: NodeJS.ErrnoException) => this.end(`error ${error.code}`));
  }

  say(what: string, data: Uint8Array): void {
    if (!this.ended) this.seen.push(`${what} ${Buffer.from(data).toString('hex')}`);
  }

  private end(what: string): void {
    if (this.ended) return;
    this.ended = true;
    this.seen.push(what);
  }
}

/** Bytes in portions through an intake, as a socket would hand them in; it is paused now and then. */
async function throughIntake(
  bytes: Buffer,
  headSize: number,
  portions: number[],
  pauses: boolean[],
  isServer: boolean,
): Promise<string[]> {
  const witness = new Witness(isServer);
  const intake = new Intake();
  const socket = new Readable({ read() {} });
  socket.on('data', (chunk: Buffer) => {
    if (!witness.ended) witness.receiver.write(chunk);
  });
  intake.attach(socket as never);
  intake.onMessage = (message) => {
    witness.say('binary', message);
    message.fill(0xee); // it was lent
  };
  const head = bytes.subarray(0, headSize);
  intake.startFrames(head, isServer);
  if (headSize > 0) witness.receiver.write(Buffer.from(head));
  let at = headSize;
  for (let turn = 0; at < bytes.length; turn += 1) {
    const part = Math.min(portions[turn % portions.length]!, bytes.length - at);
    bytes.copy(intake.onread.buffer(), 0, at, at + part);
    if (pauses[turn % pauses.length]) socket.pause();
    intake.onread.callback(part);
    at += part;
    if (socket.isPaused()) {
      await new Promise((resolve) => setImmediate(resolve));
      socket.resume();
      // a paused socket is not read before it has given what it holds
      while (socket.readableLength > 0) await new Promise((resolve) => setImmediate(resolve));
    }
  }
  await new Promise((resolve) => setImmediate(resolve));
  return witness.seen;
}

async function alone(bytes: Buffer, isServer: boolean): Promise<string[]> {
  const witness = new Witness(isServer);
  witness.receiver.write(bytes);
  await new Promise((resolve) => setImmediate(resolve));
  return witness.seen;
}

const payload = fc.oneof(
  { weight: 6, arbitrary: fc.uint8Array({ maxLength: 140 }) },
  { weight: 1, arbitrary: fc.nat(70_000).map((size) => new Uint8Array(size).map((_, i) => i * 7)) },
);

function frames(isServer: boolean): fc.Arbitrary<Frame[]> {
  const first = fc.oneof(
    { weight: 12, arbitrary: fc.constant(0x82) },
    { weight: 6, arbitrary: fc.constantFrom(0x02, 0x00, 0x80, 0x81, 0x89, 0x8a) },
    { weight: 1, arbitrary: fc.nat(255) },
  );
  const frame = fc.record({
    first,
    payload,
    masked: fc.oneof(
      { weight: 30, arbitrary: fc.constant(isServer) },
      { weight: 1, arbitrary: fc.constant(!isServer) },
    ),
    mask: fc.oneof(fc.constant(0), fc.nat(0xffffffff)),
    sizeBytes: fc.constantFrom<0 | 2 | 8>(0, 0, 2, 8),
  });
  return fc.array(frame, { minLength: 1, maxLength: 12 });
}

test.each([true, false])('the same messages and the same end as of ws alone (masked: %s)', async (isServer) => {
  const taken = { runs: 0, long: 0 };
  await fc.assert(
    fc.asyncProperty(
      frames(isServer),
      fc.array(fc.oneof(fc.integer({ min: 1, max: 30 }), fc.integer({ min: 1, max: 90_000 })), { minLength: 1 }),
      fc.array(fc.oneof({ weight: 4, arbitrary: fc.constant(false) }, { weight: 1, arbitrary: fc.constant(true) }), {
        minLength: 1,
      }),
      fc.nat(200),
      async (sequence, portions, pauses, head) => {
        const bytes = Buffer.concat(sequence.map(encode));
        const seen = await throughIntake(bytes, Math.min(head, bytes.length), portions, pauses, isServer);
        expect(seen).toEqual(await alone(bytes, isServer));
        taken.runs += 1;
        if (seen.length > 3) taken.long += 1;
      },
    ),
    { numRuns: 400 },
  );
  expect(taken.long).toBeGreaterThan(taken.runs / 8);
});

test('a message of the largest size passes, one larger is refused by ws', async () => {
  for (const [size, last] of [
    [MESSAGE_SIZE_MAX, /^binary/],
    [MESSAGE_SIZE_MAX + 1, /^error WS_ERR_UNSUPPORTED_MESSAGE_LENGTH/],
  ] as const) {
    const frame = {
      first: 0x82,
      payload: new Uint8Array(size).fill(5),
      masked: true,
      mask: 0x01020304,
      sizeBytes: 8,
    } as const;
    const small = { ...frame, payload: new Uint8Array(3) };
    const bytes = Buffer.concat([small, frame].map(encode));
    const seen = await throughIntake(bytes, 0, [262_144], [false], true);
    expect(seen[1]!.slice(0, 60)).toMatch(last);
    expect(seen).toEqual(await alone(bytes, true));
  }
});

test('what came before frames, and what comes while nobody takes messages, goes to ws as it is', () => {
  const intake = new Intake();
  const chunks: Buffer[] = [];
  intake.attach({ push: (chunk: Buffer) => chunks.push(chunk) > 0, readableLength: 0 } as never);
  const feed = (bytes: Buffer): void => {
    bytes.copy(intake.onread.buffer());
    intake.onread.callback(bytes.length);
  };
  const message = encode({ first: 0x82, payload: Buffer.from('hello'), masked: false, mask: 0, sizeBytes: 0 });
  feed(Buffer.from('HTTP/1.1 101 Switching Protocols\r\n\r\n'));
  intake.startFrames(Buffer.alloc(0), false);
  feed(message);
  expect(Buffer.concat(chunks).toString('latin1')).toBe(
    `HTTP/1.1 101 Switching Protocols\r\n\r\n${message.toString('latin1')}`,
  );
  const got: string[] = [];
  intake.onMessage = (bytes) => got.push(Buffer.from(bytes).toString());
  feed(message);
  expect(got).toEqual(['hello']);
});

test('however much comes behind HTTP at once, frames begin', () => {
  // Whoever answered at the peer's address could end the process: all that the buffer takes came as one head.
  const intake = new Intake();
  const http = 'HTTP/1.1 101 Switching Protocols\r\n\r\n';
  const frame = encode({ first: 0x82, payload: new Uint8Array(60_000), masked: false, mask: 0, sizeBytes: 0 });
  const sent = Buffer.concat([Buffer.from(http), ...Array<Buffer>(100).fill(frame)]);
  let given = 0;
  const push = (chunk: Buffer): boolean => {
    if (given === 0) intake.startFrames(chunk.subarray(http.length), false);
    given += chunk.length;
    return true;
  };
  intake.attach({ push, readableLength: 0 } as never);
  for (let at = 0; at < sent.length; ) {
    const part = sent.copy(intake.onread.buffer(), 0, at);
    intake.onread.callback(part);
    at += part;
  }
  expect(given).toBe(sent.length);
});
