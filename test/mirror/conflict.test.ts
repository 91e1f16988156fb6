/**
 * Both sites at once, rule by rule: two ends with production conflicts, versions and maps, and a line that the test
 * moves by hand. What a block shows is named after the write that it shows.
 */
import { describe, expect, test } from 'vitest';
import {
  FLAG_ABORT_ON_CONFLICT,
  FLAG_READ_LOCK,
  TYPE_ABORT,
  TYPE_LOCK,
  TYPE_TRIM,
  TYPE_UNLOCK,
  TYPE_WRITE,
  TYPE_ZERO,
} from '../../assembly/layout.js';
import { Liveness } from '../../src/journal/liveness.js';
import { BlockMap } from '../../src/journal/map.js';
import { Versions } from '../../src/journal/versions.js';
import { type ConflictState, Conflicts, type ScopeRecord } from '../../src/mirror/conflict.js';

type Sent = ScopeRecord & { readonly name: string; readonly site: number };
const BLOCKS = 64;
const SEGMENT_SIZE = 4 * 1024 * 1024;
const ABORT = { abort: true };
const READ = { read: true };

/** One site: what it wrote, what it received, in the order of its journal. */
class End {
  readonly site: number;
  conflicts!: Conflicts;
  versions!: Versions;
  map!: BlockMap;
  liveness!: Liveness;
  journal: Sent[] = [];
  readonly sent: Sent[] = [];
  readonly names = new Map<number, string>();
  clock = 0;

  constructor(site: number) {
    this.site = site;
    this.open(null);
  }

  /** As after a start: everything is empty; `tell` fills it. */
  open(state: ConflictState | null): void {
    this.liveness = new Liveness(SEGMENT_SIZE);
    this.map = new BlockMap(BLOCKS, this.liveness);
    this.conflicts = new Conflicts({ ownBefore: 0, peerBefore: 0, state });
    this.versions = new Versions({
      volumes: new Map([[0, { map: this.map }]]),
      liveness: this.liveness,
      settled: { through: 0, applied: 0, peerFrom: 1 },
    });
  }

  write(name: string, lba: number, blockCount = 1, type = TYPE_WRITE, session = 1): Sent {
    return this.post({ name, type, lba, blockCount, session, scope: this.sent.length + 1 });
  }
  lock(name: string, lba: number, blockCount = 1, { abort = false, read = false, session = 1 } = {}): Sent {
    const flags = (abort ? FLAG_ABORT_ON_CONFLICT : 0) | (read ? FLAG_READ_LOCK : 0);
    return this.post({ name, type: TYPE_LOCK, lba, blockCount, session, flags });
  }
  within(scope: Sent, name: string, lba: number): Sent {
    const { generation, clock, seen, session } = scope;
    return this.post({
      name,
      type: TYPE_WRITE,
      lba,
      blockCount: 1,
      scope: scope.sequence,
      generation,
      clock,
      seen,
      session,
    });
  }
  unlock(scope: Sent): Sent {
    return this.post({ name: `/${scope.name}`, type: TYPE_UNLOCK, scope: scope.sequence, session: scope.session });
  }

  post(fields: Partial<Sent> & { name: string; type: number }): Sent {
    const record: Sent = {
      flags: 0,
      volume: 0,
      lba: 0,
      blockCount: 0,
      scope: 0,
      sequence: this.sent.length + 1,
      seen: this.conflicts.received,
      clock: fields.clock ?? ++this.clock,
      generation: 1,
      session: 1,
      site: this.site,
      ...fields,
    };
    this.sent.push(record);
    this.journal.push(record);
    this.#tellOwn(record);
    return record;
  }

  #tellOwn(record: Sent): void {
    this.conflicts.own(record);
    if (record.type === TYPE_ABORT) this.versions.abort(record.scope);
    else if (record.type <= TYPE_TRIM && record.type >= TYPE_WRITE) {
      this.versions.own(record, this.#position(record), this.conflicts.mayDie(record));
    }
  }

  #position(record: Sent): number {
    const position = (this.names.size + 1) * 4096;
    this.names.set(position, record.name);
    return position;
  }

  /** Receives and appends the ABORTs that follow; their names are given back. */
  receive(...records: Sent[]): string[] {
    const dead: string[] = [];
    for (const record of records) {
      this.take(record);
      dead.push(...this.abortDoomed());
    }
    return dead;
  }

  /** Receives alone. */
  take(record: Sent): void {
    this.clock = Math.max(this.clock, record.clock);
    this.journal.push(record);
    this.conflicts.receive(record);
  }

  abortDoomed(): string[] {
    return [...this.conflicts.doomed].map((scope) => {
      this.post({ name: 'ABORT', type: TYPE_ABORT, scope });
      return this.sent[scope - 1].name;
    });
  }

  /** Applies what is received until something waits; the names of what was applied, -name for skipped, name? for waiting. */
  apply(): string[] {
    const log: string[] = [];
    const received = this.journal.filter((record) => record.site !== this.site);
    while (this.conflicts.applied < this.conflicts.received) {
      const record = received[this.conflicts.applied];
      const verdict = this.conflicts.apply(record);
      log.push(verdict === 'apply' ? record.name : verdict === 'skip' ? `-${record.name}` : `${record.name}?`);
      if (verdict === 'wait') break;
      if (verdict === 'skip') continue;
      if (record.type === TYPE_LOCK) {
        if ((record.flags & FLAG_READ_LOCK) === 0) this.versions.peerLock(record);
      } else if (record.type === TYPE_UNLOCK || record.type === TYPE_ABORT) this.versions.peerUnlock(record.scope);
      else this.versions.peer(record, this.#position(record));
    }
    this.versions.close(this.conflicts.closedThrough);
    return log;
  }

  /** A crash after `records` of the journal: the rest is lost, the beginning is told again. */
  restart(records = this.journal.length): void {
    this.journal.length = records;
    this.sent.length = this.journal.filter(({ site }) => site === this.site).length;
    this.open(null);
    this.tell();
  }

  tell(): void {
    for (const record of this.journal) {
      if (record.site === this.site) this.#tellOwn(record);
      else this.conflicts.receive(record);
    }
  }

  shows(lba = 0, blockCount = 1): string {
    const names: string[] = [];
    for (let block = lba; block < lba + blockCount; block++) {
      if (this.map.lookup(block)) names.push(this.names.get(this.map.position)!);
      else names.push(this.map.zero ? 'zero' : '-');
    }
    return names.join(' ');
  }
}

function pair(): [End, End] {
  return [new End(1), new End(2)];
}

/** Everything that either has and the other lacks, until nothing moves. */
function exchange(a: End, b: End): void {
  for (let moved = true; moved; ) {
    moved = false;
    for (const [from, to] of [
      [a, b],
      [b, a],
    ]) {
      while (to.conflicts.received < from.sent.length) {
        to.receive(from.sent[to.conflicts.received]);
        moved = true;
      }
      to.apply();
    }
  }
}

describe('who is on top', () => {
  test('crossing writes: the later stamp goes on top at both ends, whoever was there first', () => {
    const [a, b] = pair();
    b.clock = 5;
    a.write('a', 0);
    b.write('b', 0);
    exchange(a, b);
    expect([a.shows(), b.shows()]).toEqual(['b', 'b']);
  });

  test('equal clocks: the site decides', () => {
    const [a, b] = pair();
    expect([a.write('a', 0).clock, b.write('b', 0).clock]).toEqual([1, 1]);
    exchange(a, b);
    expect([a.shows(), b.shows()]).toEqual(['b', 'b']);
  });

  test('a loser waits for the UNLOCK of the scope that beats it, then goes on top', () => {
    const [a, b] = pair();
    const scope = a.lock('L', 0, 2);
    b.clock = 5;
    b.receive();
    const loser = b.write('b', 0);
    a.receive(loser);
    expect(a.apply()).toEqual(['b?']);
    a.within(scope, 'a', 0);
    expect(a.apply()).toEqual(['b?']);
    expect(a.shows()).toBe('a');
    a.unlock(scope);
    expect(a.apply()).toEqual(['b']);
    exchange(a, b);
    expect([a.shows(), b.shows()]).toEqual(['b', 'b']);
  });

  test('a winner is granted beneath an open scope that loses to it, and never waits for it', () => {
    const [a, b] = pair();
    b.clock = 5;
    const loser = b.lock('L', 0, 2);
    b.within(loser, 'b', 0);
    const winner = a.lock('K', 0, 2);
    b.receive(winner, a.within(winner, 'a', 0), a.within(winner, 'a1', 1));
    expect(b.apply()).toEqual(['K', 'a', 'a1']);
    expect(b.shows(0, 2)).toBe('b a1');
    b.unlock(loser);
    a.unlock(winner);
    exchange(a, b);
    expect([a.shows(0, 2), b.shows(0, 2)]).toEqual(['b a1', 'b a1']);
  });

  // Lost at the loser's site: its write was confirmed and forgotten while the winner was still open, and the winner's
  // last write, sent afterwards, went on top of it. The winner's site had them the other way round.
  test('what masks an open scope of the peer masks all of its writes, also after it is closed', () => {
    const [a, b] = pair();
    b.clock = 5;
    const winner = a.lock('K', 0, 2);
    b.write('b', 0);
    b.receive(winner);
    b.apply();
    a.receive(...b.sent);
    b.conflicts.confirmed(1, 1);
    b.apply();
    expect(b.conflicts.closedThrough).toBe(1);
    expect(b.versions.settledThrough).toBe(0);
    b.receive(a.within(winner, 'late', 0));
    b.apply();
    expect(b.shows()).toBe('b');
    b.receive(a.unlock(winner));
    b.apply();
    expect(b.versions.settledThrough).toBe(1);
    expect(b.versions.openCount).toBe(0);
    a.apply();
    expect(a.shows()).toBe('b');
  });

  test('of a large write only the blocks without later own versions show', () => {
    const [a, b] = pair();
    b.clock = 5;
    b.write('z', 2, 3, TYPE_ZERO);
    b.write('t', 8, 1, TYPE_TRIM);
    b.receive(a.write('a', 0, 10));
    b.apply();
    expect(b.shows(0, 10)).toBe('a a zero zero zero a a a - a');
    exchange(a, b);
    expect(a.shows(0, 10)).toBe(b.shows(0, 10));
  });

  test('nested scopes have their own stamps: one may lose while the other wins', () => {
    const [a, b] = pair();
    const outer = a.lock('outer', 0);
    b.clock = 1;
    const between = b.write('b', 0, 2);
    a.clock = 5;
    const inner = a.lock('inner', 1);
    a.receive(between);
    expect(a.apply()).toEqual(['b?']); // on top of the outer, beneath the inner: for the outer it waits
    a.within(inner, 'in', 1);
    a.within(outer, 'out', 0);
    a.unlock(inner);
    a.unlock(outer);
    exchange(a, b);
    expect([a.shows(0, 2), b.shows(0, 2)]).toEqual(['b in', 'b in']);
  });
});

describe('abort', () => {
  test('a loser is dead at both ends and leaves no byte', () => {
    const [a, b] = pair();
    b.write('old', 0, 2);
    exchange(a, b);
    b.clock = 9;
    const loser = b.lock('L', 0, 2, ABORT);
    b.within(loser, 'b', 0);
    b.within(loser, 'b1', 1);
    const killer = a.write('a', 1);
    expect(a.receive(...b.sent.slice(1))).toEqual([]);
    expect(a.apply()).toEqual(['-L', '-b', '-b1']);
    expect(b.shows(0, 2)).toBe('b b1');
    expect(b.receive(killer)).toEqual(['L']);
    expect(b.shows(0, 2)).toBe('old old'); // before the killer is applied
    exchange(a, b);
    expect([a.shows(0, 2), b.shows(0, 2)]).toEqual(['old a', 'old a']);
    expect(b.liveness.total).toBe(b.map.mappedCount);
  });

  test('an abort scope with the earlier stamp wins and shows beneath', () => {
    const [a, b] = pair();
    const winner = a.lock('L', 0, 1, ABORT);
    a.within(winner, 'a', 0);
    a.unlock(winner);
    b.clock = 9;
    const loser = b.write('b', 0);
    expect(a.receive(loser)).toEqual([]);
    exchange(a, b);
    expect([a.shows(), b.shows()]).toEqual(['b', 'b']);
  });

  test('its session dies with it as far as it had not seen the killer; other sessions do not', () => {
    const [a, b] = pair();
    b.clock = 9;
    const scope = b.lock('L', 0, 1, ABORT);
    b.unlock(scope);
    b.write('same', 3);
    b.write('other', 4, 1, TYPE_WRITE, 2);
    const killer = a.write('a', 0);
    expect(b.receive(killer)).toEqual(['L', 'same']);
    b.write('after', 5); // has seen the killer
    a.receive(...b.sent);
    expect(a.apply()).toEqual(['-L', '-/L', '-same', 'other', 'ABORT', 'ABORT', 'after']);
    exchange(a, b);
    expect([a.shows(3, 3), b.shows(3, 3)]).toEqual(['- other after', '- other after']);
  });

  test('of several killers the lowest sequence counts, also when all are there before the loser arrives', () => {
    const [a, b] = pair();
    b.clock = 9;
    const first = a.write('a1', 0);
    const second = a.write('a2', 0);
    const scope = b.lock('L', 0, 1, ABORT);
    b.unlock(scope);
    expect(b.receive(first)).toEqual(['L']);
    b.write('between', 1); // has seen the first killer, not the second
    expect(b.receive(second)).toEqual([]);
    a.receive(...b.sent);
    a.apply();
    expect([a.shows(1), b.shows(1)]).toEqual(['between', 'between']);
  });

  test('a scope that is dead itself still beats a later one: pairs are judged alone', () => {
    const [a, b] = pair();
    const killer = a.write('a', 0);
    b.clock = 4;
    const dead = b.lock('L', 0, 2, ABORT);
    b.unlock(dead);
    a.clock = 9;
    const later = a.lock('M', 1, 1, ABORT);
    a.unlock(later);
    expect(b.receive(...a.sent)).toEqual(['L']);
    expect(a.receive(...b.sent.slice(0, 2))).toEqual(['M']);
    expect(b.apply()).toEqual(['a', '-M', '-/M']);
    expect(a.apply()).toEqual(['-L', '-/L']);
    expect(killer.sequence).toBe(1);
  });

  test('versions: what is highest decides, not what was there before', () => {
    const [a, b] = pair();
    a.write('old', 0);
    exchange(a, b);
    b.clock = 20;
    const one = b.lock('one', 0, 1, { abort: true, session: 1 });
    b.within(one, 'b1', 0);
    b.unlock(one);
    a.clock = 5;
    const killer = a.write('k', 1);
    const beneath = a.write('beneath', 0);
    b.receive(killer);
    // beneath it is granted: it loses nothing, and kills the scope; the block shows what is highest then
    expect(b.receive(beneath)).toEqual(['one']);
    expect(b.shows()).toBe('old');
    b.apply();
    expect(b.shows()).toBe('beneath');
  });

  // Lost: the ABORT of a scope was not synced when its site stopped. At the peer the scope was dead, here it came back.
  test('an ABORT that was lost in a crash is due again; one that was kept is not', () => {
    const [a, b] = pair();
    b.clock = 9;
    const scope = b.lock('L', 0, 1, ABORT);
    b.within(scope, 'b', 0);
    expect(b.receive(a.write('a', 0))).toEqual(['L']);
    b.restart();
    expect([...b.conflicts.doomed]).toEqual([]);
    expect(b.shows()).toBe('-');
    b.restart(3); // LOCK, WRITE, the killer
    expect([...b.conflicts.doomed]).toEqual([scope.sequence]);
  });
});

describe('the obvious rule', () => {
  // "They conflict if mine is not confirmed when yours arrives" needs one write at each site to diverge: b has seen a,
  // but it is on the line before the confirmation of a.
  test('whether something is confirmed when it is met differs between the ends; what it had seen does not', () => {
    const [a, b] = pair();
    const first = a.write('a', 0);
    b.receive(first);
    const second = b.lock('b', 0, 1, ABORT);
    b.unlock(second);
    const unconfirmedAtA = a.conflicts.confirmedThrough < first.sequence; // when `second` arrives there
    const unconfirmedAtB = b.conflicts.received < first.sequence; // when `second` is made
    expect(unconfirmedAtA).not.toBe(unconfirmedAtB); // a would call it dead, b alive
    a.receive(...b.sent);
    expect(a.apply()).toEqual(['b', '/b']);
    expect(b.conflicts.isDead(second.sequence)).toBe(false);
  });
});

describe('read locks', () => {
  test('the records of the other site pass one that is not had yet, later ones too', () => {
    const [a, b] = pair();
    a.lock('R', 0, 4, READ);
    b.clock = 9;
    const scope = b.lock('L', 0);
    b.within(scope, 'b0', 0);
    b.unlock(scope);
    b.write('b', 1);
    a.receive(...b.sent);
    expect(a.apply()).toEqual(['L', 'b0', '/L', 'b']);
    expect(a.shows(0, 2)).toBe('b0 b');
  });

  test('at the other site one waits for every write scope that is open there, also for a later one', () => {
    const [a, b] = pair();
    const read = a.lock('R', 0, 4, READ);
    a.write('behind', 9);
    b.clock = 9;
    const scope = b.lock('L', 3);
    expect(b.receive(...a.sent)).toEqual([]);
    expect(b.apply()).toEqual(['R?']);
    b.within(scope, 'b', 3);
    b.unlock(scope);
    expect(b.apply()).toEqual(['R', 'behind']);
    expect(b.conflicts.mustWait(1, 0, 3, 1, 'replay')).toBe(true);
    b.receive(a.unlock(read));
    b.apply();
    expect(b.conflicts.mustWait(1, 0, 3, 1, 'replay')).toBe(false);
  });

  // Both sites' streams stood still until a lock's time was over: the later lock waited for the earlier at the head of its
  // stream, and the earlier for what its site had written behind it.
  test('of two that cross, the later is dead at both ends; what was written behind it comes', () => {
    const [a, b] = pair();
    const first = a.lock('R', 0, 2, READ);
    b.clock = 9;
    const second = b.lock('S', 1, 2, READ);
    b.write('b', 0);
    a.receive(...b.sent);
    expect(a.apply()).toEqual(['-S', 'b']);
    expect(b.conflicts.mustWait(1, 0, 1, 2, 'read')).toBe(false);
    expect(b.receive(first)).toEqual(['S']);
    expect(b.conflicts.mustWait(1, 0, 1, 2, 'read')).toBe(true); // received
    expect(b.apply()).toEqual(['R']);
    expect(b.conflicts.mustWait(1, 0, 1, 2, 'read')).toBe(true); // held
    expect(b.conflicts.isDead(second.sequence)).toBe(true);
    b.receive(a.unlock(first));
    expect(b.apply()).toEqual(['/R']);
    expect(b.conflicts.mustWait(1, 0, 1, 2, 'read')).toBe(false);
    exchange(a, b);
  });

  test('the later is dead also where the earlier was given up before they met', () => {
    const [a, b] = pair();
    a.unlock(a.lock('R', 0, 2, READ));
    b.clock = 9;
    b.lock('S', 1, 2, READ);
    expect(b.receive(...a.sent)).toEqual(['S']);
    a.receive(...b.sent);
    expect(a.apply()).toEqual(['-S', '-ABORT']);
  });

  // An abort scope died of a lock that writes nothing, and only at one site: the other saw no conflict.
  test('one kills no abort scope, and dies of nothing', () => {
    const [a, b] = pair();
    const read = a.lock('R', 0, 1, READ);
    b.clock = 9;
    const scope = b.lock('L', 0, 1, ABORT);
    b.within(scope, 'b', 0);
    expect(b.receive(read)).toEqual([]);
    expect(b.apply()).toEqual(['R?']);
    b.unlock(scope);
    expect(a.receive(...b.sent)).toEqual([]);
    expect(a.apply()).toEqual(['L', 'b', '/L']);
    expect(b.apply()).toEqual(['R']);
  });

  test('one does not die with its session', () => {
    const [a, b] = pair();
    b.clock = 9;
    const scope = b.lock('L', 0, 1, ABORT);
    b.unlock(scope);
    const read = b.lock('R', 3, 1, READ);
    expect(b.receive(a.write('a', 0))).toEqual(['L']);
    a.receive(...b.sent);
    expect(a.apply()).toEqual(['-L', '-/L', 'R', 'ABORT']);
    a.receive(b.unlock(read));
    expect(a.apply()).toEqual(['/R']);
  });

  // A backup differed from what stayed: of the two blocks of a scope it had read one, and the scope died of the other.
  test('one is not had while the ABORT of what was written there is due, at this site or from the other', () => {
    const [a, b] = pair();
    b.clock = 9;
    const scope = b.lock('L', 0, 2, ABORT);
    b.within(scope, 'b', 0);
    b.unlock(scope);
    const read = a.lock('R', 0, 1, READ);
    const killer = a.write('a', 1);
    expect(b.receive(read)).toEqual([]);
    expect(b.apply()).toEqual(['R']);
    a.receive(...b.sent);
    a.apply();
    expect(a.conflicts.isReadable(0, 0, 1)).toBe(false);
    expect(a.conflicts.isReadable(0, 2, 1)).toBe(true);
    expect(a.conflicts.isReadable(1, 0, 1)).toBe(true);
    b.take(killer);
    expect(b.conflicts.isReadable(0, 5, 1)).toBe(false);
    b.abortDoomed();
    expect(b.conflicts.isReadable(0, 5, 1)).toBe(true);
    a.receive(b.sent.at(-1)!);
    expect(a.conflicts.isReadable(0, 0, 1)).toBe(true);
  });

  test('one waits at the other site for ABORTs that have no room', () => {
    const [a, b] = pair();
    b.clock = 9;
    const scope = b.lock('L', 0, 2, ABORT);
    b.unlock(scope);
    b.take(a.write('a', 1));
    b.take(a.lock('R', 0, 1, READ));
    expect(b.apply()).toEqual(['a', 'R?']);
    b.abortDoomed();
    expect(b.apply()).toEqual(['R']);
  });

  test('for one nothing is due of a stream whose rest will never come', () => {
    const [a, b] = pair();
    b.clock = 9;
    b.unlock(b.lock('L', 0, 1, ABORT));
    a.write('a', 0);
    a.receive(...b.sent);
    a.apply();
    expect(a.conflicts.isReadable(0, 0, 1)).toBe(false);
    a.conflicts.minted();
    expect(a.conflicts.isReadable(0, 0, 1)).toBe(true);
  });

  test('a write within one ends the link', () => {
    const [a, b] = pair();
    const read = a.lock('R', 0, 1, READ);
    b.receive(read);
    expect(() => b.receive(a.within(read, 'w', 0))).toThrow(/writes within a read lock/);
  });

  // Wrong backup: b had granted a's read lock, crashed before it was synced, and let its hosts write there again.
  test('a site that crashed admits nobody before it has granted again what it had', () => {
    const [a, b] = pair();
    b.receive(a.lock('R', 0, 1, READ));
    b.apply();
    b.restart(0);
    b.conflicts.awaitPeer(1, 1);
    expect(b.conflicts.mustWait(1, 0, 5, 1, 'replay')).toBe(true);
    b.receive(...a.sent);
    expect(b.conflicts.mustWait(1, 0, 5, 1, 'replay')).toBe(true);
    b.apply();
    expect(b.conflicts.mustWait(1, 0, 5, 1, 'replay')).toBe(false);
    expect(b.conflicts.mustWait(1, 0, 0, 1, 'replay')).toBe(true);
  });
});

describe('admission', () => {
  test('own scopes wait for scopes of the peer that are applied and not unlocked', () => {
    const [a, b] = pair();
    const scope = a.lock('L', 0, 4);
    b.receive(scope);
    expect(b.conflicts.mustWait(1, 0, 2, 1, 'replay')).toBe(false); // received only: the later own stamp goes on top
    b.apply();
    expect(b.conflicts.mustWait(1, 0, 2, 1, 'replay')).toBe(true);
    expect(b.conflicts.mustWait(1, 0, 4, 1, 'replay')).toBe(false);
    b.receive(a.unlock(scope));
    b.apply();
    expect(b.conflicts.mustWait(1, 0, 2, 1, 'replay')).toBe(false);
  });

  test('abort scopes wait for what is received and not applied', () => {
    const [a, b] = pair();
    b.receive(a.write('a', 0));
    expect(b.conflicts.mustWait(1, 0, 0, 1, 'abort')).toBe(true);
    b.apply();
    expect(b.conflicts.mustWait(1, 0, 0, 1, 'abort')).toBe(false);
  });

  // Lost update: session 2 read what session 1 had written in an abort scope. The scope died; session 2 wrote back what
  // it had computed from it, and neither site had a reason to abort it.
  test("abort scopes wait until what another session's scope wrote there can no longer be taken back", () => {
    const [a, b] = pair();
    const scope = b.lock('L', 0, 2, ABORT);
    b.within(scope, 'b', 1);
    b.unlock(scope);
    expect(b.conflicts.mustWait(2, 0, 1, 1, 'abort')).toBe(true);
    expect(b.conflicts.mustWait(2, 0, 1, 1, 'replay')).toBe(false);
    expect(b.conflicts.mustWait(1, 0, 1, 1, 'abort')).toBe(false); // its own session would die with it
    a.receive(...b.sent);
    b.conflicts.confirmed(3, 0);
    expect(b.conflicts.mustWait(2, 0, 1, 1, 'abort')).toBe(false);
  });

  /**
   * A trim of a volume, in a session with an `abort` scope, made a list for each of its blocks: the process died of a
   * map that was too large. So did every start after large trims, because all that is told again counted as mortal.
   */
  test('a TRIM or ZERO waits for what its session may lose, and has no lists then, nor when it is told again', () => {
    const [a, b] = pair();
    b.lock('L', 0, 2, ABORT);
    for (const kind of ['abort', 'replay'] as const) expect(b.conflicts.mustWait(1, 0, 8, 50, kind)).toBe(false);
    expect(b.conflicts.mustWait(1, 0, 8, 50, 'bare')).toBe(true);
    expect(b.conflicts.mustWait(2, 0, 8, 50, 'bare')).toBe(false);
    a.receive(...b.sent);
    const crossing = a.write('a', 9);
    b.conflicts.confirmed(1, 1);
    expect(b.conflicts.mustWait(1, 0, 8, 50, 'bare')).toBe(true);
    b.receive(crossing);
    expect(b.conflicts.mustWait(1, 0, 8, 50, 'bare')).toBe(false);
    b.write('t', 8, 50, TYPE_TRIM);
    expect([b.conflicts.closedThrough, b.versions.listedBlocks]).toEqual([0, 0]);
    b.open({ appended: 2, closedThrough: 0, received: 0, applied: 0, dead: [], cascades: [], bareMayDieThrough: 0 });
    b.tell();
    expect([b.conflicts.closedThrough, b.versions.listedBlocks]).toEqual([0, 0]);
  });

  // The process died of an assertion, at every start: there, a TRIM or ZERO had begun behind what its session may lose.
  test('in a journal of an earlier version, a TRIM or ZERO dies with its session', () => {
    const [a, b] = pair();
    const crossing = a.write('a', 0);
    b.clock = 5;
    b.unlock(b.lock('L', 0, 1, ABORT));
    b.write('t', 8, 4, TYPE_TRIM);
    const asEarlier = { closedThrough: 0, received: 0, applied: 0, dead: [], cascades: [], bareMayDieThrough: null };
    // the last checkpoint was made before or after it
    for (const appended of [0, 3]) {
      const journal = [...b.journal];
      b.open({ ...asEarlier, appended });
      b.tell();
      expect(b.versions.listedBlocks).toBe(4);
      // and is still so after the first checkpoint of this version
      const state = b.conflicts.state(0);
      expect(state.bareMayDieThrough).toBe(3);
      b.open(state);
      b.tell();
      expect(b.receive(crossing)).toEqual(['L', 't']);
      expect(b.shows(8)).toBe('-');
      b.journal = journal;
      b.sent.length = 3;
    }
    // what begins now has waited, though no checkpoint says so yet
    b.journal = [];
    b.sent.length = 0;
    b.open({ ...asEarlier, appended: 0 });
    b.lock('M', 40, 1, ABORT);
    b.receive(crossing);
    b.conflicts.confirmed(1, 1);
    b.write('u', 8, 4, TYPE_TRIM);
    expect([b.conflicts.closedThrough, b.versions.listedBlocks]).toEqual([0, 0]);
  });

  // A TRIM stood on what it had confirmed, and the process died of an assertion: a record was held to what was closed alone.
  test('a record of the peer that has not seen what it had confirmed is refused', () => {
    const [a, b] = pair();
    b.lock('W', 20); // the peer waits for it: nothing is closed
    a.clock = 10;
    b.clock = 50;
    b.unlock(b.lock('X', 5, 1, { ...ABORT, session: 3 }));
    const waits = a.lock('a', 20);
    b.receive(waits);
    expect(b.apply()).toEqual(['a?']);
    b.conflicts.confirmed(3, 1);
    expect([b.conflicts.closedThrough, b.conflicts.mustWait(3, 0, 5, 1, 'bare')]).toEqual([0, false]);
    b.write('t', 5, 1, TYPE_TRIM, 3);
    expect(() => b.receive(a.write('late', 5))).toThrow(/has seen 0, and 3 was confirmed before/);
  });

  // Diverged: a had confirmed b's write, crashed without having synced it, and then made a scope that had not seen it.
  // At a the write killed the scope when it came again; b had closed the write and knew of no conflict.
  test('after a crash nobody is admitted before the peer stream is back to what counts as confirmed there', () => {
    const [a, b] = pair();
    const write = b.write('b', 0);
    a.receive(write);
    b.conflicts.confirmed(1, 0);
    expect(b.conflicts.confirmedThrough).toBe(1);
    a.restart(0);
    a.conflicts.awaitPeer(b.conflicts.confirmedThrough, 0);
    expect(a.conflicts.mustWait(1, 0, 0, 1, 'replay')).toBe(true);
    a.receive(write);
    expect(a.conflicts.mustWait(1, 0, 0, 1, 'replay')).toBe(false);
  });
});

describe('closing', () => {
  test('a confirmation counts when what the peer had appended is received, and closes when it is applied', () => {
    const [a, b] = pair();
    b.write('b', 0);
    const crossing = a.write('a', 0);
    b.conflicts.confirmed(1, 1);
    expect([b.conflicts.confirmedThrough, b.conflicts.closedThrough]).toEqual([0, 0]);
    b.receive(crossing);
    expect([b.conflicts.confirmedThrough, b.conflicts.closedThrough]).toEqual([1, 0]);
    b.apply();
    expect([b.conflicts.confirmedThrough, b.conflicts.closedThrough]).toEqual([1, 1]);
    expect([b.conflicts.openCount, b.versions.openCount]).toEqual([0, 0]);
  });

  /**
   * The ring was full when a scope died, so its ABORT waited, while the record that beat it was applied. With that the
   * scope was closed, and what it had written could not be taken out any more: this site went on showing it for ever.
   */
  test('a scope whose ABORT waits for room is not closed before it', () => {
    const [a, b] = pair();
    const killer = a.write('a', 0);
    b.clock = 10;
    const scope = b.lock('S', 0, 1, ABORT);
    b.within(scope, 'b', 0);
    b.conflicts.confirmed(2, 1);
    b.take(killer);
    b.apply();
    expect([b.conflicts.confirmedThrough, b.conflicts.closedThrough, b.shows()]).toEqual([2, 0, 'b']);
    b.abortDoomed();
    b.apply();
    expect([b.conflicts.closedThrough, b.shows()]).toEqual([2, 'a']);
    expect([b.conflicts.openCount, b.versions.openCount, b.versions.listedBlocks]).toEqual([0, 0, 0]);
  });

  test('a confirmation from before a cut never counts', () => {
    const [a, b] = pair();
    b.write('b', 0);
    b.conflicts.confirmed(1, 1);
    b.conflicts.linkLost();
    b.receive(a.write('a', 1));
    b.apply();
    expect(b.conflicts.closedThrough).toBe(0);
  });

  test('a minted generation closes everything and ends the scopes of the peer', () => {
    const [a, b] = pair();
    b.receive(a.lock('L', 0, 4));
    b.apply();
    b.write('b', 9);
    b.conflicts.minted();
    expect(b.conflicts.closedThrough).toBe(1);
    expect(b.conflicts.mustWait(1, 0, 0, 1, 'abort')).toBe(false);
  });

  test('ten thousand open scopes are forgotten without a trace', () => {
    const [a, b] = pair();
    for (let i = 0; i < 10_000; i++) {
      if (i % 10 === 0) b.unlock(b.lock('L', i % BLOCKS, 1, { abort: true, session: 1 + (i % 7) }));
      else b.write('w', i % BLOCKS, 1, TYPE_WRITE, 1 + (i % 7));
    }
    expect(b.conflicts.openCount).toBe(10_000);
    b.conflicts.confirmed(b.sent.length, 0);
    b.versions.close(b.conflicts.closedThrough);
    expect([b.conflicts.openCount, b.versions.openCount, b.versions.listedBlocks]).toEqual([0, 0, 0]);
    expect(b.liveness.total).toBe(b.map.mappedCount);
    expect(a.conflicts.received).toBe(0);
  });
});

describe('checkpoints', () => {
  test('a snapshot shows no version that may yet be taken out', () => {
    const [, b] = pair();
    b.write('old', 0);
    const scope = b.lock('L', 0, 2, ABORT);
    b.within(scope, 'b', 0);
    b.within(scope, 'b1', 1);
    expect(b.versions.isListed(0, 0)).toBe(true);
    b.versions.withBase(() => expect(b.shows(0, 2)).toBe('old -'));
    expect(b.shows(0, 2)).toBe('b b1');
    b.conflicts.confirmed(b.sent.length, 0);
    b.versions.close(b.conflicts.closedThrough);
    expect(b.versions.isListed(0, 0)).toBe(false);
    b.versions.withBase(() => expect(b.shows(0, 2)).toBe('b b1'));
  });

  test('the peer is told again from the first of its writes that may stand on top of an unsettled own one', () => {
    // Replay puts the own write back where a later one of the peer had covered it: that has to be told again as well.
    const [a, b] = pair();
    b.receive(a.write('a1', 0));
    b.apply();
    b.write('b1', 0);
    b.receive(a.write('a2', 0), a.write('a3', 0));
    b.apply();
    expect(b.versions.settledThrough).toBe(0);
    expect(b.versions.peerFrom).toBe(2);
  });

  test('segments of remembered pointers stay live until the list ends', () => {
    const [, b] = pair();
    b.write('old', 0);
    const scope = b.lock('L', 0, 1, ABORT);
    b.within(scope, 'b', 0);
    b.unlock(scope);
    expect(b.liveness.total).toBeGreaterThan(b.map.mappedCount);
    b.write('top', 0, 1, TYPE_WRITE, 2);
    expect(b.liveness.total).toBe(b.map.mappedCount);
    expect(b.shows()).toBe('top');
  });
});

describe('a peer that breaks the rule is refused', () => {
  const cases: [string, (a: End, b: End) => Sent[], RegExp][] = [
    ['seen more than there is', (a) => [{ ...a.write('a', 0), seen: 7 }], /has seen 7 records of 0/],
    ['stamps that go back', (a) => [a.write('a', 0), { ...a.write('a', 0), clock: 0 }], /stamped before/],
    ['no blocks', (a) => [{ ...a.write('a', 0), blockCount: 0 }], /covers no block/],
    ['a write of no scope', (a) => [{ ...a.write('a', 0), scope: 9 }], /scope 9, which is not open/],
    [
      'a write outside its scope',
      (a) => {
        const scope = a.lock('L', 0);
        return [scope, a.within(scope, 'a', 1)];
      },
      /outside its scope/,
    ],
    [
      'a write with another stamp than its scope',
      (a) => {
        const scope = a.lock('L', 0);
        return [scope, { ...a.within(scope, 'a', 0), clock: 99 }];
      },
      /stamp of its scope/,
    ],
    [
      'an ABORT of what nobody beat',
      (a) => {
        const scope = a.lock('L', 0, 1, ABORT);
        return [scope, a.post({ name: 'ABORT', type: TYPE_ABORT, scope: scope.sequence })];
      },
      /not beaten here/,
    ],
    [
      'not having seen what it confirmed',
      (a, b) => {
        b.write('b', 0);
        b.conflicts.confirmed(1, 0);
        return [a.write('a', 0)];
      },
      /1 was confirmed before/,
    ],
  ];
  test.each(cases)('%s', (_, make, message) => {
    const [a, b] = pair();
    const records = make(a, b);
    expect(() => b.receive(...records)).toThrow(message);
    expect(() => b.conflicts.confirmed(99, 0)).toThrow(/confirms 99 records/);
  });
});
