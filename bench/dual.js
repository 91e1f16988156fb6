/**
 * What a round trip costs where both sites write: the rate at which each applies what the other's hosts write, summed,
 * beside the rate at 0 ms. After every load the sites drain, and their images must be equal.
 *
 *     node bench/dual.js [--quick] [--seconds 20] [--round-trip 100] [--equal 20]
 *
 *     own halves      4 KiB random writes by fio over NBD, depth 32, at both sites, each in its own half
 *     1 % in common   the same, where the halves overlap by 1 % of each
 *     equal           as many short loads in a row with 1 % in common, at the round trip: the images are equal after each
 *     locks           through the library, at the round trip: a write lock, a read lock of blocks where nothing is on
 *                     its way, and one while both sites write those blocks
 *
 * On a machine that others use, too, compare the CPU time of a write, which it says after each load: the rate is what the
 * others left.
 *
 * Both gateways are processes, with the delay proxy (test/interop/delayproxy.c) in between.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { cpuSeconds, freePort, run as runProgram, sleep, start, stop } from './processes.js';
import { formatRow, median } from './report.js';
import { between, startGateway, startProxy, untilStreaming } from './roundtrip.js';

const MIB = 2 ** 20;
const SIZE = 64 * MIB;
const HALF = SIZE / 2;
const JOURNAL = 12 * 1024 * MIB;
const BLOCK = 4096;
const WARM_UP_MS = 2000;
const DRAIN_MS_MAX = 120_000;
const EQUAL_LOAD_SECONDS = 1;
const LOCKS = 40;
const OWN_GOAL = 0.9;
const COMMON_GOAL = 0.5;

const group = (more) => ({
  ...{ group: 'main', role: 'dual', ack: 'local', speculation: 'on' },
  ...{ whenPeerAway: 'degrade', kernel: 'wasm', journal: JOURNAL },
  ...more,
});

/** Both sites, streaming; `use` gets them. */
async function withSites({ scratch }, roundTripMs, use) {
  const state = mkdtempSync(join(scratch, 'dual-'));
  const nbd = [{ host: '127.0.0.1', port: 0 }];
  const listen = await freePort();
  const atA = group({ volumes: [{ name: 'disk', size: SIZE }], listen: { host: '127.0.0.1', port: listen } });
  const a = await startGateway(join(state, 'a'), 'a', nbd, atA);
  const { proxy, port } = await startProxy(scratch, listen, roundTripMs);
  const b = await startGateway(join(state, 'b'), 'b', nbd, group({ volumes: [], peer: `ws://127.0.0.1:${port}` }));
  try {
    await untilStreaming(a.talk.ask);
    await untilStreaming(b.talk.ask);
    return await use(a, b);
  } finally {
    await stop(b.child);
    await stop(a.child);
    await stop(proxy);
    rmSync(state, { recursive: true, force: true });
  }
}

const cursorsOf = async (site) => (await site.talk.ask()).groups[0].cursors;

/** Records that each site has applied of the other's stream. */
async function appliedOf(a, b) {
  return (await cursorsOf(a)).peer.applied + (await cursorsOf(b)).peer.applied;
}

/** @param common part of each half that the other site writes, too */
async function startLoads(a, b, common, seconds) {
  const [{ nbdUris: atA }, { nbdUris: atB }] = [await a.talk.ask(), await b.talk.ask()];
  const overlap = Math.round((HALF * common) / BLOCK) * BLOCK;
  const loads = [
    [atA[0], 0],
    [atB[0], HALF - overlap],
  ].map(([uri, offset]) =>
    start('fio', [
      ...['--name=load', '--ioengine=nbd', `--uri=${uri}`, '--rw=randwrite', '--bs=4k', '--iodepth=32'],
      ...[`--offset=${offset}`, `--size=${HALF}`, '--randrepeat=0', '--norandommap=1', '--time_based'],
      `--runtime=${seconds}`,
    ]),
  );
  return async () => {
    for (const load of loads) {
      const code = await load.ended;
      if (code !== 0) throw new Error(`fio: exit ${code}\n${load.complaints}`);
    }
  };
}

/** Waits until nothing is on its way. @throws Error the images differ then */
async function untilEqual(a, b, scratch) {
  const end = Date.now() + DRAIN_MS_MAX;
  for (;;) {
    const [atA, atB] = [await cursorsOf(a), await cursorsOf(b)];
    if (atA.own.appended === atB.peer.applied && atB.own.appended === atA.peer.applied) break;
    if (Date.now() > end) throw new Error('the sites do not drain');
    await sleep(50);
  }
  const images = [];
  for (const site of [a, b]) {
    const image = join(scratch, `image-${images.length}`);
    const { nbdUris } = await site.talk.ask();
    await runProgram('nbdcopy', [nbdUris[0], image]);
    images.push(image);
  }
  await runProgram('cmp', images);
}

/** Writes per second, both sites' together. */
function measureWrites(context, common, roundTripMs) {
  return withSites(context, roundTripMs, async (a, b) => {
    const finish = await startLoads(a, b, common, WARM_UP_MS / 1000 + context.seconds + 1);
    await sleep(WARM_UP_MS);
    const cpu = () => cpuSeconds(a.child.pid) + cpuSeconds(b.child.pid);
    const before = cpu();
    const [from, begun] = [await appliedOf(a, b), performance.now()];
    await sleep(1000 * context.seconds);
    const [to, ended] = [await appliedOf(a, b), performance.now()];
    const cpuUs = ((cpu() - before) * 1e6) / (to - from);
    context.say(`dual: ${roundTripMs} ms: ${cpuUs.toFixed(0)} µs of CPU for a write, at both gateways together`);
    await finish();
    await untilEqual(a, b, context.scratch);
    return ((to - from) * 1000) / (ended - begun);
  });
}

/** @returns how often the images were equal after a load */
function measureEqual(context, roundTripMs) {
  return withSites(context, roundTripMs, async (a, b) => {
    for (let time = 1; time <= context.equal; time += 1) {
      context.say(`dual: equal, ${time} of ${context.equal}`);
      const finish = await startLoads(a, b, 0.01, EQUAL_LOAD_SECONDS);
      await finish();
      await untilEqual(a, b, context.scratch);
    }
    return context.equal;
  });
}

/** Milliseconds that opening a scope takes: medians. The host is in this process, which is site b. */
async function measureLocks({ scratch }, roundTripMs) {
  const { Gateway, LibraryVolume } = await import('../dist/src/index.js');
  const state = mkdtempSync(join(scratch, 'dual-'));
  const nbd = [{ host: '127.0.0.1', port: 0 }];
  const listen = await freePort();
  const atA = group({ volumes: [{ name: 'disk', size: SIZE }], listen: { host: '127.0.0.1', port: listen } });
  const a = await startGateway(join(state, 'a'), 'a', nbd, atA);
  const { proxy, port } = await startProxy(scratch, listen, roundTripMs);
  const options = group({ volumes: [], peer: `ws://127.0.0.1:${port}` });
  const gateway = await Gateway.open({ state: join(state, 'b'), site: 'b', nbd: [], groups: [options] });
  try {
    await gateway.ready();
    await untilStreaming(a.talk.ask);
    const volume = new LibraryVolume(gateway.volume('disk'));
    const opened = async (mode, offset) => {
      const begun = performance.now();
      const scope = await volume.lock({ offset, size: 16 * BLOCK }, { mode });
      const ms = performance.now() - begun;
      await scope.unlock();
      return ms;
    };
    const several = async (mode, before) => {
      const times = [];
      for (let i = 0; i < LOCKS; i += 1) {
        const offset = (i % 16) * 16 * BLOCK;
        await before(offset);
        times.push(await opened(mode, offset));
      }
      return times;
    };
    const nothing = async () => {};
    await several('write', nothing); // warm
    const write = await several('write', nothing);
    const idle = await several('read', nothing);
    const { nbdUris } = await a.talk.ask();
    const fio = start('fio', [
      ...['--name=load', '--ioengine=nbd', `--uri=${nbdUris[0]}`, '--rw=randwrite', '--bs=4k', '--iodepth=1'],
      ...[`--size=${MIB}`, '--time_based', `--runtime=${(LOCKS * roundTripMs * 4) / 1000 + 5}`, '--thinktime=1000'],
    ]);
    await sleep(1000);
    const own = Buffer.alloc(BLOCK, 1);
    const busy = await several('read', (offset) => volume.write(offset, own));
    await stop(fio);
    return { write, idle, busy };
  } finally {
    await gateway.close();
    await stop(a.child);
    await stop(proxy);
    rmSync(state, { recursive: true, force: true });
  }
}

function rowOf(name, results, atLeast) {
  return results.map(({ roundTripMs, value, base }) => ({
    subject: 'dual',
    name: `${name}, ${roundTripMs} ms round trip`,
    unit: 'writes/s',
    results: [
      { who: `${roundTripMs} ms`, rounds: [{ value }] },
      { who: '0 ms, before and after', rounds: [{ value: base }] },
    ],
    goals: [{ of: `${roundTripMs} ms`, to: '0 ms, before and after', atLeast }],
  }));
}

const string = { type: 'string' };
const { values } = parseArgs({
  options: { quick: { type: 'boolean' }, seconds: string, 'round-trip': string, equal: string },
});
const scratch = mkdtempSync(join(tmpdir(), 'forelock-dual-'));
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }));
const context = {
  scratch,
  seconds: Number(values.seconds ?? (values.quick ? 3 : 20)),
  equal: Number(values.equal ?? (values.quick ? 3 : 20)),
  say: (text) => process.stderr.write(`${text}\n`),
};
const roundTripMs = Number(values['round-trip'] ?? 100);
for (const [name, common, atLeast] of [
  ['4 KiB random writes at both sites, depth 32, own halves', 0, OWN_GOAL],
  ['4 KiB random writes at both sites, depth 32, 1 % in common', 0.01, COMMON_GOAL],
]) {
  const results = await between([roundTripMs], (each) => {
    context.say(`dual: ${name}, ${each} ms`);
    return measureWrites(context, common, each);
  });
  for (const row of rowOf(name, results, atLeast)) console.log(`${formatRow(row)}\n`);
}
const times = await measureEqual(context, roundTripMs);
console.log(`dual: images equal after ${times} of ${times} loads, 1 % in common, ${roundTripMs} ms round trip\n`);
const locks = await measureLocks(context, roundTripMs);
const line = (what, all) =>
  console.log(
    `  ${what.padEnd(34)} ${median(all).toFixed(3).padStart(9)} ms, at most ${Math.max(...all).toFixed(3)} ms`,
  );
console.log(`dual: opening a scope, ${roundTripMs} ms round trip, median of ${LOCKS}`);
line('write', locks.write);
line('read, idle', locks.idle);
line('read, both write there', locks.busy);
process.exit(0); // idle workers of the pool would be waited for
