"""The tables of an analysis: made from fits and spectra, written to files, read back from them.

- They are files of the dataset's folder `analysis`, or of a folder of their own.
- Each table carries the seeds that were analysed and the documents it is of; tables of other documents are refused.
- COLUMNS is their layout: tables that another version wrote with other columns are refused, too.
- What they say together is in NUMBERS_FILE.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from discreteness.analysis.across_seeds import AcrossSeeds, medians
from discreteness.analysis.curve_measures import NAMES as MEASURES
from discreteness.analysis.curve_measures import CurveMeasures
from discreteness.analysis.curves_of_runs import closer_shares, cross_run
from discreteness.analysis.distributions import Distributions, TokenGroups
from discreteness.analysis.fits import Fits
from discreteness.analysis.noise import Noise
from discreteness.analysis.numbers import Numbers
from discreteness.analysis.schedule_changes import Schedule
from discreteness.analysis.spectrum import Spectrum
from discreteness.analysis.verdicts import Basis, Verdicts
from discreteness.dataset.long_form import words
from discreteness.dataset.reader import Dataset
from discreteness.dataset.reader import open as open_dataset
from discreteness.dataset.storage import Storage, open_storage

FOLDER = "analysis"
COLUMNS = {
    "fits": "doc_id document token_index token seed time width high low time_error width_error height_error r2 "
    "delta_bic is_drop num_drops stable common schedule onset final_loss fall fall_in_drops fall_after_onset "
    "fall_in_drops_after_onset base origin times widths falls drops single_time single_width single_fall single_r2 "
    "acquired variability forgotten",
    "tokens": "doc_id document token_index token seeds final_loss final_spread final_low final_median final_high "
    "acquired variability forgotten cross_run closer_share learned_share drop_share stable_share "
    "common_share event_share num_events time time_spread width fall two_groups_p two_groups_q two_groups_final_q "
    "two_groups_step two_groups_gap two_groups_minority cluster",
    "distributions": "doc_id document token_index token step mean spread p gap minority",
    "spectrum": "document from_step to_step curves measured rebuilt by_drops at_times at_single_times drops "
    "by_false_drops by_false_drops_low by_false_drops_high",
    "interference": "from_step to_step change size interference",
}
"""Table -> its columns; docs/analysis.md describes each."""
ALL_DOCUMENTS = ""
"""What the spectrum of all documents together is filed under."""
NUMBERS_FILE = "numbers.json"
_METADATA_KEY = b"discreteness.analysis"


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What `analyze` found; docs/analysis.md describes each column.

    - `fits`: one row per curve, sorted by doc_id, token_index, seed.
    - `tokens`: one row per token.
    - `distributions`: one row per token and checkpoint looked at, of its losses over seeds.
    - `spectrum`: one row per document (ALL_DOCUMENTS: all) and bin of log step.
    - `interference`: one row per two neighbouring checkpoints.
    - `seeds`: those analysed; a dataset may have more by now.
    - `noise`: by which every curve was fitted: `fit(losses, steps, noise)` gives the same fit again.
    - `numbers`: what the tables and the null comparisons say together.
    """

    fits: pa.Table
    tokens: pa.Table
    distributions: pa.Table
    spectrum: pa.Table
    interference: pa.Table
    seeds: list[int]
    noise: Noise
    numbers: Numbers


@dataclass(frozen=True, kw_only=True)
class Work:
    """A document and some of its seeds: read, fitted and summed in one process, and judged by `basis`. `onset_end`: of
    the document, in updates. `chance`: loss of the untrained model, nats, nan if step 0 was not recorded.
    """

    uri: str
    doc_id: int
    seeds: tuple[int, ...]
    basis: Basis
    onset_end: float
    chance: float


@dataclass(frozen=True, kw_only=True)
class Done:
    """`verdicts`, `measures`, `final_losses`: curves in order of token, then of the work's seeds."""

    work: Work
    verdicts: Verdicts
    measures: CurveMeasures
    final_losses: np.ndarray
    spectrum: Spectrum


def load(uri: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> Analysis:
    """The tables that `analyze` wrote, for the same arguments.

    Raises FileNotFoundError if it was not run, and ValueError if a table is damaged, of another version or of another
    dataset.
    """
    dataset = open_dataset(uri)
    storage, prefix = output_storage(dataset.storage, output)
    again = f"run: discreteness analyze {dataset.storage.uri}"
    tables: dict[str, pa.Table] = {}
    seeds: dict[str, list[int]] = {}
    for name, columns in COLUMNS.items():
        path = f"{prefix}{name}.parquet"
        if not storage.exists(path):
            raise FileNotFoundError(f"{storage.path(path)} does not exist; {again}")
        try:
            source = pa.BufferReader(storage.read(path))
            tables[name] = pq.ParquetFile(source, page_checksum_verification=True).read()
            stated = json.loads(tables[name].schema.metadata[_METADATA_KEY])
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
            raise ValueError(f"{storage.path(path)} is damaged or not of an analysis; {again}") from None
        if missing := set(columns.split()) - set(tables[name].column_names):
            raise ValueError(
                f"{storage.path(path)} was written by another version, without {', '.join(sorted(missing))}; {again}"
            )
        if stated["documents"] != _documents_of(dataset):
            raise ValueError(f"{storage.path(path)} is of other documents; {again}")
        seeds[name] = stated["seeds"]
    noise = Noise(**{name: np.array(values) for name, values in stated["noise"].items()})
    path = f"{prefix}{NUMBERS_FILE}"
    if not storage.exists(path):
        raise FileNotFoundError(f"{storage.path(path)} does not exist; {again}")
    try:
        numbers = Numbers.of_json(json.loads(storage.read(path)))
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{storage.path(path)} is damaged or of another version; {again}") from None
    first = next(iter(seeds.values()))
    if any(others != first for others in seeds.values()) or numbers.seeds != len(first):
        # Killed between two of them, or two at once.
        raise ValueError(f"the tables of {storage.path(prefix)} are of two runs, with other seeds; {again}")
    return Analysis(**tables, seeds=first, noise=noise, numbers=numbers)


def count_losses(dataset: Dataset) -> int:
    return sum(document.num_losses for document in dataset.documents)


def _documents_of(dataset: Dataset) -> list[list[int]]:
    return [[document.doc_id, document.num_losses] for document in dataset.documents]


def output_storage(storage: Storage, output: str | os.PathLike[str] | None) -> tuple[Storage, str]:
    """Where the tables are, and what their names there begin with."""
    return (storage, f"{FOLDER}/") if output is None else (open_storage(output), "")


def fits_table(dataset: Dataset, done: list[Done], schedule: Schedule) -> pa.Table:
    tables = []
    for part in done:
        fits, seeds = part.verdicts.fits, np.array(part.work.seeds, np.int32)
        num_tokens = len(fits.time) // len(seeds)
        during = pa.array(schedule.during(fits.time, fits.width), mask=~fits.is_drop | (not schedule.known))
        ended = part.work.onset_end
        columns = {
            "doc_id": np.full(len(fits.time), part.work.doc_id, np.int32),
            "token_index": np.repeat(np.arange(1, num_tokens + 1, dtype=np.int32), len(seeds)),
            "seed": np.tile(seeds, num_tokens),
            **{name: getattr(fits, name) for name in ("time", "width", "high", "low")},
            **{name: _nulls(getattr(fits, name)) for name in ("time_error", "width_error", "height_error")},
            "r2": fits.r2,
            "delta_bic": fits.delta_bic,
            "is_drop": fits.is_drop,
            "num_drops": fits.num_drops.astype(np.int32),
            "stable": _yes_or_no(part.verdicts.stable),
            "common": _yes_or_no(part.verdicts.common),
            "schedule": during,
            "onset": _yes_or_no(np.where(fits.is_drop & np.isfinite(ended), fits.time <= ended, np.nan)),
            "final_loss": part.final_losses,
            "fall": fits.fall,
            "fall_in_drops": fits.fall_in_drops,
            **{name: _nulls(values) for name, values in _falls_after(fits, ended, dataset.steps).items()},
            "base": fits.base,
            "origin": fits.origin,
            **{name: _lists(getattr(fits, name), np.isfinite(fits.times)) for name in ("times", "widths", "falls")},
            "drops": _lists(fits.drops, np.isfinite(fits.times)),
            "single_time": fits.single_times,
            "single_width": fits.single.widths[:, 0],
            "single_fall": fits.single.falls[:, 0],
            "single_r2": fits.single_r2,
            **{name: _nulls(getattr(part.measures, name)) for name in MEASURES},
        }
        tables.append(pa.table(columns))
    fits = pa.concat_tables(tables).sort_by([(name, "ascending") for name in ("doc_id", "token_index", "seed")])
    return _named(dataset, fits)


def _falls_after(fits: Fits, onset_end: float, steps: Sequence[int]) -> dict[str, np.ndarray]:
    """Of the nats that each fitted curve falls, and of those in drops, what comes after the onset [n]; nan if it is not
    known when that ends. A drop belongs to the side that its middle is on.
    """
    if np.isnan(onset_end):
        return dict.fromkeys(("fall_after_onset", "fall_in_drops_after_onset"), np.full(len(fits.fall), np.nan))
    curve = fits.curve(steps)
    later = np.array(steps) >= onset_end
    start = fits.curve(np.array([onset_end]))[:, 0]
    after = np.clip(start - curve[:, later].min(axis=1), 0, fits.fall)
    heights = fits.falls * fits.drops
    shares = np.nansum(heights * (fits.times > onset_end), axis=1) / np.where(
        fits.is_drop, np.nansum(heights, axis=1), 1
    )
    return {
        "fall_after_onset": after,
        "fall_in_drops_after_onset": np.minimum(fits.fall_in_drops * shares, after),
    }


def _named(dataset: Dataset, table: pa.Table) -> pa.Table:
    """With `document`, its name, after doc_id, and `token`, its text, after token_index: each text is kept once."""
    names = [document.name for document in dataset.documents]
    texts = [text for document in dataset.documents for text in dataset.texts(document.doc_id)]
    place = np.searchsorted([document.doc_id for document in dataset.documents], table["doc_id"].to_numpy())
    first = np.cumsum([0, *(document.num_losses for document in dataset.documents)])[place]
    for after, name, words_there in (
        ("doc_id", "document", words(names, place)),
        ("token_index", "token", words(texts, first + table["token_index"].to_numpy() - 1)),
    ):
        table = table.add_column(table.column_names.index(after) + 1, name, words_there)
    return table


def _lists(values: np.ndarray, there: np.ndarray) -> pa.ListArray:
    """[n, terms] -> n lists of those that are there."""
    offsets = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values[there]))


def tokens_table(
    dataset: Dataset,
    fits: pa.Table,
    across: AcrossSeeds,
    over_seeds: Distributions,
    groups: TokenGroups,
    cluster: np.ndarray,
) -> pa.Table:
    """`cluster` int64 [tokens]."""
    num_seeds = fits.num_rows // len(cluster)

    def of_drops(name: str) -> np.ndarray:
        """The share of seeds with a drop in which it is so; nan where none has one."""
        values = _by_seed(fits[name], num_seeds)
        known = np.isfinite(values).sum(axis=1)
        return np.where(known > 0, np.nansum(values, axis=1) / np.maximum(known, 1), np.nan)

    columns = {
        "doc_id": fits["doc_id"].to_numpy()[::num_seeds],
        "token_index": fits["token_index"].to_numpy()[::num_seeds],
        "seeds": np.full(len(cluster), num_seeds, np.int32),
        **{field.name: getattr(across, field.name) for field in fields(across)},
        "num_events": across.num_events.astype(np.int32),
        **{field.name: getattr(groups, field.name) for field in fields(groups)},
        "two_groups_step": pa.array(groups.two_groups_step, pa.int64(), from_pandas=True),
        **{name: medians(_by_seed(fits[name], num_seeds)) for name in MEASURES},
        "cross_run": cross_run(over_seeds.spread),
        "closer_share": closer_shares(dataset),
        "stable_share": of_drops("stable"),
        "common_share": of_drops("common"),
        "cluster": pa.array(cluster.astype(np.int32), mask=cluster < 0),
    }
    table = pa.table({name: _nulls(values) for name, values in columns.items()})
    return _named(dataset, table).select(COLUMNS["tokens"].split())


def _by_seed(column: pa.ChunkedArray, num_seeds: int) -> np.ndarray:
    """float64 [tokens, seeds], nan for null."""
    return np.array(column.to_pylist(), np.float64).reshape(-1, num_seeds)


def distributions_table(dataset: Dataset, found: Distributions) -> pa.Table:
    count = len(found.steps)
    documents = dataset.documents
    doc_ids = np.repeat([document.doc_id for document in documents], [document.num_losses for document in documents])
    tokens = np.concatenate([np.arange(1, document.num_losses + 1) for document in documents])
    columns = {
        "doc_id": np.repeat(doc_ids, count).astype(np.int32),
        "token_index": np.repeat(tokens, count).astype(np.int32),
        "step": np.tile(found.steps, len(tokens)).astype(np.int64),
        **{name: _nulls(getattr(found, name).reshape(-1)) for name in ("mean", "spread", "p", "gap", "minority")},
    }
    return _named(dataset, pa.table(columns))


def _yes_or_no(values: np.ndarray) -> pa.Array:
    """1, 0 or nan -> true, false or null."""
    return pa.array(values == 1, mask=np.isnan(values))


def _nulls(values: np.ndarray | pa.Array) -> pa.Array:
    """nan -> null: not measured."""
    return values if isinstance(values, pa.Array) else pa.array(values, from_pandas=True)


def spectra(dataset: Dataset, done: list[Done]) -> dict[str, Spectrum]:
    """Of each document by its name, and of ALL_DOCUMENTS together."""
    names = {document.doc_id: document.name for document in dataset.documents}
    sums: dict[str, Spectrum] = {}
    for part in done:
        for name in (names[part.work.doc_id], ALL_DOCUMENTS):
            sums[name] = sums[name] + part.spectrum if name in sums else part.spectrum
    return sums


def spectrum_table(sums: dict[str, Spectrum], false_falls: np.ndarray) -> pa.Table:
    """`false_falls` [resamples, bins]: as in SmoothCurves, of all documents together."""
    low, high = np.quantile(false_falls, [0.025, 0.975], axis=0)
    chance = {
        "by_false_drops": false_falls.mean(axis=0),
        "by_false_drops_low": low,
        "by_false_drops_high": high,
    }
    return pa.concat_tables(
        pa.table(
            {
                "document": [name] * len(one.measured),
                "from_step": 2 ** one.edges[:-1] - 1,
                "to_step": 2 ** one.edges[1:] - 1,
                "curves": np.full(len(one.measured), one.curves),
                "measured": one.per_octave(one.measured),
                "rebuilt": one.per_octave(one.rebuilt),
                "by_drops": one.per_octave(one.by_drops),
                "at_times": one.per_octave(one.at_times),
                "at_single_times": one.per_octave(one.at_single_times),
                "drops": one.drops.astype(np.int64),
                **{
                    what: pa.array(values, mask=np.full(len(values), name != ALL_DOCUMENTS))
                    for what, values in chance.items()
                },
            }
        )
        for name, one in sorted(sums.items())
    )


def write_tables(found: Analysis, dataset: Dataset, output: str | os.PathLike[str] | None) -> None:
    storage, prefix = output_storage(dataset.storage, output)
    noise = {field.name: getattr(found.noise, field.name).tolist() for field in fields(found.noise)}
    metadata = json.dumps({"seeds": found.seeds, "documents": _documents_of(dataset), "noise": noise}).encode()
    for name in COLUMNS:
        sink = pa.BufferOutputStream()
        table = getattr(found, name).replace_schema_metadata({_METADATA_KEY: metadata})
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        storage.write(f"{prefix}{name}.parquet", sink.getvalue())
    storage.write(f"{prefix}{NUMBERS_FILE}", json.dumps(found.numbers.as_json(), indent=1).encode())
