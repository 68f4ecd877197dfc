"""What one attempt at a seed has produced so far: losses, records and the libraries that computed them.

- Messages may come in any order, and a step more than once; what is read out is in the order of steps.
- Rows are only added. An attempt that is lost is dropped whole, with its object.
- It decides nothing: `DatasetWriter.commit` refuses rows that are incomplete.
"""

from collections.abc import Iterable

import numpy as np

from discreteness.dataset.runs_file import Library, records_table, with_libraries
from discreteness.dataset.writer import DatasetWriter


class AttemptRows:
    """Losses and records by step; `trained_with` and `scored_with` are set from outside."""

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

    def show(self, dataset: DatasetWriter, seed: int, attempt: str) -> None:
        """Leaves the rows so far for a viewer. May run in a thread while more rows come: none is ever removed."""
        dataset.write_running(seed, attempt, *self.arrays())

    def commit(self, dataset: DatasetWriter, seed: int, attempt: str) -> int:
        """Hands everything to the dataset, which refuses what is incomplete; returns the bytes of the seed's files.
        Raises what `DatasetWriter.commit` raises."""
        steps, losses = self.arrays()
        rows = [self.records[step] for step in sorted(self.records)]
        records = records_table(rows)
        records = with_libraries(records, self.trained_with, self.scored_with)
        committed = dataset.commit(seed, attempt, steps, losses, records)
        return sum(dataset.storage.size(path) for path in (committed.path, committed.runs_path))
