/** Stories of data that was lost, or would have been, until the group simulator told them. */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  SEGMENT_SIZE_MIN: 128 * 1024,
}));

import { FLAG_POINT } from '../../assembly/layout.js';
import { Group } from '../../src/volume/group.js';
import { holdLock, openScope } from '../../src/volume/scope.js';
import type { Site } from './group-site.js';
import { GroupWorld, type GroupWorldOptions, QUIET } from './group-world.js';
import { seededRandom } from './memory-store.js';

const hash = await xxhash();

function makeWorld(options: Partial<GroupWorldOptions> = {}, seed = 1): GroupWorld {
  return new GroupWorld({ ...QUIET, ...options }, seededRandom(seed), hash);
}

async function bothUp(world: GroupWorld): Promise<void> {
  world.open(world.source);
  world.open(world.target);
  await world.until(() => world.settled(), 3000, 'the sites do not find together');
}

async function atRest(world: GroupWorld): Promise<void> {
  await world.until(() => world.settled(), 20_000, 'the sites do not come to rest');
  await world.compareAll();
}

test('a scope that its holder and a stop both end is ended once', async () => {
  // The gateway stopped and wrote UNLOCK for the scopes that were open. Then their holders, whose writes were refused,
  // unlocked as well: a second UNLOCK in the stream. The target could not apply it, then or after any restart: nothing
  // written from then on reached it.
  const world = makeWorld();
  await bothUp(world);
  const { group } = world.source;
  const volume = [...group!.volumes.values()][0]!;
  const scope = await world.settle(openScope(volume, { offset: 0, size: 8192 }));
  const stopped = world.stop(world.source);
  await world.pass(0.05);
  await expect(world.settle(scope.write(0, new Uint8Array(4096)))).rejects.toMatchObject({ code: 'ESHUTDOWN' });
  await world.settle(Promise.all([scope.unlock(), stopped]));
  await world.until(() => world.source.state === 'off', 100, 'it does not stop');
  world.open(world.source);
  await world.until(() => world.source.group?.serving === true, 3000, 'it does not serve');
  await world.settle(world.write(0, 8));
  await atRest(world);
});

test('a source that is stopped before its lost tail is back still wants it', async () => {
  // A source lost its tail in a crash; its peer had it. Before they met, somebody stopped the source in order: that
  // ended dead scopes under the lost sequences and marked the state clean. Started again it asked nobody, and the peer
  // kept other records under the same numbers.
  for (let seed = 1; seed <= 10; seed += 1) {
    const world = makeWorld({ syncMs: 60 }, seed);
    await bothUp(world);
    const volume = [...world.source.group!.volumes.values()][0]!;
    await world.settle(openScope(volume, { offset: 0, size: 4096 }));
    await world.settle(world.flush());
    for (let unit = 64; unit < 200; unit += 8) await world.settle(world.write(unit, 8));
    await world.until(() => world.target.journal.peer.appended === world.records, 1000, 'it does not arrive');
    world.lineDownUntil = world.scheduler.now + 400;
    world.crash(world.source, true);
    world.open(world.source);
    await world.until(() => world.source.state === 'up', 1000, 'it does not open');
    await world.settle(world.stop(world.source));
    await world.until(() => world.source.state === 'off', 100, 'it does not stop');
    world.open(world.source);
    await atRest(world);
    expect(world.counts['tail dropped for good'] ?? 0).toBe(0);
  }
});

test('what a killed process left in the page cache is on disk before it counts', async () => {
  // kill -9 while a new segment's name was not synced; the next process read the page cache, held it all to be durable
  // and answered a flush of records behind it. Then the power went: the file had no name.
  for (let seed = 1; seed <= 20; seed += 1) {
    const world = makeWorld({ syncMs: 30 }, seed);
    world.open(world.source);
    await world.until(() => world.source.group?.serving === true, 1000, 'it does not serve');
    for (let unit = 0; unit < 80; unit += 8) await world.settle(world.write(unit, 8));
    await world.pass(60);
    world.crash(world.source, false);
    world.open(world.source);
    await world.until(() => world.source.group?.serving === true, 1000, 'it does not serve');
    await world.settle(world.write(0, 8));
    await world.settle(world.flush());
    world.crash(world.source, true);
    world.open(world.source); // the world compares with what was promised
    await world.until(() => world.source.group?.serving === true, 1000, 'it does not serve');
  }
});

test('a first copy that began before the source’s records were durable does not outlive them', async () => {
  // The copy began behind the last sealed record, which was not on the source's disk. The source crashed and lost it;
  // its next records got the same numbers, and the target, which was said to have them, never got them.
  for (let seed = 1; seed <= 20; seed += 1) {
    const world = makeWorld(
      { syncMs: 60, journalSegments: 9, volumes: [{ blocks: 64, blockSize: 4096, platter: 'flat' }] },
      seed,
    );
    world.open(world.source);
    await world.until(() => world.source.group?.serving === true, 1000, 'it does not serve');
    for (let unit = 0; unit < 160; unit += 8) await world.settle(world.write(unit, 8));
    world.open(world.target);
    await world.until(() => world.target.group !== null, 3000, 'it is not adopted');
    await world.settle(world.write(8, 8));
    await world.pass(seed * 4);
    world.crash(world.source, true);
    world.open(world.source);
    await world.until(() => world.source.group?.serving === true, 20_000, 'it does not serve');
    for (let unit = 0; unit < 80; unit += 16) await world.settle(world.write(unit, 8));
    await atRest(world);
  }
});

test('a superblock that only the page cache has is not what the next save relies on', async () => {
  // kill -9 during a save: the next process read the newer superblock from the page cache and saved over the other one,
  // the only one on disk. The power went during that save: neither was left, and the site could not be opened again.
  for (let seed = 1; seed <= 60; seed += 1) {
    const world = makeWorld({ syncMs: 8 }, seed);
    world.open(world.source);
    await world.until(() => world.source.group?.serving === true, 1000, 'it does not serve');
    for (let life = 0; life < 6; life += 1) {
      world.crash(world.source, life % 2 === 1);
      world.open(world.source);
      await world.pass(seed % 3 === 0 ? 4 : 12);
    }
    world.crash(world.source, true);
    world.open(world.source);
    await world.until(() => world.source.group?.serving === true, 1000, 'it does not serve');
  }
});

test('a source that lost what its peer has on disk opens, and gets it back', async () => {
  // The peer's disk was faster: the superblock remembered more of the stream as durable there than a crash left here.
  // The sender's cursors contradicted each other, and the assertion ended the process at every start.
  const world = makeWorld();
  await bothUp(world);
  await world.settle(world.write(0, 8));
  await atRest(world);
  world.source.slowSyncMs = 400;
  for (let unit = 0; unit < 160; unit += 8) await world.settle(world.write(unit, 8));
  const { group } = world.source;
  world.target.group!.journal.sync();
  const mirror = group!.mirror;
  await world.until(() => mirror.peerDurable === world.records, 3000, 'the peer does not sync');
  expect(group!.journal.own.durable).toBeLessThan(world.records);
  await world.settle(new Promise<void>((resolve) => group!.state.save(() => resolve())));
  world.source.slowSyncMs = 0;
  world.crash(world.source, true);
  world.open(world.source);
  await atRest(world);
  expect(world.counts['tail dropped for good'] ?? 0).toBe(0);
});

test('a standby with a flat image does not drop what it applied while the image was written', async () => {
  // A write waited for a lock while the block's older version went into the image. The lock was released, the write was
  // applied; then the round dropped every pointer below the journal's head, this one, too: the image showed the old data.
  let pressed = 0;
  for (let seed = 1; seed <= 12; seed += 1) {
    const world = makeWorld(
      { journalSegments: 12, volumes: [{ blocks: 64, blockSize: 4096, platter: 'flat' }], syncMs: 6 },
      seed,
    );
    await bothUp(world);
    const { journal, cleaner } = world.target.group!;
    const volume = [...world.target.group!.volumes.values()][0]!;
    for (let turn = 0; turn < 4; turn += 1) {
      // the source's disk is slow, so the target keeps the stream for it: its journal is full enough for a round
      world.source.slowSyncMs = 2000;
      for (let unit = 64; journal.segments.used <= cleaner.softLimit + 65536; unit = 64 + ((unit + 32) % 448))
        await world.settle(world.write(unit, 32));
      await world.settle(world.write(0, 64));
      await world.until(() => world.target.journal.peerApplied === world.records, 1000, 'not applied');
      const lock = await world.settle(holdLock(volume, 'write', { offset: 0, size: 32768 }, 1000));
      await world.settle(world.write(0, 64));
      await world.until(() => world.target.journal.peer.appended === world.records, 1000, 'not received');
      if (journal.segments.used > cleaner.softLimit && volume.map.mappedCount > 0) pressed += 1;
      world.target.group!.writeback.poke();
      await world.pass((seed % 10) * 1.5);
      volume.locks.release(lock);
      world.target.group!.locksMoved();
      await world.pass(60);
      world.source.slowSyncMs = 0;
      await world.until(() => world.settled(), 5000, 'not at rest');
      await world.compareAll();
    }
  }
  expect(pressed).toBeGreaterThan(12);
});

test('a source that goes on alone while a peer comes does not leave it with the older history', async () => {
  // The wait for the lost tail ended while the handshake was under way: the source minted a generation between its
  // HELLO and its START. The peer followed the stream under the older history, and at the next meeting was refused for
  // records that it had rightly got.
  for (let seed = 1; seed <= 40; seed += 1) {
    const world = makeWorld({ delayMax: 60 }, seed);
    await bothUp(world);
    await world.settle(world.write(0, 8));
    await atRest(world);
    world.crash(world.source, true);
    world.lineDownUntil = world.scheduler.now + 9700 + seed * 8;
    world.open(world.source);
    await world.until(() => world.source.group?.ready === true, 20_000, 'it does not serve');
    await world.settle(world.write(0, 8));
    await atRest(world);
    await world.settle(Promise.all([world.stop(world.source), world.stop(world.target)]));
    await world.until(() => world.source.state === 'off' && world.target.state === 'off', 100, 'they do not stop');
    world.open(world.source);
    world.open(world.target);
    await atRest(world);
    expect(world.source.pair!.refusal).toBeNull();
  }
});

test('lock-step: a TRIM of more than the ring does not wait for a payload that it has not', async () => {
  // The room for LOCK, TRIM and UNLOCK was asked for as if the blocks came along. The ring never has that much: the trim
  // was not answered, and nothing that any host asked after it.
  const blocks = 256;
  const world = makeWorld({ speculation: 'off', volumes: [{ blocks, blockSize: 4096, platter: 'journal' }] });
  await bothUp(world);
  const volume = [...world.source.group!.volumes.values()][0]!;
  expect(volume.size).toBeGreaterThan(world.source.journal.ringSize);
  await world.settle(world.write(0, 8));
  for (const bare of ['trim', 'zero'] as const) {
    const answered = new Promise<void>((resolve, reject) =>
      volume[bare](1, 0, volume.size, false, { settle: (error) => (error ? reject(error) : resolve()) }),
    );
    await world.settle(answered);
  }
  await world.settle(world.write(8, 8));
  await atRest(world);
});

test('lock-step: a write within a scope is answered when it is applied, with any ack', async () => {
  // With `ack: local` it was answered at once: the baseline hid the very waits that it is there to show, and a holder
  // took its writes for applied while the peer had not even granted the lock.
  const world = makeWorld({ speculation: 'off' });
  await bothUp(world);
  const [here, there] = [world.source, world.target].map((site) => [...site.group!.volumes.values()][0]!);
  const extent = { offset: 0, size: 8192 };
  const lock = await world.settle(holdLock(there!, 'write', extent, 1000));
  const scope = await world.settle(openScope(here!, extent));
  let answered = false;
  const written = scope.write(0, new Uint8Array(4096)).then(() => {
    answered = true;
  });
  await world.pass(500);
  expect(answered).toBe(false);
  there!.locks.release(lock);
  world.target.group!.locksMoved();
  await world.settle(written);
  expect(world.target.journal.peerApplied).toBe(world.records);
  await world.settle(scope.unlock());
  await atRest(world);
});

test('a source that was ready to go on alone, and was asked nothing, takes its lost tail back', async () => {
  // The peer was away for longer than the source waits for its lost tail. The source minted a generation and crashed
  // before any host came. Nobody had been told anything, but the tail, and all that the peer had, was refused for good:
  // a person had to empty the standby.
  for (let seed = 1; seed <= 10; seed += 1) {
    const world = makeWorld({}, seed);
    await bothUp(world);
    world.source.slowSyncMs = 400;
    for (let unit = 0; unit < 160; unit += 8) await world.settle(world.write(unit, 8));
    await world.until(() => world.target.journal.peer.appended === world.records, 1000, 'it does not arrive');
    const { records } = world;
    world.source.slowSyncMs = 0;
    world.lineDownUntil = world.scheduler.now + 25_000;
    world.source.crash(true);
    for (let life = 0; life < 2; life += 1) {
      world.source.open();
      await world.until(() => world.source.group?.ready === true, 12_000, 'it does not get ready');
      expect(world.source.journal.own.appended).toBeLessThan(records);
      await world.pass(200);
      world.source.crash(true);
    }
    world.source.open();
    await atRest(world);
    expect(world.counts['tail dropped for good'] ?? 0).toBe(0);
    expect(world.records).toBe(records);
    await world.settle(world.write(0, 8));
    await atRest(world);
  }
});

test('a generation that is not on the disk yet is not what a peer follows', async () => {
  // A link came up while a new generation was being saved. The peer adopted it and had it on its disk first; then the
  // source lost power, and with it the generation: it was refused as the one that had not gone on, by its own standby.
  for (let seed = 1; seed <= 20; seed += 1) {
    const world = makeWorld({ delayMax: 2 }, seed);
    await bothUp(world);
    await world.settle(world.write(0, 8));
    await atRest(world);
    world.source.crash(true);
    world.lineDownUntil = Number.POSITIVE_INFINITY;
    world.source.open();
    await world.until(() => world.source.group?.ready === true, 12_000, 'it does not get ready');
    const { store, life } = world.source;
    const save = store.save.bind(store);
    store.save = (...given) => world.scheduler.schedule(() => life.over || save(...given), 1000);
    world.write(0, 8).catch(() => {});
    await world.until(() => world.source.pair!.counters.minted === 1, 1000, 'it does not mint');
    world.lineDownUntil = 0;
    await world.pass(20 * seed);
    world.source.crash(true);
    store.save = save;
    world.source.open();
    await atRest(world);
    expect(world.source.pair!.refusal).toBeNull();
  }
});

test('a source that goes on alone for a read does not take back what it showed', async () => {
  // The other way round: once anything was answered, be it a read, the tail that is missing from the answer is gone.
  const world = makeWorld();
  await bothUp(world);
  world.source.slowSyncMs = 400;
  await world.settle(world.write(0, 8));
  await world.until(() => world.target.journal.peer.appended === world.records, 1000, 'it does not arrive');
  world.source.slowSyncMs = 0;
  world.lineDownUntil = world.scheduler.now + 12_000;
  world.source.crash(true);
  world.source.open();
  await world.until(() => world.source.group?.ready === true, 12_000, 'it does not get ready');
  const volume = [...world.source.group!.volumes.values()][0]!;
  const read = new Promise<number>((resolve, reject) =>
    volume.read(1, 0, 4096, { settleRead: (error, data) => (error ? reject(error) : resolve(data[0]![0]!)) }),
  );
  expect(await world.settle(read)).toBe(0);
  expect(world.source.pair!.counters.minted).toBe(1);
  world.source.crash(true);
  world.source.open();
  await world.until(() => world.source.pair?.refusal !== null && world.source.pair !== null, 20_000, 'not refused');
  expect(world.source.pair!.refusal).toMatch(/went on without it/);
});

test('the machine of a former primary, emptied and copied anew, is not given its old stream back', async () => {
  // The standby took over; the former primary's machine came back empty and got a first copy. At their next meeting the
  // new primary still knew the other's old stream to its end, the other one, being new, to none: that looked like a lost
  // tail. It was returned, and the old records were applied over newer data; or, once their segments were gone, the two
  // refused each other at every meeting.
  const world = makeWorld();
  await bothUp(world);
  for (let unit = 0; unit < 80; unit += 8) await world.settle(world.write(unit, 8));
  await atRest(world);
  world.operator.failOver();
  await world.until(() => world.settled(), 5000, 'the standby does not take over');
  expect(world.source.name).toBe('beta');
  await world.settle(world.write(0, 8));
  await atRest(world);
  for (const site of [world.target, world.source]) {
    world.crash(site, false);
    world.open(site);
    await atRest(world);
  }
  expect(world.source.pair!.refusal).toBeNull();
});

/** @param name who is primary then; the other one is its standby */
async function failOver(world: GroupWorld, old: 'gone' | 'comes back', name: string): Promise<void> {
  world.operator.failOver(old);
  const follows = (): boolean => {
    world.operator.look();
    return world.source.name === name && world.settled();
  };
  await world.until(follows, 5000, 'the standby does not take over');
}

test('a scope that a former primary had open does not outlive its disk', async () => {
  // The standby took over; it still held the lock of the scope. The former primary came back empty, knew of no scope, and
  // when it was primary again its first write there was refused, for good.
  const world = makeWorld();
  await bothUp(world);
  const volumeOf = ({ group }: Site) => [...group!.volumes.values()][0]!;
  const extent = { offset: 0, size: 8192 };
  const applied = (): boolean => world.target.journal.peerApplied === world.source.journal.own.appended;
  await world.settle(openScope(volumeOf(world.source), extent));
  await world.until(applied, 3000, 'the lock does not arrive');
  await world.until(() => world.target.journal.peer.durable === 1, 3000, 'the lock is not durable there');
  for (const [old, name] of [
    ['gone', 'beta'],
    ['comes back', 'alpha'],
  ] as const) {
    await failOver(world, old, name);
  }
  const scope = await world.settle(openScope(volumeOf(world.source), extent));
  await world.until(applied, 3000, 'the lock is not taken');
  await world.settle(scope.unlock());
  await atRest(world);
  expect(world.counts['target emptied'] ?? 0).toBe(0);
});

test('a former primary, emptied and copied anew, takes over again', async () => {
  // The standby took over; the former primary's machine came back empty and got a first copy. It had another number now.
  // When the sites changed places again, the other one was refused: it held the old stream, "which the peer never got".
  const world = makeWorld();
  await bothUp(world);
  await world.settle(world.write(0, 8));
  await atRest(world);
  for (const [old, name] of [
    ['gone', 'beta'],
    ['comes back', 'alpha'],
    ['comes back', 'beta'],
  ] as const) {
    await failOver(world, old, name);
    await world.settle(world.write(8, 8));
    await atRest(world);
    expect(world.counts['target emptied'] ?? 0).toBe(0);
  }
  expect(world.target.journal.own.appended).toBeGreaterThan(0);
});

test('an old primary that a promoted one refuses says what its hosts read, once', async () => {
  // It was told that both were primary, and served its hosts the older data without another word.
  const world = makeWorld();
  const tell = vi.spyOn(Group.prototype, 'tell');
  await bothUp(world);
  await world.settle(world.write(0, 8));
  await atRest(world);
  world.operator.failOver('serves');
  await world.until(() => world.target.pair?.parted != null, 20_000, 'it does not learn of it');
  const { pair } = world.target;
  const finding =
    /^site beta went on without this one, under a newer generation\. Hosts here do not see what is written there/;
  expect(pair!.parted).toMatch(finding);
  expect(pair!.refusal).toMatch(/beta went on without alpha: start alpha with --role standby/);
  await world.until(() => pair!.counters.rows.get(1)! > 2, 20_000, 'they do not meet again');
  expect(tell.mock.calls.filter(([text]) => finding.test(text))).toHaveLength(1);
  expect(world.source.pair!.parted).toBeNull();
  tell.mockRestore();
  world.target.crash(false);
  world.target.role = 'standby';
  world.target.open();
  await world.until(() => world.target.pair?.state === 'streaming', 20_000, 'it does not follow');
  expect(world.target.pair!.parted).toBeNull();
});

test('a standby that goes down between its adoption and its first copy holds no image', async () => {
  // The adoption was on disk, that a first copy had to come was not: the standby said that its image was whole. Its
  // NAME@applied showed an empty volume, and with --role primary it would have served one.
  const world = makeWorld({ volumes: [{ blocks: 16, blockSize: 4096, platter: 'flat' }], prefilled: 1 });
  world.open(world.source);
  world.open(world.target);
  await world.until(() => world.target.group !== null, 3000, 'it is not adopted');
  world.crash(world.target, false);
  world.lineDownUntil = world.scheduler.now + 1000;
  world.open(world.target);
  await world.until(() => world.target.state === 'up', 1000, 'it does not open');
  expect(world.target.group!.receiver!.imageConsistent).toBe(false);
  await atRest(world);
});

test('an append that was torn where zeroes would have followed is not whole', async () => {
  // The power went in the middle of an append. What was missing at its end was zeroes, and zeroes are what is read
  // behind a file's end: the record checked. It counted, but the file stayed short: after a clean stop, or once blocks of
  // a later checkpoint stood in that segment, the site was refused as damaged, with nothing wrong in it.
  for (const size of [557, 2048]) {
    const world = makeWorld();
    world.open(world.source);
    await world.until(() => world.source.group?.serving === true, 1000, 'it does not serve');
    const volume = [...world.source.group!.volumes.values()][0]!;
    volume.write(1, 0, 4096, [new Uint8Array(4096)], false, { settle() {} });
    const { journal } = world.source.group!;
    await world.until(() => journal.written === journal.head && journal.head > 4096, 1000, 'it is not written');
    const { store } = world.source;
    world.source.crash(false);
    const file = store.open('segment-0000000000.log', false);
    file.truncate(size);
    file.close();
    for (let life = 0; life < 2; life += 1) {
      world.source.open();
      await world.until(() => world.source.group?.serving === true, 1000, 'it does not serve');
      await world.settle(world.stop(world.source));
      await world.until(() => world.source.state === 'off', 100, 'it does not stop');
    }
  }
});

/** A target that has verified `volumes` of a first copy of eight, and syncs slowly; the line is cut now. */
async function inFirstCopy(volumes: number, rate: number): Promise<GroupWorld> {
  const blocks = 24;
  const world = makeWorld({
    volumes: Array.from({ length: 8 }, () => ({ blocks, blockSize: 4096, platter: 'flat' })),
    prefilled: 1,
    journalSegments: 40,
    rate,
  });
  world.open(world.source);
  world.open(world.target);
  await world.until(() => world.target.group !== null, 3000, 'it is not adopted');
  world.target.slowSyncMs = 2000;
  const base = () => world.target.group!.receiver!.target.base;
  const had = (): boolean => base()?.next.volume === volumes && base()?.next.lba === blocks && base()?.end === null;
  await world.until(had, 3000, 'there is no first copy');
  world.line.downUntil = world.scheduler.now + 400;
  world.line.cut();
  return world;
}

test('a first copy that is begun anew does not go on where an earlier one was', async () => {
  // A first copy was interrupted, and what had followed it was given up at the source: another one had to begin. The
  // standby agreed, and went down before it had any of it. Started again it found records of the earlier copy, and took
  // the new one up behind these: what had changed between the two was missing at the standby, for good.
  const world = await inFirstCopy(5, 2000);
  world.target.slowSyncMs = 0;
  await world.settle(world.write(0, 8));
  world.source.group!.sender!.giveUpRetention();
  const { startSequence } = world.target.group!.state.superblock.inconsistent!;
  const again = (): boolean =>
    (world.target.group?.state.superblock.inconsistent?.startSequence ?? 0) > startSequence &&
    world.target.group!.receiver!.linked;
  await world.until(again, 3000, 'no other copy begins');
  world.target.crash(false);
  world.target.open();
  await atRest(world);
});

test('a first copy that goes on after a cut is not whole before it is durable', async () => {
  // The link was cut in a first copy, and the same process took it up where it had been verified. That counted as durable
  // from then on: the superblock said that the image was whole, the power went, and what had come before the cut was not
  // there. The standby showed an image with holes, and could have become primary with it.
  const world = await inFirstCopy(8, 2000);
  await world.until(() => world.line.isUp, 1000, 'no link');
  await world.pass(600);
  world.target.crash(true);
  world.target.slowSyncMs = 0;
  world.target.open();
  await atRest(world);
});

test('a first copy whose end is written down while it is taken up again can be taken up once more', async () => {
  // The link was cut when the copy was whole and not durable yet, came again, and was cut before the copy's end was told
  // once more. What had waited for the disk wrote the end down by then: the standby's HELLO said that the copy was whole,
  // it refused to go on without one, and did so at every meeting until somebody restarted it. Seed 1303 of one-way worlds.
  const world = await inFirstCopy(8, 2000);
  const { target, line } = world;
  await world.until(() => line.isUp, 1000, 'no link');
  const { receiver, state } = target.group!;
  const base = () => receiver!.target.base;
  const cut = (downMs: number): void => {
    line.downUntil = world.scheduler.now + downMs;
    line.cut();
  };
  await world.until(() => base()?.end !== null, 1000, 'the copy does not end');
  cut(100);
  await world.until(() => receiver!.linked && base()?.end === null, 1000, 'it is not taken up');
  cut(4000);
  await world.until(() => state.superblock.inconsistent!.untilSequence !== null, 4000, 'its end is not written down');
  expect(base()!.end).toBeNull();
  target.slowSyncMs = 0;
  await atRest(world);
});

test('rot in a first copy that is whole does not pass for a torn tail', async () => {
  // Nothing was written behind the copy, so no record bore witness that it had been durable. A record of it rotted while
  // the site was down: all from there on was cut off, and the superblock still said that the image was whole.
  const world = makeWorld({ volumes: [{ blocks: 24, blockSize: 4096, platter: 'flat' }], prefilled: 1 });
  await bothUp(world);
  const { store } = world.target;
  world.target.crash(false);
  store.rot('segment-0000000000.log', 40_000);
  world.target.rotten = true;
  world.target.open();
  await world.until(() => world.target.state === 'up', 1000, 'it does not open');
  expect(world.counts['rot was told']).toBe(1);
  await atRest(world);
});

test('what stands before the last checkpoint is checked when it is read, also in the segment where replay begins', async () => {
  // Recovery reads whole segments into the ring, and looks at what stands behind the last checkpoint. What stands before
  // it in the same segment was read from the ring from then on, unchecked: a block that had rotted was a host's data.
  const world = makeWorld();
  world.open(world.source);
  await world.until(() => world.source.group?.serving === true, 1000, 'it does not serve');
  await world.settle(world.write(0, 8));
  const { group, store } = world.source;
  group!.checkpointer.request();
  await world.until(() => group!.checkpointer.counters.checkpoints === 1, 1000, 'no checkpoint');
  world.source.crash(false);
  store.rot('segment-0000000000.log', 1000);
  world.source.rotten = true;
  world.source.open();
  await world.until(() => world.source.group?.ready === true, 1000, 'it does not open');
  const volume = [...world.source.group!.volumes.values()][0]!;
  const read = new Promise<void>((resolve, reject) =>
    volume.read(1, 0, 4096, { settleRead: (error) => (error ? reject(error) : resolve()) }),
  );
  await expect(world.settle(read)).rejects.toMatchObject({ code: 'EIO' });
});

test('emptying segments does not fill the disk while they cannot be freed yet', async () => {
  // A nearly full segment was emptied, which gave little, and until a sync it could not be freed. So the next one was
  // emptied, and the next: with a slow disk the journal grew to a multiple of its limit, all copies of the same blocks.
  const world = makeWorld({ volumes: [{ blocks: 800, blockSize: 1024, platter: 'journal' }], journalSegments: 9 });
  world.open(world.source);
  await world.until(() => world.source.group?.serving === true, 1000, 'it does not serve');
  for (let unit = 0; unit < 1600; unit += 16) await world.settle(world.write(unit, 16));
  const { segments, room, segmentSize } = world.source.journal;
  world.source.slowSyncMs = 500;
  let most = 0;
  for (let turn = 0; turn < 300; turn += 1) {
    await world.settle(world.write((turn * 389 * 2) % 1600, 2));
    most = Math.max(most, segments.used);
  }
  for (let ms = 0; ms < 1000; ms += 10) {
    await world.pass(10);
    most = Math.max(most, segments.used);
  }
  expect(world.source.group!.cleaner.counters.segmentsFreed).toBeGreaterThan(10);
  expect(most).toBeLessThan(room.limit + segmentSize);
});

test('a copy of a source, made when it was stopped, is not taken for the source', async () => {
  // Somebody copied the state directory of a stopped source, went on with the original, and later started the copy. It
  // had been opened as often as what the target remembered, so it was taken for the source. It had served hosts at once,
  // for it had been stopped in order, and when it had written more than the original the target took what came behind:
  // its image was one part of the one and one part of the other.
  const world = makeWorld();
  await bothUp(world);
  const { source, target } = world;
  const stop = async (): Promise<void> => {
    await world.settle(world.stop(source));
    await world.until(() => source.state === 'off', 100, 'it does not stop');
  };
  await world.settle(world.write(0, 8));
  await stop();
  const copy = { store: source.store.copy(), images: source.images.copy() };
  world.open(source);
  await atRest(world);
  await world.settle(world.write(8, 8));
  await atRest(world);
  await stop();
  const original = source.changeDisks(copy);
  world.lineDownUntil = world.scheduler.now + 500;
  source.stray = true;
  world.open(source);
  await world.until(() => source.group?.serving === true, 1000, 'the copy does not serve');
  const [volume] = source.group!.volumes.values();
  for (let unit = 16; unit < 64; unit += 8) {
    const payload = [world.history.payload(4096)];
    volume!.write(1, unit * 512, 4096, payload, false, { settle: (error) => error && world.fail(error) });
  }
  const has = target.journal.peer.appended;
  await world.until(() => source.journal.own.appended > has, 1000, 'the copy does not write');
  const sites = [source, target];
  await world.until(() => sites.every(({ pair }) => pair!.refusal !== null), 1000, 'the copy is not refused');
  for (const site of sites)
    expect(site.pair!.refusal).toMatch(/the state of alpha is a clone or was restored: beta has met a newer one/);
  expect(target.journal.peer.appended).toBe(has);
  world.crash(source, true);
  source.changeDisks(original);
  source.stray = false;
  world.open(source);
  await atRest(world);
});

test('a target that was emptied is not taken for a copy of what it was', async () => {
  // The source wrote down whom it had taken in while that went on to be filled, and lost power before it had: when it
  // was back it remembered the target of before, which had been opened often, and refused the new one as a copy of that.
  for (let seed = 1; seed <= 20; seed += 1) {
    const world = makeWorld({ syncMs: 20 }, seed);
    await bothUp(world);
    const { source, target } = world;
    for (let turn = 0; turn < 5; turn += 1) {
      world.crash(target, true);
      world.open(target);
      await atRest(world);
    }
    world.crash(target, true);
    target.newDisks();
    world.checks.targetEmptied();
    world.open(target);
    await world.until(() => (world.counts.adopted ?? 0) === 2, 3000, 'it is not taken in');
    await world.pass(2 * seed);
    world.crash(source, true);
    world.crash(target, true);
    for (const site of [source, target]) world.open(site);
    await atRest(world);
  }
});

test('a first copy of a source that has written nothing itself is copied on', async () => {
  // The standby took over and was not written to; the former primary's machine came back empty, got a first copy, and
  // took over in turn. Its image had come before the first record of any stream, which was not to be told from an empty
  // one: the next standby was given the stream alone, and showed zeroes where there was data, in sync.
  const world = makeWorld();
  await bothUp(world);
  for (let unit = 0; unit < 80; unit += 8) await world.settle(world.write(unit, 8));
  await atRest(world);
  for (const name of ['beta', 'alpha']) {
    world.operator.failOver();
    await world.until(() => world.source.name === name && world.settled(), 5000, 'the standby does not take over');
    await atRest(world);
  }
});

test('a stop gives up nothing that the peer needs', async () => {
  // A source was stopped while its journal was full of what the peer had not taken yet. By then the peer was not linked any
  // more, so what it needed was given up: it had to be copied anew.
  const world = makeWorld({ journalSegments: 9, ringSegments: 16 });
  await bothUp(world);
  const { journal, cleaner } = world.source.group!;
  world.line.rate = 20;
  for (let unit = 0; unit < 256; unit += 2) world.write(unit, 64).catch(() => {});
  const { room, segmentSize, segments } = journal;
  await world.until(() => segments.used > room.limit - 3 * segmentSize, 5000, 'the journal is not full');
  const { trimmed } = world.source.group!.sender!.source;
  expect(trimmed).toBeLessThan(journal.own.appended);
  await world.settle(world.stop(world.source));
  await world.until(() => world.source.state === 'off', 1000, 'it does not stop');
  expect(cleaner.counters.retentionGivenUp).toBe(0);
});

test('a point that a site pinned for its peer is let go with the link', async () => {
  // The link went in the middle of a verify. The standby kept what it had pinned for it until the next one, which might
  // never come: nothing of that was freed, and hosts waited for a journal that stayed full.
  const world = makeWorld();
  await bothUp(world);
  await world.settle(world.write(0, 8));
  const sequence = world.source.group!.appendFlush(FLAG_POINT);
  const { group } = world.target;
  const view = () => group!.views.atPoint(group!.journal.peer.site, sequence, 1);
  await world.until(() => view() !== null, 3000, 'the point does not arrive');
  world.line.cut();
  await world.until(() => !group!.mirror.linked, 3000, 'the link does not go down');
  expect(view()).toBeNull();
});

test('a scope of the former primary that was open when the standby took over can still be ended', async () => {
  // The standby took over while a scope was open. Its checkpoints as a primary knew nothing of that; when it was standby
  // again, the UNLOCK with which the other one had begun its life broke the protocol, at every attempt to connect.
  const world = makeWorld();
  await bothUp(world);
  const [volume] = world.source.group!.volumes.values();
  const scope = await world.settle(openScope(volume!, { offset: 0, size: 4096 }));
  await world.settle(scope.write(0, world.history.payload(4096)));
  const { appended } = world.source.journal.own;
  await world.until(() => world.target.journal.peer.durable === appended, 1000, 'the target does not have it');
  for (const name of ['beta', 'alpha']) {
    world.operator.failOver('comes back');
    const follows = (): boolean => {
      world.operator.look();
      return world.source.name === name && world.settled();
    };
    await world.until(follows, 5000, 'the standby does not take over');
    await world.settle(world.stop(world.source));
    await world.until(() => world.source.state === 'off', 1000, 'it does not stop');
    world.open(world.source);
    await atRest(world);
  }
});

test('who is killed again and again does not replay more each time', async () => {
  // A checkpoint was due when a life had written enough, and a life that ended before it left that to the next one, which
  // counted from its own beginning: a kill and the start after it took 1.3 s at first, and 4 s after 60 of them. Both sites.
  const world = makeWorld({ journalSegments: 100 }); // so many that none has to be freed
  await bothUp(world);
  for (let life = 0; life < 6; life += 1) {
    const { stretch } = world.source.group!.checkpointer;
    const { head } = world.source.journal;
    for (let unit = 0; world.source.journal.head - head < stretch / 3; unit = (unit + 8) % 64) {
      world.write(unit, 8).catch((error) => world.fail(error));
      await world.pass(0.5);
    }
    await world.until(() => world.settled(), 3000, 'the sites do not come to rest');
    for (const site of [world.source, world.target]) {
      site.crash(false);
      site.open();
    }
    await world.until(() => world.settled(), 3000, 'the sites do not find together again');
  }
  for (const { group, name } of [world.source, world.target]) {
    const { position, stretch } = group!.checkpointer;
    expect(group!.journal.head, name).toBeGreaterThan(2 * stretch);
    expect(group!.journal.head - position, name).toBeLessThan(1.5 * stretch);
  }
  await atRest(world);
});

test('a stop waits for what a checkpoint writes on a disk that has failed', async () => {
  // It closed the map's file under it, and an assertion ended the process (seed 41989).
  const world = makeWorld();
  await bothUp(world);
  const { source } = world;
  const { checkpointer } = source.group!;
  const { store } = source;
  const open = store.open.bind(store);
  let isHeld = false;
  store.open = (name, create) => {
    const file = open(name, create);
    if (!name.startsWith('map-')) return file;
    const sync = file.sync.bind(file);
    file.sync = (done) => {
      isHeld = true;
      world.after(200, () => sync(done));
    };
    return file;
  };
  await world.settle(world.write(0, 8));
  checkpointer.request();
  await world.until(() => isHeld, 1000, 'no checkpoint is written');
  store.fail('sync', 'EIO', 1, /^segment/);
  world.write(0, 8).catch(() => {});
  source.journal.sync();
  await world.until(() => source.journal.failed !== null, 1000, 'the disk does not fail');
  await world.settle(world.stop(source));
  await world.until(() => source.state === 'off', 1000, 'it does not stop');
});

test('a disk that is smaller than the journal may be is written round and round', async () => {
  // It filled up with what nothing referred to any more. Then no checkpoint could be written that would have freed it, and
  // who was killed waited for its lost tail to become durable, for ever.
  const world = makeWorld({ journalSegments: 1000 });
  await bothUp(world);
  const { source, target } = world;
  for (const { store } of [source, target]) store.capacity = store.used + 20 * world.options.segmentSize;
  await world.pass(100); // it is looked at now and then
  for (let i = 0; i < 300; i += 1) await world.settle(world.write((i % 8) * 64, 64));
  for (const { journal, store } of [source, target]) expect(journal.head).toBeGreaterThan(3 * store.capacity);
  world.crash(source, true);
  world.open(source);
  await atRest(world);
});
