"""drops of a token in many seeds -> events: which drop of one seed is the same as which of another.

The main drop of one seed may be the second of another. So before any time is compared, the nearest drops are joined, at
most one per seed to an event, as long as their means are in reach of each other (agglomerative clustering by centroids,
Sokal & Michener 1958). Where an event is moved by more than its reach, it counts as another event.
"""

from dataclasses import dataclass

import numpy as np

from discreteness.analysis.seed_drops import SeedDrops

REACH_OCTAVES = 2.0
"""Drops this far apart may be one event; wider ones if they overlap."""
REACH_ERRORS = 3.0
"""So may those that are apart by so many standard errors of the difference of their times."""
_DISTANCES = 2**17
"""Between drops of a token, in all tokens that are joined at once: they stay near the size of a cache."""


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
    num_tokens, num_seeds, most = drops.times.shape
    there = np.isfinite(drops.times).reshape(num_tokens, -1)
    chosen = np.zeros(there.shape, bool)
    num_events, num_shared = np.zeros((2, num_tokens), np.int64)
    seeds = np.repeat(np.arange(num_seeds), most)

    # Tokens with as many drops are joined at once.
    counts = there.sum(axis=1)
    order = np.argsort(counts, kind="stable")[(counts == 0).sum() :]
    size = max(1, _DISTANCES // max(1, counts.max(initial=0)) ** 2)
    for start in range(0, len(order), size):
        rows = order[start : start + size, None]
        places = np.argsort(~there[rows[:, 0]], axis=1, kind="stable")[:, : counts[rows[-1, 0]]]
        times, widths, errors, falls = (
            each.reshape(num_tokens, -1)[rows, places]
            for each in (drops.times, drops.widths, drops.errors, drops.falls)
        )
        labels = joined(seeds[places], times, widths, errors)
        members = labels[:, None] == np.arange(labels.shape[1])[:, None]  # [tokens, events, drops]
        sizes = members.sum(axis=2)
        heights, sums = (np.where(members, values[:, None], 0).sum(axis=2) for values in (falls, times))
        best = np.lexsort((sums / np.maximum(sizes, 1), -heights.round(9), -sizes), axis=1)[:, :1]
        chosen[rows, places] = labels == best
        num_events[rows[:, 0]], num_shared[rows[:, 0]] = (sizes > 0).sum(axis=1), (sizes > 1).sum(axis=1)

    def of_event(values: np.ndarray) -> np.ndarray:
        mine = chosen.reshape(values.shape)
        return np.where(mine.any(axis=2), np.where(mine, values, 0).sum(axis=2), np.nan)

    return Events(
        times=of_event(drops.times),
        widths=of_event(drops.widths),
        falls=of_event(drops.falls),
        errors=of_event(drops.errors),
        num_events=num_events,
        num_shared=num_shared,
    )


def joined(seeds: np.ndarray, times: np.ndarray, widths: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Events of the drops of tokens, all [tokens, drops], `times`, `widths` and `errors` in octaves; nan: no drop. An
    event is the number of one of its drops; -1: no drop.

    The nearest two events that share no seed are joined, until none are in reach: REACH_OCTAVES, or half of each width,
    or REACH_ERRORS standard errors.
    """
    num_tokens, most = times.shape
    labels = np.where(np.isfinite(times), np.arange(most), -1)
    sizes = np.ones(times.shape)
    means, wide, squares = times.copy(), widths.copy(), np.square(errors)
    # Two events that share a seed are never joined; neither is one with itself, nor with one that is no more.
    shared = seeds[:, :, None] == seeds[:, None]

    def distances_from(rows: np.ndarray, one: np.ndarray) -> np.ndarray:
        """Of an event of each of these tokens from all of the token [rows, drops], infinite out of reach."""
        apart, width, square = (
            combined(values[rows], values[rows, one][:, None])
            for values, combined in ((means, np.subtract), (wide, np.add), (squares, np.add))
        )
        reach = np.maximum(np.maximum(REACH_OCTAVES, width / 2), REACH_ERRORS * np.sqrt(square))
        return np.where(shared[rows, one] | ~(np.abs(apart) <= reach), np.inf, np.abs(apart))

    everyone = np.arange(num_tokens)
    distances = np.stack([distances_from(everyone, np.full(num_tokens, one)) for one in range(most)], axis=1)
    while True:
        nearest = distances.reshape(num_tokens, -1).argmin(axis=1)
        one, other = np.divmod(nearest, most)
        rows = np.flatnonzero(np.isfinite(distances[everyone, one, other]))
        if not len(rows):
            return labels
        one, other = one[rows], other[rows]
        weights = sizes[rows, one], sizes[rows, other]
        for values in (means, wide, squares):
            values[rows, one] = (weights[0] * values[rows, one] + weights[1] * values[rows, other]) / sum(weights)
        sizes[rows, one] = sum(weights)
        labels[rows] = np.where(labels[rows] == other[:, None], one[:, None], labels[rows])
        shared[rows, one] |= shared[rows, other]
        shared[rows, :, one] = shared[rows, one]
        shared[rows, other] = shared[rows, :, other] = True
        distances[rows, one] = distances[rows, :, one] = distances_from(rows, one)
        distances[rows, other] = distances[rows, :, other] = np.inf
