/**
 * Two sites with their production Group, Pair, journal, recovery, cleaner and mirror, in a world of faults.
 *
 * What is simulated: time, chance, the disks, the link, the worker threads and the hosts.
 *
 *     group-draw.ts      what a world is drawn of, and how a seed draws it
 *     group-faults.ts    which faults exist            group-operator.ts  what a person does about them
 *     group-checks.ts    what is checked, and when     group-history.ts   what was written: the truth
 *     group-accidents.ts two that both serve, copies   group-strays.ts    hosts of whom nothing is kept
 *     group-hosts.ts     what hosts do                 group-registers.ts what they saw, to be judged in the end
 *     group-line.ts      connecting, and sim-link.ts   group-site.ts      a machine and its gateway's lives
 *                                                      group-rig.ts       time, worker threads, flat images
 *
 * This file is the order of events: a phase with faults (safety), then one without that must come to its end (liveness).
 */
import type { XXHashAPI } from 'xxhash-wasm';
import { Accidents } from './group-accidents.js';
import { Checks } from './group-checks.js';
import type { GroupWorldOptions } from './group-draw.js';
import { Faults } from './group-faults.js';
import { History, type Images, UNIT } from './group-history.js';
import { Hosts } from './group-hosts.js';
import { Line } from './group-line.js';
import { Operator } from './group-operator.js';
import { Registers } from './group-registers.js';
import { Scheduler } from './group-rig.js';
import { Site } from './group-site.js';
import { seededRandom } from './memory-store.js';

export { type GroupWorldOptions, QUIET } from './group-draw.js';

/** Tasks after which a phase counts as endless. */
const STEPS_MAX = 3_000_000;
const TRACE_LINES = 400;

export class GroupWorld {
  readonly options: GroupWorldOptions;
  readonly random: () => number;
  readonly hash: XXHashAPI;
  readonly scheduler = new Scheduler();
  readonly counts: Record<string, number> = {};
  readonly trace: string[] = [];
  readonly history: History;
  readonly checks: Checks;
  readonly hosts: Hosts;
  readonly registers: Registers;
  readonly line: Line;
  readonly faults: Faults;
  readonly operator: Operator;
  readonly accidents: Accidents;
  /** They change places when the target takes over. */
  source: Site;
  target: Site;
  #failure: Error | null = null;

  constructor(options: GroupWorldOptions, random: () => number, hash: XXHashAPI) {
    this.options = options;
    this.random = random;
    this.hash = hash;
    this.history = new History(options.volumes, this.violation);
    this.checks = new Checks(this);
    this.registers = new Registers(options.volumes, seededRandom(options.seed));
    this.hosts = new Hosts(this);
    this.line = new Line(this);
    this.faults = new Faults(this);
    this.operator = new Operator(this);
    this.accidents = new Accidents(this);
    this.source = new Site(this, 'alpha', 'primary');
    this.target = new Site(this, 'beta', 'standby');
    this.#prefill();
  }

  // ---- for its parts: they take these out of the world

  readonly met = (what: string, count = 1): void => {
    this.counts[what] = (this.counts[what] ?? 0) + count;
  };

  readonly note = (what: string): void => {
    this.trace.push(`${this.scheduler.now.toFixed(2)} ${what}`);
    if (this.trace.length > TRACE_LINES) this.trace.splice(0, TRACE_LINES / 2);
  };

  readonly after = (delayMs: number, task: () => void): void => this.scheduler.schedule(task, delayMs);

  readonly fail = (error: Error): void => {
    this.#failure ??= error;
  };

  readonly violation = (what: string): never => {
    throw new Error(`${what}: ${this.describe()}`);
  };

  describe(): string {
    const { source, target, line, hosts, history } = this;
    return `${source.describe()}; ${target.describe()}; link ${line.describe()}, ${hosts.outstanding} operations open, history ${history.length}`;
  }

  // ---- for tests that tell one story

  open(site: Site): void {
    site.open();
  }
  crash(site: Site, power: boolean): void {
    site.crash(power);
  }
  stop(site: Site): Promise<void> {
    return site.stop();
  }
  compareAll(): Promise<void> {
    return this.checks.compareAll();
  }
  set lineDownUntil(ms: number) {
    this.line.downUntil = ms;
  }
  get records(): number {
    return this.history.length;
  }

  /** Writes units with tags of their own at the source; resolves when it is answered. */
  write(unit: number, units: number): Promise<void> {
    const volume = [...this.source.group!.volumes.values()][0]!;
    const bytes = this.history.payload(units * UNIT);
    return new Promise((resolve, reject) => {
      const settle = (error: Error | null): void => (error === null ? resolve() : reject(error));
      volume.write(1, unit * UNIT, bytes.length, [bytes], false, { settle });
    });
  }

  /** Flushes at the source; what is promised is kept in mind. */
  flush(): Promise<void> {
    const group = this.source.group!;
    const sequence = group.journal.own.appended;
    return new Promise((resolve, reject) => {
      [...group.volumes.values()][0]!.flush({
        settle: (error) => {
          if (error !== null) return reject(error);
          this.checks.flushed(sequence);
          resolve();
        },
      });
    });
  }

  // ---- running

  /** The safety phase, then the phase without faults, which must come to its end. */
  async run(): Promise<void> {
    const { options, hosts, faults } = this;
    this.source.open();
    this.after(options.joinMs, () => {
      if (faults.active) this.target.open();
    });
    hosts.start();
    faults.start();
    this.#lookAroundLater();
    await this.until(() => hosts.operations >= options.operations, options.safetyMs, null);
    this.#calm();
    // in lock-step what the target lacks comes a record at a time, each with its round trips
    const catchUpMs = options.speculation === 'off' ? this.history.length * 4 * options.delayMax : 0;
    await this.until(() => this.settled(), 90_000 + catchUpMs, 'the phase without faults does not come to its end');
    await this.checks.compareAll();
    await this.#stopBoth();
    const impossible = this.registers.judge();
    if (impossible !== null) this.violation(impossible);
  }

  /** Time passes until something holds. @param complaint null: then it just took too long */
  until(done: () => boolean, limitMs: number, complaint: string | null): Promise<void> {
    const end = this.scheduler.now + limitMs;
    const settled = Promise.resolve();
    let steps = 0;
    const isOver = (): boolean => {
      if (this.#failure !== null) throw this.#failure;
      if (done()) return true;
      if (this.scheduler.now > end || steps > STEPS_MAX) {
        if (complaint === null) return true;
        throw new Error(`${complaint}: ${this.describe()}`);
      }
      if (!this.scheduler.step()) throw new Error(`nothing is going to happen any more: ${this.describe()}`);
      steps += 1;
      return false;
    };
    return new Promise((resolve, reject) => {
      const turn = (): void => {
        try {
          if (isOver()) return resolve();
        } catch (error) {
          this.fail(error as Error);
          return reject(error);
        }
        // what the code under test has promised has all its turns first: a tick waits for the queue of turns to be empty
        settled.then(later);
      };
      const later = (): void => process.nextTick(turn);
      turn();
    });
  }

  /** Lets that many ms pass. */
  async pass(ms: number): Promise<void> {
    const end = this.scheduler.now + ms;
    this.scheduler.schedule(() => {}, ms);
    await this.until(() => this.scheduler.now >= end, ms + 1, null);
  }

  /** The promise of something under test, with time passing until it is kept. */
  async settle<T>(promise: Promise<T>, limitMs = 5000): Promise<T> {
    let over = false;
    const end = (): void => {
      over = true;
    };
    promise.then(end, end);
    await this.until(() => over, limitMs, 'not answered');
    return promise;
  }

  /** Flat images that hold data from before: the source's counts, the target's is rubbish. */
  #prefill(): void {
    const { options, history, random } = this;
    if (options.prefilled === 0 || options.volumes[0]!.platter !== 'flat') return;
    this.met('prefilled');
    const initial: Images = new Map();
    options.volumes.forEach((_, index) => {
      const bytes = history.prefill(index + 1, options.prefilled, random);
      initial.set(index + 1, history.tagsOf(bytes, 0, bytes.length / UNIT));
      this.source.images.put(`image-${index}`, bytes);
      if (random() < 0.5) {
        this.target.images.put(`image-${index}`, history.prefill(index + 1, options.prefilled, random));
      }
    });
    history.begin(initial);
    this.registers.begin(initial);
  }

  #lookAroundLater(): void {
    this.after(20 + this.random() * 300, () => {
      this.operator.look();
      this.checks.lookAround();
      this.#lookAroundLater();
    });
  }

  /** No more faults: disks have room, the line is good, machines come back. */
  #calm(): void {
    const { line, hosts, faults, options } = this;
    this.note('calm');
    faults.active = false;
    hosts.stopped = true;
    line.bitFlip = 0;
    line.repeat = 0;
    line.rate = options.rate;
    line.downUntil = 0;
    this.operator.mend();
    for (const site of [this.source, this.target]) {
      site.store.capacity = Number.POSITIVE_INFINITY;
      for (const disk of [site.store, site.images]) disk.heal(); // what was to fail and was not asked yet
      if (site.state === 'off') this.after(10, () => site.open());
    }
  }

  /** Everything is answered, and both sites have all of it. Whoever is down is started. */
  settled(): boolean {
    const { source, target, hosts } = this;
    for (const site of [source, target]) site.open();
    for (const site of [source, target]) {
      // a journal that failed is of no use until the gateway is started again
      if (site.group !== null && site.group.journal.failed !== null) site.crash(true);
    }
    if (source.promoting || hosts.outstanding > 0 || source.state !== 'up' || target.state !== 'up') return false;
    if (source.unreadable || target.unreadable) return false;
    if (source.group === null || target.group === null || !source.group.serving) return false;
    const { sender } = source.group;
    const { receiver } = target.group;
    if (sender === null || receiver === null) return false;
    const last = source.journal.own.appended;
    return (
      sender.connected &&
      receiver.imageConsistent &&
      source.journal.own.durable === last &&
      sender.source.peerDurable === last &&
      sender.source.applied === last &&
      target.journal.peerApplied === last &&
      source.group.scopes.open.size === 0 &&
      source.group.state.superblock.degradedSince === null
    );
  }

  /** Both stop in order; what they hold when they come back is what they held. */
  async #stopBoth(): Promise<void> {
    const { source, target } = this;
    const sites = this.random() < 0.5 ? [source, target] : [target, source];
    for (const site of sites) void site.stop();
    await this.until(() => sites.every((site) => site.state === 'off'), 20_000, 'a clean stop does not end');
    for (const site of sites) {
      if (this.random() < 0.5) {
        site.store.crash();
        site.images.crash();
      }
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
