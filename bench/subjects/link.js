/**
 * A narrow link while there is a backlog: what share of its capacity carries journal. The host writes twice as fast as
 * the link carries, so the backlog grows; the window begins when there is one and ends with a larger one.
 */
import { JOBS, lasting, runFio } from '../fio.js';
import { startPair } from '../gateways.js';
import { sleep } from '../processes.js';

export const needs = ['fio', 'gcc'];

const ROUND_TRIP_MS = 100;
const RATE_MB = 12.5;
const WARM_UP_SECONDS = 2;
const WINDOW_SECONDS_MIN = 4;
const BLOCK = 4096;

export async function* run(context) {
  const seconds = Math.max(context.seconds, WINDOW_SECONDS_MIN);
  const pair = await startPair(context);
  try {
    const narrow = pair.at(ROUND_TRIP_MS, RATE_MB);
    const carried = async () => (await pair.target.group()).counters.mirrorBytesReceived;
    const rounds = [];
    for (let round = 0; round < context.runs; round += 1) {
      context.say(`link: ${RATE_MB} MB/s, round ${round + 1} of ${context.runs}`);
      await narrow.prepare();
      const job = { ...JOBS.rw32, more: [`--rate_iops=${Math.round((2e6 * RATE_MB) / BLOCK)}`] };
      const load = runFio(narrow.uri, context.size, job, lasting(WARM_UP_SECONDS + seconds + 0.5));
      await sleep(1000 * WARM_UP_SECONDS);
      const behindFrom = await narrow.behind();
      const [from, begun] = [await carried(), performance.now()];
      await sleep(1000 * seconds);
      const [to, ended] = [await carried(), performance.now()];
      const behindMiB = (await narrow.behind()) / 2 ** 20;
      await load;
      rounds.push({
        value: (to - from) / ((ended - begun) * 1000 * RATE_MB),
        behindMiB,
        behindFromMiB: behindFrom / 2 ** 20,
      });
      await narrow.rest();
    }
    const name = `share of a link of ${RATE_MB} MB/s and ${ROUND_TRIP_MS} ms that carries journal`;
    yield { subject: 'link', key: 'share', name, unit: '', results: [{ who: 'forelock', rounds }] };
  } finally {
    await pair.stop();
  }
}
