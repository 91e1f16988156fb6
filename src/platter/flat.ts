/**
 * A flat platter's image: a plain file or a block device that other tools can open, in the volume's own layout.
 *
 * The journal stands in front of it as a write-ahead log: what is written here has been durable there before, and stays
 * there until `sync` has been answered.
 *
 * A lock file beside a plain image (`<path>.forelock-lock`) keeps a second gateway from using it. A device has none, for what
 * stands beside it, in /dev, is not a place for files: on Linux it is opened exclusively, which mounts and other careful
 * programs respect. Within a process an image is known by what it is, whatever its name: a hard link, a bind mount.
 */
import fs from 'node:fs';
import { dirname, resolve } from 'node:path';
import { assert } from '../assert.js';
import { ForelockError } from '../errors.js';
import { DirectoryLock, writeAll } from '../journal/disk-store.js';
import { DirectReader } from './direct-reader.js';

/** Most zeroes written by one call. */
const ZERO_SIZE = 1024 * 1024;
const ZEROES = new Uint8Array(ZERO_SIZE);

/** Of an image that was in use, and is not there, or is another one. */
const NEXT_STEP =
  "mount the file system that it is on, or give it back as it was; if it is lost, empty this site's state directory and start it as standby, to be copied anew from the other site";

/** Inode numbers may have 64 bits. */
const BIG = { bigint: true } as const;

/** What the images of this process are, and where each of them was opened. */
const OPEN = new Map<string, string>();

type Done = (error: Error | null) => void;

export class FlatImage {
  readonly path: string;
  readonly size: number;
  /** True when this opening made the image: it reads as zeroes. */
  readonly created: boolean;
  readonly isDevice: boolean;
  readonly counters = { reads: 0, bytesRead: 0, writes: 0, bytesWritten: 0, bytesZeroed: 0, syncs: 0 };
  /** `path`, wherever the process goes. */
  readonly #place: string;
  readonly #fd: number;
  readonly #identity: string;
  readonly #lock: DirectoryLock | null;
  #closed = false;
  /** Looks for zeroes, from the first that are wanted to the next sync; null: not here, only through the page cache. */
  #direct: DirectReader | null | undefined;
  /** Reads under way, and who waits for their end. */
  #reading = 0;
  #whenRead: (() => void) | null = null;

  /**
   * Opens the image. Of a new volume it is made, sparse, where there is nothing at `path`; of one that has been served a
   * missing image is lost data, or a file system that is not mounted: refused, and nothing is made.
   *
   * @param size  of the volume, in bytes: an image or device of another size is refused
   * @param isNew nothing of the volume has been served yet
   * @throws ForelockError STATE_LOCKED (another gateway has it), STATE_MISMATCH (missing, or its size), CONFIG (not a file
   *         or device, or it cannot be opened)
   */
  constructor(path: string, size: number, isNew: boolean) {
    assert(Number.isSafeInteger(size) && size > 0, 'a volume has a size');
    this.path = path;
    this.#place = resolve(path);
    this.size = size;
    const before = fs.statSync(path, { throwIfNoEntry: false });
    if (before !== undefined && !before.isFile() && !before.isBlockDevice()) {
      throw new ForelockError('CONFIG', `${path} is neither a file nor a block device`);
    }
    if (before === undefined && !isNew) {
      throw new ForelockError('STATE_MISMATCH', `${resolve(path)}, a volume's image, is missing: ${NEXT_STEP}`);
    }
    this.isDevice = before?.isBlockDevice() ?? false;
    this.created = before === undefined;
    this.#lock = this.isDevice ? null : lockBeside(path);
    let fd = -1;
    try {
      fd = openImage(path, this.created, this.isDevice);
      this.#identity = identityOf(fd);
      refuseTwice(path, this.#identity);
      // a power cut may have left one that had no size yet
      const isEmpty = this.created || (isNew && before!.isFile() && before!.size === 0);
      if (isEmpty) fs.ftruncateSync(fd, size);
      const found = this.isDevice ? deviceSize(path, fd) : fs.fstatSync(fd).size;
      if (found !== size) {
        throw new ForelockError(
          'STATE_MISMATCH',
          `${path} has ${found} bytes, its volume ${size}: ${isNew ? "correct the volume's size, or name another image" : NEXT_STEP}`,
        );
      }
      if (isEmpty) makeDurable(path, fd);
    } catch (error) {
      if (fd >= 0) {
        fs.closeSync(fd);
        if (this.created) fs.unlinkSync(path);
      }
      this.#lock?.release();
      throw error;
    }
    this.#fd = fd;
    OPEN.set(this.#identity, path);
  }

  /** Reads `size` bytes at `offset` into the start of `into`. A short image is an EIO: nothing is made up. */
  read(offset: number, size: number, into: Uint8Array, done: Done): void {
    this.#check(offset, size);
    assert(into.length >= size, 'there is room for what is read');
    this.counters.reads++;
    this.#reading++;
    const over = (error: Error | null) => {
      this.#reading--;
      done(error);
      if (this.#reading === 0) this.#whenRead?.();
    };
    let at = 0;
    const next = () => {
      fs.read(this.#fd, into, at, size - at, offset + at, (error, n) => {
        if (error) return over(error);
        at += n;
        this.counters.bytesRead += n;
        if (at === size) return over(null);
        if (n === 0) {
          return over(new ForelockError('EIO', `${this.path} ends at ${offset + at}, its volume at ${this.size}`));
        }
        next();
      });
    };
    next();
  }

  /** Writes the pieces one behind the other from `offset`. They are not to be changed until it is answered. */
  write(offset: number, pieces: readonly Uint8Array[], done: Done): void {
    let size = 0;
    for (const piece of pieces) size += piece.length;
    this.#check(offset, size);
    this.counters.writes++;
    let at = offset;
    let i = 0;
    const next = (error: Error | null) => {
      if (error !== null || i === pieces.length) {
        done(error);
        return;
      }
      const piece = pieces[i++];
      const position = at;
      at += piece.length;
      writeAll(this.#fd, piece, position, this.counters, 'bytesWritten', next);
    };
    if (pieces.length === 0) queueMicrotask(() => done(null));
    else next(null);
  }

  /**
   * The bytes read as zeroes afterwards. They are written, for a hole cannot be made from here; but where zeroes are read they
   * are left as they are, so that a hole stays one. One call at a time.
   *
   * @param isRead what is read there is what the disk has: after a failed sync that is not known, and all are written
   */
  zero(offset: number, size: number, isRead: boolean, done: Done): void {
    this.#check(offset, size);
    const end = offset + size;
    let at = offset;
    const next = (error: Error | null) => {
      if (error !== null || at === end) {
        done(error);
        return;
      }
      const piece = ZEROES.subarray(0, Math.min(ZERO_SIZE, end - at));
      const position = at;
      at += piece.length;
      const write = () => writeAll(this.#fd, piece, position, this.counters, 'bytesZeroed', next);
      if (!isRead) return write();
      this.#look(position, piece.length, (isZero) => (isZero ? next(null) : write()));
    };
    if (size === 0) queueMicrotask(() => done(null));
    else next(null);
  }

  /** Whether zeroes are read there. What cannot be read has none: written over it may be good again. */
  #look(offset: number, size: number, done: (isZero: boolean) => void): void {
    const isZero = (found: Uint8Array) => Buffer.compare(found.subarray(0, size), ZEROES.subarray(0, size)) === 0;
    if (this.#direct === undefined) this.#direct = DirectReader.open(this.#fd, ZERO_SIZE);
    const direct = this.#direct;
    if (direct === null) {
      const found = Buffer.allocUnsafe(size);
      this.read(offset, size, found, (error) => done(error === null && isZero(found)));
      return;
    }
    this.#reading++;
    direct.read(offset, size, (error, isWhole) => {
      this.#reading--;
      if (error?.code === 'EINVAL') {
        this.#closeDirect();
        this.#direct = null;
        this.#look(offset, size, done);
      } else done(isWhole && isZero(direct.bytes));
      if (this.#reading === 0) this.#whenRead?.();
    });
  }

  /** Durable afterwards: everything whose write was answered before this call. */
  sync(done: Done): void {
    assert(!this.#closed, 'the image is open');
    this.counters.syncs++;
    this.#closeDirect();
    fs.fdatasync(this.#fd, (error) => done(error ?? null));
  }

  /** Whether the image is still what was opened, as far as that can be seen: to be asked before it is written, and counted on. */
  inspect(done: Done): void {
    assert(!this.#closed, 'the image is open');
    fs.fstat(this.#fd, BIG, (error, opened) => {
      if (error) return done(error);
      // a write behind the end would make it as large as before, with zeroes in between
      const isShort = !this.isDevice && opened.size < this.size;
      if (isShort) {
        done(new ForelockError('EIO', `${this.path} was cut to ${opened.size} of ${this.size} bytes`));
        return;
      }
      fs.stat(this.#place, BIG, (missing, found) => {
        const isSame = missing === null && found.dev === opened.dev && found.ino === opened.ino;
        done(isSame ? null : new ForelockError('EIO', `what is at ${this.path} now is not the image that was opened`));
      });
    });
  }

  /**
   * No write may be under way, and nothing is begun any more. Reads are waited for: another file may get the descriptor's
   * number, and they would read that.
   */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#reading > 0) {
      await new Promise<void>((resolve) => {
        this.#whenRead = resolve;
      });
    }
    this.#closeDirect();
    fs.closeSync(this.#fd);
    OPEN.delete(this.#identity);
    this.#lock?.release();
  }

  #closeDirect(): void {
    if (!this.#direct) return;
    this.#direct.close();
    this.#direct = undefined;
  }

  #check(offset: number, size: number): void {
    assert(!this.#closed, 'the image is open');
    assert(offset >= 0 && size >= 0 && offset + size <= this.size, 'the bytes are in the image');
  }
}

function lockBeside(path: string): DirectoryLock {
  try {
    return new DirectoryLock(path, `${fs.existsSync(path) ? fs.realpathSync(path) : path}.forelock-lock`);
  } catch (error) {
    if (error instanceof ForelockError) throw error;
    const folder = dirname(path);
    const why = fs.existsSync(folder)
      ? `cannot be locked: ${(error as Error).message}`
      : `cannot be made: there is no folder ${folder}: make it, or give another path=`;
    throw new ForelockError('CONFIG', `image ${path} ${why}`, { cause: error });
  }
}

function openImage(path: string, create: boolean, isDevice: boolean): number {
  const { O_RDWR, O_EXCL } = fs.constants;
  const exclusive = isDevice && process.platform === 'linux'; // elsewhere it says nothing without O_CREAT
  try {
    return fs.openSync(path, create ? 'wx+' : exclusive ? O_RDWR | O_EXCL : 'r+', 0o600);
  } catch (error) {
    if (exclusive && (error as NodeJS.ErrnoException).code === 'EBUSY') {
      throw new ForelockError('STATE_LOCKED', `${path} is in use: it is mounted, or another program or volume has it`);
    }
    throw new ForelockError('CONFIG', `${path} cannot be opened: ${(error as Error).message}`, { cause: error });
  }
}

/** The same for every name of a file, and for every node of a device. */
function identityOf(fd: number): string {
  const stats = fs.fstatSync(fd, BIG);
  return stats.isBlockDevice() ? `device ${stats.rdev}` : `file ${stats.dev}:${stats.ino}`;
}

function refuseTwice(path: string, identity: string): void {
  const other = OPEN.get(identity);
  if (other === undefined) return;
  throw new ForelockError(
    'STATE_LOCKED',
    `${path} is used by process ${process.pid} (this one), as ${other}: a volume needs an image of its own`,
  );
}

/** The image and its name: the state that is saved next counts on both. */
function makeDurable(path: string, fd: number): void {
  fs.fsyncSync(fd);
  const directory = fs.openSync(dirname(path), 'r');
  try {
    fs.fsyncSync(directory);
  } finally {
    fs.closeSync(directory);
  }
}

/** Bytes of a block device: from sysfs, which counts in sectors of 512 bytes, or else by looking for its end. */
function deviceSize(path: string, fd: number): number {
  const { rdev } = fs.fstatSync(fd);
  // Linux's encoding of a device number in 64 bits: minor in bits 0-7 and 12-31, major in bits 8-11 (and up).
  const major = Math.floor(rdev / 256) % 4096;
  const minor = (rdev % 256) + Math.floor(rdev / 2 ** 20) * 256;
  try {
    const sectors = Number(fs.readFileSync(`/sys/dev/block/${major}:${minor}/size`, 'latin1').trim());
    if (Number.isSafeInteger(sectors * 512)) return sectors * 512;
  } catch {
    // no sysfs: look for the end
  }
  return findEnd(path, fd);
}

/** The end of a device by bisection over what can be read: 50 reads of one sector. */
function findEnd(path: string, fd: number): number {
  const sector = new Uint8Array(512);
  const readable = (at: number): boolean => {
    try {
      return fs.readSync(fd, sector, 0, 512, at * 512) > 0;
    } catch {
      return false;
    }
  };
  let low = 0; // sectors that can be read
  let high = 2 ** 43;
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    if (readable(middle)) low = middle + 1;
    else high = middle;
  }
  if (low === 0) throw new ForelockError('CONFIG', `${path}: the size of this device cannot be told`);
  return low * 512;
}
