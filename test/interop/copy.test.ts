/**
 * A file system goes to the source over NBD, over a long link, and comes back from the target's pinned view: the same
 * bytes, and whole. FORELOCK_LONG=1: 512 MiB instead of 64.
 */
import { randomBytes } from 'node:crypto';
import { cp, mkdir, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { MIB } from '../../src/limits.js';
import { forelock, LONG, Room } from './gateway-process.js';
import { requireTools, runToolOk } from './tools.js';

const SIZE = (LONG ? 512 : 64) * MIB;
const TOOL = { timeout: 300_000 };
const SOURCES = fileURLToPath(new URL('../../src', import.meta.url));

let room: Room;
beforeEach(async () => {
  room = await Room.open();
});
afterEach(() => room.close());

/** A directory as people have them: many small files, a few large ones, links, a hole. */
async function plantTree(root: string): Promise<void> {
  await mkdir(root);
  await cp(SOURCES, join(root, 'sources'), { recursive: true });
  for (let i = 0; i < 4; i += 1) await writeFile(join(root, `large-${i}`), randomBytes(SIZE / 16));
  await writeFile(join(root, 'sparse'), 'begin');
  await truncate(join(root, 'sparse'), SIZE / 8);
  await writeFile(join(root, 'compressible'), Buffer.alloc(SIZE / 16, 'forelock '));
}

describe.skipIf(!requireTools(['mke2fs', 'e2fsck', 'nbdcopy', 'cmp', 'gcc']))('a file system', () => {
  test('arrives whole at the target at 50 ms round trip', { timeout: LONG ? 600_000 : 120_000 }, async () => {
    const [tree, image, back] = [room.path('tree'), room.path('image'), room.path('back')] as const;
    await plantTree(tree);
    await runToolOk('mke2fs', ['-q', '-t', 'ext4', '-d', tree, image, `${SIZE / 1024}k`], TOOL);
    const { source, target } = await room.pair({ size: SIZE, roundTripMs: 50 });

    await runToolOk('nbdcopy', ['--flush', image, await source.uri('vm')], TOOL);
    await source.untilApplied();
    await runToolOk('nbdcopy', [await target.uri('vm@applied'), back], TOOL);

    await runToolOk('cmp', [image, back], TOOL);
    await runToolOk('e2fsck', ['-f', '-n', back], TOOL);
    const report = await source.verify();
    expect(report).toMatchObject({ equal: true, compared: 'data', differences: [], unreadable: [] });
    for (const { state } of [source.options, target.options]) {
      const said = await forelock('verify', 'vm', '--state', state);
      expect(said).toMatchObject({ status: 0, stdout: expect.stringContaining(report.checksum) });
    }
    process.stderr.write(`copy: ${SIZE / MIB} MiB, ${report.blocks} blocks equal, checksum ${report.checksum}\n`);
  });
});
