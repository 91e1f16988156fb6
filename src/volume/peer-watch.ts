/**
 * Whether a peer that holds its link gets on, or keeps hosts waiting without an end.
 *
 *     shaking hands   from HELLO on until all streams run               PEER_STALL_MS in all
 *     tail            a lost tail comes back                            PEER_STALL_MS from piece to piece
 *     owing           hosts wait, and the peer owes what they wait for  PEER_STALL_MS without any of its cursors moving; while
 *                                                                       a record waits there for its lock, that lease more
 *     fine            nobody waits, or it is for something else
 *
 * A peer that does not get on has its link closed, and would be back at once. Where that stands in the way of hosts (this
 * site would go on alone, or lower its answers, or fail them), links are refused for a while: SHUN_MS_MIN, and twice as long
 * each time, until something of this site's has become durable at the peer.
 *
 * Counts ticks, not what lies between them: of a while in which this process stood still the peer is not to blame.
 */
import { HEARTBEAT_MS, LOCK_WAIT_MS_MAX, PEER_STALL_MS, SHUN_MS_MAX, SHUN_MS_MIN } from '../limits.js';

export type PeerTask = 'shaking hands' | 'tail' | 'owing' | 'fine';

/** The peer as it is at a tick. */
export interface PeerSight {
  task: PeerTask;
  /** Grows whenever the peer gets on with it. */
  progress: number;
  /** Grows whenever something of this site's has become durable there; NaN while no stream runs. */
  durable: number;
  /** A record of this site waits for its lock there. */
  waitsForLock: boolean;
}

const NOTHING: PeerSight = { task: 'fine', progress: 0, durable: Number.NaN, waitsForLock: false };

const STALLED: Readonly<Record<Exclude<PeerTask, 'fine'>, string>> = {
  'shaking hands': 'the peer has said HELLO, and does not get on',
  tail: 'nothing of the lost tail came',
  owing: 'hosts wait, and the peer takes and confirms nothing',
};

export class PeerWatch {
  #seen = NOTHING;
  #silentMs = 0;
  #lookedAt = 0;
  #shunMs = SHUN_MS_MIN;
  #shunnedUntil = Number.NEGATIVE_INFINITY;

  /** @returns why its link is to be closed, or null */
  look(nowMs: number, sight: PeerSight): string | null {
    const passed = Math.min(nowMs - this.#lookedAt, HEARTBEAT_MS);
    const { task, progress, durable } = this.#seen;
    const same = sight.task === task && sight.progress === progress;
    if (sight.durable > durable) this.#shunMs = SHUN_MS_MIN;
    this.#lookedAt = nowMs;
    this.#seen = sight;
    this.#silentMs = same ? this.#silentMs + passed : 0;
    if (sight.task === 'fine') return null;
    const limit = PEER_STALL_MS + (sight.waitsForLock ? LOCK_WAIT_MS_MAX : 0);
    return this.#silentMs < limit ? null : `${STALLED[sight.task]} for ${limit / 1000} s`;
  }

  /** Without a link. */
  rest(): void {
    this.#seen = NOTHING;
  }

  /** From now on links are refused. @returns for how long, ms */
  shun(nowMs: number): number {
    const ms = this.#shunMs;
    this.#shunnedUntil = nowMs + ms;
    this.#shunMs = Math.min(2 * ms, SHUN_MS_MAX);
    return ms;
  }

  isShunned(nowMs: number): boolean {
    return nowMs < this.#shunnedUntil;
  }
}
