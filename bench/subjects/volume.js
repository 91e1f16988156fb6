/** An unmirrored volume over NBD beside file servers of the same machine. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { fill, JOBS, lasting } from '../fio.js';
import { startAlone } from '../gateways.js';
import { compare } from '../measure.js';
import { startPeer } from '../peers.js';
import { run as runProgram } from '../processes.js';

export const needs = ['fio'];

/** As a journal is. */
const SYNC_BYTES = 64 * 2 ** 20;

/** A file server's 128 KiB stay in memory: with a flush now and then both have to write what they take. */
const GOAL_JOBS = ['rw32', 'rr32', 'rw1', 'rw1f1', 'rw32f1', 'sw128', 'sw128f512', 'sr128'];
/** What is written in sequence comes last: before it, everything was written at random. */
const ALL_JOBS = [
  ...['rw32', 'rr32', 'rr1', 'mix32', 'rw8c4', 'rr8c4', 'rw32c4', 'rw1', 'rw1f1', 'rw1f32', 'rw32f1', 'rw32f32'],
  ...['sr128s', 'sw128s', 'sw128', 'sw128f512', 'sr128', 'sw1m', 'sr1m'],
];
const UNIX_JOBS = ['rw1', 'rw32', 'rr32', 'sw128'];

export async function* run(context) {
  const jobs = context.jobs ?? (context.all ? ALL_JOBS : GOAL_JOBS);
  yield* overTransport(context, 'tcp', jobs);
  if (context.all) yield* overTransport(context, 'unix', UNIX_JOBS);
}

async function* overTransport(context, transport, jobs) {
  const contenders = [];
  try {
    const alone = await startAlone(context);
    contenders.push(transport === 'tcp' ? alone : alone.unix);
    for (const peer of context.peers) {
      context.say(`volume: filling an image for ${peer}`);
      contenders.push(await startPeer(context, peer, transport));
    }
    context.say('volume: filling');
    const before = await written(alone);
    await fill(alone, context.size);
    if (transport === 'tcp' && jobs.includes('sw128')) yield await diskRow(context);
    for (const key of jobs) {
      const place = transport === 'tcp' ? {} : { key: `${key}-unix`, name: `${JOBS[key].name}, unix socket` };
      yield { ...(await compare(context, 'volume', contenders, key)), ...place };
      if (key === 'rw32' && transport === 'tcp') yield bytesRow(before, await written(alone));
    }
  } finally {
    for (const contender of contenders.reverse()) await contender.stop();
  }
}

/** What the disk takes, with nothing in front of it: no journal that is synced can be written faster. */
async function diskRow({ scratch, seconds, runs, say }) {
  const image = join(scratch, 'disk');
  const size = 16 * SYNC_BYTES;
  const rounds = [];
  try {
    for (let round = 0; round <= runs; round += 1) {
      say(`volume: the disk, round ${round} of ${runs}`);
      const output = await runProgram('fio', [
        ...['--name=disk', `--filename=${image}`, `--size=${size}`, '--ioengine=psync', '--rw=write', '--bs=1m'],
        ...[`--fdatasync=${SYNC_BYTES / 2 ** 20}`, '--output-format=json'],
        ...(round === 0 ? [] : lasting(seconds)), // the file has to be there first
      ]);
      if (round > 0) rounds.push({ value: JSON.parse(output.slice(output.indexOf('{'))).jobs[0].write.bw_bytes / 1e6 });
    }
  } finally {
    rmSync(image, { force: true });
  }
  const name = 'the disk itself: a file written over in sequence, synced every 64 MiB';
  return { subject: 'volume', key: 'disk', name, unit: 'MB/s', results: [{ who: 'fio', rounds }] };
}

async function written({ gateway, counted }) {
  const { counters } = await gateway.group();
  return {
    host: counters.volumeBytesWritten,
    files: (await counted()).disk.gateway,
    checkpoints: counters.checkpointCheckpoints,
  };
}

/** Over everything that was written since the volume was made. */
function bytesRow(before, after) {
  return {
    subject: 'volume',
    key: 'bytes',
    name: 'bytes written to state files for each of the host’s, 4 KiB random, checkpoints included, cleaning not',
    unit: '',
    better: 'less',
    results: [
      {
        who: 'forelock',
        rounds: [{ value: (after.files - before.files) / (after.host - before.host) }],
        note: `${((after.host - before.host) / 2 ** 30).toFixed(1)} GiB, ${after.checkpoints - before.checkpoints} checkpoints`,
      },
    ],
  };
}
