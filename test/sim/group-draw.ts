/** What a world is drawn of, and how a seed draws it. */
import type { KernelName } from '../../src/kernel/kernel.js';
import type { RejectPolicy } from '../../src/mirror/wire.js';
import type { AckName } from '../../src/volume/gate.js';
import type { WhenPeerAway } from '../../src/volume/group.js';
import { seededRandom } from './memory-store.js';

export interface GroupWorldOptions {
  seed: number;
  kernel: KernelName;
  ack: AckName;
  speculation: 'on' | 'off';
  whenPeerAway: WhenPeerAway;
  onReject: RejectPolicy;
  volumes: { blocks: number; blockSize: number; platter: 'journal' | 'flat' }[];
  segmentSize: number;
  journalSegments: number;
  ringSegments: number;
  poolSealBytes: number;
  hosts: number;
  /** Operations that each host has under way. */
  depth: number;
  /** The phase with faults ends after so many host operations, or so many ms. */
  operations: number;
  safetyMs: number;
  /** Bytes of the largest host write. */
  writeSizeMax: number;
  /** Chances of each kind of host operation; the rest are writes. */
  flush: number;
  fua: number;
  trim: number;
  zero: number;
  read: number;
  scope: number;
  transaction: number;
  partial: number;
  /** Longest pause of a host between operations, ms. */
  thinkMs: number;
  /** Mean ms between faults of a kind; Infinity: never. */
  sourceCrashMs: number;
  targetCrashMs: number;
  bothCrashMs: number;
  restartMs: number;
  cutMs: number;
  pauseMs: number;
  diskFullMs: number;
  badDiskMs: number;
  holdMs: number;
  /** Share of crashes that are of the process only. */
  kill: number;
  /** Longest time that a site or the link stays away, ms. */
  downMs: number;
  bitFlip: number;
  /** How far apart the sites' clocks may be when a machine starts, ms. */
  skewMs: number;
  clockJumpMs: number;
  /** A cut that one end does not see; and the share of these at which frames of the old link still arrive. */
  halfOpenMs: number;
  lateFrames: number;
  stallMs: number;
  /** Long read locks at the target, pinned views of it, rot in its old segments. */
  longHoldMs: number;
  viewMs: number;
  rotMs: number;
  /** The target takes over from a source that crashed. */
  failOverMs: number;
  /** The target takes over from a source that comes back with what it has, or that never went. */
  splitMs: number;
  /** A site is started with an older copy of its disks. */
  restoreMs: number;
  /** A new machine becomes the target, and in the middle of its first copy the one before takes over from the source. */
  replaceMs: number;
  /** A site's disk fails reads, is slow to sync; and the chance that it fails something while a gateway opens. */
  readErrorMs: number;
  slowDiskMs: number;
  openFault: number;
  /** Its process may open no more files for a while; its disk refuses to remove, rename or cut a file. */
  noFilesMs: number;
  refusalMs: number;
  /** Chance that a frame at the beginning of a resumed stream comes twice. */
  repeat: number;
  /** Share of a flat image that holds data before there is any group; the target's may hold rubbish. */
  prefilled: number;
  /** When the target's machine first appears, ms. */
  joinMs: number;
  delayMax: number;
  rate: number;
  syncMs: number;
}

/** A world in which nothing happens by itself: for tests that tell one story. */
export const QUIET: GroupWorldOptions = {
  seed: 0,
  kernel: 'wasm',
  ack: 'local',
  speculation: 'on',
  whenPeerAway: 'degrade',
  onReject: 'target-retry',
  volumes: [{ blocks: 64, blockSize: 4096, platter: 'journal' }],
  segmentSize: 128 * 1024,
  journalSegments: 20,
  ringSegments: 4,
  poolSealBytes: 1_000_000,
  hosts: 0,
  depth: 1,
  operations: 0,
  safetyMs: 60_000,
  writeSizeMax: 4096,
  flush: 0,
  fua: 0,
  trim: 0,
  zero: 0,
  read: 0,
  scope: 0,
  transaction: 0,
  partial: 0,
  thinkMs: 1,
  sourceCrashMs: Number.POSITIVE_INFINITY,
  targetCrashMs: Number.POSITIVE_INFINITY,
  bothCrashMs: Number.POSITIVE_INFINITY,
  restartMs: Number.POSITIVE_INFINITY,
  cutMs: Number.POSITIVE_INFINITY,
  pauseMs: Number.POSITIVE_INFINITY,
  diskFullMs: Number.POSITIVE_INFINITY,
  badDiskMs: Number.POSITIVE_INFINITY,
  holdMs: Number.POSITIVE_INFINITY,
  skewMs: 10_000,
  clockJumpMs: Number.POSITIVE_INFINITY,
  halfOpenMs: Number.POSITIVE_INFINITY,
  lateFrames: 0,
  stallMs: Number.POSITIVE_INFINITY,
  longHoldMs: Number.POSITIVE_INFINITY,
  viewMs: Number.POSITIVE_INFINITY,
  rotMs: Number.POSITIVE_INFINITY,
  failOverMs: Number.POSITIVE_INFINITY,
  splitMs: Number.POSITIVE_INFINITY,
  restoreMs: Number.POSITIVE_INFINITY,
  replaceMs: Number.POSITIVE_INFINITY,
  readErrorMs: Number.POSITIVE_INFINITY,
  slowDiskMs: Number.POSITIVE_INFINITY,
  openFault: 0,
  noFilesMs: Number.POSITIVE_INFINITY,
  refusalMs: Number.POSITIVE_INFINITY,
  repeat: 0,
  prefilled: 0,
  kill: 0,
  downMs: 1,
  bitFlip: 0,
  joinMs: 0,
  delayMax: 0.5,
  rate: 100_000,
  syncMs: 0.5,
};

/** Sizes are small beside the limits (small-limits.ts): rings wrap and journals fill within a few hundred writes. */
export function draw(seed: number, random: () => number): GroupWorldOptions {
  const pick = <T>(...values: T[]): T => values[Math.floor(random() * values.length)]!;
  const mean = (chance: number, least: number, most: number) =>
    random() < chance ? least + random() * (most - least) : Number.POSITIVE_INFINITY;
  const blockSize = pick(4096, 512, 1024);
  const flat = random() < 0.15;
  const speculation = random() < 0.88 ? 'on' : 'off';
  const volumes = Array.from({ length: pick(1, 1, 2) }, () => ({
    blocks: blockSize === 4096 ? pick(40, 90) : pick(200, 400),
    blockSize,
    platter: flat ? ('flat' as const) : ('journal' as const),
  }));
  return {
    seed,
    kernel: random() < 0.04 ? 'reference' : 'wasm',
    ack: pick('local', 'received', 'applied'),
    speculation,
    whenPeerAway: pick('degrade', 'degrade', 'block', 'fail'),
    volumes,
    segmentSize: 128 * 1024,
    journalSegments: pick(9, 12, 20, 40),
    ringSegments: pick(1, 2, 4),
    poolSealBytes: pick(2048, 16384, 65536, 1_000_000),
    hosts: pick(1, 2, 4, 8),
    operations: 64_000 + 16 * Math.floor(random() * 1000),
    safetyMs: pick(5000, 10_000, 20_000),
    writeSizeMax: pick(4096, 8192, 32768),
    flush: pick(0.02, 0.1, 0.2),
    fua: pick(0, 0.05, 0.2),
    trim: pick(0, 0.05),
    zero: pick(0, 0.05),
    read: pick(0.05, 0.2),
    ...drawScopes(pick(0, 0.03, 0.1)),
    partial: pick(0, 0.3),
    thinkMs: pick(0.5, 1, 4, 20),
    sourceCrashMs: mean(0.5, 100, 3000),
    targetCrashMs: mean(0.5, 100, 3000),
    bothCrashMs: mean(0.3, 200, 3000),
    restartMs: mean(0.3, 200, 3000),
    cutMs: mean(0.5, 50, 2000),
    pauseMs: mean(0.3, 100, 1000),
    diskFullMs: mean(0.2, 200, 3000),
    badDiskMs: mean(0.15, 300, 3000),
    holdMs: mean(0.4, 20, 500),
    skewMs: pick(0, 10_000, 400 * 86_400_000),
    clockJumpMs: mean(0.4, 100, 3000),
    halfOpenMs: mean(0.4, 100, 4000),
    lateFrames: pick(0, 0.5, 1),
    stallMs: mean(0.3, 100, 2000),
    longHoldMs: mean(0.3, 500, 8000),
    viewMs: mean(0.4, 50, 1000),
    rotMs: mean(0.15, 500, 8000),
    failOverMs: mean(0.2, 1000, 10_000),
    prefilled: pick(0, 0.5, 1),
    kill: pick(0, 0.5, 1),
    downMs: pick(100, 1000, 15_000),
    bitFlip: random() < 0.3 ? random() * 0.1 : 0,
    joinMs: random() < 0.5 ? 0 : random() * 1500,
    delayMax: pick(0.5, 5, 40),
    rate: pick(2000, 20_000, 100_000),
    syncMs: pick(0.5, 5, 20),
    onReject: pick('target-retry', 'halt', 'retransmit', 'retransmit'),
    depth: pick(1, 4, 8, 16),
    ...drawMore(seededRandom(~seed)),
  };
}

/** Drawn with chances of their own: to take some of the world's would make another world of every seed. */
function drawMore(random: () => number): Pick<GroupWorldOptions, 'splitMs' | 'restoreMs' | 'replaceMs'> & DiskFaults {
  const mean = (): number => (random() < 0.12 ? 300 + random() * 2700 : Number.POSITIVE_INFINITY);
  return { splitMs: mean(), restoreMs: mean(), replaceMs: mean(), ...drawDiskFaults(random) };
}

export type DiskFaults = Pick<
  GroupWorldOptions,
  'readErrorMs' | 'slowDiskMs' | 'openFault' | 'repeat' | 'noFilesMs' | 'refusalMs'
>;

/** The same where both sites write. */
export function drawDiskFaults(random: () => number): DiskFaults {
  const mean = (): number => (random() < 0.08 ? 200 + random() * 1800 : Number.POSITIVE_INFINITY);
  const chance = (): number => (random() < 0.08 ? 0.1 + random() * 0.4 : 0);
  const drawn = { readErrorMs: mean(), slowDiskMs: mean(), openFault: chance(), repeat: chance() };
  return { ...drawn, noFilesMs: mean(), refusalMs: mean() };
}

/** Transactions come with scopes: drawn by themselves they would make another world of every seed. */
function drawScopes(scope: number): { scope: number; transaction: number } {
  return { scope, transaction: scope === 0 ? 0 : 0.06 };
}
