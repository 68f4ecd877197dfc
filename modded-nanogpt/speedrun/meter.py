"""The meter: losses and times of the updates, equal losses on every rank, without a wait in a step.

- On a GPU the marks are events, and the values of a fetch are copied behind the kernels that make them, to be read at
  the next fetch: a checkpoint never empties the device's queue. On a CPU everything is there at once.
- Only updates count as training time; validation and the consumer's work at a checkpoint do not.
"""

import time
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from speedrun.schedules import ForwardState, StepSettings

Mark = torch.cuda.Event | float


@dataclass(frozen=True)
class _Update:
    settings: StepSettings
    state: ForwardState
    began: Mark
    ended: Mark


@dataclass(frozen=True)
class _Batch:
    """Updates whose losses are on their way to the host."""

    updates: list[_Update]
    losses: Tensor
    notes: list[tuple[int, dict]]
    """After how many of the updates, and what."""
    arrived: Mark


class Meter:
    """Times updates from end to end, except where `pause` or `fetch` lies between: validation and the consumer's
    work at a checkpoint are not training."""

    def __init__(self, device: torch.device, process_group: dist.ProcessGroup | None):
        self.device, self.process_group = device, process_group
        self.train_s = 0.0
        self._begun: Mark | None = None
        self._updates: list[_Update] = []
        self._losses: list[Tensor] = []
        self._notes: list[tuple[int, dict]] = []
        self._under_way: list[_Batch] = []

    def begin(self) -> None:
        """An update starts; it needs its own mark only if the last update's end is not its beginning."""
        if self._begun is None:
            self._begun = self._mark()

    def add(self, settings: StepSettings, state: ForwardState, loss_sum: Tensor) -> None:
        """An update has been queued; loss_sum: () on the device, over this rank's tokens."""
        assert self._begun is not None
        ended = self._mark()
        self._updates.append(_Update(settings, state, self._begun, ended))
        self._losses.append(loss_sum)
        self._begun = ended

    def note(self, record: dict) -> None:
        """A record of another kind; gets the training time at which it was made."""
        self._notes.append((len(self._updates), record))

    def pause(self) -> None:
        """What the device does from here to the next `begin` is not training."""
        self._begun = None

    def fetch(self, everything: bool) -> list[dict]:
        """Records of the updates up to the last fetch, or of all (a wait). Called on every rank alike."""
        self.pause()
        losses = torch.stack(self._losses).double() if self._losses else torch.zeros(0)
        if self.process_group and len(losses):
            dist.all_reduce(losses, group=self.process_group)
        if self.device.type == "cuda":
            losses = torch.empty(losses.shape, dtype=losses.dtype, pin_memory=True).copy_(losses, non_blocking=True)
        self._under_way.append(_Batch(self._updates, losses, self._notes, self._mark()))
        self._updates, self._losses, self._notes = [], [], []
        late = 0 if everything or self.device.type == "cpu" else 1
        ready = self._under_way[: len(self._under_way) - late]
        self._under_way = self._under_way[len(ready) :]
        return [record for batch in ready for record in self._records(batch)]

    def _records(self, batch: _Batch) -> list[dict]:
        if isinstance(batch.arrived, torch.cuda.Event):
            batch.arrived.synchronize()
        records, times_s = [], [self.train_s]
        for update, loss_sum in zip(batch.updates, batch.losses.tolist(), strict=True):
            settings, state = update.settings, update.state
            step_s = _seconds(update.began, update.ended)
            self.train_s += step_s
            times_s.append(self.train_s)
            records.append(
                {
                    "step": settings.step + 1,
                    "train_loss": loss_sum / settings.batch_tokens,
                    "lr_multiplier": settings.lr_multiplier,
                    "momentum": settings.momentum,
                    "batch_tokens": settings.batch_tokens,
                    "short_window": state.short_window,
                    "long_window": state.long_window,
                    "step_ms": 1000 * step_s,
                    "train_s": self.train_s,
                }
            )
        return records + [{**note, "train_s": times_s[done]} for done, note in batch.notes]

    def _mark(self) -> Mark:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event


def _seconds(began: Mark, ended: Mark) -> float:
    if isinstance(began, torch.cuda.Event) and isinstance(ended, torch.cuda.Event):
        return began.elapsed_time(ended) / 1000
    assert isinstance(began, float) and isinstance(ended, float)
    return ended - began
