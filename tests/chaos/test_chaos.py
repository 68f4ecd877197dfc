"""The checker of the fault campaign sees every kind of damage that it is to see."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.chaos.checker import check
from tests.support.dataset_case import STEPS, commit, create


@pytest.fixture
def pair(tmp_path):
    """A dataset of seeds 0 to 2 and its faultless twin."""
    for name in ("set", "truth"):
        dataset = create(tmp_path / name)
        for seed in range(3):
            commit(dataset, seed)
    return tmp_path / "set", tmp_path / "truth"


def rewrite(path, change):
    """The file again, its table changed."""
    table = change(pq.ParquetFile(path).read())
    pq.write_table(table, path)


def test_a_whole_dataset_has_no_problems(pair):
    assert check(pair[0], range(3), pair[1]) == []


def replaced(table, name, values):
    field = table.schema.field(name)
    return table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))


def swapped_bit(table):
    losses = table["losses"].to_pylist()
    losses[5][0] = float(np.nextafter(np.float32(losses[5][0]), np.float32(np.inf)))
    return replaced(table, "losses", losses)


def two_attempts(table):
    return replaced(table, "attempt", ["two"] + ["one"] * (len(table) - 1))


def short_document(table):
    losses = table["losses"].to_pylist()
    return replaced(table, "losses", [losses[0][:-1], *losses[1:]])


def not_finite(table):
    losses = table["losses"].to_pylist()
    return replaced(table, "losses", [[float("nan"), *losses[0][1:]], *losses[1:]])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda table: table.slice(1), "(1, 0, 0) is missing"),
        (lambda table: pa.concat_tables([table, table.slice(3, 1)]), "(1, 20, 0) is there 2 times"),
        (swapped_bit, "(1, 1, 1) differs from the faultless run"),
        (two_attempts, "seed 1 mixes attempts ['one', 'two']"),
        (short_document, "(1, 0, 0) has 2 losses of 3"),
        (not_finite, "(1, 0, 0) has a loss that is not finite"),
    ],
)
def test_the_checker_sees(pair, change, problem):
    rewrite(pair[0] / "losses" / "seed=00001.parquet", change)
    assert problem in check(pair[0], range(3), pair[1])


def test_the_checker_sees_missing_and_foreign_seeds(pair):
    path, truth = pair
    assert f"(3, {STEPS[0]}, 0) is missing" in check(path, range(4), truth)
    assert f"(2, {STEPS[0]}, 0) is not planned" in check(path, range(2), truth)
