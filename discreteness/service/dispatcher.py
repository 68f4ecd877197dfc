"""The dispatcher of a job: the one asyncio actor through which everything goes.

- It alone has the ledger (who holds which seed), the pool of evaluators and the dataset's writer: there is one order of
  events, and nothing to agree on.
- The ledger decides; here is what has to be waited for: a seed, an evaluator, a disk.
- Every message of a trainer names its attempt; what comes of an attempt that is not current is dropped.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np

from discreteness.checkpoint.header import CheckpointHeader
from discreteness.checkpoint.seam import AttemptFailed, Ends
from discreteness.dataset.event_log import ATTEMPT_LOST
from discreteness.dataset.runs_file import Library
from discreteness.dataset.writer import DatasetWriter
from discreteness.scoring.comparison import first_difference
from discreteness.service.contract import check_losses
from discreteness.service.evaluator_pool import CheckpointRejected, EvaluatorPool
from discreteness.service.job import Job
from discreteness.service.ledger import Attempt, Ledger
from discreteness.service.messages import Lease, Progress
from discreteness.service.timeouts import COMMIT_PATIENCE_S, LEASE_DEADLINE_S, LEASE_POLL_S, TAIL_PATIENCE_S

COMMIT_RETRY_S = 5.0
WRITES_AT_ONCE = 4
"""Trainers end their seeds together. Each commit copies its rows a few times and contends for the interpreter lock."""
WATCH_S = LEASE_DEADLINE_S / 30
RUNNING_SHARE = 0.1
"""Most of a core that rows of running seeds may take: at every step a seed's rows cost half a second to write."""


class Dispatcher:
    """Leases seeds to trainers and turns what they publish into committed seeds."""

    def __init__(self, job: Job, dataset: DatasetWriter, pool: EvaluatorPool):
        self.experiment, self.pair = job.experiment, job.pair
        self.planned, self.num_losses = frozenset(job.experiment.plan), job.experiment.num_losses
        self.dataset = dataset
        self.pool = pool
        self.ledger = Ledger(
            job.seeds,
            job.run.max_attempts,
            given_up=lambda: pool.given_up,
            on_lost=self._lost,
            update_flop=job.pair.update_flop,
            names=job.experiment.names,
        )
        self.pool.on_event = self.ledger.events.append
        self._changed = asyncio.Event()
        self._writes = asyncio.Semaphore(WRITES_AT_ONCE)
        self._background: list[asyncio.Task] = []

    # ---- trainers ----

    async def enter(self, name: str, node_id: str, end: Callable[[], None] | None = None) -> int:
        """A trainer has (again) its place and processes. The number of this start, with which they sign; 0: leave.

        `end` ends its processes, should they fall silent; Ray Train then starts others, which enter again.
        """
        if not self._background:  # here, where the event loop runs
            self._background = [asyncio.ensure_future(work) for work in (self._watch_attempts(), self._show_running())]
            for task in self._background:
                task.add_done_callback(self._background_ended)
        trainer = self.ledger.enter(name, end)
        self.pool.place_beside(name, node_id)
        return 0 if self.ledger.why_stop(trainer) else trainer.starts

    async def prepare(self, name: str, start: int, what: str) -> None:
        """What a trainer does before its first lease, as a phrase after "is"."""
        self.ledger.prepare(name, start, what)

    async def trouble(self, name: str, start: int, error: str, permanent: bool = False) -> None:
        """A trainer is about to end by this error. `permanent`: so would it if it were started again."""
        self.ledger.trouble(name, start, error, permanent)

    async def preempted(self, name: str) -> None:
        """A trainer's machine is about to be taken away: it goes on with its seed and takes no other one there."""
        self.ledger.announce_departure(name)

    async def leave(self, name: str, reason: str) -> bool:
        """A trainer's fit() has ended, with an error in `reason` or in order. True: start it again."""
        return self.ledger.leave(name, reason)

    async def lease(self, name: str) -> Lease:
        """The next seed for a trainer, or "wait" while others may still give one back, or "stop"."""
        trainer = self.ledger.trainer(name)
        trainer.heard_s = time.monotonic()
        start, answer = trainer.starts, self.ledger.lease(trainer)
        if answer.order != "wait":
            return answer
        try:
            await asyncio.wait_for(self._changed.wait(), LEASE_POLL_S)
        except TimeoutError:
            return answer
        # The asker may have died while it waited, and its trainer be back.
        return self.ledger.lease(trainer) if start == trainer.starts else Lease(order="stop")

    # ---- what a trainer sends of its attempt ----

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
        attempt = self.ledger.attempts.get(header.attempt)
        if attempt is None:
            return f"attempt {header.attempt} is over"
        attempt.heard(header.step)
        attempt.stalled(stall_s)
        self.ledger.add_records(attempt, records)
        if header.step in self.experiment.validation_steps:  # in the background: it holds the reference, but no credit
            validated = self._task(attempt, self._validate(attempt, references[0], header))
            self._task(attempt, self._outcome(attempt, validated)).add_done_callback(self._background_ended)
        if header.step not in self.planned:  # published for validation only
            return None
        self.ledger.counts.published += 1
        attempt.in_flight[header.step] = header.num_bytes
        try:
            scored = self._task(attempt, self._score(attempt, references[0], header, expected))
            return await self._outcome(attempt, scored)
        finally:
            attempt.in_flight.pop(header.step, None)
            attempt.heard()

    async def hear(self, attempt_id: str, step: int, records: list[dict]) -> None:
        """A sign of life between checkpoints that lie far apart, with the values of the steps since the last."""
        if attempt := self.ledger.attempts.get(attempt_id):
            attempt.heard(step)
            self.ledger.add_records(attempt, records)

    async def finish(self, attempt_id: str, records: list[dict], stall_s: float, library: Library = None) -> str | None:
        """Every checkpoint is published and accepted: commits the seed. None, or why it was not.

        `library`: the FlashAttention-3 that the trainer has loaded, kept with the seed's records.
        """
        attempt = self.ledger.attempts.get(attempt_id)
        if attempt is None:
            return f"attempt {attempt_id} is over"
        attempt.stalled(stall_s)
        self.ledger.add_records(attempt, records)
        give_up_s = time.monotonic() + TAIL_PATIENCE_S
        while attempt.work and time.monotonic() < give_up_s:
            await asyncio.wait(attempt.work, timeout=give_up_s - time.monotonic())
        if attempt.work:
            waiting = f"{len(attempt.work)} pieces of work, {self.pool.ready()} evaluators ready"
            text = f"its validation losses did not come within {TAIL_PATIENCE_S} s ({waiting})"
            self.ledger.lose(attempt, text)
        if attempt.id not in self.ledger.attempts:
            return f"attempt {attempt_id} is over"
        attempt.rows.trained_with, attempt.rows.scored_with = library, list(self.pool.libraries)
        return await self._outcome(attempt, self._task(attempt, self._commit(attempt)))

    async def fail(self, attempt_id: str, error: str, ends: Ends = "attempt") -> None:
        """The attempt ended in an error that its trainer survives (AttemptFailed), or is about to die of. `ends`: what
        the error is the end of."""
        if attempt := self.ledger.attempts.get(attempt_id):
            self._lose(attempt, error, ends)

    # ---- the driver ----

    async def progress(self, events_from: int) -> Progress:
        """Counts and the events from number `events_from` on."""
        ledger = self.ledger
        attempts = list(ledger.attempts.values())
        in_flight = [num_bytes for attempt in attempts for num_bytes in attempt.in_flight.values()]
        lags = [attempt.newest_step - min(attempt.in_flight) for attempt in attempts if attempt.in_flight]
        return Progress(
            committed=len(ledger.committed),
            failed=dict(ledger.failed),
            waiting=len(ledger.waiting),
            training=ledger.running(),
            preparing=ledger.preparing(),
            placed=sum(trainer.inside and trainer.ended is None for trainer in ledger.trainers.values()),
            counts=ledger.counted(),
            in_flight=len(in_flight),
            in_flight_bytes=sum(in_flight),
            lag_steps=max(lags, default=0),
            evaluators_ready=self.pool.ready(),
            evaluators_lost=self.pool.replaced,
            evaluator_busy_s=self.pool.busy_s(),
            trainers_ended={t.name: t.ended for t in ledger.trainers.values() if t.ended is not None},
            done=ledger.done(),
            events=ledger.events[events_from:],
        )

    # ---- what is done for an attempt ----

    async def _score(
        self, attempt: Attempt, reference: Any, header: CheckpointHeader, expected: np.ndarray | None
    ) -> None:
        came_s = time.monotonic()
        losses = await self.pool.score(attempt.trainer.name, reference, header)
        check_losses(losses, header, self.num_losses)
        if expected is not None:
            if difference := first_difference(losses, expected, self.experiment.documents):
                text = f"verification failed at step {header.step}, evaluator != trainer: {difference}"
                raise CheckpointRejected(text)
            self.ledger.counts.verified += 1
        if header.step in self.experiment.kept_steps:
            data = await self.pool.fetch(reference)
            await self._write(f"weights of seed {attempt.seed}", self._keep, data, header)
        attempt.rows.add_losses(header.step, losses)
        self.ledger.scored(age_s=time.monotonic() - came_s)

    async def _validate(self, attempt: Attempt, reference: Any, header: CheckpointHeader) -> None:
        calls = [
            asyncio.ensure_future(self.pool.validate(attempt.trainer.name, reference, header, chunk))
            for chunk in range(self.experiment.num_validation_chunks)
        ]
        try:
            means = await asyncio.gather(*calls)
        finally:
            for call in calls:
                call.cancel()
        attempt.rows.add_records([{"step": header.step, "val_loss": float(np.mean(means))}])

    def _keep(self, data: np.ndarray, header: CheckpointHeader) -> None:
        self.dataset.storage.write(*self.pair.weights_file(data, header))

    async def _commit(self, attempt: Attempt) -> None:
        if missing := sorted(self.experiment.validation_steps - attempt.rows.validated()):
            raise ValueError(f"seed {attempt.seed} has no validation loss at steps {missing}")
        attempt.committing = True
        try:
            num_bytes = await self._write(
                f"seed {attempt.seed}", attempt.rows.commit, self.dataset, attempt.seed, attempt.id
            )
        finally:
            attempt.committing = False
        self.ledger.commit(attempt, num_bytes)
        self._notify()

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
                self.ledger.tell("write failed", text, "warning")
                await asyncio.sleep(COMMIT_RETRY_S)

    def _task(self, attempt: Attempt, work: Coroutine) -> asyncio.Task:
        task = asyncio.ensure_future(work)
        attempt.work.add(task)
        task.add_done_callback(attempt.work.discard)
        return task

    async def _outcome(self, attempt: Attempt, task: asyncio.Task) -> str | None:
        """Waits for a piece of an attempt's work; an error of it ends the attempt and is the answer."""
        try:
            await asyncio.shield(task)
        except (AttemptFailed, ValueError) as error:
            self._lose(attempt, str(error), error.ends if isinstance(error, AttemptFailed) else "attempt")
            return str(error)
        except asyncio.CancelledError:
            return f"attempt {attempt.id} is over"
        return None

    def _lose(self, attempt: Attempt, error: str, ends: Ends) -> None:
        self.ledger.lose(attempt, error, ends)
        if ends == "job":
            for seed in (seed for seed in self.ledger.failed if self.ledger.lost[seed]):
                self._aside(self.dataset.remove_running, seed)

    def _lost(self, attempt: Attempt, record: dict[str, Any]) -> None:
        if attempt.seed in self.ledger.failed:
            self._aside(self.dataset.remove_running, attempt.seed)
        self._aside(self.dataset.log, {"event": ATTEMPT_LOST} | record)
        self._notify()

    # ---- in the background ----

    async def _watch_attempts(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            self.ledger.end_the_silent(LEASE_DEADLINE_S)

    async def _show_running(self) -> None:
        """Leaves the rows so far of seeds in training for a viewer, the less often the more there are of them."""
        took_s = 0.0
        while True:
            await asyncio.sleep(max(WATCH_S, took_s / RUNNING_SHARE))
            took_s = 0.0
            for attempt in list(self.ledger.attempts.values()):
                if attempt.rows.losses and not attempt.committing and attempt.id in self.ledger.attempts:
                    began_s = time.monotonic()
                    await asyncio.to_thread(attempt.rows.show, self.dataset, attempt.seed, attempt.id)
                    took_s += time.monotonic() - began_s
                    if attempt.seed in self.ledger.committed or attempt.seed in self.ledger.failed:
                        # Meanwhile, which removed what came too early.
                        await asyncio.to_thread(self.dataset.remove_running, attempt.seed)

    def _background_ended(self, task: asyncio.Task) -> None:
        if not task.cancelled() and (error := task.exception()):
            text = f"{task.get_coro()} ended, which it should not: {type(error).__name__}: {error}"
            self.ledger.tell("internal error", text, "error")

    def _aside(self, write: Callable, *arguments: Any) -> None:
        """In a thread, and nobody waits for it: a disk that hangs must not hold the control path."""
        asyncio.get_running_loop().run_in_executor(None, write, *arguments)

    def _notify(self) -> None:
        """Wakes those that wait for a seed."""
        self._changed.set()
        self._changed = asyncio.Event()
