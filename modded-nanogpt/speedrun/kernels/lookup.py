"""gradients of tokens, sorted by id -> their sum for every id, by Triton kernels without atomics.

Token frequencies follow Zipf's law: of 65,536 tokens the commonest id takes some 3,000, most ids none. One program that
summed such a run would take longer than all others together, so a run of more than BLOCK tokens is summed in two
passes: pieces, one for each aligned block of BLOCK sorted tokens, then their total. A run that long holds the first or
the last token of each block that it meets, so a block has at most two pieces.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 64
UNROLL = tl.constexpr(8)  # tokens whose loads are in flight at once


def sum_by_id(values: Tensor, ids: Tensor, order: Tensor, num_ids: int) -> Tensor:
    """Sums of the rows of `values` (T, D) with the same id, (num_ids, D); float32 sums, dtype of `values`.

    order: (T,) sorts `ids`, stable: with it the order of every sum is fixed.
    """
    num_tokens, width = values.shape
    sums = values.new_empty(num_ids, width)
    if num_tokens == 0:
        return sums.zero_()
    sorted_ids = ids[order]
    borders = torch.searchsorted(
        sorted_ids, torch.arange(num_ids + 1, device=ids.device, dtype=ids.dtype), out_int32=True
    )
    num_blocks = triton.cdiv(num_tokens, BLOCK)
    pieces = torch.empty(num_blocks, 2, width, dtype=torch.float32, device=values.device)
    columns = triton.next_power_of_2(width)
    _sum_pieces[(num_blocks, 2)](
        values, order, sorted_ids, borders, pieces, num_tokens, width, BLOCK=BLOCK, COLUMNS=columns
    )
    _sum_runs[(num_ids,)](values, order, borders, pieces, sums, width, BLOCK=BLOCK, COLUMNS=columns)
    return sums


@triton.jit
def _sum_tokens(values, order, start, end, width, COLUMNS: tl.constexpr):
    column = tl.arange(0, COLUMNS)
    total = tl.zeros((COLUMNS,), tl.float32)
    for first in range(start, end, UNROLL):
        place = first + tl.arange(0, UNROLL)
        inside = place < end
        token = tl.load(order + place, mask=inside, other=0).to(tl.int64)
        mask = inside[:, None] & (column < width)[None, :]
        rows = tl.load(values + token[:, None] * width + column[None, :], mask=mask, other=0.0)
        total += tl.sum(rows.to(tl.float32), 0)
    return total


@triton.jit
def _sum_pieces(
    values, order, sorted_ids, borders, pieces, num_tokens, width, BLOCK: tl.constexpr, COLUMNS: tl.constexpr
):
    """Of one block: piece 0 is of the run that holds its first token, piece 1 of a later run that holds its last."""
    block, piece = tl.program_id(0), tl.program_id(1)
    first = block * BLOCK
    end = tl.minimum(first + BLOCK, num_tokens)
    held = tl.load(sorted_ids + tl.where(piece == 0, first, end - 1))
    run, run_end = tl.load(borders + held), tl.load(borders + held + 1)
    if (run_end - run > BLOCK) & ((piece == 0) | (run > first)):
        total = _sum_tokens(values, order, tl.maximum(run, first), tl.minimum(run_end, end), width, COLUMNS)
        column = tl.arange(0, COLUMNS)
        tl.store(pieces + (2 * block + piece) * width + column, total, mask=column < width)


@triton.jit
def _sum_runs(values, order, borders, pieces, sums, width, BLOCK: tl.constexpr, COLUMNS: tl.constexpr):
    """Of one id: over its tokens where these are few (an id without any gets zeros), else over its pieces."""
    held = tl.program_id(0)
    run, run_end = tl.load(borders + held), tl.load(borders + held + 1)
    column = tl.arange(0, COLUMNS)
    if run_end - run <= BLOCK:
        total = _sum_tokens(values, order, run, run_end, width, COLUMNS)
    else:
        total = tl.zeros((COLUMNS,), tl.float32)
        first, last = run // BLOCK, (run_end - 1) // BLOCK
        for near in range(first, last + 1, UNROLL):
            block = near + tl.arange(0, UNROLL)
            piece = 2 * block + (run > block * BLOCK).to(tl.int32)
            mask = (block <= last)[:, None] & (column < width)[None, :]
            total += tl.sum(tl.load(pieces + piece[:, None] * width + column[None, :], mask=mask, other=0.0), 0)
    place = held.to(tl.int64) * width + column
    tl.store(sums + place, total.to(sums.dtype.element_ty), mask=column < width)
