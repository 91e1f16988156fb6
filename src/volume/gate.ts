/**
 * Ack gate: holds completions until the cursors say that what the group promised is true.
 *
 *     level            answered when the record's sequence is at or below
 *     LOCAL_WRITE      (at once, on the next advance)
 *     LOCAL_FLUSH      durable
 *     RECEIVED_WRITE   peerReceived
 *     RECEIVED_FLUSH   durable, peerDurable
 *     APPLIED_WRITE    applied (at the peer)
 *     APPLIED_FLUSH    durable, peerDurable, applied
 *
 * A FUA write has the level of a flush and its own sequence. Each level is a queue of its own, FIFO: a write never
 * waits behind a flush. Sans-IO: cursors go in with `advance`, and only there (and in the fail methods) completions
 * are settled, never inside `push`.
 *
 * While the peer is away and the policy is `degrade`, the driver advances with Infinity for the peer's cursors, after
 * it has made "degraded since" durable. The peer's cursors may go back after a reconnect.
 */
import { fail } from '../assert.js';
import type { ForelockError } from '../errors.js';
import type { Completion } from './device.js';
import type { WhenPeerAway } from './group.js';

export type AckName = 'local' | 'received' | 'applied';

export const LOCAL_WRITE = 0;
export const LOCAL_FLUSH = 1;
export const RECEIVED_WRITE = 2;
export const RECEIVED_FLUSH = 3;
export const APPLIED_WRITE = 4;
export const APPLIED_FLUSH = 5;
export type AckLevel = 0 | 1 | 2 | 3 | 4 | 5;

/** Why a group without a peer is refused: it was told to promise what only a peer can keep. Or null. */
export function findVoidPromise(group: string, ack: AckName, whenPeerAway: WhenPeerAway): string | null {
  const told = ack !== 'local' ? `ack ${ack}` : whenPeerAway !== 'degrade' ? `when-peer-away ${whenPeerAway}` : null;
  if (told === null) return null;
  return `group ${group}: ${told} needs a peer, and the group has none: give --peer or --listen, or leave that out`;
}

const LEVELS = 6;

/** The level at which a group with this `ack` answers a write, or a flush (FUA writes too). */
export function ackLevel(ack: AckName, flush: boolean): AckLevel {
  if (ack === 'local') return flush ? LOCAL_FLUSH : LOCAL_WRITE;
  if (ack === 'received') return flush ? RECEIVED_FLUSH : RECEIVED_WRITE;
  return flush ? APPLIED_FLUSH : APPLIED_WRITE;
}

/** FIFO of (sequence, completion) in two arrays of a power of two; grows by doubling, keeps its room. */
class Queue {
  #sequences = new Float64Array(64);
  #completions: (Completion | null)[] = new Array(64).fill(null);
  #head = 0;
  #count = 0;
  #last = 0;

  get count(): number {
    return this.#count;
  }

  push(sequence: number, completion: Completion): void {
    if (sequence < this.#last && this.#count > 0) fail(`gate: sequence ${sequence} after ${this.#last}`);
    this.#last = sequence;
    if (this.#count === this.#sequences.length) this.#grow();
    const slot = (this.#head + this.#count) & (this.#sequences.length - 1);
    this.#sequences[slot] = sequence;
    this.#completions[slot] = completion;
    this.#count += 1;
  }

  /** Takes the head if its sequence is at or below `limit`. */
  take(limit: number): Completion | null {
    if (this.#count === 0 || this.#sequences[this.#head] > limit) return null;
    const completion = this.#completions[this.#head]!;
    this.#completions[this.#head] = null;
    this.#head = (this.#head + 1) & (this.#sequences.length - 1);
    this.#count -= 1;
    return completion;
  }

  #grow(): void {
    const size = this.#sequences.length;
    const sequences = new Float64Array(size * 2);
    const completions: (Completion | null)[] = new Array(size * 2).fill(null);
    for (let index = 0; index < size; index += 1) {
      const slot = (this.#head + index) & (size - 1);
      sequences[index] = this.#sequences[slot];
      completions[index] = this.#completions[slot];
    }
    this.#sequences = sequences;
    this.#completions = completions;
    this.#head = 0;
  }
}

export class AckGate {
  readonly #queues: readonly Queue[] = Array.from({ length: LEVELS }, () => new Queue());
  readonly #limits = new Float64Array(LEVELS).fill(0);

  /** Completions held, of all levels. */
  get pending(): number {
    let count = 0;
    for (const queue of this.#queues) count += queue.count;
    return count;
  }

  /** Of these, the ones that wait for the peer. */
  get pendingPeer(): number {
    let count = 0;
    for (let level = RECEIVED_WRITE; level < LEVELS; level += 1) count += this.#queues[level].count;
    return count;
  }

  /** @param sequence of the record to be promised; per level it never goes down. For a flush: the last record before it */
  push(sequence: number, level: AckLevel, completion: Completion): void {
    this.#queues[level].push(sequence, completion);
  }

  /** Settles, level by level and FIFO within each, what is now promised. What a settled completion pushes is looked at, too. */
  advance(durable: number, peerReceived: number, peerDurable: number, applied: number): void {
    const limits = this.#limits;
    limits[LOCAL_WRITE] = Infinity;
    limits[LOCAL_FLUSH] = durable;
    limits[RECEIVED_WRITE] = peerReceived;
    limits[RECEIVED_FLUSH] = Math.min(durable, peerDurable);
    limits[APPLIED_WRITE] = applied;
    limits[APPLIED_FLUSH] = Math.min(durable, peerDurable, applied);
    for (let level = 0; level < LEVELS; level += 1) this.#settle(level, limits[level], null);
  }

  /** Fails everything that is held: the group is closing, or its journal failed. */
  failAll(error: ForelockError): void {
    for (let level = 0; level < LEVELS; level += 1) this.#settle(level, Infinity, error);
  }

  /** Fails flushes and FUA writes: the disk is full, and a flush is not to wait for somebody to make room. */
  failFlushes(error: ForelockError): void {
    for (let level = LOCAL_FLUSH; level < LEVELS; level += 2) this.#settle(level, Infinity, error);
  }

  /** Fails what waits for the peer (policy `fail`): indeterminate for the host, not undone. */
  failPeer(error: ForelockError): void {
    for (let level = RECEIVED_WRITE; level < LEVELS; level += 1) this.#settle(level, Infinity, error);
  }

  /** At most as many as are held on entry: a completion that pushes itself again must not keep this going. */
  #settle(level: number, limit: number, error: ForelockError | null): void {
    const queue = this.#queues[level];
    for (let count = queue.count; count > 0; count -= 1) {
      const completion = queue.take(limit);
      if (completion === null) return;
      completion.settle(error);
    }
  }
}
