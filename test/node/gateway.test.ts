/** The gateway through its own front door: the library entry, and NBD in the same process. */
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Gateway, type GroupOptions, LibraryVolume, NbdClient } from '../../src/index.js';
import { VERIFY_BLOCKS_MAX } from '../../src/limits.js';
import { resolveOptions } from '../../src/node/config.js';

const MIB = 1 << 20;
const group = {
  group: 'main',
  role: 'primary',
  volumes: [{ name: 'disk', size: 64 * MIB }],
  ack: 'local',
  speculation: 'on',
  whenPeerAway: 'degrade',
  kernel: 'wasm',
} as const;

let state: string;
beforeEach(() => {
  state = mkdtempSync(join(tmpdir(), 'forelock-gateway-'));
});
afterEach(() => rmSync(state, { recursive: true, force: true }));

test('small batches are sealed on the main thread and large ones in the pool, and status counts both', async () => {
  const gateway = await Gateway.open({ state, site: 'a', nbd: [{ host: '127.0.0.1', port: 0 }], groups: [group] });
  try {
    await gateway.ready();
    const client = await NbdClient.connect(gateway.nbdUris()[0]!);
    await client.write(0, Buffer.alloc(4096, 1));
    await client.flush();
    const counters = () => gateway.status().groups[0]!.counters;
    expect(counters().journalSealedInline).toBeGreaterThan(0);
    expect(counters().journalSealedInPool).toBe(0);
    await client.write(0, Buffer.alloc(32 * MIB, 2));
    await client.flush();
    await client.close();
    expect(counters().journalSealedInPool).toBeGreaterThan(0);
  } finally {
    await gateway.close();
  }
});

test('what the library wrote, in and out of scopes, is there after a clean stop and a new start', async () => {
  const first = await Gateway.open({ state, site: 'a', nbd: [], groups: [group] });
  await first.ready();
  const volume = new LibraryVolume(first.volume('disk'));
  await volume.write(1000, Buffer.from('across nothing'));
  const scope = await volume.lock({ offset: MIB, size: MIB });
  await scope.write(MIB, Buffer.alloc(8192, 7));
  await expect(
    new LibraryVolume(first.volume('disk')).lock({ offset: MIB, size: 4096 }, { waitMsMax: 0 }),
  ).rejects.toMatchObject({ code: 'ETIMEDOUT' });
  await expect(scope.write(0, Buffer.alloc(4096))).rejects.toMatchObject({ code: 'EINVAL' });
  await scope.unlock();
  await volume.trim(2 * MIB, MIB);
  await first.close();
  await expect(volume.read(0, 16)).rejects.toMatchObject({ code: 'ESHUTDOWN' });

  const second = await Gateway.open({ state, site: 'a', nbd: [], groups: [{ ...group, volumes: [{ name: 'disk' }] }] });
  try {
    await second.ready();
    const again = new LibraryVolume(second.volume('disk'));
    expect(Buffer.from(await again.read(1000, 14)).toString()).toBe('across nothing');
    expect(Buffer.from(await again.read(MIB, 8192)).every((byte) => byte === 7)).toBe(true);
    expect(again.extents(0, 4 * MIB)).toEqual([
      { size: 4096, hole: false },
      { size: MIB - 4096, hole: true },
      { size: 8192, hole: false },
      { size: 3 * MIB - 8192, hole: true },
    ]);
  } finally {
    await second.close();
  }
});

test('a standby that is stopped while it is being adopted is closed when that is said', async () => {
  // The stop was done, and the directory given back; then the group was opened in it, and never closed.
  const listen = { host: '127.0.0.1', port: 0 };
  const a = await Gateway.open({ state: join(state, 'a'), site: 'a', nbd: [], groups: [{ ...group, listen }] });
  const peer = `ws://127.0.0.1:${a.members[0]!.endpoint!.address!.port}`;
  const groups = [{ ...group, role: 'standby', volumes: [], peer } as const];
  const open = (): Promise<Gateway> => Gateway.open({ state: join(state, 'b'), site: 'b', nbd: [], groups });
  try {
    const b = await open();
    const [member] = b.members;
    while (member!.making === null) await new Promise((resolve) => setImmediate(resolve));
    await b.close();
    expect(member!.group).not.toBeNull();
    const misled = [{ ...groups[0]!, role: undefined, onReject: 'halt' } as const];
    const refused = Gateway.open({ state: join(state, 'b'), site: 'b', nbd: [], groups: misled });
    await expect(refused).rejects.toMatchObject({
      code: 'CONFIG',
      message: expect.stringContaining("the primary's to say"),
    });
    const again = await open();
    expect(again.groups[0]!.state.recovery.clean).toBe(true);
    await again.close();
  } finally {
    await a.close();
  }
});

test('a state directory that the system refuses: what, where, and what to do', async () => {
  const file = join(state, 'file');
  writeFileSync(file, '');
  const refused = Gateway.open({ state: file, site: 'a', nbd: [], groups: [group] });
  const where = `state directory ${join(file, group.group)}: `;
  await expect(refused).rejects.toMatchObject({ code: 'CONFIG', message: expect.stringContaining(where) });
  await expect(refused).rejects.toThrow(/ENOTDIR.*: a part of this path is a file: choose another --state$/);
});

test('a folder that is not there for an image, and a name too long for the system, are told as such', async () => {
  const path = join(state, 'none', 'image');
  const volumes = [{ name: 'disk', size: MIB, platter: 'flat' as const, path }];
  const where = { state: join(state, 'a'), site: 'a', nbd: [] };
  const message = `image ${path} cannot be made: there is no folder ${join(state, 'none')}: make it, or give another path=`;
  const refused = Gateway.open({ ...where, groups: [{ ...group, volumes }] });
  await expect(refused).rejects.toMatchObject({ code: 'CONFIG', message });
  const long = Gateway.open({ ...where, state: join(state, 'x'.repeat(300)), groups: [group] });
  await expect(long).rejects.toMatchObject({
    code: 'CONFIG',
    message: expect.stringMatching(/choose a shorter --state$/),
  });
  expect(readdirSync(state)).toEqual([]);
});

// `--volume disk`, which does for a volume that exists, was refused: "the configuration says journal".
test('a flat volume that exists is named without its platter', async () => {
  const path = join(state, 'image');
  const serve = async (volume: string): Promise<void> => {
    const flags = { state: join(state, 'a'), nbd: 'none', volumes: [volume] };
    const gateway = await Gateway.fromConfig(resolveOptions(flags, null));
    expect(gateway.status().groups[0]!.volumes).toMatchObject([{ name: 'disk', size: MIB, platter: 'flat' }]);
    await gateway.close();
  };
  await serve(`disk:1M,platter=flat,path=${path}`);
  await serve('disk');
  await serve('disk:1M');
  await expect(serve('disk,platter=journal')).rejects.toThrow('is on platter flat, the configuration says journal');
});

// It tried for ever, in one turn: no signal ended it.
test.runIf(process.platform === 'linux')('where no folder can be made the start is refused', async () => {
  const refused = Gateway.open({ state: '/proc/forelock', site: 'a', nbd: [], groups: [group] });
  const message = expect.stringMatching(/ENOENT.*: no folder can be made there: choose another --state$/);
  await expect(refused).rejects.toMatchObject({ code: 'CONFIG', message });
});

// The address was taken. The volume was there by then, and the next start was refused for the size that it corrected.
test('a start that comes to nothing leaves nothing of a new state, and all of one that was there or is used', async () => {
  const taken = createServer().listen(0, '127.0.0.1');
  await once(taken, 'listening');
  const address = { host: '127.0.0.1', port: (taken.address() as AddressInfo).port };
  const place = join(state, 'new', 'a');
  const image = join(state, 'image');
  const flat = { ...group, volumes: [{ name: 'disk', size: 64 * MIB, platter: 'flat' as const, path: image }] };
  const where = { state: place, site: 'a', nbd: [], groups: [group] };
  const next = /another program listens there: stop it, or give another --(nbd|listen)$/;
  await expect(Gateway.open({ ...where, nbd: [address] })).rejects.toThrow(next);
  await expect(Gateway.open({ ...where, groups: [{ ...flat, listen: address }] })).rejects.toThrow(next);
  const empty = { ...group, role: 'standby', volumes: [], listen: address } as const;
  await expect(Gateway.open({ ...where, groups: [empty] })).rejects.toThrow(next);
  await expect(Gateway.open({ ...where, groups: [{ ...group, journal: MIB }] })).rejects.toThrow('--journal');
  expect(readdirSync(state)).toEqual([]);

  mkdirSync(join(place, 'main'), { recursive: true });
  writeFileSync(join(place, 'main', 'mine'), '');
  await expect(Gateway.open({ ...where, nbd: [address] })).rejects.toThrow(next);
  expect(readdirSync(join(place, 'main'))).toEqual(['mine']);

  const used = await Gateway.open(where);
  await used.ready();
  await new LibraryVolume(used.volume('disk')).write(0, Buffer.alloc(4096, 1));
  await used.abandon();
  await expect(Gateway.open({ ...where, nbd: [address] })).rejects.toThrow(next);
  expect(readdirSync(join(place, 'main'))).toContain('superblock.a');
  taken.close();
});

test('what an existing state contradicts, does nothing, or is not there is told', async () => {
  const where = { state, site: 'a', nbd: [] };
  await (await Gateway.open({ ...where, groups: [group] })).close();
  const refused = (groups: GroupOptions[], nbd: { path: string }[] = []) =>
    expect(Gateway.open({ ...where, nbd, groups })).rejects;
  const small = { ...group, volumes: [{ name: 'disk', blockSize: 512 }] };
  await refused([small]).toThrow('volume disk has blocks of 4096 bytes, the configuration says 512');
  const web = { ...group, group: 'web', volumes: [{ name: 'disk' }] };
  await refused([web]).toThrow('The state directory has group main: is one of them meant, with --group?');
  expect(readdirSync(state)).toEqual(['main']);
  await (await Gateway.open({ ...where, groups: [{ ...web, volumes: [{ name: 'disk', size: MIB }] }] })).close();
  const short = { ...group, journal: 8 * MIB };
  await refused([short]).toThrow(/needs at least 8 segments of 4194304 bytes$/); // and no word of the other group
  const folder = join(state, 'none');
  await refused([group], [{ path: join(folder, 'x.sock') }]).toThrow(`there is no folder ${folder}: make it`);
  const split = await Gateway.open({ ...where, groups: [{ ...group, whenSplit: { prefer: 'a' } }] });
  expect(split.warnings).toEqual(['group main: --when-split is for --role dual, and does nothing at a primary']);
  await split.close();
  for (const name of ['superblock.a', 'superblock.b']) writeFileSync(join(state, 'main', name), 'rubbish');
  await refused([group]).toThrow(`state directory ${join(state, 'main')}: superblock.a and superblock.b damaged`);
});

// The second start founded a new group over what was left; the first one, refused for its options, removed that.
test('a journal whose superblocks are gone is refused, and kept, be the options right or wrong', async () => {
  const gateway = await Gateway.open({ state, site: 'a', nbd: [], groups: [group] });
  await gateway.ready();
  await new LibraryVolume(gateway.volume('disk')).write(0, Buffer.alloc(4096, 1));
  await gateway.close();
  for (const name of ['superblock.a', 'superblock.b']) rmSync(join(state, 'main', name));
  const left = readdirSync(join(state, 'main'));
  expect(left).toContain('segment-0000000000.log');
  for (const options of [{ ...group, onReject: 'halt' as const }, group]) {
    await expect(Gateway.open({ state, site: 'a', nbd: [], groups: [options] })).rejects.toThrow();
    expect(readdirSync(join(state, 'main'))).toEqual(left);
  }
});

// An assertion failed, as if it were a bug of ours; or it was taken: a group ../x wrote beside the state directory.
test.each<[string, object, string]>([
  ['ring', { ring: 3 * MIB }, 'options.groups.0.ring: it must be a multiple of 4 MiB, from 4 MiB to 1 GiB'],
  ['ring', { ring: 2048 * MIB }, 'options.groups.0.ring: it must be a multiple'],
  ['ring', { ring: '64M' }, 'options.groups.0.ring: Invalid input: expected number, received string'],
  ['journal', { journal: Number.NaN }, 'options.groups.0.journal: '],
  ['group', { group: '../x' }, 'options.groups.0.group: name "../x" is not a name'],
  ['volumes', { volumes: undefined }, 'options.groups.0.volumes: '],
  ['volume name', { volumes: [{ name: 'disk@applied', size: MIB }] }, 'options.groups.0.volumes.0.name: '],
  ['volume size', { volumes: [{ name: 'disk', size: '1048576' }] }, 'options.groups.0.volumes.0.size: '],
  ['no volume', { volumes: [] }, 'group main is new and has no volume: give it one'],
  ['kernel', { kernel: 'native' }, 'options.groups.0.kernel: '],
  ['speculation', { speculation: true }, 'options.groups.0.speculation: '],
  ['when-split', { whenSplit: 'prefer:a' }, "options.groups.0.whenSplit: it must be 'freeze', { prefer: SITE }"],
  ['round trip', { peer: 'ws://127.0.0.1:1', linkRttMs: -1 }, 'options.groups.0.linkRttMs: '],
  ['peer', { peer: 'ws://127.0.0.1:0' }, 'options.groups.0.peer: '],
  ['listen', { listen: { host: '127.0.0.1', port: 70_000 } }, 'options.groups.0.listen.port: '],
  ['both ends', { peer: 'ws://127.0.0.1:1', listen: { host: '127.0.0.1', port: 0 } }, 'of a pair one has `peer`'],
  ['key unknown', { whenpeeraway: 'block' }, 'options.groups.0: Unrecognized key: "whenpeeraway"'],
])('an option that cannot be is told by its place: %s', async (_, change, message) => {
  const place = join(state, 'a');
  const refused = Gateway.open({ state: place, site: 'a', nbd: [], groups: [{ ...group, ...change }] });
  await expect(refused).rejects.toMatchObject({ code: 'CONFIG', message: expect.stringContaining(message) });
  expect(readdirSync(state)).toEqual([]);
});

test('options of a gateway that cannot be are told, all at once', async () => {
  const options = { state: '', site: 'a b', nbd: [{ host: '::1' }], groups: [group, group] };
  await expect(Gateway.open(options as never)).rejects.toMatchObject({
    code: 'CONFIG',
    message: expect.stringMatching(
      /options\.state.*\noptions\.site: .*\noptions\.groups: two groups.*\noptions\.nbd\.0: it/,
    ),
  });
  await expect(Gateway.open(undefined as never)).rejects.toMatchObject({ code: 'CONFIG' });
});

test('a ring need not be a power of two', async () => {
  const gateway = await Gateway.open({
    state,
    site: 'a',
    nbd: [],
    groups: [{ ...group, ring: 12 * MIB, journal: 1024 * MIB }],
  });
  await gateway.ready();
  await gateway.close();
  expect(readdirSync(join(state, 'main'))).toContain('superblock.a');
});

// The status said "ack applied", and a flush was answered when it was on the disk here.
test('a group without a peer is not told to promise what only a peer can keep', async () => {
  for (const told of [{ ack: 'applied' }, { whenPeerAway: 'fail' }] as const) {
    const refused = Gateway.open({ state, site: 'a', nbd: [], groups: [{ ...group, ...told }] });
    await expect(refused).rejects.toMatchObject({ code: 'CONFIG', message: expect.stringContaining('needs a peer') });
  }
});

// The standby served the one that it had adopted first, after a restart the other one, and compared that with itself.
test('a volume whose name another group has is not adopted, the peer is told, and the other groups go on', async () => {
  const open: Gateway[] = [];
  const start = async (site: string, groups: readonly GroupOptions[]): Promise<Gateway> => {
    const gateway = await Gateway.open({ state: join(state, site), site, nbd: [], groups });
    open.push(gateway);
    return gateway;
  };
  const names = ['one', 'two', 'three', 'four'];
  const listen = { host: '127.0.0.1', port: 0 };
  const noImage = { name: 'web', platter: 'flat', path: join(state, 'none', 'web') } as const;
  const standbys = names.map((name) => ({
    ...{ ...group, group: name, role: 'standby' as const, listen },
    volumes: name === 'four' ? [noImage] : [],
  }));
  const primaryOf = (index: number, site: string, volume: string): Promise<Gateway> => {
    const peer = `ws://127.0.0.1:${standby.members[index]!.endpoint!.address!.port}`;
    return start(site, [{ ...group, group: names[index]!, peer, volumes: [{ name: volume, size: 64 * MIB }] }]);
  };
  const consistent = (index: number): Promise<void> =>
    vi.waitFor(() => expect(standby.members[index]!.group?.mirror.imageConsistent).toBe(true), 10_000);
  const refusal = (gateway: Gateway, reason: string): Promise<void> =>
    vi.waitFor(() => {
      const { link } = gateway.status().groups[0]!;
      expect(link).toMatchObject({ state: 'refused', reason: expect.stringContaining(reason) });
    }, 10_000);
  const standby = await start('s', standbys);
  try {
    const first = await primaryOf(0, 'a', 'disk');
    await consistent(0);
    const refused = await primaryOf(1, 'b', 'disk');
    const why = 'volume disk of group two: site s has a volume of this name in group one: serve one of the two groups';
    await refusal(refused, why);
    // what could not be set up leaves its names to others
    const failed = await primaryOf(3, 'd', 'web');
    await refusal(failed, 'none/web');
    await failed.close();
    await primaryOf(2, 'c', 'web');
    await consistent(2);
    expect(standby.members[1]!.group).toBeNull();
    expect(await standby.verify('disk', { group: 'one' })).toMatchObject({ equal: true, sites: ['a', 's'] });
    await expect(standby.verify('disk', { group: 'three' })).rejects.toMatchObject({ code: 'EINVAL' });
    // a peer asks about its own group only
    const ask = first.members[0]!.pair.ask('hash', { volume: 'web', sequence: 0, lba: 0, blockCount: 1, maps: false });
    await expect(ask).rejects.toThrow('group one has no volume named "web"');
    // and about no more than a verify compares at once
    const large = { volume: 'disk', sequence: 0, lba: 0, blockCount: VERIFY_BLOCKS_MAX + 1, maps: true };
    await expect(first.members[0]!.pair.ask('hash', large)).rejects.toMatchObject({ code: 'EINVAL' });
  } finally {
    await Promise.all(open.map((gateway) => gateway.close()));
  }
});

// A journal of 32 MiB for a volume of 64 was taken without a word, and then writes failed for ever.
test('a journal that cannot hold its volumes is told at the start, and once writes are refused for it', async () => {
  const said: string[] = [];
  const onEvent = (text: string): void => void said.push(text);
  const where = { site: 'a', nbd: [], onEvent };
  const enough = await Gateway.open({ ...where, state: join(state, 'enough'), groups: [group] });
  await enough.close();
  expect(enough.warnings).toEqual([]);
  const small = { ...group, journal: 32 * MIB };
  const listen = { host: '127.0.0.1', port: 0 };
  const gateway = await Gateway.open({ ...where, state: join(state, 'a'), groups: [{ ...small, listen }] });
  const open = [gateway];
  try {
    expect(gateway.warnings).toEqual([expect.stringContaining('--journal 32 MiB can hold 23.5 MiB of the 64 MiB of')]);
    const volume = new LibraryVolume(gateway.volume('disk'));
    const fill = async (): Promise<void> => {
      for (let at = 0; at < 64 * MIB; at += MIB) await volume.write(at, Buffer.alloc(MIB, 1));
    };
    await expect(fill()).rejects.toMatchObject({ code: 'ENOSPC' });
    const told = expect.stringContaining('group main: the journal is full of what cannot be freed: ');
    // the pad at a segment's end counts until it is passed over: behind it there may be room for some more
    await vi.waitFor(async () => {
      await fill().catch(() => {});
      expect(said).toContainEqual(told);
    }, 10_000);
    expect(gateway.status().groups[0]!.journal).toMatchObject({ full: true, diskFull: false, failed: null });
    // who is adopted later hears it then
    const heard: string[] = [];
    const peer = `ws://127.0.0.1:${gateway.members[0]!.endpoint!.address!.port}`;
    const standby = { ...small, role: 'standby' as const, volumes: [], peer };
    const to = { state: join(state, 'b'), site: 'b', nbd: [], onEvent: (text: string) => void heard.push(text) };
    const adopted = await Gateway.open({ ...to, groups: [standby] });
    open.push(adopted);
    const warning = /^warning: group main: --journal 32 MiB .* no more of the stream is taken once/;
    const all = (): string[] => [...heard, ...adopted.warnings.map((each) => `warning: ${each}`)];
    await vi.waitFor(() => expect(all()).toContainEqual(expect.stringMatching(warning)), 10_000);
  } finally {
    await Promise.all(open.map((each) => each.close()));
  }
});

// Nothing was said of a link that came, went or was refused.
test('an operator hears what becomes of the link, once', async () => {
  const open: Gateway[] = [];
  const start = async (site: string, change: Partial<GroupOptions>): Promise<{ gateway: Gateway; said: string[] }> => {
    const said: string[] = [];
    const onEvent = (text: string): void => void said.push(text);
    const where = { state: join(state, site), site, nbd: [], onEvent };
    const gateway = await Gateway.open({ ...where, groups: [{ ...group, ...change }] });
    open.push(gateway);
    return { gateway, said };
  };
  const [right, wrong] = ['a', 'b'].map((digit) => {
    const path = join(state, `key-${digit}`);
    writeFileSync(path, digit.repeat(64), { mode: 0o600 });
    return path;
  });
  const says = (said: string[], line: string): Promise<void> =>
    vi.waitFor(() => expect(said).toContain(`group main: ${line}`), 10_000);
  try {
    const listen = { host: '127.0.0.1', port: 0 };
    const standby = await start('b', { role: 'standby', volumes: [], listen, key: right });
    const peer = `ws://127.0.0.1:${standby.gateway.members[0]!.endpoint!.address!.port}`;
    const stranger = await start('c', { peer, key: wrong });
    await says(stranger.said, 'the link with the peer is refused: the shared keys of the two ends differ');
    await vi.waitFor(
      () => expect(stranger.gateway.status().groups[0]!.counters.linkRefusals).toBeGreaterThan(1),
      20_000,
    );
    expect(stranger.said).toHaveLength(1);
    await stranger.gateway.close();
    const primary = await start('a', { peer, key: right });
    await says(primary.said, `linked with site b (${peer})`);
    await says(standby.said, `linked with site a (${peer})`);
    await standby.gateway.close();
    await says(primary.said, 'no link with site b: the gateway is stopping');
    const { length } = standby.said;
    expect(standby.said[length - 1]).toBe(`group main: linked with site a (${peer})`); // its own stop is no news
  } finally {
    await Promise.all(open.map((gateway) => gateway.close()));
  }
});

// What it printed refused every read.
test('a standby gives the addresses of what can be read there', async () => {
  const listen = { host: '127.0.0.1', port: 0 };
  const standby = await Gateway.open({
    ...{ state: join(state, 's'), site: 's', nbd: [listen] },
    groups: [{ ...group, role: 'standby', listen, volumes: [] }],
  });
  const peer = `ws://127.0.0.1:${standby.members[0]!.endpoint!.address!.port}`;
  const primary = await Gateway.open({
    ...{ state: join(state, 'p'), site: 'p', nbd: [listen] },
    groups: [{ ...group, peer }],
  });
  try {
    await new LibraryVolume(primary.volume('disk')).write(0, Buffer.alloc(4096, 7));
    await standby.ready();
    await vi.waitFor(async () => expect(await primary.verify('disk')).toMatchObject({ equal: true }), 10_000);
    expect(primary.nbdUris()[0]).toMatch(/\/disk$/);
    expect(primary.catalog.views()).toEqual([]);
    expect(standby.nbdUris()[0]).toMatch(/\/disk@applied$/);
    expect(standby.catalog.views()).toEqual(['disk@applied']);
    const client = await NbdClient.connect(standby.nbdUris()[0]!);
    expect(await client.read(0, 1)).toEqual(Buffer.from([7]));
    await client.close();
  } finally {
    await Promise.all([primary.close(), standby.close()]);
  }
});

test('two groups with a volume of one name are not opened together, and each alone is', async () => {
  const both = ['one', 'two'].map((name) => ({ ...group, group: name }));
  const where = { state, site: 'a', nbd: [] };
  await expect(Gateway.open({ ...where, groups: both })).rejects.toMatchObject({
    code: 'CONFIG',
    message: expect.stringContaining('volume disk of group two: site a has a volume of this name in group one'),
  });
  await (await Gateway.open({ ...where, groups: both.slice(0, 1) })).close();
  await (await Gateway.open({ ...where, state: join(state, 'own'), groups: both.slice(1) })).close();
});
