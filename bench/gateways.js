/**
 * Forelock as it is measured: alone, and as a pair with a line in between. What loads are run against is a *contender*:
 *
 *     { name, uri, processes: [{ name, pid }],
 *       prepare()        before every measurement: the same state each time
 *       counted()        -> { disk, wire, applied, … }: counters that only grow, where there are any
 *       behind()         -> bytes that its mirror has not applied
 *       isSteady()       -> whether its journals write over their files by now
 *       drained(msMax)   waits until all that was answered is durable and, if mirrored, applied; false: not within msMax
 *       rest()           waits until it is idle, so that nobody's leftovers burden the next
 *       stop() }
 */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { startLine } from './line.js';
import { ROOT } from './machine.js';
import { converse, freePort, kill, residentMiB, start, stop, until, untilIdle } from './processes.js';

const STREAMING_MS_MAX = 30_000;
const CATCH_UP_MS_MAX = 300_000;
const ROUND_TRIP_KNOWN_MS_MAX = 4000;

/** One group's options, as `forelock serve` has them by default. */
export const groupOptions = (more) => ({
  ...{ group: 'main', ack: 'local', speculation: 'on', whenPeerAway: 'degrade', kernel: 'wasm' },
  ...more,
});

/**
 * A gateway as a process. `ask` is converse's; under --profile V8 samples it.
 * @param peer options of a second gateway in the same process, its peer
 */
export async function startGateway({ profile = null }, state, site, nbd, group, ...peer) {
  const profiled = profile === null ? [] : ['--cpu-prof', `--cpu-prof-dir=${join(profile, site)}`];
  const gateways = [{ state, site, nbd, groups: [group] }, ...peer].map((options) => JSON.stringify(options));
  const args = [...profiled, join(ROOT, 'bench/serve.js'), ...gateways];
  const child = start(process.execPath, args, ['pipe', 'pipe', 'pipe']);
  const { ready, ask } = converse(child);
  const { uris } = await ready;
  const status = () => ask({ do: 'status' });
  return {
    pid: child.pid,
    uris,
    ask,
    status,
    group: async () => (await status()).groups[0],
    stop: () => stop(child),
    kill: () => kill(child),
  };
}

/** What a gateway has written to its files, the cleaner's copies left out: those are a matter of room. */
const diskBytesOf = ({ counters }) =>
  counters.stateBytesSegment + counters.stateBytesMap + counters.stateBytesSuperblock - counters.cleanerBytesMoved;

const memoryOf = (processes) => Object.fromEntries(processes.map(({ name, pid }) => [name, residentMiB(pid)]));

const isSteady = ({ counters }) => counters.journalSegmentsReused > 0;

/** A gateway without a peer, on TCP and on a unix socket. @returns a contender; `unix` is the same over the socket */
export async function startAlone(context, { size = context.size, name = 'forelock', journal } = {}) {
  const state = mkdtempSync(join(context.scratch, 'alone-'));
  const nbd = [{ host: '127.0.0.1', port: 0 }, { path: join(state, 'nbd') }];
  const volumes = [{ name: 'disk', size, platter: 'journal' }];
  const gateway = await startGateway(context, state, 'alone', nbd, groupOptions({ role: 'primary', volumes, journal }));
  const processes = [{ name: 'gateway', pid: gateway.pid }];
  const contender = {
    name,
    uri: gateway.uris[0],
    processes,
    gateway,
    prepare: async () => {},
    memory: () => memoryOf(processes),
    counted: async () => ({ disk: { gateway: diskBytesOf(await gateway.group()) } }),
    isSteady: async () => isSteady(await gateway.group()),
    drained: (msMax = CATCH_UP_MS_MAX) =>
      until(async () => {
        const { own } = (await gateway.group()).cursors;
        return own.durable >= own.appended;
      }, msMax),
    rest: () => untilIdle(processes),
    stop: async () => {
      await gateway.stop();
      rmSync(state, { recursive: true, force: true });
    },
  };
  return { ...contender, unix: { ...contender, uri: gateway.uris[1] } };
}

/**
 * Source and target as two processes, with a line between them.
 * @param options of both groups (ack, speculation, journal, …); platter
 * @returns `at(roundTripMs, rate)`: the pair as a contender over such a line; `source`, `target` and `line` for the rest
 */
export async function startPair(
  context,
  { size = context.size, name = 'forelock', platter = 'journal', ...options } = {},
) {
  const state = mkdtempSync(join(context.scratch, 'pair-'));
  const volumesAt = (site) => {
    if (platter === 'journal') return site === 'target' ? [] : [{ name: 'disk', size }];
    const path = join(state, `${site}.image`);
    writeFileSync(path, '');
    truncateSync(path, size);
    return [{ name: 'disk', size, platter, path }];
  };
  const port = await freePort();
  const nbd = [{ host: '127.0.0.1', port: 0 }];
  const listen = { host: '127.0.0.1', port };
  const standby = groupOptions({ ...options, role: 'standby', volumes: volumesAt('target'), listen });
  const target = await startGateway(context, join(state, 'b'), 'target', nbd, standby);
  const line = await startLine(context.scratch, port);
  const peer = `ws://127.0.0.1:${line.port}`;
  const primary = groupOptions({ ...options, role: 'primary', volumes: volumesAt('source'), peer });
  const source = await startGateway(context, join(state, 'a'), 'source', nbd, primary);
  const pair = { source, target, line, untilStreaming: () => untilStreaming(source) };
  await pair.untilStreaming();

  const processes = [
    { name: 'source', pid: source.pid },
    { name: 'target', pid: target.pid },
    { name: 'proxy', pid: line.pid },
  ];
  const drained = (msMax = CATCH_UP_MS_MAX) =>
    until(async () => {
      const { own } = (await source.group()).cursors;
      return Math.min(own.durable, own.applied, own.peerDurable) >= own.appended;
    }, msMax);
  const contender = {
    uri: source.uris[0],
    processes,
    memory: () => memoryOf(processes),
    counted: async () => {
      const [atSource, atTarget] = [await source.group(), await target.group()];
      return {
        disk: { source: diskBytesOf(atSource), target: diskBytesOf(atTarget) },
        wire: atSource.link.bytesSent,
        applied: atTarget.cursors.peer.applied, // its own word, not what the source has heard of it
      };
    },
    behind: async () => (await source.group()).lag.bytes,
    isSteady: async () => isSteady(await source.group()) && isSteady(await target.group()),
    drained,
    rest: async () => {
      await line.set({ roundTripMs: 0 }); // what is left need not take long
      if (!(await drained())) throw new Error('the target does not catch up');
      await untilIdle(processes);
    },
  };
  return {
    ...pair,
    at: (roundTripMs, rate = 0) => ({
      ...contender,
      name: nameAt(name, roundTripMs, rate),
      ...placeOf(name, roundTripMs, rate),
      prepare: async () => {
        await line.set({ roundTripMs, rate });
        await pair.untilStreaming();
        const knows = async () =>
          Math.abs((await source.group()).link.roundTripMs - roundTripMs) <= 5 + roundTripMs / 5;
        await until(knows, ROUND_TRIP_KNOWN_MS_MAX);
      },
    }),
    stop: async () => {
      await source.stop();
      await target.stop();
      await line.stop();
      rmSync(state, { recursive: true, force: true });
    },
  };
}

export const nameAt = (name, roundTripMs, rate = 0) =>
  `${name}, ${roundTripMs} ms${rate > 0 ? ` and ${rate} MB/s` : ''}`;

/** Where such a contender stands in a plot. */
export const placeOf = (name, roundTripMs, rate) => ({
  line: rate > 0 ? `${name}, ${rate} MB/s` : name,
  x: roundTripMs,
});

/** Both sites write. @returns sites `a` and `b`, and the line between them */
export async function startBoth(context, { size }) {
  const state = mkdtempSync(join(context.scratch, 'dual-'));
  const nbd = [{ host: '127.0.0.1', port: 0 }];
  const port = await freePort();
  const dual = (more) => groupOptions({ role: 'dual', ...more });
  const atA = dual({ volumes: [{ name: 'disk', size }], listen: { host: '127.0.0.1', port } });
  const a = await startGateway(context, join(state, 'a'), 'a', nbd, atA);
  const line = await startLine(context.scratch, port);
  const atB = dual({ volumes: [], peer: `ws://127.0.0.1:${line.port}` });
  const b = await startGateway(context, join(state, 'b'), 'b', nbd, atB);
  for (const site of [a, b]) await untilStreaming(site);
  return {
    a,
    b,
    line,
    stop: async () => {
      await b.stop();
      await a.stop();
      await line.stop();
      rmSync(state, { recursive: true, force: true });
    },
  };
}

async function untilStreaming({ group }) {
  if (await until(async () => (await group()).link.state === 'streaming', STREAMING_MS_MAX)) return;
  throw new Error(`the pair does not find together: ${JSON.stringify((await group()).link)}`);
}
