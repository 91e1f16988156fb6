/**
 * What a round trip costs the mirror: the rate of the target's `applied` cursor over a steady state, beside the rate at
 * 0 ms.
 *
 *     node bench/roundtrip.js [--quick] [--seconds 20] [--round-trips 0,10,50,100]     also a subject of `npm run bench`
 *
 *     scopes          lock, 4 writes of 4 KiB, unlock, one scope at a time, through the library in this process;
 *                     speculative, and in lock-step (speculation off, and the host waits for the grant)
 *     4 KiB, depth 32 random writes over NBD, by fio; the source is a process of its own
 *
 * The target is always another process, with the delay proxy (test/interop/delayproxy.c) in between. A source that runs
 * ahead of its target is held back at BACKLOG_RECORDS: a mark far above what a round trip needs, so that it costs no
 * rate, and the disk does not fill. Each round trip is measured between two measurements of 0 ms, since machines drift.
 */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { converse, freePort, run as runProgram, sleep, start, stop } from './processes.js';
import { formatRow } from './report.js';

const MIB = 2 ** 20;
const SIZE = 1024 * MIB;
const JOURNAL = 12 * 1024 * MIB;
const WARM_UP_MS = 3000;
const START_MS_MAX = 20_000;
const BLOCK = 4096;
const SCOPE_WRITES = 4;
const SCOPE_RECORDS = SCOPE_WRITES + 2;
const BACKLOG_RECORDS = 100_000;
const GOAL = 0.9;

const SERVE = fileURLToPath(new URL('serve.js', import.meta.url));
const DELAY_PROXY = fileURLToPath(new URL('../test/interop/delayproxy.c', import.meta.url));

const group = (more) => ({
  ...{ group: 'main', volumes: [{ name: 'disk', size: SIZE }], ack: 'local', speculation: 'on' },
  ...{ whenPeerAway: 'degrade', kernel: 'wasm', journal: JOURNAL },
  ...more,
});

export async function startGateway(state, site, nbd, options) {
  const child = start(process.execPath, [SERVE, JSON.stringify({ state, site, nbd, groups: [options] })], 'pipe');
  const talk = converse(child);
  const { uris } = await talk.next();
  return { child, talk, uri: uris[0] };
}

/** Target and proxy; `use` gets the URL for the source and a way to ask the target how far it is. */
async function withTarget({ scratch, roundTripMs }, use) {
  const state = mkdtempSync(join(scratch, 'pair-'));
  const listen = await freePort();
  const options = group({ role: 'standby', listen: { host: '127.0.0.1', port: listen } });
  const target = await startGateway(join(state, 'target'), 'target', [], options);
  const { proxy, port } = await startProxy(scratch, listen, roundTripMs);
  try {
    const applied = async () => (await target.talk.ask()).groups[0].cursors.peer.applied;
    return await use({ state: join(state, 'source'), peer: `ws://127.0.0.1:${port}`, applied });
  } finally {
    await stop(target.child);
    await stop(proxy);
    rmSync(state, { recursive: true, force: true });
  }
}

/** The delay proxy in front of a port on loopback, compiled where it is not yet. */
export async function startProxy(scratch, listen, roundTripMs) {
  const binary = join(scratch, 'delayproxy');
  if (!existsSync(binary)) await runProgram('gcc', ['-O2', '-w', '-o', binary, DELAY_PROXY]);
  const port = await freePort();
  const proxy = start(binary, ['-l', `${port}`, '-t', `127.0.0.1:${listen}`, '-d', `${roundTripMs / 2}`]);
  await untilConnectable(port);
  return { proxy, port };
}

async function untilConnectable(port) {
  for (let waited = 0; waited < START_MS_MAX; waited += 20) {
    const isOpen = await new Promise((resolve) => {
      const socket = createConnection(port, '127.0.0.1');
      socket.on('connect', () => resolve(true)).on('error', () => resolve(false));
      socket.on('connect', () => socket.destroy());
    });
    if (isOpen) return;
    await sleep(20);
  }
  throw new Error('the delay proxy does not start');
}

export async function untilStreaming(status) {
  for (let waited = 0; waited < START_MS_MAX; waited += 20) {
    if ((await status()).groups[0].link.state === 'streaming') return;
    await sleep(20);
  }
  throw new Error('the pair does not find together');
}

/** Records applied per second at the target, over `seconds` behind the warm-up. */
async function rateOf(applied, seconds) {
  await sleep(WARM_UP_MS);
  const [from, begun] = [await applied(), performance.now()];
  await sleep(1000 * seconds);
  const [to, ended] = [await applied(), performance.now()];
  return ((to - from) * 1000) / (ended - begun);
}

/** Scopes per second. */
function measureScopes(context, roundTripMs, speculation) {
  return withTarget({ ...context, roundTripMs }, async ({ state, peer, applied }) => {
    const { Gateway, LibraryVolume } = await import('../dist/src/index.js');
    const options = group({ role: 'primary', peer, speculation });
    const gateway = await Gateway.open({ state, site: 'source', nbd: [], groups: [options] });
    try {
      await gateway.ready();
      await untilStreaming(() => gateway.status());
      const volume = new LibraryVolume(gateway.volume('disk'));
      let going = true;
      const load = writeScopes(volume, gateway, speculation === 'on', () => going);
      const rate = await Promise.race([rateOf(applied, context.seconds), load]);
      going = false;
      await load;
      return rate / SCOPE_RECORDS;
    } finally {
      await gateway.close();
    }
  });
}

async function writeScopes(volume, gateway, speculative, going) {
  const bytes = Buffer.alloc(BLOCK, 0x5a);
  const size = SCOPE_WRITES * BLOCK;
  const cursors = () => gateway.status().groups[0].cursors.own;
  for (let count = 0; going(); count += 1) {
    const offset = Math.floor((Math.random() * SIZE) / size) * size;
    const scope = await volume.lock({ offset, size });
    if (!speculative) await scope.confirmed;
    bytes.writeUInt32LE(count);
    const steps = [];
    for (let i = 0; i < SCOPE_WRITES; i += 1) steps.push(scope.write(offset + i * BLOCK, bytes));
    steps.push(scope.unlock());
    await Promise.all(steps); // in lock-step each is answered when it is applied: together they take one round trip
    if (!speculative) await untilApplied(cursors, going);
    else if (count % 256 === 0) {
      await new Promise(setImmediate); // a host that lives in promises alone would starve the gateway's sockets
      while (going() && cursors().appended - cursors().applied > BACKLOG_RECORDS) await sleep(1);
    }
  }
}

/** Lock-step: the next scope begins when this one is in place at the target. */
async function untilApplied(cursors, going) {
  const { appended } = cursors();
  while (going() && cursors().applied < appended) await new Promise(setImmediate);
}

/** Writes per second. */
function measureWrites(context, roundTripMs) {
  return withTarget({ ...context, roundTripMs }, async ({ state, peer, applied }) => {
    const nbd = [{ host: '127.0.0.1', port: 0 }];
    const source = await startGateway(state, 'source', nbd, group({ role: 'primary', peer }));
    try {
      await untilStreaming(source.talk.ask);
      const fio = start('fio', [
        ...['--name=load', '--ioengine=nbd', `--uri=${source.uri}`, '--rw=randwrite', '--bs=4k', '--iodepth=32'],
        ...[`--size=${SIZE}`, '--randrepeat=0', '--norandommap=1', '--time_based'],
        `--runtime=${WARM_UP_MS / 1000 + context.seconds + 2}`,
      ]);
      const rate = await rateOf(applied, context.seconds);
      const code = await fio.ended;
      if (code !== 0) throw new Error(`fio: exit ${code}\n${fio.complaints}`);
      return rate;
    } finally {
      await stop(source.child);
    }
  });
}

/** Measures every round trip between two measurements of 0 ms, whose mean it is held against. */
export async function between(roundTrips, measure) {
  const results = [];
  let before = await measure(0);
  for (const roundTripMs of roundTrips.filter((each) => each > 0)) {
    const value = await measure(roundTripMs);
    const after = await measure(0);
    results.push({ roundTripMs, value, base: (before + after) / 2 });
    before = after;
  }
  return results;
}

function rowOf(name, unit, results, lockStep = []) {
  return results.map(({ roundTripMs, value, base }) => {
    const slow = lockStep.find((each) => each.roundTripMs === roundTripMs);
    const who = `${roundTripMs} ms`;
    return {
      subject: 'roundtrip',
      name: `${name}, ${roundTripMs} ms round trip`,
      unit,
      results: [
        { who, rounds: [{ value }] },
        ...(slow === undefined ? [] : [{ who: `${who}, lock-step`, rounds: [{ value: slow.value }] }]),
        { who: '0 ms, before and after', rounds: [{ value: base }] },
      ],
      goals: [
        { of: who, to: '0 ms, before and after', atLeast: GOAL },
        { of: who, to: `${who}, lock-step` },
      ],
    };
  });
}

/** @returns rows of the report (report.js) */
export async function run({ quick = false, seconds, roundTrips, scratch, say = () => {} }) {
  const context = { scratch, seconds: seconds ?? (quick ? 3 : 20) };
  const trips = roundTrips ?? (quick ? [100] : [10, 50, 100]);
  const scopes = await between(trips, (roundTripMs) => {
    say(`roundtrip: scopes at ${roundTripMs} ms`);
    return measureScopes(context, roundTripMs, 'on');
  });
  const lockStep = [];
  for (const roundTripMs of trips.filter((each) => each > 0)) {
    say(`roundtrip: scopes in lock-step at ${roundTripMs} ms`);
    lockStep.push({ roundTripMs, value: await measureScopes(context, roundTripMs, 'off') });
  }
  const writes = await between(
    trips.filter((each) => each === Math.max(...trips)),
    (roundTripMs) => {
      say(`roundtrip: 4 KiB writes at ${roundTripMs} ms`);
      return measureWrites(context, roundTripMs);
    },
  );
  return [
    ...rowOf('explicit scopes of 4 writes, applied at the target', 'scopes/s', scopes, lockStep),
    ...rowOf('4 KiB random writes, depth 32, applied at the target', 'writes/s', writes),
  ];
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const string = { type: 'string' };
  const { values } = parseArgs({
    options: { quick: { type: 'boolean' }, seconds: string, 'round-trips': string },
  });
  const scratch = mkdtempSync(join(tmpdir(), 'forelock-roundtrip-'));
  process.on('exit', () => rmSync(scratch, { recursive: true, force: true }));
  const rows = await run({
    quick: values.quick ?? false,
    seconds: values.seconds === undefined ? undefined : Number(values.seconds),
    roundTrips: values['round-trips']?.split(',').map(Number),
    scratch,
    say: (text) => process.stderr.write(`${text}\n`),
  });
  for (const row of rows) console.log(`${formatRow(row)}\n`);
  process.exit(0); // idle workers of the pool would be waited for
}
