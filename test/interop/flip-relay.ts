/**
 * A relay between two gateways that damages payload: WebSocket messages go through one by one, and in every n-th
 * large binary message towards the target one bit is flipped. Framing stays whole, so the damage reaches the
 * receiver's own checks instead of ending as a lost connection.
 *
 *     const relay = await FlipRelay.start({ target: 'ws://127.0.0.1:9000', every: 50, seed: 1 });
 *     … --peer ${relay.url} …
 *     relay.flips        // how many bits were flipped
 *
 * As a script (it imports nothing of this project): flip-relay LISTEN_PORT TARGET_URL EVERY SEED; it prints a line
 * for each flip.
 */
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { WebSocket, WebSocketServer } from 'ws';

export interface FlipRelayOptions {
  /** ws:// URL of the gateway that listens. */
  target: string;
  /** 0 picks a free port. */
  port?: number;
  /** Every how many large messages one is damaged; 0 is never. */
  every: number;
  seed: number;
  /** Smaller messages are handshakes, headers and control: left alone. */
  sizeMin?: number;
  onFlip?: (flip: Flip) => void;
}

export interface Flip {
  /** Which of the large messages, from 1. */
  message: number;
  bit: number;
  size: number;
  /** The binary message before it on the same connection, which is the stretch's header. */
  header: Uint8Array;
}

const MESSAGE_SIZE_MAX = 16 * 1024 * 1024;
const BUFFER_MAX = 8 * 1024 * 1024;
const OPTIONS = {
  perMessageDeflate: false,
  maxPayload: MESSAGE_SIZE_MAX,
  generateMask: (mask: Buffer) => {
    mask.fill(0);
  },
};

export class FlipRelay {
  /** Bits flipped so far. */
  flips = 0;
  /** Large messages seen towards the target. */
  large = 0;
  connections = 0;
  every: number;
  readonly #server: WebSocketServer;
  readonly #options: FlipRelayOptions;
  readonly #sockets = new Set<WebSocket>();
  #random: number;
  #flipNext = false;

  private constructor(server: WebSocketServer, options: FlipRelayOptions) {
    this.#server = server;
    this.#options = options;
    this.#random = options.seed >>> 0;
    this.every = options.every;
    server.on('connection', (client) => this.#relay(client));
  }

  static async start(options: FlipRelayOptions): Promise<FlipRelay> {
    const server = new WebSocketServer({ host: '127.0.0.1', port: options.port ?? 0, ...OPTIONS });
    await once(server, 'listening');
    return new FlipRelay(server, options);
  }

  get url(): string {
    return `ws://127.0.0.1:${(this.#server.address() as { port: number }).port}`;
  }

  /** Damages the next large message, whatever `every` says. */
  flipNext(): void {
    this.#flipNext = true;
  }

  /** Ends every connection without a word. */
  cut(): void {
    for (const socket of this.#sockets) socket.terminate();
  }

  async stop(): Promise<void> {
    this.#server.close();
    this.cut();
    await once(this.#server, 'close');
  }

  #relay(client: WebSocket): void {
    this.connections += 1;
    client.pause(); // until there is someone to give it to
    const target = new WebSocket(this.#options.target, OPTIONS);
    this.#forward(client, target, true);
    this.#forward(target, client, false);
    target.on('open', () => client.resume());
  }

  #forward(from: WebSocket, to: WebSocket, towardsTarget: boolean): void {
    this.#sockets.add(from);
    let before: Uint8Array = new Uint8Array();
    from.on('message', (data, isBinary) => {
      const bytes = data as Buffer;
      if (towardsTarget && isBinary) {
        this.#damage(bytes, before);
        before = bytes;
      }
      to.send(bytes, { binary: isBinary }, () => {
        if (to.bufferedAmount < BUFFER_MAX && from.isPaused && to.readyState === WebSocket.OPEN) from.resume();
      });
      if (to.bufferedAmount >= BUFFER_MAX) from.pause();
    });
    from.on('error', () => {});
    from.on('close', (code, reason) => {
      this.#sockets.delete(from);
      if (code === 1005 || code === 1006 || code === 1015) to.terminate();
      else to.close(code, reason);
    });
  }

  #damage(bytes: Buffer, header: Uint8Array): void {
    if (bytes.length < (this.#options.sizeMin ?? 4096)) return;
    this.large += 1;
    if (!this.#flipNext && (this.every === 0 || this.large % this.every !== 0)) return;
    this.#flipNext = false;
    const bit = Math.floor(this.#next() * bytes.length * 8);
    bytes[bit >> 3] = bytes[bit >> 3]! ^ (1 << (bit & 7));
    this.flips += 1;
    this.#options.onFlip?.({ message: this.large, bit, size: bytes.length, header });
  }

  /** mulberry32: 0 <= n < 1. */
  #next(): number {
    this.#random = (this.#random + 0x6d2b79f5) >>> 0;
    let t = this.#random;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [port, target, every, seed] = process.argv.slice(2);
  if (target === undefined) {
    console.error('usage: flip-relay LISTEN_PORT TARGET_URL EVERY SEED');
    process.exit(2);
  }
  const relay = await FlipRelay.start({
    port: Number(port),
    target,
    every: Number(every ?? 100),
    seed: Number(seed ?? 1),
    onFlip: ({ message, bit, size }) => console.log(`flipped bit ${bit} of ${size} bytes in large message ${message}`),
  });
  console.log(relay.url);
}
