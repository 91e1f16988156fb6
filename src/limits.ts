/**
 * Everything that a peer, a host or a file can make grow, with its reason. How limits relate is asserted at the end.
 */
import { RECORD_BLOCKS_MAX, RECORD_PAYLOAD_MAX, RECORD_SIZE_MAX } from '../assembly/layout.js';
import { assert } from './assert.js';

export const KIB = 1024;
export const MIB = 1024 * KIB;
export const GIB = 1024 * MIB;
export const TIB = 1024 * GIB;

// ---- volumes and groups
export const BLOCK_SIZE_DEFAULT = 4096;
export const BLOCK_SIZE_MIN = 512;
export const BLOCK_SIZE_MAX = 65536;
/** A map page table of 4 bytes per 128 blocks stays below 128 MiB. */
export const VOLUME_SIZE_MAX = 16 * TIB;
/** Volume numbers are u16 in a record; a group of hundreds is a configuration error. */
export const GROUP_VOLUMES_MAX = 256;
/** Groups of one gateway: each has a thread, a ring and its files. */
export const GROUPS_MAX = 64;
/** Of a group's history: each is one failover. The eldest are dropped by who mints; a peer that tells more is refused. */
export const GENERATIONS_MAX = 64;

/** Streams of which a generation says where they ended at its minter: its own and its peer's. */
export const GENERATION_ENDS_MAX = 2;
/**
 * Records that a peer may have appended beyond what it has said: it says so with each frame, and once a second. Be they
 * as small as they can, these are 1.2 GiB: more than any credit.
 */
export const PEER_AHEAD_MAX = 1 << 24;

// ---- what counts on for ever, and a peer may say. Nobody counts so far; of who says more nothing is taken over, or there
// would be no number left for what follows
/** Links that a site has had since it was started; a new one is counted above both sites'. Ten a second are seven years. */
export const EPOCH_MAX = 2 ** 31;
/** Meetings of two sites. Of any use is which is newer, in what is told to a person: it stays at this. */
export const MEETINGS_MAX = 2 ** 31;
/** Generations of a group, ever; a record has 32 bits for it. */
export const GENERATION_ORDINAL_MAX = 2 ** 31;
/** A stamp's clock, microseconds since 1970: of the year 2112. Each record that follows it adds at least one; 2^53 is the end. */
export const CLOCK_MAX = 2 ** 52;
/** A clock of this site's own that is set beyond it counts as this: its stamps are not refused for it. */
export const CLOCK_OWN_MAX = CLOCK_MAX - 2 ** 48;

// ---- journal
export const RING_SIZE_DEFAULT = 64 * MIB;
export const RING_SIZE_MIN = 4 * MIB;
export const RING_SIZE_MAX = 1 * GIB;
/** One shared WebAssembly memory holds ring, lock tables and scratch of a group: its addresses have 32 bits. */
export const GROUP_MEMORY_MAX = 4 * GIB;
/** Memory that a group keeps for payloads that wait for room in the ring: what a few connections with large requests need. */
export const PAYLOAD_SPARES_SIZE_MAX = 8 * MIB;
export const SEGMENT_SIZE_MAX = 64 * MIB; // a map pointer's low word spans exactly this much
/** Files of freed segments that are kept to be written over: about what a checkpoint frees at once. */
export const SPARE_SEGMENTS_MAX = 12;
export const SEGMENT_SIZE_MIN = 4 * MIB; // the pad at a segment's end (below one record) stays small beside it
/** Fewest segments a journal may have: one being written, one being cleaned, headroom to move. */
export const JOURNAL_SEGMENTS_MIN = 8;
/**
 * Where both sites write, this part of the journal, an eighth, is kept free for what the other sends, and the other is
 * promised no more. It bounds what may be under way, and what one site can be ahead of the other: an eighth of the
 * default, twice the volumes' size and four segments, is 160 MB/s at 100 ms for the smallest, and leaves hosts the rest.
 */
export const PEER_ROOM_SHARE = 8;
/** Smaller reads are copied to the receiver: that costs less than the way back of what is lent. */
export const LEND_SIZE_MIN = 32 * KIB;
/** Most bytes handed to one disk append: bounds the time until a flush that waits behind it is looked at. */
export const APPEND_SIZE_MAX = 4 * MIB;
/** Without a flush, data is synced this often, so that trimming and recovery keep up. */
export const SYNC_INTERVAL_MS = 1000;
/** A full disk is tried again this often, and when a segment was freed: what hosts notice when somebody has made room. */
export const FULL_DISK_RETRY_MS = 250;
/**
 * A flat image that could not be written is tried again after this, what a short fault takes to be over, and twice as long
 * each time: a round writes all of it again.
 */
export const IMAGE_RETRY_MS_MIN = 250;
/** What hosts that got ENOSPC notice at most when the image has been mended. */
export const IMAGE_RETRY_MS_MAX = 5000;
/** A segment that the cleaner could not read is tried again after this, what a short fault takes, and twice as long each time. */
export const SEGMENT_READ_RETRY_MS = 250;
/** … until it was refused so often, within four seconds: hosts may be waiting for what it would make room for. */
export const SEGMENT_READS_MAX = 5;
/**
 * Most that a round writes into a flat image, or looks at for zeroes, before it syncs and lets go of it: hosts may wait for the
 * room, and that takes part of a second. With less the syncs would be what takes the time. A multiple of BLOCK_SIZE_MAX.
 */
export const IMAGE_ROUND_SIZE_MAX = 64 * MIB;
export const SYNC_BYTES_MAX = 64 * MIB;
/** A synced write of at most this size may be made on the group's own thread (journal/quick-sync.ts): one request's. */
export const SYNC_HERE_SIZE_MAX = 32 * KIB;
/** … if it takes no longer than this on average: everybody else waits as long. */
export const SYNC_HERE_MS_MAX = 1;
/** Recovery replays at most about this much journal after the last checkpoint: it takes less than a second. */
export const CHECKPOINT_STRETCH_MAX = 768 * MIB;

// ---- locks
export const LOCK_WAIT_MS_MAX = 30_000;
/** Waiters per volume: a request beyond it is refused instead of queued. */
export const LOCK_WAITERS_MAX = 4096;
/** Explicit scopes open at once per group. */
export const SCOPES_MAX = 4096;
/** Longest life of an explicit scope: where both sites write, an open one may hold up all that the other site sends. */
export const SCOPE_AGE_MS_MAX = 60_000;

/** Scopes of the peer that are received and not applied, where both sites write: beyond it no more is taken from the link. */
export const PENDING_SCOPES_MAX = 1 << 18;
/**
 * Dead scopes of the peer that end between two checkpoints, where both sites write: the superblock, of 1 MiB at most, names
 * those that a replay meets again.
 */
export const DEAD_SCOPES_MAX = 1 << 16;

// ---- transactions
/**
 * Journal records of one transaction. Its site keeps them in memory until the commit and then needs that much room at
 * once (an eighth of the ring, at most); the other keeps its journal from the first of them on until the COMMIT is
 * there, and must not be full by then.
 */
export const TRANSACTION_BYTES_MAX = 8 * MIB;
/** Records of one transaction: both sites hold a pointer to each. */
export const TRANSACTION_WRITES_MAX = 4096;
/** Locks of one transaction; the time that it may take is that of its oldest lock. */
export const TRANSACTION_LOCKS_MAX = 256;
/** Open at once per group: what they keep in memory stays below 512 MiB. */
export const TRANSACTIONS_MAX = 64;

// ---- link
/** 1 GB/s x 200 ms is 200 MB in flight. */
export const CREDIT_BYTES = 256 * MIB;
export const FRAME_SIZE_MAX = 256 * KIB;
/** The largest message a link accepts: a frame may hold one record larger than FRAME_SIZE_MAX. */
export const MESSAGE_SIZE_MAX = 2 * MIB;
/** Control messages (JSON): handshakes with 256 volumes fit ten times. */
export const CONTROL_SIZE_MAX = 256 * KIB;
/**
 * Most journal that a target drops for a rejection (what is more stays, and waits): recovery applies what is newer than
 * this only when it knows that nothing drops it. A frame, even of the largest record, is half of it.
 */
export const DROP_BYTES_MAX = 2 * MESSAGE_SIZE_MAX;
/** Bytes queued in the socket's user-space buffer; more only delays a NAK's go-back. */
export const LINK_BUFFER_MAX = 8 * MIB;
export const LINK_HANDSHAKE_MS_MAX = 10_000;
/** The same while many are at it: it takes three round trips, and who proves nothing holds its place for less. */
export const LINK_HANDSHAKE_BUSY_MS_MAX = 2500;
export const HEARTBEAT_MS = 1000;
export const PEER_SILENT_MS_MAX = 8000;
export const RECONNECT_MS_MIN = 100;
export const RECONNECT_MS_MAX = 5000;
/** Connections of a listener that have proved nothing yet, before HTTP is over, and behind it: then the oldest makes way. */
export const LINKS_PENDING_MAX = 16;
/** WebSockets of a listener, closing ones included: who makes way is gone as soon as it was told. */
export const LINK_SOCKETS_MAX = 64;
/**
 * Lines of a group about its link in any minute, and reasons that are known to have been told: whoever reaches a listener can make
 * it say why a connection was refused, in ever other words. What still holds when there is room again is told then.
 */
export const LINK_LINES_MAX = 16;
/** How long a source that stopped uncleanly waits for its peer to return the lost tail before it serves alone. */
export const LOST_TAIL_WAIT_MS = 10_000;
/** How long hosts of a frozen group are held before they are told: a short cut is ridden out, a long one is not hidden. */
export const FREEZE_HOLD_MS = 30_000;

/** With a full journal that is kept for the peer, views are dropped once it has taken nothing for so long. */
export const VIEW_STALL_MS = 2000;
/** Bytes of data in one digest of a verify: what a question may take in memory. Holes are compared in far larger runs. */
export const VERIFY_CHUNK_SIZE = 4 * MIB;
/** Blocks in one question of a verify: of 4 KiB they are 64 GiB, all hole where it is asked. */
export const VERIFY_BLOCKS_MAX = 2 ** 24;
/** Questions of a verify that are under way at once: hides the round trip. */
export const VERIFY_QUESTIONS_MAX = 8;
/**
 * Questions of this site's that the peer has not answered. A verify takes eight and one more at its end, and another may
 * take its place, but at a standby each is one question to the primary for as long as it takes.
 */
export const ASKS_MAX = 32;
/** The same of the peer's. Those of a link that broke may still be at work: all their chunks are as much as the credit. */
export const PEER_ASKS_MAX = 64;
/** A verify ends when the other site has got no further for so long: it could not tell. A lock there may take less. */
export const VERIFY_STALL_MS = 1.5 * LOCK_WAIT_MS_MAX;
/** How long the preferred site of a split waits before it goes on alone: the other has to have stopped by then. */
export const SPLIT_WAIT_MS = 2 * PEER_SILENT_MS_MAX;
/**
 * So long the other serves after it sent a ping that was answered, whatever else it believes of the link. The wait began no
 * earlier than that ping was sent, and the clocks of the two may differ by a quarter.
 */
export const SPLIT_LEASE_MS = 1.5 * PEER_SILENT_MS_MAX;
/**
 * A peer that holds its link gets on within this, be it by one cursor: one with a slow disk takes or syncs something every
 * second or two. Less than FREEZE_HOLD_MS, so that whom it holds up in a frozen group can still be served without it.
 */
export const PEER_STALL_MS = 25_000;
/** So long the links of one that did not are refused, twice as long each time: who waits to go on alone must be able to. */
export const SHUN_MS_MIN = SPLIT_WAIT_MS + 4000;
export const SHUN_MS_MAX = 300_000;
/** Pings that wait for their answer; older ones are forgotten. */
export const PINGS_MAX = 16;

// ---- NBD
export const NBD_STRING_MAX = 4096; // proto.md: strings
export const NBD_OPTION_SIZE_MAX = 64 * KIB;
export const NBD_OPTIONS_MAX = 64; // options one client may send while it negotiates
export const NBD_HANDSHAKE_MS_MAX = 10_000;
export const NBD_CONNECTIONS_MAX = 128;
export const NBD_PAYLOAD_MAX = 32 * MIB; // proto.md: payload every server should take
/**
 * So long a payload may take to come, and up to twice as long: on a line of 5 Mbit/s the largest does. Who stalls in the
 * middle of one holds what has come of it, and a few could hold all that a server has for everybody.
 */
export const NBD_PAYLOAD_MS_MAX = 60_000;
export const NBD_REQUESTS_MAX = 256; // requests in flight on one connection
export const NBD_EXTENTS_MAX = 1 << 16; // extents in one BLOCK_STATUS reply

// ---- shaper, for demonstrations and tests
export const LINK_RTT_MS_MAX = 60_000; // the link's own timeouts are shorter: a typing error

// ---- control API
export const CONTROL_BODY_MAX = 64 * KIB;
/** Answers are bounded by what a gateway has volumes and groups; this is against something that is no gateway. */
export const CONTROL_ANSWER_MAX = 16 * MIB;
/**
 * So long the status may take, of which a gateway has all in memory, and any sign of life: one that stands still (a debugger,
 * SIGSTOP, a disk that hangs its thread) would leave who looks at it before an old picture, or none, and who waits for a verify
 * or a lock waiting for ever.
 */
export const STATUS_MS_MAX = 5000;
/** Locks held over the API at once; each holds a connection. */
export const CONTROL_LOCKS_MAX = 256;
/** A `forelock lock` may be longer than any lease of the gateway; this is against typing errors. */
export const HOLD_SECONDS_MAX = 24 * 3600;

assert(RECORD_SIZE_MAX <= SEGMENT_SIZE_MIN / 2, 'a record fits a segment');
assert(RECORD_SIZE_MAX <= MESSAGE_SIZE_MAX, 'a record fits a message');
assert(RECORD_BLOCKS_MAX * BLOCK_SIZE_MIN <= RECORD_PAYLOAD_MAX, 'block count and payload limits agree');
assert(CREDIT_BYTES >= 200e6, '1 GB/s x 200 ms');
assert(
  2 * TRANSACTION_BYTES_MAX <= (JOURNAL_SEGMENTS_MIN - 4) * SEGMENT_SIZE_MIN,
  'the smallest journal holds a transaction, twice, beside what is kept free for its cleaner and two segments begun',
);
assert(
  2 * RECORD_SIZE_MAX <= (JOURNAL_SEGMENTS_MIN * SEGMENT_SIZE_MIN) / PEER_ROOM_SHARE,
  'the smallest journal promises room for the largest record',
);
assert(VERIFY_STALL_MS > LOCK_WAIT_MS_MAX, 'a verify waits as long as the mirror may wait for a lock');
assert(2 * (VERIFY_QUESTIONS_MAX + 1) <= ASKS_MAX, 'a verify may take the place of another');
assert(2 * ASKS_MAX <= PEER_ASKS_MAX, 'who asks again on a new link is not refused for what it asked on the last');
assert(PEER_ASKS_MAX * VERIFY_CHUNK_SIZE <= CREDIT_BYTES, 'questions take no more memory than records may');
assert(SPLIT_LEASE_MS <= 0.75 * SPLIT_WAIT_MS, 'who is not preferred has stopped before the other goes on alone');
assert(
  PEER_STALL_MS < FREEZE_HOLD_MS,
  'who is held because of a peer that does not get on is not told before it is served',
);
assert(SHUN_MS_MIN > SPLIT_WAIT_MS && SHUN_MS_MAX >= SHUN_MS_MIN, 'who refuses links has the time to go on alone');
assert(PINGS_MAX * HEARTBEAT_MS > SPLIT_LEASE_MS, 'an answer counts as long as it could prolong a lease');
assert(TRANSACTION_LOCKS_MAX <= SCOPES_MAX, 'a transaction may have its locks');
assert(2 * CLOCK_MAX <= 2 ** 53, 'who has taken the latest stamp has as many more to give');
assert(RING_SIZE_MIN >= SEGMENT_SIZE_MIN, 'a ring holds a segment');
