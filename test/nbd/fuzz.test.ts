/** Bytes nobody chose: the machines answer or hang up, never throw, never lose a request, never hold more than their limits. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Abandoned } from '../../src/frontend/nbd/abandoned.js';
import { BusyPoll } from '../../src/frontend/nbd/busy-poll.js';
import { NbdCounters } from '../../src/frontend/nbd/counters.js';
import { Gathering } from '../../src/frontend/nbd/gathering.js';
import { Negotiation } from '../../src/frontend/nbd/negotiation.js';
import { ReadMemory } from '../../src/frontend/nbd/read-memory.js';
import { type ReplyPort, Transmission } from '../../src/frontend/nbd/transmission.js';
import { FaultyDevice, MemoryCatalog, MemoryDevice } from './memory-device.js';
import {
  clientFlags,
  go,
  info,
  join,
  list,
  listMeta,
  option,
  parseReplies,
  request,
  setMeta,
  structuredReply,
} from './wire.js';

const anyName = fc.oneof(fc.constantFrom('disk', '', 'nothing', 'disk@applied'), fc.string({ maxLength: 20 }));
const anyBytes = fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes));
const anyOption = fc.oneof(
  fc.constantFrom(list(), structuredReply()),
  fc.tuple(anyName, fc.array(fc.nat(0xffff), { maxLength: 5 })).map(([name, items]) => info(name, ...items)),
  fc.tuple(anyName, fc.array(anyName, { maxLength: 3 })).map(([name, queries]) => setMeta(name, ...queries)),
  fc.tuple(anyName, fc.array(anyName, { maxLength: 3 })).map(([name, queries]) => listMeta(name, ...queries)),
  fc.tuple(fc.nat(12), anyBytes).map(([type, data]) => option(type, data)),
  fc.tuple(fc.nat(12), anyBytes, fc.nat(0xffffffff)).map(([type, data, size]) => option(type, data, size)),
  anyName.map((name) => go(name)),
  anyBytes,
);

/** The bytes, cut where the numbers say. */
function cut(bytes: Buffer, cuts: number[]): Buffer[] {
  const places = [...new Set(cuts.map((at) => at % (bytes.length + 1)))].sort((a, b) => a - b);
  return [0, ...places].map((at, index) => bytes.subarray(at, places[index] ?? bytes.length));
}
const anyCuts = fc.array(fc.nat(100_000), { maxLength: 6 });

test('negotiation', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(0, 1, 2, 3, 4),
      fc.array(anyOption, { maxLength: 80 }),
      anyCuts,
      (flags, options, cuts) => {
        const device = new MemoryDevice({ size: 4096 });
        const catalog = new MemoryCatalog(device);
        const bytes = join(clientFlags(flags), ...options);
        const run = (chunks: Buffer[]) => {
          const negotiation = new Negotiation(catalog);
          let state = 'more';
          for (const chunk of chunks) {
            if (state !== 'more') break;
            state = negotiation.receive(chunk).state;
            expect((negotiation as unknown as { held: Buffer }).held.length).toBeLessThanOrEqual(65536 + 16);
          }
          if (state === 'ready') device.close();
          return { state, replies: join(...negotiation.takeReplies()) };
        };
        const whole = run([bytes]);
        expect(whole.replies.length).toBeLessThan(64 * 8192);
        expect(run(cut(bytes, cuts))).toEqual(whole);
        expect(device.closeCount).toBe(catalog.openCount);
      },
    ),
    { numRuns: 1000 },
  );
});

const SIZE = 65536;
const anyOffset = fc.oneof(
  fc.nat(SIZE + 10).map(BigInt),
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  fc.constantFrom(2n ** 53n, 2n ** 63n, 2n ** 64n - 1n),
);
const anySize = fc.oneof(fc.nat(9000), fc.nat(0xffffffff));
const anyRequest = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({ command: fc.constantFrom(0, 3, 4, 5, 6, 7, 8, 9), offset: anyOffset, size: anySize }),
  },
  { weight: 2, arbitrary: fc.record({ command: fc.constant(1), offset: anyOffset, size: fc.nat(9000) }) },
);
const anyFlags = fc.oneof(fc.constant(0), fc.nat(31), fc.nat(0xffff));

test('transmission: every request gets one reply, however it is delivered and however slowly it settles', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(anyRequest, anyFlags), { maxLength: 30 }),
      anyCuts,
      fc.boolean(),
      fc.integer({ min: 1, max: 8 }),
      async (drawn, cuts, structuredReplies, requestsMax) => {
        const device = new FaultyDevice(new MemoryDevice({ size: SIZE }));
        device.holding = true;
        const sizes = new Map<bigint, number>();
        const requests = drawn.map(([{ command, offset, size }, flags], index) => {
          const cookie = BigInt(index);
          if (command === 0 && !structuredReplies) sizes.set(cookie, size);
          return request(command, {
            offset,
            flags,
            size,
            cookie,
            ...(command === 1 ? { payload: Buffer.alloc(size, 7) } : {}),
          });
        });
        const rig = run(device, structuredReplies, requestsMax);
        for (const chunk of cut(join(...requests), cuts)) {
          const lent = new Uint8Array(chunk);
          rig.transmission.receive(lent);
          lent.fill(0xee);
          expect(device.heldCount).toBeLessThanOrEqual(requestsMax);
        }
        for (let rounds = 0; rounds < drawn.length + 2; rounds += 1) {
          device.release(1);
          await new Promise((resolve) => setImmediate(resolve));
          expect(device.heldCount).toBeLessThanOrEqual(requestsMax);
        }
        const replies = parseReplies(join(...rig.sent), sizes);
        const cookies = replies.map((reply) => Number(reply.cookie)).sort((a, b) => a - b);
        expect(cookies).toEqual(drawn.map((_, index) => index));
        expect(rig.counters.bytesPending).toBe(0);
        rig.transmission.end();
        expect(device.closeCount).toBe(1);
      },
    ),
    { numRuns: 300 },
  );
});

test('transmission: arbitrary bytes', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.oneof(
          anyBytes,
          fc
            .tuple(anyRequest, anyFlags)
            .map(([{ command, offset, size }, flags]) => request(command, { offset, size, flags })),
        ),
        { maxLength: 12 },
      ),
      anyCuts,
      async (parts, cuts) => {
        const device = new MemoryDevice({ size: SIZE });
        const rig = run(device, true, 4);
        for (const chunk of cut(join(...parts), cuts)) {
          const lent = new Uint8Array(chunk);
          rig.transmission.receive(lent);
          lent.fill(0xee);
        }
        for (let rounds = 0; rounds < 6; rounds += 1) await new Promise((resolve) => setImmediate(resolve));
        rig.transmission.disconnected(() => undefined);
        parseReplies(join(...rig.sent));
        expect([device.inFlight, device.closeCount, rig.counters.bytesPending]).toEqual([0, 1, 0]);
      },
    ),
    { numRuns: 500 },
  );
});

function run(device: FaultyDevice | MemoryDevice, structuredReplies: boolean, requestsMax: number) {
  const sent: Buffer[] = [];
  const counters = new NbdCounters();
  const port: ReplyPort = {
    send: (pieces, done) => {
      for (const piece of pieces) sent.push(Buffer.from(piece));
      done?.();
      return true;
    },
    scheduleFlush: () => process.nextTick(() => transmission.flush()),
    scheduleFlushLater: () => setImmediate(() => transmission.flush()),
    pause: () => undefined,
    resume: () => undefined,
    finish: () => undefined,
    abort: () => undefined,
  };
  const session = { device, structuredReplies, allocationContext: structuredReplies };
  const busyPoll = new BusyPoll(1, () => 0, setImmediate);
  const gathering = new Gathering(() => 0); // whose requests follow at once
  const memory = new ReadMemory();
  const transmission = new Transmission(
    session,
    port,
    counters,
    requestsMax,
    memory,
    busyPoll,
    gathering,
    new Abandoned(),
  );
  return { transmission, sent, counters };
}
