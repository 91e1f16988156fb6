import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { FlatImage } from '../../src/platter/flat.js';

let directory: string;
let path: string;
beforeEach(() => {
  directory = fs.mkdtempSync(join(tmpdir(), 'forelock-flat-'));
  path = join(directory, 'volume.img');
});
afterEach(() => fs.rmSync(directory, { recursive: true, force: true }));

const run = (ask: (done: (error: Error | null) => void) => void): Promise<Error | null> =>
  new Promise((resolve) => ask(resolve));

const SIZE = 4 * 1024 * 1024;
const make = (at = path) => new FlatImage(at, SIZE, true);
const reopen = () => new FlatImage(path, SIZE, false);

describe('flat image', () => {
  test('is made with the size of its volume, reads as zeroes, and holds what was written when opened again', async () => {
    const image = make();
    expect(image.created).toBe(true);
    expect(fs.statSync(path).size).toBe(SIZE);
    const into = new Uint8Array(8192).fill(9);
    expect(await run((done) => image.read(SIZE - 4096, 4096, into, done))).toBe(null);
    expect(into.subarray(0, 4096).every((byte) => byte === 0)).toBe(true);
    expect(into[4096]).toBe(9);
    const pieces = [new Uint8Array(512).fill(1), new Uint8Array(0), new Uint8Array(1024).fill(2)];
    expect(await run((done) => image.write(SIZE - 1536, pieces, done))).toBe(null);
    expect(await run((done) => image.write(0, [], done))).toBe(null);
    expect(await run((done) => image.sync(done))).toBe(null);
    image.close();
    image.close();
    const again = reopen();
    expect(again.created).toBe(false);
    expect(await run((done) => again.read(SIZE - 2048, 2048, into, done))).toBe(null);
    expect([into[511], into[512], into[1023], into[1024], into[2047]]).toEqual([0, 1, 1, 2, 2]);
    expect(image.counters).toMatchObject({ reads: 1, bytesRead: 4096, writes: 2, bytesWritten: 1536, syncs: 1 });
    again.close();
    expect(fs.readdirSync(directory)).toEqual(['volume.img']);
  });

  test('is not closed under a read', async () => {
    // A stop closed the file while a host's read of several parts was under way. The next part asked a descriptor that was
    // closed by then, or another file's.
    fs.writeFileSync(path, new Uint8Array(SIZE).fill(7));
    const image = make();
    const { read } = fs;
    const stalled: (() => void)[] = [];
    const some = (fd: number, into: Uint8Array, at: number, size: number, position: number, done: () => void): void =>
      void stalled.push(() => read(fd, into, at, Math.min(size, 1024), position, done));
    const spy = vi.spyOn(fs, 'read').mockImplementation(some as never);
    try {
      const into = new Uint8Array(4096);
      const order: string[] = [];
      const answered = run((done) => image.read(0, 4096, into, done)).then((error) => {
        order.push('read');
        return error;
      });
      const closed = image.close().then(() => order.push('closed'));
      while (order.length === 0) {
        stalled.shift()?.();
        await new Promise(setImmediate);
      }
      expect(await answered).toBe(null);
      await closed;
      expect([order, into.every((byte) => byte === 7)]).toEqual([['read', 'closed'], true]);
      expect(fs.readdirSync(directory)).toEqual(['volume.img']);
    } finally {
      spy.mockRestore();
    }
  });

  test('zeroes any stretch and nothing beside it', async () => {
    fs.writeFileSync(path, new Uint8Array(SIZE).fill(7));
    const image = make();
    expect(await run((done) => image.zero(512, 3 * 1024 * 1024 - 1024, false, done))).toBe(null);
    expect(await run((done) => image.zero(0, 0, false, done))).toBe(null);
    image.close();
    const bytes = fs.readFileSync(path);
    const first = bytes.indexOf(0);
    const last = bytes.lastIndexOf(0);
    expect([first, last]).toEqual([512, 3 * 1024 * 1024 - 513]);
    expect(bytes.subarray(first, last + 1).every((byte) => byte === 0)).toBe(true);
    expect(image.counters.bytesZeroed).toBe(3 * 1024 * 1024 - 1024);
  });

  test('what is zero already is left alone: a hole stays one', async () => {
    // Every trim and zero filled the sparse image: mkfs, which discards the whole device, made it as large as the volume.
    const image = make();
    const zero = (isRead: boolean): Promise<Error | null> => run((done) => image.zero(0, SIZE, isRead, done));
    expect(await run((done) => image.write(512, [new Uint8Array(512).fill(1)], done))).toBe(null);
    expect(await zero(true)).toBe(null);
    expect(image.counters.bytesZeroed).toBe(SIZE / 4);
    expect(fs.statSync(path).blocks * 512).toBeLessThan(SIZE / 2);
    expect(await zero(true)).toBe(null);
    expect(image.counters.bytesZeroed).toBe(SIZE / 4);
    expect(fs.readFileSync(path).every((byte) => byte === 0)).toBe(true);
    // nobody knows whether the disk has it as well
    expect(await zero(false)).toBe(null);
    expect(image.counters.bytesZeroed).toBe(SIZE / 4 + SIZE);
    await image.close();
  });

  describe.each([
    ['opened past the page cache', 'openSync'],
    ['read past it', 'read'],
  ] as const)('where nothing can be %s', (_, what) => {
    test('a hole stays one, and what is none is zeroed', async () => {
      const image = make();
      const refusal = Object.assign(new Error('EINVAL: invalid argument'), { code: 'EINVAL' });
      const refused =
        what === 'openSync'
          ? vi.spyOn(fs, 'openSync').mockImplementation(() => {
              throw refusal;
            })
          : vi
              .spyOn(fs, 'read')
              .mockImplementationOnce(((...args: unknown[]) =>
                setImmediate(args[5] as (error: Error) => void, refusal)) as never);
      expect(await run((done) => image.write(SIZE - 512, [new Uint8Array(512).fill(1)], done))).toBe(null);
      expect(await run((done) => image.zero(0, SIZE, true, done))).toBe(null);
      expect(refused).toHaveBeenCalled();
      refused.mockRestore();
      expect(image.counters.bytesZeroed).toBe(SIZE / 4);
      expect(fs.statSync(path).blocks * 512).toBeLessThan(SIZE / 2);
      expect(fs.readFileSync(path).every((byte) => byte === 0)).toBe(true);
      await image.close();
    });
  });

  test('what is looked at for zeroes is what was written last, be it not on the disk yet', async () => {
    const image = make();
    expect(await run((done) => image.zero(0, SIZE, true, done))).toBe(null);
    expect(await run((done) => image.write(SIZE - 512, [new Uint8Array(512).fill(1)], done))).toBe(null);
    expect(await run((done) => image.zero(0, SIZE, true, done))).toBe(null);
    expect(await run((done) => image.sync(done))).toBe(null);
    expect(await run((done) => image.write(SIZE - 512, [new Uint8Array(512).fill(2)], done))).toBe(null);
    expect(await run((done) => image.zero(0, SIZE, true, done))).toBe(null);
    await image.close();
    expect(fs.readFileSync(path).every((byte) => byte === 0)).toBe(true);
  });

  test('zeroes are written over what cannot be read', async () => {
    fs.writeFileSync(path, new Uint8Array(SIZE).fill(7));
    const image = make();
    const read = vi
      .spyOn(fs, 'read')
      .mockImplementation(((...args: unknown[]) =>
        setImmediate(args[5] as (error: Error) => void, new Error('EIO'))) as never);
    expect(await run((done) => image.zero(0, SIZE, true, done))).toBe(null);
    read.mockRestore();
    expect(fs.readFileSync(path).every((byte) => byte === 0)).toBe(true);
    await image.close();
  });

  test('another size is refused, naming both, and the image is left as it was', () => {
    fs.writeFileSync(path, 'hello');
    expect(() => make()).toThrow(`${path} has 5 bytes, its volume ${SIZE}`);
    expect(fs.readFileSync(path, 'utf8')).toBe('hello');
    expect(fs.readdirSync(directory)).toEqual(['volume.img']);
  });

  // a mount that was missing at a start: zeroes went out as the volume, and new writes into a file below the mount point
  test('one that was served before is not made again: refused, saying where it was, and nothing is there afterwards', () => {
    const next = 'is missing: mount the file system';
    expect(reopen).toThrow(`${path}, a volume's image, ${next}`);
    expect(() => new FlatImage(join(directory, 'missing', 'volume.img'), SIZE, false)).toThrow(next);
    expect(fs.readdirSync(directory)).toEqual([]);
    fs.writeFileSync(path, '');
    expect(reopen).toThrow(/has 0 bytes, its volume \d+: mount the file system/);
    expect(fs.statSync(path).size).toBe(0);
  });

  test('of a new volume, an empty file is what a power cut left of one that was made', () => {
    fs.writeFileSync(path, '');
    make().close();
    expect(fs.statSync(path).size).toBe(SIZE);
  });

  test('one that cannot have its size is not left behind', () => {
    const resize = vi.spyOn(fs, 'ftruncateSync').mockImplementation(() => {
      throw new Error('EFBIG');
    });
    expect(() => make()).toThrow('EFBIG');
    resize.mockRestore();
    expect(fs.readdirSync(directory)).toEqual([]);
  });

  test('is used by one gateway at a time, under any of its names', () => {
    const image = make();
    expect(() => make()).toThrow(`${path} is used by process ${process.pid}`);
    const other = join(directory, 'other.img');
    fs.symlinkSync(path, other);
    expect(() => make(other)).toThrow('is used by process');
    image.close();
    make(other).close();
  });

  // two volumes wrote over each other, and each served the other's data
  test('is used once in a process, whatever it is called', () => {
    const image = make();
    const other = join(directory, 'other.img');
    fs.linkSync(path, other);
    expect(() => make(other)).toThrow(`${other} is used by process ${process.pid} (this one), as ${path}`);
    expect(fs.readdirSync(directory).sort()).toEqual(['other.img', 'volume.img', 'volume.img.forelock-lock']);
    image.close();
    make(other).close();
    make().close();
  });

  test('a device is opened exclusively, where the system knows that, and one in use is refused', () => {
    make().close();
    const stat = vi
      .spyOn(fs, 'statSync')
      .mockImplementation(() => ({ isFile: () => false, isBlockDevice: () => true }) as unknown as fs.Stats);
    const busy = Object.assign(new Error('EBUSY: resource busy or locked, open'), { code: 'EBUSY' });
    const opened = vi.spyOn(fs, 'openSync').mockImplementation((_, flags) => {
      expect(flags).toBe(process.platform === 'linux' ? fs.constants.O_RDWR | fs.constants.O_EXCL : 'r+');
      throw busy;
    });
    const attempt = expect(reopen);
    if (process.platform === 'linux') attempt.toThrow(`${path} is in use: it is mounted, or another program`);
    else attempt.toThrow('cannot be opened');
    stat.mockRestore();
    opened.mockRestore();
    reopen().close();
  });

  test('what is no image is refused: a directory, a character device, a place that cannot be written', () => {
    expect(() => make(directory)).toThrow('neither a file nor a block device');
    expect(() => make('/dev/null')).toThrow('neither a file nor a block device');
    expect(() => make(join(directory, 'missing', 'volume.img'))).toThrow('there is no folder');
  });

  test('an image that was cut short behind our back is an error, not zeroes', async () => {
    const image = make();
    fs.truncateSync(path, 1000);
    const error = await run((done) => image.read(0, 4096, new Uint8Array(4096), done));
    expect((error as NodeJS.ErrnoException).code).toBe('EIO');
    image.close();
  });
});
