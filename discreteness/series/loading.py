"""a stored checkpoint of a model of transformers -> a model on a device, ready to be scored.

- transformers itself loads the first checkpoint, and so decides what each tensor of a file means.
- Where each entry of the model's state then is, bit for bit, one tensor of the file, further checkpoints with the same
  configuration, names and shapes are copied into the same model, without making another. All others are loaded as the
  first was.
- No code of a model's repository is run: `trust_remote_code` is never given.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from discreteness.series.stored import CONFIG, StoredCheckpoint, Unreadable
from discreteness.series.weights_files import HostWeights, Tensors

NOT_THE_MODEL = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures")
"""Keys of config.json that say nothing of what is computed; the dtype is the run's own."""


@dataclass(frozen=True)
class Built:
    """A model and what is known of the files that it was made from. `names`: entry of its state -> tensor of the file
    whose bits it has; None where some entry has no such tensor."""

    model: torch.nn.Module
    config: dict[str, Any]
    shapes: dict[str, tuple[torch.Size, torch.dtype]]
    names: dict[str, str] | None
    context: int | None


class ModelLoader:
    """Holds one model on a device; `fetch` reads the next checkpoint while the model is used, `take` puts it there."""

    def __init__(self, device: str, dtype: str):
        self.device = torch.device(device)
        self.dtype = getattr(torch, dtype)
        self.built: Built | None = None
        self._host = HostWeights(pinned=self.device.type == "cuda")
        self._next: Built | Tensors | None = None

    def fetch(self, checkpoint: StoredCheckpoint, folder: Path) -> None:
        """Reads a checkpoint into host memory. Raises Unreadable if it cannot be."""
        tensors = self._host.read(checkpoint, folder)
        config = _config(checkpoint, folder)
        shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
        built = self.built
        if built and built.names and built.config == config and built.shapes == shapes:
            self._next = tensors
            return
        model = _from_pretrained(checkpoint, folder, self.dtype)
        self._next = Built(
            model=model,
            config=config,
            shapes=shapes,
            names=_names(model, tensors),
            context=context_of(model.config),
        )

    def take(self) -> torch.nn.Module:
        """The model with what was fetched last."""
        arrived, self._next = self._next, None
        if isinstance(arrived, Built):
            self.built = None  # the model before is not needed beside it
            arrived.model.to(self.device)
            self.built = arrived
        elif arrived is not None and self.built is not None:
            self._copy(self.built, arrived)
        assert self.built is not None, "nothing was fetched"
        return self.built.model

    def _copy(self, built: Built, tensors: Tensors) -> None:
        assert built.names is not None
        state = built.model.state_dict()
        for entry, name in built.names.items():  # to the device as it is stored, and there to the model's dtype
            state[entry].copy_(tensors[name].to(self.device, non_blocking=True))
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()  # the host's memory is written again from now on


def context_of(config: Any) -> int | None:
    """The longest text in tokens that a configuration of transformers allows; None where it states none."""
    found = getattr(config.get_text_config(), "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


def _from_pretrained(checkpoint: StoredCheckpoint, folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    transformers = quiet_transformers()
    try:
        model, told = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            weights_only=True,
            use_safetensors=checkpoint.weights[0].name.endswith(".safetensors"),
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk, not of what is on it
        raise Unreadable(f"{checkpoint}: transformers cannot load it: {' '.join(str(error).split())[:500]}") from error
    for what, wrong in ("lacks", told["missing_keys"]), ("has with other shapes", told["mismatched_keys"]):
        if wrong:  # transformers would go on with random numbers
            names = sorted(map(str, wrong))
            raise Unreadable(f"{checkpoint}: {what} {len(names)} of the model's weights, such as {names[0]}")
    return model.eval().requires_grad_(False)


def quiet_transformers() -> Any:
    """transformers, without its progress bars and advice. Raises ValueError if it is not installed."""
    try:
        import transformers
    except ImportError:
        raise ValueError(
            "models of others need transformers: pip install 'discreteness[transformers]', or pip install transformers"
        ) from None
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    return transformers


def _config(checkpoint: StoredCheckpoint, folder: Path) -> dict[str, Any]:
    try:
        values = json.loads((folder / CONFIG).read_bytes())
        return {key: value for key, value in values.items() if key not in NOT_THE_MODEL}
    except (ValueError, AttributeError, RecursionError) as error:
        raise Unreadable(f"{checkpoint}: {CONFIG} is not an object of JSON: {error}") from error


def _names(model: torch.nn.Module, tensors: Tensors) -> dict[str, str] | None:
    """Entry of the model's state -> tensor that it is: the one of its name, with or without the prefix of the base
    model; or, where transformers gives it another name, the only one left with these bits. None if an entry has none.
    """
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    state = {entry: value for entry, value in model.state_dict().items() if value.numel()}
    names: dict[str, str] = {}
    for entry, value in state.items():
        for name in (entry, entry.removeprefix(prefix), prefix + entry):
            if name in tensors and _is_same(tensors[name], value):
                names[entry] = name
                break
    covered = {state[entry].data_ptr() for entry in names}  # tied weights are one memory under two names
    for entry, value in state.items():
        if value.data_ptr() in covered:
            continue
        left = [name for name in tensors if name not in names.values() and _is_same(tensors[name], value)]
        if len(left) != 1 or bool((value == value.flatten()[0]).all()):  # zeros say nothing of whose they are
            return None
        names[entry] = left[0]
        covered.add(value.data_ptr())
    return names


def _is_same(tensor: torch.Tensor, value: torch.Tensor) -> bool:
    return tensor.shape == value.shape and torch.equal(tensor.to(value.dtype), value)
