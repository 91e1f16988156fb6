/**
 * Forelock: a speculative block-volume mirror.
 *
 *     import { Gateway, LibraryVolume } from 'forelock';
 *
 *     const gateway = await Gateway.open({ state, site: 'a', nbd: [], groups: [{ ... }] });
 *     await gateway.ready();
 *     const volume = new LibraryVolume(gateway.volume('disk'));
 */
export { ERROR_CODES, type ErrorCode, ForelockError, LockAbortedError, LockTimeoutError } from './errors.js';
export { LibraryVolume } from './frontend/library/volume.js';
export { NbdClient, type NbdExtent } from './frontend/nbd/client.js';
export { Gateway, type GatewayOptions, type GroupOptions } from './node/gateway.js';
export type { BlockDevice, Completion, DeviceCatalog, DeviceExtent, ReadCompletion } from './volume/device.js';
export type { ExtentBytes, Scope, ScopeOptions } from './volume/scope.js';
export type { Transaction, TransactionOptions } from './volume/transaction.js';
export type { VerifyReport } from './volume/verify.js';
