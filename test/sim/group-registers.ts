/**
 * What the source's hosts were told of a few units, judged by linearizability.ts: it knows no journal and no record,
 * only who asked when, and what the answer was.
 *
 * A unit is a register: every host writes it whole, with a tag of its own. Its history ends where it is trimmed or
 * zeroed, since all zeroes look alike; and all end where the target takes over, which may have less than the source
 * had promised. A gateway's life ends with a crash, be it in order: what was not answered happened, or not, by then.
 *
 * Where both sites write there is no such history: what a host wrote may show beneath what came from the other site, or
 * vanish with its scope, and both are right. There Shown (dual-truth.ts) says what a read may give.
 */
import { type Images, UNIT } from './group-history.js';
import { type Crash, findViolation, type HostOperation, type HostWrite, NEVER } from './linearizability.js';

/** Units of a world that are judged: so many where hosts meet, and so many anywhere. */
const HOT = 16;
const ANYWHERE = 8;
/** Blocks at a volume's beginning where hosts meet. */
const HOT_BLOCKS = 40;

const NONE: readonly Register[] = [];

interface Register {
  readonly volume: number;
  readonly unit: number;
  readonly operations: HostOperation[];
  ended: boolean;
}

/** Writes of a host's request that has no answer yet. */
export interface Asked {
  answered(): void;
  /** It is certain that it will never take place. */
  never(): void;
}

const NOT_JUDGED: Asked = { answered: () => {}, never: () => {} };

export class Registers {
  readonly #all: Register[] = [];
  /** By volume and unit, which of them, from 1; 0: it is not judged. */
  readonly #at: Uint8Array[];
  readonly #crashes: Crash[] = [];
  /** When the last flush that was answered was asked for; what there was at tick 0 is durable. */
  #flushed = 1;
  #tick = 1;

  /** @param random not the world's: to take some of that would make another world of every seed */
  constructor(volumes: readonly { blocks: number; blockSize: number }[], random: () => number) {
    this.#at = volumes.map(({ blocks, blockSize }) => new Uint8Array((blocks * blockSize) / UNIT));
    for (let i = 0; i < HOT + ANYWHERE; i += 1) {
      const index = Math.floor(random() * volumes.length);
      const { blocks, blockSize } = volumes[index]!;
      const within = i < HOT ? Math.min(blocks, HOT_BLOCKS) : blocks;
      this.#judge(index + 1, Math.floor((random() * within * blockSize) / UNIT));
    }
  }

  #judge(volume: number, unit: number): void {
    const at = this.#at[volume - 1]!;
    if (at[unit] !== 0) return;
    at[unit] = this.#all.push({ volume, unit, operations: [], ended: false });
  }

  /** What the volumes held before there were hosts. */
  begin(images: Images): void {
    for (const { volume, unit, operations } of this.#all) {
      const value = images.get(volume)![unit]!;
      if (value !== 0)
        operations.push({ kind: 'write', volume, block: unit, blockCount: 1, value, invoked: 0, answered: 0 });
    }
  }

  /** Somebody asks for something. @returns when */
  ask(): number {
    this.#tick += 1;
    return this.#tick;
  }

  /** @param tag of the first unit; the others' follow */
  write(volume: number, unit: number, units: number, tag: number): Asked {
    const invoked = this.ask();
    const registers = this.#within(volume, unit, units);
    if (registers.length === 0) return NOT_JUDGED;
    const writes: { register: Register; write: HostWrite }[] = [];
    for (const register of registers) {
      const value = tag + register.unit - unit;
      const write: HostWrite = {
        kind: 'write',
        volume,
        block: register.unit,
        blockCount: 1,
        value,
        invoked,
        answered: NEVER,
      };
      register.operations.push(write);
      writes.push({ register, write });
    }
    return {
      answered: () => {
        if (invoked < (this.#crashes.at(-1)?.at ?? 0)) return;
        const answered = this.ask();
        for (const { write } of writes) write.answered = answered;
      },
      never: () => {
        for (const { register, write } of writes) register.operations.splice(register.operations.indexOf(write), 1);
      },
    };
  }

  /** A read was answered. */
  read(volume: number, unit: number, tags: Uint32Array, invoked: number): void {
    const answered = this.ask();
    for (const { unit: at, operations } of this.#within(volume, unit, tags.length))
      operations.push({ kind: 'read', volume, block: at, values: [tags[at - unit]!], invoked, answered });
  }

  /** Zeroes are to be written. */
  blank(volume: number, unit: number, units: number): void {
    for (const register of this.#within(volume, unit, units)) register.ended = true;
  }

  /** A flush was answered. */
  flushed(invoked: number): void {
    this.#flushed = Math.max(this.#flushed, invoked);
  }

  crashed(): void {
    this.#crashes.push({ at: this.ask(), durableBefore: this.#flushed });
  }

  /** Another site takes over. */
  end(): void {
    for (const register of this.#all) register.ended = true;
  }

  /** @returns what is impossible, or null */
  judge(): string | null {
    return (
      findViolation(
        this.#all.flatMap(({ operations }) => operations),
        this.#crashes,
      )?.message ?? null
    );
  }

  #within(volume: number, unit: number, units: number): readonly Register[] {
    const at = this.#at[volume - 1]!;
    let found: Register[] | null = null;
    for (let i = unit; i < unit + units; i += 1) {
      if (at[i] === 0) continue;
      const register = this.#all[at[i]! - 1]!;
      if (register.ended) continue;
      found ??= [];
      found.push(register);
    }
    return found ?? NONE;
  }
}
