"""The ledger of a job: who holds which seed, and what becomes of it. It decides and counts, and never waits.

- A seed waits, is held by an attempt, is committed, or has failed for good: one of these at any time.
- An attempt is current from its lease until it is lost or committed, and never again: whatever comes for it later finds
  nothing here, so that attempts never mix in the rows of a seed.
- A lost attempt costs its seed one of `max_attempts`, and its trainer one of MAX_TRAINER_FAILURES if that is what
  failed. What ends because a machine was taken away counts against neither.
- What every other attempt would meet is not tried again: it ends the seed, the trainer, or all seeds, at once.
"""

import copy
import time
import uuid
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from discreteness.checkpoint.seam import Ends
from discreteness.dataset.attempt_rows import AttemptRows
from discreteness.dataset.names import with_name
from discreteness.service.messages import AGE_BOUNDS_S, Counts, Event, Lease, Level, Preparing, Running

if TYPE_CHECKING:
    from asyncio import Task

MAX_TRAINER_FAILURES = 3
"""Failures of a trainer in a row, without a committed seed between them, before it is given up."""


@dataclass(eq=False)
class Attempt:
    """One training run of a seed, from its lease to its end."""

    seed: int
    id: str
    trainer: "TrainerEntry"
    heard_s: float
    """When it last sent something."""
    rows: AttemptRows = field(default_factory=AttemptRows)
    in_flight: dict[int, int] = field(default_factory=dict)
    """Step -> bytes of each checkpoint that is published and not yet scored."""
    work: set["Task"] = field(default_factory=set)
    """What is being done for it, and is cancelled when it is lost. An attempt with work is not silent."""
    committing: bool = False
    """Its file is being written: what happens to its trainer no longer matters."""
    newest_step: int = 0
    stall_s: float = 0.0

    def heard(self, step: int = 0) -> None:
        """Its trainer has reached this step at least."""
        self.heard_s = time.monotonic()
        self.newest_step = max(self.newest_step, step)

    def stalled(self, stall_s: float) -> None:
        """What publishing has made one rank wait. The rank that waited longest counts: the others waited for it."""
        self.stall_s = max(self.stall_s, stall_s)


@dataclass(eq=False)
class TrainerEntry:
    """What is known of one trainer, whose processes may end and be started again."""

    name: str
    starts: int = 0
    """How often its processes have entered. What processes of an earlier start send is out of date."""
    inside: bool = False
    """Its processes have entered and are not known to have ended."""
    end: Callable[[], None] | None = None
    """Ends its processes, should they fall silent."""
    heard_s: float = 0.0
    """Its last word while it has no attempt; an attempt keeps its own."""
    preparing: str = ""
    """What it has been doing since its last word, before its first lease."""
    error: str = ""
    """What its processes said they would die of."""
    permanent: bool = False
    """Processes started again on its machine would meet that error as well: it is given up."""
    failures: int = 0
    """In a row, without a committed seed between them."""
    last_failure: str = ""
    ended: str | None = None
    """Why it has ended for good, "" if in order; None while it may train."""
    leaving: bool = False
    """Its machine is about to be taken away: what that ends is nobody's failure."""


class Ledger:
    """Seeds, attempts and trainers of one job.

    `given_up`: why nothing can be scored any more, "" while it can. `on_lost` hears of each attempt that is lost, with
    what the dataset's log says of it; a seed that has failed with it stands in `failed` by then. `update_flop`: what
    the update of a record took. `names`: of seeds that are called more than a number.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        max_attempts: int,
        given_up: Callable[[], str],
        on_lost: Callable[[Attempt, dict[str, Any]], None],
        update_flop: Callable[[dict], float],
        names: Mapping[int, str] = MappingProxyType({}),
    ):
        self.max_attempts = max_attempts
        self.given_up = given_up
        self.on_lost = on_lost
        self.update_flop = update_flop
        self.names = names
        self.waiting = deque(seeds)
        self.attempts: dict[str, Attempt] = {}
        self.lost = {seed: 0 for seed in seeds}
        """Seed -> its attempts that count."""
        self.failed: dict[int, str] = {}
        """Seed -> error of its last attempt."""
        self.committed: set[int] = set()
        self.trainers: dict[str, TrainerEntry] = {}
        self.counts = Counts()
        self.events: list[Event] = []

    def done(self) -> bool:
        """Every seed is committed or failed for good."""
        return not self.waiting and not self.attempts

    # ---- trainers ----

    def trainer(self, name: str) -> TrainerEntry:
        return self.trainers.setdefault(name, TrainerEntry(name))

    def enter(self, name: str, end: Callable[[], None] | None) -> TrainerEntry:
        """Processes of a trainer have come; what its earlier ones were training died with them."""
        trainer = self.trainer(name)
        if trainer.leaving:
            self._moved(trainer)
        elif trainer.inside:
            self._trainer_failed(trainer, trainer.error or "its processes were restarted")
        trainer.starts += 1
        trainer.inside, trainer.error, trainer.end = True, "", end
        trainer.preparing = ""
        trainer.heard_s = time.monotonic()
        return trainer

    def prepare(self, name: str, start: int, what: str) -> None:
        """Processes of this start say what they do before they ask for a seed."""
        trainer = self.trainer(name)
        if trainer.starts == start:
            trainer.preparing, trainer.heard_s = what, time.monotonic()

    def trouble(self, name: str, start: int, error: str, permanent: bool = False) -> None:
        """Processes of this start are about to end by this error. `permanent`: so would any that came after them."""
        trainer = self.trainer(name)
        if trainer.starts != start or trainer.permanent:  # what other ranks then die of says less
            return
        trainer.error, trainer.permanent = error, permanent
        if permanent:  # said now: until they have ended, or others come in their place, takes a while
            self._trainer_failed(trainer, error)
            trainer.inside = False

    def announce_departure(self, name: str) -> None:
        """A trainer's machine is about to be taken away."""
        trainer = self.trainer(name)
        if not trainer.leaving:
            trainer.leaving = True
            text = f"{name}: its machine is about to be taken away"
            self.tell("preemption notice", text, "warning", trainer=name)

    def leave(self, name: str, reason: str) -> bool:
        """All processes of a trainer have ended: with an error, or in order if `reason` is "". True: start it again."""
        trainer = self.trainer(name)
        trainer.end = None
        entered = trainer.inside  # one that never found a place would only wait again
        if trainer.leaving:
            self._moved(trainer)
            if not self.done() and not self.why_stop(trainer):
                return True
        if reason and not trainer.permanent:
            self._trainer_failed(trainer, reason)
            trainer.inside = False  # counted here, not once more when it enters
        else:
            reason = self.why_stop(trainer)
        again = bool(reason) and entered and not self.done() and not self.why_stop(trainer)
        if not again:
            trainer.ended = reason
        return again

    def why_stop(self, trainer: TrainerEntry) -> str:
        """Why a trainer is to train no more seeds; empty while it may."""
        return trainer.last_failure if trainer.failures >= MAX_TRAINER_FAILURES else self.given_up()

    def end_the_silent(self, bound_s: float) -> None:
        """Loses the attempts and ends the processes of trainers that have not been heard of for so long. An attempt
        for which something is being done is not silent."""
        now_s = time.monotonic()
        for attempt in list(self.attempts.values()):
            if not attempt.work and now_s - attempt.heard_s > bound_s:
                self.lose(attempt, f"{attempt.trainer.name} sent nothing for {bound_s} s")
                attempt.trainer.heard_s = attempt.heard_s
        training = {attempt.trainer for attempt in self.attempts.values()}
        for trainer in self.trainers.values():
            if trainer.end and trainer not in training and now_s - trainer.heard_s > bound_s:
                trainer.error = f"it sent nothing for {bound_s} s and was ended"
                end, trainer.end = trainer.end, None
                end()

    def _trainer_failed(self, trainer: TrainerEntry, reason: str) -> None:
        if trainer.permanent:
            trainer.failures, trainer.last_failure = MAX_TRAINER_FAILURES, reason
        else:
            trainer.failures += 1
            trainer.last_failure = f"{trainer.failures} failures in a row, the last: {reason}"
        self.tell("trainer failed", f"{trainer.name} failed: {reason}", "warning", trainer=trainer.name)
        self._lose_all(trainer, reason)

    def _moved(self, trainer: TrainerEntry) -> None:
        """It has left a machine that is taken away. What it had not committed there begins anew elsewhere."""
        self._lose_all(trainer, "its machine was taken away")
        if trainer.permanent:
            trainer.failures, trainer.permanent = 0, False
        trainer.leaving = trainer.inside = False

    def _lose_all(self, trainer: TrainerEntry, reason: str) -> None:
        for attempt in [attempt for attempt in self.attempts.values() if attempt.trainer is trainer]:
            self.lose(attempt, f"{trainer.name}: {reason}")

    # ---- attempts ----

    def lease(self, trainer: TrainerEntry) -> Lease:
        """The next seed, or "wait" while others may still give one back, or "stop"."""
        trainer.preparing = ""
        if self.done() or self.why_stop(trainer):
            return Lease(order="stop")
        if not self.waiting:
            return Lease(order="wait")
        attempt = Attempt(self.waiting.popleft(), uuid.uuid4().hex[:12], trainer, heard_s=time.monotonic())
        self.attempts[attempt.id] = attempt
        text = f"seed {self._called(attempt)} leased to {trainer.name} (attempt {attempt.id})"
        self._tell_of(attempt, "seed leased", text)
        # Each other trainer takes one before this one comes back.
        later = list(islice(self.waiting, max(1, sum(one.starts > 0 for one in self.trainers.values()))))
        next_seed = later[-1] if later else -1
        return Lease(order="train", seed=attempt.seed, attempt=attempt.id, next_seed=next_seed)

    def add_records(self, attempt: Attempt, records: list[dict]) -> None:
        """Values of single steps, as the source gave them."""
        attempt.rows.add_records(records)
        for record in records:
            if "batch_tokens" in record:  # of an update, not of a validation
                self.counts.updates += 1
                self.counts.tokens += record["batch_tokens"]
                self.counts.flop += self.update_flop(record)

    def scored(self, age_s: float) -> None:
        """A checkpoint has its row, so long after it was published."""
        self.counts.checkpoints += 1
        self.counts.ages[bisect_left(AGE_BOUNDS_S, age_s)] += 1

    def commit(self, attempt: Attempt, num_bytes: int) -> None:
        """The attempt's file is the seed: so many bytes of it."""
        self.counts.bytes_committed += num_bytes
        self.counts.stall_s += attempt.stall_s
        self.committed.add(attempt.seed)
        attempt.trainer.failures = 0
        attempt.trainer.heard_s = time.monotonic()  # its lease may be longer ago than silence is borne
        del self.attempts[attempt.id]
        checkpoints = f"{len(attempt.rows.losses)} checkpoints (attempt {attempt.id})"
        self._tell_of(attempt, "seed committed", f"seed {self._called(attempt)} committed: {checkpoints}")

    def lose(self, attempt: Attempt, error: str, ends: Ends = "attempt") -> None:
        """The one place where an attempt is lost: its rows are forgotten and its seed goes back or is given up.

        `ends`: "seed" if every attempt of this seed would meet this error, "job" if those of every seed would.
        """
        if attempt.committing or self.attempts.pop(attempt.id, None) is None:
            return
        for work in attempt.work:
            work.cancel()
        self.counts.stall_s += attempt.stall_s
        self.counts.attempts_lost += 1
        attempt.trainer.heard_s = time.monotonic()  # it hears of it with its next checkpoint
        final = ends != "attempt"
        preempted = attempt.trainer.leaving and not final  # the seed has not failed if its machine ends
        self.lost[attempt.seed] += not preempted
        if final or self.lost[attempt.seed] >= self.max_attempts:
            self.failed[attempt.seed] = error
            why = ", and would in every attempt" if final else f" after {self.max_attempts} attempts"
            text = f"seed {self._called(attempt)} failed{why}: {error}"
            self._tell_of(attempt, "seed failed", text, "error")
        else:
            self.waiting.appendleft(attempt.seed)
            text = f"seed {self._called(attempt)} goes back (attempt {attempt.id}): {error}"
            self._tell_of(attempt, "attempt lost", text, "warning")
        record = {"seed": attempt.seed, "attempt": attempt.id, "preempted" if preempted else "error": error}
        record |= {"checkpoints": len(attempt.rows.losses), "train_s": attempt.rows.train_s()}
        self.on_lost(attempt, record | ({"final": True} if final else {}))
        if ends == "job":
            self._end(error)

    def _end(self, error: str) -> None:
        """No seed can be trained: what is in training is lost, except what is being committed, and nothing waits."""
        while self.waiting:
            self.failed[self.waiting.popleft()] = error
        self.tell("seeds given up", "no further seed is trained, as each would meet the same", "error")
        for attempt in list(self.attempts.values()):
            self.lose(attempt, error, ends="seed")

    def counted(self) -> Counts:
        """A copy, with what running attempts have waited so far."""
        counts = copy.deepcopy(self.counts)
        counts.stall_s += sum(attempt.stall_s for attempt in self.attempts.values())
        return counts

    def running(self) -> list[Running]:
        return [
            Running(
                seed=attempt.seed,
                attempt=attempt.id,
                trainer=attempt.trainer.name,
                step=attempt.newest_step,
                train_loss=attempt.rows.train_loss(),
            )
            for attempt in self.attempts.values()
        ]

    def preparing(self) -> list[Preparing]:
        now_s = time.monotonic()
        return [
            Preparing(trainer=trainer.name, what=trainer.preparing, for_s=now_s - trainer.heard_s)
            for trainer in self.trainers.values()
            if trainer.inside and trainer.preparing
        ]

    # ---- events ----

    def tell(self, event: str, message: str, level: Level = "info", **about: Any) -> None:
        """`about`: further fields of Event."""
        self.events.append(Event(event=event, message=message, level=level, **about))

    def _called(self, attempt: Attempt) -> str:
        return with_name(attempt.seed, self.names)

    def _tell_of(self, attempt: Attempt, event: str, message: str, level: Level = "info") -> None:
        about = {"seed": attempt.seed, "attempt": attempt.id, "trainer": attempt.trainer.name}
        self.tell(event, message, level, **about, step=attempt.newest_step)
