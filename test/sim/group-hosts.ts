/** The source's hosts: what they ask, and what they make of the answers. */
import type { ForelockError } from '../../src/errors.js';
import type { Group } from '../../src/volume/group.js';
import { openScope } from '../../src/volume/scope.js';
import { runTransaction } from '../../src/volume/transaction.js';
import type { Volume } from '../../src/volume/volume.js';
import { UNIT } from './group-history.js';
import type { Asked } from './group-registers.js';
import type { Life } from './group-rig.js';
import type { GroupWorld } from './group-world.js';

/** Errors that a host may be answered, whatever happens to the sites. */
const EXPECTED = ['ESHUTDOWN', 'EPERM', 'PEER_AWAY', 'ENOSPC', 'ETIMEDOUT'];
/** Hosts look this often whether their gateway is there (again). */
const RETRY_MS = 20;
/** Longest time until a host that was refused asks for something again. */
const BACK_OFF_MS_MAX = 500;
/** Longest time until a host finds out that its gateway died. */
const NOTICE_MS_MAX = 40;

/** One host's connection: a session for each life of the gateway. What it asks at the same moment comes together. */
interface Connection {
  session: number;
  /** Of the source: which one it belongs to. */
  life: Life | null;
  /** Operations that it may ask. */
  idle: number;
  isThinking: boolean;
}

interface Place {
  volume: Volume;
  /** Bytes. */
  offset: number;
  size: number;
}

type Answer = (what: string, error: Error | null, good: () => void) => void;

/** An operation that was asked and not answered. */
interface Open {
  session: number;
  place: Place;
  /** What was drawn for what it is. */
  draw: number;
  askedMs: number;
  /** An explicit scope, or a transaction: it is not the gateway's to answer. */
  isScope: boolean;
  /** What its host does next. */
  next: () => void;
}

export class Hosts {
  /** Operations asked: a scope's or a transaction's lock, writes and reads are one each, like its end. */
  operations = 0;
  /** Operations answered, be it with an error. */
  answered = 0;
  stopped = false;
  readonly #open = new Set<Open>();
  /** Those that found no gateway. */
  readonly #waiting: Connection[] = [];
  readonly #world: GroupWorld;

  constructor(world: GroupWorld) {
    this.#world = world;
  }

  get outstanding(): number {
    return this.#open.size;
  }

  start(): void {
    const { hosts, depth } = this.#world.options;
    for (let i = 0; i < hosts; i += 1) {
      const connection: Connection = { session: 0, life: null, idle: depth - 1, isThinking: false };
      this.#next(connection);
    }
  }

  /** The gateway is gone, and with it whatever was asked. */
  gatewayDied(): void {
    const { random, after, registers } = this.#world;
    for (const { next } of this.#open) after(1 + random() * NOTICE_MS_MAX, next);
    this.#open.clear();
    registers.crashed();
  }

  /** A clean stop answers first. */
  gatewayEnds(): void {
    const left = [...this.#open].filter(({ isScope }) => !isScope);
    if (left.length === 0) return;
    const described = left.map(
      ({ session, place: { offset, size }, draw, askedMs }) =>
        `${draw} ${session} ${offset / UNIT}+${size / UNIT} at ${askedMs}`,
    );
    this.#world.violation(`the gateway stopped and left operations without an answer: ${described.join('; ')}`);
  }

  /** An operation is over, and the host may ask for another one. */
  #next(connection: Connection): void {
    const { options, random, after } = this.#world;
    connection.idle += 1;
    if (connection.isThinking) return;
    connection.isThinking = true;
    after(random() < 0.5 ? random() * 0.3 : random() * options.thinkMs, () => this.#ask(connection));
  }

  #ask(connection: Connection): void {
    if (this.stopped) return;
    const { life } = this.#world.source;
    const group = this.#gateway();
    if (group === null) return this.#wait(connection);
    if (connection.life !== life) {
      connection.life = life;
      connection.session = group.nextSession();
    }
    connection.isThinking = false;
    const { idle } = connection;
    connection.idle = 0;
    for (let i = 0; i < idle; i += 1) this.#operation(connection.session, group, () => this.#next(connection));
  }

  #gateway(): Group | null {
    const { group, state, stray } = this.#world.source;
    return state === 'up' && group?.ready === true && !stray ? group : null;
  }

  #wait(connection: Connection): void {
    this.#waiting.push(connection);
    if (this.#waiting.length > 1) return;
    const look = (): void => {
      if (this.#gateway() === null && !this.stopped) return this.#world.after(RETRY_MS, look);
      for (const each of this.#waiting.splice(0)) this.#ask(each);
    };
    this.#world.after(RETRY_MS, look);
  }

  #operation(session: number, group: Group, next: () => void): void {
    const { options, random, scheduler, checks, registers } = this.#world;
    const volumes = [...group.volumes.values()];
    const volume = volumes[Math.floor(random() * volumes.length)]!;
    const draw = random();
    const place = this.#place(volume);
    const { offset, size } = place;
    const open: Open = { session, place, draw, askedMs: scheduler.now, isScope: false, next };
    const answer = this.#opened(group, open);
    let left = draw;
    const isDrawn = (chance: number): boolean => {
      left -= chance;
      return left < 0;
    };
    if (isDrawn(options.flush)) {
      const sequence = group.journal.own.appended;
      const asked = registers.ask();
      const good = (): void => {
        checks.flushed(sequence);
        registers.flushed(asked);
      };
      volume.flush({ settle: (error) => answer('flush', error, good) });
    } else if (isDrawn(options.trim)) {
      registers.blank(volume.number, offset / UNIT, size / UNIT);
      volume.trim(session, offset, size, false, { settle: (error) => answer('trim', error, () => {}) });
    } else if (isDrawn(options.zero)) {
      const fua = random() < options.fua;
      registers.blank(volume.number, offset / UNIT, size / UNIT);
      volume.zero(session, offset, size, fua, { settle: (error) => answer('zero', error, () => {}) });
    } else if (isDrawn(options.read)) {
      this.#read(session, place, answer);
    } else if (isDrawn(options.scope)) {
      open.isScope = true;
      this.#scope(place).then(
        () => answer('scope', null, () => {}),
        (error) => answer('scope', error, () => {}),
      );
    } else if (isDrawn(options.transaction)) {
      open.isScope = true;
      const { promise, good } = this.#transaction(group);
      promise.then(
        () => answer('transaction', null, good),
        (error) => answer('transaction', error, () => {}),
      );
    } else this.#write(session, place, answer);
  }

  /** One more operation is open. @returns what is told of its answer */
  #opened(group: Group, open: Open): Answer {
    const { source, random, after, met, fail, violation } = this.#world;
    const { life } = source;
    this.operations += 1;
    this.#open.add(open);
    return (what, error, good) => {
      if (life.over) return; // nobody is there to be answered
      if (!this.#open.delete(open)) violation(`${what} was answered twice`);
      this.answered += 1;
      try {
        if (error === null) {
          met(what);
          good();
        } else {
          const code = (error as ForelockError).code ?? error.message;
          met(`${what}: ${code}`);
          const mayFail = group.journal.failed !== null || source.state === 'closing' || source.unreadable;
          const failed = code === 'EIO' && mayFail;
          if (!failed && !EXPECTED.includes(code)) throw error;
        }
      } catch (violation) {
        fail(violation as Error);
      }
      // who asked on at once would be refused thousands of times, and count as many operations
      if (error === null) open.next();
      else after(random() * BACK_OFF_MS_MAX, open.next);
    };
  }

  /** Where the next operation goes: more often than not to the volume's hot beginning. */
  #place(volume: Volume): Place {
    const { options, random } = this.#world;
    const units = volume.size / UNIT;
    const per = volume.blockSize / UNIT;
    const aligned = per === 1 || random() >= options.partial;
    const step = aligned ? per : 1;
    const hot = random() < 0.6 ? Math.min(units, 40 * per) : units;
    const unit = Math.floor((random() * hot) / step) * step;
    const most = Math.max(1, Math.floor(Math.min(units - unit, (random() ** 2 * options.writeSizeMax) / UNIT) / step));
    const size = Math.min(units - unit, (1 + Math.floor(random() * most)) * step) * UNIT;
    return { volume, offset: unit * UNIT, size };
  }

  #write(session: number, { volume, offset, size }: Place, answer: Answer): void {
    const { options, random, history, checks, registers, violation } = this.#world;
    const tag = history.nextTag;
    const asked = registers.write(volume.number, offset / UNIT, size / UNIT, tag);
    const fua = random() < options.fua;
    const cut = random() < 0.5 ? 0 : Math.floor(random() * size);
    const good = (): void => {
      asked.answered();
      let last = 0;
      for (let unit = 0; unit < size / UNIT; unit += 1) {
        const sequence = history.sequenceOf(tag + unit);
        if (sequence === 0) violation('a write was answered that never became a record');
        last = Math.max(last, sequence);
      }
      if (fua) checks.flushed(last);
      else if (options.ack !== 'local' || options.speculation === 'off') checks.writeAnswered(last);
    };
    const completion = { settle: (error: Error | null) => answer(fua ? 'fua write' : 'write', error, good) };
    history.lend(size, (bytes) => {
      const pieces = cut === 0 ? [bytes] : [bytes.subarray(0, cut), bytes.subarray(cut)];
      volume.write(session, offset, size, pieces, fua, completion);
    });
  }

  /** A read gives, for each unit, what was there when it was asked or was written meanwhile. */
  #read(session: number, { volume, offset, size }: Place, answer: Answer): void {
    const { history, checks, registers, violation } = this.#world;
    const first = offset / UNIT;
    const count = size / UNIT;
    const invoked = registers.ask();
    // a group that does not serve yet may still drop a lost tail
    const asked = volume.group.serving
      ? { from: history.length, before: history.unitsNow(volume.number, first, count) }
      : null;
    volume.read(session, offset, size, {
      settleRead: (error, pieces) =>
        answer('read', error, () => {
          const found = history.tagsOf(pieces.length === 1 ? pieces[0]! : Buffer.concat(pieces), 0, count);
          registers.read(volume.number, first, found, invoked);
          const from = asked?.from ?? checks.servedFrom;
          const before = asked?.before ?? history.imageAt(from).get(volume.number)!.subarray(first);
          for (let i = 0; i < count; i += 1) {
            if (found[i] === before[i]) continue;
            if (history.wroteSince(from, volume.number, first + i, found[i]!)) continue;
            violation(
              `a read asked at ${from} shows ${history.describe(found[i]!)} in unit ${first + i} ` +
                `of volume ${volume.number}, not ${before[i]}`,
            );
          }
        }),
    });
  }

  /** One of the requests that a scope or a transaction consists of. */
  async #part<T>(request: Promise<T>): Promise<T> {
    this.operations += 1;
    try {
      return await request;
    } finally {
      this.answered += 1;
    }
  }

  /** Thinks while it holds its locks: mostly not for long, since others wait. Who dies with the gateway never goes on. */
  #pause(): Promise<void> {
    const { source, random, after } = this.#world;
    const { life } = source;
    return new Promise((resolve) => after(random() ** 4 * 50, () => life.over || resolve()));
  }

  /** An explicit scope: a lock, some writes that are read back, the unlock. */
  async #scope({ volume, offset, size }: Place): Promise<void> {
    const { random, history, registers, violation } = this.#world;
    const { blockSize } = volume;
    const lba = Math.floor(offset / blockSize);
    const blockCount = Math.max(1, Math.min(volume.size / blockSize - lba, Math.ceil(size / blockSize)));
    const extent = { offset: lba * blockSize, size: blockCount * blockSize };
    const scope = await this.#part(openScope(volume, extent, { waitMsMax: 2000 }));
    try {
      for (let i = Math.floor(random() * 3); i >= 0; i -= 1) {
        const skip = Math.floor(random() * blockCount);
        const tag = history.nextTag;
        const bytes = history.payload((1 + Math.floor(random() * Math.min(8, blockCount - skip))) * blockSize);
        const at = (lba + skip) * blockSize;
        const asked = registers.write(volume.number, at / UNIT, bytes.length / UNIT, tag);
        await this.#part(scope.write(at, bytes));
        asked.answered();
        const back = await this.#part(scope.read(at, bytes.length));
        if (Buffer.compare(back, bytes) !== 0) violation('a scope does not read what it wrote');
        if (random() < 0.5) await this.#pause();
      }
      if (random() < 0.2) await this.#part(scope.confirmed);
    } finally {
      await scope.unlock();
    }
  }

  /** Writes to a few places of all volumes, read back; some end without a commit. The history knows what shows when. */
  #transaction(group: Group): { promise: Promise<void>; good: () => void } {
    const { random, history, checks, options, registers, violation } = this.#world;
    const volumes = [...group.volumes.values()];
    const tags: number[] = [];
    const writes: Asked[] = [];
    let given = false;
    const promise = runTransaction(
      group,
      async (transaction) => {
        for (let i = Math.floor(random() * 4); i >= 0; i -= 1) {
          const volume = volumes[Math.floor(random() * volumes.length)]!;
          const { blockSize, name } = volume;
          const { offset, size } = this.#place(volume);
          const at = Math.floor(offset / blockSize) * blockSize;
          const most = Math.min(volume.size - at, 4096 * Math.ceil(size / 4096));
          try {
            await this.#part(transaction.lock(name, { offset: at, size: most }));
          } catch (error) {
            if ((error as ForelockError).code === 'EINVAL') continue; // it has locked some of it
            throw error;
          }
          const tag = history.nextTag;
          const bytes = history.payload(Math.max(blockSize, Math.min(most, 4096)));
          writes.push(registers.write(volume.number, at / UNIT, bytes.length / UNIT, tag));
          transaction.write(name, at, bytes);
          tags.push(...history.tagsOf(bytes, 0, bytes.length / UNIT));
          if (random() < 0.3) await this.#pause();
          const back = await this.#part(transaction.read(name, at, bytes.length));
          if (Buffer.compare(back, bytes) !== 0) violation('a transaction does not read what it wrote');
        }
        given = random() < 0.2;
        if (given) throw new GivenUp();
      },
      { waitMsMax: 300 },
    ).catch((error) => {
      if (!(error instanceof GivenUp)) throw error;
    });
    const good = (): void => {
      const sequences = tags.map((tag) => history.sequenceOf(tag));
      if (given) {
        if (sequences.some((sequence) => sequence > 0)) violation('a transaction without a commit was written');
        for (const write of writes) write.never();
        return;
      }
      for (const write of writes) write.answered();
      if (sequences.some((sequence) => sequence === 0)) violation('a transaction lacks some of its writes');
      const last = Math.max(0, ...sequences);
      if (last > 0 && (options.ack !== 'local' || options.speculation === 'off')) checks.writeAnswered(last + 1);
    };
    return { promise, good };
  }
}

/** A host that changes its mind. */
class GivenUp extends Error {}
