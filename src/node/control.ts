/**
 * The control API: what a running gateway tells and does for its operator. JSON over HTTP, on the unix socket
 * `admin.sock` of the state directory and, with --admin, on a loopback address. Server and client.
 *
 *     GET    /livez           200 "ok": the process answers
 *     GET    /v1/status       200 GatewayStatus
 *     POST   /v1/verify       { volume, maps?, group? }                                -> 200 VerifyReport; to who accepts
 *                             application/x-ndjson a line { progress: VerifyProgress } now and then, and at the end
 *                             { report: VerifyReport } or { error: … } if there was any
 *     POST   /v1/lock         { volume, offset, size, mode, holdSeconds?, waitSeconds? } -> 200, a line of JSON when
 *                             the lock is had: { id }, and another when it is gone: { released: reason, lost }.
 *                             It is held for holdSeconds, or until the request is closed, whichever is first
 *     DELETE /v1/lock/ID      204: releases it earlier
 *
 * An error is { error: { code, message } } with a code of src/errors.ts. There is no authentication: the socket has
 * mode 0600, an address must be loopback, and what could come from a web page is refused (a request with an Origin, a
 * Host that is not loopback, a body that is not declared as JSON).
 */
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { chmodSync, existsSync, lstatSync, readdirSync, unlinkSync } from 'node:fs';
import { createServer, type IncomingMessage, request, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { ERROR_CODES, type ErrorCode, ForelockError, whyNotHeard } from '../errors.js';
import { lockHolder } from '../journal/disk-store.js';
import {
  CONTROL_ANSWER_MAX,
  CONTROL_BODY_MAX,
  CONTROL_LOCKS_MAX,
  HOLD_SECONDS_MAX,
  LOCK_WAIT_MS_MAX,
  STATUS_MS_MAX,
} from '../limits.js';
import { isLoopback } from '../link/endpoint.js';
import type { RejectPolicy } from '../mirror/wire.js';
import type { VerifyProgress, VerifyReport } from '../volume/verify.js';
import { checkSocketPath, type HostPort } from './config.js';

export type { VerifyProgress, VerifyReport };

/** At most so often a verify tells how far it is. */
const PROGRESS_MS = 200;
/** So long after an answer who waits for another looks whether there would be any. */
const ALIVE_MS = 1000;

export const STATUS_SCHEMA = 1;
export const ADMIN_SOCKET = 'admin.sock';

/** Sequences of this site's stream: its way here, and at the peer as far as it told (received to applied, peerDurable). */
export interface OwnCursors {
  appended: number;
  sealed: number;
  sent: number;
  received: number;
  granted: number;
  applied: number;
  durable: number;
  peerDurable: number;
  trimmed: number;
}

/** Sequences of the peer's stream, here. All 0 at a source. */
export interface PeerCursors {
  received: number;
  granted: number;
  applied: number;
  durable: number;
}

export type LinkState = 'away' | 'handshaking' | 'returning the tail' | 'base copy' | 'streaming' | 'refused';

export interface LinkStatus {
  state: LinkState;
  /** Why it is not streaming, or ''. */
  reason: string;
  peerSite: string | null;
  /** null: the group has no peer configured. */
  url: string | null;
  epoch: number;
  attempt: number;
  connects: number;
  roundTripMs: number;
  bytesSent: number;
  bytesReceived: number;
}

export interface VolumeStatus {
  name: string;
  size: number;
  blockSize: number;
  platter: 'journal' | 'flat';
  mappedBytes: number;
  /** Flat: why its image lacks what the journal keeps for it; null: nothing is known to be wrong with it. */
  imageError: string | null;
  /** Flat: why its image lacks blocks that cannot be read from the journal; null: nothing is known to be wrong with it. */
  journalError: string | null;
}

export interface DualStatus {
  /** waiting: for the other site, since this one was started. frozen: the link was lost. alone: under --when-split prefer. */
  state: 'serving' | 'waiting' | 'frozen' | 'alone';
  /** How long it has waited or been frozen; 0 otherwise. */
  frozenMs: number;
  /** freeze, prefer:SITE, or only:SITE. */
  whenSplit: string;
  /** The two sites have met with it. */
  whenSplitAgreed: boolean;
  /** How far this site's image is behind the other's stream. */
  behind: { records: number; ageMs: number | null };
  /** Since the start: scopes of the other site that met own ones; scopes lost, own ones, those that went with them, the other's. */
  conflicts: { met: number; aborted: number; cascaded: number; abortedPeer: number };
}

/** Never negative. */
export interface LagStatus {
  /** Of journal; null: not known, as at a standby. */
  bytes: number | null;
  records: number;
  /**
   * At a source: the age of the oldest write that the target's image lacks. At a standby: how long ago its image had all that
   * the source had told of, which without a link is all that it knows. null: not known.
   */
  ageMs: number | null;
  /** While it is not whole: bytes of the volumes' addresses that the target has, and all of them. The image is none so far. */
  firstCopy: { doneBytes: number; totalBytes: number } | null;
  /** At a source: what the peer lacks is not kept for it, or it never had anything. It needs a first copy. */
  fullCopyNeeded: boolean;
}

export interface GroupStatus {
  name: string;
  id: string;
  role: 'primary' | 'standby' | 'dual';
  /** Name of the newest generation. */
  generation: string;
  siteNumber: number;
  consistency: 'consistent' | 'inconsistent';
  volumes: VolumeStatus[];
  link: LinkStatus;
  cursors: { own: OwnCursors; peer: PeerCursors };
  /** How far the target's image is behind; null where no peer is configured, and at a standby that was never adopted. */
  lag: LagStatus | null;
  ack: 'local' | 'received' | 'applied';
  speculation: boolean;
  kernel: 'wasm' | 'reference' | 'compare';
  onReject: RejectPolicy;
  /** The record that waits for its lock at the target, and what that means for the stream; null when none does. */
  rejection: { sequence: number; state: 'waiting' | 'halted' | 'rewound'; ageMs: number } | null;
  /** Where both sites write; null elsewhere. */
  dual: DualStatus | null;
  /** Of a primary whose peer went on without it: what that means for its hosts, or null. */
  parted: string | null;
  /** Sequence since which answers were given alone, or null. */
  degradedSince: number | null;
  journal: {
    /** Why the disk takes nothing more until the next start; null while it does. */
    failed: string | null;
    /** The disk has no room, or had none a moment ago: what needs some fails with ENOSPC, or (standby) is not taken. */
    diskFull: boolean;
    /** The process may open no more files: the same follows. */
    noDescriptors: boolean;
    /** The same of the journal's own limit. */
    full: boolean;
    usedBytes: number;
    limitBytes: number;
    segments: number;
    ringSize: number;
    checkpointPosition: number;
    position: number;
  };
  counters: Record<string, number>;
}

export interface GatewayStatus {
  schema: typeof STATUS_SCHEMA;
  version: string;
  site: string;
  uptimeSeconds: number;
  /** One per volume and listener, ready for any NBD tool. */
  nbdUris: string[];
  groups: GroupStatus[];
}

export interface LockRequest {
  volume: string;
  /** Bytes, multiples of the volume's block size. */
  offset: number;
  size: number;
  mode: 'read' | 'write';
  /** null: until the request is closed. */
  holdSeconds: number | null;
  /** Longest wait for the lock, up to LOCK_WAIT_MS_MAX; null: that. */
  waitSeconds: number | null;
}

/** A lock that is had. */
export interface LockHold {
  /** Idempotent. */
  release(): void;
  /** Called once if the lock is taken away (a lease ended, the gateway stops). */
  onLost: ((reason: string) => void) | null;
}

export interface VerifyOptions {
  maps: boolean;
  group?: string | undefined;
  onProgress?: ((progress: VerifyProgress) => void) | undefined;
}

/** What the shell asks of a running gateway. */
export interface GatewayControl {
  status(): GatewayStatus;
  /** @throws ForelockError EINVAL no such volume; AWAY the peer is; PEER_TIMEOUT it does not get on */
  verify(volume: string, options: VerifyOptions): Promise<VerifyReport>;
  /** @throws ForelockError EINVAL; ETIMEDOUT not had in time */
  lock(request: LockRequest): Promise<LockHold>;
  /** Drains, flushes, and marks the state as cleanly stopped. */
  close(): Promise<void>;
}

const NAME_MAX = 64;
const NDJSON = 'application/x-ndjson';
const verifyBody = z.strictObject({
  volume: z.string().min(1).max(NAME_MAX),
  maps: z.boolean().default(false),
  group: z.string().min(1).max(NAME_MAX).exactOptional(),
});
const bytes = z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER);
const lockBody = z.strictObject({
  volume: z.string().min(1).max(NAME_MAX),
  offset: bytes,
  size: bytes.min(1),
  mode: z.enum(['read', 'write']),
  holdSeconds: z.number().positive().max(HOLD_SECONDS_MAX).nullable().default(null),
  waitSeconds: z
    .number()
    .nonnegative()
    .max(LOCK_WAIT_MS_MAX / 1000)
    .nullable()
    .default(null),
});

const HTTP_STATUS: Partial<Record<ErrorCode, number>> = {
  EINVAL: 400,
  USAGE: 400,
  EPERM: 403,
  ETIMEDOUT: 409,
  ENOTSUP: 501,
  ESHUTDOWN: 503,
  AWAY: 503,
  PEER_AWAY: 503,
  PEER_TIMEOUT: 503,
};

// ---- server

export interface ControlServerOptions {
  control: Pick<GatewayControl, 'status' | 'verify' | 'lock'>;
  /** Path of the unix socket, or null. */
  socket: string | null;
  /** A loopback address, or null. */
  admin: HostPort | null;
  /** An unexpected error, which is a bug: to be logged. */
  onError?: ((error: Error) => void) | undefined;
}

export class ControlServer {
  readonly #options: ControlServerOptions;
  readonly #servers: Server[] = [];
  readonly #locks = new Map<string, (reason: string, lost: boolean) => void>();
  #locksAsked = 0;
  /** `http://HOST:PORT` if it listens there. */
  url: string | null = null;

  /** @throws ForelockError CONFIG if it cannot or may not listen; STATE_LOCKED if a live gateway has the socket */
  static async open(options: ControlServerOptions): Promise<ControlServer> {
    const server = new ControlServer(options);
    try {
      if (options.socket !== null) await server.#listenUnix(options.socket);
      if (options.admin !== null) await server.#listenTcp(options.admin);
    } catch (error) {
      await server.close();
      throw error;
    }
    return server;
  }

  private constructor(options: ControlServerOptions) {
    this.#options = options;
  }

  /** Releases every lock held over the API, ends every connection, and removes the socket. */
  async close(): Promise<void> {
    for (const release of [...this.#locks.values()]) release('the gateway is stopping', true);
    await Promise.all(
      this.#servers.splice(0).map(
        (server) =>
          new Promise<void>((resolve) => {
            server.close(() => resolve());
            server.closeIdleConnections();
            setImmediate(() => server.closeAllConnections()); // after last lines were written
          }),
      ),
    );
  }

  async #listenUnix(path: string): Promise<void> {
    checkSocketPath(path, 'control API', (message) => {
      throw new ForelockError('CONFIG', `${message}: use a shorter --state`);
    });
    await removeStaleSocket(path);
    await this.#listen({ path }, path);
    chmodSync(path, 0o600);
  }

  async #listenTcp({ host, port }: HostPort): Promise<void> {
    if (!isLoopback(host)) {
      throw new ForelockError(
        'CONFIG',
        `the control API has no authentication and listens on loopback only, not on ${host}`,
      );
    }
    const server = await this.#listen({ host, port }, `${host}:${port}`);
    const address = server.address() as AddressInfo;
    const shown = address.address.includes(':') ? `[${address.address}]` : address.address;
    this.url = `http://${shown}:${address.port}`;
  }

  #listen(where: { path: string } | HostPort, shown: string): Promise<Server> {
    const server = createServer((request, response) => {
      this.#handle(request, response).catch((error: unknown) => this.#fail(response, error));
    });
    server.maxConnections = CONTROL_LOCKS_MAX + 64;
    return new Promise((resolve, reject) => {
      server.once('error', (error) => {
        const why = 'path' in where ? error.message : whyNotHeard(error, '--admin');
        reject(new ForelockError('CONFIG', `the control API cannot listen on ${shown}: ${why}`));
      });
      server.listen(where, () => {
        this.#servers.push(server);
        resolve(server);
      });
    });
  }

  async #handle(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const { control } = this.#options;
    const path = (incoming.url ?? '/').split('?')[0]!;
    const method = incoming.method === 'HEAD' ? 'GET' : incoming.method;
    const origin = incoming.headers.origin;
    const host = incoming.headers.host ?? 'localhost';
    if (origin !== undefined || !isLoopback(host.replace(/:\d+$/, ''))) {
      return sendError(response, 403, 'EPERM', 'the control API is not for web pages');
    }
    if (path === '/livez' && method === 'GET') {
      response.writeHead(200, { 'content-type': 'text/plain' }).end('ok\n');
    } else if (path === '/v1/status' && method === 'GET') {
      sendJson(response, 200, control.status());
    } else if (path === '/v1/verify' && method === 'POST') {
      const lines = /\bapplication\/x-ndjson\b/.test(incoming.headers.accept ?? '');
      await this.#verify(await readBody(incoming, verifyBody), response, lines);
    } else if (path === '/v1/lock' && method === 'POST') {
      await this.#lock(await readBody(incoming, lockBody), response);
    } else if (path.startsWith('/v1/lock/') && method === 'DELETE') {
      const release = this.#locks.get(path.slice('/v1/lock/'.length));
      if (release === undefined) return sendError(response, 404, 'EINVAL', 'no such lock is held');
      release('released', false);
      response.writeHead(204).end();
    } else {
      const isKnown = /^\/(livez|v1\/(status|verify|lock(\/.*)?))$/.test(path);
      sendError(
        response,
        isKnown ? 405 : 404,
        'EINVAL',
        `there is no ${method} ${path}; see GET /v1/status, POST /v1/verify, POST /v1/lock`,
      );
    }
  }

  async #verify({ volume, maps, group }: z.infer<typeof verifyBody>, response: ServerResponse, lines: boolean) {
    const { control } = this.#options;
    if (!lines) return sendJson(response, 200, await control.verify(volume, { maps, group }));
    const say = (line: object): void => {
      if (!response.headersSent) response.writeHead(200, { 'content-type': NDJSON });
      response.write(`${JSON.stringify(line)}\n`);
    };
    let toldAt = Number.NEGATIVE_INFINITY;
    const onProgress = (progress: VerifyProgress): void => {
      if (performance.now() - toldAt < PROGRESS_MS) return;
      toldAt = performance.now();
      say({ progress });
    };
    try {
      say({ report: await control.verify(volume, { maps, group, onProgress }) });
    } catch (error) {
      if (!response.headersSent || !(error instanceof ForelockError)) throw error;
      say({ error: { code: error.code, message: error.message } });
    }
    response.end();
  }

  async #lock(body: z.infer<typeof lockBody>, response: ServerResponse): Promise<void> {
    if (this.#locksAsked >= CONTROL_LOCKS_MAX) {
      return sendError(
        response,
        503,
        'ETIMEDOUT',
        `${CONTROL_LOCKS_MAX} locks are held or asked for over the control API already`,
      );
    }
    this.#locksAsked += 1;
    let hold: LockHold;
    try {
      hold = await this.#options.control.lock(body);
    } finally {
      this.#locksAsked -= 1;
    }
    if (response.destroyed) return hold.release(); // the asker left while it waited
    this.#locksAsked += 1;
    const id = randomUUID();
    const end = (reason: string, lost: boolean) => {
      if (!this.#locks.delete(id)) return;
      this.#locksAsked -= 1;
      clearTimeout(timer);
      hold.onLost = null;
      hold.release();
      response.end(`${JSON.stringify({ released: reason, lost })}\n`);
    };
    const { holdSeconds } = body;
    const timer =
      holdSeconds === null ? undefined : setTimeout(() => end(`held for ${holdSeconds} s`, false), holdSeconds * 1000);
    this.#locks.set(id, end);
    hold.onLost = (reason) => end(reason, true);
    response.on('close', () => end('the request was closed', false));
    response.writeHead(200, { 'content-type': NDJSON });
    response.write(`${JSON.stringify({ id })}\n`);
  }

  #fail(response: ServerResponse, error: unknown): void {
    if (error instanceof HttpError) {
      sendError(response, error.status, 'EINVAL', error.message);
    } else if (error instanceof ForelockError) {
      sendError(response, HTTP_STATUS[error.code] ?? 500, error.code, error.message);
    } else {
      this.#options.onError?.(error as Error);
      sendError(response, 500, 'EIO', `unexpected: ${(error as Error).message}`);
    }
  }
}

class HttpError extends Error {
  readonly status: number;
  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

function sendJson(response: ServerResponse, status: number, value: unknown): void {
  const body = `${JSON.stringify(value)}\n`;
  response
    .writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) })
    .end(body);
}

function sendError(response: ServerResponse, status: number, code: ErrorCode, message: string): void {
  if (response.headersSent || response.destroyed) {
    response.destroy();
    return;
  }
  // what was not read of the request is not worth reading
  if (status === 413 || status === 403) response.setHeader('connection', 'close');
  sendJson(response, status, { error: { code, message } });
}

async function readBody<T>(incoming: IncomingMessage, schema: z.ZodType<T>): Promise<T> {
  if (!/^application\/json\b/.test(incoming.headers['content-type'] ?? '')) {
    throw new HttpError(415, 'the body must be declared as content-type: application/json');
  }
  const body = await collect(incoming);
  let value: unknown;
  try {
    value = JSON.parse(body);
  } catch (error) {
    throw new HttpError(400, `the body is not JSON: ${(error as Error).message}`);
  }
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map(
    (issue) => `${issue.path.map(String).join('.') || 'body'}: ${issue.message}`,
  );
  throw new HttpError(400, problems.join('; '));
}

/** The whole body. Not `for await`: leaving that early would end the connection before the answer. */
function collect(incoming: IncomingMessage): Promise<string> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let size = 0;
    incoming.on('data', (chunk: Buffer) => {
      size += chunk.length;
      if (size <= CONTROL_BODY_MAX) chunks.push(chunk);
      else reject(new HttpError(413, `the body is larger than ${CONTROL_BODY_MAX} bytes`));
    });
    incoming.on('end', () => resolve(Buffer.concat(chunks).toString()));
    incoming.on('error', () => reject(new HttpError(400, 'the request was cut'))); // the asker's affair
  });
}

/** A crashed gateway leaves its socket behind; a live one answers on it. */
async function removeStaleSocket(path: string): Promise<void> {
  if (!existsSync(path)) return;
  if (!lstatSync(path).isSocket())
    throw new ForelockError('CONFIG', `${path} exists and is not a socket: move it away`);
  const isLive = await new Promise<boolean>((resolve) => {
    const probe = connect(path);
    probe.on('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.on('error', (error: NodeJS.ErrnoException) =>
      resolve(error.code !== 'ECONNREFUSED' && error.code !== 'ENOENT'),
    );
  });
  if (isLive) throw new ForelockError('STATE_LOCKED', `a gateway answers on ${path}: it uses this state directory`);
  unlinkSync(path);
}

// ---- client

/** Where a gateway's control API is: the socket of its state directory, or http://HOST:PORT. */
export type ControlAddress = { state: string } | { admin: string };

export interface HeldLock {
  id: string;
  /** Resolves when the lock is gone: released, or lost. Rejects, AWAY, if its time is over and the gateway stands still. */
  ended: Promise<{ released: string; lost: boolean }>;
  /** Closes the request, and with it the lock. */
  release(): void;
}

interface RequestExtras {
  body?: unknown;
  accept?: string;
  signal?: AbortSignal;
}

/** The client side; every method throws ForelockError, AWAY if no gateway answers. */
export class ControlClient {
  readonly #where: { socketPath: string } | { host: string; port: number };
  readonly #shown: string;
  readonly #state: string | null;

  /** @throws ForelockError USAGE if the URL is none */
  constructor(address: ControlAddress) {
    this.#state = 'state' in address ? address.state : null;
    if ('state' in address) {
      this.#where = { socketPath: join(address.state, ADMIN_SOCKET) };
      this.#shown = `state directory ${address.state}`;
      return;
    }
    const url = URL.canParse(address.admin) ? new URL(address.admin) : null;
    if (url === null || url.protocol !== 'http:' || url.pathname !== '/') {
      throw new ForelockError(
        'USAGE',
        `--admin ${JSON.stringify(address.admin)} is not a URL such as http://127.0.0.1:8080`,
      );
    }
    this.#where = { host: url.hostname.replace(/^\[|\]$/g, ''), port: Number(url.port || 80) };
    this.#shown = address.admin;
  }

  /** @param signal ends the wait; the error is then AWAY as well */
  async status(signal?: AbortSignal): Promise<GatewayStatus> {
    const text = await this.#atOnce('/v1/status', signal);
    if (text === null) throw this.#standsStill();
    const status = await this.#heard(async () => JSON.parse(text) as GatewayStatus | null);
    if (status?.schema !== STATUS_SCHEMA) {
      throw new ForelockError(
        'ENOTSUP',
        `the gateway speaks status schema ${status?.schema}, this command ${STATUS_SCHEMA}: use its version`,
      );
    }
    return status;
  }

  verify(volume: string, { onProgress, ...options }: VerifyOptions): Promise<VerifyReport> {
    const body = { volume, ...options };
    return this.#whileAnswering(async (signal) => {
      const response = await this.#request('POST', '/v1/verify', { body, accept: NDJSON, signal });
      return this.#heard(async () => {
        if (response.headers['content-type'] !== NDJSON) return this.#reportOf(JSON.parse(await textOf(response)));
        for await (const text of linesOf(response)) {
          const line = JSON.parse(text) as {
            progress?: VerifyProgress;
            report?: unknown;
            error?: { code: ErrorCode; message: string };
          };
          if (line.error !== undefined) throw new ForelockError(line.error.code, line.error.message);
          if (line.report !== undefined) return this.#reportOf(line.report);
          if (line.progress !== undefined) onProgress?.(line.progress);
        }
        throw this.#away('the connection ended');
      });
    });
  }

  /** Resolves when the lock is had. */
  async lock(body: LockRequest): Promise<HeldLock> {
    const { id, response, lines } = await this.#whileAnswering(async (signal) => {
      const response = await this.#request('POST', '/v1/lock', { body, signal });
      const lines = linesOf(response);
      const id = await this.#heard(async () => {
        const first = await lines.next();
        if (first.done === true) throw this.#away('the connection ended');
        const lock = JSON.parse(first.value) as { id?: string } | null;
        if (typeof lock?.id !== 'string') throw this.#noGateway('no lock');
        return lock.id;
      });
      return { id, response, lines };
    });
    const told = (async () => {
      try {
        const last = await lines.next();
        if (last.done !== true) return JSON.parse(last.value) as { released: string; lost: boolean };
      } catch {
        // told below: whatever cut the connection, the lock is gone
      }
      return { released: 'the connection to the gateway ended', lost: true };
    })();
    const release = (): void => void response.destroy();
    return { id, ended: this.#inTime(told, body.holdSeconds).finally(release), release };
  }

  /** What the gateway tells by itself after `seconds`, if it still answers then. @param seconds null: at any time */
  async #inTime<T>(told: Promise<T>, seconds: number | null): Promise<T> {
    if (seconds === null) return told;
    const wait = new AbortController();
    const time = sleep(seconds * 1000, undefined, { signal: wait.signal }).catch(() => {});
    await Promise.race([told, time]).finally(() => wait.abort());
    return this.#whileAnswering((signal) => Promise.race([told, once(signal, 'abort') as Promise<never>]));
  }

  /** The text at `path`, which a gateway has in memory; null: in the time that this may take there was none. */
  async #atOnce(path: string, signal?: AbortSignal): Promise<string | null> {
    const ends = new AbortController();
    const end = (): void => ends.abort();
    let isLate = false;
    const timer = setTimeout(() => {
      isLate = true;
      end();
    }, STATUS_MS_MAX);
    signal?.addEventListener('abort', end);
    try {
      const response = await this.#request('GET', path, { signal: ends.signal });
      return await this.#heard(() => textOf(response));
    } catch (error) {
      if (isLate) return null;
      throw error;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', end);
    }
  }

  /**
   * What may take long, for as long as the gateway answers anything: of one that stands still it would never come.
   * @throws ForelockError AWAY it does not, whatever `work` makes of its signal; and what `work` throws
   */
  async #whileAnswering<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const cut = new AbortController();
    const over = new AbortController();
    const watch = async (): Promise<void> => {
      while (!over.signal.aborted) {
        // a refusal is an answer: `work` gets it, too
        const answer = await this.#atOnce('/livez', over.signal).catch(() => '');
        if (answer === null && !over.signal.aborted) cut.abort();
        await sleep(ALIVE_MS, undefined, { signal: over.signal }).catch(() => {});
      }
    };
    void watch();
    try {
      const done = await work(cut.signal);
      if (!cut.signal.aborted) return done;
    } catch (error) {
      if (!cut.signal.aborted) throw error;
    } finally {
      over.abort();
    }
    throw this.#standsStill();
  }

  /** Reads an answer. One that is cut, or that no gateway gives, is none: its error would say no where nobody knows. */
  async #heard<T>(read: () => Promise<T>): Promise<T> {
    try {
      return await read();
    } catch (error) {
      if (error instanceof ForelockError) throw error;
      throw error instanceof SyntaxError ? this.#noGateway('no JSON') : this.#away((error as Error).message);
    }
  }

  async #request(method: string, path: string, { body, accept, signal }: RequestExtras): Promise<IncomingMessage> {
    const text = body === undefined ? '' : JSON.stringify(body);
    const headers: Record<string, string | number> = { 'content-length': Buffer.byteLength(text) };
    if (text !== '') headers['content-type'] = 'application/json';
    if (accept !== undefined) headers.accept = accept;
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      const outgoing = request({ ...this.#where, method, path, headers, signal, agent: false }, resolve);
      outgoing.on('error', (error: NodeJS.ErrnoException) => reject(this.#away(error.code ?? error.message)));
      outgoing.end(text);
    });
    if (response.statusCode === 200) return response;
    let answer: { error?: { code?: string; message?: string } } = {};
    try {
      answer = JSON.parse(await textOf(response)) as typeof answer;
    } catch {
      // not one of ours
    }
    const { code, message } = answer.error ?? {};
    if (message === undefined || code === undefined || !(code in ERROR_CODES)) {
      throw this.#noGateway(`HTTP ${response.statusCode}`);
    }
    throw new ForelockError(code as ErrorCode, message);
  }

  #reportOf(value: unknown): VerifyReport {
    const report = value as VerifyReport | null;
    if (typeof report?.equal !== 'boolean') throw this.#noGateway('no report');
    return report;
  }

  #standsStill(): ForelockError {
    return this.#away(`not for ${STATUS_MS_MAX / 1000} s: does its process hang?`);
  }

  #noGateway(detail: string): ForelockError {
    return new ForelockError('AWAY', `what answers at ${this.#shown} is not a forelock gateway (${detail})`);
  }

  #away(detail: string): ForelockError {
    const holder = this.#state === null ? null : holderOf(this.#state);
    const isShut = detail === 'EACCES' || detail === 'EPERM';
    const next = isShut
      ? 'this user may not reach it: ask as the one whom it runs as'
      : holder !== null
        ? `process ${holder} has it, and is starting, stopping, or stands still`
        : this.#state !== null
          ? 'start it with: forelock serve --state DIR …'
          : 'is it running, with --admin?';
    const why = detail === 'ENOENT' || detail === 'ECONNREFUSED' ? '' : ` (${detail})`;
    return new ForelockError('AWAY', `no gateway answers for ${this.#shown}${why}; ${next}`);
  }
}

/** The process that has a group of a state directory, or null. */
function holderOf(state: string): number | null {
  try {
    for (const entry of readdirSync(state, { withFileTypes: true })) {
      const holder = entry.isDirectory() ? lockHolder(join(state, entry.name)) : null;
      if (holder !== null) return holder;
    }
  } catch {
    // there is no such directory, or it may not be read: then it is not known
  }
  return null;
}

async function textOf(response: IncomingMessage): Promise<string> {
  let text = '';
  response.setEncoding('utf8');
  for await (const chunk of response) {
    text += chunk as string;
    if (text.length > CONTROL_ANSWER_MAX)
      throw new ForelockError('AWAY', 'an endless answer: that is not a forelock gateway');
  }
  return text;
}

async function* linesOf(response: IncomingMessage): AsyncGenerator<string, undefined> {
  let text = '';
  response.setEncoding('utf8');
  for await (const chunk of response) {
    text += chunk as string;
    for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
      yield text.slice(0, end);
      text = text.slice(end + 1);
    }
    if (text.length > CONTROL_ANSWER_MAX) return undefined;
  }
  return undefined;
}
