import { type ChildProcess, spawn } from 'node:child_process';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from 'vite';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, type MockInstance, test, vi } from 'vitest';
import { DiskStore } from '../../src/journal/disk-store.js';
import { QuickSync } from '../../src/journal/quick-sync.js';

let root: string;
let directory: string;
let script: string;

/** A process that opens the store when told, says so, and stays until it is told to close or is killed. */
class Starter {
  readonly child: ChildProcess;
  readonly #lines: string[] = [];
  #wake: (() => void) | null = null;

  constructor() {
    this.child = spawn(process.execPath, [script], { stdio: ['pipe', 'pipe', 'inherit'] });
    let rest = '';
    this.child.stdout!.setEncoding('utf8').on('data', (text: string) => {
      const lines = (rest + text).split('\n');
      rest = lines.pop()!;
      this.#lines.push(...lines);
      this.#wake?.();
    });
  }

  async line(): Promise<string> {
    while (this.#lines.length === 0) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.#lines.shift()!;
  }

  async ask(command: string): Promise<string> {
    this.child.stdin!.write(`${command}\n`);
    return this.line();
  }

  async kill(): Promise<void> {
    const gone = new Promise((resolve) => this.child.once('exit', resolve));
    this.child.kill('SIGKILL');
    await gone;
  }
}

async function starters(n: number): Promise<Starter[]> {
  const made = Array.from({ length: n }, () => new Starter());
  for (const starter of made) expect(await starter.line()).toBe('ready');
  return made;
}

beforeAll(async () => {
  root = fs.mkdtempSync(join(tmpdir(), 'forelock-disk-store-'));
  await build({
    configFile: false,
    logLevel: 'silent',
    build: {
      ssr: join(import.meta.dirname, 'disk-store-starter.ts'),
      outDir: root,
      emptyOutDir: false,
      rollupOptions: { output: { entryFileNames: 'starter.mjs' } },
    },
  });
  script = join(root, 'starter.mjs');
});

beforeEach(() => {
  directory = fs.mkdtempSync(join(root, 'state-'));
});

afterEach(() => vi.restoreAllMocks());
afterAll(() => fs.rmSync(root, { recursive: true, force: true }));

const run = (ask: (done: (error: Error | null) => void) => void): Promise<Error | null> =>
  new Promise((resolve) => ask(resolve));

describe('files', () => {
  test('writes, syncs, reads, cuts and lists', async () => {
    const store = new DiskStore(join(directory, 'made', 'for', 'it'));
    const file = store.open('segment-1', true);
    expect(await run((done) => file.write(new Uint8Array([1, 2, 3, 4]), 6, done))).toBe(null);
    expect(await run((done) => file.write(new Uint8Array(0), 100, done))).toBe(null);
    expect(await run((done) => file.sync(done))).toBe(null);
    expect(file.size()).toBe(10);
    const into = new Uint8Array(8);
    expect(file.read(into, 5)).toBe(5);
    expect([...into]).toEqual([0, 1, 2, 3, 4, 0, 0, 0]);
    expect(file.read(into, 100)).toBe(0);
    file.truncate(8);
    expect(file.size()).toBe(8);
    expect(await run((done) => store.save('superblock.a', new Uint8Array(100).fill(7), done))).toBe(null);
    expect(await run((done) => store.save('superblock.a', new Uint8Array([9]), done))).toBe(null);
    expect(store.load('superblock.a')).toEqual(Buffer.from([9]));
    expect(store.load('superblock.b')).toBe(null);
    expect(store.list()).toEqual(['segment-1', 'superblock.a']);
    expect(store.bytesWritten).toEqual({ segment: 4, map: 0, superblock: 101, other: 0 });
    store.remove('segment-1');
    expect(await run((done) => store.syncDirectory(done))).toBe(null);
    expect(store.list()).toEqual(['superblock.a']);
    expect(() => store.open('map-1.log', false)).toThrow('ENOENT');
    store.close();
  });

  test('passes errors on with their code', async () => {
    if (!fs.existsSync('/dev/full')) return;
    const store = new DiskStore(directory);
    fs.symlinkSync('/dev/full', join(directory, 'segment-1'));
    const file = store.open('segment-1', false);
    const error = await run((done) => file.write(new Uint8Array(512), 0, done));
    expect((error as NodeJS.ErrnoException).code).toBe('ENOSPC');
    expect(store.bytesWritten.segment).toBe(0);
    store.close();
  });
});

describe.each([
  ['by a helper', false],
  ['on this thread', true],
])('a synced write %s', (_, isHere) => {
  let mayBeHere: MockInstance;

  beforeEach(() => {
    mayBeHere = vi.spyOn(QuickSync.prototype, 'mayBeHere').mockReturnValue(isHere);
  });

  afterEach(() => {
    vi.restoreAllMocks();
  });

  test('is where it belongs, counted, and answered after the call', async () => {
    const store = new DiskStore(directory, { requests: () => 7, nowMs: () => 0 });
    const file = store.open('segment-1', true);
    const descriptors = vi.spyOn(fs, 'openSync');
    const took = vi.spyOn(QuickSync.prototype, 'took');
    let isInside = true;
    const first = run((done) => {
      file.writeSynced(new Uint8Array([1, 2, 3]), 5, (error) => {
        expect(isInside).toBe(false);
        done(error);
      });
      isInside = false;
    });
    expect(await first).toBe(null);
    expect(await run((done) => file.writeSynced(new Uint8Array([4]), 8, done))).toBe(null);
    const into = new Uint8Array(9);
    expect(file.read(into, 0)).toBe(9);
    expect([...into]).toEqual([0, 0, 0, 0, 0, 1, 2, 3, 4]);
    expect(store.bytesWritten.segment).toBe(4);
    expect(mayBeHere.mock.calls).toEqual([
      [3, 7],
      [1, 7],
    ]);
    expect(took.mock.calls.map(([size]) => size)).toEqual([3, 1]);
    expect(descriptors).toHaveBeenCalledTimes(1);
    expect(Number(descriptors.mock.calls[0]![1]) & fs.constants.O_DSYNC).toBe(fs.constants.O_DSYNC);
    store.close();
  });

  test('that fails is not tried again', async () => {
    if (!fs.existsSync('/dev/full')) return;
    const store = new DiskStore(directory);
    fs.symlinkSync('/dev/full', join(directory, 'segment-1'));
    const file = store.open('segment-1', false);
    const [here, byHelper] = [vi.spyOn(fs, 'writeSync'), vi.spyOn(fs, 'write')];
    const error = await run((done) => file.writeSynced(new Uint8Array(512), 0, done));
    expect((error as NodeJS.ErrnoException).code).toBe('ENOSPC');
    expect([here.mock.calls.length, byHelper.mock.calls.length]).toEqual(isHere ? [1, 0] : [0, 1]);
    expect(store.bytesWritten.segment).toBe(0);
    store.close();
  });

  test('that is cut short goes on', async () => {
    const store = new DiskStore(directory);
    const file = store.open('segment-1', true);
    const { writeSync } = fs;
    vi.spyOn(fs, 'writeSync').mockImplementation(((
      fd: number,
      bytes: Uint8Array,
      _: number,
      size: number,
      at: number,
    ) => writeSync(fd, bytes, 0, size >> 1, at)) as typeof fs.writeSync);
    expect(await run((done) => file.writeSynced(new Uint8Array([1, 2, 3, 4, 5]), 0, done))).toBe(null);
    const into = new Uint8Array(6);
    expect(file.read(into, 0)).toBe(5);
    expect([...into]).toEqual([1, 2, 3, 4, 5, 0]);
    expect(store.bytesWritten.segment).toBe(5);
    store.close();
  });

  test('goes on in two calls where no second descriptor is to be had', async () => {
    const store = new DiskStore(directory);
    const file = store.open('segment-1', true);
    vi.spyOn(fs, 'openSync').mockImplementation(() => {
      throw Object.assign(new Error('EMFILE'), { code: 'EMFILE' });
    });
    const sync = vi.spyOn(fs, 'fdatasync');
    expect(await run((done) => file.writeSynced(new Uint8Array([1]), 0, done))).toBe(null);
    expect(sync).toHaveBeenCalledTimes(1);
    store.close();
  });
});

test('a file whose first save failed has its name on the disk before a later save is answered', async () => {
  // The later one found it there, and took its name to be. A power cut could take the file from under what was answered.
  const store = new DiskStore(directory);
  const listed = vi.spyOn(store, 'syncDirectory');
  const failing = vi
    .spyOn(fs, 'fsync')
    .mockImplementationOnce(((_: number, done: (error: Error) => void) => done(new Error('EIO'))) as typeof fs.fsync);
  const save = (): Promise<Error | null> => run((done) => store.save('superblock.a', new Uint8Array(10), done));
  expect((await save())?.message).toBe('EIO');
  failing.mockRestore();
  expect([await save(), listed.mock.calls.length]).toEqual([null, 1]);
  expect([await save(), listed.mock.calls.length]).toEqual([null, 1]);
  listed.mockRestore();
  store.close();
});

test('a directory is synced though no file can be opened any more', async () => {
  // Such a sync has failed like any other, and that is not made good by another one: the journal was given up.
  const store = new DiskStore(directory);
  const file = store.open('segment-1', true);
  const refused = Object.assign(new Error('EMFILE'), { code: 'EMFILE' });
  vi.spyOn(fs, 'open').mockImplementation(((...args: unknown[]) => {
    (args.at(-1) as (error: Error) => void)(refused);
  }) as typeof fs.open);
  expect(await run((done) => store.syncDirectory(done))).toBeNull();
  vi.restoreAllMocks();
  file.close();
  store.close();
});

test('a superblock is saved though no file can be opened any more', async () => {
  // With the peer away nothing could be noted, so hosts were not answered by this site alone; and a link that came was cut.
  const store = new DiskStore(directory);
  const save = (name: string, size: number): Promise<Error | null> =>
    run((done) => store.save(name, new Uint8Array(size), done));
  for (const name of ['superblock.a', 'superblock.b']) expect(await save(name, 20)).toBeNull();
  const refused = Object.assign(new Error('EMFILE'), { code: 'EMFILE' });
  vi.spyOn(fs, 'open').mockImplementation(((...args: unknown[]) => {
    (args.at(-1) as (error: Error) => void)(refused);
  }) as typeof fs.open);
  for (const name of ['superblock.a', 'superblock.b']) expect(await save(name, 10)).toBeNull();
  vi.restoreAllMocks();
  expect(store.load('superblock.b')).toHaveLength(10);
  store.close();
});

test('a save that is under way when the store is closed keeps its file until it is answered', async () => {
  const store = new DiskStore(directory);
  const save = (): Promise<Error | null> => run((done) => store.save('superblock.a', new Uint8Array(10), done));
  expect(await save()).toBeNull();
  const closed = vi.spyOn(fs, 'close');
  const saving = save();
  store.close();
  const before = closed.mock.calls.map(([fd]) => fd);
  expect(await saving).toBeNull();
  expect(closed.mock.calls).toHaveLength(before.length + 1);
  expect(before).not.toContain(closed.mock.calls.at(-1)![0]);
  vi.restoreAllMocks();
});

test('a synced write to a file that is closed meanwhile is an error, and goes to no other file', async () => {
  const mayBeHere = vi.spyOn(QuickSync.prototype, 'mayBeHere').mockReturnValue(true);
  const store = new DiskStore(directory);
  const file = store.open('segment-1', true);
  const write = run((done) => file.writeSynced(new Uint8Array([1]), 0, done));
  file.close();
  expect(((await write) as NodeJS.ErrnoException).code).toBe('EBADF');
  store.close();
  mayBeHere.mockRestore();
});

describe('the lock', () => {
  test('refuses a second opening, of this process too, and is free after close', async () => {
    const store = new DiskStore(directory);
    expect(() => new DiskStore(directory)).toThrow(`used by process ${process.pid} (this one)`);
    const [other] = await starters(1);
    expect(await other.ask(`open ${directory}`)).toMatch(new RegExp(`^STATE_LOCKED .* process ${process.pid}:`));
    store.close();
    expect(await other.ask(`open ${directory}`)).toBe('opened');
    expect(() => new DiskStore(directory)).toThrow(`used by process ${other.child.pid}:`);
    expect(await other.ask('close')).toBe('closed');
    new DiskStore(directory).close();
    expect(fs.readdirSync(directory)).toEqual([]);
    await other.kill();
  });

  test('a process that was killed does not hold it', async () => {
    const [first] = await starters(1);
    expect(await first.ask(`open ${directory}`)).toBe('opened');
    await first.kill();
    expect(fs.readdirSync(directory)).toEqual(['lock']);
    const store = new DiskStore(directory);
    expect(() => new DiskStore(directory)).toThrow('used by process');
    expect(fs.readdirSync(directory)).toEqual(['lock']);
    store.close();
  });

  const make = (name: string, path = 'lock'): void => {
    fs.rmSync(join(directory, path), { force: true });
    fs.symlinkSync(name, join(directory, path));
  };

  test('a pid that was given to another process does not hold it', () => {
    const store = new DiskStore(directory);
    const [pid, start, boot, nonce] = fs.readlinkSync(join(directory, 'lock')).split(' ');
    store.close();
    if (fs.existsSync('/proc/self/stat')) {
      make(`${pid} 1 ${boot} ${nonce}`);
      new DiskStore(directory).close();
      make(`${pid} ${start} another ${nonce}`);
      new DiskStore(directory).close();
    }
    make(`${pid} - - ${nonce}`);
    expect(() => new DiskStore(directory)).toThrow('used by process');
  });

  test('the name of its owner is short enough to stand in an inode', () => {
    const store = new DiskStore(directory);
    expect(fs.readlinkSync(join(directory, 'lock')).length).toBeLessThan(60);
    store.close();
  });

  const DEAD = 'd'.repeat(12);
  const dead = (nonce: string): string => `${2 ** 22 + 5} 5 - ${nonce.repeat(12)}`;

  test('what is no owner does not hold it, nor does one of a succession that stopped half-way', () => {
    fs.writeFileSync(join(directory, 'lock'), '');
    make('12 34', 'lock-lock~');
    new DiskStore(directory).close();
    make(dead('a'));
    make(dead('b'), `lock-${'a'.repeat(12)}`);
    const store = new DiskStore(directory);
    expect(() => new DiskStore(directory)).toThrow('used by process');
    expect(store.list()).toEqual([]);
    expect(fs.readdirSync(directory)).toEqual(['lock']);
    store.close();
  });

  test('a starter that was slow to succeed the dead owner does not get past one that did so meanwhile', () => {
    make(dead('d'));
    const { symlinkSync } = fs;
    let quick: DiskStore | null = null;
    vi.spyOn(fs, 'symlinkSync').mockImplementation((name, path) => {
      if (String(path).endsWith(DEAD) && quick === null) {
        vi.restoreAllMocks();
        quick = new DiskStore(directory);
      }
      symlinkSync(name, path);
    });
    expect(() => new DiskStore(directory)).toThrow('is used by process');
    expect(fs.readdirSync(directory)).toEqual(['lock']);
    quick!.close();
  });

  test('one that is succeeding the dead owner is not pushed aside', () => {
    make(dead('d'));
    const { symlinkSync } = fs;
    vi.spyOn(fs, 'symlinkSync').mockImplementation((name, path) => {
      vi.restoreAllMocks();
      symlinkSync(`${process.pid} - - ${'e'.repeat(12)}`, path);
      symlinkSync(name, path);
    });
    expect(() => new DiskStore(directory)).toThrow('is used by process');
    expect(fs.readdirSync(directory)).toEqual(['lock', `lock-${DEAD}`]);
  });

  test('a killed process that its parent has not waited for does not hold it', async () => {
    if (!fs.existsSync('/proc/self/stat')) return;
    const parent = spawn('sh', ['-c', 'sleep 0 & exec sleep 60']);
    let zombie = '';
    while (zombie === '') {
      await new Promise((resolve) => setTimeout(resolve, 20));
      for (const pid of fs
        .readFileSync(`/proc/${parent.pid}/task/${parent.pid}/children`, 'latin1')
        .trim()
        .split(' ')) {
        if (pid !== '' && fs.readFileSync(`/proc/${pid}/stat`, 'latin1').includes(') Z ')) zombie = pid;
      }
    }
    const start = fs.readFileSync(`/proc/${zombie}/stat`, 'latin1').split(') ')[1].split(' ')[19];
    make(`${zombie} ${start} - ${DEAD}`);
    new DiskStore(directory).close();
    parent.kill('SIGKILL');
  });

  test('of many that start at once over a dead owner exactly one gets it, again and again', async () => {
    const racers = await starters(6);
    for (let round = 0; round < 12; round++) {
      const [victim] = await starters(1);
      expect(await victim.ask(`open ${directory}`)).toBe('opened');
      await victim.kill();
      const answers = await Promise.all(racers.map((racer) => racer.ask(`open ${directory}`)));
      expect(answers.filter((answer) => answer === 'opened').length, answers.join('; ')).toBe(1);
      expect(answers.filter((answer) => answer.startsWith('STATE_LOCKED')).length).toBe(racers.length - 1);
      await Promise.all(racers.map((racer) => racer.ask('close')));
    }
    for (const racer of racers) await racer.kill();
  }, 60_000);
});
