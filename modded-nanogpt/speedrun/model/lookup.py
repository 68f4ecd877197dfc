"""ids + table -> rows, with a gradient that is the same to the bit each time.

Shape legend: T tokens, D width, V rows of the table. The usual gradient of a lookup on a GPU adds the tokens of a
row in whatever order they arrive; here the tokens come sorted, and each row is summed in a fixed order, in float32.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speedrun.kernels.operators import operator


def _rows(table: Tensor, ids: Tensor, order: Tensor | None) -> Tensor:
    """Rows `ids` (T,) of `table` (V, D) -> (T, D), dtype of the table.

    order: (T,) int64, the stable permutation that sorts `ids`; None: found when a gradient is asked for.
    """
    return F.embedding(ids, table)


def _gradient(grad: Tensor, ids: Tensor, order: Tensor | None, rows: int) -> Tensor:
    """Gradient (T, D) of the rows looked up -> that of the table, (rows, D) in the same dtype."""
    if grad.is_cuda:
        from speedrun.kernels.lookup import sum_by_id  # needs Triton, which a machine without GPU may lack

        order = ids.argsort(stable=True) if order is None else order
        return sum_by_id(grad.contiguous(), ids, order, rows)
    exact = grad.to(torch.promote_types(grad.dtype, torch.float32))
    summed: Tensor = torch.ops.aten.embedding_dense_backward(exact, ids.long(), rows, -1, False)
    return summed.to(grad.dtype)


lookup = operator(
    "lookup",
    _rows,
    lambda table, ids, order: table.new_empty(len(ids), table.shape[1]),
    "(Tensor table, Tensor ids, Tensor? order) -> Tensor",
)
lookup_gradient = operator(
    "lookup_gradient",
    _gradient,
    lambda grad, ids, order, rows: grad.new_empty(rows, grad.shape[1]),
    "(Tensor grad, Tensor ids, Tensor? order, int rows) -> Tensor",
)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    table, ids, order = inputs
    ctx.save_for_backward(ids, order)
    ctx.rows = len(table)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return lookup_gradient(grad, *ctx.saved_tensors, ctx.rows), None, None


torch.library.register_autograd("speedrun::lookup", _backward, setup_context=_keep)
