"""tensors of each rank -> their mean, whole or in rows; rows of each rank -> the whole.

gloo, nccl and a single process take the same path. Means are a sum in the tensors' own dtype and then a
division, which is exact for world sizes 1, 2, 4 and 8 and so equals nccl's own average.
"""

import torch
import torch.distributed as dist
from torch import Tensor

# torch 2.13 renamed both and warns about the old names, which 2.11 and 2.12 know alone.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class Ranks:
    """The processes of `group`, which train one model; None is this process alone.

    Rows are equal shares of a contiguous tensor's first axis, whose length is a multiple of the world size.
    """

    def __init__(self, group: dist.ProcessGroup | None):
        self.group = group
        self.rank = dist.get_rank(group) if group else 0
        self.size = dist.get_world_size(group) if group else 1

    def rows(self, whole: Tensor) -> Tensor:
        """View of this rank's rows of `whole`."""
        return whole.chunk(self.size)[self.rank]

    def mean_rows(self, whole: Tensor) -> Tensor:
        """This rank's rows of the mean of `whole` over ranks; `whole` itself when there is one rank."""
        if self.size == 1:
            return whole
        rows = torch.empty_like(self.rows(whole))
        _reduce_scatter(rows, whole, group=self.group)
        return rows.div_(self.size)

    def mean(self, tensors: list[Tensor]) -> list[Tensor]:
        """Means of small tensors over ranks, new ones when there are several; one message a dtype."""
        if self.size == 1:
            return tensors
        means: dict[int, Tensor] = {}
        for dtype in sorted({tensor.dtype for tensor in tensors}, key=str):
            chosen = [i for i, tensor in enumerate(tensors) if tensor.dtype == dtype]
            flat = torch.cat([tensors[i].flatten() for i in chosen])
            dist.all_reduce(flat, group=self.group)
            parts = flat.div_(self.size).split([tensors[i].numel() for i in chosen])
            means |= {i: part.view_as(tensors[i]) for i, part in zip(chosen, parts, strict=True)}
        return [means[i] for i in range(len(tensors))]

    def gather_rows(self, whole: Tensor) -> None:
        """Fill `whole` with the rows that each rank holds in its place."""
        if self.size > 1:
            _all_gather(whole, self.rows(whole), group=self.group)
