/** Who goes on alone: what `--when-split` says counts once both have agreed on it. Each test opens with how data was lost. */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  ...(await import('./small-limits.js')).SMALL_LIMITS,
}));

import { ForelockError } from '../../src/errors.js';
import { FREEZE_HOLD_MS, SPLIT_WAIT_MS } from '../../src/limits.js';
import { holdLock } from '../../src/volume/scope.js';
import { DUAL_QUIET } from './dual-draw.js';
import type { DualSite } from './dual-site.js';
import { startBoth } from './dual-start.js';
import { DualWorld } from './dual-world.js';
import { seededRandom } from './memory-store.js';

const hash = await xxhash();

/** Writes a block. @returns what the host was answered: null for success, undefined while it waits */
function write(world: DualWorld, site: DualSite, block: number): { code: string | null | undefined } {
  const [volume] = site.group!.volumes.values();
  const { blockSize } = volume!;
  const answer: { code: string | null | undefined } = { code: undefined };
  volume!.write(1, block * blockSize, blockSize, [world.truth.history.payload(blockSize)], false, {
    settle: (error) => {
      answer.code = error?.code ?? null;
    },
  });
  return answer;
}

async function stop(world: DualWorld, ...sites: DualSite[]): Promise<void> {
  for (const site of sites) void site.stop();
  await world.until(() => sites.every(({ state }) => state === 'off'), 5000, 'a site does not stop');
}

async function start(world: DualWorld, whenSplit: string, ...sites: DualSite[]): Promise<void> {
  world.options.whenSplit = whenSplit;
  for (const site of sites) site.open();
  await world.until(() => sites.every(({ state }) => state === 'up'), 5000, 'a site does not open');
}

/** For longer than anybody waits before it goes on alone. */
async function wait(world: DualWorld): Promise<void> {
  const { now } = world.scheduler;
  await world.until(() => world.scheduler.now > now + 2 * SPLIT_WAIT_MS, 10 * SPLIT_WAIT_MS, 'no time passes');
}

async function cut(world: DualWorld): Promise<void> {
  world.line.downUntil = Number.POSITIVE_INFINITY;
  world.line.cut();
  await world.until(() => world.sites.every(({ group }) => group!.frozen), 5000, 'they do not freeze');
}

const goesOnAlone = async (world: DualWorld, site: DualSite, block: number): Promise<void> => {
  const answer = write(world, site, block);
  await world.until(() => site.group!.alone && answer.code === null, 5000, 'it does not go on alone');
};

/**
 * The one who was preferred was changed, in the natural way: one site was stopped and started with the new value. The two
 * refused each other, as they should, and 16 seconds later each was alone by its own configuration: hosts of both were
 * answered, with different data.
 */
test('a site that is told that it is preferred does not go on alone before the other site knows', async () => {
  const world = await startBoth({ whenSplit: 'prefer:beta' });
  const [alpha, beta] = world.sites;
  await stop(world, alpha);
  await start(world, 'prefer:alpha', alpha);
  const answer = write(world, alpha, 0);
  await goesOnAlone(world, beta, 1);
  await wait(world);
  expect(answer.code).toBeUndefined();
  expect([alpha.group!.alone, alpha.pair!.counters.minted]).toEqual([false, 0]);
  expect(alpha.pair!.refusal).toMatch(/beta has --when-split prefer:beta, alpha has --when-split prefer:alpha/);
  expect(alpha.group!.refuseRead()?.message).toMatch(/has not agreed to --when-split prefer:alpha yet/);
  // the way to change it
  await stop(world, beta);
  await start(world, 'prefer:alpha', beta);
  await world.until(() => world.settled(), 20_000, 'the sites do not find together');
  await cut(world);
  await goesOnAlone(world, alpha, 2);
  world.line.downUntil = 0;
  await world.until(() => world.settled(), 20_000, 'the sites do not find together again');
  await world.checks.compareAll();
});

/** What a site has said in HELLO the other one relies on, and goes on alone by it: so there is no way back without it. */
test('a site that was started with another value once has to meet the other before the old one counts again', async () => {
  const world = await startBoth({ whenSplit: 'prefer:beta' });
  const [alpha, beta] = world.sites;
  await stop(world, alpha, beta);
  world.line.downUntil = Number.POSITIVE_INFINITY;
  await start(world, 'prefer:alpha', beta);
  await stop(world, beta);
  await start(world, 'prefer:beta', beta);
  const answer = write(world, beta, 0);
  await wait(world);
  expect([answer.code, beta.group!.alone]).toEqual([undefined, false]);
  world.line.downUntil = 0;
  await start(world, 'prefer:beta', alpha);
  await world.until(() => world.settled(), 20_000, 'the sites do not find together');
  await cut(world);
  await goesOnAlone(world, beta, 1);
});

/**
 * Who was preferred changed while the other site had been alone. When the two met it was agreed on, and the link went again
 * before the site that is preferred now had taken what its peer's hosts had been answered: it would have gone on without.
 */
test('a site that has not caught up with who was alone does not go on alone', async () => {
  const world = await startBoth({ whenSplit: 'prefer:beta' });
  const [alpha, beta] = world.sites;
  await cut(world);
  await goesOnAlone(world, beta, 0);
  await stop(world, alpha, beta);
  await start(world, 'prefer:alpha', alpha, beta);
  const [volume] = alpha.group!.volumes.values();
  const request = await holdLock(volume!, 'write', { offset: 0, size: volume!.blockSize }, 1000);
  world.line.downUntil = 0;
  const { appended } = beta.journal.own;
  await world.until(() => alpha.journal.peer.appended >= appended, 5000, 'the write does not arrive');
  expect(alpha.group!.state.superblock.whenSplit).toBe('prefer:alpha');
  await cut(world);
  const answer = write(world, alpha, 1);
  await wait(world);
  expect([answer.code, alpha.group!.alone]).toEqual([undefined, false]);
  expect(alpha.group!.refuseRead()?.message).toMatch(/alpha has not caught up with what the other answered alone/);
  world.line.downUntil = 0;
  volume!.locks.release(request);
  alpha.group!.locksMoved();
  await world.until(() => world.settled() && answer.code === null, 20_000, 'the sites do not find together');
  await world.checks.compareAll();
});

/**
 * The preferred site could not mint: its disk was full, or what it had of the other's stream was damaged. It took itself for
 * ready all the same, and hosts were held for it without a limit, where a frozen group answers them after 30 seconds.
 */
test.each(['its disk is full', 'its commit log is damaged'])(
  'hosts of a preferred site that cannot go on alone are told: %s',
  async (why) => {
    const world = await startBoth({ whenSplit: 'prefer:alpha' });
    const [alpha] = world.sites;
    const group = alpha.group!;
    if (why === 'its disk is full') {
      alpha.store.capacity = alpha.store.used;
      write(world, alpha, 0);
      await world.until(() => alpha.journal.diskFull, 5000, 'the disk does not fill up');
    } else {
      const damage = new ForelockError('STATE_CORRUPT', why);
      Object.defineProperty(group.receiver, 'damage', { get: () => damage, configurable: true });
    }
    await cut(world);
    await wait(world);
    const answer = write(world, alpha, 1);
    await world.until(() => answer.code !== undefined, FREEZE_HOLD_MS + 1000, 'nobody tells it');
    expect([answer.code, group.alone]).toEqual(['PEER_AWAY', false]);
    expect(group.refuseRead()?.message).toMatch(/site alpha cannot go on alone: (the disk is full|its commit log)/);
    // somebody makes room
    if (why !== 'its disk is full') Reflect.deleteProperty(group.receiver!, 'damage');
    alpha.store.capacity = Number.POSITIVE_INFINITY;
    await world.until(() => !alpha.journal.diskFull, 5000, 'the disk is full still');
    await wait(world);
    await goesOnAlone(world, alpha, 2);
  },
);

test('who never met another site asks nobody, and only:SITE does not either', async () => {
  const world = new DualWorld({ ...DUAL_QUIET, whenSplit: 'prefer:alpha', soloMs: 1 }, seededRandom(1), hash);
  const [alpha, beta] = world.sites;
  await start(world, 'prefer:alpha', alpha);
  await stop(world, alpha);
  alpha.role = 'dual';
  await start(world, 'prefer:alpha', alpha);
  await goesOnAlone(world, alpha, 0);
  beta.open();
  await world.until(() => world.settled(), 20_000, 'the sites do not find together');
  await stop(world, alpha, beta);
  await start(world, 'only:beta', beta);
  await goesOnAlone(world, beta, 1);
  await start(world, 'prefer:alpha', alpha);
  await world.until(() => beta.pair!.refusal !== null, 5000, 'they do not refuse each other');
  expect(beta.pair!.refusal).toMatch(/beta has --when-split only:beta/);
});
