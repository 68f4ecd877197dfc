"""The publisher: what one rank sends of an attempt, checkpoint by checkpoint, while training goes on.

- Rank (n mod W) publishes the n-th planned checkpoint whole: after the all-gather every rank holds everything, so this
  moves as many bytes per rank as shares would, with one reference, one owner and nothing to join.
- The source's thread only starts a copy, if one is needed. The bytes go into the object store, and the reference to
  the dispatcher, in the background.
- The source waits where this rank's credits are used up, or where it has no buffer free because the object store takes
  bytes more slowly than they are made. The two are metered apart.
"""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError

from discreteness.checkpoint.header import CheckpointHeader
from discreteness.checkpoint.seam import Checkpoint
from discreteness.cluster.rays_words import in_one_line
from discreteness.service.contract import check_bytes
from discreteness.service.timeouts import WAIT_TIMEOUT_S


class Publisher:
    """Publishes this rank's share of the planned checkpoints of one attempt; used by the training thread alone."""

    def __init__(
        self,
        dispatcher: Any,
        *,
        rank: int,
        world_size: int,
        seed: int,
        attempt: str,
        published_steps: frozenset[int],
        max_in_flight: int,
        verify_every: int,
        wait_timeout_s: float = WAIT_TIMEOUT_S,
    ):
        self.dispatcher = dispatcher
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.attempt = attempt
        self.published_steps = published_steps
        self.credits = max(1, max_in_flight // world_size)
        self.verify_every = verify_every
        self.wait_timeout_s = wait_timeout_s
        self.leaving: deque[tuple[int, Future[tuple[Any, Any]]]] = deque()
        """(step, (call, reference) to be): on their way into the object store, oldest first."""
        self.pending: dict[Any, tuple[int, Any]] = {}
        """call -> (step, reference): the reference lives here, with its owner, until its row is accepted."""
        self.rejection = ""
        self.credit_stall_s = 0.0
        self.staging_stall_s = 0.0
        self._number = 0
        self._records: list[dict] = []

    @property
    def stall_s(self) -> float:
        """What publishing has made the training thread wait, of both causes."""
        return self.credit_stall_s + self.staging_stall_s

    def offer(self, checkpoint: Checkpoint) -> None:
        """Called at every checkpoint on every rank; publishes it if it is this rank's, or sends a sign of life.

        Raises what went wrong in the background since the last call.
        """
        if self.rank == 0:  # every rank has every record: one sends them
            self._records += checkpoint.records
        self._collect(timeout_s=0)
        if checkpoint.step not in self.published_steps:
            if self.rank == 0:
                self.dispatcher.hear.remote(self.attempt, checkpoint.step, self._take_records())
            return
        number, self._number = self._number, self._number + 1
        if number % self.world_size != self.rank:
            return
        self.credit_stall_s += self._wait_until(partial(self._below, self.credits))
        if self.rejection:  # perhaps just now, as the answer that gave the credit back
            return
        expected = None
        if self.verify_every and number % self.verify_every == 0:
            expected = checkpoint.score()
        self.staging_stall_s += self._wait_until(partial(checkpoint.ready, timeout_s=1))
        header = CheckpointHeader(
            seed=self.seed,
            attempt=self.attempt,
            step=checkpoint.step,
            layout=checkpoint.layout,
            state=checkpoint.state,
            num_bytes=checkpoint.num_bytes,
        )
        sent = checkpoint.send(self._out(header, self._take_records(), expected))
        self.leaving.append((checkpoint.step, sent))

    def drain(self) -> list[dict]:
        """Waits until everything published is accepted; returns the records nobody has sent yet."""
        while left := self._in_flight():
            self._wait_until(partial(self._below, left))
        return self._take_records()

    def _out(
        self, header: CheckpointHeader, records: list[dict], expected: np.ndarray | None
    ) -> Callable[[np.ndarray], tuple[Any, Any]]:
        """What the background does with a checkpoint's bytes. `put` has copied them when it returns."""
        dispatcher, stall_s = self.dispatcher, self.stall_s

        def out(data: np.ndarray) -> tuple[Any, Any]:
            check_bytes(data, header)
            try:
                reference = ray.put(data)
            except RayError as error:  # a full store, a full disk
                raise OSError(f"step {header.step} finds no place: {in_one_line(error)}") from None
            return dispatcher.publish.remote(header, [reference], records, expected, stall_s), reference

        return out

    def _take_records(self) -> list[dict]:
        records, self._records = self._records, []
        return records

    def _in_flight(self) -> int:
        return len(self.leaving) + len(self.pending)

    def _below(self, count: int) -> bool:
        """Whether fewer than `count` are in flight, if need be after a second's waiting."""
        if self._in_flight() >= count:
            self._collect(timeout_s=1)
        return self._in_flight() < count

    def _wait_until(self, ready: Callable[[], bool]) -> float:
        """The seconds it took; `ready` waits itself, a second at most."""
        began_s = time.monotonic()
        while not ready():
            if time.monotonic() - began_s > self.wait_timeout_s:
                raise TimeoutError(self._late())
        return time.monotonic() - began_s

    def _collect(self, timeout_s: float) -> None:
        """Takes what the background has done and the answers that have come; one that says no stops this rank's
        publishing."""
        while self.leaving and self.leaving[0][1].done():
            step, sent = self.leaving.popleft()
            call, reference = sent.result()  # raises here what went wrong there
            self.pending[call] = (step, reference)
        if not self.pending:
            wait([sent for _, sent in list(self.leaving)[:1]], timeout_s)
            return
        answered, _ = ray.wait(list(self.pending), num_returns=1, timeout=timeout_s)
        if answered and len(self.pending) > 1:
            answered, _ = ray.wait(list(self.pending), num_returns=len(self.pending), timeout=0)
        for call in answered:
            self.pending.pop(call)
            self.rejection = self.rejection or ray.get(call) or ""

    def _late(self) -> str:
        steps = sorted(step for step, _ in self.pending.values())
        try:
            progress = ray.get(self.dispatcher.progress.remote(0), timeout=60)
            evaluators = f"{progress.evaluators_ready} evaluators ready, {progress.evaluators_lost} lost"
        except TimeoutError:  # Ray's is one
            evaluators = "the dispatcher does not answer"
        return (
            f"seed {self.seed}: no checkpoint was accepted for {self.wait_timeout_s} s; steps in flight {steps}, "
            f"not yet in the object store {[step for step, _ in self.leaving]}, {evaluators}"
        )
