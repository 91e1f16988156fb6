/** A place in the production code that is broken on purpose, and what it says when the place is no longer there. */

export interface Mutant {
  name: string;
  /** Under src/. */
  file: string;
  /** Stands in the file exactly once. */
  find: string;
  replace: string;
  /** What is broken, in a line. */
  breaks: string;
  /** Further tests that are about this place. */
  tests?: readonly string[];
  /** Why nobody can notice: it has to survive, then. */
  harmless?: string;
}

/** @throws Error when the text is not there exactly once, or the replacement changes nothing */
export function applyMutant(text: string, { name, file, find, replace }: Mutant): string {
  const at = text.indexOf(find);
  if (at < 0) throw new Error(`${name}: its text is not in src/${file} any more`);
  if (text.indexOf(find, at + 1) >= 0) throw new Error(`${name}: its text is in src/${file} more than once`);
  if (find === replace) throw new Error(`${name}: changes nothing`);
  return text.slice(0, at) + replace + text.slice(at + find.length);
}

export const SIMULATORS = ['dual model', 'mirror world', 'group worlds', 'dual worlds'] as const;
export type Simulator = (typeof SIMULATORS)[number];

/** The simulators whose worlds run code of this file, the fastest first. */
export function simulatorsOf(file: string): Simulator[] {
  if (/^(mirror\/conflict|journal\/(versions|extents))\.ts$/.test(file)) return ['dual model', 'dual worlds'];
  if (/^(mirror\/|volume\/locks\.ts$)/.test(file)) return ['mirror world', 'group worlds', 'dual worlds'];
  return file === 'volume/dual-order.ts' ? ['dual worlds'] : ['group worlds', 'dual worlds'];
}

const OF_THE_JOURNAL = [
  'journal/truncated.test.ts',
  'journal/recovery.test.ts',
  'journal/failed-sync.group.test.ts',
  'journal/segments.test.ts',
  'journal/stream-reader.test.ts',
  'sim/group.regressions.test.ts',
];

/** Tests of the ordinary suite that are about each file: what has its name, and what is listed here. */
const TESTS: Record<string, string[]> = {
  'frontend/nbd/server.ts': ['nbd/server.test.ts'],
  'frontend/nbd/transmission.ts': ['nbd/transmission.test.ts'],
  'frontend/library/volume.ts': ['node/library.test.ts'],
  'journal/versions.ts': ['mirror/conflict.test.ts'],
  'journal/segments.ts': [],
  'journal/disk-store.ts': [],
  'journal/appender.ts': ['journal/journal.test.ts', ...OF_THE_JOURNAL],
  'journal/journal.ts': OF_THE_JOURNAL,
  'journal/room.ts': ['journal/journal.test.ts', 'journal/cleaner.test.ts', 'sim/dual.regressions.test.ts'],
  'journal/recovery.ts': ['journal/truncated.test.ts', 'journal/failed-sync.group.test.ts', 'journal/segments.test.ts'],
  'journal/stream-reader.ts': ['journal/truncated.test.ts', 'journal/rot.group.test.ts', 'journal/segments.test.ts'],
  'journal/quick-sync.ts': [],
  'journal/map-log.ts': [],
  'journal/checksums.ts': ['journal/map-log.test.ts', 'journal/checkpointer.group.test.ts'],
  'journal/cleaner.ts': ['journal/cleaner.group.test.ts', 'journal/checkpointer.group.test.ts'],
  'journal/staged.ts': ['sim/group.transactions.test.ts'],
  'journal/checkpointer.ts': [
    'journal/checkpointer.group.test.ts',
    'sim/group.pair.test.ts',
    'sim/group.first-copy.test.ts',
    'sim/group.regressions.test.ts',
  ],
  'journal/reader.ts': [],
  'link/endpoint.ts': [],
  'link/shaper.ts': [],
  'mirror/source.ts': [],
  'mirror/target.ts': [],
  'mirror/wire.ts': [],
  'mirror/conflict.ts': [],
  'mirror/beginning.ts': ['sim/dual.hostile.test.ts'],
  'mirror/decide.ts': [],
  'platter/flat.ts': ['platter/state.test.ts'],
  'platter/writeback.ts': ['platter/writeback.group.test.ts', 'platter/rounds.group.test.ts'],
  'volume/journal-health.ts': ['sim/group.disk.test.ts'],
  'volume/locks.ts': ['mirror/locks.test.ts'],
  'volume/volume.ts': ['sim/group.waits.test.ts'],
  'volume/gate.ts': ['mirror/gate.test.ts'],
  'volume/dual-order.ts': ['mirror/dual-order.test.ts', 'mirror/conflict.test.ts', 'sim/dual.regressions.test.ts'],
  'volume/group.ts': [
    'sim/group.pair.test.ts',
    'sim/group.regressions.test.ts',
    'sim/group.verify.test.ts',
    'sim/dual.regressions.test.ts',
    'sim/dual.scopes.test.ts',
    'sim/dual.split.test.ts',
  ],
  'volume/split.ts': ['sim/dual.split.test.ts'],
  'volume/peer-watch.ts': ['mirror/peer-watch.test.ts', 'sim/dual.stalled.test.ts'],
  'volume/own-scopes.ts': [
    'sim/group.scopes.test.ts',
    'sim/group.regressions.test.ts',
    'sim/dual.regressions.test.ts',
    'sim/dual.scopes.test.ts',
  ],
  'link/ws-link.ts': ['link/ws-link.test.ts'],
  'volume/lending.ts': ['mirror/lending.test.ts', 'sim/group.lending.test.ts'],
  'volume/catalog.ts': ['nbd/catalog.test.ts'],
  'volume/views.ts': ['sim/group.verify.test.ts', 'sim/group.regressions.test.ts', 'sim/dual.scopes.test.ts'],
  'volume/verify.ts': ['sim/group.verify.test.ts', 'sim/dual.scopes.test.ts', 'node/dual.test.ts'],
  'volume/scope.ts': ['sim/dual.scopes.test.ts', 'sim/dual.regressions.test.ts', 'node/library.test.ts'],
  'volume/transaction.ts': ['sim/group.transactions.test.ts', 'sim/dual.scopes.test.ts', 'node/transaction.test.ts'],
  'volume/group-state.ts': [
    'sim/dual.split.test.ts',
    'sim/dual.regressions.test.ts',
    'platter/state.test.ts',
    'platter/writeback.group.test.ts',
  ],
  'volume/sender.ts': [
    'sim/group.sender.test.ts',
    'sim/group.first-copy.test.ts',
    'sim/group.pair.test.ts',
    'sim/group.regressions.test.ts',
    'sim/group.rejections.test.ts',
  ],
  'volume/receiver.ts': [
    'sim/group.first-copy.test.ts',
    'sim/group.pair.test.ts',
    'sim/group.receiver.test.ts',
    'sim/group.regressions.test.ts',
    'sim/group.rejections.test.ts',
  ],
  'node/config.ts': [],
  'node/gateway.ts': [],
  'node/log.ts': [],
  'journal/superblock.ts': [],
  'volume/pair.ts': [
    'sim/dual.hostile.test.ts',
    'sim/dual.lost-tail.test.ts',
    'sim/dual.stalled.test.ts',
    'sim/dual.replaced.test.ts',
    'sim/dual.regressions.test.ts',
    'mirror/adoption.test.ts',
    'sim/group.pair.test.ts',
    'sim/group.rejections.test.ts',
    'sim/group.regressions.test.ts',
  ],
  'volume/serving.ts': [
    'sim/dual.stalled.test.ts',
    'sim/dual.split.test.ts',
    'sim/dual.replaced.test.ts',
    'sim/dual.regressions.test.ts',
    'sim/group.pair.test.ts',
    'sim/group.regressions.test.ts',
  ],
  'volume/lost-tail.ts': [
    'sim/dual.lost-tail.test.ts',
    'sim/dual.regressions.test.ts',
    'sim/group.pair.test.ts',
    'sim/group.regressions.test.ts',
  ],
};

export function testsOf({ file, tests = [] }: Mutant): string[] {
  const listed = TESTS[file];
  if (listed === undefined) throw new Error(`which tests are about src/${file}? Say so in TESTS`);
  const named = `${file.slice(0, -'.ts'.length)}.test.ts`;
  return [...new Set([named, ...listed, ...tests])].map((each) => `test/${each}`);
}
