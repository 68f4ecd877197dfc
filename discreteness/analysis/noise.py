"""Residuals of many curves -> how the noise changes along the run, and how much of it neighbouring bins share."""

from dataclasses import dataclass
from typing import Self

import numpy as np

_SMOOTHING = 1.0
"""Octaves over which the noise of neighbouring bins is averaged (standard deviation)."""
_PRIOR = 50.0
"""Residuals that must disagree before the noise is taken from them and not from the number of checkpoints alone."""
_LARGEST = 16.0
"""Squares beyond this many typical ones are misfits, not noise."""
_MAX_SHARED = 0.95
_STEPS = 12
_SHORT = 1e-3
"""Of a fit's largest change by a parameter: one that is shorter moves next to nothing."""
_UNDETERMINED = 1e-6
"""Squared length, of 1, below which the data do not determine a direction."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Of all curves, up to a factor for each: autoregressive of order 1, with a level of its own in each bin."""

    weights: np.ndarray
    """[bins] inverse variances, 1 on average."""
    shared: np.ndarray
    """[bins] correlation with the bin before; 0 at the first."""

    @classmethod
    def of(cls, variances: np.ndarray, shared: np.ndarray | None = None) -> Self:
        """`variances` [bins] in any unit."""
        weights = len(variances) / variances / (1 / variances).sum()
        return cls(weights=weights, shared=np.zeros(len(weights)) if shared is None else shared)

    def whitened(self, values: np.ndarray) -> np.ndarray:
        """Values [..., bins] turned so that their noise is the same in every bin, and independent."""
        standard = values * np.sqrt(self.weights)
        if self.shared.any():
            standard[..., 1:] -= self.shared[1:] * standard[..., :-1]
            standard *= 1 / np.sqrt(1 - self.shared**2)
        return standard


def taken_up_by(jacobians: np.ndarray) -> np.ndarray:
    """Jacobians of fits, whitened [k, parameters, bins] -> what of the noise they take up, as bases Q [k, bins,
    parameters] of Q Q'.

    A fit takes up noise only along what the data determine. Where a term moves without changing a bin, or two terms
    draw the same, directions are left to rounding: an orthonormal basis would name some, and each time others.
    """
    lengths = np.linalg.norm(jacobians, axis=2, keepdims=True)
    unit = jacobians / np.maximum(lengths, _SHORT * lengths.max(axis=1, keepdims=True))
    directions, sizes, _ = np.linalg.svd(unit.transpose(0, 2, 1), full_matrices=False)
    return directions * (sizes / np.sqrt(sizes**2 + _UNDETERMINED))[:, None, :]


def noise_by_time(
    residuals: np.ndarray, x: np.ndarray, expected: np.ndarray, bases: np.ndarray, floor: np.ndarray
) -> Noise:
    """From the residuals [n, bins] of the most flexible fits, at octaves `x` [bins].

    - `expected` [bins]: variances that are known beforehand.
    - `bases` [k, bins, parameters]: what some of the fits take up if the noise is as expected (`taken_up_by`). Slow
      noise looks like shape, and little of it is left in the residuals.
    - `floor` [n]: variances below which residuals are no noise.

    Curves may have different levels of noise: each counts alike. What the residuals say is averaged over curves and
    about an octave, and it counts the more the more of them there are.
    """
    standard = residuals / np.sqrt(expected)
    typical = np.median(standard**2, axis=1, keepdims=True) / 0.455  # the median of a squared Gaussian number
    standard /= np.sqrt(np.maximum(typical, floor[:, None] + 1e-300))
    standard = np.clip(standard, -np.sqrt(_LARGEST), np.sqrt(_LARGEST))
    kernel = np.exp(-0.5 * ((x[:, None] - x) / _SMOOTHING) ** 2)
    weight = kernel.sum(axis=1) * len(standard)

    def smoothed(diagonals: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Variances [bins], and correlations with the bin before."""
        variances, products = np.maximum(diagonals[0], 1e-12), diagonals[1]  # rounded, where nothing is left
        level = kernel @ variances / kernel.sum(axis=1)
        return level, kernel[:, 1:] @ products[1:] / (kernel[:, 1:] @ np.sqrt(variances[1:] * variances[:-1]))

    before = np.roll(standard, 1, axis=1)
    seen_level, seen_shared = smoothed(((standard**2).mean(axis=0), (standard * before).mean(axis=0)))
    # The noise of which the fits would leave as much as they did: by steps in its direction.
    levels, shared = np.ones(len(x)), np.zeros(len(x))
    for _ in range(_STEPS):
        level, correlation = smoothed(_left_by(bases, levels, shared))
        levels = np.clip(levels * seen_level / level, 1e-3, 1e3)
        shared = np.clip(shared + seen_shared - correlation, 0, _MAX_SHARED)
    sure = weight / (weight + _PRIOR)
    shared *= sure
    shared[0] = 0.0
    levels /= np.exp(np.log(levels).mean())
    return Noise.of(expected * levels**sure, shared)


def _left_by(bases: np.ndarray, levels: np.ndarray, shared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variances [bins] of residuals, and their products with those of the bin before, after fits that take up `bases`,
    if the noise is autoregressive with these variances and correlations.
    """
    distance = np.cumsum(-np.log(np.maximum(shared, 1e-6)))
    covariance = np.exp(-np.abs(distance[:, None] - distance)) * np.sqrt(levels[:, None] * levels)
    # (1 - P) C (1 - P) with P = Q Q', on and next to its diagonal: C - P C - C P + P C P, averaged over the fits.
    taken = bases.transpose(0, 2, 1) @ covariance
    both = bases @ (taken @ bases)

    def diagonal(rows: slice, columns: slice) -> np.ndarray:
        once = np.einsum("kip,kpi->i", bases[:, rows], taken[:, :, columns])
        other = np.einsum("kip,kpi->i", bases[:, columns], taken[:, :, rows])
        twice = np.einsum("kip,kip->i", both[:, rows], bases[:, columns])
        return covariance[rows, columns].diagonal() - (once + other - twice) / max(1, len(bases))

    every = slice(None)
    return np.maximum(diagonal(every, every), 1e-12), np.concatenate([[0.0], diagonal(slice(1, None), slice(0, -1))])
