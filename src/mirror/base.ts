/** A place in the order of the base copy: by volume number, then block address. */
export interface BasePosition {
  volume: number;
  lba: number;
}

export function positionBefore(a: BasePosition, b: BasePosition): boolean {
  return a.volume < b.volume || (a.volume === b.volume && a.lba < b.lba);
}

/**
 * Where a copy goes on behind a place: each block of each volume comes, in order, be it as a hole.
 *
 * @param blockCounts by volume number
 * @returns null: nothing is left
 */
export function copyGoesOn(
  { volume, lba }: BasePosition,
  blockCounts: ReadonlyMap<number, number>,
): BasePosition | null {
  if (lba < (blockCounts.get(volume) ?? 0)) return { volume, lba };
  const next = Math.min(...[...blockCounts.keys()].filter((number) => number > volume));
  return next === Number.POSITIVE_INFINITY ? null : { volume: next, lba: 0 };
}
