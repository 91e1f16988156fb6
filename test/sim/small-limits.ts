/**
 * Limits of production, divided by 16 and more: so that rings wrap, segments turn and credit runs out within a few
 * hundred writes. What runs a world puts them in the place of src/limits.ts.
 */
export const SMALL_LIMITS = {
  SEGMENT_SIZE_MIN: 128 * 1024,
  FRAME_SIZE_MAX: 16 * 1024,
  LINK_BUFFER_MAX: 64 * 1024,
  APPEND_SIZE_MAX: 48 * 1024,
  SYNC_BYTES_MAX: 256 * 1024,
  CREDIT_BYTES: 192 * 1024,
  DROP_BYTES_MAX: 48 * 1024,
  LOCK_WAIT_MS_MAX: 3000,
  LOST_TAIL_WAIT_MS: 700,
  SPLIT_WAIT_MS: 1500,
  SPLIT_LEASE_MS: 1100,
  PEER_STALL_MS: 2500,
  SHUN_MS_MIN: 2000,
  SHUN_MS_MAX: 10_000,
};
