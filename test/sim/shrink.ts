/**
 * Makes a failing world smaller: switches off what was drawn, one thing after the other, and keeps each change with
 * which the world still fails.
 *
 * To change one thing changes the course of everything behind it, so what is left fails for some reason, which need not
 * be the first one: the failures are told side by side.
 */
import { DUAL_QUIET } from './dual-draw.js';
import { QUIET } from './group-draw.js';
import type { Outcome } from './group-seed.js';
import type { Changes } from './worker.js';

/** What a smaller world does not have: each with the value that switches it off. */
const OFF: Changes[] = (
  [
    ...[
      'bothCrashMs',
      'crashMs',
      'emptyMs',
      'soloMs',
      'halfOpenMs',
      'stallMs',
      'clockJumpMs',
      'longHoldMs',
      'slowLineMs',
    ],
    ...['sourceCrashMs', 'targetCrashMs', 'restartMs', 'cutMs', 'pauseMs', 'diskFullMs', 'badDiskMs'],
    ...['holdMs', 'bitFlip', 'kill', 'joinMs', 'trim', 'zero', 'scope', 'partial', 'fua', 'flush', 'read'],
    ...['never', 'late', 'nested', 'readLock', 'abort', 'skewMs', 'readErrorMs', 'slowDiskMs', 'openFault', 'repeat'],
    ...['noFilesMs', 'refusalMs'],
    ...['rotMs', 'viewMs', 'failOverMs', 'splitMs', 'restoreMs', 'replaceMs', 'partMs', 'transaction'],
  ] as (keyof Changes)[]
).map((name) => ({ [name]: { ...DUAL_QUIET, ...QUIET }[name] }));

/** Simpler values, tried when everything is off that can be. */
const SIMPLER: Changes[] = [
  { hosts: 1 },
  { ack: 'local' },
  { speculation: 'on' },
  { onReject: 'target-retry' },
  { poolSealBytes: QUIET.poolSealBytes },
  { writeSizeMax: QUIET.writeSizeMax },
  { thinkMs: QUIET.thinkMs },
  { delayMax: QUIET.delayMax },
  { rate: QUIET.rate },
  { syncMs: QUIET.syncMs },
  { downMs: 100 },
];

export interface Shrunk {
  changes: Changes;
  outcome: Outcome;
  tried: number;
}

/** @param run the world of the seed with these changes @param first what it gave without any: a failure */
export async function shrink(
  run: (changes: Changes) => Promise<Outcome>,
  first: Outcome,
  tell: (line: string) => void,
): Promise<Shrunk> {
  let changes: Changes = {};
  let outcome = first;
  let tried = 0;
  const fails = async (more: Changes): Promise<boolean> => {
    tried += 1;
    const other = await run({ ...changes, ...more });
    if (other.failure === null) return false;
    changes = { ...changes, ...more };
    outcome = other;
    tell(`${JSON.stringify(more)}: still fails, after ${other.operations} operations`);
    return true;
  };
  const differs = (more: Changes): boolean =>
    Object.entries(more).every(
      ([name, value]) => name in outcome.drawn && (outcome.drawn as Changes)[name as keyof Changes] !== value,
    );
  for (const more of [...OFF, ...SIMPLER]) if (differs(more)) await fails(more);
  // no longer than it takes
  for (let operations = outcome.operations; operations > 1; operations = Math.floor(operations / 2)) {
    if (!(await fails({ operations }))) break;
  }
  return { changes, outcome, tried };
}
