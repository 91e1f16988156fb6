/**
 * What production code keeps does not grow with what it has done: everything that can be reached from both sites'
 * groups and pairs, private fields too, is counted where nothing is under way, a few times early and a few times late.
 */
import { Session } from 'node:inspector';
import { expect, test, vi } from 'vitest';
import xxhash from 'xxhash-wasm';

vi.mock('../../src/limits.js', async (original) => ({
  ...(await original<typeof import('../../src/limits.js')>()),
  ...(await import('./small-limits.js')).SMALL_LIMITS,
}));

import { DUAL_QUIET } from './dual-draw.js';
import { DualWorld } from './dual-world.js';
import { QUIET } from './group-draw.js';
import { GroupWorld } from './group-world.js';
import { seededRandom } from './memory-store.js';

const hash = await xxhash();
/** The simulator's own. */
const NOT_PRODUCTION = ['MemoryStore', 'SimLink', 'SimOffload'];
/** After so many operations it is counted: what comes and goes (a checkpoint, say) is not there each time. */
const EARLY = [1000, 1500, 2000];
const LATE = [7000, 7500, 8000];
const LOAD = { flush: 0.05, fua: 0.05, trim: 0.02, zero: 0.02, read: 0.1, scope: 0.1, transaction: 0.05, partial: 0.2 };

interface Inspected {
  className?: string;
  description?: string;
  objectId?: string;
  subtype?: string;
  type: string;
}

/** How many entries the collections hold that can be reached from an object, by their path. */
function countEntries(root: object): Map<string, number> {
  const session = new Session();
  session.connect();
  const ids = new WeakMap<object, number>();
  const names = globalThis as Record<string, unknown>;
  names.rootOfCount = root;
  names.idOfCount = (object: object): number => {
    if (ids.has(object)) return -1; // met before
    ids.set(object, 1);
    return 1;
  };
  const counts = new Map<string, number>();
  const ask = <T>(method: string, parameters: object): T => {
    let answer: unknown;
    session.post(method, parameters, (error, result) => {
      if (error !== null) throw error;
      answer = result;
    });
    return answer as T;
  };
  const isNew = (objectId: string): boolean => {
    const functionDeclaration = 'function () { return globalThis.idOfCount(this); }';
    const { result } = ask<{ result: { value: number } }>('Runtime.callFunctionOn', { objectId, functionDeclaration });
    return result.value > 0;
  };
  const walk = (value: Inspected | undefined, path: string): void => {
    if (value?.objectId === undefined || value.type !== 'object') return;
    if (NOT_PRODUCTION.includes(value.className ?? '') || !isNew(value.objectId)) return;
    const size = /^\w+\((\d+)\)$/.exec(value.description ?? '')?.[1];
    if (size !== undefined) counts.set(path, (counts.get(path) ?? 0) + Number(size));
    if (value.subtype === 'typedarray' || value.subtype === 'arraybuffer' || value.className === 'SharedArrayBuffer')
      return;
    const { result, internalProperties, privateProperties } = ask<
      Record<string, { name: string; value?: Inspected }[]>
    >('Runtime.getProperties', { objectId: value.objectId, ownProperties: true });
    for (const each of [...result!, ...(privateProperties ?? [])])
      walk(each.value, /^\d+$/.test(each.name) ? path : `${path}.${each.name}`);
    const entries = internalProperties?.find(({ name }) => name === '[[Entries]]');
    if (entries?.value?.objectId !== undefined)
      for (const { value: entry } of ask<{ result: { value?: Inspected }[] }>('Runtime.getProperties', {
        objectId: entries.value.objectId,
        ownProperties: true,
      }).result)
        walk(entry, `${path}[]`);
  };
  walk(ask<{ result: Inspected }>('Runtime.evaluate', { expression: 'globalThis.rootOfCount' }).result, '');
  session.disconnect();
  return counts;
}

/** What has a bound of its own that is not reached early. */
const BOUNDED: [RegExp, number][] = [
  [/\.#checksums\.#slabs$/, 4 * 16_384 + 4], // one for each small volume, while there is something new to keep
  // what is done with is thrown out a thousand at a time
  [/\.sender\.#frames$/, 1500],
  [/\.backlog\.#ends$/, 2 * 2500],
  [/\.map\.#checkpoint\.entries$/, 4 * 512], // of each volume, while a checkpoint runs
  [/\.payloadSpares\.#bySize\[\]\.value$/, 16 * 8192], // as much as waits at once
];

/** What was always more, late, than it ever was early: by more than a quarter, and more than by chance. */
function grown(early: readonly Map<string, number>[], late: readonly Map<string, number>[]): string[] {
  const of = (counts: readonly Map<string, number>[], path: string): number[] =>
    counts.map((each) => each.get(path) ?? 0);
  const most = (path: string): number => BOUNDED.find(([bounded]) => bounded.test(path))?.[1] ?? 0;
  return [...late[0]!.keys()]
    .map((path) => ({ path, before: Math.max(...of(early, path)), after: Math.min(...of(late, path)) }))
    .filter(({ path, before, after }) => after > Math.max(1.25 * before + 100, most(path)))
    .map(({ path, before, after }) => `${path}: ${before}, then ${after}`);
}

test('one site writes: what is kept does not grow with the operations', async () => {
  const volumes = [1, 2].map(() => ({ blocks: 90, blockSize: 4096, platter: 'journal' as const }));
  const options = { ...QUIET, ...LOAD, volumes, hosts: 4, depth: 4, journalSegments: 9, writeSizeMax: 8192 };
  const world = new GroupWorld(options, seededRandom(1), hash);
  const counts = await measure(world, [world.hosts], () => [
    world.source.group,
    world.source.pair,
    world.target.group,
    world.target.pair,
  ]);
  expect(grown(counts.slice(0, EARLY.length), counts.slice(EARLY.length))).toEqual([]);
}, 60_000);

test('both write: what is kept does not grow with the operations', async () => {
  const volumes = [1, 2].map(() => ({ blocks: 60, blockSize: 4096 }));
  const scopes = { readLock: 0.02, abort: 0.5 };
  const options = { ...DUAL_QUIET, ...LOAD, ...scopes, volumes, hosts: 3, journalSegments: 9 };
  const world = new DualWorld(options, seededRandom(1), hash);
  const counts = await measure(world, world.hosts, () => world.sites.flatMap(({ group, pair }) => [group, pair]));
  expect(grown(counts.slice(0, EARLY.length), counts.slice(EARLY.length))).toEqual([]);
}, 120_000);

async function measure(
  world: GroupWorld | DualWorld,
  hosts: readonly { operations: number; stopped: boolean; start(): void }[],
  roots: () => unknown[],
): Promise<Map<string, number>[]> {
  const counts: Map<string, number>[] = [];
  for (const operations of [...EARLY, ...LATE]) {
    for (const site of [world.source, world.target]) site.open();
    for (const each of hosts) {
      each.stopped = false;
      each.start();
    }
    const done = (): boolean => hosts.reduce((sum, each) => sum + each.operations, 0) >= operations;
    await world.until(done, 600_000, 'the operations do not come to their end');
    for (const each of hosts) each.stopped = true;
    await world.until(() => world.settled(), 60_000, 'it does not come to rest');
    counts.push(countEntries(roots()));
  }
  return counts;
}
