/** A flat volume's image and the state that counts on it: what a start does about one that is not there. */
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Gateway, LibraryVolume } from '../../src/index.js';
import { FlatImage } from '../../src/platter/flat.js';

const MIB = 1 << 20;
let directory: string;
beforeEach(() => {
  directory = fs.mkdtempSync(join(tmpdir(), 'forelock-image-'));
});
afterEach(() => fs.rmSync(directory, { recursive: true, force: true }));

const image = (name: string) => join(directory, 'mount', `${name}.img`);

const open = (...names: string[]): Promise<Gateway> => openWith({}, names);

function openWith(told: { blockSize?: number }, names: readonly string[]): Promise<Gateway> {
  const volumes = names.map((name) => ({ name, size: 4 * MIB, platter: 'flat' as const, path: image(name), ...told }));
  const group = {
    group: 'main',
    role: 'primary',
    volumes,
    ack: 'local',
    speculation: 'on',
    whenPeerAway: 'degrade',
    kernel: 'wasm',
    journal: 64 * MIB,
  } as const;
  return Gateway.open({ state: join(directory, 'state'), site: 'a', nbd: [], groups: [group] });
}

// the image's file system was not mounted: zeroes went out as the volume, and what was written went below the mount point
test('an image that is missing at a later start is refused; with it back, everything is there', async () => {
  fs.mkdirSync(join(directory, 'mount'));
  const first = await open('one', 'two');
  await first.ready();
  const volume = new LibraryVolume(first.volume('two'));
  await volume.write(0, Buffer.alloc(MIB, 5));
  await volume.flush();
  await first.close();
  expect(fs.readFileSync(image('two'))[0]).toBe(5);

  fs.renameSync(join(directory, 'mount'), join(directory, 'unmounted'));
  fs.mkdirSync(join(directory, 'mount'));
  fs.copyFileSync(join(directory, 'unmounted', 'one.img'), image('one'));
  const refused = open('one', 'two');
  await expect(refused).rejects.toMatchObject({ code: 'STATE_MISMATCH' });
  await expect(refused).rejects.toThrow(`${image('two')}, a volume's image, is missing: mount the file system`);
  expect(fs.readdirSync(join(directory, 'mount')).filter((name) => name.startsWith('two'))).toEqual([]);

  fs.rmSync(join(directory, 'mount'), { recursive: true });
  await expect(open('one', 'two')).rejects.toThrow('is missing');
  fs.renameSync(join(directory, 'unmounted'), join(directory, 'mount'));
  const again = await open('one', 'two');
  await again.ready();
  expect((await new LibraryVolume(again.volume('two')).read(0, MIB)).every((byte) => byte === 5)).toBe(true);
  await again.close();
});

test('a first start that was killed before it was written down finds the image that it had made', async () => {
  fs.mkdirSync(join(directory, 'mount'));
  await (await open('one')).close();
  fs.rmSync(join(directory, 'state'), { recursive: true });
  await (await open('one')).close();
  expect(fs.statSync(image('one')).size).toBe(4 * MIB);
});

test('blocks of another size than the volume has are refused, and not passed over', async () => {
  fs.mkdirSync(join(directory, 'mount'));
  await (await openWith({ blockSize: 512 }, ['one'])).close();
  await expect(openWith({ blockSize: 4096 }, ['one'])).rejects.toMatchObject({ code: 'STATE_MISMATCH' });
  await (await openWith({ blockSize: 512 }, ['one'])).close();
  await (await open('one')).close();
});

// the image stayed open and locked: a second start in the same process said STATE_LOCKED, not what was wrong
test('a start that is refused behind its images lets them go', async () => {
  fs.mkdirSync(join(directory, 'mount'));
  const other = new FlatImage(image('two'), 4 * MIB, true);
  await expect(open('one', 'two')).rejects.toThrow(`${image('two')} is used by process`);
  other.close();
  const first = await open('one', 'two');
  await first.ready();
  await new LibraryVolume(first.volume('one')).write(0, Buffer.alloc(MIB, 5));
  await first.close();
  const state = join(directory, 'state', 'main');
  for (const name of fs.readdirSync(state)) if (name.startsWith('map')) fs.writeFileSync(join(state, name), '');
  for (let start = 0; start < 2; start += 1)
    await expect(open('one', 'two')).rejects.toMatchObject({ code: 'STATE_CORRUPT' });
  expect(fs.readdirSync(join(directory, 'mount')).sort()).toEqual(['one.img', 'two.img']);
});

/** What the gateway says while `change` happens to the image of a volume that has fives in it and then gets sevens. */
async function changed(change: () => void): Promise<{ told: string[]; again: () => Promise<Gateway> }> {
  fs.mkdirSync(join(directory, 'mount'));
  const first = await open('one');
  await first.ready();
  const group = first.groups[0]!;
  const volume = new LibraryVolume(first.volume('one'));
  await volume.write(0, Buffer.alloc(2 * MIB, 5));
  await volume.flush();
  await first.close();
  expect(group.writeback.counters.rounds).toBe(1);
  const second = await open('one');
  await second.ready();
  const told: string[] = [];
  second.groups[0]!.tell = (text) => told.push(text);
  change();
  const changing = new LibraryVolume(second.volume('one'));
  await changing.write(2 * MIB, Buffer.alloc(MIB, 7));
  await changing.flush();
  await second.close();
  return { told, again: () => open('one') };
}

test('an image that is cut while it is served is not written, and not made as large again', async () => {
  // The next round extended it, and what had been cut off was zeroes from then on, served as data.
  const { told, again } = await changed(() => fs.truncateSync(image('one'), MIB));
  expect(told).toEqual([expect.stringContaining(`${image('one')} was cut to ${MIB} of ${4 * MIB} bytes`)]);
  expect(fs.statSync(image('one')).size).toBe(MIB);
  await expect(again()).rejects.toMatchObject({ code: 'STATE_MISMATCH' });
});

test('an image that is replaced while it is served does not get what the journal has instead of the other', async () => {
  // Flushed writes went to the file that had no name any more, the journal let go of them, and the stop said nothing.
  for (const isRemoved of [false, true]) {
    const { told, again } = await changed(() => {
      fs.copyFileSync(image('one'), image('copy'));
      if (isRemoved) fs.unlinkSync(image('one'));
      else fs.renameSync(image('copy'), image('one'));
    });
    const reason = `what is at ${image('one')} now is not the image that was opened`;
    expect(told).toEqual([
      expect.stringContaining(`the image of volume one is not whole (${reason}): the journal has`),
    ]);
    if (isRemoved) fs.renameSync(image('copy'), image('one'));
    const next = await again();
    await next.ready();
    const bytes = await new LibraryVolume(next.volume('one')).read(0, 3 * MIB);
    expect([bytes[0], bytes[2 * MIB], bytes[3 * MIB - 1]]).toEqual([5, 7, 7]);
    await next.close();
    expect(fs.readFileSync(image('one'))[2 * MIB]).toBe(7);
    fs.rmSync(directory, { recursive: true });
    fs.mkdirSync(directory);
  }
});

test('one that is replaced while a round writes it keeps the journal from letting go', async () => {
  const { told, again } = await changed(() => {
    const { inspect } = FlatImage.prototype;
    const looked = vi.spyOn(FlatImage.prototype, 'inspect').mockImplementation(function (this: FlatImage, done) {
      looked.mockRestore();
      inspect.call(this, (error) => {
        fs.copyFileSync(image('one'), image('copy'));
        fs.renameSync(image('copy'), image('one'));
        done(error);
      });
    });
  });
  expect(told).toEqual([expect.stringContaining('is not the image that was opened')]);
  const next = await again();
  await next.ready();
  expect((await new LibraryVolume(next.volume('one')).read(2 * MIB, 1))[0]).toBe(7);
  await next.close();
});
