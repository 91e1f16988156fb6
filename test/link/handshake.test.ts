import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { beforeAll, expect, test } from 'vitest';
import xxhash from 'xxhash-wasm';
import { CONTROL_SIZE_MAX } from '../../src/limits.js';
import {
  Handshake,
  type HandshakeRole,
  LINK_PROTOCOL,
  MESSAGE_HELLO,
  MESSAGE_PROOF,
  NONCE_SIZE,
} from '../../src/link/handshake.js';
import { CLOSE_AUTH, CLOSE_PROTOCOL, CLOSE_REASON_MAX, CLOSE_REFUSED, fitReason } from '../../src/link/link.js';

let xxh64: (bytes: Uint8Array) => bigint;
beforeAll(async () => {
  const { h64Raw } = await xxhash();
  xxh64 = (bytes) => h64Raw(bytes);
});

const KEY = Buffer.from('0123456789abcdef0123456789abcdef');

function shake(role: HandshakeRole, site: string, key: Uint8Array | null, hello: unknown = null): Handshake {
  return new Handshake({ role, site, version: '0.1.0', key, nonce: randomBytes(NONCE_SIZE), hello, xxh64 });
}

function pair(keyA: Uint8Array | null, keyB: Uint8Array | null): { a: Handshake; b: Handshake } {
  return { a: shake('connector', 'a', keyA, { volumes: 1 }), b: shake('listener', 'b', keyB, { volumes: 2 }) };
}

test.each([
  ['with a key', KEY],
  ['without', null],
])('both ends accept each other and learn what the other said, %s', (_, key) => {
  const { a, b } = pair(key, key);
  expect(b.step(a.start())).toEqual({ send: null, done: null, refusal: null });
  const proofA = a.step(b.start());
  expect(proofA.done).toBeNull();
  const atB = b.step(proofA.send!);
  expect(atB.done).toEqual({ site: 'a', version: '0.1.0', authenticated: key !== null, hello: { volumes: 1 } });
  const atA = a.step(atB.send!);
  expect(atA).toEqual({
    send: null,
    done: { site: 'b', version: '0.1.0', authenticated: key !== null, hello: { volumes: 2 } },
    refusal: null,
  });
  expect(() => a.step(atB.send!)).toThrow('the handshake is over');
});

test('a listener shows nothing made with the key before the connector has proved itself', () => {
  const { a, b } = pair(KEY, KEY);
  expect(b.step(a.start()).send).toBeNull();
});

test('different keys are told apart, and a reflected or replayed proof proves nothing', () => {
  const wrong = pair(KEY, Buffer.from('another key, another key'));
  wrong.b.step(wrong.a.start());
  const proof = wrong.a.step(wrong.b.start()).send!;
  expect(wrong.b.step(proof).refusal).toEqual({ code: CLOSE_AUTH, reason: 'the shared keys of the two ends differ' });

  const reflected = pair(KEY, KEY);
  reflected.b.step(reflected.a.start());
  const own = reflected.a.step(reflected.b.start()).send!;
  expect(reflected.a.step(own).refusal?.code).toBe(CLOSE_AUTH);

  const first = pair(KEY, KEY);
  first.b.step(first.a.start());
  const recorded = first.a.step(first.b.start()).send!;
  const later = shake('listener', 'b', KEY);
  later.step(first.a.start());
  expect(later.step(recorded).refusal?.code).toBe(CLOSE_AUTH);
});

test('a flipped bit in either HELLO fails the proof, also without a key', () => {
  for (const key of [KEY, null]) {
    const { a, b } = pair(key, key);
    const damaged = Buffer.from(a.start());
    const at = damaged.indexOf('volumes');
    damaged[at] = damaged[at]! ^ 1;
    b.step(damaged);
    const refusal = b.step(a.step(b.start()).send!).refusal!;
    expect(refusal.code).toBe(key === null ? CLOSE_PROTOCOL : CLOSE_AUTH);
  }
});

test('a key at one end only is refused in the same words at both', () => {
  for (const [keyA, keyB] of [
    [KEY, null],
    [null, KEY],
  ] as const) {
    const { a, b } = pair(keyA, keyB);
    const atA = a.step(b.start()).refusal!;
    const atB = b.step(a.start()).refusal!;
    expect(atA).toEqual(atB);
    expect(atA.code).toBe(CLOSE_AUTH);
    const holder = keyA === null ? 'listening' : 'connecting';
    expect(atA.reason).toContain(`the ${holder} end has a shared key`);
  }
});

test('equal site names are refused at both ends', () => {
  const a = shake('connector', 'same', null);
  const b = shake('listener', 'same', null);
  expect(a.step(b.start()).refusal).toEqual({
    code: CLOSE_REFUSED,
    reason: expect.stringContaining('both ends are site "same"'),
  });
  expect(b.step(a.start()).refusal?.code).toBe(CLOSE_REFUSED);
});

function hello(change: Record<string, unknown>): Uint8Array {
  const value = {
    product: 'forelock',
    protocol: LINK_PROTOCOL,
    version: '1',
    site: 'x',
    auth: 'none',
    nonce: '0'.repeat(64),
    hello: null,
  };
  return Buffer.concat([Buffer.of(MESSAGE_HELLO), Buffer.from(JSON.stringify({ ...value, ...change }))]);
}

test.each([
  [hello({ product: 'other' }), 'not a forelock gateway'],
  [hello({ protocol: LINK_PROTOCOL + 1 }), `link protocol ${LINK_PROTOCOL + 1}, this end ${LINK_PROTOCOL}`],
  [hello({ protocol: 'x' }), 'link protocol ?'],
  [hello({ site: '../x' }), 'valid site'],
  [hello({ site: 'x'.repeat(65) }), 'valid site'],
  [hello({ version: 'a b' }), 'valid version'],
  [hello({ auth: 'maybe' }), 'valid auth'],
  [hello({ nonce: 'abc' }), 'valid nonce'],
  [Buffer.of(MESSAGE_HELLO, 0x5b, 0x5d), 'not an object'],
  [Buffer.of(MESSAGE_HELLO, 0xff), 'not JSON'],
  [Buffer.concat([Buffer.of(MESSAGE_HELLO), Buffer.from('['.repeat(200_000))]), 'not JSON'],
  [Buffer.of(MESSAGE_PROOF, 1, 2, 3), 'before the handshake was complete'],
  [Buffer.of(7), 'a message of kind 7'],
  [Buffer.alloc(0), 'before the handshake'],
  [Buffer.alloc(CONTROL_SIZE_MAX + 1, 1), 'the limit is'],
])('a bad first message is refused with its reason', (message, reason) => {
  const refusal = shake('listener', 'b', null).step(message).refusal!;
  expect(refusal.code).toBe(CLOSE_PROTOCOL);
  expect(refusal.reason).toContain(reason);
});

test('a second HELLO is refused', () => {
  const listener = shake('listener', 'b', null);
  expect(listener.step(hello({})).refusal).toBeNull();
  expect(listener.step(hello({})).refusal?.code).toBe(CLOSE_PROTOCOL);
});

test('whatever bytes come, the handshake answers and accepts none of them', () => {
  const mutated = fc.tuple(fc.nat(), fc.nat(255)).map(([at, byte]) => {
    const bytes = Buffer.from(hello({}));
    bytes[at % bytes.length] = byte;
    return new Uint8Array(bytes);
  });
  const message = fc.oneof(
    fc.uint8Array({ maxLength: 300 }),
    fc.uint8Array({ maxLength: 40 }).map((bytes) => Uint8Array.of(MESSAGE_PROOF, ...bytes)),
    fc.json().map((text) => Buffer.concat([Buffer.of(MESSAGE_HELLO), Buffer.from(text)])),
    mutated,
  );
  fc.assert(
    fc.property(fc.array(message, { maxLength: 4 }), fc.constantFrom('connector', 'listener'), (messages, role) => {
      const handshake = shake(role as HandshakeRole, 'b', KEY);
      for (const bytes of messages) {
        const step = handshake.step(bytes);
        expect(step.done).toBeNull();
        if (step.refusal !== null) {
          expect(step.refusal.reason.length).toBeGreaterThan(0);
          return;
        }
      }
    }),
  );
});

test('a reason is cut at a character to what a close frame can carry', () => {
  expect(fitReason('short')).toBe('short');
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme', minLength: 100, maxLength: 300 }), (text) => {
      expect(Buffer.byteLength(fitReason(text))).toBeLessThanOrEqual(CLOSE_REASON_MAX);
    }),
  );
  expect(fitReason('é'.repeat(100))).toBe(`${'é'.repeat(60)}…`);
});
