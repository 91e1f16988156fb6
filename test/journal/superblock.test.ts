import fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import xxhash, { type XXHashAPI } from 'xxhash-wasm';
import { ForelockError } from '../../src/errors.js';
import type { Store } from '../../src/journal/store.js';
import { NO_RECORD_KEY, SUPERBLOCK_SIZE_MAX, type Superblock, SuperblockFiles } from '../../src/journal/superblock.js';
import { MemoryStore, seededRandom, TaskQueue } from '../sim/memory-store.js';

let hash: XXHashAPI;
beforeAll(async () => {
  hash = await xxhash();
});

const superblock = (incarnation: number): Superblock => ({
  groupId: '3f1c9a52-8f34-4c7e-9a41-0d3b7f3f2a10',
  recordKey: '0123456789abcdef',
  group: 'databases',
  site: { number: 1, name: 'berlin' },
  sites: [
    { number: 1, name: 'berlin' },
    { number: 2, name: 'münchen' },
  ],
  volumes: [
    { number: 0, name: 'data', size: 2 ** 40, blockSize: 4096, platter: 'journal' },
    { number: 1, name: 'old', size: 2 ** 30, blockSize: 512, platter: 'flat', path: '/images/old.img' },
  ],
  segmentSize: 64 * 2 ** 20,
  journalId: 0xfeed,
  suspectFrom: null,
  generations: [{ ordinal: 1, id: 'a1', parent: null, minter: 1, ends: { 1: 0, 2: 0 } }],
  incarnation,
  peers: { 2: { durable: 12345 } },
  met: { 2: { last: { count: 3, id: 2147483649 }, offered: null } },
  role: 'primary',
  clean: false,
  degradedSince: null,
  streamStart: 4,
  peerAlone: 3,
  whenSplit: 'prefer:berlin',
  imported: true,
  inconsistent: {
    source: 2,
    generation: 'a1',
    base: { volume: 0, lba: 17 },
    begunAt: 80,
    startSequence: 5,
    untilSequence: null,
  },
  checkpoint: {
    mapFile: 1,
    mapEnd: 4096,
    position: 80,
    durable: 160,
    own: 1,
    peer: { site: 2, received: 2, applied: 1 },
    openScopes: [{ sequence: 1, flags: 1, volume: 0, lba: 17, blockCount: 8 }],
    ownScopes: [],
    clock: 1.7e15,
    order: null,
  },
});

function memory(seed = 1): { store: MemoryStore; tasks: TaskQueue } {
  const tasks = new TaskQueue();
  return { store: new MemoryStore({ random: seededRandom(seed), defer: tasks.defer }), tasks };
}

function saved(files: SuperblockFiles, tasks: TaskQueue, value: Superblock): Error | null {
  let answer: Error | null | undefined;
  files.save(value, (error) => {
    answer = error;
  });
  tasks.run();
  expect(answer).not.toBe(undefined);
  return answer!;
}

/** Two files of bytes, for loading only. */
function files(a: Uint8Array | null, b: Uint8Array | null, others: string[] = ['map-1.log']): Store {
  const content = new Map([
    ['superblock.a', a],
    ['superblock.b', b],
  ]);
  const list = () => [...[...content].filter(([, bytes]) => bytes !== null).map(([name]) => name), ...others];
  return { load: (name: string) => content.get(name) ?? null, list } as unknown as Store;
}

const codeOf = (load: () => unknown): string => {
  try {
    load();
  } catch (error) {
    if (error instanceof ForelockError) return error.code;
    throw error;
  }
  return 'none';
};

/** The bytes of both files after `n` saves. */
function written(n: number): { a: Uint8Array; b: Uint8Array } {
  const { store, tasks } = memory();
  const superblocks = new SuperblockFiles(store, hash);
  for (let i = 1; i <= n; i++) expect(saved(superblocks, tasks, superblock(i))).toBe(null);
  return { a: store.load('superblock.a')!, b: store.load('superblock.b')! };
}

describe('superblock', () => {
  test('is read back as it was saved, by the next opening too', () => {
    const { store, tasks } = memory();
    let superblocks = new SuperblockFiles(store, hash);
    expect(superblocks.load()).toBe(null);
    for (let i = 1; i <= 5; i++) {
      expect(saved(superblocks, tasks, superblock(i))).toBe(null);
      superblocks = new SuperblockFiles(store, hash);
      expect(superblocks.load()).toEqual(superblock(i));
      expect(superblocks.revision).toBe(i);
      expect(superblocks.warning).toBe(null);
    }
  });

  test('of a group from before there were record keys has none', () => {
    const { a } = written(1);
    const { store, tasks } = memory();
    const { recordKey: _, ...older } = superblock(1);
    expect(saved(new SuperblockFiles(store, hash), tasks, older as Superblock)).toBe(null);
    expect(store.load('superblock.a')!.length).toBeLessThan(a.length);
    expect(new SuperblockFiles(store, hash).load()).toEqual({ ...older, recordKey: NO_RECORD_KEY });
  });

  test('can be read by a person', () => {
    const text = Buffer.from(written(1).a).toString();
    expect(text).toMatch(
      /^FORELOCK SUPERBLOCK format=00002 revision=0000000000000001 size=\d{8} xxh64=[0-9a-f]{16}\n\{"groupId":"3f1c9a52/,
    );
    expect(text).toContain('\n"role":"primary",\n');
  });

  test('a save torn at any byte, over a longer, a shorter or no file, leaves the one before it', () => {
    const { a, b } = written(2); // a: revision 1, b: revision 2
    const { store, tasks } = memory();
    const superblocks = new SuperblockFiles(files(a, b), hash);
    superblocks.load();
    const long = { ...superblock(3), group: 'x'.repeat(200) };
    for (const next of [superblock(3), long]) {
      const other = new SuperblockFiles(store, hash);
      saved(other, tasks, superblock(1));
      saved(other, tasks, superblock(2));
      saved(other, tasks, next);
      const whole = store.load('superblock.a')!;
      for (const before of [a, new Uint8Array(0), new Uint8Array(5000).fill(32)]) {
        for (let cut = 0; cut <= whole.length; cut++) {
          const torn = new Uint8Array(Math.max(before.length, cut));
          torn.set(before);
          torn.set(whole.subarray(0, cut));
          const loaded = new SuperblockFiles(files(torn, b), hash).load();
          if (cut === whole.length) expect(loaded).toEqual(next);
          else expect([2, next.incarnation]).toContain(loaded!.incarnation);
        }
      }
      store.remove('superblock.a');
      store.remove('superblock.b');
    }
  });

  test('survives crashes at any moment: what was answered is there, what was not is whole or absent', () => {
    for (let seed = 1; seed <= 300; seed++) {
      const { store, tasks } = memory(seed);
      const random = seededRandom(seed * 7919);
      let asked = 0;
      let answered = 0;
      for (let life = 0; life < 6; life++) {
        const superblocks = new SuperblockFiles(store, hash);
        const loaded = superblocks.load();
        const incarnation = loaded === null ? 0 : loaded.incarnation;
        expect(incarnation, `seed ${seed}`).toBeGreaterThanOrEqual(answered);
        expect(incarnation).toBeLessThanOrEqual(asked);
        answered = incarnation;
        asked = incarnation;
        for (let steps = Math.floor(random() * 12); steps > 0; steps--) {
          if (random() < 0.6) {
            const value = ++asked;
            superblocks.save(superblock(value), (error) => {
              expect(error).toBe(null);
              answered = Math.max(answered, value);
            });
          } else tasks.step();
        }
        store.crash();
      }
    }
  });

  test('one damaged: the other counts, with a warning; the next save goes over the damaged one', () => {
    const { a, b } = written(2);
    for (let at = 0; at < a.length; at += 7) {
      const damaged = a.slice();
      damaged[at] ^= 0x10;
      const superblocks = new SuperblockFiles(files(damaged, b), hash);
      expect(superblocks.load()).toEqual(superblock(2));
      expect(superblocks.warning).toMatch(/^superblock\.a is damaged .* superblock\.b, revision 2, counts$/);
      const other = b.slice();
      other[at] ^= 0x10;
      const older = new SuperblockFiles(files(a, other), hash);
      expect(older.load()).toEqual(superblock(1));
      expect(older.warning).toContain('superblock.b is damaged');
    }
    const { store, tasks } = memory();
    const superblocks = new SuperblockFiles(store, hash);
    saved(superblocks, tasks, superblock(1));
    saved(superblocks, tasks, superblock(2));
    store.rot('superblock.b', 200);
    const reopened = new SuperblockFiles(store, hash);
    expect(reopened.load()).toEqual(superblock(1));
    store.fail('write', 'EIO', 1, 'superblock.b');
    expect((saved(reopened, tasks, superblock(3)) as NodeJS.ErrnoException).code).toBe('EIO');
    expect(new SuperblockFiles(store, hash).load()).toEqual(superblock(1));
    expect(saved(reopened, tasks, superblock(4))).toBe(null);
    expect(new SuperblockFiles(store, hash).load()).toEqual(superblock(4));
  });

  test('a save that failed is tried again in the same file, never over the good one', () => {
    const { store, tasks } = memory();
    const superblocks = new SuperblockFiles(store, hash);
    saved(superblocks, tasks, superblock(1));
    store.fail('sync', 'EIO', 3, 'superblock.b');
    for (let i = 2; i <= 4; i++) expect(saved(superblocks, tasks, superblock(i))).not.toBe(null);
    store.remove('superblock.b');
    expect(new SuperblockFiles(store, hash).load()).toEqual(superblock(1));
  });

  test('both damaged: refused; only a first save that did not finish, with nothing else there, is nothing', () => {
    const { a, b } = written(2);
    const cut = a.subarray(0, 100);
    expect(codeOf(() => new SuperblockFiles(files(cut, b.subarray(3)), hash).load())).toBe('STATE_CORRUPT');
    expect(codeOf(() => new SuperblockFiles(files(cut, null), hash).load())).toBe('STATE_CORRUPT');
    expect(codeOf(() => new SuperblockFiles(files(cut, cut, []), hash).load())).toBe('STATE_CORRUPT');
    const first = new SuperblockFiles(files(cut, null, ['lock']), hash);
    expect(first.load()).toBe(null);
    expect(first.warning).toContain('first save did not finish');
  });

  test('a newer format is refused, even beside one of ours; a damaged header of a newer format is damage', () => {
    const newer = (valid: boolean) => {
      const head = 'FORELOCK SUPERBLOCK format=00003 revision=0000000000000001 size=00000004';
      const digest = hash.create64().update(`${head}\u0001abc`).digest();
      const text = (digest ^ (valid ? 0n : 1n)).toString(16).padStart(16, '0');
      return Buffer.from(`${head} xxh64=${text}\n\u0001abc`);
    };
    const { b } = written(2);
    expect(codeOf(() => new SuperblockFiles(files(newer(true), null), hash).load())).toBe('STATE_NEWER');
    expect(codeOf(() => new SuperblockFiles(files(newer(true), b), hash).load())).toBe('STATE_NEWER');
    expect(new SuperblockFiles(files(newer(false), b), hash).load()).toEqual(superblock(2));
  });

  test('an intact file that says nonsense is refused, naming the field', () => {
    const ours = (text: string) => {
      const size = Buffer.byteLength(text).toString().padStart(8, '0');
      const head = `FORELOCK SUPERBLOCK format=00001 revision=0000000000000009 size=${size}`;
      const digest = hash.create64().update(head).update(text).digest().toString(16).padStart(16, '0');
      return Buffer.from(`${head} xxh64=${digest}\n${text}`);
    };
    const load = (text: string) => () => new SuperblockFiles(files(ours(text), null), hash).load();
    expect(load(JSON.stringify(superblock(1)))()).toEqual(superblock(1));
    expect(load(JSON.stringify({ ...superblock(1), role: 'king' }))).toThrow(/superblock\.a is intact but role/);
    expect(load(JSON.stringify({ ...superblock(1), incarnation: 1e300 }))).toThrow('incarnation');
    // with 0, a journal that was all lost was `0 records, whole`
    for (const segmentSize of [0, 2 ** 20, 5 * 2 ** 20, 2 ** 27])
      expect(load(JSON.stringify({ ...superblock(1), segmentSize }))).toThrow('intact but segmentSize');
    expect(load(JSON.stringify({ ...superblock(1), extra: 1 }))).toThrow('intact but');
    expect(codeOf(load('{"groupId":'))).toBe('STATE_CORRUPT');
    expect(codeOf(load('[]'))).toBe('STATE_CORRUPT');
  });

  test('saves are one at a time; those that wait are one', () => {
    const { store, tasks } = memory();
    const superblocks = new SuperblockFiles(store, hash);
    const answers: number[] = [];
    const mutable = superblock(0);
    for (let i = 1; i <= 10; i++) {
      mutable.incarnation = i;
      superblocks.save(mutable, () => answers.push(i));
    }
    mutable.incarnation = 99;
    tasks.run();
    expect(answers).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    expect(superblocks.counters).toEqual({ saves: 2, coalesced: 8 });
    expect(new SuperblockFiles(store, hash).load()!.incarnation).toBe(10);
  });

  test('one that would be too large is refused and leaves the other', async () => {
    const { store } = memory();
    const superblocks = new SuperblockFiles(store, hash);
    const large = superblock(1);
    for (let i = 2; i < 256; i++) {
      large.volumes.push({ ...large.volumes[1], number: i, path: `/${'x'.repeat(4095)}` });
    }
    const error = await new Promise((resolve) => superblocks.save(large, resolve));
    expect((error as ForelockError).code).toBe('CONFIG');
    expect((error as ForelockError).message).toContain(`${SUPERBLOCK_SIZE_MAX} allowed`);
    expect(store.list()).toEqual([]);
  });

  test('arbitrary bytes never do more than be refused', () => {
    const { a } = written(1);
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: 300 }),
      fc.tuple(fc.nat(a.length - 1), fc.uint8Array({ maxLength: 20 })).map(([at, patch]) => {
        const patched = a.slice();
        patched.set(patch.subarray(0, a.length - at), at);
        return patched;
      }),
    );
    fc.assert(
      fc.property(bytes, (a) => {
        const superblocks = new SuperblockFiles(files(a, null), hash);
        expect(['none', 'STATE_CORRUPT']).toContain(codeOf(() => superblocks.load()));
      }),
      { numRuns: 500 },
    );
  });
});
