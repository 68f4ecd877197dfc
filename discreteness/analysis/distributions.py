"""dataset -> the distribution of each token's loss over seeds, checkpoint by checkpoint: its spread, and two groups."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from scipy.stats import false_discovery_control

from discreteness.analysis.modes import MIN_SEEDS, chance_ratios, two_groups
from discreteness.analysis.processes import Processes
from discreteness.dataset.reader import Dataset
from discreteness.dataset.reader import open as open_dataset

MAX_CHECKPOINTS = 128
"""Looked at, spread evenly over the plan, the last among them: neighbours of a dense plan say the same."""
FALSE_DISCOVERIES = 0.05
"""Share of false ones among the tokens that are said to be in two groups."""
_MAX_LOSSES = 2**23
"""That one process holds at once: 32 MiB."""


@dataclass(frozen=True, kw_only=True)
class Distributions:
    """Arrays are float32 [tokens, checkpoints], of all tokens in the order of the dataset.

    `p`, `gap`, `minority`: as of `modes.TwoGroups`; nan where there are too few seeds to tell.
    """

    steps: np.ndarray
    """[checkpoints], updates."""
    mean: np.ndarray
    """Nats."""
    spread: np.ndarray
    """Standard deviation over seeds, nats; nan for one seed."""
    p: np.ndarray
    gap: np.ndarray
    minority: np.ndarray

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        names = [field.name for field in fields(cls) if field.name != "steps"]
        joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return cls(steps=parts[0].steps, **joined)

    def discovered(self) -> np.ndarray:
        """bool [tokens, checkpoints]: in two groups there, with FALSE_DISCOVERIES among the tokens of a checkpoint."""
        return np.stack([discovery_rates(column) < FALSE_DISCOVERIES for column in self.p.T], axis=1)


@dataclass(frozen=True, kw_only=True)
class TokenGroups:
    """Of each token [tokens]; nan where there are too few seeds, and in the last three where there are no two
    groups."""

    two_groups_p: np.ndarray
    """At any checkpoint: the p-values of all of them together (Simes 1986)."""
    two_groups_q: np.ndarray
    """The same with tokens as many tests (Benjamini & Hochberg 1995)."""
    two_groups_final_q: np.ndarray
    """At the last checkpoint, with tokens as many tests."""
    two_groups_step: np.ndarray
    """Update of the smallest p, of equal ones that of the widest gap: groups are clearest there."""
    two_groups_gap: np.ndarray
    """Nats, there."""
    two_groups_minority: np.ndarray
    """Share of the seeds in the smaller group, there."""

    @classmethod
    def of(cls, found: Distributions) -> Self:
        p = found.p.astype(np.float64)
        count = p.shape[1]
        together = (np.sort(p, axis=1) * count / np.arange(1, count + 1)).min(axis=1)
        clearest = np.lexsort((-found.gap, p), axis=1)[:, 0]
        rows = np.arange(len(p))
        none = ~(p[rows, clearest] < 1)

        def there(values: np.ndarray) -> np.ndarray:
            return np.where(none, np.nan, values)

        return cls(
            two_groups_p=together,
            two_groups_q=discovery_rates(together),
            two_groups_final_q=discovery_rates(p[:, -1]),
            two_groups_step=there(found.steps[clearest]),
            two_groups_gap=there(found.gap[rows, clearest]),
            two_groups_minority=there(found.minority[rows, clearest]),
        )


def discovery_rates(p: np.ndarray) -> np.ndarray:
    """Of p-values [n]: share of false discoveries if all up to this one are called so (Benjamini & Hochberg 1995)."""
    return false_discovery_control(p) if len(p) and np.isfinite(p).all() else np.full(len(p), np.nan)


def looked_at(steps: Sequence[int]) -> list[int]:
    """Up to MAX_CHECKPOINTS steps of the plan."""
    places = np.linspace(0, len(steps) - 1, min(MAX_CHECKPOINTS, len(steps))).round().astype(int)
    return [steps[place] for place in np.unique(places)]


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Some tokens of a document, in all seeds."""

    uri: str
    doc_id: int
    tokens: range
    steps: list[int]
    chance: np.ndarray
    """Ratios of `modes.chance_ratios`, none where there are too few seeds."""


def distributions(dataset: Dataset, workers: Processes) -> Distributions:
    parts = list(_divide(dataset))
    return Distributions.concatenate(list(workers.map(_of_part, parts, "distributions over seeds")))


def _divide(dataset: Dataset) -> Iterator[_Part]:
    num_seeds, steps = len(dataset.seeds), looked_at(dataset.steps)
    chance = chance_ratios(num_seeds) if num_seeds >= MIN_SEEDS else np.zeros(0)
    tokens = max(1, _MAX_LOSSES // (num_seeds * len(steps)))
    for document in dataset.documents:
        for start in range(1, document.num_losses + 1, tokens):
            some = range(start, min(start + tokens, document.num_losses + 1))
            yield _Part(uri=dataset.storage.uri, doc_id=document.doc_id, tokens=some, steps=steps, chance=chance)


def _of_part(part: _Part) -> Distributions:
    losses = open_dataset(part.uri).losses(part.doc_id, token=part.tokens, steps=part.steps).transpose(2, 1, 0)
    return of_losses(losses, np.array(part.steps), part.chance)


def of_losses(losses: np.ndarray, steps: np.ndarray, chance: np.ndarray) -> Distributions:
    """`losses` [tokens, checkpoints, seeds], nats; `chance`: ratios of `modes.chance_ratios`, or none."""
    shape, num_seeds = losses.shape[:2], losses.shape[2]
    nothing = np.full(shape, np.nan, np.float32)
    groups = {"p": nothing, "gap": nothing, "minority": nothing}
    if len(chance):
        found = two_groups(losses.reshape(-1, num_seeds), chance)
        groups = {name: getattr(found, name).reshape(shape).astype(np.float32) for name in groups}
    spread = losses.std(axis=2, ddof=1, dtype=np.float64).astype(np.float32) if num_seeds > 1 else nothing
    mean = losses.mean(axis=2, dtype=np.float64).astype(np.float32)
    return Distributions(steps=steps, mean=mean, spread=spread, **groups)
