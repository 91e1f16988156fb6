/** A link between two gateways of one process (src/link/link.ts): what is sent arrives in the next turn of the event loop. */
import { LINK_BUFFER_MAX } from '../dist/src/limits.js';

class MemoryLink {
  onMessage = null;
  onDrain = null;
  onClose = null;
  bufferedBytes = 0;
  roundTripMs = 0;
  unprovenMs = 0;
  bytesSent = 0;
  bytesReceived = 0;
  other = null;
  #queue = [];
  #isPaused = false;
  #isScheduled = false;
  #wasFull = false;
  #isClosed = false;

  send(header, stretch, released) {
    const size = header.length + (stretch?.length ?? 0);
    this.#queue.push({ header, stretch, released, size });
    this.bufferedBytes += size;
    this.#wasFull ||= this.bufferedBytes > LINK_BUFFER_MAX / 2;
    this.#schedule();
  }

  pauseReceiving() {
    this.other.#isPaused = true;
  }

  resumeReceiving() {
    this.other.#isPaused = false;
    this.other.#schedule();
  }

  close(code, reason) {
    for (const end of [this, this.other]) {
      if (end.#isClosed) continue;
      end.#isClosed = true;
      setImmediate(() => {
        for (const { released } of end.#queue.splice(0)) released?.();
        end.onClose?.(reason, code);
      });
    }
  }

  #schedule() {
    if (this.#isScheduled || this.#isPaused) return;
    this.#isScheduled = true;
    setImmediate(() => this.#deliver());
  }

  #deliver() {
    this.#isScheduled = false;
    for (const message of this.#queue.splice(0)) {
      if (this.#isPaused) {
        this.#queue.push(message);
        continue;
      }
      this.bufferedBytes -= message.size;
      this.bytesSent += message.size;
      this.other.bytesReceived += message.size;
      if (!this.#isClosed) this.other.onMessage(message.header, message.stretch);
      message.released?.();
    }
    if (!this.#wasFull || this.bufferedBytes > 0) return;
    this.#wasFull = false;
    this.onDrain?.();
  }
}

/** Joins two gateways' first groups. */
export function join(source, target) {
  const [a, b] = [new MemoryLink(), new MemoryLink()];
  a.other = b;
  b.other = a;
  const [{ pair: one }, { pair: two }] = [source.members[0], target.members[0]];
  const [ofOne, ofTwo] = [one.hello(), two.hello()];
  one.onLink(a, ofTwo);
  two.onLink(b, ofOne);
}
