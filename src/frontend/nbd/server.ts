/**
 * The NBD server: listeners, connections, their caps, and the way down.
 *
 *     const server = new NbdServer({ catalog });
 *     const address = await server.listen({ host: '127.0.0.1', port: 10809 });
 *     console.log(formatNbdUri(address, 'vm1'));
 *     await server.close();
 */
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { availableParallelism } from 'node:os';
import { ForelockError, whyNotHeard } from '../../errors.js';
import { NBD_CONNECTIONS_MAX, NBD_HANDSHAKE_MS_MAX, NBD_PAYLOAD_MS_MAX, NBD_REQUESTS_MAX } from '../../limits.js';
import type { DeviceCatalog } from '../../volume/device.js';
import { Abandoned } from './abandoned.js';
import { formatAddress, type NbdAddress, removeStaleSocket } from './address.js';
import { BusyPoll } from './busy-poll.js';
import { NbdConnection, type NbdConnectionContext, type NbdTimers } from './connection.js';
import { NbdCounters } from './counters.js';
import { DRAIN_MS_MAX, READ_SIZE } from './limits.js';
import { Moderation, type ModerationClock } from './moderation.js';
import { ReadMemory } from './read-memory.js';

export interface NbdServerOptions {
  readonly catalog: DeviceCatalog;
  /** Default NBD_CONNECTIONS_MAX. */
  readonly connectionsMax?: number;
  /** In flight on one connection; default NBD_REQUESTS_MAX. */
  readonly requestsMax?: number;
  /** Default NBD_HANDSHAKE_MS_MAX. */
  readonly handshakeMsMax?: number;
  readonly timers?: NbdTimers;
}

const REAL_TIMERS: NbdTimers = {
  after(ms, run) {
    const timer = setTimeout(run, ms);
    return () => clearTimeout(timer);
  },
};

const never = new Int32Array(new SharedArrayBuffer(4));
const MODERATION_CLOCK: ModerationClock = {
  nowMs: () => performance.now(),
  defer: setImmediate,
  nap: () => {
    Atomics.wait(never, 0, 0, 0.001); // the system makes 0.02 to 0.07 ms of any time this short
  },
};

export class NbdServer {
  readonly counters = new NbdCounters();
  private readonly connectionsMax: number;
  private readonly context: NbdConnectionContext;
  private readonly listeners = new Map<Server, NbdAddress>();
  private readonly connections = new Set<NbdConnection>();
  /** Gone, with requests in flight: each has its place until they have settled. */
  private readonly unsettled = new Set<NbdConnection>();
  private cancelLook: (() => void) | null = null;
  private closing: Promise<void> | null = null;
  private allGone: (() => void) | null = null;

  constructor(options: NbdServerOptions) {
    this.connectionsMax = options.connectionsMax ?? NBD_CONNECTIONS_MAX;
    const busyPoll = new BusyPoll(availableParallelism(), () => performance.now(), setImmediate);
    this.context = {
      catalog: options.catalog,
      counters: this.counters,
      timers: options.timers ?? REAL_TIMERS,
      requestsMax: options.requestsMax ?? NBD_REQUESTS_MAX,
      handshakeMsMax: options.handshakeMsMax ?? NBD_HANDSHAKE_MS_MAX,
      readBuffer: new Uint8Array(READ_SIZE),
      readMemory: new ReadMemory(),
      busyPoll,
      moderation: new Moderation(MODERATION_CLOCK, () => busyPoll.isQuiet),
      abandoned: new Abandoned(),
      onClosed: (connection) => this.forget(connection),
      onSettled: (connection) => {
        this.unsettled.delete(connection);
      },
    };
    options.catalog.onRevoked(() => this.revoke());
  }

  /** Where it listens; TCP ports are the real ones. */
  addresses(): NbdAddress[] {
    return [...this.listeners.values()];
  }

  /**
   * May be called any number of times, for any number of addresses.
   *
   * @returns the address with its real port
   * @throws ForelockError CONFIG the address cannot be had; ESHUTDOWN the server is closing
   */
  async listen(address: NbdAddress): Promise<NbdAddress> {
    this.refuseIfClosing();
    if ('path' in address) await removeStaleSocket(address.path);
    this.refuseIfClosing();
    // half-open: a client that sent its last request still gets its replies
    const options = { allowHalfOpen: true, noDelay: true, keepAlive: true, pauseOnConnect: true };
    const listener = createServer(options, (socket) => this.accept(socket));
    await new Promise<void>((resolve, reject) => {
      listener.once('error', (cause) =>
        reject(
          new ForelockError(
            'CONFIG',
            `cannot listen on ${formatAddress(address)}: ${whyNotHeard(cause, 'path' in address ? '--nbd-unix' : '--nbd')}`,
            { cause },
          ),
        ),
      );
      listener.listen('path' in address ? { path: address.path } : { host: address.host, port: address.port }, resolve);
    });
    listener.removeAllListeners('error');
    listener.on('error', () => undefined); // a failed accept (EMFILE) concerns that client alone
    const bound = 'path' in address ? address : { host: address.host, port: (listener.address() as AddressInfo).port };
    this.listeners.set(listener, bound);
    if (this.closing !== null) await stopListening(listener);
    this.refuseIfClosing();
    return bound;
  }

  /** Stops accepting, lets requests in flight settle for at most DRAIN_MS_MAX, hangs up. Idempotent. */
  close(): Promise<void> {
    this.closing ??= this.shutDown();
    return this.closing;
  }

  private async shutDown(): Promise<void> {
    const stopped = [...this.listeners.keys()].map(stopListening);
    const gone = new Promise<void>((resolve) => {
      this.allGone = resolve;
    });
    const cancel = this.context.timers.after(DRAIN_MS_MAX, () => {
      for (const connection of this.connections) connection.destroy();
    });
    for (const connection of this.connections) connection.drain();
    if (this.connections.size > 0) await gone;
    cancel();
    await Promise.all(stopped);
    this.listeners.clear();
  }

  private refuseIfClosing(): void {
    if (this.closing !== null) throw new ForelockError('ESHUTDOWN', 'the NBD server is closing');
  }

  private accept(socket: Socket): void {
    if (this.connections.size + this.unsettled.size >= this.connectionsMax || this.closing !== null) {
      this.counters.connectionsRefused += 1;
      socket.destroy();
      return;
    }
    this.counters.connectionsAccepted += 1;
    this.connections.add(new NbdConnection(socket, this.context));
    this.counters.connectionsOpen = this.connections.size;
    if (this.cancelLook === null) this.lookForStallsLater();
  }

  /** One timer for all: to set one for each payload would cost more than to copy a small one. */
  private lookForStallsLater(): void {
    this.cancelLook = this.context.timers.after(NBD_PAYLOAD_MS_MAX, () => {
      for (const connection of this.connections) connection.lookForStall();
      this.lookForStallsLater();
    });
  }

  private forget(connection: NbdConnection): void {
    this.connections.delete(connection);
    this.unsettled.add(connection);
    this.counters.connectionsOpen = this.connections.size;
    if (this.connections.size > 0) return;
    this.cancelLook?.();
    this.cancelLook = null;
    this.allGone?.();
  }

  /** Roles changed: flags were fixed at GO, so the connections must go. */
  private revoke(): void {
    const revoked = [...this.connections];
    for (const connection of revoked) connection.revoke();
  }
}

function stopListening(listener: Server): Promise<void> {
  return new Promise((resolve) => {
    listener.close(() => resolve());
  });
}
