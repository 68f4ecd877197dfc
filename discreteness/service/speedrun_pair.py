"""The speedrun as a pair of source and scorer: the one place where the service learns what it trains."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from discreteness.checkpoint.header import CheckpointHeader
from discreteness.checkpoint.seam import Scorer, Source
from discreteness.cluster.flops import flop_per_token
from discreteness.experiment.prepare import Experiment
from discreteness.service.timeouts import CALL_TIMEOUT_S

if TYPE_CHECKING:
    from discreteness.checkpoint.safetensors_file import WeightsFormat


@dataclass(frozen=True)
class SpeedrunPair:
    """A pair of checkpoint/seam.py. What trains and scores, and torch, is imported where it is made alone."""

    experiment: Experiment

    @property
    def call_timeout_s(self) -> float:
        return CALL_TIMEOUT_S

    @property
    def stays_on_its_machine(self) -> bool:
        return True

    def source(self, device: Any, process_group: Any, tell: Callable[[str], None]) -> Source:
        from discreteness.service.speedrun_source import SpeedrunSource

        return SpeedrunSource(self.experiment, device, process_group, tell)

    def scorer(self, device: str) -> Scorer:
        from discreteness.scoring.speedrun_scorer import SpeedrunScorer

        return SpeedrunScorer(self.experiment, device)

    def weights_file(self, data: np.ndarray, header: CheckpointHeader) -> tuple[str, bytes]:
        return self._weights.file(data, header)

    def update_flop(self, record: dict) -> float:
        windows = record["short_window"], record["long_window"]
        if windows not in self._flop_per_token:
            self._flop_per_token[windows] = flop_per_token(self.experiment.track.model, *windows)
        return record["batch_tokens"] * self._flop_per_token[windows]

    @cached_property
    def _flop_per_token(self) -> dict[tuple[int, int], float]:
        """By windows, of which a schedule has a few: the dispatcher asks at every update."""
        return {}

    @cached_property
    def _weights(self) -> "WeightsFormat":
        from discreteness.checkpoint.safetensors_file import WeightsFormat

        return WeightsFormat(self.experiment.track)
