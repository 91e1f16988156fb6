/** A journal by itself, on a disk in memory: what the tests of journal, recovery and cleaner stand on. */
import { TYPE_FLUSH, TYPE_WRITE } from '../../assembly/layout.js';
import { Journal } from '../../src/journal/journal.js';
import { Liveness } from '../../src/journal/liveness.js';
import { BlockMap } from '../../src/journal/map.js';
import { BlockReader } from '../../src/journal/reader.js';
import { type ReplayFrom, recover } from '../../src/journal/recovery.js';
import { createKernel } from '../../src/kernel/create.js';
import type { Kernel } from '../../src/kernel/kernel.js';
import { GroupMemory, type Region } from '../../src/kernel/memory.js';
import { MIB } from '../../src/limits.js';
import { Scheduler, SimOffload } from '../sim/group-rig.js';
import { MemoryStore, seededRandom } from '../sim/memory-store.js';

export const SEGMENT_SIZE = 4 * MIB;
export const BLOCK_SIZE = 4096;
export const BLOCKS = 4096;
const SHIFT = 12;

export interface JournalRig {
  journal: Journal;
  store: MemoryStore;
  scheduler: Scheduler;
  map: BlockMap;
  liveness: Liveness;
  reader: BlockReader;
  cleanerBuffer: Region;
  /** For a StreamReader. */
  readBack: Region[];
  offload: SimOffload;
  /** Appends one write of `count` blocks filled with `fill`; its sequence. */
  write(lba: number, count: number, fill: number): number;
  flush(): number;
  /** Runs until nothing is left to do. */
  settle(): void;
  /** Fill of each block of an extent as the map shows it, or the error. */
  read(lba: number, count: number): number[] | Error;
}

export interface RigOptions {
  seed?: number;
  /** Opens what is on this disk. */
  store?: MemoryStore;
  scheduler?: Scheduler;
  from?: Partial<ReplayFrom>;
  journalId?: number;
  /** @default none */
  recordKey?: string;
  ownSite?: number;
  /** What the maps of the last checkpoint show. */
  fillMap?: (map: BlockMap) => void;
  limit?: number;
  segmentSize?: number;
  /** @default 2 */
  ringSegments?: number;
  kernel?: (memory: GroupMemory) => Kernel;
}

/** @throws ForelockError STATE_CORRUPT from recovery */
export function makeJournal(options: RigOptions = {}): JournalRig {
  const random = seededRandom(options.seed ?? 1);
  const scheduler = options.scheduler ?? new Scheduler();
  const store =
    options.store ??
    new MemoryStore({
      random,
      defer: (task, delayMs) => scheduler.schedule(task, delayMs),
      latencyMs: () => 0.1 + random(),
    });
  const segmentSize = options.segmentSize ?? SEGMENT_SIZE;
  const ringSize = (options.ringSegments ?? 2) * segmentSize;
  const memory = new GroupMemory(32 * MIB + ringSize);
  if (options.recordKey !== undefined) memory.useRecordKey(options.recordKey);
  const ring = memory.take(ringSize);
  const slices = [memory.take(4 * MIB), memory.take(4 * MIB)];
  const cleanerBuffer = memory.take(4 * MIB);
  const readBack = [memory.take(3 * MIB), memory.take(3 * MIB)];
  const kernel = (options.kernel ?? ((each) => createKernel('wasm', each)))(memory);
  const life = { over: false };
  const offload = new SimOffload({ random, scheduler }, life, () => store, memory, kernel, 1);
  const defer = (task: () => void): void => scheduler.schedule(task, 0.01);
  const journal = new Journal({
    store,
    kernel,
    offload,
    memory,
    ring,
    segmentSize,
    groupId: '00000000-0000-4000-8000-000000000000',
    journalId: options.journalId ?? 0xfeed,
    ownSite: options.ownSite ?? 1,
    generation: 1,
    poolSealBytes: 256 * 1024,
    clock: () => 1_700_000_000_000_000 + Math.floor(scheduler.now * 1000),
    defer,
    limit: options.limit ?? 64 * SEGMENT_SIZE,
  });
  const liveness = new Liveness(segmentSize);
  const map = new BlockMap(BLOCKS, liveness);
  journal.volumes.set(1, { number: 1, map, blockShift: SHIFT, flat: false });
  options.fillMap?.(map);
  const suspect = Number.POSITIVE_INFINITY;
  const from = {
    position: 0,
    durable: 0,
    suspect,
    own: 0,
    peerReceived: 0,
    peerApplied: 0,
    baseFrom: 0,
    ...options.from,
  };
  recover(journal, store, from, liveness, cleanerBuffer, () => {});
  const reader = new BlockReader(journal, offload, slices, defer);
  const settle = (): void => {
    while (scheduler.step());
  };
  return {
    journal,
    store,
    scheduler,
    map,
    liveness,
    reader,
    cleanerBuffer,
    readBack,
    offload,
    settle,
    write(lba, count, fill) {
      let at = journal.reserve(TYPE_WRITE, 0, 1, lba, count, SHIFT, 1, 0, 0);
      for (let tries = 0; at < 0; tries += 1) {
        if (tries > 10) throw new Error(`no room: ${at}`);
        journal.sync();
        settle();
        at = journal.reserve(TYPE_WRITE, 0, 1, lba, count, SHIFT, 1, 0, 0);
      }
      memory.bytes.fill(fill, at, at + count * BLOCK_SIZE);
      return journal.publish();
    },
    flush() {
      if (journal.reserve(TYPE_FLUSH, 0, 0, 0, 0, 0, 0, 0, 0) < 0) throw new Error('no room');
      const sequence = journal.publish();
      journal.sync();
      return sequence;
    },
    read(lba, count) {
      const into = new Uint8Array(count * BLOCK_SIZE);
      let outcome: Error | null | undefined;
      reader.read(map, 1, SHIFT, lba, count, into, null, (error) => {
        outcome = error;
      });
      settle();
      if (outcome === undefined) throw new Error('a read was not answered');
      if (outcome !== null) return outcome;
      return Array.from({ length: count }, (_, block) => {
        const fill = into[block * BLOCK_SIZE]!;
        const whole = into.subarray(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE).every((byte) => byte === fill);
        return whole ? fill : -1;
      });
    },
  };
}
