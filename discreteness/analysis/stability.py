"""curves with a drop -> whether half of the checkpoints show it as well, whichever half."""

from collections.abc import Sequence

import numpy as np

from discreteness.analysis.fits import MIN_POINTS, Fits, fit
from discreteness.analysis.noise import Noise
from discreteness.analysis.same_drop import keeps_main_drop

HALVES = (slice(0, None, 2), slice(1, None, 2))
"""Of the checkpoints: the even ones and the odd ones."""


def stable(
    losses: np.ndarray,
    steps: Sequence[int] | np.ndarray,
    fits: Fits,
    noises: Sequence[Noise | None] = (None, None),
) -> np.ndarray:
    """bool [n]: the main drop is there, at the same time, in the even checkpoints alone and in the odd ones alone.

    `losses` [n, steps], their fits, and the noise of each half if it is known. False where there is no drop, and in
    plans whose halves are too short to fit.
    """
    at = np.asarray(steps)
    found = fits.is_drop.copy()
    with_drop = np.flatnonzero(found)
    if not len(with_drop) or len(at) < 2 * MIN_POINTS:
        return np.zeros(len(found), bool)
    for half, noise in zip(HALVES, noises, strict=True):
        again = fit(losses[with_drop, half], at[half], noise)
        found[with_drop] &= keeps_main_drop(fits[with_drop], again)
    return found
