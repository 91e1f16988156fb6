/**
 * The mutants: what is broken, where. Names begin with the machine. A text that is no longer found has moved: follow it,
 * or take the mutant out together with what it broke. `harmless` is said only of what nobody can notice, and why.
 */
import type { Mutant } from './mutant.js';
import { EDGES } from './table/edges.js';
import { JOURNAL } from './table/journal.js';
import { MIRROR } from './table/mirror.js';
import { VOLUME } from './table/volume.js';

export const MUTANTS: readonly Mutant[] = [...MIRROR, ...JOURNAL, ...VOLUME, ...EDGES];
