/**
 * Every error a user or a peer can meet has one of these codes. Codes are stable: scripts may match them.
 * A failed assertion (AssertionError) is a bug of ours and has no code.
 */
export const ERROR_CODES = {
  // answers to a host's request
  EINVAL: 'the request is malformed or outside the volume',
  ENOSPC: 'no room for the write: the disk or the journal is full',
  EIO: 'stored data could not be read back correctly',
  EPERM: 'this site may not do that now: a standby, or a read-only view',
  ESHUTDOWN: 'the gateway is stopping, or the view was dropped',
  ETIMEDOUT: 'a bounded wait ended: a lock was not had, or the peer did not answer in time',
  LOCK_ABORTED: 'a scope that aborts on conflict lost to one of the other site: none of its writes stays',
  ENOTSUP: 'not supported for this volume',
  PEER_AWAY: 'the promise needs the peer, which is away, and the policy is to fail',
  // configuration and command line
  USAGE: 'the command line is wrong',
  CONFIG: 'the configuration is wrong',
  // state on disk
  STATE_LOCKED: 'another process uses the state directory',
  STATE_NEWER: 'the state was written by a newer version',
  STATE_CORRUPT: 'the state on disk is damaged',
  STATE_MISMATCH: 'the state on disk is not what the configuration says',
  // between peers
  PEER_PROTOCOL: 'the peer broke the protocol',
  PEER_AUTH: 'the peer did not prove the shared key',
  PEER_REFUSED: 'the two ends do not fit together',
  PEER_TIMEOUT: 'the peer was silent for too long',
  AWAY: 'peer or gateway cannot be reached',
} as const;

export type ErrorCode = keyof typeof ERROR_CODES;

/** An error with a stable code; the message says what, where, and what to do. */
export class ForelockError extends Error {
  readonly code: ErrorCode;
  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'ForelockError';
    this.code = code;
  }
}

/** Why an address cannot be had to listen on, as the system says, and what to do. @param option that names it */
export function whyNotHeard(error: NodeJS.ErrnoException, option: string): string {
  const next: Record<string, string> = {
    EADDRINUSE: `another program listens there: stop it, or give another ${option}`,
    EADDRNOTAVAIL: `this machine has no such address: correct ${option}`,
    ENOTFOUND: `no address is known for that name: correct ${option}`,
    EAI_AGAIN: `the name service does not answer: start again when it does, or give ${option} as an address`,
    EACCES: `the user whom it runs as may not: ports below 1024 are for root, so give another ${option}`,
  };
  const step = next[error.code ?? ''];
  return step === undefined ? error.message : `${error.message}: ${step}`;
}

/** A lock was not had, or not confirmed, within its wait; nested scopes that deadlock end so. Nothing is held. */
export class LockTimeoutError extends ForelockError {
  constructor(message: string) {
    super('ETIMEDOUT', message);
    this.name = 'LockTimeoutError';
  }
}

/** The scope lost to one of the other site: all it wrote is gone at both sites, and so is what its session did on top. */
export class LockAbortedError extends ForelockError {
  constructor(message: string) {
    super('LOCK_ABORTED', message);
    this.name = 'LockAbortedError';
  }
}
