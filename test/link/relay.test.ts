/** The test layers themselves: they must do to a link what they say, and nothing else. */
import { afterEach, expect, test } from 'vitest';
import { compileDelayProxy, DelayProxy } from '../interop/delay-proxy.js';
import { FlipRelay } from '../interop/flip-relay.js';
import { header, LISTEN, TestEnd, until } from './helpers.js';

const toStop: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const stop of toStop.splice(0).reverse()) await stop();
});

async function end(options: Parameters<typeof TestEnd.open>[0]): Promise<TestEnd> {
  const opened = await TestEnd.open(options);
  toStop.push(() => opened.endpoint.close());
  return opened;
}

async function run(seed: number): Promise<{ bits: number[]; flips: number }> {
  const b = await end({ site: 'b', where: LISTEN });
  const flipped: number[] = [];
  const relay = await FlipRelay.start({ target: b.url, every: 10, seed, onFlip: ({ bit }) => flipped.push(bit) });
  toStop.push(() => relay.stop());
  const a = await end({ site: 'a', where: { connect: relay.url } });
  await until(() => b.links.length === 1 && a.links.length === 1);
  for (let number = 0; number < 100; number += 1) {
    a.last.link.send(header(`${number}`, true), Buffer.alloc(10_000, number), null);
    b.last.link.send(header(`${number}`, true), Buffer.alloc(10_000, number), null);
  }
  await until(() => a.last.messages.length === 100 && b.last.messages.length === 100);
  const bits: number[] = [];
  b.last.messages.forEach(({ stretch }, number) => {
    stretch!.forEach((byte, index) => {
      for (let bit = 0; bit < 8; bit += 1) if ((((byte ^ number) >> bit) & 1) !== 0) bits.push(index * 8 + bit);
    });
  });
  expect(bits).toEqual(flipped);
  expect(a.last.messages.every(({ stretch }, number) => stretch!.every((byte) => byte === number))).toBe(true);
  return { bits, flips: relay.flips };
}

test('the flip relay flips one bit in every n-th large message towards the target, the same for the same seed', async () => {
  const first = await run(1);
  expect(first.flips).toBe(10);
  expect(await run(1)).toEqual(first);
  expect((await run(2)).bits).not.toEqual(first.bits);
});

test('the flip relay hands on why a link was closed', async () => {
  const b = await end({ site: 'b', where: LISTEN });
  const relay = await FlipRelay.start({ target: b.url, every: 0, seed: 1 });
  toStop.push(() => relay.stop());
  const a = await end({ site: 'a', where: { connect: relay.url } });
  await until(() => b.links.length === 1 && a.links.length === 1);
  b.last.link.close(4003, 'does not fit');
  await until(() => a.last.closed !== null);
  expect(a.last.closed).toEqual({ code: 4003, reason: 'does not fit' });
});

const compiled = compileDelayProxy();
test.skipIf('missing' in compiled)('the delay proxy delays, cuts and mends a link', async () => {
  const b = await end({ site: 'b', where: LISTEN });
  const proxy = await DelayProxy.start({ target: b.endpoint.address!, oneWayMs: 20 });
  toStop.push(() => proxy.stop());
  const a = await end({ site: 'a', where: { connect: `ws://127.0.0.1:${proxy.port}` } });
  await until(() => a.endpoint.status().roundTripMs > 0);
  expect(a.endpoint.status().roundTripMs).toBeGreaterThanOrEqual(39);
  await proxy.cut();
  await until(() => a.last.closed !== null && b.last.closed !== null);
  await proxy.delay(0);
  await proxy.open();
  await until(() => b.links.length === 2 && a.links.length === 2);
  expect((await proxy.stats()).total).toBe(2);
});
