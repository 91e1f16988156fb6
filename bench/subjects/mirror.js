/** A mirrored pair, at no round trip and at a long one, beside an unmirrored file server in the same run. */
import { startPair, startPeer } from '../contenders.js';
import { compare, fill } from '../load.js';

export const needs = ['fio', 'gcc'];

export async function run(context) {
  const contenders = [];
  try {
    for (const roundTripMs of context.roundTrips) contenders.push(await startPair(context, roundTripMs));
    for (const pair of contenders) {
      context.say(`mirror: filling: ${pair.name}`);
      await fill(pair, context.size);
    }
    const pairs = [...contenders];
    for (const peer of context.peers) contenders.push(await startPeer(context, peer));
    const goals = { rw32: pairs.map(({ name }) => ({ of: name, to: 'nbdkit file', atLeast: 0.5 })) };
    const rows = await compare(context, 'mirror', contenders, context.jobs ?? ['rw32', 'sw128'], goals);
    for (const pair of pairs) rows.push({ subject: 'mirror', status: { who: pair.name, ...(await pair.status()) } });
    return rows;
  } finally {
    for (const contender of contenders.reverse()) await contender.stop();
  }
}
