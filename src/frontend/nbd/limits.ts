/**
 * Bounds of the NBD front end that follow from how it is built; those that operators and peers meet are in src/limits.ts.
 */
import { assert } from '../../assert.js';
import { KIB, MIB, NBD_CONNECTIONS_MAX, NBD_PAYLOAD_MAX } from '../../limits.js';

/** Bytes of writes and reads in flight on one connection; a connection with nothing in flight may always start one request. */
export const CONNECTION_PENDING_MAX = 64 * MIB;
/**
 * The same over all connections of a server; of a payload, what has come of it. Worst case: this, and one payload more
 * for each connection, of which those that are gone count until their last request has settled. While those alone have as
 * much, a new connection waits with its first request.
 */
export const SERVER_PENDING_MAX = 512 * MIB;
/** Reply bytes that wait for a slow reader before its requests are no longer read. */
export const REPLY_BACKLOG_MAX = 8 * MIB;
/** Reply headers share slabs of this size; a slab is never written twice. */
export const REPLY_SLAB_SIZE = 16 * KIB;
/** All connections read into one buffer of this size: a client's requests of one turn come in few system calls. */
export const READ_SIZE = 256 * KIB;
/** A buffer in which a connection's payloads are put together is kept for the next one up to this size. */
export const GATHERED_KEPT_MAX = 1 * MIB;
/** What reads return stands in slabs of this size until it is sent; a larger read has memory of its own. */
export const READ_SLAB_SIZE = 256 * KIB;
/** Free slabs that a server keeps: what two dozen reads of 128 KiB take. */
export const READ_SLABS_KEPT_MAX = 12;
/** How long the next request of a client that waits for each reply is looked for: it takes 30 to 60 µs, asleep or not. */
export const BUSY_POLL_MS_MAX = 0.1;
/** What it waits for takes no longer than that, for looking to be worth it: of more, the 30 µs saved are too little. */
export const BUSY_POLL_ANSWER_MS_MAX = 0.5;
/** Had the event loop to sleep no longer for a client's next request, it was on its way when the last answers were sent. */
export const FOLLOWING_IDLE_MS_MAX = 0.02;
/** Answers kept for more of them, at most: beyond it a turn's price is spread well enough. */
export const ANSWERS_KEPT_MAX = 8;
/** In flight, for answers to be kept: while 8 wait, and a nap of 0.07 ms is taken, others must still be on their way. */
export const GATHERING_DEPTH_MIN = 28;
/** And as many bytes of them, about: what is read stays in the processor's cache until it is sent. */
export const REPLIES_KEPT_SIZE_MAX = 64 * KIB;
/** The thread sleeps to let requests come, as long as this takes no longer, on average … */
export const NAP_MS_MAX = 0.25;
/** … or does not for so long: where a sleep takes 15 ms, that is a sixtieth of the time. */
export const NAP_PAUSE_MS = 1000;
/** After the last reply, how long a client may take to hang up before it is cut off. */
export const LINGER_MS_MAX = 1000;
/** How long `close` and a revocation wait for requests in flight. */
export const DRAIN_MS_MAX = 10_000;

assert(CONNECTION_PENDING_MAX >= NBD_PAYLOAD_MAX, 'one request of the largest size fits');
assert(GATHERING_DEPTH_MIN > ANSWERS_KEPT_MAX, 'a client whose answers are kept has others to go on with');
assert(NBD_CONNECTIONS_MAX * NBD_PAYLOAD_MAX <= 4096 * MIB, 'worst case of held payloads stays below 5 GiB');
