/** A clock that stands still until told, and small tools for tests with real sockets. */
import { createConnection, createServer, type Socket } from 'node:net';
import type { Clock } from '../../src/link/clock.js';
import { LinkEndpoint, type LinkEndpointOptions } from '../../src/link/endpoint.js';
import type { PeerHello } from '../../src/link/handshake.js';
import type { Link } from '../../src/link/link.js';

export class FakeClock implements Clock {
  time = 0;
  #timers: { at: number; run: () => void }[] = [];

  now(): number {
    return this.time;
  }

  after(delayMs: number, run: () => void): () => void {
    const timer = { at: this.time + delayMs, run };
    this.#timers.push(timer);
    return () => {
      this.#timers = this.#timers.filter((other) => other !== timer);
    };
  }

  get pending(): number {
    return this.#timers.length;
  }

  /** Runs what becomes due, in order, each at its own time. */
  advance(ms: number): void {
    const end = this.time + ms;
    for (;;) {
      const next = this.#timers.filter((timer) => timer.at <= end).sort((a, b) => a.at - b.at)[0];
      if (next === undefined) break;
      this.#timers = this.#timers.filter((other) => other !== next);
      this.time = Math.max(this.time, next.at);
      next.run();
    }
    this.time = end;
  }
}

/** Waits until `condition` holds; the test's own time limit is the only one. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 2));
}

export interface LinkRecord {
  link: Link;
  peer: PeerHello;
  messages: { header: Uint8Array; stretch: Uint8Array | null }[];
  closed: { reason: string; code: number } | null;
}

/** An endpoint that writes down what its links bring. */
export class TestEnd {
  readonly links: LinkRecord[] = [];
  endpoint!: LinkEndpoint;

  static async open(
    options: Partial<LinkEndpointOptions> & Pick<LinkEndpointOptions, 'site' | 'where'>,
  ): Promise<TestEnd> {
    const end = new TestEnd();
    end.endpoint = await LinkEndpoint.open({
      key: null,
      hello: () => ({ from: options.site }),
      onLink: (link, peer) => {
        const record: LinkRecord = { link, peer, messages: [], closed: null };
        link.onMessage = (header, stretch) =>
          record.messages.push({ header: header.slice(), stretch: stretch?.slice() ?? null });
        link.onClose = (reason, code) => {
          record.closed = { reason, code };
        };
        end.links.push(record);
      },
      ...options,
    });
    return end;
  }

  get url(): string {
    return this.endpoint.status().url;
  }

  get last(): LinkRecord {
    return this.links[this.links.length - 1]!;
  }
}

export const LISTEN = { listen: { host: '127.0.0.1', port: 0 } };

/** A TCP relay that can be cut, or go silent with its connections up. */
export class TcpRelay {
  readonly #server = createServer((socket) => this.#accept(socket));
  readonly #sockets = new Set<Socket>();
  accepts = true;
  #silent = false;

  constructor(private readonly target: { host: string; port: number }) {}

  async listen(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    return `ws://127.0.0.1:${(this.#server.address() as { port: number }).port}`;
  }

  #accept(socket: Socket): void {
    if (!this.accepts) {
      socket.destroy();
      return;
    }
    const other = createConnection(this.target);
    for (const [from, to] of [
      [socket, other],
      [other, socket],
    ] as const) {
      this.#sockets.add(from);
      from.on('data', (data) => {
        if (!this.#silent) to.write(data);
      });
      from.on('error', () => {});
      from.on('close', () => {
        this.#sockets.delete(from);
        if (!this.#silent) to.destroy();
      });
    }
  }

  /** What has been relayed dies; new connections are taken. */
  cut(): void {
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  silence(): void {
    this.#silent = true;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }
}

/** A header of the mirror's kind: kind, flag, then text. */
export function header(text: string, stretch = false): Uint8Array {
  return Buffer.concat([Buffer.of(9, stretch ? 0x80 : 0), Buffer.from(text)]);
}

/** Asks for a link by hand, says what is given, and never closes its own half. @returns the status it was answered with */
export async function askByHand(
  port: number,
  said: Buffer,
): Promise<{ socket: Socket; status: string; ended: Promise<void> }> {
  const socket = createConnection({ port, host: '127.0.0.1', allowHalfOpen: true });
  socket.on('error', () => {});
  const ended = new Promise<void>((resolve) => socket.once('end', () => resolve()));
  socket.write(
    'GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
      'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n',
  );
  const status = await new Promise<string>((resolve) => {
    socket.once('data', (data) => resolve(data.toString('latin1').slice(9, 12)));
  });
  socket.write(said);
  return { socket, status, ended };
}
