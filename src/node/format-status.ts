/** A gateway's status for people: aligned, one screen a group, colours only where a terminal shows them. */
import { FREEZE_HOLD_MS } from '../limits.js';
import { formatSize } from '../units.js';
import type { GatewayStatus, GroupStatus, LagStatus, LinkStatus } from './control.js';

export interface Paint {
  good(text: string): string;
  warn(text: string): string;
  bad(text: string): string;
  bold(text: string): string;
  dim(text: string): string;
}

const same = (text: string): string => text;
const sgr =
  (code: number) =>
  (text: string): string =>
    `\x1b[${code}m${text}\x1b[0m`;

export const PLAIN: Paint = { good: same, warn: same, bad: same, bold: same, dim: same };
export const COLOURS: Paint = { good: sgr(32), warn: sgr(33), bad: sgr(31), bold: sgr(1), dim: sgr(2) };

/** Colours on a terminal, unless NO_COLOR says otherwise. */
export function paintFor(stream: { isTTY?: boolean }): Paint {
  return stream.isTTY === true && !process.env.NO_COLOR ? COLOURS : PLAIN;
}

/** Milliseconds for people: `51 ms`, `3.2 s`, `5 min`, `2 h 10 min`, `3 d 4 h`. */
export function formatDuration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const seconds = ms / 1000;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 === 0 ? `${hours} h` : `${hours} h ${minutes % 60} min`;
  return hours % 24 === 0 ? `${Math.floor(hours / 24)} d` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export interface PageOptions {
  /** All of them that are not 0. */
  counters?: boolean;
  /** Only what an operator looks for first: no policies, no traffic, no cursors. */
  brief?: boolean;
  /** Tables that are wider go on below. Default: they may be as wide as they are. */
  columns?: number | undefined;
}

export function formatStatus(status: GatewayStatus, paint: Paint, options: PageOptions = {}): string {
  const uptime = formatDuration(status.uptimeSeconds * 1000);
  const lines = [`${paint.bold(`site ${status.site}`)}  ${paint.dim(`forelock ${status.version}, up ${uptime}`)}`];
  for (const uri of status.nbdUris) lines.push(`  ${uri}`);
  for (const group of status.groups) lines.push('', ...formatGroup(group, status.site, paint, options));
  return `${lines.join('\n')}\n`;
}

function formatGroup(group: GroupStatus, site: string, paint: Paint, options: PageOptions): string[] {
  const { columns = Number.POSITIVE_INFINITY } = options;
  const { link, journal, cursors } = group;
  const role = group.role === 'standby' ? 'standby' : paint.good(group.role);
  const isAdopted = group.id !== '';
  const unfinished = isAdopted ? 'inconsistent: a first copy is unfinished' : 'empty: its peer has not adopted it yet';
  const consistency = group.consistency === 'consistent' ? '' : `  ${paint.bad(unfinished)}`;
  const policy = `ack ${group.ack}, speculation ${group.speculation ? 'on' : 'off'}, on-reject ${group.onReject}, kernel ${group.kernel}`;
  const rest = options.brief === true ? '' : `  ${paint.dim(policy)}`;
  const lines = [`${paint.bold(`group ${group.name}`)}  ${role}${consistency}${rest}`];
  const add = (label: string, text: string): void => {
    lines.push(`  ${label.padEnd(10)} ${text}`);
  };

  add('link', formatLink(link, paint));
  if (link.connects > 0 && options.brief !== true) {
    const traffic = `sent ${formatSize(link.bytesSent)}, received ${formatSize(link.bytesReceived)}`;
    add(
      '',
      paint.dim(
        `round trip ${link.roundTripMs.toFixed(1)} ms, ${traffic}, ${counted(link.connects, 'connect')}, epoch ${link.epoch}.${link.attempt}`,
      ),
    );
  }
  if (group.dual !== null) {
    const { state, frozenMs, whenSplit, whenSplitAgreed, behind, conflicts } = group.dual;
    // who is to go on alone does so for them
    const waits = frozenMs < FREEZE_HOLD_MS || (whenSplitAgreed && whenSplit.split(':')[1] === site);
    const says = {
      serving: paint.good('both sites serve'),
      waiting: paint.warn(`waits for the other site, ${formatDuration(frozenMs)}: hosts are not served yet`),
      frozen: paint.bad(
        `frozen, ${formatDuration(frozenMs)}: the other site is not there, hosts ${waits ? 'wait' : 'get errors'}`,
      ),
      alone: paint.bad('this site serves alone'),
    }[state];
    add('dual', `${says}  ${paint.dim(`when-split ${whenSplit}`)}`);
    if (!whenSplitAgreed && whenSplit !== 'freeze')
      add(
        '',
        paint.warn(`the other site has not agreed to ${whenSplit} yet: nobody goes on alone by it before the two meet`),
      );
    if (behind.records > 0) add('', `${behind.records} of the other's records to apply, ${formatAge(behind.ageMs)}`);
    const { met, aborted, cascaded, abortedPeer } = conflicts;
    if (met > 0) add('conflicts', `${met} met, ${aborted} + ${cascaded} scopes lost here, ${abortedPeer} there`);
  }
  if (group.parted !== null) add('parted', paint.bad(group.parted));
  if (group.degradedSince !== null) {
    add('degraded', paint.bad(`answers were given by this site alone since sequence ${group.degradedSince}`));
  }
  if (group.rejection !== null) {
    const { sequence, state, ageMs } = group.rejection;
    const means = { waiting: 'it waits there', halted: 'nothing is sent', rewound: 'then it is sent again' }[state];
    add(
      'rejected',
      paint.warn(`${state}: sequence ${sequence} needs a lock at the target, ${means}, ${formatDuration(ageMs)}`),
    );
  }
  if (journal.failed !== null) add('failed', paint.bad(journal.failed));
  else if (journal.noDescriptors || journal.diskFull || journal.full) {
    const then = group.role === 'standby' ? 'no more of the stream is taken' : 'what needs room fails with ENOSPC';
    if (journal.noDescriptors) add('no files', paint.bad(`${then} until the process may open more (ulimit -n)`));
    else if (journal.diskFull) add('disk full', paint.bad(then));
    else {
      const isBehind = group.volumes.some(({ imageError }) => imageError !== null);
      const until = isBehind ? 'the image below can be written' : 'blocks are trimmed, or with a larger --journal';
      add('full', paint.bad(`${then} until ${until}`));
    }
  }
  if (group.lag !== null) add('lag', formatLag(group.lag, group, paint));
  else if (!isAdopted) add('lag', paint.bad('there is no copy here at all'));
  add('journal', formatJournal(journal));
  lines.push('');
  lines.push(
    ...table(
      ['volume', 'size', 'mapped', 'block', 'platter'],
      group.volumes.map(({ name, size, mappedBytes, blockSize, platter }) => [
        name,
        formatSize(size),
        formatSize(mappedBytes),
        String(blockSize),
        platter,
      ]),
      columns,
    ),
  );
  for (const { name, imageError, journalError } of group.volumes) {
    if (imageError !== null) lines.push(`  ${paint.bad(`${name}: its image cannot be written: ${imageError}`)}`);
    if (journalError !== null)
      lines.push(`  ${paint.bad(`${name}: blocks for its image cannot be read from the journal: ${journalError}`)}`);
  }
  if (options.brief === true) return lines;
  lines.push('');
  const { own, peer } = cursors;
  const ownNames = [
    'appended',
    'sealed',
    'sent',
    'received',
    'granted',
    'applied',
    'durable',
    'peerDurable',
    'trimmed',
  ] as const;
  const peerNames = ['received', 'granted', 'applied', 'durable'] as const;
  lines.push(
    ...table(
      ['stream', ...ownNames],
      [
        ['own', ...ownNames.map((name) => String(own[name]))],
        [
          "peer's",
          ...ownNames.map((name) =>
            (peerNames as readonly string[]).includes(name) ? String(peer[name as 'received']) : '-',
          ),
        ],
      ],
      columns,
    ),
  );
  if (options.counters !== true) return lines;
  const counters = Object.entries(group.counters).filter(([, count]) => count !== 0);
  if (counters.length > 0) {
    lines.push('');
    const texts = counters.map(([name, count]) => `${name} ${count}`);
    lines.push(...sideBySide(texts, Math.min(100, columns - 2)).map((line) => `  ${paint.dim(line)}`));
  }
  return lines;
}

function formatLink(link: LinkStatus, paint: Paint): string {
  if (link.url === null) return paint.dim('no peer configured');
  const peer = link.peerSite === null ? link.url : `site ${link.peerSite} at ${link.url}`;
  const state = {
    streaming: paint.good,
    'base copy': paint.warn,
    'returning the tail': paint.warn,
    handshaking: paint.warn,
    away: paint.bad,
    refused: paint.bad,
  }[link.state](link.state);
  return `${state}  ${peer}${link.reason === '' ? '' : `: ${link.reason}`}`;
}

function formatAge(ageMs: number | null): string {
  return ageMs === null ? 'of unknown age' : formatDuration(Math.max(0, ageMs));
}

function formatLag(lag: LagStatus, { role, link }: GroupStatus, paint: Paint): string {
  const records = Math.max(0, lag.records);
  if (lag.fullCopyNeeded) return paint.bad('full copy needed: what the peer lacks is not kept for it');
  if (lag.firstCopy !== null) {
    const { doneBytes, totalBytes } = lag.firstCopy;
    const share = totalBytes === 0 ? 0 : Math.floor((100 * doneBytes) / totalBytes);
    const behind = records === 0 ? '' : `, then ${records} records`;
    return paint.warn(`first copy ${share} %, ${formatSize(doneBytes)} of ${formatSize(totalBytes)}${behind}`);
  }
  if (role !== 'standby') {
    if (records === 0) return paint.good('none');
    const bytes = lag.bytes === null ? '' : `${formatSize(Math.max(0, lag.bytes))}, `;
    return `${bytes}${records} records, oldest ${formatAge(lag.ageMs)}`;
  }
  const isLinked = link.state === 'streaming';
  if (records === 0 && isLinked) return paint.good('none');
  const asOf = lag.ageMs === null ? 'image of unknown age' : `image of ${formatAge(lag.ageMs)} ago`;
  if (isLinked) return `${records} records, ${asOf}`;
  return paint.warn(`${records === 0 ? '' : `at least ${records} records, `}no link: ${asOf}`);
}

function formatJournal({
  usedBytes,
  limitBytes,
  segments,
  ringSize,
  position,
  checkpointPosition,
}: GroupStatus['journal']): string {
  const share = limitBytes > 0 ? ` (${Math.round((100 * usedBytes) / limitBytes)} %)` : '';
  const replay = formatSize(Math.max(0, position - checkpointPosition));
  return `${formatSize(usedBytes)} of ${formatSize(limitBytes)}${share}, ${counted(segments, 'segment')}, ring ${formatSize(ringSize)}, ${replay} since the checkpoint`;
}

function counted(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`;
}

/** Left-aligned first column, right-aligned others, two spaces between. What is wider goes on below, behind the first column. */
function table(heads: readonly string[], rows: readonly (readonly string[])[], columns: number): string[] {
  const all = [heads, ...rows];
  const widths = heads.map((_, column) => Math.max(...all.map((row) => row[column]!.length)));
  const lines: string[] = [];
  for (let from = 1; from < heads.length; ) {
    let through = from;
    let width = 2 + widths[0]! + 2 + widths[from]!;
    while (through + 1 < heads.length && width + 2 + widths[through + 1]! <= columns) {
      through += 1;
      width += 2 + widths[through]!;
    }
    for (const row of all) {
      const cells = row.slice(from, through + 1);
      if (from > 1 && cells.every((cell) => cell === '-')) continue;
      const padded = cells.map((cell, index) => cell.padStart(widths[from + index]!));
      lines.push(`  ${[row[0]!.padEnd(widths[0]!), ...padded].join('  ')}`.trimEnd());
    }
    from = through + 1;
  }
  return lines;
}

/** Short texts side by side, as many as fit. */
function sideBySide(texts: readonly string[], columns: number): string[] {
  const width = Math.max(...texts.map((text) => text.length)) + 2;
  const perLine = Math.max(1, Math.floor(columns / width));
  const lines: string[] = [];
  for (let at = 0; at < texts.length; at += perLine) {
    lines.push(
      texts
        .slice(at, at + perLine)
        .map((text) => text.padEnd(width))
        .join('')
        .trimEnd(),
    );
  }
  return lines;
}
