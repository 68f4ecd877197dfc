"""sums per document, or per seed -> a ratio of sums and its 95 % interval by a cluster bootstrap.

Tokens of a document resemble each other, and so do the seeds of a token: whole documents, or whole seeds, are drawn
again with replacement (Efron 1979; clusters: Cameron, Gelbach & Miller 2008), never single curves.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MIN_GROUPS = 5
"""Fewer documents, or seeds, do not say how much others would differ."""
_RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """`value`: nan where there is nothing to measure. `low`, `high`: nan where there are too few groups to say."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """As plain numbers: "0.33 (0.29 to 0.37)"."""
        return self._with_interval(lambda value: format(value, spec or ".2f"), "")

    def _with_interval(self, said: Callable[[float], str], unit: str) -> str:
        if np.isnan(self.value):
            return "not measured"
        return f"{said(self.value)}{unit}" + ("" if np.isnan(self.low) else f" ({said(self.low)} to {said(self.high)})")


@dataclass(frozen=True, kw_only=True)
class Share(Estimate):
    def __format__(self, spec: str) -> str:
        """As percentages: "33 % (29 to 37)"."""
        return self._with_interval(_percent, " %")


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if abs(value) < 0.0995 else f"{100 * value:.0f}"


def without_interval(value: float) -> Share:
    return Share(value=value, low=float("nan"), high=float("nan"))


def share(numerators: np.ndarray, denominators: np.ndarray, groups: np.ndarray) -> Share:
    """sum(numerators) / sum(denominators), with the interval over `groups`; all of one shape, groups of any kind."""
    _, owner = np.unique(groups, return_inverse=True)
    above, below = (
        np.bincount(owner.ravel(), weights=np.asarray(values, np.float64).ravel())
        for values in (numerators, denominators)
    )
    value = above.sum() / below.sum() if below.sum() else np.nan
    if len(above) < MIN_GROUPS or not below.sum():
        return without_interval(float(value))
    drawn = np.random.default_rng(0).multinomial(len(above), np.full(len(above), 1 / len(above)), _RESAMPLES)
    bottoms = drawn @ below
    ratios = (drawn @ above)[bottoms != 0] / bottoms[bottoms != 0]
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Share(value=float(value), low=float(low), high=float(high))


def mean(values: np.ndarray, groups: np.ndarray) -> Estimate:
    """Of `values` [n], with the interval over `groups` [n]."""
    found = share(values, np.ones(len(values)), groups)
    return Estimate(value=found.value, low=found.low, high=found.high)
