/** What an empty standby writes down of the group that it meets. */
import { expect, test } from 'vitest';
import { BLOCK_SIZE_MAX, MEETINGS_MAX, VOLUME_SIZE_MAX } from '../../src/limits.js';
import type { SiteState } from '../../src/mirror/decide.js';
import { newSuperblock, offerMeeting } from '../../src/volume/group-state.js';

const CONFIG = { group: 'g', site: 'b', role: 'standby', volumes: [] } as const;
const ADOPT = {
  number: 2,
  ownThrough: 0,
  groupId: 'id',
  generations: [{ ordinal: 1, id: 'g1', parent: null, minter: 1, ends: {} }],
  peer: { number: 1, name: 'a' },
  inconsistent: null,
  meeting: { count: 1, id: 11 },
};
const GOOD = { number: 1, name: 'v', size: 1 << 20, blockSize: 4096 };

test('a standby does not adopt volumes that no site can have', () => {
  // What the peer said was taken over and saved, and only then stopped by an assertion: the standby could not be opened
  // again until somebody emptied its state directory.
  expect(newSuperblock(CONFIG, [GOOD, { ...GOOD, number: 2, name: 'w' }], ADOPT).volumes).toHaveLength(2);
  for (const bad of [
    [{ ...GOOD, blockSize: 3000, size: 3000 }],
    [{ ...GOOD, blockSize: 256 }],
    [{ ...GOOD, blockSize: 2 * BLOCK_SIZE_MAX }],
    [{ ...GOOD, size: 0 }],
    [{ ...GOOD, size: 4097 }],
    [{ ...GOOD, size: 2 * VOLUME_SIZE_MAX }],
    [{ ...GOOD, number: 0 }],
    [GOOD, { ...GOOD, name: 'w' }],
    [GOOD, { ...GOOD, number: 2 }],
  ]) {
    expect(() => newSuperblock(CONFIG, bad, ADOPT)).toThrow(expect.objectContaining({ code: 'PEER_REFUSED' }));
    expect(() => newSuperblock(CONFIG, bad, null)).toThrow(expect.objectContaining({ code: 'CONFIG' }));
  }
});

test('a meeting is offered that the peer can be told, whatever it says of earlier ones', () => {
  const superblock = newSuperblock(CONFIG, [GOOD], ADOPT);
  const offered = { count: MEETINGS_MAX, id: 7 };
  const theirs = { site: ADOPT.peer, met: { [superblock.site.number]: { last: null, offered } } };
  expect(offerMeeting(superblock, theirs as unknown as SiteState).count).toBe(MEETINGS_MAX);
});
