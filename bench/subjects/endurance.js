/** Memory of source and target over ten minutes at full load, 100 ms apart: does it stay flat? */
import { JOBS, lasting, runFio } from '../fio.js';
import { startPair } from '../gateways.js';
import { residentMiB } from '../processes.js';
import { median } from '../statistics.js';

export const needs = ['fio', 'gcc'];

const SECONDS = 600;
const ROUND_TRIP_MS = 100;

export async function* run(context) {
  const seconds = context.quick ? 20 : SECONDS;
  const pair = await startPair(context);
  try {
    const contender = pair.at(ROUND_TRIP_MS);
    await contender.prepare();
    const sites = [
      { who: 'source', pid: pair.source.pid, points: [] },
      { who: 'target', pid: pair.target.pid, points: [] },
    ];
    const begun = performance.now();
    const timer = setInterval(() => {
      const at = (performance.now() - begun) / 1000;
      context.say(`endurance: ${Math.round(at)} of ${seconds} s`);
      for (const { pid, points } of sites) points.push([at, residentMiB(pid)]);
    }, 1000);
    await runFio(contender.uri, context.size, JOBS.rw32, lasting(seconds));
    clearInterval(timer);
    await contender.rest();
    const tenth = (points, index) => {
      const size = Math.max(1, Math.floor(points.length / 10));
      return median(points.slice(index * size, (index + 1) * size).map(([, mebibytes]) => mebibytes));
    };
    yield {
      ...{ subject: 'endurance', key: 'memory', unit: 'MiB', better: 'less', axis: 'seconds' },
      name: `memory over ${seconds} s at full load`,
      results: sites.map(({ who, points }) => ({ who, points, rounds: points.map(([, value]) => ({ value })) })),
    };
    yield {
      ...{ subject: 'endurance', key: 'growth', unit: '', better: 'less' },
      name: 'memory at full load: last tenth of the time over the second tenth',
      results: sites.map(({ who, points }) => ({ who, rounds: [{ value: tenth(points, 9) / tenth(points, 1) }] })),
    };
  } finally {
    await pair.stop();
  }
}
