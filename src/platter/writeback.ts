/**
 * Flat platters: copies what the journal holds into the image, in the background, and lets go of it.
 *
 * The journal is a write-ahead log in front of the image. The map of a flat volume knows only blocks whose newest
 * version is still in the journal; everything else stands in the image. A round takes the mapped blocks as they are,
 * writes them to the image, syncs it, and then drops the pointers that have not moved on. After a crash the journal is
 * replayed and the round happens again: writing a block twice does no harm.
 *
 * What was written to an image that has been removed, or that another file has taken the name of, nobody finds again: a
 * round looks, before it writes and before it lets go.
 *
 * An image that fails is tried again, less and less often; the others go on, and the journal keeps what it lacks.
 */
import { ForelockError } from '../errors.js';
import { UNMAPPED, ZERO } from '../journal/map.js';
import type { ImageSource } from '../journal/reader.js';
import { IMAGE_RETRY_MS_MAX, IMAGE_RETRY_MS_MIN, MIB } from '../limits.js';
import type { Group } from '../volume/group.js';
import type { OpenedState } from '../volume/group-state.js';
import type { Volume } from '../volume/volume.js';
import type { FlatImage } from './flat.js';

/** Mapped bytes of a flat volume that start a round: enough to write in order of address, little enough to stay in the ring. */
const ROUND_BYTES = 32 * MIB;
const PIECE_BYTES = MIB;

/** An image whose last round failed. */
interface Ill {
  error: Error;
  /** When it is tried again, and how long it was left alone for that. */
  retryAt: number;
  waitMs: number;
}

export class Writeback {
  readonly #group: Group;
  readonly #images = new Map<number, FlatImage>();
  readonly #ill = new Map<number, Ill>();
  #running = false;
  /** A host waits for room in the journal. */
  #isWanted = false;
  /** The volume of the last round. */
  #served = 0;
  #held = 0;
  readonly counters = { rounds: 0, blocksWritten: 0, errors: 0 };

  constructor(group: Group, state: OpenedState) {
    this.#group = group;
    for (const [number, image] of state.images) this.#images.set(number, image);
  }

  image(volume: number): ImageSource | null {
    return this.#images.get(volume) ?? null;
  }

  /** Keeps the images still: a view is pinned over them. */
  hold(): void {
    this.#held += 1;
  }

  resume(): void {
    this.#held -= 1;
  }

  /** Why the newest blocks of a volume are not in its image; null: nothing is known to be wrong with it. */
  illness(volume: number): string | null {
    return this.#ill.get(volume)?.error.message ?? null;
  }

  /** What keeps the journal from being emptied into images, for a sentence; null: nothing. */
  get obstacle(): string | null {
    const found = this.#ill.entries().next();
    if (found.done) return null;
    const [number, { error }] = found.value;
    return `the image of volume ${this.#group.volumes.get(number)!.name} (${error.message})`;
  }

  /** Whether the next rounds make room in the journal: hosts wait for it. An image that fails is not waited for. */
  get makesRoom(): boolean {
    if (this.#held > 0) return false;
    for (const number of this.#images.keys())
      if (!this.#ill.has(number) && this.#group.volumes.get(number)!.map.mappedCount > 0) return true;
    return false;
  }

  /** A host waits for room in the journal: a round begins soon, and not with the next tick. */
  makeRoom(): void {
    if (this.#isWanted || this.#images.size === 0) return;
    this.#isWanted = true;
    this.#group.defer(() => this.poke()); // who asks is in the middle of something
  }

  /** Begins a round if enough has gathered, or somebody waits for it. */
  poke(): void {
    if (this.#running) return; // and is looked at when that is over
    const isWanted = this.#isWanted;
    this.#isWanted = false;
    if (this.#held > 0 || this.#images.size === 0) return;
    const { journal } = this.#group;
    if (journal.failed !== null || journal.diskFull) return; // what has to be durable before it is not
    const volume = this.#next(isWanted);
    if (volume === null) return;
    this.#running = true;
    this.#served = volume.number;
    this.#round(volume)
      .then((error) => this.#note(volume, error))
      .finally(() => {
        this.#running = false;
        if (this.#isWanted) this.poke();
      });
  }

  /** Whose round it is: they take turns, or the first one that always has something would be the only one. */
  #next(isWanted: boolean): Volume | null {
    const { journal, volumes, cleaner } = this.#group;
    const pressed = isWanted || journal.segments.used > cleaner.softLimit;
    const now = this.#group.nowMs();
    const numbers = [...this.#images.keys()];
    const from = numbers.indexOf(this.#served) + 1;
    for (const number of [...numbers.slice(from), ...numbers.slice(0, from)]) {
      if (now < (this.#ill.get(number)?.retryAt ?? 0)) continue;
      const volume = volumes.get(number)!;
      const { entryCount, mappedCount } = volume.map;
      if ((pressed && entryCount > 0) || mappedCount * volume.blockSize >= ROUND_BYTES) return volume;
    }
    return null;
  }

  /** How a round ended: its first error is told, and that it is over. */
  #note(volume: Volume, error: Error | null): void {
    const { journal } = this.#group;
    if (error !== null && (journal.failed !== null || journal.diskFull)) return; // the journal's own, and told as such
    const was = this.#ill.get(volume.number);
    if (error === null) {
      if (was === undefined) return;
      this.#ill.delete(volume.number);
      this.#group.tell(`the image of volume ${volume.name} is written again: it goes on`);
      return;
    }
    const waitMs = was === undefined ? IMAGE_RETRY_MS_MIN : Math.min(2 * was.waitMs, IMAGE_RETRY_MS_MAX);
    this.#ill.set(volume.number, { error, waitMs, retryAt: this.#group.nowMs() + waitMs });
    if (was !== undefined) return;
    this.#group.tell(
      `the image of volume ${volume.name} cannot be written (${error.message}): the journal keeps what it lacks, and it is tried again`,
    );
  }

  /**
   * Everything into the images: a clean stop leaves them whole for other tools, or says that they are not. No round begins
   * any more: they may be closed.
   */
  async drain(): Promise<void> {
    this.hold();
    while (this.#running) await new Promise<void>((resolve) => this.#group.defer(resolve));
    for (const [number] of this.#images) {
      const volume = this.#group.volumes.get(number)!;
      const error = await this.#round(volume);
      if (error === null) continue;
      this.#group.tell(
        `the image of volume ${volume.name} is not whole (${error.message}): the journal has the rest, start again before anything else uses the image`,
      );
    }
  }

  /** @returns why not all of it is in the image: the journal still has everything, and the next round tries again */
  async #round(volume: Volume): Promise<Error | null> {
    const image = this.#images.get(volume.number)!;
    const { map } = volume;
    const { journal } = this.#group;
    const { head } = journal;
    // a standby's journal is ahead of its map: what is applied later stands before the head, too, and must not be dropped
    const upTo = this.#group.mirror.replayFrom;
    const view = map.snapshot();
    const live = this.#group.cleaner.pinLive();
    const written: { lba: number; blockCount: number; zero: boolean }[] = [];
    try {
      // the image may not be ahead of the journal: what it shows must be replayable
      await this.#untilDurable(head);
      await call((done) => image.inspect(done));
      for (let lba = 0; lba < view.blockCount; ) {
        const at = lba;
        const count = view.run(at, PIECE_BYTES / volume.blockSize);
        const { status } = view;
        lba += count;
        if (status === UNMAPPED) continue;
        if (status === ZERO) await call((done) => image.zero(at * volume.blockSize, count * volume.blockSize, done));
        else {
          const bytes = new Uint8Array(count * volume.blockSize);
          await call((done) =>
            this.#group.reader.read(view, volume.number, volume.blockShift, at, count, bytes, image, done),
          );
          await call((done) => image.write(at * volume.blockSize, [bytes], done));
        }
        this.counters.blocksWritten += count;
        written.push({ lba: at, blockCount: count, zero: status === ZERO });
      }
      await call((done) => image.sync(done));
      await call((done) => image.inspect(done)); // another file may have taken its name meanwhile
      for (const { lba, blockCount, zero } of written) {
        if (zero) map.dropZero(lba, blockCount);
        else for (let i = 0; i < blockCount; i += 1) map.drop(lba + i, upTo);
      }
      this.counters.rounds += 1;
      return null;
    } catch (error) {
      this.counters.errors += 1;
      return error as Error;
    } finally {
      view.release();
      this.#group.cleaner.unpinLive(live);
    }
  }

  async #untilDurable(position: number): Promise<void> {
    const { journal } = this.#group;
    while (journal.durable < position) {
      if (journal.failed !== null) throw new ForelockError('EIO', journal.failed.message);
      // a stop would wait for room, and whoever can make some may be waiting for the stop
      if (journal.diskFull) throw new ForelockError('ENOSPC', 'the disk of the journal is full');
      journal.sync();
      await new Promise<void>((resolve) => this.#group.whenDurable(resolve));
    }
  }
}

function call(start: (done: (error: Error | null) => void) => void): Promise<void> {
  return new Promise((resolve, reject) => start((error) => (error ? reject(error) : resolve())));
}
