"""What an attempt has produced, whatever the order in which it came."""

import itertools

import numpy as np
import pytest

from discreteness.dataset.attempt_rows import AttemptRows
from tests.support.dataset_case import STEPS, create, losses


def filled(order=STEPS):
    curve = AttemptRows()
    for step in order:
        curve.add_losses(step, losses(3, (step,))[0])
        curve.add_records([{"step": step, "train_loss": 10.0 - step, "train_s": 2.0 * step}])
    return curve


def test_rows_are_in_the_order_of_steps_whatever_order_they_came_in():
    for order in itertools.permutations(STEPS):
        steps, rows = filled(order).arrays()
        assert (steps.dtype, rows.dtype) == (np.int32, np.float32)
        assert steps.tolist() == list(STEPS)
        assert np.array_equal(rows, losses(3))


def test_the_newest_loss_and_the_longest_time_are_those_of_the_last_step_and_not_of_the_last_message():
    for order in itertools.permutations(STEPS):
        curve = filled(order)
        curve.add_records([{"step": 25, "val_loss": 1.0}])
        assert (curve.train_loss(), curve.train_s()) == (-10.0, 40.0)
    assert (AttemptRows().train_loss(), AttemptRows().train_s()) == (None, None)


def test_values_of_one_step_are_merged():
    curve = filled()
    curve.add_records([{"step": 5, "val_loss": 3.5}])
    assert curve.records[5] == {"step": 5, "train_loss": 5.0, "train_s": 10.0, "val_loss": 3.5}
    assert curve.validated() == {5}


def test_what_is_committed_and_its_size(tmp_path):
    dataset = create(tmp_path / "set")
    curve = filled(reversed(STEPS))
    curve.add_records([{"step": 3, "train_loss": 7.0}])
    num_bytes = curve.commit(dataset, 3, "one")
    committed = dataset.committed()[3]
    files = [tmp_path / "set" / path for path in (committed.path, committed.runs_path)]
    assert num_bytes == sum(path.stat().st_size for path in files)
    again = filled()
    del again.losses[5]
    with pytest.raises(ValueError, match="steps missing 5"):
        again.commit(dataset, 4, "one")
