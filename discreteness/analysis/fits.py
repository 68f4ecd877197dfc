"""loss curves -> drops: each curve as a sum of sigmoids in log step, weighed against the best smooth curve.

The axis is octaves, log2(step + 1), on which points weigh evenly. A drop is a fall too sharp for any mixture of
exponential relaxations: docs/analysis.md has the definition, its reasons, and how often it is wrong on planted data.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from discreteness.analysis.sigmoids import PRECISION, Atoms, Terms, centred, refine, search, sigmoids
from discreteness.dataset.manifest import listed

MIN_POINTS = 8
"""Checkpoints below which a curve says nothing about its shape."""
BINS_PER_OCTAVE = 16
"""Checkpoints closer than this are averaged, so that the last octave of a dense plan does not outvote the others."""
MAX_DROP_WIDTH = 2.5
"""Octaves. An exponential relaxation takes 4.45 from 10 % to 90 %, a mixture of them more: a drop is sharper."""
MIN_DROP_FALL = 0.5
"""Nats that a drop must take the loss below all that came before."""
MIN_DELTA_BIC = 10.0
"""Evidence asked of a drop: odds of about 150 to 1 by the criterion's own approximation (Kass & Raftery 1995)."""

_PARAMETERS_OF_TERM = 3
_CHUNK = 256
"""Curves fitted at once: their intermediate arrays stay near the size of a cache."""


@dataclass(frozen=True, kw_only=True)
class Fits:
    """Fits of n curves: base + sum of falls * sigmoid. Times are in updates, losses in nats, widths in octaves."""

    time: np.ndarray
    """[n] updates at the middle of the main fall: the largest drop, or the largest fall where there is no drop."""
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
    is_drop: np.ndarray
    """bool [n] there is a drop, with evidence of at least MIN_DELTA_BIC."""
    num_drops: np.ndarray
    """int64 [n]"""
    times: np.ndarray
    """[n, MAX_TERMS] middles of all terms, ascending; nan where a curve needs fewer. So for the next two."""
    widths: np.ndarray
    """[n, MAX_TERMS]"""
    falls: np.ndarray
    """[n, MAX_TERMS] negative where the loss rises."""
    drops: np.ndarray
    """bool [n, MAX_TERMS] terms that are drops; none where `is_drop` is false."""
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
        return np.where(used, self.falls, 0.0)[:, :, None] * sigmoids(octaves(steps), centers, widths)

    def __getitem__(self, index: slice | np.ndarray) -> Self:
        return type(self)(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})


def octaves(steps: Sequence[int] | np.ndarray) -> np.ndarray:
    """log2(step + 1): step 0 has a place."""
    return np.log2(1 + np.asarray(steps, np.float64))


def fit(losses: np.ndarray, steps: Sequence[int] | np.ndarray) -> Fits:
    """Fits each curve of `losses` [n, steps], in nats, at `steps` [steps], updates, ascending from 0 up.

    Any real dtype; what is computed is float64. The work is done in this process.

    Raises ValueError if there are fewer than MIN_POINTS steps, if shapes do not match, if the steps do not ascend, or
    if a loss is not finite.
    """
    losses, at = np.asarray(losses), np.asarray(steps, np.float64)
    if losses.ndim != 2 or at.ndim != 1 or losses.shape[1] != len(at):
        raise ValueError(f"losses {losses.shape} and steps {at.shape} do not match; give [curves, steps] and [steps]")
    if len(at) < MIN_POINTS:
        raise ValueError(f"{len(at)} checkpoints are too few to fit; give at least {MIN_POINTS}")
    if at[0] < 0 or not (np.diff(at) > 0).all():
        raise ValueError(f"steps must ascend, each once, from 0 up, not {listed(at.tolist())}")
    if not np.isfinite(losses).all():
        row, column = np.argwhere(~np.isfinite(losses))[0]
        raise ValueError(f"curve {row} has a loss of {losses[row, column]} at step {steps[column]}")

    # Bins: checkpoints that are close in log step are averaged.
    x, owner = _bins(at)
    counts = np.bincount(owner)
    # Noise of neighbouring checkpoints is partly shared: an average of k is better than one, but not k times better.
    weights = np.sqrt(counts)
    weights *= len(x) / weights.sum()
    atoms = Atoms.on(x, weights, MAX_DROP_WIDTH)

    # Curves are fitted in chunks: what is needed of each is its mean over every bin.
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


def _fit(curves: np.ndarray, x: np.ndarray, atoms: Atoms) -> Fits:
    """`curves` [n, bins]."""
    # What each shape alone explains of each curve.
    weights = atoms.weights
    centred_curves = centred(curves, weights)
    total = (centred_curves**2).sum(axis=1)
    products = centred_curves @ atoms.values.T

    # The fit: one to MAX_TERMS sigmoids of any width, from the grid and then refined.
    any_width, smooth = slice(0, atoms.num_sigmoids), slice(atoms.num_narrow, None)
    found = search(products[:, any_width], atoms.gram[any_width, any_width], atoms.penalties)
    candidates = [refine(curves, x, weights, atoms.centers[chosen], atoms.widths[chosen]) for chosen, _ in found]

    # The alternative: as many smooth shapes, from the grid alone. They may cancel as they like, short of the limits of
    # arithmetic: what they can draw is smooth.
    free = np.full(len(atoms.values) - atoms.num_narrow, 1e-6)
    smooth_left = [total - e for _, e in search(products[:, smooth], atoms.gram[smooth, smooth], free)]

    # Evidence: the Bayesian information criterion (Schwarz 1978) of each number of terms, of either kind.
    precision = (PRECISION * np.ptp(curves, axis=1)) ** 2 + 1e-12
    points = _independent_points(np.sqrt(weights) * (curves - candidates[-1].values(x)))
    bics = np.stack([_bic(c.left, k + 1, points, len(x), precision) for k, c in enumerate(candidates)])
    smooth_bics = np.stack([_bic(left, k + 1, points, len(x), precision) for k, left in enumerate(smooth_left)])

    # Each curve gets the number of terms with the lowest criterion.
    best = bics.argmin(axis=0)
    left = np.choose(best, [candidate.left for candidate in candidates])
    return _described(
        x,
        _chosen(best, candidates),
        r2=np.where(total > 0, 1 - left / np.where(total > 0, total, 1), 0.0),
        delta_bic=smooth_bics.min(axis=0) - bics.min(axis=0),
    )


def _chosen(best: np.ndarray, candidates: list[Terms]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each curve the candidate `best` [n], as Terms.padded."""
    padded = [candidate.padded() for candidate in candidates]
    base, centers, widths, falls = (
        np.choose(best[(...,) + (None,) * (padded[0][i].ndim - 1)], [p[i] for p in padded]) for i in range(4)
    )
    return base, centers, widths, falls


def _independent_points(residuals: np.ndarray) -> np.ndarray:
    """How many independent points the bins are worth [n]: neighbours share noise, as in an AR(1) process (Bayley &
    Hammersley 1946).
    """
    power = (residuals**2).sum(axis=1)
    shared = (residuals[:, 1:] * residuals[:, :-1]).sum(axis=1) / np.where(power > 0, power, 1)
    shared = np.clip(shared, 0, 0.9)
    return residuals.shape[1] * (1 - shared) / (1 + shared)


def _bic(left: np.ndarray, num_terms: int, points: np.ndarray, num_bins: int, precision: np.ndarray) -> np.ndarray:
    """Bayesian information criterion [n] of a sum of terms that leaves these squares, over its independent points."""
    parameters = 1 + _PARAMETERS_OF_TERM * num_terms
    return points * np.log(np.maximum(left, 0) / num_bins + precision) + parameters * np.log(points)


def _described(
    x: np.ndarray,
    terms: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    r2: np.ndarray,
    delta_bic: np.ndarray,
) -> Fits:
    """Which of the terms (as Terms.padded) are drops, and the main fall of each curve."""
    # Terms in the order of their times, with harmless values where there is none.
    base, centers, widths, falls = terms
    order = np.argsort(centers, axis=1, kind="stable")  # nan last
    centers, widths, falls = (np.take_along_axis(a, order, axis=1) for a in (centers, widths, falls))
    used = np.isfinite(centers)
    where, how_wide, how_far = np.where(used, centers, 0.0), np.where(used, widths, 1.0), np.where(used, falls, 0.0)

    def model(at: np.ndarray) -> np.ndarray:
        """Fitted losses at octaves [n, points]."""
        return base[:, None] + np.einsum("nk,nkp->np", how_far, sigmoids(at[:, None, :], where, how_wide))

    # A new low: how far below all that came before a term takes the loss, right after it and an octave later.
    values = model(np.broadcast_to(x, (len(base), len(x))))
    lowest_yet = np.minimum.accumulate(values, axis=1)
    before = np.maximum(np.searchsorted(x, where - how_wide / 2, side="right") - 1, 0)
    after = np.minimum(np.searchsorted(x, where + how_wide / 2), len(x) - 1)
    an_octave_on = np.minimum(np.searchsorted(x, where + how_wide / 2 + 1), len(x) - 1)
    ends = np.maximum(np.take_along_axis(values, after, axis=1), np.take_along_axis(values, an_octave_on, axis=1))
    new_low = np.take_along_axis(lowest_yet, before, axis=1) - ends

    # Drops, by the definition in docs/analysis.md.
    seen = (centers - widths / 2 >= x[0]) & (centers + widths / 2 <= x[-1]) & (centers >= x[1]) & (centers <= x[-3])
    # Most of what the loss falls during the term is this term's: not a correction to a wide one, as at a kink.
    in_all = model(where - how_wide / 2) - model(where + how_wide / 2)
    sharp = used & seen & (widths <= MAX_DROP_WIDTH) & (falls >= MIN_DROP_FALL) & (0.8 * falls >= in_all / 2)
    drops = sharp & (new_low >= MIN_DROP_FALL) & (delta_bic >= MIN_DELTA_BIC)[:, None]

    # The main fall: the largest drop, or the largest fall where there is no drop.
    candidates = np.where(drops.any(axis=1, keepdims=True) & ~drops, -np.inf, np.where(used, falls, -np.inf))
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
        is_drop=drops.any(axis=1),
        num_drops=drops.sum(axis=1),
        times=_updates(centers),
        widths=widths,
        falls=falls,
        drops=drops,
        base=base,
    )


def _updates(position: np.ndarray) -> np.ndarray:
    return 2**position - 1
