/** What becomes of a group's link, for the operator's log: a line for each change, and none for what is only tried again. */
import { LINK_LINES_MAX, RECONNECT_MS_MAX } from '../limits.js';
import type { LinkStatus } from './control.js';

/**
 * What holds for so long is how it is: a link that is up, and one that is not, for that is looked at again and again. Before
 * that one may follow the other for ever, and each is told once.
 */
const UP_AFTER_MS = 2000;
const DOWN_AFTER_MS = 2 * RECONNECT_MS_MAX;
const MINUTE_MS = 60_000;

export class LinkReport {
  /** What it is like now, and since when, ms. */
  #now: string;
  #since: number;
  /** What was told last, and all that was told since something has held, but for the oldest. */
  #told: string;
  readonly #recent = new Set<string>();
  /** When the last lines were told, oldest first, ms. */
  readonly #toldAt: number[] = [];

  /** @param first what it is like at the start: that there is no link yet is no news */
  constructor(first: LinkStatus, nowMs: number) {
    this.#now = isDown(first) ? keyOf(first) : '';
    this.#told = this.#now;
    this.#since = nowMs;
  }

  /**
   * To be called when it may have changed, and now and then.
   * @returns a line, or null
   */
  look(link: LinkStatus, nowMs: number): string | null {
    if (link.state === 'handshaking') return null; // it is being tried
    const key = keyOf(link);
    if (key !== this.#now) {
      this.#now = key;
      this.#since = nowMs;
    }
    if (nowMs - this.#since >= (isDown(link) ? DOWN_AFTER_MS : UP_AFTER_MS)) this.#recent.clear();
    if (key === this.#told || this.#recent.has(key)) return null;
    if (this.#toldAt.length === LINK_LINES_MAX) {
      if (nowMs - this.#toldAt[0]! < MINUTE_MS) return null;
      this.#toldAt.shift();
    }
    this.#toldAt.push(nowMs);
    this.#told = key;
    const [oldest] = this.#recent;
    if (this.#recent.size === LINK_LINES_MAX) this.#recent.delete(oldest!);
    this.#recent.add(key);
    return describe(link);
  }
}

function isDown({ state }: LinkStatus): boolean {
  return state === 'away' || state === 'refused';
}

/** A first copy is told by who makes it. */
function keyOf(link: LinkStatus): string {
  if (isDown(link)) return `${link.state}: ${link.reason}`;
  return link.state === 'returning the tail' ? link.state : 'up';
}

function describe({ state, reason, peerSite, url }: LinkStatus): string {
  const peer = peerSite === null ? 'the peer' : `site ${peerSite}`;
  if (state === 'refused') return `the link with ${peer} is refused: ${reason}`;
  if (state === 'away') return `no link with ${peer}: ${reason}`;
  const what = state === 'returning the tail' ? ': what one of the two lost in a crash is returned to it' : '';
  return `linked with ${peer} (${url})${what}`;
}
