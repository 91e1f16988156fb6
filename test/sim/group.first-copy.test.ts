/** Stories of a first copy whose target crashes: it goes on where the disk says, and no sooner than that counts. */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  ...(await import('./small-limits.js')).SMALL_LIMITS,
}));

import { RING_FULL } from '../../src/journal/journal.js';
import { decode, KIND_DATA, WireEncoder } from '../../src/mirror/wire.js';
import { Group } from '../../src/volume/group.js';
import { holdLock } from '../../src/volume/scope.js';
import { GroupWorld, QUIET } from './group-world.js';
import { seededRandom } from './memory-store.js';

const hash = await xxhash();

/** A source that holds 64 blocks, and a line that takes a while for them; the target has not come yet. */
async function fullSource(): Promise<GroupWorld> {
  const world = new GroupWorld({ ...QUIET, rate: 1000 }, seededRandom(1), hash);
  world.open(world.source);
  await world.until(() => world.source.group?.serving === true, 1000, 'it does not serve');
  for (let unit = 0; unit < 512; unit += 64) await world.settle(world.write(unit, 64));
  return world;
}

const copied = ({ target }: GroupWorld): number => target.group?.receiver?.target.base?.next.lba ?? 0;

/** The same, cut off in the middle of the copy. */
async function cutInCopy(): Promise<GroupWorld> {
  const world = await fullSource();
  const { target } = world;
  world.open(target);
  await world.until(() => copied(world) > 0, 1000, 'the copy does not begin');
  world.line.downUntil = Number.POSITIVE_INFINITY;
  world.line.cut();
  await world.until(() => target.pair!.link === null, 1000, 'the target does not notice');
  return world;
}

async function atRest(world: GroupWorld): Promise<void> {
  await world.until(() => world.settled(), 20_000, 'the sites do not come to rest');
  await world.compareAll();
}

test('how far it has come is told at both ends', async () => {
  // Both said that nothing was missing at the standby.
  const world = await fullSource();
  world.open(world.target);
  let between = 0;
  let last = '';
  const look = (): boolean => {
    const { sender } = world.source.group!;
    const receiver = world.target.group?.receiver;
    if (receiver && !receiver.imageConsistent && sender!.linked) {
      const [here, there] = [sender!.copied?.lba ?? 64, receiver.copied.lba];
      expect(here).toBeLessThanOrEqual(there);
      if (here > 0 && here < 64) between += 1;
      world.target.journal.sync(); // what the source is told is on the disk
      last = `${here} ${there}`;
    }
    return world.settled();
  };
  await world.until(look, 20_000, 'the copy does not come to its end');
  expect(between).toBeGreaterThan(0);
  expect(last).toMatch(/ 64$/);
});

test('that it is under way is told once, however often the link goes, and that it is whole', async () => {
  const world = await fullSource();
  const tell = vi.spyOn(Group.prototype, 'tell');
  world.open(world.target);
  for (let cuts = 1; cuts <= 3; cuts += 1) {
    const from = copied(world);
    await world.until(() => copied(world) > from, 1000, 'the copy does not go on');
    world.line.cut();
    await world.until(() => !world.source.group!.sender!.linked, 1000, 'the source does not notice');
  }
  await atRest(world);
  expect(tell.mock.calls.flat().sort()).toEqual([
    'a first copy from the peer is under way',
    'a first copy to the peer is under way',
    'the first copy at the peer is whole',
    'the first copy is whole',
  ]);
  tell.mockRestore();
});

test('it is taken up where the last checkpoint of its target had it', async () => {
  // Were the checkpoint further than the copy, a target that crashed behind it would leave blocks out, and count as
  // whole without them.
  const world = await cutInCopy();
  const { target } = world;
  expect(copied(world)).toBeLessThan(64);
  const { checkpointer } = target.group!;
  checkpointer.request();
  await world.until(() => checkpointer.counters.checkpoints === 1, 1000, 'no checkpoint');
  world.crash(target, true);
  world.open(target);
  world.line.downUntil = 0;
  await atRest(world);
});

test('its end is noted behind its blocks, not before', async () => {
  // Were it noted while blocks of the copy are on no disk yet, a power cut would leave a standby whose copy is over and
  // lacks a part: nobody sends that again, and once it has the stream behind it, it counts as whole.
  const world = await fullSource();
  const { target } = world;
  const { store } = target;
  const open = store.open.bind(store);
  store.open = (name, create) => {
    const file = open(name, create);
    if (name.startsWith('segment-')) file.sync = () => {}; // it takes for ever
    return file;
  };
  world.open(target);
  await world.until(() => copied(world) === 64, 1000, 'the copy does not come to its end');
  await world.pass(500);
  world.crash(target, true);
  store.open = open;
  world.open(target);
  await atRest(world);
});

test('it is whole without what its source lost in a crash behind it', async () => {
  // The copy's end was said to be where the stream ended, of which a part was on no disk. The source lost that, wrote
  // nothing any more, and its standby waited for it and counted as not whole (seed 42722).
  const world = await fullSource();
  const { source, target } = world;
  world.open(target);
  const copying = source.group!.sender!.source;
  const want = copying.want.bind(copying);
  copying.want = () => {
    const wanted = want();
    if (wanted?.phase === 'base' && wanted.lba === 64 && source.slowSyncMs === 0) {
      source.slowSyncMs = 10_000;
      source.group!.appendFlush();
    }
    return wanted?.phase === 'streaming' ? null : wanted; // what comes behind it does not arrive
  };
  await world.until(() => target.group?.receiver?.target.base?.end != null, 5000, 'the copy does not come to its end');
  const { appended, durable } = source.journal.own;
  expect(durable).toBeLessThan(appended);
  world.line.downUntil = Number.POSITIVE_INFINITY;
  world.line.cut();
  world.crash(source, true);
  source.slowSyncMs = 0;
  world.open(source);
  world.line.downUntil = 0;
  await world.until(() => source.group?.serving === true, 20_000, 'the source does not serve again');
  await world.until(() => target.group?.mirror.imageConsistent === true, 20_000, 'the copy does not count as whole');
  expect(source.journal.own.appended).toBeLessThan(appended);
  await atRest(world);
});

test('its end stays noted, though a checkpoint that was begun before is done behind it', async () => {
  // The checkpoint said how far the copy had been when it began, and that it had no end. With the next link the standby was
  // to go on with a copy behind which it had records already: it refused that, again and again, also after a restart.
  const world = await fullSource();
  const { target } = world;
  world.open(target);
  await world.until(() => copied(world) > 0, 1000, 'the copy does not begin');
  const { mapLog, superblock } = target.group!.state;
  const write = mapLog.checkpoint.bind(mapLog);
  let written = (): void => {};
  mapLog.checkpoint = (position, maps, done) =>
    write(position, maps, (error, place) => {
      written = () => done(error, place);
    });
  const { checkpointer } = target.group!;
  checkpointer.request();
  await world.until(() => checkpointer.running, 1000, 'no checkpoint');
  const [volume] = target.group!.volumes.values();
  const lock = await world.settle(holdLock(volume!, 'write', { offset: 0, size: 4096 }, 1000));
  await world.settle(world.write(0, 8));
  await world.until(() => (superblock.inconsistent?.untilSequence ?? null) !== null, 20_000, 'the end is not noted');
  const noted = { ...superblock.inconsistent! };
  written();
  await world.until(() => checkpointer.counters.checkpoints === 1, 1000, 'the checkpoint does not end');
  expect(superblock.inconsistent).toEqual(noted);
  volume!.locks.release(lock);
  world.crash(target, true);
  world.open(target);
  await atRest(world);
});

test('it is not told to be whole before the disk says so', async () => {
  // Nothing was written meanwhile: its end is its beginning, and nothing has to come behind it.
  const world = await fullSource();
  const { source, target } = world;
  world.open(target);
  await world.until(() => copied(world) > 0, 1000, 'the copy does not begin');
  const { state } = target.group!;
  const save = state.save.bind(state);
  let held: (() => void)[] | null = [];
  state.save = (done) => {
    if (held === null) save(done);
    else held.push(() => save(done));
  };
  await world.until(() => target.group!.receiver!.target.consistent, 20_000, 'the copy does not come to its end');
  await world.pass(1000);
  expect(source.group!.sender!.source.consistent).toBe(false);
  for (const each of held.splice(0)) each();
  held = null;
  await world.until(() => source.group!.sender!.source.consistent, 1000, 'the source is not told');
  await atRest(world);
});

test('how far it had got is not said of another that was begun, and of which nothing has come', async () => {
  // A START began a copy anew, from a later sequence, and the link went before it was followed. The next HELLO told of the new
  // copy, and of the blocks that the old one had: it was gone on with from there, and what had been written in between to
  // the blocks before was never sent (seed 1383).
  const world = await cutInCopy();
  const { target } = world;
  const { state, checkpointer } = target.group!;
  const begun = state.superblock.inconsistent!;
  const next = { volume: 0, lba: 0 };
  const other = { ...begun, base: next, startSequence: begun.startSequence + 100 };
  expect(target.pair!.hello().base?.next).not.toEqual(next);
  state.superblock.inconsistent = other;
  expect(target.pair!.hello().base).toMatchObject({ start: other.startSequence, next, end: null });
  checkpointer.request();
  await world.until(() => checkpointer.counters.checkpoints === 1, 1000, 'no checkpoint');
  expect(other.base).toEqual(next);
  state.superblock.inconsistent = begun;
  world.line.downUntil = 0;
  await atRest(world);
});

/** A target that comes to the end of its copy, and whose superblock cannot be saved while `refuses` says so. */
async function refusedAtEnd(refuses: (world: GroupWorld) => boolean): Promise<GroupWorld> {
  const world = await fullSource();
  const { target } = world;
  world.open(target);
  await world.until(() => copied(world) > 0, 1000, 'the copy does not begin');
  const { state } = target.group!;
  const save = state.save.bind(state);
  state.save = (done) => {
    if (!refuses(world)) return save(done);
    world.after(1, () => done(new Error('the disk does not take it')));
  };
  return world;
}

/** Ends of links are no failure of the world, if this is why. */
function linksMayEnd(world: GroupWorld, why = /the disk does not take it/) {
  const told = vi.spyOn(world, 'fail').mockImplementation(() => {});
  return () => {
    const others = told.mock.calls.map(([error]) => String(error)).filter((text) => !why.test(text));
    told.mockRestore();
    expect(others).toEqual([]);
  };
}

test('a disk that refuses to note that it is whole is asked again', async () => {
  // It was said once. The state on the disk stayed that of an unfinished copy, with an image that counted as whole: it could
  // not be promoted until the next start.
  let refused = 0;
  const world = await refusedAtEnd(({ target }) => {
    if (target.group!.state.superblock.inconsistent !== null || refused > 0) return false;
    refused += 1;
    return true;
  });
  const judge = linksMayEnd(world);
  const { receiver, state } = world.target.group!;
  await world.until(() => refused === 1, 20_000, 'the copy does not come to its end');
  await world.until(() => state.superblock.inconsistent !== null, 100, 'it counts though it was refused');
  expect([receiver!.imageConsistent, receiver!.toldConsistent]).toEqual([true, false]);
  await world.until(() => state.superblock.inconsistent === null, 1000, 'it is not tried again');
  await atRest(world);
  expect(receiver!.toldConsistent).toBe(true);
  judge();
});

test('behind a record of a copy that does not belong there nothing of the copy is taken', async () => {
  // Its records bear no sequence: the frames that waited behind it were taken, and the copy had a gap that nobody knew of.
  const world = await fullSource();
  const { target } = world;
  world.open(target);
  await world.until(() => target.group?.receiver?.connected === true, 1000, 'no copy begins');
  const { journal } = target;
  const receiver = target.group!.receiver!;
  const accept = journal.accept.bind(journal);
  journal.accept = () => RING_FULL;
  target.pair!.link!.pauseReceiving = () => {};
  await world.until(() => receiver.counters.framesReceived > 3, 5000, 'no frames come');
  journal.accept = accept;
  let looked = 0;
  journal.misplaced = () => (++looked === 1 ? 'it does not belong there' : null);
  const judge = linksMayEnd(world, /it does not belong there/);
  target.group!.admissionsMoved();
  expect([looked, receiver.target.base!.next]).toEqual([1, { volume: 0, lba: 0 }]);
  await atRest(world);
  judge();
});

/**
 * What came next was taken, and the standby called an image whole that lacked blocks: a copy has no sequences by which a gap would
 * show.
 */
test.each([
  ['without a piece', 'goes on behind'],
  ['that ends too early', 'is not whole'],
])('a copy %s is begun again from there', async (what, reason) => {
  const world = await fullSource();
  const { target } = world;
  world.open(target);
  await world.until(() => copied(world) > 0, 1000, 'the copy does not begin');
  const told = vi.spyOn(world, 'fail').mockImplementation(() => {}); // of the link that ends
  const link = target.pair!.link!;
  const deliver = link.onMessage!;
  let isChanged = false;
  link.onMessage = (header, stretch) => {
    const message = decode(header);
    if (isChanged || message.kind !== KIND_DATA || message.data.first !== 0) return deliver(header, stretch);
    isChanged = true;
    if (what === 'that ends too early') {
      deliver(header, stretch);
      deliver(new WireEncoder().data({ ...message.data, count: 0, size: 0, baseEnd: true }), null);
    }
  };
  await world.until(() => target.pair!.link !== link, 1000, 'the link is not closed');
  expect(isChanged).toBe(true);
  expect(told.mock.calls.map(String).join()).toContain(reason);
  expect(target.group!.receiver!.imageConsistent).toBe(false);
  told.mockRestore();
  await atRest(world);
});
