/**
 * Whether a START begins what both ends have decided. Pure.
 *
 * What it says of a first copy, or of another place to go on from, is written down before anything comes that shows it to
 * be wrong; and nobody is served before the stream is back to what its author says was confirmed. But a HELLO may be old
 * by then: an older link may have brought the target more since, and the source has gone on, and may have freed what would
 * have made an empty target's image without a copy.
 */
import { PEER_AHEAD_MAX, TRANSACTION_WRITES_MAX } from '../limits.js';
import { positionBefore } from './base.js';
import type { Decision } from './decide.js';
import type { Start } from './wire.js';

/**
 * How far a stream may be that its author said, or showed, to have come to `said`: it says so again before it is further.
 */
export function farthest(said: number): number {
  return said + PEER_AHEAD_MAX;
}

/**
 * @param own  number of the site that got the START
 * @param most where both sites write: how far the peer's stream may be (`farthest`); else 0
 * @returns what is wrong with it, or null
 */
export function findWrongBeginning(start: Start, decision: Decision, own: number, most: number): string | null {
  const { action, stream, from, base, confirmed, granted } = start;
  const { row, target, through, back } = decision;
  // nothing goes back unless both write
  const due = decision.source === own ? { stream: target, from: back ?? -1, base: null } : decision;
  let fits: boolean;
  if (base === null) fits = due.base === null && from <= due.from;
  else if (row === 3) fits = due.base !== null && !positionBefore(due.base, base) && from === due.from;
  else {
    const isDue = due.base !== null || (due === decision && row === 2);
    // it begins in front of what was staged
    const isNear = from >= through - TRANSACTION_WRITES_MAX && from <= farthest(through);
    fits = isDue && isNear && base.volume === 0 && base.lba === 0;
  }
  if (!fits || stream !== due.stream || action !== (base === null ? 'replay' : 'base'))
    return `START of stream ${stream} (${action}) behind ${from}, and stream ${due.stream} goes on behind ${due.from}: both ends must decide the same`;
  const counts = Math.max(confirmed, granted);
  if (counts > (decision.action === 'returnTail' ? 0 : most))
    return `START of stream ${stream}, of which ${counts} are to be confirmed or granted: it cannot be so far, but to ${most}`;
  return null;
}
