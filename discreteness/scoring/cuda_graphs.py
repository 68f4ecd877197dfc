"""CUDA graphs of scoring: the kernels of a schedule state, recorded once and replayed."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from speedrun.model.gpt import Stage
from speedrun.schedules import ForwardState

MAX_CUDA_GRAPHS = 8
"""Schedule states whose launches are kept: a run passes through five, one after another."""


@dataclass(frozen=True)
class _CapturedGraph:
    graph: torch.cuda.CUDAGraph
    stage: Stage
    """Read at each replay. Its windows and scale, which lie on the CPU, are read only when recorded, hence one graph
    per state."""
    losses: torch.Tensor
    """Written at each replay."""


class CudaGraphs:
    """Launches of each schedule state as one CUDA graph. All graphs share one pool of memory, as they run in turn."""

    def __init__(self, launch: Callable[[Stage], torch.Tensor]):
        self.launch = launch
        self.pool = torch.cuda.graph_pool_handle()
        self.possible = True
        self._known: dict[ForwardState, _CapturedGraph] = {}

    def __call__(self, state: ForwardState, make_stage: Callable[[ForwardState], Stage]) -> torch.Tensor:
        """The losses, valid until the next call. A state's first are launched one by one, and then recorded."""
        if recording := self._known.get(state):
            recording.graph.replay()
            return recording.losses
        stage = make_stage(state)
        losses = self.launch(stage)  # also compiles what is not yet compiled, which no recording may do
        if self.possible:
            self._record(state, stage)
        return losses

    def _record(self, state: ForwardState, stage: Stage) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads go on loading the next checkpoint, which "global" would take for errors.
            # The outer block gives the stream back even where the capture fails to end.
            here = torch.cuda.stream(torch.cuda.current_stream())
            with here, torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                losses = self.launch(stage)
        except RuntimeError as error:
            self.possible = False
            warnings.warn(f"scoring launches its kernels one by one, as recording them failed: {error}", stacklevel=2)
            return
        if len(self._known) == MAX_CUDA_GRAPHS:
            self._known.pop(next(iter(self._known)))
        self._known[state] = _CapturedGraph(graph, stage, losses)
