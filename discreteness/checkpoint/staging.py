"""Staging: the weights of a model in training, copied to host memory and used in the background while training goes on.

- On a GPU the training stream makes one copy on the device, a side stream brings it to pinned host memory, and a
  background thread waits for that. On a CPU the copy is made at once.
- What follows runs in the same thread on both, so order, errors and reuse are tested where there is no GPU.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from discreteness.checkpoint.layout import CheckpointLayout, FlatModel

NUM_BUFFERS = 2

Used = TypeVar("Used")


@dataclass(frozen=True)
class _Buffer:
    """Room for one checkpoint, (num_bytes,) uint8 each; on a CPU both are the same memory."""

    near: Tensor
    """On the model's device."""
    host: Tensor
    arrived: torch.cuda.Event | None
    """The host's copy is there; None: it always is."""
    free: Event
    """Not the job's future, which holds what the job made: a reference would live until its buffer is used again."""


class Staging:
    """Two buffers for the checkpoints of one model, made once per trainer: pinning takes the system half a second.

    Memory, of the small track: 2 x 0.54 GB on the device, 2 x 1.07 GB on the host (torch pins in powers of 2).
    """

    def __init__(self, model: FlatModel, layout: CheckpointLayout):
        self.model = model
        self.layout = layout
        device = next(iter(model.buffers_by_dtype.values())).device
        on_gpu = device.type == "cuda"
        make = _gpu_buffer if on_gpu else _cpu_buffer
        self._buffers = [make(layout.num_bytes(tied=False), device) for _ in range(NUM_BUFFERS)]
        for buffer in self._buffers:
            buffer.free.set()
        self._side = torch.cuda.Stream(device) if on_gpu else None
        self._next = 0
        # A new thread stands on GPU 0, where each rank's would leave a context of some 0.5 GB.
        on_device = partial(torch.cuda.set_device, device) if on_gpu else None
        self._background = ThreadPoolExecutor(1, thread_name_prefix="staging", initializer=on_device)

    def ready(self, timeout_s: float | None) -> bool:
        """Whether `send` would not wait, once this has waited so long (None: until it is so)."""
        return self._buffers[self._next].free.wait(timeout_s)

    def send(self, tied: bool, use: Callable[[np.ndarray], Used]) -> Future[Used]:
        """Copies the weights as the current stream has them at this point and calls `use` with their bytes in the
        background; the bytes are valid until it returns.

        The host waits only for a buffer. An error of the copy or of `use` is the future's, and frees the buffer.
        """
        self.ready(timeout_s=None)
        buffer, num_bytes = self._buffers[self._next], self.layout.num_bytes(tied)
        self._next = (self._next + 1) % NUM_BUFFERS
        self.layout.copy_out(self.model, tied, buffer.near)
        if self._side and buffer.arrived:
            self._side.wait_stream(torch.cuda.current_stream(buffer.near.device))
            with torch.cuda.stream(self._side):
                buffer.host[:num_bytes].copy_(buffer.near[:num_bytes], non_blocking=True)
                buffer.arrived.record()
        buffer.free.clear()
        return self._background.submit(_use, buffer, num_bytes, use)


def _use(buffer: _Buffer, num_bytes: int, use: Callable[[np.ndarray], Used]) -> Used:
    try:
        if buffer.arrived:
            buffer.arrived.synchronize()
        return use(buffer.host[:num_bytes].numpy())
    finally:
        buffer.free.set()


def _cpu_buffer(num_bytes: int, device: torch.device) -> _Buffer:
    memory = torch.empty(num_bytes, dtype=torch.uint8, device=device)
    return _Buffer(memory, memory, None, Event())


def _gpu_buffer(num_bytes: int, device: torch.device) -> _Buffer:
    near = torch.empty(num_bytes, dtype=torch.uint8, device=device)
    host = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
    return _Buffer(near, host, torch.cuda.Event(blocking=True), Event())  # blocking: sleeps, instead of taking a core
