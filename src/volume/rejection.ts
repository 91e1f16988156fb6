/** The record that waits for its lock at the target: since when, and a line in the log when it takes long. */
import type { Group } from './group.js';

/** Shorter waits are counted, and not worth a line: where lockers queue there may be many a second. */
const TOLD_AFTER_MS = 1000;

export class Rejection {
  readonly #group: Group;
  readonly #describe: () => string;
  #sequence = 0;
  #since = 0;
  #told = false;

  constructor(group: Group, describe: () => string) {
    this.#group = group;
    this.#describe = describe;
  }

  /** Looks at what waits now: 0 for nothing. @returns how long the one before has waited, ms; 0 while it goes on */
  look(sequence: number): number {
    const now = this.#group.nowMs();
    const ms = this.#sequence === 0 ? 0 : Math.max(0, now - this.#since);
    if (sequence === this.#sequence) {
      if (sequence !== 0 && !this.#told && ms >= TOLD_AFTER_MS) {
        this.#told = true;
        this.#group.tell(this.#describe());
      }
      return 0;
    }
    if (this.#told) this.#group.tell(`sequence ${this.#sequence} waits no longer, after ${(ms / 1000).toFixed(1)} s`);
    this.#sequence = sequence;
    this.#since = now;
    this.#told = false;
    return ms;
  }

  /** ms; 0 when nothing waits. */
  get age(): number {
    return this.#sequence === 0 ? 0 : Math.max(0, this.#group.nowMs() - this.#since);
  }
}
