"""losses of a token over seeds, at each checkpoint -> whether they are in two groups, and how far apart.

Two normal distributions of one width are weighed against a single one by the ratio of their likelihoods. What this
ratio is by chance is known from normal samples, since it depends on neither mean nor width: one table, a parametric
bootstrap, serves all tokens. (Its usual chi-squared law does not hold: McLachlan 1987.)

- A skewed distribution is not two groups: losses must be in two groups in nats, and their roots and logarithms too (the
  power transformations of Box & Cox 1964).
- Groups differ by MIN_GAP nats and by twice their width, at which equal ones have two peaks (Schilling, Watkins &
  Watkins 2002), and each has at least two seeds and a tenth of all: fewer are outliers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Self

import numpy as np
from scipy.special import expit

MIN_SEEDS = 6
"""Fewer do not show two groups: docs/analysis.md has the table."""
MIN_GAP = 0.5
"""Nats between the means of two groups."""
MIN_WIDTHS = 2.0
"""Distance of the means in standard deviations of one group."""
MIN_IN_GROUP = 1.5
"""Seeds in the smaller group, a sum of probabilities: of two seeds it is about two."""
MIN_SHARE = 0.1
"""Of the seeds, in the smaller group; of exactly a tenth the sum may be less."""
PRECISION = 0.01
"""Nats: no group is narrower, so that rounding makes none. Of logarithms: one percent."""
_ITERATIONS = 25
_SCREENED = 0.3
"""Samples whose best split leaves more of the variance than this share of normal samples are not looked at: they are
less in two groups than most."""
_SAMPLES = 9_999
_MAX_VALUES = 2**18
"""Losses in one pass, and normal numbers in the bootstrap: an array of them takes 2 MiB, near the size of a cache."""

Draw = Callable[[np.random.Generator, int], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class TwoGroups:
    """Of n samples, each [n]; where there are no two groups `p` is 1, and the others are 0."""

    p: np.ndarray
    """How often one normal distribution gives such a ratio."""
    gap: np.ndarray
    """Nats between the means of the groups."""
    minority: np.ndarray
    """Share of the smaller one."""


@dataclass(frozen=True, kw_only=True)
class _Mixture:
    """Two normal distributions of one width, fitted to n samples, each [n]."""

    ratio: np.ndarray
    """Twice the logarithm of the likelihood over that of one normal distribution."""
    gap: np.ndarray
    width: np.ndarray
    share: np.ndarray
    """Of the upper one."""


def two_groups(losses: np.ndarray, chance: np.ndarray) -> TwoGroups:
    """`losses` [n, seeds], nats; `chance`: of `chance_ratios(seeds)`."""
    n, num_seeds = losses.shape
    found = TwoGroups(p=np.ones(n), gap=np.zeros(n), minority=np.zeros(n))
    fewest = max(MIN_IN_GROUP, MIN_SHARE * (num_seeds - 1))
    most_left = _left_by_chance(num_seeds)
    for start in range(0, n, max(1, _MAX_VALUES // num_seeds)):
        part = slice(start, start + max(1, _MAX_VALUES // num_seeds))
        ordered = np.sort(losses[part].astype(np.float64), axis=1)
        halves = _Halves.of(ordered)
        rows = np.flatnonzero((halves.largest_gap >= MIN_GAP) & (halves.left <= most_left))
        nats = _mixture(ordered[rows])
        minority = np.minimum(nats.share, 1 - nats.share)
        apart = (nats.gap >= np.maximum(MIN_GAP, MIN_WIDTHS * nats.width)) & (minority * num_seeds >= fewest)
        rows, gap, minority, ratio = (values[apart] for values in (rows, nats.gap, minority, nats.ratio))
        positive = np.maximum(ordered[rows], PRECISION)
        for scaled in (np.sqrt(positive), np.log(positive)):
            ratio = np.minimum(ratio, _mixture(scaled).ratio)
        found.p[start + rows] = p_values(ratio, chance)
        found.gap[start + rows], found.minority[start + rows] = gap, minority
    return found


@cache
def chance_ratios(num_seeds: int) -> np.ndarray:
    """Ascending ratios of samples of so many normal numbers; the same ones each time."""
    return np.sort(_mixture(_normal(num_seeds, _SAMPLES), precision=0.0).ratio)


def _left_by_chance(num_seeds: int) -> float:
    return float(np.quantile(_Halves.of(_normal(num_seeds, 999)).left, _SCREENED))


def _normal(num_seeds: int, most: int) -> np.ndarray:
    """Ascending samples [n, seeds], at most so many."""
    samples = min(most, max(999, 2 * _MAX_VALUES // num_seeds))
    return np.sort(np.random.default_rng(0).normal(size=(samples, num_seeds)), axis=1)


def p_values(ratios: np.ndarray, chance: np.ndarray) -> np.ndarray:
    above = len(chance) - np.searchsorted(chance, ratios, side="left")
    return (1 + above) / (1 + len(chance))


def power(num_seeds: int, chance: np.ndarray, draw: Draw, p: float) -> float:
    """The share of samples of `draw(random, number)` [number, seeds], of losses in nats, found at this p-value."""
    drawn = draw(np.random.default_rng(1), max(100, min(1000, _MAX_VALUES // num_seeds)))
    return float((two_groups(drawn, chance).p <= p).mean())


def planted_groups(num_seeds: int, minority: float, widths: float) -> Draw:
    """Draws losses of so many seeds in two groups with standard deviations of 0.3 nats, so many of these apart."""

    def draw(random: np.random.Generator, n: int) -> np.ndarray:
        smaller = int(np.ceil(minority * num_seeds))
        groups = np.arange(num_seeds) < smaller
        return 3 + 0.3 * (widths * groups + random.normal(size=(n, num_seeds)))

    return draw


@dataclass(frozen=True, kw_only=True)
class _Halves:
    """The split of ascending samples into two parts that lie closest about their means, each of two seeds or more: of
    each sample [n]. `left`: share of the variance that is within the parts. `largest_gap`: of the means, by any split.
    """

    low: np.ndarray
    high: np.ndarray
    upper_share: np.ndarray
    left: np.ndarray
    largest_gap: np.ndarray

    @classmethod
    def of(cls, ordered: np.ndarray) -> Self:
        """Of samples [n, seeds]."""
        num_seeds = ordered.shape[1]
        sizes = np.arange(2, num_seeds - 1)
        sums = np.cumsum(ordered, axis=1)
        lower = sums[:, 1:-2] / sizes
        upper = (sums[:, -1:] - sums[:, 1:-2]) / (num_seeds - sizes)
        between = sizes * (num_seeds - sizes) / num_seeds**2 * (upper - lower) ** 2
        best = between.argmax(axis=1)
        rows = np.arange(len(ordered))
        return cls(
            low=lower[rows, best],
            high=upper[rows, best],
            upper_share=1 - sizes[best] / num_seeds,
            left=1 - between[rows, best] / np.maximum(ordered.var(axis=1), 1e-300),
            largest_gap=(upper - lower).max(axis=1),
        )


def _mixture(ordered: np.ndarray, precision: float = PRECISION) -> _Mixture:
    """By expectation maximization (Dempster, Laird & Rubin 1977) from the best split, of samples [n, seeds]."""
    num_seeds = ordered.shape[1]
    means = ordered.mean(axis=1, keepdims=True)
    spreads = np.sqrt(((ordered - means) ** 2).mean(axis=1, keepdims=True) + precision**2 + 1e-300)
    values = (ordered - means) / spreads
    least = (precision / spreads[:, 0]) ** 2 + 1e-9
    halves = _Halves.of(values)
    low, high, share = halves.low, halves.high, halves.upper_share
    squares = (values**2).mean(axis=1)
    single = least + squares
    variance = np.maximum(squares - share * (1 - share) * (high - low) ** 2, 0) + least
    for _ in range(_ITERATIONS):
        upper = expit(_odds(values, low, high, variance, share))
        count = np.clip(upper.sum(axis=1), 1e-6, num_seeds - 1e-6)
        total = np.einsum("ns,ns->n", upper, values)
        high, low, share = total / count, -total / (num_seeds - count), count / num_seeds
        variance = np.maximum(squares - share * high**2 - (1 - share) * low**2, 0) + least
    # log of the sum of both densities, from the lower one's and the odds.
    odds = _odds(values, low, high, variance, share)
    lower = np.log(1 - share)[:, None] - (values - low[:, None]) ** 2 / (2 * variance[:, None])
    of_two = (lower + np.logaddexp(0, odds)).sum(axis=1) - num_seeds / 2 * np.log(variance)
    of_one = -num_seeds / 2 * (np.log(single) + squares / single)
    return _Mixture(
        ratio=2 * (of_two - of_one),
        gap=(high - low) * spreads[:, 0],
        width=np.sqrt(variance) * spreads[:, 0],
        share=share,
    )


def _odds(values: np.ndarray, low: np.ndarray, high: np.ndarray, variance: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Logarithms [n, seeds] of how much more likely each value is in the upper group."""
    slope = (high - low) / variance
    constant = np.log(share / (1 - share)) - slope * (high + low) / 2
    return slope[:, None] * values + constant[:, None]
