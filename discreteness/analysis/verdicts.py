"""curves of one document -> their fits, judged by the evidence that this dataset asks for, and how well drops hold.

A drop is *stable* if the even and the odd checkpoints, fitted apart, both have it (`stability`), and *common* if it is
gone when the part that all tokens share is taken out (`common`).
"""

from dataclasses import dataclass, replace

import numpy as np

from discreteness.analysis import stability
from discreteness.analysis.common import MIN_TOKENS, keeps_main_drop, without_common
from discreteness.analysis.fits import MIN_POINTS, Fits, fit

SAME_OCTAVES = 0.25
"""A drop is the main one still if it is this near, or nearer than the standard error of its time."""


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What all curves are judged by.

    - `evidence`: the least delta_bic of a drop.
    - `num_tokens`: in the whole dataset.
    - `means`: float64 [seeds, steps], the mean of all tokens in each seed, nats.
    """

    evidence: float
    num_tokens: int
    means: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """Of n curves. `stable`, `common`: float64 [n], 1 or 0; nan where there is no drop or no way to tell."""

    fits: Fits
    stable: np.ndarray
    common: np.ndarray


def judged(fits: Fits, evidence: float) -> Fits:
    """Fits in which only what has so much evidence is a drop; the main falls stay the same."""
    drops = fits.drops & (fits.delta_bic >= evidence)[:, None]
    none = np.asarray(~drops.any(axis=1))
    time_error, width_error, height_error = (
        np.where(none, np.nan, errors) for errors in (fits.time_error, fits.width_error, fits.height_error)
    )
    return replace(
        fits,
        drops=drops,
        is_drop=~none,
        num_drops=drops.sum(axis=1),
        fall_in_drops=np.where(none, 0.0, fits.fall_in_drops),
        time_error=time_error,
        width_error=width_error,
        height_error=height_error,
    )


def verdicts(losses: np.ndarray, steps: np.ndarray, basis: Basis) -> Verdicts:
    """`losses` [tokens, seeds, steps]; the curves are in order of token, then of seed."""
    curves = losses.reshape(-1, len(steps))
    fits = judged(fit(curves, steps), basis.evidence)
    stable, common = np.full((2, len(curves)), np.nan)
    places = np.flatnonzero(fits.is_drop)
    if len(places):
        dropped, mine = curves[places], fits[places]
        if len(steps) >= 2 * MIN_POINTS:
            stable[places] = stability.stable(dropped, steps, mine)
        if basis.num_tokens >= MIN_TOKENS:
            left = without_common(dropped, basis.means[places % losses.shape[1]], basis.num_tokens, steps)
            again = judged(fit(left, steps), basis.evidence)
            within = np.maximum(SAME_OCTAVES, np.nan_to_num(mine.time_error))
            common[places] = ~keeps_main_drop(mine, again, within)
    return Verdicts(fits=fits, stable=stable, common=common)
