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
 * Who serves meanwhile, and what is minted for it, is decided in serving.ts; how a tail comes back stands in lost-tail.ts.
 */
import { RECORD_FORMAT } from '../../assembly/layout.js';
import { assert } from '../assert.js';
import { type ErrorCode, ForelockError } from '../errors.js';
import { NO_RECORD_KEY, type Superblock } from '../journal/superblock.js';
import { ASKS_MAX, BLOCK_SIZE_DEFAULT, PEER_ASKS_MAX } from '../limits.js';
import { CLOSE_NORMAL, CLOSE_PROTOCOL, CLOSE_REFUSED, CLOSE_TIMEOUT, type Link } from '../link/link.js';
import { farthest, findWrongBeginning } from '../mirror/beginning.js';
import { type Decision, decide, findParting, type Meeting, recognise, type SiteState } from '../mirror/decide.js';
import {
  type Answer,
  type Ask,
  decode,
  KIND_ANSWER,
  KIND_ASK,
  KIND_CONFIRM,
  KIND_DATA,
  KIND_HEARTBEAT,
  KIND_READY,
  KIND_REFUSE,
  KIND_START,
  type Message,
  parseSiteState,
  type Start,
  WireEncoder,
} from '../mirror/wire.js';
import type { Group, Platform } from './group.js';
import { type GroupConfig, historyOf, offerMeeting, siteNumberOf } from './group-state.js';
import { type TailLine, TailSender, TailTaker } from './lost-tail.js';
import { type PeerSight, PeerWatch } from './peer-watch.js';
import { type Peering, Serving, type ServingOptions } from './serving.js';
import { isPreferred, splitName } from './split.js';

/** What an empty site takes over from the source it meets. */
export interface Adoption {
  /** Site number. */
  number: number;
  /** Its own stream goes on behind this sequence: the source has so much of it, of the time before it was emptied. */
  ownThrough: number;
  groupId: string;
  recordKey: string;
  generations: SiteState['generations'];
  peer: { number: number; name: string };
  volumes: SiteState['volumes'];
  /** What the first copy will have to do; null when the stream alone makes the image. */
  inconsistent: Superblock['inconsistent'];
  meeting: Meeting | null;
}

export interface PairOptions extends ServingOptions {
  config: GroupConfig;
  platform: Platform;
  /** Creates the group's state when an empty site is adopted. */
  adopt(adoption: Adoption): Promise<Group>;
  /** Creates the group's state where both sites are empty and this one goes first. */
  found(): Promise<Group>;
  /** Answers what the peer asks (verify). */
  onAsk(method: string, params: Record<string, unknown>): Promise<unknown>;
}

export type PairState = 'away' | 'refused' | 'handshaking' | 'returning the tail' | 'base copy' | 'streaming';

export class Pair implements Peering {
  group: Group | null = null;
  readonly #options: PairOptions;
  readonly #encoder = new WireEncoder();
  #link: Link | null = null;
  #peer: SiteState | null = null;
  #decision: Decision | null = null;
  #epoch = 0;
  #running = false;
  /** The peer has said START on this link, and this site for its own stream: READY answers that. */
  #started = false;
  #offered = false;
  /** This site's group is being made: adopted from the peer, or founded. That takes longer than a link may last. */
  #making = false;
  /** So much does this site write to its own disk before it goes on with the link. */
  #writing = 0;
  /** This site's stream runs, the peer's stream runs. */
  #sending = false;
  #receiving = false;
  #refusal: string | null = null;
  #parted: string | null = null;
  #serving: Serving | null = null;
  readonly #watch = new PeerWatch();
  /** Why links are refused for a while. */
  #shunned = '';
  /** Its own lost tail is coming back to this site. */
  #tail: TailTaker | null = null;
  /** Gives the peer's back, once that was needed. */
  #tailSender: TailSender | null = null;
  #asks = new Map<number, { resolve: (result: unknown) => void; reject: (error: Error) => void }>();
  #askId = 0;
  /** Questions of the peer's that are not answered, be it on a link that is gone. */
  #answering = 0;
  readonly counters = {
    rows: new Map<number, number>(),
    tailRecordsReturned: 0,
    tailRecordsRecovered: 0,
    minted: 0,
    protocolErrors: 0,
    /** Links that were closed, and refused, because the peer did not get on. */
    stalls: 0,
    shunned: 0,
  };

  constructor(group: Group | null, options: PairOptions) {
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

  /** For who decides about serving. */
  get mayAnswer(): boolean {
    return this.#decision !== null && this.#decision.action !== 'refuse';
  }
  get bothRun(): boolean {
    return this.#sending && this.#receiving;
  }
  drop(code: number, reason: string): void {
    const link = this.#link!;
    link.close(code, reason);
    this.#closed(link, reason);
  }

  /** What this site says of itself. */
  hello(): SiteState {
    const { config } = this.#options;
    const group = this.group;
    const whenSplit = splitName(this.#options.whenSplit);
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
      if (this.#serving?.minting)
        return link.close(CLOSE_PROTOCOL, 'a generation is being minted: both ends must decide the same');
      const said = parseSiteState(hello);
      const mine = recognise(this.hello(), said);
      const theirs = recognise(said, mine);
      this.#peer = theirs;
      const decision = decide(mine, theirs);
      this.#decision = decision;
      this.counters.rows.set(decision.row, (this.counters.rows.get(decision.row) ?? 0) + 1);
      this.#lookAtParting(decision, mine, theirs);
      if (decision.action === 'refuse') return this.#refuse(link, decision);
      const damage = this.group?.receiver?.damage ?? null;
      if (damage !== null) return this.#refuse(link, { ...decision, code: damage.code, reason: damage.message });
      if (this.#watch.isShunned(this.#options.platform.nowMs())) {
        this.counters.shunned += 1;
        return this.#refuse(link, { ...decision, code: 'PEER_TIMEOUT', reason: this.#shunned });
      }
      this.#refusal = null;
      this.#epoch = decision.epoch;
      if (decision.action === 'found') {
        if (decision.source === mine.site.number) this.#found(link);
      } else if (decision.action === 'renew') {
        if (decision.source === mine.site.number) this.#serving!.renew();
      } else if (decision.source === mine.site.number) this.#start(link, decision, theirs);
      else if (decision.back !== null && this.group !== null) this.#startBack(link, decision, theirs);
    });
  }

  tick(nowMs: number): void {
    this.#serving?.tick(nowMs);
    this.#lookAtPeer(nowMs);
  }

  /**
   * Asks the peer something.
   * @throws ForelockError AWAY without a link; EPERM while too many are asked; what the peer answers otherwise
   */
  ask(method: string, params: Record<string, unknown>): Promise<unknown> {
    const link = this.#link;
    if (link === null || !this.#running) {
      return Promise.reject(new ForelockError('AWAY', `the peer is away: ${this.#refusal ?? 'no link'}`));
    }
    if (this.#asks.size >= ASKS_MAX)
      return Promise.reject(new ForelockError('EPERM', `${ASKS_MAX} questions wait for the peer: ask again later`));
    this.#askId = (this.#askId + 1) >>> 0;
    const id = this.#askId;
    return new Promise((resolve, reject) => {
      this.#asks.set(id, { resolve, reject });
      link.send(this.#encoder.control({ kind: KIND_ASK, ask: { id, method, params } }), null, null);
    });
  }

  close(): void {
    this.#serving?.stopWaiting();
    this.group?.leavePeer();
    this.#failAsks('the gateway is stopping');
  }

  // ---- a peer that does not get on

  #lookAtPeer(nowMs: number): void {
    if (this.#link === null) return this.#watch.rest();
    const stalled = this.#watch.look(nowMs, this.#sight());
    if (stalled === null) return;
    const { group } = this;
    this.counters.stalls += 1;
    const site = this.#options.config.site;
    let then = 'the link is closed';
    if (group !== null && this.#standsInTheWay(group)) {
      const ms = this.#watch.shun(nowMs);
      then += `, and site ${site} refuses another for ${Math.round(ms / 1000)} s`;
      this.#shunned = `site ${site} refuses links for a while: ${stalled}`;
    }
    group?.tell(`${stalled}: ${then}`);
    this.drop(CLOSE_TIMEOUT, stalled);
  }

  /** Could hosts be answered, be it otherwise, if there were no link? */
  #standsInTheWay(group: Group): boolean {
    const { policy, state, journal } = group;
    if (journal.failed !== null) return false;
    if (group.role === 'dual') return isPreferred(state.superblock, policy.whenSplit) && group.staysFrozen === null;
    return group.role === 'primary' && policy.whenPeerAway !== 'block' && group.peerIsAwaited;
  }

  #sight(): PeerSight {
    const { group } = this;
    const decision = this.#decision;
    const dual = group?.role === 'dual';
    const none = { progress: 0, durable: Number.NaN, waitsForLock: false };
    const link = this.#link!;
    // what the settling of an emptied site's stream waits for has limits of its own
    if (decision?.action === 'renew' || this.#serving?.minting) return { ...none, task: 'fine' };
    if (this.#making || this.#writing > 0 || this.#tail?.isWriting) return { ...none, task: 'fine' };
    if (group === null || !this.#running) return { ...none, task: 'shaking hands' };
    const { journal, sender, receiver } = group;
    // nobody can tell what holds them up
    if (journal.failed !== null || journal.diskFull) return { ...none, task: 'fine' };
    if (decision?.action === 'returnTail')
      return { ...none, task: 'tail', progress: journal.own.appended + link.bytesSent };
    if (dual && !this.bothRun) return { ...none, task: 'shaking hands' };
    if (sender === null) return { ...none, task: 'fine' };
    const { source } = sender;
    let progress = source.peerProgress;
    const wantsRoom = group.roomIsWaitedFor && journal.wantsRoomAtPeer;
    let owes = source.peerOwes || wantsRoom;
    // what hosts wait for may be the peer's own stream: that it comes, and that this site has caught up with it
    if (receiver !== null && (group.frozen || sender.unproved > 0)) {
      progress += journal.peer.appended + journal.peerApplied + receiver.counters.recordsReceived;
      owes ||= !receiver.isFull && receiver.target.rejected === 0;
    }
    const asked = group.peerIsAwaited || sender.isAskedForGrants;
    const waited = asked || (dual && (group.frozen || group.roomIsWaitedFor));
    const waitsForLock = source.rejected > 0;
    return { task: waited && owes ? 'owing' : 'fine', progress, durable: source.peerKept, waitsForLock };
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
    if (this.#making) return this.#refuseWhileMaking(link);
    this.#making = true;
    this.#options.found().then(
      (group) => {
        this.#making = false;
        this.#begin(group);
        if (this.#link === link) link.close(CLOSE_NORMAL, 'the group is founded: begin again');
      },
      (error: Error) => {
        this.#making = false;
        if (this.#link === link) link.close(CLOSE_REFUSED, `the group could not be founded: ${error.message}`);
      },
    );
  }

  /** A link broke while the group was being made, and the next one is here before that is done. */
  #refuseWhileMaking(link: Link): void {
    link.close(CLOSE_PROTOCOL, 'the group is being set up here: both ends must decide the same');
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
    if (decision.action === 'returnTail') {
      this.#running = true;
      this.#tailSender ??= new TailSender(group);
      return this.#tailSender.begin(decision, theirs, this.#lineOf(link));
    }
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

  /** The other site must never go on from what a crash here could still take back. */
  #whenDurable(link: Link, sequence: number, then: () => void): void {
    const group = this.group!;
    const { journal } = group;
    this.#writing += 1;
    const look = (): void => {
      if (this.#link !== link) return;
      if (journal.own.durable >= sequence) {
        this.#writing -= 1;
        return then();
      }
      if (journal.failed !== null)
        return link.close(CLOSE_PROTOCOL, `this site cannot write its journal: ${journal.failed.message}`);
      journal.sync();
      group.whenDurable(look);
    };
    look();
  }

  #sendStart(link: Link, decision: Decision, theirs: SiteState, from: number): void {
    const group = this.group!;
    const { state } = group;
    // where both write, an empty site is remembered once it has state of the group: when its own stream begins
    if (group.order === null || theirs.generations.length > 0)
      this.#remember(group, theirs, decision.action === 'base' ? 0 : null);
    this.#agree(group);
    const meeting = offerMeeting(state.superblock, theirs);
    this.#writing += 1;
    state.save((error) => {
      if (this.#link !== link) return;
      this.#writing -= 1;
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
    const { onReject } = group.policy;
    const { epoch, row } = decision;
    // who comes back from a split, and has not served since, decides on what is written from now on
    const split = row === 10 || group.alone;
    if (split && group.order !== null && decision.adopter !== group.journal.own.site) group.endAlone();
    const action = base === null ? 'replay' : 'base';
    const confirmed = group.order === null ? 0 : group.mayBeConfirmed;
    const granted = group.order === null ? 0 : group.sender!.grantedThrough;
    const begin = { epoch, row, action, stream, from, base, onReject } as const;
    const start: Start = { ...begin, confirmed, granted, meeting, ...historyOf(group.state.superblock) };
    this.#offered = true;
    link.send(this.#encoder.control({ kind: KIND_START, start }), null, null);
  }

  /** Notes who the peer is. @param durable what it holds durably of our stream; null: what it said */
  #remember(group: Group, theirs: SiteState, durable: number | null): void {
    const { superblock } = group.state;
    const { number, name } = theirs.site;
    if (!superblock.sites.some((site) => site.number === number)) superblock.sites.push({ number, name });
    superblock.peers = { [number]: { durable: durable ?? superblock.peers[number]?.durable ?? 0 } };
  }

  /** Both have said the same in HELLO: row 1. */
  #agree(group: Group): void {
    if (group.role === 'dual') group.state.superblock.whenSplit = this.#peer!.whenSplit;
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
          if (this.#sending || !this.#offered || decision === null || group === null || group.sender === null)
            throw unexpected(message);
          if (message.ready.epoch !== decision.epoch) throw unexpected(message);
          this.#checkHorizon(message.ready.horizon);
          this.#running = true;
          if (decision.source === group.journal.own.site) this.#hasMet(group);
          const { base } = decision.stream === group.journal.own.site ? decision : { base: null };
          this.#sending = group.sender.attach(link, message.ready, base);
          if (this.#sending) this.#serving!.streamRuns();
          return;
        }
        case KIND_CONFIRM:
          if (this.#sending) this.#checkHorizon(message.confirm.horizon);
          break;
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
            if (stretch === null || this.#tail === null || this.group!.serving) throw unexpected(message);
            this.#tail.take(stretch);
            return;
          }
          this.#checkAppended(message.data.appended);
          break;
        case KIND_HEARTBEAT:
          this.#checkAppended(message.heartbeat.appended);
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

  /** How far the peer's own stream may be. What it says of more is never so. */
  get #mostOfPeer(): number {
    const { group } = this;
    const { streams, site } = this.#peer!;
    const received = group?.journal.peer.appended ?? 0;
    return farthest(Math.max(streams[site.number] ?? 0, group?.receiver?.announced.appended ?? 0, received));
  }

  /** What the peer confirms counts once so much of its stream is here, where both write. */
  #checkHorizon(horizon: number): void {
    const most = this.#peer!.role === 'dual' ? this.#mostOfPeer : 0;
    if (horizon > most)
      throw new ForelockError('PEER_PROTOCOL', `a horizon of ${horizon}, of a stream that can be at ${most} at most`);
  }

  /** A first copy is whole, and a site gives all its room to the other, by what that has appended. */
  #checkAppended(appended: number): void {
    const most = this.#mostOfPeer;
    if (appended > most)
      throw new ForelockError('PEER_PROTOCOL', `${appended} appended, of a stream that can be at ${most} at most`);
  }

  /** The source begins: adopt what has to be adopted, durably, then READY. */
  #onStart(link: Link, start: Start): void {
    const decision = this.#decision;
    if (decision === null || this.#started || start.epoch !== decision.epoch || start.row !== decision.row) {
      throw new ForelockError(
        'PEER_PROTOCOL',
        `START of row ${start.row}, epoch ${start.epoch}: both ends must decide the same`,
      );
    }
    this.#started = true;
    if (this.group !== null && start.groupId !== this.group.state.superblock.groupId)
      throw new ForelockError('PEER_PROTOCOL', `START of group ${start.groupId}, which is another one than is here`);
    const recordKey = start.recordKey ?? NO_RECORD_KEY;
    if (this.group !== null && recordKey !== this.group.state.superblock.recordKey)
      throw new ForelockError('PEER_PROTOCOL', `START of group ${start.groupId} with another record key than is here`);
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
    const own = this.group?.journal.own.site ?? decision.target;
    const most = this.#peer!.role === 'dual' ? this.#mostOfPeer : 0;
    const wrong = findWrongBeginning(start, decision, own, most);
    if (wrong !== null) throw new ForelockError('PEER_PROTOCOL', wrong);
    if (decision.row === 2 && decision.target === this.group?.journal.own.site) {
      // its HELLO was that of an empty site, which an older link has set up since: what was decided leaves out its stream
      return link.close(CLOSE_NORMAL, 'the group is set up: begin again');
    }
    if (decision.action === 'returnTail') {
      const { group } = this;
      // that it had a peer may be lost, too; of the peer's stream, where both write, comes back what the tail had seen
      if (group?.receiver && group.journal.peer.site === 0) group.receiver.follow(this.#peer!.site.number);
      this.#running = true;
      if (group !== null) this.#tail = new TailTaker(group, decision.through, this.#serving!, this.#lineOf(link));
      return;
    }
    if (this.group === null) {
      if (this.#making) return this.#refuseWhileMaking(link);
      this.#making = true;
      const theirs = this.#peer!;
      const adoption = {
        number: decision.target,
        ownThrough: theirs.streams[decision.target] ?? 0,
        groupId: start.groupId,
        recordKey,
        generations: start.generations,
        peer: theirs.site,
        volumes: theirs.volumes,
        inconsistent: firstCopyOf(start, 0),
        meeting: start.meeting,
      };
      this.#options.adopt(adoption).then(
        (group) => {
          this.#making = false;
          this.#begin(group);
          if (this.#link !== link) return;
          this.#guard(link, () => {
            if (decision.back !== null) this.#startBack(link, decision, theirs);
            this.#ready(link, group, start);
          });
        },
        (error: Error) => {
          this.#making = false;
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
    // what both have decided on can be neither held back nor dropped
    if (group.order !== null && start.onReject !== 'target-retry')
      throw new ForelockError('PEER_PROTOCOL', `START with on-reject ${start.onReject}, where both sites write`);
    if (group.journal.peer.site !== 0 && group.journal.peer.site !== start.stream) {
      throw new ForelockError(
        'PEER_REFUSED',
        `this standby holds the stream of site ${group.journal.peer.site}, not of site ${start.stream}: empty its state directory to follow the new one`,
      );
    }
    if (decision.adopter !== superblock.site.number) return this.#follow(link, group, start);
    // who has a history has what it began with, as everybody reads it: be it a lost tail that has only just come back
    this.#whenDurable(link, group.journal.own.appended, () =>
      this.#guard(link, () => this.#follow(link, group, start)),
    );
  }

  /** Writes down what has to be adopted, then says READY. */
  #follow(link: Link, group: Group, start: Start): void {
    const decision = this.#decision!;
    const { superblock } = group.state;
    const receiver = group.receiver!;
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
    this.#agree(group);
    if (start.meeting !== null) superblock.met[theirs.site.number] = { last: start.meeting, offered: null };
    this.#writing += 1;
    const adopted = (error: Error | null): void => {
      if (this.#link !== link) return;
      this.#writing -= 1;
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
        this.#receiving = receiver.attach(link, start, theirs.streams[start.stream] ?? 0);
        if (!this.#receiving) return;
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
        this.#serving!.streamRuns();
      });
    };
    receiver.whenClosed((failed) => (failed === null ? group.state.save(adopted) : adopted(failed)));
  }

  // ---- questions

  #onAsk(link: Link, ask: Ask): void {
    if (this.#answering >= PEER_ASKS_MAX)
      throw new ForelockError('PEER_PROTOCOL', `the peer asks, and has ${this.#answering} questions open`);
    this.#answering += 1;
    const answer = (result: unknown, error: Answer['error']): void => {
      if (this.#link !== link) return;
      link.send(this.#encoder.control({ kind: KIND_ANSWER, answer: { id: ask.id, result, error } }), null, null);
    };
    this.#options
      .onAsk(ask.method, ask.params)
      .then((result) => answer(result ?? null, null))
      .catch((error: Error) => {
        // be it that the answer is too large to be one
        const code = error instanceof ForelockError ? error.code : 'EIO';
        answer(null, { code, message: error.message.slice(0, 1000) });
      })
      .finally(() => {
        this.#answering -= 1;
      });
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

  #begin(group: Group): void {
    this.group = group;
    this.#serving = new Serving(group, this, this.#options);
    this.#serving.begin();
  }

  #closed(link: Link, reason: string): void {
    if (this.#link !== link) return;
    this.#link = null;
    this.#tail?.close();
    this.#tail = null;
    this.#tailSender?.close();
    this.#serving?.linkLost(this.#running);
    this.#running = false;
    this.#started = false;
    this.#offered = false;
    this.#writing = 0;
    this.#sending = false;
    this.#receiving = false;
    this.#decision = null;
    this.group?.mirror.detach();
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

  #lineOf(link: Link): TailLine {
    return { link, isUp: () => this.#link === link, guard: (work) => this.#guard(link, work), counters: this.counters };
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
