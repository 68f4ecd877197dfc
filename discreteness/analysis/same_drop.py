"""fits of a curve and of what was changed about it -> whether the main drop is still there, at the same time."""

import numpy as np

from discreteness.analysis.fits import Fits, octaves

SAME_OCTAVES = 0.25
"""Two drops are the same if they are this near, or within twice the standard error of the main one's time."""


def keeps_main_drop(fits: Fits, again: Fits) -> np.ndarray:
    """bool [n]: whether fits `again`, of the changed curves, have a drop where `fits` have the main one."""
    within = np.maximum(SAME_OCTAVES, 2 * np.nan_to_num(fits.time_error))
    times = octaves(np.where(again.drops, again.times, np.inf), fits.origin[:, None])
    time = octaves(np.where(fits.is_drop, fits.time, 0.0), fits.origin)
    return fits.is_drop & (np.abs(times - time[:, None]) <= within[:, None]).any(axis=1)
