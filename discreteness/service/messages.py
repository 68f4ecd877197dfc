"""What the processes of a job tell each other -> plain values, declared here alone."""

import json
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from discreteness.experiment.prepare import Experiment

Level = Literal["info", "warning", "error"]

AGE_BOUNDS_S = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Upper bounds of the classes in which the ages of scored checkpoints are counted; one more class lies above."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened, and to what. Plain data: dispatcher -> driver -> stdout."""

    event: str
    """What kind of thing, such as "seed committed": few values, to choose by."""
    message: str
    """The whole of it, for a person."""
    level: Level = "info"
    seed: int | None = None
    attempt: str | None = None
    group: str | None = None
    step: int | None = None
    """Newest step of the attempt."""
    time_s: float = field(default_factory=time.time)
    """When, in seconds since 1970."""

    def to_json(self) -> str:
        """One line. What does not apply is left out."""
        values = asdict(self)
        when = datetime.fromtimestamp(values.pop("time_s"), UTC).isoformat(timespec="milliseconds")
        return json.dumps({"time": when, **{name: value for name, value in values.items() if value is not None}})


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The answer to a group that asks for work. Plain data: dispatcher -> trainer group."""

    order: Literal["train", "wait", "stop"]
    seed: int = -1
    attempt: str = ""
    next_seed: int = -1
    """The seed that this group probably trains next, so that it can draw its weights meanwhile; -1: none. A guess."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """An attempt in training and its newest step. Plain data: dispatcher -> driver."""

    seed: int
    attempt: str
    group: str
    step: int


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What the driver shows and exports. Plain data: dispatcher -> driver. Counts are of this job."""

    committed: int
    failed: dict[int, str]
    """seed -> error of its last attempt."""
    pending: int
    training: list[Running]
    train_loss: dict[str, float]
    """group -> loss of the newest update that is known of."""
    updates: int
    tokens: dict[tuple[int, int], int]
    """(short, long attention window) -> tokens trained on with them; like `updates`, of lost attempts too."""
    bytes_committed: int
    published: int
    checkpoints: int
    ages: tuple[int, ...]
    """Scored checkpoints in each class of AGE_BOUNDS_S, by seconds from their arrival here to their row."""
    in_flight: int
    in_flight_bytes: int
    lag_steps: int
    evaluators_ready: int
    evaluators_lost: int
    evaluator_busy_s: float
    attempts_lost: int
    stall_s: float
    groups_ended: dict[str, str]
    done: bool
    events: list[Event]


@dataclass(frozen=True, kw_only=True)
class GroupSpec:
    """What a group's workers are told once; plain data and the dispatcher's handle."""

    name: str
    dispatcher: Any
    experiment: Experiment
    max_in_flight: int
    verify_every: int
    use_gpu: bool
