"""Work of one rank of several, whose outcome all of them have: a value, or the error.

The ranks are those of torch.distributed's default group, where a process has joined one; else it is alone. A rank that
raises by itself leaves the others waiting in their next collective, so what only one rank does must end for all.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

Result = TypeVar("Result")


def rank() -> int:
    return dist.get_rank() if _together() else 0


def on_rank_0(work: Callable[[], Result]) -> Result:
    """What `work` returns on rank 0, on every rank; small, as it is sent. Raises its error there, and on the other
    ranks a RuntimeError that tells it."""
    if not _together():
        return work()
    outcome: list[Any] = [None, None]
    error: Exception | None = None
    if dist.get_rank() == 0:
        try:
            outcome[0] = work()
        except Exception as raised:
            error, outcome[1] = raised, f"{type(raised).__name__}: {raised}"
    dist.broadcast_object_list(outcome, src=0)
    if error is not None:
        raise error
    if outcome[1] is not None:
        raise RuntimeError(f"rank 0 could not go on: {outcome[1]}")
    return outcome[0]


def check_same(what: str, value: Any) -> None:
    """Raises ValueError on every rank if `value` is not equal on all of them."""
    if not _together():
        return
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    if others := [number for number, other in enumerate(values) if other != values[0]]:
        raise ValueError(f"{what} of rank {others[0]} are not those of rank 0: give every rank the same")


def _together() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
