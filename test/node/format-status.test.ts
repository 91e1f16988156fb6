import { expect, test } from 'vitest';
import type { GroupStatus, LagStatus } from '../../src/node/control.js';
import { COLOURS, formatDuration, formatStatus, PLAIN } from '../../src/node/format-status.js';
import { FakeGateway, groupStatus } from './fake-gateway.js';

const NO_LAG: LagStatus = { bytes: 0, records: 0, ageMs: 0, firstCopy: null, fullCopyNeeded: false };

test('a status reads as a page', () => {
  expect(formatStatus(new FakeGateway().status(), PLAIN)).toBe(`site a  forelock 0.1.0, up 12 s
  nbd://127.0.0.1:10809/disk

group main  primary  ack local, speculation on, on-reject target-retry, kernel wasm
  link       streaming  site b at ws://127.0.0.1:10900
             round trip 50.3 ms, sent 3 GiB, received 12.1 KiB, 3 connects, epoch 3.1
  lag        5 MiB, 120 records, oldest 51 ms
  journal    512 MiB of 2 GiB (25 %), 8 segments, ring 64 MiB, 333 B since the checkpoint

  volume   size   mapped  block  platter
  disk    1 GiB  300 MiB   4096  journal

  stream  appended  sealed  sent  received  granted  applied  durable  peerDurable  trimmed
  own         1000    1000   990         0        0        0      950          800      800
  peer's         -       -     -       900      890      880      800            -        -
`);
  const counters = '\n\n  batchesSealedInline 12  batchesSealedInPool 3\n';
  expect(formatStatus(new FakeGateway().status(), PLAIN)).not.toContain('batches');
  expect(formatStatus(new FakeGateway().status(), PLAIN, { counters: true })).toContain(counters);
});

test('what is wrong stands out, and nothing is negative', () => {
  const status = new FakeGateway().status();
  const link = {
    ...status.groups[0]!.link,
    state: 'refused' as const,
    reason: 'the shared keys of the two ends differ',
  };
  status.groups = [
    groupStatus({
      role: 'standby',
      consistency: 'inconsistent',
      degradedSince: 77,
      parted: 'site b went on without this one',
      link,
      lag: { ...NO_LAG, bytes: -1, records: 3, ageMs: -5 },
    }),
    groupStatus({
      name: 'alone',
      link: { ...link, url: null, connects: 0 },
      lag: null,
      counters: {},
    }),
  ];
  const text = formatStatus(status, COLOURS);
  expect(text).toContain(
    '\x1b[31mrefused\x1b[0m  site b at ws://127.0.0.1:10900: the shared keys of the two ends differ',
  );
  expect(text).toContain('\x1b[31minconsistent: a first copy is unfinished\x1b[0m');
  expect(text).toContain('alone since sequence 77');
  expect(text).toContain('  parted     \x1b[31msite b went on without this one\x1b[0m');
  expect(text).toContain('at least 3 records, no link: image of 0 ms ago');
  expect(text).toContain('no peer configured');
  expect(text.match(/ lag /g)).toHaveLength(1); // of the one that has a peer
});

test('the lag says what is known of it, and what is no lag', () => {
  const told = (change: Partial<LagStatus> | null, group: Partial<GroupStatus> = {}): string => {
    const status = new FakeGateway().status();
    status.groups = [groupStatus({ lag: change && { ...NO_LAG, ...change }, ...group })];
    return / {2}lag +(.*)/.exec(formatStatus(status, COLOURS))![1]!;
  };
  const { link } = groupStatus();
  const standby = { role: 'standby', link: { ...link, state: 'streaming' } } as const;
  const away = { role: 'standby', link: { ...link, state: 'away' } } as const;
  expect(told({})).toBe('\x1b[32mnone\x1b[0m');
  expect(told({ bytes: 4096, records: 3, ageMs: 5200 })).toBe('4 KiB, 3 records, oldest 5.2 s');
  expect(told({ bytes: null, records: 3, ageMs: null })).toBe('3 records, oldest of unknown age');
  expect(told({ bytes: null, records: 7, fullCopyNeeded: true })).toContain('31mfull copy needed');
  const firstCopy = { doneBytes: 287 * 2 ** 20, totalBytes: 2 ** 30 };
  expect(told({ firstCopy })).toBe('\x1b[33mfirst copy 28 %, 287 MiB of 1 GiB\x1b[0m');
  expect(told({ firstCopy, records: 4 })).toContain('first copy 28 %, 287 MiB of 1 GiB, then 4 records');
  expect(told({ firstCopy }, standby)).toContain('first copy 28 %');
  expect(told({}, standby)).toBe('\x1b[32mnone\x1b[0m');
  expect(told({ bytes: null, records: 3, ageMs: 5200 }, standby)).toBe('3 records, image of 5.2 s ago');
  expect(told({ bytes: null, ageMs: 300_000 }, away)).toContain('no link: image of 5 min ago');
  expect(told({ bytes: null, ageMs: null }, away)).toContain('no link: image of unknown age');
  expect(told(null, { id: '', role: 'standby', consistency: 'inconsistent' })).toContain('no copy here at all');
});

test('what waits for a lock at the target is told, with what that means for the line', () => {
  const told = (state: 'waiting' | 'halted' | 'rewound'): string => {
    const status = new FakeGateway().status();
    status.groups = [groupStatus({ onReject: 'halt', rejection: { sequence: 881, state, ageMs: 5200 } })];
    return formatStatus(status, PLAIN)
      .split('\n')
      .find((line) => line.includes('rejected'))!;
  };
  expect(told('waiting')).toBe('  rejected   waiting: sequence 881 needs a lock at the target, it waits there, 5.2 s');
  expect(told('halted')).toBe('  rejected   halted: sequence 881 needs a lock at the target, nothing is sent, 5.2 s');
  expect(told('rewound')).toBe(
    '  rejected   rewound: sequence 881 needs a lock at the target, then it is sent again, 5.2 s',
  );
});

test('a disk that failed or is full stands out', () => {
  const told = (change: object, role: GroupStatus['role'] = 'primary'): string => {
    const status = new FakeGateway().status();
    status.groups = [groupStatus({ role, journal: { ...groupStatus().journal, ...change } })];
    return formatStatus(status, COLOURS);
  };
  expect(told({ failed: 'the journal can no longer be written' })).toContain(
    '  failed     \x1b[31mthe journal can no longer be written\x1b[0m\n',
  );
  expect(told({ diskFull: true })).toContain('  disk full  \x1b[31mwhat needs room fails with ENOSPC\x1b[0m\n');
  expect(told({ diskFull: true }, 'standby')).toContain('no more of the stream is taken');
  expect(told({ noDescriptors: true })).toContain('until the process may open more (ulimit -n)');
  expect(told({ full: true })).toMatch(/full {7}.*ENOSPC until blocks are trimmed, or with a larger --journal/);
});

test('a journal that is full for an image that fails is not to be trimmed or made larger', () => {
  const status = new FakeGateway().status();
  const { journal, volumes } = groupStatus();
  const failing = volumes.map((volume) => ({ ...volume, imageError: 'EIO' }));
  status.groups = [groupStatus({ journal: { ...journal, full: true }, volumes: failing })];
  const told = formatStatus(status, PLAIN);
  expect(told).toContain('ENOSPC until the image below can be written\n');
  expect(told).toContain('its image cannot be written: EIO');
});

test('durations', () => {
  const cases = [0, 51.4, 999, 3210, 59_000, 61_000, 3_600_000, 7_800_000, 86_400_000, 273_600_000];
  expect(cases.map(formatDuration)).toEqual([
    '0 ms',
    '51 ms',
    '999 ms',
    '3.2 s',
    '59 s',
    '1 min',
    '1 h',
    '2 h 10 min',
    '1 d',
    '3 d 4 h',
  ]);
});

test('of a frozen site it is told what hosts get, and of one thing that it is one', () => {
  const told = (frozenMs: number, whenSplit: string, whenSplitAgreed = true): string => {
    const status = new FakeGateway().status();
    const conflicts = { met: 0, aborted: 0, cascaded: 0, abortedPeer: 0 };
    const split = { whenSplit, whenSplitAgreed };
    const dual = { state: 'frozen' as const, frozenMs, ...split, behind: { records: 0, ageMs: 0 }, conflicts };
    const { link, journal } = status.groups[0]!;
    status.groups = [
      groupStatus({ role: 'dual', dual, link: { ...link, connects: 1 }, journal: { ...journal, segments: 1 } }),
    ];
    return formatStatus(status, PLAIN);
  };
  expect(told(29_000, 'freeze')).toContain('is not there, hosts wait');
  expect(told(31_000, 'freeze')).toContain('is not there, hosts get errors');
  expect(told(31_000, 'prefer:b')).toContain('is not there, hosts get errors');
  expect(told(31_000, 'prefer:a')).toContain('is not there, hosts wait'); // for it goes on alone for the first of them
  expect(told(31_000, 'prefer:a', false)).toContain('is not there, hosts get errors');
  expect(told(0, 'freeze')).toContain(', 1 connect, ');
  expect(told(0, 'freeze')).toContain(', 1 segment, ');
});

test('a volume whose image cannot be written is named, with the reason', () => {
  const status = new FakeGateway().status();
  status.groups[0]!.volumes[0]!.imageError = 'EIO: i/o error, fdatasync';
  expect(formatStatus(status, PLAIN)).toContain('  disk: its image cannot be written: EIO: i/o error, fdatasync\n');
  status.groups[0]!.volumes[0]!.journalError = 'block 7 could not be read';
  expect(formatStatus(status, PLAIN)).toContain(
    '\n  disk: blocks for its image cannot be read from the journal: block 7',
  );
});
