/** The kernels, and where handing work to the pool begins to pay: bench/kernels.js, as rows of the report. */
import { run as measure } from '../kernels.js';

export const needs = [];

const SEAL = 'seal records';
const XXHASH_WASM = 'xxhash-wasm over the same blocks';
const sizeName = (size) => (size >= 2 ** 20 ? `${size / 2 ** 20} MiB` : `${size / 1024} KiB`);
const single = (who, value) => ({ who, rounds: [{ value }] });

let measured = null;

export async function run(context) {
  measured ??= await measure({ quick: context.quick });
  const tables = new Map();
  for (const { name, size, gbps } of measured) {
    if (gbps === undefined) continue;
    const table = `${name.endsWith(', cold') ? 'cold, ' : 'hot, '}${sizeName(size)}`;
    if (!tables.has(table)) tables.set(table, []);
    tables.get(table).push(single(name.replace(', cold', ''), gbps));
  }
  const rows = [...tables].map(([name, results]) => ({ subject: 'kernels', name, unit: 'GB/s', results, goals: [] }));
  for (const row of rows) {
    if (row.results.some(({ who }) => who === SEAL)) row.goals.push({ of: SEAL, to: XXHASH_WASM, atLeast: 2.8 });
  }
  for (const { name, held, ns } of measured) {
    if (ns === undefined) continue;
    rows.push({
      subject: 'kernels',
      name: `${name}, ${held} held`,
      unit: 'ns',
      results: [single(name, ns)],
      goals: [],
    });
  }
  return rows;
}

export async function runPool(context) {
  measured ??= await measure({ quick: context.quick });
  return measured
    .filter(({ inlineUs }) => inlineUs !== undefined)
    .map(({ size, inlineUs, poolUs }) => ({
      subject: 'pool',
      name: `main thread, a batch of ${sizeName(size)}`,
      unit: 'µs',
      results: [single('checked inline', inlineUs), single('handed over', poolUs)],
      goals: [],
    }));
}
