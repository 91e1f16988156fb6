/** The library's view of a volume: what it reads, and what it refuses to. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { TYPE_WRITE } from '../../assembly/layout.js';
import { Gateway, type GroupOptions, LibraryVolume, type ScopeOptions } from '../../src/index.js';

const MIB = 1 << 20;
const group = {
  ...{ group: 'main', role: 'primary', volumes: [{ name: 'disk', size: MIB }] },
  ...{ ack: 'local', speculation: 'on', whenPeerAway: 'degrade', kernel: 'wasm' },
} satisfies GroupOptions;

let state: string;
beforeEach(() => {
  state = mkdtempSync(join(tmpdir(), 'forelock-library-'));
});
afterEach(() => rmSync(state, { recursive: true, force: true }));

test('the edges of a volume: nothing is read of nothing, and what lies outside is refused', async () => {
  const gateway = await Gateway.open({ state, site: 'a', nbd: [], groups: [group] });
  try {
    await gateway.ready();
    const volume = new LibraryVolume(gateway.volume('disk'));
    const { size } = volume;
    for (const offset of [0, 1, size]) {
      expect(await volume.read(offset, 0)).toEqual(new Uint8Array(0));
      await volume.write(offset, new Uint8Array(0));
      await volume.trim(offset, 0);
      await volume.zero(offset, 0);
    }
    await volume.write(size - 4096, Buffer.alloc(4096, 7));
    const scope = await volume.lock({ offset: 0, size: 4096 });
    expect([...(await scope.read(size - 1, 1))]).toEqual([7]);
    const outside: [number, number][] = [
      [size, 1],
      [size - 1, 2],
      [-1, 2],
      [0, -1],
      [0.5, 1],
      [0, 0.5],
      [Number.NaN, 1],
      [0, Number.NaN],
      [2 ** 53, 1],
      [0, Number.POSITIVE_INFINITY],
    ];
    for (const [offset, count] of outside) {
      await expect(volume.read(offset, count)).rejects.toMatchObject({ code: 'EINVAL' });
      await expect(scope.read(offset, count)).rejects.toMatchObject({ code: 'EINVAL' });
    }
    await expect(scope.read(0, 0)).rejects.toMatchObject({ code: 'EINVAL' });
    await scope.unlock();
  } finally {
    await gateway.close();
  }
});

// A text was written as zeroes, and of elements with two bytes each the half of them, each cut to one byte: both were answered.
// A wait of NaN had no end, and a mode with a capital letter was the other one.
test('what a program without types gives is refused, and not taken for something else', async () => {
  const gateway = await Gateway.open({ state, site: 'a', nbd: [], groups: [group] });
  try {
    await gateway.ready();
    const volume = new LibraryVolume(gateway.volume('disk'));
    await volume.write(0, Buffer.alloc(4096, 7));
    const extent = { offset: 0, size: 4096 };
    const scope = await volume.lock(extent);
    for (const bytes of [
      'x'.repeat(4096),
      new Uint16Array(4096),
      Array(4096).fill(1),
      new ArrayBuffer(4096),
      null,
      undefined,
    ]) {
      const payload = bytes as unknown as Uint8Array;
      const refused = { code: 'EINVAL', message: expect.stringContaining('must be a Uint8Array') };
      await expect(volume.write(0, payload)).rejects.toMatchObject(refused);
      await expect(scope.write(0, payload)).rejects.toMatchObject(refused);
      const transaction = gateway.transaction('main', async (transaction) => {
        await transaction.lock('disk', { offset: 8192, size: 4096 });
        transaction.write('disk', 8192, payload);
      });
      await expect(transaction).rejects.toMatchObject(refused);
    }
    for (const options of [{ waitMsMax: Number.NaN }, { waitMsMax: '1' }, { mode: 'Read' }, { onConflict: 'wait' }]) {
      await expect(volume.lock(extent, options as ScopeOptions)).rejects.toMatchObject({
        code: 'EINVAL',
        message: expect.stringContaining(Object.keys(options)[0]!),
      });
    }
    await scope.unlock();
    expect(await volume.read(0, 4096)).toEqual(Buffer.alloc(4096, 7));
  } finally {
    await gateway.close();
  }
});

test('a stop does not wait for one who never stops asking for room', async () => {
  // Who asked for more whenever there was some kept the end of the journal ahead of the disk: the stop had no end.
  const gateway = await Gateway.open({
    state,
    site: 'a',
    nbd: [],
    groups: [{ ...group, ring: 4 * MIB, journal: 1024 * MIB }],
  });
  await gateway.ready();
  const volume = gateway.volume('disk');
  const { journal } = volume.group;
  const bytes = Buffer.alloc(64 * 1024, 7);
  const isOver = (): boolean => volume.group.ended !== null || journal.head > 256 * MIB;
  volume.group.whenRoom(() => {
    while (!isOver()) if (volume.appendScoped(TYPE_WRITE, 0, 1, 0, 0, 16, bytes) < 0) return false;
    return true;
  });
  await gateway.close();
  expect(journal.head).toBeLessThan(128 * MIB);
});
