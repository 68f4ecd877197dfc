"""arguments of a recorder -> what it records of which seed, and the dataset that this belongs to.

Everything that decides losses is known before there is a model, but for the dtypes in which it computes. They are part
of the identity too, so a dataset is made with its first row, and what is there is compared with the rest before that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from discreteness.dataset.identity import identity_hash
from discreteness.dataset.manifest import read_manifest
from discreteness.dataset.paths import EXPERIMENT_FILE
from discreteness.dataset.storage import Storage
from discreteness.dataset.writer import DatasetWriter
from discreteness.experiment.checkpoint_steps import parse_checkpoints
from discreteness.experiment.documents import Document, texts_hash
from discreteness.experiment.prompts import documents_with
from discreteness.experiment.sources import recorder_sources, sources_hash
from discreteness.experiment.tokenizers import Tokenizer, adapted


@dataclass(frozen=True, kw_only=True)
class RecordedExperiment:
    """What a recorder records. `plan`: steps, ascending. `identity`: all of it but the dtypes."""

    storage: Storage
    seed: int
    tokenizer: Tokenizer
    documents: tuple[Document, ...]
    plan: tuple[int, ...]
    plan_text: str
    identity: dict[str, Any]
    allow_code_change: bool

    def same_for(self) -> tuple[int, str, str]:
        """What is equal on all ranks of one training."""
        return self.seed, self.storage.uri, identity_hash(self.identity)

    def hash_of_meaning(self) -> str:
        """The identity's hash, as far as it is known without a model, and whatever code scores."""
        return identity_hash({name: value for name, value in self.identity.items() if name != "sources"})

    def check_place(self) -> None:
        """Raises ValueError if the seed is committed already, and what `DatasetWriter.create_or_open` raises for what
        is there. Writes nothing."""
        dtypes = None
        if self.storage.exists(EXPERIMENT_FILE):
            dtypes = read_manifest(self.storage).identity.get("dtypes")
        if self.seed in self.open(dtypes, dry_run=True).committed():
            raise ValueError(
                f"seed {self.seed} is committed in {self.storage.uri} already: give another seed, or another output"
            )

    def open(self, dtypes: dict[str, str] | None, dry_run: bool = False) -> DatasetWriter:
        """The dataset, made or continued. Raises what `DatasetWriter.create_or_open` raises."""
        there = self.storage.exists(EXPERIMENT_FILE)
        try:
            return DatasetWriter.create_or_open(
                self.storage,
                {**self.identity, "dtypes": dtypes},
                self.documents,
                token_bytes=self.tokenizer.token_bytes,
                in_vocabulary=None,
                steps=self.plan,
                plan=self.plan_text,
                allow_code_change=self.allow_code_change,
                dry_run=dry_run,
            )
        except FileExistsError:
            if there or not self.storage.exists(EXPERIMENT_FILE):
                raise
        return self.open(dtypes, dry_run)  # another seed's recorder made the dataset while this one looked


def recorded_experiment(
    storage: Storage,
    *,
    seed: int,
    tokenizer: Any,
    documents: str | Path | None,
    bos: bool | int | None,
    checkpoints: str | Sequence[int],
    last_step: int,
    max_tokens_per_batch: int,
    own: Mapping[str, Any],
    allow_code_change: bool,
) -> RecordedExperiment:
    """Arguments as those of `Recorder`. Raises TypeError, DocumentError and ValueError as it says."""
    if type(seed) is not int or not 0 <= seed < 2**31:
        raise ValueError(f"seed is {seed!r}; give an integer of 0 to {2**31 - 1}")
    if type(last_step) is not int or not 0 < last_step < 10**9:
        raise ValueError(f"last_step is {last_step!r}; give the number of updates, an integer above 0")
    known = adapted(tokenizer)
    texts = documents_with(known, documents, bos)
    plan_text = checkpoints if isinstance(checkpoints, str) else ",".join(map(str, checkpoints))
    plan = parse_checkpoints(plan_text, last_step)
    identity = {
        "tokenizer": known.fingerprint,
        "bos": list(known.prefix(bos)),
        "documents": texts_hash(texts),
        "checkpoints": list(plan),
        "max_tokens_per_batch": max_tokens_per_batch,
        "own": dict(own),
        "sources": sources_hash(recorder_sources()),
    }
    return RecordedExperiment(
        storage=storage,
        seed=seed,
        tokenizer=known,
        documents=texts,
        plan=plan,
        plan_text=plan_text,
        identity=identity,
        allow_code_change=allow_code_change,
    )
