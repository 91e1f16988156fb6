/** What a world in which both sites write is drawn of, and how a seed draws it. */
import type { AckName } from '../../src/volume/gate.js';
import { type DiskFaults, drawDiskFaults } from './group-draw.js';
import { seededRandom } from './memory-store.js';

export interface DualWorldOptions extends DiskFaults {
  seed: number;
  ack: AckName;
  volumes: { blocks: number; blockSize: number }[];
  segmentSize: number;
  journalSegments: number;
  ringSegments: number;
  poolSealBytes: number;
  /** At each site. */
  hosts: number;
  /** Host operations of the phase with faults, of both sites together. */
  operations: number;
  writeSizeMax: number;
  /** Blocks at a volume's beginning that most operations go to. */
  hotBlocks: number;
  /** Chances of each kind of host operation; the rest are writes. */
  flush: number;
  fua: number;
  trim: number;
  zero: number;
  read: number;
  partial: number;
  scope: number;
  readLock: number;
  /** Share of scopes that abort, have another one inside, are unlocked late, are never unlocked. */
  abort: number;
  nested: number;
  late: number;
  never: number;
  thinkMs: number;
  /** The first site writes alone, as a primary, for so long before both are dual. 0: both are empty and dual. */
  soloMs: number;
  /** Mean ms between faults of a kind; Infinity: never. */
  crashMs: number;
  bothCrashMs: number;
  restartMs: number;
  cutMs: number;
  halfOpenMs: number;
  stallMs: number;
  slowLineMs: number;
  diskFullMs: number;
  badDiskMs: number;
  holdMs: number;
  longHoldMs: number;
  clockJumpMs: number;
  emptyMs: number;
  kill: number;
  downMs: number;
  lateFrames: number;
  bitFlip: number;
  skewMs: number;
  delayMax: number;
  rate: number;
  syncMs: number;
  /** `freeze`, or `prefer:` and a site's name; and how often the two are apart for longer than that one waits. */
  whenSplit: string;
  partMs: number;
  /** Chance of a host operation. */
  transaction: number;
}

const NEVER = Number.POSITIVE_INFINITY;

/** A world in which nothing happens by itself: for tests that tell one story. */
export const DUAL_QUIET: DualWorldOptions = {
  seed: 0,
  ack: 'local',
  volumes: [{ blocks: 64, blockSize: 4096 }],
  segmentSize: 128 * 1024,
  journalSegments: 20,
  ringSegments: 4,
  poolSealBytes: 1_000_000,
  hosts: 0,
  operations: 0,
  writeSizeMax: 4096,
  hotBlocks: 12,
  flush: 0,
  fua: 0,
  trim: 0,
  zero: 0,
  read: 0,
  partial: 0,
  scope: 0,
  readLock: 0,
  abort: 0,
  nested: 0,
  late: 0,
  never: 0,
  thinkMs: 1,
  soloMs: 0,
  crashMs: NEVER,
  bothCrashMs: NEVER,
  restartMs: NEVER,
  cutMs: NEVER,
  halfOpenMs: NEVER,
  stallMs: NEVER,
  slowLineMs: NEVER,
  diskFullMs: NEVER,
  badDiskMs: NEVER,
  holdMs: NEVER,
  longHoldMs: NEVER,
  clockJumpMs: NEVER,
  emptyMs: NEVER,
  kill: 0,
  downMs: 1,
  lateFrames: 0,
  bitFlip: 0,
  readErrorMs: NEVER,
  slowDiskMs: NEVER,
  openFault: 0,
  noFilesMs: NEVER,
  refusalMs: NEVER,
  repeat: 0,
  skewMs: 0,
  delayMax: 0.5,
  rate: 100_000,
  syncMs: 0.5,
  whenSplit: 'freeze',
  partMs: NEVER,
  transaction: 0,
};

/** Sizes are small beside the limits (small-limits.ts), and hosts meet on few blocks. */
export function drawDual(seed: number, random: () => number): DualWorldOptions {
  const pick = <T>(...values: T[]): T => values[Math.floor(random() * values.length)]!;
  const mean = (chance: number, least: number, most: number) =>
    random() < chance ? least + random() * (most - least) : NEVER;
  const blockSize = pick(4096, 4096, 512);
  return {
    seed,
    ack: pick('local', 'local', 'received', 'applied'),
    volumes: Array.from({ length: pick(1, 1, 2) }, () => ({
      blocks: blockSize === 4096 ? pick(24, 60) : pick(60, 300),
      blockSize,
    })),
    segmentSize: 128 * 1024,
    journalSegments: pick(9, 12, 20, 40),
    ringSegments: pick(1, 2, 4),
    poolSealBytes: pick(2048, 65536, 1_000_000),
    hosts: pick(1, 2, 4, 6),
    operations: 800 + 8 * Math.floor(random() * 200),
    writeSizeMax: pick(4096, 16384, 32768),
    hotBlocks: pick(2, 6, 16, 40),
    flush: pick(0.01, 0.05, 0.15),
    fua: pick(0, 0.05, 0.2),
    trim: pick(0, 0.05),
    zero: pick(0, 0.05),
    read: pick(0.05, 0.2),
    partial: pick(0, 0.3),
    scope: pick(0.05, 0.15, 0.4),
    readLock: pick(0, 0.02, 0.05),
    abort: pick(0, 0.5, 0.5, 1),
    nested: pick(0, 0.2),
    late: pick(0, 0.1, 0.4),
    never: pick(0, 0, 0.03),
    thinkMs: pick(1, 8, 40),
    soloMs: random() < 0.25 ? 100 + random() * 1500 : 0,
    crashMs: mean(0.5, 100, 3000),
    bothCrashMs: mean(0.3, 200, 3000),
    restartMs: mean(0.3, 200, 3000),
    cutMs: mean(0.5, 50, 2000),
    halfOpenMs: mean(0.3, 100, 4000),
    stallMs: mean(0.3, 100, 2000),
    slowLineMs: mean(0.3, 100, 1000),
    diskFullMs: mean(0.2, 200, 3000),
    badDiskMs: mean(0.15, 300, 3000),
    holdMs: mean(0.4, 20, 500),
    longHoldMs: mean(0.2, 500, 8000),
    clockJumpMs: mean(0.4, 100, 3000),
    emptyMs: mean(0.08, 500, 4000),
    kill: pick(0, 0.5, 1),
    downMs: pick(100, 1000, 5000),
    lateFrames: pick(0, 0.5, 1),
    bitFlip: random() < 0.25 ? random() * 0.1 : 0,
    skewMs: pick(0, 10, 10_000, 400 * 86_400_000),
    delayMax: pick(0.5, 5, 40, 100),
    rate: pick(2000, 20_000, 100_000),
    syncMs: pick(0.5, 5, 20),
    ...drawMore(seededRandom(~seed)),
  };
}

/** Drawn with chances of their own: to take some of the world's would make another world of every seed. */
function drawMore(random: () => number): Pick<DualWorldOptions, 'whenSplit' | 'partMs' | 'transaction'> & DiskFaults {
  const draw = random();
  const whenSplit = draw < 0.7 ? 'freeze' : draw < 0.85 ? 'prefer:alpha' : 'prefer:beta';
  const partMs = 300 + random() * 2700;
  const transaction = random() < 0.3 ? 0.05 + random() * 0.25 : 0;
  return { whenSplit, partMs: whenSplit === 'freeze' ? NEVER : partMs, transaction, ...drawDiskFaults(random) };
}
