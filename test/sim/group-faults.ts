/**
 * Which faults exist. Each comes at times drawn around its mean, and is counted by what it did.
 *
 * Faults of single messages (flipped bits) are the link's: sim-link.ts. What a crash does to unsynced writes is the
 * disk's: memory-store.ts.
 */
import type { LockRequest } from '../../src/volume/locks.js';
import { holdLock } from '../../src/volume/scope.js';
import type { Volume } from '../../src/volume/volume.js';
import type { Site } from './group-site.js';
import { Views } from './group-views.js';
import type { GroupWorld } from './group-world.js';

/** A lock that somebody has at the target: nothing is applied under it. */
export interface Hold {
  request: LockRequest;
  volume: number;
  lba: number;
  blockCount: number;
}

export const REFUSED = ['remove', 'rename', 'truncate'] as const;

/** What each fault is counted as. */
export const FAULTS: readonly string[] = [
  ...['source power cut', 'target power cut', 'source killed', 'target killed', 'source stopped', 'target stopped'],
  ...['unsynced write written', 'unsynced write lost', 'unsynced write torn', 'unsynced write garbage'],
  ...['target crash in the first copy', 'failed over', 'target emptied', 'source clock jump', 'target clock jump'],
  ...['cut', 'half-open link', 'late frame', 'repeated frame', 'stalled line', 'slow line', 'bit flip'],
  ...['source disk full', 'target disk full', 'source failed write', 'target failed write', 'source failed sync'],
  ...['target failed sync', 'source journal failed', 'target journal failed', 'disk failed while opening'],
  ...['source failed read', 'target failed read', 'source slow disk', 'target slow disk', 'target rot', 'rot was told'],
  ...['source out of files', 'target out of files', 'source failed open', 'target failed open'],
  ...REFUSED.flatMap((operation) => [`source failed ${operation}`, `target failed ${operation}`]),
  ...['held at the target', 'long read lock at the target', 'evicted', 'view pinned', 'view dropped', 'prefilled'],
  ...['promoted while apart', 'refused: both primary', 'refused: split brain', 'stray follows', 'refused: a copy'],
  ...['source restored from an older copy', 'target restored from an older copy', 'source replaced in a first copy'],
  // of the table in mirror/decide.ts; row 8 cannot happen, and fails a world in which it does
  ...[1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14].map((row) => `row ${row}`),
];

export class Faults {
  readonly holds = new Set<Hold>();
  /** False in the phase without faults. */
  active = true;
  readonly views: Views;
  readonly #world: GroupWorld;

  constructor(world: GroupWorld) {
    this.#world = world;
    this.views = new Views(world);
  }

  start(): void {
    const { options, line, operator, accidents, random, after } = this.#world;
    this.#every(options.sourceCrashMs, () => this.#crash(this.#world.source));
    this.#every(options.targetCrashMs, () => this.#crash(this.#world.target));
    this.#every(options.bothCrashMs, () => {
      this.#crash(this.#world.source);
      after(random() < 0.5 ? 0 : random() * 20, () => this.#crash(this.#world.target));
    });
    this.#every(options.restartMs, () => this.#restart());
    this.#every(options.clockJumpMs, () => this.#jumpClock());
    this.#every(options.cutMs, () => this.#cut());
    this.#every(options.halfOpenMs, () => line.cutUnseen());
    this.#every(options.stallMs, () => line.stall());
    this.#every(options.pauseMs, () => this.#slowLine());
    this.#every(options.diskFullMs, () => this.#fillDisk());
    this.#every(options.badDiskMs, () => this.#failDisk());
    this.#every(options.readErrorMs, () => this.#failReads());
    this.#every(options.slowDiskMs, () => this.#slowDisk());
    this.#every(options.noFilesMs, () => this.#refuseFiles());
    this.#every(options.refusalMs, () => this.#refuse());
    this.#every(options.rotMs, () => this.#rot());
    this.#every(options.holdMs, () => this.#hold());
    this.#every(options.longHoldMs, () => this.#holdLong());
    this.#every(options.viewMs, () => this.views.open());
    this.#every(options.failOverMs, () => operator.failOver());
    this.#every(options.splitMs, () => accidents.split());
    this.#every(options.restoreMs, () => accidents.restore());
    this.#every(options.replaceMs, () => accidents.replace());
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
  #back(site: Site): void {
    const { options, random, after } = this.#world;
    after(3 + random() ** 3 * options.downMs, () => {
      if (this.active) site.open();
    });
  }

  #crash(site: Site): void {
    const { target, options, random } = this.#world;
    if ((site === target && site.opens === 0) || site.held) return;
    site.crash(random() >= options.kill);
    this.#back(site);
  }

  #restart(): void {
    const { source, target, random } = this.#world;
    const site = random() < 0.5 ? source : target;
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

  /** Somebody sets a clock, or it sets itself. */
  #jumpClock(): void {
    const { source, target, random, met } = this.#world;
    const site = random() < 0.5 ? source : target;
    met(`${site.place} clock jump`);
    site.skew += Math.floor((random() - 0.5) * 2e6 * 10 ** (random() * 5));
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
    const { source, target, random, after, met, note } = this.#world;
    const site = random() < 0.6 ? source : target;
    if (site.state !== 'up' || site.group === null) return;
    met(`${site.place} disk full`);
    note(`${site.name} disk full`);
    const { store } = site; // by then the site may run on others
    store.capacity = store.used + Math.floor(random() * 200_000);
    after(random() * 1500, () => {
      store.capacity = Number.POSITIVE_INFINITY;
    });
  }

  /** A write or a sync fails for good: the site serves no more, and is started again. */
  #failDisk(): void {
    const { source, target, random } = this.#world;
    const site = random() < 0.5 ? source : target;
    if (site.state !== 'up' || site.group === null) return;
    this.#fail(site, random() < 0.5 ? 'sync' : 'write', 1, /^segment/);
  }

  /** Some reads fail: hosts are told, what is behind the scenes takes it for damage, until it is started again. */
  #failReads(): void {
    const { source, target, random } = this.#world;
    const site = random() < 0.5 ? source : target;
    if (site.state !== 'up' || site.group === null) return;
    this.#fail(site, 'read', 1 + Math.floor(random() * 3), /^segment|^image/);
  }

  /** A process may open no more files for a while. What it has open goes on. */
  #refuseFiles(): void {
    const { source, target, random, after, met, note } = this.#world;
    const site = random() < 0.5 ? source : target;
    if (site.state !== 'up' || site.group === null) return;
    met(`${site.place} out of files`);
    note(`${site.name} may open no more files`);
    after(random() * 1500, site.store.fail('open', 'EMFILE', Number.POSITIVE_INFINITY));
  }

  /** The disk refuses to remove, rename or cut a file of the journal: at worst the site serves no more, and is started again. */
  #refuse(): void {
    const { source, target, random, note } = this.#world;
    const site = random() < 0.5 ? source : target;
    if (site.state !== 'up' || site.group === null) return;
    const operation = REFUSED[Math.floor(random() * REFUSED.length)]!;
    note(`${site.name} is to refuse a ${operation}`);
    site.refuses = true;
    site.store.fail(operation, 'EIO', 1 + Math.floor(random() * 3), /^segment|^spare|^map/);
    this.#startAgain(site);
  }

  /** A gateway begins to open. */
  opening(site: Site): void {
    const { options, random } = this.#world;
    if (!this.active || options.openFault === 0 || random() >= options.openFault) return;
    const draw = random();
    if (draw < 0.3) this.#fail(site, 'read', 1, /^segment|^map/);
    else this.#fail(site, draw < 0.6 ? 'write' : 'sync', 1, null);
  }

  #fail(site: Site, operation: 'read' | 'write' | 'sync', times: number, name: RegExp | null): void {
    if (operation === 'read') {
      site.unreadable = true;
      site.images.fail(operation, 'EIO', times, name);
    } else site.suspect = true;
    site.store.fail(operation, 'EIO', times, name);
    this.#world.note(`${site.name} is to fail a ${operation}`);
    this.#startAgain(site);
  }

  /** What a disk has done to a site is over then. */
  #startAgain(site: Site): void {
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
    const { source, target, random, after, met } = this.#world;
    const site = random() < 0.5 ? source : target;
    met(`${site.place} slow disk`);
    site.slowSyncMs = 20 + random() ** 2 * 1000;
    after(random() * 2000, () => {
      site.slowSyncMs = 0;
    });
  }

  /**
   * One byte of an older segment of the target rots. Of the target only: the source's copy is the one to mend it from,
   * and a source with rot may have to stay as it is.
   */
  #rot(): void {
    const { target, random, met, note } = this.#world;
    if (target.state !== 'up' || target.group === null || target.stray) return;
    const names = target.store.list().filter((name) => name.startsWith('segment'));
    const name = names[Math.floor(random() * (names.length - 1))];
    if (name === undefined || names.length < 2) return;
    const at = Math.floor(random() * target.store.sizeOf(name));
    met('target rot');
    note(`${target.name} rot in ${name} at ${at}`);
    target.rotten = true;
    target.store.rot(name, at, 1 + Math.floor(random() * 255));
  }

  /** Somebody at the target's site locks blocks, and keeps them for a while or until evicted. */
  #hold(): void {
    const { target, random } = this.#world;
    if (target.state !== 'up' || target.group === null) return;
    const volume = [...target.group.volumes.values()][Math.floor(random() * target.group.volumes.size)]!;
    const blocks = volume.size / volume.blockSize;
    const lba = Math.floor(random() * blocks);
    const blockCount = 1 + Math.floor(random() * Math.min(24, blocks - lba));
    const mode = random() < 0.5 ? 'read' : 'write';
    this.#holdFor(volume, mode, lba, blockCount, () => (random() < 0.1 ? 6000 : random() * 300), 'held at the target');
  }

  /** A backup at the target's site: it reads much of a volume, and takes its time. */
  #holdLong(): void {
    const { target, random } = this.#world;
    if (target.state !== 'up' || target.group === null) return;
    const volume = [...target.group.volumes.values()][Math.floor(random() * target.group.volumes.size)]!;
    const blocks = volume.size / volume.blockSize;
    const blockCount = Math.ceil((0.3 + 0.7 * random()) * blocks);
    const lba = Math.floor(random() * (blocks - blockCount + 1));
    this.#holdFor(volume, 'read', lba, blockCount, () => 500 + random() * 9500, 'long read lock at the target');
  }

  #holdFor(
    volume: Volume,
    mode: 'read' | 'write',
    lba: number,
    blockCount: number,
    keepMs: () => number,
    counted: string,
  ): void {
    const { target, random, after, met } = this.#world;
    const { life } = target;
    const extent = { offset: lba * volume.blockSize, size: blockCount * volume.blockSize };
    holdLock(volume, mode, extent, random() * 500).then(
      (request) => {
        const hold = { request, volume: volume.number, lba, blockCount };
        if (life.over) return;
        met(counted);
        this.holds.add(hold);
        after(keepMs(), () => {
          if (life.over) return;
          if (request.state === 'evicted') met('evicted');
          this.holds.delete(hold);
          volume.locks.release(request);
          volume.group.locksMoved();
        });
      },
      () => met(`not ${counted}`),
    );
  }
}
