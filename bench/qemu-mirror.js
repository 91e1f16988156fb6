/**
 * QEMU's mirrors, over the same line: qemu-storage-daemon serves an image and copies every write to a qemu-nbd at the
 * other site.
 *
 *     background       blockdev-mirror: writes are answered at once; blocks that changed are copied later, in no order
 *     write-blocking   blockdev-mirror: a write is answered when the other site has it, too
 *     quorum           two children, a write is answered when both have it; no first copy, no recovery
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { nameAt, placeOf } from './gateways.js';
import { startLine } from './line.js';
import { dropPages, makeImage, writeBack } from './peers.js';
import { freePort, run, start, stop, until, untilConnectable, untilIdle } from './processes.js';

export const MIRROR_MODES = ['background', 'write-blocking', 'quorum'];

const READY_MS_MAX = 300_000;
const CATCH_UP_MS_MAX = 300_000;
/** Of `query-block-jobs`: the copy is complete. */
const inSync = ({ len, offset }) => len === offset;

/** A connection to the daemon's QMP monitor. */
async function openMonitor(path, child) {
  await untilConnectable({ path }, child);
  const socket = connect({ path });
  const waiting = [];
  createInterface({ input: socket }).on('line', (line) => {
    const message = JSON.parse(line);
    if ('return' in message) waiting.shift().resolve(message.return);
    else if ('error' in message) waiting.shift().reject(new Error(`QMP: ${message.error.desc}`));
  });
  socket.on('error', () => {});
  socket.on('close', () => {
    for (const { reject } of waiting.splice(0)) reject(new Error(`qemu-storage-daemon ended\n${child.complaints}`));
  });
  const ask = (execute, given = {}) =>
    new Promise((resolve, reject) => {
      waiting.push({ resolve, reject });
      socket.write(`${JSON.stringify({ execute, arguments: given })}\n`);
    });
  await ask('qmp_capabilities');
  return { ask, close: () => socket.destroy() };
}

/**
 * @param options isEmpty: nothing is in the image, as in a new volume
 * @returns like startPair (gateways.js); `copy`: the other site's image file
 */
export async function startQemuMirror({ scratch, size }, mode, { isEmpty = false } = {}) {
  const directory = mkdtempSync(join(scratch, 'qemu-'));
  const [image, copy, monitorPath] = ['image', 'copy', 'qmp'].map((name) => join(directory, name));
  if (isEmpty) await run('truncate', ['-s', `${size}`, image]);
  else await makeImage(image, size);
  if (mode === 'quorum') await run('cp', [image, copy]);
  else await run('truncate', ['-s', `${size}`, copy]);

  const [targetPort, port] = [await freePort(), await freePort()];
  const target = start('qemu-nbd', ['-f', 'raw', '-b', '127.0.0.1', '-p', `${targetPort}`, '-t', '-e', '8', copy]);
  await untilConnectable({ port: targetPort }, target);
  const line = await startLine(scratch, targetPort);
  const children = ',vote-threshold=1,read-pattern=fifo,children.0=source,children.1=target';
  const daemon = start('qemu-storage-daemon', [
    ...['--chardev', `socket,path=${monitorPath},server=on,wait=off,id=c0`, '--monitor', 'chardev=c0'],
    ...['--blockdev', `driver=file,node-name=file0,filename=${image}`],
    ...['--blockdev', 'driver=raw,node-name=source,file=file0'],
    ...['--nbd-server', `addr.type=inet,addr.host=127.0.0.1,addr.port=${port},max-connections=16`],
    ...['--blockdev', `driver=nbd,node-name=target,server.type=inet,server.host=127.0.0.1,server.port=${line.port}`],
    ...(mode === 'quorum' ? ['--blockdev', `driver=quorum,node-name=both${children}`] : []),
    ...['--export', `type=nbd,id=e0,node-name=${mode === 'quorum' ? 'both' : 'source'},name=disk,writable=on`],
  ]);
  const monitor = await openMonitor(monitorPath, daemon);
  const job = async () => (await monitor.ask('query-block-jobs'))[0];
  if (mode !== 'quorum') {
    const places = { 'job-id': 'mirror', device: 'source', target: 'target', sync: 'full' };
    await monitor.ask('blockdev-mirror', { ...places, 'copy-mode': mode });
    const isReady = await until(async () => (await job())?.ready, READY_MS_MAX);
    if (!isReady) throw new Error(`qemu's mirror, ${mode}, does not get ready\n${daemon.complaints}`);
  }

  const processes = [
    { name: 'source', pid: daemon.pid },
    { name: 'target', pid: target.pid },
    { name: 'proxy', pid: line.pid },
  ];
  const isInSync = async () => mode === 'quorum' || inSync(await job());
  const name = mode === 'quorum' ? 'qemu quorum' : `qemu ${mode}`;
  return {
    copy,
    line,
    at: (roundTripMs, rate = 0) => ({
      name: nameAt(name, roundTripMs, rate),
      ...placeOf(name, roundTripMs, rate),
      uri: `nbd://127.0.0.1:${port}/disk`,
      processes,
      prepare: async () => {
        await line.set({ roundTripMs: 0 }); // what is left of the last measurement need not take long
        if (!(await until(isInSync, CATCH_UP_MS_MAX))) throw new Error(`${name} does not catch up`);
        for (const each of [image, copy]) await dropPages(each);
        await line.set({ roundTripMs, rate });
      },
      behind: async () => {
        if (mode === 'quorum') return 0;
        const { len, offset } = await job();
        return len - offset;
      },
      drained: async (msMax = CATCH_UP_MS_MAX) => {
        const isDrained = await until(isInSync, msMax);
        for (const each of [image, copy]) await writeBack(each);
        return isDrained;
      },
      rest: async () => {
        await line.set({ roundTripMs: 0 });
        await until(isInSync, CATCH_UP_MS_MAX);
        await untilIdle(processes);
      },
    }),
    stop: async () => {
      monitor.close();
      await stop(daemon);
      await stop(target);
      await line.stop();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}
