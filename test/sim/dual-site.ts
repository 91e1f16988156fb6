/** A machine of the dual world: its disk, its clock and the lives of its gateway; and what it must show. */

import type { Journal } from '../../src/journal/journal.js';
import type { RecordHeader } from '../../src/journal/record.js';
import { RecordHeader as Header } from '../../src/journal/record.js';
import { createKernel } from '../../src/kernel/create.js';
import type { Kernel } from '../../src/kernel/kernel.js';
import { Group, type Platform, type Role } from '../../src/volume/group.js';
import {
  type GroupConfig,
  loadSuperblock,
  newSuperblock,
  type OpenedState,
  openState,
  type StateEnvironment,
  volumesFromConfig,
} from '../../src/volume/group-state.js';
import { Pair } from '../../src/volume/pair.js';
import type { WhenSplit } from '../../src/volume/split.js';
import type { Shown, SiteIndex } from './dual-truth.js';
import type { DualWorld } from './dual-world.js';
import type { Hold } from './group-faults.js';
import { cutPower, type Life, SimOffload } from './group-rig.js';
import { MemoryStore } from './memory-store.js';

/** The gateway's timer. */
const TICK_MS = 50;

export class DualSite {
  readonly index: SiteIndex;
  readonly name: string;
  role: Role;
  store!: MemoryStore;
  life: Life & { over: boolean } = { over: true };
  state: 'off' | 'opening' | 'up' | 'closing' = 'off';
  pair: Pair | null = null;
  group: Group | null = null;
  /** What it must show; null while it has no whole image. */
  shown: Shown | null = null;
  /** Microseconds that its clock is off. */
  skew = 0;
  /** Its disk has failed a write or a sync: the page cache may show what will never be on the disk. */
  suspect = false;
  /** Its disk fails reads, in this life: EIO is an answer, and what could not be read counts as damaged until the next. */
  unreadable = false;
  /** It refuses to give up files, in this life: what was to be removed may be there still. */
  refuses = false;
  /** Every sync takes so much longer. */
  slowSyncMs = 0;
  opens = 0;
  /** Own records up to here were answered while it was alone. */
  aloneThrough = 0;
  /** The other site dropped what lies behind, when it went on alone; and some of that is here. */
  droppedTo = Number.POSITIVE_INFINITY;
  orphan = false;
  /** Locks that somebody has here: nothing is applied under them. */
  readonly holds = new Set<Hold>();
  /** The disk has not been seen whole since it is there: who died while opening for the first time may have left a state. */
  #isNew = true;
  #startedMs = 0;
  #stopping = false;
  readonly #world: DualWorld;

  constructor(world: DualWorld, index: SiteIndex, role: Role) {
    this.#world = world;
    this.index = index;
    this.name = index === 0 ? 'alpha' : 'beta';
    this.role = role;
    this.newDisk();
  }

  get journal(): Journal {
    return this.group!.journal;
  }
  get other(): DualSite {
    return this.#world.sites[1 - this.index]!;
  }

  /** Nothing is on its disk that says what it was. */
  get isEmpty(): boolean {
    return this.group === null && loadSuperblock(this.store, this.#world.hash).superblock === null;
  }

  newDisk(): void {
    const { random, options, after, met } = this.#world;
    this.aloneThrough = 0;
    this.droppedTo = Number.POSITIVE_INFINITY;
    this.orphan = false;
    this.#isNew = true;
    this.store = new MemoryStore({
      random,
      defer: (task, delayMs) => after(delayMs, task),
      latencyMs: (operation) =>
        operation === 'write'
          ? 0.02 + random() * 0.6
          : 0.1 + random() * options.syncMs + (operation === 'sync' ? this.slowSyncMs : 0),
      failed: (operation) => met(`failed ${operation}`),
    });
  }

  // ---- opening

  open(): void {
    const world = this.#world;
    if (this.state !== 'off') return;
    const life = { over: false };
    this.life = life;
    this.state = 'opening';
    this.#stopping = false;
    this.opens += 1;
    this.unreadable = false;
    this.refuses = false;
    this.store.heal();
    world.faults.opening(this);
    this.skew = Math.floor((world.random() - 0.5) * 2000 * world.options.skewMs);
    this.#startedMs = world.scheduler.now;
    this.#start(life).catch((error) => {
      if (life.over) return;
      if (error.code !== 'EIO' && error.code !== 'ENOSPC') return world.fail(error);
      world.met('disk failed while opening');
      this.crash(true);
      world.after(20, () => this.open());
    });
  }

  async #start(life: Life): Promise<void> {
    const world = this.#world;
    const config = this.#config();
    const { superblock } = loadSuperblock(this.store, world.hash);
    if (superblock !== null) await this.#openGroup(life, config, superblock);
    else if (this.role === 'primary')
      await this.#openGroup(life, config, newSuperblock(config, volumesFromConfig(config), null));
    if (life.over) return;
    this.store.heal(); // what was to fail while it opened
    this.state = 'up';
    const platform = this.#platformIn(life);
    const pair = new Pair(this.group, {
      config,
      platform,
      whenSplit: this.#whenSplit,
      found: () => {
        world.met('founded');
        return this.#openGroup(life, config, newSuperblock(config, volumesFromConfig(config), null));
      },
      adopt: (adoption) => {
        world.met(adoption.inconsistent === null ? 'adopted' : 'adopted with a first copy');
        return this.#openGroup(life, config, newSuperblock(config, adoption.volumes, adoption));
      },
      onServing: () => world.note(`${this.name} serves`),
      onAsk: () => Promise.reject(new Error('nobody asks')),
    });
    this.pair = pair;
    const { group } = this;
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

  async #openGroup(life: Life, config: GroupConfig, superblock: Parameters<typeof openState>[2]): Promise<Group> {
    const world = this.#world;
    const { options } = world;
    const { files } = loadSuperblock(this.store, world.hash);
    const state = await openState(config, files, superblock, this.#environment(life));
    if (life.over) await new Promise(() => {});
    world.checks.recovered(this, state, this.#isNew);
    this.#isNew = false;
    this.#watch(state);
    const group = new Group(
      state,
      {
        ack: options.ack,
        speculation: 'on',
        whenPeerAway: 'degrade',
        whenSplit: this.#whenSplit,
        onReject: 'target-retry',
        paired: true,
      },
      this.#platformIn(life),
    );
    this.group = group;
    const startServing = group.startServing.bind(group);
    group.startServing = () => {
      world.checks.serving(this);
      startServing();
    };
    this.#watchSplit(group);
    this.#watchReturn(group);
    const detach = group.mirror.detach.bind(group.mirror);
    group.mirror.detach = () => {
      const { linked } = group.mirror;
      detach();
      if (linked && this.group === group) world.checks.detached(this);
    };
    return group;
  }

  get #whenSplit(): WhenSplit {
    const [policy, site] = this.#world.options.whenSplit.split(':');
    if (policy === 'freeze') return policy;
    return policy === 'prefer' ? { prefer: site! } : { prefer: site!, only: true };
  }

  /** When it goes on alone, and when both serve again. */
  #watchSplit(group: Group): void {
    const { checks, met } = this.#world;
    const told = {
      thaw: group.thaw.bind(group),
      serveAlone: group.serveAlone.bind(group),
      endAlone: group.endAlone.bind(group),
      resumeAlone: group.resumeAlone.bind(group),
    };
    group.resumeAlone = () => {
      told.resumeAlone();
      if (group.alone) this.aloneThrough = Number.POSITIVE_INFINITY;
    };
    group.serveAlone = () => {
      this.aloneThrough = Number.POSITIVE_INFINITY;
      checks.goesAlone(this);
      told.serveAlone();
    };
    group.endAlone = () => {
      if (this.aloneThrough > 0) this.aloneThrough = group.journal.own.appended;
      told.endAlone();
    };
    group.thaw = () => {
      if (group.frozen && !group.alone) {
        met('thawed');
        checks.bothServe(this);
      }
      told.thaw();
    };
  }

  /** Of its lost tail some records come behind records of the other site that they had seen. */
  #watchReturn({ receiver }: Group): void {
    if (receiver === null) return;
    const takeReturned = receiver.takeReturned.bind(receiver);
    receiver.takeReturned = (header, position) => {
      const taken = takeReturned(header, position);
      if (taken) this.#world.met('returned with what it had seen');
      return taken;
    };
  }

  /** What it must show follows what its journal is told. */
  #watch({ journal, order }: OpenedState): void {
    const { truth, violation, checks } = this.#world;
    const { index } = this;
    const header = new Header();
    const own = (read: RecordHeader, position: number): void => {
      const { other } = this;
      const peerHas = other.group === null || other.orphan ? 0 : other.journal.peer.appended;
      const at = journal.address(position);
      const before = truth.streams[index].length;
      if (read.sequence <= before) checks.parts(this, read);
      const record = truth.appended(index, this.opens, read, journal, at, peerHas);
      if (truth.streams[index].length > before) checks.appends(this, record);
      this.shown?.own(record);
    };
    if (order === null) {
      const publish = journal.publish.bind(journal);
      journal.publish = () => {
        const position = journal.head;
        const sequence = publish();
        if (sequence > 0) own(header.read(journal.memory.view, journal.address(position)), position);
        return sequence;
      };
      return;
    }
    const told = {
      own: order.own.bind(order),
      received: order.received.bind(order),
      applied: order.applied.bind(order),
      beginPeer: order.beginPeer.bind(order),
    };
    order.beginPeer = (through) => {
      this.shown = null; // until the copy is whole
      this.droppedTo = Number.POSITIVE_INFINITY;
      told.beginPeer(through);
    };
    order.own = (read, position) => {
      const staged = told.own(read, position);
      own(read, position);
      return staged;
    };
    order.received = (read, position) => {
      if (!this.orphan) {
        truth.check((1 - index) as SiteIndex, read);
        this.droppedTo = Number.POSITIVE_INFINITY; // it follows the other site again, and that had no objection
      }
      told.received(read, position);
    };
    order.applied = (read, position, again) => {
      if (this.orphan) return told.applied(read, position, again);
      const record = truth.check((1 - index) as SiteIndex, read);
      if (record.sequence !== journal.peerApplied + 1)
        violation(`${this.name} applies ${record.sequence} out of order`);
      const staged = told.applied(read, position, again);
      this.shown?.applied(record);
      checks.applied(this, record);
      return staged;
    };
  }

  #environment(life: Life): StateEnvironment {
    const world = this.#world;
    const { scheduler } = world;
    let kernel: Kernel | null = null;
    return {
      store: this.store,
      hash: world.hash,
      createKernel: (memory) => {
        kernel = createKernel('wasm', memory);
        return kernel;
      },
      createOffload: (memory) => new SimOffload(world, life, () => this.store, memory, kernel!, 1.5),
      openImage: () => world.violation('no volume is flat'),
      clockMicros: () => 1_700_000_000_000_000 + Math.floor(scheduler.now * 1000) + this.skew,
      defer: this.#deferIn(life),
      poolSealBytes: this.role === 'primary' ? world.options.poolSealBytes : Number.POSITIVE_INFINITY,
      closed: () => {},
    };
  }

  #platformIn(life: Life): Platform {
    const { scheduler, after } = this.#world;
    const startedMs = this.#startedMs;
    return {
      nowMs: () => scheduler.now - startedMs,
      defer: this.#deferIn(life),
      soon: this.#deferIn(life), // nobody may count on more than that it is not within the call
      // as setTimeout does; and less than the clock can tell apart would never be over
      after: (delayMs, task) =>
        after(Math.max(1, delayMs), () => {
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
      whenSplit: this.#whenSplit,
      volumes: options.volumes.map(({ blocks, blockSize }, index) => ({
        name: `v${index}`,
        size: blocks * blockSize,
        blockSize,
        platter: 'journal',
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
    world.met(`${this.name} ${power ? 'power cut' : 'killed'}`);
    if (this.group?.receiver?.imageConsistent === false) world.met('crash in the first copy');
    this.#dead();
    this.#loseDisk(power);
  }

  /** A clean stop, as the gateway does it. */
  stop(): Promise<void> {
    const world = this.#world;
    if (this.state !== 'up') return Promise.resolve();
    world.note(`${this.name} stops`);
    world.met(`${this.name} stopped`);
    const { life, group, pair } = this;
    this.state = 'closing';
    this.#stopping = true;
    pair!.close();
    world.line.stopped(this);
    const done = (group === null ? Promise.resolve() : group.close()).then(() => {
      // what was answered last goes out, then the process ends
      world.after(5, () => {
        if (life.over) return;
        world.note(`${this.name} stopped`);
        world.hosts[this.index].gatewayEnds();
        this.#dead();
        this.#loseDisk(false);
      });
    });
    done.catch((error) => {
      if (!life.over) world.fail(error);
    });
    return done;
  }

  #loseDisk(power: boolean): void {
    // after a failed sync only a start of the machine tells what is really there
    if (power || this.suspect) {
      this.suspect = false;
      cutPower(this.store, this.#world.met);
    } else this.store.kill();
  }

  #dead(): void {
    const world = this.#world;
    this.life.over = true;
    this.state = 'off';
    if (this.group !== null) this.gather();
    this.pair = null;
    this.group = null;
    this.shown = null;
    this.holds.clear();
    world.line.siteDied();
    world.hosts[this.index].gatewayDied();
  }

  /** Counters of a life, for the report. */
  gather(): void {
    const { met, fail } = this.#world;
    const { journal, cleaner, checkpointer, counters, sender, receiver } = this.group!;
    met('sealed in the pool', journal.counters.sealedInPool);
    if (journal.failed !== null) met(`${this.name} journal failed`);
    met('segments freed', cleaner.counters.segmentsFreed);
    met('segments reused', journal.counters.segmentsReused);
    met('blocks moved', cleaner.counters.blocksMoved);
    met('checkpoints', checkpointer.counters.checkpoints);
    met('retention given up', cleaner.counters.retentionGivenUp);
    met('room waits', counters.roomWaits);
    met('frozen', counters.freezes);
    met('space refused', journal.counters.spaceRefused);
    // a stop ends the threads in the middle of a read
    if (cleaner.counters.damaged > 0 && !this.#stopping && !this.unreadable)
      fail(new Error('the cleaner met damage that nobody did'));
    met('rewinds', sender?.counters.rewinds ?? 0);
    met('rejections', sender?.counters.rejections ?? 0);
    met('read back from segments', sender?.readerCounters.fromSegments ?? 0);
    met('base blocks', sender?.counters.baseBlocksSent ?? 0);
    met('stalls', receiver?.counters.stalls ?? 0);
    for (const [row, count] of this.pair?.counters.rows ?? []) met(`row ${row}`, count);
    met('tail returned', this.pair?.counters.tailRecordsRecovered ?? 0);
  }

  /** For a complaint. */
  describe(): string {
    const { group, name, state } = this;
    if (group === null) return `${name} ${state}`;
    const { own, peer, head, sealed, written, durable, peerApplied, diskFull, failed, segments, room } = group.journal;
    const { sender, receiver, order } = group;
    const target = receiver?.target;
    return `${name} ${state} serving ${group.serving} frozen ${group.frozen} ${this.pair?.state} ${this.pair?.refusal ?? ''} ${JSON.stringify(
      {
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
        sender: sender && {
          phase: sender.source.phase,
          sent: sender.source.sent,
          trimmed: sender.source.trimmed,
          durable: sender.peerDurable,
          consistent: sender.source.consistent,
        },
        target: target && { applied: target.applied, rejected: target.rejected, consistent: target.consistent },
        order: order && {
          received: order.conflicts.received,
          applied: order.conflicts.applied,
          closed: order.conflicts.closedThrough,
          confirmed: order.conflicts.confirmedThrough,
          doomed: [...order.conflicts.doomed],
        },
        scopes: [...group.scopes.open.keys()],
      },
    )}`;
  }
}
