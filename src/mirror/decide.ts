/**
 * What two sites do when they meet: one table, one function, the same answer at both ends.
 *
 * G is the newest generation that both histories have. A site *minted* if its history goes on after G. The end of a
 * stream *within G* at a site that minted is what its first generation after G says; else it is the stream's end now.
 * The first row that matches counts.
 *
 *     row  finding                                              then
 *     1    ids, names, sizes or formats do not fit, the roles   refuse
 *          are neither one primary and one standby nor dual
 *          at both (with one --when-split, which is then agreed on), a clone, a state
 *          older than the one that the peer has met
 *     2    no common generation                                 both empty: adopt (dual: one of them founds the group
 *                                                               first); only the standby empty: its tail is the whole
 *                                                               journal, or a base copy (dual, and it was there before:
 *                                                               the other mints a generation first); else refuse
 *     3    base copy unfinished, its source's history the same  resume it
 *          or gone on by minting alone
 *     4    base copy unfinished, its source another             refuse
 *     5    both minted                                          refuse: split brain
 *     6    none minted, ends equal                              in sync
 *     7    none minted, the peer has more of an author's        the peer returns the tail; then decide again
 *          stream, and the author has served no one since
 *     8    the same, but the author has served                  refuse: cannot happen
 *     9    none minted, the author has more of its own          primary: tail replay; standby: refuse; log gone: 13
 *     10   only X minted, Y has nothing beyond X's cut          X primary: Y adopts, tail replay; else refuse;
 *                                                               a lost tail is returned first, as in 7; log gone: 13
 *     11   only X minted, Y's excess is only X's own lost tail  refuse
 *     12   only X minted, Y has records of its own X lacks      refuse
 *     13   order gone, base cut known                           refuse
 *     14   otherwise (a target that holds a third site's stream an unfinished base copy whose stream is gone, or a
 *          too: its journal has room for one beside its own)    standby adopted but never begun: begin it anew; else
 *                                                               refuse
 *
 * Where both sites write (dual) there is a stream each way, and a decision is about both: "primary" below is then the
 * site that a first copy comes from, or the first by name. Rows 7 and 9 hold for each author alike.
 *
 * A site that was emptied, dual or a standby, goes on with its stream behind what the other one has of it. Where both
 * write, the other mints a generation for that, and a standby mints one when it is promoted: what was lost with its disk
 * had the same sequences, and was of a generation before.
 *
 * Refusals name both sites and say what a person can do. Rows 4, 11, 12 and 13 refuse where a pinned base image, named
 * points and change rings are needed.
 */
import type { ErrorCode } from '../errors.js';
import type { BasePosition } from './base.js';

export type Role = 'primary' | 'standby' | 'dual';

export interface VolumeState {
  number: number;
  name: string;
  /** Bytes. */
  size: number;
  blockSize: number;
}

/** One entry of a group's history; oldest first in `SiteState.generations`. */
export interface Generation {
  /** As in records: counts along the history. */
  ordinal: number;
  /** Random, never used again. */
  id: string;
  /** Id of the generation it follows; null for a group's first. */
  parent: string | null;
  /** Site number. */
  minter: number;
  /** Ends of the streams, by site number, at the minting site at that moment: what was before belongs to the parent. */
  ends: Record<string, number>;
}

/** A base copy that this site, its target, is not done with. */
export interface BaseState {
  /** Site number. */
  source: number;
  /** Id of the source's newest generation when the copy began. */
  generation: string;
  /** The stream goes on behind this sequence once the copy is whole. */
  start: number;
  /** Verified here, and not necessarily durable yet: everything before it. */
  next: BasePosition;
  /** Null until the copy is whole; then the image is consistent once this sequence is applied. */
  end: number | null;
}

/** Two sites that go on with each other, as both write it down: after that, neither is to be as it was before. */
export interface Meeting {
  /** Of the meetings of the two. */
  count: number;
  /** Random. */
  id: number;
}

/**
 * What a site knows of its meetings with a peer. A source writes down what it offers before it says START, a target
 * before it says READY, and then the source knows of it. So of any two sites that go on from their last meeting one has
 * in `last` what the other has in `last` or in `offered`; the same offer stands until it is taken.
 */
export interface Met {
  last: Meeting | null;
  offered: Meeting | null;
}

/** What a site says of itself when a link opens (HELLO). */
export interface SiteState {
  /** RECORD_FORMAT. */
  format: number;
  group: string;
  /** Null while the site is empty: it has no history yet. */
  groupId: string | null;
  site: { name: string; number: number };
  role: Role;
  /** Dual: `freeze`, or `prefer:` and the name of the site that may go on alone. */
  whenSplit: string;
  /** By site number of a peer. */
  met: Record<string, Met>;
  /** The sites of the group, as far as they are known here. */
  sites: { name: string; number: number }[];
  /**
   * Dual: numbers of the sites that may have state of the group as it is since the newest generation. And at any site its
   * own: it knows that an emptied standby gets back the number that it had. The first to speak this format did not.
   */
  peers: number[];
  volumes: VolumeState[];
  generations: Generation[];
  /** By site number of the author: last sequence here; durable, or synced before this is said. */
  streams: Record<string, number>;
  /**
   * By site number of the author: first sequence that this journal keeps for a peer. Of the site's own stream that is
   * SourceStream.trimmed + 1, though more may still lie on disk: a source does not go back behind `trimmed`.
   */
  journalFrom: Record<string, number>;
  /** The image has blocks that no stream wrote: it was adopted, or came by a base copy. The streams alone do not make it. */
  imported: boolean;
  base: BaseState | null;
  /** Epoch of the last link; a new one begins above both sites'. */
  epoch: number;
  /** Has answered a host since it was opened. */
  served: boolean;
  /** The last stop was clean. */
  clean: boolean;
}

export interface Decision {
  /** 1..14. */
  row: number;
  /**
   * replay      stream `stream` goes on at `source` behind `from`, to `target`; nothing may be missing yet (in sync)
   * base        base copy from `base` on, then the stream behind `from`
   * returnTail  `source` gives back (from, through] of the target's own stream; then both say HELLO again
   * found       `source` founds the group, and both say HELLO again (dual, both empty)
   * renew       `source` settles what it has and mints a generation, and both say HELLO again (dual, the target emptied)
   * refuse      both say REFUSE with `code` and `reason`
   */
  action: 'replay' | 'base' | 'returnTail' | 'found' | 'renew' | 'refuse';
  epoch: number;
  /** Site numbers: whose stream, who sends, who receives. */
  stream: number;
  source: number;
  target: number;
  /** Last sequence that the target has and keeps. */
  from: number;
  /** Last sequence that the source said it has. */
  through: number;
  base: BasePosition | null;
  /** Dual: last sequence of the target's own stream that the source has; null where one site writes. */
  back: number | null;
  /** Number of the site that takes over the other's group id and history, durably, before it answers READY; or 0. */
  adopter: number;
  code: ErrorCode | null;
  reason: string;
}

/** How many rows the table has. */
export const ROW_COUNT = 14;

const KEEP_AND_REPORT =
  'this should not happen: stop both sites, keep their state directories and report it; then empty the state directory of the one whose data is to go';

/** Both ends call this with the same two states (each with its own first) and get the same answer. */
export function decide(mine: SiteState, theirs: SiteState): Decision {
  const mineFirst = standsFirst(mine, theirs);
  const p = mineFirst ? mine : theirs; // the primary
  const s = mineFirst ? theirs : mine; // the standby
  const pn = p.site.number;
  const sn = s.site.number;
  const [a, b] = [p.site.name, s.site.name];

  // 1: do the two belong together?
  const misfit = findMisfit(p, s);
  if (misfit !== null) return refuse(p, s, 1, misfit);

  // 2: no common generation
  const pEmpty = p.generations.length === 0;
  const sEmpty = s.generations.length === 0;
  const dual = p.role === 'dual';
  if (pEmpty && sEmpty && dual) return found(p, s);
  if (pEmpty && sEmpty) return replay(p, s, 2, sn);
  if (sEmpty && p.base !== null) {
    return refuse(
      p,
      s,
      2,
      `${a} holds a copy that was never finished and no consistent image, and ${b}, where it came from, is empty: start ${b} with the state directory that it had, or empty that of ${a}, too`,
    );
  }
  if (sEmpty && dual && p.peers.includes(sn)) return { ...outline(p, s, 2), action: 'renew' };
  if (sEmpty) {
    const whole = Object.keys(p.streams).every((author) => Number(author) === pn || end(p, Number(author)) === 0);
    if (whole && !p.imported && journalFrom(p, pn) <= 1) return replay(p, s, 2, sn);
    return baseCopy(p, s, 2, end(p, pn), { volume: 0, lba: 0 }, sn);
  }
  if (pEmpty) {
    return refuse(
      p,
      s,
      2,
      `the primary ${a} is empty, the standby ${b} holds data: start ${b} with --role primary and ${a} with --role standby`,
    );
  }
  const common = newestCommon(p, s);
  if (common === null) {
    return refuse(
      p,
      s,
      2,
      `${a} and ${b} both hold data and have no history in common: empty the state directory of the one whose data is to go, and start it again`,
    );
  }
  const pMinted = p.generations[common.p + 1] ?? null;
  const sMinted = s.generations[common.s + 1] ?? null;

  // 3, 4: unfinished base copy
  if (p.base !== null) {
    return refuse(
      p,
      s,
      4,
      `the primary ${a} holds a copy that was never finished and no consistent image: start ${b} with --role primary and ${a} with --role standby`,
    );
  }
  if (s.base !== null && s.base.end === null) {
    const { base } = s;
    const at = p.generations.findIndex((generation) => generation.id === base.generation);
    const same = at >= 0 && p.generations.slice(at + 1).every((generation) => generation.minter === pn);
    if (base.source !== pn || !same || sMinted !== null) {
      return refuse(
        p,
        s,
        4,
        `${b} holds an unfinished copy of another history than ${a}'s: empty the state directory of ${b}, and start it again`,
      );
    }
    const adopt = pMinted !== null ? sn : 0;
    if (journalFrom(p, pn) <= base.start + 1) return baseCopy(p, s, 3, base.start, base.next, adopt);
    return baseCopy(p, s, 14, end(p, pn), { volume: 0, lba: 0 }, adopt);
  }

  // 5: both minted
  if (pMinted !== null && sMinted !== null) {
    return refuse(
      p,
      s,
      5,
      `split brain: ${a} and ${b} both went on alone since generation ${common.id}: decide whose data is to stay, empty the state directory of the other, and start it ${dual ? 'again' : 'as standby'}`,
    );
  }

  // who has the newest common generation, be it by a first copy, has what it began with of every stream but the primary's
  const begun = p.generations[common.p]!.ends;
  const held = (site: SiteState, author: number): number =>
    author === pn ? end(site, author) : Math.max(end(site, author), begun[author] ?? 0);

  if (pMinted === null && sMinted === null) {
    // 7, 8: an author lost the tail of its own stream
    for (const [author, peer] of [
      [p, s],
      [s, p],
    ]) {
      const number = author.site.number;
      if (held(peer, number) <= held(author, number)) continue;
      if (author.served) {
        return refuse(p, s, 8, `${lostTail(author, peer)}, but has served hosts since: ${KEEP_AND_REPORT}`);
      }
      return returnTail(peer, author, 7, p, s);
    }
    // 9: an author has more of its own stream
    if (!dual && held(s, sn) > held(p, sn)) {
      return refuse(
        p,
        s,
        9,
        `${b} wrote ${end(p, sn) + 1} to ${end(s, sn)} of its own stream, which ${a} lacks: start ${b} with --role primary and ${a} with --role standby`,
      );
    }
    const writing = dual ? [pn, sn] : [pn];
    const foreign = authors(p, s).find((author) => !writing.includes(author) && held(p, author) !== held(s, author));
    if (foreign !== undefined) {
      return refuse(
        p,
        s,
        14,
        `${a} has the stream of ${authorName(p, s, foreign)} to ${end(p, foreign)}, ${b} to ${end(s, foreign)}: empty the state directory of ${b}, and start it again`,
      );
    }
    const third = holdsThird(p, s);
    if (third !== null) return third;
    if (writing.some((author) => end(p, author) !== end(s, author))) return logGone(p, s) ?? replay(p, s, 9, 0);
    // 6: nothing is missing anywhere
    return replay(p, s, 6, 0);
  }

  // 10, 11, 12: only X minted
  const [x, y] = pMinted !== null ? [p, s] : [s, p];
  const cut = (pMinted ?? sMinted)!.ends;
  const [xName, yName] = [x.site.name, y.site.name];
  // X's cut is of the two streams that it has. What the common generation began with of any other, it has in its image;
  // but not of these two: it may have lost some in a crash since, or not have got it yet
  const isThird = (author: number): boolean => author !== pn && author !== sn;
  const cutOf = (author: number): number => Math.max(cut[author] ?? 0, isThird(author) ? (begun[author] ?? 0) : 0);
  const excess = authors(p, s).filter((author) => end(y, author) > cutOf(author));
  if (excess.length === 0) {
    if (x !== p && !dual) {
      return refuse(
        p,
        s,
        10,
        `${xName} went on alone since generation ${common.id} and holds the newer data: start ${xName} with --role primary and ${yName} with --role standby`,
      );
    }
    const [xn, yn] = [x.site.number, y.site.number];
    if (end(y, xn) > end(x, xn)) {
      if (!x.served) return returnTail(y, x, 10, p, s);
      return refuse(p, s, 8, `${lostTail(x, y)}, but has served hosts since: ${KEEP_AND_REPORT}`);
    }
    if (held(x, yn) > held(y, yn)) return returnTail(x, y, 10, p, s);
    return holdsThird(p, s) ?? logGone(p, s) ?? replay(p, s, 10, yn);
  }
  if (excess.every((author) => author === x.site.number)) {
    return refuse(
      p,
      s,
      11,
      `${xName} lost the tail of its stream behind ${cut[x.site.number] ?? 0} in a crash and went on without it, ${yName} still has it to ${end(y, x.site.number)}: empty the state directory of ${yName}, and start it again`,
    );
  }
  const author = excess.find((number) => number !== x.site.number)!;
  return refuse(
    p,
    s,
    12,
    `${yName} holds records ${cutOf(author) + 1} to ${end(y, author)} ${author === y.site.number ? 'of its own' : `that ${authorName(p, s, author)} wrote`}, which ${xName} never got before it went on alone: to stay with ${xName}'s data, empty the state directory of ${yName} and start it ${dual ? 'again' : 'as standby'}; to stay with ${yName}'s, do so with ${xName}`,
  );
}

/**
 * A site that is empty does not know any more what number it had; the other one remembers it by its name. Under another
 * number a standby would begin a stream that the other's journal, which goes on from the old one, could never take.
 */
export function recognise(site: SiteState, by: SiteState): SiteState {
  const known = by.sites.find(({ name }) => name === site.site.name);
  if (known === undefined || site.role === 'primary' || site.generations.length > 0) return site;
  const bothDo = [site, by].every(({ peers, site }) => peers.includes(site.number));
  return site.role === 'dual' || bothDo ? { ...site, site: known } : site;
}

/** Row 1: why the two cannot be a pair, or null. */
function findMisfit(p: SiteState, s: SiteState): string | null {
  const [a, b] = [p.site.name, s.site.name];
  if (p.format !== s.format) {
    return `${a} speaks format ${p.format}, ${b} format ${s.format}: run the same version at both sites`;
  }
  if (p.group !== s.group)
    return `${a} calls the group ${p.group}, ${b} calls it ${s.group}: correct one configuration`;
  if (a === b) return `both sites are called ${a}: give one another name`;
  if (p.role !== s.role && (p.role === 'dual' || s.role === 'dual')) {
    return `${p.role === 'dual' ? a : b} is dual, ${p.role === 'dual' ? b : a} is not: start both with --role dual, or one as primary and one as standby`;
  }
  if (p.role === 'dual' && p.whenSplit !== s.whenSplit) {
    return `${a} has --when-split ${p.whenSplit}, ${b} has --when-split ${s.whenSplit}: give both the same; until the two have met with it, nobody goes on alone by it`;
  }
  if (p.role === 'dual' && p.whenSplit.startsWith('only:')) {
    return `${a} and ${b} have --when-split ${p.whenSplit}, by which the other site is gone for good: give both prefer:SITE or freeze`;
  }
  if (p.role === 'dual' && !['freeze', `prefer:${a}`, `prefer:${b}`].includes(p.whenSplit)) {
    return `--when-split ${p.whenSplit} names neither ${a} nor ${b}: correct both configurations`;
  }
  if (p.role === s.role && p.role !== 'dual') {
    const both = `${a} and ${b} are both ${p.role}`;
    if (p.role === 'standby') return `${both}: start one of them with --role primary`;
    const parting = findParting(p, s);
    if (parting === null) return `${both}: start one of them with --role standby`;
    if (parting === 'both')
      return `${both}, and both went on alone: decide whose data is to stay, and start the other one with --role standby`;
    const [older, newer] = parting === 'first' ? [b, a] : [a, b];
    return `${both}, and ${newer} went on without ${older}: start ${older} with --role standby`;
  }
  if (p.groupId !== null && s.groupId !== null && p.groupId !== s.groupId) {
    return `group ${p.group} is another one at ${a} (${p.groupId}) than at ${b} (${s.groupId}): empty the state directory of the one whose data is to go`;
  }
  if (p.site.number === s.site.number) {
    // who joins a group has a number from its name, of which there are 254
    const empty = [p, s].find(({ generations }) => generations.length === 0);
    const next = `start ${empty?.site.name ?? 'one of them, with an empty state directory,'} with another --site`;
    return `${a} and ${b} both have site number ${p.site.number}, which comes from their names: ${next}`;
  }
  const volumes = findVolumeMisfit(p, s);
  if (volumes !== null) return volumes;
  const ofP = meetings(p, s);
  const ofS = meetings(s, p);
  if (ofP === null || ofS === null || ofP.some((one) => ofS.some((other) => one.id === other.id))) return null;
  const newest = (each: Meeting[]): number => Math.max(...each.map(({ count }) => count));
  const [older, newer] = newest(ofP) < newest(ofS) ? [a, b] : [b, a];
  return `the state of ${older} is a clone or was restored: ${newer} has met a newer one: use the real one, or empty it`;
}

/** Which meeting with that peer may be the last; null at an empty site, which cannot be a copy of anything. */
function meetings(site: SiteState, peer: SiteState): Meeting[] | null {
  if (site.generations.length === 0) return null;
  const { last, offered } = site.met[peer.site.number] ?? { last: null, offered: null };
  const never = { count: 0, id: 0 };
  return offered === null ? [last ?? never] : [last ?? never, offered];
}

function findVolumeMisfit(p: SiteState, s: SiteState): string | null {
  const [a, b] = [p.site.name, s.site.name];
  if (s.generations.length === 0) {
    // an empty standby takes over the primary's volumes; what it was told of them must not contradict (size 0: not told)
    for (const told of s.volumes) {
      const volume = p.volumes.find((each) => each.name === told.name);
      if (volume === undefined)
        return `${b} was told of volume ${told.name}, which ${a} does not have: correct one configuration`;
      if (told.size !== 0 && told.size !== volume.size) {
        return `volume ${told.name} has ${volume.size} bytes at ${a}, ${told.size} at ${b}: make them equal`;
      }
    }
    return null;
  }
  if (p.volumes.length !== s.volumes.length) {
    return `${a} has ${p.volumes.length} volumes, ${b} has ${s.volumes.length}: correct one configuration`;
  }
  for (const volume of p.volumes) {
    const other = s.volumes.find((each) => each.number === volume.number);
    if (other === undefined || other.name !== volume.name) {
      return `volume ${volume.number} is ${volume.name} at ${a} and ${other?.name ?? 'missing'} at ${b}: correct one configuration`;
    }
    if (other.size !== volume.size || other.blockSize !== volume.blockSize) {
      return `volume ${volume.name} has ${volume.size} bytes in blocks of ${volume.blockSize} at ${a}, ${other.size} in blocks of ${other.blockSize} at ${b}: make them equal`;
    }
  }
  return null;
}

/** Row 14: who is to take a stream holds a third site's; null if none does. */
function holdsThird(p: SiteState, s: SiteState): Decision | null {
  for (const [reader, author] of p.role === 'dual'
    ? [
        [s, p],
        [p, s],
      ]
    : [[s, p]]) {
    const third = Object.keys(reader.streams)
      .map(Number)
      .find((number) => number !== p.site.number && number !== s.site.number && end(reader, number) > 0);
    if (third === undefined) continue;
    return refuse(
      p,
      s,
      14,
      `the journal of ${reader.site.name} holds the stream of ${authorName(p, s, third)} and cannot go on with that of ${author.site.name}: empty the state directory of ${reader.site.name}, and start it again for a full copy`,
    );
  }
  return null;
}

/** Row 13: a journal no longer has what the other site needs next; null if both have. */
function logGone(p: SiteState, s: SiteState): Decision | null {
  for (const [author, reader] of p.role === 'dual'
    ? [
        [p, s],
        [s, p],
      ]
    : [[p, s]]) {
    const number = author.site.number;
    const needed = end(reader, number);
    if (needed >= end(author, number) || journalFrom(author, number) <= needed + 1) continue;
    if (author === p && s.base === null && authors(s, s).every((each) => end(s, each) === 0)) {
      // adopted, and cut off before the first record: there is nothing here that a copy could spoil
      return baseCopy(p, s, 14, end(p, number), { volume: 0, lba: 0 }, s.site.number);
    }
    return refuseGone(p, s, author, reader);
  }
  return null;
}

function refuseGone(p: SiteState, s: SiteState, author: SiteState, reader: SiteState): Decision {
  const number = author.site.number;
  return refuse(
    p,
    s,
    13,
    `the journal of ${author.site.name} begins at ${journalFrom(author, number)}, the peer ${reader.site.name} ends at ${end(reader, number)}: empty the state directory of ${reader.site.name}, and start it again for a full copy`,
  );
}

function found(p: SiteState, s: SiteState): Decision {
  return { ...outline(p, s, 2), action: 'found' };
}

function replay(p: SiteState, s: SiteState, row: number, adopter: number): Decision {
  const stream = p.site.number;
  return { ...both(p, s, row), action: 'replay', stream, from: end(s, stream), through: end(p, stream), adopter };
}

function baseCopy(
  p: SiteState,
  s: SiteState,
  row: number,
  start: number,
  next: BasePosition,
  adopter: number,
): Decision {
  const stream = p.site.number;
  const base = { volume: next.volume, lba: next.lba };
  return { ...both(p, s, row), action: 'base', stream, from: start, through: end(p, stream), base, adopter };
}

/** With the stream the other way, where both write. */
function both(p: SiteState, s: SiteState, row: number): Decision {
  const sn = s.site.number;
  return { ...outline(p, s, row), back: p.role === 'dual' ? end(p, sn) : null };
}

function returnTail(holder: SiteState, author: SiteState, row: number, p: SiteState, s: SiteState): Decision {
  const stream = author.site.number;
  const gone = journalFrom(holder, stream) > end(author, stream) + 1;
  if (gone) {
    return refuse(
      p,
      s,
      13,
      `the journal of ${holder.site.name} begins at ${journalFrom(holder, stream)}, its author ${author.site.name} ends at ${end(author, stream)}: the tail cannot be returned; start ${holder.site.name} with --role primary`,
    );
  }
  // where both write, what the records had seen of the holder's stream goes in front of them, and the rest of it behind
  const own = holder.site.number;
  if (p.role === 'dual' && end(author, own) < end(holder, own) && journalFrom(holder, own) > end(author, own) + 1)
    return refuseGone(p, s, holder, author);
  return {
    ...outline(holder, author, row),
    action: 'returnTail',
    stream,
    from: end(author, stream),
    through: end(holder, stream),
  };
}

function refuse(p: SiteState, s: SiteState, row: number, reason: string): Decision {
  return { ...outline(p, s, row), action: 'refuse', code: 'PEER_REFUSED', reason };
}

function outline(source: SiteState, target: SiteState, row: number): Decision {
  return {
    row,
    action: 'refuse',
    epoch: Math.max(source.epoch, target.epoch) + 1,
    stream: 0,
    source: source.site.number,
    target: target.site.number,
    from: 0,
    through: 0,
    base: null,
    back: null,
    adopter: 0,
    code: null,
    reason: '',
  };
}

function lostTail(author: SiteState, peer: SiteState): string {
  const number = author.site.number;
  return `${author.site.name} ends its own stream at ${end(author, number)}, ${peer.site.name} has it to ${end(peer, number)}: ${author.site.name} lost its tail`;
}

/** Which of two sites went on without the other, by minting after the newest generation that both have; null: none did. */
export function findParting(first: SiteState, second: SiteState): 'first' | 'second' | 'both' | null {
  const common = newestCommon(first, second);
  if (common === null) return null;
  const [a, b] = [common.p < first.generations.length - 1, common.s < second.generations.length - 1];
  if (a && b) return 'both';
  return a ? 'first' : b ? 'second' : null;
}

function newestCommon(p: SiteState, s: SiteState): { id: string; p: number; s: number } | null {
  for (let index = p.generations.length - 1; index >= 0; index -= 1) {
    const { id } = p.generations[index];
    const other = s.generations.findIndex((generation) => generation.id === id);
    if (other >= 0) return { id, p: index, s: other };
  }
  return null;
}

function end(site: SiteState, author: number): number {
  return site.streams[author] ?? 0;
}

function journalFrom(site: SiteState, author: number): number {
  return site.journalFrom[author] ?? end(site, author) + 1;
}

function authorName(p: SiteState, s: SiteState, author: number): string {
  const known = [p.site, s.site, ...p.sites, ...s.sites].find(({ number }) => number === author);
  return known === undefined ? `site ${author}` : `site ${known.name}`;
}

function authors(p: SiteState, s: SiteState): number[] {
  return [...new Set([...Object.keys(p.streams), ...Object.keys(s.streams)])].map(Number);
}

/** Is the first of these the one that the table calls primary? Of two that are dual: who has data, be it to give a copy of it. */
function standsFirst(mine: SiteState, theirs: SiteState): boolean {
  if (mine.role !== theirs.role) return mine.role === 'primary' || theirs.role === 'dual';
  if (mine.role === 'dual') {
    for (const has of [
      (site: SiteState) => site.generations.length > 0,
      (site: SiteState) => site.base === null,
      (site: SiteState) => Object.values(site.streams).some((end) => end > 0),
      (site: SiteState) => site.volumes.length > 0,
    ]) {
      if (has(mine) !== has(theirs)) return has(mine);
    }
  }
  return compareSites(mine, theirs) <= 0;
}

/** Any order will do that both ends agree on. */
function compareSites(a: SiteState, b: SiteState): number {
  if (a.site.name !== b.site.name) return a.site.name < b.site.name ? -1 : 1;
  if (a.site.number !== b.site.number) return a.site.number - b.site.number;
  const [left, right] = [JSON.stringify(a), JSON.stringify(b)];
  return left === right ? 0 : left < right ? -1 : 1;
}
