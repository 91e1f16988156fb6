/** What one site of two that write gives back of the other's lost tail, over links that end in the middle of it. */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  ...(await import('./small-limits.js')).SMALL_LIMITS,
}));

import { LINK_BUFFER_MAX } from '../../src/limits.js';
import type { Pair } from '../../src/volume/pair.js';
import { DUAL_QUIET } from './dual-draw.js';
import type { DualSite } from './dual-site.js';
import { DualWorld } from './dual-world.js';
import { HandLink } from './hand-link.js';
import { seededRandom } from './memory-store.js';

const hash = await xxhash();

/** Its first messages leave; whatever comes behind them stands in its buffer. */
class FullLink extends HandLink {
  readonly unsent: (() => void)[] = [];
  readonly #room: number;
  constructor(room: number) {
    super();
    this.#room = room;
  }
  override send(header: Uint8Array, stretch: Uint8Array | null, released: (() => void) | null): void {
    super.send(header, stretch, null);
    if (released !== null) this.unsent.push(released);
    if (this.sent.length >= this.#room) this.bufferedBytes = LINK_BUFFER_MAX;
  }
}

/**
 * The second site lost all that it wrote. At the first that stands behind all that it had seen, and in one piece; its
 * second record had seen more than the first one. The line is down.
 */
async function lostTail(): Promise<DualWorld> {
  const world = new DualWorld(DUAL_QUIET, seededRandom(1), hash);
  const { sites } = world;
  for (const site of sites) site.open();
  await world.until(() => world.settled(), 20_000, 'the sites do not find together');
  const write = (site: DualSite, block: number): void => {
    const [volume] = site.group!.volumes.values();
    const bytes = world.truth.history.payload(volume!.blockSize);
    volume!.write(1, block * volume!.blockSize, bytes.length, [bytes], false, { settle: () => {} });
  };
  const [first, second] = sites;
  const seen = (count: number) => world.until(() => second.journal.peer.appended === count, 5000, 'it does not arrive');
  write(first, 0);
  await seen(1);
  write(second, 1);
  write(first, 2);
  await seen(2);
  write(second, 3);
  await world.until(() => first.journal.peer.appended === 2, 5000, 'it does not come back');
  world.line.downUntil = Number.POSITIVE_INFINITY;
  sites[1].crash(true);
  sites[1].open();
  await world.until(() => sites[1].state === 'up' && sites[0].pair!.link === null, 5000, 'not apart');
  expect([sites[1].journal.own.appended, sites[0].journal.peer.appended]).toEqual([0, 2]);
  return world;
}

async function backTogether(world: DualWorld): Promise<void> {
  world.line.downUntil = 0;
  await world.until(() => world.settled(), 20_000, 'the sites do not find together again');
  expect(world.sites[1].journal.own.appended).toBe(2);
  await world.checks.compareAll();
}

/** The first site is told of the second. */
function meet<T extends HandLink>(world: DualWorld, link: T): T {
  world.sites[0].pair!.onLink(link, structuredClone(world.sites[1].pair!.hello()));
  return link;
}

const hangUp = (link: HandLink): void => link.onClose!('cut', 1006);
const returning = ({ state }: Pair): boolean => state === 'returning the tail';

test('a link that ends in the middle of a tail keeps no ring', async () => {
  // Records of a tail come behind what they had seen of the other stream, so a stretch of it leaves in pieces. The link
  // broke between two of them: the stretch stayed pinned in the ring for good, and once that had come round hosts hung.
  const world = await lostTail();
  const [first] = world.sites;
  const { journal } = first;
  const { pin, unpin } = journal;
  const pinned = new Set<Parameters<typeof unpin>[0]>();
  journal.pin = (position) => {
    const made = pin.call(journal, position);
    pinned.add(made);
    return made;
  };
  journal.unpin = (made) => {
    pinned.delete(made);
    unpin.call(journal, made);
  };
  const link = meet(world, new FullLink(3));
  expect([returning(first.pair!), link.sent.length, pinned.size]).toEqual([true, 3, 2]);
  hangUp(link);
  expect(pinned.size).toBe(2); // both have bytes on their way
  for (const left of link.unsent) left();
  expect(pinned.size).toBe(0);
  await backTogether(world);
});

test('a link reads a tail into memory of which nothing is in use any more', async () => {
  // Each link read it anew, into the same memory. What an earlier one had asked a file for came later, and over it.
  const world = await lostTail();
  const [first] = world.sites;
  await world.until(() => first.journal.written === first.journal.head, 5000, 'it is not in its file');
  const { inRing } = first.journal;
  first.journal.inRing = () => false;
  const { offload } = first.group!.state;
  const { load } = offload;
  const into = new Set<number>();
  const held: (() => void)[] = [];
  offload.load = (fd, offset, size, at, done) => {
    expect(into.has(at)).toBe(false);
    into.add(at);
    held.push(() =>
      load.call(offload, fd, offset, size, at, (error, bytesRead) => {
        into.delete(at);
        done(error, bytesRead);
      }),
    );
  };
  hangUp(meet(world, new HandLink()));
  const link = meet(world, new HandLink());
  expect(into.size).toBe(1);
  const returned = (): number => first.pair!.counters.tailRecordsReturned;
  await world.until(
    () => {
      held.shift()?.();
      return returned() === 2;
    },
    5000,
    'the tail is not sent',
  );
  expect(link.closed).toBeNull();
  offload.load = load;
  first.journal.inRing = inRing;
  await backTogether(world);
});
