import type { ReadCompletion } from './device.js';
import type { Group } from './group.js';
import type { Volume } from './volume.js';

/** Reads bytes of any alignment through a map (current or pinned). */
export function readBytes(
  group: Group,
  map: Parameters<Group['reader']['read']>[0],
  volume: Volume,
  offset: number,
  size: number,
  completion: ReadCompletion,
): void {
  const { blockSize } = volume;
  const lba = Math.floor(offset / blockSize);
  const blockCount = Math.ceil((offset + size) / blockSize) - lba;
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
      const skip = offset - lba * blockSize;
      completion.settleRead(null, [skip === 0 && size === bytes.length ? bytes : bytes.subarray(skip, skip + size)]);
    },
  );
}
