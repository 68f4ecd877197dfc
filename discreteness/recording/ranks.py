"""Work of one rank of several, whose outcome all of them have: a value, or the error.

The ranks are those of torch.distributed's default group, where a process has joined one; else it is alone. A rank that
raises by itself leaves the others waiting in their next collective, so what only one rank does must end for all.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

Result = TypeVar("Result")


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
            error, outcome[1] = raised, _words(raised)
    dist.broadcast_object_list(outcome, src=0)
    if error is not None:
        raise error
    if outcome[1] is not None:
        raise RuntimeError(f"rank 0 could not go on: {outcome[1]}")
    return outcome[0]


def same_on_all(what: str, work: Callable[[], Result], told: Callable[[Result], Any]) -> Result:
    """What `work` returns on this rank, if no rank failed and what is `told` of it is equal on all; else every rank
    raises: its own error, a RuntimeError that tells that of another, or ValueError."""
    if not _together():
        return work()
    outcomes: list[Any] = [None] * dist.get_world_size()
    try:
        result = work()
    except Exception as error:
        dist.all_gather_object(outcomes, (_words(error), None))
        raise
    dist.all_gather_object(outcomes, (None, told(result)))
    for number, (failure, other) in enumerate(outcomes):
        if failure:
            raise RuntimeError(f"rank {number} could not go on: {failure}")
        if other != outcomes[0][1]:
            raise ValueError(f"{what} of rank {number} are not those of rank 0: give every rank the same")
    return result


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _together() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
