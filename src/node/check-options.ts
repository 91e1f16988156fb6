/**
 * What an embedding program gives Gateway.open, checked once, at the edge: TypeScript's types say nothing of a program in
 * JavaScript, nor of what a number may be. What it has to fit to (state on disk, other options) is checked where that is known.
 */
import { z } from 'zod';
import { ForelockError } from '../errors.js';
import {
  GROUP_VOLUMES_MAX,
  GROUPS_MAX,
  LINK_RTT_MS_MAX,
  RING_SIZE_MAX,
  RING_SIZE_MIN,
  SEGMENT_SIZE_MIN,
} from '../limits.js';
import { REJECT_POLICIES } from '../mirror/wire.js';
import { formatSize, parseName } from '../units.js';
import { checkSocketPath, parsePeer } from './config.js';
import type { GatewayOptions } from './gateway.js';

/** A text that `parse` takes; what it throws is what is wrong. */
const checked = (parse: (text: string) => unknown) =>
  z.string().superRefine((text, context) => {
    try {
      parse(text);
    } catch (error) {
      context.addIssue((error as Error).message);
    }
  });

const name = checked((text) => parseName(text, 'name'));
const path = z.string().min(1);
const address = z.strictObject({ host: z.string().min(1), port: z.int().min(0).max(65535) });
const socket = checked((text) =>
  checkSocketPath(text, 'path', (message) => {
    throw new Error(message);
  }),
);

const ringSize = z
  .number()
  .refine(
    (size) => size >= RING_SIZE_MIN && size <= RING_SIZE_MAX && size % SEGMENT_SIZE_MIN === 0,
    `it must be a multiple of ${formatSize(SEGMENT_SIZE_MIN)}, from ${formatSize(RING_SIZE_MIN)} to ${formatSize(RING_SIZE_MAX)}`,
  );

const volume = z.strictObject({
  name,
  size: z.int().positive().optional(),
  blockSize: z.int().positive().optional(),
  platter: z.enum(['journal', 'flat']).optional(),
  path: path.optional(),
});

const group = z
  .strictObject({
    group: name,
    role: z.enum(['primary', 'standby', 'dual']).optional(),
    volumes: z.array(volume).max(GROUP_VOLUMES_MAX),
    listen: address.optional(),
    peer: checked(parsePeer).optional(),
    key: path.optional(),
    ack: z.enum(['local', 'received', 'applied']),
    speculation: z.enum(['on', 'off']),
    whenPeerAway: z.enum(['degrade', 'block', 'fail']),
    whenSplit: z
      .union([z.literal('freeze'), z.strictObject({ prefer: name, only: z.literal(true).optional() })], {
        error: "it must be 'freeze', { prefer: SITE } or { prefer: SITE, only: true }",
      })
      .optional(),
    onReject: z.enum(REJECT_POLICIES).optional(),
    kernel: z.enum(['wasm', 'reference', 'compare']),
    journal: z.int().positive().optional(),
    ring: ringSize.optional(),
    linkRttMs: z.number().min(0).max(LINK_RTT_MS_MAX).optional(),
    linkRate: z.number().min(0).max(Number.MAX_SAFE_INTEGER).optional(),
  })
  .refine(
    ({ peer, listen }) => peer === undefined || listen === undefined,
    'of a pair one has `peer`, the other `listen`',
  );

const schema = z.strictObject({
  state: path,
  site: name,
  groups: z
    .array(group)
    .min(1)
    .max(GROUPS_MAX)
    .refine((all) => new Set(all.map((each) => each.group)).size === all.length, 'two groups have one name'),
  nbd: z.array(
    z.union([address, z.strictObject({ path: socket })], {
      error: 'it must be { host, port } or { path }, of at most 107 bytes',
    }),
  ),
  onEvent: z.custom((value) => value === undefined || typeof value === 'function', 'it must be a function').optional(),
});

/** @throws ForelockError CONFIG; the message holds every problem found, one a line */
export function checkOptions(options: GatewayOptions): void {
  const { error } = schema.safeParse(options);
  if (error === undefined) return;
  const lines = error.issues.map(
    ({ path: where, message }) => `${['options', ...where.map(String)].join('.')}: ${message}`,
  );
  throw new ForelockError('CONFIG', lines.join('\n'));
}
