"""Shapes that a loss curve is made of, on an axis of octaves: sigmoids, and falls with a corner or a long tail.

One family has them all (Burr 1942): 1 / (1 + tail * z) ** (1 / tail), where log z is linear in octaves.

- `tail` 1 is the logistic function; 0 the exponential relaxation exp(-z), compressed or stretched by its width.
- A tail of 2 and more is flat, has a corner, and then is a power law: at 16, the corner is sharp.
- A power law with a knee, (1 + z) ** -power, has the tail 1 / power and the width that follows from it.
"""

import numpy as np

TAILS = (0.0, 0.25, 1.0, 4.0, 16.0)
"""Shapes of smooth falls, from the one that ends the most suddenly to the one that begins the most suddenly."""
LOGISTIC = TAILS.index(1.0)
"""The tail, as an index into TAILS, of every term of a fit."""

_NEARLY_ZERO = 1e-6
_TAILS = np.maximum(TAILS, _NEARLY_ZERO)
# Of each tail: log z where half of the fall is done, and the change of log z from 10 % to 90 % of the fall.
_LOG_HALF = np.log((0.5**-_TAILS - 1) / _TAILS)
_LOG_SPAN = np.log((0.1**-_TAILS - 1) / (0.9**-_TAILS - 1))
SQUARE_WIDTH = float(_LOG_SPAN[0] / np.log(2) / 2)
"""2.23 octaves: the width of exp(-(step / knee) ** 2), relaxation at a rate that grows in proportion to time."""

WIDTH_OF_VARIANCE = float(_LOG_SPAN[LOGISTIC] ** 2 / (np.pi**2 / 3))
"""The square of a logistic function's width, per variance of its derivative."""


def falling(
    x: np.ndarray, centers: np.ndarray, widths: np.ndarray, tails: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Shapes that fall from 1 to 0 [n, k, bins], and minus their derivatives by (x - center) / width.

    `x` [bins] or broadcastable. [n, k]: `centers`, octaves at half of the fall; `widths`, octaves from 90 % to 10 %;
    `tails`, indices into TAILS, all LOGISTIC if there are none.
    """
    scaled = (x - centers[:, :, None]) / widths[:, :, None]
    if tails is None:
        span = _LOG_SPAN[LOGISTIC]
        values = 0.5 - 0.5 * np.tanh(0.5 * span * scaled)
        return values, span * values * (1 - values)
    tail, span, half = _TAILS[tails][:, :, None], _LOG_SPAN[tails][:, :, None], _LOG_HALF[tails][:, :, None]
    z = np.exp(np.minimum(half + span * scaled, 600.0))
    values = np.exp(np.log1p(tail * z) / -tail)
    return values, span * values * z / (1 + tail * z)


def sigmoids(x: np.ndarray, centers: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Falling logistic functions [n, k, bins]."""
    return falling(x, centers, widths)[0]
