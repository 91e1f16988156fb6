/** The load: fio's NBD client. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { run } from './processes.js';

/**
 * @typedef {object} Job
 * @property {string} name
 * @property {string} rw      as fio says it
 * @property {string} bs      request size
 * @property {number} depth   requests in flight, on every connection
 * @property {number} [connections]
 * @property {string[]} [more]
 * @property {'IOPS' | 'MB/s'} unit
 * @property {string} [written] a journal is written once before that, in sequence, in requests of this size
 * @property {boolean} [warm] everything is read once beforehand; with `written`, every contender is written so before
 * @property {boolean} [exact] every request's latency is noted: fio's own percentiles are 1 % wide, 1 ms at 100 ms
 */

const small = (name, rw, depth, more = {}) => ({ name: `4 KiB ${name}`, rw, bs: '4k', depth, unit: 'IOPS', ...more });
const large = (name, rw, bs, depth, more = {}) => ({ name, rw, bs, depth, unit: 'MB/s', ...more });
const inSequence = (bs) => ({ written: bs, warm: true });
const flushEvery = (count) => ({ more: [`--fsync=${count}`] });

/** @type {Record<string, Job>} r, w: read, write; r, s: random, sequential; then depth or size; f: flush; c: connections */
export const JOBS = {
  rw1: small('random write, depth 1', 'randwrite', 1),
  rw32: small('random write, depth 32', 'randwrite', 32),
  rr1: small('random read, depth 1', 'randread', 1, { warm: true }),
  rr32: small('random read, depth 32', 'randread', 32, { warm: true }),
  mix32: small('random, 70 % read and 30 % written, depth 32', 'randrw', 32, { more: ['--rwmixread=70'], warm: true }),
  rw1f1: small('random write, depth 1, a flush after each', 'randwrite', 1, flushEvery(1)),
  rw32f1: small('random write, depth 32, a flush after each', 'randwrite', 32, flushEvery(1)),
  rw1f32: small('random write, depth 1, a flush after every 32', 'randwrite', 1, flushEvery(32)),
  rw32f32: small('random write, depth 32, a flush after every 32', 'randwrite', 32, flushEvery(32)),
  rw8c4: small('random write, 4 connections of depth 8', 'randwrite', 8, { connections: 4 }),
  rr8c4: small('random read, 4 connections of depth 8', 'randread', 8, { connections: 4, warm: true }),
  rw32c4: small('random write, 4 connections of depth 32', 'randwrite', 32, { connections: 4 }),
  sw128: large('128 KiB sequential write, depth 16', 'write', '128k', 16, { written: '128k' }),
  sw128s: large('128 KiB sequential write over blocks written at random, depth 16', 'write', '128k', 16),
  sw128f512: large('128 KiB sequential write, depth 16, a flush after every 64 MiB', 'write', '128k', 16, {
    ...flushEvery(512),
    written: '128k',
  }),
  sr128: large('128 KiB sequential read, depth 16', 'read', '128k', 16, inSequence('128k')),
  sw1m: large('1 MiB sequential write, depth 4', 'write', '1m', 4, { written: '1m' }),
  sr1m: large('1 MiB sequential read, depth 4', 'read', '1m', 4, inSequence('1m')),
  sr128s: large('128 KiB sequential read of blocks written at random, depth 16', 'read', '128k', 16, { warm: true }),
};

const RANKS = [1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.99];

/**
 * One run of fio.
 * @returns { operations, seconds, iops, megabytes (a second), latency: { rank: µs }, maxMs, cpuSeconds: fio's own }
 */
export async function runFio(uri, size, { exact = false, ...job }, limits) {
  if (!exact) return runOnce(uri, size, job, limits);
  const directory = mkdtempSync(join(tmpdir(), 'forelock-fio-'));
  const log = join(directory, 'load');
  try {
    const noted = [`--write_lat_log=${log}`, '--log_avg_msec=0'];
    const result = await runOnce(uri, size, job, [...limits, ...noted]);
    const lines = readFileSync(`${log}_lat.1.log`, 'utf8').trim().split('\n'); // ms, ns, direction, …
    const sorted = lines.map((line) => Number(line.split(',')[1]) / 1000).sort((a, b) => a - b);
    const at = (rank) => sorted[Math.min(sorted.length - 1, Math.floor((sorted.length * rank) / 100))];
    return { ...result, latency: Object.fromEntries(RANKS.map((rank) => [rank, at(rank)])) };
  } finally {
    rmSync(directory, { recursive: true });
  }
}

async function runOnce(uri, size, { rw, bs, depth, connections = 1, more = [] }, limits) {
  const output = await run('fio', [
    ...['--name=load', '--ioengine=nbd', `--uri=${uri}`, `--rw=${rw}`, `--bs=${bs}`, `--iodepth=${depth}`],
    ...[`--size=${size}`, `--numjobs=${connections}`, '--thread', '--group_reporting', '--randrepeat=0'],
    ...['--refill_buffers=0', '--unified_rw_reporting=1', '--lat_percentiles=1', '--clat_percentiles=0'],
    ...[`--percentile_list=${RANKS.join(':')}`, '--output-format=json', ...limits, ...more],
  ]);
  const [job] = JSON.parse(output.slice(output.indexOf('{'))).jobs;
  if (job.error !== 0) throw new Error(`fio at ${uri}: error ${job.error}`);
  const { mixed } = job;
  const latency = Object.entries(mixed.lat_ns.percentile ?? {}).map(([rank, ns]) => [Number(rank), ns / 1000]);
  const seconds = job.job_runtime / connections / 1000;
  return {
    operations: mixed.total_ios,
    bytes: mixed.io_bytes,
    seconds,
    iops: mixed.iops,
    megabytes: mixed.bw_bytes / 1e6,
    latency: Object.fromEntries(latency),
    maxMs: mixed.lat_ns.max / 1e6,
    cpuSeconds: ((job.usr_cpu + job.sys_cpu) / 100) * (job.job_runtime / 1000),
  };
}

export const lasting = (seconds) => ['--time_based', `--runtime=${Math.round(1000 * seconds)}ms`, '--norandommap=1'];

const STEADY_SECONDS_MAX = 30;

/**
 * Writes every block once, in random order: the same history for every contender. A journal is then written on until its
 * files are written over, as they are ever after.
 */
export async function fill(contender, size) {
  await runFio(contender.uri, size, { rw: 'randwrite', bs: '4k', depth: 32 }, ['--randseed=1', '--end_fsync=1']);
  for (let seconds = 0; seconds < STEADY_SECONDS_MAX && (await contender.isSteady?.()) === false; seconds += 1) {
    await runFio(contender.uri, size, JOBS.rw32, lasting(1));
  }
  await contender.drained();
  await contender.rest();
}

/**
 * Brings a contender into the state that a job goes on from: written in sequence, in the page cache. An image that is
 * written in place is the same however it was written, and a mirror that asks for every write would take a minute.
 */
export async function settle(contender, size, { written, warm = false }) {
  const { uri } = contender;
  const isWritten = written !== undefined && (warm || contender.isSteady !== undefined);
  if (!isWritten && !warm) return;
  await contender.prepare();
  if (isWritten) {
    await runFio(uri, size, { rw: 'write', bs: written, depth: 4 }, ['--end_fsync=1']);
    await contender.drained();
  }
  if (warm) await runFio(uri, size, { rw: 'randread', bs: '4k', depth: 32 }, []);
  else await contender.rest();
}
