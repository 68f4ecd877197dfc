"""curves with a drop -> whether half of the checkpoints show it as well, whichever half."""

from collections.abc import Sequence

import numpy as np

from discreteness.analysis.fits import MIN_POINTS, Fits, fit, octaves

SAME_DROP_OCTAVES = 0.5
"""Distance from the main drop's time at which a drop of a half is the same one."""


def stable(losses: np.ndarray, steps: Sequence[int] | np.ndarray, fits: Fits) -> np.ndarray:
    """bool [n]: the main drop is there, at the same time, in the even checkpoints alone and in the odd ones alone.

    `losses` [n, steps], and their fits. False where there is no drop, and in plans whose halves are too short to fit.
    """
    at = np.asarray(steps)
    found = fits.is_drop.copy()
    with_drop = np.flatnonzero(found)
    if not len(with_drop) or len(at) // 2 < MIN_POINTS:
        return np.zeros(len(found), bool)
    time = octaves(fits.time[with_drop], fits.origin[with_drop])
    for half in (slice(0, None, 2), slice(1, None, 2)):
        again = fit(losses[with_drop, half], at[half])
        times = octaves(np.where(again.drops, again.times, 0.0), fits.origin[with_drop, None])
        near = again.drops & (np.abs(times - time[:, None]) <= SAME_DROP_OCTAVES)
        found[with_drop] &= near.any(axis=1)
    return found
