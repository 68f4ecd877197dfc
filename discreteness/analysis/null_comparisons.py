"""a sample of a dataset -> what its drops must be compared with: chance on smooth curves, and means of tokens."""

from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import Self

import numpy as np

from discreteness.analysis.averages import means
from discreteness.analysis.fits import Fits, fit
from discreteness.analysis.intervals import Estimate, Share, mean, share
from discreteness.analysis.noise import Noise
from discreteness.analysis.processes import Processes
from discreteness.analysis.residuals import residuals_of, shared_by_seeds
from discreteness.analysis.sample import Sample
from discreteness.analysis.spectrum import spectrum
from discreteness.analysis.surrogates import Chance, again, chance, sampled, smooth_shapes, surrogates
from discreteness.analysis.verdicts import DatasetNoise, judged

_CURVES_AT_ONCE = 500
"""In one process."""


@dataclass(frozen=True, kw_only=True)
class SmoothCurves:
    """- `by_drops`: float64 [resamples, bins of the spectrum], nats per octave that they lose in drops, put right as
      the share of false drops is.
    - `single_r2`: mean share of a curve's variance that one sigmoid explains.
    - `single_spectrum_r2`: R^2 of the learning times of these sigmoids, as a description of the mean loss's derivative.
    """

    by_drops: np.ndarray
    single_r2: Estimate
    single_spectrum_r2: float

    @classmethod
    def of(cls, drawn: np.ndarray, fits: Fits, steps: np.ndarray, taken: float) -> Self:
        """Of surrogates [resamples, curves, steps] and their fits."""
        curves = drawn.shape[1]
        spectra = [spectrum(one, steps, fits[curves * row : curves * (row + 1)]) for row, one in enumerate(drawn)]
        together = reduce(add, spectra)
        return cls(
            by_drops=taken * np.stack([one.per_octave(one.by_drops) for one in spectra]),
            single_r2=mean(fits.single_r2, np.repeat(np.arange(len(drawn)), curves)),
            single_spectrum_r2=together.rebuilt_share(together.at_single_times),
        )


@dataclass(frozen=True, kw_only=True)
class NullComparisons:
    """- `noise`: of the sample, by which surrogates are judged, and all curves of the dataset.
    - `shared_residuals`: of the noise between neighbouring checkpoints, what all seeds share.
    - `smooth`: what fits say of smooth curves with this noise.
    - `averages`: (kind, number of tokens) of `averages.Means` -> share of such means with a drop.
    """

    noise: DatasetNoise
    shared_residuals: Share
    chance: Chance
    smooth: SmoothCurves
    averages: dict[tuple[str, int | None], Share]


def compare(sample: Sample, workers: Processes) -> NullComparisons:
    """Fits some thousands of curves, however large the dataset is."""
    noise = DatasetNoise.of(sample.losses.reshape(-1, len(sample.steps)), sample.steps)
    shared_residuals, found, smooth = smooth_curves(sample, noise.whole, workers)
    return NullComparisons(
        noise=noise,
        shared_residuals=shared_residuals,
        chance=found,
        smooth=smooth,
        averages=_averages(sample, found.evidence, workers),
    )


def smooth_curves(sample: Sample, noise: Noise, workers: Processes) -> tuple[Share, Chance, SmoothCurves]:
    """What seeds share of the noise, what chance gives with it, and what fits say of smooth curves with it."""
    random, steps = np.random.default_rng(0), sample.steps
    chosen = sampled(sample, random)
    losses = sample.losses[chosen]
    curves = losses.reshape(-1, len(steps))
    fits = _fit(curves, steps, noise, workers, "noise")
    left = residuals_of(curves, fits, steps)
    smooth = smooth_shapes(curves, fits, steps, random)
    drawn = surrogates(smooth.reshape(losses.shape), left.reshape(losses.shape), steps, random)
    once = _fit(drawn.reshape(-1, len(steps)), steps, noise, workers, "smooth curves")
    redrawn = again(drawn, once, steps, random)
    twice = _fit(redrawn.reshape(-1, len(steps)), steps, noise, workers, "smooth curves again")
    found = chance(once, twice)
    shared = shared_by_seeds(left.reshape(losses.shape), sample.doc_ids[chosen])
    return shared, found, SmoothCurves.of(drawn, judged(once, found.evidence), steps, found.taken)


def _averages(sample: Sample, evidence: float, workers: Processes) -> dict[tuple[str, int | None], Share]:
    of_kind = list(means(sample))
    fits = workers.map(partial(fit, steps=sample.steps), [one.losses for one in of_kind], "means of tokens")
    return {
        (one.kind, one.tokens): share(judged(found, evidence).is_drop, np.ones(len(one.groups)), one.groups)
        for one, found in zip(of_kind, fits, strict=True)
    }


def _fit(curves: np.ndarray, steps: np.ndarray, noise: Noise, workers: Processes, label: str) -> Fits:
    parts = [curves[start : start + _CURVES_AT_ONCE] for start in range(0, len(curves), _CURVES_AT_ONCE)]
    return Fits.concatenate(list(workers.map(partial(fit, steps=steps, noise=noise), parts, label)))
