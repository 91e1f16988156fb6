/**
 * The region table (a bitmap, 1 bit per 4 KiB of 1 TiB) beside an ordered map of ranges, with 10,000 and 1,000,000 ranges
 * held: ns for a lock and an unlock at random places, and for a question.
 */
import btree from 'sorted-btree';
import { createKernel } from '../../dist/src/kernel/create.js';
import { GroupMemory } from '../../dist/src/kernel/memory.js';
import { timeInTurn } from '../timing.js';

export const needs = [];

const BTree = btree.default ?? btree;
const REGIONS = 2 ** 28;
const CALLS = 10_000;
const EXTENT = 8;

const places = (count, factor) =>
  Uint32Array.from({ length: count }, (_, i) => ((Math.imul(i, factor) >>> 4) % (REGIONS / EXTENT)) * EXTENT);

/**
 * A function compiled for one contender alone. Shared, V8 makes calls that fit every kernel and are twice as slow; a
 * gateway has one kernel, and calls to that.
 * @param make uses nothing but its parameters
 */
const ownCode = (who, make) => new Function(`return ${make} // ${who}`)();

const change = (kernel, table, asked, extent) => () => {
  for (const place of asked) {
    kernel.lockSet(table, place, extent);
    kernel.lockClear(table, place, extent);
  }
};
const ask = (kernel, table, asked, extent) => () => {
  for (const place of asked) kernel.lockQuery(table, place, extent);
};

/** Ranges by their first region. */
class RangeTree {
  #ends = new BTree();
  lock(first, count) {
    this.#ends.set(first, first + count);
  }
  unlock(first) {
    this.#ends.delete(first);
  }
  isHeld(first, count) {
    const [begin, end] = this.#ends.nextLowerPair(first + count) ?? [0, 0];
    return begin < first + count && end > first;
  }
}

export async function* run({ rounds }) {
  const memory = new GroupMemory(REGIONS / 8 + 2 ** 20);
  const table = memory.take(REGIONS / 8).at;
  const twins = { kernel: createKernel('wasm', memory), twin: createKernel('reference', memory) };
  const asked = places(CALLS, 2654435761);
  for (const held of [10_000, 1_000_000]) {
    const tree = new RangeTree();
    memory.bytes.fill(0, table, table + REGIONS / 8);
    for (const place of places(held, 2246822519)) {
      twins.kernel.lockSet(table, place, EXTENT);
      tree.lock(place, EXTENT);
    }
    const kernels = { 'region table': twins.kernel, 'twin in TypeScript': twins.twin };
    const casesOf = (make) =>
      Object.entries(kernels).map(([who, kernel]) => ({
        who,
        run: ownCode(`${who}, ${held}`, make)(kernel, table, asked, EXTENT),
      }));
    const changes = [
      ...casesOf(change),
      {
        who: 'sorted-btree',
        run: () => {
          for (const place of asked) {
            tree.lock(place, EXTENT);
            tree.unlock(place);
          }
        },
      },
    ];
    const questions = [
      ...casesOf(ask),
      {
        who: 'sorted-btree',
        run: () => {
          for (const place of asked) tree.isHeld(place, EXTENT);
        },
      },
    ];
    for (const [what, cases] of Object.entries({ 'lock + unlock': changes, query: questions })) {
      const values = timeInTurn(cases, rounds, (ms) => (ms * 1e6) / CALLS);
      const results = cases.map(({ who }, i) => ({ who, rounds: values[i].map((value) => ({ value })) }));
      const key = `${what === 'query' ? 'query' : 'lock'}-${held}`;
      yield {
        subject: 'locks',
        key,
        name: `${what}, ${held.toLocaleString('en')} held`,
        unit: 'ns',
        better: 'less',
        results,
      };
    }
  }
}
