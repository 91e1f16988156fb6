/** What the demonstration lets a host do, and how it is timed: writes over a real NBD socket, scopes through the library. */
import { createHistogram, type RecordableHistogram } from 'node:perf_hooks';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { LibraryVolume } from '../frontend/library/volume.js';
import type { NbdClient, NbdError } from '../frontend/nbd/client.js';

export const BLOCK = 4096;
export const DEPTH = 32;
export const SCOPE_WRITES = 4;
/** Scopes that the peer has not confirmed: more would only measure memory. */
const SCOPES_UNCONFIRMED_MAX = 1024;
const FLUSH_EVERY_MS = 200;

/** Counts and latencies of one kind of operation; `window` is what happened since it was last taken. */
export class Meter {
  count = 0;
  flushes = 0;
  readonly #all: RecordableHistogram = createHistogram();
  readonly #window: RecordableHistogram = createHistogram();

  /** @param ms since the operation was begun */
  done(ms: number): void {
    const micros = Math.max(1, Math.round(ms * 1000));
    this.count += 1;
    this.#all.record(micros);
    this.#window.record(micros);
  }

  /** Milliseconds; 0 while nothing was measured. */
  percentile(p: number): number {
    return this.count === 0 ? 0 : this.#all.percentile(p) / 1000;
  }

  /** p50 and p99 since the last call, or null. */
  takeWindow(): { p50: number; p99: number } | null {
    if (this.#window.count === 0) return null;
    const window = { p50: this.#window.percentile(50) / 1000, p99: this.#window.percentile(99) / 1000 };
    this.#window.reset();
    return window;
  }
}

/** Random 32-bit numbers from a seed: both modes write the same places. */
export function randomFrom(seed: number): () => number {
  let state = seed >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state;
  };
}

/** A buffer whose contents tell blocks apart: noise, and the number of the write in front. */
function noise(size: number, random: () => number): Buffer {
  const bytes = Buffer.allocUnsafe(size);
  for (let at = 0; at < size; at += 4) bytes.writeUInt32LE(random(), at);
  return bytes;
}

/**
 * 4 KiB random writes, DEPTH in flight, a flush every 200 ms beside them, until `stop` is aborted. The meter counts what
 * was answered until then; the promise resolves when what was in flight is answered, too.
 */
export async function writeOverNbd(
  client: NbdClient,
  meter: Meter,
  stop: AbortSignal,
  seed: number,
  depth = DEPTH,
): Promise<void> {
  const random = randomFrom(seed);
  const blocks = Math.floor(client.size / BLOCK);
  let number = 0;
  let failed: NbdError | null = null;
  const lanes = Array.from({ length: depth }, () => {
    return new Promise<void>((resolve) => {
      const bytes = noise(BLOCK, random);
      let begun = 0;
      const settle = (error: NbdError | null): void => {
        failed ??= error;
        if (error === null && !stop.aborted) meter.done(performance.now() - begun);
        if (failed !== null || stop.aborted) resolve();
        else submit();
      };
      const submit = (): void => {
        number += 1;
        bytes.writeUInt32LE(number, 0);
        begun = performance.now();
        client.submitWrite((random() % blocks) * BLOCK, bytes, false, settle);
      };
      submit();
    });
  });
  const flushes = flushBeside(() => client.flush(), meter);
  await Promise.all(lanes);
  flushes.stop();
  if (failed !== null) throw failed as NbdError;
  await flushes.last();
}

/** A flush every FLUSH_EVERY_MS beside the load, never two at once, until `stop`. `last` waits for it, and asks for a final one. */
function flushBeside(flush: () => Promise<void>, meter: Meter): { stop(): void; last(): Promise<void> } {
  let running: Promise<void> | null = null;
  const timer = setInterval(() => {
    running ??= flush().then(() => {
      meter.flushes += 1;
      running = null;
    });
    running.catch(() => {}); // a flush that failed stays in `running`, and `last` tells
  }, FLUSH_EVERY_MS);
  return {
    stop: () => clearInterval(timer),
    async last() {
      await running;
      await flush();
    },
  };
}

/**
 * Lock, SCOPE_WRITES writes, unlock, one scope after the other, until `stop` is aborted. A scope is done when its writes
 * are answered as the group's `ack` says.
 */
export async function scopesInLibrary(
  volume: LibraryVolume,
  meter: Meter,
  stop: AbortSignal,
  seed: number,
): Promise<void> {
  const random = randomFrom(seed);
  const size = SCOPE_WRITES * BLOCK;
  const places = Math.floor(volume.size / size);
  const bytes = noise(BLOCK, random);
  const unconfirmed: Promise<void>[] = [];
  const flushes = flushBeside(() => volume.flush(), meter);
  let turnAt = performance.now();
  try {
    while (!stop.aborted) {
      const begun = performance.now();
      const offset = (random() % places) * size;
      const scope = await volume.lock({ offset, size });
      const writes: Promise<void>[] = [];
      for (let at = 0; at < size; at += BLOCK) {
        bytes.writeUInt32LE(random(), 0);
        writes.push(scope.write(offset + at, bytes));
      }
      writes.push(scope.unlock());
      await Promise.all(writes);
      const now = performance.now();
      if (!stop.aborted) meter.done(now - begun);
      unconfirmed.push(scope.confirmed);
      if (unconfirmed.length >= SCOPES_UNCONFIRMED_MAX) await unconfirmed.shift();
      // a scope that waits for nothing takes no turn of the event loop, and the link needs some
      if (now - turnAt >= 1) {
        turnAt = now;
        await nextTurn();
      }
    }
  } finally {
    flushes.stop();
  }
  await Promise.all(unconfirmed);
  await flushes.last();
}
