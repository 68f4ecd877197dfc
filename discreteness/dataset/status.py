"""dataset -> what it holds: seeds committed, in training, lost.

discreteness status runs/tiny
"""

import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from discreteness.dataset.event_log import ATTEMPT_LOST, JOB_BEGAN, events
from discreteness.dataset.lock import describe, has_ended, read_holder
from discreteness.dataset.manifest import read_manifest
from discreteness.dataset.names import names_of, names_of_job
from discreteness.dataset.paths import RUNNING, SEED_FILE
from discreteness.dataset.runs_file import train_s
from discreteness.dataset.seed_file import FOOTER_KEY, CommittedSeed, scan
from discreteness.dataset.storage import Storage, open_storage


@dataclass(frozen=True, kw_only=True)
class RunningSeed:
    seed: int
    attempt: str
    steps: int


@dataclass(frozen=True, kw_only=True)
class Status:
    """What a dataset holds. `failed_attempts`: events of log/ with seed, attempt, error; `invalid`: name -> reason;
    `jobs`: events of jobs that began; `commit_times_s`: seed -> time of its file since 1970, where the storage has it.
    `names`: seed -> name, of the seeds that have one, as their files or the newest job say it.
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
    names: dict[int, str]
    commit_times_s: dict[int, float]
    trained_s: float
    rows: int
    num_bytes: int


def status(uri: str | os.PathLike[str] | Storage) -> Status:
    """Reads footers, the log and sizes, no losses. Raises what `reader.open` raises."""
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
        names=names_of_job(log) | names_of(committed),
        trained_s=sum(train_s(storage, tuple(committed.values()))) + sum(map(_lost_s, log)),
        commit_times_s={seeds[f.path]: f.mtime.timestamp() for f in files if f.path in seeds and f.mtime},
        rows=sum(seed.rows for seed in committed.values()),
        num_bytes=sum(info.size or 0 for info in files),
    )


def _lost_s(event: dict[str, Any]) -> float:
    seconds = event.get("train_s") if event.get("event") == ATTEMPT_LOST else None
    return seconds if isinstance(seconds, float) and math.isfinite(seconds) else 0.0


def running_seeds(storage: Storage, committed: set[int]) -> Iterator[RunningSeed]:
    """Seeds in training that left rows in `_running`. Best effort: the files are replaced at any time."""
    for info in storage.list(RUNNING):
        match = SEED_FILE.fullmatch(info.base_name)
        if not match or int(match[1]) in committed:
            continue
        try:
            with storage.open(f"{RUNNING}/{info.base_name}") as file:
                footer = json.loads(pq.read_metadata(file).metadata[FOOTER_KEY])
            yield RunningSeed(seed=int(match[1]), attempt=footer["attempt"], steps=footer["steps"])
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, RecursionError):
            continue


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """One look. `planned`: seeds of the newest job, None where none is known; `failed`: those it has given up, with
    the last error; `waiting`: those of which nothing is written yet, which on an object store may be in training;
    `holder`: who holds the dataset's lock, None if nobody does; `ended`: who held it and was a process of this host
    that runs no more, None if there is none.
    """

    status: Status
    planned: tuple[int, ...] | None
    failed: dict[int, str]
    waiting: tuple[int, ...]
    seeds_per_hour: float | None
    """Commits of the newest job, from its start to its last commit."""
    left_s: float | None
    holder: str | None
    ended: str | None

    @property
    def settled(self) -> bool:
        """Every planned seed is committed or failed."""
        open_seeds = {running.seed for running in self.status.running} | set(self.waiting)
        return self.planned is not None and not open_seeds.intersection(self.planned)

    @property
    def device(self) -> str:
        """What one worker of a trainer occupies: a GPU, or a core on a track for CPUs."""
        track = self.status.identity.get("track")
        return "GPU" if isinstance(track, dict) and track.get("needs_gpu") is True else "core"

    @property
    def device_hours(self) -> float | None:
        """What training has taken: seconds of updates, of lost attempts too, times the workers of a trainer. Start-up,
        scoring and waits are not in it. None: no file tells."""
        workers = self.status.identity.get("world_size")
        if type(workers) is not int or not self.status.trained_s:
            return None
        return self.status.trained_s * workers / 3600


def job_status(uri: str | os.PathLike[str] | Storage, now_s: float | None = None) -> JobStatus:
    """`now_s`: seconds since 1970, now by default. Raises what `status` raises."""
    storage = open_storage(uri)
    state = status(storage)
    content = read_holder(storage)
    gone = bool(content) and has_ended(content)
    holder = describe(content) if content and not gone else None
    ended = describe(content) if gone else None
    jobs = [job for event in state.jobs if (job := _job(event))]
    if not jobs:
        return JobStatus(
            status=state,
            planned=None,
            failed={},
            waiting=(),
            seeds_per_hour=None,
            left_s=None,
            holder=holder,
            ended=ended,
        )
    began_s, planned, max_attempts = jobs[-1]
    times_s = state.commit_times_s
    committed = {seed.seed for seed in state.committed}
    running = {seed.seed for seed in state.running}
    lost: dict[int, list[str]] = {}
    final: set[int] = set()
    for event in state.failed_attempts:
        seed, when_s = event.get("seed"), _time_s(event)
        if type(seed) is int and when_s is not None and when_s >= began_s:
            lost.setdefault(seed, []).append(str(event["error"]))
            final |= {seed} if event.get("final") else set()
    failed = {
        seed: lost[seed][-1]
        for seed in planned
        if seed not in committed and seed not in running and (seed in final or len(lost.get(seed, ())) >= max_attempts)
    }
    waiting = tuple(seed for seed in planned if seed not in committed | running | failed.keys())
    commits_s = [when_s for seed in planned if (when_s := times_s.get(seed, 0.0)) > began_s]
    pace = len(commits_s) / (max(commits_s) - began_s) if commits_s else None
    num_left = len(waiting) + len(running.intersection(planned))
    left_s = None
    if pace and holder:
        left_s = max(0.0, max(commits_s) + num_left / pace - (time.time() if now_s is None else now_s))
    return JobStatus(
        status=state,
        planned=planned,
        failed=failed,
        waiting=waiting,
        seeds_per_hour=3600 * pace if pace else None,
        left_s=left_s,
        holder=holder,
        ended=ended,
    )


def ranges(seeds: Iterable[int]) -> str:
    """'0-3, 7, 9-11' of ascending seeds; 'none' if there is none."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], seed]
        else:
            runs.append([seed])
    return ", ".join("-".join(map(str, run)) for run in runs) or "none"


def as_json(seen: JobStatus) -> str:
    """One object; seeds as lists, times in seconds, null where nothing is known."""
    state = seen.status
    content = {
        "identity_hash": state.identity_hash,
        "vary": state.identity.get("vary"),
        "steps": state.steps,
        "documents": state.documents,
        "losses_per_step": state.losses_per_step,
        "planned": seen.planned,
        "committed": [seed.seed for seed in state.committed],
        "names": state.names,
        "running": [asdict(seed) for seed in state.running],
        "failed": [{"seed": seed, "error": error} for seed, error in seen.failed.items()],
        "waiting": seen.waiting,
        "lost_attempts": state.failed_attempts,
        "not_counted": state.invalid,
        "rows": state.rows,
        "bytes": state.num_bytes,
        "device": seen.device,
        "device_hours": seen.device_hours,
        "seeds_per_hour": seen.seeds_per_hour,
        "left_s": seen.left_s,
        "holder": seen.holder,
        "ended": seen.ended,
    }
    return json.dumps(content, indent=1)


def _job(event: dict[str, Any]) -> tuple[float, tuple[int, ...], int] | None:
    """Start (seconds since 1970), seeds and attempts per seed of a logged job; None if it does not say them."""
    seeds, max_attempts, began_s = event.get("seeds"), event.get("max_attempts"), _time_s(event)
    if not isinstance(seeds, list) or type(max_attempts) is not int or began_s is None:
        return None
    if not seeds or any(type(seed) is not int for seed in seeds):
        return None
    return began_s, tuple(sorted(set(seeds))), max(1, max_attempts)


def _time_s(event: dict[str, Any]) -> float | None:
    try:
        return datetime.fromisoformat(str(event.get("time"))).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
