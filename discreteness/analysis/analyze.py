"""dataset -> tables of fits, tokens and spectra, and the numbers that they say: every curve fitted, on all cores.

found = analyze("runs/first")    # writes runs/first/analysis/*.parquet, which tables.load reads again
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from discreteness.analysis.across_seeds import across_seeds
from discreteness.analysis.curve_measures import CurveMeasures
from discreteness.analysis.distributions import TokenGroups, distributions
from discreteness.analysis.fits import MIN_POINTS, fit
from discreteness.analysis.interference import interference_table
from discreteness.analysis.intervals import share
from discreteness.analysis.matching import match
from discreteness.analysis.null_comparisons import NullComparisons, compare
from discreteness.analysis.numbers import numbers
from discreteness.analysis.onset import onset_end, unigram_losses
from discreteness.analysis.processes import Processes, processes
from discreteness.analysis.sample import draw_sample
from discreteness.analysis.schedule_changes import schedule_of
from discreteness.analysis.seed_drops import SeedDrops
from discreteness.analysis.seed_numbers import moves, seed_numbers
from discreteness.analysis.spectrum import spectrum
from discreteness.analysis.tables import (
    ALL_DOCUMENTS,
    Analysis,
    Done,
    Work,
    count_losses,
    distributions_table,
    fits_table,
    spectra,
    spectrum_table,
    tokens_table,
    write_tables,
)
from discreteness.analysis.verdicts import Basis, judged, verdicts
from discreteness.dataset.reader import Dataset
from discreteness.dataset.reader import open as open_dataset

MAX_LOSSES_IN_WORK = 2**23
"""Losses that one process holds at once: 32 MiB, and several times that while it fits them."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A document and some of its seeds."""

    uri: str
    doc_id: int
    seeds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Means:
    """- `all_tokens`: float64 [seeds, steps], the mean of every token of each seed.
    - `changes`: float64 [seeds, steps - 1], the mean amount by which a token changes between neighbouring checkpoints.
    - `documents`: doc_id -> float64 [steps], the mean over tokens and seeds.
    """

    all_tokens: np.ndarray
    changes: np.ndarray
    documents: dict[int, np.ndarray]


def analyze(uri: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> Analysis:
    """Fits every curve on all cores, writes tables and numbers to `output` (default: the dataset's folder `analysis`).

    Raises ValueError if no seed is committed or if the plan has too few checkpoints to fit, and OSError if the tables
    cannot be written.
    """
    dataset = open_dataset(uri)
    if not dataset.seeds:
        raise ValueError(f"no seed is committed in {dataset.storage.uri} yet: there is nothing to analyze")
    if len(dataset.steps) < MIN_POINTS:
        raise ValueError(
            f"the plan of {dataset.storage.uri} has {len(dataset.steps)} checkpoints, too few to tell a drop "
            f"from a slope; record at least {MIN_POINTS} (--checkpoints log:48)"
        )
    with processes(len(dataset.seeds) * count_losses(dataset)) as workers:
        found = _analyze(dataset, workers)
    write_tables(found, dataset, output)
    return found


def _analyze(dataset: Dataset, workers: Processes) -> Analysis:
    # What a drop must be compared with decides how much evidence is asked of one.
    nulls = compare(draw_sample(dataset), workers)
    parts = list(_divide(dataset))
    means = _means(dataset, parts, workers)
    mean_fits = fit(means.all_tokens, dataset.steps)

    # Every curve.
    unigram = unigram_losses(dataset)
    ends = {doc_id: onset_end(mean, dataset.steps, unigram[doc_id]) for doc_id, mean in means.documents.items()}
    work = [_work(dataset, part, nulls, means, ends[part.doc_id]) for part in parts]
    done = list(workers.map(_do, work, "fitting"))

    # What they say.
    schedule = schedule_of(dataset)
    fits = fits_table(dataset, done, schedule)
    mean_drops = judged(mean_fits, nulls.chance.evidence).is_drop
    grand_mean_drops = share(mean_drops, np.ones(len(mean_drops)), np.array(dataset.seeds))

    # What seeds share.
    num_seeds = len(dataset.seeds)
    documents = fits["doc_id"].to_numpy()[::num_seeds]
    drops = SeedDrops.of_table(fits, num_seeds)
    events = match(drops)
    across = across_seeds(fits["final_loss"].to_numpy().reshape(-1, num_seeds), drops, events)
    category_of = {document.doc_id: document.category for document in dataset.documents}
    categories = np.array([category_of[doc_id] for doc_id in documents.tolist()])
    together = moves(events, documents, categories)
    over_seeds = distributions(dataset, workers)
    groups = TokenGroups.of(over_seeds)
    of_seeds = seed_numbers(documents, categories, across, events, together, over_seeds, groups)
    sums = spectra(dataset, done)
    rebuilt = sums[ALL_DOCUMENTS].rebuilt_share(sums[ALL_DOCUMENTS].at_single_times)
    return Analysis(
        fits=fits,
        tokens=tokens_table(dataset, fits, across, over_seeds, groups, together.cluster),
        distributions=distributions_table(dataset, over_seeds),
        spectrum=spectrum_table(sums, nulls.smooth.by_drops),
        interference=interference_table(dataset.steps, means.all_tokens, means.changes),
        seeds=dataset.seeds,
        noise=nulls.noise.whole,
        numbers=numbers(fits, nulls, grand_mean_drops, schedule, dataset.steps, rebuilt, of_seeds),
    )


def _divide(dataset: Dataset) -> Iterator[_Part]:
    for document in dataset.documents:
        seeds = max(1, MAX_LOSSES_IN_WORK // (document.num_losses * len(dataset.steps)))
        for start in range(0, len(dataset.seeds), seeds):
            chosen = tuple(dataset.seeds[start : start + seeds])
            yield _Part(uri=dataset.storage.uri, doc_id=document.doc_id, seeds=chosen)


def _means(dataset: Dataset, parts: list[_Part], workers: Processes) -> _Means:
    row = {seed: number for number, seed in enumerate(dataset.seeds)}
    total = np.zeros((len(dataset.seeds), len(dataset.steps)))
    changes = np.zeros((len(dataset.seeds), len(dataset.steps) - 1))
    documents = {document.doc_id: np.zeros(len(dataset.steps)) for document in dataset.documents}
    for part, (sums, moved) in zip(parts, workers.map(_sum, parts, "means of all"), strict=True):
        rows = [row[seed] for seed in part.seeds]
        total[rows] += sums
        changes[rows] += moved
        curves = dataset.document(part.doc_id).num_losses * len(dataset.seeds)
        documents[part.doc_id] += sums.sum(axis=0) / curves
    num_tokens = count_losses(dataset)
    return _Means(all_tokens=total / num_tokens, changes=changes / num_tokens, documents=documents)


def _sum(part: _Part) -> tuple[np.ndarray, np.ndarray]:
    """Over the tokens: of losses, float64 [seeds, steps], and of the amounts of their changes [seeds, steps - 1]."""
    losses = open_dataset(part.uri).losses(part.doc_id, seeds=part.seeds)
    return losses.sum(axis=2, dtype=np.float64), np.abs(np.diff(losses, axis=1)).sum(axis=2, dtype=np.float64)


def _work(dataset: Dataset, part: _Part, nulls: NullComparisons, means: _Means, ended: float) -> Work:
    rows = [dataset.seeds.index(seed) for seed in part.seeds]
    basis = Basis(
        noise=nulls.noise,
        evidence=nulls.chance.evidence,
        num_tokens=count_losses(dataset),
        means=means.all_tokens[rows],
    )
    chance = float(means.all_tokens[:, 0].mean()) if dataset.steps[0] == 0 else float("nan")
    return Work(uri=part.uri, doc_id=part.doc_id, seeds=part.seeds, basis=basis, onset_end=ended, chance=chance)


def _do(work: Work) -> Done:
    dataset = open_dataset(work.uri)
    losses = dataset.losses(work.doc_id, seeds=work.seeds).transpose(2, 0, 1)
    found = verdicts(losses, np.array(dataset.steps), work.basis)
    curves = losses.reshape(-1, len(dataset.steps))
    return Done(
        work=work,
        verdicts=found,
        measures=CurveMeasures.of(curves, dataset.steps, found.fits, work.chance),
        final_losses=curves[:, -1].astype(np.float64),
        spectrum=spectrum(curves, dataset.steps, found.fits),
    )
