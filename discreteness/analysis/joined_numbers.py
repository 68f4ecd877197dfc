"""times of tokens in several datasets -> how two of them differ, as numbers and as a paragraph."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from discreteness.analysis.intervals import Estimate, Share, mean, share, without_interval
from discreteness.analysis.joined_runs import JoinedTimes, Run
from discreteness.analysis.stated import Stated
from discreteness.dataset.identity import differing_fields
from discreteness.dataset.manifest import listed

MIN_TOKENS = 3
"""Fewer say nothing about a correlation."""


@dataclass(frozen=True, kw_only=True)
class Pair(Stated):
    """Two datasets by name; shares are of tokens, intervals over documents. Nan where there is nothing to measure."""

    first: str
    second: str
    both_share: Share
    """With the same drop in both. So the next two."""
    first_share: Share
    """In the first alone: the second has it in fewer than half of its seeds."""
    second_share: Share
    """In the second alone."""
    chance_share: float
    """What `both_share` would be at most if the one dataset said nothing of which tokens have it in the other."""
    compared_tokens: int
    """Tokens with it in both; what follows is of these."""
    shift: Estimate
    """Mean of log2 of the time in the second less that in the first, octaves: above 0, the second is later."""
    difference_sd: float
    """Standard deviation of these differences over tokens, octaves."""
    seeds_sd: float
    """What it would be by chance, from the spread over the seeds of each; nan where one has a single seed."""
    correlation: float
    """Of the times of tokens in the first and in the second."""


def pairs(names: Sequence[str], documents: np.ndarray, joined: JoinedTimes) -> list[Pair]:
    """Each two datasets, by their `names` and in this order. `documents` [tokens]."""
    return [_pair(names, documents, joined, one, other) for one, other in combinations(range(len(names)), 2)]


def _pair(names: Sequence[str], documents: np.ndarray, joined: JoinedTimes, one: int, other: int) -> Pair:
    first, second = joined.dropped[:, one], joined.dropped[:, other]
    both, everywhere = first & second, np.ones(len(documents))
    before, after = joined.times[both, one], joined.times[both, other]
    differences = after - before
    squares = joined.squared_errors[both][:, [one, other]].sum(axis=1)
    squares = squares[np.isfinite(squares)]
    enough = len(differences) >= MIN_TOKENS
    varies = enough and before.std() > 0 and after.std() > 0
    return Pair(
        first=names[one],
        second=names[other],
        both_share=share(both, everywhere, documents),
        first_share=share(first & ~second, everywhere, documents),
        second_share=share(second & ~first, everywhere, documents),
        chance_share=float(first.mean() * second.mean()),
        compared_tokens=int(both.sum()),
        shift=mean(differences, documents[both]),
        difference_sd=float(differences.std(ddof=1)) if enough else np.nan,
        seeds_sd=float(np.sqrt(squares.mean())) if len(squares) else np.nan,
        correlation=float(np.corrcoef(before, after)[0, 1]) if varies else np.nan,
    )


def as_json(runs: Sequence[Run], found: Sequence[Pair]) -> dict[str, Any]:
    """The numbers of each dataset, as of its own analysis, and those of each pair."""
    datasets = [
        {
            "name": run.name,
            "path": run.dataset.storage.uri,
            "vary": run.dataset.vary,
            "numbers": run.found.numbers.as_json(),
        }
        for run in runs
    ]
    return {"datasets": datasets, "pairs": [pair.as_json() for pair in found]}


def paragraphs(runs: Sequence[Run], found: Sequence[Pair]) -> list[str]:
    """One of the datasets, and one per pair; not wrapped."""
    datasets = {run.name: run for run in runs}
    return [
        " ".join(_datasets(runs)),
        *(" ".join(_pair_in_words(datasets[pair.first], datasets[pair.second], pair)) for pair in found),
    ]


def _datasets(runs: Sequence[Run]) -> Iterator[str]:
    numbers = runs[0].found.numbers
    yield f"{len(runs)} datasets of the same {numbers.documents} documents, {numbers.tokens} tokens."
    for run in runs:
        numbers = run.found.numbers
        yield (
            f"{run.name}: {numbers.seeds} seeds ({run.dataset.seeds_differ}), {numbers.checkpoints} checkpoints up to "
            f"update {run.dataset.steps[-1]}; {numbers.drop_share} of the curves have a drop, and "
            f"{numbers.expected_false_share} of smooth curves with its own noise would."
        )


def _pair_in_words(one: Run, other: Run, pair: Pair) -> Iterator[str]:
    identities = [run.dataset.experiment["identity"] for run in (one, other)]
    fields = [name for name, _, _ in differing_fields(*identities)]
    yield f"{pair.second} against {pair.first}: {_what_differs(fields)}."
    yield (
        f"{pair.both_share} of the tokens have the same drop in both, {pair.first_share} in {pair.first} alone, "
        f"{pair.second_share} in {pair.second} alone. If the one said nothing of the other, at most "
        f"{without_interval(pair.chance_share)} would have it in both."
    )
    if not pair.compared_tokens:
        return
    later = "later" if pair.shift.value >= 0 else "earlier"
    size = _turned(pair.shift) if later == "earlier" else pair.shift
    yield f"Where both have it, it is on average {size} octaves {later} in {pair.second}"
    if np.isnan(pair.difference_sd):
        yield "(too few tokens to say how far they differ from each other)."
        return
    seeds = "a dataset with one seed does not say how much of that is chance"
    if not np.isnan(pair.seeds_sd):
        seeds = f"by chance, from the spread over seeds in each, it would be {pair.seeds_sd:.2f}"
    yield f"(standard deviation over tokens {pair.difference_sd:.2f}; {seeds})."
    if not np.isnan(pair.correlation):
        yield f"Their times correlate by {pair.correlation:.2f}."


def _what_differs(fields: list[str]) -> str:
    return f"their identities differ in {listed(fields, 6)}" if fields else "they have the same identity"


def _turned(one: Estimate) -> Estimate:
    return Estimate(value=-one.value, low=-one.high, high=-one.low)
