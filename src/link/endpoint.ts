/**
 * One end of a pair's link: connects or listens, proves itself, and hands its owner one live Link at a time.
 *
 *     away --connected--> handshaking --both proved--> up --closed--> away
 *     handshaking or up --refused by either end--> refused --back-off--> handshaking
 *
 * A listener is never handshaking, nor refused by a handshake: whoever is at it may be anybody. What becomes of such a connection
 * stands in the reason, behind what is known of the peer.
 *
 * At most one authenticated link lives. A newer one from the same site replaces it: the site that connects again
 * has given up the old one, however alive it still looks from here (a cut that only one end noticed). The old link's
 * `onClose` comes before the new `onLink`. A newer one from another site is refused while the old one lives.
 *
 * Back-off doubles from RECONNECT_MS_MIN to RECONNECT_MS_MAX, with jitter over its upper half, and starts anew only
 * after a link that lasted RECONNECT_MS_MAX, so ends that accept and then drop each other do not storm. After a
 * refusal the wait is the longest at once: what was refused needs a person.
 *
 * Whoever can reach a listener may hold connections and prove nothing. Where LINKS_PENDING_MAX do, the oldest makes way for
 * the next, which may be the peer: it needs three round trips, and is let in unless as many others come meanwhile. What it
 * says when it closes such a connection is not listened to.
 *
 * A listener takes no request that bears an Origin (a web page may otherwise reach a loopback port), and without a
 * key it binds to loopback only.
 */
import { randomBytes } from 'node:crypto';
import { createServer, type Server } from 'node:http';
import { type AddressInfo, connect, type NetConnectOpts, type Socket } from 'node:net';
import { type ClientOptions, type ServerOptions, WebSocket, WebSocketServer } from 'ws';
import xxhash from 'xxhash-wasm';
import { ForelockError, whyNotHeard } from '../errors.js';
import {
  LINK_HANDSHAKE_BUSY_MS_MAX,
  LINK_HANDSHAKE_MS_MAX,
  LINK_SOCKETS_MAX,
  LINKS_PENDING_MAX,
  MESSAGE_SIZE_MAX,
  RECONNECT_MS_MAX,
  RECONNECT_MS_MIN,
} from '../limits.js';
import { VERSION } from '../paths.js';
import { readingInto } from '../sockets.js';
import { type Clock, systemClock } from './clock.js';
import { Handshake, type HandshakeRole, NONCE_SIZE, type PeerHello } from './handshake.js';
import { Intake } from './intake.js';
import {
  CLOSE_AUTH,
  CLOSE_BUSY,
  CLOSE_GOING_AWAY,
  CLOSE_LOST,
  CLOSE_PROTOCOL,
  CLOSE_REFUSED,
  CLOSE_REPLACED,
  CLOSE_TIMEOUT,
  fitReason,
  heardReason,
  type Link,
} from './link.js';
import { type LinkShape, ShapedLink } from './shaper.js';
import { maskWithZeroes, unsaidReason, WsLink } from './ws-link.js';

export type EndpointState = 'away' | 'handshaking' | 'up' | 'refused';

export interface EndpointStatus {
  readonly state: EndpointState;
  /** Why it is not up, or '' . */
  readonly reason: string;
  /** The peer's URL when connecting, the bound address when listening. */
  readonly url: string;
  readonly peerSite: string | null;
  /** Links that came up. */
  readonly connects: number;
  /** Connections that ended before they were links, by what ended them. */
  readonly failures: number;
  readonly refusals: number;
  readonly timeouts: number;
  readonly roundTripMs: number;
  /** Payload bytes over all links. */
  readonly bytesSent: number;
  readonly bytesReceived: number;
}

export interface LinkEndpointOptions {
  /** This site's name; the peer must have another. */
  site: string;
  where: { connect: string } | { listen: { host: string; port: number } };
  key: Uint8Array | null;
  /** Mask with zeroes when connecting, so that payload is sent without a copy. Default: on loopback and over TLS. */
  zeroMask?: boolean | undefined;
  /** Makes the link longer and narrower; to be given at one end. */
  shape?: LinkShape | null | undefined;
  /** What to say to the peer, asked anew for each connection. */
  hello: () => unknown;
  /** A link is up. Handlers are to be set inside this call; a peer that does not fit is told by `link.close(CLOSE_REFUSED, why)`. */
  onLink: (link: Link, peer: PeerHello) => void;
  /** State or reason changed. */
  onState?: ((status: EndpointStatus) => void) | undefined;
  clock?: Clock | undefined;
  /** 0 <= n < 1, for jitter. */
  random?: (() => number) | undefined;
}

/** Beside what @types/ws knows. */
const WS_OPTIONS = {
  perMessageDeflate: false,
  maxPayload: MESSAGE_SIZE_MAX,
  maxFragments: 16, // our messages come in one fragment
  skipUTF8Validation: true, // no text is accepted at all
  autoPong: false, // WsLink answers, one pong at a time
  closeTimeout: 2000,
};

/** Whether an address to bind or connect to stays on this machine. */
export function isLoopback(host: string): boolean {
  const bare = host.replace(/^\[|\]$/g, '').toLowerCase();
  return bare === 'localhost' || bare === '::1' || /^127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(bare);
}

export class LinkEndpoint {
  readonly #options: LinkEndpointOptions;
  readonly #clock: Clock;
  readonly #random: () => number;
  readonly #xxh64: (bytes: Uint8Array) => bigint;
  #server: Server | null = null;
  #wsServer: WebSocketServer | null = null;
  #url: string;

  #state: EndpointState = 'away';
  #reason = 'not connected yet';
  /** Of a listener: why there is no link, as far as the peer itself has to do with it. */
  #known = 'waiting for the peer to connect';
  #link: WsLink | null = null;
  #peerSite: string | null = null;
  /** Everything that still has a socket, closing ones included. */
  readonly #open = new Set<WebSocket>();
  /** Of a listener, oldest first: connections that have not asked for a WebSocket. */
  readonly #asking = new Set<Socket>();
  /** Of a listener, oldest first: those that have not proved themselves, and how each is ended for another. */
  readonly #unproven = new Map<WebSocket, () => void>();
  #cancelReconnect: () => void = () => {};
  #attempts = 0;
  #closed = false;

  #connects = 0;
  #failures = 0;
  #refusals = 0;
  #timeouts = 0;
  #roundTripMs = 0;
  #bytesSent = 0;
  #bytesReceived = 0;

  /**
   * @returns when a listener listens; at once when connecting (whether it succeeds is told by `onLink` and `status`)
   * @throws ForelockError CONFIG if it may not or cannot listen there, or the URL is none
   */
  static async open(options: LinkEndpointOptions): Promise<LinkEndpoint> {
    const { h64Raw } = await xxhash();
    const endpoint = new LinkEndpoint(options, (bytes) => h64Raw(bytes));
    if ('listen' in options.where) await endpoint.#listen(options.where.listen);
    else endpoint.#connect();
    return endpoint;
  }

  private constructor(options: LinkEndpointOptions, xxh64: (bytes: Uint8Array) => bigint) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#random = options.random ?? Math.random;
    this.#xxh64 = xxh64;
    this.#url = 'connect' in options.where ? checkUrl(options.where.connect) : '';
    if (this.#url !== '' && options.key === null && !isLoopback(new URL(this.#url).hostname)) {
      throw new ForelockError(
        'CONFIG',
        `without a shared key the link stays on loopback, and does not go to ${this.#url}: give both ends --key FILE`,
      );
    }
  }

  status(): EndpointStatus {
    const link = this.#link;
    return {
      state: this.#state,
      reason: this.#reason,
      url: this.#url,
      peerSite: this.#peerSite,
      connects: this.#connects,
      failures: this.#failures,
      refusals: this.#refusals,
      timeouts: this.#timeouts,
      roundTripMs: (link ?? { roundTripMs: this.#roundTripMs }).roundTripMs + (this.#options.shape?.roundTripMs ?? 0),
      bytesSent: this.#bytesSent + (link?.bytesSent ?? 0),
      bytesReceived: this.#bytesReceived + (link?.bytesReceived ?? 0),
    };
  }

  /** Where a listener is bound; null when connecting. */
  get address(): { host: string; port: number } | null {
    const address = this.#server?.address() as AddressInfo | null | undefined;
    return address ? { host: address.address, port: address.port } : null;
  }

  /** Closes the link behind what was sent and stops. `onClose` of a live link comes inside; resolves when no socket is left. */
  async close(reason = 'the gateway is stopping'): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#cancelReconnect();
    this.#link?.end(CLOSE_GOING_AWAY, reason);
    this.#setState('away', reason);
    const ends = [...this.#open].map((ws) => new Promise<void>((resolve) => ws.once('close', () => resolve())));
    for (const ws of this.#open) ws.close(CLOSE_GOING_AWAY, fitReason(reason)); // no effect on one that is closing
    const server = this.#server;
    if (server !== null) {
      this.#wsServer!.close();
      ends.push(new Promise<void>((resolve) => server.close(() => resolve())));
      server.closeAllConnections(); // those that never became a WebSocket
    }
    await Promise.all(ends);
  }

  #setState(state: EndpointState, reason: string): void {
    if (this.#state === state && this.#reason === reason) return;
    this.#state = state;
    this.#reason = reason;
    this.#options.onState?.(this.status());
  }

  // ---- listening

  async #listen({ host, port }: { host: string; port: number }): Promise<void> {
    if (this.#options.key === null && !isLoopback(host)) {
      throw new ForelockError(
        'CONFIG',
        `without a shared key the link listens on loopback only, not on ${host}: give both ends --key FILE`,
      );
    }
    const server = createServer({ connectionsCheckingInterval: 1000 }, (_, response) => {
      response.writeHead(426, { connection: 'close', 'content-type': 'text/plain' });
      response.end('this is the link of a forelock gateway\n');
    });
    server.headersTimeout = LINK_HANDSHAKE_MS_MAX;
    server.requestTimeout = LINK_HANDSHAKE_MS_MAX;
    server.on('connection', (socket) => {
      this.#asking.add(socket);
      socket.once('close', () => this.#asking.delete(socket));
      if (this.#asking.size <= LINKS_PENDING_MAX) return;
      const [oldest] = this.#asking;
      this.#asking.delete(oldest!);
      this.#failures += 1;
      oldest!.destroy();
    });
    const wsServer = new WebSocketServer({ noServer: true, clientTracking: false, ...WS_OPTIONS } as ServerOptions);
    server.on('upgrade', (request, accepted, head) => {
      this.#asking.delete(accepted as Socket);
      if (request.headers.origin !== undefined || this.#open.size >= LINK_SOCKETS_MAX || this.#closed) {
        this.#refusals += 1;
        accepted.on('error', () => {}); // whoever it was may be gone before the answer
        accepted.once('finish', () => accepted.destroy()); // or stay, in a place of those that are still to ask
        const status = request.headers.origin !== undefined ? '403 Forbidden' : '503 Service Unavailable';
        accepted.end(`HTTP/1.1 ${status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`);
        return;
      }
      if (this.#unproven.size >= LINKS_PENDING_MAX) {
        const [makeWay] = this.#unproven.values();
        makeWay!();
      }
      const intake = new Intake();
      const socket = readingInto(accepted as Socket, intake.onread, true);
      intake.attach(socket);
      intake.startFrames(head, true);
      wsServer.handleUpgrade(request, socket, head, (ws) => {
        this.#track(ws);
        this.#shakeHands(ws, socket, intake, 'listener', () => {});
      });
    });
    await new Promise<void>((resolve, reject) => {
      server.once('error', (error) => {
        const why = whyNotHeard(error, '--listen');
        reject(new ForelockError('CONFIG', `the link cannot listen on ${host}:${port}: ${why}`));
      });
      server.listen(port, host.replace(/^\[|\]$/g, ''), resolve);
    });
    this.#server = server;
    this.#wsServer = wsServer;
    const { address, port: bound } = server.address() as AddressInfo;
    this.#url = `ws://${address.includes(':') ? `[${address}]` : address}:${bound}`;
    this.#setState('away', this.#known);
  }

  // ---- connecting

  #connect(): void {
    if (this.#closed) return;
    const url = new URL(this.#url);
    const options: ClientOptions = { ...WS_OPTIONS, handshakeTimeout: LINK_HANDSHAKE_MS_MAX } as ClientOptions;
    if (this.#options.zeroMask ?? (url.protocol === 'wss:' || isLoopback(url.hostname))) {
      options.generateMask = maskWithZeroes;
    }
    const intake = new Intake();
    if (url.protocol === 'ws:') {
      // `path` is the request's here, and would be a Unix socket's there
      const connectReading = (to: NetConnectOpts) =>
        connect({ ...to, path: undefined, onread: intake.onread } as object as NetConnectOpts);
      options.createConnection = connectReading as typeof connect;
    }
    let socket: Socket | null = null;
    options.finishRequest = (request) => {
      request.once('socket', (connecting) => intake.attach(connecting));
      // before ws's own listener, which says that the link is open
      request.prependOnceListener('upgrade', (_, upgraded: Socket, head: Buffer) => {
        socket = upgraded;
        intake.startFrames(head, false);
      });
      request.end();
    };
    const ws = new WebSocket(url, options);
    this.#track(ws);
    let failed = false;
    const fail = (error: Error) => {
      if (failed || this.#closed) return;
      failed = true;
      this.#failures += 1;
      this.#setState('away', `cannot connect to ${this.#url}: ${describe(error)}`);
      this.#reconnect(false);
    };
    ws.on('error', fail);
    ws.once('open', () => {
      ws.off('error', fail);
      if (this.#state !== 'refused') this.#setState('handshaking', 'connected, not authenticated yet');
      this.#shakeHands(ws, socket!, intake, 'connector', () => this.#reconnect(this.#state === 'refused'));
    });
  }

  #reconnect(refused: boolean): void {
    if (this.#closed) return;
    this.#cancelReconnect();
    const longest = refused ? RECONNECT_MS_MAX : Math.min(RECONNECT_MS_MAX, RECONNECT_MS_MIN * 2 ** this.#attempts);
    this.#attempts = Math.min(this.#attempts + 1, 30);
    this.#cancelReconnect = this.#clock.after(longest * (0.5 + this.#random() / 2), () => this.#connect());
  }

  // ---- both

  #track(ws: WebSocket): void {
    this.#open.add(ws);
    ws.once('close', () => this.#open.delete(ws));
  }

  /** @param ended called once when this connection is over, as link or before */
  #shakeHands(ws: WebSocket, socket: Socket, intake: Intake, role: HandshakeRole, ended: () => void): void {
    const { site, key, hello } = this.#options;
    const handshake = new Handshake({
      role,
      site,
      version: VERSION,
      key,
      nonce: randomBytes(NONCE_SIZE),
      hello: hello(),
      xxh64: this.#xxh64,
    });
    let over = false;
    let errorText = '';
    const leave = () => {
      over = true;
      cancel();
      this.#unproven.delete(ws);
    };
    const giveUp = (code: number, reason: string) => {
      if (over) return;
      leave();
      if (code === CLOSE_TIMEOUT) this.#timeouts += 1;
      else if (code === CLOSE_AUTH || code === CLOSE_REFUSED || code === CLOSE_PROTOCOL) this.#refusals += 1;
      else this.#failures += 1;
      if (this.#link === null) {
        if (role === 'connector') this.#setState(isRefusal(code) ? 'refused' : 'away', reason);
        else this.#setState(this.#state, `${this.#known}; a connection that had proved nothing has ended: ${reason}`);
      }
      ended();
    };
    const refuse = (code: number, reason: string) => {
      giveUp(code, reason);
      ws.close(code, reason);
      socket.destroySoon(); // behind the reason: who has proved nothing is not waited for
    };
    const isBusy = this.#unproven.size > LINKS_PENDING_MAX / 2;
    const limitMs = isBusy ? LINK_HANDSHAKE_BUSY_MS_MAX : LINK_HANDSHAKE_MS_MAX;
    const cancel = this.#clock.after(limitMs, () => {
      refuse(CLOSE_TIMEOUT, `the handshake took longer than ${limitMs / 1000} s`);
    });
    if (role === 'listener') this.#unproven.set(ws, () => refuse(CLOSE_BUSY, 'it made way for a newer one'));
    const onError = (error: Error) => {
      errorText = error.message;
    };
    // A listener knows from the HELLOs itself why the two do not fit. Who says more may be anybody, to write it into the log.
    const onClose = (code: number, reason: Buffer) =>
      role === 'listener'
        ? giveUp(CLOSE_LOST, errorText || 'it was closed at the other end')
        : giveUp(code, heardReason(reason) || errorText || unsaidReason(code));
    const onMessage = (data: Buffer, isBinary: boolean) => {
      if (over) return;
      const step = isBinary
        ? handshake.step(data)
        : { send: null, done: null, refusal: { code: CLOSE_PROTOCOL, reason: 'text where a handshake was due' } };
      const refusal = step.refusal ?? (step.done === null ? null : this.#refusesLink(step.done));
      if (refusal !== null) {
        refuse(refusal.code, fitReason(refusal.reason));
        return;
      }
      if (step.send !== null) ws.send(step.send);
      if (step.done === null) return;
      leave();
      ws.off('message', onMessage);
      ws.off('close', onClose);
      ws.off('error', onError);
      this.#adopt(ws, socket, intake, step.done, ended);
    };
    ws.on('error', onError);
    ws.on('close', onClose);
    ws.on('message', onMessage);
    ws.send(handshake.start());
  }

  #refusesLink(peer: PeerHello): { code: number; reason: string } | null {
    if (this.#closed) return { code: CLOSE_GOING_AWAY, reason: 'the gateway is stopping' };
    if (this.#link === null || peer.site === this.#peerSite) return null;
    return { code: CLOSE_BUSY, reason: `linked with site ${JSON.stringify(this.#peerSite)} already` };
  }

  #adopt(ws: WebSocket, socket: Socket, intake: Intake, peer: PeerHello, ended: () => void): void {
    this.#link?.end(CLOSE_REPLACED, 'replaced by a newer link from the same site');
    const upAt = this.#clock.now();
    const link = new WsLink(ws, socket, intake, this.#clock, (reason, code) => {
      this.#roundTripMs = link.roundTripMs;
      this.#bytesSent += link.bytesSent;
      this.#bytesReceived += link.bytesReceived;
      this.#link = null;
      if (this.#clock.now() - upAt >= RECONNECT_MS_MAX) this.#attempts = 0;
      this.#known = reason;
      if (!this.#closed) this.#setState(isRefusal(code) ? 'refused' : 'away', reason);
      ended();
    });
    this.#link = link;
    this.#peerSite = peer.site;
    this.#connects += 1;
    this.#setState('up', '');
    const { shape } = this.#options;
    const shaped = shape && (shape.roundTripMs > 0 || shape.bytesPerSecond > 0);
    this.#options.onLink(shaped ? new ShapedLink(link, shape, this.#clock) : link, peer);
  }
}

function isRefusal(code: number): boolean {
  return code === CLOSE_AUTH || code === CLOSE_REFUSED;
}

function checkUrl(text: string): string {
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    throw new ForelockError('CONFIG', `peer ${JSON.stringify(text)} is not a URL such as ws://HOST:PORT`);
  }
  if ((url.protocol !== 'ws:' && url.protocol !== 'wss:') || url.hash !== '') {
    throw new ForelockError('CONFIG', `peer ${JSON.stringify(text)} is not a URL such as ws://HOST:PORT`);
  }
  return text;
}

/** An error of net or http for people: AggregateError (several addresses tried) has no message of its own. */
function describe(error: Error): string {
  if (error instanceof AggregateError && error.errors.length > 0) return describe(error.errors[0] as Error);
  return error.message || (error as NodeJS.ErrnoException).code || 'unknown error';
}
