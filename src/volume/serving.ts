/**
 * Whether this site serves its hosts, and the generation that it mints first where it goes on without the peer.
 *
 * After an unclean stop a source serves nobody until its peer was asked for the lost tail, or LOST_TAIL_WAIT_MS have
 * passed. Then it is ready to go on alone, and does so for the first request: it mints a generation, durably, before
 * anything is appended or answered.
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
 * That the preferred site is the same at both is agreed on before (split.ts).
 *
 * Who has not served since it was opened mints at its recovered end first, and then ends its scopes: what it appends may
 * not stand under the sequences of a lost tail that the other site still has.
 */
import { LOST_TAIL_WAIT_MS, SPLIT_LEASE_MS, SPLIT_WAIT_MS } from '../limits.js';
import { CLOSE_NORMAL, CLOSE_TIMEOUT, type Link } from '../link/link.js';
import type { Group } from './group.js';
import { mintGeneration } from './group-state.js';
import { isPreferred, type WhenSplit } from './split.js';

export interface ServingOptions {
  whenSplit: WhenSplit;
  /** Hosts may come: told once. */
  onServing?: () => void;
}

/** The pair, as this decision depends on it. */
export interface Peering {
  readonly link: Link | null;
  /** There is a link, and the two did not refuse each other: the peer may be about to answer. */
  readonly mayAnswer: boolean;
  /** This site's stream runs, and the peer's stream runs. */
  readonly bothRun: boolean;
  readonly counters: { minted: number };
  /** Closes the link, and is without one when it returns. */
  drop(code: number, reason: string): void;
}

interface LostTail {
  /** ms: ready to go on alone from then on. */
  until: number;
  /** Since when a request waits for a peer that is there, or the last piece of the tail came meanwhile, ms. */
  heldAt: number | null;
}

export class Serving {
  readonly #group: Group;
  readonly #pair: Peering;
  readonly #options: ServingOptions;
  #lostTail: LostTail | null = null;
  #minting = false;
  /** Dual: since when the other site cannot be serving with this one's knowledge, ms. */
  #splitAt = 0;
  /** Why it stays frozen, as the operator was told. */
  #told: string | null = null;
  /** The checkpoint that names the generation being minted, where both write. */
  #mintedBy = 0;
  /** It is minted because the other site was emptied, not to go on alone. */
  #renewing = false;

  constructor(group: Group, pair: Peering, options: ServingOptions) {
    this.#group = group;
    this.#pair = pair;
    this.#options = options;
  }

  /** A new generation is being saved: no peer may take it over that may yet outlive it. */
  get minting(): boolean {
    return this.#minting;
  }

  /** The group was opened, or made: serves it at once if no peer has to be asked. */
  begin(): void {
    const group = this.#group;
    if (group.role === 'standby') return;
    if (group.role === 'dual') {
      this.#splitAt = group.nowMs();
      group.serveWhile(() => this.#hasLease());
      return group.freeze('the other site is not there yet');
    }
    const { recovery, superblock } = group.state;
    const peers = Object.keys(superblock.peers).length;
    if (recovery.clean || !group.policy.paired || peers === 0) return this.#serve();
    this.#lostTail = { until: group.nowMs() + LOST_TAIL_WAIT_MS, heldAt: null };
  }

  /** A stream has begun to run: this site's, or the peer's. */
  streamRuns(): void {
    const { role } = this.#group;
    if (role === 'dual') this.#serveBoth();
    else if (role === 'primary') this.#serve();
  }

  /** A piece of the lost tail came back. */
  tailCame(): void {
    if (this.#lostTail !== null) this.#lostTail.heldAt = null;
  }

  /**
   * The other site was emptied. What this one has of its stream is all that there is: it is settled here, and the new
   * generation begins behind it. Until it does nobody writes, and scopes that are open end.
   */
  renew(): void {
    const group = this.#group;
    const { alone } = group;
    group.freeze('the other site is empty');
    if (alone) group.endAlone();
    this.#renewing = true;
    group.tell('the other site is empty: its first copy begins under a new generation');
  }

  /** @param ran the two had agreed, and begun */
  linkLost(ran: boolean): void {
    const group = this.#group;
    if (!this.#minting) this.#renewing = false;
    if (group.role === 'dual' && ran) {
      this.#splitAt = group.nowMs();
      group.freeze('the link is down');
    } else group.resumeAlone();
  }

  tick(nowMs: number): void {
    const group = this.#group;
    if (group.role === 'dual') {
      this.#serveBoth();
      this.#lookAtSplit(nowMs);
    }
    if (this.#lostTail === null || nowMs < this.#lostTail.until) return;
    group.setReadyAlone(group.cannotMint === null);
    if (!group.isAsked) return;
    // not while a peer is about to answer: it would follow a history that does not know of the new generation
    if (this.#pair.mayAnswer && !this.#givesUp(this.#lostTail, nowMs)) return;
    const { journal } = group;
    // the new generation begins at an end that the next crash cannot take back: part of a returned tail may be here
    if (journal.own.durable < journal.own.appended) journal.sync();
    else this.#serveAlone();
  }

  /** The gateway stops: nothing is minted any more to go on without a lost tail. */
  stopWaiting(): void {
    this.#lostTail = null;
  }

  /** Does the peer that is there take too long? Then its link is closed. */
  #givesUp(lostTail: LostTail, nowMs: number): boolean {
    lostTail.heldAt ??= nowMs;
    if (nowMs - lostTail.heldAt < LOST_TAIL_WAIT_MS) return false;
    // now: a peer that is back before the next tick would hold them up again
    this.#pair.drop(CLOSE_TIMEOUT, `nothing of the lost tail came for ${LOST_TAIL_WAIT_MS / 1000} s, and hosts wait`);
    return true;
  }

  /** Dual: may this site still believe that the other has not gone on alone? */
  #hasLease(): boolean {
    const { whenSplit } = this.#options;
    if (whenSplit === 'freeze' || isPreferred(this.#group.state.superblock, whenSplit)) return true;
    const { link } = this.#pair;
    return link !== null && link.unprovenMs <= SPLIT_LEASE_MS;
  }

  /** Dual: hosts are served once both streams run, and what is here is a whole image. */
  #serveBoth(): void {
    const group = this.#group;
    if (!this.#pair.bothRun || !group.receiver!.imageConsistent) return;
    if (!this.#hasLease()) return;
    if (group.order!.conflicts.isBehind) return; // neither read nor written: the other site has answered what is missing
    const { state, journal } = group;
    if (state.superblock.peerAlone === null) {
      state.superblock.peerAlone = journal.peerApplied;
      state.save(() => {});
    }
    this.#serve();
    group.thaw();
  }

  /** Dual, without a link: does this site go on alone, or go on being alone? */
  #lookAtSplit(nowMs: number): void {
    const { whenSplit } = this.#options;
    if (this.#minting) return this.#mintedBy > 0 ? this.#lookAtMint() : undefined;
    if (this.#renewing) return this.#mintSafely();
    if (this.#pair.link !== null) return;
    const group = this.#group;
    if (group.alone) return group.closeAlone();
    if (!isPreferred(group.state.superblock, whenSplit)) return;
    if (!group.receiver!.imageConsistent || nowMs - this.#splitAt < SPLIT_WAIT_MS) return;
    const { staysFrozen } = group;
    if (staysFrozen !== this.#told && staysFrozen !== null) group.tell(staysFrozen);
    this.#told = staysFrozen;
    group.setReadyAlone(staysFrozen === null);
    if (staysFrozen !== null) return;
    if (group.isAsked || group.peerIsAwaited) this.#mintSafely();
  }

  /** A tail may be missing that the other site has, or its old disk: nothing goes into its place under the same generation. */
  #mintSafely(): void {
    const group = this.#group;
    if (group.serving || isMintedAtEnd(group)) return this.#mint();
    // it is tried again, and who was held for long enough is told meanwhile
    this.#mintAtEnd((error) => {
      if (error !== null) group.setReadyAlone(false);
    });
  }

  #mint(): void {
    const group = this.#group;
    const why = this.#renewing
      ? 'the other site is empty, and gets a first copy'
      : 'the link to the other site is down, and this site goes on alone';
    if (!group.mint(why)) return;
    // who has state of the group under the new generation is to be known: an emptied site has none
    if (this.#renewing) group.state.superblock.peers = {};
    this.#minting = true;
    this.#pair.counters.minted += 1;
    this.#mintedBy = group.checkpointer.number.next;
    group.checkpointer.request();
  }

  #lookAtMint(): void {
    const { checkpointer } = this.#group;
    this.#group.setReadyAlone(this.#group.cannotMint === null);
    if (checkpointer.number.done < this.#mintedBy) {
      if (!checkpointer.running) checkpointer.request(); // again, for it failed
      return;
    }
    this.#minting = false;
    this.#mintedBy = 0;
    if (this.#renewing) {
      this.#renewing = false;
      this.#pair.link?.close(CLOSE_NORMAL, 'a generation is minted: begin again');
    } else {
      this.#serve();
      this.#group.serveAlone();
    }
  }

  #serve(): void {
    this.#lostTail = null;
    if (this.#group.serving) return;
    this.#group.startServing();
    this.#options.onServing?.();
  }

  /** The peer did not answer, and a host asks: what is recovered here is the truth from now on, under a new generation. */
  #serveAlone(): void {
    this.#lostTail = null;
    this.#mintAtEnd((error) => {
      if (error === null) return this.#serve();
      this.#lostTail = { until: this.#group.nowMs() + LOST_TAIL_WAIT_MS, heldAt: null };
      this.#group.setReadyAlone(false);
    });
  }

  /** Mints a generation that begins at the ends as they are here, durable with the superblock. */
  #mintAtEnd(minted: (error: Error | null) => void): void {
    const { state, journal } = this.#group;
    const { superblock } = state;
    const { generations } = superblock;
    this.#minting = true;
    this.#pair.counters.minted += 1;
    superblock.generations = [...generations];
    mintGeneration(superblock, journal);
    state.save((error) => {
      this.#minting = false;
      if (error !== null) {
        superblock.generations = generations;
        journal.generation = generations[generations.length - 1]!.ordinal;
      }
      minted(error);
    });
  }
}

/** Has nothing been appended since this site minted? */
function isMintedAtEnd({ journal, state }: Group): boolean {
  const newest = state.superblock.generations.at(-1)!;
  const { site, appended } = journal.own;
  return newest.minter === site && (newest.ends[site] ?? 0) === appended;
}
