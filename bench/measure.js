/** Contenders measured in turn (A B A B), so that a noisy machine disturbs all of them alike. */
import { JOBS, lasting, runFio, settle } from './fio.js';
import { cpuSeconds } from './processes.js';

/** What a counter has grown by, for a number or for an object of numbers. */
function grown(before, after) {
  if (typeof after !== 'object') return after - before;
  return Object.fromEntries(Object.entries(after).map(([key, value]) => [key, value - before[key]]));
}

const scaled = (counts, divisor) =>
  Object.fromEntries(Object.entries(counts).map(([key, value]) => [key, value / divisor]));

/**
 * One measurement: throughput, latency, and what was used by every process until all that it left behind is done, too.
 * @returns { value, p50, p99, p999, maxMs, latency, operations, cpuUs: by process, cpuSecondsPerGb, …: of the report }
 */
async function once(contender, job, { size, seconds, drainSeconds: drainSecondsMax }, limits = lasting(seconds)) {
  if (!job.warm) await contender.prepare();
  const { processes } = contender;
  const before = {
    cpu: processes.map(({ pid }) => cpuSeconds(pid)),
    counted: await contender.counted?.(),
  };
  const begun = performance.now();
  const result = await runFio(contender.uri, size, job, limits);
  const during = await contender.counted?.();
  const elapsed = (performance.now() - begun) / 1000;
  const behindMiB = (await contender.behind?.()) / 2 ** 20;
  const drainedAt = performance.now();
  const isDrained = await contender.drained(1000 * drainSecondsMax);
  const drainSeconds = (performance.now() - drainedAt) / 1000;
  const memoryMiB = contender.memory?.();
  await contender.rest();
  const after = await contender.counted?.();

  const { operations, bytes, latency } = result;
  const cpu = Object.fromEntries(processes.map(({ name, pid }, i) => [name, cpuSeconds(pid) - before.cpu[i]]));
  const round = {
    value: job.unit === 'IOPS' ? result.iops : result.megabytes,
    p50: latency[50],
    p99: latency[99],
    p999: latency[99.9],
    maxMs: result.maxMs,
    latency,
    operations,
    cpuUs: scaled({ ...cpu, client: result.cpuSeconds }, operations / 1e6),
    cpuSecondsPerGb: scaled(cpu, bytes / 1e9),
    drainSeconds,
    isDrained: Boolean(isDrained),
  };
  if (memoryMiB !== undefined) round.memoryMiB = memoryMiB;
  if (contender.behind !== undefined) round.behindMiB = behindMiB;
  if (after !== undefined && job.rw.endsWith('write')) {
    round.diskBytesPerByte = scaled(grown(before.counted.disk, after.disk), bytes);
    if (after.wire !== undefined) round.wireBytesPerByte = grown(before.counted.wire, after.wire) / bytes;
    if (after.applied !== undefined) round.appliedPerSecond = grown(before.counted.applied, during.applied) / elapsed;
  }
  return round;
}

/**
 * @param context { say, runs, seconds, size }
 * @param key     of JOBS, or a job of the caller's
 * @returns a row of the report; a contender's `line` and `x` say where it stands in a plot
 */
export async function compare(context, subject, contenders, key, more = {}) {
  const job = typeof key === 'string' ? JOBS[key] : key;
  const { limits, ...ofRow } = more;
  const results = contenders.map(({ name, line, x }) => ({ who: name, line, x, rounds: [] }));
  for (const contender of contenders) {
    context.say(`${subject}: ${job.name}: settling ${contender.name}`);
    await settle(contender, context.size, job);
  }
  for (let round = 0; round < context.runs; round += 1) {
    for (const [i, contender] of contenders.entries()) {
      context.say(`${subject}: ${job.name}: ${contender.name}, round ${round + 1} of ${context.runs}`);
      results[i].rounds.push(await once(contender, job, context, limits?.(contender)));
    }
  }
  return { subject, key: typeof key === 'string' ? key : job.key, name: job.name, unit: job.unit, results, ...ofRow };
}

const COSTS = {
  cpu: {
    name: 'CPU seconds per GB, source and target',
    pick: ({ cpuSecondsPerGb: { source, target } }) => source + target,
    note: ({ cpuSecondsPerGb: { source, target } }) => `source ${source.toFixed(2)}, target ${target.toFixed(2)}`,
  },
  wire: { name: 'bytes on the wire for each of the host’s', pick: ({ wireBytesPerByte }) => wireBytesPerByte },
  disk: {
    name: 'bytes in state files for each of the host’s, at the source, cleaning not counted',
    pick: ({ diskBytesPerByte }) => diskBytesPerByte?.source,
  },
};

/** What a row of mirrors says of their costs, as rows of `cost`. */
export function* costRows({ key, name, results }) {
  const mirrors = results.filter(({ rounds }) => rounds[0].cpuSecondsPerGb.source !== undefined);
  for (const [cost, { name: what, pick, note }] of Object.entries(COSTS)) {
    const told = mirrors.filter(({ rounds }) => pick(rounds[0]) !== undefined);
    if (told.length === 0) continue;
    yield {
      ...{ subject: 'cost', key: `${cost}-${key}`, name: `${name}: ${what}`, unit: '', better: 'less' },
      results: told.map(({ who, rounds }) => ({
        who,
        rounds: rounds.map((round) => ({ value: pick(round) })),
        ...(note === undefined ? {} : { note: note(rounds[rounds.length >> 1]) }),
      })),
    };
  }
}
