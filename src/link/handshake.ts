/**
 * How two gateways learn that they may talk: four messages, before anything else travels.
 *
 * Sans-IO: messages go in, messages and a verdict come out; nonces and time are the caller's.
 *
 *     connector                                   listener
 *     HELLO  ----------------------------------->
 *            <-----------------------------------  HELLO        (neither waits for the other's)
 *     PROOF  ----------------------------------->  checks, accepts
 *     checks, accepts  <-------------------------  PROOF
 *
 *     message = byte 0: MESSAGE_HELLO or MESSAGE_PROOF, then
 *       HELLO   JSON: { product, protocol, version, site, auth: "key" | "none", nonce: 64 hex digits, hello }
 *       PROOF   with a key: HMAC-SHA256(key, role of its sender || 0 || transcript), 32 bytes;
 *               without: XXH64(the same), 8 bytes big-endian: no proof of anything but that both saw the same bytes
 *     transcript = "forelock link\n" || size || connector's HELLO || size || listener's HELLO   (u32, little-endian)
 *
 * The connector proves itself first, so a listener shows nothing made with the key to a stranger. Roles in the
 * proof and nonces of both ends keep a proof from being reflected or replayed. The key authenticates the ends at
 * that moment; it neither hides nor guards what travels afterwards. On a network that is not trusted, run the link
 * through TLS.
 *
 * `hello` belongs to the owner of the link: what it says is checked there.
 */
import { createHmac, timingSafeEqual } from 'node:crypto';
import { CONTROL_SIZE_MAX } from '../limits.js';
import { CLOSE_AUTH, CLOSE_PROTOCOL, CLOSE_REFUSED } from './link.js';

export const LINK_PROTOCOL = 2;
export const MESSAGE_HELLO = 1;
export const MESSAGE_PROOF = 2;
export const NONCE_SIZE = 32;

const PRODUCT = 'forelock';
const SITE = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const NONCE = /^[0-9a-f]{64}$/;
const VERSION = /^[\x21-\x7e]{1,64}$/;

export type HandshakeRole = 'connector' | 'listener';

export interface HandshakeOptions {
  role: HandshakeRole;
  /** This site's name. */
  site: string;
  /** This program's version, for people. */
  version: string;
  /** The shared key, or null: then the peer must have none either. */
  key: Uint8Array | null;
  /** NONCE_SIZE random bytes, never used before. */
  nonce: Uint8Array;
  /** What the owner has to say; anything JSON can carry. */
  hello: unknown;
  /** XXH64, seed 0. */
  xxh64: (bytes: Uint8Array) => bigint;
}

/** What the peer said in its HELLO, checked but for `hello`. */
export interface PeerHello {
  readonly site: string;
  readonly version: string;
  /** true: the peer proved the shared key. */
  readonly authenticated: boolean;
  readonly hello: unknown;
}

export interface Refusal {
  readonly code: number;
  readonly reason: string;
}

/** What to do after a message: send, and then be done or give up, or wait for more. */
export interface HandshakeStep {
  readonly send: Uint8Array | null;
  readonly done: PeerHello | null;
  readonly refusal: Refusal | null;
}

interface Hello {
  site: string;
  version: string;
  auth: 'key' | 'none';
  nonce: string;
  hello: unknown;
}

export class Handshake {
  readonly #options: HandshakeOptions;
  readonly #own: Uint8Array;
  #peerBytes: Uint8Array | null = null;
  #peer: Hello | null = null;
  #over = false;

  /** @throws RangeError if the owner's hello does not fit (our bug) */
  constructor(options: HandshakeOptions) {
    this.#options = options;
    const text = JSON.stringify({
      product: PRODUCT,
      protocol: LINK_PROTOCOL,
      version: options.version,
      site: options.site,
      auth: options.key === null ? 'none' : 'key',
      nonce: Buffer.from(options.nonce).toString('hex'),
      hello: options.hello ?? null,
    });
    this.#own = Buffer.concat([Buffer.of(MESSAGE_HELLO), Buffer.from(text)]);
    if (this.#own.length > CONTROL_SIZE_MAX) throw new RangeError(`a HELLO of ${this.#own.length} bytes`);
  }

  /** The first message, to be sent as soon as the connection is open. */
  start(): Uint8Array {
    return this.#own;
  }

  /** Takes one binary message. After a verdict there must be no further call. */
  step(message: Uint8Array): HandshakeStep {
    if (this.#over) throw new Error('the handshake is over');
    const refusal = this.#refuses(message);
    if (refusal !== null) {
      this.#over = true;
      return { send: null, done: null, refusal };
    }
    const peer = this.#peer!;
    const { role } = this.#options;
    if (message[0] === MESSAGE_HELLO)
      return { send: role === 'connector' ? this.#proof(role) : null, done: null, refusal: null };
    this.#over = true;
    const done = {
      site: peer.site,
      version: peer.version,
      authenticated: this.#options.key !== null,
      hello: peer.hello,
    };
    return { send: role === 'listener' ? this.#proof(role) : null, done, refusal: null };
  }

  #refuses(message: Uint8Array): Refusal | null {
    const kind = message.length === 0 ? -1 : message[0]!;
    if (message.length > CONTROL_SIZE_MAX) {
      return {
        code: CLOSE_PROTOCOL,
        reason: `a handshake message of ${message.length} bytes; the limit is ${CONTROL_SIZE_MAX}`,
      };
    }
    if (kind === MESSAGE_HELLO && this.#peer === null) {
      const peer = parseHello(message);
      if (typeof peer === 'string') return { code: CLOSE_PROTOCOL, reason: peer };
      this.#peer = peer;
      this.#peerBytes = new Uint8Array(message);
      return this.#refusesPeer(peer);
    }
    if (kind === MESSAGE_PROOF && this.#peer !== null) {
      const expected = this.#proof(this.#options.role === 'connector' ? 'listener' : 'connector');
      if (message.length === expected.length && timingSafeEqual(message, expected)) return null;
      if (this.#options.key === null) return { code: CLOSE_PROTOCOL, reason: 'the handshake was damaged on its way' };
      return { code: CLOSE_AUTH, reason: 'the shared keys of the two ends differ' };
    }
    return { code: CLOSE_PROTOCOL, reason: `a message of kind ${kind} before the handshake was complete` };
  }

  /** Both ends see both HELLOs and say the same words. */
  #refusesPeer(peer: Hello): Refusal | null {
    const { role, site, key } = this.#options;
    if (peer.site === site) {
      return {
        code: CLOSE_REFUSED,
        reason: `both ends are site ${JSON.stringify(site)}: give each a --site of its own`,
      };
    }
    const ownAuth = key === null ? 'none' : 'key';
    if (peer.auth !== ownAuth) {
      const holder = (ownAuth === 'key') === (role === 'connector') ? 'connecting' : 'listening';
      const other = holder === 'connecting' ? 'listening' : 'connecting';
      return {
        code: CLOSE_AUTH,
        reason: `the ${holder} end has a shared key and the ${other} end has none: give both --key`,
      };
    }
    return null;
  }

  #proof(sender: HandshakeRole): Uint8Array {
    const peer = this.#peerBytes!;
    const [first, second] = this.#options.role === 'connector' ? [this.#own, peer] : [peer, this.#own];
    const text = Buffer.concat([
      Buffer.from(`${sender}\0forelock link\n`),
      size32(first),
      first,
      size32(second),
      second,
    ]);
    const { key, xxh64 } = this.#options;
    let digest: Buffer;
    if (key === null) {
      digest = Buffer.alloc(8);
      digest.writeBigUInt64BE(BigInt.asUintN(64, xxh64(text)));
    } else {
      digest = createHmac('sha256', key).update(text).digest();
    }
    return Buffer.concat([Buffer.of(MESSAGE_PROOF), digest]);
  }
}

function size32(bytes: Uint8Array): Uint8Array {
  const size = Buffer.alloc(4);
  size.writeUInt32LE(bytes.length);
  return size;
}

/** The peer's HELLO, or what is wrong with it. */
function parseHello(message: Uint8Array): Hello | string {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(message.subarray(1)));
  } catch {
    return 'a HELLO that is not JSON';
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return 'a HELLO that is not an object';
  const hello = value as Record<string, unknown>;
  if (hello.product !== PRODUCT) return 'the peer is not a forelock gateway';
  if (hello.protocol !== LINK_PROTOCOL) {
    const theirs = typeof hello.protocol === 'number' ? hello.protocol : '?';
    return `the peer speaks link protocol ${theirs}, this end ${LINK_PROTOCOL}: upgrade the older one`;
  }
  const { site, version, auth, nonce } = hello;
  if (typeof site !== 'string' || !SITE.test(site)) return 'a HELLO without a valid site';
  if (typeof version !== 'string' || !VERSION.test(version)) return 'a HELLO without a valid version';
  if (auth !== 'key' && auth !== 'none') return 'a HELLO without a valid auth';
  if (typeof nonce !== 'string' || !NONCE.test(nonce)) return 'a HELLO without a valid nonce';
  return { site, version, auth, nonce, hello: hello.hello ?? null };
}
