/** Two sites that write, one of which says what no site says: the link is closed with the reason, and nothing of it stays. */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  ...(await import('./small-limits.js')).SMALL_LIMITS,
}));

import { AT_SEEN, AT_SIZE, TYPE_LOCAL } from '../../assembly/layout.js';
import { RING_FULL } from '../../src/journal/journal.js';
import { RecordHeader } from '../../src/journal/record.js';
import { EPOCH_MAX, PEER_AHEAD_MAX } from '../../src/limits.js';
import { CLOSE_NORMAL, CLOSE_PROTOCOL, CLOSE_REFUSED } from '../../src/link/link.js';
import { decode, KIND_READY, KIND_START, type Ready, type Start, WireEncoder } from '../../src/mirror/wire.js';
import { DualOrder } from '../../src/volume/dual-order.js';
import { DUAL_QUIET } from './dual-draw.js';
import type { DualSite } from './dual-site.js';
import { DualWorld } from './dual-world.js';
import { HandLink, meetByHand, startOf } from './hand-link.js';
import { seededRandom } from './memory-store.js';

const hash = await xxhash();

/** Two sites that know each other; the line is down. */
async function apart(before?: (world: DualWorld) => Promise<void>): Promise<DualWorld> {
  const world = new DualWorld(DUAL_QUIET, seededRandom(1), hash);
  for (const site of world.sites) site.open();
  await world.until(() => world.settled(), 20_000, 'the sites do not find together');
  await before?.(world);
  world.line.downUntil = Number.POSITIVE_INFINITY;
  world.line.cut();
  await world.until(() => world.sites.every(({ pair }) => pair!.link === null), 5000, 'the link does not go down');
  return world;
}

/** They go on as if nothing had been. */
async function backTogether(world: DualWorld): Promise<void> {
  world.line.downUntil = 0;
  await world.until(() => world.settled(), 20_000, 'the sites do not find together again');
  await world.checks.compareAll();
}

/** Each has written something that the other has. */
async function bothWrote(world: DualWorld): Promise<void> {
  for (const site of world.sites) {
    const [volume] = site.group!.volumes.values();
    const bytes = world.truth.history.payload(volume!.blockSize);
    volume!.write(1, 0, bytes.length, [bytes], false, { settle: () => {} });
  }
  await world.until(
    () => world.settled() && world.sites.every(({ journal }) => journal.own.durable > 0 && journal.peer.durable > 0),
    5000,
    'what was written does not arrive',
  );
}

/** The two meet over links of the test's. @returns the second site's, and the START that the first said */
async function meet(world: DualWorld): Promise<{ link: HandLink; start: Start }> {
  const [first, second] = world.sites;
  const [said, link] = meetByHand(first, second);
  await world.until(() => said.sent.length > 0, 1000, 'the first site does not say START');
  return { link, start: startOf(said) };
}

/**
 * `--role dual --on-reject retransmit`: a lock and a write in its way, and a site had dropped records that its order of both
 * sites' scopes went on from. It died of that at every start.
 */
test.each(['halt', 'retransmit'] as const)('a stream that may %s is not begun', async (onReject) => {
  const world = await apart();
  const { link, start } = await meet(world);
  link.hear({ kind: KIND_START, start: { ...start, onReject } });
  expect(link.closed).toMatchObject({ code: CLOSE_PROTOCOL, reason: new RegExp(`START with on-reject ${onReject}`) });
  await backTogether(world);
});

/**
 * Its epoch was remembered before anything else of it was looked at. The next one was above what a HELLO can say, so that
 * nobody else was met any more.
 */
test.each([
  ['whose epoch is the last', { epoch: 0xffffffff }, CLOSE_PROTOCOL],
  ['that is refused', { epoch: EPOCH_MAX, group: 'other' }, CLOSE_REFUSED],
])('of a HELLO %s no epoch stays', async (_, change, code) => {
  const world = await apart();
  const [first, second] = world.sites;
  const { epoch } = first.pair!;
  const link = new HandLink();
  first.pair!.onLink(link, { ...structuredClone(second.pair!.hello()), ...change });
  expect([link.closed?.code, first.pair!.epoch]).toEqual([code, epoch]);
  await backTogether(world);
});

test('a second START on a link is not followed', async () => {
  // Until READY had left it was taken for the first, and all of that was done twice.
  const world = await apart();
  const { link, start } = await meet(world);
  link.hear({ kind: KIND_START, start });
  expect(link.closed).toBeNull();
  link.hear({ kind: KIND_START, start });
  expect(link.closed).toMatchObject({ code: CLOSE_PROTOCOL, reason: /START/ });
  link.onClose!('closed', CLOSE_PROTOCOL);
  await backTogether(world);
});

test.each([
  ['of another group', { groupId: 'other' }, /START of group other/],
  ['of the same group with another key', { recordKey: '0123456789abcdef' }, /another record key than is here/],
])('a START %s is not followed', async (_, change, reason) => {
  // HELLO's group was compared, and that of START, which is written down, was not.
  const world = await apart();
  const { link, start } = await meet(world);
  link.hear({ kind: KIND_START, start: { ...start, ...change } });
  expect(link.closed).toMatchObject({ code: CLOSE_PROTOCOL, reason });
  await backTogether(world);
});

/**
 * What it said was taken at its word. A first copy that was not decided on made a good image unfinished, for good, and
 * another place to go on from moved the end of a stream.
 */
test.each<[string, (from: number) => Partial<Start>]>([
  ['with a first copy', () => ({ action: 'base', base: { volume: 0, lba: 0 } })],
  ['with a first copy that begins later', (from) => ({ action: 'base', base: { volume: 0, lba: 0 }, from: from + 1 })],
  ['that goes on later', (from) => ({ from: from + 1 })],
  ['of another stream', () => ({ stream: 254 })],
  ['of another action', () => ({ action: 'base' })],
])('a START %s than was decided on is not followed', async (_, change) => {
  const world = await apart(bothWrote);
  const [, second] = world.sites;
  const { appended } = second.journal.peer;
  const { link, start } = await meet(world);
  expect(start.from).toBe(appended);
  link.hear({ kind: KIND_START, start: { ...start, ...change(start.from) } });
  expect(link.closed).toMatchObject({ code: CLOSE_PROTOCOL, reason: /must decide the same/ });
  expect(second.journal.peer.appended).toBe(appended);
  expect(second.group!.state.superblock.inconsistent).toBeNull();
  link.onClose!('closed', CLOSE_PROTOCOL);
  await backTogether(world);
});

/** Nobody was served until so much of the peer's stream had come, which was never. */
test.each(['confirmed', 'granted'])(
  'a START by which more was %s than any stream has is not followed',
  async (field) => {
    const world = await apart(bothWrote);
    const { link, start } = await meet(world);
    link.hear({ kind: KIND_START, start: { ...start, [field]: 2 ** 52 } });
    expect(link.closed).toMatchObject({ code: CLOSE_PROTOCOL, reason: /confirmed or granted/ });
    link.onClose!('closed', CLOSE_PROTOCOL);
    await backTogether(world);
  },
);

test('a START is followed that does not know what an older link brought after HELLO', async () => {
  // READY says how far that is.
  const world = await apart(bothWrote);
  const { link, start } = await meet(world);
  link.hear({ kind: KIND_START, start: { ...start, from: start.from - 1 } });
  await world.until(() => link.sent.length > 1, 1000, 'the second site does not say READY');
  expect(link.closed).toBeNull();
  link.onClose!('closed', CLOSE_PROTOCOL);
  await backTogether(world);
});

test('READY to a site that waits with its START is not taken', async () => {
  // The other one was emptied, and there is a generation to be minted first: that no meeting had been offered ended the process.
  const world = await apart();
  const [first, second] = world.sites;
  const { site } = second.pair!.hello();
  const nothing = { groupId: null, met: {}, sites: [], peers: [site.number], generations: [], streams: {} };
  const link = new HandLink();
  first.pair!.onLink(link, { ...structuredClone(second.pair!.hello()), ...nothing, journalFrom: {}, served: false });
  const { epoch } = first.pair!;
  const cursors = { received: 0, durable: 0, applied: 0, creditBytes: 0, consistent: true, horizon: 0 };
  link.hear({ kind: KIND_READY, ready: { ...cursors, epoch } });
  expect(link.closed).toMatchObject({ code: CLOSE_PROTOCOL, reason: /not due/ });
  link.onClose!('closed', CLOSE_PROTOCOL);
  await backTogether(world);
});

/** The first site has founded the group; the second is being adopted over one link, and the next one is there already. */
async function adoptedBehind(): Promise<{
  world: DualWorld;
  second: DualSite;
  again: Awaited<ReturnType<typeof meet>>;
}> {
  const world = new DualWorld(DUAL_QUIET, seededRandom(1), hash);
  const [first, second] = world.sites;
  world.line.downUntil = Number.POSITIVE_INFINITY;
  for (const site of world.sites) site.open();
  await world.until(() => world.sites.every(({ state }) => state === 'up'), 1000, 'they do not open');
  meetByHand(first, second);
  await world.until(() => first.group !== null, 5000, 'nobody founds the group');
  const { link, start } = await meet(world);
  link.hear({ kind: KIND_START, start });
  const again = await meet(world);
  return { world, second, again };
}

test('a site that an older link has set up since its HELLO begins again', async () => {
  // It took the peer's stream, and never said START for its own: both sat there until they were taken for stalled.
  const { world, second, again } = await adoptedBehind();
  await world.until(() => second.group !== null, 5000, 'it is not adopted');
  again.link.hear({ kind: KIND_START, start: again.start });
  expect(again.link.closed).toMatchObject({ code: CLOSE_NORMAL, reason: /begin again/ });
  again.link.onClose!('closed', CLOSE_NORMAL);
  await backTogether(world);
});

test('a site is adopted once, however many links come meanwhile', async () => {
  // The next link's START was there before the group of the first was open. Two were made in one directory.
  const { world, second, again } = await adoptedBehind();
  again.link.hear({ kind: KIND_START, start: again.start });
  expect(again.link.closed).toMatchObject({ code: CLOSE_PROTOCOL, reason: /being set up/ });
  await world.until(() => second.group !== null, 5000, 'it is not adopted');
  expect(world.counts.adopted).toBe(1);
  await backTogether(world);
});

/** Both have said READY, and nobody has heard it. @returns the links of both, and what the second one said */
async function untilReady(world: DualWorld): Promise<[HandLink, HandLink, Ready]> {
  const [said, link] = meetByHand(...world.sites);
  await world.until(() => said.sent.length > 0, 1000, 'the first site does not say START');
  said.hear({ kind: KIND_START, start: startOf(link) });
  link.hear({ kind: KIND_START, start: startOf(said) });
  await world.until(() => said.sent.length > 1 && link.sent.length > 1, 1000, 'they do not say READY');
  const message = decode(link.sent[1]!.header);
  if (message.kind !== KIND_READY) throw new Error(`a message of kind ${message.kind} in the place of READY`);
  return [said, link, message.ready];
}

/**
 * What a site confirms counts once the other has its stream to the horizon: of one that never comes flushes waited for
 * ever, and the link looked well.
 */
test.each(['READY', 'CONFIRM'])('a %s with a horizon that no stream gets to is not taken', async (kind) => {
  const world = await apart();
  const [said, link, ready] = await untilReady(world);
  const horizon = PEER_AHEAD_MAX + 100;
  said.hear({ kind: KIND_READY, ready: kind === 'READY' ? { ...ready, horizon } : ready });
  if (kind === 'CONFIRM') {
    expect(said.closed).toBeNull();
    const cursors = { ...ready, attempt: 0, granted: 0, rejected: 0, base: null, returned: false };
    said.onMessage!(new WireEncoder().confirm({ ...cursors, horizon }), null);
  }
  expect(said.closed).toMatchObject({ code: CLOSE_PROTOCOL, reason: /a horizon of / });
  for (const each of [said, link]) each.onClose!('closed', CLOSE_PROTOCOL);
  await backTogether(world);
});

/**
 * The link was closed, and in the same turn the stream counted as running: hosts that had waited were let go on, and flushes
 * were answered by what an earlier link had said and could not be counted on.
 */
test.each([
  ['what was never sent', { received: 2 ** 40 }],
  ['less than it had on its disk', { received: 0, durable: 0, applied: 0 }],
  ['more on its disk than it has', { durable: 2 ** 40 }],
])('with a READY of %s no stream runs', async (_, change) => {
  const world = await apart(bothWrote);
  const [first] = world.sites;
  const [said, link, ready] = await untilReady(world);
  const { peerDurable, peerReceived } = first.group!.mirror;
  expect(first.group!.frozen).toBe(true);
  said.hear({ kind: KIND_READY, ready: { ...ready, ...change } });
  expect(said.closed).toMatchObject({ code: CLOSE_PROTOCOL });
  expect(first.group!.frozen).toBe(true);
  expect(first.group!.mirror).toMatchObject({ peerDurable, peerReceived });
  for (const each of [said, link]) each.onClose!('closed', CLOSE_PROTOCOL);
  await backTogether(world);
});

/** A first copy that ended so was never whole: that it ends there is written down. */
test.each(['HEARTBEAT', 'DATA'])('a %s of more than a stream can have is not believed', async (kind) => {
  const world = await apart(bothWrote);
  const [said, link] = await untilReady(world);
  const [, second] = world.sites;
  const { announced } = second.group!.receiver!;
  const encoder = new WireEncoder();
  const appended = 2 ** 52;
  const data = { attempt: 0, first: 0, count: 0, size: 0, durable: 0, clock: 0, returned: false, baseEnd: false };
  link.onMessage!(
    kind === 'DATA'
      ? encoder.data({ ...data, epoch: second.pair!.epoch, appended })
      : encoder.heartbeat({ appended, flushed: 0, degraded: false, clock: 0 }),
    null,
  );
  expect(link.closed).toMatchObject({ code: CLOSE_PROTOCOL, reason: /appended, of a stream/ });
  expect(second.group!.receiver!.announced).toEqual(announced);
  for (const each of [said, link]) each.onClose!('closed', CLOSE_PROTOCOL);
  await backTogether(world);
});

test('of what a peer confirms and does not prove no more is kept than is of use', async () => {
  // Each had a horizon of its own, and was kept for as long as the link lived.
  const world = await apart(bothWrote);
  const [said, link, ready] = await untilReady(world);
  const [first] = world.sites;
  said.hear({ kind: KIND_READY, ready });
  const { sender } = first.group!;
  const cursors = { ...ready, attempt: 0, granted: ready.applied, rejected: 0, base: null, returned: false };
  const confirm = (horizon: number): void =>
    said.onMessage!(new WireEncoder().confirm({ ...cursors, horizon: ready.horizon + horizon }), null);
  for (let horizon = 1; horizon <= 3000; horizon += 1) confirm(horizon);
  expect(said.closed).toBeNull();
  expect(sender!.unproved).toBe(1024);
  for (let round = 0; round < 2000; round += 1) confirm(2999 + (round % 2));
  expect(sender!.unproved).toBe(1024);
  for (const each of [said, link]) each.onClose!('closed', CLOSE_PROTOCOL);
  expect(sender!.unproved).toBe(0);
  await backTogether(world);
});

/** The next stretch that the site gets has a last record that claims to have seen more than there is, and checks. */
function forgeNext({ pair, group }: DualSite): void {
  const { kernel, memory } = group!.journal;
  const order = group!.order!;
  const { received } = order; // the world's, which knows what was written
  order.received = (header, position) =>
    header.seen === 1000
      ? DualOrder.prototype.received.call(order, header, position)
      : received.call(order, header, position);
  const { at } = group!.state.regions.cleaner;
  const link = pair!.link!;
  const deliver = link.onMessage!;
  link.onMessage = (header, stretch) => {
    if (stretch === null) return deliver(header, stretch);
    link.onMessage = deliver;
    memory.bytes.set(stretch, at);
    let last = at;
    for (let next = at; next < at + stretch.length; next += memory.view.getUint32(next + AT_SIZE, true)) last = next;
    memory.view.setUint32(last + AT_SEEN, 1000, true);
    kernel.seal(at, stretch.length);
    deliver(header, memory.bytes.slice(at, at + stretch.length));
  };
}

/** How many records of the peer stand in the journal, through its head. */
function recordsOfPeer({ journal }: DualSite): number {
  const header = new RecordHeader();
  let count = 0;
  for (let position = 0; position < journal.head; position += header.size) {
    header.read(journal.memory.view, journal.address(position));
    if (header.type < TYPE_LOCAL && header.site === journal.peer.site) count += 1;
  }
  return count;
}

/**
 * Its sequence, and those of the good records in front of it, counted as received before the order of scopes had looked at
 * it: they were in no journal, and the peer was never asked for them again. While there was no room nobody caught what
 * that said of the record, and the process ended.
 */
test.each([
  ['at once', false],
  ['when there is room', true],
])('a record that no site could have written is not kept, be it taken %s', async (_, isFull) => {
  const world = await apart(bothWrote);
  world.line.downUntil = 0;
  await world.until(() => world.settled(), 20_000, 'the sites do not find together again');
  const [first, second] = world.sites;
  const told = vi.spyOn(world, 'fail').mockImplementation(() => {}); // of the link that ends
  forgeNext(second);
  if (isFull) vi.spyOn(second.journal, 'accept').mockReturnValueOnce(RING_FULL);
  const { counters } = second.group!.receiver!;
  const [volume] = first.group!.volumes.values();
  for (const block of [1, 2, 3]) {
    const bytes = world.truth.history.payload(volume!.blockSize);
    volume!.write(1, block * volume!.blockSize, bytes.length, [bytes], false, { settle: () => {} });
  }
  await world.until(() => first.pair!.link === null, 5000, 'it is taken');
  expect(second.journal.peer.appended).toBe(recordsOfPeer(second));
  expect(counters.protocolErrors).toBe(1);
  expect(told.mock.calls.every(([error]) => /link was closed: record 4 of the peer has seen/.test(`${error}`))).toBe(
    true,
  );
  told.mockRestore();
  await world.until(() => world.settled(), 20_000, 'the sites do not find together again');
  expect(second.journal.peer.appended).toBe(recordsOfPeer(second));
  await world.checks.compareAll();
});
