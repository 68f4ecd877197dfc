"""All drops of each token in each seed: what every question about several seeds begins with."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa

from discreteness.analysis.fits import Fits, octaves


@dataclass(frozen=True, kw_only=True)
class SeedDrops:
    """- Arrays are [tokens, seeds, drops], nan in the same places: where a curve has fewer drops than the last axis.
    - `highs`: [tokens, seeds], nan where the curve has no drop.
    """

    times: np.ndarray
    """Octaves, log2(step / origin + 1)."""
    widths: np.ndarray
    """Octaves."""
    falls: np.ndarray
    """Nats."""
    errors: np.ndarray
    """Standard errors of the times, octaves; at most the drop's width, beyond which a curvature says nothing."""
    highs: np.ndarray
    """Nats: the lowest level before the main drop, of the fitted curve."""
    origin: float
    """Updates: the first step after 0."""

    @classmethod
    def of_fits(cls, fits: Fits, num_seeds: int) -> Self:
        """`fits`: of curves in order of token, then of seed."""
        main = fits.time, fits.width, fits.high, fits.low, fits.time_error
        return cls._of(num_seeds, fits.is_drop, fits.origin, main, fits.drops, (fits.times, fits.widths, fits.falls))

    @classmethod
    def of_table(cls, fits: pa.Table, num_seeds: int) -> Self:
        """`fits`: the table of an analysis."""
        main = tuple(
            fits[name].to_numpy(zero_copy_only=False).astype(np.float64)
            for name in ("time", "width", "high", "low", "time_error")
        )
        is_drop = fits["is_drop"].to_numpy(zero_copy_only=False)
        terms = tuple(_padded(fits[name]) for name in ("times", "widths", "falls"))
        return cls._of(num_seeds, is_drop, fits["origin"].to_numpy(), main, _padded(fits["drops"]) == 1, terms)

    @classmethod
    def _of(
        cls,
        num_seeds: int,
        is_drop: np.ndarray,
        origins: np.ndarray,
        main: tuple[np.ndarray, ...],
        drops: np.ndarray,
        terms: tuple[np.ndarray, ...],
    ) -> Self:
        """`main`: time, width, high, low, time_error [curves]; `terms`: times, widths, falls [curves, terms]."""
        origin = float(origins[0]) if len(origins) else 1.0
        time, width, high, low, error = main
        time = octaves(np.maximum(time, 0), origin)
        times = np.where(drops, octaves(np.maximum(np.nan_to_num(terms[0]), 0), origin), np.nan)
        widths, falls = (np.where(drops, values, np.nan) for values in terms[1:])

        # The main drop is described as a whole, even if several terms draw it.
        rows = np.flatnonzero(is_drop)
        place = np.where(drops, np.abs(times - time[:, None]), np.inf).argmin(axis=1)[rows]
        times[rows, place], widths[rows, place], falls[rows, place] = time[rows], width[rows], (high - low)[rows]

        # In white noise the error of a step's place goes with sqrt(width) / height: so those of the others are scaled.
        scale = np.sqrt(widths / width[:, None]) * (high - low)[:, None] / falls
        errors = np.minimum(error[:, None] * scale, widths)

        def by_seed(values: np.ndarray) -> np.ndarray:
            return values.reshape(-1, num_seeds, *values.shape[1:])

        return cls(
            times=by_seed(times),
            widths=by_seed(widths),
            falls=by_seed(falls),
            errors=by_seed(errors),
            highs=by_seed(np.where(is_drop, high, np.nan)),
            origin=origin,
        )

    @property
    def fell(self) -> np.ndarray:
        """bool [tokens, seeds]: there is a drop."""
        return np.isfinite(self.highs)


def _padded(lists: pa.ChunkedArray) -> np.ndarray:
    """n lists -> float64 [n, longest], nan where there is no more."""
    joined = lists.combine_chunks()
    counts = joined.value_lengths().to_numpy()
    there = np.arange(max(1, counts.max(initial=0))) < counts[:, None]
    values = np.full(there.shape, np.nan)
    values[there] = joined.flatten().to_numpy(zero_copy_only=False)
    return values
