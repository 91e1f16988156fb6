/**
 * The write path without sockets: a host in the gateway's own process, through the library; alone, and with the other
 * site in the same process, too, over a link in memory (one thread does the work of both).
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { groupOptions, startGateway } from '../gateways.js';
import { cpuSeconds, untilIdle } from '../processes.js';

export const needs = [];

const LOADS = {
  rw32: { name: '4 KiB random write, depth 32', kind: 'write', size: 4096, depth: 32, isSequential: false },
  rr32: { name: '4 KiB random read, depth 32', kind: 'read', size: 4096, depth: 32, isSequential: false },
  sw128: { name: '128 KiB sequential write, depth 16', kind: 'write', size: 131072, depth: 16, isSequential: true },
  sr128: { name: '128 KiB sequential read, depth 16', kind: 'read', size: 131072, depth: 16, isSequential: true },
};

export async function* run(context) {
  const directory = mkdtempSync(join(context.scratch, 'pipeline-'));
  const volumes = [{ name: 'disk', size: context.size }];
  const primary = (more) => groupOptions({ role: 'primary', volumes, ...more });
  const ways = [];
  try {
    ways.push({ who: 'alone', gateway: await startGateway(context, join(directory, 'a'), 'alone', [], primary()) });
    const standby = groupOptions({ role: 'standby', volumes: [], listen: { host: '127.0.0.1', port: 0 } });
    const other = { state: join(directory, 'c'), site: 'target', nbd: [], groups: [standby] };
    const both = await startGateway(context, join(directory, 'b'), 'source', [], primary(), other);
    ways.push({ who: 'both sites in one process', gateway: both });
    for (const { gateway } of ways) await gateway.ask({ do: 'requests', seconds: 1, ...LOADS.sw128 }); // something to read
    for (const [key, { name, ...load }] of Object.entries(LOADS)) {
      const unit = load.size === 4096 ? 'IOPS' : 'MB/s';
      const results = ways.map(({ who }) => ({ who, rounds: [] }));
      for (let round = 0; round < context.runs; round += 1) {
        for (const [i, { who, gateway }] of ways.entries()) {
          context.say(`pipeline: ${name}: ${who}, round ${round + 1} of ${context.runs}`);
          const before = cpuSeconds(gateway.pid);
          const { count, seconds } = await gateway.ask({ do: 'requests', seconds: context.seconds, ...load });
          await untilIdle([gateway]);
          const value = unit === 'IOPS' ? count / seconds : (count * load.size) / seconds / 1e6;
          const cpuUs = { process: ((cpuSeconds(gateway.pid) - before) * 1e6) / count };
          results[i].rounds.push({ value, cpuUs });
        }
      }
      yield { subject: 'pipeline', key, name, unit, results };
    }
  } finally {
    for (const { gateway } of ways) await gateway.stop();
    rmSync(directory, { recursive: true, force: true });
  }
}
