"""The seam between what runs a job and what it runs: a source gives checkpoints, a scorer turns each into losses.

- What leases seeds, publishes, scores and commits knows of a checkpoint its step and its number of bytes, and hands the
  rest on unread. A model, a track or a file format is known to the two classes of a pair alone.
- The speedrun is one pair (service/speedrun_pair.py).
- Errors say by their class what they are the end of. Whatever is none of these classes ends the processes of a trainer
  or evaluator, and others start in their place.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from discreteness.checkpoint.header import CheckpointHeader
from discreteness.dataset.runs_file import Library

Used = TypeVar("Used")
Ends = Literal["attempt", "seed", "job"]


class AttemptFailed(Exception):
    """This attempt at the seed is over and another may succeed. From a source: it is ready for the next seed, and every
    rank raises it at the same step."""

    ends: Ends = "attempt"


class SeedImpossible(AttemptFailed):
    """Every attempt at this seed would meet the same, on every machine: a checkpoint that cannot be read."""

    ends = "seed"


class JobImpossible(AttemptFailed):
    """So would every attempt at every seed: a configuration that cannot work."""

    ends = "job"


class MachineUnfit(Exception):
    """This machine gives no seed, as its files are missing or damaged; another may. One rank alone may raise it."""


class ContractBroken(SeedImpossible):
    """A source or a scorer does not do what this module says. One rank alone may find it."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint(ABC):
    """What a source yields: valid until the source is asked for the next."""

    step: int
    layout: str
    """Fingerprint of what the bytes mean, so that a scorer never reads bytes that are meant for another."""
    state: Any = None
    """What the scorer needs besides the bytes: plain data of a few values, which travels in the header."""
    records: Sequence[dict] = ()
    """A plain dict for each step since the last checkpoint, with its "step" and columns of a seed's runs file."""

    @property
    @abstractmethod
    def num_bytes(self) -> int:
        """Of what `send` hands out."""

    @abstractmethod
    def send(self, use: Callable[[np.ndarray], Used]) -> Future[Used]:
        """Calls `use` once with the bytes, uint8 (num_bytes,), at once or in the background while the source goes on.
        They need be valid only until it returns. An error of it is the future's."""

    def ready(self, timeout_s: float) -> bool:
        """Whether `send` would not wait, once this has waited so long."""
        return True

    def score(self) -> np.ndarray:
        """float32 losses as the scorer returns them, computed here: what `--verify-every` compares with."""
        raise JobImpossible("--verify-every: this source does not score its own checkpoints; leave it out")


@dataclass(frozen=True, kw_only=True)
class Bytes(Checkpoint):
    """A checkpoint whose bytes are at hand: weights in host memory, or a few that say where the weights lie."""

    data: np.ndarray
    """uint8, flat."""

    @property
    def num_bytes(self) -> int:
        return self.data.nbytes

    def send(self, use: Callable[[np.ndarray], Used]) -> Future[Used]:
        sent: Future[Used] = Future()
        try:
            sent.set_result(use(self.data))
        except Exception as error:
            sent.set_exception(error)
        return sent


class Source(Protocol):
    """Gives the checkpoints of one seed after another, on each rank of a trainer. Made once for many seeds."""

    @property
    def library(self) -> Library:
        """The third-party program that computed the weights and must be named with them; None: none."""

    def prepare(self, seed: int) -> None:
        """The seed that is probably asked for next, to do what can be done meanwhile. If another comes, no harm."""

    def checkpoints(self, seed: int, steps: frozenset[int]) -> Generator[Checkpoint]:
        """Yields a checkpoint at each of `steps` in ascending order, on every rank alike.

        Where these lie far apart it yields at other steps in between, as signs of life: they are not published, but
        their records are kept. Closing it on every rank at the same step leaves the source ready for the next seed.
        """


class Scorer(Protocol):
    """Turns what a source has sent into losses, in an evaluator. Made once for one device.

    Two threads call: `fetch` of one checkpoint may run beside what is done with the one before, and nothing else beside
    anything. `fetch` and `take` alternate; a fetch that raises counts for nothing. ValueError: the bytes are wrong, for
    every evaluator alike.
    """

    @property
    def library(self) -> Library:
        """As a source's, of what computes the losses."""

    def fetch(self, data: np.ndarray, header: CheckpointHeader) -> None:
        """Reads uint8 bytes (num_bytes,), which are read-only and valid until `take` has returned."""

    def take(self) -> None:
        """What was fetched takes the place of the checkpoint before."""

    def score(self, header: CheckpointHeader) -> np.ndarray:
        """float32 (num_losses,) of all documents, one after another: entry i of a document is of its token i + 1."""

    def validate(self, header: CheckpointHeader, chunk: int) -> float:
        """Mean loss of one validation chunk; asked only of an experiment that has some."""


class Pair(Protocol):
    """Makes the source and the scorer of one experiment, in the processes where they live. Plain data that travels."""

    @property
    def call_timeout_s(self) -> float:
        """Bound of one call of an evaluator: fetch, take and score."""

    @property
    def stays_on_its_machine(self) -> bool:
        """Whether a checkpoint is scored on the machine of its source while an evaluator is alive there, as its bytes
        are many."""

    def source(self, device: Any, process_group: Any, tell: Callable[[str], None]) -> Source:
        """On each rank of a trainer; `process_group` of torch, None: the only rank. `tell` takes what it is doing, as a
        phrase after "is". ValueError: it could not be made on this machine however often it were tried."""

    def scorer(self, device: str) -> Scorer:
        """In an evaluator, on "cpu" or "cuda"."""

    def weights_file(self, data: np.ndarray, header: CheckpointHeader) -> tuple[str, bytes]:
        """Name in the dataset and content of a checkpoint that is kept; asked only for steps that the experiment
        keeps."""

    def update_flop(self, record: dict) -> float:
        """Floating-point operations that the model needed for the update of this record; 0: not known."""
