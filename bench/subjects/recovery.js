/**
 * Start after a stop: from the start of the process to the first block served over NBD, by how much journal there is,
 * page cache warm. Killed, it recovers from nearly as much as there may be behind a checkpoint; after a clean stop it only
 * opens.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { NbdClient } from '../../dist/src/index.js';
import { runFio } from '../fio.js';
import { groupOptions, startGateway } from '../gateways.js';

export const needs = ['fio'];

const MIB = 2 ** 20;
const BLOCK = 4096;
/** Just before a checkpoint is due (CHECKPOINT_STRETCH_MAX): the most that there may be to replay, nearly. */
const SINCE_CHECKPOINT_MIB = 700;

export async function* run(context) {
  const lengths = context.quick ? [256] : context.all ? [256, 1024, 4096] : [4096]; // MiB of journal
  for (const length of lengths) {
    const killed = [];
    const stopped = [];
    const state = mkdtempSync(join(context.scratch, 'recovery-'));
    const volumes = [{ name: 'disk', size: (length / 2) * MIB }];
    const options = groupOptions({ role: 'primary', volumes, journal: 2 * length * MIB });
    const nbd = [{ host: '127.0.0.1', port: 0 }];
    const open = async () => {
      const begun = performance.now();
      const gateway = await startGateway(context, state, 'alone', nbd, options);
      const client = await NbdClient.connect(gateway.uris[0]);
      await client.read(0, BLOCK);
      const seconds = (performance.now() - begun) / 1000;
      await client.close();
      return { gateway, seconds };
    };
    const write = ({ uris }, mebibytes) =>
      runFio(uris[0], volumes[0].size, { rw: 'randwrite', bs: '4k', depth: 32 }, [
        `--io_size=${mebibytes}m`,
        '--norandommap=1',
      ]);
    try {
      context.say(`recovery: writing ${length} MiB of journal`);
      let { gateway } = await open();
      await write(gateway, length);
      for (let round = 0; round < context.runs; round += 1) {
        context.say(`recovery: ${length} MiB of journal, round ${round + 1} of ${context.runs}`);
        await gateway.stop(); // with a checkpoint
        const clean = await open();
        stopped.push({ value: clean.seconds });
        await write(clean.gateway, Math.min(length, SINCE_CHECKPOINT_MIB));
        await clean.gateway.kill();
        const recovered = await open();
        killed.push({ value: recovered.seconds, records: (await recovered.gateway.group()).counters.recoveryRecords });
        gateway = recovered.gateway;
      }
      await gateway.stop();
    } finally {
      rmSync(state, { recursive: true, force: true });
    }
    const row = (key, name, rounds) => ({
      subject: 'recovery',
      key: `${key}-${length}`,
      name: `${name}, ${length} MiB of journal: to the first served read`,
      unit: 's',
      better: 'less',
      results: [{ who: 'forelock', line: name, x: length * MIB, rounds }],
      family: 'start to the first served read',
      axis: 'size',
    });
    yield row('killed', 'after kill -9', killed);
    yield row('stopped', 'after a clean stop', stopped);
  }
}
