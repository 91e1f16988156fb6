/**
 * A mirrored pair over lines of several round trips, beside QEMU's mirrors over the same, and an unmirrored file server.
 * `steady` is the rate at which the target applies, from some time after the start on: without a flush a client may run
 * ahead of the mirror, and this is what lasts.
 */
import { fill, JOBS, lasting, runFio } from '../fio.js';
import { nameAt, startPair } from '../gateways.js';
import { compare, costRows } from '../measure.js';
import { startPeer } from '../peers.js';
import { sleep } from '../processes.js';
import { MIRROR_MODES, startQemuMirror } from '../qemu-mirror.js';

export const needs = ['fio', 'gcc'];

const FAR_MS = 100;
const NARROW_MB = 12.5;
const STEADY_PLOT = { family: 'applied at the target, steady state', axis: 'round trip' };
const FAR = nameAt('forelock', FAR_MS);
const NEAR_AND_FAR = [0, FAR_MS];
const WARM_UP_SECONDS = 1.5;
const STEADY_SECONDS_MIN = 3;
/** Jobs over every round trip; of --all, those at FAR_MS only, and those of the other ways to mirror. */
const JOBS_EVERYWHERE = ['rw32', 'sw128'];
const JOBS_FAR = ['rw1', 'rw32f32', 'sw1m'];

export async function* run(context) {
  const roundTrips = context.all ? [0, 10, 50, FAR_MS] : NEAR_AND_FAR;
  const running = [];
  try {
    const pair = await startPair(context);
    running.push(pair);
    context.say('mirror: filling');
    await fill(pair.at(0), context.size);
    const others = [];
    if (context.peers.includes('nbdkit')) others.push(await startPeer(context, 'nbdkit'));
    running.push(...others);
    const mirrors = [];
    for (const mode of context.hasQemuMirror ? MIRROR_MODES.filter((each) => context.all || each !== 'quorum') : []) {
      context.say(`mirror: first copy of qemu ${mode}`);
      mirrors.push(await startQemuMirror(context, mode));
    }
    running.push(...mirrors);

    const farOnly = [pair.at(FAR_MS), ...mirrors.map((mirror) => mirror.at(FAR_MS)), ...others];
    const everywhere = [
      ...roundTrips.map((ms) => pair.at(ms)),
      ...mirrors.flatMap((mirror) => (context.all ? roundTrips : [FAR_MS]).map((ms) => mirror.at(ms))),
      ...(context.all ? [pair, ...mirrors].map((mirror) => mirror.at(FAR_MS, NARROW_MB)) : []),
      ...others,
    ];
    for (const key of context.jobs ?? JOBS_EVERYWHERE) {
      const place = { reference: FAR, family: `${JOBS[key].name}, mirrored`, axis: 'round trip' };
      const row = await compare(context, 'mirror', everywhere, key, place);
      yield row;
      yield* costRows(row);
    }
    yield await steady(
      context,
      roundTrips.map((ms) => pair.at(ms)),
    );
    if (context.all)
      for (const key of JOBS_FAR) yield await compare(context, 'mirror', farOnly, key, { reference: FAR });
  } finally {
    for (const each of running.reverse()) await each.stop();
  }
  if (context.all) yield* otherWays(context);
}

/** Writes a second, by the target's own applied cursor. */
async function steady(context, contenders) {
  const seconds = Math.max(context.seconds, STEADY_SECONDS_MIN);
  const results = contenders.map(({ name, line, x }) => ({ who: name, line, x, rounds: [] }));
  for (let round = 0; round < context.runs; round += 1) {
    for (const [i, contender] of contenders.entries()) {
      context.say(`mirror: steady state: ${contender.name}, round ${round + 1} of ${context.runs}`);
      await contender.prepare();
      const load = runFio(contender.uri, context.size, JOBS.rw32, lasting(WARM_UP_SECONDS + seconds + 1));
      const measured = (async () => {
        await sleep(1000 * WARM_UP_SECONDS);
        const [from, begun] = [(await contender.counted()).applied, performance.now()];
        await sleep(1000 * seconds);
        const [to, ended] = [(await contender.counted()).applied, performance.now()];
        return { value: (1000 * (to - from)) / (ended - begun), behindMiB: (await contender.behind()) / 2 ** 20 };
      })();
      const [measurement] = await Promise.all([measured, load]);
      results[i].rounds.push(measurement);
      await contender.rest();
    }
  }
  const name = '4 KiB random write, depth 32: applied at the target, steady state';
  return { subject: 'mirror', key: 'steady', name, unit: 'writes/s', results, ...STEADY_PLOT };
}

/** The platter of plain images, and lock-step: what speculation is there to avoid. */
async function* otherWays(context) {
  const running = [];
  try {
    const journal = await startPair(context, { name: 'platter journal' });
    running.push(journal);
    const flat = await startPair(context, { name: 'platter flat', platter: 'flat' });
    running.push(flat);
    const lockStep = await startPair(context, { name: 'lock-step', speculation: 'off' });
    running.push(lockStep);
    for (const pair of [journal, flat]) await fill(pair.at(0), context.size);
    const contenders = [...NEAR_AND_FAR.flatMap((ms) => [journal.at(ms), flat.at(ms)]), lockStep.at(FAR_MS)];
    for (const key of JOBS_EVERYWHERE) {
      const row = await compare(context, 'mirror', contenders, key);
      yield { ...row, key: `${key}-ways`, name: `${row.name}, platters and lock-step` };
    }
  } finally {
    for (const pair of running.reverse()) await pair.stop();
  }
}
