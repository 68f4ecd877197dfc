"""The speedrun's scorer: one GPT, into which a checkpoint's bytes are loaded, and the documents that it scores."""

import numpy as np
import torch
from speedrun.execution import one_thread_on_a_cpu
from speedrun.kernels.flash_attention import loaded_library
from speedrun.model.gpt import GPT
from speedrun.schedules import forward_state, validation_state
from speedrun.validation import Validator

from discreteness.checkpoint.header import CheckpointHeader
from discreteness.checkpoint.layout import CheckpointLayout
from discreteness.checkpoint.loading import Loader
from discreteness.dataset.runs_file import Library
from discreteness.experiment.prepare import Experiment, check_shards
from discreteness.scoring.scorer import Scorer


class SpeedrunScorer:
    """A scorer of checkpoint/seam.py. ValueError: this machine's validation shards are not the experiment's."""

    def __init__(self, experiment: Experiment, device: str):
        one_thread_on_a_cpu(device)
        self.track = experiment.track
        self.model = GPT(self.track.model, getattr(torch, self.track.dtype), device, experiment.execution)
        self.loader = Loader(self.model, CheckpointLayout.from_model(self.model))
        self.documents = Scorer.for_experiment(experiment, self.model, recorded=True)
        self.validator = None
        if experiment.val_tokens:
            check_shards(experiment, self.track.data.val_glob)
            self.validator = Validator(self.model, self.track, experiment.data_root, experiment.val_tokens)
        if device != "cpu":
            self.documents.score(forward_state(self.track, 0))  # compiles kernels before anybody waits for a score

    @property
    def library(self) -> Library:
        return loaded_library()

    def fetch(self, data: np.ndarray, header: CheckpointHeader) -> None:
        self.loader.fetch(data, header)

    def take(self) -> None:
        self.loader.copy_into_model()

    def score(self, header: CheckpointHeader) -> np.ndarray:
        return self.documents.score(header.state)

    def validate(self, header: CheckpointHeader, chunk: int) -> float:
        """Mean loss of one validation chunk; the last step's has the final window."""
        assert self.validator is not None, "validation was switched off when this scorer was made"
        return self.validator.chunk_loss(chunk, validation_state(self.track, header.step, header.state))
