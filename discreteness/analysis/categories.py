"""learning times of tokens in seeds + categories of their documents -> how much of what differs between documents lies
between categories.

Documents are the units, each with the mean time of its tokens: tokens of one document are not independent. Chance is
the same documents with their categories in a random order (permutation test, Fisher 1935).
"""

from dataclasses import dataclass

import numpy as np

PERMUTATIONS = 999


@dataclass(frozen=True, kw_only=True)
class BetweenCategories:
    """Nan where there is one category, or where each has a single document."""

    share: float
    """Of the variance between documents, what lies between categories: unbiased, and so below 0 by chance (adjusted
    R^2)."""
    p: float
    """How often categories in a random order would have as much."""


def between_categories(times: np.ndarray, documents: np.ndarray, categories: np.ndarray) -> BetweenCategories:
    """`times` [tokens, seeds], octaves, nan where a seed has none; `documents`, `categories` [tokens]."""
    there = np.isfinite(times)
    chosen = there.any(axis=1)
    if not chosen.any():
        return BetweenCategories(share=np.nan, p=np.nan)
    means = _of_tokens(times[chosen], there[chosen])
    _, first, owner = np.unique(documents[chosen], return_index=True, return_inverse=True)
    of_documents = np.bincount(owner, weights=means) / np.bincount(owner)
    groups = np.unique(categories[chosen][first], return_inverse=True)[1]
    count, num_documents = int(groups.max()) + 1, len(of_documents)
    if not 1 < count < num_documents:
        return BetweenCategories(share=np.nan, p=np.nan)

    def within(labels: np.ndarray) -> float:
        """Sum of squares about the means of the categories."""
        centres = np.bincount(labels, weights=of_documents) / np.bincount(labels)
        return float(((of_documents - centres[labels]) ** 2).sum())

    real, whole = within(groups), float(((of_documents - of_documents.mean()) ** 2).sum())
    if whole == 0:
        return BetweenCategories(share=np.nan, p=np.nan)
    random = np.random.default_rng(0)
    chance = np.array([within(random.permutation(groups)) for _ in range(PERMUTATIONS)])
    return BetweenCategories(
        share=1 - (real / (num_documents - count)) / (whole / (num_documents - 1)),
        # Equal ones that were added in another order count as equal.
        p=float((1 + (chance <= real + 1e-9 * whole).sum()) / (1 + PERMUTATIONS)),
    )


def _of_tokens(times: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Mean of each token [tokens] over the seeds that have it, without what a seed does to all tokens: without that, a
    token that a fast seed lacks would be late.
    """
    counts = there.sum(axis=1)
    left = np.where(there, times - (np.where(there, times, 0).sum(axis=1) / counts)[:, None], np.nan)
    seen = there.any(axis=0)
    effects = np.zeros(times.shape[1])
    effects[seen] = np.nanmedian(left[:, seen], axis=0)
    return np.where(there, times - effects, 0).sum(axis=1) / counts
