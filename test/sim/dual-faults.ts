/** Which faults exist where both sites write, at either site alike. Each comes at times drawn around its mean. */
import { SPLIT_WAIT_MS } from '../../src/limits.js';
import { holdLock } from '../../src/volume/scope.js';
import type { DualSite } from './dual-site.js';
import type { DualWorld } from './dual-world.js';
import { type Hold, REFUSED } from './group-faults.js';

/** What each fault is counted as; and then what must have been met for a run to prove something. */
export const DUAL_FAULTS: readonly string[] = [
  ...['alpha power cut', 'beta power cut', 'alpha killed', 'beta killed', 'alpha stopped', 'beta stopped'],
  ...['cut', 'half-open link', 'late frame', 'stalled line', 'slow line', 'bit flip', 'clock jump', 'disk full'],
  ...['unsynced write written', 'unsynced write lost', 'unsynced write torn', 'unsynced write garbage'],
  ...['out of files', 'failed open', 'failed remove', 'failed rename', 'failed truncate'],
  ...['failed write', 'failed sync', 'failed read', 'slow disk', 'repeated frame', 'emptied'],
  ...['alpha journal failed', 'beta journal failed', 'disk failed while opening'],
  ...['held', 'long read lock held', 'evicted', 'scope left open', 'crash in the first copy', 'solo'],
  ...['replay lost to replay', 'replay lost to abort', 'abort lost to replay', 'abort lost to abort'],
  ...['read lock lost to read lock', 'lost by clock', 'lost by site'],
  ...['abort scope killed', 'write killed with its session', 'read lock killed', 'cascade', 'masked'],
  ...['placed beneath an abort scope', 'dead record skipped', 'told of an abort', 'own tail lost', 'tail returned'],
  ...['tail dropped for good', 'returned with what it had seen', 'frozen', 'thawed', 'read lock'],
  ...['parted', 'went on alone', 'flushed alone', 'caught up with who was alone', 'refused with its reason'],
  ...['transaction', 'transaction tried again', 'recovered with half a transaction'],
  ...['recovered from unsettled scopes', 'read of an abort scope checked'],
];

export class DualFaults {
  /** False in the phase without faults. */
  active = true;
  readonly #world: DualWorld;

  constructor(world: DualWorld) {
    this.#world = world;
  }

  start(): void {
    const { options, line, random, after } = this.#world;
    this.#every(options.crashMs, () => this.#crash(this.#either()));
    this.#every(options.bothCrashMs, () => {
      const site = this.#either();
      this.#crash(site);
      after(random() < 0.5 ? 0 : random() * 20, () => this.#crash(site.other));
    });
    this.#every(options.restartMs, () => this.#restart());
    this.#every(options.clockJumpMs, () => this.#jumpClock());
    this.#every(options.cutMs, () => this.#cut());
    this.#every(options.halfOpenMs, () => line.cutUnseen());
    this.#every(options.stallMs, () => line.stall());
    this.#every(options.slowLineMs, () => this.#slowLine());
    this.#every(options.diskFullMs, () => this.#fillDisk());
    this.#every(options.badDiskMs, () => this.#failDisk());
    this.#every(options.readErrorMs, () => this.#failReads());
    this.#every(options.slowDiskMs, () => this.#slowDisk());
    this.#every(options.noFilesMs, () => this.#refuseFiles());
    this.#every(options.refusalMs, () => this.#refuse());
    this.#every(options.holdMs, () => this.#hold(false));
    this.#every(options.longHoldMs, () => this.#hold(true));
    this.#every(options.emptyMs, () => this.#empty());
    this.#every(options.partMs, () => this.#part());
  }

  #either(): DualSite {
    const { sites, random } = this.#world;
    return sites[random() < 0.5 ? 0 : 1];
  }

  #every(mean: number, task: () => void): void {
    const { random, after } = this.#world;
    if (mean === Number.POSITIVE_INFINITY) return;
    const soon = (): number => -Math.log(1 - random()) * mean + 1;
    const again = (): void => {
      if (!this.active) return;
      task();
      after(soon(), again);
    };
    after(soon(), again);
  }

  /** The machine is started again, if this is not left to the calm phase. */
  #back(site: DualSite): void {
    const { options, random, after } = this.#world;
    after(3 + random() ** 3 * options.downMs, () => {
      if (this.active) site.open();
    });
  }

  #crash(site: DualSite): void {
    const { options, random } = this.#world;
    if (site.opens === 0) return;
    site.crash(random() >= options.kill);
    this.#back(site);
  }

  #restart(): void {
    const site = this.#either();
    if (site.state !== 'up' || site.group?.journal.diskFull) return;
    site.stop().then(
      () => this.#back(site),
      () => {},
    );
  }

  #cut(): void {
    const { line, scheduler, options, random, met, note } = this.#world;
    if (!line.isUp) return;
    met('cut');
    note('cut');
    line.downUntil = scheduler.now + random() ** 3 * options.downMs;
    line.cut();
  }

  /** The two are apart until one goes on alone: often while the other's hosts ask nothing, so that nothing is under way. */
  #part(): void {
    const { line, scheduler, sites, hosts, options, random, after, met, note } = this.#world;
    const other = sites.find(({ name }) => `prefer:${name}` !== options.whenSplit)!;
    const pauseMs = random() < 0.7 ? 500 : 0;
    hosts[other.index].pausedUntil = scheduler.now + pauseMs;
    after(pauseMs * random(), () => {
      if (!this.active || !line.isUp) return;
      met('parted');
      note('parted');
      line.downUntil = scheduler.now + SPLIT_WAIT_MS + random() * 2000;
      line.cut();
      if (random() < 0.3) this.#crash(random() < 0.7 ? other : other.other);
    });
  }

  /** Somebody sets a clock, or it sets itself. */
  #jumpClock(): void {
    const { random, met } = this.#world;
    met('clock jump');
    this.#either().skew += Math.floor((random() - 0.5) * 2e6 * 10 ** (random() * 5));
  }

  /** The line slows to a crawl for a while. */
  #slowLine(): void {
    const { line, options, random, after, met } = this.#world;
    met('slow line');
    line.rate = options.rate / 200;
    after(random() * 400, () => {
      line.rate = options.rate;
    });
  }

  #fillDisk(): void {
    const { random, after, met, note } = this.#world;
    const site = this.#either();
    const { store } = site;
    if (site.state !== 'up' || site.group === null) return;
    met('disk full');
    note(`${site.name} disk full`);
    store.capacity = store.used + Math.floor(random() * 200_000);
    after(random() * 1500, () => {
      store.capacity = Number.POSITIVE_INFINITY;
    });
  }

  /** A write or a sync fails for good: the site serves no more, and is started again. */
  #failDisk(): void {
    const site = this.#either();
    if (site.state !== 'up' || site.group === null) return;
    this.#fail(site, this.#world.random() < 0.5 ? 'sync' : 'write', 1, /^segment/);
  }

  /** Some reads fail: hosts are told, what is behind the scenes takes it for damage, until it is started again. */
  #failReads(): void {
    const site = this.#either();
    if (site.state !== 'up' || site.group === null) return;
    this.#fail(site, 'read', 1 + Math.floor(this.#world.random() * 3), /^segment/);
  }

  /** A process may open no more files for a while. What it has open goes on. */
  #refuseFiles(): void {
    const { random, after, met, note } = this.#world;
    const site = this.#either();
    if (site.state !== 'up' || site.group === null) return;
    met('out of files');
    note(`${site.name} may open no more files`);
    after(random() * 1500, site.store.fail('open', 'EMFILE', Number.POSITIVE_INFINITY));
  }

  /** The disk refuses to remove, rename or cut a file of the journal: at worst the site serves no more, and is started again. */
  #refuse(): void {
    const { random, note } = this.#world;
    const site = this.#either();
    if (site.state !== 'up' || site.group === null) return;
    const operation = REFUSED[Math.floor(random() * REFUSED.length)]!;
    note(`${site.name} is to refuse a ${operation}`);
    site.refuses = true;
    site.store.fail(operation, 'EIO', 1 + Math.floor(random() * 3), /^segment|^spare|^map/);
    this.#startAgain(site);
  }

  /** A gateway begins to open. */
  opening(site: DualSite): void {
    const { options, random } = this.#world;
    if (!this.active || options.openFault === 0 || random() >= options.openFault) return;
    const draw = random();
    if (draw < 0.3) this.#fail(site, 'read', 1, /^segment|^map/);
    else this.#fail(site, draw < 0.6 ? 'write' : 'sync', 1, null);
  }

  #fail(site: DualSite, operation: 'read' | 'write' | 'sync', times: number, name: RegExp | null): void {
    if (operation === 'read') site.unreadable = true;
    else site.suspect = true;
    site.store.fail(operation, 'EIO', times, name);
    this.#world.note(`${site.name} is to fail a ${operation}`);
    this.#startAgain(site);
  }

  /** What a disk has done to a site is over then. */
  #startAgain(site: DualSite): void {
    const { random, after } = this.#world;
    const { life } = site;
    after(random() * 1500, () => {
      // the last stop is in order, and what has failed by then is started again anyhow
      if (life.over || (!this.active && (site.state === 'closing' || (site.refuses && !site.unreadable)))) return;
      site.crash(true);
      this.#back(site);
    });
  }

  /** A site's syncs take long for a while. */
  #slowDisk(): void {
    const { random, after, met } = this.#world;
    const site = this.#either();
    met('slow disk');
    site.slowSyncMs = 20 + random() ** 2 * 1000;
    after(random() * 2000, () => {
      site.slowSyncMs = 0;
    });
  }

  /** A site's disk is replaced; it gets a first copy of the other's image. Only while the other one has one. */
  #empty(): void {
    const site = this.#either();
    const { other } = site;
    if (site.group?.role !== 'dual' || other.group?.role !== 'dual' || !other.group.mirror.imageConsistent) return;
    // what it was answered alone is nowhere else
    if (site.aloneThrough > other.journal.peer.durable || other.orphan) return;
    this.empty(site);
  }

  empty(site: DualSite): void {
    const { met, note } = this.#world;
    met('emptied');
    note(`${site.name} emptied`);
    site.crash(true);
    site.newDisk();
    this.#back(site);
  }

  /** Somebody at a site locks blocks, and keeps them for a while or until evicted. */
  #hold(long: boolean): void {
    const { random, after, met } = this.#world;
    const site = this.#either();
    const { group, life } = site;
    if (site.state !== 'up' || group === null) return;
    const volume = [...group.volumes.values()][Math.floor(random() * group.volumes.size)]!;
    const blocks = volume.size / volume.blockSize;
    const blockCount = long
      ? Math.ceil((0.3 + 0.7 * random()) * blocks)
      : 1 + Math.floor(random() * Math.min(8, blocks));
    const lba = Math.floor(random() * (blocks - blockCount + 1));
    const mode = long || random() < 0.5 ? 'read' : 'write';
    const keepMs = long ? 500 + random() * 5000 : random() < 0.1 ? 6000 : random() * 300;
    const extent = { offset: lba * volume.blockSize, size: blockCount * volume.blockSize };
    holdLock(volume, mode, extent, random() * 500).then(
      (request) => {
        const hold: Hold = { request, volume: volume.number, lba, blockCount };
        if (life.over) return;
        met(long ? 'long read lock held' : 'held');
        site.holds.add(hold);
        after(keepMs, () => {
          if (life.over) return;
          if (request.state === 'evicted') met('evicted');
          site.holds.delete(hold);
          volume.locks.release(request);
          group.locksMoved();
        });
      },
      () => met('not held'),
    );
  }
}
