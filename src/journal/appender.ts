/**
 * The journal's way to the disk: sealed bytes go from the ring to the segment files, and one sync makes them durable for
 * all who wait.
 *
 *     durable <= written <= sealed
 *
 * Appends are gathered while nobody waits for them. A full disk keeps nothing from being tried again: the bytes stay in
 * the ring. So does a process that may open no more files, which has changed nothing on the disk. A disk that failed is
 * not asked again: what it holds is not known any more.
 */
import { AT_SIZE } from '../../assembly/layout.js';
import { assert } from '../assert.js';
import { ForelockError } from '../errors.js';
import { APPEND_SIZE_MAX, FULL_DISK_RETRY_MS, SYNC_BYTES_MAX, SYNC_INTERVAL_MS } from '../limits.js';
import type { Journal } from './journal.js';
import type { Segment } from './segments.js';
import type { Store } from './store.js';

/**
 * Appends are gathered up to this many bytes while nobody waits for them, for at most a tick: handing one to the disk
 * costs this thread and a helper some ten microseconds each, however small it is.
 */
const APPEND_SIZE_GATHERED = 524288;

/** Up to this many bytes a flush has appended and synced in one call; more is appended while the sync before it runs. */
const APPEND_SYNCED_MAX = 65536;

/** What an append waits for: room on the disk, or a descriptor for the next segment. */
export type Shortage = 'room' | 'descriptors';

const SHORTAGES: Partial<Record<string, Shortage>> = {
  ENOSPC: 'room',
  EDQUOT: 'room',
  EMFILE: 'descriptors',
  ENFILE: 'descriptors',
};

/** Whether that is all that is wrong: it is waited for, and nothing is lost. */
export function shortageOf({ code }: NodeJS.ErrnoException): Shortage | undefined {
  return SHORTAGES[code ?? ''];
}

/** How far both streams had come where something was sealed. */
interface Mark {
  position: number;
  own: number;
  peer: number;
}

export class Appender {
  /** Positions at record boundaries. */
  written = 0;
  durable = 0;
  /** Set when a sync failed: what lies from this position on may never be on the disk, whatever is read back. */
  suspectFrom: number | null = null;
  /** What the last append found none of, and the next may find. */
  shortage: Shortage | null = null;
  failed: ForelockError | null = null;

  readonly #journal: Journal;
  readonly #store: Store;
  readonly #sealMarks: Mark[] = [];
  /** Bodies of PADs: they are not written. */
  readonly #pads: { from: number; to: number }[] = [];
  #writing = false;
  #syncing = false;
  #closed = false;
  /** Up to here appends are not to be gathered any longer. */
  #appendWanted = 0;
  /** A position that somebody waits to be durable. */
  #syncWanted = 0;
  #lastSyncAt = 0;
  #markedDurable = 0;
  readonly #unsynced = new Set<Segment>();
  #directoryDirty = false;
  /** The disk was full, and may have room again. */
  #retryWanted = false;
  #retryAt = 0;

  constructor(journal: Journal, store: Store) {
    this.#journal = journal;
    this.#store = store;
  }

  /** All up to `head` is in the files, and durable. */
  restore(head: number): void {
    this.written = head;
    this.durable = head;
    this.#markedDurable = head;
  }

  /** All that the journal has sealed may be appended, its streams are as far as they say. */
  sealed(): void {
    const { sealed, own, peer } = this.#journal;
    this.#sealMarks.push({ position: sealed, own: own.sealed, peer: peer.sealed });
  }

  /** A PAD stands before `from`: its body ends at `to`. */
  skip(from: number, to: number): void {
    this.#pads.push({ from, to });
  }

  /** The peer's stream ends with `through` again. */
  truncatePeer(through: number): void {
    for (const mark of this.#sealMarks) mark.peer = Math.min(mark.peer, through);
  }

  /** Asks that all that is sealed is appended soon. */
  append(): void {
    this.#appendWanted = this.#journal.sealed;
    this.#journal.queuePump();
  }

  /** Asks that everything appended so far becomes durable soon. */
  sync(): void {
    if (this.#syncWanted < this.#journal.head) this.#syncWanted = this.#journal.head;
    this.#journal.queuePump();
  }

  /** A file has another name. */
  renamed(): void {
    this.#directoryDirty = true;
  }

  /** Timed work: periodic sync, retry after a full disk. */
  tick(nowMs: number): void {
    const { sealed } = this.#journal;
    if (this.diskFull && nowMs >= this.#retryAt) {
      this.#retryAt = nowMs + FULL_DISK_RETRY_MS;
      this.retry();
    }
    if (this.durable < this.written && nowMs - this.#lastSyncAt >= SYNC_INTERVAL_MS) {
      this.#lastSyncAt = nowMs;
      this.#syncWanted = Math.max(this.#syncWanted, sealed);
      this.#journal.queuePump();
    }
    if (this.written < sealed) this.append();
  }

  get diskFull(): boolean {
    return this.shortage !== null;
  }

  /** A full disk may have room again, or somebody cannot wait to know whether it has. */
  retry(): void {
    if (!this.diskFull) return;
    this.#retryWanted = true;
    this.#journal.queuePump();
  }

  /** Whether that is not known yet. */
  get isRetrying(): boolean {
    if (!this.diskFull || this.failed !== null || this.written === this.#journal.sealed) return false;
    return this.#retryWanted || this.#writing;
  }

  /** The disk has yet to answer: what it was given may land until then, also where the journal has failed. */
  get isAtWork(): boolean {
    return this.#writing || this.#syncing;
  }

  pump(): void {
    this.#pumpWrite();
    this.#pumpSync();
  }

  /** @returns whether all is in the files, and nothing is being written */
  close(): boolean {
    this.#closed = true;
    return this.written === this.#journal.head && !this.#writing && this.failed === null;
  }

  #pumpWrite(): void {
    const journal = this.#journal;
    const { segments, segmentSize, counters, room } = journal;
    if (this.#writing || this.failed) return;
    if (this.written === journal.sealed || this.#gathers) return;
    if (this.diskFull && !this.#retryWanted) return; // whoever wants room asks again and again
    this.#retryWanted = false;
    // what later bears witness that all before it was durable, should it be found damaged
    if (this.durable > this.#markedDurable && journal.mark()) this.#markedDurable = this.durable;
    const pad = this.#pads[0];
    if (pad !== undefined && pad.from === this.written) {
      this.#pads.shift();
      this.written = pad.to;
      if (this.written === journal.sealed) return;
    }
    const from = this.written;
    const number = segments.numberOf(from);
    const offset = from % segmentSize;
    let end = Math.min(journal.sealed, from - offset + segmentSize);
    const nextPad = this.#pads[0];
    if (nextPad !== undefined) end = Math.min(end, nextPad.from);
    if (end > from + APPEND_SIZE_MAX) end = this.#recordsWithin(from, APPEND_SIZE_MAX);
    let segment = segments.get(number);
    if (segment === undefined) {
      try {
        segment = segments.open(number, true);
      } catch (error) {
        return this.#writeFailed(error as NodeJS.ErrnoException);
      }
      if (segment.fileSize > 0) counters.segmentsReused += 1;
      segments.trim(room.forSpares);
      const { own, peer } = journal.streamsBefore(number * segmentSize);
      segment.ownBefore = own;
      segment.peerBefore = peer;
      this.#directoryDirty = true;
    }
    const at = journal.address(from);
    const bytes = journal.memory.bytes.subarray(at, at + end - from);
    const target = segment;
    const synced = this.#isToBeSynced(from, end);
    const done = (error: Error | null): void => {
      this.#writing = false;
      if (this.#closed) return;
      if (error) return this.#writeFailed(error, synced);
      this.shortage = null;
      counters.appends += 1;
      counters.bytesAppended += end - from;
      segments.grow(target, offset + end - from);
      segments.trim(room.forSpares);
      this.written = end;
      if (synced) {
        counters.syncs += 1;
        this.#durableTo(end);
      } else this.#unsynced.add(target);
      if (this.written - this.durable > SYNC_BYTES_MAX) this.#syncWanted = Math.max(this.#syncWanted, this.written);
      journal.offerRoom();
      journal.pump();
    };
    this.#writing = true;
    if (synced) target.file.writeSynced(bytes, offset, done);
    else target.file.write(bytes, offset, done);
  }

  /** Whether one call may write and sync [from, end): somebody waits for it, and nothing else is to be synced before it. */
  #isToBeSynced(from: number, end: number): boolean {
    return (
      from < this.#syncWanted &&
      end === this.#journal.sealed &&
      end - from <= APPEND_SYNCED_MAX &&
      !this.#syncing &&
      this.#unsynced.size === 0 &&
      !this.#directoryDirty &&
      !this.diskFull
    );
  }

  /**
   * Where whole records of at most `size` bytes from `from` end; at least one. Half a record in the file is of no use:
   * when the ring then takes its beginning for new records, it can be read from neither.
   */
  #recordsWithin(from: number, size: number): number {
    const journal = this.#journal;
    const sizeAt = (position: number): number =>
      journal.memory.view.getUint32(journal.address(position) + AT_SIZE, true);
    let end = from + sizeAt(from);
    for (let next = end + sizeAt(end); next <= from + size; next += sizeAt(next)) end = next;
    return end;
  }

  /** Whether an append is better done later, together with what comes: nobody waits for it. */
  get #gathers(): boolean {
    const { sealed, ringSize } = this.#journal;
    return (
      sealed - this.written < Math.min(APPEND_SIZE_GATHERED, ringSize / 8) &&
      this.written >= this.#appendWanted &&
      this.written >= this.#syncWanted &&
      !this.diskFull
    );
  }

  #writeFailed(error: NodeJS.ErrnoException, synced = false): void {
    const shortage = shortageOf(error);
    if (shortage === undefined) {
      if (synced) this.#syncFailed(error);
      else this.fail(error);
      return;
    }
    // nothing is lost: the bytes stay in the ring and are tried again
    const { segments, counters, listener } = this.#journal;
    segments.trim(0);
    if (!this.diskFull) counters.diskFull += 1;
    this.shortage = shortage;
    listener.durable(); // flushes that wait now fail instead of waiting for room
    this.#journal.offerRoom();
  }

  #pumpSync(): void {
    if (this.#syncing || this.failed || this.#syncWanted <= this.durable) return;
    // Let the append that holds the wanted bytes finish first: one sync then covers all of them.
    if (this.written < this.#syncWanted && !this.diskFull) return;
    const covered = this.written;
    if (covered <= this.durable || this.#sealMarks.length === 0 || this.#sealMarks[0]!.position > covered) return;
    if (this.#unsynced.size === 0 && !this.#directoryDirty) {
      this.#durableTo(covered); // nothing but a PAD's body, which is never written
      return;
    }
    this.#syncing = true;
    const segments = [...this.#unsynced];
    this.#unsynced.clear();
    let waiting = segments.length + (this.#directoryDirty ? 1 : 0);
    let firstError: Error | null = null;
    const settled = this.#directoryDirty ? this.#journal.segments.settling() : null;
    const done = (error: Error | null): void => {
      firstError ??= error;
      waiting -= 1;
      if (waiting > 0) return;
      this.#syncing = false;
      if (this.#closed) return;
      if (firstError) return this.#syncFailed(firstError);
      settled?.();
      this.#journal.counters.syncs += 1;
      this.#durableTo(covered);
      this.#journal.pump();
    };
    if (this.#directoryDirty) {
      this.#directoryDirty = false;
      this.#store.syncDirectory(done);
    }
    for (const segment of segments) segment.file.sync(done);
  }

  #durableTo(covered: number): void {
    let mark: Mark | undefined;
    while (this.#sealMarks.length > 0 && this.#sealMarks[0]!.position <= covered) mark = this.#sealMarks.shift();
    if (mark === undefined) return;
    const { own, peer, sealed, head, listener } = this.#journal;
    this.durable = mark.position;
    own.durable = mark.own;
    peer.durable = mark.peer;
    assert(
      this.durable <= this.written && this.written <= sealed && sealed <= head,
      'durable <= written <= sealed <= head',
    );
    listener.durable();
  }

  /** It may have dropped the dirty pages: trying again would report success for lost bytes. */
  #syncFailed(error: Error): void {
    this.suspectFrom = this.durable;
    this.fail(error);
  }

  /** Nothing is written any more. */
  fail(error: Error): void {
    if (this.failed) return;
    this.failed = new ForelockError(
      'EIO',
      `the journal can no longer be written (${error.message}); what was answered and is not on it is in memory only, and at the peer as far as that has it. Mend the disk and restart: what is not on it for certain is dropped then`,
      { cause: error },
    );
    this.#journal.listener.failed(this.failed);
  }
}
