/**
 * Negotiation as transcripts under transcripts/: C is the client, S the server, `=` the outcome. Read them in review;
 * `npx vitest run test/nbd/negotiation.test.ts -u` rewrites them.
 */
import { expect, test } from 'vitest';
import { ForelockError } from '../../src/errors.js';
import { Negotiation } from '../../src/frontend/nbd/negotiation.js';
import { encodeGreeting } from '../../src/frontend/nbd/protocol.js';
import { MemoryCatalog, MemoryDevice } from './memory-device.js';
import {
  abort,
  be16,
  be32,
  clientFlags,
  describeOption,
  describeReplies,
  exportName,
  go,
  hex,
  info,
  join,
  list,
  listMeta,
  option,
  setMeta,
  sized,
  startTls,
  structuredReply,
} from './wire.js';

function catalogOfAll(): MemoryCatalog {
  const catalog = new MemoryCatalog(
    new MemoryDevice({ name: 'vm1', description: 'group g, writable' }),
    new MemoryDevice({
      name: 'vm2',
      size: 512 * 9,
      blockSize: 512,
      contentRefused: true,
      description: 'standby of site a',
    }),
    new MemoryDevice({ name: 'drill', readOnly: true, multiConnection: false, description: 'view of vm1' }),
  );
  catalog.refused.set('vm1@applied', new ForelockError('ENOTSUP', 'vm1 is primary here: a view is of a standby'));
  catalog.refused.set('vm2@applied', new ForelockError('EPERM', 'vm2 is resyncing: no view until it is consistent'));
  catalog.refused.set('vm3', new ForelockError('ESHUTDOWN', 'the gateway is stopping'));
  return catalog;
}

function transcript(messages: Buffer[], catalog = catalogOfAll()): string {
  const negotiation = new Negotiation(catalog);
  const lines: string[] = [];
  for (const message of messages) {
    lines.push(`C ${describeOption(message)}`);
    const outcome = negotiation.receive(message);
    for (const line of describeReplies(Buffer.concat(negotiation.takeReplies()))) lines.push(`S ${line}`);
    if (outcome.state === 'more') continue;
    if (outcome.state === 'closed') lines.push(`= closed: ${outcome.reason}`);
    else {
      const { device, structuredReplies, allocationContext } = outcome.session;
      lines.push(`= ready: ${device.name} structured=${structuredReplies} allocation=${allocationContext}`);
    }
    break;
  }
  return `${collapse(lines).join('\n')}\n`;
}

/** A repeated exchange is shown once. */
function collapse(lines: string[]): string[] {
  const out: string[] = [];
  let repeats = 0;
  for (let at = 0; at < lines.length; at += 1) {
    if (at >= 2 && lines[at] === lines[at - 2] && lines[at]?.startsWith('C') && lines[at + 1] === lines[at - 1]) {
      repeats += 1;
      at += 1;
      continue;
    }
    if (repeats > 0) out.push(`  (${repeats} more times)`);
    repeats = 0;
    out.push(lines[at]!);
  }
  return out;
}

const FLAGS = clientFlags(3);
const text = (size: number) => 'x'.repeat(size);

const TRANSCRIPTS: Record<string, Buffer[][]> = {
  'modern-client': [
    [FLAGS, structuredReply(), setMeta('vm1', 'base:allocation'), go('vm1', 1, 2, 3)],
    [FLAGS, structuredReply(), listMeta('vm2'), setMeta('vm2', 'base:allocation'), info('vm2', 3), go('vm2', 2)],
    [FLAGS, list(), info('drill', 1, 2, 3, 77), go('drill')],
  ],
  'kernel-client': [
    [FLAGS, exportName('vm1')],
    [clientFlags(1), exportName('vm1')],
    [clientFlags(0), exportName('vm1')],
    [clientFlags(0), go('vm1')],
    [FLAGS, exportName('nothing')],
    [FLAGS, exportName('vm2@applied')],
  ],
  refusals: [
    [FLAGS, info('nothing'), info('vm1@applied'), go('vm2@applied'), go('vm3'), go('vm1')],
    [FLAGS, startTls(), option(4), option(11), option(0xffffffff), go('vm1')],
    [FLAGS, abort()],
    [FLAGS, go('')],
  ],
  'meta-context': [
    [FLAGS, setMeta('vm1', 'base:allocation'), listMeta('vm1')],
    [
      FLAGS,
      structuredReply(),
      listMeta('vm1', 'base:'),
      listMeta('vm1', 'qemu:', 'base:allocation'),
      listMeta('vm1', 'qemu:'),
    ],
    [FLAGS, structuredReply(), setMeta('vm1', 'base:'), go('vm1')],
    [FLAGS, structuredReply(), setMeta('vm1', 'base:allocation'), setMeta('vm1'), go('vm1')],
    [FLAGS, structuredReply(), setMeta('vm1', 'base:allocation'), go('vm2')],
    [FLAGS, structuredReply(), setMeta('nothing', 'base:allocation'), setMeta('vm2@applied', 'base:allocation')],
  ],
  malformed: [
    [clientFlags(7)],
    [clientFlags(0x80000003)],
    [FLAGS, Buffer.from('IHAVEOPS00000000')],
    [FLAGS, option(3, Buffer.from('x')), option(8, Buffer.from('x'))],
    [FLAGS, option(7), option(7, be32(4)), option(7, sized('vm1')), option(7, join(sized('vm1'), be16(2), be16(0)))],
    [FLAGS, option(7, join(sized('vm1'), be16(0), be16(0))), option(7, join(be32(0xffffffff), be16(0)))],
    [FLAGS, go('vm\0'), option(7, join(be32(1), Buffer.from([0xff]), be16(0)))],
    [FLAGS, structuredReply(), option(10, join(sized('vm1'), be32(0xffffffff))), option(10, sized('vm1'))],
  ],
  limits: [
    [FLAGS, go(text(4096)), go(text(4097))],
    [FLAGS, option(1, Buffer.alloc(0), 4097)],
    [FLAGS, option(7, Buffer.alloc(0), 65537)],
    [FLAGS, option(99, Buffer.alloc(65536)), option(99, Buffer.alloc(0), 0xffffffff)],
    [FLAGS, ...Array.from({ length: 65 }, () => option(99))],
    [FLAGS, ...Array.from({ length: 64 }, () => option(99)), abort()],
  ],
};

test.each(Object.entries(TRANSCRIPTS))('%s', async (name, dialogues) => {
  const rendered = dialogues.map((messages) => transcript(messages)).join('\n');
  await expect(rendered).toMatchFileSnapshot(`transcripts/${name}.txt`);
});

test('the greeting', () => {
  expect(hex(encodeGreeting())).toBe('4e42444d41474943' + '49484156454f5054' + '0003');
});

test('the empty name is the only export', () => {
  const messages = [FLAGS, go('', 1)];
  expect(transcript(messages, new MemoryCatalog(new MemoryDevice({ name: 'one' })))).toContain('= ready: one');
});

test('every device that was looked at is closed, the chosen one stays open', () => {
  const catalog = catalogOfAll();
  transcript(
    [FLAGS, structuredReply(), listMeta('vm1'), setMeta('vm1', 'base:allocation'), info('vm1'), go('vm1')],
    catalog,
  );
  expect(catalog.openCount).toBe(4);
  expect((catalog.devices.get('vm1') as MemoryDevice).closeCount).toBe(3);
});

test('bytes after GO belong to the transmission phase', () => {
  const negotiation = new Negotiation(catalogOfAll());
  const outcome = negotiation.receive(join(FLAGS, go('vm1'), Buffer.from('request')));
  expect(outcome.state === 'ready' && Buffer.from(outcome.rest).toString()).toBe('request');
});

test.each(Object.entries(TRANSCRIPTS))(
  '%s: delivery byte by byte changes nothing',
  (_name, dialogues) => {
    for (const messages of dialogues) {
      const whole = new Negotiation(catalogOfAll());
      const bytes = join(...messages);
      const expected = whole.receive(bytes);
      const split = new Negotiation(catalogOfAll());
      let outcome = split.receive(Buffer.alloc(0));
      for (let at = 0; at < bytes.length && outcome.state === 'more'; at += 1) {
        outcome = split.receive(bytes.subarray(at, at + 1));
      }
      expect(hex(join(...split.takeReplies()))).toBe(hex(join(...whole.takeReplies())));
      expect(outcome.state).toBe(expected.state);
    }
  },
  120_000,
);

test('views are listed behind the volumes, and the empty name stays that of the only volume', () => {
  const catalog = new MemoryCatalog(new MemoryDevice({ name: 'one' }));
  catalog.pinned = ['one@applied'];
  const said = transcript([FLAGS, list(), go('')], catalog);
  expect(said).toMatch(/one.*\n.*one@applied/);
  expect(said).toContain('= ready: one ');
});
