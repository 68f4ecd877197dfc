"""dataset -> losses as arrays, and what is wrong with it.

experiment = discreteness.open("runs/tiny")
experiment.losses("elements.txt", token=7)  # float32 [seeds, steps]
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq

from discreteness.manifest import (
    EXPERIMENT_FILE,
    DocumentInfo,
    Manifest,
    listed,
    read_documents,
    read_manifest,
)
from discreteness.seed_file import FOOTER_KEY, LOSSES, SEED_FILE, CommittedSeed, scan
from discreteness.storage import Storage, open_storage


class Experiment:
    """A dataset as it was when opened: seeds committed later appear when it is opened again.

    `seeds`, `steps`: ascending. `documents`: in the order of their ids. `experiment`: experiment.json as it
    is. `invalid`: files of losses/ that are not counted, with the reason.
    """

    def __init__(self, storage: Storage):
        self.storage = storage
        self._manifest = read_manifest(storage)
        self.experiment: dict[str, Any] = json.loads(storage.read(EXPERIMENT_FILE))
        self._committed, self.invalid = scan(storage, self._manifest)
        self.seeds = list(self._committed)
        self.steps = list(self._manifest.steps)
        self.documents = list(self._manifest.documents)

    def losses(
        self,
        doc: str | int,
        token: int | None = None,
        seeds: Sequence[int] | None = None,
        steps: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Losses in nats, float32 [seeds, steps, tokens], or [seeds, steps] of one token; in the order asked
        for.

        `doc`: name or id. `token`: a token_index of documents.parquet, 1 to N: token 0 is BOS and has no
        loss, so index i of the last axis is token i + 1. ValueError: what is asked for does not exist;
        nothing is filled in.
        """
        document = self.document(doc)
        if token is not None and not 1 <= token <= document.num_losses:
            raise ValueError(
                f"document {document.name!r} has losses of tokens 1 to {document.num_losses}, not of {token}"
            )
        chosen = self._existing("seed", self.seeds, seeds)
        if not chosen:
            raise ValueError(f"no seed is committed in {self.storage.uri} yet")
        where = {step: index for index, step in enumerate(self.steps)}
        rows = [where[step] for step in self._existing("step", self.steps, steps)]
        tokens = slice(None) if token is None else token - 1
        shape = (len(chosen), len(rows), document.num_losses) if token is None else (len(chosen), len(rows))
        losses = np.empty(shape, np.float32)
        for index, seed in enumerate(chosen):
            losses[index] = self._losses_of(seed, document)[rows, tokens]
        return losses

    def document(self, doc: str | int) -> DocumentInfo:
        """A document by its name or id. ValueError names those that exist."""
        for document in self.documents:
            if doc in (document.name, document.doc_id):
                return document
        raise ValueError(
            f"there is no document {doc!r}; there are "
            f"{listed((f'{d.name!r} ({d.doc_id})' for d in self.documents), 50)}"
        )

    def runs(self, seed: int) -> pa.Table:
        """Per-step values of the attempt that was committed: seed, attempt, step, train loss, ..."""
        (seed,) = self._existing("seed", self.seeds, [seed])
        content = self.storage.read(self._committed[seed].runs_path)
        return pq.read_table(pa.BufferReader(content), page_checksum_verification=True)

    def tokens(self, doc: str | int) -> pa.Table:
        """Rows of documents.parquet of one document, one a token, BOS first."""
        table = read_documents(self.storage, self._manifest)
        return table.filter(pc.field("doc_id") == self.document(doc).doc_id)

    def arrow(self) -> pa.dataset.Dataset:
        """Arrow dataset over the committed seeds' files."""
        files = [self.storage.path(committed.path) for committed in self._committed.values()]
        return pa.dataset.dataset(files, schema=LOSSES, format="parquet", filesystem=self.storage.filesystem)

    def _existing(self, what: str, there: list[int], wanted: Sequence[int] | None) -> list[int]:
        if wanted is None:
            return there
        if missing := sorted(set(wanted) - set(there)):
            raise ValueError(f"there is no {what} {listed(missing)}; there are {listed(there)}")
        return list(wanted)

    def _losses_of(self, seed: int, document: DocumentInfo) -> np.ndarray:
        path = self._committed[seed].path
        table = pq.read_table(
            self.storage.path(path),
            filesystem=self.storage.filesystem,
            columns=["step", "losses"],
            filters=[("doc_id", "=", document.doc_id)],
            partitioning=None,
            page_checksum_verification=True,
        )
        values = pc.list_flatten(table["losses"]).to_numpy()
        lengths = pc.list_value_length(table["losses"]).to_numpy()
        if not (np.array_equal(table["step"].to_numpy(), self.steps) and (lengths == document.num_losses).all()):
            raise ValueError(
                f"{path} does not hold each step of document {document.name!r} once; run: discreteness verify"
            )
        return values.reshape(len(self.steps), document.num_losses)


def open(uri: str | os.PathLike[str] | Storage) -> Experiment:
    """Opens a dataset for reading. FileNotFoundError: there is none; ValueError: damaged or of another
    version.
    """
    return Experiment(open_storage(uri))


@dataclass(frozen=True, kw_only=True)
class RunningSeed:
    seed: int
    attempt: str
    steps: int


@dataclass(frozen=True, kw_only=True)
class Status:
    """What a dataset holds. `failed_attempts`: events of log/ with seed, attempt, error; `invalid`: name ->
    reason.
    """

    identity: dict[str, Any]
    identity_hash: str
    steps: int
    documents: int
    losses_per_step: int
    committed: tuple[CommittedSeed, ...]
    invalid: dict[str, str]
    failed_attempts: tuple[dict[str, Any], ...]
    running: tuple[RunningSeed, ...]
    rows: int
    num_bytes: int


def status(uri: str | os.PathLike[str] | Storage) -> Status:
    """Reads footers, the log and sizes, no losses. Errors as `open`."""
    storage = open_storage(uri)
    manifest = read_manifest(storage)
    committed, invalid = scan(storage, manifest)
    return Status(
        identity=manifest.identity,
        identity_hash=manifest.current_identity_hash(),
        steps=len(manifest.steps),
        documents=len(manifest.documents),
        losses_per_step=sum(document.num_losses for document in manifest.documents),
        committed=tuple(committed.values()),
        invalid=invalid,
        failed_attempts=tuple(event for event in events(storage) if event.get("error") and event.get("attempt")),
        running=tuple(running_seeds(storage, set(committed))),
        rows=sum(seed.rows for seed in committed.values()),
        num_bytes=sum(info.size or 0 for info in storage.list(recursive=True)),
    )


def events(storage: Storage) -> Iterator[dict[str, Any]]:
    """Events of log/, oldest first. The log decides nothing, so what cannot be read is passed over."""
    for info in storage.list("log"):
        try:
            event = json.loads(storage.read(f"log/{info.base_name}"))
        except (OSError, ValueError):
            continue
        if isinstance(event, dict):
            yield event


def verify(uri: str | os.PathLike[str] | Storage) -> list[str]:
    """Reads every row of every seed; returns the problems, none if the dataset is whole. Errors as `open`."""
    storage = open_storage(uri)
    manifest = read_manifest(storage)
    committed, invalid = scan(storage, manifest)
    problems = [f"{name}: {reason}" for name, reason in invalid.items()]
    try:
        read_documents(storage, manifest)
    except (FileNotFoundError, ValueError) as error:
        problems.append(str(error))
    for seed in committed.values():
        problems += [f"{seed.path}: {problem}" for problem in _problems_of_losses(storage, manifest, seed)]
        problems += [f"{seed.runs_path}: {problem}" for problem in _problems_of_runs(storage, seed)]
    return problems


def _problems_of_losses(storage: Storage, manifest: Manifest, committed: CommittedSeed) -> Iterator[str]:
    try:
        table = pq.read_table(pa.BufferReader(storage.read(committed.path)), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        yield f"cannot be read: {str(error).splitlines()[0]}"
        return
    for name, expected in ("seed", committed.seed), ("attempt", committed.attempt):
        found = pc.unique(table[name]).to_pylist()
        if found != [expected]:
            yield f"{name} is {listed(found)}, its footer says {expected}"
    steps, ids = np.array(manifest.steps), np.array([document.doc_id for document in manifest.documents])
    step, doc_id = table["step"].to_numpy(), table["doc_id"].to_numpy()
    pairs, counts = np.unique(np.stack([doc_id, step], axis=1), axis=0, return_counts=True)
    planned = {(doc, step) for doc in ids.tolist() for step in steps.tolist()}
    found_pairs = set(map(tuple, pairs.tolist()))
    for what, wrong in (
        ("missing", sorted(planned - found_pairs)),
        ("not planned", sorted(found_pairs - planned)),
        ("more than once", list(map(tuple, pairs[counts > 1].tolist()))),
    ):
        if wrong:
            yield f"(document, step) {what}: {listed(wrong)}"
            return
    if not (np.array_equal(doc_id, np.repeat(ids, len(steps))) and np.array_equal(step, np.tile(steps, len(ids)))):
        yield "rows are not sorted by document and step"
        return
    lengths = pc.list_value_length(table["losses"]).to_numpy()
    expected_lengths = np.repeat([document.num_losses for document in manifest.documents], len(steps))
    for row in np.flatnonzero(lengths != expected_lengths)[:1]:
        where = f"document {doc_id[row]}, step {step[row]}"
        yield f"{where} has {lengths[row]} losses, expected {expected_lengths[row]}"
        return
    values = pc.list_flatten(table["losses"]).to_numpy()
    for index in np.flatnonzero(~np.isfinite(values))[:1]:
        row = int(np.searchsorted(np.cumsum(lengths), index, side="right"))
        yield f"document {doc_id[row]}, step {step[row]} has a loss of {values[index]}"


def _problems_of_runs(storage: Storage, committed: CommittedSeed) -> Iterator[str]:
    if not storage.exists(committed.runs_path):
        yield f"is missing, {committed.path} names it"
    elif hashlib.sha256(storage.read(committed.runs_path)).hexdigest() != committed.runs_sha256:
        yield f"its hash is not the one in {committed.path}"


def running_seeds(storage: Storage, committed: set[int]) -> Iterator[RunningSeed]:
    """Seeds in training that left rows in `_running`. Best effort: the files are replaced at any time."""
    for info in storage.list("_running"):
        match = SEED_FILE.fullmatch(info.base_name)
        if not match or int(match[1]) in committed:
            continue
        try:
            metadata = pq.read_metadata(info.path, filesystem=storage.filesystem)
            footer = json.loads(metadata.metadata[FOOTER_KEY])
            yield RunningSeed(seed=int(match[1]), attempt=footer["attempt"], steps=footer["steps"])
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
            continue
