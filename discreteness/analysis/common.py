"""curves + the mean over all tokens -> what is left of each curve without the part that all share.

A fall that most tokens have at the same moment is the recipe's, or one batch's, and not a token's. Curve and mean are
taken less their best smooth curves before one is regressed on the other (Frisch & Waugh 1933), because nearly all
curves fall: what two of them share is what both do besides falling smoothly.
"""

from collections.abc import Sequence

import numpy as np

from discreteness.analysis.fits import Fits, octaves

MIN_TOKENS = 2
"""A token alone shares nothing with others."""


def without_common(
    losses: np.ndarray, smooth: np.ndarray, mean_misfits: np.ndarray, num_tokens: int, steps: Sequence[int] | np.ndarray
) -> np.ndarray:
    """`losses` [n, steps] less what they share with the mean of the `num_tokens` - 1 other tokens, float64.

    `smooth`: their best smooth curves. `mean_misfits` [n, steps]: the mean over all tokens of each curve's seed, less
    its own best smooth curve. All are in nats. A checkpoint counts by the octaves that it stands for, so that the last
    octave of a dense plan does not outvote the rest.
    """
    misfits = losses - smooth
    others = (num_tokens * mean_misfits - misfits) / (num_tokens - 1)
    weights = np.gradient(octaves(steps))
    power = (weights * others**2).sum(axis=1)
    slopes = (weights * others * misfits).sum(axis=1) / np.where(power > 0, power, 1.0)
    return losses - slopes[:, None] * others


def keeps_main_drop(fits: Fits, again: Fits, within: np.ndarray | float) -> np.ndarray:
    """bool [n]: whether fits `again`, of changed curves, have a drop within so many octaves of the main one."""
    distances = np.abs(octaves(again.times) - octaves(fits.time)[:, None])
    return fits.is_drop & (again.drops & (distances <= np.asarray(within)[..., None])).any(axis=1)
