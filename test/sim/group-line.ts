/** The line between the sites: who connects when, the handshake's timing, what a close may say. */
import { PEER_SILENT_MS_MAX } from '../../src/limits.js';
import type { Group } from '../../src/volume/group.js';
import type { Pair } from '../../src/volume/pair.js';
import type { Life } from './group-rig.js';
import { type LinkWorld, SimLink } from './sim-link.js';

/** A machine at an end of the line. */
export interface LineSite {
  readonly state: string;
  readonly life: Life;
  readonly pair: Pair | null;
  readonly group: Group | null;
  readonly unreadable: boolean;
}

/** What the line is told of the world between whose sites it is. */
export interface LineWorld extends LinkWorld {
  readonly options: { delayMax: number; bitFlip: number; rate: number; lateFrames: number; repeat: number };
  readonly counts: Readonly<Record<string, number>>;
  readonly source: LineSite;
  readonly target: LineSite;
  after(delayMs: number, task: () => void): void;
  note(what: string): void;
  fail(error: Error): void;
  describe(): string;
}

export class Line {
  /** It is down until then. */
  downUntil = 0;
  /** Longest delay of a message, ms. */
  delayMax: number;
  /** Probability that a stretch arrives with a flipped bit. */
  bitFlip: number;
  /** Probability that a frame at the beginning of a link comes twice. */
  repeat: number;
  /** Bytes per ms. */
  rate: number;
  #link: [SimLink, SimLink] | null = null;
  /** Ends that do not know yet that their line is gone. */
  #unseen: { site: LineSite; link: SimLink }[] = [];
  #connecting = false;
  readonly #world: LineWorld;

  constructor(world: LineWorld) {
    this.#world = world;
    const { delayMax, bitFlip, rate, repeat } = world.options;
    this.delayMax = delayMax;
    this.bitFlip = bitFlip;
    this.repeat = repeat;
    this.rate = rate;
  }

  get isUp(): boolean {
    return this.#link !== null;
  }

  connectSoon(): void {
    const { after, random } = this.#world;
    if (this.#connecting) return;
    this.#connecting = true;
    after(20 + random() * 150, () => {
      this.#connecting = false;
      this.#connect();
    });
  }

  cut(): void {
    this.#link?.[0].cut();
  }

  /**
   * The line is gone, and one end does not see it: the other one comes again.
   * @param blind    which; one that is drawn
   * @param unseenMs how long it does not; a time that is drawn
   */
  cutUnseen(blind?: LineSite, unseenMs?: number): void {
    const { source, target, random, options, met } = this.#world;
    const link = this.#link;
    if (link === null || link.some((end) => end.ended)) return;
    const isFirst = blind === undefined ? random() < 0.5 : blind === source;
    const index = isFirst ? 0 : 1;
    const late = random() < options.lateFrames ? random() * 300 : null;
    met('half-open link');
    this.#unseen.push({ site: isFirst ? source : target, link: link[index] });
    this.#link = null;
    link[index].cutUnseen(unseenMs ?? random() ** 2 * PEER_SILENT_MS_MAX, late);
    this.connectSoon();
  }

  /** One direction stands still for a while. */
  stall(): void {
    const { random, met } = this.#world;
    if (this.#link === null) return;
    met('stalled line');
    this.#link[random() < 0.5 ? 0 : 1].stall(random() ** 2 * 3000);
  }

  /** A site that takes a new link lets go of the old one, as the endpoint does. */
  #replace(site: LineSite): void {
    const old = this.#unseen.filter((each) => each.site === site);
    this.#unseen = this.#unseen.filter((each) => each.site !== site && !each.link.ended);
    for (const { link } of old) link.replaced();
  }

  /** A site says goodbye. */
  stopped(site: LineSite): void {
    this.#link?.[site === this.#world.source ? 0 : 1].close(1001, 'stopping');
  }

  siteDied(): void {
    const link = this.#link;
    link?.[0].cut();
    this.#world.after(60, () => {
      // when both machines died nobody is left to see it
      if (link === null || this.#link !== link) return;
      this.#link = null;
      this.connectSoon();
    });
  }

  #connect(): void {
    const { source, target, scheduler, random, after, met } = this.#world;
    if (this.#link !== null) return;
    if (scheduler.now < this.downUntil) return this.connectSoon();
    if (source.state !== 'up' || target.state !== 'up') return;
    const [here, there] = SimLink.pair(this.#world, source.life, target.life);
    this.#link = [here, there];
    // what each says is said at its own time, and may be old when the other one hears it
    const delay = (): number => random() * this.delayMax + 0.1;
    const ends: { site: LineSite; life: Life; link: SimLink; peer: LineSite }[] = [
      { site: source, life: source.life, link: here, peer: target },
      { site: target, life: target.life, link: there, peer: source },
    ];
    const hellos = new Map<LineSite, unknown>();
    for (const { site, life, link } of ends) {
      link.onClose = () => this.#gone(here, there);
      after(delay(), () => {
        if (site.life.over || site.life !== life) return;
        if (site.pair === null || link.ended) return;
        hellos.set(site, JSON.parse(JSON.stringify(site.pair.hello())));
        for (const end of ends) {
          if (hellos.size < 2) continue;
          after(delay(), () => {
            const { pair } = end.site;
            if (end.site.life.over || end.link.ended || pair === null || end.site.life !== end.life) return;
            this.#replace(end.site);
            pair.onLink(end.link, hellos.get(end.peer));
            const closed = end.link.onClose;
            end.link.onClose = (reason, code) => {
              closed?.(reason, code);
              this.#gone(here, there);
            };
            end.link.begin();
          });
        }
      });
    }
    after(5000, () => {
      if (hellos.size < 2 && this.#link?.[0] === here) here.cut();
    });
    met('links');
  }

  #gone(here: SimLink, there: SimLink): void {
    const { source, target, after } = this.#world;
    for (const end of [here, there]) this.#judge(end);
    if (this.#link?.[0] !== here) return;
    const dead = (link: SimLink, site: LineSite): boolean => link.ended || site.life.over;
    if (!dead(here, source) || !dead(there, target)) {
      here.cut();
      after(60, () => {
        if (this.#link?.[0] === here) {
          this.#link = null;
          this.connectSoon();
        }
      });
      return;
    }
    this.#link = null;
    this.connectSoon();
  }

  /** An end that found the other one at fault: there are few reasons for that. */
  #judge(end: SimLink): void {
    const world = this.#world;
    const { source, target } = world;
    const closed = end.closedWith;
    if (closed === null || closed.code !== 4001) return;
    end.closedWith = null;
    world.note(`link closed: ${closed.reason}`);
    // under pressure the journal may give up what a START had asked it to keep
    const given = [source, target].map(({ group }) => group?.cleaner.counters.retentionGivenUp ?? 0);
    const givenUp = (world.counts['retention given up'] ?? 0) + given[0]! + given[1]! > 0; // in this life or an earlier one
    const fine =
      /both ends must decide the same|the journal is full|cannot write its state: ENOSPC/.test(closed.reason) ||
      (world.counts['bit flip'] !== undefined && /the returned tail is damaged/.test(closed.reason)) ||
      (givenUp && /no longer holds/.test(closed.reason));
    const hasFailed = ({ group, unreadable }: LineSite): boolean =>
      unreadable || (group !== null && group.journal.failed !== null);
    if (hasFailed(source) || hasFailed(target)) return;
    world.met(fine ? 'closed' : `closed: ${closed.reason.replace(/\d+/g, 'N')}`);
    if (!fine) world.fail(new Error(`the link was closed: ${closed.reason}: ${world.describe()}`));
  }

  /** For a complaint. */
  describe(): string {
    return this.#link === null ? 'none' : this.#link.map((end) => end.describe()).join(' ');
  }
}
