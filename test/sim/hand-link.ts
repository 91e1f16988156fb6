/** A link on which a test reads, changes and leaves out messages. */
import type { Link } from '../../src/link/link.js';
import { type ControlMessage, decode, KIND_START, type Start, WireEncoder } from '../../src/mirror/wire.js';
import type { Pair } from '../../src/volume/pair.js';

/** One end of a link whose other end is the test. */
export class HandLink implements Link {
  onMessage: Link['onMessage'] = null;
  onDrain: Link['onDrain'] = null;
  onClose: Link['onClose'] = null;
  bufferedBytes = 0;
  readonly roundTripMs = 0;
  readonly unprovenMs = 0;
  readonly bytesSent = 0;
  readonly bytesReceived = 0;
  readonly sent: { header: Uint8Array; stretch: Uint8Array | null }[] = [];
  paused = false;
  closed: { code: number; reason: string } | null = null;

  send(header: Uint8Array, stretch: Uint8Array | null, released: (() => void) | null): void {
    this.sent.push({ header: header.slice(), stretch: stretch?.slice() ?? null });
    released?.();
  }
  pauseReceiving(): void {
    this.paused = true;
  }
  resumeReceiving(): void {
    this.paused = false;
  }
  close(code: number, reason: string): void {
    this.closed ??= { code, reason };
  }

  /** The peer says this. */
  hear(message: ControlMessage): void {
    this.onMessage!(new WireEncoder().control(message), null);
  }
}

interface Site {
  readonly pair: Pair | null;
}

/** Each of two sites is told of the other, over a link of the test's. */
export function meetByHand(one: Site, two: Site): [HandLink, HandLink] {
  const [here, there] = [one, two].map((site) => structuredClone(site.pair!.hello()));
  const links: [HandLink, HandLink] = [new HandLink(), new HandLink()];
  one.pair!.onLink(links[0], there);
  two.pair!.onLink(links[1], here);
  return links;
}

/** The START that a site said first. */
export function startOf(link: HandLink): Start {
  const message = decode(link.sent[0]!.header);
  if (message.kind !== KIND_START) throw new Error(`a message of kind ${message.kind} in the place of START`);
  return message.start;
}
