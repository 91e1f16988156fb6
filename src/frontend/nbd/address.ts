/**
 * Where an NBD server listens and a client connects: TCP `host:port` or a unix socket's path, and their `nbd://` URIs
 * (doc/uri.md of NetworkBlockDevice/nbd).
 */
import { lstat, unlink } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { ForelockError } from '../../errors.js';

export type NbdAddress =
  /** `port` 0 while listening: any free one. */
  { readonly host: string; readonly port: number } | { readonly path: string };

export const NBD_PORT_DEFAULT = 10809;

/** `127.0.0.1:10809`, `[::1]:10809`, or the path of a unix socket. */
export function formatAddress(address: NbdAddress): string {
  if ('path' in address) return address.path;
  return `${address.host.includes(':') ? `[${address.host}]` : address.host}:${address.port}`;
}

/** A URI that every NBD tool takes as it is. */
export function formatNbdUri(address: NbdAddress, exportName: string): string {
  const name = encodeURIComponent(exportName).replaceAll('%40', '@'); // a path may have it as it is (RFC 3986, 3.3)
  if ('path' in address) return `nbd+unix:///${name}?socket=${encodeURI(address.path).replaceAll('+', '%2B')}`;
  return `nbd://${formatAddress(address)}/${name}`;
}

/**
 * @param uri  `nbd://HOST[:PORT]/NAME` or `nbd+unix:///NAME?socket=PATH`
 * @throws ForelockError USAGE anything else
 */
export function parseNbdUri(uri: string): { address: NbdAddress; exportName: string } {
  const parsed = URL.canParse(uri) ? new URL(uri) : null;
  if (parsed !== null) {
    const exportName = decodeURIComponent(parsed.pathname.replace(/^\//, ''));
    const path = parsed.searchParams.get('socket');
    if (parsed.protocol === 'nbd+unix:' && path) return { address: { path }, exportName };
    if (parsed.protocol === 'nbd:' && parsed.hostname !== '') {
      const host = parsed.hostname.replace(/^\[|\]$/g, '');
      return { address: { host, port: parsed.port === '' ? NBD_PORT_DEFAULT : Number(parsed.port) }, exportName };
    }
  }
  throw new ForelockError(
    'USAGE',
    `${JSON.stringify(uri)} is not an NBD address: nbd://HOST[:PORT]/NAME or nbd+unix:///NAME?socket=PATH`,
  );
}

export function connectTo(address: NbdAddress): Socket {
  return 'path' in address ? connect({ path: address.path }) : connect({ host: address.host, port: address.port });
}

/**
 * Removes what a crashed server left at a unix socket's path; a socket that somebody answers on is not touched.
 *
 * @throws ForelockError CONFIG somebody listens there, or it is no socket
 */
export async function removeStaleSocket(path: string): Promise<void> {
  const found = await lstat(path).catch(() => null);
  if (found === null) return;
  if (!found.isSocket()) throw new ForelockError('CONFIG', `${path} exists and is not a socket`);
  const answered = await new Promise<boolean>((resolve) => {
    const probe = connect({ path });
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    // any other error (EACCES, EAGAIN of a full backlog) may come from a server that lives
    probe.once('error', (error: NodeJS.ErrnoException) => {
      resolve(error.code !== 'ECONNREFUSED' && error.code !== 'ENOENT');
    });
  });
  if (answered) throw new ForelockError('CONFIG', `${path} is the socket of another server`);
  await unlink(path).catch(() => undefined);
}
