/** Stories of the target's end: what it says of its disk, and what it does about damage to it. */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  SEGMENT_SIZE_MIN: 128 * 1024,
}));

import { AT_LBA, HEADER_SIZE, TYPE_LOCK, TYPE_UNLOCK, TYPE_WRITE, TYPE_ZERO } from '../../assembly/layout.js';
import { RecordHeader } from '../../src/journal/record.js';
import { segmentName } from '../../src/journal/segments.js';
import { checked, KIND_DATA } from '../../src/mirror/wire.js';
import { holdLock } from '../../src/volume/scope.js';
import { GroupWorld, type GroupWorldOptions, QUIET } from './group-world.js';
import { seededRandom } from './memory-store.js';

const hash = await xxhash();

async function bothUp(options: Partial<GroupWorldOptions> = {}): Promise<GroupWorld> {
  const world = new GroupWorld({ ...QUIET, ...options }, seededRandom(1), hash);
  world.open(world.source);
  world.open(world.target);
  await world.until(() => world.settled(), 3000, 'the sites do not find together');
  return world;
}

test('a FLUSH is durable at the peer at once, not with the next second’s sync', async () => {
  // Nothing was lost, but a host waited: the target asked for its sync while the FLUSH was not yet before the journal's
  // head. When all before it was on the disk already, nothing was synced, and with `ack: received` the host's flush was
  // answered up to a second late.
  const world = await bothUp({ ack: 'received' });
  for (let round = 0; round < 5; round += 1) {
    await world.settle(world.write(8 * round, 8));
    await world.until(() => world.settled(), 3000, 'the write does not become durable');
    const asked = world.scheduler.now;
    await world.settle(world.flush());
    expect(world.source.group!.mirror.peerDurable).toBe(world.records);
    expect(world.scheduler.now - asked).toBeLessThan(40);
  }
});

/** A target whose commit log waits for a lock, and begins outside the ring. `writes` are where its first records stand. */
async function longCommitLog(world: GroupWorld) {
  const { target } = world;
  const { journal } = target;
  const volume = [...target.group!.volumes.values()][0]!;
  const lock = await world.settle(holdLock(volume, 'write', { offset: 0, size: volume.size }, 1000));
  const from = journal.head;
  while (journal.inRing(from) || journal.head < from + journal.ringSize) await world.settle(world.write(0, 64));
  await world.until(() => world.source.group!.mirror.peerDurable === world.records, 3000, 'it does not arrive');
  const writes: { position: number; name: string; at: number; size: number }[] = [];
  const header = new RecordHeader();
  for (let position = from; writes.length < 2; position += header.size) {
    const name = segmentName(journal.segments.numberOf(position));
    const at = position % journal.segmentSize;
    header.read(new DataView(target.store.load(name)!.slice().buffer), at);
    if (header.type === TYPE_WRITE) writes.push({ position, name, at, size: header.size });
  }
  expect(journal.inRing(writes[1]!.position)).toBe(false);
  const release = (): void => {
    volume.locks.release(lock);
    target.group!.locksMoved();
  };
  return { journal, writes, release, applied: journal.peerApplied };
}

test('a commit log that rots on the disk is applied up to there, and no further', async () => {
  // Records that had left the ring were applied by what their headers said, checked or not: with a flipped bit the write
  // went to another block of the standby's volume, and nothing ever told.
  const world = await bothUp();
  const { journal, writes, release, applied } = await longCommitLog(world);
  const { position, name, at } = writes[1]!;
  world.target.store.rot(name, at + AT_LBA, 1);
  release();
  await world.pass(500);
  const receiver = world.target.group!.receiver!;
  expect(journal.peerApplied).toBe(applied + 1);
  expect(receiver.damage).toMatchObject({ code: 'STATE_CORRUPT' });
  expect(receiver.damage!.message).toContain(`position ${position} (${name} at offset ${at})`);
  // it says so to whoever comes, and does not go on by itself
  await world.until(() => world.target.pair!.refusal !== null, 3000, 'the source is not refused');
  expect(world.target.pair!.refusal).toBe(receiver.damage!.message);
  expect(world.source.group!.mirror.connected).toBe(false);
  await world.pass(2000);
  expect(journal.peerApplied).toBe(applied + 1);
  expect(receiver.counters.damaged).toBe(1);
});

test('a whole record in the place of another is not applied', async () => {
  // A disk that put a write in the wrong place: the record checks, but the one that was received there is lost.
  const world = await bothUp();
  const { journal, writes, release, applied } = await longCommitLog(world);
  const [lost, other] = [writes[0]!, writes[1]!];
  const bytes = world.target.store.load(lost.name)!.slice();
  for (let i = 0; i < lost.size; i += 1) {
    const bits = bytes[lost.at + i]! ^ bytes[other.at + i]!;
    if (bits !== 0) world.target.store.rot(lost.name, lost.at + i, bits);
  }
  release();
  await world.pass(500);
  expect(journal.peerApplied).toBe(applied);
  expect(world.target.group!.receiver!.damage!.message).toContain(`sequence ${applied + 2} is there`);
});

test('a round does not copy a rotten block into a flat image', async () => {
  const world = await bothUp({ volumes: [{ blocks: 64, blockSize: 4096, platter: 'flat' }] });
  const { journal, group } = world.source;
  const volume = [...group!.volumes.values()][0]!;
  await world.settle(world.write(0, 8));
  expect(volume.map.lookup(0)).toBe(true);
  const { position } = volume.map;
  while (journal.inRing(position)) await world.settle(world.write(8, 64));
  await world.until(() => world.settled(), 3000, 'not at rest');
  world.source.store.rot(
    segmentName(journal.segments.numberOf(position)),
    (position % journal.segmentSize) + HEADER_SIZE + 8,
    1,
  );
  const { writeback } = group!;
  await world.settle(world.source.stop());
  expect(writeback.damage(volume.number)).toMatch(/checksum/);
  expect(writeback.illness(volume.number)).toBeNull();
  expect(world.source.images.load('image-0')!.slice(0, 4096)).toEqual(new Uint8Array(4096));
});

test('a record of what the standby does not have is not kept: it could be neither applied nor replayed', async () => {
  // It was in the journal by the time it was refused, and no start got past it.
  const world = await bothUp();
  const { target } = world;
  const [volume] = target.journal.volumes.values();
  const { appended } = target.journal.peer;
  const wrong: { volume: number; blockShift: number }[] = [
    { volume: 77, blockShift: volume!.blockShift },
    { volume: volume!.number, blockShift: volume!.blockShift - 1 },
  ];
  const told = vi.spyOn(world, 'fail').mockImplementation(() => {}); // of links that end so
  for (const each of wrong) {
    target.journal.volumes.clear();
    target.journal.volumes.set(each.volume, { ...volume!, ...each });
    const { protocolErrors } = target.group!.receiver!.counters;
    world.write(0, 8).catch(() => {});
    await world.until(() => target.group!.receiver!.counters.protocolErrors > protocolErrors, 3000, 'it is taken');
    expect(target.journal.peer.appended).toBe(appended);
  }
  expect(told.mock.calls.every(([error]) => /the link was closed: record 1 /.test(String(error)))).toBe(true);
  target.crash(false);
  await world.pass(100);
  told.mockRestore();
  target.open();
  await world.until(() => world.settled(), 20_000, 'the sites do not come to rest');
  await world.compareAll();
});

test.each([
  ['fewer', -1],
  ['more', 1],
])('a DATA that announces %s records than it brings ends the link, and not the process', async (_, more) => {
  // All of them were kept, and the count was taken for what had come: an assertion ended the standby.
  const world = await bothUp();
  const { target } = world;
  const told = vi.spyOn(world, 'fail').mockImplementation(() => {}); // of the link that ends
  const link = target.pair!.link!;
  const deliver = link.onMessage!;
  let isChanged = false;
  link.onMessage = (header, stretch) => {
    const changed = header.slice();
    const count = new DataView(changed.buffer).getUint32(12, true);
    if (stretch !== null && changed[0] === KIND_DATA && count > 1 && !isChanged) {
      new DataView(changed.buffer).setUint32(12, count + more, true);
      checked(changed);
      isChanged = true;
    }
    deliver(changed, stretch);
  };
  for (let round = 0; round < 40 && !isChanged; round += 1) {
    for (const unit of [0, 64, 128]) world.write(unit, 8).catch(world.fail);
    await world.pass(50);
  }
  expect(isChanged).toBe(true);
  await world.pass(500);
  told.mockRestore();
  await world.until(() => world.settled(), 20_000, 'the sites do not come to rest');
  await world.compareAll();
});

test.each([
  ['a LOCK over a scope that is open', TYPE_LOCK, 3, 1, 0],
  ['a record outside of its scope', TYPE_ZERO, 8, 1, 1],
  ['the end of a scope that is not open', TYPE_UNLOCK, 0, 0, 0],
])('%s is refused, and no start applies it', async (_, type, lba, blockCount, within) => {
  // It was in the journal by the time it was refused, and a start applies whatever stands there: the site went on from a
  // record that it had refused, or, with the LOCK, could not be started any more.
  const world = await bothUp();
  const { source, target } = world;
  await world.settle(world.write(64, 8));
  await world.until(() => world.settled(), 3000, 'not at rest');
  const [volume] = target.journal.volumes.values();
  expect(volume!.map.lookup(8)).toBe(true);
  const { journal } = source;
  const told = vi.spyOn(world, 'fail').mockImplementation(() => {}); // of links that end so
  const append = (type: number, lba: number, blockCount: number, scope: number): number => {
    expect(journal.reserve(type, 0, 1, lba, blockCount, 0, 1, scope, 0)).toBeGreaterThanOrEqual(0);
    return journal.publish();
  };
  const lock = append(TYPE_LOCK, 0, 4, 0);
  append(type, lba, blockCount, within * lock);
  append(TYPE_LOCK, 5, 1, 0);
  journal.sync();
  await world.pass(1000);
  expect(told.mock.calls.length).toBeGreaterThan(0);
  expect([target.journal.peer.appended, target.journal.peerApplied]).toEqual([lock, lock]);
  source.held = true;
  world.crash(source, true);
  world.crash(target, false);
  told.mockRestore();
  world.open(target);
  await world.until(() => target.state === 'up', 1000, 'it does not open');
  expect([target.journal.peer.appended, target.journal.peerApplied]).toEqual([lock, lock]);
  expect(target.group!.receiver!.target.openScopes()).toMatchObject([{ sequence: lock }]);
  expect([...target.journal.volumes.values()][0]!.map.lookup(8)).toBe(true);
});
