/**
 * Keeps the journal under its limit: copies live blocks forward out of the emptiest segment that may be freed, and
 * removes segments that nothing refers to any more.
 *
 * A segment may be removed when
 *   - no block of the current map points into it (Liveness), and what took their place is durable,
 *   - replay begins behind it (the last checkpoint),
 *   - in a group with flat platters: the last checkpoint does not point into it either. A block that went into the
 *     image leaves the map without a record, so replay would not mend an old pointer. The same where both sites write:
 *     a checkpoint may hold what a block showed before (journal/versions.ts),
 *   - every record of this site's stream in it is confirmed and durable at the peer (`retainFrom`),
 *   - no pinned view had live blocks in it when it was pinned.
 *
 * Relocation is a compare-and-swing, now and in replay: a block overwritten meanwhile stays overwritten.
 */
import {
  AT_CHECKSUMS,
  RECORD_SIZE_MAX,
  TYPE_BASE,
  TYPE_PAD,
  TYPE_RELOCATED,
  TYPE_WRITE,
} from '../../assembly/layout.js';
import { copyBytes, type Region } from '../kernel/memory.js';
import type { Offload } from '../kernel/offload.js';
import { KIB, SEGMENT_READ_RETRY_MS, SEGMENT_READS_MAX } from '../limits.js';
import type { Journal } from './journal.js';
import type { Liveness } from './liveness.js';
import type { BlockMap } from './map.js';
import { RecordHeader, recordSize } from './record.js';
import type { Segment } from './segments.js';

/**
 * So many emptied segments may wait for a sync or a checkpoint before another one is emptied. A full segment gives little
 * room and takes as much as it holds until it is freed: emptying on would fill the disk with copies of the same blocks.
 */
const COMING_SEGMENTS_MAX = 2;

/** A segment that is full to more than this gains nothing when it is emptied. */
const FULL_SHARE = 0.95;

/** Copied in one turn of the event loop, about 0.1 ms: hosts are not answered meanwhile. */
const STEP_SIZE_MAX = 128 * KIB;

export interface CleanerOwner {
  /** Records from this position on are still needed by the peer. */
  retainFrom(): number;
  /** Replay begins here. */
  checkpointPosition(): number;
  /** Where it would begin if a checkpoint were made now: what lies behind cannot be freed yet. */
  replayFrom(): number;
  /** The number of the last checkpoint that is on disk, and of the next one to begin. */
  checkpointNumber(): { done: number; next: number };
  /** Asks for a checkpoint soon: only it keeps segments from being freed. */
  wantCheckpoint(): void;
  /** The last one failed: nothing that waits for the next counts as room to come. */
  checkpointFailed(): boolean;
  /** The peer is taking what it needs right now: waiting for it makes room. */
  peerIsComing(): boolean;
  /** It has taken some of that lately. */
  peerIsTaking(): boolean;
  /** The limit is reached and only the peer's unconfirmed records are in the way: give them up, order is lost for it. */
  giveUpRetention(): void;
  /** Blocks can go into images, or are going there: that makes room, too. */
  writesBack(): boolean;
  /** The limit is reached and only pinned views are in the way: drop them. */
  dropViews(): void;
}

export class Cleaner {
  readonly #journal: Journal;
  readonly #offload: Offload;
  readonly #liveness: Liveness;
  readonly #owner: CleanerOwner;
  readonly #buffer: Region;
  /** Segments with live blocks of each pinned view. */
  readonly #pinned = new Set<ReadonlySet<number>>();
  /** Segments found without live blocks; the head when that was seen, and the first checkpoint that knows of it. */
  readonly #dead = new Map<number, { head: number; checkpoint: number }>();
  #victim: { segment: Segment; position: number; end: number } | null = null;
  #busy = false;
  /** A step that found the ring full goes on here. */
  #waiting: { from: number; bytes: number } | null = null;
  #stopped = false;
  /** Segments that could not be read back in full: never chosen again. */
  readonly #damaged = new Set<number>();
  /** Segments of which the disk refused a read: how often, and from when on it is asked again. */
  readonly #refused = new Map<number, { times: number; againAt: number }>();
  #nowMs = 0;
  /** Segments left with blocks that may not be moved yet: looked at again a segment later, or when some may and hosts wait. */
  readonly #passedOver = new Map<number, { head: number; listsEnded: number }>();
  /** Bytes that were copied to segments, with what that took beside them, and those of blocks among them. */
  readonly #packed = new Map<number, { size: number; ofBlocks: number }>();
  readonly #header = new RecordHeader();
  readonly counters = {
    segmentsFreed: 0,
    segmentsCleaned: 0,
    blocksMoved: 0,
    /** Journal written for that, the records' headers included. */
    bytesMoved: 0,
    damaged: 0,
    /** Reads that the disk refused: tried again later. */
    readErrors: 0,
    retentionGivenUp: 0,
    viewsDropped: 0,
  };

  readonly #defer: (task: () => void) => void;

  constructor(
    journal: Journal,
    offload: Offload,
    liveness: Liveness,
    buffer: Region,
    owner: CleanerOwner,
    defer: (task: () => void) => void,
  ) {
    this.#defer = defer;
    this.#journal = journal;
    this.#offload = offload;
    this.#liveness = liveness;
    this.#buffer = buffer;
    this.#owner = owner;
    journal.canClean = () =>
      this.#victim !== null ||
      this.#pickVictim() !== null ||
      (this.#pinned.size > 0 && !owner.checkpointFailed()) || // views are dropped for it, but not before the next sync
      (this.#retains && (owner.peerIsComing() || this.#givesUpRetention)) ||
      (!owner.checkpointFailed() && owner.writesBack()) ||
      this.#hasDead();
  }

  /** Keeps the segments with live blocks now until the handle is given back. */
  pinLive(): ReadonlySet<number> {
    const live = new Set<number>(this.#liveness.segments());
    this.#pinned.add(live);
    return live;
  }

  unpinLive(handle: ReadonlySet<number>): void {
    this.#pinned.delete(handle);
    this.poke();
  }

  /**
   * Cleaning starts here: enough below the limit that hosts do not have to wait for it, and no more, for the fuller the
   * journal, the emptier the segments that are emptied. It starts earlier where a host, with a transaction, waits for more
   * at once than that leaves.
   */
  get softLimit(): number {
    const { room, segmentSize, wanted } = this.#journal;
    return Math.min(Math.max(room.size / 4, room.forHosts - 2 * segmentSize), room.forHosts - wanted);
  }

  /** Hosts wait, or would soon. */
  get #isPressed(): boolean {
    const { room, segmentSize, segments, wanted } = this.#journal;
    return segments.used > room.forHosts - Math.max(segmentSize, wanted);
  }

  /** The ring may have room again. */
  ringHasRoom(): void {
    const waiting = this.#waiting;
    if (waiting === null) return;
    this.#waiting = null;
    this.#move(waiting.from, waiting.bytes);
  }

  /** Nothing is copied or freed any more. */
  stop(): void {
    this.#stopped = true;
    this.ringHasRoom();
  }

  tick(nowMs: number): void {
    this.#nowMs = nowMs;
    this.poke();
  }

  /** Looks whether something can be freed or has to be cleaned. Cheap; called after every sync, checkpoint and tick. */
  poke(): void {
    if (this.#stopped) return;
    const coming = this.#freeDead();
    if (this.#busy || this.#journal.failed !== null) return;
    if (this.#victim === null) {
      const { room, segmentSize } = this.#journal;
      const { used } = this.#journal.segments;
      if (used <= this.softLimit) return;
      const comingMax = used > room.forHosts ? 1 : COMING_SEGMENTS_MAX;
      if (coming > 0 && (used - coming <= this.softLimit || coming >= comingMax * segmentSize)) {
        this.#journal.sync();
        return;
      }
      if (this.#journal.diskFull) return; // nothing can be copied
      const segment = this.#pickVictim(this.#nowMs);
      if (segment === null) {
        // nothing is given up for what the disk may yet give
        if (this.#pickVictim() === null) this.#underPressure();
        return;
      }
      const start = segment.number * this.#journal.segmentSize;
      this.#victim = { segment, position: start, end: start + segment.size };
      this.#journal.segments.retain(segment);
    }
    this.#copyNext();
  }

  /** Whole segments are kept for nobody but the peer: it has not confirmed them, or has yet to say what becomes of them. */
  get #retains(): boolean {
    const { order, written, segmentSize } = this.#journal;
    const kept = Math.min(this.#owner.retainFrom(), order === null ? Infinity : this.#owner.replayFrom());
    const freeable = this.#owner.checkpointFailed() ? this.#freeableTo : Infinity;
    return kept < Math.min(written - 2 * segmentSize, freeable);
  }

  /** Segments that end here or before can be freed once they are empty: with another checkpoint, unless the last one failed. */
  get #freeableTo(): number {
    const replay = this.#owner.replayFrom();
    if (!this.#owner.checkpointFailed()) return replay;
    return this.#isShownByCheckpoints ? 0 : Math.min(replay, this.#owner.checkpointPosition());
  }

  /** Whether a checkpoint may point to what no map does, and replay does not mend. */
  get #isShownByCheckpoints(): boolean {
    const { order, volumes } = this.#journal;
    if (order !== null) return true;
    for (const volume of volumes.values()) if (volume.flat) return true;
    return false;
  }

  /** Whether an absent peer's order goes once the limit is reached. Not for a full disk, which may have room again. */
  get #givesUpRetention(): boolean {
    const { room } = this.#journal;
    return room.size === room.limit && !this.#owner.checkpointFailed();
  }

  /** Whether there is one that is kept for nobody: it waits for a sync or a checkpoint, or to be looked at. */
  #hasDead(): boolean {
    const { segments, segmentSize, written } = this.#journal;
    const retain = Math.min(this.#owner.retainFrom(), this.#freeableTo, segments.numberOf(written) * segmentSize);
    for (const { number } of segments.all()) {
      if ((number + 1) * segmentSize > retain) return false;
      if (this.#liveness.liveBlocks(number) === 0 && !this.#isPinned(number)) return true;
    }
    return false;
  }

  /** @returns bytes of segments that are emptied, and wait only for a sync or a checkpoint to be freed */
  #freeDead(): number {
    const journal = this.#journal;
    const { segments } = journal;
    const current = segments.numberOf(journal.written);
    const retain = this.#owner.retainFrom();
    const checkpoint = this.#owner.checkpointPosition();
    const checkpointNumber = this.#owner.checkpointNumber();
    const replay = this.#owner.replayFrom();
    const freeable = this.#freeableTo;
    let coming = 0;
    const isShown = this.#isShownByCheckpoints;
    let freed = false;
    let heldByCheckpoint = 0;
    for (const segment of segments.all()) {
      if (segment.number >= current) break;
      const { number } = segment;
      if (this.#liveness.liveBlocks(number) > 0) {
        this.#dead.delete(number);
        continue;
      }
      const end = (number + 1) * journal.segmentSize;
      const kept = end > retain || this.#isPinned(number);
      if (!kept && end <= freeable) coming += segment.size;
      const since = this.#dead.get(number);
      if (since === undefined) {
        this.#dead.set(number, { head: journal.head, checkpoint: checkpointNumber.next });
        continue;
      }
      if (journal.durable < since.head) continue;
      if (end > checkpoint || (isShown && checkpointNumber.done < since.checkpoint)) {
        if (end <= replay) heldByCheckpoint += 1;
        continue;
      }
      if (kept) continue;
      if (!journal.freeSegment(segment)) break;
      if (end <= freeable) coming -= segment.size;
      this.#dead.delete(number);
      this.#passedOver.delete(number);
      this.#packed.delete(number);
      this.#refused.delete(number);
      this.counters.segmentsFreed += 1;
      freed = true;
    }
    if (heldByCheckpoint > 0 && segments.used > this.softLimit) this.#owner.wantCheckpoint();
    if (freed) journal.offerRoom();
    return coming;
  }

  #isPinned(number: number): boolean {
    for (const live of this.#pinned) if (live.has(number)) return true;
    return false;
  }

  /** The emptiest segment that could be freed once it is empty: of those that may be read by then. */
  #pickVictim(byMs = Number.POSITIVE_INFINITY): Segment | null {
    const journal = this.#journal;
    // emptying what may not be freed afterwards would only make the journal longer
    const retain = Math.min(this.#owner.retainFrom(), this.#freeableTo);
    const current = journal.segments.numberOf(journal.written);
    const blockBytes = this.#smallestBlock();
    let best: Segment | null = null;
    let fewest = Number.POSITIVE_INFINITY;
    for (const segment of journal.segments.all()) {
      if (segment.number >= current) break;
      if ((segment.number + 1) * journal.segmentSize > retain) break;
      if (this.#damaged.has(segment.number) || this.#isPinned(segment.number)) continue;
      if (this.#passesOver(segment.number)) continue;
      if ((this.#refused.get(segment.number)?.againAt ?? byMs) > byMs) continue;
      const live = this.#liveness.liveBlocks(segment.number);
      if (live === 0) continue;
      if (live * blockBytes > FULL_SHARE * segment.size || this.#isPacked(segment, live * blockBytes)) continue;
      if (live < fewest) {
        fewest = live;
        best = segment;
      }
    }
    return best;
  }

  /**
   * Whether nearly all of it was copied there and lives: it cannot be had in less. How much its blocks take is not known
   * otherwise: each may have a header of its own.
   */
  #isPacked({ number, size }: Segment, liveBytes: number): boolean {
    const packed = this.#packed.get(number);
    return packed !== undefined && packed.size > FULL_SHARE * size && liveBytes > FULL_SHARE * packed.ofBlocks;
  }

  /** What stands from `from` to the head was copied there, or is what a turn of segment took. */
  #notePacked(from: number, ofBlocks: number): void {
    const { head, segments, segmentSize } = this.#journal;
    const last = segments.numberOf(head - 1);
    for (let number = segments.numberOf(from); number <= last; number += 1) {
      const packed = this.#packed.get(number) ?? { size: 0, ofBlocks: 0 };
      packed.size += Math.min(head, (number + 1) * segmentSize) - Math.max(from, number * segmentSize);
      if (number === last) packed.ofBlocks += ofBlocks;
      this.#packed.set(number, packed);
    }
  }

  #passesOver(number: number): boolean {
    const { head, segmentSize, order } = this.#journal;
    const then = this.#passedOver.get(number);
    if (then === undefined || head - then.head >= segmentSize) return false;
    return !this.#isPressed || order!.listsEnded === then.listsEnded;
  }

  #smallestBlock(): number {
    let shift = 16;
    for (const volume of this.#journal.volumes.values()) shift = Math.min(shift, volume.blockShift);
    return 2 ** shift;
  }

  /** Nothing can be cleaned although the journal is over its soft limit. */
  #underPressure(): void {
    const journal = this.#journal;
    if (!this.#isPressed) return;
    const checkpoint = this.#owner.checkpointPosition();
    if (checkpoint < journal.written - journal.room.limit / 4 && checkpoint < this.#owner.replayFrom())
      this.#owner.wantCheckpoint();
    if (this.#owner.checkpointFailed()) return; // whatever is given up, that would be no room
    if (this.#pinned.size > 0) {
      // what the peer takes makes room as well; once it stands still it may be for want of this room
      if (this.#retains && this.#owner.peerIsComing() && this.#owner.peerIsTaking()) return;
      this.counters.viewsDropped += this.#pinned.size;
      this.#owner.dropViews();
    } else if (this.#retains && !this.#owner.peerIsComing() && this.#givesUpRetention) {
      this.counters.retentionGivenUp += 1;
      this.#owner.giveUpRetention();
    }
  }

  /** Reads the next piece of the victim, then copies its live blocks to the head. */
  #copyNext(): void {
    const journal = this.#journal;
    const victim = this.#victim!;
    const left = victim.end - victim.position;
    if (left <= 0 || this.#liveness.liveBlocks(victim.segment.number) === 0) {
      this.counters.segmentsCleaned += 1;
      this.#finishVictim();
      return;
    }
    this.#busy = true;
    const size = Math.min(this.#buffer.size, left);
    const offset = victim.position % journal.segmentSize;
    this.#offload.load(victim.segment.file.fd, offset, size, this.#buffer.at, (error, bytes) => {
      if (error === null) return this.#move(0, bytes);
      if (this.#stopped || journal.failed !== null) return this.#giveUp();
      this.#busy = false;
      this.counters.readErrors += 1;
      this.#noteRefused(victim.segment.number);
      this.#finishVictim();
    });
  }

  /** Others are emptied meanwhile; and hosts do not wait for ever for a segment that stays as it is. */
  #noteRefused(number: number): void {
    const times = (this.#refused.get(number)?.times ?? 0) + 1;
    if (times < SEGMENT_READS_MAX) {
      this.#refused.set(number, { times, againAt: this.#nowMs + SEGMENT_READ_RETRY_MS * 2 ** (times - 1) });
      return;
    }
    this.#refused.delete(number);
    this.#damaged.add(number);
    this.counters.damaged += 1;
  }

  /**
   * Copies live blocks of the records in [from, bytes) of the buffer; goes on in another turn after a step, and when the
   * ring was full, as soon as it has room. Headers are checked, and of the blocks those that live: most do not, and are
   * not looked at.
   */
  #move(from: number, bytes: number): void {
    const journal = this.#journal;
    if (this.#stopped || journal.failed !== null) return this.#giveUp();
    const victim = this.#victim!;
    const { view } = journal.memory;
    const header = this.#header;
    const stepEnd = journal.head + STEP_SIZE_MAX;
    let good = from;
    while (good < bytes) {
      const at = this.#buffer.at + good;
      if (journal.kernel.checkHeader(at, bytes - good) === 0 || header.read(view, at).size > bytes - good) break;
      const hasBlocks = header.type === TYPE_WRITE || header.type === TYPE_BASE || header.type === TYPE_RELOCATED;
      const outcome = hasBlocks && journal.head < stepEnd ? this.#moveRecord(at, victim.position + good) : 'moved';
      // in both cases the rest of this record's live blocks is found again by the map
      if (outcome === 'full') {
        this.#waiting = { from: good, bytes };
        return;
      }
      if (journal.head >= stepEnd) {
        const resume = good;
        this.#defer(() => this.#move(resume, bytes));
        return;
      }
      if (outcome === 'rotten') break;
      good += header.size;
    }
    this.#busy = false;
    victim.position += good;
    // a PAD ends the segment, and its body may be beyond what was written: that is the end, not damage
    const next = good < bytes ? header.read(view, this.#buffer.at + good) : null;
    const atPad = next !== null && bytes - good < RECORD_SIZE_MAX && next.type === TYPE_PAD;
    const partial = good < bytes && bytes === this.#buffer.size && good > 0;
    if (bytes > 0 && (good === bytes || partial)) {
      this.#defer(() => this.poke());
      return;
    }
    if (!atPad && this.#liveness.liveBlocks(victim.segment.number) > 0) {
      this.#damaged.add(victim.segment.number);
      this.counters.damaged += 1;
    }
    this.#finishVictim();
    this.#defer(() => this.poke());
  }

  #finishVictim(): void {
    this.#release();
    this.#journal.sync();
    this.#freeDead();
  }

  #giveUp(): void {
    this.#busy = false;
    this.#release();
  }

  #release(): void {
    this.#journal.segments.release(this.#victim!.segment);
    this.#victim = null;
  }

  /** Does the block show this record, and is that settled? */
  #shows(map: BlockMap, volume: number, lba: number, position: number, index: number): boolean {
    if (!map.lookup(lba) || map.zero || map.position !== position || map.index !== index) return false;
    if (this.#journal.order === null || !this.#journal.order.isListed(volume, lba)) return true;
    const { head, order } = this.#journal;
    this.#passedOver.set(this.#victim!.segment.number, { head, listsEnded: order.listsEnded });
    return false;
  }

  /** @returns 'full' when the ring has no room now, 'rotten' when a block that lives does not match its checksum */
  #moveRecord(at: number, position: number): 'moved' | 'full' | 'rotten' {
    const journal = this.#journal;
    const { volume: number, lba, blockCount, blockShift } = this.#header;
    const volume = journal.volumes.get(number);
    if (volume === undefined) return 'moved';
    const { map } = volume;
    let index = 0;
    while (index < blockCount) {
      if (!this.#shows(map, number, lba + index, position, index)) {
        index += 1;
        continue;
      }
      let count = 1;
      while (index + count < blockCount && this.#shows(map, number, lba + index + count, position, index + count)) {
        count += 1;
      }
      const payload = at + AT_CHECKSUMS + 8 * blockCount + (index << blockShift);
      if (journal.kernel.checkBlocks(at, payload, index, count) < count) return 'rotten';
      const from = journal.head;
      const to = journal.reserve(TYPE_RELOCATED, 0, number, lba + index, count, blockShift, 0, position, index);
      if (to < 0) return 'full';
      const { bytes } = journal.memory;
      copyBytes(bytes, to, bytes.subarray(payload, payload + (count << blockShift)));
      const moved = journal.pendingPosition;
      journal.publish();
      this.#notePacked(from, count << blockShift);
      for (let i = 0; i < count; i += 1) map.compareAndSwing(lba + index + i, position, index + i, moved, i);
      this.counters.blocksMoved += count;
      this.counters.bytesMoved += recordSize(TYPE_RELOCATED, count, blockShift);
      index += count;
    }
    return 'moved';
  }
}
