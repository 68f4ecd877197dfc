"""checkpoint bytes -> a safetensors file, for --keep-weights. Nothing in it is ever unpickled."""

import json
from dataclasses import asdict

import numpy as np
import torch
from safetensors.torch import save
from speedrun.model import GPT
from speedrun.tracks import Track
from torch import Tensor

from discreteness.checkpoint import CheckpointHeader, CheckpointLayout


class WeightsFormat:
    """Turns checkpoints of one track into files with SPEEDRUN's parameter names."""

    def __init__(self, track: Track):
        self.track = track.name
        model = GPT(track.model, getattr(torch, track.dtype), "meta")
        self.slots = model.layout
        self.layout = CheckpointLayout.of(model)

    def file(self, data: np.ndarray, header: CheckpointHeader) -> tuple[str, bytes]:
        """Path within the dataset and content. The path holds the attempt, so that two attempts never mix; a tied
        checkpoint has no `embed.weight`. The metadata's `state` is the schedule state that the weights belong to."""
        buffers = dict(self.layout.split(data, header.state.tied))
        tensors: dict[str, Tensor] = {}
        for slot in self.slots:
            buffer = buffers[slot.dtype]
            if slot.offset + slot.numel <= buffer.numel():
                tensors[slot.name] = buffer[slot.offset : slot.offset + slot.numel].view(slot.shape)
        metadata = {
            "track": self.track,
            "seed": str(header.seed),
            "attempt": header.attempt,
            "step": str(header.step),
            "state": json.dumps(asdict(header.state)),
        }
        path = f"weights/seed={header.seed:05d}-{header.attempt}/step={header.step:06d}.safetensors"
        return path, save(tensors, metadata)
