/** What a group asks of its end of the mirror, be it the source's (sender.ts) or the target's (receiver.ts). */
import type { CheckpointCursors } from '../journal/checkpointer.js';

export interface MirrorEnd {
  /** A link is up and the stream runs; for a source also: the peer's image is whole, so its cursors promise something. */
  readonly connected: boolean;
  /** A link is up. */
  readonly linked: boolean;
  /** The peer's cursors, for promises; they count only while its image is consistent. */
  readonly peerReceived: number;
  readonly peerDurable: number;
  readonly peerApplied: number;
  /** Journal from this position on is still needed for the peer; Infinity when nothing is. */
  readonly retainFrom: number;
  /** Where replay would begin if a checkpoint were made now: the first record that the maps do not show. */
  readonly replayFrom: number;
  /** False while a first copy is unfinished: there is no image to show. */
  readonly imageConsistent: boolean;
  /** One line for people: what this end is doing. */
  describe(): string;
  /** Own stream cursors moved. */
  ownMoved(): void;
  locksMoved(): void;
  tick(nowMs: number): void;
  /** Lock-step needs to know where scopes begin and end. */
  scopeOpened(lock: number): void;
  scopeClosed(lock: number, end: number): void;
  /** Resolves when the peer granted this LOCK. */
  whenGranted(lock: number): Promise<void>;
  /** Resolves once all of the peer's stream that is here now is applied. */
  whenPeerApplied(): Promise<void>;
  /** The journal's limit is reached: what the peer still needs may go. */
  giveUpRetention(): void;
  /** Answers up to here were lowered to this site alone. */
  loweredThrough(sequence: number): void;
  checkpointCursors(): CheckpointCursors;
  detach(): void;
  close(): void;
}
