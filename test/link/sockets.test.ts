/** How many WebSockets a listener has at once, closing ones included. Here: two. */
import { afterEach, expect, test, vi } from 'vitest';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  LINK_SOCKETS_MAX: 2,
}));

import { CLOSE_REFUSED } from '../../src/link/link.js';
import { askByHand, LISTEN, TcpRelay, TestEnd, until } from './helpers.js';

const toClose: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const item of toClose.splice(0).reverse()) await item.close();
});

test('what is closing takes a place, and who is turned away keeps no socket', async () => {
  const b = await TestEnd.open({ site: 'b', where: LISTEN });
  const relay = new TcpRelay(b.endpoint.address!);
  const a = await TestEnd.open({ site: 'a', where: { connect: await relay.listen() } });
  toClose.push(b.endpoint, relay, a.endpoint);
  await until(() => b.links.length === 1);
  relay.silence(); // its other end does not answer the close
  b.last.link.close(CLOSE_REFUSED, 'go away');
  const { port } = b.endpoint.address!;
  const none = Buffer.alloc(0);
  const asked = [await askByHand(port, none), await askByHand(port, none)];
  for (const { socket } of asked) toClose.push({ close: async () => void socket.destroy() });
  expect(asked.map(({ status }) => status)).toEqual(['101', '503']);
  const { socket } = asked[1]!;
  await until(() => {
    if (!socket.destroyed) socket.write('x'); // it stays, and would for ever
    return socket.destroyed;
  });
});
