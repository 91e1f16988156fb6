/**
 * A model world of both sites at once: two sites, a few blocks, sessions with scripts, and the production `Conflicts`
 * and `Versions` over a production `BlockMap`. Everything around them (journal, line, disk, handshake) is an array.
 *
 * What may happen: a step of a session, a record or a confirmation arrives, an ABORT that had to wait for room is
 * written, a record is applied, a sync, a MARK, a checkpoint, a cut of the line, a crash that loses the unsynced journal. After a crash the lost tail is returned by
 * the peer; or once in a world the crashed site serves alone: it mints a generation, and the peer drops what lies beyond.
 *
 * What must hold, at every step: a site's image is, block by block, the version with the highest (scope stamp, sequence)
 * among its own and the applied ones without the dead: computed here from the records alone. A recovery from a
 * checkpoint comes to the same as one from the beginning. In the end: both images are the execution of all scopes one
 * after the other in stamp order; dead sets agree; no flush promise and no confirmation was taken back; who was told of
 * an abort is aborted; what an `abort` scope had read is what stands before it in the order; nobody waits. Under a read
 * lock that was granted, from then to its end, nothing changes at its site, and the other's hosts begin nothing.
 */
import {
  FLAG_ABORT_ON_CONFLICT,
  FLAG_READ_LOCK,
  TYPE_ABORT,
  TYPE_FLUSH,
  TYPE_LOCK,
  TYPE_TRIM,
  TYPE_UNLOCK,
  TYPE_WRITE,
  TYPE_ZERO,
} from '../../assembly/layout.js';
import { Liveness } from '../../src/journal/liveness.js';
import { BlockMap } from '../../src/journal/map.js';
import { isLater, type Settled, Versions } from '../../src/journal/versions.js';
import { type ConflictState, Conflicts, type Newcomer } from '../../src/mirror/conflict.js';

export const BLOCKS = 4;
const SEGMENT_SIZE = 4 * 1024 * 1024;
const STEPS_MAX = 1500;

export interface Op {
  kind: 'write' | 'lock' | 'scoped' | 'unlock' | 'flush';
  type: number;
  lba: number;
  blockCount: number;
  abort: boolean;
  /** Of a lock: its session goes on once both sites hold it. */
  read: boolean;
}

export interface WorldOptions {
  /** Per site: the scripts of its sessions 1, 2, ... */
  scripts: Op[][][];
  /** Microseconds by which each site's clock is ahead. */
  skews: [number, number];
  crashes: number;
  cuts: number;
  alone: boolean;
  weights: Record<string, number>;
  random: () => number;
}

export interface ModelRecord {
  readonly uid: number;
  readonly type: number;
  readonly flags: number;
  readonly volume: number;
  readonly lba: number;
  readonly blockCount: number;
  readonly scope: number;
  readonly sequence: number;
  readonly seen: number;
  readonly clock: number;
  readonly generation: number;
  readonly session: number;
  readonly site: number;
}

type Entry =
  | { kind: 'own' | 'peer'; record: ModelRecord; position: number }
  | { kind: 'mark'; applied: number }
  | { kind: 'minted' };

type Message = { record: ModelRecord } | { through: number; behind: number; granted: number; durable: number };

interface Checkpoint {
  at: number;
  start: number;
  image: (number | 'zero' | null)[];
  state: ConflictState;
  settled: Settled;
}

interface Core {
  conflicts: Conflicts;
  versions: Versions;
  map: BlockMap;
  /** Scopes of the peer that were skipped. */
  skipped: Set<number>;
  aborted: Set<number>;
}

interface Session {
  number: number;
  script: Op[];
  at: number;
  gone: boolean;
  /** Sequences of its open scopes. */
  open: ModelRecord[];
}

class Site {
  readonly index: number;
  readonly number: number;
  journal: Entry[] = [];
  durable = 0;
  own: ModelRecord[] = [];
  peer: ModelRecord[] = [];
  core: Core;
  clock = 0;
  physical: number;
  generation = 1;
  sessions: Session[];
  blocked = false;
  /** Read locks: asked for, and had with what they cover showed then. */
  readonly asked = new Set<ModelRecord>();
  readonly had = new Map<ModelRecord, string>();
  /** What the peer said of grants: counts once its stream is applied to `behind`. */
  grants: { granted: number; behind: number }[] = [];
  grantedThrough = 0;
  peerDurable = 0;
  flushes: number[] = [];
  /** ABORTs that are not synced: told afterwards. */
  telling: { scope: ModelRecord; at: number }[] = [];
  told = new Set<ModelRecord>();
  confirmed = new Set<ModelRecord>();
  sent = '';
  checkpoints: Checkpoint[] = [];

  constructor(index: number, skew: number, scripts: Op[][], core: Core) {
    this.index = index;
    this.number = index + 1;
    this.physical = skew;
    this.core = core;
    this.sessions = scripts.map((script, i) => ({ number: i + 1, script, at: 0, gone: false, open: [] }));
  }

  count(kind: 'own' | 'peer', end: number): number {
    let count = 0;
    for (let i = 0; i < end; i++) if (this.journal[i].kind === kind) count++;
    return count;
  }
}

/** A broken promise of the rule; everything else that is thrown is a bug of the code or the model. */
export class Broken extends Error {}

function fail(what: string): never {
  throw new Broken(what);
}

const isWrite = (record: { type: number }): boolean =>
  record.type === TYPE_WRITE || record.type === TYPE_ZERO || record.type === TYPE_TRIM;
const beginsScope = (record: ModelRecord): boolean =>
  record.type === TYPE_LOCK || (isWrite(record) && record.scope === record.sequence);
const kindOf = (op: Op): Newcomer =>
  op.abort ? 'abort' : op.read ? 'read' : op.kind === 'write' && op.type !== TYPE_WRITE ? 'bare' : 'replay';
const isRead = (record: ModelRecord): boolean => (record.flags & FLAG_READ_LOCK) !== 0;
const overlaps = (a: { lba: number; blockCount: number }, b: { lba: number; blockCount: number }): boolean =>
  a.lba < b.lba + b.blockCount && b.lba < a.lba + a.blockCount;
/** What a block shows when this record is on top. */
const shown = (record: ModelRecord, lba: number): string =>
  record.type === TYPE_WRITE ? `${record.uid}.${lba - record.lba}` : record.type === TYPE_ZERO ? 'zero' : 'none';

export class World {
  readonly #options: WorldOptions;
  readonly sites: [Site, Site];
  /** line[i]: on the way from site i. */
  readonly line: [Message[], Message[]] = [[], []];
  readonly trace: string[] = [];
  readonly #recordAt = new Map<number, ModelRecord>();
  readonly #promised = new Set<ModelRecord>();
  readonly #reads = new Map<ModelRecord, string[]>();
  #uid = 0;
  #position = 0;
  #crashes: number;
  #cuts: number;
  #alone: boolean;
  #cutOff = false;
  readonly met = {
    dead: 0,
    cascaded: 0,
    masked: 0,
    returned: 0,
    readLocks: 0,
    abortsWait: 0,
    alone: 0,
    fromCheckpoint: 0,
    recoveries: 0,
  };

  constructor(options: WorldOptions) {
    this.#options = options;
    this.#crashes = options.crashes;
    this.#cuts = options.cuts;
    this.#alone = options.alone;
    const site = (index: number): Site => {
      const made = new Site(index, options.skews[index], options.scripts[index], null as unknown as Core);
      made.core = this.#build(made, null);
      return made;
    };
    this.sites = [site(0), site(1)];
  }

  run(): void {
    const { random, weights } = this.#options;
    for (let step = 0; ; step++) {
      if (step > STEPS_MAX) fail('the world does not end');
      const enabled = this.#enabled();
      const useful = enabled.filter(([name]) => !['crash', 'cut', 'checkpoint', 'mark'].includes(name));
      if (useful.length === 0) {
        if (!this.#timeout()) break;
        continue;
      }
      const drawn = enabled.filter(([name]) => (name === 'crash' || name === 'cut' ? random() < 0.12 : true));
      const from = drawn.length > 0 ? drawn : useful;
      let left = random() * from.reduce((sum, [name]) => sum + (weights[name] ?? 0.5), 0);
      let at = 0;
      while (at < from.length - 1 && left >= (weights[from[at][0]] ?? 0.5)) left -= weights[from[at++][0]] ?? 0.5;
      const [name, site, session] = from[at];
      this.trace.push(`${name} ${'AB'[site.index]}${session === null ? '' : session.number}`);
      this.#step(name, site, session);
      for (const each of this.sites) this.#settle(each);
      for (const each of this.sites) this.#checkImage(each);
      for (const each of this.sites) this.#checkReads(each);
    }
    this.#checkEnd();
  }

  // ---- what can happen

  #enabled(): [string, Site, Session | null][] {
    const found: [string, Site, Session | null][] = [];
    for (const site of this.sites) {
      const { conflicts } = site.core;
      const waits = conflicts.doomed.size > 0;
      if (waits) found.push(['abort', site, null]);
      for (const session of site.sessions) {
        if (!waits && !session.gone && session.at < session.script.length && this.#can(site, session)) {
          found.push(['op', site, session]);
        }
      }
      if (this.line[1 - site.index].length > 0) found.push(['receive', site, null]);
      if (!site.blocked && conflicts.applied < conflicts.received) found.push(['apply', site, null]);
      if (this.#confirmation(site) !== site.sent) found.push(['confirm', site, null]);
      if (site.durable < site.journal.length) found.push(['sync', site, null]);
      if (this.trace.length < 200) found.push(['mark', site, null]);
      if (this.trace.length < 200 && !waits) found.push(['checkpoint', site, null]);
      if (this.#crashes > 0) found.push(['crash', site, null]);
    }
    if (this.#cuts > 0) found.push(['cut', this.sites[0], null]);
    return found;
  }

  #confirmation(site: Site): string {
    return `${site.core.conflicts.received} ${site.core.conflicts.applied} ${site.count('peer', site.durable)}`;
  }

  #can(site: Site, session: Session): boolean {
    const op = session.script[session.at];
    if (session.open.some((open) => site.asked.has(open))) return false;
    if (op.kind !== 'lock' && op.kind !== 'write') return true;
    for (const other of site.sessions) {
      for (const scope of other.open) {
        if (overlaps(scope, op)) {
          if (other !== session) return false;
        }
      }
    }
    return !site.core.conflicts.mustWait(session.number, 0, op.lba, op.blockCount, kindOf(op));
  }

  /** Nothing moves: a session that holds a scope and waits for another times out. False when there is none. */
  #timeout(): boolean {
    for (const site of this.sites) {
      for (const session of site.sessions) {
        if (session.open.length === 0) continue;
        this.trace.push(`timeout ${'AB'[site.index]}${session.number}`);
        session.gone = true;
        for (const scope of session.open.splice(0)) {
          this.#endRead(site, scope);
          this.#post(site, TYPE_UNLOCK, scope, null, session.number);
        }
        this.#settle(site);
        return true;
      }
    }
    return false;
  }

  #step(name: string, site: Site, session: Session | null): void {
    switch (name) {
      case 'op':
        return this.#op(site, session!);
      case 'receive':
        return this.#receive(site);
      case 'abort':
        return this.#abortDoomed(site);
      case 'apply':
        if (!this.#apply(site, site.core)) site.blocked = true;
        return;
      case 'confirm':
        site.sent = this.#confirmation(site);
        this.line[site.index].push({
          through: site.core.conflicts.received,
          behind: site.own.length,
          granted: site.core.conflicts.applied,
          durable: site.count('peer', site.durable),
        });
        return;
      case 'sync':
        site.durable = site.journal.length;
        return;
      case 'mark':
        site.journal.push({ kind: 'mark', applied: site.core.conflicts.applied });
        return;
      case 'checkpoint':
        return this.#checkpoint(site);
      case 'cut':
        this.#cuts--;
        return this.#connect();
      case 'crash':
        return this.#crash(site);
    }
  }

  #op(site: Site, session: Session): void {
    const op = session.script[session.at++];
    if (op.kind === 'write') {
      this.#post(site, op.type, null, op, session.number);
    } else if (op.kind === 'lock') {
      const record = this.#post(site, TYPE_LOCK, null, op, session.number);
      session.open.push(record);
      if (op.abort) this.#reads.set(record, this.#image(site.core));
      if (op.read) site.asked.add(record);
    } else if (op.kind === 'flush') {
      this.#post(site, TYPE_FLUSH, null, null, session.number);
      site.flushes.push(site.own.length);
    } else if (op.kind === 'unlock') {
      const scope = session.open.pop();
      if (scope === undefined) return;
      this.#endRead(site, scope);
      this.#post(site, TYPE_UNLOCK, scope, null, session.number);
    } else {
      const scope = session.open.find(
        (open) => op.lba >= open.lba && op.lba + op.blockCount <= open.lba + open.blockCount,
      );
      if (scope !== undefined && !isRead(scope)) this.#post(site, op.type, scope, op, session.number);
    }
  }

  // ---- a site's own stream

  #post(site: Site, type: number, scope: ModelRecord | null, op: Op | null, session: number): ModelRecord {
    const sequence = site.own.length + 1;
    const stamped = scope !== null && isWrite({ type });
    if (!stamped) site.clock = Math.max(site.clock + 1, ++site.physical);
    const record: ModelRecord = {
      uid: ++this.#uid,
      type,
      flags: op?.abort ? FLAG_ABORT_ON_CONFLICT : op?.read ? FLAG_READ_LOCK : 0,
      volume: 0,
      lba: op?.lba ?? 0,
      blockCount: op?.blockCount ?? 0,
      scope: scope?.sequence ?? (isWrite({ type }) ? sequence : 0),
      sequence,
      seen: stamped ? scope.seen : site.core.conflicts.received,
      clock: stamped ? scope.clock : site.clock,
      generation: stamped ? scope.generation : site.generation,
      session,
      site: site.number,
    };
    for (const read of this.sites[1 - site.index].had.keys()) {
      if (beginsScope(record) && overlaps(record, read)) fail('a scope begins under a read lock of the other site');
    }
    this.#journalOwn(site, record);
    this.line[site.index].push({ record });
    return record;
  }

  #endRead(site: Site, scope: ModelRecord): void {
    site.asked.delete(scope);
    site.had.delete(scope);
  }

  /** Read locks that are had now; those that are had show what they did. */
  #checkReads(site: Site): void {
    const { conflicts } = site.core;
    while (site.grants.length > 0 && site.grants[0].behind <= conflicts.applied) {
      site.grantedThrough = Math.max(site.grantedThrough, site.grants.shift()!.granted);
    }
    const cover = (scope: ModelRecord): string =>
      this.#image(site.core)
        .slice(scope.lba, scope.lba + scope.blockCount)
        .join();
    for (const scope of site.asked) {
      if (scope.sequence > site.grantedThrough) continue;
      site.asked.delete(scope);
      site.had.set(scope, cover(scope));
      this.met.readLocks++;
    }
    for (const [scope, had] of site.had) if (cover(scope) !== had) fail('what is under a read lock changed');
  }

  #journalOwn(site: Site, record: ModelRecord): void {
    const position = this.#place(record);
    site.own.push(record);
    site.journal.push({ kind: 'own', record, position });
    site.blocked = false;
    this.#tellOwn(site.core, record, position);
  }

  #place(record: ModelRecord): number {
    const position = ++this.#position * 4096;
    this.#recordAt.set(position, record);
    return position;
  }

  #tellOwn(core: Core, record: ModelRecord, position: number): void {
    core.conflicts.own(record);
    if (isWrite(record)) core.versions.own(record, position, core.conflicts.mayDie(record));
    else if (record.type === TYPE_ABORT) {
      core.aborted.add(record.scope);
      core.versions.abort(record.scope);
    }
  }

  /** Scopes that are dead end for those who hold them. */
  #endDoomed(site: Site): void {
    for (const sequence of site.core.conflicts.doomed) {
      const scope = site.own[sequence - 1];
      if (this.#promised.has(scope)) fail(`flush promise of ${sequence} taken back`);
      for (const session of site.sessions) session.open = session.open.filter((open) => open !== scope);
      if (site.had.has(scope)) fail('a read lock that was had is dead');
      site.asked.delete(scope);
    }
  }

  /** Appends the ABORTs that are due. */
  #abortDoomed(site: Site): void {
    this.#endDoomed(site);
    const { doomed } = site.core.conflicts;
    const scopes = [...doomed];
    this.met.dead += scopes.length > 0 ? 1 : 0;
    this.met.cascaded += scopes.length > 1 ? 1 : 0;
    for (const sequence of scopes) {
      const scope = site.own[sequence - 1];
      this.#post(site, TYPE_ABORT, scope, null, scope.session);
      site.telling.push({ scope, at: site.journal.length });
    }
    if (doomed.size > 0) fail('an ABORT does not end what it aborts');
  }

  // ---- the peer's stream

  #receive(site: Site): void {
    const message = this.line[1 - site.index].shift()!;
    const { conflicts } = site.core;
    if ('through' in message) {
      conflicts.confirmed(message.through, message.behind);
      site.peerDurable = Math.max(site.peerDurable, message.durable);
      site.grants.push({ granted: message.granted, behind: message.behind });
      return;
    }
    this.#journalPeer(site, message.record);
    this.#endDoomed(site);
    if (this.#options.random() < 0.8) this.#abortDoomed(site);
    else if (conflicts.doomed.size > 0) this.met.abortsWait++;
  }

  #journalPeer(site: Site, record: ModelRecord): void {
    site.peer.push(record);
    site.journal.push({ kind: 'peer', record, position: this.#place(record) });
    site.clock = Math.max(site.clock, record.clock);
    site.generation = Math.max(site.generation, record.generation);
    site.core.conflicts.receive(record);
  }

  /** @returns false if the next record waits */
  #apply(site: Site, core: Core, again = false): boolean {
    const sequence = core.conflicts.applied + 1;
    const record = site.peer[sequence - 1];
    const verdict = core.conflicts.apply(record, again);
    if (verdict === 'wait') return false;
    if (beginsScope(record) && verdict === 'skip') core.skipped.add(sequence);
    if (verdict === 'skip') return true;
    if (isWrite(record)) {
      const entry = site.journal.find((each) => each.kind === 'peer' && each.record === record);
      core.versions.peer(record, (entry as { position: number }).position);
    } else if (record.type === TYPE_LOCK) {
      if (!isRead(record)) core.versions.peerLock(record);
    } else if (record.type === TYPE_UNLOCK || record.type === TYPE_ABORT) core.versions.peerUnlock(record.scope);
    return true;
  }

  #settle(site: Site): void {
    const { conflicts, versions } = site.core;
    versions.close(conflicts.closedThrough);
    const ownDurable = site.count('own', site.durable);
    site.flushes = site.flushes.filter((through) => {
      if (ownDurable < through || site.peerDurable < through || conflicts.confirmedThrough < through) return true;
      for (const record of site.own.slice(0, through)) {
        if (beginsScope(record) && !this.#isAborted(site, record)) this.#promised.add(record);
      }
      return false;
    });
    site.telling = site.telling.filter(({ scope, at }) => {
      if (site.durable < at) return true;
      site.told.add(scope);
      return false;
    });
    for (const record of site.own.slice(0, conflicts.confirmedThrough)) {
      if (beginsScope(record) && !this.#isAborted(site, record)) site.confirmed.add(record);
    }
  }

  #isAborted({ core }: Site, scope: ModelRecord): boolean {
    return core.aborted.has(scope.sequence) || core.conflicts.doomed.has(scope.sequence);
  }

  // ---- disk, crash, line

  #checkpoint(site: Site): void {
    const { conflicts, versions, map } = site.core;
    site.journal.push({ kind: 'mark', applied: conflicts.applied });
    const ownFrom = Math.min(conflicts.oldestOwn, versions.settledThrough + 1);
    const peerFrom = Math.min(conflicts.oldestPeer, versions.peerFrom);
    const at = site.journal.length;
    let start = site.journal.findIndex(
      (entry) =>
        (entry.kind === 'own' && entry.record.sequence >= ownFrom) ||
        (entry.kind === 'peer' && entry.record.sequence >= peerFrom),
    );
    if (start < 0) start = at;
    const before = this.#image(site.core).join();
    const image = versions.withBase(() =>
      Array.from({ length: BLOCKS }, (_, lba) =>
        map.lookup(lba) ? map.position + map.index : map.zero ? ('zero' as const) : null,
      ),
    );
    if (this.#image(site.core).join() !== before) fail('a checkpoint changed what is shown');
    const settled = { through: versions.settledThrough, applied: conflicts.applied, peerFrom };
    site.checkpoints.push({ at, start, image, state: conflicts.state(site.count('peer', start)), settled });
  }

  /** The state that a site's journal tells, from a checkpoint or from the beginning. */
  #build(site: Site, checkpoint: Checkpoint | null): Core {
    const liveness = new Liveness(SEGMENT_SIZE);
    const map = new BlockMap(BLOCKS, liveness);
    checkpoint?.image.forEach((pointer, lba) => {
      if (pointer === 'zero') map.setZero(lba, 1);
      else if (pointer !== null) map.swing(lba, 1, Math.floor(pointer / 4096) * 4096, pointer % 4096);
    });
    const start = checkpoint?.start ?? 0;
    const core: Core = {
      conflicts: new Conflicts({
        ownBefore: site.count('own', start),
        peerBefore: site.count('peer', start),
        state: checkpoint?.state ?? null,
      }),
      versions: new Versions({
        volumes: new Map([[0, { map }]]),
        liveness,
        settled: checkpoint?.settled ?? { through: 0, applied: 0, peerFrom: 1 },
      }),
      map,
      skipped: new Set(),
      aborted: new Set(),
    };
    for (let i = start; i < site.journal.length; i++) {
      const entry = site.journal[i];
      if (entry.kind === 'own') this.#tellOwn(core, entry.record, entry.position);
      else if (entry.kind === 'peer') core.conflicts.receive(entry.record);
      else if (entry.kind === 'minted') this.#minted(site, core);
      else if (entry.kind === 'mark') {
        while (core.conflicts.applied < entry.applied) {
          this.#apply(site, core, true);
        }
      }
    }
    return core;
  }

  #recover(site: Site): void {
    const core = this.#build(site, null);
    this.met.recoveries++;
    for (const checkpoint of site.checkpoints) {
      const other = this.#build(site, checkpoint);
      const applied = Math.max(core.conflicts.applied, other.conflicts.applied);
      if (core.conflicts.applied < applied || other.conflicts.applied < applied) fail('a recovery applies less');
      if (this.#image(core).join() !== this.#image(other).join()) {
        fail(`recovery: ${this.#image(core)} from the beginning, ${this.#image(other)} from a checkpoint`);
      }
      if ([...core.conflicts.doomed].join() !== [...other.conflicts.doomed].join()) fail('recovery: doomed differ');
      if (this.#options.random() < 0.5) {
        // what a checkpoint does not tell is known from the other
        other.skipped = core.skipped;
        other.aborted = core.aborted;
        site.core = other;
        this.met.fromCheckpoint++;
        return;
      }
    }
    site.core = core;
  }

  #crash(site: Site): void {
    this.#crashes--;
    const { random } = this.#options;
    const peer = this.sites[1 - site.index];
    site.journal.length = site.durable;
    site.checkpoints = site.checkpoints.filter(({ at }) => at <= site.durable);
    this.#reload(site);
    this.#recover(site);
    this.#stopSessions(site, 0.5);
    if (random() < 0.5) site.physical = 0;
    const alone = this.#alone && random() < 0.5;
    if (alone) this.#serveAlone(site, peer);
    else {
      for (const record of peer.peer.slice(site.own.length)) {
        this.met.returned++;
        // what it had seen first: a journal is in causal order
        while (site.peer.length < record.seen) this.#journalPeer(site, peer.own[site.peer.length]);
        this.#journalOwn(site, record);
        site.clock = Math.max(site.clock, record.clock);
      }
      site.durable = site.journal.length;
    }
    this.#abortDoomed(site);
    this.#closeOpen(site);
    this.#connect();
  }

  /** What follows from a journal that became shorter. */
  #reload(site: Site): void {
    site.own = [];
    site.peer = [];
    site.clock = 0;
    for (const entry of site.journal) {
      if (entry.kind !== 'own' && entry.kind !== 'peer') continue;
      (entry.kind === 'own' ? site.own : site.peer).push(entry.record);
      site.clock = Math.max(site.clock, entry.record.clock);
    }
    site.flushes = [];
    site.telling = [];
    site.confirmed.clear();
    site.blocked = false;
    site.asked.clear();
    site.had.clear();
    site.grants = [];
    site.grantedThrough = 0;
  }

  #stopSessions(site: Site, gone: number): void {
    for (const session of site.sessions) {
      session.open = [];
      if (this.#options.random() < gone) session.gone = true;
    }
  }

  /** Scopes whose sessions ended with the process. */
  #closeOpen(site: Site): void {
    const open = new Map<number, ModelRecord>();
    for (const record of site.own) {
      if (record.type === TYPE_LOCK) open.set(record.sequence, record);
      else if (record.type === TYPE_UNLOCK || record.type === TYPE_ABORT) open.delete(record.scope);
    }
    for (const scope of open.values()) this.#post(site, TYPE_UNLOCK, scope, null, scope.session);
  }

  #serveAlone(site: Site, peer: Site): void {
    this.#alone = false;
    this.#cutOff = true;
    this.met.alone++;
    peer.had.clear();
    // the peer drops what this site does not have; of this site's stream, what it lost
    const [ownKept, peerKept] = [site.peer.length, site.own.length];
    for (const record of peer.own.slice(ownKept)) if (this.#promised.has(record)) fail('a promise is beyond the cut');
    const generation = Math.max(site.generation, peer.generation) + 1;

    site.generation = generation;
    this.#abortDoomed(site);
    this.#closeOpen(site);
    while (site.core.conflicts.applied < site.core.conflicts.received) {
      if (!this.#apply(site, site.core)) fail('a site alone waits for nobody');
    }
    site.journal.push({ kind: 'mark', applied: site.core.conflicts.applied }, { kind: 'minted' });
    this.#minted(site, site.core);
    for (const [lba, blockCount] of [
      [0, 1],
      [1, 2],
    ]) {
      const op: Op = { kind: 'write', type: TYPE_WRITE, lba, blockCount, abort: false, read: false };
      this.#promised.add(this.#post(site, TYPE_WRITE, null, op, 99));
    }
    site.durable = site.journal.length;

    const kept: Entry[] = [];
    let cut = false;
    for (const entry of peer.journal) {
      cut ||= entry.kind === 'own' && entry.record.sequence > ownKept;
      cut ||= entry.kind === 'peer' && entry.record.sequence > peerKept;
      if (entry.kind === 'own' && entry.record.sequence > ownKept) continue;
      if (entry.kind === 'peer' && entry.record.sequence > peerKept) continue;
      // what was applied behind the cut may have waited for what was cut
      if (entry.kind === 'mark' && cut) continue;
      kept.push(entry);
    }
    peer.journal = kept;
    peer.checkpoints = [];
    peer.durable = peer.journal.length;
    this.#reload(peer);
    peer.generation = generation;
    this.#recover(peer);
    this.#stopSessions(peer, 0.5);
    this.#abortDoomed(peer);
    this.#closeOpen(peer);
    peer.durable = peer.journal.length;
    peer.peerDurable = Math.min(peer.peerDurable, ownKept);
  }

  #minted(site: Site, core: Core): void {
    if (core.conflicts.applied < core.conflicts.received) fail(`site ${site.number} mints before it has applied`);
    core.conflicts.minted();
    core.versions.close(core.conflicts.closedThrough);
    core.versions.minted();
  }

  /** The line is new: what was on it is gone, each sends what the other lacks. */
  #connect(): void {
    for (const site of this.sites) {
      const other = this.sites[1 - site.index];
      if (other.peer.length > site.own.length) fail('the peer has what this site does not');
      this.line[site.index].length = 0;
      for (const record of site.own.slice(other.peer.length)) this.line[site.index].push({ record });
      site.core.conflicts.linkLost();
      site.core.conflicts.awaitPeer(other.core.conflicts.confirmedThrough, other.grantedThrough);
      other.grants = [];
      site.sent = '';
    }
  }

  // ---- what must hold

  #image({ map }: Core): string[] {
    return Array.from({ length: BLOCKS }, (_, lba) => {
      if (!map.lookup(lba)) return map.zero ? 'zero' : 'none';
      const record = this.#recordAt.get(map.position)!;
      if (record.lba + map.index !== lba) fail(`block ${lba} shows another block`);
      return shown(record, lba);
    });
  }

  #checkImage(site: Site): void {
    const { conflicts, skipped, aborted } = site.core;
    const image = this.#image(site.core);
    const top = new Array<ModelRecord | null>(BLOCKS).fill(null);
    const lay = (record: ModelRecord): void => {
      for (let lba = record.lba; lba < record.lba + record.blockCount; lba++) {
        const other = top[lba];
        const later =
          other === null || isLater(record, other) || (!isLater(other, record) && record.sequence > other.sequence);
        if (later) top[lba] = record;
        else if (record.site !== site.number && other.site !== site.number) fail('the peer masks itself');
        else this.met.masked++;
      }
    };
    for (const record of site.own) if (isWrite(record) && !aborted.has(record.scope)) lay(record);
    for (const record of site.peer.slice(0, conflicts.applied)) {
      if (isWrite(record) && !skipped.has(record.scope)) lay(record);
    }
    for (let lba = 0; lba < BLOCKS; lba++) {
      const record = top[lba];
      const due = record === null ? 'none' : shown(record, lba);
      if (image[lba] !== due) fail(`block ${lba} of site ${site.number} shows ${image[lba]} instead of ${due}`);
    }
  }

  #checkEnd(): void {
    const [a, b] = this.sites;
    for (const site of this.sites) {
      const other = this.sites[1 - site.index];
      if (site.core.conflicts.applied < other.own.length) fail('the mirror is stuck');
      for (const session of site.sessions) {
        if (!session.gone && session.at < session.script.length) fail('a session is stuck');
      }
      const skipped = [...site.core.skipped].sort((x, y) => x - y).join();
      const aborted = [...other.core.aborted].sort((x, y) => x - y).join();
      if (skipped !== aborted) fail(`dead of site ${other.number}: ${aborted} there, ${skipped} at the peer`);
      for (const scope of site.told) {
        if (site.own[scope.sequence - 1] === scope && !this.#isAborted(site, scope)) fail('told aborted, but alive');
      }
      for (const scope of site.confirmed) if (this.#isAborted(site, scope)) fail('told confirmed, but dead');
    }
    if (this.#image(a.core).join() !== this.#image(b.core).join()) fail('the images differ');
    for (const record of this.#promised) {
      const site = this.sites[record.site - 1];
      if (site.own[record.sequence - 1] !== record) fail('a flushed write is lost');
      if (this.#isAborted(site, record)) fail('a flushed write is aborted');
    }
    this.#checkSerial();
  }

  /** All scopes one after the other, whole, in the order of their stamps. */
  #checkSerial(): void {
    const scopes = this.sites.flatMap((site) =>
      site.own.filter((record) => beginsScope(record) && !this.#isAborted(site, record)),
    );
    scopes.sort((x, y) => (isLater(x, y) ? 1 : -1));
    const image = new Array<string>(BLOCKS).fill('none');
    for (const scope of scopes) {
      const read = this.#reads.get(scope);
      for (let lba = scope.lba; read !== undefined && !this.#cutOff && lba < scope.lba + scope.blockCount; lba++) {
        if (read[lba] !== image[lba]) fail(`scope ${scope.sequence} of site ${scope.site} read what was not current`);
      }
      for (const record of this.sites[scope.site - 1].own) {
        if (!isWrite(record) || record.scope !== scope.sequence) continue;
        for (let lba = record.lba; lba < record.lba + record.blockCount; lba++) image[lba] = shown(record, lba);
      }
    }
    for (const site of this.sites) {
      if (this.#image(site.core).join() !== image.join())
        fail(`${this.#image(site.core)}, and in stamp order ${image}`);
    }
  }
}

/** Draws a world: scripts, skews, speeds and faults. */
export function drawWorld(random: () => number): World {
  const pick = <T>(...values: T[]): T => values[Math.floor(random() * values.length)]!;
  const op = (kind: Op['kind'], lba = 0, blockCount = 0, abort = false, type = TYPE_WRITE): Op => ({
    kind,
    type,
    lba,
    blockCount,
    abort,
    read: false,
  });
  const aborts = pick(0.35, 0.75);
  const type = (): number => pick(TYPE_WRITE, TYPE_WRITE, TYPE_WRITE, TYPE_ZERO, TYPE_TRIM);
  const script = (): Op[] => {
    const ops: Op[] = [];
    for (let i = pick(1, 2, 2, 3, 4); i > 0; i--) {
      const kind = random();
      const lba = Math.floor(random() * (BLOCKS - 1));
      const blockCount = pick(1, 1, 2);
      const abort = random() < aborts;
      if (kind < 0.45) ops.push(op('write', lba, blockCount, false, type()));
      else if (kind < 0.85) {
        ops.push(op('lock', lba, blockCount, abort));
        for (let j = pick(0, 1, 2); j > 0; j--) {
          const at = lba + Math.floor(random() * blockCount);
          ops.push(op('scoped', at, pick(1, lba + blockCount - at), false, type()));
        }
        if (random() < 0.25) {
          const inner = lba > 0 ? 0 : lba + blockCount;
          ops.push(op('lock', inner, 1, abort), op('scoped', inner, 1), op('unlock'), op('scoped', lba, 1));
        }
        ops.push(op('unlock'));
      } else if (kind < 0.93) {
        ops.push({ ...op('lock', lba, blockCount), read: true }, op('unlock'));
      } else ops.push(op('flush'));
    }
    return ops;
  };
  return new World({
    scripts: [0, 1].map(() => Array.from({ length: pick(1, 1, 2, 3) }, script)),
    skews: pick<[number, number]>([0, 0], [0, 100], [100, 0], [3, 0], [0, 3]),
    crashes: pick(0, 0, 1, 2, 3),
    cuts: pick(0, 0, 1, 2),
    alone: random() < 0.3,
    weights: {
      ...pick<Record<string, number>>(
        { receive: 1, apply: 1, confirm: 1, op: 3 },
        { receive: 3, apply: 3, confirm: 2, op: 1 },
        { receive: 1, apply: 1, confirm: 1, op: 1 },
        { receive: 2, apply: 0.3, confirm: 0.3, op: 1 },
        { receive: 2, apply: 0.5, confirm: 3, op: 1 },
      ),
      sync: pick(0.1, 0.5, 1),
      mark: 0.2,
      checkpoint: pick(0.05, 0.2),
    },
    random,
  });
}
