/** What --ack and --when-peer-away promise, with sites that die and links that are cut. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { NbdClient } from '../../src/frontend/nbd/client.js';
import { KIB, MIB } from '../../src/limits.js';
import { readImage, writeBytes } from './checking-client.js';
import { Room, sleep, until } from './gateway-process.js';
import { requireTools } from './tools.js';

const SIZE = 32 * MIB;

let room: Room;
beforeEach(async () => {
  room = await Room.open();
});
afterEach(() => room.close());

describe.skipIf(!requireTools(['gcc']))('a promise of both sites', { timeout: 120_000 }, () => {
  for (const ack of ['received', 'applied'] as const) {
    test(`--ack ${ack}: what a flush answered survives the death of the target, and of both`, async () => {
      const pair = await room.pair({ size: SIZE, source: { ack, 'when-peer-away': 'block' } });
      let { source, target } = pair;
      let client = await NbdClient.connect(await source.uri('vm'));
      for (let round = 1; round <= 6; round += 1) {
        const writes = Array.from({ length: 40 }, (_, i) => client.write(i * 64 * KIB, Buffer.alloc(64 * KIB, round)));
        await Promise.all(writes);
        await client.flush();
        await Promise.all([target.kill(), round % 2 === 0 ? source.kill() : null]);
        target = await room.again(target);
        const view = await readImage(await target.uri('vm@applied'));
        const kept = view.subarray(0, 40 * 64 * KIB).every((byte) => byte === round);
        expect(kept, `round ${round}: flushed writes at the target`).toBe(true);
        if (round % 2 === 0) {
          client.destroy();
          source = await room.again(source);
          await source.untilStreaming();
          client = await NbdClient.connect(await source.uri('vm'));
        }
        await source.untilStreaming();
      }
      await client.close();
      expect(await source.verify()).toMatchObject({ equal: true });
    });
  }
});

describe.skipIf(!requireTools(['gcc']))('the peer away', { timeout: 120_000 }, () => {
  const block = Buffer.alloc(64 * KIB, 3);

  test('degrade: the host is answered, status says since when, and it ends with the catching up', async () => {
    const { source, target, proxy } = await room.pair({ size: SIZE, source: { ack: 'received' } });
    const uri = await source.uri('vm');
    await writeBytes(uri, 0, block);
    expect((await source.status()).degradedSince).toBeNull();
    await proxy.cut();
    await writeBytes(uri, MIB, block);
    const { degradedSince, cursors } = await source.status();
    expect(degradedSince).toBeGreaterThan(0);
    expect(degradedSince).toBeLessThanOrEqual(cursors.own.appended);
    // it is written down: a restart knows it too
    await source.kill();
    const again = await room.again(source);
    expect((await again.status()).degradedSince).toBe(degradedSince);
    await proxy.open();
    await again.untilStreaming();
    await again.untilApplied();
    await until('the end of degraded', async () => (await again.status()).degradedSince === null);
    expect(await again.verify()).toMatchObject({ equal: true });
    expect((await readImage(await target.uri('vm@applied')))[MIB]).toBe(3);
  });

  test('block: the flush waits for the peer', async () => {
    const { source, proxy } = await room.pair({ size: SIZE, source: { ack: 'received', 'when-peer-away': 'block' } });
    const uri = await source.uri('vm');
    await proxy.cut();
    let isAnswered = false;
    const waiting = writeBytes(uri, MIB, block).then(() => {
      isAnswered = true;
    });
    await sleep(1000);
    expect(isAnswered).toBe(false);
    await proxy.open();
    await waiting;
    expect((await source.status()).degradedSince).toBeNull();
    await source.untilApplied();
    expect(await source.verify()).toMatchObject({ equal: true });
  });

  test('fail: the host gets an error, and the mirror goes on afterwards', async () => {
    const { source, proxy } = await room.pair({ size: SIZE, source: { ack: 'applied', 'when-peer-away': 'fail' } });
    const uri = await source.uri('vm');
    await writeBytes(uri, 0, block);
    await proxy.cut();
    await until('writes being refused', async () => {
      const error = await writeBytes(uri, MIB, block).catch((error: Error) => error);
      return error instanceof Error;
    });
    await proxy.open();
    await until('writes being taken', () =>
      writeBytes(uri, 2 * MIB, block).then(
        () => true,
        () => false,
      ),
    );
    await source.untilApplied();
    expect(await source.verify()).toMatchObject({ equal: true });
  });

  test('a pulled cable: both notice the silence, and find together again', async () => {
    const { source, target, proxy } = await room.pair({ size: SIZE });
    const uri = await source.uri('vm');
    await proxy.pause();
    await writeBytes(uri, MIB, block);
    for (const gateway of [source, target]) {
      await until('the silence being noticed', async () => (await gateway.status()).link.state !== 'streaming');
    }
    await writeBytes(uri, 2 * MIB, block);
    await proxy.resume();
    await source.untilStreaming();
    await source.untilApplied();
    expect(await source.verify()).toMatchObject({ equal: true });
  });
});
