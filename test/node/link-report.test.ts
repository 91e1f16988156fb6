import { expect, test } from 'vitest';
import { LINK_LINES_MAX } from '../../src/limits.js';
import type { LinkStatus } from '../../src/node/control.js';
import { LinkReport } from '../../src/node/link-report.js';
import { groupStatus } from './fake-gateway.js';

const URL = 'ws://127.0.0.1:10900';
const link = (state: LinkStatus['state'], reason = ''): LinkStatus => ({ ...groupStatus().link, state, reason });
const UP = link('streaming');
const COPY = link('base copy', 'sending the first copy');
const TRIED = link('handshaking', 'connected, not authenticated yet');
const away = (reason: string): LinkStatus => link('away', reason);

/** What is told of states, each at its time in seconds. */
function told(...states: [number, LinkStatus][]): string[] {
  const report = new LinkReport(away('not connected yet'), 0);
  return states.flatMap(([seconds, status]) => report.look(status, seconds * 1000) ?? []);
}

test('each change is told, and what stays is not', () => {
  const lines = told(
    [0.1, away('not connected yet')],
    [0.2, TRIED],
    [0.3, COPY],
    [0.4, UP],
    [9, UP],
    [10, away('the gateway is stopping')],
    [10.1, away('cannot connect')],
    [11, TRIED],
    [12, away('cannot connect')],
    [60, away('cannot connect')],
    [61, UP],
  );
  expect(lines).toEqual([
    `linked with site b (${URL})`,
    'no link with site b: the gateway is stopping',
    'no link with site b: cannot connect',
    `linked with site b (${URL})`,
  ]);
});

test('a link that comes and goes at once, again and again, is told once; once it holds, again', () => {
  const loop = (from: number): [number, LinkStatus][] =>
    Array.from({ length: 20 }, (_, turn): [number, LinkStatus][] => [
      [from + 5 * turn, UP],
      [from + 5 * turn + 1, away('the segment is gone')],
      [from + 5 * turn + 4, TRIED],
    ]).flat();
  const lines = told(...loop(1), [200, UP], [203, UP], [204, away('the segment is gone')]);
  expect(lines).toEqual([
    `linked with site b (${URL})`,
    'no link with site b: the segment is gone',
    `linked with site b (${URL})`,
    'no link with site b: the segment is gone',
  ]);
});

test('reasons that take turns are told once each', () => {
  const states = Array.from({ length: 30 }, (_, turn): [number, LinkStatus] => [
    3 * turn,
    turn % 2 === 0 ? link('refused', 'another history') : away('cannot connect'),
  ]);
  expect(told(...states)).toEqual([
    'the link with site b is refused: another history',
    'no link with site b: cannot connect',
  ]);
});

// Whoever reaches a listener can have it refuse for ever other reasons: 500 lines a second, and each was remembered.
test('ever other reasons are told so often a minute, and what holds then is told late, not never', () => {
  const hammered = Array.from({ length: 3000 }, (_, turn): [number, LinkStatus] => [
    turn / 100,
    away(`reason ${turn}`),
  ]);
  const lines = told(...hammered, [31, UP], [59, UP], [61, UP]);
  expect(lines.length).toBe(LINK_LINES_MAX + 1);
  expect(lines.at(-1)).toBe(`linked with site b (${URL})`);
});

test('a link that is there when one begins to look is told', () => {
  for (const first of [UP, TRIED]) expect(new LinkReport(first, 0).look(UP, 50)).toContain('linked with');
});
