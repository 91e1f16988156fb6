/**
 * One gateway as a process of its own, for measurements.
 *
 *     node bench/serve.js OPTIONS [STANDBY]       what Gateway.open takes, as JSON
 *
 * With STANDBY a second gateway in the same process is the first one's peer, without sockets in between.
 * Prints one JSON line { uris } when it serves (or, to be adopted, listens), answers requests on stdin, { id, do, … }, with
 * JSON lines { id, … }, and ends, cleanly, when stdin does or at SIGTERM. `do` is `status`, `collect` (garbage), or a load
 * of host.js.
 */
import { createInterface } from 'node:readline';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Gateway } from '../dist/src/index.js';
import * as host from './host.js';
import { join } from './memory-link.js';

const [options, standbyOptions] = process.argv.slice(2).map((text) => JSON.parse(text));
const gateway = await Gateway.open(options);
const standby = standbyOptions === undefined ? null : await Gateway.open(standbyOptions);
if (standby !== null) join(gateway, standby);
if (options.groups.every(({ role }) => role === 'primary')) await gateway.ready();
const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

let stopping = false;
async function stop() {
  if (stopping) return;
  stopping = true;
  await gateway.close();
  await standby?.close();
  process.exit(0); // idle workers of the pool would be waited for
}

/** What nobody needs any more is given back, so that memory is compared and not the collector's moments. */
function collect() {
  setFlagsFromString('--expose-gc');
  runInNewContext('gc')();
  return {};
}

const answers = { status: () => gateway.status(), collect, ...host };
async function answer({ id, do: name, ...request }) {
  try {
    say({ ...(await answers[name](gateway, request)), id });
  } catch (error) {
    say({ error: error.stack, id });
  }
}

process.on('SIGTERM', stop);
const lines = createInterface({ input: process.stdin });
lines.on('line', (line) => answer(JSON.parse(line)));
lines.on('close', stop);
say({ uris: gateway.nbdUris() });
