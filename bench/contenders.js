/**
 * The servers that are measured. Each is { name, uri, processes, prepare, settle, stop }:
 *
 *     processes   [{ name, pid }] whose CPU time is counted
 *     prepare()   before every measurement: the same state of the page cache each time
 *     drain()     after it: resolves when all that was answered is durable and, if mirrored, applied at the target
 *     rest()      then: resolves when the processes are idle, so that nobody's leftovers burden the next
 */
import { existsSync, mkdirSync, rmSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { ROOT } from './machine.js';
import { converse, cpuSeconds, freePort, run, sleep, start, stop } from './processes.js';

const START_MS_MAX = 20_000;
const SETTLE_MS_MAX = 120_000;
const IDLE_SHARE = 0.05; // of a core, for each process: timers take about one percent, more under a profiler

/** Waits until the processes are as good as idle. */
async function untilIdle(processes) {
  const used = () => processes.reduce((sum, { pid }) => sum + (cpuSeconds(pid) || 0), 0);
  for (let before = used(), waited = 0; waited < SETTLE_MS_MAX; waited += 400) {
    await sleep(400);
    const now = used();
    if ((now - before) / 0.4 <= IDLE_SHARE * processes.length) return;
    before = now;
  }
}

async function untilConnectable(port, child) {
  for (let waited = 0; waited < START_MS_MAX; waited += 50) {
    if (child.exitCode !== null) break;
    const open = await new Promise((resolve) => {
      const socket = createConnection(port, '127.0.0.1', () => resolve(true));
      socket.on('error', () => resolve(false));
      socket.on('connect', () => socket.destroy());
    });
    if (open) return;
    await sleep(50);
  }
  throw new Error(`process ${child.pid} does not listen on port ${port}\n${child.complaints}`);
}

async function startGateway({ scratch, profile }, name, options) {
  const state = join(scratch, name);
  const profiled = profile === null ? [] : ['--cpu-prof', `--cpu-prof-dir=${join(profile, name)}`];
  const serve = [...profiled, join(ROOT, 'bench/serve.js'), JSON.stringify({ state, site: name, ...options })];
  const child = start(process.execPath, serve, ['pipe', 'pipe', 'pipe']);
  const talk = converse(child);
  const { uris } = await talk.next();
  return { child, talk, uris, state };
}

function groupOptions(size, more) {
  return {
    group: 'main',
    volumes: [{ name: 'disk', size, platter: 'journal' }],
    ack: 'local',
    speculation: 'on',
    whenPeerAway: 'degrade',
    kernel: 'wasm',
    ...more,
  };
}

/** A gateway without a peer. */
export async function startVolume(context) {
  const { child, talk, uris, state } = await startGateway(context, 'alone', {
    nbd: [{ host: '127.0.0.1', port: 0 }],
    groups: [groupOptions(context.size, { role: 'primary' })],
  });
  const processes = [{ name: 'gateway', pid: child.pid }];
  return {
    name: 'forelock',
    uri: uris[0],
    processes,
    status: async () => ({ source: await talk.ask() }),
    prepare: async () => {},
    drain: async () => {
      for (let waited = 0; waited < SETTLE_MS_MAX; waited += 50) {
        const { own } = (await talk.ask()).groups[0].cursors;
        if (own.durable >= own.appended) break;
        await sleep(50);
      }
    },
    rest: () => untilIdle(processes),
    stop: async () => {
      await stop(child);
      rmSync(state, { recursive: true, force: true });
    },
  };
}

/** Source and target as two processes, with the proxy's round trip between them. */
export async function startPair(context, roundTripMs) {
  const size = context.size;
  const linkPort = await freePort();
  const proxyPort = await freePort();
  const target = await startGateway(context, `target-${roundTripMs}`, {
    nbd: [],
    groups: [{ ...groupOptions(size, { role: 'standby' }), listen: { host: '127.0.0.1', port: linkPort } }],
  });
  const proxy = start(await delayProxy(context), [
    ...['-l', `${proxyPort}`, '-t', `127.0.0.1:${linkPort}`, '-d', `${roundTripMs / 2}`],
  ]);
  await untilConnectable(proxyPort, proxy);
  const source = await startGateway(context, `source-${roundTripMs}`, {
    nbd: [{ host: '127.0.0.1', port: 0 }],
    groups: [{ ...groupOptions(size, { role: 'primary' }), peer: `ws://127.0.0.1:${proxyPort}` }],
  });
  const processes = [
    { name: 'source', pid: source.child.pid },
    { name: 'target', pid: target.child.pid },
    { name: 'proxy', pid: proxy.pid },
  ];
  const streaming = async () => {
    for (let waited = 0; waited < START_MS_MAX; waited += 50) {
      const [group] = (await source.talk.ask()).groups;
      if (group.link.state === 'streaming') return;
      await sleep(50);
    }
    throw new Error('the pair does not find together');
  };
  await streaming();
  return {
    name: `forelock mirrored, ${roundTripMs} ms`,
    uri: source.uris[0],
    processes,
    status: async () => ({ source: await source.talk.ask(), target: await target.talk.ask() }),
    /** How far the target has come: its own word, not what the source has heard of it. */
    applied: async () => (await target.talk.ask()).groups[0].cursors.peer.applied,
    prepare: streaming,
    drain: async () => {
      for (let waited = 0; waited < SETTLE_MS_MAX; waited += 50) {
        const { own } = (await source.talk.ask()).groups[0].cursors;
        if (Math.min(own.durable, own.applied, own.peerDurable) >= own.appended) break;
        await sleep(50);
      }
    },
    rest: () => untilIdle(processes),
    stop: async () => {
      await stop(source.child);
      await stop(target.child);
      await stop(proxy);
      rmSync(source.state, { recursive: true, force: true });
      rmSync(target.state, { recursive: true, force: true });
    },
  };
}

async function delayProxy({ scratch }) {
  const binary = join(scratch, 'delayproxy');
  if (!existsSync(binary)) await run('gcc', ['-O2', '-w', '-o', binary, join(ROOT, 'test/interop/delayproxy.c')]);
  return binary;
}

/** Command lines of the peers, each over one image file. */
const PEERS = {
  nbdkit: {
    name: 'nbdkit file',
    command: (port, image) => ['nbdkit', ['-f', '-i', '127.0.0.1', '-p', `${port}`, 'file', image]],
    uri: (port) => `nbd://127.0.0.1:${port}/`,
  },
  'qemu-nbd': {
    name: 'qemu-nbd',
    command: (port, image) => [
      'qemu-nbd',
      [
        '-t',
        '-f',
        'raw',
        '--cache=writeback',
        '--aio=threads',
        '-b',
        '127.0.0.1',
        '-p',
        `${port}`,
        '-x',
        'disk',
        image,
      ],
    ],
    uri: (port) => `nbd://127.0.0.1:${port}/disk`,
  },
};
export const PEER_NAMES = Object.keys(PEERS);

/**
 * A peer over a fresh sparse file, filled once by random 4 KiB writes. Its pages are written back and dropped before
 * every measurement: a file server's speed swings fivefold with how its file got into the cache.
 */
export async function startPeer({ scratch, size }, peer) {
  const directory = join(scratch, `peer-${peer}`);
  mkdirSync(directory);
  const image = join(directory, 'image');
  await run('truncate', ['-s', `${size}`, image]);
  const fill = [
    '--ioengine=psync',
    '--rw=randwrite',
    '--bs=4k',
    '--end_fsync=1',
    '--randseed=1',
    '--output-format=json',
  ];
  await run('fio', ['--name=fill', `--filename=${image}`, `--size=${size}`, ...fill]);
  const port = await freePort();
  const { name, command, uri } = PEERS[peer];
  const child = start(...command(port, image));
  await untilConnectable(port, child);
  const processes = [{ name: peer, pid: child.pid }];
  const writeBack = () =>
    run('dd', [`of=${image}`, 'if=/dev/null', 'conv=notrunc,fdatasync', 'count=0', 'status=none']);
  return {
    name,
    uri: uri(port),
    processes,
    prepare: async () => {
      await writeBack();
      await run('dd', [`if=${image}`, 'iflag=nocache', 'count=0', 'status=none']);
    },
    drain: writeBack,
    rest: () => untilIdle(processes),
    stop: async () => {
      await stop(child);
      rmSync(directory, { recursive: true, force: true });
    },
  };
}
