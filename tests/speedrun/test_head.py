"""The head: plain path against float64 autograd, operator under the compiler, kernels in Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from speedrun.kernels.softcap import SOFTCAP, softcap_gate
from speedrun.model import head
from speedrun.model.head import SoftcapLoss, head_loss, head_loss_and_gradients, token_losses
from torch._dynamo.testing import CompileCounterWithBackend

from tests.support import skips

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason=skips.GPU)


def cross_entropies(z, targets):
    """The definition, (T, n), in float64; zero where there is no target."""
    log_p = (23 * torch.sigmoid((z.double() + 5) / 7.5)).log_softmax(-1)
    return torch.stack(
        [F.nll_loss(log_p, column, ignore_index=-1, reduction="none") for column in targets.unbind(1)], 1
    )


def reference(hidden, weight, targets, weights):
    """Loss and both gradients in float64."""
    x, w = hidden.double().detach().requires_grad_(), weight.double().detach().requires_grad_()
    loss = (cross_entropies(x @ w.t(), targets) * weights.double()).sum()
    return loss.detach(), *torch.autograd.grad(loss, (x, w))


def inputs(num_tokens=48, width=16, num_classes=80, ahead=3, dtype=torch.float64, seed=0, device="cpu"):
    """Random, with a token that has one target three times and some without targets."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_tokens, width, generator=generator)
    weight = torch.randn(num_classes, width, generator=generator) * 4 / width**0.5
    targets = torch.randint(0, num_classes, (num_tokens, ahead), generator=generator)
    targets[1] = num_classes - 1
    targets[2] = -1
    for k in range(1, ahead):
        targets[num_tokens - k :, k] = -1
    weights = torch.tensor([1.0, 0.5, 0.25])[:ahead]
    return hidden.to(device, dtype), weight.to(device, dtype), targets.to(device), weights.to(device)


def error(actual, expected):
    return ((actual.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("ahead", [1, 2, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_loss_and_gradients_equal_float64_autograd(ahead, dtype, tolerance):
    hidden, weight, targets, weights = inputs(ahead=ahead, dtype=dtype)
    expected = reference(hidden, weight, targets, weights)
    hidden.requires_grad_(), weight.requires_grad_()
    loss = head_loss(hidden, weight, targets, weights, False)
    assert loss.dtype == dtype and loss.shape == ()
    (2 * loss).backward()
    assert error(loss, expected[0]) < tolerance
    assert error(hidden.grad / 2, expected[1]) < tolerance
    assert error(weight.grad / 2, expected[2]) < tolerance


def test_bfloat16_on_a_cpu_takes_the_plain_path():
    hidden, weight, targets, weights = inputs(dtype=torch.bfloat16)
    loss = head_loss(hidden, weight, targets, weights, True)
    assert loss.dtype == torch.float32
    assert error(loss, reference(hidden, weight, targets, weights)[0]) < 1e-2


def test_softcap_loss_passes_gradcheck():
    generator = torch.Generator().manual_seed(0)
    z = (8 * torch.randn(6, 9, dtype=torch.float64, generator=generator)).requires_grad_()
    targets = torch.randint(0, 9, (6, 3), generator=generator)
    targets[0] = 4  # the same target three times: its gradients add
    targets[1], targets[2, 1:] = -1, -1
    for weights in (torch.rand(3, dtype=torch.float64), torch.rand(6, 3, dtype=torch.float64)):
        assert torch.autograd.gradcheck(lambda x, w=weights: SoftcapLoss.apply(x, targets, w), z)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.booleans(), min_size=6, max_size=6), st.integers(0, 1000))
def test_a_missing_target_adds_nothing(missing, seed):
    hidden, weight, targets, weights = inputs(num_tokens=6, ahead=1, seed=seed)
    targets = torch.where(torch.tensor(missing).unsqueeze(1), -1, targets.clamp(min=0))
    hidden.requires_grad_()
    loss = head_loss(hidden, weight, targets, weights, False)
    loss.backward()
    kept = ~torch.tensor(missing)
    expected = cross_entropies(hidden[kept] @ weight.t(), targets[kept]).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    assert not hidden.grad[~kept].any()


def test_softcap_values():
    """Of SPEEDRUN.md 13."""
    z = torch.tensor([-30.0, -5, 0, 2.5, 5, 10, 30], dtype=torch.float64)
    expected = [0.79224, 11.5, 15.197396, 16.814347, 18.202004, 20.258333, 22.785733]
    torch.testing.assert_close(SOFTCAP * softcap_gate(z), torch.tensor(expected).double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("slice_tokens", [1, 7, 48, 100])
def test_token_losses_do_not_depend_on_the_slices(slice_tokens):
    hidden, weight, targets, _ = inputs()
    losses = token_losses(hidden.requires_grad_(), weight, targets[:, 0], slice_tokens)
    assert not losses.requires_grad
    torch.testing.assert_close(
        losses, cross_entropies(hidden @ weight.t(), targets)[:, 0].detach(), rtol=1e-12, atol=1e-12
    )
    assert losses[2] == 0


def test_a_nan_stays_visible():
    hidden, weight, targets, weights = inputs()
    hidden[5, 3] = float("nan")
    assert head_loss(hidden, weight, targets, weights, False).isnan()


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's compiler does
def test_the_plain_path_compiles_to_one_graph():
    hidden, weight, targets, weights = inputs(dtype=torch.float32)
    hidden.requires_grad_()
    torch.compiler.reset()
    compiled = torch.compile(lambda w: head_loss(hidden, weight, targets, w, True), backend="aot_eager", fullgraph=True)
    for factor in (1.0, 0.5):
        eager, graph = (f(factor * weights) for f in (lambda w: head_loss(hidden, weight, targets, w, True), compiled))
        torch.testing.assert_close(graph, eager)
        torch.testing.assert_close(*(torch.autograd.grad(loss, hidden)[0] for loss in (graph, eager)))


def test_the_operator_has_shapes_without_its_kernels():
    """What the compiler asks of it, forward and backward."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=False):
        hidden = torch.empty(32, 16, dtype=torch.bfloat16, device="meta", requires_grad=True)
        weight = torch.empty(64, 16, dtype=torch.bfloat16, device="meta", requires_grad=True)
        targets, weights = torch.empty(32, 3, dtype=torch.int64, device="meta"), torch.empty(3, device="meta")
        loss, _, _ = head_loss_and_gradients(hidden, weight, targets, weights, True)
        assert loss.shape == () and loss.dtype == torch.float32
        for x, grad in zip((hidden, weight), torch.autograd.grad(loss, (hidden, weight)), strict=True):
            assert grad.shape == x.shape and grad.dtype == torch.bfloat16


def interpreted():
    """Runs in a process with TRITON_INTERPRET=1: the kernels on a CPU.

    In float32: the interpreter rounds bfloat16 towards zero, and its 8-bit conversion loses carries and NaN.
    """
    from speedrun.kernels import head as head_kernels

    head_kernels.ROW_BLOCK, head_kernels.TILE, head.SLICE_TOKENS = 64, 32, 6
    for ahead in (1, 2, 3):
        arguments = inputs(16, ahead=ahead, dtype=torch.float32)
        expected = reference(*arguments)
        hidden, weight, targets, weights = arguments
        hidden.requires_grad_(), weight.requires_grad_()
        loss, hidden_grad, weight_grad = head_loss_and_gradients(*arguments, False)
        for actual, right in zip((loss, hidden_grad, weight_grad), expected, strict=True):
            assert error(actual, right) < 3e-6, (ahead, error(actual, right))
        (3 * loss).backward()
        assert error(hidden.grad, 3 * expected[1]) < 3e-6 and error(weight.grad, 3 * expected[2]) < 3e-6

        z = (hidden @ weight.t()).detach()
        losses = head_kernels.softcap_losses(z, targets, weights)
        assert error(losses, (cross_entropies(z, targets) * weights).sum(1)) < 1e-6
        assert losses[2] == 0
        grad = torch.full_like(z, float("nan"))
        head_kernels.softcap_gradient(z, targets, 1e38 * weights, losses, grad, 1e-3)
        assert grad.isfinite().all() and grad.abs().max() == torch.finfo(torch.float32).max

        hidden, targets = hidden.detach()[4:8], targets[4:8]
        hidden[1, 3] = float("nan")
        assert head_loss_and_gradients(hidden, weight, targets, weights, False)[0].isnan()

    exact = torch.tensor([0.0, 1, -1.5, 448, -448, 0.25, 1e4, -1e4]).repeat(50 * 5).view(50, 40)
    q, q_t = head_kernels.quantised(exact * 2, 2.0)
    assert torch.equal(q.float(), exact.clamp(-448, 448)) and torch.equal(q_t.float(), q.float().t())
    codes = torch.randint(0, 256, (50, 70), dtype=torch.uint8)
    assert torch.equal(head_kernels.transposed(codes), codes.t())

    head.SLICE_TOKENS = 16
    arguments = inputs(32, dtype=torch.float32)
    for actual, right in zip(head_loss_and_gradients(*arguments, True), reference(*arguments), strict=True):
        assert error(actual, right) < 0.3, error(actual, right)  # the right scales; the numbers: on a GPU

    hidden, weight, targets, weights = arguments = inputs(8, dtype=torch.float32)
    hidden.requires_grad_(), weight.requires_grad_()
    checks = "test_schema", "test_autograd_registration", "test_faketensor"
    torch.library.opcheck(head_loss_and_gradients, (*arguments, False), test_utils=checks)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        lambda x, k: head_loss_and_gradients(2 * x, weight, targets, k, False)[0],
        backend=counter,
        fullgraph=True,
        dynamic=False,
    )
    for factor in (1.0, 0.25):
        loss, right = compiled(hidden, factor * weights), reference(2 * hidden, weight, targets, factor * weights)
        hidden_grad, weight_grad = torch.autograd.grad(3 * loss, (hidden, weight))
        assert error(loss, right[0]) < 3e-6
        assert error(hidden_grad, 6 * right[1]) < 3e-6 and error(weight_grad, 3 * right[2]) < 3e-6
    assert counter.frame_count == 1


def test_the_kernels_in_the_interpreter():
    pytest.importorskip("triton", reason=skips.TRITON)
    folders = Path(__file__).parent, *sys.path
    environment = {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(map(str, folders)), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-c", "import test_head; test_head.interpreted()"],
        env={**os.environ, **environment},
        check=True,
        timeout=600,
    )


@gpu
@pytest.mark.parametrize(("fp8", "tolerance"), [(False, 1e-2), (True, 6e-2)])
def test_the_kernels_on_a_gpu(fp8, tolerance):
    arguments = inputs(num_tokens=320, width=128, num_classes=1024, dtype=torch.bfloat16, device="cuda")
    arguments[1].mul_(0.1)  # within the scale of 8-bit weights
    first, second = (head_loss_and_gradients(*arguments, fp8) for _ in range(2))
    for actual, again, right in zip(first, second, reference(*arguments), strict=True):
        assert error(actual, right) < tolerance
        assert torch.equal(actual, again)


@gpu
def test_token_losses_on_a_gpu():
    hidden, weight, targets, _ = inputs(
        num_tokens=320, width=128, num_classes=1000, dtype=torch.bfloat16, device="cuda"
    )
    right = cross_entropies(hidden.double() @ weight.double().t(), targets)[:, 0]
    assert error(token_losses(hidden, weight, targets[:, 0], 64), right) < 5e-3
