"""matrices x, symmetric addend -> beta addend + alpha x x^T, of which only one triangle is computed (Triton).

With x = addend = A, itself symmetric, this is the polynomial b A + c A^2 of Polar Express.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK, BLOCK_K = 128, 64
LAUNCH = {"num_warps": 4, "num_stages": 3}  # of seven tried, the fastest on an H200


def symmetric_product(x: Tensor, addend: Tensor | None = None, beta: float = 0.0, alpha: float = 1.0) -> Tensor:
    """(n, M, K) of any strides -> (n, M, M), accumulated in float32, bitwise symmetric outside the diagonal blocks.

    addend: (n, M, M), contiguous. M is a multiple of BLOCK and K of BLOCK_K.
    """
    n, rows, columns = x.shape
    assert rows % BLOCK == 0 and columns % BLOCK_K == 0, f"no whole blocks in matrices of {rows} x {columns}"
    assert addend is None or addend.is_contiguous()
    out = x.new_empty(n, rows, rows)
    blocks = rows // BLOCK
    _triangle[(blocks * (blocks + 1) // 2, n)](
        x,
        out if addend is None else addend,
        out,
        *x.stride(),
        alpha,
        beta,
        rows,
        columns,
        ADDS=addend is not None,
        BLOCK=BLOCK,
        BLOCK_K=BLOCK_K,
        **LAUNCH,
    )
    return out


def fits(x: Tensor) -> bool:
    """Whether matrices of this shape are whole blocks, either way round, and of a dtype that has tensor cores."""
    short, long = sorted(x.shape[-2:])
    return x.dtype in (torch.bfloat16, torch.float16) and short % BLOCK == 0 and long % BLOCK_K == 0


@triton.jit
def _triangle(
    x,
    addend,
    out,
    stride_n,
    stride_m,
    stride_k,
    alpha,
    beta,
    rows: tl.constexpr,
    columns: tl.constexpr,
    ADDS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    tile, matrix = tl.program_id(0), tl.program_id(1).to(tl.int64)
    # Tiles row by row of the lower triangle: 0 | 1 2 | 3 4 5; a half keeps the root away from its steps.
    i = ((tl.sqrt(8.0 * tile + 1.5) - 1) / 2).to(tl.int32)
    j = tile - i * (i + 1) // 2
    row_i, row_j = i * BLOCK + tl.arange(0, BLOCK), j * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, BLOCK_K)
    x += matrix * stride_n
    left = x + row_i[:, None] * stride_m + k[None, :] * stride_k
    right = x + row_j[None, :] * stride_m + k[:, None] * stride_k
    total = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
    for _ in range(0, columns, BLOCK_K):
        total = tl.dot(tl.load(left), tl.load(right), total, input_precision="ieee")
        left += BLOCK_K * stride_k
        right += BLOCK_K * stride_k
    total *= alpha
    own = matrix * rows * rows + row_i[:, None] * rows + row_j[None, :]
    if ADDS:
        total += beta * tl.load(addend + own).to(tl.float32)
    result = total.to(out.dtype.element_ty)
    tl.store(out + own, result)
    if i != j:
        tl.store(out + matrix * rows * rows + row_j[:, None] * rows + row_i[None, :], tl.trans(result))
