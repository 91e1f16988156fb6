/** The load: fio's NBD client, one connection, and contenders measured in turn. */
import { cpuSeconds, run } from './processes.js';

/** @typedef {{ name: string, rw: string, bs: string, depth: number, more?: string[], unit: 'IOPS' | 'MB/s', warm?: boolean }} Job */

export const JOBS = {
  rw1: { name: '4 KiB random write, depth 1', rw: 'randwrite', bs: '4k', depth: 1, unit: 'IOPS' },
  rw32: { name: '4 KiB random write, depth 32', rw: 'randwrite', bs: '4k', depth: 32, unit: 'IOPS' },
  rw32f: {
    name: '4 KiB random write, depth 32, flush every 32',
    ...{ rw: 'randwrite', bs: '4k', depth: 32, more: ['--fsync=32'], unit: 'IOPS' },
  },
  rr32: { name: '4 KiB random read, depth 32', rw: 'randread', bs: '4k', depth: 32, unit: 'IOPS', warm: true },
  sw128: { name: '128 KiB sequential write, depth 16', rw: 'write', bs: '128k', depth: 16, unit: 'MB/s' },
  sr128: { name: '128 KiB sequential read, depth 16', rw: 'read', bs: '128k', depth: 16, unit: 'MB/s', warm: true },
};

async function fio(uri, size, { rw, bs, depth, more = [] }, limits) {
  const output = await run('fio', [
    ...['--name=load', '--ioengine=nbd', `--uri=${uri}`, `--rw=${rw}`, `--bs=${bs}`, `--iodepth=${depth}`],
    ...[`--size=${size}`, '--randrepeat=0', '--refill_buffers=0', '--lat_percentiles=1', '--clat_percentiles=0'],
    ...['--percentile_list=50:99:99.9', '--output-format=json', ...limits, ...more],
  ]);
  const [job] = JSON.parse(output.slice(output.indexOf('{'))).jobs;
  if (job.error !== 0) throw new Error(`fio at ${uri}: error ${job.error}`);
  return { job, side: job[rw.endsWith('read') ? 'read' : 'write'] };
}

/** Writes every block once, in random order: the same history for every contender. */
export async function fill(contender, size) {
  await fio(contender.uri, size, { rw: 'randwrite', bs: '4k', depth: 32 }, ['--randseed=1', '--end_fsync=1']);
  await contender.drain();
  await contender.rest();
}

/** One measurement: throughput, latency, and CPU time of every process until all that it left behind is done too. */
async function once(contender, job, { size, seconds }) {
  await contender.prepare();
  if (job.warm) await fio(contender.uri, size, { rw: 'randread', bs: '4k', depth: 32 }, []);
  const cpuBefore = contender.processes.map(({ pid }) => cpuSeconds(pid));
  const appliedBefore = await contender.applied?.();
  const started = performance.now();
  const limits = ['--time_based', `--runtime=${seconds}`, '--norandommap=1'];
  const { job: result, side } = await fio(contender.uri, size, job, limits);
  const appliedAfter = await contender.applied?.();
  const elapsed = (performance.now() - started) / 1000;
  await contender.drain();
  const drained = (performance.now() - started) / 1000;
  await contender.rest();
  const cpuUs = Object.fromEntries(
    contender.processes.map(({ name, pid }, i) => [name, ((cpuSeconds(pid) - cpuBefore[i]) * 1e6) / side.total_ios]),
  );
  cpuUs.client = ((result.usr_cpu + result.sys_cpu) / 100) * (result.job_runtime / 1000) * (1e6 / side.total_ios);
  const { percentile } = side.lat_ns;
  const micros = (rank) => percentile[rank] / 1000;
  return {
    value: job.unit === 'IOPS' ? side.iops : side.bw_bytes / 1e6,
    p50: micros('50.000000'),
    p99: micros('99.000000'),
    p999: micros('99.900000'),
    maxMs: side.lat_ns.max / 1e6,
    cpuUs,
    operations: side.total_ios,
    drainSeconds: drained - elapsed,
    ...(appliedAfter === undefined ? {} : { appliedPerSecond: (appliedAfter - appliedBefore) / elapsed }),
  };
}

/**
 * Measures contenders in turn (A B A B), so that a noisy machine disturbs all of them alike.
 * @returns a row of the report for every job
 */
export async function compare(context, subject, contenders, jobs, goals) {
  const rows = [];
  for (const key of jobs) {
    const job = JOBS[key];
    const rounds = contenders.map(() => []);
    for (let round = 0; round < context.runs; round++) {
      for (const [i, contender] of contenders.entries()) {
        context.say(`${subject}: ${job.name}: ${contender.name}, round ${round + 1} of ${context.runs}`);
        rounds[i].push(await once(contender, job, context));
      }
    }
    const results = contenders.map(({ name }, i) => ({ who: name, rounds: rounds[i] }));
    rows.push({ subject, name: job.name, unit: job.unit, results, goals: goals[key] ?? [] });
  }
  return rows;
}
