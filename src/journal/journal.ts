/**
 * One site's journal of a group: an endless line of records, kept as a ring in shared memory over segment files.
 *
 * What stands on it, in the order of local events: the site's own stream, the peer's stream as it arrived, and local
 * records (segment heads, durable marks, relocations by the cleaner). Positions are assigned when a record is
 * reserved, so the ring, the files and the map's pointers agree on where it is.
 *
 *     durable <= written <= sealed <= head                positions; all of them stand at record boundaries
 *     head - ring size <= what may be overwritten next <= min(written, oldest pinned send)
 *
 * Deliberately one ring for both directions (and not one each): causal order on disk needs no merging, and ring
 * space is free once it is written, however far behind the peer is.
 *
 * Single-threaded: everything here runs on the thread that owns the group. Only sealing of large batches, appends
 * and reads run elsewhere, on bytes that nobody else touches meanwhile.
 */
import {
  AT_CHECKSUMS,
  AT_SIZE,
  AT_TYPE,
  FLAG_STAGED,
  RECORD_SIZE_MAX,
  RECORD_SIZE_MIN,
  TYPE_ABORT,
  TYPE_BASE,
  TYPE_BASE_ZERO,
  TYPE_COMMIT,
  TYPE_LOCAL,
  TYPE_LOCK,
  TYPE_MARK,
  TYPE_PAD,
  TYPE_RELOCATED,
  TYPE_SEGMENT,
  TYPE_TRIM,
  TYPE_TRUNCATED,
  TYPE_UNLOCK,
  TYPE_WRITE,
  TYPE_ZERO,
} from '../../assembly/layout.js';
import { assert, fail } from '../assert.js';
import type { ForelockError } from '../errors.js';
import type { Kernel } from '../kernel/kernel.js';
import { copyBytes, type GroupMemory, type Region } from '../kernel/memory.js';
import { type Offload, READ_RUN_OVERHEAD } from '../kernel/offload.js';
import { CLOCK_MAX, CLOCK_OWN_MAX, KIB } from '../limits.js';
import { Appender, shortageOf } from './appender.js';
import { ChecksumTable } from './checksums.js';
import type { BlockMap } from './map.js';
import { RecordHeader, recordSize } from './record.js';
import { Room } from './room.js';
import {
  encodeSegmentHead,
  parseSegmentHead,
  SEGMENT_HEAD_SHIFT,
  SEGMENT_HEAD_SIZE,
  SEGMENT_RECORD_SIZE,
} from './segment-head.js';
import { type Segment, Segments } from './segments.js';
import { isStaged, StagedRun, type StagedWrite } from './staged.js';
import type { Store } from './store.js';

/** Sealed at once while a turn goes on: more would not be in the processor's cache any more. */
const SEAL_AHEAD_SIZE = 256 * KIB;
/** Of a batch for the pool at most this part: where those are small, as in simulated worlds, pieces are, too. */
const SEAL_AHEAD_SHARE = 16;

/** Records that name blocks of a volume. */
const PLACED: ReadonlySet<number> = new Set([TYPE_LOCK, TYPE_WRITE, TYPE_ZERO, TYPE_TRIM, TYPE_BASE, TYPE_BASE_ZERO]);

/** Answers of `reserve` that are states, not errors. */
export const RING_FULL = -1;
export const NO_SPACE = -2;

/** How far one stream has come in this journal, as sequences, inclusive. */
export interface StreamEnds {
  /** Number of the site that writes the stream; 0 while unknown. */
  site: number;
  appended: number;
  sealed: number;
  durable: number;
}

export interface JournalVolume {
  readonly number: number;
  readonly map: BlockMap;
  readonly blockShift: number;
  /** Unmapped means "look in the image", so zeroes are kept as explicit entries. */
  readonly flat: boolean;
}

export interface JournalListener {
  /** `own.sealed` moved: there is something to send. */
  sealed(): void;
  /** Durable cursors moved. */
  durable(): void;
  /** A refused `reserve` may now succeed. */
  room(): void;
  /** The disk failed for good; writes are answered with EIO from now on. */
  failed(error: Error): void;
}

/** Where both sites write: told of records as they come to stand in the journal, it decides what the volumes show. */
export interface RecordOrder {
  /** @returns what shows with it that had been staged */
  own(header: RecordHeader, position: number): readonly StagedWrite[];
  received(header: RecordHeader, position: number): void;
  /** In recovery: the same of the peer, and what a MARK says of how far its stream was applied there. */
  replayReceived(header: RecordHeader, position: number): void;
  replayApplied(through: number): void;
  /** A block of a first copy is applied. */
  baseApplied(position: number): void;
  /** Must the block stay where it is? */
  isListed(volume: number, lba: number): boolean;
  /** How often that has ended for blocks. */
  readonly listsEnded: number;
}

export interface JournalOptions {
  store: Store;
  kernel: Kernel;
  offload: Offload;
  memory: GroupMemory;
  ring: Region;
  segmentSize: number;
  groupId: string;
  /** Drawn when the state was created: stands in every local record, so that no other journal's are taken for its own. */
  journalId: number;
  ownSite: number;
  generation: number;
  /** Batches of at least this many bytes are sealed by the pool. */
  poolSealBytes: number;
  /** Microseconds since 1970, for stamps. */
  clock: () => number;
  /** Runs a function soon, never inside this call. */
  defer: (task: () => void) => void;
  /** Bytes of segment files allowed. */
  limit: number;
}

export class Journal {
  readonly kernel: Kernel;
  readonly memory: GroupMemory;
  readonly segments: Segments;
  readonly room: Room;
  readonly appender: Appender;
  readonly segmentSize: number;
  readonly ringSize: number;
  readonly volumes = new Map<number, JournalVolume>();
  readonly checksums: ChecksumTable;
  readonly own: StreamEnds;
  readonly peer: StreamEnds = { site: 0, appended: 0, sealed: 0, durable: 0 };
  /** Writes of a transaction that show at its COMMIT, in either stream. */
  readonly ownStaged = new StagedRun();
  readonly peerStaged = new StagedRun();
  generation: number;
  /** Null where one site writes: a record then shows when it is appended or applied. */
  order: RecordOrder | null = null;

  /** Positions; see the inequality above. */
  head = 0;
  sealed = 0;
  /** What was refused last would have found room but for what is pinned. */
  isHeldByPin = false;
  /** Highest stamp given or seen. */
  stamp = 0;
  /** Applied cursor of the peer's stream, recorded in MARKs. */
  peerApplied = 0;
  /** Set by the cleaner: room may still be made, so a host write waits instead of failing. */
  canClean: () => boolean = () => false;
  /** Set by the group: a host waits for room in the files. */
  makeRoom: () => void = () => {};
  /** Most bytes that a host was refused while room for them may be made here; whoever asks again clears it before. */
  wanted = 0;
  /** Bytes that a host was last refused for want of room at the peer; 0 when it was not. */
  #wantedAtPeer = 0;
  /** Set by the sender, where both sites write: so much more of this site's stream has its room at the peer. */
  peerTakes: () => number = () => Number.POSITIVE_INFINITY;

  readonly counters = {
    sealedInline: 0,
    sealedInPool: 0,
    bytesAppended: 0,
    appends: 0,
    syncs: 0,
    diskFull: 0,
    spaceRefused: 0,
    segmentsReused: 0,
  };

  readonly #options: JournalOptions;
  readonly #ringAt: number;
  /** For a header that is read back from a segment. */
  readonly #headerRead: Region;
  /** Set by `listen`. */
  listener: JournalListener = { sealed() {}, durable() {}, room() {}, failed() {} };
  /** Oldest position whose ring bytes are valid. */
  #ringFrom = 0;
  /** Ring bytes given to the link and not yet released, oldest first. */
  readonly #pins: { position: number; released: boolean }[] = [];
  /** What is reserved and not yet published; a size of 0: nothing. */
  readonly #pending = { type: 0, staging: false, volume: 0, lba: 0, blockCount: 0, size: 0 };
  /** The last TRUNCATED: where it stands, and with which sequence the peer's stream ends before it. */
  #truncated = { position: 0, through: 0 };
  #pumpQueued = false;
  readonly #pumpLater = (): void => {
    this.#pumpQueued = false;
    this.pump();
  };
  #sealing = false;
  /** The kernel has sealed records up to here, but they do not count as sealed yet; or less than `sealed`. */
  #sealedAhead = 0;
  #roomWanted = false;
  #closed = false;
  readonly #header = new RecordHeader();

  constructor(options: JournalOptions) {
    this.#options = options;
    this.kernel = options.kernel;
    this.memory = options.memory;
    this.segmentSize = options.segmentSize;
    this.ringSize = options.ring.size;
    this.#ringAt = options.ring.at;
    this.#headerRead = options.memory.take(READ_RUN_OVERHEAD);
    this.generation = options.generation;
    assert(this.ringSize % this.segmentSize === 0, 'the ring holds whole segments');
    this.segments = new Segments(options.store, options.segmentSize);
    this.room = new Room(this, options.limit, () => options.store.free());
    this.appender = new Appender(this, options.store);
    this.checksums = new ChecksumTable(options.segmentSize);
    this.own = { site: options.ownSite, appended: 0, sealed: 0, durable: 0 };
  }

  listen(listener: JournalListener): void {
    this.listener = listener;
  }

  /** All before it is in the files. */
  get written(): number {
    return this.appender.written;
  }

  /** All before it survives a power cut. */
  get durable(): number {
    return this.appender.durable;
  }

  /** The disk has no room for what is in the ring, or the process no descriptor: both are waited for in the same way. */
  get diskFull(): boolean {
    return this.appender.diskFull;
  }

  /** Which of them, in words. */
  get shortageText(): string {
    return this.appender.shortage === 'descriptors' ? 'the process may open no more files' : 'the disk is full';
  }

  /** Why NO_SPACE, in words. */
  get noSpaceText(): string {
    return this.diskFull ? this.shortageText : 'the disk or the journal is full';
  }

  get failed(): ForelockError | null {
    return this.appender.failed;
  }

  // ---- places

  /** Address in shared memory of a position that is in the ring. */
  address(position: number): number {
    return this.#ringAt + (position % this.ringSize);
  }

  /** Whether the ring still holds the bytes from `position` on. */
  inRing(position: number): boolean {
    return position >= this.#ringFrom && position < this.head;
  }

  /**
   * Whether a record whose header checks belongs where it stands. Local records say where that is and in which journal;
   * of a stream's records the sequence tells, which the caller knows.
   */
  belongsAt(header: RecordHeader, position: number): boolean {
    return header.type < TYPE_LOCAL || (header.session === this.#options.journalId && header.sequence === position);
  }

  /** Whether a local record is of this journal and stood at an earlier position: its segment's file is used again. */
  stoodEarlier(header: RecordHeader, position: number): boolean {
    return header.session === this.#options.journalId && header.sequence < position;
  }

  /**
   * What is wrong with the place that a record of a stream names, or its stamp; or null. Such a record is not kept: it could
   * neither be applied nor replayed, a payload of other blocks than the volume's would be read beyond its end, and every
   * stamp of this site has to be above it.
   */
  misplaced({ type, sequence, volume, lba, blockCount, blockShift, clock }: RecordHeader): string | null {
    if (clock > CLOCK_MAX) return `record ${sequence} has a clock of ${clock}, which leaves none for what follows`;
    if (volume === 0) return PLACED.has(type) ? `record ${sequence} of type ${type} names no volume` : null;
    const known = this.volumes.get(volume);
    if (known === undefined) return `record ${sequence} is about volume ${volume}, which does not exist`;
    if (!PLACED.has(type)) return null;
    if (blockCount < 1) return `record ${sequence} of type ${type} is about no blocks`;
    if (lba + blockCount > known.map.blockCount)
      return `record ${sequence} is about blocks ${lba}+${blockCount} of volume ${volume}, which do not exist`;
    if (blockShift !== 0 && blockShift !== known.blockShift)
      return `record ${sequence} has blocks of ${2 ** blockShift} bytes, volume ${volume} of ${2 ** known.blockShift}`;
    return null;
  }

  /**
   * Address in shared memory of the record at `position`: of the whole record while it is in the ring, otherwise of its
   * header and checksums, read back from the segment and checked. The next call uses that memory again.
   * @returns -1 when it cannot be read, or is not what was written there
   */
  locate(position: number): number {
    if (this.inRing(position)) return this.address(position);
    const { at, size } = this.#headerRead;
    const into = this.memory.bytes.subarray(at, at + size);
    let available = 0;
    try {
      available =
        this.segments.get(this.segments.numberOf(position))?.file.read(into, position % this.segmentSize) ?? 0;
    } catch {
      return -1; // the disk's error: as good as not there
    }
    if (this.kernel.checkHeader(at, available) === 0) return -1;
    return this.belongsAt(this.#header.read(this.memory.view, at), position) ? at : -1;
  }

  /** How long ago a stamp was given, ms, by the clock that gives them; 0 for one that is ahead of it. */
  ageOf(stamp: number): number {
    return Math.max(0, (this.#options.clock() - stamp) / 1000);
  }

  /** Recovery has left valid bytes [from, head) in the ring and the files; everything is durable. */
  restore(from: number, head: number): void {
    this.#ringFrom = Math.max(from, head - this.ringSize, 0);
    this.head = head;
    this.sealed = head;
    this.appender.restore(head);
    this.own.sealed = this.own.appended;
    this.own.durable = this.own.appended;
    this.peer.sealed = this.peer.appended;
    this.peer.durable = this.peer.appended;
    this.barReuse(); // what the files hold of streams may have been cut off, or taken back
    this.room.lookAtDisk(); // before anything is promised to the peer
  }

  /** Nothing that was written so far may be found behind the journal's end later (segments.ts). */
  barReuse(): void {
    this.segments.barReuse(this.segments.numberOf(this.head));
  }

  /**
   * Gives up a segment that nothing refers to any more. @returns false: the disk refuses that, and the journal has failed; or
   * it has no room to note it, as some that never write in place, and is asked again
   */
  freeSegment(segment: Segment): boolean {
    try {
      if (this.segments.free(segment, this.diskFull ? 0 : this.room.forSpares)) this.appender.renamed();
    } catch (error) {
      // it would fill up, and such a disk takes no new file either
      if (shortageOf(error as Error) === undefined) this.appender.fail(error as Error);
      return false;
    }
    this.appender.retry();
    return true;
  }

  // ---- writing

  /**
   * Makes room for one record of this site's stream (or a local record) at the head and writes its header. The
   * caller copies the payload to the address returned and calls `publish` before anything else is reserved.
   *
   * @param scope sequence of the scope's LOCK, or 0 when the record implies its lock (or is itself the LOCK)
   * @param clock of the scope's stamp; 0: the record gets a stamp of its own
   * @returns address of the payload; RING_FULL: wait for `room`; NO_SPACE: disk or journal is full
   */
  reserve(
    type: number,
    flags: number,
    volume: number,
    lba: number,
    blockCount: number,
    blockShift: number,
    session: number,
    scope: number,
    seen: number,
    clock = 0,
  ): number {
    const pending = this.#pending;
    assert(pending.size === 0, 'one reservation at a time');
    const size = recordSize(type, blockCount, blockShift);
    // what ends a scope finds room at both sites whatever happens: others wait for it
    const begins = type < TYPE_LOCAL && type !== TYPE_UNLOCK && type !== TYPE_ABORT && type !== TYPE_COMMIT;
    const room = begins ? this.#admitHost(size, blockShift > 0) : this.#admit(size);
    if (room < 0) return room;
    this.#turnSegment(size);
    const local = type >= TYPE_LOCAL;
    const sequence = local ? this.head : this.own.appended + 1;
    if (clock === 0) this.stamp = Math.max(this.stamp + 1, Math.min(this.#options.clock(), CLOCK_OWN_MAX));
    const at = this.address(this.head);
    const encoded = this.kernel.encode(
      at,
      type,
      flags,
      volume,
      lba,
      blockCount,
      blockShift,
      sequence,
      seen,
      clock === 0 ? this.stamp : clock,
      scope === 0 && !local ? sequence : scope,
      this.generation,
      local ? this.#options.journalId : session,
      this.own.site,
    );
    assert(encoded === size, 'encode and recordSize agree');
    pending.type = type;
    pending.staging = (flags & FLAG_STAGED) !== 0 || type === TYPE_COMMIT;
    pending.volume = volume;
    pending.lba = lba;
    pending.blockCount = blockCount;
    pending.size = size;
    return at + AT_CHECKSUMS + 8 * blockCount;
  }

  /**
   * Makes the reserved record part of the journal and, for a write, the volume's content.
   * @returns its sequence (0 for a local record)
   */
  publish(): number {
    const pending = this.#pending;
    assert(pending.size > 0, 'publish follows reserve');
    const position = this.head;
    this.head += pending.size;
    pending.size = 0;
    if (pending.type < TYPE_LOCAL) {
      this.own.appended += 1;
      if (this.order !== null) this.order.own(this.#header.read(this.memory.view, this.address(position)), position);
      else if (pending.staging || this.ownStaged.count > 0) {
        this.follow(this.#header.read(this.memory.view, this.address(position)), position);
      } else this.apply(pending.type, pending.volume, pending.lba, pending.blockCount, position);
    }
    this.#sealAhead();
    this.queuePump();
    return pending.type < TYPE_LOCAL ? this.own.appended : 0;
  }

  /** Position of the record that `publish` will add. Valid between `reserve` and `publish`. */
  get pendingPosition(): number {
    return this.head;
  }

  /**
   * The next record of a stream where one site writes: shows what it brings, or what it commits.
   * @param known the maps show it already; it is told again (replay)
   */
  follow(header: RecordHeader, position: number, known = false): void {
    const run = header.site === this.own.site ? this.ownStaged : this.peerStaged;
    const committed = run.next(header, position);
    if (known) return;
    for (const { header: write, position: at } of committed)
      this.apply(write.type, write.volume, write.lba, write.blockCount, at);
    if (!isStaged(header)) this.apply(header.type, header.volume, header.lba, header.blockCount, position);
    this.noteCommitted(committed);
  }

  /** Notes the checksums of staged writes that show now. Those that are not sealed yet are noted when they are. */
  noteCommitted(writes: readonly StagedWrite[]): void {
    for (const { header, position } of writes) {
      if (header.blockShift === 0 || (position >= this.sealed && position < this.head)) continue;
      const at = this.locate(position);
      if (at >= 0) this.noteChecksums(at, header, position);
    }
  }

  /** Swings the map to a record: what "applied" means on a journal platter. */
  apply(type: number, volume: number, lba: number, blockCount: number, position: number): void {
    if (type === TYPE_WRITE || type === TYPE_BASE) {
      this.#volume(volume).map.swing(lba, blockCount, position);
    } else if (type === TYPE_ZERO || type === TYPE_TRIM || type === TYPE_BASE_ZERO) {
      const target = this.#volume(volume);
      if (target.flat) target.map.setZero(lba, blockCount);
      else target.map.clear(lba, blockCount);
    }
  }

  /** Keeps the checksums of a sealed record's blocks for the next checkpoint. */
  noteChecksums(at: number, header: RecordHeader, position: number, view: DataView = this.memory.view): void {
    this.checksums.note(position, header.blockShift, header.blockCount, view, at + AT_CHECKSUMS);
  }

  /**
   * Takes a received stretch of the peer's records: copies it to the head, checks it in place, keeps what is good.
   *
   * @param onRecord called for every good record, in order, with its address and position; false: it is not kept,
   *                 nor is anything behind it
   * @returns bytes kept; less than stretch.length means that the record there is bad. RING_FULL: nothing was taken,
   *          wait for `room`.
   */
  accept(stretch: Uint8Array, onRecord: (at: number, position: number) => boolean): number {
    if (this.#sealing) {
      this.#roomWanted = true; // a batch of the cleaner's is with the pool: a source may get its lost tail meanwhile
      return RING_FULL;
    }
    const room = this.#admit(stretch.length + RECORD_SIZE_MIN);
    if (room < 0) return room;
    this.#sealInline(this.head);
    let taken = 0;
    while (taken < stretch.length) {
      if (this.head % this.segmentSize === 0) {
        this.#turnSegment(RECORD_SIZE_MIN);
        this.#sealInline(this.head);
      }
      const rest = this.#segmentRest();
      let part = stretch.length - taken;
      if (part > rest - RECORD_SIZE_MIN && part !== rest) {
        part = wholeRecords(stretch, taken, rest);
        if (part === 0) {
          const size = recordBytesAt(stretch, taken);
          if (size === 0) break; // not a record at all
          this.#turnSegment(size);
          this.#sealInline(this.head);
          continue;
        }
      }
      const at = this.address(this.head);
      copyBytes(this.memory.bytes, at, part === stretch.length ? stretch : stretch.subarray(taken, taken + part));
      const good = this.kernel.verify(at, part);
      const type = this.memory.view.getUint8(at + AT_TYPE);
      if (type === TYPE_BASE || type === TYPE_BASE_ZERO) this.barReuse();
      let kept = 0;
      while (kept < good && onRecord(at + kept, this.head + kept)) {
        kept += this.memory.view.getUint32(at + kept + AT_SIZE, true);
      }
      this.head += kept;
      this.sealed = this.head;
      this.peer.sealed = this.peer.appended;
      this.own.sealed = this.own.appended; // a lost tail that comes back is this site's own stream
      taken += kept;
      if (kept < part) break;
    }
    this.appender.sealed();
    this.queuePump();
    return taken;
  }

  /** First sequence from which one of the streams is here without gaps, in files or in the ring. */
  heldFrom(own: boolean): number {
    const segments = this.segments.all();
    if (segments.length === 0) {
      // nothing was ever written, or all of it was freed: what is left begins a segment, and is in the ring
      if (this.head === this.written) return (own ? this.own : this.peer).appended + 1;
      const before = this.streamsBefore(this.written);
      return (own ? before.own : before.peer) + 1;
    }
    let from = segments.length - 1;
    while (from > 0 && segments[from - 1]!.number === segments[from]!.number - 1) from -= 1;
    return (own ? segments[from]!.ownBefore : segments[from]!.peerBefore) + 1;
  }

  /** Whether `truncatePeer` would find room now. */
  get canTruncate(): boolean {
    return this.#admit(RECORD_SIZE_MIN) === 0;
  }

  /**
   * The peer's stream ends with `through` again: what stands behind that was received in vain. Nobody applies it, and
   * recovery neither, once this is durable. It must not reach back further than DROP_BYTES_MAX.
   */
  truncatePeer(through: number): void {
    const room = this.#admit(RECORD_SIZE_MIN);
    assert(room === 0 && through <= this.peer.appended, `the peer's stream cannot end at ${through}`);
    this.#sealInline(this.head);
    this.peer.appended = through;
    this.peer.sealed = through;
    this.peer.durable = Math.min(this.peer.durable, through);
    this.appender.truncatePeer(through);
    this.#turnSegment(RECORD_SIZE_MIN);
    this.noteTruncated(this.head, through);
    this.barReuse();
    this.head += this.#encodeLocal(TYPE_TRUNCATED, 0, 0, 0, 0, through);
    this.#sealInline(this.head);
    this.sync();
  }

  /** A TRUNCATED stands at `position`: segments before it hold less of the peer's stream than their heads say. */
  noteTruncated(position: number, through: number): void {
    this.#truncated = { position, through };
    for (const segment of this.segments.all()) segment.peerBefore = Math.min(segment.peerBefore, through);
  }

  /** 0 when records of hosts of `size` bytes in all would be admitted now, else RING_FULL or NO_SPACE. */
  roomFor(size: number): number {
    return this.#admitHost(size, true);
  }

  /** The same for records of these sizes, one after the other in one turn: with what turns of segment take between them. */
  roomForAll(sizes: readonly number[]): number {
    let at = this.head;
    let end = at;
    for (const size of sizes) {
      const rest = this.segmentSize - (at % this.segmentSize);
      end = Math.max(end, at + size + Math.min(size + RECORD_SIZE_MIN, rest)); // as #admit will ask
      if (!fits(size, rest)) at += rest;
      if (at % this.segmentSize === 0) at += SEGMENT_RECORD_SIZE;
      at += size;
    }
    return this.roomFor(end - this.head);
  }

  /** No room for a host's record, and none can be made: it is refused until others have gone, or the limit is another. */
  get isFullForHosts(): boolean {
    return this.room.used + RECORD_SIZE_MAX > this.room.forHosts && !this.canClean();
  }

  /** The same of what the peer sends. */
  get isFullForPeer(): boolean {
    return this.room.forPeer === 0 && !this.canClean();
  }

  /** Asks that everything appended so far becomes durable soon. */
  sync(): void {
    this.appender.sync();
  }

  /** Keeps the ring from overwriting [position, …) until the handle is released. */
  pin(position: number): { position: number; released: boolean } {
    const pin = { position, released: false };
    let index = this.#pins.length; // ascending: only what is sent again is pinned before what is on its way
    while (index > 0 && this.#pins[index - 1]!.position > position) index -= 1;
    this.#pins.splice(index, 0, pin);
    return pin;
  }

  unpin(pin: { released: boolean }): void {
    pin.released = true;
    while (this.#pins.length > 0 && this.#pins[0]!.released) this.#pins.shift();
    this.offerRoom();
  }

  /** Timed work: periodic sync, retry after a full disk. */
  tick(nowMs: number): void {
    this.room.lookAtDisk();
    this.appender.tick(nowMs);
    this.offerRoom();
  }

  /** Seals everything appended so far, now. */
  sealNow(): void {
    if (!this.#sealing) this.#sealInline(this.head);
  }

  close(): void {
    this.#closed = true;
    this.segments.close(this.appender.close());
  }

  // ---- inside

  #volume(number: number): JournalVolume {
    const volume = this.volumes.get(number);
    if (volume === undefined) fail(`volume ${number} is not known`);
    return volume;
  }

  /** Hosts wait for room that the peer has not promised. */
  get wantsRoomAtPeer(): boolean {
    return this.#wantedAtPeer > this.peerTakes();
  }

  /**
   * 0 when hosts may append `size` more bytes now: there is room at both sites that is not for others.
   * @param payload records without it (LOCK, TRIM, FLUSH) are small, and may be what makes room
   */
  #admitHost(size: number, payload: boolean): number {
    this.#wantedAtPeer = 0;
    if (size > this.peerTakes()) {
      this.#wantedAtPeer = size;
      this.#roomWanted = true;
      return RING_FULL;
    }
    if (payload && (this.diskFull || this.room.used + size > this.room.forHosts)) {
      this.#roomWanted = true;
      if (!this.diskFull && this.canClean()) {
        this.wanted = Math.max(this.wanted, size);
        this.makeRoom();
        this.sync(); // segments are freed only once what took their place is durable
        return RING_FULL;
      }
      this.counters.spaceRefused += 1;
      return NO_SPACE;
    }
    return this.#admit(size);
  }

  /** 0 when the ring has room for `size` more bytes now. */
  #admit(size: number): number {
    // a turn of segment may add a PAD (up to a record) and a SEGMENT record
    const end = this.head + size + Math.min(size + RECORD_SIZE_MIN, this.#segmentRest()) + 1024;
    const oldestPin = this.#pins.length > 0 ? this.#pins[0]!.position : Number.POSITIVE_INFINITY;
    if (end - this.ringSize > Math.min(this.written, oldestPin)) {
      this.isHeldByPin = end - this.ringSize <= this.written;
      this.#roomWanted = true;
      this.appender.append();
      return this.diskFull ? NO_SPACE : RING_FULL;
    }
    this.isHeldByPin = false;
    if (end - this.ringSize > this.#ringFrom) this.#ringFrom = end - this.ringSize;
    return 0;
  }

  /** Bytes from the head to the end of its segment. */
  #segmentRest(): number {
    return this.segmentSize - (this.head % this.segmentSize);
  }

  /** Ends the segment with a PAD when `size` does not fit, and opens a segment that has none yet with its SEGMENT record. */
  #turnSegment(size: number): void {
    if (this.head % this.segmentSize !== 0) {
      const rest = this.#segmentRest();
      if (fits(size, rest)) return;
      this.#encodeLocal(TYPE_PAD, 0, 0, 0, 0, 0);
      this.memory.view.setUint32(this.address(this.head) + AT_SIZE, rest, true);
      if (rest > RECORD_SIZE_MIN) this.appender.skip(this.head + RECORD_SIZE_MIN, this.head + rest);
      this.head += rest;
    }
    const number = this.segments.numberOf(this.head);
    const at = this.address(this.head);
    const bytes = this.#encodeLocal(TYPE_SEGMENT, number, 1, SEGMENT_HEAD_SHIFT, 0, 0);
    const payload = at + AT_CHECKSUMS + 8;
    encodeSegmentHead(
      {
        group: this.#options.groupId,
        segment: number,
        segmentSize: this.segmentSize,
        own: { site: this.own.site, before: this.own.appended },
        peer: { site: this.peer.site, before: this.peer.appended },
      },
      this.memory.bytes.subarray(payload, payload + SEGMENT_HEAD_SIZE),
    );
    this.head += bytes;
  }

  #encodeLocal(type: number, lba: number, blockCount: number, blockShift: number, seen: number, scope: number): number {
    return this.kernel.encode(
      this.address(this.head),
      type,
      0,
      0,
      lba,
      blockCount,
      blockShift,
      this.head,
      seen,
      this.stamp,
      scope,
      this.generation,
      this.#options.journalId,
      this.own.site,
    );
  }

  queuePump(): void {
    if (this.#pumpQueued || this.#closed) return;
    this.#pumpQueued = true;
    this.#options.defer(this.#pumpLater);
  }

  pump(): void {
    if (this.#closed || this.failed) return;
    this.#pumpSeal();
    this.appender.pump();
  }

  /**
   * Seals what was published while it is in the processor's cache. It counts as sealed at the end of the turn: nobody is
   * told in the middle of what appends. What a turn brings beyond `poolSealBytes` is left for the pool.
   */
  #sealAhead(): void {
    const from = this.#unsealedFrom;
    const { poolSealBytes } = this.#options;
    if (this.#sealing || this.head - from < Math.min(SEAL_AHEAD_SIZE, poolSealBytes / SEAL_AHEAD_SHARE)) return;
    if (this.head - this.sealed >= poolSealBytes) return;
    this.#sealBytes(from, this.head);
    this.#sealedAhead = this.head;
  }

  /** What the kernel has sealed ends here, whether it counts as sealed or not. */
  get #unsealedFrom(): number {
    return Math.max(this.sealed, this.#sealedAhead);
  }

  #pumpSeal(): void {
    if (this.#sealing || this.sealed === this.head) return;
    const from = this.#unsealedFrom;
    if (this.head - from < this.#options.poolSealBytes) {
      this.#sealInline(this.head);
      this.counters.sealedInline += 1;
      return;
    }
    // one piece within a segment: pieces of two segments may lie at both ends of the ring
    const end = Math.min(this.head, from + this.segmentSize - (from % this.segmentSize));
    const own = end === this.head ? this.own.appended : -1;
    this.#sealing = true;
    this.#options.offload.seal(this.address(from), end - from, (error) => {
      this.#sealing = false;
      if (error) return this.appender.fail(error);
      this.counters.sealedInPool += 1;
      this.#sealedTo(end, own);
      this.offerRoom();
      this.pump();
    });
  }

  /** Seals [sealed, end) on this thread. */
  #sealInline(end: number): void {
    if (this.sealed === end) return;
    this.#sealBytes(this.#unsealedFrom, end);
    this.#sealedTo(end, this.own.appended);
  }

  #sealBytes(begin: number, end: number): void {
    let from = begin;
    while (from < end) {
      const to = Math.min(end, from + this.segmentSize - (from % this.segmentSize));
      this.kernel.seal(this.address(from), to - from);
      from = to;
    }
  }

  /** @param own the own stream's sequence at `end`, or -1 when it has to be found by walking */
  #sealedTo(end: number, own: number): void {
    const header = this.#header;
    const view = this.memory.view;
    let last = this.own.sealed;
    for (let position = this.sealed; position < end; ) {
      const at = this.address(position);
      const type = view.getUint8(at + AT_TYPE);
      if (type === TYPE_WRITE || type === TYPE_RELOCATED) this.noteChecksums(at, header.read(view, at), position);
      if (type < TYPE_LOCAL) last += 1;
      position += view.getUint32(at + AT_SIZE, true);
    }
    assert(own === -1 || own === last, 'sealed every own record');
    this.sealed = end;
    const moved = last > this.own.sealed;
    this.own.sealed = last;
    this.appender.sealed();
    if (moved) this.listener.sealed();
  }

  /**
   * Adds a MARK, if there is room: a record that is durable bears witness that all before `durable` was.
   * @returns whether it did
   */
  mark(): boolean {
    if (this.sealed !== this.head || this.#admit(RECORD_SIZE_MIN) !== 0) return false;
    this.#turnSegment(RECORD_SIZE_MIN);
    this.head += this.#encodeLocal(TYPE_MARK, this.durable, 0, 0, this.peer.appended, this.peerApplied);
    this.#sealInline(this.head);
    return true;
  }

  /** How far the streams had come before the segment that begins at `start`, which is in the ring. */
  streamsBefore(start: number): { own: number; peer: number } {
    const at = this.address(start) + AT_CHECKSUMS + 8;
    const head = parseSegmentHead(this.memory.bytes.slice(at, at + SEGMENT_HEAD_SIZE));
    assert(head !== null, 'a segment begins with its SEGMENT record');
    const { position, through } = this.#truncated;
    return { own: head.own.before, peer: start < position ? Math.min(head.peer.before, through) : head.peer.before };
  }

  /** Room may have come back: whoever was refused is told. */
  offerRoom(): void {
    if (!this.#roomWanted) return;
    this.#roomWanted = false;
    this.#options.defer(() => {
      if (!this.#closed) this.listener.room();
    });
  }
}

/** Does a record fit what is left of a segment? Behind it there must be nothing, or room for a PAD. */
function fits(size: number, rest: number): boolean {
  return size === rest || size <= rest - RECORD_SIZE_MIN;
}

/** Size field of the record at `offset`, or 0 if it cannot be one. */
function recordBytesAt(bytes: Uint8Array, offset: number): number {
  if (offset + RECORD_SIZE_MIN > bytes.length) return 0;
  const size =
    (bytes[offset + AT_SIZE]! |
      (bytes[offset + AT_SIZE + 1]! << 8) |
      (bytes[offset + AT_SIZE + 2]! << 16) |
      (bytes[offset + AT_SIZE + 3]! << 24)) >>>
    0;
  return size >= RECORD_SIZE_MIN && size % 16 === 0 && offset + size <= bytes.length ? size : 0;
}

/** Bytes of whole records from `offset` that fit `rest` and leave room for a PAD (or end exactly there). */
function wholeRecords(bytes: Uint8Array, offset: number, rest: number): number {
  let sum = 0;
  for (;;) {
    const size = recordBytesAt(bytes, offset + sum);
    if (size === 0) return sum;
    if (sum + size > rest - RECORD_SIZE_MIN && sum + size !== rest) return sum;
    sum += size;
  }
}
