"""dataset -> tables of fits, tokens and spectra, and what they say in words.

found = analyze("runs/first")    # fits every curve, writes runs/first/analysis/*.parquet
found = load("runs/first")       # reads them again
"""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import track

from discreteness.analysis.across_seeds import (
    LEARNED_LOSS,
    MIN_SEEDS_FOR_DIP,
    TOGETHER_OCTAVES,
    across_seeds,
    learned_together,
    medians,
    shuffled,
)
from discreteness.analysis.fits import MIN_POINTS, Fits, fit, octaves
from discreteness.analysis.spectrum import Spectrum, rebuilt_share, spectrum
from discreteness.dataset.reader import Experiment
from discreteness.dataset.reader import open as open_dataset
from discreteness.dataset.storage import Storage, open_storage

FOLDER = "analysis"
TABLES = ("fits", "tokens", "spectrum")
ALL_DOCUMENTS = ""
"""What the spectrum of all documents together is filed under."""
MAX_LOSSES_IN_WORK = 2**25
"""Losses that one process holds at once: 128 MiB, some more while it fits them."""
FEW_CURVES = 4000
"""Fitted in this process: a second process starts more slowly than it helps."""
SHARPEST_OCTAVES = 0.5
"""Widths below it rank alike: a sparse plan cannot tell them apart."""
_METADATA_KEY = b"discreteness.analysis"


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What `analyze` found; docs/analysis.md describes each column.

    `fits`: a row a curve, sorted by doc_id, token_index, seed. `tokens`: a row a token. `spectrum`: a row a document
    (ALL_DOCUMENTS: all) and bin of log step. `seeds`: those analysed; a dataset may have more by now.
    """

    fits: pa.Table
    tokens: pa.Table
    spectrum: pa.Table
    seeds: list[int]


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token and where it is."""

    document: str
    token: int
    text: str

    @classmethod
    def at(cls, experiment: Experiment, doc_id: int, token: int) -> Self:
        text = experiment.tokens(doc_id)["token_text"][token].as_py()
        return cls(document=experiment.document(doc_id).name, token=token, text=text)


@dataclass(frozen=True, kw_only=True)
class _Work:
    """A document and some of its seeds: read, fitted and summed in one process."""

    uri: str
    doc_id: int
    seeds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Done:
    """`fits`, `final_losses`: curves in order of token, then of the work's seeds."""

    work: _Work
    fits: Fits
    final_losses: np.ndarray
    spectrum: Spectrum


def analyze(uri: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> Analysis:
    """Fits every curve on all cores, writes the three tables to `output` (default: the dataset's folder `analysis`).

    ValueError: no seed is committed, or the plan has too few checkpoints to fit; OSError: cannot be written.
    """
    experiment = open_dataset(uri)
    if not experiment.seeds:
        raise ValueError(f"no seed is committed in {experiment.storage.uri} yet: there is nothing to analyze")
    if len(experiment.steps) < MIN_POINTS:
        raise ValueError(
            f"the plan of {experiment.storage.uri} has {len(experiment.steps)} checkpoints, too few to tell a step "
            f"from a slope; record at least {MIN_POINTS} (--checkpoints log:48)"
        )
    done = list(_run(list(_divide(experiment)), num_curves=len(experiment.seeds) * _num_tokens(experiment)))
    fits = _fits_table(done)
    found = Analysis(
        fits=fits,
        tokens=_tokens_table(fits, len(experiment.seeds)),
        spectrum=_spectrum_table(experiment, done),
        seeds=experiment.seeds,
    )
    _write(found, experiment, output)
    return found


def load(uri: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> Analysis:
    """The tables that `analyze` wrote, for the same arguments. FileNotFoundError: it was not run; ValueError: damaged,
    or of another dataset.
    """
    experiment = open_dataset(uri)
    storage, prefix = place(experiment.storage, output)
    way_on = f"run: discreteness analyze {experiment.storage.uri}"
    tables: dict[str, pa.Table] = {}
    for name in TABLES:
        path = f"{prefix}{name}.parquet"
        if not storage.exists(path):
            raise FileNotFoundError(f"{storage.path(path)} does not exist; {way_on}")
        try:
            source = pa.BufferReader(storage.read(path))
            tables[name] = pq.ParquetFile(source, page_checksum_verification=True).read()
            stated = json.loads(tables[name].schema.metadata[_METADATA_KEY])
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
            raise ValueError(f"{storage.path(path)} is damaged or not of an analysis; {way_on}") from None
        if stated["documents"] != _documents_of(experiment):
            raise ValueError(f"{storage.path(path)} is of other documents; {way_on}")
    return Analysis(**tables, seeds=stated["seeds"])


def sharpest(experiment: Experiment, found: Analysis, count: int) -> list[Token]:
    """Tokens with a step in most seeds, those of the steepest fall first."""
    rows = _sharpest_rows(found, count)
    return [Token.at(experiment, row["doc_id"], row["token_index"]) for row in rows]


def _sharpest_rows(found: Analysis, count: int) -> list[dict[str, Any]]:
    rows = [row for row in found.tokens.to_pylist() if row["step_share"] >= 0.5]
    rows.sort(key=lambda row: -row["step_share"] * row["fall"] / max(row["width"], SHARPEST_OCTAVES))
    return rows[:count]


def summary(experiment: Experiment, found: Analysis, num_tokens: int = 12) -> str:
    """What was found, for a terminal."""
    num_losses, num_seeds = _num_tokens(experiment), len(found.seeds)
    rows = num_seeds * len(experiment.steps) * len(experiment.documents)
    lines = [
        f"{num_seeds} seeds x {len(experiment.steps)} checkpoints x {len(experiment.documents)} documents "
        f"= {rows} rows, {num_seeds * len(experiment.steps) * num_losses} losses",
        "",
        f"{'document':<32}{'curves':>8}{'steps':>8}{'last loss':>11}{'learned':>9}{'rebuilt':>9}"
        f"{'by times':>10}{'by steps':>10}",
    ]
    names = {document.doc_id: document.name for document in experiment.documents}
    doc_ids = found.fits["doc_id"].to_numpy()
    final, is_step = found.fits["final_loss"].to_numpy(), found.fits["is_step"].to_numpy()
    for doc_id, name in [*names.items(), (None, ALL_DOCUMENTS)]:
        mine = np.full(len(doc_ids), True) if doc_id is None else doc_ids == doc_id
        accounts = "".join(
            f"{share:>{width}.2f}" for share, width in zip(rebuilt_shares(found, name), (9, 10, 10), strict=True)
        )
        lines.append(
            f"{name or 'all':<32}{mine.sum():>8}{is_step[mine].mean():>8.0%}{final[mine].mean():>11.3f}"
            f"{(final[mine] < LEARNED_LOSS).mean():>9.0%}{accounts}"
        )
    lines += [
        "(steps: curves with a step; learned: final loss below ln 2; rebuilt: R^2 of the mean loss's derivative, from",
        " all fitted terms, from their learning times alone, from the steps alone)",
        "",
        f"{'sharpest steps':<44}{'seeds':>7}{'time':>8}{'+- octaves':>12}{'width':>7}{'fall':>7}",
    ]
    for row in _sharpest_rows(found, num_tokens):
        token = Token.at(experiment, row["doc_id"], row["token_index"])
        spread = "-" if row["time_spread"] is None else f"{row['time_spread']:.2f}"
        name = f"{token.text!r} ({token.document}, token {token.token})"
        lines.append(
            f"{name:<44}{row['step_share']:>7.0%}{row['time']:>8.0f}{spread:>12}{row['width']:>7.2f}{row['fall']:>7.2f}"
        )
    return "\n".join([*lines, "", *_words_across_seeds(found)])


def _words_across_seeds(found: Analysis) -> Iterator[str]:
    shares = found.tokens["step_share"].to_numpy()
    num_tokens = len(shares)
    yield (
        f"{(shares == 1).sum()} of {num_tokens} tokens have a step in every seed, {(shares == 0).sum()} in none, "
        f"{((shares > 0) & (shares < 1)).sum()} in some"
    )
    spreads = found.tokens["time_spread"].drop_null().to_numpy()
    if len(spreads):
        yield f"spread of a step's time over seeds: median {np.median(spreads):.2f} octaves"
    q = found.tokens["dip_q"].drop_null().to_numpy()
    if len(q):
        yield f"{(q < 0.05).sum()} tokens end in two groups of seeds (dip test, 5 % false discoveries)"
    else:
        yield f"two groups of final losses: not tested, it takes {MIN_SEEDS_FOR_DIP} seeds"
    clusters = found.tokens["cluster"].drop_null().to_numpy()
    chance = learned_together(shuffled(_main_step_times(found.fits, len(found.seeds)), np.random.default_rng(0)))
    yield (
        f"{len(clusters)} tokens in {len(np.unique(clusters))} clusters learned together in all seeds "
        f"(to {TOGETHER_OCTAVES} octaves); with each token's seeds shuffled {(chance >= 0).sum()} in "
        f"{len(np.unique(chance[chance >= 0]))}"
    )


def rebuilt_shares(found: Analysis, document: str) -> tuple[float, float, float]:
    """R^2 of the derivative of a document's mean loss, or of all: by all terms, their times alone, the steps alone."""
    rows = found.spectrum.filter(pc.equal(found.spectrum["document"], document))
    measured, *accounts = (rows[name].to_numpy() for name in ("measured", "rebuilt", "at_times", "by_steps"))
    first, second, third = (rebuilt_share(measured, account) for account in accounts)
    return first, second, third


def _num_tokens(experiment: Experiment) -> int:
    return sum(document.num_losses for document in experiment.documents)


def _documents_of(experiment: Experiment) -> list[list[int]]:
    return [[document.doc_id, document.num_losses] for document in experiment.documents]


def place(dataset: Storage, output: str | os.PathLike[str] | None) -> tuple[Storage, str]:
    """Where the tables are, and what their names there begin with."""
    return (dataset, f"{FOLDER}/") if output is None else (open_storage(output), "")


def _divide(experiment: Experiment) -> Iterator[_Work]:
    for document in experiment.documents:
        seeds = max(1, MAX_LOSSES_IN_WORK // (document.num_losses * len(experiment.steps)))
        for start in range(0, len(experiment.seeds), seeds):
            chosen = tuple(experiment.seeds[start : start + seeds])
            yield _Work(uri=experiment.storage.uri, doc_id=document.doc_id, seeds=chosen)


def _run(work: list[_Work], num_curves: int) -> Iterator[_Done]:
    """In the order of `work`, with a bar on a terminal's standard error."""
    console = Console(stderr=True)

    def shown(results: Iterator[_Done]) -> Iterator[_Done]:
        return iter(track(results, "fitting", len(work), console=console, disable=not console.is_terminal))

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


def _do(work: _Work) -> _Done:
    experiment = open_dataset(work.uri)
    losses = experiment.losses(work.doc_id, seeds=work.seeds)
    curves = losses.transpose(2, 0, 1).reshape(-1, len(experiment.steps))
    fits = fit(curves, experiment.steps)
    return _Done(
        work=work,
        fits=fits,
        final_losses=curves[:, -1].astype(np.float64),
        spectrum=spectrum(curves, experiment.steps, fits),
    )


def _fits_table(done: list[_Done]) -> pa.Table:
    tables = []
    for part in done:
        fits, seeds = part.fits, np.array(part.work.seeds, np.int32)
        num_tokens = len(fits.time) // len(seeds)
        columns = {
            "doc_id": np.full(len(fits.time), part.work.doc_id, np.int32),
            "token_index": np.repeat(np.arange(1, num_tokens + 1, dtype=np.int32), len(seeds)),
            "seed": np.tile(seeds, num_tokens),
            "time": fits.time,
            "width": fits.width,
            "high": fits.high,
            "low": fits.low,
            "r2": fits.r2,
            "delta_bic": fits.delta_bic,
            "is_step": fits.is_step,
            "num_steps": fits.num_steps.astype(np.int32),
            "final_loss": part.final_losses,
            "base": fits.base,
            "times": _lists(fits.times, np.isfinite(fits.times)),
            "widths": _lists(fits.widths, np.isfinite(fits.times)),
            "falls": _lists(fits.falls, np.isfinite(fits.times)),
            "steps": _lists(fits.steps, np.isfinite(fits.times)),
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables).sort_by([(name, "ascending") for name in ("doc_id", "token_index", "seed")])


def _lists(values: np.ndarray, there: np.ndarray) -> pa.ListArray:
    """[n, terms] -> n lists of those that are there."""
    offsets = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values[there]))


def _main_step_times(fits: pa.Table, num_seeds: int) -> np.ndarray:
    """Octaves [tokens, seeds], nan where there is no step."""
    times = np.where(fits["is_step"].to_numpy(), octaves(fits["time"].to_numpy()), np.nan)
    return times.reshape(-1, num_seeds)


def _tokens_table(fits: pa.Table, num_seeds: int) -> pa.Table:
    def by_seed(name: str) -> np.ndarray:
        return fits[name].to_numpy().reshape(-1, num_seeds)

    times = _main_step_times(fits, num_seeds)
    shared = across_seeds(by_seed("final_loss"), times)

    def median(values: np.ndarray) -> np.ndarray:
        return medians(np.where(np.isfinite(times), values, np.nan))

    columns = {
        "doc_id": by_seed("doc_id")[:, 0],
        "token_index": by_seed("token_index")[:, 0],
        "seeds": np.full(len(times), num_seeds, np.int32),
        "final_loss": shared.final_loss,
        "final_spread": shared.final_spread,
        "learned_share": shared.learned_share,
        "step_share": shared.step_share,
        "time": shared.time,
        "time_spread": shared.time_spread,
        "width": median(by_seed("width")),
        "fall": median(by_seed("high") - by_seed("low")),
        "dip": shared.dip,
        "dip_p": shared.dip_p,
        "dip_q": shared.dip_q,
        "cluster": pa.array(shared.cluster.astype(np.int32), mask=shared.cluster < 0),
    }
    return pa.table({name: _nulls(values) for name, values in columns.items()})


def _nulls(values: np.ndarray | pa.Array) -> pa.Array:
    """nan -> null: not measured."""
    return values if isinstance(values, pa.Array) else pa.array(values, from_pandas=True)


def _spectrum_table(experiment: Experiment, done: list[_Done]) -> pa.Table:
    names = {document.doc_id: document.name for document in experiment.documents}
    sums: dict[str, Spectrum] = {}
    for part in done:
        for name in (names[part.work.doc_id], ALL_DOCUMENTS):
            sums[name] = sums[name] + part.spectrum if name in sums else part.spectrum
    return pa.concat_tables(
        pa.table(
            {
                "document": [name] * len(one.measured),
                "from_step": 2 ** one.edges[:-1] - 1,
                "to_step": 2 ** one.edges[1:] - 1,
                "curves": np.full(len(one.measured), one.curves),
                "measured": one.per_octave(one.measured),
                "rebuilt": one.per_octave(one.rebuilt),
                "by_steps": one.per_octave(one.by_steps),
                "at_times": one.per_octave(one.at_times),
                "steps": one.steps.astype(np.int64),
            }
        )
        for name, one in sorted(sums.items())
    )


def _write(found: Analysis, experiment: Experiment, output: str | os.PathLike[str] | None) -> None:
    storage, prefix = place(experiment.storage, output)
    metadata = json.dumps({"seeds": found.seeds, "documents": _documents_of(experiment)}).encode()
    for name in TABLES:
        sink = pa.BufferOutputStream()
        table = getattr(found, name).replace_schema_metadata({_METADATA_KEY: metadata})
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        storage.write(f"{prefix}{name}.parquet", sink.getvalue())
