/** `npm run chaos`: chaos.test.ts for longer. `--help` says how. */
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const HELP = `Kills, stops, cuts off and starves real gateways while real clients write, and compares what is left.

  npm run chaos                             ten minutes of worlds that nobody has seen
  npm run chaos -- --minutes 60             an hour
  npm run chaos -- --minutes 1 --seed 17    the worlds from 17 on, again

Worlds have the seeds S, S + 1, … and take turns: both sites write where the seed is even, else one does. A world that
fails says its seed. The exit code is 0 when nothing was found, 2 when the command is not understood.
`;
const string = { type: 'string' };
const { values } = parseArgs({ options: { minutes: string, seed: string, help: { type: 'boolean', short: 'h' } } });
if (values.help) {
  process.stdout.write(HELP);
  process.exit(0);
}
const minutes = Number(values.minutes ?? 10);
const seed = Number(values.seed ?? Math.floor(Math.random() * 2 ** 31));
if (!(minutes > 0) || !Number.isSafeInteger(seed)) {
  console.error('--minutes and --seed need numbers; npm run chaos -- --help says more');
  process.exit(2);
}
const env = { ...process.env, FORELOCK_CHAOS_MINUTES: `${minutes}`, FORELOCK_SEED: `${seed}` };
const root = fileURLToPath(new URL('../../..', import.meta.url));
const vitest = spawn('npx', ['vitest', 'run', 'test/interop/chaos'], { cwd: root, env, stdio: 'inherit' });
vitest.on('exit', (code) => process.exit(code ?? 1));
