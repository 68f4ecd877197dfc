"""dataset -> one file for other tools: a table of one loss per row, or a result file of the original trainers.

`parquet`, `csv`: columns doc_id, document (name), token_index, token (text), step, seed, loss, sorted by the numbers;
float32, or float16 where asked.
`pt`, `hdf5`: the old formats field for field, always float16: a dict for torch.load(weights_only=True), and one
dataset per token; data scored with isolated packing say so in one extra key or attribute, `packing`. Into a folder,
`pt` writes what the original trainers leave in their folder of logs: a file per seed, and the aggregated one.
"""

import math
import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from discreteness.dataset.long_form import LONG_FORM, long_form
from discreteness.dataset.manifest import DocumentInfo
from discreteness.dataset.reader import Dataset, open
from discreteness.dataset.storage import Storage

PRECISIONS = {
    "parquet": ("float32", "float16"),
    "csv": ("float32", "float16"),
    "pt": ("float16",),
    "hdf5": ("float16",),
}
"""Format -> what its losses can be; the first is what they are unless asked."""
AGGREGATED, PER_SEED = "aggregated_results.pt", "seed{seed}_{attempt}_eval_losses.pt"
"""Files of a pt export into a folder, as the tools of the original trainers look for them."""
BLOCK_BYTES = 2**28
"""Memory for the float32 losses that are under way in an export; large documents are read in several passes."""


TABLE_OVERHEAD = 10
"""Bytes per row of a table, its columns and what they are made from, for each byte of its loss."""


def export(
    uri: str | os.PathLike[str] | Storage,
    format: str,
    destination: str | os.PathLike[str],
    precision: str | None = None,
) -> Path:
    """Writes all committed seeds to a local file, which appears whole; returns its path. pt: also to the files of a
    folder, which is there already or whose name ends with a slash.

    `format`: a key of PRECISIONS. Raises ValueError if the format is unknown or does not have this precision, if no
    seed is committed, or if a loss is beyond float16; FileExistsError if the destination, or a result in the folder,
    exists.
    """
    if format not in PRECISIONS:
        raise ValueError(f"format {format!r} is unknown; use one of {', '.join(PRECISIONS)}")
    precision = precision or PRECISIONS[format][0]
    if precision not in PRECISIONS[format]:
        raise ValueError(f"a {format} export is {' or '.join(PRECISIONS[format])}, not {precision}")
    if "://" in os.fspath(destination):
        raise ValueError(
            f"an export is written to a local file, not to {os.fspath(destination)}; copy it there afterwards"
        )
    path = Path(destination)
    if format == "pt" and (path.is_dir() or os.fspath(destination).endswith("/")):
        return _export_folder(_with_seeds(uri), path)
    if path.exists():
        raise FileExistsError(f"{path} exists; give another destination or delete it")
    dataset = _with_seeds(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        if format == "pt":
            _write_pt(dataset, file_names(dataset), staged)
        elif format == "hdf5":
            _write_hdf5(dataset, file_names(dataset), staged)
        else:
            _write_table(dataset, format, precision, staged)
        _flush(staged)
        staged.rename(path)
    finally:
        with suppress(FileNotFoundError):
            staged.unlink()
    return path


def _with_seeds(uri: str | os.PathLike[str] | Storage) -> Dataset:
    dataset = open(uri)
    if not dataset.seeds:
        raise ValueError(f"no seed is committed in {dataset.storage.uri} yet; there is nothing to export")
    return dataset


def _flush(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _export_folder(dataset: Dataset, folder: Path) -> Path:
    """The file of each seed, and at last the aggregated one. Each appears whole, and none before all are written."""
    if there := sorted([*folder.glob(PER_SEED.format(seed="*", attempt="*")), *folder.glob(AGGREGATED)]):
        raise FileExistsError(f"{there[0]} exists; give another folder, or delete the results in this one")
    folder.mkdir(parents=True, exist_ok=True)
    staged = folder / f".{uuid.uuid4().hex}"
    staged.mkdir()
    try:
        _write_pt(dataset, file_names(dataset), staged / AGGREGATED, staged)
        for file in sorted(staged.iterdir(), reverse=True):
            _flush(file)
            file.rename(folder / file.name)
    finally:
        shutil.rmtree(staged)
    return folder


def file_names(dataset: Dataset) -> list[str]:
    """Document names as file names, with .txt, in document order."""
    names = [d.name if d.name.endswith(".txt") else f"{d.name}.txt" for d in dataset.documents]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"documents share the file name {', '.join(twice)}, which the old formats cannot hold")
    return names


def _write_pt(dataset: Dataset, names: list[str], path: Path, folder: Path | None = None) -> None:
    """The aggregated file, and into a folder one of each seed."""
    try:
        import torch
    except ImportError:
        raise ValueError("a pt export needs torch; run: pip install torch") from None

    lengths = [document.num_losses for document in dataset.documents]
    results: dict[int, dict[str, Any]] = {}
    means = np.empty((len(dataset.seeds), len(dataset.steps), len(lengths)))
    for index, seed in enumerate(dataset.seeds):
        starts = np.cumsum([0, *lengths[:-1]])
        whole = dataset.seed(seed)
        pieces = [
            _float16(d, np.arange(1, n + 1), dataset.steps, [seed], whole[None, :, first : first + n])[0]
            for d, n, first in zip(dataset.documents, lengths, starts, strict=True)
        ]
        losses = np.concatenate(pieces, axis=1)
        means[index] = np.add.reduceat(losses.astype(np.float64), starts, axis=1) / lengths
        # Views of one storage per seed: saved once, instead of one storage per step and document.
        rows = torch.from_numpy(losses)
        results[seed] = {
            "results": {step: list(row.split(lengths)) for step, row in zip(dataset.steps, rows.unbind(), strict=True)},
            **_common(dataset, names, lengths),
        }
        if folder is not None:
            name = PER_SEED.format(seed=seed, attempt=dataset.attempts[seed])
            torch.save({**results[seed], **_packing_mark(dataset)}, folder / name)
    content = {
        "seeds": dataset.seeds,
        **_common(dataset, names, lengths),
        "results": results,
        "summary": {step: _summary(means[:, row]) for row, step in enumerate(dataset.steps)},
        **_packing_mark(dataset),
    }
    torch.save(content, path)


def _write_hdf5(dataset: Dataset, names: list[str], path: Path) -> None:
    try:
        import h5py
    except ImportError:
        raise ValueError("an hdf5 export needs h5py; run: pip install 'discreteness[hdf5]'") from None

    # Nobody else knows this file, and some file systems (NFS, Lustre) refuse the locks that HDF5 asks for.
    with h5py.File(path, "w", locking=False) as file:
        file.attrs.update(_packing_mark(dataset))
        metadata = file.create_group("metadata")
        metadata["seeds"] = np.array(dataset.seeds, np.int32)
        metadata["eval_steps"] = np.array(dataset.steps, np.int32)
        metadata["doc_lengths"] = np.array([d.num_losses for d in dataset.documents], np.int32)
        metadata.create_dataset("doc_names", data=names, dtype=h5py.string_dtype())
        name_of = dict(zip((d.doc_id for d in dataset.documents), names, strict=True))
        for document, tokens, losses in dataset.blocks(BLOCK_BYTES):
            halves = _float16(document, tokens, dataset.steps, dataset.seeds, losses)
            for index, token in enumerate(tokens.tolist()):
                file.create_dataset(
                    f"losses/{name_of[document.doc_id]}/token_{token - 1}",
                    data=halves[:, :, index],
                    compression="gzip",
                    compression_opts=4,
                )


def _write_table(dataset: Dataset, format: str, precision: str, path: Path) -> None:
    writer: Any = None
    try:
        for document, tokens, losses in dataset.blocks(BLOCK_BYTES // TABLE_OVERHEAD):
            if precision == "float16":
                losses = _float16(document, tokens, dataset.steps, dataset.seeds, losses)
            if format == "csv" and precision == "float16":
                losses = losses.astype(np.float32)  # the same numbers; Arrow's CSV knows no float16
            texts = dataset.texts(document.doc_id, tokens)
            table = long_form(document, tokens, texts, dataset.steps, dataset.seeds, losses)
            if writer is None:
                writer = pa.csv.CSVWriter(path, table.schema) if format == "csv" else _parquet(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _parquet(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=[name for name in LONG_FORM.names if name != "loss"],
        use_byte_stream_split=["loss"],
        write_page_checksum=True,
    )


def _float16(
    document: DocumentInfo, tokens: np.ndarray, steps: list[int], seeds: list[int], losses: np.ndarray
) -> np.ndarray:
    """float16 of losses [seeds, steps, tokens]. Raises ValueError if a loss would become infinite."""
    with np.errstate(over="ignore"):
        halves = losses.astype(np.float16)
    for seed, step, token in np.argwhere(np.isinf(halves))[:1]:
        where = f"seed {seeds[seed]}, step {steps[step]}, document {document.name!r}, token {tokens[token]}"
        raise ValueError(
            f"the loss {losses[seed, step, token]} of {where} is beyond float16 (65504); "
            "read such data with discreteness.dataset.reader.open"
        )
    return halves


def _summary(means: np.ndarray) -> dict[str, list]:
    """Over seeds, from means float64 [seeds, documents] of the float16 losses; the deviation is unbiased."""
    deviation = means.std(axis=0, ddof=1).tolist() if len(means) > 1 else [math.nan] * means.shape[1]
    return {"mean": means.mean(axis=0).tolist(), "std": deviation, "per_seed": means.tolist()}


def _common(dataset: Dataset, names: list[str], lengths: list[int]) -> dict[str, list]:
    return {"doc_names": names, "doc_lengths": lengths, "eval_steps": dataset.steps}


def _packing_mark(dataset: Dataset) -> dict[str, str]:
    packing = dataset.experiment["identity"]["packing"]
    return {} if packing == "reference" else {"packing": packing}
