// numbers -> what NumPy would say of them: numpy.median, numpy.histogram. Of no numbers there is no median: NaN.

export function median(values) {
  const sorted = Float64Array.from(values).sort();
  const upper = sorted.length >> 1;
  return sorted.length % 2 ? sorted[upper] : (sorted[upper - 1] + sorted[upper]) / 2;
}

// Counts in `bins` equal bins, of which the last one holds its upper edge too.
export function histogram(values, bins, low, high) {
  const counts = new Array(bins).fill(0);
  const width = (high - low) / bins;
  const edges = Array.from({ length: bins + 1 }, (_, bin) => (bin < bins ? low + bin * width : high));
  for (const value of values) {
    let bin = Math.min(bins - 1, Math.floor(((value - low) / (high - low)) * bins));
    // The division may round across an edge.
    if (value < edges[bin]) bin--;
    else if (bin < bins - 1 && value >= edges[bin + 1]) bin++;
    counts[bin]++;
  }
  return { counts, edges };
}
