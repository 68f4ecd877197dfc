"""curves + their fits -> of a single curve: when it was acquired, how it varies at the end, and what was forgotten.

The questions are those of Chang & Bergen (arXiv 2110.02406) and Chang, Tu & Bergen (arXiv 2308.15419), who take one
fitted sigmoid, or a generalized additive model, where we take our fits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from discreteness.analysis.fits import Fits, octaves

LAST_SHARE = 0.25
"""Of the updates: the end of a run, in which its variability is measured."""
MIN_LAST = 3
"""Checkpoints in it; fewer say nothing."""
_CHUNK = 512
"""Curves drawn at once."""


@dataclass(frozen=True, kw_only=True)
class CurveMeasures:
    """Of n curves, each [n]; nan where there is nothing to measure."""

    acquired: np.ndarray
    """Updates: `acquired`."""
    variability: np.ndarray
    """Nats: `variability`."""
    forgotten: np.ndarray
    """Nats: `forgotten`."""

    @classmethod
    def of(cls, losses: np.ndarray, steps: Sequence[int], fits: Fits, chance: float) -> Self:
        """`losses` [n, steps] and their fits; `chance`: loss of the untrained model, nats, nan if not recorded."""
        parts = []
        for start in range(0, len(losses), _CHUNK):
            fitted = fits[start : start + _CHUNK].curve(steps)
            parts.append((acquired(fitted, steps, chance), forgotten(fitted)))
        when, lost = (np.concatenate([np.zeros(0), *column]) for column in zip(*parts, strict=True))
        return cls(acquired=when, variability=variability(losses, steps), forgotten=lost)


NAMES = tuple(field.name for field in fields(CurveMeasures))


def acquired(fitted: np.ndarray, steps: Sequence[int], chance: float) -> np.ndarray:
    """Age of acquisition [n] of fitted curves [n, steps], in updates, interpolated in octaves: when each first falls to
    half way between `chance` and its own lowest value. Nan where it is never below `chance`.
    """
    x, lowest = octaves(steps), fitted.min(axis=1)
    level = (chance + lowest) / 2
    after = (fitted <= level[:, None]).argmax(axis=1)
    before, rows = np.maximum(after - 1, 0), np.arange(len(fitted))
    high, low = fitted[rows, before], fitted[rows, after]
    share = np.where(high > low, (high - level) / np.where(high > low, high - low, 1), 0)
    times = 2 ** (x[before] + share * (x[after] - x[before])) - 1
    return np.where(lowest < chance, np.where(after == 0, x[0], times), np.nan)


def variability(losses: np.ndarray, steps: Sequence[int]) -> np.ndarray:
    """Within-run variability [n] of curves [n, steps]: standard deviation over the checkpoints in the last LAST_SHARE
    of the updates, nats; nan if they are fewer than MIN_LAST.
    """
    last = np.array(steps) >= (1 - LAST_SHARE) * steps[-1]
    if last.sum() < MIN_LAST:
        return np.full(len(losses), np.nan)
    return losses[:, last].std(axis=1, dtype=np.float64)


def forgotten(fitted: np.ndarray) -> np.ndarray:
    """Forgettability [n] of fitted curves [n, steps]: all that they rise, nats."""
    return np.maximum(np.diff(fitted, axis=1), 0).sum(axis=1)
