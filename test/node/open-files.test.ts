/** Files that a process may have open: a limit that the journal would reach is told before it does. */
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { Gateway } from '../../src/index.js';
import { GIB, MIB } from '../../src/limits.js';
import { findFewFiles, openFilesAllowed } from '../../src/node/open-files.js';

const group = (limit: number, segmentSize: number) => ({
  journal: { room: { limit }, segmentSize },
  volumes: { size: 2 },
});

test('each segment of each group counts, and what is open beside them', () => {
  const few = [group(64 * GIB, 64 * MIB)]; // 1024 segments
  expect(findFewFiles(few, 1024)).toMatch(
    /^this process may have 1024 files open, and may need 13\d\d, .* LimitNOFILE= /,
  );
  expect(findFewFiles(few, 1400)).toBeNull();
  const two = [...few, group(16 * GIB, 16 * MIB)];
  expect(findFewFiles(two, 1400)).toContain('and may need 24');
  expect(findFewFiles(two, 2500)).toBeNull();
});

test('what is not known is not warned of', () => {
  expect(findFewFiles([group(64 * GIB, 4 * MIB)], null)).toBeNull();
});

test.runIf(fs.existsSync('/proc/self/limits'))('the system says how many', () => {
  expect(openFilesAllowed()).toBeGreaterThan(100);
});

test('a gateway that may open too few warns when it is opened', async () => {
  const { readFileSync } = fs;
  const limits =
    'Limit  Soft Limit  Hard Limit  Units\nMax open files            256                  256                  files\n';
  vi.spyOn(fs, 'readFileSync').mockImplementation(((path: string, ...rest: []) =>
    path === '/proc/self/limits' ? limits : readFileSync(path, ...rest)) as typeof readFileSync);
  const state = fs.mkdtempSync(join(tmpdir(), 'forelock-open-files-'));
  const volumes = [{ name: 'disk', size: 64 * MIB }];
  const policy = { ack: 'local', speculation: 'on', whenPeerAway: 'degrade', kernel: 'wasm' } as const;
  const groups = [{ group: 'main', role: 'primary', volumes, ...policy } as const];
  try {
    const gateway = await Gateway.open({ state, site: 'a', nbd: [], groups });
    const { warnings } = gateway;
    await gateway.close();
    expect(warnings).toEqual([expect.stringContaining('this process may have 256 files open')]);
  } finally {
    vi.restoreAllMocks();
    fs.rmSync(state, { recursive: true, force: true });
  }
});
