/** The order of a first copy. */
import { expect, test } from 'vitest';
import { copyGoesOn } from '../../src/mirror/base.js';

test('a copy goes through all blocks of all volumes', () => {
  const volumes = new Map([
    [7, 5],
    [2, 64],
    [3, 1],
  ]);
  const after = (volume: number, lba: number) => copyGoesOn({ volume, lba }, volumes);
  expect(after(0, 0)).toEqual({ volume: 2, lba: 0 });
  expect(after(2, 0)).toEqual({ volume: 2, lba: 0 });
  expect(after(2, 63)).toEqual({ volume: 2, lba: 63 });
  expect(after(2, 64)).toEqual({ volume: 3, lba: 0 });
  expect(after(3, 1)).toEqual({ volume: 7, lba: 0 });
  expect(after(7, 4)).toEqual({ volume: 7, lba: 4 });
  expect(after(7, 5)).toBeNull();
});
