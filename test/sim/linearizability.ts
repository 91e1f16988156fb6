/**
 * Was what concurrent hosts saw of the volumes possible? Judges a history of their reads and writes, with crashes.
 *
 * A history is linearizable if each operation can be given one moment between its invocation and its answer so that,
 * in the order of these moments, every read gives what was written last. Each block is a register of its own, and a
 * history is linearizable if it is for each register (Herlihy and Wing, Linearizability, 1990, theorem 1), so blocks are
 * judged one by one. It follows that a write of several blocks is atomic for each, not for all of them.
 *
 * Every write has a value of its own, which is what makes this cheap (Gibbons and Korach, Testing Shared Memories, 1997:
 * their zones). A write and the reads that saw it are a *cluster*: in any order they stand together, the write first.
 * With `first` the earliest answer in a cluster and `last` its latest invocation, cluster A has to stand before B if
 * one of A's operations was answered before one of B's was invoked:
 *
 *     A -> B   if and only if   A.first < B.last
 *
 * The history is linearizable if and only if no read precedes its write and -> has no cycle. A cycle, if there is one,
 * can be cut down to two clusters: let A have the smallest `first` in it and Z -> A close it; whoever stands before Z has
 * X.first < Z.last, so A.first < Z.last as well, and A -> Z -> A. So it is enough to look for a pair.
 *
 * A crash may take answered writes back, but none that was answered before a flush was asked for that was answered. The
 * time between two crashes is judged on its own, as a register that begins with whatever survived:
 *
 *     survivors(0) = { INITIAL }
 *     what is read but not written between crashes k and k + 1 is one value, and it is in survivors(k)
 *     survivors(k + 1) = clusters that can stand behind all durable ones; and if none is durable, what it began with
 *
 * A cluster can stand behind all durable ones if there is no path along -> from it to one of them. What a site has
 * recovered counts as durable, since it is synced before anyone is served. That the blocks of a group fall back
 * to the same moment is not judged here: the simulator knows the order of its records.
 */
import { assert } from '../../src/assert.js';

/** What every block reads as before its first write. */
export const INITIAL = 0;

/** `answered` of a write that had no answer, or one that leaves open whether it took place: now, later or never. */
export const NEVER = Number.POSITIVE_INFINITY;

/**
 * Ticks are integers from 0 that grow with time; all of a history count on one clock. What is answered at t precedes what
 * is invoked at t + 1 or later; at the same tick they are concurrent.
 */
interface Interval {
  invoked: number;
  /** >= invoked; never later than the first crash after `invoked`. */
  answered: number;
}

export interface HostWrite extends Interval {
  kind: 'write';
  volume: number;
  /** First block, 0-based. */
  block: number;
  blockCount: number;
  /** From 1; no two writes of a block have the same. So a trim or zero cannot be part of a history. */
  value: number;
}

/** A read that was answered with data: one that was not tells nothing. */
export interface HostRead extends Interval {
  kind: 'read';
  volume: number;
  block: number;
  /** One for each block. */
  values: readonly number[];
}

export type HostOperation = HostWrite | HostRead;

/** The end of all operations that were invoked before `at` and are not answered. */
export interface Crash {
  at: number;
  /** When the last flush that was answered was invoked, or 0: writes that were answered before this tick survive. */
  durableBefore: number;
}

/** An operation as one block sees it. */
export interface BlockOperation extends Interval {
  kind: 'write' | 'read';
  value: number;
}

const REASONS = {
  unwritten: 'a read gave what was never written',
  early: 'a read gave what was only written later',
  order: 'no order of these operations gives what was read',
  lost: 'what was read cannot be what survived the crash',
} as const;

export type Reason = keyof typeof REASONS;

export interface Violation {
  volume: number;
  block: number;
  reason: Reason;
  /** By invocation. They break this rule by themselves, and would not without any one of them. */
  operations: BlockOperation[];
  /** For people: the block, the reason, and the operations and crashes a line each. */
  message: string;
}

/**
 * Looks for a block whose history is impossible.
 *
 * @param operations in any order
 * @param crashes    in order of time
 * @returns          the first such block, in the order in which blocks were first invoked, or null
 * @throws AssertionError for what is not a history: the recorder's bug
 *
 * Cost: n log n for n operations, a write or read of k blocks counting k times, and blocks times crashes. A violation
 * costs some dozens of times the judging of its block.
 */
export function findViolation(operations: readonly HostOperation[], crashes: readonly Crash[] = []): Violation | null {
  for (const [index, { at, durableBefore }] of crashes.entries()) {
    assert(index === 0 || at >= crashes[index - 1]!.at, 'crashes are in order of time');
    assert(durableBefore <= at, 'a flush was asked for before the crash');
  }
  for (const [volume, blocks] of byBlock(operations)) {
    for (const [block, seen] of blocks) {
      const reason = judge(seen, crashes);
      if (reason !== null) return explain(volume, block, reason, seen, crashes);
    }
  }
  return null;
}

/** Volume, then block, then what was done there, by invocation. */
function byBlock(operations: readonly HostOperation[]): Map<number, Map<number, BlockOperation[]>> {
  const volumes = new Map<number, Map<number, BlockOperation[]>>();
  for (const operation of operations.toSorted((a, b) => a.invoked - b.invoked)) {
    const { kind, volume, invoked, answered } = operation;
    assert(Number.isSafeInteger(invoked) && invoked >= 0, 'ticks are integers from 0');
    assert(answered >= invoked, 'an answer follows its invocation');
    assert(kind === 'write' || answered < NEVER, 'a read of a history was answered');
    const blocks = volumes.get(volume) ?? new Map<number, BlockOperation[]>();
    volumes.set(volume, blocks);
    const blockCount = kind === 'write' ? operation.blockCount : operation.values.length;
    for (let index = 0; index < blockCount; index += 1) {
      const value = kind === 'write' ? operation.value : operation.values[index]!;
      const block = operation.block + index;
      const seen = blocks.get(block);
      if (seen === undefined) blocks.set(block, [{ kind, value, invoked, answered }]);
      else seen.push({ kind, value, invoked, answered });
    }
  }
  return volumes;
}

/** A value's write and reads between two crashes. */
interface Cluster {
  value: number;
  /** The earliest answer; -Infinity if it was written before the crash. */
  first: number;
  /** The latest invocation. */
  last: number;
  isWritten: boolean;
  /** Its write has to survive the next crash. */
  isDurable: boolean;
}

/** @param operations of one block, by invocation */
function judge(operations: readonly BlockOperation[], crashes: readonly Crash[]): Reason | null {
  const unlike = compareWithWrites(operations);
  if (unlike !== null) return unlike;

  let survivors = new Set([INITIAL]);
  let from = 0;
  for (const { at, durableBefore } of [...crashes, { at: Number.POSITIVE_INFINITY, durableBefore: 0 }]) {
    let end = from;
    while (end < operations.length && operations[end]!.invoked < at) end += 1;
    const clusters = clustersOf(operations.slice(from, end), at, durableBefore);
    if (hasCycle(clusters)) return 'order';
    const [begin] = clusters;
    if (begin !== undefined && !begin.isWritten) {
      if (!survivors.has(begin.value)) return 'lost';
      survivors = new Set([begin.value]);
    }
    addSurvivors(survivors, clusters);
    from = end;
  }
  return null;
}

function compareWithWrites(operations: readonly BlockOperation[]): 'unwritten' | 'early' | null {
  const writtenFrom = new Map([[INITIAL, 0]]);
  for (const { kind, value, invoked } of operations) {
    if (kind !== 'write') continue;
    assert(!writtenFrom.has(value), `a block is written with ${value} once`);
    writtenFrom.set(value, invoked);
  }
  for (const { kind, value, answered } of operations) {
    if (kind !== 'read') continue;
    const from = writtenFrom.get(value);
    if (from === undefined) return 'unwritten';
    if (answered < from) return 'early';
  }
  return null;
}

/** @returns the clusters of the time up to a crash, by `first`: what it began with, if that was read, comes first */
function clustersOf(operations: readonly BlockOperation[], crash: number, durableBefore: number): Cluster[] {
  const clusters = new Map<number, Cluster>();
  for (const { kind, value, invoked, answered } of operations) {
    assert(answered <= crash || answered === NEVER, 'a crash ends what is not answered');
    let cluster = clusters.get(value);
    if (cluster === undefined) {
      cluster = { value, first: answered, last: invoked, isWritten: false, isDurable: false };
      clusters.set(value, cluster);
    }
    cluster.first = Math.min(cluster.first, answered);
    cluster.last = Math.max(cluster.last, invoked);
    if (kind === 'write') {
      cluster.isWritten = true;
      cluster.isDurable = answered < durableBefore;
    }
  }
  for (const cluster of clusters.values()) if (!cluster.isWritten) cluster.first = Number.NEGATIVE_INFINITY;
  // not the difference: that of two infinities is no number
  return [...clusters.values()].sort((a, b) => Number(a.first > b.first) - Number(a.first < b.first));
}

/** @param clusters by `first` */
function hasCycle(clusters: readonly Cluster[]): boolean {
  // only the one that reaches furthest is kept: two that reach beyond this cluster's `first` are a pair themselves
  let open: Cluster | undefined;
  for (const cluster of clusters) {
    if (open !== undefined && open.first < cluster.last && cluster.first < open.last) return true;
    if (open === undefined || open.last < cluster.last) open = cluster;
  }
  return false;
}

/**
 * Makes what a register may begin with into what it may hold behind the next crash.
 *
 * Of the durable clusters, let `latest` have the largest `last`. Whatever else precedes one of them precedes `latest` too,
 * so it is enough to look for paths to `latest`. For `latest` itself only -> to another counts: on a path by way of a
 * third, that third precedes `latest`, which is a cycle.
 *
 * @param clusters by `first`
 */
function addSurvivors(survivors: Set<number>, clusters: readonly Cluster[]): void {
  const [latest, other] = clusters.filter(({ isDurable }) => isDurable).sort((a, b) => b.last - a.last);
  let border = Number.NEGATIVE_INFINITY;
  if (latest !== undefined) {
    survivors.clear();
    border = latest.last;
    for (const { first, last } of clusters) if (first < border) border = Math.max(border, last);
  }
  for (const cluster of clusters) {
    const isBehind = cluster === latest ? other === undefined || latest.first >= other.last : cluster.first >= border;
    if (isBehind) survivors.add(cluster.value);
  }
}

function explain(
  volume: number,
  block: number,
  reason: Reason,
  seen: readonly BlockOperation[],
  crashes: readonly Crash[],
): Violation {
  const operations = shrink(seen, crashes, reason);
  const [from, to] = [operations[0]!.invoked, operations.at(-1)!.invoked];
  const lines = [
    // first, and so before what is invoked at their tick
    ...crashes
      .filter(({ at }) => from < at && at <= to)
      .map(({ at, durableBefore }) => ({
        at,
        text: `${at} crash; what was answered before ${durableBefore} is durable`,
      })),
    ...operations.map(({ kind, value, invoked, answered }) => ({
      at: invoked,
      text: `${invoked}..${answered === NEVER ? 'never' : answered} ${kind} ${value}`,
    })),
  ].sort((a, b) => a.at - b.at);
  const title = `volume ${volume}, block ${block}: ${REASONS[reason]}`;
  return { volume, block, reason, operations, message: [title, ...lines.map(({ text }) => text)].join('\n  ') };
}

/** Takes away halves, quarters, … and at last single operations, as long as the rest breaks the same rule. */
function shrink(seen: readonly BlockOperation[], crashes: readonly Crash[], reason: Reason): BlockOperation[] {
  let kept = [...seen];
  if (reason === 'unwritten') {
    // no write may go: what read it would break this rule as well
    const written = new Set([INITIAL]);
    for (const { kind, value } of seen) if (kind === 'write') written.add(value);
    kept = kept.filter(({ value }) => !written.has(value));
  }
  let size = kept.length;
  for (;;) {
    const before = kept.length;
    size = Math.ceil(size / 2);
    for (let at = 0; at < kept.length; ) {
      const rest = kept.toSpliced(at, size);
      if (judge(rest, crashes) === reason) kept = rest;
      else at += size;
    }
    // a write can go only after its reads, so one round of single operations may not be the last
    if (size === 1 && kept.length === before) return kept;
  }
}
