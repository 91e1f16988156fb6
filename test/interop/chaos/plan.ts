/**
 * What a chaos world is like and what happens in it, drawn from its seed before it begins, so that it can be printed and
 * had again. Only the moments at which things really happen are the machine's.
 */
import { GIB, KIB, MIB } from '../../../src/limits.js';
import { BLOCK_SIZE, randomFrom } from '../checking-client.js';

export type Site = 'a' | 'b';
export const SITES: readonly Site[] = ['a', 'b'];

export interface WorldPlan {
  seed: number;
  /** pair: hosts at a, which mirrors to b. dual, with an even seed: hosts at both. */
  shape: 'pair' | 'dual';
  ack: 'local' | 'received' | 'applied';
  whenPeerAway: 'degrade' | 'block' | 'fail';
  onReject: 'target-retry' | 'halt' | 'retransmit';
  speculation: 'on' | 'off';
  kernel: 'wasm' | 'reference' | 'compare';
  /** Which site connects; the other listens. Bits are flipped in what it sends. */
  connector: Site;
  ring: number;
  journal: number;
  oneWayMs: number;
  /** Its state is on a file system with a limit; null: on none. */
  smallDisk: Site | null;
  rounds: Fault[][];
}

/** Begins `at` ms into its round, and ends after `ms`. */
export type Fault = { at: number; ms: number } & (
  | { kind: 'kill'; sites: readonly Site[] }
  | { kind: 'stop'; site: Site }
  | { kind: 'cut' }
  | { kind: 'pause' }
  | { kind: 'flip'; every: number }
  | { kind: 'delay'; oneWayMs: number }
  | { kind: 'lock'; site: Site; mode: 'read' | 'write'; offset: number; size: number }
  | { kind: 'full'; left: number }
);

/** Each host's part, of one site alone. */
export const PART = 8 * MIB;
/** Behind the parts, for the hosts of every site that has some. */
export const SHARED_BLOCKS = 64;
export const VOLUME_SIZE = 2 * PART + SHARED_BLOCKS * BLOCK_SIZE;
export const SMALL_DISK = 192 * MIB;

/** With what heals behind it, far below the 10 s after which a source without its peer goes on alone. */
const ROUND_MS = 2500;
const FAULT_MS_MAX = 1500;
const FAULTS_MAX = 4;

export function drawWorld(seed: number, rounds: number, canMount: boolean): WorldPlan {
  const random = randomFrom(seed);
  const integer = (below: number): number => Math.floor(random() * below);
  const one = <T>(...from: readonly T[]): T => from[integer(from.length)]!;
  const smallDisk = one<Site | null>('a', 'b', null);
  const plan: WorldPlan = {
    seed,
    shape: seed % 2 === 0 ? 'dual' : 'pair',
    ack: one('local', 'received', 'applied'),
    whenPeerAway: one('degrade', 'block', 'fail'),
    onReject: one('target-retry', 'halt', 'retransmit'),
    speculation: one('on', 'on', 'on', 'off'),
    kernel: one('wasm', 'wasm', 'wasm', 'wasm', 'compare'),
    connector: one(...SITES),
    ring: one(4, 8, 64) * MIB,
    journal: one(128 * MIB, 4 * GIB),
    oneWayMs: one(0, 1, 10, 40),
    smallDisk: canMount ? smallDisk : null,
    rounds: [],
  };
  if (plan.shape === 'dual')
    Object.assign(plan, { whenPeerAway: 'degrade', onReject: 'target-retry', speculation: 'on' });
  // what a host is answered without its standby follows one scope after the other: for hours
  if (plan.speculation === 'off' && plan.whenPeerAway === 'degrade') plan.whenPeerAway = 'block';
  const draw = (): Fault => {
    const when = { at: integer(ROUND_MS - FAULT_MS_MAX), ms: 50 + integer(FAULT_MS_MAX - 50) };
    const kind = one('kill', 'kill', 'stop', 'cut', 'pause', 'flip', 'delay', 'lock', 'full');
    switch (kind) {
      case 'kill':
        return { kind, ...when, sites: one<readonly Site[]>(['a'], ['b'], SITES) };
      case 'stop':
        return { kind, ...when, site: one(...SITES) };
      case 'flip':
        return { kind, ...when, every: 1 + integer(20) };
      case 'delay':
        return { kind, ...when, oneWayMs: integer(100) };
      case 'lock': {
        // not over what the site's own host writes: while one write waits for the lock others pass it
        const site = one(...SITES);
        const area = one(SITES.indexOf(site === 'a' ? 'b' : 'a') * PART, 2 * PART);
        const first = integer(SHARED_BLOCKS);
        const [offset, size] = [area + first * BLOCK_SIZE, (1 + integer(SHARED_BLOCKS - first)) * BLOCK_SIZE];
        return { kind, ...when, site, mode: one('read', 'write'), offset, size };
      }
      case 'full':
        return { kind, ...when, left: integer(512) * KIB };
      default:
        return { kind, ...when };
    }
  };
  for (let round = 0; round < rounds; round += 1) {
    const faults = Array.from({ length: 1 + integer(FAULTS_MAX) }, draw);
    plan.rounds.push(faults.filter(({ kind }) => kind !== 'full' || plan.smallDisk !== null));
  }
  return plan;
}
