/**
 * Somebody at the target's site locks what the source is writing. The source goes on, nothing lands there before the
 * release, order is kept, and the mirror is next even when others ask for the same blocks all the time.
 *
 * What makes this exact and not a matter of timing: while a locker holds the extent, nothing can be applied there, so
 * what the target's cursor says during its hold is what was applied before it was granted.
 */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { NbdClient } from '../../src/frontend/nbd/client.js';
import { KIB, MIB } from '../../src/limits.js';
import type { HeldLock } from '../../src/node/control.js';
import { Room, sleep, until } from './gateway-process.js';
import { requireTools } from './tools.js';

const SIZE = 64 * MIB;
const HOLD_MS = 5000;
const LOCKERS = 8;
const EXTENT = { offset: 16 * MIB, size: 64 * KIB };

let room: Room;
beforeEach(async () => {
  room = await Room.open();
});
afterEach(() => room.close());

describe.skipIf(!requireTools(['gcc']))('a lock at the target', { timeout: 120_000 }, () => {
  test('held 5 s over written blocks, with eight others queueing in a loop', async () => {
    const { source, target } = await room.pair({ size: SIZE, roundTripMs: 20 });
    const client = await NbdClient.connect(await source.uri('vm'));
    room.onClose(() => client.destroy());
    const block = (value: number) => Buffer.alloc(4 * KIB, value);
    const cursors = async () => (await target.status()).cursors.peer;
    const shown = async (offset: number) => {
      const view = await NbdClient.connect(await target.uri('vm@applied'));
      try {
        return (await view.read(offset, 4 * KIB))[0];
      } finally {
        await view.close();
      }
    };
    const lock = () =>
      target.control.lock({ volume: 'vm', ...EXTENT, mode: 'write', holdSeconds: null, waitSeconds: null });

    await client.write(EXTENT.offset, block(1));
    const before = await source.untilApplied();
    const holder = await lock();

    // the lockers: each asks, notes where the target stood when it was granted, and asks again
    const grants: number[] = [];
    let going = true;
    const held = new Set<HeldLock>();
    const locker = async () => {
      while (going) {
        const mine = await lock();
        held.add(mine);
        grants.push((await cursors()).applied);
        held.delete(mine);
        mine.release();
        await mine.ended;
      }
    };
    const lockers = Array.from({ length: LOCKERS }, locker);
    for (const each of lockers) each.catch(() => {});

    // the source writes on: into the extent, and elsewhere behind it
    let value = 1;
    let writes = 0;
    const end = Date.now() + HOLD_MS;
    while (Date.now() < end) {
      value = (value % 250) + 1;
      await client.write(EXTENT.offset + (writes % 16) * 4 * KIB, block(value));
      await client.write(32 * MIB + (writes % 256) * 4 * KIB, block(value));
      writes += 2;
      if (writes % 512 === 0) {
        await client.flush();
        expect((await cursors()).applied).toBe(before);
        expect(await shown(EXTENT.offset)).toBe(1);
        expect(await shown(32 * MIB)).toBe(0); // order: what came behind the locked write waits, too
      }
      await sleep(1);
    }
    await until('all of it received there', async () => {
      const { appended } = (await source.status()).cursors.own;
      return (await cursors()).received === appended;
    });
    expect(writes).toBeGreaterThan(100);
    expect(await cursors()).toMatchObject({ applied: before, granted: before });
    expect(grants).toEqual([]);

    const written = (await source.status()).cursors.own.appended;
    holder.release();
    await until('a locker after the mirror', () => grants.length >= 3 * LOCKERS);
    expect(grants[0]).toBeGreaterThan(before);

    // writes into the contended extent go on arriving while the lockers take turns
    for (let i = 0; i < 50; i += 1) await client.write(EXTENT.offset + (i % 16) * 4 * KIB, block(200));
    await source.untilApplied();
    going = false;
    await Promise.all(lockers);
    expect(grants.toSorted((a, b) => a - b)).toEqual(grants);
    expect(await source.verify()).toMatchObject({ equal: true });
    expect(await shown(EXTENT.offset)).toBe(200);
    const { mirrorRejections } = (await source.status()).counters;
    process.stderr.write(
      `lock: ${writes} writes in ${HOLD_MS} ms; sequence ${written} waited behind ${before}, the first locker after it saw ${grants[0]}; ` +
        `${grants.length} other grants, ${mirrorRejections} rejections told\n`,
    );
    expect(mirrorRejections).toBeGreaterThan(0);
  });
});
