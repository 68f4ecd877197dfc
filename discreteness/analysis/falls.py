"""Fitted terms -> what the curve shows of them: how sharp, how far below all that came before, how far apart."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from discreteness.analysis.refinement import Terms
from discreteness.analysis.sigmoids import SQUARE_WIDTH, falling

MAX_DROP_WIDTH = SQUARE_WIDTH
"""Octaves. A relaxation at a constant rate takes 4.45 from 10 % to 90 %; at a rate that grows in proportion to time, as
in a warm-up of the learning rate, half of that. A drop is sharper."""
MIN_DROP_FALL = 0.5
"""Nats that a drop must take the loss below all that came before."""

_BETWEEN = np.linspace(0, 1, 9)


@dataclass(frozen=True, kw_only=True)
class Falls:
    """What n curves show of their terms; terms are in the order of their times, nan last.

    Arrays of terms are [n, terms].
    """

    terms: Terms
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
        where, how_wide, how_far = np.where(used, centers, 0.0), np.where(used, widths, 1.0), np.where(used, falls, 0.0)

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

        # Most of what the loss falls during the term is this term's: not a correction to a wide one, as at a kink.
        in_all = model(where - how_wide / 2) - model(where + how_wide / 2)
        seen = (centers - widths / 2 >= x[0]) & (centers + widths / 2 <= x[-1])
        seen &= (centers >= x[1]) & (centers <= x[-3])
        sharp = used & seen & (widths <= MAX_DROP_WIDTH) & (falls >= MIN_DROP_FALL) & (0.8 * falls >= in_all / 2)

        middle = model(where)
        # Terms that overlap may each be larger than what the curve shows of them.
        high = np.minimum(middle + how_far / 2, values.max(axis=1, keepdims=True))
        return cls(
            terms=terms,
            values=values,
            high=np.where(how_far > 0, np.minimum(high, lowest_before + 0.1 * how_far), high),
            low=np.maximum(middle - how_far / 2, values.min(axis=1, keepdims=True)),
            new_low=lowest_before - ends,
            sharp=sharp & (lowest_before - ends >= MIN_DROP_FALL),
        )


def apart(terms: Terms) -> np.ndarray:
    """bool [n]: between two narrow falls that follow each other the curve slows to half the speed of the slower one.

    Where it does not, they draw one fall of another shape, as a ramp or a fall with a gentle onset.
    """
    narrow = (terms.widths <= MAX_DROP_WIDTH) & (terms.falls >= MIN_DROP_FALL)
    order = np.argsort(np.where(narrow, terms.centers, np.inf), axis=1, kind="stable")
    narrow, centers = (np.take_along_axis(a, order, axis=1) for a in (narrow, terms.centers))
    found = np.ones(len(centers), bool)
    for first in range(centers.shape[1] - 1):
        both = np.flatnonzero(narrow[:, first + 1])
        if not len(both):
            continue
        start, end = centers[both, first], centers[both, first + 1]
        at = start[:, None] + (end - start)[:, None] * _BETWEEN
        slopes = falling(at[:, None, :], terms.centers[both], terms.widths[both])[1]
        speed = (slopes * (terms.falls[both] / terms.widths[both])[:, :, None]).sum(axis=1)
        found[both] &= speed.min(axis=1) <= 0.5 * np.minimum(speed[:, 0], speed[:, -1])
    return found


def standard_errors(
    terms: Terms, x: np.ndarray, weights: np.ndarray, points: np.ndarray, main: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of time (octaves), width (octaves) and height (nats) of the term `main` [n] of each curve, from the curvature of
    its least squares. `points` [n]: how many independent points the bins are worth.
    """
    used = np.isfinite(terms.centers)
    centers, widths = np.where(used, terms.centers, 0.0), np.where(used, terms.widths, 1.0)
    falls = np.where(used, terms.falls, 0.0)
    num_terms = centers.shape[1]
    shapes, slopes = falling(x, centers, widths)
    by_center = slopes * (falls / widths)[:, :, None]
    by_width = by_center * ((x - centers[:, :, None]) / widths[:, :, None])
    constant = np.ones((len(centers), 1, len(x)))
    jacobian = np.concatenate([by_center, by_width, shapes * used[:, :, None], constant], axis=1) * np.sqrt(weights)
    information = jacobian @ jacobian.transpose(0, 2, 1)
    # A term that is not there has no errors; one that the data do not determine has large ones.
    diagonal = np.einsum("nii->ni", information)
    information = information + np.eye(information.shape[1]) * (1e-9 * diagonal + 1e-9)[:, :, None]
    parameters = 1 + 3 * used.sum(axis=1)
    variance = terms.left / np.maximum(points * (1 - parameters / len(x)), 1)
    errors = np.sqrt(variance[:, None] * np.einsum("nii->ni", np.linalg.inv(information)))
    rows = np.arange(len(centers))
    return errors[rows, main], errors[rows, num_terms + main], errors[rows, 2 * num_terms + main]
