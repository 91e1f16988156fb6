/** How pairs come together, are refused, and change roles: with real processes, as an operator would meet it. */
import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { ForelockError } from '../../src/errors.js';
import { NbdClient } from '../../src/frontend/nbd/client.js';
import { KIB, MIB } from '../../src/limits.js';
import { EXIT_CONFIG } from '../../src/node/cli.js';
import { readImage, writeBytes } from './checking-client.js';
import { DelayProxy } from './delay-proxy.js';
import { freePort, type GatewayProcess, Room, StartError, sleep, until } from './gateway-process.js';
import { canUseLoopDevices, requireTools, runTool, runToolOk } from './tools.js';

const SIZE = 32 * MIB;
const NOT_ADOPTED = 'inconsistent';

let room: Room;
beforeEach(async () => {
  room = await Room.open();
});
afterEach(() => room.close());

/** What `forelock status` says of a link that is refused. */
async function refusal(gateway: GatewayProcess): Promise<string> {
  return until(`site ${gateway.options.site} being refused`, async () => {
    const { state, reason } = (await gateway.status()).link;
    return state === 'refused' && reason !== '' ? reason : null;
  });
}

async function refusedStart(start: Promise<GatewayProcess>): Promise<StartError> {
  const error = await start.then(
    () => null,
    (error: unknown) => error,
  );
  expect(error).toBeInstanceOf(StartError);
  return error as StartError;
}

describe.skipIf(!requireTools(['gcc']))('an image of platter flat', { timeout: 120_000 }, () => {
  test('is adopted by a target that joins late; until it has all of it, the target says so', async () => {
    const content = randomBytes(SIZE);
    content.fill(0, 4 * MIB, 8 * MIB);
    const image = room.path('disk.img');
    await writeFile(image, content);
    const port = await freePort();
    const proxy = room.keep(
      await DelayProxy.start({ target: { host: '127.0.0.1', port }, oneWayMs: 5, megabytesPerSecond: 12 }),
    );
    const source = await room.start({
      site: 'a',
      volumes: [`vm:${SIZE},platter=flat,path=${image}`],
      peer: `ws://127.0.0.1:${proxy.port}`,
    });
    const early = randomBytes(64 * KIB);
    await writeBytes(await source.uri('vm'), MIB, early);
    early.copy(content, MIB);

    const target = await room.start({ site: 'b', role: 'standby', listen: port });
    await until('the first copy', async () => (await target.status()).link.state === 'base copy');
    expect((await target.status()).consistency).toBe(NOT_ADOPTED);
    const refused = await NbdClient.connect(await target.uri('vm@applied')).catch((error: Error) => error);
    expect(refused).toBeInstanceOf(Error);
    expect((refused as Error).message).toMatch(/inconsistent|not finished/);
    const meanwhile = randomBytes(64 * KIB);
    await writeBytes(await source.uri('vm'), 16 * MIB, meanwhile);
    meanwhile.copy(content, 16 * MIB);
    expect((await target.status()).consistency, 'status while the first copy runs').toBe(NOT_ADOPTED);

    await target.untilConsistent();
    await source.untilApplied();
    expect(content.equals(await readImage(await target.uri('vm@applied')))).toBe(true);
    expect(await source.verify()).toMatchObject({ equal: true });
    await source.stop();
    expect(content.equals(await readFile(image)), 'the image, with its gateway stopped').toBe(true);
  });

  test.skipIf(!canUseLoopDevices())('on block devices at both ends', async () => {
    const [first, second] = [
      await loopDevice('a.img', randomBytes(SIZE)),
      await loopDevice('b.img', Buffer.alloc(SIZE)),
    ];
    const port = await freePort();
    const target = await room.start({
      site: 'b',
      role: 'standby',
      listen: port,
      volumes: [`vm:${SIZE},platter=flat,path=${second}`],
    });
    const source = await room.start({
      site: 'a',
      volumes: [`vm:${SIZE},platter=flat,path=${first}`],
      peer: `ws://127.0.0.1:${port}`,
    });
    await source.untilStreaming();
    await writeBytes(await source.uri('vm'), 3 * MIB, randomBytes(5 * MIB));
    await target.untilConsistent();
    await source.untilApplied();
    expect(await source.verify()).toMatchObject({ equal: true });
    const refused = await NbdClient.connect(await target.uri('vm@applied')).catch((error: Error) => error);
    expect((refused as Error).message).toMatch(/flat/);
    await source.stop();
    await target.stop();
    await runToolOk('cmp', [first, second]);
  });
});

async function loopDevice(name: string, content: Uint8Array): Promise<string> {
  await writeFile(room.path(name), content);
  const device = (await runToolOk('losetup', ['--find', '--show', room.path(name)])).trim();
  room.onClose(() => runTool('losetup', ['--detach', device]));
  return device;
}

describe.skipIf(!requireTools(['gcc']))('refused, with the reason', { timeout: 120_000 }, () => {
  test('a second process on one state directory', async () => {
    const first = await room.start({ site: 'a', volumes: [`vm:${SIZE}`] });
    const error = await refusedStart(room.start({ site: 'a', volumes: [`vm:${SIZE}`], ring: 8 * MIB }));
    expect(error.status).toBe(EXIT_CONFIG);
    expect(error.message).toMatch(new RegExp(`is used by process ${first.pid}`));
    await writeBytes(await first.uri('vm'), 0, Buffer.alloc(4 * KIB, 1)); // and the first one has not noticed
    await first.kill();
    const again = await room.again(first);
    expect((await readImage(await again.uri('vm')))[0]).toBe(1);
  });

  test('another size for a volume that exists', async () => {
    const first = await room.start({ site: 'a', volumes: [`vm:${SIZE}`] });
    await first.stop();
    const error = await refusedStart(room.again(first, { volumes: [`vm:${2 * SIZE}`] }));
    expect(error.status).toBe(EXIT_CONFIG);
    expect(error.message).toMatch(/vm/);
    const again = await room.again(first, { volumes: ['vm'] });
    expect((await again.status()).volumes).toMatchObject([{ name: 'vm', size: SIZE }]);
  });

  test('a wrong key, and no key', async () => {
    const keys = await Promise.all(
      ['one', 'other'].map(async (name) => {
        await writeFile(room.path(name), `${randomBytes(32).toString('hex')}\n`, { mode: 0o600 });
        return room.path(name);
      }),
    );
    const port = await freePort();
    const peer = `ws://127.0.0.1:${port}`;
    const target = await room.start({ site: 'b', role: 'standby', listen: port, key: keys[0]! });
    const source = await room.start({ site: 'a', volumes: [`vm:${SIZE}`], peer, key: keys[1]! });
    expect(await refusal(source)).toMatch(/key/);
    const { link, volumes } = await target.status();
    expect(link.state).not.toBe('streaming');
    expect(link.reason).toMatch(/key/);
    expect(volumes).toEqual([]);
    await source.stop();
    const without = await room.start({ state: room.path('c'), site: 'c', volumes: [`vm:${SIZE}`], peer });
    expect(await refusal(without)).toMatch(/key/);
    await without.stop();
    const right = await room.again(source, { key: keys[0]! });
    await right.untilStreaming();
  });

  test('volumes of different sizes: both say which', async () => {
    const port = await freePort();
    const target = await room.start({ site: 'b', role: 'standby', listen: port, volumes: [`vm:${2 * SIZE}`] });
    const source = await room.start({ site: 'a', volumes: [`vm:${SIZE}`], peer: `ws://127.0.0.1:${port}` });
    for (const reason of [await refusal(source), await refusal(target)]) {
      expect(reason).toMatch(/vm/);
      expect(reason).toMatch(new RegExp(`${SIZE}`));
      expect(reason).toMatch(new RegExp(`${2 * SIZE}`));
    }
  });

  test('two sites of one name', async () => {
    const port = await freePort();
    const target = await room.start({ site: 'x', state: room.path('b'), role: 'standby', listen: port });
    const source = await room.start({
      site: 'x',
      state: room.path('a'),
      volumes: [`vm:${SIZE}`],
      peer: `ws://127.0.0.1:${port}`,
    });
    expect(await refusal(source)).toMatch(/name|site/);
    expect((await target.status()).volumes).toEqual([]);
  });
});

describe.skipIf(!requireTools(['gcc']))('roles', { timeout: 120_000 }, () => {
  test('a standby promoted serves its image; the old primary that returns is refused, and both say why', async () => {
    const { source, target } = await room.pair({ size: SIZE });
    const content = randomBytes(MIB);
    await writeBytes(await source.uri('vm'), 2 * MIB, content);
    await source.untilApplied();
    // not mirrored any more: known to the old primary alone
    await target.kill();
    await writeBytes(await source.uri('vm'), 8 * MIB, Buffer.alloc(4 * KIB, 7));
    await source.kill();

    const promoted = await room.again(target, { role: 'primary' });
    await until('the promoted site serving', async () => {
      const image = await readImage(await promoted.uri('vm')).catch(() => null);
      return image !== null && content.equals(image.subarray(2 * MIB, 3 * MIB)) && image[8 * MIB] === 0;
    });
    await writeBytes(await promoted.uri('vm'), 4 * MIB, Buffer.alloc(4 * KIB, 9));

    const returned = await room.again(source);
    for (const reason of [await refusal(returned), await refusal(promoted)]) expect(reason).toMatch(/both primary/);
    await returned.stop();
    // as a standby it still has what the other never got: that is for people to decide
    const demoted = await room.again(source, { role: 'standby' });
    const reasons = [await refusal(demoted), await refusal(promoted)];
    for (const reason of reasons) expect(reason).toMatch(/a holds records .* which b never got/);
    const image = await readImage(await promoted.uri('vm'));
    expect([image[4 * MIB], image[8 * MIB]]).toEqual([9, 0]);
  });

  test('a change of roles, both stopped cleanly: nothing lost, and mirrored the other way', async () => {
    const { source, target, proxy } = await room.pair({ size: SIZE });
    await writeBytes(await source.uri('vm'), 2 * MIB, randomBytes(MIB));
    await source.untilApplied();
    await source.stop();
    await target.stop();
    const promoted = await room.again(target, { role: 'primary' });
    const follower = await room.again(source, { role: 'standby', peer: `ws://127.0.0.1:${proxy.port}` });
    await promoted.untilStreaming();
    await writeBytes(await promoted.uri('vm'), 4 * MIB, randomBytes(MIB));
    await promoted.untilApplied();
    expect(await promoted.verify()).toMatchObject({ equal: true });
    const [a, b] = [await readImage(await promoted.uri('vm')), await readImage(await follower.uri('vm@applied'))];
    expect(a.equals(b)).toBe(true);
    // and back again
    await promoted.stop();
    await follower.stop();
    const back = await room.again(source, { role: 'primary' });
    await room.again(target, { role: 'standby' });
    await back.untilStreaming();
    await writeBytes(await back.uri('vm'), 6 * MIB, randomBytes(MIB));
    await back.untilApplied();
    expect(await back.verify()).toMatchObject({ equal: true });
  });

  test('a standby whose first copy is unfinished cannot be promoted', async () => {
    const image = room.path('disk.img');
    await writeFile(image, randomBytes(SIZE));
    const port = await freePort();
    const proxy = room.keep(await DelayProxy.start({ target: { host: '127.0.0.1', port }, megabytesPerSecond: 4 }));
    const peer = `ws://127.0.0.1:${proxy.port}`;
    const target = await room.start({ site: 'b', role: 'standby', listen: port });
    const source = await room.start({ site: 'a', volumes: [`vm:${SIZE},platter=flat,path=${image}`], peer });
    await until('the first copy', async () => (await target.status()).link.state === 'base copy');
    await sleep(300);
    await target.kill();
    const error = await refusedStart(room.again(target, { role: 'primary' }));
    expect(error.status).toBe(EXIT_CONFIG);
    expect(error.message).toMatch(/first copy/);
    // as a standby it takes the copy up where it was
    const again = await room.again(target);
    await proxy.rate(0);
    await again.untilConsistent();
    const verified = await until('the source has heard of that', () =>
      source.verify().catch((error: ForelockError) => {
        if (error.code !== 'AWAY') throw error;
        return null;
      }),
    );
    expect(verified).toMatchObject({ equal: true });
  });
});
