/** Sockets that read into memory of ours: Node's own way gives every read a new buffer of 64 KiB, all of it garbage soon. */
import { type OnReadOpts, Socket } from 'node:net';

/** What is used of a socket's inside. `handle` is an option of net.Socket that its documentation leaves out. */
interface Inside {
  _handle: { useUserBuffer?: unknown } | null;
}

/**
 * The same connection as a socket that reads by `onread` (as `net.connect` has it): the option exists for connecting
 * sockets only. The accepted one must not have been read from, except for what was unread again; it is done with.
 *
 * @returns the accepted socket itself, which emits 'data' instead, where this Node does not have what it takes
 */
export function readingInto(accepted: Socket, onread: OnReadOpts, allowHalfOpen: boolean): Socket {
  const inside = accepted as unknown as Inside;
  const handle = inside._handle;
  if (typeof handle?.useUserBuffer !== 'function') return accepted;
  inside._handle = null;
  accepted.destroy(); // an empty shell
  return new Socket({ handle, allowHalfOpen, onread } as object);
}
