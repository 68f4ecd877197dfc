"""Polar Express against golden vectors and values computed by hand."""

import math

import numpy as np
import pytest
import torch
from speedrun.optim.polar_express import polar_express
from torch import Tensor

from tests.support.golden_case import golden

UNITS = golden("optimizer_small")["unit_vectors"]


def float64(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("case", UNITS["polar_express"], ids=lambda case: "x".join(map(str, case["shape"])))
def test_polar_express_golden(case):
    stack = torch.stack([float64(case["input"]), 1000 * float64(case["input"])])
    outputs = polar_express(stack, torch.float64)
    torch.testing.assert_close(outputs[0], float64(case["output"]), rtol=0, atol=1e-12)
    # Each matrix of a stack has its own norm (the 1e-6 beside it is not scaled along).
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-4)
    singular = torch.linalg.svdvals(outputs[0]).tolist()
    np.testing.assert_allclose(singular, case["singular_values_of_output"], atol=1e-12)


@pytest.mark.parametrize(("singular", "final"), [(0.001, 0.858873), (0.01, 1.027110), (0.1, 1.059161), (0.5, 0.910611)])
def test_polar_express_of_one_singular_value(singular, final):
    # Normalising divides by 1.02 ||U||_F: the second diagonal entry fills the norm up to 1 / 1.02.
    rest = math.sqrt(1 / 1.02**2 - singular**2)
    output = polar_express(float64([[[singular, 0.0], [0.0, rest]]]) * 1e6, torch.float64)[0]
    assert output[0, 0].item() == pytest.approx(final, abs=2e-6)
    assert abs(output[0, 1].item()) < 1e-12


@pytest.mark.parametrize(("size", "final"), [(768, 1.052745), (1024, 0.998147)])
def test_polar_express_of_identity(size, final):
    output = polar_express(torch.eye(size)[None] * 1e3, torch.float32)[0]
    torch.testing.assert_close(output, final * torch.eye(size), rtol=0, atol=2e-5)


def test_polar_express_in_bfloat16_is_near_float32():
    u = torch.randn(1, 768, 768, generator=torch.Generator().manual_seed(0))
    exact, rounded = polar_express(u, torch.float32), polar_express(u, torch.bfloat16)
    assert exact.norm().item() == pytest.approx(27.8, abs=0.15)
    assert rounded.dtype == torch.bfloat16
    assert 0.005 < ((rounded - exact).norm() / exact.norm()).item() < 0.02


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(2, 8, 4), (2, 4, 4), (2, 4, 8)])
def test_polar_express_of_zero_is_zero(dtype, shape):
    assert (polar_express(torch.zeros(shape), dtype) == torch.zeros(shape, dtype=dtype)).all()


@pytest.mark.parametrize("shape", [(3, 12, 5), (3, 5, 12)])
def test_tall_matrices_are_transposed_wide_ones(shape):
    u = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    output = polar_express(u, torch.float64)
    assert output.is_contiguous()
    torch.testing.assert_close(polar_express(u.mT, torch.float64), output.mT, rtol=0, atol=1e-12)
    left, _, right = torch.linalg.svd(u, full_matrices=False)
    assert (output - left @ right).norm() < 0.15 * output.norm()
