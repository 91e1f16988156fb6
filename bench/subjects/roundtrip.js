/** Rates against the round trip, by the target's applied cursor over a steady state: bench/roundtrip.js. */
import { existsSync } from 'node:fs';

const script = new URL('../roundtrip.js', import.meta.url);

export const needs = ['gcc'];

export async function run(context) {
  if (!existsSync(script)) return [];
  const { run: measure } = await import(script.href);
  return measure(context);
}
