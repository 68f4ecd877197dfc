"""Residuals of many curves -> how the noise changes along the run, and how much of it neighbouring bins share."""

from dataclasses import dataclass
from typing import Self

import numpy as np

_SMOOTHING = 1.0
"""Octaves over which the noise of neighbouring bins is averaged (standard deviation)."""
_PRIOR = 200.0
"""Residuals that must disagree before the noise is taken from them and not from the number of checkpoints alone."""
_LARGEST = 16.0
"""Squares beyond this many typical ones are misfits, not noise."""
_MAX_SHARED = 0.95


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Of all curves, up to a factor for each: an autoregressive process of order 1 with a level of its own at each bin."""

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


def noise_by_time(
    residuals: np.ndarray, x: np.ndarray, expected: np.ndarray, absorbed: np.ndarray, floor: np.ndarray
) -> Noise:
    """From the residuals [n, bins] of the most flexible fits, at octaves `x` [bins].

    - `expected` [bins]: variances that are known beforehand.
    - `absorbed` [2, n, bins]: of each curve the share of the noise that the fit took for shape, and of its product with
      that of the bin before: the hat matrix of the fit, on and next to its diagonal.
    - `floor` [n]: variances below which residuals are no noise.

    Curves may have different levels of noise: each counts alike. What the residuals say is averaged over curves and
    about an octave, and it counts the more the more of them there are.
    """
    standard = residuals / np.sqrt(expected)
    typical = np.median(standard**2, axis=1, keepdims=True) / 0.455  # the median of a squared Gaussian number
    standard /= np.sqrt(np.maximum(typical, floor[:, None] + 1e-300))
    standard = np.clip(standard, -np.sqrt(_LARGEST), np.sqrt(_LARGEST))
    kernel = np.exp(-0.5 * ((x[:, None] - x) / _SMOOTHING) ** 2)

    squares, room = (standard**2).sum(axis=0), (1 - absorbed[0]).sum(axis=0)
    found = (kernel @ squares + _PRIOR) / (kernel @ room + _PRIOR)
    level = np.sqrt(found)
    products = (standard[:, 1:] * standard[:, :-1] / (level[1:] * level[:-1]) + absorbed[1][:, 1:]).sum(axis=0)
    products = np.concatenate([[0.0], products])
    shared = (kernel @ products) / (kernel[:, 1:].sum(axis=1) * len(standard) + _PRIOR)
    shared[0] = 0.0
    return Noise.of(expected * found, np.clip(shared, 0, _MAX_SHARED))
