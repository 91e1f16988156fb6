/**
 * What a group does when its target cannot lock: every --on-reject, with a host over NBD and with one in the process.
 *
 * Somebody at the target holds blocks that are written all the time, and eight others ask for them again and again. While
 * the first one holds, the policy shows: records pile up at the target (target-retry), nothing is sent (halt), or what
 * came was dropped and is asked for again (retransmit). Then the mirror is next, and in the end both sides are equal.
 */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { LibraryVolume } from '../../src/frontend/library/volume.js';
import { NbdClient } from '../../src/frontend/nbd/client.js';
import { KIB, MIB } from '../../src/limits.js';
import type { GroupStatus } from '../../src/node/control.js';
import { Gateway } from '../../src/node/gateway.js';
import type { VerifyReport } from '../../src/volume/verify.js';
import { DelayProxy } from './delay-proxy.js';
import { forelock, type GatewayProcess, LONG, Room, sleep, until } from './gateway-process.js';
import { requireTools } from './tools.js';

const SIZE = 64 * MIB;
const HOLD_MS = LONG ? 5000 : 2000;
const LOCKERS = 8;
const EXTENT = { offset: 16 * MIB, size: 64 * KIB };

let room: Room;
beforeEach(async () => {
  room = await Room.open();
});
afterEach(() => room.close());

interface Source {
  status(): Promise<GroupStatus>;
  verify(): Promise<VerifyReport>;
  /** Lines for the operator. */
  said(): string;
  write(offset: number, bytes: Buffer): Promise<void>;
  /** A locked update of two blocks; over NBD, two writes. */
  update(offset: number, bytes: Buffer): Promise<void>;
}

type Policy = 'target-retry' | 'halt' | 'retransmit';

async function overNbd(onReject: Policy, speculation: 'on' | 'off'): Promise<[Source, GatewayProcess]> {
  const { source, target } = await room.pair({
    size: SIZE,
    roundTripMs: 20,
    source: { 'on-reject': onReject, speculation },
  });
  const client = await NbdClient.connect(await source.uri('vm'));
  room.onClose(() => client.destroy());
  const write = (offset: number, bytes: Buffer) => client.write(offset, bytes);
  const host: Source = {
    status: () => source.status(),
    verify: () => source.verify(),
    said: () => source.said,
    write,
    update: async (offset, bytes) => {
      await write(offset, bytes);
      await write(offset + bytes.length, bytes);
    },
  };
  return [host, target];
}

async function inProcess(onReject: Policy, speculation: 'on' | 'off'): Promise<[Source, GatewayProcess]> {
  const port = 20_000 + Math.floor(Math.random() * 10_000);
  const target = await room.start({ site: 'b', role: 'standby', listen: port });
  const proxy = room.keep(await DelayProxy.start({ target: { host: '127.0.0.1', port }, oneWayMs: 10 }));
  const said: string[] = [];
  const gateway = await Gateway.open({
    state: room.path('a'),
    site: 'a',
    nbd: [],
    onEvent: (text) => said.push(text),
    groups: [
      {
        group: 'main',
        role: 'primary',
        volumes: [{ name: 'vm', size: SIZE }],
        peer: `ws://127.0.0.1:${proxy.port}`,
        ...{ ack: 'local', speculation, whenPeerAway: 'degrade', kernel: 'wasm', onReject },
      },
    ],
  });
  room.onClose(() => gateway.close());
  await gateway.ready();
  const status = () => Promise.resolve(gateway.status().groups[0]!);
  await until('the source streaming', async () => (await status()).link.state === 'streaming');
  await target.untilConsistent();
  const volume = new LibraryVolume(gateway.volume('vm'));
  const host: Source = {
    status,
    verify: () => gateway.verify('vm'),
    said: () => said.join('\n'),
    write: (offset, bytes) => volume.write(offset, bytes),
    update: async (offset, bytes) => {
      const scope = await volume.lock({ offset, size: 2 * bytes.length });
      await scope.write(offset, bytes);
      await scope.write(offset + bytes.length, bytes);
      await scope.unlock();
    },
  };
  return [host, target];
}

/** What stands in a gateway's journal, and how the reading of it ended. */
async function journalOf(gateway: GatewayProcess): Promise<{ truncated: number; damaged: number }> {
  const { stdout } = await forelock('log', gateway.options.state, '--json');
  const events = stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as { type?: string; damaged?: number });
  return { truncated: events.filter(({ type }) => type === 'TRUNCATED').length, damaged: events.at(-1)!.damaged! };
}

/** In lock-step a write into a locked extent is not answered before the lock is gone: the load waits there. */
async function story(source: Source, target: GatewayProcess, policy: Policy, speculation: 'on' | 'off'): Promise<void> {
  const block = (value: number) => Buffer.alloc(4 * KIB, value);
  const there = async () => (await target.status()).cursors.peer;
  const lock = () =>
    target.control.lock({ volume: 'vm', ...EXTENT, mode: 'write', holdSeconds: null, waitSeconds: null });
  const untilApplied = () =>
    until('all of it applied', async () => {
      const { appended, applied } = (await source.status()).cursors.own;
      return applied === appended ? applied : null;
    });

  await source.write(EXTENT.offset, block(1));
  const before = await untilApplied();
  const holder = await lock();
  const grants: number[] = [];
  let going = true;
  const lockers = Array.from({ length: LOCKERS }, async () => {
    while (going) {
      const mine = await lock();
      grants.push((await there()).applied);
      mine.release();
      await mine.ended;
    }
  });
  for (const each of lockers) each.catch(() => {});
  let writes = 0;
  const load = (async () => {
    while (going) {
      const value = 1 + (writes % 250);
      await source.update(EXTENT.offset + (writes % 15) * 4 * KIB, block(value));
      await source.write(32 * MIB + (writes % 256) * 4 * KIB, block(value));
      writes += 1;
      await sleep(1);
    }
  })();
  load.catch(() => {});

  // ---- while it is held
  const shown = { 'target-retry': 'waiting', halt: 'halted', retransmit: 'rewound' }[policy];
  await until(`the source ${shown}`, async () => (await source.status()).rejection?.state === shown);
  await sleep(200); // what was on the line has arrived
  const early = await source.status();
  await sleep(HOLD_MS);
  const late = await source.status();
  expect(late.onReject).toBe(policy);
  expect(late.rejection?.state).toBe(shown);
  expect(late.rejection!.ageMs).toBeGreaterThan(1000);
  expect(source.said()).toContain(`sequence ${late.rejection!.sequence} waits for its lock at the target`);
  const atTarget = await target.status();
  expect(atTarget.onReject).toBe(policy);
  expect(atTarget.rejection?.state).toBe(policy === 'retransmit' ? 'rewound' : 'waiting');
  expect(grants).toEqual([]);
  expect(atTarget.cursors.peer.applied).toBeLessThan(late.rejection!.sequence);
  const sentMeanwhile = late.counters.mirrorBytesSent! - early.counters.mirrorBytesSent!;
  if (speculation === 'on') {
    expect(late.cursors.own.appended - early.cursors.own.appended).toBeGreaterThan(50); // hosts go on
    if (policy === 'target-retry') expect(sentMeanwhile).toBeGreaterThan(100 * KIB);
  }
  if (policy !== 'target-retry') {
    expect(sentMeanwhile).toBe(0);
    expect(late.link.bytesSent - early.link.bytesSent).toBeLessThan(4 * KIB); // heartbeats go on
  }
  expect((await journalOf(target)).truncated).toBe(policy === 'retransmit' ? 1 : 0);
  if (policy === 'retransmit') {
    expect(late.link.attempt).toBeGreaterThan(0);
    expect(late.cursors.own.received).toBeLessThan(late.rejection!.sequence); // what may be dropped is not promised
    expect(atTarget.cursors.peer.received).toBe(late.rejection!.sequence - 1);
  }

  // ---- when it is let go
  holder.release();
  await until('a locker after the mirror', () => grants.length >= 2 * LOCKERS);
  expect(grants[0]).toBeGreaterThan(before);
  expect(grants.toSorted((a, b) => a - b)).toEqual(grants);
  going = false;
  await Promise.all([load, ...lockers]);
  await untilApplied();
  expect(await source.verify()).toMatchObject({ equal: true });
  const ended = await source.status();
  expect(ended.rejection).toBeNull();
  const { mirrorRejections, mirrorHalts, mirrorHaltedMs, mirrorRejectedRewinds, mirrorRewoundMs, mirrorRecordsSent } =
    ended.counters;
  expect(mirrorRejections).toBeGreaterThan(0);
  const dropped = (await target.status()).counters.mirrorRecordsDropped!;
  expect((await journalOf(target)).damaged).toBe(0);
  if (policy === 'halt') {
    expect(mirrorHalts).toBeGreaterThan(0);
    expect(mirrorHaltedMs).toBeGreaterThan(HOLD_MS);
  }
  if (policy === 'retransmit') {
    expect(mirrorRejectedRewinds).toBeGreaterThan(0);
    expect(mirrorRewoundMs).toBeGreaterThan(HOLD_MS);
    expect(dropped).toBeGreaterThan(0);
    expect(mirrorRecordsSent! - ended.cursors.own.appended).toBeGreaterThanOrEqual(dropped); // sent twice
  } else {
    expect([mirrorRejectedRewinds, dropped]).toEqual([0, 0]);
    expect(mirrorRecordsSent).toBe(ended.cursors.own.appended);
  }
  process.stderr.write(
    `on-reject ${policy}, speculation ${speculation}: ${writes} rounds of writes, ${mirrorRejections} rejections, ` +
      `${mirrorHalts} halts (${Math.round(mirrorHaltedMs!)} ms), ${mirrorRejectedRewinds} rewinds, ${dropped} records dropped, ` +
      `${mirrorRecordsSent} sent for ${ended.cursors.own.appended}; ${sentMeanwhile} bytes sent while held; ${grants.length} other grants\n`,
  );
}

describe.skipIf(!requireTools(['gcc']))('a lock at the target, by policy', { timeout: 120_000 }, () => {
  for (const policy of ['target-retry', 'halt', 'retransmit'] as const) {
    test(`${policy}, over NBD`, async () => {
      await story(...(await overNbd(policy, 'on')), policy, 'on');
    });
    test(`${policy}, scopes of the library`, async () => {
      await story(...(await inProcess(policy, 'on')), policy, 'on');
    });
    test.runIf(LONG)(`${policy}, lock-step`, async () => {
      await story(...(await overNbd(policy, 'off')), policy, 'off');
    });
  }
});
