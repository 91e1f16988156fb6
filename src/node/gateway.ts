/**
 * A gateway: groups with their state directories, front ends and links, in one process. The library's entry, and what
 * `forelock serve` runs.
 */
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { XXHashAPI } from 'xxhash-wasm';
import xxhash from 'xxhash-wasm';
import { ForelockError } from '../errors.js';
import { formatNbdUri, type NbdAddress } from '../frontend/nbd/address.js';
import { NbdServer } from '../frontend/nbd/server.js';
import { DiskStore } from '../journal/disk-store.js';
import { SUPERBLOCK_NAMES, type Superblock, type SuperblockFiles } from '../journal/superblock.js';
import { createKernel } from '../kernel/create.js';
import type { KernelName } from '../kernel/kernel.js';
import { PiscinaPool } from '../kernel/pool.js';
import { LOCK_WAIT_MS_MAX, MIB, VERIFY_BLOCKS_MAX } from '../limits.js';
import { LinkEndpoint } from '../link/endpoint.js';
import { readKey } from '../link/key.js';
import type { RejectPolicy } from '../mirror/wire.js';
import { FlatImage } from '../platter/flat.js';
import { Catalog } from '../volume/catalog.js';
import { type AckName, findVoidPromise } from '../volume/gate.js';
import { Group, type Platform, type Role, type WhenPeerAway } from '../volume/group.js';
import {
  type GroupConfig,
  loadSuperblock,
  newSuperblock,
  openState,
  type StateEnvironment,
  type VolumeConfig,
  volumesFromConfig,
} from '../volume/group-state.js';
import { Pair } from '../volume/pair.js';
import { holdLock } from '../volume/scope.js';
import { splitName, type WhenSplit } from '../volume/split.js';
import { runTransaction, type Transaction, type TransactionOptions } from '../volume/transaction.js';
import { digestOf, pinnedView, type VerifyProgress, type VerifyReport, verifyVolume } from '../volume/verify.js';
import type { Volume } from '../volume/volume.js';
import { checkOptions } from './check-options.js';
import { type GatewayOptions as Config, findDualMisfit, findMeaningless } from './config.js';
import type { GatewayStatus, LockHold, LockRequest } from './control.js';
import { LinkReport } from './link-report.js';
import { findFewFiles, openFilesAllowed } from './open-files.js';
import { gatewayStatus, linkStatus } from './status.js';

/**
 * Batches of at least this many bytes are sealed by the pool: a thread that has just copied them seals them in sixty
 * microseconds a MiB, and another one would have to fetch them first. One client's reads of a socket bring no more in a
 * turn of the event loop (32 of 256 KiB); what would keep hosts waiting longer is handed over.
 */
export const POOL_SEAL_BYTES = 8 * MIB;

const TICK_MS = 50;

export interface GroupOptions {
  /** @default 'main' */
  group: string;
  /** Left out: as the state directory remembers; a new one is a standby if it has no volume, else primary. */
  role?: Role | undefined;
  volumes: readonly VolumeConfig[];
  /** Where the peer connects to. */
  listen?: { host: string; port: number } | undefined;
  /** ws:// URL of the peer; of a pair one has `peer`, the other `listen`. */
  peer?: string | undefined;
  /** File with the shared key. */
  key?: string | undefined;
  ack: AckName;
  speculation: 'on' | 'off';
  whenPeerAway: WhenPeerAway;
  /** Dual only. @default 'freeze' */
  whenSplit?: WhenSplit | undefined;
  /** Of a primary, where blocks are locked at its standby. @default 'target-retry' */
  onReject?: RejectPolicy | undefined;
  kernel: KernelName;
  /** Bytes. */
  journal?: number | undefined;
  ring?: number | undefined;
  linkRttMs?: number | undefined;
  /** Bytes per second. */
  linkRate?: number | undefined;
}

export interface GatewayOptions {
  /** State directory; each group has a folder in it. */
  state: string;
  site: string;
  groups: readonly GroupOptions[];
  /** Where NBD is served; none: library only. */
  nbd: readonly NbdAddress[];
  /** Gets a line when something happens that an operator may want to know of. */
  onEvent?: ((text: string) => void) | undefined;
}

/** One group of a gateway, with its link; `group` is null while an empty standby waits to be adopted. */
export interface Member {
  options: GroupOptions;
  config: GroupConfig;
  pair: Pair;
  endpoint: LinkEndpoint | null;
  /** What the operator was told of the link. */
  report: LinkReport | null;
  environment: StateEnvironment;
  group: Group | null;
  /** The group is being made here, for the first time: adopted, or founded. It is open once this is resolved. */
  making: Promise<Group> | null;
  /** Bytes passed to write calls on state files, by kind of file. */
  bytesWritten(): object;
}

const PLATFORM: Platform = {
  nowMs: () => performance.now(),
  defer: (task) => void setImmediate(task),
  soon: (task) => process.nextTick(task),
  after: (delayMs, task) => void setTimeout(task, delayMs),
};

export class Gateway {
  readonly options: GatewayOptions;
  readonly nbd: NbdServer;
  readonly catalog: Catalog;
  readonly startedAt = Date.now();
  readonly warnings: string[] = [];
  readonly #groups: Group[] = [];
  readonly #members: Member[] = [];
  /** The group of each volume, by its name; also of what is just being opened. */
  readonly #groupOfVolume = new Map<string, string>();
  readonly #hash: XXHashAPI;
  #timer: NodeJS.Timeout | null = null;
  /** It does not go on: what this start made, and nobody has used, is not to bind the next one. */
  #leavesNothing = true;
  #closing: Promise<ForelockError[]> | null = null;

  /**
   * Opens (or creates) the state, recovers, listens and connects.
   * @throws ForelockError CONFIG, STATE_*, as documented in errors.ts; nothing is left open then, nor on the disk of a
   *         state that was to be new
   */
  static async open(options: GatewayOptions): Promise<Gateway> {
    checkOptions(options);
    const gateway = new Gateway(options, await xxhash());
    try {
      for (const group of options.groups) {
        const directory = join(options.state, group.group);
        await gateway.#openMember(group, directory).catch((error) => {
          throw refusedBySystem(directory, holdsState(directory) ? error : otherGroups(options, error));
        });
      }
      for (const address of options.nbd) await gateway.nbd.listen(address);
      for (const member of gateway.#members) await gateway.#connect(member);
    } catch (error) {
      await gateway.close();
      throw error;
    }
    gateway.#leavesNothing = false;
    gateway.#warnOfFewFiles();
    gateway.#timer = setInterval(() => gateway.#tick(), TICK_MS);
    return gateway;
  }

  private constructor(options: GatewayOptions, hash: XXHashAPI) {
    this.options = options;
    this.#hash = hash;
    this.catalog = new Catalog(this.#groups);
    this.nbd = new NbdServer({ catalog: this.catalog });
  }

  get groups(): readonly Group[] {
    return this.#groups;
  }

  /** Groups with their links, also those that wait to be adopted. */
  get members(): readonly Member[] {
    return this.#members;
  }

  /**
   * Addresses of all volumes, as `nbd://` and `nbd+unix://` URIs. Of a standby's they are those of its views
   * (NAME@applied), which open once its first copy is whole; on platter flat, which has none, the volume's, which opens
   * and refuses content.
   */
  nbdUris(): string[] {
    const names = this.catalog.readable();
    return this.nbd.addresses().flatMap((address) => names.map((name) => formatNbdUri(address, name)));
  }

  /** @throws ForelockError EINVAL */
  volume(name: string): Volume {
    return this.catalog.find(name);
  }

  /**
   * Writes to several blocks, of one volume or several of a group, that show all at once at both sites, or never: see
   * `runTransaction` for what is promised.
   *
   *     await gateway.transaction('main', async (tx) => {
   *       await tx.lock('data', { offset: 0, size: 4096 });
   *       await tx.lock('index', { offset: 8192, size: 4096 });
   *       const row = await tx.read('data', 0, 4096);
   *       tx.write('data', 0, change(row));
   *       tx.write('index', 8192, entry);
   *     });
   *
   * @param group its name; volumes of two groups have no order between them
   * @throws what runTransaction throws; ForelockError EINVAL
   */
  async transaction<T>(
    group: string,
    work: (transaction: Transaction) => Promise<T>,
    options: TransactionOptions = {},
  ): Promise<T> {
    return runTransaction(this.#groupNamed(group), work, options);
  }

  #groupNamed(name: string): Group {
    const found = this.#groups.find((each) => each.name === name);
    if (found === undefined) throw new ForelockError('EINVAL', `no group is named ${JSON.stringify(name)}`);
    return found;
  }

  status(): GatewayStatus {
    return gatewayStatus(this);
  }

  /**
   * Holds this site's range lock, as a backup job does before it reads: at a standby the mirror's writes to the extent
   * wait for it, within a lease.
   */
  async lock(request: LockRequest): Promise<LockHold> {
    const volume = this.volume(request.volume);
    const waitMs = request.waitSeconds === null ? LOCK_WAIT_MS_MAX : request.waitSeconds * 1000;
    const lock = await holdLock(volume, request.mode, { offset: request.offset, size: request.size }, waitMs);
    const hold: LockHold = {
      onLost: null,
      release: () => {
        volume.locks.release(lock);
        volume.group.locksMoved();
      },
    };
    lock.context = () => hold.onLost?.('its lease ended: the mirror needed the range');
    return hold;
  }

  /** Compares a volume at both sites. At a standby the primary is asked to; where both write, it stops the volume's hosts for a round trip. */
  async verify(
    name: string,
    options: {
      maps?: boolean;
      group?: string | undefined;
      onProgress?: ((progress: VerifyProgress) => void) | undefined;
    } = {},
  ): Promise<VerifyReport> {
    const volume = options.group === undefined ? this.volume(name) : volumeOf(this.#groupNamed(options.group), name);
    const member = this.#members.find((each) => each.group === volume.group)!;
    if (volume.group.role !== 'standby')
      return verifyVolume(member.pair, volume, options.maps ?? false, this.#hash, options.onProgress);
    return (await member.pair.ask('verify', { volume: name, maps: options.maps ?? false })) as VerifyReport;
  }

  /**
   * Resolves when every group is ready to serve (a primary; a dual site, with its peer) or has been adopted (a standby,
   * whose first copy need not be whole then).
   */
  async ready(): Promise<void> {
    while (
      this.#closing === null &&
      this.#members.some(({ group }) => group === null || (group.role !== 'standby' && !group.ready))
    ) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  /** Opens what `forelock serve` was told (config.ts). */
  static fromConfig(config: Config, onEvent?: (text: string) => void): Promise<Gateway> {
    return Gateway.open({
      onEvent,
      state: config.state,
      site: config.site,
      nbd: [
        ...(config.nbd === null ? [] : [config.nbd]),
        ...(config.nbdUnix === null ? [] : [{ path: config.nbdUnix }]),
      ],
      groups: config.groups.map((group) => ({
        group: group.name,
        role: group.role ?? undefined,
        volumes: group.volumes.map((volume) => ({
          ...volume,
          size: volume.size ?? undefined,
          blockSize: volume.blockSize ?? undefined,
          platter: volume.platter ?? undefined,
          path: volume.path ?? undefined,
        })),
        listen: group.listen ?? undefined,
        peer: group.peer ?? undefined,
        key: group.key ?? undefined,
        ack: group.ack,
        speculation: group.speculation ? 'on' : 'off',
        whenPeerAway: group.whenPeerAway,
        whenSplit: group.whenSplit,
        onReject: group.onReject,
        kernel: group.kernel,
        journal: group.journal ?? undefined,
        ring: group.ring,
        ...(group.linkRtt > 0 || group.linkRate > 0 ? { linkRttMs: group.linkRtt, linkRate: group.linkRate } : {}),
      })),
    });
  }

  /**
   * A clean stop: refuses new requests, finishes what runs, makes all of it durable.
   * @returns of each group whose disk did not take all of it, what is missing there and where it is
   */
  close(): Promise<ForelockError[]> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  /** The start came to nothing after all: closes, and removes what it made if nobody has used it. */
  async abandon(): Promise<void> {
    this.#leavesNothing = true;
    await this.close();
  }

  async #close(): Promise<ForelockError[]> {
    const undurable: ForelockError[] = [];
    await this.nbd.close();
    for (const member of this.#members) {
      member.pair.close();
      await member.endpoint?.close();
      await member.making?.catch(() => {}); // or it would be opened behind this, and never closed
    }
    for (const { group, environment } of this.#members) {
      if (group === null) environment.closed();
      else {
        const error = await group.close();
        if (error !== null) undurable.push(error);
      }
    }
    if (this.#timer !== null) clearInterval(this.#timer);
    return undurable;
  }

  #tick(): void {
    for (const member of this.#members) {
      member.group?.tick();
      member.pair.tick(performance.now());
      this.#reportLink(member);
    }
  }

  #reportLink(member: Member): void {
    if (this.#closing !== null || member.report === null) return;
    const line = member.report.look(linkStatus(member), performance.now());
    if (line !== null) this.options.onEvent?.(`group ${member.options.group}: ${line}`);
  }

  /** What hosts have asked of volumes of this gateway so far, and what came for them from peers. */
  #requests(): number {
    let sum = 0;
    for (const { group } of this.#members) {
      sum += group?.receiver?.counters.recordsReceived ?? 0;
      for (const { counters } of group?.volumes.values() ?? [])
        sum += counters.reads + counters.writes + counters.trims + counters.zeroes + counters.flushes;
    }
    return sum;
  }

  async #openMember(options: GroupOptions, directory: string): Promise<void> {
    const paired = options.peer !== undefined || options.listen !== undefined;
    if (!paired) {
      const promise = findVoidPromise(options.group, options.ack, options.whenPeerAway);
      if (promise !== null) throw new ForelockError('CONFIG', promise);
    }
    const store = new DiskStore(directory, { requests: () => this.#requests(), nowMs: PLATFORM.nowMs });
    let loaded: ReturnType<typeof loadSuperblock>;
    try {
      loaded = loadSuperblock(store, this.#hash);
    } catch (error) {
      store.close();
      throw error;
    }
    const { files, superblock } = loaded;
    this.#warnOfSplit(options, superblock);
    const role = options.role ?? superblock?.role ?? (options.volumes.length === 0 ? 'standby' : 'primary');
    const { speculation, whenPeerAway, onReject = 'target-retry', linkRttMs = 0, linkRate = 0 } = options;
    const isShaped = linkRttMs > 0 || linkRate > 0;
    const told = { paired, hasKey: options.key !== undefined, isShaped, onReject, whenPeerAway };
    const misfit =
      (role === 'dual'
        ? findDualMisfit(options.group, { paired, speculation: speculation === 'on', onReject })
        : null) ?? findMeaningless(options.group, role, told);
    if (misfit !== null) {
      if (superblock === null) store.discard();
      else store.close();
      throw new ForelockError('CONFIG', misfit);
    }
    const environment: StateEnvironment = {
      store,
      hash: this.#hash,
      createKernel: (memory) => createKernel(options.kernel, memory),
      createOffload: (memory) => new PiscinaPool({ memory, kernel: options.kernel }),
      openImage: (path, size, isNew) => new FlatImage(path, size, isNew),
      clockMicros: () => Date.now() * 1000,
      defer: PLATFORM.defer,
      // who receives seals on its own thread: what it takes must stand behind what is sealed
      poolSealBytes: role === 'primary' ? POOL_SEAL_BYTES : Number.POSITIVE_INFINITY,
      closed: () => {
        if (!this.#leavesNothing || superblock !== null || this.#isUsed(options.group)) return store.close();
        const made = this.#groups.find(({ name }) => name === options.group);
        for (const { created, path } of made?.state.images.values() ?? []) if (created) rmSync(path);
        store.discard();
      },
    };
    const config: GroupConfig = {
      group: options.group,
      site: this.options.site,
      role,
      whenSplit: options.whenSplit,
      volumes: options.volumes,
      journalSize: options.journal,
      ringSize: options.ring,
    };
    let group: Group | null = null;
    try {
      if (superblock !== null || role === 'primary') {
        const opened = superblock ?? newSuperblock(config, volumesFromConfig(config), null);
        group = await this.#openGroup(options, config, environment, files, opened);
      } else if (!paired) {
        throw new ForelockError(
          'CONFIG',
          `group ${options.group}: a new ${role} site needs its peer: give --peer or --listen`,
        );
      }
    } catch (error) {
      environment.closed();
      throw error;
    }
    const pair = new Pair(group, {
      config,
      platform: PLATFORM,
      whenSplit: options.whenSplit ?? 'freeze',
      adopt: (adoption) => this.#create(member, (made) => newSuperblock(made, adoption.volumes, adoption)),
      found: () => this.#create(member, (made) => newSuperblock(made, volumesFromConfig(made), null)),
      onAsk: (method, params) => this.#answer(member, method, params),
    });
    const member: Member = {
      options,
      config,
      environment,
      endpoint: null,
      report: null,
      group,
      making: null,
      pair,
      bytesWritten: () => store.bytesWritten,
    };
    this.#members.push(member);
  }

  #warnOfFewFiles(): void {
    const few = findFewFiles(this.#groups, openFilesAllowed());
    if (few !== null) this.#warn(few);
  }

  /** A policy that does nothing, or names nobody. */
  #warnOfSplit({ group, role, whenSplit = 'freeze' }: GroupOptions, superblock: Superblock | null): void {
    if (whenSplit === 'freeze') return;
    const is = role ?? superblock?.role;
    if (is !== undefined && is !== 'dual')
      this.warnings.push(`group ${group}: --when-split is for --role dual, and does nothing at a ${is}`);
    const sites = [this.options.site, ...(superblock?.sites ?? []).map(({ name }) => name)];
    if (sites.length > 2 && !sites.includes(whenSplit.prefer))
      this.warnings.push(
        `group ${group}: --when-split ${splitName(whenSplit)} names none of ${sites.slice(1).join(', ')}`,
      );
  }

  /** Has a host written to it, or a peer heard of it? */
  #isUsed(name: string): boolean {
    const group = this.#groups.find((each) => each.name === name);
    if (group === undefined) return false;
    const { journal, state } = group;
    const { peers, met } = state.superblock;
    return journal.own.appended > 0 || Object.keys({ ...peers, ...met }).length > 0;
  }

  async #openGroup(
    options: GroupOptions,
    config: GroupConfig,
    environment: StateEnvironment,
    files: SuperblockFiles,
    superblock: Superblock,
  ): Promise<Group> {
    this.#takeNames(options.group, superblock);
    const state = await openState(config, files, superblock, environment).catch((error) => {
      for (const { name } of superblock.volumes) this.#groupOfVolume.delete(name);
      throw error;
    });
    for (const warning of state.warnings) this.#warn(warning);
    const group = new Group(
      state,
      {
        ack: options.ack,
        speculation: options.speculation,
        whenPeerAway: options.whenPeerAway,
        whenSplit: options.whenSplit ?? 'freeze',
        onReject: options.onReject ?? 'target-retry',
        paired: options.peer !== undefined || options.listen !== undefined,
      },
      {
        ...PLATFORM,
        tell: (text) => this.options.onEvent?.(text),
      },
    );
    this.#groups.push(group);
    if (this.#timer !== null) this.#warnOfFewFiles(); // else when all are there
    return group;
  }

  /** Whoever opens the gateway looks at `warnings`; a group that is adopted later comes too late for that. */
  #warn(text: string): void {
    if (this.#timer === null) this.warnings.push(text);
    else this.options.onEvent?.(`warning: ${text}`);
  }

  /** Hosts ask for a volume by its name alone: two of one name, and which of them they get would be left to chance. */
  #takeNames(group: string, { volumes }: Superblock): void {
    for (const { name } of volumes) {
      const other = this.#groupOfVolume.get(name);
      if (other === undefined) continue;
      // a link broke while the group was being adopted, and the next one is here before that is done
      if (other === group) throw new ForelockError('AWAY', `group ${group} is being set up already`);
      throw new ForelockError(
        'CONFIG',
        `volume ${name} of group ${group}: site ${this.options.site} has a volume of this name in group ${other}: serve one of the two groups there by a gateway of its own, with another --state`,
      );
    }
    for (const { name } of volumes) this.#groupOfVolume.set(name, group);
  }

  /** An empty site takes over the group it meets, or founds one (dual). */
  #create(member: Member, make: (config: GroupConfig) => Superblock): Promise<Group> {
    const create = async (): Promise<Group> => {
      const { options, config, environment } = member;
      const { files } = loadSuperblock(environment.store, this.#hash);
      member.group = await this.#openGroup(options, config, environment, files, make(config));
      return member.group;
    };
    member.making = create();
    return member.making;
  }

  async #connect(member: Member): Promise<void> {
    const { options, pair } = member;
    if (options.peer === undefined && options.listen === undefined) return;
    const shaped = options.linkRttMs !== undefined || options.linkRate !== undefined;
    member.endpoint = await LinkEndpoint.open({
      site: this.options.site,
      where: options.peer !== undefined ? { connect: options.peer } : { listen: options.listen! },
      key: options.key === undefined ? null : readKey(options.key).bytes,
      shape: shaped ? { roundTripMs: options.linkRttMs ?? 0, bytesPerSecond: options.linkRate ?? 0 } : null,
      hello: () => pair.hello(),
      onLink: (link, peer) => pair.onLink(link, peer.hello),
      // once the pair knows, too
      onState: () => setImmediate(() => this.#reportLink(member)),
    });
    member.report = new LinkReport(linkStatus(member), performance.now());
  }

  /** What the peer may ask. */
  async #answer(member: Member, method: string, params: Record<string, unknown>): Promise<unknown> {
    const group = member.group;
    if (group === null) throw new ForelockError('AWAY', 'not adopted yet');
    const { sequence, lba, blockCount, maps } = params as Record<string, number>;
    switch (method) {
      case 'hash': {
        if (blockCount > VERIFY_BLOCKS_MAX)
          throw new ForelockError('EINVAL', `${blockCount} blocks are more than are compared at once`);
        const volume = volumeOf(group, String(params.volume));
        const point = { site: group.journal.peer.site, sequence };
        const view = pinnedView(volume, point);
        if (
          !(
            Number.isSafeInteger(lba) &&
            Number.isSafeInteger(blockCount) &&
            lba >= 0 &&
            blockCount > 0 &&
            lba + blockCount <= view.blockCount
          )
        ) {
          throw new ForelockError('EINVAL', `extent ${lba}+${blockCount} lies outside the volume`);
        }
        return digestOf(volume, point, lba, blockCount, Boolean(maps), this.#hash);
      }
      case 'release':
        group.views.releasePoint(group.journal.peer.site, sequence);
        return null;
      case 'verify':
        if (group.role !== 'primary') throw new ForelockError('EPERM', 'verify is led by the primary');
        return verifyVolume(member.pair, volumeOf(group, String(params.volume)), Boolean(maps), this.#hash);
      default:
        throw new ForelockError('PEER_PROTOCOL', `unknown question ${method}`);
    }
  }
}

/** @throws ForelockError EINVAL */
function volumeOf(group: Group, name: string): Volume {
  for (const volume of group.volumes.values()) if (volume.name === name) return volume;
  throw new ForelockError('EINVAL', `group ${group.name} has no volume named ${JSON.stringify(name)}`);
}

/** Codes of the system's for which there is something to be done. */
const NEXT_STEPS: Readonly<Record<string, string>> = {
  ENOSPC: 'a start writes a few KiB there: make room, and start again',
  EDQUOT: 'a start writes a few KiB there: make room, and start again',
  EACCES: 'the user whom it runs as has to read and write there',
  EPERM: 'the user whom it runs as has to read and write there',
  EROFS: 'mount it to be written',
  ENOENT: 'no folder can be made there: choose another --state',
  ENAMETOOLONG: 'choose a shorter --state',
  ENOTDIR: 'a part of this path is a file: choose another --state',
  EEXIST: 'a part of this path is a file: choose another --state',
  EIO: "the disk refuses: look into the system's log, and restore this site from its peer if it is lost",
};

/** A group that was to be new could not be: the state directory may hold the one that was meant. */
function otherGroups({ state, groups }: GatewayOptions, error: Error): Error {
  if (!(error instanceof ForelockError) || error.code !== 'CONFIG' || !existsSync(state)) return error;
  const named = groups.map(({ group }) => group);
  const others = readdirSync(state).filter((name) => !named.includes(name) && holdsState(join(state, name)));
  if (others.length === 0) return error;
  const text = `${error.message}. The state directory has group ${others.join(', ')}: is one of them meant, with --group?`;
  return new ForelockError('CONFIG', text, { cause: error });
}

function holdsState(folder: string): boolean {
  return SUPERBLOCK_NAMES.some((name) => existsSync(join(folder, name)));
}

/** What the system said of a state directory, or damage found there, as an error that says what, where, and what to do. */
function refusedBySystem(directory: string, error: NodeJS.ErrnoException): Error {
  if (error instanceof ForelockError && (error.code === 'STATE_CORRUPT' || error.code === 'STATE_NEWER'))
    return new ForelockError(error.code, `state directory ${directory}: ${error.message}`, { cause: error });
  const next = NEXT_STEPS[error.code ?? ''];
  if (error instanceof ForelockError || next === undefined) return error;
  const code = error.code === 'ENOSPC' || error.code === 'EIO' ? error.code : 'CONFIG';
  return new ForelockError(code, `state directory ${directory}: ${error.message}: ${next}`, { cause: error });
}
