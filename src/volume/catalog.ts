/**
 * What front ends see of a gateway's groups: one device per volume, and NAME@applied, a read-only view of a standby
 * pinned at the moment of connecting. Views are cheap: a copy of the page table, shared until the map moves on.
 */
import { ForelockError } from '../errors.js';
import type { MapView } from '../journal/map.js';
import type { BlockDevice, Completion, DeviceCatalog, DeviceExtent, ReadCompletion } from './device.js';
import type { Group } from './group.js';
import { sessionClosed } from './own-scopes.js';
import { readBytes } from './read-bytes.js';
import { type ExtentBytes, openScope, type Scope, type ScopeOptions } from './scope.js';
import type { Volume } from './volume.js';

const VIEW_SUFFIX = '@applied';

export class Catalog implements DeviceCatalog {
  readonly #groups: readonly Group[];
  readonly #listeners: ((reason: string) => void)[] = [];

  constructor(groups: readonly Group[]) {
    this.#groups = groups;
  }

  names(): string[] {
    return this.#groups.flatMap((group) => [...group.volumes.values()].map((volume) => volume.name));
  }

  views(): string[] {
    return this.#groups
      .filter(({ role, mirror }) => role === 'standby' && mirror.imageConsistent)
      .flatMap(({ volumes }) => [...volumes.values()])
      .filter(({ platter }) => platter !== 'flat')
      .map(({ name }) => name + VIEW_SUFFIX);
  }

  /** What a host can read of each volume: at a standby its view, once there is an image to show, where it can be pinned. */
  readable(): string[] {
    return this.names().map((name) => {
      const { group, platter } = this.find(name);
      return group.role === 'standby' && platter !== 'flat' ? name + VIEW_SUFFIX : name;
    });
  }

  /** @throws ForelockError EINVAL for a name that is none, EPERM or ENOTSUP for one that is refused */
  find(name: string): Volume {
    for (const group of this.#groups) {
      for (const volume of group.volumes.values()) if (volume.name === name) return volume;
    }
    throw new ForelockError(
      'EINVAL',
      `no volume is named ${JSON.stringify(name)}; there are: ${this.names().join(', ') || 'none'}`,
    );
  }

  open(name: string): BlockDevice {
    if (name.endsWith(VIEW_SUFFIX)) return this.#openView(this.find(name.slice(0, -VIEW_SUFFIX.length)));
    return new HostSession(this.find(name));
  }

  onRevoked(listener: (reason: string) => void): void {
    this.#listeners.push(listener);
  }

  /** Tells front ends that devices opened before are no longer what they said. */
  revoke(reason: string): void {
    for (const listener of this.#listeners) listener(reason);
  }

  #openView(volume: Volume): BlockDevice {
    const { group } = volume;
    if (group.role !== 'standby') {
      throw new ForelockError(
        'EPERM',
        `${volume.name}${VIEW_SUFFIX} is a view of a standby; here ${volume.name} is served itself`,
      );
    }
    if (volume.platter === 'flat') {
      throw new ForelockError(
        'ENOTSUP',
        `${volume.name}${VIEW_SUFFIX} cannot be pinned: ${volume.name} is on platter flat, whose image is written in place. Stop the gateway and read the image, or use platter journal`,
      );
    }
    if (!group.mirror.imageConsistent) {
      throw new ForelockError(
        'EPERM',
        `${volume.name} is inconsistent: its first copy is not finished, so there is no image to show yet`,
      );
    }
    return new PinnedView(volume);
  }
}

/** A host's connection to a volume: its own session for locks. */
export class HostSession implements BlockDevice {
  readonly #volume: Volume;
  #closed = false;
  /** Its number within the site, in records and locks. */
  readonly session: number;

  constructor(volume: Volume) {
    this.#volume = volume;
    this.session = volume.group.nextSession();
  }

  get name(): string {
    return this.#volume.name;
  }
  get size(): number {
    return this.#volume.size;
  }
  get blockSize(): number {
    return this.#volume.blockSize;
  }
  get description(): string {
    const { group } = this.#volume;
    const { site } = group.state.superblock;
    if (group.role === 'dual')
      return `volume ${this.name} of group ${group.name} at site ${site.name}; the other site's hosts write to it as well`;
    return group.role === 'standby'
      ? `standby of group ${group.name} at site ${site.name}: content is refused; ${this.name}${VIEW_SUFFIX} is a read-only view`
      : `volume ${this.name} of group ${group.name} at site ${site.name}`;
  }
  get readOnly(): boolean {
    return this.contentRefused;
  }
  get contentRefused(): boolean {
    return this.#volume.group.role === 'standby';
  }
  get multiConnection(): boolean {
    return true;
  }

  read(offset: number, size: number, completion: ReadCompletion): void {
    this.#volume.read(this.session, offset, size, completion);
  }
  write(offset: number, size: number, payload: readonly Uint8Array[], fua: boolean, completion: Completion): void {
    this.#volume.write(this.session, offset, size, payload, fua, completion);
  }
  flush(completion: Completion): void {
    this.#volume.flush(completion);
  }
  trim(offset: number, size: number, fua: boolean, completion: Completion): void {
    this.#volume.trim(this.session, offset, size, fua, completion);
  }
  zero(offset: number, size: number, fua: boolean, completion: Completion): void {
    this.#volume.zero(this.session, offset, size, fua, completion);
  }
  extents(offset: number, size: number, count: number): DeviceExtent[] {
    return this.#volume.extents(offset, size, count);
  }
  /** Locks an extent and opens a scope over it, which ends with the session. */
  lock(extent: ExtentBytes, options: ScopeOptions): Promise<Scope> {
    return this.#closed ? Promise.reject(sessionClosed()) : openScope(this.#volume, extent, options, this.session);
  }
  /** What it has locked is unlocked; what waits for a lock is refused, and what waits for room goes on. */
  close(): void {
    this.#closed = true;
    this.#volume.group.scopes.endSession(this.session);
    this.#volume.locks.releaseSession(this.session);
    this.#volume.group.locksMoved();
  }
}

/** A read-only view of a volume as it was at one applied sequence. */
class PinnedView implements BlockDevice {
  readonly #volume: Volume;
  readonly #view: MapView;
  readonly #live: ReadonlySet<number>;
  readonly #unregister: () => void;
  readonly #sequence: number;
  #dropped = false;

  constructor(volume: Volume) {
    this.#volume = volume;
    this.#view = volume.map.snapshot();
    this.#live = volume.group.cleaner.pinLive();
    this.#sequence = volume.group.journal.peerApplied;
    this.#unregister = volume.group.views.register({ drop: () => this.close() });
  }

  get name(): string {
    return `${this.#volume.name}${VIEW_SUFFIX}`;
  }
  get size(): number {
    return this.#volume.size;
  }
  get blockSize(): number {
    return this.#volume.blockSize;
  }
  get description(): string {
    return `view of standby ${this.#volume.name} at applied sequence ${this.#sequence}, read-only`;
  }
  readonly readOnly = true;
  readonly contentRefused = false;
  /** Several connections would pin several moments. */
  readonly multiConnection = false;

  read(offset: number, size: number, completion: ReadCompletion): void {
    if (this.#dropped) {
      const error = new ForelockError(
        'ESHUTDOWN',
        `${this.name}: the view was dropped, since the gateway stops or the journal needs its room`,
      );
      this.#volume.group.defer(() => completion.settleRead(error, []));
      return;
    }
    readBytes(this.#volume.group, this.#view, this.#volume, offset, size, completion);
  }
  write(_offset: number, _size: number, _payload: readonly Uint8Array[], _fua: boolean, completion: Completion): void {
    this.#refuse(completion);
  }
  flush(completion: Completion): void {
    this.#volume.group.settleSoon(completion, null);
  }
  trim(_offset: number, _size: number, _fua: boolean, completion: Completion): void {
    this.#refuse(completion);
  }
  zero(_offset: number, _size: number, _fua: boolean, completion: Completion): void {
    this.#refuse(completion);
  }
  extents(offset: number, size: number, count: number): DeviceExtent[] {
    if (this.#dropped) return [{ size, hole: false }];
    const { blockSize } = this.#volume;
    const extents: DeviceExtent[] = [];
    for (let at = offset; at < offset + size && extents.length < count; ) {
      const lba = Math.floor(at / blockSize);
      const hole = !this.#view.lookup(lba) || this.#view.zero;
      const run = this.#view.run(lba, Math.ceil((offset + size) / blockSize) - lba);
      const to = Math.min(offset + size, (lba + run) * blockSize);
      extents.push({ size: to - at, hole });
      at = to;
    }
    return extents;
  }
  close(): void {
    if (this.#dropped) return;
    this.#dropped = true;
    this.#unregister();
    this.#view.release();
    this.#volume.group.cleaner.unpinLive(this.#live);
  }

  #refuse(completion: Completion): void {
    this.#volume.group.settleSoon(completion, new ForelockError('EPERM', `${this.name} is read-only`));
  }
}
