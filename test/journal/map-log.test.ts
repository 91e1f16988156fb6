import fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import xxhash, { type XXHashAPI } from 'xxhash-wasm';
import { ForelockError } from '../../src/errors.js';
import { ChecksumTable } from '../../src/journal/checksums.js';
import { Liveness } from '../../src/journal/liveness.js';
import { BlockMap, MAPPED, PAGE_BLOCKS, ZERO } from '../../src/journal/map.js';
import { type CheckpointPlace, decodePage, encodePage, MapLog, makePageFrame } from '../../src/journal/map-log.js';
import { MemoryStore, seededRandom, TaskQueue } from '../sim/memory-store.js';

const SEGMENT_SIZE = 4 * 1024 * 1024;
const SIZES: readonly (readonly [volume: number, blockCount: number])[] = [
  [0, 1500],
  [7, 131072 + 200],
];

let hash: XXHashAPI;
beforeAll(async () => {
  hash = await xxhash();
});

function makeMaps(): Map<number, BlockMap> {
  const liveness = new Liveness(SEGMENT_SIZE);
  return new Map(SIZES.map(([volume, blockCount]) => [volume, new BlockMap(blockCount, liveness)]));
}

interface Disk {
  store: MemoryStore;
  tasks: TaskQueue;
  checksums: ChecksumTable;
  random: () => number;
}

function makeDisk(seed: number): Disk {
  const tasks = new TaskQueue();
  return {
    store: new MemoryStore({ random: seededRandom(seed), defer: tasks.defer }),
    tasks,
    checksums: new ChecksumTable(SEGMENT_SIZE),
    random: seededRandom(~seed),
  };
}

/** What the maps mean, in a form that can be compared: runs of blocks whose pointers follow each other. */
function content(maps: ReadonlyMap<number, BlockMap>): string {
  const said: string[] = [];
  for (const [volume, map] of maps) {
    for (let lba = 0; lba < map.blockCount; ) {
      let count = map.run(lba, map.blockCount - lba);
      if (map.status === ZERO) said.push(`${volume}:${lba}+${count} zero`);
      else if (map.status === MAPPED) {
        const stop = lba + count;
        map.lookup(lba);
        const { position, index } = map;
        count = 1;
        while (lba + count < stop && map.lookup(lba + count)) {
          if (map.position !== position || map.index !== index + count) break;
          count++;
        }
        said.push(`${volume}:${lba}+${count} ${position}/${index}`);
      }
      lba += count;
    }
  }
  return said.join('\n');
}

const BLOCK_SHIFT = 12;

/** Where the record of this number stands, if each of them has 128 blocks. */
const placeOf = (number: number): number => 16 + Math.floor(number / 7) * SEGMENT_SIZE + (number % 7) * 544_000;

/** The checksums of a record's blocks. */
function note(checksums: ChecksumTable, position: number, sums: readonly (readonly [number, number])[]): void {
  const view = new DataView(new ArrayBuffer(8 * sums.length));
  for (const [i, [lo, hi]] of sums.entries()) {
    view.setUint32(8 * i, lo, true);
    view.setUint32(8 * i + 4, hi, true);
  }
  checksums.note(position, BLOCK_SHIFT, sums.length, view, 0);
}

const sumsFrom = (count: number, first: number, hi: number): [number, number][] =>
  Array.from({ length: count }, (_, i) => [first + i, hi]);

/** A handful of changes, mostly near each other; a record's checksums are mostly known. */
function change(maps: ReadonlyMap<number, BlockMap>, { random, checksums }: Disk, head: { position: number }): void {
  for (let i = Math.floor(random() * 30); i >= 0; i--) {
    const [volume, blockCount] = SIZES[random() < 0.5 ? 0 : 1];
    const map = maps.get(volume)!;
    const spread = random() < 0.7 ? 1400 : blockCount - 100;
    const lba = Math.floor(random() * spread);
    const count = 1 + Math.floor(random() * (random() < 0.2 ? 100 : 6));
    const draw = random();
    if (draw < 0.7) {
      head.position += 500_000 + 16 * Math.floor(random() * 100_000);
      if ((head.position % SEGMENT_SIZE) + 500_000 > SEGMENT_SIZE)
        head.position = Math.ceil(head.position / SEGMENT_SIZE) * SEGMENT_SIZE + 16;
      map.swing(lba, count, head.position);
      if (random() < 0.9) note(checksums, head.position, sumsFrom(count, head.position % 0xfffff1, 1));
    } else if (draw < 0.85) map.clear(lba, count);
    else if (draw < 0.98) map.setZero(lba, count);
    else map.clear(0, blockCount);
  }
}

function checkpoint(log: MapLog, maps: ReadonlyMap<number, BlockMap>, { tasks }: Disk): CheckpointPlace {
  let made: CheckpointPlace | null = null;
  log.checkpoint(4096, maps, (error, place) => {
    expect(error).toBe(null);
    made = place;
  });
  tasks.run();
  return made!;
}

function loaded({ store }: Disk, place: CheckpointPlace): { maps: Map<number, BlockMap>; log: MapLog } {
  const maps = makeMaps();
  const log = new MapLog(store, hash, new ChecksumTable(SEGMENT_SIZE));
  log.load(place, maps);
  return { maps, log };
}

const refusal = (load: () => unknown): ForelockError => {
  try {
    load();
  } catch (error) {
    if (error instanceof ForelockError) return error;
    throw error;
  }
  throw new Error('not refused');
};

describe('checkpoints', () => {
  test('every one of them loads again exactly, through compactions', () => {
    for (let seed = 1; seed <= 10; seed++) {
      const disk = makeDisk(seed);
      let maps = makeMaps();
      let log = new MapLog(disk.store, hash, disk.checksums);
      const head = { position: 16 };
      for (let round = 0; round < 60; round++) {
        change(maps, disk, head);
        if (round % 20 === 10) for (let i = 0; i < 1440; i += 80) maps.get(0)!.swing(i, 80, head.position + 16 + i);
        const place = checkpoint(log, maps, disk);
        log.removeOthers(place.mapFile);
        expect(disk.store.list()).toEqual([`map-${place.mapFile}.log`]);
        expect(maps.get(0)!.dirtyPages).toBe(0);
        if (round % 5 !== 4) continue;
        const again = loaded(disk, place);
        expect(content(again.maps)).toEqual(content(maps));
        expect(again.maps.get(7)!.mappedCount).toBe(maps.get(7)!.mappedCount);
        expect([again.log.fileSize, again.log.liveSize]).toEqual([log.fileSize, log.liveSize]);
        expect(again.maps.get(0)!.dirtyPages + again.maps.get(7)!.dirtyPages).toBe(0);
        if (disk.random() < 0.5) ({ maps, log } = again);
        else again.log.close();
      }
    }
  });

  test('a file is written anew when it is more than twice its live pages and 1 MiB', () => {
    const disk = makeDisk(1);
    const maps = makeMaps();
    const log = new MapLog(disk.store, hash, disk.checksums);
    const place = { mapFile: 0, mapEnd: 0 };
    let largest = 0;
    for (let round = 0; round < 400; round++) {
      for (let lba = 0; lba < 1500; lba += 100) maps.get(0)!.swing(lba, 100, 16 + (round * 1500 + lba) * 16);
      maps.get(7)!.swing(round, 1, 16 + round * 16);
      Object.assign(place, checkpoint(log, maps, disk));
      log.removeOthers(place.mapFile);
      largest = Math.max(largest, log.fileSize);
    }
    expect(log.counters.compactions).toBeGreaterThan(3);
    expect(place.mapFile).toBe(log.counters.compactions);
    expect(largest).toBeLessThan(2 * log.liveSize + 1.1 * 2 ** 20);
    expect(log.bytesWritten).toBe(disk.store.counters.bytesWritten);
    expect(content(loaded(disk, place).maps)).toEqual(content(maps));
  });

  test('a page that became empty just before the file is written anew is not in it', () => {
    const disk = makeDisk(12);
    const maps = makeMaps();
    const map = maps.get(7)!;
    const log = new MapLog(disk.store, hash, disk.checksums);
    map.swing(131072, 3, 160);
    for (let round = 0; log.fileSize <= 2 * log.liveSize + 2 ** 20 || round === 0; round++) {
      for (let lba = 0; lba < 100_000; lba += 1000) map.swing(lba, 1000, 16 * (round * 100 + 1000));
      checkpoint(log, maps, disk);
    }
    map.clear(131072, 3);
    map.clear(0, 99_000);
    const place = checkpoint(log, maps, disk);
    expect(place.mapFile).toBe(2);
    const into = new Uint32Array(4).fill(1);
    log.readChecksums(7, 131072, 1, into);
    expect([...into]).toEqual([0, 0, 0, 0]);
    expect(log.liveSize).toBe(log.fileSize - 32 - 64);
  });

  test('the maps change while a checkpoint is written: it holds what they were, the next one the rest', () => {
    const disk = makeDisk(2);
    const maps = makeMaps();
    const log = new MapLog(disk.store, hash, disk.checksums);
    const head = { position: 16 };
    for (let round = 0; round < 30; round++) {
      change(maps, disk, head);
      const frozen = content(maps);
      let place: CheckpointPlace | null = null;
      log.checkpoint(16, maps, (error, made) => {
        expect(error).toBe(null);
        place = made;
      });
      do change(maps, disk, head);
      while (disk.tasks.step());
      expect(content(loaded(disk, place!).maps)).toEqual(frozen);
      log.removeOthers(place!.mapFile);
    }
  });

  test('checksums: memory has the newest, the previous version the rest, and a pointer that changed has none', () => {
    const disk = makeDisk(3);
    const maps = makeMaps();
    const map = maps.get(0)!;
    let log = new MapLog(disk.store, hash, disk.checksums);
    map.swing(100, 60, placeOf(1));
    note(disk.checksums, placeOf(1), sumsFrom(60, 1000, 1));
    checkpoint(log, maps, disk);
    map.swing(110, 2, placeOf(2));
    note(disk.checksums, placeOf(2), [[55, 5]]);
    map.clear(115, 1);
    map.setZero(116, 1);
    const place = checkpoint(log, maps, disk);
    const read = (lba: number, count: number): (readonly [number, number])[] => {
      const into = new Uint32Array(count * 4).fill(9);
      log.readChecksums(0, lba, count, into);
      return Array.from({ length: count }, (_, i) => [into[i * 4 + 2], into[i * 4 + 3]] as const);
    };
    const expected = Array.from({ length: 60 }, (_, i) => [1000 + i, 1]);
    expected[10] = [55, 5];
    expected[11] = expected[15] = expected[16] = [0, 0];
    expect(read(100, 60)).toEqual(expected);
    expect(read(0, 100)).toEqual(Array.from({ length: 100 }, () => [0, 0]));
    expect(read(120, 20)).toEqual(expected.slice(20, 40));
    log.close();
    ({ log } = loaded(disk, place));
    expect(read(100, 60)).toEqual(expected);
    disk.store.rot('map-1.log', place.mapEnd - 64 - 40);
    const error = refusal(() => read(100, 1));
    expect(error.code).toBe('STATE_CORRUPT');
    expect(error.message).toMatch(/^map-1\.log at byte \d+, volume 0, page 0: its check does not match/);
  });

  test('checksums survive a checkpoint that fails, and one that finds the previous version damaged goes on', () => {
    const disk = makeDisk(4);
    const maps = makeMaps();
    const map = maps.get(0)!;
    const log = new MapLog(disk.store, hash, disk.checksums);
    map.swing(0, 3, placeOf(1));
    note(disk.checksums, placeOf(1), sumsFrom(3, 70, 7));
    for (const operation of ['write', 'sync'] as const) {
      disk.store.fail(operation, operation === 'write' ? 'ENOSPC' : 'EIO');
      let failed: Error | null = null;
      log.checkpoint(16, maps, (error, place) => {
        failed = error;
        expect(place).toBe(null);
      });
      disk.tasks.run();
      expect((failed as NodeJS.ErrnoException | null)?.code).toBe(operation === 'write' ? 'ENOSPC' : 'EIO');
      expect(map.dirtyPages).toBe(1);
      expect(disk.store.list()).toEqual([]);
    }
    checkpoint(log, maps, disk);
    const into = new Uint32Array(12);
    log.readChecksums(0, 0, 3, into);
    expect([into[2], into[6], into[10]]).toEqual([70, 71, 72]);
    disk.store.rot('map-1.log', 50);
    map.swing(1, 1, placeOf(2));
    note(disk.checksums, placeOf(2), [[99, 9]]);
    checkpoint(log, maps, disk);
    log.readChecksums(0, 0, 3, into);
    expect([into[2], into[6], into[10]]).toEqual([0, 99, 0]);
    expect(log.counters.damagedPages).toBe(1);
  });

  test('checksums of many pages are taken from the checkpoint before, wherever these stand in it', () => {
    const disk = makeDisk(6);
    const maps = makeMaps();
    const map = maps.get(7)!;
    const log = new MapLog(disk.store, hash, disk.checksums);
    const pages = 200; // of 2 KiB: more than is read at once
    const lbaOf = (page: number, index: number): number => page * PAGE_BLOCKS + index;
    for (let page = 0; page < pages; page++) {
      map.swing(lbaOf(page, 0), PAGE_BLOCKS, placeOf(page));
      note(disk.checksums, placeOf(page), sumsFrom(PAGE_BLOCKS, 1, 1 + page));
    }
    checkpoint(log, maps, disk);
    const changed = new Set<number>();
    for (const step of [3, 7, 1]) {
      for (let page = 0; page < pages; page += step) {
        changed.add(page);
        const position = placeOf(1000 * step + page);
        map.swing(lbaOf(page, 5), 1, position);
        note(disk.checksums, position, [[4000, 4]]);
      }
      checkpoint(log, maps, disk);
      const into = new Uint32Array(4 * PAGE_BLOCKS);
      for (let page = 0; page < pages; page++) {
        log.readChecksums(7, lbaOf(page, 0), PAGE_BLOCKS, into);
        for (let i = 0; i < PAGE_BLOCKS; i++) {
          const expected = i === 5 && changed.has(page) ? [4000, 4] : [1 + i, 1 + page];
          expect([into[i * 4 + 2], into[i * 4 + 3]]).toEqual(expected);
        }
      }
    }
    expect(log.counters.damagedPages).toBe(0);
    expect(log.counters.pagesRead).toBe(Math.ceil(pages / 3) + Math.ceil(pages / 7) + pages);
  });

  test('a failed append leaves the file good for the next', () => {
    const disk = makeDisk(5);
    const maps = makeMaps();
    const log = new MapLog(disk.store, hash, disk.checksums);
    const head = { position: 16 };
    change(maps, disk, head);
    let place = checkpoint(log, maps, disk);
    for (let round = 0; round < 20; round++) {
      const before = content(maps);
      change(maps, disk, head);
      disk.store.fail(round % 2 === 0 ? 'write' : 'sync', 'EIO');
      log.checkpoint(16, maps, (error) => expect(error).not.toBe(null));
      disk.tasks.run();
      const other = loaded(disk, place);
      expect(content(other.maps)).toEqual(before);
      change(maps, disk, head);
      place = checkpoint(log, maps, disk);
      expect(content(loaded(disk, place).maps)).toEqual(content(maps));
    }
  });
});

describe('crashes', () => {
  test('at any moment: the last place that was named loads exactly', () => {
    let compactions = 0;
    for (let seed = 1; seed <= 30; seed++) {
      const disk = makeDisk(seed);
      const head = { position: 16 };
      let named = null as { place: CheckpointPlace; content: string } | null;
      for (let life = 0; life < 4; life++) {
        const maps = makeMaps();
        const log = new MapLog(disk.store, hash, disk.checksums);
        if (named !== null) {
          log.load(named.place, maps);
          expect(content(maps), `seed ${seed}`).toEqual(named.content);
          log.removeOthers(named.place.mapFile);
        }
        let running = false;
        for (let step = 0; step < 60; step++) {
          if (disk.random() < 0.1) change(maps, disk, head);
          if (!running && disk.random() < 0.3) {
            // Enough to make the next one a compaction, now and then.
            if (disk.random() < 0.3) {
              for (let i = 0; i < 32_000; i += 1024) maps.get(7)!.swing(i, 1024, head.position + 16 + i);
            }
            running = true;
            const frozen = content(maps);
            log.checkpoint(16, maps, (error, place) => {
              expect(error).toBe(null);
              named = { place: place!, content: frozen }; // the superblock names it
              if (disk.random() < 0.8) log.removeOthers(place!.mapFile);
              running = false;
            });
          }
          if (disk.random() < 0.8) disk.tasks.step();
        }
        compactions += log.counters.compactions;
        disk.store.crash();
        disk.checksums = new ChecksumTable(SEGMENT_SIZE); // was in memory
      }
    }
    expect(compactions).toBeGreaterThan(30);
  }, 60_000);
});

describe('damage', () => {
  function oneFile(): { disk: Disk; place: CheckpointPlace; maps: Map<number, BlockMap> } {
    const disk = makeDisk(9);
    const maps = makeMaps();
    const log = new MapLog(disk.store, hash, disk.checksums);
    maps.get(0)!.swing(5, 3, 1600);
    maps.get(7)!.swing(131072 + 130, 4, 3200);
    checkpoint(log, maps, disk);
    maps.get(0)!.clear(0, 100);
    maps.get(7)!.setZero(0, 2);
    const place = checkpoint(log, maps, disk);
    return { disk, place, maps };
  }

  test('every byte below the end, however it is changed, is refused, naming the place', () => {
    const { disk, place } = oneFile();
    for (let at = 0; at < place.mapEnd; at++) {
      for (const bits of [1, 0x80, 0xff]) {
        disk.store.rot('map-1.log', at, bits);
        const error = refusal(() => loaded(disk, place));
        expect(error.code).toBe('STATE_CORRUPT');
        const named = /^map-1\.log at byte (\d+)/.exec(error.message);
        expect(named, error.message).not.toBe(null);
        expect(Number(named![1])).toBeLessThanOrEqual(at);
        disk.store.rot('map-1.log', at, bits);
      }
    }
    loaded(disk, place);
  });

  test('a page is named with its volume and number', () => {
    const { disk, place } = oneFile();
    disk.store.rot('map-1.log', 32 + 32 + 4);
    expect(refusal(() => loaded(disk, place)).message).toMatch(
      /^map-1\.log at byte 32, volume 0, page 0: its check does not match\. Restore/,
    );
  });

  test('an end that is no checkpoint, a file that is missing, short, another, or of other volumes is refused', () => {
    const { disk, place } = oneFile();
    const refused = (place: CheckpointPlace, maps = makeMaps()) => {
      const error = refusal(() => new MapLog(disk.store, hash, disk.checksums).load(place, maps));
      expect(error.code).toBe('STATE_CORRUPT');
      return error.message;
    };
    expect(refused({ mapFile: 1, mapEnd: place.mapEnd - 64 })).toContain('no checkpoint ends here');
    expect(refused({ mapFile: 1, mapEnd: place.mapEnd - 16 })).toContain('it ends early');
    expect(refused({ mapFile: 1, mapEnd: place.mapEnd + 1 })).toContain('it ends here');
    expect(refused({ mapFile: 2, mapEnd: place.mapEnd })).toContain('map-2.log at byte 0: it is missing');
    expect(refused(place, new Map([...makeMaps()].filter(([volume]) => volume === 0)))).toContain(
      'volume 7, page 1025: the group has no such volume',
    );
    const small = makeMaps().set(7, new BlockMap(131072, new Liveness(SEGMENT_SIZE)));
    expect(refused(place, small)).toContain('volume 7, page 1025: the volume has no such page');
    const file = disk.store.open('map-1.log', false);
    const bytes = new Uint8Array(place.mapEnd);
    file.read(bytes, 0);
    const other = disk.store.open('map-2.log', true);
    other.write(bytes, 0, () => undefined);
    expect(refused({ mapFile: 2, mapEnd: place.mapEnd })).toContain('it says to be map file 1');
  });

  test('an older version of a page in the place of a newer one is refused, though its frame is valid', () => {
    const disk = makeDisk(11);
    const maps = makeMaps();
    const log = new MapLog(disk.store, hash, disk.checksums);
    maps.get(0)!.swing(5, 3, 1600);
    const first = checkpoint(log, maps, disk);
    maps.get(0)!.swing(5, 3, 3200);
    const place = checkpoint(log, maps, disk);
    const bytes = disk.store.load('map-1.log')!;
    const size = 32 + 3 * 16;
    disk.store.open('map-1.log', false).write(bytes.slice(32, 32 + size), first.mapEnd, () => undefined);
    expect(refusal(() => loaded(disk, place)).message).toContain('the check over its pages does not match');
  });

  test('what stands beyond the end is cut off', () => {
    const { disk, place, maps } = oneFile();
    disk.store.open('map-1.log', false).write(new Uint8Array(1000).fill(0x5a), place.mapEnd, () => undefined);
    const again = loaded(disk, place);
    expect(content(again.maps)).toEqual(content(maps));
    expect(disk.store.load('map-1.log')!.length).toBe(place.mapEnd);
  });

  test('arbitrary bytes never crash the page decoder, and what it takes it gives back the same', () => {
    const frame = makePageFrame();
    const bytes = new Uint8Array(4096);
    const view = new DataView(bytes.buffer);
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 2100 }),
        fc.nat(PAGE_BLOCKS - 1),
        fc.array(fc.nat(0xffffffff), { maxLength: 4 * PAGE_BLOCKS }),
        fc.nat(65535),
        fc.nat(2 ** 31),
        (junk, first, words, volume, page) => {
          expect(decodePage(junk, frame, hash)).not.toBe(null);
          const count = Math.min(PAGE_BLOCKS - first, words.length >> 2);
          const sent = { ...makePageFrame(), volume, page, first, count };
          sent.entries.set(words.slice(0, count * 4), first * 4);
          const size = encodePage(view, 48, sent, hash);
          expect(decodePage(bytes.subarray(48, 48 + size), frame, hash)).toBe(null);
          expect(frame).toEqual(sent);
          expect(decodePage(bytes.subarray(48, 48 + size - 1), frame, hash)).not.toBe(null);
        },
      ),
      { numRuns: 300 },
    );
  });

  test('an arbitrary file is refused, whatever size and end it claims', () => {
    const { disk, place } = oneFile();
    const good = disk.store.load('map-1.log')!.slice(0, place.mapEnd);
    fc.assert(
      fc.property(
        fc.oneof(
          fc.uint8Array({ maxLength: 500 }),
          fc.tuple(fc.nat(good.length - 1), fc.uint8Array({ minLength: 1, maxLength: 40 })).map(([at, patch]) => {
            const patched = good.slice();
            patched.set(patch.subarray(0, good.length - at), at);
            return patched;
          }),
        ),
        fc.oneof(fc.constant(place.mapEnd), fc.nat(), fc.maxSafeInteger().map(Math.abs)),
        (bytes, mapEnd) => {
          const disk = makeDisk(1);
          disk.store.open('map-1.log', true).write(bytes, 0, () => undefined);
          try {
            loaded(disk, { mapFile: 1, mapEnd });
            expect(Buffer.compare(bytes, good)).toBe(0);
          } catch (error) {
            expect((error as ForelockError).code).toBe('STATE_CORRUPT');
          }
        },
      ),
      { numRuns: 500 },
    );
  });
});
