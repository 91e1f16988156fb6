/**
 * Two sites with their production Group, Pair, journal, recovery, cleaner and mirror, in a world of faults.
 *
 * What is simulated: time, chance, the disks, the link, the worker threads and the hosts. The oracle is a history: every
 * record of the source's stream, noted when it is published, as tags of 512-byte units. At any moment
 *
 *   - a read gives, for each unit, what was there when it was asked or was written meanwhile,
 *   - the source's image is the history at its last record, the target's at the last it applied,
 *   - what a flush promised is at every site that the ack names: now, and after any crash,
 *   - nothing is applied at the target under a lock that somebody holds there.
 */
import type { XXHashAPI } from 'xxhash-wasm';
import { AT_BLOCK_SHIFT, TYPE_FLUSH, TYPE_LOCAL, TYPE_TRIM, TYPE_WRITE, TYPE_ZERO } from '../../assembly/layout.js';
import type { ForelockError } from '../../src/errors.js';
import type { Journal } from '../../src/journal/journal.js';
import { RecordHeader } from '../../src/journal/record.js';
import { createKernel } from '../../src/kernel/create.js';
import type { Kernel, KernelName } from '../../src/kernel/kernel.js';
import type { AckName } from '../../src/volume/gate.js';
import { Group, type GroupPolicy, type Role, type WhenPeerAway } from '../../src/volume/group.js';
import {
  type GroupConfig,
  loadSuperblock,
  newSuperblock,
  openState,
  type StateEnvironment,
  volumesFromConfig,
} from '../../src/volume/group-state.js';
import type { LockRequest } from '../../src/volume/locks.js';
import { Pair } from '../../src/volume/pair.js';
import { Receiver } from '../../src/volume/receiver.js';
import { holdLock, openScope } from '../../src/volume/scope.js';
import { Sender } from '../../src/volume/sender.js';
import { type Life, memoryImage, Scheduler, SimLink, SimOffload } from './group-rig.js';
import { MemoryStore } from './memory-store.js';

/** A world in which nothing happens by itself: for tests that tell one story. */
export const QUIET: GroupWorldOptions = {
  seed: 0,
  kernel: 'wasm',
  ack: 'local',
  speculation: 'on',
  whenPeerAway: 'degrade',
  volumes: [{ blocks: 64, blockSize: 4096, platter: 'journal' }],
  segmentSize: 128 * 1024,
  journalSegments: 20,
  ringSegments: 4,
  poolSealBytes: 1_000_000,
  hosts: 0,
  operations: 0,
  writeSizeMax: 4096,
  flush: 0,
  fua: 0,
  trim: 0,
  zero: 0,
  read: 0,
  scope: 0,
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
  kill: 0,
  downMs: 1,
  bitFlip: 0,
  joinMs: 0,
  delayMax: 0.5,
  rate: 100_000,
  syncMs: 0.5,
};

/** Bytes of which a tag says what stands there. */
const UNIT = 512;
const TICK_MS = 50;

export interface GroupWorldOptions {
  seed: number;
  kernel: KernelName;
  ack: AckName;
  speculation: 'on' | 'off';
  whenPeerAway: WhenPeerAway;
  volumes: { blocks: number; blockSize: number; platter: 'journal' | 'flat' }[];
  segmentSize: number;
  journalSegments: number;
  ringSegments: number;
  poolSealBytes: number;
  hosts: number;
  /** Host operations of the safety phase. */
  operations: number;
  /** Bytes of the largest host write. */
  writeSizeMax: number;
  /** Chances of each kind of host operation; the rest are writes. */
  flush: number;
  fua: number;
  trim: number;
  zero: number;
  read: number;
  scope: number;
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
  /** When the target's machine first appears, ms. */
  joinMs: number;
  delayMax: number;
  rate: number;
  syncMs: number;
}

interface HistoryRecord {
  type: number;
  volume: number;
  /** Of the first unit, and how many. */
  unit: number;
  units: number;
  tags: Uint32Array | null;
}

class Site {
  store!: MemoryStore;
  images!: MemoryStore;
  life: Life & { over: boolean } = { over: true };
  state: 'off' | 'opening' | 'up' | 'closing' = 'off';
  pair: Pair | null = null;
  group: Group | null = null;
  /** Microseconds that its clock is off. */
  skew = 0;
  /** Its disk has failed a write or a sync: the page cache may show what will never be on the disk. */
  suspect = false;
  /** This life ends, or ended, with a clean stop. */
  stopping = false;
  /** Every sync takes so much longer. */
  slowSyncMs = 0;
  opens = 0;
  /** The target has records that the source dropped when it went on alone. */
  orphan = false;
  /** The source dropped what lies behind, while this site was down. */
  droppedTo = Number.POSITIVE_INFINITY;
  refusedSince = -1;
  readonly name: string;
  readonly role: Role;

  constructor(name: string, role: Role) {
    this.name = name;
    this.role = role;
  }

  get journal(): Journal {
    return this.group!.journal;
  }
}

export class GroupWorld {
  readonly options: GroupWorldOptions;
  readonly scheduler = new Scheduler();
  readonly random: () => number;
  readonly counts: Record<string, number> = {};
  readonly source = new Site('alpha', 'primary');
  readonly target = new Site('beta', 'standby');
  failure: Error | null = null;
  /** Asynchronous work of the code under test that is under way: its promises need turns. */
  readonly #hash: XXHashAPI;
  #faults = true;
  #link: [SimLink, SimLink] | null = null;
  #connecting = false;
  /** The line is down until then. */
  lineDownUntil = 0;
  delayMax: number;
  bitFlip: number;
  rate: number;
  // ---- the oracle
  readonly #history: HistoryRecord[] = [];
  readonly #snapshots: Map<number, Uint32Array>[] = [];
  #nextTag = 1;
  /** Sequence of the record that wrote a tag. */
  readonly #tagSequence = new Map<number, number>();
  /** Highest sequences that a flush has promised: on the source's disk, on the target's disk. */
  promisedHere = 0;
  #promisedThere = 0;
  #lowered = 0;
  readonly #header = new RecordHeader();
  #operations = 0;
  #outstanding = 0;
  /** Of these, the ones that are the gateway's to answer: all but open scopes. */
  #asked = 0;
  readonly #open = new Map<number, string>();
  #stopHosts = false;
  #hostLife = 0;
  readonly #holds = new Set<{ request: LockRequest; volume: number; lba: number; blockCount: number }>();
  #checks = 0;
  #retentionGivenUp = false;
  readonly trace: string[] = [];

  constructor(options: GroupWorldOptions, random: () => number, hash: XXHashAPI) {
    this.options = options;
    this.random = random;
    this.#hash = hash;
    this.delayMax = options.delayMax;
    this.bitFlip = options.bitFlip;
    this.rate = options.rate;
    this.#newDisks(this.source);
    this.#newDisks(this.target);
  }

  met = (what: string, count = 1): void => {
    this.counts[what] = (this.counts[what] ?? 0) + count;
  };

  note(what: string): void {
    this.trace.push(`${this.scheduler.now.toFixed(2)} ${what}`);
    if (this.trace.length > 400) this.trace.splice(0, 200);
  }

  get operations(): number {
    return this.#operations;
  }
  get checks(): number {
    return this.#checks;
  }
  get records(): number {
    return this.#history.length;
  }

  /** Lets that many ms pass. */
  async pass(ms: number): Promise<void> {
    const end = this.scheduler.now + ms;
    this.scheduler.schedule(() => {}, ms);
    await this.until(() => this.scheduler.now >= end, ms + 1, null);
  }

  /** Writes units with tags of their own at the source; resolves when it is answered. */
  write(unit: number, units: number): Promise<void> {
    const volume = [...this.source.group!.volumes.values()][0]!;
    const bytes = this.payload(units * UNIT);
    return new Promise((resolve, reject) => {
      const settle = (error: Error | null): void => (error === null ? resolve() : reject(error));
      volume.write(1, unit * UNIT, bytes.length, [bytes], false, { settle });
    });
  }

  /** Flushes at the source; the oracle keeps what is promised. */
  flush(): Promise<void> {
    const group = this.source.group!;
    const sequence = group.journal.own.appended;
    return new Promise((resolve, reject) => {
      [...group.volumes.values()][0]!.flush({
        settle: (error) => {
          if (error !== null) return reject(error);
          this.flushed(sequence);
          resolve();
        },
      });
    });
  }

  /** The promise of something under test, with time passing until it is kept. */
  async settle<T>(promise: Promise<T>, limitMs = 5000): Promise<T> {
    let over = false;
    promise.then(
      () => {
        over = true;
      },
      () => {
        over = true;
      },
    );
    await this.until(() => over, limitMs, 'not answered');
    return promise;
  }

  // ---- running

  /** The safety phase, then the phase without faults, which must come to its end. */
  async run(): Promise<void> {
    const { options } = this;
    this.open(this.source);
    this.#after(options.joinMs, () => {
      if (this.#faults) this.open(this.target);
    });
    for (let i = 0; i < options.hosts; i += 1) this.#host({ session: 0, life: -1 });
    this.#startFaults();
    this.#every(
      () => 20 + this.random() * 300,
      () => this.#lookAround(),
    );
    await this.until(() => this.#operations >= options.operations, 60_000, null);
    this.#calm();
    await this.until(() => this.settled(), 90_000, 'the phase without faults does not come to its end');
    await this.compareAll();
    await this.#stopBoth();
  }

  async until(done: () => boolean, limitMs: number, complaint: string | null): Promise<void> {
    const end = this.scheduler.now + limitMs;
    let steps = 0;
    while (!done()) {
      if (this.scheduler.now > end || steps > 3_000_000) {
        if (complaint === null) return;
        throw new Error(`${complaint}: ${this.describe()}`);
      }
      if (!this.scheduler.step()) throw new Error(`nothing is going to happen any more: ${this.describe()}`);
      steps += 1;
      for (let i = 0; i < 8; i += 1) await null;
      if (this.failure !== null) throw this.failure;
    }
  }

  describe(): string {
    const sites = [this.source, this.target].map((site) => {
      const group = site.group;
      if (group === null) return `${site.name} ${site.state}`;
      const { own, peer, head, sealed, written, durable, peerApplied, diskFull, failed, segments, limit } =
        group.journal;
      const mirror = group.mirror instanceof Sender ? group.mirror.source : group.mirror.target;
      return `${site.name} ${site.state} serving ${group.serving} ${site.pair?.state} ${site.pair?.refusal ?? ''} ${JSON.stringify(
        {
          own,
          peer,
          peerApplied,
          positions: { head, sealed, written, durable },
          disk: { diskFull, failed: failed?.message ?? null, used: segments.used, limit, count: segments.count },
          mirror: {
            phase: mirror.phase,
            received: mirror.received,
            granted: mirror.granted,
            applied: mirror.applied,
            rejected: mirror.rejected,
            consistent: mirror.consistent,
            epoch: mirror.epoch,
            attempt: mirror.attempt,
          },
          sent:
            group.mirror instanceof Sender
              ? [
                  group.mirror.source.sent,
                  group.mirror.source.trimmed,
                  group.mirror.source.credit,
                  String(group.mirror.retainFrom),
                ]
              : null,
          checkpoint: group.checkpointer.position,
          cleaner: group.cleaner.counters,
          degraded: group.state.superblock.degradedSince,
        },
      )}`;
    });
    return `${sites.join('; ')}; link ${this.#link === null ? 'none' : this.#link.map((end) => end.describe()).join(' ')}, ${this.#outstanding} operations open, history ${this.#history.length}`;
  }

  #after(delayMs: number, task: () => void): void {
    this.scheduler.schedule(() => {
      try {
        task();
      } catch (error) {
        this.fail(error as Error);
      }
    }, delayMs);
  }

  #every(delay: () => number, task: () => void): void {
    const again = (): void => {
      task();
      this.#after(delay(), again);
    };
    this.#after(delay(), again);
  }

  fail(error: Error): void {
    this.failure ??= error;
  }

  #violation(what: string): never {
    throw new Error(`${what}: ${this.describe()}`);
  }

  // ---- machines

  #newDisks(site: Site): void {
    const store = () =>
      new MemoryStore({
        random: this.random,
        defer: (task, delayMs) => this.#after(delayMs, task),
        latencyMs: (operation) =>
          operation === 'write'
            ? 0.02 + this.random() * 0.6
            : 0.1 + this.random() * this.options.syncMs + (operation === 'sync' ? site.slowSyncMs : 0),
      });
    site.store = store();
    site.images = store();
  }

  #config(site: Site): GroupConfig {
    const { options } = this;
    return {
      group: 'main',
      site: site.name,
      role: site.role,
      volumes: options.volumes.map(({ blocks, blockSize, platter }, index) => ({
        name: `v${index}`,
        size: blocks * blockSize,
        blockSize,
        platter,
        path: platter === 'flat' ? `image-${index}` : undefined,
      })),
      journalSize: options.segmentSize * options.journalSegments,
      ringSize: options.segmentSize * options.ringSegments,
    };
  }

  open(site: Site): void {
    if (site.state !== 'off') return;
    const life = { over: false };
    site.life = life;
    site.state = 'opening';
    site.stopping = false;
    site.opens += 1;
    site.skew = Math.floor((this.random() - 0.5) * 20_000_000);
    this.#start(site, life).catch((error) => {
      if (life.over) return;
      if (error.code !== 'EIO' && error.code !== 'ENOSPC') return this.fail(error);
      this.met('disk failed while opening');
      this.crash(site, true);
      this.#after(20, () => this.open(site));
    });
  }

  async #start(site: Site, life: Life): Promise<void> {
    const { options, scheduler } = this;
    const config = this.#config(site);
    const defer = (task: () => void): void =>
      this.#after(0.002 + this.random() * 0.03, () => {
        if (!life.over) task();
      });
    let kernel: Kernel | null = null;
    const environment: StateEnvironment = {
      store: site.store,
      hash: this.#hash,
      createKernel: (memory) => {
        kernel = createKernel(options.kernel, memory);
        return kernel;
      },
      createOffload: (memory) => new SimOffload(this, life, () => site.store, memory, kernel!, 1.5),
      openImage: (path, size) => memoryImage(site.images, path, size),
      clockMicros: () => 1_700_000_000_000_000 + Math.floor(scheduler.now * 1000) + site.skew,
      defer,
      poolSealBytes: site.role === 'primary' ? options.poolSealBytes : Number.POSITIVE_INFINITY,
      closed: () => {},
    };
    const platform = { nowMs: () => scheduler.now, defer };
    const openGroup = async (superblock: Parameters<typeof openState>[2]): Promise<Group> => {
      const { files } = loadSuperblock(site.store, this.#hash);
      const state = await openState(config, files, superblock, environment);
      if (life.over) await new Promise(() => {});
      this.#recovered(site, state.journal);
      const policy: GroupPolicy = {
        ack: options.ack,
        speculation: options.speculation,
        whenPeerAway: options.whenPeerAway,
        paired: true,
      };
      const group = new Group(state, policy, platform);
      site.group = group;
      const startServing = group.startServing.bind(group);
      group.startServing = () => {
        this.#serving(site);
        startServing();
      };
      return group;
    };
    const { superblock } = loadSuperblock(site.store, this.#hash);
    let group: Group | null = null;
    if (superblock !== null) group = await openGroup(superblock);
    else if (site.role === 'primary') group = await openGroup(newSuperblock(config, volumesFromConfig(config), null));
    if (life.over) return;
    site.state = 'up';
    const pair = new Pair(group, {
      config,
      platform,
      adopt: (adoption) => {
        this.met('adopted');
        return openGroup(newSuperblock(config, adoption.volumes, adoption));
      },
      onServing: () => this.note(`${site.name} serves`),
      onAsk: () => Promise.reject(new Error('nobody asks')),
    });
    site.pair = pair;
    this.note(`${site.name} up, own ${group?.journal.own.appended}, peer ${group?.journal.peer.appended}`);
    const tick = (): void => {
      if (life.over) return;
      site.group?.tick();
      pair.tick(scheduler.now);
      this.#after(TICK_MS, tick);
    };
    tick();
    this.#connectSoon();
  }

  /** The state was opened: what it holds is compared with what was promised; its journal is watched from here on. */
  #recovered(site: Site, journal: Journal): void {
    if (site.role === 'primary') {
      const { appended } = journal.own;
      this.note(`source recovered ${appended} of ${this.#history.length}`);
      if (appended < this.promisedHere) {
        this.#violation(`the source recovered ${appended} records, a flush had promised ${this.promisedHere}`);
      }
      if (appended > this.#history.length)
        this.#violation(`the source recovered ${appended} of ${this.#history.length}`);
      if (appended < this.#history.length) this.met('source lost a tail');
      const publish = journal.publish.bind(journal);
      journal.publish = () => {
        const position = journal.head;
        const sequence = publish();
        if (sequence > 0) this.#published(journal, position, sequence);
        return sequence;
      };
      return;
    }
    const { appended } = journal.peer;
    if (appended > site.droppedTo) {
      site.orphan = true;
      this.met('orphan');
    }
    site.droppedTo = Number.POSITIVE_INFINITY;
    this.note(`target recovered ${appended}, promised ${this.#promisedThere}${site.orphan ? ', orphan' : ''}`);
    if (appended < this.#promisedThere) {
      this.#violation(`the target recovered ${appended} records, a flush had promised ${this.#promisedThere}`);
    }
    if (!site.orphan && appended > this.#history.length) this.#violation('the target has what was never written');
    if (journal.peerApplied !== appended) this.#violation('recovery applies what was received');
    const apply = journal.apply.bind(journal);
    journal.apply = (type, volume, lba, blockCount, position) => {
      if (type < TYPE_LOCAL && (type === TYPE_WRITE || type === TYPE_ZERO || type === TYPE_TRIM)) {
        for (const hold of this.#holds) {
          const over = hold.volume === volume && hold.lba < lba + blockCount && lba < hold.lba + hold.blockCount;
          if (over && hold.request.state === 'held') {
            this.#violation(`${lba}+${blockCount} applied while ${hold.lba}+${hold.blockCount} is held`);
          }
        }
      }
      apply(type, volume, lba, blockCount, position);
    };
  }

  /** Hosts may come: what the source holds now is the truth. */
  #serving(site: Site): void {
    if (site.role !== 'primary') return;
    const { appended } = site.journal.own;
    this.note(`source serves from ${appended}`);
    const dropped = this.#history.length - appended;
    if (dropped < 0) this.#violation('the source serves what was never written');
    if (dropped > 0) {
      this.met('tail dropped for good');
      const { target } = this;
      const receiver = target.group?.mirror;
      if (target.state === 'off' || target.state === 'opening') target.droppedTo = Math.min(target.droppedTo, appended);
      else if (receiver instanceof Receiver && target.journal.peer.appended > appended && !target.orphan) {
        target.orphan = true;
        this.met('orphan');
      }
      if (target.orphan && site.pair?.counters.minted === 0) {
        this.#violation('the source serves without the tail that its target has, under the same generation');
      }
      this.#history.length = appended;
      this.#snapshots.length = Math.min(this.#snapshots.length, Math.floor(appended / 64));
      for (const [tag, sequence] of this.#tagSequence) if (sequence > appended) this.#tagSequence.delete(tag);
    }
    this.#compare(site);
  }

  crash(site: Site, power: boolean): void {
    if (site.state === 'off') return;
    this.note(`${site.name} ${power ? 'loses power' : 'is killed'} while ${site.state}`);
    this.met(`${site.name} ${power ? 'power cut' : 'killed'}`);
    if (site === this.target && site.group?.mirror instanceof Receiver) {
      if (!site.group.mirror.imageConsistent) this.met('target crash in the first copy');
    }
    this.#dead(site);
    // after a failed sync only a start of the machine tells what is really there
    if (power || site.suspect) {
      site.suspect = false;
      site.store.crash();
      site.images.crash();
    } else {
      site.store.kill();
      site.images.kill();
    }
  }

  #dead(site: Site): void {
    site.life.over = true;
    site.state = 'off';
    if (site.group !== null) this.#gather(site);
    site.pair = null;
    site.group = null;
    const link = this.#link;
    link?.[0].cut();
    this.#after(60, () => {
      // when both machines died nobody is left to see it
      if (link === null || this.#link !== link) return;
      this.#link = null;
      this.#connectSoon();
    });
    if (site === this.source) {
      this.#hostLife += 1;
      this.#outstanding = 0;
      this.#asked = 0;
      this.#open.clear();
    } else this.#holds.clear();
  }

  /** Counters of a life, for the report. */
  #gather(site: Site): void {
    const { journal, cleaner, checkpointer, counters, mirror } = site.group!;
    this.met('syncs', journal.counters.syncs);
    this.met('sealed in the pool', journal.counters.sealedInPool);
    this.met(`${site.name} segments freed`, cleaner.counters.segmentsFreed);
    this.met(`${site.name} blocks moved`, cleaner.counters.blocksMoved);
    this.met(`${site.name} checkpoints`, checkpointer.counters.checkpoints);
    this.met('retention given up', cleaner.counters.retentionGivenUp);
    this.met('room waits', counters.roomWaits);
    this.met('degraded', counters.degraded);
    this.met('space refused', journal.counters.spaceRefused);
    if (cleaner.counters.retentionGivenUp > 0) this.#retentionGivenUp = true;
    // a stop ends the threads in the middle of a read
    if (cleaner.counters.damaged > 0 && !site.stopping) this.fail(new Error('the cleaner met damage that nobody did'));
    if (mirror instanceof Sender) {
      this.met('read back from segments', mirror.readerCounters.fromSegments);
      this.met('rewinds', mirror.counters.rewinds);
      this.met('rejections', mirror.counters.rejections);
      this.met('base blocks', mirror.counters.baseBlocksSent);
    } else this.met('stalls', mirror.counters.stalls);
    this.met('rounds of writeback', site.group!.writeback.counters.rounds);
    if (site.group!.writeback.counters.errors > 0) this.met('writeback errors', site.group!.writeback.counters.errors);
    for (const [row, count] of site.pair?.counters.rows ?? []) this.met(`row ${row}`, count);
    this.met('tail returned', site.pair?.counters.tailRecordsRecovered ?? 0);
    this.met('minted', site.pair?.counters.minted ?? 0);
  }

  /** A clean stop, as the gateway does it. */
  stop(site: Site): Promise<void> {
    if (site.state !== 'up') return Promise.resolve();
    this.note(`${site.name} stops`);
    this.met(`${site.name} stopped`);
    const { life, group, pair } = site;
    site.state = 'closing';
    site.stopping = true;
    pair!.close();
    if (this.#link !== null) this.#link[site === this.source ? 0 : 1].close(1001, 'stopping');
    if (site === this.target) this.#holds.clear();
    const done = (group === null ? Promise.resolve() : group.close()).then(() => {
      // what was answered last goes out, then the process ends
      this.#after(5, () => {
        if (life.over) return;
        this.note(`${site.name} stopped`);
        if (site === this.source && this.#asked > 0) {
          this.#violation(
            `the gateway stopped and left operations without an answer: ${[...this.#open.values()].join('; ')}`,
          );
        }
        this.#dead(site);
        if (site.suspect) {
          site.suspect = false;
          site.store.crash();
          site.images.crash();
        } else {
          site.store.kill();
          site.images.kill();
        }
      });
    });
    done.catch((error) => {
      if (!life.over) this.fail(error);
    });
    return done;
  }

  // ---- the line

  #connectSoon(): void {
    if (this.#connecting) return;
    this.#connecting = true;
    this.#after(20 + this.random() * 150, () => {
      this.#connecting = false;
      this.#connect();
    });
  }

  #connect(): void {
    const { source, target } = this;
    if (this.#link !== null) return;
    if (this.scheduler.now < this.lineDownUntil) return this.#connectSoon();
    if (source.state !== 'up' || target.state !== 'up') return;
    const [here, there] = SimLink.pair(this, source.life, target.life);
    this.#link = [here, there];
    const lives = [source.life, target.life];
    // what each says is said at its own time, and may be old when the other one hears it
    const delay = (): number => this.random() * this.delayMax + 0.1;
    const ends: [Site, SimLink, Site][] = [
      [source, here, target],
      [target, there, source],
    ];
    const hellos = new Map<Site, unknown>();
    for (const [site, link] of ends) {
      link.onClose = () => this.#linkGone(here, there);
      this.#after(delay(), () => {
        if (site.life.over || site.life !== lives[site === source ? 0 : 1]) return;
        if (site.pair === null || link.ended) return;
        hellos.set(site, JSON.parse(JSON.stringify(site.pair.hello())));
        for (const [other, otherLink] of ends) {
          if (hellos.size < 2) continue;
          this.#after(delay(), () => {
            if (other.life.over || otherLink.ended || other.pair === null) return;
            if (other.life !== lives[other === source ? 0 : 1]) return;
            other.pair.onLink(otherLink, hellos.get(other === source ? target : source));
            const closed = otherLink.onClose;
            otherLink.onClose = (reason, code) => {
              closed?.(reason, code);
              this.#linkGone(here, there);
            };
            otherLink.begin();
          });
        }
      });
    }
    this.#after(5000, () => {
      if (hellos.size < 2 && this.#link?.[0] === here) here.cut();
    });
    this.met('links');
  }

  #linkGone(here: SimLink, there: SimLink): void {
    for (const end of [here, there]) {
      const closed = end.closedWith;
      if (closed === null || closed.code !== 4001) continue;
      end.closedWith = null;
      this.note(`link closed: ${closed.reason}`);
      // under pressure the journal may give up what a START had asked it to keep
      const givenUp = (this.source.group?.cleaner.counters.retentionGivenUp ?? 0) > 0;
      const fine =
        /both ends must decide the same|the journal is full|the returned tail is damaged|cannot write its state: ENOSPC/.test(
          closed.reason,
        ) ||
        (givenUp && /no longer holds/.test(closed.reason));
      if ([this.source, this.target].some((site) => site.group !== null && site.group.journal.failed !== null))
        continue;
      this.met(fine ? 'closed' : `closed: ${closed.reason.replace(/\d+/g, 'N')}`);
      if (!fine) this.fail(new Error(`the link was closed: ${closed.reason}: ${this.describe()}`));
    }
    if (this.#link?.[0] !== here) return;
    const dead = (link: SimLink, site: Site): boolean => link.ended || site.life.over;
    if (!dead(here, this.source) || !dead(there, this.target)) {
      here.cut();
      this.#after(60, () => {
        if (this.#link?.[0] === here) {
          this.#link = null;
          this.#connectSoon();
        }
      });
      return;
    }
    this.#link = null;
    this.#connectSoon();
  }

  /** A person looks in: whoever was refused is emptied, if there is a reason for it. */
  #operator(): void {
    const { source, target, scheduler } = this;
    if (this.#link === null) this.#connectSoon();
    const refusal = source.pair?.refusal ?? target.pair?.refusal ?? null;
    if (refusal === null || source.state !== 'up' || target.state !== 'up') {
      target.refusedSince = -1;
      return;
    }
    if (target.refusedSince < 0) target.refusedSince = scheduler.now;
    if (scheduler.now - target.refusedSince < 1000) return;
    const given = [source, target].some((site) => (site.group?.cleaner.counters.retentionGivenUp ?? 0) > 0);
    // it may have minted and then died before it served: nobody can tell
    const minted = (this.counts.minted ?? 0) + (source.pair?.counters.minted ?? 0) > 0;
    const alone = minted && /went on without it/.test(refusal);
    const gone = this.#retentionGivenUp || given || target.orphan || alone;
    if (!gone) throw new Error(`refused without a reason: ${refusal}: ${this.describe()}`);
    this.met('target emptied');
    this.note(`target emptied: ${refusal}`);
    this.#retentionGivenUp = false;
    this.crash(target, true);
    this.#newDisks(target);
    target.orphan = false;
    target.droppedTo = Number.POSITIVE_INFINITY;
    target.refusedSince = -1;
    this.#promisedThere = 0;
    this.open(target);
  }

  // ---- faults

  #startFaults(): void {
    const { options } = this;
    const fault = (mean: number, task: () => void): void => {
      if (mean === Number.POSITIVE_INFINITY) return;
      const again = (): void => {
        if (!this.#faults) return;
        task();
        this.#after(-Math.log(1 - this.random()) * mean + 1, again);
      };
      this.#after(-Math.log(1 - this.random()) * mean + 1, again);
    };
    const back = (site: Site): void =>
      this.#after(3 + this.random() ** 3 * options.downMs, () => {
        if (this.#faults) this.open(site);
      });
    const crash = (site: Site): void => {
      if (site === this.target && site.opens === 0) return;
      this.crash(site, this.random() >= options.kill);
      back(site);
    };
    fault(options.sourceCrashMs, () => crash(this.source));
    fault(options.targetCrashMs, () => crash(this.target));
    fault(options.bothCrashMs, () => {
      crash(this.source);
      this.#after(this.random() < 0.5 ? 0 : this.random() * 20, () => crash(this.target));
    });
    fault(options.restartMs, () => {
      const site = this.random() < 0.5 ? this.source : this.target;
      if (site.state === 'up' && !site.group?.journal.diskFull)
        void this.stop(site).then(
          () => back(site),
          () => {},
        );
    });
    fault(options.cutMs, () => {
      if (this.#link === null) return;
      this.met('cut');
      this.note('cut');
      this.lineDownUntil = this.scheduler.now + this.random() ** 3 * options.downMs;
      this.#link[0].cut();
    });
    fault(options.pauseMs, () => {
      // the line slows to a crawl for a while
      this.met('slow line');
      this.rate = options.rate / 200;
      this.#after(this.random() * 400, () => {
        this.rate = options.rate;
      });
    });
    fault(options.diskFullMs, () => {
      const site = this.random() < 0.6 ? this.source : this.target;
      if (site.state !== 'up' || site.group === null) return;
      let used = 0;
      for (const name of site.store.list()) used += site.store.load(name)!.length;
      this.met(`${site.name} disk full`);
      this.note(`${site.name} disk full`);
      site.store.capacity = used + Math.floor(this.random() * 200_000);
      this.#after(this.random() * 1500, () => {
        site.store.capacity = Number.POSITIVE_INFINITY;
      });
    });
    fault(options.holdMs, () => this.#hold());
    fault(options.badDiskMs, () => {
      // a write or a sync fails for good: the site serves no more, and is started again
      const site = this.random() < 0.5 ? this.source : this.target;
      const { life } = site;
      if (site.state !== 'up' || site.group === null) return;
      site.suspect = true;
      site.store.fail(this.random() < 0.5 ? 'sync' : 'write', 'EIO', 1, /^segment/);
      this.met(`${site.name} bad disk`);
      this.note(`${site.name} bad disk`);
      this.#after(this.random() * 1500, () => {
        if (life.over) return;
        if (site.group!.journal.failed !== null) this.met(`${site.name} journal failed`);
        this.crash(site, true);
        back(site);
      });
    });
  }

  #hold(): void {
    const { target } = this;
    if (target.state !== 'up' || target.group === null) return;
    const volume = [...target.group.volumes.values()][Math.floor(this.random() * target.group.volumes.size)]!;
    const blocks = volume.size / volume.blockSize;
    const lba = Math.floor(this.random() * blocks);
    const blockCount = 1 + Math.floor(this.random() * Math.min(24, blocks - lba));
    const { life, group } = target;
    const mode = this.random() < 0.5 ? 'read' : 'write';
    const extent = { offset: lba * volume.blockSize, size: blockCount * volume.blockSize };
    holdLock(volume, mode, extent, this.random() * 500).then(
      (request) => {
        const hold = { request, volume: volume.number, lba, blockCount };
        if (life.over) return;
        this.met('held at the target');
        this.#holds.add(hold);
        this.#after(this.random() < 0.1 ? 6000 : this.random() * 300, () => {
          if (life.over) return;
          if (request.state === 'evicted') this.met('evicted');
          this.#holds.delete(hold);
          volume.locks.release(request);
          group.locksMoved();
        });
      },
      () => this.met('not held at the target'),
    );
  }

  /** No more faults: disks have room, the line is good, machines come back. */
  #calm(): void {
    this.note('calm');
    this.#faults = false;
    this.#stopHosts = true;
    this.bitFlip = 0;
    this.rate = this.options.rate;
    this.lineDownUntil = 0;
    for (const site of [this.source, this.target]) {
      site.store.capacity = Number.POSITIVE_INFINITY;
      if (site.state === 'off') this.#after(10, () => this.open(site));
    }
  }

  settled(): boolean {
    const { source, target } = this;
    if (source.state === 'off') this.open(source);
    if (target.state === 'off') this.open(target);
    for (const site of [source, target]) {
      // a journal that failed is of no use until the gateway is started again
      if (site.group !== null && site.group.journal.failed !== null) this.crash(site, true);
    }
    if (this.#outstanding > 0 || source.state !== 'up' || target.state !== 'up') return false;
    if (source.group === null || target.group === null || !source.group.serving) return false;
    const { mirror } = source.group;
    const other = target.group.mirror;
    if (!(mirror instanceof Sender && other instanceof Receiver)) return false;
    const last = source.journal.own.appended;
    return (
      mirror.connected &&
      other.imageConsistent &&
      source.journal.own.durable === last &&
      mirror.source.peerDurable === last &&
      mirror.source.applied === last &&
      target.journal.peerApplied === last &&
      source.group.ownScopes.size === 0 &&
      source.group.state.superblock.degradedSince === null
    );
  }

  async compareAll(): Promise<void> {
    const before = this.#checks;
    let wanted = 0;
    for (const site of [this.source, this.target]) wanted += this.#compare(site);
    await this.until(() => this.#checks >= before + wanted, 5000, 'an image cannot be read');
    const last = this.target.journal.peerApplied;
    if (last !== this.#history.length) this.#violation(`the end is ${this.#history.length}, the target shows ${last}`);
  }

  /** Both stop in order; what they hold when they come back is what they held. */
  async #stopBoth(): Promise<void> {
    const sites = this.random() < 0.5 ? [this.source, this.target] : [this.target, this.source];
    for (const site of sites) void this.stop(site);
    await this.until(() => sites.every((site) => site.state === 'off'), 20_000, 'a clean stop does not end');
    for (const site of sites) {
      if (this.random() < 0.5) {
        site.store.crash();
        site.images.crash();
      }
      this.open(site);
    }
    await this.until(() => sites.every((site) => site.state === 'up'), 5000, 'a site does not open again');
    for (const site of sites) {
      if (!site.group!.state.recovery.clean) this.#violation(`${site.name} was stopped cleanly and does not know it`);
    }
    await this.until(() => this.settled(), 20_000, 'after a clean stop the sites do not find together');
    await this.compareAll();
    for (const site of sites) this.#gather(site);
  }

  // ---- the oracle

  #published(journal: Journal, position: number, sequence: number): void {
    const header = this.#header.read(journal.memory.view, journal.address(position));
    if (sequence !== this.#history.length + 1) {
      this.#violation(`record ${sequence} is published behind ${this.#history.length}`);
    }
    const { type, volume } = header;
    const shift = Math.log2(this.options.volumes[volume - 1]?.blockSize ?? UNIT) - Math.log2(UNIT);
    const record: HistoryRecord = {
      type,
      volume,
      unit: header.lba << shift,
      units: header.blockCount << shift,
      tags: null,
    };
    if (type === TYPE_WRITE) {
      const at = journal.address(position);
      if (journal.memory.view.getUint8(at + AT_BLOCK_SHIFT) !== shift + Math.log2(UNIT)) this.#violation('block shift');
      record.tags = this.#tagsOf(journal.memory.bytes, at + header.payloadAt, record.units);
      // a partial write repeats its neighbours' tags
      for (const tag of record.tags) if (tag !== 0 && !this.#tagSequence.has(tag)) this.#tagSequence.set(tag, sequence);
    }
    this.#history.push(record);
    if (this.#history.length % 64 === 0 && this.#snapshots.length === this.#history.length / 64 - 1) {
      this.#snapshots.push(this.#imageAt(this.#history.length));
    }
  }

  /** Every unit bears one tag, in all its words. */
  #tagsOf(bytes: Uint8Array, at: number, units: number): Uint32Array {
    const copy = at % 4 === 0 ? bytes : bytes.slice(at, at + units * UNIT);
    const from = copy === bytes ? at : 0;
    const words = new Uint32Array(copy.buffer, copy.byteOffset + from, (units * UNIT) / 4);
    const tags = new Uint32Array(units);
    for (let unit = 0; unit < units; unit += 1) {
      const tag = words[unit * 128]!;
      for (let word = 1; word < 128; word += 1) {
        if (words[unit * 128 + word] !== tag) {
          this.#violation(`a unit is torn: ${tag} and ${words[unit * 128 + word]} at word ${word}`);
        }
      }
      tags[unit] = tag;
    }
    return tags;
  }

  #imageAt(sequence: number): Map<number, Uint32Array> {
    const snapshot = Math.min(this.#snapshots.length, Math.floor(sequence / 64));
    const images = new Map<number, Uint32Array>();
    const base = snapshot > 0 ? this.#snapshots[snapshot - 1]! : null;
    this.options.volumes.forEach(({ blocks, blockSize }, index) => {
      images.set(
        index + 1,
        base === null ? new Uint32Array((blocks * blockSize) / UNIT) : base.get(index + 1)!.slice(),
      );
    });
    for (let at = snapshot * 64; at < sequence; at += 1) {
      const { type, volume, unit, units, tags } = this.#history[at]!;
      if (type === TYPE_WRITE) images.get(volume)!.set(tags!, unit);
      else if (type === TYPE_ZERO || type === TYPE_TRIM) images.get(volume)!.fill(0, unit, unit + units);
    }
    return images;
  }

  /** Compares a site's image as it is now with the history. @returns how many volumes will be counted in `checks` */
  #compare(site: Site): number {
    const { group, life } = site;
    if (group === null || site.state === 'closing') return 0;
    if (site === this.target && (site.orphan || !group.mirror.imageConsistent)) return 0;
    const sequence = site === this.source ? group.journal.own.appended : group.journal.peerApplied;
    const expected = this.#imageAt(sequence);
    for (const volume of group.volumes.values()) {
      const view = volume.map.snapshot();
      const live = group.cleaner.pinLive();
      group.writeback.hold();
      let open = true;
      const release = (): void => {
        if (!open) return;
        open = false;
        unregister();
        view.release();
        group.cleaner.unpinLive(live);
        group.writeback.resume();
      };
      const unregister = group.registerView({
        drop: () => {
          this.#checks += 1;
          release();
        },
      });
      const into = new Uint8Array(volume.size);
      group.reader.read(
        view,
        volume.number,
        volume.blockShift,
        0,
        view.blockCount,
        into,
        group.image(volume.number),
        (error) => {
          if (life.over || !open) return;
          release();
          this.#checks += 1;
          if (error !== null) this.#violation(`${site.name}: ${error.message}`);
          const found = this.#tagsOf(into, 0, into.length / UNIT);
          const wanted = expected.get(volume.number)!;
          for (let unit = 0; unit < found.length; unit += 1) {
            if (found[unit] === wanted[unit]) continue;
            this.#violation(
              `${site.name} at ${sequence} shows ${found[unit]} (of record ${this.#tagSequence.get(found[unit]!) ?? '?'}) in unit ${unit} ` +
                `of volume ${volume.number}, not ${wanted[unit]} (of record ${this.#tagSequence.get(wanted[unit]!) ?? '?'})`,
            );
          }
        },
      );
    }
    return group.volumes.size;
  }

  #lookAround(): void {
    const { source, target } = this;
    this.#operator();
    for (const site of [source, target]) {
      if (site.group === null) continue;
      for (const volume of site.group.volumes.values()) volume.locks.check();
      const { segments, limit, segmentSize, head, written, ringSize } = site.journal;
      if (head - written > ringSize) this.#violation('the ring is overrun');
      if (segments.used > limit + 4 * segmentSize) this.#violation(`the journal has ${segments.used} bytes`);
      if (this.random() < 0.3) this.#compare(site);
    }
    if (this.#lowered > 0 && source.group?.serving && source.group.state.superblock.degradedSince === null) {
      // "degraded" is over: what was answered alone is promised at both
      this.#promisePeer(this.#lowered);
      this.#lowered = 0;
    }
  }

  #promisePeer(sequence: number): void {
    const { target } = this;
    this.#promisedThere = Math.max(this.#promisedThere, sequence);
    if (target.group === null || target.state !== 'up') return;
    if (target.journal.peer.durable < sequence) {
      this.#violation(`a flush of ${sequence} was answered, the target has ${target.journal.peer.durable} on disk`);
    }
  }

  /** A flush was answered: everything up to `sequence` is promised. */
  flushed(sequence: number): void {
    const group = this.source.group!;
    if (group.journal.own.durable < sequence) {
      this.#violation(`a flush of ${sequence} was answered, ${group.journal.own.durable} is durable`);
    }
    this.promisedHere = Math.max(this.promisedHere, sequence);
    const atPeer = this.options.ack !== 'local';
    if (!atPeer) return;
    if (group.state.superblock.degradedSince !== null) {
      this.met('lowered answer');
      this.#lowered = Math.max(this.#lowered, sequence);
      return;
    }
    this.#promisePeer(sequence);
    if (this.options.ack === 'applied' && this.target.state === 'up' && this.target.group !== null) {
      if (this.target.journal.peerApplied < sequence) {
        this.#violation(`a flush of ${sequence} was answered, the target applied ${this.target.journal.peerApplied}`);
      }
    }
  }

  // ---- hosts

  #host(host: { session: number; life: number }): void {
    const { options } = this;
    const next = (): void => this.#host(host);
    const think = this.random() < 0.5 ? this.random() * 0.3 : this.random() * options.thinkMs;
    this.#after(think, () => {
      if (this.#stopHosts) return;
      const group = this.source.group;
      if (group === null || this.source.state !== 'up' || !group.serving) {
        this.#after(20, next);
        return;
      }
      if (host.life !== this.source.opens) {
        host.life = this.source.opens;
        host.session = group.nextSession();
      }
      this.#operation(host.session, group, next);
    });
  }

  #operation(session: number, group: Group, next: () => void): void {
    const { options, random } = this;
    this.#operations += 1;
    const number = this.#operations;
    this.#outstanding += 1;
    const life = this.#hostLife;
    let answered = false;
    let scoped = false;
    this.#asked += 1;
    const done = (): void => {
      if (life !== this.#hostLife) return this.#after(1, next);
      this.#outstanding -= 1;
      if (!scoped) this.#asked -= 1;
      next();
    };
    // a host whose gateway died starts again
    const watch = (): void => {
      if (answered) return;
      if (life === this.#hostLife) return this.#after(40, watch);
      answered = true;
      next();
    };
    this.#after(40, watch);
    const answer = (what: string, error: Error | null, good: () => void): void => {
      if (answered) this.#violation(`${what} was answered twice`);
      answered = true;
      this.#open.delete(number);
      try {
        if (error === null) {
          this.met(what);
          good();
        } else {
          const code = (error as ForelockError).code ?? error.message;
          this.met(`${what}: ${code}`);
          if (code === 'EIO' && (group.journal.failed !== null || this.source.state === 'closing')) return done();
          if (!['ESHUTDOWN', 'EPERM', 'PEER_AWAY', 'ENOSPC', 'ETIMEDOUT'].includes(code)) throw error;
        }
      } catch (violation) {
        this.fail(violation as Error);
      }
      done();
    };
    const volumes = [...group.volumes.values()];
    const volume = volumes[Math.floor(random() * volumes.length)]!;
    const { blockSize } = volume;
    const units = volume.size / UNIT;
    const per = blockSize / UNIT;
    const draw = random();
    const aligned = per === 1 || random() >= options.partial;
    const step = aligned ? per : 1;
    const hot = random() < 0.6 ? Math.min(units, 40 * per) : units;
    const unit = Math.floor((random() * hot) / step) * step;
    const most = Math.max(1, Math.floor(Math.min(units - unit, (random() ** 2 * options.writeSizeMax) / UNIT) / step));
    const size = Math.min(units - unit, (1 + Math.floor(random() * most)) * step) * UNIT;
    const offset = unit * UNIT;
    this.#open.set(number, `${draw} ${session} ${unit}+${size / UNIT} at ${this.scheduler.now}`);
    const { journal } = group;
    let left = draw;
    const isDrawn = (chance: number): boolean => {
      left -= chance;
      return left < 0;
    };
    if (isDrawn(options.flush)) {
      const sequence = journal.own.appended;
      volume.flush({ settle: (error) => answer('flush', error, () => this.flushed(sequence)) });
    } else if (isDrawn(options.trim)) {
      volume.trim(session, offset, size, false, { settle: (error) => answer('trim', error, () => {}) });
    } else if (isDrawn(options.zero)) {
      volume.zero(session, offset, size, random() < options.fua, {
        settle: (error) => answer('zero', error, () => {}),
      });
    } else if (isDrawn(options.read)) {
      this.#read(session, volume, journal, offset, size, answer);
    } else if (isDrawn(options.scope)) {
      const lba = Math.floor(unit / per);
      const blockCount = Math.max(1, Math.min(volume.size / blockSize - lba, Math.ceil(size / blockSize)));
      scoped = true;
      this.#asked -= 1;
      this.#scope(volume, lba, blockCount).then(
        () => answer('scope', null, () => {}),
        (error) => answer('scope', error, () => {}),
      );
    } else {
      const bytes = this.payload(size);
      const fua = random() < options.fua;
      const cut = Math.floor(random() * bytes.length);
      const pieces = random() < 0.5 ? [bytes] : [bytes.subarray(0, cut), bytes.subarray(cut)];
      const tags = this.#tagsOf(bytes, 0, size / UNIT);
      volume.write(session, offset, size, pieces, fua, {
        settle: (error) =>
          answer(fua ? 'fua write' : 'write', error, () => {
            let last = 0;
            for (const tag of tags) {
              const sequence = this.#tagSequence.get(tag);
              if (sequence === undefined) this.#violation('a write was answered that never became a record');
              last = Math.max(last, sequence);
            }
            if (fua) this.flushed(last);
            else if (options.ack !== 'local' || options.speculation === 'off') this.#writeAnswered(last);
          }),
      });
    }
  }

  /** A write was answered under an ack that names the peer. */
  #writeAnswered(sequence: number): void {
    const { source, target } = this;
    if (source.group!.state.superblock.degradedSince !== null || target.group === null || target.state !== 'up') return;
    const { peer, peerApplied } = target.journal;
    const applied = this.options.ack === 'applied' || this.options.speculation === 'off';
    // a target that crashed meanwhile may be behind a write that was not flushed
    if (target.opens > 1 || source.opens > 1) return;
    if ((applied ? peerApplied : peer.appended) < sequence) this.#violation(`write ${sequence} was answered too early`);
  }

  payload(size: number): Uint8Array {
    const words = new Uint32Array(size / 4);
    for (let unit = 0; unit < size / UNIT; unit += 1) {
      words.fill(this.#nextTag, unit * 128, unit * 128 + 128);
      this.#nextTag += 1;
    }
    return new Uint8Array(words.buffer);
  }

  #read(
    session: number,
    volume: import('../../src/volume/volume.js').Volume,
    journal: Journal,
    offset: number,
    size: number,
    answer: (what: string, error: Error | null, good: () => void) => void,
  ): void {
    const from = journal.own.appended;
    const first = offset / UNIT;
    const before = this.#imageAt(from)
      .get(volume.number)!
      .slice(first, first + size / UNIT);
    volume.read(session, offset, size, {
      settleRead: (error, pieces) =>
        answer('read', error, () => {
          const bytes = Buffer.concat(pieces);
          const found = this.#tagsOf(new Uint8Array(bytes), 0, size / UNIT);
          for (let i = 0; i < found.length; i += 1) {
            if (found[i] === before[i]) continue;
            if (this.#wroteSince(from, volume.number, first + i, found[i]!)) continue;
            this.#violation(
              `a read asked at ${from} shows ${found[i]} (of record ${this.#tagSequence.get(found[i]!) ?? '?'}) in unit ${first + i} of volume ${volume.number}, not ${before[i]}`,
            );
          }
        }),
    });
  }

  #wroteSince(from: number, volume: number, unit: number, tag: number): boolean {
    for (let at = from; at < this.#history.length; at += 1) {
      const record = this.#history[at]!;
      if (record.volume !== volume || unit < record.unit || unit >= record.unit + record.units) continue;
      if (
        record.type === TYPE_WRITE ? record.tags![unit - record.unit] === tag : record.type !== TYPE_FLUSH && tag === 0
      )
        return true;
    }
    return false;
  }

  async #scope(volume: import('../../src/volume/volume.js').Volume, lba: number, blockCount: number): Promise<void> {
    const { blockSize } = volume;
    const { life } = this.source;
    // whoever held the scope died with the gateway
    const pause = (ms: number) => new Promise<void>((resolve) => this.#after(ms, () => life.over || resolve()));
    const scope = await openScope(
      volume,
      { offset: lba * blockSize, size: blockCount * blockSize },
      { waitMsMax: 2000 },
    );
    try {
      for (let i = Math.floor(this.random() * 3); i >= 0; i -= 1) {
        const skip = Math.floor(this.random() * blockCount);
        const bytes = this.payload((1 + Math.floor(this.random() * Math.min(8, blockCount - skip))) * blockSize);
        await scope.write((lba + skip) * blockSize, bytes);
        const back = await scope.read((lba + skip) * blockSize, bytes.length);
        if (Buffer.compare(back, bytes) !== 0) this.#violation('a scope does not read what it wrote');
        if (this.random() < 0.5) await pause(this.random() * 30);
      }
      if (this.random() < 0.2) await scope.confirmed;
    } finally {
      await scope.unlock();
    }
  }
}
