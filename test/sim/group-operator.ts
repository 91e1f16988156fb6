/**
 * What a person does: empties a standby that was refused or has rot, if there is a reason for it; lets the standby take
 * over when the primary's machine is gone.
 */

import type { Site } from './group-site.js';
import type { GroupWorld } from './group-world.js';

/** How long a refusal stands before somebody comes. */
const NOTICED_MS = 1000;

export class Operator {
  /** The source gave up what the target still needs: it must be copied anew. */
  retentionGivenUp = false;
  /** What becomes of the source that somebody takes over from: nothing of it, its disks as a standby, or as a primary. */
  #old: 'gone' | 'comes back' | 'serves' = 'gone';
  readonly #world: GroupWorld;

  constructor(world: GroupWorld) {
    this.#world = world;
  }

  look(): void {
    const { source, target, scheduler, line, accidents } = this.#world;
    const { stray } = accidents;
    if (!line.isUp) line.connectSoon();
    // it waits for a host, or for a peer, before it goes on alone
    if (source.promoting && source.group?.ready === true) this.#replaceOld();
    // what the source still says of a target that was emptied meanwhile is of no account
    const refusal = (target.group !== null && source.pair?.refusal) || (target.pair?.refusal ?? null);
    // who cannot read is going to be started again
    const isOff = [source, target].some(({ state, unreadable }) => state !== 'up' || unreadable);
    // a peer that did not get on is let in again by itself
    const isShunned = refusal !== null && /refuses links for a while/.test(refusal);
    if (refusal === null || isOff || isShunned) {
      target.refusedSince = -1;
      if (refusal === null && stray !== null) accidents.look(stray);
      return;
    }
    if (target.refusedSince < 0) target.refusedSince = scheduler.now;
    if (scheduler.now - target.refusedSince < NOTICED_MS) return;
    if (stray !== null) {
      if (accidents.cure(stray, refusal)) target.refusedSince = -1;
      return;
    }
    if (!this.#hasReason(refusal)) throw new Error(`refused without a reason: ${refusal}: ${this.#world.describe()}`);
    this.empty(refusal);
  }

  #hasReason(refusal: string): boolean {
    const { source, target, counts } = this.#world;
    const given = [source, target].some((site) => (site.group?.cleaner.counters.retentionGivenUp ?? 0) > 0);
    // it may have minted and then died before it served: nobody can tell
    const minted = (counts.minted ?? 0) + (source.pair?.counters.minted ?? 0) > 0;
    const alone = minted && /went on without it/.test(refusal);
    return this.retentionGivenUp || given || target.orphan || target.rotten || alone;
  }

  empty(why: string): void {
    const { target, accidents, note, met } = this.#world;
    accidents.putBack(); // an empty site takes what it is given
    met('target emptied');
    note(`target emptied: ${why}`);
    target.crash(true);
    this.#newTarget();
    target.open();
  }

  #newTarget(): void {
    const { target, checks, accidents } = this.#world;
    this.retentionGivenUp = false;
    target.newDisks();
    target.role = 'standby';
    accidents.over(target);
    target.orphan = false;
    target.droppedTo = Number.POSITIVE_INFINITY;
    target.refusedSince = -1;
    checks.targetEmptied();
  }

  /** A gateway said at its start that it cannot: is that for a person to mend? */
  refusedToOpen(site: Site, error: Error & { code?: string }): boolean {
    const { target, met, accidents } = this.#world;
    if (accidents.refusedToOpen(site, error)) return true;
    if (site === target && site.rotten && error.code === 'STATE_CORRUPT') {
      met('rot was told');
      this.empty(error.message);
      return true;
    }
    if (site.promoting && error.code === 'STATE_MISMATCH' && /first copy was never finished/.test(error.message)) {
      this.#takeBack();
      return true;
    }
    return false;
  }

  /** What has rot is copied anew, before everything is to be equal. */
  mend(): void {
    if (this.#world.target.rotten) this.empty('rot');
  }

  // ---- the target takes over

  canFailOver(): boolean {
    const { source, target, accidents } = this.#world;
    // rot at the only copy that is left is nobody's to mend
    if (target.state !== 'up' || target.orphan || target.rotten || source.opens === 0 || source.promoting) return false;
    return target.group?.receiver?.imageConsistent === true && accidents.stray === null;
  }

  /** The primary's machine is gone, or taken for that: the standby goes on in its place. */
  failOver(old: 'gone' | 'comes back' | 'serves' = 'gone'): void {
    const { source, target, random, note, met } = this.#world;
    if (!this.canFailOver()) return;
    this.#old = old;
    met('fail over');
    note(`${target.name} is to take over`);
    source.crash(random() < 0.5);
    source.held = true;
    target.crash(random() < 0.5);
    this.#changePlaces();
    target.promoting = true;
    target.open();
  }

  #changePlaces(): void {
    const world = this.#world;
    const { source, target } = world;
    world.source = target;
    world.target = source;
    world.source.role = 'primary';
    world.target.role = 'standby';
  }

  /** The new source serves. */
  tookOver(): void {
    const { source, accidents, met, note } = this.#world;
    met('failed over');
    note(`${source.name} took over`);
    this.#replaceOld();
    accidents.tookOver();
    source.promoting = false;
    this.retentionGivenUp = false;
  }

  /** The old source's machine comes back: empty, or as it was. */
  #replaceOld(): void {
    const { target, faults, accidents, checks, random, after } = this.#world;
    if (!target.held) return;
    target.held = false;
    if (this.#old === 'gone') this.#newTarget();
    else {
      if (this.#old === 'serves') target.role = 'primary';
      accidents.serve(target);
      checks.targetEmptied();
    }
    after(random() * 1000, () => {
      if (faults.active) target.open();
    });
  }

  /** The standby's disk knows of no finished copy: the old source is started again after all. */
  #takeBack(): void {
    const { source, target, note } = this.#world;
    note(`${source.name} cannot take over`);
    source.crash(true);
    source.promoting = false;
    target.held = false;
    this.#changePlaces();
    target.open();
    source.open();
  }
}
