"""dataset -> what it holds: seeds committed, in training, lost.

discreteness status runs/tiny
"""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from discreteness.dataset.manifest import read_manifest
from discreteness.dataset.seed_file import FOOTER_KEY, SEED_FILE, CommittedSeed, scan, train_s
from discreteness.dataset.storage import Storage, open_storage
from discreteness.dataset.writer import ATTEMPT_LOST, JOB_BEGAN


@dataclass(frozen=True, kw_only=True)
class RunningSeed:
    seed: int
    attempt: str
    steps: int


@dataclass(frozen=True, kw_only=True)
class Status:
    """What a dataset holds. `failed_attempts`: events of log/ with seed, attempt, error; `invalid`: name -> reason;
    `jobs`: events of jobs that began; `commit_times_s`: seed -> time of its file since 1970, where the storage has it.
    `trained_s`: seconds of updates of committed seeds and lost attempts, as far as files tell.
    """

    identity: dict[str, Any]
    identity_hash: str
    steps: int
    documents: int
    losses_per_step: int
    committed: tuple[CommittedSeed, ...]
    invalid: dict[str, str]
    failed_attempts: tuple[dict[str, Any], ...]
    jobs: tuple[dict[str, Any], ...]
    running: tuple[RunningSeed, ...]
    commit_times_s: dict[int, float]
    trained_s: float
    rows: int
    num_bytes: int


def status(uri: str | os.PathLike[str] | Storage) -> Status:
    """Reads footers, the log and sizes, no losses. Errors as `reading.open`."""
    storage = open_storage(uri)
    manifest = read_manifest(storage)
    committed, invalid = scan(storage, manifest)
    seeds = {storage.path(seed.path): seed.seed for seed in committed.values()}
    files, log = storage.list(recursive=True), list(events(storage))
    return Status(
        identity=manifest.identity,
        identity_hash=manifest.current_identity_hash(),
        steps=len(manifest.steps),
        documents=len(manifest.documents),
        losses_per_step=sum(document.num_losses for document in manifest.documents),
        committed=tuple(committed.values()),
        invalid=invalid,
        failed_attempts=tuple(event for event in log if event.get("error") and event.get("attempt")),
        jobs=tuple(event for event in log if event.get("event") == JOB_BEGAN),
        running=tuple(running_seeds(storage, set(committed))),
        trained_s=sum(train_s(storage, tuple(committed.values()))) + sum(map(_lost_s, log)),
        commit_times_s={seeds[f.path]: f.mtime.timestamp() for f in files if f.path in seeds and f.mtime},
        rows=sum(seed.rows for seed in committed.values()),
        num_bytes=sum(info.size or 0 for info in files),
    )


def _lost_s(event: dict[str, Any]) -> float:
    seconds = event.get("train_s") if event.get("event") == ATTEMPT_LOST else None
    return seconds if isinstance(seconds, float) and math.isfinite(seconds) else 0.0


def events(storage: Storage) -> Iterator[dict[str, Any]]:
    """Events of log/, oldest first. The log decides nothing, so what cannot be read is passed over."""
    for info in storage.list("log"):
        try:
            event = json.loads(storage.read(f"log/{info.base_name}"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(event, dict):
            yield event


def running_seeds(storage: Storage, committed: set[int]) -> Iterator[RunningSeed]:
    """Seeds in training that left rows in `_running`. Best effort: the files are replaced at any time."""
    for info in storage.list("_running"):
        match = SEED_FILE.fullmatch(info.base_name)
        if not match or int(match[1]) in committed:
            continue
        try:
            with storage.open(f"_running/{info.base_name}") as file:
                footer = json.loads(pq.read_metadata(file).metadata[FOOTER_KEY])
            yield RunningSeed(seed=int(match[1]), attempt=footer["attempt"], steps=footer["steps"])
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, RecursionError):
            continue
