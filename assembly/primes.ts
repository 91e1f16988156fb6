/** The primes of the xxHash family (doc/xxhash_spec.md). */
export const PRIME32_1: u64 = 0x9e3779b1;
export const PRIME32_2: u64 = 0x85ebca77;
export const PRIME32_3: u64 = 0xc2b2ae3d;
export const PRIME64_1: u64 = 0x9e3779b185ebca87;
export const PRIME64_2: u64 = 0xc2b2ae3d27d4eb4f;
export const PRIME64_3: u64 = 0x165667b19e3779f9;
export const PRIME64_4: u64 = 0x85ebca77c2b2ae63;
export const PRIME64_5: u64 = 0x27d4eb2f165667c5;
