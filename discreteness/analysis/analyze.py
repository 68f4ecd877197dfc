"""dataset -> tables of fits, tokens and spectra: every curve fitted, on all cores.

found = analyze("runs/first")    # writes runs/first/analysis/*.parquet, which tables.load reads again
"""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

import numpy as np
from rich.console import Console
from rich.progress import track as progress_bar

from discreteness.analysis.fits import MIN_POINTS, fit
from discreteness.analysis.spectrum import spectrum
from discreteness.analysis.stability import stable
from discreteness.analysis.tables import (
    Analysis,
    Done,
    Work,
    count_losses,
    fits_table,
    spectrum_table,
    tokens_table,
    write_tables,
)
from discreteness.dataset.reader import Dataset
from discreteness.dataset.reader import open as open_dataset

MAX_LOSSES_IN_WORK = 2**25
"""Losses that one process holds at once: 128 MiB, some more while it fits them."""
FEW_CURVES = 4000
"""Fitted in this process: a second process starts more slowly than it helps."""


def analyze(uri: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> Analysis:
    """Fits every curve on all cores, writes the three tables to `output` (default: the dataset's folder `analysis`).

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
    done = list(_run(list(_divide(dataset)), num_curves=len(dataset.seeds) * count_losses(dataset)))
    fits = fits_table(dataset, done)
    found = Analysis(
        fits=fits,
        tokens=tokens_table(dataset, fits, len(dataset.seeds)),
        spectrum=spectrum_table(dataset, done),
        seeds=dataset.seeds,
    )
    write_tables(found, dataset, output)
    return found


def _divide(dataset: Dataset) -> Iterator[Work]:
    for document in dataset.documents:
        seeds = max(1, MAX_LOSSES_IN_WORK // (document.num_losses * len(dataset.steps)))
        for start in range(0, len(dataset.seeds), seeds):
            chosen = tuple(dataset.seeds[start : start + seeds])
            yield Work(uri=dataset.storage.uri, doc_id=document.doc_id, seeds=chosen)


def _run(work: list[Work], num_curves: int) -> Iterator[Done]:
    """In the order of `work`, with a bar on a terminal's standard error."""
    console = Console(stderr=True)

    def shown(results: Iterator[Done]) -> Iterator[Done]:
        return iter(progress_bar(results, "fitting", len(work), console=console, disable=not console.is_terminal))

    workers = min(len(os.sched_getaffinity(0)), len(work))
    if workers == 1 or num_curves <= FEW_CURVES:
        yield from shown(map(_do, work))
        return
    # Spawned: this process may have threads of Arrow's. A BLAS with threads of its own in each would only wait.
    with (
        _environment(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1"),
        ProcessPoolExecutor(workers, get_context("spawn")) as pool,
    ):
        yield from shown(pool.map(_do, work))


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _do(work: Work) -> Done:
    dataset = open_dataset(work.uri)
    losses = dataset.losses(work.doc_id, seeds=work.seeds)
    curves = losses.transpose(2, 0, 1).reshape(-1, len(dataset.steps))
    fits = fit(curves, dataset.steps)
    return Done(
        work=work,
        fits=fits,
        stable=stable(curves, dataset.steps, fits),
        final_losses=curves[:, -1].astype(np.float64),
        spectrum=spectrum(curves, dataset.steps, fits),
    )
