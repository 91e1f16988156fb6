/**
 * A gateway of both sites with a host in the same process that counts: it locks a block with onConflict abort, reads it,
 * writes one more, unlocks, and counts once the scope is confirmed; a scope that was aborted is tried again.
 *
 *     node counter-process.js DIST OPTIONS          what Gateway.open takes, as JSON
 *
 * A line in, a line of JSON out: "count N" -> { counted, aborted }; "value" -> { value }; "status" -> { own, peer },
 * cursors. The end of its input ends it, cleanly.
 */
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const [dist, options] = process.argv.slice(2);
const { Gateway, LibraryVolume } = await import(pathToFileURL(`${dist}/src/index.js`).href);
const BLOCK = 4096;

const gateway = await Gateway.open({ nbd: [], ...JSON.parse(options) });
await gateway.ready();
const volume = new LibraryVolume(gateway.volume('vm'));

async function count(goal) {
  let counted = 0;
  let aborted = 0;
  while (counted < goal) {
    try {
      const scope = await volume.lock({ offset: 0, size: BLOCK }, { onConflict: 'abort' });
      const block = Buffer.from(await scope.read(0, BLOCK));
      block.writeDoubleLE(block.readDoubleLE(0) + 1, 0);
      await scope.write(0, block);
      await scope.unlock();
      await scope.confirmed;
      counted += 1;
    } catch (error) {
      if (error.code !== 'LOCK_ABORTED') throw error;
      aborted += 1;
    }
  }
  return { counted, aborted };
}

const answers = {
  count: (goal) => count(Number(goal)),
  value: async () => ({ value: Buffer.from(await volume.read(0, BLOCK)).readDoubleLE(0) }),
  status: () => gateway.status().groups[0].cursors,
};
const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
say({ ready: true });
for await (const line of createInterface({ input: process.stdin })) {
  const [what, argument] = line.split(' ');
  say(await answers[what](argument));
}
await gateway.close();
process.exit(0); // idle workers of the pool would be waited for
