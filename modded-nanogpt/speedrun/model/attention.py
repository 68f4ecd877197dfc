"""queries, keys, values of packed documents -> causal attention within each document and window.

Three backends: torch's own flash kernels and FlashAttention-3 (flash_attention.py), and for everything else (CPU,
float32, float64) a plain reference: blocks of queries, each with the band of keys that it can reach.

All are opaque operators that read window, scale and longest document when they run, from 0-dim tensors on the CPU:
reading those waits for no GPU, and a compiled graph serves every value of them.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speedrun.kernels.flash_attention import flash_attention
from speedrun.kernels.operators import operator

# Queries of one reference block: enough to keep the matrix products busy, few enough to waste little.
MIN_BLOCK, MAX_BLOCK = 64, 512


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: Tensor,
    window: Tensor,
    scale: Tensor,
    backend: str,
    deterministic: bool,
) -> Tensor:
    """Position p attends the keys in [p - window, p] of its own document: window + 1 keys, itself included.

    q, k, v: (T, H, d), one dtype. cu_seqlens: (B+1,) int32 from 0 to T; equal neighbours are empty documents.
    max_seqlen: no document is longer. scale: factor of q.k before the softmax. These two and window are 0-dim
    tensors on the CPU. backend: of `resolve_backend`. deterministic: gradients repeat to the bit. Returns (T, H, d),
    differentiable once in q, k and v.
    """
    if backend == "reference":
        return reference_attention(q, k, v, cu_seqlens, max_seqlen, window, scale)
    return flash_attention(q, k, v, cu_seqlens, max_seqlen, window, scale, backend, deterministic)[0]


def _forward(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: Tensor, window: Tensor, scale: Tensor
) -> Tensor:
    return banded_attention(q, k, v, cu_seqlens, reach(window, max_seqlen), float(scale))


def _backward(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: Tensor, window: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return banded_attention_backward(dy, q, k, v, cu_seqlens, reach(window, max_seqlen), float(scale))


reference_attention = operator("reference_attention", _forward, lambda q, *_: q.new_empty(q.shape))
reference_attention_backward = operator(
    "reference_attention_backward",
    _backward,
    lambda dy, q, k, v, *_: (q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)),
)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    return *reference_attention_backward(dy, *ctx.saved_tensors), None, None, None, None


torch.library.register_autograd("speedrun::reference_attention", _differentiate, setup_context=_save)


def reach(window: Tensor, max_seqlen: Tensor) -> int:
    """A window beyond the longest document shows nothing more, and would only widen the bands."""
    return min(int(window), int(max_seqlen) - 1)


def banded_attention(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, window: int, scale: float) -> Tensor:
    """The reference: blocks of queries against bands of window + block keys; memory O(T (window + block))."""
    block = block_length(window)
    queries, keys, values = to_blocks(q, block), to_bands(k, block, window), to_bands(v, block, window)
    mask = band_mask(cu_seqlens, len(queries), block, window)
    y = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scale)
    return from_blocks(y, q)


def banded_attention_backward(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, window: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """dy -> gradients of q, k, v. Written out, since autograd cannot record inside an operator."""
    block = block_length(window)
    wide = torch.promote_types(q.dtype, torch.float32)
    queries, d_rows = (to_blocks(x.to(wide), block) for x in (q, dy))
    keys, values = (to_bands(x.to(wide), block, window) for x in (k, v))
    mask = band_mask(cu_seqlens, len(queries), block, window)
    weights = (queries @ keys.mT).mul_(scale).masked_fill_(~mask, float("-inf")).softmax(-1)
    d_weights = d_rows @ values.mT
    # Of the softmax; the sum over a row's keys of weight * d_weight.
    d_scores = weights * (d_weights - (weights * d_weights).sum(-1, keepdim=True)) * scale
    return (
        from_blocks(d_scores @ keys, q),
        from_bands(d_scores.mT @ queries, k, block, window),
        from_bands(weights.mT @ d_rows, v, block, window),
    )


def block_length(window: int) -> int:
    return min(max(window, MIN_BLOCK), MAX_BLOCK)


def to_blocks(x: Tensor, block: int) -> Tensor:
    """(T, H, d) -> (blocks, H, block, d), the last block filled with zeros."""
    return F.pad(x, (0, 0, 0, 0, 0, -len(x) % block)).unflatten(0, (-1, block)).transpose(1, 2)


def from_blocks(blocks: Tensor, like: Tensor) -> Tensor:
    return blocks.transpose(1, 2).flatten(0, 1)[: len(like)].to(like.dtype).contiguous()


def to_bands(x: Tensor, block: int, window: int) -> Tensor:
    """(T, H, d) -> (blocks, H, window + block, d): each block and the window before it, overlapping views."""
    padded = F.pad(x, (0, 0, 0, 0, window, -len(x) % block))
    return padded.unfold(0, window + block, block).transpose(2, 3)


def from_bands(bands: Tensor, like: Tensor, block: int, window: int) -> Tensor:
    """The gradient of `to_bands`: what overlaps is added, in a fixed order."""
    padded = [window + len(bands) * block, *like.shape[1:]]
    total = torch.ops.aten.unfold_backward(bands.transpose(2, 3), padded, 0, window + block, block)
    return total[window : window + len(like)].to(like.dtype).contiguous()


def band_mask(cu_seqlens: Tensor, num_blocks: int, block: int, window: int) -> Tensor:
    """(blocks, 1, block, band) bool: which keys of its band a query may see.

    Queries past the end, which fill the last block, see only themselves: no row of the softmax is empty.
    """
    query = torch.arange(num_blocks * block, device=cu_seqlens.device, dtype=torch.int32)
    document_start = cu_seqlens[torch.searchsorted(cu_seqlens, query, right=True) - 1]
    first = torch.maximum(document_start, query - window).view(num_blocks, 1, block, 1)
    query = query.view(num_blocks, 1, block, 1)
    band = torch.arange(window + block, device=cu_seqlens.device, dtype=torch.int32) - window
    key = query[:, :, :1] + band
    return (first <= key) & (key <= query)
