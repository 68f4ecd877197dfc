"""losses and records of one attempt, in any order -> a committed seed."""

import json
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from discreteness.dataset.writer import Dataset

RUNS = pa.schema(
    [
        ("step", pa.int32()),
        ("train_loss", pa.float64()),
        ("lr_multiplier", pa.float64()),
        ("momentum", pa.float64()),
        ("batch_tokens", pa.int64()),
        ("short_window", pa.int32()),
        ("long_window", pa.int32()),
        ("step_ms", pa.float64()),
        ("train_s", pa.float64()),
        ("val_loss", pa.float64()),
    ]
)
"""One row a step; null is "not measured". train_loss: the objective of the update to `step`, in nats a token, which
includes the further targets of multi-token prediction. step_ms: the mean since the last checkpoint."""

LIBRARIES = b"libraries"
"""Key of the records' metadata under which the programs of others that computed a seed are kept, as JSON."""

Library = dict[str, str] | None
"""A FlashAttention-3, as `flash_attention.loaded_library` tells it."""


def with_libraries(records: pa.Table, trainer: Library, evaluators: list[Library]) -> pa.Table:
    """Records of a seed with the FlashAttention-3 of those who trained and scored it; as they are if there was none."""
    if not trainer and not evaluators:
        return records
    text = json.dumps({"flash_attention_3": {"trainer": trainer, "evaluators": evaluators}})
    return records.replace_schema_metadata({**(records.schema.metadata or {}), LIBRARIES: text})


def trainers_library(records: pa.Table) -> Library:
    """The FlashAttention-3 with which the seed of these records was trained."""
    text = (records.schema.metadata or {}).get(LIBRARIES, b"{}")
    return json.loads(text).get("flash_attention_3", {}).get("trainer")


class Curve:
    """What one attempt has produced so far."""

    def __init__(self) -> None:
        self.losses: dict[int, np.ndarray] = {}
        self.records: dict[int, dict] = {}
        self.trained_with: Library = None
        self.scored_with: list[Library] = []

    def add_losses(self, step: int, losses: np.ndarray) -> None:
        """float32 losses of all documents after `step` updates."""
        self.losses[step] = losses

    def add_records(self, records: Iterable[dict]) -> None:
        """Values of single steps, merged by their "step"."""
        for record in records:
            self.records.setdefault(record["step"], {}).update(record)

    def train_loss(self) -> float | None:
        """Of the newest update that is known of."""
        steps = [step for step, record in self.records.items() if "train_loss" in record]
        return self.records[max(steps)]["train_loss"] if steps else None

    def train_s(self) -> float | None:
        """Time spent in updates so far, as far as it is known."""
        return max((record["train_s"] for record in self.records.values() if "train_s" in record), default=None)

    def validated(self) -> set[int]:
        """Steps whose validation loss is known."""
        return {step for step, record in self.records.items() if "val_loss" in record}

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """int32 steps (S,), ascending, and float32 losses (S, losses of all documents)."""
        steps = np.array(sorted(self.losses), np.int32)
        return steps, np.array([self.losses[step] for step in steps.tolist()], np.float32)

    def show(self, dataset: Dataset, seed: int, attempt: str) -> None:
        """Leaves the rows so far for a viewer. In a thread: rows may come meanwhile, none ever goes."""
        dataset.write_running(seed, attempt, *self.arrays())

    def commit(self, dataset: Dataset, seed: int, attempt: str) -> int:
        """Hands everything to the dataset, which refuses what is incomplete; returns the bytes of the seed's files.
        Errors as Dataset.commit."""
        steps, losses = self.arrays()
        rows = [self.records[step] for step in sorted(self.records)]
        records = pa.Table.from_pylist(rows, schema=RUNS)
        records = with_libraries(records, self.trained_with, self.scored_with)
        committed = dataset.commit(seed, attempt, steps, losses, records)
        return sum(dataset.storage.size(path) for path in (committed.path, committed.runs_path))
