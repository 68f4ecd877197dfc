"""learning times of tokens in seeds -> whether tokens are early and late in the same seeds, and which ones together.

What a token has in all seeds, and what a seed does to all tokens, is taken out first: tokens learned at the same time
are not together for that, and neither are tokens in a fast seed. What is left of a token is its pattern over seeds.
Chance is the same patterns with the seeds of each token in a random order (permutation test, Fisher 1935), from which
the seeds' effects are taken out again.
"""

from dataclasses import dataclass, fields
from typing import NamedTuple, Self

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from scipy.stats import t as student

MIN_SEEDS = 4
"""The patterns of fewer seeds have two directions at most, and any two tokens are alike."""
MIN_TOKENS = 3
PERMUTATIONS = 499
MAX_CELLS = 50_000
"""Tokens times seeds that are permuted: more tokens would only make it slower."""
_ALWAYS = 300
"""Tokens that are, however many seeds there are."""
MAX_CLUSTERED = 1000
"""Tokens compared with each other: half a million pairs."""
COPIES = 39
"""Permuted copies in which clusters are sought, too: the fewest that tell 5 % well enough."""
MAX_CHANCE = 0.05
"""Chance that permuted copies hold a cluster so large."""
PAIR_CHANCE = 0.01
"""Two tokens whose patterns correlate so well in one of a hundred pairs by chance may be neighbours in a cluster."""
_ROUNDS = 3
"""In which effects and variances are estimated by turns."""
_MOST_WEIGHT = 4.0
"""Of a seed, in weights of the middle one: of few seeds, one of which is estimated to vary little would be the mean."""


@dataclass(frozen=True, kw_only=True)
class CoMovement:
    """All nan where there are too few seeds or tokens to say, and `cluster` -1."""

    p: float
    """How often permuted patterns are as alike, over all pairs of tokens."""
    correlation: float
    """Root mean square of the correlation of two tokens' patterns beyond that of permuted ones."""
    document_p: float
    """The same of pairs within a document, by their mean correlation."""
    document_correlation: float
    """Mean correlation of the patterns of two tokens of one document, less that of permuted ones."""
    category_p: float
    """The same of pairs of one category, but of different documents."""
    category_correlation: float
    cluster: np.ndarray
    """int64 [tokens], numbered from the largest, of equal ones from the first; -1: with no others."""


class _Alike(NamedTuple):
    """Over all pairs of tokens, over those within a document, and over those of one category but of different
    documents; the last two nan where there are no such pairs."""

    squares: float
    document: float
    category: float


def co_movement(times: np.ndarray, documents: np.ndarray, categories: np.ndarray) -> CoMovement:
    """`times` [tokens, seeds], octaves, nan where a seed has none; `documents` [tokens], and the `categories` of these
    [tokens]. The same answer each time.

    Tokens in fewer than MIN_SEEDS seeds are left out; of too many, those in most seeds stay.
    """
    counts = np.isfinite(times).sum(axis=1)
    cluster = np.full(len(times), -1)
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] >= MIN_SEEDS][: max(_ALWAYS, MAX_CELLS // max(1, times.shape[1]))]
    if len(order) < MIN_TOKENS:
        names = [field.name for field in fields(CoMovement) if field.name != "cluster"]
        return CoMovement(**dict.fromkeys(names, np.nan), cluster=cluster)
    random = np.random.default_rng(0)
    chosen = np.sort(order)
    groups = Groups.of(documents[chosen], categories[chosen])
    left = residuals(times[chosen])
    real = _alike(patterns(left), groups)
    chance = [_alike(patterns(residuals(shuffled(left, random))), groups) for _ in range(PERMUTATIONS)]
    squares, within, across = (np.array(values) for values in zip(*chance, strict=True))
    pairs = len(chosen) * (len(chosen) - 1)

    compared = np.sort(order[:MAX_CLUSTERED])
    cluster[compared] = clusters(times[compared], random)
    return CoMovement(
        p=_p(real.squares, squares),
        correlation=float(np.sqrt(max(0.0, real.squares - squares.mean()) / pairs)),
        document_p=_p(real.document, within),
        document_correlation=real.document - float(within.mean()),
        category_p=_p(real.category, across),
        category_correlation=real.category - float(across.mean()),
        cluster=cluster,
    )


def residuals(times: np.ndarray) -> np.ndarray:
    """`times` [tokens, seeds] without the effects of tokens and seeds, in standard deviations of the seed's residuals;
    nan where they are nan.

    - A seed's effect is the median over its tokens, so that a few that move together do not move all others the other
      way.
    - Seeds are weighted by one over their variance, which is estimated in _ROUNDS rounds. With equal weights a seed
      whose times vary more than those of others would move the mean of each token, and its residuals in all seeds.
    - Each token counts alike in these variances, whatever its own spread: a single stray time would otherwise make its
      seed small in all other tokens, and seeds that are unlike in size look like tokens that move together.
    """
    there = np.isfinite(times)
    left = np.where(there, times, 0.0)
    variances = np.ones(times.shape[1])
    for _ in range(_ROUNDS):
        weights = there / variances
        shares = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
        left = np.where(there, left - (shares * left).sum(axis=1, keepdims=True), 0)
        left = np.where(there, left - _medians(left, there), 0)
        left = np.where(there, left - (shares * left).sum(axis=1, keepdims=True), 0)
        own = (left**2 / variances).sum(axis=1, keepdims=True) / np.maximum(there.sum(axis=1, keepdims=True), 1)
        # A seed with much weight is near the mean because it makes it.
        spare = np.maximum((there * (1 - shares)).sum(axis=0), 1e-9)
        variances = np.maximum((left**2 / np.maximum(own, 1e-18)).sum(axis=0) / spare, 1e-12)
        middle = np.median(variances)
        variances = np.clip(variances, middle / _MOST_WEIGHT, None)
    return np.where(there, left / np.sqrt(variances), np.nan)


def _medians(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Of the values of each column [rows, columns] that are there; 0 where none is."""
    counts = there.sum(axis=0)
    ordered = np.sort(np.where(there, values, np.inf), axis=0)
    lower, upper = (np.maximum(counts - 1, 0) // 2, counts // 2)
    middle = np.take_along_axis(ordered, np.minimum([lower, upper], len(values) - 1), axis=0)
    return np.where(counts > 0, middle, 0).mean(axis=0)


def patterns(left: np.ndarray) -> np.ndarray:
    """Residuals -> [tokens, seeds] with squares that add up to 1 for each token, 0 where there is none."""
    values = np.where(np.isfinite(left), left, 0.0)
    norms = np.sqrt((values**2).sum(axis=1, keepdims=True))
    return np.where(norms > 1e-9, values / np.maximum(norms, 1e-9), 0)


def shuffled(left: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The same residuals with each token's seeds in a random order, among those that it has."""
    there = np.isfinite(left)
    if there.all():
        return random.permuted(left, axis=1)
    keys = np.where(there, random.random(left.shape), 2.0)
    found = np.full(left.shape, np.nan)
    places = np.argsort(~there, axis=1, kind="stable")
    np.put_along_axis(found, places, np.take_along_axis(left, np.argsort(keys, axis=1), axis=1), axis=1)
    return found


def clusters(times: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """[tokens], -1 for none: tokens whose patterns correlate, joined by average linkage while the mean correlation is
    one that two tokens have in PAIR_CHANCE of the cases by chance. Of these, the ones so large that at most MAX_CHANCE
    of the permuted copies hold such a cluster (after Nichols & Holmes 2002).
    """
    left = residuals(times)
    labels = _joined(left)
    sizes = np.bincount(labels)
    largest = np.array([np.bincount(_joined(residuals(shuffled(left, random)))).max() for _ in range(COPIES)])
    chance = (1 + (largest >= sizes[:, None]).sum(axis=1)) / (1 + COPIES)
    kept = (chance <= MAX_CHANCE) & (sizes > 1)
    first = np.unique(labels, return_index=True)[1]
    rank = np.empty(len(sizes), np.int64)
    rank[np.lexsort((first, -np.where(kept, sizes, 0)))] = np.arange(len(sizes))  # SciPy's own numbers say nothing
    return np.where(kept[labels], rank[labels], -1)


def _joined(left: np.ndarray) -> np.ndarray:
    """Clusters [tokens] by average linkage, numbered from 0."""
    there = np.isfinite(left).astype(np.float64)
    values = patterns(left)
    # Of two tokens only the seeds that both have are compared.
    powers = values**2 @ there.T
    correlations = values @ values.T / np.sqrt(np.maximum(powers * powers.T, 1e-12))
    distances = 1 - np.clip((correlations + correlations.T) / 2, -1, 1)
    np.fill_diagonal(distances, 0)
    tree = linkage(squareform(distances, checks=False), "average")
    cut = 1 - _least_correlation(np.median(there.sum(axis=1)))
    return np.unique(fcluster(tree, cut, "distance"), return_inverse=True)[1]


def _least_correlation(num_seeds: float) -> float:
    """Of two tokens over so many seeds, by chance in PAIR_CHANCE of the cases: Student's t, where one of the seeds'
    degrees of freedom went with the tokens' means, and one is the slope's."""
    freedom = max(1.0, num_seeds - 2)
    t = student.isf(PAIR_CHANCE, freedom)
    return float(t / np.sqrt(freedom + t**2))


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Tokens of which documents are compared. `documents`, `categories`: numbers [tokens]; `document_pairs`: ordered
    pairs of tokens of one document, `category_pairs`: those of one category in different documents.
    """

    documents: np.ndarray
    categories: np.ndarray
    document_pairs: int
    category_pairs: int

    @classmethod
    def of(cls, documents: np.ndarray, categories: np.ndarray) -> Self:
        """Names or numbers of any kind [tokens]."""
        numbers = [np.unique(names, return_inverse=True)[1] for names in (documents, categories)]
        within, across = (int((np.bincount(number) ** 2).sum()) for number in numbers)
        return cls(
            documents=numbers[0],
            categories=numbers[1],
            document_pairs=within - len(documents),
            category_pairs=across - within,
        )


def _alike(found: np.ndarray, groups: Groups) -> _Alike:
    """`found`: patterns [tokens, seeds]."""
    tokens = (found**2).sum(axis=1)
    # Squared products of all pairs, by way of the smaller matrix: |Z Z'| and |Z' Z| are equal.
    small = found.T @ found if found.shape[1] < len(found) else found @ found.T
    document, category = (_squared_sums(found, numbers) for numbers in (groups.documents, groups.categories))
    return _Alike(
        squares=float((small**2).sum() - (tokens**2).sum()),
        document=_ratio(document - float(tokens.sum()), groups.document_pairs),
        category=_ratio(category - document, groups.category_pairs),
    )


def _squared_sums(found: np.ndarray, numbers: np.ndarray) -> float:
    """Squares of the sums of patterns over each group: products of all its pairs, each token with itself too."""
    sums = np.zeros((numbers.max() + 1, found.shape[1]))
    np.add.at(sums, numbers, found)
    return float((sums**2).sum())


def _ratio(products: float, pairs: int) -> float:
    return products / pairs if pairs else np.nan


def _p(real: float, chance: np.ndarray) -> float:
    if np.isnan(real):
        return np.nan
    # Equal ones that were added in another order count as equal.
    return float((1 + (chance >= real - 1e-9 * abs(real)).sum()) / (1 + len(chance)))
