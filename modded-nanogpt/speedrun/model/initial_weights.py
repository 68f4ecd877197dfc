"""seed -> the initial weights of a model, on the host, drawn in the order of the record's trainer."""

import torch
from torch import Tensor

from speedrun.tracks import ModelConfig

SMEAR_INIT, BACKOUT_INIT, SKIP_INIT = 0.0, 0.5, -1.5
QKV_INIT, O_INIT = 0.5, 1.0
HEAD_STD = 0.005


def draw_weights(config: ModelConfig, dtype: torch.dtype, seed: int, pin: bool = False) -> dict[str, Tensor]:
    """Parameter name -> values of those that do not start at zero; `qkvo_w` without its output rows.

    About five V x D normals on one core: 1.3 s for the small track, so the next seed's are drawn ahead. pin: in
    page-locked memory, from where they reach a GPU without a wait.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(std: float) -> Tensor:
        return torch.empty(config.vocab_size, config.model_dim).normal_(0, std, generator=generator)

    matrix_dtype = torch.promote_types(dtype, torch.float32) if config.float32_matrices else dtype

    def uniform(rows: int, bound: float) -> Tensor:
        return torch.empty(rows, config.model_dim, dtype=matrix_dtype).uniform_(-bound, bound, generator=generator)

    weights = {}
    for _ in range(config.num_value_embeds):
        normal(1.0)  # the record draws the value tables, then starts them from zero
    bound = (3 / config.model_dim) ** 0.5
    for layer in range(config.num_layers):
        if layer in config.attention_layers:
            weights[f"blocks.{layer}.attn.qkvo_w"] = uniform(3 * config.model_dim, bound)
        weights[f"blocks.{layer}.mlp.c_fc"] = uniform(4 * config.model_dim, bound / 2)
    weights["lm_head.weight"] = normal(HEAD_STD).to(dtype)
    # `embed`, which the record draws here, starts as a copy of the head: see GPT.tie.
    if config.second_embedding:
        normal(1.0)
        weights["embed2.weight"] = normal(1.0).to(dtype)
    per_layer = [config.residual_init] * config.num_layers + [QKV_INIT, O_INIT] * config.num_layers
    scalars = [*per_layer, SMEAR_INIT, BACKOUT_INIT, *[SKIP_INIT] * len(config.skips)]
    weights["scalars"] = torch.tensor(scalars)
    return {name: value.pin_memory() for name, value in weights.items()} if pin else weights
