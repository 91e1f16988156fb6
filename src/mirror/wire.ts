/**
 * The messages of a link, to bytes and back.
 *
 * One WebSocket message is one message here; its first byte is the kind. Binary kinds have a fixed size and
 * little-endian integers; u64 fields are below 2^53. Fields called "zero" are written 0 and refused otherwise. The last four
 * bytes of every message are its check, FNV-1a (32 bits) of all before: what it tells may count as a promise at once, and
 * TCP's own check lets one changed packet in 65,536 through.
 *
 *     DATA (1), 60 bytes                              CONFIRM (2), 84 bytes
 *     offset size field                               offset size field
 *     0      1    kind                                0      1    kind
 *     1      1    flags: 2 RETURN, 4 BASE_END,        1      1    flags: 1 BASE, 2 RETURN, 4 CONSISTENT
 *                 128 STRETCH                         2      2    base volume
 *     2      2    zero                                4      4    epoch
 *     4      4    epoch                               8      4    attempt
 *     8      4    attempt                             12     4    zero
 *     12     4    count: records in the stretch       16     8    received
 *     16     4    size of the stretch                 24     8    granted
 *     20     4    zero                                32     8    applied
 *     24     8    first sequence; 0 for base records  40     8    durable
 *     32     8    durable, at the source              48     8    creditBytes, cumulative in this epoch
 *     40     8    appended, at the source             56     8    rejected sequence, or 0
 *     48     8    clock                               64     8    base lba
 *     56     4    check                               72     8    horizon, or 0
 *                                                     80     4    check
 *
 *     NAK (3), 36 bytes                               HEARTBEAT (4), 36 bytes
 *     0      1    kind                                0      1    kind
 *     1      1    reason: 1 CHECK, 2 REJECTED         1      1    flags: 1 DEGRADED
 *     2      2    base volume                         2      6    zero
 *     4      4    epoch                               8      8    appended
 *     8      4    attempt                             16     8    flushed
 *     12     1    flags: 1 BASE, 2 RETURN             24     8    clock
 *     13     3    zero                                32     4    check
 *     16     8    sequence; 0: a base record
 *     24     8    base lba
 *     32     4    check
 *
 * DATA with STRETCH is followed by one message of `size` bytes that is nothing but `count` whole records, as they stand
 * in the ring (assembly/layout.ts): the only message that neither begins with a kind nor ends with a check: its records have
 * their own. Without STRETCH, count and size
 * are 0 and the message only tells cursors, or the end of the base copy (BASE_END).
 * Bit 7 of byte 1 is the link's, in every kind: set if and only if a stretch follows. (JSON begins with '{', 0x7b.)
 * RETURN marks the messages of a lost tail on its way back to its author.
 *
 * What happens to a record whose lock is held at the target is the source's policy, and START tells it (`onReject`):
 *
 *     target-retry, halt   CONFIRM's `rejected` names the record, which was received and waits; 0 when it was granted
 *     retransmit           NAK with reason REJECTED: this record and all behind it were dropped, and stay away until a
 *                          CONFIRM of the new attempt says `rejected` 0: then its lock can be had, and they come again.
 *                          Only what is granted is confirmed as received and durable, besides what READY said
 *
 * HELLO (16), START (17), READY (18), REFUSE (19), ASK (20), ANSWER (21): the kind, one JSON object in UTF-8, the check, in
 * all at most CONTROL_SIZE_MAX bytes. Unknown fields are refused.
 *
 * A message is valid if and only if its kind is known, its size is the kind's, zero fields are zero, flags are known,
 * u64 fields are below 2^53, DATA's count and size fit its flags, FRAME_SIZE_MAX and MESSAGE_SIZE_MAX, JSON fits
 * its schema, and the check matches. Everything else is PEER_PROTOCOL.
 */
import { z } from 'zod';
import { RECORD_SIZE_MIN } from '../../assembly/layout.js';
import { assert, fail } from '../assert.js';
import { ERROR_CODES, type ErrorCode, ForelockError } from '../errors.js';
import { recordKey } from '../journal/superblock.js';
import {
  CONTROL_SIZE_MAX,
  EPOCH_MAX,
  GENERATION_ENDS_MAX,
  GENERATION_ORDINAL_MAX,
  GENERATIONS_MAX,
  GROUP_VOLUMES_MAX,
  KIB,
  MEETINGS_MAX,
  MESSAGE_SIZE_MAX,
} from '../limits.js';
import type { BasePosition } from './base.js';
import type { Meeting, SiteState } from './decide.js';

export const KIND_DATA = 1;
export const KIND_CONFIRM = 2;
export const KIND_NAK = 3;
export const KIND_HEARTBEAT = 4;
export const KIND_HELLO = 16;
export const KIND_START = 17;
export const KIND_READY = 18;
export const KIND_REFUSE = 19;
export const KIND_ASK = 20;
export const KIND_ANSWER = 21;

export const DATA_SIZE = 60;
export const CONFIRM_SIZE = 84;
export const NAK_SIZE = 36;
export const HEARTBEAT_SIZE = 36;
const CHECK_SIZE = 4;

/** The record's check or a block's checksum does not match. */
export const NAK_CHECK = 1;
/** Its lock is held: retransmit alone. */
export const NAK_REJECTED = 2;

/** What follows a rejection, of which the source decides for its group. */
export const REJECT_POLICIES = ['target-retry', 'halt', 'retransmit'] as const;
export type RejectPolicy = (typeof REJECT_POLICIES)[number];

/** Sites with a stream in one group: numbers are a byte. */
const SITES_MAX = 255;
const TEXT_MAX = 4 * KIB;

const DATA_STRETCH = 0x80;
const DATA_RETURN = 2;
const DATA_BASE_END = 4;
const CONFIRM_BASE = 1;
const CONFIRM_RETURN = 2;
const CONFIRM_CONSISTENT = 4;
const NAK_BASE = 1;
const NAK_RETURN = 2;
const HEARTBEAT_DEGRADED = 1;

export interface Data {
  epoch: number;
  attempt: number;
  /** Sequence of the first record; 0: base records. */
  first: number;
  /** Records in the stretch that follows; 0: nothing follows. */
  count: number;
  /** Bytes of the stretch. */
  size: number;
  durable: number;
  appended: number;
  clock: number;
  /** A lost tail on its way back to its author. */
  returned: boolean;
  /** The base copy ends with this frame; it is consistent once `appended` is applied. */
  baseEnd: boolean;
}

export interface Confirm {
  epoch: number;
  attempt: number;
  received: number;
  granted: number;
  applied: number;
  durable: number;
  /** Cumulative stretch bytes that may have been sent in this epoch. */
  creditBytes: number;
  /** Sequence that waits for its lock at the target, or that was dropped and does; or 0. */
  rejected: number;
  /** Durable progress of the base copy: everything before it; null when there is none. */
  base: BasePosition | null;
  /** The target's image is the source's at one point, on disk: no base copy is under way. */
  consistent: boolean;
  /**
   * Where both sites write: the end of the target's own stream when it took the last of `received`; else 0. The source
   * counts on what this message says only once it has that much of the target's stream, and so knows every scope that
   * was judged against what is confirmed.
   */
  horizon: number;
  returned: boolean;
}

export interface Nak {
  epoch: number;
  attempt: number;
  /** First record to be sent again; 0: a base record. */
  sequence: number;
  /** Where to take up the base copy; not null if and only if sequence is 0. */
  base: BasePosition | null;
  reason: number;
  returned: boolean;
}

export interface Heartbeat {
  appended: number;
  flushed: number;
  degraded: boolean;
  clock: number;
}

/** The source (or, row 7, the holder of the lost tail) begins an epoch. Both ends have decided; the row must agree. */
export interface Start {
  epoch: number;
  /** Row of the table in decide.ts. */
  row: number;
  action: 'replay' | 'base' | 'returnTail';
  /** Whose stream: site number of its author. */
  stream: number;
  /** The stream goes on behind this sequence; for a base copy, its start. */
  from: number;
  base: BasePosition | null;
  /** The source's policy; of no meaning for a tail that is returned. */
  onReject: RejectPolicy;
  /**
   * Where both sites write: how much of this stream the other site has confirmed, with all it decided on, or may have
   * confirmed to an earlier life of the author. It may have lost some of that, and admits nobody before it is back. Else 0.
   */
  confirmed: number;
  /** And how much of it has its locks there, as the author was told: a host may hold a read lock by it. */
  granted: number;
  /** From the source of the decision, which has written it down: the target does so before it answers READY. Else null. */
  meeting: Meeting | null;
  /** The source's group and history, which the target takes over before it answers READY. */
  groupId: string;
  /** Of the source's group (assembly/layout.ts); left out where it has none: a peer may be older than there are keys. */
  recordKey?: string;
  generations: SiteState['generations'];
}

/** The target is ready for the epoch. */
export interface Ready {
  epoch: number;
  received: number;
  durable: number;
  applied: number;
  creditBytes: number;
  consistent: boolean;
  /** As in CONFIRM. */
  horizon: number;
}

export interface Refuse {
  row: number;
  code: ErrorCode;
  reason: string;
}

export interface Ask {
  id: number;
  method: string;
  params: Record<string, unknown>;
}

export interface Answer {
  id: number;
  /** Null when `error` is not. */
  result: unknown;
  error: { code: ErrorCode; message: string } | null;
}

export type Message =
  | { kind: typeof KIND_DATA; data: Data }
  | { kind: typeof KIND_CONFIRM; confirm: Confirm }
  | { kind: typeof KIND_NAK; nak: Nak }
  | { kind: typeof KIND_HEARTBEAT; heartbeat: Heartbeat }
  | { kind: typeof KIND_HELLO; hello: SiteState }
  | { kind: typeof KIND_START; start: Start }
  | { kind: typeof KIND_READY; ready: Ready }
  | { kind: typeof KIND_REFUSE; refuse: Refuse }
  | { kind: typeof KIND_ASK; ask: Ask }
  | { kind: typeof KIND_ANSWER; answer: Answer };

export type ControlMessage = Exclude<
  Message,
  { kind: typeof KIND_DATA | typeof KIND_CONFIRM | typeof KIND_NAK | typeof KIND_HEARTBEAT }
>;

// ---- schemas of control messages

const sequence = z.int().nonnegative();
const u32 = z.int().min(0).max(0xffffffff);
const siteNumber = z.int().min(1).max(SITES_MAX);
/** As units.ts has them, and ids: none grows when it is written as JSON, so what is taken over can be said again. */
const name = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/, 'not a name');
const row = z.int().min(1).max(99);
const errorCode = z.enum(Object.keys(ERROR_CODES) as [ErrorCode, ...ErrorCode[]]);

function recordBySite<T>(value: z.ZodType<T>): z.ZodType<Record<string, T>> {
  return z
    .record(z.string().regex(/^[1-9][0-9]{0,2}$/), value)
    .refine((sites) => Object.keys(sites).every((key) => Number(key) <= SITES_MAX), 'a site number is 1..255');
}
const bySite = recordBySite(sequence);
const meeting = z.strictObject({ count: sequence.max(MEETINGS_MAX), id: u32 });

const position = z.strictObject({ volume: z.int().min(0).max(0xffff), lba: sequence });

const generation = z.strictObject({
  ordinal: sequence.max(GENERATION_ORDINAL_MAX),
  id: name,
  parent: name.nullable(),
  minter: siteNumber,
  ends: bySite.refine((ends) => Object.keys(ends).length <= GENERATION_ENDS_MAX, 'too many streams'),
});
const generations = z.array(generation).max(GENERATIONS_MAX);

const siteState: z.ZodType<SiteState> = z.strictObject({
  format: z.int().min(0).max(0xffff),
  group: name,
  groupId: name.nullable(),
  site: z.strictObject({ name, number: siteNumber }),
  role: z.enum(['primary', 'standby', 'dual']),
  whenSplit: z.string().max(TEXT_MAX),
  met: recordBySite(z.strictObject({ last: meeting.nullable(), offered: meeting.nullable() })),
  sites: z.array(z.strictObject({ name, number: siteNumber })).max(SITES_MAX),
  peers: z.array(siteNumber).max(SITES_MAX),
  volumes: z
    .array(
      z.strictObject({
        number: z.int().min(0).max(0xffff),
        name,
        size: sequence,
        blockSize: z.int().min(1).max(0xffffffff),
      }),
    )
    .max(GROUP_VOLUMES_MAX),
  generations,
  streams: bySite,
  journalFrom: bySite,
  imported: z.boolean(),
  base: z
    .strictObject({
      source: siteNumber,
      generation: name,
      start: sequence,
      next: position,
      end: sequence.nullable(),
    })
    .nullable(),
  epoch: sequence.max(EPOCH_MAX),
  served: z.boolean(),
  clean: z.boolean(),
});

const start: z.ZodType<Start> = z.strictObject({
  epoch: u32,
  row,
  action: z.enum(['replay', 'base', 'returnTail']),
  stream: siteNumber,
  from: sequence,
  base: position.nullable(),
  onReject: z.enum(REJECT_POLICIES),
  confirmed: sequence,
  granted: sequence,
  meeting: meeting.nullable(),
  groupId: name,
  recordKey: recordKey.exactOptional(),
  generations: generations.min(1),
});

const ready: z.ZodType<Ready> = z.strictObject({
  epoch: u32,
  received: sequence,
  durable: sequence,
  applied: sequence,
  creditBytes: sequence,
  consistent: z.boolean(),
  horizon: sequence,
});

const refuse: z.ZodType<Refuse> = z.strictObject({ row, code: errorCode, reason: z.string().max(TEXT_MAX) });

const ask: z.ZodType<Ask> = z.strictObject({ id: u32, method: name, params: z.record(z.string(), z.unknown()) });

const answer: z.ZodType<Answer> = z.strictObject({
  id: u32,
  result: z.unknown(),
  error: z.strictObject({ code: errorCode, message: z.string().max(TEXT_MAX) }).nullable(),
});

// ---- encoding

/**
 * Encodes messages. Fixed-size messages are carved out of a slab that is never written twice, so that a socket may
 * still hold one while the next is encoded; a used-up slab is left to the collector.
 */
export class WireEncoder {
  #slab = new Uint8Array(0);
  #view = new DataView(this.#slab.buffer);
  #at = 0;

  data(data: Data): Uint8Array {
    assert(data.count > 0 ? data.size >= data.count * RECORD_SIZE_MIN : data.size === 0, 'count and size agree');
    if (!(data.size <= MESSAGE_SIZE_MAX)) fail(`a stretch of ${data.size} bytes`);
    const bytes = this.#take(DATA_SIZE);
    const view = this.#view;
    const at = this.#at - DATA_SIZE;
    view.setUint8(at, KIND_DATA);
    view.setUint8(
      at + 1,
      (data.count > 0 ? DATA_STRETCH : 0) | (data.returned ? DATA_RETURN : 0) | (data.baseEnd ? DATA_BASE_END : 0),
    );
    view.setUint32(at + 4, data.epoch, true);
    view.setUint32(at + 8, data.attempt, true);
    view.setUint32(at + 12, data.count, true);
    view.setUint32(at + 16, data.size, true);
    putU64(view, at + 24, data.first);
    putU64(view, at + 32, data.durable);
    putU64(view, at + 40, data.appended);
    putU64(view, at + 48, data.clock);
    return checked(bytes);
  }

  confirm(confirm: Confirm): Uint8Array {
    const bytes = this.#take(CONFIRM_SIZE);
    const view = this.#view;
    const at = this.#at - CONFIRM_SIZE;
    view.setUint8(at, KIND_CONFIRM);
    view.setUint8(
      at + 1,
      (confirm.base !== null ? CONFIRM_BASE : 0) |
        (confirm.returned ? CONFIRM_RETURN : 0) |
        (confirm.consistent ? CONFIRM_CONSISTENT : 0),
    );
    view.setUint16(at + 2, confirm.base?.volume ?? 0, true);
    view.setUint32(at + 4, confirm.epoch, true);
    view.setUint32(at + 8, confirm.attempt, true);
    putU64(view, at + 16, confirm.received);
    putU64(view, at + 24, confirm.granted);
    putU64(view, at + 32, confirm.applied);
    putU64(view, at + 40, confirm.durable);
    putU64(view, at + 48, confirm.creditBytes);
    putU64(view, at + 56, confirm.rejected);
    putU64(view, at + 64, confirm.base?.lba ?? 0);
    putU64(view, at + 72, confirm.horizon);
    return checked(bytes);
  }

  nak(nak: Nak): Uint8Array {
    assert((nak.sequence === 0) === (nak.base !== null), 'a NAK of the base copy has a position');
    assert(nak.reason === NAK_CHECK || nak.reason === NAK_REJECTED, `NAK reason ${nak.reason}`);
    const bytes = this.#take(NAK_SIZE);
    const view = this.#view;
    const at = this.#at - NAK_SIZE;
    view.setUint8(at, KIND_NAK);
    view.setUint8(at + 1, nak.reason);
    view.setUint16(at + 2, nak.base?.volume ?? 0, true);
    view.setUint32(at + 4, nak.epoch, true);
    view.setUint32(at + 8, nak.attempt, true);
    view.setUint8(at + 12, (nak.base !== null ? NAK_BASE : 0) | (nak.returned ? NAK_RETURN : 0));
    putU64(view, at + 16, nak.sequence);
    putU64(view, at + 24, nak.base?.lba ?? 0);
    return checked(bytes);
  }

  heartbeat(heartbeat: Heartbeat): Uint8Array {
    const bytes = this.#take(HEARTBEAT_SIZE);
    const view = this.#view;
    const at = this.#at - HEARTBEAT_SIZE;
    view.setUint8(at, KIND_HEARTBEAT);
    view.setUint8(at + 1, heartbeat.degraded ? HEARTBEAT_DEGRADED : 0);
    putU64(view, at + 8, heartbeat.appended);
    putU64(view, at + 16, heartbeat.flushed);
    putU64(view, at + 24, heartbeat.clock);
    return checked(bytes);
  }

  /** @throws ForelockError EINVAL when the message would be larger than CONTROL_SIZE_MAX (an ASK or its ANSWER) */
  control(message: ControlMessage): Uint8Array {
    const body = Buffer.from(JSON.stringify(controlBody(message)));
    const size = 1 + body.length + CHECK_SIZE;
    if (size > CONTROL_SIZE_MAX) {
      throw new ForelockError(
        'EINVAL',
        `a ${kindName(message.kind)} of ${size} bytes is larger than ${CONTROL_SIZE_MAX}`,
      );
    }
    const bytes = new Uint8Array(size);
    bytes[0] = message.kind;
    bytes.set(body, 1);
    return checked(bytes);
  }

  /** Room of `size` zeroed bytes; #at is behind it. */
  #take(size: number): Uint8Array {
    if (this.#at + size > this.#slab.length) {
      this.#slab = new Uint8Array(16 * KIB);
      this.#view = new DataView(this.#slab.buffer);
      this.#at = 0;
    }
    this.#at += size;
    return this.#slab.subarray(this.#at - size, this.#at);
  }
}

/** FNV-1a of all but the last four bytes. Any change of one byte changes it. */
function checkOf(bytes: Uint8Array): number {
  let hash = 0x811c9dc5;
  for (let at = 0; at < bytes.length - CHECK_SIZE; at += 1) hash = Math.imul(hash ^ bytes[at]!, 0x01000193);
  return hash >>> 0;
}

/** Writes the check of a message into its last four bytes. @returns the message */
export function checked(bytes: Uint8Array): Uint8Array {
  new DataView(bytes.buffer, bytes.byteOffset).setUint32(bytes.length - CHECK_SIZE, checkOf(bytes), true);
  return bytes;
}

function controlBody(message: ControlMessage): unknown {
  switch (message.kind) {
    case KIND_HELLO:
      return message.hello;
    case KIND_START:
      return message.start;
    case KIND_READY:
      return message.ready;
    case KIND_REFUSE:
      return message.refuse;
    case KIND_ASK:
      return message.ask;
    case KIND_ANSWER:
      return message.answer;
  }
}

// ---- decoding

/**
 * One received message, unless it is the stretch that the DATA before it announced.
 *
 * @throws ForelockError PEER_PROTOCOL, saying what is wrong and where
 */
export function decode(bytes: Uint8Array): Message {
  if (bytes.length === 0) throw protocolError('an empty message');
  const message = decodeKind(bytes);
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  if (view.getUint32(bytes.length - CHECK_SIZE, true) !== checkOf(bytes))
    throw protocolError(`${kindName(bytes[0])} was changed on its way: its check does not match`);
  return message;
}

function decodeKind(bytes: Uint8Array): Message {
  const kind = bytes[0];
  switch (kind) {
    case KIND_DATA:
      return { kind, data: decodeData(fixed(bytes, DATA_SIZE)) };
    case KIND_CONFIRM:
      return { kind, confirm: decodeConfirm(fixed(bytes, CONFIRM_SIZE)) };
    case KIND_NAK:
      return { kind, nak: decodeNak(fixed(bytes, NAK_SIZE)) };
    case KIND_HEARTBEAT:
      return { kind, heartbeat: decodeHeartbeat(fixed(bytes, HEARTBEAT_SIZE)) };
    case KIND_HELLO:
      return { kind, hello: decodeJson(bytes, siteState) };
    case KIND_START:
      return { kind, start: decodeJson(bytes, start) };
    case KIND_READY:
      return { kind, ready: decodeJson(bytes, ready) };
    case KIND_REFUSE:
      return { kind, refuse: decodeJson(bytes, refuse) };
    case KIND_ASK:
      return { kind, ask: decodeJson(bytes, ask) };
    case KIND_ANSWER:
      return { kind, answer: decodeJson(bytes, answer) };
    default:
      throw protocolError(`message of unknown kind ${kind}`);
  }
}

/** What a peer says of itself when a link opens. @throws ForelockError PEER_PROTOCOL */
export function parseSiteState(value: unknown): SiteState {
  return parse(value, siteState, 'HELLO');
}

function decodeData(view: DataView): Data {
  const flags = flagsAt(view, 1, DATA_STRETCH | DATA_RETURN | DATA_BASE_END);
  zeroAt(view, 2, 2);
  zeroAt(view, 20, 4);
  const data: Data = {
    epoch: view.getUint32(4, true),
    attempt: view.getUint32(8, true),
    first: getU64(view, 24),
    count: view.getUint32(12, true),
    size: view.getUint32(16, true),
    durable: getU64(view, 32),
    appended: getU64(view, 40),
    clock: getU64(view, 48),
    returned: (flags & DATA_RETURN) !== 0,
    baseEnd: (flags & DATA_BASE_END) !== 0,
  };
  if ((flags & DATA_STRETCH) === 0) {
    if (data.count !== 0 || data.size !== 0) throw protocolError('DATA without a stretch has a count or a size');
  } else if (data.count === 0 || data.size < data.count * RECORD_SIZE_MIN || data.size > MESSAGE_SIZE_MAX) {
    throw protocolError(`DATA announces ${data.count} records in ${data.size} bytes`);
  }
  if (!Number.isSafeInteger(data.first + data.count)) throw protocolError('DATA ends beyond 2^53');
  if (data.durable > data.appended) throw protocolError('DATA has more durable than appended');
  if (data.baseEnd && data.first !== 0) throw protocolError('DATA ends the base copy with records of the stream');
  return data;
}

function decodeConfirm(view: DataView): Confirm {
  const flags = flagsAt(view, 1, CONFIRM_BASE | CONFIRM_RETURN | CONFIRM_CONSISTENT);
  zeroAt(view, 12, 4);
  return {
    epoch: view.getUint32(4, true),
    attempt: view.getUint32(8, true),
    received: getU64(view, 16),
    granted: getU64(view, 24),
    applied: getU64(view, 32),
    durable: getU64(view, 40),
    creditBytes: getU64(view, 48),
    rejected: getU64(view, 56),
    base: basePosition(view, (flags & CONFIRM_BASE) !== 0, 64),
    consistent: (flags & CONFIRM_CONSISTENT) !== 0,
    horizon: getU64(view, 72),
    returned: (flags & CONFIRM_RETURN) !== 0,
  };
}

function decodeNak(view: DataView): Nak {
  const flags = flagsAt(view, 12, NAK_BASE | NAK_RETURN);
  zeroAt(view, 13, 3);
  const nak: Nak = {
    epoch: view.getUint32(4, true),
    attempt: view.getUint32(8, true),
    sequence: getU64(view, 16),
    base: basePosition(view, (flags & NAK_BASE) !== 0, 24),
    reason: view.getUint8(1),
    returned: (flags & NAK_RETURN) !== 0,
  };
  if (nak.reason !== NAK_CHECK && nak.reason !== NAK_REJECTED) throw protocolError(`NAK with reason ${nak.reason}`);
  if ((nak.sequence === 0) !== (nak.base !== null))
    throw protocolError('NAK: sequence 0 and a base position go together');
  return nak;
}

function decodeHeartbeat(view: DataView): Heartbeat {
  const flags = flagsAt(view, 1, HEARTBEAT_DEGRADED);
  zeroAt(view, 2, 6);
  return {
    appended: getU64(view, 8),
    flushed: getU64(view, 16),
    degraded: (flags & HEARTBEAT_DEGRADED) !== 0,
    clock: getU64(view, 24),
  };
}

function decodeJson<T>(bytes: Uint8Array, schema: z.ZodType<T>): T {
  const what = kindName(bytes[0]);
  if (bytes.length > CONTROL_SIZE_MAX) {
    throw protocolError(`${what} of ${bytes.length} bytes, at most ${CONTROL_SIZE_MAX}`);
  }
  if (bytes.length < 1 + CHECK_SIZE) throw protocolError(`${what} of ${bytes.length} bytes`);
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes.subarray(1, bytes.length - CHECK_SIZE)));
  } catch {
    throw protocolError(`${what} is not JSON in UTF-8`);
  }
  return parse(value, schema, what);
}

function parse<T>(value: unknown, schema: z.ZodType<T>, what: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const where = issue === undefined ? '' : issue.path.slice(0, 6).map(String).join('.').slice(0, 80);
  throw protocolError(`${what}: ${where || 'message'}: ${(issue?.message ?? 'invalid').slice(0, 200)}`);
}

function fixed(bytes: Uint8Array, size: number): DataView {
  if (bytes.length !== size) throw protocolError(`${kindName(bytes[0])} of ${bytes.length} bytes, not ${size}`);
  return new DataView(bytes.buffer, bytes.byteOffset, size);
}

function flagsAt(view: DataView, at: number, known: number): number {
  const flags = view.getUint8(at);
  if ((flags & ~known) !== 0) throw protocolError(`${kindName(view.getUint8(0))} has unknown flags ${flags}`);
  return flags;
}

function zeroAt(view: DataView, at: number, size: number): void {
  for (let index = 0; index < size; index += 1) {
    if (view.getUint8(at + index) !== 0) {
      throw protocolError(`${kindName(view.getUint8(0))}: byte ${at + index} is not zero`);
    }
  }
}

function basePosition(view: DataView, present: boolean, lbaAt: number): BasePosition | null {
  if (present) return { volume: view.getUint16(2, true), lba: getU64(view, lbaAt) };
  zeroAt(view, 2, 2);
  zeroAt(view, lbaAt, 8);
  return null;
}

function putU64(view: DataView, at: number, value: number): void {
  if (!(Number.isSafeInteger(value) && value >= 0)) fail(`not a u64 below 2^53: ${value}`);
  view.setUint32(at, value % 0x100000000, true);
  view.setUint32(at + 4, Math.floor(value / 0x100000000), true);
}

function getU64(view: DataView, at: number): number {
  const high = view.getUint32(at + 4, true);
  if (high > 0x1fffff) throw protocolError(`${kindName(view.getUint8(0))}: the number at ${at} is beyond 2^53`);
  return high * 0x100000000 + view.getUint32(at, true);
}

const KIND_NAMES: Record<number, string> = {
  [KIND_DATA]: 'DATA',
  [KIND_CONFIRM]: 'CONFIRM',
  [KIND_NAK]: 'NAK',
  [KIND_HEARTBEAT]: 'HEARTBEAT',
  [KIND_HELLO]: 'HELLO',
  [KIND_START]: 'START',
  [KIND_READY]: 'READY',
  [KIND_REFUSE]: 'REFUSE',
  [KIND_ASK]: 'ASK',
  [KIND_ANSWER]: 'ANSWER',
};

function kindName(kind: number): string {
  return KIND_NAMES[kind] ?? `message ${kind}`;
}

function protocolError(reason: string): ForelockError {
  return new ForelockError('PEER_PROTOCOL', `the peer broke the protocol: ${reason}`);
}
