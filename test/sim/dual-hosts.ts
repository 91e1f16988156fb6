/** The hosts of one site where both sites write: what they ask, and what they make of the answers. */
import { FLAG_ABORT_ON_CONFLICT, TYPE_COMMIT, TYPE_LOCK } from '../../assembly/layout.js';
import type { ForelockError } from '../../src/errors.js';
import type { Group } from '../../src/volume/group.js';
import { openScope, type Scope } from '../../src/volume/scope.js';
import { runTransaction, type Transaction } from '../../src/volume/transaction.js';
import type { Volume } from '../../src/volume/volume.js';
import type { DualSite } from './dual-site.js';
import { sessionOf, type TruthRecord } from './dual-truth.js';
import type { DualWorld } from './dual-world.js';
import { UNIT } from './group-history.js';
import type { Life } from './group-rig.js';

/** Errors that a host may be answered, whatever happens to the sites. */
const EXPECTED = ['ESHUTDOWN', 'EPERM', 'PEER_AWAY', 'ENOSPC', 'ETIMEDOUT', 'LOCK_ABORTED'];
const RETRY_MS = 20;
const WATCH_MS = 40;
/** A transaction that loses to the other site is tried so often. */
const ATTEMPTS_MAX = 6;
/** With these a transaction may be there or not; with any other error nothing of it is. */
const UNKNOWN = ['PEER_AWAY', 'EIO', 'ESHUTDOWN'];

/** One host's connection: a session for each life of the gateway. */
interface Connection {
  /** It opens scopes, in the same session as its other operations. */
  readonly scopes: boolean;
  session: number;
  life: Life | null;
}

interface Place {
  volume: Volume;
  /** Bytes. */
  offset: number;
  size: number;
}

type Answer = (what: string, error: Error | null, good: () => void) => void;

export class DualHosts {
  /** Operations asked, and answered, be it with an error. */
  operations = 0;
  answered = 0;
  stopped = false;
  outstanding = 0;
  /** They ask nothing before then, ms. */
  pausedUntil = 0;
  /** Of these, the ones that are the gateway's to answer: all but open scopes. */
  #asked = 0;
  readonly #open = new Map<number, string>();
  #life = 0;
  readonly #world: DualWorld;
  readonly #site: DualSite;

  constructor(world: DualWorld, site: DualSite) {
    this.#world = world;
    this.#site = site;
  }

  start(): void {
    for (let i = 0; i < this.#world.options.hosts; i += 1)
      this.#next({ scopes: this.#world.random() < 0.6, session: 0, life: null });
  }

  /** The gateway is gone, and with it whatever was asked. */
  gatewayDied(): void {
    this.#life += 1;
    this.outstanding = 0;
    this.#asked = 0;
    this.#open.clear();
  }

  /** A clean stop answers first. */
  gatewayEnds(): void {
    if (this.#asked === 0) return;
    this.#world.violation(`the gateway stopped and left operations without an answer: ${this.describe()}`);
  }

  describe(): string {
    return [...this.#open.values()].join('; ');
  }

  #next(connection: Connection): void {
    const { options, random, after, truth } = this.#world;
    const site = this.#site;
    const next = (): void => this.#next(connection);
    const think = random() < 0.5 ? random() * 0.3 : random() * options.thinkMs;
    after(think, () => {
      if (this.stopped) return;
      const { group } = site;
      if (group === null || site.state !== 'up' || !group.ready || this.#world.scheduler.now < this.pausedUntil) {
        after(RETRY_MS, next);
        return;
      }
      if (connection.life !== site.life) {
        connection.life = site.life;
        connection.session = group.nextSession();
        const key = sessionOf({ from: site.index, life: site.opens, session: connection.session });
        if (!connection.scopes) truth.plainSessions.add(key);
      }
      this.#operation(connection, group, next);
    });
  }

  #operation({ session, scopes }: Connection, group: Group, next: () => void): void {
    const { options, random, scheduler, checks } = this.#world;
    const site = this.#site;
    const answer = this.#ask(group, next);
    const number = this.operations;
    const volumes = [...group.volumes.values()];
    const volume = volumes[Math.floor(random() * volumes.length)]!;
    const draw = random();
    const place = this.#place(volume);
    const { offset, size } = place;
    this.#open.set(number, `${draw} ${session} ${offset / UNIT}+${size / UNIT} at ${scheduler.now}`);
    let left = draw;
    const isDrawn = (chance: number): boolean => {
      left -= chance;
      return left < 0;
    };
    const scoped = (work: Promise<string>): void => {
      this.#asked -= 1;
      work.then(
        (what) => answer(what, null, () => {}),
        (error) => answer('scope', error, () => {}),
      );
    };
    if (isDrawn(options.flush)) {
      const sequence = group.journal.own.appended;
      volume.flush({ settle: (error) => answer('flush', error, () => checks.flushed(site, sequence)) });
    } else if (isDrawn(options.trim)) {
      volume.trim(session, offset, size, false, { settle: (error) => answer('trim', error, () => {}) });
    } else if (isDrawn(options.zero)) {
      const fua = random() < options.fua;
      volume.zero(session, offset, size, fua, { settle: (error) => answer('zero', error, () => {}) });
    } else if (isDrawn(options.read)) {
      this.#read(session, place, answer);
    } else if (scopes && group.role === 'dual' && isDrawn(options.readLock)) {
      scoped(this.#readLock(session, place));
    } else if (scopes && isDrawn(options.scope)) {
      scoped(this.#scope(session, place, 0));
    } else if (group.role === 'dual' && isDrawn(options.transaction)) {
      scoped(this.#transaction(group));
    } else this.#write(session, place, answer);
  }

  /** One more operation is open. @returns what is told of its answer */
  #ask(group: Group, next: () => void): Answer {
    const { after, met, fail, checks, violation } = this.#world;
    this.operations += 1;
    this.outstanding += 1;
    this.#asked += 1;
    const number = this.operations;
    const life = this.#life;
    let answered = false;
    let gone = false;
    // a host whose gateway died starts again
    const watch = (): void => {
      if (answered || gone) return;
      if (life === this.#life) return after(WATCH_MS, watch);
      gone = true;
      next();
    };
    after(WATCH_MS, watch);
    return (what, error, good) => {
      if (gone || life !== this.#life) return;
      if (answered) violation(`${what} was answered twice`);
      answered = true;
      this.#open.delete(number);
      this.answered += 1;
      try {
        if (error === null) {
          met(what);
          if (!isScope(what)) checks.answered(this.#site, what);
          good();
        } else {
          const code = (error as ForelockError).code ?? error.message;
          met(`${what}: ${code}`);
          const failed = group.journal.failed !== null || this.#site.state === 'closing' || this.#site.unreadable;
          // a scope that was left open
          const overlaps = code === 'EINVAL' && /overlap an open scope of this session/.test(error.message);
          if (!(code === 'EIO' && failed) && !overlaps && !EXPECTED.includes(code)) throw error;
        }
      } catch (violation) {
        fail(violation as Error);
      }
      this.outstanding -= 1;
      if (!isScope(what)) this.#asked -= 1;
      next();
    };
  }

  /** Where the next operation goes: more often than not to the volume's hot beginning. */
  #place(volume: Volume): Place {
    const { options, random } = this.#world;
    const units = volume.size / UNIT;
    const per = volume.blockSize / UNIT;
    const aligned = per === 1 || random() >= options.partial;
    const step = aligned ? per : 1;
    const hot = random() < 0.8 ? Math.min(units, options.hotBlocks * per) : units;
    const unit = Math.floor((random() * hot) / step) * step;
    const most = Math.max(1, Math.floor(Math.min(units - unit, (random() ** 2 * options.writeSizeMax) / UNIT) / step));
    const size = Math.min(units - unit, (1 + Math.floor(random() * most)) * step) * UNIT;
    return { volume, offset: unit * UNIT, size };
  }

  #write(session: number, { volume, offset, size }: Place, answer: Answer): void {
    const { options, random, truth, checks, violation } = this.#world;
    const { history } = truth;
    const site = this.#site;
    const bytes = history.payload(size);
    const fua = random() < options.fua;
    const cut = Math.floor(random() * bytes.length);
    const pieces = random() < 0.5 ? [bytes] : [bytes.subarray(0, cut), bytes.subarray(cut)];
    const tag = history.tagsOf(bytes, 0, size / UNIT).at(-1)!;
    const before = site.journal.own.appended;
    const good = (): void => {
      const last = truth.sequenceOf(site.index, before, tag);
      if (last === null) return violation('a write was answered that never became a record');
      if (fua) checks.flushed(site, last);
    };
    volume.write(session, offset, size, pieces, fua, {
      settle: (error) => answer(fua ? 'fua write' : 'write', error, good),
    });
  }

  /** A read gives, for each unit, what was shown when it was asked or at a moment since. */
  #read(session: number, { volume, offset, size }: Place, answer: Answer): void {
    const site = this.#site;
    const { shown } = site;
    const tick = shown?.tick ?? 0;
    volume.read(session, offset, size, {
      settleRead: (error, pieces) =>
        answer('read', error, () => this.#checkRead(shown, tick, volume, offset, Buffer.concat(pieces))),
    });
  }

  #checkRead(shown: DualSite['shown'], tick: number, volume: Volume, offset: number, bytes: Uint8Array): Uint32Array {
    const { truth, violation } = this.#world;
    const found = truth.history.tagsOf(new Uint8Array(bytes), 0, bytes.length / UNIT);
    const first = offset / UNIT;
    for (let i = 0; i < found.length && shown !== null; i += 1) {
      if (shown.showedSince(tick, volume.number, first + i, found[i]!)) continue;
      violation(
        `a read at ${this.#site.name} shows ${truth.find(found[i]!)} in unit ${first + i} of volume ${volume.number}, ` +
          `where ${shown.describe(volume.number, first + i)} is`,
      );
    }
    return found;
  }

  // ---- scopes

  #extent({ volume, offset, size }: Place): { offset: number; size: number } {
    const { blockSize } = volume;
    const first = Math.floor(offset / blockSize) * blockSize;
    return { offset: first, size: Math.max(blockSize, Math.ceil((offset + size - first) / blockSize) * blockSize) };
  }

  /** Whoever held a scope died with the gateway. */
  #pause(ms: number): Promise<void> {
    const { life } = this.#site;
    return new Promise((resolve) => this.#world.after(ms, () => life.over || resolve()));
  }

  /** A lock, a read, some writes that are read back, perhaps another scope inside, the unlock. */
  async #scope(session: number, place: Place, depth: number): Promise<string> {
    const { options, random, truth } = this.#world;
    const site = this.#site;
    const { volume } = place;
    const extent = this.#extent(place);
    const abort = random() < options.abort;
    const scope = await openScope(volume, extent, { onConflict: abort ? 'abort' : 'replay', waitMsMax: 2000 }, session);
    const record = truth.streams[site.index][scope.sequence - 1]!;
    this.#watchFate(scope, record);
    let leave = false;
    try {
      if (abort && volume.group.role === 'dual') {
        const { shown } = site;
        const tick = shown?.tick ?? 0;
        const bytes = await scope.read(extent.offset, extent.size);
        const tags = this.#checkRead(shown, tick, volume, extent.offset, bytes);
        truth.reads.set(record, { unit: extent.offset / UNIT, tags });
      }
      for (let i = Math.floor(random() * 3); i >= 0; i -= 1) await this.#writeIn(scope, extent);
      if (depth < 2 && random() < options.nested) await this.#nested(session, this.#place(volume), depth + 1);
      if (random() < options.late) await this.#pause(random() * 600);
      if (random() < 0.2) await scope.confirmed;
      leave = random() < options.never;
    } finally {
      if (!leave) await scope.unlock();
    }
    if (leave) this.#world.met('scope left open');
    return abort ? 'scope that aborts' : 'scope';
  }

  /** A scope inside of another one, in the same session: refused where it overlaps that. */
  async #nested(session: number, place: Place, depth: number): Promise<void> {
    try {
      await this.#scope(session, place, depth);
      this.#world.met('nested scope');
    } catch (error) {
      if ((error as ForelockError).code !== 'EINVAL') throw error;
    }
  }

  async #writeIn(scope: Scope, extent: { offset: number; size: number }): Promise<void> {
    const { random, truth, violation } = this.#world;
    const { blockSize } = scope.volume;
    const blockCount = extent.size / blockSize;
    const skip = Math.floor(random() * blockCount);
    const bytes = truth.history.payload((1 + Math.floor(random() * Math.min(8, blockCount - skip))) * blockSize);
    const at = extent.offset + skip * blockSize;
    await scope.write(at, bytes);
    const back = await scope.read(at, bytes.length);
    const dead = truth.isDead(truth.streams[this.#site.index][scope.sequence - 1]!);
    if (!dead && !this.#isAged(scope) && Buffer.compare(back, bytes) !== 0)
      violation('a scope does not read what it wrote');
    if (random() < 0.5) await this.#pause(random() * 30);
  }

  /** The group may have ended it by now. */
  #isAged(scope: Scope): boolean {
    return !scope.volume.group.scopes.open.has(scope.sequence);
  }

  /** What its holder is told of a scope holds for ever. */
  #watchFate(scope: Scope, record: TruthRecord): void {
    const { truth, violation, met, fail } = this.#world;
    scope.confirmed
      .then(
        () => {
          if (truth.aborts[record.from].has(record.sequence))
            violation(`${record.sequence} is aborted, and was confirmed`);
          truth.confirmed.add(record);
        },
        (error: ForelockError) => {
          if (error.code === 'LOCK_ABORTED') {
            met('told of an abort');
            truth.told.add(record);
          } else if (!EXPECTED.includes(error.code)) throw error;
        },
      )
      .catch(fail);
  }

  /** What is read under its locks is written anew, all of it or nothing; it is tried again where it loses to the other site. */
  async #transaction(group: Group): Promise<string> {
    const { truth, met, violation } = this.#world;
    const { index, journal, life } = this.#site;
    for (let attempt = 1; ; attempt += 1) {
      const behind = journal.own.appended;
      const tags = new Set<number>();
      const written = (): TruthRecord[] => truth.staged(index, behind, tags);
      try {
        const work = (transaction: Transaction): Promise<void> => this.#rewrite(group, transaction, tags);
        await runTransaction(group, work, { waitMsMax: 1000 });
        const records = written();
        const commit = truth.streams[index].slice(behind).find((record) => {
          return record.type === TYPE_COMMIT && truth.committed(record).some((write) => records.includes(write));
        });
        const count = tags.size === 0 ? 0 : truth.committed(commit!).length;
        if (records.length !== count) violation(`a transaction of ${records.length} writes has ${count} in its COMMIT`);
        for (const record of records) truth.confirmed.add(truth.streams[index][record.scope - 1]!);
        return 'transaction';
      } catch (error) {
        const code = (error as ForelockError).code ?? '';
        if (!UNKNOWN.includes(code) && written().length > 0)
          violation(`a transaction was written, and refused: ${error}`);
        if (error instanceof GivenUp) return 'transaction given up';
        if (code !== 'LOCK_ABORTED' || attempt === ATTEMPTS_MAX || this.stopped || life.over) throw error;
        met('transaction tried again');
      }
    }
  }

  async #rewrite(group: Group, transaction: Transaction, tags: Set<number>): Promise<void> {
    const { random, truth } = this.#world;
    const { index } = this.#site;
    const volumes = [...group.volumes.values()];
    for (let i = Math.floor(random() * 4); i >= 0; i -= 1) {
      const volume = volumes[Math.floor(random() * volumes.length)]!;
      const extent = this.#extent(this.#place(volume));
      extent.size = Math.min(extent.size, 8 * volume.blockSize);
      try {
        await transaction.lock(volume.name, extent);
      } catch (error) {
        if ((error as ForelockError).code === 'EINVAL') continue; // it has locked some of it
        throw error;
      }
      const lba = extent.offset / volume.blockSize;
      const lock = truth.streams[index].findLast(
        (record) => record.type === TYPE_LOCK && record.volume === volume.number && record.lba === lba,
      )!;
      const { shown } = this.#site;
      const tick = shown?.tick ?? 0;
      const bytes = await transaction.read(volume.name, extent.offset, extent.size);
      const read = this.#checkRead(shown, tick, volume, extent.offset, bytes);
      if ((lock.flags & FLAG_ABORT_ON_CONFLICT) !== 0)
        truth.reads.set(lock, { unit: extent.offset / UNIT, tags: read });
      const written = truth.history.payload(extent.size);
      for (const tag of truth.history.tagsOf(written, 0, extent.size / UNIT)) tags.add(tag);
      transaction.write(volume.name, extent.offset, written);
      if (random() < 0.3) await this.#pause(random() * 30);
    }
    if (random() < 0.1) throw new GivenUp();
  }

  /** While a read lock is had nothing changes in its blocks, at either site. */
  async #readLock(session: number, place: Place): Promise<string> {
    const { random, violation } = this.#world;
    const site = this.#site;
    const { volume } = place;
    const extent = this.#extent(place);
    const scope = await openScope(volume, extent, { mode: 'read', waitMsMax: 2000 }, session);
    // who is frozen shows an older image, and must catch up before anybody sees it
    const shown = [site, site.other].map((each) => (each.group?.frozen === false ? each.shown : null));
    const ticks = shown.map((each) => each?.tick ?? 0);
    await this.#pause(random() < 0.1 ? random() * 1000 : random() * 100);
    for (const [at, each] of shown.entries()) {
      const where = [site, site.other][at]!;
      // a site that was opened again shows the same, but knows no more when it came
      if (each === null || where.shown !== each || this.#isAged(scope)) continue;
      const changed = each.changedSince(ticks[at]!, volume.number, extent.offset / UNIT, extent.size / UNIT);
      if (changed !== null) violation(`${changed} at ${where.name} under read lock ${scope.sequence} of ${site.name}`);
    }
    await scope.unlock();
    return 'read lock';
  }
}

/** It is not the gateway's to answer. */
function isScope(what: string): boolean {
  return ['scope', 'read lock', 'transaction'].some((each) => what.startsWith(each));
}

/** A host that changes its mind. */
class GivenUp extends Error {}
