"""loss curves -> sums of sigmoids: for one, two and three terms, the sum that fits each curve best.

A grid of shapes is searched by matrix products, then the best ones are refined by least squares. Curves are of one set
of bins, on an axis of octaves; which of the sums is the right one, and what its terms mean, `fits` says.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

MAX_TERMS = 3
"""Sigmoids in one curve."""

_NARROW_WIDTHS = (0.125, 0.25, 0.5, 1.0, 1.5, 2.0)
_WIDER_WIDTHS = (3.5, 5.0, 6.5, 9.0, 13.0)
"""Octaves, after the width from which a sigmoid is smooth."""
_RELAXATION_POWERS = (0.25, 0.5, 1.0, 2.0, 4.0, np.inf)
_WIDTH_LIMITS = (0.125, 16.0)
_MARGIN = 4.0
"""Octaves beyond the data at which smooth terms may be centred: a power law is the tail of such a sigmoid."""
PRECISION = 0.01
"""Share of a curve's range below which a misfit counts for nothing: no token follows any formula exactly."""
_HEIGHT_COST = PRECISION**2
"""What the square of a term's height costs in mean squared misfit, so that no two huge terms cancel to draw a bend."""
_LOGISTIC = 2 * np.log(9)
"""Width from 10 % to 90 % of a logistic function, in units of its scale."""
_REFINEMENTS = 6


@dataclass(frozen=True, kw_only=True)
class Atoms:
    """Shapes that a curve is made of, on the bins: narrow sigmoids, then wide ones, then relaxations.

    - The first `num_sigmoids` may be terms of a fit; those from `num_narrow` on are smooth.
    - Values are centred, weighted and of norm 1, so that a product with a curve is what the atom explains of it.
    - `penalties` is what the square of a sigmoid's height costs.
    """

    weights: np.ndarray
    values: np.ndarray
    gram: np.ndarray
    penalties: np.ndarray
    centers: np.ndarray
    widths: np.ndarray
    num_narrow: int
    num_sigmoids: int

    @classmethod
    def on(cls, x: np.ndarray, weights: np.ndarray, smooth_width: float) -> Self:
        """For bins at octaves `x` that count with `weights`. From `smooth_width` octaves on, a sigmoid is smooth."""
        # Sigmoids: narrow ones within the run, wide ones beyond it too.
        within = np.arange(x[0], x[-1] + 1 / 8, 1 / 8)
        around = np.arange(x[0] - _MARGIN, x[-1] + _MARGIN, 1 / 2)
        narrow = np.array([(center, width) for width in _NARROW_WIDTHS for center in within])
        wide = np.array([(center, width) for width in (smooth_width, *_WIDER_WIDTHS) for center in around])
        centers, widths = np.concatenate([narrow, wide]).T
        falling = sigmoids(x, centers[None], widths[None])[0]

        # (1 + (step + 1) / knee) ** -power; an infinite power is an exponential relaxation of that time.
        ratios = 2 ** (x - np.arange(x[0] - 1, x[-1] + 1, 1 / 8)[:, None])
        relaxations = [
            np.exp(-ratios) if np.isinf(power) else (1 + ratios / power) ** -power for power in _RELAXATION_POWERS
        ]

        values = centred(np.concatenate([falling, *relaxations]), weights)
        norms = np.linalg.norm(values, axis=1)
        # A shape that is constant on these bins explains nothing; the threshold only keeps it from a division by 0.
        norms = np.maximum(norms, 1e-6)
        values /= norms[:, None]
        return cls(
            weights=weights,
            values=values,
            gram=values @ values.T,
            penalties=_HEIGHT_COST * len(x) / norms[: len(falling)] ** 2,
            centers=centers,
            widths=widths,
            num_narrow=len(narrow),
            num_sigmoids=len(falling),
        )


def search(products: np.ndarray, gram: np.ndarray, penalties: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """For 1 to MAX_TERMS terms: which atoms [n, terms], and the squares that they explain together [n].

    Orthogonal least squares (Chen, Billings & Luo 1989): the next atom is the one that explains most in addition to
    those that are chosen. Then each of these is chosen again, given the others.
    """
    chosen = np.empty((len(products), 0), np.intp)
    found = []
    for num_terms in range(1, MAX_TERMS + 1):
        best, explained = _next_atom(products, gram, penalties, chosen)
        chosen = np.column_stack([chosen, best])
        for term in range(num_terms - 1):
            others = np.delete(chosen, term, axis=1)
            best, explained = _next_atom(products, gram, penalties, others)
            chosen[:, term] = best
        found.append((chosen.copy(), explained))
    return found


def _next_atom(
    products: np.ndarray, gram: np.ndarray, penalties: np.ndarray, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The atom [n] that explains most in addition to `chosen` [n, k], and the squares that all k + 1 explain together
    [n], less what their heights cost.
    """
    # One set of equations for the heights of the chosen atoms and for what each atom shares with them.
    near = gram[chosen]
    own = np.take_along_axis(near, chosen[:, None, :], axis=2) + penalties[chosen][:, :, None] * np.eye(chosen.shape[1])
    mine = np.take_along_axis(products, chosen, axis=1)
    solved = np.linalg.solve(own, np.concatenate([near, mine[:, :, None]], axis=2))
    shared, heights = solved[:, :, :-1], solved[:, :, -1]

    # The gain of each atom: its product with what is left, over what is left of itself.
    left = products - (heights[:, None, :] @ near)[:, 0]
    scores = left**2 / (1 + penalties - (near * shared).sum(axis=1))
    best = scores.argmax(axis=1)
    return best, scores[np.arange(len(products)), best] + (heights * mine).sum(axis=1)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Sums of k sigmoids; `left`: the weighted sum of squares that they do not explain [n]."""

    base: np.ndarray
    centers: np.ndarray
    widths: np.ndarray
    falls: np.ndarray
    left: np.ndarray

    def values(self, x: np.ndarray) -> np.ndarray:
        shapes = sigmoids(x, self.centers, self.widths)
        return self.base[:, None] + (self.falls[:, None, :] @ shapes)[:, 0]

    def padded(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """base [n]; centers, widths, falls [n, MAX_TERMS]: unused terms are nan and come last."""
        missing = ((0, 0), (0, MAX_TERMS - self.centers.shape[1]))
        terms = (np.pad(a, missing, constant_values=np.nan) for a in (self.centers, self.widths, self.falls))
        return (self.base, *terms)  # type: ignore[return-value]


def refine(curves: np.ndarray, x: np.ndarray, weights: np.ndarray, centers: np.ndarray, widths: np.ndarray) -> Terms:
    """Least squares from the grid's centers and widths [n, k], by Levenberg-Marquardt on all curves at once.

    Heights are solved for exactly at each trial, so that only centers and widths are moved: variable projection (Golub
    & Pereyra 1973), with the Jacobian of Kaufman (1975).
    """
    num_terms = centers.shape[1]
    root = np.sqrt(weights)
    low, high = _WIDTH_LIMITS
    damping = np.full(len(curves), 1e-2)
    penalty = np.diag(np.append(np.full(num_terms, _HEIGHT_COST * len(x)), 0.0))

    def solve(centers: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """shapes [n, k, bins], heights [n, k + 1] (the base last), residuals, and what is left."""
        shapes = sigmoids(x, centers, widths)
        design = np.concatenate([shapes, np.ones((len(curves), 1, len(x)))], axis=1) * root
        normal = design @ design.transpose(0, 2, 1) + penalty
        heights = np.linalg.solve(normal, design @ (root * curves)[:, :, None])[:, :, 0]
        residuals = root * curves - (heights[:, None, :] @ design)[:, 0]
        cost = penalty[0, 0] * (heights[:, :-1] ** 2).sum(axis=1)
        return shapes, heights, residuals, (residuals**2).sum(axis=1) + cost

    shapes, heights, residuals, left = solve(centers, widths)
    for _ in range(_REFINEMENTS):
        # Jacobian of the fitted curve, less what other heights would change as well.
        slopes = heights[:, :-1, None] * shapes * (1 - shapes) * root
        scaled = (x - centers[:, :, None]) / widths[:, :, None]
        # Derivatives by center / width and by log width: both without a unit.
        jacobian = np.concatenate([slopes * _LOGISTIC, slopes * _LOGISTIC * scaled], axis=1)
        design = np.concatenate([shapes, np.ones((len(curves), 1, len(x)))], axis=1) * root
        normal = design @ design.transpose(0, 2, 1) + penalty
        jacobian -= np.linalg.solve(normal, design @ jacobian.transpose(0, 2, 1)).transpose(0, 2, 1) @ design

        # A damped move (Levenberg 1944, Marquardt 1963), of at most one width.
        curvature = jacobian @ jacobian.transpose(0, 2, 1)
        diagonal = np.einsum("nii->ni", curvature)
        ridge = damping[:, None] * diagonal + 1e-9 * diagonal.max(axis=1, keepdims=True) + 1e-12
        curvature = curvature + ridge[:, :, None] * np.eye(2 * num_terms)
        move = np.linalg.solve(curvature, (jacobian @ residuals[:, :, None]))[:, :, 0]
        move = np.clip(move, -1, 1)

        # It is kept where it leaves less; there the damping falls, elsewhere it grows.
        new_centers = np.clip(centers + move[:, :num_terms] * widths, x[0] - _MARGIN, x[-1] + _MARGIN)
        new_widths = np.clip(widths * np.exp(move[:, num_terms:]), low, high)
        new_shapes, new_heights, new_residuals, new_left = solve(new_centers, new_widths)
        better = new_left < left
        damping = np.where(better, damping / 5, damping * 5)
        centers = np.where(better[:, None], new_centers, centers)
        widths = np.where(better[:, None], new_widths, widths)
        shapes = np.where(better[:, None, None], new_shapes, shapes)
        heights = np.where(better[:, None], new_heights, heights)
        residuals = np.where(better[:, None], new_residuals, residuals)
        left = np.where(better, new_left, left)
    return Terms(
        base=heights[:, -1], centers=centers, widths=widths, falls=heights[:, :-1], left=(residuals**2).sum(axis=1)
    )


def sigmoids(x: np.ndarray, centers: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Falling logistic functions: x [bins] or broadcastable, centers and widths [n, k] -> [n, k, bins]."""
    scaled = (x - centers[:, :, None]) * (_LOGISTIC / widths[:, :, None])
    return 0.5 - 0.5 * np.tanh(0.5 * scaled)


def centred(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rows less their weighted mean, times the root of the weights."""
    return (values - (values @ weights / weights.sum())[:, None]) * np.sqrt(weights)
