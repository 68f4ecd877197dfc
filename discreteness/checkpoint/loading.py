"""The loader: brings the next checkpoint from the object store to the model while the last one is being scored.

- A GPU copies from object-store pages, which are not pinned, at a seventh of the speed of its bus. So a few threads
  copy them piece by piece into pinned memory, and each piece leaves at once, on its own stream, for a second buffer on
  the device. Between two scorings lies one copy on the device.
- Memory, in addition to the model's own: one checkpoint on the device (0.54 GB of the small track), and
  NUM_THREADS x 2 x PIECE_BYTES pinned on the host. A CPU needs neither: the pages themselves are the second buffer.
"""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import torch
from torch import Tensor

from discreteness.checkpoint.header import CheckpointHeader
from discreteness.checkpoint.layout import CheckpointLayout, FlatModel, Segment

NUM_THREADS = 8
PIECE_BYTES = 8 << 20
"""Long enough that a thread hardly touches the interpreter, short enough that the bus starts early."""


class Loader:
    """Brings checkpoints into one model in two moves: `fetch` may run while the model is used, `copy_into_model` not.

    They alternate, one at a time, each from any thread; a fetch that raises counts for nothing.
    """

    def __init__(self, model: FlatModel, layout: CheckpointLayout):
        self.model = model
        self.layout = layout
        device = next(iter(model.buffers_by_dtype.values())).device
        self.incoming = Incoming(layout.num_bytes(tied=False), device) if device.type == "cuda" else None
        self._pieces: list[tuple[Segment, Tensor]] = []
        self._tied = False

    def fetch(self, data: np.ndarray, header: CheckpointHeader) -> None:
        """Reads uint8 checkpoint bytes (read-only is fine). Raises ValueError if they are not of this model's layout.

        On a GPU `data` is no longer needed on return; on a CPU until `copy_into_model`.
        """
        self.layout.check(data, header)
        self._tied = header.state.tied
        if self.incoming:
            self._pieces = list(self.layout.pieces(self.incoming.fill(data), self._tied))
        else:
            self._pieces = list(self.layout.split(data, self._tied))

    def copy_into_model(self) -> None:
        """Replaces the model's weights by what was fetched, in the order of the current stream."""
        if self.incoming:
            self.incoming.await_filled()
        for segment, piece in self._pieces:
            segment.view(self.model, self._tied).copy_(piece)
        self._pieces = []  # on a CPU these are the object store's pages
        if self.incoming:
            self.incoming.release()
        if self._tied:
            self.model.tie()


class Incoming:
    """A second buffer on the device, and the way into it from pages that are not pinned."""

    def __init__(self, num_bytes: int, device: torch.device, num_threads: int = NUM_THREADS):
        self.buffer = torch.empty(num_bytes, dtype=torch.uint8, device=device)
        self.stream = torch.cuda.Stream(device)
        self.lanes = [itertools.cycle([_Pinned(), _Pinned()]) for _ in range(num_threads)]
        self.threads = ThreadPoolExecutor(num_threads, "loading")

    def fill(self, data: np.ndarray) -> Tensor:
        """uint8 (n,) on the host -> the same on the device, complete once `stream` has come so far."""
        filled = self.buffer[: len(data)]
        work = iter(list(pieces(data, filled, PIECE_BYTES)))  # gives each piece to one thread: to whoever is free
        runs = [self.threads.submit(self._carry, lane, work) for lane in self.lanes]
        wait(runs)  # also after an error: no thread may still write when the next checkpoint comes
        for run in runs:
            run.result()
        return filled

    def await_filled(self) -> None:
        """What the current stream does from here on sees the filled buffer."""
        torch.cuda.current_stream(self.stream.device).wait_stream(self.stream)

    def release(self) -> None:
        """What is filled in from here on waits until the current stream has come so far."""
        self.stream.wait_stream(torch.cuda.current_stream(self.stream.device))

    def _carry(self, lane: "Iterator[_Pinned]", work: Iterator[tuple[np.ndarray, Tensor]]) -> None:
        with torch.cuda.stream(self.stream):
            for source, target in work:
                next(lane).carry(source, target)


class _Pinned:
    """One pinned piece; a thread fills one of its two while the other leaves."""

    def __init__(self) -> None:
        self.memory = torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=True)
        self.array = self.memory.numpy()
        self.left = torch.cuda.Event(blocking=True)  # asleep: the cores belong to trainers

    def carry(self, source: np.ndarray, target: Tensor) -> None:
        """Copies `source` to the device behind what the current stream holds."""
        self.left.synchronize()
        np.copyto(self.array[: len(source)], source)  # without the interpreter lock
        target.copy_(self.memory[: len(source)], non_blocking=True)
        self.left.record()


def pieces(source: np.ndarray, target: Tensor, piece_bytes: int) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Two flat arrays of bytes of one length, piece by piece."""
    for start in range(0, len(source), piece_bytes):
        yield source[start : start + piece_bytes], target[start : start + piece_bytes]
