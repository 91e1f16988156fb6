/** The line between two sites: the delay proxy of the interop tests, whose delay and rate can be changed while it runs. */
import { existsSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { ROOT } from './machine.js';
import { freePort, run, start, stop, untilConnectable } from './processes.js';

/**
 * Starts a proxy in front of a port on loopback, compiled where it is not yet.
 * @returns set({ roundTripMs, rate }), rate in MB/s each way and 0 for none; stats(); cut() and open()
 */
export async function startLine(scratch, targetPort) {
  const binary = join(scratch, 'delayproxy');
  if (!existsSync(binary)) await run('gcc', ['-O2', '-w', '-o', binary, join(ROOT, 'test/interop/delayproxy.c')]);
  const [port, controlPort] = [await freePort(), await freePort()];
  const child = start(binary, ['-l', `${port}`, '-t', `127.0.0.1:${targetPort}`, '-d', '0', '-c', `${controlPort}`]);
  await untilConnectable({ port: controlPort }, child);
  const say = (command) =>
    new Promise((resolve, reject) => {
      const socket = connect(controlPort, '127.0.0.1', () => socket.write(command));
      socket.on('error', reject);
      socket.once('data', (answer) => {
        socket.destroy();
        resolve(answer.toString());
      });
    });
  return {
    pid: child.pid,
    port,
    set: async ({ roundTripMs, rate = 0 }) => {
      await say(`delay ${roundTripMs / 2}`);
      await say(`bw ${rate}`);
    },
    /** Bytes delivered towards the target, and back. */
    stats: async () => {
      const [, forth, back] = /fwd=(\d+) back=(\d+)/.exec(await say('stats'));
      return { forth: Number(forth), back: Number(back) };
    },
    cut: () => say('cut'),
    open: () => say('open'),
    stop: () => stop(child),
  };
}
