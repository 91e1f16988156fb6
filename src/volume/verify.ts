/**
 * Online verify: both sites pin their image at one sequence, hash the same extents, and compare. Who asks leads; the
 * other site answers questions about its pinned view.
 *
 * The sequence is that of a FLUSH with FLAG_POINT: who leads pins its image when it appends it, the other site when it
 * applies it. Where both sites write, it stands within a read lock over the volume.
 */
import type { XXHashAPI } from 'xxhash-wasm';
import { AT_CHECKSUMS, FLAG_POINT, HEADER_SIZE } from '../../assembly/layout.js';
import { ForelockError } from '../errors.js';
import { NO_SPACE, RING_FULL } from '../journal/journal.js';
import { MAPPED, type MapView, UNMAPPED } from '../journal/map.js';
import { VERIFY_BLOCKS_MAX, VERIFY_CHUNK_SIZE, VERIFY_QUESTIONS_MAX, VERIFY_STALL_MS } from '../limits.js';
import type { Group } from './group.js';
import type { Pair } from './pair.js';
import { openScope, type Scope } from './scope.js';
import type { Sender } from './sender.js';
import type { Volume } from './volume.js';

/** The digest of an extent that is all zeroes, however it is stored. */
const ZERO_DIGEST = '0';
/** Of each kind that a report has: it is to fit an ANSWER. */
const EXTENTS_MAX = 100;
const NO_STORED_CHECKSUMS = 'platter flat keeps no checksums of what is in its image: verify without --maps';
/** So often it is looked whether the other site gets on, and told how far it is. */
const LOOK_MS = 1000;

/** How far a verify is: sequences while it waits for the other site to have applied them, then blocks. */
export interface VerifyProgress {
  doing: 'waiting' | 'comparing';
  done: number;
  total: number;
}

export interface VerifyReport {
  volume: string;
  equal: boolean;
  /** Both sites were compared as of this sequence of the source's stream. */
  sequence: number;
  /** What was compared: the data, re-read and hashed, or only the checksums stored when it was written. */
  compared: 'data' | 'stored checksums';
  blocks: number;
  /** Over all digests: equal at both sites if and only if the images are. */
  checksum: string;
  sites: [string, string];
  /** Extents that differ, bytes; at most 100 are told, and of those that cannot be read as many. */
  differences: { offset: number; size: number }[];
  unreadable: { site: string; offset: number; size: number; reason: string }[];
}

/**
 * Compares a volume at both sites. Only where its hosts are served. What it takes grows with what the other site is
 * behind and with the data; but it ends, with PEER_TIMEOUT, once the other has got no further for VERIFY_STALL_MS.
 */
export async function verifyVolume(
  pair: Pair,
  volume: Volume,
  maps: boolean,
  hash: XXHashAPI,
  onProgress?: (progress: VerifyProgress) => void,
): Promise<VerifyReport> {
  const { group } = volume;
  const source = group.sender;
  if (source === null) throw new ForelockError('EPERM', 'verify is led by a site that serves');
  if (maps && volume.platter === 'flat') throw new ForelockError('ENOTSUP', NO_STORED_CHECKSUMS);
  if (!source.connected)
    throw new ForelockError('AWAY', `the peer is away or not yet consistent: ${group.mirror.describe()}`);
  const { site } = group.journal.own;
  // nobody writes between the two moments at which the images are pinned
  const whole = { offset: 0, size: volume.size };
  const lock = group.order === null ? null : await openScope(volume, whole, { mode: 'read' });
  const sequence = await appendPoint(group, source, lock).catch((error) => {
    lock?.unlock().catch(() => {}); // in a frozen group that takes its time
    throw error;
  });
  try {
    await lock?.unlock(); // rejects if the lock had ended before: the two images need not be of one moment
    await untilApplied(group, source, sequence, onProgress);
    const point = { site, sequence };
    const view = pinnedView(volume, point);
    const report: VerifyReport = {
      volume: volume.name,
      equal: true,
      sequence,
      compared: maps ? 'stored checksums' : 'data',
      blocks: volume.size / volume.blockSize,
      checksum: '',
      sites: [group.state.superblock.site.name, pair.peerSite ?? '?'],
      differences: [],
      unreadable: [],
    };
    const total = hash.create64();
    const chunks = chunksOf(view, volume);
    let next = 0;
    const ordered: string[] = [];
    const worker = async (): Promise<void> => {
      while (next < chunks.length) {
        const index = next;
        next += 1;
        const { lba, blockCount } = chunks[index]!;
        const ask = pair.ask('hash', { volume: volume.name, sequence, lba, blockCount, maps });
        const [mine, theirs] = await Promise.all([
          digestOf(volume, point, lba, blockCount, maps, hash),
          ask as Promise<Digest>,
        ]);
        ordered[index] = mine.digest;
        await compare(lba, blockCount, mine, theirs);
        onProgress?.({ doing: 'comparing', done: lba + blockCount, total: report.blocks });
      }
    };
    const compare = async (lba: number, blockCount: number, mine: Digest, theirs: Digest): Promise<void> => {
      for (const [site, one] of [
        [report.sites[0], mine],
        [report.sites[1], theirs],
      ] as const) {
        if (one.error === null) continue;
        report.equal = false;
        if (report.unreadable.length === EXTENTS_MAX) continue;
        report.unreadable.push({
          site,
          offset: lba * volume.blockSize,
          size: blockCount * volume.blockSize,
          reason: one.error.slice(0, 1000),
        });
      }
      if (mine.error !== null || theirs.error !== null || mine.digest === theirs.digest) return;
      report.equal = false;
      if (blockCount === 1 || report.differences.length >= EXTENTS_MAX)
        return addDifference(report, volume, lba, blockCount);
      const half = Math.ceil(blockCount / 2);
      for (const [from, count] of [
        [lba, half],
        [lba + half, blockCount - half],
      ] as const) {
        const ask = pair.ask('hash', { volume: volume.name, sequence, lba: from, blockCount: count, maps });
        const [a, b] = await Promise.all([digestOf(volume, point, from, count, maps, hash), ask as Promise<Digest>]);
        await compare(from, count, a, b);
      }
    };
    await Promise.all(Array.from({ length: VERIFY_QUESTIONS_MAX }, worker));
    chunks.forEach(({ lba, blockCount }, index) => {
      if (ordered[index] !== ZERO_DIGEST) total.update(`${lba}+${blockCount}=${ordered[index]};`);
    });
    report.checksum = total.digest().toString(16).padStart(16, '0');
    report.differences.sort((a, b) => a.offset - b.offset);
    return report;
  } finally {
    group.views.releasePoint(site, sequence);
    pair.ask('release', { sequence }).catch(() => {});
  }
}

export interface Digest {
  digest: string;
  error: string | null;
}

/** The FLUSH, of this or the other site's stream, at which a view was pinned. */
export interface PointPlace {
  site: number;
  sequence: number;
}

/** @throws ForelockError ESHUTDOWN: it was dropped, and reads as zeroes from then on */
export function pinnedView(volume: Volume, { site, sequence }: PointPlace): MapView {
  const view = volume.group.views.atPoint(site, sequence, volume.number);
  if (view === null) throw volume.group.views.explainLostPoint(site);
  return view;
}

/**
 * One side's digest of an extent of a pinned view. Memory: one chunk.
 * @throws ForelockError ESHUTDOWN: the view was dropped meanwhile
 */
export async function digestOf(
  volume: Volume,
  point: PointPlace,
  lba: number,
  blockCount: number,
  maps: boolean,
  hash: XXHashAPI,
): Promise<Digest> {
  const view = pinnedView(volume, point);
  if (isHole(volume, view, lba, blockCount)) return { digest: ZERO_DIGEST, error: null };
  if (maps) return storedDigest(volume, point, lba, blockCount, hash);
  const { group } = volume;
  const digest = hash.create64();
  let zero = true;
  for (let at = lba; at < lba + blockCount; ) {
    const count = Math.min(lba + blockCount - at, VERIFY_CHUNK_SIZE / volume.blockSize);
    const bytes = Buffer.allocUnsafe(count * volume.blockSize);
    const from = at;
    const error = await new Promise<ForelockError | null>((resolve) => {
      group.reader.read(
        view,
        volume.number,
        volume.blockShift,
        from,
        count,
        bytes,
        group.image(volume.number),
        resolve,
      );
    });
    pinnedView(volume, point); // while it was read the image may have changed, or its segments gone
    if (error !== null) return { digest: '', error: error.message };
    digest.update(bytes);
    zero = zero && bytes.every((byte) => byte === 0);
    at += count;
  }
  return { digest: zero ? ZERO_DIGEST : digest.digest().toString(16), error: null };
}

/** The same of the checksums that stand in the records, without reading the data. */
async function storedDigest(
  volume: Volume,
  point: PointPlace,
  lba: number,
  blockCount: number,
  hash: XXHashAPI,
): Promise<Digest> {
  const digest = hash.create64();
  const chunk = VERIFY_CHUNK_SIZE / volume.blockSize;
  for (let at = lba; at < lba + blockCount; at += chunk) {
    // what is a hole to the other site may be long, and written here: hosts are not kept waiting for all of it
    if (at > lba) await new Promise<void>((resolve) => volume.group.after(0, resolve));
    const count = Math.min(chunk, lba + blockCount - at);
    const sums = storedSums(volume, pinnedView(volume, point), at, count);
    if (typeof sums === 'string') return { digest: '', error: sums };
    digest.update(sums);
  }
  return { digest: digest.digest().toString(16), error: null };
}

/** @returns eight bytes a block, zeroes for what is not stored; or why they cannot be had */
function storedSums(volume: Volume, view: MapView, lba: number, blockCount: number): Buffer | string {
  const { journal } = volume.group;
  const sums = Buffer.alloc(8 * blockCount);
  const small = new Uint8Array(HEADER_SIZE + 8 * 1024);
  for (let i = 0; i < blockCount; i += 1) {
    if (!view.lookup(lba + i)) {
      if (volume.platter === 'flat') return NO_STORED_CHECKSUMS;
      continue;
    }
    if (view.zero) continue;
    const { position, index } = view;
    const at = AT_CHECKSUMS + 8 * index;
    if (journal.inRing(position))
      sums.set(
        journal.memory.bytes.subarray(journal.address(position) + at, journal.address(position) + at + 8),
        8 * i,
      );
    else {
      const segment = journal.segments.get(journal.segments.numberOf(position));
      const bytes = segment?.file.read(small.subarray(0, at + 8), position % journal.segmentSize) ?? 0;
      if (bytes < at + 8) return `the record of block ${lba + i} cannot be read`;
      sums.set(small.subarray(at, at + 8), 8 * i);
    }
  }
  return sums;
}

function isHole(volume: Volume, view: MapView, lba: number, blockCount: number): boolean {
  for (let at = lba; at < lba + blockCount; ) {
    at += view.run(at, lba + blockCount - at);
    if (view.status === MAPPED || (view.status === UNMAPPED && volume.platter === 'flat')) return false;
  }
  return true;
}

function addDifference(report: VerifyReport, volume: Volume, lba: number, blockCount: number): void {
  const offset = lba * volume.blockSize;
  const size = blockCount * volume.blockSize;
  const last = report.differences.find((each) => each.offset + each.size === offset);
  if (last !== undefined) last.size += size;
  else if (report.differences.length < EXTENTS_MAX) report.differences.push({ offset, size });
}

/** Extents to be hashed: chunks of data, runs of holes. */
function chunksOf(view: MapView, volume: Volume): { lba: number; blockCount: number }[] {
  const chunks: { lba: number; blockCount: number }[] = [];
  const chunk = VERIFY_CHUNK_SIZE / volume.blockSize;
  for (let lba = 0; lba < view.blockCount; ) {
    const run = view.run(lba, VERIFY_BLOCKS_MAX);
    const hole = view.status !== MAPPED && (volume.platter === 'journal' || view.status !== UNMAPPED);
    const blockCount = hole && run >= chunk ? run : Math.min(chunk, view.blockCount - lba);
    chunks.push({ lba, blockCount });
    lba += blockCount;
  }
  return chunks;
}

/** @throws ForelockError why the group does not serve, at once; why the lock has ended; ENOSPC, PEER_TIMEOUT */
async function appendPoint(group: Group, source: Sender, lock: Scope | null): Promise<number> {
  let isOver = false;
  const stall = stallOf(group, source, () => {});
  const appended = new Promise<number>((resolve, reject) => {
    group.whenRoom(() => {
      if (isOver) return true;
      const late = group.ended ?? group.refuseWrite() ?? lock?.ended ?? null;
      const sequence = late === null ? group.appendFlush(FLAG_POINT) : 0;
      if (late !== null) reject(late);
      else if (sequence === RING_FULL) return false;
      else if (sequence === NO_SPACE)
        reject(new ForelockError('ENOSPC', `no room for the point to verify at: ${group.journal.noSpaceText}`));
      else resolve(sequence);
      return true;
    });
  });
  return Promise.race([appended, stall.over]).finally(() => {
    isOver = true;
    stall.end();
  });
}

/** The standby pins its view when it applies the point. */
async function untilApplied(
  group: Group,
  source: Sender,
  sequence: number,
  onProgress?: (progress: VerifyProgress) => void,
): Promise<void> {
  const stall = stallOf(group, source, () => {
    onProgress?.({ doing: 'waiting', done: source.source.applied, total: sequence });
  });
  const applied = async (): Promise<void> => {
    while (source.source.applied < sequence) {
      if (!source.connected) throw new ForelockError('AWAY', 'the peer went away before it had applied everything');
      await new Promise<void>((resolve) => group.whenPeerMoved(resolve));
    }
  };
  await Promise.race([applied(), stall.over]).finally(stall.end);
}

/** `over` rejects once the peer, which is behind, has got no further for VERIFY_STALL_MS. Looks once in LOOK_MS, until it is ended. */
function stallOf(group: Group, { source }: Sender, look: () => void): { over: Promise<never>; end(): void } {
  let isOver = false;
  const over = new Promise<never>((_, reject) => {
    let at = '';
    let since = 0;
    const again = (): void => {
      if (isOver) return;
      look();
      const { received, granted, applied, peerDurable } = source;
      const now = [received, granted, applied, peerDurable].join();
      if (now !== at || applied >= source.appended) {
        at = now;
        since = group.nowMs();
      }
      if (group.nowMs() - since < VERIFY_STALL_MS) return group.after(LOOK_MS, again);
      const seconds = VERIFY_STALL_MS / 1000;
      const text = `the other site has taken and applied nothing for ${seconds} s: it stands at sequence ${applied} of ${source.appended} (received ${received}); see forelock status there, its disk or its journal may be full`;
      reject(new ForelockError('PEER_TIMEOUT', text));
    };
    again();
  });
  return {
    over,
    end: () => {
      isOver = true;
    },
  };
}
