/**
 * Transactions over two volumes of a group, and kill -9 of the source, of the target, of both at random moments: neither
 * site ever shows half of one. FORELOCK_LONG=1: 200 kills instead of 12.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { GIB, MIB } from '../../src/limits.js';
import { BLOCK_SIZE, randomFrom, readImage } from './checking-client.js';
import { DIST, freePort, LONG, Room, sleep, until } from './gateway-process.js';

const KILLS = LONG ? 200 : 12;
const SIZE = 4 * MIB;
const HOSTS = 4;
const PLACES = { vm: [0, 3, 5], ix: [1, 2, 7] } as const;
const VICTIMS = ['source', 'target', 'both'] as const;
const seed = Number(process.env.FORELOCK_SEED ?? Math.floor(Math.random() * 2 ** 31));

let room: Room;
beforeEach(async () => {
  room = await Room.open();
});
afterEach(() => room.close());

/** transaction-process.js */
class Source {
  readonly #child: ChildProcess;
  readonly #answers: AsyncIterator<string>;
  #said = '';

  constructor(options: object) {
    const path = fileURLToPath(new URL('./transaction-process.js', import.meta.url));
    this.#child = spawn(process.execPath, [path, DIST, JSON.stringify(options)]);
    this.#child.stderr!.on('data', (chunk) => {
      this.#said += chunk;
    });
    this.#answers = createInterface({ input: this.#child.stdout! })[Symbol.asyncIterator]();
  }

  /** @returns the answer to what was asked, or to its start */
  async answer<T>(question: string | null): Promise<T> {
    if (question !== null) this.#child.stdin!.write(`${question}\n`);
    const { value, done } = await this.#answers.next();
    if (done) throw new Error(`the source ended: ${this.#said}`);
    return JSON.parse(value);
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    this.#child.kill('SIGKILL');
    await once(this.#child, 'exit');
  }
}

test(`whoever is killed, no site shows half a transaction (FORELOCK_SEED=${seed})`, {
  timeout: LONG ? 1800_000 : 180_000,
}, async () => {
  const random = randomFrom(seed);
  const port = await freePort();
  const options = {
    state: room.path('a'),
    site: 'a',
    groups: [
      {
        group: 'main',
        role: 'primary',
        volumes: Object.keys(PLACES).map((name) => ({ name, size: SIZE })),
        peer: `ws://127.0.0.1:${port}`,
        ack: 'local',
        speculation: 'on',
        whenPeerAway: 'degrade',
        kernel: 'wasm',
        ring: 8 * MIB,
        journal: 4 * GIB, // or what an absent target needs is given up
      },
    ],
  };
  let target = await room.start({ site: 'b', role: 'standby', listen: port, ring: 8 * MIB, journal: 4 * GIB });
  const startSource = async (): Promise<Source> => {
    const started = room.keep(new Source(options));
    await started.answer(null);
    return started;
  };
  let source = await startSource();
  await target.untilConsistent();

  /** What a host's blocks of a volume show at the target, first and last words. */
  const there = async (name: keyof typeof PLACES): Promise<number[][]> => {
    const image = await readImage(await target.uri(`${name}@applied`));
    return Array.from({ length: HOSTS }, (_, host) =>
      PLACES[name].flatMap((place) => {
        const at = (8 * host + place) * BLOCK_SIZE;
        return [image.readDoubleLE(at), image.readDoubleLE(at + BLOCK_SIZE - 8)];
      }),
    );
  };
  const whole = (values: number[][], where: string): number[] => {
    for (const [host, found] of values.entries())
      if (new Set(found).size !== 1) expect.fail(`${where}: host ${host} shows ${found}`);
    return values.map((found) => found[0]!);
  };
  const atTarget = async (where: string): Promise<number[]> => {
    for (;;) {
      const [vm, ix, vmAgain] = [await there('vm'), await there('ix'), await there('vm')];
      // what had arrived before the source died may still be on its way into the image: then these are several moments
      if (`${vm}` !== `${vmAgain}`) continue;
      return whole(
        vm.map((found, host) => [...found, ...ix[host]!]),
        where,
      );
    }
  };

  await source.answer('run');
  let ahead = 0;
  for (let round = 1; round <= KILLS; round += 1) {
    const victim = VICTIMS[round % VICTIMS.length]!;
    if (round % 50 === 0) process.stderr.write(`transactions: kill ${round} of ${KILLS}\n`);
    await sleep(50 + random() * 400);
    if (victim === 'target') {
      await target.kill();
      target = await room.again(target);
      await target.untilConsistent();
      // the source goes on: two views are two moments, but each is one
      for (const name of ['vm', 'ix'] as const)
        whole(await there(name), `round ${round}: volume ${name} at the target`);
      continue;
    }
    const committed = await source.answer<number[]>('committed');
    await Promise.all([source.stop(), victim === 'both' ? target.kill() : null]);
    if (victim === 'both') target = await room.again(target);
    const shown = await atTarget(`round ${round}: the target with its source dead`);
    source = await startSource();
    const values = whole(await source.answer<number[][]>('values'), `round ${round}: the source`);
    // a process that was killed has lost nothing that it had answered: its peer returns what was not written yet
    for (const [host, value] of values.entries()) expect(value, `host ${host}`).toBeGreaterThanOrEqual(shown[host]!);
    if (values.some((value, host) => value > committed[host]!)) ahead += 1;
    await source.answer('run');
  }
  await source.stop();
  source = await startSource();
  const values = whole(await source.answer<number[][]>('values'), 'the source at the end');
  const shows = async (name: keyof typeof PLACES): Promise<boolean> =>
    `${whole(await there(name), `volume ${name} at the end`)}` === `${values}`;
  await until('the target showing the same', async () => (await shows('vm')) && shows('ix'));
  process.stderr.write(
    `transactions: ${KILLS} kills, ${values} committed by the hosts, ${ahead} times ahead of the answers\n`,
  );
});
