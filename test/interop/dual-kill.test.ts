/**
 * Both sites serve hosts, and kill -9 hits either or both at random moments. After each, and with both back: what a flush
 * promised at either site is at both, what a site shows of the hosts' own parts are moments of their histories, and the
 * images are equal, byte by byte. FORELOCK_LONG=1: 50 kills instead of 10.
 *
 * Each site's host has a part of the volume to itself; in 1 % of it both write what they like.
 */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { NbdClient } from '../../src/frontend/nbd/client.js';
import { GIB, MIB } from '../../src/limits.js';
import { BLOCK_SIZE, History, type Load, randomFrom, readImage, untilServing } from './checking-client.js';
import { SharedBlocks, type SharedLoad } from './common-blocks.js';
import { type GatewayProcess, LONG, Room, sleep, untilEqual } from './gateway-process.js';
import { requireTools } from './tools.js';

const KILLS = LONG ? 50 : 10;
const PART = 16 * MIB;
/** Behind both parts: 1 % of them. */
const SHARED_BLOCKS = Math.ceil((2 * PART) / BLOCK_SIZE / 100);
const SIZE = 2 * PART + SHARED_BLOCKS * BLOCK_SIZE;
const SITES = ['a', 'b'] as const;
const VICTIMS = ['a', 'b', 'both'] as const;
const DEPTH = 16;
const FLUSH_EVERY = 97;
const seed = Number(process.env.FORELOCK_SEED ?? Math.floor(Math.random() * 2 ** 31));

let room: Room;
beforeEach(async () => {
  room = await Room.open();
});
afterEach(() => room.close());

describe.skipIf(!requireTools(['gcc']))(`both sites write, kill -9 (FORELOCK_SEED=${seed})`, () => {
  test.each([
    ['disjoint parts', false],
    ['and 1 % in common', true],
  ])('%s', { timeout: LONG ? 1800_000 : 300_000 }, async (what, shares) => {
    const random = randomFrom(seed);
    const { a, b } = await room.dual({ size: SIZE, ring: 8 * MIB, journal: 4 * GIB, roundTripMs: 6 });
    const at: Record<'a' | 'b', GatewayProcess> = { a, b };
    const parts = { a: new History(PART, seed), b: new History(PART, seed + 1, PART) };
    const shared = new SharedBlocks((2 * PART) / BLOCK_SIZE, SHARED_BLOCKS, random);
    const tally = { a: 0, b: 0, both: 0, lostTails: 0 };
    for (let round = 1; round <= KILLS / 2; round += 1) {
      const loads: Record<'a' | 'b', (Load | SharedLoad)[]> = { a: [], b: [] };
      for (const site of SITES) {
        loads[site].push(parts[site].load(await connect(at[site]), DEPTH, FLUSH_EVERY));
        if (shares) loads[site].push(shared.load(await connect(at[site]), SITES.indexOf(site), 4, 23));
      }
      await sleep(100 + random() * 1000);
      const victim = VICTIMS[Math.floor(random() * VICTIMS.length)]!;
      tally[victim] += 1;
      const victims = SITES.filter((site) => victim === site || victim === 'both');
      await Promise.all(victims.map((site) => at[site].kill()));
      await sleep(random() * 300);
      await Promise.all(
        victims.map(async (site) => {
          at[site] = await room.again(at[site]);
        }),
      );
      await Promise.all(SITES.map((site) => untilServing(at[site])));
      await sleep(100 + random() * 300);
      for (const site of SITES) {
        const errors = await Promise.all(loads[site].map((load) => load.stop()));
        // a survivor's hosts are held while it is alone, and see nothing of it
        if (!victims.includes(site))
          expect(errors, `round ${round}: hosts of site ${site}`).toEqual(errors.map(() => null));
        if (victims.includes(site))
          tally.lostTails += (await at[site].status()).counters.tailRecordsRecovered! > 0 ? 1 : 0;
      }
      await untilEqual(at.a, at.b);
      const images = { a: await readImage(await at.a.uri('vm')), b: await readImage(await at.b.uri('vm')) };
      for (const site of SITES) {
        const part = parts[site];
        const least = victims.includes(site) ? part.promised : part.length;
        const shown = images.a.subarray(part.offset, part.offset + PART);
        part.cutBehind(part.momentOf(shown, `round ${round}, ${victim} killed: what site ${site} wrote`, least));
      }
      shared.check(images.a, `round ${round}, ${victim} killed`);
      expect(images.a.equals(images.b), `round ${round}: the images are equal`).toBe(true);
    }
    process.stderr.write(
      `dual kill: ${what}: ${JSON.stringify(tally)}, ${parts.a.length} and ${parts.b.length} operations, ` +
        `${parts.a.flushes} and ${parts.b.flushes} flushes; in common ${shared.writes} writes, ${shared.flushes} flushes\n`,
    );
  });
});

/** Closed with the test. */
async function connect(gateway: GatewayProcess): Promise<NbdClient> {
  const client = await NbdClient.connect(await gateway.uri('vm'));
  room.onClose(() => client.destroy());
  return client;
}
