/** A place in the order of the base copy: by volume number, then block address. */
export interface BasePosition {
  volume: number;
  lba: number;
}

export function positionBefore(a: BasePosition, b: BasePosition): boolean {
  return a.volume < b.volume || (a.volume === b.volume && a.lba < b.lba);
}
