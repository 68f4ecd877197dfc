"""tokens of the documents -> their unigram loss, and until when a document's mean loss lies above it: the onset.

In the onset a model learns which tokens there are and how frequent each one is. A drop there says nothing of what comes
after, so the two are counted apart.
"""

from collections.abc import Sequence

import numpy as np

from discreteness.analysis.fits import octaves
from discreteness.dataset.reader import Dataset

MIN_TOKENS = 1000
"""Fewer tokens do not say how frequent each one is."""


def unigram_losses(dataset: Dataset) -> dict[int, float]:
    """doc_id -> mean over its tokens of -ln(share of this token among all tokens of all documents), nats; nan where
    there are fewer than MIN_TOKENS tokens in all.

    Frequencies come from the documents, as a dataset does not hold its training data: the more tokens they have, the
    nearer to the loss of a model that knows frequencies alone, which it approaches from below.
    """
    ids = {
        document.doc_id: dataset.tokens(document.doc_id)["token_id"].to_numpy()[1:] for document in dataset.documents
    }
    _, kinds, counts = np.unique(np.concatenate(list(ids.values())), return_inverse=True, return_counts=True)
    losses = -np.log(counts / len(kinds))[kinds] if len(kinds) >= MIN_TOKENS else np.full(len(kinds), np.nan)
    parts = np.split(losses, np.cumsum([len(part) for part in ids.values()])[:-1])
    return {doc_id: float(part.mean()) for doc_id, part in zip(ids, parts, strict=True)}


def onset_end(mean_loss: np.ndarray, steps: Sequence[int] | np.ndarray, unigram_loss: float) -> float:
    """When `mean_loss` [steps] first falls to `unigram_loss`, in updates, interpolated in octaves; the last step if it
    never does, and nan if the unigram loss is not known.
    """
    if np.isnan(unigram_loss):
        return float("nan")
    below = np.flatnonzero(mean_loss <= unigram_loss)
    if not len(below) or below[0] == 0:
        return float(steps[-1 if not len(below) else 0])
    x, place = octaves(steps), below[0]
    above = mean_loss[place - 1] - unigram_loss
    share = above / (mean_loss[place - 1] - mean_loss[place])
    return float(2 ** (x[place - 1] + share * (x[place] - x[place - 1])) - 1)
