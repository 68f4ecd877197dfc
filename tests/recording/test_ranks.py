"""Several ranks record together: one curve, written by rank 0, and errors that all of them have."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import discreteness
from discreteness.recording import ranks
from tests.support import gloo
from tests.support.own_loop import PLAN, recorder, start, texts, train


def told(action):
    """What an action raises, as bytes of a tensor; empty if nothing."""
    try:
        action()
    except Exception as error:
        return torch.frombuffer(bytearray(f"{type(error).__name__}: {error}".encode()), dtype=torch.uint8)
    return torch.empty(0, dtype=torch.uint8)


def record_together(process_group, folder):
    """A training on two ranks, and what each is told of what goes wrong on the way."""
    folder, rank = Path(folder), dist.get_rank(process_group)
    model, optimizer = start()
    parallel = DistributedDataParallel(model)
    rows = recorder(folder)
    other_seed = told(lambda: recorder(folder, seed=rank))
    storage = rows._experiment.storage
    write = storage.write
    storage.write = full_disk
    no_space = told(lambda: rows.record(0, parallel))
    storage.write = write
    train(parallel, optimizer, rows)
    (folder / f"{rank}.txt").write_text(repr(rows.state_dict()))
    rows.commit()
    return other_seed, no_space, told(lambda: recorder(folder)), torch.get_rng_state()


def full_disk(name, content, durable=True):
    raise OSError(28, "No space left on device")


def test_two_ranks_record_one_curve(tmp_path):
    (tmp_path / "alone").mkdir()
    texts(tmp_path / "texts")
    (other0, space0, there0, _), (other1, space1, there1, _) = gloo.run(record_together, 2, str(tmp_path))

    def text(one):
        return bytes(one.tolist()).decode()

    assert (
        text(other0)
        == text(other1)
        == ("ValueError: the arguments of rank 1 are not those of rank 0: give every rank the same")
    )
    assert text(space0) == "OSError: [Errno 28] No space left on device"
    assert text(space1) == "RuntimeError: rank 0 could not go on: OSError: [Errno 28] No space left on device"
    assert text(there0).startswith("ValueError: seed 0 is committed in ")
    assert text(there1).startswith("RuntimeError: rank 0 could not go on: ValueError: seed 0 is committed in ")
    assert (tmp_path / "0.txt").read_text() == (tmp_path / "1.txt").read_text()

    # Both ranks drew the same tokens, so their mean gradient is that of one process.
    rows, (model, optimizer) = recorder(tmp_path / "alone"), start()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(model, optimizer, rows)
    torch.set_num_threads(threads)
    rows.commit()
    together, alone = (discreteness.open(folder / "set").seed(0) for folder in (tmp_path, tmp_path / "alone"))
    assert together.shape == (len(PLAN), alone.shape[1])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


def test_a_process_alone_asks_nobody():
    assert ranks.on_rank_0(lambda: 3) == 3
    assert ranks.same_on_all("the arguments", lambda: 4, str) == 4
    with pytest.raises(KeyError):
        ranks.on_rank_0(lambda: {}[0])
