"""The pair of a series (checkpoint/seam.py): a source that says where each checkpoint lies, and a scorer that fetches,
loads and scores it.

Weights never pass through the source: what it sends are the few hundred bytes of a StoredCheckpoint.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from discreteness.checkpoint.header import CheckpointHeader
from discreteness.checkpoint.seam import Bytes, SeedImpossible
from discreteness.experiment.documents import Document
from discreteness.series.stored import StoredCheckpoint, Unreadable

LAYOUT = "series-1"
"""What the bytes mean: a StoredCheckpoint as JSON."""
ONE_CHECKPOINT_S = 4 * 3600.0
"""Bound of one call of an evaluator: a checkpoint of 140 GB at ten megabytes per second."""


class SeriesSource:
    """Says of each checkpoint of a model where it lies, after a look at whether its files are there. Of a folder it
    reads the weights for their hash, which leaves them in the memory of the machine that scores them next."""

    library = None

    def __init__(self, models: Sequence[tuple[StoredCheckpoint, ...]]):
        self.models = models

    def prepare(self, seed: int) -> None:
        """Nothing: the next seed's checkpoints are listed already."""

    def checkpoints(self, seed: int, steps: frozenset[int]) -> Generator[Bytes]:
        """As seam.Source. Raises SeedImpossible at a checkpoint that cannot be read."""
        for checkpoint in self.models[seed]:
            if checkpoint.step not in steps:
                continue
            try:
                known = with_hashes(checkpoint)
            except Unreadable as error:
                raise SeedImpossible(str(error)) from error
            record = {
                "step": checkpoint.step,
                "tokens": checkpoint.tokens,
                "checkpoint": checkpoint.name,
                "commit": checkpoint.commit or None,
                "weights": known.weights_hash,
            }
            data = np.frombuffer(known.to_bytes(), np.uint8)
            yield Bytes(step=checkpoint.step, data=data, layout=LAYOUT, records=[record])


class SeriesScorer:
    """Holds one model, into which the checkpoints of a series come one after another. As seam.Scorer; to be closed."""

    library = None

    def __init__(self, documents: Sequence[Document], *, score_tokens: int, dtype: str, device: str):
        from speedrun.execution import one_thread_on_a_cpu

        from discreteness.series.download import scratch
        from discreteness.series.loading import ModelLoader

        one_thread_on_a_cpu(device)
        self.documents = documents
        self.score_tokens = score_tokens
        self.device = device
        self.loader = ModelLoader(device, dtype)
        self._open = ExitStack()
        self._scratch = self._open.enter_context(scratch())
        self._scorers: dict[int | None, Any] = {}

    def fetch(self, data: np.ndarray, header: CheckpointHeader) -> None:
        """Raises Unreadable if the checkpoint cannot be had, OSError if it could not be had now."""
        from discreteness.series.download import local_files

        checkpoint = StoredCheckpoint.from_bytes(data.tobytes())
        with local_files(checkpoint, checkpoint.needed, self._scratch) as folder:
            self.loader.fetch(checkpoint, folder)

    def take(self) -> None:
        self.loader.take()

    def score(self, header: CheckpointHeader) -> np.ndarray:
        """Raises Unreadable if a loss is not finite, or if a document is longer than the model takes."""
        built = self.loader.built
        assert built is not None, "nothing was taken"
        try:
            return self._scorer(built.context).score(built.model)
        except ValueError as error:
            raise Unreadable(str(error)) from error

    def validate(self, header: CheckpointHeader, chunk: int) -> float:
        raise AssertionError("a series has no validation shards")

    def close(self) -> None:
        """Removes what was downloaded."""
        self._open.close()

    def _scorer(self, context: int | None) -> Any:
        from discreteness.scoring.logits import LogitsScorer

        if context not in self._scorers:
            self._scorers[context] = LogitsScorer(
                self.documents, max_tokens_per_batch=self.score_tokens, context=context, device=self.device
            )
        return self._scorers[context]


@dataclass(frozen=True, kw_only=True)
class SeriesPair:
    """As seam.Pair. `models`: of each seed its checkpoints, ascending by step."""

    models: tuple[tuple[StoredCheckpoint, ...], ...]
    documents: tuple[Document, ...]
    score_tokens: int
    dtype: str
    call_timeout_s: float = ONE_CHECKPOINT_S

    def source(self, device: Any, process_group: Any, tell: Callable[[str], None]) -> SeriesSource:
        return SeriesSource(self.models)

    def scorer(self, device: str) -> SeriesScorer:
        return SeriesScorer(self.documents, score_tokens=self.score_tokens, dtype=self.dtype, device=device)

    @property
    def stays_on_its_machine(self) -> bool:
        """What travels says where the weights are: any machine can fetch them, or sees the folder."""
        return False

    def weights_file(self, data: np.ndarray, header: CheckpointHeader) -> tuple[str, bytes]:
        raise AssertionError("no weights of a series are kept")

    def update_flop(self, record: dict) -> float:
        return 0.0


def with_hashes(checkpoint: StoredCheckpoint) -> StoredCheckpoint:
    """The checkpoint with the hash of each file of its weights, read where it is not known. Raises Unreadable if files
    are missing."""
    from discreteness.series.download import file_hash

    weights = {file.name for file in checkpoint.needed if file in checkpoint.weights}
    files = []
    for file in checkpoint.files:
        if file.name in weights and not file.hash:
            try:
                file = replace(file, hash=file_hash(Path(checkpoint.folder) / file.name))
            except FileNotFoundError as error:
                raise Unreadable(f"{checkpoint}: {file.name} has gone since it was listed") from error
        files.append(file)
    return replace(checkpoint, files=tuple(files))
