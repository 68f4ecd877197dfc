"""dataset -> some of its curves, held in memory at once: what null comparisons are drawn from.

The draw is by a fixed seed, so that an analysis can be repeated.
"""

from dataclasses import dataclass

import numpy as np

from discreteness.dataset.reader import Dataset

MAX_SEEDS = 4
"""Seeds in a sample: enough to see what seeds share."""
MAX_LOSSES = 2**25
"""Losses in a sample, 128 MiB."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """All tokens of some documents, in some seeds.

    - `losses`: float32 [tokens, seeds, steps], nats.
    - `doc_ids`: int64 [tokens], ascending; which document each token is of.
    - `seeds`: ascending.
    """

    losses: np.ndarray
    doc_ids: np.ndarray
    steps: np.ndarray
    seeds: list[int]

    def document_means(self) -> np.ndarray:
        """float64 [documents, seeds, steps], in the order of their ids."""
        first = np.unique(self.doc_ids, return_index=True)[1]
        sums = np.add.reduceat(self.losses, first, axis=0, dtype=np.float64)
        return sums / np.diff(np.append(first, len(self.doc_ids)))[:, None, None]


def draw_sample(dataset: Dataset) -> Sample:
    """Up to MAX_SEEDS seeds, spread evenly, and random documents, as many as MAX_LOSSES holds."""
    places = np.linspace(0, len(dataset.seeds) - 1, min(MAX_SEEDS, len(dataset.seeds))).round().astype(int)
    seeds = [dataset.seeds[place] for place in places]
    documents = [dataset.documents[number] for number in np.random.default_rng(0).permutation(len(dataset.documents))]
    ends = np.cumsum([document.num_losses for document in documents]) * len(seeds) * len(dataset.steps)
    chosen = sorted(documents[: max(1, int((ends <= MAX_LOSSES).sum()))], key=lambda document: document.doc_id)
    return Sample(
        losses=np.concatenate([dataset.losses(document.doc_id, seeds=seeds).transpose(2, 0, 1) for document in chosen]),
        doc_ids=np.repeat([document.doc_id for document in chosen], [document.num_losses for document in chosen]),
        steps=np.array(dataset.steps),
        seeds=seeds,
    )
