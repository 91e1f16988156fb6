/** Both ends of the mirror at a site where hosts are served while the other site serves its own (dual). */
import type { CheckpointCursors } from '../journal/checkpointer.js';
import type { MirrorEnd } from './mirror-end.js';
import type { Receiver } from './receiver.js';
import type { Sender } from './sender.js';

export class DualEnd implements MirrorEnd {
  readonly #sender: Sender;
  readonly #receiver: Receiver;

  constructor(sender: Sender, receiver: Receiver) {
    this.#sender = sender;
    this.#receiver = receiver;
  }

  get connected(): boolean {
    return this.#sender.connected && this.#receiver.connected;
  }
  get linked(): boolean {
    return this.#sender.linked || this.#receiver.linked;
  }
  get peerReceived(): number {
    return this.#sender.peerReceived;
  }
  get peerDurable(): number {
    return this.#sender.peerDurable;
  }
  get peerApplied(): number {
    return this.#sender.peerApplied;
  }
  get retainFrom(): number {
    return Math.min(this.#sender.retainFrom, this.#receiver.retainFrom);
  }
  get replayFrom(): number {
    return Math.min(this.#sender.replayFrom, this.#receiver.replayFrom);
  }
  get imageConsistent(): boolean {
    return this.#receiver.imageConsistent;
  }

  describe(): string {
    return `${this.#sender.describe()}; ${this.#receiver.describe()}`;
  }

  ownMoved(): void {
    this.#sender.ownMoved();
    this.#receiver.ownMoved();
  }
  locksMoved(): void {
    this.#receiver.locksMoved();
  }
  tick(nowMs: number): void {
    this.#sender.tick(nowMs);
    this.#receiver.tick(nowMs);
  }
  scopeOpened(lock: number): void {
    this.#sender.scopeOpened(lock);
  }
  scopeClosed(lock: number, end: number): void {
    this.#sender.scopeClosed(lock, end);
  }
  whenGranted(lock: number): Promise<void> {
    return this.#sender.whenGranted(lock);
  }
  whenPeerApplied(): Promise<void> {
    return this.#receiver.whenPeerApplied();
  }
  giveUpRetention(): void {
    this.#sender.giveUpRetention();
    this.#receiver.giveUpRetention();
  }
  loweredThrough(): void {}

  checkpointCursors(): CheckpointCursors {
    return this.#receiver.checkpointCursors();
  }

  detach(): void {
    this.#sender.detach();
    this.#receiver.detach();
  }
  close(): void {
    this.#sender.close();
    this.#receiver.close();
  }
}
