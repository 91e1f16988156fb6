/**
 * A group and its peer: what happens when a link comes up.
 *
 *     HELLO both ways (link/) -> decide (mirror/decide.ts, the same answer at both ends)
 *       refuse      both close, naming the reason
 *       replay      source: START -> target: READY -> the stream goes on
 *       base        the same, with the first copy in front
 *       returnTail  the peer sends back what the author lost; the author syncs it, and both begin again
 *       found       two empty sites, both to write: one founds the group, and both begin again
 *       renew       one of two that both write was emptied: the other settles what it has, mints a generation, and both
 *                   begin again, with a first copy
 *
 * Where both sites write (dual) each of them says START for its own stream and READY for the other's, in any order, and
 * hosts are served while both streams run.
 *
 * It also holds the one decision that needs time: after an unclean stop a source serves nobody until its peer was
 * asked for the lost tail, or LOST_TAIL_WAIT_MS have passed. Then it is ready to go on alone, and does so for the first
 * request: it mints a generation, durably, before anything is appended or answered.
 *
 *     waiting --peer returns the tail, or has none--> serving
 *     waiting --LOST_TAIL_WAIT_MS--> ready --request--> minting --durable--> serving
 *     ready   --peer returns the tail, or has none--> serving
 *
 * While a link is up the peer may be about to answer, and the request waits: for LOST_TAIL_WAIT_MS from when it was first
 * held up, or from the last piece of the tail that came. Then the link is closed, as the peer does not get on, and the
 * generation is minted. A new link does not begin the wait anew.
 *
 * Why it is minted so late: from then on the lost tail contradicts what this site may have told somebody, and only a
 * person can let go of it (row 11 of mirror/decide.ts). Until then nobody was told anything, not even by a read, and
 * no sequence was used a second time: however often this site crashes, the tail can still come back. What is left is a
 * crash between the save and the answers to requests that wait for it: whether they were answered cannot be known.
 *
 * Where both sites write, nobody is served from the loss of a link on (or a start) until both streams run again. Under
 * `prefer` the preferred site alone is, in the same way: SPLIT_WAIT_MS later it is ready, and mints for the first request.
 * By then the other must have stopped, even if it stood still (SIGSTOP, a machine that swapped) and has not noticed yet
 * that the link is gone: it serves on a lease, which is looked at whenever something is to be read or appended.
 *
 *     serving --link or lease lost--> frozen --both streams run--> serving
 *                                     frozen --SPLIT_WAIT_MS--> ready --request--> minting --durable--> alone
 *     alone --both streams run--> serving
 *
 * Who has not served since it was opened mints at its recovered end first, and then ends its scopes: what it appends may
 * not stand under the sequences of a lost tail that the other site still has.
 */
import { RECORD_FORMAT, TYPE_BASE } from '../../assembly/layout.js';
import { assert } from '../assert.js';
import { type ErrorCode, ForelockError } from '../errors.js';
import { RecordHeader } from '../journal/record.js';
import { StreamReader } from '../journal/stream-reader.js';
import type { Superblock } from '../journal/superblock.js';
import {
  BLOCK_SIZE_DEFAULT,
  FRAME_SIZE_MAX,
  LINK_BUFFER_MAX,
  LOST_TAIL_WAIT_MS,
  SPLIT_LEASE_MS,
  SPLIT_WAIT_MS,
} from '../limits.js';
import { CLOSE_NORMAL, CLOSE_PROTOCOL, CLOSE_REFUSED, CLOSE_TIMEOUT, type Link } from '../link/link.js';
import { type Decision, decide, findParting, type Meeting, recognise, type SiteState } from '../mirror/decide.js';
import {
  type Answer,
  type Ask,
  decode,
  KIND_ANSWER,
  KIND_ASK,
  KIND_DATA,
  KIND_READY,
  KIND_REFUSE,
  KIND_START,
  type Message,
  parseSiteState,
  type Start,
  WireEncoder,
} from '../mirror/wire.js';
import type { Group, Platform, WhenSplit } from './group.js';
import { type GroupConfig, mintGeneration, offerMeeting, siteNumberOf } from './group-state.js';

/** What an empty site takes over from the source it meets. */
export interface Adoption {
  /** Site number. */
  number: number;
  /** Its own stream goes on behind this sequence: the source has so much of it, of the time before it was emptied. */
  ownThrough: number;
  groupId: string;
  generations: SiteState['generations'];
  peer: { number: number; name: string };
  volumes: SiteState['volumes'];
  /** What the first copy will have to do; null when the stream alone makes the image. */
  inconsistent: Superblock['inconsistent'];
  meeting: Meeting | null;
}

export interface PairOptions {
  config: GroupConfig;
  platform: Platform;
  whenSplit: WhenSplit;
  /** Creates the group's state when an empty site is adopted. */
  adopt(adoption: Adoption): Promise<Group>;
  /** Creates the group's state where both sites are empty and this one goes first. */
  found(): Promise<Group>;
  /** Hosts may come: told once. */
  onServing?: () => void;
  /** Answers what the peer asks (verify). */
  onAsk(method: string, params: Record<string, unknown>): Promise<unknown>;
}

export type PairState = 'away' | 'refused' | 'handshaking' | 'returning the tail' | 'base copy' | 'streaming';

interface LostTail {
  /** ms: ready to go on alone from then on. */
  until: number;
  /** Since when a request waits for a peer that is there, or the last piece of the tail came meanwhile, ms. */
  heldAt: number | null;
}

export class Pair {
  group: Group | null;
  readonly #options: PairOptions;
  readonly #encoder = new WireEncoder();
  #link: Link | null = null;
  #peer: SiteState | null = null;
  #decision: Decision | null = null;
  #epoch = 0;
  #running = false;
  /** This site's stream runs, the peer's stream runs. */
  #sending = false;
  #receiving = false;
  #refusal: string | null = null;
  #parted: string | null = null;
  #lostTail: LostTail | null = null;
  /** A new generation is being saved: no peer may take it over that may yet outlive it. */
  #minting = false;
  /** Dual: since when the other site cannot be serving with this one's knowledge, ms. */
  #splitAt = 0;
  /** The checkpoint that names the generation being minted, where both write. */
  #mintedBy = 0;
  /** It is minted because the other site was emptied, not to go on alone. */
  #renewing = false;
  #mustEndWith = 0;
  #asks = new Map<number, { resolve: (result: unknown) => void; reject: (error: Error) => void }>();
  #askId = 0;
  readonly counters = {
    rows: new Map<number, number>(),
    tailRecordsReturned: 0,
    tailRecordsRecovered: 0,
    minted: 0,
    protocolErrors: 0,
  };

  constructor(group: Group | null, options: PairOptions) {
    this.group = group;
    this.#options = options;
    if (group !== null) this.#begin(group);
  }

  /** For status. */
  get state(): PairState {
    if (this.#link === null) return this.#refusal === null ? 'away' : 'refused';
    if (!this.#running) return 'handshaking';
    if (this.#decision?.action === 'returnTail') return 'returning the tail';
    const { mirror, sender } = this.group!;
    if (sender !== null && (sender.source.phase === 'base' || !sender.source.consistent)) return 'base copy';
    return mirror.imageConsistent ? 'streaming' : 'base copy';
  }
  get refusal(): string | null {
    return this.#refusal;
  }
  /** This primary was refused by a peer that went on without it: its hosts are served from a history that is not the peer's. */
  get parted(): string | null {
    return this.#parted;
  }
  get peerSite(): string | null {
    return this.#peer?.site.name ?? null;
  }
  get link(): Link | null {
    return this.#link;
  }
  get epoch(): number {
    return this.#epoch;
  }
  /** Waiting for the peer before the first host is served. */
  get waitingForTail(): boolean {
    return this.#lostTail !== null;
  }

  /** What this site says of itself. */
  hello(): SiteState {
    const { config } = this.#options;
    const group = this.group;
    const whenSplit = nameOf(this.#options.whenSplit);
    if (group === null) {
      return {
        format: RECORD_FORMAT,
        group: config.group,
        groupId: null,
        site: { name: config.site, number: siteNumberOf(config.site) },
        role: config.role,
        whenSplit,
        met: {},
        sites: [],
        peers: [siteNumberOf(config.site)],
        volumes: config.volumes.map((volume, index) => ({
          number: index + 1,
          name: volume.name,
          size: volume.size ?? 0,
          blockSize: volume.blockSize ?? BLOCK_SIZE_DEFAULT,
        })),
        generations: [],
        streams: {},
        journalFrom: {},
        imported: false,
        base: null,
        epoch: this.#epoch,
        served: false,
        clean: true,
      };
    }
    const { superblock } = group.state;
    const { own, peer } = group.journal;
    const { inconsistent } = superblock;
    return {
      format: RECORD_FORMAT,
      group: superblock.group,
      groupId: superblock.groupId,
      site: superblock.site,
      role: group.role,
      whenSplit,
      met: superblock.met,
      sites: superblock.sites,
      peers: [superblock.site.number, ...Object.keys(superblock.peers).map(Number)],
      volumes: superblock.volumes.map(({ number, name, size, blockSize }) => ({ number, name, size, blockSize })),
      generations: superblock.generations,
      streams: { [own.site]: own.appended, ...(peer.site === 0 ? {} : { [peer.site]: peer.appended }) },
      journalFrom: {
        [own.site]: this.#journalFrom(own.site),
        ...(peer.site === 0 ? {} : { [peer.site]: this.#journalFrom(peer.site) }),
      },
      // an image may hold what no stream wrote
      imported: superblock.imported || superblock.volumes.some((volume) => volume.platter === 'flat'),
      base:
        inconsistent === null || group.receiver?.imageConsistent
          ? null
          : {
              source: inconsistent.source,
              generation: inconsistent.generation,
              start: inconsistent.startSequence,
              next: this.#baseProgress(inconsistent.base),
              end: this.#baseEnd(inconsistent.untilSequence),
            },
      epoch: this.#epoch,
      served: group.serving,
      clean: group.state.recovery.clean,
    };
  }

  /** A link is up and authenticated; its handlers are set here. */
  onLink(link: Link, hello: unknown): void {
    if (this.#link !== null) this.#closed(this.#link, 'a newer link is there');
    this.#link = link;
    link.onClose = (reason) => this.#closed(link, reason);
    link.onMessage = (header, stretch) => {
      if (this.#link === link) this.#onMessage(link, header, stretch);
    };
    this.#guard(link, () => {
      if (this.#minting)
        return link.close(CLOSE_PROTOCOL, 'a generation is being minted: both ends must decide the same');
      const said = parseSiteState(hello);
      const mine = recognise(this.hello(), said);
      const theirs = recognise(said, mine);
      this.#peer = theirs;
      const decision = decide(mine, theirs);
      this.#decision = decision;
      this.#epoch = decision.epoch;
      this.counters.rows.set(decision.row, (this.counters.rows.get(decision.row) ?? 0) + 1);
      this.#lookAtParting(decision, mine, theirs);
      if (decision.action === 'refuse') return this.#refuse(link, decision);
      const damage = this.group?.receiver?.damage ?? null;
      if (damage !== null) return this.#refuse(link, { ...decision, code: damage.code, reason: damage.message });
      this.#refusal = null;
      if (decision.action === 'found') {
        if (decision.source === mine.site.number) this.#found(link);
      } else if (decision.action === 'renew') {
        if (decision.source === mine.site.number) this.#renew();
      } else if (decision.source === mine.site.number) this.#start(link, decision, theirs);
      else if (decision.back !== null && this.group !== null) this.#startBack(link, decision, theirs);
    });
  }

  tick(nowMs: number): void {
    if (this.group?.role === 'dual') {
      this.#serveBoth();
      this.#lookAtSplit(this.group, nowMs);
    }
    if (this.#lostTail === null || nowMs < this.#lostTail.until) return;
    const group = this.group!;
    group.setReadyAlone(group.journal.failed === null);
    if (!group.isAsked) return;
    // not while a peer is about to answer: it would follow a history that does not know of the new generation
    if (this.#decision !== null && this.#decision.action !== 'refuse' && !this.#givesUp(this.#lostTail, nowMs)) return;
    const { journal } = group;
    // the new generation begins at an end that the next crash cannot take back: part of a returned tail may be here
    if (journal.own.durable < journal.own.appended) journal.sync();
    else this.#serveAlone();
  }

  /** Does the peer that is there take too long? Then its link is closed. */
  #givesUp(lostTail: LostTail, nowMs: number): boolean {
    lostTail.heldAt ??= nowMs;
    if (nowMs - lostTail.heldAt < LOST_TAIL_WAIT_MS) return false;
    const link = this.#link!;
    const reason = `nothing of the lost tail came for ${LOST_TAIL_WAIT_MS / 1000} s, and hosts wait`;
    link.close(CLOSE_TIMEOUT, reason);
    this.#closed(link, reason); // now: a peer that is back before the next tick would hold them up again
    return true;
  }

  /**
   * Asks the peer something.
   * @throws ForelockError AWAY without a link; what the peer answers otherwise
   */
  ask(method: string, params: Record<string, unknown>): Promise<unknown> {
    const link = this.#link;
    if (link === null || !this.#running) {
      return Promise.reject(new ForelockError('AWAY', `the peer is away: ${this.#refusal ?? 'no link'}`));
    }
    this.#askId = (this.#askId + 1) >>> 0;
    const id = this.#askId;
    return new Promise((resolve, reject) => {
      this.#asks.set(id, { resolve, reject });
      link.send(this.#encoder.control({ kind: KIND_ASK, ask: { id, method, params } }), null, null);
    });
  }

  close(): void {
    this.#lostTail = null;
    this.group?.leavePeer();
    this.#failAsks('the gateway is stopping');
  }

  // ---- serving

  #begin(group: Group): void {
    if (group.role === 'standby') return;
    if (group.role === 'dual') {
      this.#splitAt = group.nowMs();
      group.serveWhile(() => this.#hasLease(group));
      return group.freeze('the other site is not there yet');
    }
    const { recovery, superblock } = group.state;
    const peers = Object.keys(superblock.peers).length;
    if (recovery.clean || !group.policy.paired || peers === 0) return this.#serve(group);
    this.#lostTail = { until: group.nowMs() + LOST_TAIL_WAIT_MS, heldAt: null };
  }

  /** Dual: may this site still believe that the other has not gone on alone? */
  #hasLease({ state }: Group): boolean {
    const { whenSplit } = this.#options;
    if (whenSplit === 'freeze' || whenSplit.prefer === state.superblock.site.name) return true;
    return this.#link !== null && this.#link.unprovenMs <= SPLIT_LEASE_MS;
  }

  /** Dual: hosts are served once both streams run, and what is here is a whole image. */
  #serveBoth(): void {
    const { group } = this;
    if (group?.role !== 'dual' || !this.#sending || !this.#receiving || !group.receiver!.imageConsistent) return;
    if (!this.#hasLease(group)) return;
    if (group.order!.conflicts.isBehind) return; // neither read nor written: the other site has answered what is missing
    const { state, journal } = group;
    if (state.superblock.peerAlone === null) {
      state.superblock.peerAlone = journal.peerApplied;
      state.save(() => {});
    }
    this.#serve(group);
    group.thaw();
  }

  /** Dual, without a link: does this site go on alone, or go on being alone? */
  #lookAtSplit(group: Group, nowMs: number): void {
    const { whenSplit } = this.#options;
    if (this.#minting) return this.#mintedBy > 0 ? this.#lookAtMint(group) : undefined;
    if (this.#renewing) return this.#mintSafely(group);
    if (this.#link !== null) return;
    if (group.alone) return group.closeAlone();
    if (whenSplit === 'freeze' || whenSplit.prefer !== group.state.superblock.site.name) return;
    if (!group.receiver!.imageConsistent || nowMs - this.#splitAt < SPLIT_WAIT_MS) return;
    group.setReadyAlone(group.journal.failed === null);
    if (group.isAsked || group.peerIsAwaited) this.#mintSafely(group);
  }

  /** A tail may be missing that the other site has, or its old disk: nothing goes into its place under the same generation. */
  #mintSafely(group: Group): void {
    if (!group.serving && !isMintedAtEnd(group)) this.#mintAtEnd(group, () => {});
    else this.#mint(group);
  }

  #mint(group: Group): void {
    const why = this.#renewing
      ? 'the other site is empty, and gets a first copy'
      : 'the link to the other site is down, and this site goes on alone';
    if (!group.mint(why)) return;
    // who has state of the group under the new generation is to be known: an emptied site has none
    if (this.#renewing) group.state.superblock.peers = {};
    this.#minting = true;
    this.counters.minted += 1;
    this.#mintedBy = group.checkpointer.number.next;
    group.checkpointer.request();
  }

  #lookAtMint(group: Group): void {
    const { checkpointer } = group;
    if (checkpointer.number.done < this.#mintedBy) {
      if (!checkpointer.running) checkpointer.request(); // again, for it failed
      return;
    }
    this.#minting = false;
    this.#mintedBy = 0;
    if (this.#renewing) {
      this.#renewing = false;
      this.#link?.close(CLOSE_NORMAL, 'a generation is minted: begin again');
    } else {
      this.#serve(group);
      group.serveAlone();
    }
  }

  #serve(group: Group): void {
    this.#lostTail = null;
    if (group.serving) return;
    group.startServing();
    this.#options.onServing?.();
  }

  /** The peer did not answer, and a host asks: what is recovered here is the truth from now on, under a new generation. */
  #serveAlone(): void {
    const group = this.group!;
    this.#lostTail = null;
    this.#mintAtEnd(group, (error) => {
      if (error === null) return this.#serve(group);
      this.#lostTail = { until: group.nowMs() + LOST_TAIL_WAIT_MS, heldAt: null };
      group.setReadyAlone(false);
    });
  }

  /** Mints a generation that begins at the ends as they are here, durable with the superblock. */
  #mintAtEnd(group: Group, minted: (error: Error | null) => void): void {
    const { superblock } = group.state;
    const { generations } = superblock;
    this.#minting = true;
    this.counters.minted += 1;
    superblock.generations = [...generations];
    mintGeneration(superblock, group.journal);
    group.state.save((error) => {
      this.#minting = false;
      if (error !== null) {
        superblock.generations = generations;
        group.journal.generation = generations[generations.length - 1]!.ordinal;
      }
      minted(error);
    });
  }

  // ---- handshake

  /** Nobody but a person can know whose data is to stay, so hosts are served on; but that is told, once for each finding. */
  #lookAtParting(decision: Decision, mine: SiteState, theirs: SiteState): void {
    const parting = mine.role === 'primary' && decision.action === 'refuse' ? findParting(mine, theirs) : null;
    const { name } = theirs.site;
    const text =
      parting === 'second'
        ? `site ${name} went on without this one, under a newer generation. Hosts here do not see what is written there, and ${name} takes nothing of what they write: keep them away, and start this site with --role standby`
        : parting === 'both'
          ? `site ${name} and this one both went on alone. Hosts here and there read and write data that differ: decide whose is to stay, and keep hosts away from the other`
          : null;
    if (text !== null && text !== this.#parted) this.group?.tell(text);
    this.#parted = text;
  }

  #refuse(link: Link, decision: Decision): void {
    this.#refusal = decision.reason;
    const refuse = { row: decision.row, code: decision.code ?? ('PEER_REFUSED' as ErrorCode), reason: decision.reason };
    link.send(this.#encoder.control({ kind: KIND_REFUSE, refuse }), null, null);
    link.close(CLOSE_REFUSED, decision.reason);
  }

  /** Both sites are empty, and this one goes first: the other then finds a group to adopt. */
  #found(link: Link): void {
    this.#options.found().then(
      (group) => {
        this.group = group;
        this.#begin(group);
        if (this.#link === link) link.close(CLOSE_NORMAL, 'the group is founded: begin again');
      },
      (error: Error) => {
        if (this.#link === link) link.close(CLOSE_REFUSED, `the group could not be founded: ${error.message}`);
      },
    );
  }

  /**
   * The other site was emptied. What this one has of its stream is all that there is: it is settled here, and the new
   * generation begins behind it. Until it does nobody writes, and scopes that are open end.
   */
  #renew(): void {
    const group = this.group!;
    const { alone } = group;
    group.freeze('the other site is empty');
    if (alone) group.endAlone();
    this.#renewing = true;
    group.tell('the other site is empty: its first copy begins under a new generation');
  }

  /** The other site's stream, where both write. */
  #startBack(link: Link, decision: Decision, theirs: SiteState): void {
    const group = this.group!;
    if (!group.sender!.keepFrom(decision.back! + 1)) {
      return link.close(
        CLOSE_PROTOCOL,
        `${decision.back! + 1} is gone from the journal: both ends must decide the same`,
      );
    }
    this.#remember(group, theirs, null);
    group.state.save(() => {});
    this.#say(link, group, decision, decision.target, decision.back!, null, null);
  }

  /** This end holds the stream: it begins. */
  #start(link: Link, decision: Decision, theirs: SiteState): void {
    const { group } = this;
    assert(group !== null, 'only a site with a history is a source');
    const { superblock } = group.state;
    if (decision.action === 'returnTail') return this.#returnTail(link, decision);
    const taken = superblock.sites.find((site) => site.number === theirs.site.number);
    if (taken !== undefined && taken.name !== theirs.site.name) {
      return this.#refuse(link, {
        ...decision,
        row: 1,
        code: 'PEER_REFUSED',
        reason: `site name ${theirs.site.name} maps to number ${taken.number}, which belonged to ${taken.name}: start the new site with another --site`,
      });
    }
    // a base copy begins behind what the hello said: that much is sealed by now, and kept from here on
    const begins = decision.action === 'base' && decision.row !== 3;
    // where both write no scope goes on over a beginning that the other site does not know of
    if (begins && group.order !== null && !group.scopes.endNow('the other site needs a first copy'))
      return link.close(CLOSE_PROTOCOL, 'no room to end the scopes of before');
    const { journal } = group;
    // never in the middle of a transaction: its COMMIT would come without all of its writes
    if (begins) journal.sealNow();
    const from = begins ? journal.own.appended - journal.ownStaged.count : decision.from;
    const sender = group.sender!;
    if (!sender.keepFrom(from + 1, begins)) {
      const { damage } = sender;
      if (damage !== null) return this.#refuse(link, { ...decision, code: damage.code, reason: damage.message });
      // freed since HELLO said that it is here; the next one says what there is
      return link.close(CLOSE_PROTOCOL, `${from + 1} is gone from the journal: both ends must decide the same`);
    }
    if (begins) return this.#whenDurable(link, from, () => this.#sendStart(link, decision, theirs, from));
    this.#sendStart(link, decision, theirs, from);
  }

  /** The target must never begin behind what a crash here could still take back. */
  #whenDurable(link: Link, sequence: number, then: () => void): void {
    const { journal } = this.group!;
    if (this.#link !== link) return;
    if (journal.own.durable >= sequence) return then();
    journal.sync();
    this.group!.whenDurable(() => this.#whenDurable(link, sequence, then));
  }

  #sendStart(link: Link, decision: Decision, theirs: SiteState, from: number): void {
    const group = this.group!;
    const { state } = group;
    // where both write, an empty site is remembered once it has state of the group: when its own stream begins
    if (group.order === null || theirs.generations.length > 0)
      this.#remember(group, theirs, decision.action === 'base' ? 0 : null);
    const meeting = offerMeeting(state.superblock, theirs);
    state.save((error) => {
      if (this.#link !== link) return;
      if (error !== null) return link.close(CLOSE_PROTOCOL, `the source cannot write its state: ${error.message}`);
      this.#guard(link, () => this.#say(link, group, decision, decision.stream, from, decision.base, meeting));
    });
  }

  #say(
    link: Link,
    group: Group,
    decision: Decision,
    stream: number,
    from: number,
    base: Start['base'],
    meeting: Meeting | null,
  ): void {
    const { groupId, generations } = group.state.superblock;
    const { onReject } = group.policy;
    const { epoch, row } = decision;
    // who comes back from a split, and has not served since, decides on what is written from now on
    const split = row === 10 || group.alone;
    if (split && group.order !== null && decision.adopter !== group.journal.own.site) group.endAlone();
    const action = base === null ? 'replay' : 'base';
    const confirmed = group.order === null ? 0 : group.mayBeConfirmed;
    const granted = group.order === null ? 0 : group.sender!.grantedThrough;
    const begin = { epoch, row, action, stream, from, base, onReject } as const;
    const start: Start = { ...begin, confirmed, granted, meeting, groupId, generations };
    link.send(this.#encoder.control({ kind: KIND_START, start }), null, null);
  }

  /** Notes who the peer is. @param durable what it holds durably of our stream; null: what it said */
  #remember(group: Group, theirs: SiteState, durable: number | null): void {
    const { superblock } = group.state;
    const { number, name } = theirs.site;
    if (!superblock.sites.some((site) => site.number === number)) superblock.sites.push({ number, name });
    superblock.peers = { [number]: { durable: durable ?? superblock.peers[number]?.durable ?? 0 } };
  }

  /** The peer has written down what was offered. */
  #hasMet({ state }: Group): void {
    const { met } = state.superblock;
    const { number } = this.#peer!.site;
    const offered = met[number]?.offered ?? null;
    assert(offered !== null, 'who is ready has written down a meeting that was offered');
    met[number] = { last: offered, offered: null };
    state.save(() => {});
  }

  #onMessage(link: Link, header: Uint8Array, stretch: Uint8Array | null): void {
    this.#guard(link, () => {
      const message = decode(header);
      switch (message.kind) {
        case KIND_START:
          this.#onStart(link, message.start);
          return;
        case KIND_READY: {
          const decision = this.#decision;
          const group = this.group;
          if (this.#sending || decision === null || group === null || group.sender === null) throw unexpected(message);
          if (message.ready.epoch !== decision.epoch) throw unexpected(message);
          this.#running = true;
          this.#sending = true;
          if (decision.source === group.journal.own.site) this.#hasMet(group);
          group.sender.attach(link, message.ready, decision.stream === group.journal.own.site ? decision.base : null);
          if (group.role === 'dual') this.#serveBoth();
          else this.#serve(group);
          return;
        }
        case KIND_REFUSE:
          this.#refusal = message.refuse.reason;
          link.close(CLOSE_REFUSED, message.refuse.reason);
          return;
        case KIND_ASK:
          this.#onAsk(link, message.ask);
          return;
        case KIND_ANSWER:
          this.#onAnswer(message.answer);
          return;
        case KIND_DATA:
          // what comes was paid for with credit by the size announced
          if ((stretch?.length ?? 0) !== message.data.size)
            throw new ForelockError(
              'PEER_PROTOCOL',
              `DATA announced ${message.data.size} bytes, ${stretch?.length} came`,
            );
          if (message.data.returned) {
            if (stretch === null) throw unexpected(message);
            this.#onReturned(link, message, stretch);
            return;
          }
          break;
        default:
          break;
      }
      if (this.group === null) throw unexpected(message);
      const { sender, receiver } = this.group;
      if (this.#sending && sender!.onMessage(message)) return;
      if (this.#receiving && receiver!.onMessage(message, stretch)) return;
      throw unexpected(message);
    });
  }

  /** The source begins: adopt what has to be adopted, durably, then READY. */
  #onStart(link: Link, start: Start): void {
    const decision = this.#decision;
    if (decision === null || this.#receiving || start.epoch !== decision.epoch || start.row !== decision.row) {
      throw new ForelockError(
        'PEER_PROTOCOL',
        `START of row ${start.row}, epoch ${start.epoch}: both ends must decide the same`,
      );
    }
    if (start.meeting !== null && decision.source === this.group?.journal.own.site) {
      // a first copy was done while HELLO was under way: each site took itself for the first, and would take the other's
      // meeting for its own
      throw new ForelockError('PEER_PROTOCOL', 'START of two sources: both ends must decide the same');
    }
    // who was empty when it said HELLO has adopted this site's history since
    const adopted = this.#peer?.generations.length === 0 ? this.group?.state.superblock.generations : undefined;
    if (start.generations.at(-1)?.id !== (adopted ?? this.#peer?.generations)?.at(-1)?.id) {
      // it may have minted while its HELLO was under way: what was decided here was about the older history
      throw new ForelockError('PEER_PROTOCOL', 'START under a new generation: both ends must decide the same');
    }
    if (decision.action === 'returnTail') {
      const { group } = this;
      // that it had a peer may be lost, too; of the peer's stream, where both write, comes back what the tail had seen
      if (group?.receiver && group.journal.peer.site === 0) group.receiver.follow(this.#peer!.site.number);
      this.#running = true;
      this.#mustEndWith = decision.through;
      return;
    }
    if (this.group === null) {
      const theirs = this.#peer!;
      const adoption = {
        number: decision.target,
        ownThrough: theirs.streams[decision.target] ?? 0,
        groupId: start.groupId,
        generations: start.generations,
        peer: theirs.site,
        volumes: theirs.volumes,
        inconsistent: firstCopyOf(start, 0),
        meeting: start.meeting,
      };
      this.#options.adopt(adoption).then(
        (group) => {
          this.group = group;
          this.#begin(group);
          if (this.#link !== link) return;
          this.#guard(link, () => {
            if (decision.back !== null) this.#startBack(link, decision, theirs);
            this.#ready(link, group, start);
          });
        },
        (error: Error) => {
          const code = error instanceof ForelockError ? error.code : 'EIO';
          if (this.#link === link)
            this.#refuse(link, { ...decision, code, reason: `the standby could not be set up: ${error.message}` });
        },
      );
      return;
    }
    this.#ready(link, this.group, start);
  }

  #ready(link: Link, group: Group, start: Start): void {
    const decision = this.#decision!;
    const { superblock } = group.state;
    const { receiver } = group;
    if (receiver === null) throw new ForelockError('PEER_PROTOCOL', 'START for a site that takes no stream');
    if (group.journal.peer.site !== 0 && group.journal.peer.site !== start.stream) {
      throw new ForelockError(
        'PEER_REFUSED',
        `this standby holds the stream of site ${group.journal.peer.site}, not of site ${start.stream}: empty its state directory to follow the new one`,
      );
    }
    if (decision.adopter === superblock.site.number) {
      superblock.generations = start.generations;
      group.journal.generation = start.generations[start.generations.length - 1]!.ordinal;
    }
    if (start.base !== null && decision.row !== 3) {
      superblock.streamStart = start.from;
      superblock.imported = true;
      superblock.inconsistent = firstCopyOf(start, group.journal.head);
    }
    // the other may have been alone meanwhile, and have answered more than the copy holds
    const follows = start.base !== null || (decision.row === 10 && decision.adopter === superblock.site.number);
    if (follows) superblock.peerAlone = group.order === null ? 0 : null;
    const theirs = this.#peer!;
    this.#remember(group, theirs, group.sender === null ? 0 : null);
    if (start.meeting !== null) superblock.met[theirs.site.number] = { last: start.meeting, offered: null };
    const adopted = (error: Error | null): void => {
      if (this.#link !== link) return;
      if (error !== null) return link.close(CLOSE_PROTOCOL, `the standby cannot write its state: ${error.message}`);
      this.#guard(link, () => {
        // scopes of an earlier life, or that the other site has ended when it went on alone: what comes may wait for them
        if (
          group.order !== null &&
          (receiver.lacksAlone || !group.serving) &&
          !group.scopes.endNow('this site had gone')
        ) {
          return link.close(CLOSE_PROTOCOL, 'no room to end the scopes of before');
        }
        this.#running = true;
        this.#receiving = true;
        receiver.attach(link, start, theirs.streams[start.stream] ?? 0);
        const { target } = receiver;
        const ready = {
          epoch: start.epoch,
          received: target.received,
          durable: target.durable,
          applied: target.applied,
          creditBytes: target.creditBytes,
          consistent: receiver.toldConsistent,
          horizon: group.sender === null ? 0 : receiver.horizon,
        };
        link.send(this.#encoder.control({ kind: KIND_READY, ready }), null, null);
        this.#serveBoth();
      });
    };
    receiver.whenClosed((failed) => (failed === null ? group.state.save(adopted) : adopted(failed)));
  }

  // ---- the lost tail

  /** This site sends back the author's stream behind `decision.from`. */
  #returnTail(link: Link, decision: Decision): void {
    const group = this.group!;
    const { journal, state } = group;
    this.#running = true;
    const start: Start = {
      epoch: decision.epoch,
      row: decision.row,
      action: decision.action === 'base' ? 'base' : 'replay',
      stream: decision.stream,
      from: decision.from,
      base: null,
      onReject: 'target-retry',
      confirmed: 0,
      granted: 0,
      meeting: null,
      groupId: state.superblock.groupId,
      generations: state.superblock.generations,
    };
    link.send(this.#encoder.control({ kind: KIND_START, start }), null, null);
    const [first, second] = state.regions.tail;
    const reader = new StreamReader(journal, state.offload, decision.stream, first!, () => pump());
    if (!reader.seek(decision.from + 1)) {
      if (reader.damage !== null) throw reader.damage;
      link.close(CLOSE_PROTOCOL, `the journal no longer holds sequence ${decision.from + 1} of the lost tail`);
      return;
    }
    // where both sites write, what a record had seen of this site's stream goes in front of it: it may be lost with it
    const { own } = journal;
    const seen = new StreamReader(journal, state.offload, own.site, second!, () => pump());
    let seenThrough = group.order === null ? Number.POSITIVE_INFINITY : (this.#peer!.streams[own.site] ?? 0);
    if (seenThrough < own.appended) seen.seek(seenThrough + 1);
    const header = new RecordHeader();
    let stretch: ReturnType<StreamReader['next']> = null;
    let offset = 0;
    const say = (first: number, count: number, at: number, size: number, release: (() => void) | null): void => {
      const data = {
        epoch: decision.epoch,
        attempt: 0,
        first,
        count,
        size,
        durable: 0,
        appended: decision.through,
        clock: journal.stamp,
        returned: true,
        baseEnd: false,
      };
      link.send(this.#encoder.data(data), journal.memory.bytes.subarray(at, at + size), release);
    };
    const send = (): void => {
      while (this.#link === link && link.bufferedBytes < LINK_BUFFER_MAX) {
        if (stretch === null) {
          if (reader.nextSequence > decision.through) return;
          stretch = reader.next(decision.through, FRAME_SIZE_MAX);
          offset = 0;
        }
        const damage = reader.damage ?? seen.damage;
        if (damage !== null) throw damage;
        if (stretch === null) return;
        const { at, size, release } = stretch;
        const next = header.read(journal.memory.view, at + offset);
        if (next.seen > seenThrough) {
          const before = seen.next(next.seen, FRAME_SIZE_MAX);
          if (before === null) {
            if (seen.damage !== null) throw seen.damage;
            return;
          }
          seenThrough = before.first + before.count - 1;
          say(before.first, before.count, before.at, before.size, before.release);
          continue;
        }
        const from = offset;
        const first = next.sequence;
        let count = 0;
        while (offset < size && header.read(journal.memory.view, at + offset).seen <= seenThrough) {
          offset += header.size;
          count += 1;
        }
        this.counters.tailRecordsReturned += count;
        say(first, count, at + from, offset - from, offset === size ? release : null);
        if (offset === size) stretch = null;
      }
    };
    const pump = (): void => this.#guard(link, send);
    link.onDrain = pump;
    pump();
  }

  /** A piece of this site's own stream comes back: into the journal and the maps, as when it was written. */
  #onReturned(link: Link, message: Message, stretch: Uint8Array): void {
    const group = this.group;
    if (group === null || this.#decision?.action !== 'returnTail' || group.serving) throw unexpected(message);
    if (this.#takeReturned(link, group, stretch)) return;
    const kept = stretch.slice(); // it was lent to us for this call
    link.pauseReceiving();
    group.beforeHosts(() => {
      if (this.#link !== link) return true;
      let taken = true;
      this.#guard(link, () => {
        taken = this.#takeReturned(link, group, kept);
      });
      // what comes behind it may be here already, and comes in this call
      if (taken) link.resumeReceiving();
      return taken;
    });
  }

  /** @returns false: no room now */
  #takeReturned(link: Link, group: Group, stretch: Uint8Array): boolean {
    const { journal } = group;
    const header = new RecordHeader();
    const bytes = journal.accept(stretch, (at, position) => {
      header.read(journal.memory.view, at);
      if (header.type >= TYPE_BASE || journal.misplaced(header) !== null) return false;
      if (header.clock > journal.stamp) journal.stamp = header.clock;
      if (header.site !== journal.own.site) return group.receiver?.takeReturned(header, position) ?? false;
      if (header.sequence !== journal.own.appended + 1) return false;
      if (journal.order !== null && header.seen > journal.peer.appended) return false;
      journal.own.appended = header.sequence;
      if (journal.order !== null) journal.order.own(header, position);
      else journal.follow(header, position);
      if (header.blockShift > 0) journal.noteChecksums(at, header, position);
      group.scopes.seen(header);
      this.counters.tailRecordsRecovered += 1;
      return true;
    });
    if (bytes < 0) return false;
    if (bytes < stretch.length)
      throw new ForelockError('PEER_PROTOCOL', `the returned tail is damaged behind sequence ${journal.own.appended}`);
    if (this.#lostTail !== null) this.#lostTail.heldAt = null;
    if (journal.own.appended < this.#mustEndWith) return true;
    const done = (): void => {
      if (this.#link !== link) return;
      if (journal.own.durable < this.#mustEndWith) {
        journal.sync();
        group.whenDurable(done);
      } else link.close(CLOSE_NORMAL, 'the lost tail is back');
    };
    done();
    return true;
  }

  // ---- questions

  #onAsk(link: Link, ask: Ask): void {
    const answer = (result: unknown, error: Answer['error']): void => {
      if (this.#link !== link) return;
      link.send(this.#encoder.control({ kind: KIND_ANSWER, answer: { id: ask.id, result, error } }), null, null);
    };
    this.#options.onAsk(ask.method, ask.params).then(
      (result) => answer(result ?? null, null),
      (error: Error) =>
        answer(null, {
          code: error instanceof ForelockError ? error.code : 'EIO',
          message: error.message.slice(0, 1000),
        }),
    );
  }

  #onAnswer(answer: Answer): void {
    const waiting = this.#asks.get(answer.id);
    if (waiting === undefined) return;
    this.#asks.delete(answer.id);
    if (answer.error === null) waiting.resolve(answer.result);
    else waiting.reject(new ForelockError(answer.error.code, `peer: ${answer.error.message}`));
  }

  #failAsks(reason: string): void {
    for (const { reject } of this.#asks.values()) reject(new ForelockError('AWAY', `the peer is away: ${reason}`));
    this.#asks.clear();
  }

  // ---- inside

  #closed(link: Link, reason: string): void {
    if (this.#link !== link) return;
    this.#link = null;
    if (!this.#minting) this.#renewing = false;
    const { group } = this;
    if (group?.role === 'dual' && this.#running) {
      this.#splitAt = group.nowMs();
      group.freeze('the link is down');
    } else group?.resumeAlone();
    this.#running = false;
    this.#sending = false;
    this.#receiving = false;
    this.#decision = null;
    group?.mirror.detach();
    this.#failAsks(reason);
  }

  /** What the peer does wrong ends the link, with the reason; a bug of ours ends the process. */
  #guard(link: Link, work: () => void): void {
    try {
      work();
    } catch (error) {
      if (!(error instanceof ForelockError)) throw error;
      this.counters.protocolErrors += 1;
      this.#refusal = error.code === 'PEER_REFUSED' ? error.message : this.#refusal;
      link.close(error.code === 'PEER_REFUSED' ? CLOSE_REFUSED : CLOSE_PROTOCOL, error.message);
    }
  }

  /** First sequence of a stream from which the journal is without gaps. */
  #journalFrom(site: number): number {
    const { journal } = this.group!;
    const own = site === journal.own.site;
    let from = journal.heldFrom(own);
    const { sender } = this.group!;
    if (own && sender !== null)
      from = Math.max(from, sender.retentionGivenUp ? journal.own.appended + 1 : sender.journalFrom);
    return from;
  }

  #baseProgress(saved: { volume: number; lba: number }): { volume: number; lba: number } {
    return this.group!.receiver?.copy?.next ?? saved;
  }

  /** Not whole either while it is taken up again: its end may be written down late, in the middle of that. */
  #baseEnd(saved: number | null): number | null {
    const base = this.group!.receiver?.copy ?? null;
    return base !== null && base.end === null ? null : saved;
  }
}

/** Has nothing been appended since this site minted? */
function isMintedAtEnd({ journal, state }: Group): boolean {
  const newest = state.superblock.generations.at(-1)!;
  const { site, appended } = journal.own;
  return newest.minter === site && (newest.ends[site] ?? 0) === appended;
}

function nameOf(whenSplit: WhenSplit): string {
  return whenSplit === 'freeze' ? whenSplit : `prefer:${whenSplit.prefer}`;
}

/** @param begunAt where its records begin in the journal of this site */
function firstCopyOf(start: Start, begunAt: number): Superblock['inconsistent'] {
  if (start.base === null) return null;
  return {
    source: start.stream,
    generation: start.generations[start.generations.length - 1]!.id,
    base: start.base,
    begunAt,
    startSequence: start.from,
    untilSequence: null,
  };
}

function unexpected(message: Message): ForelockError {
  return new ForelockError('PEER_PROTOCOL', `message of kind ${message.kind} came when it was not due`);
}
