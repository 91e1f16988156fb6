/**
 * `npm run chaos -- [--minutes N] [--seed S]`: chaos.test.ts for longer. Exit code 0: nothing was found.
 *
 * Worlds have the seeds S, S + 1, … and take turns: both sites write where the seed is even, else one does.
 */
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const string = { type: 'string' };
const { values } = parseArgs({ options: { minutes: string, seed: string } });
const minutes = Number(values.minutes ?? 10);
const seed = Number(values.seed ?? Math.floor(Math.random() * 2 ** 31));
if (!(minutes > 0) || !Number.isSafeInteger(seed)) {
  console.error('usage: npm run chaos -- [--minutes N] [--seed S]');
  process.exit(2);
}
const env = { ...process.env, FORELOCK_CHAOS_MINUTES: `${minutes}`, FORELOCK_SEED: `${seed}` };
const root = fileURLToPath(new URL('../../..', import.meta.url));
const vitest = spawn('npx', ['vitest', 'run', 'test/interop/chaos'], { cwd: root, env, stdio: 'inherit' });
vitest.on('exit', (code) => process.exit(code ?? 1));
