/** A person who looks in: empties a standby that was refused, if there is a reason for it. */
import type { GroupWorld } from './group-world.js';

/** How long a refusal stands before somebody comes. */
const NOTICED_MS = 1000;

export class Operator {
  /** The source gave up what the target still needs: it must be copied anew. */
  retentionGivenUp = false;
  readonly #world: GroupWorld;

  constructor(world: GroupWorld) {
    this.#world = world;
  }

  look(): void {
    const { source, target, scheduler, line } = this.#world;
    if (!line.isUp) line.connectSoon();
    const refusal = source.pair?.refusal ?? target.pair?.refusal ?? null;
    if (refusal === null || source.state !== 'up' || target.state !== 'up') {
      target.refusedSince = -1;
      return;
    }
    if (target.refusedSince < 0) target.refusedSince = scheduler.now;
    if (scheduler.now - target.refusedSince < NOTICED_MS) return;
    if (!this.#hasReason(refusal)) throw new Error(`refused without a reason: ${refusal}: ${this.#world.describe()}`);
    this.#world.note(`target emptied: ${refusal}`);
    this.#empty();
  }

  #hasReason(refusal: string): boolean {
    const { source, target, counts } = this.#world;
    const given = [source, target].some((site) => (site.group?.cleaner.counters.retentionGivenUp ?? 0) > 0);
    // it may have minted and then died before it served: nobody can tell
    const minted = (counts.minted ?? 0) + (source.pair?.counters.minted ?? 0) > 0;
    const alone = minted && /went on without it/.test(refusal);
    return this.retentionGivenUp || given || target.orphan || alone;
  }

  #empty(): void {
    const { target, checks, met } = this.#world;
    met('target emptied');
    this.retentionGivenUp = false;
    target.crash(true);
    target.newDisks();
    target.orphan = false;
    target.droppedTo = Number.POSITIVE_INFINITY;
    target.refusedSince = -1;
    checks.targetEmptied();
    target.open();
  }
}
