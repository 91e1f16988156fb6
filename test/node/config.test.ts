import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ForelockError } from '../../src/errors.js';
import { type Flags, parseConfig, parseHostPort, resolveOptions } from '../../src/node/config.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'forelock-config-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

function file(content: string): string {
  const path = join(folder, 'gateway.yaml');
  writeFileSync(path, content);
  return path;
}

function errorOf(run: () => unknown): ForelockError {
  try {
    run();
  } catch (error) {
    if (error instanceof ForelockError) return error;
    throw error;
  }
  throw new Error('nothing was refused');
}

test('flags alone: what is left out has its default', () => {
  expect(resolveOptions({ state: '/srv/berlin', volumes: ['disk:1G'] }, null)).toEqual({
    state: '/srv/berlin',
    site: 'berlin',
    nbd: { host: '127.0.0.1', port: 10809 },
    nbdUnix: null,
    admin: null,
    groups: [
      {
        name: 'main',
        volumes: [{ name: 'disk', size: 2 ** 30, blockSize: null, platter: null, path: null }],
        role: null,
        listen: null,
        peer: null,
        key: null,
        ack: 'local',
        speculation: true,
        kernel: 'wasm',
        whenPeerAway: 'degrade',
        whenSplit: 'freeze',
        onReject: 'target-retry',
        journal: null,
        ring: 64 * 2 ** 20,
        linkRtt: 0,
        linkRate: 0,
      },
    ],
  });
});

test('every flag has its place', () => {
  const options = resolveOptions(
    {
      state: 'a/b',
      site: 'here',
      group: 'db',
      volumes: ['data', 'log:512KB,block-size=512', 'old:64M,platter=flat,path=images/old.img'],
      nbd: '[::1]:1234',
      'nbd-unix': 'nbd.sock',
      listen: '0.0.0.0:10900',
      key: 'secret',
      admin: 'localhost:8080',
      role: 'primary',
      ack: 'applied',
      speculation: 'off',
      kernel: 'compare',
      'when-peer-away': 'block',
      'when-split': 'prefer:berlin',
      'on-reject': 'halt',
      journal: '3GiB',
      ring: '128M',
      'link-rtt': '12.5',
      'link-rate': '10MB/s',
    },
    null,
  );
  expect(options).toEqual({
    state: resolve('a/b'),
    site: 'here',
    nbd: { host: '::1', port: 1234 },
    nbdUnix: resolve('nbd.sock'),
    admin: { host: 'localhost', port: 8080 },
    groups: [
      {
        name: 'db',
        volumes: [
          { name: 'data', size: null, blockSize: null, platter: null, path: null },
          { name: 'log', size: 512e3, blockSize: 512, platter: null, path: null },
          { name: 'old', size: 64 * 2 ** 20, blockSize: null, platter: 'flat', path: resolve('images/old.img') },
        ],
        role: 'primary',
        listen: { host: '0.0.0.0', port: 10900 },
        peer: null,
        key: resolve('secret'),
        ack: 'applied',
        speculation: false,
        kernel: 'compare',
        whenPeerAway: 'block',
        whenSplit: { prefer: 'berlin' },
        onReject: 'halt',
        journal: 3 * 2 ** 30,
        ring: 128 * 2 ** 20,
        linkRtt: 12.5,
        linkRate: 10e6,
      },
    ],
  });
});

test('a unix socket alone takes the place of the default port, not of one that was asked for', () => {
  expect(resolveOptions({ state: '/s', 'nbd-unix': '/s/nbd' }, null).nbd).toBeNull();
  expect(resolveOptions({ state: '/s', 'nbd-unix': '/s/nbd', nbd: '127.0.0.1:0' }, null).nbd).toEqual({
    host: '127.0.0.1',
    port: 0,
  });
  expect(resolveOptions({ state: '/s', nbd: 'none' }, null).nbd).toBeNull();
});

test.each<[string, Flags, string]>([
  ['no state', {}, '--state DIR'],
  ['a site no name can be made of', { state: '/' }, 'give --site NAME'],
  ['a bad size', { state: '/s', volumes: ['disk:1.5G'] }, '--volume: size "1.5G" is not a size'],
  ['a size off the block', { state: '/s', volumes: ['disk:1000'] }, 'volume disk: its size must be a multiple of 4096'],
  ['an empty volume', { state: '/s', volumes: ['disk:0'] }, 'multiple of 4096'],
  ['a huge volume', { state: '/s', volumes: ['disk:17T'] }, 'up to 16 TiB'],
  ['a bad name', { state: '/s', volumes: ['-disk:1G'] }, 'is not a name'],
  ['an empty name', { state: '/s', volumes: [':1G'] }, 'is not a name'],
  [
    'a bad volume setting',
    { state: '/s', volumes: ['disk:1G,color=red'] },
    '"color=red" is not platter=, path= or block-size=',
  ],
  ['a bad platter', { state: '/s', volumes: ['disk:1G,platter=round'] }, '"round" is not one of journal, flat'],
  ['flat without a path', { state: '/s', volumes: ['disk:1G,platter=flat'] }, 'platter=flat needs path=FILE'],
  ['a path without flat', { state: '/s', volumes: ['disk:1G,path=x'] }, 'path=FILE needs platter=flat'],
  ['a bad block size', { state: '/s', volumes: ['disk:1G,block-size=1000'] }, 'is not a power of two'],
  ['two volumes of a name', { state: '/s', volumes: ['disk:1G', 'disk:2G'] }, 'two volumes are named "disk"'],
  [
    'two volumes on an image',
    { state: '/s', volumes: ['a:1G,platter=flat,path=/x', 'b:1G,platter=flat,path=/x'] },
    'two volumes share the image /x',
  ],
  ['peer and listen', { state: '/s', peer: 'ws://b:1', listen: '127.0.0.1:1' }, 'of a pair one end has --peer'],
  ['a peer that is no URL', { state: '/s', peer: 'b:10900' }, '--peer: "b:10900" is not a URL such as ws://HOST:PORT'],
  ['a public listener without a key', { state: '/s', listen: '0.0.0.0:1' }, 'give both ends --key FILE'],
  // it sent the volumes to whoever was there
  ['a peer elsewhere without a key', { state: '/s', peer: 'ws://10.0.0.1:1' }, 'to ws://10.0.0.1:1 needs a shared key'],
  ['a peer of a loopback-like name', { state: '/s', peer: 'wss://127.0.0.1.example:1' }, 'give both ends --key FILE'],
  ['a public control API', { state: '/s', admin: '0.0.0.0:1' }, 'loopback only'],
  ['a bad address', { state: '/s', nbd: '10809' }, '--nbd: "10809" is not HOST:PORT'],
  ['a bad port', { state: '/s', nbd: '127.0.0.1:70000' }, 'is not HOST:PORT'],
  ['a bad choice', { state: '/s', ack: 'yes' }, '--ack: "yes" is not one of local, received, applied'],
  ['a bad switch', { state: '/s', speculation: 'maybe' }, '--speculation: "maybe" is not on or off'],
  [
    'a promise without a peer',
    { state: '/s', ack: 'applied' },
    'group main: ack applied needs a peer, and the group has none: give --peer or --listen',
  ],
  ['a policy without a peer', { state: '/s', 'when-peer-away': 'block' }, 'when-peer-away block needs a peer'],
  [
    'a stream that stops, where both sites write',
    { state: '/s', role: 'dual', peer: 'ws://localhost:1', 'on-reject': 'halt' },
    'group main: on-reject halt cannot be dual',
  ],
  [
    'a stream that goes back, where both sites write',
    { state: '/s', role: 'dual', peer: 'ws://localhost:1', 'on-reject': 'retransmit' },
    'group main: on-reject retransmit cannot be dual',
  ],
  [
    'a standby that is told what its primary does',
    { state: '/s', role: 'standby', peer: 'ws://127.0.0.1:1', 'on-reject': 'halt' },
    "group main: on-reject halt is the primary's to say",
  ],
  ['a key without a link', { state: '/s', key: '/k' }, 'group main: key is about the link, and the group has none'],
  ['a longer link where there is none', { state: '/s', 'link-rtt': '5' }, 'link-rtt or link-rate is about the link'],
  ['a narrower one', { state: '/s', 'link-rate': '1M' }, 'link-rtt or link-rate is about the link'],
  ['a rejection without a peer', { state: '/s', 'on-reject': 'halt' }, 'on-reject halt is about the link'],
  [
    'an absent peer where both sites write',
    { state: '/s', role: 'dual', peer: 'ws://127.0.0.1:1', 'when-peer-away': 'fail' },
    'group main: when-peer-away fail means nothing where both sites write',
  ],
  ['a peer on no port', { state: '/s', peer: 'ws://b:0' }, '--peer: "ws://b:0": nobody listens on port 0'],
  ['a small ring', { state: '/s', ring: '1M' }, '--ring: 1M is not between 4 MiB and 1 GiB'],
  ['an odd ring', { state: '/s', ring: '5M' }, '--ring: 5M is not a multiple of 4 MiB'],
  ['a small journal', { state: '/s', journal: '1M' }, '--journal: 1M is not between 32 MiB'],
  ['a negative round trip', { state: '/s', 'link-rtt': '-1' }, '--link-rtt: "-1" is not a number of milliseconds'],
  ['a long socket path', { state: '/s', 'nbd-unix': `/${'x'.repeat(120)}` }, 'longer than 107 bytes'],
])('%s is a usage error that says what is wrong', (_, flags, message) => {
  const error = errorOf(() => resolveOptions(flags, null));
  expect(error.code).toBe('USAGE');
  expect(error.message).toContain(message);
});

test('a file holds the same, with paths relative to itself, and flags win over it', () => {
  const path = file(`
# one group
state: state
group: db
volumes:
  - data:1G
  - { name: old, size: 67108864, platter: flat, path: old.img }
listen: 127.0.0.1:10900
speculation: off
link-rtt: 50
ring: 8M
`);
  const options = resolveOptions({ ring: '16M', peer: 'ws://other:1', key: 'key' }, path);
  expect(options.state).toBe(join(folder, 'state'));
  expect(options.site).toBe('state');
  expect(options.groups).toMatchObject([
    {
      name: 'db',
      volumes: [
        { name: 'data', size: 2 ** 30 },
        { name: 'old', size: 2 ** 26, path: join(folder, 'old.img') },
      ],
      listen: null,
      peer: 'ws://other:1',
      speculation: false,
      linkRtt: 50,
      ring: 16 * 2 ** 20,
    },
  ]);
});

test('several groups need a file, and flags about one group are then refused', () => {
  const path = file(`
state: /srv/a
groups:
  - name: db
    volumes: ["data:1G"]
    listen: 127.0.0.1:10900
  - name: web
    volumes: ["www:2G"]
    peer: ws://b:10901
    key: key
    ack: received
`);
  const options = resolveOptions({ site: 'x' }, path);
  expect(options.site).toBe('x');
  expect(options.groups.map((group) => [group.name, group.ack])).toEqual([
    ['db', 'local'],
    ['web', 'received'],
  ]);
  const error = errorOf(() => resolveOptions({ volumes: ['disk:1G'] }, path));
  expect(error.code).toBe('USAGE');
  expect(error.message).toContain('--volume is about one group');
});

test.each([
  [
    'a mistyped key',
    'state: /s\nvolumes: []\nspeculaton: on\n',
    ':3:1: speculaton: unknown key; did you mean "speculation"?',
  ],
  [
    'another spelling',
    'state: /s\nwhen_peer_away: block\n',
    ':2:1: when_peer_away: unknown key; did you mean "when-peer-away"?',
  ],
  [
    'a key from elsewhere',
    'state: /s\nencryption: rot13\n',
    ':2:1: encryption: unknown key; known are state, site, nbd',
  ],
  [
    'a mistyped key of a volume',
    'state: /s\nvolumes:\n  - name: a\n    plater: flat\n',
    ':4:5: volumes.0.plater: unknown key; did you mean "platter"?',
  ],
  [
    'a key of a group beside groups',
    'state: /s\nack: local\ngroups:\n  - name: a\n',
    ':2:1: ack: unknown key: it belongs to an entry of groups',
  ],
  ['a group without a name', 'state: /s\ngroups:\n  - ack: local\n', ':3:5: groups.0.name: it is missing'],
  ['one value for a list', 'state: /s\nvolumes: disk\n', ':2:10: volumes: expected a list, found one value'],
  ['a list for a mapping', '- state: /s\n', ':1:1: expected a mapping, found a list'],
  ['no group', 'state: /s\ngroups: []\n', ':2:9: groups: '],
  ['a bad value', 'state: /s\nring: 1M\n', ':2:7: ring: 1M is not between'],
  [
    'a bad value in a list',
    'state: /s\nvolumes:\n  - a:1G\n  - b:1.5G\n',
    ':4:5: volumes.1.size: size "1.5G" is not a size',
  ],
  ['a list for a value', 'state: [a]\n', ':1:8: state: expected one value, found a list'],
  ['a value for a list', 'state: /s\nvolumes: disk:1G\n', ':2:10: volumes: '],
  ['no value', 'state: /s\nring:\n', ':2:'],
  ['bad YAML', 'state: /s\nvolumes: [a, b\n', ':3:1: '],
  ['a key twice', 'state: /s\nstate: /t\n', ':2:1: Map keys must be unique'],
  ['a text instead of a mapping', 'hello\n', ':1:1: '],
  ['both ends of a link', 'state: /s\npeer: ws://b:1\nlisten: 127.0.0.1:1\n', ': group main has both peer and listen'],
  [
    'a promise of a group without a peer',
    'state: /s\ngroups: [{name: a, peer: "ws://localhost:1", ack: received}, {name: b, ack: received}]\n',
    ': group b: ack received needs a peer',
  ],
  ['two groups of a name', 'state: /s\ngroups: [{name: a}, {name: a}]\n', ': two groups are named "a"'],
])('%s in a file is a configuration error with its place', (_, content, message) => {
  const path = file(content);
  const error = errorOf(() => resolveOptions({}, path));
  expect(error.code).toBe('CONFIG');
  expect(error.message).toContain(`${path}${message}`);
});

test('every problem of a file is told at once', () => {
  const error = errorOf(() => parseConfig('ack: x\nrole: y\nzzz: 1\n', 'f.yaml'));
  expect(error.message.split('\n').length).toBe(3);
});

test('a file that is not there, or explodes, is refused', () => {
  expect(errorOf(() => resolveOptions({}, join(folder, 'none.yaml')))).toMatchObject({ code: 'CONFIG' });
  const bomb = ['a: &a [x,x,x,x,x,x,x,x,x,x]'];
  for (let i = 1; i < 8; i += 1) {
    const before = String.fromCharCode(96 + i);
    const name = String.fromCharCode(97 + i);
    bomb.push(`${name}: &${name} [${Array(10).fill(`*${before}`).join(',')}]`);
  }
  expect(errorOf(() => parseConfig(bomb.join('\n'), 'bomb.yaml')).message).toContain('bomb.yaml');
  expect(errorOf(() => parseConfig('#'.repeat(1 << 20), 'big.yaml')).message).toContain('larger than');
});

test('HOST:PORT', () => {
  expect(parseHostPort('a.example:1')).toEqual({ host: 'a.example', port: 1 });
  expect(parseHostPort('[fe80::1%eth0]:65535')).toEqual({ host: 'fe80::1%eth0', port: 65535 });
  for (const bad of ['', ':1', 'a', 'a:', 'a:b', '::1:5', 'a:1:2', '[::1]', 'http://a:1'])
    expect(() => parseHostPort(bad)).toThrow();
});
