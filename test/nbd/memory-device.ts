/** A volume in memory: what the front end's tests and measurements run against. Settles at the end of the turn, in order. */
import { assert } from '../../src/assert.js';
import { ForelockError } from '../../src/errors.js';
import type { BlockDevice, Completion, DeviceCatalog, DeviceExtent, ReadCompletion } from '../../src/volume/device.js';

export interface MemoryDeviceOptions {
  name?: string;
  size?: number;
  blockSize?: number;
  description?: string;
  readOnly?: boolean;
  contentRefused?: boolean;
  multiConnection?: boolean;
}

export class MemoryDevice implements BlockDevice {
  readonly name: string;
  readonly size: number;
  readonly blockSize: number;
  readonly description: string;
  readonly readOnly: boolean;
  readonly contentRefused: boolean;
  readonly multiConnection: boolean;
  readonly bytes: Buffer;
  /** Content that a flush or FUA has covered: what a crash leaves. Kept only once `keepDurable` was called. */
  durable: Buffer | null = null;
  closeCount = 0;
  inFlight = 0;
  /** In the order they arrived: `write 4096+512 fua`. Kept only once `keepLog` was called. */
  log: string[] | null = null;
  /** 1 for each block that was written since it was last trimmed or zeroed. */
  private readonly allocated: Uint8Array;
  private waiting: { completion: Completion | null; reading: ReadCompletion | null; data: Uint8Array | null }[] = [];
  private readonly drain = (): void => this.settleWaiting();

  constructor(options: MemoryDeviceOptions = {}) {
    this.name = options.name ?? 'disk';
    this.size = options.size ?? 1 << 20;
    this.blockSize = options.blockSize ?? 4096;
    this.description = options.description ?? 'a volume in memory';
    this.readOnly = options.readOnly ?? options.contentRefused ?? false;
    this.contentRefused = options.contentRefused ?? false;
    this.multiConnection = options.multiConnection ?? true;
    this.bytes = Buffer.alloc(this.size);
    this.allocated = new Uint8Array(this.size / this.blockSize);
  }

  keepLog(): string[] {
    this.log = [];
    return this.log;
  }
  keepDurable(): Buffer {
    this.durable = Buffer.from(this.bytes);
    return this.durable;
  }

  read(offset: number, size: number, completion: ReadCompletion): void {
    this.log?.push(`read ${offset}+${size}`);
    this.check(offset, size);
    const data = completion.buffer?.(size) ?? new Uint8Array(size);
    data.set(this.bytes.subarray(offset, offset + size));
    this.wait(null, completion, data);
  }

  write(offset: number, size: number, payload: readonly Uint8Array[], fua: boolean, completion: Completion): void {
    this.log?.push(`write ${offset}+${size}${fua ? ' fua' : ''}`);
    this.check(offset, size);
    let at = offset;
    for (const piece of payload) {
      this.bytes.set(piece, at);
      at += piece.length;
    }
    assert(at === offset + size, 'payload pieces do not add up');
    this.mark(offset, size, 1);
    if (fua) this.persist(offset, size);
    this.wait(completion, null, null);
  }

  flush(completion: Completion): void {
    this.log?.push('flush');
    this.persist(0, this.size);
    this.wait(completion, null, null);
  }

  trim(offset: number, size: number, fua: boolean, completion: Completion): void {
    this.log?.push(`trim ${offset}+${size}${fua ? ' fua' : ''}`);
    this.clear(offset, size, fua, completion);
  }

  zero(offset: number, size: number, fua: boolean, completion: Completion): void {
    this.log?.push(`zero ${offset}+${size}${fua ? ' fua' : ''}`);
    this.clear(offset, size, fua, completion);
  }

  extents(offset: number, size: number, count: number): DeviceExtent[] {
    this.check(offset, size);
    const extents: DeviceExtent[] = [];
    const end = offset + size;
    let at = offset;
    while (at < end && extents.length < count) {
      const hole = this.allocated[Math.floor(at / this.blockSize)] === 0;
      let next = at;
      while (next < end && (this.allocated[Math.floor(next / this.blockSize)] === 0) === hole) {
        next = (Math.floor(next / this.blockSize) + 1) * this.blockSize;
      }
      next = Math.min(next, end);
      extents.push({ size: next - at, hole });
      at = next;
    }
    return extents;
  }

  close(): void {
    assert(this.inFlight === 0, 'closed with requests in flight');
    this.closeCount += 1;
  }

  private clear(offset: number, size: number, fua: boolean, completion: Completion): void {
    this.check(offset, size);
    this.bytes.fill(0, offset, offset + size);
    const first = Math.ceil(offset / this.blockSize) * this.blockSize;
    const last = Math.floor((offset + size) / this.blockSize) * this.blockSize;
    if (last > first) this.mark(first, last - first, 0);
    if (fua) this.persist(offset, size);
    this.wait(completion, null, null);
  }

  private mark(offset: number, size: number, value: number): void {
    this.allocated.fill(value, Math.floor(offset / this.blockSize), Math.ceil((offset + size) / this.blockSize));
  }

  private persist(offset: number, size: number): void {
    this.durable?.set(this.bytes.subarray(offset, offset + size), offset);
  }

  private check(offset: number, size: number): void {
    assert(size > 0 && offset >= 0 && offset + size <= this.size, 'the front end lets nothing out of bounds pass');
    assert(!this.contentRefused, 'the front end refuses content of a standby');
  }

  private wait(completion: Completion | null, reading: ReadCompletion | null, data: Uint8Array | null): void {
    this.inFlight += 1;
    if (this.waiting.push({ completion, reading, data }) === 1) process.nextTick(this.drain);
  }

  private settleWaiting(): void {
    const waiting = this.waiting;
    this.waiting = [];
    for (const { completion, reading, data } of waiting) {
      this.inFlight -= 1;
      completion?.settle(null);
      reading?.settleRead(null, [data!]);
    }
  }
}

/** A layer that decides when and how requests settle: they queue up until `release`, or fail with `error`. */
export class FaultyDevice implements BlockDevice {
  readonly inner: BlockDevice;
  /** Requests are held until `release`. */
  holding = false;
  /** Given to every request instead of passing it on. */
  error: ForelockError | null = null;
  closeCount = 0;
  private held: (() => void)[] = [];

  constructor(inner: BlockDevice) {
    this.inner = inner;
  }
  get name(): string {
    return this.inner.name;
  }
  get size(): number {
    return this.inner.size;
  }
  get blockSize(): number {
    return this.inner.blockSize;
  }
  get description(): string {
    return this.inner.description;
  }
  get readOnly(): boolean {
    return this.inner.readOnly;
  }
  get contentRefused(): boolean {
    return this.inner.contentRefused;
  }
  get multiConnection(): boolean {
    return this.inner.multiConnection;
  }
  get heldCount(): number {
    return this.held.length;
  }

  /** Passes on what was held, the first `count` requests. */
  release(count = this.held.length): void {
    for (const pass of this.held.splice(0, count)) pass();
  }

  read(offset: number, size: number, completion: ReadCompletion): void {
    this.pass(
      () => this.inner.read(offset, size, completion),
      (error) => completion.settleRead(error, []),
    );
  }
  write(offset: number, size: number, payload: readonly Uint8Array[], fua: boolean, completion: Completion): void {
    const kept = [Buffer.concat(payload)]; // it was lent for the call
    this.pass(
      () => this.inner.write(offset, size, kept, fua, completion),
      (error) => completion.settle(error),
    );
  }
  flush(completion: Completion): void {
    this.pass(
      () => this.inner.flush(completion),
      (error) => completion.settle(error),
    );
  }
  trim(offset: number, size: number, fua: boolean, completion: Completion): void {
    this.pass(
      () => this.inner.trim(offset, size, fua, completion),
      (error) => completion.settle(error),
    );
  }
  zero(offset: number, size: number, fua: boolean, completion: Completion): void {
    this.pass(
      () => this.inner.zero(offset, size, fua, completion),
      (error) => completion.settle(error),
    );
  }
  extents(offset: number, size: number, count: number): DeviceExtent[] {
    if (this.error !== null) throw this.error;
    return this.inner.extents(offset, size, count);
  }
  close(): void {
    assert(this.held.length === 0, 'closed with requests held');
    this.closeCount += 1;
    this.inner.close();
  }

  private pass(on: () => void, fail: (error: ForelockError) => void): void {
    const { error } = this;
    const act = error === null ? on : () => process.nextTick(fail, error);
    if (this.holding) this.held.push(act);
    else act();
  }
}

/** Exports by name; `refuse` gives names that are known and refused. */
export class MemoryCatalog implements DeviceCatalog {
  readonly devices = new Map<string, BlockDevice>();
  readonly refused = new Map<string, ForelockError>();
  pinned: string[] = [];
  openCount = 0;
  private listeners: ((reason: string) => void)[] = [];

  constructor(...devices: BlockDevice[]) {
    for (const device of devices) this.devices.set(device.name, device);
  }
  names(): string[] {
    return [...this.devices.keys()];
  }
  views(): string[] {
    return this.pinned;
  }
  open(name: string): BlockDevice {
    const refusal = this.refused.get(name);
    if (refusal !== undefined) throw refusal;
    const device = this.devices.get(name);
    if (device === undefined) throw new ForelockError('EINVAL', `no export is named ${JSON.stringify(name)}`);
    this.openCount += 1;
    return device;
  }
  onRevoked(listener: (reason: string) => void): void {
    this.listeners.push(listener);
  }
  revoke(reason: string): void {
    for (const listener of this.listeners) listener(reason);
  }
}
