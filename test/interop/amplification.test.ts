/**
 * Bytes passed to write calls on state files, beside the bytes that the host wrote: headers, checksums, padding, maps
 * and checkpoints may cost 5 % at 4 KiB and 1 % at 128 KiB. Cleaning is a matter of room, and the journal here has
 * enough of it. Platter journal, one gateway, every block written twice at random. FORELOCK_LONG=1: 1 GiB instead of
 * 128 MiB, and the system calls themselves are counted too.
 */
import { readFileSync, statSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { MIB } from '../../src/limits.js';
import { type GatewayProcess, LONG, Room, until } from './gateway-process.js';
import { requireTools, runToolOk } from './tools.js';

const SIZE = (LONG ? 1024 : 128) * MIB;
const PASSES = 2;
const CASES = [
  { blockSize: '4k', depth: 32, most: 1.05 },
  { blockSize: '128k', depth: 8, most: 1.01 },
];

let room: Room;
beforeEach(async () => {
  room = await Room.open();
});
afterEach(() => room.close());

describe.skipIf(!requireTools(LONG ? ['fio', 'strace'] : ['fio']))('write amplification', () => {
  for (const { blockSize, depth, most } of CASES) {
    test(`${blockSize} at random, at most ${most}`, { timeout: 300_000 }, async () => {
      const gateway = await room.start({ site: 'a', volumes: [`vm:${SIZE}`], journal: 4 * SIZE });
      const trace = LONG ? await traceWrites(gateway) : null;
      const before = await written(gateway);
      for (let pass = 0; pass < PASSES; pass += 1) {
        await runToolOk(
          'fio',
          [
            ...['--name=fill', '--ioengine=nbd', `--uri=${await gateway.uri('vm')}`, '--rw=randwrite'],
            ...[`--bs=${blockSize}`, `--iodepth=${depth}`, `--size=${SIZE}`, `--randseed=${pass + 1}`, '--end_fsync=1'],
          ],
          { cwd: room.directory, timeout: 200_000 },
        );
      }
      const { counters } = await gateway.status();
      const bytes = await written(gateway);
      expect(counters.volumeBytesWritten).toBe(PASSES * SIZE);
      expect(counters.cleanerBlocksMoved).toBe(0);
      const host = counters.volumeBytesWritten!;
      const files = bytes.segment + bytes.map + bytes.superblock - before.segment - before.map - before.superblock;
      expect(counters.checkpointCheckpoints, 'checkpoints taken').toBeGreaterThan(0);
      expect(files).toBeGreaterThanOrEqual(host);
      expect(files / host).toBeLessThanOrEqual(most);
      process.stderr.write(
        `amplification: ${blockSize}: ${(files / host).toFixed(4)} (${counters.checkpointCheckpoints} checkpoints, ` +
          `maps ${bytes.map}, superblocks ${bytes.superblock} of ${files} bytes)\n`,
      );
      await gateway.stop();
      const traced = trace === null ? null : await trace();
      if (traced !== null) {
        process.stderr.write(`amplification: ${blockSize}: ${(traced / host).toFixed(4)} by the system calls\n`);
        expect(traced / host).toBeLessThanOrEqual(most);
      }
    });
  }
});

async function written(gateway: GatewayProcess): Promise<{ segment: number; map: number; superblock: number }> {
  const { counters } = await gateway.status();
  const of = (kind: string) => {
    const bytes = counters[`stateBytes${kind}`];
    expect(bytes, `counter of ${kind}`).toBeTypeOf('number');
    return bytes!;
  };
  return { segment: of('Segment'), map: of('Map'), superblock: of('Superblock') };
}

/**
 * Watches every write call of a process, all its threads. @returns gives the bytes written to files of its state
 * directory, until the process ended
 */
async function traceWrites(gateway: GatewayProcess): Promise<() => Promise<number>> {
  const output = `${gateway.options.state}.trace`;
  const calls = 'write,pwrite64,writev,pwritev,pwritev2';
  const ended = runToolOk(
    'strace',
    ['-f', '-qq', '-y', '-s', '0', '-e', `trace=${calls}`, '-o', output, '-p', `${gateway.pid}`],
    {
      timeout: 300_000,
    },
  );
  ended.catch(() => {});
  await until('strace attached', () => statSync(output, { throwIfNoEntry: false }) !== undefined);
  return async () => {
    await ended;
    let bytes = 0;
    let pending = new Map<string, string>();
    for (const line of readFileSync(output, 'utf8').split('\n')) {
      // a call that another thread interrupts is told in two lines
      const [, pid, rest] = /^(\d+) +(.*)$/.exec(line) ?? [];
      if (pid === undefined || rest === undefined) continue;
      if (rest.includes('<unfinished')) pending.set(pid, rest);
      const begun = rest.startsWith('<...') ? (pending.get(pid) ?? '') : rest;
      const path = /^\w+\(\d+<([^>]*)>/.exec(begun)?.[1];
      const result = / = (\d+)$/.exec(rest)?.[1];
      if (result !== undefined && path?.startsWith(`${gateway.options.state}/`)) bytes += Number(result);
    }
    pending = new Map();
    return bytes;
  };
}
