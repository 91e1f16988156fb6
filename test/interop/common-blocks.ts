/**
 * Blocks that hosts of both sites write at once, and what any image of them may show.
 *
 *     block = number of the write (f64), its site (f64), lba (f64), the rest filled from the number
 *
 * A write is *promised* once a flush behind its answer was answered. Of two promised writes to a block the order is known
 * if they are of the same site, or if one was promised before the other was submitted: then the other had seen it. So a
 * block may show any write that no promised one is known to follow. Which of two that met wins is the sites' own affair,
 * as long as it is the same at both: that is for the comparison of their images.
 */
import type { NbdClient, NbdError } from '../../src/frontend/nbd/client.js';
import { BLOCK_SIZE } from './checking-client.js';

interface Write {
  number: number;
  site: number;
  submittedAt: number;
  /** Moments are counted, not clocked: one process sees all of them. */
  promisedAt: number;
}

export class SharedBlocks {
  readonly firstLba: number;
  readonly blockCount: number;
  writes = 0;
  flushes = 0;
  /** Moments so far. */
  now = 0;
  readonly #random: () => number;
  readonly #ofBlock: Write[][];

  constructor(firstLba: number, blockCount: number, random: () => number) {
    this.firstLba = firstLba;
    this.blockCount = blockCount;
    this.#random = random;
    this.#ofBlock = Array.from({ length: blockCount }, () => []);
  }

  /** One host of a site: writes at `depth`, `flushEvery` writes a flush, until `stop` or an error. */
  load(client: NbdClient, site: number, depth: number, flushEvery: number): SharedLoad {
    return new SharedLoad(this, client, site, depth, flushEvery);
  }

  next(site: number): { write: Write; lba: number; bytes: Buffer } {
    this.writes += 1;
    this.now += 1;
    const write = { number: this.writes, site, submittedAt: this.now, promisedAt: Number.POSITIVE_INFINITY };
    const index = Math.floor(this.#random() * this.blockCount);
    this.#ofBlock[index]!.push(write);
    const lba = this.firstLba + index;
    return { write, lba, bytes: contentOf(write.number, site, lba) };
  }

  promised(write: Write): void {
    this.now += 1;
    write.promisedAt = Math.min(write.promisedAt, this.now);
  }

  /** @throws Error naming a block of the volume's image that shows what it must not */
  check(image: Buffer, what: string): void {
    for (const [index, writes] of this.#ofBlock.entries()) {
      const lba = this.firstLba + index;
      const at = lba * BLOCK_SIZE;
      const block = image.subarray(at, at + BLOCK_SIZE);
      const [number, site] = [block.readDoubleLE(0), block.readDoubleLE(8)];
      const expected = number === 0 ? Buffer.alloc(BLOCK_SIZE) : contentOf(number, site, lba);
      const shown = writes.find((write) => write.number === number && write.site === site);
      if (!block.equals(expected) || (number !== 0 && shown === undefined)) {
        throw new Error(`${what}: block ${lba} holds what nobody wrote there (it says: write ${number})`);
      }
      const lost = writes.find((write) => write.promisedAt < Number.POSITIVE_INFINITY && isBehind(shown, write));
      if (lost === undefined) continue;
      throw new Error(
        `${what}: block ${lba} shows ${number === 0 ? 'nothing' : JSON.stringify(shown)}, and not the later ${JSON.stringify(lost)}`,
      );
    }
  }
}

/** Whether the order of the two is known, and `later` is the second. */
function isBehind(shown: Write | undefined, later: Write): boolean {
  if (shown === undefined) return true;
  if (shown.site === later.site) return shown.number < later.number;
  return shown.promisedAt < later.submittedAt;
}

function contentOf(number: number, site: number, lba: number): Buffer {
  const bytes = Buffer.alloc(BLOCK_SIZE, number & 0xff);
  bytes.writeDoubleLE(number, 0);
  bytes.writeDoubleLE(site, 8);
  bytes.writeDoubleLE(lba, 16);
  return bytes;
}

export class SharedLoad {
  /** Resolves when nothing is in flight any more, with the error that ended it. */
  readonly ended: Promise<NbdError | null>;
  readonly #blocks: SharedBlocks;
  readonly #client: NbdClient;
  readonly #site: number;
  readonly #flushEvery: number;
  #count = 0;
  #stopping = false;
  #error: NbdError | null = null;
  /** Answered, and not covered by an answered flush yet. */
  #answered: Write[] = [];

  constructor(blocks: SharedBlocks, client: NbdClient, site: number, depth: number, flushEvery: number) {
    this.#blocks = blocks;
    this.#client = client;
    this.#site = site;
    this.#flushEvery = flushEvery;
    const runs = Array.from({ length: depth }, () => this.#run());
    this.ended = Promise.all(runs).then(() => this.#error);
  }

  /** Lets what is in flight finish. */
  stop(): Promise<NbdError | null> {
    this.#stopping = true;
    return this.ended;
  }

  async #run(): Promise<void> {
    try {
      while (!this.#stopping && this.#error === null) {
        const { write, lba, bytes } = this.#blocks.next(this.#site);
        await this.#client.write(lba * BLOCK_SIZE, bytes);
        this.#answered.push(write);
        this.#count += 1;
        if (this.#count % this.#flushEvery === 0) await this.#flush();
      }
    } catch (error) {
      this.#error ??= error as NbdError;
    }
  }

  async #flush(): Promise<void> {
    const covered = this.#answered;
    this.#answered = [];
    await this.#client.flush();
    for (const write of covered) this.#blocks.promised(write);
    this.#blocks.flushes += 1;
  }
}
