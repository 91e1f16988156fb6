/** The shared key: a file, never an argument, because arguments are seen by everyone on the machine. */
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { ForelockError } from '../errors.js';

export const KEY_SIZE_MIN = 16;
/** More is not a key but a mistake in the path. */
export const KEY_SIZE_MAX = 4096;

export interface SharedKey {
  readonly bytes: Uint8Array;
  /** What the operator should hear about the file, or null. */
  readonly warning: string | null;
}

/**
 * Reads a shared key. The bytes are taken as they are, but for line ends at the end of the file, which editors add.
 *
 * @throws ForelockError CONFIG, with what to do
 */
export function readKey(path: string): SharedKey {
  const make = `make one with: openssl rand -hex 32 > ${path} && chmod 600 ${path}`;
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT') throw new ForelockError('CONFIG', `key file ${path} does not exist; ${make}`);
    throw new ForelockError('CONFIG', `key file ${path} cannot be opened: ${(error as Error).message}`);
  }
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw new ForelockError('CONFIG', `key file ${path} is not a file`);
    const buffer = Buffer.alloc(KEY_SIZE_MAX + 1);
    let size = readSync(fd, buffer, 0, buffer.length, 0);
    if (size > KEY_SIZE_MAX) throw new ForelockError('CONFIG', `key file ${path} is larger than ${KEY_SIZE_MAX} bytes`);
    while (size > 0 && (buffer[size - 1] === 0x0a || buffer[size - 1] === 0x0d)) size -= 1;
    if (size < KEY_SIZE_MIN) {
      throw new ForelockError(
        'CONFIG',
        `key file ${path} holds ${size} bytes, at least ${KEY_SIZE_MIN} are needed; ${make}`,
      );
    }
    const readable = (stat.mode & 0o004) !== 0;
    const warning = readable ? `key file ${path} can be read by everyone: chmod 600 ${path}` : null;
    return { bytes: new Uint8Array(buffer.subarray(0, size)), warning };
  } finally {
    closeSync(fd);
  }
}
