"""The writer of a dataset: the losses of a finished attempt become a committed seed, one file that appears whole.

- A seed is done when its file in losses/ has a valid footer; nothing else decides.
- Its file in runs/ is written before that, so a committed seed always has both.
- Losses that are incomplete or not finite are refused, and so is a second attempt at a committed seed.
- The log and the rows of seeds in training are best effort.

All names of the layout, which is one directory or prefix, are in docs/dataset.md.
"""

import dataclasses
import hashlib
import logging
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from discreteness.dataset.event_log import JOB_BEGAN, write_event
from discreteness.dataset.identity import differing_fields, only_sources
from discreteness.dataset.manifest import (
    DocumentLike,
    Manifest,
    NotWhole,
    documents_table,
    listed,
    new_manifest,
    read_documents,
    read_manifest,
)
from discreteness.dataset.mismatch import content_of, mismatch
from discreteness.dataset.names import refuse_other_names
from discreteness.dataset.paths import (
    ATTEMPT,
    DOCUMENTS_FILE,
    EXPERIMENT_FILE,
    LOG_FOLDER,
    LOSSES_FOLDER,
    REJECTED,
    RUNS_FOLDER,
    running_path,
    seed_path,
)
from discreteness.dataset.runs_file import runs_file
from discreteness.dataset.seed_file import CommittedSeed, InvalidFile, losses_file, read_seed, scan
from discreteness.dataset.storage import Storage, open_storage

logger = logging.getLogger(__name__)


class DatasetWriter:
    """The writer's side of an experiment. Plain data inside, so it can be sent to another process."""

    def __init__(self, storage: Storage, manifest: Manifest, names: Mapping[int, str] | None = None):
        """names: seed -> what it is called, where it is more than a number."""
        self.storage = storage
        self.manifest = manifest
        self.names = dict(names or {})

    @property
    def uri(self) -> str:
        return self.storage.uri

    @classmethod
    def create_or_open(
        cls,
        uri: str | os.PathLike[str] | Storage,
        identity: dict[str, Any],
        documents: Sequence[DocumentLike],
        token_bytes: Callable[[int], bytes],
        in_vocabulary: Callable[[int], bool] | None,
        steps: Sequence[int],
        plan: str = "",
        allow_code_change: bool = False,
        dry_run: bool = False,
        names: Mapping[int, str] | None = None,
    ) -> "DatasetWriter":
        """A new dataset, or the one that is there if it has this identity; a half-created one is completed. A
        description that is not whole is kept aside and written anew, if the footers of all seeds there agree with it.

        `steps`: the planned steps, ascending. `plan`: how they were given, such as "log:48", for people.
        `in_vocabulary`: None if every id has its own row. `dry_run`: all is checked, also that files can be written,
        but none is. `names`: as of the constructor; a committed seed's name never changes, and another one for it is a
        ValueError. Raises IdentityMismatch if another experiment lives there, FileExistsError if other files
        do, OSError if nothing can be written, and ValueError if documents, steps or files there are wrong.
        """
        storage = open_storage(uri)
        table = documents_table(documents, token_bytes, in_vocabulary)
        manifest = new_manifest(identity, documents, table, steps, plan)
        damaged: dict[str, NotWhole] = {}
        there = _manifest_there(storage, manifest, damaged)
        if there:
            manifest = _reconcile(storage, there, manifest, table, allow_code_change)
        elif not damaged:
            _refuse_foreign_files(storage)
        complete = _has_documents(storage, manifest, damaged)
        if names and there:
            refuse_other_names(storage.uri, scan(storage, manifest)[0], names)
        if dry_run:
            storage.check_writable()
            return cls(storage, manifest, names)
        for name, why in damaged.items():
            _keep_aside(storage, name, why)
        if manifest != there:
            storage.write(EXPERIMENT_FILE, manifest.to_json())
        if not complete:
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
            storage.write(DOCUMENTS_FILE, sink.getvalue())
        storage.make_folders(LOSSES_FOLDER, RUNS_FOLDER, LOG_FOLDER)
        storage.sweep_staging()
        return cls(storage, manifest, names)

    def committed(self) -> dict[int, CommittedSeed]:
        """Committed seeds, ascending. A file that is not one is named in the log and left out."""
        committed, invalid = scan(self.storage, self.manifest)
        for name, reason in invalid.items():
            logger.warning("%s is not counted: %s", self.storage.path(name), reason)
        return committed

    def commit(
        self, seed: int, attempt: str, steps: np.ndarray, losses: np.ndarray, records: pa.Table
    ) -> CommittedSeed:
        """Makes a seed's file appear; on return it is on disk or in the object store.

        `steps`: integers (S,), every planned step once, in any order. `losses`: float32 (S, losses of all documents,
        one document after another). `records`: the run's per-step values, with a column `step`, each step once. Doing
        it again with the same attempt changes nothing. Raises ValueError if losses are incomplete or not finite, or if
        another attempt is committed already. After an OSError the seed is not written, and it may be tried again.
        """
        if not 0 <= seed < 2**31:
            raise ValueError(f"seed {seed} does not fit the dataset; give one of 0 to {2**31 - 1}")
        if not ATTEMPT.fullmatch(attempt):
            raise ValueError(f"attempt {attempt!r} cannot be part of a file name; use letters, digits, - and _")
        order = self._complete(seed, steps, losses)
        path = seed_path(seed)
        if self.storage.exists(path):
            try:
                committed = read_seed(self.storage, self.manifest, seed)
            except InvalidFile as error:
                _keep_aside(self.storage, path, error)
            else:
                if committed.attempt != attempt:
                    raise ValueError(
                        f"seed {seed} is committed by attempt {committed.attempt} already; "
                        f"attempt {attempt} is not needed"
                    )
                return committed
        runs = runs_file(seed, attempt, records)
        committed = CommittedSeed(
            seed=seed,
            attempt=attempt,
            rows=self.manifest.rows_per_seed,
            identity_hash=self.manifest.current_identity_hash(),
            documents_hash=self.manifest.documents_hash,
            runs_sha256=hashlib.sha256(runs).hexdigest(),
            name=self.names.get(seed, ""),
        )
        if (np.diff(order) != 1).any():  # a copy of all losses, which usually come in order
            steps, losses = steps[order], losses[order]
        content = losses_file(self.manifest, seed, attempt, steps, losses, dataclasses.asdict(committed))
        self.storage.write(committed.runs_path, runs)
        self.storage.write(path, content)
        self.remove_running(seed)
        return committed

    def log(self, event: dict[str, Any]) -> None:
        """Best effort: keeps an event, as `event_log.write_event`."""
        write_event(self.storage, event)

    def log_job(self, seeds: Sequence[int], max_attempts: int) -> None:
        """Best effort: what this job is to train, for readers that have only the dataset."""
        names = {"names": {str(seed): self.names[seed] for seed in seeds}} if self.names else {}
        self.log({"event": JOB_BEGAN, "seeds": list(seeds), "max_attempts": max_attempts} | names)

    def write_running(self, seed: int, attempt: str, steps: np.ndarray, losses: np.ndarray) -> None:
        """Best effort, on local and NFS storage only: rows so far of a seed in training, for the viewer."""
        if not self.storage.renames:
            return
        order = np.argsort(steps)
        footer = {"seed": seed, "attempt": attempt, "steps": len(steps)}
        try:
            content = losses_file(self.manifest, seed, attempt, steps[order], losses[order], footer)
            self.storage.write(running_path(seed), content, durable=False)
        except OSError as error:
            logger.warning("rows of running seed %d are not shown: %s", seed, error)

    def remove_running(self, seed: int) -> None:
        """Best effort: forgets the rows of a seed that is committed or given up."""
        if self.storage.renames:
            with suppress(OSError):
                self.storage.delete(running_path(seed))

    def _complete(self, seed: int, steps: np.ndarray, losses: np.ndarray) -> np.ndarray:
        """Order that sorts the steps. Raises ValueError unless losses are whole, finite and float32."""
        total = sum(document.num_losses for document in self.manifest.documents)
        expected = (len(steps), total)
        if losses.dtype != np.float32 or losses.shape != expected or not np.issubdtype(steps.dtype, np.integer):
            raise ValueError(
                f"losses of seed {seed} are {losses.dtype} {losses.shape} at {steps.dtype} steps; "
                f"expected float32 {expected} at integer steps"
            )
        order = np.argsort(steps, kind="stable")
        if not np.array_equal(steps[order], self.manifest.steps):
            found, counts = np.unique(steps, return_counts=True)
            planned = np.array(self.manifest.steps)
            raise ValueError(
                f"seed {seed} is not complete: steps missing {listed(np.setdiff1d(planned, found))}; "
                f"twice {listed(found[counts > 1])}; not planned {listed(np.setdiff1d(found, planned))}"
            )
        if not np.isfinite(losses).all():
            row, column = np.argwhere(~np.isfinite(losses))[0]
            ends = np.cumsum([document.num_losses for document in self.manifest.documents])
            document = self.manifest.documents[int(np.searchsorted(ends, column, side="right"))]
            token = column - (ends[self.manifest.documents.index(document)] - document.num_losses) + 1
            raise ValueError(
                f"the loss of seed {seed} at step {steps[row]}, document {document.name!r}, token {token} is "
                f"{losses[row, column]}; a seed with such a loss is not committed"
            )
        return order


def _reconcile(storage: Storage, there: Manifest, here: Manifest, table: pa.Table, allow_code_change: bool) -> Manifest:
    """The manifest to go on with. Raises IdentityMismatch if it cannot be the same experiment."""
    differing = differing_fields(there.identity, here.identity)
    sources = here.identity.get("sources")
    if only_sources(differing) and (allow_code_change or sources in there.accepted_sources):
        differing = []
    if differing or differing_fields(content_of(there), content_of(here)):
        words_there = None
        with suppress(ValueError, OSError):  # damaged or gone: the error says less of the documents
            words_there = read_documents(storage, there)
        raise mismatch(storage.uri, differing, there, here, words_there, table)
    accepted = (*(s for s in there.accepted_sources if s != sources), sources)
    return dataclasses.replace(there, accepted_sources=accepted)


def _keep_aside(storage: Storage, path: str, why: Exception) -> None:
    """Copies a file that is about to be replaced."""
    aside = f"{REJECTED}/{uuid.uuid4().hex}-{Path(path).stem}"
    logger.warning("%s is replaced and kept as %s: %s", storage.path(path), aside, why)
    storage.write(aside, storage.read(path))


def _manifest_there(storage: Storage, here: Manifest, damaged: dict[str, NotWhole]) -> Manifest | None:
    """None where there is none, or one that is damaged. Raises ValueError if it is damaged, and it is not certain that
    `here` is the experiment of the seeds there."""
    if not storage.exists(EXPERIMENT_FILE):
        return None
    try:
        return read_manifest(storage)
    except NotWhole as damage:
        _, others = scan(storage, here)
        if others:
            raise ValueError(
                f"{damage}; here that is not certain: {'; '.join(map(': '.join, sorted(others.items())[:3]))}"
            ) from damage
        damaged[EXPERIMENT_FILE] = damage
        return None


def _has_documents(storage: Storage, manifest: Manifest, damaged: dict[str, NotWhole]) -> bool:
    """Whether the documents are there and whole."""
    if not storage.exists(DOCUMENTS_FILE):
        return False
    try:
        read_documents(storage, manifest)
    except NotWhole as damage:
        damaged[DOCUMENTS_FILE] = damage
        return False
    return True


def _refuse_foreign_files(storage: Storage) -> None:
    foreign = [info.base_name for info in storage.list() if not info.base_name.startswith((".", "_"))]
    if foreign:
        raise FileExistsError(f"{storage.uri} holds {listed(foreign, 5)} and is not a dataset; give another --output")
