/** What a few rounds say: the middle and the extremes. */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
}

/** @returns { median, min, max } */
export function spread(values) {
  return { median: median(values), min: Math.min(...values), max: Math.max(...values) };
}

/** Round by round (neighbours in time), then the middle: steadier than a ratio of medians. */
export function ratios(above, below) {
  const count = Math.min(above.length, below.length);
  return spread(Array.from({ length: count }, (_, i) => above[i] / below[i]));
}
