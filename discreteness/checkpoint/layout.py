"""The layout of a checkpoint: where the parameters of a model lie in its bytes.

- The bytes are the model's buffers one after another, "float32" first, without what the forward pass does not need.
- `embed.weight`, the last slot of the last buffer, is left out while it is tied to the head.
- float32 matrices that every pass casts are sent in the dtype to which they are cast.
- It is one numpy uint8 array, which the object store shares without a copy; torch tensors would be 20 times slower.
"""

import hashlib
import itertools
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from speedrun.model.gpt import Slot
from torch import Tensor

from discreteness.checkpoint.header import CheckpointHeader


class FlatModel(Protocol):
    """A model whose parameters are views of one buffer per dtype (speedrun.model.gpt.GPT)."""

    layout: tuple[Slot, ...]
    buffers_by_dtype: dict[str, Tensor]

    def tie(self) -> None: ...


@dataclass(frozen=True)
class Segment:
    """Neighbours in one of a model's buffers, whose elements a checkpoint holds in one dtype."""

    buffer: str
    """Key of `buffers_by_dtype`."""
    dtype: str
    """In the checkpoint: what the forward pass reads, which may be narrower than what is trained."""
    start: int
    tied_stop: int
    stop: int
    """First element, and the ends of what is sent while tied and once untied."""

    def view(self, model: FlatModel, tied: bool) -> Tensor:
        return model.buffers_by_dtype[self.buffer][self.start : self.tied_stop if tied else self.stop]

    def num_elements(self, tied: bool) -> int:
        return (self.tied_stop if tied else self.stop) - self.start


@dataclass(frozen=True)
class CheckpointLayout:
    """Where each parameter's bytes lie in a checkpoint, tied and untied, for one model shape and dtype."""

    fingerprint: str
    segments: tuple[Segment, ...]
    """In the order of the bytes."""

    @classmethod
    def from_model(cls, model: FlatModel) -> "CheckpointLayout":
        embed = model.layout[-1]
        assert embed.name == "embed.weight", f"{embed.name} follows embed.weight: a tied checkpoint is no prefix"
        segments: list[Segment] = []
        for buffer, values in model.buffers_by_dtype.items():
            slots = [slot for slot in model.layout if slot.dtype == buffer]
            groups = [list(group) for _, group in itertools.groupby(slots, key=lambda slot: slot.read_dtype)]
            stops = [group[0].offset for group in groups[1:]] + [values.numel()]
            for group, stop in zip(groups, stops, strict=True):
                tied_stop = embed.offset if embed in group else stop
                segments.append(Segment(buffer, group[0].read_dtype, group[0].offset, tied_stop, stop))
        return cls(hashlib.sha256(repr(model.layout).encode()).hexdigest()[:16], tuple(segments))

    def num_bytes(self, tied: bool) -> int:
        return sum(segment.num_elements(tied) * _itemsize(segment.dtype) for segment in self.segments)

    def pack(self, model: FlatModel, tied: bool) -> np.ndarray:
        """The model's weights as a new uint8 array (num_bytes,) in host memory, in the dtype the forward reads."""
        data = np.empty(self.num_bytes(tied), np.uint8)
        self.copy_out(model, tied, torch.from_numpy(data))
        return data

    def copy_out(self, model: FlatModel, tied: bool, whole: Tensor) -> None:
        """Copies the model's weights to the front of a flat uint8 tensor, on any device."""
        for segment, piece in self.pieces(whole, tied):
            piece.copy_(segment.view(model, tied))

    def load(self, data: np.ndarray, header: CheckpointHeader, model: FlatModel) -> None:
        """Copies a checkpoint's bytes (read-only is fine) into the model's buffers; raises as `check`."""
        self.check(data, header)
        for segment, piece in self.split(data, header.state.tied):
            segment.view(model, header.state.tied).copy_(piece)
        if header.state.tied:
            model.tie()

    def check(self, data: np.ndarray, header: CheckpointHeader) -> None:
        """Raises ValueError if these are not the bytes of a checkpoint of this layout."""
        expected = self.num_bytes(header.state.tied)
        if header.layout != self.fingerprint or data.dtype != np.uint8 or data.shape != (expected,):
            raise ValueError(
                f"checkpoint of seed {header.seed} step {header.step} is {data.dtype}{list(data.shape)} of layout "
                f"{header.layout}, this model takes uint8[{expected}] of layout {self.fingerprint}: "
                "trainer and evaluator run different code or tracks"
            )

    def named(self, slots: Iterable[Slot], data: np.ndarray, tied: bool) -> dict[str, Tensor]:
        """The tensor of each parameter that is sent, views of the bytes."""
        tensors = {}
        for segment, piece in self.split(data, tied):
            for slot in slots:
                start = slot.offset - segment.start
                if slot.dtype == segment.buffer and start >= 0 and start + slot.numel <= len(piece):
                    tensors[slot.name] = piece[start : start + slot.numel].view(slot.shape)
        return tensors

    def split(self, data: np.ndarray, tied: bool) -> Iterator[tuple[Segment, Tensor]]:
        """Each segment with the flat tensor over its bytes, in order."""
        with warnings.catch_warnings():
            # Object-store pages are read-only, of which torch warns; they are only copied from.
            warnings.simplefilter("ignore", UserWarning)
            whole = torch.from_numpy(data)
        yield from self.pieces(whole, tied)

    def pieces(self, whole: Tensor, tied: bool) -> Iterator[tuple[Segment, Tensor]]:
        """Each segment with its view of a flat uint8 tensor that is long enough, in order."""
        start = 0
        for segment in self.segments:
            stop = start + segment.num_elements(tied) * _itemsize(segment.dtype)
            yield segment, whole[start:stop].view(getattr(torch, segment.dtype))
            start = stop


def _itemsize(dtype: str) -> int:
    return getattr(torch, dtype).itemsize
