/** Stories of a disk that fails or is full: what the operator is told, and what a stop says of what it takes with it. */
import { expect, type Mock, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  SEGMENT_SIZE_MIN: 128 * 1024,
}));

import { runTransaction } from '../../src/volume/transaction.js';
import { GroupWorld, type GroupWorldOptions, QUIET } from './group-world.js';
import { seededRandom } from './memory-store.js';

const hash = await xxhash();

/** The source serves. @returns the world, and what is told there */
async function sourceUp(options: Partial<GroupWorldOptions> = {}): Promise<{ world: GroupWorld; tell: Mock }> {
  const world = new GroupWorld({ ...QUIET, ...options }, seededRandom(1), hash);
  world.open(world.source);
  await world.until(() => world.source.group?.serving === true, 20_000, 'it does not serve');
  const tell = vi.spyOn(world.source.group!, 'tell');
  await world.settle(world.write(0, 8));
  await world.settle(world.flush());
  return { world, tell };
}

async function failSync(world: GroupWorld): Promise<void> {
  world.source.store.fail('sync', 'EIO', 1, /segment/);
  await expect(world.settle(world.flush())).rejects.toMatchObject({ code: 'EIO' });
}

test('a disk that failed is told once, and a stop says what it takes with it', async () => {
  // Hosts got EIO, and nothing was said anywhere. The stop said `stopped`, although answered writes were lost with it.
  const { world, tell } = await sourceUp({ syncMs: 4 });
  const { journal } = world.source;
  const first = journal.own.durable + 1;
  for (let unit = 8; unit < 64; unit += 8) await world.settle(world.write(unit, 8));
  await failSync(world);
  await expect(world.settle(world.write(0, 8))).rejects.toMatchObject({ code: 'EIO' });
  await world.pass(3000);
  expect(tell.mock.calls).toEqual([[journal.failed!.message]]);
  const undurable = await world.settle(world.source.group!.close());
  expect(undurable).toMatchObject({
    code: 'EIO',
    message: expect.stringContaining(`could not make 8 records durable (sequence ${first} to ${first + 7}, `),
  });
  expect(undurable!.message).toContain('writes among them that were answered may be lost');
});

test('what a stop could not make durable is not lost where the peer has it on its disk, and it says how much', async () => {
  for (const all of [true, false]) {
    const { world } = await sourceUp({ syncMs: 4 });
    world.open(world.target);
    await world.until(() => world.settled(), 3000, 'the sites do not find together');
    await world.settle(world.write(8, 8));
    await failSync(world);
    const { sender, journal } = world.source.group!;
    await world.until(() => sender!.peerDurable === journal.own.appended, 3000, 'it does not arrive');
    if (!all) {
      const { peerDurable } = sender!;
      vi.spyOn(sender!, 'peerDurable', 'get').mockReturnValue(peerDurable - 1);
    }
    const undurable = await world.settle(world.source.group!.close());
    expect(undurable!.message).toContain('could not make 2 records durable');
    expect(undurable!.message).toContain(
      all ? 'the peer has all of them on its disk' : 'the peer has the first 1 of them on its disk',
    );
    expect(undurable!.message.includes('lost, but')).toBe(!all);
  }
});

test('a stop that made all of it durable has nothing to say', async () => {
  const { world } = await sourceUp();
  await world.settle(world.write(8, 8));
  expect(await world.settle(world.source.group!.close())).toBeNull();
});

test('a full disk is told once, and once when it goes on', async () => {
  // A little is taken whenever some is freed, and the disk is full again: that is no news.
  const { world, tell } = await sourceUp();
  const { store, group } = world.source;
  store.capacity = store.used;
  await world.settle(world.write(8, 8));
  await world.until(() => group!.journal.diskFull, 3000, 'it does not notice');
  for (let turn = 0; turn < 4; turn += 1) {
    store.capacity = Number.POSITIVE_INFINITY;
    await world.until(() => !group!.journal.diskFull, 3000, 'it does not try again');
    store.capacity = store.used;
    await world.settle(world.write(8, 8));
    await world.until(() => group!.journal.diskFull, 3000, 'it does not notice');
  }
  expect(group!.health.full).toBe('disk');
  expect(tell.mock.calls).toEqual([[expect.stringContaining('the disk of the state directory is full')]]);
  store.capacity = Number.POSITIVE_INFINITY;
  await world.until(() => group!.health.full === null, 5000, 'it does not go on');
  expect(tell.mock.calls.slice(1)).toEqual([['the disk has room again: it goes on']]);
  store.capacity = store.used;
  await world.settle(world.write(8, 8));
  await world.until(() => group!.journal.diskFull, 3000, 'it does not notice');
  const undurable = await world.settle(group!.close());
  expect(undurable).toMatchObject({ code: 'ENOSPC', message: expect.stringContaining('could not make') });
});

test('a standby whose disk is full says that, too', async () => {
  const { world } = await sourceUp();
  world.open(world.target);
  await world.until(() => world.settled(), 3000, 'the sites do not find together');
  const { store, group } = world.target;
  const tell = vi.spyOn(group!, 'tell');
  store.capacity = store.used;
  await world.settle(world.write(8, 8));
  await world.until(() => group!.health.full === 'disk', 5000, 'it does not notice');
  expect(tell.mock.calls).toEqual([[expect.stringContaining('no more of the stream is taken')]]);
});

test('a journal that cannot hold its volumes is told when it is opened, and when writes are refused for it', async () => {
  const volume = { blocks: 512, blockSize: 4096, platter: 'journal' } as const;
  const { world: enough } = await sourceUp({ volumes: [volume], journalSegments: 20 });
  expect(enough.source.group!.state.warnings).toEqual([]);
  const { world, tell } = await sourceUp({ volumes: [volume], journalSegments: 8 });
  const { group } = world.source;
  expect(group!.state.warnings).toEqual([expect.stringContaining('--journal 1 MiB can hold 753 KiB of the 2 MiB of')]);
  const fill = async (): Promise<void> => {
    for (let unit = 0; unit < 4096; unit += 8) await world.settle(world.write(unit, 8));
  };
  await expect(fill()).rejects.toMatchObject({ code: 'ENOSPC' });
  await world.pass(2000);
  expect(group!.health.full).toBe('journal');
  expect(tell.mock.calls).toEqual([[expect.stringContaining('the journal is full of what cannot be freed')]]);
});

test('a disk that refuses to give up a segment is told once, as one that failed, and the group can be stopped', async () => {
  const { world, tell } = await sourceUp();
  const { group, store } = world.source;
  store.fail('rename', 'EIO', 1, /segment/);
  store.fail('remove', 'EIO', 1, /segment/);
  const write = async (): Promise<void> => {
    for (let unit = 0; unit < 65_536; unit += 8) await world.settle(world.write(unit % 64, 8));
  };
  await expect(write()).rejects.toMatchObject({ code: 'EIO' });
  expect(tell.mock.calls).toEqual([[group!.journal.failed!.message]]);
  expect(tell.mock.calls[0]![0]).toContain('EIO: remove segment-');
  await world.settle(group!.close());
});

test('a disk that has no room to note that a segment is gone is asked again', async () => {
  // Some file systems never write in place, and say ENOSPC to a removal. It was taken for a disk that had failed.
  const { world } = await sourceUp();
  const { group, store } = world.source;
  store.fail('rename', 'ENOSPC', 1, /segment/);
  store.fail('remove', 'ENOSPC', 2, /segment/);
  const refused = vi.spyOn(store, 'remove');
  for (let unit = 0; unit < 65_536; unit += 8) await world.settle(world.write(unit % 64, 8));
  expect(refused.mock.results.filter(({ type }) => type === 'throw')).toHaveLength(2);
  expect(group!.journal.failed).toBeNull();
  expect(group!.cleaner.counters.segmentsFreed).toBeGreaterThan(2);
  expect(await world.settle(group!.close())).toBeNull();
});

test('a map file that cannot be removed goes after the next checkpoint', async () => {
  const { world } = await sourceUp();
  const { store, group } = world.source;
  store.put('map-0.log', new Uint8Array(100));
  store.fail('remove', 'EIO', 1, /map/);
  const { counters } = group!.checkpointer;
  for (const isThere of [true, false]) {
    const before = counters.checkpoints;
    group!.checkpointer.request();
    await world.until(() => counters.checkpoints > before, 20_000, 'no checkpoint');
    expect(store.list().includes('map-0.log')).toBe(isThere);
  }
});

test('a journal that cannot be closed does not keep the directory locked', async () => {
  const { world } = await sourceUp();
  const { group } = world.source;
  const close = vi.spyOn(group!.state, 'close');
  vi.spyOn(group!.journal, 'close').mockImplementation(() => {
    throw new Error('EIO');
  });
  await expect(world.settle(group!.close())).rejects.toThrow('EIO');
  expect(close).toHaveBeenCalled();
});

test('a process that may open no more files says so, and goes on when it may', async () => {
  // It was taken for a disk that had failed: EIO until the next start, and what was answered and not durable was lost.
  const { world, tell } = await sourceUp();
  const { store, group } = world.source;
  store.fail('open', 'EMFILE', Number.POSITIVE_INFINITY, /segment/);
  const fill = async (): Promise<void> => {
    for (let unit = 0; unit < 65_536; unit += 8) await world.settle(world.write(unit % 64, 8));
  };
  await expect(fill()).rejects.toMatchObject({
    code: 'ENOSPC',
    message: expect.stringContaining('may open no more files'),
  });
  await expect(world.settle(world.flush())).rejects.toMatchObject({ code: 'ENOSPC' });
  const transaction = runTransaction(group!, async (each) => {
    await each.lock('v0', { offset: 0, size: 4096 });
    each.write('v0', 0, new Uint8Array(4096));
  });
  await expect(world.settle(transaction)).rejects.toThrow('may open no more files');
  await world.until(() => group!.health.full === 'descriptors', 3000, 'it is not noticed');
  expect(tell.mock.calls).toEqual([[expect.stringMatching(/may open no more files.*LimitNOFILE/)]]);
  store.heal();
  await world.until(() => group!.health.full === null, 5000, 'it does not go on');
  expect(tell.mock.calls.slice(1)).toEqual([['files can be opened again: it goes on']]);
  await world.settle(world.flush());
  expect(group!.journal.failed).toBeNull();
  expect(await world.settle(group!.close())).toBeNull();
});

test('a stop of a journal that failed waits for what its disk was given and has not answered', async () => {
  // Files were closed and the directory was let go of while a sync or a write was under way: it could still land, in a
  // journal that the next process had recovered, or in a file that had got the same descriptor.
  const { world } = await sourceUp();
  const { group, store } = world.source;
  const { journal } = group!;
  const newest = journal.segments.all().at(-1)!.file;
  const sync = newest.sync.bind(newest);
  let answer: (() => void) | null = null;
  newest.sync = (done) => {
    answer = () => sync(done);
  };
  await world.settle(world.write(8, 8));
  await world.until(() => journal.written === journal.head, 1000, 'it is not appended');
  const flushed = world.flush();
  await world.until(() => answer !== null, 1000, 'no sync');
  store.fail('write', 'EIO', 1, /segment/);
  const outcomes = Promise.allSettled([flushed, world.write(16, 8), world.flush()]);
  await world.until(() => journal.failed !== null, 1000, 'it does not fail');
  const close = vi.spyOn(journal, 'close');
  const stopped = group!.close();
  await world.pass(1000);
  expect(close).not.toHaveBeenCalled();
  answer!();
  await world.settle(stopped);
  await world.settle(outcomes);
});

test('a stop waits also for what a full disk was given while the threads ended', async () => {
  // It was tried again meanwhile. The file was closed under the write, which could land in one that had got its descriptor.
  const { world } = await sourceUp();
  const { group, store } = world.source;
  const { journal, state } = group!;
  store.capacity = store.used;
  await world.settle(world.write(8, 8));
  await world.until(() => journal.diskFull, 3000, 'it does not notice');
  let ended: (() => void) | null = null;
  vi.spyOn(state.offload, 'close').mockImplementationOnce(
    () =>
      new Promise((resolve) => {
        ended = resolve;
      }),
  );
  const close = vi.spyOn(journal, 'close');
  const stopped = group!.close();
  await world.until(() => ended !== null, 3000, 'it does not stop');
  const newest = journal.segments.all().at(-1)!.file;
  const write = newest.write.bind(newest);
  let answer: (() => void) | null = null;
  newest.write = (bytes, position, done) => {
    answer = () => write(bytes, position, done);
  };
  store.capacity = Number.POSITIVE_INFINITY;
  await world.until(() => answer !== null, 3000, 'it is not tried again');
  ended!();
  await world.pass(1000);
  expect(close).not.toHaveBeenCalled();
  answer!();
  await world.settle(stopped);
});

test('a stop waits for what was to be written down, and nothing is afterwards', async () => {
  // Where the journal had failed, a note could land after the directory had been given back, over one of the next process.
  const { world } = await sourceUp();
  const { group, store } = world.source;
  const save = vi.spyOn(store, 'save').mockImplementation((_name, _bytes, done) => {
    answer = () => done(new Error('EIO'));
  });
  let answer: (() => void) | null = null;
  await world.settle(world.write(8, 8));
  await failSync(world);
  await world.until(() => answer !== null, 1000, 'nothing is noted');
  const close = vi.spyOn(group!.state, 'close');
  const stopped = group!.close();
  await world.pass(1000);
  expect(close).not.toHaveBeenCalled();
  answer!();
  await world.settle(stopped);
  save.mockClear();
  await world.pass(1000);
  expect(save).not.toHaveBeenCalled();
});
