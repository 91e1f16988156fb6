/** Transactions through the library: one gateway over two volumes, a mirrored pair, and two sites that both write. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Gateway, type GroupOptions, LibraryVolume, type TransactionOptions } from '../../src/index.js';
import { TRANSACTION_LOCKS_MAX } from '../../src/limits.js';

const MIB = 1 << 20;
const BLOCK = 4096;
const common = { group: 'main', ack: 'local', speculation: 'on', whenPeerAway: 'degrade', kernel: 'wasm' } as const;
const volumes = ['data', 'index'].map((name) => ({ name, size: 16 * MIB }));

let state: string;
let open: Gateway[];
beforeEach(() => {
  state = mkdtempSync(join(tmpdir(), 'forelock-transaction-'));
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

async function startDual(): Promise<[Gateway, Gateway]> {
  const a = await start('a', { role: 'dual', listen: { host: '127.0.0.1', port: 0 }, linkRttMs: 10, volumes });
  const b = await start('b', { role: 'dual', peer: `ws://127.0.0.1:${a.members[0]!.endpoint!.address!.port}` });
  await Promise.all([a.ready(), b.ready()]);
  return [a, b];
}

/** Writes `value` to two blocks of each volume. */
function writeAll(gateway: Gateway, value: number, options: TransactionOptions = {}): Promise<void> {
  return gateway.transaction(
    'main',
    async (transaction) => {
      for (const name of ['data', 'index']) {
        for (const lba of [1, 9]) {
          await transaction.lock(name, { offset: lba * BLOCK, size: BLOCK });
          transaction.write(name, lba * BLOCK, Buffer.alloc(BLOCK, value));
        }
      }
    },
    options,
  );
}

async function shown(gateway: Gateway): Promise<number[]> {
  const found: number[] = [];
  for (const name of ['data', 'index']) {
    const volume = new LibraryVolume(gateway.volume(name));
    for (const lba of [1, 9]) found.push((await volume.read(lba * BLOCK, 1))[0]!);
  }
  return found;
}

async function atRest(gateways: readonly Gateway[]): Promise<void> {
  for (const gateway of gateways) await new LibraryVolume(gateway.volume('data')).flush();
  const isApplied = ({ groups: [group] }: Gateway): boolean =>
    group!.journal.peerApplied === group!.journal.peer.appended && group!.scopes.open.size === 0;
  for (let i = 0; i < 200 && !gateways.every(isApplied); i += 1) await new Promise((then) => setTimeout(then, 10));
}

test('over two volumes: nothing of it when it throws, all of it when it does not', async () => {
  const gateway = await start('a', { role: 'primary', volumes });
  await gateway.ready();
  const thrown = new Error('no');
  const fails = gateway.transaction('main', async (transaction) => {
    await transaction.lock('data', { offset: 0, size: 16 * BLOCK });
    transaction.write('data', 9 * BLOCK, Buffer.alloc(BLOCK, 7));
    throw thrown;
  });
  await expect(fails).rejects.toBe(thrown);
  expect(await shown(gateway)).toEqual([0, 0, 0, 0]);
  await writeAll(gateway, 5);
  expect(await shown(gateway)).toEqual([5, 5, 5, 5]);
});

test('the caller may change the bytes that it gave; what it reads back is its own', async () => {
  const gateway = await start('a', { role: 'primary', volumes });
  await gateway.ready();
  const bytes = Buffer.alloc(2 * BLOCK, 3);
  await gateway.transaction('main', async (transaction) => {
    await transaction.lock('data', { offset: 0, size: 4 * BLOCK });
    transaction.write('data', 0, bytes);
    bytes.fill(9);
    transaction.write('data', BLOCK, Buffer.alloc(BLOCK, 4)); // over its own
    expect([...(await transaction.read('data', BLOCK - 1, 2))]).toEqual([3, 4]);
  });
  const volume = new LibraryVolume(gateway.volume('data'));
  expect([...(await volume.read(BLOCK - 1, 2))]).toEqual([3, 4]);
});

test('refused: what is not locked or not there, too many locks, too many bytes, a transaction that is over', async () => {
  const gateway = await start('a', { role: 'primary', ring: 8 * MIB, volumes });
  await gateway.ready();
  await expect(gateway.transaction('other', async () => {})).rejects.toMatchObject({ code: 'EINVAL' });
  let late: (() => void) | null = null;
  await gateway.transaction('main', async (transaction) => {
    const block = Buffer.alloc(BLOCK);
    expect(() => transaction.write('data', 0, block)).toThrow('not within a lock');
    expect(() => transaction.write('nothing', 0, block)).toThrow('no volume');
    await transaction.lock('data', { offset: 0, size: 4 * MIB });
    await expect(transaction.lock('data', { offset: BLOCK, size: BLOCK })).rejects.toMatchObject({ code: 'EINVAL' });
    expect(() => transaction.write('data', 1, block)).toThrow('whole blocks');
    const { size } = gateway.volume('data');
    await expect(transaction.read('data', size - 1, 2)).rejects.toMatchObject({ code: 'EINVAL' });
    expect(() => transaction.write('data', 0, Buffer.alloc(MIB))).toThrow('at most 1048576 bytes');
    transaction.write('data', 0, Buffer.alloc(MIB - 64 * 1024, 1));
    for (let lock = 1; lock < TRANSACTION_LOCKS_MAX - 1; lock += 1)
      await transaction.lock('index', { offset: lock * BLOCK, size: BLOCK });
    const more = transaction.lock('index', { offset: 0, size: BLOCK });
    await expect(more).rejects.toMatchObject({ code: 'ENOSPC' });
    late = () => transaction.write('data', 0, block);
  });
  expect(late!).toThrow('is over');
  expect((await new LibraryVolume(gateway.volume('data')).read(MIB - 65 * 1024, 1))[0]).toBe(1);
});

test('a standby shows all of it', async () => {
  const b = await start('b', { role: 'standby', listen: { host: '127.0.0.1', port: 0 } });
  const a = await start('a', {
    role: 'primary',
    peer: `ws://127.0.0.1:${b.members[0]!.endpoint!.address!.port}`,
    volumes,
    speculation: 'off',
    whenPeerAway: 'block',
  });
  await Promise.all([a.ready(), b.ready()]);
  await writeAll(a, 6); // lock-step answers when it is applied
  for (const volume of b.groups[0]!.volumes.values()) expect(volume.map.lookup(9)).toBe(true);
});

// Both replayed: each site's first lock had the earlier stamp, so each transaction lay on top of the other in one place.
test('both sites write: two that lock the same blocks in opposite orders never show half of each', async () => {
  const both = await startDual();
  const crossing = (gateway: Gateway, value: number, names: string[]): Promise<void> =>
    gateway.transaction(
      'main',
      async (transaction) => {
        for (const name of names) {
          await transaction.lock(name, { offset: 0, size: 10 * BLOCK });
          for (const lba of [1, 9]) transaction.write(name, lba * BLOCK, Buffer.alloc(BLOCK, value));
        }
      },
      { waitMsMax: 300 },
    );
  let expected = [0];
  for (let round = 1; round <= 10; round += 1) {
    const values = [2 * round, 2 * round + 1];
    const orders = [
      ['data', 'index'],
      ['index', 'data'],
    ];
    const ends = await Promise.allSettled(both.map((gateway, site) => crossing(gateway, values[site]!, orders[site]!)));
    const written = values.filter((_, site) => ends[site]!.status === 'fulfilled');
    await atRest(both);
    const [here, there] = [await shown(both[0]), await shown(both[1])];
    expect(here).toEqual(there);
    expect(new Set(here).size, `${here}`).toBe(1);
    expect(written.length > 0 ? written : expected).toContain(here[0]);
    expected = [here[0]!];
  }
});

test('both sites write: who loses has written nothing, who is answered has written all', async () => {
  const both = await startDual();
  let expected = 0;
  let aborted = 0;
  for (let round = 1; round <= 20; round += 1) {
    const values = [2 * round, 2 * round + 1];
    const ends = await Promise.allSettled(
      both.map((gateway, index) => writeAll(gateway, values[index]!, { waitMsMax: 1000 })),
    );
    const refused = ends.filter((end) => end.status === 'rejected');
    for (const { reason } of refused) expect(['LOCK_ABORTED', 'ETIMEDOUT']).toContain(reason.code);
    aborted += refused.length;
    const written = values.filter((_, index) => ends[index]!.status === 'fulfilled');
    await atRest(both);
    const [here, there] = [await shown(both[0]), await shown(both[1])];
    expect(here).toEqual(there);
    expect(new Set(here).size, `${here}`).toBe(1);
    if (written.length > 0) expect(written).toContain(here[0]);
    else expect(here[0]).toBe(expected);
    expected = here[0]!;
  }
  expect(aborted).toBeGreaterThan(0);
});
