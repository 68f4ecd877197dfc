"""loss curves -> drops: each curve as a sum of sigmoids in log step, weighed against the best smooth curve.

The axis is octaves, on which points weigh as their noise says. A drop is a fall too sharp for any relaxation at a rate
that grows no faster than time: docs/analysis.md has the definition, its reasons, and how often it is wrong on planted
data.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from discreteness.analysis.bins import Bins
from discreteness.analysis.falls import MAX_DROP_WIDTH, Falls, standard_errors, whitened_jacobian
from discreteness.analysis.noise import Noise, noise_by_time, taken_up_by
from discreteness.analysis.refinement import Terms, refine
from discreteness.analysis.search import PRECISION, Atoms, centred
from discreteness.analysis.sigmoids import sigmoids
from discreteness.dataset.manifest import listed

MIN_POINTS = 8
"""Checkpoints below which a curve says nothing about its shape."""
MIN_DELTA_BIC = 4.0
"""Evidence asked of a drop: "positive" on the scale of Kass & Raftery (1995), and chosen by planted smooth curves."""
MIN_ERRORS = 4.0
"""Standard errors of its height that a drop must fall."""

_FIT: dict[str, float] = {"min_width": 0.0625, "max_height": 1.1}
_SMOOTH: dict[str, float] = {"min_width": MAX_DROP_WIDTH, "max_seen": 1.1}
"""Limits of the terms of a fit, and of smooth ones: octaves, and heights in ranges of their curve. Without the latter,
terms would cancel each other: in a fit they would mean nothing, and two smooth ones could draw any bend."""
_PARAMETERS_OF_TERM = 3
_CHUNK = 256
"""Curves fitted at once: their intermediate arrays stay near the size of a cache."""
_SAMPLE = 512
"""Curves from which the noise by time is taken."""
_MIN_BINS = 20
"""Below, the most flexible fits leave too little of the noise: its level is taken as constant, and as not shared."""
_SHAPES = 32
"""Curves among these that show what of it the fits take up."""


@dataclass(frozen=True, kw_only=True)
class Fits:
    """Fits of n curves: base + sum of falls * sigmoid. Times are in updates, losses in nats, widths in octaves."""

    time: np.ndarray
    """[n] updates at the middle of the main fall: the largest drop, or the largest fall where there is no drop."""
    width: np.ndarray
    """[n] octaves (doublings of step + origin) from 10 % to 90 % of the main fall."""
    high: np.ndarray
    """[n] level before the main fall, within what the fitted curve shows. If the loss had been lower before, as where a
    fall undoes a rise: that lower level."""
    low: np.ndarray
    """[n] level after it."""
    time_error: np.ndarray
    """[n] standard error of the main fall's time, in octaves; nan where there is no drop. So for the next two."""
    width_error: np.ndarray
    """[n] octaves"""
    height_error: np.ndarray
    """[n] nats, of the main fall's term"""
    r2: np.ndarray
    """[n] share of the curve's variance over log step that the fit explains; 0 for a constant curve."""
    delta_bic: np.ndarray
    """[n] BIC of the best smooth curve minus that of the fit."""
    is_drop: np.ndarray
    """bool [n] there is a drop, with evidence of at least MIN_DELTA_BIC."""
    num_drops: np.ndarray
    """int64 [n]"""
    fall: np.ndarray
    """[n] nats that the fitted curve falls in all, from its beginning to its lowest level."""
    fall_in_drops: np.ndarray
    """[n] nats of it that lie in drops."""
    times: np.ndarray
    """[n, MAX_TERMS] middles of all terms, ascending; nan where a curve needs fewer. So for the next two."""
    widths: np.ndarray
    """[n, MAX_TERMS]"""
    falls: np.ndarray
    """[n, MAX_TERMS] negative where the loss rises."""
    drops: np.ndarray
    """bool [n, MAX_TERMS] terms that are drops; none where `is_drop` is false. Where several draw one drop
    together, as a ramp, the largest is marked."""
    base: np.ndarray
    """[n] level after all terms."""
    origin: np.ndarray
    """[n] updates: the first step after 0 that was recorded. The axis is log2(step / origin + 1)."""
    rival: Terms
    """Of each curve its best smooth description."""
    single: Terms
    """Of each curve the one sigmoid that describes it best, falling or rising: arXiv 2606.29858 fits one per token."""
    single_r2: np.ndarray
    """[n] share of the curve's variance over log step that this one explains; 0 for a constant curve."""

    def curve(self, steps: Sequence[int] | np.ndarray) -> np.ndarray:
        """The fitted curves at these steps, float64 [n, len(steps)]."""
        terms = self.terms(steps)
        return self.base[:, None] + terms.sum(axis=1)

    def smooth(self, steps: Sequence[int] | np.ndarray) -> np.ndarray:
        """The best smooth curves at these steps, float64 [n, len(steps)]."""
        return self.rival.values(self._octaves(steps))

    def terms(self, steps: Sequence[int] | np.ndarray) -> np.ndarray:
        """What each term adds at these steps, float64 [n, MAX_TERMS, len(steps)]: its fall before, 0 after."""
        used = np.isfinite(self.times)
        centers = np.where(used, octaves(self.times, self.origin[:, None]), 0.0)
        widths = np.where(used, self.widths, 1.0)
        return np.where(used, self.falls, 0.0)[:, :, None] * sigmoids(self._octaves(steps), centers, widths)

    @property
    def single_times(self) -> np.ndarray:
        """[n] updates at the middle of the one sigmoid."""
        return _updates(self.single.centers[:, 0], self.origin)

    def single_terms(self, steps: Sequence[int] | np.ndarray) -> np.ndarray:
        """What the one sigmoid adds at these steps, float64 [n, len(steps)]: its fall before, 0 after."""
        return self.single.each(self._octaves(steps))[:, 0]

    def _octaves(self, steps: Sequence[int] | np.ndarray) -> np.ndarray:
        """[n, 1, len(steps)]"""
        return octaves(np.asarray(steps), self.origin[:, None, None])

    def __getitem__(self, index: slice | np.ndarray) -> Self:
        return type(self)(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        def joined(name: str) -> Any:
            values = [getattr(part, name) for part in parts]
            return Terms.concatenate(values) if isinstance(values[0], Terms) else np.concatenate(values)

        return cls(**{f.name: joined(f.name) for f in fields(cls)})


def octaves(steps: Sequence[int] | np.ndarray, origin: float | np.ndarray = 1.0) -> np.ndarray:
    """log2(step / origin + 1): step 0 has a place."""
    return np.log2(1 + np.asarray(steps, np.float64) / origin)


def fit(losses: np.ndarray, steps: Sequence[int] | np.ndarray, noise: np.ndarray | Noise | None = None) -> Fits:
    """Fits each curve of `losses` [n, steps], in nats, at `steps` [steps], updates, ascending from 0 up.

    - Any real dtype; what is computed is float64. The work is done in this process.
    - `noise`: how the noise of a checkpoint changes along the run [steps], in any unit, for each curve has its own
      level; or the `pooled_noise` of these or other curves at the same steps. Without it that of the curves given is
      taken, so that a verdict depends on them.

    Raises ValueError if there are fewer than MIN_POINTS steps, if shapes do not match, if the steps do not ascend, if a
    loss is not finite, or if a noise is not above 0.
    """
    losses, at = np.asarray(losses), np.asarray(steps, np.float64)
    _check(losses, at, noise)

    bins, origin = _bins(at)
    if noise is None:
        noise = pooled_noise(losses, at)
    elif not isinstance(noise, Noise):
        noise = Noise.of(bins.variances * bins.means(np.asarray(noise, np.float64)[None] ** 2)[0])
    means, atoms = bins.means(losses), Atoms.on(bins.x, noise, MAX_DROP_WIDTH)
    return Fits.concatenate(
        [_fit(means[start : start + _CHUNK], bins, atoms, origin) for start in range(0, max(1, len(means)), _CHUNK)]
    )


def pooled_noise(losses: np.ndarray, steps: Sequence[int] | np.ndarray) -> Noise:
    """How the noise changes along the run, from the residuals of the most flexible fits of some of `losses` [n, steps].

    For fits of other curves of the same dataset at the same steps. Raises ValueError as `fit` does.
    """
    losses, at = np.asarray(losses), np.asarray(steps, np.float64)
    _check(losses, at, None)
    bins, _ = _bins(at)
    known = Noise.of(bins.variances)
    if not len(losses) or len(bins.x) < _MIN_BINS:
        return known
    curves = bins.means(losses[:: max(1, len(losses) // _SAMPLE)][:_SAMPLE])
    atoms = Atoms.on(bins.x, known, MAX_DROP_WIDTH)
    residuals, jacobians = np.empty_like(curves), []
    for start in range(0, len(curves), _CHUNK):
        some = slice(start, start + _CHUNK)
        chosen, _ = atoms.search(atoms.products(curves[some]), atoms.sigmoids())[-1]
        terms = _refined(curves[some], bins.x, atoms, chosen, **_FIT)
        residuals[some] = curves[some] - terms.values(bins.x)
        jacobians.append(whitened_jacobian(terms, bins.x, known))
    shapes = np.concatenate(jacobians)[:: max(1, len(curves) // _SHAPES)][:_SHAPES]
    return noise_by_time(residuals, bins.x, bins.variances, taken_up_by(shapes), floor=_precision(curves))


def _bins(steps: np.ndarray) -> tuple[Bins, float]:
    """And the origin of their octaves, in updates."""
    origin = float(steps[steps > 0][0])
    return Bins.of(octaves(steps, origin)), origin


def _check(losses: np.ndarray, steps: np.ndarray, noise: np.ndarray | Noise | None) -> None:
    if losses.ndim != 2 or steps.ndim != 1 or losses.shape[1] != len(steps):
        raise ValueError(
            f"losses {losses.shape} and steps {steps.shape} do not match; give [curves, steps] and [steps]"
        )
    if len(steps) < MIN_POINTS:
        raise ValueError(f"{len(steps)} checkpoints are too few to fit; give at least {MIN_POINTS}")
    if steps[0] < 0 or not (np.diff(steps) > 0).all():
        raise ValueError(f"steps must ascend, each once, from 0 up, not {listed(steps.tolist())}")
    if not np.isfinite(losses).all():
        row, column = np.argwhere(~np.isfinite(losses))[0]
        raise ValueError(f"curve {row} has a loss of {losses[row, column]} at step {steps[column]:g}")
    if isinstance(noise, Noise):
        bins = len(_bins(steps)[0].x)
        if len(noise.weights) != bins:
            raise ValueError(
                f"the noise is of {len(noise.weights)} bins, and these steps have {bins}; give that of equal steps"
            )
    elif noise is not None:
        noise = np.asarray(noise)
        if noise.shape != steps.shape:
            raise ValueError(f"noise {noise.shape} and steps {steps.shape} do not match; give one level per step")
        if not (np.isfinite(noise) & (noise > 0)).all():
            wrong = np.flatnonzero(~(np.isfinite(noise) & (noise > 0)))[0]
            raise ValueError(f"the noise at step {steps[wrong]:g} is {noise[wrong]}; give a number above 0")


def _precision(curves: np.ndarray) -> np.ndarray:
    """[n] squares of a misfit that counts for nothing."""
    return (PRECISION * np.ptp(curves, axis=1)) ** 2 + 1e-12


def _refined(curves: np.ndarray, x: np.ndarray, atoms: Atoms, chosen: np.ndarray, **limits: Any) -> Terms:
    grid = (atoms.centers[chosen], atoms.widths[chosen], atoms.tails[chosen])
    return refine(curves, x, atoms.noise, *grid, **limits)


def _fit(curves: np.ndarray, bins: Bins, atoms: Atoms, origin: float) -> Fits:
    """`curves` [n, bins]."""
    x, noise = bins.x, atoms.noise
    products = atoms.products(curves)
    total = (centred(curves, noise) ** 2).sum(axis=1)
    varies = total > 1e-20 * (curves**2).sum(axis=1)
    precision = _precision(curves)

    def explained(terms: Terms) -> np.ndarray:
        return np.where(varies, 1 - terms.left / np.where(varies, total, 1), 0.0)

    # The fit: one to MAX_TERMS sigmoids of any width, from the grid and then refined.
    found = atoms.search(products, atoms.sigmoids())
    candidates = [_refined(curves, x, atoms, chosen, **_FIT) for chosen, _ in found]
    points = _independent_points(noise.whitened(curves - candidates[-1].values(x)))

    def bic(candidate: Terms) -> np.ndarray:
        """Bayesian information criterion (Schwarz 1978) [n], over as many points as are independent."""
        parameters = 1 + _PARAMETERS_OF_TERM * candidate.centers.shape[1]
        return points * np.log(candidate.left / len(x) + precision) + parameters * np.log(points)

    candidates[1] = _second_start(curves, x, noise, candidates, bic)
    # The curve gets the number of terms with the lowest criterion.
    bics = np.stack([bic(c) for c in candidates])
    falls = Falls.of(Terms.chosen(bics.argmin(axis=0), candidates), x)

    # The alternative: as many smooth shapes. What they can draw is smooth, even if they cancel.
    grid = atoms.search(products, atoms.smooth())
    rivals = [_refined(curves, x, atoms, chosen, moves=0, **_SMOOTH) for chosen, _ in grid]
    evidence = np.stack([bic(r) for r in rivals]).min(axis=0) - bics.min(axis=0)
    # Where it decides, it is refined as well: the grid's misfit is evidence of nothing.
    undecided = np.flatnonzero(falls.sharp.any(axis=1) & (evidence >= MIN_DELTA_BIC))
    if len(undecided):
        rivals = [
            rival.replaced(undecided, _refined(curves[undecided], x, atoms, chosen[undecided], **_SMOOTH))
            for rival, (chosen, _) in zip(rivals, grid, strict=True)
        ]
    smooth_bics = np.stack([bic(r) for r in rivals])
    return _described(
        falls,
        bins,
        noise,
        points,
        r2=explained(falls.terms),
        delta_bic=smooth_bics.min(axis=0) - bics.min(axis=0),
        rival=Terms.chosen(smooth_bics.argmin(axis=0), rivals),
        single=candidates[0],
        single_r2=explained(candidates[0]),
        origin=origin,
    )


def _second_start(
    curves: np.ndarray, x: np.ndarray, noise: Noise, candidates: list[Terms], bic: Callable[[Terms], np.ndarray]
) -> Terms:
    """The fit with two terms, also tried from that with three, of which the nearest two are joined: where the search
    has put one term between two falls, it may not find its way.
    """
    two, three = candidates[1:]
    where = np.flatnonzero(bic(three) < bic(two))
    if not len(where):
        return two
    order = np.argsort(three.centers[where], axis=1)
    centers, widths, falls = (
        np.take_along_axis(a[where], order, axis=1) for a in (three.centers, three.widths, three.falls)
    )
    rows, near = np.arange(len(where)), np.diff(centers, axis=1).argmin(axis=1)
    # The pair is the terms near and near + 1; the third stays: 2 where near is 0, 0 where near is 1.
    stays = np.where(near == 0, 2, 0)
    heights = np.abs(np.stack([falls[rows, near], falls[rows, near + 1]])) + 1e-9
    middle = (heights[0] * centers[rows, near] + heights[1] * centers[rows, near + 1]) / heights.sum(axis=0)
    spread = np.maximum(widths[rows, near], widths[rows, near + 1])
    started = refine(
        curves[where],
        x,
        noise,
        np.stack([middle, centers[rows, stays]], axis=1),
        np.stack([spread, widths[rows, stays]], axis=1),
        two.tails[where],
        **_FIT,  # type: ignore[arg-type]
    )
    better = started.left < two.left[where]
    return two.replaced(where[better], started[better])


def _independent_points(residuals: np.ndarray) -> np.ndarray:
    """How many independent points the bins are worth [n]: neighbours share noise, as in an AR(1) process (Bayley &
    Hammersley 1946).
    """
    power = (residuals**2).sum(axis=1)
    shared = (residuals[:, 1:] * residuals[:, :-1]).sum(axis=1) / np.where(power > 0, power, 1)
    shared = np.clip(shared, 0, 0.9)
    return residuals.shape[1] * (1 - shared) / (1 + shared)


def _described(
    falls: Falls,
    bins: Bins,
    noise: Noise,
    points: np.ndarray,
    r2: np.ndarray,
    delta_bic: np.ndarray,
    rival: Terms,
    single: Terms,
    single_r2: np.ndarray,
    origin: float,
) -> Fits:
    """Which of the terms are drops, and the main fall of each curve."""
    terms = falls.terms
    drops = falls.sharp & (delta_bic >= MIN_DELTA_BIC)[:, None]
    some = np.asarray(drops.any(axis=1))
    errors = np.full((3, *drops.shape), np.nan)
    errors[:, some] = standard_errors(terms[some], bins.x, noise, points[some])
    # Slow noise falls and rises by itself.
    drops &= falls.new_low >= MIN_ERRORS * np.where(drops, errors[2], np.inf)
    is_drop = np.asarray(drops.any(axis=1))

    # The main fall: the largest drop, or the largest fall where there is no drop.
    heights = np.where(drops, falls.high - falls.low, falls.heights)
    main = np.where(is_drop[:, None] & ~drops, -np.inf, heights).argmax(axis=1)

    def of_main(values: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values, main[:, None], axis=1)[:, 0]

    time_error, width_error, height_error = (np.where(is_drop, of_main(each), np.nan) for each in errors)
    fall = falls.values[:, 0] - falls.values.min(axis=1)
    return Fits(
        time=_updates(of_main(falls.times), origin),
        width=of_main(bins.unsmeared(falls.widths, falls.times)),
        high=of_main(falls.high),
        low=of_main(falls.low),
        time_error=time_error,
        width_error=width_error,
        height_error=height_error,
        r2=r2,
        delta_bic=delta_bic,
        is_drop=is_drop,
        num_drops=drops.sum(axis=1),
        fall=fall,
        fall_in_drops=np.minimum((falls.high - falls.low).sum(axis=1, where=drops), fall),
        times=_updates(terms.centers, origin),
        widths=bins.unsmeared(terms.widths, terms.centers),
        falls=terms.falls,
        drops=drops,
        base=terms.base,
        origin=np.full(len(main), origin),
        rival=rival,
        single=single,
        single_r2=single_r2,
    )


def _updates(position: np.ndarray, origin: float | np.ndarray) -> np.ndarray:
    return origin * (2**position - 1)
