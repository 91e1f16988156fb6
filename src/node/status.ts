/** What a gateway tells about itself (GatewayStatus), gathered from its parts. Lags and ages are never negative. */

import type { EndpointState } from '../link/endpoint.js';
import type { BasePosition } from '../mirror/base.js';
import { VERSION } from '../paths.js';
import type { Group } from '../volume/group.js';
import type { Receiver } from '../volume/receiver.js';
import { isAgreed, splitName } from '../volume/split.js';
import type { DualStatus, GatewayStatus, GroupStatus, LagStatus, LinkState, OwnCursors } from './control.js';
import { STATUS_SCHEMA } from './control.js';
import type { Gateway, Member } from './gateway.js';

export function gatewayStatus(gateway: Gateway): GatewayStatus {
  return {
    schema: STATUS_SCHEMA,
    version: VERSION,
    site: gateway.options.site,
    uptimeSeconds: Math.max(0, (Date.now() - gateway.startedAt) / 1000),
    nbdUris: gateway.nbdUris(),
    groups: gateway.members.map((member) => groupStatus(gateway, member)),
  };
}

function groupStatus(gateway: Gateway, member: Member): GroupStatus {
  const { options, pair, endpoint, group } = member;
  const policy = {
    ack: options.ack,
    speculation: options.speculation === 'on',
    kernel: options.kernel,
    onReject: group?.receiver?.target.onReject ?? options.onReject ?? 'target-retry',
  };
  const link = linkStatus(member);
  if (group === null) {
    return {
      name: options.group,
      id: '',
      role: member.config.role,
      generation: '',
      siteNumber: 0,
      consistency: 'inconsistent',
      volumes: [],
      link,
      cursors: { own: noCursors(), peer: { received: 0, granted: 0, applied: 0, durable: 0 } },
      lag: null,
      ...policy,
      rejection: null,
      dual: null,
      parted: null,
      degradedSince: null,
      journal: {
        failed: null,
        diskFull: false,
        noDescriptors: false,
        full: false,
        usedBytes: 0,
        limitBytes: 0,
        segments: 0,
        ringSize: 0,
        checkpointPosition: 0,
        position: 0,
      },
      counters: {},
    };
  }
  const { journal, mirror, sender, receiver } = group;
  const { superblock } = group.state;
  const own = {
    ...noCursors(),
    appended: journal.own.appended,
    sealed: journal.own.sealed,
    durable: journal.own.durable,
  };
  const peer = { received: 0, granted: 0, applied: 0, durable: 0 };
  const dual = dualStatus(member, group);
  if (sender !== null) {
    const { source } = sender;
    Object.assign(own, {
      sent: source.sent,
      received: source.received,
      granted: source.granted,
      applied: source.applied,
      peerDurable: source.peerDurable,
      trimmed: source.trimmed,
    });
  }
  if (receiver !== null) {
    const { target } = receiver;
    Object.assign(peer, {
      received: target.received,
      granted: target.granted,
      applied: target.applied,
      durable: target.durable,
    });
  }
  return {
    name: group.name,
    id: superblock.groupId,
    role: group.role,
    generation: superblock.generations[superblock.generations.length - 1]!.id,
    siteNumber: superblock.site.number,
    consistency: mirror.imageConsistent ? 'consistent' : 'inconsistent',
    volumes: [...group.volumes.values()].map((volume) => ({
      name: volume.name,
      size: volume.size,
      blockSize: volume.blockSize,
      platter: volume.platter,
      mappedBytes: volume.map.mappedCount * volume.blockSize,
      imageError: group.writeback.illness(volume.number),
      journalError: group.writeback.damage(volume.number),
    })),
    link,
    cursors: { own, peer },
    lag: group.policy.paired ? lagOf(group) : null,
    ...policy,
    rejection: rejectionOf(group),
    dual,
    parted: pair.parted,
    degradedSince: superblock.degradedSince,
    journal: {
      failed: journal.failed?.message ?? null,
      diskFull: group.health.full === 'disk',
      noDescriptors: group.health.full === 'descriptors',
      full: group.health.full === 'journal',
      usedBytes: journal.segments.used,
      limitBytes: journal.room.limit,
      segments: journal.segments.count,
      ringSize: journal.ringSize,
      checkpointPosition: group.checkpointer.position,
      position: journal.head,
    },
    counters: {
      ...prefixed('journal', journal.counters),
      ...prefixed('read', group.reader.counters),
      ...prefixed('cleaner', group.cleaner.counters),
      ...prefixed('checkpoint', group.checkpointer.counters),
      ...prefixed('writeback', group.writeback.counters),
      ...prefixed('group', group.counters),
      ...(sender === null ? {} : prefixed('mirror', sender.counters)),
      ...(sender === null ? {} : prefixed('sendFrom', sender.readerCounters)),
      ...(receiver === null ? {} : prefixed('mirror', receiver.counters)),
      ...prefixed('volume', sum([...group.volumes.values()].map((volume) => volume.counters))),
      ...prefixed('nbd', gateway.nbd.counters as unknown as Record<string, number>),
      ...prefixed('stateBytes', member.bytesWritten()),
      linkFailures: endpoint?.status().failures ?? 0,
      linkRefusals: endpoint?.status().refusals ?? 0,
      ...Object.fromEntries([...pair.counters.rows].map(([row, count]) => [`linkRow${row}`, count])),
      linkProtocolErrors: pair.counters.protocolErrors,
      linkStalls: pair.counters.stalls,
      linkShunned: pair.counters.shunned,
      tailRecordsReturned: pair.counters.tailRecordsReturned,
      tailRecordsRecovered: pair.counters.tailRecordsRecovered,
      generationsMinted: pair.counters.minted,
      recoveryRecords: group.state.recovery.recordsReplayed,
      recoveryTornBytes: group.state.recovery.tornBytes,
    },
  };
}

function lagOf(group: Group): LagStatus {
  const { sender, receiver } = group;
  const firstCopy = firstCopyOf(group);
  if (sender === null) return { bytes: null, ...behindOf(group, receiver!), firstCopy, fullCopyNeeded: false };
  const { appended, applied } = sender.source;
  const fullCopyNeeded = sender.needsFullCopy;
  return { ...sender.backlog, records: Math.max(0, appended - applied), firstCopy, fullCopyNeeded };
}

/** Of the peer's stream. */
function behindOf(group: Group, receiver: Receiver): { records: number; ageMs: number | null } {
  const records = receiver.recordsBehind;
  if (records === 0 && receiver.linked) return { records, ageMs: 0 };
  const { appliedAllAt } = receiver;
  return { records, ageMs: appliedAllAt === null ? null : Math.max(0, group.nowMs() - appliedAllAt) };
}

/** Counted by address, which both ends know: where little is mapped, that is quick. */
function firstCopyOf({ sender, receiver, volumes }: Group): LagStatus['firstCopy'] {
  let copied: BasePosition | null;
  if (receiver?.imageConsistent === false) copied = receiver.copied;
  else if (sender?.source.consistent === false) copied = sender.copied;
  else return null;
  let [doneBytes, totalBytes] = [0, 0];
  for (const { number, size, blockSize } of volumes.values()) {
    totalBytes += size;
    if (copied === null || number < copied.volume) doneBytes += size;
    else if (number === copied.volume) doneBytes += Math.min(size, copied.lba * blockSize);
  }
  return { doneBytes, totalBytes };
}

function dualStatus({ options }: Member, group: Group): DualStatus | null {
  if (group.order === null) return null;
  const { whenSplit = 'freeze' } = options;
  return {
    state: group.alone ? 'alone' : !group.frozen ? 'serving' : group.serving ? 'frozen' : 'waiting',
    frozenMs: group.frozenAt === null ? 0 : Math.max(0, group.nowMs() - group.frozenAt),
    whenSplit: splitName(whenSplit),
    whenSplitAgreed: isAgreed(group.state.superblock, whenSplit),
    behind: behindOf(group, group.receiver!),
    conflicts: { ...group.order.conflicts.counters },
  };
}

function rejectionOf({ sender, receiver }: Group): GroupStatus['rejection'] {
  if (sender?.linked && sender.source.rejected > 0) {
    const { rejected, stopped } = sender.source;
    return { sequence: rejected, state: stopped ?? 'waiting', ageMs: sender.rejection.age };
  }
  if (receiver !== null && receiver.target.rejected > 0) {
    const { rejected, rewound } = receiver.target;
    return { sequence: rejected, state: rewound ? 'rewound' : 'waiting', ageMs: receiver.rejection.age };
  }
  return null;
}

/** Before the pair has the link, and once it has gone, the endpoint knows more. */
function linkState(ofPair: LinkState, ofEndpoint: EndpointState): LinkState {
  if (ofPair !== 'away' || ofEndpoint === 'away') return ofPair;
  return ofEndpoint === 'refused' ? 'refused' : 'handshaking';
}

export function linkStatus({ pair, endpoint, group }: Member): GroupStatus['link'] {
  const status = endpoint?.status() ?? null;
  const mirror = group?.mirror ?? null;
  const state = linkState(pair.state, status?.state ?? 'away');
  const machine = group?.sender?.source ?? group?.receiver?.target ?? null;
  return {
    state,
    reason:
      state === 'streaming'
        ? ''
        : (pair.refusal ??
          (pair.link === null ? (status?.reason ?? 'no peer is configured') : (mirror?.describe() ?? ''))),
    peerSite: pair.peerSite ?? status?.peerSite ?? null,
    url: status?.url ?? null,
    epoch: pair.epoch,
    attempt: machine?.attempt ?? 0,
    connects: status?.connects ?? 0,
    roundTripMs: status?.roundTripMs ?? 0,
    bytesSent: status?.bytesSent ?? 0,
    bytesReceived: status?.bytesReceived ?? 0,
  };
}

function noCursors(): OwnCursors {
  return {
    appended: 0,
    sealed: 0,
    sent: 0,
    received: 0,
    granted: 0,
    applied: 0,
    durable: 0,
    peerDurable: 0,
    trimmed: 0,
  };
}

function prefixed(prefix: string, counters: object): Record<string, number> {
  return Object.fromEntries(
    Object.entries(counters)
      .filter(([, value]) => typeof value === 'number')
      .map(([key, value]) => [`${prefix}${key[0]!.toUpperCase()}${key.slice(1)}`, value as number]),
  );
}

function sum(all: Record<string, number>[]): Record<string, number> {
  const total: Record<string, number> = {};
  for (const counters of all)
    for (const [key, value] of Object.entries(counters)) total[key] = (total[key] ?? 0) + value;
  return total;
}
