/**
 * What is checked, and when.
 *
 *   recovered   a state was opened: it holds what flushes promised, and nothing that was never written
 *   serving     hosts come: what the source shows now is the truth; whoever has more is an orphan
 *   flushed     a flush was answered: what it covers is on the disks that the ack names, now
 *   promisePeer what was answered alone is at the peer once "degraded" is over
 *   compare     a site's image is the history at its last (source) or its last applied (target) record
 *   lookAround  locks, ring and journal keep their bounds; now and then the images are compared
 *
 * What a host reads is checked where it reads: group-hosts.ts; and in the end, what all of them saw: group-registers.ts.
 */
import { TYPE_LOCAL, TYPE_TRIM, TYPE_WRITE, TYPE_ZERO } from '../../assembly/layout.js';
import type { Journal } from '../../src/journal/journal.js';
import { UNIT } from './group-history.js';
import type { Site } from './group-site.js';
import type { GroupWorld } from './group-world.js';

export class Checks {
  /** How many images were compared, or their views dropped. */
  count = 0;
  /** Highest sequences that a flush has promised: on the source's disk, on the target's disk. */
  promisedHere = 0;
  #promisedThere = 0;
  /** Where the source's stream ended when it began to serve. */
  servedFrom = 0;
  /** Highest sequence that was answered while "degraded". */
  #lowered = 0;
  /** For images that are compared: of each size those that are not in use. They are not cleared in between. */
  readonly #spare = new Map<number, Uint8Array[]>();
  readonly #world: GroupWorld;

  constructor(world: GroupWorld) {
    this.#world = world;
  }

  /** The state was opened: what it holds is compared with what was promised; its journal is watched from here on. */
  recovered(site: Site, journal: Journal): void {
    if (site.stray) return this.#world.note(`${site.name} recovered ${journal.own.appended}, a stray`);
    if (site.role === 'standby' || site.promoting) this.#targetRecovered(site, journal);
    else this.#sourceRecovered(journal);
    if (site.role === 'primary') this.#watchPublish(journal);
    else this.#watchApply(journal);
  }

  #sourceRecovered(journal: Journal): void {
    const { history, note, met, violation } = this.#world;
    const { appended } = journal.own;
    note(`source recovered ${appended} of ${history.length}`);
    if (appended < this.promisedHere) {
      violation(`the source recovered ${appended} records, a flush had promised ${this.promisedHere}`);
    }
    if (appended > history.length) violation(`the source recovered ${appended} of ${history.length}`);
    if (appended < history.length) met('source lost a tail');
  }

  #watchPublish(journal: Journal): void {
    const { history } = this.#world;
    const publish = journal.publish.bind(journal);
    journal.publish = () => {
      const position = journal.head;
      const sequence = publish();
      if (sequence > 0) history.published(journal, position, sequence);
      return sequence;
    };
  }

  #targetRecovered(site: Site, journal: Journal): void {
    const { history, note, met, violation } = this.#world;
    const { appended } = journal.peer;
    if (appended > site.droppedTo) {
      site.orphan = true;
      met('orphan');
    }
    site.droppedTo = Number.POSITIVE_INFINITY;
    note(`target recovered ${appended}, promised ${this.#promisedThere}${site.orphan ? ', orphan' : ''}`);
    // behind the last mark rot looks like a torn tail: less is there, nothing wrong is shown
    if (appended < this.#promisedThere && !site.rotten) {
      violation(`the target recovered ${appended} records, a flush had promised ${this.#promisedThere}`);
    }
    if (!site.orphan && appended > history.length) violation('the target has what was never written');
    if (journal.peerApplied !== appended) violation('recovery applies what was received');
  }

  #watchApply(journal: Journal): void {
    const apply = journal.apply.bind(journal);
    journal.apply = (type, volume, lba, blockCount, position) => {
      if (type < TYPE_LOCAL && (type === TYPE_WRITE || type === TYPE_ZERO || type === TYPE_TRIM)) {
        this.#applied(volume, lba, blockCount);
      }
      apply(type, volume, lba, blockCount, position);
    };
  }

  #applied(volume: number, lba: number, blockCount: number): void {
    for (const hold of this.#world.faults.holds) {
      const over = hold.volume === volume && hold.lba < lba + blockCount && lba < hold.lba + hold.blockCount;
      if (over && hold.request.state === 'held') {
        this.#world.violation(`${lba}+${blockCount} applied while ${hold.lba}+${hold.blockCount} is held`);
      }
    }
  }

  /** Hosts may come: what the source holds now is the truth. */
  serving(site: Site): void {
    const { history, target, note, met, violation } = this.#world;
    if (site.role !== 'primary' || site.stray) return;
    if (site.promoting) this.#tookOver(site);
    const { appended } = site.journal.own;
    note(`source serves from ${appended}`);
    const dropped = history.length - appended;
    if (dropped < 0) violation('the source serves what was never written');
    if (dropped > 0) {
      met('tail dropped for good');
      // on an older copy of its disks: its own may have more
      const isAway = target.state === 'off' || target.state === 'opening' || target.stray;
      if (isAway) target.droppedTo = Math.min(target.droppedTo, appended);
      else if (target.group !== null && target.journal.peer.appended > appended && !target.orphan) {
        target.orphan = true;
        met('orphan');
      }
      if (target.orphan && site.pair?.counters.minted === 0) {
        violation('the source serves without the tail that its target has, under the same generation');
      }
      history.cut(appended);
    }
    this.servedFrom = appended;
    // which of its answers a life before gave alone is not known to it: all of them are owed
    if (this.#isDegraded()) this.#lowered = Math.min(this.promisedHere, appended);
    this.#compare(site);
  }

  /** The former target serves: what it had received is where its own stream begins. */
  #tookOver(site: Site): void {
    const { history, registers, operator } = this.#world;
    history.begin(history.imageAt(site.journal.peer.appended), site.journal.own.appended);
    registers.end();
    this.promisedHere = 0;
    this.#promisedThere = 0;
    this.#lowered = 0;
    operator.tookOver();
  }

  /** A flush was answered: everything up to `sequence` is promised. */
  flushed(sequence: number): void {
    const { source, target, options, met, violation } = this.#world;
    const group = source.group!;
    if (group.journal.own.durable < sequence) {
      violation(`a flush of ${sequence} was answered, ${group.journal.own.durable} is durable`);
    }
    this.promisedHere = Math.max(this.promisedHere, sequence);
    if (options.ack === 'local') return;
    if (group.state.superblock.degradedSince !== null) {
      met('lowered answer');
      this.#lowered = Math.max(this.#lowered, sequence);
      return;
    }
    this.#promisePeer(sequence);
    if (options.ack === 'applied' && target.state === 'up' && target.group !== null) {
      const { peerApplied } = target.journal;
      if (peerApplied < sequence) violation(`a flush of ${sequence} was answered, the target applied ${peerApplied}`);
    }
  }

  #promisePeer(sequence: number): void {
    const { target, violation } = this.#world;
    this.#promisedThere = Math.max(this.#promisedThere, sequence);
    if (target.group === null || target.state !== 'up' || target.stray) return; // on an older copy of its disks: not the one that said so
    const { durable } = target.journal.peer;
    if (durable < sequence) violation(`a flush of ${sequence} was answered, the target has ${durable} on disk`);
    if (!target.group.mirror.imageConsistent) {
      violation(`a flush of ${sequence} was answered, the target has no whole image to show for it`);
    }
  }

  /** A write was answered under an ack that names the peer. */
  writeAnswered(sequence: number): void {
    const { source, target, options, violation } = this.#world;
    if (source.group!.state.superblock.degradedSince !== null || target.group === null || target.state !== 'up') return;
    const { peer, peerApplied } = target.journal;
    const applied = options.ack === 'applied' || options.speculation === 'off';
    // a target that crashed meanwhile may be behind a write that was not flushed
    if (target.opens > 1 || source.opens > 1) return;
    if ((applied ? peerApplied : peer.appended) < sequence) violation(`write ${sequence} was answered too early`);
  }

  /** What was promised at the target is gone with its disks. What was answered alone is owed if "degraded" still stands. */
  targetEmptied(): void {
    this.#promisedThere = 0;
    if (!this.#isDegraded()) this.#lowered = 0;
  }

  #isDegraded(): boolean {
    const { group } = this.#world.source;
    return group !== null && group.state.superblock.degradedSince !== null;
  }

  lookAround(): void {
    const { source, target, random, violation } = this.#world;
    for (const site of [source, target]) {
      if (site.group === null) continue;
      for (const volume of site.group.volumes.values()) volume.locks.check();
      const { segments, room, segmentSize, head, written, ringSize } = site.journal;
      if (head - written > ringSize) violation('the ring is overrun');
      if (segments.used > room.limit + 4 * segmentSize) violation(`the journal has ${segments.used} bytes`);
      const { spareSize } = segments;
      if (spareSize > 0 && segments.used + spareSize > room.limit && !site.refuses)
        violation(`${spareSize} bytes are kept beside the journal's ${segments.used}`);
      if (random() < 0.3) this.#compare(site);
    }
    if (this.#lowered > 0 && source.group?.serving && !this.#isDegraded()) {
      // "degraded" is over: what was answered alone is promised at both
      this.#promisePeer(this.#lowered);
      this.#lowered = 0;
    }
  }

  async compareAll(): Promise<void> {
    const { source, target, history, violation } = this.#world;
    const before = this.count;
    const wanted = this.#compare(source) + this.#compare(target);
    await this.#world.until(() => this.count >= before + wanted, 5000, 'an image cannot be read');
    const last = target.journal.peerApplied;
    if (last !== history.length) violation(`the end is ${history.length}, the target shows ${last}`);
  }

  /** Compares a site's image as it is now with the history. @returns how many volumes will be counted */
  #compare(site: Site): number {
    const { source, target, history, met, violation } = this.#world;
    const { group, life } = site;
    if (group === null || site.state === 'closing' || site.stray) return 0;
    if (site === target && (site.orphan || !group.mirror.imageConsistent)) return 0;
    const sequence = site === source && !site.promoting ? group.journal.own.appended : group.journal.peerApplied;
    const expected = history.imageAt(sequence);
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
        this.count += 1;
      };
      const unregister = group.views.register({ drop: release });
      const into = this.#spare.get(volume.size)?.pop() ?? new Uint8Array(volume.size);
      const image = group.image(volume.number);
      group.reader.read(view, volume.number, volume.blockShift, 0, view.blockCount, into, image, (error) => {
        if (life.over || !open) return;
        release();
        if (error !== null && site.rotten && /checksum/.test(error.message)) return met('rot was told');
        if (error !== null && site.unreadable) return met('failed read was told');
        if (error !== null) violation(`${site.name}: ${error.message}`);
        const wanted = expected.get(volume.number)!;
        if (history.areTagged(into, wanted)) return this.#giveBack(into);
        const found = history.tagsOf(into, 0, into.length / UNIT);
        for (let unit = 0; unit < found.length; unit += 1) {
          if (found[unit] === wanted[unit]) continue;
          violation(
            `${site.name} at ${sequence} shows ${history.describe(found[unit]!)} in unit ${unit} ` +
              `of volume ${volume.number}, not ${history.describe(wanted[unit]!)}`,
          );
        }
      });
    }
    return group.volumes.size;
  }

  #giveBack(buffer: Uint8Array): void {
    const spare = this.#spare.get(buffer.length);
    if (spare === undefined) this.#spare.set(buffer.length, [buffer]);
    else spare.push(buffer);
  }
}
