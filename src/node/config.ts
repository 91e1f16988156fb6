/**
 * What `forelock serve` is told: by flags, by a YAML file that holds the same, or by both (flags win).
 *
 *     flags:  --state DIR --volume disk:1G --peer ws://b:10900
 *     file:   state: DIR                       # paths in a file are relative to the file
 *             volumes: [disk:1G]               # or { name: disk, size: 1G, platter: flat, path: disk.img }
 *             peer: ws://b:10900
 *
 * A file's keys are the flags' names, but `volumes` for `--volume`. Several groups: `groups`, a list of mappings with
 * `name` and the keys marked as a group's below; each group has a link of its own, so a `peer` or `listen` of its own.
 * Bad flags are USAGE (exit code 2); anything wrong in a file is CONFIG (78) and names file, line, column and key.
 */
import { readFileSync } from 'node:fs';
import { basename, dirname, resolve } from 'node:path';
import { isMap, isScalar, LineCounter, type ParsedNode, parseDocument } from 'yaml';
import { z } from 'zod';
import { ForelockError } from '../errors.js';
import {
  BLOCK_SIZE_DEFAULT,
  BLOCK_SIZE_MAX,
  BLOCK_SIZE_MIN,
  CONTROL_SIZE_MAX,
  GROUP_VOLUMES_MAX,
  GROUPS_MAX,
  JOURNAL_SEGMENTS_MIN,
  LINK_RTT_MS_MAX,
  RING_SIZE_DEFAULT,
  RING_SIZE_MAX,
  RING_SIZE_MIN,
  SEGMENT_SIZE_MIN,
  VOLUME_SIZE_MAX,
} from '../limits.js';
import { isLoopback } from '../link/endpoint.js';
import { REJECT_POLICIES, type RejectPolicy } from '../mirror/wire.js';
import { formatSize, parseName, parseSize } from '../units.js';
import { findVoidPromise } from '../volume/gate.js';

export interface HostPort {
  host: string;
  /** 0 while listening: any free port. */
  port: number;
}

export interface VolumeOptions {
  name: string;
  /** Bytes; null for a volume that exists or is adopted. */
  size: number | null;
  /** null: as it is, or of a new volume BLOCK_SIZE_DEFAULT. */
  blockSize: number | null;
  /** null: as it is, or of a new volume `journal`. */
  platter: 'journal' | 'flat' | null;
  /** Absolute; of the image: platter flat only. */
  path: string | null;
}

export interface GroupOptions {
  name: string;
  volumes: VolumeOptions[];
  /** null: as the state directory remembers; a new one is a standby if it has no volume, else primary. */
  role: 'primary' | 'standby' | 'dual' | null;
  /** At most one of the two; neither: a group without a peer. */
  listen: HostPort | null;
  peer: string | null;
  /** Absolute path of the shared key's file. */
  key: string | null;
  ack: 'local' | 'received' | 'applied';
  speculation: boolean;
  kernel: 'wasm' | 'reference' | 'compare';
  whenPeerAway: 'degrade' | 'block' | 'fail';
  /** Role dual, without a link: both sites freeze, or the site of this name goes on alone; `only`: the other is gone for good. */
  whenSplit: 'freeze' | { prefer: string; only?: true };
  onReject: RejectPolicy;
  /** Bytes of journal on disk; null: twice the volumes' size and four segments. */
  journal: number | null;
  /** Bytes of shared-memory ring. */
  ring: number;
  /** Added to the link's round trip by the built-in shaper, milliseconds. */
  linkRtt: number;
  /** Bytes per second that the shaper lets through in each direction; 0 is no limit. */
  linkRate: number;
}

export interface GatewayOptions {
  /** Absolute. */
  state: string;
  site: string;
  nbd: HostPort | null;
  /** Absolute path of a unix socket. */
  nbdUnix: string | null;
  /** null: only the unix socket in the state directory. */
  admin: HostPort | null;
  groups: GroupOptions[];
}

/** Key files, states and sockets have paths far below this. */
const PATH_LENGTH_MAX = 4096;
const FILE_SIZE_MAX = CONTROL_SIZE_MAX;

const JOURNAL_SIZE_MIN = JOURNAL_SEGMENTS_MIN * SEGMENT_SIZE_MIN;

// ---- what one value may be. The same for flags, which are texts, and for YAML, which has numbers and booleans.

function nameOfKind(input: unknown): string {
  if (input === null || input === undefined) return 'nothing';
  if (typeof input !== 'object') return 'one value';
  return Array.isArray(input) ? 'a list' : 'a mapping';
}

/** What is wrong with a value, in words of the file and not of the library that found it. */
function wordsOf(issue: z.core.$ZodIssue): string {
  if (issue.code !== 'invalid_type') return issue.message;
  const wanted = { array: 'a list', object: 'a mapping' }[issue.expected as string] ?? issue.expected;
  return `expected ${wanted}, found ${nameOfKind(issue.input)}`;
}

/** A zod type made of a function that throws an Error with the sentence to show. */
function value<T>(parse: (text: string) => T) {
  return z.unknown().transform((input, context): T => {
    try {
      if (typeof input !== 'string' && typeof input !== 'number' && typeof input !== 'boolean') {
        throw new Error(input === undefined ? 'it is missing' : `expected one value, found ${nameOfKind(input)}`);
      }
      return parse(String(input));
    } catch (error) {
      context.issues.push({ code: 'custom', message: (error as Error).message, input });
      return z.NEVER;
    }
  });
}

function oneOf<T extends string>(...choices: T[]) {
  return value((text): T => {
    const found = choices.find((choice) => choice === text);
    if (found === undefined) throw new Error(`${JSON.stringify(text)} is not one of ${choices.join(', ')}`);
    return found;
  });
}

function sizeBetween(least: number, most: number, unit = 1) {
  return value((text) => {
    const size = parseSize(text, 'size');
    if (size < least || size > most) {
      throw new Error(`${text} is not between ${formatSize(least)} and ${formatSize(most)}`);
    }
    if (size % unit !== 0) throw new Error(`${text} is not a multiple of ${formatSize(unit)}`);
    return size;
  });
}

const nameValue = value((text) => parseName(text, 'name'));

const pathValue = value((text) => {
  if (text === '' || text.includes('\0') || text.length > PATH_LENGTH_MAX) {
    throw new Error(`${JSON.stringify(text.slice(0, 80))} is not a path`);
  }
  return text;
});

const hostPort = value(parseHostPort);

const switchValue = value((text) => {
  if (text === 'on' || text === 'true') return true;
  if (text === 'off' || text === 'false') return false;
  throw new Error(`${JSON.stringify(text)} is not on or off`);
});

/** `127.0.0.1:10809`, `[::1]:10809`, `localhost:0`. */
export function parseHostPort(text: string): HostPort {
  const match = /^(?:\[([0-9A-Fa-f:.]+(?:%\w+)?)\]|([^\s:[\]/]+)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  if (!match || port > 65535) throw new Error(`${JSON.stringify(text)} is not HOST:PORT, such as 127.0.0.1:10809`);
  return { host: match[1] ?? match[2]!, port };
}

const volumeFields = {
  name: nameValue,
  size: value((text) => parseSize(text, 'size')).exactOptional(),
  'block-size': value((text) => {
    const size = parseSize(text, 'size');
    const isPower = size >= BLOCK_SIZE_MIN && size <= BLOCK_SIZE_MAX && 2 ** Math.round(Math.log2(size)) === size;
    if (!isPower) throw new Error(`${text} is not a power of two from ${BLOCK_SIZE_MIN} to ${BLOCK_SIZE_MAX}`);
    return size;
  }).exactOptional(),
  platter: oneOf('journal', 'flat').exactOptional(),
  path: pathValue.exactOptional(),
};

const volumeObject = z.strictObject(volumeFields).transform((fields, context): VolumeOptions => {
  const platter = fields.platter ?? null;
  const blockSize = fields['block-size'] ?? BLOCK_SIZE_DEFAULT;
  const size = fields.size ?? null;
  const refuse = (message: string): never => {
    context.issues.push({ code: 'custom', message: `volume ${fields.name}: ${message}`, input: fields });
    return z.NEVER;
  };
  if (platter === 'flat' && fields.path === undefined) return refuse('platter=flat needs path=FILE');
  if (platter !== 'flat' && fields.path !== undefined) return refuse('path=FILE needs platter=flat');
  if (size !== null && (size === 0 || size > VOLUME_SIZE_MAX || size % blockSize !== 0)) {
    return refuse(`its size must be a multiple of ${blockSize} up to ${formatSize(VOLUME_SIZE_MAX)}, not ${size}`);
  }
  return { name: fields.name, size, blockSize: fields['block-size'] ?? null, platter, path: fields.path ?? null };
});

/** `NAME[:SIZE][,platter=flat][,path=FILE][,block-size=N]`; a path may contain anything but a comma. */
function splitVolume(text: string): Record<string, string> {
  const [head = '', ...settings] = text.split(',');
  const colon = head.indexOf(':');
  const fields: Record<string, string> = { name: colon < 0 ? head : head.slice(0, colon) };
  if (colon >= 0) fields.size = head.slice(colon + 1);
  for (const setting of settings) {
    const equals = setting.indexOf('=');
    const key = equals < 0 ? setting : setting.slice(0, equals);
    if (equals < 0 || !(key in volumeFields) || key in fields) {
      throw new Error(
        `volume ${JSON.stringify(text)}: ${JSON.stringify(setting)} is not platter=, path= or block-size=`,
      );
    }
    fields[key] = setting.slice(equals + 1);
  }
  return fields;
}

const volume = z.unknown().transform((input, context): VolumeOptions => {
  let fields = input;
  if (typeof input === 'string') {
    try {
      fields = splitVolume(input);
    } catch (error) {
      context.issues.push({ code: 'custom', message: (error as Error).message, input });
      return z.NEVER;
    }
  }
  const parsed = volumeObject.safeParse(fields);
  if (parsed.success) return parsed.data;
  for (const issue of parsed.error.issues) context.issues.push({ ...issue, input } as z.core.$ZodRawIssue);
  return z.NEVER;
});

// ---- the whole

const gatewayFields = {
  state: pathValue.exactOptional(),
  site: nameValue.exactOptional(),
  nbd: value((text) => (text === 'none' ? null : parseHostPort(text))).exactOptional(),
  'nbd-unix': pathValue.exactOptional(),
  admin: hostPort.exactOptional(),
};

const groupFields = {
  volumes: z.array(volume).max(GROUP_VOLUMES_MAX).exactOptional(),
  role: oneOf('primary', 'standby', 'dual').exactOptional(),
  listen: hostPort.exactOptional(),
  peer: value(parsePeer).exactOptional(),
  key: pathValue.exactOptional(),
  ack: oneOf('local', 'received', 'applied').exactOptional(),
  speculation: switchValue.exactOptional(),
  kernel: oneOf('wasm', 'reference', 'compare').exactOptional(),
  'when-peer-away': oneOf('degrade', 'block', 'fail').exactOptional(),
  'when-split': value(parseWhenSplit).exactOptional(),
  'on-reject': oneOf(...REJECT_POLICIES).exactOptional(),
  journal: sizeBetween(JOURNAL_SIZE_MIN, Number.MAX_SAFE_INTEGER).exactOptional(),
  ring: sizeBetween(RING_SIZE_MIN, RING_SIZE_MAX, SEGMENT_SIZE_MIN).exactOptional(),
  'link-rtt': value((text) => {
    const ms = /^\d+(\.\d+)?$/.test(text) ? Number(text) : Number.NaN;
    if (!(ms <= LINK_RTT_MS_MAX))
      throw new Error(`${JSON.stringify(text)} is not a number of milliseconds up to ${LINK_RTT_MS_MAX}`);
    return ms;
  }).exactOptional(),
  'link-rate': value((text) => parseSize(text.replace(/\/s$/, ''), 'rate')).exactOptional(),
};

const oneGroup = z.strictObject({ ...gatewayFields, group: nameValue.exactOptional(), ...groupFields });
const groupEntry = z.strictObject({ name: nameValue, ...groupFields });
const manyGroups = z.strictObject({ ...gatewayFields, groups: z.array(groupEntry).min(1).max(GROUPS_MAX) });

type GroupSettings = Omit<z.infer<typeof groupEntry>, 'name'>;
type Settings = z.infer<typeof oneGroup> & { groups?: z.infer<typeof groupEntry>[] };

/** Flags as the command line gives them: texts under the file's keys. */
export type Flags = { [Key in Exclude<keyof z.infer<typeof oneGroup>, 'volumes'>]?: string } & { volumes?: string[] };

/** Keys that flags and files know, for help and for suggestions. */
const GATEWAY_KEYS = Object.keys(gatewayFields);
const GROUP_KEYS = Object.keys(groupFields);
const VOLUME_KEYS = Object.keys(volumeFields);

function parseWhenSplit(text: string): GroupOptions['whenSplit'] {
  if (text === 'freeze') return text;
  const [policy, site, ...rest] = text.split(':');
  if ((policy !== 'prefer' && policy !== 'only') || site === undefined || rest.length > 0) {
    throw new Error(`${JSON.stringify(text)} is none of freeze, prefer:SITE and only:SITE`);
  }
  const prefer = parseName(site, 'site');
  return policy === 'prefer' ? { prefer } : { prefer, only: true };
}

export function parsePeer(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url === null || (url.protocol !== 'ws:' && url.protocol !== 'wss:') || url.hash !== '') {
    throw new Error(`${JSON.stringify(text)} is not a URL such as ws://HOST:PORT`);
  }
  if (url.port === '0')
    throw new Error(`${JSON.stringify(text)}: nobody listens on port 0: give the port of the peer's --listen`);
  return text;
}

/**
 * The options of one `serve`, from its flags and the file that `--config` names.
 *
 * @throws ForelockError USAGE or CONFIG; the message holds every problem found, one a line
 */
export function resolveOptions(flags: Flags, configPath: string | null): GatewayOptions {
  const file = configPath === null ? {} : readConfig(configPath);
  const given = parseFlags(flags);
  const fail = (message: string): never => {
    if (configPath === null) throw new ForelockError('USAGE', message);
    throw new ForelockError('CONFIG', `${configPath}: ${message}`);
  };
  if (file.groups !== undefined) {
    const misplaced = Object.keys(given).find((key) => !GATEWAY_KEYS.includes(key));
    if (misplaced !== undefined) {
      throw new ForelockError(
        'USAGE',
        `--${flagOf(misplaced)} is about one group, but ${configPath} has several: set it there`,
      );
    }
  }
  // a flag for one end of the link replaces the file's for the other
  if (given.peer !== undefined && given.listen === undefined) delete file.listen;
  if (given.listen !== undefined && given.peer === undefined) delete file.peer;
  const all: Settings = { ...file, ...given };
  if (all.state === undefined) return fail('the state directory is missing: --state DIR');

  const nbdUnix = all['nbd-unix'] ?? null;
  checkSocketPath(nbdUnix, '--nbd-unix', fail);
  const named = all.site ?? basename(all.state);
  const options: GatewayOptions = {
    state: all.state,
    site: named,
    // with a unix socket alone, two gateways on one machine do not meet on one port
    nbd: all.nbd !== undefined ? all.nbd : nbdUnix !== null ? null : { host: '127.0.0.1', port: 10809 },
    nbdUnix,
    admin: all.admin ?? null,
    groups: (all.groups ?? [{ ...all, name: all.group ?? 'main' }]).map((group) => groupOptions(group.name, group)),
  };
  try {
    parseName(named, 'site');
  } catch {
    return fail(`the state directory's name ${JSON.stringify(named)} does not do as a site's name: give --site NAME`);
  }
  if (options.admin !== null && !isLoopback(options.admin.host)) {
    return fail(`--admin ${options.admin.host}: the control API has no authentication and listens on loopback only`);
  }
  checkGroups(options.groups, fail);
  return options;
}

function groupOptions(name: string, group: GroupSettings): GroupOptions {
  return {
    name,
    volumes: group.volumes ?? [],
    role: group.role ?? null,
    listen: group.listen ?? null,
    peer: group.peer ?? null,
    key: group.key ?? null,
    ack: group.ack ?? 'local',
    speculation: group.speculation ?? true,
    kernel: group.kernel ?? 'wasm',
    whenPeerAway: group['when-peer-away'] ?? 'degrade',
    whenSplit: group['when-split'] ?? 'freeze',
    onReject: group['on-reject'] ?? 'target-retry',
    journal: group.journal ?? null,
    ring: group.ring ?? RING_SIZE_DEFAULT,
    linkRtt: group['link-rtt'] ?? 0,
    linkRate: group['link-rate'] ?? 0,
  };
}

function checkGroups(groups: readonly GroupOptions[], fail: (message: string) => never): void {
  const seen = new Set<string>();
  const once = (key: string, message: string): void => {
    if (seen.has(key)) fail(message);
    seen.add(key);
  };
  for (const group of groups) {
    once(`group ${group.name}`, `two groups are named ${JSON.stringify(group.name)}`);
    if (group.peer !== null && group.listen !== null) {
      fail(`group ${group.name} has both peer and listen: of a pair one end has --peer, the other --listen`);
    }
    if (group.listen !== null) {
      const { host, port } = group.listen;
      if (port !== 0) once(`listen ${host}:${port}`, `two groups listen on ${host}:${port}`);
      if (group.key === null && !isLoopback(host)) {
        fail(`listening on ${host} needs a shared key: give both ends --key FILE (without one, only loopback)`);
      }
    }
    if (group.peer !== null && group.key === null && !isLoopback(new URL(group.peer).hostname)) {
      fail(`the link to ${group.peer} needs a shared key: give both ends --key FILE (without one, only loopback)`);
    }
    if (group.role === 'dual') checkDual(group, fail);
    if (group.peer === null && group.listen === null) {
      const promise = findVoidPromise(group.name, group.ack, group.whenPeerAway);
      if (promise !== null) fail(promise);
    }
    const meaningless = findMeaningless(group.name, group.role, {
      paired: group.peer !== null || group.listen !== null,
      hasKey: group.key !== null,
      isShaped: group.linkRtt > 0 || group.linkRate > 0,
      onReject: group.onReject,
      whenPeerAway: group.whenPeerAway,
    });
    if (meaningless !== null) fail(meaningless);
    for (const volume of group.volumes) {
      once(`volume ${volume.name}`, `two volumes are named ${JSON.stringify(volume.name)}`);
      if (volume.path !== null) once(`path ${volume.path}`, `two volumes share the image ${volume.path}`);
    }
  }
}

/** What both sites writing at once rules out. */
function checkDual(group: GroupOptions, fail: (message: string) => never): void {
  const flat = group.volumes.find(({ platter }) => platter === 'flat');
  if (flat !== undefined) {
    fail(
      `volume ${flat.name}: platter=flat cannot be dual: its image is written in place, and what the other site's earlier writes change could not be put beneath; use platter journal`,
    );
  }
  const misfit = findDualMisfit(group.name, {
    paired: group.peer !== null || group.listen !== null,
    speculation: group.speculation,
    onReject: group.onReject,
  });
  if (misfit !== null) fail(misfit);
}

/** Why a group in which both sites write is refused, be the role given or remembered by the state directory; or null. */
export function findDualMisfit(
  group: string,
  { paired, speculation, onReject }: { paired: boolean; speculation: boolean; onReject: RejectPolicy },
): string | null {
  if (!paired) return `group ${group} is dual and has no peer: give --peer or --listen`;
  if (!speculation) return `group ${group}: dual works speculatively only; leave out --speculation off`;
  if (onReject !== 'target-retry')
    return `group ${group}: on-reject ${onReject} cannot be dual: a stream that stops or goes back would leave out what the other site has decided on; leave it out`;
  return null;
}

/** What a group is told that it would never do, and whoever says it counts on. @param role null: not known yet */
export function findMeaningless(
  group: string,
  role: GroupOptions['role'],
  told: { paired: boolean; hasKey: boolean; isShaped: boolean } & Pick<GroupOptions, 'onReject' | 'whenPeerAway'>,
): string | null {
  const { onReject, whenPeerAway } = told;
  const rejects = onReject === 'target-retry' ? null : `on-reject ${onReject}`;
  const ofLink = told.hasKey ? 'key' : told.isShaped ? 'link-rtt or link-rate' : rejects;
  if (!told.paired && ofLink !== null)
    return `group ${group}: ${ofLink} is about the link, and the group has none: give --peer or --listen, or leave it out`;
  if (role === 'standby' && rejects !== null)
    return `group ${group}: ${rejects} is the primary's to say, and this site is a standby: give it there, and leave it out here`;
  if (role === 'dual' && whenPeerAway !== 'degrade')
    return `group ${group}: when-peer-away ${whenPeerAway} means nothing where both sites write: without the link hosts wait, or one site goes on alone, as --when-split says; leave it out`;
  return null;
}

/** A unix socket's path must fit sockaddr_un. */
export function checkSocketPath(path: string | null, what: string, fail: (message: string) => never): void {
  if (path !== null && Buffer.byteLength(path) > 107) fail(`${what}: the socket path ${path} is longer than 107 bytes`);
}

// ---- flags

function parseFlags(flags: Flags): Settings {
  const parsed = oneGroup.safeParse(flags);
  if (!parsed.success) {
    const lines = parsed.error.issues.map((issue) => `--${flagOf(String(issue.path[0]))}: ${wordsOf(issue)}`);
    throw new ForelockError('USAGE', lines.join('\n'));
  }
  return atBase(parsed.data, process.cwd());
}

function flagOf(key: string): string {
  return key === 'volumes' ? 'volume' : key;
}

/** Makes every path absolute. */
function atBase(settings: Settings, base: string): Settings {
  if (settings.state !== undefined) settings.state = resolve(base, settings.state);
  if (settings['nbd-unix'] !== undefined) settings['nbd-unix'] = resolve(base, settings['nbd-unix']);
  for (const group of settings.groups ?? [settings]) {
    if (group.key !== undefined) group.key = resolve(base, group.key);
    for (const one of group.volumes ?? []) if (one.path !== null) one.path = resolve(base, one.path);
  }
  return settings;
}

// ---- file

/** @throws ForelockError CONFIG, with every problem's line, column and key */
function readConfig(path: string): Settings {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw new ForelockError('CONFIG', `configuration ${path} cannot be read: ${(error as Error).message}`);
  }
  return parseConfig(text, path);
}

/** `path` is for messages and for relative paths; nothing is read. */
export function parseConfig(text: string, path: string): Settings {
  if (text.length > FILE_SIZE_MAX)
    throw new ForelockError('CONFIG', `configuration ${path} is larger than ${formatSize(FILE_SIZE_MAX)}`);
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const at = (offset: number): string => {
    const { line, col } = lines.linePos(offset);
    return `${path}:${line}:${col}`;
  };
  if (document.errors.length > 0) {
    throw new ForelockError(
      'CONFIG',
      document.errors.map((error) => `${at(error.pos[0])}: ${error.message}`).join('\n'),
    );
  }
  let raw: unknown;
  try {
    raw = document.toJS({ maxAliasCount: 100 }) ?? {};
  } catch (error) {
    throw new ForelockError('CONFIG', `${path}: ${(error as Error).message}`);
  }
  const several = typeof raw === 'object' && raw !== null && 'groups' in raw;
  const parsed = (several ? manyGroups : oneGroup).safeParse(raw, { reportInput: true });
  if (parsed.success) return atBase(parsed.data as Settings, dirname(resolve(path)));
  const problems: string[] = [];
  for (const issue of parsed.error.issues) {
    const where = issue.path.map(String);
    if (issue.code !== 'unrecognized_keys') {
      const key = where.length > 0 ? `${where.join('.')}: ` : '';
      problems.push(`${at(offsetOf(document.contents, where, false))}: ${key}${wordsOf(issue)}`);
      continue;
    }
    for (const key of issue.keys) {
      const offset = offsetOf(document.contents, [...where, key], true);
      problems.push(`${at(offset)}: ${[...where, key].join('.')}: unknown key${suggest(key, where, several)}`);
    }
  }
  throw new ForelockError('CONFIG', problems.join('\n'));
}

/** Where the value (or the key) at this path stands in the text; its nearest parent if it is not there. */
function offsetOf(root: ParsedNode | null, path: readonly string[], wantKey: boolean): number {
  let node: unknown = root;
  let offset = root?.range[0] ?? 0;
  for (const [depth, step] of path.entries()) {
    if (isMap(node)) {
      const pair = node.items.find((item) => isScalar(item.key) && String(item.key.value) === step);
      if (pair === undefined) return offset;
      const isLast = depth === path.length - 1;
      const key = pair.key as ParsedNode;
      node = pair.value;
      offset = isLast && wantKey ? key.range[0] : ((node as ParsedNode | null)?.range?.[0] ?? key.range[0]);
    } else {
      node = (node as { items?: ParsedNode[] } | null)?.items?.[Number(step)];
      if (node === undefined || node === null) return offset;
      offset = (node as ParsedNode).range[0];
    }
  }
  return offset;
}

function suggest(key: string, where: readonly string[], several: boolean): string {
  let known = [...GATEWAY_KEYS, 'group', ...GROUP_KEYS, 'groups'];
  if (where.includes('volumes')) known = VOLUME_KEYS;
  else if (where.length > 0) known = ['name', ...GROUP_KEYS];
  else if (several && (GROUP_KEYS.includes(key) || key === 'group')) return ': it belongs to an entry of groups';
  const plain = key.toLowerCase().replaceAll('_', '-');
  let best = '';
  let least = 4;
  for (const candidate of known) {
    const edits = distance(plain, candidate);
    if (edits < least && edits < candidate.length) {
      best = candidate;
      least = edits;
    }
  }
  return best === '' ? `; known are ${known.join(', ')}` : `; did you mean ${JSON.stringify(best)}?`;
}

/** Levenshtein's: insertions, deletions and replacements that make one of the other. */
function distance(a: string, b: string): number {
  let row = [...Array(b.length + 1).keys()];
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1) {
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length]!;
}
