/** What two sites do when the source's own copy of its stream has rotted before the peer had it. */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  SEGMENT_SIZE_MIN: 128 * 1024,
}));

import { segmentName } from '../../src/journal/segments.js';
import { CLOSE_REFUSED } from '../../src/link/link.js';
import { GroupWorld, QUIET } from '../sim/group-world.js';
import { seededRandom } from '../sim/memory-store.js';
import { SimLink } from '../sim/sim-link.js';

const hash = await xxhash();

test.each([
  ['header', 20],
  ['block', 2000],
])('rot in a %s of what the peer still needs ends the link with its place, and nothing else', async (_, offset) => {
  // A header was believed as it stood in the file: an assertion stopped the source, at every start. A block went out as it
  // was, came back as NAK, and went out again, for ever: the mirror stood still and said that it was streaming.
  const world = new GroupWorld({ ...QUIET, ringSegments: 2 }, seededRandom(3), hash);
  world.open(world.source);
  world.open(world.target);
  await world.until(() => world.settled(), 3000, 'the sites do not find together');
  const { group } = world.source;
  const { journal, sender } = group!;
  await world.settle(world.write(0, 8));
  await world.until(() => world.settled(), 3000, 'it does not arrive');
  world.crash(world.target, false);
  const rotten = journal.head;
  const first = journal.own.appended + 1;
  for (let unit = 0; journal.head < rotten + 4 * journal.segmentSize; unit = (unit + 8) % 64)
    await world.settle(world.write(unit, 8));
  expect(journal.inRing(rotten + 8192)).toBe(false);
  const size = journal.memory.view.getUint32(journal.locate(rotten) + 8, true);
  const at = rotten + (size === 80 ? 80 : 0); // behind a MARK
  const name = segmentName(Math.floor(at / journal.segmentSize));
  world.source.store.rot(name, (at % journal.segmentSize) + offset, 4);

  const closes = vi.spyOn(SimLink.prototype, 'close');
  world.open(world.target);
  const refusals = (): number => closes.mock.calls.filter(([code]) => code === CLOSE_REFUSED).length;
  await world.until(() => refusals() >= 4, 30_000, 'the source does not give up');
  const what = expect.stringContaining(`${name} at offset ${at % journal.segmentSize} `);
  expect(closes).toHaveBeenCalledWith(CLOSE_REFUSED, what);
  closes.mockRestore();
  expect(sender!.readerCounters.damaged).toBeGreaterThanOrEqual(2);
  expect(sender!.counters.rewinds).toBe(sender!.counters.givenUp);
  expect(world.target.journal.peer.appended).toBe(first - 1);
  expect(world.source.group).toBe(group);
  await world.settle(world.write(0, 8)); // hosts are served
});
