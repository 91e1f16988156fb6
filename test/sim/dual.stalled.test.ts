/** A peer that holds its link, and does not get on: hosts are not kept waiting for it without an end. */
import { expect, test, vi } from 'vitest';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  ...(await import('./small-limits.js')).SMALL_LIMITS,
}));

import { LOCK_WAIT_MS_MAX, PEER_STALL_MS, SHUN_MS_MIN } from '../../src/limits.js';
import { holdLock } from '../../src/volume/scope.js';
import type { DualSite } from './dual-site.js';
import { startBoth } from './dual-start.js';
import type { DualWorld } from './dual-world.js';

interface Answer {
  /** null: success; undefined while the host waits. */
  code: string | null | undefined;
}

function flushedWrite(world: DualWorld, site: DualSite): Answer {
  const [volume] = site.group!.volumes.values();
  const { blockSize } = volume!;
  const answer: Answer = { code: undefined };
  volume!.write(1, 0, blockSize, [world.truth.history.payload(blockSize)], true, {
    settle: (error) => {
      answer.code = error?.code ?? null;
    },
  });
  return answer;
}

async function restart(world: DualWorld, site: DualSite): Promise<void> {
  site.crash(true);
  site.open();
  await world.until(() => world.settled(), 30_000, 'the sites do not find together');
  await world.checks.compareAll();
}

const pass = async (world: DualWorld, ms: number): Promise<void> => {
  const { now } = world.scheduler;
  await world.until(() => world.scheduler.now > now + ms, 2 * ms, 'no time passes');
};

/**
 * It said HELLO, held its link, answered pings, and said nothing more. The preferred site stayed frozen for as long as that:
 * while there is a link nobody goes on alone. Now it refuses links until it has gone on.
 */
test('a peer that says HELLO and nothing more does not keep the preferred site frozen', async () => {
  const world = await startBoth({ whenSplit: 'prefer:alpha' });
  const [alpha, beta] = world.sites;
  const onLink = beta.pair!.onLink.bind(beta.pair);
  beta.pair!.onLink = (link) => {
    link.onMessage = () => {};
  };
  world.line.cut();
  await world.until(() => alpha.pair!.state === 'handshaking', 5000, 'they do not meet again');
  const answer = flushedWrite(world, alpha);
  await world.until(() => answer.code !== undefined, 3 * PEER_STALL_MS, 'it is not answered');
  expect([answer.code, alpha.group!.alone]).toEqual([null, true]);
  beta.pair!.onLink = onLink;
  await restart(world, beta);
});

/** Its disk hung, say: it had streamed, and took nothing more. A flush at the preferred site was never answered. */
test('a peer that takes nothing more does not keep hosts of the preferred site waiting', async () => {
  const world = await startBoth({ whenSplit: 'prefer:alpha' });
  const [alpha, beta] = world.sites;
  beta.group!.receiver!.onMessage = () => true;
  let told = '';
  alpha.group!.tell = (text) => {
    told ||= text;
  };
  const waits = async (): Promise<number> => {
    const { now } = world.scheduler;
    const answer = flushedWrite(world, alpha);
    await world.until(() => answer.code !== undefined, 30_000, 'it is not answered');
    expect([answer.code, alpha.group!.alone]).toEqual([null, true]);
    return world.scheduler.now - now;
  };
  await waits();
  expect(told).toMatch(/hosts wait, and the peer takes and confirms nothing.*alpha refuses another for 2 s/);
  const refusedAt = world.scheduler.now;
  expect(alpha.pair!.counters.stalls).toBe(1);
  // it is tried again, and then for longer not
  await world.until(() => beta.pair!.state === 'streaming', 10_000, 'it is not met again');
  expect(world.scheduler.now - refusedAt).toBeLessThan(SHUN_MS_MIN + 1000);
  await waits();
  const again = world.scheduler.now;
  await world.until(() => beta.pair!.state === 'streaming', 10_000, 'it is not met again');
  expect(world.scheduler.now - again).toBeGreaterThan(SHUN_MS_MIN);
  expect([alpha.pair!.counters.stalls, alpha.pair!.counters.shunned > 0]).toEqual([2, true]);
  await restart(world, beta);
});

/** What it had taken was all on its disk, and it made no room for more. */
test('a peer that promises no more room does not keep hosts of the preferred site waiting', async () => {
  const world = await startBoth({ whenSplit: 'prefer:alpha' });
  const [alpha, beta] = world.sites;
  Object.defineProperty(beta.journal.room, 'forPeer', { get: () => 0 });
  const answers: Answer[] = [];
  for (let i = 0; i < 100; i += 1) answers.push(flushedWrite(world, alpha));
  await world.until(() => alpha.pair!.counters.stalls === 1, 3 * PEER_STALL_MS, 'the link is not closed');
  await world.until(() => answers.every(({ code }) => code === null), 5000, 'they are not answered');
  expect(alpha.group!.alone).toBe(true);
  await restart(world, beta);
});

test('freeze: the link is closed and comes back, and nobody refuses anybody', async () => {
  const world = await startBoth();
  const [alpha, beta] = world.sites;
  const { receiver } = beta.group!;
  const onMessage = receiver!.onMessage.bind(receiver);
  receiver!.onMessage = () => true;
  const answer = flushedWrite(world, alpha);
  await world.until(() => alpha.pair!.counters.stalls === 1, 3 * PEER_STALL_MS, 'the link is not closed');
  expect(answer.code).toBeUndefined();
  receiver!.onMessage = onMessage;
  await world.until(() => world.settled() && answer.code === null, 5000, 'the sites do not find together');
  expect([alpha.pair!.counters.shunned, beta.pair!.counters.shunned]).toEqual([0, 0]);
});

test('who has no room for more before it gets a lock is waited for until that lock’s lease ends', async () => {
  const world = await startBoth({ whenSplit: 'prefer:alpha', journalSegments: 9 });
  const [alpha, beta] = world.sites;
  const [volume] = beta.group!.volumes.values();
  alpha.journal.room.limit *= 4;
  await holdLock(volume!, 'read', { offset: 0, size: volume!.blockSize }, 100);
  const answers: Answer[] = [];
  for (let i = 0; i < 600; i += 1) answers.push(flushedWrite(world, alpha));
  await world.until(() => alpha.group!.sender!.source.rejected > 0, 1000, 'nothing waits for the lock');
  await pass(world, 500);
  expect([alpha.group!.roomIsWaitedFor, alpha.journal.wantsRoomAtPeer]).toEqual([true, true]);
  await world.until(() => answers.every(({ code }) => code !== undefined), LOCK_WAIT_MS_MAX + 5000, 'they wait on');
  expect([answers.every(({ code }) => code === null), alpha.pair!.counters.stalls]).toEqual([true, 0]);
});

test('who gets on slowly, or waits for a lock or its own disk, is not taken for that', async () => {
  const world = await startBoth({ whenSplit: 'prefer:alpha', ack: 'applied' });
  const [alpha, beta] = world.sites;
  // a slow disk
  beta.slowSyncMs = PEER_STALL_MS - 500;
  const slow = flushedWrite(world, alpha);
  await world.until(() => slow.code !== undefined, 3 * PEER_STALL_MS, 'it is not answered');
  beta.slowSyncMs = 0;
  // a lock, to the end of its lease
  const [volume] = beta.group!.volumes.values();
  await holdLock(volume!, 'read', { offset: 0, size: volume!.blockSize }, 100);
  const locked = flushedWrite(world, alpha);
  await world.until(() => locked.code !== undefined, LOCK_WAIT_MS_MAX + 3000, 'it is not answered');
  // this site's own disk
  alpha.slowSyncMs = 4 * PEER_STALL_MS;
  const own = flushedWrite(world, alpha);
  await world.until(() => own.code !== undefined, 6 * PEER_STALL_MS, 'it is not answered');
  alpha.slowSyncMs = 0;
  // nobody at all
  beta.group!.receiver!.onMessage = () => true;
  await pass(world, 3 * PEER_STALL_MS);
  expect([slow.code, locked.code, own.code, alpha.pair!.counters.stalls]).toEqual([null, null, null, 0]);
});
