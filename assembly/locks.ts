/**
 * Region table: bit `i & 63` of the u64 word `i >> 6` says whether region i is held.
 *
 * One bit a region, a word a step. `last` is inclusive, so that 2^32 regions fit u32; callers leave out empty ranges.
 */

// @ts-ignore: decorator
@inline
function maskFrom(first: u32): u64 {
  return <u64>-1 << (first & 63);
}

// @ts-ignore: decorator
@inline
function maskTo(last: u32): u64 {
  return <u64>-1 >> (63 - (last & 63));
}

export function lockSet(table: usize, first: u32, last: u32): void {
  let word = table + ((first >> 6) << 3);
  const lastWord = table + ((last >> 6) << 3);
  if (word == lastWord) {
    store<u64>(word, load<u64>(word) | (maskFrom(first) & maskTo(last)));
    return;
  }
  store<u64>(word, load<u64>(word) | maskFrom(first));
  for (word += 8; word != lastWord; word += 8) store<u64>(word, -1);
  store<u64>(word, load<u64>(word) | maskTo(last));
}

export function lockClear(table: usize, first: u32, last: u32): void {
  let word = table + ((first >> 6) << 3);
  const lastWord = table + ((last >> 6) << 3);
  if (word == lastWord) {
    store<u64>(word, load<u64>(word) & ~(maskFrom(first) & maskTo(last)));
    return;
  }
  store<u64>(word, load<u64>(word) & ~maskFrom(first));
  for (word += 8; word != lastWord; word += 8) store<u64>(word, 0);
  store<u64>(word, load<u64>(word) & ~maskTo(last));
}

export function lockQuery(table: usize, first: u32, last: u32): u32 {
  let word = table + ((first >> 6) << 3);
  const lastWord = table + ((last >> 6) << 3);
  if (word == lastWord) return <u32>((load<u64>(word) & maskFrom(first) & maskTo(last)) != 0);
  if ((load<u64>(word) & maskFrom(first)) != 0) return 1;
  for (word += 8; word != lastWord; word += 8) if (load<u64>(word) != 0) return 1;
  return <u32>((load<u64>(word) & maskTo(last)) != 0);
}
