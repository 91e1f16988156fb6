/**
 * Latency at 70 % of the full rate, for long enough that segments roll, checkpoints are written and the pool is busy:
 * p99.9 over p50.
 */
import { fill, JOBS, lasting, runFio } from '../fio.js';
import { startAlone, startPair } from '../gateways.js';
import { compare } from '../measure.js';
import { startPeer } from '../peers.js';

export const needs = ['fio', 'gcc'];

const SHARE = 0.7;
const FAR_MS = 100;

export async function* run(context) {
  const seconds = context.quick ? context.seconds : Math.max(context.seconds, 10);
  const running = [];
  try {
    const alone = await startAlone(context);
    running.push(alone);
    const pair = await startPair(context);
    running.push(pair);
    const contenders = [alone, pair.at(FAR_MS)];
    if (context.peers.includes('nbdkit')) contenders.push(await startPeer(context, 'nbdkit'));
    running.push(...contenders.slice(2));
    for (const contender of [alone, pair.at(0)]) await fill(contender, context.size);
    const rates = new Map();
    for (const contender of contenders) {
      context.say(`tail: full rate of ${contender.name}`);
      await contender.prepare();
      const { iops } = await runFio(contender.uri, context.size, JOBS.rw32, lasting(Math.max(1, seconds / 3)));
      await contender.drained();
      await contender.rest();
      rates.set(contender, Math.round(SHARE * iops));
    }
    const job = { ...JOBS.rw32, key: 'rate', name: `${JOBS.rw32.name}, at 70 % of the full rate` };
    const limits = (contender) => [...lasting(seconds), `--rate_iops=${rates.get(contender)}`];
    const row = await compare(context, 'tail', contenders, job, { limits });
    yield row;
    const results = row.results.map(({ who, rounds }) => ({
      who,
      rounds: rounds.map(({ p50, p99, p999 }) => ({ value: p999 / p50, p50, p99, p999 })),
    }));
    yield {
      subject: 'tail',
      key: 'over',
      name: `p99.9 over p50, at 70 % of the full rate`,
      unit: '',
      better: 'less',
      results,
    };
  } finally {
    for (const each of running.reverse()) await each.stop();
  }
}
