/**
 * Which faults exist. Each comes at times drawn around its mean, and is counted by what it did.
 *
 * Faults of single messages (flipped bits) are the link's: sim-link.ts. What a crash does to unsynced writes is the
 * disk's: memory-store.ts.
 */
import type { LockRequest } from '../../src/volume/locks.js';
import { holdLock } from '../../src/volume/scope.js';
import type { Site } from './group-site.js';
import type { GroupWorld } from './group-world.js';

/** A lock that somebody has at the target: nothing is applied under it. */
export interface Hold {
  request: LockRequest;
  volume: number;
  lba: number;
  blockCount: number;
}

/** What each fault is counted as. */
export const FAULTS: readonly string[] = [
  ...['alpha power cut', 'beta power cut', 'alpha killed', 'beta killed', 'alpha stopped', 'beta stopped'],
  ...['target crash in the first copy', 'cut', 'slow line', 'bit flip'],
  ...['alpha disk full', 'beta disk full', 'alpha bad disk', 'beta bad disk', 'alpha journal failed'],
  ...['beta journal failed', 'disk failed while opening', 'held at the target', 'evicted', 'target emptied'],
];

export class Faults {
  readonly holds = new Set<Hold>();
  /** False in the phase without faults. */
  active = true;
  readonly #world: GroupWorld;

  constructor(world: GroupWorld) {
    this.#world = world;
  }

  start(): void {
    const { options, source, target, random, after } = this.#world;
    this.#every(options.sourceCrashMs, () => this.#crash(source));
    this.#every(options.targetCrashMs, () => this.#crash(target));
    this.#every(options.bothCrashMs, () => {
      this.#crash(source);
      after(random() < 0.5 ? 0 : random() * 20, () => this.#crash(target));
    });
    this.#every(options.restartMs, () => this.#restart());
    this.#every(options.cutMs, () => this.#cut());
    this.#every(options.pauseMs, () => this.#slowLine());
    this.#every(options.diskFullMs, () => this.#fillDisk());
    this.#every(options.holdMs, () => this.#hold());
    this.#every(options.badDiskMs, () => this.#failDisk());
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
    if (site === target && site.opens === 0) return;
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
    let used = 0;
    for (const name of site.store.list()) used += site.store.load(name)!.length;
    met(`${site.name} disk full`);
    note(`${site.name} disk full`);
    site.store.capacity = used + Math.floor(random() * 200_000);
    after(random() * 1500, () => {
      site.store.capacity = Number.POSITIVE_INFINITY;
    });
  }

  /** A write or a sync fails for good: the site serves no more, and is started again. */
  #failDisk(): void {
    const { source, target, random, after, met, note } = this.#world;
    const site = random() < 0.5 ? source : target;
    const { life } = site;
    if (site.state !== 'up' || site.group === null) return;
    site.suspect = true;
    site.store.fail(random() < 0.5 ? 'sync' : 'write', 'EIO', 1, /^segment/);
    met(`${site.name} bad disk`);
    note(`${site.name} bad disk`);
    after(random() * 1500, () => {
      if (life.over) return;
      if (site.group!.journal.failed !== null) met(`${site.name} journal failed`);
      site.crash(true);
      this.#back(site);
    });
  }

  /** Somebody at the target's site locks blocks, and keeps them for a while or until evicted. */
  #hold(): void {
    const { target, random, after, met } = this.#world;
    if (target.state !== 'up' || target.group === null) return;
    const volume = [...target.group.volumes.values()][Math.floor(random() * target.group.volumes.size)]!;
    const blocks = volume.size / volume.blockSize;
    const lba = Math.floor(random() * blocks);
    const blockCount = 1 + Math.floor(random() * Math.min(24, blocks - lba));
    const { life, group } = target;
    const mode = random() < 0.5 ? 'read' : 'write';
    const extent = { offset: lba * volume.blockSize, size: blockCount * volume.blockSize };
    holdLock(volume, mode, extent, random() * 500).then(
      (request) => {
        const hold = { request, volume: volume.number, lba, blockCount };
        if (life.over) return;
        met('held at the target');
        this.holds.add(hold);
        after(random() < 0.1 ? 6000 : random() * 300, () => {
          if (life.over) return;
          if (request.state === 'evicted') met('evicted');
          this.holds.delete(hold);
          volume.locks.release(request);
          group.locksMoved();
        });
      },
      () => met('not held at the target'),
    );
  }
}
