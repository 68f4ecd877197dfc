"""An evaluator: one model, into which checkpoints are loaded one after another to be scored and validated.

- Checkpoints are scored in the order in which they came, each with its own weights; two threads may call.
- The class is plain and knows no Ray: the pool makes it an actor.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
from speedrun.schedules import forward_state, validation_state

from discreteness.checkpoint.header import CheckpointHeader
from discreteness.experiment.prepare import Experiment, check_shards


class Evaluator:
    """Holds one model, loads checkpoints into it and scores documents and validation chunks.

    Two threads may call it: while one scores, the other's checkpoint comes in. They score in the order in which they
    came, and each the weights it brought.
    """

    def __init__(self, experiment: Experiment, device: str):
        # Here, as the dispatcher imports this module to make actors of the class, and computes nothing itself.
        import torch
        from speedrun.execution import one_thread_on_a_cpu
        from speedrun.model.gpt import GPT
        from speedrun.validation import Validator

        from discreteness.checkpoint.layout import CheckpointLayout
        from discreteness.checkpoint.loading import Loader
        from discreteness.scoring.scorer import Scorer

        one_thread_on_a_cpu(device)
        self.track = experiment.track
        self.model = GPT(self.track.model, getattr(torch, self.track.dtype), device, experiment.execution)
        self.loader = Loader(self.model, CheckpointLayout.from_model(self.model))
        self.scorer = Scorer.for_experiment(experiment, self.model, recorded=True)
        self.validator = None
        if experiment.val_tokens:
            check_shards(experiment, self.track.data.val_glob)
            self.validator = Validator(self.model, self.track, experiment.data_root, experiment.val_tokens)
        self._next = threading.Lock()
        self._model = threading.Lock()
        if device != "cpu":
            self.scorer.score(forward_state(self.track, 0))  # compiles kernels before anybody waits for a score

    def ready(self) -> int:
        """The process id, once the model is built."""
        return os.getpid()

    def score(self, data: np.ndarray, header: CheckpointHeader) -> np.ndarray:
        """uint8 checkpoint bytes -> float32 losses of all documents, one after another."""
        with self._loaded(data, header):
            return self.scorer.score(header.state)

    def validate(self, data: np.ndarray, header: CheckpointHeader, chunk: int) -> float:
        """uint8 checkpoint bytes -> mean loss of one validation chunk; the last step's has the final window."""
        assert self.validator is not None, "validation was switched off when this evaluator was made"
        with self._loaded(data, header):
            return self.validator.chunk_loss(chunk, validation_state(self.track, header.step, header.state))

    @contextmanager
    def _loaded(self, data: np.ndarray, header: CheckpointHeader) -> Iterator[None]:
        """The model holds these weights, and nobody else's until the end of the block."""
        with ExitStack() as held:
            with self._next:  # given up only with the model in hand: nobody overtakes
                self.loader.fetch(data, header)
                held.enter_context(self._model)
                self.loader.copy_into_model()
            yield
