/**
 * Flat platters: copies what the journal holds into the image, in the background, and lets go of it.
 *
 * The journal is a write-ahead log in front of the image. The map of a flat volume knows only blocks whose newest
 * version is still in the journal; everything else stands in the image. A round takes mapped blocks as they are,
 * writes them to the image, syncs it, and then drops the pointers that have not moved on. After a crash the journal is
 * replayed and the round happens again: writing a block twice does no harm.
 *
 * A round has an end after IMAGE_ROUND_SIZE_MAX, and another one follows. It is of data, which makes room in the journal, or
 * of explicit zeroes, which make none: a whole volume may be trimmed, and no host is to wait for that.
 *
 * What was written to an image that has been removed, or that another file has taken the name of, nobody finds again: a
 * round looks, before it writes and before it lets go.
 *
 * An image that fails is tried again, less and less often; the others go on, and the journal keeps what it lacks.
 * Blocks that cannot be read from the journal are passed over, and keep their segments: the rest goes on.
 */
import { ForelockError } from '../errors.js';
import { MAPPED, type MapView, ZERO } from '../journal/map.js';
import type { ImageSource } from '../journal/reader.js';
import { IMAGE_RETRY_MS_MAX, IMAGE_RETRY_MS_MIN, IMAGE_ROUND_SIZE_MAX, MIB } from '../limits.js';
import type { Group } from '../volume/group.js';
import type { OpenedState } from '../volume/group-state.js';
import type { Volume } from '../volume/volume.js';
import type { FlatImage } from './flat.js';

/** Bytes of a flat volume that start a round: enough to write in order of address, little enough to stay in the ring. */
const ROUND_BYTES = 32 * MIB;
const PIECE_BYTES = MIB;
/** Blocks of the map that are passed over in one turn: 1 ms where it has pages for all of them, nothing where it has none. */
const SCAN_BLOCKS = 2 ** 22;
/** Blocks let go of in one turn, about 1 ms. */
const DROP_BLOCKS = 8192;

/** An image whose last round failed. */
interface Ill {
  error: Error;
  /** When it is tried again, and how long it was left alone for that. */
  retryAt: number;
  waitMs: number;
}

/** Data that could not be read from the journal when all of a volume was last gone through. */
interface Unread {
  error: Error;
  blockCount: number;
  /** When that alone is a reason to try. */
  retryAt: number;
}

/** A volume's data being gone through, in one round or several. */
interface Pass {
  /** Where the next round begins. */
  from: number;
  /** The first of what could not be read so far, and how much that is. */
  error: Error | null;
  unreadCount: number;
}

const FIRST: Pass = { from: 0, error: null, unreadCount: 0 };

interface Round extends Pass {
  volume: Volume;
  image: FlatImage;
  view: MapView;
  /** Bytes that it may still take. */
  left: number;
  written: { lba: number; blockCount: number }[];
}

/** What a round takes. */
type Kind = typeof MAPPED | typeof ZERO;

/** How a round ended. */
interface Outcome {
  /** Why what it took is not in the image: the journal still has everything, and the next round tries again. */
  error: Error | null;
  /** It had done enough before it came to the volume's end. */
  isPart: boolean;
}

export class Writeback {
  readonly #group: Group;
  readonly #images = new Map<number, FlatImage>();
  readonly #ill = new Map<number, Ill>();
  /** Of volumes whose last round of data was a part. */
  readonly #passes = new Map<number, Pass>();
  readonly #unread = new Map<number, Unread>();
  /**
   * Volumes whose image may read as what is not on its disk: after a sync that failed, also in a life before this one.
   * Only what the journal still held then may be so.
   */
  readonly #doubted = new Set<number>();
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
    for (const { number, map } of state.volumes) {
      const image = state.images.get(number);
      const isWhole = state.recovery.clean && map.entryCount === 0;
      if (image !== undefined && !image.created && !isWhole) this.#doubted.add(number);
    }
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

  /** Why blocks of a volume cannot be read from the journal: its image lacks them; null: nothing is known to be wrong. */
  damage(volume: number): string | null {
    return this.#unread.get(volume)?.error.message ?? null;
  }

  /** What keeps the journal from being emptied into images, for a sentence; null: nothing. */
  get obstacle(): string | null {
    const found = this.#ill.entries().next();
    if (found.done) return null;
    const [number, { error }] = found.value;
    return `the image of volume ${this.#group.volumes.get(number)!.name} (${error.message})`;
  }

  /**
   * Whether the next rounds make room in the journal: hosts wait for it. An image that fails is not waited for, nor what cannot
   * be read.
   */
  get makesRoom(): boolean {
    if (this.#held > 0) return false;
    for (const number of this.#images.keys()) {
      const unreadCount = this.#unread.get(number)?.blockCount ?? 0;
      if (!this.#ill.has(number) && this.#group.volumes.get(number)!.map.mappedCount > unreadCount) return true;
    }
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
    const next = this.#next(isWanted);
    if (next === null) return;
    const { volume, kind } = next;
    this.#running = true;
    this.#served = volume.number;
    this.#round(volume, kind).then(({ error, isPart }) => {
      this.#note(volume, error);
      this.#running = false;
      if (isPart || this.#isWanted) this.poke();
    });
  }

  /** Whose round it is, and of what: they take turns, or the first one that always has something would be the only one. */
  #next(isWanted: boolean): { volume: Volume; kind: Kind } | null {
    const { journal, volumes, cleaner } = this.#group;
    const pressed = isWanted || journal.segments.used > cleaner.softLimit;
    const now = this.#group.nowMs();
    const numbers = [...this.#images.keys()];
    const from = numbers.indexOf(this.#served) + 1;
    for (const number of [...numbers.slice(from), ...numbers.slice(0, from)]) {
      if (now < (this.#ill.get(number)?.retryAt ?? 0)) continue;
      const volume = volumes.get(number)!;
      const enough = pressed ? 1 : ROUND_BYTES / volume.blockSize;
      const { entryCount, mappedCount } = volume.map;
      const unread = this.#unread.get(number);
      const isDue = unread !== undefined && now >= unread.retryAt;
      const stuckCount = isDue ? 0 : (unread?.blockCount ?? 0);
      if (isDue || mappedCount - stuckCount >= enough) return { volume, kind: MAPPED };
      if (entryCount - mappedCount >= enough) return { volume, kind: ZERO };
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

  /** A pass is over: what of it could not be read is told when that begins and ends. */
  #noteUnread(volume: Volume, { error, unreadCount }: Pass): void {
    const { number, name } = volume;
    const was = this.#unread.has(number);
    if (error === null) {
      if (this.#unread.delete(number))
        this.#group.tell(`what could not be read of volume ${name} is in its image now, or was written anew`);
      return;
    }
    this.#unread.set(number, { error, blockCount: unreadCount, retryAt: this.#group.nowMs() + IMAGE_RETRY_MS_MAX });
    if (was) return;
    this.#group.tell(
      `blocks of volume ${name} cannot be read from the journal (${error.message}): its image lacks them, the rest of it is written`,
    );
  }

  /**
   * Everything into the images: a clean stop leaves them whole for other tools, or says that they are not. No round begins
   * any more: they may be closed.
   */
  async drain(): Promise<void> {
    this.hold();
    while (this.#running) await this.#turn();
    for (const [number] of this.#images) {
      const volume = this.#group.volumes.get(number)!;
      const error = await this.#empty(volume);
      if (error === null) continue;
      this.#group.tell(
        `the image of volume ${volume.name} is not whole (${error.message}): the journal has the rest, start again before anything else uses the image`,
      );
    }
  }

  /** Rounds until all that the map has is in the image; one at least, which looks whether that is still there. */
  async #empty(volume: Volume): Promise<Error | null> {
    this.#passes.delete(volume.number);
    for (let kind: Kind = MAPPED; ; ) {
      const { error, isPart } = await this.#round(volume, kind);
      if (error !== null) return error;
      if (isPart) continue;
      const { entryCount, mappedCount } = volume.map;
      if (kind === ZERO || entryCount === mappedCount) return this.#unread.get(volume.number)?.error ?? null;
      kind = ZERO;
    }
  }

  async #round(volume: Volume, kind: Kind): Promise<Outcome> {
    const { number, map } = volume;
    const image = this.#images.get(number)!;
    const { journal } = this.#group;
    const { head } = journal;
    // a standby's journal is ahead of its map: what is applied later stands before the head, too, and must not be dropped
    const upTo = this.#group.mirror.replayFrom;
    const view = map.snapshot();
    const live = kind === MAPPED ? this.#group.cleaner.pinLive() : null;
    const pass = kind === MAPPED ? (this.#passes.get(number) ?? FIRST) : FIRST; // zeroes that it took are gone from the map
    const round: Round = { ...pass, volume, image, view, left: IMAGE_ROUND_SIZE_MAX, written: [] };
    try {
      // the image may not be ahead of the journal: what it shows must be replayable
      await this.#untilDurable(head);
      await call((done) => image.inspect(done));
      await this.#copy(round, kind);
      await this.#sync(number, image);
      await call((done) => image.inspect(done)); // another file may have taken its name meanwhile
      let dropped = 0;
      for (const { lba, blockCount } of round.written) {
        if (kind === ZERO) map.dropZero(lba, blockCount);
        else for (let i = 0; i < blockCount; i += 1) map.drop(lba + i, upTo);
        dropped += blockCount;
        if (dropped < DROP_BLOCKS) continue;
        dropped = 0;
        await this.#turn();
      }
      this.counters.rounds += 1;
      const isEnd = round.from === view.blockCount;
      if (kind === MAPPED) {
        const { from, error, unreadCount } = round;
        this.#passes.set(number, isEnd ? FIRST : { from, error, unreadCount });
        if (isEnd) this.#noteUnread(volume, round);
      }
      // all that was in doubt was in the map then, and has been written since; of a standby, also what it has yet to apply
      if (map.entryCount === 0 && upTo >= head) this.#doubted.delete(number);
      return { error: null, isPart: !isEnd };
    } catch (error) {
      this.counters.errors += 1;
      return { error: error as Error, isPart: false };
    } finally {
      view.release();
      if (live !== null) this.#group.cleaner.unpinLive(live);
    }
  }

  /** Copies blocks of one kind into the image until it comes to the volume's end, or that is enough: `from` goes along. */
  async #copy(round: Round, kind: Kind): Promise<void> {
    const { volume, image, view } = round;
    const { number, blockSize } = volume;
    while (round.from < view.blockCount) {
      const isWaitedFor = kind === ZERO && this.#isWanted && this.#held === 0;
      if (round.left <= 0 || isWaitedFor) return;
      const end = Math.min(view.blockCount, round.from + SCAN_BLOCKS);
      const lba = view.next(kind, round.from, end);
      if (lba < 0) {
        round.from = end;
        await this.#turn();
        continue;
      }
      const blockCount = view.run(lba, Math.min(PIECE_BYTES, round.left) / blockSize);
      if (kind === MAPPED) await this.#copyData(round, lba, blockCount);
      else {
        const isRead = !this.#doubted.has(number);
        await call((done) => image.zero(lba * blockSize, blockCount * blockSize, isRead, done));
        this.#wrote(round, lba, blockCount);
      }
      round.from = lba + blockCount;
    }
  }

  /** Where not all can be read, in halves, down to the blocks: their neighbours are not to keep segments as well. */
  async #copyData(round: Round, lba: number, blockCount: number): Promise<void> {
    const { volume, image, view } = round;
    const { number, blockShift, blockSize } = volume;
    const bytes = new Uint8Array(blockCount * blockSize);
    const error = await new Promise<Error | null>((resolve) =>
      this.#group.reader.read(view, number, blockShift, lba, blockCount, bytes, image, resolve),
    );
    if (error === null) {
      await call((done) => image.write(lba * blockSize, [bytes], done));
      this.#wrote(round, lba, blockCount);
      return;
    }
    if (blockCount === 1) {
      round.left -= blockSize;
      round.error ??= error;
      round.unreadCount += 1;
      return;
    }
    const half = blockCount >> 1;
    await this.#copyData(round, lba, half);
    await this.#copyData(round, lba + half, blockCount - half);
  }

  #wrote(round: Round, lba: number, blockCount: number): void {
    this.counters.blocksWritten += blockCount;
    round.written.push({ lba, blockCount });
    round.left -= blockCount * round.volume.blockSize;
  }

  async #sync(number: number, image: FlatImage): Promise<void> {
    try {
      await call((done) => image.sync(done));
    } catch (error) {
      this.#doubted.add(number);
      throw error;
    }
  }

  /** What else there is to do comes first. */
  #turn(): Promise<void> {
    return new Promise((resolve) => this.#group.defer(resolve));
  }

  async #untilDurable(position: number): Promise<void> {
    const { journal } = this.#group;
    while (journal.durable < position) {
      if (journal.failed !== null) throw new ForelockError('EIO', journal.failed.message);
      // a stop would wait for room, and whoever can make some may be waiting for the stop
      if (journal.diskFull) throw new ForelockError('ENOSPC', `the journal waits: ${journal.shortageText}`);
      journal.sync();
      await new Promise<void>((resolve) => this.#group.whenDurable(resolve));
    }
  }
}

function call(start: (done: (error: Error | null) => void) => void): Promise<void> {
  return new Promise((resolve, reject) => start((error) => (error ? reject(error) : resolve())));
}
