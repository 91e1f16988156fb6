/** A gateway that only pretends: for the control API, the renderer and the command line. */
import type { ForelockError } from '../../src/errors.js';
import type {
  GatewayControl,
  GatewayStatus,
  GroupStatus,
  LockHold,
  LockRequest,
  VerifyOptions,
  VerifyReport,
} from '../../src/node/control.js';

export function groupStatus(change: Partial<GroupStatus> = {}): GroupStatus {
  return {
    name: 'main',
    id: '6a0b9d7e-1f4f-4a5e-9a52-0d5e5f2b9d11',
    role: 'primary',
    generation: '7f3a',
    siteNumber: 1,
    consistency: 'consistent',
    volumes: [
      {
        name: 'disk',
        size: 2 ** 30,
        blockSize: 4096,
        platter: 'journal',
        mappedBytes: 300 * 2 ** 20,
        imageError: null,
        journalError: null,
      },
    ],
    link: {
      state: 'streaming',
      reason: '',
      peerSite: 'b',
      url: 'ws://127.0.0.1:10900',
      epoch: 3,
      attempt: 1,
      connects: 3,
      roundTripMs: 50.3,
      bytesSent: 3 * 2 ** 30,
      bytesReceived: 12345,
    },
    cursors: {
      own: {
        appended: 1000,
        sealed: 1000,
        sent: 990,
        received: 0,
        granted: 0,
        applied: 0,
        durable: 950,
        peerDurable: 800,
        trimmed: 800,
      },
      peer: { received: 900, granted: 890, applied: 880, durable: 800 },
    },
    lag: { bytes: 5 * 2 ** 20, records: 120, ageMs: 51, firstCopy: null, fullCopyNeeded: false },
    ack: 'local',
    speculation: true,
    kernel: 'wasm',
    onReject: 'target-retry',
    rejection: null,
    dual: null,
    parted: null,
    degradedSince: null,
    journal: {
      failed: null,
      diskFull: false,
      noDescriptors: false,
      full: false,
      usedBytes: 2 ** 29,
      limitBytes: 2 ** 31,
      segments: 8,
      ringSize: 64 * 2 ** 20,
      checkpointPosition: 123,
      position: 456,
    },
    counters: { batchesSealedInline: 12, batchesSealedInPool: 3 },
    ...change,
  };
}

export class FakeGateway implements GatewayControl {
  readonly locks: (LockRequest & { released: boolean })[] = [];
  readonly errors: Error[] = [];
  failWith: ForelockError | Error | null = null;
  /** Locks are not granted before `grant`. */
  holdBack = false;
  #grant: (() => void)[] = [];
  #holds: LockHold[] = [];

  status(): GatewayStatus {
    return {
      schema: 1,
      version: '0.1.0',
      site: 'a',
      uptimeSeconds: 12,
      nbdUris: ['nbd://127.0.0.1:10809/disk'],
      groups: [groupStatus()],
    };
  }

  async verify(volume: string, options: VerifyOptions): Promise<VerifyReport> {
    if (this.failWith !== null) throw this.failWith;
    return {
      volume,
      equal: true,
      sequence: 1000,
      compared: options.maps ? 'stored checksums' : 'data',
      blocks: 262144,
      checksum: '0123456789abcdef',
      sites: ['a', 'b'],
      differences: [],
      unreadable: [],
    };
  }

  async lock(request: LockRequest): Promise<LockHold> {
    const record = { ...request, released: false };
    this.locks.push(record);
    if (this.holdBack) await new Promise<void>((resolve) => this.#grant.push(resolve));
    const hold: LockHold = {
      onLost: null,
      release: () => {
        record.released = true;
      },
    };
    this.#holds.push(hold);
    return hold;
  }

  grant(): void {
    for (const grant of this.#grant.splice(0)) grant();
  }

  lose(reason: string): void {
    for (const hold of this.#holds.splice(0)) hold.onLost?.(reason);
  }

  async close(): Promise<void> {}
}
