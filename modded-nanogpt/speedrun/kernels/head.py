"""head outputs -> losses and gradients in one pass over each row; matrices -> 8-bit numbers and their transposes.

Triton kernels; imported where they run. Shape legend: T tokens, V classes, n targets per token.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from speedrun.kernels.softcap import SOFTCAP, SOFTCAP_SHIFT, SOFTCAP_WIDTH

ROW_BLOCK, ROW_WARPS = 2048, 8  # of the vocabulary at a time: one load of 16 bytes a thread
TILE, TILE_WARPS = 128, 8  # square tiles, whose rows and columns both fill whole cache lines

LOG2_E = math.log2(math.e)
# 2 ** (z RATE + OFFSET) = exp(-(z + shift) / width); 2 ** (gate HEIGHT) = exp(softcap gate)
RATE, OFFSET = tl.constexpr(-LOG2_E / SOFTCAP_WIDTH), tl.constexpr(-LOG2_E * SOFTCAP_SHIFT / SOFTCAP_WIDTH)
HEIGHT = tl.constexpr(LOG2_E * SOFTCAP)
CAP = tl.constexpr(SOFTCAP)


def softcap_losses(z: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """z (T, V), targets (T, n) with -1 for none, weights (n,) -> weighted cross-entropy of each row, (T,) float32."""
    losses = torch.empty(len(z), dtype=torch.float32, device=z.device)
    _launch_rows(z, targets, weights, losses, losses, 0.0, False)
    return losses


def softcap_gradient(z: Tensor, targets: Tensor, weights: Tensor, losses: Tensor, grad: Tensor, unit: float) -> None:
    """Writes `losses` as above and `grad` (T, V), the gradient of their sum for z in units of `unit`.

    grad: of any float dtype; it saturates. It may be z itself.
    """
    assert grad.shape == z.shape
    _launch_rows(z, targets, weights, losses, grad, unit, True)


def _launch_rows(
    z: Tensor, targets: Tensor, weights: Tensor, losses: Tensor, grad: Tensor, unit: float, with_grad: bool
) -> None:
    assert z.is_contiguous() and grad.is_contiguous() and losses.is_contiguous() and weights.is_contiguous()
    num_rows, num_ahead = targets.shape
    _softcap_rows[(num_rows,)](
        z,
        targets,
        weights,
        losses,
        grad,
        z.shape[1],
        *targets.stride(),
        SOFTCAP / SOFTCAP_WIDTH / unit if with_grad else 0.0,
        torch.finfo(grad.dtype).max,
        NUM_AHEAD=num_ahead,
        AHEAD_BLOCK=triton.next_power_of_2(num_ahead),
        WITH_GRAD=with_grad,
        BLOCK=ROW_BLOCK,
        num_warps=ROW_WARPS,
    )


def quantised(x: Tensor, unit: float) -> tuple[Tensor, Tensor]:
    """x (R, C) -> x / unit in e4m3, saturated, and its transpose (C, R)."""
    q = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    q_t = torch.empty(x.shape[::-1], dtype=q.dtype, device=x.device)
    _quantise[_tiles(x)](x, q, q_t, *x.shape, 1 / unit, torch.finfo(q.dtype).max, TILE=TILE, num_warps=TILE_WARPS)
    return q, q_t


def transposed(x: Tensor) -> Tensor:
    """8-bit x (R, C) -> its transpose, contiguous (C, R)."""
    x_t = torch.empty(x.shape[::-1], dtype=x.dtype, device=x.device)
    _transpose[_tiles(x)](x.view(torch.uint8), x_t.view(torch.uint8), *x.shape, TILE=TILE, num_warps=TILE_WARPS)
    return x_t


def _tiles(x: Tensor) -> tuple[int, int]:
    assert x.is_contiguous()
    return triton.cdiv(x.shape[0], TILE), triton.cdiv(x.shape[1], TILE)


@triton.jit
def _gate(z):
    return 1 / (1 + tl.exp2(z * RATE + OFFSET))


@triton.jit
def _softcap_rows(
    z_ptr,
    targets_ptr,
    weights_ptr,
    losses_ptr,
    grad_ptr,
    num_classes,
    targets_stride_t,
    targets_stride_n,
    grad_factor,
    grad_limit,
    NUM_AHEAD: tl.constexpr,
    AHEAD_BLOCK: tl.constexpr,
    WITH_GRAD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program per row: it sums the exponentials, then reads the row again, which the second-level cache still has.

    No maximum is subtracted: logits lie in (0, SOFTCAP). The target classes are written a second time at the end,
    which spares every other class the comparison.
    """
    row = tl.program_id(0).to(tl.int64)
    z_ptr += row * num_classes
    grad_ptr += row * num_classes

    ahead = tl.arange(0, AHEAD_BLOCK)
    targets = tl.load(targets_ptr + row * targets_stride_t + ahead * targets_stride_n, ahead < NUM_AHEAD, other=-1)
    exists = targets >= 0
    weights = tl.load(weights_ptr + ahead, exists, other=0.0).to(tl.float32)
    target_gates = _gate(tl.load(z_ptr + targets, exists, other=0.0).to(tl.float32))

    sums = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, num_classes, BLOCK):
        classes = start + tl.arange(0, BLOCK)
        inside = classes < num_classes
        gate = _gate(tl.load(z_ptr + classes, inside, other=0.0).to(tl.float32))
        sums += tl.where(inside, tl.exp2(gate * HEIGHT), 0.0)
    total = tl.sum(sums)
    tl.store(losses_ptr + row, tl.sum(weights * (tl.log(total) - CAP * target_gates)))

    if WITH_GRAD:
        tl.debug_barrier()  # the gradient may replace z, of which every thread has now read the targets'
        exp_factor = tl.sum(weights) / total
        for start in range(0, num_classes, BLOCK):
            classes = start + tl.arange(0, BLOCK)
            inside = classes < num_classes
            gate = _gate(tl.load(z_ptr + classes, inside, other=0.0).to(tl.float32))
            grad = tl.exp2(gate * HEIGHT) * exp_factor * (gate - gate * gate) * grad_factor
            tl.store(grad_ptr + classes, _saturated(grad, grad_limit).to(grad_ptr.dtype.element_ty), inside)
        tl.debug_barrier()  # the targets' classes are written above, by other threads
        # A class that is the target of several k: each writes the same number, less all their weights.
        same = targets[:, None] == targets[None, :]
        class_weights = tl.sum(tl.where(same, weights[None, :], 0.0), 1)
        grad = tl.exp2(target_gates * HEIGHT) * exp_factor - class_weights
        grad = grad * (target_gates - target_gates * target_gates) * grad_factor
        tl.store(grad_ptr + targets, _saturated(grad, grad_limit).to(grad_ptr.dtype.element_ty), exists)


@triton.jit
def _saturated(x, limit):
    return tl.clamp(x, -limit, limit, propagate_nan=tl.PropagateNan.ALL)  # a NaN must stay visible


@triton.jit
def _quantise(x_ptr, q_ptr, q_t_ptr, num_rows, num_columns, factor, limit, TILE: tl.constexpr):
    offsets, offsets_t, inside = _tile(num_rows, num_columns, TILE)
    x = tl.load(x_ptr + offsets, inside, other=0.0).to(tl.float32)
    q = _saturated(x * factor, limit).to(q_ptr.dtype.element_ty)
    tl.store(q_ptr + offsets, q, inside)
    tl.store(q_t_ptr + offsets_t, tl.trans(q), tl.trans(inside))


@triton.jit
def _transpose(x_ptr, x_t_ptr, num_rows, num_columns, TILE: tl.constexpr):
    offsets, offsets_t, inside = _tile(num_rows, num_columns, TILE)
    tl.store(x_t_ptr + offsets_t, tl.trans(tl.load(x_ptr + offsets, inside, other=0)), tl.trans(inside))


@triton.jit
def _tile(num_rows, num_columns, TILE: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    columns = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = (rows < num_rows)[:, None] & (columns < num_columns)[None, :]
    offsets = rows[:, None] * num_columns + columns[None, :]
    offsets_t = columns[:, None] * num_rows + rows[None, :]
    return offsets, offsets_t, inside
