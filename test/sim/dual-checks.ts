/**
 * What is checked of a site, and when.
 *
 *   recovered   a state was opened: it holds what flushes promised of both streams, and nothing that was never written
 *   applied     a record of the peer is applied: nobody holds a lock on its blocks here
 *   flushed     a flush was answered: what it covers is on both disks, now
 *   compare     the image is what follows from the records (dual-truth.ts, Shown)
 *   split       one site alone serves, without the other; that one has all of it before it serves again
 *   end         both images are all living scopes one after the other; fates are as hosts were told
 */
import { TYPE_ABORT, TYPE_UNLOCK } from '../../assembly/layout.js';
import type { Journal } from '../../src/journal/journal.js';
import type { RecordHeader } from '../../src/journal/record.js';
import type { OpenedState } from '../../src/volume/group-state.js';
import type { DualSite } from './dual-site.js';
import { isStaged, isWrite, Shown, type SiteIndex, type TruthRecord } from './dual-truth.js';
import type { DualWorld } from './dual-world.js';
import { UNIT } from './group-history.js';

/** Reads that were under way when a site froze are answered until then. */
const FROZEN_ANSWER_MS_MAX = 100;

export class DualChecks {
  /** How many images were compared, or their views dropped. */
  count = 0;
  readonly #world: DualWorld;

  constructor(world: DualWorld) {
    this.#world = world;
  }

  recovered(site: DualSite, { journal, order, superblock, recovery }: OpenedState, created: boolean): void {
    const { truth, note, met, violation } = this.#world;
    const { index } = site;
    const peer = (1 - index) as SiteIndex;
    const { own } = journal;
    const received = journal.peer.appended;
    const applied = order?.conflicts.applied ?? 0;
    note(
      `${site.name} recovered own ${own.appended} of ${truth.streams[index].length}, peer ${received} (${applied}) of ${truth.streams[peer].length}`,
    );
    const counts = superblock.inconsistent === null && !created;
    // a new disk has nothing of what was dropped before its first copy, nor of what was promised to be there
    if (created) {
      site.droppedTo = Number.POSITIVE_INFINITY;
      truth.promisedThere[peer] = 0;
    }
    if (received > site.droppedTo) site.orphan = true;
    site.aloneThrough = Math.min(site.aloneThrough, own.appended);
    // what is on a link to the other site's life before may still arrive there
    if (site.other.group?.receiver?.connected !== true) this.#dropLost(site, journal);
    if (created) truth.copied[index] = own.appended;
    if (own.appended > truth.streams[index].length) violation(`${site.name} has ${own.appended} own records`);
    if (received > truth.streams[peer].length && order !== null && !site.orphan)
      violation(`${site.name} has ${received} of its peer`);
    if (counts && own.appended < truth.promised[index])
      violation(`${site.name} recovered ${own.appended} own records, a flush had promised ${truth.promised[index]}`);
    if (counts && order !== null && received < truth.promisedThere[peer])
      violation(`${site.name} recovered ${received} of its peer, a flush had promised ${truth.promisedThere[peer]}`);
    if (own.appended < truth.streams[index].length) met('own tail lost');
    if (received > applied && order !== null) met('recovered with a commit log');
    for (const [from, end] of [
      [index, own.appended],
      [peer, received],
    ] as const) {
      const last = truth.streams[from][end - 1];
      if (last !== undefined && isStaged(last)) met('recovered with half a transaction');
    }
    if (!created && order !== null) {
      met(recovery.clean ? 'recovered clean' : 'recovered');
      if (superblock.checkpoint.order?.conflicts.dead.length ?? 0)
        met('recovered from a checkpoint that knows dead scopes');
      const order = superblock.checkpoint.order!;
      if (order.settled.through < order.conflicts.appended) met('recovered from unsettled scopes');
    }
    site.shown =
      superblock.inconsistent === null && !site.orphan ? new Shown(truth, index, own.appended, applied, met) : null;
  }

  /** A site lets go of its link: nothing more arrives by it. */
  detached(site: DualSite): void {
    this.#dropLost(site, site.journal);
  }

  /**
   * Of both streams nothing is left behind what one of two open journals holds: nobody can bring it back. Else it would
   * go on to beat what is written from now on, and what is never written anew would be missed in the end.
   */
  #dropLost(site: DualSite, journal: Journal): void {
    const { truth, met } = this.#world;
    const { index, other } = site;
    if (other.group === null && !other.isEmpty) return;
    const there = other.group?.journal;
    const held = [
      [index, Math.max(journal.own.appended, there?.peer.appended ?? 0)],
      [other.index, Math.max(there?.own.appended ?? 0, journal.peer.appended)],
    ] as const;
    for (const [from, end] of held) {
      if (end >= truth.streams[from].length) continue;
      met('tail dropped for good');
      truth.cut(from, end);
    }
  }

  /** Hosts come: a first copy is whole now. */
  serving(site: DualSite): void {
    const { truth, met } = this.#world;
    const { own, peerApplied } = site.journal;
    site.shown ??= new Shown(truth, site.index, own.appended, peerApplied, met);
  }

  applied(site: DualSite, record: TruthRecord): void {
    if (!isWrite(record)) return;
    const { truth, violation } = this.#world;
    for (const hold of site.holds) {
      const over = hold.volume === record.volume && hold.lba < record.end && record.lba < hold.lba + hold.blockCount;
      if (!over || hold.request.state !== 'held') continue;
      if (truth.isDead(truth.streams[record.from][record.scope - 1]!)) continue;
      violation(`${record.lba} to ${record.end} applied while ${hold.lba}+${hold.blockCount} is held at ${site.name}`);
    }
  }

  /** A flush was answered: everything up to `sequence` is promised. */
  flushed(site: DualSite, sequence: number): void {
    const { truth, violation } = this.#world;
    const { journal, order, role } = site.group!;
    if (journal.own.durable < sequence)
      violation(`a flush of ${sequence} was answered, ${journal.own.durable} is on disk`);
    if (role !== 'dual') return;
    const { other } = site;
    const alone = sequence <= site.aloneThrough;
    if (alone) this.#world.met('flushed alone');
    else if (other.group !== null && other.journal.peer.durable < sequence && other.group.receiver!.imageConsistent)
      violation(`a flush of ${sequence} was answered, the peer has ${other.journal.peer.durable} on disk`);
    truth.flush(site.index, sequence, order!.conflicts.doomed, alone);
  }

  // ---- a split

  goesAlone(site: DualSite): void {
    const { met, note } = this.#world;
    note(`${site.name} goes on alone from ${site.journal.own.appended}, peer ${site.journal.peer.appended}`);
    met('went on alone');
    this.#drop(site, site.journal.own.appended);
    if (this.#serves(site.other)) this.#world.violation(`${site.name} goes on alone, and ${site.other.name} serves`);
  }

  /** A record stands where there was another one: is it of a later generation than that? */
  parts(site: DualSite, { sequence, generation }: RecordHeader): void {
    if (generation > this.#world.truth.streams[site.index][sequence - 1]!.generation) this.#drop(site, sequence - 1);
  }

  /** Of a site's stream nothing is left behind `through`; the other site may have more of it, and is of no account then. */
  #drop(site: DualSite, through: number): void {
    const { truth, met } = this.#world;
    const { other } = site;
    if (truth.streams[site.index].length <= through) return;
    met('tail dropped for good');
    truth.cut(site.index, through);
    other.droppedTo = Math.min(other.droppedTo, through);
    if (other.group === null || other.journal.peer.appended <= through) return;
    other.orphan = true;
    other.shown = null;
  }

  /** A site serves again, with the other. */
  bothServe(site: DualSite): void {
    const { met, violation } = this.#world;
    const { other } = site;
    if (other.aloneThrough === 0) return;
    if (this.#isAlone(other)) violation(`${site.name} serves, and ${other.name} is alone`);
    met('caught up with who was alone');
    site.droppedTo = Number.POSITIVE_INFINITY;
    if (site.journal.peerApplied < other.aloneThrough)
      violation(
        `${site.name} serves with ${site.journal.peerApplied}, ${other.name} was alone to ${other.aloneThrough}`,
      );
  }

  /** A new record stands in a site's journal. */
  appends(site: DualSite, { type }: TruthRecord): void {
    // who follows ends what is over, and may not have seen yet that the link is gone again
    if (type === TYPE_UNLOCK || type === TYPE_ABORT) return;
    if (this.#isAlone(site.other)) this.#world.violation(`${site.name} appends, and ${site.other.name} is alone`);
  }

  /** A host got what it had asked for. */
  answered(site: DualSite, what: string): void {
    const { group, other } = site;
    if (this.#isAlone(other)) this.#world.violation(`${what} is answered by ${site.name}, and ${other.name} is alone`);
    const { frozenAt } = group!;
    if (what === 'read' && frozenAt !== null && group!.nowMs() - frozenAt > FROZEN_ANSWER_MS_MAX)
      this.#world.violation(`${what} is answered by ${site.name}, which is frozen since ${frozenAt}`);
  }

  /** Who was alone and who was not refuse each other, and say why. @returns who has to be emptied then, or null */
  loser(): DualSite | null {
    const { sites, options } = this.#world;
    const preferred = sites.find(({ name }) => `prefer:${name}` === options.whenSplit);
    if (preferred === undefined) return null;
    const { other } = preferred;
    if (preferred.group === null || other.group === null) return null;
    const reasons = sites.map(({ pair }) => pair?.refusal ?? null);
    const lacks = other.journal.own.appended > preferred.journal.peer.appended;
    const given = (this.#world.counts['retention given up'] ?? 0) + preferred.group.cleaner.counters.retentionGivenUp;
    // it may have minted and then died before it served: nobody can tell
    const newest = preferred.group.state.superblock.generations.at(-1)!;
    const { own } = preferred.journal;
    const minted = newest.minter === own.site && (newest.ends[own.site] ?? 0) === own.appended;
    const isRight = (reason: string | null): boolean =>
      reason !== null &&
      ((lacks && / of its own, which .* never got before it went on alone/.test(reason)) ||
        ((other.orphan || minted) && /lost the tail of its stream behind .* and went on without it/.test(reason)) ||
        (given > 0 && /^the journal of .* begins at /.test(reason)));
    return other.group.frozen && reasons.every(isRight) ? other : null;
  }

  #serves({ group }: DualSite): boolean {
    return group !== null && group.role === 'dual' && group.serving && !group.frozen;
  }

  #isAlone(site: DualSite): boolean {
    return this.#serves(site) && site.group!.alone;
  }

  lookAround(): void {
    const { sites, random, violation } = this.#world;
    for (const site of sites) {
      if (site.group === null) continue;
      for (const volume of site.group.volumes.values()) volume.locks.check();
      const { segments, room, segmentSize, head, written, ringSize, own } = site.journal;
      if (head - written > ringSize) violation('the ring is overrun');
      if (segments.used > room.limit + 4 * segmentSize) violation(`the journal has ${segments.used} bytes`);
      const { spareSize } = segments;
      if (spareSize > 0 && segments.used + spareSize > room.limit && !site.refuses)
        violation(`${spareSize} bytes are kept beside the journal's ${segments.used}`);
      const { order } = site.group;
      if (order !== null) {
        const { appended, confirmedThrough, closedThrough, received, applied } = order.conflicts;
        if (appended !== own.appended || closedThrough > confirmedThrough || confirmedThrough > appended)
          violation(`${site.name}: closed ${closedThrough}, confirmed ${confirmedThrough}, appended ${appended}`);
        if (applied > received) violation(`${site.name}: applied ${applied}, received ${received}`);
      }
      if (random() < 0.3) this.compare(site);
    }
  }

  /** Compares a site's image as it is now with what it must show. @returns how many volumes will be counted */
  compare(site: DualSite): number {
    const { truth, met, violation } = this.#world;
    const { group, life, shown } = site;
    if (group === null || shown === null || site.state === 'closing') return 0;
    for (const volume of group.volumes.values()) {
      const expected = shown.image(volume.number);
      const view = volume.map.snapshot();
      const live = group.cleaner.pinLive();
      let open = true;
      const release = (): void => {
        if (!open) return;
        open = false;
        unregister();
        view.release();
        group.cleaner.unpinLive(live);
        this.count += 1;
      };
      const unregister = group.views.register({ drop: release });
      const into = new Uint8Array(volume.size);
      const image = group.image(volume.number);
      group.reader.read(view, volume.number, volume.blockShift, 0, view.blockCount, into, image, (error) => {
        if (life.over || !open) return;
        release();
        if (error !== null && site.unreadable) return met('failed read was told');
        if (error !== null) violation(`${site.name}: ${error.message}`);
        const found = truth.history.tagsOf(into, 0, into.length / UNIT);
        const unit = found.findIndex((tag, at) => tag !== expected[at]);
        if (unit >= 0)
          violation(
            `${site.name} shows ${found[unit]} in unit ${unit} of volume ${volume.number}, not ${expected[unit]} ` +
              `(${truth.find(found[unit]!)}; ${truth.find(expected[unit]!)})`,
          );
      });
    }
    return group.volumes.size;
  }

  async compareAll(): Promise<void> {
    const { sites, truth, violation } = this.#world;
    const before = this.count;
    const wanted = this.compare(sites[0]) + this.compare(sites[1]);
    if (wanted < 2) violation('a site has no whole image');
    await this.#world.until(() => this.count >= before + wanted, 5000, 'an image cannot be read');
    truth.checkFates();
    for (const [volume, image] of truth.serial()) {
      for (const site of sites) {
        const shown = site.shown!.image(volume);
        const unit = shown.findIndex((tag, at) => tag !== image[at]);
        if (unit >= 0)
          violation(
            `${site.name} shows ${shown[unit]} in unit ${unit} of ${volume}; one after the other: ${image[unit]}`,
          );
      }
    }
  }
}
