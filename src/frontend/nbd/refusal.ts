/**
 * What is wrong with a request, decided before anything is done for it. First match wins:
 *
 *     the connection is draining                         ESHUTDOWN
 *     command unknown                                    EINVAL
 *     flag unknown, or not for this command              EINVAL
 *     FLUSH with an offset or a size                     EINVAL
 *     BLOCK_STATUS without its context, or of size 0     EINVAL
 *     content refused (a standby): all but FLUSH         EPERM
 *     read-only: WRITE, TRIM, WRITE_ZEROES               EPERM
 *     WRITE larger than NBD_PAYLOAD_MAX                  EINVAL    (its payload is read and thrown away)
 *     past the end: WRITE, WRITE_ZEROES                  ENOSPC
 *     past the end: READ, TRIM, CACHE, BLOCK_STATUS      EINVAL
 *     READ larger than NBD_PAYLOAD_MAX                   EOVERFLOW
 *
 * FUA is accepted on every command. Size 0 is no error otherwise: nothing is done and the reply is a success.
 */
import { NBD_PAYLOAD_MAX } from '../../limits.js';
import type { BlockDevice } from '../../volume/device.js';
import { COMMAND, COMMAND_FLAG, ERRNO, type Errno } from './protocol.js';

export interface Refusal {
  readonly errno: Errno;
  readonly text: string;
}

/** What was negotiated, as far as requests depend on it. */
export interface NegotiatedExport {
  readonly device: BlockDevice;
  readonly structuredReplies: boolean;
  /** `base:allocation` was selected for this export. */
  readonly allocationContext: boolean;
}

export const SHUTTING_DOWN: Refusal = { errno: ERRNO.ESHUTDOWN, text: 'the server is closing this connection' };
const UNKNOWN_COMMAND: Refusal = { errno: ERRNO.EINVAL, text: 'unknown command' };
const UNKNOWN_FLAG: Refusal = { errno: ERRNO.EINVAL, text: 'a flag that this command does not have' };
const FLUSH_RANGE: Refusal = { errno: ERRNO.EINVAL, text: 'a flush has no offset and no size' };
const NO_CONTEXT: Refusal = { errno: ERRNO.EINVAL, text: 'no metadata context was negotiated' };
const EMPTY_STATUS: Refusal = { errno: ERRNO.EINVAL, text: 'the status of no bytes' };
const READ_ONLY: Refusal = { errno: ERRNO.EPERM, text: 'the export is read-only' };
const WRITE_PAST_END: Refusal = { errno: ERRNO.ENOSPC, text: 'past the end of the export' };
const READ_PAST_END: Refusal = { errno: ERRNO.EINVAL, text: 'past the end of the export' };
const WRITE_OVERSIZE: Refusal = { errno: ERRNO.EINVAL, text: `more than ${NBD_PAYLOAD_MAX} bytes in one write` };
const READ_OVERSIZE: Refusal = { errno: ERRNO.EOVERFLOW, text: `more than ${NBD_PAYLOAD_MAX} bytes in one read` };

/** Indexed by command; a hole is an unknown command. */
const FLAGS_ALLOWED: readonly number[] = (() => {
  const allowed: number[] = [];
  for (const command of Object.values(COMMAND)) allowed[command] = COMMAND_FLAG.FUA;
  allowed[COMMAND.READ]! |= COMMAND_FLAG.DF;
  allowed[COMMAND.WRITE_ZEROES]! |= COMMAND_FLAG.NO_HOLE | COMMAND_FLAG.FAST_ZERO;
  allowed[COMMAND.BLOCK_STATUS]! |= COMMAND_FLAG.REQ_ONE;
  return allowed;
})();

/**
 * @param offset  any unsigned 64-bit number; beyond 2^53 it may be rounded, which changes no answer
 * @param size    any unsigned 32-bit number
 * @returns       null when the request may go to the device
 */
export function refusal(
  session: NegotiatedExport,
  command: number,
  flags: number,
  offset: number,
  size: number,
): Refusal | null {
  const allowed = FLAGS_ALLOWED[command];
  if (allowed === undefined) return UNKNOWN_COMMAND;
  if ((flags & ~allowed) !== 0) return UNKNOWN_FLAG;
  if ((flags & COMMAND_FLAG.DF) !== 0 && !session.structuredReplies) return UNKNOWN_FLAG;
  if (command === COMMAND.FLUSH) return offset === 0 && size === 0 ? null : FLUSH_RANGE;
  if (command === COMMAND.BLOCK_STATUS) {
    if (!session.allocationContext) return NO_CONTEXT;
    if (size === 0) return EMPTY_STATUS;
  }
  const device = session.device;
  if (device.contentRefused) return { errno: ERRNO.EPERM, text: `content is refused here: ${device.description}` };
  const writes = command === COMMAND.WRITE || command === COMMAND.TRIM || command === COMMAND.WRITE_ZEROES;
  if (writes && device.readOnly) return READ_ONLY;
  if (command === COMMAND.WRITE && size > NBD_PAYLOAD_MAX) return WRITE_OVERSIZE;
  if (offset > device.size - size) {
    return command === COMMAND.WRITE || command === COMMAND.WRITE_ZEROES ? WRITE_PAST_END : READ_PAST_END;
  }
  if (command === COMMAND.READ && size > NBD_PAYLOAD_MAX) return READ_OVERSIZE;
  return null;
}
