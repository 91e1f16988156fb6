/** The disk under the state directory fills up, and has room again. */
import { closeSync, mkdirSync, openSync, writeSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { NbdClient } from '../../src/frontend/nbd/client.js';
import { KIB, MIB } from '../../src/limits.js';
import { Room, StartError, until } from './gateway-process.js';
import { canUseLoopDevices, requireTools, runToolOk } from './tools.js';

const SIZE = 128 * MIB;

let room: Room;
beforeEach(async () => {
  room = await Room.open();
});
afterEach(() => room.close());

describe.skipIf(!requireTools(['mkfs.ext4', 'mount']) || !canUseLoopDevices())('a full disk', () => {
  test('ENOSPC, nothing acknowledged is lost, and it works again when there is room', {
    timeout: 120_000,
  }, async () => {
    const mounted = await smallDisk(160 * MIB);
    const filler = `${mounted}/filler`;
    await runToolOk('fallocate', ['-l', `${64 * MIB}`, filler]);
    const options = { site: 'a', state: `${mounted}/state`, volumes: [`vm:${SIZE}`], ring: 8 * MIB };
    const gateway = await room.start({ ...options, journal: 1024 * MIB });
    let client = await NbdClient.connect(await gateway.uri('vm'));
    const piece = 64 * KIB;
    const pieces = SIZE / piece;
    const bytesOf = (value: number) => Buffer.alloc(piece, `write ${value} `);
    const last = new Map<number, number>();
    let count = 0;
    const writeNext = async (): Promise<Error | null> => {
      count += 1;
      const error = await client.write((count % pieces) * piece, bytesOf(count)).then(
        () => null,
        (error: Error) => error,
      );
      if (error === null) last.set(count % pieces, count);
      return error;
    };
    const checkAll = async (when: string) => {
      for (const [index, value] of last) {
        if (!bytesOf(value).equals(await client.read(index * piece, piece))) {
          throw new Error(`${when}: piece ${index} is not what write ${value} left`);
        }
      }
    };
    let error: Error | null = null;
    while (error === null && count < 10_000) error = await writeNext();
    expect(error).toMatchObject({ code: 'ENOSPC' });
    await client.flush(); // what was taken had room
    await checkAll('with the disk full');
    expect((await gateway.status()).counters.journalSpaceRefused).toBeGreaterThan(0);
    const before = count;

    await runToolOk('rm', [filler]);
    // the disk is looked at now and then: until it is, a write may be taken, and the next one not
    await until('a hundred writes in a row being taken', async () => {
      for (let i = 0; i < 100; i += 1) if ((await writeNext()) !== null) return false;
      return true;
    });
    await client.flush();
    await checkAll('with room again');
    client.destroy();
    await gateway.kill();
    const again = await room.again(gateway);
    client = await NbdClient.connect(await again.uri('vm'));
    await checkAll('after a kill');
    process.stderr.write(`full disk: ENOSPC at write ${before}, ${last.size} pieces checked\n`);
    await client.close();
    await again.stop();
  });

  /** The disk was full of what nothing refers to any more, and as it was full no checkpoint could say so (seed 1291726175 of chaos). */
  test('a disk that is smaller than the journal may be is written round and round', async () => {
    const mounted = await smallDisk(96 * MIB);
    const options = { site: 'a', state: `${mounted}/state`, volumes: [`vm:${16 * MIB}`], ring: 8 * MIB };
    const gateway = await room.start({ ...options, journal: 1024 * MIB });
    let client = await NbdClient.connect(await gateway.uri('vm'));
    const piece = 64 * KIB;
    const bytesOf = (value: number) => Buffer.alloc(piece, `write ${value} `);
    for (let count = 0; count < 4096; count += 1) await client.write((count % 256) * piece, bytesOf(count));
    await client.flush();
    client.destroy();
    await gateway.kill();
    const again = await room.again(gateway);
    client = await NbdClient.connect(await again.uri('vm'));
    for (let index = 0; index < 256; index += 1)
      expect(bytesOf(4096 - 256 + index).equals(await client.read(index * piece, piece))).toBe(true);
    await client.close();
    await again.stop();
  });

  test('a gateway that was killed starts again where nothing is left, and serves what it had', async () => {
    const mounted = await smallDisk(64 * MIB);
    const filler = `${mounted}/filler`;
    const first = await room.start({ site: 'a', state: `${mounted}/state`, volumes: [`vm:${MIB}`] });
    await first.stop();
    const gateway = await room.again(first); // both superblocks are there
    let client = await NbdClient.connect(await gateway.uri('vm'));
    const bytes = Buffer.alloc(64 * KIB, 'before ');
    await client.write(0, bytes);
    await client.flush();
    client.destroy();
    await gateway.kill();
    fillUp(filler);
    const again = await room.again(gateway);
    client = await NbdClient.connect(await again.uri('vm'));
    expect(bytes.equals(await client.read(0, bytes.length))).toBe(true);
    await runToolOk('rm', [filler]);
    const isTaken = (): Promise<boolean> =>
      client.write(0, bytes).then(
        () => true,
        () => false,
      );
    await until('a write being taken', isTaken);
    await client.flush();
    await client.close();
    await again.stop();
  });

  test('a first start says that it needs room, and where', async () => {
    const mounted = await smallDisk(16 * MIB);
    mkdirSync(`${mounted}/state`);
    fillUp(`${mounted}/filler`);
    const refused = await room.start({ site: 'a', state: `${mounted}/state`, volumes: [`vm:${MIB}`] }).then(
      () => null,
      (error: Error) => error,
    );
    expect(refused).toBeInstanceOf(StartError);
    expect(refused!.message).toMatch(/^the gateway ended with 1: .*state directory \S*main: ENOSPC.*: make room/m);
    expect(refused!.message).not.toMatch(/^ +at /m);
  });
});

/** Until nothing is left. */
function fillUp(path: string): void {
  const fd = openSync(path, 'w');
  try {
    for (const piece of [Buffer.alloc(MIB), Buffer.alloc(KIB)]) {
      try {
        for (;;) writeSync(fd, piece);
      } catch (error) {
        expect(error).toMatchObject({ code: 'ENOSPC' });
      }
    }
  } finally {
    closeSync(fd);
  }
}

/** A file system of its own, in a file. @returns where it is mounted */
async function smallDisk(size: number): Promise<string> {
  const [file, mounted] = [room.path('small.img'), room.path('small')];
  await runToolOk('truncate', ['-s', `${size}`, file]);
  await runToolOk('mkfs.ext4', ['-q', '-F', file]);
  await runToolOk('mkdir', [mounted]);
  await runToolOk('mount', ['-o', 'loop', file, mounted]);
  room.onClose(() => runToolOk('umount', [mounted]));
  return mounted;
}
