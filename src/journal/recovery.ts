/**
 * Recovery: replays the journal from the last checkpoint to its end, and decides what a record that does not check is.
 *
 *     found at position P                                   it is        then
 *     P at or beyond every durable mark, nothing valid that   a torn tail  cut off at P
 *     bears a higher mark follows
 *     P below a durable mark (in the superblock, or in a      rot          refuse: STATE_CORRUPT, saying where
 *     MARK record anywhere behind P)
 *     P where the superblock says that a sync failed          suspect      cut off at P, whatever follows
 *     a record whose sequence is too high                    rot          refuse
 *     the same in a file that may be written over, beyond    left over    cut off at P
 *     every durable mark
 *     a segment that is missing or short, below a durable    rot          refuse
 *     mark or with live blocks in it
 *     a record that its file does not hold to the end        as any that does not check
 *
 * A local record that names another place or another journal does not check, however whole it is; neither does a record
 * of a stream whose sequence is too low, where not everything was durable: an earlier segment's file was written over.
 * There one that is too high may stand, too: the journal of a Forelock that runs on a mirrored volume is made of whole
 * records. What was durable stays refused all the same: a MARK behind it says so, before it or behind.
 *
 * A durable mark in a MARK record is written only after the sync that it tells of, so a mark above P proves that P was
 * once whole. Behind P every offset may be a MARK, or the middle of a payload that holds the copy of one: a state
 * directory stored inside a volume. The number of the journal tells other journals' apart. A copy of this journal's own
 * names the position where the original stood, so it counts only if it came to stand at that very position. That takes
 * a cut: the original, behind the end, was read, cut off, and written again from outside. Such a copy says nothing false
 * either: what was durable before the cut is before it, and everything before a cut is synced before the journal goes on.
 *
 * After a failed sync the page cache may show what is not on the disk, and a later sync of these pages succeeds. Nothing
 * behind the last good sync was ever answered as durable, and no MARK or checkpoint tells of it, so all of it is cut off
 * as if the power had gone; what the peer has of it comes back as the lost tail. (A sync error that no process has seen
 * yet is told to the next one that syncs the file, by Linux since 4.16.)
 *
 * A TRUNCATED takes back records of the peer that stand before it, so the newest DROP_BYTES_MAX of these are applied only
 * when they are behind, or something proves that they had been applied. One that was lost in a crash took back nothing:
 * the stream is longer then, and the same, because no source goes on from before it until it is durable (READY waits).
 *
 * Pure decisions; the only I/O is reading the files, straight into the ring's memory, where the tail stays readable
 * afterwards.
 */
import {
  AT_CHECKSUMS,
  AT_SIZE,
  AT_TYPE,
  RECORD_SIZE_MIN,
  TYPE_BASE,
  TYPE_BASE_ZERO,
  TYPE_LOCAL,
  TYPE_MARK,
  TYPE_PAD,
  TYPE_RELOCATED,
  TYPE_SEGMENT,
  TYPE_TRUNCATED,
} from '../../assembly/layout.js';
import { ForelockError } from '../errors.js';
import type { Region } from '../kernel/memory.js';
import { DROP_BYTES_MAX } from '../limits.js';
import type { Journal } from './journal.js';
import type { Liveness } from './liveness.js';
import { RecordHeader } from './record.js';
import { parseSegmentHead, SEGMENT_RECORD_SIZE } from './segment-head.js';
import { type Segment, Segments, segmentName } from './segments.js';
import type { Store } from './store.js';

/** Where the last checkpoint left off. */
export interface ReplayFrom {
  /** Replay begins here; the maps hold everything that lies before, and own and applied records up to these. */
  position: number;
  /** Everything before this was durable when the superblock was saved. */
  durable: number;
  /** A sync failed when everything before this was durable: nothing from here on counts. Infinity: none failed. */
  suspect: number;
  own: number;
  peerReceived: number;
  peerApplied: number;
  /** Base records before this are of an earlier first copy; Infinity: there is none that has to go on. */
  baseFrom: number;
}

export interface RecoveryReport {
  recordsReplayed: number;
  bytesReplayed: number;
  tornBytes: number;
  /** Behind the last base record of the unfinished first copy; null: none of it was replayed. */
  base: { volume: number; lba: number } | null;
}

/** What recovery hands to the owner for each record of a stream, to rebuild open scopes. */
export type ReplayListener = (header: RecordHeader) => void;

/**
 * @param table memory for record offsets found by a scan
 * @throws ForelockError STATE_CORRUPT for damage that is not a torn tail
 */
export function recover(
  journal: Journal,
  store: Store,
  from: ReplayFrom,
  liveness: Liveness,
  table: Region,
  onRecord: ReplayListener,
): RecoveryReport {
  const report: RecoveryReport = { recordsReplayed: 0, bytesReplayed: 0, tornBytes: 0, base: null };
  const size = journal.segmentSize;
  const view = journal.memory.view;
  const header = new RecordHeader();
  const numbers = Segments.numbersIn(store);
  journal.own.appended = from.own;
  journal.peer.appended = from.peerReceived;
  const peer = new PeerReplay(journal, from, onRecord);
  let marked = Math.max(from.position, from.durable);
  if (from.suspect < Number.POSITIVE_INFINITY) marked = Math.max(marked, from.suspect);
  let position = from.position;
  let ringFrom = position; // what stands before it is read, but nothing looks whether it checks
  const firstNumber = Math.floor(position / size);

  for (const number of numbers) {
    if (number < firstNumber || (number === firstNumber && position % size !== 0)) {
      const segment = journal.segments.open(number, false);
      readHead(journal, segment, journal.locate(number * size));
    }
  }
  if ((journal.segments.get(firstNumber)?.size ?? 0) < position % size) {
    throw corrupt(
      firstNumber,
      position % size,
      'it is missing or ends before this, where the last checkpoint was made',
    );
  }
  const last = numbers.length > 0 ? numbers[numbers.length - 1]! : -1;
  let end = -1; // position of the first bad record
  let reason = '';

  for (let number = firstNumber; number <= last && end < 0; number += 1) {
    const start = number * size;
    if (!numbers.includes(number)) {
      end = Math.max(start, position);
      reason = `${segmentName(number)} is missing`;
      break;
    }
    const segment = journal.segments.get(number) ?? journal.segments.open(number, false);
    const at = journal.address(start);
    const whole = journal.memory.bytes.subarray(at, at + size);
    const bytes = segment.file.read(whole, 0);
    whole.fill(0, bytes);
    ringFrom = Math.max(ringFrom, start - journal.ringSize + size);
    if (position < start) position = start;
    while (position < start + size) {
      const offset = position - start;
      const count = journal.kernel.scan(at + offset, size - offset, table.at, table.size / 4);
      let next = position;
      let used = 0;
      for (; used < count; used += 1) {
        const recordAt = at + offset + view.getUint32(table.at + 4 * used, true);
        header.read(view, recordAt);
        const here = start + (recordAt - at);
        if (here >= from.suspect) break;
        // what is read behind the file's end is zeroes, and may be just what is missing there
        if (recordAt - at + (header.type === TYPE_PAD ? RECORD_SIZE_MIN : header.size) > bytes) break;
        const belongs = journal.belongsAt(header, here);
        const head = header.type === TYPE_SEGMENT;
        if (head && here === start && !journal.stoodEarlier(header, here))
          readHead(journal, segment, belongs ? recordAt : -1);
        if (!belongs || head !== (here === start)) break;
        const step = stepOf(journal, header, here, from);
        // a file of full size may be written over, and a host's block in it held the journal of another Forelock
        const isBehindAll = bytes === size && here >= marked;
        if (step === 'left over' || (step === 'jump' && isBehindAll)) break;
        if (step === 'jump') {
          throw corrupt(number, recordAt - at, `${streamOf(journal, header)} jumps to sequence ${header.sequence}`);
        }
        replay(journal, header, recordAt, here, from, peer, report, onRecord);
        if (header.type === TYPE_MARK) {
          marked = Math.max(marked, header.lba);
          journal.peerApplied = Math.max(journal.peerApplied, header.scope);
          journal.order?.replayApplied(header.scope);
        }
        journal.stamp = Math.max(journal.stamp, header.clock);
        report.recordsReplayed += 1;
        next = here + header.size;
      }
      report.bytesReplayed += next - position;
      position = next;
      if (used < table.size / 4 && position < start + size) {
        end = position;
        reason = `the record at offset ${position - start} of ${segmentName(number)} does not check`;
        break;
      }
    }
  }
  if (end < 0) {
    end = position;
    reason = `${segmentName(Math.floor(end / size))} is missing`;
  }

  const higher = Math.max(marked, highestMarkBehind(journal, store, numbers, end));
  if (higher > end) {
    throw new ForelockError(
      'STATE_CORRUPT',
      `the journal is damaged in the middle: ${reason}, but everything before position ${higher} was once durable. ` +
        'Nothing was changed. Run `forelock log` on the state directory to see what is there; restore this site from its peer ' +
        '(start it as an empty standby) or from a backup',
    );
  }
  peer.settle(end); // what it overwrites may stand in segments that are gone for that
  for (const number of liveness.segments()) {
    const there = journal.segments.get(number);
    if (there === undefined || number * size >= end) {
      throw corrupt(number, 0, 'it is missing or cut off, but blocks of the volumes stand in it');
    }
    if (number < firstNumber && !isWhole(journal, there)) {
      throw corrupt(number, there.size, 'its end is missing, and blocks of the volumes stand in it');
    }
  }
  // looking behind the end went through the ring's memory
  if (last > Math.floor(end / size)) ringFrom = end;
  report.tornBytes = cutTail(journal, numbers, end);
  journal.peerApplied = peer.applied;
  journal.restore(Math.max(ringFrom, 0), end);
  return report;
}

function streamOf(journal: Journal, header: RecordHeader): string {
  return header.site === journal.own.site ? "this site's stream" : `the stream of site ${header.site}`;
}

/** How a record that checks goes on from those before it. */
function stepOf(
  journal: Journal,
  { type, site, sequence }: RecordHeader,
  position: number,
  from: ReplayFrom,
): 'follows' | 'left over' | 'jump' {
  if (type >= TYPE_LOCAL) return 'follows';
  if (sequence === 0) {
    // A base record says neither its place nor its turn. Without a first copy it can only be what a host once wrote into
    // a block: the file was a segment's that held it, and is written over up to here.
    const isExpected = position < from.durable || from.baseFrom < Number.POSITIVE_INFINITY;
    return (type === TYPE_BASE || type === TYPE_BASE_ZERO) && isExpected ? 'follows' : 'left over';
  }
  const own = site === journal.own.site;
  const { appended } = own ? journal.own : journal.peer;
  if (sequence === appended + 1) return 'follows';
  if (position >= from.durable) return sequence <= appended ? 'left over' : 'jump';
  // a checkpoint held back by unapplied records replays some that it already counts
  return sequence <= (own ? from.own : from.peerReceived) ? 'follows' : 'jump';
}

function replay(
  journal: Journal,
  header: RecordHeader,
  at: number,
  position: number,
  from: ReplayFrom,
  peer: PeerReplay,
  report: RecoveryReport,
  onRecord: ReplayListener,
): void {
  const { type } = header;
  if (type === TYPE_RELOCATED) {
    peer.settle(header.scope + 1); // what was copied from there had been applied
    const map = journal.volumes.get(header.volume)?.map;
    if (map === undefined) return;
    for (let i = 0; i < header.blockCount; i += 1) {
      map.compareAndSwing(header.lba + i, header.scope, header.seen + i, position, i);
    }
    journal.noteChecksums(at, header, position);
    return;
  }
  if (type === TYPE_TRUNCATED) peer.truncate(position, header.scope);
  if (type >= TYPE_LOCAL) return;
  const known = header.volume === 0 || journal.volumes.has(header.volume);
  if (!known)
    throw corrupt(
      Math.floor(position / journal.segmentSize),
      position % journal.segmentSize,
      `it is about volume ${header.volume}, which is unknown`,
    );
  const payload = header.blockShift > 0;
  const { order } = journal;
  if (order !== null && header.sequence > 0) {
    if (header.site === journal.own.site) {
      journal.own.appended = header.sequence;
      onRecord(header);
      journal.noteCommitted(order.own(header, position));
    } else {
      journal.peer.site = header.site;
      journal.peer.appended = header.sequence;
      order.replayReceived(header, position);
    }
    if (payload) journal.noteChecksums(at, header, position);
    return;
  }
  if (type === TYPE_BASE || type === TYPE_BASE_ZERO) {
    peer.settle(position);
    journal.apply(type, header.volume, header.lba, header.blockCount, position);
    order?.baseApplied(position);
    if (position >= from.baseFrom) report.base = { volume: header.volume, lba: header.lba + header.blockCount };
  } else if (header.site === journal.own.site) {
    peer.settle(position);
    journal.own.appended = Math.max(journal.own.appended, header.sequence);
    onRecord(header);
    const known = header.sequence <= from.own;
    journal.follow(header, position, known);
    if (known) return;
  } else {
    journal.peer.site = header.site;
    journal.peer.appended = Math.max(journal.peer.appended, header.sequence);
    peer.add(header, at, position);
    return;
  }
  if (payload) journal.noteChecksums(at, header, position);
}

interface Unsettled {
  header: RecordHeader;
  position: number;
  /** Header and checksums, for a record with payload: the ring may have gone on when it is applied. */
  head: DataView | null;
}

/**
 * Applies what was received, though no MARK says that it was applied: sessions that held locks died with the process,
 * so nothing has to wait any longer.
 */
class PeerReplay {
  applied: number;
  /** What stands before this may be older than the checkpoint that `applied` is of. */
  readonly #checkpointed: number;
  readonly #journal: Journal;
  readonly #onRecord: ReplayListener;
  /** Not applied yet, in order: a TRUNCATED may follow. */
  #unsettled: Unsettled[] = [];

  constructor(journal: Journal, from: ReplayFrom, onRecord: ReplayListener) {
    this.#journal = journal;
    this.applied = from.peerApplied;
    this.#checkpointed = from.durable;
    this.#onRecord = onRecord;
  }

  add(header: RecordHeader, at: number, position: number): void {
    if (header.sequence <= this.applied) {
      this.#journal.follow(header, position, true);
      return this.#onRecord(header);
    }
    const { memory } = this.#journal;
    const head = header.blockShift === 0 ? null : new DataView(memory.bytes.slice(at, at + header.payloadAt).buffer);
    this.#unsettled.push({ header: new RecordHeader().read(memory.view, at), position, head });
    if (position - this.#unsettled[0]!.position > 2 * DROP_BYTES_MAX) this.settle(position - DROP_BYTES_MAX);
  }

  /** Applies what stands before `position`. */
  settle(position: number): void {
    const journal = this.#journal;
    let count = 0;
    for (const { header, position: here, head } of this.#unsettled) {
      if (here >= position) break;
      count += 1;
      this.#onRecord(header);
      journal.follow(header, here);
      if (head !== null) journal.noteChecksums(0, header, here, head);
      this.applied = header.sequence;
    }
    this.#unsettled.splice(0, count);
  }

  truncate(position: number, through: number): void {
    const journal = this.#journal;
    if (through < this.applied && position >= this.#checkpointed) {
      const { segmentSize } = journal;
      const what = `it ends the peer's stream at ${through}, but ${this.applied} was applied`;
      throw corrupt(Math.floor(position / segmentSize), position % segmentSize, what);
    }
    this.#unsettled = this.#unsettled.filter(({ header }) => header.sequence <= through);
    journal.peerStaged.truncate(through);
    journal.peer.appended = through;
    journal.noteTruncated(position, through);
  }
}

/** @param at address of the segment's first record; -1 where there is none of this journal */
function readHead(journal: Journal, segment: Segment, at: number): void {
  const { memory, kernel } = journal;
  const good =
    at >= 0 &&
    memory.view.getUint8(at + AT_TYPE) === TYPE_SEGMENT &&
    kernel.verify(at, SEGMENT_RECORD_SIZE) === SEGMENT_RECORD_SIZE;
  const payload = at + AT_CHECKSUMS + 8;
  const head = good ? parseSegmentHead(memory.bytes.slice(payload, payload + 512)) : null;
  if (head === null) throw corrupt(segment.number, 0, 'its SEGMENT record is damaged, or not of this journal');
  segment.ownBefore = head.own.before;
  segment.peerBefore = head.peer.before;
  if (journal.peer.site === 0) journal.peer.site = head.peer.site;
}

/** Whether a segment holds all that it ever held: it is full, or ends with its PAD, whose body is never written. */
function isWhole(journal: Journal, segment: Segment): boolean {
  if (segment.size === journal.segmentSize) return true;
  const offset = segment.size - RECORD_SIZE_MIN;
  const at = offset < 0 ? -1 : journal.locate(segment.number * journal.segmentSize + offset);
  const { view } = journal.memory;
  return (
    at >= 0 &&
    view.getUint8(at + AT_TYPE) === TYPE_PAD &&
    view.getUint32(at + AT_SIZE, true) === journal.segmentSize - offset
  );
}

/** The highest durable mark in any whole MARK record of this journal behind `end`. */
function highestMarkBehind(journal: Journal, store: Store, numbers: readonly number[], end: number): number {
  const size = journal.segmentSize;
  const view = journal.memory.view;
  const header = new RecordHeader();
  let highest = 0;
  for (const number of numbers) {
    if ((number + 1) * size <= end) continue;
    const file = journal.segments.get(number)?.file ?? store.open(segmentName(number), false);
    const start = number * size;
    const at = journal.address(start);
    const from = Math.max(0, end - start);
    const bytes = file.read(journal.memory.bytes.subarray(at + from, at + size), from);
    for (let offset = from; offset + 80 <= from + bytes; offset += 16) {
      if (view.getUint8(at + offset + AT_TYPE) !== TYPE_MARK || view.getUint32(at + offset + AT_SIZE, true) !== 80)
        continue;
      if (journal.kernel.checkHeader(at + offset, 80) === 0) continue;
      header.read(view, at + offset);
      if (journal.belongsAt(header, start + offset)) highest = Math.max(highest, header.lba);
    }
    journal.memory.bytes.fill(0, at + from, at + size);
    if (journal.segments.get(number) === undefined) file.close();
  }
  return highest;
}

/** Cuts everything from `end` on, and removes what was kept to be written over. */
function cutTail(journal: Journal, numbers: readonly number[], end: number): number {
  journal.segments.removeSpares();
  let cut = 0;
  for (const number of numbers) {
    const start = number * journal.segmentSize;
    if (start >= end) {
      const open = journal.segments.get(number) ?? journal.segments.open(number, false);
      cut += open.size;
      journal.segments.remove(open);
    } else if (start + journal.segmentSize > end) {
      const segment = journal.segments.get(number)!;
      cut += Math.max(0, segment.size - (end - start));
      journal.segments.truncate(segment, end - start);
    }
  }
  return cut;
}

function corrupt(segment: number, offset: number, what: string): ForelockError {
  return new ForelockError(
    'STATE_CORRUPT',
    `${segmentName(segment)} at offset ${offset}: ${what}. Nothing was changed. Restore this site from its peer (start it as an empty standby) or from a backup`,
  );
}
