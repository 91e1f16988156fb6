/**
 * How many bytes a journal's files may hold, and for whom: hosts, the cleaner, the peer's stream.
 *
 *     |<------ used ------>|<---- hosts ---->|<- peer ->|<- cleaner ->|
 *     0                                      ^ forHosts                ^ size: the configured limit, or a smaller disk
 */
import { CREDIT_BYTES, PEER_ROOM_SHARE } from '../limits.js';
import type { Journal } from './journal.js';

export class Room {
  /** As configured. */
  limit: number;
  readonly #journal: Journal;
  readonly #free: () => number;
  /** All that the disk has room for: as of the last look. */
  #diskSize = Number.POSITIVE_INFINITY;

  /** @param free bytes that the disk still has */
  constructor(journal: Journal, limit: number, free: () => number) {
    this.#journal = journal;
    this.limit = limit;
    this.#free = free;
  }

  lookAtDisk(): void {
    const { used, spareSize } = this.#journal.segments;
    this.#diskSize = used + spareSize + this.#free();
  }

  /** Bytes of segment files that there may be: what was configured, or what the disk has room for. */
  get size(): number {
    return Math.min(this.limit, this.#diskSize);
  }

  /** In files, and on their way there. */
  get used(): number {
    const { segments, head, written } = this.#journal;
    return segments.used + (head - written);
  }

  /** Hosts leave this much to the cleaner: what it has copied is there twice until it could free a segment. */
  #cleanerReserve(size: number): number {
    return Math.min(2 * this.#journal.segmentSize, Math.floor(size / 4));
  }

  /**
   * And this much to the peer's stream, where both sites write: a site that cannot take what the other has for it, because
   * it keeps its own for the other, would wait for ever if the other did the same.
   */
  #peerReserve(size: number): number {
    return this.#journal.order === null ? 0 : Math.floor(Math.min(CREDIT_BYTES, size / PEER_ROOM_SHARE));
  }

  #forHosts(size: number): number {
    return size - this.#cleanerReserve(size) - this.#peerReserve(size);
  }

  /** Beyond this hosts append nothing. */
  get forHosts(): number {
    return this.#forHosts(this.size);
  }

  /** The same on a disk that is large enough. */
  get forHostsAsConfigured(): number {
    return this.#forHosts(this.limit);
  }

  /** Bytes of the peer's stream that may be promised to be taken: what was promised is taken, whatever the limit. */
  get forPeer(): number {
    const { size } = this;
    const room = Math.max(0, size - this.#cleanerReserve(size) - this.used);
    return this.#journal.order === null ? room : Math.min(room, this.#peerReserve(size));
  }

  /** Whether that may go beyond: there is more than the segment that the cleaner needs, for a full disk can free nothing. */
  get lendsPeer(): boolean {
    return this.used < this.size - this.#journal.segmentSize;
  }

  /** With the segments, spares take no more than this: of a small disk they leave what appends and checkpoints take next. */
  get forSpares(): number {
    return this.size === this.limit ? this.size : this.forHosts;
  }
}
