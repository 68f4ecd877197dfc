"""loss curves -> steps: each curve as a sum of sigmoids in log step, weighed against the best smooth curve.

The axis is octaves, log2(step + 1), on which points weigh evenly. A step is a fall too sharp for any mixture of
exponential relaxations: docs/analysis.md has the definition, its reasons, and how often it is wrong on planted data.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

MAX_TERMS = 3
"""Sigmoids in one curve."""
MIN_POINTS = 8
"""Checkpoints below which a curve says nothing about its shape."""
BINS_PER_OCTAVE = 16
"""Checkpoints closer than this are averaged, so that the last octave of a dense plan does not outvote the others."""
MAX_STEP_WIDTH = 2.5
"""Octaves. An exponential relaxation takes 4.45 from 10 % to 90 %, a mixture of them more: a step is sharper."""
MIN_STEP_FALL = 0.5
"""Nats that a step must take the loss below all that came before."""
MIN_DELTA_BIC = 10.0
"""Evidence asked of a step: odds of about 150 to 1 by the criterion's own approximation."""

_NARROW_WIDTHS = (0.125, 0.25, 0.5, 1.0, 1.5, 2.0)
_WIDE_WIDTHS = (MAX_STEP_WIDTH, 3.5, 5.0, 6.5, 9.0, 13.0)
_RELAXATION_POWERS = (0.25, 0.5, 1.0, 2.0, 4.0, np.inf)
_WIDTH_LIMITS = (0.125, 16.0)
_MARGIN = 4.0
"""Octaves beyond the data at which smooth terms may be centred: a power law is the tail of such a sigmoid."""
_PRECISION = 0.01
"""Share of a curve's range below which a misfit counts for nothing: no token follows any formula exactly."""
_HEIGHT_COST = _PRECISION**2
"""What the square of a term's height costs in mean squared misfit, so that no two huge terms cancel to draw a bend."""
_LOGISTIC = 2 * np.log(9)
"""Width from 10 % to 90 % of a logistic function, in units of its scale."""
_PARAMETERS_OF_TERM = 3
_REFINEMENTS = 6
_CHUNK = 256
"""Curves fitted at once: their intermediate arrays stay near the size of a cache."""


@dataclass(frozen=True, kw_only=True)
class Fits:
    """Fits of n curves: base + sum of falls * sigmoid. Steps are in updates, losses in nats, widths in octaves."""

    time: np.ndarray
    """[n] updates at the middle of the main fall: the largest step, or the largest fall where there is no step."""
    width: np.ndarray
    """[n] octaves (doublings of step + 1) from 10 % to 90 % of the main fall."""
    high: np.ndarray
    """[n] level before the main fall, within what the fitted curve shows."""
    low: np.ndarray
    """[n] level after it."""
    r2: np.ndarray
    """[n] share of the curve's variance over log step that the fit explains; 0 for a constant curve."""
    delta_bic: np.ndarray
    """[n] BIC of the best smooth curve minus that of the fit."""
    is_step: np.ndarray
    """bool [n] there is a step, with evidence of at least MIN_DELTA_BIC."""
    num_steps: np.ndarray
    """int64 [n]"""
    times: np.ndarray
    """[n, MAX_TERMS] middles of all terms, ascending; nan where a curve needs fewer. So for the next two."""
    widths: np.ndarray
    """[n, MAX_TERMS]"""
    falls: np.ndarray
    """[n, MAX_TERMS] negative where the loss rises."""
    steps: np.ndarray
    """bool [n, MAX_TERMS] terms that are steps; none where `is_step` is false."""
    base: np.ndarray
    """[n] level after all terms."""

    def curve(self, steps: Sequence[int] | np.ndarray) -> np.ndarray:
        """The fitted curves at these steps, float64 [n, len(steps)]."""
        terms = self.terms(steps)
        return self.base[:, None] + terms.sum(axis=1)

    def terms(self, steps: Sequence[int] | np.ndarray) -> np.ndarray:
        """What each term adds at these steps, float64 [n, MAX_TERMS, len(steps)]: its fall before, 0 after."""
        used = np.isfinite(self.times)
        centers, widths = np.where(used, octaves(self.times), 0.0), np.where(used, self.widths, 1.0)
        return np.where(used, self.falls, 0.0)[:, :, None] * _sigmoids(octaves(steps), centers, widths)

    def __getitem__(self, index: slice | np.ndarray) -> Self:
        return type(self)(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})


def octaves(steps: Sequence[int] | np.ndarray) -> np.ndarray:
    """log2(step + 1): step 0 has a place."""
    return np.log2(1 + np.asarray(steps, np.float64))


def fit(losses: np.ndarray, steps: Sequence[int] | np.ndarray) -> Fits:
    """Fits each curve of `losses` [n, steps], in nats, at `steps` [steps], ascending from 0 up.

    ValueError: fewer than MIN_POINTS steps, shapes that do not match, steps that do not ascend, a loss that is not
    finite.
    """
    losses, at = np.asarray(losses), np.asarray(steps, np.float64)
    if losses.ndim != 2 or at.ndim != 1 or losses.shape[1] != len(at):
        raise ValueError(f"losses {losses.shape} and steps {at.shape} do not match; give [curves, steps] and [steps]")
    if len(at) < MIN_POINTS:
        raise ValueError(f"{len(at)} checkpoints are too few to fit; give at least {MIN_POINTS}")
    if at[0] < 0 or not (np.diff(at) > 0).all():
        raise ValueError("steps must ascend, each once, from 0 up")
    if not np.isfinite(losses).all():
        row, column = np.argwhere(~np.isfinite(losses))[0]
        raise ValueError(f"curve {row} has a loss of {losses[row, column]} at step {steps[column]}")
    x, owner = _bins(at)
    counts = np.bincount(owner)
    # Noise of neighbouring checkpoints is partly shared: an average of k is better than one, but not k times better.
    weights = np.sqrt(counts)
    weights *= len(x) / weights.sum()
    atoms = _Atoms.on(x, weights)
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    parts = [
        _fit(np.add.reduceat(losses[start : start + _CHUNK], starts, axis=1, dtype=np.float64) / counts, x, atoms)
        for start in range(0, max(1, len(losses)), _CHUNK)
    ]
    return Fits.concatenate(parts)


def _bins(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Octaves of each bin's mean [bins], and each step's bin [steps]. A bin holds what is near in log step."""
    x = octaves(steps)
    _, owner = np.unique(np.floor(x * BINS_PER_OCTAVE), return_inverse=True)
    return np.bincount(owner, weights=x) / np.bincount(owner), owner


@dataclass(frozen=True, kw_only=True)
class _Atoms:
    """Shapes that a curve is made of, on the bins: narrow sigmoids, then wide ones, then relaxations.

    The first `num_sigmoids` may be terms of a fit; those from `num_narrow` on are smooth. Values are centred,
    weighted and of norm 1, so that a product with a curve is what the atom explains of it. `penalties` is what the
    square of a sigmoid's height costs.
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
    def on(cls, x: np.ndarray, weights: np.ndarray) -> Self:
        within = np.arange(x[0], x[-1] + 1 / 8, 1 / 8)
        around = np.arange(x[0] - _MARGIN, x[-1] + _MARGIN, 1 / 2)
        narrow = np.array([(center, width) for width in _NARROW_WIDTHS for center in within])
        wide = np.array([(center, width) for width in _WIDE_WIDTHS for center in around])
        centers, widths = np.concatenate([narrow, wide]).T
        sigmoids = _sigmoids(x, centers[None], widths[None])[0]
        # (1 + (step + 1) / knee) ** -power; an infinite power is an exponential relaxation of that time.
        ratios = 2 ** (x - np.arange(x[0] - 1, x[-1] + 1, 1 / 8)[:, None])
        relaxations = [
            np.exp(-ratios) if np.isinf(power) else (1 + ratios / power) ** -power for power in _RELAXATION_POWERS
        ]
        values = np.concatenate([sigmoids, *relaxations])
        values = _centred(values, weights)
        norms = np.linalg.norm(values, axis=1)
        # A shape that is constant on these bins explains nothing; the threshold only keeps it from a division by 0.
        norms = np.maximum(norms, 1e-6)
        values /= norms[:, None]
        return cls(
            weights=weights,
            values=values,
            gram=values @ values.T,
            penalties=_HEIGHT_COST * len(x) / norms[: len(sigmoids)] ** 2,
            centers=centers,
            widths=widths,
            num_narrow=len(narrow),
            num_sigmoids=len(sigmoids),
        )


def _fit(curves: np.ndarray, x: np.ndarray, atoms: _Atoms) -> Fits:
    """`curves` [n, bins]."""
    weights = atoms.weights
    centred = _centred(curves, weights)
    total = (centred**2).sum(axis=1)
    products = centred @ atoms.values.T
    sigmoids, smooth = slice(0, atoms.num_sigmoids), slice(atoms.num_narrow, None)
    found = _search(products[:, sigmoids], atoms.gram[sigmoids, sigmoids], atoms.penalties)
    candidates = [_refine(curves, x, weights, atoms.centers[chosen], atoms.widths[chosen]) for chosen, _ in found]
    # Smooth terms may cancel as they like, short of the limits of arithmetic: what they can draw is smooth.
    free = np.full(len(atoms.values) - atoms.num_narrow, 1e-6)
    smooth_left = [total - e for _, e in _search(products[:, smooth], atoms.gram[smooth, smooth], free)]

    precision = (_PRECISION * np.ptp(curves, axis=1)) ** 2 + 1e-12
    points = _independent_points(np.sqrt(weights) * (curves - candidates[-1].values(x)))
    bics = np.stack([_bic(c.left, k + 1, points, len(x), precision) for k, c in enumerate(candidates)])
    smooth_bics = np.stack([_bic(left, k + 1, points, len(x), precision) for k, left in enumerate(smooth_left)])
    best = bics.argmin(axis=0)
    padded = [candidate.padded() for candidate in candidates]
    base, centers, widths, falls = (
        np.choose(best[(...,) + (None,) * (padded[0][i].ndim - 1)], [p[i] for p in padded]) for i in range(4)
    )
    left = np.choose(best, [candidate.left for candidate in candidates])
    return _described(
        x,
        base,
        centers,
        widths,
        falls,
        r2=np.where(total > 0, 1 - left / np.where(total > 0, total, 1), 0.0),
        delta_bic=smooth_bics.min(axis=0) - bics.min(axis=0),
    )


def _search(products: np.ndarray, gram: np.ndarray, penalties: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """For 1 to MAX_TERMS terms: which atoms [n, terms], and the squares that they explain together [n].

    Orthogonal matching: the next atom is the one that explains most beside those there are; then each is chosen
    again, given the others.
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
    """The atom [n] that explains most beside `chosen` [n, k], and the squares that all k + 1 explain together [n], less
    what their heights cost.
    """
    near = gram[chosen]
    own = np.take_along_axis(near, chosen[:, None, :], axis=2) + penalties[chosen][:, :, None] * np.eye(chosen.shape[1])
    mine = np.take_along_axis(products, chosen, axis=1)
    solved = np.linalg.solve(own, np.concatenate([near, mine[:, :, None]], axis=2))
    shared, heights = solved[:, :, :-1], solved[:, :, -1]
    left = products - (heights[:, None, :] @ near)[:, 0]
    scores = left**2 / (1 + penalties - (near * shared).sum(axis=1))
    best = scores.argmax(axis=1)
    return best, scores[np.arange(len(products)), best] + (heights * mine).sum(axis=1)


@dataclass(frozen=True, kw_only=True)
class _Terms:
    """Sums of k sigmoids; `left`: the weighted sum of squares that they do not explain [n]."""

    base: np.ndarray
    centers: np.ndarray
    widths: np.ndarray
    falls: np.ndarray
    left: np.ndarray

    def values(self, x: np.ndarray) -> np.ndarray:
        shapes = _sigmoids(x, self.centers, self.widths)
        return self.base[:, None] + (self.falls[:, None, :] @ shapes)[:, 0]

    def padded(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """base [n]; centers, widths, falls [n, MAX_TERMS]: unused terms are nan and come last."""
        missing = ((0, 0), (0, MAX_TERMS - self.centers.shape[1]))
        terms = (np.pad(a, missing, constant_values=np.nan) for a in (self.centers, self.widths, self.falls))
        return (self.base, *terms)  # type: ignore[return-value]


def _refine(curves: np.ndarray, x: np.ndarray, weights: np.ndarray, centers: np.ndarray, widths: np.ndarray) -> _Terms:
    """Least squares from the grid's centers and widths [n, k], by Levenberg-Marquardt on all curves at once.

    Heights are solved for exactly at each trial, so a step only moves centers and widths (variable projection with
    Kaufman's Jacobian).
    """
    num_terms = centers.shape[1]
    root = np.sqrt(weights)
    low, high = _WIDTH_LIMITS
    damping = np.full(len(curves), 1e-2)
    penalty = np.diag(np.append(np.full(num_terms, _HEIGHT_COST * len(x)), 0.0))

    def solve(centers: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """shapes [n, k, bins], heights [n, k + 1] (the base last), residuals, and what is left."""
        shapes = _sigmoids(x, centers, widths)
        design = np.concatenate([shapes, np.ones((len(curves), 1, len(x)))], axis=1) * root
        normal = design @ design.transpose(0, 2, 1) + penalty
        heights = np.linalg.solve(normal, design @ (root * curves)[:, :, None])[:, :, 0]
        residuals = root * curves - (heights[:, None, :] @ design)[:, 0]
        cost = penalty[0, 0] * (heights[:, :-1] ** 2).sum(axis=1)
        return shapes, heights, residuals, (residuals**2).sum(axis=1) + cost

    shapes, heights, residuals, left = solve(centers, widths)
    for _ in range(_REFINEMENTS):
        slopes = heights[:, :-1, None] * shapes * (1 - shapes) * root
        scaled = (x - centers[:, :, None]) / widths[:, :, None]
        # Derivatives by center / width and by log width: both without a unit.
        jacobian = np.concatenate([slopes * _LOGISTIC, slopes * _LOGISTIC * scaled], axis=1)
        design = np.concatenate([shapes, np.ones((len(curves), 1, len(x)))], axis=1) * root
        normal = design @ design.transpose(0, 2, 1) + penalty
        jacobian -= np.linalg.solve(normal, design @ jacobian.transpose(0, 2, 1)).transpose(0, 2, 1) @ design
        curvature = jacobian @ jacobian.transpose(0, 2, 1)
        diagonal = np.einsum("nii->ni", curvature)
        ridge = damping[:, None] * diagonal + 1e-9 * diagonal.max(axis=1, keepdims=True) + 1e-12
        curvature = curvature + ridge[:, :, None] * np.eye(2 * num_terms)
        move = np.linalg.solve(curvature, (jacobian @ residuals[:, :, None]))[:, :, 0]
        move = np.clip(move, -1, 1)
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
    return _Terms(
        base=heights[:, -1], centers=centers, widths=widths, falls=heights[:, :-1], left=(residuals**2).sum(axis=1)
    )


def _independent_points(residuals: np.ndarray) -> np.ndarray:
    """How many independent points the bins are worth [n]: neighbours share noise, as in an AR(1) process."""
    power = (residuals**2).sum(axis=1)
    shared = (residuals[:, 1:] * residuals[:, :-1]).sum(axis=1) / np.where(power > 0, power, 1)
    shared = np.clip(shared, 0, 0.9)
    return residuals.shape[1] * (1 - shared) / (1 + shared)


def _bic(left: np.ndarray, num_terms: int, points: np.ndarray, num_bins: int, precision: np.ndarray) -> np.ndarray:
    parameters = 1 + _PARAMETERS_OF_TERM * num_terms
    return points * np.log(np.maximum(left, 0) / num_bins + precision) + parameters * np.log(points)


def _described(
    x: np.ndarray,
    base: np.ndarray,
    centers: np.ndarray,
    widths: np.ndarray,
    falls: np.ndarray,
    r2: np.ndarray,
    delta_bic: np.ndarray,
) -> Fits:
    order = np.argsort(centers, axis=1, kind="stable")  # nan last
    centers, widths, falls = (np.take_along_axis(a, order, axis=1) for a in (centers, widths, falls))
    used = np.isfinite(centers)
    where, how_wide, how_far = np.where(used, centers, 0.0), np.where(used, widths, 1.0), np.where(used, falls, 0.0)

    def model(at: np.ndarray) -> np.ndarray:
        """Fitted losses at octaves [n, points]."""
        return base[:, None] + np.einsum("nk,nkp->np", how_far, _sigmoids(at[:, None, :], where, how_wide))

    values = model(np.broadcast_to(x, (len(base), len(x))))
    lowest_yet = np.minimum.accumulate(values, axis=1)
    before = np.maximum(np.searchsorted(x, where - how_wide / 2, side="right") - 1, 0)
    after = np.minimum(np.searchsorted(x, where + how_wide / 2), len(x) - 1)
    an_octave_on = np.minimum(np.searchsorted(x, where + how_wide / 2 + 1), len(x) - 1)
    ends = np.maximum(np.take_along_axis(values, after, axis=1), np.take_along_axis(values, an_octave_on, axis=1))
    new_low = np.take_along_axis(lowest_yet, before, axis=1) - ends
    seen = (centers - widths / 2 >= x[0]) & (centers + widths / 2 <= x[-1]) & (centers >= x[1]) & (centers <= x[-3])
    # Most of what the loss falls meanwhile is this term's: not a correction to a wide one, as at a kink.
    meanwhile = model(where - how_wide / 2) - model(where + how_wide / 2)
    sharp = used & seen & (widths <= MAX_STEP_WIDTH) & (falls >= MIN_STEP_FALL) & (0.8 * falls >= meanwhile / 2)
    steps = sharp & (new_low >= MIN_STEP_FALL) & (delta_bic >= MIN_DELTA_BIC)[:, None]

    candidates = np.where(steps.any(axis=1, keepdims=True) & ~steps, -np.inf, np.where(used, falls, -np.inf))
    main = candidates.argmax(axis=1)[:, None]
    middle = model(np.take_along_axis(where, main, axis=1))[:, 0]
    half = np.take_along_axis(how_far, main, axis=1)[:, 0] / 2
    return Fits(
        time=_updates(np.take_along_axis(centers, main, axis=1)[:, 0]),
        width=np.take_along_axis(widths, main, axis=1)[:, 0],
        # Terms that overlap may each be larger than what the curve shows of them.
        high=np.minimum(middle + half, values.max(axis=1)),
        low=np.maximum(middle - half, values.min(axis=1)),
        r2=r2,
        delta_bic=delta_bic,
        is_step=steps.any(axis=1),
        num_steps=steps.sum(axis=1),
        times=_updates(centers),
        widths=widths,
        falls=falls,
        steps=steps,
        base=base,
    )


def _updates(position: np.ndarray) -> np.ndarray:
    return 2**position - 1


def _sigmoids(x: np.ndarray, centers: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Falling logistic functions: x [bins] or broadcastable, centers and widths [n, k] -> [n, k, bins]."""
    scaled = (x - centers[:, :, None]) * (_LOGISTIC / widths[:, :, None])
    return 0.5 - 0.5 * np.tanh(0.5 * scaled)


def _centred(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rows less their weighted mean, times the root of the weights."""
    return (values - (values @ weights / weights.sum())[:, None]) * np.sqrt(weights)
