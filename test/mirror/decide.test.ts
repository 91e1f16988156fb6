import { expect, test } from 'vitest';
import {
  type Decision,
  decide,
  type Generation,
  ROW_COUNT,
  recognise,
  type SiteState,
} from '../../src/mirror/decide.js';

const G1: Generation = { ordinal: 1, id: 'g1', parent: null, minter: 1, ends: {} };
function next(parent: Generation, id: string, minter: number, ends: Record<string, number>): Generation {
  return { ordinal: parent.ordinal + 1, id, parent: parent.id, minter, ends };
}

function site(name: string, changes: Partial<SiteState> = {}): SiteState {
  const number = name === 'a' ? 1 : 2;
  return {
    format: 1,
    group: 'g',
    groupId: 'id',
    site: { name, number },
    role: number === 1 ? 'primary' : 'standby',
    whenSplit: 'freeze',
    met: { [3 - number]: { last: { count: 5, id: 15 }, offered: null } },
    sites: [],
    peers: [3 - number],
    volumes: [{ number: 0, name: 'v', size: 1 << 20, blockSize: 4096 }],
    generations: [G1],
    streams: { 1: 100 },
    journalFrom: { 1: 1 },
    imported: false,
    base: null,
    epoch: number,
    served: false,
    clean: true,
    ...changes,
  };
}
const EMPTY: Partial<SiteState> = { groupId: null, generations: [], streams: {}, journalFrom: {}, met: {}, peers: [] };

const A2 = next(G1, 'a2', 1, { 1: 100 });
const B2 = next(G1, 'b2', 2, { 1: 100, 2: 0 });
/** Minted by b when site c, whose stream it followed, was gone. */
const AFTER_C = next(G1, 'b2', 2, { 2: 0, 3: 60 });
const KNOWS_C = [{ name: 'c', number: 3 }];
const BASE = { source: 1, generation: 'g1', start: 40, next: { volume: 0, lba: 7 }, end: null };

interface Case {
  finding: string;
  a?: Partial<SiteState>;
  b?: Partial<SiteState>;
  expected: Partial<Decision> & { row: number; action: Decision['action'] };
  says?: RegExp;
}

const refuse = (row: number) => ({ row, action: 'refuse', code: 'PEER_REFUSED' }) as const;

const DUAL = { role: 'dual', journalFrom: { 1: 1, 2: 1 } } as const;
const DUAL_CASES: Case[] = [
  {
    finding: 'dual, both empty: the first by name founds the group',
    a: { ...EMPTY, role: 'dual' },
    b: { ...EMPTY, role: 'dual' },
    expected: { row: 2, action: 'found', source: 1, target: 2 },
  },
  {
    finding: 'dual, both empty: who knows volumes founds the group',
    a: { ...EMPTY, role: 'dual', volumes: [] },
    b: { ...EMPTY, role: 'dual' },
    expected: { row: 2, action: 'found', source: 2, target: 1 },
  },
  {
    finding: 'dual, one empty: it adopts, and its own stream runs back',
    a: { ...EMPTY, role: 'dual' },
    b: { ...DUAL, peers: [], streams: { 2: 30 } },
    expected: { row: 2, action: 'replay', stream: 2, source: 2, target: 1, from: 0, through: 30, back: 0, adopter: 1 },
  },
  {
    finding: 'dual, one empty, the other’s journal does not begin at the beginning',
    a: { ...DUAL, peers: [], journalFrom: { 1: 50 } },
    b: { ...EMPTY, role: 'dual' },
    expected: { row: 2, action: 'base', stream: 1, from: 100, back: 0, adopter: 2 },
  },
  {
    // it was taken for the one that a copy comes from, by its name, and refused (seed 43771)
    finding: 'dual, adopted and cut off before the first record, of which the other’s journal knows no more',
    a: { ...DUAL, streams: {} },
    b: { ...DUAL, streams: { 2: 100 }, journalFrom: { 2: 50 } },
    expected: { row: 14, action: 'base', stream: 2, source: 2, target: 1, from: 100, back: 0, adopter: 1 },
  },
  {
    finding: 'dual, one was emptied: the other mints a generation first',
    a: { ...EMPTY, role: 'dual' },
    b: { ...DUAL, streams: { 1: 100, 2: 30 } },
    expected: { row: 2, action: 'renew', source: 2, target: 1 },
  },
  {
    finding: 'dual, one was emptied, and the generation is minted: its stream goes on behind what there is of it',
    a: { ...EMPTY, role: 'dual' },
    b: { ...DUAL, peers: [], generations: [G1, next(G1, 'b2', 2, { 1: 100, 2: 30 })], streams: { 1: 100, 2: 30 } },
    expected: { row: 2, action: 'base', stream: 2, from: 30, back: 100, adopter: 1 },
  },
  {
    finding: 'dual, one was emptied before the other had its first copy whole',
    a: { ...EMPTY, role: 'dual' },
    b: { ...DUAL, base: BASE },
    expected: refuse(2),
    says: /b holds a copy that was never finished.*a, where it came from, is empty: start a with the state directory/,
  },
  {
    finding: 'dual, one would go on alone and the other does not know',
    a: { ...DUAL, whenSplit: 'prefer:a' },
    b: DUAL,
    expected: refuse(1),
    says: /a has --when-split prefer:a, b has --when-split freeze: give both the same/,
  },
  {
    finding: 'dual, a third site is preferred',
    a: { ...DUAL, whenSplit: 'prefer:c' },
    b: { ...DUAL, whenSplit: 'prefer:c' },
    expected: refuse(1),
    says: /names neither a nor b/,
  },
  {
    finding: 'dual, each was told that the other is gone for good',
    a: { ...DUAL, whenSplit: 'only:a' },
    b: { ...DUAL, whenSplit: 'only:a' },
    expected: refuse(1),
    says: /a and b have --when-split only:a, by which the other site is gone for good/,
  },
  {
    finding: 'dual, equal ends',
    a: { ...DUAL, streams: { 1: 100, 2: 40 } },
    b: { ...DUAL, streams: { 1: 100, 2: 40 } },
    expected: { row: 6, action: 'replay', stream: 1, from: 100, through: 100, back: 40, adopter: 0 },
  },
  {
    finding: 'dual, each author has more of its own stream',
    a: { ...DUAL, streams: { 1: 120, 2: 40 } },
    b: { ...DUAL, streams: { 1: 100, 2: 60 } },
    expected: { row: 9, action: 'replay', stream: 1, from: 100, through: 120, back: 40 },
  },
  {
    finding: 'dual, the second site lost its tail',
    a: { ...DUAL, streams: { 1: 120, 2: 40 }, served: true },
    b: { ...DUAL, streams: { 1: 100, 2: 30 } },
    expected: { row: 7, action: 'returnTail', stream: 2, source: 1, target: 2, from: 30, through: 40 },
  },
  {
    // the link was closed over it each time, for ever: what the tail had seen goes in front of it
    finding: 'dual, the second site lost its tail, and the first has not what it needs besides',
    a: { ...DUAL, streams: { 1: 120, 2: 40 }, journalFrom: { 1: 110, 2: 1 }, served: true },
    b: { ...DUAL, streams: { 1: 100, 2: 30 } },
    expected: refuse(13),
    says: /journal of a begins at 110, the peer b ends at 100: empty the state directory of b/,
  },
  {
    finding: 'dual, the second site’s journal is gone',
    a: { ...DUAL, streams: { 1: 100, 2: 40 } },
    b: { ...DUAL, streams: { 1: 100, 2: 60 }, journalFrom: { 1: 1, 2: 50 } },
    expected: refuse(13),
    says: /journal of b begins at 50, the peer a ends at 40/,
  },
  {
    finding: 'dual, the second site went on alone, and the first has nothing beyond',
    a: { ...DUAL, streams: { 1: 100, 2: 10 } },
    b: { ...DUAL, generations: [G1, next(G1, 'b2', 2, { 1: 100, 2: 10 })], streams: { 1: 100, 2: 50 } },
    expected: { row: 10, action: 'replay', stream: 1, from: 100, through: 100, back: 10, adopter: 1 },
  },
  {
    finding: 'dual, one holds the stream of a site that is gone',
    a: { ...DUAL, generations: [G1, AFTER_C], streams: { 1: 5, 2: 30 } },
    b: { ...DUAL, generations: [G1, AFTER_C], streams: { 2: 30, 3: 60 }, sites: KNOWS_C },
    expected: refuse(14),
    says: /journal of b holds the stream of site c and cannot go on with that of a: empty the state directory of b/,
  },
  {
    finding: 'dual, both went on alone',
    a: { ...DUAL, generations: [G1, A2] },
    b: { ...DUAL, generations: [G1, B2] },
    expected: refuse(5),
    says: /split brain/,
  },
];

const CASES: Case[] = [
  { finding: 'formats differ', b: { format: 2 }, expected: refuse(1), says: /format 1, b format 2/ },
  { finding: 'groups are called differently', b: { group: 'h' }, expected: refuse(1), says: /calls the group g/ },
  { finding: 'one name', b: { site: { name: 'a', number: 2 } }, expected: refuse(1), says: /both sites are called a/ },
  {
    finding: 'one number',
    b: { site: { name: 'b', number: 1 } },
    expected: refuse(1),
    says: /both have site number 1, which comes from their names: start one of them, with an empty state .*--site/,
  },
  {
    finding: 'one number, and one is empty',
    b: { ...EMPTY, site: { name: 'b', number: 1 } },
    expected: refuse(1),
    says: /site number 1.*: start b with another --site/,
  },
  {
    finding: 'two primaries, one of which was promoted',
    a: { generations: [G1, A2] },
    b: { role: 'primary' },
    expected: refuse(1),
    says: /both primary, and a went on without b: start b with --role standby/,
  },
  {
    finding: 'two primaries, the other of which was promoted',
    b: { role: 'primary', generations: [G1, B2] },
    expected: refuse(1),
    says: /both primary, and b went on without a: start a with --role standby/,
  },
  {
    finding: 'two primaries that both went on alone',
    a: { generations: [G1, A2] },
    b: { role: 'primary', generations: [G1, B2] },
    expected: refuse(1),
    says: /both primary, and both went on alone: decide whose data is to stay/,
  },
  {
    // it was said that they had one number, and to change that
    finding: 'two primaries, each of which founded a group',
    b: { role: 'primary', site: { name: 'b', number: 1 }, groupId: 'other' },
    expected: refuse(1),
    says: /both primary.*--role standby/,
  },
  {
    finding: 'a standby that founded a group once',
    b: { site: { name: 'b', number: 1 }, groupId: 'other' },
    expected: refuse(1),
    says: /another one at a \(id\) than at b \(other\): empty the state directory/,
  },
  { finding: 'two primaries', b: { role: 'primary' }, expected: refuse(1), says: /both primary.*--role standby/ },
  { finding: 'two standbys', a: { role: 'standby' }, expected: refuse(1), says: /both standby.*--role primary/ },
  { finding: 'a dual site', b: { role: 'dual' }, expected: refuse(1), says: /b is dual/ },
  { finding: 'another group of the same name', b: { groupId: 'other' }, expected: refuse(1), says: /another one/ },
  { finding: 'a volume more', b: { volumes: [] }, expected: refuse(1), says: /1 volumes, b has 0/ },
  {
    finding: 'volumes of other names',
    b: { volumes: [{ number: 0, name: 'w', size: 1 << 20, blockSize: 4096 }] },
    expected: refuse(1),
    says: /volume 0 is v at a and w at b/,
  },
  {
    finding: 'volumes of other sizes',
    b: { ...EMPTY, volumes: [{ number: 0, name: 'v', size: 1 << 21, blockSize: 4096 }] },
    expected: refuse(1),
    says: /v has 1048576 bytes.*2097152/,
  },
  {
    finding: 'a standby restored to before the last meeting',
    b: { met: { 1: { last: { count: 4, id: 14 }, offered: null } } },
    expected: refuse(1),
    says: /b is a clone or was restored: a has met a newer one/,
  },
  {
    finding: 'a primary restored to before the last meeting, in the middle of one that never came about',
    a: { met: { 2: { last: { count: 2, id: 12 }, offered: { count: 3, id: 13 } } } },
    expected: refuse(1),
    says: /a is a clone or was restored: b has met a newer one/,
  },
  {
    finding: 'a clone that has met another one as often',
    b: { met: { 1: { last: { count: 5, id: 99 }, offered: null } } },
    expected: refuse(1),
    says: /is a clone/,
  },
  {
    finding: 'a copy from before the two had met',
    a: { met: { 3: { last: { count: 9, id: 19 }, offered: null } } },
    expected: refuse(1),
    says: /a is a clone or was restored: b has met a newer one/,
  },
  {
    finding: 'a standby that went down before it wrote down its first meeting',
    a: { met: { 2: { last: null, offered: { count: 1, id: 11 } } } },
    b: { met: {} },
    expected: { row: 6, action: 'replay' },
  },
  {
    finding: 'what one offered, and the other wrote down',
    a: { met: { 2: { last: { count: 4, id: 14 }, offered: { count: 5, id: 15 } } } },
    expected: { row: 6, action: 'replay' },
  },
  {
    finding: 'each has offered what the other did not write down',
    a: { met: { 2: { last: { count: 5, id: 15 }, offered: { count: 6, id: 16 } } } },
    b: { met: { 1: { last: { count: 5, id: 15 }, offered: { count: 7, id: 17 } } } },
    expected: { row: 6, action: 'replay' },
  },
  {
    finding: 'both empty',
    a: EMPTY,
    b: EMPTY,
    expected: { row: 2, action: 'replay', adopter: 2, stream: 1, source: 1, target: 2, from: 0, through: 0, epoch: 3 },
  },
  {
    finding: 'an empty standby, though one of its number was met, and the whole journal',
    b: EMPTY,
    expected: { row: 2, action: 'replay', adopter: 2, from: 0, through: 100 },
  },
  {
    finding: 'an empty standby and a journal cut short',
    a: { journalFrom: { 1: 51 } },
    b: EMPTY,
    expected: { row: 2, action: 'base', adopter: 2, from: 100, base: { volume: 0, lba: 0 } },
  },
  {
    finding: 'an empty standby and an adopted image',
    a: { imported: true },
    b: EMPTY,
    expected: { row: 2, action: 'base' },
  },
  {
    finding: 'an empty standby and a primary that was a target once',
    a: { streams: { 1: 100, 2: 7 } },
    b: EMPTY,
    expected: { row: 2, action: 'base' },
  },
  { finding: 'an empty primary', a: EMPTY, expected: refuse(2), says: /start b with --role primary/ },
  {
    finding: 'histories with nothing in common',
    b: { generations: [{ ...G1, id: 'x1' }] },
    expected: refuse(2),
    says: /no history in common/,
  },
  {
    finding: 'an unfinished base copy',
    b: { base: BASE, streams: { 1: 40 } },
    expected: { row: 3, action: 'base', from: 40, base: { volume: 0, lba: 7 }, adopter: 0 },
  },
  {
    finding: 'an unfinished base copy whose source went on alone',
    a: { generations: [G1, A2] },
    b: { base: BASE, streams: { 1: 40 } },
    expected: { row: 3, action: 'base', from: 40, adopter: 2 },
  },
  {
    finding: 'an unfinished base copy of another site',
    b: { base: { ...BASE, source: 9 } },
    expected: refuse(4),
    says: /unfinished copy of another history/,
  },
  {
    finding: 'an unfinished base copy at the primary',
    a: { base: { ...BASE, source: 2 } },
    expected: refuse(4),
    says: /the primary a holds a copy that was never finished/,
  },
  {
    finding: 'an unfinished base copy of a history that another site went on with in between',
    a: { generations: [G1, B2, next(B2, 'a3', 1, { 1: 100, 2: 0 })] },
    b: { base: BASE, streams: { 1: 40 } },
    expected: refuse(4),
  },
  {
    finding: 'an unfinished base copy whose stream is gone by one record',
    a: { journalFrom: { 1: 42 } },
    b: { base: BASE, streams: { 1: 40 } },
    expected: { row: 14, action: 'base', from: 100, base: { volume: 0, lba: 0 } },
  },
  {
    finding: 'an unfinished base copy whose stream is gone',
    a: { journalFrom: { 1: 60 } },
    b: { base: BASE, streams: { 1: 40 } },
    expected: { row: 14, action: 'base', from: 100, base: { volume: 0, lba: 0 } },
  },
  {
    finding: 'a whole base copy that is not caught up with',
    b: { base: { ...BASE, end: 80 }, streams: { 1: 60 } },
    expected: { row: 9, action: 'replay', from: 60 },
  },
  {
    finding: 'both minted',
    a: { generations: [G1, A2] },
    b: { generations: [G1, B2] },
    expected: refuse(5),
    says: /split brain: a and b both went on alone since generation g1/,
  },
  { finding: 'equal ends', expected: { row: 6, action: 'replay', from: 100, through: 100, adopter: 0 } },
  {
    finding: 'the primary lost its tail',
    a: { streams: { 1: 90 } },
    expected: { row: 7, action: 'returnTail', stream: 1, source: 2, target: 1, from: 90, through: 100 },
  },
  {
    finding: 'the primary lost its tail, which the standby got by the end of its journal',
    a: { streams: { 1: 90 } },
    b: { journalFrom: { 1: 96 } },
    expected: refuse(13),
    says: /begins at 96, its author a ends at 90/,
  },
  {
    finding: 'the primary lost its tail and served',
    a: { streams: { 1: 90 }, served: true, clean: false },
    expected: refuse(8),
    says: /a ends its own stream at 90, b has it to 100.*has served hosts since/,
  },
  {
    finding: 'a former primary lost its tail',
    a: { streams: { 1: 100, 2: 20 } },
    b: { streams: { 1: 100, 2: 10 } },
    expected: { row: 13, action: 'refuse' },
    says: /begins at 21/,
  },
  {
    finding: 'a former primary lost its tail, and the primary has it',
    a: { streams: { 1: 100, 2: 20 }, journalFrom: { 1: 1, 2: 1 } },
    b: { streams: { 1: 100, 2: 10 } },
    expected: { row: 7, action: 'returnTail', stream: 2, source: 1, target: 2, from: 10, through: 20 },
  },
  { finding: 'the standby is behind', b: { streams: { 1: 80 } }, expected: { row: 9, action: 'replay', from: 80 } },
  {
    finding: 'the standby is behind the journal',
    a: { journalFrom: { 1: 91 } },
    b: { streams: { 1: 80 } },
    expected: refuse(13),
    says: /the journal of a begins at 91, the peer b ends at 80/,
  },
  {
    finding: 'the standby is exactly at the begin of the journal',
    a: { journalFrom: { 1: 81 } },
    b: { streams: { 1: 80 } },
    expected: { row: 9, action: 'replay', from: 80 },
  },
  {
    finding: 'the standby has more of its own stream, though nobody was promoted',
    b: { streams: { 1: 100, 2: 5 } },
    expected: refuse(9),
    says: /b wrote 1 to 5.*start b with --role primary/,
  },
  {
    finding: 'the stream of a third site',
    a: { streams: { 1: 100, 3: 5 } },
    expected: refuse(14),
    says: /site 3 to 5, b to 0/,
  },
  {
    finding: 'the primary went on alone',
    a: { generations: [G1, A2], streams: { 1: 150 } },
    b: { streams: { 1: 80 } },
    expected: { row: 10, action: 'replay', adopter: 2, from: 80, through: 150 },
  },
  {
    finding: 'the primary went on alone, and the journal is gone',
    a: { generations: [G1, A2], streams: { 1: 150 }, journalFrom: { 1: 90 } },
    b: { streams: { 1: 80 } },
    expected: refuse(13),
  },
  {
    finding: 'the primary minted, then lost its tail before it served again',
    a: { generations: [G1, A2], streams: { 1: 70 } },
    b: { streams: { 1: 80 } },
    expected: { row: 10, action: 'returnTail', source: 2, target: 1, from: 70, through: 80 },
  },
  {
    finding: 'the primary minted, then lost its tail and served',
    a: { generations: [G1, A2], streams: { 1: 70 }, served: true },
    b: { streams: { 1: 80 } },
    expected: refuse(8),
  },
  {
    finding: 'the promoted site is primary, and the old primary lost its tail',
    a: { role: 'standby', streams: { 1: 90 } },
    b: { role: 'primary', generations: [G1, B2], streams: { 1: 100, 2: 50 }, journalFrom: { 1: 95 } },
    expected: refuse(13),
  },
  {
    finding: 'the promoted site is primary, and has the old primary’s lost tail',
    a: { role: 'standby', streams: { 1: 90 } },
    b: {
      role: 'primary',
      generations: [G1, B2],
      streams: { 1: 100, 2: 50 },
      journalFrom: { 1: 1, 2: 1 },
    },
    expected: { row: 10, action: 'returnTail', stream: 1, source: 2, target: 1, from: 90, through: 100 },
  },
  {
    finding: 'the promoted site is primary, and the old primary has nothing beyond',
    a: { role: 'standby', streams: { 1: 100 } },
    b: { role: 'primary', generations: [G1, B2], streams: { 1: 100, 2: 50 }, journalFrom: { 1: 1, 2: 1 } },
    expected: { row: 10, action: 'replay', stream: 2, source: 2, target: 1, from: 0, through: 50, adopter: 1 },
  },
  {
    finding: 'the promoted site came back as standby',
    b: { generations: [G1, B2], streams: { 1: 100, 2: 50 } },
    expected: refuse(10),
    says: /b went on alone.*start b with --role primary and a with --role standby/,
  },
  {
    finding: 'the standby has a tail that the primary lost and went on without',
    a: { generations: [G1, A2], streams: { 1: 150 } },
    b: { streams: { 1: 120 } },
    expected: refuse(11),
    says: /a lost the tail of its stream behind 100.*b still has it to 120/,
  },
  {
    finding: 'the old primary returns with records that the promoted one lacks',
    a: { role: 'standby', streams: { 1: 130 } },
    b: { role: 'primary', generations: [G1, B2], streams: { 1: 100, 2: 50 } },
    expected: refuse(12),
    says: /a holds records 101 to 130 of its own, which b never got.*empty the state directory of a/,
  },
  {
    // it was said to be b's own, and that a had never got it
    finding: 'a copy of a promoted site is promoted in turn, and that site holds the stream of the one before',
    a: { generations: [G1, AFTER_C, next(AFTER_C, 'a3', 1, { 2: 30 })], streams: { 1: 5, 2: 30 } },
    b: { generations: [G1, AFTER_C], streams: { 2: 30, 3: 60 }, sites: KNOWS_C },
    expected: refuse(14),
    says: /journal of b holds the stream of site c and cannot go on with that of a: empty the state directory of b/,
  },
  {
    finding: 'the same, and it has more of that stream than the copy can have',
    a: { generations: [G1, AFTER_C, next(AFTER_C, 'a3', 1, { 2: 30 })], streams: { 1: 5, 2: 30 } },
    b: { generations: [G1, AFTER_C], streams: { 2: 30, 3: 62 }, sites: KNOWS_C },
    expected: refuse(12),
    says: /b holds records 61 to 62 that site c wrote, which a never got/,
  },
  {
    // a follower takes over a generation before it has all that this began with
    finding: 'the promoted site had not got yet what the common generation began with',
    a: { generations: [G1, B2, next(B2, 'a3', 1, { 1: 100, 2: 5 })], streams: { 1: 100, 2: 5 } },
    b: { generations: [G1, { ...B2, ends: { 1: 100, 2: 10 } }], streams: { 1: 100, 2: 10 } },
    expected: refuse(12),
    says: /b holds records 6 to 10 of its own/,
  },
  {
    finding: 'the site that minted had lost some of its stream from before the common generation',
    a: { generations: [G1, B2, next(B2, 'a3', 1, { 1: 90 })], streams: { 1: 95 } },
    b: { generations: [G1, B2], streams: { 1: 100 } },
    expected: refuse(11),
    says: /a lost the tail of its stream behind 90/,
  },
  ...DUAL_CASES,
];

test.each(CASES)('row $expected.row: $finding', ({ a, b, expected, says }) => {
  const mine = site('a', a);
  const theirs = site('b', b);
  const decision = decide(mine, theirs);
  expect(decision).toMatchObject(expected);
  expect(decide(theirs, mine)).toEqual(decision);
  if (says !== undefined) expect(decision.reason).toMatch(says);
  if (decision.action === 'refuse') expect(decision.reason.length).toBeGreaterThan(20);
  else expect(decision.code).toBeNull();
});

test('a dual site that was emptied is who the other one knows by its name', () => {
  const empty = site('a', { ...EMPTY, role: 'dual', site: { name: 'a', number: 77 } });
  const other = site('b', { ...DUAL, sites: [{ name: 'a', number: 1 }] });
  expect(recognise(empty, other).site.number).toBe(1);
  expect(recognise(other, empty)).toBe(other);
  expect(recognise(empty, site('b', DUAL)).site.number).toBe(77);
});

test('an emptied standby gets back its number, where both sites know of that', () => {
  const named = { name: 'a', number: 77 };
  const empty = site('a', { ...EMPTY, role: 'standby', site: named, peers: [77] });
  const other = site('b', { role: 'primary', sites: [{ name: 'a', number: 1 }], peers: [2] });
  expect(recognise(empty, other).site.number).toBe(1);
  expect(recognise(empty, { ...other, peers: [] }).site.number).toBe(77);
  expect(recognise({ ...empty, peers: [] }, other).site.number).toBe(77);
  expect(recognise({ ...empty, generations: [G1] }, other).site.number).toBe(77);
  expect(recognise({ ...empty, role: 'primary' }, other).site.number).toBe(77);
});

test('every row of the table is reached', () => {
  const rows = new Set(CASES.map(({ a, b }) => decide(site('a', a), site('b', b)).row));
  expect([...rows].sort((x, y) => x - y)).toEqual(Array.from({ length: ROW_COUNT }, (_, index) => index + 1));
});
