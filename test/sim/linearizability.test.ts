/**
 * Judges the judge: histories that the literature names, then random ones against a search that tries every order.
 *
 * The search knows neither clusters nor that values are unique: it takes any operation that nothing unplaced precedes,
 * and cuts the order at a crash wherever no durable write is behind the cut (Wing and Gong, Testing and Verifying
 * Concurrent Objects, 1993; Lowe, Testing for Linearizability, 2017, for the memory of configurations already seen).
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type BlockOperation,
  type Crash,
  findViolation,
  type HostOperation,
  type HostRead,
  type HostWrite,
  INITIAL,
  NEVER,
  type Reason,
} from './linearizability.js';

const PLACE = { volume: 1, block: 0 };

function write(value: number, invoked: number, answered: number = NEVER): HostWrite {
  return { kind: 'write', ...PLACE, blockCount: 1, value, invoked, answered };
}

function read(value: number, invoked: number, answered: number): HostRead {
  return { kind: 'read', ...PLACE, values: [value], invoked, answered };
}

function crash(at: number, durableBefore = 0): Crash {
  return { at, durableBefore };
}

/** The same, as host operations again. */
function hosts(operations: readonly BlockOperation[]): HostOperation[] {
  return operations.map(({ kind, value, invoked, answered }) =>
    kind === 'write' ? write(value, invoked, answered) : read(value, invoked, answered),
  );
}

// ---- the search

interface Placed {
  isWrite: boolean;
  value: number;
  invoked: number;
  answered: number;
}

function searchFinds(operations: readonly HostOperation[], crashes: readonly Crash[]): boolean {
  let begins = new Set([INITIAL]);
  let from = 0;
  for (const { at, durableBefore } of [...crashes, crash(Number.POSITIVE_INFINITY)]) {
    const segment = operations
      .filter(({ invoked }) => from <= invoked && invoked < at)
      .map((each) => ({
        isWrite: each.kind === 'write',
        value: each.kind === 'write' ? each.value : each.values[0]!,
        invoked: each.invoked,
        answered: each.answered,
      }));
    const ends = new Set<number>();
    for (const begin of begins) for (const end of endsOf(segment, begin, durableBefore)) ends.add(end);
    begins = ends;
    from = at;
  }
  return begins.size > 0;
}

/** What a register that held `begin` may hold behind a crash, if these operations happened before it. */
function endsOf(segment: readonly Placed[], begin: number, durableBefore: number): Set<number> {
  const ends = new Set<number>();
  const been = new Set<string>();
  /** @param cut the value that survives, once the order has passed it */
  const go = (placed: number, value: number, cut: number | null): void => {
    const key = `${placed} ${value} ${cut}`;
    if (been.has(key)) return;
    been.add(key);
    const open = segment.filter((_, index) => (placed & (1 << index)) === 0);
    if (cut !== null && open.every(({ answered }) => answered === NEVER)) ends.add(cut);
    if (cut === null && !open.some(({ isWrite, answered }) => isWrite && answered < durableBefore)) {
      go(placed, value, value);
    }
    for (const [index, next] of segment.entries()) {
      if ((placed & (1 << index)) !== 0) continue;
      if (open.some(({ answered }) => answered < next.invoked)) continue;
      if (next.isWrite) go(placed | (1 << index), next.value, cut);
      else if (next.value === value) go(placed | (1 << index), value, cut);
    }
  };
  go(0, begin, null);
  return ends;
}

// ---- histories by name

interface Story {
  name: string;
  operations: HostOperation[];
  crashes?: Crash[];
  /** null: it is possible. */
  finds: Reason | null;
  /** Values of the operations that are named; all of the story if not given. */
  named?: string;
}

const STORIES: Story[] = [
  { name: 'nothing happened', operations: [], finds: null },
  { name: 'a block never written reads as it began', operations: [read(INITIAL, 1, 2)], finds: null },
  {
    name: 'one host after the other',
    operations: [write(1, 1, 2), read(1, 3, 4), write(2, 5, 6), read(2, 7, 8)],
    finds: null,
  },
  {
    name: 'a read beside a write gives old or new',
    operations: [write(1, 1, 2), write(2, 3, 10), read(1, 4, 5), read(2, 6, 7)],
    finds: null,
  },
  {
    name: 'a read gives the old while a longer one gives the new',
    operations: [write(1, 1, 2), write(2, 3, 10), read(2, 4, 9), read(1, 5, 8)],
    finds: null,
  },
  {
    name: 'two writes at once, in the order opposite to their invocation',
    operations: [write(1, 1, 10), write(2, 2, 9), read(2, 11, 12), read(2, 13, 14)],
    finds: null,
  },
  {
    name: 'an answer and an invocation at the same tick are concurrent: either may be first',
    operations: [write(1, 1, 5), write(2, 5, 9), read(2, 5, 6), read(1, 10, 12)],
    finds: null,
  },
  {
    name: 'a read that is invoked at the tick of the answer may miss the write',
    operations: [write(1, 1, 5), read(INITIAL, 5, 6)],
    finds: null,
  },
  { name: 'stale read', operations: [write(1, 1, 2), write(2, 3, 4), read(1, 5, 6)], finds: 'order' },
  {
    name: 'a read of what was there before an answered write',
    operations: [write(1, 1, 2), read(INITIAL, 3, 4)],
    finds: 'order',
  },
  {
    name: 'lost update: an answered write is never seen, what it replaced is',
    operations: [write(1, 1, 2), read(1, 3, 4), write(2, 5, 6), read(1, 7, 8), read(1, 9, 10)],
    finds: 'order',
    named: 'w1 w2 r1',
  },
  {
    name: 'new-old inversion: two reads beside one write, the later sees the older',
    operations: [write(1, 1, 2), write(2, 3, 20), read(2, 4, 5), read(1, 6, 7)],
    finds: 'order',
  },
  {
    name: 'two readers see two concurrent writes in opposite orders',
    operations: [write(1, 1, 30), write(2, 1, 30), read(1, 2, 3), read(2, 4, 5), read(2, 6, 7), read(1, 8, 9)],
    finds: 'order',
    named: 'w1 w2 r1 r2 r1',
  },
  {
    name: 'a value never written',
    operations: [write(1, 1, 2), read(9, 3, 4), read(1, 5, 6)],
    finds: 'unwritten',
    named: 'r9',
  },
  { name: 'a read of the future', operations: [read(1, 1, 2), write(1, 3, 4)], finds: 'early' },
  {
    name: 'a write that was never answered takes effect late',
    operations: [write(1, 1), write(2, 3, 4), read(2, 5, 6), read(2, 7, 8), read(1, 90, 91)],
    finds: null,
  },
  {
    name: 'a write that was never answered never takes effect',
    operations: [write(1, 1), read(INITIAL, 90, 91)],
    finds: null,
  },
  {
    name: 'a failed write appears, is overwritten, and appears again',
    operations: [write(1, 1), read(1, 3, 4), write(2, 5, 6), read(2, 7, 8), read(1, 9, 10)],
    finds: 'order',
    named: 'w1 r1 w2 r1',
  },
  {
    name: 'a failed write appears and is taken back',
    operations: [write(1, 1, 2), write(2, 3), read(2, 4, 5), read(1, 6, 7)],
    finds: 'order',
  },
  {
    name: 'a crash takes back what was answered',
    operations: [write(1, 1, 2), read(1, 3, 4), read(INITIAL, 11, 12)],
    crashes: [crash(10)],
    finds: null,
  },
  {
    name: 'a crash loses a flushed write',
    operations: [write(1, 1, 2), read(INITIAL, 11, 12)],
    crashes: [crash(10, 3)],
    finds: 'lost',
  },
  {
    name: 'a write that was not answered when the flush was asked for may go',
    operations: [write(1, 1, 3), read(INITIAL, 11, 12)],
    crashes: [crash(10, 3)],
    finds: null,
  },
  {
    name: 'a crash falls back behind what was flushed',
    operations: [write(1, 1, 2), write(2, 3, 4), write(3, 5, 6), read(1, 11, 12)],
    crashes: [crash(10, 5)],
    finds: 'lost',
    named: 'w1 w2 r1',
  },
  {
    name: 'a crash falls back to one of two concurrent durable writes',
    operations: [write(1, 1, 5), write(2, 2, 4), write(3, 6, 8), read(1, 11, 12)],
    crashes: [crash(10, 6)],
    finds: null,
  },
  {
    name: 'a crash falls back to a write that was answered at the tick at which another durable one was invoked',
    operations: [write(1, 1, 5), read(1, 6, 8), write(2, 5, 8), read(1, 11, 12)],
    crashes: [crash(10, 9)],
    finds: null,
  },
  {
    name: 'a crash falls back to the earlier of two concurrent durable writes, whose order a read had shown',
    operations: [write(1, 1, 5), write(2, 2, 4), read(2, 6, 7), read(1, 11, 12)],
    crashes: [crash(10, 6)],
    finds: 'lost',
  },
  {
    // 1 overlaps 3, but was answered before 2 was last read, and 2 was read before 3 was invoked
    name: 'a crash falls back behind a durable write that only a third write shows to be later',
    operations: [write(2, 0), read(2, 4, 5), read(2, 21, 22), write(1, 0, 10), write(3, 7, 35), read(1, 41, 42)],
    crashes: [crash(40, 36)],
    finds: 'lost',
  },
  {
    // 3 overlaps 1, and 2 was seen from the tick on at which 1 was invoked
    name: 'a crash falls back to a write that may stand between a durable one and one that was seen beside it',
    operations: [write(2, 0), read(2, 3, 5), write(3, 4, 6), write(1, 5, 6), read(2, 20, 21), read(3, 41, 42)],
    crashes: [crash(40, 7)],
    finds: null,
  },
  {
    name: 'an answered write is lost, and what was read after the crash is not what comes later',
    operations: [write(1, 1, 2), write(2, 3, 4), read(1, 11, 12), read(2, 13, 14)],
    crashes: [crash(10)],
    finds: 'order',
  },
  {
    name: 'what an earlier crash took comes back after a later one',
    operations: [write(1, 1, 2), read(INITIAL, 11, 12), read(1, 21, 22)],
    crashes: [crash(10), crash(20)],
    finds: 'lost',
  },
  {
    name: 'two crashes with nothing seen between them are as one',
    operations: [write(1, 1, 2), write(2, 3, 4), read(1, 21, 22)],
    crashes: [crash(10, 3), crash(20, 3)],
    finds: null,
  },
  {
    name: 'what was recovered and read is durable from then on',
    operations: [write(1, 1, 2), write(2, 3, 4), read(2, 11, 12), read(1, 21, 22)],
    crashes: [crash(10), crash(20)],
    finds: 'lost',
  },
  {
    name: 'a write that the crash cut off survives it',
    operations: [write(1, 1, 2), write(2, 3), read(2, 11, 12)],
    crashes: [crash(10, 3)],
    finds: null,
  },
  {
    name: 'a write that the crash cut off takes effect later',
    operations: [write(1, 1), read(INITIAL, 11, 12), read(1, 13, 14)],
    crashes: [crash(10)],
    finds: 'order',
  },
];

const brief = ({ kind, value }: BlockOperation): string => `${kind[0]}${value}`;

test.each(STORIES.map((story) => [story.name, story] as const))(
  '%s',
  (_, { operations, crashes = [], finds, named }) => {
    const violation = findViolation(operations, crashes);
    expect(violation?.reason ?? null).toBe(finds);
    expect(searchFinds(operations, crashes)).toBe(finds === null);
    if (violation === null) return;
    if (named === undefined) expect(violation.operations).toHaveLength(operations.length);
    else expect(violation.operations.map(brief).join(' ')).toBe(named);
  },
);

test('a violation is told in the order of time, with the crashes between', () => {
  const operations = [
    ...[read(1, 20, 22), write(1, 1, 2), read(1, 3, 4), write(2, 3, 6), write(3, 8), read(3, 9, 10)],
    ...[write(4, 30), read(4, 32, 34), read(1, 35, 36)],
  ];
  const crashes = [crash(0), crash(20, 7), crash(28), crash(40)];
  expect(findViolation(operations, crashes)?.message).toBe(
    [
      'volume 1, block 0: what was read cannot be what survived the crash',
      '  1..2 write 1',
      '  3..6 write 2',
      '  20 crash; what was answered before 7 is durable',
      '  20..22 read 1',
    ].join('\n'),
  );
  expect(findViolation(operations.slice(1), crashes)?.message).toBe(
    [
      'volume 1, block 0: no order of these operations gives what was read',
      '  1..2 write 1',
      '  20 crash; what was answered before 7 is durable',
      '  28 crash; what was answered before 0 is durable',
      '  30..never write 4',
      '  32..34 read 4',
      '  35..36 read 1',
    ].join('\n'),
  );
});

describe('many blocks', () => {
  test('a write of several is atomic for each only', () => {
    const both: HostOperation[] = [
      { kind: 'write', ...PLACE, blockCount: 2, value: 1, invoked: 1, answered: 9 },
      { kind: 'read', ...PLACE, values: [1, INITIAL], invoked: 2, answered: 3 },
      { kind: 'read', ...PLACE, values: [1, 1], invoked: 4, answered: 5 },
    ];
    expect(findViolation(both)).toBeNull();
    both.push({ kind: 'read', ...PLACE, values: [1, INITIAL], invoked: 6, answered: 7 });
    expect(findViolation(both)).toMatchObject({ volume: 1, block: 1, reason: 'order' });
  });

  test('the same block of two volumes is two registers', () => {
    const other = { ...read(INITIAL, 3, 4), volume: 2 };
    expect(findViolation([write(1, 1, 2), other, { ...write(1, 5, 6), volume: 2 }])).toBeNull();
    expect(findViolation([write(1, 1, 2), other, read(INITIAL, 3, 4)])).toMatchObject({ volume: 1, block: 0 });
  });

  test('one stale read among 20,000 operations is found, and named with two others', () => {
    const blocks = 64;
    const last = new Map<number, number>();
    const operations: HostOperation[] = [];
    for (let index = 0; index < 20_000; index += 1) {
      const block = (index * 7) % blocks;
      const at = { volume: 1, block, invoked: index * 10, answered: index * 10 + 25 };
      if ((index >> 6) % 2 === 0) {
        operations.push({ kind: 'write', ...at, blockCount: 1, value: index + 1 });
        last.set(block, index + 1);
      } else operations.push({ kind: 'read', ...at, values: [last.get(block)!] });
    }
    expect(findViolation(operations)).toBeNull();
    const index = operations.findLastIndex(({ kind }) => kind === 'read');
    const good = operations[index] as HostRead;
    operations[index] = { ...good, values: [good.values[0]! - 128] };
    expect(findViolation(operations)).toMatchObject({ block: good.block, reason: 'order', operations: { length: 3 } });
  });
});

test('what is no history is refused: the recorder has a bug', () => {
  expect(() => findViolation([write(1, 1, 2), write(1, 3, 4)])).toThrow('a block is written with 1 once');
  expect(() => findViolation([write(INITIAL, 1, 2)])).toThrow('a block is written with 0 once');
  expect(() => findViolation([write(1, 2, 1)])).toThrow('an answer follows its invocation');
  expect(() => findViolation([write(1, 0.5, 1)])).toThrow('ticks are integers');
  expect(() => findViolation([read(INITIAL, 1, NEVER)])).toThrow('a read of a history was answered');
  expect(() => findViolation([write(1, 1, 11)], [crash(10)])).toThrow('a crash ends what is not answered');
  expect(() => findViolation([], [crash(10), crash(9)])).toThrow('crashes are in order of time');
  expect(() => findViolation([], [crash(10, 11)])).toThrow('a flush was asked for before the crash');
});

// ---- random histories

interface History {
  operations: HostOperation[];
  crashes: Crash[];
}

/** Any small history. The value of a write is its place, from 1, so that a read may give one that is not written. */
const anything = fc
  .record({
    drawn: fc.array(
      fc.record({ isWrite: fc.boolean(), invoked: fc.nat(24), takes: fc.nat(9), fails: fc.nat(5), pick: fc.nat(6) }),
      { maxLength: 9 },
    ),
    ends: fc.array(fc.record({ at: fc.nat(24), flushed: fc.nat(24) }), { maxLength: 2 }),
  })
  .map(({ drawn, ends }): History => {
    const crashes = ends.toSorted((a, b) => a.at - b.at).map(({ at, flushed }) => crash(at, Math.min(at, flushed)));
    const operations = drawn.flatMap(({ isWrite, invoked, takes, fails, pick }, index): HostOperation[] => {
      const end = crashes.find(({ at }) => at > invoked)?.at ?? NEVER;
      const isCut = invoked + takes > end || (isWrite && fails === 0);
      if (isWrite) return [write(index + 1, invoked, isCut ? NEVER : invoked + takes)];
      return isCut ? [] : [read(pick, invoked, invoked + takes)];
    });
    return { operations, crashes };
  });

interface Step {
  /** Of 20: what happens at this moment. */
  what: number;
  before: number;
  after: number;
  pick: number;
}

/** What hosts see of a real register that they use at one moment each, and that forgets its unflushed end at a crash. */
function lived(steps: readonly Step[]): History {
  const operations: HostOperation[] = [];
  const crashes: Crash[] = [];
  let segment: HostOperation[] = [];
  let began = 0;
  /** What the register held, and from when on it is durable at a flush. */
  let log = [{ value: INITIAL, answered: Number.NEGATIVE_INFINITY }];
  for (const [index, { what, before, after, pick }] of steps.entries()) {
    const moment = (index + 1) * 4;
    const invoked = Math.max(began, moment - before);
    if (what < 8) {
      const answered = what === 0 ? NEVER : moment + after;
      log.push({ value: index + 1, answered });
      segment.push(write(index + 1, invoked, answered));
    } else if (what === 8) {
      segment.push(write(index + 1, invoked)); // and it never takes effect
    } else if (what < 18) {
      segment.push(read(log.at(-1)!.value, invoked, moment + after));
    } else {
      const durableBefore = Math.max(0, moment - pick);
      const durable = log.findLastIndex(({ answered }) => answered < durableBefore);
      const { value } = log[durable + (pick % (log.length - durable))]!;
      log = [{ value, answered: Number.NEGATIVE_INFINITY }];
      crashes.push(crash(moment, durableBefore));
      for (const each of segment) {
        if (each.answered <= moment) operations.push(each);
        else if (each.kind === 'write') operations.push({ ...each, answered: NEVER });
      }
      segment = [];
      began = moment;
    }
  }
  return { operations: [...operations, ...segment], crashes };
}

const steps = (maxLength: number): fc.Arbitrary<Step[]> =>
  fc.array(fc.record({ what: fc.nat(19), before: fc.nat(14), after: fc.nat(14), pick: fc.nat(40) }), { maxLength });

/** A lived history in which one read gives another value, or one operation was elsewhere in time. */
const mutated = fc
  .record({ drawn: steps(12), which: fc.nat(), pick: fc.nat(13), shift: fc.integer({ min: -12, max: 12 }) })
  .map(({ drawn, which, pick, shift }): History => {
    const { operations, crashes } = lived(drawn);
    const index = which % Math.max(1, operations.length);
    const each = operations[index];
    if (each === undefined) return { operations, crashes };
    const invoked = Math.max(0, each.invoked + shift);
    const answered = Math.max(invoked, each.answered + shift);
    const end = crashes.find(({ at }) => at > invoked)?.at ?? NEVER;
    if (each.kind === 'read' && shift % 2 === 0) operations[index] = { ...each, values: [pick] };
    else if (answered <= end || answered === NEVER) operations[index] = { ...each, invoked, answered };
    return { operations, crashes };
  });

/** Both judge; a violation is one by itself, and is none without any of its operations. */
function agree({ operations, crashes }: History): boolean {
  const violation = findViolation(operations, crashes);
  expect(violation === null).toBe(searchFinds(operations, crashes));
  if (violation === null) return true;
  const named = hosts(violation.operations);
  expect(searchFinds(named, crashes)).toBe(false);
  for (const index of named.keys()) {
    const rest = named.toSpliced(index, 1);
    expect(findViolation(rest, crashes)?.reason).not.toBe(violation.reason);
  }
  return false;
}

describe('against the search that tries every order', () => {
  test.each([
    { what: 'any histories', histories: anything, numRuns: 6000 },
    { what: 'histories of a real register with one change', histories: mutated, numRuns: 3000 },
  ])('$what', ({ histories, numRuns }) => {
    const seen = { good: 0, bad: 0 };
    fc.assert(
      fc.property(histories, (history) => {
        seen[agree(history) ? 'good' : 'bad'] += 1;
      }),
      { numRuns },
    );
    expect(seen.good, 'both verdicts are met').toBeGreaterThan(numRuns / 20);
    expect(seen.bad, 'both verdicts are met').toBeGreaterThan(numRuns / 20);
  });

  test('what hosts see of a real register is possible', () => {
    fc.assert(
      fc.property(steps(11), (drawn) => {
        expect(agree(lived(drawn))).toBe(true);
      }),
      { numRuns: 1000 },
    );
    fc.assert(
      fc.property(steps(400), (drawn) => {
        const { operations, crashes } = lived(drawn);
        expect(findViolation(operations, crashes)?.message).toBeUndefined();
      }),
      { numRuns: 300 },
    );
  });
});
