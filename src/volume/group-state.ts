/**
 * Opening a group's state directory: superblock, maps, journal, recovery; and creating it the first time.
 */

import { createHash, randomBytes, randomInt, randomUUID } from 'node:crypto';
import type { XXHashAPI } from 'xxhash-wasm';
import { MEMORY_BASE, TYPE_ABORT, TYPE_LOCK, TYPE_UNLOCK, TYPE_WRITE } from '../../assembly/layout.js';
import { ForelockError } from '../errors.js';
import { Journal, type JournalVolume } from '../journal/journal.js';
import { Liveness } from '../journal/liveness.js';
import { BlockMap } from '../journal/map.js';
import { type CheckpointPlace, MapLog } from '../journal/map-log.js';
import { recordSize } from '../journal/record.js';
import { type RecoveryReport, recover } from '../journal/recovery.js';
import type { Store } from '../journal/store.js';
import {
  NO_RECORD_KEY,
  type OrderState,
  SUPERBLOCK_NAMES,
  type Superblock,
  SuperblockFiles,
} from '../journal/superblock.js';
import type { Kernel } from '../kernel/kernel.js';
import { GroupMemory, type Region } from '../kernel/memory.js';
import type { Offload } from '../kernel/offload.js';
import {
  BLOCK_SIZE_DEFAULT,
  BLOCK_SIZE_MAX,
  BLOCK_SIZE_MIN,
  GENERATIONS_MAX,
  GROUP_MEMORY_MAX,
  JOURNAL_SEGMENTS_MIN,
  MEETINGS_MAX,
  MIB,
  RING_SIZE_DEFAULT,
  SEGMENT_SIZE_MAX,
  SEGMENT_SIZE_MIN,
  VOLUME_SIZE_MAX,
} from '../limits.js';
import type { Meeting, SiteState } from '../mirror/decide.js';
import type { OpenScope } from '../mirror/target.js';
import type { Start } from '../mirror/wire.js';
import type { FlatImage } from '../platter/flat.js';
import { formatSize } from '../units.js';
import { DualOrder } from './dual-order.js';
import type { Role } from './group.js';
import { lockTableSize, RangeLocks } from './locks.js';
import { splitName, type WhenSplit } from './split.js';
import type { VolumeOptions } from './volume.js';

type Shape = { readonly size: number; readonly blockSize: number };

export interface VolumeConfig {
  name: string;
  /** Bytes; may be left out for a volume that exists. */
  size?: number | undefined;
  blockSize?: number | undefined;
  platter?: 'journal' | 'flat' | undefined;
  /** Of the image: platter flat. */
  path?: string | undefined;
}

export interface GroupConfig {
  group: string;
  site: string;
  role: Role;
  volumes: readonly VolumeConfig[];
  /** Dual only. @default 'freeze' */
  whenSplit?: WhenSplit | undefined;
  /** Bytes of journal on disk; default twice the volumes' size and four segments. */
  journalSize?: number | undefined;
  ringSize?: number | undefined;
}

/** What opening needs of the world. */
export interface StateEnvironment {
  store: Store;
  hash: XXHashAPI;
  createKernel(memory: GroupMemory): Kernel;
  createOffload(memory: GroupMemory): Offload;
  /** Makes the image only where `isNew`: a state that has been served without its image is refused. */
  openImage(path: string, size: number, isNew: boolean): FlatImage;
  /** Microseconds since 1970. */
  clockMicros(): number;
  defer(task: () => void): void;
  poolSealBytes: number;
  /** Releases the directory. */
  closed(): void;
}

export interface Regions {
  ring: Region;
  readSlices: Region[];
  readBack: Region[];
  /** For a lost tail on its way back: the author's stream, and this site's own beside it. */
  tail: Region[][];
  base: Region[];
  cleaner: Region;
}

/** A group's state, opened and recovered. */
export interface OpenedState {
  readonly superblock: Superblock;
  readonly role: Role;
  readonly journal: Journal;
  readonly offload: Offload;
  readonly liveness: Liveness;
  readonly maps: ReadonlyMap<number, BlockMap>;
  readonly mapLog: MapLog;
  readonly regions: Regions;
  readonly volumes: readonly VolumeOptions[];
  /** Images of flat volumes, by volume number. */
  readonly images: ReadonlyMap<number, FlatImage>;
  readonly recovery: RecoveryReport & { clean: boolean };
  /** Explicit scopes of the peer's stream that were open when the state was closed. */
  readonly openScopes: OpenScope[];
  /** The same of this site's own stream: their sessions are gone. */
  readonly ownScopes: { sequence: number; volume: number }[];
  /** Where both sites write; null elsewhere. */
  readonly order: DualOrder | null;
  /** What an operator should know of it. */
  readonly warnings: readonly string[];
  save(done: (error: Error | null) => void): void;
  /** The disk has yet to answer one. */
  readonly isSaving: boolean;
  /** Kept with the next save: nothing depends on its being up to date, only on its not being too high. */
  rememberPeerDurable(sequence: number): void;
  close(): Promise<void>;
}

/** A number for a site that joins an existing group: from its name, so that it never depends on who asks; 1 is the founder's. */
export function siteNumberOf(name: string): number {
  return 2 + (createHash('sha256').update(name).digest().readUInt32LE(0) % 254);
}

/**
 * The superblock in a store, or null when the directory is new.
 * @throws ForelockError STATE_CORRUPT, STATE_NEWER
 */
export function loadSuperblock(
  store: Store,
  hash: XXHashAPI,
): { files: SuperblockFiles; superblock: Superblock | null } {
  const files = new SuperblockFiles(store, hash);
  const superblock = files.load();
  // an image may be there before the first save, these may not
  if (superblock === null && store.list().some((name) => name.startsWith('segment-') || name.startsWith('map-')))
    throw new ForelockError(
      'STATE_CORRUPT',
      'a journal is here, and its superblocks are gone: restore the state directory from a backup, or, if the peer is ' +
        'whole, move the directory away and let this site be filled from the peer',
    );
  return { files, superblock };
}

/**
 * Where the stream of `peer` ended when this site was promoted last: scopes that were open there ended with the sessions of
 * their hosts. The peer ends them itself when it is promoted again, if it still knows of them: not if it lost its disk.
 */
export function scopesEndedThrough({ site, generations }: Superblock, peer: number): number {
  const ends = generations.filter(({ minter }) => minter === site.number).map(({ ends }) => ends[peer] ?? 0);
  return Math.max(0, ...ends);
}

/** What a target that is empty takes over with START, and any other has already. */
export function historyOf({
  groupId,
  recordKey,
  generations,
}: Superblock): Pick<Start, 'groupId' | 'recordKey' | 'generations'> {
  return { groupId, generations, ...(recordKey === NO_RECORD_KEY ? {} : { recordKey }) };
}

/**
 * What a new group, or a standby that adopts one, writes down first.
 * @throws ForelockError CONFIG, or PEER_REFUSED when they are the peer's: volumes that cannot be, or not together
 */
export function newSuperblock(
  config: GroupConfig,
  volumes: { number: number; name: string; size: number; blockSize: number }[],
  adopt: {
    number: number;
    ownThrough: number;
    groupId: string;
    recordKey: string;
    generations: Superblock['generations'];
    peer: { number: number; name: string };
    inconsistent: Superblock['inconsistent'];
    meeting: Meeting | null;
  } | null,
): Superblock {
  for (const volume of volumes) {
    const wrong = findMisshape(volume, volumes);
    if (wrong !== null) throw new ForelockError(adopt === null ? 'CONFIG' : 'PEER_REFUSED', wrong);
  }
  const tooMuch = findMemoryLack(config.ringSize ?? RING_SIZE_DEFAULT, volumes);
  if (tooMuch !== null) throw new ForelockError(adopt === null ? 'CONFIG' : 'PEER_REFUSED', tooMuch);
  const number = adopt === null ? 1 : adopt.number;
  const size = volumes.reduce((sum, volume) => sum + volume.size, 0);
  const ringSize = config.ringSize ?? RING_SIZE_DEFAULT;
  const segmentSize = chooseSegmentSize(config.journalSize ?? 2 * size, ringSize);
  return {
    groupId: adopt?.groupId ?? randomUUID(),
    recordKey: adopt?.recordKey ?? randomBytes(8).toString('hex'),
    group: config.group,
    site: { number, name: config.site },
    sites: adopt === null ? [{ number, name: config.site }] : [adopt.peer, { number, name: config.site }],
    volumes: volumes.map((volume) => {
      const wanted = config.volumes.find((each) => each.name === volume.name);
      const platter = wanted?.platter ?? 'journal';
      if (platter === 'flat' && wanted?.path === undefined) {
        throw new ForelockError('CONFIG', `volume ${volume.name}: platter=flat needs path=FILE, its image`);
      }
      return { ...volume, platter, ...(platter === 'flat' && wanted?.path !== undefined ? { path: wanted.path } : {}) };
    }),
    segmentSize,
    // of ten digits always: a superblock is as long in every run, so a simulated one tears at the same byte
    journalId: randomInt(2 ** 31, 2 ** 32),
    suspectFrom: null,
    generations: adopt?.generations ?? [{ ordinal: 1, id: randomUUID(), parent: null, minter: number, ends: {} }],
    incarnation: 0,
    peers: {},
    met: adopt === null ? {} : { [adopt.peer.number]: { last: adopt.meeting, offered: null } },
    role: config.role,
    clean: true,
    degradedSince: null,
    // from the first moment on: a standby that goes down before its copy begins holds no image either
    streamStart: adopt?.inconsistent?.startSequence ?? 0,
    // whom it adopts this history from may have been alone, and have answered all of it
    peerAlone: adopt !== null && config.role === 'dual' ? null : 0,
    whenSplit: null,
    imported: (adopt?.inconsistent ?? null) !== null,
    inconsistent: adopt?.inconsistent ?? null,
    checkpoint: {
      mapFile: 0,
      mapEnd: 0,
      position: 0,
      durable: 0,
      own: adopt?.ownThrough ?? 0,
      peer: { site: 0, received: 0, applied: 0 },
      openScopes: [],
      ownScopes: [],
      clock: 0,
      order: null,
    },
  };
}

/** Volumes of a new group, as configured: there is one at least, as none can be added later, and sizes are needed. */
export function volumesFromConfig(
  config: GroupConfig,
): { number: number; name: string; size: number; blockSize: number }[] {
  if (config.volumes.length === 0)
    throw new ForelockError(
      'CONFIG',
      `group ${config.group} is new and has no volume: give it one, as in --volume disk:10G`,
    );
  return config.volumes.map((volume, index) => {
    if (volume.size === undefined) {
      throw new ForelockError(
        'CONFIG',
        `volume ${volume.name} is new: give its size, as in --volume ${volume.name}:10G`,
      );
    }
    return {
      number: index + 1,
      name: volume.name,
      size: volume.size,
      blockSize: volume.blockSize ?? BLOCK_SIZE_DEFAULT,
    };
  });
}

/** Why a group cannot have this volume, whoever said so; or null. */
function findMisshape(
  { number, name, size, blockSize }: { number: number; name: string; size: number; blockSize: number },
  all: readonly { number: number; name: string }[],
): string | null {
  if (blockSize < BLOCK_SIZE_MIN || blockSize > BLOCK_SIZE_MAX || !Number.isInteger(Math.log2(blockSize)))
    return `volume ${name}: blocks of ${blockSize} bytes must be a power of two, ${BLOCK_SIZE_MIN} to ${BLOCK_SIZE_MAX}`;
  if (size === 0 || size % blockSize !== 0 || size > VOLUME_SIZE_MAX)
    return `volume ${name}: size ${size} must be a multiple of ${blockSize} bytes, above 0 and at most ${VOLUME_SIZE_MAX}`;
  if (number === 0 || all.filter((each) => each.number === number || each.name === name).length > 1)
    return `volume ${number}, ${name}: every volume has a name and a number, from 1, of its own`;
  return null;
}

/**
 * Opens and recovers.
 * @throws ForelockError STATE_CORRUPT, STATE_NEWER, STATE_MISMATCH, CONFIG; of what is opened here nothing stays open then
 */
export async function openState(
  config: GroupConfig,
  files: SuperblockFiles,
  superblock: Superblock,
  environment: StateEnvironment,
): Promise<OpenedState> {
  const opened: (() => unknown)[] = [];
  try {
    return await recoverState(config, files, superblock, environment, opened);
  } catch (error) {
    await Promise.allSettled(opened.map(async (close) => close()));
    throw error;
  }
}

/** @param opened how to close what was opened by now */
async function recoverState(
  config: GroupConfig,
  files: SuperblockFiles,
  superblock: Superblock,
  environment: StateEnvironment,
  opened: (() => unknown)[],
): Promise<OpenedState> {
  const { store, hash } = environment;
  checkConfig(config, superblock);
  const created = superblock.incarnation === 0;
  const wasClean = superblock.clean;
  const ringSize = config.ringSize ?? Math.max(RING_SIZE_DEFAULT, superblock.segmentSize);
  if (ringSize % superblock.segmentSize !== 0) {
    throw new ForelockError(
      'CONFIG',
      `--ring ${ringSize}: this journal has segments of ${superblock.segmentSize} bytes; the ring must be a multiple of that`,
    );
  }
  const tooMuch = findMemoryLack(ringSize, superblock.volumes);
  if (tooMuch !== null) throw new ForelockError('CONFIG', tooMuch);
  const total = superblock.volumes.reduce((sum, volume) => sum + volume.size, 0);
  const limit = config.journalSize ?? journalDefault(total, superblock.segmentSize);
  checkLimit(limit, superblock.segmentSize);

  const liveness = new Liveness(superblock.segmentSize);
  const memory = new GroupMemory(memorySize(ringSize, superblock.volumes));
  memory.useRecordKey(superblock.recordKey);
  const regions: Regions = {
    ring: memory.take(ringSize),
    readSlices: Array.from({ length: 4 }, () => memory.take(4 * MIB)),
    readBack: Array.from({ length: 6 }, () => memory.take(3 * MIB)),
    tail: Array.from({ length: 2 }, () => Array.from({ length: 2 }, () => memory.take(3 * MIB))),
    base: Array.from({ length: 4 }, () => memory.take(MIB)),
    cleaner: memory.take(4 * MIB),
  };
  const kernel = environment.createKernel(memory);
  const offload = environment.createOffload(memory);
  opened.push(() => offload.close());
  const newest = superblock.generations[superblock.generations.length - 1]!;
  const journal = new Journal({
    store,
    kernel,
    offload,
    memory,
    ring: regions.ring,
    segmentSize: superblock.segmentSize,
    groupId: superblock.groupId,
    journalId: superblock.journalId,
    ownSite: superblock.site.number,
    generation: newest.ordinal,
    poolSealBytes: environment.poolSealBytes,
    clock: environment.clockMicros,
    defer: environment.defer,
    limit,
  });
  journal.stamp = superblock.checkpoint.clock;

  const maps = new Map<number, BlockMap>();
  const smallestBlock = Math.min(...superblock.volumes.map(({ blockSize }) => blockSize));
  const volumes: VolumeOptions[] = superblock.volumes.map((volume) => {
    const map = new BlockMap(volume.size / volume.blockSize, liveness, volume.blockSize / smallestBlock);
    maps.set(volume.number, map);
    const table = memory.take(lockTable(volume));
    const blockCount = volume.size / volume.blockSize;
    const locks = new RangeLocks({ kernel, table: table.at, regionShift: regionShift(volume), blockCount });
    const ofJournal: JournalVolume = {
      number: volume.number,
      map,
      blockShift: Math.log2(volume.blockSize),
      flat: volume.platter === 'flat',
    };
    journal.volumes.set(volume.number, ofJournal);
    return { ...volume, map, locks };
  });

  const images = new Map<number, FlatImage>();
  for (const volume of superblock.volumes) {
    if (volume.platter !== 'flat') continue;
    const image = environment.openImage(volume.path!, volume.size, created);
    opened.push(() => image.close());
    images.set(volume.number, image);
  }

  const mapLog = new MapLog(store, hash, journal.checksums);
  opened.push(() => mapLog.close());
  const { checkpoint } = superblock;
  if (checkpoint.mapFile > 0) mapLog.load({ mapFile: checkpoint.mapFile, mapEnd: checkpoint.mapEnd }, maps);
  // a base copy begins the stream at its start: nothing before it will ever come
  const { streamStart } = superblock;
  journal.peer.site = checkpoint.peer.site;
  const ownScopes = new Map(checkpoint.ownScopes.map((scope) => [scope.sequence, scope]));
  const scopes = new Map(checkpoint.openScopes.map((scope) => [scope.sequence, scope]));
  const orderOf = (from: { position: number; own: number; peer: number }, state: OrderState): DualOrder =>
    new DualOrder({
      volumes: journal.volumes,
      ownStaged: journal.ownStaged,
      peerStaged: journal.peerStaged,
      liveness,
      from,
      state,
    });
  // how the journal has to be read follows from what the site was when it wrote it
  let order: DualOrder | null = null;
  if (checkpoint.order !== null) {
    const peer = Math.max(checkpoint.peer.received, streamStart);
    order = orderOf({ position: checkpoint.position, own: checkpoint.own, peer }, checkpoint.order);
    journal.order = order;
  }
  const report = recover(
    journal,
    store,
    {
      position: checkpoint.position,
      durable: checkpoint.durable,
      suspect: superblock.suspectFrom ?? Number.POSITIVE_INFINITY,
      own: checkpoint.own,
      peerReceived: Math.max(checkpoint.peer.received, streamStart),
      peerApplied: Math.max(checkpoint.peer.applied, streamStart),
      baseFrom: superblock.inconsistent?.begunAt ?? Number.POSITIVE_INFINITY,
    },
    liveness,
    regions.cleaner,
    (header) => {
      const open = header.site === superblock.site.number ? ownScopes : scopes;
      if (header.type === TYPE_LOCK) {
        const { sequence, flags, volume, lba, blockCount } = header;
        open.set(sequence, { sequence, flags, volume, lba, blockCount });
      } else if (header.type === TYPE_UNLOCK || header.type === TYPE_ABORT) open.delete(header.scope);
    },
  );
  if (order !== null && checkpoint.order !== null) {
    // no MARK may tell of it: what the checkpoint holds is told again from the middle of scopes that had ended
    order.replayApplied(checkpoint.order.conflicts.applied);
    journal.peerApplied = order.conflicts.applied;
    scopes.clear();
    for (const [sequence, scope] of order.peerScopes) scopes.set(sequence, scope);
    if (config.role !== 'dual') checkSettled(config, superblock, journal, order);
  }
  if (report.base !== null && superblock.inconsistent !== null) superblock.inconsistent.base = report.base;

  // what was found may stand in the page cache only: from here on it counts as durable
  const call = (start: (done: (error: Error | null) => void) => void): Promise<void> =>
    new Promise((resolve, reject) => start((error) => (error ? reject(error) : resolve())));
  for (const segment of journal.segments.all()) {
    if ((segment.number + 1) * superblock.segmentSize <= checkpoint.position) continue;
    await call((done) => segment.file.sync(done));
  }
  // the superblock that counts, too: the next save goes over the other one
  for (const name of store.list()) {
    if (!SUPERBLOCK_NAMES.some((each) => each === name)) continue;
    const file = store.open(name, false);
    await call((done) => file.sync(done));
    file.close();
  }
  await call((done) => store.syncDirectory(done));
  if ((config.role === 'dual') !== (order !== null)) {
    // what is here is all settled; from here on the journal is read by the order of both sites, or of its streams alone
    const { own, peer, head } = journal;
    const settled = config.role === 'dual' ? DualOrder.settled(own.appended, peer.appended) : null;
    order = settled === null ? null : orderOf({ position: head, own: own.appended, peer: peer.appended }, settled);
    journal.order = order;
    // of a new state nothing is on the disk before the superblock: a first save that a crash tears is then known as such
    const { mapFile, mapEnd } = created
      ? checkpoint
      : await new Promise<CheckpointPlace>((resolve, reject) =>
          mapLog.checkpoint(head, maps, (error, place) => (place === null ? reject(error) : resolve(place))),
        );
    superblock.checkpoint = {
      mapFile,
      mapEnd,
      position: head,
      durable: head,
      own: own.appended,
      peer: { site: peer.site, received: peer.appended, applied: journal.peerApplied },
      openScopes: [...scopes.values()],
      ownScopes: [...ownScopes.values()],
      clock: journal.stamp,
      order: settled,
    };
  }
  if (config.role === 'primary') checkWhole(superblock);
  const promoted = config.role === 'primary' && superblock.role === 'standby';
  if (promoted) mintGeneration(superblock, journal); // its image goes on
  // what is left is on the disk
  superblock.suspectFrom = null;
  superblock.incarnation += 1;
  superblock.clean = false;
  superblock.role = config.role;
  // before the other site can hear of the new one, and rely on it
  if (config.role === 'dual' && superblock.whenSplit !== splitName(config.whenSplit ?? 'freeze'))
    superblock.whenSplit = null;
  const save = (done: (error: Error | null) => void): void => {
    // whatever this save tells of, the journal must still hold then: rot there is not to pass for a torn tail
    superblock.checkpoint.durable = Math.max(superblock.checkpoint.durable, journal.durable);
    files.save(superblock, done);
  };
  await call(save);

  return {
    superblock,
    journal,
    offload,
    liveness,
    maps,
    mapLog,
    regions,
    volumes,
    images,
    role: config.role,
    // promoted: it serves under a generation of its own, so nothing of the peer's has to be waited for
    recovery: { ...report, clean: wasClean || created || promoted },
    openScopes: [...scopes.values()],
    ownScopes: [...ownScopes.values()],
    order: journal.order === null ? null : order,
    warnings: [files.warning, findShortage(config, superblock, journal)].filter((each) => each !== null),
    save,
    get isSaving() {
      return files.isSaving;
    },
    rememberPeerDurable(sequence) {
      for (const peer of Object.values(superblock.peers)) if (sequence > peer.durable) peer.durable = sequence;
    },
    async close() {
      try {
        await offload.close();
        mapLog.close();
        for (const image of images.values()) await image.close();
      } finally {
        environment.closed();
      }
    },
  };
}

/**
 * Both sites wrote, and now one is to: no order but that of the streams is kept from here on. So neither may have what
 * the other lacks, which would go on top of it there and may be beneath it here.
 */
function checkSettled(config: GroupConfig, superblock: Superblock, journal: Journal, order: DualOrder): void {
  const { conflicts } = order;
  const known = Math.max(0, ...Object.values(superblock.peers).map(({ durable }) => durable));
  const settled = conflicts.openCount === 0 && conflicts.applied === conflicts.received;
  if (settled && known >= journal.own.appended) return;
  throw new ForelockError(
    'STATE_MISMATCH',
    `site ${superblock.site.name} was dual, and the other site is not known to have all that was written here (${known} of ${journal.own.appended}): it cannot become ${config.role} yet. ` +
      'Start both with --role dual, let them catch up with no host writing, and stop both; then change their roles. If the other site is gone for good, stay dual with --when-split only:' +
      superblock.site.name,
  );
}

/** Whoever serves alone needs an image that is one moment. */
function checkWhole({ site, role, inconsistent }: Superblock): void {
  if (inconsistent === null) return;
  throw new ForelockError(
    'STATE_MISMATCH',
    `site ${site.name} cannot become primary: its first copy was never finished, so its image is no moment of anything. Start it as ${role} again and let the copy finish`,
  );
}

/** A new generation at the ends of both streams here: what follows is not what the peer may have seen. */
export function mintGeneration(superblock: Superblock, journal: Journal): void {
  const newest = superblock.generations[superblock.generations.length - 1]!;
  const ends: Record<string, number> = {};
  for (const stream of [journal.own, journal.peer])
    if (stream.site !== 0 && stream.appended > 0) ends[stream.site] = stream.appended;
  const minted = {
    ordinal: newest.ordinal + 1,
    id: randomUUID(),
    parent: newest.id,
    minter: superblock.site.number,
    ends,
  };
  superblock.generations.push(minted);
  if (superblock.generations.length > GENERATIONS_MAX) superblock.generations.shift();
  journal.generation = minted.ordinal;
}

/** What a source offers its peer to write down as their next meeting: the same, until it is known to have done so. */
export function offerMeeting(superblock: Superblock, theirs: SiteState): Meeting {
  superblock.met[theirs.site.number] ??= { last: null, offered: null };
  const met = superblock.met[theirs.site.number]!;
  const counts = [met.last, ...Object.values(theirs.met[superblock.site.number] ?? {})].map((each) => each?.count ?? 0);
  // an id of ten digits, as above
  met.offered ??= { count: Math.min(1 + Math.max(...counts), MEETINGS_MAX), id: randomInt(2 ** 31, 2 ** 32) };
  return met.offered;
}

/**
 * Twice the volumes' size and four segments, so that half of what hosts may fill lives, however small the volumes: two are
 * kept free for the cleaner, which begins two below that. Never less than cleaning needs.
 */
function journalDefault(total: number, segmentSize: number): number {
  return Math.max(2 * total + 4 * segmentSize, total + 64 * MIB);
}

/** Why hosts will meet a full journal before their volumes are full; or null. Written back, a flat volume's blocks need no room. */
function findShortage(
  { role }: GroupConfig,
  { group, volumes, segmentSize }: Superblock,
  journal: Journal,
): string | null {
  const { limit, forHostsAsConfigured } = journal.room;
  let [size, needed, all] = [0, 0, 0];
  for (const volume of volumes) {
    all += volume.size;
    if (volume.platter === 'flat') continue;
    size += volume.size;
    needed += (volume.size / volume.blockSize) * recordSize(TYPE_WRITE, 1, Math.log2(volume.blockSize));
  }
  if (needed <= forHostsAsConfigured) return null;
  const then = role === 'standby' ? 'no more of the stream is taken' : 'writes fail with ENOSPC';
  return (
    `group ${group}: --journal ${formatSize(limit)} can hold ${formatSize((size / needed) * forHostsAsConfigured)} of the ` +
    `${formatSize(size)} of its volumes: ${then} once they have more data than that. Give it ${formatSize(journalDefault(all, segmentSize))}, as by default`
  );
}

/**
 * Many segments make cleaning cheap, large ones make appends cheap: a thirty-second of the journal, a power of two that
 * divides the ring.
 */
function chooseSegmentSize(journalSize: number, ringSize: number): number {
  const wanted = 2 ** Math.floor(Math.log2(Math.max(1, journalSize / 32)));
  const dividing = ringSize & -ringSize;
  return Math.min(dividing, SEGMENT_SIZE_MAX, Math.max(SEGMENT_SIZE_MIN, wanted));
}

function checkLimit(limit: number, segmentSize: number): void {
  if (limit < JOURNAL_SEGMENTS_MIN * segmentSize) {
    throw new ForelockError(
      'CONFIG',
      `--journal ${limit}: needs at least ${JOURNAL_SEGMENTS_MIN} segments of ${segmentSize} bytes`,
    );
  }
}

function regionShift(volume: Shape): number {
  // at most 2^28 regions, a table of 32 MiB
  return Math.max(0, Math.ceil(Math.log2(volume.size / volume.blockSize)) - 28);
}

/** Bytes of a volume's lock bitmap. */
function lockTable(volume: Shape): number {
  return lockTableSize(volume.size / volume.blockSize, regionShift(volume));
}

/** Bytes of shared memory that a group needs. */
function memorySize(ringSize: number, volumes: readonly Shape[]): number {
  return ringSize + volumes.reduce((sum, volume) => sum + lockTable(volume) + 64, 0) + 60 * MIB;
}

/** Why a group cannot have these volumes together, though each of them is good; or null. */
function findMemoryLack(ringSize: number, volumes: readonly Shape[]): string | null {
  const needed = MEMORY_BASE + memorySize(ringSize, volumes);
  if (needed <= GROUP_MEMORY_MAX) return null;
  return `the group's ${volumes.length} volumes with a ring of ${formatSize(ringSize)} need ${formatSize(needed)} of shared memory, and a group has at most ${formatSize(GROUP_MEMORY_MAX)}: put some of the volumes into another group, or choose a smaller --ring`;
}

/** An existing state must be what the configuration says. */
function checkConfig(config: GroupConfig, superblock: Superblock): void {
  const flat = superblock.volumes.find(({ platter }) => platter === 'flat');
  if (config.role === 'dual' && flat !== undefined) {
    throw new ForelockError(
      'CONFIG',
      `volume ${flat.name} is on platter flat, which cannot be dual: its image is written in place, and nothing could go beneath what is there. Start with --role primary or standby, or copy it to a volume on platter journal`,
    );
  }
  const mismatch = (what: string): never => {
    throw new ForelockError('STATE_MISMATCH', `${what}. Correct the configuration, or use another state directory`);
  };
  if (superblock.group !== config.group)
    mismatch(`the state directory holds group ${superblock.group}, the configuration says ${config.group}`);
  if (superblock.site.name !== config.site)
    mismatch(`the state directory belongs to site ${superblock.site.name}, the configuration says ${config.site}`);
  for (const wanted of config.volumes) {
    const volume = superblock.volumes.find((each) => each.name === wanted.name);
    if (volume === undefined)
      mismatch(
        `the group has no volume ${wanted.name} (it has ${superblock.volumes.map((each) => each.name).join(', ')}); volumes are fixed when a group is created`,
      );
    else {
      if (wanted.size !== undefined && wanted.size !== volume.size)
        mismatch(`volume ${wanted.name} has ${volume.size} bytes, the configuration says ${wanted.size}`);
      if (wanted.blockSize !== undefined && wanted.blockSize !== volume.blockSize)
        mismatch(
          `volume ${wanted.name} has blocks of ${volume.blockSize} bytes, the configuration says ${wanted.blockSize}`,
        );
      if (wanted.platter !== undefined && wanted.platter !== volume.platter)
        mismatch(`volume ${wanted.name} is on platter ${volume.platter}, the configuration says ${wanted.platter}`);
      if (wanted.path !== undefined && wanted.path !== volume.path)
        mismatch(
          `volume ${wanted.name} ${volume.path === undefined ? 'is on platter journal, without an image' : `has its image at ${volume.path}`}, the configuration says ${wanted.path}`,
        );
    }
  }
}
