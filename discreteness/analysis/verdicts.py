"""curves of one document -> their fits, judged by the evidence that this dataset asks for, and how well drops hold.

A drop is *stable* if the even and the odd checkpoints, fitted apart, both have it (`stability`), and *common* if it is
gone when the part that all tokens share is taken out (`common`).
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from discreteness.analysis.common import MIN_TOKENS, without_common
from discreteness.analysis.fits import MIN_POINTS, Fits, fit, pooled_noise
from discreteness.analysis.noise import Noise
from discreteness.analysis.same_drop import keeps_main_drop
from discreteness.analysis.stability import HALVES
from discreteness.analysis.stability import stable as stable_drops


@dataclass(frozen=True, kw_only=True)
class DatasetNoise:
    """Of all curves of a dataset, so that no verdict depends on which of them are fitted together.

    - `halves`: at the even checkpoints alone and at the odd ones alone; None where these are too few to fit.
    """

    whole: Noise
    halves: tuple[Noise | None, Noise | None]

    @classmethod
    def of(cls, losses: np.ndarray, steps: np.ndarray) -> Self:
        """`losses` [n, steps], of a sample."""
        even, odd = (
            pooled_noise(losses[:, half], steps[half]) if len(steps) >= 2 * MIN_POINTS else None for half in HALVES
        )
        return cls(whole=pooled_noise(losses, steps), halves=(even, odd))


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What all curves of a dataset are judged by.

    - `noise`: how it changes along the run.
    - `evidence`: the least delta_bic of a drop.
    - `num_tokens`: in the whole dataset.
    - `means`: float64 [seeds, steps], the mean of all tokens in each seed, nats.
    """

    noise: DatasetNoise
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
    fits = judged(fit(curves, steps, basis.noise.whole), basis.evidence)
    stable, common = np.full((2, len(curves)), np.nan)
    places = np.flatnonzero(fits.is_drop)
    if len(places):
        dropped, mine = curves[places], fits[places]
        if len(steps) >= 2 * MIN_POINTS:
            stable[places] = stable_drops(dropped, steps, mine, basis.noise.halves)
        if basis.num_tokens >= MIN_TOKENS:
            left = without_common(dropped, basis.means[places % losses.shape[1]], basis.num_tokens, steps)
            again = judged(fit(left, steps, basis.noise.whole), basis.evidence)
            common[places] = ~keeps_main_drop(mine, again)
    return Verdicts(fits=fits, stable=stable, common=common)
