/**
 * Memory of a gateway (resident, MiB): with a thin volume of 1 TiB before its first I/O, while it is written, when it is
 * idle again, and what each GiB that is mapped adds.
 */
import { lasting, runFio } from '../fio.js';
import { startAlone } from '../gateways.js';
import { residentMiB, sleep } from '../processes.js';

export const needs = ['fio'];

const GIB = 2 ** 30;
const SETTLE_MS = 2000;
const SAMPLE_MS = 50;
/** Written in sequence, GiB [from, to). */
const write = ({ uri }, from, to) => {
  const more = [`--offset=${from}g`, `--io_size=${to - from}g`];
  return runFio(uri, 1024 * GIB, { rw: 'write', bs: '1m', depth: 4, more }, []);
};

/** @returns the most that a process had while something lasted */
async function peakWhile(pid, work) {
  let peak = 0;
  const timer = setInterval(() => {
    peak = Math.max(peak, residentMiB(pid));
  }, SAMPLE_MS);
  await work;
  clearInterval(timer);
  return peak;
}

export async function* run(context) {
  const mapped = context.quick ? 1 : 3; // GiB
  const rounds = { thin: [], load: [], idle: [], mapped: [] };
  for (let round = 0; round < context.runs; round += 1) {
    context.say(`memory: 1 TiB thin, ${mapped} GiB mapped, round ${round + 1}`);
    const alone = await startAlone(context, { size: 1024 * GIB });
    const { pid } = alone.gateway;
    const idle = async () => {
      await alone.drained();
      await alone.rest();
      await sleep(SETTLE_MS);
      return residentMiB(pid);
    };
    const collected = async () => {
      await idle();
      await alone.gateway.ask({ do: 'collect' }); // garbage, collected or not, is more than a GiB's map
      return residentMiB(pid);
    };
    try {
      rounds.thin.push({ value: residentMiB(pid) });
      const random = { rw: 'randwrite', bs: '4k', depth: 32 };
      const load = runFio(alone.uri, GIB / 4, random, lasting(Math.max(2, context.seconds)));
      rounds.load.push({ value: await peakWhile(pid, load) });
      rounds.idle.push({ value: await idle() });
      await write(alone, 1, 1 + mapped); // buffers for large writes and a grown young generation are there from now on
      const before = await collected();
      await write(alone, 1 + mapped, 1 + 2 * mapped);
      rounds.mapped.push({ value: ((await collected()) - before) / mapped });
    } finally {
      await alone.stop();
    }
  }
  const names = {
    thin: '1 TiB thin, before the first I/O',
    load: 'most while 4 KiB are written at random, depth 32',
    idle: 'idle after that load',
    mapped: `added by a mapped GiB, over ${mapped} GiB written in sequence`,
  };
  for (const [key, name] of Object.entries(names)) {
    yield {
      subject: 'memory',
      key,
      name,
      unit: 'MiB',
      better: 'less',
      results: [{ who: 'forelock', rounds: rounds[key] }],
    };
  }
}
