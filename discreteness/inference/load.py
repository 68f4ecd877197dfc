"""checkpoint -> a model with its weights in it, and the schedule state that they belong to.

Windows, rotary frequencies, attention scale and whether the tables are tied follow from the step of training: weights
without their step would be read as another model's.
"""

import functools
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load
from speedrun.data.vocabulary import Vocabulary, vocabulary_of
from speedrun.execution import Execution, one_thread_on_a_cpu
from speedrun.model.gpt import GPT
from speedrun.schedules import ForwardState, forward_state, validation_state
from speedrun.tracks import Track, track
from torch import Tensor

from discreteness.checkpoint.safetensors_file import WeightsFormat, metadata_of
from discreteness.dataset.kept_weights import chosen_weights
from discreteness.dataset.reader import open as open_dataset
from discreteness.experiment.recorded_track import recorded_track

COMPILED_PREFIX = "_orig_mod."
DEFAULT_TRACK = "small"


@dataclass(frozen=True)
class Trained:
    """A model to use: its weights and the state that they were trained to be used in."""

    track: Track
    model: GPT
    step: int
    state: ForwardState

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """Made once: it is a table of every GPT-2 id."""
        return vocabulary_of(self.track)

    @property
    def validation_state(self) -> ForwardState:
        """In which the validation loss of these weights is taken."""
        return validation_state(self.track, self.step, self.state)


def load_trained(
    checkpoint: str | Path,
    *,
    track_name: str | None = None,
    seed: int | None = None,
    step: int | Literal["last"] | None = None,
    device: str = "auto",
) -> Trained:
    """The model of a checkpoint.

    checkpoint: weights that --keep-weights has kept (.safetensors), which say their track, step and state; or the
    dataset that holds them, a folder or URI; or a state dict with the names of SPEEDRUN section 1.2, with or without
    the compiler's prefix, bare or under "model", next to which there may be a "step"; nothing else is unpickled. seed:
    whose weights of a dataset, where it keeps those of several. track_name, step: where the checkpoint does not say
    them; a state dict is of `small` by default. The step "last" is the last one that a dataset keeps, and of a file the
    track's. device: cpu, cuda, or auto: a GPU where there is one and the track trains on GPUs.

    On a CPU bfloat16 weights become float32, exactly; losses then differ from a GPU's by its rounding.

    Raises ValueError if it is not such a file, has another shape than the track's, or does not say its step, and
    OSError if it cannot be read.
    """
    where = str(checkpoint)
    if "://" in where or Path(where).is_dir():
        recipe, at, state, tensors = _kept(*_of_dataset(where, seed, step), track_name)
    elif seed is not None:
        raise ValueError(f"--seed {seed}: {where} is not a dataset, of which one seed could be meant; leave it out")
    elif not Path(where).is_file():
        raise FileNotFoundError(
            f"--checkpoint {where} is not there: give a dataset, a .safetensors file, or a state dict (.pt)"
        )
    elif where.endswith(".safetensors"):
        recipe, at, state, tensors = _kept(where, Path(where).read_bytes(), track_name)
        if step not in (None, at, "last" if at == recipe.schedule.last_step else None):
            raise ValueError(f"--step {step}: {where} is of step {at}; leave --step out")
    else:
        recipe = track(track_name or DEFAULT_TRACK)
        tensors, at = _state_dict(Path(where), recipe, recipe.schedule.last_step if step == "last" else step)
        state = forward_state(recipe, at)
    device = _device(device, recipe)
    dtype = torch.float32 if device == "cpu" else getattr(torch, recipe.dtype)
    execution = Execution(fp8_head=False)  # which only training uses
    execution.on(device, dtype).check(device)
    model = GPT(recipe.model, dtype, device, execution)
    _fill(model, tensors, state.tied, f"{where} does not fit track {recipe.name}")
    return Trained(recipe, model, at, state)


def _of_dataset(uri: str, seed: int | None, step: int | Literal["last"] | None) -> tuple[str, bytes]:
    """Where the weights lie, and their content."""
    origin = open_dataset(uri)
    path = chosen_weights(origin, seed, step)
    return origin.storage.path(path), origin.storage.read(path)


def _kept(where: str, content: bytes, track_name: str | None) -> tuple[Track, int, ForwardState, dict[str, Tensor]]:
    try:
        values = json.loads(metadata_of(content)["track"])
        recipe = recorded_track(values, track_name, where, len(content))
        _, header = WeightsFormat(recipe).read(content)
    except ValueError as error:
        raise ValueError(f"--checkpoint {where}: {error}") from None
    return recipe, header.step, header.state, load(content)


def _state_dict(path: Path, recipe: Track, step: int | None) -> tuple[dict[str, Tensor], int]:
    """Tensors by their plain names, and the step."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f"--checkpoint {path} is neither .safetensors nor a whole file of torch.save: fetch it again")
    try:
        content = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except Exception as error:  # of a damaged file anything may come
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"--checkpoint {path} holds more than tensors and plain values, or is damaged, and is not opened, as that "
            f"may run code ({reason}): save the state dict alone, or fetch it again"
        ) from None
    tensors, found = content, None
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        tensors, found = content["model"], content.get("step")
    if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ValueError(f'--checkpoint {path} holds no state dict, bare or under "model": save model.state_dict()')
    if not isinstance(found, int):
        found = None
    if step is not None and found not in (None, step):
        raise ValueError(f"--step {step}: {path} is of step {found}; leave --step out")
    at = found if step is None else step
    if at is None:
        raise ValueError(
            f"--checkpoint {path} does not say its step, which decides windows, rotary tables and tying: give --step, "
            f"{recipe.schedule.last_step} for the end of track {recipe.name}"
        )
    return {str(name).removeprefix(COMPILED_PREFIX): tensor for name, tensor in tensors.items()}, at


def _device(asked: str, recipe: Track) -> str:
    if asked == "auto":
        asked = "cuda" if recipe.needs_gpu and torch.cuda.is_available() else "cpu"
    if asked == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no GPU here; use cpu")
    if not recipe.needs_gpu:  # the others' bits are a GPU's, which a CPU does not repeat
        one_thread_on_a_cpu(asked)
    return asked


@torch.no_grad()
def _fill(model: GPT, tensors: Mapping[str, Tensor], tied: bool, complaint: str) -> None:
    """Every parameter from the tensor of its name. Tied, `embed` is the head, whatever the file has under that name."""
    way = "give the --track that it was trained with"
    slots = {slot.name: slot for slot in model.layout}
    if tied:
        del slots["embed.weight"]
    if missing := [name for name in slots if name not in tensors]:
        raise ValueError(f"{complaint}: it lacks {missing[0]}, {len(missing)} of {len(slots)} names; {way}")
    if foreign := [name for name in tensors if name not in slots and name != "embed.weight"]:
        raise ValueError(f"{complaint}: it holds {foreign[0]}, one of {len(foreign)} foreign names; {way}")
    for name, slot in slots.items():
        values = tensors[name]
        if name == "scalars":
            values = values.flatten()[: slot.numel]  # the record pads it to a multiple of its world size
        if values.shape != slot.shape or not values.is_floating_point():
            found, wanted = f"{values.dtype} {list(values.shape)}", f"floating-point {list(slot.shape)}"
            raise ValueError(f"{complaint}: {name} is {found}, expected {wanted}; {way}")
        model.get_parameter(name).copy_(values)
    if tied:
        model.tie()
