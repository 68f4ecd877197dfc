"""a sample of a dataset -> what its drops must be compared with: chance on smooth curves, and means of tokens."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from discreteness.analysis.averages import means
from discreteness.analysis.fits import Fits, fit
from discreteness.analysis.intervals import Share, share
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
class NullComparisons:
    """- `noise`: of the sample, by which surrogates are judged, and all curves of the dataset.
    - `shared_residuals`: of the noise between neighbouring checkpoints, what all seeds share.
    - `false_falls`: float64 [resamples, bins of the spectrum], nats per octave that smooth curves lose in drops.
    - `averages`: (kind, number of tokens) of `averages.Means` -> share of such means with a drop.
    """

    noise: DatasetNoise
    shared_residuals: Share
    chance: Chance
    false_falls: np.ndarray
    averages: dict[tuple[str, int | None], Share]


def compare(sample: Sample, workers: Processes) -> NullComparisons:
    """Fits some thousands of curves, however large the dataset is."""
    noise = DatasetNoise.of(sample.losses.reshape(-1, len(sample.steps)), sample.steps)
    shared_residuals, found, false_falls = smooth_curves(sample, noise.whole, workers)
    return NullComparisons(
        noise=noise,
        shared_residuals=shared_residuals,
        chance=found,
        false_falls=false_falls,
        averages=_averages(sample, found.evidence, workers),
    )


def smooth_curves(sample: Sample, noise: Noise, workers: Processes) -> tuple[Share, Chance, np.ndarray]:
    """What seeds share of the noise, what chance gives with it, and the spectrum of its drops as in NullComparisons."""
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
    return shared, found, _false_falls(drawn, judged(once, found.evidence), steps, found.taken)


def _false_falls(drawn: np.ndarray, fits: Fits, steps: np.ndarray, taken: float) -> np.ndarray:
    """Of surrogates [resamples, curves, steps] and their fits, put right as the share of false drops is."""
    curves = drawn.shape[1]
    spectra = [spectrum(one, steps, fits[curves * row : curves * (row + 1)]) for row, one in enumerate(drawn)]
    return taken * np.stack([one.per_octave(one.by_drops) for one in spectra])


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
