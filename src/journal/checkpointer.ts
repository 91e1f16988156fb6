/**
 * Checkpoints: every so often the changed pages of the maps go to disk, so that recovery replays a bounded stretch.
 *
 *     idle --enough journal, or asked--> pages frozen --pages on disk--> journal durable up to there --superblock--> idle
 *
 * The superblock names the new checkpoint only when both the pages and every record they point to are durable. One that
 * failed is tried again, after a pause: a disk may refuse faster than anything else gets its turn.
 */
import { ForelockError } from '../errors.js';
import { CHECKPOINT_STRETCH_MAX, DEAD_SCOPES_MAX, FULL_DISK_RETRY_MS } from '../limits.js';
import type { OpenScope } from '../mirror/target.js';
import type { OpenedState } from '../volume/group-state.js';
import type { MapLog } from './map-log.js';
import type { OrderState } from './superblock.js';

/** What the owner of the streams knows at the moment of a checkpoint. */
export interface CheckpointCursors {
  /** Position from which replay must begin: the first record that the maps do not show, or the head. */
  position: number;
  peerReceived: number;
  peerApplied: number;
  /** Explicit scopes of the peer that are open at `peerApplied`. */
  openScopes: OpenScope[];
  /** Progress of an unfinished first copy: true once everything up to the head is durable. */
  base: { next: { volume: number; lba: number }; end: number | null } | null;
  /** And of this site's own stream. */
  ownScopes: OpenScope[];
  /** Where both sites write: own records before `position`, and what the order of scopes needs to go on from there. */
  order: { own: number; state: OrderState; withBase<T>(snapshot: () => T): T } | null;
}

export class Checkpointer {
  /** Replay begins here. */
  position: number;
  /** Checkpoints begun, and the last one of them that is on disk. */
  #begun = 0;
  #done = 0;
  readonly counters = { checkpoints: 0, failures: 0 };
  readonly #state: OpenedState;
  readonly #cursors: () => CheckpointCursors;
  readonly #onDone: () => void;
  readonly #defer: (task: () => void) => void;
  #running = false;
  #wanted = false;
  /** Of a stop: none begins any more but the last one, and none waits for room on the disk. */
  #finishing = false;
  /**
   * Head when the last checkpoint was begun: one is due when the journal has grown enough since. Of an earlier life's it
   * is where replay begins, or a process that is killed again and again would replay more each time.
   */
  #begunAt: number;
  #waiting: { position: number; then: () => void } | null = null;
  /** As of the last tick, ms. */
  #nowMs = 0;
  /** None begins before, ms. */
  #retryAt = 0;
  #hasFailed = false;

  constructor(
    state: OpenedState,
    cursors: () => CheckpointCursors,
    onDone: () => void,
    defer: (task: () => void) => void,
  ) {
    this.#state = state;
    this.#cursors = cursors;
    this.#onDone = onDone;
    this.#defer = defer;
    this.position = state.superblock.checkpoint.position;
    this.#begunAt = this.position;
  }

  /** The number of the last checkpoint that is on disk, and of the next one to begin. */
  get number(): { done: number; next: number } {
    return { done: this.#done, next: this.#begun + 1 };
  }

  get running(): boolean {
    return this.#running;
  }

  /** The last one failed: when the next will be on the disk, nobody knows. */
  get hasFailed(): boolean {
    return this.#hasFailed;
  }

  /** Bytes of journal between checkpoints: each writes nearly all pages again where blocks are written at random. */
  get stretch(): number {
    return Math.min(CHECKPOINT_STRETCH_MAX, (3 * this.#state.journal.room.limit) / 8);
  }

  /** Asks for a checkpoint soon. */
  request(): void {
    this.#wanted = true;
    this.poke();
  }

  tick(nowMs: number): void {
    this.#nowMs = nowMs;
    this.poke();
  }

  /** Begins a checkpoint if one is due. Cheap otherwise. */
  poke(): void {
    const { journal, order } = this.#state;
    const waiting = this.#waiting;
    if (waiting !== null && this.#isOver(waiting.position)) {
      this.#waiting = null;
      waiting.then();
    }
    if (this.#running || this.#finishing || journal.failed !== null || journal.diskFull) return;
    if (this.#nowMs < this.#retryAt) return;
    const isDue = journal.head - this.#begunAt >= this.stretch || (order?.conflicts.deadSince ?? 0) >= DEAD_SCOPES_MAX;
    if (!this.#wanted && !isDue) return;
    // a batch may be with the pool, and its checksums belong to the pages: then a little later
    if (this.#isSealed() && !order?.isUndecided) this.#begin(false, () => {});
    else this.#wanted = true;
  }

  #isSealed(): boolean {
    const { journal } = this.#state;
    journal.sealNow();
    return journal.sealed === journal.head;
  }

  /** The last checkpoint of a clean stop, when nothing is appended any more. */
  async finish(clean: boolean): Promise<void> {
    const { journal } = this.#state;
    this.#finishing = true;
    while (this.#running || !this.#isSealed()) {
      if (journal.failed !== null) return;
      await new Promise<void>((resolve) => this.#defer(resolve));
    }
    // no room for the ABORT of a dead scope: the next start says it
    if (this.#state.order?.isUndecided) return;
    await new Promise<void>((resolve) => this.#begin(clean, resolve));
  }

  #begin(clean: boolean, done: () => void): void {
    const { journal, mapLog, superblock } = this.#state;
    this.#running = true;
    this.#wanted = false;
    this.#begun += 1;
    const number = this.#begun;
    const { head } = journal;
    this.#begunAt = head;
    const cursors = this.#cursors();
    const { inconsistent } = superblock;
    const own = journal.own.appended;
    const { stamp } = journal;
    const end = (error: Error | null): void => {
      this.#running = false;
      this.#hasFailed = error !== null;
      if (error === null) this.counters.checkpoints += 1;
      else {
        this.counters.failures += 1;
        this.#wanted = true;
        this.#retryAt = this.#nowMs + FULL_DISK_RETRY_MS;
      }
      this.#onDone();
      done();
    };
    const { order } = cursors;
    const written: Parameters<MapLog['checkpoint']>[2] = (error, place) => {
      // in a turn of its own: it may be answered before this one is over
      if (error !== null || place === null) return this.#defer(() => end(error));
      this.#whenDurable(head, () => {
        if (journal.failed !== null) return end(journal.failed);
        if (journal.durable < head) return end(new ForelockError('ENOSPC', journal.shortageText));
        const before = superblock.checkpoint;
        superblock.checkpoint = {
          mapFile: place.mapFile,
          mapEnd: place.mapEnd,
          position: cursors.position,
          durable: head,
          own: order?.own ?? own,
          peer: { site: journal.peer.site, received: cursors.peerReceived, applied: cursors.peerApplied },
          openScopes: cursors.openScopes,
          ownScopes: cursors.ownScopes,
          clock: stamp,
          order: order?.state ?? null,
        };
        // Another first copy may have begun meanwhile: what was had of this one says nothing about that. Or it has ended: where
        // it does is noted by then, and what stands behind it may have come.
        const goesOn = inconsistent !== null && superblock.inconsistent === inconsistent;
        if (cursors.base !== null && goesOn && inconsistent.untilSequence === null) {
          inconsistent.base = cursors.base.next;
          inconsistent.untilSequence = cursors.base.end;
        }
        if (clean) superblock.clean = true;
        this.#state.save((saveError) => {
          if (saveError === null) {
            mapLog.removeOthers(place.mapFile);
            this.position = cursors.position;
            this.#done = number;
          } else {
            // it may be what cannot be saved, and others have something to save; should one have taken it along, both are whole
            superblock.checkpoint = before;
            superblock.clean = false;
          }
          end(saveError);
        });
      });
    };
    const snapshot = (): void => mapLog.checkpoint(cursors.position, this.#state.maps, written);
    // the pages are taken at once, and written later
    if (order === null) snapshot();
    else order.withBase(snapshot);
  }

  /** Continues in `poke`, which is called whenever the journal became more durable. */
  #whenDurable(position: number, then: () => void): void {
    const { journal } = this.#state;
    if (this.#isOver(position)) return then();
    this.#waiting = { position, then };
    journal.sync();
  }

  /** All before `position` is durable, or will not be. */
  #isOver(position: number): boolean {
    const { journal } = this.#state;
    return journal.durable >= position || journal.failed !== null || (this.#finishing && journal.diskFull);
  }
}
