/**
 * Hosts whose mirror is on a line ten times slower than they write: with `ack local` they should not notice while the
 * journal has room. A measurement writes more than the ring holds, so that what is on its way would be in their way.
 */
import { JOBS, lasting } from '../fio.js';
import { startPair } from '../gateways.js';
import { compare } from '../measure.js';

export const needs = ['fio', 'gcc'];

const ROUND_TRIP_MS = 100;
const RATE_MB = 4;
const BLOCK = 4096;
const SECONDS_MIN = 4;
const JOB = {
  ...JOBS.rw32,
  key: 'hosts',
  name: `4 KiB random write at ${10 * RATE_MB} MB/s`,
  more: [`--rate_iops=${Math.round((10e6 * RATE_MB) / BLOCK)}`],
};

export async function* run(context) {
  const seconds = Math.max(context.seconds, SECONDS_MIN);
  const pair = await startPair(context);
  try {
    const contenders = [pair.at(ROUND_TRIP_MS), pair.at(ROUND_TRIP_MS, RATE_MB)];
    // the slow one would take ten times as long to catch up: `rest` lets it, over a quick line
    yield await compare({ ...context, drainSeconds: 0 }, 'slow', contenders, JOB, { limits: () => lasting(seconds) });
  } finally {
    await pair.stop();
  }
}
