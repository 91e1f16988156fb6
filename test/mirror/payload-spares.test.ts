import { expect, test } from 'vitest';
import { PAYLOAD_SPARES_SIZE_MAX } from '../../src/limits.js';
import { PayloadSpares } from '../../src/volume/payload-spares.js';

test('what was given back is used again, for the same size only and by one at a time', () => {
  const spares = new PayloadSpares();
  const first = spares.take(4096);
  const second = spares.take(4096);
  expect(first.length).toBe(4096);
  expect(second === first).toBe(false);
  spares.giveBack(first);
  expect(spares.take(8192).length).toBe(8192);
  expect(spares.take(4096) === first).toBe(true);
  expect(spares.take(4096) === first).toBe(false);
});

test('it keeps no more than it may, and makes room for sizes that are used now', () => {
  const spares = new PayloadSpares();
  const size = PAYLOAD_SPARES_SIZE_MAX / 8;
  const old = Array.from({ length: 8 }, () => spares.take(size));
  for (const bytes of old) spares.giveBack(bytes);
  const other = spares.take(512);
  spares.giveBack(other);
  expect(spares.take(512) === other).toBe(true);
  expect(old.includes(spares.take(size))).toBe(false);
  const large = spares.take(PAYLOAD_SPARES_SIZE_MAX + 1);
  spares.giveBack(large);
  expect(spares.take(large.length) === large).toBe(false);
});
