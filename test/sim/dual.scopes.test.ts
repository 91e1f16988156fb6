/** Scopes of hosts where both sites write: how many there may be, what they wait for, and what becomes of those that end. */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

const SCOPES = 16;

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  ...(await import('./small-limits.js')).SMALL_LIMITS,
  SCOPES_MAX: 16,
  DEAD_SCOPES_MAX: 8,
}));

import { TYPE_ABORT } from '../../assembly/layout.js';
import type { ForelockError } from '../../src/errors.js';
import { RING_FULL } from '../../src/journal/journal.js';
import { DEAD_SCOPES_MAX, JOURNAL_SEGMENTS_MIN, SCOPE_AGE_MS_MAX, SEGMENT_SIZE_MIN } from '../../src/limits.js';
import { openScope, type Scope, type ScopeOptions } from '../../src/volume/scope.js';
import { runTransaction, type Transaction } from '../../src/volume/transaction.js';
import { verifyVolume } from '../../src/volume/verify.js';
import type { Volume } from '../../src/volume/volume.js';
import type { DualSite } from './dual-site.js';
import { startBoth } from './dual-start.js';
import type { DualWorld } from './dual-world.js';

const hash = await xxhash();

function volumeOf(site: DualSite): Volume {
  const [volume] = site.group!.volumes.values();
  return volume!;
}

/** Writes from a byte on; @param answers gets null or the error's code */
function write(world: DualWorld, volume: Volume, offset: number, size: number, answers: (string | null)[]): void {
  const settle = (error: ForelockError | null): void => void answers.push(error?.code ?? null);
  volume.write(1, offset, size, [world.truth.history.payload(size)], false, { settle });
}

/** Opens a scope on each of the first `count` blocks, all in one turn. */
function openMany(volume: Volume, count: number, options: ScopeOptions, opened: Scope[], codes: string[]): void {
  const size = volume.blockSize;
  for (let block = 0; block < count; block += 1) {
    openScope(volume, { offset: block * size, size }, options).then(
      (scope) => opened.push(scope),
      (error: ForelockError) => codes.push(error.code),
    );
  }
}

async function readLock(world: DualWorld, volume: Volume, size = volume.blockSize): Promise<Scope> {
  let lock: Scope | null = null;
  openScope(volume, { offset: 0, size }, { mode: 'read' }).then((scope) => {
    lock = scope;
  }, world.fail);
  await world.until(() => lock !== null, 5000, 'the lock is not had');
  return lock!;
}

/** What becomes of a promise of the world's: null, or the error's code. */
async function codeOf(world: DualWorld, promise: Promise<unknown>): Promise<string | null> {
  let code: string | null | undefined;
  promise.then(
    () => {
      code = null;
    },
    (error: ForelockError) => {
      code = error.code;
    },
  );
  await world.until(() => code !== undefined, 2 * SCOPE_AGE_MS_MAX, 'not answered');
  return code!;
}

/** The link goes, and comes back when the second site's journal has another size. */
async function comeWith(world: DualWorld, limit: number): Promise<void> {
  const [first, second] = world.sites;
  world.line.cut();
  await world.until(() => first.group!.frozen, 5000, 'the link does not go down');
  second.journal.room.limit = limit;
  await world.until(() => !first.group!.frozen, 5000, 'the link does not come back');
}

/** The work of a transaction: one write, and what happens then. */
async function writeOnce(
  world: DualWorld,
  transaction: Transaction,
  name: string,
  size: number,
  then: () => Promise<void>,
): Promise<void> {
  await transaction.lock(name, { offset: 0, size });
  transaction.write(name, 0, world.truth.history.payload(size));
  await then();
}

async function atRest(world: DualWorld): Promise<void> {
  await world.until(() => world.settled(), 5000, 'the sites do not come to rest');
  await world.checks.compareAll();
}

/**
 * Many scopes were opened in one turn, and all of them looked before the first had its LOCK in the stream. The other site
 * refused the LOCK that was too many, on every link, for ever; and this one could make no checkpoint any more.
 */
test('scopes that are opened all at once are no more than there may be', async () => {
  const world = await startBoth();
  const [first, second] = world.sites;
  const volume = volumeOf(first);
  const opened: Scope[] = [];
  const codes: string[] = [];
  openMany(volume, 2 * SCOPES, { waitMsMax: 500 }, opened, codes);
  await world.until(() => opened.length + codes.length === 2 * SCOPES, 2000, 'not all scopes are answered');
  expect([opened.length, codes]).toEqual([SCOPES, Array.from({ length: SCOPES }, () => 'ETIMEDOUT')]);
  await world.until(() => second.journal.peerApplied === SCOPES, 1000, 'the LOCKs are not taken');
  const late: Scope[] = [];
  openMany(volume, SCOPES + 1, { waitMsMax: 2000 }, late, codes);
  for (const scope of opened) scope.unlock().catch(world.fail);
  await world.until(() => late.length === SCOPES, 1000, 'the places are not free again');
  late[0]!.unlock().catch(world.fail);
  await world.until(() => late.length === SCOPES + 1, 1000, 'who waits is not told of a free place');
  for (const scope of late) scope.unlock().catch(world.fail);
  await atRest(world);
  void first.stop();
  await world.until(() => first.state === 'off', 5000, 'the site does not stop');
  first.open();
  await world.until(() => world.settled(), 20_000, 'the sites do not find together again');
});

/**
 * The same of a frozen group: a write of a part of a block is a scope, and all that hosts had asked for meanwhile was
 * asked again in the turn in which the link was back.
 */
test('partial writes that a freeze has gathered wait for each other', async () => {
  const world = await startBoth();
  const [first] = world.sites;
  const volume = volumeOf(first);
  world.line.cut();
  await world.until(() => first.group!.frozen, 5000, 'the link does not go down');
  const answers: (string | null)[] = [];
  for (let block = 0; block < 3 * SCOPES; block += 1) write(world, volume, block * volume.blockSize, 512, answers);
  await world.until(() => answers.length === 3 * SCOPES, 20_000, 'not all writes are answered');
  expect(new Set(answers)).toEqual(new Set([null]));
  await atRest(world);
});

/**
 * A scope was admitted and waited for room; meanwhile something of the other site came that it has to wait for. It waited
 * for that at the head of the queue for room: the holder of the scope that the other site waited for could not write, nor
 * any host, until a lease ended.
 */
test('a scope that is admitted no more does not wait in front of all hosts', async () => {
  const world = await startBoth({ delayMax: 5 });
  const [first, second] = world.sites;
  second.skew += 1000; // the later stamp loses: what it writes into block 0 waits for the scope there
  const volume = volumeOf(first);
  const { blockSize } = volume;
  const held: Scope[] = [];
  openMany(volume, 1, {}, held, []);
  await world.until(() => held.length === 1, 1000, 'the scope is not opened');
  let hasRoom = false;
  first.group!.whenRoom(() => hasRoom); // as when what the other site takes is used up
  let opened = false;
  openScope(volume, { offset: 5 * blockSize, size: blockSize }, { onConflict: 'abort' }).then((scope) => {
    opened = true;
    return scope.unlock();
  }, world.fail);
  const theirs: (string | null)[] = [];
  write(world, volumeOf(second), 0, blockSize, theirs);
  write(world, volumeOf(second), 5 * blockSize, blockSize, theirs);
  await world.until(() => first.journal.peer.appended === 2, 1000, 'the writes do not arrive');
  expect([opened, first.journal.peerApplied]).toEqual([false, 0]);
  hasRoom = true;
  first.group!.admissionsMoved();
  const answers: (string | null)[] = [];
  write(world, volume, 30 * blockSize, blockSize, answers);
  await world.until(() => answers.length === 1, 100, 'a write elsewhere waits');
  expect([opened, answers]).toEqual([false, [null]]);
  held[0]!.write(0, world.truth.history.payload(blockSize)).then(() => held[0]!.unlock(), world.fail);
  await world.until(() => opened, 1000, 'the scope is not opened in its turn');
  await atRest(world);
});

/** Opens a scope on the first block that loses to a write of the other site. */
async function loseScope(world: DualWorld): Promise<Scope> {
  const [first, second] = world.sites;
  first.skew += 1000; // the later stamp loses
  const { blockSize: size } = volumeOf(first);
  write(world, volumeOf(second), 0, size, []);
  let lost: Scope | null = null;
  openScope(volumeOf(first), { offset: 0, size }, { onConflict: 'abort' }).then((scope) => {
    lost = scope;
  }, world.fail);
  await world.until(() => lost !== null, 1000, 'the scope is not opened');
  return lost!;
}

/** A host that was told of an abort opened the scope again; then the ABORT was lost in a crash, and both were there. */
test('an abort is told once a crash cannot take it back', async () => {
  const world = await startBoth();
  const [first] = world.sites;
  const { counters, journal } = first.group!;
  first.slowSyncMs = 500;
  const scope = await loseScope(world);
  let durableWhenTold = -1;
  scope.confirmed.catch(() => {
    durableWhenTold = journal.own.durable;
  });
  await world.until(() => counters.scopesAborted === 1, 5000, 'the scope is not aborted');
  const abort = journal.own.appended;
  expect(journal.own.durable).toBeLessThan(abort);
  await world.until(() => durableWhenTold >= 0, 5000, 'nobody is told');
  expect(durableWhenTold).toBeGreaterThanOrEqual(abort);
  await atRest(world);
});

/** A checkpoint names them: there were as many as aborts in its whole stretch, and then no superblock could be saved any more. */
test('so many scopes of the other site lose, and a checkpoint is made, to forget them', async () => {
  const world = await startBoth();
  const { checkpointer, order } = world.sites[1].group!;
  const { checkpoints } = checkpointer.counters;
  let lost = 0;
  for (let round = 0; round < DEAD_SCOPES_MAX; round += 1) {
    expect(checkpointer.counters.checkpoints).toBe(checkpoints);
    const scope = await loseScope(world);
    scope.confirmed.catch(() => {
      lost += 1;
    });
    await world.until(() => lost > round && world.settled(), 5000, 'the scope does not lose');
  }
  await world.until(() => checkpointer.counters.checkpoints > checkpoints, 1000, 'no checkpoint');
  expect(order!.conflicts.deadSince).toBe(0);
  await atRest(world);
});

/** It would have been based on what the ABORT takes out. */
test('no scope begins while one that has lost is not taken out', async () => {
  const world = await startBoth();
  const [first] = world.sites;
  const { counters, journal } = first.group!;
  const { reserve } = journal;
  journal.reserve = (type, ...rest) => (type === TYPE_ABORT ? RING_FULL : reserve.call(journal, type, ...rest));
  const scope = await loseScope(world);
  await world.until(() => scope.ended !== null, 5000, 'the scope does not lose');
  const volume = volumeOf(first);
  const opened: Scope[] = [];
  openScope(volume, { offset: 8 * volume.blockSize, size: volume.blockSize }).then(
    (another) => opened.push(another),
    world.fail,
  );
  const looked = world.scheduler.now + 100;
  await world.until(() => world.scheduler.now >= looked, 200, 'time does not pass');
  expect([opened.length, counters.scopesAborted]).toEqual([0, 0]);
  journal.reserve = reserve;
  await world.until(() => opened.length === 1, 5000, 'no scope is opened any more');
  expect(counters.scopesAborted).toBe(1);
  await opened[0]!.unlock();
  await atRest(world);
});

/**
 * A backup held a read lock for longer than a scope may be open. It went on reading without an error, now what others had
 * written meanwhile, and its unlock was fine: nobody knew that the copy was of two moments.
 */
test('who reads under a read lock that is over is told', async () => {
  const world = await startBoth();
  const [first, second] = world.sites;
  const volume = volumeOf(first);
  const { blockSize } = volume;
  const lock = await readLock(world, volume);
  expect(await codeOf(world, lock.read(0, blockSize))).toBeNull();
  const answers: (string | null)[] = [];
  write(world, volumeOf(second), 0, blockSize, answers);
  await world.until(() => lock.ended !== null, SCOPE_AGE_MS_MAX + 1000, 'the lock does not end');
  expect(await codeOf(world, lock.read(0, blockSize))).toBe('ETIMEDOUT');
  expect(await codeOf(world, lock.unlock())).toBe('ETIMEDOUT');
  expect(await codeOf(world, lock.unlock())).toBeNull(); // told once
  const another = await readLock(world, volume);
  expect(await codeOf(world, another.unlock())).toBeNull();
  await atRest(world);
});

/** The same of a read that was under way. */
test('a read that ends behind its read lock is not answered with data', async () => {
  const world = await startBoth();
  const [first] = world.sites;
  const volume = volumeOf(first);
  const { blockSize } = volume;
  const answers: (string | null)[] = [];
  write(world, volume, 0, blockSize, answers);
  await world.until(() => answers.length === 1, 1000, 'a write is not on the disk');
  const lock = await readLock(world, volume);
  const read = codeOf(world, lock.read(0, blockSize));
  first.group!.scopes.endSession(lock.session);
  expect(await read).toBe('ESHUTDOWN');
  expect(await codeOf(world, lock.unlock())).toBe('ESHUTDOWN');
  await atRest(world);
});

/** The same of one that a freeze held, while the other site went on alone and wrote there. */
test('a read that was held until its read lock was over is not answered with data', async () => {
  const world = await startBoth({ whenSplit: 'prefer:alpha' });
  const [first, second] = world.sites;
  const volume = volumeOf(second);
  const { blockSize } = volume;
  const lock = await readLock(world, volume);
  world.line.downUntil = Number.POSITIVE_INFINITY;
  world.line.cut();
  await world.until(() => second.group!.frozen, 5000, 'the link does not go down');
  const read = codeOf(world, lock.read(0, blockSize));
  const answers: (string | null)[] = [];
  write(world, volumeOf(first), 0, blockSize, answers);
  await world.until(() => answers.length === 1, 20_000, 'the site does not go on alone');
  world.line.downUntil = 0;
  expect([await read, answers]).toEqual(['ESHUTDOWN', [null]]);
  expect(await codeOf(world, lock.unlock())).toBe('ESHUTDOWN');
  await atRest(world);
});

/** A verify that has its read lock, and waits at the head of the queue for room that `release` gives. */
async function waitingVerify(world: DualWorld, site: DualSite) {
  const group = site.group!;
  let hasRoom = false;
  const verified = codeOf(world, verifyVolume(site.pair!, volumeOf(site), false, hash));
  await world.until(() => group.scopes.held.size === 1, 1000, 'the lock is not asked for');
  group.whenRoom(() => hasRoom || group.ended !== null);
  const { roomWaits } = group.counters;
  await world.until(() => group.counters.roomWaits > roomWaits, 3000, 'it does not get to its point');
  const release = (): void => {
    hasRoom = true;
    group.admissionsMoved();
  };
  return { verified, release };
}

/**
 * A verify's read lock was over before its point stood in the stream. What the other site's hosts wrote between the two
 * moments at which the images were pinned looked like a difference.
 */
test('a verify whose lock is over before its point says so, and appends none', async () => {
  const world = await startBoth();
  const [first] = world.sites;
  const { verified, release } = await waitingVerify(world, first);
  await world.until(() => first.group!.scopes.held.size === 0, SCOPE_AGE_MS_MAX + 1000, 'the lock does not end');
  const { appended } = first.journal.own;
  release();
  expect([await verified, first.journal.own.appended]).toEqual(['ETIMEDOUT', appended]);
  await atRest(world);
});

/**
 * The link went while it waited for room, which there is without a link. Its point was appended in a frozen group, behind
 * what the other site had: nobody had written anything, and a person had to decide which site loses.
 */
test('a verify that waits while the group freezes appends nothing, and says so at once', async () => {
  const world = await startBoth();
  const [first] = world.sites;
  const { verified, release } = await waitingVerify(world, first);
  const { appended } = first.journal.own;
  world.line.downUntil = Number.POSITIVE_INFINITY;
  world.line.cut();
  await world.until(() => first.group!.frozen, 5000, 'the link does not go down');
  const from = world.scheduler.now;
  release();
  expect([await verified, first.journal.own.appended]).toEqual(['PEER_AWAY', appended]);
  expect(world.scheduler.now - from).toBeLessThan(1000);
  world.line.downUntil = 0;
  await world.until(() => first.group!.scopes.held.size === 0, 20_000, 'its lock stays');
  await atRest(world);
});

/**
 * The other site had a smaller journal, and promised less than a transaction needed. That waited at the head of the queue
 * for room that could not come, and all hosts behind it, until its locks were too old.
 */
test('a transaction that is too large for the other site is refused', async () => {
  const small = JOURNAL_SEGMENTS_MIN * SEGMENT_SIZE_MIN;
  const world = await startBoth({ ringSegments: 8, journalSegments: 40 });
  const [first] = world.sites;
  const group = first.group!;
  const { name } = volumeOf(first);
  const run = (size: number, then: () => Promise<void>): Promise<string | null> =>
    codeOf(
      world,
      runTransaction(group, (transaction) => writeOnce(world, transaction, name, size, then)),
    );
  const reconnect = (): Promise<void> => comeWith(world, small);
  expect(await run(88 * 1024, reconnect)).toBe('ENOSPC');
  expect(group.scopes.open.size).toBe(0);
  let isWritten = false;
  const noteWritten = async (): Promise<void> => {
    isWritten = true;
  };
  expect([await run(88 * 1024, noteWritten), isWritten]).toEqual(['ENOSPC', false]);
  expect(await run(60 * 1024, noteWritten)).toBeNull();
  await atRest(world);
});

test('a transaction is not refused because the journal of the other site was full when the link came', async () => {
  const world = await startBoth({ ringSegments: 8, journalSegments: 40 });
  const [first, second] = world.sites;
  const group = first.group!;
  const { name } = volumeOf(first);
  const { limit } = second.journal.room;
  await comeWith(world, limit / 20);
  const hasRoom = async (): Promise<void> => {
    second.journal.room.limit = limit;
  };
  for (const size of [60 * 1024, 88 * 1024]) {
    const work = (transaction: Transaction) => writeOnce(world, transaction, name, size, hasRoom);
    expect(await codeOf(world, runTransaction(group, work))).toBeNull();
  }
  await atRest(world);
});

/**
 * Each block of a trim in a session with an open `abort` scope got an entry of its own, in case that it had to be taken
 * out: the process died of a trim of a large volume.
 */
test('a trim waits until the abort scopes of its session are decided, and is remembered as a whole', async () => {
  const world = await startBoth();
  const [site] = world.sites;
  const volume = volumeOf(site);
  const { versions, conflicts } = site.group!.order!;
  const session = site.group!.nextSession();
  const scope = await openScope(volume, { offset: 0, size: volume.blockSize }, { onConflict: 'abort' }, session);
  const answers: (string | null)[] = [];
  let confirmed = -1;
  volume.trim(session, volume.blockSize, volume.size - volume.blockSize, false, {
    settle: (error) => {
      confirmed = conflicts.confirmedThrough;
      answers.push(error?.code ?? null);
    },
  });
  expect(versions.listedBlocks).toBe(0);
  await world.until(() => answers.length > 0, 5000, 'the trim is not answered');
  expect([answers, versions.listedBlocks, confirmed >= scope.sequence]).toEqual([[null], 0, true]);
  expect(await codeOf(world, scope.unlock())).toBe(null); // it was not waited for
  await atRest(world);
});

test('who writes in a scope that may die waits while more cannot be remembered, and nobody with it', async () => {
  const world = await startBoth();
  const [site] = world.sites;
  const volume = volumeOf(site);
  const { versions } = site.group!.order!;
  const { blockSize } = volume;
  const scope = await openScope(volume, { offset: 0, size: blockSize }, { onConflict: 'abort' });
  let full = true;
  Object.defineProperty(versions, 'isFull', { get: () => full });
  let over = false;
  const written = scope.write(0, world.truth.history.payload(blockSize)).finally(() => {
    over = true;
  });
  const answers: (string | null)[] = [];
  write(world, volume, 2 * blockSize, blockSize, answers);
  await world.until(() => answers.length > 0, 5000, 'the other write is not answered');
  expect([over, answers]).toEqual([false, [null]]);
  full = false;
  expect(await codeOf(world, written)).toBe(null);
  expect(await codeOf(world, scope.unlock())).toBe(null);
  await atRest(world);
});
