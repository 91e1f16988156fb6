/**
 * `forelock log`: prints a journal, record by record, and says what is wrong with it. Opens read-only, takes no lock,
 * and may run beside the gateway. Every record is judged by the reference kernel, which shares no code with the one
 * that wrote it.
 *
 * What a record that does not check is:
 *
 *     found                                                            verdict
 *     a PAD, whose body is never written                               the segment's end
 *     at the journal's end, nothing behind it says that it was durable torn: a write that was cut off, or is under way
 *     a MARK behind it, or the superblock's checkpoint, lies beyond    damaged: it was once whole
 *     a gap in a stream's sequences between neighbours                 damaged
 *     a segment that is missing at or beyond the checkpoint            damaged
 *     a segment that cannot be read, or is no file                     damaged
 *
 * A TRUNCATED takes the peer's stream back to an earlier end; what it had behind that comes again.
 *
 * Behind damage the walk goes on at the next record that checks.
 */
import { closeSync, constants, fstatSync, openSync, readdirSync, readFileSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { XXHashAPI } from 'xxhash-wasm';
import * as layout from '../../assembly/layout.js';
import { ForelockError } from '../errors.js';
import { hasPayload, RecordHeader } from '../journal/record.js';
import { parseSegmentHead, SEGMENT_RECORD_SIZE } from '../journal/segment-head.js';
import { segmentName } from '../journal/segments.js';
import type { Store } from '../journal/store.js';
import { SUPERBLOCK_NAMES, type Superblock, SuperblockFiles } from '../journal/superblock.js';
import { GroupMemory, type Region } from '../kernel/memory.js';
import { ReferenceKernel } from '../kernel/reference/kernel.js';
import { SEGMENT_SIZE_MAX, SEGMENT_SIZE_MIN } from '../limits.js';
import { formatSize } from '../units.js';

/** A FIFO would wait for somebody who writes. */
const READ_FLAGS = constants.O_RDONLY | constants.O_NONBLOCK;

export const LOG_SCHEMA = 1;

const TYPE_NAMES = new Map<number, string>([
  [layout.TYPE_LOCK, 'LOCK'],
  [layout.TYPE_WRITE, 'WRITE'],
  [layout.TYPE_ZERO, 'ZERO'],
  [layout.TYPE_TRIM, 'TRIM'],
  [layout.TYPE_UNLOCK, 'UNLOCK'],
  [layout.TYPE_FLUSH, 'FLUSH'],
  [layout.TYPE_ABORT, 'ABORT'],
  [layout.TYPE_COMMIT, 'COMMIT'],
  [layout.TYPE_BASE, 'BASE'],
  [layout.TYPE_BASE_ZERO, 'BASE_ZERO'],
  [layout.TYPE_SEGMENT, 'SEGMENT'],
  [layout.TYPE_PAD, 'PAD'],
  [layout.TYPE_MARK, 'MARK'],
  [layout.TYPE_RELOCATED, 'RELOCATED'],
  [layout.TYPE_TRUNCATED, 'TRUNCATED'],
]);

export interface JournalEvent {
  kind: 'journal';
  schema: typeof LOG_SCHEMA;
  directory: string;
  group: string | null;
  site: string | null;
  segmentSize: number;
  segments: number;
  /** Names of volumes by number, as far as the superblock tells. */
  volumes: Record<string, string>;
  checkpointPosition: number | null;
}

export interface RecordEvent {
  kind: 'record';
  /** Byte on the journal's line, and where that is. */
  position: number;
  segment: number;
  offset: number;
  size: number;
  type: string;
  stream: 'own' | 'peer' | 'local';
  site: number;
  sequence: number;
  seen: number;
  clock: number;
  scope: number;
  generation: number;
  session: number;
  volume: number;
  lba: number;
  blockCount: number;
  blockSize: number;
  flags: string[];
}

export interface ProblemEvent {
  kind: 'problem';
  severity: 'note' | 'torn' | 'damaged';
  segment: number | null;
  offset: number;
  /** Bytes that could not be read as records. */
  size: number;
  message: string;
}

export interface EndEvent {
  kind: 'end';
  records: number;
  bytes: number;
  /** Last sequence seen of each stream. */
  own: number;
  peer: number;
  /** Highest position known to be durable. */
  durable: number;
  damaged: number;
  torn: number;
}

export type LogEvent = JournalEvent | RecordEvent | ProblemEvent | EndEvent;

/**
 * The folders with a journal in or directly below `directory`: a state directory has one for each group.
 * @param note  is told what cannot be read
 * @throws ForelockError USAGE if there is none
 */
export function findJournals(directory: string, note: (text: string) => void): string[] {
  let entries: string[];
  try {
    entries = readdirSync(directory);
  } catch (error) {
    throw new ForelockError('USAGE', `${directory} cannot be read: ${(error as Error).message}`);
  }
  if (isJournal(entries)) return [directory];
  const below = entries.map((name) => join(directory, name)).filter((path) => isFolder(path, note));
  const found = below.filter((path) => isJournal(namesIn(path, note))).sort();
  if (found.length === 0) {
    throw new ForelockError(
      'USAGE',
      `${directory} holds no journal: give a gateway's state directory (what serve --state names)`,
    );
  }
  return found;
}

/** A link to itself, or into what may not be read, is of somebody else, too. */
function isFolder(path: string, note: (text: string) => void): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
  } catch (error) {
    note(`${path} is left out: ${(error as Error).message}`);
    return false;
  }
}

/** None of a folder that may not be read, such as `lost+found`: it is of somebody else. */
function namesIn(path: string, note: (text: string) => void): string[] {
  try {
    return readdirSync(path);
  } catch (error) {
    note(`${path} is left out: ${(error as Error).message}`);
    return [];
  }
}

function isJournal(names: readonly string[]): boolean {
  return names.some(
    (name) => /^segment-\d{10}\.log$/.test(name) || (SUPERBLOCK_NAMES as readonly string[]).includes(name),
  );
}

/** Only what reading a superblock needs of a Store: no lock, no writing. */
export function readOnlyStore(directory: string): Store {
  const refuse = (): never => {
    throw new Error('opened read-only');
  };
  return {
    list: () => readdirSync(directory).sort(),
    load(name) {
      try {
        const fd = openSync(join(directory, name), READ_FLAGS);
        try {
          return readFileSync(fd);
        } finally {
          closeSync(fd);
        }
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
        throw error;
      }
    },
    save: refuse,
    open: refuse,
    remove: refuse,
    free: refuse,
    syncDirectory: refuse,
  };
}

interface Bad {
  segment: number;
  offset: number;
  size: number;
  message: string;
}

/** Walks one journal. Memory: one segment. */
export class JournalWalk {
  readonly #directory: string;
  readonly #hash: XXHashAPI;
  readonly #memory = new GroupMemory(SEGMENT_SIZE_MAX + 2 * layout.MEMORY_BASE);
  readonly #at: number;
  readonly #digest: Region;
  readonly #kernel: ReferenceKernel;
  readonly #header = new RecordHeader();
  #superblock: Superblock | null = null;
  #segmentSize = SEGMENT_SIZE_MAX;
  #ownSite = 0;
  /** Last sequence by site; forgotten where something is missing. */
  readonly #last = new Map<number, number>();
  /** Highest sequence by site. */
  readonly #highest = new Map<number, number>();
  readonly #bad: Bad[] = [];
  #records = 0;
  #bytes = 0;
  #durable = 0;
  #damaged = 0;
  #torn = 0;

  constructor(directory: string, hash: XXHashAPI) {
    this.#directory = directory;
    this.#hash = hash;
    this.#kernel = new ReferenceKernel(this.#memory);
    this.#at = this.#memory.take(SEGMENT_SIZE_MAX).at;
    this.#digest = this.#memory.take(8);
  }

  *events(): Generator<LogEvent, void> {
    const store = readOnlyStore(this.#directory);
    const problems = this.#readSuperblock(store);
    const numbers = numbersIn(store.list());
    this.#segmentSize = this.#superblock?.segmentSize ?? this.#inferSegmentSize(numbers);
    yield this.#heading(numbers.length);
    yield* problems;

    const checkpoint = this.#superblock?.checkpoint.position ?? 0;
    this.#durable = checkpoint;
    let expected = numbers.length > 0 ? Math.min(numbers[0]!, Math.floor(checkpoint / this.#segmentSize)) : 0;
    if (checkpoint % this.#segmentSize === 0) expected = Math.max(expected, numbers[0] ?? 0);
    for (const number of numbers) {
      if (number > expected) {
        this.#last.clear();
        const isNeeded = number * this.#segmentSize > checkpoint && this.#superblock !== null;
        const missing =
          number - expected === 1
            ? `${segmentName(expected)} is missing`
            : `${segmentName(expected)} to ${segmentName(number - 1)} are missing`;
        if (isNeeded)
          this.#bad.push({
            segment: expected,
            offset: 0,
            size: 0,
            message: `${missing}, and the checkpoint lies before it`,
          });
        else
          yield {
            kind: 'problem',
            severity: 'note',
            segment: expected,
            offset: 0,
            size: 0,
            message: `${missing}: freed by the cleaner`,
          };
      }
      expected = number + 1;
      yield* this.#segment(number);
      yield* this.#judge(false);
    }
    yield* this.#judge(true);
    yield this.#end();
  }

  /** What went wrong in reading it is an event, not an end: the segments may still be read. */
  #readSuperblock(store: Store): ProblemEvent[] {
    const problem = (severity: 'note' | 'damaged', message: string): ProblemEvent[] => {
      if (severity === 'damaged') this.#damaged += 1;
      return [{ kind: 'problem', severity, segment: null, offset: 0, size: 0, message }];
    };
    const files = new SuperblockFiles(store, this.#hash);
    try {
      this.#superblock = files.load();
    } catch (error) {
      return problem('damaged', (error as Error).message);
    }
    if (this.#superblock !== null) this.#memory.useRecordKey(this.#superblock.recordKey);
    this.#ownSite = this.#superblock?.site.number ?? 0;
    if (files.warning !== null) return problem('note', files.warning);
    return this.#superblock === null ? problem('note', 'no superblock: a state that was never finished') : [];
  }

  #heading(segments: number): JournalEvent {
    const superblock = this.#superblock;
    return {
      kind: 'journal',
      schema: LOG_SCHEMA,
      directory: this.#directory,
      group: superblock?.group ?? null,
      site: superblock?.site.name ?? null,
      segmentSize: this.#segmentSize,
      segments,
      volumes: Object.fromEntries((superblock?.volumes ?? []).map(({ number, name }) => [String(number), name])),
      checkpointPosition: superblock?.checkpoint.position ?? null,
    };
  }

  /** Without a superblock the first SEGMENT record that can be read tells. */
  #inferSegmentSize(numbers: readonly number[]): number {
    for (const number of numbers) {
      const size = this.#load(number);
      if (typeof size !== 'number' || size < SEGMENT_RECORD_SIZE) continue;
      this.#inferRecordKey();
      if (this.#whole(0, size) !== layout.TYPE_SEGMENT) continue;
      const head = this.#segmentHead(0);
      if (head === null || head.segmentSize < SEGMENT_SIZE_MIN || head.segmentSize > SEGMENT_SIZE_MAX) continue;
      this.#ownSite = head.own.site;
      return head.segmentSize;
    }
    return SEGMENT_SIZE_MAX;
  }

  /** The key is what the first record's check and the digest of its header differ by: its block has a checksum of its own. */
  #inferRecordKey(): void {
    const { view } = this.#memory;
    const { at, size } = this.#digest;
    this.#kernel.xxh3(this.#at + 8, layout.AT_CHECKSUMS, at); // with one checksum behind the header's end
    const key = view.getBigUint64(at, true) ^ view.getBigUint64(this.#at + layout.AT_CHECK, true);
    this.#memory.useRecordKey(key.toString(16).padStart(2 * size, '0'));
  }

  *#segment(number: number): Generator<LogEvent, void> {
    const size = this.#load(number);
    if (size === null) {
      yield {
        kind: 'problem',
        severity: 'note',
        segment: number,
        offset: 0,
        size: 0,
        message: `${segmentName(number)} was removed meanwhile`,
      };
      this.#last.clear();
      return;
    }
    if (size instanceof Error) {
      this.#damaged += 1;
      const message = `it cannot be read: ${size.message}`;
      yield { kind: 'problem', severity: 'damaged', segment: number, offset: 0, size: 0, message };
      this.#last.clear();
      return;
    }
    let offset = 0;
    let reason = this.#headProblem(number, size);
    if (reason !== null && size >= layout.RECORD_SIZE_MIN) {
      const isLeftOver = this.#isLeftOver(number, 0);
      this.#bad.push({ segment: number, offset: 0, size: isLeftOver ? size : 0, message: reason });
      if (isLeftOver) return;
    }
    while (offset < size) {
      const type = this.#whole(offset, size);
      if (type >= 0) {
        if (this.#isLeftOver(number, offset)) {
          this.#leftOver(number, offset, size);
          return;
        }
        const event = this.#record(number, offset);
        yield event;
        if (type === layout.TYPE_SEGMENT) this.#beginAt(this.#segmentHead(offset));
        this.#follow(event);
        if (type === layout.TYPE_PAD) return;
        offset += this.#header.size;
        continue;
      }
      reason = this.#reason(offset, size);
      const from = offset;
      offset = this.#nextWhole(offset, size);
      this.#bad.push({ segment: number, offset: from, size: offset - from, message: reason });
      this.#last.clear();
    }
    if (size < this.#segmentSize) {
      // only the segment being written may end like this
      this.#bad.push({ segment: number, offset: size, size: 0, message: 'the segment ends without its PAD' });
    }
  }

  /** Whether the record just read is of the segment whose file this one is written over. */
  #isLeftOver(segment: number, offset: number): boolean {
    const { type, site, sequence } = this.#header;
    const position = segment * this.#segmentSize + offset;
    if (position < this.#durable) return false;
    if (type >= layout.TYPE_LOCAL) return sequence < position;
    return sequence > 0 && sequence <= (this.#last.get(site) ?? 0);
  }

  #leftOver(segment: number, offset: number, end: number): void {
    const before = this.#bad.at(-1);
    if (before !== undefined && before.segment === segment && before.offset + before.size === offset)
      before.size += end - offset;
    else this.#bad.push({ segment, offset, size: end - offset, message: 'records of an earlier use of this file' });
  }

  /** Where the streams stood, if what came before is missing. */
  #beginAt(head: ReturnType<typeof parseSegmentHead>): void {
    if (head === null) return;
    for (const { site, before } of [head.own, head.peer]) if (!this.#last.has(site)) this.#last.set(site, before);
  }

  /** Bytes loaded at #at; null if the file is gone; or why it cannot be read. */
  #load(number: number): number | null | Error {
    try {
      const fd = openSync(join(this.#directory, segmentName(number)), READ_FLAGS);
      try {
        return this.#loadFrom(fd);
      } finally {
        closeSync(fd);
      }
    } catch (error) {
      return (error as NodeJS.ErrnoException).code === 'ENOENT' ? null : (error as Error);
    }
  }

  #loadFrom(fd: number): number {
    const stats = fstatSync(fd);
    if (!stats.isFile()) throw new Error('it is no file');
    const size = Math.min(stats.size, this.#segmentSize);
    let read = 0;
    while (read < size) {
      const count = readSync(fd, this.#memory.bytes, this.#at + read, size - read, read);
      if (count === 0) break;
      read += count;
    }
    return read;
  }

  /** The type of the whole, valid record at `offset`, its header read; or -1. */
  #whole(offset: number, end: number): number {
    const at = this.#at + offset;
    if (end - offset < layout.RECORD_SIZE_MIN) return -1;
    const { view } = this.#memory;
    if (view.getUint16(at + layout.AT_FORMAT, true) !== layout.RECORD_FORMAT) return -1;
    const header = this.#header.read(view, at);
    if (!TYPE_NAMES.has(header.type)) return -1;
    if (header.type === layout.TYPE_PAD) {
      // its body is never written
      return this.#kernel.checkHeader(at, end - offset) === 1 && offset + header.size === this.#segmentSize
        ? header.type
        : -1;
    }
    if (header.size < layout.RECORD_SIZE_MIN || header.size > end - offset) return -1;
    return this.#kernel.verify(at, header.size) === header.size ? header.type : -1;
  }

  /** What is wrong with the record at `offset`. */
  #reason(offset: number, end: number): string {
    const at = this.#at + offset;
    const rest = end - offset;
    if (rest < layout.RECORD_SIZE_MIN) return `${rest} bytes, less than any record`;
    if (isZero(this.#memory.bytes.subarray(at, at + layout.RECORD_SIZE_MIN))) return 'zeroes instead of a record';
    const header = this.#header.read(this.#memory.view, at);
    const name = TYPE_NAMES.get(header.type);
    const bare = layout.HEADER_SIZE + (hasPayload(header.type) ? 8 * header.blockCount : 0);
    if (name === undefined || bare > rest || this.#kernel.checkHeader(at, rest) !== 1)
      return "a record's header does not check";
    const what = `${name} with sequence ${header.sequence}`;
    if (header.size > rest) return `${what}: ${header.size} bytes, of which ${rest} are there`;
    const good = this.#kernel.checkBlocks(at, at + header.payloadAt, 0, header.blockCount);
    return `${what}: block ${good} of its ${header.blockCount} does not match its checksum`;
  }

  #nextWhole(offset: number, end: number): number {
    for (let next = offset + layout.RECORD_ALIGN; next < end; next += layout.RECORD_ALIGN) {
      if (this.#whole(next, end) >= 0) return next;
    }
    return end;
  }

  #segmentHead(offset: number): ReturnType<typeof parseSegmentHead> {
    const at = this.#at + offset + layout.AT_CHECKSUMS + 8;
    return parseSegmentHead(this.#memory.bytes.slice(at, at + 512));
  }

  #headProblem(number: number, size: number): string | null {
    if (this.#whole(0, size) !== layout.TYPE_SEGMENT) return null; // told by the walk
    const head = this.#segmentHead(0);
    if (head === null) return 'its SEGMENT record is not readable';
    if (head.segment !== number) return `it says that it is segment ${head.segment}`;
    if (head.segmentSize !== this.#segmentSize) return `it says that segments have ${head.segmentSize} bytes`;
    const groupId = this.#superblock?.groupId;
    if (groupId !== undefined && head.group !== groupId) return `it belongs to group ${head.group}`;
    return null;
  }

  #record(segment: number, offset: number): RecordEvent {
    const header = this.#header;
    const isLocal = header.type >= layout.TYPE_LOCAL;
    const flags: string[] = [];
    if ((header.flags & layout.FLAG_ABORT_ON_CONFLICT) !== 0) flags.push('abort-on-conflict');
    if ((header.flags & layout.FLAG_READ_LOCK) !== 0) flags.push('read-lock');
    if ((header.flags & layout.FLAG_POINT) !== 0) flags.push('point');
    if ((header.flags & layout.FLAG_STAGED) !== 0) flags.push('staged');
    this.#records += 1;
    this.#bytes += header.size;
    return {
      kind: 'record',
      position: segment * this.#segmentSize + offset,
      segment,
      offset,
      size: header.size,
      type: TYPE_NAMES.get(header.type)!,
      stream: isLocal ? 'local' : header.site === this.#ownSite ? 'own' : 'peer',
      site: header.site,
      sequence: isLocal ? 0 : header.sequence,
      seen: header.seen,
      clock: header.clock,
      scope: header.scope,
      generation: header.generation,
      session: header.session,
      volume: header.volume,
      lba: header.lba,
      blockCount: header.blockCount,
      blockSize: header.blockShift === 0 ? 0 : 2 ** header.blockShift,
      flags,
    };
  }

  /** Marks tell what was durable; sequences follow one another. */
  #follow(event: RecordEvent): void {
    if (event.type === 'MARK') this.#durable = Math.max(this.#durable, event.lba);
    if (event.type === 'TRUNCATED') {
      for (const sequences of [this.#last, this.#highest])
        for (const site of sequences.keys()) if (site !== this.#ownSite) sequences.set(site, event.scope);
    }
    if (event.stream === 'local' || event.sequence === 0) return;
    const last = this.#last.get(event.site);
    this.#last.set(event.site, event.sequence);
    this.#highest.set(event.site, Math.max(this.#highest.get(event.site) ?? 0, event.sequence));
    if (last === undefined || event.sequence <= last + 1) return;
    const message = `the stream of site ${event.site} jumps from sequence ${last} to ${event.sequence}`;
    this.#bad.push({ segment: event.segment, offset: event.offset, size: -1, message });
  }

  /** Tells what is known by now: bad stretches below a durable mark; at the end also the tail. */
  *#judge(isEnd: boolean): Generator<ProblemEvent, void> {
    for (;;) {
      const bad = this.#bad[0];
      if (bad === undefined) return;
      const position = bad.segment * this.#segmentSize + bad.offset;
      const isDamage = position < this.#durable || bad.size < 0;
      if (!isDamage && !isEnd) return;
      this.#bad.shift();
      const { segment, offset, message } = bad;
      if (isDamage) {
        this.#damaged += 1;
        yield { kind: 'problem', severity: 'damaged', segment, offset, size: Math.max(0, bad.size), message };
      } else if (bad.size > 0) {
        this.#torn += 1;
        const why = 'nothing behind it was known to be durable: cut off in a write, or being written now';
        yield { kind: 'problem', severity: 'torn', segment, offset, size: bad.size, message: `${message}; ${why}` };
      }
    }
  }

  #end(): EndEvent {
    const peers = [...this.#highest].filter(([site]) => site !== this.#ownSite).map(([, sequence]) => sequence);
    return {
      kind: 'end',
      records: this.#records,
      bytes: this.#bytes,
      own: this.#highest.get(this.#ownSite) ?? 0,
      peer: Math.max(0, ...peers),
      durable: this.#durable,
      damaged: this.#damaged,
      torn: this.#torn,
    };
  }
}

function numbersIn(names: readonly string[]): number[] {
  const numbers: number[] = [];
  for (const name of names) {
    const match = /^segment-(\d{10})\.log$/.exec(name);
    if (match) numbers.push(Number(match[1]));
  }
  return numbers.sort((a, b) => a - b);
}

function isZero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}

/** Whether `--from SEQ` leaves a record out: records of a stream below it, and local ones before the first above it. */
export class FromFilter {
  #reached: boolean;
  constructor(private readonly from: number) {
    this.#reached = from === 0;
  }
  shows(event: LogEvent): boolean {
    if (event.kind !== 'record') return true;
    if (event.sequence > 0) {
      if (event.sequence < this.from) return false;
      this.#reached = true;
    }
    return this.#reached;
  }
}

/** One line for people. */
export function formatLogEvent(event: LogEvent, volumes: Record<string, string>): string {
  switch (event.kind) {
    case 'journal': {
      const who = event.group === null ? 'unknown group' : `group ${event.group}, site ${event.site}`;
      return `${event.directory}: ${who}, ${event.segments} segments of ${formatSize(event.segmentSize)}, checkpoint at ${event.checkpointPosition ?? '?'}`;
    }
    case 'problem': {
      const where = event.segment === null ? '' : ` ${segmentName(event.segment)} at offset ${event.offset}`;
      const size = event.size > 0 ? `, ${event.size} bytes` : '';
      return `${event.severity.toUpperCase()}${where}${size}: ${event.message}`;
    }
    case 'end': {
      const verdict =
        event.damaged > 0 ? `DAMAGED in ${event.damaged} places` : event.torn > 0 ? 'whole, with a torn tail' : 'whole';
      return `${event.records} records, ${formatSize(event.bytes)}, own sequence to ${event.own}, peer's to ${event.peer}, durable to ${event.durable}: ${verdict}`;
    }
    case 'record':
      return formatRecord(event, volumes);
  }
}

function formatRecord(event: RecordEvent, volumes: Record<string, string>): string {
  const start = `${String(event.position).padStart(12)} ${event.stream.padEnd(5)} ${event.sequence === 0 ? ''.padStart(10) : String(event.sequence).padStart(10)} ${event.type.padEnd(9)}`;
  const rest: string[] = [];
  switch (event.type) {
    case 'SEGMENT':
      rest.push(`number ${event.segment}`);
      break;
    case 'PAD':
      rest.push(`${event.size} bytes`);
      break;
    case 'MARK':
      rest.push(`durable ${event.lba}  peer received ${event.seen}  applied ${event.scope}`);
      break;
    case 'TRUNCATED':
      rest.push(`peer's stream closed after ${event.scope}`);
      break;
    default:
      if (event.blockCount > 0) {
        rest.push(`${volumes[String(event.volume)] ?? `volume ${event.volume}`} ${event.lba}+${event.blockCount}`);
      }
      if (event.blockSize > 0) rest.push(formatSize(event.blockCount * event.blockSize));
      if (event.type === 'RELOCATED') rest.push(`from ${event.scope} block ${event.seen}`);
      else
        rest.push(
          `scope ${event.scope}  stamp ${event.generation}.${event.clock}.${event.site}  seen ${event.seen}  session ${event.session}`,
        );
  }
  if (event.flags.length > 0) rest.push(event.flags.join(' '));
  return `${start} ${rest.join('  ')}`;
}
