/** The gateway through its own front door: the library entry, and NBD in the same process. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Gateway, type GroupOptions, LibraryVolume, NbdClient } from '../../src/index.js';

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
  } finally {
    await Promise.all(open.map((gateway) => gateway.close()));
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
