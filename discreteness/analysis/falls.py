"""Fitted terms -> what the curve shows of them: how sharp, how far below all that came before, how far apart."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from discreteness.analysis.noise import Noise
from discreteness.analysis.refinement import Terms
from discreteness.analysis.sigmoids import SQUARE_WIDTH, falling

MAX_DROP_WIDTH = SQUARE_WIDTH
"""Octaves. A relaxation at a constant rate takes 4.45 from 10 % to 90 %; at a rate that grows in proportion to time, as
in a warm-up of the learning rate, half of that. A drop is sharper."""
MIN_DROP_FALL = 0.5
"""Nats that a drop must take the loss below all that came before."""
MIN_NEW_SHARE = 0.5
"""Of a drop: the rest undoes a rise."""

_SLOWED = 0.25
_BETWEEN = np.linspace(0, 1, 9)


@dataclass(frozen=True, kw_only=True)
class Falls:
    """What n curves show of their terms; terms are in the order of their times, nan last.

    Arrays of terms are [n, terms].
    """

    terms: Terms
    times: np.ndarray
    """Octaves, of a whole fall where several terms draw one, in the place of the largest; so for the next two."""
    widths: np.ndarray
    heights: np.ndarray
    values: np.ndarray
    """[n, bins] the fitted curves."""
    high: np.ndarray
    """Level before each term, within what the curve shows; where the term only undoes a rise, that before the rise."""
    low: np.ndarray
    """Level after it."""
    new_low: np.ndarray
    """Nats that it takes the curve below all that came before, for an octave or to the end of the run."""
    sharp: np.ndarray
    """bool: a drop if the curve has the evidence."""

    @classmethod
    def of(cls, terms: Terms, x: np.ndarray) -> Self:
        order = np.argsort(terms.centers, axis=1, kind="stable")  # nan last
        centers, widths, falls = (
            np.take_along_axis(a, order, axis=1) for a in (terms.centers, terms.widths, terms.falls)
        )
        terms = Terms(base=terms.base, centers=centers, widths=widths, falls=falls, tails=terms.tails, left=terms.left)
        used = np.isfinite(centers)
        where, how_wide, how_far, leads = _merged(
            np.where(used, centers, 0.0), np.where(used, widths, 1.0), np.where(used, falls, 0.0)
        )
        used &= leads

        def model(at: np.ndarray) -> np.ndarray:
            """Fitted losses at octaves [n, points]."""
            return terms.values(at[:, None, :])

        # A new low: how far below all that came before a term takes the loss, right after it and an octave later.
        values = terms.values(x)
        lowest_yet = np.minimum.accumulate(values, axis=1)
        before = np.maximum(np.searchsorted(x, where - how_wide / 2, side="right") - 1, 0)
        after = np.minimum(np.searchsorted(x, where + how_wide / 2), len(x) - 1)
        an_octave_on = np.minimum(np.searchsorted(x, where + how_wide / 2 + 1), len(x) - 1)
        ends = np.maximum(np.take_along_axis(values, after, axis=1), np.take_along_axis(values, an_octave_on, axis=1))
        lowest_before = np.take_along_axis(lowest_yet, before, axis=1)

        # A fall that undoes a sudden rise counts for what it falls below the level before the rise.
        net = how_far.copy()
        owed = np.zeros(len(net))
        for term in range(net.shape[1]):
            sudden = how_far[:, term] * (used & (how_wide <= MAX_DROP_WIDTH))[:, term]
            undone = np.minimum(owed, np.maximum(sudden, 0))
            net[:, term] -= undone
            owed += np.maximum(-sudden, 0) - undone
        new_low = np.minimum(lowest_before - ends, net)

        # Most of what the loss falls during the term is this term's: not a correction to a wide one, as at a kink.
        in_all = model(where - how_wide / 2) - model(where + how_wide / 2)
        seen = (where - how_wide / 2 >= x[0]) & (where + how_wide / 2 <= x[-1]) & (where >= x[1]) & (where <= x[-3])
        sharp = used & seen & (how_wide <= MAX_DROP_WIDTH) & (0.8 * how_far >= in_all / 2)

        middle = model(where)
        # Terms that overlap may each be larger than what the curve shows of them.
        high = np.minimum(middle - how_far / 2 + net, values.max(axis=1, keepdims=True))
        return cls(
            terms=terms,
            times=where,
            widths=how_wide,
            heights=np.where(used, how_far, -np.inf),
            values=values,
            high=high,
            low=np.maximum(middle - how_far / 2, values.min(axis=1, keepdims=True)),
            new_low=new_low,
            sharp=sharp & (new_low >= np.maximum(MIN_DROP_FALL, MIN_NEW_SHARE * how_far)),
        )


def _groups(centers: np.ndarray, widths: np.ndarray, falls: np.ndarray) -> np.ndarray:
    """Which terms draw one fall together, as a ramp or a fall with a gentle onset: int [n, terms], the first of them.

    Between two narrow falls that follow each other, the curve keeps a quarter of the speed of the slower one.
    """
    narrow = (widths <= MAX_DROP_WIDTH) & (falls >= 0.1 * falls.max(axis=1, keepdims=True))
    groups = np.tile(np.arange(centers.shape[1]), (len(centers), 1))
    for last in range(1, centers.shape[1]):
        for first in range(last - 1, -1, -1):
            # Nearest first; only neighbours among the narrow ones.
            between = narrow[:, first + 1 : last].any(axis=1)
            both = np.flatnonzero(narrow[:, first] & narrow[:, last] & ~between)
            if not len(both):
                continue
            at = centers[both, first, None] + (centers[both, last] - centers[both, first])[:, None] * _BETWEEN
            slopes = falling(at[:, None, :], centers[both], widths[both])[1]
            speed = (slopes * (falls[both] / widths[both])[:, :, None]).sum(axis=1)
            joined = both[speed.min(axis=1) > _SLOWED * np.minimum(speed[:, 0], speed[:, -1])]
            groups[joined, last] = groups[joined, first]
    return groups


def _merged(
    centers: np.ndarray, widths: np.ndarray, falls: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Time, width and height of what the terms of a group draw together, in the place of its largest term, and whether
    a term has such a place.
    """
    groups = _groups(centers, widths, falls)
    leads = np.ones(centers.shape, bool)
    centers, widths, falls = centers.copy(), widths.copy(), falls.copy()
    ordinary = np.arange(centers.shape[1])
    for row in np.flatnonzero((groups != ordinary).any(axis=1)):
        for group in np.unique(groups[row]):
            members = np.flatnonzero(groups[row] == group)
            if len(members) < 2:
                continue
            where, wide, far = centers[row, members], widths[row, members], falls[row, members]
            at = np.linspace((where - wide).min(), (where + wide).max(), 129)
            share = (far[:, None] * falling(at, where[None], wide[None])[0][0]).sum(axis=0) / far.sum()
            begin, middle, end = np.interp([-0.9, -0.5, -0.1], -share, at)
            lead = members[far.argmax()]
            leads[row, members] = members == lead
            centers[row, lead], widths[row, lead], falls[row, lead] = middle, end - begin, far.sum()
    return centers, widths, falls, leads


def whitened_jacobian(terms: Terms, x: np.ndarray, noise: Noise) -> np.ndarray:
    """Of the fitted curves by centers, widths, heights and base [n, 3 * terms + 1, bins]; 0 for terms that are not
    there.
    """
    used = np.isfinite(terms.centers)
    centers, widths = np.where(used, terms.centers, 0.0), np.where(used, terms.widths, 1.0)
    shapes, slopes = falling(x, centers, widths)
    by_center = slopes * (np.where(used, terms.falls, 0.0) / widths)[:, :, None]
    by_width = by_center * ((x - centers[:, :, None]) / widths[:, :, None])
    constant = np.ones((len(centers), 1, len(x)))
    return noise.whitened(np.concatenate([by_center, by_width, shapes * used[:, :, None], constant], axis=1))


def standard_errors(terms: Terms, x: np.ndarray, noise: Noise, points: np.ndarray) -> np.ndarray:
    """Of time (octaves), width (octaves) and height (nats) of each term [3, n, terms], from the curvature of its least
    squares. `points` [n]: how many independent points the bins are worth.
    """
    jacobian = whitened_jacobian(terms, x, noise)
    information = jacobian @ jacobian.transpose(0, 2, 1)
    # A term that is not there has no errors; one that the data do not determine has large ones.
    diagonal = np.einsum("nii->ni", information)
    information = information + np.eye(information.shape[1]) * (1e-9 * diagonal + 1e-9)[:, :, None]
    parameters = 1 + 3 * np.isfinite(terms.centers).sum(axis=1)
    variance = terms.left / np.maximum(points * (1 - parameters / len(x)), 1)
    errors = np.sqrt(variance[:, None] * np.einsum("nii->ni", np.linalg.inv(information)))
    return errors[:, :-1].reshape(len(errors), 3, terms.centers.shape[1]).transpose(1, 0, 2)
