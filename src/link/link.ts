/**
 * A live, authenticated, ordered path to the peer, as the mirror sees it.
 *
 * What travels is a *message*: a small header and, optionally, a stretch of sealed journal. On the wire they are two
 * WebSocket binary messages, header first, so that the stretch leaves shared memory without being copied.
 * The link looks at one bit of the header and strips nothing:
 *
 *     byte 0   kind        the mirror's business
 *     byte 1   bit 7 set: a stretch follows as the next WebSocket message
 *     ...      the mirror's business
 *
 * Messages arrive whole, once and in order, or the link closes. There is no resuming here: a closed link is never
 * opened again, its endpoint makes a new one.
 */
export interface Link {
  /** Called for every message. The bytes are lent for the call: what is needed later is to be copied. */
  onMessage: ((header: Uint8Array, stretch: Uint8Array | null) => void) | null;
  /** Called when `bufferedBytes` fell below LINK_BUFFER_LOW after having been above it: there is room again. */
  onDrain: (() => void) | null;
  /** Called once, whichever end closed, never inside a call of `close` or `send`. `code` is one of CLOSE_*, or 1006. */
  onClose: ((reason: string, code: number) => void) | null;

  /**
   * Queues one message. Messages of one event-loop turn leave in one system call.
   *
   * @param header   2..CONTROL_SIZE_MAX bytes, untouched by the caller from now on; byte 1 bit 7 says whether a stretch follows
   * @param stretch  1..MESSAGE_SIZE_MAX bytes, may be a view of shared memory; stays untouched until `released` is called
   * @param released called once, when the bytes have left for the kernel or never will; also after the link was
   *                 closed, possibly after `onClose`; never inside this call
   */
  send(header: Uint8Array, stretch: Uint8Array | null, released: (() => void) | null): void;

  /** Bytes accepted by `send` that have not left yet. A polite sender stops at LINK_BUFFER_MAX. */
  readonly bufferedBytes: number;

  /** No more `onMessage` until resumed (what was read already may still come); TCP then slows the peer down. */
  pauseReceiving(): void;
  resumeReceiving(): void;

  /**
   * Closes, and tells the peer why: behind what was sent, of which a stretch that has not left, and what is behind it, may be
   * lost; with CLOSE_TIMEOUT at once, without a word: who takes nothing cannot be told. From now on no ping of the peer is
   * answered. `reason` is cut to 123 bytes. No `onMessage` after this.
   */
  close(code: number, reason: string): void;

  /** The last measured round trip in milliseconds (0 before the first), of the ping behind whatever was queued. */
  readonly roundTripMs: number;
  /** Milliseconds since the newest ping was sent that the peer has answered: then it held this link. Infinity before the first. */
  readonly unprovenMs: number;
  /** Payload bytes of messages, both since the link was made. */
  readonly bytesSent: number;
  readonly bytesReceived: number;
}

/** Byte 1 of a header: a stretch follows. */
export const STRETCH_FOLLOWS = 0x80;

/** Why a link was closed: WebSocket close codes, the 4000s being ours. Stable: both ends of different versions read them. */
export const CLOSE_NORMAL = 1000;
/** The gateway stops; it may come back. */
export const CLOSE_GOING_AWAY = 1001;
/** What a WebSocket reports when the connection ended without a word; never sent. */
export const CLOSE_LOST = 1006;
export const CLOSE_PROTOCOL = 4001;
export const CLOSE_AUTH = 4002;
/** The two ends do not fit together (ids, sizes, generations, names); trying again soon will not help. */
export const CLOSE_REFUSED = 4003;
export const CLOSE_TIMEOUT = 4004;
/** A newer link from the same site took over. */
export const CLOSE_REPLACED = 4005;
/** The listener has a live link with another site; or so many are in the making that the oldest makes way. */
export const CLOSE_BUSY = 4006;

/** Longest reason a WebSocket close frame can carry, in bytes of UTF-8. */
export const CLOSE_REASON_MAX = 123;

/** What a close frame brought, for people and their terminals: it came from outside, and may be no text. */
export function heardReason(reason: Buffer): string {
  return fitReason(reason.toString().replace(/[\p{C}\p{Zl}\p{Zp}]/gu, '?'));
}

/** `reason` cut to what a close frame can carry, at a character. */
export function fitReason(reason: string): string {
  if (Buffer.byteLength(reason) <= CLOSE_REASON_MAX) return reason;
  let kept = '';
  let size = 3; // the ellipsis
  for (const character of reason) {
    size += Buffer.byteLength(character);
    if (size > CLOSE_REASON_MAX) break;
    kept += character;
  }
  return `${kept}…`;
}
