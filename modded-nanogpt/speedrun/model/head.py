"""hidden states + head weights + targets -> training loss, or the loss of every token.

Shape legend: T tokens, D model width, V classes (rows of the head), n targets per token.

Logits are 50,304 numbers per token, so the head is bound by memory as much as by arithmetic. On a GPU in bfloat16 it
therefore works slice by slice. The forward pass computes logits, losses, the logits' gradient and from it the gradients
of hidden states and weights, which is possible because they only scale with the gradient that comes from above. No
(T, V) tensor outlives its slice. Everywhere else the plain path runs, which is also the definition.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speedrun.kernels.softcap import SOFTCAP, SOFTCAP_WIDTH, softcap_gate

X_SCALE, W_SCALE, G_SCALE = 100 / 448, 1.6 / 448, 0.75 / 448  # of the record: units of 8-bit x, weights, gradients
SLICE_TOKENS = 16384  # 1.6 GB of bfloat16 logits; fewer slices mean fewer additions to the weights' gradient


def head_loss(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, fp8: bool) -> Tensor:
    """Sum over tokens and k of weights[k] x cross-entropy of targets[:, k]; 0-dim, at least float32.

    hidden: (T, D). weight: (V, D). targets: (T, n), -1 where there is none. weights: (n,). fp8: products of 8-bit
    numbers with fixed scales (Hopper, bfloat16 only; T, D and V are multiples of 16); the plain path ignores it.
    The 8-bit gradient has a fixed scale too, so a factor of the loss (one over the micro-batches) belongs in `weights`.
    """
    if _has_kernels(hidden):
        loss, _, _ = head_loss_and_gradients(hidden, weight, targets, weights, fp8)
        return loss
    return SoftcapLoss.apply(F.linear(hidden, weight), targets, weights)


@torch.no_grad()
def token_losses(hidden: Tensor, weight: Tensor, targets: Tensor, slice_tokens: int) -> Tensor:
    """Cross-entropy in nats of each target, (T,) in at least float32; zero where the target is -1.

    hidden: (T, D). weight: (V, D). targets: (T,). The head sees `slice_tokens` tokens at a time.
    """
    slices = zip(hidden.split(slice_tokens), targets.split(slice_tokens), strict=True)
    if not _has_kernels(hidden):
        return torch.cat([_plain_losses(F.linear(rows, weight), ids) for rows, ids in slices])
    from speedrun.kernels.head import softcap_losses

    one = torch.ones(1, device=hidden.device)
    return torch.cat([softcap_losses(F.linear(rows, weight), ids.unsqueeze(1), one) for rows, ids in slices])


def _has_kernels(hidden: Tensor) -> bool:
    return hidden.is_cuda and hidden.dtype == torch.bfloat16


def _plain_losses(z: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(SOFTCAP * softcap_gate(z), targets, ignore_index=-1, reduction="none")


class SoftcapLoss(torch.autograd.Function):
    """Head output (T, V), targets (T, n), weights (n,) or (T, n) -> weighted sum of the capped cross-entropies.

    The derivative is written out because passes over (T, V) are most of a small model's step on a CPU.
    No maximum is subtracted: logits lie in (0, SOFTCAP), whose exponentials float32 holds.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        weights, targets = weights * (targets >= 0), targets.clamp(min=0)
        gate = softcap_gate(z)
        exps = (SOFTCAP * gate).exp_()
        total = exps.sum(-1, keepdim=True)
        ctx.save_for_backward(gate, exps, total, targets, weights)
        ctx.z_dtype = z.dtype
        return (weights * (total.log() - SOFTCAP * gate.gather(-1, targets))).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        gate, exps, total, targets, weights = ctx.saved_tensors
        grad = exps * (weights.sum(-1, keepdim=True) / total)
        grad.scatter_add_(-1, targets, -weights.to(grad.dtype))
        grad.mul_(gate).addcmul_(grad, gate, value=-1)  # gate (1 - gate) is the sigmoid's slope
        return grad.mul_(grads[0] * (SOFTCAP / SOFTCAP_WIDTH)).to(ctx.z_dtype), None, None


@torch.library.custom_op("speedrun::head_loss", mutates_args=())
def head_loss_and_gradients(
    hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, fp8: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The arguments of `head_loss` -> loss (float32), its gradients for `hidden` and `weight` (in their dtypes)."""
    slice_gradients = _Slices8(weight) if fp8 else _Slices16(weight)
    losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
    hidden_grad = torch.empty_like(hidden)
    weight_grad: Tensor | None = None  # float32, to add up the slices
    slices = (x.split(SLICE_TOKENS) for x in (hidden, targets, losses, hidden_grad))
    for rows, ids, rows_losses, rows_grad in zip(*slices, strict=True):
        part = slice_gradients(rows, ids, weights, rows_losses, rows_grad)
        weight_grad = part if weight_grad is None else weight_grad.add_(part)
    assert weight_grad is not None
    return losses.sum(), hidden_grad, weight_grad.to(weight.dtype)


@head_loss_and_gradients.register_fake
def _(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, fp8: bool) -> tuple[Tensor, Tensor, Tensor]:
    return hidden.new_empty((), dtype=torch.float32), torch.empty_like(hidden), torch.empty_like(weight)


def _save_gradients(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)  # nothing comes for the gradients: no zeros of their size
    ctx.save_for_backward(*output[1:])


def _scale_gradients(ctx: Any, grad: Tensor, *_: None) -> tuple[Tensor, Tensor, None, None, None]:
    hidden_grad, weight_grad = ctx.saved_tensors
    return hidden_grad * grad, weight_grad * grad, None, None, None


head_loss_and_gradients.register_autograd(_scale_gradients, setup_context=_save_gradients)


class _Slices16:
    """One slice's losses and gradients with products in the dtype of the weights, sums in float32."""

    def __init__(self, weight: Tensor):
        self.weight = weight

    def __call__(self, x: Tensor, targets: Tensor, weights: Tensor, losses: Tensor, x_grad: Tensor) -> Tensor:
        """x: (T, D). Writes `losses` (T,) and `x_grad` (T, D); returns the weights' gradient (V, D) in float32."""
        from speedrun.kernels.head import softcap_gradient

        z = x @ self.weight.t()
        softcap_gradient(z, targets, weights, losses, grad=z, unit=1.0)
        torch.mm(z, self.weight, out=x_grad)
        # On a CPU this runs in Triton's interpreter only, in float32, and `out_dtype` is not to be had.
        return torch.mm(z.t(), x, out_dtype=torch.float32) if x.is_cuda else z.t() @ x


class _Slices8:
    """The same with products of 8-bit numbers: x and weights in e4m3, gradients in e5m2 (arXiv 2209.05433).

    The tensor cores want both factors of an 8-bit product contiguous along the summed axis: each number is
    kept, or written once more, transposed.
    """

    def __init__(self, weight: Tensor):
        from speedrun.kernels.head import quantised

        self.weight, self.weight_t = quantised(weight, W_SCALE)
        # Filled on the device: a copy from the host would wait for it.
        self.x_unit, self.w_unit, self.g_unit = (
            torch.full((), scale, dtype=torch.float32, device=weight.device) for scale in (X_SCALE, W_SCALE, G_SCALE)
        )

    def __call__(self, x: Tensor, targets: Tensor, weights: Tensor, losses: Tensor, x_grad: Tensor) -> Tensor:
        """As of `_Slices16`."""
        from speedrun.kernels.head import quantised, softcap_gradient, transposed

        x8, x8_t = quantised(x, X_SCALE)
        z = torch._scaled_mm(
            x8, self.weight.t(), self.x_unit, self.w_unit, out_dtype=torch.bfloat16, use_fast_accum=True
        )
        g = torch.empty_like(z, dtype=torch.float8_e5m2)
        softcap_gradient(z, targets, weights, losses, grad=g, unit=G_SCALE)
        torch._scaled_mm(g, self.weight_t.t(), self.g_unit, self.w_unit, out_dtype=x.dtype, out=x_grad)
        return torch._scaled_mm(transposed(g), x8_t.t(), self.g_unit, self.x_unit, out_dtype=torch.float32)
