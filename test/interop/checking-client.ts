/**
 * A host that knows what it may expect: it writes numbered blocks over one NBD connection, remembers which writes and
 * flushes were answered, and says of any image which moment of its history that is, if any.
 *
 *     block = number of the write (f64), lba (f64), the rest filled from both
 *
 * One connection and whole blocks: the volume's history is the order in which requests were submitted. So an image is a
 * moment of that history if there is one N such that every block shows the last of the first N operations on it.
 */
import { NbdClient, type NbdError } from '../../src/frontend/nbd/client.js';
import { type GatewayProcess, until } from './gateway-process.js';

export const BLOCK_SIZE = 4096;
const PIECE_BLOCKS_MAX = 8;
const FUA_EVERY = 61;

interface Operation {
  kind: 'write' | 'zero' | 'trim';
  lba: number;
  blockCount: number;
  /** Answered without an error. */
  answered: boolean;
}

/** mulberry32: 0 <= n < 1. */
export function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export class History {
  readonly blockCount: number;
  /** Bytes before the part of the volume that this is the history of. */
  readonly offset: number;
  readonly #random: () => number;
  /** Operation N is at N - 1. Those of a crash's lost tail stay, without a block: their numbers are not used again. */
  readonly #operations: Operation[] = [];
  /** Every image from now on must show at least the first so many operations: what flushes have promised. */
  promised = 0;
  /** Flushes, and writes with FUA, that were answered. */
  flushes = 0;

  constructor(size: number, seed: number, offset = 0) {
    this.blockCount = size / BLOCK_SIZE;
    this.offset = offset;
    this.#random = randomFrom(seed);
  }

  get length(): number {
    return this.#operations.length;
  }

  /** Submits random operations at `depth` and flushes now and then until `stop` is called or the connection breaks. */
  load(client: NbdClient, depth: number, flushEvery: number, fuaEvery = FUA_EVERY): Load {
    return new Load(this, client, depth, flushEvery, fuaEvery);
  }

  next(): { number: number; operation: Operation; bytes: Buffer | null } {
    const dice = this.#random();
    const kind = dice < 0.9 ? 'write' : dice < 0.95 ? 'zero' : 'trim';
    const blockCount = 1 + Math.floor(this.#random() * PIECE_BLOCKS_MAX);
    const lba = Math.floor(this.#random() * (this.blockCount - blockCount + 1));
    const operation: Operation = { kind, lba, blockCount, answered: false };
    const number = this.#operations.push(operation);
    const bytes = kind === 'write' ? Buffer.allocUnsafe(blockCount * BLOCK_SIZE) : null;
    if (bytes !== null) {
      for (let i = 0; i < blockCount; i += 1) fillBlock(bytes, i * BLOCK_SIZE, number, lba + i);
    }
    return { number, operation, bytes };
  }

  /** Nothing of it may show: there was no room for it. (Of one with FUA that is not known.) */
  refused(operation: Operation): void {
    operation.blockCount = 0;
  }

  /** The image is what a crash left: operations behind N never happened. */
  cutBehind(count: number): void {
    for (let number = count + 1; number <= this.#operations.length; number += 1) {
      this.#operations[number - 1] = { kind: 'trim', lba: 0, blockCount: 0, answered: false };
    }
  }

  /**
   * The moment of an image of the part: the first N >= least, such that it shows exactly the first N operations.
   * @throws Error naming a block that fits no such N
   */
  momentOf(image: Uint8Array, what: string, least = 0): number {
    const shown = this.#numbersOf(image, what);
    const newest = shown.reduce((max, number) => Math.max(max, number), 0);
    if (newest > this.length) throw new Error(`${what}: shows write ${newest} of ${this.length}`);
    const state = new Float64Array(this.blockCount);
    let differing = shown.reduce((count, number) => count + (number === 0 ? 0 : 1), 0);
    let closest = differing;
    let atClosest = 0;
    for (let number = 0; number <= this.length; number += 1) {
      if (number > 0) {
        const { kind, lba, blockCount } = this.#operations[number - 1]!;
        for (let at = lba; at < lba + blockCount; at += 1) {
          if (state[at] !== shown[at]) differing -= 1;
          state[at] = kind === 'write' ? number : 0;
          if (state[at] !== shown[at]) differing += 1;
        }
      }
      // behind the newest write shown there may be others that were trimmed or zeroed
      if (differing === 0 && number >= least) return number;
      if (differing < closest) [closest, atClosest] = [differing, number];
    }
    throw new Error(
      `${what} is no moment of the history from operation ${least} to ${this.length}: ` +
        `its newest write is ${newest}; operation ${atClosest} comes closest, with ${closest} blocks that differ`,
    );
  }

  /** Number of the write that each block shows; 0: zeroes. */
  #numbersOf(image: Uint8Array, what: string): Float64Array {
    const shown = new Float64Array(this.blockCount);
    const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
    const expected = Buffer.alloc(BLOCK_SIZE);
    for (let lba = 0; lba < this.blockCount; lba += 1) {
      const at = lba * BLOCK_SIZE;
      const number = view.getFloat64(at, true);
      if (number === 0) expected.fill(0);
      else fillBlock(expected, 0, number, lba);
      if (expected.compare(image, at, at + BLOCK_SIZE) !== 0) {
        throw new Error(`${what}: block ${lba} holds what nobody wrote there (it says it is of write ${number})`);
      }
      shown[lba] = number;
    }
    return shown;
  }
}

export class Load {
  /** Resolves when nothing is in flight any more, with the error that ended it. */
  readonly ended: Promise<NbdError | null>;
  readonly #history: History;
  readonly #client: NbdClient;
  readonly #flushEvery: number;
  readonly #fuaEvery: number;
  #inFlight = 0;
  #stopping = false;
  #error: NbdError | null = null;
  #end!: (error: NbdError | null) => void;
  /** Every operation through this one was answered, whatever came later. */
  #answeredThrough: number;
  readonly #window: Operation[] = [];

  constructor(history: History, client: NbdClient, depth: number, flushEvery: number, fuaEvery: number) {
    this.#history = history;
    this.#client = client;
    this.#flushEvery = flushEvery;
    this.#fuaEvery = fuaEvery;
    this.#answeredThrough = history.length;
    this.ended = new Promise((resolve) => {
      this.#end = resolve;
    });
    for (let i = 0; i < depth; i += 1) this.#submit();
  }

  /** Lets what is in flight finish. */
  stop(): Promise<NbdError | null> {
    this.#stopping = true;
    return this.ended;
  }

  #submit(): void {
    const { number, operation, bytes } = this.#history.next();
    this.#window.push(operation);
    this.#inFlight += 1;
    const offset = this.#history.offset + operation.lba * BLOCK_SIZE;
    const size = operation.blockCount * BLOCK_SIZE;
    const fua = number % this.#fuaEvery === 0;
    const settle = (error: NbdError | null) => {
      if (fua && error === null) this.#promised(number);
      this.#settled(operation, error);
    };
    if (bytes !== null) this.#client.submitWrite(offset, bytes, fua, settle);
    else {
      const { kind } = operation;
      const done =
        kind === 'zero' ? this.#client.zero(offset, size, { fua }) : this.#client.trim(offset, size, { fua });
      done.then(() => settle(null), settle);
    }
    if (number % this.#flushEvery === 0) this.#flush();
  }

  /** Covers everything answered so far; images are prefixes, so the last answered one counts. */
  #flush(): void {
    let promised = this.#answeredThrough;
    this.#window.forEach((operation, index) => {
      if (operation.answered) promised = this.#answeredThrough + index + 1;
    });
    this.#inFlight += 1;
    const settle = (error: NbdError | null) => {
      if (error === null) this.#promised(promised);
      this.#settled(null, error);
    };
    this.#client.flush().then(() => settle(null), settle);
  }

  #promised(number: number): void {
    this.#history.promised = Math.max(this.#history.promised, number);
    this.#history.flushes += 1;
  }

  #settled(operation: Operation | null, error: NbdError | null): void {
    this.#inFlight -= 1;
    this.#error ??= error;
    if (operation !== null && error === null) operation.answered = true;
    if (operation !== null && error?.code === 'ENOSPC') this.#history.refused(operation);
    while (this.#window[0]?.answered) {
      this.#window.shift();
      this.#answeredThrough += 1;
    }
    if (this.#error === null && !this.#stopping) {
      if (operation !== null) this.#submit();
    } else if (this.#inFlight === 0) this.#end(this.#error);
  }
}

/** Reads a whole export. */
export async function readImage(uri: string): Promise<Buffer> {
  const client = await NbdClient.connect(uri);
  try {
    const image = Buffer.allocUnsafe(client.size);
    const piece = 1024 * 1024;
    for (let at = 0; at < client.size; at += piece) {
      (await client.read(at, Math.min(piece, client.size - at))).copy(image, at);
    }
    return image;
  } finally {
    await client.close();
  }
}

/** A restarted source asks its peer for what it lost before it lets anybody in; where both sites write, each needs both streams. */
export async function untilServing(gateway: GatewayProcess, volume = 'vm'): Promise<void> {
  const uri = await gateway.uri(volume);
  await until(`site ${gateway.options.site} serving`, async () => {
    const client = await NbdClient.connect(uri);
    try {
      await client.read(0, BLOCK_SIZE);
      return true;
    } catch {
      return false;
    } finally {
      await client.close();
    }
  });
}

/** One write and a flush, over a connection of their own. */
export async function writeBytes(uri: string, offset: number, bytes: Uint8Array): Promise<void> {
  const client = await NbdClient.connect(uri);
  try {
    await client.write(offset, bytes);
    await client.flush();
  } finally {
    await client.close();
  }
}

function fillBlock(bytes: Buffer, at: number, number: number, lba: number): void {
  const words = new Float64Array(bytes.buffer, bytes.byteOffset + at, BLOCK_SIZE / 8);
  for (let i = 0; i < words.length; i += 2) {
    words[i] = number;
    words[i + 1] = lba + i;
  }
}
