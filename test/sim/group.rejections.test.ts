/** Stories of locks that are held at the target: what each --on-reject does, and what must not be lost by it. */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  SEGMENT_SIZE_MIN: 128 * 1024,
  DROP_BYTES_MAX: 64 * 1024,
}));

import { CLOSE_PROTOCOL } from '../../src/link/link.js';
import { REJECT_POLICIES } from '../../src/mirror/wire.js';
import { holdLock, openScope } from '../../src/volume/scope.js';
import { GroupWorld, type GroupWorldOptions, QUIET } from './group-world.js';
import { seededRandom } from './memory-store.js';
import type { SimLink } from './sim-link.js';

const hash = await xxhash();

async function bothUp(options: Partial<GroupWorldOptions>, seed = 1): Promise<GroupWorld> {
  const world = new GroupWorld({ ...QUIET, ...options }, seededRandom(seed), hash);
  world.open(world.source);
  world.open(world.target);
  await world.until(() => world.settled(), 3000, 'the sites do not find together');
  return world;
}

async function atRest(world: GroupWorld): Promise<void> {
  await world.until(() => world.settled(), 20_000, 'the sites do not come to rest');
  await world.compareAll();
}

/** Somebody at the target locks eight blocks. @returns what lets go of them */
async function holdThere(world: GroupWorld, lba = 0): Promise<() => void> {
  const group = world.target.group!;
  const [volume] = [...group.volumes.values()];
  const lock = await world.settle(
    holdLock(volume!, 'write', { offset: lba * volume!.blockSize, size: 8 * volume!.blockSize }, 1000),
  );
  return () => {
    volume!.locks.release(lock);
    group.locksMoved();
  };
}

for (const onReject of REJECT_POLICIES) {
  test(`${onReject}: whoever dies while a record waits, nothing is lost, and the mirror goes on`, async () => {
    for (const who of ['nobody', 'source', 'target', 'both', 'line'] as const) {
      for (const speculation of ['on', 'off'] as const) {
        const world = await bothUp({ onReject, speculation, syncMs: 20 });
        await world.settle(world.write(64, 8));
        const letGo = await holdThere(world);
        const [here] = [...world.source.group!.volumes.values()];
        const scope = await world.settle(openScope(here!, { offset: 0, size: 4096 }));
        scope.write(0, new Uint8Array(4096).fill(3)).catch(() => {}); // in lock-step not answered before the release
        for (let unit = 96; unit < 160; unit += 8) world.write(unit, 8).catch(() => {});
        const { source } = world.source.group!.sender!;
        await world.until(() => source.rejected > 0, 3000, 'nothing is rejected');
        const stopped = { 'target-retry': null, halt: 'halted', retransmit: 'rewound' }[onReject];
        expect(source.stopped).toBe(stopped);
        await world.pass(50);
        if (who === 'source' || who === 'both') world.crash(world.source, true);
        if (who === 'target' || who === 'both') world.crash(world.target, true);
        if (who === 'line') world.line.cut();
        if (who === 'nobody') await world.settle(Promise.all([scope.unlock().catch(() => {}), world.pass(200)]));
        if (who === 'source' || who === 'both') world.open(world.source);
        if (who === 'target' || who === 'both') world.open(world.target);
        await world.pass(300);
        if (who !== 'target' && who !== 'both') letGo();
        if (who === 'line') await world.settle(scope.unlock().catch(() => {}));
        if (who === 'target') await world.settle(scope.unlock().catch(() => {}));
        await world.until(() => world.source.group?.serving === true, 20_000, 'it does not serve');
        await world.settle(world.write(0, 8));
        await atRest(world);
      }
    }
  });
}

test('retransmit: sequences of a dropped stretch are not used again before that is durable at the target', async () => {
  // The target dropped what waited for its lock, and said where its stream ends now. The source crashed, had lost just
  // that stretch, and wrote other records under its sequences. Then the target's power went before the TRUNCATED was on
  // the disk: the first records were back, and the others were never asked for.
  let shorter = 0;
  for (let seed = 1; seed <= 30; seed += 1) {
    const world = await bothUp({ onReject: 'retransmit' }, seed);
    await world.settle(world.write(64, 8));
    await world.until(() => world.settled(), 3000, 'not at rest');
    const letGo = await holdThere(world);
    world.source.slowSyncMs = 500;
    world.target.slowSyncMs = 500;
    for (let unit = 0; unit < 48; unit += 8) await world.settle(world.write(unit, 8));
    const { counters } = world.target.group!.receiver!;
    await world.until(() => counters.rewinds > 0, 3000, 'nothing is dropped');
    world.crash(world.source, true);
    world.source.slowSyncMs = 0;
    world.open(world.source);
    await world.until(() => world.source.state === 'up', 3000, 'it does not open');
    if (world.source.journal.own.appended < world.target.journal.peer.appended + counters.recordsDropped) shorter += 1;
    await world.pass(20 + seed * 5);
    if (world.source.group?.serving)
      for (let unit = 96; unit < 160; unit += 8) await world.settle(world.write(unit, 8));
    letGo();
    await world.pass(20);
    world.crash(world.target, true);
    world.target.slowSyncMs = 0;
    world.open(world.target);
    await atRest(world);
  }
  expect(shorter).toBeGreaterThan(5);
});

test('a policy that changes while records wait: what was told stays, and no more is dropped than recovery looks back', async () => {
  // Under target-retry a flush was answered by what waited in the target's commit log. Then the source was started again
  // with retransmit. Dropped, these records would have been nowhere but at the source; and a TRUNCATED behind all that
  // had come meanwhile would have told recovery too late.
  const world = await bothUp({ onReject: 'target-retry', ack: 'received' });
  const letGo = await holdThere(world);
  const letGoBehind = await holdThere(world, 32);
  await world.settle(world.write(0, 8));
  await world.settle(world.flush());
  const told = world.records;
  await world.settle(world.stop(world.source));
  await world.until(() => world.source.state === 'off', 100, 'it does not stop');
  world.options.onReject = 'retransmit';
  world.open(world.source);
  await world.until(() => world.source.group?.mirror.linked === true, 3000, 'they do not meet');
  const { receiver } = world.target.group!;
  world.write(32 * 8, 8).catch(() => {}); // not received before it is granted
  const behind = told + 1;
  for (let i = 0; i < 40; i += 1) world.write(8 * 8, 8).catch(() => {});
  await world.until(() => receiver!.target.received > told + 40, 3000, 'it does not arrive');
  const { sender } = world.source.group!;
  expect(receiver!.target).toMatchObject({ onReject: 'retransmit', rejected: told - 1, rewound: false });
  expect(sender!.source.stopped).toBeNull();
  letGo();
  await world.until(() => receiver!.target.applied >= told, 3000, 'what was let go is not applied');
  await world.until(() => receiver!.target.rejected === behind, 3000, 'the next one is not rejected');
  expect(receiver!.counters).toMatchObject({ rewinds: 0, recordsDropped: 0 });
  letGoBehind();
  await atRest(world);
});

test('retransmit: a target whose disk fails before it has noted what it dropped says so', async () => {
  // It can never be READY, and was silent: the source waited for it, and after a crash served nobody for as long.
  const world = await bothUp({ onReject: 'retransmit' });
  const { target } = world;
  await world.until(() => world.settled(), 3000, 'not at rest');
  await holdThere(world);
  target.slowSyncMs = 500;
  for (let unit = 0; unit < 48; unit += 8) await world.settle(world.write(unit, 8));
  await world.until(() => target.group!.receiver!.counters.rewinds > 0, 3000, 'nothing is dropped');
  target.store.fail('sync', 'EIO', 100);
  world.line.cut();
  await world.until(() => target.journal.failed !== null, 5000, 'the disk does not fail');
  await world.until(() => target.pair!.link !== null, 5000, 'they do not meet');
  const link = target.pair!.link as SimLink;
  await world.until(() => link.closedWith !== null || link.ended, 5000, 'it says nothing');
  expect(link.closedWith).toMatchObject({ code: CLOSE_PROTOCOL, reason: /cannot write its state: .*EIO/ });
});
