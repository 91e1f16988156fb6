/** Whether the journal takes what hosts and peer have for it: for status, and a line in the log when that changes. */
import type { Group } from './group.js';

/** A full disk takes a little whenever a segment is freed, and is full again: that it goes on is said once it has for so long. */
const MENDED_AFTER_MS = 1000;

/**
 * The disk is full, or all that the journal may have of it is taken by what cannot be freed; or the process may open no
 * more files.
 */
export type JournalFull = 'disk' | 'journal' | 'descriptors';

export class JournalHealth {
  readonly #group: Group;
  #full: JournalFull | null = null;
  /** When it was last full, ms. */
  #fullAt = 0;
  /** Refusals that are over. */
  #refusals = 0;

  constructor(group: Group) {
    this.#group = group;
  }

  /** What is full, or was a moment ago; null: nothing. */
  get full(): JournalFull | null {
    return this.#full;
  }

  /** To be called at every tick. */
  look(nowMs: number): void {
    const { journal } = this.#group;
    if (journal.failed !== null) return; // said by then, and what became of it is of no use
    const full = this.#find();
    if (full !== null) this.#fullAt = nowMs;
    if (full === this.#full || (full === null && nowMs - this.#fullAt < MENDED_AFTER_MS)) return;
    const was = this.#full;
    this.#full = full;
    const mended = was === 'descriptors' ? 'files can be opened again' : `the ${was} has room again`;
    this.#group.tell(full === null ? `${mended}: it goes on` : this.describe(full));
  }

  describe(full: JournalFull): string {
    const { role, writeback } = this.#group;
    const { obstacle } = writeback;
    const then = role === 'standby' ? 'no more of the stream is taken' : 'what needs room fails with ENOSPC';
    if (full === 'descriptors')
      return `the process may open no more files, and the journal needs another: ${then} until it may. Restart it with a higher limit (ulimit -n, LimitNOFILE= of systemd) or a smaller --journal`;
    return full === 'disk'
      ? `the disk of the state directory is full: ${then} until it has room`
      : obstacle === null
        ? `the journal is full of what cannot be freed: ${then} until blocks are trimmed, or it is started with a larger --journal`
        : `the journal is full of what cannot go into ${obstacle}: ${then} until that is mended`;
  }

  #find(): JournalFull | null {
    const { journal, role } = this.#group;
    if (journal.diskFull) return journal.appender.shortage === 'descriptors' ? 'descriptors' : 'disk';
    const { spaceRefused } = journal.counters;
    const isFull = role === 'standby' ? journal.isFullForPeer : spaceRefused > this.#refusals && journal.isFullForHosts;
    if (!isFull) {
      this.#refusals = spaceRefused;
      return null;
    }
    return journal.room.size < journal.room.limit ? 'disk' : 'journal';
  }
}
