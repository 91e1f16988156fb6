/** The line between two sites: the delay proxy of the interop tests, whose delay and rate can be changed while it runs. */
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { ROOT } from './machine.js';
import { freePort, run, start, stop, untilConnectable } from './processes.js';
import { median } from './statistics.js';

const MESSAGE_SIZE = 4096;
const ANSWER_SIZE = 64;

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

/**
 * What the line itself takes: a 4 KiB message, and a short answer, between two bare sockets with such a line in between.
 * @returns at(roundTripMs, seconds): median of the round trips, ms; stop()
 */
export async function startEcho(scratch) {
  const server = createServer({ noDelay: true }, (socket) => {
    let missing = MESSAGE_SIZE;
    socket.on('data', ({ length }) => {
      missing -= length;
      if (missing > 0) return;
      missing += MESSAGE_SIZE;
      socket.write(Buffer.alloc(ANSWER_SIZE));
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const line = await startLine(scratch, server.address().port);
  const socket = connect({ port: line.port, host: '127.0.0.1', noDelay: true });
  await once(socket, 'connect');
  const message = Buffer.alloc(MESSAGE_SIZE);
  return {
    at: async (roundTripMs, seconds) => {
      await line.set({ roundTripMs });
      const ms = [];
      for (const end = performance.now() + 1000 * seconds; performance.now() < end; ) {
        const begun = performance.now();
        socket.write(message);
        await once(socket, 'data');
        ms.push(performance.now() - begun);
      }
      return median(ms.slice(1)); // the first one found the delay of before
    },
    stop: async () => {
      socket.destroy();
      await line.stop();
      server.close();
    },
  };
}
