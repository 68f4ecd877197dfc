"""losses of tokens in two seeds -> how far their curves differ, and whether a token's own curve is the most like it.

Both questions are those of Chang, Tu & Bergen (arXiv 2308.15419). They compare curves fitted by a generalized additive
model for the first, and losses for the second; we compare losses for both.
"""

import numpy as np

from discreteness.analysis.distributions import looked_at
from discreteness.dataset.reader import Dataset

MAX_COMPARED = 8192
"""Curves of the other seed that each is compared with, spread evenly over all tokens."""
_ROWS = 512
"""Curves compared at once: 32 MiB of distances."""


def cross_run(spread: np.ndarray) -> np.ndarray:
    """Cross-run variability [tokens]: mean squared difference between the curves of two seeds, over all pairs of seeds
    and the checkpoints that are looked at, nats squared. `spread` [tokens, checkpoints]: standard deviation over seeds.
    """
    return 2 * (spread.astype(np.float64) ** 2).mean(axis=1)  # a difference of two seeds has twice the variance of one


def closer_shares(dataset: Dataset) -> np.ndarray:
    """[tokens], of all documents: the share of the second seed's curves that are closer to a token's curve in the first
    seed than the token's own one there is. 0: it is the closest; about 0.5 by chance; nan for one seed.
    """
    counts = [document.num_losses for document in dataset.documents]
    if len(dataset.seeds) < 2:
        return np.full(sum(counts), np.nan)
    first, second = dataset.seeds[:2]
    steps = looked_at(dataset.steps)

    def curves(seed: int, doc_id: int) -> np.ndarray:
        """float32 [tokens, checkpoints]"""
        return dataset.losses(doc_id, seeds=seed, steps=steps).T

    every = -(-sum(counts) // MAX_COMPARED)
    starts = np.cumsum([0, *counts])
    pool = np.concatenate(
        [
            curves(second, document.doc_id)[-start % every :: every]
            for document, start in zip(dataset.documents, starts, strict=False)
        ]
    )
    shares = [
        closer_share(curves(first, document.doc_id), curves(second, document.doc_id), pool)
        for document in dataset.documents
    ]
    return np.concatenate(shares)


def closer_share(curves: np.ndarray, own: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """[n]: the share of `pool` [m, checkpoints] that is closer, by mean squared difference, to each of `curves` [n,
    checkpoints] than that of `own` in the same row is.
    """
    curves, own, pool = (values.astype(np.float64) for values in (curves, own, pool))
    squares = (pool**2).sum(axis=1)
    found = []
    for start in range(0, len(curves), _ROWS):
        mine, theirs = curves[start : start + _ROWS], own[start : start + _ROWS]
        lengths = (mine**2).sum(axis=1)
        distances = lengths[:, None] - 2 * mine @ pool.T + squares
        # Its own curve is in the pool as well, where rounding must not make it closer than itself.
        least = ((mine - theirs) ** 2).sum(axis=1) - 1e-9 * (lengths + (theirs**2).sum(axis=1))
        found.append((distances < least[:, None]).mean(axis=1))
    return np.concatenate([np.zeros(0), *found])
