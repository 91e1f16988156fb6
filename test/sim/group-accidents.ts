/**
 * What goes wrong by people's doing: two sites that both serve, an older copy of a disk, a machine that takes another
 * one's place. When the sites meet, both refuse and say what a person can do; nobody guesses.
 *
 * A *stray* is the site whose data somebody will give up. What it holds is compared with nothing; it is a stray until
 * it has nothing of its own left: emptied, or, where nothing is lost by that, as a follower of the other.
 */
import type { Met } from '../../src/mirror/decide.js';
import { type Disks, Site } from './group-site.js';
import { Strays } from './group-strays.js';
import type { GroupWorld } from './group-world.js';

/** What a site that was promoted, or has lost its place, is refused with. */
const FINDINGS: readonly (readonly [RegExp, string])[] = [
  [/^split brain: /, 'split brain'],
  [/ (of its own,|that .* wrote,) which .* never got before it went on alone/, 'has what the promoted one lacks'],
  [/went on alone since generation .* and holds the newer data/, 'promoted, and given up'],
  [/lost the tail of its stream behind .* in a crash and went on without it/, 'has a tail that was dropped'],
  [/^the journal of .* begins at /, 'its journal is gone'],
  [/holds an unfinished copy of another history than /, 'an unfinished copy of another'],
  [/^the journal of .* holds the stream of .* and cannot go on with that of /, 'holds the stream of another'],
];

/** How long somebody waits for the target to have all, or to be in its first copy, ms. */
const SWAP_MS_MAX = 1000;
const COPY_MS_MAX = 3000;
/** Of machines that take the target's place. */
const NAMES = ['gamma', 'delta', 'epsilon', 'zeta', 'eta', 'theta'];

export class Accidents {
  #hosts: Strays | null = null;
  /** How many machines have come; and the source that another one takes over from, until that serves. */
  #machines = 0;
  #former: Site | null = null;
  /** An older copy of a site's disks, the last meeting that it may know of; and what is put aside while it is in use. */
  #copy: { site: Site; met: number; disks: Disks } | null = null;
  #aside: Disks | null = null;
  readonly #world: GroupWorld;

  constructor(world: GroupWorld) {
    this.#world = world;
  }

  /** The site that is one, if any. */
  get stray(): Site | null {
    const { source, target } = this.#world;
    return [source, target].find((site) => site.stray) ?? null;
  }

  /** Hosts come to the stray, too. */
  serve(stray: Site): void {
    stray.stray = true;
    this.#hosts = new Strays(this.#world, stray);
  }

  // ---- the target takes over, and the source is not gone

  /** The primary is killed where its target has all of it, and comes back as a standby with its disks. */
  swap(): void {
    const { source, target, scheduler, after, operator, faults } = this.#world;
    const until = scheduler.now + SWAP_MS_MAX;
    const look = (): void => {
      if (!faults.active || scheduler.now > until || !operator.canFailOver()) return;
      if (source.group === null || source.journal.own.appended !== target.journal.peer.appended) return after(1, look);
      operator.failOver('comes back');
    };
    look();
  }

  /** The line is down, and somebody takes the primary for dead. */
  split(): void {
    const { line, scheduler, random, after, operator, met, note, faults } = this.#world;
    if (random() < 0.3) return this.swap();
    if (!line.isUp || !operator.canFailOver()) return;
    note('the sites are apart');
    line.downUntil = scheduler.now + 500 + random() ** 2 * 6000;
    line.cut();
    after(random() * 300, () => {
      if (!faults.active || !operator.canFailOver()) return;
      met('promoted while apart');
      if (random() < 0.4) this.#promoteBeside();
      else operator.failOver(random() < 0.5 ? 'comes back' : 'serves');
    });
  }

  /** The target is promoted, and the source, which hosts go on with, is none the wiser. */
  #promoteBeside(): void {
    const { target, note, random } = this.#world;
    note(`${target.name} is promoted beside the source`);
    target.crash(random() < 0.5);
    target.role = 'primary';
    this.serve(target);
    target.open();
  }

  /** Is its refusal about what was done to it? Then it is given up. @returns false: somebody has to look again later */
  cure(stray: Site, refusal: string): boolean {
    const { operator, met, note, violation, random } = this.#world;
    if (/are both primary/.test(refusal)) {
      if (stray.role === 'standby') return false; // said before
      met('refused: both primary');
      note(`${stray.name} is to be standby`);
      stray.crash(random() < 0.5);
      stray.role = 'standby';
      stray.open();
      return true;
    }
    if (this.#aside !== null) {
      if (!/is a clone or was restored/.test(refusal)) violation(`a copy is refused without a reason: ${refusal}`);
      met('refused: a copy');
      this.putBack();
      return true;
    }
    const finding = FINDINGS.find(([text]) => text.test(refusal));
    if (finding === undefined) violation(`a stray is refused without a reason: ${refusal}`);
    met(`refused: ${finding![1]}`);
    operator.empty(refusal);
    return true;
  }

  /** The sites do not refuse each other (any more): has the stray become a follower? */
  look(stray: Site): void {
    const { source, met, note, violation } = this.#world;
    const { pair, group } = stray;
    if (group === null || source.group === null || pair?.state !== 'streaming' || source.pair?.state !== 'streaming')
      return;
    if (this.#aside !== null) violation(`${stray.name} goes on with an older copy of its disks`);
    if ((this.#hosts?.flushed ?? 0) > 0)
      violation(`${stray.name} answered flushes, and follows ${source.name} without a word`);
    const newest = (site: Site): string => site.group!.state.superblock.generations.at(-1)!.id;
    if (newest(stray) !== newest(source)) violation(`${stray.name} follows, and has not the history of ${source.name}`);
    stray.droppedTo = Number.POSITIVE_INFINITY; // what these disks get from now on is the source's
    met('stray follows');
    note(`${stray.name} follows`);
    this.over(stray);
  }

  over(stray: Site): void {
    stray.stray = false;
    this.#hosts = null;
    this.#aside = null;
    this.#copy = null;
  }

  // ---- an older copy of the disks

  /** Somebody copies a site's disks as they are; or starts it with the copy that he has, which is older by now. */
  restore(): void {
    const { source, target, random, met, note } = this.#world;
    if (this.stray !== null || source.promoting) return;
    if (this.#copy === null) {
      const site = random() < 0.5 ? source : target;
      const peer = site === source ? target : source;
      if (site.state !== 'up' || site.group === null || site.orphan || site.rotten || site.suspect) return;
      if (!site.group.mirror.imageConsistent || peer.group === null) return;
      const { last, offered } = lastMeeting(site, peer);
      const disks = { store: site.store.copy(), images: site.images.copy() };
      this.#copy = { site, met: offered?.count ?? last?.count ?? 0, disks };
      return;
    }
    const copied = this.#copy.site;
    const peer = copied === source ? target : source;
    if (copied.pair?.state !== 'streaming' || peer.pair?.state !== 'streaming' || copied.suspect) return;
    // a source has written down only the meeting before: what nobody has met since may as well have crashed
    const since = (lastMeeting(peer, copied).last?.count ?? 0) - this.#copy.met;
    if (since < (peer === target ? 1 : 2)) return;
    met(`${copied === source ? 'source' : 'target'} restored from an older copy`);
    note(`${copied.name} goes on with an older copy of its disks`);
    copied.crash(random() < 0.5);
    this.#aside = copied.changeDisks(this.#copy.disks);
    this.#copy = null;
    this.serve(copied);
    copied.open();
  }

  /** Whoever runs on a copy gets its own disks again. */
  putBack(): void {
    const { note } = this.#world;
    const site = this.stray;
    const disks = this.#aside;
    if (site === null || disks === null) return;
    note(`${site.name} has its own disks again`);
    site.crash(true);
    site.changeDisks(disks);
    this.over(site);
    site.open();
  }

  /** A gateway said at its start that it cannot. */
  refusedToOpen(site: Site, error: Error & { code?: string }): boolean {
    if (site.promoting && this.#former !== null) {
      this.#takeBack(site, this.#former);
      return true;
    }
    if (!site.stray || error.code !== 'STATE_MISMATCH' || !/first copy was never finished/.test(error.message))
      return false;
    // its disk knows of no finished copy: it is what it was before
    site.crash(true);
    site.role = 'standby';
    this.over(site);
    site.open();
    return true;
  }

  // ---- a machine that takes another one's place

  /** A new machine becomes the target. In the middle of its first copy the one before takes over from the source. */
  replace(): void {
    const { source, target: former, operator, checks, random, met, note } = this.#world;
    const name = NAMES[this.#machines];
    if (!operator.canFailOver() || name === undefined) return;
    this.#machines += 1;
    met('target replaced');
    note(`${name} takes the place of ${former.name}`);
    former.crash(random() < 0.5);
    former.held = true;
    const target = new Site(this.#world, name, 'standby');
    this.#world.target = target;
    checks.targetEmptied();
    target.open();
    this.#waitForCopy(source, former, target);
  }

  #waitForCopy(source: Site, former: Site, target: Site): void {
    const world = this.#world;
    const { scheduler, random, after, faults, counts } = world;
    const until = scheduler.now + COPY_MS_MAX;
    const dropped = counts['tail dropped for good'];
    const isOff = (): boolean =>
      !faults.active ||
      source !== world.source ||
      target !== world.target ||
      this.stray !== null ||
      // what the former target has is no part of the history any more
      dropped !== counts['tail dropped for good'];
    const look = (): void => {
      if (scheduler.now > until || isOff()) return;
      if (target.group?.state.superblock.inconsistent?.untilSequence !== null) return after(1, look);
      after(random() * 20, () => {
        if (!isOff()) this.#takeOver(source, former, target);
      });
    };
    look();
  }

  #takeOver(source: Site, former: Site, target: Site): void {
    const { random, after, met, note, faults } = this.#world;
    met('source replaced in a first copy');
    note(`${former.name} is to take over from ${source.name}`);
    source.crash(random() < 0.5);
    source.held = true;
    this.#former = source;
    target.crash(random() < 0.5);
    target.stray = true;
    former.held = false;
    former.role = 'primary';
    former.promoting = true;
    this.#world.source = former;
    former.open();
    after(random() * 300, () => {
      if (faults.active) target.open();
    });
  }

  /** The machine that was to take over knows of no finished copy. */
  #takeBack(site: Site, former: Site): void {
    const { note, target } = this.#world;
    note(`${site.name} cannot take over`);
    site.crash(true);
    site.held = true;
    site.promoting = false;
    this.#former = null;
    this.over(target);
    former.held = false;
    this.#world.source = former;
    former.open();
  }

  /** The source that was promoted serves. */
  tookOver(): void {
    this.#former = null;
  }
}

function lastMeeting(site: Site, peer: Site): Met {
  return site.group!.state.superblock.met[peer.journal.own.site] ?? { last: null, offered: null };
}
