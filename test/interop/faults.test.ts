/**
 * fio writes at random, verifying what it reads, while the link is cut and mended and bits are flipped in what is
 * sent. fio must see nothing of it; every flip must be found at the target, and none may be applied.
 *
 *     source -> flip relay -> delay proxy -> target
 *
 * FORELOCK_LONG=1: 60 s instead of 10.
 */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { MIB } from '../../src/limits.js';
import { decode, KIND_DATA } from '../../src/mirror/wire.js';
import { DelayProxy } from './delay-proxy.js';
import { FlipRelay } from './flip-relay.js';
import { freePort, LONG, Room, sleep, until } from './gateway-process.js';
import { requireTools, runToolOk } from './tools.js';

const SECONDS = LONG ? 60 : 10;
const CUTS = 5;
const SIZE = 128 * MIB;

let room: Room;
beforeEach(async () => {
  room = await Room.open();
});
afterEach(() => room.close());

describe.skipIf(!requireTools(['fio', 'gcc']))('a bad link', () => {
  test('five cuts and flipped bits: fio clean, sides equal, every flip found', { timeout: 240_000 }, async () => {
    const port = await freePort();
    const target = await room.start({ site: 'b', role: 'standby', listen: port });
    const proxy = room.keep(await DelayProxy.start({ target: { host: '127.0.0.1', port }, oneWayMs: 10 }));
    let attempt = '';
    const relay = room.keep(
      await FlipRelay.start({
        target: `ws://127.0.0.1:${proxy.port}`,
        every: 0,
        seed: 7,
        onFlip: ({ header }) => {
          const message = decode(header);
          if (message.kind === KIND_DATA) attempt = `${message.data.epoch}.${message.data.attempt}`;
        },
      }),
    );
    const source = await room.start({ site: 'a', volumes: [`vm:${SIZE}`], peer: relay.url });
    await source.untilStreaming();
    await target.untilConsistent();

    const uri = await source.uri('vm');
    const load = runToolOk(
      'fio',
      [
        '--name=faults',
        '--ioengine=nbd',
        `--uri=${uri}`,
        '--rw=randwrite',
        '--bs=4k',
        '--iodepth=32',
        `--size=${SIZE}`,
        '--time_based',
        `--runtime=${SECONDS}`,
        '--rate_iops=4000',
        '--fsync=512',
        '--verify=crc32c',
        '--verify_fatal=1',
        '--verify_backlog=4096',
        '--output-format=json',
      ],
      { cwd: room.directory, timeout: 200_000 },
    );
    let running = true;
    const finished = load.finally(() => {
      running = false;
    });
    finished.catch(() => {});
    // each cut ends a link that was up: the back-off after one would swallow the next
    const cuts = (async () => {
      for (let cut = 0; cut < CUTS; cut += 1) {
        await sleep((SECONDS * 1000) / (2 * CUTS));
        await proxy.cut();
        await sleep(100 + 50 * cut);
        await proxy.open();
        await source.untilStreaming();
      }
    })();
    cuts.catch(() => {});

    // one flip at a time: it is found, sent again and counted, or it went down with its connection. One that hits what
    // was under way when the one before it was found is thrown away unread with the rest of that attempt
    let lost = 0;
    let unread = 0;
    let foundIn = '';
    const counted = async () => (await target.status()).counters.mirrorCorruptRecords!;
    const rewinds = async () => (await source.status()).counters.mirrorRewinds!;
    while (running) {
      const [corruptBefore, rewindsBefore] = [await counted(), await rewinds()];
      relay.flipNext();
      const flipsBefore = relay.flips;
      await until('a large message to flip a bit in', () => relay.flips > flipsBefore || !running);
      if (relay.flips === flipsBefore) break; // fio is done, nothing is sent any more
      if (attempt === foundIn) {
        unread += 1;
        continue;
      }
      const connection = relay.connections;
      await until('the flip to be counted, or its connection to end', async () => {
        const isFound = (await counted()) > corruptBefore;
        if (isFound) return (await rewinds()) > rewindsBefore || relay.connections > connection;
        return relay.connections > connection;
      }).catch(async (error) => {
        const [at, from] = [await target.status(), await source.status()];
        throw new Error(
          `${error.message}; attempt ${attempt} of connection ${connection}, ${relay.connections} now; rewinds ` +
            `${rewindsBefore}, now ${from.counters.mirrorRewinds}; target ${JSON.stringify(at.counters)}`,
        );
      });
      await source.untilStreaming();
      const found = (await counted()) - corruptBefore;
      expect(found, 'flips counted once').toBeLessThanOrEqual(1);
      if (found === 0) lost += 1;
      else foundIn = attempt;
    }
    relay.every = 0;
    await cuts;
    const output = await finished;
    const report = JSON.parse(output.slice(output.indexOf('{')));
    expect(report.jobs[0].error).toBe(0);
    expect(report.jobs[0].write.total_ios).toBeGreaterThan(1000);

    await source.untilApplied();
    expect(await source.verify()).toMatchObject({ equal: true, differences: [], unreadable: [] });
    expect(await source.verify('vm', true)).toMatchObject({ equal: true });

    const { connects } = (await source.status()).link;
    const found = await counted();
    process.stderr.write(
      `faults: ${report.jobs[0].write.total_ios} writes, ${CUTS} cuts, ${connects} links; ` +
        `${relay.flips} flips: ${found} found, ${lost} gone with their connection, ${unread} behind one that was found\n`,
    );
    expect(connects).toBeGreaterThan(CUTS);
    expect(found + lost + unread).toBe(relay.flips);
    expect(found).toBeGreaterThan(0);
    expect((await target.status()).counters.linkProtocolErrors).toBe(0);
  });
});
