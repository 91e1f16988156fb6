/**
 * Two sites that both write (--role dual), with their production Group, Pair, journal, recovery and order of scopes, in
 * a world of faults. Time, chance, disks, link and worker threads are those of the one-way worlds (group-world.ts).
 *
 *     dual-draw.ts    what a world is drawn of       dual-truth.ts   both streams, and what follows from them
 *     dual-site.ts    a machine and its lives        dual-hosts.ts   what hosts do, and what they must be answered
 *     dual-faults.ts  which faults exist             dual-checks.ts  what is checked, and when
 *
 * A phase with faults (safety), then one without that must come to its end (liveness).
 */
import type { XXHashAPI } from 'xxhash-wasm';
import { SCOPE_AGE_MS_MAX } from '../../src/limits.js';
import { DualChecks } from './dual-checks.js';
import type { DualWorldOptions } from './dual-draw.js';
import { DualFaults } from './dual-faults.js';
import { DualHosts } from './dual-hosts.js';
import { DualSite } from './dual-site.js';
import { Truth } from './dual-truth.js';
import { Line } from './group-line.js';
import { Scheduler } from './group-rig.js';

/** Tasks after which a phase counts as endless. */
const STEPS_MAX = 3_000_000;
const TRACE_LINES = 400;
/** How long a refusal stands before somebody comes. */
const NOTICED_MS = 1000;

export class DualWorld {
  readonly options: DualWorldOptions;
  readonly random: () => number;
  readonly hash: XXHashAPI;
  readonly scheduler = new Scheduler();
  readonly counts: Record<string, number> = {};
  readonly trace: string[] = [];
  readonly truth: Truth;
  readonly checks: DualChecks;
  readonly line: Line;
  readonly faults: DualFaults;
  readonly sites: readonly [DualSite, DualSite];
  readonly hosts: readonly [DualHosts, DualHosts];
  #failure: Error | null = null;
  #refusedSince = 0;

  constructor(options: DualWorldOptions, random: () => number, hash: XXHashAPI) {
    this.options = options;
    this.random = random;
    this.hash = hash;
    this.truth = new Truth(options.volumes, this.violation, this.met);
    this.checks = new DualChecks(this);
    this.sites = [new DualSite(this, 0, options.soloMs > 0 ? 'primary' : 'dual'), new DualSite(this, 1, 'dual')];
    this.hosts = [new DualHosts(this, this.sites[0]), new DualHosts(this, this.sites[1])];
    this.line = new Line(this);
    this.faults = new DualFaults(this);
  }

  // ---- for its parts: they take these out of the world

  /** For the line: its two ends. */
  get source(): DualSite {
    return this.sites[0];
  }
  get target(): DualSite {
    return this.sites[1];
  }
  get operations(): number {
    return this.hosts[0].operations + this.hosts[1].operations;
  }
  get answered(): number {
    return this.hosts[0].answered + this.hosts[1].answered;
  }

  readonly met = (what: string, count = 1): void => {
    this.counts[what] = (this.counts[what] ?? 0) + count;
  };

  readonly note = (what: string): void => {
    this.trace.push(`${this.scheduler.now.toFixed(2)} ${what}`);
    if (this.trace.length > TRACE_LINES) this.trace.splice(0, TRACE_LINES / 2);
  };

  readonly after = (delayMs: number, task: () => void): void => {
    this.scheduler.schedule(() => {
      try {
        task();
      } catch (error) {
        this.fail(error as Error);
      }
    }, delayMs);
  };

  readonly fail = (error: Error): void => {
    this.#failure ??= error;
  };

  readonly violation = (what: string): never => {
    throw new Error(`${what}: ${this.describe()}`);
  };

  describe(): string {
    const [a, b] = this.sites;
    const open = this.hosts.map((hosts) => `${hosts.outstanding} open (${hosts.describe()})`).join(', ');
    return `${a.describe()}; ${b.describe()}; link ${this.line.describe()}, ${open}, records ${this.truth.records}`;
  }

  // ---- running

  /** The safety phase, then the phase without faults, which must come to its end. */
  async run(): Promise<void> {
    const { options, hosts, faults, sites } = this;
    sites[0].open();
    if (options.soloMs === 0) sites[1].open();
    else this.after(options.soloMs, () => this.#begin());
    for (const each of hosts) each.start();
    faults.start();
    this.#lookAroundLater();
    await this.until(() => this.operations >= options.operations, 60_000, null);
    this.#calm();
    // a scope that its holder left open is ended by its age
    const limitMs = SCOPE_AGE_MS_MAX + 30_000;
    await this.until(() => this.settled(), limitMs, 'the phase without faults does not come to its end');
    await this.checks.compareAll();
    this.truth.countConflicts();
    await this.#stopBoth();
  }

  /** Time passes until something holds. @param complaint null: then it just took too long */
  async until(done: () => boolean, limitMs: number, complaint: string | null): Promise<void> {
    const end = this.scheduler.now + limitMs;
    let steps = 0;
    while (!done()) {
      if (this.scheduler.now > end || steps > STEPS_MAX) {
        if (complaint === null) return;
        throw new Error(`${complaint}: ${this.describe()}`);
      }
      if (!this.scheduler.step()) throw new Error(`nothing is going to happen any more: ${this.describe()}`);
      steps += 1;
      // what the code under test has promised has all its turns first: a tick waits for the queue of turns to be empty
      await new Promise<void>((resolve) => process.nextTick(resolve));
      if (this.#failure !== null) throw this.#failure;
    }
  }

  /** The first site was a primary until now. */
  #begin(): void {
    const [first, second] = this.sites;
    this.met('solo');
    if (first.state !== 'up') {
      this.after(20, () => this.#begin());
      return;
    }
    // whoever opens it from now on opens it as dual: faults start machines, too
    first.role = 'dual';
    const reopen = (): void => {
      if (first.state === 'closing') return this.after(20, reopen);
      first.open();
      second.open();
    };
    if (this.random() < 0.5) first.crash(this.random() < 0.5);
    else first.stop().catch(() => {});
    reopen();
  }

  #lookAroundLater(): void {
    this.after(20 + this.random() * 300, () => {
      if (!this.line.isUp) this.line.connectSoon();
      this.#lookAtRefusal();
      this.checks.lookAround();
      this.#lookAroundLater();
    });
  }

  /** Who went on alone stays: a person empties the other one. */
  #lookAtRefusal(): void {
    const loser = this.checks.loser();
    if (loser === null) this.#refusedSince = this.scheduler.now;
    if (loser === null || this.scheduler.now - this.#refusedSince < NOTICED_MS) return;
    this.met('refused with its reason');
    this.faults.empty(loser);
  }

  /** No more faults: disks have room, the line is good, machines come back. */
  #calm(): void {
    const { line, hosts, faults, options, sites } = this;
    this.note('calm');
    faults.active = false;
    for (const each of hosts) each.stopped = true;
    line.bitFlip = 0;
    line.repeat = 0;
    line.rate = options.rate;
    line.downUntil = 0;
    for (const site of sites) {
      site.store.capacity = Number.POSITIVE_INFINITY;
      site.store.heal(); // what was to fail and was not asked yet
      if (site.state === 'off') this.after(10, () => site.open());
    }
  }

  /** Everything is answered and decided, and both sites have all of it. Whoever is down is started. */
  settled(): boolean {
    const { sites, hosts } = this;
    for (const site of sites) {
      site.open();
      // a journal that failed is of no use until the gateway is started again
      if (site.group !== null && site.group.journal.failed !== null) site.crash(true);
    }
    if (hosts.some((each) => each.outstanding > 0)) return false;
    return sites.every((site) => {
      const { group, other } = site;
      if (site.state !== 'up' || group === null || group.order === null || other.group === null) return false;
      if (site.unreadable) return false;
      const { appended, durable } = group.journal.own;
      const { closedThrough, doomed } = group.order.conflicts;
      return (
        group.serving &&
        !group.frozen &&
        group.mirror.connected &&
        group.receiver!.imageConsistent &&
        durable === appended &&
        group.sender!.peerReceived === appended &&
        group.sender!.peerDurable === appended &&
        group.sender!.peerApplied === appended &&
        other.journal.peerApplied === appended &&
        closedThrough === appended &&
        doomed.size === 0 &&
        group.scopes.open.size === 0
      );
    });
  }

  /** Both stop in order; what they hold when they come back is what they held. */
  async #stopBoth(): Promise<void> {
    const sites = this.random() < 0.5 ? [...this.sites] : this.sites.toReversed();
    for (const site of sites) void site.stop();
    await this.until(() => sites.every((site) => site.state === 'off'), 20_000, 'a clean stop does not end');
    for (const site of sites) {
      if (this.random() < 0.5) site.store.crash();
      site.open();
    }
    await this.until(() => sites.every((site) => site.state === 'up'), 5000, 'a site does not open again');
    for (const site of sites) {
      if (!site.group!.state.recovery.clean) this.violation(`${site.name} was stopped cleanly and does not know it`);
    }
    await this.until(() => this.settled(), 20_000, 'after a clean stop the sites do not find together');
    await this.checks.compareAll();
    for (const site of sites) site.gather();
  }
}
