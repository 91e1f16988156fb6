/** Rates against the round trip, by the target's applied cursor over a steady state: bench/roundtrip.js. */
import { run as measure } from '../roundtrip.js';

export const needs = ['fio', 'gcc'];

/** A steady state is longer than one round of the other subjects: how long is the script's to say. */
export function run({ quick, roundTrips, scratch, say }) {
  return measure({ quick, roundTrips, scratch, say });
}
