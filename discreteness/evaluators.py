"""checkpoint bytes -> losses: one model, loaded again and again. Plain; the pool makes it an actor."""

import os

import numpy as np
import torch
from speedrun.model import GPT
from speedrun.schedules import final_validation_state
from speedrun.validation import Validator

from discreteness.checkpoint import CheckpointHeader, CheckpointLayout
from discreteness.experiment import Experiment
from discreteness.scoring import Scorer


class Evaluator:
    """Holds one model, loads checkpoints into it and scores documents and validation chunks."""

    def __init__(self, experiment: Experiment, device: str):
        if device == "cpu":
            torch.set_num_threads(1)  # sums in one order: bitwise what the trainer itself would compute
        self.track = experiment.track
        self.model = GPT(self.track.model, getattr(torch, self.track.dtype), device, experiment.execution)
        self.layout = CheckpointLayout.of(self.model)
        self.scorer = Scorer.of(experiment, self.model)
        self.validator = None
        if experiment.val_tokens:
            self.validator = Validator(self.model, self.track, experiment.data_root, experiment.val_tokens)

    def ready(self) -> int:
        """The process id, once the model is built."""
        return os.getpid()

    def score(self, data: np.ndarray, header: CheckpointHeader) -> np.ndarray:
        """uint8 checkpoint bytes -> float32 losses of all documents, one after another."""
        self.layout.load(data, header, self.model)
        return self.scorer.score(header.state)

    def validate(self, data: np.ndarray, header: CheckpointHeader, chunk: int) -> float:
        """uint8 checkpoint bytes -> mean loss of one validation chunk; the last step's has the final window."""
        assert self.validator is not None, "validation was switched off when this evaluator was made"
        self.layout.load(data, header, self.model)
        last = header.step == self.track.schedule.last_step
        return self.validator.chunk_loss(chunk, final_validation_state(self.track) if last else header.state)
