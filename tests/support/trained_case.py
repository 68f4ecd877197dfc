"""A model that looks trained: random weights of the quick track, as a state dict with the record's names."""

from dataclasses import replace

import torch
from speedrun.model.gpt import GPT

from tests.support.golden_case import golden_track, init_weights
from tests.support.quick_track import quick

TRACK = "tests.support.quick_track:quick"
LAST = 20
golden_small = golden_track()
wide = replace(quick, name="wide", model=replace(quick.model, vocab_size=3136))
half = replace(quick, name="half", dtype="bfloat16", needs_gpu=True)


def perturbed_model(dtype=torch.float32, config=quick.model):
    """Every weight away from where it starts, `embed` away from the head."""
    torch.set_num_threads(1)
    model = GPT(config, dtype, "cpu")
    init_weights(model, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_((0.05 * torch.randn(parameter.shape, generator=generator)).to(dtype))
    return model


def state_dict(world_size=8, **changes):
    """Names -> tensors, `scalars` padded as by `world_size` ranks."""
    return {
        name: tensor.clone() for name, tensor in perturbed_model().state_dict_reference(world_size).items()
    } | changes
