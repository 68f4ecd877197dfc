"""The largest drop of each token in each seed: what every question about several seeds begins with."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa

from discreteness.analysis.fits import Fits, octaves


@dataclass(frozen=True, kw_only=True)
class MainDrops:
    """- Every array is [tokens, seeds].
    - All are nan in the same places: where a seed's curve has no drop.
    """

    times: np.ndarray
    """Octaves, log2(time + 1)."""
    widths: np.ndarray
    """Octaves."""
    falls: np.ndarray
    """Nats."""

    @classmethod
    def of_fits(cls, fits: Fits, num_seeds: int) -> Self:
        """`fits`: of curves in order of token, then of seed."""
        return cls._of(num_seeds, fits.is_drop, fits.time, fits.width, fits.high, fits.low)

    @classmethod
    def of_table(cls, fits: pa.Table, num_seeds: int) -> Self:
        """`fits`: the table of an analysis."""
        names = ("is_drop", "time", "width", "high", "low")
        return cls._of(num_seeds, *(fits[name].to_numpy() for name in names))

    @classmethod
    def _of(
        cls,
        num_seeds: int,
        is_drop: np.ndarray,
        time: np.ndarray,
        width: np.ndarray,
        high: np.ndarray,
        low: np.ndarray,
    ) -> Self:
        def by_seed(values: np.ndarray) -> np.ndarray:
            return np.where(is_drop, values, np.nan).reshape(-1, num_seeds)

        return cls(times=by_seed(octaves(np.maximum(time, 0))), widths=by_seed(width), falls=by_seed(high - low))
