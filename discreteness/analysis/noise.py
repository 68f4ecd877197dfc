"""Residuals of many curves -> how the noise changes along the run, and how much of it neighbouring bins share."""

import numpy as np

_SMOOTHING = 1.0
"""Octaves over which the noise of neighbouring bins is averaged (standard deviation)."""
_PRIOR = 200.0
"""Residuals that must disagree before the noise is taken from them and not from the number of checkpoints alone."""
_LARGEST = 16.0
"""Squares beyond this many typical ones are misfits, not noise."""


def noise_by_time(residuals: np.ndarray, x: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Variance of a bin's noise by time, relative to that of the same curve at other times [bins].

    `residuals` [n, bins] of the most flexible fits; `expected` [bins], variances that are known beforehand. Curves may
    have different levels of noise: each counts alike. What the residuals say is averaged over curves and about an
    octave, and it counts the more the more of them there are.
    """
    squares = residuals**2 / expected
    typical = np.median(squares, axis=1, keepdims=True) / 0.455  # the median of a squared Gaussian number
    squares = np.minimum(squares / np.maximum(typical, 1e-300), _LARGEST)
    kernel = np.exp(-0.5 * ((x[:, None] - x) / _SMOOTHING) ** 2)
    found = (kernel @ squares.sum(axis=0) + _PRIOR) / (kernel.sum(axis=1) * len(squares) + _PRIOR)
    relative = expected * found
    return relative / relative.mean()
