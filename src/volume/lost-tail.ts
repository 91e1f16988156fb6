/**
 * A lost tail on its way back: records that the author of a stream lost in a crash, and that its peer still has.
 *
 *     TailSender, at the peer     START, and the author's stream behind what it has, as it stands in the journal here
 *     TailTaker, at the author    into the journal and the maps, as when it was written; once all that was agreed on is
 *                                 durable, the link is closed, and both begin again
 *
 * Records are taken in order, and only while nobody is served; what came stays, whatever becomes of the link.
 * There is no credit: an author that has no room lets the link wait.
 */
import { TYPE_BASE } from '../../assembly/layout.js';
import { ForelockError } from '../errors.js';
import { RecordHeader } from '../journal/record.js';
import { StreamReader, type Stretch } from '../journal/stream-reader.js';
import { FRAME_SIZE_MAX, LINK_BUFFER_MAX } from '../limits.js';
import { CLOSE_NORMAL, CLOSE_PROTOCOL, type Link } from '../link/link.js';
import type { Decision, SiteState } from '../mirror/decide.js';
import { KIND_START, type Start, WireEncoder } from '../mirror/wire.js';
import type { Group } from './group.js';
import { historyOf } from './group-state.js';
import type { Serving } from './serving.js';

/** The link on which a tail comes back, and what ends it. */
export interface TailLine {
  readonly link: Link;
  /** Is it the pair's link still? */
  isUp(): boolean;
  /** Runs what may find the peer's records, or this site's, to be wrong: then the link is closed, with the reason. */
  guard(work: () => void): void;
  readonly counters: { tailRecordsReturned: number; tailRecordsRecovered: number };
}

/** A stretch that leaves in pieces. It is given back once all of them have left and no more follow. */
interface Parted extends Stretch {
  /** Bytes sent. */
  offset: number;
  /** Pieces on their way, and one more while others follow. */
  users: number;
}

/**
 * Sends back the author's stream behind `decision.from`, through `decision.through`. There is one for all links: what an
 * earlier one reads from files, or still has on its way, stands in the memory that the next one reads into.
 */
export class TailSender {
  readonly #group: Group;
  readonly #encoder = new WireEncoder();
  readonly #reader: StreamReader;
  /** Where both sites write, what a record had seen of this site's stream goes in front of it: it may be lost with it. */
  readonly #seen: StreamReader;
  #seenThrough = 0;
  readonly #header = new RecordHeader();
  #line: TailLine | null = null;
  #decision!: Decision;
  /** What the reader gave last, of which there is more to send. */
  #stretch: Parted | null = null;

  constructor(group: Group) {
    const { journal, state } = group;
    this.#group = group;
    const [first, second] = state.regions.tail;
    const pump = (): void => this.#pump();
    this.#reader = new StreamReader(journal, state.offload, journal.peer.site, first!, pump);
    this.#seen = new StreamReader(journal, state.offload, journal.own.site, second!, pump);
  }

  /**
   * @param author what it said of itself
   * @throws ForelockError the journal is damaged where the tail begins
   */
  begin(decision: Decision, author: SiteState, line: TailLine): void {
    const { journal, state, order } = this.#group;
    const { link } = line;
    const { epoch, row, stream, from } = decision;
    this.#line = line;
    this.#decision = decision;
    this.#seenThrough = order === null ? Number.POSITIVE_INFINITY : (author.streams[journal.own.site] ?? 0);
    const start: Start = {
      epoch,
      row,
      action: 'replay',
      stream,
      from,
      base: null,
      onReject: 'target-retry',
      confirmed: 0,
      granted: 0,
      meeting: null,
      ...historyOf(state.superblock),
    };
    link.send(this.#encoder.control({ kind: KIND_START, start }), null, null);
    if (stream !== journal.peer.site || !this.#reader.seek(from + 1)) {
      if (this.#reader.damage !== null) throw this.#reader.damage;
      link.close(CLOSE_PROTOCOL, `the journal no longer holds sequence ${from + 1} of the lost tail`);
      return;
    }
    if (this.#seenThrough < journal.own.appended && !this.#seen.seek(this.#seenThrough + 1)) {
      if (this.#seen.damage !== null) throw this.#seen.damage;
      link.close(
        CLOSE_PROTOCOL,
        `the journal no longer holds sequence ${this.#seenThrough + 1}, which the tail had seen`,
      );
      return;
    }
    link.onDrain = () => this.#pump();
    this.#pump();
  }

  /** The link is gone, or the tail is sent: nothing more is. */
  close(): void {
    this.#line = null;
    if (this.#stretch !== null) this.#left(this.#stretch);
    this.#stretch = null;
  }

  #pump(): void {
    const line = this.#line;
    line?.guard(() => this.#send(line));
  }

  #send(line: TailLine): void {
    const { memory } = this.#group.journal;
    const { through } = this.#decision;
    const header = this.#header;
    while (line.isUp() && line.link.bufferedBytes < LINK_BUFFER_MAX) {
      if (this.#stretch === null) {
        if (this.#reader.nextSequence > through) return;
        const next = this.#reader.next(through, FRAME_SIZE_MAX);
        if (next !== null) this.#stretch = { ...next, offset: 0, users: 1 };
      }
      if (this.#reader.damage !== null) throw this.#reader.damage;
      const stretch = this.#stretch;
      if (stretch === null) return;
      const { at, size } = stretch;
      const next = header.read(memory.view, at + stretch.offset);
      if (next.seen > this.#seenThrough) {
        const before = this.#seen.next(next.seen, FRAME_SIZE_MAX);
        if (before === null) {
          if (this.#seen.damage !== null) throw this.#seen.damage;
          return;
        }
        this.#seenThrough = before.first + before.count - 1;
        this.#say(line, before.first, before.count, before.at, before.size, before.release);
        continue;
      }
      const from = stretch.offset;
      const first = next.sequence;
      let count = 0;
      while (stretch.offset < size && header.read(memory.view, at + stretch.offset).seen <= this.#seenThrough) {
        stretch.offset += header.size;
        count += 1;
      }
      line.counters.tailRecordsReturned += count;
      stretch.users += 1;
      this.#say(line, first, count, at + from, stretch.offset - from, () => this.#left(stretch));
      if (stretch.offset < size) continue;
      this.#stretch = null;
      this.#left(stretch);
    }
  }

  #left(stretch: Parted): void {
    stretch.users -= 1;
    if (stretch.users === 0) stretch.release();
  }

  #say(line: TailLine, first: number, count: number, at: number, size: number, left: () => void): void {
    const { journal } = this.#group;
    const data = {
      epoch: this.#decision.epoch,
      attempt: 0,
      first,
      count,
      size,
      durable: 0,
      appended: this.#decision.through,
      clock: journal.stamp,
      returned: true,
      baseEnd: false,
    };
    line.link.send(this.#encoder.data(data), journal.memory.bytes.subarray(at, at + size), left);
  }
}

/** Takes this site's own stream back, through the sequence that was agreed on. */
export class TailTaker {
  readonly #group: Group;
  readonly #through: number;
  readonly #serving: Serving;
  readonly #line: TailLine;
  /** What found no room, and all that came behind it. */
  readonly #kept: Uint8Array[] = [];

  constructor(group: Group, through: number, serving: Serving, line: TailLine) {
    this.#group = group;
    this.#through = through;
    this.#serving = serving;
    this.#line = line;
  }

  /**
   * @param stretch records, lent for this call
   * @throws ForelockError PEER_PROTOCOL: one of them is not what has to come next
   */
  take(stretch: Uint8Array): void {
    const waits = this.#kept.length > 0;
    if (!waits && this.#append(stretch)) return;
    this.#kept.push(stretch.slice());
    if (waits) return;
    this.#line.link.pauseReceiving(); // what was read already still comes
    this.#group.beforeHosts(() => this.#takeKept());
  }

  /** What comes next is due from this site's own disk: room, or that all of it is durable. */
  get isWriting(): boolean {
    return this.#kept.length > 0 || this.#group.journal.own.appended >= this.#through;
  }

  /** The link is gone, and what was not taken comes again on the next one. */
  close(): void {
    this.#kept.length = 0;
  }

  /** @returns false: no room yet */
  #takeKept(): boolean {
    while (this.#kept.length > 0) {
      let taken: boolean | null = null;
      this.#line.guard(() => {
        taken = this.#append(this.#kept[0]!);
      });
      if (taken === false) return false;
      if (taken === null)
        this.close(); // the link is closed, for what it brought
      else this.#kept.shift();
    }
    // what comes behind it may be here already, and comes in this call
    if (this.#line.isUp()) this.#line.link.resumeReceiving();
    return true;
  }

  /** @returns false: no room now */
  #append(stretch: Uint8Array): boolean {
    const group = this.#group;
    const { journal } = group;
    const header = new RecordHeader();
    const bytes = journal.accept(stretch, (at, position) => {
      header.read(journal.memory.view, at);
      if (header.type >= TYPE_BASE || journal.misplaced(header) !== null) return false;
      if (header.clock > journal.stamp) journal.stamp = header.clock;
      if (header.site !== journal.own.site) return group.receiver?.takeReturned(header, position) ?? false;
      if (header.sequence !== journal.own.appended + 1) return false;
      if (journal.order !== null && header.seen > journal.peer.appended) return false;
      journal.own.appended = header.sequence;
      if (journal.order !== null) journal.order.own(header, position);
      else journal.follow(header, position);
      if (header.blockShift > 0) journal.noteChecksums(at, header, position);
      group.scopes.seen(header);
      this.#line.counters.tailRecordsRecovered += 1;
      return true;
    });
    if (bytes < 0) return journal.failed !== null && this.#cannotKeep(journal.failed);
    if (bytes < stretch.length)
      throw new ForelockError('PEER_PROTOCOL', `the returned tail is damaged behind sequence ${journal.own.appended}`);
    this.#serving.tailCame();
    if (journal.own.appended >= this.#through) this.#endOnceDurable();
    return true;
  }

  #endOnceDurable(): void {
    if (!this.#line.isUp()) return;
    const { journal } = this.#group;
    if (journal.own.durable >= this.#through) return this.#line.link.close(CLOSE_NORMAL, 'the lost tail is back');
    if (journal.failed !== null) return void this.#cannotKeep(journal.failed);
    journal.sync();
    this.#group.whenDurable(() => this.#endOnceDurable());
  }

  /** The disk has failed, and never has the tail: the peer is told, instead of left waiting. @returns that no more is to come */
  #cannotKeep(failed: ForelockError): true {
    this.close();
    this.#line.link.close(CLOSE_PROTOCOL, `the lost tail cannot be kept: ${failed.message}`);
    return true;
  }
}
