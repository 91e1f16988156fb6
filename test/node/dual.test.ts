/** Both sites write, through their front doors: two gateways in one process, and a line between them that has a delay. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Gateway, type GroupOptions, LibraryVolume } from '../../src/index.js';

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
