/** What a START may say, by what was decided before it. */
import { expect, test } from 'vitest';
import { PEER_AHEAD_MAX, TRANSACTION_WRITES_MAX } from '../../src/limits.js';
import { farthest, findWrongBeginning } from '../../src/mirror/beginning.js';
import type { Decision } from '../../src/mirror/decide.js';
import type { Start } from '../../src/mirror/wire.js';

const [PEER, OWN] = [1, 2];
const BEGIN = { volume: 0, lba: 0 };

/** The peer's stream, and where both write this site's the other way. */
const DECISION: Decision = {
  row: 9,
  action: 'replay',
  epoch: 7,
  stream: PEER,
  source: PEER,
  target: OWN,
  from: 100,
  through: 150,
  base: null,
  back: 80,
  adopter: 0,
  code: null,
  reason: '',
};
const COPY: Partial<Decision> = { row: 2, action: 'base', from: 150, base: BEGIN };
const RESUMED: Partial<Decision> = { row: 3, action: 'base', from: 40, base: { volume: 1, lba: 8 } };
const TAIL: Partial<Decision> = { row: 7, action: 'returnTail', stream: OWN, from: 60, through: 90, back: null };

const START: Start = {
  epoch: 7,
  row: 9,
  action: 'replay',
  stream: PEER,
  from: 100,
  base: null,
  onReject: 'target-retry',
  confirmed: 0,
  granted: 0,
  meeting: null,
  groupId: 'id',
  generations: [],
};
const BASE: Partial<Start> = { action: 'base', base: BEGIN };

const find = (start: Partial<Start>, decision: Partial<Decision>, most: number): string | null =>
  findWrongBeginning({ ...START, ...start }, { ...DECISION, ...decision }, OWN, most);

test.each<[string, Partial<Start>, Partial<Decision>]>([
  ['what was decided', {}, {}],
  ['from before what an older link has brought since', { from: 99 }, {}],
  [
    'the stream that comes back, where this site is the source',
    { stream: PEER, from: 80 },
    { source: OWN, target: PEER },
  ],
  ['a first copy, in front of what was staged', { ...BASE, from: 150 - TRANSACTION_WRITES_MAX }, COPY],
  ['a first copy, of what was written since HELLO', { ...BASE, from: 151 }, COPY],
  ['a first copy in the place of the whole journal, which is gone', { ...BASE, from: 150 }, { row: 2 }],
  ['a first copy that is taken up', { action: 'base', from: 40, base: { volume: 1, lba: 8 } }, RESUMED],
  ['a lost tail', { stream: OWN, from: 60 }, TAIL],
])('%s is begun', (_, start, decision) => {
  expect(find(start, decision, 0)).toBeNull();
});

test.each<[string, Partial<Start>, Partial<Decision>]>([
  ['a later place', { from: 101 }, {}],
  ['another stream', { stream: 3 }, {}],
  ['a stream that comes back where one site writes', { from: 0 }, { source: OWN, target: PEER, back: null }],
  ['a first copy that was not decided on', BASE, {}],
  ['a copy by its name alone', { action: 'base' }, {}],
  ['a first copy that begins in the middle', { ...BASE, from: 150, base: { volume: 0, lba: 1 } }, COPY],
  ['a first copy from before what the source had', { ...BASE, from: 149 - TRANSACTION_WRITES_MAX }, COPY],
  ['a first copy of what the source cannot have yet', { ...BASE, from: 151 + PEER_AHEAD_MAX }, COPY],
  ['a copy that is taken up further on', { action: 'base', from: 40, base: { volume: 1, lba: 9 } }, RESUMED],
  ['a copy that is taken up behind another place', { action: 'base', from: 41, base: BEGIN }, RESUMED],
])('%s is not', (_, start, decision) => {
  expect(find(start, decision, 0)).toMatch(/both ends must decide the same/);
});

test.each<keyof Start>(['confirmed', 'granted'])('as %s counts what the stream can have', (field) => {
  // who believed more waited for a stream that never comes
  const most = farthest(150);
  expect(find({ [field]: most }, {}, most)).toBeNull();
  for (const [counts, decision, limit] of [
    [most + 1, {}, most],
    [1, {}, 0],
    [1, TAIL, most],
  ] as const) {
    const place = decision === TAIL ? { stream: OWN, from: 60 } : {};
    expect(find({ ...place, [field]: counts }, decision, limit)).toMatch(/confirmed or granted/);
  }
});
