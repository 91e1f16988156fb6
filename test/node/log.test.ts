import { execFileSync } from 'node:child_process';
import fs, { mkdirSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, expect, test, vi } from 'vitest';
import xxhash, { type XXHashAPI } from 'xxhash-wasm';
import * as layout from '../../assembly/layout.js';
import { GroupMemory } from '../../src/kernel/memory.js';
import { ReferenceKernel } from '../../src/kernel/reference/kernel.js';
import {
  FromFilter,
  findJournals,
  formatLogEvent,
  JournalWalk,
  type LogEvent,
  type ProblemEvent,
  type RecordEvent,
} from '../../src/node/log.js';

const ignore = (): void => undefined;
const SEGMENT_SIZE = 4 * 1024 * 1024;
const BLOCK = 4096;

let hash: XXHashAPI;
let root: string;
let folder: string;
let count = 0;
beforeAll(async () => {
  hash = await xxhash();
  root = mkdtempSync(join(tmpdir(), 'forelock-log-'));
});
beforeEach(() => {
  count += 1;
  folder = join(root, String(count));
  mkdirSync(folder);
});
afterAll(() => rmSync(root, { recursive: true }));

/** Writes a segment by hand, record by record, with the reference kernel, and a key that the walk has to find out. */
class SegmentMaker {
  readonly #memory = new GroupMemory(SEGMENT_SIZE + 65536);
  readonly #kernel = new ReferenceKernel(this.#memory);
  readonly #at = this.#memory.take(SEGMENT_SIZE).at;
  size = 0;
  /** Offsets of the records made. */
  readonly offsets: number[] = [];

  constructor(
    readonly number: number,
    ownBefore = 0,
  ) {
    this.#memory.useRecordKey('0123456789abcdef');
    const head = {
      group: 'g',
      segment: number,
      segmentSize: SEGMENT_SIZE,
      own: { site: 1, before: ownBefore },
      peer: { site: 2, before: 0 },
    };
    this.#add(layout.TYPE_SEGMENT, { lba: number, blockCount: 1, blockShift: 9 }, Buffer.from(JSON.stringify(head)));
  }

  #add(
    type: number,
    fields: Partial<
      Record<'flags' | 'lba' | 'blockCount' | 'blockShift' | 'sequence' | 'seen' | 'scope' | 'site', number>
    >,
    payload: Uint8Array,
  ): this {
    const { flags = 0, lba = 0, blockCount = 0, blockShift = 0, seen = 0, scope = 0, site = 1 } = fields;
    const { sequence = this.number * SEGMENT_SIZE + this.size } = fields; // a local record's is its position
    const at = this.#at + this.size;
    const size = this.#kernel.encode(
      at,
      type,
      flags,
      0,
      lba,
      blockCount,
      blockShift,
      sequence,
      seen,
      1000 + sequence,
      scope,
      1,
      7,
      site,
    );
    if (blockShift > 0) this.#memory.bytes.set(payload, at + layout.HEADER_SIZE + 8 * blockCount);
    this.#kernel.seal(at, size);
    this.offsets.push(this.size);
    this.size += size;
    return this;
  }

  write(sequence: number, site = 1, blockCount = 2): this {
    const fields = { lba: sequence * 10, blockCount, blockShift: 12, sequence, scope: sequence, site };
    return this.#add(layout.TYPE_WRITE, fields, new Uint8Array(blockCount * BLOCK).fill(sequence));
  }
  flush(sequence: number, flags = 0): this {
    return this.#add(layout.TYPE_FLUSH, { sequence, scope: sequence, flags }, new Uint8Array());
  }
  mark(durable: number): this {
    return this.#add(layout.TYPE_MARK, { lba: durable, seen: 3, scope: 2 }, new Uint8Array());
  }
  truncated(through: number): this {
    return this.#add(layout.TYPE_TRUNCATED, { scope: through }, new Uint8Array());
  }
  /** As the journal does it: only the PAD's header is in the file. */
  pad(): this {
    const at = this.#at + this.size;
    const position = this.number * SEGMENT_SIZE + this.size;
    this.#kernel.encode(at, layout.TYPE_PAD, 0, 0, 0, 0, 0, position, 0, 0, 0, 1, 0, 1);
    this.#memory.view.setUint32(at + layout.AT_SIZE, SEGMENT_SIZE - this.size, true);
    this.#kernel.seal(at, SEGMENT_SIZE - this.size);
    this.offsets.push(this.size);
    this.size += layout.RECORD_SIZE_MIN;
    return this;
  }

  get bytes(): Buffer {
    return Buffer.from(this.#memory.bytes.slice(this.#at, this.#at + this.size));
  }

  save(change: (bytes: Buffer) => Buffer = (bytes) => bytes): string {
    const path = join(folder, `segment-${String(this.number).padStart(10, '0')}.log`);
    writeFileSync(path, change(this.bytes));
    return path;
  }
}

function walk(directory = folder): {
  events: LogEvent[];
  records: RecordEvent[];
  problems: ProblemEvent[];
  text: string;
} {
  const events = [...new JournalWalk(directory, hash).events()];
  return {
    events,
    records: events.filter((event) => event.kind === 'record'),
    problems: events.filter((event) => event.kind === 'problem' && event.severity !== 'note') as ProblemEvent[],
    text: events.map((event) => formatLogEvent(event, {})).join('\n'),
  };
}

test('a whole journal is printed record by record', () => {
  new SegmentMaker(0).write(1).write(1, 2).flush(2, layout.FLAG_POINT).mark(9000).pad().save();
  new SegmentMaker(1).write(3).save();
  const { records, problems, events, text } = walk();
  expect(problems).toEqual([]);
  expect(records.map(({ type, stream, sequence }) => `${type} ${stream} ${sequence}`)).toEqual([
    'SEGMENT local 0',
    'WRITE own 1',
    'WRITE peer 1',
    'FLUSH own 2',
    'MARK local 0',
    'PAD local 0',
    'SEGMENT local 0',
    'WRITE own 3',
  ]);
  expect(records[1]).toMatchObject({
    position: 592,
    lba: 10,
    blockCount: 2,
    blockSize: BLOCK,
    scope: 1,
    session: 7,
    generation: 1,
    clock: 1001,
  });
  expect(records[3]!.flags).toEqual(['point']);
  expect(records[7]!.position).toBe(SEGMENT_SIZE + 592);
  expect(events[events.length - 1]).toMatchObject({ kind: 'end', own: 3, peer: 1, durable: 9000, damaged: 0, torn: 0 });
  expect(text).toContain('WRITE     volume 0 10+2  8 KiB  scope 1  stamp 1.1001.1  seen 0  session 7');
  expect(text).toContain('own sequence to 3');
});

test('a TRUNCATED takes the peer’s stream back, and what follows is measured by that', () => {
  new SegmentMaker(0).write(1, 2).write(2, 2).write(3, 2).truncated(1).write(1).write(2, 2).truncated(1).save();
  const whole = walk();
  expect(whole.problems).toEqual([]);
  expect(whole.events.at(-1)).toMatchObject({ own: 1, peer: 1 });
  expect(whole.text).toMatch(/local +TRUNCATED +peer's stream closed after 1/);
  new SegmentMaker(0).write(1, 2).write(2, 2).write(3, 2).truncated(1).write(4, 2).save();
  expect(walk().problems.map(({ message }) => message)).toEqual(['the stream of site 2 jumps from sequence 1 to 4']);
});

test('a record cut off at the end is a torn tail, not damage', () => {
  for (const cut of [8, 4096, 8200]) {
    const path = new SegmentMaker(0).write(1).write(2).save();
    truncateSync(path, new SegmentMaker(0).write(1).write(2).size - cut);
    const { problems, events } = walk();
    expect(problems.map(({ severity }) => severity)).toEqual(['torn']);
    expect(problems[0]!.message).toContain('cut off in a write, or being written now');
    expect(events[events.length - 1]).toMatchObject({ damaged: 0, torn: 1, own: 1 });
  }
});

test('zeroes at the end, as a file system leaves them after a crash, are a torn tail', () => {
  new SegmentMaker(0).write(1).save((bytes) => Buffer.concat([bytes, Buffer.alloc(10_000)]));
  expect(walk().problems).toMatchObject([
    { severity: 'torn', size: 10_000, message: expect.stringContaining('zeroes instead of a record') },
  ]);
});

test('what an earlier segment left behind the end, in a file that is written over, is not of the journal', () => {
  const earlier = new SegmentMaker(2).write(1).write(2).mark(100).flush(3).pad().bytes;
  // the new records end where one of the old ones begins, and within one
  for (const blockCount of [2, 3]) {
    const maker = new SegmentMaker(9, 70).write(71, 1, blockCount);
    maker.save((bytes) => Buffer.concat([bytes, earlier.subarray(bytes.length)]));
    const { records, problems, events } = walk();
    expect(records.map(({ type, sequence }) => `${type} ${sequence}`)).toEqual(['SEGMENT 0', 'WRITE 71']);
    expect(problems).toMatchObject([{ severity: 'torn', offset: maker.size, size: earlier.length - maker.size }]);
    expect(events.at(-1)).toMatchObject({ own: 71, damaged: 0, torn: 1 });
  }
  new SegmentMaker(9).save(() => earlier); // its name reached the disk, and nothing else did
  expect(walk().problems).toMatchObject([
    { severity: 'torn', offset: 0, message: expect.stringContaining('it says that it is segment 2') },
  ]);
});

test('a flipped bit below a durable mark is damage, and the walk goes on behind it', () => {
  const maker = new SegmentMaker(0).write(1).write(2).write(3);
  maker.mark(maker.size).save((bytes) => {
    const at = maker.offsets[2]! + 72 + 16 + BLOCK + 5; // in the second block of the write with sequence 2
    bytes[at] = bytes[at]! ^ 4;
    return bytes;
  });
  const { problems, records, events } = walk();
  expect(problems).toEqual([
    {
      kind: 'problem',
      severity: 'damaged',
      segment: 0,
      offset: maker.offsets[2],
      size: maker.offsets[3]! - maker.offsets[2]!,
      message: 'WRITE with sequence 2: block 1 of its 2 does not match its checksum',
    },
  ]);
  expect(records.map(({ sequence }) => sequence)).toEqual([0, 1, 3, 0]);
  expect(events[events.length - 1]).toMatchObject({ damaged: 1, torn: 0 });
});

test('a damaged header, also in an earlier segment than its mark, is damage', () => {
  const first = new SegmentMaker(0).write(1).write(2).pad();
  first.save((bytes) => {
    bytes[first.offsets[1]! + layout.AT_LBA] = 0xff;
    return bytes;
  });
  new SegmentMaker(1).mark(SEGMENT_SIZE).save();
  expect(walk().problems).toMatchObject([
    { severity: 'damaged', segment: 0, message: "a record's header does not check" },
  ]);
});

test('garbage of any kind is walked through', () => {
  const maker = new SegmentMaker(0).write(1).write(2);
  maker.mark(maker.size);
  const clean = maker.bytes;
  let state = 12345;
  for (let round = 0; round < 60; round += 1) {
    maker.save((bytes) => {
      for (let hit = 0; hit < 1 + (round % 20); hit += 1) {
        state = (Math.imul(state, 1103515245) + 12345) >>> 0;
        bytes[state % bytes.length] = (state >> 8) & 255;
      }
      return bytes;
    });
    const { events } = walk();
    expect(events[events.length - 1]!.kind).toBe('end');
  }
  maker.save(() => clean);
  expect(walk().problems).toEqual([]);
}, 120_000);

test("a gap in a stream is damage; missing segments before the checkpoint are the cleaner's work", () => {
  new SegmentMaker(0).write(1).write(5).pad().save();
  new SegmentMaker(3, 8).write(9).save();
  const { problems, events } = walk();
  expect(problems).toMatchObject([{ severity: 'damaged', message: 'the stream of site 1 jumps from sequence 1 to 5' }]);
  expect(events).toContainEqual(
    expect.objectContaining({ severity: 'note', message: expect.stringContaining('freed by the cleaner') }),
  );
});

test('a segment in the wrong place is damage', () => {
  const { bytes } = new SegmentMaker(0).write(1);
  writeFileSync(join(folder, 'segment-0000000002.log'), bytes);
  new SegmentMaker(3).mark(SEGMENT_SIZE * 2 + 100).save();
  expect(walk().problems).toMatchObject([{ severity: 'damaged', message: 'it says that it is segment 0' }]);
});

test('a damaged superblock is told, and the segments are still read', () => {
  new SegmentMaker(0).write(1).save();
  writeFileSync(join(folder, 'superblock.a'), 'rubbish');
  writeFileSync(join(folder, 'superblock.b'), 'rubbish');
  const { problems, records } = walk();
  expect(problems).toMatchObject([
    { severity: 'damaged', segment: null, message: expect.stringContaining('superblock.a and superblock.b damaged') },
  ]);
  expect(records.length).toBe(2);
});

test('--from leaves out what is before', () => {
  new SegmentMaker(0).write(1).flush(2).mark(5).write(3).save();
  const filter = new FromFilter(2);
  const shown = walk().records.filter((event) => filter.shows(event));
  expect(shown.map(({ type }) => type)).toEqual(['FLUSH', 'MARK', 'WRITE']);
});

test('a segment that cannot be read, or is no file, is damage, and the others are read', () => {
  // a directory and a bad sector ended in a stack trace, and a FIFO hung
  mkdirSync(join(folder, 'segment-0000000000.log'));
  execFileSync('mkfifo', [join(folder, 'segment-0000000001.log'), join(folder, 'superblock.a')]);
  const bad = new SegmentMaker(2).write(1).save();
  new SegmentMaker(3, 1).write(2).save();
  const { readSync, openSync } = fs;
  const opened = new Set<number>();
  const open = vi.spyOn(fs, 'openSync').mockImplementation((path, ...flags) => {
    const fd = openSync(path, ...flags);
    if (path === bad) opened.add(fd);
    else opened.delete(fd);
    return fd;
  });
  const read = vi.spyOn(fs, 'readSync').mockImplementation(((fd: number, ...rest: [Buffer]) => {
    if (opened.has(fd)) throw Object.assign(new Error('EIO: i/o error, read'), { code: 'EIO' });
    return readSync(fd, ...rest);
  }) as typeof fs.readSync);
  syncBuiltinESMExports();
  const { problems, records, text } = walk();
  for (const spy of [open, read]) spy.mockRestore();
  syncBuiltinESMExports();
  expect(problems).toMatchObject([
    { severity: 'damaged', segment: null, message: expect.stringContaining('superblock.a damaged') },
    { severity: 'damaged', segment: 0, message: 'it cannot be read: it is no file' },
    { severity: 'damaged', segment: 1, message: 'it cannot be read: it is no file' },
    { severity: 'damaged', segment: 2, message: 'it cannot be read: EIO: i/o error, read' },
  ]);
  expect(records.map(({ segment }) => segment)).toEqual([3, 3]);
  expect(text).toContain('DAMAGED in 4 places');
});

test("journals are found in a state directory and in a group's folder", () => {
  const group = join(folder, 'main');
  mkdirSync(group);
  mkdirSync(join(folder, 'empty'));
  writeFileSync(join(group, 'segment-0000000000.log'), '');
  expect(findJournals(folder, ignore)).toEqual([group]);
  expect(findJournals(group, ignore)).toEqual([group]);
  expect(() => findJournals(join(folder, 'empty'), ignore)).toThrow('holds no journal');
  expect(() => findJournals(join(folder, 'none'), ignore)).toThrow('cannot be read');
});

test('a folder beside the journals that may not be read is left out, with a note', () => {
  for (const name of ['main', 'lost+found']) mkdirSync(join(folder, name));
  writeFileSync(join(folder, 'main', 'segment-0000000000.log'), '');
  const { readdirSync } = fs;
  const list = vi.spyOn(fs, 'readdirSync').mockImplementation(((path: string) => {
    if (path.endsWith('lost+found')) throw new Error(`EACCES: permission denied, scandir '${path}'`);
    return readdirSync(path);
  }) as typeof fs.readdirSync);
  syncBuiltinESMExports();
  const notes: string[] = [];
  const found = findJournals(folder, (text) => notes.push(text));
  list.mockRestore();
  syncBuiltinESMExports();
  expect(found).toEqual([join(folder, 'main')]);
  expect(notes).toEqual([expect.stringContaining('lost+found is left out: EACCES')]);
});

test('nor is a link that leads nowhere, or to itself', () => {
  mkdirSync(join(folder, 'main'));
  writeFileSync(join(folder, 'main', 'segment-0000000000.log'), '');
  for (const [name, target] of [
    ['self', 'self'],
    ['gone', 'nothing'],
  ] as const)
    symlinkSync(target, join(folder, name));
  const notes: string[] = [];
  expect(findJournals(folder, (text) => notes.push(text))).toEqual([join(folder, 'main')]);
  expect(notes).toEqual([expect.stringContaining('self is left out: ELOOP')]);
});
