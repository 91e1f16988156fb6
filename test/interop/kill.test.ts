/**
 * kill -9 of the source, of the target, of both, at random moments under load with flushes. After each: what a flush
 * promised is there, what the target shows is a moment of the source's history (of what was written, not only of what
 * was flushed), and in the end both sides are equal. FORELOCK_LONG=1: 50 times instead of 6.
 *
 * The page cache survives a kill; what a lost one does to the journal is simulated under test/sim.
 */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { NbdClient } from '../../src/frontend/nbd/client.js';
import { GIB, MIB } from '../../src/limits.js';
import { BLOCK_SIZE, History, type Load, randomFrom, readImage, untilServing } from './checking-client.js';
import { DelayProxy } from './delay-proxy.js';
import { freePort, LONG, Room, sleep, until } from './gateway-process.js';
import { requireTools } from './tools.js';

const KILLS = LONG ? 50 : 6;
const SIZE = 32 * MIB;
const ACKS = ['local', 'received', 'applied'] as const;
const VICTIMS = ['source', 'target', 'both'] as const;
const DEPTH = 32;
const FLUSH_EVERY = 97;
const seed = Number(process.env.FORELOCK_SEED ?? Math.floor(Math.random() * 2 ** 31));

let room: Room;
beforeEach(async () => {
  room = await Room.open();
});
afterEach(() => room.close());

describe.skipIf(!requireTools(['gcc']))(`kill -9 (FORELOCK_SEED=${seed})`, () => {
  for (const [first, ack] of ACKS.entries()) {
    test(`--ack ${ack}`, { timeout: LONG ? 1200_000 : 120_000 }, async () => {
      const random = randomFrom(seed);
      const options = { ring: 8 * MIB, journal: 4 * GIB, roundTripMs: 6 };
      const pair = await room.pair({ size: SIZE, ...options, source: { ack, 'when-peer-away': 'block' } });
      let { source, target } = pair;
      const history = new History(SIZE, seed);
      let client: NbdClient;
      let load: Load;
      const startLoad = async () => {
        client = await NbdClient.connect(await source.uri('vm'));
        load = history.load(client, DEPTH, FLUSH_EVERY);
      };
      const targetMoment = async (when: string, least: number) => {
        const image = await readImage(await target.uri('vm@applied'));
        return history.momentOf(image, `round ${round}: the target ${when}`, least);
      };

      let round = 0;
      const tally = { source: 0, target: 0, both: 0, lostTails: 0 };
      const kills = Math.ceil(KILLS / ACKS.length);
      await startLoad();
      for (round = 1; round <= kills; round += 1) {
        const victim = VICTIMS[(first + round) % VICTIMS.length]!;
        tally[victim] += 1;
        await sleep(100 + random() * 1200);
        if (victim === 'target') {
          const promised = ack === 'local' ? 0 : history.promised;
          await target.kill();
          target = await room.again(target);
          const moment = await targetMoment('restarted', promised);
          await source.untilStreaming();
          await targetMoment('under load', moment);
          continue;
        }
        await Promise.all([source.kill(), victim === 'both' ? target.kill() : null]);
        await load!.ended;
        if (victim === 'both') target = await room.again(target);
        const atTarget = await targetMoment('with its source dead', ack === 'local' ? 0 : history.promised);
        source = await room.again(source);
        await untilServing(source);
        const least = Math.max(history.promised, atTarget); // flushed, and what the target shows
        const moment = history.momentOf(await readImage(await source.uri('vm')), `round ${round}: the source`, least);
        tally.lostTails += (await source.status()).counters.tailRecordsRecovered! > 0 ? 1 : 0;
        history.cutBehind(moment);
        await startLoad();
      }
      await sleep(300);
      expect(await load!.stop()).toBeNull();
      await client!.flush();
      await source.untilApplied();
      expect(await source.verify()).toMatchObject({ equal: true, blocks: SIZE / BLOCK_SIZE });
      const [a, b] = [await readImage(await source.uri('vm')), await readImage(await target.uri('vm@applied'))];
      expect(history.momentOf(a, 'the source at the end')).toBe(history.momentOf(b, 'the target at the end'));
      expect(a.equals(b)).toBe(true);
      process.stderr.write(
        `kill: ack ${ack}: ${JSON.stringify(tally)}, ${history.length} operations, ${history.flushes} flushes\n`,
      );
      await client!.close();
    });
  }

  test('during the first copy: it goes on where it was, and ends at a moment of the history', {
    timeout: LONG ? 1200_000 : 120_000,
  }, async () => {
    const random = randomFrom(seed);
    const port = await freePort();
    const proxy = room.keep(
      await DelayProxy.start({ target: { host: '127.0.0.1', port }, oneWayMs: 3, megabytesPerSecond: 2 }),
    );
    const options = { ring: 8 * MIB, journal: 4 * GIB };
    const image = room.path('disk.img'); // it holds what no stream wrote: the target needs a copy
    let source = await room.start({
      site: 'a',
      volumes: [`vm:${SIZE},platter=flat,path=${image}`],
      peer: `ws://127.0.0.1:${proxy.port}`,
      ...options,
    });
    const history = new History(SIZE, seed);
    let client = await NbdClient.connect(await source.uri('vm'));
    let load = history.load(client, 1, FLUSH_EVERY);
    await sleep(1500);
    await load.stop();

    let target = await room.start({ site: 'b', role: 'standby', listen: port, ...options });
    const copying = () => until('the first copy', async () => (await target.status()).link.state === 'base copy');
    const kills = LONG ? 16 : 3;
    for (let round = 0; round < kills; round += 1) {
      await copying();
      load = history.load(client, 1, FLUSH_EVERY);
      await sleep(50 + random() * 400);
      expect((await target.status()).consistency).toBe('inconsistent');
      const victim = VICTIMS[round % VICTIMS.length]!;
      if (victim !== 'target') {
        await Promise.all([source.kill(), victim === 'both' ? target.kill() : null]);
        await load.ended;
        if (victim === 'both') target = await room.again(target);
        source = await room.again(source);
        await untilServing(source);
        const shown = await readImage(await source.uri('vm'));
        history.cutBehind(history.momentOf(shown, `round ${round}: the source`, history.promised));
        client = await NbdClient.connect(await source.uri('vm'));
      } else {
        await target.kill();
        await load.stop();
        target = await room.again(target);
      }
    }
    await copying();
    load = history.load(client, 1, FLUSH_EVERY);
    await proxy.rate(0);
    await target.untilConsistent();
    const atTarget = await readImage(await target.uri('vm@applied'));
    const moment = history.momentOf(atTarget, 'the target, just consistent');
    expect(await load.stop()).toBeNull();
    await source.untilApplied();
    expect(await source.verify()).toMatchObject({ equal: true });
    const { counters } = await source.status();
    process.stderr.write(
      `kill: first copy: ${kills} kills, consistent at operation ${moment} of ${history.length}, ` +
        `${counters.mirrorBaseBlocksSent} blocks sent in the last life\n`,
    );
    await client.close();
  });
});
