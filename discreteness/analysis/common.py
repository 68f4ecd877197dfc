"""curves + the mean over all tokens -> what is left of each curve without the part that all share.

A fall that most tokens have at the same moment is the recipe's, or one batch's, and not a token's. Nearly all curves
fall, so what two of them share is not that they do: curve and mean are taken less their own local averages, and then
one is regressed on the other (Frisch & Waugh 1933).
"""

from collections.abc import Sequence

import numpy as np

from discreteness.analysis.fits import Fits, octaves

MIN_TOKENS = 2
"""A token alone shares nothing with others."""
_AVERAGED_OCTAVES = 1.5
"""Standard deviation of the weights of a local average: a sudden fall is 3.8 octaves wide in it, and no drop."""
_GRID_OCTAVES = 0.125
"""Local averages are taken so far apart, and interpolated."""


def without_common(
    losses: np.ndarray, means: np.ndarray, num_tokens: int, steps: Sequence[int] | np.ndarray
) -> np.ndarray:
    """`losses` [n, steps] less what they share with the mean of the `num_tokens` - 1 other tokens, float64.

    `means` [n, steps]: the mean over all tokens, this one too, in each curve's seed. All are in nats. A checkpoint counts
    by the octaves that it stands for, so that the last octave of a dense plan does not outvote the rest.
    """
    weights = np.gradient(octaves(steps))
    sharp = losses - _local_averages(losses, weights, steps)
    others = (num_tokens * means - losses) / (num_tokens - 1)
    others -= _local_averages(others, weights, steps)
    power = (weights * others**2).sum(axis=1)
    slopes = (weights * others * sharp).sum(axis=1) / np.where(power > 0, power, 1.0)
    return losses - slopes[:, None] * others


def _local_averages(losses: np.ndarray, weights: np.ndarray, steps: Sequence[int] | np.ndarray) -> np.ndarray:
    """[n, steps], by a Gaussian kernel in octaves (Nadaraya 1964, Watson 1964)."""
    x = octaves(steps)
    grid = np.arange(x[0], x[-1] + _GRID_OCTAVES, _GRID_OCTAVES)
    kernel = weights * np.exp(-0.5 * ((grid[:, None] - x) / _AVERAGED_OCTAVES) ** 2)
    kernel /= kernel.sum(axis=1, keepdims=True)
    between = np.stack([np.interp(x, grid, place) for place in np.eye(len(grid))])
    return (losses @ kernel.T) @ between


def keeps_main_drop(fits: Fits, again: Fits, within: np.ndarray | float) -> np.ndarray:
    """bool [n]: whether fits `again`, of changed curves, have a drop within so many octaves of the main one."""
    times = np.where(again.drops, again.times, np.inf)
    distances = np.abs(octaves(times) - octaves(np.where(fits.is_drop, fits.time, 0.0))[:, None])
    return fits.is_drop & (distances <= np.asarray(within)[..., None]).any(axis=1)
