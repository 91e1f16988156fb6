/**
 * One gateway as a process of its own, made of the library: node gateway-main.js DIST OPTIONS, where OPTIONS are
 * GatewayOptions as JSON. It answers the control API on `admin.sock` in the state directory, with counters that tests
 * compare and operators need not see. SIGTERM stops it cleanly.
 */
import { pathToFileURL } from 'node:url';

const [dist, json] = process.argv.slice(2);
const load = (path) => import(pathToFileURL(`${dist}/src/${path}`).href);
const { Gateway } = await load('node/gateway.js');
const { ControlServer } = await load('node/control.js');
const { holdLock } = await load('volume/scope.js');
const { LOCK_WAIT_MS_MAX } = await load('limits.js');

const options = JSON.parse(json);

function fail(error) {
  process.stderr.write(`${error.code ?? 'bug'}: ${error.stack ?? error.message}\n`);
  process.exit(error.code === undefined ? 70 : 78);
}
process.on('uncaughtException', fail);
process.on('unhandledRejection', fail);

const gateway = await Gateway.open(options).catch(fail);
const server = await ControlServer.open({
  control: { status, verify: (volume, { maps }) => gateway.verify(volume, { maps }), lock },
  socket: `${options.state}/admin.sock`,
  admin: null,
}).catch(fail);

process.on('SIGTERM', async () => {
  await server.close();
  await gateway.close();
  process.exit(0);
});

async function lock({ volume, offset, size, mode, waitSeconds }) {
  const found = gateway.volume(volume);
  const waitMs = waitSeconds === null ? LOCK_WAIT_MS_MAX : 1000 * waitSeconds;
  const request = await holdLock(found, mode, { offset, size }, waitMs);
  const hold = {
    onLost: null,
    release() {
      found.locks.release(request);
      found.group.locksMoved();
    },
  };
  request.context = (ended) => hold.onLost?.(ended.state);
  return hold;
}

function status() {
  const { site } = gateway.options;
  const groups = gateway.members.map(statusOf);
  const uptimeSeconds = (Date.now() - gateway.startedAt) / 1000;
  return { schema: 1, version: '0', site, uptimeSeconds, nbdUris: gateway.nbdUris(), groups };
}

function statusOf({ options: { group: name, role }, pair, endpoint, group, environment }) {
  const link = endpoint?.status() ?? null;
  const base = {
    name,
    role,
    consistency: 'inconsistent',
    volumes: [],
    link: { ...link, state: pair.state, reason: pair.refusal ?? link?.reason ?? '' },
    cursors: { own: {}, peer: {} },
    degradedSince: null,
    counters: {},
  };
  if (group === null) return base;
  const { mirror, journal, state } = group;
  const end = role === 'primary' ? mirror.source : mirror.target;
  const written = environment.store.bytesWritten;
  return {
    ...base,
    generation: state.superblock.generations.at(-1)?.id ?? '',
    consistency: mirror.imageConsistent && end.consistent ? 'consistent' : 'inconsistent',
    volumes: [...group.volumes.values()].map(({ name, size, blockSize, platter }) => {
      return { name, size, blockSize, platter };
    }),
    cursors:
      role === 'primary'
        ? {
            own: {
              appended: journal.own.appended,
              sealed: journal.own.sealed,
              durable: journal.own.durable,
              sent: end.sent,
              peerDurable: end.peerDurable,
              trimmed: end.trimmed,
            },
            peer: { received: end.received, granted: end.granted, applied: end.applied, durable: end.peerDurable },
          }
        : {
            own: { received: end.received, granted: end.granted, applied: end.applied, durable: end.durable },
            peer: {},
          },
    degradedSince: state.superblock.degradedSince,
    journal: { usedBytes: journal.usedBytes, segments: journal.segments.all().length, position: journal.head },
    counters: {
      ...journal.counters,
      ...group.cleaner.counters,
      ...mirror.counters,
      ...pair.counters,
      rows: Object.fromEntries(pair.counters.rows),
      bytesWrittenSegment: written.segment,
      bytesWrittenMap: written.map,
      bytesWrittenSuperblock: written.superblock,
      bytesWrittenOther: written.other,
    },
  };
}
