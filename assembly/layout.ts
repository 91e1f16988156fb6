/**
 * Where every byte of a record stands: one encoding for the ring, the journal's segments and the link.
 *
 * This file compiles under both compilers (AssemblyScript and TypeScript), so the kernels, their
 * plain-TypeScript twins and everything else read the same offsets. Constants only.
 *
 * A record is a header, its block checksums, its payload and zero padding up to RECORD_ALIGN.
 * All integers are little-endian.
 *
 *     offset size field
 *     0      8    check        XXH3-64 (seed 0) of bytes [8, HEADER_SIZE + 8 * checksums), XOR the group's record key
 *     8      4    size         of the whole record, padding included; a multiple of RECORD_ALIGN
 *     12     1    type         TYPE_*
 *     13     1    flags        FLAG_*
 *     14     2    volume       number of the volume in the group, 0 where the record is about none
 *     16     8    sequence     in the record's stream, from 1; 0 in BASE records
 *     24     8    seen         the peer's sequence received here when the scope was stamped
 *     32     8    clock        hybrid logical clock of the stamp, microseconds
 *     40     8    lba          first block
 *     48     8    scope        sequence of the scope's LOCK; its own sequence for a record that implies its lock
 *     56     4    generation   ordinal of the generation of the stamp
 *     60     4    session      host session within the site
 *     64     4    blockCount   blocks covered
 *     68     1    site         number of the writing site, 1..255
 *     69     1    blockShift   log2 of the block size in bytes (9..16); 0 where there is no payload
 *     70     2    format       RECORD_FORMAT
 *     72     8*n  checksums    XXH3-64 (seed 0) of each block; only in records with payload
 *     ..          payload      blockCount << blockShift bytes; only in records with payload
 *
 * The record key is a random number that a group has for good, the same at both sites, and hosts do not know. What a host
 * has written stands in the journal byte for byte, and is left in segments that are written over: without the key it could
 * write what looks like a record, of another volume, say, and wait for a crash that makes recovery read it there.
 *
 * A record is valid if and only if: size is a multiple of RECORD_ALIGN and equals what type, blockCount and
 * blockShift demand, format is RECORD_FORMAT, check matches, and (with payload) every block's XXH3-64 equals
 * its checksum. Padding is zero and not covered by any check: readers ignore it.
 *
 * Records with payload: WRITE, BASE, RELOCATED, and local records with LOCAL_PAYLOAD (SEGMENT), whose blocks
 * are 512 bytes (blockShift 9).
 *
 * A transaction is a run of WRITEs with FLAG_STAGED, each inside its scope, and a COMMIT; in their stream nothing stands
 * between them. COMMIT: scope = the transaction's first LOCK, blockCount = how many WRITEs. They show at the COMMIT, all
 * of them. A run that any other record of its stream follows was lost with its COMMIT, and never shows.
 *
 * Local records (type >= TYPE_LOCAL) never leave the site. They reuse header fields. In all of them sequence is the
 * position where the record stands and session the journal's own number (of its superblock): one that says otherwise
 * is a copy, or was left by another journal.
 *   MARK       lba = durable position known, seen = peer's sequence received, scope = peer's sequence applied
 *   RELOCATED  a block moved by the cleaner: lba, blockCount as the data; scope = position of the record it was
 *              copied from, seen = index of the first block in that record. Replay swings only pointers that still
 *              point there.
 *   PAD        fills the rest of a segment; only its header (80 bytes or more) is meaningful, size is the rest
 *   SEGMENT    first record of each segment
 *   TRUNCATED  peer's stream closed after sequence scope
 */

export const RECORD_FORMAT = 1;
export const HEADER_SIZE = 72;
export const RECORD_ALIGN = 16;
/** Smallest record: a header padded to RECORD_ALIGN. */
export const RECORD_SIZE_MIN = 80;

export const AT_CHECK = 0;
export const AT_SIZE = 8;
export const AT_TYPE = 12;
export const AT_FLAGS = 13;
export const AT_VOLUME = 14;
export const AT_SEQUENCE = 16;
export const AT_SEEN = 24;
export const AT_CLOCK = 32;
export const AT_LBA = 40;
export const AT_SCOPE = 48;
export const AT_GENERATION = 56;
export const AT_SESSION = 60;
export const AT_BLOCK_COUNT = 64;
export const AT_SITE = 68;
export const AT_BLOCK_SHIFT = 69;
export const AT_FORMAT = 70;
export const AT_CHECKSUMS = 72;

export const TYPE_LOCK = 1;
export const TYPE_WRITE = 2;
export const TYPE_ZERO = 3;
export const TYPE_TRIM = 4;
export const TYPE_UNLOCK = 5;
export const TYPE_FLUSH = 6;
export const TYPE_ABORT = 7;
export const TYPE_COMMIT = 8;
/** A live block of the source's image for a target without history; sequence is 0. */
export const TYPE_BASE = 16;
/** A hole of the source's image for a target without history; sequence is 0. */
export const TYPE_BASE_ZERO = 17;

export const TYPE_LOCAL = 128;
export const TYPE_SEGMENT = 128;
export const TYPE_PAD = 129;
export const TYPE_MARK = 130;
export const TYPE_RELOCATED = 131;
export const TYPE_TRUNCATED = 132;

/** The scope is lost whole on conflict instead of being replayed on top of the winner. */
export const FLAG_ABORT_ON_CONFLICT = 1;
/** On LOCK: a read lock (others neither read nor write). */
export const FLAG_READ_LOCK = 2;
/** On FLUSH: both sites pin a view of their image at exactly this sequence (for verify). */
export const FLAG_POINT = 4;
/** On WRITE: of a transaction, it shows at the COMMIT. */
export const FLAG_STAGED = 8;

/** Most blocks in one record: a map pointer keeps 10 bits for the index of a block in its record. */
export const RECORD_BLOCKS_MAX = 1024;
/** Most payload bytes in one record. */
export const RECORD_PAYLOAD_MAX = 1048576;
/** Largest record: payload, checksums, header, padded. */
export const RECORD_SIZE_MAX = 1056848;

/** Address of the record key of the group whose memory it is, 8 bytes; zero is none. Constants of the module begin at 1024. */
export const RECORD_KEY_AT = 512;

/** Addresses below this belong to the key and to constants of the Wasm module; the owner lays out memory above it. */
export const MEMORY_BASE = 65536;
