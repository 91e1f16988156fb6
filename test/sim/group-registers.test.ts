/** What the hosts of a world were told is kept so that a wrong answer among it is found. */
import { expect, test } from 'vitest';
import { Registers } from './group-registers.js';

/** A volume of one unit: it is judged. */
const world = (): Registers => new Registers([{ blocks: 1, blockSize: 512 }], () => 0);

/** Two writes, one after the other. */
function written(): Registers {
  const registers = world();
  for (const tag of [1, 2]) registers.write(1, 0, 1, tag).answered();
  return registers;
}

function read(registers: Registers, tag: number): string | null {
  registers.read(1, 0, Uint32Array.of(tag), registers.ask());
  return registers.judge();
}

test('a read gives what was written last', () => {
  expect(read(written(), 2)).toBeNull();
  expect(read(written(), 1)).toMatch(/no order of these operations gives what was read/);
});

test('a write without an answer may have happened, one that was taken back has not', () => {
  const registers = world();
  const asked = registers.write(1, 0, 1, 1);
  expect(read(registers, 1)).toBeNull();
  const others = world();
  others.write(1, 0, 1, 1).never();
  expect(read(others, 1)).toMatch(/never written/);
  asked.answered();
  expect(read(registers, 0)).toMatch(/no order/);
});

test('a crash takes back what no flush covered, and nothing else', () => {
  const lost = written();
  lost.crashed();
  expect(read(lost, 1)).toBeNull();
  const kept = written();
  kept.flushed(kept.ask());
  kept.crashed();
  expect(read(kept, 1)).toMatch(/cannot be what survived the crash/);
});

test('a history ends with zeroes, and where another site takes over', () => {
  const trimmed = written();
  trimmed.blank(1, 0, 1);
  expect(read(trimmed, 0)).toBeNull();
  const taken = written();
  taken.end();
  expect(read(taken, 1)).toBeNull();
});
