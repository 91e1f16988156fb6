/** How many scopes a site may have open in its stream: as many as the other one takes. */
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

const SCOPES = 16;

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  SEGMENT_SIZE_MIN: 128 * 1024,
  SCOPES_MAX: 16,
}));

import type { ForelockError } from '../../src/errors.js';
import { RING_FULL } from '../../src/journal/journal.js';
import { HostSession } from '../../src/volume/catalog.js';
import { openScope } from '../../src/volume/scope.js';
import type { Volume } from '../../src/volume/volume.js';
import { UNIT } from './group-history.js';
import { GroupWorld, QUIET } from './group-world.js';
import { seededRandom } from './memory-store.js';

const hash = await xxhash();

function read(volume: Volume, size: number): Promise<readonly Uint8Array[]> {
  return new Promise((resolve, reject) => {
    volume.read(1, 0, size, { settleRead: (error, pieces) => (error === null ? resolve(pieces) : reject(error)) });
  });
}

test('lock-step: writes have a place beside all scopes that hosts may open', async () => {
  // Each write is a scope of its own there. With all scopes open that there may be, its LOCK was one too many: the
  // target refused it, on every link.
  const world = new GroupWorld({ ...QUIET, speculation: 'off' }, seededRandom(1), hash);
  world.open(world.source);
  world.open(world.target);
  await world.until(() => world.settled(), 3000, 'the sites do not find together');
  const { group } = world.source;
  const [volume] = group!.volumes.values();
  const { blockSize } = volume!;
  const open = (block: number) =>
    openScope(volume!, { offset: block * blockSize, size: blockSize }, { waitMsMax: 100 });
  const scopes = [];
  for (let block = 0; block < SCOPES - 1; block += 1) scopes.push(await world.settle(open(block)));
  const last = open(SCOPES).then(() => 'opened');
  await expect(world.settle(last)).rejects.toMatchObject({ code: 'ETIMEDOUT' });
  const units = blockSize / UNIT;
  await world.settle(Promise.all([SCOPES, SCOPES + 1].map((block) => world.write(block * units, units))), 500);
  group!.scopes.open.set(1e9, 0); // as one of an earlier life that has not ended yet
  expect(group!.scopes.openLockStep(volume!, 1, 0, 1, 4096)).toBe(RING_FULL);
  group!.scopes.open.delete(1e9);
  for (const scope of scopes) await world.settle(scope.unlock());
  await world.until(() => world.settled(), 20_000, 'the sites do not come to rest');
  await world.compareAll();
});

test('what a session waits for when it is closed is refused, and not had afterwards', async () => {
  // Its requests were taken out of the queue, and nobody was told: they never ended. Its wait for a scope's lock was not
  // taken out, so a session that was gone held it until the scope was too old.
  const world = new GroupWorld({ ...QUIET }, seededRandom(1), hash);
  world.open(world.source);
  world.open(world.target);
  await world.until(() => world.settled(), 3000, 'the sites do not find together');
  const { group } = world.source;
  const [volume] = group!.volumes.values();
  const size = volume!.blockSize;
  const held = await world.settle(openScope(volume!, { offset: 0, size }));
  const reader = await world.settle(openScope(volume!, { offset: size, size }, { mode: 'read' }));
  const session = new HostSession(volume!);
  const codes: string[] = [];
  const settle = (error: ForelockError | null): void => void codes.push(error?.code ?? 'done');
  session.write(0, size, [world.history.payload(size)], false, { settle });
  session.trim(0, size, false, { settle });
  session.read(size, size, { settleRead: settle });
  const locks = [session.lock({ offset: 0, size }, {}), session.lock({ offset: size, size }, { mode: 'read' })];
  const free = { offset: 2 * size, size };
  await world.pass(5);
  const inTurn = session.lock(free, {}); // it has its lock, and no LOCK in the stream yet
  session.close();
  const refused = [...locks, inTurn, session.lock(free, {})];
  for (const lock of refused) await expect(world.settle(lock)).rejects.toMatchObject({ code: 'ESHUTDOWN' });
  await world.until(() => codes.length === 3, 1000, 'not answered');
  expect(codes).toEqual(['ESHUTDOWN', 'ESHUTDOWN', 'ESHUTDOWN']);
  for (const scope of [held, reader]) await world.settle(scope.unlock());
  await world.until(() => world.settled(), 20_000, 'the sites do not come to rest');
  expect([volume!.locks.held, volume!.locks.waiting, group!.scopes.open.size]).toEqual([0, 0, 0]);
  await world.compareAll();
});

test('a scope that is unlocked while it writes is open until all of the write is in', async () => {
  // What one UNLOCK follows was counted record by record: between two of them the scope was unlocked, and its host was told
  // that the rest of its write was refused. Half of it was there.
  const volumes = [{ blocks: 1024, blockSize: 4096, platter: 'journal' as const }];
  const world = new GroupWorld({ ...QUIET, segmentSize: 4 << 20, ringSegments: 1, volumes }, seededRandom(1), hash);
  world.open(world.source);
  world.open(world.target);
  await world.until(() => world.settled(), 3000, 'the sites do not find together');
  const [volume] = world.source.group!.volumes.values();
  const { size } = volume!;
  const scope = await world.settle(openScope(volume!, { offset: 0, size }));
  const bytes = world.history.payload(size);
  const written = scope.write(0, bytes);
  const unlocked = scope.unlock();
  await expect(scope.write(0, bytes)).rejects.toMatchObject({ code: 'EINVAL' });
  await world.settle(Promise.all([written, unlocked]));
  expect(Buffer.concat(await world.settle(read(volume!, size))).equals(bytes)).toBe(true);
  await world.until(() => world.settled(), 20_000, 'the sites do not come to rest');
  await world.compareAll();
});

test('a plain write of the host that holds a scope there waits for its end', async () => {
  // In the stream it would stand in front of the UNLOCK that it needs at the target.
  const world = new GroupWorld({ ...QUIET }, seededRandom(1), hash);
  world.open(world.source);
  world.open(world.target);
  await world.until(() => world.settled(), 3000, 'the sites do not find together');
  const [volume] = world.source.group!.volumes.values();
  const size = volume!.blockSize;
  const session = new HostSession(volume!);
  const scope = await world.settle(session.lock({ offset: 0, size }, {}));
  const answers: (ForelockError | null)[] = [];
  session.write(0, size, [world.history.payload(size)], false, { settle: (error) => void answers.push(error) });
  await world.settle(scope.write(0, world.history.payload(size)));
  await world.pass(50);
  expect(answers).toEqual([]);
  await world.settle(scope.unlock());
  await world.until(() => answers.length > 0, 1000, 'not answered');
  expect(answers).toEqual([null]);
  await world.until(() => world.settled(), 20_000, 'the sites do not come to rest');
  await world.compareAll();
});
