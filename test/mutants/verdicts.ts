/**
 * What is known of each mutant, kept in a file as it comes: a line of JSON each, the last one of a name counts. A verdict
 * is of a text, that of the file with its mutant; of another text it still says who may notice first.
 */
import { appendFileSync, existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import xxhash from 'xxhash-wasm';
import { PACKAGE_ROOT } from '../../src/paths.js';
import type { TestsFinding, WorldsFinding } from './bench.js';
import { applyMutant, type Mutant } from './mutant.js';

export interface Verdict {
  tests: TestsFinding;
  /** Of the last simulator that was asked: the one that noticed, if any did. */
  worlds: WorldsFinding;
}

interface Line extends Verdict {
  name: string;
  text: string;
}

const { h64ToString } = await xxhash();

const textOf = (mutant: Mutant): string =>
  h64ToString(applyMutant(readFileSync(join(PACKAGE_ROOT, 'src', mutant.file), 'utf8'), mutant));

export const isCaught = ({ tests, worlds }: Verdict): boolean => tests.caught || worlds.caught;

export class Verdicts {
  readonly #path: string | null;
  readonly #lines = new Map<string, Line>();

  readonly #texts: ReadonlyMap<Mutant, string>;

  /** @param path null: they are not kept */
  constructor(path: string | null, mutants: readonly Mutant[]) {
    this.#path = path;
    this.#texts = new Map(mutants.map((each) => [each, textOf(each)])); // as they are now, not when a verdict comes
    if (path === null || !existsSync(path)) return;
    for (const text of readFileSync(path, 'utf8').split('\n')) {
      // the last line is half there if the process was killed as it wrote
      if (!text.endsWith('}')) continue;
      const line = JSON.parse(text) as Line;
      this.#lines.set(line.name, line);
    }
  }

  /** @returns null: none of this text, or it survived and is not meant to, so that more may notice it by now */
  of(mutant: Mutant): Verdict | null {
    const line = this.#lines.get(mutant.name);
    if (line === undefined || line.text !== this.#texts.get(mutant)) return null;
    return isCaught(line) || mutant.harmless !== undefined ? line : null;
  }

  /** What it was when it was last looked at, of whatever text. */
  last(mutant: Mutant): Verdict | null {
    return this.#lines.get(mutant.name) ?? null;
  }

  add(mutant: Mutant, verdict: Verdict): void {
    const line: Line = { name: mutant.name, text: this.#texts.get(mutant)!, ...verdict };
    this.#lines.set(mutant.name, line);
    if (this.#path !== null) appendFileSync(this.#path, `${JSON.stringify(line)}\n`);
  }
}
