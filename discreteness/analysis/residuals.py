"""fits of a sample -> their residuals, how these change along the run, and how much of them all seeds share."""

from collections.abc import Sequence

import numpy as np

from discreteness.analysis.fits import MIN_DELTA_BIC, Fits, octaves
from discreteness.analysis.intervals import Share, share, without_interval

_HALF_WINDOW_OCTAVES = 0.5
"""Levels are averaged over checkpoints that are this near: a single one has its own luck."""
_FLOOR = 0.05
"""Of the largest level: no checkpoint is so exact that nothing else counts."""


def residuals_of(losses: np.ndarray, fits: Fits, steps: Sequence[int] | np.ndarray) -> np.ndarray:
    """`losses` [n, steps] less the curve that the evidence prefers, the smooth one or the one with drops, float64."""
    steep = (fits.delta_bic >= MIN_DELTA_BIC)[:, None]
    return losses - np.where(steep, fits.curve(steps), fits.smooth(steps))


def levels(residuals: np.ndarray, steps: Sequence[int] | np.ndarray) -> np.ndarray:
    """The level at each checkpoint, float64 [steps], in units of its own mean; `residuals` [n, steps], nats.

    Every curve counts the same: each has a level of its own, and only their common course is wanted.
    """
    power = (residuals**2).mean(axis=1, keepdims=True)
    course = (residuals**2 / np.where(power > 0, power, 1.0)).mean(axis=0)
    x = octaves(steps)
    near = np.abs(x[:, None] - x) <= _HALF_WINDOW_OCTAVES
    level = np.sqrt(near @ course / near.sum(axis=1))
    return np.maximum(level, _FLOOR * level.max()) / level.mean() if level.any() else np.ones(len(x))


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
