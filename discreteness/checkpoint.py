"""flat parameter buffers <-> the bytes of a checkpoint.

A checkpoint's bytes are the model's buffers one after another ("float32" first), each without what the forward pass
does not need: `embed.weight`, the last slot of the last buffer, is left out while it is tied to the head. One numpy
uint8 array travels through the object store without a copy on the reader's side; torch tensors would be 20 times
slower.
"""

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from speedrun.model import Slot
from speedrun.schedules import ForwardState
from torch import Tensor


class FlatModel(Protocol):
    """A model whose parameters are views of one buffer a dtype (speedrun.model.GPT)."""

    layout: tuple[Slot, ...]
    buffers_by_dtype: dict[str, Tensor]

    def tie(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class CheckpointHeader:
    """What travels beside the bytes; plain data. Produced by the publishing rank, read by dispatcher and evaluator."""

    seed: int
    attempt: str
    step: int
    layout: str
    """Fingerprint of the layout, so that bytes are never loaded into a model of another shape."""
    state: ForwardState
    num_bytes: int


@dataclass(frozen=True)
class CheckpointLayout:
    """Where each buffer's bytes lie in a checkpoint, tied and untied, for one model shape and dtype."""

    fingerprint: str
    elements: dict[str, tuple[int, int]]
    """dtype -> elements sent (while tied, once untied), in the order of the bytes."""

    @classmethod
    def of(cls, model: FlatModel) -> "CheckpointLayout":
        embed = model.layout[-1]
        assert embed.name == "embed.weight", f"{embed.name} follows embed.weight: a tied checkpoint is no prefix"
        elements = {}
        for dtype, buffer in model.buffers_by_dtype.items():
            tied = embed.offset if dtype == embed.dtype else buffer.numel()
            elements[dtype] = (tied, buffer.numel())
        text = repr([(slot.name, tuple(slot.shape), slot.dtype, slot.offset) for slot in model.layout])
        return cls(hashlib.sha256(text.encode()).hexdigest()[:16], elements)

    def num_bytes(self, tied: bool) -> int:
        return sum(count[0 if tied else 1] * _itemsize(dtype) for dtype, count in self.elements.items())

    def pack(self, model: FlatModel, tied: bool) -> np.ndarray:
        """The model's weights as a new uint8 array (num_bytes,) in host memory, in the dtype the forward reads."""
        data = np.empty(self.num_bytes(tied), np.uint8)
        self.copy_out(model, tied, torch.from_numpy(data))
        return data

    def copy_out(self, model: FlatModel, tied: bool, whole: Tensor) -> None:
        """Copies the model's weights to the front of a flat uint8 tensor, on any device."""
        for dtype, part in self.parts(whole, tied):
            part.copy_(model.buffers_by_dtype[dtype][: part.numel()])

    def load(self, data: np.ndarray, header: CheckpointHeader, model: FlatModel) -> None:
        """Copies a checkpoint's bytes (read-only is fine) into the model's buffers; raises as `check`."""
        self.check(data, header)
        for dtype, part in self.split(data, header.state.tied):
            model.buffers_by_dtype[dtype][: part.numel()].copy_(part)
        if header.state.tied:
            model.tie()

    def check(self, data: np.ndarray, header: CheckpointHeader) -> None:
        """ValueError where these are not the bytes of a checkpoint of this layout."""
        expected = self.num_bytes(header.state.tied)
        if header.layout != self.fingerprint or data.dtype != np.uint8 or data.shape != (expected,):
            raise ValueError(
                f"checkpoint of seed {header.seed} step {header.step} is {data.dtype}{list(data.shape)} of layout "
                f"{header.layout}, this model takes uint8[{expected}] of layout {self.fingerprint}: "
                "trainer and evaluator run different code or tracks"
            )

    def split(self, data: np.ndarray, tied: bool) -> Iterator[tuple[str, Tensor]]:
        """(dtype, flat tensor over its part of the bytes) for each buffer, in order."""
        with warnings.catch_warnings():
            # Object-store pages are read-only, of which torch warns; they are only copied from.
            warnings.simplefilter("ignore", UserWarning)
            whole = torch.from_numpy(data)
        yield from self.parts(whole, tied)

    def parts(self, whole: Tensor, tied: bool) -> Iterator[tuple[str, Tensor]]:
        """(dtype, view) for each buffer, in order, of a flat uint8 tensor that is long enough."""
        start = 0
        for dtype, counts in self.elements.items():
            stop = start + counts[0 if tied else 1] * _itemsize(dtype)
            yield dtype, whole[start:stop].view(getattr(torch, dtype))
            start = stop


def _itemsize(dtype: str) -> int:
    return getattr(torch, dtype).itemsize
