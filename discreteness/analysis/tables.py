"""The tables of an analysis: made from fits and spectra, written to files, read back from them.

- They are files of the dataset's folder `analysis`, or of a folder of their own.
- Each table carries the seeds that were analysed and the documents it is of; tables of other documents are refused.
- COLUMNS is their layout: tables that another version wrote with other columns are refused, too.
"""

import json
import os
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from discreteness.analysis.across_seeds import across_seeds
from discreteness.analysis.fits import Fits
from discreteness.analysis.main_drops import MainDrops
from discreteness.analysis.spectrum import Spectrum
from discreteness.dataset.long_form import words
from discreteness.dataset.reader import Dataset
from discreteness.dataset.reader import open as open_dataset
from discreteness.dataset.storage import Storage, open_storage

FOLDER = "analysis"
COLUMNS = {
    "fits": "doc_id document token_index token seed time width high low time_error width_error height_error r2 "
    "delta_bic is_drop num_drops stable fall fall_in_drops final_loss base origin times widths falls drops",
    "tokens": "doc_id document token_index token seeds final_loss final_spread learned_share drop_share time "
    "time_spread width fall dip dip_p dip_q cluster",
    "spectrum": "document from_step to_step curves measured rebuilt by_drops at_times drops",
}
"""Table -> its columns; docs/analysis.md describes each."""
ALL_DOCUMENTS = ""
"""What the spectrum of all documents together is filed under."""
_METADATA_KEY = b"discreteness.analysis"


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What `analyze` found; docs/analysis.md describes each column.

    - `fits`: one row per curve, sorted by doc_id, token_index, seed.
    - `tokens`: one row per token.
    - `spectrum`: one row per document (ALL_DOCUMENTS: all) and bin of log step.
    - `seeds`: those analysed; a dataset may have more by now.
    """

    fits: pa.Table
    tokens: pa.Table
    spectrum: pa.Table
    seeds: list[int]


@dataclass(frozen=True, kw_only=True)
class Work:
    """A document and some of its seeds: read, fitted and summed in one process."""

    uri: str
    doc_id: int
    seeds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Done:
    """`fits`, `stable`, `final_losses`: curves in order of token, then of the work's seeds."""

    work: Work
    fits: Fits
    stable: np.ndarray
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
    return Analysis(**tables, seeds=stated["seeds"])


def count_losses(dataset: Dataset) -> int:
    return sum(document.num_losses for document in dataset.documents)


def _documents_of(dataset: Dataset) -> list[list[int]]:
    return [[document.doc_id, document.num_losses] for document in dataset.documents]


def output_storage(storage: Storage, output: str | os.PathLike[str] | None) -> tuple[Storage, str]:
    """Where the tables are, and what their names there begin with."""
    return (storage, f"{FOLDER}/") if output is None else (open_storage(output), "")


def fits_table(dataset: Dataset, done: list[Done]) -> pa.Table:
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
            "time_error": _nulls(fits.time_error),
            "width_error": _nulls(fits.width_error),
            "height_error": _nulls(fits.height_error),
            "r2": fits.r2,
            "delta_bic": fits.delta_bic,
            "is_drop": fits.is_drop,
            "num_drops": fits.num_drops.astype(np.int32),
            "stable": part.stable,
            "fall": fits.fall,
            "fall_in_drops": fits.fall_in_drops,
            "final_loss": part.final_losses,
            "base": fits.base,
            "origin": fits.origin,
            "times": _lists(fits.times, np.isfinite(fits.times)),
            "widths": _lists(fits.widths, np.isfinite(fits.times)),
            "falls": _lists(fits.falls, np.isfinite(fits.times)),
            "drops": _lists(fits.drops, np.isfinite(fits.times)),
        }
        tables.append(pa.table(columns))
    fits = pa.concat_tables(tables).sort_by([(name, "ascending") for name in ("doc_id", "token_index", "seed")])
    return _named(dataset, fits)


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


def tokens_table(dataset: Dataset, fits: pa.Table, num_seeds: int) -> pa.Table:
    def by_seed(name: str) -> np.ndarray:
        return fits[name].to_numpy().reshape(-1, num_seeds)

    shared = across_seeds(by_seed("final_loss"), MainDrops.of_table(fits, num_seeds))
    columns = {
        "doc_id": by_seed("doc_id")[:, 0],
        "token_index": by_seed("token_index")[:, 0],
        "seeds": np.full(len(shared.cluster), num_seeds, np.int32),
        **{field.name: getattr(shared, field.name) for field in fields(shared)},
        "cluster": pa.array(shared.cluster.astype(np.int32), mask=shared.cluster < 0),
    }
    return _named(dataset, pa.table({name: _nulls(values) for name, values in columns.items()}))


def _nulls(values: np.ndarray | pa.Array) -> pa.Array:
    """nan -> null: not measured."""
    return values if isinstance(values, pa.Array) else pa.array(values, from_pandas=True)


def spectrum_table(dataset: Dataset, done: list[Done]) -> pa.Table:
    names = {document.doc_id: document.name for document in dataset.documents}
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
                "by_drops": one.per_octave(one.by_drops),
                "at_times": one.per_octave(one.at_times),
                "drops": one.drops.astype(np.int64),
            }
        )
        for name, one in sorted(sums.items())
    )


def write_tables(found: Analysis, dataset: Dataset, output: str | os.PathLike[str] | None) -> None:
    storage, prefix = output_storage(dataset.storage, output)
    metadata = json.dumps({"seeds": found.seeds, "documents": _documents_of(dataset)}).encode()
    for name in COLUMNS:
        sink = pa.BufferOutputStream()
        table = getattr(found, name).replace_schema_metadata({_METADATA_KEY: metadata})
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        storage.write(f"{prefix}{name}.parquet", sink.getvalue())
