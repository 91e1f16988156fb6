/**
 * What a gateway costs, by the size of a thin volume, by the number of volumes, and by how often everything was written:
 * time of a start after a clean stop, memory (resident) when it has started, and rate of 4 KiB random writes, depth 32.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { JOBS, lasting, runFio } from '../fio.js';
import { groupOptions, startGateway } from '../gateways.js';
import { residentMiB } from '../processes.js';

export const needs = ['fio'];

const GIB = 2 ** 30;
/** What is written, whatever the volume's size. */
const SET = 128 * 2 ** 20;

const volumesOf = (count, size) => Array.from({ length: count }, (_, i) => ({ name: `disk${i + 1}`, size }));

const WAYS = {
  size: {
    name: 'size of a thin volume',
    axis: 'size',
    values: [1, 32, 1024].map((gibibytes) => gibibytes * GIB),
    volumes: (size) => volumesOf(1, size),
    passes: () => 1,
  },
  volumes: {
    name: 'number of volumes',
    axis: 'count',
    values: [1, 10, 100],
    volumes: (count) => volumesOf(count, GIB),
    passes: () => 1,
  },
  history: {
    name: 'times that everything was written',
    axis: 'count',
    values: [1, 4, 16],
    volumes: () => volumesOf(1, SET),
    passes: (times) => times,
  },
};
const METRICS = {
  start: { name: 'start after a clean stop', unit: 's', better: 'less' },
  memory: { name: 'memory after the start', unit: 'MiB', better: 'less' },
  rate: { name: JOBS.rw32.name, unit: 'IOPS' },
};

async function look(context, volumes, passes) {
  const state = mkdtempSync(join(context.scratch, 'growth-'));
  const nbd = [{ host: '127.0.0.1', port: 0 }];
  const open = () => startGateway(context, state, 'alone', nbd, groupOptions({ role: 'primary', volumes }));
  let gateway = await open();
  try {
    for (let pass = 0; pass < passes; pass += 1) {
      await runFio(gateway.uris[0], SET, { rw: 'randwrite', bs: '4k', depth: 32 }, ['--end_fsync=1']);
    }
    await gateway.stop();
    const begun = performance.now();
    gateway = await open();
    const start = (performance.now() - begun) / 1000;
    const memory = residentMiB(gateway.pid);
    const { iops, latency } = await runFio(gateway.uris[0], SET, JOBS.rw32, lasting(context.seconds));
    return {
      start: { value: start },
      memory: { value: memory },
      rate: { value: iops, p50: latency[50], p99: latency[99] },
    };
  } finally {
    await gateway.stop();
    rmSync(state, { recursive: true, force: true });
  }
}

const nameOf = (axis, value) => (axis === 'size' ? `${value / GIB} GiB` : `${value}`);

export async function* run(context) {
  for (const [key, { name, axis, values, volumes, passes }] of Object.entries(WAYS)) {
    const results = values.map((value) => ({ who: nameOf(axis, value), line: 'forelock', x: value, looks: [] }));
    for (let round = 0; round < context.runs; round += 1) {
      for (const [i, value] of values.entries()) {
        context.say(`growth: ${name}: ${nameOf(axis, value)}, round ${round + 1} of ${context.runs}`);
        results[i].looks.push(await look(context, volumes(value), passes(value)));
      }
    }
    for (const [metric, { name: what, ...rest }] of Object.entries(METRICS)) {
      yield {
        ...{ subject: 'growth', key: `${key}-${metric}`, name: `${what}, by ${name}`, axis, ...rest },
        family: `${what}, by ${name}`,
        results: results.map(({ looks, ...result }) => ({ ...result, rounds: looks.map((each) => each[metric]) })),
      };
    }
  }
}
