"""Collectives: means over the ranks, whole or in rows, and rows gathered from the ranks, all while other work goes on.

- gloo, nccl and a single process take the same path.
- A mean is a sum in the tensors' own dtype followed by a division, which is exact for world sizes 1, 2, 4 and 8 and so
  equals nccl's own average.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

# torch 2.13 renamed both and warns about the old names, which 2.11 and 2.12 know alone.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor

Result = TypeVar("Result")


class Collective(Generic[Result]):
    """One operation that all ranks start in the same order, and whose result `wait` gives.

    Between the two its tensors must not be touched: gloo works on them in a thread, nccl on its own stream. That stream
    waits for what was launched before `start`, and what is launched after `wait` waits for that stream; the process
    itself is never held up by nccl. The object holds the tensors, so that their memory is not reused.
    """

    def __init__(self, launch: Callable[[], list[dist.Work]], finish: Callable[[], Result]):
        self._launch, self._finish = launch, finish
        self._works: list[dist.Work] | None = None

    def start(self) -> "Collective[Result]":
        if self._works is None:
            self._works = self._launch()
        return self

    def wait(self) -> Result:
        """To be called once; starts what was not started."""
        for work in self.start()._works or ():
            work.wait()
        return self._finish()


class Ranks:
    """The processes of `process_group`, which train one model; None is this process alone.

    Rows are equal shares of a contiguous tensor's first axis, whose length is a multiple of the world size.
    """

    def __init__(self, process_group: dist.ProcessGroup | None):
        self.process_group = process_group
        self.rank = dist.get_rank(process_group) if process_group else 0
        self.size = dist.get_world_size(process_group) if process_group else 1

    def rows(self, whole: Tensor) -> Tensor:
        """View of this rank's rows of `whole`."""
        return whole.chunk(self.size)[self.rank]

    def mean_rows(self, whole: Tensor) -> Collective[Tensor]:
        """This rank's rows of the mean of `whole` over ranks; `whole` itself when there is one rank."""
        if self.size == 1:
            return Collective(list, lambda: whole)
        rows = torch.empty_like(self.rows(whole))
        return Collective(
            lambda: [_reduce_scatter(rows, whole, group=self.process_group, async_op=True)],
            lambda: rows.div_(self.size),
        )

    def mean(self, tensors: list[Tensor]) -> Collective[list[Tensor]]:
        """Means of small tensors over ranks, new ones if there are several ranks; one message per dtype."""
        if self.size == 1:
            return Collective(list, lambda: tensors)
        dtypes = sorted({tensor.dtype for tensor in tensors}, key=str)
        of_dtype = [[i for i, tensor in enumerate(tensors) if tensor.dtype == dtype] for dtype in dtypes]
        flats = [torch.cat([tensors[i].flatten() for i in chosen]) for chosen in of_dtype]

        def means() -> list[Tensor]:
            result = list(tensors)
            for chosen, flat in zip(of_dtype, flats, strict=True):
                parts = flat.div_(self.size).split([tensors[i].numel() for i in chosen])
                for i, part in zip(chosen, parts, strict=True):
                    result[i] = part.view_as(tensors[i])
            return result

        return Collective(
            lambda: [dist.all_reduce(flat, group=self.process_group, async_op=True) for flat in flats], means
        )

    def gather_rows(self, whole: Tensor) -> Collective[Tensor]:
        """`whole`, filled with the rows that each rank holds in its place."""
        if self.size == 1:
            return Collective(list, lambda: whole)
        return Collective(
            lambda: [_all_gather(whole, self.rows(whole), group=self.process_group, async_op=True)], lambda: whole
        )
