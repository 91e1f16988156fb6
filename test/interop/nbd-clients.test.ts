/** Real NBD clients against the server: libnbd's tools, QEMU's, fio. */
import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ForelockError } from '../../src/errors.js';
import { formatNbdUri, type NbdAddress } from '../../src/frontend/nbd/address.js';
import { NbdServer } from '../../src/frontend/nbd/server.js';
import { MIB } from '../../src/limits.js';
import { MemoryCatalog, MemoryDevice } from '../nbd/memory-device.js';
import { requireTools, runTool, runToolOk } from './tools.js';

const SIZE = 32 * MIB;
let directory: string;
let server: NbdServer;
let device: MemoryDevice;
let tcp: NbdAddress;
let uri: string;
let unixUri: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'forelock-interop-'));
  device = new MemoryDevice({ name: 'vm1', size: SIZE, description: 'group g, writable' });
  const standby = new MemoryDevice({ name: 'vm2', size: MIB, contentRefused: true, description: 'standby of site a' });
  const catalog = new MemoryCatalog(device, standby);
  catalog.refused.set('vm2@applied', new ForelockError('EPERM', 'vm2 is resyncing: no view until it is consistent'));
  server = new NbdServer({ catalog });
  tcp = await server.listen({ host: '127.0.0.1', port: 0 });
  uri = formatNbdUri(tcp, 'vm1');
  unixUri = formatNbdUri(await server.listen({ path: join(directory, 'nbd.sock') }), 'vm1');
});
afterEach(async () => {
  await server.close();
  await rm(directory, { recursive: true });
});

const sha = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

describe.skipIf(!requireTools(['nbdinfo', 'nbdcopy']))('libnbd', () => {
  test('nbdinfo: size, flags, description, over TCP and a unix socket', async () => {
    for (const target of [uri, unixUri]) {
      const shown = JSON.parse(await runToolOk('nbdinfo', ['--json', target]));
      expect(shown).toMatchObject({ protocol: 'newstyle-fixed', structured: true });
      expect(shown.exports).toMatchObject([
        {
          'export-name': 'vm1',
          description: 'group g, writable',
          'export-size': SIZE,
          contexts: ['base:allocation'],
          is_read_only: false,
          can_cache: true,
          can_df: true,
          can_fast_zero: true,
          can_flush: true,
          can_fua: true,
          can_multi_conn: true,
          can_trim: true,
          can_zero: true,
          block_size_minimum: 1,
          block_size_preferred: 4096,
          block_size_maximum: 32 * MIB,
        },
      ]);
    }
  });

  test('nbdinfo --list: every export with its size, a standby among them', async () => {
    const shown = JSON.parse(await runToolOk('nbdinfo', ['--list', '--json', formatNbdUri(tcp, '')]));
    expect(shown.exports).toMatchObject([
      { 'export-name': 'vm1', 'export-size': SIZE, is_read_only: false },
      { 'export-name': 'vm2', 'export-size': MIB, is_read_only: true },
    ]);
  });

  test('nbdinfo --map', async () => {
    await fillBlocks(MIB, MIB);
    const map = JSON.parse(await runToolOk('nbdinfo', ['--map', '--json', uri]));
    expect(map).toMatchObject([
      { offset: 0, length: MIB, type: 3 },
      { offset: MIB, length: MIB, type: 0 },
      { offset: 2 * MIB, length: SIZE - 2 * MIB, type: 3 },
    ]);
  });

  test('nbdcopy in and out, several connections, holes kept', async () => {
    const content = Buffer.concat([
      randomBytes(8 * MIB + 512),
      Buffer.alloc(8 * MIB),
      randomBytes(SIZE - 16 * MIB - 512),
    ]);
    const [from, to] = [join(directory, 'from'), join(directory, 'to')];
    await writeFile(from, content);
    await runToolOk('nbdcopy', ['--flush', from, uri]);
    expect(sha(device.bytes)).toBe(sha(content));
    await runToolOk('nbdcopy', [unixUri, to]);
    expect(sha(await readFile(to))).toBe(sha(content));
    expect(server.counters).toMatchObject({ errors: 0, bytesPending: 0 });
  });

  test('nbdcopy from a standby fails and copies nothing', async () => {
    expect((await runTool('nbdcopy', [formatNbdUri(tcp, 'vm2'), join(directory, 'to')])).status).not.toBe(0);
  });
});

describe.skipIf(!requireTools(['qemu-io', 'qemu-img']))('QEMU', () => {
  const qemuIo = (target: string, ...commands: string[]) =>
    runTool('qemu-io', ['-f', 'raw', ...commands.flatMap((command) => ['-c', command]), target]);

  test('qemu-io: writes, zeroes, discards, FUA, at any alignment', async () => {
    const done = await qemuIo(
      uri,
      'write -P 0x5a 4096 65536',
      'write -z 8192 4096',
      'write -z -u 12288 4096',
      'discard 16384 8192',
      'write -P 3 1 777',
      'write -f -P 4 1048575 3',
      'flush',
      'read -P 0x5a 4096 4096',
      'read -P 0 8192 8192',
      'read -P 0 16384 8192',
      'read -P 3 1 777',
      'read -P 4 1048575 3',
      'aio_write -P 7 2M 8M',
      'aio_write -P 8 10M 8M',
      'aio_flush',
      'read -P 7 2M 8M',
      'read -P 8 10M 8M',
    );
    expect(`${done.stdout}${done.stderr}`).not.toMatch(/failed|error/i);
    expect(done.status).toBe(0);
    expect(device.bytes[1]).toBe(3);
    expect(device.bytes[9 * MIB]).toBe(7);
  });

  test('qemu-io: beyond the end and on a standby it gets an error and goes on', async () => {
    const standby = formatNbdUri(tcp, 'vm2');
    const refused = await runTool('qemu-io', ['-r', '-f', 'raw', '-c', 'read 0 512', '-c', 'read 512 512', standby]);
    expect(`${refused.stdout}${refused.stderr}`).toMatch(/Operation not permitted[\s\S]*Operation not permitted/);
  });

  test('qemu-img on a refused view or an unknown export shows the reason', async () => {
    const refused = await runTool('qemu-img', ['info', '-f', 'raw', formatNbdUri(tcp, 'vm2@applied')]);
    expect(refused.stderr).toContain('vm2 is resyncing: no view until it is consistent');
    const unknown = await runTool('qemu-img', ['info', '-f', 'raw', formatNbdUri(tcp, 'nothing')]);
    expect(unknown.stderr).toContain('no export is named "nothing"');
    expect([refused.status, unknown.status]).toEqual([1, 1]);
  });

  test('qemu-img info, map, convert both ways, compare', async () => {
    expect(JSON.parse(await runToolOk('qemu-img', ['info', '-f', 'raw', '--output=json', uri]))).toMatchObject({
      'virtual-size': SIZE,
      format: 'raw',
    });
    const image = join(directory, 'image.qcow2');
    const raw = join(directory, 'image.raw');
    const content = Buffer.concat([randomBytes(MIB), Buffer.alloc(SIZE - 2 * MIB), randomBytes(MIB)]);
    await writeFile(raw, content);
    await runToolOk('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', raw, uri]);
    expect(sha(device.bytes)).toBe(sha(content));
    const map = JSON.parse(await runToolOk('qemu-img', ['map', '-f', 'raw', '--output=json', uri]));
    expect(map).toMatchObject([
      { start: 0, length: MIB, data: true },
      { start: MIB, length: SIZE - 2 * MIB, data: false, zero: true },
      { start: SIZE - MIB, length: MIB, data: true },
    ]);
    await runToolOk('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', unixUri, image]);
    await runToolOk('qemu-img', ['compare', '-f', 'qcow2', '-F', 'raw', image, uri]);
  });
});

describe.skipIf(!requireTools(['fio']))('fio', () => {
  test('random writes of mixed sizes at depth 32, verified', async () => {
    const out = await runToolOk(
      'fio',
      [
        '--name=verify',
        '--ioengine=nbd',
        `--uri=${uri}`,
        '--rw=randwrite',
        '--bsrange=512-64k',
        '--bs_unaligned=1',
        '--iodepth=32',
        `--size=${SIZE}`,
        '--io_size=16m',
        '--verify=crc32c',
        '--output-format=json',
      ],
      { cwd: directory },
    );
    const report = JSON.parse(out.slice(out.indexOf('{')));
    expect(report.jobs[0].error).toBe(0);
    expect(report.jobs[0].write.total_ios).toBeGreaterThan(100);
    expect(server.counters.errors).toBe(0);
  });
});

describe.skipIf(!requireTools(['mkfs.ext4', 'fsck.ext4', 'nbdcopy']))('a file system', () => {
  test('made on a file, copied in and out, checked', async () => {
    const [from, to] = [join(directory, 'from'), join(directory, 'to')];
    const file = await open(from, 'w');
    await file.truncate(SIZE);
    await file.close();
    await runToolOk('mkfs.ext4', ['-q', from]);
    await runToolOk('nbdcopy', [from, uri]);
    await runToolOk('nbdcopy', [uri, to]);
    await runToolOk('fsck.ext4', ['-n', '-f', to]);
  });
});

function fillBlocks(offset: number, size: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const settle = (error: Error | null) => (error ? reject(error) : resolve());
    device.write(offset, size, [Buffer.alloc(size, 1)], false, { settle });
  });
}
