/**
 * What a site remembers of a group besides its journal: two small files, written in turn.
 *
 *     superblock.a, superblock.b
 *
 *     FORELOCK SUPERBLOCK format=00001 revision=0000000000000042 size=00001234 xxh64=0123456789abcdef\n
 *     {"groupId":"…",
 *     "group":"…",
 *     …}
 *
 * The header line has a fixed length and fixed places, in every format to come. Numbers are decimal (padded with
 * zeroes), the hash is XXH64 (seed 0) in hexadecimal, over the header up to " xxh64=" and the payload after the line.
 * The payload is `size` bytes of JSON, as readable as a state file should be.
 *
 * A superblock is valid if and only if: the header line has exactly this shape, the file holds at least `size` bytes
 * behind it, `size` keeps the whole below SUPERBLOCK_SIZE_MAX, and the hash matches. Bytes behind the payload are
 * ignored: they are left from a longer one. The valid one with the highest revision counts. A save always goes over
 * the other one, so that a save that stops half-way leaves the one before it.
 *
 *     a \ b      | valid                    | damaged                    | absent
 *     valid      | the higher revision      | a, with a warning          | a
 *     damaged    | b, with a warning        | refuse: STATE_CORRUPT      | refuse: STATE_CORRUPT (*)
 *     absent     | b                        | refuse: STATE_CORRUPT (*)  | nothing here yet: null
 *
 * (*) but null, with a warning, where the directory holds nothing else: that is the very first save, torn, for no
 *     segment or map is made before that save is confirmed.
 * A valid header of a newer format: refuse, STATE_NEWER, whatever the other file says.
 */
import type { XXHashAPI } from 'xxhash-wasm';
import { z } from 'zod';
import { assert } from '../assert.js';
import { ForelockError } from '../errors.js';
import { GENERATIONS_MAX, GROUP_VOLUMES_MAX, SCOPES_MAX, SEGMENT_SIZE_MAX, SEGMENT_SIZE_MIN } from '../limits.js';
import type { Store } from './store.js';

/** 2 added the record key. */
export const SUPERBLOCK_FORMAT = 2;
/** Both files are read whole at open; hundreds of volumes, generations and SCOPES_MAX open scopes each way fit. */
export const SUPERBLOCK_SIZE_MAX = 1024 * 1024;

export const SUPERBLOCK_NAMES = ['superblock.a', 'superblock.b'] as const;

const MAGIC = 'FORELOCK SUPERBLOCK';
const HEADER = /^FORELOCK SUPERBLOCK format=(\d{5}) revision=(\d{16}) size=(\d{8}) xxh64=([0-9a-f]{16})\n$/;
const HEADER_BYTES =
  MAGIC.length + ' format=00001 revision=0000000000000042 size=00001234 xxh64=0123456789abcdef\n'.length;
const HASHED_BYTES = HEADER_BYTES - ' xxh64=0123456789abcdef\n'.length;

const count = z.number().int().nonnegative();
const site = z.number().int().min(1).max(255);
const name = z.string().min(1).max(255);
const id = z.string().min(1).max(64);

const isPowerOfTwo = (value: number): boolean => Number.isInteger(Math.log2(value));

const meeting = z.strictObject({ count, id: count });

const openScopes = z
  .array(z.strictObject({ sequence: count, flags: count, volume: count, lba: count, blockCount: count }))
  .max(SCOPES_MAX);

/** 64 bits in hexadecimal: see assembly/layout.ts. */
export const recordKey = z.string().regex(/^[0-9a-f]{16}$/);
/** Of groups that were made before there were keys. */
export const NO_RECORD_KEY = '0000000000000000';

const schema = z.strictObject({
  groupId: id,
  recordKey: recordKey.default(NO_RECORD_KEY),
  group: name,
  /** This site. */
  site: z.strictObject({ number: site, name }),
  sites: z.array(z.strictObject({ number: site, name })).max(255),
  volumes: z
    .array(
      z.strictObject({
        number: z.number().int().min(0).max(65535),
        name,
        /** Bytes. */
        size: count,
        blockSize: count,
        platter: z.enum(['journal', 'flat']),
        /** Of the image: flat platters only. */
        path: z.string().max(4096).exactOptional(),
      }),
    )
    .max(GROUP_VOLUMES_MAX),
  segmentSize: count.min(SEGMENT_SIZE_MIN).max(SEGMENT_SIZE_MAX).refine(isPowerOfTwo, 'no power of two'),
  /** In every local record of this journal, and of no other. */
  journalId: z.number().int().min(1).max(0xffffffff),
  /** A sync failed: nothing that is found from this position on is known to be on the disk. */
  suspectFrom: count.nullable(),
  generations: z
    .array(
      z.strictObject({
        ordinal: count,
        id,
        parent: id.nullable(),
        /** Number of the site that minted it. */
        minter: site,
        /** Last sequence of each site's stream before it. */
        ends: z.record(z.string().regex(/^\d{1,3}$/), count),
      }),
    )
    .max(GENERATIONS_MAX),
  /** How often this site's state was opened. */
  incarnation: count,
  /** By site number: what is remembered of the peer. */
  peers: z.record(z.string().regex(/^\d{1,3}$/), z.strictObject({ durable: count })),
  /**
   * By site number, of every peer there ever was: the last meeting that both wrote down, and the one after it, which the
   * peer may have written down.
   */
  met: z.record(
    z.string().regex(/^\d{1,3}$/),
    z.strictObject({ last: meeting.nullable(), offered: meeting.nullable() }),
  ),
  role: z.enum(['primary', 'standby', 'dual']),
  /** Stopped in order. Cleared before serving. */
  clean: z.boolean(),
  /** Answers were lowered from this sequence on, and the peer has not caught up. */
  degradedSince: count.nullable(),
  /** Last sequence before the peer's stream as this site has it: where a base copy began, kept for good; else 0. */
  streamStart: count.default(0),
  /**
   * Where both sites write, and the peer went on alone: so much of its stream was applied here when this site served again,
   * and nobody is served with less. Null before that: first all that it has answered is applied.
   */
  peerAlone: count.nullable().default(0),
  /** Where both sites write: the `--when-split` on which both have agreed (volume/split.ts); null: on none. */
  whenSplit: z.string().max(4096).nullable().default(null),
  /** A base copy was begun here once: the image has blocks that no stream wrote. */
  imported: z.boolean(),
  /** A resync past the journal is unfinished. */
  inconsistent: z
    .strictObject({
      /** Site number of the source, and its newest generation when the copy began. */
      source: site,
      generation: id,
      base: z.strictObject({ volume: count, lba: count }),
      /** Journal position where it began: base records before that are of an earlier copy. */
      begunAt: count,
      startSequence: count,
      untilSequence: count.nullable(),
    })
    .nullable(),
  checkpoint: z.strictObject({
    /** Number of the map file, 0 where there is none yet, and where its last checkpoint ends. */
    mapFile: count,
    mapEnd: count,
    /** Journal position from which recovery replays. */
    position: count,
    /** Everything before this one was durable when this was saved. */
    durable: count,
    /** Cursors at that position. */
    own: count,
    /** `site` is the number of the stream's author, 0 where there is none. */
    peer: z.strictObject({ site: count, received: count, applied: count }),
    /** Explicit scopes that were open then, of the peer's stream and of this site's. */
    openScopes: openScopes.default([]),
    ownScopes: openScopes.default([]),
    clock: count,
    /** Where both sites write: what the order of their scopes needs of the time before `position`. */
    order: z
      .strictObject({
        settled: z.strictObject({ through: count, applied: count, peerFrom: count }),
        conflicts: z.strictObject({
          appended: count,
          closedThrough: count,
          received: count,
          applied: count,
          dead: z.array(count),
          cascades: z.array(z.tuple([count, count])),
          bareMayDieThrough: count.nullable().default(null),
        }),
      })
      .nullable()
      .default(null),
  }),
});

export type Superblock = z.infer<typeof schema>;
export type OrderState = NonNullable<Superblock['checkpoint']['order']>;

interface Candidate {
  name: string;
  revision: number;
  payload: Uint8Array;
}

interface Save {
  payload: Uint8Array;
  done: ((error: Error | null) => void)[];
}

export class SuperblockFiles {
  readonly #store: Store;
  readonly #hash: XXHashAPI;
  #revision = 0;
  /** Of SUPERBLOCK_NAMES: where the newest valid one is not. */
  #next = 0;
  #saving: Save | null = null;
  #waiting: Save | null = null;
  /** Set by `load` when one of the two files was damaged and the other one counted. */
  warning: string | null = null;
  readonly counters = { saves: 0, coalesced: 0 };

  constructor(store: Store, hash: XXHashAPI) {
    this.#store = store;
    this.#hash = hash;
  }

  get revision(): number {
    return this.#revision;
  }

  /**
   * Reads the newest valid superblock; null if there is none yet. Before the first save, at open only.
   * @throws ForelockError STATE_CORRUPT, STATE_NEWER
   */
  load(): Superblock | null {
    assert(this.#saving === null, 'loading is for opening');
    this.warning = null;
    const damaged: string[] = [];
    let best: Candidate | null = null;
    let absent = 0;
    for (const name of SUPERBLOCK_NAMES) {
      const bytes = this.#store.load(name);
      if (bytes === null) {
        absent++;
        continue;
      }
      const candidate = this.#decode(name, bytes);
      if (candidate === null) damaged.push(name);
      else if (best === null || candidate.revision > best.revision) best = candidate;
    }
    if (best === null) {
      if (absent === SUPERBLOCK_NAMES.length) return null;
      if (absent > 0 && !this.#store.list().some(isState)) {
        this.warning = `${damaged[0]} is damaged and nothing else is here: the first save did not finish`;
        return null;
      }
      throw new ForelockError(
        'STATE_CORRUPT',
        `${damaged.join(' and ')} damaged and no other superblock: restore the state directory from a backup, or, if ` +
          'the peer is whole, move the directory away and let this site be filled from the peer',
      );
    }
    if (damaged.length > 0) {
      this.warning = `${damaged[0]} is damaged (a save that did not finish, or rot); ${best.name}, revision ${best.revision}, counts`;
    }
    this.#revision = best.revision;
    this.#next = best.name === SUPERBLOCK_NAMES[0] ? 1 : 0;
    return this.#parse(best);
  }

  /**
   * Writes the superblock as it is now, over the older of the two files, and syncs it. One save is under way at a
   * time: of those that come meanwhile only the last is written, and answers all of them.
   */
  save(superblock: Superblock, done: (error: Error | null) => void): void {
    const payload = new TextEncoder().encode(serialize(superblock));
    assert(schema.safeParse(superblock).success, 'what is saved can be loaded');
    if (HEADER_BYTES + payload.length > SUPERBLOCK_SIZE_MAX) {
      const error = new ForelockError(
        'CONFIG',
        `the group's superblock would be ${HEADER_BYTES + payload.length} bytes, above the ${SUPERBLOCK_SIZE_MAX} allowed: ` +
          'fewer volumes, shorter names or shorter image paths',
      );
      queueMicrotask(() => done(error));
      return;
    }
    if (this.#waiting !== null) {
      this.#waiting.payload = payload;
      this.#waiting.done.push(done);
      this.counters.coalesced++;
      return;
    }
    this.#waiting = { payload, done: [done] };
    if (this.#saving === null) this.#saveNext();
  }

  /** The disk has yet to answer. */
  get isSaving(): boolean {
    return this.#saving !== null;
  }

  #saveNext(): void {
    const save = this.#waiting;
    if (save === null) return;
    this.#waiting = null;
    this.#saving = save;
    this.#revision++;
    this.counters.saves++;
    const bytes = encode(save.payload, this.#revision, this.#hash);
    this.#store.save(SUPERBLOCK_NAMES[this.#next], bytes, (error) => {
      // After an error the file may hold anything: the next save goes over it, not over the good one.
      if (error === null) this.#next = 1 - this.#next;
      this.#saving = null;
      this.#saveNext();
      for (const done of save.done) done(error);
    });
  }

  /** The file's payload if it is valid, else null. */
  #decode(name: string, bytes: Uint8Array): Candidate | null {
    if (bytes.length < HEADER_BYTES) return null;
    const header = HEADER.exec(Buffer.from(bytes.buffer, bytes.byteOffset, HEADER_BYTES).toString('latin1'));
    if (header === null) return null;
    const size = Number(header[3]);
    if (HEADER_BYTES + size > SUPERBLOCK_SIZE_MAX || HEADER_BYTES + size > bytes.length) return null;
    const payload = bytes.slice(HEADER_BYTES, HEADER_BYTES + size);
    if (hashOf(bytes.subarray(0, HASHED_BYTES), payload, this.#hash) !== header[4]) return null;
    const format = Number(header[1]);
    if (format > SUPERBLOCK_FORMAT) {
      throw new ForelockError(
        'STATE_NEWER',
        `${name} has format ${format}, this version reads up to ${SUPERBLOCK_FORMAT}: run the version that wrote it`,
      );
    }
    const revision = Number(header[2]);
    return Number.isSafeInteger(revision) ? { name, revision, payload } : null;
  }

  #parse(candidate: Candidate): Superblock {
    let json: unknown;
    try {
      json = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(candidate.payload));
    } catch (cause) {
      throw new ForelockError('STATE_CORRUPT', `${candidate.name} is intact but not JSON: a bug wrote it`, { cause });
    }
    const parsed = schema.safeParse(json);
    if (parsed.success) return parsed.data;
    const issue = parsed.error.issues[0];
    throw new ForelockError(
      'STATE_CORRUPT',
      `${candidate.name} is intact but ${issue.path.join('.')}: ${issue.message}: a bug wrote it`,
    );
  }
}

/** A file that holds what could be lost: neither a superblock nor the directory's lock. */
const isState = (name: string): boolean => !name.startsWith('superblock.') && !name.startsWith('lock');

/** JSON with a line per field. */
function serialize(superblock: Superblock): string {
  const lines = Object.entries(superblock).map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`);
  return `{${lines.join(',\n')}}\n`;
}

function hashOf(head: Uint8Array, payload: Uint8Array, hash: XXHashAPI): string {
  return hash.create64().update(head).update(payload).digest().toString(16).padStart(16, '0');
}

function encode(payload: Uint8Array, revision: number, hash: XXHashAPI): Uint8Array {
  const format = SUPERBLOCK_FORMAT.toString().padStart(5, '0');
  const size = payload.length.toString().padStart(8, '0');
  const head = `${MAGIC} format=${format} revision=${revision.toString().padStart(16, '0')} size=${size}`;
  const headBytes = new TextEncoder().encode(head);
  const xxh64 = hashOf(headBytes, payload, hash);
  const bytes = new Uint8Array(HEADER_BYTES + payload.length);
  bytes.set(headBytes, 0);
  bytes.set(new TextEncoder().encode(` xxh64=${xxh64}\n`), headBytes.length);
  bytes.set(payload, HEADER_BYTES);
  return bytes;
}
