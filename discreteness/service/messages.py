"""What the processes of a job tell each other: plain values, all of them declared here."""

import json
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Literal

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
    trainer: str | None = None
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
    """The answer to a trainer that asks for work. Plain data: dispatcher -> trainer."""

    order: Literal["train", "wait", "stop"]
    seed: int = -1
    attempt: str = ""
    next_seed: int = -1
    """The seed that this trainer probably trains next, so that it can draw its weights meanwhile; -1: none. A guess."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """An attempt in training. Plain data: dispatcher -> driver."""

    seed: int
    attempt: str
    trainer: str
    step: int
    """The newest."""
    train_loss: float | None
    """Of the newest update that is known of."""


@dataclass(frozen=True, kw_only=True)
class Preparing:
    """A trainer on its way to its first seed. Plain data: dispatcher -> driver."""

    trainer: str
    what: str
    """What it is doing, as a phrase after "is"."""
    for_s: float
    """How long it has been doing that."""


@dataclass(kw_only=True)
class Counts:
    """What has happened since the job began, lost attempts included."""

    updates: int = 0
    tokens: int = 0
    """Trained on."""
    flop: float = 0.0
    """Floating-point operations that the model needed for these."""
    bytes_committed: int = 0
    published: int = 0
    """Planned checkpoints that have arrived."""
    checkpoints: int = 0
    """Those whose losses have come back."""
    verified: int = 0
    """Those of them whose losses the trainer has computed as well (`--verify-every`), with equal bits."""
    ages: list[int] = field(default_factory=lambda: [0] * (len(AGE_BOUNDS_S) + 1))
    """Scored checkpoints in each class of AGE_BOUNDS_S, by seconds from their arrival to their row."""
    attempts_lost: int = 0
    stall_s: float = 0.0
    """What publishing has made training wait."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What the driver shows and exports. Plain data: dispatcher -> driver."""

    committed: int
    """Seeds, by this job."""
    failed: dict[int, str]
    """Seed -> error of its last attempt."""
    waiting: int
    """Seeds that nobody holds."""
    training: list[Running]
    preparing: list[Preparing]
    placed: int
    """Trainers that have a place and processes."""
    counts: Counts
    in_flight: int
    in_flight_bytes: int
    lag_steps: int
    evaluators_ready: int
    evaluators_lost: int
    evaluator_busy_s: float
    trainers_ended: dict[str, str]
    """Trainer -> why it has ended, "" if in order."""
    done: bool
    events: list[Event]
