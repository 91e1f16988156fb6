/** What a run tells: a failing world so that it can be run again, and what all of them met. */
import { DUAL_FAULTS } from './dual-faults.js';
import { FAULTS } from './group-faults.js';
import type { Outcome } from './group-seed.js';
import type { Changes } from './worker.js';

/** @param changes what was not as drawn */
export function writeFailure(outcome: Outcome, changes: Changes, trace: boolean): string {
  const { seed, drawn, failure } = outcome;
  const { message, stack, atMs } = failure!;
  const frames = stack.split('\n').filter((line) => /^\s+at .*\/(src|test)\//.test(line));
  return [
    `seed ${seed} failed at ${atMs.toFixed(1)} ms, after ${outcome.operations} operations`,
    ...(trace ? outcome.trace : []),
    `  drawn    ${writeOptions(drawn)}`,
    `  failure  ${message}`,
    ...frames.slice(0, 6),
    `  again    ${replayCommand(seed, changes, isDual(drawn))} --trace`,
  ].join('\n');
}

export function replayCommand(seed: number, changes: Changes, dual: boolean): string {
  const sets = Object.entries(changes).map(
    ([name, value]) => ` --set ${name}=${typeof value === 'object' ? JSON.stringify(value) : value}`,
  );
  return `npm run sim -- ${dual ? '--dual' : '--one-way'} --seed ${seed}${sets.join('')}`;
}

function isDual(drawn: Outcome['drawn']): boolean {
  return 'soloMs' in drawn;
}

/** JSON has no Infinity, which says "never" here. */
function writeOptions(drawn: Outcome['drawn']): string {
  return JSON.stringify(drawn, (_, value) => (value === Number.POSITIVE_INFINITY ? 'never' : value));
}

/** Operations, and the share of worlds in which each thing happened. */
export function writeSummary(outcomes: readonly Outcome[], tookMs: number, processes: number): string {
  const sum = (of: (outcome: Outcome) => number): number => outcomes.reduce((total, each) => total + of(each), 0);
  const operations = sum((each) => each.operations);
  const cpuMs = sum((each) => each.cpuMs);
  const rate = (ms: number): string => Math.round((operations / ms) * 1000).toLocaleString('en');
  const lines = [
    `${outcomes.length} worlds, ${sum((each) => (each.failure === null ? 0 : 1))} failed`,
    `${operations.toLocaleString('en')} operations answered, ${sum((each) => each.records).toLocaleString('en')} records, ` +
      `${sum((each) => each.checks).toLocaleString('en')} images compared`,
    `${(tookMs / 1000).toFixed(1)} s on ${processes} processes, ${rate(tookMs)} operations/s; ` +
      `${(cpuMs / 1000).toFixed(1)} CPU seconds, ${rate(cpuMs)} operations in each`,
  ];
  const [twoWay, oneWay] = [
    outcomes.filter(({ drawn }) => isDual(drawn)),
    outcomes.filter(({ drawn }) => !isDual(drawn)),
  ];
  if (oneWay.length > 0) lines.push(...writeShares(`${oneWay.length} worlds in which one site writes`, oneWay, FAULTS));
  if (twoWay.length > 0) lines.push(...writeShares(`${twoWay.length} worlds in which both write`, twoWay, DUAL_FAULTS));
  return lines.join('\n');
}

/** A fault that happens in a smaller share of the worlds proves little: it is named, in a run of so many worlds. */
const RARE = 0.01;
const RARE_WORLDS_MIN = 200;

/** In which share of the worlds each thing happened, and how often in all of them. */
function writeShares(title: string, outcomes: readonly Outcome[], faults: readonly string[]): string[] {
  const total = (what: string): number => outcomes.reduce((sum, each) => sum + (each.counts[what] ?? 0), 0);
  const shareOf = (what: string): number =>
    outcomes.filter((each) => (each.counts[what] ?? 0) > 0).length / outcomes.length;
  const row = (what: string): string => {
    const share = `${(100 * shareOf(what)).toFixed(1)} %`;
    return `${share.padStart(15)}${total(what).toLocaleString('en').padStart(12)}   ${what}`;
  };
  // of fewer worlds a share says nothing
  const rare = outcomes.length < RARE_WORLDS_MIN ? [] : faults.filter((what) => shareOf(what) < RARE);
  const others = [...new Set(outcomes.flatMap((each) => Object.keys(each.counts)))];
  return [
    ...['', title, 'share of worlds   how often   fault'],
    ...faults.map(row),
    ...(rare.length === 0 ? [] : [`  in less than ${100 * RARE} % of the worlds: ${rare.join(', ')}`]),
    ...['', 'share of worlds   how often   what else was met'],
    ...others
      .filter((each) => !faults.includes(each))
      .sort()
      .map(row),
  ];
}
