/**
 * Hosts at a site that serves beside the one that counts: after a split, or from an older copy of a disk. What they are
 * answered there holds there only. A person decides that it is to go; no site may do that by itself.
 */
import type { ForelockError } from '../../src/errors.js';
import type { Volume } from '../../src/volume/volume.js';
import { UNIT } from './group-history.js';
import type { Site } from './group-site.js';
import type { GroupWorld } from './group-world.js';

const EXPECTED = ['ESHUTDOWN', 'EPERM', 'EIO', 'PEER_AWAY', 'ENOSPC', 'ETIMEDOUT'];
const OUTSTANDING_MAX = 8;
const PAUSE_MS_MAX = 40;

export class Strays {
  /** Flushes that were answered. */
  flushed = 0;
  readonly #world: GroupWorld;
  readonly #site: Site;

  constructor(world: GroupWorld, site: Site) {
    this.#world = world;
    this.#site = site;
    let outstanding = 0;
    let { life } = site;
    const again = (): void => {
      if (!site.stray || !world.faults.active) return;
      if (life !== site.life) outstanding = 0;
      life = site.life;
      if (site.state === 'up' && site.group?.ready === true && outstanding < OUTSTANDING_MAX) {
        outstanding += 1;
        this.#operation(() => {
          outstanding -= 1;
        });
      }
      world.after(world.random() * PAUSE_MS_MAX, again);
    };
    again();
  }

  #operation(done: () => void): void {
    const { options, random, history, met, fail } = this.#world;
    const { life, group } = this.#site;
    const volumes = [...group!.volumes.values()];
    const volume: Volume = volumes[Math.floor(random() * volumes.length)]!;
    const answer = (what: string, error: Error | null, good: () => void): void => {
      if (life.over) return;
      done();
      const code = error === null ? '' : ((error as ForelockError).code ?? error.message);
      if (error !== null && !EXPECTED.includes(code)) return fail(error);
      met(`${what} at a stray${code && `: ${code}`}`);
      if (error === null) good();
    };
    const per = volume.blockSize / UNIT;
    const blocks = volume.size / volume.blockSize;
    const lba = Math.floor(random() * blocks);
    const blockCount = 1 + Math.floor(random() * Math.min(blocks - lba, options.writeSizeMax / volume.blockSize, 4));
    const [offset, size] = [lba * volume.blockSize, blockCount * volume.blockSize];
    const draw = random();
    if (draw < 0.7) {
      const bytes = history.payload(blockCount * per * UNIT);
      volume.write(1, offset, size, [bytes], false, { settle: (error) => answer('write', error, () => {}) });
    } else if (draw < 0.9) {
      const settle = (error: Error | null): void =>
        answer('flush', error, () => {
          this.flushed += 1;
        });
      volume.flush({ settle });
    } else volume.read(1, offset, size, { settleRead: (error) => answer('read', error, () => {}) });
  }
}
