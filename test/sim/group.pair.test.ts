/** Stories of two sites that meet, over a link on which a test reads, changes and leaves out messages. */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  SEGMENT_SIZE_MIN: 128 * 1024,
}));

import { AT_SIZE } from '../../assembly/layout.js';
import type { ForelockError } from '../../src/errors.js';
import { RING_FULL } from '../../src/journal/journal.js';
import {
  ASKS_MAX,
  CONTROL_SIZE_MAX,
  FULL_DISK_RETRY_MS,
  LOST_TAIL_WAIT_MS,
  PEER_AHEAD_MAX,
  PEER_ASKS_MAX,
  PEER_STALL_MS,
  SHUN_MS_MIN,
} from '../../src/limits.js';
import { CLOSE_NORMAL, CLOSE_PROTOCOL, CLOSE_TIMEOUT } from '../../src/link/link.js';
import {
  decode,
  KIND_ASK,
  KIND_DATA,
  KIND_READY,
  KIND_START,
  type Message,
  WireEncoder,
} from '../../src/mirror/wire.js';
import { Sender } from '../../src/volume/sender.js';
import type { Site } from './group-site.js';
import { GroupWorld, type GroupWorldOptions, QUIET } from './group-world.js';
import { HandLink, meetByHand, startOf } from './hand-link.js';
import { seededRandom } from './memory-store.js';

const hash = await xxhash();

async function bothUp(options: Partial<GroupWorldOptions> = {}): Promise<GroupWorld> {
  const world = new GroupWorld({ ...QUIET, ...options }, seededRandom(1), hash);
  world.open(world.source);
  world.open(world.target);
  await world.until(() => world.settled(), 3000, 'the sites do not find together');
  return world;
}

/** The line is cut for good, and each site is told of the other over a link of the test's. */
async function byHand(world: GroupWorld): Promise<{ source: HandLink; target: HandLink }> {
  const [source, target] = meetByHand(world.source, world.target);
  return { source, target };
}

/** The line is cut for good, a site starts again, and the other one notices. */
async function startAgainApart(world: GroupWorld, site: Site, isPowerCut: boolean): Promise<void> {
  const other = site === world.source ? world.target : world.source;
  world.lineDownUntil = Number.POSITIVE_INFINITY;
  world.crash(site, isPowerCut);
  world.open(site);
  await world.until(() => site.state === 'up' && other.pair!.link === null, 20_000, 'not apart');
}

/** The source lost a tail that its peer has; the line is down, and both are up. */
async function lostTail(): Promise<{ world: GroupWorld; through: number }> {
  const world = await bothUp();
  world.source.slowSyncMs = 400;
  for (let unit = 0; unit < 80; unit += 8) await world.settle(world.write(unit, 8));
  await world.until(() => world.target.journal.peer.appended === world.records, 1000, 'it does not arrive');
  const through = world.records;
  world.lineDownUntil = Number.POSITIVE_INFINITY;
  world.crash(world.source, true);
  world.open(world.source);
  await world.until(() => world.source.state === 'up', 1000, 'it does not open');
  await world.until(() => world.target.pair!.link === null, 20_000, 'the target does not notice');
  expect(world.source.journal.own.appended).toBeLessThan(through - 1);
  return { world, through };
}

async function atRest(world: GroupWorld): Promise<void> {
  await world.until(() => world.settled(), 20_000, 'the sites do not come to rest');
  await world.compareAll();
}

test('a START under a generation that the HELLO did not know is not followed', async () => {
  // The source minted a generation between its HELLO and its START. Where both were in the middle of a first copy they
  // agreed on the row all the same; the target went on without the name of the new history, and was refused when they
  // met again.
  const world = await bothUp();
  await world.settle(world.write(0, 8));
  await atRest(world);
  await startAgainApart(world, world.target, false);
  const links = await byHand(world);
  await world.until(() => links.source.sent.length > 0, 1000, 'the source does not say START');
  const start = startOf(links.source);
  const newest = start.generations.at(-1)!;
  const minted = {
    ...newest,
    ordinal: newest.ordinal + 1,
    id: 'ffffffff-0000-4000-8000-000000000000',
    parent: newest.id,
  };
  const before = structuredClone(world.target.pair!.hello().generations);
  const changed = { ...start, generations: [...start.generations, minted] };
  links.target.onMessage!(new WireEncoder().control({ kind: KIND_START, start: changed }), null);
  expect(links.target.closed).toMatchObject({ code: CLOSE_PROTOCOL, reason: /generation/ });
  await world.pass(100);
  expect(links.target.sent).toEqual([]);
  expect(world.target.pair!.hello().generations).toEqual(before);
});

/** Hands over what the target returns, as `change` makes of it. */
async function giveBack(
  world: GroupWorld,
  links: { source: HandLink; target: HandLink },
  change: (header: Uint8Array, stretch: Uint8Array) => { header: Uint8Array; stretch: Uint8Array } = (
    header,
    stretch,
  ) => ({
    header,
    stretch,
  }),
): Promise<void> {
  await world.pass(50);
  for (const { header, stretch } of links.target.sent) {
    if (stretch === null) links.source.onMessage!(header, null);
    else {
      const changed = change(header, stretch);
      if (links.source.closed === null) links.source.onMessage!(changed.header, changed.stretch);
    }
  }
}

test('a returned tail with a gap is not taken', async () => {
  const { world } = await lostTail();
  const { appended } = world.source.journal.own;
  const links = await byHand(world);
  await giveBack(world, links, (header, stretch) => {
    const message = decode(header);
    if (message.kind !== KIND_DATA) throw new Error('a stretch without DATA');
    const size = new DataView(stretch.buffer).getUint32(AT_SIZE, true);
    const data = { ...message.data, count: message.data.count - 1, size: stretch.length - size };
    return { header: new WireEncoder().data(data), stretch: stretch.slice(size) };
  });
  expect(links.source.closed).toMatchObject({ code: CLOSE_PROTOCOL, reason: /damaged/ });
  expect(world.source.journal.own.appended).toBe(appended);
});

test('READY in the place of a lost tail is not taken', async () => {
  // It went for the answer to a START that nobody had said: hosts were served at once, without the tail.
  const { world } = await lostTail();
  const links = await byHand(world);
  const { pair, journal, group } = world.source;
  const { appended } = journal.own;
  const cursors = { received: appended, durable: appended, applied: appended, creditBytes: 1e6, consistent: true };
  links.source.hear({ kind: KIND_READY, ready: { ...cursors, epoch: pair!.epoch, horizon: 0 } });
  expect(links.source.closed).toMatchObject({ code: CLOSE_PROTOCOL, reason: /not due/ });
  expect(group!.serving).toBe(false);
  for (const link of [links.source, links.target]) link.onClose!('closed', CLOSE_PROTOCOL);
  world.lineDownUntil = 0;
  await atRest(world);
});

test('a peer asks no more at once than is answered', async () => {
  // Each question held what it took, and there could be any number.
  const world = await bothUp();
  const codes = Array.from({ length: ASKS_MAX + 1 }, () =>
    world.source.pair!.ask('hash', {}).catch(({ code }: ForelockError) => code),
  );
  const said = await world.settle(Promise.all(codes));
  expect([said[0], said.at(-1)]).toEqual(['EIO', 'EPERM']);
  world.lineDownUntil = Number.POSITIVE_INFINITY;
  const { source } = await byHand(world);
  const ask = (id: number): void => source.hear({ kind: KIND_ASK, ask: { id, method: 'hash', params: {} } });
  for (let round = 0; round < 2; round += 1) {
    for (let id = 0; id < PEER_ASKS_MAX; id += 1) ask(id);
    await world.pass(1); // they are answered
  }
  expect(source.closed).toBeNull();
  for (let id = 0; id <= PEER_ASKS_MAX; id += 1) ask(id);
  expect(source.closed).toMatchObject({ code: CLOSE_PROTOCOL, reason: /questions/ });
});

/** Not yet adopted: the line is down, and the source has an image that no stream makes. */
async function notMet(): Promise<GroupWorld> {
  const world = new GroupWorld(QUIET, seededRandom(1), hash);
  world.lineDownUntil = Number.POSITIVE_INFINITY;
  for (const site of [world.source, world.target]) world.open(site);
  await world.until(() => world.source.group?.serving === true && world.target.pair !== null, 20_000, 'not up');
  world.source.group!.state.superblock.imported = true;
  return world;
}

test('an empty standby takes the first copy that its source has come to need since HELLO', async () => {
  // Its journal began at 1 when it said so, and it had freed that when it decided (worlds 1 to 300).
  const world = await notMet();
  const { superblock } = world.source.group!.state;
  superblock.imported = false;
  await world.settle(world.write(0, 8));
  const [said, heard] = [world.source, world.target].map(({ pair }) => structuredClone(pair!.hello()));
  superblock.imported = true;
  const [source, target] = [new HandLink(), new HandLink()];
  world.source.pair!.onLink(source, heard);
  world.target.pair!.onLink(target, said);
  await world.until(() => source.sent.length > 0, 1000, 'no START');
  const start = startOf(source);
  expect(start).toMatchObject({ action: 'base', base: { volume: 0, lba: 0 } });
  target.hear({ kind: KIND_START, start });
  await world.until(() => target.sent.length > 0, 1000, 'no READY');
  expect(target.closed).toBeNull();
});

test.each([
  // the COMMIT was lost: HELLO counts what was staged, and START does not
  ['in front of what was staged', -1, null],
  ['further on than its stream can have got', PEER_AHEAD_MAX + 1, CLOSE_PROTOCOL],
])('where a first copy may begin: %s', async (_, by, code) => {
  const world = await notMet();
  await world.settle(world.write(0, 64));
  const { source, target } = await byHand(world);
  await world.until(() => source.sent.length > 0, 1000, 'no START');
  const start = startOf(source);
  target.hear({ kind: KIND_START, start: { ...start, from: start.from + by } });
  await world.until(() => target.closed !== null || target.sent.length > 0, 1000, 'it says nothing');
  expect(target.closed?.code ?? null).toBe(code);
});

test('what is read for a first copy is not sent to a peer that broke the protocol meanwhile', async () => {
  // Until its link had said that it was closed, it was: an assertion ended the source.
  const world = await notMet();
  await world.settle(world.write(0, 64));
  const { source, target } = await byHand(world);
  await world.until(() => source.sent.length > 0, 1000, 'no START');
  target.hear({ kind: KIND_START, start: startOf(source) });
  await world.until(() => target.sent.length > 0, 1000, 'no READY');
  const message = decode(target.sent[0]!.header);
  if (message.kind !== KIND_READY) throw new Error(`a message of kind ${message.kind} in the place of READY`);
  const { ready } = message;
  source.hear({ kind: KIND_READY, ready });
  const { length } = source.sent;
  const cursors = { ...ready, attempt: 7, granted: 0, rejected: 0, base: null, returned: false };
  source.onMessage!(new WireEncoder().confirm(cursors), null);
  expect(source.closed).toMatchObject({ code: CLOSE_PROTOCOL, reason: /attempt 7/ });
  await world.pass(100);
  expect(source.sent).toHaveLength(length);
});

const SLOW_MS = PEER_STALL_MS + 10_000;

/** Its own disk was slow, and it said of the peer that it did not get on, closed the link and refused the next. */
test.each<[string, () => Promise<{ world: GroupWorld; end: HandLink; site: Site; isDone: () => boolean }>]>([
  [
    'is set up',
    async () => {
      const world = await notMet();
      const { source, target } = await byHand(world);
      await world.until(() => source.sent.length > 0, 1000, 'no START');
      world.target.slowSaveMs = SLOW_MS;
      target.hear({ kind: KIND_START, start: startOf(source) });
      return { world, end: target, site: world.target, isDone: () => target.sent.length > 0 };
    },
  ],
  [
    'answers a START',
    async () => {
      const world = await bothUp();
      world.lineDownUntil = Number.POSITIVE_INFINITY;
      const { source, target } = await byHand(world);
      await world.until(() => source.sent.length > 0, 1000, 'no START');
      world.target.slowSaveMs = SLOW_MS;
      target.hear({ kind: KIND_START, start: startOf(source) });
      return { world, end: target, site: world.target, isDone: () => target.sent.length > 0 };
    },
  ],
  [
    'begins a stream',
    async () => {
      const world = await bothUp();
      world.lineDownUntil = Number.POSITIVE_INFINITY;
      world.source.slowSaveMs = SLOW_MS;
      const { source } = await byHand(world);
      return { world, end: source, site: world.source, isDone: () => source.sent.length > 0 };
    },
  ],
  [
    'begins a first copy',
    async () => {
      const world = await notMet();
      world.source.slowSyncMs = SLOW_MS;
      await world.settle(world.write(0, 8));
      const { source } = await byHand(world);
      return { world, end: source, site: world.source, isDone: () => source.sent.length > 0 };
    },
  ],
  [
    'has its lost tail back',
    async () => {
      const { world } = await lostTail();
      const links = await byHand(world);
      world.source.slowSyncMs = SLOW_MS;
      await giveBack(world, links);
      return { world, end: links.source, site: world.source, isDone: () => links.source.closed?.code === CLOSE_NORMAL };
    },
  ],
])('a site with a slow disk that %s does not call its peer stalled', async (_, begin) => {
  const { world, end, site, isDone } = await begin();
  await world.pass(PEER_STALL_MS + 5000);
  expect(isDone()).toBe(false);
  await world.until(() => end.closed !== null || isDone(), 4 * SLOW_MS, 'it does not go on');
  expect(isDone()).toBe(true);
  expect(site.pair!.counters.stalls).toBe(0);
});

test('a piece of a lost tail that finds no room keeps what comes behind it waiting', async () => {
  // The link was paused, and brought what it had read already. Each piece was tried by itself: a small one found room, in
  // front of a large one that had not, and was called damaged. Links came and went, while hosts that waited were served
  // without the rest of the tail: only a person can let go of that.
  const { world, through } = await lostTail();
  const { journal } = world.source;
  const { accept } = journal;
  const links = await byHand(world);
  let isFull = true;
  journal.accept = (stretch, onRecord) => (isFull ? RING_FULL : accept.call(journal, stretch, onRecord));
  await giveBack(world, links, (header, stretch) => {
    const { data } = decode(header) as Extract<Message, { kind: typeof KIND_DATA }>;
    const size = new DataView(stretch.buffer).getUint32(AT_SIZE, true);
    const head = new WireEncoder().data({ ...data, count: 1, size });
    links.source.onMessage!(head, stretch.slice(0, size));
    expect(links.source.paused).toBe(true);
    isFull = false;
    const rest = { ...data, first: data.first + 1, count: data.count - 1, size: stretch.length - size };
    return { header: new WireEncoder().data(rest), stretch: stretch.slice(size) };
  });
  expect(links.source.closed).toBeNull();
  await world.until(() => links.source.closed !== null, 5000, 'it is never back');
  expect(links.source.closed).toMatchObject({ code: CLOSE_NORMAL });
  expect([journal.own.appended, links.source.paused]).toEqual([through, false]);
});

test('a disk that fails while a lost tail comes back is told to the peer', async () => {
  // It was waited for until the tail was durable, which it never was: the link stood, and neither site said a word.
  const { world } = await lostTail();
  const links = await byHand(world);
  world.source.store.fail('sync', 'EIO', 100);
  await giveBack(world, links);
  await world.until(() => links.source.closed !== null, 5000, 'it says nothing');
  expect(links.source.closed).toMatchObject({ code: CLOSE_PROTOCOL, reason: /the lost tail cannot be kept: .*EIO/ });
});

test('and so is one that fails while a piece of it waits for room', async () => {
  const { world } = await lostTail();
  const { journal } = world.source;
  const links = await byHand(world);
  journal.accept = () => RING_FULL;
  await giveBack(world, links);
  expect(links.source).toMatchObject({ paused: true, closed: null });
  world.source.store.fail('sync', 'EIO', 100);
  journal.mark();
  journal.sync();
  await world.until(() => links.source.closed !== null, 5000, 'it says nothing');
  expect(links.source.closed).toMatchObject({ code: CLOSE_PROTOCOL, reason: /the lost tail cannot be kept: .*EIO/ });
});

test('a disk that fails before a first copy can begin is told to the peer', async () => {
  // The same: nobody had gone, and nothing began.
  const world = await notMet();
  world.source.store.fail('sync', 'EIO', 100);
  await world.settle(world.write(0, 8));
  const links = await byHand(world);
  await world.until(() => links.source.closed !== null, 5000, 'it says nothing');
  expect(links.source.closed).toMatchObject({ code: CLOSE_PROTOCOL, reason: /cannot write its journal: .*EIO/ });
});

test('a lost tail is back when it is on the disk', async () => {
  // It would be said to be there in the next HELLO, and a generation could begin above it.
  const { world, through } = await lostTail();
  const links = await byHand(world);
  await giveBack(world, links);
  expect(world.source.journal.own.appended).toBe(through);
  expect(world.source.journal.own.durable).toBeLessThan(through);
  expect(links.source.closed).toBeNull();
  await world.until(() => links.source.closed !== null, 5000, 'it is never back');
  expect(links.source.closed).toMatchObject({ code: CLOSE_NORMAL });
  expect(world.source.journal.own.durable).toBe(through);
});

test('a standby whose lost tail is in memory only does not take over a history that holds it', async () => {
  // Its former peer had taken over, and gave the tail back; the disk failed. At the next meeting the standby said that it had
  // all of it, followed, and wrote the new history down. After a power cut it had the history without the tail, as nobody
  // looked for any more, and showed what was before it.
  const { world, through } = await lostTail();
  world.operator.failOver('comes back');
  const { source, target } = world;
  await world.until(() => source.group?.serving === true && target.state === 'up', 30_000, 'nobody takes over');
  await world.until(() => [source, target].every(({ pair }) => pair!.link === null), 20_000, 'they are not apart');
  const before = structuredClone(target.pair!.hello().generations);
  expect(source.pair!.hello().generations).toHaveLength(before.length + 1);
  target.store.fail('sync', 'EIO', 1);
  let links = await byHand(world);
  await giveBack(world, { source: links.target, target: links.source });
  await world.until(() => links.target.closed !== null, 5000, 'it says nothing');
  expect(links.target.closed).toMatchObject({ reason: /the lost tail cannot be kept: .*EIO/ });
  expect(target.pair!.hello().streams[target.journal.own.site]).toBe(through);
  links = await byHand(world);
  await world.until(() => links.source.sent.length > 0, 1000, 'the source does not say START');
  links.target.hear({ kind: KIND_START, start: startOf(links.source) });
  await world.pass(1000);
  expect(links.target.closed).toMatchObject({ code: CLOSE_PROTOCOL, reason: /cannot write its journal: .*EIO/ });
  expect([target.pair!.hello().generations, links.target.sent]).toEqual([before, []]);
});

/** A host asks a source that is ready to go on alone. @returns when, ms */
async function askAlone(world: GroupWorld): Promise<number> {
  await world.until(() => world.source.group!.ready, 20_000, 'it does not get ready');
  world.write(0, 8).catch(() => {});
  await world.until(() => world.source.group!.isAsked, 1000, 'nobody asks');
  return world.scheduler.now;
}

test('a peer that is there and brings nothing holds up hosts for so long, however often it connects', async () => {
  // Its disk hung, or it was stopped in the middle: it held its link, answered pings, and never said a word. Hosts got
  // neither an answer nor an error.
  const { world } = await lostTail();
  const { source } = world;
  const hello = structuredClone(world.target.pair!.hello());
  const links: HandLink[] = [];
  const connect = (): void => {
    links.push(new HandLink());
    source.pair!.onLink(links.at(-1)!, hello);
  };
  connect();
  const asked = await askAlone(world);
  while (world.scheduler.now < asked + LOST_TAIL_WAIT_MS - 500) {
    expect(source.group!.serving).toBe(false);
    connect();
    await world.pass(700);
  }
  await world.until(() => source.group!.serving, 2000, 'it waits on');
  expect(world.scheduler.now - asked).toBeGreaterThan(LOST_TAIL_WAIT_MS - 100);
  expect(links.at(-1)!.closed).toMatchObject({ code: CLOSE_TIMEOUT, reason: /lost tail/ });
});

test('a tail that comes slowly is waited for, though a host waits', async () => {
  const { world, through } = await lostTail();
  const { source } = world;
  const links = await byHand(world);
  const asked = await askAlone(world);
  for (const { header, stretch } of links.target.sent) {
    if (stretch === null) links.source.onMessage!(header, null);
    else {
      const message = decode(header);
      if (message.kind !== KIND_DATA) throw new Error('a stretch without DATA');
      // a record at a time
      for (let at = 0, size = 0; at < stretch.length; at += size) {
        await world.pass(0.8 * LOST_TAIL_WAIT_MS);
        size = new DataView(stretch.buffer).getUint32(at + AT_SIZE, true);
        const data = { ...message.data, first: source.journal.own.appended + 1, count: 1, size };
        links.source.onMessage!(new WireEncoder().data(data), stretch.slice(at, at + size));
      }
    }
  }
  expect(world.scheduler.now - asked).toBeGreaterThan(1.5 * LOST_TAIL_WAIT_MS);
  expect(source.group!.serving).toBe(false);
  expect(source.journal.own.appended).toBe(through);
  await world.until(() => links.source.closed !== null, 5000, 'it is never back');
  expect(links.source.closed).toMatchObject({ code: CLOSE_NORMAL });
});

test('hosts of a source whose disk fails while its tail comes back are told', async () => {
  // It waited for a sync that could not come, and so did they.
  const { world } = await lostTail();
  const { source } = world;
  const links = await byHand(world);
  await world.until(() => source.group!.ready, 20_000, 'it does not get ready');
  let told: Error | null = null;
  world.write(0, 8).catch((error) => {
    told = error;
  });
  await world.until(() => source.group!.isAsked, 1000, 'nobody asks');
  source.store.fail('sync', 'EIO');
  await giveBack(world, links);
  await world.until(() => source.journal.failed !== null, 5000, 'the disk does not fail');
  await world.until(() => told !== null, 2000, 'the host waits on');
  expect(source.group!.serving).toBe(false);
});

/** Brings all of the source's link to the target and the other way round, as `change` makes of what has a stretch. */
async function relay(
  world: GroupWorld,
  links: { source: HandLink; target: HandLink },
  change: (header: Uint8Array, stretch: Uint8Array) => { header: Uint8Array; stretch: Uint8Array },
): Promise<void> {
  for (let turn = 0; turn < 20; turn += 1) {
    for (const [from, to] of [
      [links.source, links.target],
      [links.target, links.source],
    ] as const) {
      for (const { header, stretch } of from.sent.splice(0)) {
        if (to.closed !== null) return;
        const changed = stretch === null ? { header, stretch } : change(header, stretch);
        to.onMessage!(changed.header, changed.stretch);
      }
    }
    await world.pass(10);
  }
}

test('records that do not follow one another within a stretch are not taken', async () => {
  const world = await bothUp();
  await startAgainApart(world, world.target, false);
  for (let unit = 0; unit < 48; unit += 8) await world.settle(world.write(unit, 8));
  const { appended } = world.target.journal.peer;
  const links = await byHand(world);
  await relay(world, links, (header, stretch) => {
    const message = decode(header);
    if (message.kind !== KIND_DATA) throw new Error('a stretch without DATA');
    const view = new DataView(stretch.buffer);
    const first = view.getUint32(AT_SIZE, true);
    const second = view.getUint32(first + AT_SIZE, true);
    const data = { ...message.data, count: message.data.count - 1, size: stretch.length - second };
    const without = Buffer.concat([stretch.subarray(0, first), stretch.subarray(first + second)]);
    return { header: new WireEncoder().data(data), stretch: new Uint8Array(without) };
  });
  expect(links.target.closed).toMatchObject({ code: CLOSE_PROTOCOL, reason: /follows/ });
  expect(world.target.journal.peer.appended).toBe(appended + 1);
});

test('a source that had asked for its lost tail is not served for a READY that cannot be', async () => {
  const world = await bothUp();
  await world.settle(world.write(0, 8));
  await atRest(world);
  await startAgainApart(world, world.source, true);
  const links = await byHand(world);
  await world.until(() => links.source.sent.length > 0, 1000, 'the source does not say START');
  links.target.hear({ kind: KIND_START, start: startOf(links.source) });
  await world.until(() => links.target.sent.length > 0, 1000, 'the target does not say READY');
  const message = decode(links.target.sent[0]!.header);
  if (message.kind !== KIND_READY) throw new Error(`a message of kind ${message.kind} in the place of READY`);
  links.source.hear({ kind: KIND_READY, ready: { ...message.ready, received: 2 ** 40 } });
  expect(links.source.closed).toMatchObject({ code: CLOSE_PROTOCOL });
  expect(world.source.group!.serving).toBe(false);
});

test('a source does not serve under a generation that could not be saved', async () => {
  const world = await bothUp();
  await world.settle(world.write(0, 8));
  await atRest(world);
  world.lineDownUntil = Number.POSITIVE_INFINITY;
  world.crash(world.source, true);
  world.open(world.source);
  const { source } = world;
  await world.until(() => source.group?.ready === true, 20_000, 'it does not get ready');
  source.store.fail('write', 'EIO', 1, /superblock/);
  const written = world.write(0, 8);
  written.catch(() => {});
  await world.until(() => source.pair!.counters.minted === 1, 1000, 'it does not mint');
  const generations = source.pair!.hello().generations.length;
  await world.pass(100);
  expect(source.group!.serving).toBe(false);
  expect(source.pair!.hello().generations.length).toBe(generations - 1);
});

test('a generation begins at an end that is on the disk', async () => {
  // Part of a returned tail was here when the link broke, and not on the disk. A generation that began above it named an
  // end that the next crash took back: the sequences up to there would have been used again, under two histories.
  const { world, through } = await lostTail();
  const { source } = world;
  const links = await byHand(world);
  source.slowSyncMs = 30_000;
  await giveBack(world, links);
  expect(source.journal.own.appended).toBe(through);
  links.source.onClose!('the line is cut', 1006);
  await world.until(() => source.group!.ready, 20_000, 'it does not get ready');
  expect(source.journal.own.durable).toBeLessThan(through);
  world.write(0, 8).catch(() => {});
  for (let ms = 0; ms < 60_000 && source.pair!.counters.minted === 0; ms += 50) await world.pass(50);
  expect(source.pair!.counters.minted).toBe(1);
  expect(source.journal.own.durable).toBe(through);
});

const senderOf = (site: Site): Sender => {
  const { mirror } = site.group!;
  if (!(mirror instanceof Sender)) throw new Error(`${site.name} has no sender`);
  return mirror;
};

test('what a START promises stays in the journal until READY, however much is written meanwhile', async () => {
  // A source that had had no peer keeps nothing for one. Between START and READY of its first copy hosts wrote its
  // journal full; the stream behind the copy's begin was freed, and the copy began again, and again.
  const world = new GroupWorld({ ...QUIET, journalSegments: 40 }, seededRandom(1), hash);
  const { source, target } = world;
  world.lineDownUntil = Number.POSITIVE_INFINITY;
  world.open(source);
  world.open(target);
  await world.until(() => source.group?.serving === true && target.state === 'up', 1000, 'they do not open');
  for (let unit = 0; unit < 512; unit += 64) await world.settle(world.write(unit, 64));
  const link = new HandLink();
  source.pair!.onLink(link, target.pair!.hello());
  await world.until(() => link.sent.length > 0, 1000, 'no START');
  const { from } = startOf(link);
  for (let turn = 0; turn < 100; turn += 1) await world.settle(world.write(64 * (turn % 8), 64));
  await world.pass(2000);
  expect(senderOf(source).keepFrom(from + 1)).toBe(true);
  expect(source.group!.cleaner.counters.retentionGivenUp).toBe(0);
});

test('a source that starts again keeps what its absent peer may need, though it does not know how little that is', async () => {
  // Which records the peer has is noted lazily. Segments were freed for what was known; after a crash an older note was
  // all there was, its place was gone, and nothing was kept from then on: the peer came back and had to be copied anew.
  const world = await bothUp({ journalSegments: 40 });
  const { source } = world;
  const noted = () => Object.values(source.group!.state.superblock.peers)[0]!;
  for (let turn = 0; turn < 200; turn += 1) await world.settle(world.write(64 * (turn % 8), 64));
  await atRest(world);
  expect(source.group!.cleaner.counters.segmentsFreed).toBeGreaterThan(2);
  world.lineDownUntil = Number.POSITIVE_INFINITY;
  world.crash(world.target, false);
  await world.until(() => source.pair!.link === null, 20_000, 'the source does not notice');
  await world.settle(world.write(0, 8));
  noted().durable = 1; // the note is as old as can be
  await world.settle(new Promise<void>((resolve) => source.group!.state.save(() => resolve())));
  world.crash(source, false);
  world.open(source);
  await world.until(() => source.group?.ready === true, 20_000, 'it does not get ready');
  const sender = senderOf(source);
  const oldest = source.journal.segments.all()[0]!.number * source.journal.segmentSize;
  expect(oldest).toBeGreaterThan(0);
  expect(sender.retainFrom).toBe(oldest);
});

test('that answers are lowered is on the disk before the first of them', async () => {
  // One tick later they were given, whether that was written down or not. A source that crashed right then took for
  // granted that its peer had all that was ever answered.
  const world = await bothUp({ ack: 'received' });
  const { source } = world;
  world.lineDownUntil = Number.POSITIVE_INFINITY;
  world.line.cut();
  await world.until(() => source.pair!.link === null, 1000, 'the source does not notice');
  const { store } = source;
  const save = store.save.bind(store);
  const held: (() => void)[] = [];
  store.save = (name, bytes, done) => void held.push(() => save(name, bytes, done));
  let answered = false;
  const written = world.write(0, 8).then(() => {
    answered = true;
  });
  await world.until(() => held.length > 0, 3000, 'nothing is written down');
  await world.until(() => answered, 1000, null);
  expect(answered).toBe(false);
  store.save = save;
  for (const go of held) go();
  await world.settle(written);
  expect(source.group!.state.superblock.degradedSince).not.toBeNull();
});

test('that answers are lowered, and are not any more, is told once each', async () => {
  const world = await bothUp({ ack: 'received' });
  const { source } = world;
  const tell = vi.spyOn(source.group!, 'tell');
  world.lineDownUntil = Number.POSITIVE_INFINITY;
  world.line.cut();
  await world.until(() => source.pair!.link === null, 1000, 'the source does not notice');
  for (let unit = 0; unit < 32; unit += 8) await world.settle(world.write(unit, 8));
  const { degradedSince } = source.group!.state.superblock;
  expect(tell.mock.calls).toEqual([[expect.stringMatching(`^degraded: .* from sequence ${degradedSince} on$`)]]);
  world.lineDownUntil = 0;
  await atRest(world);
  expect(tell.mock.calls.slice(1)).toEqual([[expect.stringContaining('the peer has all that was answered')]]);
});

test.each(['degrade', 'fail', 'block'] as const)(
  '%s: a standby that is there and takes nothing more counts as away after a while',
  async (whenPeerAway) => {
    // Its disk hung: it held its link, and hosts of the primary were never answered, whatever --when-peer-away said.
    const world = await bothUp({ ack: 'received', whenPeerAway });
    const { source, target } = world;
    target.group!.receiver!.onMessage = () => true;
    let answer: string | null = null;
    world.write(0, 8).then(
      () => {
        answer = 'success';
      },
      (error) => {
        answer = error.code;
      },
    );
    await world.until(() => source.pair!.counters.stalls === 1, PEER_STALL_MS + 5000, 'the link is not closed');
    await world.until(() => answer !== null, 5000, null);
    expect(answer).toBe({ degrade: 'success', fail: 'PEER_AWAY', block: null }[whenPeerAway]);
    await world.until(() => source.pair!.counters.shunned > 0, SHUN_MS_MIN, null);
    expect(source.pair!.counters.shunned > 0).toBe(whenPeerAway !== 'block');
    world.crash(target, true);
    world.open(target);
    await world.until(() => world.settled(), 2 * SHUN_MS_MIN, 'it is not met again');
    await atRest(world);
  },
);

test('what the peer has only received stays in the rollback log', async () => {
  // The journal was freed up to what the peer had received. The peer lost power, and the records were nowhere.
  const world = await bothUp();
  const { source, target } = world;
  await world.settle(world.write(0, 8));
  await atRest(world);
  target.slowSyncMs = 5000;
  const from = source.journal.head;
  for (let turn = 0; turn < 20; turn += 1) await world.settle(world.write(64 * (turn % 8), 64));
  await world.until(() => senderOf(source).source.received === world.records, 3000, 'it does not arrive');
  expect(senderOf(source).peerDurable).toBeLessThan(world.records);
  expect(senderOf(source).retainFrom).toBeLessThanOrEqual(from);
});

test('a full disk is not asked without pause to note that answers are degraded', async () => {
  // Each save that failed began the next one: two to three thousand in a second, and each counted as a time of degrading.
  const world = await bothUp({ ack: 'received' });
  const { store, group } = world.source;
  world.crash(world.target, false);
  await world.until(() => !group!.mirror.connected, 60_000, 'the link does not go');
  await world.pass(50);
  let saves = 0;
  const { save } = group!.state;
  group!.state.save = (then) => {
    saves += 1;
    save.call(group!.state, then);
  };
  store.fail('write', 'ENOSPC', 1e9, /superblock/);
  const answered = world.write(0, 8);
  await world.pass(1000);
  expect([saves > 1, saves <= 2 + 1000 / FULL_DISK_RETRY_MS, group!.counters.degraded]).toEqual([true, true, 0]);
  store.heal();
  await world.settle(answered);
  expect(group!.counters.degraded).toBe(1);
});

test('an answer that is too large is told as such, and ends nothing', async () => {
  // Of a verify that the standby had asked for, with a thousand places that could not be read: it ended the primary's process.
  const world = await bothUp();
  world.source.onAsk = () => Promise.resolve('x'.repeat(CONTROL_SIZE_MAX));
  await expect(world.settle(world.target.pair!.ask('verify', {}))).rejects.toMatchObject({
    code: 'EINVAL',
    message: expect.stringMatching(/ANSWER of \d+ bytes is larger/),
  });
  expect(world.target.pair!.state).toBe('streaming');
});
