/**
 * A source with hosts in the same process that run transactions, one after the other: each writes the next number to
 * three blocks of either volume, its own ones, with a pause here and there.
 *
 *     node transaction-process.js DIST OPTIONS          what Gateway.open takes, as JSON
 *
 * A line in, a line of JSON out: "values" -> for each host, what its six blocks show; "run" -> hosts begin; "committed" ->
 * what each has been answered. The end of its input ends it, cleanly.
 */
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const [dist, options] = process.argv.slice(2);
const { Gateway, LibraryVolume } = await import(pathToFileURL(`${dist}/src/index.js`).href);
const BLOCK = 4096;
const HOSTS = 4;
/** Hosts wait for a target that is further behind: on a slow machine they would fill the journal, and order be given up. */
const BEHIND_RECORDS_MAX = 50_000;
const PLACES = { vm: [0, 3, 5], ix: [1, 2, 7] };

const gateway = await Gateway.open({ nbd: [], ...JSON.parse(options) });
await gateway.ready();
const volumes = new Map(Object.keys(PLACES).map((name) => [name, new LibraryVolume(gateway.volume(name))]));
const committed = new Array(HOSTS).fill(0);

const behind = () => {
  const { appended, applied } = gateway.status().groups[0].cursors.own;
  return appended - applied;
};

async function valuesOf(host) {
  const found = [];
  for (const [name, places] of Object.entries(PLACES)) {
    for (const place of places) {
      const block = Buffer.from(await volumes.get(name).read((8 * host + place) * BLOCK, BLOCK));
      found.push(block.readDoubleLE(0), block.readDoubleLE(BLOCK - 8));
    }
  }
  return found;
}

async function run(host) {
  for (let value = (await valuesOf(host))[0] + 1; ; value += 1) {
    const block = Buffer.alloc(BLOCK);
    for (let at = 0; at < BLOCK; at += 8) block.writeDoubleLE(value, at);
    await gateway.transaction('main', async (transaction) => {
      for (const [name, places] of Object.entries(PLACES)) {
        await transaction.lock(name, { offset: 8 * host * BLOCK, size: 8 * BLOCK });
        for (const place of places) transaction.write(name, (8 * host + place) * BLOCK, block);
      }
      if (value % 3 === 0) await new Promise((then) => setTimeout(then, 1));
    });
    committed[host] = value;
    if (value % 50 === 0) {
      await volumes.get('vm').flush();
      while (behind() > BEHIND_RECORDS_MAX) await new Promise((then) => setTimeout(then, 10));
    }
    await new Promise((then) => setImmediate(then));
  }
}

const hosts = [...committed.keys()];
const answers = {
  values: () => Promise.all(hosts.map(valuesOf)),
  run: async () => {
    for (const host of hosts) void run(host);
    return true;
  },
  committed: async () => committed,
};
const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
say({ ready: true });
for await (const line of createInterface({ input: process.stdin })) say(await answers[line]());
process.exit(0);
