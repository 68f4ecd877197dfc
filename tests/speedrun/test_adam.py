"""Adam against golden vectors and values computed by hand."""

import pytest
import torch
from speedrun import tracks
from speedrun.optim.adam import DistributedAdam, adam_update, rates
from torch import Tensor, nn

from tests.support import gloo
from tests.support.golden_case import golden

UNITS = golden("optimizer_small")["unit_vectors"]


def float64(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_adam_golden():
    p = m = v = None
    for case in UNITS["adam_value_embed_settings"]["updates"]:
        before = float64(case["p_before"])
        if p is None:
            p, m, v = before.clone(), torch.zeros_like(before), torch.zeros_like(before)
        adam_update(p, float64(case["g"]), m, v, *rates(case["t"], 0.008 * 75, (0.75, 0.95), 0.005 * 5), 1e-10)
        torch.testing.assert_close(m, float64(case["m_after"]), rtol=1e-13, atol=1e-20)
        torch.testing.assert_close(v, float64(case["v_after"]), rtol=1e-13, atol=1e-25)
        torch.testing.assert_close(before - p, float64(case["u_with_decay"]), rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(p, float64(case["p_after"]), rtol=1e-13, atol=1e-15)


def test_adam_by_hand():
    p, m, v = float64([1.0]), float64([0.0]), float64([0.0])
    adam_update(p, float64([0.5]), m, v, *rates(1, 0.01, (0.9, 0.99), 5.0), 1e-10)
    assert p.item() == pytest.approx(0.9895, abs=1e-10)
    adam_update(p, float64([-0.25]), m, v, *rates(2, 0.01, (0.9, 0.99), 5.0), 1e-10)
    assert p.item() == pytest.approx(0.98633826, abs=5e-9)


def test_bfloat16_tables_round_to_nearest():
    p = labelled("lm_head", torch.ones(1024, 1, dtype=torch.bfloat16))
    optimizer = DistributedAdam([p], tracks.small.optimizer)
    p.grad = torch.ones_like(p)
    optimizer.step(0.25)  # u = 0.002 + decay: 0.998 is nearer to 1 - 2^-8 = 0.99609375 than to 1
    assert (p == 0.99609375).all()
    p.grad = torch.ones_like(p)
    optimizer.step(0.1)  # u = 0.0008: back to where it was
    assert (p == 0.99609375).all()


def test_moments_in_the_parameters_precision():
    """Gradients of 0.5 at a rate of 1/16: m = 0.2 g, 0.36 g; v = 0.05 g^2, 0.0975 g^2; a weight moves by the rate."""
    p = labelled("value_embed", torch.ones(1024, 1, dtype=torch.bfloat16))
    optimizer = DistributedAdam([p], tracks.medium.optimizer)
    state = optimizer.states[p]
    for step, (m, v, value) in enumerate([(0.1, 0.0125, 0.9375), (0.18, 0.024375, 0.875)]):
        p.grad = torch.full_like(p, 0.5)
        optimizer.step(0.0625 / (0.004 * 75))
        assert state.t == step + 1
        assert (state.m.dtype, state.v.dtype) == (torch.bfloat16, torch.bfloat16)
        assert (state.m == torch.tensor(m).bfloat16()).all()
        assert (state.v == torch.tensor(v).bfloat16()).all()
        assert (p == value).all()


def labelled(label: str, values: Tensor) -> nn.Parameter:
    parameter = nn.Parameter(values)
    parameter.label = label
    return parameter


def test_rows_that_do_not_split_are_named():
    assert gloo.run(refuses_uneven_rows, 2) == [True, True]


def refuses_uneven_rows(process_group) -> bool:
    with pytest.raises(ValueError, match=r"1025 rows of lm_head do not split over 2 ranks"):
        DistributedAdam([labelled("lm_head", torch.zeros(1025, 1))], tracks.small.optimizer, process_group)
    return True
