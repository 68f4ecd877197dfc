"""The trainer: one model on the ranks of a process group, which trains seed after seed and yields its checkpoints.

- It is built once (parameters, optimizer state, compiled graphs) and then trains any number of seeds in place.
- A step is: schedules, validation, checkpoint, update.
- A seed's weights do not depend on the seeds trained before it; on a GPU, as `Execution.deterministic` says.
"""

import math
from collections.abc import Callable, Collection, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from speedrun.data.batches import BatchStream, shorter_passes
from speedrun.data.sampler import SamplingError, TrainingBatches
from speedrun.data.shards import find_shards
from speedrun.data.vocabulary import vocabulary_of
from speedrun.execution import Execution
from speedrun.meter import Meter
from speedrun.model.gpt import GPT, Stage
from speedrun.model.initial_weights import draw_weights
from speedrun.optim.optimizers import SpeedrunOptimizer
from speedrun.schedules import (
    NUM_TARGETS,
    ForwardState,
    StepSettings,
    forward_state,
    step_settings,
    validation_state,
    validation_steps,
)
from speedrun.tracks import Track
from speedrun.validation import Validator
from speedrun.vary import Vary, shuffles, weights_seed

Ends = Literal["attempt", "seed", "job"]


class SeedFailed(Exception):
    """This seed cannot go on, every rank knows it at the same step, and the trainer is ready for the next seed.

    `ends`: what it is the end of. "attempt": this try; "seed": every try of this seed would meet it; "job": every seed
    would.
    """

    def __init__(self, reason: str, ends: Ends = "attempt"):
        super().__init__(reason)
        self.ends = ends


@dataclass(frozen=True)
class Checkpoint:
    """What there is after `step` updates; the weights are the model's own, until the generator is advanced."""

    step: int
    state: ForwardState
    records: list[dict]
    """One plain dict for each update (train_loss, lr_multiplier, step_ms, ...), and one with `val_loss` for each
    validation, since the last checkpoint; on a GPU up to the last one, and at the last step all, so that nothing waits.
    Losses and settings are equal on every rank, times are this rank's."""


class Trainer:
    """Trains seeds of one track on this rank of `process_group` (None: the only rank).

    `vary`: what a seed changes. Where it is the data, seeds read the documents of all shards in orders of their own.
    `epochs`: passes over the shards that a seed may take.
    Raises ValueError if the world size does not divide the track's slots, and ShardError if the shards are missing or
    bad, both before any training. On a GPU it compiles here, so that no later step has to.
    """

    def __init__(
        self,
        track: Track,
        data_root: str | Path,
        device: str | torch.device = "cpu",
        process_group: dist.ProcessGroup | None = None,
        execution: Execution | None = None,
        vary: Vary = "init",
        epochs: int = 1,
    ):
        self.track, self.vary = track, vary
        self.device = torch.device(device)
        self.process_group = process_group
        self.rank = dist.get_rank(process_group) if process_group else 0
        self.world_size = dist.get_world_size(process_group) if process_group else 1
        slots = track.data.num_slots
        if slots % self.world_size:
            raise ValueError(
                f"{self.world_size} workers cannot share the {slots} slots of track {track.name}: "
                f"use {', '.join(str(n) for n in range(1, slots + 1) if slots % n == 0)}"
            )
        self.slots_here = slots // self.world_size
        self.execution = (execution or Execution()).resolved(track, self.device)
        self.execution.check(self.device)
        self.batches = BatchStream(
            TrainingBatches(
                find_shards(data_root, track.data.train_glob),
                self.rank,
                self.world_size,
                slots,
                track.data.max_document_tokens,
                shuffles(vary),
                epochs,
            ),
            vocabulary_of(track),
            track.schedule,
            self.device,
            self.execution.micro_batch_tokens,
        )
        self.model = GPT(track.model, getattr(torch, track.dtype), self.device, self.execution)
        self.optimizer = SpeedrunOptimizer(self.model, track.optimizer, process_group, self.execution)
        self.validator = Validator(self.model, track, data_root)
        self._loss: Callable[..., Tensor] = self.model
        self._stage: tuple[ForwardState, Stage] | None = None
        self._drawing = ThreadPoolExecutor(1, thread_name_prefix="initial-weights")
        self._drawn: tuple[int, Future[dict[str, Tensor]]] | None = None
        if self.execution.compiled:
            self._loss = self.execution.compile(self.model)
        if self.device.type == "cuda":
            self._warm_up()

    def prepare(self, seed: int) -> None:
        """Begin to draw the weights, and to shuffle the documents, of the seed that is probably trained next. If
        another one comes, only the time is lost."""
        self.batches.prepare(seed)
        drawn_with = weights_seed(self.vary, seed)
        if self._drawn is None or self._drawn[0] != drawn_with:
            pin = self.device.type == "cuda"
            future = self._drawing.submit(draw_weights, self.track.model, self.model.dtype, drawn_with, pin)
            self._drawn = drawn_with, future

    def train(self, seed: int, plan: Collection[int], validate: bool = False) -> Generator[Checkpoint]:
        """Yields a Checkpoint at each step of `plan` (0 = before the first update, `last_step` = after the last).

        Raises SeedFailed on every rank together if the loss is not finite, on a GPU one checkpoint late, and if the
        documents run out, which other seeds meet as well unless their orders differ; ShardError if a shard that comes
        to be needed is missing or bad. What follows the last step of `plan` is neither recorded
        nor checked: let it be `last_step`. Closing the generator on every rank at the same checkpoint leaves the
        trainer ready for the next seed.
        """
        schedule = self.track.schedule
        planned = frozenset(plan)
        if not planned <= set(range(schedule.last_step + 1)):
            outside = sorted(planned - set(range(schedule.last_step + 1)))
            raise ValueError(f"planned steps {outside[:5]} lie outside 0..{schedule.last_step}")
        self.prepare(seed)
        assert self._drawn is not None
        (_, drawn), self._drawn = self._drawn, None
        self.model.set_weights(drawn.result())
        self.optimizer.reset()
        self.batches.start(seed=seed)
        meter = Meter(self.device, self.process_group)
        validated = validation_steps(self.track) if validate else ()
        with closing(self.batches):  # its thread would stay where the seed fails, or the consumer stops
            for step in range(schedule.last_step + 1):
                last = step == schedule.last_step
                state = forward_state(self.track, step)
                if step in validated:
                    meter.pause()
                    loss = self.validation_loss(validation_state(self.track, step, state))
                    meter.note({"step": step, "val_loss": loss})
                if step in planned:
                    records = meter.fetch(everything=last)
                    if failed := next((r for r in records if not math.isfinite(r.get("train_loss", 0.0))), None):
                        raise SeedFailed(
                            f"the training loss is {failed['train_loss']} in the update to step {failed['step']}"
                        )
                    yield Checkpoint(step, state, records)
                if not last:
                    settings = step_settings(schedule, step)
                    meter.begin()
                    try:
                        objective = self.update(settings, state)
                    except SamplingError as error:
                        raise SeedFailed(
                            f"in the update to step {step + 1} of {schedule.last_step} {error}",
                            ends="seed" if shuffles(self.vary) else "job",
                        ) from error
                    meter.add(settings, state, objective)

    def update(self, settings: StepSettings, state: ForwardState) -> Tensor:
        """One optimizer step with the stream's next micro-batches; this rank's objective, a sum over its tokens.

        () on the device: nothing here waits for it.
        """
        stage = self._stage_of(state)
        # SPEEDRUN section 5: divided by the slots of a rank, averaged over ranks, never by the tokens.
        weights = torch.zeros(NUM_TARGETS)
        weights[: len(settings.mtp_weights)] = torch.tensor(settings.mtp_weights) / self.slots_here
        if self.device.type == "cuda":
            weights = weights.pin_memory().to(self.device, non_blocking=True)
        loss_sum = torch.zeros((), device=self.device)
        for packed in self.batches.step(settings.step):
            if self.execution.compiled:  # the number of documents, which only attention sees, opaque to the compiler
                torch._dynamo.mark_dynamic(packed.cu_seqlens, 0)
            loss = self._loss(packed, stage, weights)
            loss.backward()
            loss_sum += loss.detach()
        self.optimizer.step(settings)
        return loss_sum * self.slots_here

    def _stage_of(self, state: ForwardState) -> Stage:
        """The tensors of the training graph's stage, made anew only where the schedule changes it."""
        if self._stage is None or self._stage[0] != state:
            positions = max(self.track.schedule.batch_tokens) // self.track.data.num_slots
            self._stage = state, self.model.stage(state, positions)
        return self._stage[1]

    def _warm_up(self) -> None:
        """Runs every shape of the schedule once, an even and an odd update at each batch size, and the scoring.

        So all that is to be compiled is compiled, and what memory a run needs is known. What this leaves in weights,
        optimizer and stream is overwritten when a seed starts.
        """
        schedule = self.track.schedule
        shapes: dict[int, int] = {}
        for step in range(0, schedule.last_step - 2, 2):
            shapes.setdefault(step_settings(schedule, step).batch_tokens, step)
        try:
            for first in shapes.values():
                self.batches.start(first)
                for step in (first, first + 1):
                    self.update(step_settings(schedule, step), forward_state(self.track, step))
            # As scored tokens come: without an order, one target each.
            packed = replace(self.batches.step(first + 2)[0], order=None)
            packed = replace(packed, targets=packed.targets[:, :1].contiguous())
            self.model.token_losses(packed, self._stage_of(forward_state(self.track, first)))
        except torch.OutOfMemoryError as error:
            given, num_slots = self.execution.micro_batch_tokens, self.track.data.num_slots
            advice = shorter_passes(schedule.batch_tokens, num_slots, self.world_size, given)
            raise ValueError(
                f"{torch.cuda.get_device_name(self.device)} has too little memory: {advice}, "
                f"or free what other processes hold of it ({error})"
            ) from None

    def validation_loss(self, state: ForwardState) -> float:
        """Mean cross-entropy in nats over the track's `val_tokens`, the chunks shared by the ranks."""
        means = torch.zeros(len(self.validator.chunks), dtype=torch.float64)
        for number in range(self.rank, len(means), self.world_size):
            means[number] = self.validator.chunk_loss(number, state)
        if self.process_group:
            means = means.to(self.device)
            dist.all_reduce(means, group=self.process_group)
        return float(means.mean())
