import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readKey } from '../../src/link/key.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'forelock-key-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

function file(name: string, content: string | Buffer, mode = 0o600): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  chmodSync(path, mode);
  return path;
}

test('a key is the bytes of its file without the line end an editor added', () => {
  const { bytes, warning } = readKey(file('good', '0123456789abcdef\r\n'));
  expect(Buffer.from(bytes).toString()).toBe('0123456789abcdef');
  expect(warning).toBeNull();
});

test('a key that everyone can read is taken, with a warning', () => {
  expect(readKey(file('open', '0123456789abcdef', 0o644)).warning).toContain('chmod 600');
});

test.each([
  ['missing', null, 'does not exist; make one with'],
  ['short', 'too short\n', 'holds 9 bytes, at least 16 are needed'],
  ['empty', '', 'holds 0 bytes'],
  ['large', Buffer.alloc(5000, 65), 'larger than 4096 bytes'],
])('a %s key file is a configuration error that says what to do', (name, content, message) => {
  const path = content === null ? join(folder, 'none') : file(name, content);
  expect(() => readKey(path)).toThrow(
    expect.objectContaining({ code: 'CONFIG', message: expect.stringContaining(message) }),
  );
});

test('a directory is no key', () => {
  expect(() => readKey(folder)).toThrow(expect.objectContaining({ code: 'CONFIG' }));
});
