"""The speedrun's source: a trainer that stays warm from seed to seed, and the buffers by which its weights leave."""

from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from speedrun import training
from speedrun.data.shards import ShardError
from speedrun.data.tiny_corpus import ensure_tiny_corpus
from speedrun.execution import one_thread_on_a_cpu
from speedrun.kernels.flash_attention import loaded_library
from speedrun.training import SeedFailed, Trainer

from discreteness.checkpoint.layout import CheckpointLayout
from discreteness.checkpoint.seam import AttemptFailed, Checkpoint, JobImpossible, MachineUnfit, SeedImpossible
from discreteness.checkpoint.staging import Staging
from discreteness.dataset.runs_file import Library
from discreteness.experiment.prepare import Experiment, check_shards
from discreteness.scoring.scorer import Scorer

HEARTBEAT_STEPS = 50
"""Steps between two signs of life at most, where checkpoints lie further apart."""
FAILURES = {"attempt": AttemptFailed, "seed": SeedImpossible, "job": JobImpossible}
"""Which error of ours is a SeedFailed of the trainer, by what it ends."""

Used = TypeVar("Used")


def build_trainer(
    experiment: Experiment, device: str | torch.device, process_group: dist.ProcessGroup | None
) -> Trainer:
    """The trainer of an experiment, on this rank; errors as those of `Trainer`."""
    return Trainer(
        experiment.track,
        experiment.data_root,
        device,
        process_group,
        experiment.execution,
        experiment.vary,
        experiment.epochs,
    )


class SpeedrunSource:
    """A source of checkpoint/seam.py. ValueError: this machine's shards are not the experiment's, or are too few."""

    def __init__(
        self,
        experiment: Experiment,
        device: str | torch.device,
        process_group: dist.ProcessGroup | None,
        tell: Callable[[str], None],
    ):
        self.experiment = experiment
        one_thread_on_a_cpu(device)
        tell("checking its shards")
        data = experiment.track.data
        if data.made_on_first_use:
            ensure_tiny_corpus(experiment.data_root)
        check_shards(experiment, data.train_glob, data.val_glob)
        tell("compiling its model" if experiment.execution.compiled else "building its model")
        self.trainer = build_trainer(experiment, device, process_group)
        self.staging = Staging(self.trainer.model, CheckpointLayout.from_model(self.trainer.model))

    @property
    def library(self) -> Library:
        return loaded_library()

    @cached_property
    def scorer(self) -> Scorer:
        """Scores with the weights in training."""
        return Scorer.for_experiment(self.experiment, self.trainer.model)

    def prepare(self, seed: int) -> None:
        self.trainer.prepare(seed)

    def checkpoints(self, seed: int, steps: frozenset[int]) -> Generator[Checkpoint]:
        heartbeats = range(0, self.experiment.track.schedule.last_step, HEARTBEAT_STEPS)
        with closing(self.trainer.train(seed, steps | set(heartbeats))) as checkpoints:
            try:
                for one in checkpoints:
                    yield Staged.of(one, self)
            except SeedFailed as failure:
                raise FAILURES[failure.ends](str(failure)) from failure
            except ShardError as error:  # this machine's shards are bad; another's may not be
                raise MachineUnfit(f"{type(error).__name__}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Staged(Checkpoint):
    """The weights in training: they leave through a buffer, of which there may be none free."""

    source: SpeedrunSource

    @classmethod
    def of(cls, one: training.Checkpoint, source: SpeedrunSource) -> "Staged":
        layout = source.staging.layout.fingerprint
        return cls(step=one.step, layout=layout, state=one.state, records=one.records, source=source)

    @property
    def num_bytes(self) -> int:
        return self.source.staging.layout.num_bytes(self.state.tied)

    def ready(self, timeout_s: float) -> bool:
        return self.source.staging.ready(timeout_s)

    def send(self, use: Callable[[np.ndarray], Used]) -> Future[Used]:
        return self.source.staging.send(self.state.tied, use)

    def score(self) -> np.ndarray:
        return self.source.scorer.score(self.state)
