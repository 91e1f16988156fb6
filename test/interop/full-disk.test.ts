/** The disk under the state directory fills up, and has room again. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { NbdClient } from '../../src/frontend/nbd/client.js';
import { KIB, MIB } from '../../src/limits.js';
import { Room, StartError, until } from './gateway-process.js';
import { canUseLoopDevices, requireTools, runTool, runToolOk } from './tools.js';

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
    expect(await client.flush().catch((error: unknown) => error)).toMatchObject({ code: 'ENOSPC' });
    await checkAll('with the disk full');
    expect((await gateway.status()).counters.journalDiskFull).toBeGreaterThan(0);
    const before = count;

    await runToolOk('rm', [filler]);
    await until('writes being taken again', async () => (await writeNext()) === null);
    for (let i = 0; i < 100; i += 1) expect(await writeNext()).toBeNull();
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

  test('a start says that it needs room, and which', async () => {
    const mounted = await smallDisk(64 * MIB);
    const options = { site: 'a', state: `${mounted}/state`, volumes: [`vm:${MIB}`] };
    const gateway = await room.start(options);
    await gateway.kill();
    await runTool('dd', ['if=/dev/zero', `of=${mounted}/filler`, 'bs=4k']); // until nothing is left
    const refused: StartError = await room.again(gateway).catch((error) => error);
    expect(refused).toBeInstanceOf(StartError);
    expect(refused.message).toMatch(/^the gateway ended with 1: .*state directory \S*main: ENOSPC.*: make room/m);
    expect(refused.message).not.toMatch(/^ +at /m);
    await runToolOk('rm', [`${mounted}/filler`]);
    await (await room.again(gateway)).stop();
  });
});

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
