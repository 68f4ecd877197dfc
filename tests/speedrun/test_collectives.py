"""Means and gathers over ranks, and the helper that runs ranks in tests."""

import pytest
import torch
from speedrun.optim.collectives import Ranks
from torch import Tensor

from tests.support import gloo


def all_operations(process_group, dtype: str) -> dict[str, Tensor]:
    ranks = Ranks(process_group)
    whole = torch.arange(16.0).view(8, 2).to(getattr(torch, dtype)) * (ranks.rank + 1)
    small = [
        torch.full((2, 3), float(ranks.rank)),
        torch.ones(5, dtype=torch.bfloat16),
        torch.tensor(2.0 * ranks.rank),
    ]
    gathered = torch.full((8, 2), -1.0)
    ranks.rows(gathered).fill_(ranks.rank)
    assert ranks.gather_rows(gathered).wait() is gathered
    means = ranks.mean(small).wait()
    return {"rows": ranks.mean_rows(whole).wait(), "whole": whole, "gathered": gathered} | dict(
        zip("abc", means, strict=True)
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks(world_size, dtype):
    results = gloo.run(all_operations, world_size, dtype)
    counting = torch.arange(16.0).view(8, 2)
    share = 8 // world_size
    mean_rank = (world_size - 1) / 2
    for rank, result in enumerate(results):
        assert result["rows"].dtype == getattr(torch, dtype)
        assert result["rows"].tolist() == ((mean_rank + 1) * counting[rank * share : (rank + 1) * share]).tolist()
        assert result["whole"].tolist() == ((rank + 1) * counting).tolist()  # the gradient itself is kept
        assert result["gathered"][:, 0].tolist() == [row // share for row in range(8)]
        assert (result["a"] == mean_rank).all() and result["a"].shape == (2, 3)
        assert (result["b"] == 1).all() and result["b"].dtype == torch.bfloat16
        assert result["c"].item() == 2 * mean_rank


def test_one_rank_copies_nothing():
    ranks, whole = Ranks(None), torch.ones(3, 2)
    assert ranks.mean_rows(whole).wait() is whole and ranks.mean([whole]).wait()[0] is whole
    ranks.gather_rows(whole).wait()
    assert ranks.rows(whole).data_ptr() == whole.data_ptr() and (whole == 1).all()


def raises_on_rank_1(process_group) -> Tensor:
    if process_group.rank() == 1:
        raise ValueError("rank 1 has a reason")
    result = torch.ones(1)
    torch.distributed.all_reduce(result, group=process_group)
    return result


def test_a_failing_rank_ends_all():
    with pytest.raises(AssertionError, match="rank 1 has a reason"):
        gloo.run(raises_on_rank_1, 2)


def waits(process_group) -> None:
    if process_group.rank() == 1:
        while True:
            pass


def test_a_rank_at_work_too_long_is_named():
    with pytest.raises(AssertionError, match=r"ranks .*1.* of 2 were at work after 3 s"):
        gloo.run(waits, 2, timeout_s=3)
