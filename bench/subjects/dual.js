/**
 * Both sites write: the rate at which each applies what the other's hosts write, summed, by how much of what they write
 * is in common and by the round trip. After every load the sites drain, and their images must be equal. Locks: how long
 * one takes to open, through the library.
 */
import { join } from 'node:path';
import { JOBS, lasting, runFio } from '../fio.js';
import { nameAt, startBoth } from '../gateways.js';
import { cpuSeconds, run as runProgram, sleep, start, stop, until } from '../processes.js';

export const needs = ['fio', 'gcc', 'nbdcopy'];

const MIB = 2 ** 20;
const SIZE = 64 * MIB;
const HALF = SIZE / 2;
const BLOCK = 4096;
const OVERLAPS = [0, 0.01, 0.1];
const ROUND_TRIPS = [0, 100];
const WARM_UP_SECONDS = 1.5;
const DRAIN_MS_MAX = 120_000;
const LOCKS = 40;

const cursorsOf = async (site) => (await site.group()).cursors;

/** Records that each site has applied of the other's stream. */
const appliedOf = async ({ a, b }) => (await cursorsOf(a)).peer.applied + (await cursorsOf(b)).peer.applied;

const uriOf = async (site) => (await site.status()).nbdUris[0];

/** Hosts at both sites, each in its own half but for a part of it that the other writes, too. */
async function load({ a, b }, overlap, seconds) {
  const shared = Math.round((HALF * overlap) / BLOCK) * BLOCK;
  const places = [
    [a, 0],
    [b, HALF - shared],
  ];
  await Promise.all(
    places.map(async ([site, offset]) =>
      runFio(await uriOf(site), HALF, { ...JOBS.rw32, more: [`--offset=${offset}`] }, lasting(seconds)),
    ),
  );
}

/** Waits until nothing is on its way. @throws Error the images differ then */
async function untilEqual({ a, b }, scratch) {
  const isDrained = async () => {
    const [atA, atB] = [await cursorsOf(a), await cursorsOf(b)];
    return atA.own.appended === atB.peer.applied && atB.own.appended === atA.peer.applied;
  };
  if (!(await until(isDrained, DRAIN_MS_MAX))) throw new Error('the sites do not drain');
  const images = ['a', 'b'].map((name) => join(scratch, `image-${name}`));
  for (const [i, site] of [a, b].entries()) await runProgram('nbdcopy', [await uriOf(site), images[i]]);
  await runProgram('cmp', images);
}

async function measure(sites, overlap, roundTripMs, context) {
  await sites.line.set({ roundTripMs });
  const loading = load(sites, overlap, WARM_UP_SECONDS + context.seconds + 0.5);
  const used = () => cpuSeconds(sites.a.pid) + cpuSeconds(sites.b.pid);
  const rate = (async () => {
    await sleep(1000 * WARM_UP_SECONDS);
    const [cpuFrom, from, begun] = [used(), await appliedOf(sites), performance.now()];
    await sleep(1000 * context.seconds);
    const [cpuTo, to, ended] = [used(), await appliedOf(sites), performance.now()];
    return {
      value: (1000 * (to - from)) / (ended - begun),
      cpuUs: { 'both gateways': (1e6 * (cpuTo - cpuFrom)) / (to - from) },
    };
  })();
  const [round] = await Promise.all([rate, loading]);
  await untilEqual(sites, context.scratch);
  return round;
}

export async function* run(context) {
  const sites = await startBoth(context, { size: SIZE });
  try {
    for (const overlap of OVERLAPS) {
      const results = ROUND_TRIPS.map((ms) => ({
        who: nameAt('both sites', ms),
        line: `${100 * overlap} % in common`,
        x: ms,
        rounds: [],
      }));
      for (let round = 0; round < context.runs; round += 1) {
        for (const [i, ms] of ROUND_TRIPS.entries()) {
          context.say(`dual: ${100 * overlap} % in common, ${ms} ms, round ${round + 1} of ${context.runs}`);
          results[i].rounds.push(await measure(sites, overlap, ms, context));
        }
      }
      const name = `4 KiB random writes at both sites, depth 32, ${100 * overlap} % in common, applied by the other`;
      const key = `overlap-${100 * overlap}`;
      for (const result of results) result.note = 'images equal after every load';
      yield { subject: 'dual', key, name, unit: 'writes/s', results, family: 'both sites write', axis: 'round trip' };
    }
    await sites.line.set({ roundTripMs: Math.max(...ROUND_TRIPS) });
    yield await lockRow(sites, Math.max(...ROUND_TRIPS), context);
  } finally {
    await sites.stop();
  }
}

/** The host is in site b's process; while "both write there" hosts at both write what is being locked. */
async function lockRow({ a, b }, roundTripMs, { say, quick }) {
  const count = quick ? 8 : LOCKS;
  say(`dual: locks at ${roundTripMs} ms`);
  const opened = async (mode, isWritten) => {
    const { ms } = await b.ask({ do: 'locks', count, mode, isWritten });
    return ms.map((value) => ({ value }));
  };
  await opened('write', false); // warms up
  const results = [
    { who: 'write', rounds: await opened('write', false) },
    { who: 'read, idle', rounds: await opened('read', false) },
  ];
  const load = [
    '--ioengine=nbd',
    `--uri=${await uriOf(a)}`,
    '--rw=randwrite',
    '--bs=4k',
    '--iodepth=1',
    `--size=${MIB}`,
  ];
  const host = start('fio', ['--name=load', ...load, '--thinktime=1000', ...lasting(3600)]);
  try {
    await sleep(1000);
    results.push({ who: 'read, both write there', rounds: await opened('read', true) });
  } finally {
    await stop(host);
  }
  const name = `opening a lock of 64 KiB where both sites write, ${roundTripMs} ms`;
  return { subject: 'dual', key: 'locks', name, unit: 'ms', better: 'less', results };
}
