/**
 * Explicit scopes (lock, 4 writes of 4 KiB, unlock), one at a time, through the library in the source's own process: how
 * many a second the target applies, from some time after the start on; and the same in lock-step.
 */
import { startPair } from '../gateways.js';
import { SCOPE_WRITES } from '../host.js';
import { sleep } from '../processes.js';

export const needs = ['gcc'];

const SCOPE_RECORDS = SCOPE_WRITES + 2;
const WARM_UP_SECONDS = 1.5;
const WINDOW_SECONDS_MIN = 3;
const FAR_MS = 100;
const ROUND_TRIPS_OF_A_SCOPE = 2; // in lock-step: the grant, then the apply
const JOURNAL = 12 * 2 ** 30;

export async function* run(context) {
  const roundTrips = context.all ? [0, 10, 50, FAR_MS] : [0, FAR_MS];
  const pairs = [];
  try {
    const speculative = await startPair(context, { journal: JOURNAL });
    pairs.push(speculative);
    const lockStep = await startPair(context, { journal: JOURNAL, speculation: 'off', name: 'lock-step' });
    pairs.push(lockStep);
    const contenders = [
      ...roundTrips.map((ms) => ({ ...speculative.at(ms), gateways: speculative, isSpeculative: true })),
      ...roundTrips
        .filter((ms) => ms > 0)
        .map((ms) => ({ ...lockStep.at(ms), gateways: lockStep, isSpeculative: false })),
    ];
    const results = contenders.map(({ name, line, x }) => ({ who: name, line, x, rounds: [] }));
    for (let round = 0; round < context.runs; round += 1) {
      for (const [i, contender] of contenders.entries()) {
        context.say(`scopes: ${contender.name}, round ${round + 1} of ${context.runs}`);
        results[i].rounds.push({ value: await measure(contender, context) });
      }
    }
    const name = `scopes of ${SCOPE_WRITES} writes, applied at the target`;
    yield { subject: 'scopes', key: 'rate', name, unit: 'scopes/s', results, family: name, axis: 'round trip' };
    const steps = results
      .filter((_, i) => !contenders[i].isSpeculative)
      .map(({ who, x, rounds }) => ({
        who,
        rounds: rounds.map(({ value }) => ({ value: 1000 / value / (ROUND_TRIPS_OF_A_SCOPE * x) })),
      }));
    const stepName = 'lock-step: time of a scope over two round trips';
    yield { subject: 'scopes', key: 'lock-step', name: stepName, unit: '', better: 'less', results: steps };
  } finally {
    for (const pair of pairs.reverse()) await pair.stop();
  }
}

async function measure({ prepare, counted, rest, gateways, isSpeculative }, context) {
  const seconds = Math.max(context.seconds, WINDOW_SECONDS_MIN);
  await prepare();
  const load = gateways.source.ask({ do: 'scopes', seconds: WARM_UP_SECONDS + seconds + 1, isSpeculative });
  const rate = (async () => {
    await sleep(1000 * WARM_UP_SECONDS);
    const [from, begun] = [(await counted()).applied, performance.now()];
    await sleep(1000 * seconds);
    const [to, ended] = [(await counted()).applied, performance.now()];
    return (1000 * (to - from)) / (ended - begun) / SCOPE_RECORDS;
  })();
  const [value] = await Promise.all([rate, load]);
  await rest();
  return value;
}
