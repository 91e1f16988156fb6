/** The source's hosts: what they ask, and what they make of the answers. */
import type { ForelockError } from '../../src/errors.js';
import type { Group } from '../../src/volume/group.js';
import { openScope } from '../../src/volume/scope.js';
import { runTransaction } from '../../src/volume/transaction.js';
import type { Volume } from '../../src/volume/volume.js';
import { UNIT } from './group-history.js';
import type { Life } from './group-rig.js';
import type { GroupWorld } from './group-world.js';

/** Errors that a host may be answered, whatever happens to the sites. */
const EXPECTED = ['ESHUTDOWN', 'EPERM', 'PEER_AWAY', 'ENOSPC', 'ETIMEDOUT'];
/** A host looks this often whether its gateway is there (again). */
const RETRY_MS = 20;
const WATCH_MS = 40;

/** One host's connection: a session for each life of the gateway. */
interface Connection {
  session: number;
  /** Of the source: which one it belongs to. */
  life: Life | null;
}

interface Place {
  volume: Volume;
  /** Bytes. */
  offset: number;
  size: number;
}

type Answer = (what: string, error: Error | null, good: () => void) => void;

export class Hosts {
  /** Operations asked. */
  operations = 0;
  /** Operations answered, be it with an error. */
  answered = 0;
  stopped = false;
  #outstanding = 0;
  /** Of these, the ones that are the gateway's to answer: all but open scopes. */
  #asked = 0;
  readonly #open = new Map<number, string>();
  #life = 0;
  readonly #world: GroupWorld;

  constructor(world: GroupWorld) {
    this.#world = world;
  }

  get outstanding(): number {
    return this.#outstanding;
  }

  start(): void {
    for (let i = 0; i < this.#world.options.hosts; i += 1) this.#next({ session: 0, life: null });
  }

  /** The gateway is gone, and with it whatever was asked. */
  gatewayDied(): void {
    this.#life += 1;
    this.#outstanding = 0;
    this.#asked = 0;
    this.#open.clear();
  }

  /** A clean stop answers first. */
  gatewayEnds(): void {
    if (this.#asked === 0) return;
    const open = [...this.#open.values()].join('; ');
    this.#world.violation(`the gateway stopped and left operations without an answer: ${open}`);
  }

  #next(connection: Connection): void {
    const { options, random, after } = this.#world;
    const next = (): void => this.#next(connection);
    const think = random() < 0.5 ? random() * 0.3 : random() * options.thinkMs;
    after(think, () => {
      if (this.stopped) return;
      const { source } = this.#world;
      const { group } = source;
      if (group === null || source.state !== 'up' || !group.ready) {
        after(RETRY_MS, next);
        return;
      }
      if (connection.life !== source.life) {
        connection.life = source.life;
        connection.session = group.nextSession();
      }
      this.#operation(connection.session, group, next);
    });
  }

  #operation(session: number, group: Group, next: () => void): void {
    const { options, random, scheduler, checks } = this.#world;
    const answer = this.#ask(group, next);
    const number = this.operations;
    const volumes = [...group.volumes.values()];
    const volume = volumes[Math.floor(random() * volumes.length)]!;
    const draw = random();
    const { offset, size } = this.#place(volume);
    this.#open.set(number, `${draw} ${session} ${offset / UNIT}+${size / UNIT} at ${scheduler.now}`);
    let left = draw;
    const isDrawn = (chance: number): boolean => {
      left -= chance;
      return left < 0;
    };
    if (isDrawn(options.flush)) {
      const sequence = group.journal.own.appended;
      volume.flush({ settle: (error) => answer('flush', error, () => checks.flushed(sequence)) });
    } else if (isDrawn(options.trim)) {
      volume.trim(session, offset, size, false, { settle: (error) => answer('trim', error, () => {}) });
    } else if (isDrawn(options.zero)) {
      const fua = random() < options.fua;
      volume.zero(session, offset, size, fua, { settle: (error) => answer('zero', error, () => {}) });
    } else if (isDrawn(options.read)) {
      this.#read(session, { volume, offset, size }, answer);
    } else if (isDrawn(options.scope)) {
      this.#asked -= 1;
      this.#scope({ volume, offset, size }).then(
        () => answer('scope', null, () => {}),
        (error) => answer('scope', error, () => {}),
      );
    } else if (isDrawn(options.transaction)) {
      this.#asked -= 1;
      const { promise, good } = this.#transaction(group);
      promise.then(
        () => answer('transaction', null, good),
        (error) => answer('transaction', error, () => {}),
      );
    } else this.#write(session, { volume, offset, size }, answer);
  }

  /** One more operation is open. @returns what is told of its answer */
  #ask(group: Group, next: () => void): Answer {
    const { source, after, met, fail, violation } = this.#world;
    this.operations += 1;
    this.#outstanding += 1;
    this.#asked += 1;
    const number = this.operations;
    const life = this.#life;
    let answered = false;
    const done = (what: string): void => {
      if (life !== this.#life) return after(1, next);
      this.#outstanding -= 1;
      if (what !== 'scope' && what !== 'transaction') this.#asked -= 1;
      next();
    };
    // a host whose gateway died starts again
    const watch = (): void => {
      if (answered) return;
      if (life === this.#life) return after(WATCH_MS, watch);
      answered = true;
      next();
    };
    after(WATCH_MS, watch);
    return (what, error, good) => {
      if (answered) violation(`${what} was answered twice`);
      answered = true;
      this.#open.delete(number);
      this.answered += 1;
      try {
        if (error === null) {
          met(what);
          good();
        } else {
          const code = (error as ForelockError).code ?? error.message;
          met(`${what}: ${code}`);
          if (code === 'EIO' && (group.journal.failed !== null || source.state === 'closing')) return done(what);
          if (!EXPECTED.includes(code)) throw error;
        }
      } catch (violation) {
        fail(violation as Error);
      }
      done(what);
    };
  }

  /** Where the next operation goes: more often than not to the volume's hot beginning. */
  #place(volume: Volume): { offset: number; size: number } {
    const { options, random } = this.#world;
    const units = volume.size / UNIT;
    const per = volume.blockSize / UNIT;
    const aligned = per === 1 || random() >= options.partial;
    const step = aligned ? per : 1;
    const hot = random() < 0.6 ? Math.min(units, 40 * per) : units;
    const unit = Math.floor((random() * hot) / step) * step;
    const most = Math.max(1, Math.floor(Math.min(units - unit, (random() ** 2 * options.writeSizeMax) / UNIT) / step));
    const size = Math.min(units - unit, (1 + Math.floor(random() * most)) * step) * UNIT;
    return { offset: unit * UNIT, size };
  }

  #write(session: number, { volume, offset, size }: Place, answer: Answer): void {
    const { options, random, history, checks, violation } = this.#world;
    const bytes = history.payload(size);
    const fua = random() < options.fua;
    const cut = Math.floor(random() * bytes.length);
    const pieces = random() < 0.5 ? [bytes] : [bytes.subarray(0, cut), bytes.subarray(cut)];
    const tags = history.tagsOf(bytes, 0, size / UNIT);
    const good = (): void => {
      let last = 0;
      for (const tag of tags) {
        const sequence = history.sequenceOf(tag);
        if (sequence === undefined) violation('a write was answered that never became a record');
        else last = Math.max(last, sequence);
      }
      if (fua) checks.flushed(last);
      else if (options.ack !== 'local' || options.speculation === 'off') checks.writeAnswered(last);
    };
    volume.write(session, offset, size, pieces, fua, {
      settle: (error) => answer(fua ? 'fua write' : 'write', error, good),
    });
  }

  /** A read gives, for each unit, what was there when it was asked or was written meanwhile. */
  #read(session: number, { volume, offset, size }: Place, answer: Answer): void {
    const { history, checks, violation } = this.#world;
    const first = offset / UNIT;
    const count = size / UNIT;
    // a group that does not serve yet may still drop a lost tail
    const asked = volume.group.serving
      ? { from: history.length, before: history.unitsNow(volume.number, first, count) }
      : null;
    volume.read(session, offset, size, {
      settleRead: (error, pieces) =>
        answer('read', error, () => {
          const found = history.tagsOf(new Uint8Array(Buffer.concat(pieces)), 0, count);
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

  /** An explicit scope: a lock, some writes that are read back, the unlock. */
  async #scope({ volume, offset, size }: Place): Promise<void> {
    const { source, random, after, history, violation } = this.#world;
    const { blockSize } = volume;
    const lba = Math.floor(offset / blockSize);
    const blockCount = Math.max(1, Math.min(volume.size / blockSize - lba, Math.ceil(size / blockSize)));
    const { life } = source;
    // whoever held the scope died with the gateway
    const pause = (ms: number) => new Promise<void>((resolve) => after(ms, () => life.over || resolve()));
    const scope = await openScope(
      volume,
      { offset: lba * blockSize, size: blockCount * blockSize },
      { waitMsMax: 2000 },
    );
    try {
      for (let i = Math.floor(random() * 3); i >= 0; i -= 1) {
        const skip = Math.floor(random() * blockCount);
        const bytes = history.payload((1 + Math.floor(random() * Math.min(8, blockCount - skip))) * blockSize);
        await scope.write((lba + skip) * blockSize, bytes);
        const back = await scope.read((lba + skip) * blockSize, bytes.length);
        if (Buffer.compare(back, bytes) !== 0) violation('a scope does not read what it wrote');
        if (random() < 0.5) await pause(random() * 30);
      }
      if (random() < 0.2) await scope.confirmed;
    } finally {
      await scope.unlock();
    }
  }

  /** Writes to a few places of all volumes, read back; some end without a commit. The history knows what shows when. */
  #transaction(group: Group): { promise: Promise<void>; good: () => void } {
    const { source, random, after, history, checks, options, violation } = this.#world;
    const { life } = source;
    const pause = (ms: number) => new Promise<void>((resolve) => after(ms, () => life.over || resolve()));
    const volumes = [...group.volumes.values()];
    const tags: number[] = [];
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
            await transaction.lock(name, { offset: at, size: most });
          } catch (error) {
            if ((error as ForelockError).code === 'EINVAL') continue; // it has locked some of it
            throw error;
          }
          const bytes = history.payload(Math.max(blockSize, Math.min(most, 4096)));
          transaction.write(name, at, bytes);
          tags.push(...history.tagsOf(bytes, 0, bytes.length / UNIT));
          if (random() < 0.3) await pause(random() * 30);
          const back = await transaction.read(name, at, bytes.length);
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
        if (sequences.some((sequence) => sequence !== undefined))
          violation('a transaction without a commit was written');
        return;
      }
      if (sequences.some((sequence) => sequence === undefined)) violation('a transaction lacks some of its writes');
      const last = Math.max(0, ...sequences.map((sequence) => sequence!));
      if (last > 0 && (options.ack !== 'local' || options.speculation === 'off')) checks.writeAnswered(last + 1);
    };
    return { promise, good };
  }
}

/** A host that changes its mind. */
class GivenUp extends Error {}
