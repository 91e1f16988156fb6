import { beforeEach, expect, test } from 'vitest';
import { Warmth } from '../../src/kernel/warmth.js';

let fromDisk = 0;
let warmth: Warmth;
beforeEach(() => {
  fromDisk = 0;
  warmth = new Warmth(() => fromDisk);
});

function warmUp(): number {
  let count = 0;
  for (; !warmth.isWarm; count += 32) warmth.told(32, 32 * 5);
  return count;
}

test('becomes warm after fast reads in a row, and not before', () => {
  warmth.told(32, 32 * 5);
  expect(warmth.isWarm).toBe(false);
  warmth.told(1, 90); // the disk
  warmth.told(32, 32 * 5);
  expect(warmth.isWarm).toBe(false);
  warmth.told(32, 32 * 5);
  expect(warmth.isWarm).toBe(true);
});

test('a read that waited for the disk ends it, and it takes twice as long to come back', () => {
  const first = warmUp();
  fromDisk += 8;
  warmth.readHere(3000);
  expect(warmth.isWarm).toBe(false);
  expect(warmUp()).toBe(2 * first);
});

test('what was read from the disk before it became warm does not count', () => {
  warmUp();
  fromDisk += 8;
  warmth.readHere(3000);
  fromDisk += 8;
  warmUp();
  warmth.readHere(3000);
  expect(warmth.isWarm).toBe(true);
});

test('a thread that waited for a processor does not end it; two such reads close together do', () => {
  warmUp();
  warmth.readHere(3000);
  expect(warmth.isWarm).toBe(true);
  for (let i = 0; i < 16; i += 1) warmth.readHere(5);
  warmth.readHere(3000);
  expect(warmth.isWarm).toBe(true);
  warmth.readHere(5);
  warmth.readHere(3000);
  expect(warmth.isWarm).toBe(false);
});

test('where blocks from the disk are counted, only they end it, and begin the streak anew', () => {
  // A machine that did much else had reads that took long, and all were left to the pool although all were in the cache.
  fromDisk = 8;
  warmth.told(1, 90);
  warmth.told(32, 32 * 5);
  warmth.told(1, 9000); // waited for a processor
  warmth.told(32, 32 * 5);
  expect(warmth.isWarm).toBe(true);
  for (let i = 0; i < 5; i += 1) warmth.readHere(3000);
  expect(warmth.isWarm).toBe(true);
  fromDisk += 8;
  warmth.readHere(3000);
  expect(warmth.isWarm).toBe(false);
  warmth.told(96, 96 * 5);
  fromDisk += 8;
  warmth.told(1, 90);
  warmth.told(96, 96 * 5);
  expect(warmth.isWarm).toBe(false);
});

test('good reads make up for a bad one', () => {
  const first = warmUp();
  fromDisk += 8;
  warmth.readHere(3000);
  warmUp();
  for (let i = 0; i < 2 * first; i += 1) warmth.readHere(5);
  fromDisk += 8;
  warmth.readHere(3000);
  expect(warmUp()).toBe(2 * first);
});

test('however often it was wrong while a cache filled, the pool has not long to show that it is full', () => {
  for (let i = 0; i < 20; i += 1) {
    warmUp();
    fromDisk += 8;
    warmth.readHere(3000);
  }
  expect(warmUp()).toBe(4096);
});
