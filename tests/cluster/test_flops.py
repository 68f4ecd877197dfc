"""Operations of a token by hand and by the model's own parameters."""

import pytest
import torch
from speedrun.model.gpt import GPT
from speedrun.tracks import medium, small, tiny

from discreteness.cluster.flops import flop_per_token


def test_the_small_track_by_hand():
    # 768 wide: 10 layers with attention (4 x 768 x 768; 2 of them see far), 11 with an MLP (8 x 768 x 768), a head.
    matrices = 10 * 4 * 768 * 768 + 11 * 8 * 768 * 768 + 50304 * 768
    assert flop_per_token(small.model, 128, 384) == 6 * matrices + 12 * 768 * (8 * 129 + 2 * 385)


@pytest.mark.parametrize("recipe", [tiny, small, medium], ids=lambda recipe: recipe.name)
def test_matrix_operations_are_six_for_each_weight_that_a_token_meets(recipe):
    model = GPT(recipe.model, torch.float32, "meta")
    width = recipe.model.model_dim
    met = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if "embed" not in name and parameter.ndim >= 2 and min(parameter.shape[-2:]) >= width
    )
    without_keys = flop_per_token(recipe.model, -1, -1)
    assert without_keys == pytest.approx(6 * met, rel=1e-3)
