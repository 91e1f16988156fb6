/** An unmirrored volume over NBD beside file servers of the same machine. */
import { startPeer, startVolume } from '../contenders.js';
import { compare, fill } from '../load.js';

export const needs = ['fio'];

export async function run(context) {
  const contenders = [];
  try {
    contenders.push(await startVolume(context));
    for (const peer of context.peers) contenders.push(await startPeer(context, peer));
    context.say('volume: filling');
    await fill(contenders[0], context.size);
    const jobs = context.jobs ?? ['rw1', 'rw32', 'rw32f', 'rr32', 'sw128', 'sr128'];
    const rows = await compare(context, 'volume', contenders, jobs, {});
    rows.push({ subject: 'volume', status: await contenders[0].status() });
    return rows;
  } finally {
    for (const contender of contenders.reverse()) await contender.stop();
  }
}
