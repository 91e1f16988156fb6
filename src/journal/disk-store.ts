/**
 * The Store over a real directory, held by one process at a time.
 *
 * The lock: `lock` is a symbolic link whose target is no file but the name of its owner: `pid start boot nonce`. `start`
 * is the process's start time and `boot` the machine's boot (where /proc says), so a pid that was given again is not
 * taken for the owner. A target this short takes no block of the disk: a full one can be opened. An owner that was killed
 * leaves the link behind, so it must be possible to take over, and two that try must not both succeed. Only symlink(2),
 * which fails if the name is taken, and rename(2), which replaces in one step, are needed:
 *
 *     walk:     from `lock`, and while `lock-<nonce of the last one read>` exists, to that: the end is the owner
 *     free:     make `lock`
 *     dead:     make `lock-<its nonce>` (one of us succeeds it), walk again; if the walk ends at me, rename mine to `lock`,
 *               and remove what stands before me in the walk; else remove mine and start again
 *
 * A starter that read the dead owner's name long ago may still make its link when the successor has renamed its own: then
 * its second walk does not end at itself, because the successor is in `lock` since then.
 */
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { ForelockError } from '../errors.js';
import { QuickSync } from './quick-sync.js';
import type { Store, StoreFile } from './store.js';

/** What write calls were given, by kind of file; bytes of a call that failed count as far as they were written. */
export interface DiskCounters {
  segment: number;
  map: number;
  superblock: number;
  other: number;
}

/** Longer waits than a moment mean that others keep starting: give up rather than spin. */
const LOCK_ATTEMPTS_MAX = 100;

interface Owner {
  pid: number;
  /** Start time of the process in ticks since boot, and the boot's id, shortened; null where the system does not say. */
  start: string | null;
  boot: string | null;
  nonce: string;
}

/** What decides where a synced write is made (quick-sync.ts). */
export interface DiskSurroundings {
  /** That were made so far of whatever this thread serves, by hosts or by peers. */
  requests(): number;
  nowMs(): number;
}

const UNKNOWN: DiskSurroundings = { requests: () => Number.POSITIVE_INFINITY, nowMs: () => 0 };

export class DiskStore implements Store {
  readonly directory: string;
  readonly bytesWritten: DiskCounters = { segment: 0, map: 0, superblock: 0, other: 0 };
  #lock: DirectoryLock | null;
  /** Of the directory, for its syncs: a process that may open no more files must not fail one, which could not be repeated. */
  readonly #directoryFd: number;
  /** The outermost directory that was made for this one; undefined: it was there. */
  readonly #made: string | undefined;
  readonly #files = new Set<DiskFile>();
  /** Of what `save` writes, by name, for the same reason: what has to be written down before an answer could not be. */
  readonly #saved = new Map<string, { fd: number; isBusy: boolean }>();
  /** Files that `save` has made, and whose names are not known to be on the disk. */
  readonly #unlisted = new Set<string>();
  /** Of the one file that is written synced at present: a second descriptor, whose writes are (open(2), O_DSYNC). */
  #synced: { file: DiskFile; fd: number } | null = null;
  readonly #quickSync = new QuickSync();
  readonly #surroundings: DiskSurroundings;

  /**
   * Opens the directory, makes it if it is missing, and locks it.
   * @param surroundings without them every write is a helper's
   * @throws ForelockError STATE_LOCKED, naming the process that has it
   */
  constructor(directory: string, surroundings: DiskSurroundings = UNKNOWN) {
    this.directory = directory;
    this.#surroundings = surroundings;
    this.#made = makeFolders(directory);
    this.#lock = new DirectoryLock(directory);
    try {
      this.#directoryFd = fs.openSync(directory, 'r');
    } catch (error) {
      this.#lock.release();
      throw error;
    }
  }

  list(): string[] {
    return fs
      .readdirSync(this.directory, { withFileTypes: true })
      .filter((entry) => entry.isFile() && !isLockName(entry.name))
      .map((entry) => entry.name)
      .sort();
  }

  load(name: string): Uint8Array | null {
    try {
      return fs.readFileSync(join(this.directory, name));
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return null;
      throw error;
    }
  }

  save(name: string, bytes: Uint8Array, done: (error: Error | null) => void): void {
    const path = join(this.directory, name);
    const kind = kindOf(name);
    const write = (file: { fd: number; isBusy: boolean }) => {
      const { fd } = file;
      file.isBusy = true;
      const finish = (error: Error | null) => {
        file.isBusy = false;
        if (this.#saved.get(name) !== file) fs.close(fd, () => {}); // the store was closed meanwhile
        if (error !== null || !this.#unlisted.has(name)) return done(error);
        this.syncDirectory((error) => {
          if (error === null) this.#unlisted.delete(name);
          done(error);
        });
      };
      writeAll(fd, bytes, 0, this.bytesWritten, kind, (error) => {
        if (error !== null) return finish(error);
        fs.ftruncate(fd, bytes.length, (error) => {
          if (error) return finish(error);
          fs.fsync(fd, (error) => finish(error ?? null));
        });
      });
    };
    const opened = (fd: number) => {
      const file = { fd, isBusy: false };
      if (this.#lock !== null) this.#saved.set(name, file);
      write(file);
    };
    const saved = this.#saved.get(name);
    if (saved !== undefined) return write(saved);
    fs.open(path, 'r+', (error, fd) => {
      if (!error) return opened(fd);
      if (error.code !== 'ENOENT') return done(error);
      fs.open(path, 'wx', 0o600, (error, fd) => {
        if (error) return done(error);
        this.#unlisted.add(name);
        opened(fd);
      });
    });
  }

  open(name: string, create: boolean): StoreFile {
    const flags = fs.constants.O_RDWR | (create ? fs.constants.O_CREAT : 0);
    let path = join(this.directory, name);
    const fd = fs.openSync(path, flags, 0o600);
    const file = new DiskFile(fd, this.bytesWritten, kindOf(name), {
      synced: () => this.#syncedOf(file, path),
      mayBeHere: (size) => this.#quickSync.mayBeHere(size, this.#surroundings.requests()),
      took: (size, ms) => this.#quickSync.took(size, ms),
      nowMs: () => this.#surroundings.nowMs(),
      rename: (to) => {
        fs.renameSync(path, join(this.directory, to));
        path = join(this.directory, to);
      },
      closed: () => {
        this.#files.delete(file);
        if (this.#synced?.file === file) this.#closeSynced();
      },
    });
    this.#files.add(file);
    return file;
  }

  #syncedOf(file: DiskFile, path: string): number {
    if (this.#synced?.file === file) return this.#synced.fd;
    this.#closeSynced();
    const fd = fs.openSync(path, fs.constants.O_RDWR | fs.constants.O_DSYNC);
    this.#synced = { file, fd };
    return fd;
  }

  #closeSynced(): void {
    if (this.#synced !== null) fs.close(this.#synced.fd, () => {});
    this.#synced = null;
  }

  remove(name: string): void {
    fs.unlinkSync(join(this.directory, name));
    this.#forgetSaved(name);
  }

  free(): number {
    try {
      const { bavail, bsize } = fs.statfsSync(this.directory);
      return bavail * bsize;
    } catch {
      return Number.POSITIVE_INFINITY;
    }
  }

  syncDirectory(done: (error: Error | null) => void): void {
    fs.fsync(this.#directoryFd, (error) => done(error ?? null));
  }

  /** A save that is under way closes its file itself. */
  #forgetSaved(name: string): void {
    const file = this.#saved.get(name);
    this.#saved.delete(name);
    if (file !== undefined && !file.isBusy) fs.close(file.fd, () => {});
  }

  /** Closes what is still open and lets others have the directory. */
  close(): void {
    for (const file of [...this.#files]) file.close();
    for (const name of [...this.#saved.keys()]) this.#forgetSaved(name);
    if (this.#lock === null) return;
    fs.close(this.#directoryFd, () => {});
    this.#lock.release();
    this.#lock = null;
  }

  /** Closes it and removes what is in it: of a state that this process made, and nobody has used. */
  discard(): void {
    for (const name of this.list()) if (kindOf(name) !== 'other') this.remove(name);
    this.close();
    if (this.#made === undefined) return;
    try {
      for (let made = this.directory; made.startsWith(this.#made); made = dirname(made)) fs.rmdirSync(made);
    } catch (error) {
      if (codeOf(error) !== 'ENOTEMPTY') throw error; // somebody else put something there
    }
  }
}

/**
 * Makes a folder and those above it. Node's `recursive` tries for ever where nobody can make one (below /proc).
 * @returns the topmost that was made
 */
function makeFolders(directory: string): string | undefined {
  const missing: string[] = [];
  for (let folder = resolve(directory); !fs.existsSync(folder); folder = dirname(folder)) missing.unshift(folder);
  for (const folder of missing) {
    try {
      fs.mkdirSync(folder, { mode: 0o700 });
    } catch (error) {
      // another process may have made it meanwhile
      if (codeOf(error) !== 'EEXIST' || !fs.existsSync(folder)) throw error;
    }
  }
  return missing[0];
}

/** What a file asks of its store. */
interface FileOwner {
  /** The descriptor for `writeSynced`. */
  synced(): number;
  /** Whether a synced write of this size may be made on this thread. */
  mayBeHere(size: number): boolean;
  /** So many bytes were written and synced in so many ms. */
  took(size: number, ms: number): void;
  nowMs(): number;
  rename(name: string): void;
  closed(): void;
}

class DiskFile implements StoreFile {
  readonly fd: number;
  readonly #bytesWritten: DiskCounters;
  readonly #kind: keyof DiskCounters;
  readonly #owner: FileOwner;
  #closed = false;

  constructor(fd: number, bytesWritten: DiskCounters, kind: keyof DiskCounters, owner: FileOwner) {
    this.fd = fd;
    this.#bytesWritten = bytesWritten;
    this.#kind = kind;
    this.#owner = owner;
  }

  size(): number {
    return fs.fstatSync(this.fd).size;
  }

  write(bytes: Uint8Array, position: number, done: (error: Error | null) => void): void {
    writeAll(this.fd, bytes, position, this.#bytesWritten, this.#kind, done);
  }

  writeSynced(bytes: Uint8Array, position: number, done: (error: Error | null) => void): void {
    // at the end of this turn of the event loop, when what is there for the peer has left
    if (this.#owner.mayBeHere(bytes.length)) setImmediate(() => this.#writeSyncedHere(bytes, position, done));
    else this.#writeSyncedByHelper(bytes, position, done);
  }

  #writeSyncedByHelper(bytes: Uint8Array, position: number, done: (error: Error | null) => void): void {
    let fd: number;
    try {
      fd = this.#owner.synced();
    } catch {
      // no descriptor to be had: in two calls, then
      return this.write(bytes, position, (error) => (error ? done(error) : this.sync(done)));
    }
    const begunMs = this.#owner.nowMs();
    writeAll(fd, bytes, position, this.#bytesWritten, this.#kind, (error) => {
      if (error === null) this.#owner.took(bytes.length, this.#owner.nowMs() - begunMs);
      done(error);
    });
  }

  #writeSyncedHere(bytes: Uint8Array, position: number, done: (error: Error | null) => void): void {
    if (this.#closed) return done(Object.assign(new Error('EBADF: the file was closed'), { code: 'EBADF' }));
    let fd: number;
    try {
      fd = this.#owner.synced();
    } catch {
      return this.#writeSyncedByHelper(bytes, position, done);
    }
    let written: number;
    const begunMs = this.#owner.nowMs();
    try {
      written = fs.writeSync(fd, bytes, 0, bytes.length, position);
    } catch (error) {
      return done(error as Error); // not again: a disk that has failed once may say next that all is well
    }
    this.#owner.took(bytes.length, this.#owner.nowMs() - begunMs);
    this.#bytesWritten[this.#kind] += written;
    if (written === bytes.length) done(null);
    else this.#writeSyncedByHelper(bytes.subarray(written), position + written, done);
  }

  sync(done: (error: Error | null) => void): void {
    fs.fdatasync(this.fd, (error) => done(error ?? null));
  }

  read(into: Uint8Array, position: number): number {
    let size = 0;
    while (size < into.length) {
      const n = fs.readSync(this.fd, into, size, into.length - size, position + size);
      if (n === 0) break;
      size += n;
    }
    return size;
  }

  rename(name: string): void {
    this.#owner.rename(name);
  }

  truncate(size: number): void {
    fs.ftruncateSync(this.fd, size);
  }

  /** Off the main thread: the last close of a removed segment gives its blocks back, which takes milliseconds. */
  close(): void {
    this.#closed = true;
    this.#owner.closed();
    fs.close(this.fd, () => {});
  }
}

/** Writes all of `bytes`, going on after short writes. */
export function writeAll<K extends string>(
  fd: number,
  bytes: Uint8Array,
  position: number,
  counters: Record<K, number>,
  kind: K,
  done: (error: Error | null) => void,
): void {
  let written = 0;
  const next = () => {
    fs.write(fd, bytes, written, bytes.length - written, position + written, (error, n) => {
      if (error) return done(error);
      written += n;
      counters[kind] += n;
      if (written === bytes.length) return done(null);
      if (n === 0) return done(Object.assign(new Error('ENOSPC: a write took nothing'), { code: 'ENOSPC' }));
      next();
    });
  };
  next();
}

function kindOf(name: string): keyof DiskCounters {
  if (name.startsWith('superblock')) return 'superblock';
  if (name.startsWith('map-')) return 'map';
  return name.startsWith('segment') ? 'segment' : 'other';
}

const isLockName = (name: string): boolean => name === 'lock' || name.startsWith('lock-');

/** The lock of a directory, or of a file beside its lock: see the top of this file. */
export class DirectoryLock {
  readonly #path: string;
  readonly #nonce = randomBytes(6).toString('hex');
  readonly #name = nameOf({ pid: process.pid, start: startOf(process.pid), boot: bootId(), nonce: this.#nonce });

  /**
   * @param directory  to be locked, and named in the refusal
   * @param path       of the lock
   * @throws ForelockError STATE_LOCKED
   */
  constructor(directory: string, path = join(directory, 'lock')) {
    this.#path = path;
    for (let attempt = 0; attempt < LOCK_ATTEMPTS_MAX; attempt++) {
      const owner = ownersOf(this.#path).at(-1);
      if (owner === undefined) {
        if (this.#claim(path)) return;
        continue;
      }
      if (isAlive(owner)) {
        throw new ForelockError(
          'STATE_LOCKED',
          `${directory} is used by process ${owner.pid}${owner.pid === process.pid ? ' (this one)' : ''}: stop it first`,
        );
      }
      const succession = successionOf(this.#path, owner);
      if (!this.#claim(succession)) continue;
      const again = ownersOf(this.#path);
      if (again.at(-1)?.nonce !== this.#nonce) {
        fs.unlinkSync(succession);
        continue;
      }
      fs.renameSync(succession, path);
      for (const past of again.slice(0, -2)) fs.rmSync(successionOf(this.#path, past), { force: true });
      return;
    }
    throw new ForelockError('STATE_LOCKED', `${directory} is wanted by several processes that keep starting`);
  }

  /** Only the owner removes `lock`, and nobody succeeds an owner that is alive. */
  release(): void {
    if (readOwner(this.#path)?.nonce === this.#nonce) fs.unlinkSync(this.#path);
  }

  /** Makes a link with this owner's name; false if there is one. */
  #claim(path: string): boolean {
    try {
      fs.symlinkSync(this.#name, path);
      return true;
    } catch (error) {
      if (codeOf(error) === 'EEXIST') return false;
      throw error;
    }
  }
}

/** The process that has locked a directory, or null. For people: it may have let go since. */
export function lockHolder(directory: string): number | null {
  const owner = ownersOf(join(directory, 'lock')).at(-1);
  return owner !== undefined && isAlive(owner) ? owner.pid : null;
}

/** From the lock at `path` to the owner, the owner last; empty when there is none. */
function ownersOf(path: string): Owner[] {
  const chain: Owner[] = [];
  let owner = readOwner(path);
  while (owner !== null && chain.length < LOCK_ATTEMPTS_MAX) {
    chain.push(owner);
    owner = readOwner(successionOf(path, owner));
  }
  return chain;
}

function successionOf(path: string, owner: Owner): string {
  return `${path}-${owner.nonce}`;
}

/** 44 characters where /proc says all: what ext4 keeps in the inode is up to 59. */
function nameOf({ pid, start, boot, nonce }: Owner): string {
  return `${pid} ${start ?? '-'} ${boot ?? '-'} ${nonce}`;
}

/** Null if there is none. What cannot be read as an owner, a power failure has left: its owner is dead. */
function readOwner(path: string): Owner | null {
  let name = '';
  try {
    name = fs.readlinkSync(path);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return null;
    if (codeOf(error) !== 'EINVAL') throw error; // no link
  }
  const [, pid, start, boot, nonce] = /^(\d+) (\S+) (\S+) ([0-9a-f]{12})$/.exec(name) ?? [];
  if (nonce === undefined) return { pid: 0, start: null, boot: null, nonce: `${basename(path)}~` };
  const known = (text: string | undefined): string | null => (text === undefined || text === '-' ? null : text);
  return { pid: Number(pid), start: known(start), boot: known(boot), nonce };
}

function isAlive(owner: Owner): boolean {
  if (owner.pid <= 0) return false;
  if (owner.boot !== null && bootId() !== null && owner.boot !== bootId()) return false;
  const start = startOf(owner.pid);
  if (start !== null && owner.start !== null) return start === owner.start;
  try {
    process.kill(owner.pid, 0);
    return true;
  } catch (error) {
    return codeOf(error) === 'EPERM';
  }
}

/** Start time of a process: field 22 of /proc/<pid>/stat, counted behind the command, which may hold anything. */
function startOf(pid: number): string | null {
  try {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    if (fields[0] === 'Z' || fields[0] === 'X') return 'ended'; // killed, and not yet waited for
    return fields[19] ?? null;
  } catch {
    return null;
  }
}

function bootId(): string | null {
  try {
    return fs.readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').replaceAll('-', '').slice(0, 12);
  } catch {
    return null;
  }
}

const codeOf = (error: unknown): string | undefined => (error as NodeJS.ErrnoException).code;
