"""track + seed + planned steps -> a checkpoint at each of them, on every rank.

One `Trainer` is built once (parameters, optimizer state, compiled graphs) and then trains any number of seeds one
after another in place; a step is: schedules, validation, checkpoint, update.
"""

import math
import time
from collections.abc import Collection, Generator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from speedrun.data import TrainingBatches, find_shards
from speedrun.model import GPT
from speedrun.optimizers import SpeedrunOptimizer
from speedrun.schedules import (
    ForwardState,
    StepSettings,
    final_validation_state,
    forward_state,
    step_settings,
)
from speedrun.tracks import Track
from speedrun.validation import Validator, pack_stream, vocabulary_of


class SeedFailed(Exception):
    """This seed cannot go on, every rank knows it at the same step, and the trainer is ready for the next seed."""


@dataclass(frozen=True)
class Checkpoint:
    """What the forward pass uses after `step` updates. Views: valid until the generator is advanced."""

    step: int
    params: dict[str, Tensor]
    state: ForwardState
    records: list[dict]
    """One plain dict for each update since the last checkpoint (train_loss, lr_multiplier, step_ms, ...), and one
    with `val_loss` for each validation; equal on every rank."""


class Trainer:
    """Trains seeds of one track on this rank of `group` (None: the only rank).

    Raises ValueError where the world size does not divide the track's slots, ShardError where the shards are missing
    or bad: both before any training.
    """

    def __init__(
        self,
        track: Track,
        data_root: str | Path,
        device: str | torch.device = "cpu",
        group: dist.ProcessGroup | None = None,
    ):
        self.track = track
        self.device = torch.device(device)
        self.group = group
        self.rank = dist.get_rank(group) if group else 0
        self.world_size = dist.get_world_size(group) if group else 1
        slots = track.data.num_slots
        if slots % self.world_size:
            raise ValueError(
                f"{self.world_size} workers cannot share the {slots} slots of track {track.name}: "
                f"use {', '.join(str(n) for n in range(1, slots + 1) if slots % n == 0)}"
            )
        self.micro_batches = slots // self.world_size
        self.batches = TrainingBatches(
            find_shards(data_root, track.data.train_glob),
            self.rank,
            self.world_size,
            slots,
            track.data.max_document_tokens,
        )
        self.vocabulary = vocabulary_of(track)
        self.model = GPT(track.model, getattr(torch, track.dtype), self.device)
        self.optimizer = SpeedrunOptimizer(self.model, track.optimizer, group)
        self.validator = Validator(self.model, track, data_root)

    def train(self, seed: int, plan: Collection[int], validate: bool = False) -> Generator[Checkpoint]:
        """Yields a Checkpoint at each step of `plan` (0 = before the first update, `last_step` = after the last).

        Raises SeedFailed on every rank together where the loss is not finite. Closing the generator on every rank at
        the same checkpoint leaves the trainer ready for the next seed.
        """
        schedule = self.track.schedule
        planned = frozenset(plan)
        if not planned <= set(range(schedule.last_step + 1)):
            outside = sorted(planned - set(range(schedule.last_step + 1)))
            raise ValueError(f"planned steps {outside[:5]} lie outside 0..{schedule.last_step}")
        self.model.init_weights(seed)
        self.optimizer.reset()
        self.batches.rewind()
        meter = _Meter(self)
        for step in range(schedule.last_step + 1):
            last = step == schedule.last_step
            state = forward_state(self.track, step)
            if validate and (step % self.track.validate_every == 0 or last):
                meter.pause()
                val_state = final_validation_state(self.track) if last else state
                meter.note({"step": step, "val_loss": self.validation_loss(val_state)})
                meter.resume()
            if step in planned:
                records = meter.fetch()
                yield Checkpoint(step, dict(self.model.named_parameters()), state, records)
                meter.resume()
            if not last:
                settings = step_settings(schedule, step)
                meter.add(settings, state, self._update(settings, state))

    def _update(self, settings: StepSettings, state: ForwardState) -> Tensor:
        """One optimizer step; returns the summed training objective of this rank's tokens, on the device."""
        loss_sum = torch.zeros((), device=self.device)
        for _ in range(self.micro_batches):
            packed = pack_stream(*self.batches.next(settings.batch_tokens), self.vocabulary, self.device)
            tables = self.model.rotary_tables(state, len(packed.ids))
            loss = self.model(packed, tables, state, settings.mtp_weights)
            # SPEEDRUN section 5: divided by the micro-batches, averaged over ranks, never by the tokens.
            (loss / self.micro_batches).backward()
            loss_sum += loss.detach().float()
        self.optimizer.step(settings)
        return loss_sum

    def validation_loss(self, state: ForwardState) -> float:
        """Mean cross-entropy in nats over the track's `val_tokens`, the chunks shared by the ranks."""
        means = torch.zeros(len(self.validator.chunks), dtype=torch.float64)
        for number in range(self.rank, len(means), self.world_size):
            means[number] = self.validator.chunk_loss(number, state)
        if self.group:
            means = means.to(self.device)
            dist.all_reduce(means, group=self.group)
        return float(means.mean())


class _Meter:
    """losses on the device + a clock -> records, fetched only at checkpoints, equal on every rank.

    The clock runs from the first update and stands still while the consumer holds a checkpoint and during
    validation. A step's `step_ms` is the mean over the updates since the last fetch: without a synchronisation in
    each step nothing finer is known.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.pending: list[tuple[StepSettings, ForwardState, Tensor]] = []
        self.notes: list[dict] = []
        self.train_s = 0.0
        self.interval_s = 0.0
        self.since: float | None = time.perf_counter()

    def add(self, settings: StepSettings, state: ForwardState, loss_sum: Tensor) -> None:
        self.pending.append((settings, state, loss_sum))

    def note(self, record: dict) -> None:
        self.notes.append({**record, "train_s": self.train_s + self.interval_s})

    def pause(self) -> None:
        if self.trainer.device.type == "cuda":
            torch.cuda.synchronize(self.trainer.device)
        if self.since is not None:
            self.interval_s += time.perf_counter() - self.since
            self.since = None

    def resume(self) -> None:
        self.since = time.perf_counter()

    def fetch(self) -> list[dict]:
        trainer = self.trainer
        pending, self.pending = self.pending, []
        losses = torch.zeros(0)
        if pending:
            losses = torch.stack([loss for _, _, loss in pending]).double()
            if trainer.group:
                dist.all_reduce(losses, group=trainer.group)
            losses = losses.cpu()
        self.pause()
        records = self.notes
        for number, ((settings, state, _), loss_sum) in enumerate(zip(pending, losses.tolist(), strict=True)):
            done = (number + 1) / len(pending)
            records.append(
                {
                    "step": settings.step + 1,
                    "train_loss": loss_sum / settings.batch_tokens,
                    "lr_multiplier": settings.lr_multiplier,
                    "momentum": settings.momentum,
                    "batch_tokens": settings.batch_tokens,
                    "short_window": state.short_window,
                    "long_window": state.long_window,
                    "step_ms": 1000 * self.interval_s / len(pending),
                    "train_s": self.train_s + self.interval_s * done,
                }
            )
            if not math.isfinite(loss_sum):
                raise SeedFailed(f"the training loss is {loss_sum} in the update to step {settings.step + 1}")
        self.notes = []
        self.train_s += self.interval_s
        self.interval_s = 0.0
        return records
