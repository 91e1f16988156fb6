/** What an empty standby writes down of the group that it meets. */
import { expect, test } from 'vitest';
import { NO_RECORD_KEY } from '../../src/journal/superblock.js';
import { BLOCK_SIZE_MAX, MEETINGS_MAX, RING_SIZE_MAX, VOLUME_SIZE_MAX } from '../../src/limits.js';
import type { SiteState } from '../../src/mirror/decide.js';
import { historyOf, newSuperblock, offerMeeting, openState } from '../../src/volume/group-state.js';

const CONFIG = { group: 'g', site: 'b', role: 'standby', volumes: [] } as const;
const ADOPT = {
  number: 2,
  ownThrough: 0,
  groupId: 'id',
  recordKey: '0123456789abcdef',
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

test('the record key is taken over from the peer, and none from one that has none; a new group has its own', () => {
  expect(newSuperblock(CONFIG, [GOOD], ADOPT).recordKey).toBe(ADOPT.recordKey);
  expect(historyOf(newSuperblock(CONFIG, [GOOD], ADOPT)).recordKey).toBe(ADOPT.recordKey);
  const none = newSuperblock(CONFIG, [GOOD], { ...ADOPT, recordKey: NO_RECORD_KEY });
  expect('recordKey' in historyOf(none)).toBe(false); // a peer of an older version refuses what it does not know
  const [one, other] = [newSuperblock(CONFIG, [GOOD], null), newSuperblock(CONFIG, [GOOD], null)];
  expect(new Set([one.recordKey, other.recordKey, NO_RECORD_KEY]).size).toBe(3);
});

test('a meeting is offered that the peer can be told, whatever it says of earlier ones', () => {
  const superblock = newSuperblock(CONFIG, [GOOD], ADOPT);
  const offered = { count: MEETINGS_MAX, id: 7 };
  const theirs = { site: ADOPT.peer, met: { [superblock.site.number]: { last: null, offered } } };
  expect(offerMeeting(superblock, theirs as unknown as SiteState).count).toBe(MEETINGS_MAX);
});

test('volumes that are too much for one group are refused, with what to do', async () => {
  // Each was good, and the memory for the locks of all of them was not to be had: an assertion, once they were written down.
  const many = (count: number) =>
    Array.from({ length: count }, (_, i) => ({ ...GOOD, number: i + 1, name: `v${i}`, size: VOLUME_SIZE_MAX }));
  for (const [adopt, code] of [
    [ADOPT, 'PEER_REFUSED'],
    [null, 'CONFIG'],
  ] as const) {
    const config = { ...CONFIG, ringSize: RING_SIZE_MAX };
    expect(newSuperblock(config, many(90), adopt).volumes).toHaveLength(90);
    expect(() => newSuperblock(config, many(100), adopt)).toThrow(
      expect.objectContaining({ code, message: expect.stringMatching(/another group, or choose a smaller --ring/) }),
    );
    expect(newSuperblock(CONFIG, many(100), adopt).volumes).toHaveLength(100);
    expect(() => newSuperblock(CONFIG, many(130), adopt)).toThrow(expect.objectContaining({ code }));
    // and at a later start, with a larger ring
    const opened = openState(config, null as never, newSuperblock(CONFIG, many(100), adopt), {} as never);
    await expect(opened).rejects.toMatchObject({ code: 'CONFIG' });
  }
});
