/**
 * Reads a file past the page cache, where the system can. To look at what hosts will not ask for: a hole costs next to nothing
 * then, through the cache it takes a page for each that it lacks, and blocks that hosts do ask for make room for them.
 */
import fs from 'node:fs';
import { assert } from '../assert.js';

export class DirectReader {
  /** What was read. It begins with a page of the memory, as such reads ask for. */
  readonly bytes: Uint8Array;
  readonly #fd: number;
  #reading = false;

  private constructor(fd: number, size: number) {
    this.#fd = fd;
    this.bytes = new Uint8Array(new ArrayBuffer(size, { maxByteLength: size })); // of these V8 takes whole pages
  }

  /**
   * @param fd   of a file, whichever name it has by now
   * @param size most bytes of one read
   * @returns null: not on this system, or not with this file system
   */
  static open(fd: number, size: number): DirectReader | null {
    const { O_RDONLY, O_DIRECT } = fs.constants;
    if (O_DIRECT === undefined) return null;
    try {
      return new DirectReader(fs.openSync(`/proc/self/fd/${fd}`, O_RDONLY | O_DIRECT), size);
    } catch {
      return null;
    }
  }

  /**
   * Reads `size` bytes at `offset` into `bytes`. One read at a time.
   * @param done error, or whether that was all; EINVAL where the disk's sectors are larger than what the two are multiples of
   */
  read(offset: number, size: number, done: (error: NodeJS.ErrnoException | null, isWhole: boolean) => void): void {
    assert(!this.#reading, 'there is one buffer');
    this.#reading = true;
    fs.read(this.#fd, this.bytes, 0, size, offset, (error, n) => {
      this.#reading = false;
      done(error, n === size);
    });
  }

  close(): void {
    assert(!this.#reading, 'another file may get the descriptor');
    fs.closeSync(this.#fd);
  }
}
