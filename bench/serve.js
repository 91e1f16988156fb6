/**
 * One gateway as a process of its own, for measurements.
 *
 *     node bench/serve.js OPTIONS         what Gateway.open takes, as JSON
 *
 * Prints one JSON line { ready, uris } when it listens, answers every line on stdin with its status as one JSON line,
 * and ends, cleanly, when stdin does or at SIGTERM.
 */
import { createInterface } from 'node:readline';
import { Gateway } from '../dist/src/index.js';

const gateway = await Gateway.open(JSON.parse(process.argv[2]));
const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

let stopping = false;
async function stop() {
  if (stopping) return;
  stopping = true;
  await gateway.close();
  process.exit(0); // idle workers of the pool would be waited for
}
process.on('SIGTERM', stop);
const lines = createInterface({ input: process.stdin });
lines.on('line', () => say({ ...gateway.status(), memory: process.memoryUsage() }));
lines.on('close', stop);
say({ ready: true, uris: gateway.nbdUris() });
