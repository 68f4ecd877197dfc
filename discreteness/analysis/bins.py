"""checkpoints -> bins of log step: what is near is averaged, and averages of many checkpoints are known better."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from discreteness.analysis.sigmoids import WIDTH_OF_VARIANCE

BINS_PER_OCTAVE = 16
"""Checkpoints closer than this are averaged, so that the last octave of a dense plan does not outvote the others."""
_ROWS = 256
"""Averaged at once: their intermediate arrays stay near the size of a cache."""


@dataclass(frozen=True, kw_only=True)
class Bins:
    """- `x`: float64 [bins], octaves of each bin's mean.
    - `counts`: [bins], checkpoints in each.
    - `spreads`: [bins], variance of octaves in each.
    """

    x: np.ndarray
    counts: np.ndarray
    spreads: np.ndarray

    @classmethod
    def of(cls, octaves: np.ndarray) -> Self:
        """Of checkpoints at `octaves`, ascending."""
        _, owner = np.unique(np.floor(octaves * BINS_PER_OCTAVE), return_inverse=True)
        counts = np.bincount(owner)
        means = np.bincount(owner, weights=octaves) / counts
        return cls(x=means, counts=counts, spreads=np.bincount(owner, weights=(octaves - means[owner]) ** 2) / counts)

    @property
    def variances(self) -> np.ndarray:
        """[bins] of each bin's mean, where that of a checkpoint is 1.

        Noise of neighbouring checkpoints is partly shared: an average of k is better than one, but not k times better.
        """
        return 1 / np.sqrt(self.counts)

    def means(self, values: np.ndarray) -> np.ndarray:
        """[n, checkpoints] of any real dtype -> float64 [n, bins]."""
        starts = np.cumsum(self.counts) - self.counts
        parts = [
            np.add.reduceat(values[row : row + _ROWS], starts, axis=1, dtype=np.float64)
            for row in range(0, max(1, len(values)), _ROWS)
        ]
        return np.concatenate(parts) / self.counts

    def unsmeared(self, widths: np.ndarray, centers: np.ndarray) -> np.ndarray:
        """The widths that the checkpoints have: averages over bins are wider."""
        bins = np.minimum(np.searchsorted(self.x, np.nan_to_num(centers)), len(self.x) - 1)
        squares = widths**2 - WIDTH_OF_VARIANCE * self.spreads[bins]
        # None is called sharper than a third of what was fitted: the average says no more.
        return np.sqrt(np.maximum(squares, (widths / 3) ** 2))
