/** Where a replay begins where both sites write, and when no checkpoint may be taken: see the top of dual-order.ts. */
import { expect, test } from 'vitest';
import { FLAG_ABORT_ON_CONFLICT, TYPE_ABORT, TYPE_LOCK, TYPE_WRITE } from '../../assembly/layout.js';
import type { JournalVolume } from '../../src/journal/journal.js';
import { Liveness } from '../../src/journal/liveness.js';
import { BlockMap } from '../../src/journal/map.js';
import { RecordHeader } from '../../src/journal/record.js';
import { StagedRun } from '../../src/journal/staged.js';
import { DualOrder } from '../../src/volume/dual-order.js';

/** Journal between two records: every record has a place of its own. */
const FAR = 1 << 20;

function order(map = new BlockMap(64, new Liveness(4 * FAR)), state = DualOrder.settled(0, 0)): DualOrder {
  const liveness = new Liveness(4 * FAR);
  const volume: JournalVolume = { number: 1, map, blockShift: 12, flat: false };
  return new DualOrder({
    volumes: new Map([[1, volume]]),
    ownStaged: new StagedRun(),
    peerStaged: new StagedRun(),
    liveness,
    from: { position: 0, own: 0, peer: 0 },
    state,
  });
}

function record(fields: Partial<RecordHeader> & { type: number; sequence: number }): RecordHeader {
  const clock = fields.sequence;
  const base = { volume: 1, lba: 0, blockCount: 1, blockShift: 12, generation: 1, session: 1, site: 1, flags: 0 };
  return Object.assign(new RecordHeader(), { ...base, seen: 0, clock, scope: fields.sequence, ...fields });
}

test('a replay begins at the last place before what is not closed, and behind no limit', () => {
  const made = order();
  for (let sequence = 1; sequence <= 4; sequence += 1) {
    made.own(record({ type: TYPE_WRITE, sequence }), sequence * FAR);
  }
  expect(made.replayFrom(Number.POSITIVE_INFINITY)).toBe(FAR); // the other site has decided on none of them
  made.confirmed(3, 0);
  expect(made.replayFrom(2.5 * FAR)).toBe(2 * FAR);
  expect(made.replayFrom(Number.POSITIVE_INFINITY)).toBe(4 * FAR); // where the first begins that is still open
});

test('no checkpoint while a scope is dead here and its ABORT is still to be written', () => {
  const made = order();
  made.own(record({ type: TYPE_LOCK, sequence: 1, clock: 10, flags: FLAG_ABORT_ON_CONFLICT }), FAR);
  expect(made.isUndecided).toBe(false);
  made.received(record({ type: TYPE_WRITE, sequence: 1, site: 2, clock: 5 }), 2 * FAR); // earlier, and on its block
  expect(made.isUndecided).toBe(true);
  made.own(record({ type: TYPE_ABORT, sequence: 2, scope: 1, clock: 11 }), 3 * FAR);
  expect(made.isUndecided).toBe(false);
});

/**
 * A site's first copy had begun anew several times, and filled its journal: no replay was to begin behind the first of
 * them, so nothing of them was freed (seed 30359).
 */
test('a replay begins anywhere in a first copy, and behind it once something may be on top of it', () => {
  const made = order();
  made.beginPeer(5);
  for (let piece = 1; piece <= 4; piece += 1) made.baseApplied(piece * FAR);
  expect(made.replayFrom(2.5 * FAR)).toBe(2 * FAR);
  expect(made.replayFrom(Number.POSITIVE_INFINITY)).toBe(4 * FAR);
  made.received(record({ type: TYPE_WRITE, sequence: 6, site: 2 }), 4 * FAR + 4096);
  expect(made.replayFrom(Number.POSITIVE_INFINITY)).toBe(4 * FAR + 4096);
});

/**
 * Own writes told again were closed before all of them were there, and what came behind them then stayed unsettled in a
 * list whose base, the version before it, went into the next checkpoint: after a clean stop a site showed an older
 * version of a block (seeds 43458, 44365).
 */
test.each(['first', 'last'])(
  'own writes that are told again count once all of them are there, the peer’s record %s',
  (peers) => {
    const map = new BlockMap(64, new Liveness(4 * FAR));
    const made = order(map, {
      settled: { through: 0, applied: 1, peerFrom: 1 },
      conflicts: {
        appended: 4,
        closedThrough: 4,
        received: 1,
        applied: 1,
        dead: [],
        cascades: [],
        bareMayDieThrough: 0,
      },
    });
    const peer = (position: number): void => {
      made.replayReceived(record({ type: TYPE_WRITE, sequence: 1, site: 2, lba: 9 }), position);
      made.replayApplied(1);
    };
    if (peers === 'first') peer(FAR);
    made.own(record({ type: TYPE_WRITE, sequence: 1 }), 2 * FAR);
    made.own(record({ type: TYPE_LOCK, sequence: 2, lba: 1, flags: FLAG_ABORT_ON_CONFLICT }), 3 * FAR);
    made.own(record({ type: TYPE_WRITE, sequence: 3, scope: 2, lba: 1, clock: 2 }), 4 * FAR);
    if (peers === 'last') peer(5 * FAR);
    made.own(record({ type: TYPE_ABORT, sequence: 4, scope: 2 }), 6 * FAR);
    const shows = (lba: number): number => made.versions.withBase(() => (map.lookup(lba) ? map.position : -1));
    expect([shows(0), shows(1)]).toEqual([2 * FAR, -1]);
    expect(made.versions.openCount).toBe(0);
  },
);

test('a write that is told again masks what an open scope of the peer writes beneath it, told again behind it', () => {
  const map = new BlockMap(64, new Liveness(4 * FAR));
  const made = order(map, {
    settled: { through: 0, applied: 1, peerFrom: 1 },
    conflicts: { appended: 1, closedThrough: 1, received: 1, applied: 1, dead: [], cascades: [], bareMayDieThrough: 0 },
  });
  const peers = { site: 2, scope: 1, clock: 5 };
  made.own(record({ type: TYPE_WRITE, sequence: 1, clock: 10 }), FAR);
  made.replayReceived(record({ type: TYPE_LOCK, sequence: 1, ...peers }), 2 * FAR);
  made.replayApplied(1);
  const write = record({ type: TYPE_WRITE, sequence: 2, ...peers });
  made.received(write, 3 * FAR);
  made.applied(write, 3 * FAR);
  map.lookup(0);
  expect(map.position).toBe(FAR);
});
