"""a dataset and a size -> which seeds, checkpoints and documents of it a page of that size can hold.

Seeds and checkpoints are thinned alike, down to MIN_SEEDS and MIN_STEPS; then documents are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from discreteness.dataset.manifest import DocumentInfo
from discreteness.dataset.reader import Dataset
from discreteness.dataset.storage import Storage
from discreteness.viewer.part import Part

MIN_SEEDS = 8
MIN_STEPS = 48
SHARES = np.geomspace(1, 1e-4, 400)
"""Of the seeds and checkpoints: what is tried, one after the other."""
NUMBERS_PER_STEP = 4
"""Of a token at a checkpoint, besides the losses: mean, spread, and two borders of the band."""
NUMBERS_PER_FIT = 19
"""Of a token's fit in a seed: time, width, evidence, verdict, base, origin, and three of each of three terms; and of
its drop: document, token, time and error."""
BYTES_PER_TOKEN = 200
"""Its text and numbers, once."""


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """What is kept, in the dataset's order. `whole`: what it is of."""

    whole: Dataset
    documents: list[DocumentInfo]
    seeds: list[int]
    steps: list[int]

    @cached_property
    def left_out(self) -> list[str]:
        """In words, one entry each; empty where all is there."""
        entries = []
        for what, kept, all_of_it in (
            ("seeds", self.seeds, self.whole.seeds),
            ("checkpoints", self.steps, self.whole.steps),
            ("documents", self.documents, self.whole.documents),
        ):
            if missing := len(all_of_it) - len(kept):
                entries.append(f"{missing:,} of {len(all_of_it):,} {what}")
        return entries

    def open(self, storage: Storage) -> Part:
        """With all of its seeds, over which means are taken."""
        return Part(storage, self.documents, self.steps)


def excerpt(dataset: Dataset, seeds: Sequence[int], max_bytes: float) -> Excerpt:
    """As much as `max_bytes` may hold, with curves of some of `seeds`. Raises ValueError if no document fits."""
    least = _sizes(dataset.documents, min(MIN_SEEDS, len(seeds)), min(MIN_STEPS, len(dataset.steps)))
    documents = []
    for document, size in zip(dataset.documents, least, strict=True):
        if size <= max_bytes:
            documents.append(document)
            max_bytes -= size
    if not documents:
        raise ValueError(
            f"not one document fits, even with {MIN_SEEDS} seeds and {MIN_STEPS} checkpoints: give a --max-mb that is "
            f"larger by {(min(least) - max_bytes) / 1e6:.2f} at least"
        )
    max_bytes += sum(_sizes(documents, min(MIN_SEEDS, len(seeds)), min(MIN_STEPS, len(dataset.steps))))
    for share in SHARES:
        num_seeds = max(min(MIN_SEEDS, len(seeds)), round(len(seeds) * share))
        num_steps = max(min(MIN_STEPS, len(dataset.steps)), round(len(dataset.steps) * share))
        if sum(_sizes(documents, num_seeds, num_steps)) <= max_bytes:
            break
    chosen = np.unique(np.linspace(0, len(seeds) - 1, num_seeds).round().astype(int))
    return Excerpt(
        whole=dataset,
        documents=documents,
        seeds=[seeds[index] for index in chosen],
        steps=thinned(dataset.steps, num_steps),
    )


def thinned(steps: Sequence[int], count: int) -> list[int]:
    """So many of them, at least the first and the last: again and again the one is left out that is nearest to its
    neighbours in log(step + 1).
    """
    kept = list(steps)
    places = np.log1p(np.array(steps, np.float64))
    while len(kept) > max(2, count):
        crowded = 1 + int((places[2:] - places[:-2]).argmin())
        del kept[crowded]
        places = np.delete(places, crowded)
    return kept


def _sizes(documents: Sequence[DocumentInfo], num_seeds: int, num_steps: int) -> list[float]:
    """Bytes of each document in the page: four per number, written in letters (base64: four for three bytes)."""
    numbers = (num_seeds + NUMBERS_PER_STEP) * num_steps + NUMBERS_PER_FIT * num_seeds
    return [document.num_losses * (4 * numbers + BYTES_PER_TOKEN) * 4 / 3 for document in documents]
