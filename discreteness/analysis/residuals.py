"""fits of a sample -> their residuals, and how much of them all seeds share."""

from collections.abc import Sequence

import numpy as np

from discreteness.analysis.fits import MIN_DELTA_BIC, Fits
from discreteness.analysis.intervals import Share, share, without_interval


def residuals_of(losses: np.ndarray, fits: Fits, steps: Sequence[int] | np.ndarray) -> np.ndarray:
    """`losses` [n, steps] less the curve that the evidence prefers, the smooth one or the one with drops, float64."""
    steep = (fits.delta_bic >= MIN_DELTA_BIC)[:, None]
    return losses - np.where(steep, fits.curve(steps), fits.smooth(steps))


def shared_by_seeds(residuals: np.ndarray, documents: np.ndarray) -> Share:
    """Share of the variance of residuals from one checkpoint to the next that is common to all seeds, with its interval
    over documents; nan for one seed. `residuals` [tokens, seeds, steps]; `documents` [tokens]: which one each is of.

    Differences of neighbouring checkpoints: what is left of a smooth fit's misfit does not count as shared noise. The
    common variance is the mean product of two different seeds, which needs no assumption about the rest.
    """
    num_seeds = residuals.shape[1]
    if num_seeds < 2:
        return without_interval(float("nan"))
    moves = np.diff(residuals, axis=2)
    power = (moves**2).sum(axis=(1, 2)) / num_seeds
    pairs = ((moves.sum(axis=1) ** 2).sum(axis=1) - num_seeds * power) / (num_seeds * (num_seeds - 1))
    return share(pairs, power, documents)
