/**
 * Read-only views of the past that are pinned in a group: those of front ends, and for a verify the point, every volume's
 * image at one record of a site's stream.
 *
 * A view is what it was or it is gone: each is dropped whole when its owner releases it, the journal needs its room, or
 * the group stops. Of each site's stream there is one point at most, the newest.
 */
import { ForelockError } from '../errors.js';
import type { MapView } from '../journal/map.js';
import type { Group } from './group.js';

/** Every volume's image at one moment. */
interface Point {
  readonly sequence: number;
  readonly views: ReadonlyMap<number, MapView>;
  readonly release: () => void;
}

export class Views {
  readonly #group: Group;
  readonly #pinned = new Set<{ drop: () => void }>();
  /** Pinned at a FLUSH with FLAG_POINT, by the site of its stream. */
  readonly #points = new Map<number, Point>();

  constructor(group: Group) {
    this.#group = group;
  }

  /**
   * Registers something pinned that may have to be dropped when the journal needs its room.
   * @returns to be called by who releases it, in `drop` as well
   */
  register(view: { drop: () => void }): () => void {
    this.#pinned.add(view);
    this.#group.counters.views += 1;
    return () => this.#pinned.delete(view);
  }

  /** The journal needs their room, or the group stops. */
  dropAll(): void {
    for (const view of [...this.#pinned]) view.drop();
  }

  /** Pins every volume's image at this moment: a record of this site's stream with FLAG_POINT was just applied. */
  pinPoint(site: number, sequence: number): void {
    const { writeback, cleaner, volumes } = this.#group;
    this.dropPoint(site); // one verify at a time from each site
    const views = new Map<number, MapView>();
    writeback.hold();
    const live = cleaner.pinLive();
    for (const volume of volumes.values()) views.set(volume.number, volume.map.snapshot());
    const unregister = this.register({ drop: () => this.dropPoint(site) });
    const release = (): void => {
      unregister();
      for (const view of views.values()) view.release();
      cleaner.unpinLive(live);
      writeback.resume();
    };
    this.#points.set(site, { sequence, views, release });
  }

  /** The image of a volume at a point, or null if none is pinned there. */
  atPoint(site: number, sequence: number, volume: number): MapView | null {
    const point = this.#points.get(site);
    return point?.sequence === sequence ? (point.views.get(volume) ?? null) : null;
  }

  /** Why there is no view at a point that was pinned. */
  explainLostPoint(site: number): ForelockError {
    if (this.#group.stopping) return new ForelockError('ESHUTDOWN', 'the gateway is stopping');
    const name = this.#group.state.superblock.site.name;
    if (this.#points.has(site))
      return new ForelockError('ESHUTDOWN', `another verify began: site ${name} pins one view at a time for it`);
    return new ForelockError(
      'ESHUTDOWN',
      `the journal of site ${name} needed the room that verify's pinned view kept, and the view was dropped: verify again with fewer writes under way, or with a larger --journal there`,
    );
  }

  releasePoint(site: number, sequence: number): void {
    if (this.#points.get(site)?.sequence === sequence) this.dropPoint(site);
  }

  /** Who asked for it went away, or has a newer one, or the journal needs its room: it must not pin the journal. */
  dropPoint(site: number): void {
    const point = this.#points.get(site);
    this.#points.delete(site);
    point?.release();
  }
}
