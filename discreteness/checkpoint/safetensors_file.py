"""checkpoint bytes <-> a safetensors file, for --keep-weights. Nothing in it is ever unpickled."""

import json
from dataclasses import asdict

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from speedrun.model.gpt import GPT
from speedrun.schedules import ForwardState
from speedrun.tracks import Track

from discreteness.checkpoint.header import CheckpointHeader
from discreteness.checkpoint.layout import CheckpointLayout
from discreteness.dataset.paths import weights_path


class WeightsFormat:
    """Turns checkpoints of one track into files with SPEEDRUN's parameter names."""

    def __init__(self, track: Track):
        self.track = track
        model = GPT(track.model, getattr(torch, track.dtype), "meta")
        self.slots = model.layout
        self.layout = CheckpointLayout.from_model(model)

    def file(self, data: np.ndarray, header: CheckpointHeader) -> tuple[str, bytes]:
        """Path within the dataset and content. The path holds the attempt, so that two attempts never mix; a tied
        checkpoint has no `embed.weight`. The metadata's `state` is the schedule state that the weights belong to,
        and its `track` all fields of the track."""
        tensors = self.layout.named(self.slots, data, header.state.tied)
        metadata = {
            "track": json.dumps(asdict(self.track)),
            "seed": str(header.seed),
            "attempt": header.attempt,
            "step": str(header.step),
            "state": json.dumps(asdict(header.state)),
        }
        path = weights_path(header.seed, header.attempt, header.step)
        return path, save(tensors, metadata)

    def read(self, content: bytes) -> tuple[np.ndarray, CheckpointHeader]:
        """A file's content -> uint8 checkpoint bytes and their header, as `file` got them.

        Raises ValueError if it is not such a file, or of a model of another shape.
        """
        metadata = metadata_of(content)
        try:
            tensors = load(content)
            values = json.loads(metadata["state"])
            state = ForwardState(**values | {"frequencies": tuple(values["frequencies"])})
            seed, attempt, step = int(metadata["seed"]), metadata["attempt"], int(metadata["step"])
        except (SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"these are not whole weights that --keep-weights has kept: {error!r}") from None
        data = np.zeros(self.layout.num_bytes(state.tied), np.uint8)
        for name, target in self.layout.named(self.slots, data, state.tied).items():
            tensor = tensors.get(name)
            if tensor is None or tensor.shape != target.shape or tensor.dtype != target.dtype:
                found = "nothing" if tensor is None else f"{tensor.dtype}{list(tensor.shape)}"
                raise ValueError(
                    f"weights of seed {seed} step {step}: {name} is {found}, track {self.track.name} has "
                    f"{target.dtype}{list(target.shape)}"
                )
            target.copy_(tensor)
        header = CheckpointHeader(
            seed=seed,
            attempt=attempt,
            step=step,
            layout=self.layout.fingerprint,
            state=state,
            num_bytes=data.nbytes,
        )
        return data, header


def metadata_of(content: bytes) -> dict[str, str]:
    """What a file's content says of itself, as text: track, seed, attempt, step, state. Raises ValueError if it is not
    such a file."""
    try:
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
        missing = {"track", "seed", "attempt", "step", "state"} - metadata.keys()
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError("this is not a whole file of safetensors: copy or fetch it again") from None
    if missing:
        raise ValueError(
            f"these are not weights that --keep-weights has kept, as they do not name their {min(missing)}: save the "
            "state dict of another program by torch.save as .pt, and give its --track and --step"
        )
    return metadata
