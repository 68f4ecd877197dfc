"""dataset -> the two result files of the original trainers, field for field.

`pt`: a dict for torch.load(weights_only=True). `hdf5`: one dataset a token. Both hold float16; these are for
tools that read the old formats, not for keeping. Data scored with isolated packing say so in one extra key or
attribute, `packing`.
"""

import math
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from discreteness.reading import Experiment, open
from discreteness.storage import Storage

FORMATS = ("pt", "hdf5")
BLOCK_BYTES = 2**30
"""Memory for the float16 losses of one document in an HDF5 export; more are read in several passes."""


def export(uri: str | os.PathLike[str] | Storage, format: str, destination: str | os.PathLike[str]) -> Path:
    """Writes all committed seeds to a local file, which appears whole; returns its path.

    ValueError: unknown format, no seed committed, a loss beyond float16. FileExistsError: the destination
    exists.
    """
    if format not in FORMATS:
        raise ValueError(f"format {format!r} is unknown; use one of {', '.join(FORMATS)}")
    if "://" in os.fspath(destination):
        raise ValueError(
            f"an export is written to a local file, not to {os.fspath(destination)}; copy it there afterwards"
        )
    path = Path(destination)
    if path.exists():
        raise FileExistsError(f"{path} exists; give another destination or delete it")
    experiment = open(uri)
    if not experiment.seeds:
        raise ValueError(f"no seed is committed in {experiment.storage.uri} yet; there is nothing to export")
    names = file_names(experiment)
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        (_write_pt if format == "pt" else _write_hdf5)(experiment, names, staged)
        descriptor = os.open(staged, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        staged.rename(path)
    finally:
        with suppress(FileNotFoundError):
            staged.unlink()
    return path


def file_names(experiment: Experiment) -> list[str]:
    """Document names as file names, with .txt, in document order."""
    names = [d.name if d.name.endswith(".txt") else f"{d.name}.txt" for d in experiment.documents]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"documents share the file name {', '.join(twice)}, which the old formats cannot hold")
    return names


def _write_pt(experiment: Experiment, names: list[str], path: Path) -> None:
    import torch

    lengths = [document.num_losses for document in experiment.documents]
    results: dict[int, dict[str, Any]] = {}
    means = np.empty((len(experiment.seeds), len(experiment.steps), len(lengths)))
    for index, seed in enumerate(experiment.seeds):
        losses = np.concatenate([_float16(experiment, d.name, seed) for d in experiment.documents], axis=1)
        starts = np.cumsum([0, *lengths[:-1]])
        means[index] = np.add.reduceat(losses.astype(np.float64), starts, axis=1) / lengths
        # Views of one storage a seed: saved once, instead of a storage a step and document.
        rows = torch.from_numpy(losses)
        results[seed] = {
            "results": {
                step: list(row.split(lengths)) for step, row in zip(experiment.steps, rows.unbind(), strict=True)
            },
            **_common(experiment, names, lengths),
        }
    content = {
        "seeds": experiment.seeds,
        **_common(experiment, names, lengths),
        "results": results,
        "summary": {step: _summary(means[:, row]) for row, step in enumerate(experiment.steps)},
        **_packing_mark(experiment),
    }
    torch.save(content, path)


def _write_hdf5(experiment: Experiment, names: list[str], path: Path) -> None:
    try:
        import h5py
    except ImportError:
        raise ValueError("an hdf5 export needs h5py; run: pip install 'discreteness[hdf5]'") from None

    num_seeds, num_steps = len(experiment.seeds), len(experiment.steps)
    with h5py.File(path, "w") as file:
        file.attrs.update(_packing_mark(experiment))
        metadata = file.create_group("metadata")
        metadata["seeds"] = np.array(experiment.seeds, np.int32)
        metadata["eval_steps"] = np.array(experiment.steps, np.int32)
        metadata["doc_lengths"] = np.array([d.num_losses for d in experiment.documents], np.int32)
        metadata.create_dataset("doc_names", data=names, dtype=h5py.string_dtype())
        for document, name in zip(experiment.documents, names, strict=True):
            group = file.create_group(f"losses/{name}")
            most = max(1, BLOCK_BYTES // (2 * num_seeds * num_steps))
            for first in range(0, document.num_losses, most):
                last = min(first + most, document.num_losses)
                block = np.empty((last - first, num_seeds, num_steps), np.float16)
                for index, seed in enumerate(experiment.seeds):
                    block[:, index] = _float16(experiment, document.name, seed)[:, first:last].T
                for token in range(first, last):
                    group.create_dataset(
                        f"token_{token}", data=block[token - first], compression="gzip", compression_opts=4
                    )


def _float16(experiment: Experiment, name: str, seed: int) -> np.ndarray:
    """float16 [steps, tokens] of one document. ValueError: a loss would become infinite."""
    losses = experiment.losses(name, seeds=[seed])[0]
    with np.errstate(over="ignore"):
        halves = losses.astype(np.float16)
    for row, column in np.argwhere(np.isinf(halves))[:1]:
        where = f"seed {seed}, step {experiment.steps[row]}, document {name!r}, token {column + 1}"
        raise ValueError(
            f"the loss {losses[row, column]} of {where} is beyond float16 (65504); "
            "read such data with discreteness.reading.open"
        )
    return halves


def _summary(means: np.ndarray) -> dict[str, list]:
    """Over seeds, from means float64 [seeds, documents] of the float16 losses; the deviation is unbiased."""
    deviation = means.std(axis=0, ddof=1).tolist() if len(means) > 1 else [math.nan] * means.shape[1]
    return {"mean": means.mean(axis=0).tolist(), "std": deviation, "per_seed": means.tolist()}


def _common(experiment: Experiment, names: list[str], lengths: list[int]) -> dict[str, list]:
    return {"doc_names": names, "doc_lengths": lengths, "eval_steps": experiment.steps}


def _packing_mark(experiment: Experiment) -> dict[str, str]:
    packing = experiment.experiment["identity"]["packing"]
    return {} if packing == "reference" else {"packing": packing}
