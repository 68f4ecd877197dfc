"""queries, keys, values of packed documents -> causal attention within each document and window.

On a GPU in half precision this is torch's variable-length flash attention; everywhere else (CPU, float32,
float64) a plain reference: blocks of queries, each with the band of keys that it can reach.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

# Queries of one reference block: enough to keep the matrix products busy, few enough to waste little.
MIN_BLOCK, MAX_BLOCK = 64, 512


def attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int, window: int, scale: float
) -> Tensor:
    """Position p attends the keys in [p - window, p] of its own document: window + 1 keys, itself included.

    q, k, v: (T, H, d), one dtype. cu_seqlens: (B+1,) int32 from 0 to T; equal neighbours are empty documents.
    max_seqlen: no document is longer. scale: factor of q.k before the softmax. Returns (T, H, d).
    """
    if q.is_cuda and q.dtype in (torch.bfloat16, torch.float16):
        y = varlen_attn(q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, scale=scale, window_size=(window, 0))
        assert isinstance(y, Tensor)  # a tuple only where more is asked for
        return y
    return banded_attention(q, k, v, cu_seqlens, min(window, max_seqlen - 1), scale)


def banded_attention(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, window: int, scale: float) -> Tensor:
    """The reference: blocks of queries against bands of window + block keys; memory O(T (window + block))."""
    num_tokens = q.shape[0]
    block = min(max(window, MIN_BLOCK), MAX_BLOCK)
    num_blocks = -(-num_tokens // block)
    tail = num_blocks * block - num_tokens

    # (T, H, d) -> (blocks, H, block or band, d); the bands are overlapping views of the padded keys.
    queries = F.pad(q, (0, 0, 0, 0, 0, tail)).unflatten(0, (num_blocks, block)).transpose(1, 2)
    keys, values = (
        F.pad(x, (0, 0, 0, 0, window, tail)).unfold(0, window + block, block).transpose(2, 3) for x in (k, v)
    )
    mask = band_mask(cu_seqlens, num_blocks, block, window)
    y = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scale)
    return y.transpose(1, 2).flatten(0, 1)[:num_tokens]


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
