"""learning times of tokens in seeds -> how much of their variance is between documents, tokens, seeds, and within.

time = mean + document + token + seed + residual + error of the fit, all random and independent. Each variance is
unbiased, also where seeds lack tokens: seeds and residual by fitting constants (Henderson 1953, method 3), tokens and
documents by unweighted means (Yates 1934) of the times without the seeds' effects. The errors of the fits are known and
taken off.

Intervals are of a bootstrap over documents. A seed's effect is the same in all documents, so drawing documents again
does not say how much other seeds would differ: that is drawn from the chi-squared law of normal effects with as many
seeds (generalized interval, Weerahandi 1993).
"""

from dataclasses import dataclass

import numpy as np

from discreteness.analysis.intervals import MIN_GROUPS, Estimate

MAX_SEEDS = 64
"""Seeds looked at, spread evenly over all: more would not make the components clearer, only slower."""
_RESAMPLES = 500


@dataclass(frozen=True, kw_only=True)
class Components:
    """Standard deviations, octaves; `value` nan where there is nothing to measure it by, the bounds nan where there are
    too few documents.
    """

    document: Estimate
    token: Estimate
    """Of tokens within their document."""
    seed: Estimate
    residual: Estimate
    """Of a token in a seed, beyond both."""
    fit_error: Estimate
    """Root mean square of the standard errors."""


NAMES = ("document", "token", "seed", "residual", "fit_error")


@dataclass(frozen=True, kw_only=True)
class _Sums:
    """What variances are made from, in sums over the tokens of each of d documents. Times are less their token's
    mean."""

    normal: np.ndarray
    """[d, seeds, seeds] of the least squares for the seeds' effects."""
    right: np.ndarray
    """[d, seeds], its right-hand side."""
    squares: np.ndarray
    """[d] of times."""
    freedom: np.ndarray
    """[d] times less tokens."""
    error: np.ndarray
    """[d] squared standard errors, each times the share of it that is left without its token's mean."""
    all_errors: np.ndarray
    """[d]"""
    times: np.ndarray
    """[d] number of them."""
    between: np.ndarray
    """[d] squares of the tokens' means, without the seeds' effects, about the document's."""
    tokens: np.ndarray
    """[d] number of them."""
    mean: np.ndarray
    """[d] of the tokens' means."""
    inverse: np.ndarray
    """[d] of one over a token's times: what a residual variance of 1 gives to its mean."""
    error_of_means: np.ndarray
    """[d] the same of the errors as they are."""


def components(times: np.ndarray, errors: np.ndarray, documents: np.ndarray) -> Components:
    """`times`, `errors` (standard errors): octaves [tokens, seeds], nan where a seed has none. `documents` [tokens]."""
    places = np.unique(np.linspace(0, times.shape[1] - 1, min(MAX_SEEDS, times.shape[1])).round().astype(int))
    times, errors = times[:, places], errors[:, places]
    chosen = np.isfinite(times).sum(axis=1) >= 2
    times, errors, documents = times[chosen], errors[chosen], documents[chosen]
    present = np.isfinite(times).any(axis=0)
    times, errors = times[:, present], errors[:, present]
    if len(times) < 2:
        nothing = Estimate(value=np.nan, low=np.nan, high=np.nan)
        return Components(**dict.fromkeys(NAMES, nothing))
    sums = _sums(times, errors, documents)
    num_documents, num_seeds = len(sums.tokens), times.shape[1]
    found = _variances(sums, np.ones((1, num_documents)), np.ones(1))
    random = np.random.default_rng(0)
    drawn = random.multinomial(num_documents, np.full(num_documents, 1 / num_documents), _RESAMPLES).astype(np.float64)
    luck = random.chisquare(max(1, num_seeds - 1), _RESAMPLES) / max(1, num_seeds - 1)
    resampled = _variances(sums, drawn, luck) if num_documents >= MIN_GROUPS else None

    def estimate(name: str) -> Estimate:
        value = float(np.sqrt(np.maximum(found[name][0], 0)))
        if resampled is None or np.isnan(value):
            return Estimate(value=value, low=np.nan, high=np.nan)
        low, high = np.nanquantile(np.sqrt(np.maximum(resampled[name], 0)), [0.025, 0.975])
        return Estimate(value=value, low=float(low), high=float(high))

    return Components(**{name: estimate(name) for name in NAMES})


def _sums(times: np.ndarray, errors: np.ndarray, documents: np.ndarray) -> _Sums:
    there = np.isfinite(times)
    counts = there.sum(axis=1)
    seen, noise = there.astype(np.float64), np.where(there, errors, 0) ** 2
    centred = np.where(there, times - (np.where(there, times, 0).sum(axis=1) / counts)[:, None], 0)
    names, owner = np.unique(documents, return_inverse=True)
    num_documents = len(names)

    def by_document(values: np.ndarray) -> np.ndarray:
        found = np.zeros((num_documents, *values.shape[1:]))
        np.add.at(found, owner, values)
        return found

    # Of each document: diagonal of the times seen, less what goes into their tokens' means.
    normal = np.zeros((num_documents, times.shape[1], times.shape[1]))
    for number in range(num_documents):
        mine = seen[owner == number]
        normal[number] = np.diag(mine.sum(axis=0)) - (mine / counts[owner == number, None]).T @ mine
    right = by_document(centred)

    effects = _effects(normal.sum(axis=0), right.sum(axis=0))
    means = np.where(there, times - effects, 0).sum(axis=1) / counts
    tokens = np.bincount(owner).astype(np.float64)
    mean = by_document(means) / tokens
    return _Sums(
        normal=normal,
        right=right,
        squares=by_document((centred**2).sum(axis=1)),
        freedom=by_document(counts - 1.0),
        error=by_document(noise.sum(axis=1) * (1 - 1 / counts)),
        all_errors=by_document(noise.sum(axis=1)),
        times=by_document(counts.astype(np.float64)),
        between=by_document((means - mean[owner]) ** 2),
        tokens=tokens,
        mean=mean,
        inverse=by_document(1 / counts),
        error_of_means=by_document(noise.sum(axis=1) / counts**2),
    )


def _effects(normal: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of the seeds [..., seeds], with a mean of 0, by least squares. Where two seeds share no token, directly or
    through others, nothing is known of their difference, and the shortest solution is taken.
    """
    return (np.linalg.pinv(normal, rcond=1e-10, hermitian=True) @ right[..., None])[..., 0]


def _variances(sums: _Sums, weights: np.ndarray, luck: np.ndarray) -> dict[str, np.ndarray]:
    """Of NAMES, each [draws], some below 0 by chance. `weights` [draws, documents]: how often each was drawn. `luck`
    [draws]: mean square of the seeds' effects over its expectation.
    """
    num_documents, num_seeds = weights.shape[1], sums.right.shape[1]
    normal, right = np.tensordot(weights, sums.normal, 1), weights @ sums.right
    by_seeds = (right * _effects(normal, right)).sum(axis=1)
    freedom = weights @ sums.freedom
    error = weights @ sums.error / freedom
    left = freedom - (num_seeds - 1)
    # Residual and error of the fit together.
    both = np.where(left > 0, (weights @ sums.squares - by_seeds) / np.where(left > 0, left, 1), np.nan)
    times_of_seed = np.trace(normal, axis1=1, axis2=2) / max(1, num_seeds - 1)
    seed = (by_seeds / max(1, num_seeds - 1) / luck - both) / times_of_seed
    residual = both - error

    # Between the tokens of a document: without what residuals and errors give to a mean.
    spare = weights @ (sums.tokens - 1)
    shrunk = 1 - 1 / sums.tokens
    of_means = residual * (weights @ (shrunk * sums.inverse)) + weights @ (shrunk * sums.error_of_means)
    token = np.where(spare > 0, (weights @ sums.between - of_means) / np.where(spare > 0, spare, 1), np.nan)

    # Between documents: without what their tokens give. A draw with replacement has less between its documents.
    drawn = weights.sum(axis=1)
    centre = (weights @ sums.mean / drawn)[:, None]
    squares = (weights * (sums.mean - centre) ** 2).sum(axis=1) / max(1, num_documents - 1)
    if len(weights) > 1:
        squares *= num_documents / max(1, num_documents - 1)
    of_tokens = token * (weights @ (1 / sums.tokens)) / drawn
    of_tokens += residual * (weights @ (sums.inverse / sums.tokens**2)) / drawn
    of_tokens += weights @ (sums.error_of_means / sums.tokens**2) / drawn
    document = squares - of_tokens if num_documents > 1 else np.full(len(weights), np.nan)
    fit_error = weights @ sums.all_errors / (weights @ sums.times)
    return {"document": document, "token": token, "seed": seed, "residual": residual, "fit_error": fit_error}
