/** `--when-split prefer`: the site that is not preferred stood still for so long that the other went on alone. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { NbdClient } from '../../src/frontend/nbd/client.js';
import { GIB, MIB } from '../../src/limits.js';
import { Room, sleep, until, untilEqual } from './gateway-process.js';
import { requireTools } from './tools.js';

const BLOCK = 4096;
/** Requests that wait for it when it goes on. */
const READERS = 16;

let room: Room;
beforeEach(async () => {
  room = await Room.open();
});
afterEach(() => room.close());

describe.skipIf(!requireTools(['gcc']))('a site that is not preferred, and stood still', () => {
  test('shows nothing from before the other went on alone', { timeout: 180_000 }, async () => {
    const options = { size: 16 * MIB, ring: 8 * MIB, journal: GIB, roundTripMs: 6, 'when-split': 'prefer:a' };
    const { a, b } = await room.dual(options);
    const atA = await NbdClient.connect(await a.uri('vm'));
    const readers = await Promise.all(
      Array.from({ length: READERS }, async () => NbdClient.connect(await b.uri('vm'))),
    );
    await atA.write(0, Buffer.alloc(BLOCK, 1));
    await untilEqual(a, b);
    expect((await readers[0]!.read(0, BLOCK)).equals(Buffer.alloc(BLOCK, 1))).toBe(true);

    b.child.kill('SIGSTOP');
    await until('site a without a link', async () => (await a.status()).link.state === 'away');
    await atA.write(0, Buffer.alloc(BLOCK, 2)); // is held until it goes on alone
    await atA.flush();
    const reads = readers.map((reader) => reader.read(0, BLOCK).then((bytes) => bytes[0]));
    await sleep(100); // they are in the sockets of b
    b.child.kill('SIGCONT');
    expect(await Promise.all(reads)).toEqual(reads.map(() => 2));
    await untilEqual(a, b);
    for (const client of [atA, ...readers]) await client.close();
  });
});
