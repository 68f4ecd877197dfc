"""fits of a sample -> smooth curves with the dataset's own noise, and how many of them the fit calls a drop.

A surrogate is the smooth fit of a curve plus the residuals of one, times a random factor that wanders along the
run (the dependent wild bootstrap, Shao 2010: blocks without edges, at which a sign that changes at once would look like
a drop). All tokens and seeds of a resample have the same factor. So the noise keeps its level at every time, its
correlation over less than an octave, and what tokens and seeds share of it, and is otherwise another noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from discreteness.analysis.fits import MIN_DELTA_BIC, Fits, octaves
from discreteness.analysis.intervals import Share, share
from discreteness.analysis.residuals import residuals_of
from discreteness.analysis.sample import Sample

CURVES = 2000
"""Curves of the sample of which surrogates are made: those of some tokens, in all its seeds."""
RESAMPLES = 40
"""Draws of the factor."""
CURVES_OF_RESAMPLE = 100
"""Surrogates of each draw, or as many as a quarter of the sampled curves: each draw takes other tokens."""
MEMORY_OCTAVES = 1.0
"""After which two values of the factor share 1/e: longer than noise is correlated, shorter than a drop may be wide."""
_PRIOR_DROPS = 5
"""Added to both counts of drops whose ratio is taken, so that it is 1 where there are hardly any."""
MAX_FALSE_SHARE = 0.05
"""The evidence asked of a drop is such that at most this share of smooth curves would have one."""


@dataclass(frozen=True, kw_only=True)
class Chance:
    """What chance gives on smooth curves with the noise of this dataset.

    - `evidence`: the least `delta_bic` of a drop.
    - `false_share`: of smooth curves, those with a drop; its interval is over resamples.
    - `low`, `high`: 95 % of resamples lie between, that is, of datasets with as many curves as a resample has.
    - `taken`: drops of smooth curves for each one of surrogates: their fits have taken some noise for shape.
    - `at_constant`: the share at MIN_DELTA_BIC, which a fit alone asks for.
    """

    evidence: float
    false_share: Share
    low: float
    high: float
    taken: float
    at_constant: float


def sampled(sample: Sample, random: np.random.Generator) -> np.ndarray:
    """Places of up to CURVES / seeds tokens of the sample, ascending."""
    count = min(len(sample.doc_ids), CURVES // len(sample.seeds))
    return np.sort(random.choice(len(sample.doc_ids), count, replace=False))


def smooth_shapes(
    losses: np.ndarray, fits: Fits, steps: Sequence[int] | np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Of each curve [n, steps] its smooth fit, float64, or that of another if it has a drop: what is forced to be
    smooth there is as sharp as a smooth curve can be. Where every curve has a drop: straight lines.
    """
    shapes = fits.smooth(steps)
    dropped, others = np.flatnonzero(fits.is_drop), np.flatnonzero(~fits.is_drop)
    if len(others):
        shapes[dropped] = shapes[random.choice(others, len(dropped))]
    else:
        x = octaves(steps)
        shapes = losses[:, :1] + (losses[:, -1:] - losses[:, :1]) * (x - x[0]) / (x[-1] - x[0])
    return shapes


def surrogates(
    smooth: np.ndarray, noise: np.ndarray, steps: Sequence[int] | np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """float32 [RESAMPLES, curves, steps] of `smooth` and `noise` [tokens, seeds, steps]."""
    x = octaves(steps)
    tokens = max(1, min(CURVES_OF_RESAMPLE // smooth.shape[1], len(smooth) // 4))
    drawn = []
    for _ in range(RESAMPLES):
        chosen = random.choice(len(smooth), tokens, replace=False)
        drawn.append(with_other_noise(smooth[chosen], noise[chosen], x, random).reshape(-1, len(x)))
    return np.stack(drawn).astype(np.float32)


def with_other_noise(smooth: np.ndarray, noise: np.ndarray, x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """`smooth` and `noise` [..., steps] at octaves `x`: one resample."""
    return smooth + noise * _factor(x, random)


def _factor(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """[steps] of mean 0, variance 1 and at most root 2: the cosine of a random phase that diffuses."""
    moves = random.normal(size=len(x)) * np.sqrt(2 * np.diff(x, prepend=x[0]) / MEMORY_OCTAVES)
    return np.sqrt(2) * np.cos(random.uniform(0, 2 * np.pi) + np.cumsum(moves))


def again(drawn: np.ndarray, fits: Fits, steps: Sequence[int] | np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Surrogates of surrogates, float32 [RESAMPLES, curves, steps], of `drawn` and its fits."""
    x, curves = octaves(steps), drawn.reshape(-1, len(steps))
    shapes = smooth_shapes(curves, fits, steps, random).reshape(drawn.shape)
    noise = residuals_of(curves, fits, steps).reshape(drawn.shape)
    factors = np.stack([_factor(x, random) for _ in range(len(drawn))])
    return (shapes + noise * factors[:, None]).astype(np.float32)


def chance(fits: Fits, fits_again: Fits) -> Chance:
    """`fits`: of the surrogates, one resample after another; `fits_again`: of theirs.

    Every fit takes some of the noise for shape, so surrogates have fewer drops than the curves that they are of.
    Surrogates of surrogates have fewer in the same proportion, and by that the share is put right (the double
    bootstrap, Hall & Martin 1988).
    """
    once, twice = fits.is_drop.sum() + _PRIOR_DROPS, fits_again.is_drop.sum() + _PRIOR_DROPS
    taken = max(1.0, float(once / twice) * len(fits_again.is_drop) / len(fits.is_drop))
    called = np.where(fits.is_drop, fits.delta_bic, -np.inf)
    # The largest delta_bic that must not suffice, if at most MAX_FALSE_SHARE of all are to have more.
    edge = np.sort(called)[-1 - int(MAX_FALSE_SHARE / taken * len(called))]
    evidence = max(MIN_DELTA_BIC, float(np.nextafter(edge, np.inf)))
    false = np.where(called >= evidence, taken, 0.0)
    resample = np.repeat(np.arange(RESAMPLES), len(called) // RESAMPLES)
    low, high = np.quantile(false.reshape(RESAMPLES, -1).mean(axis=1), [0.025, 0.975])
    return Chance(
        evidence=evidence,
        false_share=share(false, np.ones(len(false)), resample),
        low=float(low),
        high=float(high),
        taken=taken,
        at_constant=float(taken * fits.is_drop.mean()),
    )
