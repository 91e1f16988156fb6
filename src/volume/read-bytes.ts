import { LEND_SIZE_MIN } from '../limits.js';
import type { ReadCompletion } from './device.js';
import type { Group } from './group.js';
import type { Volume } from './volume.js';

type Map = Parameters<Group['reader']['read']>[0];

/** Reads bytes of any alignment through a map (current or pinned). */
export function readBytes(
  group: Group,
  map: Map,
  volume: Volume,
  offset: number,
  size: number,
  completion: ReadCompletion,
): void {
  const { blockSize } = volume;
  const lba = Math.floor(offset / blockSize);
  const blockCount = Math.ceil((offset + size) / blockSize) - lba;
  if (blockCount * blockSize >= LEND_SIZE_MIN && completion.settleLent !== undefined) {
    if (lendBytes(group, map, volume, offset, size, lba, blockCount, completion)) return;
  }
  const bytes = completion.buffer?.(blockCount * blockSize) ?? Buffer.allocUnsafe(blockCount * blockSize);
  group.reader.read(
    map,
    volume.number,
    volume.blockShift,
    lba,
    blockCount,
    bytes,
    group.image(volume.number),
    (error) => {
      if (error !== null) return completion.settleRead(error, []);
      completion.settleRead(null, [part(bytes, offset - lba * blockSize, size)]);
    },
  );
}

function lendBytes(
  group: Group,
  map: Map,
  volume: Volume,
  offset: number,
  size: number,
  lba: number,
  blockCount: number,
  completion: ReadCompletion,
): boolean {
  const { blockSize } = volume;
  return group.reader.lend(
    map,
    volume.number,
    volume.blockShift,
    lba,
    blockCount,
    () => completion.buffer?.(blockCount * blockSize) ?? Buffer.allocUnsafe(blockCount * blockSize),
    (error, bytes, release) => {
      if (error !== null) return completion.settleRead(error, []);
      const asked = part(bytes!, offset - lba * blockSize, size);
      if (release === null) completion.settleRead(null, [asked]);
      else completion.settleLent!(asked, release);
    },
  );
}

function part(bytes: Uint8Array, skip: number, size: number): Uint8Array {
  return size === bytes.length ? bytes : bytes.subarray(skip, skip + size);
}
