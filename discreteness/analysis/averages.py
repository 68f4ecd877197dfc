"""a sample of curves -> how often the mean of 1, 2, 4, ... 128 of them has a drop.

If single tokens drop, each at its own time, their mean falls smoothly and the share goes to zero. Where it does not,
the drops are those of a common cause, or what the fit makes of any curve.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from discreteness.analysis.sample import Sample

NUMBERS = (2, 4, 8, 16, 32, 64, 128)
"""Tokens that are averaged."""
CURVES = 400
"""Means of each number of tokens: the standard error of a share of a third is 2.4 %."""
_REUSE = 4
"""Means that a token may be in, on average, where there are few tokens."""

Kind = Literal["within", "across", "documents"]


@dataclass(frozen=True, kw_only=True)
class Means:
    """- `losses`: float64 [n, steps], means of `tokens` tokens of one seed each; None: of whole documents.
    - `groups`: [n], the document that each mean is of; 0 for all where it is of several.
    """

    kind: Kind
    tokens: int | None
    losses: np.ndarray
    groups: np.ndarray


def means(sample: Sample) -> Iterator[Means]:
    """Means of random tokens of one document ("within") and of any ("across"), as far as there are so many; then of
    whole documents ("documents"), for every seed of the sample.
    """
    random = np.random.default_rng(0)
    doc_ids, first, sizes = np.unique(sample.doc_ids, return_index=True, return_counts=True)
    for number in NUMBERS:
        large = np.flatnonzero(sizes >= number)
        if len(large):
            count = _count(int(sizes[large].sum()), number, sample)
            chosen = random.choice(large, count, p=sizes[large] / sizes[large].sum())
            tokens = [first[document] + random.choice(sizes[document], number, replace=False) for document in chosen]
            yield Means(kind="within", tokens=number, losses=_means(sample, tokens, random), groups=doc_ids[chosen])
        if len(sizes) > 1 and len(sample.doc_ids) >= number:
            count = _count(len(sample.doc_ids), number, sample)
            tokens = [random.choice(len(sample.doc_ids), number, replace=False) for _ in range(count)]
            yield Means(
                kind="across", tokens=number, losses=_means(sample, tokens, random), groups=np.zeros(count, np.int64)
            )
    yield Means(
        kind="documents",
        tokens=None,
        losses=sample.document_means().reshape(-1, len(sample.steps)),
        groups=np.repeat(doc_ids, len(sample.seeds)),
    )


def _count(num_tokens: int, number: int, sample: Sample) -> int:
    """Means of `number` tokens that so many tokens in all seeds of the sample are good for."""
    return max(1, min(CURVES, _REUSE * num_tokens * len(sample.seeds) // number))


def _means(sample: Sample, tokens: list[np.ndarray], random: np.random.Generator) -> np.ndarray:
    """Of each group of tokens in one seed, float64 [groups, steps]."""
    seeds = random.integers(len(sample.seeds), size=len(tokens))
    return np.stack(
        [sample.losses[group, seed].mean(axis=0, dtype=np.float64) for group, seed in zip(tokens, seeds, strict=True)]
    )
