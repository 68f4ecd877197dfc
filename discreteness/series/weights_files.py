"""files of weights -> tensors in host memory, by name. Nothing in them is run."""

from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError  # the error alone: torch raises it

import torch

from discreteness.series.stored import StoredCheckpoint, Unreadable

Tensors = dict[str, torch.Tensor]


class HostWeights:
    """The tensors of one checkpoint after another, in memory that is used again where shapes stay the same; page-locked
    if a GPU is to read it. What `read` returned is overwritten by the next call."""

    def __init__(self, pinned: bool):
        self.pinned = pinned
        self._memory: Tensors = {}

    def read(self, checkpoint: StoredCheckpoint, folder: Path) -> Tensors:
        """All tensors of the checkpoint's weights, as they are stored. Raises Unreadable if a file is cut or damaged,
        or a pickle that holds anything but tensors."""
        found = {}
        for file in checkpoint.weights:
            for name, tensor in _tensors(checkpoint, folder / file.name):
                found[name] = self._kept(name, tensor)
        self._memory = found
        return found

    def _kept(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        memory = self._memory.get(name)
        if memory is None or memory.shape != tensor.shape or memory.dtype != tensor.dtype:
            memory = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self.pinned)
        return memory.copy_(tensor)


def _tensors(checkpoint: StoredCheckpoint, path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    if path.suffix == ".safetensors":
        yield from _safetensors(checkpoint, path)
    else:
        yield from _pickle(checkpoint, path)


def _safetensors(checkpoint: StoredCheckpoint, path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name)
    except SafetensorError as error:
        raise Unreadable(f"{checkpoint}: {path.name} is cut or damaged: {_one_line(error)}") from error


def _pickle(checkpoint: StoredCheckpoint, path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise Unreadable(
            f"{checkpoint}: {path.name} is a pickle that would run code or holds more than tensors, and is not "
            "read; ask its owner for safetensors"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise Unreadable(f"{checkpoint}: {path.name} is cut or damaged: {_one_line(error)}") from error
    if not isinstance(values, dict) or not all(isinstance(value, torch.Tensor) for value in values.values()):
        raise Unreadable(f"{checkpoint}: {path.name} does not hold tensors by name, but {type(values).__name__}")
    yield from values.items()


def _one_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
