import fc from 'fast-check';
import { expect, test } from 'vitest';
import { ForelockError } from '../../src/errors.js';
import {
  CONTROL_SIZE_MAX,
  EPOCH_MAX,
  GENERATION_ENDS_MAX,
  GENERATION_ORDINAL_MAX,
  GENERATIONS_MAX,
  GROUP_VOLUMES_MAX,
  MEETINGS_MAX,
  MESSAGE_SIZE_MAX,
} from '../../src/limits.js';
import { STRETCH_FOLLOWS } from '../../src/link/link.js';
import type { SiteState } from '../../src/mirror/decide.js';
import {
  CONFIRM_SIZE,
  type Confirm,
  type ControlMessage,
  checked,
  DATA_SIZE,
  type Data,
  decode,
  HEARTBEAT_SIZE,
  KIND_ANSWER,
  KIND_ASK,
  KIND_CONFIRM,
  KIND_DATA,
  KIND_HEARTBEAT,
  KIND_HELLO,
  KIND_NAK,
  KIND_READY,
  KIND_REFUSE,
  KIND_START,
  type Message,
  NAK_CHECK,
  NAK_REJECTED,
  NAK_SIZE,
  type Nak,
  WireEncoder,
} from '../../src/mirror/wire.js';

const encoder = new WireEncoder();
const u32 = fc.integer({ min: 0, max: 0xffffffff });
const u53 = fc.oneof(fc.maxSafeNat(), fc.nat(1000), fc.constant(Number.MAX_SAFE_INTEGER));
const position = fc.record({ volume: fc.nat(0xffff), lba: u53 });

const data: fc.Arbitrary<Data> = fc
  .record({
    epoch: u32,
    attempt: u32,
    first: fc.nat({ max: 2 ** 52 }),
    count: fc.nat(1000),
    extra: fc.nat(1000),
    durable: u53,
    ahead: fc.nat(1000),
    clock: u53,
    returned: fc.boolean(),
    baseEnd: fc.boolean(),
  })
  .map(({ extra, ahead, ...rest }) => ({
    ...rest,
    baseEnd: rest.baseEnd && rest.first === 0,
    size: rest.count === 0 ? 0 : rest.count * 80 + extra,
    appended: Math.min(Number.MAX_SAFE_INTEGER, rest.durable + ahead),
  }));

const confirm: fc.Arbitrary<Confirm> = fc.record({
  epoch: u32,
  attempt: u32,
  received: u53,
  granted: u53,
  applied: u53,
  durable: u53,
  creditBytes: u53,
  rejected: u53,
  base: fc.option(position),
  consistent: fc.boolean(),
  horizon: u53,
  returned: fc.boolean(),
});

const nak: fc.Arbitrary<Nak> = fc
  .record({
    epoch: u32,
    attempt: u32,
    sequence: u53,
    base: position,
    reason: fc.constantFrom(NAK_CHECK, NAK_REJECTED),
    returned: fc.boolean(),
  })
  .map((each) => ({ ...each, base: each.sequence === 0 ? each.base : null }));

const HELLO: SiteState = {
  format: 1,
  group: 'g',
  groupId: 'id',
  site: { name: 'a', number: 1 },
  role: 'primary',
  whenSplit: 'freeze',
  met: { 2: { last: { count: 4, id: 41 }, offered: null } },
  sites: [
    { name: 'a', number: 1 },
    { name: 'b', number: 2 },
  ],
  peers: [2],
  volumes: [{ number: 0, name: 'v', size: 1 << 20, blockSize: 4096 }],
  generations: [{ ordinal: 1, id: 'g1', parent: null, minter: 1, ends: { 1: 0, 255: 9 } }],
  streams: { 1: 100 },
  journalFrom: { 1: 1 },
  imported: false,
  base: { source: 1, generation: 'g1', start: 4, next: { volume: 0, lba: 9 }, end: null },
  epoch: 3,
  served: false,
  clean: true,
};

const CONTROL: Message[] = [
  { kind: KIND_HELLO, hello: HELLO },
  {
    kind: KIND_START,
    start: {
      epoch: 4,
      row: 9,
      action: 'replay',
      stream: 1,
      from: 100,
      base: null,
      onReject: 'retransmit',
      confirmed: 5,
      granted: 4,
      meeting: { count: 5, id: 42 },
      groupId: 'id',
      generations: HELLO.generations,
    },
  },
  {
    kind: KIND_READY,
    ready: { epoch: 4, received: 100, durable: 90, applied: 80, creditBytes: 1 << 28, consistent: true, horizon: 7 },
  },
  { kind: KIND_REFUSE, refuse: { row: 5, code: 'PEER_REFUSED', reason: 'split brain' } },
  { kind: KIND_ASK, ask: { id: 7, method: 'verify', params: { volume: 0, deep: { list: [1, 'x', null] } } } },
  { kind: KIND_ANSWER, answer: { id: 7, result: { digest: 'ab' }, error: null } },
  { kind: KIND_ANSWER, answer: { id: 8, result: null, error: { code: 'EIO', message: 'no' } } },
];

function encode(message: Message): Uint8Array {
  switch (message.kind) {
    case KIND_DATA:
      return encoder.data(message.data);
    case KIND_CONFIRM:
      return encoder.confirm(message.confirm);
    case KIND_NAK:
      return encoder.nak(message.nak);
    case KIND_HEARTBEAT:
      return encoder.heartbeat(message.heartbeat);
    default:
      return encoder.control(message);
  }
}

/** The reason for which bytes are refused; anything but PEER_PROTOCOL fails the test. */
function refusal(bytes: Uint8Array): string | null {
  try {
    decode(bytes);
    return null;
  } catch (error) {
    if (!(error instanceof ForelockError) || error.code !== 'PEER_PROTOCOL') throw error;
    expect(error.message.length).toBeLessThan(500);
    return error.message;
  }
}

const json = (kind: number, value: unknown) =>
  checked(
    Uint8Array.from([kind, ...Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)), 0, 0, 0, 0]),
  );

test('every message comes back as it went', () => {
  fc.assert(
    fc.property(data, confirm, nak, u53, u53, fc.boolean(), u53, (d, c, n, appended, flushed, degraded, clock) => {
      const messages: Message[] = [
        { kind: KIND_DATA, data: d },
        { kind: KIND_CONFIRM, confirm: c },
        { kind: KIND_NAK, nak: n },
        { kind: KIND_HEARTBEAT, heartbeat: { appended, flushed, degraded, clock } },
      ];
      for (const message of messages) expect(decode(encode(message))).toEqual(message);
    }),
    { numRuns: 300 },
  );
  for (const message of CONTROL) expect(decode(encode(message))).toEqual(message);
});

test('an encoded message stays as it is while others are encoded', () => {
  const first = encoder.heartbeat({ appended: 1, flushed: 2, degraded: true, clock: 3 });
  const copy = Uint8Array.from(first);
  for (let count = 0; count < 2000; count += 1) {
    encoder.heartbeat({ appended: 9, flushed: 9, degraded: false, clock: 9 });
  }
  expect(first).toEqual(copy);
});

test('bit 7 of byte 1 says to the link whether a stretch follows, in every kind', () => {
  fc.assert(
    fc.property(data, confirm, nak, (d, c, n) => {
      expect(encoder.data(d)[1] & STRETCH_FOLLOWS).toBe(d.count > 0 ? STRETCH_FOLLOWS : 0);
      expect(encoder.confirm(c)[1] & STRETCH_FOLLOWS).toBe(0);
      expect(encoder.nak(n)[1] & STRETCH_FOLLOWS).toBe(0);
    }),
  );
  for (const message of CONTROL) expect(encode(message)[1] & STRETCH_FOLLOWS).toBe(0);
});

test('the largest handshake that the limits allow fits a control message', () => {
  const name = 'n'.repeat(40);
  const hello: SiteState = {
    ...HELLO,
    volumes: Array.from({ length: GROUP_VOLUMES_MAX }, (_, number) => ({
      number,
      name: 'v'.repeat(64),
      size: 2 ** 44,
      blockSize: 65536,
    })),
    generations: Array.from({ length: GENERATIONS_MAX }, (_, ordinal) => ({
      ordinal,
      id: `${name}${ordinal}`,
      parent: `${name}${ordinal - 1}`,
      minter: 200,
      ends: { 200: Number.MAX_SAFE_INTEGER, 201: Number.MAX_SAFE_INTEGER },
    })),
  };
  const bytes = encoder.control({ kind: KIND_HELLO, hello });
  expect(bytes.length).toBeLessThan(CONTROL_SIZE_MAX);
  expect(decode(bytes)).toEqual({ kind: KIND_HELLO, hello });
});

test('a history that could not be saved is refused where it comes in', () => {
  // A peer told more generations than a superblock takes, or none: the standby that adopted them failed an assertion at
  // its first save, and the process with all its groups was gone.
  const generations = Array.from({ length: GENERATIONS_MAX + 1 }, (_, ordinal) => ({
    ordinal,
    id: `g${ordinal}`,
    parent: null,
    minter: 1,
    ends: {},
  }));
  const start = CONTROL.find((message) => message.kind === KIND_START)!.start;
  for (const message of [
    { kind: KIND_HELLO, hello: { ...HELLO, generations } },
    { kind: KIND_START, start: { ...start, generations } },
    { kind: KIND_START, start: { ...start, generations: [] } },
  ] as ControlMessage[]) {
    expect(() => decode(encoder.control(message))).toThrow(/generations/);
  }
});

test('a record key is 64 bits, or none at all', () => {
  const { start } = CONTROL.find((message) => message.kind === KIND_START)!;
  const told = (recordKey: string) => decode(encoder.control({ kind: KIND_START, start: { ...start, recordKey } }));
  expect(told('0123456789abcdef')).toMatchObject({ start: { recordKey: '0123456789abcdef' } });
  for (const bad of ['', '0123456789abcde', '0123456789abcdef0', '0123456789ABCDEF', 'x123456789abcdef'])
    expect(() => told(bad)).toThrow(/recordKey/);
});

test('an answer that is too large is refused where it is made', () => {
  const answer = { id: 1, result: 'x'.repeat(CONTROL_SIZE_MAX), error: null };
  expect(() => encoder.control({ kind: KIND_ANSWER, answer })).toThrow(/ANSWER of \d+ bytes is larger/);
});

test('arbitrary bytes are refused with a reason, never with a crash', () => {
  const kinds = fc.constantFrom(0, 1, 2, 3, 4, 16, 17, 18, 19, 20, 21, 22, 255);
  const sizes = fc.constantFrom(DATA_SIZE, CONFIRM_SIZE, NAK_SIZE, HEARTBEAT_SIZE);
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 200 }),
    sizes.chain((size) => fc.uint8Array({ minLength: size, maxLength: size })),
    fc.json({ maxDepth: 4 }).map((text) => new Uint8Array(Buffer.from(` ${text}`))),
  );
  fc.assert(
    fc.property(kinds, bytes, (kind, body) => {
      if (body.length > 0) body[0] = kind;
      refusal(body);
    }),
    { numRuns: 3000 },
  );
});

test('a message with one byte changed is refused', () => {
  fc.assert(
    fc.property(data, confirm, nak, fc.nat(CONTROL.length - 1), fc.nat(), fc.nat(254), (d, c, n, which, at, more) => {
      for (const message of [encoder.data(d), encoder.confirm(c), encoder.nak(n), encode(CONTROL[which])]) {
        const bytes = Uint8Array.from(message);
        const index = at % bytes.length;
        bytes[index] = (bytes[index]! + 1 + more) % 256;
        expect(refusal(bytes)).not.toBeNull();
      }
    }),
    { numRuns: 1000 },
  );
});

test('a message that was changed and checked again is refused or is another valid message', () => {
  fc.assert(
    fc.property(data, confirm, nak, fc.nat(), fc.nat(255), (d, c, n, at, value) => {
      for (const message of [encoder.data(d), encoder.confirm(c), encoder.nak(n)]) {
        const bytes = Uint8Array.from(message);
        bytes[at % bytes.length] = value;
        if (refusal(checked(bytes)) === null) expect(encode(decode(bytes))).toEqual(bytes);
      }
    }),
    { numRuns: 1000 },
  );
});

test('JSON with any one field changed, removed or added is refused or valid', () => {
  const junk = fc.oneof(fc.jsonValue({ maxDepth: 2 }), fc.constantFrom(-1, 1.5, 1e300, '', null, [], {}, true));
  fc.assert(
    fc.property(fc.nat(CONTROL.length - 1), fc.nat(), junk, (which, at, value) => {
      const bytes = encode(CONTROL[which]);
      const body = JSON.parse(Buffer.from(bytes.subarray(1, -4)).toString());
      const keys = Object.keys(body);
      body[keys[at % keys.length]] = value;
      refusal(json(bytes[0], body));
      body.surprise = value;
      expect(refusal(json(bytes[0], body))).not.toBeNull();
    }),
    { numRuns: 1000 },
  );
});

test('what a hostile peer would try', () => {
  const bytes = (message: Uint8Array, at: number, ...values: number[]) => {
    const copy = Uint8Array.from(message);
    copy.set(values, at);
    return checked(copy);
  };
  const header: Data = {
    ...{ epoch: 1, attempt: 0, first: 5, count: 2, size: 160, durable: 1, appended: 6, clock: 1 },
    ...{ returned: false, baseEnd: false },
  };
  const good = encoder.data(header);
  expect(refusal(good)).toBeNull();
  expect(refusal(new Uint8Array(0))).toMatch(/empty message/);
  expect(refusal(Uint8Array.of(KIND_ASK, 0x7b))).toMatch(/ASK of 2 bytes/);
  expect(refusal(Uint8Array.of(99))).toMatch(/unknown kind 99/);
  expect(refusal(good.subarray(0, 59))).toMatch(/DATA of 59 bytes, not 60/);
  expect(refusal(bytes(good, 1, 0x88))).toMatch(/unknown flags/);
  expect(refusal(bytes(good, 1, 0))).toMatch(/without a stretch/);
  expect(refusal(bytes(good, 2, 1))).toMatch(/byte 2 is not zero/);
  expect(refusal(bytes(good, 12, 255, 255, 255, 255))).toMatch(/announces 4294967295 records in 160 bytes/);
  expect(refusal(bytes(good, 16, 255, 255, 255, 255))).toMatch(/announces 2 records in 4294967295 bytes/);
  expect(refusal(bytes(good, 24, 255, 255, 255, 255, 255, 255, 255, 255))).toMatch(/number at 24 is beyond 2\^53/);
  expect(refusal(bytes(good, 24, 255, 255, 255, 255, 255, 255, 31, 0))).toMatch(/ends beyond/);
  expect(refusal(bytes(good, 32, 99))).toMatch(/more durable than appended/);
  expect(refusal(bytes(good, 1, 0x84))).toMatch(/ends the base copy with records/);
  expect(MESSAGE_SIZE_MAX).toBeLessThan(0xffffffff);

  const deep = (open: string) => open.repeat(100_000);
  expect(refusal(json(KIND_ASK, deep('[')))).toMatch(/ASK is not JSON/);
  expect(refusal(json(KIND_ASK, `{"id":1,"method":"m","params":{"a":${deep('[')}${']'.repeat(100_000)}}}`))).toBeNull();
  expect(refusal(json(KIND_ASK, `{"id":1,"method":"m","params":{"__proto__":{"x":1}}}`))).toBeNull();
  expect(({} as Record<string, unknown>).x).toBeUndefined();
  expect(refusal(checked(Uint8Array.of(KIND_HELLO, 0xff, 0xfe, 0, 0, 0, 0)))).toMatch(/HELLO is not JSON in UTF-8/);
  expect(refusal(new Uint8Array(CONTROL_SIZE_MAX + 1).fill(KIND_HELLO))).toMatch(/HELLO of 262145 bytes/);
  expect(refusal(json(KIND_HELLO, { ...HELLO, streams: { 0: 1 } }))).toMatch(/HELLO: streams/);
  expect(refusal(json(KIND_HELLO, { ...HELLO, streams: { 256: 1 } }))).toMatch(/HELLO: streams/);
  expect(refusal(json(KIND_HELLO, { ...HELLO, epoch: 2 ** 53 }))).toMatch(/HELLO: epoch/);
  // what follows was beyond what a message, or a record, has room for; and some of it was saved
  expect(refusal(json(KIND_HELLO, { ...HELLO, epoch: EPOCH_MAX }))).toBeNull();
  expect(refusal(json(KIND_HELLO, { ...HELLO, epoch: EPOCH_MAX + 1 }))).toMatch(/HELLO: epoch/);
  const met = (count: number) => ({ 2: { last: null, offered: { count, id: 1 } } });
  expect(refusal(json(KIND_HELLO, { ...HELLO, met: met(MEETINGS_MAX) }))).toBeNull();
  expect(refusal(json(KIND_HELLO, { ...HELLO, met: met(MEETINGS_MAX + 1) }))).toMatch(/HELLO: met/);
  const [generation] = HELLO.generations;
  const ordinal = GENERATION_ORDINAL_MAX + 1;
  expect(refusal(json(KIND_HELLO, { ...HELLO, generations: [{ ...generation, ordinal }] }))).toMatch(/ordinal/);
  expect(refusal(json(KIND_REFUSE, { row: 5, code: 'NONSENSE', reason: '' }))).toMatch(/REFUSE: code/);
});

test('what a site can be made to say of itself fits a HELLO', () => {
  // A START could fill the history of who followed it. That one's own HELLO was too large then, and its process ended.
  const NAME = 'x'.repeat(64);
  const many = <T>(count: number, make: (index: number) => T): T[] =>
    Array.from({ length: count }, (_, i) => make(i + 1));
  const bySite = <T>(value: T): Record<string, T> => Object.fromEntries(many(255, (number) => [number, value]));
  const last = Number.MAX_SAFE_INTEGER;
  const meeting = { count: MEETINGS_MAX, id: 0xffffffff };
  const generation = { ordinal: GENERATION_ORDINAL_MAX, id: NAME, parent: NAME, minter: 255 };
  const history = (ends: number) =>
    many(GENERATIONS_MAX, () => ({
      ...generation,
      ends: Object.fromEntries(many(ends, (number) => [100 + number, last])),
    }));
  const hello: SiteState = {
    ...HELLO,
    ...{ group: NAME, groupId: NAME, site: { name: NAME, number: 255 }, role: 'standby', whenSplit: `prefer:${NAME}` },
    met: bySite({ last: meeting, offered: meeting }),
    sites: many(255, (number) => ({ name: NAME, number })),
    peers: many(255, (number) => number),
    volumes: many(GROUP_VOLUMES_MAX, (number) => ({ number, name: NAME, size: last, blockSize: 65536 })),
    generations: history(GENERATION_ENDS_MAX),
    streams: bySite(last),
    journalFrom: bySite(last),
    epoch: EPOCH_MAX,
  };
  const said = encoder.control({ kind: KIND_HELLO, hello });
  expect(said.length).toBeLessThan(CONTROL_SIZE_MAX / 2);
  expect(decode(said)).toEqual({ kind: KIND_HELLO, hello });
  expect(refusal(json(KIND_HELLO, { ...hello, generations: history(GENERATION_ENDS_MAX + 1) }))).toMatch(/too many/);
  expect(refusal(json(KIND_HELLO, { ...hello, sites: [{ name: '\u0001', number: 1 }] }))).toMatch(/not a name/);
});
