"""checkpoints of one attempt -> references at the dispatcher, within this rank's credits.

Rank (n mod W) publishes the n-th planned checkpoint whole: after the all-gather every rank holds everything, so this
moves the same bytes a rank as shares would, with one reference, one owner and nothing to join.
"""

import time
from collections.abc import Sequence
from typing import Any

import ray
from speedrun.training import Checkpoint, Trainer

from discreteness.checkpoint import CheckpointHeader, CheckpointLayout
from discreteness.scoring import Scorer

CREDIT_TIMEOUT_S = 300
"""How long a checkpoint may wait for a credit: above an evaluator's call (60 s), below the process group's timeout."""


class Publisher:
    """Publishes this rank's share of the planned checkpoints of one attempt."""

    def __init__(
        self,
        dispatcher: Any,
        trainer: Trainer,
        layout: CheckpointLayout,
        *,
        seed: int,
        attempt: str,
        published_steps: frozenset[int],
        max_in_flight: int,
        verifier: Scorer | None,
        verify_every: int,
    ):
        self.dispatcher = dispatcher
        self.trainer = trainer
        self.layout = layout
        self.seed = seed
        self.attempt = attempt
        self.published_steps = published_steps
        self.credits = max(1, max_in_flight // trainer.world_size)
        self.verifier = verifier
        self.verify_every = verify_every
        self.pending: dict[Any, tuple[int, Any]] = {}
        """call -> (step, reference): the reference lives here, with its owner, until its row is accepted."""
        self.rejection = ""
        self.stall_s = 0.0
        self._number = 0
        self._records: list[dict] = []

    def offer(self, checkpoint: Checkpoint) -> None:
        """Called at every checkpoint on every rank; publishes it if it is this rank's, or sends a sign of life."""
        if self.trainer.rank == 0:  # every rank has every record: one sends them
            self._records += checkpoint.records
        self._collect(timeout_s=0)
        if checkpoint.step not in self.published_steps:
            if self.trainer.rank == 0:
                self.dispatcher.hear.remote(self.attempt, checkpoint.step, self._take_records())
            return
        number, self._number = self._number, self._number + 1
        if number % self.trainer.world_size != self.trainer.rank or self.rejection:
            return
        expected = None
        if self.verifier and self.verify_every and number % self.verify_every == 0:
            expected = self.verifier.score(checkpoint.state)
        self._wait_for_credit()
        data = self.layout.pack(self.trainer.model, checkpoint.state.tied)
        header = CheckpointHeader(
            seed=self.seed,
            attempt=self.attempt,
            step=checkpoint.step,
            layout=self.layout.fingerprint,
            state=checkpoint.state,
            num_bytes=data.nbytes,
        )
        reference = ray.put(data)
        call = self.dispatcher.publish.remote(header, [reference], self._take_records(), expected)
        self.pending[call] = (checkpoint.step, reference)

    def drain(self) -> list[dict]:
        """Waits until everything published is accepted; returns the records nobody has sent yet."""
        accepted_s, left = time.monotonic(), len(self.pending)
        while self.pending:
            self._collect(timeout_s=1)
            if len(self.pending) < left:
                accepted_s, left = time.monotonic(), len(self.pending)
            if time.monotonic() - accepted_s > CREDIT_TIMEOUT_S:
                raise TimeoutError(self._late())
        return self._take_records()

    def _take_records(self) -> list[dict]:
        records, self._records = self._records, []
        return records

    def _wait_for_credit(self) -> None:
        began_s = time.monotonic()
        while len(self.pending) >= self.credits and not self.rejection:
            self._collect(timeout_s=1)
            if time.monotonic() - began_s > CREDIT_TIMEOUT_S:
                raise TimeoutError(self._late())
        self.stall_s += time.monotonic() - began_s

    def _collect(self, timeout_s: float) -> None:
        """Takes the answers that have come; one that says no stops this rank's publishing."""
        if not self.pending:
            return
        answered, _ = ray.wait(list(self.pending), num_returns=1, timeout=timeout_s)
        if answered and len(self.pending) > 1:
            answered, _ = ray.wait(list(self.pending), num_returns=len(self.pending), timeout=0)
        for call in answered:
            self.pending.pop(call)
            self.rejection = self.rejection or ray.get(call) or ""

    def _late(self) -> str:
        steps: Sequence[int] = sorted(step for step, _ in self.pending.values())
        progress = ray.get(self.dispatcher.progress.remote(0), timeout=60)
        return (
            f"seed {self.seed}: no checkpoint was accepted for {CREDIT_TIMEOUT_S} s; steps in flight {steps}, "
            f"{progress.evaluators_ready} evaluators ready, {progress.evaluators_lost} lost"
        )
