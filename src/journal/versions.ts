/**
 * Both sites at once: what a block shows while it is not settled which version is the last. Stands in front of BlockMap.
 *
 * The rule: a block shows its version with the highest (scope stamp, sequence) among applied scopes that are not dead.
 *
 * Versions do not come in that order. A version of the peer goes on top, or beneath own ones that are later and that
 * the peer had not seen. An own one always goes on top: its stamp is above every stamp received before it, and a later
 * write of a scope has the scope's stamp and a higher sequence (who would come between waits for the UNLOCK). And an
 * own one may be taken out again, by an ABORT.
 *
 * So much has to be remembered, and no more:
 *   - of each own write, where it is and its stamp, until nothing with a lower stamp can arrive. It masks: a version of
 *     the peer with a lower stamp does not show there.
 *   - of each block under an own write that may be taken out, a list: the base, which stays whatever happens, and above
 *     it those writes, lowest first:
 *
 *         base | w1  w2  w3     <- the map shows w3; w2 dead: base | w1 w3; then w3 dead: the map swings to w1
 *
 *     What cannot be taken out (the peer's versions, decided before they are applied; own ones that nothing can kill)
 *     makes everything beneath it unreachable: placed in a list it becomes its base, placed on top it ends the list.
 *     A block never swings back to what it showed before, only to what its list says is highest now.
 *     There are no more lists than blocks of data: a TRIM or ZERO outside of an explicit scope cannot be taken out.
 *
 * Lists end as their writes close. A write that is masking while a scope of the peer with a lower stamp is open on its
 * blocks is held beyond its close, until that scope's UNLOCK: the rest of the scope's writes must still go beneath it.
 *
 * Checkpoints. A checkpointed map must not hold what may yet be taken out: replay could not look beneath it. `withBase`
 * swings listed blocks to their bases for the moment of a snapshot. What only masks stays visible; it cannot die, and
 * telling it again puts it where it was. Replay begins no later than `settledThrough` + 1 of the own stream, and
 * `peerFrom` of the peer's: what went on top of those own records may have been received before them, and waited for
 * an UNLOCK. With `settled` as it was, own records up to there are in the map already, and a version of the peer that
 * had been applied is placed again only above an own record that is told again: everywhere else the map has it, or
 * something later.
 *
 * The cleaner. A pointer in a list keeps its segment: it counts as a live block. The map shows only the top of a list,
 * so the cleaner would not find the rest to move it; it passes over a listed block (`isListed`) until the list ends, so
 * no pointer in a list is stale. Because a checkpoint may hold a base, a segment that bases were in may be removed only
 * after a checkpoint that began when they were gone, as with a flat platter.
 */
import { TYPE_TRIM, TYPE_WRITE, TYPE_ZERO } from '../../assembly/layout.js';
import { assert } from '../assert.js';
import { ExtentIndex } from './extents.js';
import type { Liveness } from './liveness.js';
import type { BlockMap } from './map.js';

/** A scope's place in the order of both sites. No two scopes have the same: a site's clock moves with each. */
export interface Stamp {
  readonly generation: number;
  readonly clock: number;
  readonly site: number;
}

export function isLater(a: Stamp, b: Stamp): boolean {
  if (a.generation !== b.generation) return a.generation > b.generation;
  if (a.clock !== b.clock) return a.clock > b.clock;
  return a.site > b.site;
}

/** A WRITE, ZERO or TRIM; a RecordHeader is one. Generation, clock and site are its scope's stamp. */
export interface VersionRecord extends Stamp {
  readonly type: number;
  readonly volume: number;
  readonly lba: number;
  readonly blockCount: number;
  readonly sequence: number;
  readonly scope: number;
}

/** A LOCK of the peer. */
export interface LockRecord extends Stamp {
  readonly volume: number;
  readonly lba: number;
  readonly blockCount: number;
  readonly sequence: number;
}

/** What a checkpoint's map holds already: own records, and the peer's that were applied. */
export interface Settled {
  readonly through: number;
  readonly applied: number;
  /** The peer's records that are told again begin no later than here. */
  readonly peerFrom: number;
}

export interface VersionsOptions {
  volumes: { get(volume: number): { readonly map: BlockMap } | undefined };
  liveness: Liveness;
  settled: Settled;
}

/** Blocks with lists, some 200 bytes each: 4 GiB of data written in scopes that the peer has not confirmed. */
const LISTED_BLOCKS_MAX = 1 << 20;

const SPARE_MAX = 1 << 14;

/** An own write that is not settled. */
class Write implements Stamp {
  volume = 0;
  lba = 0;
  end = 0;
  sequence = 0;
  scope = 0;
  generation = 0;
  clock = 0;
  site = 0;
  type = 0;
  /** Position of its record. */
  position = 0;
  /** The peer's last version that was placed before it. */
  placedBefore = 0;
  /** It is in the lists of its blocks, as far as they still have one. */
  mayDie = false;
  /** Taken out by an ABORT. */
  gone = false;
}

interface Pointer {
  /** TYPE_WRITE, TYPE_ZERO or TYPE_TRIM: what the block reads as. */
  type: number;
  position: number;
  index: number;
}

interface List {
  base: Pointer;
  /** Lowest first, never empty; the map shows the last. */
  readonly writes: Write[];
}

interface PeerScope extends Stamp {
  readonly volume: number;
  readonly lba: number;
  readonly end: number;
  readonly sequence: number;
  /** Closed own writes that still mask its blocks. */
  readonly held: Write[];
}

interface Span {
  lba: number;
  end: number;
}

export class Versions {
  readonly #volumes: VersionsOptions['volumes'];
  readonly #liveness: Liveness;
  readonly #settled: Settled;
  /** Own writes above this are not closed. */
  #closedThrough: number;
  #appended: number;
  /** Of the peer's versions. */
  #placed: number;

  /** Own writes that are not closed, oldest first from `#head` on. */
  #open: Write[] = [];
  #head = 0;
  /** Those and the held ones, without the dead. */
  readonly #writes = new ExtentIndex<Write>();
  /** Of each own scope that may die, the writes in lists. */
  readonly #dying = new Map<number, Write[]>();
  readonly #peerScopes = new Map<number, PeerScope>();
  readonly #peerIndex = new ExtentIndex<PeerScope>();
  /** By volume and block. */
  readonly #lists = new Map<number, Map<number, List>>();
  #listedBlocks = 0;
  /** How many lists have ended: the cleaner may look at their blocks again. */
  listsEnded = 0;

  readonly #spare: Write[] = [];

  constructor(options: VersionsOptions) {
    this.#volumes = options.volumes;
    this.#liveness = options.liveness;
    this.#settled = options.settled;
    this.#closedThrough = options.settled.through;
    this.#appended = options.settled.through;
    this.#placed = options.settled.peerFrom - 1;
  }

  /** Own writes that may still mask something. */
  get openCount(): number {
    return this.#writes.count;
  }
  get listedBlocks(): number {
    return this.#listedBlocks;
  }
  /** So many blocks have lists that `abort` scopes, and writes in scopes that may die, wait until some are closed. */
  get isFull(): boolean {
    return this.#listedBlocks >= LISTED_BLOCKS_MAX;
  }

  /** The own sequence up to which nothing is unsettled: a checkpoint's replay begins behind it. */
  get settledThrough(): number {
    let through = this.#closedThrough;
    for (const { held } of this.#peerScopes.values()) {
      for (const write of held) through = Math.min(through, write.sequence - 1);
    }
    return through;
  }

  /** The peer's first sequence that may have been placed after an own write that is not settled; Infinity for none. */
  get peerFrom(): number {
    let from = this.#head < this.#open.length ? this.#open[this.#head].placedBefore + 1 : Infinity;
    for (const { held } of this.#peerScopes.values()) {
      for (const write of held) from = Math.min(from, write.placedBefore + 1);
    }
    return from;
  }

  /** Has the block a list? Then the cleaner leaves it where it is. */
  isListed(volume: number, lba: number): boolean {
    return this.#lists.get(volume)?.has(lba) ?? false;
  }

  /**
   * An own write stands in the journal: the volume shows it from now on.
   *
   * @param position  of its record
   * @param mayDie    its scope may still be aborted (Conflicts.mayDie)
   */
  own(record: VersionRecord, position: number, mayDie: boolean): void {
    const { volume, lba, blockCount, sequence, type } = record;
    if (sequence <= this.#settled.through) return; // told again: the checkpoint's map has it
    assert(sequence > this.#appended, 'own writes come in the order of their stream');
    this.#appended = sequence;
    const write = this.#take(record, position, mayDie);
    this.#open.push(write);
    this.#writes.add(write);
    if (mayDie) {
      const scope = this.#dying.get(record.scope);
      if (scope === undefined) this.#dying.set(record.scope, [write]);
      else scope.push(write);
      for (let block = lba; block < write.end; block++) this.#pushOn(volume, block, write);
    } else {
      this.#endLists(volume, lba, write.end);
    }
    this.#show(volume, lba, blockCount, type, position, 0);
  }

  /** A write of the peer is applied: it shows where nothing later does. Its scope is alive (Conflicts.apply). */
  peer(record: VersionRecord, position: number): void {
    const { volume, lba } = record;
    const end = lba + record.blockCount;
    this.#placed = Math.max(this.#placed, record.sequence);
    if (this.#writes.count === 0) {
      if (record.sequence > this.#settled.applied) {
        this.#show(volume, lba, record.blockCount, record.type, position, 0);
      }
      return;
    }
    const masks: Span[] = [];
    this.#writes.forEach(volume, lba, end, 0, (write) => {
      if (write.mayDie) return false;
      if (isLater(write, record)) masks.push(write);
      // of own versions of a block the newest is the latest: what is older beneath it masks nothing more
      return write.lba <= lba && write.end >= end;
    });
    const unmasked = without({ lba, end }, masks);
    if (record.sequence > this.#settled.applied) {
      for (const span of unmasked) this.#place(record, position, span.lba, span.end);
      return;
    }
    // told again: only above an own record that was told again too
    const beneath: Span[] = [];
    this.#writes.forEach(volume, lba, end, 0, (write) => {
      if (isLater(record, write)) beneath.push(write);
      return false;
    });
    for (const span of unmasked) {
      const untouched = without(span, beneath);
      for (const again of without(span, untouched)) this.#place(record, position, again.lba, again.end);
    }
  }

  /** A LOCK of the peer is applied and its scope is alive: its writes may come until `peerUnlock`. */
  peerLock(record: LockRecord): void {
    const { volume, lba, sequence, generation, clock, site } = record;
    const end = lba + record.blockCount;
    const scope: PeerScope = { volume, lba, end, sequence, generation, clock, site, held: [] };
    this.#peerScopes.set(sequence, scope);
    this.#peerIndex.add(scope);
  }

  /** The end of a scope of the peer is applied. A scope that is not known was dead, or had ended before a checkpoint. */
  peerUnlock(sequence: number): void {
    const scope = this.#peerScopes.get(sequence);
    if (scope === undefined) return;
    this.#peerScopes.delete(sequence);
    this.#peerIndex.remove(scope);
    for (const write of scope.held) this.#settle(write);
  }

  /** A generation was minted here: the peer's scopes have ended with their sessions. */
  minted(): void {
    for (const sequence of [...this.#peerScopes.keys()]) this.peerUnlock(sequence);
  }

  /** An own scope is dead: what it wrote is taken out. */
  abort(scope: number): void {
    const writes = this.#dying.get(scope);
    if (writes === undefined) return;
    this.#dying.delete(scope);
    for (const write of writes) {
      for (let block = write.lba; block < write.end; block++) this.#takeOut(write, block);
      this.#writes.remove(write);
      write.gone = true;
    }
  }

  /** Nothing concurrent with own records up to `through` can arrive any more (Conflicts.closedThrough). */
  close(through: number): void {
    if (through <= this.#closedThrough) return;
    this.#closedThrough = through;
    const open = this.#open;
    while (this.#head < open.length && open[this.#head].sequence <= through) {
      const write = open[this.#head++];
      if (write.gone) this.#give(write);
      else this.#closeWrite(write);
    }
    if (this.#head >= 1024 && this.#head * 2 >= open.length) {
      open.splice(0, this.#head);
      this.#head = 0;
    }
  }

  /** Runs `snapshot`, which is synchronous, while no block shows what may yet be taken out. */
  withBase<T>(snapshot: () => T): T {
    for (const [volume, lists] of this.#lists) {
      for (const [block, { base }] of lists) this.#showPointer(volume, block, base);
    }
    try {
      return snapshot();
    } finally {
      for (const [volume, lists] of this.#lists) {
        for (const [block, { writes }] of lists) this.#showWrite(volume, block, writes[writes.length - 1]);
      }
    }
  }

  // ---- below: one block, one write

  /** Puts a write on top of a block's list; the map is swung by the caller. */
  #pushOn(volume: number, block: number, write: Write): void {
    let lists = this.#lists.get(volume);
    if (lists === undefined) {
      lists = new Map();
      this.#lists.set(volume, lists);
    }
    const list = lists.get(block);
    this.#keep(write.type, write.position);
    if (list !== undefined) {
      list.writes.push(write);
      return;
    }
    const { map } = this.#volumes.get(volume)!;
    const isMapped = map.lookup(block);
    const base: Pointer = {
      type: isMapped ? TYPE_WRITE : map.zero ? TYPE_ZERO : TYPE_TRIM,
      position: isMapped ? map.position : 0,
      index: isMapped ? map.index : 0,
    };
    this.#keep(base.type, base.position);
    lists.set(block, { base, writes: [write] });
    this.#listedBlocks++;
  }

  /** Places an unmasked version of the peer: in the lists of blocks that have one, on top elsewhere. */
  #place(record: VersionRecord, position: number, lba: number, end: number): void {
    const { volume, type } = record;
    const lists = this.#lists.get(volume);
    let from = lba;
    if (lists !== undefined && lists.size > 0) {
      for (const block of listedBlocks(lists, lba, end)) {
        const { writes } = lists.get(block)!;
        const beneath = writes.findIndex((write) => isLater(write, record));
        if (beneath < 0) {
          this.#endList(lists, block);
          continue;
        }
        this.#rebase(lists, block, beneath, { type, position, index: block - record.lba });
        if (block > from) this.#show(volume, from, block - from, type, position, from - record.lba);
        from = block + 1;
      }
    }
    if (end > from) this.#show(volume, from, end - from, type, position, from - record.lba);
  }

  #closeWrite(write: Write): void {
    if (write.mayDie) {
      const writes = this.#dying.get(write.scope)!;
      assert(writes[0] === write, 'writes of a scope close in their order');
      if (writes.length === 1) this.#dying.delete(write.scope);
      else writes.shift();
      // it stays: beneath it nothing is reachable, and alone on its list it needs none
      const lists = this.#lists.get(write.volume)!;
      for (const block of listedBlocks(lists, write.lba, write.end)) {
        const at = lists.get(block)!.writes.indexOf(write);
        if (at < 0) continue;
        const { type, position } = write;
        this.#rebase(lists, block, at + 1, { type, position, index: block - write.lba });
      }
      write.mayDie = false;
    }
    this.#settle(write);
  }

  /** A closed write is forgotten, unless an open scope of the peer would have to look for it. */
  #settle(write: Write): void {
    let holder: PeerScope | null = null;
    if (this.#peerIndex.count > 0) {
      this.#peerIndex.forEach(write.volume, write.lba, write.end, 0, (scope) => {
        if (!isLater(write, scope)) return false;
        holder ??= scope;
        return true;
      });
    }
    if (holder !== null) {
      (holder as PeerScope).held.push(write);
      return;
    }
    this.#writes.remove(write);
    this.#give(write);
  }

  /** Cuts the lowest `count` writes off a list, and gives it a new base. */
  #rebase(lists: Map<number, List>, block: number, count: number, base: Pointer): void {
    const list = lists.get(block)!;
    if (count === list.writes.length) {
      this.#endList(lists, block);
      return;
    }
    this.#keep(base.type, base.position);
    this.#letGo(list.base.type, list.base.position);
    list.base = base;
    for (const write of list.writes.splice(0, count)) this.#letGo(write.type, write.position);
  }

  /** Takes a dead write out of a block's list; what is highest then is shown. */
  #takeOut(write: Write, block: number): void {
    const lists = this.#lists.get(write.volume)!;
    const list = lists.get(block);
    const at = list?.writes.indexOf(write) ?? -1;
    if (list === undefined || at < 0) return;
    const { writes, base } = list;
    writes.splice(at, 1);
    this.#letGo(write.type, write.position);
    if (at < writes.length) return;
    if (writes.length > 0) {
      this.#showWrite(write.volume, block, writes[writes.length - 1]);
      return;
    }
    this.#showPointer(write.volume, block, base);
    this.#endList(lists, block);
  }

  #endLists(volume: number, lba: number, end: number): void {
    const lists = this.#lists.get(volume);
    if (lists === undefined || lists.size === 0) return;
    for (const block of listedBlocks(lists, lba, end)) this.#endList(lists, block);
  }

  #endList(lists: Map<number, List>, block: number): void {
    const { base, writes } = lists.get(block)!;
    this.#letGo(base.type, base.position);
    for (const write of writes) this.#letGo(write.type, write.position);
    lists.delete(block);
    this.#listedBlocks--;
    this.listsEnded++;
  }

  /** A pointer in a list keeps its segment. */
  #keep(type: number, position: number): void {
    if (type === TYPE_WRITE) this.#liveness.add(position, 1);
  }

  #letGo(type: number, position: number): void {
    if (type === TYPE_WRITE) this.#liveness.sub(position, 1);
  }

  #showPointer(volume: number, block: number, pointer: Pointer): void {
    this.#show(volume, block, 1, pointer.type, pointer.position, pointer.index);
  }

  #showWrite(volume: number, block: number, write: Write): void {
    this.#show(volume, block, 1, write.type, write.position, block - write.lba);
  }

  #show(volume: number, lba: number, blockCount: number, type: number, position: number, index: number): void {
    const { map } = this.#volumes.get(volume)!;
    if (type === TYPE_WRITE) map.swing(lba, blockCount, position, index);
    else if (type === TYPE_TRIM) map.clear(lba, blockCount);
    else map.setZero(lba, blockCount);
  }

  #take(record: VersionRecord, position: number, mayDie: boolean): Write {
    const write = this.#spare.pop() ?? new Write();
    write.volume = record.volume;
    write.lba = record.lba;
    write.end = record.lba + record.blockCount;
    write.sequence = record.sequence;
    write.scope = record.scope;
    write.generation = record.generation;
    write.clock = record.clock;
    write.site = record.site;
    write.type = record.type;
    write.position = position;
    write.placedBefore = this.#placed;
    write.mayDie = mayDie;
    write.gone = false;
    return write;
  }

  #give(write: Write): void {
    if (this.#spare.length < SPARE_MAX) this.#spare.push(write);
  }
}

/** Blocks of [lba, end) that have a list, ascending. */
function listedBlocks(lists: ReadonlyMap<number, List>, lba: number, end: number): number[] {
  const found: number[] = [];
  if (end - lba <= lists.size) {
    for (let block = lba; block < end; block++) if (lists.has(block)) found.push(block);
    return found;
  }
  for (const block of lists.keys()) if (block >= lba && block < end) found.push(block);
  return found.sort((a, b) => a - b);
}

/** What is left of a span without others, ascending. */
function without(span: Span, others: Span[]): Span[] {
  if (others.length === 0) return [span];
  others.sort((a, b) => a.lba - b.lba);
  const left: Span[] = [];
  let from = span.lba;
  for (const { lba, end } of others) {
    if (lba >= span.end) break;
    if (lba > from) left.push({ lba: from, end: lba });
    from = Math.max(from, end);
  }
  if (from < span.end) left.push({ lba: from, end: span.end });
  return left;
}
