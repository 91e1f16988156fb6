/**
 * A counter that hosts of both sites add to, in scopes that abort on conflict: two processes, 5 ms of round trip. Each
 * counts what was confirmed and tries again what was aborted, so both sites show the sum in the end: nothing confirmed is
 * lost, and nothing aborted shows. 300 increments, with FORELOCK_LONG=1 10,000.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { MIB } from '../../src/limits.js';
import type { GroupStatus } from '../../src/node/control.js';
import { DelayProxy } from './delay-proxy.js';
import { DIST, freePort, LONG, Room, until } from './gateway-process.js';
import { requireTools } from './tools.js';

const INCREMENTS = LONG ? 10_000 : 300;
const ROUND_TRIP_MS = 5;
const SCRIPT = fileURLToPath(new URL('counter-process.js', import.meta.url));

let room: Room;
beforeEach(async () => {
  room = await Room.open();
});
afterEach(() => room.close());

class Counter {
  readonly #child: ChildProcess;
  readonly #answers: AsyncIterator<string>;

  constructor(site: string, group: object) {
    const options = {
      state: room.path(site),
      site,
      groups: [
        {
          ...{ group: 'main', role: 'dual', ack: 'local', speculation: 'on', whenPeerAway: 'degrade', kernel: 'wasm' },
          ...group,
        },
      ],
    };
    this.#child = spawn(process.execPath, [SCRIPT, DIST, JSON.stringify(options)], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    room.onClose(() => this.#child.kill('SIGKILL'));
    this.#answers = createInterface({ input: this.#child.stdout! })[Symbol.asyncIterator]();
  }

  async next<T>(): Promise<T> {
    const { value, done } = await this.#answers.next();
    if (done) throw new Error(`a counting process ended (${this.#child.exitCode})`);
    return JSON.parse(value);
  }

  ask<T>(line: string): Promise<T> {
    this.#child.stdin!.write(`${line}\n`);
    return this.next();
  }
}

describe.skipIf(!requireTools(['gcc']))('a counter of both sites', () => {
  test('is exact at both', { timeout: LONG ? 1200_000 : 60_000 }, async () => {
    const port = await freePort();
    const proxy = room.keep(
      await DelayProxy.start({ target: { host: '127.0.0.1', port }, oneWayMs: ROUND_TRIP_MS / 2 }),
    );
    const a = new Counter('a', { volumes: [{ name: 'vm', size: MIB }], listen: { host: '127.0.0.1', port } });
    const b = new Counter('b', { volumes: [], peer: `ws://127.0.0.1:${proxy.port}` });
    await Promise.all([a.next(), b.next()]);

    const begun = performance.now();
    const counts = await Promise.all(
      [a, b].map((site) => site.ask<{ counted: number; aborted: number }>(`count ${INCREMENTS / 2}`)),
    );
    const seconds = (performance.now() - begun) / 1000;
    const cursors = () => Promise.all([a, b].map((site) => site.ask<GroupStatus['cursors']>('status')));
    await until('both sites having applied everything', async () => {
      const [atA, atB] = (await cursors()) as [GroupStatus['cursors'], GroupStatus['cursors']];
      return atA.peer.applied === atB.own.appended && atB.peer.applied === atA.own.appended;
    });
    expect(await Promise.all([a, b].map((site) => site.ask('value')))).toEqual([
      { value: INCREMENTS },
      { value: INCREMENTS },
    ]);
    const aborted = counts.reduce((sum, each) => sum + each.aborted, 0);
    process.stderr.write(
      `dual counter: ${INCREMENTS} increments in ${seconds.toFixed(1)} s, ${aborted} aborted and tried again\n`,
    );
    expect(aborted, 'they met').toBeGreaterThan(0);
  });
});
