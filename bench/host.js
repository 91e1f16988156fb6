/** Hosts that live in a gateway's own process and use the library: requests to serve.js. Each resolves to its answer. */
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { LibraryVolume } from '../dist/src/index.js';

const BLOCK = 4096;
export const SCOPE_WRITES = 4;
/**
 * A source that runs ahead of its target is held back here: far above what a round trip needs, so that it costs no rate,
 * and the disk does not fill.
 */
const BACKLOG_RECORDS_MAX = 100_000;

const cursorsOf = (gateway) => gateway.status().groups[0].cursors.own;
const placesOf = (volume, size) => Math.floor(volume.size / size);

/**
 * Lock, SCOPE_WRITES writes of 4 KiB, unlock, one scope at a time at random places.
 * @param isSpeculative false, lock-step: the host waits for the grant, and for the apply before the next scope
 */
export async function scopes(gateway, { seconds, isSpeculative }) {
  const volume = new LibraryVolume(gateway.volume('disk'));
  const size = SCOPE_WRITES * BLOCK;
  const bytes = Buffer.alloc(BLOCK, 0x5a);
  const begun = performance.now();
  let count = 0;
  for (const end = begun + 1000 * seconds; performance.now() < end; count += 1) {
    const offset = Math.floor(Math.random() * placesOf(volume, size)) * size;
    const scope = await volume.lock({ offset, size });
    if (!isSpeculative) await scope.confirmed;
    bytes.writeUInt32LE(count);
    const steps = [];
    for (let at = 0; at < size; at += BLOCK) steps.push(scope.write(offset + at, bytes));
    steps.push(scope.unlock());
    await Promise.all(steps); // in lock-step each is answered when it is applied: together they take one round trip
    if (!isSpeculative) await untilApplied(gateway, cursorsOf(gateway).appended);
    else if (count % 256 === 0) {
      await nextTurn(); // a host that lives in promises alone would starve the gateway's sockets
      await untilApplied(gateway, cursorsOf(gateway).appended - BACKLOG_RECORDS_MAX, 1);
    }
  }
  volume.close();
  return { count, seconds: (performance.now() - begun) / 1000 };
}

/** Requests of one size, `depth` in flight. @returns count, and the time until all of it was applied by a peer, too */
export async function requests(gateway, { seconds, kind, size, depth, isSequential }) {
  const volume = new LibraryVolume(gateway.volume('disk'));
  const bytes = Buffer.alloc(size, 0x5a);
  const begun = performance.now();
  const end = begun + 1000 * seconds;
  const isMirrored = gateway.status().groups[0].link.state === 'streaming';
  let count = 0;
  const lane = async () => {
    while (performance.now() < end) {
      count += 1;
      const place = isSequential ? count % placesOf(volume, size) : Math.floor(Math.random() * placesOf(volume, size));
      if (kind === 'read') await volume.read(place * size, size);
      else await volume.write(place * size, bytes);
      if (count % 256 !== 0) continue;
      await nextTurn(); // as above
      if (isMirrored) await untilApplied(gateway, cursorsOf(gateway).appended - BACKLOG_RECORDS_MAX, 1);
    }
  };
  await Promise.all(Array.from({ length: depth }, lane));
  if (isMirrored) await untilApplied(gateway, cursorsOf(gateway).appended, 1);
  volume.close();
  return { count, seconds: (performance.now() - begun) / 1000 };
}

async function untilApplied(gateway, sequence, everyMs = 0) {
  while (cursorsOf(gateway).applied < sequence) await (everyMs > 0 ? sleep(everyMs) : nextTurn());
}

/** How long each of `count` locks of 16 blocks took to open, ms. @param isWritten the host writes there just before */
export async function locks(gateway, { count, mode, isWritten }) {
  const volume = new LibraryVolume(gateway.volume('disk'));
  const bytes = Buffer.alloc(BLOCK, 1);
  const size = 16 * BLOCK;
  const ms = [];
  for (let i = 0; i < count; i += 1) {
    const offset = (i % 16) * size;
    if (isWritten) await volume.write(offset, bytes);
    const begun = performance.now();
    const scope = await volume.lock({ offset, size }, { mode });
    ms.push(performance.now() - begun);
    await scope.unlock();
  }
  volume.close();
  return { ms };
}
