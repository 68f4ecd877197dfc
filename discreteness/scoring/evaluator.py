"""An evaluator: one scorer, into which checkpoints are loaded one after another to be scored and validated.

- Checkpoints are scored in the order in which they came, each with its own weights; two threads may call.
- The class is plain and knows no Ray: the pool makes it an actor. Nor does it know a model: its scorer does.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from discreteness.checkpoint.header import CheckpointHeader
from discreteness.checkpoint.seam import Pair
from discreteness.dataset.runs_file import Library


class Evaluator:
    """Loads checkpoints into the scorer of a pair, and scores documents and validation chunks.

    Two threads may call it: while one scores, the other's checkpoint comes in. They score in the order in which they
    came, and each the weights it brought.
    """

    def __init__(self, pair: Pair, device: str):
        self.scorer = pair.scorer(device)
        self._next = threading.Lock()
        self._model = threading.Lock()

    def ready(self) -> int:
        """The process id, once the scorer is made."""
        return os.getpid()

    @property
    def library(self) -> Library:
        """The third-party program that computes the losses, if one must be named with them."""
        return self.scorer.library

    def score(self, data: np.ndarray, header: CheckpointHeader) -> np.ndarray:
        """uint8 checkpoint bytes -> float32 losses of all documents, one after another."""
        with self._loaded(data, header):
            return self.scorer.score(header)

    def validate(self, data: np.ndarray, header: CheckpointHeader, chunk: int) -> float:
        """uint8 checkpoint bytes -> mean loss of one validation chunk."""
        with self._loaded(data, header):
            return self.scorer.validate(header, chunk)

    @contextmanager
    def _loaded(self, data: np.ndarray, header: CheckpointHeader) -> Iterator[None]:
        """The scorer holds these weights, and nobody else's until the end of the block."""
        with ExitStack() as held:
            with self._next:  # given up only with the model in hand: nobody overtakes
                self.scorer.fetch(data, header)
                held.enter_context(self._model)
                self.scorer.take()
            yield
