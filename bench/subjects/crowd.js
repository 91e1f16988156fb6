/**
 * 64 connections at once, and beside them a reader that has asked for 64 MiB and takes nothing: a real client, stopped.
 * It must not stall the others.
 */
import { lasting } from '../fio.js';
import { startAlone } from '../gateways.js';
import { compare } from '../measure.js';
import { startPeer } from '../peers.js';
import { sleep, start, stop } from '../processes.js';

export const needs = ['fio'];

const CROWD = {
  key: 'rate',
  name: '4 KiB random, half read, half written, 64 connections of depth 1',
  ...{ rw: 'randrw', bs: '4k', depth: 1, connections: 64, unit: 'IOPS' },
};
const UNTIL_STUCK_MS = 500;

/** The same contender, with the slow reader while it is measured. */
function besideSlowReader(contender) {
  let reader = null;
  const endReader = async () => {
    if (reader === null) return;
    reader.kill('SIGCONT');
    await stop(reader);
    reader = null;
  };
  return {
    ...contender,
    name: `${contender.name}, beside a slow reader`,
    prepare: async () => {
      await contender.prepare();
      const load = ['--ioengine=nbd', `--uri=${contender.uri}`, '--rw=read', '--bs=1m', '--iodepth=64', '--size=64m'];
      reader = start('fio', ['--name=slow', '--thread', ...load, ...lasting(3600)]);
      await sleep(UNTIL_STUCK_MS);
      reader.kill('SIGSTOP');
    },
    rest: async () => {
      await endReader();
      await contender.rest();
    },
    endReader,
  };
}

export async function* run(context) {
  const contenders = [];
  const crowds = [];
  try {
    contenders.push(await startAlone(context));
    if (context.peers.includes('nbdkit')) contenders.push(await startPeer(context, 'nbdkit'));
    for (const contender of contenders) {
      crowds.push({ ...contender, name: `${contender.name}, alone` }, besideSlowReader(contender));
    }
    yield await compare(context, 'crowd', crowds, CROWD);
  } finally {
    for (const { endReader } of crowds) await endReader?.();
    for (const contender of contenders.reverse()) await contender.stop();
  }
}
