/** The checker itself: it must see what the kill tests are there to find. */
import { describe, expect, test } from 'vitest';
import { MIB } from '../../src/limits.js';
import { BLOCK_SIZE, History } from './checking-client.js';

const SIZE = 1 * MIB;
const COUNT = 200;

/** A history and its image after each operation. */
function play(): { history: History; images: Buffer[] } {
  const history = new History(SIZE, 5);
  const images = [Buffer.alloc(SIZE)];
  for (let i = 0; i < COUNT; i += 1) {
    const { operation, bytes } = history.next();
    const image = Buffer.from(images.at(-1)!);
    const at = operation.lba * BLOCK_SIZE;
    if (bytes === null) image.fill(0, at, at + operation.blockCount * BLOCK_SIZE);
    else bytes.copy(image, at);
    images.push(image);
  }
  return { history, images };
}

const sameBlock = (a: Buffer, b: Buffer, lba: number) =>
  a.compare(b, lba * BLOCK_SIZE, (lba + 1) * BLOCK_SIZE, lba * BLOCK_SIZE, (lba + 1) * BLOCK_SIZE) === 0;

describe('moments of a history', () => {
  const { history, images } = play();

  test('every one is found, at or before its number, and not below what is promised', () => {
    images.forEach((image, number) => {
      const moment = history.momentOf(image, 'image');
      expect(images[moment]!.equals(image)).toBe(true);
      expect(moment).toBeLessThanOrEqual(number);
      expect(history.momentOf(image, 'image', number)).toBe(number);
    });
  });

  test('a lost write in the middle, one applied too early, and a foreign block are seen', () => {
    const last = images.at(-1)!;
    let seen = 0;
    for (let number = 1; number < COUNT; number += 1) {
      for (let lba = 0; lba < history.blockCount; lba += 1) {
        if (sameBlock(images[number - 1]!, images[number]!, lba)) continue;
        // the block alone is from another time than the rest
        for (const [image, other] of [
          [last, images[number - 1]!],
          [images[number - 1]!, last],
        ] as const) {
          const mixed = Buffer.from(image);
          other.copy(mixed, lba * BLOCK_SIZE, lba * BLOCK_SIZE, (lba + 1) * BLOCK_SIZE);
          if (images.some((each) => each.equals(mixed))) continue;
          expect(() => history.momentOf(mixed, 'mixed')).toThrow(/no moment/);
          seen += 1;
        }
        break;
      }
    }
    expect(seen).toBeGreaterThan(COUNT / 2);
    const foreign = Buffer.from(last);
    const written = images.at(-1)!.findIndex((byte) => byte !== 0);
    foreign[written + 100]! ^= 1;
    expect(() => history.momentOf(foreign, 'foreign')).toThrow(/nobody wrote/);
  });

  test('an older image than what is promised is seen', () => {
    expect(() => history.momentOf(images[COUNT / 2]!, 'old', COUNT)).toThrow(/from operation 200/);
  });
});
