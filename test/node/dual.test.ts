/** Both sites write, through their front doors: two gateways in one process, and a line between them that has a delay. */
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Gateway, type GroupOptions, LibraryVolume } from '../../src/index.js';
import { SPLIT_WAIT_MS } from '../../src/limits.js';
import { CLOSE_NORMAL } from '../../src/link/link.js';
import { formatStatus, PLAIN } from '../../src/node/format-status.js';

const MIB = 1 << 20;
const BLOCK = 4096;
const common = {
  group: 'main',
  role: 'dual',
  ack: 'local',
  speculation: 'on',
  whenPeerAway: 'degrade',
  kernel: 'wasm',
} as const;

let state: string;
let open: Gateway[];
beforeEach(() => {
  state = mkdtempSync(join(tmpdir(), 'forelock-dual-'));
  open = [];
});
afterEach(async () => {
  await Promise.all(open.map((gateway) => gateway.close()));
  rmSync(state, { recursive: true, force: true });
});

async function start(site: string, options: Partial<GroupOptions>): Promise<Gateway> {
  const groups = [{ ...common, volumes: [], ...options }];
  const gateway = await Gateway.open({ state: join(state, site), site, nbd: [], groups });
  open.push(gateway);
  return gateway;
}

async function startPair(options: Partial<GroupOptions> = {}): Promise<[Gateway, Gateway]> {
  const listen = { host: '127.0.0.1', port: 0 };
  const a = await start('a', { ...options, listen, linkRttMs: 10, volumes: [{ name: 'disk', size: 64 * MIB }] });
  const b = await start('b', { ...options, peer: `ws://127.0.0.1:${a.members[0]!.endpoint!.address!.port}` });
  await Promise.all([a.ready(), b.ready()]);
  return [a, b];
}

const diskOf = (gateway: Gateway): LibraryVolume => new LibraryVolume(gateway.volume('disk'));
const block = (value: number): Buffer => Buffer.alloc(BLOCK, value);
const first = async (disk: LibraryVolume, lba: number): Promise<number> => (await disk.read(lba * BLOCK, 1))[0]!;

// The group was founded, and could not get a volume any more.
test('two new sites without a volume found no group, and say why', async () => {
  const listen = { host: '127.0.0.1', port: 0 };
  const a = await start('a', { listen });
  const b = await start('b', { peer: `ws://127.0.0.1:${a.members[0]!.endpoint!.address!.port}` });
  const reasons = (): string[] => [a, b].map((gateway) => gateway.status().groups[0]!.link.reason);
  while (!reasons().every((reason) => reason.includes('could not be founded: group main is new and has no volume')))
    await new Promise((resolve) => setTimeout(resolve, 5));
  expect([...a.groups, ...b.groups]).toEqual([]);
});

test('a read lock shows what the other site wrote before, and keeps its hosts out until it is given back', async () => {
  const [a, b] = (await startPair()).map(diskOf) as [LibraryVolume, LibraryVolume];
  await b.write(3 * BLOCK, block(7));
  const lock = await a.lock({ offset: 0, size: 16 * BLOCK }, { mode: 'read' });
  expect((await lock.read(3 * BLOCK, 1))[0]).toBe(7);
  await expect(lock.write(0, block(1))).rejects.toMatchObject({ code: 'EINVAL' });
  let later = false;
  const write = b.write(5 * BLOCK, block(9)).then(() => {
    later = true;
  });
  await b.write(20 * BLOCK, block(1)); // elsewhere nobody waits
  await a.flush();
  expect(later).toBe(false);
  await lock.unlock();
  await write;
  await b.flush();
  expect(await first(a, 5)).toBe(9);
});

// Both waited for each other's lock, and each site's stream stood still until the time of one was over.
test('read locks of both sites that cross are had one after the other', async () => {
  const disks = (await startPair()).map(diskOf);
  const turns: string[] = [];
  const locked = async (disk: LibraryVolume, name: string): Promise<void> => {
    const lock = await disk.lock({ offset: 0, size: 16 * BLOCK }, { mode: 'read' });
    turns.push(`${name} has it`);
    await lock.read(0, BLOCK);
    turns.push(`${name} gives it back`);
    await lock.unlock();
  };
  await Promise.all(disks.map((disk, index) => locked(disk, index === 0 ? 'a' : 'b')));
  expect(turns.map((turn) => turn.slice(2))).toEqual(['has it', 'gives it back', 'has it', 'gives it back']);
  expect(new Set(turns).size).toBe(4);
});

/** The line is cut, and does not come back until `back` is called. */
function cut([a, b]: [Gateway, Gateway]): () => void {
  const endpoints = [a, b].map((gateway) => gateway.members[0]!.pair);
  const was = endpoints.map((pair) => pair.onLink);
  for (const pair of endpoints) {
    pair.onLink = (link) => link.close(CLOSE_NORMAL, 'the line is cut');
    pair.link?.close(CLOSE_NORMAL, 'the line is cut');
  }
  return () => {
    endpoints.forEach((pair, index) => {
      pair.onLink = was[index]!;
    });
  };
}

const until = async (done: () => boolean): Promise<void> => {
  while (!done()) await new Promise((resolve) => setTimeout(resolve, 5));
};
const groupOf = (gateway: Gateway) => gateway.groups[0]!;

// Lost: without a link both sites served on; what one had answered went beneath what the other had.
test('frozen: requests of all kinds wait for the link, and are answered then', async () => {
  const pair = await startPair();
  const [a, b] = pair.map(diskOf) as [LibraryVolume, LibraryVolume];
  const scope = await a.lock({ offset: 0, size: BLOCK });
  const back = cut(pair);
  await until(() => pair.every((gateway) => groupOf(gateway).frozen));
  const { appended } = groupOf(pair[0]).journal.own;
  const answered: string[] = [];
  const asked = {
    write: a.write(9 * BLOCK, block(1)),
    partial: a.write(8 * BLOCK + 7, block(1).subarray(0, 9)),
    read: b.read(0, BLOCK),
    flush: b.flush(),
    lock: b.lock({ offset: MIB, size: BLOCK }),
    scoped: scope.write(0, block(3)),
    'read in a scope': scope.read(0, BLOCK),
  };
  const all = Object.entries(asked).map(([name, done]) => done.then(() => answered.push(name)));
  const unlocked = scope.unlock().then(() => answered.push('unlock'));
  await new Promise((resolve) => setTimeout(resolve, 200));
  expect(answered).toEqual([]);
  expect(groupOf(pair[0]).journal.own.appended).toBe(appended);
  back();
  await Promise.all([...all, unlocked]);
  await a.flush();
  expect([await first(b, 9), await first(b, 0)]).toEqual([1, 3]);
});

const prefersA = { whenSplit: { prefer: 'a' } } as const;
/** As if it had waited for so long. */
const longAfter = (gateway: Gateway): void => {
  const { pair, group } = gateway.members[0]!;
  pair.tick(group!.nowMs() + SPLIT_WAIT_MS);
};

/** The preferred site serves alone, once somebody asks. */
async function goAlone(gateway: Gateway, disk: LibraryVolume): Promise<void> {
  const asked = disk.read(0, BLOCK);
  await until(() => {
    longAfter(gateway);
    return groupOf(gateway).alone;
  });
  await asked;
}

test('prefer: the preferred site goes on alone for the first request, the other stays frozen and catches up first', async () => {
  const pair = await startPair(prefersA);
  const [a, b] = pair.map(diskOf) as [LibraryVolume, LibraryVolume];
  await b.write(BLOCK, block(2));
  const theirs = await b.lock({ offset: 4 * BLOCK, size: BLOCK });
  await theirs.write(4 * BLOCK, block(4));
  const ours = await a.lock({ offset: 0, size: BLOCK }, { onConflict: 'abort' });
  await Promise.all([a.flush(), b.flush()]);
  const back = cut(pair);
  await until(() => pair.every((gateway) => groupOf(gateway).frozen));
  longAfter(pair[0]);
  expect(groupOf(pair[0]).alone).toBe(false); // nobody has asked
  await goAlone(pair[0], a);
  await expect(ours.write(0, block(1))).rejects.toMatchObject({ code: 'ESHUTDOWN' });
  await a.write(4 * BLOCK, block(8)); // what the other site held is free
  await a.flush();
  const alone = await a.lock({ offset: 6 * BLOCK, size: BLOCK }, { onConflict: 'abort' });
  await alone.confirmed;
  await alone.write(6 * BLOCK, block(6));
  await alone.unlock();
  const waiting = b.read(4 * BLOCK, 1);
  longAfter(pair[1]);
  expect(groupOf(pair[1]).frozen).toBe(true);
  back();
  expect((await waiting)[0]).toBe(8);
  await expect(theirs.write(4 * BLOCK, block(5))).rejects.toMatchObject({ code: 'ESHUTDOWN' });
  await b.write(4 * BLOCK, block(9));
  await Promise.all([a.flush(), b.flush()]);
  expect([await first(a, 4), await first(b, 4)]).toEqual([9, 9]);
  expect([await first(a, 6), await first(b, 6)]).toEqual([6, 6]);
  expect([await first(a, 1), await first(b, 1)]).toEqual([2, 2]);
  expect(groupOf(pair[0]).alone).toBe(false);
});

// Stuck: scopes of the other site, ended before the mint, came to life in a recovery that began before it.
test('prefer: what was flushed alone survives a crash of the preferred site', async () => {
  const pair = await startPair(prefersA);
  const [a, b] = pair.map(diskOf) as [LibraryVolume, LibraryVolume];
  await b.lock({ offset: 4 * BLOCK, size: BLOCK });
  await Promise.all([a.flush(), b.flush()]);
  cut(pair);
  await until(() => groupOf(pair[0]).frozen && groupOf(pair[1]).frozen);
  await goAlone(pair[0], a);
  const scope = await a.lock({ offset: 4 * BLOCK, size: BLOCK }, { onConflict: 'abort' });
  await scope.write(4 * BLOCK, block(7));
  await scope.unlock();
  await a.flush();
  // the disk as it is now, opened by another process
  cpSync(join(state, 'a'), join(state, 'crashed', 'a'), { recursive: true });
  rmSync(join(state, 'crashed', 'a', 'main', 'lock'), { force: true });
  await pair[0].close();
  await pair[1].close();
  state = join(state, 'crashed');
  cpSync(join(state, '..', 'b'), join(state, 'b'), { recursive: true });
  const again = await startPair(prefersA);
  const [a2, b2] = again.map(diskOf) as [LibraryVolume, LibraryVolume];
  expect([await first(a2, 4), await first(b2, 4)]).toEqual([7, 7]);
  await b2.write(4 * BLOCK, block(1));
  await Promise.all([a2.flush(), b2.flush()]);
  expect([await first(a2, 4), await first(b2, 4)]).toEqual([1, 1]);
  state = join(state, '..');
});

test('prefer: what the other site had written and not sent is not given up in silence', async () => {
  const pair = await startPair(prefersA);
  const [a, b] = pair.map(diskOf) as [LibraryVolume, LibraryVolume];
  await Promise.all([a.flush(), b.flush()]);
  const back = cut(pair);
  void b.write(0, block(1)); // its gateway had not noticed yet
  await until(() => groupOf(pair[0]).frozen && groupOf(pair[1]).frozen);
  await goAlone(pair[0], a);
  await a.write(BLOCK, block(2));
  back();
  await until(() => pair.every(({ members }) => members[0]!.pair.refusal !== null));
  expect(pair[1].members[0]!.pair.refusal).toMatch(/b holds records .* which a never got.* empty the state directory/);
  await a.write(BLOCK, block(3));
});

/** A gateway is stopped, and started again at its old address with an empty state directory. */
async function startEmpty(
  gone: Gateway,
  pair: [Gateway, Gateway],
  options: Partial<GroupOptions> = {},
): Promise<Gateway> {
  const site = gone === pair[0] ? 'a' : 'b';
  const { port } = pair[0].members[0]!.endpoint!.address!;
  await gone.close();
  rmSync(join(state, site), { recursive: true });
  const line = site === 'a' ? { listen: { host: '127.0.0.1', port } } : { peer: `ws://127.0.0.1:${port}` };
  const gateway = await start(site, { ...options, ...line });
  await gateway.ready();
  return gateway;
}

// The link was closed, again and again, and nobody served: the stream of who was emptied began at its beginning again.
test.each(['a', 'b'] as const)(
  'site %s, whose disk was replaced, gets all of it from the other, and both write',
  async (site) => {
    const pair = await startPair();
    const disks = pair.map(diskOf) as [LibraryVolume, LibraryVolume];
    await Promise.all(disks.map((disk, index) => disk.write(index * BLOCK, block(1 + index))));
    const [gone, left] = site === 'a' ? [0, 1] : [1, 0];
    await disks[gone].lock({ offset: 4 * BLOCK, size: BLOCK });
    const scope = await disks[left].lock({ offset: 6 * BLOCK, size: BLOCK });
    await scope.write(6 * BLOCK, block(6));
    await Promise.all(disks.map((disk) => disk.flush()));
    const { appended } = groupOf(pair[gone]).journal.own;
    const started = await startEmpty(pair[gone], pair);
    const again = diskOf(started);
    await disks[left].write(4 * BLOCK, block(4));
    await again.write(5 * BLOCK, block(5));
    expect(scope.ended).toMatchObject({ code: 'ESHUTDOWN' });
    await Promise.all([again.flush(), disks[left].flush()]);
    for (const disk of [again, disks[left]]) {
      expect(await Promise.all([0, 1, 4, 5, 6].map((lba) => first(disk, lba)))).toEqual([1, 2, 4, 5, 6]);
    }
    expect(groupOf(started).journal.own.appended).toBeGreaterThan(appended);
    for (const gateway of [started, pair[left]]) expect(groupOf(gateway).journal.generation).toBe(2);
  },
);

test('prefer: who has to give up what it had written is emptied, and gets a copy while the other serves', async () => {
  const pair = await startPair(prefersA);
  const [a, b] = pair.map(diskOf) as [LibraryVolume, LibraryVolume];
  await Promise.all([a.flush(), b.flush()]);
  const back = cut(pair);
  void b.write(0, block(1));
  await until(() => groupOf(pair[0]).frozen && groupOf(pair[1]).frozen);
  await goAlone(pair[0], a);
  await a.write(BLOCK, block(2));
  back();
  await until(() => pair[1].members[0]!.pair.refusal !== null);
  const open = await a.lock({ offset: 2 * BLOCK, size: BLOCK });
  const b2 = diskOf(await startEmpty(pair[1], pair, prefersA));
  expect(open.ended).toMatchObject({ code: 'ESHUTDOWN' });
  await Promise.all([a.write(2 * BLOCK, block(3)), b2.write(3 * BLOCK, block(4))]);
  await Promise.all([a.flush(), b2.flush()]);
  expect(groupOf(pair[0]).alone).toBe(false);
  for (const disk of [a, b2]) {
    expect(await Promise.all([0, 1, 2, 3].map((lba) => first(disk, lba)))).toEqual([0, 2, 3, 4]);
  }
});

test('verify compares one moment, from either site and while both write; and finds a block that differs', async () => {
  const pair = await startPair();
  const [a, b] = pair.map(diskOf) as [LibraryVolume, LibraryVolume];
  let writing = true;
  const write = async (disk: LibraryVolume, value: number): Promise<void> => {
    for (let i = 0; writing; i += 1) await disk.write((i % 50) * BLOCK, block((value + i) % 251));
  };
  const writers = [write(a, 1), write(b, 100)];
  const reports = [await pair[0].verify('disk'), await pair[1].verify('disk'), await pair[0].verify('disk')];
  expect(reports.map(({ equal }) => equal)).toEqual([true, true, true]);
  expect((await Promise.all([pair[0].verify('disk'), pair[1].verify('disk')])).every(({ equal }) => equal)).toBe(true);
  writing = false;
  await Promise.all(writers);
  await Promise.all([a.flush(), b.flush()]);
  pair[1].volume('disk').map.setZero(7, 1);
  expect(await pair[0].verify('disk')).toMatchObject({
    equal: false,
    sites: ['a', 'b'],
    differences: [{ offset: 7 * BLOCK, size: BLOCK }],
  });
});

// Lost: a site read a block, put its bytes into it and wrote it back, over what the other had put there meanwhile.
test('bytes that both sites write into one block are all there', async () => {
  const pair = await startPair();
  const [a, b] = pair.map(diskOf) as [LibraryVolume, LibraryVolume];
  const half = async (disk: LibraryVolume, from: number, value: number): Promise<void> => {
    for (let i = from; i < from + 24; i += 3) {
      await Promise.all([0, 1, 2].map((k) => disk.write(i + k, Buffer.from([value]), { fua: i === from })));
    }
  };
  await Promise.all([half(a, 10, 1), half(b, 34, 2)]);
  await Promise.all([a.zero(0, 10), b.zero(58, 5)]); // edges of blocks
  await Promise.all([a.flush(), b.flush()]);
  const due = Buffer.concat([Buffer.alloc(10), Buffer.alloc(24, 1), Buffer.alloc(24, 2), Buffer.alloc(5)]);
  expect(Buffer.from(await a.read(0, 63))).toEqual(due);
  expect(Buffer.from(await b.read(0, 63))).toEqual(due);
});

const restarted = async (gateways: readonly Gateway[]): Promise<void> => {
  await Promise.all(gateways.map((gateway) => gateway.close()));
};
/** The volumes are known by now: nothing has to be told of them. */
async function startAgain(a: Partial<GroupOptions>, b: Partial<GroupOptions>): Promise<[Gateway, Gateway]> {
  const first = await start('a', { listen: { host: '127.0.0.1', port: 0 }, ...a });
  const second = await start('b', { peer: `ws://127.0.0.1:${first.members[0]!.endpoint!.address!.port}`, ...b });
  await Promise.all([first.ready(), second.ready()]);
  return [first, second];
}

test('roles: one site writes, then both, then the other; and not before everything is at both', async () => {
  const volumes = [{ name: 'disk', size: 64 * MIB }];
  const one = await startAgain({ role: 'primary', volumes }, { role: 'standby' });
  await diskOf(one[0]).write(0, block(1));
  await diskOf(one[0]).flush();
  await restarted(one);
  const both = await startAgain({}, {});
  const [a, b] = both.map(diskOf) as [LibraryVolume, LibraryVolume];
  await b.write(BLOCK, block(2));
  await Promise.all([a.flush(), b.flush()]);
  expect([await first(b, 0), await first(a, 1)]).toEqual([1, 2]);
  cut(both);
  const late = b.write(2 * BLOCK, block(3)); // held, or not known at the other site
  await Promise.allSettled([restarted(both), late]);
  const { appended } = groupOf(both[1]).journal.own;
  if (groupOf(both[1]).sender!.peerDurable < appended) {
    await expect(start('b', { role: 'primary', peer: 'ws://127.0.0.1:1' })).rejects.toMatchObject({
      code: 'STATE_MISMATCH',
      message: expect.stringMatching(/start both with --role dual, let them catch up/i),
    });
  }
  const again = await startAgain({}, {});
  await Promise.all(again.map((gateway) => diskOf(gateway).flush()));
  await until(() =>
    again.every((gateway) => {
      const { sender, journal } = groupOf(gateway);
      return sender!.peerDurable === journal.own.appended && sender!.source.applied === journal.own.appended;
    }),
  );
  await restarted(again);
  const other = await startAgain({ role: 'standby' }, { role: 'primary' });
  await diskOf(other[1]).write(3 * BLOCK, block(4));
  await diskOf(other[1]).flush();
  expect([await first(diskOf(other[1]), 0), await first(diskOf(other[1]), 1)]).toEqual([1, 2]);
  await until(() => groupOf(other[1]).sender!.connected);
  expect((await other[1].verify('disk')).equal).toBe(true);
});

test('a volume on platter flat cannot be dual, and says what can be done', async () => {
  const path = join(state, 'image');
  const volumes = [{ name: 'disk', size: 16 * MIB, platter: 'flat' as const, path }];
  await restarted([await start('a', { role: 'primary', volumes })]);
  await expect(start('a', { listen: { host: '127.0.0.1', port: 0 } })).rejects.toMatchObject({
    code: 'CONFIG',
    message: expect.stringMatching(/flat, which cannot be dual.*copy it to a volume on platter journal/),
  });
});

test('status tells who serves, since when nobody does, and what met', async () => {
  const pair = await startPair(prefersA);
  const [a, b] = pair.map(diskOf) as [LibraryVolume, LibraryVolume];
  const dual = (gateway: Gateway) => gateway.status().groups[0]!.dual!;
  await Promise.all([a.write(0, block(1)), b.write(0, block(2))]);
  await Promise.all([a.flush(), b.flush()]);
  expect(dual(pair[0])).toMatchObject({ state: 'serving', frozenMs: 0, whenSplit: 'prefer:a' });
  expect(dual(pair[0]).conflicts.met + dual(pair[1]).conflicts.met).toBeGreaterThan(0);
  cut(pair);
  await until(() => pair.every((gateway) => dual(gateway).state === 'frozen'));
  await goAlone(pair[0], a);
  expect(pair.map((gateway) => dual(gateway).state)).toEqual(['alone', 'frozen']);
  expect(formatStatus(pair[1].status(), PLAIN)).toMatch(/dual +frozen, .*hosts wait +when-split prefer:a/);
});

// A role that the state directory remembers was looked at by nobody: with retransmit a lock and a write destroyed the site.
test.each([
  ['on-reject retransmit', { onReject: 'retransmit' }, 'on-reject retransmit cannot be dual'],
  ['lock-step', { speculation: 'off' }, 'dual works speculatively only'],
  ['no peer', { peer: undefined }, 'is dual and has no peer'],
  ['when-peer-away block', { whenPeerAway: 'block' }, 'when-peer-away block means nothing'],
] as const)('a site that remembers to be dual is not started with %s', async (_, options, message) => {
  const [, b] = await startPair();
  await b.close();
  const refused = start('b', { role: undefined, peer: 'ws://127.0.0.1:1', ...options });
  await expect(refused).rejects.toMatchObject({ code: 'CONFIG', message: expect.stringContaining(message) });
  const again = await start('b', { role: undefined, peer: 'ws://127.0.0.1:1' });
  expect(again.groups[0]!.role).toBe('dual');
});
