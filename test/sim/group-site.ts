/** A machine of the group world: its disks, its clock and the lives of its gateway. It opens, stops, crashes. */
import type { Journal } from '../../src/journal/journal.js';
import type { Superblock, SuperblockFiles } from '../../src/journal/superblock.js';
import { createKernel } from '../../src/kernel/create.js';
import type { Kernel } from '../../src/kernel/kernel.js';
import { Group, type GroupPolicy, type Platform, type Role } from '../../src/volume/group.js';
import {
  type GroupConfig,
  loadSuperblock,
  newSuperblock,
  openState,
  type StateEnvironment,
  volumesFromConfig,
} from '../../src/volume/group-state.js';
import { Pair } from '../../src/volume/pair.js';
import { cutPower, type Life, memoryImage, SimOffload } from './group-rig.js';
import type { GroupWorld } from './group-world.js';
import { MemoryStore } from './memory-store.js';

/** The gateway's timer. */
const TICK_MS = 50;

export interface Disks {
  store: MemoryStore;
  images: MemoryStore;
}

export class Site {
  readonly name: string;
  role: Role;
  store!: MemoryStore;
  images!: MemoryStore;
  life: Life & { over: boolean } = { over: true };
  state: 'off' | 'opening' | 'up' | 'closing' = 'off';
  pair: Pair | null = null;
  group: Group | null = null;
  /** Microseconds that its clock is off. */
  skew = 0;
  /** When its monotonic clock began. */
  #startedMs = 0;
  /** Somebody keeps it switched off. */
  held = false;
  /** What it answers to any question. */
  onAsk = (): Promise<unknown> => Promise.reject(new Error('nobody asks'));
  /** It was the target, and is to be the source: nobody was served by it yet. */
  promoting = false;
  /** Its journal has rot. */
  rotten = false;
  /** Its disk has failed a write or a sync: the page cache may show what will never be on the disk. */
  suspect = false;
  /** Its disk fails reads, in this life: EIO is an answer, and what could not be read counts as damaged until the next. */
  unreadable = false;
  /** It refuses to give up files, in this life: what was to be removed may be there still. */
  refuses = false;
  /** Every sync takes so much longer. */
  slowSyncMs = 0;
  slowSaveMs = 0;
  opens = 0;
  /** The target has records that the source dropped when it went on alone. */
  orphan = false;
  /** The source dropped what lies behind, while this site was down. */
  droppedTo = Number.POSITIVE_INFINITY;
  refusedSince = -1;
  /** Its data is to go (group-accidents.ts). */
  stray = false;
  /** This life ends, or ended, with a clean stop. */
  #stopping = false;
  readonly #world: GroupWorld;

  constructor(world: GroupWorld, name: string, role: Role) {
    this.#world = world;
    this.name = name;
    this.role = role;
    this.newDisks();
  }

  /** Other disks are put in. @returns those that were there */
  changeDisks(disks: Disks): Disks {
    const { store, images } = this;
    this.store = disks.store;
    this.images = disks.images;
    return { store, images };
  }

  /** What it is here: machines take each other's places. */
  get place(): 'source' | 'target' {
    return this === this.#world.source ? 'source' : 'target';
  }

  get journal(): Journal {
    return this.group!.journal;
  }

  newDisks(): void {
    const { random, options, after, met } = this.#world;
    const store = () =>
      new MemoryStore({
        random,
        defer: (task, delayMs) => after(delayMs, task),
        latencyMs: (operation) =>
          operation === 'write'
            ? 0.02 + random() * 0.6
            : 0.1 +
              random() * options.syncMs +
              (operation === 'sync' ? this.slowSyncMs : operation === 'save' ? this.slowSaveMs : 0),
        failed: (operation) => met(`${this.place} failed ${operation}`),
      });
    this.store = store();
    this.images = store();
    this.rotten = false;
  }

  // ---- opening

  open(): void {
    const world = this.#world;
    if (this.state !== 'off' || this.held) return;
    const life = { over: false };
    this.life = life;
    this.state = 'opening';
    this.#stopping = false;
    this.opens += 1;
    this.unreadable = false;
    this.refuses = false;
    for (const disk of [this.store, this.images]) disk.heal();
    world.faults.opening(this);
    this.skew = Math.floor((world.random() - 0.5) * 2000 * world.options.skewMs);
    this.#startedMs = world.scheduler.now;
    this.#start(life).catch((error) => {
      if (life.over) return;
      if (world.operator.refusedToOpen(this, error)) return;
      if (error.code !== 'EIO' && error.code !== 'ENOSPC') return world.fail(error);
      world.met('disk failed while opening');
      this.crash(true);
      world.after(20, () => this.open());
    });
  }

  async #start(life: Life): Promise<void> {
    const world = this.#world;
    const config = this.#config();
    const { files, superblock } = loadSuperblock(this.store, world.hash);
    let group: Group | null = null;
    if (superblock !== null) group = await this.#openGroup(life, config, files, superblock);
    else if (this.role === 'primary') {
      group = await this.#openGroup(life, config, files, newSuperblock(config, volumesFromConfig(config), null));
    }
    if (life.over) return;
    this.store.heal(); // what was to fail while it opened
    this.state = 'up';
    const platform = this.#platformIn(life);
    const pair = new Pair(group, {
      config,
      platform,
      whenSplit: 'freeze',
      found: () => Promise.reject(new Error('only where both sites write')),
      adopt: (adoption) => {
        world.met('adopted');
        this.droppedTo = Number.POSITIVE_INFINITY; // it had nothing to be dropped
        const { files } = loadSuperblock(this.store, world.hash);
        return this.#openGroup(life, config, files, newSuperblock(config, adoption.volumes, adoption));
      },
      onServing: () => world.note(`${this.name} serves`),
      onAsk: () => this.onAsk(),
    });
    this.pair = pair;
    world.note(`${this.name} up, own ${group?.journal.own.appended}, peer ${group?.journal.peer.appended}`);
    const tick = (): void => {
      if (life.over) return;
      this.group?.tick();
      pair.tick(platform.nowMs());
      world.after(TICK_MS, tick);
    };
    tick();
    world.line.connectSoon();
  }

  async #openGroup(life: Life, config: GroupConfig, files: SuperblockFiles, superblock: Superblock): Promise<Group> {
    const world = this.#world;
    const { options } = world;
    const state = await openState(config, files, superblock, this.#environment(life));
    if (life.over) await new Promise(() => {});
    world.checks.recovered(this, state.journal);
    const policy: GroupPolicy = {
      ack: options.ack,
      speculation: options.speculation,
      whenPeerAway: options.whenPeerAway,
      whenSplit: 'freeze',
      onReject: options.onReject,
      paired: true,
    };
    const group = new Group(state, policy, this.#platformIn(life));
    this.group = group;
    const startServing = group.startServing.bind(group);
    group.startServing = () => {
      world.checks.serving(this);
      startServing();
    };
    return group;
  }

  #environment(life: Life): StateEnvironment {
    const world = this.#world;
    const { options, scheduler } = world;
    let kernel: Kernel | null = null;
    return {
      store: this.store,
      hash: world.hash,
      createKernel: (memory) => {
        kernel = createKernel(options.kernel, memory);
        return kernel;
      },
      createOffload: (memory) => new SimOffload(world, life, () => this.store, memory, kernel!, 1.5),
      openImage: (path, size, isNew) => memoryImage(this.images, path, size, isNew),
      clockMicros: () => 1_700_000_000_000_000 + Math.floor(scheduler.now * 1000) + this.skew,
      defer: this.#deferIn(life),
      poolSealBytes: this.role === 'primary' ? options.poolSealBytes : Number.POSITIVE_INFINITY,
      closed: () => {},
    };
  }

  #platformIn(life: Life): Platform {
    const { scheduler } = this.#world;
    const startedMs = this.#startedMs;
    return {
      nowMs: () => scheduler.now - startedMs,
      defer: this.#deferIn(life),
      soon: this.#deferIn(life), // nobody may count on more than that it is not within the call
      // as setTimeout does; and less than the clock can tell apart would never be over
      after: (delayMs, task) =>
        this.#world.after(Math.max(1, delayMs), () => {
          if (!life.over) task();
        }),
    };
  }

  #deferIn(life: Life): (task: () => void) => void {
    const { after, random } = this.#world;
    return (task) =>
      after(0.002 + random() * 0.03, () => {
        if (!life.over) task();
      });
  }

  #config(): GroupConfig {
    const { options } = this.#world;
    return {
      group: 'main',
      site: this.name,
      role: this.role,
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

  // ---- the end of a life

  crash(power: boolean): void {
    const world = this.#world;
    if (this.state === 'off') return;
    world.note(`${this.name} ${power ? 'loses power' : 'is killed'} while ${this.state}`);
    world.met(`${this.place} ${power ? 'power cut' : 'killed'}`);
    if (this.group?.receiver?.imageConsistent === false) world.met('target crash in the first copy');
    this.#dead();
    this.#loseDisks(power);
  }

  /** A clean stop, as the gateway does it. */
  stop(): Promise<void> {
    const world = this.#world;
    if (this.state !== 'up') return Promise.resolve();
    world.note(`${this.name} stops`);
    world.met(`${this.place} stopped`);
    const { life, group, pair } = this;
    this.state = 'closing';
    this.#stopping = true;
    pair!.close();
    world.line.stopped(this);
    if (this === world.target) world.faults.holds.clear();
    const done = (group === null ? Promise.resolve() : group.close()).then(() => {
      // what was answered last goes out, then the process ends
      world.after(5, () => {
        if (life.over) return;
        world.note(`${this.name} stopped`);
        if (this === world.source) world.hosts.gatewayEnds();
        this.#dead();
        this.#loseDisks(false);
      });
    });
    done.catch((error) => {
      if (!life.over) world.fail(error);
    });
    return done;
  }

  #loseDisks(power: boolean): void {
    // after a failed sync only a start of the machine tells what is really there
    if (power || this.suspect) {
      this.suspect = false;
      for (const disk of [this.store, this.images]) cutPower(disk, this.#world.met);
    } else {
      this.store.kill();
      this.images.kill();
    }
  }

  #dead(): void {
    const world = this.#world;
    this.life.over = true;
    this.state = 'off';
    if (this.group !== null) this.gather();
    this.pair = null;
    this.group = null;
    world.line.siteDied();
    if (this === world.source) world.hosts.gatewayDied();
    else world.faults.holds.clear();
  }

  /** Counters of a life, for the report. */
  gather(): void {
    const world = this.#world;
    const { met } = world;
    const { journal, cleaner, checkpointer, counters, sender, receiver } = this.group!;
    met('syncs', journal.counters.syncs);
    met('sealed in the pool', journal.counters.sealedInPool);
    if (journal.failed !== null) met(`${this.place} journal failed`);
    met(`${this.place} segments freed`, cleaner.counters.segmentsFreed);
    met(`${this.place} segments reused`, journal.counters.segmentsReused);
    met(`${this.place} blocks moved`, cleaner.counters.blocksMoved);
    met(`${this.place} checkpoints`, checkpointer.counters.checkpoints);
    met('retention given up', cleaner.counters.retentionGivenUp);
    met('room waits', counters.roomWaits);
    met('degraded', counters.degraded);
    met('space refused', journal.counters.spaceRefused);
    if (cleaner.counters.retentionGivenUp > 0) world.operator.retentionGivenUp = true;
    // a stop ends the threads in the middle of a read
    if (cleaner.counters.damaged > 0 && !this.#stopping && !this.rotten && !this.unreadable)
      world.fail(new Error('the cleaner met damage that nobody did'));
    if (sender !== null) {
      met('read back from segments', sender.readerCounters.fromSegments);
      met('rewinds', sender.counters.rewinds);
      met('rejections', sender.counters.rejections);
      met('base blocks', sender.counters.baseBlocksSent);
    }
    if (receiver !== null) met('stalls', receiver.counters.stalls);
    met('rounds of writeback', this.group!.writeback.counters.rounds);
    if (this.group!.writeback.counters.errors > 0) met('writeback errors', this.group!.writeback.counters.errors);
    for (const [row, count] of this.pair?.counters.rows ?? []) met(`row ${row}`, count);
    if (this.pair?.counters.rows.has(8)) world.fail(new Error(`row 8: ${this.pair.refusal}`));
    met('tail returned', this.pair?.counters.tailRecordsRecovered ?? 0);
    met('minted', this.pair?.counters.minted ?? 0);
  }

  /** For a complaint. */
  describe(): string {
    const { group, name, state } = this;
    if (group === null) return `${name} ${state}`;
    const { own, peer, head, sealed, written, durable, peerApplied, diskFull, failed, segments, room } = group.journal;
    const { sender } = group;
    const { phase, received, granted, applied, rejected, consistent, epoch, attempt } = (sender?.source ??
      group.receiver?.target)!;
    return `${name} ${state} serving ${group.serving} ${this.pair?.state} ${this.pair?.refusal ?? ''} ${JSON.stringify({
      own,
      peer,
      peerApplied,
      positions: { head, sealed, written, durable },
      disk: {
        diskFull,
        failed: failed?.message ?? null,
        used: segments.used,
        limit: room.limit,
        count: segments.count,
      },
      mirror: { phase, received, granted, applied, rejected, consistent, epoch, attempt },
      sent: sender && [sender.source.sent, sender.source.trimmed, sender.source.credit, String(sender.retainFrom)],
      checkpoint: group.checkpointer.position,
      cleaner: group.cleaner.counters,
      degraded: group.state.superblock.degradedSince,
    })}`;
  }
}
