"""drops of a token in many seeds -> events: which drop of one seed is the same as which of another.

The main drop of one seed may be the second of another. So before any time is compared, the nearest drops are joined, at
most one per seed to an event, as long as their means are in reach of each other (agglomerative clustering by centroids,
Sokal & Michener 1958). Where an event is moved by more than its reach, it counts as another event.
"""

from dataclasses import dataclass

import numpy as np

from discreteness.analysis.seed_drops import SeedDrops

REACH_OCTAVES = 1.0
"""Drops this far apart may be one event; wider ones if they overlap."""
REACH_ERRORS = 3.0
"""So may those that are apart by so many standard errors of the difference of their times."""


@dataclass(frozen=True, kw_only=True)
class Events:
    """Of each token the event that most seeds share; of several the one of the largest falls, then the earlier one.

    Arrays are [tokens, seeds], nan in seeds without it.
    """

    times: np.ndarray
    """Octaves."""
    widths: np.ndarray
    """Octaves."""
    falls: np.ndarray
    """Nats."""
    errors: np.ndarray
    """Octaves, standard errors of the times."""
    num_events: np.ndarray
    """int64 [tokens], of all events, those of a single seed too."""
    num_shared: np.ndarray
    """int64 [tokens], of those that two seeds or more have."""

    @property
    def counts(self) -> np.ndarray:
        """int64 [tokens]: seeds that have the event."""
        return np.isfinite(self.times).sum(axis=1)


def match(drops: SeedDrops) -> Events:
    there = np.isfinite(drops.times)
    chosen = np.zeros(there.shape, bool)
    num_events, num_shared = np.zeros((2, len(there)), np.int64)

    # Where each seed has at most one drop and all are in reach, there is nothing to decide.
    times = np.where(there, drops.times, np.nan)
    one_each = (there.sum(axis=2) <= 1).all(axis=1) & there.any(axis=(1, 2))
    with np.errstate(invalid="ignore"):
        spans = np.where(there, times, -np.inf).max(axis=(1, 2)) - np.where(there, times, np.inf).min(axis=(1, 2))
    plain = one_each & (spans <= REACH_OCTAVES)
    chosen[plain], num_events[plain], num_shared[plain] = there[plain], 1, there[plain].sum(axis=(1, 2)) > 1

    for token in np.flatnonzero(there.any(axis=(1, 2)) & ~plain):
        mine = there[token]
        seeds = np.nonzero(mine)[0]
        labels = joined(seeds, *(values[token][mine] for values in (drops.times, drops.widths, drops.errors)))
        sizes = np.bincount(labels)
        falls = np.bincount(labels, weights=drops.falls[token][mine])
        means = np.bincount(labels, weights=drops.times[token][mine]) / np.maximum(sizes, 1)
        best = np.lexsort((means, -falls.round(9), -sizes))[0]
        chosen[token][mine] = labels == best
        num_events[token], num_shared[token] = len(sizes), (sizes > 1).sum()

    def of_event(values: np.ndarray) -> np.ndarray:
        found = np.where(chosen, values, 0).sum(axis=2)
        return np.where(chosen.any(axis=2), found, np.nan)

    return Events(
        times=of_event(drops.times),
        widths=of_event(drops.widths),
        falls=of_event(drops.falls),
        errors=of_event(drops.errors),
        num_events=num_events,
        num_shared=num_shared,
    )


def joined(seeds: np.ndarray, times: np.ndarray, widths: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Events [n], numbered from 0, of n drops of one token: `times`, `widths`, `errors` in octaves.

    The nearest two events that share no seed are joined, until none are in reach: REACH_OCTAVES, or half of each width,
    or REACH_ERRORS standard errors.
    """
    labels = np.arange(len(seeds))
    sizes = np.ones(len(seeds))
    means, wide, squares = times.astype(np.float64), widths.astype(np.float64), np.square(errors, dtype=np.float64)
    # Infinite where two events share a seed, also with themselves, and where one of them is no more.
    shared = seeds[:, None] == seeds
    distances = np.where(shared, np.inf, np.abs(means[:, None] - means))
    while True:
        reach = np.maximum(REACH_OCTAVES, (wide[:, None] + wide) / 2)
        reach = np.maximum(reach, REACH_ERRORS * np.sqrt(squares[:, None] + squares))
        allowed = np.where(distances <= reach, distances, np.inf)
        one, other = divmod(int(allowed.argmin()), len(seeds))
        if not np.isfinite(allowed[one, other]):
            return np.unique(labels, return_inverse=True)[1]
        weights = sizes[one], sizes[other]
        for values in (means, wide, squares):
            values[one] = (weights[0] * values[one] + weights[1] * values[other]) / sum(weights)
        sizes[one] = sum(weights)
        labels[labels == other] = one
        shared[one] |= shared[other]
        shared[:, one] = shared[one]
        shared[other] = shared[:, other] = True
        distances[one] = np.where(shared[one], np.inf, np.abs(means - means[one]))
        distances[:, one] = distances[one]
        distances[other] = distances[:, other] = np.inf
