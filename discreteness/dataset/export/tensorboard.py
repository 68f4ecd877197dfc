"""dataset -> a folder for TensorBoard: one run per seed, with the curves of training and of each document by step.

Scalars are float32, as TensorBoard keeps them. `loss/DOCUMENT` is the mean over its tokens in float64, rounded once.
"""

import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from discreteness.dataset.reader import Dataset, open
from discreteness.dataset.storage import Storage

TRAINING = {"train_loss": "train/loss", "lr_multiplier": "train/lr_multiplier", "val_loss": "val/loss"}
"""Column of the runs files -> tag."""
QUEUE = 10_000
"""Scalars that wait for the writing thread, which flushes the file each time it has none."""


def export_tensorboard(uri: str | os.PathLike[str] | Storage, destination: str | os.PathLike[str]) -> int:
    """Writes the committed seeds that the folder does not have yet; returns how many.

    A seed's run is the folder `seed=00017-ATTEMPT`, which appears whole: after an interruption, or more seeds, the same
    call goes on. Raises ValueError if no seed is committed, or if TensorBoard or torch is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "an export to TensorBoard needs its package and torch; run: pip install 'discreteness[tensorboard]'"
        ) from None

    dataset = open(uri)
    if not dataset.seeds:
        raise ValueError(f"no seed is committed in {dataset.storage.uri} yet; there is nothing to export")
    if "://" in os.fspath(destination):
        raise ValueError(f"TensorBoard's files are written to a local folder, not to {os.fspath(destination)}")
    folder = Path(destination)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; give a folder")
    runs = {seed: folder / f"seed={seed:05d}-{attempt}" for seed, attempt in dataset.attempts.items()}
    missing = [seed for seed, run in runs.items() if not run.exists()]
    for seed in missing:
        staged = folder / f".{uuid.uuid4().hex}"
        try:
            with SummaryWriter(staged, max_queue=QUEUE) as writer:
                _write(writer, dataset, seed)
            staged.rename(runs[seed])
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    return len(missing)


def _write(writer: Any, dataset: Dataset, seed: int) -> None:
    rows = dataset.runs(seed)
    for column, tag in TRAINING.items():
        values = rows[column].to_pylist() if column in rows.column_names else []
        for step, value in zip(rows["step"].to_pylist(), values, strict=False):
            if value is not None:  # not measured at this step
                writer.add_scalar(tag, value, step)
    means = dataset.mean_curves(seeds=[seed])[:, 0].tolist()
    for document, curve in zip(dataset.documents, means, strict=True):
        for step, loss in zip(dataset.steps, curve, strict=True):
            writer.add_scalar(f"loss/{document.name}", loss, step)
