/**
 * What both sites have written, and what follows from that alone: the truth that the sites are compared with.
 *
 *     Truth   both streams, as they were appended; what hosts were told of them; the rule of mirror/conflict.ts, written
 *             again from its text: who conflicts, who is dead, and what all scopes one after the other would leave
 *     Shown   what one site must show: unit by unit the version with the highest (scope stamp, sequence) among its own
 *             records and the applied ones of the peer, without the dead; and every value that a unit ever had
 */
import {
  FLAG_ABORT_ON_CONFLICT,
  FLAG_READ_LOCK,
  FLAG_STAGED,
  TYPE_ABORT,
  TYPE_COMMIT,
  TYPE_LOCK,
  TYPE_TRIM,
  TYPE_WRITE,
  TYPE_ZERO,
} from '../../assembly/layout.js';
import type { Journal } from '../../src/journal/journal.js';
import type { RecordHeader } from '../../src/journal/record.js';
import { History, UNIT } from './group-history.js';

export type SiteIndex = 0 | 1;

export interface TruthRecord {
  readonly from: SiteIndex;
  /** The life of its author. */
  readonly life: number;
  readonly type: number;
  readonly flags: number;
  readonly volume: number;
  readonly lba: number;
  readonly end: number;
  readonly scope: number;
  readonly sequence: number;
  readonly seen: number;
  readonly clock: number;
  readonly generation: number;
  readonly session: number;
  /** Site number. */
  readonly site: number;
  /** First unit, and how many. */
  readonly unit: number;
  readonly units: number;
  /** Of a WRITE. */
  readonly tags: Uint32Array | null;
}

/** What an `abort` scope read of its extent before it wrote. */
interface ScopeRead {
  unit: number;
  tags: Uint32Array;
}

export type Volumes = readonly { blocks: number; blockSize: number }[];

export class Truth {
  readonly streams: readonly [TruthRecord[], TruthRecord[]] = [[], []];
  /** Own sequences that a flush has promised for ever, and of these what it has promised at the other site, too. */
  readonly promised: [number, number] = [0, 0];
  readonly promisedThere: [number, number] = [0, 0];
  /** Scopes that hosts were told of. */
  readonly confirmed = new Set<TruthRecord>();
  readonly told = new Set<TruthRecord>();
  /** Scopes that were alive when a flush promised them. */
  readonly flushed = new Set<TruthRecord>();
  readonly reads = new Map<TruthRecord, ScopeRead>();
  /** Sessions that open no `abort` scope, as site, life and number: nothing can take back what they write. */
  readonly plainSessions = new Set<string>();
  readonly history: History;
  readonly volumes: Volumes;
  readonly #violation: (what: string) => never;
  readonly #met: (what: string) => void;
  /** Of each stream, the scopes by session. */
  readonly #sessions: readonly [Map<number, TruthRecord[]>, Map<number, TruthRecord[]>] = [new Map(), new Map()];
  /** Of each stream, the sequences of dead scopes that have their ABORT. */
  readonly aborts: readonly [Map<number, TruthRecord>, Map<number, TruthRecord>] = [new Map(), new Map()];
  /** Of each stream, what its author has only from the other site's image: the ABORT of a scope in it may be lost. */
  readonly copied: [number, number] = [0, 0];

  constructor(volumes: Volumes, violation: (what: string) => never, met: (what: string) => void) {
    this.volumes = volumes;
    this.history = new History(volumes, violation);
    this.#violation = violation;
    this.#met = met;
  }

  get records(): number {
    return this.streams[0].length + this.streams[1].length;
  }

  // ---- records

  /**
   * A record stands in its author's journal: a new one, or one that was lost and comes back.
   * @param peerHas how much of this stream the other site's journal is known to hold
   */
  appended(
    from: SiteIndex,
    life: number,
    header: RecordHeader,
    journal: Journal,
    at: number,
    peerHas: number,
  ): TruthRecord {
    const stream = this.streams[from];
    const { sequence } = header;
    const known = stream[sequence - 1];
    if (known !== undefined && isSame(known, header)) return known;
    if (known !== undefined) {
      if (peerHas >= sequence && header.generation === known.generation)
        this.#violation(`record ${sequence} of site ${from} is written anew, the peer has ${peerHas} of its stream`);
      this.#met('tail dropped for good');
      this.cut(from, sequence - 1);
    }
    if (sequence !== stream.length + 1)
      this.#violation(`record ${sequence} of site ${from} is published behind ${stream.length}`);
    if (header.seen > this.streams[1 - from]!.length) this.#violation(`record ${sequence} has seen ${header.seen}`);
    const record = this.#copy(from, life, header, journal, at);
    stream.push(record);
    if (beginsScope(record) && !isRead(record)) {
      const scopes = this.#sessions[from].get(record.session);
      if (scopes === undefined) this.#sessions[from].set(record.session, [record]);
      else scopes.push(record);
    } else if (record.type === TYPE_ABORT) this.#aborted(from, record);
    return record;
  }

  #copy(from: SiteIndex, life: number, header: RecordHeader, journal: Journal, at: number): TruthRecord {
    const { type, flags, volume, lba, blockCount, scope, sequence, seen, clock, generation, session, site } = header;
    const per = (this.volumes[volume - 1]?.blockSize ?? UNIT) / UNIT;
    const unit = lba * per;
    const units = blockCount * per;
    const tags = type === TYPE_WRITE ? this.history.tagsOf(journal.memory.bytes, at + header.payloadAt, units) : null;
    const place = { volume, lba, end: lba + blockCount, unit, units, tags };
    return { from, life, type, flags, scope, sequence, seen, clock, generation, session, site, ...place };
  }

  #aborted(from: SiteIndex, record: TruthRecord): void {
    const scope = this.streams[from][record.scope - 1]!;
    if (!this.isDead(scope)) this.#violation(`scope ${record.scope} of site ${from} is aborted, and nothing beats it`);
    if (this.confirmed.has(scope))
      this.#violation(`scope ${record.scope} of site ${from} was confirmed, and is aborted`);
    if (this.flushed.has(scope)) this.#violation(`scope ${record.scope} of site ${from} was flushed, and is aborted`);
    if (this.plainSessions.has(sessionOf(scope)))
      this.#violation(`${record.scope} of site ${from}, of a session without abort scopes, is aborted`);
    this.aborts[from].set(record.scope, record);
    if (isRead(scope)) return this.#met('read lock killed');
    this.#met(scope.type === TYPE_LOCK ? 'abort scope killed' : 'write killed with its session');
    if (this.killer(scope) === null) this.#met('cascade');
  }

  /** A record of a stream as a site has it: it must be what its author wrote. */
  check(from: SiteIndex, header: RecordHeader): TruthRecord {
    const known = this.streams[from][header.sequence - 1];
    if (known === undefined || !isSame(known, header))
      this.#violation(`record ${header.sequence} of site ${from} was never written`);
    return known!;
  }

  /** What is behind `sequence` was lost at both sites, and will be written anew. */
  cut(from: SiteIndex, sequence: number): void {
    if (sequence < this.promised[from])
      this.#violation(`site ${from} goes on behind ${sequence}, a flush had promised ${this.promised[from]}`);
    for (const record of this.streams[from].splice(sequence)) {
      if (record.type === TYPE_ABORT) this.aborts[from].delete(record.scope);
      for (const set of [this.confirmed, this.told]) set.delete(record);
      this.reads.delete(record);
    }
    for (const [session, scopes] of this.#sessions[from]) {
      const kept = scopes.filter((scope) => scope.sequence <= sequence);
      if (kept.length === 0) this.#sessions[from].delete(session);
      else this.#sessions[from].set(session, kept);
    }
  }

  /**
   * A flush was answered: all scopes up to there are decided.
   * @param doomed of them, those whose ABORT is still to come
   * @param alone by a site that goes on without the other
   */
  flush(from: SiteIndex, through: number, doomed: ReadonlySet<number>, alone: boolean): void {
    for (let sequence = this.promised[from] + 1; sequence <= through; sequence += 1) {
      const record = this.streams[from][sequence - 1]!;
      if (!beginsScope(record) || this.aborts[from].has(sequence) || doomed.has(sequence)) continue;
      if (sequence > this.copied[from] || !this.isDead(record)) this.flushed.add(record);
    }
    this.promised[from] = Math.max(this.promised[from], through);
    if (!alone) this.promisedThere[from] = Math.max(this.promisedThere[from], through);
  }

  /** The record of a host's write whose last unit has this tag. */
  sequenceOf(from: SiteIndex, behind: number, tag: number): number | null {
    const stream = this.streams[from];
    for (let at = behind; at < stream.length; at += 1) {
      // a partial write behind it repeats its neighbours' tags
      if (stream[at]!.tags?.includes(tag)) return stream[at]!.sequence;
    }
    return null;
  }

  /** Staged writes of a site that bear any of these tags, behind a sequence. */
  staged(from: SiteIndex, behind: number, tags: ReadonlySet<number>): TruthRecord[] {
    const bears = (record: TruthRecord): boolean => record.tags?.some((tag) => tags.has(tag)) ?? false;
    return this.streams[from].slice(behind).filter((record) => isStaged(record) && bears(record));
  }

  /** The staged writes that show with a COMMIT: all that stand before it. */
  committed({ from, sequence, end }: TruthRecord): TruthRecord[] {
    const writes = this.streams[from].slice(sequence - 1 - end, sequence - 1);
    if (!writes.every(isStaged))
      this.#violation(`COMMIT ${sequence} of site ${from} is not behind all that it commits`);
    return writes;
  }

  /** Where a tag was written, for a complaint. */
  find(tag: number): string {
    for (const record of this.streams.flat()) {
      const at = record.tags?.indexOf(tag) ?? -1;
      if (at >= 0)
        return `${tag} is of ${record.from}:${record.sequence}, scope ${record.scope}, stamp ${record.generation}.${record.clock}`;
    }
    return `${tag} is in no record`;
  }

  // ---- the rule

  /** Lowest sequence of the other stream that an `abort` scope, or a read lock, loses against directly; null: none. */
  killer(scope: TruthRecord): number | null {
    if ((scope.flags & FLAG_ABORT_ON_CONFLICT) === 0 && !isRead(scope)) return null;
    const other = this.streams[1 - scope.from]!;
    for (let at = scope.seen; at < other.length; at += 1) {
      const met = other[at]!;
      if (!beginsScope(met) || isRead(met) !== isRead(scope)) continue;
      if (met.seen >= scope.sequence) return null;
      if (overlap(met, scope) && isLater(scope, met)) return met.sequence;
    }
    return null;
  }

  isDead(scope: TruthRecord): boolean {
    if (isRead(scope)) return this.killer(scope) !== null;
    let below = 0;
    for (const each of this.#sessions[scope.from].get(scope.session) ?? []) {
      let dead = each.seen < below;
      const killer = dead ? null : this.killer(each);
      if (killer !== null) {
        dead = true;
        below = Math.max(below, killer);
      }
      if (each === scope) return dead;
    }
    return this.#violation(`scope ${scope.sequence} of site ${scope.from} is not known`);
  }

  /** All living scopes one after the other, whole, in the order of their stamps. @returns tags by volume */
  serial(): Map<number, Uint32Array> {
    const images = new Map(
      this.volumes.map(({ blocks, blockSize }, index) => [index + 1, new Uint32Array((blocks * blockSize) / UNIT)]),
    );
    const writes = new Map<TruthRecord, TruthRecord[]>();
    for (const stream of this.streams) {
      for (const record of stream) {
        if (beginsScope(record) && !this.isDead(record)) writes.set(record, isWrite(record) ? [record] : []);
        else if (isWrite(record) && !isStaged(record)) writes.get(stream[record.scope - 1]!)?.push(record);
        else if (record.type === TYPE_COMMIT) {
          for (const write of this.committed(record)) {
            const scope = stream[write.scope - 1]!;
            if (!writes.has(scope))
              this.#violation(`COMMIT ${record.sequence} of site ${record.from} is of a dead scope`);
            writes.get(scope)!.push(write);
          }
        }
      }
    }
    const scopes = [...writes.keys()].sort((a, b) => (isLater(a, b) ? 1 : -1));
    for (const scope of scopes) {
      this.#checkRead(scope, images.get(scope.volume)!);
      for (const { volume, type, unit, units, tags } of writes.get(scope)!) {
        if (type === TYPE_WRITE) images.get(volume)!.set(tags!, unit);
        else images.get(volume)!.fill(0, unit, unit + units);
      }
    }
    return images;
  }

  /** What an `abort` scope has read is what stands before it in the order: what it counts up is never lost. */
  #checkRead(scope: TruthRecord, image: Uint32Array): void {
    const read = this.reads.get(scope);
    if (read === undefined) return;
    this.#met('read of an abort scope checked');
    for (let i = 0; i < read.tags.length; i += 1) {
      if (read.tags[i] === image[read.unit + i]) continue;
      this.#violation(
        `abort scope ${scope.sequence} of site ${scope.from} has read ${read.tags[i]} in unit ${read.unit + i} ` +
          `of volume ${scope.volume}, ${image[read.unit + i]} stands before it`,
      );
    }
  }

  /** In the end: fates, and what hosts were told. */
  checkFates(): void {
    for (const from of [0, 1] as const) {
      for (const record of this.streams[from]) {
        if (!beginsScope(record)) continue;
        const dead = this.isDead(record);
        const isLost = dead && record.sequence <= this.copied[from];
        if (dead !== this.aborts[from].has(record.sequence) && !isLost)
          this.#violation(
            `scope ${record.sequence} of site ${from} is ${dead ? 'dead and has no ABORT' : 'alive and has one'}`,
          );
        if (dead && this.confirmed.has(record)) this.#violation(`${record.sequence} was confirmed, and is dead`);
        if (dead && this.flushed.has(record)) this.#violation(`${record.sequence} was flushed, and is dead`);
        if (!dead && this.told.has(record)) this.#violation(`${record.sequence} was told to be aborted, and is alive`);
      }
    }
  }

  /** For the report: every pair of scopes that conflict, by what they are and by what the one is later than the other. */
  countConflicts(): void {
    const [ours, theirs] = this.streams;
    for (const a of ours) {
      if (!beginsScope(a)) continue;
      for (let at = a.seen; at < theirs.length && theirs[at]!.seen < a.sequence; at += 1) {
        const b = theirs[at]!;
        if (!beginsScope(b) || isRead(a) !== isRead(b) || !overlap(a, b)) continue;
        const [loser, winner] = isLater(a, b) ? [a, b] : [b, a];
        this.#met(`${kindOf(loser)} lost to ${kindOf(winner)}`);
        const by = a.generation !== b.generation ? 'generation' : a.clock !== b.clock ? 'clock' : 'site';
        this.#met(`lost by ${by}`);
      }
    }
  }
}

export class Shown {
  readonly #truth: Truth;
  readonly #self: SiteIndex;
  /** By volume and unit: the versions that are alive, the one that shows, and all that ever showed with their ticks. */
  readonly #volumes: Map<number, { versions: TruthRecord[][]; top: (TruthRecord | null)[]; log: number[][] }>;
  /** Counts the changes. */
  tick = 0;
  readonly #met: (what: string) => void;

  /** @param ownThrough of the own stream, and how much of the peer's is applied */
  constructor(truth: Truth, self: SiteIndex, ownThrough: number, applied: number, met: (what: string) => void) {
    this.#truth = truth;
    this.#self = self;
    this.#met = () => {};
    this.#volumes = new Map(
      truth.volumes.map(({ blocks, blockSize }, index) => {
        const units = (blocks * blockSize) / UNIT;
        return [
          index + 1,
          {
            versions: Array.from({ length: units }, () => []),
            top: new Array<TruthRecord | null>(units).fill(null),
            log: Array.from({ length: units }, () => [0, 0]),
          },
        ];
      }),
    );
    const own = truth.streams[self];
    const aborted = new Set<number>();
    for (let at = 0; at < ownThrough; at += 1) {
      const record = own[at]!;
      if (record.type === TYPE_ABORT) aborted.add(record.scope);
      if (at < truth.copied[self] && beginsScope(record) && truth.isDead(record)) aborted.add(record.sequence);
    }
    for (let at = 0; at < ownThrough; at += 1) {
      const record = own[at]!;
      if (!aborted.has(record.scope)) this.#layAll(record);
    }
    for (let at = 0; at < applied; at += 1) this.applied(truth.streams[1 - self]![at]!);
    this.#met = met;
  }

  own(record: TruthRecord): void {
    if (record.type === TYPE_ABORT) this.#takeOut(record.scope);
    else this.#layAll(record);
  }

  applied(record: TruthRecord): void {
    if (!isWrite(record) && record.type !== TYPE_COMMIT) return;
    if (this.#truth.isDead(this.#truth.streams[record.from][record.scope - 1]!)) this.#met('dead record skipped');
    else this.#layAll(record);
  }

  /** What shows with a record. */
  #layAll(record: TruthRecord): void {
    if (record.type === TYPE_COMMIT) for (const write of this.#truth.committed(record)) this.#lay(write);
    else if (isWrite(record) && !isStaged(record)) this.#lay(record);
  }

  #lay(record: TruthRecord): void {
    const { versions, top } = this.#volumes.get(record.volume)!;
    let masked = 0;
    let beneath = 0;
    for (let unit = record.unit; unit < record.unit + record.units; unit += 1) {
      versions[unit]!.push(record);
      const shown = top[unit]!;
      if (shown !== null && isAbove(shown, record)) {
        if (this.#isAbort(shown)) beneath += 1;
        else masked += 1;
      } else this.#show(record.volume, unit, record);
    }
    if (masked > 0) this.#met('masked');
    if (beneath > 0) this.#met('placed beneath an abort scope');
  }

  #isAbort(record: TruthRecord): boolean {
    return (this.#truth.streams[record.from][record.scope - 1]!.flags & FLAG_ABORT_ON_CONFLICT) !== 0;
  }

  #takeOut(scope: number): void {
    for (const record of this.#truth.streams[this.#self]) {
      if (!isWrite(record) || record.scope !== scope) continue;
      const { versions, top } = this.#volumes.get(record.volume)!;
      for (let unit = record.unit; unit < record.unit + record.units; unit += 1) {
        const left = versions[unit]!.filter((each) => each !== record);
        versions[unit] = left;
        if (top[unit] !== record) continue;
        const next = left.reduce<TruthRecord | null>((best, each) => (best && isAbove(best, each) ? best : each), null);
        this.#show(record.volume, unit, next);
      }
    }
  }

  #show(volume: number, unit: number, record: TruthRecord | null): void {
    const { top, log } = this.#volumes.get(volume)!;
    this.tick += 1;
    top[unit] = record;
    log[unit]!.push(this.tick, tagAt(record, unit));
  }

  image(volume: number): Uint32Array {
    return Uint32Array.from(this.#volumes.get(volume)!.top, tagAt);
  }

  /** Did a unit show this at any moment from `tick` on? */
  showedSince(tick: number, volume: number, unit: number, tag: number): boolean {
    const log = this.#volumes.get(volume)!.log[unit]!;
    for (let at = log.length - 2; at >= 0; at -= 2) {
      if (log[at + 1] === tag) return true;
      if (log[at]! <= tick) return false;
    }
    return false;
  }

  /** What changed in a range of units behind `tick`, or null. */
  changedSince(tick: number, volume: number, unit: number, units: number): string | null {
    for (let at = unit; at < unit + units; at += 1) {
      const log = this.#volumes.get(volume)!.log[at]!;
      if (log.at(-2)! > tick) return `unit ${at} of volume ${volume} became ${log.at(-1)}`;
    }
    return null;
  }

  /** For a complaint. */
  describe(volume: number, unit: number): string {
    const record = this.#volumes.get(volume)!.top[unit]!;
    return record === null ? 'nothing' : `${tagAt(record, unit)} of ${record.from}:${record.sequence}`;
  }
}

function tagAt(record: TruthRecord | null, unit: number): number {
  return record === null || record.tags === null ? 0 : record.tags[unit - record.unit]!;
}

const FIELDS = ['type', 'flags', 'volume', 'lba', 'scope', 'seen', 'clock', 'generation', 'session', 'site'] as const;

function isSame(record: TruthRecord, header: RecordHeader): boolean {
  return FIELDS.every((field) => record[field] === header[field]) && record.end === header.lba + header.blockCount;
}

export function sessionOf({ from, life, session }: { from: SiteIndex; life: number; session: number }): string {
  return `${from} ${life} ${session}`;
}

export function isWrite({ type }: { type: number }): boolean {
  return type === TYPE_WRITE || type === TYPE_ZERO || type === TYPE_TRIM;
}

/** It shows at the COMMIT of its transaction, if that comes. */
export function isStaged({ flags }: { flags: number }): boolean {
  return (flags & FLAG_STAGED) !== 0;
}

/** A read lock: it has a part only among its own kind. */
function isRead({ flags }: TruthRecord): boolean {
  return (flags & FLAG_READ_LOCK) !== 0;
}

/** A LOCK, or a write that implies its lock. */
export function beginsScope(record: { type: number; scope: number; sequence: number }): boolean {
  return record.type === TYPE_LOCK || (isWrite(record) && record.scope === record.sequence);
}

function kindOf(scope: TruthRecord): string {
  if (isRead(scope)) return 'read lock';
  return (scope.flags & FLAG_ABORT_ON_CONFLICT) !== 0 ? 'abort' : 'replay';
}

function overlap(a: TruthRecord, b: TruthRecord): boolean {
  return a.volume === b.volume && a.lba < b.end && b.lba < a.end;
}

function isLater(a: TruthRecord, b: TruthRecord): boolean {
  return compare(a, b) > 0;
}

function compare(a: TruthRecord, b: TruthRecord): number {
  return a.generation - b.generation || a.clock - b.clock || a.site - b.site;
}

/** Of two versions of a unit: which one shows. */
function isAbove(a: TruthRecord, b: TruthRecord): boolean {
  const order = compare(a, b);
  return order > 0 || (order === 0 && a.sequence > b.sequence);
}
