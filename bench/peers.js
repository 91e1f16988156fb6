/** File servers over NBD, each over one image file: what an unmirrored volume is held against. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { freePort, run, start, startDaemon, stop, untilConnectable, untilIdle } from './processes.js';

/**
 * Command lines. `where` is { port } on loopback, or { path } of a unix socket.
 * nbd-server serves its unix socket beside a port, goes into the background and forks for every connection.
 */
const PEERS = {
  nbdkit: {
    name: 'nbdkit file',
    export: '',
    command: ({ image, port, path }) => [
      ...['nbdkit', '-f'],
      ...(path === undefined ? ['-i', '127.0.0.1', '-p', `${port}`] : ['-U', path]),
      ...['file', image],
    ],
  },
  'nbd-server': {
    name: 'nbd-server',
    export: 'disk',
    pidFile: 'pid',
    command: ({ image, port, path, directory }) => {
      const config = join(directory, 'nbd-server.conf');
      const socket = path === undefined ? [] : [`unixsock = ${path}`];
      const generic = ['[generic]', 'listenaddr = 127.0.0.1', `port = ${port}`, ...socket];
      writeFileSync(
        config,
        [...generic, '[disk]', `exportname = ${image}`, 'flush = true', 'fua = true', ''].join('\n'),
      );
      return ['nbd-server', '-C', config, '-p', join(directory, 'pid')];
    },
  },
  'qemu-nbd': {
    name: 'qemu-nbd',
    export: 'disk',
    command: ({ image, port, path }) => [
      ...['qemu-nbd', '-t', '-e', '16', '-f', 'raw', '--cache=writeback', '--aio=threads', '-x', 'disk'],
      ...(path === undefined ? ['-b', '127.0.0.1', '-p', `${port}`] : ['-k', path]),
      image,
    ],
  },
};
export const PEER_NAMES = Object.keys(PEERS);

/** A fresh sparse file, every block of it written once in random order: the history that volumes have, too. */
export async function makeImage(image, size) {
  await run('truncate', ['-s', `${size}`, image]);
  await run('fio', [
    ...['--name=fill', `--filename=${image}`, `--size=${size}`, '--ioengine=psync', '--rw=randwrite', '--bs=4k'],
    ...['--end_fsync=1', '--randseed=1', '--output-format=json'],
  ]);
}

export const writeBack = (image) =>
  run('dd', [`of=${image}`, 'if=/dev/null', 'conv=notrunc,fdatasync', 'count=0', 'status=none']);

/** A file server's speed swings fivefold with how its file got into the page cache: out of it. */
export async function dropPages(image) {
  await writeBack(image);
  await run('dd', [`if=${image}`, 'iflag=nocache', 'count=0', 'status=none']);
}

/** @returns a contender (gateways.js) */
export async function startPeer({ scratch, size }, peer, transport = 'tcp') {
  const directory = mkdtempSync(join(scratch, `${peer}-`));
  const image = join(directory, 'image');
  await makeImage(image, size);
  const { name, command, export: exportName, pidFile } = PEERS[peer];
  const port = await freePort();
  const path = transport === 'tcp' ? undefined : join(directory, 'nbd');
  const [program, ...args] = command({ image, port, path, directory });
  const child =
    pidFile === undefined ? start(program, args) : await startDaemon(program, args, join(directory, pidFile));
  await untilConnectable(path === undefined ? { port } : { path }, child);
  const processes = [{ name: peer, pid: child.pid }];
  return {
    name,
    uri: path === undefined ? `nbd://127.0.0.1:${port}/${exportName}` : `nbd+unix:///${exportName}?socket=${path}`,
    processes,
    prepare: () => dropPages(image),
    drained: async () => {
      await writeBack(image);
      return true;
    },
    rest: () => untilIdle(processes),
    stop: async () => {
      await stop(child);
      rmSync(directory, { recursive: true, force: true });
    },
  };
}
