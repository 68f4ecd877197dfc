"""leases out, references in -> committed seeds: the whole control path, one asyncio actor a job.

The only holder of leases, attempts, the evaluator pool, retries and the dataset's writer. Every message of a trainer
carries its attempt; what an attempt that is not current sends is dropped, so attempts never mix in a curve.
"""

import asyncio
import time
import uuid
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from discreteness.checkpoint.header import CheckpointHeader
from discreteness.dataset.attempt_rows import AttemptRows
from discreteness.dataset.event_log import ATTEMPT_LOST
from discreteness.dataset.runs_file import Library
from discreteness.dataset.writer import DatasetWriter
from discreteness.experiment.prepare import Experiment
from discreteness.scoring.comparison import first_difference
from discreteness.service.evaluator_pool import CheckpointLost, CheckpointRejected, EvaluatorPool
from discreteness.service.messages import AGE_BOUNDS_S, Event, Lease, Level, Progress, Running
from discreteness.service.timeouts import COMMIT_PATIENCE_S, LEASE_DEADLINE_S, LEASE_POLL_S, TAIL_PATIENCE_S

if TYPE_CHECKING:
    from discreteness.checkpoint.safetensors_file import WeightsFormat

COMMIT_RETRY_S = 5.0
WRITES_AT_ONCE = 4
"""Groups end their seeds together. Each commit copies its curve a few times and contends for the interpreter lock."""
WATCH_S = LEASE_DEADLINE_S / 30
RUNNING_SHARE = 0.1
"""Most of a core that rows of running seeds may take: at every step a seed's rows cost half a second to write."""
MAX_GROUP_FAILURES = 3
"""Failures of a group in a row, without a committed seed between them, before its slot is given up."""


@dataclass(eq=False)
class _Attempt:
    """One training run of a seed, from its lease to its end."""

    seed: int
    id: str
    group: str
    heard_s: float
    rows: AttemptRows = field(default_factory=AttemptRows)
    in_flight: dict[int, int] = field(default_factory=dict)
    tasks: set[asyncio.Task] = field(default_factory=set)
    committing: bool = False
    """Its file is being written: what happens to its group no longer matters."""
    newest_step: int = 0
    stall_s: float = 0.0


class Dispatcher:
    """Leases seeds to trainer groups and turns what they publish into committed seeds."""

    def __init__(
        self,
        dataset: DatasetWriter,
        seeds: Sequence[int],
        experiment: Experiment,
        pool: EvaluatorPool,
        max_attempts: int,
    ):
        self.dataset = dataset
        self.experiment = experiment
        self.planned = frozenset(experiment.plan)
        self.pool = pool
        self.events: list[Event] = []
        self.pool.on_event = self.events.append
        self.max_attempts = max_attempts
        self.pending = deque(seeds)
        self.attempts: dict[str, _Attempt] = {}
        self.lost: dict[int, int] = {seed: 0 for seed in seeds}
        self.failed: dict[int, str] = {}
        self.committed: set[int] = set()
        self.groups: set[str] = set()
        self.entries: dict[str, int] = {}
        self.ends: dict[str, Callable[[], None]] = {}
        self.heard_s: dict[str, float] = {}
        """Last word of a group that has no attempt; an attempt keeps its own."""
        self.group_errors: dict[str, str] = {}
        self.group_failures: dict[str, int] = {}
        self.last_failure: dict[str, str] = {}
        self.groups_ended: dict[str, str] = {}
        self.leaving: set[str] = set()
        """Groups whose machine is about to be taken away: what that ends is nobody's failure."""
        self.updates = 0
        self.tokens: Counter[tuple[int, int]] = Counter()
        self.bytes_committed = 0
        self.published = 0
        self.checkpoints = 0
        self.ages = [0] * (len(AGE_BOUNDS_S) + 1)
        self.attempts_lost = 0
        self.stall_s = 0.0
        self._changed = asyncio.Event()
        self._writes = asyncio.Semaphore(WRITES_AT_ONCE)
        self._background: list[asyncio.Task] = []

    # ---- trainer groups ----

    async def enter(self, group: str, node_id: str, end: Callable[[], None] | None = None) -> bool:
        """A group has (again) its place and processes; what it was training before died with them. False: leave.

        `end` ends its processes, should they fall silent; Ray Train then starts others, which enter again.
        """
        if not self._background:  # here, where the event loop runs
            self._background = [asyncio.ensure_future(work) for work in (self._watch_attempts(), self._show_running())]
            for task in self._background:
                task.add_done_callback(self._background_ended)
        self.entries[group] = self.entries.get(group, 0) + 1
        if group in self.leaving:
            self._moved(group)
        elif group in self.groups:
            self._group_failed(group, self.group_errors.pop(group, "its processes were restarted"))
        self.groups.add(group)
        self.heard_s[group] = time.monotonic()
        if end:
            self.ends[group] = end
        self.pool.place_beside(group, node_id)
        return not self._why_stop(group)

    async def trouble(self, group: str, error: str) -> None:
        """A group is about to die of this error, before it has a lease."""
        self.group_errors[group] = error

    async def preempted(self, group: str) -> None:
        """A group's machine is about to be taken away: it goes on with its seed and takes no other one there."""
        if group not in self.leaving:
            self.leaving.add(group)
            self._event("preemption notice", f"{group}: its machine is about to be taken away", "warning", group=group)

    async def leave(self, group: str, reason: str) -> bool:
        """A group's fit() has ended, with an error in `reason` or in order. True: start it again."""
        self.ends.pop(group, None)
        entered = group in self.groups  # one that never found a place would only wait again
        if group in self.leaving:
            self._moved(group)
            if not self.done() and not self._why_stop(group):
                return True
        if reason:
            self._group_failed(group, reason)
            self.groups.discard(group)  # counted here, not once more when it enters
            self.group_errors.pop(group, None)
        else:
            reason = self._why_stop(group)
        again = bool(reason) and entered and not self.done() and not self._why_stop(group)
        if not again:
            self.groups_ended[group] = reason
        return again

    async def lease(self, group: str) -> Lease:
        """The next seed for a group, or "wait" while others may still give one back, or "stop"."""
        self.heard_s[group] = time.monotonic()
        if self._why_stop(group):
            return Lease(order="stop")
        entry = self.entries.get(group)
        if not self.pending and not self.done():
            try:
                await asyncio.wait_for(self._changed.wait(), LEASE_POLL_S)
            except TimeoutError:
                return Lease(order="wait")
        # The asker may have died while it waited, and its group be back.
        if self.done() or self._why_stop(group) or entry != self.entries.get(group):
            return Lease(order="stop")
        if not self.pending:
            return Lease(order="wait")
        attempt = _Attempt(self.pending.popleft(), uuid.uuid4().hex[:12], group, heard_s=time.monotonic())
        self.attempts[attempt.id] = attempt
        self._tell("seed leased", attempt, f"seed {attempt.seed} leased to {group} (attempt {attempt.id})")
        # Each other group takes one before this group comes back.
        later = list(islice(self.pending, max(1, len(self.entries))))
        next_seed = later[-1] if later else -1
        return Lease(order="train", seed=attempt.seed, attempt=attempt.id, next_seed=next_seed)

    async def publish(
        self,
        header: CheckpointHeader,
        references: list[Any],
        records: list[dict],
        expected: np.ndarray | None = None,
        stall_s: float = 0.0,
    ) -> str | None:
        """Returns when the checkpoint's row is accepted (None), or why it is not wanted.

        The pending call is the publisher's credit and keeps the reference alive. `references` holds the one object
        reference in a list, so that Ray hands over the reference and not its bytes. `expected` are the publisher's
        own losses (`--verify-every`); `stall_s` what publishing has made it wait in this attempt.
        """
        attempt = self.attempts.get(header.attempt)
        if attempt is None:
            return f"attempt {header.attempt} is over"
        attempt.heard_s = came_s = time.monotonic()
        attempt.newest_step = max(attempt.newest_step, header.step)
        attempt.stall_s = max(attempt.stall_s, stall_s)  # of the rank that waited longest: the others waited for it
        self._add_records(attempt, records)
        if header.step in self.experiment.validation_steps:  # in the background: it holds the reference, but no credit
            validated = self._task(attempt, self._validate(attempt, references[0], header))
            self._task(attempt, self._outcome(attempt, validated)).add_done_callback(self._background_ended)
        if header.step not in self.planned:  # published for validation only
            return None
        self.published += 1
        attempt.in_flight[header.step] = header.num_bytes
        try:
            scored = self._task(attempt, self._score(attempt, references[0], header, expected, came_s))
            return await self._outcome(attempt, scored)
        finally:
            attempt.in_flight.pop(header.step, None)
            attempt.heard_s = time.monotonic()

    async def hear(self, attempt_id: str, step: int, records: list[dict]) -> None:
        """A sign of life between checkpoints that lie far apart, with the values of the steps since the last."""
        if attempt := self.attempts.get(attempt_id):
            attempt.heard_s = time.monotonic()
            attempt.newest_step = max(attempt.newest_step, step)
            self._add_records(attempt, records)

    async def finish(self, attempt_id: str, records: list[dict], stall_s: float, library: Library = None) -> str | None:
        """Every checkpoint is published and accepted: commits the seed. None, or why it was not.

        `library`: the FlashAttention-3 that the group has loaded, kept with the seed's records.
        """
        attempt = self.attempts.get(attempt_id)
        if attempt is None:
            return f"attempt {attempt_id} is over"
        attempt.stall_s = max(attempt.stall_s, stall_s)
        self._add_records(attempt, records)
        give_up_s = time.monotonic() + TAIL_PATIENCE_S
        while attempt.tasks and time.monotonic() < give_up_s:
            await asyncio.wait(attempt.tasks, timeout=give_up_s - time.monotonic())
        if attempt.tasks:
            waiting = f"{len(attempt.tasks)} pieces of work, {self.pool.ready()} evaluators ready"
            self._end(attempt, f"its validation losses did not come within {TAIL_PATIENCE_S} s ({waiting})")
        if attempt.id not in self.attempts:
            return f"attempt {attempt_id} is over"
        attempt.rows.trained_with, attempt.rows.scored_with = library, list(self.pool.libraries)
        return await self._outcome(attempt, self._task(attempt, self._commit(attempt)))

    async def fail(self, attempt_id: str, error: str) -> None:
        """The attempt ended in an error that its group survives (SeedFailed), or is about to die of."""
        if attempt := self.attempts.get(attempt_id):
            self._end(attempt, error)

    # ---- the driver ----

    async def progress(self, events_from: int) -> Progress:
        """Counts and the events from number `events_from` on."""
        running = list(self.attempts.values())
        in_flight = [size for attempt in running for size in attempt.in_flight.values()]
        lags = [attempt.newest_step - min(attempt.in_flight) for attempt in running if attempt.in_flight]
        return Progress(
            committed=len(self.committed),
            failed=dict(self.failed),
            pending=len(self.pending),
            training=[Running(seed=a.seed, attempt=a.id, group=a.group, step=a.newest_step) for a in running],
            train_loss={a.group: loss for a in running if (loss := a.rows.train_loss()) is not None},
            updates=self.updates,
            tokens=dict(self.tokens),
            bytes_committed=self.bytes_committed,
            published=self.published,
            checkpoints=self.checkpoints,
            ages=tuple(self.ages),
            in_flight=len(in_flight),
            in_flight_bytes=sum(in_flight),
            lag_steps=max(lags, default=0),
            evaluators_ready=self.pool.ready(),
            evaluators_lost=self.pool.replaced,
            evaluator_busy_s=self.pool.busy_s(),
            attempts_lost=self.attempts_lost,
            stall_s=self.stall_s + sum(attempt.stall_s for attempt in running),
            groups_ended=dict(self.groups_ended),
            done=self.done(),
            events=self.events[events_from:],
        )

    def done(self) -> bool:
        """Every seed is committed or failed for good."""
        return not self.pending and not self.attempts

    # ---- inside ----

    def _add_records(self, attempt: _Attempt, records: list[dict]) -> None:
        attempt.rows.add_records(records)
        for record in records:
            if "batch_tokens" in record:  # of an update, not of a validation
                self.updates += 1
                self.tokens[record["short_window"], record["long_window"]] += record["batch_tokens"]

    async def _score(
        self,
        attempt: _Attempt,
        reference: Any,
        header: CheckpointHeader,
        expected: np.ndarray | None,
        came_s: float,
    ) -> None:
        losses = await self.pool.score(attempt.group, reference, header)
        if expected is not None and (difference := first_difference(losses, expected, self.experiment.documents)):
            raise CheckpointRejected(f"verification failed at step {header.step}, evaluator != trainer: {difference}")
        if header.step in self.experiment.kept_steps:
            data = await self.pool.fetch(reference)
            await self._write(f"weights of seed {attempt.seed}", self._keep, data, header)
        attempt.rows.add_losses(header.step, losses)
        self.checkpoints += 1
        self.ages[bisect_left(AGE_BOUNDS_S, time.monotonic() - came_s)] += 1

    async def _validate(self, attempt: _Attempt, reference: Any, header: CheckpointHeader) -> None:
        chunks = range(self.experiment.num_validation_chunks)
        calls = [asyncio.ensure_future(self.pool.validate(attempt.group, reference, header, chunk)) for chunk in chunks]
        try:
            means = await asyncio.gather(*calls)
        finally:
            for call in calls:
                call.cancel()
        attempt.rows.add_records([{"step": header.step, "val_loss": float(np.mean(means))}])

    @cached_property
    def _weights(self) -> "WeightsFormat":
        from discreteness.checkpoint.safetensors_file import WeightsFormat  # and torch, which nothing else here needs

        return WeightsFormat(self.experiment.track)

    def _keep(self, data: np.ndarray, header: CheckpointHeader) -> None:
        self.dataset.storage.write(*self._weights.file(data, header))

    async def _commit(self, attempt: _Attempt) -> None:
        if missing := sorted(self.experiment.validation_steps - attempt.rows.validated()):
            raise ValueError(f"seed {attempt.seed} has no validation loss at steps {missing}")
        attempt.committing = True
        try:
            num_bytes = await self._write(
                f"seed {attempt.seed}", attempt.rows.commit, self.dataset, attempt.seed, attempt.id
            )
        finally:
            attempt.committing = False
        self.bytes_committed += num_bytes
        self.stall_s += attempt.stall_s
        self.committed.add(attempt.seed)
        self.group_failures[attempt.group] = 0
        self.heard_s[attempt.group] = time.monotonic()  # its lease may be longer ago than silence is borne
        del self.attempts[attempt.id]
        self._notify()
        checkpoints = f"{len(attempt.rows.losses)} checkpoints (attempt {attempt.id})"
        self._tell("seed committed", attempt, f"seed {attempt.seed} committed: {checkpoints}")

    async def _write(self, what: str, write: Callable, *arguments: Any) -> Any:
        """Writes in a thread; a full disk, or a storage that is away for a while, is waited for."""
        give_up_s = time.monotonic() + COMMIT_PATIENCE_S
        while True:
            try:
                async with self._writes:
                    return await asyncio.to_thread(write, *arguments)
            except OSError as error:
                if time.monotonic() > give_up_s:
                    raise CheckpointRejected(f"{what} could not be written: {error}") from None
                text = f"{what} cannot be written yet: {error}; trying again in {COMMIT_RETRY_S:g} s"
                self._event("write failed", text, "warning")
                await asyncio.sleep(COMMIT_RETRY_S)

    def _task(self, attempt: _Attempt, work: Coroutine) -> asyncio.Task:
        task = asyncio.ensure_future(work)
        attempt.tasks.add(task)
        task.add_done_callback(attempt.tasks.discard)
        return task

    async def _outcome(self, attempt: _Attempt, task: asyncio.Task) -> str | None:
        """Waits for a piece of an attempt's work; an error of it ends the attempt and is the answer."""
        try:
            await asyncio.shield(task)
        except (CheckpointRejected, CheckpointLost, ValueError) as error:
            self._end(attempt, str(error))
            return str(error)
        except asyncio.CancelledError:
            return f"attempt {attempt.id} is over"
        return None

    def _end(self, attempt: _Attempt, error: str) -> None:
        """The one place where an attempt is lost: its rows are forgotten and its seed goes back or is given up."""
        if attempt.committing or self.attempts.pop(attempt.id, None) is None:
            return
        for task in attempt.tasks:
            task.cancel()
        self.stall_s += attempt.stall_s
        self.heard_s[attempt.group] = time.monotonic()  # it hears of it with its next checkpoint
        self.attempts_lost += 1
        preempted = attempt.group in self.leaving  # what its machine's end brings is no failure of the seed
        self.lost[attempt.seed] += not preempted
        if self.lost[attempt.seed] >= self.max_attempts:
            self.failed[attempt.seed] = error
            self._aside(self.dataset.remove_running, attempt.seed)
            text = f"seed {attempt.seed} failed after {self.max_attempts} attempts: {error}"
            self._tell("seed failed", attempt, text, "error")
        else:
            self.pending.appendleft(attempt.seed)
            text = f"seed {attempt.seed} goes back (attempt {attempt.id}): {error}"
            self._tell("attempt lost", attempt, text, "warning")
        event = {"event": ATTEMPT_LOST, "seed": attempt.seed, "attempt": attempt.id}
        event |= {"preempted" if preempted else "error": error, "checkpoints": len(attempt.rows.losses)}
        event |= {"train_s": attempt.rows.train_s()}
        self._aside(self.dataset.log, event)
        self._notify()

    def _group_failed(self, group: str, reason: str) -> None:
        self.group_failures[group] = self.group_failures.get(group, 0) + 1
        self.last_failure[group] = f"{self.group_failures[group]} failures in a row, the last: {reason}"
        self._event("group failed", f"{group} failed: {reason}", "warning", group=group)
        for attempt in [a for a in self.attempts.values() if a.group == group]:
            self._end(attempt, f"{group}: {reason}")

    def _moved(self, group: str) -> None:
        """A preempted group has left its machine. What it had not committed there begins anew elsewhere."""
        for attempt in [a for a in self.attempts.values() if a.group == group]:
            self._end(attempt, f"{group}: its machine was taken away")
        self.leaving.discard(group)
        self.groups.discard(group)
        self.group_errors.pop(group, None)

    def _why_stop(self, group: str) -> str:
        """Why a group is to train no more seeds; empty while it may."""
        if self.group_failures.get(group, 0) >= MAX_GROUP_FAILURES:
            return self.last_failure[group]
        return self.pool.given_up

    def _background_ended(self, task: asyncio.Task) -> None:
        if not task.cancelled() and (error := task.exception()):
            text = f"{task.get_coro()} ended, which it should not: {type(error).__name__}: {error}"
            self._event("internal error", text, "error")

    async def _watch_attempts(self) -> None:
        """Ends attempts that have gone silent, and the processes of their groups."""
        while True:
            await asyncio.sleep(WATCH_S)
            now_s = time.monotonic()
            for attempt in list(self.attempts.values()):
                if now_s - attempt.heard_s > LEASE_DEADLINE_S and not attempt.tasks:
                    self._end(attempt, f"{attempt.group} sent nothing for {LEASE_DEADLINE_S} s")
                    self.heard_s[attempt.group] = attempt.heard_s
            training = {attempt.group for attempt in self.attempts.values()}
            for group in self.ends.keys() - training:
                if now_s - self.heard_s[group] > LEASE_DEADLINE_S:
                    self.group_errors[group] = f"it sent nothing for {LEASE_DEADLINE_S} s and was ended"
                    self.ends.pop(group)()

    async def _show_running(self) -> None:
        """Leaves the rows so far of seeds in training for a viewer, the less often the more there are of them."""
        took_s = 0.0
        while True:
            await asyncio.sleep(max(WATCH_S, took_s / RUNNING_SHARE))
            took_s = 0.0
            for attempt in list(self.attempts.values()):
                if attempt.rows.losses and not attempt.committing and attempt.id in self.attempts:
                    began_s = time.monotonic()
                    await asyncio.to_thread(attempt.rows.show, self.dataset, attempt.seed, attempt.id)
                    took_s += time.monotonic() - began_s
                    if attempt.seed in self.committed or attempt.seed in self.failed:
                        # Meanwhile, which removed what came too early.
                        await asyncio.to_thread(self.dataset.remove_running, attempt.seed)

    def _aside(self, write: Callable, *arguments: Any) -> None:
        """In a thread, and nobody waits for it: a disk that hangs must not hold the control path."""
        asyncio.get_running_loop().run_in_executor(None, write, *arguments)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _event(self, event: str, message: str, level: Level = "info", **about: Any) -> None:
        self.events.append(Event(event=event, message=message, level=level, **about))

    def _tell(self, event: str, attempt: _Attempt, message: str, level: Level = "info") -> None:
        about = {"seed": attempt.seed, "attempt": attempt.id, "group": attempt.group, "step": attempt.newest_step}
        self._event(event, message, level, **about)
