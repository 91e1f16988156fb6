/** Views of the target's image (NAME@applied), pinned for a while: they show one moment, whatever goes on behind them. */
import { Catalog } from '../../src/volume/catalog.js';
import type { BlockDevice } from '../../src/volume/device.js';
import { UNIT } from './group-history.js';
import type { GroupWorld } from './group-world.js';

/** Longest time that one is read, ms. */
const VIEW_MS_MAX = 5000;

export class Views {
  readonly #world: GroupWorld;

  constructor(world: GroupWorld) {
    this.#world = world;
  }

  open(): void {
    const { target, history, scheduler, random, met } = this.#world;
    const { group } = target;
    if (target.state !== 'up' || target.orphan || target.stray || group?.receiver?.imageConsistent !== true) return;
    const volume = [...group.volumes.values()][Math.floor(random() * group.volumes.size)]!;
    if (volume.platter === 'flat') return; // cannot be pinned
    const device = new Catalog([group]).open(`${volume.name}@applied`);
    const expected = history.imageAt(target.journal.peerApplied).get(volume.number)!;
    met('view pinned');
    this.#read(device, expected, scheduler.now + random() ** 2 * VIEW_MS_MAX);
  }

  /** Reads here and there until its time is over. */
  #read(device: BlockDevice, expected: Uint32Array, until: number): void {
    const { target, scheduler, history, random, after, met, fail, violation } = this.#world;
    const { life } = target;
    const first = Math.floor(random() * expected.length);
    const units = 1 + Math.floor(random() * Math.min(64, expected.length - first));
    device.read(first * UNIT, units * UNIT, {
      settleRead: (error, pieces) => {
        try {
          if (error?.code === 'ESHUTDOWN' || (error !== null && target.state === 'closing')) return met('view dropped');
          if (error !== null && target.rotten) return met('rot was told');
          if (error !== null && target.unreadable) return met('failed read was told');
          if (error !== null) throw error;
          const found = history.tagsOf(Buffer.concat(pieces), 0, units);
          for (let i = 0; i < units; i += 1) {
            if (found[i] === expected[first + i]) continue;
            violation(
              `${device.description} shows ${history.describe(found[i]!)} in unit ${first + i}, not ${expected[first + i]}`,
            );
          }
        } catch (wrong) {
          fail(wrong as Error);
        }
        after(random() * 200, () => {
          if (life.over) return;
          if (scheduler.now >= until) device.close();
          else this.#read(device, expected, until);
        });
      },
    });
  }
}
