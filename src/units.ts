/** The one place where texts become names and sizes, and bytes become blocks. */
import { ForelockError } from './errors.js';

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

/** A name as users write it, or an error that says what is allowed. */
export function parseName(text: string, what: string): string {
  if (!NAME.test(text)) {
    throw new ForelockError(
      'USAGE',
      `${what} ${JSON.stringify(text)} is not a name: a letter or digit, then up to 63 letters, digits, '.', '_' or '-'`,
    );
  }
  return text;
}

const UNITS: Record<string, number> = {
  '': 1,
  K: 2 ** 10,
  M: 2 ** 20,
  G: 2 ** 30,
  T: 2 ** 40,
  KIB: 2 ** 10,
  MIB: 2 ** 20,
  GIB: 2 ** 30,
  TIB: 2 ** 40,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
};

/** A size in bytes: `256M` = `256MiB` = 256 * 2^20, `256MB` = 256 * 10^6. */
export function parseSize(text: string, what: string): number {
  const match = /^(\d{1,15})\s*([A-Za-z]*)$/.exec(text.trim());
  const unit = match ? UNITS[match[2]!.toUpperCase()] : undefined;
  const size = match && unit !== undefined ? Number(match[1]) * unit : Number.NaN;
  if (!Number.isSafeInteger(size)) {
    throw new ForelockError(
      'USAGE',
      `${what} ${JSON.stringify(text)} is not a size: a whole number with an optional K, M, G, T, KiB..TiB (powers of 1024) or KB..TB (powers of 1000)`,
    );
  }
  return size;
}

/** Bytes for people, in powers of 1024, at most one decimal. */
export function formatSize(bytes: number): string {
  let value = bytes;
  let unit = 0;
  const names = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  while (value >= 1024 && unit < names.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const text = Number.isInteger(value) || value >= 100 ? value.toFixed(0) : value.toFixed(1);
  return `${text} ${names[unit]}`;
}
