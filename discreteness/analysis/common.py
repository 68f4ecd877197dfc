"""curves + the mean of the other tokens -> what is left of each curve without the sharp part that all share.

A fall that most tokens have at the same moment is the recipe's, or one batch's, and not a token's. Nearly all curves
fall, so what two of them share is not that they do: of the mean, only what its best smooth curve leaves is taken, and
each curve is regressed on that, less its own local averages (after Frisch & Waugh 1933: both without their trends).
"""

from collections.abc import Sequence

import numpy as np

from discreteness.analysis.fits import fit, octaves

MIN_TOKENS = 2
"""A token alone shares nothing with others."""
_AVERAGED_OCTAVES = 1.5
"""Standard deviation of the weights of a local average: a sudden fall is 3.8 octaves wide in it, and no drop."""
_MAX_SLOPE = 2.0
"""Most that a token takes part in what all share, in units of their mean. A fall that is much larger is its own, even
if it comes when the mean does something, too: every mean is a little off its best smooth curve.
"""
_GRID_OCTAVES = 0.125
"""Local averages are taken so far apart, and interpolated."""


def without_common(
    losses: np.ndarray, means: np.ndarray, num_tokens: int, steps: Sequence[int] | np.ndarray
) -> np.ndarray:
    """`losses` [n, steps] less what they share with the mean of the `num_tokens` - 1 other tokens, float64.

    `means` [n, steps]: the mean over all tokens, this one too, in each curve's seed. All are in nats. A checkpoint
    counts by the octaves that it stands for, so that the last octave of a dense plan does not outvote the rest.
    """
    weights = np.gradient(octaves(steps))
    others = (num_tokens * means - losses) / (num_tokens - 1)
    shared = others - fit(others, steps).smooth(steps)
    power = (weights * shared * _less_local_averages(shared, weights, steps)).sum(axis=1)
    slopes = (weights * shared * _less_local_averages(losses, weights, steps)).sum(axis=1)
    slopes = np.clip(slopes / np.where(power > 0, power, np.inf), 0, _MAX_SLOPE)
    return losses - slopes[:, None] * shared


def _less_local_averages(losses: np.ndarray, weights: np.ndarray, steps: Sequence[int] | np.ndarray) -> np.ndarray:
    """[n, steps], by a Gaussian kernel in octaves (Nadaraya 1964, Watson 1964)."""
    x = octaves(steps)
    grid = np.arange(x[0], x[-1] + _GRID_OCTAVES, _GRID_OCTAVES)
    kernel = weights * np.exp(-0.5 * ((grid[:, None] - x) / _AVERAGED_OCTAVES) ** 2)
    kernel /= kernel.sum(axis=1, keepdims=True)
    between = np.stack([np.interp(x, grid, place) for place in np.eye(len(grid))])
    return losses - (losses @ kernel.T) @ between
