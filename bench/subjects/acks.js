/**
 * What a write waits for: 4 KiB writes at depth 1, by the level of acknowledgement and the round trip. That of the line
 * is more than its delay, for processes that have slept have to be woken: it is measured beside, by bare sockets.
 */
import { JOBS, lasting, runFio } from '../fio.js';
import { startPair } from '../gateways.js';
import { startEcho } from '../line.js';
import { compare } from '../measure.js';
import { median } from '../statistics.js';

export const needs = ['fio', 'gcc'];

const WARM_SECONDS = 2;
const LEVELS = ['local', 'received', 'applied'];

/** A hundred writes at 100 ms would be all that the gateways ever do: by code that is not compiled yet. */
async function warmUp({ size, say }, contender) {
  say(`acks: warming ${contender.name}`);
  await contender.prepare();
  for (const job of [JOBS.rw1, JOBS.rw32]) await runFio(contender.uri, size, job, lasting(WARM_SECONDS));
  await contender.drained();
  await contender.rest();
}

export async function* run(context) {
  const pairs = [];
  const echo = await startEcho(context.scratch);
  try {
    for (const ack of context.all ? LEVELS : ['applied']) {
      const pair = await startPair(context, { name: `ack ${ack}`, ack });
      pairs.push({ ack, pair });
      await warmUp(context, pair.at(0));
    }
    const roundTrips = context.all ? [0, 10, 50, 100] : [10, 100];
    const contenders = pairs.flatMap(({ ack, pair }) => roundTrips.map((ms) => ({ ...pair.at(ms), ack })));
    const bare = new Map(roundTrips.map((ms) => [ms, []]));
    let row = null;
    for (let round = 0; round < context.runs; round += 1) {
      const job = { ...JOBS.rw1, key: 'rate', exact: true };
      const { results, ...once } = await compare({ ...context, runs: 1 }, 'acks', contenders, job);
      row ??= { ...once, results: results.map((result) => ({ ...result, rounds: [] })) };
      for (const [i, { rounds }] of results.entries()) row.results[i].rounds.push(...rounds);
      for (const ms of roundTrips) {
        context.say(`acks: bare sockets, ${ms} ms, round ${round + 1} of ${context.runs}`);
        bare.get(ms).push(await echo.at(ms, context.seconds));
      }
    }
    yield row;
    const latencies = row.results.map(({ rounds, ...result }, i) => ({
      ...result,
      ack: contenders[i].ack,
      rounds: rounds.map(({ p50, p99 }) => ({ value: p50 / 1000, p99 })),
    }));
    const place = { family: 'p50 of a 4 KiB write', axis: 'round trip' };
    yield {
      ...row,
      key: 'p50',
      name: 'p50 of a 4 KiB write, depth 1',
      unit: 'ms',
      better: 'less',
      results: latencies,
      ...place,
    };
    const above = latencies
      .filter(({ ack }) => ack === 'applied')
      .map(({ rounds, x, ...result }) => ({
        ...result,
        rounds: rounds.map(({ value }, i) => ({ value: value - bare.get(x)[i] })),
        note: `the line’s: ${median(bare.get(x)).toFixed(2)} ms by bare sockets`,
      }));
    yield {
      ...row,
      key: 'above',
      name: 'p50 of a 4 KiB write, less the round trip of the line',
      unit: 'ms',
      better: 'less',
      results: above,
    };
  } finally {
    for (const { pair } of pairs) await pair.stop();
    await echo.stop();
  }
}
