"""datasets of the same documents -> when each token is learned in each of them, on one axis.

The drops of all seeds of all datasets are matched together (`matching`), so that the same drop is compared and not the
main drop of one dataset with the second of another. Of each token that drop counts which most seeds of all share; a
dataset has it if at least half of its seeds do.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from discreteness.analysis.across_seeds import spread
from discreteness.analysis.analyze import analyze
from discreteness.analysis.matching import match
from discreteness.analysis.seed_drops import SeedDrops
from discreteness.analysis.seed_numbers import SHARED_EVENT
from discreteness.analysis.tables import Analysis, load
from discreteness.dataset.reader import Dataset
from discreteness.dataset.reader import open as open_dataset


@dataclass(frozen=True, kw_only=True)
class Run:
    """One of the datasets. `name`: what tables and figures call it, its folder's name if no other has the same."""

    name: str
    dataset: Dataset
    found: Analysis

    @property
    def drops(self) -> SeedDrops:
        return SeedDrops.of_table(self.found.fits, len(self.found.seeds))


@dataclass(frozen=True, kw_only=True)
class JoinedTimes:
    """Of each token in each dataset [tokens, runs], of the drop that most seeds of all share. Nan where fewer than
    SHARED_EVENT of the dataset's seeds have it.
    """

    times: np.ndarray
    """Mean over the dataset's seeds, octaves: log2(step / origin + 1)."""
    spreads: np.ndarray
    """Standard deviation over these seeds without the fits' own error, octaves; nan below two."""
    squared_errors: np.ndarray
    """Of the mean, octaves squared: the variance over the seeds that have it, by their number; nan below two."""
    event_shares: np.ndarray
    """Share of the dataset's seeds that have it, never nan."""
    origin: float
    """Updates: the smallest of all datasets."""

    @property
    def dropped(self) -> np.ndarray:
        """bool [tokens, runs]: the dataset has it."""
        return np.isfinite(self.times)

    @property
    def updates(self) -> np.ndarray:
        """[tokens, runs]"""
        return self.origin * (2**self.times - 1)


def open_datasets(uris: Sequence[str]) -> list[Dataset]:
    """Raises ValueError if one is named twice, has no committed seed or holds other documents than the first."""
    datasets = [open_dataset(uri) for uri in uris]
    first = datasets[0]
    for place, dataset in enumerate(datasets):
        uri = dataset.storage.uri
        if uri in [other.storage.uri for other in datasets[:place]]:
            raise ValueError(f"{uri} is named twice; name each dataset once")
        if not dataset.seeds:
            raise ValueError(f"no seed is committed in {uri} yet: there is nothing to compare")
        if dataset.experiment["documents_hash"] != first.experiment["documents_hash"]:
            raise ValueError(
                f"{uri} holds other documents than {first.storage.uri}, or other tokens of them; only losses of the "
                "same tokens can be compared"
            )
    return datasets


def analysed(datasets: Sequence[Dataset], output: str | os.PathLike[str]) -> list[Run]:
    """The analysis that a dataset has already, if that is of all its seeds; else one made anew, in a folder of `output`
    with the dataset's name. Raises as `analyze`.
    """
    return [
        Run(name=name, dataset=dataset, found=_analysis_of(dataset, f"{os.fspath(output).rstrip('/')}/{name}"))
        for name, dataset in zip(names(datasets), datasets, strict=True)
    ]


def names(datasets: Sequence[Dataset]) -> list[str]:
    """Of their folders; those of equal names are numbered."""
    folders = [dataset.storage.uri.rstrip("/").rpartition("/")[2] for dataset in datasets]
    counts = Counter(folders)
    return [name if counts[name] == 1 else f"{name}-{number}" for number, name in enumerate(folders, 1)]


def _analysis_of(dataset: Dataset, folder: str) -> Analysis:
    try:
        found = load(dataset.storage.uri)
    except (FileNotFoundError, ValueError):
        return analyze(dataset.storage.uri, folder)
    return found if found.seeds == dataset.seeds else analyze(dataset.storage.uri, folder)


def joined_times(drops: Sequence[SeedDrops]) -> JoinedTimes:
    """`drops`: of each dataset, of the same tokens."""
    counts = [one.times.shape[1] for one in drops]
    joined = side_by_side(drops)
    events = match(joined)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("times", "spreads", "squared_errors", "event_shares")}
    for start, count in zip(np.cumsum([0, *counts]), counts, strict=False):
        times, errors = (values[:, start : start + count] for values in (events.times, events.errors))
        there = np.isfinite(times).sum(axis=1)
        enough = there >= max(1, SHARED_EVENT * count)
        several = enough & (there > 1)
        mine = np.where(enough[:, None], times, np.nan)
        means = _over_seeds(mine, there, 0)
        variances = _over_seeds((mine - means[:, None]) ** 2, there, 1)
        columns["times"].append(means)
        columns["spreads"].append(np.where(several, spread(times, errors), np.nan))
        columns["squared_errors"].append(np.where(several, variances / np.maximum(there, 1), np.nan))
        columns["event_shares"].append(there / count)
    arrays = {name: np.stack(values, axis=1) for name, values in columns.items()}
    return JoinedTimes(**arrays, origin=joined.origin)


def _over_seeds(values: np.ndarray, there: np.ndarray, taken: int) -> np.ndarray:
    """Sum over the seeds [tokens, seeds] that are there, by their number less `taken`; nan where none is."""
    sums = np.where(np.isfinite(values), values, 0).sum(axis=1) / np.maximum(there - taken, 1)
    return np.where(np.isfinite(values).any(axis=1), sums, np.nan)


def side_by_side(drops: Sequence[SeedDrops]) -> SeedDrops:
    """The seeds of all, one dataset after another, on the axis of the smallest origin."""
    origin = min(one.origin for one in drops)
    most = max(one.times.shape[2] for one in drops)
    moved = [_on_axis(one, origin, most) for one in drops]

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(one, name) for one in moved], axis=1)

    return SeedDrops(
        times=joined("times"),
        widths=joined("widths"),
        falls=joined("falls"),
        errors=joined("errors"),
        highs=joined("highs"),
        origin=origin,
    )


def _on_axis(drops: SeedDrops, origin: float, most: int) -> SeedDrops:
    """With another origin, and so many drops on the last axis. Lengths are those at the drop's time."""
    padding = [(0, 0), (0, 0), (0, most - drops.times.shape[2])]
    updates = drops.origin * (2**drops.times - 1)
    scale = (updates + drops.origin) / (updates + origin)  # d log2(step / origin + 1) is d step / (step + origin)
    changed = {
        "times": np.log2(updates / origin + 1),
        "widths": drops.widths * scale,
        "errors": drops.errors * scale,
        "falls": drops.falls,
    }
    padded = {name: np.pad(values, padding, constant_values=np.nan) for name, values in changed.items()}
    return SeedDrops(**padded, highs=drops.highs, origin=origin)


def joined_table(runs: Sequence[Run], joined: JoinedTimes) -> pa.Table:
    """One row per token and dataset; docs/analysis.md describes each column."""
    first = joined.times[:, :1]
    tables = []
    for place, run in enumerate(runs):
        tokens = run.found.tokens
        same = tokens.select(["doc_id", "document", "token_index", "token"])
        columns = {
            "dataset": pa.array([run.name] * len(tokens)),
            "seeds": tokens["seeds"],
            **{name: tokens[name] for name in ("final_loss", "learned_share", "drop_share")},
            "event_share": pa.array(joined.event_shares[:, place]),
            "time": pa.array(joined.updates[:, place], from_pandas=True),
            "time_spread": pa.array(joined.spreads[:, place], from_pandas=True),
            "difference": pa.array((joined.times - first)[:, place], from_pandas=True),
        }
        for name, values in columns.items():
            same = same.append_column(name, values)
        tables.append(same)
    return pa.concat_tables(tables).sort_by([("doc_id", "ascending"), ("token_index", "ascending")])
