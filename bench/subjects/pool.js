/**
 * Where handing work to the pool begins to pay: CPU time of the main thread for a batch that it seals itself, and for
 * one that it hands over. And what the program chose: the share of journal that the pool sealed, by the size of writes.
 */
import { existsSync, readFileSync } from 'node:fs';
import { createKernel } from '../../dist/src/kernel/create.js';
import { GroupMemory } from '../../dist/src/kernel/memory.js';
import { PiscinaPool } from '../../dist/src/kernel/pool.js';
import { JOBS, lasting, runFio } from '../fio.js';
import { startAlone } from '../gateways.js';
import { timeInTurn } from '../timing.js';
import { fillWithRecords } from './kernels.js';

export const needs = [];

const KIB = 1024;
const SIZES = [16, 32, 64, 128, 256, 512, 1024, 2048].map((size) => size * KIB);
const UNDER_WAY = 4;

/**
 * Microseconds that the main thread has run: on Linux what the scheduler says (it counts up when the thread is switched
 * or a tick has passed), else what the event loop was active for.
 */
function mainThreadUs() {
  const schedstat = `/proc/self/task/${process.pid}/schedstat`;
  if (existsSync(schedstat)) return Number(readFileSync(schedstat, 'utf8').split(' ')[0]) / 1000;
  return performance.eventLoopUtilization().active * 1000;
}

async function handedUs(pool, { at, size }, count) {
  const before = mainThreadUs();
  await new Promise((resolve, reject) => {
    let [asked, answered] = [0, 0];
    const ask = () => {
      asked += 1;
      pool.seal(at, size, (error) => {
        answered += 1;
        if (error) reject(error);
        else if (answered === count) resolve();
        else if (asked < count) ask();
      });
    };
    for (let i = 0; i < UNDER_WAY; i += 1) ask();
  });
  return (mainThreadUs() - before) / count;
}

export async function* run(context) {
  const { rounds, quick, programs, say } = context;
  const memory = new GroupMemory(8192 * KIB);
  const { at } = memory.take(4096 * KIB);
  const kernel = createKernel('wasm', memory);
  const pool = new PiscinaPool({ memory, kernel: 'wasm' });
  try {
    for (const size of SIZES) {
      say(`pool: batches of ${size / KIB} KiB`);
      const records = fillWithRecords(kernel, at, 4 * KIB, size);
      const seal = () => kernel.seal(records.at, records.size);
      const [inline, handed] = [[], []];
      await handedUs(pool, records, 100); // warms up
      for (let round = 0; round < rounds; round += 1) {
        inline.push({ value: timeInTurn([{ run: seal }], 1, (ms) => 1000 * ms)[0][0] });
        handed.push({ value: await handedUs(pool, records, quick ? 100 : 400) });
      }
      const results = [
        { who: 'sealed inline', line: 'sealed inline', x: size, rounds: inline },
        { who: 'handed over', line: 'handed over', x: size, rounds: handed },
      ];
      const name = `main thread, a batch of ${size / KIB} KiB`;
      const place = { family: 'what a batch costs the main thread', axis: 'size' };
      yield { subject: 'pool', key: `batch-${size / KIB}k`, name, unit: 'µs', better: 'less', results, ...place };
    }
  } finally {
    await pool.close();
  }
  if ('fio' in programs) yield* chosen(context);
}

/** Share of batches that were sealed in the pool. */
async function* chosen(context) {
  const alone = await startAlone(context);
  try {
    const results = [];
    for (const key of ['rw1', 'rw32', 'sw128', 'sw1m']) {
      context.say(`pool: what it chose: ${JOBS[key].name}`);
      const before = (await alone.gateway.group()).counters;
      await runFio(alone.uri, context.size, JOBS[key], lasting(context.seconds));
      const after = (await alone.gateway.group()).counters;
      const inline = after.journalSealedInline - before.journalSealedInline;
      const inPool = after.journalSealedInPool - before.journalSealedInPool;
      results.push({ who: JOBS[key].name, rounds: [{ value: (100 * inPool) / Math.max(1, inline + inPool) }] });
    }
    yield { subject: 'pool', key: 'chosen', name: 'batches sealed in the pool', unit: '%', results };
  } finally {
    await alone.stop();
  }
}
